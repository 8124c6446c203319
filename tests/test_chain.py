"""The contract of engine "chain": every loss at every hard case by name, against mpmath."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest

import refloss
from support import cases, checks


def _random(name: str) -> np.random.Generator:
    """A generator of its own for each case, the same on every run."""
    return np.random.default_rng(zlib.crc32(name.encode()))


@pytest.mark.parametrize("loss", cases.HEADS, ids=repr)
def test_heads_keep_the_contract(loss):
    for name, inputs in cases.heads(loss, _random(repr(loss))):
        digits = {"digits": 300} if "1e-200" in name else {}
        if loss.class_weight and len(inputs[1]) != 5:
            continue  # the weights are for five classes
        _check(name, loss, *inputs, **digits)


@pytest.mark.parametrize("loss", cases.LINKS, ids=repr)
def test_sigmoids_and_pairs_keep_the_contract(loss):
    random = _random(repr(loss))
    for name, inputs in cases.links(loss, random):
        rows = len(inputs[0]) if loss.reduction == "none" else ()
        digits = {"digits": 300} if "e-200" in name or "1e+300" in name else {}
        _check(name, loss, *inputs, upstream=random.standard_normal(rows), **digits)


@pytest.mark.parametrize("loss", [refloss.ArcFace(), refloss.ASoftmax(), refloss.CosFace(s=1.0), refloss.SoftmaxLoss()])
@pytest.mark.parametrize("build", cases.WIDE.values(), ids=cases.WIDE)
def test_heads_keep_the_contract_at_real_widths(loss, build):
    x, w, y = build(_random(repr(loss)))
    checks.against_exact(loss, x, w, y, entries=cases.some_entries(_random("entries"), x, w, y))


@pytest.mark.parametrize("loss", cases.CROSS_ENTROPIES, ids=repr)
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_cross_entropy_keeps_the_contract(loss, classes):
    for name, inputs in cases.logits(_random(repr(loss)), classes):
        _check(name, loss, *inputs)


@pytest.mark.parametrize("name", ["ordinary", "confident, gap 20", "confidently wrong, gap 700", "soft targets"])
def test_cross_entropy_keeps_the_contract_with_a_thousand_classes(name):
    _check(name, refloss.CrossEntropy(), *dict(cases.logits(_random(name), 1000))[name])


@pytest.mark.parametrize("loss", cases.TRIPLETS, ids=repr)
def test_triplet_keeps_the_contract(loss):
    for name, inputs in cases.triplets(_random(repr(loss))):
        _check(name, loss, *inputs)


@pytest.mark.parametrize("loss", cases.DIVERGENCES, ids=repr)
def test_divergences_keep_the_contract(loss):
    for name, inputs in cases.divergences(_random(repr(loss))):
        _check(name, loss, *inputs)


def _check(name, loss, *inputs, **precision):
    try:
        checks.against_exact(loss, *inputs, **precision)
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from None


# -------------------------------------------------------------------------------- found by those who tried to break it


def test_classes_of_very_different_lengths_do_not_share_a_scale():
    """The gradient of a long class weight is tiny; a short one beside it must not push it below the normal range."""
    for long, short in ((1e160, 1e-160), (1e200, 1e-200)):
        w = np.array([[long, long], [3.0 * short, short], [0.3, 1.0]])
        checks.against_exact(refloss.ArcFace(s=4.0), np.array([[1.0, 2.0], [2.0, -1.0]]), w, [0, 1], digits=300)


def test_many_equal_samples_of_one_class():
    """Sums over 1000 rows of one label: added one by one they would drift by hundreds of u."""
    x, w = np.tile([[0.3, 0.7, 0.2]], (1000, 1)), np.array([[1.0, 0.1, 0.2], [0.0, 1.0, 0.3]])
    entries = {"x": [(0, 0)], "w": [(0, 0), (0, 1), (1, 2)]}
    checks.against_exact(refloss.ArcFace(s=1.0), x, w, np.zeros(1000, int), entries=entries)


def test_a_hundred_thousand_classes_of_which_one_counts():
    """Low parts of a matrix product over so many terms must be added in blocks."""
    classes = 100_000
    w = np.tile([[0.2, 0.98]], (classes, 1))
    w[0], w[1] = [0.9, -0.3], [1.0, 0.0]
    x, y = np.array([[1.0, 0.0]]), np.array([0])
    (value, gradient), loss = refloss.NormFace(s=8.0).value_and_grad(x, w, y), refloss.NormFace(s=8.0)
    few = np.array([w[0], w[1], w[2]])  # the same loss with the equal classes as one of weight C - 2
    bias = np.array([0.0, 0.0, np.log(classes - 2.0)])
    unit = few / np.linalg.norm(few, axis=1)[:, None]
    same, truth = refloss.SoftmaxLoss().value_and_grad(8.0 * x, unit, y, bias)
    terms = 2.0 * 8.0 * np.abs(truth.b).sum()
    assert abs(value - same) <= checks.U * (checks.allowed(loss, x, w)[0] + 16.0 * 8.0) * same
    assert np.abs(gradient.x[0, 1] - 8.0 * truth.x[0, 1]) <= checks.U * (8.0 * 8.0 + 32.0) * terms


@pytest.mark.parametrize("times", range(1, 7))
@pytest.mark.parametrize(
    ("loss", "x", "w"),
    [
        (refloss.CosFace(m=0.5, s=2.0, boundary="conditional"), [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]),
        (refloss.CombinedMargin(m1=1.0, m2=0.3, m3=0.5, boundary="conditional"), [1.0, 1.0, 0.0], [0.0, 1.0, 1.0]),
        (refloss.CombinedMargin(m1=2.0, m2=0.0, m3=0.0, s=2.0, boundary="min"), [1.0, -1.0, 0.0], [0.0, 1.0, -1.0]),
        (refloss.CombinedMargin(m1=4.0, m2=0.0, m3=0.0, s=2.0, boundary="min"), [1.0, -1.0, 0.0], [0.0, 1.0, -1.0]),
        (refloss.CombinedMargin(m1=2.0, m2=0.0, m3=0.0, boundary="hard"), [1.0, -1.0, 0.0], [1.0, 1.0, 0.0]),
    ],
    ids=repr,
)
def test_exact_ties_are_decided_alike_at_every_length(loss, x, w, times):
    """At 60, 90 and 120 degrees the condition of a rule is an equality, which rounding must not decide."""
    w = np.array([np.array(w) * times * 0.7, [1.0, 2.0, 3.0]])
    checks.against_exact(loss, np.array([x]) * (13.0 - times), w, [0])


@pytest.mark.parametrize("engine", ["chain", "dd", "certified"])
@pytest.mark.parametrize("times", [1.0, 0.5, -3.0, 7.0 * 2.0**300])
def test_the_side_of_a_bound_is_decided_exactly(engine, times):
    """A cosine of 1 is at the bound of UniFace without a bias: the logit still moves; 2^-60 beyond it does not."""
    loss, side = refloss.UniFace(m=0.0, s=8.0, reduction="sum"), np.copysign(1.0, times)
    for row in _random("bound").integers(1, 100, (10, 1, 5)) * 1.0:
        target = row * [[1.0, -1.0, 1.0, -1.0, 1.0]]
        z = 8.0 * float(row[0] @ target[0]) / float(row[0] @ row[0])
        for b, moves in ((0.0, True), (2.0**-60, True), (-(2.0**-60), False), (-(2.0**-1074), False)):
            _, grad = loss.value_and_grad(row, [target[0], times * row[0]], [0], side * b, engine=engine)
            expected = 1.0 / (1.0 + math.exp(z)) - moves / (1.0 + math.exp(-side * 8.0))
            assert grad.b == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("engine", ["chain", "dd"])
def test_a_bound_that_is_the_smallest_number(engine):
    """A target's f of -1.45 and of -0.55: beyond the bound, though rounded logits are at it, and within."""
    loss, x = refloss.UniFace(m=1.5, s=5e-324, reduction="sum"), [[1e-300, 1e-300]]
    beyond, within = (
        loss.value_and_grad(x, [w], [0], upstream=1e300, engine=engine)[1].x for w in ([1.0, -0.9], [1.0, 0.5])
    )
    assert not beyond.any()
    assert within.all()


