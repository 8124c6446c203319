"""Sweeps over rows in both dtypes, against formulas in float64 and exact sums."""

from __future__ import annotations

import math

import numpy as np
import pytest

import refloss
from refloss.engines.kernels import rows
from refloss.engines.kernels.lanes import LANES, Raise
from refloss.error_free import two_sum
from support.kernel_cases import (
    BITS,
    both,
    cross_entropies,
    depth,
    error_of_sum,
    gradient_of_lse,
    lengths,
    no_gradient_of_lse,
    quiet,
    tile_of,
)


@both
@lengths
@pytest.mark.parametrize("with_gradients", [True, False])
@pytest.mark.parametrize("smoothed", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_exponentials_and_their_sums(dtype, n, with_gradients, smoothed, biased):
    """NumPy makes the same logits, bit for bit: nothing is fused. From there on it is 0.82 ulp, and sums.

    The rounding error of adding the bias is compensated: two roundings more.
    """
    random = np.random.default_rng(n)
    tile, alpha, beta, bias, label_columns = tile_of(random, 4, dtype, n)
    bias = dtype(1000.0) + bias if biased else bias[:0]
    z = tile * alpha[:, None] * beta
    lows = np.zeros(z.shape)
    if biased:
        products = z
        z = products + bias
        lows = two_sum(products, bias)[1] if dtype is np.float64 else products.astype(float) + bias - z
    uniform_targets = random.uniform(0.0, 1.0, n).astype(dtype) if smoothed else np.zeros(0, dtype)
    row_max, max_low, sum_exp_minus_one, target_gap = state = np.empty((4, 4))
    with quiet():
        options = uniform_targets, dtype(0.0), rows.no_hard_classes(np.dtype(dtype))
        rows.exponentials(tile, alpha, beta, bias, label_columns, *options, with_gradients, *state)
    for i, row in enumerate(z):
        visible = [k for k in range(n) if k != label_columns[i]]
        if not visible:
            assert tuple(state[:, i]) == (-np.inf, 0.0, 0.0, 0.0)
            assert not tile[i].any()
            continue
        largest = row[visible].max()
        argmax = int(np.flatnonzero(row == largest)[0])
        gaps = (row[visible] - largest).astype(np.float64)  # rounded as the kernel rounds them
        u, rounded = 2.0 ** -BITS[dtype], 2.0
        e = np.exp(gaps)
        if biased:
            gaps, gaps_low = two_sum(row[visible].astype(np.float64), -np.float64(largest))
            gaps_low += lows[i][visible] - lows[i][argmax]
            e, gaps, rounded = np.exp(gaps) * (1.0 + gaps_low), gaps + gaps_low, 6.0
        terms = [v for k, v in zip(visible, e, strict=True) if k != argmax]
        assert (row_max[i], max_low[i]) == (largest, lows[i][argmax])
        assert abs(sum_exp_minus_one[i] - math.fsum(terms)) <= (rounded * u + depth(n) * 2.0**-53) * math.fsum(terms)
        if smoothed:
            slack = 2.0 + (u * 2.0**53 if biased else 0.0)  # in float32 low parts are subtracted in float32
            assert error_of_sum(target_gap[i], (uniform_targets[visible] * -gaps).tolist()) <= depth(n) + slack
        else:
            assert target_gap[i] == 0.0
        if with_gradients:
            expected = np.zeros(n)
            expected[visible] = e * beta[visible]  # these, and the kernel's, are within 2u; products within 1u
            np.testing.assert_allclose(tile[i], expected, rtol=(4.0 + rounded) * u, atol=4.0 * np.finfo(dtype).tiny)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_of_equal_logits_the_largest_is_that_which_lost_most(dtype):
    """Biases below half a unit of the products, which they leave as they are: the exponentials are those of biases."""
    size, bias = dtype(2.0 ** (60 if dtype == np.float64 else 31)), np.array([1.0, 2.0, -3.0, 2.0], dtype)
    tile, ones = np.full((1, 4), size), np.ones(4, dtype)
    row_max, max_low, sum_exp_minus_one, _ = state = [np.empty(1) for _ in range(4)]
    with quiet():
        options = ones[:0], dtype(0.0), rows.no_hard_classes(np.dtype(dtype))
        rows.exponentials(tile, ones[:1], ones, bias, np.array([-1]), *options, True, *state)
    assert (row_max[0], max_low[0]) == (size, 2.0)
    expected = np.exp([-1.0, 0.0, -5.0, 0.0])
    assert np.abs(tile[0] / expected - 1.0).max() <= 2.0 * np.finfo(dtype).eps  # an ulp each, and one to round expected
    assert abs(sum_exp_minus_one[0] / (1.0 + expected[[0, 2]].sum()) - 1.0) <= 4.0 * np.finfo(dtype).eps


@both
@pytest.mark.parametrize("classes", [1, 2, 5, LANES, 2 * LANES + 3])
def test_cross_entropy_of_rows(dtype, classes):
    """Against the formula in float64, from which float32 is far enough: 16u of the terms.

    test_fused.py tests the accuracy of float64 against mpmath.
    """
    u = 16.0 * 2.0 ** -BITS[dtype]
    for case in cross_entropies(np.random.default_rng(classes), dtype, classes):
        with quiet():
            rows.cross_entropy(*case)
        z, label, label_target, t, row_weight, lse_weight, lse_slope, kept, with_gradients, losses, lse, dz = case
        assert not len(lse_weight)
        assert not len(lse_slope)
        for i, row in enumerate(z.astype(np.float64)):
            if not kept[i]:
                assert losses[i] == lse[i] == 0.0
                assert not with_gradients or not dz[i].any()
                continue
            targets = np.zeros(classes) if not len(t) else t[min(i, len(t) - 1)].astype(np.float64)
            if label[i] >= 0:
                targets[label[i]] = label_target[i]
            if np.isnan(row).any() or not np.isfinite(row.max()):
                assert np.isnan(losses[i])  # 0 times NaN too
                assert np.isnan(lse[i])
                assert not with_gradients or np.isnan(dz[i]).all()
                continue
            minus_log_p, p = refloss.logsumexp(row) - row, refloss.softmax(row)
            assert abs(lse[i] - refloss.logsumexp(row)) <= u * (np.abs(row[p > 0]).max() + math.log(classes))
            with quiet():
                terms = np.where(targets > 0.0, targets * minus_log_p, 0.0)
            if np.isfinite(terms).all():
                assert abs(losses[i] - terms.sum()) <= u * (terms.sum() + targets.sum() * np.abs(row[p > 0]).max())
            if with_gradients:
                size = targets.sum() * p + targets
                error = np.abs(dz[i] - float(row_weight[i]) * (targets.sum() * p - targets))
                assert (error <= u * abs(float(row_weight[i])) * size).all()


@both
@lengths
@pytest.mark.parametrize("with_gradients", [True, False])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("cap", [2.0, 50.0])
def test_exponentials_of_capped_logits(dtype, n, with_gradients, biased, cap):
    """Logits are products and biases, rounded; capped, they are those of `cap_row`, and exponentials times slopes."""
    random = np.random.default_rng(n)
    tile, alpha, beta, bias, label_columns = tile_of(random, 4, dtype, n)
    bias = bias if biased else bias[:0]
    z = tile * alpha[:, None] * beta
    z = z + bias if biased else z
    capped, slopes = np.empty_like(z), np.empty_like(z)
    state = np.empty((4, 4))
    with quiet():
        for row, capped_row, slope in zip(z, capped, slopes, strict=True):
            rows.cap_row(row, dtype(1.0), dtype(cap), capped_row, slope)
        options = bias[:0], dtype(cap), rows.no_hard_classes(np.dtype(dtype))
        rows.exponentials(tile, alpha, beta, bias, label_columns, *options, with_gradients, *state)
    row_max, max_low, sum_exp_minus_one, target_gap = state
    u = 2.0 ** -BITS[dtype]
    for i, row in enumerate(capped):
        visible = [k for k in range(n) if k != label_columns[i]]
        if not visible:
            assert tuple(state[:, i]) == (-np.inf, 0.0, 0.0, 0.0)
            continue
        largest = row[visible].max()
        e = np.exp((row[visible] - largest).astype(np.float64))
        if biased:  # then gaps are compensated
            gaps, lows = two_sum(row[visible].astype(np.float64), -np.float64(largest))
            e = np.exp(gaps) * (1.0 + lows)
        argmax = int(np.flatnonzero(row[visible] == largest)[0])
        terms = np.delete(e, argmax).tolist()
        assert (row_max[i], max_low[i], target_gap[i]) == (largest, 0.0, 0.0)
        allowed = ((6.0 if biased else 2.0) * u + depth(n) * 2.0**-53) * math.fsum(terms)
        assert abs(sum_exp_minus_one[i] - math.fsum(terms)) <= allowed
        if with_gradients:
            expected = np.zeros(n)
            expected[visible] = e * beta[visible] * slopes[i][visible]
            rtol = (9.0 + (4.0 if biased else 0.0)) * u
            np.testing.assert_allclose(tile[i], expected, rtol=rtol, atol=4.0 * np.finfo(dtype).tiny)


@both
@lengths
@pytest.mark.parametrize("with_gradients", [True, False])
def test_exponentials_of_hard_logits(dtype, n, with_gradients):
    """NumPy makes the same logits and slopes, bit for bit; those that are known replace them."""
    random = np.random.default_rng(n)
    tile, alpha, beta, bias, label_columns = tile_of(random, 4, dtype, n)
    threshold = dtype([-np.inf, 0.0, 3.0, np.inf])
    one, a, b, c = settings = Raise(*map(dtype, (1.0, 0.01, 0.5, 2.0)))
    z = tile * alpha[:, None] * beta
    is_hard = z > threshold[:, None]
    slopes = np.where(is_hard, a * z + a * z + b, one)
    z = np.where(is_hard, (a * z + b) * z + c, z)
    columns = np.array([k for k in {0, n - 1} if k != label_columns[1]], np.int64)
    z[1, columns], slopes[1, columns] = 1.5, -2.0
    counts = np.array([0, 0, len(columns), len(columns), len(columns)])
    known = rows.Known(counts, columns, *(np.full(len(columns), number, dtype) for number in (1.5, -2.0)))
    state = np.empty((4, 4))
    with quiet():
        options = bias[:0], dtype(0.0), rows.Hard(threshold, settings, known)
        rows.exponentials(tile, alpha, beta, bias[:0], label_columns, *options, with_gradients, *state)
    row_max, max_low, sum_exp_minus_one, target_gap = state
    assert not max_low.any()
    assert not target_gap.any()
    u = 2.0 ** -BITS[dtype]
    for i, row in enumerate(z):
        visible = [k for k in range(n) if k != label_columns[i]]
        if not visible:
            assert row_max[i] == -np.inf
            continue
        largest = row[visible].max()
        argmax = visible[int(row[visible].argmax())]
        assert row_max[i] == largest
        e = np.exp((row[visible] - largest).astype(np.float64))
        terms, tiny = [v for k, v in zip(visible, e, strict=True) if k != argmax], np.finfo(dtype).tiny
        allowed = (2.0 * u + depth(n) * 2.0**-53) * math.fsum(terms) + n * tiny
        assert abs(sum_exp_minus_one[i] - math.fsum(terms)) <= allowed
        if with_gradients:
            expected = np.zeros(n)
            expected[visible] = e * beta[visible] * slopes[i][visible]
            np.testing.assert_allclose(tile[i], expected, rtol=7.0 * u, atol=4.0 * tiny)


@both
@lengths
@pytest.mark.parametrize("reach", [0.0, 0.5, 100.0])  # few, some, all
def test_near_threshold(dtype, n, reach):
    random = np.random.default_rng(n)
    tile, alpha, beta, _, label_columns = tile_of(random, 4, dtype, n)
    z = tile * alpha[:, None] * beta
    threshold = z[:, n // 2].copy()  # to which one is exactly equal
    threshold[3] = np.nan
    near = np.abs(z - threshold[:, None]) <= dtype(reach)
    near[np.arange(4)[label_columns >= 0], label_columns[label_columns >= 0]] = False
    with quiet():
        first, columns = rows.near_threshold(tile, alpha, beta, label_columns, threshold, dtype(reach))
    assert list(first) == [0, *np.cumsum(near.sum(axis=1))]
    assert list(columns) == list(np.nonzero(near)[1])


def capped_formula(row, sigma, cap):
    """Scaled and capped logits, and slopes, in float64: 1 - tanh² from exponentials."""
    if not cap:
        return sigma * row, np.full(row.shape, sigma)
    e = np.exp(-2.0 * sigma * np.abs(row) / cap)
    return cap * np.tanh(sigma * row / cap), sigma * 4.0 * e / (1.0 + e) ** 2


@both
@pytest.mark.parametrize("classes", [1, 2, 5, LANES, 2 * LANES + 3])
@pytest.mark.parametrize(("sigma", "cap"), [(0.5, 3.0), (1.0, 30.0), (0.25, 0.0)])
@pytest.mark.parametrize("given", [no_gradient_of_lse, gradient_of_lse])
def test_capped_cross_entropy_of_rows(dtype, classes, sigma, cap, given):
    """Against the formula in float64: 24u, and 16u (S + 2σ|z|/K) of the terms, see `contract.promise`.

    test_logit_options.py tests the accuracy of float64 against mpmath.
    """
    for case in cross_entropies(np.random.default_rng(classes), dtype, classes, given):
        with quiet():
            rows.capped_cross_entropy(dtype(sigma), dtype(cap), *case)
        hold_to_the_formula(case, sigma, cap)


@both
@pytest.mark.parametrize("classes", [1, 2, 5, 2 * LANES + 3])
def test_gradients_of_log_sum_exps_of_rows(dtype, classes):
    for case in cross_entropies(np.random.default_rng(classes), dtype, classes, gradient_of_lse):
        with quiet():
            rows.cross_entropy(*case)
        hold_to_the_formula(case, 1.0, 0.0)


def hold_to_the_formula(case, sigma, cap):
    z, label, label_target, t, row_weight, lse_weight, lse_slope, kept, with_gradients, losses, lse, dz = case
    classes = z.shape[1]
    for i, row in enumerate(z.astype(np.float64)):
        if not kept[i]:
            assert losses[i] == lse[i] == 0.0
            assert not with_gradients or not dz[i].any()
            continue
        with quiet():
            logits, slopes = capped_formula(row, sigma, cap)
        if np.isnan(logits).any() or not np.isfinite(logits.max()):
            assert np.isnan(losses[i])
            assert np.isnan(lse[i])
            assert not with_gradients or np.isnan(dz[i]).all()
            continue
        targets = np.zeros(classes) if not len(t) else t[min(i, len(t) - 1)].astype(np.float64)
        if label[i] >= 0:
            targets[label[i]] = label_target[i]
        minus_log_p, p, true = refloss.logsumexp(logits) - logits, refloss.softmax(logits), refloss.logsumexp(logits)
        with quiet():
            finite = np.where(np.isfinite(row), row, 0.0)
            ratio = 2.0 * sigma * np.abs(finite).max() / cap if cap else 0.0
            terms = np.where(targets > 0.0, targets * minus_log_p, 0.0)
        largest = np.abs(logits[p > 0]).max()
        u = (24.0 + 16.0 * (1.0 + largest + ratio)) * np.finfo(z.dtype).eps / 2.0
        assert abs(lse[i] - true) <= u * (1.0 + largest + math.log(classes))
        if np.isfinite(terms).all():
            assert abs(losses[i] - terms.sum()) <= u * (terms.sum() + targets.sum() * largest)
        if with_gradients:
            of_lse = float(lse_weight[i] + lse_slope[i] * true) if len(lse_weight) else 0.0
            size = abs(float(row_weight[i])) * (targets.sum() * p + targets)
            if len(lse_weight):
                size += (abs(lse_weight[i]) + abs(lse_slope[i]) * (abs(true) + 1.0 + largest + math.log(classes))) * p
            expected = (float(row_weight[i]) * (targets.sum() * p - targets) + of_lse * p) * slopes
            assert (np.abs(dz[i] - expected) <= 2.0 * u * size * slopes + np.finfo(z.dtype).tiny).all()


@both
@lengths
def test_project_leaves_nothing_along_the_class(dtype, n):
    random = np.random.default_rng(n)
    x, w = random.standard_normal((2, 3, n)).astype(dtype)
    beta = np.array([1.0 / math.sqrt(math.fsum((own * own).tolist())) for own in w.astype(np.float64)], dtype)
    projected = x.copy()
    rows.project(projected, w, beta)
    u = 2.0 ** -BITS[dtype]
    for row, own, rest in zip(x.astype(np.float64), w.astype(np.float64), projected, strict=True):
        along = math.fsum((row * own).tolist()) / math.fsum((own * own).tolist())
        size = np.abs(row * own).sum() / (own @ own)
        # beta is within 2u (3u in float32) and counts twice; three products, a difference, roundings of the dtype
        allowed = (depth(n) + 11) * u * size * np.abs(own) + u * np.abs(row)
        assert (np.abs(rest - (row - along * own)) <= allowed).all()


@both
@lengths
def test_subtract_outer_is_numpy_s_own_arithmetic(dtype, n):
    random = np.random.default_rng(n)
    x, factor, vector = (random.standard_normal(shape).astype(dtype) for shape in ((3, n), 3, n))
    expected = x - factor[:, None] * vector
    rows.subtract_outer(x, factor, vector)
    assert np.array_equal(x, expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_weighted_sum(dtype):
    """Two products and a sum, each rounded: 2u of the terms."""
    random = np.random.default_rng(5)
    a, b = random.standard_normal((2, 3, 7)).astype(dtype)
    f, g = random.standard_normal((2, 3)).astype(dtype)
    out = np.empty_like(a)
    rows.weighted_sum(a, f, b, g, out)
    terms = [x.astype(np.float64) * factor[:, None] for x, factor in ((a, f), (b, g))]
    assert (np.abs(out - sum(terms)) <= np.finfo(dtype).eps * sum(map(np.abs, terms))).all()


# -------------------------------------------------------------------------------------------------- centers of a class


@both
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_all_but_the_nearest_of_a_class_are_left_out(dtype, count):
    random = np.random.default_rng(count)
    tile = random.standard_normal((6, 20 * count)).astype(dtype)
    beta = random.uniform(0.5, 2.0, 20 * count).astype(dtype)
    label_columns = np.array([-1, 0, 3 * count, 20 * count - 1, 7 * count + count // 2, -1])
    before, by_class = tile.copy(), (tile * beta).reshape(6, 20, count)
    with quiet():
        n, k = rows.keep_nearest(tile, beta, label_columns, count, np.zeros(6), dtype(-np.inf))
    assert len(n) == len(k) == 0
    kept = (by_class == by_class.max(axis=2, keepdims=True)).reshape(6, -1)
    own = label_columns // count
    kept &= np.repeat(np.arange(20), count) != np.where(own < 0, -1, own)[:, None]
    assert np.array_equal(tile, np.where(kept, before, -np.inf))


@both
def test_near_ties_are_left_as_they_are_and_named(dtype):
    """The largest two of a class apart by the reach, or less; without the label's class, where nothing counts."""
    tile = np.array([[0.5, 0.25, 0.5, 0.375, -1.0, -1.0], [0.5, 0.25, 1.0, 0.5, 0.25, 0.25]] * 20, dtype)
    label_columns = np.array([-1, 5] * 20)
    reach = np.array([0.125, 0.25] * 20)
    before = tile.copy()
    with quiet():
        n, k = rows.keep_nearest(tile, np.ones(6, dtype), label_columns, 2, reach, dtype(-np.inf))
    assert list(zip(n[:3].tolist(), k[:3].tolist(), strict=True)) == [(0, 1), (0, 2), (1, 0)]
    assert len(n) == 60
    assert np.array_equal(tile[0], [0.5, -np.inf, *before[0, 2:]])
    assert np.array_equal(tile[1], [0.5, 0.25, 1.0, -np.inf, -np.inf, -np.inf])
