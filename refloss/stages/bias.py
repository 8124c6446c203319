r"""Bias: one number added to all logits, which may then be held between two bounds.

Symbols: logits z (N, C); the bias b, a number; K the bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refloss.error_free import Mask, Numbers, Pair, StageResult, rounded_total, where
from refloss.stages.cosine import CLOSE


class Saved(NamedTuple):
    """What backward needs."""

    inside: Mask | None
    """Which logits are within the bounds, these included (N, C); None where there are none."""


def forward(z: Pair, b: Pair, bound: float | None, exactly: Callable[[int, int], int]) -> tuple[Pair, Saved]:
    r"""Add the bias; hold the logits within ±K.

    $$z'_{nk} = \min(\max(z_{nk} + b, -K), K)$$

    Parameters
    ----------
    z, b
        Logits (N, C) and the bias, a number.
    bound
        K, or None for no bound.
    exactly
        Tells the sign of $|z_{nk} + b| - K$ of a sample and a class, where that is within 2⁻⁴⁹ of K, or rounded to 0.

    Returns
    -------
    Pair
        Logits (N, C).
    Saved
        What `backward` needs.
    """
    shifted = z + b
    if bound is None:
        return shifted, Saved(None)
    beyond = where(shifted.hi < 0.0, -shifted, shifted) - bound
    outside = np.asarray(beyond.hi > 0.0)
    for n, k in np.argwhere(np.abs(beyond.hi) <= CLOSE * bound).tolist():
        outside[n, k] = exactly(n, k) > 0
    held = where(outside, np.copysign(bound, shifted.hi), shifted)
    return held, Saved(~outside)


def backward(upstream: Numbers, saved: Saved) -> tuple[StageResult, StageResult]:
    r"""Pass the gradient on, and add it up for the bias.

    $$\frac{\partial L}{\partial z_{nk}} = \frac{\partial L}{\partial z'_{nk}}\,[\lvert z_{nk} + b\rvert\le K], \qquad
    \frac{\partial L}{\partial b} = \sum_n\sum_k\frac{\partial L}{\partial z_{nk}}$$

    Parameters
    ----------
    upstream
        dL/dz' (N, C).
    saved
        What `forward` saved.

    Returns
    -------
    tuple of Numbers
        dL/dz (N, C) and dL/db, a number.
    """
    dz = upstream if saved.inside is None else where(saved.inside, upstream, 0.0)
    return dz, rounded_total(rounded_total(dz))
