"""Errors of the target's curve and of its own terms of the gradient."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.stages import angle, margin
from refloss.testing.errors.angle import angle_error, arccos_error
from refloss.testing.errors.arithmetic import UNKNOWN, Arithmetic
from refloss.testing.errors.cosine import Head

POLYNOMIALS = 8
"""Largest integer m for which cos mθ as a polynomial in cos θ counts as correct."""
CHORDS = 8.0
"""Roundings of each term of an angle's gradient by chords: difference, length, quotient, square sum, products, sum."""


class TargetError(NamedTuple):
    """Errors of the target's curve (N,)."""

    psi: Array
    """Of ψ."""
    steepness: Array
    """|dψ/dcos θ| by the gradient convention."""
    of_steepness: Array
    """Its error."""


def polynomial_error(m: float, cos: Array) -> tuple[Array, Array]:
    """Rounding error of cos mθ as a polynomial in cos θ, and of its derivative, in units of u.

    Its coefficients alternate in sign, so their magnitudes add up to it at i cos θ. Horner takes m + 1 roundings.
    """
    c = np.abs(cos)
    root = np.hypot(c, 1.0)
    up, down = (c + root) ** m, (c - root) ** m
    return (m + 2.0) * np.abs(up + down) / 2.0, (m + 2.0) * m * np.abs(up - down) / (2.0 * root)


def margin_error(head: Head, settings: margin.Settings, cosine: Array, a: Arithmetic) -> TargetError:
    """Return the errors of ψ and of dψ/dcos θ by the angle or by the cosine, the larger; with jumps within reach."""
    theta, sine = head.theta, np.sin(head.theta)
    by_cosine = arccos_error(theta, cosine)
    of_theta = angle_error(theta, a.sum_of(head.x.shape[1]), a)
    of_theta = of_theta + by_cosine if a.angle == "arccos" else of_theta
    curve = margin.curve_of(settings._replace(gradient="exact"))
    eased = settings.annealing / (1.0 + settings.annealing)
    bend = eased + (1.0 - eased) * max(1.0, settings.m1**2)

    reach = 4.0 * np.maximum(of_theta, by_cosine)
    near = np.clip(np.stack([theta, theta - reach, theta + reach]), 0.0, np.pi)
    here, *beside = (margin.turned(angle.of(place), settings) for place in near)
    at, slope = curve.psi(here), curve.slope(here).hi
    psi, moved = at.hi, near[1:] - theta
    apart = np.stack([(curve.psi(there) - at).hi for there in beside])  # in pairs, since roundings are no jumps
    leap = np.abs(apart - slope * moved) > 0.6 * bend * moved**2  # a smooth curve stays within half of that
    beyond = max(1.0, settings.m1) * np.abs(moved)  # how far the curve on the other side may fall
    jump = np.where(leap, np.abs(apart) + np.abs(slope * moved) + beyond + bend * moved**2, 0.0).max(axis=0)

    on_cosine = settings.m1 == 1.0 and settings.m2 == 0.0
    polynomial = settings.m2 == 0.0 and settings.m1 == int(settings.m1) and settings.m1 <= POLYNOMIALS
    evaluated = 4.0 + 2.0 * np.abs(psi) + 2.0 * np.abs(slope) * (theta + settings.m2) + settings.m3 + settings.m2
    of_psi = np.abs(slope) * of_theta + bend * of_theta**2 / 2.0 + a.u * (evaluated + 3.0 * eased)
    terms, of_terms = polynomial_error(float(settings.m1), np.cos(theta)) if polynomial else (theta, theta)
    if on_cosine:
        of_psi = cosine + a.u * (3.0 + 2.0 * np.abs(psi) + settings.m3)
    elif polynomial:
        sum_of_terms = (1.0 - eased) * terms + 3.0 * eased + 2.0 * np.abs(psi)
        of_psi = np.maximum(of_psi, np.abs(slope) * by_cosine + bend * by_cosine**2 / 2.0 + a.u * sum_of_terms)
    if on_cosine or settings.gradient == "detached":
        return TargetError(of_psi + jump, np.ones_like(psi), np.full_like(psi, 4.0 * a.u))

    turn = np.abs(np.stack([curve.slope(there).hi for there in beside]) - slope)
    kink = np.where(leap | (turn > 1.1 * bend * reach), turn + bend * reach, 0.0).max(axis=0)
    safe = np.maximum(sine, of_theta)
    steepness = np.abs(slope) / safe

    def moved_by(off: Array) -> Array:
        """Return how far an error of the angle moves the steepness."""
        return np.asarray((bend + np.abs(slope) / np.maximum(safe - off, safe / 8.0)) * off / safe)

    rounded = 8.0 * steepness + bend * (theta + settings.m2) / safe
    of_steepness = moved_by(of_theta) + a.u * rounded
    if polynomial:
        steepest = (1.0 - eased) * settings.m1**2 * (settings.m1**2 - 1.0) / 3.0  # |d²ψ/dcos θ²| at most, at θ = 0
        through = np.minimum(moved_by(by_cosine), steepest * cosine) + a.u * ((1.0 - eased) * of_terms + 4.0 * eased)
        of_steepness = np.maximum(of_steepness, through)
    return TargetError(of_psi + jump, steepness, np.where(sine > 2.0 * of_theta, of_steepness + kink / safe, UNKNOWN))


def chord_error(
    head: Head, settings: margin.Settings, upstream: Array, unknown: NDArray[np.bool_], a: Arithmetic
) -> Array:
    """Error of the target's own terms (N, D), for rows of unit length, from s |g_y| (N,).

    An angle by its chords, 2 atan2(|x - w|, |x + w|), has the gradient [cot(θ/2) (x - w) - tan(θ/2) (x + w)] / 2. Its
    terms' magnitudes add up to (|x| + |w|) / sin θ, and x's cancel at π/2; cos(θ + m) by the addition formula has such
    terms too. A direction that the dtype does not resolve is wrong by a full turn at most, times ψ'.
    """
    if (settings.m1 == 1.0 and settings.m2 == 0.0) or settings.gradient == "detached":
        return np.zeros_like(head.x)
    most = max(settings.m1, 1.0)
    steep = most / np.maximum(np.sin(head.theta), a.u)
    terms = np.abs(head.x) + np.abs(head.w[head.y])
    projected = terms + np.abs(head.x) * (np.abs(head.x) * terms).sum(axis=1, keepdims=True)
    rounded = CHORDS * a.u * (upstream * steep)[:, None] * projected
    return np.asarray(rounded + np.where(unknown, 4.0 * most**2 * upstream, 0.0)[:, None])
