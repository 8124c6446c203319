"""Errors of the target's angle, by atan2 of two lengths or by arccos."""

from __future__ import annotations

import numpy as np

from refloss.error_free import Array
from refloss.formats import FORMATS
from refloss.testing.errors.arithmetic import Arithmetic


def angle_error(theta: Array, d: float, a: Arithmetic) -> Array:
    """Return the error of the target's angle by atan2 of two lengths; d is K_D.

    Rounded entries turn a direction by an absolute amount, a sum of squares a length by a relative one; and unit rows
    whose lengths differ by δ are at least δ apart.
    """
    direction_error, distance = a.u * (d + 2.0), np.minimum(theta, np.pi - theta)
    apart = direction_error**2 / np.maximum(np.hypot(distance, direction_error) + distance, FORMATS["float64"].smallest)
    return np.asarray(a.u * ((d + 4.0) * np.sin(theta) + 4.0 + 3.0 * theta) + apart)


def arccos_error(theta: Array, cosine: Array) -> Array:
    """Return the error of an arccos from that of its cosine: times the slope, or at 0 and π its square root."""
    return np.minimum(cosine / np.maximum(np.sin(theta), 1e-300), np.sqrt(2.0 * cosine))
