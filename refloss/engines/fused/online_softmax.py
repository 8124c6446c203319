r"""Online softmax: the state of a row of logits of which only some classes are known, and how two states become one.

The maximum and the sum of exponentials relative to it are enough to go on with other classes: Milakov and Gimelshein,
"Online normalizer calculation for softmax" (2018), https://arxiv.org/abs/1805.02867; the gradient of x is carried along
in the same way, as FlashAttention carries its output: Dao, Fu, Ermon, Rudra and Ré (2022),
https://arxiv.org/abs/2205.14135. Classes may be cut into any blocks, and states merged in any order, on any machine.

Symbols: N rows; D entries of x; k a class, with the logit z_k, the target t_k, and the vector v_k (D,) along dz_k/dx;
y the row's label, which no block counts: `finish` adds it; M the largest logit. Arithmetic is that of float64; vectors
have the dtype of the sweep.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from refloss.engines.kernels import rows as row_kernels
from refloss.error_free import Array, Exponents, Pair, two_sum


class PartialState(NamedTuple):
    """What a block of classes, without the label, contributes to every row."""

    max: Array
    """M, the largest logit of the block; -inf where it has none (N,)."""
    max_low: Array
    """The rounding error of M: the largest logit is M + max_low (N,)."""
    sum_exp_minus_one: Array
    """The sum of exp(z_k - M) over all k but one with z_k = M (N,)."""
    target_sum: Array
    """The sum of the targets t_k (N,)."""
    target_gap: Array
    """The sum of t_k (M - z_k) (N,)."""
    grad_x_exp: Array
    """The sum of exp(z_k - M) v_k (N, D); (N, 0) if no gradients are asked for."""
    grad_x_targets: Array
    """The sum of t_k v_k (N, D); (N, 0) if no gradients are asked for, or all t_k are 0."""

    def exp_relative_to(self, other_max: Array, other_low: Array) -> Array:
        """Return exp(M - another maximum), 0 where there is no M: what this state's exponentials are worth there."""
        gap, error = two_sum(self.max, -other_max)
        return np.where(self.max > -np.inf, exp_of_sum(gap, error + (self.max_low - other_low)), 0.0)

    def target_gap_from(self, other_max: Array, other_low: Array) -> Array:
        """Return what target_gap grows by where M becomes another maximum."""
        gap = (other_max - self.max) + (other_low - self.max_low)
        return np.where(self.target_sum != 0.0, self.target_sum * gap, 0.0)

    def without_gradients(self) -> PartialState:
        """Drop the vectors."""
        return self._replace(grad_x_exp=no_vectors(len(self.max)), grad_x_targets=no_vectors(len(self.max)))


def no_vectors(rows: int) -> Array:
    """Return (N, 0): vectors that are not asked for."""
    return np.empty((rows, 0))


def exp_of_sum(high: Array, low: Array) -> Array:
    """Return exp(high + low); the low part may be NaN where the high one is infinite."""
    high, rest = two_sum(high, np.where(np.isfinite(high), low, 0.0))  # of huge logits the low part is not small
    return np.asarray(np.exp(high) * (1.0 + np.where(np.isfinite(high), rest, 0.0)))


def merge(a: PartialState, b: PartialState) -> PartialState:
    r"""Merge the states of two blocks: $S = S_a e^{M_a - M} + S_b e^{M_b - M}$ with $M = \max(M_a, M_b)$.

    One of the exponentials of S is 1 and is left out, so that S - 1 keeps its own digits however small it is.
    """
    a_leads = (a.max > b.max) | ((a.max == b.max) & (a.max_low >= b.max_low))
    row_max, max_low = np.where(a_leads, a.max, b.max), np.where(a_leads, a.max_low, b.max_low)
    exp_a, exp_b = a.exp_relative_to(row_max, max_low), b.exp_relative_to(row_max, max_low)
    sum_exp_minus_one = np.where(
        a_leads,
        a.sum_exp_minus_one + (1.0 + b.sum_exp_minus_one) * exp_b,
        b.sum_exp_minus_one + (1.0 + a.sum_exp_minus_one) * exp_a,
    )
    grad_x_exp = np.empty_like(a.grad_x_exp)
    dtype = grad_x_exp.dtype
    row_kernels.weighted_sum(a.grad_x_exp, exp_a.astype(dtype), b.grad_x_exp, exp_b.astype(dtype), grad_x_exp)
    return PartialState(
        max=row_max,
        max_low=max_low,
        sum_exp_minus_one=np.where(row_max > -np.inf, sum_exp_minus_one, 0.0),
        target_sum=a.target_sum + b.target_sum,
        target_gap=a.target_gap
        + b.target_gap
        + a.target_gap_from(row_max, max_low)
        + b.target_gap_from(row_max, max_low),
        grad_x_exp=grad_x_exp,
        grad_x_targets=a.grad_x_targets + b.grad_x_targets,
    )


