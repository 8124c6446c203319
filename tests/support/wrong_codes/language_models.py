"""Defects of cross entropy in language models: each with its mended twin and with the cause that `check` has to name.

Rounded probabilities, shards of the classes, padded classes, offsets, upstream gradients of rows, means of parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from support.right_codes.code import CE, DTYPES, HALVES, LINEAR, SINGLES, SMOOTH, WEIGHTED
from support.right_codes.numpy_codes import (
    log_sum_exp,
    max_first,
    numpy_linear,
    numpy_logits,
    numpy_relative,
    pairwise,
    small_losses,
    targets_of,
    without_bias,
)
from support.right_codes.numpy_codes import reduced as numpy_reduced
from support.right_codes.results import in_place
from support.right_codes.torch_codes import (
    torch_cross_entropy,
    torch_linear,
    torch_logits,
    torch_p_minus_one,
    torch_reduced,
)
from support.wrong_codes.code import ROWS, SUM, Array
from support.wrong_codes.precision import softmax_rounded, torch_own
from support.wrong_codes.reductions import with_backward

SMOOTH_LINEAR = replace(LINEAR, label_smoothing=0.1)
LINEAR_ROWS = replace(LINEAR, reduction="none")
MIXED, FUSED, RELATIVE, STABLE = ({"standard": name} for name in ("mixed", "fused", "relative", "stable"))
ROUNDED = "a softmax was rounded to {dtype} before the target was subtracted: form p - 1 in float32 and round once"
ZERO = "p of confident targets was rounded before 1 was subtracted"
SHARD = "label smoothing of {share} with the C of one of {world} shards: take all classes"
SHARD_MEAN = "label smoothing with the mean of log p over one of {world} shards: take all classes"
WORLD = "log {world} is added to every loss: classes that were gathered count {world} times in the sum"
PADDED = "padded classes count in the softmax: C is rounded up to a multiple of {multiple}, with logits of {pad:g}"
LARGE = "only where all logits are large, as logsumexp(z) - z_y gives the loss there: take the largest away"
NO_UPSTREAM = "the gradients do not depend on the upstream gradient"
FIRST_UPSTREAM = "the upstream gradient of the first row is taken for all rows"
OVERWRITES = "the code writes into its input z: no other cause was looked for"
TWO_MEANS = "the mean of the means of two halves: add up both, and divide once by what counts in both"
ALL_ROWS = "ignored rows are counted in the mean: divide by the number of labels that count, not by N"
BY_NUMBER = "the weighted sum is divided by the number of rows: divide by the sum of the weights of the labels"
Z_LOSS = "a z-loss of lambda={factor:g} is added"


class Named(NamedTuple):
    """Wrong code whose cause has to be named, and the same code without the defect."""

    name: str
    framework: str
    fn: Callable[..., Any]
    mended: Callable[..., Any]
    loss: Any
    dtypes: tuple[str, ...]
    """The dtypes in which the defect is visible."""
    settings: dict[str, Any]
    """Further arguments of `check`."""
    said: str
    """How the only diagnosis begins, with {dtype} for the dtype."""


def language_models() -> Iterator[tuple[Any, ...]]:
    """The defects, for `wrong_codes`."""
    for one in named_codes():
        yield one.name, one.framework, one.fn, one.loss, one.dtypes, one.settings


def named_codes() -> Iterator[Named]:
    """Yield every defect, a line each."""
    right, linear, smooth = numpy_logits(CE), without_bias(numpy_linear(LINEAR)), numpy_logits(SMOOTH)

    for loss in (CE, SUM, ROWS):
        fn, mended = by_storage(loss), numpy_logits(loss, upcast=True)
        yield Named(f"p stored, {loss.reduction}", "numpy", fn, mended, loss, HALVES, MIXED, ROUNDED)
    fn, mended = by_storage(SMOOTH), numpy_logits(SMOOTH, upcast=True)
    yield Named("p stored, smoothed", "numpy", fn, mended, SMOOTH, HALVES, MIXED, ROUNDED)
    mended = torch_p_minus_one(CE, upcast=True)
    yield Named("p stored", "torch", softmax_rounded, mended, CE, HALVES, MIXED, ROUNDED)
    yield Named("p stored, upcast", "torch", softmax_rounded, torch_upcast(CE), CE, HALVES, MIXED, ROUNDED)
    for standard, upcast in ((MIXED, "kernel"), (FUSED, "all")):
        fn, mended = linear_by_storage(upcast), numpy_linear(LINEAR, upcast=upcast)
        yield Named(f"p stored, linear, {upcast}", "numpy", fn, mended, LINEAR, HALVES, standard, ROUNDED)
    fn, mended = torch_linear(softmax_rounded), torch_linear(torch_p_minus_one(LINEAR, upcast=True))
    yield Named("p stored, linear", "torch", fn, mended, LINEAR, HALVES, MIXED, ROUNDED)
    for loss in (CE, ROWS):
        fn, mended = minus_one(loss), numpy_relative(loss)
        yield Named(f"p - 1 of confident targets, {loss.reduction}", "numpy", fn, mended, loss, SINGLES, RELATIVE, ZERO)

    for world in (2, 4):
        said = SHARD.format(share="eps/C", world=world)
        shares = {
            "eps": lambda own, c, world=world: 0.9 * own + 0.1 / shard(c, world),
            "eps C": lambda own, c, world=world: (1.0 - 0.1 * c / shard(c, world)) * own + 0.1 / shard(c, world),
        }
        for name, t in shares.items():
            yield Named(f"{name} / C of {world} shards", "numpy", of_targets(t), smooth, SMOOTH, DTYPES, {}, said)
    others = SHARD.format(share="eps/(C - 1)", world=2)
    yield Named("eps / (C - 1) of 2 shards", "numpy", of_targets(megatron), smooth, SMOOTH, DTYPES, {}, others)
    for world, rank in ((2, 0), (2, 1), (4, 1)):
        said, fn = SHARD_MEAN.format(world=world), of_targets(of_shard(world, rank))
        yield Named(f"mean of log p of shard {rank} of {world}", "numpy", fn, smooth, SMOOTH, DTYPES, {}, said)
    said, fn = SHARD_MEAN.format(world=2), of_targets(of_shard(2, 0, others=True))
    yield Named("mean of log p of a shard, eps C / (C - 1)", "numpy", fn, smooth, SMOOTH, DTYPES, {}, said)
    fn, mended = torch_linear(torch_of_shard), torch_linear(torch_cross_entropy(SMOOTH))
    yield Named("mean of log p of a shard, linear", "torch", fn, mended, SMOOTH_LINEAR, SINGLES, {}, said)

    for world in (2, 4, 8):
        said, fn = WORLD.format(world=world), numpy_logits(CE, gathered(world))
        yield Named(f"gathered {world} times", "numpy", fn, right, CE, DTYPES, {}, said)
    said, fn = WORLD.format(world=2), without_bias(numpy_linear(LINEAR, gathered(2)))
    yield Named("gathered twice, linear", "numpy", fn, linear, LINEAR, DTYPES, {}, said)
    for multiple, pad in ((8, 0.0), (64, 0.0), (128, 0.0), (8, -2.5)):
        said, fn = PADDED.format(multiple=multiple, pad=pad), numpy_logits(CE, padded(multiple, pad))
        dtypes = DTYPES if pad == 0.0 else SINGLES
        yield Named(f"padded to {multiple} with {pad:g}", "numpy", fn, right, CE, dtypes, {}, said)
    said, fn = PADDED.format(multiple=64, pad=0.0), without_bias(numpy_linear(LINEAR, padded(64, 0.0)))
    yield Named("padded to 64, linear", "numpy", fn, linear, LINEAR, DTYPES, {}, said)
    yield Named("logsumexp - z_y far from 0", "numpy", numpy_logits(CE, log_sum_exp), right, CE, SINGLES, STABLE, LARGE)
    beside = torch_logits(lambda z, y: torch_own(z, y) + 1e-3 * z.logsumexp(dim=1).square(), CE)
    said = Z_LOSS.format(factor=1e-3)
    yield Named("a z-loss of 1e-3", "torch", beside, torch_cross_entropy(CE), CE, SINGLES, {}, said)

    each = with_backward(ROWS, lambda g, up: g * up[:, None])
    for name, said, change in (
        ("no upstream", NO_UPSTREAM, lambda g, up: g),
        ("upstream[0]", FIRST_UPSTREAM, lambda g, up: g * up[0]),
    ):
        fn = with_backward(ROWS, change)
        yield Named(f"{name} for all rows", "torch", fn, each, ROWS, DTYPES, {}, said)
        fn, mended = torch_linear(fn), torch_linear(each)
        yield Named(f"{name} for all rows, linear", "torch", fn, mended, LINEAR_ROWS, SINGLES, {}, said)
    yield Named("gradient over the logits", "numpy", in_place(right), right, CE, DTYPES, {}, OVERWRITES)
    for loss in (CE, WEIGHTED):
        fn, mended = means_of_halves(loss), torch_cross_entropy(loss)
        weights = ", weighted" if loss.class_weight else ""
        yield Named(f"mean of two means{weights}", "torch", fn, mended, loss, SINGLES, {}, TWO_MEANS)
    fn = means_of_halves(CE)
    even = {"shapes": [(6, 5, 1), (2, 3, 1)]}
    yield Named("mean of two means as long", "torch", fn, torch_cross_entropy(CE), CE, SINGLES, even, TWO_MEANS)
    yield Named("mean over all rows", "torch", over_all_rows, torch_cross_entropy(CE), CE, DTYPES, {}, ALL_ROWS)
    mended = torch_cross_entropy(WEIGHTED)
    yield Named("weighted, over the rows", "torch", over_number, mended, WEIGHTED, SINGLES, {}, BY_NUMBER)


def stored_in(kind: Any) -> Callable[..., Any]:
    """Log p, and p rounded to a dtype."""

    def kernel(z: Array, add: Any) -> tuple[Array, Array]:
        log_p, p = max_first(z, add)
        return log_p, p.astype(kind).astype(z.dtype)

    return kernel


def by_storage(loss: Any) -> Callable[..., Any]:
    """Cross entropy in float32 whose softmax is rounded to the logits' dtype before anything is subtracted."""
    return lambda z, y: numpy_logits(loss, stored_in(z.dtype), upcast=True)(z, y)


