"""Stage quality: a number per sample from its length, against mpmath and rationals; backward against differences."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp, mpf

import refloss
from refloss.engines.dd import DoubleDouble
from refloss.error_free import Pair, high, plain
from refloss.stages import normalize, quality
from refloss.stages.quality import Settings
from support import checks, exact

KINDS = [Pair, DoubleDouble]
TEN, MOST = Fraction(10), Fraction(110)
MAGFACE = Settings(TEN, MOST, Fraction(-1, 10), Fraction(1, 100), 35.0)
"""Bounds and function of MagFace's defaults."""
ADAFACE = refloss.AdaFace(h=1.0, mean=20.0, std=3.0)._quality
SETTINGS = {
    "MagFace": MAGFACE,
    "AdaFace": ADAFACE,
    "MagFace, thirds": Settings(Fraction(1, 3), Fraction(7, 3), Fraction(-1, 6), Fraction(1, 2), 1.0),
    "a narrow band": Settings(Fraction(2), 2 + Fraction(1, 10**6), Fraction(-2 * 10**6), Fraction(10**6), 1e-3),
}
BESIDE = [0.0, 1e-9, 1e-18, -(2.0**-52), 2.0**-52, -1e-3, 1e-3]


def at_bounds(settings, d=4):
    """Rows of lengths far below, between and beyond the bounds, next to them and exactly on them: (R, D)."""
    rows = []
    for bound in (settings.low, settings.high):
        size = float(bound)
        rows += [[size, 0.0], [size, 1e-9 * size], [size, 1e-18 * size], [np.nextafter(size, 0.0), 0.0]]
        rows += [[np.nextafter(size, np.inf), 0.0], [np.nextafter(size, 0.0), 1e-9 * size]]
        rows += [[0.6 * size, 0.8 * size], [0.999 * size, 0.0], [0.0, -1.001 * size], [1e-200 * size, 0.0]]
        rows += [[1e200 * size, 1e150], [-0.5 * size, 0.5 * size], [size, -0.5 * size]]
    x = np.zeros((len(rows), d))
    x[:, 1:3] = rows
    between = np.random.default_rng(1).standard_normal((20, d))
    middle = float(settings.low + settings.high) / 2.0
    return np.vstack([x, between * middle / np.linalg.norm(between, axis=1)[:, None]])


def side(row, bound):
    """The side of a bound on which a row's length is, by squares in rational numbers."""
    square = sum(Fraction(entry) ** 2 for entry in row.tolist())
    return (square > bound**2) - (square < bound**2)


def length_of(row, settings):
    """The length held between its bounds, as mpmath has it."""
    for bound, beyond in ((settings.low, -1), (settings.high, 1)):
        if side(row, bound) == beyond:
            return real(bound)
    return mp.sqrt(mp.fsum(mpf(entry) ** 2 for entry in row.tolist()))


def real(number):
    return mpf(number.numerator) / number.denominator


def whole(pair):
    return exact.exact(pair.hi) + exact.exact(pair.lo)


def forward(x, settings, kind=Pair):
    return quality.forward(x, normalize.forward(x if kind is Pair else DoubleDouble.of(x)), settings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETTINGS)
def test_values_are_right_to_pairs_next_to_their_bounds_too(name, kind):
    """64u² = 2^-100: v of |p| + |q| a, the regularizer of itself, its slope of the two terms that it is made of.

    A length is right to 12u²: (5 + 3 log2 D)u² = 11u² of the sum, half by the root, and the root. Constants 1u², sums
    3u², products 5u², quotients 10u²: less than 40u² for each of the three. Slopes are rounded, 1u.
    """
    settings, x = SETTINGS[name], at_bounds(SETTINGS[name])
    v, terms, saved = forward(x, settings, kind)
    assert type(v.value) is type(terms) is kind
    assert v.value.hi.shape == terms.hi.shape == high(plain(saved.slope)).shape == (len(x),)
    with mp.workdps(80):
        p, q, u_a = real(settings.offset), real(settings.factor), real(settings.high)
        factor = mpf(settings.regularizer)
        small, rounded = mpf(2) ** -100, mpf(checks.U)
        for n, row in enumerate(x):
            a = length_of(row, settings)
            inside = side(row, settings.low) >= 0 >= side(row, settings.high)
            assert abs(whole(v.value)[n] - (p + q * a)) <= small * (abs(p) + abs(q) * a)
            assert abs(whole(terms)[n] - factor * (a / u_a**2 + 1 / a)) <= small * factor * (a / u_a**2 + 1 / a)
            assert high(plain(saved.slope))[n] == (float(settings.factor) if inside and not settings.detached else 0.0)
            pull = factor * (1 / u_a**2 - 1 / a**2) if inside else mpf(0)
            error = abs(exact.exact(high(plain(saved.pull)))[n] - pull)
            assert error <= rounded * abs(pull) + small * factor * (1 / u_a**2 + 1 / a**2) * inside


