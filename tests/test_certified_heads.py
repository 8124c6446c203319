"""Heads: details of the definitions on balls; their values and gradients are tested in test_certified."""

from __future__ import annotations

import numpy as np
import pytest

from refloss.engines.certified.balls import arb, exact_balls, precision
from refloss.engines.certified.heads import _argmax, linear
from refloss.engines.certified.tape import Tape
from refloss.stages.softcap import UNCHANGED

pytest.importorskip("flint")


def test_the_largest_logit_is_exact_beyond_float64() -> None:
    row = exact_balls([1.0, 1.0, 2.0, 1.0])
    with precision(128):
        row[1] += arb(1e-30)
    assert _argmax(row, np.array([True, True, False, True])) == 1
    row[0] = arb(np.nan)  # too few bits as yet
    assert _argmax(row, np.array([True, False, False, False])) == 0


def test_linear_is_a_product_and_a_bias() -> None:
    arrays = {"x": np.array([[1.0, 2.0]]), "w": np.eye(2), "y": np.array([0])}
    leaves, z, _ = linear(Tape(), arrays, UNCHANGED)
    assert list(leaves) == ["x", "w"]
    assert z.value.astype(float).tolist() == [[1.0, 2.0]]
    leaves, z, _ = linear(Tape(), arrays | {"b": np.array([0.5, -0.5])}, UNCHANGED)
    assert list(leaves) == ["x", "w", "b"]
    assert z.value.astype(float).tolist() == [[1.5, 1.5]]
