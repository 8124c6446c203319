"""Blocks of classes: how they are cut and read, and what each contributes to every sample.

W may be a file larger than memory: it is read, checked and scaled a block at a time. A block of logits is a tile of
N x B numbers that stays in the cache. For the gradient of W all tiles are kept, N x C numbers in one buffer; otherwise
a few are reused.

Symbols: N samples of a group; C classes, B of them in a block; D entries of a vector; g_nk = x_n·w_k a product of
scaled rows; the logit z_nk = α_n β_k g_nk + b_k.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss import inputs
from refloss.engines.fused.headroom import DType, TooLargeError, is_single, max_logit
from refloss.engines.fused.online_softmax import PartialState, no_vectors
from refloss.engines.fused.products import product
from refloss.engines.fused.row_scaling import add_exponents, aligned, ldexp_rows, negated, scaled, unscaled
from refloss.engines.fused.smoothed_targets import SmoothedTargets
from refloss.engines.kernels import rows as row_kernels
from refloss.engines.slices import ranges
from refloss.error_free import Array, Exponents, Integers

BLOCK_BYTES = 2**20
"""Bytes of a tile of logits: together with its rows of W it stays in the cache."""
MIN_CLASSES = 2048
"""Fewest classes of a block, except for the last few blocks."""
MIN_KEPT_BYTES = 2**26
"""Bytes of exponentials that may be kept even where W takes fewer."""


def block_ranges(classes: int, samples: int, dtype: DType) -> list[slice]:
    """Cut classes into blocks, whose tiles of samples take `BLOCK_BYTES`, or more where that is below `MIN_CLASSES`.

    The last few blocks are narrower, so that at the end no thread waits long for another.
    """
    width = max(MIN_CLASSES, BLOCK_BYTES // dtype.itemsize // samples)
    rest_from = max(classes // width - 1, 0) * width
    narrow = max(-(-(classes - rest_from) // 8), width // 8, 1)
    rest = ranges(classes - rest_from, narrow)
    return ranges(rest_from, width) + [slice(rest_from + at.start, rest_from + at.stop) for at in rest]


def group_size(samples: int, classes: int, width: int, dtype: DType, *, keep: bool) -> int:
    """Return how many samples go through the sweep together: their exponentials take no more memory than W (C, D).

    Up to `MIN_KEPT_BYTES` they may take more. Without the gradients of W and b, only a block is kept.
    """
    kept_classes = classes if keep else min(classes, MIN_CLASSES)
    return max(1, min(samples, max(width, MIN_KEPT_BYTES // (dtype.itemsize * kept_classes))))


class Block(NamedTuple):
    """A block of classes."""

    w: Array
    """Their rows, scaled where they are directions (B, D)."""
    beta: Array
    """β: what makes a product of scaled rows a cosine, or a logit (B,)."""
    bias: Array
    """b (B,), or nothing."""
    label_columns: Integers
    """Where the label of each sample stands in the block, or -1 (N,)."""
    smoothed: SmoothedTargets | None
    """Targets of these classes, where labels are smoothed."""


def partial_state(
    block: Block,
    alpha: Array,
    tile: Array,
    gradients: bool,
    cap: float | None = None,
    hard: row_kernels.Hard | None = None,
) -> PartialState:
    """Return what a block contributes to every sample, from products g (N, B); for gradients, write β exp(z - M) there.

    The label of a sample is left out, as if its logit were -inf. With a cap, exponentials are those of capped logits,
    times the slope of the cap; hard logits are raised in the same way.
    """
    n, dtype, smoothed = len(tile), tile.dtype, block.smoothed
    row_max, max_low, sum_exp_minus_one, target_gap = (np.empty(n) for _ in range(4))
    t = np.zeros(0, dtype) if smoothed is None else smoothed.all.astype(dtype)
    # pass 1b: products -> logits -> their maximum -> exponentials, in place, and the sums of these
    row_kernels.exponentials(
        tile,
        alpha,
        block.beta,
        block.bias,
        block.label_columns,
        t,
        tile.dtype.type(cap or 0.0),
        row_kernels.no_hard_classes(dtype) if hard is None else hard,
        gradients,
        row_max,
        max_low,
        sum_exp_minus_one,
        target_gap,
    )
    # pass 1c: exponentials -> the gradient of x
    return PartialState(
        max=row_max,
        max_low=max_low,
        sum_exp_minus_one=sum_exp_minus_one,
        target_sum=np.zeros(n) if smoothed is None else smoothed.sums(),
        target_gap=target_gap,
        grad_x_exp=product(tile, block.w) if gradients else no_vectors(n),
        grad_x_targets=no_vectors(n) if smoothed is None or not gradients else smoothed.grad_x(block.w, block.beta),
    )


class Tiles:
    """Memory for blocks of logits: one buffer of N x C that is kept for the gradient of W, or a few tiles, reused."""

    def __init__(self, samples: int, blocks: list[slice], dtype: DType, *, keep: bool) -> None:
        self.dtype, self.widest = dtype, blocks[0].stop
        self.kept = np.empty(samples * blocks[-1].stop, dtype) if keep else None
        """Block after block, each contiguous (N, B)."""
        self.free: list[Array] = []

    def tile(self, at: slice, samples: int) -> Array:
        """Return memory for the logits of a block (N, B): always the same one, where all are kept."""
        if self.kept is not None:
            return self.kept[samples * at.start : samples * at.stop].reshape(samples, -1)
        try:
            memory = self.free.pop().reshape(-1)
        except IndexError:
            memory = np.empty(samples * self.widest, self.dtype)
        return memory[: samples * (at.stop - at.start)].reshape(samples, -1)

    def release(self, tile: Array) -> None:
        """Reuse a tile, whose logits are not needed any more, unless it is narrow."""
        if self.kept is None and tile.shape[1] == self.widest:
            self.free.append(tile)


class Classes:
    """All classes, read a block at a time, by several threads at once."""

    def __init__(
        self,
        w: NDArray[np.floating],
        b: Array | None,
        uniform_targets: Array,
        directions: bool,
        dtype: DType,
        *,
        read_again: bool,
    ) -> None:
        self.w, self.b, self.uniform_targets = w, b, uniform_targets
        """W (C, D), b (C,), and the targets of smoothed labels, t (C,) or nothing."""
        self.dtype, self.directions, self.read_again = dtype, directions, read_again
        self.longest: list[float] = []
        """The length of the longest class of each block; 1 where they are directions."""
        self.scaling: dict[int, tuple[Array, Exponents | None]] = {}
        """β and the exponents of blocks that are read again, by their first class."""

    def block(self, at: slice, y: Integers, max_product: float) -> Block:
        """Read a block, for samples with labels y whose logits are at most max_product where classes have length 1."""
        w, beta = self._read_again(at) if at.start in self.scaling else self._read(at, max_product)
        bias = np.zeros(0, self.dtype) if self.b is None else self.b[at].astype(self.dtype)
        if not np.abs(bias).max(initial=0.0) < max_logit(self.dtype):
            raise TooLargeError
        label_columns = np.where((y >= at.start) & (y < at.stop), y - at.start, -1)
        smoothed = SmoothedTargets.of(self.uniform_targets[at], label_columns) if len(self.uniform_targets) else None
        return Block(w, beta, bias, label_columns, smoothed)

    def _read(self, at: slice, max_product: float) -> tuple[Array, Array]:
        """Return the rows of classes, scaled where they are directions, and β."""
        # of linear heads, the underflow of a class far shorter than others is below the rounding errors of its logits
        rows = (scaled if self.directions else unscaled)(self.w[at], self.dtype)
        self._check_norm(at, rows.norm)
        self.longest.append(1.0 if self.directions else rows.norm.max())
        if not max_product * max(self.longest[-1], 1.0) < max_logit(self.dtype):
            raise TooLargeError
        beta = (1.0 / rows.norm if self.directions else np.ones(len(rows.norm))).astype(self.dtype)
        if self.read_again:
            self.scaling[at.start] = beta, rows.exponent
        return rows.rows, beta

    def _read_again(self, at: slice) -> tuple[Array, Array]:
        beta, exponent = self.scaling[at.start]
        rows = aligned(self.w[at], self.dtype) if exponent is None else scaled(self.w[at], self.dtype).rows
        return rows, beta

    def _check_norm(self, at: slice, norm: Array) -> None:
        """Refuse rows whose lengths (B,) are not finite, or 0 where they are directions, or leave products no room."""
        if not np.isfinite(norm).all() or (self.directions and not norm.all()):
            inputs.check_classes(self.w, directions=self.directions)
            raise TooLargeError
        room = 2.0 ** (60 if is_single(self.dtype) else 500)
        if not self.directions and not 1.0 / room < norm.max() < room and self.w[at].any():
            raise TooLargeError

    def unscale(self, dw: Array, exponent: int) -> None:
        """Multiply dL/dW (C, D) by 2^exponent, and divide rows by what their classes were divided by."""
        for start, (beta, class_exponent) in self.scaling.items():
            if exponent or class_exponent is not None:
                at, exponents = slice(start, start + len(beta)), np.full(len(beta), exponent, np.int32)
                dw[at] = ldexp_rows(dw[at], add_exponents(exponents, negated(class_exponent)))
