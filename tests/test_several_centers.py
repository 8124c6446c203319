"""Checks of classes with several centers: what cases show, what budgets allow, and which causes are named."""

from __future__ import annotations

import numpy as np
import pytest

import refloss
from refloss.formats import FORMATS
from refloss.testing import Case, budget, cases, check, properties
from refloss.testing.adapters import Found
from refloss.testing.defects import centers
from refloss.testing.diagnosis.gradients import whole_gradients
from refloss.testing.diagnosis.references import References, agrees
from refloss.testing.diagnosis.values import rows
from refloss.testing.errors import Arithmetic
from refloss.testing.hard_cases.angles import cosines
from support.center_codes import (
    WRONG_GRADIENTS,
    WRONG_VALUES,
    jax_code,
    numpy_code,
    torch_code,
    torch_divided,
    torch_first,
    torch_last,
    value_of,
)
from support.textbook import of_centers

LOSS = refloss.SubCenterArcFace()
SHAPE = [(9, 7, 13)]


def by_name(loss=LOSS, dtype="float64", shape=SHAPE, **options):
    return {case.name: case for case in cases(loss, dtype, shape, **options)}


# ---------------------------------------------------------------------------------------------------------------- cases


def test_class_weights_of_cases_have_centers_and_those_of_one_center_are_as_without():
    for number in (1, 2, 3):
        for case in cases(refloss.SubCenterArcFace(centers=number), "float64", SHAPE):
            assert case.inputs[1].shape == (7, number, 13)
    plain, one = (by_name(loss) for loss in (refloss.ArcFace(), refloss.SubCenterArcFace(centers=1)))
    assert plain.keys() == one.keys()
    for name in ("ordinary-trained", "hard-theta-1e-03", "range-zero-w"):
        assert np.array_equal(plain[name].inputs[1], one[name].inputs[1][:, 0])


def test_further_centers_leave_a_case_what_it_is():
    plain, several = by_name(refloss.ArcFace()), by_name()
    for name in ("ordinary-trained", "hard-theta-1e-03", "hard-certain"):
        x, w, y = several[name].inputs
        c = of_centers(x, w)[np.arange(len(y)), y].max(axis=1)
        assert np.allclose(np.arccos(c), np.arccos(np.clip(cosines(x, plain_row(w, y)), -1, 1)), atol=1e-7), name
    x, w, y = several["hard-same-classes"].inputs
    others = np.setdiff1d(np.arange(7), y[:1])
    assert (w[others] == w[others[0]]).all()
    assert plain.keys() == several.keys() - {f"{group}" for group in several if "centers" in group}


def plain_row(w, y):
    """The rows of the case itself: every class has its at another place."""
    return w[y, y % 3]


def test_centers_are_equally_near_nearly_so_or_equal():
    named = by_name()
    for name, apart in (("boundary-centers-on", 0.0), ("boundary-centers-beside", 0.02), ("hard-centers-small", 5e-3)):
        x, w, y = named[name].inputs
        theta = np.sort(np.arccos(np.clip(of_centers(x, w)[np.arange(len(y)), y], -1, 1)), axis=1)
        assert np.isclose(theta[:, 1] - theta[:, 0], apart, atol=1e-7).any(), name
    w = named["boundary-centers-equal"].inputs[1]
    assert (w == w[:, :1]).all()
    assert not any("centers" in case.flags for case in cases(LOSS, shapes=(3, 2, 1)))


# -------------------------------------------------------------------------------------------------------------- budgets


def test_of_equal_centers_each_may_have_the_whole_gradient_and_others_none():
    rng = np.random.default_rng(0)
    x, w, y = rng.normal(size=(4, 6)), rng.normal(size=(3, 3, 6)), np.array([0, 1, 2, 0])
    gradient = LOSS.value_and_grad(x, w, y)[1].w
    allowed = budget(LOSS, x, w, y, dtype="float32").gradient.w
    alone = np.abs(gradient).max(axis=2) == 0.0
    assert alone.any()
    assert (allowed[alone] <= 64 * FORMATS["float32"].smallest).all()  # products that may be flushed to 0
    assert (allowed[~alone] < 1e-3 * np.abs(gradient).max()).all()
    same = np.repeat(w[:, :1], 3, axis=1)
    gradient = LOSS.value_and_grad(x, same, y)[1].w
    allowed = budget(LOSS, x, same, y, dtype="float32").gradient.w
    assert (allowed >= np.abs(gradient[:, :1])).all()


