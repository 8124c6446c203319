"""Losses with margins per sample and with hard classes: what they are without these, bit by bit; running statistics."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

import refloss
from support import cases, checks, exact, strategies

ENGINES = ["chain", "dd", "fused", "certified"]
U = checks.U


def same(first, second, inputs, engine="chain", *, others=None):
    """The same bits, of the value and every gradient, except for the sign of zero."""
    if engine == "certified":
        pytest.importorskip("flint")
    value, gradients = checks.value_and_gradients(first, *inputs, engine=engine)
    expected, by_name = checks.value_and_gradients(second, *(others or inputs[:3]), engine=engine)
    np.testing.assert_array_equal(value, expected)
    for name, gradient in by_name.items():
        np.testing.assert_array_equal(gradient, gradients[name], err_msg=name)


def shared(loss):
    names = ("reduction", "label_smoothing", "class_weight", "ignore_index", "gradient")
    return {name: getattr(loss, name) for name in names} | {"s": getattr(loss, "s", None)}


def ordinary(seed=3, n=12, c=6, d=5):
    """Targets from near their class to opposite it, one row ignored."""
    random = np.random.default_rng(seed)
    x, w, y = cases.ordinary(random, n, c, d)
    x += np.linspace(-2.0, 2.0, n)[:, None] * w[y]
    return x, w, np.where(np.arange(n) == 4, -100, y)


# ---------------------------------------------------------------------------------------------- the same bits as others

SHARED = (
    {"s": 64.0},
    {"s": 8.0, "label_smoothing": 0.1},
    {"s": None, "class_weight": (1.0, 2.0, 0.5, 1.0, 3.0, 1.0)},
)
WHOLE = [loss for loss in strategies.PER_SAMPLE if getattr(loss, "m1", 1.0) in (1.0, 1.35)]


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "fused"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("gradient", ["exact", "detached"])
def test_losses_contain_others(engine, reduction, gradient):
    """Not of engine "fused": with hard classes it adds in another order, or leaves the work to the chain."""
    inputs = ordinary()
    for settings_of in (
        {},
        {"s": 8.0, "label_smoothing": 0.1},
        {"s": None, "class_weight": (1.0, 2.0, 0.5, 1.0, 3.0, 1.0)},
    ):
        common = {"reduction": reduction, "gradient": gradient, "s": 64.0} | settings_of
        cos, arc, norm = refloss.CosFace, refloss.ArcFace, refloss.NormFace
        for special, plain in (
            (refloss.AdaFace(h=0.0, m=0.5, **common), cos(m=0.5, **common)),
            (refloss.AdaFace(m=0.0, **common), norm(**common)),
            (refloss.MagFace(l_m=0.5, u_m=0.5, regularizer=0.0, **common), arc(m=0.5, boundary="easy", **common)),
            (refloss.MVSoftmax(t=0.0, m=0.35, boundary="none", **common), cos(m=0.35, **common)),
            (refloss.MVSoftmax(t=0.0, m=0.5, margin="arc", boundary="none", **common), arc(m=0.5, **common)),
            (refloss.MVSoftmax(t=0.0, m=0.0, **common), norm(**common)),
        ):
            same(special, plain, inputs, engine)


def curves_and_plain(common, k=3):
    """Losses with curves of other classes, at settings that leave these as they are, and what they are then."""
    norm, arc, combined = refloss.NormFace, refloss.ArcFace, refloss.CombinedMargin
    sphere, inter = refloss.SphereFaceR, refloss.InterTopK
    yield from ((sphere(m=1.0, version=version, **common), norm(**common)) for version in (1, 2))
    yield from ((sphere(m=m, **common), combined(m1=m, m2=0.0, m3=0.0, boundary="clamp", **common)) for m in (1.5, 3.0))
    yield inter(penalty=0.0, k=k, **common), arc(m=0.2, boundary="continuous", **common)
    yield inter(penalty=0.0, m=0.0, boundary="none", **common), norm(**common)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("gradient", ["exact", "detached"])
def test_curves_of_other_classes_contain_others(engine, reduction, gradient):
    """CircleLoss has no such setting: with m = 0 too its cosines are squared."""
    for settings_of in SHARED:
        common = {"reduction": reduction, "gradient": gradient} | settings_of
        for special, plain in curves_and_plain(common):
            same(special, plain, ordinary(), engine)


@settings(max_examples=40)
@given(strategies.cases(among=[refloss.NormFace()]), st.integers(1, 6))
def test_curves_of_other_classes_contain_others_in_hard_cases(case, k):
    loss, inputs = case
    for special, plain in curves_and_plain(shared(loss), k):
        same(special, plain, inputs)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("loss", strategies.CURVES, ids=repr)
def test_a_detached_gradient_leaves_the_value_as_it_is(loss, engine):
    if engine == "certified":
        pytest.importorskip("flint")
    for settings_of in SHARED:
        own = replace(loss, **settings_of)
        np.testing.assert_array_equal(
            replace(own, gradient="detached")(*ordinary(), engine=engine), own(*ordinary(), engine=engine)
        )


@settings(max_examples=40)
@given(strategies.curve_cases())
def test_a_detached_gradient_leaves_the_value_as_it_is_in_hard_cases(case):
    loss, inputs = case
    first, other = (replace(loss, gradient=gradient) for gradient in ("exact", "detached"))
    for engine in ("chain", "dd"):
        np.testing.assert_array_equal(first(*inputs, engine=engine), other(*inputs, engine=engine))


@pytest.mark.parametrize("engine", ENGINES)
def test_inter_top_k_of_as_many_classes_as_there_are_is_that_of_all_others(engine):
    if engine == "certified":
        pytest.importorskip("flint")
    x, w, y = ordinary()
    same(refloss.InterTopK(k=5), refloss.InterTopK(k=1000), (x, w, y), engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("loss", [refloss.CurricularFace(m=0.0, t=0.5), refloss.InterTopK(m=0.0)], ids=repr)
def test_without_a_margin_the_usual_rule_does_nothing(loss, engine):
    if engine == "certified":
        pytest.importorskip("flint")
    same(loss, replace(loss, boundary="none"), ordinary(), engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rule", strategies.RULES[:-1])
def test_where_no_class_is_hard_curricularface_is_arcface(engine, rule):
    """Other classes behind x, the target's angle with its margin in front of it."""
    x = np.array([[1.0, 0.25, 0.0], [1.0, -0.5, 0.25]])
    w = np.array([[1.0, 0.0, 0.125], [-1.0, 0.5, 0.25], [-0.5, -1.0, 2.0], [-1.0, 0.5, -1.0]])
    same(refloss.CurricularFace(boundary=rule, t=0.5), refloss.ArcFace(boundary=rule), (x, w, [0, 0]), engine)
    same(refloss.MVSoftmax(margin="arc", m=0.5, s=64.0), refloss.ArcFace(), (x, w, [0, 0]), engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "loss", [loss for loss in strategies.PER_SAMPLE if getattr(loss, "m1", 1.0) in (1.0, 1.35)], ids=repr
)
def test_a_constant_margin_given_is_the_setting(loss, engine):
    x, w, y = ordinary()
    m = loss.m2 if isinstance(loss, refloss.CombinedMargin) else loss.m
    same(loss, loss, (x, w, y, np.full(len(x), m)), engine, others=(x, w, y))


