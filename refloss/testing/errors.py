r"""How far each stage of a correct implementation may be from the truth, entry by entry.

A first-order analysis of the forward error of every stage of the picture. All magnitudes are those of the true values,
and every rounding is at its worst. Symbols are those of the stages, and K_n is what a sum of n terms of one sign may
lose in units of u: n, or less where sums are accumulated in a wider dtype. Where signs differ, no partial sum is larger
than the positive terms together, or the negative ones: see `Arithmetic.lost`. The page on budgets derives the formulas,
and the suite evaluates those it shows.

What counts as correct: any order of summation; cosines from rounded directions; an angle within a few u, as atan2
gives it (arccos is as good for angles that are not small); cos mθ from the angle or as a polynomial in cos θ; cos(θ+m)
from the angle or by the addition formula. What does not: an arccos near 0 or π, where it loses digits that atan2 keeps.
How accurate log p has to be is the standard's to say: see `refloss.testing.budgets`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.formats import FORMATS
from refloss.stages import angle, margin

UNKNOWN = 1e30
"""Error of a direction that the dtype does not know: an angle of less than a few u, or as near to π."""
POLYNOMIALS = 8
"""Up to this whole m, cos mθ as a polynomial in cos θ counts as a correct way to compute it."""
CHORDS = 8.0
"""Roundings of each term of an angle's gradient by chords: difference, length, quotient, square sum, products, sum."""


class Arithmetic(NamedTuple):
    """What an implementation computes with."""

    u: float
    """Unit roundoff of the numbers it computes with."""
    accumulated: float
    """Unit roundoff of its sums."""
    factor: float
    """Relative error of a factor of a matrix product before it is multiplied; 0 where none is rounded."""
    smallest: float
    """Smallest normal number: what lies below may be flushed to 0."""
    log_p: str = "stable"
    """How accurate log p is: "working", "stable" or "relative"."""
    stored: float = 0.0
    """Unit roundoff of results that are rounded once more when they are stored; 0 where they are not."""
    stored_smallest: float = 0.0
    """Smallest number of that dtype."""
    between: float = 0.0
    """Unit roundoff of what lies between two kernels: logits of a linear layer, and their gradient."""
    angle: str = "atan2"
    """How an angle is taken: "arccos" is for diagnoses alone."""

    def sum_of(self, n: int) -> float:
        """K_n."""
        return n * self.accumulated / self.u

    def lost(self, n: Any, terms: Array, whole: Array) -> Array:
        """What a sum of n products may be off by, given the sum of their magnitudes and the magnitude of their sum.

        Each product is rounded, and each of the n - 1 partial sums: in any order it is at most the larger of the sum of
        the positive products and that of the negative ones, which is half of terms + whole.
        """
        return np.asarray(self.accumulated * ((n - 1) * (terms + whole) / 2.0 + terms))


class Head(NamedTuple):
    """True values of a head with directions, rows that count only."""

    x: Array
    """x̂ (N, D)."""
    w: Array
    """ŵ (C, D)."""
    length_x: Array
    """‖x‖ (N,)."""
    length_w: Array
    """‖w‖ (C,)."""
    c: Array
    """cos θ of every class (N, C)."""
    f: Array
    """c with ψ in the target's place (N, C)."""
    theta: Array
    """θ of the target (N,)."""
    y: Any
    """Labels (N,)."""
    scale: Array
    """s of each row (N,)."""


