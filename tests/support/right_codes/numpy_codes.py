"""Right implementations in NumPy, with gradients of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from support.right_codes.code import CE, Add, Array

Kernel = Callable[[Array, Add], tuple[Array, Array]]


def sequential(terms: Array) -> Array:
    """Sum over the last axis, one term after the other."""
    return np.asarray(np.add.accumulate(terms, axis=-1)[..., -1])


def pairwise(terms: Array) -> Array:
    """Sum over the last axis, halves of halves."""
    return np.ascontiguousarray(terms).sum(axis=-1)


def blocked(terms: Array) -> Array:
    """Sum over the last axis, blocks of four first."""
    blocks = [sequential(terms[..., i : i + 4]) for i in range(0, terms.shape[-1], 4)]
    return sequential(np.stack(blocks, axis=-1))


def accumulated(add: Add) -> Add:
    """Sum in float32 at least and store the result in the dtype of the terms."""

    def total(terms: Array) -> Array:
        return np.asarray(add(widened(terms)).astype(terms.dtype))

    return total


def widened(a: Array) -> Array:
    """Return half precision as float32, the others as they are."""
    return a.astype(np.float32) if a.dtype.itemsize == 2 else a


def product(a: Array, b: Array, add: Add) -> Array:
    """Return a @ b.T with the accumulate dtype, stored in the dtype of a."""
    return np.asarray(add(widened(a)[:, None, :] * widened(b)[None, :, :]).astype(a.dtype))


def max_first(z: Array, add: Add) -> tuple[Array, Array]:
    """Log p and p from logits with the maximum taken off."""
    gap = z - z.max(axis=1, keepdims=True)
    e = np.exp(gap)
    total = accumulated(add)(e)[:, None]
    return gap - np.log(total), e / total


def exp_of_log(z: Array, add: Add) -> tuple[Array, Array]:
    """Log p with the maximum taken off, and p as its exponential."""
    log_p, _ = max_first(z, add)
    return log_p, np.exp(log_p)


def log_sum_exp(z: Array, add: Add) -> tuple[Array, Array]:
    """Log p as z - logsumexp(z), the latter one rounded number per row."""
    top = z.max(axis=1, keepdims=True)
    lse = top + np.log(accumulated(add)(np.exp(z - top))[:, None])
    return z - lse, np.exp(z - lse)


def base_two(z: Array, add: Add) -> tuple[Array, Array]:
    """Powers of two instead of exponentials, as GPU kernels have it."""
    gap = z - z.max(axis=1, keepdims=True)
    e = np.exp2(gap * z.dtype.type(math.log2(math.e)))
    total = accumulated(add)(e)[:, None]
    return gap - np.log2(total) * z.dtype.type(math.log(2.0)), e / total


def _running(z: Array, add: Add, block: int = 4) -> tuple[Array, Array]:
    """Maximum and sum of exponentials, block by block."""
    top = np.full(len(z), -np.inf).astype(z.dtype)
    total = np.zeros(len(z)).astype(z.dtype)
    for start in range(0, z.shape[1], block):
        part = z[:, start : start + block]
        higher = np.maximum(top, part.max(axis=1))
        floor = np.where(np.isfinite(higher), higher, z.dtype.type(0.0))  # a block of masked classes alone
        total = total * np.exp(top - floor) + accumulated(add)(np.exp(part - floor[:, None]))
        top = higher
    return top[:, None], total[:, None]


def online(z: Array, add: Add) -> tuple[Array, Array]:
    """Online softmax: a running maximum and a running sum."""
    top, total = _running(z, add)
    return (z - top) - np.log(total), np.exp(z - top) / total


def online_log_sum_exp(z: Array, add: Add) -> tuple[Array, Array]:
    """Online softmax that keeps logsumexp alone for its backward."""
    top, total = _running(z, add)
    lse = top + np.log(total)
    return z - lse, np.exp(z - lse)


class Targets(NamedTuple):
    """What the labels say."""

    t: Array
    """Targets (N, C), rows of ignored labels 0."""
    kept: Array
    """Which rows count (N,)."""
    divisor: Any
    """What the sum is divided by."""


def targets_of(y: Array, classes: int, loss: Any, kind: Any) -> Targets:
    """Targets with smoothing and class weights, from labels or probabilities, in a dtype."""
    eps = loss.label_smoothing
    v = np.ones(classes) if loss.class_weight is None else np.asarray(loss.class_weight)
    if y.ndim == 2:
        kept, own, weight = np.ones(len(y), bool), y.astype(np.float64), np.ones(len(y))
    else:
        kept = y != loss.ignore_index
        own = np.eye(classes)[np.where(kept, y, 0)] * kept[:, None]
        weight = v[np.where(kept, y, 0)]
    t = v * ((1.0 - eps) * own + eps / classes) * kept[:, None]
    divisor = (weight * kept).sum() if loss.reduction == "mean" else 1.0
    return Targets(t.astype(kind), kept, divisor)


def rows_and_gradient(log_p: Array, p: Array, targets: Targets, add: Add) -> tuple[Array, Array]:
    """Loss and gradient of each row: -sum t log p, and p sum t - t."""
    t = targets.t.astype(p.dtype)
    with np.errstate(invalid="ignore"):
        terms = np.where(t == 0, t, t * log_p)
    rows = -accumulated(add)(terms)
    return rows * targets.kept, (p * accumulated(add)(t)[:, None] - t) * targets.kept[:, None]


def reduced(rows: Array, targets: Targets, loss: Any, add: Add) -> Any:
    """Mean, sum or the rows; the mean of nothing is 0."""
    if loss.reduction == "none":
        return rows
    total = widened(add(widened(rows)))
    return np.asarray(total / total.dtype.type(targets.divisor or np.inf)).astype(rows.dtype)


def numpy_logits(
    loss: Any, kernel: Kernel = max_first, add: Add = pairwise, upcast: bool = False
) -> Callable[..., Any]:
    """Cross entropy of logits, every number stored in the dtype unless it is cast to float32 first."""

    def fn(z: Array, y: Array) -> Any:
        kind = z.dtype
        z = widened(z) if upcast else z
        targets = targets_of(y, z.shape[1], loss, z.dtype)
        with np.errstate(all="ignore"):
            log_p, p = kernel(z, add)
        rows, g = rows_and_gradient(log_p, p, targets, add)
        g = g / z.dtype.type(targets.divisor or np.inf)
        return reduced(rows, targets, loss, add).astype(kind), g.astype(kind)

    return fn


def unrounded(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Code that takes half precision and returns float32."""

    def wrapped(*inputs: Any) -> Any:
        return fn(*(entry if entry.dtype.kind == "i" else widened(entry) for entry in inputs))

    return wrapped


