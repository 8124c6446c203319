"""Reference results of losses on the inputs of cases, and whether foreign results agree with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from refloss.engines.chain import Step
from refloss.error_free import Array
from refloss.stages import softcap
from refloss.testing.adapters import Found
from refloss.testing.budgets import bounds
from refloss.testing.errors import Arithmetic
from refloss.testing.signatures import (
    LABELS,
    Inputs,
    Loss,
    class_weight_of,
    cross_entropy_of,
    fields_of,
    head_of,
    ignore_index_of,
    softcap_of,
    with_settings,
)

Outcomes: TypeAlias = Sequence[tuple[Inputs, Found]]
"""Inputs of cases, each with what the code returned for them."""
T = TypeVar("T")


class References:
    """Values, gradients, stages and budgets of losses on the inputs of cases, each computed once."""

    def __init__(self, dtype: str, a: Arithmetic) -> None:
        self.dtype, self.arithmetic = dtype, a
        # Budgets of shorter dtypes are at least 2^29 times those of float64: there an explanation needs no "dd".
        self.engine = "dd" if dtype == "float64" else "chain"
        self.cache: dict[tuple[Any, ...], Any] = {}

    def _once(self, key: tuple[Any, ...], arrays: tuple[Any, ...], compute: Callable[[], T]) -> T:
        key += tuple(map(id, arrays))
        if key not in self.cache:
            self.cache[key] = compute(), arrays  # the arrays are kept, so that no other object gets their id
        result: T = self.cache[key][0]
        return result

    def value(self, loss: Loss, inputs: Inputs) -> Array:
        """Return the value."""
        return self._once(("value", loss), (inputs,), lambda: np.asarray(loss(*inputs, engine=self.engine)))

    def trace(self, loss: Loss, inputs: Inputs) -> Mapping[str, Step]:
        """Return every stage's output."""
        return self._once(("trace", loss), (inputs,), lambda: loss.trace(*inputs))

    def logits(self, loss: Loss, inputs: Inputs) -> Array:
        """Return the logits of a loss with labels, or of pairs, as its softmax or its sigmoids take them."""
        if head_of(loss) == "logits" and softcap_of(loss) == softcap.UNCHANGED:
            return inputs[0].astype(np.float64)
        steps = self.trace(loss, inputs)
        last = ("softcap", "bias", "linear", "logits")
        return np.asarray(next(steps[name].output for name in last if name in steps))

    def gradient(self, loss: Loss, inputs: Inputs, upstream: Array) -> Any:
        """Return the named tuple of the gradients."""
        return self._once(
            ("gradient", loss),
            (inputs, upstream),
            lambda: loss.value_and_grad(*inputs, upstream=upstream, engine=self.engine)[1],
        )

    def bounds(
        self, loss: Loss, inputs: Inputs, upstream: Array, a: Arithmetic | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Return the budgets of the value and of the gradients, in the arithmetic of the check or in another."""
        return self._once(
            ("bounds", loss, a),
            (inputs, upstream),
            lambda: bounds(loss, inputs, self.arithmetic if a is None else a, upstream),
        )

    def in_rows(
        self, loss: InRows, inputs: Inputs, upstream: Array, a: Arithmetic | None
    ) -> tuple[Array, Array, tuple[Loss, Inputs, Array]]:
        """Return value and budget of a loss that is given by its rows; and the rows, with their upstream gradients."""
        rows, own, shares = self._once(("rows", loss), (inputs,), lambda: loss.of(inputs))
        each = self._once(("shares", loss), (inputs, upstream), lambda: shares * upstream)
        terms, b = shares * self.value(rows, own), self.arithmetic if a is None else a
        allowed, _ = self.bounds(rows, own, each, a)
        if loss.loss.reduction != "none":
            added = (b.sum_of(len(terms)) + 3.0) * b.u * np.abs(terms).sum()
            terms, allowed = np.asarray(terms.sum()), np.asarray((np.abs(shares) * allowed).sum() + added)
        return terms, allowed, (rows, own, each)

    def changed(
        self, loss: Changed, inputs: Inputs, upstream: Array, a: Arithmetic | None
    ) -> tuple[Array, Array, dict[str, tuple[Array, Array]]]:
        """Return value and budget of a loss of other inputs, and its gradients by name, each with its budget."""
        change, b = self._once(("change", loss), (inputs,), lambda: loss.change(inputs)), a or self.arithmetic
        value, gradient = self.value(change.loss, change.inputs), self.gradient(change.loss, change.inputs, upstream)
        of_value, errors = self.bounds(change.loss, change.inputs, upstream, a)
        floats, gradients = [entry for entry in inputs if entry.dtype.kind == "f"], {}
        for name, entry in zip(fields_of(loss.loss), floats, strict=False):
            own, allowed = np.zeros(entry.shape), np.full(entry.shape, b.smallest)
            for other, share in change.parts.get(name, {name: 1.0}).items():
                part, factor = getattr(gradient, other), change.factor * share
                own = own + factor * part
                allowed = allowed + abs(factor) * (errors[other] + 3.0 * b.u * np.abs(part))
            gradients[name] = own, allowed
        added = (b.sum_of(len(inputs[1])) + 3.0) * b.u * (np.abs(change.factor * value) + abs(change.constant))
        return change.factor * value + change.constant, abs(change.factor) * of_value + added, gradients


class SmoothedOthers(NamedTuple):
    """A loss whose label smoothing goes to the other classes alone: in refloss, another smoothing for each C."""

    loss: Loss

    def of(self, inputs: Inputs) -> Loss:
        """Return the loss for the number of classes of these inputs."""
        classes, eps = number_of_classes(inputs, self.loss), cross_entropy_of(self.loss).label_smoothing
        return with_settings(self.loss, label_smoothing=eps * classes / max(classes - 1, 1))

    def __str__(self) -> str:
        """Say which smoothing of refloss it is."""
        return f"label_smoothing={cross_entropy_of(self.loss).label_smoothing:g} * C / (C - 1)"


class SummedTerms(NamedTuple):
    """A loss whose regularizer is not averaged: in refloss, another factor for each N."""

    loss: Loss
    regularizer: float

    def of(self, inputs: Inputs) -> Loss:
        """Return the loss for the number of samples of these inputs."""
        y = labels_alone(inputs[LABELS[head_of(self.loss)]])
        return with_settings(
            self.loss, regularizer=self.regularizer * np.count_nonzero(y != ignore_index_of(self.loss))
        )

    def __str__(self) -> str:
        """Say what to do instead."""
        return "the mean divides it too"


class Reweighted(NamedTuple):
    """A mean that weighs its rows otherwise than by what counts."""

    loss: Loss
    remedy: str
    """What to do instead."""
    shares: Callable[[Array, NDArray[np.bool_]], Array]
    """What multiplies the loss of each row (N,), from the weights of the labels (N,) and from which rows count (N,)."""

    def of(self, inputs: Inputs) -> tuple[Loss, Inputs, Array]:
        """Return the loss of each row, with its inputs, and the shares of the rows (N,)."""
        y, weights = labels_alone(inputs[LABELS[head_of(self.loss)]]), class_weight_of(self.loss)
        kept = y != ignore_index_of(self.loss)
        own = kept * 1.0 if weights is None else kept * np.take(weights, np.where(kept, y, 0))
        with np.errstate(divide="ignore"):
            shares = self.shares(own, kept)
        return with_settings(self.loss, reduction="none"), inputs, np.where(np.isfinite(shares), shares, 0.0)

    def __str__(self) -> str:
        """Say what to do instead."""
        return self.remedy


class Retargeted(NamedTuple):
    """A loss of logits with other targets than its label smoothing gives."""

    loss: Loss
    remedy: str
    """What to do instead."""
    targets: Callable[[Array], Array]
    """Targets (N, C) without class weights, from rows of 0 and a 1 at the label."""

    def of(self, inputs: Inputs) -> tuple[Loss, Inputs, Array]:
        """Return the loss of each row, with its inputs, and the shares of the rows (N,)."""
        z, y = inputs
        kept, weights = labels_alone(y) != ignore_index_of(self.loss), class_weight_of(self.loss)
        own, v = np.where(kept, y, 0), np.ones(z.shape[1]) if weights is None else np.asarray(weights)
        label = np.zeros(z.shape)
        label[np.arange(len(y)), own] = 1.0
        count = (v[own] * kept).sum() if self.loss.reduction == "mean" else 1.0
        rows = with_settings(self.loss, reduction="none", label_smoothing=0.0, class_weight=None)
        return rows, (z, v * self.targets(label)), kept / count

    def __str__(self) -> str:
        """Say what to do instead."""
        return self.remedy


def labels_alone(y: NDArray[Any]) -> NDArray[Any]:
    """Refuse probabilities."""
    if y.ndim > 1:
        raise ValueError("y: expected labels; got probabilities")
    return y


class Change(NamedTuple):
    """What code computes in the place of a loss, on the same inputs."""

    loss: Loss
    inputs: Inputs
    """What the loss is called with."""
    factor: float = 1.0
    """What multiplies the loss."""
    constant: float = 0.0
    """What is added to it."""
    parts: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    """Gradients of the loss of which others are the sum, with their factors; each is its own where it is not named."""


class Changed(NamedTuple):
    """A loss of other inputs, multiplied and added to."""

    loss: Loss
    remedy: str
    """What to do instead."""
    change: Callable[[Inputs], Change]

    def __str__(self) -> str:
        """Say what to do instead."""
        return self.remedy


InRows: TypeAlias = Reweighted | Retargeted
"""What is given by the losses of rows and by their shares."""
Explained: TypeAlias = Loss | SmoothedOthers | SummedTerms | Reweighted | Retargeted | Changed
"""What an explanation compares results with."""


def number_of_classes(inputs: Inputs, loss: Loss) -> int:
    """Return C."""
    return int(inputs[0].shape[-1] if head_of(loss) == "logits" else len(inputs[1]))


def over_budget(
    loss: Loss | InRows | Changed, inputs: Inputs, output: Found, references: References, a: Arithmetic | None = None
) -> Iterator[tuple[str, NDArray[np.bool_] | None]]:
    """Yield which entries of the value, then of each gradient, are over budget; None for an array of another shape."""

    def over(theirs: Array, ours: Array, bound: Array) -> NDArray[np.bool_] | None:
        if theirs.shape != np.shape(ours):
            return None
        same = (theirs == ours) | (np.isnan(theirs) & np.isnan(ours))
        return np.asarray(~(same | (np.abs(theirs - ours) <= bound)))

    upstream = output.upstream
    if isinstance(loss, Changed):
        value, allowed, gradients = references.changed(loss, inputs, upstream, a)
        yield "value", over(output.value, value, allowed)
        found = zip(gradients.items(), output.gradients or (), strict=False)
        yield from ((name, over(theirs, *own)) for (name, own), theirs in found if theirs is not None)
        return
    if isinstance(loss, Reweighted | Retargeted):
        value, allowed, (loss, inputs, upstream) = references.in_rows(loss, inputs, upstream, a)
    else:
        value = references.value(loss, inputs)  # first, since it refuses inputs that the loss does not take
        allowed, _ = references.bounds(loss, inputs, upstream, a)
    yield "value", over(output.value, value, allowed)
    if output.gradients:
        gradient, errors = references.gradient(loss, inputs, upstream), references.bounds(loss, inputs, upstream, a)[1]
        for name, theirs in zip(gradient._fields, output.gradients, strict=False):
            if theirs is not None:
                yield name, over(theirs, getattr(gradient, name), errors[name])


def agrees(loss: Explained, inputs: Inputs, output: Found, references: References, a: Arithmetic | None = None) -> bool:
    """Whether value and gradients are those of this loss, within its budget."""
    try:
        fixed = loss.of(inputs) if isinstance(loss, SmoothedOthers | SummedTerms) else loss
        masks = (over for _, over in over_budget(fixed, inputs, output, references, a))
        return all(over is not None and not over.any() for over in masks)
    except (ValueError, TypeError):
        return False


def all_agree(loss: Explained, outcomes: Outcomes, references: References) -> bool:
    """Whether value and gradients are those of this loss in all of the cases."""
    return all(agrees(loss, inputs, output, references) for inputs, output in outcomes)