class Rows(NamedTuple):
    """True values of cross entropy."""

    z: Array
    """Logits (N, C)."""
    p: Array
    """Probabilities (N, C)."""
    q: Array
    """1 - p, without cancellation (N, C)."""
    t: Array
    """Targets (N, C)."""
    minus_log_p: Array
    """-log p (N, C)."""

    @property
    def loss(self) -> Array:
        """L_n (N,)."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(self.t == 0.0, 0.0, self.t * self.minus_log_p).sum(axis=1))

    @property
    def terms(self) -> Array:
        """L_n before targets of both signs cancel: the sum of |t_k| (-log p_k) (N,)."""
        return self._replace(t=np.abs(self.t)).loss

    @property
    def total(self) -> Array:
        """T, the sum of the targets of a row (N, 1)."""
        return np.asarray(self.t.sum(axis=1, keepdims=True))

    @property
    def g(self) -> Array:
        """dL_n/dz = p (T - t) - t q (N, C)."""
        return np.asarray(self.p * (self.total - self.t) - self.t * self.q)


# ------------------------------------------------------------------------------------------------------- cosine, angle


def cosine_error(head: Head, a: Arithmetic) -> Array:
    """Error of every cosine (N, C): products and their sum, rounded entries and lengths, the result."""
    d = head.x.shape[1]
    terms, whole = np.abs(head.x) @ np.abs(head.w).T, np.abs(head.c)
    return a.lost(d, terms, whole) + 2.0 * (a.u + a.factor) * terms + a.u * (a.sum_of(d) + 3.0) * whole


def angle_error(theta: Array, d: float, a: Arithmetic) -> Array:
    """Error of the target's angle, of two lengths by atan2, given K_D.

    Rounded entries turn a direction by an absolute amount, a sum of squares a length by a relative one; and unit rows
    whose lengths differ by δ are at least δ apart.
    """
    apart, aside = a.u * (d + 2.0), np.minimum(theta, np.pi - theta)
    crooked = apart**2 / np.maximum(np.hypot(aside, apart) + aside, FORMATS["float64"].smallest)
    return np.asarray(a.u * ((d + 4.0) * np.sin(theta) + 4.0 + 3.0 * theta) + crooked)


def arccos_error(theta: Array, cosine: Array) -> Array:
    """What an arccos makes of the error of its cosine: its slope there, or at 0 and π its root."""
    return np.minimum(cosine / np.maximum(np.sin(theta), 1e-300), np.sqrt(2.0 * cosine))


# -------------------------------------------------------------------------------------------------------------- margin


class TargetError(NamedTuple):
    """Errors of the target's curve (N,)."""

    psi: Array
    """Of ψ."""
    steepness: Array
    """|dψ/dcos θ|, as the gradient convention has it."""
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
    """Error of ψ and of dψ/dcos θ, by way of the angle or of the cosine, whichever loses more; jumps within reach."""
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
    apart = np.stack([(curve.psi(there) - at).hi for there in beside])  # in pairs: roundings are no jumps
    leap = np.abs(apart - slope * moved) > 0.6 * bend * moved**2  # a smooth curve keeps to half of that
    beyond = max(1.0, settings.m1) * np.abs(moved)  # what the curve on the other side may fall by on the way
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
        """How far an angle that is off moves the steepness."""
        return np.asarray((bend + np.abs(slope) / np.maximum(safe - off, safe / 8.0)) * off / safe)

    rounded = 8.0 * steepness + bend * (theta + settings.m2) / safe
    of_steepness = moved_by(of_theta) + a.u * rounded
    if polynomial:
        steepest = (1.0 - eased) * settings.m1**2 * (settings.m1**2 - 1.0) / 3.0  # |d²ψ/dcos θ²| at most, at θ = 0
        through = np.minimum(moved_by(by_cosine), steepest * cosine) + a.u * ((1.0 - eased) * of_terms + 4.0 * eased)
        of_steepness = np.maximum(of_steepness, through)
    return TargetError(of_psi + jump, steepness, np.where(sine > 2.0 * of_theta, of_steepness + kink / safe, UNKNOWN))


def chord_error(head: Head, settings: margin.Settings, upstream: Array, unknown: Any, a: Arithmetic) -> Array:
    """Error of the target's own terms (N, D), for rows of unit length, from s |g_y| (N,).

    An angle by its chords, 2 atan2(|x - w|, |x + w|), has the gradient [cot(θ/2) (x - w) - tan(θ/2) (x + w)] / 2. Its
    terms' magnitudes add up to (|x| + |w|) / sin θ, and x's cancel at π/2; cos(θ + m) by the addition formula has such
    terms too. A direction that the dtype does not know is off by a turn at most, and what ψ' makes of it.
    """
    if (settings.m1 == 1.0 and settings.m2 == 0.0) or settings.gradient == "detached":
        return np.zeros_like(head.x)
    most = max(settings.m1, 1.0)
    steep = most / np.maximum(np.sin(head.theta), a.u)
    terms = np.abs(head.x) + np.abs(head.w[head.y])
    projected = terms + np.abs(head.x) * (np.abs(head.x) * terms).sum(axis=1, keepdims=True)
    rounded = CHORDS * a.u * (upstream * steep)[:, None] * projected
    return np.asarray(rounded + np.where(unknown, 4.0 * most**2 * upstream, 0.0)[:, None])


# ------------------------------------------------------------------------------------------- log softmax, cross entropy


