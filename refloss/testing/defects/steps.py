"""Losses with a changed step: how a value is computed in plain float64, from logits to rows to their sum.

A defect changes what comes before the softmax, the logits, or what comes after; two defects may change one each.
Gradients are differences of the value. No derivative has to be written for a defect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from refloss.error_free import Array
from refloss.testing.defects.emulations import Emulation, OfInputs, Scaled
from refloss.testing.defects.heads import Parts, parts_of
from refloss.testing.defects.inputs import WithInputs
from refloss.testing.defects.kept import Kept
from refloss.testing.defects.link_steps import cosines_in
from refloss.testing.defects.loss_rows import Scores, logits_of, rows_of
from refloss.testing.defects.row import Defect
from refloss.testing.signatures import Inputs, head_of, labels_of, on_cosines

STEP = 2.0**-17
"""Step of a difference, in units of the largest entry of a row."""

ScoresOf: TypeAlias = Callable[[Any, Inputs], Any]
"""The logits, from a loss and its inputs; of a triplet loss, d(a, p) - d(a, n) (N,)."""
ValueOf: TypeAlias = Callable[[Any, Any], Any]
"""The value, from a loss and its rows; of a triplet loss, from d(a, p) - d(a, n)."""


@dataclass(frozen=True)
class Stepped(Emulation):
    """A loss with a changed step."""

    def sloped(self, *inputs: Any) -> Any:
        """Return what the gradients are the slopes of."""
        return self(*inputs)

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value, and the gradients by differences."""
        return self(*inputs), by_differences(self.sloped, self.loss, inputs, upstream)


@dataclass(frozen=True)
class OfValue(Stepped):
    """A loss with another value."""

    value: Callable[[Inputs], Any]

    def __call__(self, *inputs: Any, engine: str = "auto") -> Any:
        """Return the value."""
        with np.errstate(all="ignore"):
            return self.value(inputs)


@dataclass(frozen=True)
class Changed(Stepped):
    """A loss with another way from inputs to logits, or from logits to the value."""

    scores: ScoresOf | None = None
    total: ValueOf | None = None
    slope: ValueOf | None = None
    """What the gradients are the slopes of, where that is not the value."""

    def __call__(self, *inputs: Any, engine: str = "auto") -> Any:
        """Return the value."""
        return self._from(self.total, inputs)

    def sloped(self, *inputs: Any) -> Any:
        """Return what the gradients are the slopes of."""
        return self._from(self.slope or self.total, inputs)

    def _from(self, total: ValueOf | None, inputs: Inputs) -> Any:
        with np.errstate(all="ignore"):
            scores = known_scores(self.scores or plain_scores, self.loss, inputs)
            rows = scores if head_of(self.loss) == "triplet" else rows_of(self.loss, scores, inputs)
            return (total or plain_value)(self.loss, rows)


_SCORES: Kept[Any] = Kept(512)
LARGEST_KEPT = 1 << 13
"""Numbers that inputs have at most whose logits are kept."""


def known_scores(scores: ScoresOf, loss: Any, inputs: Inputs) -> Any:
    """Return the logits, which are computed once for small inputs."""
    if sum(entry.size for entry in inputs) > LARGEST_KEPT:
        return scores(loss, inputs)
    return _SCORES.once(inputs, lambda: scores(loss, inputs), scores, loss)


def plain_scores(loss: Any, inputs: Inputs) -> Any:
    """Return the logits of a loss with labels; of a triplet loss, d(a, p) - d(a, n)."""
    if head_of(loss) == "triplet":
        a, p, n = inputs
        return distance(loss, a, p) - distance(loss, a, n)
    return parts_of(loss, inputs).scores() if head_of(loss) == "margin" else logits_of(loss, inputs)


def plain_value(loss: Any, rows: Any) -> Array:
    """Return the value."""
    if head_of(loss) == "triplet":
        return value_of_hinges(loss, np.maximum(rows + loss.m, 0.0))
    return np.asarray(rows.value(rows.losses(rows.t)))


def distance(loss: Any, a: Array, b: Array) -> Array:
    """Return the distance of a triplet loss (N,)."""
    square = ((a - b) ** 2).sum(axis=1)
    return np.asarray(square if loss.squared else np.sqrt(square))


def value_of_hinges(loss: Any, losses: Array) -> Array:
    """Return the value of a triplet loss from the losses of its rows."""
    return losses if loss.reduction == "none" else np.asarray(getattr(losses, loss.reduction)())


