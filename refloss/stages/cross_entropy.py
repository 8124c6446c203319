r"""Cross entropy: from log probabilities to the loss.

The one place that computes with labels, weights, smoothing and reduction.

Symbols: log p (N, C); labels y (N,) or probabilities y (N, C); class weights v (C,); label smoothing ε; targets
t (N, C), which need not sum to 1; row losses L_n (N,); n̄ what "mean" divides by.

Weights, probabilities and so targets may have either sign. Where signs differ a loss cancels, and its accuracy is
relative to its absolute terms: Σ |t_k log p_k| for a row, and for the gradient of a logit |t_k| q_k + p_k Σ |t_j| over
j ≠ k. With targets of one sign the first is the loss itself.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array, Integers, Numbers, Pair, high, rounded_total, spread, where


class Settings(NamedTuple):
    """How rows become a loss, with the meaning PyTorch gives these words."""

    reduction: str = "mean"
    label_smoothing: float = 0.0
    class_weight: tuple[float, ...] | None = None
    ignore_index: int | None = -100


class Targets(NamedTuple):
    """What the settings make of the labels."""

    t: Numbers
    """t: what multiplies -log p (N, C)."""
    divisor: Numbers
    """n̄: what "mean" divides by."""


class Saved(NamedTuple):
    """What backward needs."""

    targets: Targets
    """t (N, C) and n̄."""
    reduction: str
    """Which of the three."""


class Weights(NamedTuple):
    """Class weights, in a unit in which their sums cannot overflow."""

    v: Array
    """v, or 1 for every class (C,)."""
    divisor: Numbers
    """n̄: what "mean" divides by."""


def weights(y: Array | Integers, classes: int, settings: Settings, kind: type[Pair] = Pair) -> Weights:
    r"""Take class weights, and what "mean" divides by.

    $$\bar n = \sum_n v_{y_n} \text{ for labels}, \qquad N \text{ for probabilities}$$

    Only ratios of weights count for "mean": weights far from 1 are scaled by a power of two. Weights that add up to 0
    have no mean: NaN here; see `refloss.engines.over_zero`.
    """
    v = np.broadcast_to(1.0, classes) if settings.class_weight is None else np.asarray(settings.class_weight)
    if y.ndim == 2 or settings.class_weight is None:
        return Weights(v, kind.of(float(len(y)) or np.nan).rounded())
    size = np.frexp(np.abs(v[y]).max(initial=0.0))[1]
    if settings.reduction == "mean" and abs(size) > 500:
        v = np.ldexp(v, -size)
    divisor = rounded_total(kind.of(v[y]))
    if settings.reduction == "mean" and (v[y] < 0.0).any():  # what cancels needs an exact sum
        hi = math.fsum(v[y])
        divisor = kind(np.asarray(hi), np.asarray(math.fsum([*v[y], -hi]))).rounded()
    return Weights(v, where(high(divisor) == 0.0, np.nan, divisor))


class Shares(NamedTuple):
    """Targets of labels, without writing out a row a sample."""

    own: Numbers
    """t of the label (N,)."""
    shared: Numbers
    """t of every other class (C,): 0 without smoothing."""


def shares(y: Array | Integers, weights: Weights, label_smoothing: float, kind: type[Pair] = Pair) -> Shares:
    """Part the targets of labels into what the label gets and what every other class gets; see `targets`."""
    v, _ = weights
    if not label_smoothing:
        nothing = np.broadcast_to(0.0, len(v))
        return Shares(kind.of(v[y]).rounded(), kind(nothing, nothing).rounded())
    keep, share = 1.0 - kind.of(label_smoothing), kind.of(label_smoothing) / float(len(v))
    return Shares((v[y] * (keep + share)).rounded(), (v * share).rounded())


def targets(y: Array | Integers, weights: Weights, label_smoothing: float, kind: type[Pair] = Pair) -> Targets:
    r"""Turn labels, or probabilities, into targets.

    $$t_{nk} = (1-\varepsilon)\,v_k\,[k = y_n] + \frac{\varepsilon\,v_k}{C}
    \quad\text{or}\quad t_{nk} = v_k\Bigl((1-\varepsilon)\,y_{nk} + \frac{\varepsilon}{C}\Bigr)$$
    """
    v, divisor = weights
    if y.ndim == 2:
        keep, share = 1.0 - kind.of(label_smoothing), kind.of(label_smoothing) / float(len(v))
        return Targets((v * (keep * y + share)).rounded(), divisor)
    own, shared = shares(y, weights, label_smoothing, kind)
    t = shared[None][np.zeros(len(y), np.int64)]  # a row a sample, to be written to
    t[np.arange(len(y)), y] = own
    return Targets(t, divisor)


def kept(y: Array | Integers, settings: Settings) -> NDArray[np.bool_]:
    """Which rows count: those whose label is not ignore_index."""
    return np.ones(len(y), np.bool_) if y.ndim == 2 else np.asarray(y != settings.ignore_index)


def reduce(losses: Numbers, reduction: str, divisor: Numbers) -> Numbers:
    """Add up row losses, rounding once at the end; "mean" divides."""
    if reduction == "none":
        return losses
    added = rounded_total(losses)
    return added / divisor if reduction == "mean" else added


def coefficient(upstream: Numbers, reduction: str, divisor: Numbers, rows: int) -> Numbers:
    """dL/dL_n of every row (N,)."""
    if reduction == "mean":
        with np.errstate(divide="ignore", invalid="ignore"):
            upstream = upstream / divisor
    return spread(upstream, (rows,))


def forward(log_p: Numbers, targets: Targets, reduction: str) -> tuple[Numbers, Saved]:
    r"""Weigh -log p with the targets and reduce.

    $$L_n = -\sum_k t_{nk}\log p_{nk}, \qquad
    L = \frac{1}{\bar n}\sum_n L_n \;\text{(mean)}, \quad \sum_n L_n \;\text{(sum)}$$

    With "none" the L_n are kept as they are. A target of 0 contributes 0, at a logit of -inf too.

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
    Numbers
        The loss: 0-d, or (N,) for "none".
    Saved
        What `backward` needs.
    """
    with np.errstate(invalid="ignore"):
        terms = where(high(targets.t) == 0.0, 0.0, targets.t * -log_p)
    return reduce(rounded_total(terms), reduction, targets.divisor), Saved(targets, reduction)


def backward(upstream: Numbers, saved: Saved) -> Numbers:
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
    Numbers
        dL/d log p (N, C).
    """
    t, divisor = saved.targets
    with np.errstate(invalid="ignore"):  # "mean" over rows that all weigh 0 is 0/0
        return -coefficient(upstream, saved.reduction, divisor, len(t))[:, None] * t
