"""Class gradients: dL/dW and dL/db, added up over groups of samples, a block of classes at a time.

The first group's gradient is written, those of other groups are added to it; if there are many groups, the rounding
errors of adding are accumulated, too. Gradients of directions are projected once, after the last group.

Symbols: N samples of a group; C classes, B of them in a block; D entries of a vector; α_n and β_k as in `samples`;
e_nk = exp(z_nk - M_n), M_n the largest logit of the block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refloss.engines.fused.blocks import Block
from refloss.engines.fused.online_softmax import PartialState, no_vectors
from refloss.engines.fused.products import product
from refloss.engines.fused.row_scaling import ScaledNumbers
from refloss.engines.fused.samples import Samples
from refloss.engines.kernels import rows as row_kernels
from refloss.error_free import Array, Pair


class ClassGradients:
    """dL/dW and dL/db without the targets' part; None for what is not wanted."""

    def __init__(
        self,
        dw: Array | None,
        db: Pair | None,
        samples: Samples,
        row_weight: ScaledNumbers,
        kept: NDArray[np.bool_],
        *,
        compensated: bool,
    ) -> None:
        self.dw, self.db = dw, db
        """(C, D) and (C,), each over a power of two."""
        self.dw_low = np.empty(dw.shape, samples.x.rows.dtype) if dw is not None and compensated else None
        """The rounding errors of adding up groups (C, D)."""
        dtype = samples.x.rows.dtype
        self.dw_weight, self.dw_exponent = samples.grad_weight.with_one_exponent(kept, None if dw is None else dtype)
        self.db_weight, self.db_exponent = row_weight.with_one_exponent(kept, None if db is None else dtype)
        """The weights of samples, over one power of two for all (N,)."""
        if dw is not None and not len(samples.y):
            dw[:] = 0.0

    @property
    def wanted(self) -> bool:
        """Whether there is anything to add up."""
        return self.dw is not None or self.db is not None


class GroupBackward:
    """Pass 3 of a group: what each block of exponentials adds to the gradients of its classes."""

    def __init__(
        self,
        sums: ClassGradients,
        at: slice,
        samples: Samples,
        state: PartialState,
        grad_per_exp: Array,
        *,
        smoothed: bool,
    ) -> None:
        self.sums, self.samples, self.state, self.grad_per_exp = sums, samples, state, grad_per_exp
        self.first, self.last = at.start == 0, at.stop == len(sums.dw_weight)
        dw_weight, self.db_weight = sums.dw_weight[at], sums.db_weight[at]
        self.x_weight = dw_weight / samples.x.norm if samples.directions else dw_weight
        """The factor of sample n in dL/dw_k, which is the sum of this times β_k dL/dz_nk x_n (N,)."""
        self.weighted_x = self._weighted_x(self.x_weight) if smoothed else no_vectors(len(samples.y))
        self.sum_weighted_x = product(np.ones((1, len(samples.y)), self.weighted_x.dtype), self.weighted_x)[0]
        """The same times x, for smoothed targets (N, D), and its sum over samples (D,)."""

    def add(self, at: slice, block: Block, exps: Array, block_state: PartialState) -> None:
        """Add a block, from β e (N, B), which is relative to the maximum of its own state."""
        exp_gap = block_state.exp_relative_to(self.state.max, self.state.max_low)
        grad_per_exp = np.where(block_state.max > -np.inf, self.grad_per_exp * exp_gap, 0.0)
        if self.sums.dw is not None:
            self._add_dw(self.sums.dw[at], at, block, exps, grad_per_exp)
        if self.sums.db is not None:
            self._add_db(self.sums.db, at, block, exps, grad_per_exp)

    def _add_dw(self, dw: Array, at: slice, block: Block, exps: Array, grad_per_exp: Array) -> None:
        low = None if self.sums.dw_low is None else self.sums.dw_low[at]
        # pass 3a: exponentials -> the group's gradient
        group_dw = product(exps.T, self._weighted_x(grad_per_exp * self.x_weight), dw if self.first else None)
        if block.smoothed is not None:
            block.smoothed.subtract_from_dw(group_dw, block.beta, self.weighted_x, self.sum_weighted_x)
        # pass 3b: the group's gradient -> the sum over groups
        if not self.first and low is not None:
            row_kernels.accumulate(dw, low, group_dw)
        elif not self.first:
            dw += group_dw
        elif low is not None:
            low.fill(0.0)
        # pass 3c: the sum -> the gradient of classes that are directions, across them
        if self.last and low is not None:
            dw += low
        if self.last and self.samples.directions:
            row_kernels.project(dw, block.w, block.beta)

    def _add_db(self, db: Pair, at: slice, block: Block, exps: Array, grad_per_exp: Array) -> None:
        group_db = product(exps.T, (grad_per_exp * self.db_weight).astype(exps.dtype)).astype(np.float64)
        if block.smoothed is not None:
            block.smoothed.subtract_from_db(group_db, self.db_weight)
        db[at] = db[at] + group_db

    def _weighted_x(self, weight: Array) -> Array:
        x = self.samples.x.rows
        return np.asarray(weight.astype(x.dtype)[:, None] * x)
