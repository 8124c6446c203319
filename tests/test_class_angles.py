"""Stage class_angles: η of other classes and its slopes against mpmath, which classes are the nearest, and backward."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mpmath import mp, mpf

import refloss
from refloss.engines.dd import DoubleDouble
from refloss.error_free import Pair, high, plain, u
from refloss.fixed_point import Between
from refloss.stages import class_angles, cosine, normalize
from refloss.stages.class_angles import STEEP, Settings
from support import checks, exact, nearest

KINDS = [Pair, DoubleDouble]
kinds = pytest.mark.parametrize("kind", KINDS)
DIVIDED = [Settings("divided", m, gradient=gradient) for m in (1.5, 4.0, 30.0) for gradient in ("exact", "detached")]
POWERS = [Settings("power", 0.4, k, gradient) for k in (1, 2, 3, 30) for gradient in ("exact", "detached")]
NEAREST = [Settings("nearest", m, 100) for m in (0.06, 1.0, math.pi)]
SETTINGS = DIVIDED + NEAREST
ENGINES = [("chain", np.float64), ("dd", np.float64), ("fused", np.float64), ("fused", np.float32)]
ENGINES += [("certified", np.float64)]
EDGE = math.acos(1.0 - STEEP)
ENDS = [1e-300, 1e-150, 1e-17, 1e-8, 1e-3]
BESIDE = [0.0, 1e-12, -1e-12, 1e-9, -1e-9, 1e-3, -1e-3]


def at(thetas, length=1.0):
    """One sample, its class at a right angle, and classes at angles from 0 to π: on axes where they are next to one."""
    x = np.array([[length, 0.0, 0.0]])
    rows = [[0.0, 0.0, 1.0]]
    for theta, from_pi in thetas:
        cos, sin = (-math.cos(theta), math.sin(theta)) if from_pi else (math.cos(theta), math.sin(theta))
        rows.append([2.0 * cos, 2.0 * sin, 0.0])
    return x, np.array(rows), np.array([0])


ANGLES = [(theta, from_pi) for theta in (*ENDS, 0.0, *(EDGE + side for side in BESIDE)) for from_pi in (False, True)]
ANGLES += [(theta, False) for theta in np.linspace(0.05, 3.1, 24)]


def cosines(kind, x, w):
    """What an engine hands over: the cosines of the chain, or those of engine dd, right to 100 bits."""
    if kind is Pair:
        return cosine.forward(normalize.forward(x), normalize.forward(w))[0]
    c, n = DoubleDouble.of(np.zeros((len(x), len(w)))), np.indices((len(x), len(w))).reshape(2, -1)
    c[tuple(n)] = DoubleDouble.of(0.0) + cosine.of_rows(x[n[0]], w[n[1]])
    return c


def eta(theta, settings):
    """What replaces the cosine, as the papers have it."""
    if settings.rule == "power":
        return 2 * mp.cos(theta / 2) ** (2 * settings.k) - 1 + mpf(settings.m)
    return mp.cos(theta / settings.m) if settings.rule == "divided" else mp.cos(theta - settings.m)


def slope_of(theta, settings):
    """Its derivative in the angle; of the cosine if that is detached."""
    if settings.gradient == "detached":
        return -mp.sin(theta)
    return mp.diff(lambda t: eta(t, settings), theta)


def whole(pair):
    return exact.exact(pair.hi) + exact.exact(pair.lo)


# ---------------------------------------------------------------------------------------------------- value and slopes


@kinds
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_eta_and_its_slopes_at_every_angle(settings, kind):
    """η is as wrong as what it is made from, and the slopes are rounded once.

    By the angle: 40u² of θ, cos θ and sin θ, and 16u² each of a sine, a cosine and a product: 2^-98, of slopes that
    vanish at 0, and detached at π, relative to the angle, or to what it is less than π. By a cosine, away
    from ±1: its own error, e = 3u in the chain and 2^-100 in engine dd, times dη/dc, which is at most 1/sin θ, 8.02, or
    8.1 with what follows; and dη/dc is wrong by e times d²η/dc², at most 1/sin²θ + |cos θ|/sin³θ < 600.
    """
    x, w, y = at(ANGLES)
    c = cosines(kind, x, w)
    computed, saved = class_angles.forward(c, x, w, y, settings)
    assert type(computed) is kind
    e, small = (3.0 * u if kind is Pair else 2.0**-100), 2.0**-98
    by_angle = dict(zip(saved.k.tolist(), np.arange(len(saved.k)), strict=True))
    with mp.workdps(400):
        theta = exact.angle(np.repeat(x, len(w), axis=0), w, digits=390)
        values, on_cosine = whole(computed)[0], exact.exact(high(plain(saved.slope)))[0]
        for k in range(1, len(w)):
            true, slope = eta(theta[k], settings), slope_of(theta[k], settings)
            if k in by_angle:
                computed_slope = exact.exact(high(plain(saved.slope_of_angle)))[by_angle[k]]
                assert abs(values[k] - true) <= small, ANGLES[k - 1]
                near = min(theta[k], mp.pi - theta[k] if settings.gradient == "detached" else mpf(1), mpf(1))
                noise = small * near + mpf(10) ** -390  # of sin π
                assert abs(computed_slope - slope) <= u * abs(slope) + noise, ANGLES[k - 1]
                assert on_cosine[k] == 0.0
            else:
                assert settings.rule == "divided"
                of_c = slope / -mp.sin(theta[k])
                assert abs(values[k] - true) <= 8.1 * e, ANGLES[k - 1]
                assert abs(on_cosine[k] - of_c) <= u * abs(of_c) + 600.0 * e + small, ANGLES[k - 1]


@kinds
@pytest.mark.parametrize("settings", POWERS, ids=str)
def test_powers_of_cosines_at_every_angle(settings, kind):
    """By the cosine alone, which is wrong by e = 3u in the chain and 2^-100 in engine dd.

    With h = (1 + c) / 2, η is wrong by e times dη/dc = k h^(k-1), and that by e times d²η/dc² = k (k - 1)/2 h^(k-2),
    beside its rounding; both at h + e, for both rise with h (mean value theorem). So next to 0 slopes are right
    relative to themselves, and next to π relative to the largest one. What products of pairs lose is 2^-98 k of what
    is at most 2 and k; numbers below the range of float64 are 0.
    """
    x, w, y = at(ANGLES)
    computed, saved = class_angles.forward(cosines(kind, x, w), x, w, y, settings)
    assert type(computed) is kind
    assert not len(saved.k)
    e, k = (3.0 * u if kind is Pair else 2.0**-100), settings.k
    with mp.workdps(400):
        theta = exact.angle(np.repeat(x, len(w), axis=0), w, digits=390)
        values, slopes = whole(computed)[0], exact.exact(high(plain(saved.slope)))[0]
        for n in range(1, len(w)):
            h, own = mp.cos(theta[n] / 2) ** 2, 2.0**-98 * k
            around = h + e
            assert abs(values[n] - eta(theta[n], settings)) <= e * k * around ** (k - 1) + 2 * own, ANGLES[n - 1]
            if settings.gradient == "detached":
                assert slopes[n] == 1.0
                continue
            true, bend = k * h ** (k - 1), k * (k - 1) / mpf(2) * around ** max(k - 2, 0)
            assert abs(slopes[n] - true) <= u * true + e * bend + own * k * true + 2.0**-1022, ANGLES[n - 1]
    assert high(plain(saved.slope))[0, 0] == 1.0


@kinds
def test_what_goes_through_its_angle(kind):
    """Divided: cosines above 1 - 2^-7 and below -(1 - 2^-7), and no target; sin θ is above 0.124 for all others."""
    edge = 1.0 - STEEP
    values = [1.0, 1.0 - STEEP / 2, np.nextafter(edge, 1.0), edge, np.nextafter(edge, 0.0), 0.0, -edge, -1.0, 1.0]
    c = kind.of(np.array([values]))
    through = class_angles.through_angle(c, np.zeros((1, 2)), np.zeros((9, 2)), np.array([8]), DIVIDED[0])
    assert through.tolist() == [[True, True, True, False, False, False, False, True, False]]
    assert math.sin(EDGE) > 0.124
    own = class_angles.through_angle(c, np.zeros((1, 2)), np.zeros((9, 2)), np.array([0]), DIVIDED[0])
    assert own.tolist() == [[False, True, True, False, False, False, False, True, True]]


@kinds
@pytest.mark.parametrize("settings", [DIVIDED[0], DIVIDED[1], NEAREST[0]._replace(k=2), POWERS[2]], ids=str)
def test_targets_and_classes_further_away_keep_their_cosines(settings, kind):
    rng = np.random.default_rng(4)
    x, w, y = rng.standard_normal((3, 4)), rng.standard_normal((6, 4)), np.array([0, 5, 2])
    c = cosines(kind, x, w)
    computed, saved = class_angles.forward(c, x, w, y, settings)
    kept = np.arange(6) == y[:, None]
    if settings.rule == "nearest":
        kept |= ~nearest.truth(x, w, y, settings.k)
    assert np.array_equal(computed.hi[kept], c.hi[kept])
    assert np.array_equal(computed.lo[kept], c.lo[kept])
    assert (high(plain(saved.slope))[kept] == 1.0).all()
    assert (computed.hi[~kept] != c.hi[~kept]).all()
    assert np.array_equal(class_angles.are_changed(y, saved, settings), ~kept)


@kinds
@pytest.mark.parametrize("settings", SETTINGS + POWERS, ids=str)
def test_lengths_by_powers_of_two_change_no_bit(settings, kind):
    x, w, y = at(ANGLES)
    first, saved = class_angles.forward(cosines(kind, x, w), x, w, y, settings)
    x, w = x * 2.0**-200, np.ldexp(w, 3 * np.arange(len(w))[:, None])
    second, other = class_angles.forward(cosines(kind, x, w), x, w, y, settings)
    assert np.array_equal(first.hi, second.hi)
    assert np.array_equal(first.lo, second.lo)
    assert np.array_equal(high(plain(saved.slope)), high(plain(other.slope)))
    assert np.array_equal(high(plain(saved.slope_of_angle)), high(plain(other.slope_of_angle)))


def test_the_angle_in_fixed_point():
    """η in units of 2^-bits: the angle is wrong by a few, m and the quotient by one each, the cosine by a few."""
    x, w, _ = at([(0.3, False), (1.2, False), (1e-8, True), (2.9, False)])
    for settings in (*DIVIDED[::2], *NEAREST):
        for row in w[1:]:
            with mp.workdps(120):
                true = eta(exact.angle(x, row[None])[0], settings)
                units = class_angles.changed(Between.of(x[0], row), settings, 250)
                assert abs(units - true * mpf(2) ** 250) <= 64


# ------------------------------------------------------------------------------------------------- the nearest classes


def chosen(kind, x, w, y, k):
    return class_angles.nearest(cosines(kind, x, w), x, w, y, k)


@kinds
@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_the_largest_cosines_are_chosen_without_the_target(k, kind):
    rng = np.random.default_rng(k)
    x, w, y = rng.standard_normal((20, 4)), rng.standard_normal((7, 4)), rng.integers(0, 7, 20)
    x[:5] = w[y[:5]] + 0.1 * x[:5]  # the target is nearer than all
    found = chosen(kind, x, w, y, k)
    assert np.array_equal(found, nearest.truth(x, w, y, k))
    assert (found.sum(axis=1) == k).all()
    assert not found[np.arange(20), y].any()


@kinds
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_where_there_are_no_more_classes_all_others_are_chosen(classes, kind):
    x, w = np.ones((2, 3)), np.random.default_rng(1).standard_normal((classes, 3))
    y = np.array([0, classes - 1])
    for k in (classes - 1 or 1, classes, 1000):
        assert np.array_equal(chosen(kind, x, w, y, k), np.arange(classes) != y[:, None])


@kinds
def test_a_thousand_classes_built_onto_the_kth_largest_are_told(kind):
    """At one angle but for rounding: the cosines of float64 choose others, and the stage does not."""
    count, wrong = 0, 0
    for seed, (k, d) in enumerate([(1, 4), (50, 4), (100, 8), (199, 4), (100, 64)]):
        x, w, y = nearest.near(np.random.default_rng(seed), 200, d)
        true = nearest.truth(x, w, y, k)
        assert np.array_equal(chosen(kind, x, w, y, k), true)
        c = w @ x[0] / (np.linalg.norm(w, axis=1) * np.linalg.norm(x))
        assert np.ptp(c[1:]) < 1e-14
        naive = 1 + np.argsort(-c[1:], kind="stable")[:k]
        count, wrong = count + 200, wrong + int((np.isin(np.arange(201), naive) != true[0]).sum())
    assert count == 1000
    assert wrong > 0.05 * count


@kinds
@pytest.mark.parametrize("apart", [1e-16, 1e-20, 1e-35, 1e-100, 1e-250])
def test_ties_go_to_the_first_and_near_ties_to_the_nearer(apart, kind):
    """The same numbers in another order and one more entry; equal cosines in between."""
    x, w, y = nearest.ties(apart)
    order = [3, 1, 2, 4, 6, 5]  # class 0 is the target
    for k in range(1, 7):
        assert np.flatnonzero(chosen(kind, x, w, y, k)[0]).tolist() == sorted(order[:k])
    turned = np.concatenate([w[:1], w[:0:-1]])
    for k in range(1, 7):
        assert np.array_equal(chosen(kind, x, turned, y, k), nearest.truth(x, turned, y, k))
        assert np.array_equal(chosen(kind, -x, w, y, k), nearest.truth(-x, w, y, k))


@kinds
def test_equal_classes_beside_nearer_ones(kind):
    """Some chosen for sure, and of four equal ones those that are left to choose; some beyond."""
    x = np.array([[1.0, 0.0]])
    w = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.5], [2.0, 2.0], [-1.0, 0.0], [1.0, -1.0], [0.5, 0.5], [1.0, 3.0]])
    for k, expected in ((1, [2]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 3, 5]), (5, [1, 2, 3, 5, 6])):
        assert np.flatnonzero(chosen(kind, x, w, np.array([0]), k)[0]).tolist() == expected
    assert np.flatnonzero(chosen(kind, x, w, np.array([1]), 3)[0]).tolist() == [2, 3, 5]


@pytest.mark.parametrize(("engine", "dtype"), ENGINES)
@pytest.mark.parametrize("k", [1, 30, 59])
def test_engines_choose_no_other_class(engine, dtype, k):
    if engine == "certified":
        pytest.importorskip("flint")
    loss, how = refloss.InterTopK(k=k, s=8.0, penalty=0.3), {"engine": engine, "dtype": dtype}
    assert nearest.misjudged(loss, *nearest.near(np.random.default_rng(k), 60), **how) == 0
    if k < 6:
        for apart in (0.0, 1e-16, 1e-100):
            for more in (1, 2, 3, 5):
                tied = refloss.InterTopK(k=more, s=8.0, penalty=0.3)
                assert nearest.misjudged(tied, *nearest.ties(apart), **how) == 0


# ------------------------------------------------------------------------------------------------------------- backward


@pytest.mark.parametrize("settings", [*DIVIDED, *(each._replace(k=2) for each in NEAREST)], ids=str)
def test_backward_against_differences(settings):
    """2u for dL/dc, of slope and product; 8u for dL/dx and dL/dw, of slope, length, tangent, two products, a quotient.

    The cosines are taken as what they are, so no slope is off by what they are.
    """
    rng = np.random.default_rng(2)
    x, w, y = rng.standard_normal((2, 3)), rng.standard_normal((5, 3)), np.array([0, 3])
    w[1] = x[0] + 1e-3 * w[1]
    w[2] = -x[1] + 1e-3 * w[2]
    c = DoubleDouble.of(cosines(Pair, x, w).hi)
    _, saved = class_angles.forward(c, x, w, y, settings)
    assert len(saved.n) >= 2
    upstream = rng.standard_normal(c.shape)
    dc, dx, dw = map(high, map(plain, class_angles.backward(upstream, saved)))
    assert dc.shape == c.shape
    assert dx.shape == dw.shape == (len(saved.n), 3)
    with mp.workdps(60):
        for n, k in np.ndindex(c.shape):
            if k == y[n]:
                continue
            number = mpf(float(c.hi[n, k]))
            changed = settings.rule == "divided"
            slope = slope_of(mp.acos(number), settings) / -mp.sin(mp.acos(number)) if changed else mpf(1)
            expected = mpf(0) if (n, k) in set(zip(saved.n.tolist(), saved.k.tolist(), strict=True)) else slope
            error = abs(mpf(float(dc[n, k])) - expected * mpf(upstream[n, k]))
            assert error <= 2.0 * u * (1.0 + 1e-9) * abs(expected * mpf(upstream[n, k]))
    for place, (n, k) in enumerate(zip(saved.n, saved.k, strict=True)):

        def function(a, b):
            theta = exact.angle(a, b, digits=100)[0]
            return np.array([[mp.cos(theta) if settings.gradient == "detached" else eta(theta, settings)]])

        pair, terms = [x[n : n + 1], w[k : k + 1]], []
        with mp.workdps(60):
            theta = exact.angle(*pair)[0]
            size = abs(mpf(upstream[n, k]) * slope_of(theta, settings))
            terms = [np.array([size / mp.sqrt(mp.fsum(mpf(e) ** 2 for e in each[0]))]) for each in pair]
        given = upstream[n : n + 1, k : k + 1]
        checks.against_exact_vjp(function, pair, given, [dx[place, None], dw[place, None]], 8.0, terms=terms)


@kinds
@pytest.mark.parametrize("settings", [DIVIDED[0], DIVIDED[1], NEAREST[1]], ids=str)
def test_parallel_classes_have_no_gradient(settings, kind):
    """Their direction of turning does not exist, and its choice of least norm is 0."""
    x = np.array([[3.0, 6.0, -9.0]])
    w = np.array([[0.0, 1.0, 0.0], [1.0, 2.0, -3.0], [-2.0, -4.0, 6.0]])
    computed, saved = class_angles.forward(cosines(kind, x, w), x, w, np.array([0]), settings)
    assert saved.k.tolist() == [1, 2]
    dc, dx, dw = map(high, map(plain, class_angles.backward(np.ones((1, 3)), saved)))
    assert not dx.any()
    assert not dw.any()
    assert dc[0, 1:].tolist() == [0.0, 0.0]
    with mp.workdps(60):
        for k, theta in ((1, mpf(0)), (2, +mp.pi)):
            assert abs(whole(computed)[0, k] - eta(theta, settings)) <= 2.0**-98


@pytest.mark.parametrize("engine", ["chain", "dd", "certified"])
@pytest.mark.parametrize("theta", [1e-3, 1e-8, 1e-17, 1e-150])
def test_gradients_of_classes_next_to_pi_are_finite_and_right(theta, engine):
    """dη/dc is infinite there; dη/dθ = -sin(θ/m)/m, and the gradient turns w by that: 32u, the contract of s = 1."""
    if engine == "certified":
        pytest.importorskip("flint")
    loss = refloss.SphereFaceR(version=2, m=1.5, s=1.0)
    x, w, y = at([(theta, True)])
    value, gradients = loss.value_and_grad(x, w, y, engine=engine)
    with mp.workdps(400):
        angle, m = exact.angle(x, w[1:])[0], mpf(loss.m)
        p = 1 / (1 + mp.exp(-mp.cos(angle / m)))  # the target's logit is 0
        size = p * mp.sin(angle / m) / m / 2
        expected = size * np.array([mp.sin(angle), -mp.cos(angle), mpf(0)])
        assert exact.value_error(value, exact.exact(-mp.log(1 - p))) <= 16.0
        assert exact.row_error(gradients.w[1], expected, size) <= 32.0


def test_saved_is_what_it_says():
    x, w, y = at([(0.5, False), (1e-3, False)])
    _, saved = class_angles.forward(cosines(Pair, x, w), x, w, y, DIVIDED[0])
    assert saved._fields == ("slope", "n", "k", "slope_of_angle", "angle")
    assert (saved.n.tolist(), saved.k.tolist()) == ([0], [2])
    assert high(plain(saved.slope)).shape == (1, 3)
