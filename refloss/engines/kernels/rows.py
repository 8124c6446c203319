"""Sweeps over rows for the engine `fused`, in float64 or float32: each row is brought into the cache once.

Softmax and cross entropy first, then the linear algebra of gradients.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.engines.kernels.exponential import exp
from refloss.engines.kernels.hyperbolic import cap_settings, capped
from refloss.engines.kernels.jit import Float, FloatArray, njit
from refloss.engines.kernels.lanes import (
    LANES,
    Raise,
    capped_exp_sum,
    compensated_pair,
    compensated_sum,
    count_near,
    dot,
    exp_sum,
    gap_sum,
    index_of,
    is_near,
    max_of,
    scale_and_max,
    scale_and_raise,
    sum_of,
)
from refloss.engines.kernels.pairs import two_sum
from refloss.error_free import Array, Integers

_FLOAT64 = np.dtype(np.float64)


# ----------------------------------------------------------------------------- softmax over a block of a head's classes


class Known(NamedTuple):
    """Some logits and slopes of a tile that are known already, row by row."""

    first: Integers
    """Where those of each row begin, and where the last end (N + 1,)."""
    columns: Integers
    """Their columns."""
    logits: FloatArray
    slopes: FloatArray


class Hard(NamedTuple):
    """What becomes of classes that are hard."""

    threshold: FloatArray
    """What the logit of a hard class is above (N,); of length 0 where none counts as hard."""
    settings: Raise
    known: Known
    """Classes that are as near to the threshold as rounding errors."""


@lru_cache
def no_hard_classes(dtype: np.dtype[Any]) -> Hard:
    """Return what says that no class counts as hard."""
    nothing, none, one = np.empty(0, dtype), np.empty(0, np.int64), dtype.type(1.0)
    return Hard(nothing, Raise(one, one, one, one), Known(none, none, nothing, nothing))


@njit
def exponentials(
    tile: FloatArray,
    alpha: FloatArray,
    beta: FloatArray,
    bias: FloatArray,
    label_columns: Integers,
    uniform_targets: FloatArray,
    cap: Float,
    hard: Hard,
    with_gradients: bool,
    row_max: Array,
    max_low: Array,
    sum_exp_minus_one: Array,
    target_gap: Array,
) -> None:
    r"""Turn products into exponentials, in place, and write the partial state of an online softmax.

    $$z_{nk} = \alpha_n \beta_k\,g_{nk} + b_k, \qquad M_n = \max_k z_{nk}, \qquad
    g_{nk} \leftarrow \beta_k\,e^{z_{nk} - M_n}$$

    over all k except for the label of the row, in its column of the tile (-1 for none), which becomes 0. The state is
    M, its rounding error, the sum of the exponentials without the largest, which is 1, and, where there are uniform
    targets t, the sum of $t_k (M - z_k)$. Without gradients the tile is left undefined. A row whose only class is its
    label has the maximum -inf. The rounding error of adding a bias, which may be far larger than products, is
    compensated. With a cap, unless it is 0, logits are capped, and exponentials multiplied by the slope of the cap. In
    the same way hard logits are raised, and their exponentials multiplied by the slope of that.
    """
    lanes, lanes_64, lows = np.empty(LANES, tile.dtype), np.empty(LANES), np.empty(len(bias), tile.dtype)
    has_hard = len(hard.threshold) > 0
    slope = np.empty(tile.shape[1] if cap > 0.0 or has_hard else 0, tile.dtype)
    for i in range(len(tile)):
        row = tile[i]
        if has_hard:
            largest = _raised_and_max(row, label_columns[i], alpha[i], beta, i, hard, slope, lanes)
        else:
            largest = _logits_and_max(row, label_columns[i], alpha[i], beta, bias, cap, lows, slope, lanes)
        row_max[i], max_low[i], sum_exp_minus_one[i], target_gap[i] = largest, 0.0, 0.0, 0.0
        if largest == -np.inf:
            row[:] = 0.0
            continue
        argmax = index_of(row, largest)
        for k in range(len(lows)):
            if row[k] == largest and lows[k] > lows[argmax]:
                argmax = k
        if len(uniform_targets):
            target_gap[i] = gap_sum(row, largest, uniform_targets, lanes_64)
        if len(lows):
            max_low[i] = lows[argmax]
            target_gap[i] += _gap_sum_of_lows(row, lows, lows[argmax], uniform_targets)
        row[argmax] = -np.inf
        sum_exp_minus_one[i] = _exp_row(row, largest, lows, argmax, beta, with_gradients, lanes_64)
        row[argmax] = beta[argmax]
        for k in range(len(slope)):
            row[k] *= slope[k]


@njit
def _logits_and_max(
    row: FloatArray,
    own: int,
    alpha: Float,
    beta: FloatArray,
    bias: FloatArray,
    cap: Float,
    lows: FloatArray,
    slope: FloatArray,
    lanes: FloatArray,
) -> Float:
    """Turn products into logits, the label's into -inf; return the largest. Write low parts, or slopes of a cap."""
    if own >= 0:
        row[own] = -np.inf
    largest = scale_and_max(row, alpha, beta, lanes)
    for k in range(len(lows)):
        row[k], lows[k] = two_sum(row[k], bias[k])
    if own >= 0:
        row[own] = -np.inf
        if len(lows):
            lows[own] = 0.0
    if len(slope):
        cap_row(row, cap / cap, cap, row, slope)
        if own >= 0:
            row[own] = -np.inf
        lows[:] = 0.0  # far below the roundings of capped logits
    if len(lows) or len(slope):
        largest = max_of(row, lanes)
    return largest


