"""Exact decisions: what balls cannot decide, as questions about integers.

Inputs are float64, hence rational, and so is cos² θ = (x·w)²/(x·x)(w·w): whether two vectors are parallel and which
rational multiple of π their angle is, if any, are questions about integers. Cosines, and margins that depend on a
length, are rational multiples of roots of rational numbers: whether a sum of such is 0 is one, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import cache
from math import isqrt
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from refloss.engines.certified.balls import START_BITS, Arb, precision, precisions, rational
from refloss.error_free import Array

BigInts: TypeAlias = NDArray[np.object_]  # Python integers

# The stages have their own `integers`, _NIVEN and Surd, in error_free and fixed_point. This engine checks the stages,
# so it takes none from there: a mistake in a shared one would pass unnoticed.
_NIVEN = (Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(1, 6), Fraction(0))  # θ/π where 4 cos² θ = 0, ..., 4


def integers(floats: Array) -> tuple[BigInts, int]:
    """Return ``(n, e)`` with ``floats = n * 2**e`` exactly."""
    mantissa, exponent = np.frexp(floats)
    least = int(exponent[floats != 0.0].min(initial=5000))
    shift = np.where(floats != 0.0, exponent - least, 0).astype(object)
    return np.ldexp(mantissa, 53).astype(np.int64).astype(object) << shift, least - 53


class IntegerSample(NamedTuple):
    """A sample as integers times 2^exponent."""

    x: BigInts
    """x (D,)."""
    exponent: int
    """The exponent."""
    dots: list[int]
    """The products of x with the integers of w (C,)."""


class IntegerVectors:
    """x and w as integers times powers of two; where only directions count, w as the shortest such integers."""

    def __init__(self, x: Array, w: Array, directions: bool = False):
        self._x = x
        self.w, self.w_exponent = integers(w)
        if directions:
            self.w = self.w // abs(np.gcd.reduce(self.w, axis=1, keepdims=True))  # of one number it has a sign
        self.squares: list[int] = (self.w * self.w).sum(axis=1).tolist()
        self.sample = cache(self._sample)

    def _sample(self, n: int) -> IntegerSample:
        x, exponent = integers(self._x[n])
        return IntegerSample(x, exponent, (self.w @ x).tolist())


def parallel(x: Array, w: Array) -> int:
    """Return 1 or -1 where two vectors have the same or opposite directions, else 0."""
    (x_int, _), (w_int, _) = integers(x), integers(w)
    dot = int(x_int @ w_int)
    if dot * dot != int(x_int @ x_int) * int(w_int @ w_int):
        return 0
    return 1 if dot > 0 else -1


def half_turns(dot: int, squares: int) -> Fraction | None:
    """Return θ/π, where that is rational, of cos θ = dot/√squares.

    θ is a rational multiple of π only where cos² θ is 0, 1/4, 1/2, 3/4 or 1 (Niven).
    """
    quarters, rest = divmod(4 * dot**2, squares)
    if rest:
        return None
    return _NIVEN[quarters] if dot >= 0 else 1 - _NIVEN[quarters]


def root(square: Fraction) -> Fraction | None:
    """Return the root of a positive number where it is rational."""
    numerator, denominator = isqrt(square.numerator), isqrt(square.denominator)
    is_root = numerator**2 == square.numerator and denominator**2 == square.denominator
    return Fraction(numerator, denominator) if is_root else None


Term: TypeAlias = tuple[Fraction, Fraction]  # q and r of q √r


def cancel(terms: Iterable[Term]) -> bool:
    """Return whether Σ q √r = 0, r >= 0.

    Roots of rational numbers, no ratio of two of them rational, are linearly independent over the rational numbers
    (Besicovitch): q of all terms whose roots have rational ratios add up to 0, as multiples of one of them.
    """
    sums: dict[Fraction, Fraction] = {}
    for factor, square in terms:
        if not factor or not square:
            continue
        for other in sums:
            ratio = root(square / other)
            if ratio is not None:
                sums[other] += factor * ratio
                break
        else:
            sums[square] = factor
    return not any(sums.values())


class Surd(NamedTuple):
    """A number p + q √r with rational p, q and r >= 0."""

    plain: Fraction
    """p."""
    factor: Fraction = Fraction(0)
    """q."""
    square: Fraction = Fraction(0)
    """r."""

    def __bool__(self) -> bool:
        """Whether it is not 0."""
        return not cancel(self.terms())

    def terms(self) -> list[Term]:
        """Return what adds up to it."""
        return [(self.plain, Fraction(1)), (self.factor, self.square)]

    def times(self, factor: Fraction) -> Surd:
        """Return it times a rational number."""
        return Surd(self.plain * factor, self.factor * factor, self.square)

    def plus(self, number: Fraction) -> Surd:
        """Return it with a rational number added."""
        return self._replace(plain=self.plain + number)

    def product(self, other: Surd) -> Surd:
        """Return the product with a number of the same root."""
        both = self.factor * other.factor * self.square
        cross = self.plain * other.factor + self.factor * other.plain
        return Surd(self.plain * other.plain + both, cross, self.square)

    @property
    def side(self) -> int:
        """Its sign: that of p |p| + q |q| r, for t |t| grows with t."""
        squares = self.plain * abs(self.plain) + self.factor * abs(self.factor) * self.square
        return (squares > 0) - (squares < 0)

    @property
    def key(self) -> tuple[Fraction, Fraction]:
        """The rational part, and q |q| r of the rest: equal only where the numbers are."""
        rational_root = root(self.square) if self.factor else Fraction(0)
        if rational_root is not None:
            return self.plain + self.factor * rational_root, Fraction(0)
        return self.plain, self.factor * abs(self.factor) * self.square

    def negative(self) -> Surd:
        """Return it with the other sign."""
        return self.times(Fraction(-1))

    def ball(self) -> Arb:
        """Return it at the current precision."""
        if not self.factor:
            return rational(self.plain)
        return rational(self.plain) + rational(self.factor) * rational(self.square).sqrt()


def sign(quantity: Callable[[], Arb], is_zero: Callable[[], bool]) -> int | None:
    """Return the sign of a quantity by more and more bits, 0 if that is proven; None if MAX_BITS leave it open."""
    for bits in precisions():
        with precision(bits):
            ball = quantity()
        if ball > 0 or ball < 0:
            return 1 if ball > 0 else -1
        if ball.is_zero() or (bits == START_BITS and is_zero()):
            return 0
    return None
