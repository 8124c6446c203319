"""Implementations that are right: every formula that the page on budgets calls right, at the standard it is right at.

Each code is written as other projects write it: in NumPy with its own gradients, in torch and jax as formulas that the
framework differentiates. None of them calls refloss. `right_codes` yields those of a dtype; `check` has to pass every
one of them at its standard. Symbols: logits z, embeddings x, class weights w, labels y, targets t, probabilities p,
g = dL/dz; half precision accumulates in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

import refloss

Array = np.ndarray[Any, Any]
Add = Callable[[Array], Array]
Kernel = Callable[[Array, Add], tuple[Array, Array]]

HALVES = ("float16", "bfloat16")
SINGLES = ("float32", "float64")
DTYPES = (*HALVES, *SINGLES)
WEIGHTS = (0.5, 0.0, 2.0, 1.0, 3.0, 0.0, 0.25)
"""Class weights, exact in every dtype, two of them 0."""


class Right(NamedTuple):
    """Code that is right, and what it is right at."""

    name: str
    framework: str
    fn: Callable[..., Any]
    loss: Any
    dtypes: tuple[str, ...]
    """The dtypes it is right in."""
    standard: str
    """The standard it is right at in the dtype that was asked for."""
    settings: dict[str, Any]
    """Further arguments of `check`: "accumulate" of jax, whose backward adds up in what it stores; known failures."""


def right_codes(dtype: str) -> Iterator[Right]:
    """Yield every implementation that is right in a dtype."""
    for family in FAMILIES:
        for code in family(dtype):
            if dtype in code.dtypes:
                yield code


def by_dtype(dtype: str, half: str, single: str = "stable") -> str:
    """Return the standard of half precision or of single and double precision."""
    return half if dtype in HALVES else single


# --------------------------------------------------------------------------------------------------------------- NumPy


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
        found = [product(g, w.T, add), product(g.T, x.T, add)]
        found += [] if b is None else [accumulated(add)(g.T)]
        return value.astype(kind), *(part.astype(kind) for part in found)

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
    past, k = phi > kind(math.pi), np.floor(phi / kind(math.pi))
    sign = one - kind(2.0) * (k % kind(2.0))
    joined = math.cos((math.pi - m2) / m1) + 1.0 + m3
    where, other = {
        "none": (one < 0, marginal),
        "hard": (past, Psi(c - kind(m2 * math.sin(m2) + m3), one, zero)),
        "easy": (c <= 0, Psi(c - kind(m3), one, zero)),
        "keep": (past, Psi(c - kind(m3), one, zero)),
        "continuous": (past, Psi(c - kind(joined), one, zero)),
        "monotone": (
            past,
            Psi(sign * cos - kind(2.0) * k - kind(m3), sign * marginal.per_cosine, sign * marginal.per_angle),
        ),
        "clamp": (past, Psi(-(one + kind(m3)), zero, zero)),
        "min": (marginal.psi > c, Psi(c, one, zero)),
        "conditional": (c <= kind(m3), Psi(c, one, zero)),
    }[margin.boundary]
    psi = Psi(*(np.where(where, beyond, inside) for beyond, inside in zip(other, marginal, strict=True)))
    if margin.annealing:
        eased, whole = kind(margin.annealing), kind(1.0 + margin.annealing)
        psi = Psi((eased * c + psi.psi) / whole, (eased + psi.per_cosine) / whole, psi.per_angle / whole)
    return Psi(psi.psi, one, zero) if margin.gradient == "detached" else psi


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
        turned_x, turned_w = ((at_target * psi.per_angle)[:, None] * part for part in (turn.in_x, turn.in_w))
        dx, dw = product(up, uw.T, add), product(up.T, ux.T, add)
        dx[kept] = dx[kept] + turned_x
        of_class = (np.arange(len(w))[:, None] == own).astype(x.dtype)
        dw = dw + product(of_class, turned_w.T, add) if len(own) else dw
        dx, dw = (
            (whole - accumulated(add)(whole * unit)[:, None] * unit) / size
            for whole, unit, size in ((dx, ux, length_x), (dw, uw, length_w))
        )
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
        found = (slope_p - slope_n, -slope_p, slope_n)
        return value.astype(kind), *((np.where(active, part, one(0.0)) * scale).astype(kind) for part in found)

    return fn


# --------------------------------------------------------------------------------------------------------------- torch


def torch_reduced(rows: Any, y: Any, loss: Any) -> Any:
    """Mean over the rows that count, sum, or the rows; ignored ones are 0."""
    import torch

    kept = y != loss.ignore_index if y.ndim == 1 else torch.ones(len(y), dtype=torch.bool)
    rows = torch.where(kept, rows, torch.zeros_like(rows))
    return {"none": lambda: rows, "sum": rows.sum, "mean": lambda: rows.sum() / kept.sum().clamp(min=1)}[
        loss.reduction
    ]()


def picked(a: Any, y: Any) -> Any:
    """The label's entry of each row; of ignored rows, that of class 0."""
    return a.gather(1, y.clamp(min=0)[:, None])[:, 0]


def torch_rows(name: str) -> Callable[..., Any]:
    """Loss of each row of logits with labels, as formulas that autograd differentiates."""
    import torch

    def by_max(top: Callable[[Any], Any]) -> Callable[..., Any]:
        def rows(z: Any, y: Any) -> Any:
            gap = z - top(z)
            return gap.exp().sum(dim=1).log() - picked(gap, y)

        return rows

    return {
        "log_softmax, gather": lambda z, y: -picked(z.log_softmax(dim=1), y),
        "F.nll_loss of log_softmax": lambda z, y: torch.nn.functional.nll_loss(
            z.log_softmax(dim=1), y.clamp(min=0), reduction="none"
        ),
        "logsumexp - z_y": lambda z, y: z.logsumexp(dim=1) - picked(z, y),
        "maximum off, detached": by_max(lambda z: z.detach().max(dim=1, keepdim=True).values),
        "maximum off, max with its gradient": by_max(lambda z: z.max(dim=1, keepdim=True).values),
        "maximum off, amax with its gradient": by_max(lambda z: z.amax(dim=1, keepdim=True)),
        "one-hot times log_softmax": lambda z, y: (
            -(
                torch.nn.functional.one_hot(y.clamp(min=0), z.shape[1]) * z.log_softmax(dim=1).nan_to_num(neginf=0.0)
            ).sum(dim=1)
        ),
    }[name]


