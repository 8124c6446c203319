"""Margins of every sample: given, or by a length that is compared with its bounds exactly."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import refloss
from refloss.engines.certified import enclose
from refloss.engines.certified.exact import Surd
from refloss.engines.certified.margins import SampleMargins, margins_of
from support import cases
from support.enclosures import encloses, random, undecided

pytest.importorskip("flint")

MAGFACE = refloss.MagFace(l_a=1.0, u_a=3.0, l_m=0.25, u_m=0.75)  # m2 = 1/4 + (a - 1)/4
ADAFACE = refloss.AdaFace(m=0.5, h=1.0, mean=2.0, std=0.25, eps=0.25)  # v = 2 (a - 2), -1 at 3/2 and 1 at 5/2


def margins(loss: Any, x: Any, m: Any = None) -> list[SampleMargins]:
    w, y = np.ones((1, len(x[0]))), np.zeros(len(x), int)
    call = loss._call(x, w, y) if m is None else loss._call(x, w, y, m)
    return margins_of(call.in_float64(), call.spec)


def is_number(surd: Surd, number: float) -> bool:
    return not surd.plus(-Fraction(number))


@pytest.mark.parametrize(
    ("loss", "x", "m2", "m3", "side", "at"),
    [
        (MAGFACE, [0.0, 0.5], 0.25, 0.0, -1, None),
        (MAGFACE, [0.0, 1.0], 0.25, 0.0, 0, 1.0),
        (MAGFACE, [0.0, 2.0], 0.5, 0.0, 0, None),
        (MAGFACE, [3.0, 0.0], 0.75, 0.0, 0, 3.0),
        (MAGFACE, [3.0, 1e-200], 0.75, 0.0, 1, None),
        (ADAFACE, [1e-4, 0.0], 0.5, 0.0, -1, None),
        (ADAFACE, [1.5, 0.0], 0.5, 0.0, 0, 1.5),
        (ADAFACE, [0.0, 2.0], 0.0, 0.5, 0, None),
        (ADAFACE, [2.25, 0.0], -0.25, 0.75, 0, None),
        (ADAFACE, [2.5, 1e-200], -0.5, 1.0, 1, None),
    ],
)
def test_margins_by_length(loss: Any, x: Any, m2: float, m3: float, side: int, at: float | None) -> None:
    (own,) = margins(loss, [x])
    assert is_number(own.m2, m2)
    assert is_number(own.m3, m3)
    assert (own.side, own.at) == (side, at)


def test_margins_that_are_no_rational_numbers() -> None:
    (own,) = margins(MAGFACE, [[1.0, 1.0]])  # a = √2
    assert own.m2 == Surd(Fraction(0), Fraction(1, 4), Fraction(2))
    (own,) = margins(ADAFACE, [[1.5, 1.0]])
    assert own.m2 == Surd(Fraction(2), Fraction(-1), Fraction(13, 4))
    assert own.m3 == Surd(Fraction(-3, 2), Fraction(1), Fraction(13, 4))


def test_given_margins_take_the_place_of_the_setting() -> None:
    given = np.array([0.5, -0.25])
    for loss, m2, m3 in (
        (refloss.ArcFace(m=0.7), given, 0.0 * given),
        (refloss.CosFace(m=0.7), 0.0 * given, given),
        (refloss.CombinedMargin(m2=0.7, m3=0.125), given, 0.125 + 0.0 * given),
    ):
        for own, on_angle, on_cosine in zip(margins(loss, np.ones((2, 2)), given), m2, m3, strict=True):
            assert is_number(own.m2, on_angle)
            assert is_number(own.m3, on_cosine)


# ------------------------------------------------------------------------------------------------------- at the bounds


def test_lengths_next_to_a_bound() -> None:
    """Of 110, 110 (1 + 4e-37) and 110 (1 + 4e-19), the last two are beyond the bound, where nothing depends on them."""
    _, w, y = cases.ordinary(random(), 3, 5, 3)
    x = np.array([[66.0, 88.0, t] for t in (0.0, 1e-16, 1e-7)])
    loss, without = refloss.MagFace(boundary="none"), refloss.MagFace(boundary="none", regularizer=0.0)
    assert [own.side for own in margins(loss, x)] == [0, 1, 1]
    enclosure, other = enclose(loss, x, w, y), enclose(without, x, w, y)
    assert enclosure.notes == ("row 0: the length is 110 exactly, a bound: the slope between the bounds is used",)
    assert other.notes == enclosure.notes
    encloses(loss, x, w, y, enclosure=enclosure)
    terms = x * enclosure.grad["x"].midpoint
    rounded = 4.0 * 2.0**-53 * np.abs(terms).sum(axis=1)  # an entry, its product and two sums
    assert (np.abs(terms.sum(axis=1)) <= rounded).tolist() == [False, True, True]  # a dL/da


@pytest.mark.parametrize(
    ("loss", "length", "noted"),
    [
        (MAGFACE, 1.0, True),
        (MAGFACE, 2.0, False),
        (refloss.MagFace(l_a=1.0, u_a=3.0, gradient="detached"), 3.0, True),  # the regularizer has a kink
        (refloss.MagFace(l_a=1.0, u_a=3.0, gradient="detached", regularizer=0.0), 3.0, False),
        (refloss.MagFace(l_a=1.0, u_a=3.0, l_m=0.5, u_m=0.5, regularizer=0.0), 3.0, False),
        (ADAFACE, 2.5, False),  # v is continuous, and a constant in the gradient
        (refloss.ArcFace(), 1.0, False),
    ],
)
def test_kinks_at_bounds_are_noted(loss: Any, length: float, noted: bool) -> None:
    x, (_, w, _) = [[0.0, length, 0.0]], cases.ordinary(random(), 1, 3, 3)
    enclosure = enclose(loss, x, w, [1])
    expected = (f"row 0: the length is {length:g} exactly, a bound: the slope between the bounds is used",)
    assert enclosure.notes == (expected if noted else ())
    encloses(loss, x, w, [1], enclosure=enclosure)


# ------------------------------------------------------------------------------------------- gradients, and what is 0


def test_given_margins_have_a_gradient() -> None:
    x, w, y = cases.ordinary(random(), 4, 5, 3)
    y[2] = -100
    m = np.array([0.3, -0.4, 1.0, 0.0])
    for loss in (refloss.ArcFace(), refloss.CosFace(), refloss.CombinedMargin(m1=1.5, boundary="hard")):
        for reduction, upstream in (("mean", -0.7), ("none", [1.0, 0.0, 2.0, 3.0])):
            of = type(loss)(reduction=reduction, class_weight=(1.0, 2.0, 0.5, 3.0, 1.5))
            inputs = x, w, y, m
            enclosure = enclose(of, *inputs, upstream=upstream)
            assert enclosure.grad["m"].midpoint.shape == (4,)
            assert enclosure.grad["m"].midpoint[2] == 0.0
            encloses(of, *inputs, enclosure=enclosure, upstream=upstream)
            value, gradients = of.value_and_grad(*inputs, upstream=upstream, engine="certified")
            assert np.array_equal(gradients.m, enclosure.grad["m"].midpoint)
            assert np.array_equal(value, enclosure.value.midpoint)
            bound, of_gradients = refloss.error_bound(of, *inputs, engine="certified", upstream=upstream)
            np.testing.assert_array_equal(of_gradients.m, np.maximum(np.spacing(np.abs(gradients.m)) / 2.0, 5e-324))
            np.testing.assert_array_equal(bound, np.maximum(np.spacing(np.abs(value)) / 2.0, 5e-324))


@pytest.mark.parametrize(
    ("loss", "inputs", "zeros"),
    [
        (refloss.ArcFace(gradient="detached"), ([[1.0, 2.0]], [[1.0, 0.0], [3.0, 1.0]], [0], [0.5]), {"m": (0,)}),
        (refloss.ArcFace(), ([[1.0, 2.0]], [[1.0, 0.0]], [0], [0.5]), {"m": (0,), "value": ()}),  # C = 1
        (refloss.ArcFace(), ([[3.0, 0.0]], [[1.0, 0.0], [3.0, 1.0]], [0], [0.0]), {"m": (0,)}),  # θ = m = 0
        (refloss.ArcFace(boundary="hard"), ([[-3.0, 0.0]], [[1.0, 0.0], [3.0, 1.0]], [0], [0.0]), {"m": (0,)}),
        (refloss.ArcFace(boundary="easy"), ([[0.0, 1.0]], [[1.0, 0.0], [3.0, 1.0]], [0], [0.5]), {"m": (0,)}),
        (refloss.CosFace(boundary="conditional"), ([[0.0, 1.0]], [[1.0, 0.0], [3.0, 1.0]], [0], [0.5]), {"m": (0,)}),
        (refloss.CosFace(), ([[1.0, 1.0]], [[1.0, 0.0], [3.0, 0.0]], [0], [0.0]), {"x": (0, np.s_[:])}),
        (refloss.ArcFace(), ([[1.0, 1.0]], [[1.0, 0.0], [3.0, 0.0]], [0], [0.0]), {"x": (0, np.s_[:])}),
        (refloss.CosFace(s=None), ([[1.0, 0.0]], [[1.0, 1.0], [2.0, 2.0]], [0], [0.5]), {"x": (0, 1)}),
        (MAGFACE, ([[3.0, 0.0]], [[1.0, 2.0]], [0]), {"x": (0, np.s_[:])}),  # a is where the regularizer is least
        (MAGFACE, ([[0.5, 0.5], [4.0, 1.0]], [[1.0, 2.0]], [0, 0]), {"x": (np.s_[:], np.s_[:])}),
        (MAGFACE, ([[2.0, 0.0]], [[1.0, 2.0]], [0]), {"x": (0, 1)}),
        (MAGFACE, ([[2.0, 0.0]], [[1.0, 0.0], [-1.0, 3.0], [-1.0, -3.0]], [0]), {"x": (0, 1)}),
        (ADAFACE, ([[2.0, 0.0]], [[1.0, 0.0], [-1.0, 3.0], [-1.0, -3.0]], [0]), {"x": (0, 1), "w": (0, np.s_[:])}),
        (ADAFACE, ([[1.0, 0.0]], [[-9.0, 1.0], [-1.0, 3.0], [-1.0, -3.0]], [0]), {"x": (0, 1), "w": (0, np.s_[:])}),
    ],
    ids=lambda part: repr(part) if isinstance(part, refloss.losses.base.Loss) else "",
)
def test_what_is_exactly_0(loss: Any, inputs: Any, zeros: dict[str, Any]) -> None:
    enclosure = enclose(loss, *inputs)
    assert not undecided(enclosure)
    for name, index in zeros.items():
        ball = enclosure.value if name == "value" else enclosure.grad[name]
        assert np.all(ball.midpoint[index] == 0.0), name
        assert np.all(ball.radius[index] == 0.0), name
    encloses(loss, *inputs, enclosure=enclosure)


def test_a_regularizer_keeps_other_entries_from_0() -> None:
    x, w = [[2.0, 0.0]], [[1.0, 2.0]]
    enclosure = enclose(MAGFACE, x, w, [0])
    assert enclosure.grad["x"].midpoint[0].tolist() == [-35.0 * 5.0 / 36.0, 0.0]  # λ (1/9 - 1/4)
    loss = refloss.MagFace(class_weight=(0.0,), reduction="sum")  # no class weight multiplies it
    assert enclose(loss, [[20.0, 0.0]], w, [0]).grad["x"].midpoint[0, 0] < 0.0
    assert enclose(loss, [[20.0, 0.0]], w, [0]).value.midpoint > 0.0
