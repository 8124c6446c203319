"""Known entries: what of a loss and its gradients is exactly 0, NaN or infinite, before any ball is computed."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from refloss.engines.spec import PER_CLASS
from refloss.error_free import Array, Mask


class Rows(NamedTuple):
    """What is known of the rows of a loss."""

    computed: Mask
    """Which rows are computed in balls (N,)."""
    losses: Array
    """The losses of the other rows, and ±inf or NaN where a computed row has a target at a masked class (N,)."""
    gradients: Array
    """Every entry of the gradient of the other rows: 0 or NaN (N,)."""
    divisor: Fraction
    """What "mean" divides by."""
    notes: list[str]
    """Kinks and conventions."""
    infinite: Mapping[str, Array] = {}
    """By the name of an input, entries of its gradient that are infinite; 0 where they are not."""

    def value(self, reduction: str) -> tuple[Array, Mask]:
        """Return the known value of the loss, and where it is not known."""
        finite = self.computed & np.isfinite(self.losses)
        if reduction == "none":
            return self.losses.copy(), finite
        with np.errstate(invalid="ignore"):  # inf - inf
            total = self.losses.sum() * (-1.0 if reduction == "mean" and self.divisor < 0 else 1.0)
        return np.array(total), np.array(bool(finite.any()) and bool(np.isfinite(total)))

    def gradient(self, name: str, shape: tuple[int, ...]) -> tuple[Array, Mask]:
        """Return the known entries of the gradient of an input, and where they are not known."""
        if name in PER_CLASS:
            known = self.gradients.sum()
            unknown = np.asarray(self.computed.any() and not np.isnan(known))
        else:
            by_row = -1, *[1] * (len(shape) - 1)
            known, unknown = self.gradients.reshape(by_row), self.computed.reshape(by_row)
        known, unknown = np.broadcast_to(known, shape).copy(), np.broadcast_to(unknown, shape).copy()
        if name in self.infinite:
            infinite = np.isinf(self.infinite[name])
            known[infinite] = self.infinite[name][infinite]
            unknown &= ~infinite
        return known, unknown