@njit
def _raised_and_max(
    row: FloatArray,
    own: int,
    alpha: Float,
    beta: FloatArray,
    i: int,
    hard: Hard,
    slope: FloatArray,
    lanes: FloatArray,
) -> Float:
    """As `_logits_and_max`, of row i with hard logits raised; write the slopes."""
    if own >= 0:
        row[own] = -np.inf
    scale_and_raise(row, alpha, beta, hard.threshold[i], hard.settings, slope)
    known = hard.known
    for place in range(known.first[i], known.first[i + 1]):
        k = known.columns[place]
        row[k], slope[k] = known.logits[place], known.slopes[place]
    return max_of(row, lanes)


@njit
def near_threshold(
    tile: FloatArray,
    alpha: FloatArray,
    beta: FloatArray,
    label_columns: Integers,
    threshold: FloatArray,
    reach: Float,
) -> tuple[Integers, Integers]:
    """Return the logits, of products as in `exponentials`, that are within a reach of the threshold of their row.

    They are columns, row by row, without that of the label, after where those of each row begin, and the last end.
    """
    first, columns = np.zeros(len(tile) + 1, np.int64), np.empty(16, np.int64)
    for i in range(len(tile)):
        total = first[i]
        for start in range(0, tile.shape[1], LANES):
            chunk, factors = tile[i, start : start + LANES], beta[start : start + LANES]
            if not count_near(chunk, alpha[i], factors, threshold[i], reach):  # as is the case for most
                continue
            for j in range(len(chunk)):
                if is_near(chunk[j], alpha[i], factors[j], threshold[i], reach) and start + j != label_columns[i]:
                    if total == len(columns):
                        columns = np.concatenate((columns, np.empty_like(columns)))
                    columns[total] = start + j
                    total += 1
        first[i + 1] = total
    return first, columns[: first[-1]]


@njit
def _gap_sum_of_lows(row: FloatArray, lows: FloatArray, max_low: Float, t: FloatArray) -> Float:
    """Return what the low parts add to the sum of target gaps, in float64."""
    total = 0.0
    for k in range(len(t)):
        if row[k] > -np.inf:
            total += np.float64(t[k]) * np.float64(max_low - lows[k])
    return total


@njit
def _exp_row(
    row: FloatArray,
    row_max: Float,
    lows: FloatArray,
    argmax: int,
    beta: FloatArray,
    with_gradients: bool,
    lanes: FloatArray,
) -> Float:
    """Return the sum of the exponentials of a row less its maximum, in float64.

    With gradients, write them times beta. Where there are low parts, they are as accurate as these.
    """
    if row.dtype == _FLOAT64 and not len(lows):
        return exp_sum(row, row_max, beta, lanes)
    if len(lows):
        max_low = lows[argmax]
        for k in range(len(row)):  # rounding errors of huge logits are not small
            if row[k] > -np.inf:
                gap, gap_low = two_sum(row[k], -row_max)
                row[k], lows[k] = two_sum(gap, gap_low + (lows[k] - max_low))
        row_max -= row_max  # rows are relative to it now
    for k in range(row.shape[0]):
        row[k] = exp(row[k] - row_max)
    for k in range(len(lows)):
        if row[k] > 0.0:
            row[k] += row[k] * lows[k]
    total = sum_of(row, lanes)
    if with_gradients:
        for k in range(len(row)):
            row[k] *= beta[k]
    return total


# ---------------------------------------------------------------------------------------------- cross entropy of logits


