r"""Samples: embeddings with what multiplies their products, and the way back to dL/dx.

Rows are multiplied as they come, or scaled by a power of two; what makes them unit vectors is one factor per sample, α,
and one per class, β:

$$z_{nk} = s_n\,\hat x_n\cdot\hat w_k = \alpha_n \beta_k\,(x_n\cdot w_k), \qquad
\alpha_n = \frac{s_n}{\lVert x_n\rVert}, \quad \beta_k = \frac{1}{\lVert w_k\rVert}$$

Symbols: N samples; D entries of a vector; s_n the scale: one for all, or the length of x_n.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from refloss.engines.fused.centers import Centers
from refloss.engines.fused.headroom import DType
from refloss.engines.fused.online_softmax import PartialState, RowLoss
from refloss.engines.fused.products import row_dots
from refloss.engines.fused.row_scaling import ScaledNumbers, ScaledRows, add_exponents, ldexp_rows, negated, scaled
from refloss.engines.fused.target import Target
from refloss.error_free import Array, Exponents, Integers


@dataclass(frozen=True)
class Samples:
    """Embeddings with their labels, scale and upstream gradient."""

    x: ScaledRows
    y: Integers
    """The row of W that stands for the class of each label (N,)."""
    alpha: Array
    """α (N,)."""
    max_product: float
    """The largest logit there may be where classes have length 1."""
    grad_weight: ScaledNumbers
    """The common factor of dL/dx_n and of n's part of dL/dW: dL/dL_n times s_n, or times 2^exponent of x_n (N,)."""
    directions: bool
    """Whether logits are those of unit vectors."""
    scale_is_norm: bool
    """Whether the scale is the length of x."""
    centers: Centers | None = None
    """What chooses among the centers of a class, where classes have such."""

    @classmethod
    def of_margin(
        cls, x: NDArray[np.floating], y: Integers, scale: float | None, row_weight: ScaledNumbers, dtype: DType
    ) -> Samples:
        """Return the samples of a margin head, whose classes are directions."""
        rows = scaled(x, dtype)
        if scale is None:
            s, scaled_s = rows.norm * rows.factor, ScaledNumbers(rows.norm, rows.exponent)
        else:
            s = np.full(len(y), scale)
            scaled_s = ScaledNumbers.of(s, dtype)
        return cls(rows, y, s / rows.norm, float(s.max(initial=0.0)), row_weight.times(scaled_s), True, scale is None)

    @classmethod
    def of_linear(
        cls, x: NDArray[np.floating], y: Integers, row_weight: ScaledNumbers, logit_scale: float, dtype: DType
    ) -> Samples:
        """Return the samples of a linear head."""
        rows = scaled(x, dtype)
        alpha = np.ones(len(y)) * rows.factor * logit_scale
        largest = float((rows.norm * alpha).max(initial=0.0))
        weight = ScaledNumbers(row_weight.mantissa, add_exponents(row_weight.exponent, rows.exponent))
        return cls(rows, y, alpha, largest, weight, False, False)

    def take(self, rows: slice) -> Samples:
        """Return the samples of a slice."""
        return replace(
            self,
            x=self.x.take(rows),
            y=self.y[rows],
            alpha=self.alpha[rows],
            grad_weight=self.grad_weight.take(rows),
            centers=None if self.centers is None else self.centers.take(rows),
        )

    def dx(
        self, state: PartialState, target: Target, row: RowLoss, target_dx: Array, exponent: Exponents | None
    ) -> Array:
        r"""Return dL/dx, from the state of all classes except for the target, and from the target's own branch.

        A gradient g with respect to $\hat x$ is one of $(g - (g\cdot\hat x)\,\hat x) / \lVert x\rVert$ with respect
        to x. Where the scale is the length of x, there is a gradient along x, too. The gradients of row are those over
        2^exponent.
        """
        weight, dtype = self.grad_weight.mantissa, self.x.rows.dtype
        gradient = (weight * row.grad_per_exp).astype(dtype)[:, None] * state.grad_x_exp
        if state.grad_x_targets.size:
            gradient -= weight.astype(dtype)[:, None] * state.grad_x_targets
        if self.directions:
            norm = self.x.norm.astype(dtype)[:, None]
            unit_x = self.x.rows / norm
            along_x = row_dots(gradient, unit_x)
            gradient -= along_x[:, None] * unit_x
            if self.scale_is_norm:
                gradient += (along_x + weight * row.grad_label * target.over_scale).astype(dtype)[:, None] * unit_x
            gradient /= norm
        gradient += target_dx
        return ldexp_rows(gradient, add_exponents(self._dx_exponent(), exponent))

    def _dx_exponent(self) -> Exponents | None:
        """Return the exponents with which dL/dx is scaled back (N,): those of the weights, less those of x."""
        return add_exponents(self.grad_weight.exponent, negated(self.x.exponent))
