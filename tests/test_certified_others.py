"""Other classes: what is known exactly of their cosines, and that these stay."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("flint")

from refloss.engines.certified.balls import exact_balls
from refloss.engines.certified.exact import IntegerVectors
from refloss.engines.certified.others import CONSTANT, OtherClasses
from refloss.engines.certified.tape import Tape

X, W, Y = (
    np.array([[0.1, 0.2]]),
    np.array([[1.0, 2.0], [-3.0, -6.0], [2.0, -1.0], [1.0, 1.0], [0.5, 0.5]]),
    np.array([0]),
)


def test_cosines_as_rational_numbers() -> None:
    others = OtherClasses(Y, IntegerVectors(X, W, directions=True), np.arange(5)[None])
    exact = [Fraction(0.1), Fraction(0.2)]  # not quite parallel to (1, 2)
    length = exact[0] ** 2 + exact[1] ** 2
    assert [others.square(0, k) for k in range(5)] == [5, 5, 5, 2, 2]
    assert others.signed_square(0, 3) == others.signed_square(0, 4) == (exact[0] + exact[1]) ** 2 / (2 * length)
    assert others.signed_square(0, 1) == -others.signed_square(0, 0) == -((exact[0] + 2 * exact[1]) ** 2) / (5 * length)
    assert others.signed_square(0, 2) == (2 * exact[0] - exact[1]) ** 2 * (1 if 2 * exact[0] > exact[1] else -1)
    factor, root = others.cos(0, 1)
    assert float(factor) * float(root) ** 0.5 == pytest.approx(-1.0, abs=1e-15)


def test_rows_of_w_stand_for_classes() -> None:
    others = OtherClasses(Y, IntegerVectors(X, W, directions=True), np.array([[3, 1]]))
    assert [others.square(0, k) for k in range(2)] == [2, 5]
    assert others.product(0, 1) < 0 < others.product(0, 0)
    assert others.others.tolist() == [[False, True]]


def test_cosines_stay() -> None:
    others = OtherClasses(Y, IntegerVectors(X, W, directions=True), np.arange(5)[None])
    tape = Tape()
    cos = tape.leaf(exact_balls(np.ones((1, 5))))
    assert others.eta(cos, lambda n, k, directions: pytest.fail("no angle counts")) is cos
    assert others.slope(0, 3) == (2, 1)
    assert others.along_x(0, 3) == CONSTANT
    assert others.notes == [[]]
