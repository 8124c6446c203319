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
from refloss.testing.errors.power import power_error
from refloss.testing.errors.quality import SampleMargins, magnitudes
from refloss.testing.signatures import is_on_cosine

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
    rises: NDArray[np.bool_]
    """Whether ψ grows with θ, by the gradient convention."""
    by_v: Array
    """|∂ψ/∂v|, 0 where margins depend on nothing."""
    of_by_v: Array
    """Its error."""


def polynomial_error(m: float, cos: Array) -> tuple[Array, Array]:
    """Rounding error of cos mθ as a polynomial in cos θ, and of its derivative, in units of u.

    Its coefficients alternate in sign, so their magnitudes add up to it at i cos θ. Horner takes m + 1 roundings.
    """
    c = np.abs(cos)
    root = np.hypot(c, 1.0)
    up, down = (c + root) ** m, (c - root) ** m
    return (m + 2.0) * np.abs(up + down) / 2.0, (m + 2.0) * m * np.abs(up - down) / (2.0 * root)


def margin_error(
    head: Head,
    settings: margin.Settings,
    cosine: Array,
    a: Arithmetic,
    margins: SampleMargins | None = None,
    turned: Array | float = 0.0,
) -> TargetError:
    """Return the errors of ψ and of dψ/dcos θ by the angle or by the cosine, the larger; with jumps within reach.

    Margins that depend on a number v of each sample have errors of their own, and ∂ψ/∂v one too.
    ``turned`` (N,) is how far another center, as near by its cosine, turns the angle.
    """
    v, of_m2, of_m3 = (None, 0.0, 0.0) if margins is None else margins
    own = margin.at(settings, v)
    m2, m3 = magnitudes(own)
    if settings.boundary == margin.CIRCLE:
        return circle_error(head, settings, cosine, a)
    if settings.boundary == margin.POWER:
        return _power_error(head, settings, cosine, a)
    theta, sine = head.theta, np.sin(head.theta)
    by_cosine = arccos_error(theta, cosine)
    of_theta = angle_error(theta, a.sum_of(head.x.shape[1]), a)
    of_theta = of_theta + turned + (by_cosine if a.angle == "arccos" else 0.0)
    off = of_theta + of_m2 / settings.m1  # an error of m2 moves φ as one of θ does
    curve = margin.curve_of(own._replace(gradient="exact"))
    eased = settings.annealing / (1.0 + settings.annealing)
    bend = eased + (1.0 - eased) * max(1.0, settings.m1**2)

    reach = 4.0 * np.maximum(off, by_cosine + of_m2 / settings.m1)
    near = np.clip(np.stack([theta, theta - reach, theta + reach]), 0.0, np.pi)
    here, *beside = (margin.turned(angle.of(place), settings, v) for place in near)
    psi, slope, moved = curve.psi(here).hi, curve.slope(here).hi, near[1:] - theta
    # margins of samples have errors of their own, and reach far
    crossed = np.full(moved.shape, False) if v is None else _crossed(own, here, beside)
    leap, jump = _jump(curve, here, beside, moved, bend, settings.m1, crossed)

    on_cosine = is_on_cosine(settings)
    whole = settings.m1 == int(settings.m1) and settings.m1 <= POLYNOMIALS
    polynomial = whole and settings.m2 == 0.0 and settings.by_quality[0] == 0
    evaluated = 4.0 + 2.0 * np.abs(psi) + 2.0 * np.abs(slope) * (theta + m2) + m3 + m2
    of_psi = np.abs(slope) * of_theta + bend * off**2 / 2.0 + a.u * (evaluated + 3.0 * eased)
    terms, of_terms = polynomial_error(float(settings.m1), np.cos(theta)) if polynomial else (theta, theta)
    if on_cosine:
        of_psi = cosine + a.u * (3.0 + 2.0 * np.abs(psi) + m3)
    elif polynomial:
        sum_of_terms = (1.0 - eased) * terms + 3.0 * eased + 2.0 * np.abs(psi)
        of_psi = np.maximum(of_psi, np.abs(slope) * by_cosine + bend * by_cosine**2 / 2.0 + a.u * sum_of_terms)
    of_psi = of_psi + jump + np.abs(curve.by_m2(here).hi) * of_m2 + np.abs(curve.by_m3(here).hi) * of_m3
    numbers = _by_number(own, here, beside, crossed, reach, off, a)
    if on_cosine or settings.gradient == "detached":
        flat = np.full(psi.shape, False)
        return TargetError(of_psi, np.ones_like(psi), np.full_like(psi, 4.0 * a.u), flat, *numbers)

    turn = np.abs(np.stack([curve.slope(there).hi for there in beside]) - slope)
    kink = np.where(leap | (turn > 1.1 * bend * reach), turn + bend * reach, 0.0).max(axis=0)
    safe = np.maximum(sine, of_theta)
    steepness = np.abs(slope) / safe

    def moved_by(off: Array) -> Array:
        """Return how far an error of the angle moves the steepness."""
        return np.asarray((bend + np.abs(slope) / np.maximum(safe - off, safe / 8.0)) * off / safe)

    rounded = 8.0 * steepness + bend * (theta + m2) / safe
    of_steepness = moved_by(off) + a.u * rounded
    if polynomial:
        steepest = (1.0 - eased) * settings.m1**2 * (settings.m1**2 - 1.0) / 3.0  # |d²ψ/dcos θ²| at most, at θ = 0
        through = np.minimum(moved_by(by_cosine), steepest * cosine) + a.u * ((1.0 - eased) * of_terms + 4.0 * eased)
        of_steepness = np.maximum(of_steepness, through)
    known = np.where(sine > 2.0 * of_theta, of_steepness + kink / safe, UNKNOWN)
    return TargetError(of_psi, steepness, known, slope > 0.0, *numbers)


