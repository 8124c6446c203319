"""Logits: cross entropy of logits in one sweep: every row is read once and, for the gradient, written once.

Symbols: N rows; C classes; z (N, C) logits; y labels (N,), or probabilities (N, C); t the targets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.engines import contract
from refloss.engines.fused.headroom import (
    DType,
    TooLargeError,
    check_lse_gradient,
    check_options,
    check_targets,
    max_logit,
)
from refloss.engines.fused.reduction import reduced, row_weights, with_row_terms
from refloss.engines.fused.row_scaling import ScaledNumbers, aligned, ldexp_rows
from refloss.engines.kernels import rows as row_kernels
from refloss.engines.protocol import Request, ValueAndGradients
from refloss.engines.slices import ranges
from refloss.engines.spec import UPSTREAM_LSE, Arrays, Logits
from refloss.engines.threads import in_order
from refloss.error_free import Array, Integers, plain
from refloss.formats import format_of
from refloss.stages import cross_entropy, softcap

ENTRIES = 2**20
"""Logits that a thread takes at once."""


def value_and_grad(spec: Logits, arrays: Arrays, upstream: Array | None, request: Request) -> ValueAndGradients:
    """Return the loss, and its gradient, if it is wanted and there is an upstream gradient."""
    dtype, reduction, lambda_ = np.dtype(request.dtype), spec.cross_entropy.reduction, spec.cross_entropy.z_loss
    z = aligned(arrays["z"], dtype)
    n, c = z.shape
    targets = _row_targets(arrays["y"], c, spec.cross_entropy, dtype)
    with_gradients, row_weight, lse_gradient = False, ScaledNumbers(np.zeros(n), None), _NO_LSE_GRADIENT
    if upstream is not None:
        with_gradients = bool(request.wanted(spec.differentiable()))
        row_weight = row_weights(upstream, reduction, targets.divisor, n, dtype)
        lse_gradient = _lse_gradient(spec, arrays, upstream, targets.kept, row_weight, dtype)
    of_lse, slope_of_lse = lse_gradient
    weight, losses, lse = row_weight.mantissa.astype(dtype), np.empty(n), np.empty(n)
    check_targets(dtype, np.asarray([lambda_]))
    kernel, scale = _kernel(spec.softcap, dtype), np.zeros(n)
    may_be_unreliable = _may_be_unreliable(spec, dtype)
    dz = request.output("z", (n, c)) if with_gradients else np.empty((0, c), dtype)

    def sweep(rows: slice) -> None:
        row_dz = dz[rows] if with_gradients else np.empty((1, c), dtype)  # or memory for one row of exponentials
        label, label_target, t, kept = targets.take(rows)
        kernel(
            z[rows],
            label,
            label_target,
            t,
            weight[rows],
            *(part[rows] for part in lse_gradient),
            kept,
            with_gradients,
            losses[rows],
            lse[rows],
            row_dz,
        )
        if with_gradients and row_weight.exponent is not None:
            row_dz[:] = ldexp_rows(row_dz, row_weight.exponent[rows])
        if may_be_unreliable:
            scale[rows] = np.where(kept, contract.scales(spec, {"z": z[rows]}), 0.0)

    in_order(sweep, ranges(n, max(1, ENTRIES // c)), partial(deque, maxlen=0))
    _check_overflow(arrays["z"][~np.isfinite(losses)], dtype, spec.softcap)
    check_lse_gradient(dtype, of_lse + slope_of_lse * lse[: len(of_lse)])
    contract.warn_of_scales("fused", spec, scale, c, dtype)
    row_terms = lambda_ * lse * lse if lambda_ else None
    if reduction != "none":
        losses = reduced(losses[targets.kept], reduction, targets.divisor)
        row_terms = None if row_terms is None else row_terms[targets.kept]
    return with_row_terms(losses, row_terms, reduction), {"z": dz} if with_gradients else {}


_NO_LSE_GRADIENT = np.zeros(0), np.zeros(0)
"""The gradient of the log-sum-exp where it has none of its own."""


def _lse_gradient(
    spec: Logits,
    arrays: Arrays,
    upstream: Array,
    kept: NDArray[np.bool_],
    row_weight: ScaledNumbers,
    dtype: DType,
) -> tuple[Array, Array]:
    """Return w and s, by which w + s lse is the gradient of the log-sum-exp of every row, over the row's exponent."""
    lambda_, reduction, n = spec.cross_entropy.z_loss, spec.cross_entropy.reduction, len(kept)
    if not lambda_ and UPSTREAM_LSE not in arrays:
        return _NO_LSE_GRADIENT
    if row_weight.exponent is not None:  # one power of two for both gradients has no room for every pair of them
        raise TooLargeError
    weights = cross_entropy.row_weights(upstream, reduction, float(np.count_nonzero(kept)) or np.nan, n)
    of_lse = np.where(kept, arrays.get(UPSTREAM_LSE, 0.0), 0.0)
    check_targets(dtype, of_lse)
    return of_lse, 2.0 * lambda_ * plain(weights)


