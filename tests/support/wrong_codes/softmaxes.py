"""Wrong logarithms and exponentials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import refloss
from support.right_codes.code import CE, DTYPES, HALVES, LINEAR, SINGLES
from support.right_codes.numpy_codes import accumulated, max_first, numpy_logits
from support.right_codes.torch_codes import picked, torch_linear, torch_logits, torch_psi, torch_reduced, torch_rows
from support.wrong_codes.code import ARC, COS, ROWS, Array, one_hot


def logarithms() -> Iterator[tuple[Any, ...]]:
    """log(softmax), sums of exponentials that overflow, what is added to probabilities, clips, short constants."""
    log_softmax = log_of_softmax()
    for loss in (CE, ROWS):
        yield f"log(softmax(z)), {loss.reduction}", "torch", torch_logits(log_softmax, loss), loss, DTYPES
        yield f"log(softmax(z)), {loss.reduction}", "numpy", numpy_logits(loss, numpy_log_softmax), loss, DTYPES
    yield "log(softmax(z)) of z.float()", "torch", torch_logits(log_softmax, CE, upcast=True), CE, HALVES
    linear = torch_linear(torch_logits(log_softmax, LINEAR))
    yield "log(softmax(z)) of a linear layer", "torch", linear, LINEAR, SINGLES
    linear = torch_linear(torch_logits(log_softmax, LINEAR), upcast=True)
    yield "log(softmax(z)) of a linear layer in float32", "torch", linear, LINEAR, HALVES
    for loss in (COS, refloss.NormFace(), ARC):
        fn = torch_head_with(loss, lambda z, y, loss=loss: torch_reduced(log_softmax(z, y), y, loss))
        yield f"log(softmax(z)), {type(loss).__name__}", "torch", fn, loss, ("float32",)
    fn = torch_head_with(refloss.ModifiedSoftmax(), lambda z, y: torch_reduced(log_softmax(z, y), y, CE))
    yield "log(softmax(z)), ModifiedSoftmax", "torch", fn, refloss.ModifiedSoftmax(), SINGLES

    unshifted = {
        "log sum exp(z) - z_y": lambda z, y: z.exp().sum(dim=1).log() - picked(z, y),
        "log of sum exp(z - z_y)": lambda z, y: (z - picked(z, y)[:, None]).exp().sum(dim=1).log(),
        "maximum of all rows taken off": lambda z, y: (z - z.max()).exp().sum(dim=1).log() - picked(z - z.max(), y),
        "first logit taken off": lambda z, y: (z - z[:, :1]).exp().sum(dim=1).log() - picked(z - z[:, :1], y),
        "minimum taken off": lambda z, y: (
            (z - z.amin(dim=1, keepdim=True)).exp().sum(dim=1).log() - picked(z - z.amin(dim=1, keepdim=True), y)
        ),
        "maximum of sizes taken off": lambda z, y: (
            (z - z.abs().amax(dim=1, keepdim=True)).exp().sum(dim=1).log()
            - picked(z - z.abs().amax(dim=1, keepdim=True), y)
        ),
        "exp(z_y) over the sum": lambda z, y: -(picked(z, y).exp() / z.exp().sum(dim=1)).log(),
        "exponential cut off at e^80": lambda z, y: z.exp().clamp(max=math.exp(80.0)).sum(dim=1).log() - picked(z, y),
        "1 added to the sum": lambda z, y: (1.0 + z.exp().sum(dim=1)).log() - picked(z, y),
        "log1p of the sum": lambda z, y: z.logsumexp(dim=1).exp().log1p() - picked(z, y),
        "softplus of the second class": lambda z, y: z.max(dim=1).values - picked(z, y),
        "log1p(p - 1)": lambda z, y: -(picked(z.softmax(dim=1), y) - 1.0).log1p(),
        "maximum subtracted from the sum alone": lambda z, y: (
            (z - z.amax(dim=1, keepdim=True)).exp().sum(dim=1).log() - picked(z, y)
        ),
        "maximum added twice": lambda z, y: z.logsumexp(dim=1) + z.amax(dim=1) - picked(z, y),
    }
    for name, rows in unshifted.items():
        for loss in (CE, ROWS) if "exp(z) - z_y" in name else (CE,):
            yield f"{name}, {loss.reduction}", "torch", torch_logits(rows, loss), loss, SINGLES
    yield (
        "log sum exp(z) - z_y of a linear layer",
        "torch",
        torch_linear(torch_logits(unshifted["log sum exp(z) - z_y"], LINEAR)),
        LINEAR,
        SINGLES,
    )
    yield (
        "log sum exp(z) - z_y, CosFace",
        "torch",
        torch_head_with(
            refloss.CosFace(s=800.0), lambda z, y: torch_reduced(unshifted["log sum exp(z) - z_y"](z, y), y, CE)
        ),
        refloss.CosFace(s=800.0),
        SINGLES,
    )
    for name, rows in {
        "log sum exp(z) - z_y": lambda jnp, z: jnp.log(jnp.exp(z).sum(axis=1)),
        "log(sum(exp(z)) + 1e-8)": lambda jnp, z: jnp.log(jnp.exp(z).sum(axis=1) + 1e-8),
        "maximum of all rows off, each row's put back": lambda jnp, z: (
            jnp.log(jnp.exp(z - z.max()).sum(axis=1)) + z.max(axis=1)
        ),
    }.items():
        yield name, "jax", jax_with(rows), CE, SINGLES, {"ignored": False}

    for least in (1e-12, 1e-10, 1e-8, 1e-7, 1e-5, 1e-3):
        rows = added_to_p(least)
        yield f"log(p + {least:g})", "torch", torch_logits(rows, CE), CE, SINGLES
        yield f"log(max(p, {least:g}))", "torch", torch_logits(at_least(least), CE), CE, SINGLES
        if least > 1e-12:
            yield f"log(p + {least:g}), in float32", "torch", torch_logits(rows, CE, upcast=True), CE, HALVES
    yield "log(max(p, 1e-30))", "torch", torch_logits(at_least(1e-30), CE), CE, SINGLES
    yield "log(p + 1e-30)", "torch", torch_logits(added_to_p(1e-30), CE), CE, SINGLES
    yield (
        "p between 1e-7 and 1 - 1e-7",
        "torch",
        torch_logits(lambda z, y: -picked(z.softmax(dim=1).clamp(1e-7, 1.0 - 1e-7), y).log(), CE),
        CE,
        SINGLES,
    )
    yield "loss at most 20", "torch", torch_logits(lambda z, y: log_softmax_rows(z, y).clamp(max=20.0), CE), CE, DTYPES
    yield (
        "loss at least 1e-4",
        "torch",
        torch_logits(lambda z, y: log_softmax_rows(z, y).clamp(min=1e-4), CE),
        CE,
        SINGLES,
    )
    yield (
        "loss not a number becomes 0",
        "torch",
        torch_logits(lambda z, y: log_softmax(z, y).nan_to_num(posinf=0.0), CE),
        CE,
        SINGLES,
    )

    softmaxes: dict[str, Any] = {
        "softmax taken twice": lambda z, y: log_softmax_rows(z.softmax(dim=1), y),
        "log_softmax taken for logits of softmax": lambda z, y: -picked(z.softmax(dim=1), y),
        "softmax over the samples": lambda z, y: -picked(z.log_softmax(dim=0), y),
        "sigmoids instead of softmax": lambda z, y: -picked(z, y).sigmoid().log(),
        "binary cross entropy of every class": lambda z, y: (
            -(one_hot(z, y) * z.sigmoid().log() + (1.0 - one_hot(z, y)) * (-z).sigmoid().log()).sum(dim=1)
        ),
        "others alone in the sum": lambda z, y: (
            z.masked_fill(one_hot(z, y).bool(), -math.inf).logsumexp(dim=1) - picked(z, y)
        ),
        "temperature of 1.01": lambda z, y: log_softmax_rows(z / 1.01, y),
        "mean of exponentials": lambda z, y: z.logsumexp(dim=1) - math.log(z.shape[1]) - picked(z, y),
        "base 2": lambda z, y: log_softmax_rows(z, y) / math.log(2.0),
        "logs of base 10": lambda z, y: log_softmax_rows(z, y) / math.log(10.0),
        "focal, gamma 0.01": lambda z, y: (
            log_softmax_rows(z, y) * (-log_softmax_rows(z, y)).exp().neg().add(1.0).pow(0.01)
        ),
        "a z-loss beside it": lambda z, y: log_softmax_rows(z, y) + 1e-4 * z.logsumexp(dim=1).square(),
        "logits softly capped at 30": lambda z, y: log_softmax_rows(30.0 * (z / 30.0).tanh(), y),
        "mean squared error of p": lambda z, y: (z.softmax(dim=1) - one_hot(z, y)).square().sum(dim=1),
        "logits of 16 bits": lambda z, y: log_softmax_rows(z.half().to(z.dtype), y),
        "two classes by sigmoid of their difference": lambda z, y: (
            log_softmax_rows(z, y) if z.shape[1] != 2 else -(picked(z, y) - z.amin(dim=1)).sigmoid().log()
        ),
    }
    for name, rows in softmaxes.items():
        yield name, "torch", torch_logits(rows, CE), CE, SINGLES

    constants: dict[str, tuple[float, float]] = {
        "log2(e) = 1.4427": (1.4427, math.log(2.0)),
        "ln 2 = 0.6931": (math.log2(math.e), 0.6931),
        "log2(e) with nine digits": (1.44269504, math.log(2.0)),
        "ln 2 with eight digits": (math.log2(math.e), 0.69314718),
    }
    for name, (up, down) in constants.items():
        dtypes = ("float64",) if "digits" in name else SINGLES
        yield name, "numpy", numpy_logits(CE, base_two_of(up, down)), CE, dtypes
    yield "powers of two without the maximum", "numpy", numpy_logits(CE, unshifted_base_two), CE, SINGLES
    yield "exponentials by a polynomial of degree 4", "numpy", numpy_logits(CE, polynomial_exp), CE, SINGLES
    yield "exponentials rounded to float16", "numpy", numpy_logits(CE, rounded_exp(np.float16)), CE, SINGLES
    yield "exponentials rounded to float32", "numpy", numpy_logits(CE, rounded_exp(np.float32)), CE, ("float64",)
    yield "running sum that is not rescaled", "numpy", numpy_logits(CE, not_rescaled), CE, DTYPES
    yield "running sum rescaled by the wrong sign", "numpy", numpy_logits(CE, rescaled_wrongly), CE, DTYPES
    yield "block sums added without their maxima", "numpy", numpy_logits(CE, sum_of_blocks), CE, DTYPES
    yield (
        "logsumexp of logsumexps added up",
        "torch",
        torch_logits(lambda z, y: sum(part.logsumexp(dim=1) for part in z.split(4, dim=1)) - picked(z, y), CE),
        CE,
        SINGLES,
    )
    yield (
        "log of the world size added",
        "torch",
        torch_logits(lambda z, y: z.logsumexp(dim=1) + math.log(4.0) - picked(z, y), CE),
        CE,
        DTYPES,
    )
    yield "classes gathered twice", "torch", torch_logits(log_softmax_of_pair, CE), CE, DTYPES
    yield "pairs added by logaddexp without -inf", "numpy", numpy_logits(CE, by_log_add), CE, SINGLES


def log_softmax_rows(z: Any, y: Any) -> Any:
    """Right rows."""
    return torch_rows("log_softmax, gather")(z, y)


def log_softmax_of_pair(z: Any, y: Any) -> Any:
    """Rows of logits that stand twice."""
    import torch

    return log_softmax_rows(torch.cat([z, z], dim=1), y)


def log_of_softmax() -> Callable[..., Any]:
    """Rows by log(softmax(z))."""
    return lambda z, y: -picked(z.softmax(dim=1).log(), y)


def numpy_log_softmax(z: Array, add: Any) -> tuple[Array, Array]:
    """log(softmax(z)), and p."""
    _, p = max_first(z, add)
    return np.log(p), p


def jax_with(log_sum: Callable[..., Any]) -> Callable[..., Any]:
    """Mean of log_sum(jax.numpy, z) - z_y in jax."""

    def fn(z: Any, y: Any) -> Any:
        import jax

        return (log_sum(jax.numpy, z) - z[np.arange(len(z)), y]).mean()

    return fn


def added_to_p(least: float) -> Callable[..., Any]:
    """Rows by log(p + eps)."""
    return lambda z, y: -(picked(z.softmax(dim=1), y) + least).log()


def at_least(least: float) -> Callable[..., Any]:
    """Rows by log(max(p, eps))."""
    return lambda z, y: -picked(z.softmax(dim=1), y).clamp(min=least).log()


def torch_head_with(loss: Any, of_logits: Callable[..., Any]) -> Callable[..., Any]:
    """A margin head without a rule and another loss of its logits."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        length = x.norm(dim=1, keepdim=True)
        ux, uw = x / length, w / w.norm(dim=1, keepdim=True)
        cos = ux @ uw.T
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        mine = uw[y.clamp(min=0)]
        theta = 2.0 * torch.atan2((ux - mine).norm(dim=1), (ux + mine).norm(dim=1))
        psi = torch_psi(loss, (ux * mine).sum(dim=1), torch.sin(theta), theta, "lengths")
        scale = length if loss.spec.scale is None else loss.spec.scale
        return of_logits(scale * torch.where(target, psi[:, None], cos), y)

    return fn


