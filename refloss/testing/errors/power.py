"""Errors of SphereFace2's curve of a cosine, a power of (1 + c) / 2."""

from __future__ import annotations

import numpy as np

from refloss.error_free import Array
from refloss.testing.errors.arithmetic import Arithmetic
from refloss.testing.errors.negatives import NegativesError


def power_error(c: Array, of_c: Array, t: int, m: float, gradient: str, a: Arithmetic) -> NegativesError:
    r"""Return the errors of η = 2hᵗ - 1 + m with h = (1 + c)/2, its slope t hᵗ⁻¹ in c, and the error of that.

    m is negative for the target. For every c within δ = of_c the difference of the powers is at most (h + δ/2)ᵗ - hᵗ,
    since they are convex, and above -δ/2 too, where a rounded cosine may be below -1. The base is rounded once, which
    its power multiplies by t; the power takes t products, or as few roundings by a function; 1 and m are taken off
    together or one after the other.
    """
    h, away = (1.0 + c) / 2.0, of_c / 2.0
    power, lower = h**t, h ** (t - 1)
    eta = 2.0 * power - 1.0 + m
    rounded = 4.0 * (t + 1.0) * power + np.abs(2.0 * power - 1.0) + np.abs(eta) + 1.0 + 2.0 * abs(m)
    of_eta = 2.0 * ((h + away) ** t - power) + a.u * rounded
    if gradient == "detached":
        return NegativesError(of_eta, np.ones_like(c), np.full_like(c, 4.0 * a.u))
    slope = t * lower
    return NegativesError(of_eta, slope, t * ((h + away) ** (t - 1) - lower) + (2.0 * t + 3.0) * a.u * slope)