def torch_logits(rows: Callable[..., Any], loss: Any, upcast: bool = False) -> Callable[..., Any]:
    """A loss of logits from its rows."""

    def fn(z: Any, y: Any) -> Any:
        found = torch_reduced(rows(z.float() if upcast else z, y), y, loss)
        return found.to(z.dtype) if upcast else found

    return fn


def torch_settings(loss: Any, z: Any) -> dict[str, Any]:
    """What torch calls the settings of a loss."""
    import torch

    weight = None if loss.class_weight is None else torch.tensor(loss.class_weight, dtype=z.dtype)
    return {
        "reduction": loss.reduction,
        "label_smoothing": loss.label_smoothing,
        "ignore_index": loss.ignore_index,
        "weight": weight,
    }


def torch_cross_entropy(loss: Any, cast: Callable[[Any], Any] = lambda z: z) -> Callable[..., Any]:
    """torch's own, of the logits as they are or cast."""
    import torch

    def fn(z: Any, y: Any) -> Any:
        settings = torch_settings(loss, cast(z))
        if y.ndim == 2:
            settings.pop("ignore_index")
        return torch.nn.functional.cross_entropy(cast(z), y, **settings)

    return fn


def torch_p_minus_one(loss: Any, upcast: bool) -> Callable[..., Any]:
    """A kernel that stores p - t of each row, and multiplies it by the upstream gradient in the storage dtype."""
    import torch

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Any, y: Any) -> Any:
            work = z.float() if upcast and z.dtype.itemsize == 2 else z
            kept = y != loss.ignore_index
            n = int(kept.sum()) if loss.reduction == "mean" else 1
            log_p = work.log_softmax(dim=1)
            t = torch.nn.functional.one_hot(y.clamp(min=0), z.shape[1]).to(work.dtype)
            eps = loss.label_smoothing
            t = (1.0 - eps) * t + eps / z.shape[1]
            rows = torch.where(kept, -(t * log_p.masked_fill(t == 0, 0.0)).sum(dim=1), 0.0 * work[:, 0].nan_to_num())
            g = (log_p.exp() - t) * kept[:, None] / max(n, 1)
            ctx.save_for_backward(g.to(z.dtype))
            return (rows if loss.reduction == "none" else rows.sum() / max(n, 1)).to(z.dtype)

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            (g,) = ctx.saved_tensors
            return g * (upstream[:, None] if upstream.ndim else upstream), None

    return Kernel.apply


def torch_probabilities(loss: Any) -> Callable[..., Any]:
    """-sum t log p with labels or probabilities for targets."""

    def fn(z: Any, y: Any) -> Any:
        if y.ndim == 2:
            return -(y * z.log_softmax(dim=1)).sum(dim=1).mean()
        return torch_logits(torch_rows("log_softmax, gather"), loss)(z, y)

    return fn


def torch_linear(of_logits: Callable[..., Any], upcast: bool = False) -> Callable[..., Any]:
    """A linear layer and a loss of its logits."""
    import torch

    def fn(x: Any, w: Any, y: Any, b: Any = None) -> Any:
        kind = x.dtype
        if upcast:
            x, w, b = x.float(), w.float(), None if b is None else b.float()
        value = of_logits(torch.nn.functional.linear(x, w, b), y)
        return value.to(kind) if upcast else value

    return fn


def torch_chunked(loss: Any, chunk: int = 3) -> Callable[..., Any]:
    """Linear cross entropy a few rows at a time, in float32, gradients stored once; no logits are kept."""
    import torch

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, w: Any, y: Any, b: Any) -> Any:
            wide = torch.float32 if x.dtype.itemsize == 2 else x.dtype
            kept = y != loss.ignore_index
            n = max(int(kept.sum()), 1) if loss.reduction == "mean" else 1
            full = w.to(wide)
            dx, dw, db = torch.zeros_like(x), torch.zeros_like(full), torch.zeros(len(w), dtype=wide)
            rows = torch.zeros(len(x), dtype=wide)
            for start in range(0, len(x), chunk):
                part = slice(start, start + chunk)
                some, on = x[part].to(wide), kept[part]
                z = some @ full.T + (0.0 if b is None else b.to(wide))
                label = y[part].clamp(min=0)
                log_p = z.log_softmax(dim=1)
                rows[part] = -picked(log_p, label) * on
                g = (log_p.exp() - torch.nn.functional.one_hot(label, len(w))) * on[:, None] / n
                dx[part] = (g @ full).to(x.dtype)
                dw += g.T @ some
                db += g.sum(dim=0)
            ctx.save_for_backward(dx, dw.to(x.dtype), db.to(x.dtype))
            ctx.has_bias = b is not None
            return (rows.sum() / n).to(x.dtype)

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            dx, dw, db = ctx.saved_tensors
            return upstream * dx, upstream * dw, None, upstream * db if ctx.has_bias else None

    def fn(x: Any, w: Any, y: Any, b: Any = None) -> Any:
        return Kernel.apply(x, w, y, b)

    return fn


