r"""Fused: the chain's losses at real sizes: a few matrix products, and one sweep over what they give.

    a block of classes:  g = x W_kᵀ ──► exponentials, in place ──► Part (peak, others, pull)
    all parts together:  the loss, dL/dz of the targets, dL/dx; then for every block  dL/dW_k = eᵀ (f x) ──► project

A block contributes a `Part`: for every sample the largest logit, the sum of the exponentials relative to it, and these
exponentials times the classes' directions. Parts `merge` in any order, so blocks may come one after the other from a
file larger than memory. The gradient of W needs the exponentials again: they are kept, N x C at most, and never more
than W or `KEPT` takes, by cutting the samples into groups.

No product of matrices adds up more than `PIECE` terms: longer sums are those of pieces, added two by two, and what
groups of samples give to dL/dW and dL/db is added with its rounding errors kept. Upstream gradients, scales and lengths
near the ends of the range are held as mantissas and exponents (`Weight`), and what is scaled is scaled back last.

Rows are multiplied as they come, and what makes them unit vectors is folded into the sweep. The target is left out of
it: it goes through the narrow branch, the chain's own stages, in float64. So does the arithmetic of single samples.

Blocks are shared out among threads, see `refloss.engines.threads`. Parts are merged in the order of the blocks, so
nothing depends on how many threads there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from refloss import inputs
from refloss.engines import Arrays, Request, Spec, chain, contract, kernels, without_ignored
from refloss.engines.threads import in_order, with_products
from refloss.error_free import (
    Array,
    Exponents,
    Integers,
    Pair,
    Scaled,
    StageResult,
    ldexp,
    plain,
    scale_rows,
    sqrt,
    total_by_label,
    two_sum,
    unscale_rows,
)
from refloss.formats import format_of
from refloss.stages import angle, cross_entropy, margin

TILE = 2**20
"""Bytes of a block of logits: it and the rows of W beside it stay in the cache."""
NARROWEST = 2048
"""Classes in a block, at least, however many samples there are."""
PIECE = 512
"""Products that a BLAS adds up at most."""
KEPT = 2**26
"""Bytes of exponentials that are kept, at least."""
FEW = 4
"""Groups of samples whose gradients are added up plainly."""
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
        exact = inputs.as_float64(arrays, directions=spec.head == "margin")
        contract.look("chain", spec, exact)
        with np.errstate(over="ignore"):
            found, gradients = _by_chain(spec, exact, upstream, request)
    with np.errstate(over="ignore"):
        return found.astype(request.dtype), gradients


def product(a: Array, b: Array, out: Array | None = None) -> Array:
    """Return a @ b: no sum in it has an error above min(K, PIECE) + log2(K / PIECE) roundoffs of its terms."""
    k = a.shape[1]
    if k <= PIECE:
        found: Array = np.matmul(a, b, out=out)
        return found
    half = PIECE * (-(-k // PIECE) // 2)
    found = product(a[:, :half], b[:half], out)
    found += product(a[:, half:], b[half:])
    return found


def _by_chain(spec: Spec, arrays: Arrays, upstream: Array | None, request: Request) -> _Result:
    """Let the chain do it, in float64."""
    exact = inputs.as_float64(arrays, directions=spec.head == "margin")
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
        short = short + np.where(part.weight != 0.0, part.weight * apart, 0.0)
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
    behind = np.where(part.weight != 0.0, part.weight * np.maximum(-gap, 0.0), 0.0)
    loss = own * (np.maximum(gap, 0.0) + log_sum) + (part.short + behind + part.weight * log_sum)
    factor = (own + part.weight) * np.where(leads, small, 1.0) / whole
    return Finished(loss, p * part.weight - own * q, factor)


# ------------------------------------------------------------------------------------------------------ rows of vectors


class Rows(NamedTuple):
    """Vectors, scaled by powers of two where their squares might over- or underflow."""

    scaled: Array
    """Rows times 2^-exponent (R, D)."""
    exponent: Exponents | None
    """(R,), 0 for most; or None where nothing was scaled."""
    squares: Array
    """Of the scaled lengths (R,)."""

    @property
    def unscale(self) -> Any:
        """2^exponent, or 1."""
        return 1.0 if self.exponent is None else np.ldexp(1.0, self.exponent)

    def part(self, some: slice) -> Rows:
        """Some of the rows."""
        exponent = None if self.exponent is None else self.exponent[some]
        return Rows(self.scaled[some], exponent, self.squares[some])


def aligned(array: Any, dtype: Any) -> Array:
    """Return an array that a BLAS takes as it is: of that dtype, in C order and aligned."""
    return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])


def squares_of(rows: Array) -> Array:
    """Return the squares of lengths (R,); of long rows a BLAS would add them up in as many parts as it has threads."""
    if rows.shape[1] <= PIECE:
        return np.asarray(np.vecdot(rows, rows))
    squares = np.empty(len(rows), rows.dtype)
    kernels.dots(rows, rows, squares)
    return squares


def rows_of(vectors: Any, dtype: Any) -> Rows:
    """Take vectors of any float dtype; those whose lengths are far from 1 are scaled first, and then rounded to dtype.

    Lengths from 2^-32 to 2^32, in float32 2^-12 to 2^12, are near enough: an exponential over such a length loses by
    underflow far less than the smallest normal number.
    """
    rows = aligned(vectors, dtype)
    squares = squares_of(rows)
    safe = 2.0 ** (24 if rows.dtype == np.float32 else 64)
    unsafe = ~((squares > 1.0 / safe) & (squares < safe))
    if not unsafe.any():
        return Rows(rows, None, squares)
    rows, exponent = np.array(rows), np.zeros(len(rows), np.int32)
    given = np.asarray(vectors[unsafe], np.float64)
    exact, exponent[unsafe] = scale_rows(given)
    if (ldexp(exact, exponent[unsafe][:, None]) != given).any():  # entries below 2^-1022 of others, and not 0
        raise TooLargeError
    rows[unsafe] = exact
    if ((rows[unsafe] != exact) & (np.abs(exact) < format_of(dtype).smallest)).any():  # the target needs them
        raise TooLargeError
    squares[unsafe] = squares_of(rows[unsafe])
    return Rows(rows, exponent, squares)


class Weight(NamedTuple):
    """Numbers that may be near the ends of the range: mantissa times 2^exponent."""

    mantissa: Array
    exponent: Exponents | None
    """None where the mantissas are the numbers themselves."""

    @classmethod
    def of(cls, numbers: Array, dtype: Any) -> Weight:
        """Take numbers apart, if there are some that leave products too little room."""
        sizes, room = np.abs(numbers[numbers != 0.0]), 2.0 ** (24 if dtype == np.float32 else 60)
        if not ((sizes < 1.0 / room) | (sizes > room)).any():
            return cls(numbers, None)
        return cls(*np.frexp(numbers))

    def times(self, other: Weight) -> Weight:
        """Multiply by others."""
        mantissa, exponents = self.mantissa * other.mantissa, [self.exponent, other.exponent]
        known = [exponent for exponent in exponents if exponent is not None]
        return Weight(mantissa, sum(known[1:], known[0]) if known else None)

    def common(self, counted: Any) -> tuple[Array, int]:
        """Return mantissas and one exponent for all, the largest of those that are counted."""
        if self.exponent is None:
            return self.mantissa, 0
        known = self.exponent[counted & (self.mantissa != 0.0)]
        most = int(known.max()) if len(known) else 0
        return np.ldexp(self.mantissa, np.minimum(self.exponent - most, 0)), most

    def part(self, some: slice) -> Weight:
        """Some of the numbers."""
        return Weight(self.mantissa[some], None if self.exponent is None else self.exponent[some])


def less(a: Exponents | None, b: Exponents | None) -> Exponents | None:
    """Subtract exponents, of which None is all 0."""
    return a if b is None else -b if a is None else a - b


class Target(NamedTuple):
    """The narrow branch: one number a sample, in float64."""

    logit: Pair
    """z_y (N,)."""
    f: Array
    """z_y over the scale (N,)."""
    back: Callable[[Array], tuple[Array, Array]]
    """From the scale times dL/dz_y to the gradients of x and of w[y] as they were scaled, both (N, D)."""


def _angle(x: Rows, w: Rows) -> tuple[angle.Angle, angle.Saved]:
    """What the angle stage finds, by a kernel where no angle is tiny."""
    n, zeros = len(x.scaled), np.zeros(len(x.scaled), np.int32)  # gradients are of scaled rows
    tangent_x, tangent_w, numbers = np.empty_like(x.scaled), np.empty_like(x.scaled), np.empty((n, 8))
    kernels.separate(x.scaled, w.scaled, tangent_x, tangent_w, numbers)
    xx, ww, xw, rest = (Pair(numbers[:, i].copy(), numbers[:, i + 1].copy()) for i in range(0, 8, 2))
    length_x, length_w = sqrt(xx), sqrt(ww)
    cos, sin = xw / (length_x * length_w), sqrt(rest) / length_w
    saved = angle.Saved(tangent_x, tangent_w, length_x.hi, length_w.hi, zeros, zeros)
    tiny = ~(rest.hi > NEARLY_PARALLEL * ww.hi)
    if tiny.any():
        found, of_tiny = angle.forward(x.scaled[tiny], w.scaled[tiny])
        cos[tiny], sin[tiny] = found.cos, found.sin
        tangent_x[tiny], tangent_w[tiny] = of_tiny.tangent_x, of_tiny.tangent_w
    theta = angle.atan2(sin, cos)
    if tiny.any():
        theta[tiny] = found.theta
    return angle.Angle(theta, cos, sin, angle.between(x.scaled, w.scaled)), saved


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

    def back(dz: Array) -> tuple[Array, Array]:
        of_x, of_w = angle.backward(margin.backward(dz, of_margin), of_angle)
        return plain(of_x), plain(of_w)

    return Target(ldexp(psi * scale, exponent), psi.hi, back)


def _of_linear(x: Rows, w: Rows, b: Array | None) -> Target:
    hi, lo = np.empty(len(x.scaled)), np.empty(len(x.scaled))
    kernels.inner(x.scaled, w.scaled, hi, lo)
    logit = Pair(hi * x.unscale * w.unscale, lo * x.unscale * w.unscale)

    def back(dz: Array) -> tuple[Array, Array]:
        to_x = unscale_rows(dz[:, None] * w.scaled, less(None, w.exponent))  # of linear heads classes are not scaled
        return to_x, dz[:, None] * x.scaled

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

    w: Array
    """Their rows, scaled as `rows_of` does it where they are directions (B, D)."""
    beta: Array
    """What makes a product of scaled rows a cosine, or a logit (B,)."""
    bias: Array
    """(B,), or nothing."""
    hidden: Integers
    """Where each sample's own class stands in the block, or -1 (N,)."""
    shared: Shared | None