def of_scipy(z: Array, y: Array) -> Any:
    """SciPy's log_softmax, and its exponential."""
    from scipy.special import log_softmax

    targets = targets_of(y, z.shape[1], CE, z.dtype)
    log_p = log_softmax(z, axis=1).astype(z.dtype)
    rows, g = rows_and_gradient(log_p, np.exp(log_p), targets, pairwise)
    return reduced(rows, targets, CE, pairwise), g / z.dtype.type(targets.divisor or np.inf)


def small_losses(z: Array, y: Array, loss: Any) -> tuple[Array, Array]:
    """Rows and gradient right relative to themselves: log1p of the others' sum, and 1 - p as a sum."""
    each, keep = np.arange(len(z)), y != loss.ignore_index
    own = np.where(keep, y, 0)
    top = z.max(axis=1)
    e = np.exp(z - top[:, None])
    rest = e.copy()
    rest[each, z.argmax(axis=1)] = 0.0
    rows = (top - z[each, own]) + np.log1p(rest.sum(axis=1))
    others = e.copy()
    others[each, own] = 0.0
    g = e / e.sum(axis=1, keepdims=True)
    g[each, own] = -others.sum(axis=1) / e.sum(axis=1)
    return rows * keep, g * keep[:, None]


def numpy_relative(loss: Any) -> Callable[..., Any]:
    """Cross entropy of logits, accurate for tiny losses too."""

    def fn(z: Array, y: Array) -> Any:
        rows, g = small_losses(z, y, loss)
        targets = targets_of(y, z.shape[1], loss, z.dtype)
        return reduced(rows, targets, loss, pairwise), g / z.dtype.type(targets.divisor or np.inf)

    return fn


def numpy_linear(
    loss: Any, kernel: Kernel = max_first, add: Add = pairwise, upcast: str = "", stored: bool = True
) -> Callable[..., Any]:
    """Softmax loss with its gradients: two products, and a sum for the bias.

    upcast is "" for every number in the dtype, "kernel" for a loss kernel in float32 between matrix products that
    store what they find, or "all" for logits that are never stored in half precision.
    """

    def fn(x: Array, w: Array, y: Array, b: Array | None = None) -> Any:
        kind = x.dtype
        if upcast == "all":
            x, w, b = widened(x), widened(w), None if b is None else widened(b)
        z = product(x, w, add)
        if b is not None:
            z = (widened(z) + widened(b)).astype(z.dtype) if upcast else z + b
        value, g = numpy_logits(loss, kernel, add, upcast=bool(upcast))(z, y)
        gradients = [product(g, w.T, add), product(g.T, x.T, add)]
        gradients += [] if b is None else [accumulated(add)(g.T)]
        return value.astype(kind), *(part.astype(kind) for part in gradients)

    return fn


