"""PyTorch: tensors on any device, gradients by autograd."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from refloss.error_free import Array
from refloss.testing.adapters.results import Found, changed, finish, first_of, parts, told_apart


def ready(dtype: str, device: Any) -> None:
    """Refuse a device that this build or machine does not have."""
    torch = import_module("torch")
    try:
        torch.zeros(1, device=device, dtype=getattr(torch, dtype)).cpu()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"device: expected one that torch has here, for {dtype}; got {device!r} ({said})") from None


def run(
    fn: Callable[..., Any],
    dtype: str,
    device: Any,
    arrays: list[Any],
    upstream: Array,
    fields: tuple[str, ...],
    labels: int | None,
    wanted: tuple[str, ...],
) -> Found:
    """Call fn with tensors, and differentiate its value."""
    torch = import_module("torch")

    places = [place for place in range(len(arrays)) if place != labels]
    named = dict(zip(places, fields, strict=False))

    def tensor(place: int, entry: Any) -> Any:
        if entry.dtype.kind in "iu":
            return torch.tensor(entry, device=device)
        kind = torch.float32 if place == labels and entry.dtype == np.float32 else getattr(torch, dtype)
        return torch.tensor(
            entry.astype(np.float64), dtype=kind, device=device, requires_grad=named.get(place) in wanted
        )

    tensors = [tensor(place, entry) for place, entry in enumerate(arrays)]
    before = [entry.detach().clone() for entry in tensors]
    leaves = [entry for entry in tensors if entry.requires_grad]
    found = parts(fn(*tensors), fields)
    differentiable = bool(getattr(found.value, "requires_grad", False))
    found = told_apart(found, [tuple(tensors[place].shape) for place in places], differentiable)
    incoming = None
    if found.gradients is None and differentiable:
        value = found.value
        incoming = first_of(upstream, tuple(value.shape), dtype)
        given = torch.tensor(incoming, dtype=value.dtype, device=value.device)
        gradients = torch.autograd.grad(value, leaves, given, allow_unused=True)
        zeros = (torch.zeros_like(leaf) if part is None else part for leaf, part in zip(leaves, gradients, strict=True))
        named_gradients = dict(zip([name for name in fields if name in wanted], zeros, strict=True))
        found = found._replace(gradients=tuple(named_gradients.get(name) for name in fields))
    return finish(found, incoming, fields, doubtful=incoming is None and differentiable)._replace(
        changed=changed(before, tensors)
    )
