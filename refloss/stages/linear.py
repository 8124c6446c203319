r"""Linear: the plain head, z = x Wᵀ + b. Stands in place of both branches for the softmax loss.

Symbols: embeddings x (N, D); class weights w (C, D), one row per class; bias b (C,); logits z (N, C).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import (
    ZERO,
    Array,
    Exponents,
    Numbers,
    Pair,
    StageResult,
    digits,
    rounded_total,
    scale_rows,
    shift,
)
from refloss.sliced_product import matmul


class Saved(NamedTuple):
    """What backward needs."""

    x: Numbers
    """x (N, D)."""
    w: Numbers
    """W (C, D)."""


def forward(x: Array | Pair, w: Array | Pair, b: Array | Pair | None = None) -> tuple[Pair, Saved]:
    r"""Inner product of every embedding with every class, plus the bias.

    $$z_{nk} = \sum_i x_{ni}\,W_{ki} + b_k$$

    Parameters
    ----------
    x, w, b
        Embeddings (N, D), class weights (C, D), bias (C,) or None for no bias.

    Returns
    -------
    Pair
        Logits (N, C), as pairs: rounding a logit of size 64 would already cost 64u in the loss.
    Saved
        What `backward` needs.
    """
    z = matmul(x, w)
    return (z if b is None else z + b), Saved(x, w)


def backward(upstream: Numbers, saved: Saved) -> tuple[StageResult, StageResult, StageResult]:
    r"""Carry the gradient of the logits back to the embeddings, the classes and the bias.

    $$\frac{\partial L}{\partial x_{ni}} = \sum_k \frac{\partial L}{\partial z_{nk}}\,W_{ki}, \qquad
    \frac{\partial L}{\partial W_{ki}} = \sum_n \frac{\partial L}{\partial z_{nk}}\,x_{ni}, \qquad
    \frac{\partial L}{\partial b_k} = \sum_n \frac{\partial L}{\partial z_{nk}}$$

    Parameters
    ----------
    upstream
        dL/dz (N, C).
    saved
        What `forward` saved.

    Returns
    -------
    tuple of Numbers
        dL/dx (N, D), dL/dW (C, D), dL/db (C,).
    """
    (x, x_exponent), (w, w_exponent) = _scaled(saved.x), _scaled(saved.w)
    dx = matmul(shift(upstream, w_exponent), w.T)  # a long class of weight 0 must not hide a short one
    dw = matmul(shift(upstream, x_exponent[:, None]).T, x.T)
    return dx.rounded(), dw.rounded(), rounded_total(upstream, axis=0)


def _scaled(rows: Numbers) -> tuple[Numbers, Exponents]:
    """Scale rows; the gradient that goes to one of zeros must not hide others, however large it is."""
    scaled, exponent = scale_rows(rows)
    return scaled, np.where(digits(scaled).any(axis=1), exponent, ZERO)
