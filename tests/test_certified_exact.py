"""Exact decisions about float64 numbers, as questions about integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from refloss.engines.certified.balls import Arb, arb, pi, precision
from refloss.engines.certified.exact import IntegerVectors, Surd, cancel, half_turns, integers, parallel, root, sign

pytest.importorskip("flint")


def test_floats_are_integers_times_one_power_of_two() -> None:
    floats = np.array([0.0, 1.5, -5e-324, 1.7976931348623157e308])
    mantissas, exponent = integers(floats)
    assert [Fraction(int(n)) * Fraction(2) ** exponent for n in mantissas] == [Fraction(x) for x in floats]
    assert integers(np.zeros(2))[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("quarters", "angle"), [(0, Fraction(1, 2)), (1, Fraction(1, 3)), (2, Fraction(1, 4)), (3, Fraction(1, 6)), (4, 0)]
)
def test_angles_that_are_rational_multiples_of_pi(quarters: int, angle: Fraction) -> None:
    """cos² θ = quarters/4."""
    assert half_turns(quarters, 4 * quarters or 1) == angle
    assert half_turns(-quarters, 4 * quarters or 1) == (1 - angle if quarters else angle)
    assert half_turns(10**20 + 1, 4 * 10**40) is None


def test_parallel_means_exactly_parallel() -> None:
    x = np.array([0.1, 0.3, -1e-300])
    assert parallel(x, 4.0 * x) == 1
    assert parallel(x, -0.5 * x) == -1
    assert parallel(x, np.nextafter(x, 1.0)) == 0


def test_signs_by_as_many_bits_as_it_takes() -> None:
    def tiny() -> Arb:
        return pi() + arb(2.0**-1000) - pi()

    assert sign(tiny, lambda: False) == 1
    assert sign(lambda: -tiny(), lambda: False) == -1
    assert sign(lambda: arb(0), lambda: False) == 0
    assert sign(lambda: pi() - pi(), lambda: True) == 0
    assert sign(lambda: pi() - pi(), lambda: False) is None


def test_directions_keep_their_sides() -> None:
    vectors = IntegerVectors(np.ones((1, 1)), np.array([[-3.0], [0.5]]), directions=True)
    assert vectors.w.tolist() == [[-1], [1]]
    assert vectors.sample(0).dots[0] == -vectors.sample(0).dots[1]


def test_roots_of_squares() -> None:
    assert root(Fraction(4, 9)) == Fraction(2, 3)
    assert root(Fraction(4, 3)) is None
    assert root(Fraction(2, 9)) is None


@pytest.mark.parametrize(
    ("terms", "is_zero"),
    [
        ([], True),
        ([(0, 3), (5, 0)], True),
        ([(1, 2), (1, 8), (-1, 18)], True),  # √2 + 2√2 - 3√2
        ([(1, 2), (1, 8), (-1, 19)], False),
        ([(1, 2), (1, 3), (-1, 5)], False),
        ([(3, 1), (-1, 4), (-1, 1)], True),
        ([(1, 2), (1, 3), (-2, Fraction(1, 2)), (-3, Fraction(1, 3))], True),
        ([(1, 2), (-1, 2 + Fraction(1, 10**60))], False),
    ],
)
def test_sums_of_roots(terms: list[tuple[int, int]], is_zero: bool) -> None:
    assert cancel([(Fraction(factor), Fraction(square)) for factor, square in terms]) == is_zero


def test_numbers_with_a_root() -> None:
    """2 - √2 and what is made of it; 2 - √4 is 0."""
    number = Surd(Fraction(2), Fraction(-1), Fraction(2))
    assert number
    assert not Surd(Fraction(2), Fraction(-1), Fraction(4))
    assert not Surd(Fraction(0))
    assert number.times(Fraction(1, 2)).plus(Fraction(-1)) == Surd(Fraction(0), Fraction(-1, 2), Fraction(2))
    assert number.negative() == Surd(Fraction(-2), Fraction(1), Fraction(2))
    with precision(100):
        assert number.ball().rel_accuracy_bits() > 90
        assert (number.ball() - 2).mid() < -1.41421356
        assert (number.ball() - 2).mid() > -1.41421357
        assert (Surd(Fraction(1, 4)).ball() - 0.25).is_zero()


def test_sides_of_exact_numbers() -> None:
    """Where the parts have opposite signs, their squares decide."""
    for plain, factor, square, side in ((-3, 2, 2, -1), (-2, 2, 2, 1), (3, -2, 2, 1), (-4, 2, 4, 0), (0, 0, 0, 0)):
        assert Surd(*map(Fraction, (plain, factor, square))).side == side
    assert Surd(Fraction(1), Fraction(2), Fraction(9)).key == Surd(Fraction(7)).key
    third = Surd(Fraction(1, 2), Fraction(1, 6), Fraction(3))
    assert third.product(third) == (Fraction(1, 3), Fraction(1, 6), Fraction(3))