def torch_psi(loss: Any, c: Any, s: Any, theta: Any, curve: str) -> Any:
    """The target's cosine with its margin, rule, annealing and gradient convention (N,)."""
    import torch

    margin = loss.spec.margin
    m1, m2, m3, a = margin.m1, margin.m2, margin.m3, margin.annealing
    if m1 == 1.0 and m2 == 0.0:
        if margin.boundary == "conditional":
            return torch.where(c > m3, c - m3, c)
        return c - m3
    phi = m1 * theta + m2
    past, k = phi > math.pi, torch.floor(phi.detach() / math.pi)
    if curve == "addition":
        cos = c * math.cos(m2) - s * math.sin(m2)
    elif curve == "polynomial":
        cos = 8.0 * c**4 - 8.0 * c**2 + 1.0
        k = sum((c.detach() < math.cos(i * math.pi / 4.0)).to(c.dtype) for i in (1, 2, 3))
    else:
        cos = torch.cos(phi)
    psi = {
        "none": lambda: cos - m3,
        "hard": lambda: torch.where(past, c - m2 * math.sin(m2) - m3, cos - m3),
        "easy": lambda: torch.where(c > 0.0, cos - m3, c - m3),
        "keep": lambda: torch.where(past, c - m3, cos - m3),
        "continuous": lambda: torch.where(past, c - (math.cos((math.pi - m2) / m1) + 1.0 + m3), cos - m3),
        "monotone": lambda: (1.0 - 2.0 * (k % 2.0)) * cos - 2.0 * k - m3,
        "clamp": lambda: torch.where(past, torch.full_like(c, -1.0 - m3), cos - m3),
        "min": lambda: torch.minimum(cos - m3, c),
        "conditional": lambda: torch.where(c > m3, cos - m3, c),
    }[margin.boundary]()
    psi = (a * c + psi) / (1.0 + a) if a else psi
    return c + (psi - c).detach() if margin.gradient == "detached" else psi


def torch_head(
    loss: Any, curve: str = "lengths", unit: str = "norm", upcast: bool = False, gathered: bool = False
) -> Callable[..., Any]:
    """A margin loss: cosines, ψ in the target's place, cross entropy.

    curve says how the angle is found: "lengths", 2 atan2(|x - w|, |x + w|); "projection", atan2(|x - (x.w) w|, x.w);
    "addition", cos θ cos m - sin θ sin m; "polynomial", cos 4θ of the cosine.
    """
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        kind = x.dtype
        if upcast:
            x, w = x.float(), w.float()
        length = x.norm(dim=1, keepdim=True)
        ux, uw = (
            (f.normalize(x), f.normalize(w)) if unit == "normalize" else (x / length, w / w.norm(dim=1, keepdim=True))
        )
        cos = ux @ uw.T
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        mine = uw[y.clamp(min=0)] if gathered else target.to(w.dtype) @ uw
        c = (ux * mine).sum(dim=1)
        if curve == "projection":
            s = (ux - c[:, None] * mine).norm(dim=1)
            theta = torch.atan2(s, c)
        else:
            near, far = (ux - mine).norm(dim=1), (ux + mine).norm(dim=1)
            s, theta = near * far / 2.0, 2.0 * torch.atan2(near, far)
        psi = torch_psi(loss, cos[target] if curve in ("cosine", "polynomial") else c, s, theta, curve)
        scale = length if loss.spec.scale is None else loss.spec.scale
        z = scale * torch.where(target, psi[:, None], cos)
        value = f.cross_entropy(z, y, **torch_settings(loss, z))
        return value.to(kind) if upcast else value

    return fn


def torch_lowered(loss: Any, rows: str = "") -> Callable[..., Any]:
    """CosFace and NormFace as most have it: F.linear of F.normalize, less m at the labels."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        cos = f.linear(f.normalize(x), f.normalize(w))
        z = loss.s * (cos - loss.spec.margin.m3 * f.one_hot(y.clamp(min=0), len(w)).to(x.dtype))
        if rows:
            return torch_reduced(torch_rows(rows)(z, y), y, loss)
        return f.cross_entropy(z, y, **torch_settings(loss, z))

    return fn


def torch_quotient(loss: Any) -> Callable[..., Any]:
    """CosFace and NormFace with x.w divided by the product of the lengths."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        cos = (x @ w.T) / (x.norm(dim=1)[:, None] * w.norm(dim=1))
        z = loss.s * (cos - loss.spec.margin.m3 * f.one_hot(y.clamp(min=0), len(w)).to(x.dtype))
        return f.cross_entropy(z, y, **torch_settings(loss, z))

    return fn


def torch_scaled_first(loss: Any) -> Callable[..., Any]:
    """CosFace and NormFace with the scale on the unit embedding, and s m taken off."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        z = (loss.s * f.normalize(x)) @ f.normalize(w).T
        z = z - loss.s * loss.spec.margin.m3 * f.one_hot(y.clamp(min=0), len(w)).to(x.dtype)
        return f.cross_entropy(z, y, **torch_settings(loss, z))

    return fn


def torch_arccos_in_double(loss: Any) -> Callable[..., Any]:
    """The textbook form in float64, where an arccos has digits to spare for shorter dtypes."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        cos = f.normalize(x.double()) @ f.normalize(w.double()).T
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        theta = torch.acos(cos[target].clamp(-1.0, 1.0))
        psi = torch_psi(loss, cos[target], torch.sin(theta), theta, "lengths")
        z = loss.spec.scale * torch.where(target, psi[:, None], cos)
        return f.cross_entropy(z, y, **torch_settings(loss, z)).to(x.dtype)

    return fn


