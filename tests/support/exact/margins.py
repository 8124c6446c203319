"""Margins: psi(theta) on each side of its boundaries, and the logits of a sample as it or a class moves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from mpmath import mp, mpf

from support.exact.numbers import GUARD, NAN, Array, Moved, Reals, Vector, angle_of, cosine_of, exact, filled, settle
from support.untraced import untraced

Branch = Callable[[mpf], mpf]  # psi as a function of theta, one side of every boundary chosen


class Curve(NamedTuple):
    """What makes theta into the target's logit: scale * psi(theta); scale None is the feature norm."""

    m1: mpf
    m2: mpf
    m3: mpf
    boundary: str
    annealing: mpf
    scale: mpf | None

    @classmethod
    def of(cls, m1: Any, m2: Any, m3: Any, boundary: str, annealing: Any, scale: Any = None) -> Curve:
        first, second, third, weight = (mp.convert(float(number)) for number in (m1, m2, m3, annealing))
        return cls(first, second, third, boundary, weight, None if scale is None else mp.convert(float(scale)))


def branch_of(theta: Callable[[], mpf], c: Curve, digits: int | None = None) -> Branch:
    """The formula of psi on the side of each boundary where theta lies, a smooth function of the angle.

    psi = rule(phi) - m3 with phi = m1 theta + m2, annealed as in SphereFace. `theta()` gives the angle at the working
    precision; with `digits`, it is known to those digits only, and what agrees to them is equal.
    """
    rule = rule_of(theta, c, digits)
    if not c.annealing:
        return rule
    return lambda t: (c.annealing * mp.cos(t) + rule(t)) / (1 + c.annealing)


def rule_of(theta: Callable[[], mpf], c: Curve, digits: int | None) -> Branch:
    """The boundary rule's formula where theta lies, m3 taken off. At a boundary itself the margin still holds."""
    m1, m2, m3 = c.m1, c.m2, c.m3

    def sign(quantity: Callable[[], mpf]) -> int:
        if digits is None:
            return int(mp.sign(settle(quantity, GUARD)))
        with mp.workdps(digits + GUARD):
            result = quantity()
        return int(mp.sign(result)) if abs(result) > mpf(10) ** -digits else 0

    def exceeds(k: int) -> bool:
        """Whether phi > k pi."""
        return sign(lambda: m1 * theta() + m2 - k * mp.pi) > 0

    def margin(t: mpf) -> mpf:
        return mp.cos(m1 * t + m2) - m3

    def monotone(t: mpf, k: int) -> mpf:
        return (-1) ** (k % 2) * mp.cos(m1 * t + m2) - 2 * k - m3

    beyond: dict[str, Branch] = {
        "hard": lambda t: mp.cos(t) - m2 * mp.sin(m2) - m3,
        "keep": lambda t: mp.cos(t) - m3,
        "continuous": lambda t: mp.cos(t) - mp.cos((mp.pi - m2) / m1) - 1 - m3,
        "clamp": lambda t: -1 - m3,
    }
    match c.boundary:
        case "none":
            return margin
        case "monotone":
            nearest = int(mp.nint((m1 * theta() + m2) / mp.pi))
            return partial(monotone, k=nearest if exceeds(nearest) else nearest - 1)
        case "easy":
            return margin if sign(lambda: mp.cos(theta())) > 0 else beyond["keep"]
        case "conditional":
            return margin if sign(lambda: mp.cos(theta()) - m3) > 0 else mp.cos
        case "min":
            return margin if sign(lambda: margin(theta()) - mp.cos(theta())) <= 0 else mp.cos
        case _:
            return beyond[c.boundary] if exceeds(1) else margin


def at_each(angles: Any, function: Callable[[mpf], mpf]) -> Array:
    numbers = exact(angles)
    result = filled(numbers.shape, NAN)
    for index in np.ndindex(numbers.shape):
        result[index] = function(numbers[index])
    return result


@untraced
def psi(
    theta: Any,
    m1: float = 1,
    m2: float = 0,
    m3: float = 0,
    boundary: str = "none",
    annealing: float = 0,
    digits: int = 60,
) -> Array:
    """The target's modified cosine: rule(m1 theta + m2) - m3 and its annealing, at every angle given."""
    c = Curve.of(m1, m2, m3, boundary, annealing)

    def at(t: mpf) -> mpf:
        with mp.workdps(digits + GUARD):
            return branch_of(lambda: t, c, digits)(t)

    return at_each(theta, at)


