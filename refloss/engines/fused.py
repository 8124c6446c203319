r"""Fused: the chain's losses at real sizes: a few matrix products, and one sweep over what they give.

    a block of classes:  g = x W_kᵀ ──► exponentials, in place ──► Part (peak, others, pull)
    all parts together:  the loss, dL/dz of the targets, dL/dx; then for every block  dL/dW_k = eᵀ (f x) ──► project

A block contributes a `Part`: for every sample the largest logit, the sum of the exponentials relative to it, and these
exponentials times the classes' directions. Parts `merge` in any order, so blocks may come one after the other from a
file larger than memory. The gradient of W needs the exponentials again: they are kept, N x C at most, and never more
than W takes, by cutting the samples into groups of at most D.

Rows are multiplied as they come, and what makes them unit vectors is folded into the sweep. The target is left out of
it: it goes through the narrow branch, the chain's own stages, in float64. So does the arithmetic of single samples.

Blocks are shared out among threads, see `refloss.engines.threads`. Parts are merged in the order of the blocks, so
nothing depends on how many threads there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from refloss import inputs
from refloss.engines import Arrays, Request, Spec, chain, kernels, without_ignored
from refloss.engines.threads import in_order, with_products
from refloss.error_free import (
    Array,
    Exponents,
    Integers,
    Pair,
    ldexp,
    scale_rows,
    sqrt,
    total_by_label,
    two_sum,
    unscale_rows,
)
from refloss.stages import angle, cross_entropy, margin

TILE = 2**20
"""Bytes of a block of logits: it and the rows of W beside it stay in the cache."""
NARROWEST = 2048
"""Classes in a block, at least, however many samples there are."""
NEARLY_PARALLEL = 2.0**-80
"""Square of the sine of an angle below which the kernel leaves it to the stage."""


class TooLargeError(ArithmeticError):
    """Numbers that may not fit the dtype: the chain says which, or has room for them."""


T = TypeVar("T")


def _ranges(whole: int, width: int) -> list[slice]:
    """Cut into ranges of that width."""
    return [slice(start, min(start + width, whole)) for start in range(0, whole, width)]


def _tapered(whole: int, width: int) -> list[slice]:
    """The same, but with narrow ones at the end, so that nobody has to wait long for another thread's last."""
    most = max(whole // width - 1, 0) * width
    narrow = max(-(-(whole - most) // 8), width // 8, 1)
    return _ranges(most, width) + [slice(most + it.start, most + it.stop) for it in _ranges(whole - most, narrow)]


# ----------------------------------------------------------------------------------------------- what an engine offers

_Result: TypeAlias = tuple[Array, dict[str, Array]]


def value(spec: Spec, arrays: Arrays, request: Request) -> Array:
    """Return the loss."""
    return _run(spec, arrays, None, request)[0]


def value_and_grad(spec: Spec, arrays: Arrays, upstream: Array, request: Request) -> _Result:
    """Return the loss and its gradients by the name of the input; those that are wanted."""
    return _run(spec, arrays, upstream, request)


def _run(spec: Spec, arrays: Arrays, upstream: Array | None, request: Request) -> _Result:
    try:
        with np.errstate(all="ignore"):
            found, gradients = _HEADS[spec.head](spec, arrays, upstream, request)
    except TooLargeError:
        with np.errstate(over="ignore"):
            found, gradients = _by_chain(spec, arrays, upstream, request)
    with np.errstate(over="ignore"):
        return found.astype(request.dtype), gradients


def _by_chain(spec: Spec, arrays: Arrays, upstream: Array | None, request: Request) -> _Result:
    """Let the chain do it, in float64."""
    exact = inputs.in_float64(arrays, directions=spec.head == "margin")
    if upstream is None:
        return chain.value(spec, exact), {}
    found, gradients = chain.value_and_grad(spec, exact, upstream)
    return found, {name: gradients[name].astype(request.dtype) for name in request.wanted(tuple(gradients))}


# ------------------------------------------------------------------------------------------------ what a block gives


class Part(NamedTuple):
    """What a block of classes, less the target, means to every sample; blocks elsewhere could send it."""

    peak: Array
    """M, the largest logit; -inf where there is none (N,)."""
    low: Array
    """What was rounded off M (N,)."""
    others: Array
    """The sum of exp(z_k - M) over all k but one with z_k = M (N,)."""
    weight: Array
    """The sum of the targets t_k (N,)."""
    short: Array
    """The sum of t_k (M - z_k) (N,)."""
    pull: Array | None = None
    """The sum of exp(z_k - M) dz_k/dx̂ / s (N, D), if gradients are asked for."""
    drag: Array | None = None
    """The sum of t_k dz_k/dx̂ / s (N, D), where labels are smoothed."""

    def relative_to(self, peak: Array, low: Array) -> Array:
        """Return exp(M - a peak): 0 where there is no M."""
        gap, error = two_sum(self.peak, -peak)
        return np.where(self.peak > -np.inf, exp_of(gap, error + (self.low - low)), 0.0)


def exp_of(high: Array, low: Array) -> Array:
    """e to the power of a sum, of which the low part may be NaN where the high one is infinite."""
    whole, rest = two_sum(high, np.where(np.isfinite(high), low, 0.0))  # of huge logits the low part is not small
    return np.asarray(np.exp(whole) * (1.0 + np.where(np.isfinite(whole), rest, 0.0)))


def merge(a: Part, b: Part) -> Part:
    """Put two parts together."""
    first = (a.peak > b.peak) | ((a.peak == b.peak) & (a.low >= b.low))
    peak, low = np.where(first, a.peak, b.peak), np.where(first, a.low, b.low)
    of_a, of_b = (part.relative_to(peak, low) for part in (a, b))
    others = np.where(first, a.others + (1.0 + b.others) * of_b, b.others + (1.0 + a.others) * of_a)
    short = a.short + b.short
    for part in (a, b):
        apart = (peak - part.peak) + (low - part.low)
        short = short + np.where(part.weight > 0.0, part.weight * apart, 0.0)
    pull = drag = None
    if a.pull is not None and b.pull is not None:
        pull = np.empty_like(a.pull)
        kernels.weighted(a.pull, of_a.astype(pull.dtype), b.pull, of_b.astype(pull.dtype), pull)
    if a.drag is not None and b.drag is not None:
        drag = a.drag + b.drag
    others = np.where(peak > -np.inf, others, 0.0)
    return Part(peak, low, others, a.weight + b.weight, short, pull, drag)


def merged(parts: Iterator[Part]) -> Part:
    """Put parts together two by two, so that what is rounded is rounded few times."""
    waiting: list[tuple[int, Part]] = []
    for part in parts:
        size, whole = 1, part
        while waiting and waiting[-1][0] == size:
            whole = merge(waiting.pop()[1], whole)
            size *= 2
        waiting.append((size, whole))
    whole = waiting.pop()[1]
    while waiting:
        whole = merge(waiting.pop()[1], whole)
    return whole


class Finished(NamedTuple):
    """What the classes and the target make together, for every sample (N,)."""

    loss: Array
    """L_n."""
    target: Array
    """dL_n/dz of the target."""
    factor: Array
    """T p_k / exp(z_k - M): what makes probabilities, times the sum of targets, of the part's exponentials."""


def finish(part: Part, target: Pair, own: Array) -> Finished:
    r"""Put the target's logit beside the other classes.

    $$L = t_y\,(-\log p_y) + \sum_{k\ne y} t_k\,(-\log p_k), \qquad
    \frac{\partial L}{\partial z_y} = p_y \sum_{k\ne y} t_k - t_y\,(1 - p_y)$$

    1 - p_y is the sum of the others, and every logarithm a gap and a log1p: each keeps its own digits.
    """
    high, low = two_sum(part.peak, -target.hi)
    low = np.where(np.isfinite(high), low + (part.low - target.lo), 0.0)
    gap = high + low  # of the largest other class over the target
    leads = gap <= 0.0
    small = np.where(leads, exp_of(high, low), exp_of(-high, -low))
    others = np.where(leads, (1.0 + part.others) * small, part.others + small)
    whole, log_sum = 1.0 + others, np.log1p(others)
    p = np.where(leads, 1.0, small) / whole
    q = np.where(leads, others, 1.0 + part.others) / whole
    behind = np.where(part.weight > 0.0, part.weight * np.maximum(-gap, 0.0), 0.0)
    loss = own * (np.maximum(gap, 0.0) + log_sum) + (part.short + behind + part.weight * log_sum)
    factor = (own + part.weight) * np.where(leads, small, 1.0) / whole
    return Finished(loss, p * part.weight - own * q, factor)


# ------------------------------------------------------------------------------------------------------ rows of vectors


class Rows(NamedTuple):
    """Vectors, scaled by powers of two where their squares might over- or underflow."""

    scaled: Array
    """Rows times 2^-exponent (R, D)."""
    exponent: Exponents | None
    """(R,), or None where nothing was scaled."""
    squares: Array
    """Of the scaled lengths (R,)."""

    @property
    def unscale(self) -> Any:
        """2^exponent, or 1."""
        return 1.0 if self.exponent is None else np.ldexp(1.0, self.exponent)


def rows_of(vectors: Any, dtype: Any) -> Rows:
    """Take vectors of any float dtype."""
    rows = np.ascontiguousarray(vectors, dtype)
    squares = np.vecdot(rows, rows)
    safe = 2.0 ** (40 if rows.dtype == np.float32 else 256)
    if ((squares > 1.0 / safe) & (squares < safe)).all():
        return Rows(rows, None, squares)
    scaled, exponent = scale_rows(rows)
    return Rows(scaled, exponent, np.vecdot(scaled, scaled))


class Target(NamedTuple):
    """The narrow branch: one number a sample, in float64."""

    logit: Pair
    """z_y (N,)."""
    f: Array
    """z_y over the scale (N,)."""
    back: Callable[[Array], tuple[Array, Array]]
    """From dL/dz_y to the gradients of x and of w[y], both (N, D)."""


def _angle(x: Rows, w: Rows) -> tuple[angle.Angle, angle.Saved]:
    """What the angle stage finds, by a kernel where no angle is tiny."""
    n, zeros = len(x.scaled), np.zeros(len(x.scaled), np.int32)
    tangent_x, tangent_w, numbers = np.empty_like(x.scaled), np.empty_like(x.scaled), np.empty((n, 8))
    kernels.separate(x.scaled, w.scaled, tangent_x, tangent_w, numbers)
    xx, ww, xw, rest = (Pair(numbers[:, i].copy(), numbers[:, i + 1].copy()) for i in range(0, 8, 2))
    length_x, length_w = sqrt(xx), sqrt(ww)
    cos, sin = xw / (length_x * length_w), sqrt(rest) / length_w
    exponents = [zeros if rows.exponent is None else rows.exponent for rows in (x, w)]
    saved = angle.Saved(tangent_x, tangent_w, length_x.hi, length_w.hi, *exponents)
    tiny = ~(rest.hi > NEARLY_PARALLEL * ww.hi)
    if tiny.any():
        found, of_tiny = angle.forward(x.scaled[tiny], w.scaled[tiny])
        cos[tiny], sin[tiny] = found.cos, found.sin
        tangent_x[tiny], tangent_w[tiny] = of_tiny.tangent_x, of_tiny.tangent_w
    theta = angle.atan2(sin, cos)
    if tiny.any():
        theta[tiny] = found.theta
    return angle.Angle(theta, cos, sin), saved


def _of_margin(spec: Spec, x: Rows, w: Rows) -> Target:
    theta, of_angle = _angle(x, w)
    psi, of_margin = margin.forward(theta, spec.margin)
    n = len(x.scaled)
    if spec.scale is None:
        scale, exponent = Pair.of(of_angle.length_x), x.exponent
    else:
        mantissa, exponent = np.frexp(np.full(n, spec.scale))
        scale = Pair.of(mantissa)
    exponent = np.zeros(n, np.int32) if exponent is None else exponent
    s = ldexp(scale.hi, exponent)

    def back(dz: Array) -> tuple[Array, Array]:
        return angle.backward(margin.backward(s * dz, of_margin), of_angle)

    return Target(ldexp(psi * scale, exponent), psi.hi, back)


def _of_linear(x: Rows, w: Rows, b: Array | None) -> Target:
    hi, lo = np.empty(len(x.scaled)), np.empty(len(x.scaled))
    kernels.inner(x.scaled, w.scaled, hi, lo)
    logit = Pair(hi * x.unscale * w.unscale, lo * x.unscale * w.unscale)
    rows_x, rows_w = (rows.scaled * np.reshape(rows.unscale, (-1, 1)) for rows in (x, w))

    def back(dz: Array) -> tuple[Array, Array]:
        return dz[:, None] * rows_w, dz[:, None] * rows_x

    logit = logit if b is None else logit + b
    return Target(logit, logit.hi, back)


# ---------------------------------------------------------------------------------------------------- blocks of classes


class Shared(NamedTuple):
    """Targets that smoothing gives to the classes of a block, and which sample's own class is not to get it."""

    whole: Array
    """t_k (B,)."""
    t: Array
    """t_k, 0 for classes that are somebody's own (B,)."""
    present: Integers
    """Classes of the block that are somebody's own (P,)."""
    apart: Array
    """t_k for these, 0 for their own samples (N, P)."""


class Block(NamedTuple):
    """Some classes."""

    w: Rows
    beta: Array
    """What makes a product of scaled rows a cosine, or a logit (B,)."""
    bias: Array
    """(B,), or nothing."""
    hidden: Integers
    """Where each sample's own class stands in the block, or -1 (N,)."""
    shared: Shared | None


def _roomy(dtype: Any) -> float:
    """A size of logits at which nothing overflows."""
    return float(np.finfo(dtype).max) / 2.0**16


def _fit(dtype: Any, *weights: Array) -> None:
    """Refuse weights that float32, unlike float64, might not hold."""
    if dtype == np.float32:
        for some in weights:
            sizes = np.abs(some[(some != 0.0) & np.isfinite(some)])
            if sizes.size and (sizes.max() > 2.0**64 or sizes.min() < 2.0**-64):
                raise TooLargeError


def contribution(block: Block, alpha: Array, tile: Array, gradients: bool) -> Part:
    """What a block means to every sample, from products of rows; for gradients, leaves exp(z - M) β in their place."""
    n, dtype = len(tile), tile.dtype
    peak, low, others, short = (np.empty(n) for _ in range(4))
    t = np.zeros(0, dtype) if block.shared is None else block.shared.whole.astype(dtype)
    kernels.exponentials(tile, alpha, block.beta, block.bias, block.hidden, t, gradients, peak, low, others, short)
    weight, pull, drag = np.zeros(n), None, None
    if gradients:
        pull = tile @ block.w.scaled
    if block.shared is not None:
        _, t, present, apart = block.shared
        weight = t.sum() + apart.sum(axis=1)
        if gradients:
            beta, w = block.beta, block.w.scaled
            drag = (t.astype(dtype) * beta) @ w + (apart.astype(dtype) * beta[present]) @ w[present]
    return Part(peak, low, others, weight, short, pull, drag)


# -------------------------------------------------------------------------------------------------------- both branches


class _Samples:
    """Some samples: their embeddings and scale, and the narrow branch."""

    def __init__(self, spec: Spec, arrays: Arrays, some: slice, dtype: Any) -> None:
        self.x, self.y, self.directions = rows_of(arrays["x"][some], dtype), arrays["y"][some], spec.head == "margin"
        self.norm = np.sqrt(self.x.squares.astype(np.float64))
        """Lengths of the scaled rows (N,)."""
        if not np.isfinite(self.norm).all() or (self.directions and not self.norm.all()):
            raise TooLargeError
        ones, length = np.ones(len(self.y)), self.norm * self.x.unscale
        self.by_length = self.directions and spec.scale is None
        self.scale = length if self.by_length else ones * spec.scale if spec.scale is not None else ones
        """s, or the length of the embedding; 1 where logits are plain products (N,)."""
        self.alpha = self.scale / self.norm if self.directions else ones * self.x.unscale
        """What, beside the classes' β, makes a product of scaled rows a logit (N,)."""
        self.largest = float((self.scale if self.directions else length).max())
        """Of a logit, where classes have length 1."""

    def narrow(self, spec: Spec, arrays: Arrays) -> Target:
        """Go down the narrow branch."""
        x, w = (
            Rows(rows.scaled.astype(np.float64), rows.exponent, rows.squares.astype(np.float64))
            for rows in (self.x, rows_of(arrays["w"][self.y], self.x.scaled.dtype))
        )
        if self.directions:
            return _of_margin(spec, x, w)
        return _of_linear(x, w, arrays["b"][self.y] if "b" in arrays else None)

    def back(self, part: Part, f: Array, factor: Array, above: Array, dz: Array, of_target: Array) -> Array:
        """dL/dx, from what pulls at the direction and from the target, whose z over the scale is f."""
        dtype, unit = self.x.scaled.dtype, self.x.scaled
        pull: Any = part.pull
        gradient: Array = (self.scale * above * factor).astype(dtype)[:, None] * pull
        if part.drag is not None:
            gradient -= (self.scale * above).astype(dtype)[:, None] * part.drag
        if self.directions:
            norm = self.norm.astype(dtype)[:, None]
            unit = unit / norm
            along = np.einsum("nd,nd->n", gradient, unit)
            gradient -= along[:, None] * unit
            gradient = unscale_rows(gradient / norm, self.x.exponent)
            if self.by_length:
                gradient += (along / self.scale + dz * f).astype(dtype)[:, None] * unit
        gradient += of_target
        return gradient


class _Classes:
    """The wide branch: all classes, a block at a time, for one group of samples after the other."""

    def __init__(self, spec: Spec, arrays: Arrays, shared: Array, dtype: Any, samples: int, keep: bool) -> None:
        self.w, self.b, self.shared, self.dtype = arrays["w"], arrays.get("b"), shared, dtype
        self.directions = spec.head == "margin"
        self.blocks = _tapered(len(self.w), max(NARROWEST, TILE // np.dtype(dtype).itemsize // samples))
        self.kept = np.empty(samples * len(self.w), dtype) if keep else None
        """exp(z - M) β of this group, block after block."""
        self.free: list[Array] = []
        self.known: dict[int, tuple[Array, Exponents | None]] = {}
        self.parts: list[Part] = []

    def down(self, samples: _Samples, gradients: bool, narrow: Callable[[], T]) -> tuple[Part, T]:
        """From embeddings to what all classes mean to them; the narrow branch is gone down meanwhile."""
        alpha, n = samples.alpha.astype(self.dtype), len(samples.y)
        self.parts = []

        def work(at: slice) -> Part:
            block, tile = self._block(at, samples), self._tile(at, n)
            np.matmul(samples.x.scaled, block.w.scaled.T, out=tile)
            part = contribution(block, alpha, tile, gradients)
            if self.kept is None and len(tile[0]) == self.blocks[0].stop:  # as wide as any
                self.free.append(tile)
            return part

        def noted(part: Part) -> Part:
            self.parts.append(part._replace(pull=None, drag=None))
            return part

        def used(parts: Iterator[Part]) -> tuple[Part, T]:
            target = narrow()
            return merged(map(noted, parts)), target

        return with_products(work, self.blocks, used)

    def up(
        self, samples: _Samples, whole: Part, factor: Array, above: Array, to_w: Array | None, to_b: Array | None,
        first: bool, last: bool, meanwhile: Callable[[], T],
    ) -> T:  # fmt: skip
        """Add this group's part of dL/dW and dL/db; the first group's is written, the last one's projected.

        Something else is done meanwhile, and what it gives is returned.
        """
        x, n = samples.x.scaled, len(samples.y)
        beside = (above * samples.alpha).astype(self.dtype)[:, None] * x

        def work(given: tuple[slice, Part]) -> None:
            at, part = given
            block, tile = self._block(at, samples), self._tile(at, n)
            f = np.where(part.peak > -np.inf, factor * part.relative_to(whole.peak, whole.low), 0.0)
            if to_w is not None:
                rows, pulling = to_w[at], (f * samples.alpha).astype(self.dtype)[:, None] * x
                if first:
                    np.matmul(tile.T, pulling, out=rows)
                else:
                    rows += tile.T @ pulling
                if block.shared is not None:
                    _, t, present, apart = block.shared
                    kernels.lower(rows, t.astype(self.dtype) * block.beta, beside.sum(axis=0))
                    rows[present] -= block.beta[present, None] * (apart.T.astype(self.dtype) @ beside)
                if last:
                    self._finish(rows, block)
            if to_b is not None:
                to_b[at] += (tile.T @ f.astype(self.dtype)) / block.beta
                if block.shared is not None:
                    _, t, present, apart = block.shared
                    to_b[at] -= t * above.sum()
                    to_b[at.start + present] -= apart.T @ above

        latest_first = list(zip(self.blocks, self.parts, strict=True))[::-1]  # they may still be in the cache

        def used(done: Iterator[None]) -> T:
            found = meanwhile()
            deque(done, maxlen=0)
            return found

        return with_products(work, latest_first, used)

    def _finish(self, rows: Array, block: Block) -> None:
        """Take what is along the class off gradients of directions, and scale them as the class was."""
        if self.directions:
            kernels.project(rows, block.w.scaled, block.beta)
        if block.w.exponent is not None:
            rows[:] = unscale_rows(rows, block.w.exponent)

    def _tile(self, at: slice, n: int) -> Array:
        """Room for a block's logits: what is kept of it, or any."""
        if self.kept is not None:
            room = self.kept[n * at.start : n * at.stop]
        else:
            try:
                room = self.free.pop().reshape(-1)
            except IndexError:
                room = np.empty(n * self.blocks[0].stop, self.dtype)
            room = room[: n * (at.stop - at.start)]
        return room.reshape(n, -1)

    def _block(self, at: slice, samples: _Samples) -> Block:
        w, beta = self._rows(at, samples.largest)
        bias = np.zeros(0, self.dtype) if self.b is None else self.b[at].astype(self.dtype)
        y = samples.y
        hidden = np.where((y >= at.start) & (y < at.stop), y - at.start, -1)
        return Block(w, beta, bias, hidden, self._shared(at, hidden))

    def _rows(self, at: slice, largest: float) -> tuple[Rows, Array]:
        if at.start in self.known:
            beta, exponent = self.known[at.start]
            rows = np.ascontiguousarray(self.w[at], self.dtype)
            return Rows(unscale_rows(rows, exponent), exponent, beta), beta
        w = rows_of(self.w[at], self.dtype)
        norm = np.sqrt(w.squares.astype(np.float64))
        if not np.isfinite(norm).all() or (self.directions and not norm.all()):
            inputs.classes(self.w, directions=self.directions)
            raise TooLargeError
        if not largest * (1.0 if self.directions else float((norm * w.unscale).max())) < _roomy(self.dtype):
            raise TooLargeError
        beta = (1.0 / norm if self.directions else np.ones(len(norm)) * w.unscale).astype(self.dtype)
        if self.kept is not None:  # they will be asked for again
            self.known[at.start] = beta, w.exponent
        return w, beta

    def _shared(self, at: slice, hidden: Integers) -> Shared | None:
        if not len(self.shared):
            return None
        whole, present = self.shared[at], np.unique(hidden[hidden >= 0])
        t = whole.copy()
        t[present] = 0.0
        return Shared(whole, t, present, whole[present] * (hidden[:, None] != present))


# ------------------------------------------------------------------------------------------------------------ the heads


def _head(spec: Spec, arrays: Arrays, upstream: Array | None, request: Request) -> _Result:
    """Leave out the rows that are ignored."""
    wide = {"w": arrays["w"]}
    some, above, restored = without_ignored(spec, {name: arrays[name] for name in arrays if name != "w"}, upstream)
    found, gradients = _kept(spec, some | wide, above, request)
    return restored("value", found), {name: restored(name, part) for name, part in gradients.items()}


def _kept(spec: Spec, arrays: Arrays, upstream: Array | None, request: Request) -> _Result:
    """Value and gradients of a head, in groups of samples where what is kept for dL/dW would be larger than W."""
    (n, d), c, y, settings = arrays["x"].shape, len(arrays["w"]), arrays["y"], spec.cross_entropy
    weights = cross_entropy.weights(y, c, settings)
    own, shared = cross_entropy.shares(y, weights, settings.label_smoothing)
    _fit(request.dtype, own, shared)
    above: Array = np.zeros(n)
    wanted: tuple[str, ...] = ()
    if upstream is not None:
        above = cross_entropy.coefficient(upstream, settings.reduction, weights.divisor, n)
        wanted = request.wanted(("x", "w", "b") if "b" in arrays else ("x", "w"))
    to_x, to_w = np.empty((n, d), request.dtype), request.into("w", (c, d)) if "w" in wanted else None
    to_b = np.zeros(c) if "b" in wanted else None
    keep = to_w is not None or to_b is not None
    size = max(1, min(n, d) if keep else n)
    classes = _Classes(spec, arrays, shared if settings.label_smoothing else shared[:0], request.dtype, size, keep)
    losses, to_targets, of_z = np.empty(n), np.zeros((n, d)), np.empty(n)
    if not n:  # nothing counts, and no block is gone through
        inputs.classes(classes.w, directions=classes.directions)
        if to_w is not None:
            to_w[:] = 0.0
    for start in range(0, n, size):
        some = slice(start, min(start + size, n))
        samples = _Samples(spec, arrays, some, request.dtype)
        part, target = classes.down(samples, bool(wanted), partial(samples.narrow, spec, arrays))
        done = finish(part, target.logit, own[some])
        losses[some], of_z[some] = done.loss, above[some] * done.target
        of_group = done.factor, above[some], of_z[some], to_x[some], to_targets[some]
        back = partial(_back, samples, target, part, *of_group)
        if keep:
            f, last = above[some] * done.factor, some.stop == n
            meanwhile: Callable[[], Any] = partial(_totals, back, to_targets, y) if last else back
            of_targets = classes.up(samples, part, f, above[some], to_w, to_b, start == 0, last, meanwhile)
        elif wanted:
            back()
    if to_w is not None and n:
        present, summed = of_targets
        to_w[present] += summed
    if to_b is not None:
        np.add.at(to_b, y, of_z)
        to_b = to_b.astype(request.dtype)
    found: dict[str, Any] = {name: part for name, part in (("x", to_x), ("w", to_w), ("b", to_b)) if name in wanted}
    return np.asarray(cross_entropy.reduce(losses, settings.reduction, weights.divisor)), found


def _back(
    samples: _Samples,
    target: Target,
    part: Part,
    factor: Array,
    above: Array,
    dz: Array,
    to_x: Array,
    to_targets: Array,
) -> None:
    """From the gradient of the logits to that of a group's embeddings, and of the classes as its targets."""
    of_x, to_targets[:] = target.back(dz)
    to_x[:] = samples.back(part, target.f, factor, above, dz, of_x)


def _totals(back: Callable[[], None], to_targets: Array, y: Integers) -> tuple[Integers, Array]:
    """The same for the last group: so all gradients of classes as targets are known, and added up."""
    back()
    return total_by_label(to_targets, y)


def _logits(spec: Spec, arrays: Arrays, upstream: Array | None, request: Request) -> _Result:
    """Cross entropy of logits: every row is read once and, for the gradient, written once."""
    y, settings, dtype = arrays["y"], spec.cross_entropy, request.dtype
    z = np.ascontiguousarray(arrays["z"], dtype)
    n, c = z.shape
    counts = cross_entropy.kept(y, settings)
    weights = cross_entropy.weights(y[counts], c, settings)
    if y.ndim == 2:
        label, own, t = np.full(n, -1), np.zeros(n), cross_entropy.targets(y, weights, settings.label_smoothing).t
    else:
        label = np.where(counts, y, 0)
        own, shared = cross_entropy.shares(label, weights, settings.label_smoothing)
        t = shared[None] if settings.label_smoothing else np.empty((0, c))
    above, keep = np.zeros(n), upstream is not None and bool(request.wanted(("z",)))
    if upstream is not None:
        above = cross_entropy.coefficient(upstream, settings.reduction, weights.divisor, n)
    _fit(dtype, own, t, above)
    own, t, above, losses = own.astype(dtype), t.astype(dtype), above.astype(dtype), np.empty(n)
    out = request.into("z", (n, c)) if keep else np.empty((0, c), dtype)

    def sweep(some: slice) -> None:
        room = out[some] if keep else np.empty((1, c), dtype)
        each = t[some] if y.ndim == 2 else t
        kernels.cross_entropy(
            z[some], label[some], own[some], each, above[some], counts[some], keep, losses[some], room
        )

    in_order(sweep, _ranges(n, max(1, 2**20 // c)), partial(deque, maxlen=0))
    if settings.reduction != "none":
        losses = np.asarray(cross_entropy.reduce(losses[counts], settings.reduction, weights.divisor))
    return losses, {"z": out} if keep else {}


_HEADS: dict[str, Callable[[Spec, Arrays, Array | None, Request], _Result]] = {
    "logits": _logits,
    "linear": _head,
    "margin": _head,
    "triplet": _by_chain,  # nothing there is N x C
}
