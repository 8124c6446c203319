"""Errors of the cosines, from rounded directions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.testing.errors.arithmetic import Arithmetic


class Head(NamedTuple):
    """True values of a head with directions, of the rows that count."""

    x: Array
    """x̂ (N, D)."""
    w: Array
    """ŵ (C, D)."""
    length_x: Array
    """‖x‖ (N,)."""
    length_w: Array
    """‖w‖ (C,)."""
    c: Array
    """cos θ of every class (N, C)."""
    f: Array
    """c with ψ in the target's place (N, C)."""
    theta: Array
    """θ of the target (N,)."""
    y: NDArray[np.int64]
    """The row of the target (N,)."""
    scale: Array
    """s of each row (N,)."""

    def of_rows(self, n: NDArray[np.int64], row: NDArray[np.int64]) -> Head:
        """Return what a target's own terms depend on, of pairs of a sample and a row of w."""
        return self._replace(x=self.x[n], theta=self.theta[n], y=row)


def cosine_error(head: Head, a: Arithmetic) -> Array:
    """Error of every cosine (N, C): products and their sum, rounded entries and lengths, the result."""
    d = head.x.shape[1]
    terms, total = np.abs(head.x) @ np.abs(head.w).T, np.abs(head.c)
    return a.sum_error(d, terms, total) + 2.0 * (a.u + a.factor) * terms + a.u * (a.sum_of(d) + 3.0) * total
