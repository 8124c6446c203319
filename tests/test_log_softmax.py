"""Stage log-softmax: logarithms of probabilities, their complements and backward against mpmath."""

import math

import numpy as np
import pytest
from mpmath import mp

import refloss
from refloss.engines.dd import DoubleDouble
from refloss.error_free import Pair, high, two_sum
from refloss.stages import log_softmax, softmax
from support import checks, exact


def rows(rng, classes, gap, count=3):
    """Ordinary logits with the largest raised to stand `gap` above the second; one row has a class 700 below."""
    z = np.sort(rng.standard_normal((count, classes)) * 3.0, axis=1)
    if classes > 1:
        z[:, -1] = z[:, -2] + gap
        z[0, 0] = min(z[0, 0], z[0, -1] - 700.0)
    return rng.permuted(z, axis=1)


GAPS = [0.0, 1e-9, 1.0, 20.0, 50.0, 300.0, 690.0]


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
def test_log_probabilities_are_right_relative_to_themselves(classes, gap):
    """7u. At the largest logit 5u: the sum of the others 2u, log1p 2u (a unit in the last place), its correction 1u.

    Elsewhere two more sums, 1u each, of numbers of one sign.
    """
    z = rows(np.random.default_rng(classes), classes, gap)
    log_p, _ = log_softmax.forward(Pair.of(z))
    assert exact.value_error(log_p, exact.log_softmax(z, digits=400)) <= 7.0


def test_the_log_of_what_is_almost_certain():
    """log p = -1e-300 is -1e-300."""
    z = np.array([[0.0, math.log(1e-300)], [-math.log(1e-100), 0.0]])
    log_p = np.asarray(log_softmax.forward(Pair.of(z))[0])
    assert exact.value_error(log_p, exact.log_softmax(z, digits=400)) <= 7.0
    assert math.isclose(log_p[0, 0], -1e-300, rel_tol=1e-13)  # the rounding of log(1e-300), 690u at most
    assert math.isclose(log_p[1, 0], -1e-100, rel_tol=1e-13)


def test_gaps_that_overflow_or_whose_exponentials_underflow():
    """Alone they are infinite, or 0; times something that fits they are not."""
    for z, rounded, factor, true in (
        ([1e308, -1e308], [0.0, -math.inf], 2.0**-60, [0.0, -1e308 * 2.0**-59]),
        (
            [0.0, -800.0],
            [0.0, -800.0],
            2.0**1000,
            [-math.ldexp(math.exp(-400.0), 1000) * math.exp(-400.0), -800.0 * 2.0**1000],
        ),
    ):
        log_p, saved = log_softmax.forward(Pair.of([z]))
        assert np.asarray(log_p).tolist() == [rounded]
        assert np.allclose(np.asarray(log_p * factor), [true], rtol=8.0 * checks.U, atol=0.0)
        assert np.asarray(saved.p).tolist() == [[1.0, 0.0]]
        assert np.array_equal(refloss.log_softmax(z), rounded)


def test_the_low_parts_of_logits_count():
    rng = np.random.default_rng(1)
    z = Pair(*two_sum(1e5 + rng.standard_normal((4, 6)), rng.uniform(-1.0, 1.0, (4, 6)) * 2.0**-38))
    with mp.workdps(60):
        true = exact.log_softmax(exact.exact(z.hi) + exact.exact(z.lo))
    assert exact.value_error(log_softmax.forward(z)[0], true) <= 7.0
    assert exact.value_error(log_softmax.forward(Pair.of(z.hi))[0], true) > 1e3


def test_masked_classes_have_log_probability_minus_infinity():
    z = np.array([[0.0, -np.inf, 1.0], [-np.inf, 2.0, -np.inf]])
    with np.errstate(invalid="ignore"):
        log_p, _ = log_softmax.forward(Pair.of(z))
    assert exact.value_error(log_p, exact.log_softmax(z)) <= 7.0
    assert log_p[1].tolist() == [-np.inf, 0.0, -np.inf]