def without_bias(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same code with three arguments."""

    def wrapped(x: Array, w: Array, y: Array) -> Any:
        return fn(x, w, y)

    return wrapped


def numpy_linear_ones(loss: Any) -> Callable[..., Any]:
    """A bias as one more column of the weights, beside a column of ones."""

    def fn(x: Array, w: Array, y: Array, b: Array | None = None) -> Any:
        if b is None:
            return numpy_linear(loss)(x, w, y)
        one = np.ones((len(x), 1)).astype(x.dtype)
        value, dx, dw = numpy_linear(loss)(np.hstack([x, one]), np.hstack([w, b[:, None]]), y)
        return value, dx[:, :-1], dw[:, :-1], dw[:, -1]

    return fn


class Turn(NamedTuple):
    """A target's angle and what it moves with."""

    c: Array
    """cos θ (N,)."""
    theta: Array
    """θ; sin θ for the addition formula (N,)."""
    in_x: Array
    """Gradient of theta in the unit embedding (N, D)."""
    in_w: Array
    """Gradient of theta in the unit class weights (N, D)."""


class Psi(NamedTuple):
    """The target's cosine with its margin."""

    psi: Array
    per_cosine: Array
    """Its derivative by cos θ, where that is used as it is."""
    per_angle: Array
    """Its derivative by the angle."""


def numpy_turn(x: Array, w: Array, curve: str, add: Add) -> Turn:
    """Angles between unit rows: by two lengths, by one projection, or their sines for the addition formula."""

    def over(rows: Array, size: Array) -> Array:
        return rows / np.where(size > 0, size, np.ones_like(size))[:, None]

    half, c = x.dtype.type(0.5), accumulated(add)(x * w)
    if curve == "projection":
        rejected = x - c[:, None] * w
        r = numpy_length(rejected, add)
        aside = over(rejected, r)
        in_x, in_w = c[:, None] * aside - r[:, None] * w, -(c * c)[:, None] * aside - r[:, None] * x
        return Turn(c, np.arctan2(r, c), in_x, in_w)
    near, far = numpy_length(x - w, add), numpy_length(x + w, add)
    apart, along = (half * far)[:, None] * over(x - w, near), (half * near)[:, None] * over(x + w, far)
    if curve == "addition":
        return Turn(c, half * near * far, apart + along, along - apart)
    return Turn(c, x.dtype.type(2.0) * np.arctan2(near, far), apart - along, -apart - along)


def numpy_length(rows: Array, add: Add) -> Array:
    """Length of each row."""
    return np.sqrt(accumulated(add)(rows * rows)).astype(rows.dtype)


def numpy_psi(loss: Any, turn: Turn, curve: str) -> Psi:
    """The margin, its rule, annealing and gradient convention."""
    margin, c, theta = loss.spec.margin, turn.c, turn.theta
    kind, m1, m2, m3 = c.dtype.type, margin.m1, margin.m2, margin.m3
    one, zero = np.ones_like(c), np.zeros_like(c)
    if m1 == 1.0 and m2 == 0.0:  # on the cosine itself
        off = (c > kind(m3)) if margin.boundary == "conditional" else one
        return Psi(c - kind(m3) * off.astype(c.dtype), one, zero)
    if curve == "addition":
        cos = c * kind(math.cos(m2)) - theta * kind(math.sin(m2))
        marginal = Psi(cos - kind(m3), one * kind(math.cos(m2)), -one * kind(math.sin(m2)))
        phi = np.arctan2(theta, c) + kind(m2)
    else:
        phi = kind(m1) * theta + kind(m2)
        cos = np.cos(phi)
        marginal = Psi(cos - kind(m3), zero, -kind(m1) * np.sin(phi))
    exceeds_pi, k = phi > kind(math.pi), np.floor(phi / kind(math.pi))
    sign = one - kind(2.0) * (k % kind(2.0))
    joined = math.cos((math.pi - m2) / m1) + 1.0 + m3
    where, other = {
        "none": (one < 0, marginal),
        "hard": (exceeds_pi, Psi(c - kind(m2 * math.sin(m2) + m3), one, zero)),
        "easy": (c <= 0, Psi(c - kind(m3), one, zero)),
        "keep": (exceeds_pi, Psi(c - kind(m3), one, zero)),
        "continuous": (exceeds_pi, Psi(c - kind(joined), one, zero)),
        "monotone": (
            exceeds_pi,
            Psi(sign * cos - kind(2.0) * k - kind(m3), sign * marginal.per_cosine, sign * marginal.per_angle),
        ),
        "clamp": (exceeds_pi, Psi(-(one + kind(m3)), zero, zero)),
        "min": (marginal.psi > c, Psi(c, one, zero)),
        "conditional": (c <= kind(m3), Psi(c, one, zero)),
    }[margin.boundary]
    psi = Psi(*(np.where(where, beyond, inside) for beyond, inside in zip(other, marginal, strict=True)))
    if margin.annealing:
        eased, whole = kind(margin.annealing), kind(1.0 + margin.annealing)
        psi = Psi((eased * c + psi.psi) / whole, (eased + psi.per_cosine) / whole, psi.per_angle / whole)
    return Psi(psi.psi, one, zero) if margin.gradient == "detached" else psi


def head_gradients(
    up: Array, of_angle: Array, turn: Turn, kept: Array, own: Array, sides: tuple[tuple[Array, Array], ...], add: Add
) -> list[Array]:
    """Gradients of x and w from those of cosines (N, C) and of the targets' angles; sides are unit rows and lengths."""
    (ux, _), (uw, _) = sides
    turned_x, turned_w = (of_angle[:, None] * part for part in (turn.in_x, turn.in_w))
    dx, dw = product(up, uw.T, add), product(up.T, ux.T, add)
    dx[kept] = dx[kept] + turned_x
    of_class = (np.arange(len(uw))[:, None] == own).astype(ux.dtype)
    dw = dw + product(of_class, turned_w.T, add) if len(own) else dw
    return [
        (whole - accumulated(add)(whole * unit)[:, None] * unit) / size
        for whole, (unit, size) in zip((dx, dw), sides, strict=True)
    ]


def numpy_head(loss: Any, curve: str = "lengths", add: Add = pairwise, upcast: bool = False) -> Callable[..., Any]:
    """A margin loss with its gradients: cosines, ψ in the target's place, cross entropy, two projections."""

    def fn(x: Array, w: Array, y: Array) -> Any:
        kind = x.dtype
        if upcast:
            x, w = widened(x), widened(w)
        length_x, length_w = (numpy_length(rows, add)[:, None] for rows in (x, w))
        ux, uw = x / length_x, w / length_w
        f = product(ux, uw, add)
        kept = np.flatnonzero(y != loss.ignore_index)
        own = y[kept]
        turn = numpy_turn(ux[kept], uw[own], curve, add)
        psi = numpy_psi(loss, turn, curve)
        f[kept, own] = psi.psi
        s = length_x if loss.spec.scale is None else x.dtype.type(loss.spec.scale)
        value, g = numpy_logits(loss, max_first, add)(s * f, y)
        up = s * g
        at_target = up[kept, own]
        up[kept, own] = at_target * psi.per_cosine
        sides = (ux, length_x), (uw, length_w)
        dx, dw = head_gradients(up, at_target * psi.per_angle, turn, kept, own, sides, add)
        if loss.spec.scale is None:
            dx = dx + accumulated(add)(g * f)[:, None] * ux
        return value.astype(kind), dx.astype(kind), dw.astype(kind)

    return fn


def numpy_triplet(loss: Any, add: Add = pairwise, upcast: bool = False) -> Callable[..., Any]:
    """A triplet loss with its gradients; at distance 0 the plain distance has gradient 0."""

    def fn(a: Array, p: Array, n: Array) -> Any:
        kind = a.dtype
        a, p, n = (widened(part) for part in (a, p, n)) if upcast else (a, p, n)
        one = a.dtype.type
        to_p, to_n = a - p, a - n
        near, far = (accumulated(add)(v * v) for v in (to_p, to_n))
        if loss.squared:
            slope_p, slope_n = one(2.0) * to_p, one(2.0) * to_n
        else:
            near, far = np.sqrt(near), np.sqrt(far)
            slope_p, slope_n = (v / np.where(d > 0, d, one(1.0))[:, None] for v, d in ((to_p, near), (to_n, far)))
        violation = near - far + one(loss.m)
        rows, active = np.maximum(violation, one(0.0)), (violation > 0)[:, None]
        scale = one(1.0 / len(a)) if loss.reduction == "mean" else one(1.0)
        value = reduced(rows, Targets(rows, rows, len(a) if loss.reduction == "mean" else 1.0), loss, add)
        gradients = (slope_p - slope_n, -slope_p, slope_n)
        return value.astype(kind), *((np.where(active, part, one(0.0)) * scale).astype(kind) for part in gradients)

    return fn
