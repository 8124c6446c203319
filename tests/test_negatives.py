"""Stage negatives: hard classes and what becomes of their cosines, against mpmath; backward against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mpmath import mp, mpf

import refloss
from refloss.engines.dd import DoubleDouble
from refloss.error_free import Pair, high, plain
from refloss.stages import angle, cosine, margin, negatives, normalize
from refloss.stages.negatives import Settings
from support import checks, exact, thresholds

KINDS = [Pair, DoubleDouble]
SETTINGS = [Settings(rule, t) for rule in ("curricular", "reweighted") for t in (0.0, 0.3, 1.0)]
SETTINGS += [Settings("curricular", -0.7), Settings("reweighted", 1e3)]
SETTINGS += [Settings("circle", m, gradient) for m in (0.0, 0.25, 1.0) for gradient in ("exact", "detached")]
LOSSES = [
    refloss.CurricularFace(s=8.0, t=0.3),
    refloss.CurricularFace(s=8.0, t=-0.5, m=0.3),
    refloss.CurricularFace(s=8.0, t=0.1, m=1.2),
    refloss.MVSoftmax(s=8.0),
    refloss.MVSoftmax(s=8.0, m=0.0, t=1.0),
    refloss.MVSoftmax(s=8.0, margin="arc"),
    refloss.CircleLoss(s=8.0),
    refloss.CircleLoss(s=8.0, m=0.0),
    refloss.CircleLoss(s=8.0, m=0.6, gradient="detached"),
]


def eta(c, hard, settings, weight=None):
    """What replaces cosines that are not the target's, as the papers have it; the weight of "circle" may be given."""
    if settings.rule == "circle":
        return (c + settings.t if weight is None else weight) * (c - settings.t) if hard else 0 * c
    if settings.rule == "curricular":
        return c * (settings.t + c) if hard else c
    return (1 + mpf(settings.t)) * c + settings.t if hard else c


def kept_weight(c, settings):
    """The weight where it counts as a constant."""
    return c + settings.t if settings.gradient == "detached" else None


def never(n, k):
    raise AssertionError(f"sample {n} and class {k} are not next to their threshold")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_hard_classes_are_raised_and_others_are_not(settings, kind):
    """64u² of |t| + 1 for a sum and a product of pairs; slopes are rounded, 1u.

    Others keep their cosines' bits; of "circle" they are 0, and the targets keep theirs.
    """
    rng = np.random.default_rng(1)
    c = kind(rng.uniform(-1.0, 1.0, (4, 20)), 2.0**-54 * rng.uniform(-1.0, 1.0, (4, 20)))
    threshold, y = kind.of(np.array([-0.5, 0.0, 0.3, 2.0])), np.array([0, 3, 16, 2])
    raised, saved = negatives.forward(c, threshold, y, settings, never)
    hard = (c.hi > threshold.hi[:, None]) & (np.arange(20) != y[:, None])
    assert np.array_equal(saved.hard, hard)
    assert hard[:3].any(axis=1).all()
    assert not hard[3].any()
    assert type(raised) is kind
    with mp.workdps(80):
        cosines, values = (exact.exact(pair.hi) + exact.exact(pair.lo) for pair in (c, raised))
        for index in np.ndindex(hard.shape):
            target = index[1] == y[index[0]]
            if settings.rule == "circle" and not hard[index] and not target:
                assert (raised.hi[index], raised.lo[index]) == (0.0, 0.0)
            elif not hard[index]:
                assert (raised.hi[index], raised.lo[index]) == (c.hi[index], c.lo[index])
            weight = kept_weight(cosines[index], settings)
            function = (lambda at: at) if target else lambda at, i=index, w=weight: eta(at, hard[i], settings, w)
            assert abs(values[index] - function(cosines[index])) <= mpf(2) ** -100 * (abs(settings.t) + 1)
            slope = mp.diff(function, cosines[index])
            error = abs(mpf(float(high(plain(saved.slope))[index])) - slope)
            assert error <= mpf(checks.U) * abs(slope) + mpf(2) ** -100 * (abs(settings.t) + 1)


def test_a_class_on_its_threshold_is_not_hard_and_no_target_is():
    c, threshold = Pair.of(np.array([[0.25, 0.75, 0.25, -0.5]])), Pair.of(np.array([0.25]))
    asked = []

    def exactly(n, k):
        asked.append((n, k))
        return False

    _, saved = negatives.forward(c, threshold, np.array([2]), Settings("curricular", 0.5), exactly)
    assert saved.hard.tolist() == [[False, True, False, False]]
    assert asked == [(0, 0)]  # next to it, and no target
    assert high(plain(saved.slope)).tolist() == [[1.0, 2.0, 1.0, 1.0]]