@njit
def cross_entropy(
    z: FloatArray,
    label: Integers,
    label_target: FloatArray,
    other_targets: FloatArray,
    row_weight: FloatArray,
    lse_weight: Array,
    lse_slope: Array,
    kept: NDArray[np.bool_],
    with_gradients: bool,
    losses: Array,
    lse: Array,
    dz: FloatArray,
) -> None:
    r"""Write the loss of every row of logits and, if asked for, its gradient: rows are read once and written once.

    $$L = \sum_k t_k\,\bigl((M - z_k) + \operatorname{log1p}(S)\bigr), \qquad
    \frac{\partial L}{\partial z_k} = g\,\bigl(p_k (T - t_k) - t_k q_k\bigr), \qquad S = \sum_{k\ne a} e^{z_k - M}$$

    with a the index of the maximum M, T the sum of the targets, q = 1 - p and g the weight of the row. t is
    `label_target` at the label and elsewhere 0 (no row of `other_targets`) or the one row of `other_targets`; where
    there is no label (-1), `other_targets` has a row for each row of z. The log-sum-exp of each row is written to lse;
    where weights are given for it (otherwise of length 0), $w_n + s_n\operatorname{lse}_n$, from `lse_weight` and
    `lse_slope`, is its gradient. Rows that are not kept are not read: their loss and gradient are 0.
    """
    lanes, lanes_low = np.empty(LANES, z.dtype), np.empty(LANES, z.dtype)
    work = np.empty(z.shape[1] * min(len(other_targets), 1), z.dtype)
    for i in range(len(z)):
        e = dz[i if with_gradients else 0]
        losses[i], lse[i] = _row(
            i,
            z[i],
            label,
            label_target,
            other_targets,
            row_weight,
            lse_weight,
            lse_slope,
            kept,
            with_gradients,
            e,
            lanes,
            lanes_low,
            work,
        )


@njit
def capped_cross_entropy(
    logit_scale: Float,
    cap: Float,
    z: FloatArray,
    label: Integers,
    label_target: FloatArray,
    other_targets: FloatArray,
    row_weight: FloatArray,
    lse_weight: Array,
    lse_slope: Array,
    kept: NDArray[np.bool_],
    with_gradients: bool,
    losses: Array,
    lse: Array,
    dz: FloatArray,
) -> None:
    """As `cross_entropy`, of logits that are scaled and, unless the cap is 0, capped.

    Where only labels have targets, no row is kept but that of the gradient: a cap keeps the order of logits, so the
    largest is known before any is capped.
    """
    lanes, lanes_low = np.empty(LANES, z.dtype), np.empty(LANES, z.dtype)
    one_target = cap > 0.0 and not len(other_targets)
    width = 0 if one_target else z.shape[1]
    work = np.empty(z.shape[1] * min(len(other_targets), 1), z.dtype)
    capped, slope = np.empty(width, z.dtype), np.empty(width if with_gradients else 0, z.dtype)
    exps = np.empty(LANES, z.dtype)
    for i in range(len(z)):
        e = dz[i if with_gradients else 0]
        if one_target:
            losses[i], lse[i] = _capped_row(
                logit_scale,
                cap,
                i,
                z[i],
                label,
                label_target,
                row_weight,
                lse_weight,
                lse_slope,
                kept,
                with_gradients,
                e,
                lanes,
                exps,
            )
            continue
        if kept[i] and cap > 0.0:
            cap_row(z[i], logit_scale, cap, capped, slope)
        elif kept[i]:
            _scale_row(z[i], logit_scale, capped, slope)
        losses[i], lse[i] = _row(
            i,
            capped,
            label,
            label_target,
            other_targets,
            row_weight,
            lse_weight,
            lse_slope,
            kept,
            with_gradients,
            e,
            lanes,
            lanes_low,
            work,
        )
        if with_gradients and kept[i]:
            for k in range(len(e)):
                e[k] *= slope[k]


