"""Checks of margins per sample, given or by length, and of hard classes: what cases show and what budgets allow."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import refloss
from refloss.formats import FORMATS
from refloss.testing import Case, assert_close, budget, cases, check, conformance, properties
from refloss.testing.budgets import ladder
from refloss.testing.defects import head_steps, variants
from refloss.testing.defects.emulations import OfInputs
from refloss.testing.defects.heads import parts_of
from refloss.testing.defects.steps import value_of_logits
from refloss.testing.diagnosis.values import rows
from refloss.testing.hard_cases.angles import cosines
from refloss.testing.options import given_margins, wanted_gradients, writable_inputs
from refloss.testing.signatures import fields_of, inputs_of
from support.sampled import chosen

pytest.importorskip("torch")

from support.right_codes.families import GIVEN, HARD, QUALITIES
from support.right_codes.quality_codes import Steps, numpy_family, torch_family, torch_margins
from support.wrong_codes.sample_codes import EXPLAINED, named_samples

pytestmark = pytest.mark.usefixtures("torch")
SHAPE = [(9, 7, 13)]
ARC = GIVEN[0]
ADA, MAG = refloss.AdaFace(h=1.0, std=20.0), refloss.MagFace()


def by_name(loss, dtype="float64", shape=SHAPE, **options):
    return {case.name: case for case in cases(loss, dtype, shape, **options)}


# -------------------------------------------------------------------------------------------------------- given margins


def three(x, w, y):
    return numpy_family(ARC)(x, w, y)


def needed(x, w, y, m):
    return numpy_family(ARC)(x, w, y, m)


def optional(x, w, y, m=None):
    return numpy_family(ARC)(x, w, y, m)


def scaled(x, w, y, s=64.0):
    return numpy_family(replace(ARC, s=s))(x, w, y)


def counted(fn, **settings):
    """The report, and with how many inputs the code was called."""
    numbers = []

    def called(*inputs):
        numbers.append(len(inputs))
        return fn(*inputs)

    report = check(called, ARC, shapes=SHAPE, **settings)
    return report, set(numbers)


@pytest.mark.parametrize(
    ("fn", "takes"),
    [
        (three, (False, False)),
        (needed, (True, True)),
        (optional, (True, False)),
        (scaled, (False, False)),
        (print, (False, False)),
        (lambda *inputs: None, (False, False)),
        (lambda x, w, y, margin=None: None, (False, False)),
        (lambda x, w, y, *, m: None, (False, False)),
    ],
    ids=["three", "needed", "optional", "scale", "builtin", "any", "another name", "by name"],
)
def test_whether_code_takes_margins_is_read_off_its_signature(fn, takes):
    assert given_margins(fn, ARC, None) == takes
    assert given_margins(fn, refloss.NormFace(), None) == (False, False)
    assert given_margins(fn, ARC, False) == (False, False)
    assert given_margins(fn, ARC, True) == (True, takes[1])


def test_margins_are_an_option_of_checks_and_cases():
    assert check(optional, ARC, shapes=SHAPE).names == ("value", "dx", "dw", "dm")
    report, numbers = counted(optional, margins=True)
    assert report.passed
    assert numbers == {3, 4}
    assert counted(optional)[1] == {3}
    assert check(optional, ARC, shapes=SHAPE, margins=False).names == ("value", "dx", "dw")
    with pytest.raises(TypeError, match="margins: expected True or False"):
        check(optional, ARC, margins="yes")
    with pytest.raises(TypeError, match="margins: expected True or False"):
        cases(ARC, margins=1)


@pytest.mark.parametrize("loss", [ARC, GIVEN[4], GIVEN[6]], ids=lambda loss: type(loss).__name__)
def test_code_that_needs_margins_has_the_loss_s_own_in_every_case(loss):
    seen = []

    def fn(x, w, y, m):
        seen.append(m)
        return numpy_family(loss)(x, w, y, m)

    report = check(fn, loss, shapes=SHAPE, dtype="float64", groups=("ordinary", "hard"))
    assert report.passed, str(report)
    own = loss.m2 if isinstance(loss, refloss.CombinedMargin) else loss.m
    assert (seen[0] == own).all()
    given = [result for result in report.results if "margins" in result.case.flags]
    assert given
    assert all(np.ptp(result.case.inputs[3]) > 0.0 for result in given if result.case.group == "ordinary")


def test_margins_that_count_as_constants_are_noted_and_refused_where_their_gradient_is_named():
    constant = torch_family(
        ARC, Steps(margins=lambda loss, a, m: torch_margins(loss, a, m if m is None else m.detach()))
    )
    report = check(constant, ARC, framework="torch", shapes=SHAPE)
    assert report.passed, str(report)
    assert report.names == ("value", "dx", "dw")
    assert any("count as constants" in note for note in report.notes)
    named = check(constant, ARC, framework="torch", shapes=SHAPE, gradients=("x", "w", "m"))
    assert not named.passed
    assert "dm: all zero" in str(named)
    alone = check(
        lambda x, w, y, m=None: needed(x, w, y, x[:, 0] * 0 + ARC.m if m is None else m)[:3], ARC, shapes=SHAPE
    )
    assert alone.passed, str(alone)
    assert alone.names == ("value", "dx", "dw")


def test_a_wrong_gradient_of_margins_fails():
    def doubled(x, w, y, m=None):
        value, dx, dw, *dm = optional(x, w, y, m)
        return value, dx, dw, *(2 * part for part in dm)

    report = check(doubled, ARC, shapes=SHAPE)
    assert report.state == "does not conform"
    assert "the gradient of m is 2 times what it should be" in str(report)


def test_names_of_inputs_are_those_that_a_loss_takes():
    assert inputs_of(ARC) == ("x", "w", "y", "m")
    assert fields_of(refloss.NormFace()) == fields_of(ADA) == ("x", "w")
    assert wanted_gradients(ARC, True) == ("x", "w", "m")
    assert writable_inputs(ARC, ("m",)) == ("m",)
    with pytest.raises(ValueError, match="gradients: expected True, False or some of 'x', 'w'; got"):
        wanted_gradients(refloss.NormFace(), ("m",))


def test_results_with_given_margins_are_compared():
    case = by_name(ARC, "float32", margins=True)["ordinary-margins"]
    value, grad = ARC.value_and_grad(*case.inputs)
    assert_close(ARC, *case.inputs, dtype="float32", value=value, grad_x=grad.x, grad_m=grad.m)
    with pytest.raises(AssertionError, match=r"dm\["):
        assert_close(ARC, *case.inputs, dtype="float32", grad_m=1.001 * grad.m)


@pytest.mark.parametrize("loss", [GIVEN[5], GIVEN[1], GIVEN[6]], ids=lambda loss: loss.spec.margin.boundary)
def test_given_margins_are_on_both_sides_of_the_rule(loss):
    x, w, y, m = by_name(loss, margins=True)["boundary-margins-rule"].inputs
    theta = np.arccos(cosines(x, w[y]))
    apart = np.cos(theta) - m if isinstance(loss, refloss.CosFace) else loss.spec.margin.m1 * theta + m - np.pi
    assert np.allclose(np.abs(apart), 0.02, rtol=0.0, atol=1e-9)
    assert {True, False} == set((apart > 0.0).tolist())


# ------------------------------------------------------------------------------------------------------ lengths, angles


@pytest.mark.parametrize("loss", [ADA, MAG, refloss.AdaFace(h=1.0, std=5.0, mean=30.0)], ids=str)
def test_embeddings_have_lengths_on_which_margins_depend(loss):
    settings = loss.spec.quality
    for case in by_name(loss).values():
        if case.group != "range" and not {"lengths", "bound"} & set(case.flags):
            length = np.linalg.norm(case.inputs[0], axis=1)
            assert (length > float(settings.low)).all()
            assert (length < float(settings.high)).all()


@pytest.mark.parametrize("loss", [MAG, refloss.AdaFace(h=1.0, std=5.0, mean=30.0)], ids=str)
def test_lengths_are_at_the_bounds_and_on_both_sides(loss):
    found = by_name(loss, "float32")
    for name, bound in (("least", loss.spec.quality.low), ("most", loss.spec.quality.high)):
        for side, factor in (("below", 0.98), ("on", 1.0), ("above", 1.02), ("far", 0.5 if name == "least" else 2.0)):
            length = np.linalg.norm(found[f"boundary-length-{name}-{side}"].inputs[0], axis=1)
            assert np.allclose(length, factor * float(bound), rtol=1e-6)


def test_lengths_whose_squares_a_dtype_does_not_hold_are_left_out():
    short = {name for name in by_name(refloss.AdaFace(), "float32") if "length-least" in name}
    assert len(short) == 4
    assert not any("length-least" in name for name in by_name(refloss.AdaFace(), "float16"))
    long = by_name(refloss.MagFace(u_a=300.0), "float16")
    assert not any("length-most" in name for name in long)
    assert np.linalg.norm(long["ordinary-random"].inputs[0], axis=1).max() < FORMATS["float16"].largest ** 0.5


def test_angles_are_at_the_clip_of_ada_face_and_on_both_sides():
    loss = refloss.AdaFace(h=1.0, std=5.0)
    found = by_name(loss)
    assert {name for name in found if "clip" in name} == {
        f"boundary-clip-{end}-{side}" for end in ("least", "most") for side in ("before", "on", "after")
    }
    for end, at in (("least", loss.eps), ("most", np.pi - loss.eps)):
        for side, off in (("before", -0.02), ("on", 0.0), ("after", 0.02)):
            inputs = found[f"boundary-clip-{end}-{side}"].inputs
            m2, _ = parts_of(loss, inputs).margins
            theta = loss.trace(*inputs)["angle"].output
            assert np.allclose(theta + m2 - at, off, rtol=0.0, atol=1e-9)
    assert not any("clip-most" in name for name in by_name(refloss.AdaFace()))


def test_at_a_bound_of_the_length_either_slope_is_right():
    case = by_name(MAG, "float32")["boundary-length-most-on"]
    x, w, y = case.inputs
    errors = []
    for factor in (0.9999, 1.0001):
        _, grad = MAG.value_and_grad(x * factor, w, y)
        _, true = MAG.value_and_grad(x, w, y)
        allowed = budget(MAG, x, w, y, dtype="float32").gradient.x
        errors.append(np.abs(grad.x - true.x) / (allowed + 1e-3 * np.abs(true.x)))
    assert max(error.max() for error in errors) <= 1.0
    inside = budget(MAG, *by_name(MAG, "float32")["boundary-length-most-below"].inputs, dtype="float32").gradient.x
    assert inside.max() < 0.01 * budget(MAG, x, w, y, dtype="float32").gradient.x.max()


def test_classes_of_weight_0_have_no_case_where_lengths_have_terms():
    weights = (0.0, 1.0, 1.0)
    assert not any("weight-0" in name for name in by_name(refloss.MagFace(class_weight=weights), shape=[(4, 3, 5)]))
    none = refloss.MagFace(class_weight=weights, regularizer=0.0)
    assert any("weight-0" in name for name in by_name(none, shape=[(4, 3, 5)]))


WEIGHTLESS = [
    (refloss.MagFace(class_weight=(0.0, 1.0, 1.0), l_a=0.5, u_a=8.0), ((2, 5), (3, 5))),
    (refloss.SoftmaxLoss(class_weight=(0.0, 1.0, 1.0), z_loss=0.1), ((2, 5), (3, 5))),
    (refloss.CrossEntropy(class_weight=(0.0, 1.0, 1.0), z_loss=0.1), ((2, 3),)),
]


@pytest.mark.parametrize(("loss", "shapes"), WEIGHTLESS, ids=str)
def test_where_no_class_has_a_weight_a_mean_may_be_that_of_the_terms_of_rows_alone(loss, shapes):
    """Four codes: 0/0, all of it 0, the terms alone, and the terms with one entry that is wrong."""
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    inputs = (*arrays, np.zeros(2, int))
    of_sum, gradient = replace(loss, reduction="sum").value_and_grad(*inputs)
    terms, of_terms = of_sum / 2.0, tuple(part / 2.0 for part in gradient if part is not None)
    wrong = tuple(part * (1.0 + 1e-3 * (part == part.max())) for part in of_terms)
    case = Case("two-rows", "ordinary", (), "", inputs)

    def complaints(value, gradients):
        report = check(lambda *_: (value, gradients), loss, framework="numpy", dtype="float64", cases=[case])
        return {quantity.name: quantity.complaint for quantity in report.results[0].quantities if not quantity.passed}

    assert terms > 0.01
    assert np.isnan(loss(*inputs))
    assert complaints(np.float64(np.nan), tuple(np.full_like(part, np.nan) for part in of_terms)) == {}
    assert complaints(np.float64(0.0), tuple(np.zeros_like(part) for part in of_terms)) == {}
    assert complaints(terms, of_terms) == {}
    for value, gradients in ((terms * (1.0 + 1e-3), of_terms), (terms, wrong), (terms, tuple(-2.0 * p for p in wrong))):
        assert complaints(value, gradients)["value"] == "1 of 1 are not NaN or 0, as they have to be"


# --------------------------------------------------------------------------------------------------------- hard classes


@pytest.mark.parametrize("loss", [HARD[0], HARD[4], HARD[5]], ids=str)
def test_classes_are_at_the_threshold_and_on_both_sides(loss):
    found = by_name(loss)
    for side, off in (("hard", -0.02), ("easy", 0.02), ("on", 0.0)):
        inputs = found[f"boundary-threshold-{side}"].inputs
        parts = parts_of(loss, inputs)
        rivals = np.setdiff1d(np.arange(7), inputs[2])
        apart = np.arccos(parts.c[:, rivals]) - np.arccos(parts.tau)[:, None]
        assert np.abs(apart - off).min(axis=0).max() < 1e-7


@pytest.mark.parametrize("shape", [(4, 1, 5), (4, 3, 1)])
def test_without_other_classes_or_a_tangent_there_is_no_threshold_to_be_at(shape):
    assert not any("threshold" in name for name in by_name(HARD[0], shape=[shape]))


@pytest.mark.parametrize("t", [0.9, 12.0])
def test_at_the_threshold_a_class_may_be_hard_or_not(t):
    loss = refloss.MVSoftmax(t=t, boundary="none", reduction="none", s=64.0)
    x, w, y = by_name(loss, "float32")["boundary-threshold-on"].inputs
    allowed = budget(loss, x, w, y, dtype="float32")
    true = loss.value_and_grad(x, w, y)
    for off in (-1e-6, 1e-6):
        parts = parts_of(loss, (x, w, y))
        value = value_of_logits(loss, (x, w, y), parts._replace(tau=parts.tau + off).scores())
        assert (np.abs(value - true[0]) <= allowed.value + 1e-9 * np.abs(true[0])).all()
    assert np.isfinite(allowed.value).all()
    assert all(np.isfinite(part).all() for part in allowed.gradient)
    beside = by_name(loss, "float32")["boundary-threshold-easy"].inputs
    assert budget(loss, *beside, dtype="float32").value.max() < 1e-2 * allowed.value.max()


# --------------------------------------------------------------------------------------------------------- right, wrong


@pytest.mark.parametrize("loss", [ADA, MAG, HARD[1], HARD[5]], ids=str)
def test_a_budget_is_not_far_above_real_errors(loss):
    slack = []
    for case in cases(loss, "float32", [(9, 7, 13), (16, 20, 64)]):
        if case.group == "ordinary":
            _, dx, dw = numpy_family(loss)(
                *(entry.astype(np.float32) if entry.dtype == np.float64 else entry for entry in case.inputs)
            )
            _, grad = loss.value_and_grad(*case.inputs)
            allowed = budget(loss, *case.inputs, dtype="float32", standard="stable")
            for theirs, ours, bound in ((dx, grad.x, allowed.gradient.x), (dw, grad.w, allowed.gradient.w)):
                error = np.abs(theirs - ours)
                assert (error <= bound).all()
                slack.append(bound.max() / error.max())
    assert np.median(slack) < 250.0


@pytest.mark.parametrize("loss", [ADA, MAG, HARD[1]], ids=str)
def test_standards_of_these_losses_form_a_ladder(loss):
    case = by_name(loss, "float32")["ordinary-random"]
    found = [budget(loss, *case.inputs, dtype="float32", standard=name) for name in ladder("float32", loss)]
    for wide, narrow in pairwise(found):
        assert np.all(narrow.value <= wide.value)
        assert all((a <= b).all() for a, b in zip(narrow.gradient, wide.gradient, strict=True))


NAMED = [entry for entry in named_samples() if entry[0] in EXPLAINED]


@pytest.mark.untraced
@pytest.mark.parametrize("entry", NAMED, ids=lambda entry: f"{entry[0]}, {type(entry[1]).__name__}")
def test_causes_are_named(entry):
    name, loss, fn, dtypes = entry
    if not chosen(name):
        pytest.skip("another run draws it")
    report = check(fn, loss, framework="torch", dtype=dtypes[-2], shapes=SHAPE)
    assert report.state == "does not conform"
    assert EXPLAINED[name] in report.diagnoses[0], "\n".join(report.diagnoses)


def test_what_has_no_cause_is_given_none():
    _, loss, fn, _ = next(entry for entry in named_samples() if entry[0] == "margin of the embedding before")
    report = check(fn, loss, framework="torch", shapes=SHAPE, groups="ordinary")
    assert not report.passed
    assert report.diagnoses == ()


# ----------------------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("loss", [GIVEN[1], GIVEN[5], ADA, MAG, QUALITIES[6], HARD[1], HARD[4]], ids=str)
def test_properties_hold_for_right_code(loss):
    found = properties(numpy_family(loss), loss, examples=3)
    assert found.passed, str(found)


def test_properties_look_at_the_gradient_of_margins_where_it_is_named():
    names = ("x", "w", "m")
    assert properties(numpy_family(GIVEN[0]), GIVEN[0], examples=3, gradients=names).passed

    def half(x, w, y, m=None):
        value, dx, dw, *dm = numpy_family(GIVEN[0])(x, w, y, m)
        return value, dx, dw, *(part / 2 for part in dm)

    assert properties(half, GIVEN[0], examples=3).passed
    assert "The gradient is that of the value" in str(properties(half, GIVEN[0], examples=3, gradients=names))


def test_properties_that_do_not_apply_are_left_out():
    held = {loss: properties(numpy_family(loss), loss, examples=1).held for loss in (ADA, MAG, QUALITIES[6], HARD[1])}
    lengths, slope = (
        "The length of an embedding divides its gradient, and changes nothing else",
        "The gradient is that of the value",
    )
    assert {loss for loss, titles in held.items() if lengths in titles} == {HARD[1]}
    assert {loss for loss, titles in held.items() if any(slope in title for title in titles)} == {
        MAG,
        QUALITIES[6],
        HARD[1],
    }
    alone = "The value and the gradients of a batch are those of its samples, each alone"
    assert {loss for loss, titles in held.items() if alone not in titles} == {QUALITIES[6]}


def test_own_cases_may_have_margins(monkeypatch):
    monkeypatch.setattr(conformance, "diagnose", lambda *arguments: [])
    own = by_name(ARC, margins=True)["ordinary-margins"]
    assert check(optional, ARC, cases=[Case("own", "ordinary", (), "", own.inputs)]).passed
    assert check(needed, ARC, cases=[own, by_name(ARC)["ordinary-random"]]).passed


# ------------------------------------------------------------------------------------------------ what causes stand for

HEADS = [
    ADA,
    refloss.AdaFace(h=0.0),
    MAG,
    refloss.MagFace(reduction="sum"),
    refloss.MagFace(regularizer=0.0),
    refloss.CurricularFace(t=0.3, m=1.0, s=4.0),
    refloss.MVSoftmax(t=0.3, s=4.0),
]


@pytest.mark.parametrize("loss", HEADS, ids=str)
def test_what_a_cause_stands_for_is_another_value_or_another_gradient(loss):
    directions = np.append(np.pi * np.arange(6) / 3.0, [0.1, 5.7])  # further classes between psi and the threshold
    y = np.arange(8) % 6
    turned = directions[y] + np.array([3.0, 0.8, 1.7, 2.6, 0.2, 5e-4, 0.1, 2.9])
    lengths = np.array([5e-4, 4.0, 15.0, 30.0, 60.0, 90.0, 150.0, 700.0])
    x = lengths[:, None] * np.column_stack([np.cos(turned), np.sin(turned)])
    w = np.column_stack([np.cos(directions), np.sin(directions)])
    inputs, changes = (x, w, y), 0
    value, gradient = loss.value_and_grad(*inputs)
    for sentence, other in rows(loss, "setting", variants.LENGTHS + variants.HARD_CLASSES):
        assert str(other)
        if not isinstance(other, OfInputs):
            its_value, its_gradient = other.value_and_grad(*inputs)
            same = [np.array_equal(a, b) for a, b in zip(gradient, its_gradient, strict=True)]
            assert its_value != value or not all(same), sentence
            assert other(*inputs) == its_value
            assert other.reduction == loss.reduction
            assert other.trace(*inputs)["cosine"].output.shape == (8, 8)
        changes += 1
    own = head_steps.UPDATES + head_steps.LENGTHS + head_steps.HARD_CLASSES
    for sentence, step in (*rows(loss, "setting", head_steps.UPDATES), *rows(loss, "step", own)):
        assert step(*inputs) != value, sentence
        changes += 1
    assert changes >= 1
