"""The contract of engine "dd": 4u of the loss, 8u of a gradient row's terms after projection, 0 where that is 0."""

from __future__ import annotations

import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
from mpmath import mp, mpf

import refloss
from refloss.engines.dd import DoubleDouble, _nearly_parallel
from refloss.error_free import Pair
from support import cases, checks, exact, thresholds


def _random(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()) + 1)


def _check(name, loss, *inputs, **options):
    try:
        checks.against_exact(loss, *inputs, engine="dd", **options)
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from None


@pytest.mark.parametrize("loss", cases.HEADS, ids=repr)
def test_heads_keep_the_contract(loss):
    for name, inputs in cases.heads(loss, _random(repr(loss))):
        if not loss.class_weight or len(inputs[1]) == len(loss.class_weight):
            digits = 300 if "1e-200" in name else 400 if name.startswith("other classes") else 60
            _check(name, loss, *inputs, digits=digits)


@pytest.mark.parametrize("loss", cases.LINKS, ids=repr)
def test_sigmoids_and_pairs_keep_the_contract(loss):
    random = _random(repr(loss))
    for name, inputs in cases.links(loss, random):
        rows = len(inputs[0]) if loss.reduction == "none" else ()
        digits = 300 if "e-200" in name or "1e+300" in name else 400 if name.startswith("other classes") else 60
        _check(name, loss, *inputs, upstream=random.standard_normal(rows), digits=digits)


@pytest.mark.parametrize("loss", cases.CROSS_ENTROPIES, ids=repr)
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_cross_entropy_keeps_the_contract(loss, classes):
    for name, inputs in cases.logits(_random(repr(loss)), classes):
        _check(name, loss, *inputs)


@pytest.mark.parametrize("loss", cases.TRIPLETS, ids=repr)
def test_triplet_keeps_the_contract(loss):
    for name, inputs in cases.triplets(_random(repr(loss))):
        _check(name, loss, *inputs)


@pytest.mark.parametrize("loss", cases.DIVERGENCES, ids=repr)
def test_divergences_keep_the_contract(loss):
    for name, inputs in cases.divergences(_random(repr(loss))):
        _check(name, loss, *inputs)


STEEP = (
    refloss.ArcFace(s=128.0),
    refloss.CosFace(s=128.0),
    refloss.ASoftmax(s=128.0),
    refloss.NormFace(s=1.0),
    refloss.CombinedMargin(s=128.0, m1=1.35, boundary="monotone"),
    refloss.ArcFace(s=128.0, gradient="detached", label_smoothing=0.1, reduction="sum"),
    refloss.CurricularFace(s=128.0, t=-1.0, label_smoothing=0.1),
    refloss.MVSoftmax(s=128.0, t=2.0),
    refloss.SphereFaceR(s=128.0, version=2),
    refloss.SphereFaceR(m=4.0, s=16.0, version=2, gradient="detached"),
    refloss.CircleLoss(),
    refloss.InterTopK(s=128.0, penalty=0.3, k=3, label_smoothing=0.1),
)


@pytest.mark.parametrize("loss", STEEP, ids=repr)
@pytest.mark.parametrize("apart", [1e-3, 1e-8, 1e-9, 3e-10, 1e-12, 1e-16])
def test_other_classes_next_to_x_and_opposite_to_it(loss, apart):
    """At 1e-9 the work passes from the wide branch to the narrow one; both must be right relative to the residual.

    mpmath, whose differences are good to 10^-digits of the terms before projection, needs more digits here.
    """
    for d in (2, 5, 64):
        random = _random(f"{loss} {apart} {d}")
        x, w, _ = cases.ordinary(random, 2, 6, d)
        w[1], w[2] = 2.0 * x[0] + apart * random.standard_normal(d), -3.0 * x[0] + apart * random.standard_normal(d)
        w[4] = 4.0 * x[1]  # exactly
        _check(f"{d}", loss, x, w, np.array([0, 3]), digits=400)


def test_gradients_of_parallel_classes_are_exactly_0():
    x = np.array([[3.0, 1.0, -2.0]])
    w = np.array([[6.0, 2.0, -4.0], [-3.0, -1.0, 2.0], [1.5, 0.5, -1.0]])
    _, grad = refloss.NormFace(s=4.0).value_and_grad(x, w, [0], engine="dd")
    assert not grad.x.any()
    assert not grad.w.any()
    assert refloss.NormFace(s=4.0).value_and_grad(x, w, [0], engine="chain")[1].x.any()  # which promises less