def _may_be_unreliable(spec: Logits, dtype: DType) -> bool:
    """Whether there are logits at whose scale nothing is promised: most caps leave none."""
    largest = contract.scales(spec, {"z": np.array([[format_of(dtype).largest]])})
    return bool((contract.promise("fused", spec.head, largest, dtype=dtype, options=True).gradient >= 1.0).any())


def _kernel(settings: softcap.Settings, dtype: DType) -> Callable[..., None]:
    """Return the kernel for logits as they come, or for scaled and capped ones."""
    if settings == softcap.UNCHANGED:
        return row_kernels.cross_entropy
    check_options(settings)
    sigma, cap = dtype.type(settings.logit_scale), dtype.type(settings.softcap or 0.0)
    return partial(row_kernels.capped_cross_entropy, sigma, cap)


class _RowTargets(NamedTuple):
    """The targets of rows of logits."""

    label: Integers
    """y, 0 for rows that do not count; -1 for probabilities (N,)."""
    label_target: Array
    """The target of the label (N,)."""
    t: Array
    """The targets of other classes: (0, C) if all are 0, one row for all samples (1, C), or one row for each (N, C)."""
    kept: NDArray[np.bool_]
    """Rows that count (N,)."""
    divisor: Array
    """What "mean" divides by."""

    def take(self, rows: slice) -> tuple[Integers, Array, Array, NDArray[np.bool_]]:
        """Return the first four for the rows of a slice."""
        t = self.t if len(self.t) < 2 else self.t[rows]
        return self.label[rows], self.label_target[rows], t, self.kept[rows]


def _row_targets(y: Array | Integers, classes: int, settings: cross_entropy.Settings, dtype: DType) -> _RowTargets:
    kept = cross_entropy.kept(y, settings)
    weights = cross_entropy.weights(y[kept], classes, settings)
    if y.ndim == 2:
        label, label_target = np.full(len(y), -1), np.zeros(len(y))
        t = cross_entropy.targets(y, weights, settings.label_smoothing).t
    else:
        label = np.where(kept, y, 0)
        label_target, uniform = cross_entropy.smoothed_targets(label, weights, settings.label_smoothing)
        t = uniform[None] if settings.label_smoothing else np.empty((0, classes))
    check_targets(dtype, label_target, t)
    return _RowTargets(label, label_target.astype(dtype), t.astype(dtype), kept, plain(weights.divisor))


def _check_overflow(z: NDArray[np.floating], dtype: DType, settings: softcap.Settings) -> None:
    """Refuse rows, whose loss is not finite, if a logit is so large that differences of logits may overflow."""
    with np.errstate(over="ignore"):
        sizes = np.abs(np.asarray(z, np.float64)) * max(settings.logit_scale, 1.0)
    if (np.isfinite(z) & (sizes >= max_logit(dtype))).any():
        raise TooLargeError
