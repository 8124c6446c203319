r"""Cosine: the wide branch. Every embedding against every class, one matrix product.

Symbols: unit embeddings x̂ (N, D); unit class weights ŵ (C, D); cosines c (N, C).
"""

from __future__ import annotations

from typing import NamedTuple

from refloss.error_free import Array, Integers, Numbers, Pair, StageResult, dot, scale_rows, sqrt
from refloss.sliced_product import matmul
from refloss.stages.normalize import Directions

CLOSE = 2.0**-49
"""Cosines nearer than that to what decides about them, a threshold or one another, are found again."""
NEAR = 2.0**-90
"""Of cosines found again, those nearer than that are compared exactly, in rational numbers or in fixed point."""


class Saved(NamedTuple):
    """What backward needs."""

    x: Numbers
    """x̂ (N, D)."""
    w: Numbers
    """ŵ (C, D)."""


def forward(x: Directions, w: Directions) -> tuple[Pair, Saved]:
    r"""Inner product of unit vectors.

    $$c_{nk} = \hat x_n\cdot\hat w_k$$

    The product itself is exact to about 2^-63, and what the rounded lengths did to whole rows is taken back. The
    residual error is the rounding of the unit entries: at most $2u\sum_i|\hat x_{ni}\hat w_{ki}| \le 2u$. Of unit
    entries that are pairs nothing was rounded off.

    Parameters
    ----------
    x, w
        Directions of embeddings (N, D) and classes (C, D).

    Returns
    -------
    Pair
        Cosines (N, C).
    Saved
        What `backward` needs.
    """
    c = matmul(x.unit, w.unit)
    return c - c.rounded() * (x.excess[:, None] + w.excess), Saved(x.unit, w.unit)


def backward(upstream: Numbers, saved: Saved) -> tuple[StageResult, StageResult]:
    r"""Carry the gradient of the cosines back to both sets of unit vectors.

    $$\frac{\partial L}{\partial\hat x_n} = \sum_k \frac{\partial L}{\partial c_{nk}}\,\hat w_k, \qquad
    \frac{\partial L}{\partial\hat w_k} = \sum_n \frac{\partial L}{\partial c_{nk}}\,\hat x_n$$

    Parameters
    ----------
    upstream
        dL/dc (N, C).
    saved
        What `forward` saved.

    Returns
    -------
    tuple of Numbers
        dL/dx̂ (N, D), dL/dŵ (C, D).
    """
    return matmul(upstream, saved.w.T).rounded(), matmul(upstream.T, saved.x.T).rounded()


def of_rows(x: Array, w: Array) -> Pair:
    """Return the cosine of every row of x with the same row of w, right to 100 bits."""
    (x, _), (w, _) = scale_rows(x), scale_rows(w)
    return dot(x, w) / (sqrt(dot(x, x)) * sqrt(dot(w, w)))


def refined(c: Pair, x: Array, w: Array, n: Integers, rows: Integers) -> Pair:
    """Return cosines, those of some samples with some rows of w found again, right to 100 bits."""
    known = c.copy()
    known[n, rows] = of_rows(x[n], w[rows])
    return known