@pytest.mark.parametrize("loss", [refloss.ArcFace(s=128.0), refloss.ASoftmax(s=128.0), refloss.SoftmaxLoss()], ids=repr)
@pytest.mark.parametrize("theta", [1.0, 1e-6, np.pi - 0.5 + 1e-8])
def test_heads_keep_the_contract_at_the_widest(loss, theta):
    random = _random(repr(loss))
    x, w, y = cases.at_angle(random, theta, 2, 3, 4096)
    checks.against_exact(loss, x, w, y, engine="dd", entries=cases.some_entries(random, x, w, y))


@pytest.mark.parametrize("build", cases.WIDE.values(), ids=cases.WIDE)
def test_heads_keep_the_contract_at_real_widths(build):
    x, w, y = build(_random("wide"))
    loss = refloss.ArcFace()
    checks.against_exact(loss, x, w, y, engine="dd", entries=cases.some_entries(_random("entries"), x, w, y))


IN_BLOCKS = (
    (refloss.ArcFace(s=30.0), ()),
    (refloss.ASoftmax(), ()),
    (refloss.SoftmaxLoss(), ()),
    (refloss.ArcFace(s=30.0), (np.array([0.5, -0.25, 0.0, 1.0, 0.1]),)),
    (refloss.MagFace(s=30.0, l_a=0.5, u_a=2.0), ()),
    (refloss.CurricularFace(s=30.0, t=0.25), ()),
    (refloss.MVSoftmax(s=None), ()),
    (refloss.SphereFaceR(version=2), ()),
    (refloss.CircleLoss(s=30.0), ()),
    (refloss.InterTopK(s=None, k=2), ()),
    (refloss.SubCenterArcFace(s=30.0), ()),
    (refloss.SubCenterArcFace(s=None, centers=2), ()),
)


@pytest.mark.parametrize(("loss", "margins"), IN_BLOCKS, ids=repr)
def test_blocks_change_nothing_that_is_promised(loss, margins, monkeypatch):
    """Blocks of a sample, or of a class, where the work would else be one block."""
    from refloss.engines import dd

    x, w, y = cases.ordinary(_random("blocks"), 5, 7, 3)
    y[:2] = 6  # a class that the last block must find
    w[2] = 2.0 * x[1]  # and one for the narrow branch
    if isinstance(loss, refloss.SubCenterArcFace):
        x, w, y = cases.with_centers(loss.centers, _random("blocks"), x, w, y)
    inputs = (x, w, y, *margins)
    whole = loss.value_and_grad(*inputs, engine="dd")
    blocks = dd._blocks
    monkeypatch.setattr(dd, "_blocks", lambda count, width, entries: blocks(count, width, 2 * width))
    cut = loss.value_and_grad(*inputs, engine="dd")
    assert abs(cut[0] - whole[0]) <= 2.0 * checks.U * whole[0]
    checks.against_exact(loss, *inputs, engine="dd", result=cut, digits=100)