def test_a_target_may_have_the_angle_of_another_center_as_near():
    """At 1e-5 rad a cosine of float32 does not tell 1e-5 from 3e-4, and the value may be that of either."""
    x = np.array([[1.0, 0.0, 0.0]])
    near, far = ([1.0, 0.0, angle] for angle in (1e-5, 3e-4))
    w = np.array([[near, far], [[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]])
    loss = refloss.SubCenterArcFace(centers=2, s=4.0)
    other = loss(x, w[:, 1:].repeat(2, axis=1), [0])
    assert abs(other - loss(x, w, [0])) <= budget(loss, x, w, [0], dtype="float32").value
    assert abs(other - loss(x, w, [0])) > budget(loss, x, w, [0], dtype="float64").value


# ----------------------------------------------------------------------------------------------------------- right code


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_code_conforms(dtype):
    report = check(
        numpy_code, LOSS, dtype=dtype, shapes=[(9, 7, 13), (2, 2, 3)], groups=("ordinary", "boundary", "hard")
    )
    assert report.passed, report
    assert report.meets == "stable"


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("choose", [torch_first, torch_divided, torch_last])
def test_torch_code_conforms_whatever_it_takes_of_equal_centers(choose, dtype):
    groups = ("boundary", "ordinary", "hard")
    report = check(torch_code(choose), LOSS, framework="torch", dtype=dtype, shapes=(9, 7, 13), groups=groups)
    assert report.passed, report


@pytest.mark.usefixtures("jax")
def test_jax_code_conforms():
    report = check(jax_code, LOSS, framework="jax", shapes=(5, 4, 6), groups=("ordinary", "boundary", "hard"))
    assert report.passed, report


def test_a_rule_holds_of_the_nearest_center():
    loss = refloss.SubCenterArcFace(boundary="hard", centers=2, reduction="sum", gradient="detached")

    def code(x, w, y):
        value, gradient = loss.value_and_grad(x, w, y)
        return value, tuple(gradient)

    assert check(code, loss, dtype="float64", shapes=(5, 4, 6)).passed


# ----------------------------------------------------------------------------------------------------------- wrong code


@pytest.mark.parametrize("sentence", WRONG_VALUES)
def test_wrong_values_are_named(sentence):
    report = check(WRONG_VALUES[sentence], LOSS, dtype="float64", shapes=SHAPE, groups=("ordinary", "boundary"))
    assert not report.passed
    assert [cause.partition(" (but")[0] for cause in report.diagnoses] == [sentence]


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("sentence", WRONG_GRADIENTS)
def test_gradients_of_all_centers_are_named(sentence):
    code, groups = torch_code(WRONG_GRADIENTS[sentence], arccos=True), ("ordinary", "boundary")
    report = check(code, LOSS, framework="torch", dtype="float64", shapes=SHAPE, groups=groups)
    assert not report.passed
    assert [cause.partition(" (but")[0] for cause in report.diagnoses] == [sentence]


def test_causes_of_several_centers_are_for_losses_that_have_such():
    plain, a = refloss.ArcFace(), Arithmetic(2.0**-53, 2.0**-53, 0.0, 2.0**-1022)
    assert not list(rows(plain, "inputs", centers.LAYOUTS))
    assert not whole_gradients(plain, [], References("float64", a))
    assert not list(rows(plain, "step", centers.STEPS))
    x, w, y = by_name(shape=(4, 3, 5))["boundary-centers-equal"].inputs
    value, gradient = LOSS.value_and_grad(x, w, y)
    found = Found(np.asarray(value), tuple(gradient), np.ones(()))
    assert not whole_gradients(LOSS, [((x, w, y), found)], References("float64", a))
    case = by_name(shape=(4, 3, 5))["ordinary-random"]
    value = Found(np.asarray(LOSS(*case.inputs)), None, np.ones(()))
    assert not whole_gradients(LOSS, [(case.inputs, value)], References("float64", a))
    ((sentence, other),) = rows(LOSS, "inputs", centers.LAYOUTS)
    assert sentence == "class weights (C, 3, D) are taken for (3, C, D)"
    (x, w, y), right = case.inputs, References("float64", a)
    value, gradient = LOSS.value_and_grad(x, w.reshape(3, 3, 5).swapaxes(0, 1), y)
    theirs = Found(np.asarray(value), (gradient.x, gradient.w.swapaxes(0, 1).reshape(w.shape)), np.ones(()))
    assert agrees(other, case.inputs, theirs, right)
    assert agrees(other, case.inputs, theirs._replace(gradients=(gradient.x, None)), right)
    assert not agrees(other, case.inputs, theirs._replace(gradients=(gradient.x, 2.0 * theirs.gradients[1])), right)


# ----------------------------------------------------------------------------------------------------------- properties


def test_the_order_of_centers_changes_nothing_but_their_order():
    outcome = properties(numpy_code, LOSS, dtype="float64", shape=(3, 4, 5), examples=5, hard=False)
    assert outcome.passed, outcome
    title = "The order of the centers of a class changes nothing but the order of their gradients"
    assert title in outcome.held
    one = properties(
        value_of(lambda c: c[:, :, 0]), LOSS, dtype="float64", shape=(3, 4, 5), examples=10, gradients=False
    )
    assert title in one.broken


def test_a_case_of_ones_own_may_have_centers():
    x, w = np.eye(3)[:1], np.arange(1.0, 19.0).reshape(2, 3, 3)
    case = Case("own", "ordinary", (), "", (x, w, np.array([1])))
    assert check(numpy_code, LOSS, dtype="float64", cases=[case]).passed
