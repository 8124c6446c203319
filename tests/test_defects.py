"""The table of defects: what its rows say, what they compute, and how they go together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import refloss
from refloss.testing.defects import KINDS, TABLE, Defect, Emulated, combined, defects, settings, steps
from refloss.testing.defects.emulations import Emulation, InRows
from refloss.testing.defects.gradients import WithChange
from refloss.testing.defects.kept import Kept
from refloss.testing.defects.steps import Changed, by_differences

COS, ARC, CE = refloss.CosFace(s=4.0), refloss.ArcFace(s=4.0), refloss.CrossEntropy()
LOSSES = (
    CE,
    refloss.CrossEntropy(label_smoothing=0.1, class_weight=(1.0, 2.0, 0.5, 1.0, 3.0), softcap=3.0, logit_scale=0.5),
    refloss.CrossEntropy(reduction="none", z_loss=0.01, class_weight=(1.0, 2.0, -0.5, 1.0, 3.0)),
    refloss.SoftmaxLoss(reduction="sum"),
    ARC,
    refloss.ArcFace(s=4.0, boundary="hard", gradient="detached"),
    COS,
    refloss.CombinedMargin(s=4.0, reduction="none"),
    refloss.CombinedMargin(s=4.0, m1=0.9),
    refloss.ASoftmax(annealing=2.0),
    refloss.CrossEntropy(label_smoothing=0.1),
    refloss.CrossEntropy(ignore_index=1),
    refloss.SphereFace2(),
    refloss.SphereFace2(t=2),
    refloss.UniFace(),
    refloss.UniFace(l=0.5),
    refloss.SigLIP(),
    refloss.InfoNCE(),
    refloss.InfoNCE(ways=1),
    refloss.AdaFace(s=4.0),
    refloss.MagFace(s=4.0),
    refloss.CurricularFace(s=4.0, t=0.3),
    refloss.MVSoftmax(s=4.0),
    refloss.SphereFaceR(s=4.0, version=1),
    refloss.SphereFaceR(s=4.0, version=2),
    refloss.CircleLoss(s=4.0),
    refloss.CircleLoss(s=4.0, gradient="detached"),
    refloss.InterTopK(s=4.0, k=2),
    refloss.SubCenterArcFace(s=4.0, centers=2),
    refloss.Triplet(),
    refloss.Triplet(squared=False),
    refloss.KLDivergence(),
    refloss.KLDivergence(form="reverse"),
)


def inputs_of(loss, seed=0):
    """Inputs of a loss: 6 samples, 5 classes, 4 dimensions."""
    rng = np.random.default_rng(seed)
    x, w, z, y = rng.normal(size=(6, 4)), rng.normal(size=(5, 4)), rng.normal(size=(6, 5)), np.array([0, 3, 4, 3, 1, 2])
    centers = getattr(loss, "centers", 1)
    near = x + 0.3 * w[y]
    return {
        "logits": (z, y),
        "divergence": (z, rng.normal(size=z.shape)),
        "triplet": (x, x + 0.3 * rng.normal(size=x.shape), x + 0.4 * rng.normal(size=x.shape)),
        "linear": (x, w, y),
        "margin": (x, rng.normal(size=(5, centers, 4)) if centers > 1 else w, y),
        "sigmoid": (x, near, np.asarray(2.0), np.asarray(-1.0))
        if isinstance(loss, refloss.SigLIP)
        else (x, w, y, np.asarray(-0.5)),
        "two_way": (x, near, np.asarray(3.0)),
    }[loss.spec.head]


# ---------------------------------------------------------------------------------------------------------------- rows


def test_rows_have_names_of_their_own_and_sentences():
    assert [name for name, count in Counter(row.name for row in TABLE).items() if count > 1] == []
    for row in TABLE:
        assert row.kind in KINDS
        assert row.sentence
        assert row.sentence[-1] != "."
        assert " of " not in row.name or row.name.rpartition(" of ")[2] not in ("x", "w", "b", "z", "m")


def test_every_row_applies_to_a_loss():
    assert not {row.name for row in TABLE} - {row.name for loss in LOSSES for row in defects(loss)}


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_row_has_results_of_the_loss_s_shapes(loss):
    """The value of a changed step is in plain float64: it is tested once that without a change it is the loss's."""
    inputs = inputs_of(loss)
    value, gradient = loss.value_and_grad(*inputs)
    for row in set(defects(loss)) - set(settings.REDUCTIONS):
        if " over shard " in row.name:
            continue  # of five classes not every shard has any
        other = row.of(loss)
        its_value = other(*inputs)
        assert np.shape(its_value) == np.shape(value), row.name
        assert row.said(loss, other)
        assert str(other) is not None
        if not isinstance(other, Changed):  # whose gradients are differences of its value
            again, parts = other.value_and_grad(*inputs)
            assert np.array_equal(again, its_value, equal_nan=True), row.name
            assert [np.shape(part) for part in parts] == [np.shape(part) for part in gradient], row.name
        if isinstance(other, Emulation):
            assert other.reduction == loss.reduction