@pytest.mark.parametrize(
    ("loss", "numbers"),
    [
        (refloss.SphereFace2(s=8.0), (0.5,)),
        (refloss.UniFace(s=2.0), (0.5,)),
        (refloss.SigLIP(reduction="none"), (8.0, -3.0)),
        (refloss.InfoNCE(), (8.0,)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("upstream", [1.0, 1e-200])
def test_blocks_change_nothing_of_sigmoids_and_pairs(loss, numbers, upstream, monkeypatch):
    """A sample a block; one of the upstream gradients of "none" is beyond what float64 numbers have room for."""
    from refloss.engines import dd

    x, w, y = cases.ordinary(_random("blocks"), 5, 7, 3)
    w[2] = 2.0 * x[1]
    inputs = (x, w[:5], *numbers) if isinstance(loss, (refloss.SigLIP, refloss.InfoNCE)) else (x, w, y, *numbers)
    weights = np.array([1.0, 2.0, upstream, 0.5, -1.0]) if loss.reduction == "none" else upstream
    blocks = dd._blocks
    monkeypatch.setattr(dd, "_blocks", lambda count, width, entries: blocks(count, width, width))
    cut = loss.value_and_grad(*inputs, upstream=weights, engine="dd")
    assert np.array_equal(cut[0], loss(*inputs, engine="dd"))
    checks.against_exact(loss, *inputs, upstream=weights, engine="dd", result=cut, digits=400)


REDUCED = [
    replace(loss, **changes)
    for loss in (
        refloss.ArcFace(),
        refloss.ASoftmax(m=3),
        refloss.SoftmaxLoss(),
        refloss.AdaFace(mean=1.0, std=1.0),
        refloss.MagFace(l_a=1.0, u_a=4.0),
        refloss.CurricularFace(t=0.5),
        refloss.SphereFaceR(version=2),
        refloss.CircleLoss(s=64.0),
        refloss.InterTopK(k=3),
    )
    for changes in (
        {"reduction": "sum"},
        {"reduction": "none"},
        {"label_smoothing": 0.1},
        {"class_weight": (1.0, 2.0, 0.5, 3.0, 1.5), "label_smoothing": 0.01},
        {"class_weight": (1.0, -2.0, 0.5, -3.0, 1.5), "label_smoothing": 0.3},
        {"ignore_index": 2},
    )
]


@pytest.mark.parametrize("loss", REDUCED, ids=repr)
def test_every_setting(loss):
    random = _random(repr(loss))
    x, w, y = cases.ordinary(random, 4, 5, 3)
    y[1] = 2
    upstream = random.standard_normal(4 if loss.reduction == "none" else ())
    result = loss.value_and_grad(x, w, y, upstream=upstream, engine="dd")
    checks.against_exact(loss, x, w, y, upstream=upstream, result=result, engine="dd")
    assert np.array_equal(loss(x, w, y, engine="dd"), result[0])
    if loss.ignore_index == 2:
        assert not result[1].x[1].any()
    if isinstance(loss, refloss.SoftmaxLoss):
        b = random.standard_normal(5)
        checks.against_exact(loss, x, w, y, b, upstream=upstream, engine="dd")
    if isinstance(loss, refloss.ArcFace):
        checks.against_exact(loss, x, w, y, random.uniform(-1.0, 1.0, 4), upstream=upstream, engine="dd")


@pytest.mark.parametrize("loss", [refloss.CrossEntropy(), refloss.CrossEntropy(reduction="none")], ids=repr)
def test_logits_that_are_not_finite_come_out_as_of_the_chain(loss):
    z = np.array([[np.nan, 0.0], [np.inf, 0.0], [-np.inf, 0.0], [-np.inf, 0.0], [-np.inf, -np.inf], [1.0, 2.0]])
    for row, label in [(row, label) for row in z for label in (0, 1)]:
        for own in (loss, replace(loss, label_smoothing=0.1)):
            chain, dd = (own.value_and_grad(row[None], [label], engine=engine) for engine in ("chain", "dd"))
            np.testing.assert_allclose(dd[0], chain[0], rtol=8 * checks.U, atol=0.0)
            np.testing.assert_allclose(dd[1].z, chain[1].z, rtol=16 * checks.U, atol=0.0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_rows_ignored(reduction):
    x, w, y = np.ones((3, 2)), np.array([[1.0, 2.0], [3.0, 1.0]]), np.full(3, -100)
    for loss in (refloss.ArcFace(reduction=reduction), refloss.SoftmaxLoss(reduction=reduction)):
        value, grad = loss.value_and_grad(x, w, y, engine="dd")
        np.testing.assert_array_equal(value, loss(x, w, y, engine="chain"))
        assert not grad.x.any()
        assert not grad.w.any()
    for loss in (refloss.SphereFace2(reduction=reduction), refloss.UniFace(reduction=reduction)):
        for engine in ("chain", "dd", "certified"):
            value, grad = loss.value_and_grad(x, w, y, 1.0, engine=engine)
            np.testing.assert_array_equal(value, {"mean": np.nan, "sum": 0.0, "none": np.zeros(3)}[reduction])
            assert not any(np.any(part) for part in grad)


def test_rows_that_weigh_nothing_have_no_mean():
    """As in torch, where smoothing adds something to be divided by that 0, too."""
    for smoothing in (0.0, 0.1):
        loss = refloss.CrossEntropy(class_weight=(0.0, 1.0), label_smoothing=smoothing)
        for engine in ("chain", "dd"):
            value, grad = loss.value_and_grad([[1.0, 2.0]], [0], engine=engine)
            assert np.isnan(value)
            assert np.isnan(grad.z).all()


def test_logits_that_float64_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="logits that float64 can hold"):
        refloss.SoftmaxLoss()([[1e200, 0.0]], [[1.0, 0.0], [1e200, 0.0]], [0], engine="dd")
    with pytest.raises(ValueError, match="logits that float64 can hold"):
        refloss.ModifiedSoftmax()([[1.7e308, 1.7e308]], [[1.0, 1.0], [1.0, 0.0]], [0], engine="dd")
    for engine in ("chain", "dd"):
        with pytest.raises(ValueError, match="logits that float64 can hold"):
            refloss.SigLIP()([[1.0, 0.0]], [[1.0, 0.0]], 1e308, 1e308, engine=engine)


def test_equal_logits_are_equal_at_any_scale():
    """Pairs of logits of 1e100 may be 1e70 apart; classes in any multiple, and the target, which has its own branch."""
    same = [[0.3, 0.1]] * 3
    assert refloss.ModifiedSoftmax()([[0.6e100, 0.7e100]], same, [0], engine="dd") == math.log(3.0)
    multiples = np.array([[1.0, 2.0, -3.0]]) * np.array([[1.0], [8.0], [-1.0], [3.0], [-7.0]])
    permuted = np.array([[0.1, 0.7, 0.4, 0.9], [0.9, 0.1, 0.4, 0.7], [0.4, 0.1, 0.9, 0.7]])
    for s in (1e13, 1e50, 1e300):
        for y in (0, 1, 3):  # x is on the side of these, and classes 2 and 4 are opposite
            assert refloss.NormFace(s=s)([[0.3, 0.2, -0.9]], multiples, [y], engine="dd") == math.log(3.0)
        assert refloss.NormFace(s=s)(np.ones((1, 4)), permuted, [1], engine="dd") == math.log(3.0)
        assert refloss.SoftmaxLoss()(s * np.ones((1, 4)), permuted, [1], [0.1] * 3, engine="dd") == math.log(3.0)


@pytest.mark.parametrize("kind", [refloss.CurricularFace, refloss.MVSoftmax])
@pytest.mark.parametrize("s", [1e13, 1e50, 1e300])
def test_equal_hard_classes_are_equal_at_any_scale(kind, s):
    """Three classes in multiples, the target far away: each has a third of the probability, and of the gradient."""
    x, w = [[0.3, 0.2, -0.9]], np.array([[1.0, 2.0, -3.0]]) * np.array([[1.0], [3.0], [7.0]])
    target = [[-0.3, 0.1, 0.9]]
    _, grad = kind(s=s, reduction="sum").value_and_grad(x, np.vstack([target, w]), [0], engine="dd")
    of_directions = grad.w[1:] * np.linalg.norm(w, axis=1)[:, None]
    assert of_directions == pytest.approx(of_directions[[0, 0, 0]], rel=16.0 * checks.U)


@pytest.mark.parametrize("s", [1e13, 1e50, 1e300])
@pytest.mark.parametrize(
    "loss",
    [
        refloss.SphereFaceR(m=1.7, version=2),
        refloss.InterTopK(k=3),
        refloss.InterTopK(m=0.0, k=1, penalty=1e-20, boundary="none"),
        refloss.CircleLoss(),
    ],
    ids=repr,
)
def test_equal_curves_of_other_classes_are_equal_at_any_scale(loss, s):
    """Three classes in multiples, the target far away: each has a third of the gradient; or one has it, by 1e-20."""
    x, w = [[0.3, 0.2, -0.9]], np.array([[1.0, 2.0, -3.0]]) * np.array([[1.0], [3.0], [7.0]])
    loss, target = replace(loss, s=s, reduction="sum"), [[-0.3, 0.1, 0.9]]
    _, grad = loss.value_and_grad(x, np.vstack([target, w]), [0], engine="dd")
    of_directions = grad.w[1:] * np.linalg.norm(w, axis=1)[:, None]
    if getattr(loss, "k", 3) == 3:
        assert of_directions == pytest.approx(of_directions[[0, 0, 0]], rel=16.0 * checks.U)
    elif s * 1e-20 > 1e3:
        assert of_directions[0].any()
        assert not of_directions[1:].any()


@pytest.mark.parametrize("s", [1e13, 1e50, 1e300])
def test_easy_classes_of_circle_loss_are_0_at_any_scale(s):
    """Three of them, and a target opposite to x: log 3 and (4 - 1/16) s, each class with a third of the probability."""
    x, w = [[1.0, 0.0]], [[-2.0, 0.0], [-1.0, 0.1], [-1.0, -0.1], [-3.0, 0.3]]
    loss = refloss.CircleLoss(s=s)
    value, grad = loss.value_and_grad(x, w, [0], engine="dd")
    assert value == pytest.approx(refloss.CrossEntropy()([[-3.9375 * s, 0.0, 0.0, 0.0]], [0]), rel=4.0 * checks.U)
    assert not grad.x.any()
    assert not grad.w.any()


@pytest.mark.parametrize("s", [None, 1e18, 1e100])
@pytest.mark.parametrize(
    "loss",
    [
        refloss.SphereFaceR(version=2),
        refloss.SphereFaceR(m=1.0 + 2.0**-52, version=2),
        refloss.InterTopK(m=0.0, k=2, boundary="none"),
        refloss.InterTopK(k=1, penalty=3.0),
        refloss.CircleLoss(),
        refloss.CircleLoss(m=1.0, gradient="detached"),
    ],
    ids=repr,
)
def test_huge_scales_of_other_classes_cost_nothing(loss, s):
    """4u and 8u at any scale, against mpmath: classes all over the place, in multiples, opposite, or nearly alike."""
    loss, random = replace(loss, s=s), _random(f"{loss} {s}")
    for d in (2, 5):
        x, w = random.standard_normal((2, d)), random.standard_normal((4, d))
        x *= 1e40 / np.linalg.norm(x, axis=1)[:, None] if s is None else 1.0
        multiples = w[:1] * np.array([[1.0], [-1.0], [3.0], [1.0 + 2.0**-50]])
        beside = np.round(8.0 * w[:1]) + 0.5 + (np.arange(d) == 1) * np.array([[0.0], [1e-14], [-1e-13], [0.0]])
        for classes in (w, multiples, beside):
            inputs = (x, classes, [0, 3])
            result = loss.value_and_grad(*inputs, engine="dd")
            assert exact.value_error(result[0], exact.value(loss, *inputs)) <= 4.0
            true = exact.gradients(loss, *inputs, digits=400)
            for name, terms in exact.absolute_terms(loss, *inputs, projected=True, digits=400).items():
                assert exact.row_error(getattr(result[1], name), true[name], terms) <= 8.0, name


@pytest.mark.parametrize("apart", [1e-12, 1e-31, 1e-100, 1e-300])
def test_the_side_of_a_threshold_counts_however_near_it_is(apart):
    """Cosines of classes and of the target, less no margin, that agree to 300 digits: one is hard, and one not."""
    x, w = [[1.0, 1.0]], np.array([[1.0, 0.0], [1.0, apart], [1.0, -apart], [3.0, 0.0]])
    for s in (8.0, 1e50):
        loss = refloss.MVSoftmax(m=0.0, t=1.0, s=s, margin="arc", boundary="none")
        for engine in ("chain", "dd"):
            _, grad = loss.value_and_grad(x, w, [0], engine=engine)
            assert np.abs(grad.w[1]).max() > 4.0 * np.abs(grad.w[2:]).max()


HARD = (
    refloss.CurricularFace(s=8.0, t=0.3),
    refloss.MVSoftmax(s=8.0),
    refloss.MVSoftmax(s=8.0, margin="arc", m=0.5, t=1.0),
)


@pytest.mark.parametrize("loss", HARD, ids=repr)
def test_a_thousand_classes_built_onto_the_threshold_are_told(loss):
    """Half of them above it, all within 1e-16 or so."""
    x, w, y = thresholds.near(loss, _random(repr(loss)), 1000)
    assert 300 < thresholds.hard(loss, x, w).sum() < 700
    assert thresholds.misjudged(loss, x, w, y, engine="dd") == 0


@pytest.mark.parametrize("s", [1e13, 1e50, 1e300])
def test_logits_of_0_and_equal_pairs_are_so_at_any_scale(s):
    """Embeddings at right angles are a question of log 2; pairs in multiples of each other have all the same loss."""
    value, grad = refloss.SigLIP().value_and_grad([[0.1, 0.2, 0.2]], [[0.2, 0.1, -0.2]], s, 0.0, engine="dd")
    assert (value, grad.t, grad.b) == (math.log(2.0), 0.0, -0.5)
    ones, multiples = np.ones((3, 3)), np.array([[1.0, 2.0, -3.0]]) * np.array([[1.0], [3.0], [7.0]])
    value, grad = refloss.SigLIP().value_and_grad(ones, -multiples, s, 0.0, engine="dd")  # cosines of 0
    assert value == 3.0 * math.log(2.0)
    loss = refloss.SphereFace2(m=0.0, s=s, t=2, alpha=0.5, weight=s)  # of cosines of 0 g is -1/2
    value = loss([[0.1, 0.2, 0.2]], [[0.2, 0.1, -0.2]] * 2, [0], s / 2.0, engine="dd")
    assert value == math.log(2.0)
    for ways in (1, 2):
        value, grad = refloss.InfoNCE(ways=ways).value_and_grad(multiples, 5.0 * multiples, s, engine="dd")
        assert value == math.log(3.0)
        assert not grad.x.any()


@pytest.mark.parametrize("s", [1e12, 1e13, 1e18, 1e60])
def test_huge_scales_of_sigmoids_and_pairs_cost_nothing(s):
    """4u and 8u at any scale, against mpmath: a bias that takes logits next to 0, and pairs that are nearly alike."""
    random = _random(f"{s}")
    x, w = random.standard_normal((2, 2, 3))
    x[1] = x[0] * (1.0 + 2.0**-50 * np.arange(3))
    cosine = float(x[0] @ w[1] / np.linalg.norm(x[0]) / np.linalg.norm(w[1]))
    powered = 2.0 * ((1.0 + cosine) / 2.0) ** 3 - 1.0
    for loss, inputs in (
        (refloss.SigLIP(), (x, w, s, -s * cosine)),
        (refloss.SphereFace2(s=s), (x, w, [0, 0], -s * (powered + 0.4))),
        (refloss.SphereFace2(s=s), (x, w, [1, 0], -s * (powered - 0.4))),
        (refloss.UniFace(s=s), (x, w, [0, 0], s * cosine)),
        (refloss.UniFace(s=s), (x, w, [0, 1], s * (cosine - 0.4))),
        (refloss.InfoNCE(), (x, w, s)),
        (refloss.InfoNCE(ways=1), (x[[0, 0]], w, s)),
    ):
        result = loss.value_and_grad(*inputs, engine="dd")
        assert exact.value_error(result[0], exact.value(loss, *inputs, digits=200)) <= 4.0
        true = exact.gradients(loss, *inputs, digits=400)
        for name, terms in exact.absolute_terms(loss, *inputs, projected=True, digits=400).items():
            ours = np.atleast_1d(getattr(result[1], name))
            assert exact.row_error(ours, np.atleast_1d(true[name]), np.atleast_1d(terms)) <= 8.0, name


def test_gradients_of_parallel_pairs_are_exactly_0():
    x = np.array([[3.0, 1.0, -2.0], [1.5, 0.5, -1.0]])
    for loss, numbers in ((refloss.SigLIP(), (4.0, -1.0)), (refloss.InfoNCE(), (4.0,))):
        _, grad = loss.value_and_grad(x, x[::-1] * [[2.0], [-7.0]], *numbers, engine="dd")
        assert not grad.x.any()
        assert not grad.w.any()


HUGE = [
    refloss.ModifiedSoftmax(),
    refloss.NormFace(s=1e18),
    refloss.NormFace(s=1e100),
    refloss.ArcFace(s=1e100),
    refloss.ArcFace(s=1e100, boundary="keep"),
    refloss.SoftmaxLoss(),
    refloss.SoftmaxLoss(label_smoothing=0.1),
    refloss.CurricularFace(s=1e18, t=0.5),
    refloss.CurricularFace(s=1e100, t=-1.0),
    refloss.MVSoftmax(s=1e100, m=0.0, boundary="none"),
    refloss.MVSoftmax(s=None, t=1e6),
]


@pytest.mark.parametrize("size", [1e10, 1e18, 1e100, 1e200])
@pytest.mark.parametrize("loss", HUGE, ids=repr)
def test_huge_scales_cost_nothing(loss, size):
    """4u and 8u at any scale: classes all over the place, alike, in multiples, next to each other by 1e-15 or 1e-30."""
    random = _random(f"{loss} {size}")
    for d in (2, 3, 7):
        x, w = random.standard_normal((2, d)), random.standard_normal((5, d))
        x *= size / np.linalg.norm(x, axis=1)[:, None]
        alike = w[:1] * np.array([[1.0], [1.0], [0.25], [1.0 + 2.0**-50], [1.0]])
        beside = np.round(8.0 * w[:1]) + 0.5 + (np.arange(d) == 1) * np.array([[0.0], [0.0], [1e-14], [-1e-13], [0.0]])
        for classes in (w, alike, beside, np.where(np.abs(beside) < 1.0, 1e-30, beside)):
            for bias in ((), (np.round(random.standard_normal(5)),))[: 1 + isinstance(loss, refloss.SoftmaxLoss)]:
                inputs = (x, classes, [0, 3], *bias)
                result = loss.value_and_grad(*inputs, engine="dd")
                true = refloss.enclose(loss, *inputs, digits=20)
                assert abs(result[0] - true.value.midpoint) <= 4.0 * checks.U * true.value.midpoint
                terms = exact.absolute_terms(loss, *inputs, projected=True, digits=400)
                for name, ball in true.grad.items():
                    error = exact.row_error(getattr(result[1], name), exact.exact(ball.midpoint), terms[name])
                    assert error <= 8.0, (name, error)


@pytest.mark.parametrize("loss", [refloss.SubCenterArcFace(s=1e100), refloss.SubCenterArcFace(s=None, m=0.0)], ids=repr)
def test_huge_scales_of_centers_cost_nothing(loss):
    """Centers that stand for different classes, the same or next to each other by an ulp: 4u and 8u, as without."""
    random = _random(f"{loss}")
    for _ in range(4):
        x, w = random.standard_normal((2, 4)), random.standard_normal((5, 3, 4))
        x *= 1e60 / np.linalg.norm(x, axis=1)[:, None]
        w[1, 2], w[3, 0] = x[0] / 1e60, x[0] / 1e60 * (1.0 + 2.0**-50 * np.arange(4))
        w[2, 1], w[4] = w[1, 2], w[0, [1, 0, 2]]
        result = loss.value_and_grad(x, w, [0, 1], engine="dd")
        true = refloss.enclose(loss, x, w, [0, 1], digits=20)
        assert abs(result[0] - true.value.midpoint) <= 4.0 * checks.U * true.value.midpoint
        terms = exact.absolute_terms(loss, x, w, [0, 1], projected=True, digits=400)
        for name, ball in true.grad.items():
            error = exact.row_error(getattr(result[1], name), exact.exact(ball.midpoint), terms[name])
            assert error <= 8.0, (name, error)


def test_equal_logits_of_centers_are_equal_at_any_scale():
    """The largest logits are those of classes with the same nearest center, each at another place of its class."""
    near, far = [0.3, 0.1, 0.2], [-1.0, 2.0, 0.0]
    w = np.array([[near, far], [far, near], [far, far]])
    for s in (1e13, 1e50, 1e300):
        value = refloss.SubCenterArcFace(s=s, m=0.0, centers=2)([[1.0, 0.0, 0.5]], w, [0], engine="dd")
        assert value == math.log(2.0)


def test_products_that_float64_cannot_hold_beside_logits_that_it_can():
    """The largest entries of x and w never meet: 1e400, but logits of 1."""
    x, w = [[1e200, 1e-200]], [[1e-200, 1e200], [1e-200, 1e200], [-1e-200, 0.0]]
    assert refloss.SoftmaxLoss()(x, w, [0], engine="dd") == refloss.SoftmaxLoss()(x, w, [0], engine="certified")


def test_only_float64_results():
    with pytest.raises(ValueError, match="dtype"):
        refloss.ArcFace()([[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [0], engine="dd", dtype=np.float32)


def test_same_bits_on_every_run():
    x, w, y = cases.ordinary(_random("bits"), 6, 9, 5)
    first, again = (refloss.ArcFace().value_and_grad(x, w, y, engine="dd") for _ in range(2))
    assert first[0] == again[0]
    assert all(np.array_equal(a, b) for a, b in zip(first[1], again[1], strict=True))


# -------------------------------------------------------------------------------------------------------- the numbers


def pairs(*values):
    random = np.random.default_rng(7)
    hi = np.array(values)
    return DoubleDouble(hi, random.uniform(-0.4, 0.4, hi.shape) * np.spacing(hi))


def test_log1p_keeps_its_bound():
    a = pairs(*10.0 ** np.random.default_rng(8).uniform(-280.0, 12.0, 300))
    logarithms = a.log1p()
    with mp.workdps(330):
        for hi, lo, a_hi, a_lo in zip(logarithms.hi, logarithms.lo, a.hi, a.lo, strict=True):
            true = mp.log1p(mpf(a_hi) + mpf(a_lo))
            assert abs(mpf(hi) + mpf(lo) - true) <= 64 * mpf(2) ** -106 * true
    ends = DoubleDouble.of(np.array([0.0, np.inf, np.nan])).log1p()
    np.testing.assert_array_equal(ends.hi, [0.0, np.inf, np.nan])


def test_a_double_double_keeps_all_its_bits_and_its_kind():
    a, b = pairs(1.0, 2.0, 3.0), Pair.of(np.array([4.0, 5.0, 6.0]))
    assert a.rounded() is a
    for result in (
        a + b,
        b + a,
        a - b,
        b - a,
        a * b,
        b * a,
        a / b,
        b / a,
        2.0 * a,
        a / 2.0,
        1.0 / a,
        1.0 - a,
        -a,
        a[1:],
    ):
        assert isinstance(result, DoubleDouble)
    assert isinstance(DoubleDouble.of(b), DoubleDouble)
    assert np.array_equal((b - a).hi, -(a - b).hi)
    assert np.array_equal((1.0 / a * a).hi, np.ones(3))


def test_losses_at_the_end_of_the_range():
    """Of 1e-307, a 256th would be subnormal."""
    for gap in (690.0, 700.0, 704.0, 706.0, 707.0):
        checks.against_exact(refloss.CrossEntropy(), np.array([[gap, 0.0]]), [0], engine="dd")


def test_operands_of_different_shapes_and_of_none():
    a = DoubleDouble.of(np.arange(6.0).reshape(2, 3))
    assert np.array_equal((a + a[:, :1]).hi, a.hi + a.hi[:, :1])
    assert np.array_equal((a * DoubleDouble.of(2.0)).hi, 2.0 * a.hi)
    assert (a[0, 1] / a[1, 2]).hi == 0.2
    assert (a[:0] + 1.0).shape == (0, 3)


def test_classes_next_to_x_are_found_on_both_sides():
    c = DoubleDouble.of(np.array([[1.0, 1.0 - 2.0**-53, -1.0, 0.5], [1.0, -1.0, 1.0 - 2.0**-60, 0.0]]))
    c.lo[0, 1], c.lo[1, 0] = 2.0**-54, -(2.0**-60)
    indices = _nearly_parallel(c, np.array([2, 1]))
    assert list(zip(*(part.tolist() for part in indices), strict=True)) == [(0, 0), (1, 2)]


def test_projected_terms_are_what_is_left_of_the_terms():
    """exact.absolute_terms(projected=True), the measure of this contract, on a case that can be done by hand."""
    x, w = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 1e-9], [2.0, 0.0]])
    loss = refloss.NormFace(s=2.0)
    p = refloss.softmax([[0.0, 2.0, 2.0]])[0]
    terms = exact.absolute_terms(loss, x, w, [0], projected=True)
    np.testing.assert_allclose(terms["w"], 2.0 * p * [(1 - p[0]) / p[0], 1e-9, 0.0], rtol=1e-9)
    np.testing.assert_allclose(terms["x"], [terms["w"][0] + terms["w"][1]], rtol=1e-9)
    np.testing.assert_allclose(exact.absolute_terms(loss, x, w, [0])["w"][1:], p[1:] * [2.0, 1.0], rtol=1e-9)


def test_values_alone_are_those_that_come_with_gradients():
    random = _random("values")
    inputs = tuple(random.standard_normal((3, 4, 5)))
    for loss in cases.TRIPLETS:
        assert np.array_equal(loss(*inputs, engine="dd"), loss.value_and_grad(*inputs, engine="dd")[0])
    for loss, numbers in ((refloss.SigLIP(), (4.0, -1.0)), (refloss.InfoNCE(), (4.0,))):
        args = (*inputs[:2], *numbers)
        assert loss(*args, engine="dd") == loss.value_and_grad(*args, engine="dd")[0]
    z, y = random.standard_normal((3, 4)), [0, 1, 2]
    assert refloss.CrossEntropy()(z, y, engine="dd") == refloss.CrossEntropy().value_and_grad(z, y, engine="dd")[0]


@pytest.mark.parametrize("name", cases.BEYOND)
def test_what_fits_comes_out_whatever_overflows_on_the_way(name):
    loss, inputs, upstream = cases.BEYOND[name]
    checks.against_certified(loss, *inputs, upstream=upstream, engine="dd")


@pytest.mark.parametrize("seed", range(60))
def test_extreme_inputs_keep_the_contract(seed):
    loss, inputs, upstream = cases.extreme(np.random.default_rng(seed))
    checks.against_certified(loss, *inputs, upstream=upstream, engine="dd")


@pytest.mark.parametrize("name", ["upstream of many sizes", "classes of very different lengths next to x"])
def test_blocks_change_nothing_at_the_ends_of_the_range(name, monkeypatch):
    from refloss.engines import dd

    blocks, (loss, inputs, upstream) = dd._blocks, cases.BEYOND[name]
    monkeypatch.setattr(dd, "_blocks", lambda count, width, entries: blocks(count, width, width))
    checks.against_certified(loss, *inputs, upstream=upstream, engine="dd")


def test_gaps_beyond_float64_of_logits_within_it():
    """A gap of 2 s = 2e308 is a loss of 1e308 in the mean of two rows."""
    x, w = [[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0]]
    assert refloss.NormFace(s=1e308)(x, w, [0, 1], engine="dd") == 1e308
    value = refloss.SoftmaxLoss()([[1e154, 0.0]] * 2, [[1e154, 0.0], [-1e154, 0.0]], [0, 1], engine="dd")
    assert abs(value / 1e308 - 1.0) <= 4.0 * 2.0**-53


def test_rows_in_blocks_are_as_each_alone():
    """A block is a row here: of 2^16 classes, some next to embeddings, and of 2^16 dimensions."""
    random, n = np.random.default_rng(3), 6
    x, w = random.standard_normal((n, 3)), random.standard_normal((2**16 + 1, 3))
    x[1:, 2] = 0.0
    w[10 : 9 + n] = x[1:] + 2.0**-90 * np.eye(3)[2]
    points = random.standard_normal((3, n, 2**16 + 1))
    for loss, inputs in (
        (refloss.NormFace(s=8.0, reduction="none"), (x, w, np.arange(n))),
        (refloss.Triplet(reduction="none"), tuple(points)),
        (refloss.KLDivergence(reduction="none"), tuple(points[:2])),
    ):
        value, grad = loss.value_and_grad(*inputs, engine="dd")
        for i in range(n):
            row = [it[i : i + 1] if len(it) == n else it for it in inputs]
            alone, own = loss.value_and_grad(*row, engine="dd")
            assert value[i] == alone[0]
            assert all(np.array_equal(one[i], other[0]) for one, other in zip(grad, own, strict=True) if len(one) == n)


def test_a_class_next_to_an_embedding_may_be_the_target_of_another():
    loss, x = refloss.NormFace(s=4.0), np.array([[3.0, 4.0, 0.0], [1.0, 2.0, -1.0]])
    w = np.array([[1.0, 0.5, 0.0], [3.0, 4.0, 2.0**-40], [0.0, 1.0, 1.0]])
    _check("target of another", loss, x, w, np.array([0, 1]))