def test_close_names_what_float64_does_not_tell():
    """Cosines are wrong by 3u at most, and 2^-49 is 16u."""
    c, threshold = np.array([[0.25, 0.25 + 2.0**-50, 0.25 - 2.0**-48, 0.9]]), np.array([0.25])
    n, k = negatives.close(Pair.of(c), Pair.of(threshold))
    assert n.tolist() == [0, 0]
    assert k.tolist() == [0, 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_thousand_classes_built_onto_their_threshold_are_told(loss, kind):
    """Within 1e-16 of it, on either side: float64 gets a third of them wrong, and the stage none."""
    count, wrong, hard_ones = 0, 0, 0
    for seed in range(2):
        x, w, y = thresholds.near(loss, np.random.default_rng(seed), 84)
        true = thresholds.hard(loss, x, w)
        theta, _ = angle.forward(x, w[y])
        _, saved = margin.forward(theta, loss.spec.margin)
        c = kind.of(cosine.forward(normalize.forward(x), normalize.forward(w))[0].hi)
        settings = loss.spec.negatives
        threshold = negatives.threshold_of(settings, saved.threshold)
        n, k = negatives.close(c, threshold)
        assert len(n) >= 84
        c[n, k] = cosine.of_rows(x[n], w[k])
        _, found = negatives.forward(c, threshold, y, settings, negatives.above(x, w, settings, saved.exactly))
        assert found.hard[0].tolist() == true.tolist()
        naive = (w @ x[0]) / (np.linalg.norm(w, axis=1) * np.linalg.norm(x)) > threshold.hi[0]
        count, wrong, hard_ones = count + 84, wrong + int((naive != true)[2:].sum()), hard_ones + int(true.sum())
    assert 0.2 * count < hard_ones < 0.8 * count
    assert wrong > 0.05 * count


@pytest.mark.parametrize("engine", ["chain", "dd", "fused", "certified"])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_engines_misjudge_no_class(loss, engine):
    if engine == "certified":
        pytest.importorskip("flint")
    assert thresholds.misjudged(loss, *thresholds.near(loss, np.random.default_rng(7), 168), engine=engine) == 0
    if isinstance(loss, refloss.MVSoftmax):
        for m in (0.0, 0.25):
            tied = refloss.MVSoftmax(s=8.0, m=m, t=0.5)
            assert thresholds.misjudged(tied, *thresholds.ties(m), engine=engine) == 0
    if isinstance(loss, refloss.CircleLoss):
        for m in (0.0, 0.25, 0.5, 1.0):
            for gradient in ("exact", "detached"):
                tied = refloss.CircleLoss(s=8.0, m=m, gradient=gradient)
                assert thresholds.misjudged(tied, *thresholds.at_minus(m), engine=engine) == 0


@pytest.mark.parametrize("m", [0.0, 0.25])
def test_exact_ties_are_not_hard(m):
    """Cosines 1/2 and 1/4, and any order of the same numbers: equal, whatever is rounded."""
    loss = refloss.MVSoftmax(s=8.0, m=m)
    x, w, y = thresholds.ties(m)
    theta, _ = angle.forward(x, w[y])
    _, saved = margin.forward(theta, loss.spec.margin)
    decide = negatives.above(x, w, loss.spec.negatives, saved.exactly)
    assert [decide(0, k) for k in range(1, len(w))] == thresholds.hard(loss, x, w)[1:].tolist()
    assert not any(decide(0, k) for k in (2, 3, 4))


@pytest.mark.parametrize("apart", [1e-20, 1e-35, 1e-100, 1e-250])
def test_a_cosine_as_near_as_float64_can_build_is_told(apart):
    """The same numbers in another order, and one more entry: apart by 1e-250 and less, and so told."""
    x = np.array([[1.0, 1.0, 1.0, 1.0]])
    w = np.array([[1.0, 2.0, 3.0, 0.0], [3.0, 1.0, 2.0, apart], [3.0, 1.0, 2.0, -apart], [2.0, 3.0, 1.0, 0.0]])
    theta, _ = angle.forward(x, w[:1])
    _, saved = margin.forward(theta, margin.Settings())
    decide = negatives.above(x, w, Settings(), saved.exactly)
    assert [decide(0, k) for k in range(4)] == [False, True, False, False]


def no_target(n, bits):
    raise AssertionError("-m has nothing to do with the target")


@pytest.mark.parametrize("m", [0.0, 0.25, 0.5, 1.0])
def test_a_class_at_minus_m_is_not_above_it(m):
    """Cosines 0, -1/4, -1/2 and -1, whatever the length of the rows."""
    x, w, _ = thresholds.at_minus(m)
    decide = negatives.above(x, w, Settings("circle", m), no_target)
    assert [decide(0, k) for k in range(1, len(w))] == thresholds.hard(refloss.CircleLoss(m=m), x, w)[1:].tolist()
    assert not any(decide(0, k) for k in (1, 2))


@pytest.mark.parametrize("apart", [1e-16, 1e-35, 1e-100, 1e-250])
def test_a_cosine_next_to_minus_m_is_told(apart):
    x = np.array([[1.0, 1.0, 1.0, 1.0], [-2.0, -2.0, -2.0, -2.0]])
    w = np.array(
        [[-1.0, apart, 0.0, 0.0], [-1.0, -apart, 0.0, 0.0], [-3.0, 0.0, 0.0, 0.0], [0.0, 3.0 * apart, -3.0, 0.0]]
    )
    decide = negatives.above(x, w, Settings("circle", 0.5), no_target)
    assert [decide(0, k) for k in range(4)] == [True, False, False, True]
    assert [decide(1, k) for k in range(4)] == [True] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_threshold_of_circle_is_the_same_for_every_sample(kind):
    of_target = kind.of(np.array([0.5, -2.0, 1.0]))
    assert negatives.threshold_of(Settings(), of_target) is of_target
    threshold = negatives.threshold_of(Settings("circle", 0.1), of_target)
    assert type(threshold) is kind
    assert threshold.hi.tolist() == [-0.1] * 3
    assert not threshold.lo.any()


def test_the_weight_of_circle_is_0_at_its_threshold_and_so_is_what_it_weighs():
    """Detached, dη/dc rises from 0 at -m; exact it is -2m there, and jumps to 0."""
    c = Pair.of(np.array([[0.9, -0.25, np.nextafter(-0.25, 1.0), -0.5]]))
    for gradient, beside in (("exact", -0.5), ("detached", 2.0**-55)):
        decide = lambda n, k: k == 2  # noqa: E731
        settings = Settings("circle", 0.25, gradient)
        eta_, saved = negatives.forward(c, Pair.of(np.array([-0.25])), np.array([0]), settings, decide)
        assert eta_.hi[0, [1, 3]].tolist() == [0.0, 0.0]
        np.testing.assert_allclose(high(plain(saved.slope))[0], [1.0, 0.0, beside, 0.0], rtol=1e-15, atol=0.0)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_backward_against_differences(settings):
    """1u for the slope, 1u for the product; which classes are hard stays as it is."""
    rng = np.random.default_rng(2)
    c, y = rng.uniform(-1.0, 1.0, (3, 6)), np.array([0, 5, 2])
    threshold = np.array([0.1, -0.4, 0.6])
    _, saved = negatives.forward(Pair.of(c), Pair.of(threshold), y, settings, never)
    upstream = rng.standard_normal(c.shape)
    gradient = high(plain(negatives.backward(upstream, saved)))

    own = np.arange(6) == y[:, None]
    weights = [kept_weight(mpf(number), settings) for number in c.flat]

    def function(c):
        known = zip(c.flat, saved.hard.flat, own.flat, weights, strict=True)
        values = [number if is_own else eta(number, hard, settings, weight) for number, hard, is_own, weight in known]
        return np.array(values).reshape(c.shape)

    checks.against_exact_vjp(function, [c], upstream, [gradient], 2.0 + 1e-9)


def test_where_its_slope_is_0_a_hard_class_has_no_gradient():
    """c = -t / 2, the least that c (t + c) can be."""
    c = Pair.of(np.array([[0.9, 0.25, 0.5]]))
    _, saved = negatives.forward(c, Pair.of(np.array([0.0])), np.array([0]), Settings("curricular", -0.5), never)
    assert high(plain(negatives.backward(np.ones((1, 3)), saved))).tolist() == [[1.0, 0.0, 0.5]]


def test_raised_in_fixed_point():
    """η in units of 2^-bits, each product rounded down: wrong by three units at most."""
    for settings in SETTINGS:
        for c in (0.3, -0.7, 1.0):
            with mp.workdps(120):
                units = negatives.raised(int(mpf(c) * 2**200), settings, 200)
                assert abs(units - eta(mpf(c), True, settings) * mpf(2) ** 200) <= 3


def test_saved_is_what_it_says():
    c = Pair.of(np.array([[0.5, 0.25]]))
    _, saved = negatives.forward(c, Pair.of(np.array([math.pi])), np.array([0]), Settings(), never)
    assert saved._fields == ("hard", "slope")
