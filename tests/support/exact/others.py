"""What replaces the cosines of classes that are not the label's; and which of several vectors is nearest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from mpmath import mp, mpf

from support.exact.numbers import GUARD, Vector, cosine_of, settle, sine_of

Number = Callable[[], mpf]  # at the working precision


class Others:
    """The cosines as they are."""

    detached = False
    """Whether the derivative by a cosine is that of `weight` instead."""
    largest = mpf(1)
    """What |eta| and the slopes are at most."""

    def __init__(self) -> None:
        self.parallel: frozenset[int] = frozenset()
        """Classes whose angle counts, and which is 0 or pi: it is kept."""
        self.sines: dict[int, mpf] = {}
        """Of all others whose angle counts: steps have to be small against it."""

    def eta(self, k: int, c: mpf, theta: Number) -> mpf:
        """What replaces the cosine of a class."""
        return c

    def weight(self, k: int, c: mpf) -> mpf:
        """What the derivative by the cosine counts as if it is detached."""
        return mpf(1)

    def size(self, k: int, sine: mpf, theta: Number, projected: bool) -> mpf:
        """What a gradient of eta is multiplied by at most, before what is along x or the class is taken off, or after.

        The largest slope that the cosine may have, times the sine after; the slope in theta where the angle counts.
        """
        return self.largest_slope(k) * (sine if projected else 1)

    def largest_slope(self, k: int) -> mpf:
        return mpf(1)

    def slope(self, k: int, theta: Number) -> mpf:
        """The size of the derivative of eta in theta, by mpmath.diff; 0 of a parallel pair."""
        if k in self.parallel:
            return mpf(0)
        return abs(settle(lambda: mp.diff(lambda t: self.eta(k, mp.cos(t), lambda: t), theta()), GUARD))

    def by_angle(self, x: Vector, classes: Sequence[Vector], which: frozenset[int]) -> None:
        """Name the classes whose angle counts."""
        self.parallel = frozenset(k for k in which if signed_square(x, classes[k]) in (-1, 1))
        self.sines = {k: sine_of(x, classes[k]) for k in which - self.parallel}


class Hard(Others):
    """CurricularFace: c (t + c); MV-Softmax: (1 + t) c + t. Both of classes with a cosine above a threshold."""

    def __init__(self, curricular: bool, t: mpf, hard: frozenset[int]):
        super().__init__()
        self.curricular, self.t, self.hard = curricular, t, hard
        self.largest = abs(t) + 2 if curricular else 1 + t

    def eta(self, k: int, c: mpf, theta: Number) -> mpf:
        if k not in self.hard:
            return c
        return c * (self.t + c) if self.curricular else (1 + self.t) * c + self.t

    def largest_slope(self, k: int) -> mpf:
        return self.largest if k in self.hard else mpf(1)


class Circle(Others):
    """CircleLoss: (c + m) (c - m), the first factor the weight, of classes with a cosine above -m; 0 of others."""

    largest = mpf(4)

    def __init__(self, m: mpf, hard: frozenset[int], detached: bool):
        super().__init__()
        self.m, self.hard, self.detached = m, hard, detached

    def eta(self, k: int, c: mpf, theta: Number) -> mpf:
        return (c + self.m) * (c - self.m) if k in self.hard else mpf(0)

    def weight(self, k: int, c: mpf) -> mpf:
        return c + self.m if k in self.hard else mpf(0)

    def largest_slope(self, k: int) -> mpf:
        return mpf(2 * (k in self.hard))


class Divided(Others):
    """SphereFace-R, version 2: cos(theta / m) of all other classes."""

    def __init__(self, m: mpf, x: Vector, classes: Sequence[Vector], label: int, detached: bool):
        super().__init__()
        self.m, self.detached = m, detached
        self.by_angle(x, classes, frozenset(range(len(classes))) - {label})

    def eta(self, k: int, c: mpf, theta: Number) -> mpf:
        return mp.cos(theta() / self.m)

    def size(self, k: int, sine: mpf, theta: Number, projected: bool) -> mpf:
        """Before: of cosines that are not next to 1 or -1 the slope over sin theta, which its own error grows with."""
        slope = sine if self.detached else self.slope(k, theta)
        if projected or abs(mp.cos(theta())) > 1 - mpf(2) ** -7:
            return slope
        return mpf(1) if self.detached else slope / sine**2


class Nearest(Others):
    """Inter-top-k: cos(theta - m) of the k classes of the largest cosines, of equal ones the first."""

    def __init__(self, m: mpf, x: Vector, classes: Sequence[Vector], label: int, count: int):
        super().__init__()
        self.m, self.chosen = m, frozenset(nearest_classes(x, classes, label, count))
        self.by_angle(x, classes, self.chosen)

    def eta(self, k: int, c: mpf, theta: Number) -> mpf:
        return mp.cos(theta() - self.m) if k in self.chosen else c

    def size(self, k: int, sine: mpf, theta: Number, projected: bool) -> mpf:
        return self.slope(k, theta) if k in self.chosen else super().size(k, sine, theta, projected)


class Power(Others):
    """SphereFace2: 2 ((1 + c) / 2)^t - 1 + m of all other classes."""

    def __init__(self, m: mpf, t: int, x: Vector, classes: Sequence[Vector], label: int, detached: bool):
        super().__init__()
        self.m, self.t, self.detached = m, t, detached
        self.largest = max(1 + m, mpf(t))
        self.by_angle(x, classes, frozenset(range(len(classes))) - {label})

    def eta(self, k: int, c: mpf, theta: Number) -> mpf:
        return 2 * mp.cos(theta() / 2) ** (2 * self.t) - 1 + self.m

    def size(self, k: int, sine: mpf, theta: Number, projected: bool) -> mpf:
        """Before: the largest slope in the cosine, which its error is passed on with."""
        if self.detached:
            return super().size(k, sine, theta, projected)
        return self.slope(k, theta) if projected else mpf(self.t)


def others_of(loss: Any, x: Vector, classes: Sequence[Vector], label: int, threshold: Number) -> Others:
    """What a loss makes of the other classes of a sample; each class is on its side of an edge exactly.

    The threshold is that of hard classes. A cosine is compared with it in as many digits as it takes, and with a number
    or another cosine by squares, in rational numbers.
    """

    def above(w: Vector) -> bool:
        return settle(lambda: cosine_of(x.dot(w), x.square, w.square) - threshold(), GUARD) > 0

    def where(condition: Callable[[Vector], bool]) -> frozenset[int]:
        return frozenset(k for k, w in enumerate(classes) if k != label and condition(w))

    match type(loss).__name__:
        case "CurricularFace" | "MVSoftmax" as name:
            return Hard(name == "CurricularFace", mp.convert(float(loss.t)), where(above))
        case "CircleLoss":
            edge = -(Fraction(loss.m) ** 2)
            hard = where(lambda w: signed_square(x, w) > edge)
            return Circle(mp.convert(float(loss.m)), hard, loss.gradient == "detached")
        case "SphereFaceR" if loss.version == 2:
            return Divided(mp.convert(float(loss.m)), x, classes, label, loss.gradient == "detached")
        case "InterTopK":
            return Nearest(mp.convert(float(loss.penalty)), x, classes, label, loss.k)
        case "SphereFace2":
            return Power(mp.convert(float(loss.m)), loss.t, x, classes, label, loss.gradient == "detached")
        case _:
            return Others()


def signed_square(x: Vector, w: Vector) -> Fraction:
    """cos^2 with the sign of the cosine, which it grows with."""
    dot = x.dot(w)
    return Fraction(dot * abs(dot), x.square * w.square)


def nearest_classes(x: Vector, classes: Sequence[Vector], label: int, count: int) -> list[int]:
    """The classes of the largest cosines without the label's, in falling order, of equal ones the first."""
    squares = [signed_square(x, w) for w in classes]
    return sorted((k for k in range(len(classes)) if k != label), key=lambda k: -squares[k])[:count]


def nearest(x: Vector, centers: Sequence[Vector]) -> int:
    """Which center makes the smallest angle with x, the first of those that do: exactly, by integers."""
    best = 0
    for j in range(1, len(centers)):
        dot, least = x.dot(centers[j]), x.dot(centers[best])
        if dot * abs(dot) * centers[best].square > least * abs(least) * centers[j].square:
            best = j
    return best
