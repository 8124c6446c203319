"""Curves of other classes: chosen and decided right however near they are to an edge; kinks, notes, and what is 0."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import refloss
from refloss.engines.certified import enclose
from refloss.engines.certified.problem import Problem
from support import cases, nearest, thresholds
from support.enclosures import encloses, random, undecided

pytest.importorskip("flint")

LOSSES = [
    each for each in cases.HEADS if isinstance(each, refloss.SphereFaceR | refloss.CircleLoss | refloss.InterTopK)
]
DIVIDED = refloss.SphereFaceR(version=2, m=2.5, s=8.0)
NEAREST = refloss.InterTopK(k=1, penalty=0.5, s=8.0)
CIRCLE = refloss.CircleLoss(m=0.5, s=8.0)
AT = "is -m exactly: its slope is 0"
NO_TANGENT = "exactly: the tangent of least norm, 0, is used"


# ------------------------------------------------------------------------------------------------------- against mpmath


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_enclosures_hold_the_truth(loss: Any) -> None:
    for name, inputs in list(cases.heads(loss, random(7)))[::2]:
        if loss.class_weight is None or len(inputs[1]) == len(loss.class_weight):
            enclosure = enclose(loss, *inputs, digits=25)
            assert not undecided(enclosure), f"{name}: {enclosure.notes}"
            encloses(loss, *inputs, enclosure=enclosure)


@pytest.mark.parametrize("loss", [DIVIDED, NEAREST, CIRCLE], ids=repr)
@pytest.mark.parametrize("gradient", ["exact", "detached"])
@pytest.mark.parametrize("apart", [1e-8, 1e-30, 1e-300])
def test_classes_whose_angle_no_cosine_tells(loss: Any, gradient: str, apart: float) -> None:
    """Nearly parallel and nearly opposite ones."""
    x, w = (
        np.array([[1.0, 0.0, 0.0]]),
        np.array([[1.0, 1.0, 0.0], [2.0, apart, 0.0], [-1.0, 0.0, apart], [3.0, 0.0, 0.0]]),
    )
    loss = replace(loss, gradient=gradient)
    for classes in (w, w[:3]):
        enclosure = enclose(loss, x, classes, [0])
        assert not undecided(enclosure)
        encloses(loss, x, classes, [0], enclosure=enclosure, digits=700)  # gradients are as small as apart


def test_wrong_conventions_lie_outside() -> None:
    x, w, y = cases.ordinary(random())
    for loss, other in (
        (DIVIDED, replace(DIVIDED, gradient="detached")),
        (CIRCLE, replace(CIRCLE, gradient="detached")),
        (NEAREST, replace(NEAREST, k=2)),
        (NEAREST, replace(NEAREST, penalty=0.5 + 1e-9)),
        (DIVIDED, replace(DIVIDED, m=2.5 + 1e-9)),
        (CIRCLE, replace(CIRCLE, m=0.5 + 1e-9)),
    ):
        ball = enclose(loss, x, w, y).grad["w"]
        same, wrong = (each.value_and_grad(x, w, y, engine="dd")[1].w for each in (loss, other))
        assert (np.abs(same - ball.midpoint) <= ball.radius + 0.5 * np.spacing(np.abs(same))).all()
        assert (np.abs(wrong - ball.midpoint) > ball.radius + np.spacing(np.abs(wrong))).any()


# ---------------------------------------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("m", [0.25, 0.1, 0.7, 0.0])
def test_a_thousand_classes_built_onto_minus_m(m: float) -> None:
    """250 of each m; of their cosines float64 knows too little."""
    loss = refloss.CircleLoss(m=m, s=4.0)
    x, w, y = thresholds.near(loss, random(), 250)
    true = thresholds.hard(loss, x, w)
    assert true[2:].any()
    assert not true[2:].all()
    assert thresholds.misjudged(loss, x, w, y, engine="certified") == 0
    assert not enclose(loss, x, w[:5], y, gradients=False).notes


@pytest.mark.parametrize("m", [0.0, 0.25, 0.5, 1.0])
def test_classes_at_minus_m(m: float) -> None:
    """Their η and its slope are 0; where the slope would be 0 on the other side as well, nothing is noted."""
    loss = refloss.CircleLoss(m=m, s=4.0)
    x, w, y = thresholds.at_minus(m)
    assert thresholds.misjudged(loss, x, w, y, engine="certified") == 0
    enclosure = enclose(loss, x, w, y)
    assert not undecided(enclosure)
    at = [int(note.split("class ")[1].split()[0]) for note in enclosure.notes if note.endswith(AT)]
    assert at == ([] if m == 0.0 else [1, 2, 3, 5, 6] if m == 1.0 else [2, 3])
    zero = ~thresholds.hard(loss, x, w)
    zero[0] = False
    assert (enclosure.grad["w"].decimal[zero] == "0").all()
    assert (enclosure.grad["w"].radius[zero] == 0.0).all()
    encloses(loss, x, w, y, enclosure=enclosure)
    detached = replace(loss, gradient="detached")  # c + m is 0 on both sides
    enclosure = enclose(detached, x, w, y)
    assert not enclosure.notes
    encloses(detached, x, w, y, enclosure=enclosure)


def test_a_thousand_classes_at_nearly_one_angle() -> None:
    for seed, k in enumerate((1, 2, 50, 100, 249)):
        loss = refloss.InterTopK(k=k, penalty=0.5, s=8.0)
        x, w, y = nearest.near(random(seed), 250)
        assert nearest.misjudged(loss, x, w, y, engine="certified") == 0
        call = loss._call(x, w, y)
        mask = Problem(call.spec, call.arrays, None)._proofs.others.mask
        assert np.array_equal(mask, nearest.truth(x, w, y, k))


@pytest.mark.parametrize("apart", [1e-100, 1e-300, 0.0])
@pytest.mark.parametrize("k", [1, 2, 4, 5, 6, 9])
def test_of_equal_cosines_the_first(apart: float, k: int) -> None:
    """Class 3 is nearer than those and class 5 farther, unless they are at the same angle as well."""
    loss = refloss.InterTopK(k=k, penalty=0.5, s=8.0)
    x, w, y = nearest.ties(apart)
    w[0] = [5.0, 1.0, 1.0, 1.0]
    call = loss._call(x, w, y)
    mask = Problem(call.spec, call.arrays, None)._proofs.others.mask
    order = [3, 1, 2, 4, 6, 5] if apart else [1, 2, 3, 4, 5, 6]
    assert np.flatnonzero(mask[0]).tolist() == sorted(order[:k])
    assert np.array_equal(mask, nearest.truth(x, w, y, k))
    enclosure = enclose(loss, x, w, y)
    assert not undecided(enclosure)
    equal = [1, 2, 4, 6] if apart else [1, 2, 3, 4, 5, 6]
    cut = 0 < len(set(order[:k]) & set(equal)) < len(equal)
    those = " and ".join(map(str, equal))
    note = f"row 0: classes {those} are at the same angle exactly: the first count as nearest"
    assert enclosure.notes == ((note,) if cut else ())
    encloses(loss, x, w, y, enclosure=enclosure)


# ---------------------------------------------------------------------------------------------------------------- kinks


@pytest.mark.parametrize(
    ("loss", "sign", "note"),
    [
        (DIVIDED, -1.0, f"class 1: theta = pi {NO_TANGENT}"),
        (NEAREST, 1.0, f"class 1: theta = 0 {NO_TANGENT}"),
        (NEAREST, -1.0, f"class 1: theta = pi {NO_TANGENT}"),
        (DIVIDED, 1.0, None),
        (CIRCLE, 1.0, None),
        (CIRCLE, -1.0, None),
        (replace(DIVIDED, gradient="detached"), -1.0, None),
    ],
    ids=repr,
)
def test_parallel_classes(loss: Any, sign: float, note: str | None) -> None:
    """Without a tangent the gradient is 0; where it tends to 0 as well, nothing is noted."""
    x, w = np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    w[1] = sign * 3.0 * x[0]
    for each in (loss, replace(loss, s=None)):
        enclosure = enclose(each, x, w, [0])
        assert enclosure.notes == (() if note is None else (f"row 0: {note}",))
        assert (enclosure.grad["w"].decimal[1] == "0").all()
        encloses(each, x, w, [0], enclosure=enclosure)


def test_multiples_of_parallel_classes() -> None:
    """d(‖x‖ η)/dx is η x̂ then: no multiple of ŵ, and the same one of x̂ as for no other class."""
    for loss in (DIVIDED, replace(NEAREST, k=2)):
        call = loss._call([[1.0, 2.0]], [[1.0, 0.0], [-2.0, -4.0], [3.0, 0.0]], [0])
        others = Problem(call.spec, call.arrays, None)._proofs.others
        assert others.slope(0, 1)[1] == 0
        assert others.along_x(0, 1) == (-1, 1)
        assert others.slope(0, 2)[1] == others.along_x(0, 2)[1] == 1


def test_rows_are_named_as_they_came() -> None:
    x, w = np.ones((3, 4)), np.array([[1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0]])
    assert [note[:6] for note in enclose(CIRCLE, x, w, [-100, 0, -100]).notes] == ["row 1:"]


# --------------------------------------------------------------------------------------------------- in place of others


@pytest.mark.parametrize("gradient", ["exact", "detached"])
def test_what_they_are_without_a_margin(gradient: str) -> None:
    """Bit for bit: an m of 1 is NormFace, a penalty of 0 ArcFace."""
    x, w, y = cases.ordinary(random())
    for version in (1, 2):
        loss = refloss.SphereFaceR(version=version, m=1.0, gradient=gradient)
        assert _results(loss, x, w, y) == _results(refloss.NormFace(s=30.0, gradient=gradient), x, w, y)
    loss = refloss.InterTopK(penalty=0.0, gradient=gradient)
    other = refloss.ArcFace(m=0.2, s=32.0, boundary="continuous", gradient=gradient)
    assert _results(loss, x, w, y) == _results(other, x, w, y)
    penalty = replace(loss, penalty=1e-300)  # rounded, the same
    assert _results(penalty, x, w, y) == _results(loss, x, w, y)


def _results(loss: Any, *inputs: Any) -> tuple[Any, ...]:
    value, gradients = loss.value_and_grad(*inputs, engine="certified")
    return value, gradients.x.tolist(), gradients.w.tolist()
