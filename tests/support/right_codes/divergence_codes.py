"""Right implementations of divergences: one log-softmax subtracted from another, in NumPy, torch and jax."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

import refloss
from support.right_codes.code import DTYPES, HALVES, Add, Array, Right
from support.right_codes.numpy_codes import (
    Kernel,
    accumulated,
    blocked,
    log_sum_exp,
    max_first,
    pairwise,
    sequential,
    widened,
)

FORWARD = refloss.KLDivergence()
REVERSE = refloss.KLDivergence(form="reverse")
JENSEN_SHANNON = refloss.KLDivergence(form="jensen-shannon")


def numpy_divergence(
    loss: Any, kernel: Kernel = max_first, add: Add = pairwise, upcast: bool = False
) -> Callable[..., Any]:
    """A divergence with its gradients by hand, every number stored in the dtype unless it is cast to float32 first."""

    def fn(z: Array, target: Array) -> Any:
        kind = z.dtype
        z, target = (widened(part) for part in (z, target)) if upcast else (z, target)
        one = z.dtype.type
        with np.errstate(all="ignore"):
            (log_q, q), (log_p, p) = kernel(z, add), kernel(target, add)
            rows, dz, dtarget = of_rows(loss.form, q, p, log_q, log_p, accumulated(add))
        scale = one(1.0 / len(z)) if loss.reduction == "mean" else one(1.0)
        value = rows if loss.reduction == "none" else np.asarray(accumulated(add)(rows)) * scale
        return value.astype(kind), (dz * scale).astype(kind), (dtarget * scale).astype(kind)

    return fn


def of_rows(form: str, q: Array, p: Array, log_q: Array, log_p: Array, total: Add) -> tuple[Array, Array, Array]:
    """Losses of rows and gradients of both sides."""

    def expected(weights: Array, log: Array) -> tuple[Array, Array]:
        terms = np.where(weights > 0, weights * log, 0 * weights)
        loss = total(terms)
        return loss, terms - weights * loss[:, None]

    if form == "forward":
        loss, dtarget = expected(p, log_p - log_q)
        return loss, q - p, dtarget
    if form == "reverse":
        loss, dz = expected(q, log_q - log_p)
        return loss, dz, p - q
    half = q.dtype.type(0.5)
    log_m = np.logaddexp(log_p, log_q) - q.dtype.type(math.log(2.0))
    (of_q, dz), (of_p, dtarget) = expected(q, log_q - log_m), expected(p, log_p - log_m)
    return half * (of_q + of_p), half * dz, half * dtarget


def torch_divergence(loss: Any, way: str = "kl_div", cast: str = "") -> Callable[..., Any]:
    """A divergence that autograd differentiates, by torch's own function or by its formula."""
    import torch

    f = torch.nn.functional

    def kl(log_p: Any, log_q: Any) -> Any:
        if way == "kl_div":
            return f.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)
        if way == "cross entropy less entropy":
            return (log_p.exp() * log_p).sum(dim=-1) - (log_p.exp() * log_q).sum(dim=-1)
        return (log_p.exp() * (log_p - log_q)).sum(dim=-1)

    def log_softmax(logits: Any) -> Any:
        return logits - logits.logsumexp(dim=-1, keepdim=True) if way == "logsumexp" else f.log_softmax(logits, dim=-1)

    def fn(z: Any, target: Any) -> Any:
        kind = z.dtype
        log_q, log_p = (log_softmax(getattr(part, cast)() if cast else part) for part in (z, target))
        if loss.form == "jensen-shannon":
            log_m = torch.logaddexp(log_p, log_q) - math.log(2.0)
            rows = (kl(log_p, log_m) + kl(log_q, log_m)) / 2
        else:
            rows = kl(log_p, log_q) if loss.form == "forward" else kl(log_q, log_p)
        value = {"none": lambda: rows, "sum": rows.sum, "mean": rows.mean}[loss.reduction]()
        return value.to(kind)

    return fn


def jax_divergence(loss: Any) -> Callable[..., Any]:
    """A divergence of jax's log_softmax."""
    import jax
    import jax.numpy as jnp

    def fn(z: Any, target: Any) -> Any:
        log_q, log_p = jax.nn.log_softmax(z), jax.nn.log_softmax(target)
        if loss.form == "jensen-shannon":
            log_m = jnp.logaddexp(log_p, log_q) - math.log(2.0)
            rows = (jnp.exp(log_p) * (log_p - log_m) + jnp.exp(log_q) * (log_q - log_m)).sum(axis=-1) / 2
        else:
            first, second = (log_p, log_q) if loss.form == "forward" else (log_q, log_p)
            rows = (jnp.exp(first) * (first - second)).sum(axis=-1)
        return {"none": lambda: rows, "sum": rows.sum, "mean": rows.mean}[loss.reduction]()

    return fn


def of_divergences(dtype: str) -> Iterator[Right]:
    """Divergences."""
    for loss in (
        FORWARD,
        REVERSE,
        JENSEN_SHANNON,
        replace(FORWARD, reduction="none"),
        replace(REVERSE, reduction="sum"),
    ):
        for add in (sequential, pairwise, blocked):
            fn = numpy_divergence(loss, add=add)
            yield Right(f"by hand, {add.__name__}, {loss}", "numpy", fn, loss, DTYPES, "stable", {})
        working = numpy_divergence(loss, log_sum_exp)
        yield Right(f"by hand, logsumexp, {loss}", "numpy", working, loss, DTYPES, "working", {})
        single = numpy_divergence(loss, upcast=True)
        yield Right(f"by hand in float32, {loss}", "numpy", single, loss, HALVES, "mixed", {})
        for way in ("kl_div", "formula", "cross entropy less entropy"):
            yield Right(f"{way}, {loss}", "torch", torch_divergence(loss, way), loss, DTYPES, "stable", {})
        yield Right(f"logsumexp, {loss}", "torch", torch_divergence(loss, "logsumexp"), loss, DTYPES, "working", {})
        upcast = torch_divergence(loss, cast="float")
        yield Right(f"kl_div in float32, {loss}", "torch", upcast, loss, HALVES, "mixed", {})
        summed: dict[str, Any] = {"accumulate": dtype} if dtype in HALVES else {}
        yield Right(f"in jax, {loss}", "jax", jax_divergence(loss), loss, DTYPES, "stable", summed)