def _roomy(dtype: Any) -> float:
    """A size of logits at which nothing overflows."""
    return format_of(dtype).largest / 2.0**16


def _fit(dtype: Any, *weights: StageResult) -> None:
    """Refuse weights whose products the dtype might not hold."""
    room = 2.0 ** (64 if dtype == np.float32 else 300)
    for some in weights:
        if isinstance(some, Scaled):
            raise TooLargeError
        sizes = np.abs(some[some != 0.0])
        if not ((sizes >= 1.0 / room) & (sizes <= room)).all():
            raise TooLargeError


def contribution(block: Block, alpha: Array, tile: Array, gradients: bool) -> Part:
    """What a block means to every sample, from products of rows; for gradients, leaves exp(z - M) β in their place."""
    n, dtype = len(tile), tile.dtype
    peak, low, others, short = (np.empty(n) for _ in range(4))
    t = np.zeros(0, dtype) if block.shared is None else block.shared.whole.astype(dtype)
    kernels.exponentials(tile, alpha, block.beta, block.bias, block.hidden, t, gradients, peak, low, others, short)
    weight, pull, drag = np.zeros(n), None, None
    if gradients:
        pull = product(tile, block.w)
    if block.shared is not None:
        _, t, present, apart = block.shared
        weight = t.sum() + apart.sum(axis=1)
        if gradients:
            beta, w = block.beta, block.w
            drag = product((t.astype(dtype) * beta)[None], w)
            drag = drag + product(apart.astype(dtype) * beta[present], w[present])
    return Part(peak, low, others, weight, short, pull, drag)