def circle_error(head: Head, settings: margin.Settings, cosine: Array, a: Arithmetic) -> TargetError:
    """Return the errors of CircleLoss's ψ = (1 + m - c)(c - 1 + m) = m² - (1 - c)², and of its slope, by the cosine.

    Its gradient is that of both factors, which nearly cancel next to the class, or of the second alone.
    """
    m, curve, here = settings.m3, margin.curve_of(settings), margin.turned(angle.of(head.theta), settings)
    psi, apart, nothing = curve.psi(here).hi, 1.0 - np.cos(head.theta), np.zeros_like(head.theta)
    detached = settings.gradient == "detached"
    rounded = 3.0 * (apart**2 + m**2) + np.abs(psi) + 2.0 * (1.0 + m) * (apart + m)
    of_psi = 2.0 * apart * cosine + cosine**2 + a.u * rounded
    steepness = apart + m if detached else 2.0 * apart
    of_steepness = (1.0 if detached else 2.0) * cosine + 2.0 * a.u * (1.0 + 3.0 * (apart + m))
    return TargetError(of_psi, steepness, of_steepness, nothing > 0.0, nothing, nothing)


def _power_error(head: Head, settings: margin.Settings, cosine: Array, a: Arithmetic) -> TargetError:
    """Return the errors of SphereFace2's ψ and of its slope, by the cosine."""
    errors = power_error(np.cos(head.theta), cosine, settings.power, -float(settings.m3), settings.gradient, a)
    nothing = np.zeros_like(head.theta)
    return TargetError(errors.eta, errors.slope, errors.of_slope, nothing > 0.0, nothing, nothing)


