"""Quality: the number v of a sample that its margins depend on, given or from the length of its embedding."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from mpmath import mp, mpf

from support.exact.numbers import Vector

Smooth = Callable[[mpf], mpf]


def real(number: Fraction) -> mpf:
    """A rational number at the working precision."""
    return mpf(number.numerator) / number.denominator


def side(x: Vector, bound: Fraction) -> int:
    """Whether the length of x is below (-1), at or above (1) a bound: squares are compared, as rational numbers."""
    if bound < 0:
        return 1
    square = x.square * Fraction(4) ** x.exponent
    return (square > bound**2) - (square < bound**2)


class Held:
    """A length a held between two bounds. At a bound the length still moves."""

    def __init__(self, x: Vector, low: Fraction, high: Fraction):
        self.x = x
        self.bound = low if side(x, low) < 0 else high if side(x, high) > 0 else None

    def side(self, bound: Fraction) -> int:
        """Whether a is below, at or above another bound."""
        if self.bound is None:
            return side(self.x, bound)
        return (self.bound > bound) - (self.bound < bound)

    def of(self, length: mpf) -> mpf:
        """A of a length, on the side of the bounds where x is."""
        return length if self.bound is None else real(self.bound)


class Quality(NamedTuple):
    """V of a sample as a function of the length, what it adds to m2 and m3, and what its loss has added for the length.

    Both functions are smooth: the side of every bound is chosen.
    """

    v: Smooth
    on_angle: Fraction = Fraction(0)
    on_cosine: Fraction = Fraction(0)
    constant: bool = True
    """Whether a moving length leaves v as it is."""
    parts: tuple[Smooth, ...] = ()
    """a/u_a^2 and 1/a, of which the sum is added."""
    steepness: Fraction = Fraction(0)
    """How much the margins change with a length, at most."""

    def term(self, length: mpf) -> mpf:
        return mp.fsum(part(length) for part in self.parts)

    def term_size(self, length: mpf) -> mpf:
        """The size of what its slope is added up from; 0 where the length is held."""
        return mp.fsum(abs(mp.diff(part, length)) for part in self.parts)


NO_QUALITY = Quality(lambda length: mpf(0))
GIVEN = {"ArcFace": (1, 0), "CombinedMargin": (1, 0), "CosFace": (0, 1), "AMSoftmax": (0, 1)}


def quality_of(loss: Any, x: Vector, given: mpf | None) -> Quality:
    """V of a sample of a loss: with a margin given it is that, in the place of the setting."""
    name = type(loss).__name__
    if given is not None:
        return Quality(lambda length: given, *map(Fraction, GIVEN[name]))
    match name:
        case "AdaFace":
            return adaface(x, *map(Fraction, (loss.m, loss.h, loss.mean, loss.std, loss.eps)))
        case "MagFace":
            return magface(x, *map(Fraction, (loss.l_a, loss.u_a, loss.l_m, loss.u_m)))
        case _:
            return NO_QUALITY


def adaface(x: Vector, m: Fraction, h: Fraction, mean: Fraction, std: Fraction, eps: Fraction) -> Quality:
    """v = clip(h (a - mean) / (std + eps), -1, 1); m2 = -m v, m3 = m + m v. v counts as a constant."""
    held, width = Held(x, Fraction(1e-3), Fraction(100)), std + eps
    if h and held.side(mean + width / h) > 0:
        v = lambda length: mpf(1)  # noqa: E731
    elif h and held.side(mean - width / h) < 0:
        v = lambda length: mpf(-1)  # noqa: E731
    else:
        v = lambda length: real(h) * (held.of(length) - real(mean)) / real(width)  # noqa: E731
    return Quality(v, -m, m)


def magface(x: Vector, l_a: Fraction, u_a: Fraction, l_m: Fraction, u_m: Fraction) -> Quality:
    """v = (a - l_a) / (u_a - l_a); m2 = l_m + (u_m - l_m) v."""
    held = Held(x, l_a, u_a)

    def v(length: mpf) -> mpf:
        return (held.of(length) - real(l_a)) / real(u_a - l_a)

    parts = (lambda length: held.of(length) / real(u_a) ** 2), (lambda length: 1 / held.of(length))
    steepness = (u_m - l_m) / (u_a - l_a) if held.bound is None else Fraction(0)
    return Quality(v, u_m - l_m, constant=False, parts=parts, steepness=steepness)
