r"""Fixed point: numbers $k\,2^{-b}$ with one of Python's integers for k, where no fixed number of digits is enough.

A difference of two numbers that almost agree may be of any size: $\varphi - k\pi$ of vectors, or a cosine less a
margin. Where a pair has lost too much of it, it is computed again with b bits, and with more until enough are left.
That takes 0.05 ms a row in 3 dimensions and 0.5 ms in 512: it is for rows that are rare. Inputs are float64 numbers,
taken as exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from refloss.error_free import Array

BITS = (256, 1024, 4096)
"""Bits to compute with, one after the other."""
_KEPT = 140
"""Bits that a result must have: 108 are right, for what is computed here is wrong by less than 2^32 units."""
UNIT = 2**1074
"""Every float64 number is a whole number over this."""


def settled(quantity: Callable[[int], int]) -> Fraction:
    """Return the number of which quantity(bits) is 2^bits times, wrong by less than 2^32: to 2^-108 of it.

    What is below 2^-3956 is 0.
    """
    for bits in BITS:
        units = quantity(bits)
        if abs(units) >> _KEPT:
            return Fraction(units, 1 << bits)
    return Fraction(0)


class Surd(NamedTuple):
    """A number p + q √r of rational p, q and r >= 0: what depends linearly on the length of a row."""

    plain: Fraction
    """p."""
    factor: Fraction = Fraction(0)
    """q."""
    square: Fraction = Fraction(0)
    """r."""

    def __bool__(self) -> bool:
        """Whether it is not 0."""
        root_square = self.factor**2 * self.square
        return self.plain**2 != root_square or self.plain * self.factor > 0

    def mapped(self, factor: Fraction, offset: Fraction) -> Surd:
        """Return it times a factor, and an offset added."""
        return Surd(self.plain * factor + offset, self.factor * factor, self.square)

    def units(self, bits: int) -> int:
        """Return it in units of 2^-bits, wrong by less than two."""
        numerator, denominator = (self.factor**2 * self.square).as_integer_ratio()
        root = math.isqrt((numerator << 2 * bits) // denominator)
        return fixed(self.plain, bits) + (root if self.factor >= 0 else -root)


def fixed(number: float | Fraction | Surd, bits: int) -> int:
    """Return a number in units of 2^-bits, rounded down; of a surd wrong by less than two."""
    if isinstance(number, Surd):
        return number.units(bits)
    numerator, denominator = number.as_integer_ratio()
    return (numerator << bits) // denominator


def square_of(row: Array) -> Fraction:
    """Return the square of a row's length."""
    return sum((Fraction(number) ** 2 for number in row.tolist()), Fraction(0))


