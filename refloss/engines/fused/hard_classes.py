r"""Hard classes: those whose cosine is above the threshold of a sample count more (CurricularFace, MV-Softmax).

A block compares logits with thresholds as it computes them. Those that rounding errors might decide are rare: their
cosines are computed again in pairs, from the vectors as they came, so that in float32, too, no class is misjudged.

Symbols: N samples of a group; B classes of a block; D entries of a vector; c_nk cosines; τ_n the threshold, known
before the sweep; s the scale; z = s c; η what becomes of c; K_D the error of a sum of D terms, in u of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from refloss.engines import contract
from refloss.engines.fused.blocks import Block
from refloss.engines.fused.headroom import DType, check_scale
from refloss.engines.fused.products import pair_cosines
from refloss.engines.kernels import rows as row_kernels
from refloss.engines.kernels.lanes import Raise
from refloss.engines.slices import ranges
from refloss.error_free import Array, Integers, Mask, Pair
from refloss.fixed_point import Turned
from refloss.formats import format_of
from refloss.stages import cosine, margin, negatives

ENTRIES_AT_ONCE = 2**16
"""Entries of vectors whose cosines are computed again at once."""
_FLOAT64 = np.dtype(np.float64)


class HardClasses(NamedTuple):
    """What makes classes hard for a group of samples, and what becomes of them."""

    settings: negatives.Settings
    """The rule and t."""
    scale: float
    """s."""
    x: Array
    """Embeddings as they came, times powers of two (N, D)."""
    threshold: Pair
    """τ (N,)."""
    exactly: Callable[[int, int], Turned]
    """What τ is rounded from, of a row, to a number of bits."""

    @classmethod
    def of(cls, settings: negatives.Settings, scale: float, x: Array, saved: margin.Saved) -> Self:
        """Return them, unless the scale is such that the dtype might not hold quotients and products."""
        check_scale(scale)
        return cls(settings, scale, x, saved.threshold, saved.exactly)

    def of_block(self, w: NDArray[np.floating], block: Block, alpha: Array, tile: Array) -> row_kernels.Hard:
        """Return the same for the kernel, of a block whose classes came as w (B, D), and products g (N, B).

        z / s is wrong by at most (2 K_D + 16) u: K_D u from the product and as much from both lengths, 4u from vectors
        rounded to the dtype, 2u each from α, β, their products and the threshold.
        """
        dtype = tile.dtype
        error = (2.0 * contract.summed(w.shape[1]) + 16.0) * format_of(dtype).u
        threshold, reach = (self.scale * self.threshold.hi).astype(dtype), dtype.type(self.scale * error)
        near = row_kernels.near_threshold(tile, alpha, block.beta, block.label_columns, threshold, reach)
        return row_kernels.Hard(threshold, self._raise(dtype), self._known(w, *near, dtype))

    def _raise(self, dtype: DType) -> Raise:
        r"""Return what becomes of the logits of hard classes, $s\,\eta(z/s)$, as a polynomial of z.

        $$s\,c\,(t + c) = \Bigl(\frac{z}{s} + t\Bigr)\,z, \qquad s\,\bigl((1 + t)\,c + t\bigr) = (1 + t)\,z + s t$$
        """
        t, kind = self.settings.t, dtype.type
        if self.settings.rule == "curricular":
            return Raise(kind(1.0), kind(1.0 / self.scale), kind(t), kind(0.0))
        return Raise(kind(1.0), kind(0.0), kind(1.0 + t), kind(self.scale * t))

    def _known(self, w: NDArray[np.floating], first: Integers, columns: Integers, dtype: DType) -> row_kernels.Known:
        """Return the logits and slopes of some classes of each sample."""
        rows, logits, slopes = np.repeat(np.arange(len(self.x)), np.diff(first)), *np.empty((2, len(columns)))
        one, a, b, c = self._raise(_FLOAT64)
        for at in ranges(len(rows), max(1, ENTRIES_AT_ONCE // w.shape[1])):
            n, own_w = rows[at], np.asarray(w[columns[at]], np.float64)
            cosines = pair_cosines(self.x[n], own_w)
            z, is_hard = self.scale * cosines.hi, self._are_hard(n, own_w, cosines)
            logits[at], slopes[at] = np.where(is_hard, (a * z + b) * z + c, z), np.where(is_hard, 2.0 * a * z + b, one)
        return row_kernels.Known(first, columns, logits.astype(dtype), slopes.astype(dtype))

    def _are_hard(self, n: Integers, w: Array, cosines: Pair) -> Mask:
        """Decide which cosines of samples n and classes w, row by row, are above their threshold: exactly."""
        difference = (cosines - self.threshold[n]).hi
        is_hard, decide = np.asarray(difference > 0.0), negatives.above(self.x, w, self.settings, self.exactly)
        for place in np.flatnonzero(np.abs(difference) < cosine.NEAR).tolist():
            is_hard[place] = decide(int(n[place]), place)
        return is_hard
