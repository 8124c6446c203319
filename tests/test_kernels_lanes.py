"""Maxima and sums of rows against exact sums, for lengths around multiples of `LANES`."""

from __future__ import annotations

import math

import numpy as np
import pytest

from refloss.engines.kernels import lanes
from refloss.engines.kernels.hyperbolic import Cap, cap_settings
from refloss.engines.kernels.lanes import LANES
from refloss.engines.kernels.rows import cap_row
from support.kernel_cases import BITS, both, depth, error_of_sum, lengths, quiet


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
def test_scale_and_raise(dtype, n):
    """Bit for bit what NumPy makes; what is masked stays so, and a NaN is not hard."""
    random = np.random.default_rng(n)
    row, factors = random.standard_normal((2, n)).astype(dtype)
    row[0], row[-1] = -np.inf, np.nan
    one, a, b, c = settings = lanes.Raise(*map(dtype, (1.0, 0.5, -0.3, 0.7)))
    with quiet():
        z = row * dtype(3.0) * np.abs(factors)
        expected = np.where(z > dtype(0.2), (a * z + b) * z + c, z), np.where(z > dtype(0.2), a * z + a * z + b, one)
        slopes, count = np.empty_like(row), int((np.abs(z - dtype(0.2)) <= dtype(0.5)).sum())
        assert lanes.count_near(row, dtype(3.0), np.abs(factors), dtype(0.2), dtype(0.5)) == count
        lanes.scale_and_raise(row, dtype(3.0), np.abs(factors), dtype(0.2), settings, slopes)
    np.testing.assert_array_equal(row, expected[0])
    np.testing.assert_array_equal(slopes, expected[1])


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


@both
@lengths
@pytest.mark.parametrize("reach", [0.3, 3.0, 60.0])  # of |σz/K|: all by the polynomial, some, few
def test_capped_exp_sum(dtype, n, reach):
    """Against the capped logits that the kernel itself has, from which on exponentials are within an ulp."""
    random = np.random.default_rng(n)
    z = (random.uniform(-reach, reach, n) * 30.0).astype(dtype)
    with quiet():
        settings = Cap(
            *map(dtype, cap_settings(dtype(1.0), dtype(30.0)))
        )  # of a compiled function Python's floats come
        logits, slopes = np.empty_like(z), np.empty_like(z)
        cap_row(z, dtype(1.0), dtype(30.0), logits, slopes)
        argmax = int(z.argmax())
        out, scratch = np.empty(n, dtype), (np.empty(LANES, dtype), np.empty(LANES, dtype))
        total = lanes.capped_exp_sum(z, logits[argmax], argmax, settings, out, *scratch)
    e = np.exp((logits - logits[argmax]).astype(np.float64))
    u = 2.0 ** -BITS[dtype]
    terms = np.delete(e, argmax).tolist()
    assert error_of_sum(total, terms, BITS[dtype]) <= depth(n) + 2
    np.testing.assert_allclose(out, e * slopes, rtol=3.0 * u, atol=4.0 * np.finfo(dtype).tiny)