@pytest.mark.parametrize("row", [[-np.inf, -np.inf], [np.inf, 0.0], [np.inf, np.inf], [np.nan, 0.0], [0.0, np.nan]])
def test_what_has_no_probabilities_is_nan_and_spoils_no_other_row(row):
    with np.errstate(invalid="ignore"):
        log_p, saved = log_softmax.forward(Pair.of([row, [1.0, 2.0]]))
    assert np.isnan(log_p[0]).all()
    assert np.isnan(log_softmax.backward(np.ones((2, 2)), saved)[0]).all()
    assert np.array_equal(log_p[1:], log_softmax.forward(Pair.of([[1.0, 2.0]]))[0])


# ---------------------------------------------------------------------------------------------------------- backward


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_backward_against_differences(classes, gap):
    """9u of |g_k| q_k + p_k times the sum of the others' |g_j|, which is the sum of an entry's absolute terms.

    q 7u, see `softmax`, its product and the difference 1u each; p 6u, the rounded sum, the product, the difference.
    """
    rng = np.random.default_rng(classes)
    z = rows(rng, classes, gap)
    _, saved = log_softmax.forward(Pair.of(z))
    upstream = rng.standard_normal(z.shape) * 10.0 ** rng.uniform(-2.0, 2.0, z.shape)
    gradient = log_softmax.backward(upstream, saved)

    def function(z):
        return exact.log_softmax(z, digits=mp.dps)

    if classes == 1:
        assert not gradient.any()
    else:
        checks.against_exact_vjp(function, [z], upstream, [gradient], 9.0, digits=1200)


@pytest.mark.parametrize("gap", GAPS)
def test_of_a_single_class_the_gradient_is_minus_the_sum_of_the_others(gap):
    """7u of itself where the target is the largest and almost certain: the textbook's 1 - p is 0 there."""
    z = rows(np.random.default_rng(3), 5, gap)
    _, saved = log_softmax.forward(Pair.of(z))
    upstream, target = np.zeros_like(z), (np.arange(3), z.argmax(axis=1))
    upstream[target] = 1.0
    gradient = np.array(log_softmax.backward(upstream, saved))
    true = exact.softmax(z, digits=400)
    true[target] = 0
    with mp.workdps(60):
        others = np.array([mp.fsum(row) for row in true])
    assert exact.value_error(gradient[target], others) <= 7.0
    assert (gradient[target] > 0.0).all()
    gradient[target] = 0.0
    assert exact.value_error(gradient, -true) <= 7.0


@pytest.mark.parametrize("kind", [Pair, DoubleDouble])
@pytest.mark.parametrize("most", [1e30, -1e30])
def test_a_target_far_above_the_others_hides_none_of_them(kind, most):
    """Errors are relative to |g_k| q_k + p_k Σ |g_j| over j ≠ k: for the largest that is 2e-9, and q is 1e-130.

    3u: p, the others' sum and the product. With gradients that need both parts of a pair, T - g_k would be off by u² T.
    """
    z = np.array([[300.0, 0.0, 0.0]])
    g = kind.of(np.array([[most, 1e-9, -2e-9]])) * (1.0 / kind.of(3.0))
    _, saved = log_softmax.forward(kind.of(z))
    gradient = high(log_softmax.backward(g.rounded(), saved))[0, 0]
    assert abs(gradient - 1e-9 / 3.0) <= 3.0 * checks.U * 1e-9


def test_rows_add_up_to_nothing_but_rounding():
    """Each entry is within 9u of its terms, and the terms of a row add up to 2 sum |g| at most."""
    rng = np.random.default_rng(4)
    z, upstream = rows(rng, 20, 1.0, count=10), rng.standard_normal((10, 20))
    _, saved = log_softmax.forward(Pair.of(z))
    gradient = np.asarray(log_softmax.backward(upstream, saved))
    for row, g in zip(gradient, upstream, strict=True):
        assert abs(math.fsum(row)) <= 18.0 * checks.U * math.fsum(np.abs(g))


def test_saved_is_what_softmax_saves():
    z = Pair.of(rows(np.random.default_rng(5), 5, 2.0))
    _, saved = log_softmax.forward(z)
    p, same = softmax.forward(z)
    assert isinstance(saved, softmax.Saved)
    assert np.array_equal(saved.p, p)
    assert np.array_equal(saved.q, same.q)
