"""Targets of cross entropy, and the rows whose loss is known without balls.

Symbols: y labels or probabilities; v class weights; ε label smoothing; C classes;
t_nk = v_k ((1 - ε) y_nk + ε/C), with y_nk = [k = y_n] for labels.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import inf, nan
from typing import NamedTuple

import numpy as np

from refloss.engines.certified.balls import Balls, arb, exact_balls
from refloss.engines.certified.known import Rows
from refloss.engines.spec import Arrays
from refloss.error_free import Array, Mask
from refloss.stages.cross_entropy import Settings


class Targets(NamedTuple):
    """The targets t of rows, and which classes count."""

    share: Array
    """y as probabilities (N, C)."""
    weight: Array
    """v (C,)."""
    smoothing: float
    """ε."""
    present: Mask
    """Which classes are not masked by a logit of -inf (N, C)."""

    def rows(self, index: Mask) -> Targets:
        """Return the targets of the rows of an index."""
        return self._replace(share=self.share[index], present=self.present[index])

    def rational(self, n: int, k: int) -> Fraction:
        """Return t_nk."""
        smoothing, share = Fraction(self.smoothing), Fraction(self.share[n, k])
        return Fraction(self.weight[k]) * (share * (1 - smoothing) + smoothing / len(self.weight))

    def balls(self) -> Balls:
        """Return t at the current precision."""
        smoothing = arb(self.smoothing)
        uniform = smoothing / len(self.weight)
        t: Balls = exact_balls(self.weight) * (exact_balls(self.share) * (arb(1) - smoothing) + uniform)
        return t


def known_rows(
    arrays: Arrays, settings: Settings, over_zero: Callable[[], Array], *, capped: bool = False, centers: int = 1
) -> tuple[Rows, Targets]:
    """Return what is known of the rows, and their targets.

    Parameters
    ----------
    arrays
        The inputs by name, y and either z or w among them.
    settings
        Those of cross entropy.
    over_zero
        Returns the loss where "mean" divides by a total weight of 0.
    capped
        Whether logits have a cap, at which infinite ones are: no class is masked then.
    centers
        How many rows of w a class has.
    """
    y = arrays["y"]
    classes = arrays["z"].shape[-1] if "z" in arrays else len(arrays["w"]) // centers
    weight = np.ones(classes) if settings.class_weight is None else np.array(settings.class_weight)
    if y.ndim == 1:
        kept = y != settings.ignore_index
        share = np.where(np.arange(classes) == y[:, None], 1.0, 0.0)
        divisor = sum(map(Fraction, weight[y[kept]]), Fraction(0))
    else:
        kept, share, divisor = np.ones(len(y), np.bool_), y, Fraction(len(y))
    targets = Targets(share, weight, settings.label_smoothing, np.ones(share.shape, np.bool_))
    rows = Rows(kept, np.zeros(len(y)), np.zeros(len(y)), divisor, [])
    if "z" in arrays:
        z = np.where(np.isinf(arrays["z"]), 0.0, arrays["z"]) if capped else arrays["z"]
        targets = targets._replace(present=z != -inf)
        rows = _extreme_logits(z, targets, rows)
    if settings.reduction == "mean" and divisor == 0:
        rows.losses[:] = over_zero()
        rows.gradients[kept] = nan
        value = "" if np.isnan(rows.losses[0]) else f"the value is {rows.losses[0]:g}, the gradient "
        rows.notes.append(f'"mean" divides by a total weight of 0: {value}NaN')
        rows = rows._replace(computed=np.zeros(len(y), np.bool_))
    return rows, targets


def _extreme_logits(z: Array, targets: Targets, rows: Rows) -> Rows:
    """Leave out the rows that are undefined, and note the losses of those with a target at a logit of -inf."""
    kept = rows.computed
    present = targets.present
    undefined = kept & (np.isnan(z).any(axis=1) | (z == inf).any(axis=1) | ~present.any(axis=1))
    computed = kept & ~undefined
    infinite = np.zeros(len(z), np.bool_)
    for n, k in np.argwhere(~present & computed[:, None]):
        t = targets.rational(n, k)
        if t:
            loss = inf if t > 0 else -inf
            rows.losses[n] = nan if infinite[n] and rows.losses[n] != loss else loss
            infinite[n] = True
    rows.losses[undefined] = rows.gradients[undefined] = nan
    notes = [f"row {n}: NaN, +inf or nothing but -inf among the logits: NaN" for n in np.flatnonzero(undefined)]
    notes += [
        f"row {n}: a target at a logit of -inf: the loss is {rows.losses[n]:g}, the gradient its limit"
        for n in np.flatnonzero(infinite)
    ]
    return rows._replace(computed=computed, notes=notes)
