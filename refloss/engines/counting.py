"""Counting: the samples that count, and what "mean" is where their weights add up to 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from refloss.engines.spec import PER_CLASS, Arrays, Divergence, Margin, Spec, Triplet, WithLabels
from refloss.error_free import Array
from refloss.stages import cross_entropy

L = TypeVar("L", bound=WithLabels)


class Counted(NamedTuple):
    """The samples that count, without those whose label is ignored."""

    arrays: Arrays
    """Their inputs; inputs with one row per class as they are."""
    upstream: Array | None
    """Their upstream gradient, or the one for all."""
    kept: NDArray[np.bool_] | None
    """Which samples count (N,); None where all do."""

    def restored(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Put results of the samples that count back among the others, which get 0; a number stays a number."""
        if self.kept is None or rows.ndim == 0:
            return rows
        restored = np.zeros((len(self.kept), *rows.shape[1:]), rows.dtype)
        restored[self.kept] = rows
        return restored

    def gradients(self, gradients: Arrays) -> Arrays:
        """Restore the gradients of inputs with one row per sample."""
        return {name: g if name in PER_CLASS else self.restored(g) for name, g in gradients.items()}


def counted(spec: Spec, arrays: Arrays, upstream: Array | None) -> Counted:
    """Leave out the samples that are ignored."""
    kept = None if isinstance(spec, Triplet | Divergence) else cross_entropy.kept(arrays["y"], spec.cross_entropy)
    if kept is None or kept.all():
        return Counted(arrays, upstream, None)
    rows = {name: array if name in PER_CLASS else array[kept] for name, array in arrays.items()}
    return Counted(rows, upstream[kept] if upstream is not None and upstream.ndim else upstream, kept)


def mean_over_zero(spec: L, value_of: Callable[[L], Array]) -> Array:
    r"""Return the "mean" where the weights of the labels add up to 0: infinite or NaN, as PyTorch has it.

    $$\frac{L^{(0)}}{0} \text{ for } \varepsilon = 0, \qquad
    (1-\varepsilon)\,\frac{L^{(0)}}{0} + \varepsilon\,\frac{L^{(1)}}{0} \text{ otherwise}$$

    with the sums $L^{(0)}$ without label smoothing and $L^{(1)}$ with smoothing 1, by value_of, of cross entropy alone:
    a finite z-loss or regularizer added to it changes nothing.
    """
    smoothing = spec.cross_entropy.label_smoothing
    if isinstance(spec, Margin) and spec.quality is not None:
        spec = replace(spec, quality=spec.quality._replace(regularizer=0.0))

    def quotient(label_smoothing: float) -> Array:
        settings = spec.cross_entropy._replace(reduction="sum", label_smoothing=label_smoothing, z_loss=0.0)
        return value_of(replace(spec, cross_entropy=settings)) / np.float64(0.0)

    with np.errstate(divide="ignore", invalid="ignore"):
        if not smoothing:
            return np.asarray(quotient(0.0))
        return np.asarray((1.0 - smoothing) * quotient(0.0) + smoothing * quotient(1.0))