def linear_by_storage(upcast: str) -> Callable[..., Any]:
    """A linear layer before such a kernel, with a bias."""

    def fn(x: Array, w: Array, y: Array, b: Array | None = None) -> Any:
        return numpy_linear(LINEAR, stored_in(x.dtype), upcast=upcast)(x, w, y, b)

    return fn


def torch_upcast(loss: Any) -> Callable[..., Any]:
    """torch's own, of the logits in float32."""
    return torch_cross_entropy(loss, lambda z: z.float())


def minus_one(loss: Any) -> Callable[..., Any]:
    """Losses right relative to themselves, and a gradient of p less 1, with p rounded to 1 where it is certain."""

    def fn(z: Array, y: Array) -> Any:
        rows, _ = small_losses(z, y, loss)
        targets = targets_of(y, z.shape[1], loss, z.dtype)
        e = np.exp(z - z.max(axis=1, keepdims=True))
        g = (e / e.sum(axis=1, keepdims=True) - targets.t) * targets.kept[:, None]
        return numpy_reduced(rows, targets, loss, pairwise), g / z.dtype.type(targets.divisor or np.inf)

    return fn


def shard(classes: int, world: int) -> int:
    """The number of classes of a shard: the last one has fewer."""
    return -(-classes // world)


def of_targets(t: Callable[..., Any]) -> Callable[..., Any]:
    """Cross entropy with other targets t(rows of 0 and a 1, C), which need not add up to 1."""

    def fn(z: Array, y: Array) -> Any:
        if y.ndim > 1:
            raise TypeError("y: labels alone")
        kept = y >= 0
        own = np.eye(z.shape[1])[np.where(kept, y, 0)]
        targets = targets_of(y, z.shape[1], SMOOTH, z.dtype)
        other = (np.asarray(t(own, z.shape[1])) * kept[:, None]).astype(z.dtype)
        return numpy_of(z, targets._replace(t=other))

    return fn


def numpy_of(z: Array, targets: Any) -> Any:
    """Mean cross entropy of logits with such targets."""
    log_p, p = max_first(z, pairwise)
    g = (p * targets.t.astype(np.float64).sum(axis=1)[:, None].astype(z.dtype) - targets.t) * targets.kept[:, None]
    rows = -(np.where(targets.t == 0, targets.t, targets.t * log_p)).astype(np.float64).sum(axis=1).astype(z.dtype)
    value = numpy_reduced(rows * targets.kept, targets, SMOOTH, pairwise)
    return value, (g / z.dtype.type(targets.divisor or np.inf)).astype(z.dtype)


def megatron(own: Array, classes: int) -> Array:
    """Label smoothing by eps K / (K - 1) with the K of a shard of two."""
    some = shard(classes, 2)
    eps = 0.1 * some / max(some - 1, 1)
    return (1.0 - eps) * own + eps / classes


def of_shard(world: int, rank: int, others: bool = False) -> Callable[..., Any]:
    """Targets that spread eps over the classes of one shard."""

    def t(own: Array, classes: int) -> Array:
        some = shard(classes, world)
        mine = np.arange(classes) // some == rank
        count = max(int(mine.sum()), 1)
        eps = 0.1 * count / max(count - 1, 1) if others else 0.1
        return (1.0 - eps) * own + eps / count * mine

    return t


def torch_of_shard(z: Any, y: Any) -> Any:
    """Megatron's form: a share of the mean of log p over the first half of the classes."""
    some = shard(z.shape[1], 2)
    eps = 0.1 * some / max(some - 1, 1)
    rows = (1.0 - eps) * torch_own(z, y) - eps * z.log_softmax(dim=1)[:, :some].mean(dim=1)
    return torch_reduced(rows, y, CE)


def gathered(world: int) -> Callable[..., Any]:
    """Log p and p of logits of which the sum has every one several times."""

    def kernel(z: Array, add: Any) -> tuple[Array, Array]:
        log_p, p = max_first(z, add)
        return log_p - z.dtype.type(np.log(world)), p / z.dtype.type(world)

    return kernel


def padded(multiple: int, pad: float) -> Callable[..., Any]:
    """Log p and p of logits with more behind the last class."""

    def kernel(z: Array, add: Any) -> tuple[Array, Array]:
        classes = z.shape[1]
        wide = np.concatenate([z, np.full((len(z), -classes % multiple), pad).astype(z.dtype)], axis=1)
        log_p, p = max_first(wide, add)
        return log_p[:, :classes], p[:, :classes]

    return kernel


def means_of_halves(loss: Any) -> Callable[..., Any]:
    """The mean of the means of two micro-batches; a half in which nothing counts has a mean of 0."""

    def fn(z: Any, y: Any) -> Any:
        import torch

        half, weights = len(z) // 2, torch.tensor(loss.class_weight or [1.0] * z.shape[1], dtype=z.dtype)
        rows = torch_cross_entropy(replace(loss, reduction="none"))(z, y)
        counts = weights[y.clamp(min=0)] * (y >= 0)
        parts = [rows[part].sum() / (counts[part].sum() or 1.0) for part in (slice(0, half), slice(half, len(z)))]
        return sum(parts) / 2.0

    return fn


def over_all_rows(z: Any, y: Any) -> Any:
    """The sum divided by N."""
    return torch_cross_entropy(SUM)(z, y) / len(z)


def over_number(z: Any, y: Any) -> Any:
    """The weighted sum divided by the number of rows that count."""
    return torch_cross_entropy(replace(WEIGHTED, reduction="sum"))(z, y) / (y >= 0).sum().clamp(min=1)
