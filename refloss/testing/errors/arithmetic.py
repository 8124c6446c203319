"""What an implementation computes with, and the rounding error of its sums."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import Array

UNKNOWN = 1e30
"""Error of a direction that the dtype does not resolve: an angle of less than a few u, or as near to π."""


class Arithmetic(NamedTuple):
    """What an implementation computes with."""

    u: float
    """Unit roundoff of the numbers it computes with."""
    accumulated: float
    """Unit roundoff of its sums."""
    factor: float
    """Relative error of a factor of a matrix product before it is multiplied; 0 where none is rounded."""
    smallest: float
    """Smallest normal number: smaller numbers may be flushed to 0."""
    log_p: str = "stable"
    """How accurate log p is: "working", "stable" or "relative"."""
    stored: float = 0.0
    """Unit roundoff of results that are rounded once more when they are stored; 0 where they are not."""
    stored_smallest: float = 0.0
    """Smallest number of that dtype."""
    between: float = 0.0
    """Unit roundoff of arrays that one kernel stores for the next: logits of a linear layer, and their gradient."""
    angle: str = "atan2"
    """How an angle is computed: "arccos" is for diagnoses alone."""

    def sum_of(self, n: int) -> float:
        """Return K_n."""
        return n * self.accumulated / self.u

    def sum_error(self, n: Array | int, terms: Array, total: Array) -> Array:
        """Return the error of a sum of n products, from the sum of their magnitudes and the magnitude of their sum.

        Each product is rounded, and each of the n - 1 partial sums: in any order it is at most the larger of the sum of
        the positive products and that of the negative ones, which is half of terms + total.
        """
        return np.asarray(self.accumulated * ((n - 1) * (terms + total) / 2.0 + terms))
