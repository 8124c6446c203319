"""About 100 bits at real sizes: the stages of the picture, unchanged, on wider numbers, rounded once at the end.

`DoubleDouble` is a pair that keeps all of its bits wherever a stage asks for what is `rounded`; its arithmetic is in
`refloss.engines.kernels.pairs`. Matrix products are exact products of slices at the speed of a BLAS, see
`refloss.sliced_product.matmul`. Two things differ from the engine `chain`:

- The work is cut into blocks: of classes, where rows of weights are normalized and multiplied, and of samples, where
  rows of logits become a loss and its gradient. Of arrays N x C there is one pair, the cosines, which their gradients
  overwrite; for a loss of rows and of columns there are two, with x and w in each other's place.
- Projecting onto the plane orthogonal to x loses what it cancels, so a class whose direction is within 1e-8 of ±x goes
  through its angle, as the target does: its gradient is right relative to the sine of that angle, and 0 if that is 0.

A huge logit known to 96 bits has a larger rounding error than a loss can bear. Logits close to the largest are then
computed relative to it from the exact inputs, so that the gap between equal ones is 0. Where each logit counts by
itself, in a sigmoid, those close to 0 are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from refloss import inputs
from refloss.engines.chain import beyond_bound, quality_of
from refloss.engines.counting import counted
from refloss.engines.kernels import pairs
from refloss.engines.protocol import IN_FLOAT64, Request, ValueAndGradients
from refloss.engines.slices import ranges
from refloss.engines.spec import (
    UPSTREAM_LSE,
    Arrays,
    Divergence,
    Linear,
    Logits,
    Margin,
    Sigmoid,
    Spec,
    Triplet,
    TwoWay,
    WithCap,
    WithLabels,
)
from refloss.error_free import (
    EXP_TAYLOR,
    Array,
    Integers,
    Mask,
    Pair,
    Scaled,
    StageResult,
    expansion,
    frexp,
    high,
    in_range,
    ldexp,
    plain,
    put,
    rounded_total,
    total_by_label,
    where,
)
from refloss.fixed_point import UNIT, Between, inner, settled, units
from refloss.stages import (
    angle,
    bias,
    binary_cross_entropy,
    class_angles,
    cosine,
    cross_entropy,
    divergence,
    linear,
    log_softmax,
    logits,
    logsumexp,
    margin,
    negatives,
    normalize,
    quality,
    softcap,
    softmax,
    sub_centers,
    triplet,
    z_loss,
)

_ZERO = np.zeros(())


class DoubleDouble(Pair):
    """A pair that nothing rounds. Bounds of functions: 64u², of `expm1mx` 200u²; of the rest, those of a `Pair`."""

    __slots__ = ()

    def rounded(self) -> Self:
        """Everything is kept."""
        return self

    def exp(self) -> DoubleDouble:
        """e to the power of the pair."""
        return self._with(pairs.exp)

    def expm1(self) -> DoubleDouble:
        """e^a - 1."""
        return self._with(pairs.expm1)

    def expm1mx(self) -> DoubleDouble:
        """e^a - 1 - a for a from -1 to 4: Taylor's series up to a = 1, else a difference."""
        x = where(self.hi <= 1.0, self, 0.0)
        series = x * 0.0
        for coefficient in reversed(EXP_TAYLOR):
            series = coefficient + x * series
        return DoubleDouble.of(where(self.hi <= 1.0, x * x * series, self.expm1() - self))

    def log1p(self) -> DoubleDouble:
        """log(1 + a) for a >= -1/2, infinite where a is: the rounded logarithm y, and (a - (e^y - 1)) / e^y.

        What the quotient is wrong by is the square of what y was, at most (8u y)². The logarithm of b >= 1 is log1p of
        b - 1.
        """
        y = DoubleDouble.of(np.where(np.isfinite(self.hi), np.log1p(self.hi), 0.0))
        power = y._with(pairs.expm1)
        exact = y + (self - power) / (power + 1.0)
        finite = np.isfinite(self.hi)
        return DoubleDouble(np.where(finite, exact.hi, self.hi), np.where(finite, exact.lo, 0.0))

    def __add__(self, other: Pair | ArrayLike) -> DoubleDouble:
        return NotImplemented if isinstance(other, Scaled) else _broadcast(pairs.add, self, other)

    __radd__ = __add__

    def __mul__(self, other: Pair | ArrayLike) -> DoubleDouble:
        return NotImplemented if isinstance(other, Scaled) else _broadcast(pairs.multiply, self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Pair | ArrayLike) -> DoubleDouble:
        return NotImplemented if isinstance(other, Scaled) else _broadcast(pairs.divide, self, other)

    def __rtruediv__(self, other: Pair | ArrayLike) -> DoubleDouble:
        return _broadcast(pairs.divide, other, self)

    def _with(self, kernel: Callable[..., None]) -> DoubleDouble:
        return _applied(kernel, (self.hi, self.lo))


