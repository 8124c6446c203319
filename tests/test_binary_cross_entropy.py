"""Stage binary_cross_entropy: softplus and sigmoid against mpmath, each to its own digits; backward by differences."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp, mpf

from refloss.engines.dd import DoubleDouble
from refloss.error_free import Pair, high, plain, two_sum
from refloss.stages import binary_cross_entropy
from refloss.stages.binary_cross_entropy import PLAIN, Settings
from support import checks, exact

kinds = pytest.mark.parametrize("kind", [Pair, DoubleDouble])
OTHERS = PLAIN._replace(positive=Fraction(0))
"""The target's answer does not count, so what is left of two classes is one softplus."""
WEIGHTS = [PLAIN, Settings(Fraction(7, 4), Fraction(3, 4)), Settings(Fraction(0.7), 1 - Fraction(0.7))]


def everywhere():
    """Logits from -700 to 700, towards 0 from both sides, and around where digits are lost in other forms (E,)."""
    sizes = np.concatenate([10.0 ** -np.arange(0.0, 301.0, 20.0), [0.5, 0.693, 0.7, 2.0, 18.0, 20.0, 30.0, 36.5, 37.5]])
    return np.concatenate([np.linspace(-700.0, 700.0, 141), sizes, -sizes, [0.0]])


def softplus(a):
    return mp.log1p(mp.exp(a))


def sigmoid(a):
    return 1 / (1 + mp.exp(-a))


def weights_of(settings):
    """Both weights; they are float64 numbers, or their differences from 1."""
    with mp.workdps(60):
        return [mpf(it.numerator) / it.denominator for it in (settings.positive, settings.negative)]


def of_answers(z, kind, *, yes):
    """Losses and slopes of logits, every one by itself: of targets, or of classes that are none."""
    pair = kind.of(np.asarray(z))
    if yes:
        loss, saved = binary_cross_entropy.forward(pair[:, None], np.zeros(len(z), np.int64), PLAIN)
        return high(plain(loss)), high(plain(saved.slope))[:, 0]
    both = kind(*(np.stack([np.zeros(len(z)), part], axis=1) for part in (pair.hi, pair.lo)))
    loss, saved = binary_cross_entropy.forward(both, np.zeros(len(z), np.int64), OTHERS)
    return high(plain(loss)), high(plain(saved.slope))[:, 1]


@kinds
@pytest.mark.parametrize("yes", [True, False])
def test_softplus_and_sigmoid_have_their_own_digits(yes, kind):
    """Value 5u, slope 4u; from double-double 1.1u.

    The exponential 1u and what is beside it in the pair 1u, which log1p and sigma pass on at most; log1p 1u and its
    own 1u; rounding 1u. Sigma has a sum and a quotient, 1u each. With double-double all of these are 2^-90, the
    smallest exponential having 2^-1074 / e^-700 = 2^-64 of itself, and the rounding is left.
    """
    z = everywhere()
    loss, slope = of_answers(z, kind, yes=yes)
    sign = -1 if yes else 1
    with mp.workdps(60):
        a = [sign * mpf(float(number)) for number in z]
        values, slopes = np.array([softplus(it) for it in a]), np.array([sign * sigmoid(it) for it in a])
        off = exact.value_error(loss, values), exact.value_error(slope, slopes)
    allowed = (5.0, 4.0) if kind is Pair else (1.1, 1.1)
    assert off[0] <= allowed[0], off
    assert off[1] <= allowed[1], off


@kinds
def test_the_low_parts_of_logits_count(kind):
    """A unit in the last place of z = 700 is 1.1e-13, as much as exp changes by."""
    rng = np.random.default_rng(1)
    hi = rng.uniform(-700.0, 700.0, 60)
    z = kind(*two_sum(hi, rng.uniform(-0.5, 0.5, 60) * np.spacing(np.abs(hi))))
    loss, _ = binary_cross_entropy.forward(z[:, None], np.zeros(60, np.int64), PLAIN)
    with mp.workdps(60):
        true = np.array([softplus(-it) for it in exact.exact(z.hi) + exact.exact(z.lo)])
        assert exact.value_error(high(plain(loss)), true) <= 5.0


