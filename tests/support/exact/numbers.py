"""Exact numbers: inputs as integers times a power of two, and how many digits a quantity needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from mpmath import mp, mpf

from support.untraced import untraced

Array = np.ndarray[Any, Any]
Reals = list[mpf]
UNIT = mpf(2) ** -53  # u, the unit roundoff of float64
SMALLEST_NORMAL = mpf(2) ** -1022
SMALLEST = 5e-324
GUARD = 20  # digits carried beyond those asked for
INFINITY = mpf("inf")
NAN = mpf("nan")


@untraced
def exact(values: Any) -> Array:
    """The given numbers as mpf, none of them rounded; the shape is kept."""
    array = np.asarray(values)
    if array.dtype != object:
        array = array.astype(np.float64)
    result = np.empty(array.shape, dtype=object)
    for index in np.ndindex(array.shape):
        number = array[index]
        result[index] = number if isinstance(number, mpf) else mp.convert(float(number))
    return result


def filled(shape: tuple[int, ...], number: mpf) -> Array:
    """An array of mpf, all the same."""
    result = np.empty(shape, dtype=object)
    result.fill(number)
    return result


def places(number: mpf) -> int:
    """Decimal places before the point: 10**places >= |number|, and 0 for anything up to 1."""
    return max(0, int(mp.mag(number) * 0.30103) + 1) if number and mp.isfinite(number) else 0


def settle(quantity: Callable[[], mpf], digits: int) -> mpf:
    """`quantity`, of the order of 1 or less and computed with an absolute error near 10**-dps, to `digits` of its own.

    More and more digits are used until that many remain. What is still not told from 0 with 1400 more is 0: numbers
    made of a few float64 numbers (angles of rational vectors, multiples of pi, cosines of margins) come that close only
    by being equal.
    """
    for extra in (40, 400, 1400):
        with mp.workdps(digits + extra):
            result = quantity()
            if abs(result) > mpf(10) ** (GUARD - extra):
                return result
    return mpf(0)


class Vector(NamedTuple):
    """A row of numbers: entry i is integers[i] * 2**exponent, exactly. `square` sums the squares of the integers."""

    integers: list[int]
    exponent: int
    square: int

    @classmethod
    def of(cls, row: Iterable[mpf]) -> Vector:
        parts = [number._mpf_ for number in row]
        exponent = min((power for _, mantissa, power, _ in parts if mantissa), default=0)
        integers = [
            (-mantissa if sign else mantissa) << (power - exponent) if mantissa else 0
            for sign, mantissa, power, _ in parts
        ]
        return cls(integers, exponent, sum(i * i for i in integers))

    def dot(self, other: Vector) -> int:
        return sum(i * j for i, j in zip(self.integers, other.integers, strict=True))

    def norm(self) -> mpf:
        return mp.ldexp(mp.sqrt(mpf(self.square)), self.exponent)


def rows(matrix: Any) -> list[Vector]:
    return [Vector.of(row) for row in exact(matrix)]


class Moved(NamedTuple):
    """A step along one entry of a Vector. All integers are finer by 2**shift, and `step` is the step in those units."""

    shift: int
    step: int

    @classmethod
    def by(cls, vector: Vector, tens: int) -> Moved:
        """The largest step of a power of two that is below 10**-tens of the vector's norm."""
        power = (vector.square.bit_length() - 1) // 2 - int(tens * 3.3219281) - 1
        return cls(max(0, -power), 1 << max(0, power))

    def square(self, vector: Vector, i: int, sign: int) -> int:
        entry = vector.integers[i] << self.shift
        return (vector.square << 2 * self.shift) + 2 * sign * self.step * entry + self.step**2

    def dot(self, dot: int, partner: int, sign: int) -> int:
        """The dot product when the entry that is multiplied by `partner` moves."""
        return (dot << self.shift) + sign * self.step * partner

    def length(self, vector: Vector) -> mpf:
        return mp.ldexp(mpf(self.step), vector.exponent - self.shift)


def cosine_of(dot: int, square: int, other: int) -> mpf:
    """The cosine x.w / (|x| |w|)."""
    return mpf(dot) / mp.sqrt(mpf(square * other))


def sine_of(x: Vector, w: Vector) -> mpf:
    """The sine of the angle; the argument of the root is exact."""
    squares = x.square * w.square
    return mp.sqrt(mpf(squares - x.dot(w) ** 2) / mpf(squares))


def angle_of(dot: int, square: int, other: int) -> mpf:
    """The angle whose tangent is sqrt(|x|^2 |w|^2 - (x.w)^2) / x.w; the root's argument is exact."""
    return mp.atan2(mp.sqrt(mpf(square * other - dot * dot)), mpf(dot))
