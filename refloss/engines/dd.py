"""About 100 bits at real sizes: the stages of the picture, unchanged, on wider numbers, rounded once at the end.

`DoubleDouble` is a pair that keeps all of its bits wherever a stage asks for what is `rounded`; its arithmetic is in
`refloss.engines.kernels.pairs`. Matrix products are exact products of slices at the speed of a BLAS, see
`refloss.sliced_product.matmul`. Two things differ from the engine `chain`:

- The work is cut into blocks: of classes, where rows of weights are normalized and multiplied, and of samples, where
  rows of logits become a loss and its gradient. Of arrays N x C there is one pair, the cosines, which their gradients
  overwrite.
- Projecting onto the plane orthogonal to x loses what it cancels, so a class whose direction is within 1e-8 of ±x goes
  through its angle, as the target does: its gradient is right relative to the sine of that angle, and 0 if that is 0.

A huge logit known to 96 bits has a larger rounding error than a loss can bear. Logits close to the largest are then
computed relative to it from the exact inputs, so that the gap between equal ones is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from refloss import inputs
from refloss.engines.chain import quality_of
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
    Spec,
    Triplet,
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
    ldexp,
    plain,
    put,
    total_by_label,
    where,
)
from refloss.fixed_point import UNIT, Between, inner, settled, units
from refloss.stages import (
    angle,
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


def _loss(
    spec: WithLabels,
    arrays: Arrays,
    classes: int,
    upstream: DoubleDouble | None,
    forward: _Forward,
    row_terms: StageResult = None,
) -> Array:
    """Go from logits to the loss and, given an upstream gradient, back, in blocks of samples.

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
    loss = cross_entropy.reduce(losses, settings.reduction, weights.divisor)
    return np.asarray(DoubleDouble.of(cross_entropy.with_row_terms(loss, row_terms, settings.reduction)).hi)


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


def _margin(spec: Margin, arrays: Arrays, upstream: DoubleDouble | None) -> ValueAndGradients:
    x, w, y = arrays["x"], arrays["w"], arrays["y"]
    unit_x = normalize.forward(DoubleDouble.of(x))
    c: StageResult  # the cosines, and then their gradient
    c, saved_centers = _class_cosines(x, unit_x, w, spec.centers)
    row_of = np.broadcast_to(np.arange(len(w)), c.shape) if saved_centers is None else saved_centers.chosen
    own = row_of[np.arange(len(y)), y]
    theta, saved_angle = angle.forward(DoubleDouble.of(x), DoubleDouble.of(w[own]))
    v, terms, saved_quality = quality_of(spec, arrays, unit_x)
    psi, saved_margin = margin.forward(theta, spec.margin, v)
    scale, exponent = logits.scale_of(spec.scale, unit_x.length, unit_x.exponent, DoubleDouble)
    is_cosine = (psi.hi == theta.cos.hi) & (psi.lo == theta.cos.lo)  # no margin acts there
    is_cosine &= spec.margin.boundary != margin.CIRCLE
    near = _nearly_parallel(c, y)
    dpsi: StageResult = _zeros(len(y))
    dscale: StageResult = _zeros(len(y))
    others: list[tuple[_Places, StageResult, StageResult]] = []

    def forward(rows: slice) -> tuple[Pair, _Backward]:
        etas = _etas(spec, plain(c[rows]), x[rows], w, y[rows], saved_margin, rows)
        z, saved_logits = logits.forward(etas.eta, psi[rows], y[rows], scale[rows], exponent[rows])
        inputs.check_logits_fit(z.hi)
        huge = np.flatnonzero((exponent[rows] > HUGE) & (exponent[rows] < LARGEST))
        if len(huge):
            f, n = saved_logits.f[huge], rows.start + huge
            close = np.abs(f.hi - f.hi.max(axis=1, keepdims=True)) < NEAR
            close[np.arange(len(n)), y[n]] &= is_cosine[n]
            changed = None if etas.changed is None else etas.changed[huge]
            less = _less_largest(f, close, x[n], w, etas.exactly, row_of[n], changed)
            z[huge] = ldexp(less * scale[n][:, None], exponent[n][:, None])

        def backward(dz: StageResult) -> None:
            nonlocal c, dpsi, dscale
            deta_rows, dpsi_rows, dscale_rows = logits.backward(dz, saved_logits)
            c, dpsi, dscale = (
                _put(c, rows, etas.backward(deta_rows, others)),
                _put(dpsi, rows, dpsi_rows),
                _put(dscale, rows, dscale_rows),
            )

        return z, backward

    loss = _loss(spec, arrays, row_of.shape[1], upstream, forward, terms)
    if upstream is None:
        return loss, {}
    dtheta, dv = margin.backward(dpsi, saved_margin)
    dnorm = dscale if spec.scale is None else None
    if saved_quality is not None and dv is not None:
        dterms = cross_entropy.row_weights(upstream, spec.reduction, float(len(y)), len(y))
        by_quality = quality.backward(dv, saved_quality, dterms)
        dnorm = by_quality if dnorm is None else dnorm + by_quality
    by_angle = np.concatenate([own, row_of[near], *(places.k for places, _, _ in others)])
    narrow = _Narrow(_zeros(*x.shape), np.unique(by_angle), x.shape[1])
    narrow.add(np.arange(len(y)), own, *angle.backward(dtheta, saved_angle))
    for places, dx_others, dw_others in others:
        narrow.add(*places, dx_others, dw_others)
    for block in _blocks(len(near.n), x.shape[1], 2**18):
        n, k = near.n[block], near.k[block]
        rows = row_of[n, k]
        narrow.add(n, rows, *_by_angle(x[n], w[rows], c[n, k]))
    c[near] = 0.0
    gradients = _wide_back(c, unit_x, w, narrow, dnorm, saved_centers)
    return loss, gradients if dv is None else gradients | {"m": dv.hi}


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
