"""Arithmetic of too few bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

import refloss
from support.right_codes.code import CE, DTYPES, HALVES, LINEAR, SINGLES
from support.right_codes.numpy_codes import log_sum_exp, numpy_linear, numpy_logits, pairwise, product
from support.right_codes.torch_codes import torch_linear, torch_logits, torch_p_minus_one, torch_rows
from support.wrong_codes.code import (
    ARC,
    COS,
    PLAIN,
    ROWS,
    SQUARED,
    SUM,
    Array,
    by_hand,
    gradient_changed,
    put,
    tampered,
    value_changed,
)


def truncated(a: Array, bits: int = 10) -> Array:
    """Numbers of float32 with fewer bits, as tf32 has them."""
    mask = np.uint32(0xFFFFFFFF ^ ((1 << (23 - bits)) - 1))
    return np.asarray((np.ascontiguousarray(a, np.float32).view(np.uint32) & mask).view(np.float32))


def cast(fn: Callable[..., Any], kind: Any) -> Callable[..., Any]:
    """Code that computes in another dtype and casts back."""

    def wrapped(*inputs: Any) -> Any:
        like = inputs[0].dtype
        results = fn(*(a if a.dtype.kind == "i" else a.astype(kind) for a in inputs))
        return tuple(np.asarray(part).astype(like) for part in results)

    return wrapped


def arithmetic() -> Iterator[tuple[Any, ...]]:
    """Shorter dtypes where none is promised."""
    import ml_dtypes

    for loss in (CE, LINEAR, COS, ARC, SQUARED, PLAIN):
        name = f"{type(loss).__name__}{'' if getattr(loss, 'squared', True) else ', plain'}"
        yield f"float32 inside float64, {name}", "numpy", cast(by_hand(loss), np.float32), loss, ("float64",)
        yield f"bfloat16 inside, {name}", "numpy", cast(by_hand(loss), ml_dtypes.bfloat16), loss, SINGLES
        if loss is not ARC:
            yield f"float16 inside, {name}", "numpy", cast(by_hand(loss), np.float16), loss, SINGLES
    yield "bfloat16 inside float16", "numpy", cast(by_hand(CE), ml_dtypes.bfloat16), CE, ("float16",)

    def shorter(fn: Callable[..., Any], *places: int) -> Callable[..., Any]:
        return tampered(
            fn,
            lambda i, *results: tuple(
                np.asarray(part).astype(np.float32) if at in places else part for at, part in enumerate(results)
            ),
        )

    yield "the value in float32", "numpy", shorter(by_hand(CE), 0), CE, ("float64",)
    yield "the gradient in float32", "numpy", shorter(by_hand(CE), 1), CE, ("float64",)
    yield "dw in float32", "numpy", shorter(by_hand(COS), 2), COS, ("float64",)
    tf32 = {
        "x and w": lambda x, w: (truncated(x), truncated(w)),
        "x": lambda x, w: (truncated(x), w),
    }
    for which, factors in tf32.items():

        def rounded_factors(x: Array, w: Array, y: Array, factors: Any = factors) -> Any:
            return by_hand(LINEAR)(*factors(x, w), y)

        yield f"{which} rounded as tf32 rounds them", "numpy", rounded_factors, LINEAR, ("float32",)

    def tf32_cosines(x: Array, w: Array, y: Array) -> Any:
        size = [np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, w)]
        value, dx, dw = by_hand(COS)(truncated(x / size[0]), truncated(w / size[1]), y)
        return value, dx / size[0], dw / size[1]

    yield "cosines of tf32", "numpy", tf32_cosines, COS, ("float32",)

    def half_product(kind: str) -> Callable[..., Any]:
        def fn(x: Any, w: Any, y: Any) -> Any:
            import torch

            half = getattr(torch, kind)
            return torch.nn.functional.cross_entropy((x.to(half) @ w.to(half).T).to(x.dtype), y)

        return fn

    yield "a product in bfloat16", "torch", half_product("bfloat16"), LINEAR, SINGLES
    yield "a product in float16", "torch", half_product("float16"), LINEAR, ("float32",)
    yield (
        "sums in bfloat16, one term after the other",
        "numpy",
        narrow_sums,
        LINEAR,
        ("bfloat16",),
        {"standard": "mixed"},
    )
    rounded = torch_logits(torch_rows("log_softmax, gather"), CE)
    mixed = {"standard": "mixed"}
    yield "softmax rounded before p - 1", "torch", softmax_rounded, CE, ("bfloat16",), mixed
    yield "log p rounded", "torch", rounded, CE, ("bfloat16",), mixed
    yield "F.cross_entropy in half precision", "torch", torch_logits(torch_own, CE), CE, ("bfloat16",), mixed
    yield (
        "maximum off in half precision",
        "torch",
        torch_logits(torch_rows("maximum off, detached"), CE),
        CE,
        HALVES,
        mixed,
    )
    yield "logsumexp in half precision", "numpy", numpy_logits(CE, log_sum_exp), CE, HALVES, mixed
    yield "p - t in half precision", "torch", torch_p_minus_one(CE, upcast=False), CE, HALVES, mixed
    yield "cosines stored in half precision", "numpy", by_hand(COS), COS, HALVES, mixed
    yield (
        "an angle in half precision",
        "numpy",
        by_hand(refloss.ArcFace(s=16.0)),
        refloss.ArcFace(s=16.0),
        HALVES,
        mixed,
    )
    yield "a triplet in half precision", "numpy", by_hand(SQUARED), SQUARED, ("bfloat16",), mixed
    filtered = gradient_changed(numpy_logits(CE, upcast=True), lambda g, i: np.where(np.abs(g) < 2.0**-12, g * 0, g))
    yield "gradients below 2^-12 left out", "numpy", filtered, CE, HALVES, mixed
    stored = torch_linear(torch_logits(torch_rows("log_softmax, gather"), LINEAR, upcast=True))
    yield "logits stored in bfloat16", "torch", stored, LINEAR, ("bfloat16", "float16"), {"standard": "fused"}
    dz_stored = linear_in_float32(lambda g, like: g.astype(like.dtype), pairwise)
    yield "dz stored in half precision", "numpy", dz_stored, LINEAR, HALVES, {"standard": "fused"}
    added_up = linear_in_float32(lambda g, like: g, None)
    yield "dw added up in half precision", "numpy", added_up, LINEAR, HALVES, {"standard": "fused"}
    kernel = numpy_linear(LINEAR, upcast="kernel")
    yield "logits stored between two kernels", "numpy", kernel, LINEAR, HALVES, {"standard": "fused"}
    yield (
        "logsumexp - z_y, where the maximum has to be off",
        "numpy",
        numpy_logits(CE, log_sum_exp),
        CE,
        DTYPES,
        {"standard": "stable"},
    )
    relative = {"standard": "relative"}
    yield "tiny losses lost", "torch", torch_logits(torch_own, CE), CE, SINGLES, relative
    yield "tiny losses lost", "numpy", by_hand(CE), CE, SINGLES, relative
    filtered = gradient_changed(by_hand(CE), lambda g, i: np.where(np.abs(g) < 1e-4, g * 0, g))
    yield "gradients below 1e-4 left out", "numpy", filtered, CE, SINGLES
    filtered = gradient_changed(by_hand(COS), lambda g, i: np.where(np.abs(g) < 1e-5, g * 0, g))
    yield "gradients below 1e-5 left out, CosFace", "numpy", filtered, COS, SINGLES
    confident = gradient_changed(by_hand(ROWS), lambda g, i: g * (np.abs(g).max(axis=1, keepdims=True) > 1e-3))
    yield "gradients of confident rows are 0", "numpy", confident, ROWS, SINGLES
    clipped = gradient_changed(by_hand(SUM), lambda g, i: np.clip(g, -0.5, 0.5))
    yield "gradients between -0.5 and 0.5", "numpy", clipped, SUM, DTYPES
    total = replace(LINEAR, reduction="sum")
    clipped = gradient_changed(by_hand(total), lambda g, i: np.clip(g, -1, 1).astype(g.dtype), 1)
    yield "dw between -1 and 1", "numpy", clipped, total, DTYPES
    clipped = gradient_changed(by_hand(ARC), lambda g, i: (g / max(1.0, float(np.linalg.norm(g)))).astype(g.dtype))
    yield "gradients clipped by their norm", "numpy", clipped, ARC, SINGLES
    for factor in (1.0 + 1e-4, 1.0 + 1e-6, 1.0 - 1e-12):
        dtypes = ("float64",) if abs(factor - 1.0) < 1e-5 else SINGLES
        fn = gradient_changed(by_hand(CE), lambda g, i, factor=factor: (g * factor).astype(g.dtype))
        yield f"gradient times {factor!r}", "numpy", fn, CE, dtypes
        fn = value_changed(by_hand(CE), lambda v, i, factor=factor: v * v.dtype.type(factor))
        yield f"loss times {factor!r}", "numpy", fn, CE, dtypes
    fn = value_changed(by_hand(CE), lambda v, i: v * v.dtype.type(1.05))
    yield "loss 5 per cent too large", "numpy", fn, CE, HALVES
    fn = gradient_changed(by_hand(CE), lambda g, i: (g * g.dtype.type(1.05)).astype(g.dtype))
    yield "gradient 5 per cent too large", "numpy", fn, CE, HALVES
    yield "gradient by differences of 1e-3", "numpy", by_differences(1e-3), CE, SINGLES
    for size in (np.nan, np.inf, 1e30, -1e4):
        fn = gradient_changed(by_hand(CE), lambda g, i, size=size: confident_rows(g, size))
        yield f"{size:g} where rows are confident", "numpy", fn, CE, HALVES
        fn = gradient_changed(by_hand(ROWS), lambda g, i, size=size: one_of_confident(g, size))
        yield f"{size:g} in one entry of a confident row", "numpy", fn, ROWS, HALVES


def linear_in_float32(store: Callable[..., Array], add: Any) -> Callable[..., Any]:
    """Softmax loss in float32 except for dz, or for dw, to which one row after the other is added."""

    def fn(x: Array, w: Array, y: Array) -> Any:
        wide_x, wide_w = x.astype(np.float32), w.astype(np.float32)
        value, g = by_hand(CE)(product(wide_x, wide_w, pairwise), y)
        g = store(g, x).astype(np.float32)
        dw = np.zeros_like(w)
        for row, of_row in zip(wide_x, g, strict=True):
            dw = (dw + np.outer(of_row, row)).astype(w.dtype)
        dw = dw if add is None else product(g.T, wide_x.T, add)
        return value.astype(x.dtype), product(g, wide_w.T, pairwise).astype(x.dtype), dw.astype(x.dtype)

    return fn


def softmax_rounded(z: Any, y: Any) -> Any:
    """A kernel that stores its softmax in the logits' dtype, and takes 1 off in that buffer."""
    import torch

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Any, y: Any) -> Any:
            wide, kept = z.float(), y >= 0
            p = wide.softmax(dim=1).to(z.dtype)
            p[torch.arange(len(z))[kept], y[kept]] -= 1.0
            ctx.save_for_backward((p * kept[:, None]) / max(int(kept.sum()), 1))
            return torch.nn.functional.cross_entropy(wide, y).to(z.dtype)

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            return ctx.saved_tensors[0] * upstream, None

    return Kernel.apply(z, y)


