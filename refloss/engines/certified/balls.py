"""Balls: real numbers as a midpoint and a radius, in arrays, at a precision that can be set.

A ball is a `flint.arb`. An operation on balls gives a ball that holds every result of the operation on numbers from
them; `precision` sets how many bits its midpoint has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Protocol, SupportsInt, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Balls: TypeAlias = NDArray[np.object_]  # of Arb

START_BITS = 128
MAX_BITS = 2**14


class Arb(Protocol):
    """A ball: what is used of `flint.arb`, which ships no types. A comparison is True only if it is proven."""

    def __neg__(self) -> Arb: ...
    def __add__(self, other: Arb | float, /) -> Arb: ...
    def __sub__(self, other: Arb | float, /) -> Arb: ...
    def __mul__(self, other: Arb | float, /) -> Arb: ...
    def __truediv__(self, other: Arb | float, /) -> Arb: ...
    def __radd__(self, other: float, /) -> Arb: ...
    def __rsub__(self, other: float, /) -> Arb: ...
    def __rmul__(self, other: float, /) -> Arb: ...
    def __lt__(self, other: Arb | float, /) -> bool: ...
    def __gt__(self, other: Arb | float, /) -> bool: ...
    def __float__(self) -> float: ...

    def sqrt(self) -> Arb:
        """√x."""

    def sin(self) -> Arb:
        """Sin x."""

    def cos(self) -> Arb:
        """Cos x."""

    def mid(self) -> Arb:
        """The midpoint, a ball of radius 0."""

    def rad(self) -> Arb:
        """The radius, a ball of radius 0."""

    def is_zero(self) -> bool:
        """Whether midpoint and radius are 0."""

    def is_finite(self) -> bool:
        """Whether midpoint and radius are finite numbers."""

    def contains(self, number: float, /) -> bool:
        """Whether the ball holds the number."""

    def rel_accuracy_bits(self) -> int:
        """How many bits the radius leaves of the midpoint."""

    def man_exp(self) -> tuple[SupportsInt, SupportsInt]:
        """Mantissa m and exponent e of a ball of radius 0: m 2^e."""

    def mid_rad_10exp(self, digits: int, /) -> tuple[SupportsInt, SupportsInt, SupportsInt]:
        """Midpoint m, radius r and exponent e of a ball that holds this one, with so many digits: (m ± r) 10^e."""

    def str(self, digits: int, /) -> object:
        """The ball as text."""


# ----------------------------------------------------------------------------------------------------------- precision


def load_flint() -> Any:
    """Import python-flint when it is first used."""
    try:
        import flint
    except ImportError as error:
        raise ImportError("ball arithmetic needs python-flint: pip install refloss[certified]") from error
    return flint


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Compute with so many bits, and afterwards with as many as before."""
    context = load_flint().ctx
    before = context.prec
    context.prec = bits
    try:
        yield
    finally:
        context.prec = before


def precisions(start: int = START_BITS) -> Iterator[int]:
    """Yield numbers of bits, each twice the last, up to MAX_BITS."""
    bits = min(start, MAX_BITS)
    while bits < MAX_BITS:
        yield bits
        bits = min(2 * bits, MAX_BITS)
    yield bits


# -------------------------------------------------------------------------------------------------------------- numbers


def arb(number: float) -> Arb:
    """Return a float or an integer as a ball of radius 0."""
    ball: Arb = load_flint().arb(number)
    return ball


def rational(number: Fraction) -> Arb:
    """Return a rational number as a ball."""
    return arb(number.numerator) / number.denominator


def pi() -> Arb:
    """Return π."""
    ball: Arb = load_flint().arb.pi()
    return ball


def atan2(y: Arb, x: Arb) -> Arb:
    """Return the angle of the point (x, y)."""
    ball: Arb = load_flint().arb.atan2(y, x)
    return ball


# --------------------------------------------------------------------------------------------------------------- arrays


def exact_balls(floats: ArrayLike) -> Balls:
    """Return floats as balls of radius 0."""
    return np.asarray(np.frompyfunc(load_flint().arb, 1, 1)(floats), object)


def zero_balls(shape: tuple[int, ...]) -> Balls:
    """Return zeros."""
    return np.full(shape, arb(0), object)


def elementwise(function: str, *arrays: Balls) -> Balls:
    """Apply a function of `flint.arb`, by its name, to every entry."""
    return np.asarray(np.frompyfunc(getattr(load_flint().arb, function), len(arrays), 1)(*arrays), object)


def matmul(left: Balls, right: Balls) -> Balls:
    """Return the matrix product."""
    matrix = load_flint().arb_mat
    return np.array((matrix(left.tolist()) * matrix(right.tolist())).tolist(), object)