def plainly(loss: Any, inputs: Inputs) -> Any:
    """Return the value in plain float64, which takes a tenth of the time; of some emulations, as they have it."""
    match loss:
        case WithInputs():
            return plainly(loss.loss, loss.of(inputs))
        case OfInputs():
            return plainly(loss.of(inputs), inputs)
        case Scaled():
            return loss.factor(loss.loss, inputs) * plainly(loss.loss, inputs)
        case _:
            changed = isinstance(loss, Emulation) or on_cosines(loss) or head_of(loss) == "divergence"
            return loss(*inputs) if changed else Changed(loss, "")(*inputs)


def value_of_logits(loss: Any, inputs: Inputs, scores: Scores) -> Array:
    """Return the value from logits."""
    return plain_value(loss, rows_of(loss, scores, inputs))


def step(
    name: str,
    sentence: str,
    applies: Callable[[Any], bool],
    scores: ScoresOf | None = None,
    total: ValueOf | None = None,
    remedy: str = "",
    slope: ValueOf | None = None,
) -> Defect:
    """Return a row of a changed step."""

    def emulate(loss: Any) -> Changed:
        if not isinstance(loss, Emulation):
            return Changed(loss, remedy, scores, total, slope)
        if not isinstance(loss, Changed):
            raise TypeError("loss: expected one of refloss, or one with a changed step")
        if (scores and loss.scores) or (total and loss.total):
            raise ValueError("loss: expected one in which this step is right")
        return replace(loss, scores=scores or loss.scores, total=total or loss.total, slope=slope or loss.slope)

    return Defect(name, sentence, applies, emulate, "step")


def value_of_cosines(loss: Any, inputs: Inputs, c: Array) -> Any:
    """Return the value of a loss on directions from other cosines."""
    if on_cosines(loss):
        return cosines_in(loss, inputs, c).value()
    return value_of_logits(loss, inputs, parts_of(loss, inputs, c).scores())


def cosine_step(
    name: str, sentence: str, applies: Callable[[Any], bool], cosines: Callable[[Any, Inputs], Array]
) -> Defect:
    """Return a row of other cosines, of a loss that ends in one cross entropy or in another way."""

    def scores(loss: Any, inputs: Inputs) -> Scores:
        return parts_of(loss, inputs, cosines(loss, inputs)).scores()

    changed = step(name, sentence, applies, scores)

    def emulate(loss: Any) -> Any:
        if isinstance(loss, Emulation) or not on_cosines(loss):
            return changed.emulate(loss)
        return OfValue(loss, "", lambda inputs: cosines_in(loss, inputs, cosines(loss, inputs)).value())

    return changed._replace(emulate=emulate)


def of_parts(change: Callable[[Parts], Scores]) -> ScoresOf:
    """Return the logits of a margin loss that a change of its parts gives."""
    return lambda loss, inputs: change(parts_of(loss, inputs))


# --------------------------------------------------------------------------------------------------------- differences


def by_differences(value: Callable[..., Any], loss: Any, inputs: Inputs, upstream: Any) -> Any:
    """Return the gradients of a value by central differences, in the named tuple of the loss."""
    upstream = 1.0 if upstream is None else upstream
    _, gradient = loss.value_and_grad(*inputs)

    def weighted(moved: Inputs) -> float:
        return float(np.sum(upstream * np.asarray(value(*moved))))

    parts = {}
    for name, place in zip(gradient._fields, differentiable(loss, inputs), strict=False):
        entry, part = np.asarray(inputs[place], np.float64), np.zeros(np.shape(inputs[place]))
        h = STEP * size_of(entry)
        for index in np.ndindex(entry.shape):
            moved = [_with(inputs, place, index, side * float(h[index])) for side in (1.0, -1.0)]
            part[index] = (weighted(moved[0]) - weighted(moved[1])) / (2.0 * h[index])
        parts[name] = part
    return gradient._replace(**parts)


def differentiable(loss: Any, inputs: Sequence[Any]) -> Iterator[int]:
    """Yield the places of the inputs that have gradients."""
    return (place for place in range(len(inputs)) if place != labels_of(loss))


def size_of(entry: Array) -> Array:
    """Return the largest entry of each row, 1 for a row of zeros, in the shape of the array."""
    finite = np.where(np.isfinite(entry), np.abs(entry), 0.0)
    largest = finite.max(axis=-1, keepdims=True) if entry.ndim else finite
    return np.broadcast_to(np.where(largest == 0.0, 1.0, largest), entry.shape)


def _with(inputs: Inputs, place: int, index: tuple[int, ...], by: float) -> Inputs:
    moved = np.array(inputs[place], np.float64)
    moved[index] += by
    return (*inputs[:place], moved, *inputs[place + 1 :])
