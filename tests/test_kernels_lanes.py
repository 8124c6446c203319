"""Maxima and sums of rows against exact sums, for lengths around multiples of `LANES`."""

from __future__ import annotations

import math

import numpy as np

from refloss.engines.kernels import lanes
from refloss.engines.kernels.lanes import LANES
from support.kernel_cases import BITS, both, depth, error_of_sum, lengths


@both
@lengths
def test_max_of(dtype, n):
    row, scratch = np.random.default_rng(n).standard_normal(n).astype(dtype), np.empty(LANES, dtype)
    assert lanes.max_of(row, scratch) == row.max()
    for at in {0, n // 2, n - 1}:
        with_peak = row.copy()
        with_peak[at] = 100.0
        assert lanes.max_of(with_peak, scratch) == 100.0
    row[:] = -np.inf
    assert lanes.max_of(row, scratch) == -np.inf
    row[n // 2] = np.nan  # is ignored
    assert lanes.max_of(row, scratch) == -np.inf
    row[n - 1] = np.inf
    assert lanes.max_of(row, scratch) == np.inf


@both
@lengths
def test_sums_of_rows(dtype, n):
    random, scratch = np.random.default_rng(n), np.empty(LANES)
    a, b = random.standard_normal((2, n)).astype(dtype)
    assert error_of_sum(lanes.sum_of(a, scratch), a.tolist()) <= depth(n)
    products = a.astype(np.float64) * b  # of float32 they are exact
    assert error_of_sum(lanes.dot(a, b, np.empty(LANES, dtype)), products.tolist(), BITS[dtype]) <= depth(n) + 1
    t, largest = np.abs(b), a.max()
    terms = (t.astype(np.float64) * (largest - a)).tolist()
    assert error_of_sum(lanes.gap_sum(a, largest, t, scratch), terms) <= depth(n) + 1
    a[n // 2] = -np.inf  # infinite gaps are not counted
    terms[n // 2] = 0.0
    if a.max() == largest:
        assert error_of_sum(lanes.gap_sum(a, largest, t, scratch), terms) <= depth(n) + 1


@both
@lengths
def test_compensated_sum_has_twice_the_digits(dtype, n):
    random = np.random.default_rng(n)
    row = (random.standard_normal(n) * 10.0 ** random.uniform(-5.0, 5.0, n)).astype(dtype)
    if n > 2:
        row[: n // 2] = -row[-(n // 2) :]  # cancels
    scratch, scratch_low = np.empty(LANES, dtype), np.empty(LANES, dtype)
    v = 2.0 ** -BITS[dtype]
    true, size = math.fsum(row.tolist()), math.fsum(np.abs(row).tolist())
    computed = float(lanes.compensated_sum(row, scratch, scratch_low))
    assert abs(computed - true) <= v * abs(true) + 2.0 * depth(n) ** 2 * v**2 * size


def test_index_of_is_the_first_index():
    row = np.arange(2.0 * LANES + 5.0)
    for at in (0, 1, LANES - 1, LANES, 2 * LANES + 4):
        assert lanes.index_of(row, float(at)) == at
    row[LANES + 2] = 1.0
    assert lanes.index_of(row, 1.0) == 1
    assert lanes.index_of(row, -1.0) == 0
