"""Stage z-loss: squares of log-sum-exps against mpmath; backward against differences."""

import math

import numpy as np
import pytest
from mpmath import mp, mpf

from refloss.engines.dd import DoubleDouble
from refloss.error_free import Pair, high, plain, two_sum
from refloss.stages import z_loss
from support import checks, exact

KINDS = [Pair, DoubleDouble]
LAMBDAS = [1.0, 1e-4, 1e-300, 1e300, 5e-324]


def lse_of(kind, rng):
    """Log-sum-exps of all sizes, as pairs, with 0 and next to it."""
    hi = np.concatenate([rng.standard_normal(20) * 10.0, 10.0 ** rng.uniform(-150.0, 150.0, 20), [0.0, 1.0, -3.0]])
    return kind(*two_sum(hi, rng.uniform(-0.5, 0.5, len(hi)) * np.spacing(np.abs(hi))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", LAMBDAS)
def test_the_square_is_right_relative_to_itself(kind, weight):
    """1u, of the rounding at the end: the products are pairs. What float64 cannot hold is kept until it is plain."""
    lse = lse_of(kind, np.random.default_rng(1))
    with mp.workdps(60):
        true = mp.convert(weight) * (exact.exact(lse.hi) + exact.exact(lse.lo)) ** 2
        slope = 2 * mp.convert(weight) * (exact.exact(lse.hi) + exact.exact(lse.lo))
    terms, saved = z_loss.forward(lse, weight)
    small = abs(true) < mpf(2) ** 1023
    assert small.any()
    assert exact.value_error(high(plain(terms))[small], true[small]) <= 1.0 + 1e-9
    small = abs(slope) < mpf(2) ** 1023
    assert exact.value_error(high(plain(saved.slope))[small], slope[small]) <= 1.0 + 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("lse", "power"), [(1e200, -400), (1e-200, 600)])
def test_a_square_that_float64_cannot_hold_may_be_multiplied_first(kind, lse, power):
    terms, _ = z_loss.forward(kind.of([lse]), 1.0)
    with mp.workdps(60):
        true = mpf(lse) ** 2 * mpf(2) ** power
    assert exact.value_error(high(plain(terms * 2.0**power)), [true]) <= 1.0 + 1e-9


def test_what_is_not_finite_spoils_nothing_else():
    with np.errstate(invalid="ignore"):
        terms, saved = z_loss.forward(Pair.of([math.inf, 4.0, math.nan, -math.inf]), 0.5)
    assert np.isfinite(high(plain(terms))).tolist() == np.isfinite(high(plain(saved.slope))).tolist()
    assert np.isfinite(high(plain(terms))).tolist() == [False, True, False, False]
    assert (high(plain(terms))[1], high(plain(saved.slope))[1]) == (8.0, 4.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [1.0, 1e-4])
def test_backward_against_differences(kind, weight):
    """2u of an entry: the slope 1u, its product 1u."""
    rng = np.random.default_rng(2)
    lse, upstream = rng.standard_normal(6) * 10.0 ** np.arange(-3.0, 3.0), rng.standard_normal(6)
    _, saved = z_loss.forward(kind.of(lse), weight)
    gradient = high(plain(z_loss.backward(upstream, saved)))

    def function(lse):
        return mp.convert(weight) * lse**2

    checks.against_exact_vjp(function, [lse], upstream, [gradient], 2.0 + 1e-9)


def test_saved_is_what_it_says():
    terms, saved = z_loss.forward(Pair.of([3.0, -2.0]), 0.25)
    assert saved._fields == ("slope",)
    assert terms.tolist() == [2.25, 1.0]
    assert saved.slope.tolist() == [1.5, -1.0]