def _broadcast(kernel: Callable[..., None], *operands: Pair | ArrayLike) -> DoubleDouble:
    """Apply a kernel to operands of shapes that fit."""
    parts: list[ArrayLike] = []
    for operand in operands:
        parts += (operand.hi, operand.lo) if isinstance(operand, Pair) else (operand, _ZERO)
    shape = np.broadcast(*parts).shape
    return _applied(kernel, [_stretched(np.asarray(part, np.float64), shape) for part in parts])


def _stretched(part: Array, shape: tuple[int, ...]) -> Array:
    """Return an array, or the same number everywhere, in a shape; NumPy's own function takes ten times as long."""
    if part.shape == shape:
        return part
    if part.ndim == 0:
        return np.ndarray(shape, part.dtype, part, strides=(0,) * len(shape))
    return np.broadcast_to(part, shape)


def _applied(kernel: Callable[..., None], parts: Any) -> DoubleDouble:
    """Apply a kernel to arrays of one shape, which have at most two axes, as if they had two."""
    shape = parts[0].shape
    axes = (1, 1, *shape)[-2:]
    hi, lo = np.empty(axes), np.empty(axes)
    kernel(*(part if part.ndim == 2 else part.reshape(axes) for part in parts), hi, lo)
    return DoubleDouble(hi.reshape(shape), lo.reshape(shape))


# -------------------------------------------------------------------------------------------------- what an engine does


def value(spec: Spec, arrays: Arrays, request: Request = IN_FLOAT64) -> Array:
    """Return the loss."""
    return _run(spec, arrays, None)[0]


def value_and_grad(spec: Spec, arrays: Arrays, upstream: Array, request: Request = IN_FLOAT64) -> ValueAndGradients:
    """Return the loss and its gradients by the name of the input."""
    return _run(spec, arrays, upstream)


def _run(spec: Spec, arrays: Arrays, upstream: Array | None) -> ValueAndGradients:
    rows = counted(spec, arrays, upstream)
    wide_upstream = None if rows.upstream is None else DoubleDouble.of(rows.upstream)
    with np.errstate(all="ignore"):  # what is not finite comes out as such
        loss, gradients = _of_head(spec, rows.arrays, wide_upstream)
    return rows.restored(loss), rows.gradients(gradients)


def _of_head(spec: Spec, arrays: Arrays, upstream: DoubleDouble | None) -> ValueAndGradients:
    match spec:
        case Logits():
            return _logits(spec, arrays, upstream)
        case Linear():
            return _linear(spec, arrays, upstream)
        case Margin():
            return _margin(spec, arrays, upstream)
        case Sigmoid() | TwoWay():
            return _sigmoid(spec, arrays, upstream) if isinstance(spec, Sigmoid) else _two_way(spec, arrays, upstream)
        case Divergence():
            return _divergence(spec, arrays, upstream)
        case _:  # Triplet
            return _triplet(spec, arrays, upstream)


