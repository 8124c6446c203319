"""Samples: factors that make products of rows logits, and weights of gradients, by head and scale."""

from __future__ import annotations

import numpy as np
import pytest

from refloss.engines.fused.row_scaling import ScaledNumbers
from refloss.engines.fused.samples import Samples
from support.fused_cases import U, ordinary

FLOAT64 = np.dtype(np.float64)
WEIGHT = ScaledNumbers(np.array([0.5, 1.0, -2.0]), None)


@pytest.mark.parametrize("scale", [None, 16.0])
@pytest.mark.parametrize("power", [0, 200])
def test_of_a_margin_head(scale, power):
    x, w, y = ordinary(3, 5, 4)
    samples = Samples.of_margin(np.ldexp(x, power), y, scale, WEIGHT, FLOAT64)
    norm_x, norm_w = np.linalg.norm(x, axis=1), np.linalg.norm(w, axis=1)
    s = np.ldexp(norm_x, power) if scale is None else np.full(3, scale)
    logits = samples.alpha[:, None] * (samples.x.rows @ (w / norm_w[:, None]).T)
    np.testing.assert_allclose(logits, s[:, None] * ((x / norm_x[:, None]) @ (w / norm_w[:, None]).T), rtol=64 * U)
    exponent = 0 if samples.grad_weight.exponent is None else samples.grad_weight.exponent
    np.testing.assert_allclose(np.ldexp(samples.grad_weight.mantissa, exponent), WEIGHT.mantissa * s, rtol=8 * U)
    assert samples.max_product == pytest.approx(s.max(), rel=8 * U)


@pytest.mark.parametrize("sigma", [1.0, 0.125])
@pytest.mark.parametrize("power", [0, 200])
def test_of_a_linear_head(power, sigma):
    """The scale is in the factor of the products; the weight of gradients has it already."""
    x, _, y = ordinary(3, 5, 4)
    samples = Samples.of_linear(np.ldexp(x, power), y, WEIGHT, sigma, FLOAT64)
    assert np.array_equal(samples.alpha[:, None] * samples.x.rows, sigma * np.ldexp(x, power))
    assert samples.max_product == pytest.approx(sigma * np.ldexp(np.linalg.norm(x, axis=1), power).max(), rel=8 * U)
    exponent = 0 if samples.grad_weight.exponent is None else samples.grad_weight.exponent
    weighted = np.ldexp(samples.grad_weight.mantissa, exponent)[:, None] * samples.x.rows
    assert np.array_equal(weighted, WEIGHT.mantissa[:, None] * np.ldexp(x, power))


def test_a_slice_is_that_of_every_number_per_sample():
    x, _, y = ordinary(3, 5, 4)
    x[1] *= 1e-200
    samples = Samples.of_margin(x, y, None, WEIGHT, FLOAT64)
    taken = samples.take(slice(1, 3))
    assert np.array_equal(taken.x.rows, samples.x.rows[1:])
    assert np.array_equal(taken.x.exponent, samples.x.exponent[1:])
    assert np.array_equal(taken.x.norm, samples.x.norm[1:])
    for name in ("y", "alpha"):
        assert np.array_equal(getattr(taken, name), getattr(samples, name)[1:])
    assert np.array_equal(taken.grad_weight.mantissa, samples.grad_weight.mantissa[1:])
