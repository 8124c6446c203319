"""Errors of cross entropy of pairs: of rows alone, or the mean of that of rows and of columns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.testing.errors.arithmetic import Arithmetic
from refloss.testing.errors.cross_entropy import Rows, cross_entropy_error


class Ways(NamedTuple):
    """True values of each way; the second has the columns of the logits for rows."""

    ways: tuple[Rows, ...]

    @property
    def loss(self) -> Array:
        """L_n (N,)."""
        return np.asarray(sum(way.loss for way in self.ways) / len(self.ways))

    @property
    def terms(self) -> Array:
        """L_n: nothing in it cancels (N,)."""
        return self.loss


def two_way_error(ways: Ways, of_z: Array, row_weights: Array, a: Arithmetic) -> tuple[Array, Array, Array]:
    """Return the errors of the loss of each row (N,), dL/dz and its error (N, N), from the errors of the logits (N, N).

    Each way has the error of a cross entropy, and its gradients are those of its own rows, or columns, by their weights
    (N,). Of both ways the sum is rounded once, and halves are exact.
    """
    weights, errors = row_weights[:, None], []
    for way, dz in zip(ways.ways, (of_z, of_z.T), strict=False):
        of_loss, of_g = cross_entropy_error(way, dz, a)
        errors.append((of_loss, weights * way.g, np.abs(weights) * (of_g + 3.0 * a.u * np.abs(way.g))))
    if len(errors) == 1:
        return errors[0]
    (of_loss, g, of_g), (of_other, columns, of_columns) = errors
    rounded = a.u * (np.abs(g) + np.abs(columns.T))
    of_loss = (of_loss + of_other) / 2.0 + a.u * ways.loss
    return of_loss, (g + columns.T) / 2.0, (of_g + of_columns.T + rounded) / 2.0
