"""Sweeps over rows in both dtypes, against formulas in float64 and exact sums."""

from __future__ import annotations

import math

import numpy as np
import pytest

import refloss
from refloss.engines.kernels import rows
from refloss.engines.kernels.lanes import LANES
from refloss.error_free import two_sum
from support.kernel_cases import BITS, both, cross_entropies, depth, error_of_sum, lengths, quiet, tile_of


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
        rows.exponentials(tile, alpha, beta, bias, label_columns, uniform_targets, with_gradients, *state)
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
        rows.exponentials(tile, ones[:1], ones, bias, np.array([-1]), ones[:0], True, *state)
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
        z, label, label_target, t, row_weight, kept, with_gradients, losses, dz = case
        for i, row in enumerate(z.astype(np.float64)):
            if not kept[i]:
                assert losses[i] == 0.0
                assert not with_gradients or not dz[i].any()
                continue
            targets = np.zeros(classes) if not len(t) else t[min(i, len(t) - 1)].astype(np.float64)
            if label[i] >= 0:
                targets[label[i]] = label_target[i]
            if np.isnan(row).any() or not np.isfinite(row.max()):
                assert np.isnan(losses[i])  # 0 times NaN too
                assert not with_gradients or np.isnan(dz[i]).all()
                continue
            minus_log_p, p = refloss.logsumexp(row) - row, refloss.softmax(row)
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
