"""Call: a loss and its checked inputs, as engines take them."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any, NamedTuple

from refloss import inputs
from refloss.engines.spec import GIVEN, UPSTREAM_LSE, Arrays, Spec, WithCap, centers_of
from refloss.messages import shown

FLATTENED = ("z", "target")
"""Names of the inputs whose rows are flattened."""


class Call(NamedTuple):
    """A loss and what it is called with."""

    spec: Spec
    """The loss."""
    arrays: Arrays
    """Its inputs, checked by `refloss.inputs`; rows of logits flattened."""
    samples: tuple[int, ...]
    """The shape of the samples: (N,), or (...) of logits (..., C)."""
    arguments: Mapping[str, Any]
    """The arguments as they came, by name."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the gradients, by the name of the input."""
        return {name: self._shape(name) for name in self.spec.differentiable() if name in self.arrays}

    def _shape(self, name: str) -> tuple[int, ...]:
        if self.arrays[name].ndim == 0:
            return ()
        rows, *columns = self.arrays[name].shape
        if name in FLATTENED:
            return (*self.samples, *columns)
        centers = centers_of(self.spec)
        if name == "w" and centers is not None:
            return (rows // centers, centers, *columns)
        return (rows, *columns)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of what the tuple of gradients holds: one for each input, and for what else is given."""
        return tuple(n for n in self.spec.differentiable() if n not in GIVEN or n in self.arrays)

    def with_upstream_lse(self, value: Any) -> Call:
        """Return the call with the upstream gradient of the log-sum-exp of each sample, or as it is for None."""
        if value is None:
            return self
        if not isinstance(self.spec, WithCap):
            raise ValueError("upstream_lse goes with a loss on logits, CrossEntropy or SoftmaxLoss, alone")
        arrays = self.arrays | {UPSTREAM_LSE: inputs.upstream_of_lse(value, self.samples)}
        return self._replace(arrays=arrays, arguments={**self.arguments, UPSTREAM_LSE: value})

    def in_float64(self) -> Arrays:
        """Return the inputs in float64, w checked."""
        return inputs.as_float64(self.arrays, directions=self.spec.directions, centers=centers_of(self.spec))


def call_of(loss: Any, arguments: tuple[Any, ...]) -> Call:
    """Return the call of a loss with these arguments; refuse what is no loss of refloss."""
    if not isinstance(getattr(loss, "spec", None), Spec):
        raise TypeError(f"loss must be a loss of refloss, such as refloss.ArcFace(m=0.5); got {shown(loss)}")
    signature(type(loss).__call__).bind(loss, *arguments)  # says which are missing
    call: Call = loss._call(*arguments)
    return call