def cross_entropy_error(rows: Rows, dz: Array, a: Arithmetic) -> tuple[Array, Array]:
    """Error of the loss of each row (N,), and of its gradient in the logits (N, C), given the error of the logits.

    Targets count with their magnitudes: what those of both signs make may cancel, and its error does not. What is
    relative to a confident target's loss is more than a stable log p has elsewhere: there that counts.
    """
    if a.log_p == "relative":
        stable = cross_entropy_error(rows, dz, a._replace(log_p="stable"))
        of_loss, of_g = _relative_error(rows, dz, a)
        return np.minimum(of_loss, stable[0]), np.minimum(of_g, stable[1])
    z, p, t = rows.z, rows.p, np.abs(rows.t)
    total = t.sum(axis=1, keepdims=True)
    classes = a.sum_of(z.shape[1])
    known = np.isfinite(z)
    largest, gap, spread = _gaps(rows)
    of_loss, of_p = _passed_on(rows, dz)
    several = (np.count_nonzero(t, axis=1, keepdims=True) > 1) * 1.0  # then targets too are rounded and added up
    log_sum = np.log(np.exp(-np.where(known, gap, np.inf)).sum(axis=1, keepdims=True))
    evaluated = total * (classes + 3.0 + spread + 2.0 * log_sum)
    evaluated += (t * (2.0 * gap + log_sum)).sum(axis=1, keepdims=True)
    of_loss += a.u * (evaluated[:, 0] + (1.0 + several[:, 0] * (classes + 1.0)) * rows.terms)
    of_p += a.u * p * (2.0 * (gap + log_sum) + classes + 5.0 + spread)  # exp of a difference of a difference
    of_total = several * (classes + 2.0) * total * p
    if a.log_p == "working":  # logsumexp and z_y are rounded, and exp of their difference is the probability
        size = np.abs(largest + log_sum)
        terms = (t * np.abs(np.where(known, z, 0.0))).sum(axis=1)
        of_loss += a.u * (total * size)[:, 0] + a.u * (1.0 + several[:, 0] * (classes + 2.0)) * terms
        of_p += p * np.expm1(np.minimum(a.u * size, 40.0))
    of_g = total * of_p + a.u * ((1.0 + 2.0 * several) * t + np.abs(rows.g) + of_total)
    # A maximum that is not detached has a gradient too, the sum of the row's: 0, but for the rounding of each term and
    # of the sum. It comes to the largest logit. What logits are off by moves no sum of probabilities.
    largest_reach = gap <= 2.0 * dz.max(axis=1, keepdims=True)
    through = a.lost(z.shape[1], 2.0 * total, 0.0 * total) + 8.0 * a.u * total
    of_g += np.where(largest_reach & known, through, 0.0)
    if a.log_p != "working":  # of one class alone p = 1 and log p = 0, by any formula that shifts by the maximum
        alone = np.count_nonzero(known, axis=1, keepdims=True) == 1
        of_loss, of_g = np.where(alone[:, 0], 0.0, of_loss), np.where(alone, 0.0, of_g)
    return of_loss + a.smallest, of_g + a.smallest


def _gaps(rows: Rows) -> tuple[Array, Array, Array]:
    """The largest logit, how far the others lie below it, and the mean of that."""
    largest = rows.z.max(axis=1, keepdims=True)
    gap = np.where(np.isfinite(rows.z), largest - rows.z, 0.0)
    return largest, gap, (rows.p * gap).sum(axis=1, keepdims=True)


def _passed_on(rows: Rows, dz: Array) -> tuple[Array, Array]:
    """What errors of the logits make of the loss of each row and of the probabilities."""
    p, total = rows.p, np.abs(rows.t).sum(axis=1, keepdims=True)
    wide = np.where(dz > 1e-3, np.expm1(np.minimum(2.0 * dz, 40.0)) / 2.0, dz)  # beyond first order
    moved = (p * wide).sum(axis=1, keepdims=True)
    of_loss = (np.abs(rows.g) * dz).sum(axis=1) + (total * p * wide**2).sum(axis=1)
    return of_loss, p * (rows.q * wide + np.maximum(moved - p * wide, 0.0))