@pytest.mark.parametrize("t", [1e-7, 1e-9, 1e-16, 1e-18, 1e-30, 5e-324])
def test_which_side_of_a_bound_a_length_is_on_is_decided_exactly(t):
    """[66, 88, 1e-7] has length 110 in float64, and is longer; 110 itself still moves, with the inner slope."""
    x = np.array([[66.0, 88.0, t], [66.0, 88.0, 0.0], [6.0, 8.0, t], [6.0, 8.0, 0.0], [np.nextafter(6.0, 0.0), 8.0, t]])
    v, _, saved = forward(x, MAGFACE)
    assert (saved.slope != 0.0).tolist() == [False, True, True, True, False]
    assert v.value.hi[:4].tolist() == [1.0, 1.0, 0.0 if t < 1e-16 else v.value.hi[2], 0.0]
    assert saved.pull[1] == 0.0  # the regularizer is least at the upper bound


def dense_next_to(bound, rng, d):
    """A row of dense numbers whose length differs from a bound by 2^-70 to 2^-110 of it: two entries make up for it."""
    row = rng.standard_normal(d)
    row *= bound * 0.9 / np.linalg.norm(row)
    row[:3] = 0.0
    for place in (0, 1, 2):
        missing = Fraction(bound) ** 2 - sum(Fraction(entry) ** 2 for entry in row.tolist())
        row[place] = np.sqrt(max(float(missing), 0.0)) * (1.0 - (place < 2) * 2.0**-30)
    apart = 2.0 ** -rng.uniform(0.0, 45.0) * rng.choice([-1.0, 1.0])
    row[2] *= 1.0 + apart
    return row


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [4, 64, 512])
def test_dense_lengths_next_to_a_bound_are_on_their_side(kind, d):
    rng = np.random.default_rng(d)
    x = np.array([dense_next_to(bound, rng, d) for bound in (10.0, 110.0) for _ in range(40)])
    _, _, saved = forward(x, MAGFACE, kind)
    inside = [side(row, TEN) >= 0 >= side(row, MOST) for row in x]
    assert 20 < sum(inside) < 60
    assert (high(plain(saved.slope)) != 0.0).tolist() == inside


@pytest.mark.parametrize("side_of_1", [-1.0, 1.0])
@pytest.mark.parametrize("apart", [1e-9, 1e-12, 1e-16])
def test_next_to_the_upper_bound_the_regularizers_slope_does_not_cancel(side_of_1, apart):
    """Within 2^-40 of itself at 1e-16 from the bound: lengths are pairs, and their difference is a factor."""
    x = np.array([[110.0 * (1.0 + side_of_1 * apart), 110.0 * 2.0**-30 * np.sqrt(apart), 0.0]])
    _, _, saved = forward(x, MAGFACE)
    with mp.workdps(80):
        a = length_of(x[0], MAGFACE)
        pull = 35 * (1 / mpf(110) ** 2 - 1 / a**2) if side(x[0], MOST) <= 0 else mpf(0)
        assert abs(mpf(float(saved.pull[0])) - pull) <= mpf(2) ** -40 * abs(pull)