@pytest.mark.parametrize(
    "loss", [loss for loss in LOSSES if loss.spec.head in ("logits", "linear", "margin", "triplet")], ids=repr
)
def test_a_picture_without_a_change_is_the_loss(loss):
    inputs, plain = inputs_of(loss), Changed(loss, "")
    value, gradient = loss.value_and_grad(*inputs)
    upstream = np.linspace(0.5, 1.5, 6) if loss.reduction == "none" else 0.75
    assert np.allclose(plain(*inputs), value, rtol=1e-13, atol=1e-13)
    its_value, parts = plain.value_and_grad(*inputs, upstream=upstream)
    _, gradient = loss.value_and_grad(*inputs, upstream=upstream)
    assert np.array_equal(its_value, plain(*inputs))
    if getattr(loss, "gradient", "exact") == "exact" and not isinstance(loss, refloss.AdaFace | refloss.CurricularFace):
        for ours, theirs in zip(gradient[: len(inputs) - 1], parts, strict=False):
            assert np.allclose(ours, theirs, rtol=1e-7, atol=1e-8)


def test_differences_are_relative_to_rows():
    x, w, y = inputs_of(COS)
    x = x * np.logspace(-150.0, 150.0, 6)[:, None]
    parts = by_differences(COS, COS, (x, w, y), None)
    _, gradient = COS.value_and_grad(x, w, y)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    assert np.allclose(parts.x * length, gradient.x * length, rtol=1e-7, atol=1e-8)


# ------------------------------------------------------------------------------------------------------------- emulated


def test_a_loss_with_defects_has_their_results():
    x, w, y = inputs_of(ARC)
    wrong = Emulated(ARC, "no margin", "no scale", "reduction=sum")
    right = refloss.ArcFace(s=1.0, m=0.0, reduction="sum")
    assert wrong(x, w, y) == right(x, w, y)
    value, gradient = wrong.value_and_grad(x, w, y, upstream=2.0, engine="chain")
    expected, its = right.value_and_grad(x, w, y, upstream=2.0, engine="chain")
    assert value == expected
    assert np.array_equal(gradient.w, its.w)
    assert wrong.spec == right.spec
    assert wrong.reduction == "sum"
    assert np.array_equal(wrong.trace(x, w, y)["cosine"].output, right.trace(x, w, y)["cosine"].output)
    assert repr(wrong) == "Emulated(ArcFace(s=4.0, m=0.5, boundary='none'), 'no margin', 'no scale', 'reduction=sum')"
    assert Emulated(refloss.ArcFace)(x, w, y) == refloss.ArcFace()(x, w, y)


def test_the_order_of_names_does_not_matter():
    x, w, y = inputs_of(COS)
    names = "zero gradient of w", "labels + 1", "weights not unit", "no scale"
    value, gradient = Emulated(COS, *names).value_and_grad(x, w, y)
    z = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ w.T
    z[np.arange(6), (y + 1) % 5] -= COS.m
    assert np.allclose(value, CE(z, (y + 1) % 5))
    assert np.array_equal(gradient.w, np.zeros(w.shape))
    again, other = Emulated(COS, *reversed(names)).value_and_grad(x, w, y)
    assert again == value
    assert np.array_equal(other.x, gradient.x)


def test_two_steps_go_together_where_they_are_two():
    x, w, y = inputs_of(COS)
    both = Emulated(COS, "weights not unit", "softmax twice")
    z = COS.s * (x / np.linalg.norm(x, axis=1, keepdims=True)) @ w.T
    z[np.arange(6), y] -= COS.s * COS.m
    assert np.allclose(both(x, w, y), CE(refloss.softmax(z), y))
    with pytest.raises(
        ValueError, match="names: expected defects that go together; got 'softmax twice', 'log 2 added'"
    ):
        Emulated(COS, "softmax twice", "log 2 added")
    with pytest.raises(ValueError, match="names: expected defects that go together; got 'no margin', 'no margin'"):
        Emulated(COS, "no margin", "no margin")
    assert combined(COS, [row for row in TABLE if row.name in ("softmax twice", "log 2 added")]) is None


def test_logits_are_computed_once_for_small_inputs(monkeypatch):
    calls = []

    def scores(loss, inputs):
        calls.append(inputs)
        return steps.plain_scores(loss, inputs)

    small, other = inputs_of(COS), inputs_of(COS, 1)
    monkeypatch.setattr(steps, "_SCORES", Kept(1))
    for given, number in ((small, 1), (small, 1), (other, 2), (small, 3)):
        assert np.array_equal(steps.known_scores(scores, COS, given).z, steps.plain_scores(COS, given).z)
        assert len(calls) == number
    monkeypatch.setattr(steps, "LARGEST_KEPT", 10)
    steps.known_scores(scores, COS, small)
    assert len(calls) == 4


