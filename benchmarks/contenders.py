"""What refloss is timed against: a floor that nobody can do without, and the same losses in other libraries.

A contender is a function of a problem and its arrays, and returns a call. Before the call stands all that is not
timed: arrays become the library's own, and functions are compiled when first called. The call returns the loss's value,
so that all can be compared; the floor's returns nothing of use.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from timing import Call

import refloss

Arrays = tuple[np.ndarray[Any, Any], ...]

ARCFACE = refloss.ArcFace()
FLOORS = {
    "gradients": "x w^T; z w; z^T x",
    "value": "x w^T",
    "logits": "a copy of z",
}


class Problem(NamedTuple):
    """What is computed: ArcFace's value, with or without gradients, or cross entropy's with its gradient by logits."""

    kind: Literal["gradients", "value", "logits"]
    n: int
    c: int
    d: int
    """0 for logits."""


def arrays_of(problem: Problem, dtype: str) -> Arrays:
    """Embeddings, weights and labels, or logits and labels; always the same normal numbers."""
    random = np.random.default_rng(0)
    y = random.integers(0, problem.c, problem.n)
    if problem.kind == "logits":
        z = random.standard_normal((problem.n, problem.c), np.float32).astype(dtype)
        z *= 4.0
        return z, y
    x, w = (random.standard_normal((rows, problem.d), np.float32).astype(dtype) for rows in (problem.n, problem.c))
    return x, w, y


def contenders(problem: Problem, arrays: Arrays, dtype: str) -> dict[str, Callable[[], Call]]:
    """By name, what prepares a contender's call; the floor and refloss come first."""
    makers: dict[str, Callable[[], Call]] = {
        "floor": lambda: floor(problem, arrays),
        "fused": lambda: engine(problem, arrays, "fused", dtype),
        "jax.jit": lambda: jax_jit(problem, arrays),
        "torch.compile": lambda: torch_compile(problem, arrays),
        "torch": lambda: torch_eager(problem, arrays),
    }
    if problem.kind != "logits":
        makers["PML"] = lambda: pytorch_metric_learning(problem, arrays)
        makers["InsightFace"] = lambda: insightface(problem, arrays)
    return makers


# ------------------------------------------------------------------------------------------------------ floor, refloss


def floor(problem: Problem, arrays: Arrays) -> Call:
    """The matrix products as they are written in NumPy; of logits, a copy."""
    if problem.kind == "logits":
        return arrays[0].copy
    x, w, _ = arrays

    def products() -> None:
        z = x @ w.T
        if problem.kind == "gradients":
            _ = z @ w, z.T @ x

    return products


def engine(problem: Problem, arrays: Arrays, name: str, dtype: str) -> Call:
    """An engine of refloss; those without that dtype compute and return float64."""
    options: dict[str, Any] = {"engine": name}
    if name == "fused":
        options["dtype"] = np.dtype(dtype).type
    loss = refloss.CrossEntropy() if problem.kind == "logits" else ARCFACE
    if problem.kind == "value":
        return lambda: loss(*arrays, **options)
    return lambda: loss.value_and_grad(*arrays, **options)[0]


# ------------------------------------------------------------------------------------------------------------ PyTorch


def torch_eager(problem: Problem, arrays: Arrays) -> Call:
    """PyTorch in eager mode: each operation called as it is written."""
    tensors, y = _tensors(problem, arrays)
    return _torch_call(problem, _torch_loss(problem, y), tensors)


def torch_compile(problem: Problem, arrays: Arrays) -> Call:
    """The loss that `torch_eager` computes, compiled by torch.compile."""
    import torch

    if not (shutil.which("g++") or shutil.which("clang++")):
        raise RuntimeError("no C++ compiler")
    tensors, y = _tensors(problem, arrays)
    return _torch_call(problem, torch.compile(_torch_loss(problem, y)), tensors)