def test_the_number_of_a_row_is_exact():
    """p + q ‖x‖ as a surd, or the constant of a bound."""
    x = np.array([[30.0, 40.0, 1e-20], [0.1, 0.2, 0.2], [300.0, 400.0, 0.0]])
    v, _, _ = forward(x, MAGFACE)
    square = 2500 + Fraction(1e-20) ** 2
    assert v.exactly(0) == (Fraction(-1, 10), Fraction(1, 100), square)
    assert v.exactly(1) == (Fraction(0), Fraction(0), Fraction(0))
    assert v.exactly(2) == (Fraction(1), Fraction(0), Fraction(0))


def test_given_numbers_are_what_they_are():
    m = np.array([0.1, -0.3, 1e-300])
    v = quality.given(m)
    assert v.value.hi.tolist() == m.tolist()
    assert [v.exactly(n).plain for n in range(3)] == [Fraction(number) for number in m.tolist()]
    assert not any(v.exactly(n).factor for n in range(3))


def test_pairs_of_rational_numbers():
    """The nearest float64, and that of the rest: 2^-106 of it is left."""
    for number in (Fraction(1, 3), Fraction(-2, 7), Fraction(5, 4), Fraction(10**20, 3), Fraction(0)):
        pair = quality.pair_of(number)
        assert float(pair.hi) == float(number)
        assert abs(Fraction(float(pair.hi)) + Fraction(float(pair.lo)) - number) <= abs(number) * Fraction(1, 2**106)
        assert type(quality.pair_of(number, DoubleDouble)) is DoubleDouble


def test_detached_numbers_have_no_slope():
    assert ADAFACE.detached
    _, _, saved = forward(at_bounds(ADAFACE), ADAFACE)
    assert not saved.slope.any()
    _, _, other = forward(at_bounds(ADAFACE), ADAFACE._replace(detached=False))
    assert other.slope.any()


@pytest.mark.parametrize("length", [1e-300, 1e-200, 1e200, 1e300])
def test_lengths_at_the_ends_of_the_range(length):
    x = np.array([[0.6, 0.8]]) * length
    v, terms, saved = forward(x, MAGFACE)
    bound = 10.0 if length < 1.0 else 110.0
    assert v.value.hi.tolist() == [0.0 if length < 1.0 else 1.0]
    np.testing.assert_allclose(terms.hi, 35.0 * (bound / 110.0**2 + 1.0 / bound), rtol=1e-15)
    assert saved.slope.tolist() == saved.pull.tolist() == [0.0]


@pytest.mark.parametrize("name", SETTINGS)
def test_backward_against_differences(name):
    """1u each for the two slopes and products, and 1u for their sum: 3u of the terms.

    A step stays on the side of the bounds on which its row is, so rows are 1e-3 away from them.
    """
    settings = SETTINGS[name]._replace(detached=False)
    low, most = float(settings.low), float(settings.high)
    lengths = np.array([0.5 * low, low + 0.3 * (most - low), low + 0.9 * (most - low), 2.0 * most])
    x = np.random.default_rng(3).standard_normal((4, 3))
    x *= (lengths / np.linalg.norm(x, axis=1))[:, None]
    _, _, saved = forward(x, settings)
    upstream, of_terms = np.random.default_rng(4).standard_normal((2, 4))
    gradient = quality.backward(upstream, saved, of_terms)
    held = [side(row, settings.low) < 0 or side(row, settings.high) > 0 for row in x]
    with mp.workdps(60):
        p, q, u_a, factor = *map(real, (settings.offset, settings.factor, settings.high)), mpf(settings.regularizer)
        for n, row in enumerate(x):
            a = length_of(row, settings)

            def what(a, n=n):
                return mpf(upstream[n]) * (p + q * a) + mpf(of_terms[n]) * factor * (a / u_a**2 + 1 / a)

            true = mpf(0) if held[n] else mp.diff(what, a)
            size = abs(mpf(upstream[n]) * q) + abs(mpf(of_terms[n])) * factor * (1 / u_a**2 + 1 / a**2)
            assert abs(mpf(float(gradient[n])) - true) <= 3 * mpf(checks.U) * size


def test_saved_is_what_it_says():
    _, _, saved = forward(np.ones((1, 3)) * 20.0, MAGFACE)
    assert saved._fields == ("slope", "pull")
    assert saved.slope.tolist() == [0.01]
