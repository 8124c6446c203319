r"""Bounds: what a promise of the `contract` amounts to on given inputs, entry by entry.

A promise is relative: to a row's loss, and to the absolute terms of a gradient, what adds up to it before anything
cancels. Here both are found, for every loss, from the same stages as the engine's. They may be far outside of float64's
range on the way to a bound inside it, so all of them are binary logarithms, and sums are of these.

Symbols: t_nk targets, p_nk probabilities, q = 1 - p, c_n the upstream gradient of a row's loss, G_nk = dL/dz_nk, ψ' the
slope of the target's curve, f the logit over the scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refloss.engines import Arrays, Spec, contract, dd, without_ignored
from refloss.engines.contract import Promise, log2_lengths
from refloss.error_free import Array, Numbers, Pair, Scaled, digits, high, plain
from refloss.formats import format_of
from refloss.stages import angle, cosine, cross_entropy, linear, log_softmax, logits, margin, normalize, triplet

Bounds = tuple[Array, dict[str, Array]]


def value_and_grad(spec: Spec, arrays: Arrays, upstream: Array, engine: str, dtype: Any) -> Bounds:
    """Return the absolute error that an engine may have on the value and, by the name of the input, on gradients."""
    some, incoming, restored = without_ignored(spec, arrays, upstream)
    wide = dd.DoubleDouble.of if engine == "dd" else np.asarray
    with np.errstate(all="ignore"):
        value, gradients = _HEADS[spec.head](_Call(spec, some, np.asarray(incoming), engine, dtype, wide))
    return restored("value", value), {name: restored(name, part) for name, part in gradients.items()}


class _Call(NamedTuple):
    """What is asked, for the rows that count."""

    spec: Spec
    arrays: Arrays
    upstream: Array
    engine: str
    dtype: Any
    wide: Callable[[Any], Any]
    """Makes of float64 numbers what the engine computes with."""

    @property
    def promise(self) -> Promise:
        """What the engine promises for these rows."""
        scale, x = contract.scales(self.spec, self.arrays), self.arrays.get("x")
        classes, width = (len(self.arrays["w"]), x.shape[1]) if x is not None else (1, 1)
        return contract.promise(self.engine, self.spec.head, scale, classes, width, self.dtype)

    @property
    def least(self) -> float:
        """Logarithm of the smallest normal number: what is below may be lost."""
        return float(np.log2(format_of(self.dtype).smallest))

    def absolute(self, logs: Array) -> Array:
        """Return bounds from their logarithms; at least a few of the smallest numbers there are."""
        least = 32.0 * format_of(self.dtype).spacing
        found = np.exp2(logs) * (1.0 + 2.0**-30) + least  # what logarithms of a few thousand lose
        return np.asarray(np.where(np.isnan(found), np.inf, found))


def _log(a: Numbers) -> Array:
    """Return the binary logarithm of |a|."""
    logs: Array = np.log2(np.abs(digits(a)))
    return np.asarray(np.where(digits(a) == 0.0, -np.inf, logs + a.exponent)) if isinstance(a, Scaled) else logs


def _sum(logs: Array, axis: int) -> Array:
    """Add up numbers given by their logarithms."""
    return np.asarray(np.logaddexp2.reduce(logs, axis=axis, initial=-np.inf))


def _times(*logs: Array) -> Array:
    """Multiply numbers given by their logarithms; 0 times whatever is 0."""
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


def _cross_entropy(call: _Call, z: Pair) -> _Rows:
    r"""Bound the value and the gradient of logits.

    The absolute terms are $\sum_k |t_k|\,|\log p_k|$ and $|c|\,(|t_k| + p_k\sum_j |t_j|)$; for one label without
    smoothing |L_n| and |G_nk|, where nothing cancels. Where a promise is 1/2 or more neither is known: a loss is then
    off by no more than its gaps are, and a gradient of a logit is between $\pm|c|\sum_k|t_k|$.
    """
    spec, y = call.spec, call.arrays["y"]
    settings, promised = spec.cross_entropy, call.promise
    log_p, saved = log_softmax.forward(z)
    weights = cross_entropy.weights(y, z.shape[1], settings)
    t, divisor = cross_entropy.targets(y, weights, settings.label_smoothing)
    share = -_log(divisor) if settings.reduction == "mean" else 0.0
    coefficient = np.broadcast_to(_log(call.upstream) + share, len(y))
    log_t = _log(t)
    whole = _sum(log_t, 1)

    relative = promised.value
    known = relative < 0.5
    rounding = np.log2(32.0 * format_of(call.dtype).u)
    loss = _sum(_times(log_t, _log(log_p)), 1)
    of_loss = np.where(
        known,
        np.log2(relative / (1.0 - relative)) + loss,
        np.logaddexp2(np.log2(relative) + whole, rounding + loss),
    )
    of_loss = np.logaddexp2(of_loss, whole + call.least)
    value = of_loss if settings.reduction == "none" else _sum(of_loss, 0) + share

    log_p2 = plain(high(log_p)) / np.log(2.0)
    if y.ndim == 1 and not settings.label_smoothing:
        label = np.arange(z.shape[1]) == y[:, None]
        terms = whole[:, None] + np.where(label, _log(saved.q), log_p2)
    else:
        terms = np.logaddexp2(log_t, whole[:, None] + log_p2)
    terms = np.where((promised.gradient < 0.5)[:, None], terms, whole[:, None])
    lost = np.log2(np.where(promised.gradient < 0.5, promised.gradient, 2.0) + promised.sums)[:, None]
    error = np.logaddexp2(lost + terms, whole[:, None] + call.least)
    return _Rows(value, coefficient[:, None] + error)


def _logits(call: _Call) -> Bounds:
    rows = _cross_entropy(call, Pair.of(call.wide(call.arrays["z"])))
    return call.absolute(rows.value), {"z": call.absolute(rows.error)}


def _linear(call: _Call) -> Bounds:
    x, w, b = (call.arrays.get(name) for name in ("x", "w", "b"))
    z, _ = linear.forward(call.wide(x), call.wide(w), b)
    rows = _cross_entropy(call, z)
    to_x = _sum(rows.error + log2_lengths(w), 1)
    to_w = _sum(rows.error + log2_lengths(x)[:, None], 0)
    value, found = _by_row(call, rows.value, {"x": to_x, "w": to_w})
    return value, found if b is None else found | {"b": call.absolute(_sum(rows.error, 0))}


def _by_row(call: _Call, value: Array, rows: dict[str, Array]) -> Bounds:
    """Return bounds of which that of a gradient is the same for all entries of a row."""
    shapes = {name: call.arrays[name].shape for name in rows}
    return call.absolute(value), {
        name: np.broadcast_to(call.absolute(logs)[:, None], shapes[name]).copy() for name, logs in rows.items()
    }


def _margin(call: _Call) -> Bounds:
    x, w, y, spec = call.arrays["x"], call.arrays["w"], call.arrays["y"], call.spec
    of_x, of_w = normalize.forward(call.wide(x)), normalize.forward(call.wide(w))
    c, _ = cosine.forward(of_x, of_w)
    theta, _ = angle.forward(call.wide(x), call.wide(w[y]))
    psi, of_margin = margin.forward(theta, spec.margin)
    length = log2_lengths(x)
    if spec.scale is None:
        log_scale, scale, exponent = length, of_x.length, of_x.exponent
    else:
        mantissa, exponent = np.frexp(np.full(len(y), spec.scale))
        log_scale, scale = np.full(len(y), np.log2(spec.scale)), Pair.of(mantissa)
    z, of_logits = logits.forward(c, psi, y, scale, exponent)
    rows = _cross_entropy(call, z)

    each = np.arange(len(y))
    slopes = _sines(x, w) if call.engine == "dd" else np.ones(z.shape)
    slopes[each, y] = np.abs(high(of_margin.slope))
    pull = _times(rows.error, np.log2(slopes)) + log_scale[:, None]
    to_x = _sum(pull, 1) - length
    if spec.scale is None:
        to_x = np.logaddexp2(to_x, _sum(_times(rows.error, _log(of_logits.f)), 1))
    return _by_row(call, rows.value, {"x": to_x, "w": _sum(pull, 0) - log2_lengths(w)})


def _sines(x: Array, w: Array) -> Array:
    """Return the sine of the angle of every sample with every class (N, C), right relative to itself."""
    found = np.empty((len(x), len(w)))
    for n, row in enumerate(x):
        theta, _ = angle.forward(np.broadcast_to(row, w.shape), w)
        found[n] = theta.sin.hi
    return found


def _triplet(call: _Call) -> Bounds:
    settings, promised = call.spec.triplet, call.promise
    anchor, *others = (call.arrays[name] for name in ("anchor", "positive", "negative"))
    losses, saved = triplet.forward(anchor, others[0], others[1], settings.m, settings.squared)
    share = -np.log2(float(len(anchor))) if settings.reduction == "mean" else 0.0
    loss: Array = np.log2(promised.value) + np.log2(high(losses.mantissa)) + losses.exponent
    # twice the distances, of halves which cannot overflow; of the plain distance the lengths of two directions
    near, far = (
        2.0 + log2_lengths(anchor / 2.0 - other / 2.0) if settings.squared else np.zeros(len(anchor))
        for other in others
    )
    above = _log(call.upstream) + share + np.log2(promised.gradient)
    ends = {"anchor": np.logaddexp2(near, far), "positive": near, "negative": far}
    value, found = _by_row(
        call,
        loss if settings.reduction == "none" else _sum(loss, 0) + share,
        {name: above + end for name, end in ends.items()},
    )
    is_open = saved.active > 0.0  # a closed hinge is exactly 0
    value = np.where(is_open if settings.reduction == "none" else is_open.any(), value, 0.0)
    return value, {name: np.where(is_open[:, None], part, 0.0) for name, part in found.items()}


_HEADS: dict[str, Callable[[_Call], Bounds]] = {
    "logits": _logits,
    "linear": _linear,
    "margin": _margin,
    "triplet": _triplet,
}
