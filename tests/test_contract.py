"""The contract: what it promises, on which numbers, and when it warns; the bounds that follow, against mpmath.

The module `refloss.engines.bounds` is tested here, through `refloss.error_bound`.
"""

import math
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pytest
from mpmath import mp

import refloss
from refloss.engines import contract
from refloss.stages import class_angles
from support import cases, checks, exact, nearest, thresholds

U = checks.U
X, W, Y = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[1.0, 0.0], [0.3, 1.0], [-1.0, 0.5]]), [0, 2]


def _random(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def _drawn(loss, random, given=""):
    name = type(loss).__name__
    if name == "CrossEntropy":
        return random.normal(size=(3, 4)) * 5.0, random.integers(0, 4, 3)
    if name == "Triplet":
        return tuple(random.normal(size=(3, 4)) for _ in range(3))
    if name == "KLDivergence":
        return tuple(random.normal(size=(3, 4)) for _ in range(2))
    if name in ("SigLIP", "InfoNCE"):
        return *random.normal(size=(2, 3, 5)), *((4.0, -2.5) if name == "SigLIP" else (8.0,))
    more = (random.normal(size=4),) if name == "SoftmaxLoss" else ()
    more = (0.75,) if name in ("SphereFace2", "UniFace") else more
    more = (random.uniform(-0.5, 1.5, 3),) if given == "m" else more
    if name == "SubCenterArcFace":
        return random.normal(size=(3, 5)), random.normal(size=(4, loss.centers, 5)), random.integers(0, 4, 3)
    return random.normal(size=(3, 5)), random.normal(size=(4, 5)), random.integers(0, 4, 3), *more


LOSSES = [
    refloss.CrossEntropy(),
    refloss.CrossEntropy(label_smoothing=0.2, class_weight=(1.0, 0.5, 2.0, 3.0), reduction="sum"),
    refloss.SoftmaxLoss(),
    refloss.SoftmaxLoss(label_smoothing=0.1, reduction="none"),
    refloss.ModifiedSoftmax(),
    refloss.NormFace(s=4.0),
    refloss.ASoftmax(annealing=1.0),
    refloss.ArcFace(s=8.0, class_weight=(1.0, 0.5, 2.0, 3.0)),
    refloss.CombinedMargin(boundary="monotone", gradient="detached", reduction="sum"),
    refloss.CrossEntropy(logit_scale=0.0625),
    refloss.CrossEntropy(softcap=3.0, reduction="none"),
    refloss.CrossEntropy(z_loss=0.25),
    refloss.CrossEntropy(
        logit_scale=0.5,
        softcap=2.0,
        z_loss=0.25,
        class_weight=(1.0, 0.5, 2.0, 3.0),
        reduction="sum",
        label_smoothing=0.1,
    ),
    refloss.SoftmaxLoss(logit_scale=0.5, softcap=2.0, z_loss=0.25, class_weight=(1.0, 0.5, 2.0, 3.0)),
    refloss.SoftmaxLoss(z_loss=0.25, reduction="none"),
    refloss.CosFace(s=8.0, boundary="conditional"),
    refloss.ArcFace(s=8.0, boundary="hard", reduction="none"),
    refloss.AdaFace(s=8.0, mean=2.0, std=1.0),
    refloss.MagFace(s=8.0, l_a=1.0, u_a=4.0, class_weight=(1.0, 0.5, 2.0, 3.0)),
    refloss.MagFace(s=None, l_a=2.0, u_a=2.5, boundary="hard", reduction="none", label_smoothing=0.1),
    refloss.MagFace(s=8.0, l_a=1.0, u_a=4.0, gradient="detached", reduction="sum"),
    refloss.CurricularFace(s=4.0, t=0.3),
    refloss.CurricularFace(s=None, t=-0.5, reduction="none", label_smoothing=0.1),
    refloss.MVSoftmax(s=None),
    refloss.MVSoftmax(s=4.0, t=3.0, margin="arc", reduction="sum"),
    refloss.SubCenterArcFace(s=8.0),
    refloss.SubCenterArcFace(s=None, centers=2, label_smoothing=0.1, reduction="none"),
    refloss.SphereFaceR(s=4.0),
    refloss.SphereFaceR(s=2.0, version=2),
    refloss.SphereFaceR(m=2.5, s=None, version=2, label_smoothing=0.1, reduction="none"),
    refloss.SphereFaceR(m=5.0, s=4.0, version=2, gradient="detached", reduction="sum"),
    refloss.CircleLoss(s=4.0),
    refloss.CircleLoss(m=0.5, s=None, label_smoothing=0.1, reduction="none"),
    refloss.CircleLoss(s=2.0, gradient="detached", reduction="sum"),
    refloss.InterTopK(s=8.0, k=2),
    refloss.InterTopK(m=0.5, penalty=1.5, k=9, s=None, label_smoothing=0.1, reduction="none"),
    refloss.SphereFace2(s=2.0, weight=3.0),
    refloss.SphereFace2(s=4.0, t=1, reduction="none"),
    refloss.SphereFace2(s=2.0, t=5, gradient="detached", reduction="sum"),
    refloss.UniFace(s=2.0, l=0.5),
    refloss.UniFace(m=0.5, s=4.0, gradient="detached", reduction="none"),
    refloss.SigLIP(),
    refloss.SigLIP(reduction="none"),
    refloss.InfoNCE(),
    refloss.InfoNCE(ways=1, reduction="sum"),
    refloss.InfoNCE(reduction="none"),
    refloss.Triplet(m=5.0),
    refloss.Triplet(m=5.0, squared=False, reduction="none"),
    refloss.KLDivergence(),
    refloss.KLDivergence(form="reverse", reduction="none"),
    refloss.KLDivergence(form="jensen-shannon", reduction="sum"),
]


PER_SAMPLE = refloss.ArcFace | refloss.CosFace | refloss.CombinedMargin
GIVEN = [(loss, "") for loss in LOSSES]
GIVEN += [(loss, "lse") for loss in LOSSES if hasattr(loss, "softcap")]
GIVEN += [(loss, "m") for loss in LOSSES if isinstance(loss, PER_SAMPLE)]


@pytest.mark.parametrize("engine", ["chain", "fused", "dd"])
@pytest.mark.parametrize(("loss", "given"), GIVEN, ids=[f"{loss}, {given}" for loss, given in GIVEN])
def test_a_bound_is_the_promise_times_the_absolute_terms(loss, given, engine):
    """Terms and values are those of mpmath. Logarithms and the scales of rows cost less than 2^-20.

    Some with an upstream gradient of the log-sum-exps, or with margins per sample.
    """
    random = _random(repr(loss))
    inputs = _drawn(loss, random, given)
    shape = np.shape(inputs[1])[:1] if loss.spec.head == "logits" else np.shape(inputs[0])[:1]
    upstream = random.normal(size=shape) if loss.reduction == "none" else -1.7
    followed = {"upstream": upstream} | ({"upstream_lse": random.normal(size=3)} if given == "lse" else {})
    of_value, of_gradients = refloss.error_bound(loss, *inputs, engine=engine, **followed)
    by_name = checks._arrays(loss, inputs)
    numbers = [name for name, array in by_name.items() if array.ndim == 0]
    sizes = by_name["w"].shape if "w" in by_name else (1, 1)
    scales, options = contract.scales(loss.spec, by_name), given == "lse" or contract.has_options(loss.spec, by_name)
    promise = contract.promise(engine, loss.spec.head, scales, *sizes, options=options)
    value = np.asarray(exact.value(loss, *inputs, absolute=True), np.float64)
    whole = promise.value if loss.reduction == "none" else promise.value.max()
    assert of_value == pytest.approx(whole * value, rel=2.0**-20) or (
        loss.reduction != "none" and (promise.value.min() * value * 0.999 <= of_value <= whole * value * 1.001)
    )
    terms = exact.absolute_terms(loss, *inputs, **followed, projected=engine == "dd")
    each = (promise.gradient + promise.sums)[:, None]
    for name in numbers:  # a scale has a share of |G| more, of which a bias has the sum
        more = 0.0 if name == "b" else (2.0**-43 if engine == "dd" else 1.0 / 16.0) * _sum_of_all(loss, terms, inputs)
        assert getattr(of_gradients, name) == pytest.approx(each.max() * (terms[name] + more), rel=2.0**-20), name
    for name, bound in checks.as_dict(of_gradients).items():
        if name in numbers:
            continue
        assert bound.shape == np.shape(inputs[1] if name == "w" else by_name[name])
        size = terms[name].reshape(terms[name].shape + (1,) * (bound.ndim - terms[name].ndim))
        if name in ("w", "b"):  # samples may have scales of their own
            assert (each.min() * size * (1.0 - 2.0**-20) <= bound).all()
            assert (bound <= each.max() * size * (1.0 + 2.0**-20) + 1e-300).all()
        else:
            of_rows = each if bound.ndim == 2 else each[:, 0]
            assert bound == pytest.approx(np.broadcast_to(of_rows * size, bound.shape), rel=2.0**-20)


def _sum_of_all(loss, terms, inputs):
    """The sum of all |G_nk|: that of a bias; of InfoNCE what x of length 1 and a scale of 1 would have."""
    if "b" in terms:
        return terms["b"]
    return float((exact.absolute_terms(loss, *inputs)["x"] * np.linalg.norm(inputs[0], axis=1)).sum()) / inputs[-1]


def test_what_is_promised():
    scale = np.array([1.0, 64.0])
    for engine, value, gradient in (("chain", [16, 256], [32, 512]), ("dd", [4, 4], [8, 8])):
        promise = contract.promise(engine, "margin", scale)
        assert (promise.value / U).tolist() == value
        assert (promise.gradient / U).tolist() == gradient
        assert promise.sums == 0.0
    promise = contract.promise("fused", "linear", scale, 20000, 2048)
    assert (promise.value / U).tolist() == [6 + 516, (6 + 516) * 64]
    assert (promise.gradient / U).tolist() == [2 * 522, 2 * 522 * 64]
    assert promise.sums / U == 16 + 2 + 512 + 2 * 6
    assert (contract.promise("dd", "linear", np.array([2.0**60])).value == 2.0**-32).all()
    for head in ("logits", "triplet"):
        assert contract.promise("chain", head, scale).value / U == pytest.approx(8.0)
        assert contract.promise("fused", head, scale, dtype=np.float32).gradient * 2.0**24 == pytest.approx(16.0)
    assert contract.promise("chain", "divergence", scale).value / U == pytest.approx(48.0)
    assert contract.promise("fused", "divergence", scale, dtype=np.float32).value * 2.0**24 == pytest.approx(16.0)


def test_what_is_promised_with_options():
    """16u for pairs; 48u and 24u S of rows; κ of a sweep is 8 more. dd promises what it always does."""
    scale = np.array([1.0, 64.0, 2.0**60])
    promise = contract.promise("chain", "logits", scale, options=True)
    assert (promise.value / U).tolist() == [16.0, 16.0, 2.0**-98 * 2.0**60 * 2.0**53]
    assert (promise.gradient / U).tolist() == [16.0, 16.0, 2.0**-97 * 2.0**60 * 2.0**53]
    promise = contract.promise("fused", "logits", scale[:2], dtype=np.float32, options=True)
    assert (promise.value * 2.0**24).tolist() == pytest.approx([48.0, 24.0 * 64.0])
    assert (promise.gradient * 2.0**24).tolist() == pytest.approx([48.0, 48.0 * 64.0])
    plain, capped = (contract.promise("fused", "linear", scale[:2], 7, 512, options=it) for it in (False, True))
    assert (capped.value / U).tolist() == [6 + 8 + 512, (6 + 8 + 512) * 64]
    assert capped.sums == plain.sums
    dd = [contract.promise("dd", "logits", scale, options=it) for it in (False, True)]
    assert (dd[0].gradient == dd[1].gradient).all()
    assert (dd[0].value == dd[1].value).all()


def test_the_scale_of_options():
    """1 + max |z'| + 2 σ max |z| / K of logits, of which ±∞ is ±K; of a head σ S (1 + 2 / K). None of plain ones."""
    z = np.array([[1.0, -8.0], [0.5, np.inf], [np.nan, -np.inf]])
    for options, expected in (
        ({}, [1.0, 1.0, 1.0]),
        ({"z_loss": 1.0}, [1.0, 1.0, 1.0]),
        ({"logit_scale": 0.5}, [5.0, 1.25, 1.0]),
        ({"softcap": 2.0}, [1.0 + 2.0 + 8.0, 1.0 + 2.0 + 0.5, 1.0 + 2.0]),
        ({"logit_scale": 0.5, "softcap": 2.0}, [1.0 + 2.0 + 4.0, 1.0 + 2.0 + 0.25, 1.0 + 2.0]),
        ({"softcap": 1e-4}, [1.0 + 1e-4 + 2.0**11, 1.0 + 1e-4 + 2.0**11, 1.0 + 1e-4]),  # saturated
    ):
        spec = refloss.CrossEntropy(**options).spec
        assert contract.scales(spec, {"z": z, "y": np.zeros(3, int)}) == pytest.approx(expected)
    arrays = {"x": np.array([[3.0]]), "w": np.array([[1.0], [-2.0]]), "y": np.zeros(1, int)}
    for options, expected in (({"logit_scale": 0.5}, 3.0), ({"softcap": 4.0}, 9.0), ({"z_loss": 1.0}, 6.0)):
        assert contract.scales(refloss.SoftmaxLoss(**options).spec, arrays) == pytest.approx([expected])
        b = {"b": np.array([0.0, 2.0])}
        assert contract.scales(refloss.SoftmaxLoss(**options).spec, arrays | b) == pytest.approx([expected * 8.0 / 6.0])


def test_the_scale_of_hard_classes():
    """Times the largest slope of c (t + c), 2 + |t|, and 1 more for its own error, or times that of (1 + t) c + t."""
    arrays = {"x": np.array([[3.0, 4.0]]), "w": W, "y": np.zeros(1, int)}
    for loss, expected in (
        (refloss.CurricularFace(s=8.0, t=0.5), 8.0 * 2.5 + 1.0),
        (refloss.CurricularFace(s=None, t=-1.0), 5.0 * 3.0 + 1.0),
        (refloss.MVSoftmax(s=8.0, t=0.5), 12.0),
        (refloss.MVSoftmax(s=None, t=0.0), 5.0),
        (refloss.AdaFace(s=8.0), 8.0),
        (refloss.MagFace(s=None), 5.0),
    ):
        assert contract.scales(loss.spec, arrays) == pytest.approx([expected], rel=4.0 * U)


def test_the_scale_of_other_classes():
    """2S + 1 of squared cosines, whose slope is 2c; times the largest slope of divided angles; of others S itself."""
    arrays = {"x": np.array([[3.0, 4.0]]), "w": W, "y": np.zeros(1, int)}
    edge = np.arccos(2.0**-7 - 1.0)
    for loss, expected in (
        (refloss.CircleLoss(s=8.0), 17.0),
        (refloss.CircleLoss(m=1.0, s=None, gradient="detached"), 11.0),
        (refloss.SphereFaceR(s=8.0), 8.0),
        (refloss.SphereFaceR(s=8.0, version=2), 8.0 * np.sin(edge / 1.5) / (1.5 * np.sin(edge))),
        (refloss.SphereFaceR(m=3.0, s=None, version=2), 5.0 * np.sin(edge / 3.0) / (3.0 * np.sin(edge))),
        (refloss.SphereFaceR(m=30.0, s=8.0, version=2), 8.0),
        (refloss.SphereFaceR(m=1.0, s=8.0, version=2), 8.0),
        (refloss.InterTopK(s=8.0, penalty=3.0), 8.0),
        (refloss.InterTopK(s=None), 5.0),
    ):
        assert contract.scales(loss.spec, arrays) == pytest.approx([expected], rel=64.0 * U)


@pytest.mark.parametrize("m", [1.0 + 2.0**-52, 1.2, 1.4871, 2.0, 4.0, 4.9, 30.0])
def test_slopes_of_divided_angles_are_as_steep_as_that_says(m):
    """For |c| up to 1 - 2^-7: dη/dc at most `steepest_divided` and 4.9; its own, 1.1/sin² and 9/sin times itself.

    Of η as a function of c, cos(arccos(c) / m), by mpmath's derivatives.
    """
    most = contract.steepest_divided(class_angles.Settings("divided", m))
    assert 1.0 <= most <= 4.9
    with mp.workdps(40):
        cosines = [*mp.linspace(2.0**-7 - 1, 1 - 2.0**-7, 60)]
        slopes = [mp.diff(lambda c: mp.cos(mp.acos(c) / m), c) for c in cosines]
        bends = [mp.diff(lambda c: mp.cos(mp.acos(c) / m), c, 2) for c in cosines]
        assert max(map(abs, slopes)) == pytest.approx(most, rel=1e-12) or max(map(abs, slopes)) < 1.0 == most
        for c, slope, bend in zip(cosines, slopes, bends, strict=True):
            sine = mp.sqrt(1 - c**2)
            assert abs(bend) <= 1.1 * slope / sine**2
            assert abs(bend) <= 9.0 * slope / sine


OTHERS = (
    refloss.SphereFaceR(s=2.0, version=2),
    refloss.SphereFaceR(m=7.0, s=2.0, version=2, gradient="detached"),
    refloss.InterTopK(s=2.0, penalty=0.5, k=2),
    refloss.CircleLoss(s=2.0),
)


@pytest.mark.parametrize("engine", ["chain", "dd"])
@pytest.mark.parametrize("loss", OTHERS, ids=repr)
def test_terms_of_other_classes_wherever_they_are(loss, engine):
    """Next to x and opposite to it, where the slope in theta is the term, and on either side of |c| = 1 - 2^-7.

    A class that is parallel to x may be off, though its gradient is 0: a bound knows only the slope.
    """
    for name, (x, w, y) in cases.other_classes(_random(repr(loss))):
        terms = exact.absolute_terms(loss, x, w, y, projected=engine == "dd", digits=400)
        _, bounds = refloss.error_bound(loss, x, w, y, engine=engine)
        arrays = {"x": np.array(x, np.float64), "w": np.array(w, np.float64), "y": np.array(y)}
        promise = contract.promise(engine, "margin", contract.scales(loss.spec, arrays)).gradient[0]
        for name_of_input, size in terms.items():
            bound = getattr(bounds, name_of_input)[:, 0]
            assert (bound >= promise * size * (1.0 - 2.0**-20)).all(), (name, name_of_input)
            if "parallel" not in name:
                assert (bound <= promise * size * (1.0 + 2.0**-20) + 1e-320).all(), (name, name_of_input)


@pytest.mark.parametrize("engine", ["chain", "dd"])
def test_slopes_next_to_0_are_right_relative_to_themselves(engine):
    """θ within 1e-18 of the penalty, and θ/m of π: sin(θ - m') and sin(θ/m) are small differences."""
    x, w = np.random.default_rng(4).standard_normal((1, 4)), np.random.default_rng(5).standard_normal((400, 4))
    angles = exact.angle(np.repeat(x, 400, axis=0), w)
    apart = [abs(theta - float(theta)) for theta in angles]
    k = int(np.argmin(apart))
    assert apart[k] < 1e-18
    for inputs in ((x, w[[k]]), (x * 3e100, -7.0 * w[[k]])):
        penalty = float(exact.angle(*inputs)[0])
        loss = refloss.InterTopK(s=4.0, penalty=penalty, k=1)
        checks.against_exact(
            loss, inputs[0], [inputs[1][0], -x[0] + [0.1, 0.0, 0.2, 0.3]], [1], engine=engine, digits=300
        )
    x, opposite = np.array([[1.0, 0.0]]), [[-1.0, 1e-10], [-1.0, 3e-17], [-1.0, 0.0], [1.0, 0.3]]
    for m in (1.0 + 2.0**-52, 1.0 + 2.0**-40):
        checks.against_exact(refloss.SphereFaceR(m=m, s=4.0, version=2), x, opposite, [3], engine=engine, digits=300)
    checks.against_exact(refloss.InterTopK(s=4.0, penalty=math.pi), x, opposite, [3], engine=engine, digits=300)


@pytest.mark.parametrize("engine", ["chain", "dd"])
def test_a_bound_has_no_jump_at_minus_m_nor_between_nearest_classes(engine):
    """Classes at -m, next to it by an ulp, and with equal cosines: on which side they are is decided exactly."""
    for m in (0.0, 0.25, 0.5, 1.0):
        checks.against_exact(refloss.CircleLoss(m=m, s=8.0), *thresholds.at_minus(m), engine=engine, digits=300)
    for k in (1, 2, 3, 4, 5):
        checks.against_exact(refloss.InterTopK(k=k, s=8.0), *nearest.ties(), engine=engine, digits=300)


def test_the_scale_of_sigmoids_and_pairs():
    """s or t, whatever the bias; of a power of t t times that, and t - 1 more."""
    arrays = {"x": np.array([[3.0, 4.0]]), "w": W, "y": np.zeros(1, int), "b": np.array(1e9)}
    for loss, more, expected in (
        (refloss.SphereFace2(s=8.0, t=3), {}, 26.0),
        (refloss.SphereFace2(s=8.0, t=1), {}, 8.0),
        (refloss.UniFace(s=8.0), {}, 8.0),
        (refloss.SigLIP(), {"t": np.array(5.0)}, 5.0),
        (refloss.InfoNCE(), {"s": np.array(6.0)}, 6.0),
    ):
        assert contract.scales(loss.spec, arrays | more).tolist() == [expected]
    for head in ("sigmoid", "two_way"):
        for engine in ("chain", "fused"):
            promise = contract.promise(engine, head, np.array([1.0, 64.0]), 20, 500)
            assert (promise.value / U).tolist() == [16.0, 256.0]
            assert (promise.gradient / U).tolist() == [32.0, 512.0]
            assert promise.sums == 0.0
        promise = contract.promise("fused", head, np.array([1.0, 2.0**40]), dtype=np.float32)
        assert (promise.value * 2.0**24).tolist() == [16.0, 2.0 ** (40 - 51 + 24)]


@pytest.mark.parametrize("engine", ["chain", "fused", "dd"])
def test_gradients_beyond_the_bound_of_uniface_are_exact(engine):
    """f = 1 and -1 with a bias of 0.5: z = 0.5 and -1.5, of which the latter is held at -1."""
    loss = refloss.UniFace(m=0.0, s=1.0, reduction="none")
    x, w = [[2.0, 0.0], [3.0, 0.0]], [[0.5, 0.0], [-1.0, 0.0]]
    value, gradients = loss.value_and_grad(x, w, [0, 1], 0.5, engine=engine)
    of_value, bounds = refloss.error_bound(loss, x, w, [0, 1], 0.5, engine=engine)
    assert (of_value > 0.0).all()
    assert not gradients.w[1].any()
    assert (bounds.w[1] < 1e-320).all()
    assert (bounds.w[0] > 0.0).all() or engine == "dd"  # whose terms are those after projection
    assert value[1] == pytest.approx(math.log1p(math.e) + math.log1p(math.exp(0.5)), rel=16.0 * U)
    assert isinstance(bounds.b, np.float64)


def test_float32_of_sigmoids_and_pairs_is_the_chain_rounded():
    for loss, inputs in ((refloss.SigLIP(), (X, W[:2], 5.0, -3.0)), (refloss.InfoNCE(), (X, W[:2], 5.0))):
        value, gradients = loss.value_and_grad(*inputs, engine="fused", dtype=np.float32)
        exact_value, exact_gradients = loss.value_and_grad(*inputs)
        assert value == np.float32(exact_value)
        for ours, other in zip(gradients, exact_gradients, strict=True):
            assert (ours == np.float32(other)).all()
        of_value, _ = refloss.error_bound(loss, *inputs, engine="fused", dtype=np.float32)
        assert of_value == pytest.approx(16.0 * 2.0**-24 * exact_value, rel=1e-4)


@pytest.mark.parametrize("engine", ["chain", "dd"])
def test_where_logits_of_sigmoids_know_nothing_the_bound_is_their_error(engine):
    """A loss is off by no more than its logits, times their weights, and a gradient by no more than these weights."""
    for loss, inputs in (
        (refloss.SphereFace2(s=1e40, alpha=0.0), (X, W, Y, 1.0)),
        (refloss.UniFace(s=1e40), (X, W, Y, 1e39)),
        (refloss.SigLIP(reduction="none"), (X, W[:2], 1e40, -1e39)),
        (refloss.InfoNCE(), (X, W[:2], 1e40)),
    ):
        with pytest.warns(refloss.AccuracyWarning):
            value, gradients = loss.value_and_grad(*inputs, engine=engine)
        of_value, bounds = refloss.error_bound(loss, *inputs, engine=engine)
        assert np.isfinite(of_value).all()
        true_value, true = loss.value_and_grad(*inputs, engine="certified")
        assert (np.abs(value - true_value) <= of_value).all()
        for ours, other, bound in zip(gradients, true, bounds, strict=True):
            assert np.isfinite(bound).all()
            assert (np.abs(ours - other) <= bound).all()


def test_what_has_options():
    """A scale, a cap, a z-loss, or an upstream gradient of the log-sum-exp, of a loss on logits."""
    for kind in (refloss.CrossEntropy, refloss.SoftmaxLoss):
        for options in ({"logit_scale": 2.0}, {"softcap": 1.0}, {"z_loss": 1.0}):
            assert contract.has_options(kind(**options).spec, {})
        assert not contract.has_options(kind().spec, {})
        assert contract.has_options(kind().spec, {"upstream_lse": np.zeros(1)})
    assert not contract.has_options(refloss.ArcFace().spec, {})
    assert not contract.has_options(refloss.Triplet().spec, {})


@pytest.mark.parametrize(("terms", "lost"), [(0, 0), (1, 1), (512, 512), (513, 514), (1024, 514), (1025, 516)])
def test_what_a_sum_may_lose(terms, lost):
    assert contract.summed(terms) == lost


def test_certified_is_within_half_an_ulp():
    pytest.importorskip("flint")
    value, gradients = refloss.error_bound(refloss.ArcFace(), X, W, Y, engine="certified")
    rounded, rounded_gradients = refloss.ArcFace().value_and_grad(X, W, Y, engine="certified")
    assert value == np.spacing(rounded) / 2.0
    assert (gradients.x == np.spacing(np.abs(rounded_gradients.x)) / 2.0).all()


def test_rows_that_are_ignored_are_exact():
    value, gradients = refloss.error_bound(refloss.ArcFace(reduction="none"), X, W, [0, -100])
    assert value[1] == 0.0 < value[0]
    assert (gradients.x[1] == 0.0).all()
    assert (gradients.x[0] > 0.0).all()
    _, gradients = refloss.error_bound(refloss.ArcFace(), X, W, [-100, -100])
    assert (gradients.x == 0.0).all()
    assert (gradients.w <= 1e-321).all()


def test_closed_hinges_are_exact():
    anchor = np.array([[0.0, 0.0], [1.0, 1.0]])
    value, gradients = refloss.error_bound(
        refloss.Triplet(reduction="none"), anchor, anchor + 0.1, anchor + np.array([[3.0], [0.2]])
    )
    assert value[0] == 0.0 < value[1]
    assert [(part[0] == 0.0).all() and (part[1] > 0.0).all() for part in gradients] == [True] * 3
    assert refloss.error_bound(refloss.Triplet(), anchor[:1], anchor[:1], anchor[:1] + 9.0)[0] == 0.0


@pytest.mark.parametrize("engine", ["chain", "fused", "dd"])
def test_the_gradient_of_a_margin_may_be_off_where_it_is_0(engine):
    """At θ = 0 the derivative by a margin of 0 is -sin 0: what is left is ρ 16u |s G| of a target with G = p - 1."""
    loss, x = refloss.ArcFace(s=8.0), np.array([[3.0, 0.0]])
    _, gradients = refloss.error_bound(loss, x, W, [0], [0.0], engine=engine)
    promise = contract.promise(engine, "margin", np.array([8.0]), 3, 2)
    g = 8.0 * (1.0 - refloss.softmax(8.0 * W[:, 0] / np.linalg.norm(W, axis=1))[0])
    assert gradients.m == pytest.approx((promise.gradient + promise.sums) * 16.0 * U * g, rel=1e-6)
    assert gradients.m.shape == (1,)


@pytest.mark.parametrize("kind", ["exact", "detached"])
def test_terms_of_a_length_are_none_where_it_is_held(kind):
    """Terms of x and of the value are those of ArcFace with the margin at the bound; inside, there are more."""
    x = X / np.linalg.norm(X, axis=1)[:, None]
    ada = refloss.AdaFace(s=8.0, m=0.25, gradient=kind)  # v = -1 and the rule does nothing
    value, gradients = refloss.error_bound(replace(ada, mean=90.0, std=1.0), x, W, Y)
    plain = refloss.error_bound(refloss.ArcFace(s=8.0, m=0.25, gradient=kind), x, W, Y)
    assert value == pytest.approx(plain[0], rel=1e-9)
    assert gradients.x == pytest.approx(plain[1].x, rel=1e-9)
    assert refloss.error_bound(ada, x, W, Y)[1].x.shape == x.shape
    mag = refloss.MagFace(s=8.0, l_a=2.0, u_a=4.0, l_m=0.25, boundary="none", gradient=kind)
    plain = refloss.error_bound(refloss.ArcFace(s=8.0, m=0.25, gradient=kind), x, W, Y)
    value, gradients = refloss.error_bound(mag, x, W, Y)
    assert value == pytest.approx(plain[0] + 32.0 * U * 35.0 * (2.0 / 16.0 + 0.5), rel=1e-9)
    assert gradients.x == pytest.approx(plain[1].x, rel=1e-9)
    _, gradients = refloss.error_bound(replace(mag, l_a=0.5), x, W, Y)
    assert (gradients.x > plain[1].x + 64.0 * U * 35.0 * (1.0 / 16.0 + 1.0) / 2.0 * 0.99).all()


@pytest.mark.parametrize("engine", ["chain", "dd"])
@pytest.mark.parametrize("apart", [1e-16, 1e-31, 1e-200])
def test_a_bound_has_no_jump_at_a_threshold(engine, apart):
    """Which classes are hard is decided exactly: both kinds are right, next to the threshold and on it."""
    x = np.array([[1.0, 1.0], [2.0, -1.0]])
    w = np.array([[1.0, 0.0], [1.0, apart], [1.0, -apart], [3.0, 0.0], [-1.0, 0.5]])
    for loss in (
        refloss.MVSoftmax(m=0.0, t=2.0, boundary="none"),
        refloss.CurricularFace(m=0.0, t=0.5, boundary="none"),
    ):
        checks.against_exact(loss, x, w, [0, 0], engine=engine, digits=300)


@pytest.mark.parametrize("engine", ["chain", "dd"])
def test_a_steep_function_of_the_length_costs_nothing(engine):
    """v = 0.333 (a - 20) / ε is a difference of two terms of 7 / ε, which pairs do not hold."""
    x = np.array([[20.0, 0.0], [12.0, 16.0], [np.nextafter(20.0, 0.0), 1e-7], [20.0, 1e-8]])
    for eps in (1e-3, 1e-15, 1e-200, 5e-324):
        loss = refloss.AdaFace(s=8.0, std=0.0, eps=eps)
        checks.against_exact(loss, x, W, [0, 1, 2, 0], engine=engine)
    loss = refloss.MagFace(s=8.0, l_a=20.0 - 2.0**-40, u_a=20.0 + 2.0**-40)
    checks.against_exact(loss, x, W, [0, 1, 2, 0], engine=engine)


@pytest.mark.parametrize("engine", ["chain", "fused", "dd"])
def test_where_logits_know_nothing_the_bound_is_as_large_as_a_gap_may_be(engine):
    """A loss is off by no more than the gaps of its logits, and a gradient is between two numbers."""
    x = np.array([[3e100, 4e100]])
    value, gradients = refloss.error_bound(refloss.ModifiedSoftmax(), x, W, [0], engine=engine)
    promise = contract.promise(engine, "margin", np.array([5e100]), 3, 2)
    assert value >= promise.value[0]
    assert np.isfinite(value)
    result = refloss.ModifiedSoftmax().value_and_grad(x, W, [0], engine=engine)
    truth = refloss.ModifiedSoftmax().value_and_grad(x, W, [0], engine="certified")
    assert abs(result[0] - truth[0]) <= value
    for ours, true, bound in zip(result[1], truth[1], gradients, strict=True):
        assert (np.abs(ours - true) <= bound).all()


def test_smoothing_that_a_sum_cannot_hold_keeps_its_terms():
    """A target of 1 beside ones of 1e-17: their sum less the largest is 0 in float64."""
    z = np.array([[0.0, 1.0, 2.0]])
    _, gradients = refloss.error_bound(refloss.CrossEntropy(label_smoothing=3e-17), z, [0])
    terms = exact.absolute_terms(refloss.CrossEntropy(label_smoothing=3e-17), z, [0])["z"]
    assert gradients.z == pytest.approx(8.0 * U * terms, rel=1e-6)


def test_terms_outside_of_float64_do_not_make_a_bound_0_or_nan():
    """‖w‖ of 1e-200 and an upstream gradient of 1e-200 make gradients of 1: their product is in no float64."""
    loss = refloss.NormFace(s=1.0)
    _, one = refloss.error_bound(loss, X, W, Y)
    _, far = refloss.error_bound(loss, X * 1e-200, W * 1e200, Y, upstream=1e-200)
    assert far.x == pytest.approx(one.x, rel=1e-6)
    _, far = refloss.error_bound(loss, X, W * 1e300, Y, upstream=1e-300)
    assert (far.w > 0.0).all()
    _, far = refloss.error_bound(loss, X * 1e-300, W, Y, upstream=1e300)
    assert (far.x == np.inf).all()


def test_auto_is_the_engine_that_it_stands_for(monkeypatch):
    from refloss.engines import dispatch

    assert (
        refloss.error_bound(refloss.ArcFace(), X, W, Y, engine="auto")[0]
        == refloss.error_bound(refloss.ArcFace(), X, W, Y)[0]
    )
    monkeypatch.setitem(dispatch.LARGE, "margin", 1)
    fused = refloss.error_bound(refloss.ArcFace(), X, W, Y, engine="fused")[0]
    assert refloss.error_bound(refloss.ArcFace(), X, W, Y, engine="auto")[0] == fused


def test_float32_has_a_bound_of_its_own():
    value, _ = refloss.error_bound(refloss.NormFace(s=1.0), X, W, Y, engine="fused", dtype=np.float32)
    assert value == pytest.approx(16.0 * 2.0**-24 * refloss.NormFace(s=1.0)(X, W, Y), rel=1e-6)


def test_a_loss_is_asked_for():
    with pytest.raises(TypeError, match=r"^loss must be a loss of refloss"):
        refloss.error_bound(refloss.softmax, X)
    with pytest.raises(TypeError, match=r"^missing a required argument: 'w'$"):
        refloss.error_bound(refloss.ArcFace(), X)
    with pytest.raises(ValueError, match=r"^engine must be one of"):
        refloss.error_bound(refloss.ArcFace(), X, W, Y, engine="exact")


# ------------------------------------------------------------------------------------------------------------- warnings


@pytest.mark.parametrize(
    ("loss", "inputs", "engine", "words"),
    [
        (refloss.NormFace(s=1e18), (X, W, Y), "chain", r"^s of 1e\+18: .* engine='chain' in float64 .*'dd' can"),
        (refloss.CurricularFace(s=1e18), (X, W, Y), "chain", r"^s with t, a scale of 2e\+18: .*'dd' can"),
        (refloss.MVSoftmax(s=None, t=1e6), (X * 1e15, W, Y), "chain", r"^x\[0\] with t, a scale of 2.24e\+21: .*'dd'"),
        (refloss.CircleLoss(s=1e18), (X, W, Y), "chain", r"^s with slopes of other classes, a scale of 2e\+18: .*'dd'"),
        (
            refloss.SphereFaceR(s=None, m=2.0, version=2),
            (X * 1e18, W, Y),
            "fused",
            r"^x\[0\] with slopes of other classes, a scale of 8.94e\+18: .*'dd' can",
        ),
        (refloss.SphereFaceR(s=1e18), (X, W, Y), "chain", r"^s of 1e\+18: .*'dd' can"),
        (refloss.InterTopK(s=1e18), (X, W, Y), "chain", r"^s of 1e\+18: .*'dd' can"),
        (refloss.SphereFace2(s=1e18), (X, W, Y), "chain", r"^s with slopes of other classes, a scale of 3e\+18: .*dd"),
        (refloss.UniFace(s=1e18), (X, W, Y), "fused", r"^s of 1e\+18: .* engine='chain' in float64 .*'dd' can"),
        (refloss.SigLIP(), (X, W[:2], 1e18, 0.0), "chain", r"^t of 1e\+18: .*'dd' can"),
        (refloss.InfoNCE(), (X, W[:2], 1e18), "chain", r"^s of 1e\+18: .*'dd' can"),
        (refloss.InfoNCE(), (X, W[:2], 1e30), "dd", r"^s of 1e\+30: .* engine='certified' can"),
        (refloss.NormFace(s=1e30), (X, W, Y), "dd", r"^s of 1e\+30: .* engine='certified' can"),
        (refloss.ModifiedSoftmax(), (X * [[1.0], [1e20]], W, Y), "chain", r"^x\[1\] of length 1\.12e\+20: .*'dd'"),
        (refloss.SoftmaxLoss(), (X * 1e10, W * 1e10, Y), "chain", r"^x\[0\] and w with a product of len.*'dd' can"),
        (refloss.SoftmaxLoss(), (X * 1e10, W * 1e10, Y), "fused", r"^x\[0\] and w with a product of len.*'dd' can"),
        (refloss.NormFace(s=8e14), (X, W, Y), "fused", r"^s of 8e\+14: .* engine='fused' in .* engine='chain' can"),
        (refloss.ModifiedSoftmax(), (X * 1e200, W, Y), "fused", r"^x\[0\] of length .* engine='certified' can"),
        (refloss.CrossEntropy(logit_scale=1e10), (X * 1e20, [0, 1]), "chain", r"^z\[0\] scaled to 2e\+30: .*'certi"),
        (refloss.CrossEntropy(logit_scale=1e10), (X * 1e5, [0, 1]), "fused", r"^z\[0\] scaled to 2e\+15: .*'chain'"),
        (refloss.SoftmaxLoss(softcap=1e-20), (X, W, Y), "chain", r"^x\[0\] and w with a product of len.*'dd' can"),
        (refloss.SoftmaxLoss(logit_scale=1e18), (X, W, Y), "fused", r"^x\[0\] and w with a product of len.*'dd' can"),
    ],
)  # fmt: skip
def test_nobody_gets_a_number_that_is_silently_worth_nothing(loss, inputs, engine, words):
    with pytest.warns(refloss.AccuracyWarning, match=words):
        loss(*inputs, engine=engine)
    with pytest.warns(refloss.AccuracyWarning, match=words) as warned:
        loss.value_and_grad(*inputs, engine=engine)
    assert len(warned) == 1
    assert issubclass(refloss.AccuracyWarning, RuntimeWarning)


@pytest.mark.parametrize("engine", ["chain", "fused", "dd"])
def test_a_warning_names_the_line_of_the_caller(engine):
    loss = refloss.NormFace(s=1e30)
    with pytest.warns(refloss.AccuracyWarning) as of_value:
        loss(X, W, Y, engine=engine)
    with pytest.warns(refloss.AccuracyWarning) as of_gradients:
        loss.value_and_grad(X, W, Y, engine=engine)
    assert [each.filename for each in (*of_value, *of_gradients)] == [__file__, __file__]


@pytest.mark.parametrize(
    "loss", [refloss.MVSoftmax(s=1e308), refloss.CircleLoss(s=1e308), refloss.SphereFaceR(s=1e308, version=2)], ids=repr
)
def test_a_scale_beyond_float64_warns_of_nothing_else(loss):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        loss([[1.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]], [0])
    assert [each.category for each in warned] == [refloss.AccuracyWarning]


def test_a_trace_warns_too():
    with pytest.warns(refloss.AccuracyWarning, match="engine='chain'"):
        refloss.NormFace(s=1e18).trace(X, W, Y)


def test_float32_is_worth_nothing_sooner():
    with pytest.warns(refloss.AccuracyWarning, match=r"engine='fused' in float32 .* engine='chain' can"):
        refloss.NormFace(s=2e6)(X, W, Y, engine="fused", dtype=np.float32)


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (refloss.NormFace(s=1e12), (X, W, Y)),
        (refloss.ModifiedSoftmax(), (X * [[1.0], [1e30]], W, [0, -100])),  # the long one is ignored
        (refloss.SoftmaxLoss(), (X, W, Y, [0.0, -1e30, 0.0])),  # a class masked by its bias
        (refloss.SoftmaxLoss(), (X * [[1.0], [np.nan]], W, [0, -100], [0.0, 1.0, 0.0])),  # and by its label
        (refloss.CrossEntropy(), ([[1e300, -1e300]], [0])),  # logits are what they are
        (refloss.CrossEntropy(z_loss=0.5), ([[1e150, -1e150]], [0])),
        (refloss.CrossEntropy(softcap=30.0), ([[1e300, -1e300]], [0])),  # saturated
        (refloss.CrossEntropy(logit_scale=1e10), ([[1.0, 2.0], [1e300, 0.0]], [0, -100])),
        (refloss.CrossEntropy(logit_scale=2.0), ([[1.0, -np.inf]], [0])),
        (refloss.SigLIP(), (X, W[:2], 10.0, -1e300)),  # a bias is added to pairs
    ],
)
@pytest.mark.parametrize("engine", ["chain", "fused", "dd"])
def test_no_warning_without_need(loss, inputs, engine):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss.value_and_grad(*inputs, engine=engine)


