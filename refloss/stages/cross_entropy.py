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

from refloss.error_free import (
    Array,
    Integers,
    Numbers,
    Pair,
    Scaled,
    StageResult,
    Wide,
    digits,
    in_range,
    plain,
    rounded_total,
    shift,
    spread,
    where,
)

ORDINARY_BITS = 60
"""Weights and upstream gradients from 2^-ORDINARY_BITS to 2^ORDINARY_BITS are float64 numbers, others `Scaled`: no
product with them may over- or underflow on the way to a number that fits."""


class Settings(NamedTuple):
    """How rows become a loss, with the meaning PyTorch gives these words."""

    reduction: str = "mean"
    label_smoothing: float = 0.0
    class_weight: tuple[float, ...] | None = None
    ignore_index: int | None = -100
    z_loss: float = 0.0
    """λ of the row term `refloss.stages.z_loss`."""


class Targets(NamedTuple):
    """Target weights of all classes, and what "mean" divides by."""

    t: StageResult
    """t: what multiplies -log p (N, C)."""
    divisor: StageResult
    """n̄: what "mean" divides by."""


class Saved(NamedTuple):
    """What backward needs."""

    targets: Targets
    """t (N, C) and n̄."""
    reduction: str
    """Reduction: mean, sum or none."""


class Weights(NamedTuple):
    """Class weights."""

    v: StageResult
    """v, or 1 for every class (C,)."""
    divisor: StageResult
    """n̄: what "mean" divides by."""


def weights(y: Array | Integers, classes: int, settings: Settings, kind: type[Pair] = Pair) -> Weights:
    r"""Take class weights, and what "mean" divides by.

    $$\bar n = \sum_n v_{y_n} \text{ for labels}, \qquad N \text{ for probabilities}$$

    Weights that add up to 0 have no mean: NaN here; see `refloss.engines.counting.mean_over_zero`. Where weights or
    targets are so large or so small that products with them may over- or underflow, v is `Scaled`, and with it all that
    comes of it.
    """
    unweighted = settings.class_weight is None
    v = np.broadcast_to(1.0, classes) if unweighted else np.asarray(settings.class_weight)
    ordinary = (
        (unweighted or in_range(v, ORDINARY_BITS))
        and in_range(np.asarray(settings.label_smoothing), 900)
        and _ordinary(y)
    )
    scaled = v if ordinary else Scaled.of(kind.of(v))
    if y.ndim == 2 or unweighted:
        return Weights(scaled, kind.of(float(len(y)) or np.nan).rounded())
    size = np.frexp(np.abs(v[y]).max(initial=0.0))[1]
    own = np.ldexp(v[y], -size)
    if settings.reduction == "mean" and (own < 0.0).any():  # what cancels needs an exact sum
        hi = math.fsum(own)
        divisor = kind(np.asarray(hi), np.asarray(math.fsum([*own, -hi]))).rounded()
    else:
        divisor = rounded_total(kind.of(own))
    return Weights(scaled, where(digits(divisor) == 0.0, np.nan, shift(divisor, size)))


def _ordinary(y: Array | Integers) -> bool:
    """Whether y are labels, or probabilities of ordinary size: the largest of each row, and none far below."""
    return y.ndim == 1 or (in_range(np.abs(y).max(axis=1, initial=0.0), ORDINARY_BITS) and in_range(y, 900))


class LabelTargets(NamedTuple):
    """Targets of labels, without one row (C,) per sample."""

    label_target: StageResult
    """t of the label (N,)."""
    uniform: StageResult
    """t of every other class (C,): 0 without smoothing."""


def smoothed_targets(
    y: Array | Integers, weights: Weights, label_smoothing: float, kind: type[Pair] = Pair
) -> LabelTargets:
    """Return the target of each label, and of every other class; see `targets`."""
    v, _ = weights
    if not label_smoothing:
        nothing = np.broadcast_to(0.0, len(v))
        label_target = v[y] if isinstance(v, Scaled) else kind.of(v[y])
        return LabelTargets(label_target.rounded(), _like(v, kind(nothing, nothing)).rounded())
    keep, uniform_share = _smoothing(v, label_smoothing, kind)
    return LabelTargets((v[y] * (keep + uniform_share)).rounded(), (v * uniform_share).rounded())


def _smoothing(v: Numbers, label_smoothing: float, kind: type[Pair]) -> tuple[Wide, Wide]:
    """Return 1 - ε and ε / C."""
    smoothing = _like(v, kind.of(label_smoothing))
    return 1.0 - smoothing, smoothing / float(len(v))


