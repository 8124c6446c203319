"""Stage log-sum-exp: values against mpmath, the gradient against differences."""

import math

import numpy as np
import pytest
from mpmath import mp, mpf

from refloss.engines.dd import DoubleDouble
from refloss.error_free import Pair, high, plain, two_sum
from refloss.stages import logsumexp, softmax
from support import checks, exact

GAPS = [0.0, 1e-9, 1.0, 20.0, 50.0, 300.0, 690.0]
KINDS = [Pair, DoubleDouble]


def rows(rng, classes, gap, count=3):
    """Ordinary logits with the largest raised to stand `gap` above the second; one row has a class 700 below."""
    z = np.sort(rng.standard_normal((count, classes)) * 3.0, axis=1)
    if classes > 1:
        z[:, -1] = z[:, -2] + gap
        z[0, 0] = min(z[0, 0], z[0, -1] - 700.0)
    return rng.permuted(z, axis=1)


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
def test_logsumexp(classes, gap):
    """The largest is exact, the log has 5u of itself, which is log C at most, and the sum 1u: 6u of both together."""
    z = rows(np.random.default_rng(classes), classes, gap)
    true = exact.logsumexp(z, digits=400)
    sizes = np.abs(z.max(axis=1)) + math.log(classes)
    assert exact.value_error(logsumexp.forward(Pair.of(z))[0].hi, true, sizes) <= 6.0


@pytest.mark.parametrize("gap", GAPS)
def test_on_wider_pairs_it_is_right_to_their_bits(gap):
    """100 bits of what is added up: 2^-93, see the promise of dd; and 1u of the largest, which is a float."""
    z = rows(np.random.default_rng(7), 6, gap)
    lse, _ = logsumexp.forward(DoubleDouble.of(z))
    with mp.workdps(60):
        sums = exact.exact(lse.hi) + exact.exact(lse.lo)
        error = abs(sums - exact.logsumexp(z, digits=400))
        assert (error <= mpf(2) ** -92 * (np.abs(z.max(axis=1)) + math.log(6.0))).all()


def test_logsumexp_of_anything():
    z = np.array([[-np.inf, -np.inf], [np.inf, 0.0], [np.inf, np.inf], [np.inf, -np.inf], [-np.inf, 3.0]])
    assert logsumexp.forward(Pair.of(z))[0].hi.tolist() == [-np.inf, np.inf, np.inf, np.inf, 3.0]
    with np.errstate(invalid="ignore"):
        assert np.isnan(logsumexp.forward(Pair.of([[np.nan, np.inf], [0.0, np.nan]]))[0].hi).all()


def test_logsumexp_facts():
    """From max to max + log C, which identical logits reach; it moves with the logits; it cancels at -log C."""
    rng = np.random.default_rng(2)
    z = rng.standard_normal((50, 7)) * 10.0 ** rng.uniform(-3.0, 3.0, (50, 1))
    log_sums = logsumexp.forward(Pair.of(z))[0].hi
    largest = z.max(axis=1)
    error = 6.0 * checks.U * (np.abs(largest) + math.log(7.0))
    assert (log_sums >= largest).all()
    assert (log_sums - largest <= math.log(7.0) + error).all()
    alike = logsumexp.forward(Pair.of(np.full((1, 8), 5.0)))[0].hi
    assert math.isclose(alike[0], 5.0 + math.log(8.0), rel_tol=1e-15)
    moved = logsumexp.forward(Pair.of(z + 1024.0))[0].hi
    # Both have their error, and moving rounds the logits, 1u of them.
    assert (np.abs(moved - (log_sums + 1024.0)) <= 2.0 * error + 8.0 * checks.U * (1024.0 + np.abs(z).max())).all()
    at_zero = logsumexp.forward(Pair.of(np.full((1, 4), -math.log(4.0))))[0].hi
    assert abs(at_zero[0]) <= (6.0 + 6.0 + 1.0) * checks.U * math.log(4.0)


def test_the_low_part_of_the_largest_counts():
    z = Pair(*two_sum(np.array([[1e5, 0.0]]), np.array([[2.0**-38, 0.0]])))
    with mp.workdps(60):
        true = mpf(1e5) + mpf(2) ** -38
        lse = logsumexp.forward(z)[0]
        assert abs(mpf(float(lse.hi[0])) + mpf(float(lse.lo[0])) - true) <= mpf(2) ** -100 * true


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_backward_against_differences(classes, gap, kind):
    """7u of an entry: p 6u, see `softmax`, and its product 1u. With one class the gradient is handed on as it is."""
    rng = np.random.default_rng(classes)
    z = rows(rng, classes, gap)
    _, saved = logsumexp.forward(kind.of(z))
    upstream = rng.standard_normal(3) * 10.0 ** rng.uniform(-2.0, 2.0, 3)
    gradient = high(plain(logsumexp.backward(upstream, saved)))

    def function(z):
        return exact.logsumexp(z, digits=mp.dps)

    if classes == 1:
        assert np.array_equal(gradient, upstream[:, None])
    else:
        checks.against_exact_vjp(function, [z], upstream, [gradient], 7.0, digits=1200)


def test_known_exponentials_are_taken_as_they_are():
    """Saved is what softmax saves; with it given, nothing is computed again."""
    z = Pair.of(rows(np.random.default_rng(3), 5, 1.0))
    parts = softmax.exponentials(z)
    lse, saved = logsumexp.forward(z, parts)
    assert saved is parts
    assert np.array_equal(lse.hi, logsumexp.forward(z)[0].hi)
    assert np.array_equal(plain(logsumexp.backward(np.ones(3), saved)), np.asarray(softmax.forward(z)[0]))
