"""Maxima, sums and inner products of a row, in `LANES` lanes.

LLVM vectorises a loop only where that reorders no operation. Entry j of a row therefore goes to lane j mod `LANES`,
and lanes are reduced by halves. The order depends on the length of a row and on nothing else. For sums in float64 a row
is cut into sections of `SECTION` entries, whose sums are added up with their rounding errors.

A chunk is a slice, whose length is unknown when it is compiled: LLVM unrolls short loops of known length before it
could vectorise them. `lanes` (and `lanes_low`) is scratch space of length `LANES`; its dtype is that of the sum.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.engines.kernels.exponential import exp
from refloss.engines.kernels.hyperbolic import Cap, capped_near, nearer, slope_near, tanh_of_half
from refloss.engines.kernels.jit import Float, FloatArray, njit
from refloss.engines.kernels.pairs import ZERO, two_sum

LANES = 128
SECTION = 16 * LANES

# --------------------------------------------------------------------------------------------------------------- maxima


@njit
def max_of(row: FloatArray, lanes: FloatArray) -> Float:
    """Return the largest entry of a row that is not empty, ignoring NaN."""
    width = min(row.shape[0], LANES)
    lanes[:width] = -np.inf
    for i in range(0, row.shape[0], LANES):
        chunk = row[i : i + LANES]
        for j in range(chunk.shape[0]):
            lanes[j] = max(lanes[j], chunk[j])
    return _max_of_lanes(lanes, width)


@njit
def scale_and_max(row: FloatArray, factor: Float, factors: FloatArray, lanes: FloatArray) -> Float:
    """Multiply the entries of a row by a factor and by factors of their own; return the largest, ignoring NaN."""
    width = min(row.shape[0], LANES)
    lanes[:width] = -np.inf
    for i in range(0, row.shape[0], LANES):
        chunk, chunk_factors = row[i : i + LANES], factors[i : i + LANES]
        for j in range(chunk.shape[0]):
            value = chunk[j] * factor * chunk_factors[j]
            chunk[j] = value
            lanes[j] = max(lanes[j], value)
    return _max_of_lanes(lanes, width)


class Raise(NamedTuple):
    """What becomes of hard logits: $(a z + b) z + c$, whose slope is 2az + b."""

    one: Float
    quadratic: Float
    """a."""
    linear: Float
    """b."""
    constant: Float
    """c."""


@njit
def scale_and_raise(
    row: FloatArray, factor: Float, factors: FloatArray, threshold: Float, settings: Raise, slopes: FloatArray
) -> None:
    """Multiply as `scale_and_max` does, and raise what is above a threshold; write the slopes of that, 1 elsewhere."""
    one, a, b, c = settings
    for i in range(0, row.shape[0], LANES):
        chunk, chunk_factors, chunk_slopes = row[i : i + LANES], factors[i : i + LANES], slopes[i : i + LANES]
        for j in range(chunk.shape[0]):
            value = chunk[j] * factor * chunk_factors[j]
            is_hard, steep = value > threshold, a * value
            chunk[j] = (steep + b) * value + c if is_hard else value
            chunk_slopes[j] = steep + steep + b if is_hard else one


@njit
def is_near(product: Float, factor: Float, own_factor: Float, threshold: Float, reach: Float) -> bool:
    """Whether a product, times a factor and one of its own, is within a reach of a threshold."""
    gap = product * factor * own_factor - threshold
    return bool(max(gap, -gap) <= reach)


@njit
def count_near(row: FloatArray, factor: Float, factors: FloatArray, threshold: Float, reach: Float) -> int:
    """Return how many entries, multiplied as `scale_and_max` does, are within a reach of a threshold."""
    count = 0
    for j in range(row.shape[0]):
        count += is_near(row[j], factor, factors[j], threshold, reach)
    return count


@njit
def _max_of_lanes(lanes: FloatArray, width: int) -> Float:
    """Return the largest of the first lanes; destroys its input."""
    while width > 1:
        upper = lanes[(width + 1) // 2 : width]
        for j in range(upper.shape[0]):
            lanes[j] = max(lanes[j], upper[j])
        width -= upper.shape[0]
    largest: Float = lanes[0]
    return largest


@njit
def index_of(row: FloatArray, value: Float) -> int:
    """Return the first index of a value; 0 if there is none."""
    for i in range(0, row.shape[0], LANES):
        chunk, count = row[i : i + LANES], 0
        for j in range(chunk.shape[0]):
            count += chunk[j] == value
        if count:
            k = i
            while row[k] != value:
                k += 1
            return k
    return 0


# ----------------------------------------------------------------------------------------------------------------- sums


@njit
def dot(a: FloatArray, b: FloatArray, lanes: FloatArray) -> Float:
    """Return the inner product of two rows in the dtype of the lanes: at most n / LANES + 8 additions deep."""
    width = min(a.shape[0], LANES)
    lanes[:width] = 0.0
    for i in range(0, a.shape[0], LANES):
        chunk_a, chunk_b = a[i : i + LANES], b[i : i + LANES]
        for j in range(chunk_a.shape[0]):
            lanes[j] += chunk_a[j] * chunk_b[j]
    return _sum_of_lanes(lanes, width)


@njit
def sum_of(row: FloatArray, lanes: FloatArray) -> Float:
    """Return the sum of a row in float64: at most SECTION / LANES + 8 additions deep."""
    total, low = ZERO
    for i in range(0, row.shape[0], SECTION):
        total, low = _add_section(total, low, _section_sum(row[i : i + SECTION], lanes))
    return _rounded(total, low)


@njit
def _section_sum(row: FloatArray, lanes: FloatArray) -> Float:
    width = min(row.shape[0], LANES)
    lanes[:width] = 0.0
    for i in range(0, row.shape[0], LANES):
        chunk = row[i : i + LANES]
        for j in range(chunk.shape[0]):
            lanes[j] += chunk[j]
    return _sum_of_lanes(lanes, width)


@njit
def exp_sum(row: FloatArray, row_max: Float, beta: FloatArray, lanes: FloatArray) -> Float:
    r"""Write $\beta_k e^{z_k - M}$ over a row z of float64, and return the sum of $e^{z_k - M}$."""
    total, low = ZERO
    for i in range(0, row.shape[0], SECTION):
        section = _section_exp_sum(row[i : i + SECTION], row_max, beta[i : i + SECTION], lanes)
        total, low = _add_section(total, low, section)
    return _rounded(total, low)


@njit
def _section_exp_sum(row: FloatArray, row_max: Float, beta: FloatArray, lanes: FloatArray) -> Float:
    width = min(row.shape[0], LANES)
    lanes[:width] = 0.0
    for i in range(0, row.shape[0], LANES):
        chunk, chunk_beta = row[i : i + LANES], beta[i : i + LANES]
        for j in range(chunk.shape[0]):
            value = exp(chunk[j] - row_max)
            lanes[j] += value
            chunk[j] = value * chunk_beta[j]
    return _sum_of_lanes(lanes, width)


@njit
def capped_exp_sum(
    row: FloatArray, largest: Float, argmax: int, settings: Cap, out: FloatArray, lanes: FloatArray, exps: FloatArray
) -> Float:
    r"""Return the sum of $e^{z'_k - M}$ over all k but argmax, and write it times the slope of the cap to out.

    z' are capped logits, see `refloss.engines.kernels.hyperbolic.capped`, M is the largest, and exps a scratch space as
    lanes is.
    """
    total, low = ZERO
    for i in range(0, row.shape[0], SECTION):
        width = min(row.shape[0] - i, LANES)
        lanes[:width] = 0.0
        for start in range(i, min(i + SECTION, row.shape[0]), LANES):
            chunk, chunk_out = row[start : start + LANES], out[start : start + LANES]
            if not _are_near(chunk, settings.near):
                _capped_exps(chunk, largest, settings, exps, chunk_out)
            elif start <= argmax < start + LANES:
                _near_exps(chunk, largest, settings, exps, chunk_out)
            else:  # as is the case for most
                _add_near_exps(chunk, largest, settings, exps, chunk_out, lanes)
                continue
            if start <= argmax < start + LANES:
                exps[argmax - start] = 0.0
            for j in range(chunk.shape[0]):
                lanes[j] += exps[j]
        total, low = _add_section(total, low, np.float64(_sum_of_lanes(lanes, width)))
    return _rounded(total, low)


@njit
def _are_near(chunk: FloatArray, near: Float) -> bool:
    """Whether all logits are so near to 0 that the cap is a polynomial."""
    far = 0
    for j in range(chunk.shape[0]):
        far += abs(chunk[j]) > near
    return far == 0


@njit
def _near_exps(chunk: FloatArray, largest: Float, settings: Cap, exps: FloatArray, out: FloatArray) -> None:
    """Write exponentials of capped logits to exps, and times the slope of the cap to out; of logits near 0."""
    for j in range(chunk.shape[0]):
        exps[j] = capped_near(chunk[j], settings)
    for j in range(chunk.shape[0]):
        value = exp(exps[j] - largest)
        out[j] = value * slope_near(exps[j], settings)
        exps[j] = value


@njit
def _add_near_exps(
    chunk: FloatArray, largest: Float, settings: Cap, exps: FloatArray, out: FloatArray, lanes: FloatArray
) -> None:
    """As `_near_exps`, adding the exponentials to the lanes in place of writing them."""
    for j in range(chunk.shape[0]):
        exps[j] = capped_near(chunk[j], settings)
    for j in range(chunk.shape[0]):
        value = exp(exps[j] - largest)
        out[j] = value * slope_near(exps[j], settings)
        lanes[j] += value


@njit
def _capped_exps(chunk: FloatArray, largest: Float, settings: Cap, exps: FloatArray, out: FloatArray) -> None:
    """Write exponentials of capped logits to exps, and times the slope of the cap to out."""
    for j in range(chunk.shape[0]):
        exps[j], out[j] = tanh_of_half(max(chunk[j], -chunk[j]) * settings.twice_per_cap)
    for j in range(chunk.shape[0]):
        exps[j], out[j] = nearer(chunk[j], exps[j], out[j], settings)
    _exps(exps[: chunk.shape[0]], largest, out)


@njit
def _exps(logits: FloatArray, largest: Float, slopes: FloatArray) -> None:
    """Write exponentials over logits, and multiply slopes by them."""
    for j in range(logits.shape[0]):
        logits[j] = exp(logits[j] - largest)
    for j in range(logits.shape[0]):
        slopes[j] *= logits[j]


@njit
def gap_sum(row: FloatArray, row_max: Float, t: FloatArray, lanes: FloatArray) -> Float:
    r"""Return the sum of $t_k (M - z_k)$ over the finite $z_k$ of a row, in float64."""
    total, low = ZERO
    for i in range(0, row.shape[0], SECTION):
        section = _section_gap_sum(row[i : i + SECTION], row_max, t[i : i + SECTION], lanes)
        total, low = _add_section(total, low, section)
    return _rounded(total, low)


@njit
def _section_gap_sum(row: FloatArray, row_max: Float, t: FloatArray, lanes: FloatArray) -> Float:
    width = min(row.shape[0], LANES)
    lanes[:width] = 0.0
    for i in range(0, row.shape[0], LANES):
        chunk, chunk_t = row[i : i + LANES], t[i : i + LANES]
        for j in range(chunk.shape[0]):
            gap = np.float64(row_max - chunk[j])
            lanes[j] += np.float64(chunk_t[j]) * (gap if gap < np.inf else 0.0)
    return _sum_of_lanes(lanes, width)


@njit
def _add_section(total: Float, low: Float, section: Float) -> tuple[Float, Float]:
    """Add the sum of a section to the total, and the rounding error to the low part."""
    s, e = two_sum(total, section)
    return s, low + e


@njit
def _rounded(total: Float, low: Float) -> Float:
    """Add the low part, which has no meaning where the total is not finite."""
    return total + low if -np.inf < total < np.inf else total


@njit
def _sum_of_lanes(lanes: FloatArray, width: int) -> Float:
    """Return the sum of the first lanes; destroys its input."""
    while width > 1:
        upper = lanes[(width + 1) // 2 : width]
        for j in range(upper.shape[0]):
            lanes[j] += upper[j]
        width -= upper.shape[0]
    total: Float = lanes[0]
    return total


# ----------------------------------------------------------------------------------------------------- compensated sums


@njit
def compensated_sum(row: FloatArray, lanes: FloatArray, lanes_low: FloatArray) -> Float:
    """Return the sum of a row as if added up with twice the digits, and rounded."""
    total, low = compensated_pair(row, lanes, lanes_low)
    return _rounded(total, low)


@njit
def compensated_pair(row: FloatArray, lanes: FloatArray, lanes_low: FloatArray) -> tuple[Float, Float]:
    """Return the sum of a row, added up with twice the digits, and its rounding error."""
    width = min(row.shape[0], LANES)
    lanes[:width], lanes_low[:width] = 0.0, 0.0
    for i in range(0, row.shape[0], LANES):
        chunk = row[i : i + LANES]
        for j in range(chunk.shape[0]):
            s, e = two_sum(lanes[j], chunk[j])
            lanes[j] = s
            lanes_low[j] += e
    while width > 1:
        upper, upper_low = lanes[(width + 1) // 2 : width], lanes_low[(width + 1) // 2 : width]
        for j in range(upper.shape[0]):
            s, e = two_sum(lanes[j], upper[j])
            lanes[j] = s
            lanes_low[j] += upper_low[j] + e
        width -= upper.shape[0]
    return lanes[0], lanes_low[0]