@settings(max_examples=60)
@given(strategies.cases(among=strategies.PER_SAMPLE))
def test_a_constant_margin_given_is_the_setting_in_hard_cases(case):
    loss, (x, w, y) = case
    m = loss.m2 if isinstance(loss, refloss.CombinedMargin) else loss.m
    same(loss, loss, (x, w, y, np.full(len(x), m)))


@settings(max_examples=60)
@given(strategies.cases(among=[refloss.CosFace(m=0.35), refloss.ArcFace(m=0.5)]))
def test_losses_contain_others_in_hard_cases(case):
    loss, inputs = case
    common = shared(loss)
    if isinstance(loss, refloss.CosFace):
        same(refloss.MVSoftmax(t=0.0, m=loss.m, boundary="none", **common), loss, inputs)
    else:
        same(refloss.MVSoftmax(t=0.0, m=loss.m, margin="arc", boundary="none", **common), loss, inputs)
        easy = replace(loss, boundary="easy")
        same(refloss.MagFace(l_m=loss.m, u_m=loss.m, regularizer=0.0, **common), easy, inputs)


PAIR_ENGINES = ["chain", "dd", "certified"]


def of_pairs(seed=5, n=6, d=4):
    """Pairs from nearly parallel to opposite, two embeddings of them alike."""
    random = np.random.default_rng(seed)
    x, w = random.standard_normal((2, n, d))
    x += np.linspace(-3.0, 3.0, n)[:, None] * w
    x[1], x[2] = x[0], w[2] * 1.5
    return x, w


