r"""Matrix products beyond float64, at the speed of a BLAS: products of slices that it cannot round.

Symbols: a (M, K), b (P, K); K the terms of an inner product; $\beta$ the bits of a slice; n - 1 slices and a residual;
$u = 2^{-53}$.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import overload

import numpy as np

from refloss.error_free import (
    Array,
    Numbers,
    Pair,
    Scaled,
    dot,
    fast_two_sum,
    high,
    ldexp,
    scale_rows,
    two_sum,
    u,
    wider,
)

ACCURACY = 96  # bits that the product of two matrices of pairs has, of the largest entries' product


def _cut(rows: Array | Pair, bits: int, count: int) -> tuple[list[Array], list[Array]]:
    """Cut entries of size at most 1 into slices of few bits: the slices, and the residuals before each and at the end.

    Slice k is a multiple of 2^(-(k+1) bits), and its residual is at most half of that. Cutting is exact; the residual
    of a pair is rounded to float64 where it is handed out.
    """
    rest = Pair.of(rows)
    slices, rests = [], [rest.hi]
    for k in range(1, count + 1):
        lift = 1.5 * 2.0 ** (52 - k * bits)  # adding it rounds to multiples of 2^(-k bits)
        piece = rest.hi + lift
        piece -= lift
        slices.append(piece)
        if isinstance(rows, Pair):
            rest = Pair(*fast_two_sum(rest.hi - piece, rest.lo))
        else:
            rest = Pair(rest.hi - piece, rest.lo)
        rests.append(rest.hi)
    return slices, rests


def _bits(terms: int) -> int:
    """How many bits two factors may have for that many of their products to add up to at most 53."""
    return (53 - math.ceil(math.log2(max(terms, 2)))) // 2


def cuts(terms: int, accuracy: int) -> int:
    """How many slices `matmul` must cut off, in inner products of that length, for its bound to be 2^-accuracy."""
    bits, count = _bits(terms), 1
    while 2.0 * (count + 1) * terms * (terms + 1) * u * 2.0 ** (-count * bits) > 2.0**-accuracy:
        count += 1
    return count


def _in_blocks(a: Array | Pair, b: Array | Pair, product: Callable[[Array | Pair, Array | Pair], Pair]) -> Pair:
    """Add up, as pairs, what product makes of the blocks of columns of a and b."""
    width = 512 if isinstance(a, Pair) else 1024
    summed = product(a[:, :width], b[:, :width])
    for start in range(width, a.shape[1], width):
        columns = slice(start, start + width)
        summed = summed + product(a[:, columns], b[:, columns])
    return summed


@overload
def matmul(a: Array | Pair, b: Array | Pair) -> Pair: ...
@overload
def matmul(a: Scaled, b: Numbers) -> Scaled: ...
@overload
def matmul(a: Array | Pair, b: Scaled) -> Scaled: ...
def matmul(a: Numbers, b: Numbers) -> Pair | Scaled:
    r"""Return ``a @ b.T`` as a pair, at the speed of a BLAS, by products of slices that it cannot round.

    Rows of a (M, K) and of b (P, K), in blocks of at most 1024 columns, are scaled by powers of two to entries of size
    at most 1 and cut into n - 1 slices of $\beta = \lfloor (53 - \lceil\log_2 K\rceil)/2 \rfloor$ bits and a rest
    $r_{n-1}$ of size at most $2^{-(n-1)\beta-1}$:
    $$a b^T = \sum_{i+j\le n-2} a_i b_j^T + \sum_{i\le n-2} a_i\,r^b_{n-1-i}{}^T + r^a_{n-1} b^T$$
    where $r_k$ is the residual before slice k. In the first sum every product of entries is an integer of at most 2β
    bits times $2^{-(i+j+2)\beta}$, so that K of them add up to at most 53 bits: exact, in whatever order a BLAS adds
    them. The n other products have terms of size at most $2^{-(n-1)\beta-1}$ and are rounded as a BLAS does it: at most
    $$n (K + 1)\,u\,K\,2^{-(n-1)\beta-1} \le 2 n K (K+1)\,2^{-(n-1)\beta} u \max|a|\max|b|$$
    in all (the factor 4 for scaling to [1/2, 1)). It takes n (n + 1)/2 products of matrices.

    Two float64 matrices are cut once (n = 2, three products): 2^-60 of the lengths at K = 512, u/32 at K = 1024. Pairs,
    in blocks of at most 512 columns, are cut as often as the bound takes to be below $2^{-96}$: n = 4 for K from 5 to
    512, ten products; the partial products are then added as pairs.
    """
    if isinstance(a, Scaled) or isinstance(b, Scaled):
        (a, a_exponent), (b, b_exponent) = scale_rows(a), scale_rows(b)
        return Scaled.of(matmul(a, b), a_exponent[:, None] + b_exponent)

    def product(a: Array | Pair, b: Array | Pair) -> Pair:
        (a, a_exponent), (b, b_exponent) = scale_rows(a), scale_rows(b)
        terms = a.shape[1]
        count = cuts(terms, ACCURACY) if isinstance(a, Pair) else 1
        (a_slices, a_rests), (b_slices, b_rests) = (_cut(rows, _bits(terms), count) for rows in (a, b))
        low = a_rests[count] @ b_rests[0].T
        for i, piece in enumerate(a_slices):
            low += piece @ b_rests[count - i].T
        summed = Pair.of(low) if count > 1 else Pair(*two_sum(a_slices[0] @ b_slices[0].T, low))
        if count > 1:
            for size in range(count - 1, -1, -1):  # the smallest first
                for i in range(size + 1):
                    summed = summed + a_slices[i] @ b_slices[size - i].T
        return ldexp(wider(Pair.of(a), b)(summed.hi, summed.lo), a_exponent[:, None] + b_exponent)

    return _in_blocks(a, b, product)


def row_dot(a: Array | Pair, b: Array | Pair) -> Pair:
    """Row by row inner product of rows with entries of size at most 1, as accurate as `matmul` and as cheap."""
    if isinstance(a, Pair):
        return dot(a, b)

    def product(a: Array | Pair, b: Array | Pair) -> Pair:
        bits = _bits(a.shape[1])
        ((a_head,), (_, a_tail)), ((b_head,), (_, b_tail)) = _cut(a, bits, 1), _cut(b, bits, 1)
        low = np.einsum("nd,nd->n", a_head, b_tail) + np.einsum("nd,nd->n", a_tail, high(b))
        return Pair(*two_sum(np.einsum("nd,nd->n", a_head, b_head), low))

    return _in_blocks(a, b, product)