def torch_detached(loss: Any) -> Callable[..., Any]:
    """The margin put in place without gradient, as InsightFace does, the angle by two lengths."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        ux, uw = f.normalize(x), f.normalize(w)
        cos = ux @ uw.T
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        with torch.no_grad():
            mine = uw[y.clamp(min=0)]
            theta = 2.0 * torch.atan2((ux - mine).norm(dim=1), (ux + mine).norm(dim=1))
            moved = torch.cos(theta + loss.m)
            change = torch.where(target, moved[:, None] - cos, torch.zeros_like(cos))
        return f.cross_entropy(loss.s * (cos + change), y)

    return fn


def torch_triplet(loss: Any, form: str, upcast: bool = False) -> Callable[..., Any]:
    """A triplet loss, the plain distance by a root that has no gradient at 0, a norm, or torch's own loss."""
    import torch

    f = torch.nn.functional

    def root(v: Any) -> Any:
        square = v.pow(2).sum(dim=1)
        apart = square > 0
        return torch.where(apart, torch.where(apart, square, torch.ones_like(square)).sqrt(), torch.zeros_like(square))

    distance = {
        "squares": lambda a, b: (a - b).pow(2).sum(dim=1),
        "products": lambda a, b: ((a - b) * (a - b)).sum(dim=1),
        "safe root": lambda a, b: root(a - b),
        "norm": lambda a, b: (a - b).norm(dim=1),
        "pairwise_distance": lambda a, b: f.pairwise_distance(a, b, eps=0.0),
    }.get(form)

    def fn(a: Any, p: Any, n: Any) -> Any:
        kind = a.dtype
        if upcast:
            a, p, n = a.float(), p.float(), n.float()
        if distance is None:
            value = f.triplet_margin_loss(a, p, n, margin=loss.m, eps=0.0, reduction=loss.reduction)
        else:
            rows = torch.relu(distance(a, p) - distance(a, n) + loss.m)
            value = {"none": lambda: rows, "sum": rows.sum, "mean": rows.mean}[loss.reduction]()
        return value.to(kind) if upcast else value

    return fn


# ----------------------------------------------------------------------------------------------------------------- jax


def jax_rows(name: str) -> Callable[..., Any]:
    """Loss of each row of logits with labels."""
    import jax
    import optax

    jnp = jax.numpy

    def one(a: Any, y: Any) -> Any:
        return jnp.take_along_axis(a, jnp.maximum(y, 0)[:, None], axis=1)[:, 0]

    def by_max(stop: Callable[[Any], Any]) -> Callable[..., Any]:
        def rows(z: Any, y: Any) -> Any:
            gap = z - stop(z.max(axis=1, keepdims=True))
            return jnp.log(jnp.exp(gap).sum(axis=1)) - one(gap, y)

        return rows

    return {
        "log_softmax": lambda z, y: -one(jax.nn.log_softmax(z), y),
        "logsumexp - z_y": lambda z, y: jax.scipy.special.logsumexp(z, axis=1) - one(z, y),
        "maximum off, stopped": by_max(jax.lax.stop_gradient),
        "maximum off, with its gradient": by_max(lambda top: top),
        "optax, labels": lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, jnp.maximum(y, 0)),
        "optax, one-hot": lambda z, y: optax.softmax_cross_entropy(
            z, jax.nn.one_hot(jnp.maximum(y, 0), z.shape[1], dtype=z.dtype)
        ),
        "optax, safe": lambda z, y: optax.safe_softmax_cross_entropy(
            z, jax.nn.one_hot(jnp.maximum(y, 0), z.shape[1], dtype=z.dtype)
        ),
    }[name]


def jax_reduced(rows: Any, y: Any, loss: Any) -> Any:
    """Mean over the rows that count, sum, or the rows."""
    import jax

    jnp = jax.numpy
    kept = jnp.asarray(y) != loss.ignore_index
    rows = jnp.where(kept, rows, 0)
    return {
        "none": lambda: rows,
        "sum": rows.sum,
        "mean": lambda: rows.sum() / jnp.maximum(kept.sum(), 1).astype(rows.dtype),
    }[loss.reduction]()


def jax_logits(name: str, loss: Any, upcast: bool = False) -> Callable[..., Any]:
    """A loss of logits from its rows."""
    rows = jax_rows(name)

    def fn(z: Any, y: Any) -> Any:
        found = jax_reduced(rows(z.astype("float32") if upcast else z, y), y, loss)
        return found.astype(z.dtype) if upcast else found

    return fn


def jax_custom(loss: Any) -> Callable[..., Any]:
    """p - t by a custom backward."""
    import jax

    jnp = jax.numpy

    def forward(z: Any, y: Any) -> Any:
        log_p, kept = jax.nn.log_softmax(z), jnp.asarray(y) != loss.ignore_index
        own = jax.nn.one_hot(jnp.where(kept, y, 0), z.shape[1], dtype=z.dtype)
        rows = -jnp.take_along_axis(log_p, jnp.maximum(jnp.asarray(y), 0)[:, None], axis=1)[:, 0]
        return jax_reduced(rows, y, loss), (jnp.exp(log_p) - own) * kept[:, None] / jnp.maximum(kept.sum(), 1)

    def fn(z: Any, y: Any) -> Any:
        @jax.custom_vjp
        def of_logits(z: Any) -> Any:
            return forward(z, y)[0]

        of_logits.defvjp(lambda z: forward(z, y), lambda g, upstream: ((upstream * g).astype(z.dtype),))
        return of_logits(z)

    return fn


def jax_length(v: Any) -> Any:
    """Length of each row, with gradient 0 where it is 0."""
    import jax

    jnp = jax.numpy
    square = (v * v).sum(axis=1)
    apart = square > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)