# -------------------------------------------------------------------------------------------------------- both branches


class _Samples:
    """Embeddings with their labels, scale and upstream gradient, and the narrow branch."""

    def __init__(self, spec: Spec, arrays: Arrays, above: Weight, dtype: Any) -> None:
        self.x, self.y, self.directions = rows_of(arrays["x"], dtype), arrays["y"], spec.head == "margin"
        self.norm = np.sqrt(self.x.squares.astype(np.float64))
        """Lengths of the scaled rows (N,)."""
        ones, length = np.ones(len(self.y)), self.norm * self.x.unscale
        self.by_length = self.directions and spec.scale is None
        scale = length if self.by_length else ones * spec.scale if spec.scale is not None else ones
        self.alpha = scale / self.norm if self.directions else ones * self.x.unscale
        """What, beside the classes' β, makes a product of scaled rows a logit (N,)."""
        self.largest = float((scale if self.directions else length).max(initial=0.0))
        """Of a logit, where classes have length 1."""
        if self.directions:
            self.pulls = above.times(Weight(self.norm, self.x.exponent) if self.by_length else Weight.of(scale, dtype))
        else:
            self.pulls = Weight(above.mantissa, less(above.exponent, less(None, self.x.exponent)))
        """What dL_n/d(x̂ŵ), or dL_n/dz and a scaled embedding, have in common: dL/dL_n times s, or 2^exponent (N,)."""
        self.unscale = less(self.pulls.exponent, self.x.exponent)
        """Exponents of what scales dL/dx back (N,)."""

    def group(self, some: slice) -> _Samples:
        """Some of them."""
        part = copy(self)
        part.x, part.pulls = self.x.part(some), self.pulls.part(some)
        part.y, part.norm, part.alpha = self.y[some], self.norm[some], self.alpha[some]
        part.unscale = None if self.unscale is None else self.unscale[some]
        return part

    def narrow(self, spec: Spec, arrays: Arrays) -> Target:
        """Go down the narrow branch."""
        x, w = (
            Rows(rows.scaled.astype(np.float64), rows.exponent, rows.squares.astype(np.float64))
            for rows in (self.x, rows_of(arrays["w"][self.y], self.x.scaled.dtype))
        )
        if self.directions:
            return _of_margin(spec, x, w)
        return _of_linear(x, w, arrays["b"][self.y] if "b" in arrays else None)

    def back(self, part: Part, f: Array, done: Finished, of_target: Array, lift: Exponents | None) -> Array:
        """dL/dx, from what pulls at the direction and from the target, whose z over the scale is f.

        2^lift is left out of what is done, and counts at the end.
        """
        dtype, unit, weight = self.x.scaled.dtype, self.x.scaled, self.pulls.mantissa
        pull: Any = part.pull
        gradient: Array = (weight * done.factor).astype(dtype)[:, None] * pull
        if part.drag is not None:
            gradient -= weight.astype(dtype)[:, None] * part.drag
        if self.directions:
            norm = self.norm.astype(dtype)[:, None]
            unit = unit / norm
            along = np.empty(len(unit), dtype)
            kernels.dots(gradient, unit, along)
            gradient -= along[:, None] * unit
            if self.by_length:
                gradient += (along + weight * done.target * f).astype(dtype)[:, None] * unit
            gradient /= norm
        gradient += of_target
        unscaled: Array = unscale_rows(gradient, less(less(None, self.unscale), lift))
        return unscaled


