"""Cases are what their names and reasons say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import refloss
from refloss.formats import FORMATS, dtype_of, format_of
from refloss.testing import Shape, cases, hard_cases
from refloss.testing.hard_cases.angles import boundaries
from refloss.testing.hard_cases.case import Setting
from refloss.testing.hard_cases.labels import label_source

CE = refloss.CrossEntropy()


def named(loss, dtype="float32", shape=(9, 7, 13), **settings):
    """Cases of one shape, by name."""
    settings = {"bias": True, "soft": True} | settings
    return {case.name: case for case in cases(loss, dtype, shape, **settings)}


def angles_of(x, w, y):
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, w[y])]
    near, far = np.linalg.norm(unit[0] - unit[1], axis=1), np.linalg.norm(unit[0] + unit[1], axis=1)
    return 2.0 * np.arctan2(near, far)


IGNORED, ZERO = ("truth", "refusal"), ("refusal", "finite")
HEADS = [
    ("ordinary-random", "random"), ("ordinary-lengths", "lengths"), ("ordinary-trained", "near"),
    ("boundary-ignored", "ignored", IGNORED), ("boundary-all-ignored", "ignored", IGNORED),
    ("hard-same-classes", "same classes"), ("hard-certain", "confident"),
]  # fmt: skip
ANGLES = [
    ("hard-theta-1e-01", "small angle"), ("hard-theta-1e-02", "small angle"), ("hard-theta-1e-03", "small angle"),
    ("hard-pi-minus-1e-01", "angle near pi"), ("hard-pi-minus-1e-02", "angle near pi"),
    ("hard-pi-minus-1e-03", "angle near pi"), ("hard-rivals-1e-02", "small angle rivals"),
    ("hard-rivals-1e-03", "small angle rivals"), ("hard-opposite", "angle near pi gap"),
    ("hard-orthogonal", "orthogonal"),
]  # fmt: skip
NEARER = [
    ("hard-theta-1e-05", "small angle"), ("hard-pi-minus-1e-05", "angle near pi"),
    ("hard-rivals-1e-05", "small angle rivals"),
]  # fmt: skip
LENGTHS = [
    ("range-long-x", "overflow"), ("range-short-w", "underflow"), ("range-zero-x", "zero vector", ZERO),
    ("range-zero-w", "zero vector", ZERO),
]  # fmt: skip
GAPS = [("hard-wrong-120", "wrong gap"), ("hard-wrong-800", "wrong gap")]
EDGES = [(f"boundary-{{}}-{side}", "boundary") for side in ("before", "after", "on")]
LISTS = {
    refloss.NormFace(): [*HEADS, *ANGLES, *LENGTHS],
    refloss.NormFace(s=None): [*HEADS, *ANGLES, *GAPS],
    refloss.ArcFace(boundary="easy"): [*HEADS, *ANGLES, *LENGTHS, *((n.format("cosine"), f) for n, f in EDGES)],
    refloss.ArcFace(boundary="min"): [*HEADS, *ANGLES, *LENGTHS, *((n.format("half"), f) for n, f in EDGES)],
    refloss.SoftmaxLoss(): [
        *HEADS, *GAPS, ("ordinary-bias", "bias"), ("boundary-ignored-bias", "ignored bias", IGNORED),
        ("hard-bias-offset", "bias offset"), ("hard-offset", "offset"),
        ("hard-offset-exact", "offset confident"), ("boundary-soft", "soft"),
    ],
    CE: [
        ("ordinary-random", "random"), ("ordinary-wide", "random"),
        *((f"hard-confident-{gap}", "confident") for gap in (5, 10, 30)),
        *((f"hard-wrong-{gap}", "wrong") for gap in (5, 10, 30)), *GAPS,
        ("hard-certain", "confident"), ("boundary-tied", "equal"), ("boundary-masked", "masked"),
        ("boundary-ignored", "ignored", IGNORED), ("boundary-all-ignored", "ignored", IGNORED),
        ("boundary-soft", "soft"), ("boundary-soft-sums", "soft"),
        ("boundary-soft-signs", "soft negative", ("truth", "refusal")),
        ("hard-equal", "equal"), ("hard-offset", "offset"), ("hard-offset-below", "offset"),
        ("range-offset-huge", "offset"),
    ],
    refloss.Triplet(): [
        ("ordinary-random", "random"), ("hard-near", "cancellation"), ("boundary-kept", "inactive"),
        ("ordinary-partly", "inactive"), ("boundary-edge-0.75", "coinciding"), ("boundary-edge-1.25", "coinciding"),
        ("hard-on-positive", "coinciding"), ("hard-on-negative", "coinciding"), ("hard-all-one", "coinciding"),
        ("hard-far", "offset"),
    ],
    refloss.KLDivergence(): [
        ("ordinary-random", "random"), ("ordinary-wide", "random"),
        *((f"hard-near-{k}", "cancellation") for k in (4, 8, 12, 16, 20)),
        ("boundary-equal", "equal"), ("boundary-constant-apart", "equal"), ("hard-offset", "offset"),
        *((f"hard-gap-{side}-{gap}", "gap") for side in ("z", "target") for gap in (120, 800)),
        ("hard-certain", "confident"), ("hard-disagree", "confident"),
        ("range-masked", "masked"), ("range-masked-target", "masked"), ("range-offset-huge", "offset"),
    ],
}  # fmt: skip


def test_float64_has_targets_nearer_to_their_classes():
    names = {case.name for case in cases(refloss.NormFace(), "float64", [(9, 7, 13)])}
    assert names - {case.name for case in cases(refloss.NormFace(), "float32", [(9, 7, 13)])} == {
        name for name, _ in NEARER
    }
    assert not {name for name, _ in NEARER} & {case.name for case in cases(refloss.ArcFace(), "float64")}


def test_weights_of_0_are_no_case_of_a_z_loss():
    """Code may divide by a sum of 0 or leave the loss out: what remains is the z-loss, or NaN."""
    weights = (1.0, 0.0, 2.0)
    assert {"boundary-weight-0"} == {
        case.name for case in cases(refloss.CrossEntropy(class_weight=weights)) if "weight" in case.id
    }
    assert not [case for case in cases(refloss.CrossEntropy(class_weight=weights, z_loss=0.1)) if "weight" in case.id]


@pytest.mark.parametrize("kind", [refloss.CrossEntropy, refloss.SoftmaxLoss])
def test_a_cap_has_a_case_beyond_it(kind):
    """Every slope there is below 4 e^-2x with x logits over the cap, and some logits are several caps from 0."""
    (case,) = (case for case in cases(kind(softcap=3.0, logit_scale=0.5), shapes=(9, 7, 13)) if "saturated" in case.id)
    logits = kind().trace(*case.inputs)["linear"].output if kind is refloss.SoftmaxLoss else case.inputs[0]
    assert (case.group, case.flags) == ("hard", ("saturated",))
    assert np.abs(logits).max() * 0.5 / 3.0 > 4.0
    assert not [case for case in cases(kind()) if "saturated" in case.id]


@pytest.mark.parametrize("loss", LISTS, ids=repr)
def test_these_are_the_cases_of_a_loss(loss):
    by_name = named(loss)
    assert {name: (" ".join(case.flags), case.accepts) for name, case in by_name.items()} == {
        name: (flags, *(rest or [("truth",)])) for name, flags, *rest in LISTS[loss]
    }
    for name, case in by_name.items():
        assert case.id == f"{name}-9x7x13"
        assert case.group == name.partition("-")[0]
        assert not case.reason[:1].isupper()


@pytest.mark.parametrize("name", ["bias", "soft", "ignored", "seed"])
def test_a_setting_that_is_none_is_refused_by_its_name(name):
    with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
        cases(CE, **{name: "some"})


@pytest.mark.parametrize("loss", [refloss.SoftmaxLoss(), refloss.ArcFace()], ids=repr)
def test_random_targets_are_far_from_their_classes_where_there_is_room(loss):
    for seed in range(20):
        for name in ("ordinary-random", "ordinary-lengths"):
            x, w, y, *_ = named(loss, shape=(3, 3, 2), seed=seed)[name].inputs
            cosines = (x * w[y]).sum(axis=1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(w[y], axis=1))
            assert np.abs(cosines).max() < 0.95


def test_where_there_is_room_no_class_is_a_rival_of_a_certain_target():
    for loss in (refloss.ArcFace(), refloss.SoftmaxLoss()):
        _, w, y, *_ = named(loss, "float64")["hard-certain"].inputs
        for target in set(y.tolist()):
            others = np.arange(len(w)) != target
            assert np.abs(w[others] @ w[target]).max() < 1e-12


def test_settings_leave_cases_out():
    everything = set(named(refloss.SoftmaxLoss()))
    assert everything - set(named(refloss.SoftmaxLoss(), bias=False)) == {
        "ordinary-bias", "hard-bias-offset", "boundary-ignored-bias"
    }  # fmt: skip
    ignored = {"boundary-ignored", "boundary-all-ignored", "boundary-ignored-bias"}
    assert everything - set(named(refloss.SoftmaxLoss(), ignored=False)) == ignored
    assert everything - set(named(refloss.SoftmaxLoss(ignore_index=None))) == ignored
    assert [case.id for case in cases(refloss.SoftmaxLoss())] == [
        case.id for case in cases(refloss.SoftmaxLoss(), bias=False)
    ]
    assert [case.id for case in cases(CE)] == [case.id for case in cases(CE, soft=False)]
    for case in cases(refloss.SoftmaxLoss(), "bfloat16", (3, 4, 5), bias=True):
        numbers = [entry for entry in case.inputs if entry.dtype.kind == "f"]
        assert all((entry.astype(dtype_of("bfloat16")).astype(np.float64) == entry).all() for entry in numbers)
        assert case.inputs[2].dtype.kind == "i"
    hard = named(CE, soft=False)
    assert set(named(CE)) - set(hard) == {"boundary-soft", "boundary-soft-sums", "boundary-soft-signs"}
    assert (hard["range-soft"].group, hard["range-soft"].accepts) == ("range", ("truth", "refusal"))
    assert "boundary-masked" not in named(refloss.CrossEntropy(label_smoothing=0.1))
    assert "boundary-weight-0" not in named(refloss.CrossEntropy(class_weight=(1.0,) * 7))
    assert "hard-wrong-800" not in named(CE, "float16")
    assert "hard-wrong-120" in named(CE, "float16")
    with_0 = named(refloss.CrossEntropy(class_weight=(1.0, 0.0, 2.0, 1.0, 0.0, 1.0, 1.0)))["boundary-weight-0"]
    assert with_0.inputs[0].shape == (9, 7)
    assert with_0.inputs[1].tolist() == [1, 4, 1, 4, 1, 4, 1, 4, 1]
    assert (with_0.flags, with_0.accepts) == (("weightless",), ("truth",))
    head = named(refloss.ArcFace(class_weight=(0.0,) + (1.0,) * 6))["boundary-weight-0"]
    assert (head.inputs[2] == 0).all()


def test_a_mean_of_nothing_is_one_of_ignored_labels_or_of_weights_of_0():
    nothing = hard_cases.counts_nothing
    none, some, z = np.full(2, -100), np.array([-100, 1]), np.zeros((2, 3))
    assert nothing(CE, (z, none))
    assert not nothing(CE, (z, some))
    assert not nothing(refloss.CrossEntropy(reduction="sum"), (z, none))
    assert not nothing(refloss.Triplet(), (z, z, z))
    assert not nothing(CE, (z, np.full((2, 3), -100.0)))
    assert nothing(refloss.SoftmaxLoss(), (z, z, none))
    assert not nothing(refloss.SoftmaxLoss(), (z, z, some))
    weighted = refloss.CrossEntropy(class_weight=(1.0, 0.0, 2.0))
    assert nothing(weighted, (z, some))
    assert nothing(weighted, (z, np.array([1, 1])))
    assert not nothing(weighted, (z, np.array([1, 2])))
    assert not nothing(refloss.CrossEntropy(ignore_index=None), (z, np.array([0, 1])))
    signed = refloss.CrossEntropy(class_weight=(-1.0, 2.0, 1e-300))
    assert nothing(signed, (z, np.array([0, 0, 1])))
    assert not nothing(signed, (z, np.array([0, 0, 1, 2])))


def test_weights_of_which_nothing_is_left_make_no_case():
    cancel = hard_cases.weights_cancel
    loss = refloss.CrossEntropy(class_weight=(-1.0, 1.0, 1.1))
    assert cancel(loss, np.array([0, 1]))
    assert not cancel(loss, np.array([0, 1, 1]))
    assert cancel(loss, np.array([0, 2]))  # 2.1 to 0.1
    assert not cancel(loss, np.array([0, 2, -100, 2]))
    assert not cancel(loss, np.zeros((2, 3)))
    assert not cancel(loss, np.array([-100]))
    assert not cancel(replace(loss, reduction="sum"), np.array([0, 1]))
    assert not cancel(replace(loss, class_weight=None), np.array([0, 1]))
    two = refloss.SoftmaxLoss(class_weight=(-1.0, 1.0))
    left = {case.name for case in cases(two, shapes=[(2, 2, 3)])}
    assert left
    assert len(left) < len({case.name for case in cases(replace(two, reduction="sum"), shapes=[(2, 2, 3)])})


def test_the_smallest_shapes_leave_out_what_has_no_room():
    assert not any(name.partition("-")[2] == "ignored" for name in named(CE, shape=(1, 7, 13)))
    assert "boundary-all-ignored" in named(CE, shape=(1, 7, 13))
    for loss in (CE, refloss.NormFace(), refloss.SoftmaxLoss()):
        assert "boundary-ignored" in named(loss, shape=(2, 7, 13))
    assert "boundary-ignored-bias" in named(refloss.SoftmaxLoss(), shape=(2, 7, 13))
    assert "boundary-ignored-bias" not in named(refloss.SoftmaxLoss(), shape=(1, 7, 13))
    assert "boundary-masked" in named(CE, shape=(9, 3, 13))
    assert not {"boundary-ignored"} & set(named(refloss.NormFace(), shape=(1, 7, 13)))
    one_class = set(named(CE, shape=(9, 1, 13)))
    assert not one_class & {"hard-certain", "boundary-tied", "boundary-masked", "hard-wrong-5", "hard-wrong-120"}
    assert "boundary-masked" not in named(CE, shape=(9, 2, 13))
    assert {"hard-certain", "boundary-tied"} <= set(named(CE, shape=(9, 2, 13)))
    linear = set(named(refloss.SoftmaxLoss(), shape=(9, 1, 13)))
    assert not linear & {"hard-certain", "hard-offset-exact", "hard-wrong-120"}
    flat = set(named(refloss.NormFace(), shape=(9, 2, 1)))
    assert not flat & {"hard-certain", "hard-orthogonal"}
    assert "hard-opposite" in flat
    assert {"hard-certain", "hard-orthogonal"} <= set(named(refloss.NormFace(), shape=(9, 2, 2)))
    assert "hard-opposite" not in named(refloss.NormFace(), shape=(9, 1, 13))
    assert {case.inputs[0].dtype for case in cases(CE, "float16", (2, 3, 1))} == {np.dtype(np.float64)}


def test_shapes_of_cases():
    assert hard_cases.sizes(CE, None) == [Shape(9, 7, 13), Shape(5, 35, 9), Shape(19, 3, 5), Shape(2, 2, 3)]
    assert hard_cases.sizes(refloss.Triplet(), None) == list(hard_cases.SHAPES)
    weighted = refloss.CrossEntropy(class_weight=(1.0, 2.0))
    assert hard_cases.sizes(weighted, None) == [(9, 2, 13), (5, 2, 9), (19, 2, 5), (2, 2, 3)]
    assert hard_cases.sizes(weighted, (1, 2, 1)) == [(1, 2, 1)]
    assert hard_cases.sizes(CE, [(1, 2, 3), Shape(1, 2, 3), [4, 5, 6]]) == [(1, 2, 3), (4, 5, 6)]
    assert hard_cases.sizes(CE, np.array([1, 2, 3]).tolist()) == [(1, 2, 3)]
    for wrong in ([], (1, 2), (0, 1, 1), [(1, 1, 0)], (1.5, 2, 3), [(1, 2, 3, 4)], "abc", 3, [(1, 2, 3), (1, 2)]):
        with pytest.raises(
            ValueError, match=r"^shapes: expected \(N, C, D\), three positive integers, or a list of such; got"
        ):
            hard_cases.sizes(CE, wrong)
    with pytest.raises(ValueError, match=r"^shapes: expected C=2, as many as class weights; got \(1, 3, 1\)$"):
        hard_cases.sizes(weighted, (1, 3, 1))
    with pytest.raises(ValueError, match=r"^shapes: expected C=2"):
        hard_cases.sizes(refloss.ArcFace(class_weight=(1.0, 2.0)), [(1, 2, 1), (1, 3, 1)])


def test_labels_repeat():
    following = label_source(7, 7)
    batches = [following() for _ in range(3)]
    assert all(sorted(y) == list(range(7)) for y in batches)
    assert len({tuple(y) for y in batches}) == 3
    few = label_source(19, 3)()
    assert np.bincount(few).tolist() == [7, 6, 6]
    many = label_source(5, 35)
    batches = [many() for _ in range(35)]
    assert all(np.count_nonzero(y == 34) >= 2 for y in batches)
    assert batches[0].tolist() == [1, 34, 34, 22, 29]
    pairs = label_source(2, 5)
    assert [pairs().tolist() for _ in range(4)] == [[4, 4], [2, 4], [4, 4], [4, 1]]


def test_labels_reach_every_class_where_there_are_more_classes_than_samples():
    for n, c in ((5, 35), (3, 8), (2, 5)):
        following = label_source(n, c)
        assert set(np.concatenate([following() for _ in range(n * c)])) == set(range(c))


def test_targets_are_at_the_angle_that_a_case_names():
    by_name = named(refloss.NormFace(), "float64")

    def angles(name):
        return angles_of(*by_name[name].inputs)

    assert np.allclose(angles("ordinary-trained"), np.linspace(0.5, 1.2, 9), rtol=1e-12)
    for theta, text in ((0.1, "1e-01"), (0.01, "1e-02"), (0.001, "1e-03"), (1e-5, "1e-05")):
        assert np.allclose(angles(f"hard-theta-{text}"), theta, rtol=1e-9)
        assert np.allclose(np.pi - angles(f"hard-pi-minus-{text}"), theta, rtol=1e-9)
    for theta, text in ((0.01, "1e-02"), (0.001, "1e-03"), (1e-5, "1e-05")):
        x, w, y = by_name[f"hard-rivals-{text}"].inputs
        assert np.allclose(angles_of(x, w, y), theta, rtol=1e-9)
        assert y.max() < 4
        rivals = np.setdiff1d(np.arange(7), y)
        nearest = [angles_of(x, np.tile(w[rival], (9, 1)), np.arange(9)).min() for rival in rivals]
        assert np.allclose(nearest, np.arctan(theta), rtol=1e-6)
        apart = np.linalg.norm(w[rivals] - w[y[: len(rivals)]], axis=1)
        assert (apart > 0.1 * theta).all()
    x, w, y = by_name["hard-opposite"].inputs
    own = y != (y[0] + 1) % 7
    assert np.allclose(np.pi - angles("hard-opposite")[own], 0.1, rtol=1e-9)
    assert (w[(y[0] + 1) % 7] == -w[y[0]]).all()
    assert angles("ordinary-random").min() > np.arccos(0.95)
    assert np.abs(np.cos(angles("ordinary-random"))).max() < 0.95
    lengths = np.linalg.norm(by_name["ordinary-lengths"].inputs[0], axis=1)
    plain = lengths / np.geomspace(0.125, 8.0, 9)
    assert plain.min() > 1.5
    assert plain.max() < 6.5


def test_orthogonal_targets_have_an_entry_of_0_or_a_tiny_one():
    x, w, y = named(refloss.NormFace())["hard-orthogonal"].inputs
    assert (np.count_nonzero(x, axis=1) == 1).all()
    assert x.max(axis=1).tolist() == [1.0, 2.0, 4.0] * 3
    along = (x * w[y]).sum(axis=1) / x.max(axis=1)
    assert along.tolist() == np.where(y % 2 == 0, 2.0**-16, 0.0).tolist()
    assert (np.abs(w[:, -1]) >= 2.0).all()
    rest = w * 16.0
    assert ((rest == np.round(rest)) | (np.abs(w) == 2.0**-16)).all()
    assert np.abs(w[:, :-1]).max() <= 1.5
    assert np.abs(w[:, -1]).max() <= 3.5
    assert np.unique(np.argmax(x, axis=1)).size > 3


@pytest.mark.parametrize(
    ("loss", "name", "theta"),
    [
        (refloss.ArcFace(boundary="easy"), "cosine", np.pi / 2.0),
        (refloss.CosFace(boundary="conditional"), "cosine", np.arccos(0.35)),
        (refloss.ArcFace(boundary="min"), "half", np.pi - 0.25),
        (refloss.ArcFace(), "fold1", np.pi - 0.5),
        (refloss.ASoftmax(), "fold1", np.pi / 4.0),
        (refloss.ASoftmax(), "fold3", 3.0 * np.pi / 4.0),
        (refloss.CombinedMargin(m1=1.35), "fold1", (np.pi - refloss.CombinedMargin().spec.margin.m2) / 1.35),
    ],
    ids=str,
)
def test_boundaries_have_targets_on_them_and_on_both_sides(loss, name, theta):
    by_name = named(loss, "float64")
    for side, off in (("before", -0.02), ("on", 0.0), ("after", 0.02)):
        assert np.allclose(angles_of(*by_name[f"boundary-{name}-{side}"].inputs), theta + off, rtol=0.0, atol=1e-9)


def test_boundaries_next_to_0_or_pi_are_kept_away_from_them():
    after = named(refloss.ArcFace(m=0.05, boundary="min"), "float64")["boundary-half-after"].inputs
    assert np.allclose(angles_of(*after), np.linspace(np.pi - 0.005, np.pi - 0.05, 9), rtol=0.0, atol=1e-9)
    before = named(refloss.CosFace(m=0.9999, boundary="conditional"), "float64")["boundary-cosine-before"].inputs
    ends = 0.05, np.arccos(0.9999) - 0.02
    assert np.allclose(angles_of(*before), np.abs(np.linspace(*ends, 9)), rtol=0.0, atol=1e-9)


def test_boundaries_are_those_inside():
    def found(loss):
        return list(boundaries(Setting(loss, "float64", Shape(), np.random.default_rng(0), lambda: np.zeros(9, int))))

    def folds(loss):
        return [boundary.name for boundary in found(loss)]

    assert folds(refloss.ASoftmax()) == ["fold1", "fold2", "fold3"]
    assert folds(refloss.ASoftmax(m=1.01)) == []
    assert folds(refloss.NormFace()) == folds(refloss.CosFace()) == []
    assert folds(refloss.CosFace(m=1.5, boundary="conditional")) == []
    assert folds(refloss.ArcFace(m=0.05)) == []
    assert folds(refloss.CombinedMargin(m1=2.0, m2=0.5)) == ["fold1", "fold2"]
    reasons = [boundary.reason for boundary in found(refloss.ASoftmax())]
    assert reasons == [f"m1 theta + m2 = {fold} pi" for fold in (1, 2, 3)]


def probability_left(z, y):
    """1 - p of the targets."""
    each = np.arange(len(y))
    gaps = z - z[each, y][:, None]
    gaps[each, y] = -np.inf
    others = np.exp(gaps).sum(axis=1)
    return others / (1.0 + others)


@pytest.mark.parametrize(
    "loss",
    [CE, refloss.SoftmaxLoss(), refloss.NormFace(), refloss.NormFace(s=None), refloss.ArcFace(), refloss.CosFace()],
    ids=repr,
)
def test_certain_targets_have_the_probability_that_is_named(loss):
    *inputs, y = named(loss, "float64")["hard-certain"].inputs
    left = -np.log2(probability_left(inputs[0], y) if loss is CE else _left(loss, *inputs, y))
    k = np.round(np.linspace(1.0, 24.0, 9))
    scale = None if loss.spec.head != "margin" else loss.spec.scale
    if loss is CE or scale is None:
        assert np.allclose(left, k, rtol=1e-6)
    else:  # an angle of 0.05 at least: what is surer than that cannot be had
        reached = np.abs(left - k) < 1e-6
        assert reached.sum() >= 6 or np.allclose(angles_of(*inputs, y)[~reached], 0.05, rtol=1e-6)
    if loss is not CE:
        assert np.unique(y).size == 2
        assert y[0] == y[2] == 6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("loss", [CE, refloss.SoftmaxLoss(), refloss.NormFace(s=None), refloss.ArcFace()], ids=repr)
def test_certain_targets_stay_certain_where_numbers_are_rounded(loss, dtype):
    """Rounded inputs move each of two logits by 2 u |x| |w| at most; logits alone by u |z|."""
    *inputs, y = named(loss, dtype)["hard-certain"].inputs
    left = -np.log2(probability_left(inputs[0], y) if loss is CE else _left(loss, *inputs, y))
    if loss is CE:
        size = np.abs(inputs[0]).max()
    else:
        x, w = (np.linalg.norm(entry, axis=1).max() for entry in inputs)
        size = 2.0 * (x * w if loss.spec.head == "linear" else loss.spec.scale or x)
    assert np.abs(left - np.round(np.linspace(1.0, 24.0, 9))).max() < 2.0 * format_of(dtype).u * size / np.log(2.0)


def _left(loss, x, w, y):
    if loss.spec.head == "linear":
        return probability_left(x @ w.T, y)
    return probability_left(np.array(loss.trace(x, w, y)["logits"].output), y)


def test_one_sample_is_certain_to_ten_bits():
    z, y = named(CE, "float64", (1, 5, 1))["hard-certain"].inputs
    assert np.allclose(probability_left(z, y), 2.0**-10, rtol=1e-9)
    z, y = named(CE, "float64", (2, 5, 1))["hard-certain"].inputs
    assert np.allclose(probability_left(z, y), [2.0**-1, 2.0**-24], rtol=1e-6)
    for loss, turn in ((refloss.NormFace(s=None), 0.1), (refloss.SoftmaxLoss(), 0.5)):
        assert np.allclose(angles_of(*named(loss, "float64")["hard-certain"].inputs), np.arctan(turn), rtol=1e-9)


def test_logits_are_what_their_reason_says():
    by_name = {name: case.inputs for name, case in named(CE).items()}
    each = np.arange(9)
    z, _ = by_name["ordinary-random"]
    assert 0.7 < z.std() < 1.3
    z, _ = by_name["ordinary-wide"]
    assert 3.5 < z.std() < 6.5

    def lead(z, at):
        others = z.copy()
        others[each, at] = -np.inf
        return z[each, at] - others.max(axis=1)

    for gap in (5, 10, 30):
        z, y = by_name[f"hard-confident-{gap}"]
        assert (lead(z, y) >= gap - 1e-5).all()
        assert (lead(z, y) < gap + 3.0).all()
        assert np.isclose(lead(z, y).min(), gap, rtol=1e-5)
    for gap in (5, 10, 30, 120, 800):
        z, y = by_name[f"hard-wrong-{gap}"]
        assert (lead(z, (y + 1) % 7) >= gap - 1e-3).all()
        assert np.isclose(lead(z, (y + 1) % 7).min(), gap, rtol=1e-4)
    reasons = {gap: named(CE)[f"hard-wrong-{gap}"].reason for gap in (5, 120, 800)}
    assert reasons[120] == "another class's logit leads by 120: exp(-gap) is 0 in float32"
    assert reasons[800] == "another class's logit leads by 800: exp(-gap) is 0"
    assert reasons[5] == "another class's logit leads by 5"
    z, y = by_name["boundary-tied"]
    assert (z[each, y] == z.max(axis=1)).all()
    assert (z[each, (y + 1) % 7] == z.max(axis=1)).all()
    z, y = by_name["boundary-masked"]
    assert np.isfinite(z[each, y]).all()
    assert np.isneginf(z[each, (y + 1) % 7]).all()
    assert np.isneginf(z).sum(axis=1).tolist() == [6] + [1] * 8
    y = by_name["boundary-ignored"][1]
    assert (y == CE.ignore_index).tolist() == [True, False] * 4 + [True]
    assert (by_name["boundary-all-ignored"][1] == CE.ignore_index).all()
    assert len(by_name["boundary-all-ignored"][1]) == 9
    shares = by_name["boundary-soft"][1]
    assert (shares.sum(axis=1) == 1.0).all()
    assert (shares * 64.0 == np.round(shares * 64.0)).all()
    assert (shares == 0.0).any()
    assert np.ptp(by_name["hard-equal"][0]) == 0.0
    for name, around in (("hard-offset", 1000.0), ("hard-offset-below", -1000.0)):
        z = by_name[name][0] - around
        assert (4.0 * z == np.round(4.0 * z)).all()
        assert 0.5 < z.std() < 1.5
        assert abs(z.mean()) < 0.5
    assert (by_name["range-offset-huge"][0] == 1e8).all()
    assert (named(CE, "float16")["range-offset-huge"].inputs[0] == 30000.0).all()


def test_linear_heads_have_gaps_biases_and_offsets():
    by_name = {name: case.inputs for name, case in named(refloss.SoftmaxLoss()).items()}
    each = np.arange(9)
    for gap in (120.0, 800.0):
        x, w, y = by_name[f"hard-wrong-{gap:g}"]
        rival = (x @ w.T)[each, (y + 1) % 7]
        assert np.allclose(np.linalg.norm(w, axis=1), 1.0, rtol=1e-6)
        assert (np.abs(rival - gap) < 3.0).all()
        assert np.ptp(x - gap * w[(y + 1) % 7], axis=1).max() < 1e-3  # the same number is added to all entries of a row
        assert np.ptp(x - gap * w[(y + 1) % 7], axis=0).max() > 0.1
    assert abs(by_name["ordinary-bias"][3]).max() < 4.0
    assert np.ptp(by_name["ordinary-bias"][3]) > 0.5
    assert (np.abs(by_name["hard-bias-offset"][3] - 1000.0) < 4.0).all()
    assert np.ptp(by_name["hard-bias-offset"][3]) > 0.5
    x, w, y = by_name["hard-offset"]
    assert (x[:, 0] == 32.0).all()
    assert (np.abs(w[:, 0] - 32.0) < 4.0).all()
    assert (np.abs(x @ w.T - 1024.0) < 150.0).all()
    x, w, y = by_name["hard-offset-exact"]
    assert not x[:, 1:].any()
    assert not w[:, 1:].any()
    assert x[:, 0].tolist() == [8.0, -8.0] * 4 + [8.0]
    assert (w[:, 0] == np.round(w[:, 0])).all()
    assert w[:, 0].max() == 255.0
    assert w[:, 0].min() == 128.0
    assert np.sort(w[:, 0])[-2] <= 250.0
    assert np.sort(w[:, 0])[1] >= 134.0
    z = x @ w.T
    assert (z[each, y] == z.max(axis=1)).all()
    assert probability_left(z, y).max() < 1e-12
    assert np.abs(z).min() >= 1000.0


def test_lengths_overflow_and_vanish_and_rows_are_zero():
    for dtype in ("float16", "float32", "float64"):
        by_name = {name: case.inputs for name, case in named(refloss.NormFace(), dtype).items()}
        largest, smallest = FORMATS[dtype].largest, FORMATS[dtype].spacing
        x, w, _ = by_name["range-long-x"]
        size = np.linalg.norm(x / 1e100, axis=1) * 1e100
        assert (size > np.sqrt(largest)).all()
        assert np.isfinite(x).all()
        assert np.abs(w).max() < 10.0
        x, w, _ = by_name["range-short-w"]
        size = np.abs(w).max(axis=1)
        assert (size > 0.0).all()
        assert (size < (0.1 if dtype == "float16" else np.sqrt(smallest))).all()
        assert np.abs(x).max() > 1.0
    x, w, _ = by_name["range-zero-x"]
    assert (x.any(axis=1) == [False] + [True] * 8).all()
    assert w.any(axis=1).all()
    x, w, _ = by_name["range-zero-w"]
    assert (w.any(axis=1) == [True] * 6 + [False]).all()
    assert x.any(axis=1).all()


def test_all_other_classes_are_one():
    _, w, y = named(refloss.NormFace())["hard-same-classes"].inputs
    others = np.setdiff1d(np.arange(7), y[:1])
    assert (w[others] == w[others[0]]).all()
    assert (w[y[0]] != w[others[0]]).any()


def test_triplets_are_where_their_reason_says():
    for loss in (refloss.Triplet(), refloss.Triplet(m=0.5, squared=False)):
        by_name = {name: case.inputs for name, case in named(loss, "float64").items()}

        def distances(name, by_name=by_name):
            a, p, n = by_name[name]
            return np.linalg.norm(a - p, axis=1), np.linalg.norm(a - n, axis=1)

        near, far = distances("ordinary-random")
        assert min(near.min(), far.min()) > 2.0
        near, far = distances("hard-near")
        assert 0.0 < max(near.max(), far.max()) < 0.1
        near, far = distances("boundary-kept")
        assert 0.0 < near.max() < 1.0
        assert np.allclose(far, 10.0 + 10.0 * loss.m, rtol=1e-12)
        near, far = distances("ordinary-partly")
        assert np.allclose(far[1::2], 10.0 + 10.0 * loss.m, rtol=1e-12)
        assert far[::2].max() < 1.0
        m = np.sqrt(loss.m) if loss.squared else loss.m
        for factor in (0.75, 1.25):
            near, far = distances(f"boundary-edge-{factor:g}")
            assert not near.any()
            assert np.allclose(far, factor * m, rtol=1e-9)
        near, far = distances("hard-on-positive")
        assert not near.any()
        assert (far > m).all()
        assert (far < 4.0 * m).all()
        near, far = distances("hard-on-negative")
        assert not far.any()
        assert near.min() > 1.0
        assert not any(part.any() for part in distances("hard-all-one"))
        a, p, n = by_name["hard-far"]
        assert all((64.0 * part == np.round(64.0 * part)).all() for part in (a, p, n))
        assert abs(a.mean() - 100.0) < 1.0
        near, far = distances("hard-far")
        assert 0.5 < min(near.min(), far.min()) < max(near.max(), far.max()) < 5.0
    nothing = named(refloss.Triplet(m=0.0), "float64")["boundary-edge-1.25"].inputs
    assert np.allclose(np.linalg.norm(nothing[0] - nothing[2], axis=1), 1.25, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_divergences_are_as_near_and_as_far_as_their_reason_says(dtype):
    loss = refloss.KLDivergence(reduction="none")
    by_name = {name: case.inputs for name, case in named(loss, dtype).items()}
    largest = {"bfloat16": 4, "float16": 4}.get(dtype, 20)  # what is left of 2^-k beside quarters
    assert [name for name in by_name if "near" in name] == [f"hard-near-{k}" for k in range(4, largest + 1, 4)]
    for k in range(4, largest + 1, 4):
        z, target = by_name[f"hard-near-{k}"]
        apart = np.abs(z - target)
        assert 2.0 ** -(k + 3) < apart.mean() < 2.0 ** -(k - 1)
        assert 0.0 < loss(z, target).max() < 4.0 ** -(k - 2)
    assert (loss(*by_name["boundary-equal"]) == 0.0).tolist() == [False, True] * 4 + [False]
    assert not loss(*by_name["boundary-constant-apart"]).any()
    z, target = by_name["hard-offset"]
    assert z.min() > 900.0
    assert target.max() < -900.0
    assert ("hard-gap-z-800" in by_name) == (dtype != "float16")
    for side, place in (("z", 0), ("target", 1)):
        rising = np.sort(by_name[f"hard-gap-{side}-120"][place], axis=1)
        lead = rising[:, -1] - rising[:, -2]
        assert lead.min() > 119.0  # the dtype rounds it
        assert lead.max() < 124.0
    sure = np.sort(refloss.softmax(by_name["hard-certain"][1]), axis=1)
    assert 0.3 < sure[0, -1] < 0.7
    assert sure[-1, -1] > 1.0 - 2.0**-7
    z, target = by_name["hard-disagree"]
    assert (z.argmax(axis=1) != target.argmax(axis=1)).all()
    for name, masked in (("range-masked", [True, True]), ("range-masked-target", [False, True])):
        assert [bool(np.isinf(part).any()) for part in by_name[name]] == masked
        assert np.isfinite(loss(*by_name[name])).all()


def test_divergences_of_one_class_lead_nowhere():
    names = {case.name for case in cases(refloss.KLDivergence(), shapes=(3, 1, 1))}
    assert "hard-disagree" not in names
    assert "ordinary-random" in names
