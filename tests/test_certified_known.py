"""Known entries: what rows that are not computed leave of a loss and of its gradients."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from refloss.engines.certified.known import Rows


def rows(losses: list[float], gradients: list[float], computed: list[bool], divisor: int = 3) -> Rows:
    return Rows(np.array(computed), np.array(losses), np.array(gradients), Fraction(divisor), [])


@pytest.mark.parametrize(
    ("losses", "reduction", "divisor", "value", "unknown"),
    [
        ([0.0, 0.0, 0.0], "mean", 3, 0.0, True),
        ([np.inf, 0.0, 0.0], "sum", 3, np.inf, False),
        ([np.inf, 0.0, 0.0], "mean", -3, -np.inf, False),
        ([np.inf, -np.inf, 0.0], "sum", 3, np.nan, False),
        ([np.inf, 0.0, 0.0], "none", 3, [np.inf, 0.0, 0.0], [False, True, False]),
    ],
)
def test_values(losses: list[float], reduction: str, divisor: int, value: object, unknown: object) -> None:
    known, mask = rows(losses, [0.0] * 3, [True, True, False], divisor).value(reduction)
    assert np.array_equal(known, value, equal_nan=True)
    assert np.array_equal(mask, unknown)


def test_gradients_of_inputs_per_sample_and_per_class() -> None:
    ignored = rows([0.0, 0.0], [0.0, 0.0], [True, False])
    undefined = rows([0.0, 0.0], [0.0, np.nan], [True, False])
    for each, bad in ((ignored, 0.0), (undefined, np.nan)):
        known, mask = each.gradient("x", (2, 3))
        assert np.array_equal(known, [[0.0] * 3, [bad] * 3], equal_nan=True)
        assert np.array_equal(mask, [[True] * 3, [False] * 3])
        known, mask = each.gradient("w", (4, 3))
        assert np.array_equal(known, np.full((4, 3), bad), equal_nan=True)
        assert mask.all() == mask.any() == (bad == 0.0)