def _blocks(count: int, width: int, entries: int) -> list[slice]:
    """Cut rows of a width into blocks of about that many entries."""
    return ranges(count, max(1, entries // max(1, width)))


def _classes(x: Array, w: Array, centers: int = 1) -> list[slice]:
    """Cut classes, of which each has so many rows of w, into blocks."""
    return _blocks(len(w) // centers, max(w.shape[1], len(x)) * centers, 2**18)


def _rows(classes: slice, centers: int) -> slice:
    """Return the rows of w of a block of classes."""
    return slice(classes.start * centers, classes.stop * centers)


def _zeros(*shape: int) -> DoubleDouble:
    return DoubleDouble(np.zeros(shape), np.zeros(shape))


def _put(into: StageResult, index: Any, part: StageResult) -> StageResult:
    """Write entries into an array, which becomes `Scaled` where they are."""
    into = Scaled.of(into) if isinstance(part, Scaled) else into
    into[index] = part
    return into


_Backward: TypeAlias = Callable[[StageResult], None]


_Forward: TypeAlias = Callable[[slice], tuple[Pair, _Backward]]
"""Returns the logits of a block of samples, and a function that takes the gradient with respect to them."""


class _RowLosses(NamedTuple):
    """Cross entropy before anything is added up."""

    losses: StageResult
    """L_n (N,)."""
    divisor: StageResult
    """What "mean" divides by."""
    row_terms: StageResult
    """Terms that are added (N,), or None."""


def _loss(
    spec: WithLabels,
    arrays: Arrays,
    classes: int,
    upstream: DoubleDouble | None,
    forward: _Forward,
    row_terms: StageResult = None,
) -> Array:
    """Go from logits to the loss and, given an upstream gradient, back, in blocks of samples."""
    reduction = spec.cross_entropy.reduction
    losses, divisor, row_terms = _row_losses(spec, arrays, classes, upstream, forward, row_terms)
    loss = cross_entropy.reduce(losses, reduction, divisor)
    return np.asarray(DoubleDouble.of(cross_entropy.with_row_terms(loss, row_terms, reduction)).hi)


def _row_losses(
    spec: WithLabels,
    arrays: Arrays,
    classes: int,
    upstream: StageResult,
    forward: _Forward,
    row_terms: StageResult = None,
) -> _RowLosses:
    """Go from logits to the losses of rows and, given an upstream gradient, back, in blocks of samples.

    Row terms that do not depend on the logits are added; a loss with such terms has no z-loss.
    """
    settings, y, upstream_lse = spec.cross_entropy, arrays["y"], arrays.get(UPSTREAM_LSE)
    weights = cross_entropy.weights(y, classes, settings, DoubleDouble)
    losses: StageResult = _zeros(len(y))
    if settings.z_loss:
        row_terms = _zeros(len(y))
    for rows in _blocks(len(y), classes, 2**16):
        z, backward = forward(rows)
        parts = softmax.exponentials(z)
        log_p, saved_log_softmax = log_softmax.forward(z, parts)
        dlse: StageResult = None
        if upstream_lse is not None:
            dlse = cross_entropy.row_weights(DoubleDouble.of(upstream_lse), "none", 1.0, len(y))[rows]
        if settings.z_loss:
            lse, _ = logsumexp.forward(z, parts)
            terms, saved_z_loss = z_loss.forward(lse, settings.z_loss)
            row_terms = _put(row_terms, rows, terms)
            if upstream is not None:
                plain_weights = cross_entropy.row_weights(upstream, settings.reduction, float(len(y)), len(y))[rows]
                dlse = z_loss.backward(plain_weights, saved_z_loss) + (0.0 if dlse is None else dlse)
        targets = cross_entropy.targets(y[rows], weights, settings.label_smoothing, DoubleDouble)
        losses = _put(losses, rows, cross_entropy.row_losses(log_p, targets.t))
        if upstream is not None:
            row_weights = cross_entropy.row_weights(upstream, settings.reduction, weights.divisor, len(y))[rows]
            dlog_p = cross_entropy.backward(row_weights, cross_entropy.Saved(targets, "none"))
            dz = log_softmax.backward(dlog_p, saved_log_softmax)
            backward(dz if dlse is None else dz + logsumexp.backward(dlse, parts))
    return _RowLosses(losses, weights.divisor, row_terms)


def _capped(spec: WithCap, forward: _Forward) -> _Forward:
    """Scale and cap the logits of every block."""
    if spec.softcap == softcap.UNCHANGED:
        return forward

    def capped(rows: slice) -> tuple[Pair, _Backward]:
        z, backward = forward(rows)
        z_capped, saved = softcap.forward(z, spec.softcap)
        inputs.check_scaled_logits_fit(z.hi, z_capped.hi)
        return z_capped, lambda dz: backward(softcap.backward(dz, saved))

    return capped


def _logits(spec: Logits, arrays: Arrays, upstream: DoubleDouble | None) -> ValueAndGradients:
    z = arrays["z"]
    gradient = np.zeros_like(z)

    def forward(rows: slice) -> tuple[Pair, _Backward]:
        def backward(dz: StageResult) -> None:
            gradient[rows] = dz.hi

        return DoubleDouble.of(z[rows]), backward

    return _loss(spec, arrays, z.shape[1], upstream, _capped(spec, forward)), {"z": gradient}


def _linear(spec: Linear, arrays: Arrays, upstream: DoubleDouble | None) -> ValueAndGradients:
    x, w, b = DoubleDouble.of(arrays["x"]), arrays["w"], arrays.get("b")
    z: StageResult = _zeros(len(x), len(w))  # and then their gradient
    for block in _classes(x.hi, w):
        z[:, block], _ = linear.forward(x, DoubleDouble.of(w[block]), None if b is None else b[block])
    inputs.check_logits_fit(z.hi)
    with np.errstate(over="ignore"):
        size = np.abs(x.hi).max(axis=1) * np.abs(w).max() + (0.0 if b is None else np.abs(b).max())
    huge = np.flatnonzero((size > 2.0**HUGE) & (np.abs(z.hi).max(axis=1) < 2.0**LARGEST))
    only_gaps_count = spec.softcap.softcap is None and not spec.cross_entropy.z_loss
    if len(huge) and only_gaps_count:
        ones, zeros = np.ones((len(huge), 1)), np.zeros(len(w))
        rows_x, rows_w = np.hstack([x.hi[huge], ones]), np.column_stack([w, zeros if b is None else b])
        close = np.abs(z.hi[huge] - z.hi[huge].max(axis=1, keepdims=True)) < NEAR * size[huge, None]
        row_of = np.broadcast_to(np.arange(len(w)), close.shape)
        z[huge] = _less_largest(z[huge], close, rows_x, rows_w, _exact_products, row_of)

    def forward(rows: slice) -> tuple[Pair, _Backward]:
        def backward(dz: StageResult) -> None:
            nonlocal z
            z = _put(z, rows, dz)

        return plain(z[rows]), backward

    loss = _loss(spec, arrays, len(w), upstream, _capped(spec, forward))
    if upstream is None:
        return loss, {}
    dx: StageResult = _zeros(*x.shape)
    dw, db = np.zeros_like(w), np.zeros(len(w))
    for block in _classes(x.hi, w):
        dx_block, dw_block, db_block = linear.backward(z[:, block], linear.Saved(x, DoubleDouble.of(w[block])))
        dx = dx + dx_block
        dw[block], db[block] = dw_block.hi, db_block.hi
    return loss, {"x": dx.hi, "w": dw, "b": db}


class _Head:
    """A margin head: logits of blocks of samples, and the way back from all of them to its inputs."""

    def __init__(self, spec: Margin, arrays: Arrays, *, only_gaps_count: bool = True) -> None:
        x, w, y = arrays["x"], arrays["w"], arrays["y"]
        self.spec, self.x, self.w, self.y, self.only_gaps_count = spec, x, w, y, only_gaps_count
        self.unit_x = normalize.forward(DoubleDouble.of(x))
        self.c: StageResult  # the cosines, and then their gradient
        self.c, self.saved_centers = _class_cosines(x, self.unit_x, w, spec.centers)
        centers = self.saved_centers
        self.row_of = np.broadcast_to(np.arange(len(w)), self.c.shape) if centers is None else centers.chosen
        self.own = self.row_of[np.arange(len(y)), y]
        theta, self.saved_angle = angle.forward(DoubleDouble.of(x), DoubleDouble.of(w[self.own]))
        v, self.terms, self.saved_quality = quality_of(spec, arrays, self.unit_x)
        self.psi, self.saved_margin = margin.forward(theta, spec.margin, v)
        self.s = spec.scale_in(arrays)
        self.scale, self.exponent = logits.scale_of(self.s, self.unit_x.length, self.unit_x.exponent, DoubleDouble)
        self.is_cosine = (self.psi.hi == theta.cos.hi) & (self.psi.lo == theta.cos.lo)  # no margin acts there
        self.is_cosine &= spec.margin.boundary != margin.CIRCLE
        self.near = _nearly_parallel(self.c, y)
        self.dpsi: StageResult = _zeros(len(y))
        self.dscale: StageResult = _zeros(len(y))
        self.others: list[tuple[_Places, StageResult, StageResult]] = []

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.row_of.shape[1])

    def forward(self, rows: slice) -> tuple[Pair, _Backward]:
        """Return the logits of a block, less the largest of a row where those are huge and only gaps count."""
        y, scale, exponent = self.y[rows], self.scale[rows], self.exponent[rows]
        etas = _etas(self.spec, plain(self.c[rows]), self.x[rows], self.w, y, self.saved_margin, rows)
        z, saved_logits = logits.forward(etas.eta, self.psi[rows], y, scale, exponent)
        inputs.check_logits_fit(z.hi)
        huge = np.flatnonzero((exponent > HUGE) & (exponent < LARGEST) & self.only_gaps_count)
        if len(huge):
            f, n = saved_logits.f[huge], rows.start + huge
            close = np.abs(f.hi - f.hi.max(axis=1, keepdims=True)) < NEAR
            close[np.arange(len(n)), self.y[n]] &= self.is_cosine[n]
            changed = None if etas.changed is None else etas.changed[huge]
            less = _less_largest(f, close, self.x[n], self.w, etas.exactly, self.row_of[n], changed)
            z[huge] = ldexp(less * self.scale[n][:, None], self.exponent[n][:, None])

        def backward(dz: StageResult) -> None:
            deta_rows, dpsi_rows, dscale_rows = logits.backward(dz, saved_logits)
            self.c, self.dpsi, self.dscale = (
                _put(self.c, rows, etas.backward(deta_rows, self.others)),
                _put(self.dpsi, rows, dpsi_rows),
                _put(self.dscale, rows, dscale_rows),
            )

        return z, backward

    def gradients(self, upstream: DoubleDouble) -> Arrays:
        """Carry what all blocks have left back to the inputs."""
        x, w, y, own, row_of, near = self.x, self.w, self.y, self.own, self.row_of, self.near
        dtheta, dv = margin.backward(self.dpsi, self.saved_margin)
        dnorm = self.dscale if self.s is None else None
        if self.saved_quality is not None and dv is not None:
            dterms = cross_entropy.row_weights(upstream, self.spec.reduction, float(len(y)), len(y))
            by_quality = quality.backward(dv, self.saved_quality, dterms)
            dnorm = by_quality if dnorm is None else dnorm + by_quality
        by_angle = np.concatenate([own, row_of[near], *(places.k for places, _, _ in self.others)])
        narrow = _Narrow(_zeros(*x.shape), np.unique(by_angle), x.shape[1])
        narrow.add(np.arange(len(y)), own, *angle.backward(dtheta, self.saved_angle))
        for places, dx_others, dw_others in self.others:
            narrow.add(*places, dx_others, dw_others)
        for block in _blocks(len(near.n), x.shape[1], 2**18):
            n, k = near.n[block], near.k[block]
            rows = row_of[n, k]
            narrow.add(n, rows, *_by_angle(x[n], w[rows], self.c[n, k]))
        self.c[near] = 0.0
        gradients = _wide_back(self.c, self.unit_x, w, narrow, dnorm, self.saved_centers)
        if self.spec.scale_input is not None:
            gradients[self.spec.scale_input] = high(plain(rounded_total(self.dscale)))
        return gradients if dv is None else gradients | {"m": dv.hi}


def _margin(spec: Margin, arrays: Arrays, upstream: DoubleDouble | None) -> ValueAndGradients:
    head = _Head(spec, arrays)
    loss = _loss(spec, arrays, head.classes, upstream, head.forward, head.terms)
    return loss, {} if upstream is None else head.gradients(upstream)


def _sigmoid(spec: Sigmoid, arrays: Arrays, upstream: DoubleDouble | None) -> ValueAndGradients:
    head, y, link = _Head(spec.logits, arrays, only_gaps_count=False), arrays["y"], spec.link
    b = link.bias_sign * arrays.get("b", _ZERO)
    losses: StageResult = _zeros(len(y))
    db: StageResult = _zeros()
    for rows in _blocks(len(y), head.classes, 2**16):
        z, head_backward = head.forward(rows)
        beyond = beyond_bound(spec, arrays | {"x": arrays["x"][rows], "y": y[rows]}, float(b))
        z, saved_bias = bias.forward(z, DoubleDouble.of(b), link.bound, beyond)
        inputs.check_logits_fit(z.hi)
        if head.exponent[rows].max() > HUGE:
            _near_0(z, spec.logits, arrays, float(b), rows)
        row_losses, saved = binary_cross_entropy.forward(z, y[rows], link)
        losses = _put(losses, rows, row_losses)
        if upstream is not None:
            row_weights = cross_entropy.row_weights(upstream, spec.reduction, float(len(y)), len(y))[rows]
            dz, db_rows = bias.backward(binary_cross_entropy.backward(row_weights, saved), saved_bias)
            db = db + db_rows
            head_backward(dz)
    loss = cross_entropy.reduce(losses, spec.reduction, np.asarray(float(len(y)) or np.nan))
    loss = np.asarray(DoubleDouble.of(loss).hi)
    if upstream is None:
        return loss, {}
    return loss, head.gradients(upstream) | ({"b": plain(db * link.bias_sign).hi} if "b" in arrays else {})


def _near_0(z: Pair, spec: Margin, arrays: Arrays, b: float, rows: slice) -> None:
    """Find logits of a huge scale that are near 0, relative to it, again: exactly, as f + b / s."""
    x, w, y = arrays["x"][rows], arrays["w"], arrays["y"][rows]
    s = Fraction(spec.scale_in(arrays) or 1.0)
    shift = Fraction(b) / s
    for n, k in np.argwhere(np.abs(z.hi) < NEAR * float(s)).tolist():
        between, is_target = Between.of(x[n], w[k]), bool(y[n] == k)
        exact = s * settled(partial(_shifted, spec, between, is_target, shift))
        z[n, k] = quality.pair_of(exact, DoubleDouble)


def _shifted(spec: Margin, angle: Between, is_target: bool, shift: Fraction, bits: int) -> int:
    """Return a cosine, or what a power makes of it, less the target's margin or with that of the others, and b / s."""
    m = -Fraction(spec.margin.m3) if is_target else Fraction(0)  # type: ignore[arg-type]
    if not is_target and spec.class_angles is not None:
        m = Fraction(spec.class_angles.m)
    f = angle.cos(bits)
    if spec.margin.boundary == margin.POWER:
        f = (((1 << bits) + f) ** spec.margin.power >> (bits + 1) * spec.margin.power - bits - 1) - (1 << bits)
    return f + math.floor((m + shift) * (1 << bits))


def _two_way(spec: TwoWay, arrays: Arrays, upstream: DoubleDouble | None) -> ValueAndGradients:
    """Take the loss of rows and, with x and w in each other's place, that of columns; add what cosines get of both."""
    other_way = arrays | {"x": arrays["w"], "w": arrays["x"]}
    heads = [_Head(spec.logits, inputs_of_way) for inputs_of_way in (arrays, other_way)[: spec.ways]]
    share = None if upstream is None else ldexp(_with_room(upstream), 1 - spec.ways)
    losses: StageResult = _zeros(len(arrays["y"]))
    for head in heads:
        losses = losses + _row_losses(spec.logits, arrays, head.classes, share, head.forward).losses
    loss = cross_entropy.reduce(ldexp(losses, 1 - spec.ways), spec.reduction, np.asarray(float(len(losses))))
    loss, first = np.asarray(DoubleDouble.of(loss).hi), heads[0]
    if upstream is None:
        return loss, {}
    for head in heads[1:]:
        first.c, first.dpsi, first.dscale = first.c + head.c.T, first.dpsi + head.dpsi, first.dscale + head.dscale
    return loss, first.gradients(upstream)


def _with_room(upstream: DoubleDouble) -> DoubleDouble | Scaled:
    """Return numbers of which a half is none that float64 cannot hold."""
    return upstream if in_range(upstream, 900) else Scaled.of(upstream)


class _Etas(NamedTuple):
    """What a block of cosines becomes."""

    eta: Pair
    """η (N, C)."""
    backward: Callable[[StageResult, list[Any]], StageResult]
    """From dL/dη to dL/dc; what goes through angles is added to the list: places, dL/dx and dL/dw."""
    exactly: Callable[[Array, Array, int], list[Fraction]]
    """How much more η of each class is than that of one, exactly."""
    changed: Mask | None = None
    """Where η is not the cosine (N, C), but the target's."""


def _etas(spec: Margin, c: Pair, x: Array, w: Array, y: Integers, saved_margin: margin.Saved, rows: slice) -> _Etas:
    """Change the cosines of a block of samples."""
    exactly = partial(_exact_etas, spec)
    if spec.class_angles is not None:
        wide_x, wide_w = DoubleDouble.of(x), DoubleDouble.of(w)
        eta, saved_angles = class_angles.forward(c, wide_x, wide_w, y, spec.class_angles)

        def backward(deta: StageResult, others: list[Any]) -> StageResult:
            dc, dx, dw = class_angles.backward(deta, saved_angles)
            others.append((_Places(saved_angles.n + rows.start, saved_angles.k), dx, dw))
            return dc

        return _Etas(eta, backward, exactly, class_angles.are_changed(y, saved_angles, spec.class_angles))
    if spec.negatives is not None:
        above = negatives.above(x, w, spec.negatives, lambda n, bits: saved_margin.exactly(n + rows.start, bits))
        threshold = negatives.threshold_of(spec.negatives, saved_margin.threshold[rows])
        eta, saved_negatives = negatives.forward(c, threshold, y, spec.negatives, above)
        return _Etas(eta, lambda deta, _: negatives.backward(deta, saved_negatives), exactly, saved_negatives.hard)
    return _Etas(c, lambda deta, _: deta, _exact_cosines)


def _class_cosines(
    x: Array, unit_x: normalize.Directions, w: Array, centers: int | None
) -> tuple[DoubleDouble, sub_centers.Saved | None]:
    """Return the cosine of every class, and of classes with centers which row of w stands for each."""
    c = _zeros(len(x), len(w) // (centers or 1))
    saved = None if centers is None else sub_centers.Saved(np.empty(c.shape, np.int64), len(w))
    for classes in _classes(x, w, centers or 1):
        rows = _rows(classes, centers or 1)
        cosines, _ = cosine.forward(unit_x, normalize.forward(DoubleDouble.of(w[rows])))
        if saved is not None and centers is not None:
            chosen = sub_centers.nearest(cosines, centers, sub_centers.exactly(x, w[rows]))
            cosines, _ = sub_centers.forward(cosines, chosen)
            saved.chosen[:, classes] = rows.start + chosen
        c[:, classes] = cosines
    return c, saved


HUGE = 40
"""Binary exponent of a scale from which on 96 bits of a logit may be too few for a loss."""
LARGEST = 1020
"""Binary exponent up to which differences of logits fit float64."""
NEAR = 2.0**-30
"""How close to the largest, relative to such a scale, a logit is if it may have a part in the softmax."""


def _less_largest(
    f: Pair,
    close: Mask,
    x: Array,
    w: Array,
    exactly: Callable[[Array, Array, int], list[Fraction]],
    row_of: Integers,
    changed: Mask | None = None,
) -> Pair:
    """Subtract from each row its largest entry; exactly where both are close, if those may be taken exactly.

    exactly takes an embedding, classes, which have one number more if some are changed, and one of them: how much more
    is the entry of each class than that one's? The row of w of every class is `row_of` (N, C).
    """
    largest = f.hi.argmax(axis=1)
    less = f - f[np.arange(len(f)), largest][:, None]
    for n in np.flatnonzero(close[np.arange(len(f)), largest]):
        ks = np.flatnonzero(close[n])
        rows = w[row_of[n, ks]]
        if changed is not None:
            rows = np.column_stack([rows, changed[n, ks]])
        rows, place = np.unique(rows, axis=0, return_inverse=True)  # the same class again takes no time
        place = place.reshape(-1)
        gaps = exactly(x[n], rows, int(place[ks == largest[n]][0]))
        hi, lo = np.array([expansion(gap, 2) for gap in gaps]).T
        less[n, ks] = Pair(hi[place], lo[place])
    return less


def _exact_cosines(x: Array, w: Array, k: int) -> list[Fraction]:
    angles = [Between.of(x, row) for row in w]
    return [settled(lambda bits, a=a: a.cos(bits) - angles[k].cos(bits)) for a in angles]  # type: ignore[misc]


def _exact_etas(spec: Margin, x: Array, w: Array, k: int) -> list[Fraction]:
    etas = [partial(_exact_eta, spec, Between.of(x, row[:-1]), bool(row[-1])) for row in w]
    return [settled(lambda bits, eta=eta: eta(bits) - etas[k](bits)) for eta in etas]  # type: ignore[misc]


def _exact_eta(spec: Margin, angle: Between, changed: bool, bits: int) -> int:
    if changed and spec.class_angles is not None:
        return class_angles.changed(angle, spec.class_angles, bits)
    if changed and spec.negatives is not None:
        return negatives.raised(angle.cos(bits), spec.negatives, bits)
    return 0 if spec.negatives is not None and spec.negatives.rule == "circle" else angle.cos(bits)


def _exact_products(x: Array, w: Array, k: int) -> list[Fraction]:
    entries = units(x, UNIT)
    products = [Fraction(inner(entries, units(row, UNIT)), UNIT**2) for row in w]
    return [product - products[k] for product in products]


class _Places(NamedTuple):
    """Entries of an N x C array."""

    n: Integers
    k: Integers


def _nearly_parallel(c: DoubleDouble, y: Integers) -> _Places:
    """Where a class that is not the target has a direction within 2^-30 of that of x, or of its opposite."""
    places = [_Places(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for rows in _blocks(len(c), c.shape[1], 2**16):
        hi, lo = c.hi[rows], c.lo[rows]
        near = (np.abs(hi) - 1.0) + np.copysign(1.0, hi) * lo > -(2.0**-61)
        near[np.arange(len(hi)), y[rows]] = False
        n, k = np.nonzero(near)
        places.append(_Places(n + rows.start, k))
    return _Places(*(np.concatenate(axis) for axis in zip(*places, strict=True)))


def _by_angle(x: Array, w: Array, dc: StageResult) -> tuple[StageResult, StageResult]:
    """Carry the gradients of cosines of pairs of rows back as if they were targets, without a margin."""
    theta, saved_angle = angle.forward(DoubleDouble.of(x), DoubleDouble.of(w))
    _, saved_margin = margin.forward(theta, margin.Settings())
    return angle.backward(margin.backward(dc, saved_margin)[0], saved_angle)


class _Narrow:
    """Gradients of those pairs of a sample and a class that go through their angle, added up."""

    def __init__(self, x: StageResult, classes: Integers, width: int) -> None:
        self.x, self.classes = x, classes
        self.w: StageResult = _zeros(len(classes), width)

    def add(self, n: Integers, k: Integers, dx: StageResult, dw: StageResult) -> None:
        """Add gradients of rows n of x and k of w."""
        (n, dx), (k, dw) = total_by_label(dx, n), total_by_label(dw, k)
        at = np.searchsorted(self.classes, k)
        self.x, self.w = _put(self.x, n, self.x[n] + dx), _put(self.w, at, self.w[at] + dw)


def _wide_back(
    dc: StageResult,
    unit_x: normalize.Directions,
    w: Array,
    narrow: _Narrow,
    dnorm: StageResult,
    saved_centers: sub_centers.Saved | None,
) -> Arrays:
    """Carry the gradient of the cosines back to embeddings and classes, and add those of narrow branch and lengths."""
    dunit_x: StageResult = _zeros(*narrow.x.shape)
    dw = np.zeros_like(w)
    centers = len(w) // dc.shape[1]
    for classes in _classes(narrow.x.hi, w, centers):
        block, dcosines = _rows(classes, centers), dc[:, classes]
        if saved_centers is not None:
            chosen = saved_centers.chosen[:, classes] - block.start
            dcosines = sub_centers.backward(dcosines, sub_centers.Saved(chosen, block.stop - block.start))
        unit_w = normalize.forward(DoubleDouble.of(w[block]))
        dunit_x_block, dunit_w = cosine.backward(dcosines, cosine.Saved(unit_x.unit, unit_w.unit))
        dunit_x = dunit_x + dunit_x_block
        rows = normalize.backward(dunit_w, unit_w)
        first, last = np.searchsorted(narrow.classes, (block.start, block.stop))
        at = narrow.classes[first:last] - block.start
        dw[block] = _put(rows, at, rows[at] + narrow.w[first:last]).hi
    return {"x": (normalize.backward(dunit_x, unit_x, dnorm) + narrow.x).hi, "w": dw}


def _triplet(spec: Triplet, arrays: Arrays, upstream: DoubleDouble | None) -> ValueAndGradients:
    m, squared, reduction = spec.triplet
    names = spec.differentiable()
    count, width = arrays["anchor"].shape
    losses = triplet.WithExponent(_zeros(count), np.zeros(count, np.int32))
    gradients = {name: np.zeros((count, width)) for name in names}
    if upstream is not None:
        mantissa, exponent = frexp(upstream)
        row_weights = cross_entropy.row_weights(mantissa, reduction, np.float64(count), count)
        exponents = np.broadcast_to(exponent, (count,))
    for rows in _blocks(count, width, 2**16):
        anchor, positive, negative = (DoubleDouble.of(arrays[name][rows]) for name in names)
        row_losses, saved = triplet.forward(anchor, positive, negative, m, squared)
        put(losses.mantissa, rows, row_losses.mantissa)
        losses.exponent[rows] = row_losses.exponent
        if upstream is not None:
            parts = triplet.backward(row_weights[rows], saved, exponents[rows])
            for name, part in zip(names, parts, strict=True):
                gradients[name][rows] = part.hi
    return np.asarray(DoubleDouble.of(triplet.reduce(losses, reduction)).hi), gradients


def _divergence(spec: Divergence, arrays: Arrays, upstream: DoubleDouble | None) -> ValueAndGradients:
    form, reduction = spec.divergence
    count, width = arrays["z"].shape
    losses: StageResult = _zeros(count)
    gradients = {name: np.zeros((count, width)) for name in spec.differentiable()}
    for rows in _blocks(count, width, 2**16):
        z, target = (DoubleDouble.of(arrays[name][rows]) for name in gradients)
        row_losses, saved = divergence.forward(z, target, form)
        losses = _put(losses, rows, row_losses)
        if upstream is not None:
            row_weights = cross_entropy.row_weights(upstream, reduction, np.float64(count), count)[rows]
            for name, part in zip(gradients, divergence.backward(row_weights, saved), strict=True):
                gradients[name][rows] = plain(part).hi
    loss = cross_entropy.reduce(losses, reduction, np.asarray(float(count)))
    return np.asarray(DoubleDouble.of(loss).hi), gradients