def merge_all(states: Iterable[PartialState]) -> PartialState:
    """Merge states two by two, so that every block goes through few roundings."""
    waiting: list[tuple[int, PartialState]] = []  # each of twice as many blocks as the next, or more
    for state in states:
        blocks, merged = 1, state
        while waiting and waiting[-1][0] == blocks:
            merged = merge(waiting.pop()[1], merged)
            blocks *= 2
        waiting.append((blocks, merged))
    merged = waiting.pop()[1]
    while waiting:
        merged = merge(waiting.pop()[1], merged)
    return merged


class RowLoss(NamedTuple):
    """The loss of every row, and what its gradient is made of (N,)."""

    loss: Array
    """L."""
    grad_label: Array
    """dL/dz_y."""
    grad_per_exp: Array
    """T p_k / exp(z_k - M), T the sum of all targets: dL/dz_k of another class is this times its exponential - t_k."""
    lse: Array
    """The log-sum-exp."""

    def over_power_of_two(self, exponent: Exponents) -> RowLoss:
        """Divide the gradients by 2^exponent."""
        grad_label, grad_per_exp = np.ldexp(self.grad_label, -exponent), np.ldexp(self.grad_per_exp, -exponent)
        return self._replace(grad_label=grad_label, grad_per_exp=grad_per_exp)


def finish(state: PartialState, label_logit: Pair, label_target: Array, lse_slope: float = 0.0) -> RowLoss:
    r"""Add the label, with the logit z_y and the target t_y, to the state of all other classes.

    $$L = t_y\,(-\log p_y) + \sum_{k\ne y} t_k\,(-\log p_k), \qquad
    \frac{\partial L}{\partial z_y} = p_y \sum_{k\ne y} t_k - t_y\,(1 - p_y)$$

    1 - p_y is the sum of the others, and every logarithm a gap and a log1p: each keeps its own digits. A term of
    the row with the slope `lse_slope` times the log-sum-exp adds $p_k$ times that to its gradient.
    """
    high, low = two_sum(state.max, -label_logit.hi)
    low = np.where(np.isfinite(high), low + (state.max_low - label_logit.lo), 0.0)
    gap = high + low  # M - z_y
    label_leads = gap <= 0.0
    smaller = np.where(label_leads, exp_of_sum(high, low), exp_of_sum(-high, -low))  # exp(-|M - z_y|)
    rest = np.where(label_leads, (1.0 + state.sum_exp_minus_one) * smaller, state.sum_exp_minus_one + smaller)
    sum_exp, log_sum_exp = 1.0 + rest, np.log1p(rest)  # relative to the larger of M and z_y
    p = np.where(label_leads, 1.0, smaller) / sum_exp
    one_minus_p = np.where(label_leads, rest, 1.0 + state.sum_exp_minus_one) / sum_exp
    label_gap = np.where(state.target_sum != 0.0, state.target_sum * np.maximum(-gap, 0.0), 0.0)
    others_loss = state.target_gap + label_gap + state.target_sum * log_sum_exp
    lse = np.where(label_leads, label_logit.hi, state.max) + log_sum_exp
    grad_label, target_sum = p * state.target_sum - label_target * one_minus_p, label_target + state.target_sum
    if lse_slope:
        grad_label, target_sum = grad_label + lse_slope * lse * p, target_sum + lse_slope * lse
    return RowLoss(
        loss=label_target * (np.maximum(gap, 0.0) + log_sum_exp) + others_loss,
        grad_label=grad_label,
        grad_per_exp=target_sum * np.where(label_leads, smaller, 1.0) / sum_exp,
        lse=lse,
    )
