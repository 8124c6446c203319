"""Centers: which row of w stands for each class of a sample, decided exactly.

The angle to a center is the smaller the larger its cosine is, cos θ |cos θ| is a rational number, and of centers of the
same x so is x·w |x·w| / w·w: whole numbers decide.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from refloss.engines.certified.exact import IntegerVectors
from refloss.error_free import Integers


class NearestCenters(NamedTuple):
    """The center at the smallest angle in every class, the first of those that are."""

    row_of: Integers
    """The row of w that stands for each class (N, C)."""
    notes: list[list[str]]
    """Of every sample the classes with several such centers."""


def nearest_centers(vectors: IntegerVectors, samples: int, centers: int | None) -> NearestCenters:
    """Choose among so many centers a class; with None every row of w is a class."""
    classes = len(vectors.squares) // (centers or 1)
    row_of, notes = np.tile(np.arange(classes), (samples, 1)), [list[str]() for _ in range(samples)]
    if centers is None:
        return NearestCenters(row_of, notes)
    for n, k in np.ndindex(row_of.shape):
        dots, squares = (
            numbers[k * centers : (k + 1) * centers] for numbers in (vectors.sample(n).dots, vectors.squares)
        )
        cosines = [Fraction(dot * abs(dot), square) for dot, square in zip(dots, squares, strict=True)]
        first, *others = (j for j, cosine in enumerate(cosines) if cosine == max(cosines))
        row_of[n, k] = k * centers + first
        if others:
            those = " and ".join(map(str, (first, *others)))
            notes[n].append(f"centers {those} of class {k} are at the same angle exactly: the first is taken")
    return NearestCenters(row_of, notes)
