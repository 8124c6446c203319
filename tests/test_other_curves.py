"""Checks of losses with curves for the other classes: what cases show, and what budgets allow and what they do not."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

import refloss
from refloss.testing import budget, cases, check, conformance, properties
from refloss.testing.budgets import ladder
from refloss.testing.signatures import class_angles_of, has_other_curves

pytest.importorskip("torch")

from support.right_codes.curve_codes import CurveSteps, numpy_curves, torch_curves
from support.right_codes.families import CURVES

pytestmark = pytest.mark.usefixtures("torch")
SHAPE = [(9, 7, 13)]
DIVIDED, CIRCLE, NEAREST = refloss.SphereFaceR(version=2), refloss.CircleLoss(), refloss.InterTopK(k=2)
THREE = (DIVIDED, CIRCLE, NEAREST)


@pytest.fixture(autouse=True)
def _without_diagnoses(monkeypatch):
    monkeypatch.setattr(conformance, "diagnose", lambda *arguments: [])


def by_name(loss, dtype="float64", shape=SHAPE, **options):
    return {case.name: case for case in cases(loss, dtype, shape, **options)}


def of_others(loss, **options):
    """Its cases of other classes."""
    return [case for case in cases(loss, shapes=SHAPE, **options) if "other classes" in case.flags]


def cosines(x, w):
    return x @ w.T / (np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=1))


# --------------------------------------------------------------------------------------------------------------- cases


def test_which_losses_have_curves_for_the_other_classes():
    assert all(has_other_curves(loss) for loss in THREE)
    plain = refloss.SphereFaceR(), refloss.InterTopK(penalty=0.0), refloss.CurricularFace(), refloss.NormFace()
    assert not any(has_other_curves(loss) for loss in plain)
    assert not any(of_others(loss) for loss in plain)


@pytest.mark.parametrize("loss", THREE, ids=repr)
def test_other_classes_are_at_their_angles_and_samples_of_one_class(loss):
    found = by_name(loss)
    for name, case in found.items():
        if "other classes" in case.flags:
            x, w, y = case.inputs
            assert len(set(y.tolist())) == 1
            theta = np.arccos(np.clip(cosines(x, w), -1.0, 1.0))[:, np.arange(7) != y[0]]
            if name.startswith("hard-others"):
                at = float(name[-5:]) if "beyond" not in name else math.pi * (1.0 + 1.0 / loss.m) / 2.0
                at = math.pi - at if "pi-minus" in name else at
                count = 2 if loss == NEAREST else 6
                off = min(at, math.pi - at, 0.1)
                assert (np.abs(np.sort(theta, axis=1)[:, :count] - at) < 0.2 * off).all()
    assert ("hard-others-pi-minus-1e-03" in found) == (loss != NEAREST)
    assert ("hard-others-beyond" in found) == (loss == DIVIDED)
    assert ("boundary-others-on" in found) == (loss == CIRCLE)
    assert ("boundary-nearest-on" in found) == (loss == NEAREST)


def test_cosines_of_other_classes_are_on_both_sides_of_the_edge_of_circle_loss():
    found = by_name(CIRCLE)
    for side, sign in (("above", 1.0), ("below", -1.0), ("on", 0.0)):
        x, w, y = found[f"boundary-others-{side}"].inputs
        c = cosines(x, w)[:, np.arange(7) != y[0]] + CIRCLE.m
        assert (np.sign(c) == sign).all() if sign else np.abs(c).min() < 1e-15
    x, w, _ = by_name(refloss.CircleLoss(m=1.0))["boundary-others-below"].inputs
    assert cosines(x, w).min() < -1.0 + 1e-12


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_last_of_the_nearest_classes_and_the_next_are_as_near_or_beside(k):
    found = by_name(refloss.InterTopK(k=k))
    for side, off in (("on", 0.0), ("beside", 0.02)):
        x, w, y = found[f"boundary-nearest-{side}"].inputs
        theta = np.sort(np.arccos(cosines(x, w)[:, np.arange(7) != y[0]]), axis=1)
        assert np.allclose(theta[:, k] - theta[:, k - 1], off, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("k", [6, 7, 50])
def test_where_all_are_the_nearest_no_class_is_beside(k):
    found = by_name(refloss.InterTopK(k=k))
    assert "boundary-nearest-on" not in found
    assert "hard-others-pi-minus-1e-03" in found


@pytest.mark.parametrize("loss", THREE, ids=repr)
@pytest.mark.parametrize("shape", [(4, 1, 5), (4, 3, 1)])
def test_without_other_classes_or_a_tangent_there_are_none_of_these_cases(loss, shape):
    assert not [case for case in cases(loss, shapes=[shape]) if "other classes" in case.flags]


def test_the_one_class_of_these_cases_counts():
    weights = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    for case in of_others(refloss.CircleLoss(class_weight=weights)):
        assert set(case.inputs[2].tolist()) == {6}
    for ignored in range(7):
        assert ignored not in {int(case.inputs[2][0]) for case in of_others(refloss.CircleLoss(ignore_index=ignored))}


@pytest.mark.parametrize("loss", [*THREE, refloss.InterTopK(s=None), refloss.SphereFaceR(version=2, s=None)], ids=repr)
def test_certain_targets_have_the_probability_that_is_named(loss):
    x, w, y = by_name(loss)["hard-certain"].inputs
    rows = refloss.CrossEntropy(reduction="none")(loss.trace(x, w, y)["logits"].output, y)
    left = -np.log2(-np.expm1(-np.asarray(rows)))
    assert (np.abs(left - np.round(np.linspace(1.0, 24.0, 9))) < 1e-5).sum() >= 6


# ------------------------------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize("loss", THREE, ids=repr)
def test_standards_of_these_losses_form_a_ladder(loss):
    case = by_name(loss, "float32")["ordinary-random"]
    found = [budget(loss, *case.inputs, dtype="float32", standard=name) for name in ladder("float32", loss)]
    for wide, narrow in pairwise(found):
        assert np.all(narrow.value <= wide.value)
        assert all((a <= b).all() for a, b in zip(narrow.gradient, wide.gradient, strict=True))


@pytest.mark.parametrize("loss", THREE, ids=repr)
def test_a_budget_is_not_far_above_real_errors(loss):
    slack = []
    for case in cases(loss, "float32", [(9, 7, 13), (16, 20, 64)]):
        if case.group == "ordinary":
            x, w, y = case.inputs
            _, dx, dw = numpy_curves(loss)(x.astype(np.float32), w.astype(np.float32), y)
            _, grad = loss.value_and_grad(x, w, y)
            allowed = budget(loss, x, w, y, dtype="float32", standard="stable")
            for theirs, ours, bound in ((dx, grad.x, allowed.gradient.x), (dw, grad.w, allowed.gradient.w)):
                error = np.abs(theirs - ours)
                assert (error <= bound).all()
                slack.append(bound.max() / error.max())
    assert np.median(slack) < 250.0


def by_arccos(loss, cos, theta, *further):
    import torch

    return torch.cos(torch.acos(cos.clamp(-1.0, 1.0)) / loss.m)


def half_angle(loss, cos, theta, *further):
    return ((1.0 + cos) / 2.0).clamp(min=0.0).sqrt()


def nearest_by_arccos(loss, cos, theta):
    import torch

    return torch.cos(torch.acos(cos.clamp(-1.0, 1.0)) - loss.penalty)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("loss", "steps", "near"),
    [
        (DIVIDED, CurveSteps(divided=by_arccos), True),
        (refloss.SphereFaceR(version=2, m=2.0), CurveSteps(divided=half_angle), True),
        (refloss.InterTopK(k=9, penalty=0.3), CurveSteps(lessened=nearest_by_arccos), False),
    ],
    ids=["arccos", "half-angle", "nearest"],
)
def test_an_arccos_is_right_where_the_cosine_knows_the_angle(loss, steps, near, dtype):
    """Next to an embedding the divided angle's cosine is smooth in the cosine; next to its opposite it is not."""
    code = torch_curves(loss, steps)
    ordinary = [case for case in cases(loss, dtype, SHAPE) if case.group == "ordinary"]
    assert check(code, loss, framework="torch", dtype=dtype, standard="stable", cases=ordinary).passed
    found = by_name(loss, dtype)
    for side, right in (("", near), ("-pi-minus", False)):
        hard = [found[f"hard-others{side}-{theta}"] for theta in ("1e-02", "1e-03")]
        values = check(code, loss, framework="torch", dtype=dtype, cases=hard, gradients=False)
        assert values.passed == right
        assert check(torch_curves(loss), loss, framework="torch", dtype=dtype, standard="stable", cases=hard).passed


