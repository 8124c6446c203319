r"""Centers: of those of a class the one nearest to a sample takes part in the sweep, all others do not.

A block chooses by products as it has computed them. Where rounding errors might decide, which is rare, cosines are
computed again in pairs, from the vectors as they came, and if these are equal to 90 bits compared exactly.

Symbols: N samples of a group; K centers of a class; B rows of w in a block, those of a class side by side; D entries of
a vector; g products of x and w, scaled; β what makes rows of w unit vectors; K_D the error of a sum of D terms, in u of
these.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.engines import contract
from refloss.engines.fused.blocks import Block
from refloss.engines.fused.products import pair_cosines
from refloss.engines.kernels import rows as row_kernels
from refloss.engines.slices import ranges
from refloss.error_free import Array, Integers, Pair
from refloss.formats import format_of
from refloss.stages import sub_centers

ENTRIES_AT_ONCE = 2**16
"""Entries of vectors whose cosines are computed in pairs at once."""


class Centers(NamedTuple):
    """What chooses among the centers of a class."""

    per_class: int
    """K."""
    x: NDArray[np.floating]
    """Embeddings as they came (N, D)."""

    def take(self, rows: slice) -> Centers:
        """Return the samples of a slice."""
        return self._replace(x=self.x[rows])

    def own_rows(self, w: NDArray[np.floating], y: Integers) -> Integers:
        """Return the row of w that stands for the class of each label y (N,); w has all classes (C K, D)."""
        return y * self.per_class + self._nearest(w, np.arange(len(y)), y)

    def keep_nearest(self, w: NDArray[np.floating], block: Block, norm: Array, tile: Array) -> None:
        """Make products g (N, B) of all but the nearest centers -inf, and all of the label's class.

        w are the rows of the block as they came (B, D), norm the lengths of the embeddings as they were multiplied.
        β g is wrong by (1.5 K_D + 16) u ‖x‖: K_D u from the product, half as much from the length of w, 4u from vectors
        rounded to the dtype, 2u each from β and its product. Which of two is larger is known beyond twice that.
        """
        error = (3.0 * contract.summed(w.shape[1]) + 32.0) * format_of(tile.dtype).u
        lowest = tile.dtype.type(-np.inf)
        n, k = row_kernels.keep_nearest(tile, block.beta, block.label_columns, self.per_class, error * norm, lowest)
        centers = np.arange(self.per_class)
        others = centers != self._nearest(w, n, k)[:, None]
        row, column = (np.broadcast_to(at, others.shape) for at in (n[:, None], k[:, None] * self.per_class + centers))
        tile[row[others], column[others]] = -np.inf

    def _nearest(self, w: NDArray[np.floating], n: Integers, k: Integers) -> Integers:
        """Return which of the centers of class k is nearest to sample n, for each pair of these."""
        nearest = np.empty(len(n), np.int64)
        for at in ranges(len(n), max(1, ENTRIES_AT_ONCE // (w.shape[1] * self.per_class))):
            centers = w[k[at, None] * self.per_class + np.arange(self.per_class)]
            nearest[at] = _nearest(np.asarray(self.x[n[at]], np.float64), np.asarray(centers, np.float64))
        return nearest


def _nearest(x: Array, centers: Array) -> Integers:
    """Return which of a row's own centers (R, K, D) is nearest to each row of x (R, D)."""
    rows, count, width = centers.shape
    cosines = pair_cosines(np.repeat(x, count, axis=0), centers.reshape(-1, width))
    c = Pair(cosines.hi.reshape(rows, count), cosines.lo.reshape(rows, count))
    return sub_centers.nearest(c, count, lambda row, those: sub_centers.exactly(x, centers[row])(row, those))[:, 0]