@kinds
def test_what_other_forms_lose_is_there(kind):
    """A positive answer at 30 has a loss of 9.4e-14, which softplus(z) - z, or a threshold of 20, makes 0."""
    loss, slope = of_answers([30.0, 100.0, 700.0], kind, yes=True)
    np.testing.assert_allclose(loss, np.exp([-30.0, -100.0, -700.0]), rtol=1e-13)
    np.testing.assert_allclose(slope, -loss, rtol=1e-13)


@kinds
def test_far_beyond_an_answer_is_the_logit_or_nothing(kind):
    for size in (800.0, 1e5, 1e300):
        loss, slope = of_answers([-size, size], kind, yes=True)
        assert loss.tolist() == [size, 0.0]
        assert slope.tolist() == [-1.0, 0.0]


@kinds
def test_an_answer_of_0_is_undecided(kind):
    for yes in (True, False):
        loss, slope = of_answers([0.0, -0.0], kind, yes=yes)
        assert loss.tolist() == [np.log(2.0)] * 2
        assert slope.tolist() == [-0.5 if yes else 0.5] * 2


@kinds
def test_yes_to_a_logit_is_no_to_its_negative(kind):
    z = everywhere()
    loss, slope = of_answers(z, kind, yes=True)
    other, of_other = of_answers(-z, kind, yes=False)
    assert np.array_equal(loss, other)
    assert np.array_equal(slope, -of_other)


@kinds
@pytest.mark.parametrize("settings", WEIGHTS, ids=str)
def test_a_row_is_the_sum_of_its_answers(settings, kind):
    """5u of each, and the rounding of the sum, 1u: none cancels."""
    rng = np.random.default_rng(2)
    z, y = 20.0 * rng.standard_normal((6, 40)), rng.integers(0, 40, 6)
    loss, saved = binary_cross_entropy.forward(kind.of(z), y, settings)
    with mp.workdps(60):
        for n, row in enumerate(z):
            v = weights_of(settings)
            terms = [(v[0], -1, mpf(float(it))) if k == y[n] else (v[1], 1, mpf(float(it))) for k, it in enumerate(row)]
            true = mp.fsum(weight * softplus(sign * it) for weight, sign, it in terms)
            assert exact.value_error(high(plain(loss))[n], true) <= 6.0
            slopes = np.array([weight * sign * sigmoid(sign * it) for weight, sign, it in terms])
            assert exact.value_error(high(plain(saved.slope))[n], slopes) <= 6.0


@pytest.mark.parametrize("settings", WEIGHTS, ids=str)
def test_backward_against_differences(settings):
    """7u of an entry: the slope with its weight 6u, the product 1u."""
    rng = np.random.default_rng(3)
    z, y, upstream = rng.standard_normal((3, 4)) * [[1.0], [10.0], [40.0]], np.array([0, 3, 1]), rng.standard_normal(3)
    _, saved = binary_cross_entropy.forward(Pair.of(z), y, settings)
    gradient = high(plain(binary_cross_entropy.backward(upstream, saved)))
    v = weights_of(settings)

    def function(z):
        rows = [
            mp.fsum(v[int(k != y[n])] * softplus(-it if k == y[n] else it) for k, it in enumerate(row))
            for n, row in enumerate(z)
        ]
        return np.array(rows)

    checks.against_exact_vjp(function, [z], upstream, [gradient], 7.0)


def test_weights_that_float64_cannot_hold_count():
    """A ratio of 1e-300 and 1e300: the products are what they are, and only the sum is rounded."""
    tiny = Settings(Fraction(1e-300) / Fraction(1e100), Fraction(1e300) * 2**40)
    z, y = np.array([[0.0, -700.0]]), np.array([0])
    loss, saved = binary_cross_entropy.forward(Pair.of(z), y, tiny)
    with mp.workdps(60):
        true = mpf(1e300) * 2**40 * softplus(mpf(-700))
        assert exact.value_error(high(plain(loss))[0], true) <= 6.0
        back = high(plain(binary_cross_entropy.backward(np.array([1e300]), saved)))
        assert exact.value_error(back[0, 0], -mpf(1e-300) / mpf(1e100) * mpf(1e300) / 2) <= 7.0


def test_saved_is_what_it_says_and_arguments_stay_as_they_are():
    z = Pair.of([[1.0, -3.0]])
    _, saved = binary_cross_entropy.forward(z, np.array([1]), PLAIN)
    assert saved._fields == ("slope",)
    assert z.hi.tolist() == [[1.0, -3.0]]
    assert Settings() == PLAIN
    assert PLAIN == (1, 1, None, 1)
