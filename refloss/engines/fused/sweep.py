"""Sweep: the passes over all classes, a block at a time, for one group of samples after the other.

Blocks are shared out among threads, see `refloss.engines.threads`. States are merged in the order of the blocks, so
nothing depends on how many threads there are. During each pass the caller may do something else.

Symbols: N samples of a group; C classes, B of them in a block; D entries of a vector; α_n and β_k as in `samples`;
e_nk = exp(z_nk - M_n), M_n the largest logit of the block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from refloss.engines import kernels
from refloss.engines.fused.blocks import Block, Classes, Tiles, block_ranges, partial_state
from refloss.engines.fused.online_softmax import PartialState, merge_all, no_vectors
from refloss.engines.fused.products import product
from refloss.engines.fused.row_scaling import add_exponents, ldexp_rows, negated
from refloss.engines.fused.samples import Samples
from refloss.engines.threads import with_products
from refloss.error_free import Array, Pair

T = TypeVar("T")


class ClassGradients(NamedTuple):
    """dL/dW and dL/db without the targets' part, added up over groups of samples; None for what is not wanted."""

    dw: Array | None
    """(C, D)."""
    dw_low: Array | None
    """The rounding errors of adding up groups (C, D); None where there are few."""
    db: Pair | None
    """(C,)."""


class GroupBackward:
    """Pass 3 of a group of samples: what each block of exponentials adds to dL/dW and dL/db."""

    def __init__(
        self,
        samples: Samples,
        state: PartialState,
        grad_per_exp: Array,
        weights: tuple[Array, Array],
        sums: ClassGradients,
        *,
        smoothed: bool,
        first: bool,
        last: bool,
    ) -> None:
        self.samples, self.state, self.grad_per_exp, self.sums = samples, state, grad_per_exp, sums
        self.first, self.last = first, last
        """Whether the group is the first, whose gradients are written, or the last, after which they are projected."""
        dw_weight, self.z_weight = weights
        """What multiplies dL/dz in dL/db, in the unit of all groups (N,)."""
        self.x_weight = dw_weight / samples.norm if samples.directions else dw_weight
        """What multiplies β_k x_n dL/dz in dL/dw_k, in the unit of all groups (N,)."""
        self.weighted_x = self._weighted_x(self.x_weight) if smoothed else no_vectors(len(samples.y))
        self.sum_weighted_x = product(np.ones((1, len(samples.y)), self.weighted_x.dtype), self.weighted_x)[0]
        """What targets multiply, where labels are smoothed (N, D), and its sum (D,)."""

    def add(self, at: slice, block: Block, exps: Array, block_state: PartialState) -> None:
        """Add a block's β e (N, B), which are relative to the maximum of its own state."""
        there = block_state.max > -np.inf
        exp_gap = block_state.exp_relative_to(self.state.max, self.state.max_low)
        grad_per_exp = np.where(there, self.grad_per_exp * exp_gap, 0.0)
        if self.sums.dw is not None:
            self._add_dw(self.sums.dw[at], at, block, exps, grad_per_exp)
        if self.sums.db is not None:
            self._add_db(self.sums.db, at, block, exps, grad_per_exp)

    def _add_dw(self, dw: Array, at: slice, block: Block, exps: Array, grad_per_exp: Array) -> None:
        low = None if self.sums.dw_low is None else self.sums.dw_low[at]
        # pass 3a: exponentials -> the group's gradient; the first group's is where the sum is to be
        group_dw = product(exps.T, self._weighted_x(grad_per_exp * self.x_weight), dw if self.first else None)
        if block.smoothed is not None:
            block.smoothed.subtract_from_dw(group_dw, block.beta, self.weighted_x, self.sum_weighted_x)
        # pass 3b: the sum over groups, and its rounding errors
        if low is not None and self.first:
            low.fill(0.0)
        elif low is not None:
            kernels.accumulate(dw, low, group_dw)
        elif not self.first:
            dw += group_dw
        # pass 3c: of directions, no gradient along the class
        if self.last and low is not None:
            dw += low
        if self.last and self.samples.directions:
            kernels.project(dw, block.w, block.beta)

    def _add_db(self, db: Pair, at: slice, block: Block, exps: Array, grad_per_exp: Array) -> None:
        group_db = product(exps.T, (grad_per_exp * self.z_weight).astype(exps.dtype)).astype(np.float64)
        if block.smoothed is not None:
            block.smoothed.subtract_from_db(group_db, self.z_weight)
        db[at] = db[at] + group_db

    def _weighted_x(self, weight: Array) -> Array:
        x = self.samples.x.rows
        return np.asarray(weight.astype(x.dtype)[:, None] * x)


class Sweep:
    """The passes over all classes, and what one pass of a group leaves for the next."""

    def __init__(self, classes: Classes, size: int, *, keep: bool) -> None:
        self.classes, self.size, self.blocks = classes, size, block_ranges(len(classes.w), size, classes.dtype)
        """All classes, samples in a group, and how classes are cut."""
        self.tiles = Tiles(size, self.blocks, classes.dtype, keep=keep)
        self.states: list[PartialState] = []
        """Of each block, without gradients."""

    def forward(self, samples: Samples, gradients: bool, meanwhile: Callable[[], T]) -> tuple[PartialState, T]:
        """Pass 1: return the state of all classes for a group, and what is done meanwhile."""
        alpha = samples.alpha.astype(samples.x.rows.dtype)
        self.states = []

        def block_state(at: slice) -> PartialState:
            block, tile = self._block(at, samples)
            product(samples.x.rows, block.w.T, tile)  # pass 1a: x W_kᵀ
            state = partial_state(block, alpha, tile, gradients)
            self.tiles.release(tile)
            return state

        def noted(state: PartialState) -> PartialState:
            self.states.append(state.without_gradients())
            return state

        def merged(states: Iterator[PartialState]) -> tuple[PartialState, T]:
            result = meanwhile()
            return merge_all(map(noted, states)), result

        return with_products(block_state, self.blocks, merged)

    def backward(self, group: GroupBackward, meanwhile: Callable[[], T]) -> T:
        """Pass 3: add the gradients of the group that went forward last, and return what is done meanwhile."""

        def add(item: tuple[slice, PartialState]) -> None:
            at, state = item
            block, exps = self._block(at, group.samples)
            group.add(at, block, exps, state)

        def done(added: Iterator[None]) -> T:
            result = meanwhile()
            deque(added, maxlen=0)
            return result

        latest_first = list(zip(self.blocks, self.states, strict=True))[::-1]  # they may still be in the cache
        return with_products(add, latest_first, done)

    def unscale(self, dw: Array, exponent: int) -> None:
        """Scale gradients as the classes were, and by a power of two; mostly there is nothing to do."""
        for at in self.blocks:
            of_classes = self.classes.scaling[at.start][1]
            if exponent or of_classes is not None:
                exponents = np.full(at.stop - at.start, exponent, np.int32)
                dw[at] = ldexp_rows(dw[at], add_exponents(exponents, negated(of_classes)))

    def _block(self, at: slice, samples: Samples) -> tuple[Block, Array]:
        block = self.classes.block(at, samples.y, samples.max_product)
        return block, self.tiles.tile(at, len(samples.y))
