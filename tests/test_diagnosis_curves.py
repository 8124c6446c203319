"""Causes of wrong SphereFace-R, circle loss and inter-top-k: what each stands for, and which code is given which."""

from __future__ import annotations

import math

import numpy as np
import pytest

import refloss
from refloss.testing import adapters, check
from refloss.testing.budgets import arithmetic
from refloss.testing.defects import class_curves
from refloss.testing.defects.head_steps import NORMALIZATION
from refloss.testing.defects.heads import parts_of
from refloss.testing.defects.steps import value_of_logits
from refloss.testing.diagnosis.references import References, agrees
from refloss.testing.diagnosis.values import rows
from support.sampled import chosen

pytest.importorskip("torch")

from support.right_codes.curve_codes import CurveSteps, torch_curves
from support.wrong_codes.curve_codes import CIRCLE, CLAMPED, DIVIDED, EXPLAINED, TOP_K, detached, named_curves

pytestmark = pytest.mark.usefixtures("torch")
SHAPE = [(9, 7, 13)]
THETA = np.array([0.8, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0, 2.6, 3.05])
"""Angles of targets: among the nearest classes, and beyond where a margin can act."""
LOSSES = (CLAMPED, DIVIDED, CIRCLE, TOP_K)
NAMED = list(named_curves())


def named(entry):
    name, loss, _ = entry
    return f"{name}, {type(loss).__name__} {getattr(loss, 'version', '')} {loss.gradient}"


def inputs(theta=THETA, ignored=False):
    """Embeddings at angles to their classes; the third label may be ignored."""
    random = np.random.default_rng(7)
    w, tangent = random.standard_normal((7, 13)), random.standard_normal((len(theta), 13))
    y = np.arange(len(theta)) % 7
    unit = w[y] / np.linalg.norm(w[y], axis=1, keepdims=True)
    tangent -= (tangent * unit).sum(axis=1, keepdims=True) * unit
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    x = np.cos(theta)[:, None] * unit + np.sin(theta)[:, None] * tangent
    return x * np.linspace(0.5, 2.0, len(theta))[:, None], w, np.where((np.arange(len(y)) == 2) & ignored, -100, y)


def found(torch, fn, x, w, y):
    """What code returns in float64."""
    of_x, of_w = (torch.tensor(rows, requires_grad=True) for rows in (x, w))
    value = fn(of_x, of_w, torch.tensor(y))
    value.backward()
    return adapters.Found(np.asarray(value.item()), (of_x.grad.numpy(), of_w.grad.numpy()), np.ones(()))


# ------------------------------------------------------------------------------------------------ what causes stand for


def rows_of_curves(loss):
    return rows(loss, "setting", class_curves.SPHERE_FACE_R + class_curves.CIRCLE + class_curves.INTER_TOP_K)


@pytest.mark.parametrize("loss", [*LOSSES, *map(detached, LOSSES)], ids=str)
def test_what_a_cause_stands_for_is_another_value_or_another_gradient(loss):
    here, changes = inputs(), 0
    value, gradient = loss.value_and_grad(*here)
    for sentence, other in rows_of_curves(loss):
        its_value, its_gradient = other.value_and_grad(*here)
        same = [np.array_equal(a, b) for a, b in zip(gradient, its_gradient, strict=True)]
        assert its_value != value or not all(same), sentence
        assert str(other)
        assert other(*here) == its_value
        changes += 1
    for sentence, step in rows(loss, "step", class_curves.STEPS):
        assert not np.isclose(step(*here), value, rtol=1e-6), sentence
        changes += 1
    assert changes >= 3


@pytest.mark.parametrize(
    "loss", [refloss.SphereFaceR(m=1.0, version=2), refloss.InterTopK(penalty=0.0), refloss.NormFace()], ids=str
)
def test_without_curves_there_is_nothing_to_be_mistaken_in(loss):
    assert not [*rows_of_curves(loss), *rows(loss, "step", class_curves.STEPS)]


def test_of_one_nearest_class_none_fewer_is_tried():
    sentences = [sentence for sentence, _ in rows_of_curves(refloss.InterTopK(k=1))]
    assert "value and gradient agree with k=2" in sentences
    assert not any("k=0" in sentence for sentence in sentences)


@pytest.mark.parametrize("loss", [refloss.SphereFaceR(), refloss.CircleLoss()], ids=str)
def test_what_has_no_sign_has_no_wrong_one(loss):
    said = "the margin has the wrong sign: it has to make the target's logit smaller"
    assert said not in dict(rows(loss, "step", NORMALIZATION))
    assert said in dict(rows(refloss.InterTopK(), "step", NORMALIZATION))


@pytest.mark.parametrize("loss", [*LOSSES, refloss.ArcFace()], ids=str)
def test_parts_give_the_value_next_to_classes_too(loss):
    here = inputs(np.array([1e-9, 1e-5, 1e-2, 0.5, 1.0, 2.0, 3.0, math.pi - 1e-2, math.pi - 1e-5]))
    allowed = References("float64", arithmetic("float64")).bounds(loss, here, np.ones(()))[0]
    assert abs(value_of_logits(loss, here, parts_of(loss, here).scores()) - loss(*here, engine="dd")) <= allowed


