"""Products of matrices and of rows, none of which adds up more than `MAX_TERMS` terms at once.

A BLAS may add K terms one after the other, with an error of K roundoffs. Longer sums are those of pieces, added two by
two: min(K, MAX_TERMS) + log2(K / MAX_TERMS) roundoffs, see `refloss.engines.contract`.
"""

from __future__ import annotations

import numpy as np

from refloss.engines.contract import MAX_TERMS
from refloss.engines.kernels import pairs
from refloss.engines.kernels import rows as row_kernels
from refloss.error_free import Array, Pair


def product(a: Array, b: Array, out: Array | None = None) -> Array:
    """Return a @ b: no sum in it has an error above min(K, MAX_TERMS) + log2(K / MAX_TERMS) roundoffs of its terms."""
    terms = a.shape[1]
    if terms <= MAX_TERMS:
        return np.asarray(np.matmul(a, b, out=out))
    half = MAX_TERMS * (-(-terms // MAX_TERMS) // 2)
    total = product(a[:, :half], b[:half], out)
    total += product(a[:, half:], b[half:])
    return total


def row_dots(a: Array, b: Array) -> Array:
    """Return the inner products of rows (R,), in their dtype and without a BLAS."""
    dots = np.empty(len(a), a.dtype)
    row_kernels.vecdot(a, b, dots)
    return dots


def pair_dots(a: Array, b: Array) -> Pair:
    """Return the inner products of rows of float64, in pairs (R,)."""
    hi, lo = np.empty(len(a)), np.empty(len(a))
    pairs.vecdot(a, b, hi, lo)
    return Pair(hi, lo)


def squared_norms(rows: Array) -> Array:
    """Return the squares of lengths (R,); for long rows the result of a BLAS would depend on its number of threads."""
    return np.asarray(np.vecdot(rows, rows)) if rows.shape[1] <= MAX_TERMS else row_dots(rows, rows)
