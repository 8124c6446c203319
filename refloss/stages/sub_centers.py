r"""Sub-centers: of the centers of a class the one nearest to the embedding stands for the class.

Symbols: K centers per class; cosines c (N, C K) of all centers, those of a class side by side; κ (N, C) which center.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refloss.error_free import Array, Integers, Mask, Numbers, Pair, StageResult, where
from refloss.fixed_point import Between
from refloss.stages.cosine import CLOSE, NEAR


class Saved(NamedTuple):
    """What backward needs."""

    chosen: Integers
    """Which row of w stands for each class (N, C)."""
    rows: int
    """How many rows w has."""


def close(c: Pair, centers: int) -> tuple[Integers, Integers]:
    """Return the samples and rows of w whose cosines have to be known to more bits before a center is chosen."""
    samples, rows = c.shape
    of_class = c.hi.reshape(samples, rows // centers, centers)
    near = of_class > of_class.max(axis=2, keepdims=True) - CLOSE
    near &= near.sum(axis=2, keepdims=True) > 1
    n, row = np.nonzero(near.reshape(c.shape))
    return n, row


def exactly(x: Array, w: Array) -> Callable[[int, list[int]], int]:
    """Return what finds the nearest of some rows of w to a sample, the first of equal ones, in rational numbers."""

    def decide(n: int, rows: list[int]) -> int:
        if (w[rows] == w[rows[0]]).all():
            return rows[0]
        squares = [Between.of(x[n], w[row]).signed_square for row in rows]
        return rows[squares.index(max(squares))]

    return decide


def nearest(c: Pair, centers: int, decide: Callable[[int, list[int]], int]) -> Integers:
    """Choose the center of the largest cosine in each class; of equal ones the first (N, C).

    Those next to the largest are told apart by what `exactly` returns.
    """
    samples, rows = c.shape
    hi, lo = (part.reshape(samples, rows // centers, centers) for part in (c.hi, c.lo))
    largest = hi.max(axis=2, keepdims=True)
    best = np.where(hi == largest, lo, -np.inf).argmax(axis=2)
    first = np.arange(rows // centers) * centers
    top = np.take_along_axis(hi, best[:, :, None], 2), np.take_along_axis(lo, best[:, :, None], 2)
    near = (top[0] - hi) + (top[1] - lo) < NEAR
    for sample, k in np.argwhere(near.sum(axis=2) > 1).tolist():
        rows_near = (first[k] + np.flatnonzero(near[sample, k])).tolist()
        best[sample, k] = decide(sample, rows_near) - first[k]
    return np.asarray(first + best)


def forward(c: Pair, chosen: Integers) -> tuple[Pair, Saved]:
    r"""Take the largest cosine of each class.

    $$c_{nk} = \max_j c_{nkj}$$

    Source: Sub-center ArcFace (Deng et al. 2020), https://doi.org/10.1007/978-3-030-58621-8_43.

    Parameters
    ----------
    c
        Cosines of all centers (N, C K).
    chosen
        The row of w that stands for each class (N, C), see `nearest`.

    Returns
    -------
    Pair
        Cosines (N, C).
    Saved
        What `backward` needs.
    """
    return c[np.arange(len(c))[:, None], chosen], Saved(chosen, c.shape[1])


def stands(saved: Saved) -> Mask:
    """Return which centers stand for their class (N, C K)."""
    return np.asarray(saved.chosen[:, _classes(saved)] == np.arange(saved.rows))


def of_all(numbers: Numbers, saved: Saved, elsewhere: float = 0.0) -> StageResult:
    """Return numbers of classes (N, C) at the centers that stand for them, and another elsewhere (N, C K)."""
    return where(stands(saved), numbers[:, _classes(saved)], elsewhere)


def _classes(saved: Saved) -> Integers:
    """Return the class of every row of w."""
    return np.asarray(np.arange(saved.rows) // (saved.rows // saved.chosen.shape[1]))


def backward(upstream: Numbers, saved: Saved) -> StageResult:
    r"""Give the gradient of a class to the center that stands for it; the choice counts as a constant.

    $$\frac{\partial L}{\partial c_{nkj}} = [j = \kappa_{nk}]\,\frac{\partial L}{\partial c_{nk}}$$

    Parameters
    ----------
    upstream
        dL/dc (N, C).
    saved
        What `forward` saved.

    Returns
    -------
    Numbers
        dL/dc of all centers (N, C K).
    """
    return of_all(upstream, saved)
