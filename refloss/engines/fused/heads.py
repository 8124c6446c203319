r"""Heads: the loss of embeddings and class weights, and its gradients, with one N x C buffer at most.

    pass 1   for every block of classes   x W_kᵀ ──► exponentials, in place ──► its partial state; all are merged
    pass 2   for every sample             the state and the target ──► the loss, dL/dz of the target, dL/dx
    pass 3   for every block of classes   dL/dW_k = eᵀ (f x) ──► added to other groups' ──► projected
    pass 4   for every sample             the target's part of dL/dW and dL/db

The target is left out of the blocks: it goes through the narrow branch, see `target`, while pass 1 runs, as dL/dx is
computed while pass 3 runs. Where it is the threshold of hard classes, it goes first. The gradient of W needs the
exponentials again: they are kept, N x C at most, and never more than W or `MIN_KEPT_BYTES` takes, by cutting the
samples into groups, which go through passes 1 to 3 one after the other. The gradients of groups are added up together
with their rounding errors.

Symbols: N samples; C classes; D entries of a vector; x (N, D); W (C, D); y (N,) the labels; b (C,), or no bias.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from refloss import inputs
from refloss.engines import contract
from refloss.engines.counting import counted
from refloss.engines.fused.blocks import Classes, group_size
from refloss.engines.fused.class_gradients import ClassGradients, GroupBackward
from refloss.engines.fused.headroom import DType, check_lse_gradient, check_options, check_targets
from refloss.engines.fused.online_softmax import PartialState, RowLoss, finish
from refloss.engines.fused.reduction import reduced, row_weights, with_row_terms
from refloss.engines.fused.row_scaling import ScaledNumbers, add_exponents, ldexp_rows, scaled
from refloss.engines.fused.samples import Samples
from refloss.engines.fused.sweep import Sweep
from refloss.engines.fused.target import Target, linear_target, margin_target
from refloss.engines.protocol import Request, ValueAndGradients
from refloss.engines.slices import ranges
from refloss.engines.spec import Arrays, Linear, Margin
from refloss.error_free import Array, Integers, Pair, plain, total_by_label
from refloss.stages import cross_entropy, softcap

PLAIN_GROUPS = 4
"""Most groups of samples whose gradients are added up without their rounding errors."""


def value_and_grad(
    spec: Linear | Margin, arrays: Arrays, upstream: Array | None, request: Request
) -> ValueAndGradients:
    """Return the loss, and the gradients that are wanted; none without an upstream gradient."""
    rows = counted(spec, arrays, upstream)
    loss, gradients = _of_counted(spec, rows.arrays, rows.upstream, request)
    return rows.restored(loss), rows.gradients(gradients)


def _of_counted(spec: Linear | Margin, arrays: Arrays, upstream: Array | None, request: Request) -> ValueAndGradients:
    """Return the same for samples that all count."""
    dtype, reduction = np.dtype(request.dtype), spec.cross_entropy.reduction
    n, (c, d) = len(arrays["y"]), arrays["w"].shape
    targets = _label_targets(arrays["y"], c, spec.cross_entropy, dtype)
    lambda_ = spec.cross_entropy.z_loss
    wanted: tuple[str, ...] = ()
    row_weight = ScaledNumbers(np.zeros(n), None)
    term_weight = row_weight
    if upstream is not None:
        wanted = request.wanted(tuple(name for name in spec.differentiable() if name in arrays))
        term_weight = row_weights(upstream, reduction, np.asarray(float(n)), n, dtype)
        row_weight = row_weights(upstream, reduction, targets.divisor, n, dtype)
        if isinstance(spec, Linear) and spec.softcap.logit_scale != 1.0:
            row_weight = row_weight.times(ScaledNumbers.of(np.full(n, spec.softcap.logit_scale), dtype))
    keep = "w" in wanted or "b" in wanted
    size = group_size(n, c, d, dtype, keep=keep)
    samples = _samples(spec, arrays, row_weight, dtype)
    options = spec.softcap if isinstance(spec, Linear) else softcap.UNCHANGED
    check_options(options)
    check_targets(dtype, np.asarray([lambda_]))
    b = arrays["b"] * options.logit_scale if "b" in arrays else None
    classes = Classes(arrays["w"], b, targets.uniform, samples.directions, dtype, read_again=keep)
    class_gradients = ClassGradients(
        dw=request.output("w", (c, d)) if "w" in wanted else None,
        db=Pair(np.zeros(c), np.zeros(c)) if "b" in wanted else None,
        samples=samples,
        row_weight=row_weight,
        kept=(targets.label_target != 0.0) | targets.uniform.any() | (lambda_ != 0.0),
        compensated=n > PLAIN_GROUPS * size,
    )
    sweep = Sweep(classes, size, options.softcap, keep=keep)
    smoothed = len(targets.uniform) > 0
    gradients = _Gradients(samples, class_gradients, sweep, term_weight, smoothed=smoothed) if wanted else None
    # the slope of a z-loss relative to that of the row's loss, whose weight is another where "mean" divides by weights
    lse_slope = 2.0 * lambda_ * (float(targets.divisor) / n if reduction == "mean" and n else 1.0)
    target_of = partial(_label_branch, spec, arrays)
    target_first = isinstance(spec, Margin) and spec.negatives is not None
    losses, lse, terms = _passes(samples, targets.label_target, lse_slope, sweep, target_of, target_first, gradients)
    if n:
        contract.warn_if_unreliable("fused", spec, arrays, dtype, max(classes.longest))
    else:  # no block was read
        inputs.check_classes(classes.w, directions=classes.directions)
    finished = {} if gradients is None else gradients.finish()  # pass 4
    loss = with_row_terms(
        reduced(losses, reduction, targets.divisor), lambda_ * lse * lse if lambda_ else terms, reduction
    )
    return loss, {name: finished[name] for name in wanted}


def _passes(
    samples: Samples,
    label_target: Array,
    lse_slope: float,
    sweep: Sweep,
    target_of: Callable[[slice, Samples], Target],
    target_first: bool,
    gradients: _Gradients | None,
) -> tuple[Array, Array, Array | None]:
    """Return loss and log-sum-exp of every sample, and terms of its target, if there are any.

    Passes 1 to 3, for one group of samples after the other.
    """
    losses, lse, terms = np.empty(len(samples.y)), np.empty(len(samples.y)), list[Array]()
    for at in ranges(len(samples.y), sweep.size):
        group = samples.take(at)
        narrow = partial(target_of, at, group)
        if target_first:  # it is the threshold of hard classes
            target = narrow()
            state, _ = sweep.forward(group, gradients is not None, lambda: None, target.hard)  # pass 1
        else:
            state, target = sweep.forward(group, gradients is not None, narrow)  # pass 1
        row = finish(state, target.logit, label_target[at], lse_slope)  # pass 2
        losses[at], lse[at] = row.loss, row.lse
        check_lse_gradient(group.x.rows.dtype, lse_slope * row.lse)
        if target.slope is not None:
            row = row._replace(grad_label=row.grad_label * target.slope)
        if target.terms is not None:
            terms.append(target.terms.value)
        if gradients is not None:
            gradients.add(at, group, state, target, row)  # the rest of pass 2, and pass 3
    return losses, lse, np.concatenate(terms) if terms else None


class _LabelTargets(NamedTuple):
    """The targets that cross entropy makes of labels."""

    label_target: Array
    """The target of each sample's label (N,)."""
    uniform: Array
    """That of every other class (C,) where labels are smoothed; otherwise nothing (0,)."""
    divisor: Array
    """What "mean" divides by."""


