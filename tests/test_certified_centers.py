"""Centers in balls: the nearest one by integers, ties and their notes, and the zeros that follow."""

from __future__ import annotations

import numpy as np
import pytest

import refloss
from refloss.engines.certified import enclose
from support import cases, centers
from support.enclosures import encloses, random, undecided

pytest.importorskip("flint")

from refloss.engines.certified.centers import nearest_centers
from refloss.engines.certified.exact import IntegerVectors

LOSS = refloss.SubCenterArcFace(s=8.0)


def test_without_centers_every_row_of_w_is_a_class() -> None:
    x, w, _ = cases.ordinary(random(), 3, 5, 4)
    row_of, notes = nearest_centers(IntegerVectors(x, w, directions=True), 3, None)
    assert row_of.tolist() == [list(range(5))] * 3
    assert notes == [[], [], []]


def test_the_nearest_by_integers() -> None:
    for seed in range(3):
        x, w, _ = centers.near(random(seed), 40, 3)
        row_of, notes = nearest_centers(IntegerVectors(x, w.reshape(-1, 4), directions=True), 1, 3)
        assert (row_of - 3 * np.arange(40)).tolist() == centers.truth(x, w).tolist()
        assert notes == [[]]


def test_ties_are_noted_and_the_first_is_taken() -> None:
    x, w, y = centers.ties()
    enclosure = enclose(LOSS, x, w, y)
    assert enclosure.notes == (
        "row 0: centers 0 and 1 and 2 of class 0 are at the same angle exactly: the first is taken",
        "row 0: centers 1 and 2 of class 2 are at the same angle exactly: the first is taken",
        "row 0: centers 0 and 1 and 2 of class 3 are at the same angle exactly: the first is taken",
    )
    encloses(LOSS, x, w, y, enclosure=enclosure)


def test_rows_are_named_as_they_came() -> None:
    x, w, _ = centers.ties()
    notes = enclose(LOSS, np.repeat(x, 3, axis=0), w[:1], [-100, 0, -100]).notes
    assert [note[:6] for note in notes] == ["row 1:"]


def test_what_is_smooth_is_not_noted() -> None:
    x, w, y = centers.near(random(), 5, 3)
    assert not enclose(LOSS, x, w, y).notes


def test_centers_that_never_stand_for_their_class_have_gradients_of_exactly_0() -> None:
    x, w, y = cases.with_centers(3, random(), *cases.ordinary(random(1), 2, 5, 4))
    enclosure = enclose(LOSS, x, w, y)
    assert not undecided(enclosure)
    ball, chosen = enclosure.grad["w"], centers.truth(x, w)
    for k, j in np.ndindex(5, 3):
        zero = j not in chosen[:, k]
        assert (ball.midpoint[k, j] == 0.0).all() == zero
        assert (ball.radius[k, j] == 0.0).all() == zero
        assert (ball.decimal[k, j] == "0").all() == zero


def test_zeros_are_those_of_the_centers_that_stand_for_their_class() -> None:
    """Two classes with the same nearest center, and no margin: the loss is log 2, and gradients on x cancel."""
    x, a, b, c = np.array([[1.0, 2.0, 0.5]]), [1.0, 1.0, 1.0], [-1.0, 0.5, 1.0], [0.25, -3.0, 1.0]
    w = np.array([[b, a], [a, c]])
    loss = refloss.SubCenterArcFace(m=0.0, s=4.0, centers=2)
    enclosure = enclose(loss, x, w, [0])
    assert not enclosure.notes
    assert enclosure.value.midpoint == np.log(2.0)
    assert (enclosure.grad["x"].decimal == "0").all()
    assert (enclosure.grad["w"].decimal != "0").any(axis=2).tolist() == [[False, True], [True, False]]
    assert loss.value_and_grad(x, w, [0], engine="certified")[1].x.tolist() == [[0.0] * 3]
    along = enclose(loss, [[2.0, 2.0, 2.0]], w, [0]).grad["w"]  # parallel to the nearest
    assert (along.decimal == "0").all()


@pytest.mark.parametrize("loss", [each for each in cases.HEADS if isinstance(each, refloss.SubCenterArcFace)], ids=repr)
def test_enclosures_hold_the_truth(loss: refloss.SubCenterArcFace) -> None:
    for name, inputs in cases.heads(loss, random(5)):
        if loss.class_weight is None or len(inputs[1]) == len(loss.class_weight):
            enclosure = enclose(loss, *inputs, digits=25)
            assert not undecided(enclosure), f"{name}: {enclosure.notes}"
            encloses(loss, *inputs, enclosure=enclosure)
