"""Stage softcap: scaled and capped logits and their slopes against mpmath; backward against differences."""

import math

import numpy as np
import pytest
from mpmath import mp, mpf

from refloss.engines.dd import DoubleDouble
from refloss.error_free import Pair, high, plain, two_sum
from refloss.stages import softcap
from refloss.stages.softcap import Settings
from support import checks, exact

SIGMAS = [1.0, 0.0625, 0.07, 1e5, 1e-200, 1e150]
CAPS = [30.0, 1.0, 50.0, 1e-3, 1e5, 1e-30, 1e-200, 1e200]
KINDS = [Pair, DoubleDouble]


def hard(sigma, cap, rng):
    """Logits of any size, and where σ|z|/K is next to 0, ordinary, and up to where the slope is 0: (1, C)."""
    knee = 1.0 if cap is None else cap
    ratios = np.concatenate([
        10.0 ** rng.uniform(-20.0, 0.0, 20), rng.uniform(0.0, 3.0, 20), rng.uniform(3.0, 20.0, 10),
        [6.7, 10.0, 19.0, 19.1, 20.0, 22.0, 100.0, 300.0, 371.0, 373.0, 700.0, 1e3, 1e5, 1e9],
    ])  # fmt: skip
    with np.errstate(over="ignore", under="ignore"):
        z = np.concatenate([ratios * knee / sigma, 10.0 ** rng.uniform(-300.0, 300.0, 20), [1e-300, 1e300, 0.0]])
        kept = np.isfinite(z) & ((np.abs(z) > 1e-290) | (z == 0.0))
        kept &= (cap is not None) | (np.abs(z) < 1e300 / max(1.0, sigma))
    return (z * rng.choice([-1.0, 1.0], len(z)))[kept][None]


def whole(pair):
    with mp.workdps(80):
        return exact.exact(pair.hi) + exact.exact(pair.lo)