@pytest.mark.parametrize("kind", ["first", "last"])
def test_of_classes_that_are_as_near_either_may_be_among_the_nearest(kind):
    def chosen(loss, others):
        import torch

        order = others if kind == "first" else others.flip(1)
        places = torch.argsort(-order, dim=1, stable=True)[:, : loss.k]
        mask = torch.zeros_like(others, dtype=torch.bool)
        mask = mask.scatter(1, places if kind == "first" else others.shape[1] - 1 - places, True)
        return mask & (others > -1e3)

    code = torch_curves(NEAREST, CurveSteps(nearest=chosen))
    report = check(code, NEAREST, framework="torch", shapes=SHAPE, standard="stable")
    assert report.passed, str(report)


@pytest.mark.parametrize("k", [1, 3])
def test_another_number_of_nearest_classes_is_over_the_budget_where_the_choice_is_clear(k):
    code = torch_curves(refloss.InterTopK(k=k))
    for name in ("boundary-nearest-beside", "ordinary-random", "hard-others-1e-02"):
        case = by_name(NEAREST, "float32")[name]
        report = check(code, NEAREST, framework="torch", cases=[case])
        assert not report.passed
        assert {"dx", "dw"} <= {entry.name for entry in report.results[0].quantities if entry.over}


def test_only_what_is_within_errors_of_the_last_of_the_nearest_has_the_jump():
    found = by_name(NEAREST, "float32")
    on, beside = (
        budget(NEAREST, *found[f"boundary-nearest-{side}"].inputs, dtype="float32", standard="stable")
        for side in ("on", "beside")
    )
    x, w, y = found["boundary-nearest-on"].inputs
    assert class_angles_of(NEAREST).k == 2
    place = np.argsort(np.where(np.arange(7) == y[0], 9.0, -cosines(x, w)[0]))
    assert on.value > 1e3 * beside.value
    jumps = on.gradient.w.max(axis=1) > 0.1 * np.abs(NEAREST.value_and_grad(x, w, y)[1].w).max(axis=1)
    assert jumps[place[1:3]].all()