def jax_head(loss: Any, rows: str = "log_softmax", upcast: bool = False) -> Callable[..., Any]:
    """A margin loss without a rule: cosines less m3, or the angle by two lengths plus m2."""
    import jax

    jnp = jax.numpy

    def fn(x: Any, w: Any, y: Any) -> Any:
        kind = x.dtype
        if upcast:
            x, w = x.astype("float32"), w.astype("float32")
        margin, label = loss.spec.margin, jnp.maximum(jnp.asarray(y), 0)
        length = jax_length(x)[:, None]
        ux, uw = x / length, w / jax_length(w)[:, None]
        cos = ux @ uw.T
        target = jax.nn.one_hot(label, len(w), dtype=x.dtype)
        if margin.m1 == 1.0 and margin.m2 == 0.0:
            psi = cos - margin.m3
        else:
            mine = target @ uw
            theta = 2 * jnp.arctan2(jax_length(ux - mine), jax_length(ux + mine))
            psi = (jnp.cos(margin.m1 * theta + margin.m2) - margin.m3)[:, None]
        scale = length if loss.spec.scale is None else loss.spec.scale
        z = (scale * jnp.where(target > 0, psi, cos)).astype(x.dtype)
        return jax_reduced(jax_rows(rows)(z, label), y, loss).astype(kind)

    return fn


def jax_linear(rows: str, loss: Any, upcast: bool = False) -> Callable[..., Any]:
    """A linear layer and a loss of its logits."""

    def fn(x: Any, w: Any, y: Any) -> Any:
        kind = x.dtype
        if upcast:
            x, w = x.astype("float32"), w.astype("float32")
        return jax_logits(rows, loss)(x @ w.T, y).astype(kind)

    return fn


def jax_triplet(loss: Any) -> Callable[..., Any]:
    """A triplet loss with squared or plain distances."""
    import jax

    def distance(v: Any) -> Any:
        return (v * v).sum(axis=1) if loss.squared else jax_length(v)

    def fn(a: Any, p: Any, n: Any) -> Any:
        rows = jax.nn.relu(distance(a - p) - distance(a - n) + loss.m)
        return {"none": lambda: rows, "sum": rows.sum, "mean": rows.mean}[loss.reduction]()

    return fn


# ------------------------------------------------------------------------------------------------- forms of the results