@pytest.mark.parametrize("engine", ["chain", "dd"])
def test_sigmoids_beyond_the_range_of_float64(engine):
    """A derivative of 1e308 e^-800, and a mean of 1.7e308."""
    _, grad = refloss.SigLIP().value_and_grad([[1.0, 0.0]], [[2.0, 0.0]], 3.0, 797.0, upstream=1e308, engine=engine)
    assert grad.b == pytest.approx(-math.exp(308.0 * math.log(10.0) - 800.0), rel=1e-12, abs=0.0)
    points = [[1.0, 0.0], [0.0, 1.0]]
    assert refloss.SigLIP()(points, points, 1.0, 1.7e308, engine=engine) == 1.7e308


@pytest.mark.parametrize("negative", [[1e-200, 0.0], [-1e-200, 1e-200], [3e-160, 4e-160]])
@pytest.mark.parametrize("squared", [True, False])
def test_directions_of_points_at_very_different_scales(negative, squared):
    positive = [[1e200, 1e199]] if not squared else [[1e100, 1e99]]
    checks.against_exact(refloss.Triplet(squared=squared), np.zeros((1, 2)), np.array(positive), np.array([negative]))


def test_logits_that_float64_cannot_hold_are_refused():
    with pytest.raises(ValueError, match=r"logits that float64 can hold.*class 1 and sample 0"):
        refloss.SoftmaxLoss()([[1e200, 0.0]], [[1.0, 0.0], [1e200, 0.0]], [0])
    with pytest.raises(ValueError, match="logits that float64 can hold"):
        refloss.ModifiedSoftmax()([[1.7e308, 1.7e308]], [[1.0, 1.0], [1.0, 0.0]], [0])