@pytest.mark.parametrize("engine", PAIR_ENGINES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("s", [0.5, 20.0])
def test_one_way_of_infonce_is_normface(s, reduction, engine):
    """With labels 0 to N - 1: the bits of the value and of both gradients."""
    x, w = of_pairs()
    same(
        refloss.InfoNCE(ways=1, reduction=reduction),
        refloss.NormFace(s=s, reduction=reduction),
        (x, w, s),
        engine,
        others=(x, w, np.arange(len(x))),
    )


@pytest.mark.parametrize("engine", PAIR_ENGINES)
@pytest.mark.parametrize("loss", [refloss.CLIP(), refloss.CLIP(reduction="none")], ids=repr)
def test_clip_the_other_way_round_exchanges_its_gradients(loss, engine):
    if engine == "certified":
        pytest.importorskip("flint")
    x, w = of_pairs()
    value, gradients = checks.value_and_gradients(loss, x, w, 20.0, engine=engine)
    other, turned = checks.value_and_gradients(loss, w, x, 20.0, engine=engine)
    np.testing.assert_array_equal(value, other)
    for name, of_turned in (("x", "w"), ("w", "x"), ("s", "s")):
        np.testing.assert_array_equal(gradients[name], turned[of_turned], err_msg=name)


@pytest.mark.parametrize("engine", ["chain", "dd"])
def test_siglip_the_other_way_round_exchanges_its_gradients(engine):
    """Rows are added up in place of columns: twice the contract, and not the same bits."""
    loss, (x, w), numbers = refloss.SigLIP(), of_pairs(), (10.0, -3.0)
    value, gradients = checks.value_and_gradients(loss, x, w, *numbers, engine=engine)
    other, turned = checks.value_and_gradients(loss, w, x, *numbers, engine=engine)
    of_value, of_gradients = refloss.error_bound(loss, x, w, *numbers, engine=engine)
    assert abs(value - other) <= 2.0 * of_value
    for name, of_turned in (("x", "w"), ("w", "x"), ("t", "t"), ("b", "b")):
        assert (np.abs(gradients[name] - turned[of_turned]) <= 2.0 * getattr(of_gradients, name)).all(), name


@pytest.mark.parametrize("engine", PAIR_ENGINES)
def test_an_exponent_of_1_has_no_slope_to_detach(engine):
    x, w, y = ordinary()
    for b in ((), (1.5,)):
        exact_one, detached = (refloss.SphereFace2(t=1, gradient=gradient) for gradient in ("exact", "detached"))
        same(exact_one, detached, (x, w, y, *b), engine, others=(x, w, y, *b))


@pytest.mark.parametrize("engine", PAIR_ENGINES)
def test_a_detached_gradient_of_questions_leaves_the_value_as_it_is(engine):
    if engine == "certified":
        pytest.importorskip("flint")
    inputs = (*ordinary(), 1.5)
    for loss in strategies.QUESTIONS:
        detached = replace(loss, gradient="detached")
        np.testing.assert_array_equal(detached(*inputs, engine=engine), loss(*inputs, engine=engine))
        if isinstance(loss, refloss.UniFace):
            same(detached, loss, inputs, engine, others=inputs)


@pytest.mark.parametrize("engine", PAIR_ENGINES)
@pytest.mark.parametrize("s", [1.0, 40.0])
def test_siglip_without_a_bias_is_uniface_without_a_margin(s, engine):
    """With l = 1 and b = 0 no logit is beyond the bound."""
    if engine == "certified":
        pytest.importorskip("flint")
    x, w = of_pairs()
    value, gradients = checks.value_and_gradients(refloss.SigLIP(), x, w, s, 0.0, engine=engine)
    other, of_labels = checks.value_and_gradients(refloss.UniFace(m=0.0, s=s), x, w, np.arange(6), 0.0, engine=engine)
    np.testing.assert_array_equal(value, other)
    for name in ("x", "w"):
        np.testing.assert_array_equal(gradients[name], of_labels[name])
    np.testing.assert_array_equal(gradients["b"], -of_labels["b"])


@pytest.mark.parametrize("engine", PAIR_ENGINES)
def test_one_pair_of_siglip_is_one_softplus(engine):
    """cos θ = 3/5: z = 10 · 3/5 - 10 = -4."""
    if engine == "certified":
        pytest.importorskip("flint")
    loss, inputs = refloss.SigLIP(), ([[3.0, 4.0]], [[2.0, 0.0]], 10.0, -10.0)
    value, gradient = loss.value_and_grad(*inputs, engine=engine)
    sigma = 1.0 / (1.0 + math.exp(-4.0))
    assert value == pytest.approx(math.log1p(math.exp(-4.0)) + 4.0, rel=1e-15)
    assert gradient.b == pytest.approx(-sigma, rel=1e-15)
    assert gradient.t == pytest.approx(-0.6 * sigma, rel=1e-15)
    np.testing.assert_allclose(
        gradient.x, [[-sigma * 10.0 * 0.8 * 0.8 / 5.0, sigma * 10.0 * 0.8 * 0.6 / 5.0]], rtol=1e-14
    )


@pytest.mark.parametrize("engine", PAIR_ENGINES)
def test_one_pair_of_infonce_has_no_loss(engine):
    if engine == "certified":
        pytest.importorskip("flint")
    for ways in (1, 2):
        value, gradient = refloss.InfoNCE(ways=ways).value_and_grad([[3.0, 4.0]], [[2.0, 0.0]], 10.0, engine=engine)
        assert value == 0.0
        assert not any(np.any(part) for part in gradient)


def test_the_regularizer_is_a_term_of_its_own():
    """No class weight counts for it, and no smoothing; the mean divides it by the samples that count."""
    x, w, y = ordinary()
    common = {"class_weight": (1.0, 2.0, 0.5, 1.0, 3.0, 1.0), "label_smoothing": 0.1, "l_a": 1.0, "u_a": 3.0}
    a = np.clip(np.linalg.norm(x, axis=1), 1.0, 3.0)
    terms = np.where(y == -100, 0.0, a / 9.0 + 1.0 / a)
    for reduction, expected in (("none", terms), ("sum", terms.sum()), ("mean", terms.sum() / (len(y) - 1))):
        with_it, without = (
            refloss.MagFace(reduction=reduction, regularizer=weight, **common)(x, w, y) for weight in (35.0, 0.0)
        )
        np.testing.assert_allclose(with_it - without, 35.0 * expected, rtol=1e-12)


def test_class_weights_of_0_leave_the_regularizer():
    """It pulls, though no class counts: along x, and by (1/u² - 1/a²) of λ."""
    x, w = np.array([[0.0, 50.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    loss = refloss.MagFace(class_weight=(0.0, 0.0), reduction="sum")
    value, gradient = loss.value_and_grad(x, w, [0])
    assert math.isclose(value, 35.0 * (50.0 / 110.0**2 + 1.0 / 50.0), rel_tol=1e-15)
    np.testing.assert_allclose(gradient.x, [[0.0, 35.0 * (1.0 / 110.0**2 - 1.0 / 50.0**2)]], rtol=1e-14, atol=1e-300)
    assert not gradient.w.any()


# -------------------------------------------------------------------------------------------------- running statistics


def test_adafaces_statistics_are_those_of_the_lengths():
    """Sums of N lengths, rounded once, squares and roots: 8u of each."""
    x = np.random.default_rng(5).standard_normal((20, 6)) * 10.0 ** np.linspace(-5.0, 3.0, 20)[:, None]
    for momentum in (0.01, 0.3, 1.0):
        loss = refloss.AdaFace(momentum=momentum, m=0.3, s=30.0, reduction="sum")
        new = loss.updated(x)
        with mp.workdps(40):
            lengths = [min(max(row.norm(), mpf(1e-3)), mpf(100)) for row in exact.rows(x)]
            mean = mp.fsum(lengths) / 20
            std = mp.sqrt(mp.fsum((a - mean) ** 2 for a in lengths) / 19)
            alpha = mpf(momentum)
            assert abs(new.mean - (alpha * mean + (1 - alpha) * 20)) <= 8 * U * (mean + 20)
            assert abs(new.std - (alpha * std + (1 - alpha) * 100)) <= 8 * U * (std + mean + 100)
        assert replace(new, mean=20.0, std=100.0) == loss
        assert loss == refloss.AdaFace(momentum=momentum, m=0.3, s=30.0, reduction="sum")


def test_adafaces_statistics_are_the_same_however_x_is_stored():
    x = np.arange(1.0, 13.0).reshape(4, 3)
    expected = refloss.AdaFace().updated(x)
    for other in (x.tolist(), x.astype(np.float32), x.astype(int), np.asfortranarray(x), x[::-1]):
        assert refloss.AdaFace().updated(other) == expected
    assert refloss.AdaFace(momentum=0.0).updated(x) == refloss.AdaFace(momentum=0.0)
    even = refloss.AdaFace(momentum=1.0).updated([[3.0, 4.0], [0.0, 5.0], [5.0, 0.0]])
    assert (even.mean, even.std) == (5.0, 0.0)
    assert math.isfinite(even([[3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]], [0]))


@pytest.mark.parametrize("momentum", [0.0, 0.01, 0.3, 1.0])
def test_curricularfaces_t_is_the_mean_cosine_of_the_targets_that_count(momentum):
    """A cosine 1u, the mean 2u, a product and a sum 2u: 8u."""
    x, w, y = ordinary()
    loss = refloss.CurricularFace(momentum=momentum, t=0.25, s=30.0)
    new = loss.updated(x, w, y)
    kept = np.flatnonzero(y != -100)
    with mp.workdps(40):
        cosines = exact.cosine(x, w)
        mean = mp.fsum(cosines[n, y[n]] for n in kept) / len(kept)
        alpha = mpf(momentum)
        assert abs(new.t - (alpha * mean + (1 - alpha) * mpf(0.25))) <= 8 * U
    assert replace(new, t=0.25) == loss == refloss.CurricularFace(momentum=momentum, t=0.25, s=30.0)
    spoilt = np.where((y == -100)[:, None], np.nan, x)
    assert loss.updated(spoilt, w, y) == new
    assert loss.updated(x, w, np.full(len(y), -100)) == loss
    assert loss.updated(x.astype(np.float32), w, y).t == pytest.approx(new.t, abs=1e-7)


def test_one_sample_has_a_mean_cosine():
    assert refloss.CurricularFace(momentum=1.0).updated([[3.0, 0.0]], [[1.0, 0.0]], [0]).t == 1.0
    assert refloss.CurricularFace(momentum=1.0).updated([[3.0, 0.0]], [[-2.0, 0.0]], [0]).t == -1.0


@settings(max_examples=30)
@given(st.floats(-1.0, 1.0), strategies.heads(refloss.CurricularFace(), ignored=True))
def test_t_stays_in_its_range(t, inputs):
    new = refloss.CurricularFace(t=t, momentum=0.3).updated(*inputs)
    assert -1.0 <= new.t <= 1.0