def _jump(
    curve: margin.Curve,
    here: margin.Target,
    beside: list[margin.Target],
    moved: Array,
    bend: Array | float,
    m1: Array | float,
    crossed: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], Array]:
    """Return whether ψ leaps to the targets beside each (2, N), and by how much it may be off therefore (N,)."""
    at, slope = curve.psi(here), curve.slope(here).hi
    apart = np.stack([(curve.psi(there) - at).hi for there in beside])  # in pairs, since roundings are no jumps
    leap = np.abs(apart - slope * moved) > 0.6 * bend * moved**2  # a smooth curve stays within half of that
    leap = leap | crossed
    beyond = np.maximum(1.0, m1) * np.abs(moved)  # how far the curve on the other side may fall
    return leap, np.where(leap, np.abs(apart) + np.abs(slope * moved) + beyond + bend * moved**2, 0.0).max(axis=0)


def _crossed(own: margin.Settings | margin.Own, here: margin.Target, beside: list[margin.Target]) -> NDArray[np.bool_]:
    """Return whether the boundary of the rule, or a fold, is between a target and those beside it (2, N)."""
    rule = (margin.RULES | margin.OF_ONE_LOSS)[own.boundary]
    at, folds = rule.beyond(here, own), own.boundary == "monotone"
    return np.stack([(rule.beyond(t, own) != at) | (folds & (t.folds != here.folds)) for t in beside])


def _by_number(
    own: margin.Settings | margin.Own,
    here: margin.Target,
    beside: list[margin.Target],
    crossed: NDArray[np.bool_],
    reach: Array,
    off: Array,
    a: Arithmetic,
) -> tuple[Array, Array]:
    """Return |∂ψ/∂v| by the gradient convention, and its error: moved, rounded, and with jumps within reach.

    Inside, ∂ψ/∂m2 is -sin φ; the most that it moves beyond is 2 + m2 times as much as m2, by the rule "hard".
    """
    (b2, b3), m2 = map(float, own.by_quality), magnitudes(own)[0]
    if not b2 and not b3:
        return np.zeros(here.cos_phi.shape), np.zeros(here.cos_phi.shape)
    curve = margin.curve_of(own)

    def by(place: margin.Target) -> Array:
        return np.asarray(b2 * curve.by_m2(place).hi + b3 * curve.by_m3(place).hi)

    at = by(here)
    if own.gradient == "detached":
        return np.abs(at), np.zeros_like(at)
    moves = abs(b2) * (2.0 + m2) * max(1.0, float(own.m1))
    turn = np.abs(np.stack([by(place) for place in beside]) - at)
    leap = np.where(crossed, turn + moves * reach, 0.0).max(axis=0)
    rounded = 4.0 * (abs(b2) + abs(b3)) + 4.0 * np.abs(at) + abs(b2) * (float(own.m1) * here.theta.theta.hi + m2)
    return np.abs(at), moves * off + leap + a.u * rounded


def chord_error(
    head: Head, settings: margin.Settings, upstream: Array, unknown: NDArray[np.bool_], a: Arithmetic
) -> Array:
    """Error of the target's own terms (N, D), for rows of unit length, from s |g_y| (N,).

    An angle by its chords, 2 atan2(|x - w|, |x + w|), has the gradient [cot(θ/2) (x - w) - tan(θ/2) (x + w)] / 2. Its
    terms' magnitudes add up to (|x| + |w|) / sin θ, and x's cancel at π/2; cos(θ + m) by the addition formula has such
    terms too. A direction that the dtype does not resolve is wrong by a full turn at most, times ψ'.
    """
    if is_on_cosine(settings) or settings.gradient == "detached":
        return np.zeros_like(head.x)
    most = max(settings.m1, 1.0)
    steep = most / np.maximum(np.sin(head.theta), a.u)
    terms = np.abs(head.x) + np.abs(head.w[head.y])
    projected = terms + np.abs(head.x) * (np.abs(head.x) * terms).sum(axis=1, keepdims=True)
    rounded = CHORDS * a.u * (upstream * steep)[:, None] * projected
    return np.asarray(rounded + np.where(unknown, 4.0 * most**2 * upstream, 0.0)[:, None])
