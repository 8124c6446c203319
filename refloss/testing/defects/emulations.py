"""What code with a defect computes: the value, and the gradients.

An emulation is called as a loss is. Those of this module are made of losses of refloss, and as exact as these. A
changed step, in `steps`, has a value in plain float64, and gradients by differences.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from refloss.engines.chain import Step
from refloss.error_free import Array
from refloss.testing.signatures import (
    LABELS,
    Inputs,
    Loss,
    class_weight_of,
    fields_of,
    head_of,
    ignore_index_of,
    with_settings,
)


class WithSlopes(Protocol):
    """A loss, or what is called as a loss, of which gradients are taken."""

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return a value and the gradients."""


@dataclass(frozen=True)
class Emulation:
    """A loss with a defect. By itself it has the results of the loss."""

    loss: Any
    """The loss, or what is called as one, that the defect is in."""
    remedy: str
    """What to do instead."""

    @property
    def spec(self) -> Any:
        """The spec of the loss."""
        return self.loss.spec

    @property
    def reduction(self) -> str:
        """One of "mean", "sum" and "none"."""
        return str(self.loss.reduction)

    def __call__(self, *inputs: Any, engine: str = "auto") -> Any:
        """Return the value."""
        return self.loss(*inputs, engine=engine)

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        value, gradient = self.loss.value_and_grad(*inputs, upstream=upstream, engine=engine)
        return value, gradient

    def trace(self, *inputs: Any, upstream: Any = None) -> Mapping[str, Step]:
        """Return every stage's output and gradient."""
        steps: Mapping[str, Step] = self.loss.trace(*inputs, upstream=upstream)
        return steps

    def __str__(self) -> str:
        """Say what to do instead."""
        return self.remedy


@dataclass(frozen=True)
class OfInputs(Emulation):
    """A loss whose settings depend on the inputs: in refloss, another loss for each number of samples or of classes."""

    settings: Callable[[Any, Inputs], Loss]

    def of(self, inputs: Inputs) -> Loss:
        """Return the loss for these inputs."""
        return self.settings(self.loss, inputs)

    def __call__(self, *inputs: Any, engine: str = "auto") -> Any:
        """Return the value."""
        return self.of(inputs)(*inputs, engine=engine)

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        return self.of(inputs).value_and_grad(*inputs, upstream=upstream, engine=engine)


@dataclass(frozen=True)
class Variant(Emulation):
    """A loss with another spec."""

    other: Any
    """The spec."""

    @property
    def spec(self) -> Any:
        """The other spec."""
        return self.other

    @property
    def _changed(self) -> Any:
        loss = copy.copy(self.loss)
        vars(loss)["spec"] = self.other  # where the loss keeps it
        return loss

    def __call__(self, *inputs: Any, engine: str = "auto") -> Any:
        """Return the value."""
        return self._changed(*inputs, engine=engine)

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        value, gradient = self._changed.value_and_grad(*inputs, upstream=upstream, engine=engine)
        return value, gradient

    def trace(self, *inputs: Any, upstream: Any = None) -> Mapping[str, Step]:
        """Return every stage's output and gradient."""
        steps: Mapping[str, Step] = self._changed.trace(*inputs, upstream=upstream)
        return steps


@dataclass(frozen=True)
class WithGradient(Emulation):
    """The value of one loss with the gradient of another."""

    other: WithSlopes
    """Whose gradient it is."""

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        gradient = self.other.value_and_grad(*inputs, upstream=upstream, engine=engine)[1]
        return self.loss(*inputs, engine=engine), gradient


@dataclass(frozen=True)
class Scaled(Emulation):
    """A value and gradients that are multiplied by a number."""

    factor: Callable[[Any, Inputs], float]

    def __call__(self, *inputs: Any, engine: str = "auto") -> Any:
        """Return the value."""
        return self.factor(self.loss, inputs) * self.loss(*inputs, engine=engine)

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        factor = self.factor(self.loss, inputs)
        value, gradient = self.loss.value_and_grad(*inputs, upstream=upstream, engine=engine)
        return factor * value, gradient._make(None if part is None else factor * part for part in gradient)


class Change(NamedTuple):
    """What code computes in the place of a loss, on the same inputs."""

    loss: Any
    inputs: Inputs
    """What the loss is called with."""
    factor: float = 1.0
    """What multiplies the loss."""
    constant: float = 0.0
    """What is added to it."""
    parts: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    """Gradients of the loss of which others are the sum, with their factors; each is its own where it is not named."""