@pytest.mark.parametrize("size", [1e300, 1e308, 1e-300, 1e-310])
def test_class_weights_of_any_size_keep_the_mean(size):
    z, y = np.array([[0.0, 1.0], [3.0, 1.0]]), [0, 1]
    plain, huge = (refloss.CrossEntropy(class_weight=w).value_and_grad(z, y) for w in ((1.0, 1.0), (size, size)))
    assert np.abs(huge[0] - plain[0]) <= 8.0 * checks.U * plain[0]
    assert (np.abs(huge[1].z - plain[1].z) <= 8.0 * checks.U * np.abs(plain[1].z)).all()


def test_class_weights_that_do_not_occur_do_not_matter():
    z, y = np.array([[1.0, 2.0], [0.5, -1.0]]), [1, 1]
    plain, beside = (refloss.CrossEntropy(class_weight=w).value_and_grad(z, y) for w in ((1.0, 1.0), (1e300, 1e-300)))
    assert np.abs(beside[0] - plain[0]) <= 8.0 * checks.U * plain[0]
    assert (np.abs(beside[1].z - plain[1].z) <= 8.0 * checks.U * np.abs(plain[1].z)).all()


def test_ties_of_huge_logits():
    """High parts equal, low parts apart by more than exp can bear: the larger low part is the largest logit."""
    x, w = np.array([[np.cos(1.0), np.sin(1.0)]]) * 1e30, np.array([[1.0, 0.0]] * 3)
    value, gradient = refloss.ModifiedSoftmax().value_and_grad(x, w, [0])
    assert np.isfinite(value)
    assert np.isfinite(gradient.x).all()


# ------------------------------------------------------------------------------------------- at the ends of the range


@pytest.mark.parametrize("engine", ["chain", "certified"])
@pytest.mark.parametrize("name", cases.BEYOND)
def test_what_fits_comes_out_whatever_overflows_on_the_way(name, engine):
    loss, inputs, upstream = cases.BEYOND[name]
    checks.against_certified(loss, *inputs, upstream=upstream, engine=engine)


@pytest.mark.parametrize("seed", range(60))
def test_extreme_inputs_keep_the_contract(seed):
    loss, inputs, upstream = cases.extreme(np.random.default_rng(seed))
    checks.against_certified(loss, *inputs, upstream=upstream)


def test_a_trace_at_the_ends_of_the_range_holds_plain_numbers():
    loss, inputs, upstream = cases.BEYOND["x of length 1e-200, upstream -1e-200, directions"]
    steps, (_, gradients) = loss.trace(*inputs, upstream=upstream), loss.value_and_grad(*inputs, upstream=upstream)
    assert all(isinstance(step.gradient, np.ndarray) for name, step in steps.items() if "normalize" not in name)
    assert all(isinstance(part, np.ndarray) for part in steps["normalize_x"].gradient)
    assert np.abs(gradients.x).max() > 1e-2


@pytest.mark.parametrize("engine", ["chain", "fused", "dd"])
def test_over_weights_that_add_up_to_0_smoothing_has_a_sign_of_its_own(engine):
    """-inf of the labels and inf of what smoothing gives to all classes."""
    z, y, weights = [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [0, 1], (1.0, -1.0, 2.0)
    assert refloss.CrossEntropy(class_weight=weights)(z, y, engine=engine) == -np.inf
    assert np.isnan(refloss.CrossEntropy(class_weight=weights, label_smoothing=0.1)(z, y, engine=engine))


@pytest.mark.parametrize(
    "loss", [refloss.ArcFace(), refloss.ASoftmax(), refloss.SoftmaxLoss(), refloss.Triplet()], ids=repr
)
def test_gradients_of_a_trace_have_the_shapes_of_the_outputs(loss):
    x, w, n = np.random.default_rng(4).standard_normal((3, 2, 3))
    for step in loss.trace(x, w, n if isinstance(loss, refloss.Triplet) else [1, 0]).values():
        outputs, gradients = ((it,) if not isinstance(it, tuple) else it for it in (step.output, step.gradient))
        assert [np.shape(it) for it in outputs] == [np.shape(it) for it in gradients]