FITTED = {"s = 80", "penalty of 0.03", "m = 1.4", "m = 0.3"}
"""What no list has, but a fit."""


@pytest.mark.parametrize("entry", [entry for entry in NAMED if entry[0] not in FITTED], ids=named)
def test_a_cause_has_the_results_of_the_code(torch, entry):
    """Value and gradients within the budget of float64, of which those of the loss are not; or of a step, the value."""
    name, loss, fn = entry
    references = References("float64", arithmetic("float64"))
    steps = {
        sentence: step
        for sentence, step in rows(loss, "step", class_curves.STEPS)
        if sentence.startswith(EXPLAINED[name])
    }
    here = inputs(ignored=not steps)
    output = found(torch, fn, *here)
    assert not agrees(loss, here, output, references)
    if steps:
        (value,) = (step(*here) for step in steps.values())
        assert abs(value - output.value) <= references.bounds(loss, here, output.upstream)[0]
        return
    agreeing = [
        f"{sentence}: {other}" for sentence, other in rows(loss, "setting") if agrees(other, here, output, references)
    ]
    assert [said.startswith(EXPLAINED[name]) for said in agreeing] == [True], agreeing


# ---------------------------------------------------------------------------------------------------- what code is told


def causes(report):
    """The causes but those of lengths whose square a dtype does not hold."""
    return [sentence for sentence in report.diagnoses if not sentence.startswith("in the group range")]


@pytest.mark.untraced
@pytest.mark.parametrize("entry", {name: entry for entry in NAMED for name in entry[:1]}.values(), ids=named)
def test_causes_are_named(entry):
    name, loss, fn = entry
    if not chosen(named(entry)):
        pytest.skip("another run draws it")
    report = check(fn, loss, framework="torch", shapes=SHAPE)
    assert report.state == "does not conform"
    assert [said.startswith(EXPLAINED[name]) for said in causes(report)] == [True], "\n".join(report.diagnoses)


NAMELESS = {
    "η of the next class": (
        DIVIDED,
        CurveSteps(divided=lambda loss, c, theta, far: (theta / loss.m).cos().roll(1, dims=1)),
    ),
    "the square of a weight": (
        CIRCLE,
        CurveSteps(circle_others=lambda loss, c: (c + loss.m).relu().square() * (c - loss.m)),
    ),
    "penalty of every second class": (TOP_K, CurveSteps(nearest=lambda loss, others: others.detach() > 0.1)),
}
"""Codes that are wrong otherwise."""


@pytest.mark.parametrize("name", NAMELESS)
def test_what_has_no_cause_is_given_none(name):
    loss, steps = NAMELESS[name]
    report = check(torch_curves(loss, steps), loss, framework="torch", shapes=SHAPE, groups="ordinary")
    assert report.state == "does not conform"
    assert report.diagnoses == ()


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_right_code_that_a_standard_refuses_is_given_none_of_these_causes(loss):
    """float32 with products of float16's bits, and no grant for them."""

    def rounded(x, w, y):
        ux, uw = (rows / rows.norm(dim=1, keepdim=True) for rows in (x, w))
        ux, uw = (rows + (rows.half().float() - rows).detach() for rows in (ux, uw))
        return torch_curves(loss)(ux, uw, y)

    report = check(rounded, loss, framework="torch", shapes=SHAPE, groups="ordinary")
    assert report.state == "does not conform"
    assert not any(said.startswith(tuple(EXPLAINED.values())) for said in report.diagnoses), report.diagnoses


def by_arccos(loss, least=0.0):
    """Angles of all classes by arccos of cosines that are held inside ±(1 - least)."""

    def fn(x, w, y):
        import torch

        f = torch.nn.functional
        c = (f.normalize(x) @ f.normalize(w).T).clamp(-1.0 + least, 1.0 - least)
        theta, target = c.acos(), f.one_hot(y.clamp(min=0), len(w)).bool()
        if loss == DIVIDED:
            psi, eta = c, (theta / loss.m).cos()
        else:
            psi = torch.where(theta + loss.m > math.pi, c - 1.0 - math.cos(math.pi - loss.m), (theta + loss.m).cos())
            others = c.detach().masked_fill(target, -2.0).topk(min(loss.k, len(w) - 1), dim=1).indices
            near = torch.zeros_like(target).scatter(1, others, True)
            eta = torch.where(near, (theta - loss.penalty).cos(), c)
        return f.cross_entropy(loss.s * torch.where(target, psi, eta), y)

    return fn


@pytest.mark.parametrize("loss", [DIVIDED, TOP_K], ids=str)
def test_an_arccos_of_other_classes_is_told_from_a_clamp(loss):
    report = check(by_arccos(loss), loss, framework="torch", shapes=SHAPE)
    assert report.verdicts["ordinary"] == report.verdicts["boundary"] == "passed"
    assert report.verdicts["hard"] == "failed"
    assert causes(report) == [
        "only where embeddings are within 0.3 rad of a class or its opposite: arccos, or a clamped cosine"
    ]
    report = check(by_arccos(loss, 1e-5), loss, framework="torch", shapes=SHAPE)
    assert causes(report) == ["cosine clamped at 1 - 1e-05"]
