"""Defects of what a loss is called with: other labels, other rows, another layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from refloss.error_free import Array
from refloss.testing.defects.emulations import Emulation, number_of_classes, without_defects
from refloss.testing.defects.row import Defect
from refloss.testing.signatures import Inputs, ignore_index_of, labels_of, of_pairs

InputsOf: TypeAlias = Callable[[Any, Inputs], Inputs]
"""Other inputs, from a loss and its inputs."""
Back: TypeAlias = Callable[[str, Array, Inputs], Array]
"""Carry a gradient back to the inputs, from its name, the gradient of the other input, and the inputs."""


@dataclass(frozen=True)
class WithInputs(Emulation):
    """A loss that is called with other inputs."""

    change: InputsOf
    back: Back | None = None
    """How gradients come back; None where they are those of the other inputs."""
    kept: tuple[str, ...] | None = None
    """Names of the gradients that are looked at; None for all."""
    exchanged: tuple[str, str] | None = None
    """Two inputs that take each other's place."""

    def of(self, inputs: Inputs) -> Inputs:
        """Return the other inputs."""
        return self.change(without_defects(self.loss), inputs)

    def returned(self, gradient: Any, inputs: Inputs) -> Any:
        """Return the gradients of the inputs from those of the other inputs, both in their named tuple."""
        if self.exchanged:
            first, second = self.exchanged
            return gradient._replace(**{first: getattr(gradient, second), second: getattr(gradient, first)})
        if self.back is None:
            return gradient
        return gradient._make(
            None if part is None else self.back(name, part, inputs) for name, part in gradient._asdict().items()
        )

    def __call__(self, *inputs: Any, engine: str = "auto") -> Any:
        """Return the value."""
        return self.loss(*self.of(inputs), engine=engine)

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        value, gradient = self.loss.value_and_grad(*self.of(inputs), upstream=upstream, engine=engine)
        return value, self.returned(gradient, inputs)


def other_inputs(
    name: str,
    sentence: str,
    applies: Callable[[Any], bool],
    change: InputsOf,
    back: Back | None = None,
    kept: tuple[str, ...] | None = None,
    exchanged: tuple[str, str] | None = None,
) -> Defect:
    """Return a row of other inputs."""

    def emulate(loss: Any) -> WithInputs:
        return WithInputs(loss, "", change, back, kept, exchanged)

    return Defect(name, sentence, applies, emulate, "inputs")


def _takes_labels(loss: Any) -> bool:
    return labels_of(loss) is not None


def _shifted(by: int, loss: Any, inputs: Inputs) -> Inputs:
    place = labels_of(loss) or 0
    y = inputs[place]
    if y.ndim > 1:
        raise ValueError("y: expected labels; got probabilities")
    shifted = np.where(y == ignore_index_of(loss), y, (y + by) % number_of_classes(inputs, loss))
    return (*inputs[:place], shifted, *inputs[place + 1 :])


def _of_other_rows(by: int, loss: Any, inputs: Inputs) -> Inputs:
    place = labels_of(loss) or 0
    return (*inputs[:place], np.roll(inputs[place], by, axis=0), *inputs[place + 1 :])


OTHER_ROWS = tuple(
    other_inputs(name, f"every row has the label of {which}", _takes_labels, partial(_of_other_rows, by))
    for name, which, by in (
        ("labels of the next row", "the next one", -1),
        ("labels of the row before", "the one before", 1),
    )
)
LABELS = tuple(
    other_inputs(
        f"labels {sign} 1",
        f"every label is off by one: value and gradient agree with y {sign} 1",
        _takes_labels,
        partial(_shifted, by),
    )
    for sign, by in (("+", 1), ("-", -1))
)


def _repaired(by: int, loss: Any, inputs: Inputs) -> Inputs:
    return (inputs[0], np.roll(inputs[1], -by, axis=0), *inputs[2:])


def _from_repaired(by: int, name: str, gradient: Array, inputs: Inputs) -> Array:
    return np.roll(gradient, by, axis=0) if name == "w" else gradient


PAIRS = tuple(
    other_inputs(
        f"pairs {sign} 1",
        f"the pairs are off by one: x[n] belongs to w[n], not to w[n {sign} 1]",
        of_pairs,
        partial(_repaired, by),
        partial(_from_repaired, by),
    )
    for sign, by in (("+", 1), ("-", -1))
)