def torch_own(z: Any, y: Any) -> Any:
    """Rows by torch's own cross entropy."""
    import torch

    return torch.nn.functional.cross_entropy(z, y.clamp(min=0), reduction="none")


def narrow_sums(x: Array, w: Array, y: Array) -> Any:
    """Matrix products that round every partial sum to the dtype."""

    def narrow(a: Array, b: Array) -> Array:
        total = np.zeros((len(a), len(b))).astype(a.dtype)
        for k in range(a.shape[1]):
            total = total + a[:, k : k + 1] * b[:, k]
        return total

    value, g = by_hand(CE)(narrow(x, w), y)
    return value, narrow(g, w.T.copy()), narrow(g.T.copy(), x.T.copy())


def by_differences(step: float) -> Callable[..., Any]:
    """A gradient by central differences of the value."""

    def fn(z: Array, y: Array) -> Any:
        value, g = by_hand(CE)(z, y)
        g = np.zeros_like(g)
        for at in np.ndindex(z.shape):
            sides = [by_hand(CE)(put(z, at, z[at] + z.dtype.type(side * step)), y)[0] for side in (1, -1)]
            g[at] = (sides[0] - sides[1]) / z.dtype.type(2.0 * step)
        return value, np.nan_to_num(g)

    return fn


def confident_rows(g: Array, size: float) -> Array:
    """Rows whose gradient is small, overwritten; rows of zeros stay."""
    most = np.abs(g.astype(np.float64)).max(axis=1)
    return put(g, (most > 0) & (most < 1e-4), size)


def one_of_confident(g: Array, size: float) -> Array:
    """The last entry of rows whose gradient is small, overwritten; rows of zeros stay."""
    most = np.abs(g.astype(np.float64)).max(axis=1)
    return put(g, (((most > 0) & (most < 1e-3)).nonzero()[0], -1), size)
