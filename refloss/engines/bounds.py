r"""ValueAndGradients: what a promise of the `contract` amounts to on given inputs, entry by entry.

A promise is relative: to a row's loss, and to the absolute terms of a gradient, what adds up to it before anything
cancels. Both are computed here, for every loss, by the engine's stages. They may be far outside of float64's
range on the way to a bound inside it, so all of them are binary logarithms, and sums are of these.

Symbols: t_nk targets, p_nk probabilities, q = 1 - p, c_n the upstream gradient of a row's loss, G_nk = dL/dz_nk, ψ' the
slope of the target's curve, f the logit over the scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Generic, NamedTuple, TypeVar, cast

import numpy as np

from refloss.engines import chain, contract, dd
from refloss.engines.contract import Promise, log2_lengths
from refloss.engines.counting import counted
from refloss.engines.protocol import ValueAndGradients
from refloss.engines.spec import (
    UPSTREAM_LSE,
    Arrays,
    Divergence,
    Linear,
    Logits,
    Margin,
    OnCosines,
    Sigmoid,
    Spec,
    Triplet,
    TwoWay,
    WithCap,
    WithLabels,
)
from refloss.error_free import Array, Numbers, Pair, Scaled, digits, high, plain, u
from refloss.formats import format_of
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
)

S = TypeVar("S", bound=Spec)
L = TypeVar("L", bound=WithLabels | TwoWay)
H = TypeVar("H", bound=WithCap)


def value_and_grad(spec: Spec, arrays: Arrays, upstream: Array, engine: str, dtype: np.dtype[Any]) -> ValueAndGradients:
    """Return the absolute error that an engine may have on the value and, by the name of the input, on gradients."""
    rows = counted(spec, arrays, upstream)
    with np.errstate(all="ignore"):
        value, gradients = _of_head(spec, rows.arrays, np.asarray(rows.upstream), engine, dtype)
    return rows.restored(value), rows.gradients(gradients)


def _of_head(spec: Spec, arrays: Arrays, upstream: Array, engine: str, dtype: np.dtype[Any]) -> ValueAndGradients:
    match spec:
        case Logits():
            return _logits(_Counted(spec, arrays, upstream, engine, dtype))
        case Linear():
            return _linear(_Counted(spec, arrays, upstream, engine, dtype))
        case Margin():
            return _margin(_Counted(spec, arrays, upstream, engine, dtype))
        case Sigmoid() | TwoWay():
            return _on_cosines(_Counted(spec, arrays, upstream, engine, dtype))
        case Divergence():
            return _divergence(_Counted(spec, arrays, upstream, engine, dtype))
        case _:  # Triplet
            return _triplet(_Counted(spec, arrays, upstream, engine, dtype))


class _Counted(NamedTuple, Generic[S]):
    """A loss on the rows that count, and the engine in question."""

    spec: S
    arrays: Arrays
    upstream: Array
    engine: str
    dtype: np.dtype[Any]

    def wide(self, numbers: Array) -> Array | Pair:
        """Return numbers as the engine computes with them."""
        return dd.DoubleDouble.of(numbers) if self.engine == "dd" else numbers

    @property
    def promise(self) -> Promise:
        """What the engine promises for these rows."""
        scale, x = contract.scales(self.spec, self.arrays), self.arrays.get("x")
        classes, width = (len(self.arrays["w"]), x.shape[1]) if x is not None else (1, 1)
        options = contract.has_options(self.spec, self.arrays)
        return contract.promise(self.engine, self.spec.head, scale, classes, width, self.dtype, options=options)

    @property
    def least(self) -> float:
        """Logarithm of the smallest normal number: what is below may be rounded to 0."""
        return float(np.log2(format_of(self.dtype).smallest))

    def absolute(self, logs: Array) -> Array:
        """Return bounds from their logarithms; at least a few of the smallest numbers there are."""
        least = 32.0 * format_of(self.dtype).spacing
        bounds = np.exp2(logs) * (1.0 + 2.0**-30) + least  # the rounding error of logarithms of a few thousand
        return np.asarray(np.where(np.isnan(bounds), np.inf, bounds))


def _log(a: Numbers) -> Array:
    """Return the binary logarithm of |a|."""
    logs: Array = np.log2(np.abs(digits(a)))
    return np.asarray(np.where(digits(a) == 0.0, -np.inf, logs + a.exponent)) if isinstance(a, Scaled) else logs


def _sum(logs: Array, axis: int) -> Array:
    """Add up numbers given by their logarithms."""
    return np.asarray(np.logaddexp2.reduce(logs, axis=axis, initial=-np.inf))


def _times(*logs: Array) -> Array:
    """Multiply numbers given by their logarithms; 0 times infinity is 0."""
    product, nothing = logs[0], logs[0] == -np.inf
    for log in logs[1:]:
        product, nothing = product + log, nothing | (log == -np.inf)
    return np.asarray(np.where(nothing, -np.inf, product))


class _Rows(NamedTuple):
    """What rows of logits make of a promise; logarithms."""

    value: Array
    """Bound of the value, 0-d or (N,)."""
    error: Array
    """Bound of dL/dz (N, C)."""
    least: Array
    """What dL/dz may lose where numbers below the smallest normal one are rounded to 0 (N, 1)."""


def _cross_entropy(call: _Counted[L], z: Pair) -> _Rows:
    r"""Bound the value and the gradient of logits.

    The absolute terms are $\sum_k |t_k|\,|\log p_k|$ and $|c|\,(|t_k| + p_k\sum_j |t_j|)$; for one label without
    smoothing |L_n| and |G_nk|, where nothing cancels. Where a promise is 1/2 or more neither is known: a loss is then
    off by no more than its gaps are, and a gradient of a logit is between $\pm|c|\sum_k|t_k|$.
    """
    spec, y = call.spec, call.arrays["y"]
    settings, promised = spec.cross_entropy, call.promise
    parts = softmax.exponentials(z)
    log_p, saved = log_softmax.forward(z, parts)
    weights = cross_entropy.weights(y, z.shape[1], settings)
    t, divisor = cross_entropy.targets(y, weights, settings.label_smoothing)
    share = -_log(divisor) if settings.reduction == "mean" else 0.0
    log_row_weights = np.broadcast_to(_log(call.upstream) + share, len(y))
    log_t = _log(t)
    target_sum = _sum(log_t, 1)

    relative = promised.value
    known = relative < 0.5
    rounding = np.log2(32.0 * format_of(call.dtype).u)
    loss = _sum(_times(log_t, _log(log_p)), 1)
    loss_error = np.where(
        known,
        np.log2(relative / (1.0 - relative)) + loss,
        np.logaddexp2(np.log2(relative) + target_sum, rounding + loss),
    )
    loss_error = np.logaddexp2(loss_error, target_sum + call.least)
    value = loss_error if settings.reduction == "none" else _sum(loss_error, 0) + share

    log_p2 = plain(high(log_p)) / np.log(2.0)
    if y.ndim == 1 and not settings.label_smoothing:
        label = np.arange(z.shape[1]) == y[:, None]
        terms = target_sum[:, None] + np.where(label, _log(saved.q), log_p2)
    else:
        terms = np.logaddexp2(log_t, target_sum[:, None] + log_p2)
    terms = np.where((promised.gradient < 0.5)[:, None], terms, target_sum[:, None])
    promised_error = np.log2(np.where(promised.gradient < 0.5, promised.gradient, 2.0) + promised.sums)[:, None]
    least = (log_row_weights + target_sum + call.least)[:, None]
    error = np.logaddexp2(log_row_weights[:, None] + promised_error + terms, least)
    if settings.z_loss or UPSTREAM_LSE in call.arrays:
        of_value, of_lse = _row_terms(call, z, parts)
        value = np.logaddexp2(value, of_value)
        least = np.logaddexp2(least, of_lse[:, None] + call.least)
        error = np.logaddexp2(np.logaddexp2(error, promised_error + of_lse[:, None] + log_p2), least)
    return _Rows(value, error, least)


def _row_terms(call: _Counted[L], z: Pair, parts: softmax.Exponentials) -> tuple[Array, Array]:
    r"""Return the terms of the log-sum-exp: errors of a z-loss's value, and dL/d lse (N,) over the promise.

    What adds up to the log-sum-exp is $\ell = 1 + |M| + \operatorname{log1p}(\cdot)$; the 1 is for logits that a
    product has made.
    """
    settings, upstream_lse = call.spec.cross_entropy, call.arrays.get(UPSTREAM_LSE)
    lse, _ = logsumexp.forward(z, parts)
    size, rows = np.abs(lse.hi), len(z)
    summed = 1.0 + np.abs(z.hi.max(axis=1)) + np.abs(lse.hi - z.hi.max(axis=1))
    log_lambda = np.log2(settings.z_loss)
    share = -np.log2(float(rows)) if settings.reduction == "mean" else 0.0
    of_value = np.log2(call.promise.value) + log_lambda + np.log2(size) + np.log2(size + 2.0 * summed)
    value = of_value if settings.reduction == "none" else _sum(of_value, 0) + share
    slope = _log(call.upstream) + share + log_lambda + 1.0 + np.log2(size + summed)
    slope = np.broadcast_to(slope, (rows,))
    return value, slope if upstream_lse is None else np.logaddexp2(slope, _log(upstream_lse))


def _capped(call: _Counted[H], z: Pair) -> _Rows:
    """Bound the value and the gradient of logits before they are scaled and capped."""
    if call.spec.softcap == softcap.UNCHANGED:
        return _cross_entropy(call, z)
    capped, saved = softcap.forward(z, call.spec.softcap)
    rows, slope = _cross_entropy(call, capped), _log(saved.slope)
    # The slope is 4e/(1 + e)² with an e that may be rounded to 0.
    least = np.where(slope == -np.inf, slope, rows.least + 2.0 + np.log2(call.spec.softcap.logit_scale))
    return rows._replace(error=np.logaddexp2(_times(rows.error, slope), least))


def _logits(call: _Counted[Logits]) -> ValueAndGradients:
    rows = _capped(call, Pair.of(call.wide(call.arrays["z"])))
    return call.absolute(rows.value), {"z": call.absolute(rows.error)}


def _linear(call: _Counted[Linear]) -> ValueAndGradients:
    x, w, b = call.arrays["x"], call.arrays["w"], call.arrays.get("b")
    z, _ = linear.forward(call.wide(x), call.wide(w), b)
    rows = _capped(call, z)
    error_x = _sum(rows.error + log2_lengths(w), 1)
    error_w = _sum(rows.error + log2_lengths(x)[:, None], 0)
    value, bounds = _by_row(call, rows.value, {"x": error_x, "w": error_w})
    return value, bounds if b is None else bounds | {"b": call.absolute(_sum(rows.error, 0))}


def _by_row(call: _Counted[S], value: Array, rows: Arrays) -> ValueAndGradients:
    """Return bounds of which that of a gradient is the same for all entries of a row."""
    shapes = {name: call.arrays[name].shape for name in rows}
    return call.absolute(value), {
        name: np.broadcast_to(call.absolute(logs)[:, None], shapes[name]).copy() for name, logs in rows.items()
    }


def _margin(call: _Counted[Margin]) -> ValueAndGradients:
    return _head(call, call.spec, lambda z: _cross_entropy(call, z))


def _on_cosines(call: _Counted[OnCosines]) -> ValueAndGradients:
    """Bound a loss that ends in another way on the logits of a margin head."""
    match call.spec:
        case Sigmoid():
            sigmoid = cast(_Counted[Sigmoid], call)
            return _head(call, call.spec.logits, lambda z: _sigmoid(sigmoid, z))
        case _:  # TwoWay
            two_way = cast(_Counted[TwoWay], call)
            return _head(call, call.spec.logits, lambda z: _two_way(two_way, z))


def _sigmoid(call: _Counted[Sigmoid], z: Pair) -> _Rows:
    """Bound the value and the gradient of logits before the bias: nothing cancels in either.

    Where a promise is 1/2 or more, a loss is off by no more than its logits are, times their weights, and a gradient is
    between 0 and the weight.
    """
    spec, y, promised = call.spec, call.arrays["y"], call.promise
    b = spec.link.bias_sign * call.arrays.get("b", np.zeros(()))
    z, saved_bias = bias.forward(z, type(z).of(b), spec.link.bound, chain.beyond_bound(spec, call.arrays, float(b)))
    losses, saved = binary_cross_entropy.forward(z, y, spec.link)
    share = -np.log2(float(len(y))) if spec.reduction == "mean" else 0.0
    log_row_weights = np.broadcast_to(_log(call.upstream) + share, len(y))[:, None]
    positive, negative = (_log_of(v) for v in (spec.link.positive, spec.link.negative))
    log_v = np.where(np.arange(z.shape[1]) == y[:, None], positive, negative)

    relative = promised.value
    rounding = np.log2(32.0 * format_of(call.dtype).u)
    of_losses = np.where(
        relative < 0.5,
        np.log2(relative / (1.0 - relative)) + _log(losses),
        np.logaddexp2(np.log2(relative) + _sum(log_v, 1), rounding + _log(losses)),
    )
    of_losses = np.logaddexp2(of_losses, _sum(log_v, 1) + call.least)
    value = of_losses if spec.reduction == "none" else _sum(of_losses, 0) + share

    known = (promised.gradient < 0.5)[:, None]
    terms = np.where(known, np.log2(promised.gradient)[:, None] + _log(saved.slope), log_v)
    least = log_v + call.least
    moves = 0.0 if saved_bias.inside is None else np.log2(saved_bias.inside.astype(np.float64))
    error = _times(log_row_weights + np.logaddexp2(terms, least), np.broadcast_to(moves, z.shape))
    return _Rows(value, error, (log_row_weights + least).max(axis=1, keepdims=True))


def _log_of(v: Fraction) -> float:
    """Return the binary logarithm of a rational number."""
    return math.log2(v.numerator) - math.log2(v.denominator) if v else -math.inf


def _two_way(call: _Counted[TwoWay], z: Pair) -> _Rows:
    """Add the bounds of rows and of columns, half of each."""
    of_rows = _cross_entropy(call, z)
    if call.spec.ways == 1:
        return of_rows
    of_columns = _cross_entropy(call, z.T)
    value, error = np.logaddexp2(of_rows.value, of_columns.value), np.logaddexp2(of_rows.error, of_columns.error.T)
    return _Rows(value - 1.0, error - 1.0, of_rows.least)


def _head(call: _Counted[Any], spec: Margin, bounds_of: Callable[[Pair], _Rows]) -> ValueAndGradients:
    """Bound what ends on the logits of a margin head, whose rows of logits are bounded so."""
    x, w, y = call.arrays["x"], call.arrays["w"], call.arrays["y"]
    unit_x, unit_w = normalize.forward(call.wide(x)), normalize.forward(call.wide(w))
    c, own, saved_centers = chain.class_cosines(spec, call.arrays, cosine.forward(unit_x, unit_w)[0])
    theta, _ = angle.forward(call.wide(x), call.wide(w[own]))
    v, terms, saved_quality = chain.quality_of(spec, call.arrays, unit_x)
    psi, saved_margin = margin.forward(theta, spec.margin, v)
    eta, saved_negatives = chain.hard_negatives(spec, call.arrays, c, saved_margin)
    eta, saved_class_angles = chain.changed_angles(spec, eta, call.wide(x), call.wide(w), y)
    length = log2_lengths(x)
    s = spec.scale_in(call.arrays)
    log_scale = length if s is None else np.full(len(y), np.log2(s))
    scale, exponent = logits.scale_of(s, unit_x.length, unit_x.exponent)
    z, saved_logits = logits.forward(eta, psi, y, scale, exponent)
    rows = bounds_of(z)

    each = np.arange(len(y))
    slopes = _slopes(call, spec, c, saved_centers, saved_negatives, saved_class_angles)
    slopes[each, y] = np.abs(high(saved_margin.slope))
    error_angle = _times(rows.error, np.log2(slopes)) + log_scale[:, None]
    error_x = _sum(error_angle, 1) - length
    if s is None:
        error_x = np.logaddexp2(error_x, _sum(_times(rows.error, _log(saved_logits.f)), 1))
    value, of_m = rows.value, {}
    if saved_margin.by_quality is not None:
        error_v = _times(rows.error[each, y], np.log2(np.abs(high(saved_margin.by_quality)) + ROUNDED)) + log_scale
        if saved_quality is None:
            of_m = {"m": call.absolute(error_v)}
        else:
            error_x = np.logaddexp2(error_x, _times(error_v, _log(saved_quality.slope)))
    if spec.quality is not None and terms is not None:
        of_terms, of_pull = _regularizer(call, spec.quality, terms)
        value, error_x = np.logaddexp2(value, of_terms), np.logaddexp2(error_x, of_pull)
    error_w = error_angle if saved_centers is None else sub_centers.of_all(error_angle, saved_centers, -np.inf)
    value, bounds = _by_row(call, value, {"x": error_x, "w": _sum(error_w, 0) - log2_lengths(w)})
    if saved_centers is not None:  # the gradient of a center that stands for its class in no sample is exactly 0
        bounds["w"][~sub_centers.stands(saved_centers).any(axis=0)] = 0.0
    return value, bounds | of_m | _numbers(call, spec, rows.error, saved_logits.f)


def _slopes(
    call: _Counted[Any],
    spec: Margin,
    c: Pair,
    saved_centers: sub_centers.Saved | None,
    saved_negatives: negatives.Saved | None,
    saved_class_angles: class_angles.Saved | None,
) -> Array:
    """Return how much of G goes on to the angles of other classes (N, C), or to those cosines."""
    slopes = np.ones(c.shape)
    if call.engine == "dd":
        sines = _sines(call.arrays["x"], call.arrays["w"])
        slopes = sines if saved_centers is None else np.take_along_axis(sines, saved_centers.chosen, 1)
    if spec.negatives is not None and saved_negatives is not None:
        easy = 0.0 if spec.negatives.rule == "circle" else 1.0
        slopes *= np.where(saved_negatives.hard, contract.steepest(spec.negatives), easy)
    if spec.class_angles is not None and saved_class_angles is not None:
        kind = (spec.class_angles.rule, spec.class_angles.gradient)
        t = float(spec.class_angles.k)
        if kind != ("power", "exact"):
            slopes *= np.abs(high(saved_class_angles.slope))
        elif call.engine == "dd":  # the slope is wrong by at most t (t - 1) / 2 times what a cosine is
            slopes *= np.abs(high(saved_class_angles.slope)) + t * (t - 1.0) / 2.0 * COSINE["dd"]
        else:
            slopes *= t
        if call.engine != "dd" and kind == ("divided", "exact"):
            slopes /= np.sqrt((1.0 - c.hi) * (1.0 + c.hi))  # the slope itself is wrong, more so next to 1 and -1
        slopes[saved_class_angles.n, saved_class_angles.k] = np.abs(high(saved_class_angles.slope_of_angle))
    return slopes


def _numbers(call: _Counted[Any], spec: Margin, error: Array, f: Pair) -> Arrays:
    """Bound the gradients of a scale and a bias, sums over all logits, whose errors are given."""
    bounds = {}
    if spec.scale_input is not None:
        size = np.logaddexp2(_log(f), np.log2(COSINE[call.engine]))
        bounds[spec.scale_input] = call.absolute(_sum(_times(error, size).ravel(), 0))
    if "b" in call.arrays:
        bounds["b"] = call.absolute(_sum(error.ravel(), 0))
    return bounds


ROUNDED = 16.0 * u
"""What the derivative by a margin may be off by, relative to a promise."""
COSINE = {"chain": 2.0**-4, "fused": 2.0**-4, "dd": 2.0**-43}
"""What a cosine may be off by, relative to the smallest promise for gradients: 2u over 32u, 2^-93 over 8u."""


def _regularizer(call: _Counted[Margin], settings: quality.Settings, terms: Pair) -> tuple[Array, Array]:
    """Bound the value of terms that depend on the length, and their gradient (N,), 0 where the length is held."""
    reduction = call.spec.reduction
    share = -np.log2(float(len(terms))) if reduction == "mean" else 0.0
    of_terms = np.log2(call.promise.value) + _log(terms)
    low, most = (float(bound) for bound in (settings.low, settings.high))
    a = np.exp2(log2_lengths(call.arrays["x"]))
    inside = (a > low * (1.0 - 2.0**-30)) & (a < most * (1.0 + 2.0**-30))
    slopes = np.where(inside, settings.regularizer * (1.0 / most**2 + 1.0 / np.maximum(a, low) ** 2), 0.0)
    of_pull = _times(_log(call.upstream) + share + np.log2(call.promise.gradient), np.log2(slopes))
    return of_terms if reduction == "none" else _sum(of_terms, 0) + share, of_pull


def _sines(x: Array, w: Array) -> Array:
    """Return the sine of the angle of every sample with every class (N, C), right relative to itself."""
    sines = np.empty((len(x), len(w)))
    for n, row in enumerate(x):
        theta, _ = angle.forward(np.broadcast_to(row, w.shape), w)
        sines[n] = theta.sin.hi
    return sines


def _triplet(call: _Counted[Triplet]) -> ValueAndGradients:
    settings, promised = call.spec.triplet, call.promise
    names = call.spec.differentiable()
    anchor, *others = (call.arrays[name] for name in names)
    losses, saved = triplet.forward(anchor, others[0], others[1], settings.m, settings.squared)
    share = -np.log2(float(len(anchor))) if settings.reduction == "mean" else 0.0
    loss: Array = np.log2(promised.value) + np.log2(high(losses.mantissa)) + losses.exponent
    # twice the distances, of halves which cannot overflow; of the plain distance the lengths of two directions
    near, far = (
        2.0 + log2_lengths(anchor / 2.0 - other / 2.0) if settings.squared else np.zeros(len(anchor))
        for other in others
    )
    log_error = _log(call.upstream) + share + np.log2(promised.gradient)
    terms = dict(zip(names, (np.logaddexp2(near, far), near, far), strict=True))
    value, bounds = _by_row(
        call,
        loss if settings.reduction == "none" else _sum(loss, 0) + share,
        {name: log_error + term for name, term in terms.items()},
    )
    is_open = saved.active > 0.0  # a closed hinge is exactly 0
    value = np.where(is_open if settings.reduction == "none" else is_open.any(), value, 0.0)
    return value, {name: np.where(is_open[:, None], bound, 0.0) for name, bound in bounds.items()}


def _divergence(call: _Counted[Divergence]) -> ValueAndGradients:
    r"""Bound the value and the gradients of a divergence.

    With $V = \sum_k |q_k - p_k|$ the absolute terms are $|q_k - p_k| + \max(p_k, q_k) V$ for q - p,
    $p_k (|\log p_k - \log q_k| + L + V)$ for the other gradient of KL(p||q), and
    $q_k (|\log q_k/m_k| + \operatorname{KL}(q\Vert m) + V)/2$ for those of the Jensen-Shannon divergence.
    """
    settings, promised = call.spec.divergence, call.promise
    z, target = (Pair.of(call.wide(call.arrays[name])) for name in ("z", "target"))
    losses, saved = divergence.forward(z, target, settings.form)
    q, p, delta, _ = saved.compared
    apart = _log(divergence.difference(p, q, delta))
    total = _sum(apart, 1)[:, None]

    def of_logs(part: Numbers, log: Numbers, kl: Numbers) -> Array:
        sizes = np.logaddexp2(np.logaddexp2(_log(log), _log(kl)[:, None]), total)
        return _times(_log(part), sizes)

    if settings.form == "jensen-shannon":
        logs = divergence.logs_over_mean(delta)
        sides = zip((q, p), logs, saved.divergences, strict=True)
        terms = [of_logs(part, log, kl) - 1.0 for part, log, kl in sides]
    else:
        near = np.logaddexp2(apart, np.maximum(_log(p), _log(q)) + total)
        is_forward = settings.form == "forward"
        far = of_logs(p if is_forward else q, delta, losses)
        terms = [near, far] if is_forward else [far, near]
    share = -np.log2(float(len(z))) if settings.reduction == "mean" else 0.0
    loss = np.logaddexp2(np.log2(promised.value) + _log(losses), np.full(len(z), call.least))
    row_weights = np.broadcast_to(_log(call.upstream) + share, len(z))[:, None]
    promised_error = np.log2(promised.gradient)[:, None]
    gradients = {
        name: call.absolute(_times(row_weights, np.logaddexp2(promised_error + part, np.full(part.shape, call.least))))
        for name, part in zip(("z", "target"), terms, strict=True)
    }
    return call.absolute(loss if settings.reduction == "none" else _sum(loss, 0) + share), gradients