@dataclass(frozen=True)
class Recombined(Emulation):
    """A loss of other inputs, multiplied and added to."""

    change: Callable[[Inputs], Change]

    def __call__(self, *inputs: Any, engine: str = "auto") -> Any:
        """Return the value."""
        change = self.change(inputs)
        return change.factor * change.loss(*change.inputs, engine=engine) + change.constant

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        change = self.change(inputs)
        value, gradient = change.loss.value_and_grad(*change.inputs, upstream=upstream, engine=engine)
        floats = [np.asarray(entry) for entry in inputs if np.asarray(entry).dtype.kind == "f"]
        parts = {
            name: change.factor * self._sum(change, gradient, name, np.zeros(entry.shape))
            for name, entry in zip(fields_of(change.loss), floats, strict=False)
        }
        return change.factor * value + change.constant, gradient._replace(**parts)

    @staticmethod
    def _sum(change: Change, gradient: Any, name: str, nothing: Array) -> Array:
        shares = change.parts.get(name, {name: 1.0})
        return sum((share * getattr(gradient, other) for other, share in shares.items()), start=nothing)


Shares: TypeAlias = Callable[[Array, NDArray[np.bool_]], Array]
"""What multiplies the loss of each row (N,), from the weights of the labels (N,) and from which rows count (N,)."""


@dataclass(frozen=True)
class InRows(Emulation):
    """What is given by the losses of rows and by what multiplies each."""

    def rows(self, inputs: Inputs) -> tuple[Loss, Inputs, Array]:
        """Return the loss of each row, with its inputs, and the shares of the rows (N,)."""
        raise NotImplementedError

    def _reduced(self, rows: Any, shares: Array) -> Any:
        return shares * rows if self.reduction == "none" else (shares * rows).sum()

    def __call__(self, *inputs: Any, engine: str = "auto") -> Any:
        """Return the value."""
        rows, own, shares = self.rows(inputs)
        return self._reduced(rows(*own, engine=engine), shares)

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        rows, own, shares = self.rows(inputs)
        each = shares * (1.0 if upstream is None else upstream)
        value, gradient = rows.value_and_grad(*own, upstream=each, engine=engine)
        return self._reduced(value, shares), gradient


@dataclass(frozen=True)
class Reweighted(InRows):
    """A mean that weighs its rows otherwise than by what counts."""

    shares: Shares

    def rows(self, inputs: Inputs) -> tuple[Loss, Inputs, Array]:
        """Return the loss of each row, with its inputs, and the shares of the rows (N,)."""
        y, weights = labels_alone(inputs[LABELS[head_of(self.loss)]]), class_weight_of(self.loss)
        kept = y != ignore_index_of(self.loss)
        own = kept * 1.0 if weights is None else kept * np.take(weights, np.where(kept, y, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = self.shares(own, kept)
        return with_settings(self.loss, reduction="none"), inputs, np.where(np.isfinite(shares), shares, 0.0)


@dataclass(frozen=True)
class Retargeted(InRows):
    """A loss of logits with other targets than its label smoothing gives."""

    targets: Callable[[Array], Array]
    """Targets (N, C) without class weights, from rows of 0 and a 1 at the label."""

    def rows(self, inputs: Inputs) -> tuple[Loss, Inputs, Array]:
        """Return the loss of each row, with its inputs, and the shares of the rows (N,)."""
        z, y = inputs
        kept, weights = labels_alone(y) != ignore_index_of(self.loss), class_weight_of(self.loss)
        own, v = np.where(kept, y, 0), np.ones(z.shape[1]) if weights is None else np.asarray(weights)
        label = np.zeros(z.shape)
        label[np.arange(len(y)), own] = 1.0
        count = (v[own] * kept).sum() if self.loss.reduction == "mean" else 1.0
        rows = with_settings(self.loss, reduction="none", label_smoothing=0.0, class_weight=None)
        return rows, (z, v * self.targets(label)), kept / count


def labels_alone(y: NDArray[Any]) -> NDArray[Any]:
    """Refuse probabilities."""
    if y.ndim > 1:
        raise ValueError("y: expected labels; got probabilities")
    return y


def without_defects(loss: Any) -> Any:
    """Return the loss of refloss that is at the bottom of an emulation."""
    while isinstance(loss, Emulation):
        loss = loss.loss
    return loss


def number_of_classes(inputs: Inputs, loss: Any) -> int:
    """Return C."""
    return int(inputs[0].shape[-1] if head_of(loss) == "logits" else len(inputs[1]))