@njit
def _capped_row(
    logit_scale: Float,
    cap: Float,
    i: int,
    row: FloatArray,
    label: Integers,
    label_target: FloatArray,
    row_weight: FloatArray,
    lse_weight: Array,
    lse_slope: Array,
    kept: NDArray[np.bool_],
    with_gradients: bool,
    e: FloatArray,
    lanes: FloatArray,
    exps: FloatArray,
) -> tuple[Float, Float]:
    """Return the loss and the log-sum-exp of row i of `capped_cross_entropy`, and write its gradient to e."""
    if not kept[i]:
        if with_gradients:
            e[:] = 0.0
        return 0.0, 0.0
    settings = cap_settings(logit_scale, cap)
    argmax = index_of(row, max_of(row, lanes))
    largest, _ = capped(row[argmax], settings)
    sum_exp_minus_one = capped_exp_sum(row, largest, argmax, settings, e, lanes, exps)
    lse = np.float64(largest) + _log1p(sum_exp_minus_one)
    lanes[0], lanes[1] = lse_weight[i] + lse_slope[i] * lse if len(lse_weight) else 0.0, sum_exp_minus_one
    dlse, rest = lanes[0], lanes[1]  # in the dtype of the row
    y, t_y = label[i], label_target[i]
    label_logit, label_slope = capped(row[y], settings)
    if with_gradients:
        sum_exp = settings.one + rest
        p_y = exp(label_logit - largest) / sum_exp
        q = rest / sum_exp if y == argmax else settings.one - p_y
        factor = (row_weight[i] * t_y + dlse) / sum_exp * logit_scale
        for k in range(len(e)):
            e[k] *= factor
        e[y] = (dlse * p_y - row_weight[i] * t_y * q) * label_slope * logit_scale
    loss = t_y * ((largest - label_logit) + _log1p(sum_exp_minus_one))
    return (loss if t_y != 0.0 else 0.0 * sum_exp_minus_one), lse


@njit
def cap_row(row: FloatArray, logit_scale: Float, cap: Float, capped_row: FloatArray, slopes: FloatArray) -> None:
    r"""Write $K\tanh(\sigma z/K)$, and, unless there is no room for them, the slopes."""
    settings = cap_settings(logit_scale, cap)
    for k in range(len(row)):
        capped_row[k], slope = capped(row[k], settings)
        if len(slopes):
            slopes[k] = slope * logit_scale


@njit
def _scale_row(row: FloatArray, logit_scale: Float, scaled: FloatArray, slope: FloatArray) -> None:
    """Write the logits times their scale, which is their slope."""
    for k in range(len(row)):
        scaled[k] = row[k] * logit_scale
    slope[:] = logit_scale


@njit
def _row(
    i: int,
    row: FloatArray,
    label: Integers,
    label_target: FloatArray,
    other_targets: FloatArray,
    row_weight: FloatArray,
    lse_weight: Array,
    lse_slope: Array,
    kept: NDArray[np.bool_],
    with_gradients: bool,
    e: FloatArray,
    lanes: FloatArray,
    lanes_low: FloatArray,
    work: FloatArray,
) -> tuple[Float, Float]:
    """Return the loss and the log-sum-exp of row i of `cross_entropy`, and write its gradient to e."""
    row_max = max_of(row, lanes) if kept[i] else row[0]
    if not kept[i] or not -np.inf < row_max < np.inf:
        if with_gradients:
            e[:] = np.nan if kept[i] else 0.0
        return (np.nan, np.nan) if kept[i] else (0.0, 0.0)  # 0 times NaN too
    argmax = index_of(row, row_max)
    _shifted_exp(row, row_max, e)
    max_exp = e[argmax]
    e[argmax] = max_exp - max_exp
    sum_exp_minus_one = compensated_sum(e, lanes, lanes_low)
    e[argmax] = max_exp
    lse = np.float64(row_max) + _log1p(sum_exp_minus_one)
    lanes[0] = lse_weight[i] + lse_slope[i] * lse if len(lse_weight) else 0.0
    dlse = lanes[0]  # in the dtype of the row
    y, t_y = label[i], label_target[i]
    if not len(other_targets):
        loss = _one_target(row, row_max, sum_exp_minus_one, y, t_y, argmax, row_weight[i], dlse, with_gradients, e)
        return (loss if t_y != 0.0 else 0.0 * sum_exp_minus_one), lse  # 0, also of an infinite gap, or NaN
    work[:] = other_targets[i if y < 0 else 0]
    if y >= 0:
        work[y] = t_y
    total, total_low = compensated_pair(work, lanes, lanes_low)
    if with_gradients:
        _many_targets_gradient(sum_exp_minus_one, total, total_low, work, argmax, row_weight[i], dlse, e)
    for k in range(len(row)):
        gap = row_max - row[k]
        work[k] = work[k] * gap if work[k] != 0.0 else work[k]
    loss = compensated_sum(work, lanes, lanes_low) + total * _log1p(sum_exp_minus_one)
    return (loss if _has_target(other_targets, i, y, t_y) else 0.0 * sum_exp_minus_one), lse


@njit
def _shifted_exp(row: FloatArray, row_max: Float, e: FloatArray) -> None:
    """Write exp(row - row_max), compensating the rounding of the difference: error below 2.7u of it."""
    for k in range(len(row)):
        gap, gap_low = two_sum(row[k], -row_max)
        v = exp(gap)
        e[k] = v + v * gap_low if v > 0.0 else v


