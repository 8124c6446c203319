"""Forms in which the results of an implementation may come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def as_dict(fn: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """Value and gradients as a value and a dict."""

    def wrapped(*inputs: Any) -> Any:
        value, *gradients = fn(*inputs)
        return value, dict(zip(names, gradients, strict=True))

    return wrapped


def as_one_dict(fn: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """Value and gradients in one dict."""

    def wrapped(*inputs: Any) -> Any:
        value, *gradients = fn(*inputs)
        return {"loss": value} | dict(zip(names, gradients, strict=True))

    return wrapped


def nested(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Value and gradients as (value, (gradients))."""

    def wrapped(*inputs: Any) -> Any:
        value, *gradients = fn(*inputs)
        return value, tuple(gradients)

    return wrapped


def plain_number(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The value as a Python float."""

    def wrapped(*inputs: Any) -> Any:
        value, *gradients = fn(*inputs)
        return float(value), *gradients

    return wrapped


def turned(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Gradients in Fortran order that cannot be written to, zeros with a minus sign."""

    def wrapped(*inputs: Any) -> Any:
        value, *gradients = fn(*inputs)
        arrays = [np.asfortranarray(np.where(part == 0, -part * 0, part).astype(part.dtype)) for part in gradients]
        for array in arrays:
            array.flags.writeable = False
        return value, *arrays

    return wrapped


def in_place(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient written over the logits, as kernels that save memory do."""

    def wrapped(z: Any, y: Any) -> Any:
        value, g = fn(z, y)
        z[...] = g
        return value, z

    return wrapped


def refusing(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Code that raises for labels out of range."""

    def wrapped(*inputs: Any) -> Any:
        if any(entry.dtype.kind == "i" and (entry < 0).any() for entry in inputs):
            raise ValueError("labels are 0 to C - 1")
        return fn(*inputs)

    return wrapped