def check(z, settings, kind):
    """The largest errors: of a capped logit in u² of itself, of a slope in u of itself."""
    capped, saved = softcap.forward(z, settings)
    assert type(capped) is kind
    with mp.workdps(80):
        true, slopes = exact.softcap(whole(z), *settings)
        units = [
            float(abs(a - b) / max(abs(b), mpf(2) ** -960) * mpf(2) ** 106)
            for a, b in zip(whole(capped)[0], true[0], strict=True)
        ]
    return max(units), exact.value_error(high(plain(saved.slope)), slopes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_capped_logits_and_every_slope_are_right_relative_to_themselves(sigma, cap, kind):
    """The logit: 200u² of the tanh, and 5u² each of two products and a quotient, which tanh passes on at most.

    The slope: 8u. exp(-2r) 3u with the rounding of its argument's low part, 1 + e and its square 3u, the quotient, 4e
    and σ 2u. Its error does not grow with r: 1 - tanh² would have lost all at r = 19.1.
    """
    z = kind.of(hard(sigma, cap, np.random.default_rng(1)))
    of_logit, of_slope = check(z, Settings(sigma, cap), kind)
    assert of_logit <= 215.0
    assert of_slope <= 8.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_without_a_cap_there_is_a_product(sigma, kind):
    """5u²; the slope is σ itself."""
    z = kind.of(hard(sigma, None, np.random.default_rng(2)))
    of_logit, of_slope = check(z, Settings(sigma), kind)
    assert of_logit <= 5.0
    assert of_slope <= 1e-9  # of the differences


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cap", [None, 30.0])
def test_the_low_parts_of_logits_count(cap, kind):
    rng = np.random.default_rng(3)
    hi = rng.uniform(-40.0, 40.0, (1, 30))
    z = kind(*two_sum(hi, rng.uniform(-0.5, 0.5, hi.shape) * np.spacing(np.abs(hi))))
    assert check(z, Settings(0.07, cap), kind)[0] <= 215.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_slope_may_be_multiplied_before_it_underflows(kind):
    """exp(-2·380) = e^-760 is no float64 number; times 1e300 it is."""
    z = kind.of([[380.0, 1e5]])
    _, saved = softcap.forward(z, Settings(1.0, 1.0))
    gradient = high(plain(softcap.backward(np.array([[1e300, 1e300]]), saved)))
    with mp.workdps(60):
        true = 4 * mp.exp(-760) * mpf(1e300)
        assert abs(mpf(gradient[0, 0]) - true) <= 9 * checks.U * true
    assert gradient[0, 1] == 0.0
    assert high(plain(saved.slope)).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_infinite_logits_are_at_the_cap_and_nan_stays(kind):
    z = kind.of([[math.inf, -math.inf, math.nan, 2.0]])
    capped, saved = softcap.forward(z, Settings(0.5, 8.0))
    slope = high(plain(saved.slope))
    assert np.array_equal(capped.hi[0, :3], [8.0, -8.0, math.nan], equal_nan=True)
    assert np.array_equal(slope[0, :3], [0.0, 0.0, math.nan], equal_nan=True)
    alone, of_alone = softcap.forward(kind.of([[2.0]]), Settings(0.5, 8.0))
    assert capped.hi[0, 3] == alone.hi[0, 0]
    assert slope[0, 3] == high(plain(of_alone.slope))[0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_cap_infinite_logits_stay_what_they_are(kind):
    z = kind.of([[math.inf, -math.inf, math.nan, 2.0]])
    capped, saved = softcap.forward(z, Settings(0.5))
    assert np.array_equal(capped.hi, [[math.inf, -math.inf, math.nan, 1.0]], equal_nan=True)
    assert (saved.slope == 0.5).all()


def test_a_cap_that_nothing_reaches_changes_no_bit():
    """σz/K below 2^-300: the cap is further away than a pair has bits, and the quotient may be subnormal, or 0."""
    z = Pair.of(np.random.default_rng(4).standard_normal((3, 5)) * 10.0 ** np.array([[-280.0], [-150.0], [0.0]]))
    for cap in (1e100, 1e300):
        capped, saved = softcap.forward(z, Settings(1.0, cap))
        assert np.array_equal(capped.hi, z.hi)
        assert (high(plain(saved.slope)) == 1.0).all()


def test_signs_are_kept_and_order_too():
    z = np.sort(np.random.default_rng(5).uniform(-300.0, 300.0, (1, 400)))
    capped, saved = softcap.forward(Pair.of(z), Settings(1.0, 30.0))
    mirrored, of_mirrored = softcap.forward(Pair.of(-z), Settings(1.0, 30.0))
    assert np.array_equal(capped.hi, -mirrored.hi)
    assert np.array_equal(high(plain(saved.slope)), high(plain(of_mirrored.slope)))
    assert (np.diff(capped.hi) >= 0.0).all()
    assert (np.abs(capped.hi) <= 30.0).all()


@pytest.mark.parametrize("settings", [Settings(0.07), Settings(1.0, 30.0), Settings(3.0, 0.5)])
def test_backward_against_differences(settings):
    """9u of an entry: the slope 8u, its product 1u."""
    rng = np.random.default_rng(6)
    z = rng.standard_normal((3, 4)) * [[1.0], [20.0], [200.0]]
    _, saved = softcap.forward(Pair.of(z), settings)
    upstream = rng.standard_normal((3, 4))
    gradient = plain(softcap.backward(upstream, saved))

    def function(z):
        # mpmath's own tanh: nothing of `exact.softcap`, which the slopes above are tested with
        sigma, cap = map(mp.convert, (settings.logit_scale, settings.softcap or 1.0))
        scaled = z * sigma
        return scaled if settings.softcap is None else cap * np.frompyfunc(mp.tanh, 1, 1)(scaled / cap)

    checks.against_exact_vjp(function, [z], upstream, [high(gradient)], 9.0, digits=2400)


def test_saved_is_what_it_says_and_arguments_stay_as_they_are():
    z = Pair.of([[1.0, -3.0]])
    _, saved = softcap.forward(z, Settings(2.0, 4.0))
    assert saved._fields == ("slope",)
    assert z.hi.tolist() == [[1.0, -3.0]]
    assert Settings() == softcap.UNCHANGED
    assert Settings._fields == ("logit_scale", "softcap")