@njit
def _log1p(x: Float) -> Float:
    """Return log1p(x) in float64, from the C library; NumPy's is another function than numba's."""
    return np.float64(math.log1p(np.float64(x)))


@njit
def _one_target(
    row: FloatArray,
    row_max: Float,
    sum_exp_minus_one: Float,
    y: int,
    t_y: Float,
    argmax: int,
    row_weight: Float,
    dlse: Float,
    with_gradients: bool,
    e: FloatArray,
) -> Float:
    """Return the loss where only the label has a target, and turn exponentials into the gradient."""
    if with_gradients:
        max_exp = e[argmax]
        sum_exp = max_exp + sum_exp_minus_one
        q = sum_exp_minus_one / sum_exp if y == argmax else max_exp - e[y] / sum_exp
        factor, of_label = row_weight * t_y / sum_exp, -row_weight * t_y * q
        if dlse != 0.0:
            factor += dlse / sum_exp
            of_label += dlse * (e[y] / sum_exp)
        for k in range(len(e)):
            e[k] *= factor
        e[y] = of_label
    loss: Float = t_y * ((row_max - row[y]) + _log1p(sum_exp_minus_one))
    return loss


@njit
def _many_targets_gradient(
    sum_exp_minus_one: Float,
    total: Float,
    total_low: Float,
    t: FloatArray,
    argmax: int,
    row_weight: Float,
    dlse: Float,
    e: FloatArray,
) -> None:
    """Turn exponentials into the gradient, where every class may have a target; T is a pair."""
    max_exp = e[argmax]
    sum_exp = max_exp + sum_exp_minus_one
    for k in range(len(e)):
        p = e[k] / sum_exp
        e[k] = row_weight * (p * _rest(total, total_low, t[k]) - t[k] * (max_exp - p))
        if dlse != 0.0:
            e[k] += dlse * p
    p, q = max_exp / sum_exp, sum_exp_minus_one / sum_exp
    e[argmax] = row_weight * (p * _rest(total, total_low, t[argmax]) - t[argmax] * q)
    if dlse != 0.0:
        e[argmax] += dlse * p


@njit
def _rest(total: Float, total_low: Float, t_k: Float) -> Float:
    """Return T - t_k, the sum of the other targets, to its own digits."""
    s, e = two_sum(total, -t_k)
    return s + (e + total_low)


@njit
def _has_target(other_targets: FloatArray, i: int, y: int, t_y: Float) -> bool:
    """Return whether any class of row i has a target other than 0."""
    row, has_target = other_targets[i if y < 0 else 0], y >= 0 and t_y != 0.0
    for k in range(len(row)):
        has_target |= k != y and row[k] != 0.0
    return has_target


# ------------------------------------------------------------------------------------------ linear algebra of gradients


@njit
def vecdot(a: FloatArray, b: FloatArray, out: FloatArray) -> None:
    """Write the inner products of rows, in their dtype; unlike a BLAS, with no threads."""
    lanes = np.empty(LANES, a.dtype)
    for n in range(len(a)):
        out[n] = dot(a[n], b[n], lanes)


@njit
def weighted_sum(a: FloatArray, weight_a: FloatArray, b: FloatArray, weight_b: FloatArray, out: FloatArray) -> None:
    """Write, for every row n, weight_a[n] a[n] + weight_b[n] b[n]."""
    for n in range(len(out)):
        row_a, row_b, row = a[n], b[n], out[n]
        for i in range(len(row)):
            row[i] = row_a[i] * weight_a[n] + row_b[i] * weight_b[n]


@njit
def project(rows: FloatArray, w: FloatArray, beta: FloatArray) -> None:
    """Subtract from every row its projection onto the row of w, whose length is 1/β."""
    lanes = np.empty(LANES, rows.dtype)
    for k in range(len(rows)):
        row, normal = rows[k], w[k]
        factor = dot(row, normal, lanes) * beta[k] * beta[k]
        for i in range(row.shape[0]):
            row[i] -= factor * normal[i]


@njit
def subtract_outer(rows: FloatArray, factor: FloatArray, vector: FloatArray) -> None:
    """Subtract the outer product of factor and vector from rows."""
    for k in range(len(rows)):
        for i in range(rows.shape[1]):
            rows[k, i] -= factor[k] * vector[i]


@njit
def accumulate(total: FloatArray, low: FloatArray, rows: FloatArray) -> None:
    """Add rows to a total, and the rounding errors to its low part."""
    for k in range(len(rows)):
        row, row_total, row_low = rows[k], total[k], low[k]
        for i in range(row.shape[0]):
            s, e = two_sum(row_total[i], row[i])
            row_total[i] = s
            row_low[i] += e