@untraced
def psi_slope(
    theta: Any,
    m1: float = 1,
    m2: float = 0,
    m3: float = 0,
    boundary: str = "none",
    annealing: float = 0,
    digits: int = 60,
) -> Array:
    """The derivative of psi in theta, by mpmath.diff, of the formula that holds at theta."""
    c = Curve.of(m1, m2, m3, boundary, annealing)

    def at(t: mpf) -> mpf:
        with mp.workdps(digits + GUARD):
            branch = branch_of(lambda: t, c, digits)
        return settle(lambda: mp.diff(branch, t), digits)

    return at_each(theta, at)


def curve(loss: Any) -> dict[str, Any]:
    """The margin of a loss object: m1, m2, m3, boundary, annealing and scale (None: the feature norm)."""
    no_margin = {"m1": 1.0, "m2": 0.0, "m3": 0.0, "boundary": "none", "annealing": 0.0, "scale": None}
    match type(loss).__name__:
        case "ModifiedSoftmax":
            return no_margin
        case "NormFace":
            margin = {}
        case "ASoftmax" | "SphereFace":
            margin = {"m1": loss.m, "annealing": loss.annealing, "boundary": loss.boundary}
        case "CosFace" | "AMSoftmax":
            margin = {"m3": loss.m, "boundary": loss.boundary}
        case "ArcFace":
            margin = {"m2": loss.m, "boundary": loss.boundary}
        case "CombinedMargin":
            margin = {"m1": loss.m1, "m2": loss.m2, "m3": loss.m3, "boundary": loss.boundary}
        case name:
            message = f"{name} has no margin"
            raise TypeError(message)
    return no_margin | margin | {"scale": loss.s}


class TargetPair:
    """A sample and its label's class: the angle, the branch of psi, and what a step must be small against."""

    def __init__(self, x: Vector, w: Vector, c: Curve, *, detached: bool):
        self.c, self.detached = c, detached
        self.numbers = x.dot(w), x.square, w.square
        dot, square, other = self.numbers
        self.parallel = dot * dot == square * other
        self.sine = mpf(1) if self.parallel else mp.sqrt(mpf(square * other - dot * dot) / mpf(square * other))
        self.branch = branch_of(self.theta, c)

    def theta(self) -> mpf:
        return angle_of(*self.numbers)

    def slope(self, digits: int) -> mpf:
        """The derivative of psi in theta, by mpmath.diff; that of cos theta if detached; 0 for a parallel pair."""
        if self.parallel:
            return mpf(0)
        return settle(lambda: mp.diff(mp.cos if self.detached else self.branch, self.theta()), digits)


class Sample:
    """One row of a margin head at the working precision: its logits, and how they change when x or a class moves."""

    def __init__(self, x: Vector, classes: list[Vector], label: int, target: TargetPair):
        self.x, self.classes, self.label, self.target, self.c = x, classes, label, target, target.c
        self.dots = [x.dot(w) for w in classes]
        self.per_norm = [1 / mp.sqrt(mpf(w.square)) for w in classes]
        self.scale = x.norm() if self.c.scale is None else self.c.scale
        theta = target.theta()
        self.psi = target.branch(theta)
        self.constant = self.psi - mp.cos(theta)
        per_x = 1 / mp.sqrt(mpf(x.square))
        self.cosines = [dot * per_x * per_w for dot, per_w in zip(self.dots, self.per_norm, strict=True)]
        self.z = [self.scale * number for number in self.cosines]
        self.z[label] = self.scale * self.psi

    def moved_psi(self, dot: int, square: int, other: int) -> mpf:
        """The moved target pair's psi: kept where the pair is parallel, cos theta + constant if detached."""
        if self.target.parallel:
            return self.psi
        if self.target.detached:
            return cosine_of(dot, square, other) + self.constant
        return self.target.branch(angle_of(dot, square, other))

    def x_moved(self, i: int, move: Moved, sign: int) -> Reals:
        """How every logit changes when entry i of x moves."""
        square = move.square(self.x, i, sign)
        norm = mp.sqrt(mpf(square))
        scale = mp.ldexp(norm, self.x.exponent - move.shift) if self.c.scale is None else self.c.scale
        factor = scale / norm
        changes = []
        for k, w in enumerate(self.classes):
            dot = move.dot(self.dots[k], w.integers[i], sign)
            if k == self.label:
                moved = scale * self.moved_psi(dot, square, w.square)
            else:
                moved = factor * dot * self.per_norm[k]
            changes.append(moved - self.z[k])
        return changes

    def w_moved(self, k: int, i: int, move: Moved, sign: int) -> mpf:
        """How logit k changes when entry i of class k moves."""
        dot = move.dot(self.dots[k], self.x.integers[i], sign)
        square = move.square(self.classes[k], i, sign)
        at = self.moved_psi if k == self.label else cosine_of
        return self.scale * at(dot, self.x.square, square) - self.z[k]