def test_targets_beside_a_z_loss_and_class_weights_leave_its_mean():
    loss = refloss.CrossEntropy(label_smoothing=0.1, class_weight=(1.0, 2.0, 0.5, 1.0, 3.0), z_loss=0.01)
    z, y = inputs_of(loss)
    apart = Emulated(loss, "smoothing of the target alone")(z, y) - 0.01 * np.mean(refloss.logsumexp(z) ** 2)
    without = replace(loss, z_loss=0.0)
    assert np.allclose(apart, Emulated(without, "smoothing of the target alone")(z, y), rtol=1e-12)


def test_an_emulation_without_a_defect_is_its_loss():
    given, plain = inputs_of(COS), Emulation(COS, "nothing")
    (value, gradient), (expected, right) = plain.value_and_grad(*given), COS.value_and_grad(*given)
    assert value == expected == plain(*given)
    assert np.array_equal(gradient.w, right.w)
    with pytest.raises(NotImplementedError):
        InRows(COS, "").rows(given)


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        (COS, ("weights not unit", "sums of bfloat16")),
        (COS, ("hidden", "no scale")),
        (refloss.UniFace(l=0.5), ("the targets alone count", "the weight l is that of all classes")),
    ],
)
def test_what_does_not_go_together_is_refused(loss, names):
    with pytest.raises(ValueError, match="names: expected"):
        Emulated(loss, *names)


def test_what_is_wrong_with_one_gradient_leaves_the_others():
    x, w, y = inputs_of(COS)
    _, right = COS.value_and_grad(x, w, y)
    _, one = Emulated(COS, "gradient times 8 of x").value_and_grad(x, w, y)
    _, every = Emulated(COS, "gradient times 8").value_and_grad(x, w, y)
    assert np.array_equal(one.x, 8.0 * right.x)
    assert np.array_equal(one.w, right.w)
    assert np.array_equal(every.w, 8.0 * right.w)


def test_inputs_are_those_of_the_loss():
    wrong = Emulated(CE, "softmax twice")
    z, y = inputs_of(CE)
    short = z.astype(np.float32)
    assert wrong(short.tolist(), y.tolist()) == wrong(short, y) == wrong(short.astype(np.float64), y)
    with pytest.raises(ValueError, match=r"z: expected logits \(N, C\); got shape \(2, 3, 5\)"):
        wrong(z.reshape(2, 3, 5), y.reshape(2, 3))
    with pytest.raises(ValueError, match="y"):
        wrong(z, y + 5)


@pytest.mark.parametrize(
    ("loss", "name", "error", "said"),
    [
        (CE, "no margn", ValueError, "got 'no margn'; did you mean 'no margin'?"),
        (CE, "xyz", ValueError, "expected names of defects; got 'xyz'"),
        (CE, "no margin", ValueError, r"expected defects that CrossEntropy\(\) can have; got 'no margin'"),
        (CE, "zero gradient of w", ValueError, "got 'zero gradient of w'"),
        (COS, "no margin of w", ValueError, "got 'no margin of w'"),
        (CE, 1, TypeError, "names: expected names of defects; got 1"),
        ("ArcFace", "no margin", TypeError, "loss: expected a loss of refloss"),
    ],
)
def test_names_that_are_none_are_refused(loss, name, error, said):
    with pytest.raises(error, match=said):
        Emulated(loss, name)


def test_gradients_without_a_projection_have_a_part_along_their_rows():
    """By differences of a loss that takes its rows for unit ones."""
    x, w, y = inputs_of(ARC)
    _, right = ARC.value_and_grad(x, w, y)
    _, wrong = Emulated(ARC, "gradient without projection").value_and_grad(x, w, y)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    unit, lengths_w = x / length, np.linalg.norm(w, axis=1)

    def of_cosines(at):
        c = (at @ w.T) / lengths_w
        theta = np.arccos(c[np.arange(6), y])
        c[np.arange(6), y] = np.cos(theta + ARC.m)
        return CE(ARC.s * c, y)

    slope = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        moved = np.zeros(x.shape)
        moved[place] = 1e-6
        slope[place] = (of_cosines(unit + moved) - of_cosines(unit - moved)) / 2e-6
    assert np.allclose(wrong.x, slope / length, rtol=1e-6, atol=1e-8)
    assert not np.allclose(wrong.x, right.x, rtol=1e-2)


def test_a_row_that_is_added_is_a_row():
    halved = Defect("halved", "half of it", lambda loss: True, lambda loss: WithChange(loss, "", lambda g, of: g / 2.0))
    assert np.array_equal(halved.of(CE).value_and_grad(*inputs_of(CE))[1].z, CE.value_and_grad(*inputs_of(CE))[1].z / 2)
    assert halved.of(Changed(CE, "")) is None  # a setting is of a loss of refloss
