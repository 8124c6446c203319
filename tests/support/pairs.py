"""Pairs of float64 numbers as rationals, and the roundoff that their bounds are quoted in."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from refloss.error_free import Pair

U = Fraction(1, 2**53)
HIGHER = 1 + Fraction(1, 2**40)  # bounds are quoted to leading order in u; what is left out is 100u of them at most
SUM_BOUND = 3  # times u²: the docstring of Pair


def exactly(value: Any) -> list[Fraction]:
    """The numbers of a pair or an array, as a flat list of rationals."""
    if isinstance(value, Pair):
        return [Fraction(hi) + Fraction(lo) for hi, lo in zip(value.hi.ravel(), value.lo.ravel(), strict=True)]
    return [Fraction(number) for number in np.asarray(value).ravel()]


def normalised(pair: Pair) -> bool:
    """Whether every low part is at most the roundoff of its high part."""
    return bool((np.abs(pair.lo) <= float(U) * np.abs(pair.hi)).all())