def _like(v: Numbers, a: Pair) -> Wide:
    """Return a pair, `Scaled` where the weights are."""
    return Scaled.of(a) if isinstance(v, Scaled) else a


def targets(y: Array | Integers, weights: Weights, label_smoothing: float, kind: type[Pair] = Pair) -> Targets:
    r"""Turn labels, or probabilities, into targets.

    $$t_{nk} = (1-\varepsilon)\,v_k\,[k = y_n] + \frac{\varepsilon\,v_k}{C}
    \quad\text{or}\quad t_{nk} = v_k\Bigl((1-\varepsilon)\,y_{nk} + \frac{\varepsilon}{C}\Bigr)$$
    """
    v, divisor = weights
    if y.ndim == 2:
        keep, uniform_share = _smoothing(v, label_smoothing, kind)
        probabilities = Scaled.of(y) if isinstance(v, Scaled) else y
        return Targets((v * (keep * probabilities + uniform_share)).rounded(), divisor)
    label_target, uniform = smoothed_targets(y, weights, label_smoothing, kind)
    t = uniform[None][np.zeros(len(y), np.int64)]  # one row per sample, to be written to
    t[np.arange(len(y)), y] = label_target
    return Targets(t, divisor)


def kept(y: Array | Integers, settings: Settings) -> NDArray[np.bool_]:
    """Return which rows count: those whose label is not ignore_index."""
    return np.ones(len(y), np.bool_) if y.ndim == 2 else np.asarray(y != settings.ignore_index)


def reduce(losses: Numbers, reduction: str, divisor: Numbers | float) -> StageResult:
    """Add up row losses, rounding once at the end; "mean" divides. What comes out is no longer `Scaled`."""
    if reduction == "none":
        return plain(losses)
    added = rounded_total(losses)
    return plain(added / divisor if reduction == "mean" else added)


def row_weights(upstream: Numbers | float, reduction: str, divisor: Numbers | float, rows: int) -> StageResult:
    """Return the weight dL/dL_n of every row (N,)."""
    upstream = upstream if in_range(upstream, ORDINARY_BITS) else Scaled.of(upstream)
    if reduction == "mean":
        with np.errstate(divide="ignore", invalid="ignore"):
            upstream = upstream / divisor
    return spread(upstream, (rows,))


def forward(
    log_p: Numbers, targets: Targets, reduction: str, row_terms: Numbers | None = None
) -> tuple[StageResult, Saved]:
    r"""Weigh -log p with the targets and reduce; add the row terms.

    $$L_n = -\sum_k t_{nk}\log p_{nk}, \qquad
    L = \frac{1}{\bar n}\sum_n L_n \;\text{(mean)}, \quad \sum_n L_n \;\text{(sum)}$$

    Where there are row terms r_n, their mean over the rows, or their sum, is added. With "none" the L_n, or
    L_n + r_n, are kept as they are. A target of 0 contributes 0, at a logit of -inf too; but where log p is
    NaN, so is L_n, whatever the targets are.

    Parameters
    ----------
    log_p
        Log probabilities (N, C).
    targets
        Targets and what "mean" divides by.
    reduction
        "mean", "sum" or "none".
    row_terms
        Terms r (N,) that no class weight multiplies, such as a z-loss, or None.

    Returns
    -------
    Numbers
        The loss: 0-d, or (N,) for "none".
    Saved
        What `backward` needs.
    """
    loss = reduce(row_losses(log_p, targets.t), reduction, targets.divisor)
    return with_row_terms(loss, row_terms, reduction), Saved(targets, reduction)


def with_row_terms(loss: StageResult, row_terms: Numbers | None, reduction: str) -> StageResult:
    r"""Add row terms to a loss that is reduced already: their mean over the N rows that count, or their sum.

    $$L' = L + \frac{1}{N}\sum_n r_n \;\text{(mean)}, \quad L + \sum_n r_n \;\text{(sum)}, \qquad
    L'_n = L_n + r_n \;\text{(none)}$$

    Class weights are in $\bar n$ and not in N: a row term is not weighted.
    """
    return loss if row_terms is None else loss + reduce(row_terms, reduction, float(len(row_terms)) or np.nan)


def row_losses(log_p: Numbers, t: Numbers) -> StageResult:
    """Weigh -log p with the targets: L_n (N,)."""
    with np.errstate(invalid="ignore"):
        terms = where((digits(t) == 0.0) & np.isinf(digits(log_p)), 0.0, t * -log_p)
    return rounded_total(terms)


def backward(upstream: Numbers, saved: Saved) -> StageResult:
    r"""Return minus the targets, each row times its weight.

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
        return -row_weights(upstream, saved.reduction, divisor, len(t))[:, None] * t