def test_at_the_edge_of_circle_loss_either_slope_is_right_and_below_it_is_exactly_0():
    def at_least(loss, cos):
        weight = (cos.detach() + loss.m >= 0.0).to(cos.dtype) * (cos + loss.m)
        return weight * (cos - loss.m)

    code = torch_curves(CIRCLE, CurveSteps(circle_others=at_least))
    report = check(code, CIRCLE, framework="torch", shapes=SHAPE, standard="stable")
    assert report.passed, str(report)
    x, w, y = by_name(CIRCLE, "float32")["boundary-others-below"].inputs
    allowed = budget(CIRCLE, x, w, y, dtype="float32").gradient.w
    assert (allowed[np.arange(7) != y[0]] < 1e-30).all()
    x, w, y = by_name(CIRCLE, "float32")["boundary-others-on"].inputs
    assert (budget(CIRCLE, x, w, y, dtype="float32").gradient.w.max(axis=1) > 1e-3).all()


def test_without_the_clamp_of_its_weights_circle_loss_is_over_its_budget():
    code = torch_curves(CIRCLE, CurveSteps(circle_others=lambda loss, cos: (cos + loss.m) * (cos - loss.m)))
    case = by_name(CIRCLE, "float32")["boundary-others-below"]
    assert not check(code, CIRCLE, framework="torch", cases=[case]).passed


@pytest.mark.parametrize("loss", [CURVES[3], CURVES[6], CURVES[9]], ids=repr)
def test_right_codes_conform(loss):
    for framework, code in (("torch", torch_curves(loss)), ("numpy", numpy_curves(loss))):
        report = check(code, loss, framework=framework, shapes=SHAPE, standard="stable")
        assert report.passed, str(report)


# ---------------------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("loss", [CURVES[1], CURVES[2], CURVES[5], CURVES[9]], ids=repr)
def test_properties_hold_for_right_code(loss):
    found = properties(numpy_curves(loss), loss, examples=3)
    assert found.passed, str(found)


def test_detached_curves_have_no_property_of_their_slope():
    slope = "The gradient is that of the value"
    for loss in (DIVIDED, CIRCLE, NEAREST):
        assert any(slope in title for title in properties(numpy_curves(loss), loss, examples=1).held)
    for loss in (CURVES[4], CURVES[6]):
        assert not any(slope in title for title in properties(numpy_curves(loss), loss, examples=1).held)


def test_equal_classes_may_change_places():
    """Of equal classes the first are the nearest: the order of classes decides which, within the budget of either."""
    w = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.5, 1.0, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    x, y = np.array([[1.0, 1.0, 0.25]]), np.array([0])
    value, grad = NEAREST.value_and_grad(x, w, y)
    order = np.array([0, 3, 1, 2, 4])
    again, turned = NEAREST.value_and_grad(x, w[order], y)
    apart = np.abs(turned.w[np.argsort(order)] - grad.w)
    assert again == value
    assert (apart <= budget(NEAREST, x, w, y, dtype="float64").gradient.w).all()
    assert (apart.max(axis=1) > 1e-3).tolist() == [False, False, True, True, False]


def test_angles_of_the_cases_are_within_those_that_there_are():
    alone = refloss.InterTopK(k=9, m=0.0, boundary="none")
    for loss in (refloss.InterTopK(m=3.0, penalty=3.0), alone, refloss.CircleLoss(m=0.0)):
        for case in of_others(loss):
            assert np.isfinite(loss(*case.inputs)), case