def _label_targets(y: Integers, classes: int, settings: cross_entropy.Settings, dtype: DType) -> _LabelTargets:
    weights = cross_entropy.weights(y, classes, settings)
    label_target, uniform = cross_entropy.smoothed_targets(y, weights, settings.label_smoothing)
    if not settings.label_smoothing:
        uniform = uniform[:0]
    check_targets(dtype, label_target, uniform)
    return _LabelTargets(label_target, uniform, plain(weights.divisor))


def _samples(spec: Linear | Margin, arrays: Arrays, row_weight: ScaledNumbers, dtype: DType) -> Samples:
    if isinstance(spec, Margin):
        return Samples.of_margin(arrays["x"], arrays["y"], spec.scale, row_weight, dtype)
    return Samples.of_linear(arrays["x"], arrays["y"], row_weight, spec.softcap.logit_scale, dtype)


def _label_branch(spec: Linear | Margin, arrays: Arrays, at: slice, samples: Samples) -> Target:
    """Go down the narrow branch with the samples of a slice."""
    x, w = samples.x, scaled(arrays["w"][samples.y], samples.x.rows.dtype)
    if isinstance(spec, Linear):
        b = arrays["b"][samples.y] if "b" in arrays else None
        return linear_target(x.in_float64(), w.in_float64(), b, spec.softcap)
    if spec.is_plain:
        return margin_target(spec, x.in_float64(), w.in_float64())
    x, w = x.unrounded(arrays["x"][at]), w.unrounded(arrays["w"][samples.y])  # thresholds are those of the inputs
    return margin_target(spec, x, w, arrays["m"][at] if "m" in arrays else None)


