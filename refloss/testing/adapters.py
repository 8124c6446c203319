"""Call foreign code and read what comes back: arrays, tensors of a framework, values with gradients."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.testing.hard_cases import dtype_of


class Found(NamedTuple):
    """What foreign code found."""

    value: Array
    """Its value, in float64."""
    gradients: tuple[Array, ...] | None
    """Its gradients, in the order of the inputs; None if it has none."""
    upstream: Any
    """The gradient of what comes after that these belong to, exact in the dtype."""


def read(value: Any) -> Array:
    """Return any array or tensor as float64: detached, brought to the CPU, every number kept as it is."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value).astype(np.float64)


def call(
    fn: Callable[..., Any], framework: str, dtype: str, device: Any, inputs: tuple[Any, ...], upstream: Array
) -> Found:
    """Call fn with inputs of the framework and the dtype.

    Code that returns its gradients too, as a tuple, is taken at its word, with an upstream gradient of 1. Of torch and
    jax the value is enough: they differentiate it, with the upstream gradient given here, in the shape of the value.
    """
    if framework not in ("numpy", "torch", "jax"):
        raise ValueError(f"framework: expected 'numpy', 'torch' or 'jax'; got {framework!r}")
    arrays = [entry if entry.dtype.kind == "i" else entry.astype(dtype_of(dtype)) for entry in inputs]
    return {"numpy": _numpy, "torch": _torch, "jax": _jax}[framework](fn, dtype, device, arrays, upstream)


def _given(value: tuple[Any, ...]) -> Found:
    first, *gradients = map(read, value)
    return Found(first, tuple(gradients) or None, np.ones(first.shape))


def _numpy(fn: Callable[..., Any], dtype: str, device: Any, arrays: list[Any], upstream: Array) -> Found:
    value = fn(*arrays)
    return _given(value if isinstance(value, tuple) else (value,))


def _above(value: Any, upstream: Array, dtype: str) -> Any:
    """As many numbers of the given ones as the value has, in its shape, as the dtype holds them."""
    wanted = upstream.reshape(-1)[: int(np.prod(value.shape))].reshape(tuple(value.shape))
    return wanted.astype(dtype_of(dtype)).astype(np.float64)


def _torch(fn: Callable[..., Any], dtype: str, device: Any, arrays: list[Any], upstream: Array) -> Found:
    torch = import_module("torch")
    kind = getattr(torch, dtype)
    tensors = [
        torch.tensor(entry, device=device)
        if entry.dtype.kind == "i"
        else torch.tensor(entry.astype(np.float64), dtype=kind, device=device, requires_grad=True)
        for entry in arrays
    ]
    value = fn(*tensors)
    if isinstance(value, tuple):
        return _given(value)
    above = _above(value, upstream, dtype)
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    found = torch.autograd.grad(
        value, leaves, torch.tensor(above, dtype=value.dtype, device=value.device), allow_unused=True
    )
    zeros = (torch.zeros_like(leaf) if part is None else part for leaf, part in zip(leaves, found, strict=True))
    return Found(read(value), tuple(map(read, zeros)), above)


def _jax(fn: Callable[..., Any], dtype: str, device: Any, arrays: list[Any], upstream: Array) -> Found:
    jax = import_module("jax")
    labels = {i: entry for i, entry in enumerate(arrays) if entry.dtype.kind == "i"}
    floats = [jax.numpy.asarray(entry) for i, entry in enumerate(arrays) if i not in labels]

    def of_floats(*given: Any) -> Any:
        rest = iter(given)
        return fn(*(labels[i] if i in labels else next(rest) for i in range(len(arrays))))

    value, back = jax.vjp(of_floats, *floats)
    above = _above(value, upstream, dtype)
    return Found(read(value), tuple(map(read, back(jax.numpy.asarray(above, dtype=value.dtype)))), above)