def units(row: Array, unit: int = 1) -> list[int]:
    """Return float64 numbers times the least power of two, from unit on, that makes all of them whole."""
    ratios = [float.as_integer_ratio(number) for number in row.tolist()]
    unit = max(unit, *(denominator for _, denominator in ratios))
    return [numerator * (unit // denominator) for numerator, denominator in ratios]


def inner(a: list[int], b: list[int]) -> int:
    """Return the inner product."""
    return sum(map(int.__mul__, a, b))


def sin_cos(angle: int, bits: int) -> tuple[int, int]:
    """Sum the series of sine and cosine of an angle in [-π, π]."""
    parts, term, n = [0, 0, 0, 0], 1 << bits, 0
    while term:
        parts[n % 4] += term
        n += 1
        term = (term * abs(angle) >> bits) // n
    sine = parts[1] - parts[3]
    return sine if angle >= 0 else -sine, parts[0] - parts[2]


def atan2(sin: int, cos: int, bits: int) -> int:
    """Return the angle in [0, π] of a sine and a cosine: the sine of its error is added until the cube of that is 0."""
    unit = 1 << bits
    angle, error = fixed(math.atan2(sin / unit, cos / unit), bits), unit
    while abs(error) ** 3 >> 2 * bits:
        its_sin, its_cos = sin_cos(angle, bits)
        error = (sin * its_cos - cos * its_sin) >> bits
        angle += error
    return angle


@lru_cache
def pi(bits: int) -> int:
    """Return π: the angle whose sine is 0 and whose cosine is -1."""
    return atan2(0, -1 << bits, bits)


class Radians(NamedTuple):
    """An angle in [0, π] that is a rational number."""

    exact: Fraction

    def theta(self, bits: int) -> int:
        """The angle."""
        return fixed(self.exact, bits)

    def cos(self, bits: int) -> int:
        """Its cosine."""
        return sin_cos(self.theta(bits), bits)[1]

    def sin(self, bits: int) -> int:
        """Its sine."""
        return sin_cos(self.theta(bits), bits)[0]

    @property
    def half_turns(self) -> Fraction | None:
        """θ / π, where that is rational."""
        return None if self.exact else Fraction(0)


_NIVEN = (Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(1, 6), Fraction(0))
"""θ / π where 4 cos² θ = 0, 1, 2, 3, 4: of no other rational cos² θ is it rational (Niven)."""


class Between(NamedTuple):
    """The angle between two vectors: cos θ = x·w / √(x·x w·w)."""

    dot: int
    """x·w."""
    square: int
    """x·x w·w."""

    @classmethod
    def of(cls, x: Array, w: Array) -> Between:
        """Take two rows."""
        a, b = units(x), units(w)
        return cls(inner(a, b), inner(a, a) * inner(b, b))

    @property
    def signed_square(self) -> Fraction:
        """cos² θ with the sign of cos θ."""
        return Fraction(self.dot * abs(self.dot), self.square)

    def theta(self, bits: int) -> int:
        """The angle."""
        return atan2(self.sin(bits), self.cos(bits), bits)

    def cos(self, bits: int) -> int:
        """Its cosine."""
        size = math.isqrt((self.dot**2 << 2 * bits) // self.square)
        return size if self.dot >= 0 else -size

    def sin(self, bits: int) -> int:
        """Its sine."""
        return math.isqrt((self.square - self.dot**2 << 2 * bits) // self.square)

    @property
    def half_turns(self) -> Fraction | None:
        """θ / π, where that is rational."""
        quarters, rest = divmod(4 * self.dot**2, self.square)
        if rest:
            return None
        return _NIVEN[quarters] if self.dot >= 0 else 1 - _NIVEN[quarters]


ExactAngle: TypeAlias = Radians | Between


class Turned(NamedTuple):
    """An angle θ and φ = m1 θ + m2, in units of 2^-bits, with the margins of its sample."""

    angle: ExactAngle
    m1: float | Fraction
    m2: float | Surd
    m3: float | Surd
    bits: int

    @property
    def cos_theta(self) -> int:
        """Cos θ."""
        return self.angle.cos(self.bits)

    @property
    def sin_theta(self) -> int:
        """Sin θ."""
        return self.angle.sin(self.bits)

    @property
    def phi(self) -> int:
        """The angle φ."""
        numerator, denominator = self.m1.as_integer_ratio()
        return self.angle.theta(self.bits) * numerator // denominator + self.of(self.m2)

    @property
    def sin_phi(self) -> int:
        """Sin φ, 0 where φ is a multiple of π: with m2 ≠ 0 it never is (Lindemann), except of θ = 0 and φ = 0."""
        half_turns = None if self.m2 else self.angle.half_turns
        if half_turns is not None and (half_turns * Fraction(self.m1)).denominator == 1:
            return 0
        return self._reduced()[0]

    @property
    def cos_phi_minus_cos_theta(self) -> int:
        """Cos φ - cos θ, 0 where φ + θ or φ - θ is a multiple of 2π."""
        half_turns = None if self.m2 else self.angle.half_turns
        if half_turns is not None and any(half_turns * (Fraction(self.m1) + side) % 2 == 0 for side in (-1, 1)):
            return 0
        return self._reduced()[1] - self.cos_theta

    @property
    def threshold(self) -> int:
        """Cos φ - m3."""
        cos_phi = self._reduced()[1] if self.m2 or self.m1 != 1.0 else self.cos_theta
        return cos_phi - self.of(self.m3)

    def of(self, number: float | Surd) -> int:
        """Another number in these units."""
        return fixed(number, self.bits)

    def _reduced(self) -> tuple[int, int]:
        """Sine and cosine of φ, from its residual beside the nearest multiple of π."""
        phi, half_turn = self.phi, pi(self.bits)
        turns = (2 * phi + half_turn) // (2 * half_turn)
        sine, cosine = sin_cos(phi - turns * half_turn, self.bits)
        return (-sine, -cosine) if turns % 2 else (sine, cosine)