def _relative_error(rows: Rows, dz: Array, a: Arithmetic) -> tuple[Array, Array]:
    """As `cross_entropy_error`, where -log p is the gap and a log1p, 1 - p a sum: each keeps its own digits."""
    p, t = rows.p, np.abs(rows.t)
    total = t.sum(axis=1, keepdims=True)
    classes = a.sum_of(rows.z.shape[1]) + 6.0
    _, gap, spread = _gaps(rows)
    of_loss, of_p = _passed_on(rows, dz)
    others = np.where(gap > 0.0, gap, 0.0).max(axis=1, keepdims=True, initial=0.0, where=p > a.smallest)
    of_loss += a.u * ((classes + others[:, 0]) * rows.terms)
    own = (classes + others) * t * rows.q + (classes + gap + spread) * p * np.abs(total - t)
    return of_loss + a.smallest, total * of_p + a.u * own + a.smallest


# ----------------------------------------------------------------------------------------------------------- normalize


class Side(NamedTuple):
    """One of the two inputs of the cosines, as the gradient of its directions sees it."""

    own: Array
    """Unit rows (R, D)."""
    other: Array
    """Unit rows of the other input (S, D)."""
    cosines: Array
    """(R, S)."""
    lengths: Array
    """(R,)."""


def normalize_error(
    side: Side, upstream: Array, of_upstream: Array, own: float, a: Arithmetic, tangent: Array | float = 0.0
) -> Array:
    """Error of the gradient of rows, from dL/dcos (R, S) and its error: two products, the projection, the length.

    ``own`` is what the truth itself may be off by, relative to the terms of a row; ``tangent`` (R, 1) what terms have
    along their row that an angle by its chords gives at right angles to it, so that it cancels with nothing there.
    """
    d = a.sum_of(side.own.shape[1])
    most = np.abs(upstream) + of_upstream  # what it may be: on a boundary, far more than it is
    exact, inner, more = upstream @ side.other, np.abs(side.own), of_upstream @ np.abs(side.other)
    radial = (exact * side.own).sum(axis=1, keepdims=True)
    whole = np.maximum(np.abs(exact), np.abs(exact - tangent * side.own)) + more
    along = np.maximum(np.abs(radial), np.abs(radial - tangent)) + (inner * more).sum(axis=1, keepdims=True)
    passed, truth = np.empty_like(whole), np.empty_like(radial)
    for row, (unit, cosines) in enumerate(zip(side.own, side.cosines, strict=True)):
        tangents = np.abs(side.other - cosines[:, None] * unit)  # (S, D), a row at a time
        passed[row] = (of_upstream[row] + (d / 2.0 + 1.0) * a.u * most[row]) @ tangents
        truth[row] = np.abs(upstream[row]) @ np.linalg.norm(tangents, axis=1)
    terms = most @ np.abs(side.other)
    product = a.lost(side.other.shape[0], terms, whole) + 2.0 * (a.u + a.factor) * terms
    error = passed + product + inner * (inner * product).sum(axis=1, keepdims=True)
    size = (whole * inner).sum(axis=1, keepdims=True)
    error += inner * (a.lost(side.own.shape[1], size, along) + a.u * (2.0 * size + (d + 6.0) * along))
    error += a.u * (whole + inner * along) + (d / 2.0 + 2.0) * a.u * (np.abs(exact - radial * side.own) + more)
    error += (side.other.shape[0] + 2.0) * a.smallest  # each product may be flushed to 0
    return np.asarray((error + own * truth) / side.lengths[:, None])


def scale_error(g: Array, error: Array, head: Head, of_f: Array, own: float, a: Arithmetic) -> Array:
    """Error of the gradient along x̂, where the length of the embedding is the scale (N, 1)."""
    d, f = a.sum_of(head.x.shape[1]), np.abs(head.f)
    terms = (np.abs(g) * f).sum(axis=1, keepdims=True)
    along = np.abs((g * head.f).sum(axis=1, keepdims=True))
    passed = (error * f + np.abs(g) * of_f).sum(axis=1, keepdims=True)
    summed = a.lost(g.shape[1], terms, along)
    return np.asarray(passed + summed + (a.u + own) * terms + (d / 2.0 + 5.0) * a.u * along)


# ------------------------------------------------------------------------------------------------------------- triplet


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
        """Of the positive and of the negative from the anchor (N,)."""
        power = 1.0 if self.squared else 0.5
        return (self.positive**2).sum(axis=1) ** power, (self.negative**2).sum(axis=1) ** power


def triplet_error(triplets: Triplets, own: float, a: Arithmetic) -> tuple[Array, dict[str, Array]]:
    """Error of the loss of each row (N,), and of its gradients in positive and negative (N, D).

    Where the dtype does not tell whether the margin is kept, either slope of the hinge will do; where points coincide,
    the plain distance has any vector of length 1 for a slope. A margin that is kept gives exactly 0.
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
