"""Hinges: which triplets have a loss above 0, decided exactly."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from refloss.engines.certified.exact import BigInts, integers
from refloss.engines.certified.known import Rows
from refloss.engines.spec import Arrays
from refloss.engines.spec import Triplet as TripletLoss
from refloss.error_free import Array
from refloss.stages.triplet import Settings


class Triplet(NamedTuple):
    """A triplet as integers, times one power of two."""

    to_positive: BigInts
    """a - p."""
    to_negative: BigInts
    """a - n."""
    near: int
    """‖a - p‖²."""
    far: int
    """‖a - n‖²."""
    unit: Fraction
    """What the squares are multiples of."""


def integer_triplet(anchor: Array, positive: Array, negative: Array) -> Triplet:
    """Return a triplet as integers."""
    (a, p, n), exponent = integers(np.stack([anchor, positive, negative]))
    to_positive, to_negative = a - p, a - n
    near, far = (int(difference @ difference) for difference in (to_positive, to_negative))
    return Triplet(to_positive, to_negative, near, far, Fraction(2) ** (2 * exponent))


def known_triplets(arrays: Arrays, settings: Settings) -> tuple[Rows, list[Triplet]]:
    """Return what is known of the rows, open hinges being computed, and the triplets as integers."""
    names = TripletLoss.differentiable()
    triplets = [integer_triplet(*rows) for rows in zip(*(arrays[name] for name in names), strict=True)]
    signs = [hinge_sign(triplet, Fraction(settings.m), settings.squared) for triplet in triplets]
    notes: list[str] = []
    for row, (triplet, sign) in enumerate(zip(triplets, signs, strict=True)):
        if sign == 0:
            notes.append(f"row {row}: the hinge is at 0 exactly: the gradient of least norm, 0, is used")
        elif sign > 0 and not settings.squared:
            notes += [
                f"row {row}: anchor and {name} coincide: the plain distance has no derivative, 0 is used"
                for name, square in zip(names[1:], (triplet.near, triplet.far), strict=True)
                if square == 0
            ]
    count = len(triplets)
    rows = Rows(np.array(signs) > 0, np.zeros(count), np.zeros(count), Fraction(count), notes)
    return rows, triplets


def hinge_sign(triplet: Triplet, m: Fraction, squared: bool) -> int:
    """Return the sign of d(a, p) - d(a, n) + m."""
    near, far = triplet.near * triplet.unit, triplet.far * triplet.unit
    if squared:
        difference = near - far + m
    else:  # √near + m against √far: both squared, 2 m √near against far - near - m²; and squared again
        difference = near + m * m - far
        difference = difference if difference > 0 else 4 * m * m * near - difference * difference
    return (difference > 0) - (difference < 0)
