"""An implementation that is wrong, and defects planted in right ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

import refloss
from support.right_codes.code import CE
from support.right_codes.numpy_codes import numpy_head, numpy_linear, numpy_logits, numpy_triplet, without_bias

Array = np.ndarray[Any, Any]
Change = Callable[..., Any]
ROWS = replace(CE, reduction="none")
SUM = replace(CE, reduction="sum")
ARC, COS, NORM = refloss.ArcFace(), refloss.CosFace(), refloss.NormFace(s=16.0)
SPHERE = refloss.ASoftmax()
SQUARED, PLAIN = refloss.Triplet(), refloss.Triplet(squared=False)


class Wrong(NamedTuple):
    """Code that is wrong, and where."""

    name: str
    framework: str
    fn: Callable[..., Any]
    loss: Any
    dtypes: tuple[str, ...]
    """The dtypes in which it has to be refused."""
    settings: dict[str, Any]
    """Further arguments of `check`: a standard, where "working" cannot see the defect."""


def by_hand(loss: Any) -> Callable[..., Any]:
    """The right implementation in NumPy that defects are planted in."""
    return {
        "logits": lambda: numpy_logits(loss),
        "linear": lambda: without_bias(numpy_linear(loss)),
        "margin": lambda: numpy_head(loss),
        "triplet": lambda: numpy_triplet(loss),
    }[loss.spec.head]()


def tampered(fn: Callable[..., Any], change: Change) -> Callable[..., Any]:
    """Results of other code, changed: change(inputs, value, *gradients)."""

    def wrapped(*inputs: Any) -> Any:
        return change(inputs, *fn(*inputs))

    return wrapped


def gradient_changed(fn: Callable[..., Any], change: Callable[..., Any], place: int = 0) -> Callable[..., Any]:
    """One gradient changed: change(gradient, inputs)."""

    def wrapped(*inputs: Any) -> Any:
        value, *gradients = fn(*inputs)
        gradients[place] = change(gradients[place].copy(), inputs)
        return value, *gradients

    return wrapped


def value_changed(fn: Callable[..., Any], change: Callable[..., Any]) -> Callable[..., Any]:
    """The value changed: change(value, inputs)."""

    def wrapped(*inputs: Any) -> Any:
        value, *gradients = fn(*inputs)
        return change(value, inputs), *gradients

    return wrapped


def put(a: Array, where: Any, what: Any) -> Array:
    """A copy with some entries replaced."""
    a = a.copy()
    a[where] = what
    return a


def one_hot(z: Any, y: Any) -> Any:
    """Targets in the dtype of z, those of ignored labels class 0."""
    import torch

    return torch.nn.functional.one_hot(y.clamp(min=0), z.shape[1]).to(z.dtype)


def identity(back: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The identity, whose gradient is changed."""
    import torch

    class Changed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: Any) -> Any:
            return a.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            return back(gradient.clone())

    return Changed.apply
