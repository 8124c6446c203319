"""Sweep: the passes over all classes, a block at a time, for one group of samples after the other.

Blocks are shared out among threads, see `refloss.engines.threads`. States are merged in the order of the blocks, so
nothing depends on how many threads there are. During each pass the caller's thread may do something else first.

Symbols: N samples of a group; B classes of a block; W_k their rows of W.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from refloss.engines.fused.blocks import Block, Classes, Tiles, block_ranges, partial_state
from refloss.engines.fused.class_gradients import GroupBackward
from refloss.engines.fused.hard_classes import HardClasses
from refloss.engines.fused.online_softmax import PartialState, merge_all
from refloss.engines.fused.products import product
from refloss.engines.fused.samples import Samples
from refloss.engines.threads import with_products
from refloss.error_free import Array

T = TypeVar("T")


class Sweep:
    """The passes over all classes, and what one pass of a group leaves for the next."""

    def __init__(self, classes: Classes, size: int, cap: float | None = None, *, keep: bool) -> None:
        self.cap = cap
        """What logits are capped at."""
        self.classes, self.size, self.blocks = classes, size, block_ranges(len(classes.w), size, classes.dtype)
        """All classes, the samples of a group, and the blocks of classes."""
        self.tiles = Tiles(size, self.blocks, classes.dtype, keep=keep)
        self.states: list[PartialState] = []
        """The state of each block, without gradients, of the group that went forward last."""

    def forward(
        self, samples: Samples, gradients: bool, meanwhile: Callable[[], T], hard: HardClasses | None = None
    ) -> tuple[PartialState, T]:
        """Pass 1: return the state of all classes for a group, and what `meanwhile` returns."""
        alpha = samples.alpha.astype(samples.x.rows.dtype)
        self.states = []

        def block_state(at: slice) -> PartialState:
            block, tile = self._block(at, samples)
            product(samples.x.rows, block.w.T, tile)  # pass 1a: x W_kᵀ
            raised = None if hard is None else hard.of_block(self.classes.w[at], block, alpha, tile)
            state = partial_state(block, alpha, tile, gradients, self.cap, raised)
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
        """Pass 3: add the class gradients of the group that went forward last; return what `meanwhile` returns."""

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

    def _block(self, at: slice, samples: Samples) -> tuple[Block, Array]:
        block = self.classes.block(at, samples.y, samples.max_product)
        return block, self.tiles.tile(at, len(samples.y))