class _Gradients:
    """The gradients of the inputs, as groups of samples add to them."""

    def __init__(
        self,
        samples: Samples,
        class_gradients: ClassGradients,
        sweep: Sweep,
        term_weight: ScaledNumbers,
        *,
        smoothed: bool,
    ) -> None:
        self.y, self.sweep, self.smoothed, self.class_gradients = samples.y, sweep, smoothed, class_gradients
        self.term_weight = term_weight
        """The weight of terms that targets add to the loss (N,)."""
        n, d = samples.x.rows.shape
        self.dx, self.dm = np.empty((n, d), samples.x.rows.dtype), np.zeros(n)
        self.target_dw, self.target_dz = np.empty((n, d)), np.empty(n)
        """The targets' part of dL/dW and dL/db, by sample, over the same powers of two."""
        self.target_dw_by_class = self.y, self.target_dw
        """The same of dL/dW by class: the classes that are a target, and their rows."""

    def add(self, at: slice, samples: Samples, state: PartialState, target: Target, row: RowLoss) -> None:
        """Add a group: the rest of pass 2 and, if the gradients of W or b are wanted, pass 3 at the same time."""
        sums = self.class_gradients

        def pass_2() -> None:
            self._backward(at, samples, state, target, row)
            if sums.dw is not None and at.stop == len(self.y):
                self.target_dw_by_class = total_by_label(self.target_dw, self.y)

        if not sums.wanted:
            pass_2()
            return
        self.target_dz[at] = sums.db_weight[at] * row.grad_label
        group = GroupBackward(sums, at, samples, state, row.grad_per_exp, smoothed=self.smoothed)
        self.sweep.backward(group, pass_2)  # pass 3

    def _backward(self, at: slice, samples: Samples, state: PartialState, target: Target, row: RowLoss) -> None:
        """Compute dL/dx of a group, and the gradients of its targets' rows of W."""
        row_exponent = None
        if not self.smoothed:  # then all gradients of a confident sample may be tiny
            sizes = np.maximum(np.abs(row.grad_per_exp), np.abs(row.grad_label))
            row_exponent = ScaledNumbers.of(sizes, self.dx.dtype).exponent
        if row_exponent is not None:
            row = row.over_power_of_two(row_exponent)
        of_target = target.backward(samples.grad_weight.mantissa * row.grad_label)
        self.dx[at] = samples.dx(state, target, row, of_target.x, row_exponent)
        if target.terms is not None:
            weight = self.term_weight.take(at)
            self.dx[at] += ldexp_rows(weight.mantissa[:, None] * target.terms.dx, weight.exponent)
        exponent = add_exponents(samples.grad_weight.exponent, row_exponent)
        if of_target.v is not None:
            self.dm[at] = of_target.v if exponent is None else np.ldexp(of_target.v, exponent)
        if exponent is not None:
            exponent = exponent - np.int32(self.class_gradients.dw_exponent)
        self.target_dw[at] = ldexp_rows(of_target.w, exponent)

    def finish(self) -> dict[str, Array]:
        """Pass 4: add the targets' part of dL/dW and dL/db, and scale everything back."""
        gradients, sums = {"x": self.dx, "m": self.dm.astype(self.dx.dtype)}, self.class_gradients
        if sums.dw is not None:
            classes, rows = self.target_dw_by_class
            sums.dw[classes] += rows
            self.sweep.classes.unscale(sums.dw, sums.dw_exponent)
            gradients["w"] = sums.dw
        if sums.db is not None:
            classes, rows = total_by_label(self.target_dz[:, None], self.y)
            sums.db[classes] = sums.db[classes] + rows[:, 0]
            gradients["b"] = np.ldexp(sums.db.hi, sums.db_exponent).astype(self.dx.dtype)
        return gradients
