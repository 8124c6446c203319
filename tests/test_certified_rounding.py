"""Rounding of balls to float64 and to decimals."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp, mpf

import refloss
from refloss.engines.certified import enclose, rounding
from refloss.engines.certified.balls import precision
from support import cases
from support.enclosures import encloses, random

flint = pytest.importorskip("flint")


def test_conversions_lose_nothing() -> None:
    arb = flint.arb
    huge, tiny = arb(2), arb(1) / arb(2) ** 30000
    for _ in range(66):
        huge *= huge
    assert rounding.interval(arb(1, tiny)) == (2**10000 - 1, 2**10000 + 1, -10000)
    assert rounding.interval(arb(tiny, 1)) == (-2, 2, 0) or rounding.interval(arb(tiny, 1))[0] < -1
    assert rounding.correctly_rounded(huge) == np.inf
    assert rounding.correctly_rounded(-huge) == -np.inf
    assert rounding.correctly_rounded(-tiny) == 0.0
    assert np.signbit(rounding.correctly_rounded(-tiny))
    assert rounding.correctly_rounded(arb(0, tiny)) == 0.0
    assert not np.signbit(rounding.correctly_rounded(arb(0, tiny)))
    assert rounding.correctly_rounded(arb(1, 1)) is None
    assert rounding.correctly_rounded(arb("nan")) is None
    assert rounding.nearest(2**53 + 1, 0) == 2.0**53  # ties to even
    assert rounding.nearest(3, -1075) == 2.0 * 5e-324
    assert rounding.nearest(1, -1075) == 0.0
    assert rounding.to_float64(arb(1, huge)) == (1.0, np.inf)
    assert rounding.to_float64(arb(0, arb(2) ** 1024)) == (0.0, np.inf)
    with precision(128):
        midpoint, radius = rounding.to_float64(arb(1) / 3)
    assert midpoint == 1 / 3
    assert Fraction(radius) >= abs(Fraction(1, 3) - Fraction(midpoint))
    assert Fraction(radius) < Fraction(2) ** -54
    assert rounding.to_float64(arb(3, 0)) == (3.0, 0.0)


@pytest.mark.parametrize("digits", [1, 2, 17, 100, 1000])
def test_as_many_digits_as_asked_for(digits: int) -> None:
    loss, inputs = refloss.CombinedMargin(), cases.ordinary(random())
    enclosure = enclose(loss, *inputs, digits=digits)
    encloses(loss, *inputs, enclosure=enclosure)
    for ball in (enclosure.value, *enclosure.grad.values()):
        for midpoint, radius in zip(ball.decimal.flat, ball.decimal_radius.flat, strict=True):
            written = midpoint.lstrip("-0.").partition("E")[0].replace(".", "")
            assert len(written) == digits + (len(written) > digits and written[0] < "6")
            assert mpf(radius) <= mpf(10) ** -digits * (abs(mpf(midpoint)) - mpf(radius))


def test_numbers_beyond_float64() -> None:
    with mp.workdps(60):
        exponent = int(mp.floor(-mpf(1e30) / mp.log(10)))
    enclosure = enclose(refloss.CrossEntropy(), [[1e30, 0.0], [1e300, 0.0]], [0, 0])
    assert enclosure.value.midpoint == 0.0
    assert enclosure.value.radius == 5e-324
    assert enclosure.grad["z"].decimal[0, 1].endswith(f"E{exponent}")
    assert enclosure.grad["z"].decimal[0, 0].startswith("-")
    assert not enclosure.notes
    x = np.full((1, 2), 1e200)
    loss = refloss.SoftmaxLoss()
    enclosure = enclose(loss, x, np.array([[1.0, 0.0], [1e200, 0.0]]), [0])
    assert str(enclosure.value.decimal).startswith("9.999999999999999394")  # a little below 1e400
    assert (enclosure.value.midpoint, enclosure.value.radius) == (np.inf, np.inf)
    encloses(loss, x, np.array([[1.0, 0.0], [1e200, 0.0]]), [0], enclosure=enclosure)
    assert loss(x, np.array([[1.0, 0.0], [1e200, 0.0]]), [0], engine="certified") == np.inf


def test_halfway_between_two_numbers_is_rounded_to_even() -> None:
    """Roots of equal numbers cancel exactly, and a quotient that is a float is exact: ties are recognised."""
    zero = [[0.0], [0.0], [0.0]]
    third = refloss.Triplet(m=9.0).value_and_grad(
        zero, [[-3.0 * 2.0**-53], [0.0], [0.0]], [[3.0], [0.0], [0.0]], engine="certified"
    )[1]
    assert third.anchor.tolist() == [[2.0], [0.0], [0.0]]  # of 2 (3 + 3 2^-53) / 3
    plain = refloss.Triplet(m=5e-324, squared=False)
    points = np.zeros((2, 2)), np.array([[0.1, 0.3], [0.1, 0.1]]), np.array([[0.3, 0.1], [3.0, 0.1]])
    assert plain(*points, engine="certified") == 0.0  # half the smallest number
    points = [[0.1, 0.3], [0.0, 0.0]], [[0.3, 0.3], [0.0, 0.0]], [[0.2, 0.3], [1.0, 0.0]]
    along = plain.value_and_grad(*points, upstream=5e-324, engine="certified")[1]
    assert not any(gradient.any() for gradient in along)  # of directions (1, 0)
