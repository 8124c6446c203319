"""What a black box does beside the loss that it is, in words, as data, and as a change of value and gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.testing.black_box import conventions
from refloss.testing.black_box.conventions import Convention
from refloss.testing.budgets import bounds
from refloss.testing.budgets import truth as true_result
from refloss.testing.errors import Arithmetic
from refloss.testing.signatures import Inputs, fields_of


class Deviation(NamedTuple):
    """Something that differs from the loss named."""

    name: str
    """"units", "reduction", "factor", "constant", …"""
    sentence: str
    """For the user."""
    data: dict[str, Any]
    """The same in numbers."""


class Expected(NamedTuple):
    """A loss with its deviations: what a black box is expected to return."""

    loss: Any
    factor: float = 1.0
    """What value and gradients are multiplied by."""
    power: int = 0
    """The power of N that they are multiplied by as well."""
    constant: float = 0.0
    """What is added to the value, or to that of every sample for reduction="none"."""
    errors: Mapping[str, float] = MappingProxyType({})
    """How far settings that are not exact may be off."""
    convention: Convention | None = None
    """How its gradient is put together, if that is no setting of the loss."""
    times: float = 1.0
    """What gradients alone are multiplied by."""

    def at(
        self, inputs: Inputs, upstream: Any, a: Arithmetic, engine: str
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the value and the gradients at inputs, and their budgets."""
        n = len(inputs[0])
        factor = self.factor * float(n) ** self.power
        shape = (n,) if self.loss.reduction == "none" else ()
        upstream = np.ones(shape) if upstream is None or np.shape(upstream) != shape else np.asarray(upstream)
        upstream = factor * upstream
        value, gradients = self._truth(self.loss, inputs, upstream, engine)
        of_value, of_gradients = bounds(self.loss, inputs, a, upstream)
        of_value = abs(factor) * of_value + 2.0 * a.u * abs(self.constant)
        if factor != 1.0:
            of_value = of_value + 2.0 * a.u * np.abs(factor * value)
        for name, error in self.errors.items():
            own = float(getattr(self.loss, name))
            for side in (error, -error):
                try:
                    moved = replace(self.loss, **{name: own + side})
                except ValueError:  # out of range
                    continue
                its_value, its_gradients = self._truth(moved, inputs, upstream, "chain")
                of_value = of_value + abs(factor) * np.abs(its_value - value)
                of_gradients = {
                    field: of_gradients[field] + np.abs(its_gradients[field] - gradients[field])
                    for field in of_gradients
                }
        if self.convention is not None:
            gradients = conventions.gradients(self.loss, inputs, upstream, self.convention)
            # Put together in float64, in which the black box may compute too. A part along a row of w is as large as
            # what is left of it by the projection, and not divided by the length it is larger.
            longest = max(1.0, float(np.linalg.norm(inputs[1], axis=1).max()))
            size = 2.0 if self.convention.rows == "any" else 4.0 * longest
            of_gradients = {field: size * entry for field, entry in of_gradients.items()}
        errors = {"value": of_value} | {f"d{field}": abs(self.times) * g for field, g in of_gradients.items()}
        truth = {"value": factor * value + self.constant}
        return truth | {f"d{field}": self.times * g for field, g in gradients.items()}, errors

    @staticmethod
    def _truth(loss: Any, inputs: Inputs, upstream: Array, engine: str) -> tuple[Any, dict[str, Array]]:
        if engine == "dd":
            value, gradient = true_result(loss, inputs, upstream)
        else:
            value, gradient = loss.value_and_grad(*inputs, upstream=upstream, engine="chain")
        fields = fields_of(loss)[: len(inputs) - 1]
        return value, {name: np.asarray(getattr(gradient, name)) for name in fields}
