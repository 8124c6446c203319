"""Row scaling: vectors and numbers near the ends of the range, as mantissas times powers of two, one per row.

Lengths, scales and upstream gradients may each be such that products of two of them over- or underflow. Scaling by a
power of two is exact; results are scaled back last. Almost always there is nothing to scale, and the exponent is None.

Symbols: R rows, D entries of each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.engines.fused.headroom import DType, TooLargeError, is_single
from refloss.engines.fused.products import squared_norms
from refloss.error_free import Array, Exponents, ldexp, scale_rows
from refloss.formats import format_of

# ------------------------------------------------------------------------------------------ exponents, None for all 0


def add_exponents(a: Exponents | None, b: Exponents | None) -> Exponents | None:
    """Add exponents, of which None is all 0."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def negated(exponent: Exponents | None) -> Exponents | None:
    """Negate exponents, of which None is all 0."""
    return None if exponent is None else -exponent


def ldexp_rows(rows: Array, exponent: Exponents | None) -> Array:
    """Multiply each row by 2^exponent."""
    return rows if exponent is None or not exponent.any() else np.ldexp(rows, exponent[:, None])


# -------------------------------------------------------------------------------------------------------------- vectors


class ScaledRows(NamedTuple):
    """Vectors, scaled by powers of two where their squares might over- or underflow."""

    rows: Array
    """The vectors times 2^-exponent (R, D)."""
    exponent: Exponents | None
    """(R,), 0 for most; None where nothing is scaled."""
    norm: Array
    """Lengths of the scaled rows, in float64 (R,)."""

    @property
    def factor(self) -> Array | float:
        """2^exponent, or 1."""
        return 1.0 if self.exponent is None else np.ldexp(1.0, self.exponent)

    def take(self, rows: slice) -> ScaledRows:
        """Return the rows of a slice."""
        exponent = None if self.exponent is None else self.exponent[rows]
        return ScaledRows(self.rows[rows], exponent, self.norm[rows])

    def in_float64(self) -> ScaledRows:
        """Return the same rows as float64."""
        return self._replace(rows=self.rows.astype(np.float64))

    def unrounded(self, vectors: NDArray[np.floating]) -> ScaledRows:
        """Return the vectors that the rows were rounded from, scaled by the same powers of two, as float64."""
        return self._replace(rows=ldexp_rows(np.asarray(vectors, np.float64), negated(self.exponent)))


def aligned(array: NDArray[np.floating], dtype: DType) -> Array:
    """Return an array that a BLAS takes as it is: of that dtype, in C order and aligned."""
    return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])


def unscaled(vectors: NDArray[np.floating], dtype: DType) -> ScaledRows:
    """Take vectors as they are."""
    rows = aligned(vectors, dtype)
    return ScaledRows(rows, None, _norm(squared_norms(rows)))


def scaled(vectors: NDArray[np.floating], dtype: DType) -> ScaledRows:
    """Take vectors of any float dtype; those whose lengths are far from 1 are scaled first, and then rounded to dtype.

    Lengths from 2^-32 to 2^32, in float32 2^-12 to 2^12, are near enough: an exponential over such a length loses by
    underflow far less than the smallest normal number.
    """
    rows = aligned(vectors, dtype)
    squares, room = squared_norms(rows), 2.0 ** (24 if is_single(dtype) else 64)
    far = ~((squares > 1.0 / room) & (squares < room))
    if not far.any():
        return ScaledRows(rows, None, _norm(squares))
    rows, exponent = np.array(rows), np.zeros(len(rows), np.int32)
    vectors_64 = np.asarray(vectors[far], np.float64)
    mantissas, exponent[far] = scale_rows(vectors_64)
    if (ldexp(mantissas, exponent[far][:, None]) != vectors_64).any():  # entries below 2^-1022 of others, and not 0
        raise TooLargeError
    rows[far] = mantissas
    rounded = rows[far]
    if ((rounded != mantissas) & (np.abs(mantissas) < format_of(dtype).smallest)).any():  # the target needs them
        raise TooLargeError
    squares[far] = squared_norms(rounded)
    return ScaledRows(rows, exponent, _norm(squares))


def _norm(squares: Array) -> Array:
    return np.sqrt(squares.astype(np.float64))


# -------------------------------------------------------------------------------------------------------------- numbers


class ScaledNumbers(NamedTuple):
    """One number per row, which may be near the ends of the range: mantissa times 2^exponent."""

    mantissa: Array
    """(R,)."""
    exponent: Exponents | None
    """(R,); None where the mantissas are the numbers themselves."""

    @classmethod
    def of(cls, numbers: Array, dtype: DType) -> ScaledNumbers:
        """Split numbers into mantissa and exponent, if any of them leaves products too little room."""
        sizes, room = np.abs(numbers[numbers != 0.0]), 2.0 ** (24 if is_single(dtype) else 60)
        if not ((sizes < 1.0 / room) | (sizes > room)).any():
            return cls(numbers, None)
        return cls(*np.frexp(numbers))

    def times(self, other: ScaledNumbers) -> ScaledNumbers:
        """Multiply by other numbers."""
        return ScaledNumbers(self.mantissa * other.mantissa, add_exponents(self.exponent, other.exponent))

    def with_one_exponent(self, kept: NDArray[np.bool_], dtype: DType | None) -> tuple[Array, int]:
        """Return mantissas and one exponent for all, the largest of the rows that count.

        What is added up in a dtype must not lose small numbers beside large ones, which may meet gradients of 0.
        """
        if self.exponent is None:
            return self.mantissa, 0
        exponents = self.exponent[kept & (self.mantissa != 0.0)]
        largest = int(exponents.max()) if len(exponents) else 0
        if dtype is not None and len(exponents) and exponents.min() < largest - (48 if is_single(dtype) else 120):
            raise TooLargeError
        return np.ldexp(self.mantissa, np.minimum(self.exponent - largest, 0)), largest

    def take(self, rows: slice) -> ScaledNumbers:
        """Return the numbers of a slice."""
        return ScaledNumbers(self.mantissa[rows], None if self.exponent is None else self.exponent[rows])