def as_dict(fn: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """Value and gradients as a value and a dict."""

    def wrapped(*inputs: Any) -> Any:
        value, *found = fn(*inputs)
        return value, dict(zip(names, found, strict=True))

    return wrapped


def as_one_dict(fn: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """Value and gradients in one dict."""

    def wrapped(*inputs: Any) -> Any:
        value, *found = fn(*inputs)
        return {"loss": value} | dict(zip(names, found, strict=True))

    return wrapped


def nested(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Value and gradients as (value, (gradients))."""

    def wrapped(*inputs: Any) -> Any:
        value, *found = fn(*inputs)
        return value, tuple(found)

    return wrapped


def plain_number(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The value as a Python float."""

    def wrapped(*inputs: Any) -> Any:
        value, *found = fn(*inputs)
        return float(value), *found

    return wrapped


def turned(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Gradients in Fortran order that cannot be written to, zeros with a minus sign."""

    def wrapped(*inputs: Any) -> Any:
        value, *found = fn(*inputs)
        arrays = [np.asfortranarray(np.where(part == 0, -part * 0, part).astype(part.dtype)) for part in found]
        for array in arrays:
            array.flags.writeable = False
        return value, *arrays

    return wrapped


def in_place(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient written over the logits, as kernels that save memory do."""

    def wrapped(z: Any, y: Any) -> Any:
        value, g = fn(z, y)
        z[...] = g
        return value, z

    return wrapped


def refusing(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Code that raises for labels out of range."""

    def wrapped(*inputs: Any) -> Any:
        if any(entry.dtype.kind == "i" and (entry < 0).any() for entry in inputs):
            raise ValueError("labels are 0 to C - 1")
        return fn(*inputs)

    return wrapped


# ------------------------------------------------------------------------------------------------------------- families

CE = refloss.CrossEntropy()
SMOOTH = refloss.CrossEntropy(label_smoothing=0.1)
WEIGHTED = refloss.CrossEntropy(class_weight=WEIGHTS)
LINEAR = refloss.SoftmaxLoss()
KERNELS: dict[str, tuple[Kernel, str]] = {
    "maximum off first": (max_first, "stable"),
    "p as exp(log p)": (exp_of_log, "stable"),
    "logsumexp(z) - z_y": (log_sum_exp, "working"),
    "powers of two": (base_two, "stable"),
    "online softmax": (online, "stable"),
    "online softmax, logsumexp kept": (online_log_sum_exp, "working"),
}
UNIGNORED = {"ignored": False}


def of_numpy_logits(dtype: str) -> Iterator[Right]:
    """Cross entropy of logits in NumPy."""
    for name, (kernel, standard) in KERNELS.items():
        for add in (sequential, pairwise, blocked):
            yield Right(f"{name}, {add.__name__}", "numpy", numpy_logits(CE, kernel, add), CE, DTYPES, standard, {})
        once = by_dtype(dtype, "mixed", standard)
        if standard == "stable":
            upcast = numpy_logits(CE, kernel, upcast=True)
            yield Right(f"{name}, in float32, rounded once", "numpy", upcast, CE, HALVES, once, {})
    for loss in (
        replace(CE, reduction="sum"),
        replace(CE, reduction="none"),
        SMOOTH,
        replace(SMOOTH, reduction="none"),
        WEIGHTED,
        replace(WEIGHTED, reduction="none", label_smoothing=0.2),
        replace(CE, ignore_index=1),
        replace(CE, label_smoothing=1.0),
    ):
        for name in ("maximum off first", "logsumexp(z) - z_y"):
            kernel, standard = KERNELS[name]
            yield Right(f"{name}, {loss}", "numpy", numpy_logits(loss, kernel), loss, DTYPES, standard, {})
        upcast = numpy_logits(loss, max_first, upcast=True)
        yield Right(f"in float32, {loss}", "numpy", upcast, loss, HALVES, "mixed", {})
    yield Right("targets are probabilities", "numpy", numpy_logits(CE), CE, DTYPES, "stable", {"soft": True})
    for loss in (CE, replace(CE, reduction="none")):
        yield Right(f"tiny losses too, {loss}", "numpy", numpy_relative(loss), loss, SINGLES, "relative", {})
    yield Right("SciPy's log_softmax", "numpy", of_scipy, CE, SINGLES, "stable", {})
    fn = numpy_logits(CE)
    yield Right("in float32, not rounded", "numpy", unrounded(fn), CE, HALVES, "mixed", {})
    yield Right("value and a dict", "numpy", as_dict(fn, "z"), CE, DTYPES, "stable", {})
    yield Right("one dict", "numpy", as_one_dict(fn, "z"), CE, DTYPES, "stable", {})
    yield Right("gradients in a tuple", "numpy", nested(fn), CE, DTYPES, "stable", {})
    yield Right("value as a Python float", "numpy", plain_number(fn), CE, DTYPES, "stable", {})
    yield Right("Fortran order, read-only, minus zeros", "numpy", turned(fn), CE, DTYPES, "stable", {})
    yield Right("gradient over the logits", "numpy", in_place(fn), CE, DTYPES, "stable", {"overwrites": ("z",)})
    yield Right("refuses ignored labels", "numpy", refusing(fn), CE, DTYPES, "stable", {})
    yield Right("has no ignored labels", "numpy", refusing(fn), CE, DTYPES, "stable", UNIGNORED)
    yield Right("the value alone", "numpy", lambda z, y: fn(z, y)[0], CE, DTYPES, "stable", {"gradients": False})


def of_torch_logits(dtype: str) -> Iterator[Right]:
    """Cross entropy of logits in torch."""
    for name, standard in (
        ("log_softmax, gather", "stable"),
        ("F.nll_loss of log_softmax", "stable"),
        ("logsumexp - z_y", "working"),
        ("maximum off, detached", "stable"),
        ("maximum off, max with its gradient", "stable"),
        ("maximum off, amax with its gradient", "stable"),
        ("one-hot times log_softmax", "stable"),
    ):
        for loss in (CE, replace(CE, reduction="none"), replace(CE, reduction="sum")):
            fn = torch_logits(torch_rows(name), loss)
            yield Right(f"{name}, {loss.reduction}", "torch", fn, loss, DTYPES, standard, {})
        if standard == "stable":
            upcast = torch_logits(torch_rows(name), CE, upcast=True)
            yield Right(f"{name}, in float32", "torch", upcast, CE, HALVES, "mixed", {})
    for loss in (
        *(replace(CE, reduction=reduction) for reduction in ("mean", "sum", "none")),
        SMOOTH,
        replace(SMOOTH, reduction="none"),
        WEIGHTED,
        replace(WEIGHTED, reduction="none", label_smoothing=0.2),
        replace(WEIGHTED, label_smoothing=0.2),
        replace(CE, ignore_index=2),
    ):
        own = torch_cross_entropy(loss)
        yield Right(f"F.cross_entropy, {loss}", "torch", own, loss, DTYPES, "stable", {})
        single = torch_cross_entropy(loss, lambda z: z.float())
        yield Right(f"F.cross_entropy of z.float(), {loss}", "torch", single, loss, HALVES, "mixed", {})
    double = torch_cross_entropy(CE, lambda z: z.double())
    yield Right("F.cross_entropy of z.double()", "torch", double, CE, DTYPES, by_dtype(dtype, "mixed"), {})
    soft = {"soft": True}
    yield Right("F.cross_entropy, probabilities", "torch", torch_cross_entropy(CE), CE, DTYPES, "stable", soft)
    soft_smooth = torch_cross_entropy(SMOOTH)
    yield Right("F.cross_entropy, smoothed probabilities", "torch", soft_smooth, SMOOTH, DTYPES, "stable", soft)
    yield Right("-sum t log p", "torch", torch_probabilities(CE), CE, DTYPES, "stable", soft)
    for loss in (CE, SMOOTH, replace(CE, reduction="none")):
        stored = torch_p_minus_one(loss, upcast=True)
        yield Right(f"p - t stored once, {loss}", "torch", stored, loss, DTYPES, by_dtype(dtype, "mixed"), {})


def of_jax_logits(dtype: str) -> Iterator[Right]:
    """Cross entropy of logits in jax, whose backward adds up in what it stores."""
    stored: dict[str, Any] = {"accumulate": dtype} if dtype in HALVES else {}
    for name, standard in (
        ("log_softmax", "stable"),
        ("logsumexp - z_y", "working"),
        ("maximum off, stopped", "stable"),
        ("maximum off, with its gradient", "stable"),
        ("optax, labels", "working"),
        ("optax, one-hot", "stable"),
        ("optax, safe", "stable"),
    ):
        settings = stored | ({"xfail": {"boundary-masked": "0 times -inf is NaN"}} if name == "optax, one-hot" else {})
        for loss in (CE, replace(CE, reduction="none")):
            yield Right(f"{name}, {loss.reduction}", "jax", jax_logits(name, loss), loss, DTYPES, standard, settings)
        if standard == "stable":
            settings = {name: value for name, value in settings.items() if name != "accumulate"}
            upcast = jax_logits(name, CE, upcast=True)
            yield Right(f"{name}, in float32", "jax", upcast, CE, HALVES, "mixed", settings)
    yield Right("p - t by a custom backward", "jax", jax_custom(CE), CE, DTYPES, "stable", stored)


def of_linear(dtype: str) -> Iterator[Right]:
    """Linear layer and cross entropy, with and without a bias."""
    import torch

    smooth = replace(LINEAR, label_smoothing=0.1, class_weight=WEIGHTS)
    rows = replace(LINEAR, reduction="none")
    for add in (sequential, pairwise, blocked):
        fn = numpy_linear(LINEAR, add=add)
        yield Right(f"products, {add.__name__}", "numpy", without_bias(fn), LINEAR, DTYPES, "stable", {})
        yield Right(f"products and a bias, {add.__name__}", "numpy", fn, LINEAR, DTYPES, "stable", {})
    working = numpy_linear(LINEAR, log_sum_exp)
    yield Right("products, logsumexp(z) - z_y", "numpy", working, LINEAR, DTYPES, "working", {})
    yield Right("products, online softmax", "numpy", numpy_linear(LINEAR, online), LINEAR, DTYPES, "stable", {})
    yield Right("products, smoothed and weighted", "numpy", numpy_linear(smooth), smooth, DTYPES, "stable", {})
    yield Right("products, rows", "numpy", numpy_linear(rows), rows, DTYPES, "stable", {})
    yield Right("a bias as a column", "numpy", numpy_linear_ones(LINEAR), LINEAR, DTYPES, "stable", {})
    named = as_dict(without_bias(numpy_linear(LINEAR)), "x", "w")
    yield Right("a dict of gradients", "numpy", named, LINEAR, DTYPES, "stable", {})
    kernel = numpy_linear(LINEAR, upcast="kernel")
    yield Right("products stored, kernel in float32", "numpy", kernel, LINEAR, HALVES, "mixed", {})
    fused = numpy_linear(LINEAR, upcast="all")
    yield Right("everything in float32, rounded once", "numpy", fused, LINEAR, HALVES, "fused", {})
    only_x = {"gradients": ("x",)}
    of_x = without_bias(lambda *inputs: numpy_linear(LINEAR)(*inputs)[:2])
    yield Right("a frozen layer: dx alone", "numpy", of_x, LINEAR, DTYPES, "stable", only_x)

    yield Right(
        "linear, F.cross_entropy", "torch", torch_linear(torch_cross_entropy(LINEAR)), LINEAR, DTYPES, "stable", {}
    )
    lse = torch_linear(torch_logits(torch_rows("logsumexp - z_y"), LINEAR))
    yield Right("linear, logsumexp - z_y", "torch", lse, LINEAR, DTYPES, "working", {})
    own = torch_linear(torch_cross_entropy(smooth))
    yield Right("linear, F.cross_entropy, smoothed and weighted", "torch", own, smooth, DTYPES, "stable", {})
    upcast = torch_linear(torch_cross_entropy(LINEAR, lambda z: z.float()))
    yield Right("linear, F.cross_entropy of z.float()", "torch", upcast, LINEAR, HALVES, "mixed", {})
    stored = torch_linear(torch_p_minus_one(LINEAR, upcast=True))
    yield Right("linear, p - 1 stored once", "torch", stored, LINEAR, HALVES, "mixed", {})
    whole = torch_linear(torch_cross_entropy(LINEAR), upcast=True)
    yield Right("linear of x.float(), F.cross_entropy", "torch", whole, LINEAR, HALVES, "fused", {})
    best = by_dtype(dtype, "fused")
    yield Right("chunks of rows", "torch", torch_chunked(LINEAR), LINEAR, DTYPES, best, {})
    if hasattr(torch.nn.functional, "linear_cross_entropy"):
        linear = torch.nn.functional.linear_cross_entropy
        yield Right("F.linear_cross_entropy", "torch", linear, LINEAR, DTYPES, "stable", {})

        def biased(x: Any, w: Any, y: Any, b: Any = None) -> Any:
            return linear(x, w, y, linear_bias=b)

        yield Right("F.linear_cross_entropy, bias", "torch", biased, LINEAR, DTYPES, "stable", {})

    summed: dict[str, Any] = {"accumulate": dtype} if dtype in HALVES else {}
    for name, standard in (("log_softmax", "stable"), ("optax, labels", "working")):
        yield Right(f"linear, {name}", "jax", jax_linear(name, LINEAR), LINEAR, DTYPES, standard, summed)
    yield Right("linear in float32", "jax", jax_linear("log_softmax", LINEAR, upcast=True), LINEAR, HALVES, "fused", {})


LOWERED = (
    refloss.NormFace(s=16.0),
    refloss.NormFace(s=None),
    refloss.ModifiedSoftmax(),
    refloss.CosFace(),
    refloss.CosFace(m=0.2, reduction="none"),
    refloss.CosFace(boundary="conditional"),
    refloss.CosFace(s=16.0, label_smoothing=0.1, class_weight=WEIGHTS),
)
"""Losses whose margin, if they have one, is on the cosine."""
ANGLES = (
    refloss.ArcFace(),
    refloss.ArcFace(s=16.0, reduction="none"),
    refloss.ArcFace(s=None),
    *(
        refloss.ArcFace(s=30.0, boundary=rule)
        for rule in ("hard", "easy", "keep", "continuous", "monotone", "clamp", "min")
    ),
    refloss.ArcFace(s=16.0, boundary="hard", label_smoothing=0.1),
    refloss.ArcFace(s=16.0, boundary="easy", class_weight=WEIGHTS, reduction="sum"),
    refloss.ArcFace(gradient="detached"),
    refloss.CombinedMargin(),
    refloss.CombinedMargin(m1=1.35, m2=0.0, m3=0.0),
    refloss.CombinedMargin(m1=0.9, m2=0.4, m3=0.15, boundary="monotone"),
    refloss.CombinedMargin(m1=1.35, boundary="continuous"),
    refloss.CombinedMargin(boundary="conditional"),
    refloss.ASoftmax(),
    refloss.ASoftmax(s=16.0, annealing=5.0),
    refloss.ASoftmax(m=1.5, s=30.0, boundary="none"),
    refloss.ASoftmax(m=3.0),
)
"""Losses whose margin is on the angle."""


def of_cosines(dtype: str) -> Iterator[Right]:
    """Margins on the cosine."""
    for loss in LOWERED:
        yield Right(f"by hand, {loss}", "numpy", numpy_head(loss, "cosine"), loss, DTYPES, "stable", {})
        yield Right(f"by norm, {loss}", "torch", torch_head(loss, "cosine"), loss, DTYPES, "stable", {})
        upcast = torch_head(loss, "cosine", upcast=True)
        yield Right(f"in float32, {loss}", "torch", upcast, loss, HALVES, "mixed", {})
    for add in (sequential, blocked):
        fn = numpy_head(LOWERED[3], "cosine", add)
        yield Right(f"by hand, {add.__name__}, CosFace", "numpy", fn, LOWERED[3], DTYPES, "stable", {})
    for loss in (LOWERED[0], LOWERED[3], LOWERED[4]):
        yield Right(f"F.normalize, {loss}", "torch", torch_lowered(loss), loss, DTYPES, "stable", {})
        yield Right(f"x.w / (|x| |w|), {loss}", "torch", torch_quotient(loss), loss, DTYPES, "stable", {})
        yield Right(f"scale first, {loss}", "torch", torch_scaled_first(loss), loss, DTYPES, "stable", {})
        lse = torch_lowered(loss, "logsumexp - z_y")
        yield Right(f"F.normalize, logsumexp - z_y, {loss}", "torch", lse, loss, DTYPES, "working", {})
        summed: dict[str, Any] = {"accumulate": dtype} if dtype in HALVES else {}
        yield Right(f"in jax, {loss}", "jax", jax_head(loss), loss, DTYPES, "stable", summed | UNIGNORED)
        optax = jax_head(loss, "optax, labels")
        yield Right(f"optax, {loss}", "jax", optax, loss, DTYPES, "working", summed | UNIGNORED)
        single = jax_head(loss, upcast=True)
        yield Right(f"in jax, in float32, {loss}", "jax", single, loss, HALVES, "mixed", UNIGNORED)


def of_angles(dtype: str) -> Iterator[Right]:
    """Margins on the angle."""
    gathers = dtype in SINGLES  # the backward of a gather adds up in half precision
    for loss in ANGLES:
        yield Right(f"two lengths by hand, {loss}", "numpy", numpy_head(loss), loss, DTYPES, "stable", {})
        yield Right(f"two lengths, {loss}", "torch", torch_head(loss, gathered=gathers), loss, DTYPES, "stable", {})
    for loss in (ANGLES[0], ANGLES[3], ANGLES[13], ANGLES[18]):
        fn = numpy_head(loss, "projection")
        yield Right(f"one projection by hand, {loss}", "numpy", fn, loss, DTYPES, "stable", {})
        fn = torch_head(loss, "projection")
        yield Right(f"one projection, {loss}", "torch", fn, loss, DTYPES, "stable", {})
        fn = torch_head(loss, upcast=True)
        yield Right(f"two lengths in float32, {loss}", "torch", fn, loss, HALVES, "mixed", {})
        fn = numpy_head(loss, upcast=True)
        yield Right(f"two lengths by hand in float32, {loss}", "numpy", fn, loss, HALVES, "mixed", {})
        fn = torch_head(loss, unit="normalize", gathered=gathers)
        yield Right(f"two lengths, F.normalize, {loss}", "torch", fn, loss, DTYPES, "stable", {})
    for loss in (*ANGLES[:6], refloss.ArcFace(s=8.0)):
        fn = torch_head(loss, "addition", gathered=gathers)
        yield Right(f"addition formula, {loss}", "torch", fn, loss, DTYPES, "stable", {})
        yield Right(
            f"addition formula by hand, {loss}", "numpy", numpy_head(loss, "addition"), loss, DTYPES, "stable", {}
        )
    for loss in (refloss.ASoftmax(), refloss.ASoftmax(s=16.0, annealing=5.0)):
        yield Right(f"cos 4θ, {loss}", "torch", torch_head(loss, "polynomial"), loss, DTYPES, "stable", {})
    for loss in (ANGLES[0], ANGLES[3], ANGLES[14]):
        fn = torch_arccos_in_double(
            loss
        )  # in half precision embeddings may lie on their class, where arccos has no slope
        yield Right(f"arccos in float64, {loss}", "torch", fn, loss, ("float32",), "stable", {})
    detached = refloss.ArcFace(gradient="detached")
    yield Right("margin without gradient", "torch", torch_detached(detached), detached, DTYPES, "stable", {})
    summed: dict[str, Any] = {"accumulate": dtype} if dtype in HALVES else {}
    for loss in (ANGLES[1], ANGLES[2], replace(ANGLES[13], s=16.0), replace(ANGLES[14], s=16.0)):
        yield Right(f"two lengths, {loss}", "jax", jax_head(loss), loss, DTYPES, "stable", summed | UNIGNORED)


def of_triplets(dtype: str) -> Iterator[Right]:
    """Triplet losses."""
    squared, plain = refloss.Triplet(), refloss.Triplet(squared=False)
    for loss in (squared, plain, replace(squared, reduction="none", m=1.0), replace(plain, reduction="sum", m=0.5)):
        for add in (sequential, pairwise, blocked):
            fn = numpy_triplet(loss, add)
            yield Right(f"by hand, {add.__name__}, {loss}", "numpy", fn, loss, DTYPES, "stable", {})
        yield Right(f"by hand in float32, {loss}", "numpy", numpy_triplet(loss, upcast=True), loss, HALVES, "mixed", {})
        forms = ("squares", "products") if loss.squared else ("safe root", "norm", "pairwise_distance", "torch's")
        for form in forms:
            yield Right(f"{form}, {loss}", "torch", torch_triplet(loss, form), loss, DTYPES, "stable", {})
            upcast = torch_triplet(loss, form, upcast=True)
            yield Right(f"{form} in float32, {loss}", "torch", upcast, loss, HALVES, "mixed", {})
        summed: dict[str, Any] = {"accumulate": dtype} if dtype in HALVES else {}
        yield Right(f"in jax, {loss}", "jax", jax_triplet(loss), loss, DTYPES, "stable", summed)


FAMILIES = (of_numpy_logits, of_torch_logits, of_jax_logits, of_linear, of_cosines, of_angles, of_triplets)
