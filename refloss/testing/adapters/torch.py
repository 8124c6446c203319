"""PyTorch: tensors on any device, gradients by autograd."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refloss.messages import shown
from refloss.testing.adapters.results import (
    ForeignCall,
    Found,
    changed,
    finish,
    parts,
    separate_gradients,
    upstream_for,
)


def ready(dtype: str, device: Any) -> None:
    """Refuse a device that this build or machine does not have."""
    torch = import_module("torch")
    try:
        torch.zeros(1, device=device, dtype=getattr(torch, dtype)).cpu()
    except Exception as error:  # torch and its backends raise many kinds
        said = (str(error) or type(error).__name__).splitlines()[0]
        came = f"{shown(device)} ({said})"
        raise ValueError(f"device: expected one that torch has here, for {dtype}; got {came}") from None


def run(call: ForeignCall) -> Found:
    """ForeignCall fn with tensors, and differentiate its value."""
    torch = import_module("torch")
    named = dict(zip(call.places, call.fields, strict=False))

    def tensor(place: int, entry: NDArray[Any]) -> Any:
        if entry.dtype.kind in "iu":
            return torch.tensor(entry, device=call.device)
        soft = place == call.labels and entry.dtype == np.float32
        dtype, wanted = torch.float32 if soft else getattr(torch, call.dtype), named.get(place) in call.wanted
        return torch.tensor(entry.astype(np.float64), dtype=dtype, device=call.device, requires_grad=wanted)

    tensors = [tensor(place, entry) for place, entry in enumerate(call.arrays)]
    before = [entry.detach().clone() for entry in tensors]
    returned = parts(call.fn(*tensors), call.fields)
    differentiable = bool(getattr(returned.value, "requires_grad", False))
    returned = separate_gradients(returned, call.shapes, differentiable)
    upstream = None
    if returned.gradients is None and differentiable:
        value = returned.value
        upstream = upstream_for(call.upstream, tuple(value.shape), call.dtype)
        grad_outputs = torch.tensor(upstream, dtype=value.dtype, device=value.device)
        leaves = {named[place]: tensors[place] for place in call.places if tensors[place].requires_grad}
        gradients = torch.autograd.grad(value, list(leaves.values()), grad_outputs, allow_unused=True)
        zeros = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        by_name = {
            name: zero if part is None else part for (name, zero), part in zip(zeros.items(), gradients, strict=True)
        }
        returned = returned._replace(gradients=tuple(map(by_name.get, call.fields)))
    doubtful = upstream is None and differentiable
    return finish(returned, upstream, call.fields, doubtful=doubtful)._replace(changed=changed(before, tensors))
