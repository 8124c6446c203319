r"""Cross entropy: from log probabilities to the loss.

The one place that computes with labels, weights, smoothing and reduction.

Symbols: log p (N, C); labels y (N,) or probabilities y (N, C); class weights v (C,); label smoothing ε; targets
t (N, C), which need not sum to 1; row losses L_n (N,); n̄ what "mean" divides by.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array, Integers, rounded_total


class Settings(NamedTuple):
    """How rows become a loss, with the meaning PyTorch gives these words."""

    reduction: str = "mean"
    label_smoothing: float = 0.0
    class_weight: tuple[float, ...] | None = None
    ignore_index: int = -100


class Targets(NamedTuple):
    """What the settings make of the labels."""

    t: Array
    """t: what multiplies -log p (N, C)."""
    divisor: float
    """n̄: what "mean" divides by."""


class Saved(NamedTuple):
    """What backward needs."""

    targets: Targets
    """t (N, C) and n̄."""
    reduction: str
    """Which of the three."""


def targets(y: Array | Integers, classes: int, settings: Settings) -> Targets:
    r"""Turn labels, or probabilities, into targets.

    $$t_{nk} = (1-\varepsilon)\,v_k\,[k = y_n] + \frac{\varepsilon\,v_k}{C}
    \quad\text{or}\quad t_{nk} = v_k\Bigl((1-\varepsilon)\,y_{nk} + \frac{\varepsilon}{C}\Bigr)$$

    "mean" divides by the sum of $v_{y_n}$ for labels, by the number of rows for probabilities.
    """
    keep, share = 1.0 - settings.label_smoothing, settings.label_smoothing / classes
    weight = np.ones(classes) if settings.class_weight is None else np.asarray(settings.class_weight)
    if y.ndim == 2:
        return Targets(weight * (keep * y + share), float(len(y)))
    own = weight[y]
    t = np.tile(weight * share, (len(y), 1))
    t[np.arange(len(y)), y] += own * keep
    size = np.frexp(own.max(initial=0.0))[1]
    if settings.reduction == "mean" and abs(size) > 500:  # only ratios count: a power of two keeps the sums in range
        t, own = np.ldexp(t, -size), np.ldexp(own, -size)
    return Targets(t, float(rounded_total(own)))


def kept(y: Array | Integers, settings: Settings) -> NDArray[np.bool_]:
    """Which rows count: those whose label is not ignore_index."""
    return np.ones(len(y), np.bool_) if y.ndim == 2 else np.asarray(y != settings.ignore_index)


def reduce(losses: Array, reduction: str, divisor: float) -> Array:
    """Add up row losses, rounding once at the end; "mean" divides."""
    if reduction == "none":
        return losses
    added = rounded_total(losses)
    return added / divisor if reduction == "mean" else added


def coefficient(upstream: Array, reduction: str, divisor: float, rows: int) -> Array:
    """dL/dL_n of every row (N,)."""
    if reduction == "mean":
        with np.errstate(divide="ignore", invalid="ignore"):
            upstream = upstream / divisor
    return np.broadcast_to(upstream, (rows,))


def forward(log_p: Array, targets: Targets, reduction: str) -> tuple[Array, Saved]:
    r"""Weigh -log p with the targets and reduce.

    $$L_n = -\sum_k t_{nk}\log p_{nk}, \qquad
    L = \frac{1}{\bar n}\sum_n L_n \;\text{(mean)}, \quad \sum_n L_n \;\text{(sum)}, \quad L_n \;\text{(none)}$$

    A target of 0 contributes 0, at a logit of -inf too.

    Parameters
    ----------
    log_p
        Log probabilities (N, C).
    targets
        Targets and what "mean" divides by.
    reduction
        "mean", "sum" or "none".

    Returns
    -------
    Array
        The loss: 0-d, or (N,) for "none".
    Saved
        What `backward` needs.
    """
    with np.errstate(invalid="ignore"):
        terms = np.where(targets.t == 0.0, 0.0, targets.t * -log_p)
    return reduce(rounded_total(terms), reduction, targets.divisor), Saved(targets, reduction)


def backward(upstream: Array, saved: Saved) -> Array:
    r"""Return minus the targets, each row with its coefficient.

    $$\frac{\partial L}{\partial\log p_{nk}} = -g_n\,t_{nk}, \qquad
    g_n = \frac{1}{\bar n}\frac{\partial\mathcal L}{\partial L} \;\text{(mean)}, \quad
    \frac{\partial\mathcal L}{\partial L} \;\text{(sum)}, \quad
    \frac{\partial\mathcal L}{\partial L_n} \;\text{(none)}$$

    Parameters
    ----------
    upstream
        Gradient of the value: a number, or (N,) for "none".
    saved
        What `forward` saved.

    Returns
    -------
    Array
        dL/d log p (N, C).
    """
    t, divisor = saved.targets
    with np.errstate(invalid="ignore"):  # "mean" over rows that all weigh 0 is 0/0
        return -coefficient(upstream, saved.reduction, divisor, len(t))[:, None] * t