class GroupWeights(NamedTuple):
    """What multiplies the gradients of a group's samples, in the units of all groups."""

    to_w: Array
    """For dL/dW (N,)."""
    to_b: Array
    """For dL/db (N,)."""


def _as_they_are(vectors: Any, dtype: Any) -> Rows:
    """Take classes of linear heads: what a far shorter one than others loses by underflow is less than they count."""
    rows = aligned(vectors, dtype)
    return Rows(rows, None, squares_of(rows))


class _Classes:
    """The wide branch: all classes, a block at a time, for one group of samples after the other."""

    def __init__(self, spec: Spec, arrays: Arrays, shared: Array, dtype: Any, samples: int, keep: bool) -> None:
        self.w, self.b, self.shared, self.dtype = arrays["w"], arrays.get("b"), shared, np.dtype(dtype)
        self.directions = spec.head == "margin"
        self.blocks = _tapered(len(self.w), max(NARROWEST, TILE // np.dtype(dtype).itemsize // samples))
        self.kept = np.empty(samples * len(self.w), dtype) if keep else None
        """exp(z - M) β of this group, block after block."""
        self.free: list[Array] = []
        self.longest: list[float] = []
        """The longest class of each block."""
        self.known: dict[int, tuple[Array, Exponents | None]] = {}
        self.parts: list[Part] = []
        self.low: Array | None = None
        """What is rounded off dL/dW as groups are added up (C, D)."""

    def down(self, samples: _Samples, gradients: bool, narrow: Callable[[], T]) -> tuple[Part, T]:
        """From embeddings to what all classes mean to them; the narrow branch is gone down meanwhile."""
        alpha, n = samples.alpha.astype(self.dtype), len(samples.y)
        self.parts = []

        def work(at: slice) -> Part:
            block, tile = self._block(at, samples), self._tile(at, n)
            product(samples.x.scaled, block.w.T, tile)
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
        self, samples: _Samples, whole: Part, factor: Array, weights: GroupWeights, to_w: Array | None,
        to_b: Pair | None, first: bool, last: bool, meanwhile: Callable[[], T],
    ) -> T:  # fmt: skip
        """Add this group's part of dL/dW and dL/db; the first group's is written, the last one's projected.

        Something else is done meanwhile, and what it gives is returned.
        """
        x, n = samples.x.scaled, len(samples.y)
        per_row = weights.to_w / samples.norm if samples.directions else weights.to_w
        if len(self.shared):
            beside = per_row.astype(self.dtype)[:, None] * x
            total = product(np.ones((1, n), self.dtype), beside)[0]

        def work(given: tuple[slice, Part]) -> None:
            at, part = given
            block, tile = self._block(at, samples), self._tile(at, n)
            f = np.where(part.peak > -np.inf, factor * part.relative_to(whole.peak, whole.low), 0.0)
            if to_w is not None:
                rows, pulling = to_w[at], (f * per_row).astype(self.dtype)[:, None] * x
                found = product(tile.T, pulling, rows if first else None)
                if block.shared is not None:
                    _, t, present, apart = block.shared
                    kernels.lower(found, t.astype(self.dtype) * block.beta, total)
                    found[present] -= block.beta[present, None] * product(apart.T.astype(self.dtype), beside)
                if self.low is not None:
                    kernels.accumulate(rows, self.low[at], found) if not first else self.low[at].fill(0.0)
                elif not first:
                    rows += found
                if last:
                    self._finish(rows, at, block)
            if to_b is not None:
                of_b = product(tile.T, (f * weights.to_b).astype(self.dtype)).astype(np.float64)
                if block.shared is not None:
                    _, t, present, apart = block.shared
                    of_b -= t * weights.to_b.sum()
                    of_b[present] -= product(apart.T, weights.to_b)
                to_b[at] = to_b[at] + of_b

        latest_first = list(zip(self.blocks, self.parts, strict=True))[::-1]  # they may still be in the cache

        def used(done: Iterator[None]) -> T:
            found = meanwhile()
            deque(done, maxlen=0)
            return found

        return with_products(work, latest_first, used)

    def _finish(self, rows: Array, at: slice, block: Block) -> None:
        """Take what is along the class off gradients of directions."""
        if self.low is not None:
            rows += self.low[at]
        if self.directions:
            kernels.project(rows, block.w, block.beta)

    def unscale(self, to_w: Array, exponent: int) -> None:
        """Scale gradients as the classes were, and by a power of two; mostly there is nothing to do."""
        for at in self.blocks:
            of_classes = self.known[at.start][1]
            if exponent or of_classes is not None:
                to_w[at] = unscale_rows(to_w[at], less(of_classes, np.full(at.stop - at.start, exponent, np.int32)))

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
        if not np.abs(bias).max(initial=0.0) < _roomy(self.dtype):
            raise TooLargeError
        y = samples.y
        hidden = np.where((y >= at.start) & (y < at.stop), y - at.start, -1)
        return Block(w, beta, bias, hidden, self._shared(at, hidden))

    def _rows(self, at: slice, largest: float) -> tuple[Array, Array]:
        """Rows of classes, of directions scaled, and β."""
        if at.start in self.known:
            beta, exponent = self.known[at.start]
            if exponent is None:
                return aligned(self.w[at], self.dtype), beta
            return rows_of(self.w[at], self.dtype).scaled, beta
        w = rows_of(self.w[at], self.dtype) if self.directions else _as_they_are(self.w[at], self.dtype)
        norm = np.sqrt(w.squares.astype(np.float64))
        if not np.isfinite(norm).all() or (self.directions and not norm.all()):
            inputs.check_classes(self.w, directions=self.directions)
            raise TooLargeError
        longest, room = norm.max(), 2.0 ** (60 if self.dtype == np.float32 else 500)
        if not self.directions and not 1.0 / room < longest < room and self.w[at].any():
            raise TooLargeError
        self.longest.append(1.0 if self.directions else longest)
        if not largest * max(self.longest[-1], 1.0) < _roomy(self.dtype):
            raise TooLargeError
        beta = (1.0 / norm if self.directions else np.ones(len(norm))).astype(self.dtype)
        if self.kept is not None:  # they will be asked for again
            self.known[at.start] = beta, w.exponent
        return w.scaled, beta

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
    divisor = plain(weights.divisor)
    own, shared = cross_entropy.smoothed_targets(y, weights, settings.label_smoothing)
    _fit(request.dtype, own, shared if settings.label_smoothing else shared[:1])  # one number, if they are all 0
    above = Weight(np.zeros(n), None)
    wanted: tuple[str, ...] = ()
    if upstream is not None:
        above = _above(upstream, settings.reduction, divisor, n, request.dtype)
        wanted = request.wanted(("x", "w", "b") if "b" in arrays else ("x", "w"))
    to_x, to_w = np.empty((n, d), request.dtype), request.into("w", (c, d)) if "w" in wanted else None
    to_b = Pair(np.zeros(c), np.zeros(c)) if "b" in wanted else None
    keep, item = to_w is not None or to_b is not None, np.dtype(request.dtype).itemsize
    size = max(1, min(n, max(d, KEPT // (item * (c if keep else min(c, NARROWEST))))))
    classes = _Classes(spec, arrays, shared if settings.label_smoothing else shared[:0], request.dtype, size, keep)
    losses, to_targets, of_z = np.empty(n), np.zeros((n, d)), np.empty(n)
    if not n:  # nothing counts, and no block is gone through
        inputs.check_classes(classes.w, directions=classes.directions)
        if to_w is not None:
            to_w[:] = 0.0
    elif to_w is not None and n > FEW * size:
        classes.low = np.empty((c, d), request.dtype)
    everything = _Samples(spec, arrays, above, request.dtype)
    counted = (own != 0.0) | shared.any()
    (of_w, exponent_w), (of_b, exponent_b) = everything.pulls.common(counted), above.common(counted)
    for start in range(0, n, size):
        some = slice(start, min(start + size, n))
        samples = everything.group(some)
        part, target = classes.down(samples, bool(wanted), partial(samples.narrow, spec, arrays))
        done = finish(part, target.logit, own[some])
        losses[some], of_z[some] = done.loss, of_b[some] * done.target
        back = partial(_back, samples, target, part, done, exponent_w, to_x[some], to_targets[some])
        if keep:
            last, weight = some.stop == n, GroupWeights(of_w[some], of_b[some])
            meanwhile: Callable[[], Any] = partial(_totals, back, to_targets, y) if last else back
            summed = classes.up(samples, part, done.factor, weight, to_w, to_b, start == 0, last, meanwhile)
        elif wanted:
            back()
    if n:
        contract.look("fused", spec, arrays, request.dtype, max(classes.longest))
    found: dict[str, Any] = {"x": to_x}
    if to_w is not None:
        if n:
            present, of_targets = summed
            to_w[present] += of_targets
            classes.unscale(to_w, exponent_w)
        found["w"] = to_w
    if to_b is not None:
        found["b"] = np.ldexp(_with_targets(to_b, of_z, y).hi, exponent_b).astype(request.dtype)
    found = {name: found[name] for name in wanted}
    return _reduced(losses, settings.reduction, divisor), found


def _with_targets(to_b: Pair, of_z: Array, y: Integers) -> Pair:
    """dL/db, of which the targets' part was left out."""
    if len(y):
        present, of_targets = total_by_label(of_z[:, None], y)
        to_b[present] = to_b[present] + of_targets[:, 0]
    return to_b


def _above(upstream: Array, reduction: str, divisor: Any, rows: int, dtype: Any) -> Weight:
    """dL/dL_n of every row."""
    given = Weight.of(upstream, dtype)
    above = Weight.of(cross_entropy.coefficient(given.mantissa, reduction, divisor, rows), dtype)
    if given.exponent is None:
        return above
    exponents = np.zeros(rows, np.int32) if above.exponent is None else above.exponent
    return Weight(above.mantissa, exponents + given.exponent)


def _back(
    samples: _Samples, target: Target, part: Part, done: Finished, exponent: int, to_x: Array, to_targets: Array
) -> None:
    """From the gradient of the logits to that of a group's embeddings, and of the classes as its targets."""
    lift = None
    if part.drag is None:  # of confident samples all is small
        lift = Weight.of(np.maximum(np.abs(done.factor), np.abs(done.target)), to_x.dtype).exponent
    if lift is not None:
        done = done._replace(factor=np.ldexp(done.factor, -lift), target=np.ldexp(done.target, -lift))
    of_x, of_w = target.back(samples.pulls.mantissa * done.target)
    to_x[:] = samples.back(part, target.f, done, of_x, lift)
    down = less(less(None, samples.pulls.exponent), lift)
    to_targets[:] = of_w if down is None else unscale_rows(of_w, down + np.int32(exponent))


def _totals(back: Callable[[], None], to_targets: Array, y: Integers) -> tuple[Integers, Array]:
    """The same for the last group: so all gradients of classes as targets are known, and added up."""
    back()
    return total_by_label(to_targets, y)


def _logits(spec: Spec, arrays: Arrays, upstream: Array | None, request: Request) -> _Result:
    """Cross entropy of logits: every row is read once and, for the gradient, written once."""
    y, settings, dtype = arrays["y"], spec.cross_entropy, request.dtype
    z = aligned(arrays["z"], dtype)
    n, c = z.shape
    counts = cross_entropy.kept(y, settings)
    weights = cross_entropy.weights(y[counts], c, settings)
    divisor = plain(weights.divisor)
    if y.ndim == 2:
        label, own, t = np.full(n, -1), np.zeros(n), cross_entropy.targets(y, weights, settings.label_smoothing).t
    else:
        label = np.where(counts, y, 0)
        own, shared = cross_entropy.smoothed_targets(label, weights, settings.label_smoothing)
        t = shared[None] if settings.label_smoothing else np.empty((0, c))
    given, keep = Weight(np.zeros(n), None), upstream is not None and bool(request.wanted(("z",)))
    if upstream is not None:
        given = _above(upstream, settings.reduction, divisor, n, dtype)
    _fit(dtype, own, t)
    own, t, above, losses = own.astype(dtype), t.astype(dtype), given.mantissa.astype(dtype), np.empty(n)
    out = request.into("z", (n, c)) if keep else np.empty((0, c), dtype)

    def sweep(some: slice) -> None:
        room = out[some] if keep else np.empty((1, c), dtype)
        each = t[some] if y.ndim == 2 else t
        kernels.cross_entropy(
            z[some], label[some], own[some], each, above[some], counts[some], keep, losses[some], room
        )
        if keep and given.exponent is not None:
            room[:] = unscale_rows(room, -given.exponent[some])

    in_order(sweep, _ranges(n, max(1, 2**20 // c)), partial(deque, maxlen=0))
    _overflowed(arrays["z"][~np.isfinite(losses)], dtype)
    if settings.reduction != "none":
        losses = _reduced(losses[counts], settings.reduction, divisor)
    return losses, {"z": out} if keep else {}


def _reduced(losses: Array, reduction: str, divisor: Any) -> Array:
    """Reduce losses; refuse those that fit though their sum does not."""
    found = np.asarray(cross_entropy.reduce(losses, reduction, divisor))
    if not np.isfinite(found).all() and np.isfinite(losses).all() and len(losses):
        raise TooLargeError
    return found


def _overflowed(z: Any, dtype: Any) -> None:
    """Refuse rows, of which the loss is not finite, if that may be for logits too large for their differences."""
    sizes = np.abs(np.asarray(z, np.float64))
    if (np.isfinite(sizes) & (sizes >= _roomy(dtype))).any():
        raise TooLargeError


_HEADS: dict[str, Callable[[Spec, Arrays, Array | None, Request], _Result]] = {
    "logits": _logits,
    "linear": _head,
    "margin": _head,
    "triplet": _by_chain,  # nothing there is N x C
}