def base_two_of(up: float, down: float) -> Callable[..., Any]:
    """Powers of two with other constants."""

    def kernel(z: Array, add: Any) -> tuple[Array, Array]:
        gap = z - z.max(axis=1, keepdims=True)
        e = np.exp2(gap * z.dtype.type(up))
        total = accumulated(add)(e)[:, None]
        return gap - np.log2(total) * z.dtype.type(down), e / total

    return kernel


def unshifted_base_two(z: Array, add: Any) -> tuple[Array, Array]:
    """Powers of two of the logits themselves."""
    e = np.exp2(z * z.dtype.type(math.log2(math.e)))
    total = accumulated(add)(e)[:, None]
    return z - np.log2(total) * z.dtype.type(math.log(2.0)), e / total


def polynomial_exp(z: Array, add: Any) -> tuple[Array, Array]:
    """Exponentials of the fractional part by a short Taylor series."""
    gap = z - z.max(axis=1, keepdims=True)
    whole = np.where(np.isfinite(gap), np.rint(gap), -1e4)
    part = np.where(np.isfinite(gap), gap - whole, 0.0)
    e = (np.exp(whole) * (1.0 + part * (1.0 + part / 2.0 * (1.0 + part / 3.0 * (1.0 + part / 4.0))))).astype(z.dtype)
    total = accumulated(add)(e)[:, None]
    return gap - np.log(total), e / total


