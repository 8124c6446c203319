"""Protocol: what every engine offers, and how it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from refloss.engines.spec import Arrays, Spec
from refloss.error_free import Array

ValueAndGradients: TypeAlias = tuple[Array, Arrays]
"""A loss, or what bounds its error, and the same of its gradients by the name of the input."""


class Request(NamedTuple):
    """In what to compute, which gradients are wanted, and what takes them.

    Only the engine `fused` computes in float32, does less where less is wanted, and writes into given arrays; the
    others return all gradients in float64.
    """

    dtype: np.dtype[Any] = np.dtype(np.float64)
    """The dtype of the arithmetic and of the results."""
    wrt: tuple[str, ...] | None = None
    """Inputs whose gradients are wanted; None for all."""
    out: Mapping[str, NDArray[Any]] = {}
    """Arrays in C order that may take gradients, by the name of the input."""

    def wanted(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of the names whose gradients are wanted."""
        return tuple(name for name in names if self.wrt is None or name in self.wrt)

    def output(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the array that takes a gradient: the given one, or a new one."""
        return self.out[name] if name in self.out else np.empty(shape, self.dtype)


IN_FLOAT64 = Request()
"""All gradients, in float64."""


class Engine(Protocol):
    """A module of this package that computes losses.

    It reads the spec of a loss and never its name. Arrays were checked by `refloss.inputs` and have the names of
    the spec's inputs; rows of logits are flattened to (N, C). They are never written to. All engines but `fused` are
    given float64 arrays; `fused` takes z and w as they came, and looks at w a block at a time.

    Rows with the ignored label do not count and get the gradient 0. A value has the shape (), or (N,) for the
    reduction "none".
    """

    def value(self, spec: Spec, arrays: Arrays, request: Request = IN_FLOAT64) -> Array:
        """Return the loss."""

    def value_and_grad(
        self, spec: Spec, arrays: Arrays, upstream: Array, request: Request = IN_FLOAT64
    ) -> ValueAndGradients:
        """Return the loss and its gradients by the name of the input, at least those that are wanted.

        upstream is the gradient of what comes after the loss, of the shape of the value.
        """
