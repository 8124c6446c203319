"""Errors of the triplet loss."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.testing.errors.arithmetic import Arithmetic


class Triplets(NamedTuple):
    """True values of triplets."""

    positive: Array
    """Anchor less positive (N, D)."""
    negative: Array
    """Anchor less negative (N, D)."""
    m: float
    """Margin."""
    squared: bool
    """Whether distances are squared."""

    @property
    def distances(self) -> tuple[Array, Array]:
        """Distances of the positive and of the negative from the anchor (N,)."""
        power = 1.0 if self.squared else 0.5
        return (self.positive**2).sum(axis=1) ** power, (self.negative**2).sum(axis=1) ** power


def triplet_error(triplets: Triplets, own: float, a: Arithmetic) -> tuple[Array, dict[str, Array]]:
    """Return the errors of the loss of each row (N,) and of its gradients in positive and negative (N, D).

    Where rounding decides whether the margin is kept, either slope of the hinge is accepted. Where points coincide, any
    vector of length 1 is a slope of the plain distance. A margin that is kept gives exactly 0.
    """
    power, d = (1.0 if triplets.squared else 0.5), a.sum_of(triplets.positive.shape[1])
    near, far = triplets.distances
    violation = near - far + triplets.m
    of_violation = a.u * ((d * power + 4.0) * (near + far) + np.abs(near - far) + triplets.m + np.abs(violation))
    reached = violation > -of_violation
    undecided = (np.abs(violation) <= of_violation)[:, None]
    errors = {}
    for name, v in (("positive", triplets.positive), ("negative", triplets.negative)):
        length = np.sqrt((v**2).sum(axis=1, keepdims=True))
        slope = 2.0 * np.abs(v) if triplets.squared else np.abs(v) / np.where(length == 0.0, 1.0, length)
        allowed = (d / 2.0 + 6.0) * a.u * slope + np.where(undecided, slope, 0.0)
        allowed += 0.0 if triplets.squared else (length == 0.0) * 1.0
        allowed += own * np.linalg.norm(slope, axis=1, keepdims=True)
        errors[name] = np.where(reached[:, None], allowed, 0.0)
    rows = np.where(reached, of_violation + own * np.abs(violation), 0.0) + a.smallest
    return rows, errors