def rounded_exp(kind: Any) -> Callable[..., Any]:
    """Exponentials rounded to a shorter dtype."""

    def kernel(z: Array, add: Any) -> tuple[Array, Array]:
        gap = z - z.max(axis=1, keepdims=True)
        e = np.exp(gap).astype(kind).astype(z.dtype)
        total = accumulated(add)(e)[:, None]
        return gap - np.log(total), e / total

    return kernel


def _blocks(z: Array, size: int = 4) -> Iterator[Array]:
    for start in range(0, z.shape[1], size):
        yield z[:, start : start + size]


def not_rescaled(z: Array, add: Any) -> tuple[Array, Array]:
    """Online softmax that forgets to rescale its sum when the maximum grows."""
    top, total = np.full(len(z), -np.inf).astype(z.dtype), np.zeros(len(z)).astype(z.dtype)
    for part in _blocks(z, 2):
        top = np.maximum(top, part.max(axis=1))
        total = total + accumulated(add)(np.exp(part - top[:, None]))
    return (z - top[:, None]) - np.log(total)[:, None], np.exp(z - top[:, None]) / total[:, None]


def rescaled_wrongly(z: Array, add: Any) -> tuple[Array, Array]:
    """Online softmax that rescales by exp(new - old)."""
    top, total = z[:, 0], np.zeros(len(z)).astype(z.dtype)
    for part in _blocks(z, 2):
        higher = np.maximum(top, part.max(axis=1))
        total = total * np.exp(higher - top) + accumulated(add)(np.exp(part - higher[:, None]))
        top = higher
    return (z - top[:, None]) - np.log(total)[:, None], np.exp(z - top[:, None]) / total[:, None]


def sum_of_blocks(z: Array, add: Any) -> tuple[Array, Array]:
    """Sums of exponentials of blocks, each less its own maximum, added up as they are."""
    total = sum(accumulated(add)(np.exp(part - part.max(axis=1, keepdims=True))) for part in _blocks(z, 2))
    top = z.max(axis=1, keepdims=True)
    return z - top - np.log(total)[:, None], np.exp(z - top) / total[:, None]


def by_log_add(z: Array, add: Any) -> tuple[Array, Array]:
    """log(exp a + exp b) = a + log1p(exp(b - a)), with whichever comes first for a."""
    whole = z[:, 0]
    for k in range(1, z.shape[1]):
        whole = whole + np.log1p(np.exp(z[:, k] - whole))
    return z - whole[:, None], np.exp(z - whole[:, None])
