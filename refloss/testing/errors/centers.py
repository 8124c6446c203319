"""Errors of the cosines of classes with several centers, of which the nearest stands for its class."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.stages import angle

Pairs: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Samples, and for each a row of w."""


class Centers(NamedTuple):
    """Which rows of w stand for their class in a sample, and which may in correct code (N, C K)."""

    chosen: NDArray[np.bool_]
    near: NDArray[np.bool_]
    """Rows that are as near to the nearest of their class as the errors of both, it included."""
    classes: NDArray[np.int64]
    """The class of every row (C K,)."""

    def spread(self, upstream: Array, of_upstream: Array) -> tuple[Array, Array]:
        """Return dL/dcos of rows and its error (N, C K), from those of classes (N, C).

        Of several rows that may stand for a class each may have all of its gradient, or none, or a part.
        """
        upstream, of_upstream = upstream[:, self.classes], of_upstream[:, self.classes]
        several = (self._by_class(self.near).sum(axis=2) > 1)[:, self.classes] & self.near
        own = np.where(self.chosen, of_upstream, 0.0)
        return np.where(self.chosen, upstream, 0.0), np.where(several, own + np.abs(upstream) + of_upstream, own)

    def most(self, of_rows: Array) -> Array:
        """Return the largest of some numbers (N, C K) over the rows that may stand for each class (N, C)."""
        return np.asarray(self._by_class(np.where(self.near, of_rows, -np.inf)).max(axis=2))

    def rows_of(self, y: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row that stands for the class of each sample's label (N,)."""
        return np.asarray((self.chosen & (self.classes == y[:, None])).argmax(axis=1))

    def of_targets(self, y: NDArray[np.int64]) -> Pairs:
        """Return samples and rows: all rows that may stand for the class of the sample's label."""
        n, rows = np.nonzero(self.near & (self.classes == y[:, None]))
        return n, rows

    def _by_class(self, of_rows: NDArray[Any]) -> NDArray[Any]:
        return of_rows.reshape(len(of_rows), self.classes[-1] + 1, -1)


def centers_error(c: Array, of_c: Array, centers: int) -> Centers:
    """Return which rows may stand for their class, from their cosines and the errors of these (N, C K)."""
    samples, rows = c.shape
    by_class, errors = (part.reshape(samples, -1, centers) for part in (c, of_c))
    nearest = by_class.argmax(axis=2)[:, :, None]
    chosen = np.arange(centers) == nearest
    least = np.take_along_axis(by_class - errors, nearest, 2)
    near = ~(by_class + errors < least)  # NaN is as near as anything
    return Centers(chosen.reshape(c.shape), near.reshape(c.shape), np.arange(rows) // centers)


def turn(x: Array, w: Array, theta: Array, pairs: Pairs) -> Array:
    """Return how far the angle of a target may be from that of another row that may stand for its class (N,).

    0 where w is (C, D), one center a class.
    """
    n, rows = pairs
    apart = np.zeros(len(x))
    if w.ndim == 2:
        return apart
    w = w.reshape(-1, w.shape[-1])
    np.maximum.at(apart, n, np.abs(angle.forward(x[n], w[rows])[0].theta.hi - theta[n]))
    return apart
