r"""Linear: the plain head, z = x Wᵀ + b. Stands in place of both branches for the softmax loss.

Symbols: embeddings x (N, D); class weights w (C, D), a class a row; bias b (C,); logits z (N, C).
"""

from __future__ import annotations

from typing import NamedTuple

from refloss.error_free import Array, Pair, matmul, rounded_total


class Saved(NamedTuple):
    """What backward needs."""

    x: Array
    """x (N, D)."""
    w: Array
    """W (C, D)."""


def forward(x: Array, w: Array, b: Array | None = None) -> tuple[Pair, Saved]:
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


def backward(upstream: Array, saved: Saved) -> tuple[Array, Array, Array]:
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
    tuple of Array
        dL/dx (N, D), dL/dW (C, D), dL/db (C,).
    """
    return matmul(upstream, saved.w.T).hi, matmul(upstream.T, saved.x.T).hi, rounded_total(upstream, axis=0)
