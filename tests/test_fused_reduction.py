"""Reduction: the loss of rows, and the weight of each row in the gradient."""

from __future__ import annotations

import numpy as np
import pytest

from refloss.engines.fused.headroom import TooLargeError
from refloss.engines.fused.reduction import reduced, row_weights, with_row_terms

FLOAT64, FLOAT32 = np.dtype(np.float64), np.dtype(np.float32)


def test_losses_are_reduced_and_a_sum_that_overflows_is_refused():
    losses = np.array([1.0, 2.0, 5.0])
    assert reduced(losses, "sum", np.asarray(4.0)) == 8.0
    assert reduced(losses, "mean", np.asarray(4.0)) == 2.0
    assert np.array_equal(reduced(losses, "none", np.asarray(4.0)), losses)
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(TooLargeError):
        reduced(np.array([1e308, 1e308]), "sum", np.asarray(1.0))
    with np.errstate(invalid="ignore"):
        assert reduced(np.array([np.inf, 1.0]), "sum", np.asarray(1.0)) == np.inf
        assert np.isnan(reduced(np.empty(0), "mean", np.asarray(np.nan)))


def test_ordinary_weights_are_numbers():
    weights = row_weights(np.asarray(3.0), "mean", np.asarray(4.0), 2, FLOAT64)
    assert weights.mantissa.tolist() == [0.75, 0.75]
    assert weights.exponent is None


@pytest.mark.parametrize(
    ("upstream", "divisor", "dtype"), [(1e-200, 4.0, FLOAT64), (1e-200, 1e25, FLOAT64), (2.0, 1e10, FLOAT32)]
)
def test_weights_near_the_ends_of_the_range_have_one_exponent_per_row(upstream, divisor, dtype):
    weights = row_weights(np.asarray(upstream), "mean", np.asarray(divisor), 3, dtype)
    assert weights.exponent.shape == (3,)
    assert (np.abs(weights.mantissa) <= 1.0).all()
    np.testing.assert_allclose(np.ldexp(weights.mantissa, weights.exponent), upstream / divisor, rtol=1e-15)


def test_upstream_gradients_of_rows_have_exponents_of_their_own():
    weights = row_weights(np.array([1e-200, 1.0]), "none", np.asarray(1.0), 2, FLOAT64)
    assert np.ldexp(weights.mantissa, weights.exponent).tolist() == [1e-200, 1.0]


def test_row_terms_have_a_mean_of_their_own():
    loss, terms = np.asarray(2.0), np.array([1.0, 2.0, 6.0])
    assert with_row_terms(loss, None, "mean") is loss
    assert with_row_terms(loss, terms, "mean") == 5.0
    assert with_row_terms(loss, terms, "sum") == 11.0
    assert with_row_terms(terms, terms, "none").tolist() == [2.0, 4.0, 12.0]
    with np.errstate(invalid="ignore"):
        assert np.isnan(with_row_terms(np.asarray(np.nan), np.empty(0), "mean"))
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(TooLargeError):
        with_row_terms(loss, np.array([1e308, 1e308]), "mean")