def test_float32_warns_of_a_cap_that_leaves_large_logits():
    with pytest.warns(refloss.AccuracyWarning, match=r"engine='fused' in float32 .* engine='chain' can"):
        refloss.CrossEntropy(softcap=1e6)(X * 1e7, [0, 1], engine="fused", dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refloss.CrossEntropy(softcap=30.0)(X * 1e7, [0, 1], engine="fused", dtype=np.float32)
        refloss.CrossEntropy(logit_scale=2.0)([[1e30, 0.0], [0.0, 1.0]], [-100, 1], engine="fused", dtype=np.float32)


def test_biases_count_unless_they_mask_their_class():
    """A bias that is 800 and two products below the largest leaves its class a probability of 0."""
    spec, x, w = refloss.SoftmaxLoss().spec, np.array([[3.0], [4.0]]), np.array([[1.0], [-2.0], [0.5]])
    for b, larger in (([0.0, -5.0, 2.0], 5.0), ([0.0, -900.0, 1.0], 1.0), ([-1e30, -1e30, -1e30], 1e30)):
        scales = contract.scales(spec, {"x": x, "w": w, "y": np.zeros(2), "b": np.array(b)})
        assert scales == pytest.approx(np.array([6.0, 8.0]) + larger, rel=1e-12)


def test_certified_never_warns():
    pytest.importorskip("flint")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refloss.NormFace(s=1e18)(X, W, Y, engine="certified")


# ---------------------------------------------------------------------------------------------------- shares of a bound


def test_a_share_is_an_error_over_its_bound():
    assert checks.share(1.5, mp.mpf(1), 0.25) == 2.0
    assert checks.share([1.0, np.nan], np.array([mp.mpf(1), mp.nan]), [0.0, 0.0]) == 0.0
    assert checks.share([np.nan], np.array([mp.mpf(1)]), [np.inf]) == np.inf
    assert checks.share([1.0], np.array([mp.mpf(2)]), [0.0]) == np.inf
    assert checks.share([np.inf], np.array([mp.mpf(2)]), [1.0]) == np.inf
    assert checks.share([np.inf], np.array([mp.mpf(2)]), [np.inf]) == 0.0


@pytest.mark.parametrize("loss", cases.HEADS[:3], ids=repr)
def test_allowed_is_the_promise_in_u(loss):
    value, gradient = checks.allowed(loss, X, W)
    assert value >= 16.0
    assert gradient == 2.0 * value


@pytest.mark.parametrize("squared", [True, False])
def test_bounds_of_a_mean_are_those_of_a_sum_over_the_rows(squared):
    points = np.random.default_rng(0).standard_normal((3, 4, 5))
    mean, total = (
        refloss.error_bound(refloss.Triplet(m=9.0, squared=squared, reduction=reduction), *points)
        for reduction in ("mean", "sum")
    )
    for one, whole in zip((mean[0], *mean[1]), (total[0], *total[1]), strict=True):
        np.testing.assert_allclose(one, whole / 4.0, rtol=1e-12)


@pytest.mark.parametrize("squared", [True, False])
def test_bounds_of_an_open_triplet_are_8u_of_the_gradients_of_its_distances(squared):
    a, p, n = np.random.default_rng(1).standard_normal((3, 4, 5))
    _, bound = refloss.error_bound(refloss.Triplet(m=99.0, squared=squared, reduction="sum"), a, p, n)
    near, far = (2.0 * np.linalg.norm(a - it, axis=1) if squared else np.ones(4) for it in (p, n))
    for bounds, length in zip(bound, (near + far, near, far), strict=True):
        np.testing.assert_allclose(bounds, np.broadcast_to(8.0 * 2.0**-53 * length[:, None], (4, 5)), rtol=1e-6)
