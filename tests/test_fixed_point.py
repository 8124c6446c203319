"""Integers over a power of two, against mpmath. A unit is 2^-bits."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp, mpf

from refloss import fixed_point
from refloss.fixed_point import BITS, Between, Radians, Surd, Turned
from support import exact

# A series adds up one term rounded down for every two bits or so; an angle is wrong by the errors of the sine and the
# cosine that made it, a root and a quotient rounded down, and what two series lose: 8 bits for all of it. Of φ it is m1
# times that.
UNITS = 2**10

VECTORS = [
    ([0.3, 0.1, 0.7], [0.2, -0.5, 0.4]),
    ([1.0, 0.0], [1e-300, 1.0]),
    ([1.0, 0.0], [1.0, 5e-324]),
    ([1.7e308, 1.0], [-1.0, 1e-20]),
    ([3.0, 6.0], [-1.0, -2.0]),
]


def _close(units: int, number: mpf, bits: int, most: int = UNITS) -> bool:
    return abs(mpf(units) - number * mpf(2) ** bits) <= most


@pytest.fixture(params=BITS)
def bits(request):
    with mp.workprec(request.param + 100):
        yield request.param


def test_pi(bits):
    assert _close(fixed_point.pi(bits), mp.pi, bits)


@pytest.mark.parametrize("angle", [0.0, 1e-30, 0.5, math.pi / 2, 3.0, math.pi])
def test_series(bits, angle):
    for side in (angle, -angle):
        sine, cosine = fixed_point.sin_cos(fixed_point.fixed(side, bits), bits)
        assert _close(sine, mp.sin(side), bits)
        assert _close(cosine, mp.cos(side), bits)


def test_fixed_rounds_down():
    assert fixed_point.fixed(0.75, 2) == 3
    assert fixed_point.fixed(0.75, 1) == 1
    assert fixed_point.fixed(-0.75, 1) == -2
    assert fixed_point.fixed(Fraction(1, 3), 4) == 5


def test_units_are_the_numbers():
    row = np.array([1.0, -5e-324, 0.1, 1.7e308])
    assert fixed_point.units(np.array([0.75, -3.0])) == [3, -12]
    units = fixed_point.units(row, fixed_point.UNIT)
    assert [Fraction(k, fixed_point.UNIT) for k in units] == [Fraction(v) for v in row.tolist()]
    assert fixed_point.inner(units, units[::-1]) == 2 * (units[0] * units[3] + units[1] * units[2])


SURDS = [
    (Fraction(1, 3), Fraction(-2, 7), Fraction(5)),
    (Fraction(-3), Fraction(3), Fraction(10**20 + 1, 10**20)),  # 1.5e-20
    (Fraction(3, 4), Fraction(0), Fraction(2)),
    (Fraction(0), Fraction(-1, 10**6), Fraction(12100)),
    (Fraction(10**12), Fraction(1, 10**8), Fraction(2) / 3),
]


@pytest.mark.parametrize("surd", SURDS)
def test_surds_are_wrong_by_less_than_two_units(bits, surd):
    p, q, r = ((mpf(part.numerator) / part.denominator) for part in surd)
    assert abs(mpf(Surd(*surd).units(bits)) - (p + q * mp.sqrt(r)) * mpf(2) ** bits) < 2
    assert fixed_point.fixed(Surd(*surd), bits) == Surd(*surd).units(bits)


def test_surds_are_mapped_exactly():
    once = Surd(Fraction(1, 3), Fraction(-2), Fraction(5)).mapped(Fraction(-3, 2), Fraction(1, 2))
    assert once == (Fraction(0), Fraction(3), Fraction(5))


@pytest.mark.parametrize(
    ("surd", "is_0"),
    [
        ((Fraction(-2), Fraction(1), Fraction(4)), True),
        ((Fraction(2), Fraction(1), Fraction(4)), False),
        ((Fraction(2), Fraction(-1), Fraction(4)), True),
        ((Fraction(-2), Fraction(-1), Fraction(4)), False),
        ((Fraction(-2), Fraction(1), 4 + Fraction(1, 10**90)), False),
        ((Fraction(0), Fraction(0), Fraction(7)), True),
        ((Fraction(0), Fraction(3), Fraction(0)), True),
        ((Fraction(0), Fraction(3), Fraction(1, 7)), False),
    ],
)
def test_a_surd_is_0_or_not_exactly(surd, is_0):
    assert bool(Surd(*surd)) != is_0


def test_square_of_is_exact():
    assert fixed_point.square_of(np.array([66.0, 88.0, 1e-7])) == 110**2 + Fraction(1e-7) ** 2
    assert fixed_point.square_of(np.array([3e-320, 0.0])) == Fraction(3e-320) ** 2


@pytest.mark.parametrize(("x", "w"), VECTORS)
def test_angles_with_a_margin_by_length(bits, x, w):
    """Margins that are surds, of either sign; the angle φ and the threshold cos φ - m3 too."""
    row = np.array([0.3, 0.1, 0.7])
    length = mp.sqrt(mpf(0.3) ** 2 + mpf(0.1) ** 2 + mpf(0.7) ** 2)
    square = fixed_point.square_of(row)
    theta = exact.angle([x], [w], digits=1400)[0]
    for q in (Fraction(1, 3), Fraction(-1, 3)):
        m2, m3 = Surd(Fraction(1, 7), q, square), Surd(Fraction(-1, 5), -q, square)
        at = Turned(Between.of(np.array(x), np.array(w)), 1.0, m2, m3, bits)
        third = mpf(q.numerator) / q.denominator * length
        phi = theta + mpf(1) / 7 + third
        assert _close(at.phi, phi, bits)
        assert _close(at.sin_phi, mp.sin(phi), bits, 4 * UNITS)
        assert _close(at.threshold, mp.cos(phi) + mpf(1) / 5 + third, bits, 4 * UNITS)
        assert _close(at.of(m3), -mpf(1) / 5 - third, bits, 2)


def test_the_threshold_without_a_margin_on_the_angle():
    at = Turned(Between.of(np.array([1.0, 0.0]), np.array([3.0, 4.0])), 1.0, 0.0, 0.25, 256)
    with mp.workprec(400):
        assert _close(at.threshold, mpf(3) / 5 - mpf(1) / 4, 256, 2)


@pytest.mark.parametrize(("x", "w"), VECTORS)
def test_between_vectors(bits, x, w):
    angle, true = Between.of(np.array(x), np.array(w)), exact.angle([x], [w], digits=1400)[0]
    assert _close(angle.theta(bits), true, bits)
    assert _close(angle.cos(bits), mp.cos(true), bits, 2)
    assert _close(angle.sin(bits), mp.sin(true), bits, 2)


@pytest.mark.parametrize("theta", [0.0, 1e-300, 0.3, 2.0, 3.1415])
def test_radians(bits, theta):
    angle = Radians(Fraction(theta))
    assert _close(angle.theta(bits), mpf(theta), bits)
    assert _close(angle.cos(bits), mp.cos(theta), bits)
    assert _close(angle.sin(bits), mp.sin(theta), bits)
    assert angle.half_turns == (None if theta else 0)


@pytest.mark.parametrize(
    ("x", "w", "half_turns"),
    [
        ([1.0, 0.0], [3.0, 0.0], Fraction(0)),
        ([1.0, 0.0], [-3.0, 0.0], Fraction(1)),
        ([1.0, 0.0], [0.0, 3.0], Fraction(1, 2)),
        ([1.0, 1.0, 0.0], [0.0, 3.0, 3.0], Fraction(1, 3)),
        ([1.0, 1.0, 0.0], [0.0, -3.0, 3.0], Fraction(2, 3)),
        ([1.0, 0.0], [1.0, 1.0], Fraction(1, 4)),
        ([1.0, 0.0], [-1.0, 1.0], Fraction(3, 4)),
        ([1.0, 1.0, 1.0], [2.0, 1.0, 0.0], None),
        ([1.0, 0.0, 0.0, 0.0], [3.0, 1.0, 1.0, 1.0], Fraction(1, 6)),
        ([1.0, 0.0, 0.0, 0.0], [-3.0, 1.0, 1.0, 1.0], Fraction(5, 6)),
        ([0.3, 0.1], [0.2, -0.5], None),
    ],
)
def test_angles_that_are_rational_multiples_of_pi(x, w, half_turns):
    assert Between.of(np.array(x), np.array(w)).half_turns == half_turns


@pytest.mark.parametrize(("m1", "m2"), [(1.0, 0.5), (1.35, 0.3), (29.7, 0.1), (4.0, 0.0), (0.1, 3.0)])
@pytest.mark.parametrize(("x", "w"), VECTORS)
def test_angles_with_a_margin(bits, x, w, m1, m2):
    at = Turned(Between.of(np.array(x), np.array(w)), m1, m2, 0.0, bits)
    theta = exact.angle([x], [w], digits=1400)[0]
    phi = mpf(m1) * theta + mpf(m2)
    assert _close(at.sin_phi, mp.sin(phi), bits, 32 * UNITS)
    assert _close(at.cos_phi_minus_cos_theta, mp.cos(phi) - mp.cos(theta), bits, 32 * UNITS)
    assert _close(at.cos_theta, mp.cos(theta), bits)
    assert _close(at.sin_theta, mp.sin(theta), bits)
    assert at.of(0.75) == 3 << bits - 2


def test_what_is_0_is_0_exactly():
    degrees_120 = Between.of(np.array([1.0, 1.0, 0.0]), np.array([0.0, -3.0, 3.0]))
    assert Turned(degrees_120, 1.5, 0.0, 0.0, 256).sin_phi == 0  # 180
    assert Turned(degrees_120, 2.0, 0.0, 0.0, 256).cos_phi_minus_cos_theta == 0  # the cosine of 240
    assert Turned(degrees_120, 4.0, 0.0, 0.0, 256).cos_phi_minus_cos_theta == 0  # of 480
    assert Turned(degrees_120, 3.0, 0.0, 0.0, 256).cos_phi_minus_cos_theta != 0
    assert Turned(degrees_120, 2.0, 0.0, 0.0, 256).sin_phi != 0
    for m1, m2 in ((1.5, 1e-60), (2.0, 1e-60)):
        at = Turned(degrees_120, m1, m2, 0.0, 256)
        assert at.sin_phi != 0
        assert at.cos_phi_minus_cos_theta != 0


@pytest.mark.parametrize("power", [0, -115, -117, -880, -890, -3950])
def test_settled_takes_as_many_bits_as_it_needs(power):
    """A third of a power of two: to 108 bits, if what is asked for is wrong by 2^32 units."""
    asked = []

    def quantity(bits: int) -> int:
        asked.append(bits)
        return ((1 << bits) // (3 << -power)) + 2**32 - 1

    true = Fraction(1, 3 << -power)
    assert abs(fixed_point.settled(quantity) - true) <= true / 2**107
    assert asked == list(BITS[: 1 + (power < -114) + (power < -882)])


def test_what_is_too_small_is_0():
    assert fixed_point.settled(lambda bits: 2**139) == 0
    assert fixed_point.settled(lambda bits: -(2**140)) == Fraction(-(2**140), 2**256)