def insightface(problem: Problem, arrays: Arrays) -> Call:
    """InsightFace's formulation, written after its description: all angles taken, moved and put back, in place."""
    import torch

    f, s, m = torch.nn.functional, ARCFACE.s, ARCFACE.m
    tensors, y = _tensors(problem, arrays)

    def loss(x: Any, w: Any) -> Any:
        cos = f.linear(f.normalize(x), f.normalize(w)).clamp(-1, 1)
        with torch.no_grad():
            own = cos[torch.arange(len(y)), y].acos()
            cos.acos_()
            cos[torch.arange(len(y)), y] = own + m
            cos.cos_()
        return f.cross_entropy(cos * s, y)

    return _torch_call(problem, loss, tensors)


def pytorch_metric_learning(problem: Problem, arrays: Arrays) -> Call:
    """`ArcFaceLoss` of pytorch-metric-learning, with its own weight W (D, C)."""
    import torch
    from pytorch_metric_learning import losses

    (x, w), y = _tensors(problem, arrays)
    module = losses.ArcFaceLoss(problem.c, problem.d, margin=math.degrees(ARCFACE.m), scale=ARCFACE.s)
    module.W = torch.nn.Parameter(w.detach().T.contiguous(), requires_grad=problem.kind != "value")
    return _torch_call(problem, lambda x, w: module(x, y), [x, module.W])


def _tensors(problem: Problem, arrays: Arrays) -> tuple[list[Any], Any]:
    import torch

    *floats, y = (torch.from_numpy(array) for array in arrays)
    return [array.requires_grad_(problem.kind != "value") for array in floats], y


def _torch_loss(problem: Problem, y: Any) -> Callable[..., Any]:
    """Cross entropy, or ArcFace with its margin put where the target is; nothing else is N x C."""
    import torch

    f, s, m = torch.nn.functional, ARCFACE.s, ARCFACE.m

    def cross_entropy(z: Any) -> Any:
        return f.cross_entropy(z, y)

    def arcface(x: Any, w: Any) -> Any:
        cos = f.linear(f.normalize(x), f.normalize(w))
        psi = torch.cos(torch.acos(cos.gather(1, y[:, None]).clamp(-1, 1)) + m)
        return f.cross_entropy(s * cos.scatter(1, y[:, None], psi), y)

    return cross_entropy if problem.kind == "logits" else arcface


def _torch_call(problem: Problem, loss: Callable[..., Any], tensors: list[Any]) -> Call:
    import torch

    def value() -> float:
        with torch.no_grad():
            return float(loss(*tensors))

    def value_and_gradients() -> float:
        result = loss(*tensors)
        torch.autograd.grad(result, tensors)
        return float(result.detach())

    return value if problem.kind == "value" else value_and_gradients


# ---------------------------------------------------------------------------------------------------------------- JAX


def jax_jit(problem: Problem, arrays: Arrays) -> Call:
    """JAX, compiled; ArcFace of unit rows, their product, and the margin by arccos on the target."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    s, m = ARCFACE.s, ARCFACE.m

    def cross_entropy(z: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()

    def arcface(x: Any, w: Any, y: Any) -> Any:
        unit_x, unit_w = (rows / jnp.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, w))
        cos = unit_x @ unit_w.T
        psi = jnp.cos(jnp.arccos(jnp.clip(jnp.take_along_axis(cos, y[:, None], 1), -1, 1)) + m)
        return cross_entropy(s * jnp.where(jnp.arange(len(w)) == y[:, None], psi, cos), y)

    inputs = [jnp.asarray(array) for array in arrays]
    loss, wrt = (cross_entropy, 0) if problem.kind == "logits" else (arcface, (0, 1))
    if problem.kind == "value":
        compiled = jax.jit(loss)
        return lambda: float(jax.block_until_ready(compiled(*inputs)))
    with_gradients = jax.jit(jax.value_and_grad(loss, argnums=wrt))
    return lambda: float(jax.block_until_ready(with_gradients(*inputs))[0])
