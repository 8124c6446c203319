r"""How far a correct implementation in a given dtype may be from the truth: for these inputs, entry by entry.

A first-order analysis of the forward error of every step of the picture. All magnitudes are those of the true values,
and every rounding is at its worst. Symbols are those of the stages, and K_n is what a sum of n terms of one sign may
lose in units of u: n, or less where sums are accumulated in a wider dtype. Where signs differ, no partial sum is larger
than the positive terms together, or the negative ones: see `Arithmetic.lost`.

What counts as correct: any order of summation; cosines from rounded directions; an angle within a few u, as atan2
gives it (arccos is as good for angles that are not small); cos mθ from the angle or as a polynomial in cos θ; absolute
accuracy of log p, as log-softmax usually has it. What does not: an arccos near 0 or π, where it loses digits that
atan2 keeps. By the standard "relative" a confident target's loss and gradient have to be right however small they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refloss.error_free import Array, Pair
from refloss.stages import angle, cross_entropy, log_softmax, margin, softmax

HALF_OF = {"float16": 11, "bfloat16": 8, "tf32": 11, "float32": 24, "float64": 53}
"""Bits of a significand: u is 2 to minus that."""
SMALLEST = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}
UNKNOWN = 1e30
"""Error of a direction that the dtype does not know: an angle of less than a few u, or as near to π."""
OWN = 8.0 * 2.0**-53
"""What the truth, by engine "dd", may itself be off by, relative to a value and to the terms of a gradient's row."""
POLYNOMIALS = 8
"""Up to this whole m, cos mθ as a polynomial in cos θ counts as a correct way to compute it."""


class Arithmetic(NamedTuple):
    """What an implementation computes with."""

    u: float
    """Unit roundoff of the numbers it stores."""
    accumulated: float
    """Unit roundoff of its sums."""
    factor: float
    """Relative error of a factor of a matrix product before it is multiplied; 0 where none is rounded."""
    smallest: float
    """Smallest normal number: what lies below may be flushed to 0."""
    relative: bool = False
    """Whether log p has to be right relative to itself, however small."""

    def sum_of(self, n: int) -> float:
        """K_n."""
        return n * self.accumulated / self.u

    def lost(self, n: int, terms: Array, whole: Array) -> Array:
        """What a sum of n products may be off by, given the sum of their magnitudes and the magnitude of their sum.

        Each product is rounded, and each of the n - 1 partial sums: in any order it is at most the larger of the sum of
        the positive products and that of the negative ones, which is half of terms + whole.
        """
        return np.asarray(self.accumulated * ((n - 1) * (terms + whole) / 2.0 + terms))


def arithmetic(
    dtype: str, accumulate: str | None = None, matmul: str | None = None, standard: str = "working"
) -> Arithmetic:
    """Describe an arithmetic by the names of its dtypes."""
    u = 2.0 ** -HALF_OF[dtype]
    wide = accumulate or ("float32" if dtype in ("float16", "bfloat16") else dtype)
    factor = 2.0 ** -HALF_OF[matmul] if matmul else 0.0
    if standard not in ("working", "relative"):
        raise ValueError(f"standard: expected 'working' or 'relative'; got {standard!r}")
    return Arithmetic(u, min(u, 2.0 ** -HALF_OF[wide]), factor, SMALLEST[dtype], standard == "relative")


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
    def total(self) -> Array:
        """T, the sum of the targets of a row (N, 1)."""
        return np.asarray(self.t.sum(axis=1, keepdims=True))

    @property
    def g(self) -> Array:
        """dL_n/dz = p (T - t) - t q (N, C)."""
        return np.asarray(self.p * (self.total - self.t) - self.t * self.q)


def of_cosines(head: Head, a: Arithmetic) -> Array:
    """Error of every cosine: products and their sum, rounded entries and lengths, the result."""
    d = head.x.shape[1]
    terms, whole = np.abs(head.x) @ np.abs(head.w).T, np.abs(head.c)
    return a.lost(d, terms, whole) + 2.0 * (a.u + a.factor) * terms + a.u * (a.sum_of(d) + 3.0) * whole


class Target(NamedTuple):
    """Errors of the target's curve (N,)."""

    psi: Array
    """Of ψ."""
    steepness: Array
    """|dψ/dcos θ|, as the gradient convention has it."""
    of_steepness: Array
    """Its error."""


def of_angle(theta: Array, d: float, a: Arithmetic) -> Array:
    """Error of the target's angle, of two lengths by atan2, given K_D.

    Rounded entries turn a direction by an absolute amount, a sum of squares a length by a relative one; and unit rows
    whose lengths differ by δ are at least δ apart.
    """
    apart, aside = a.u * (d + 2.0), np.minimum(theta, np.pi - theta)
    crooked = apart**2 / np.maximum(np.hypot(aside, apart) + aside, SMALLEST["float64"])
    return np.asarray(a.u * ((d + 4.0) * np.sin(theta) + 4.0 + 3.0 * theta) + crooked)


def of_polynomial(m: float, cos: Array) -> tuple[Array, Array]:
    """Rounding error of cos mθ as a polynomial in cos θ, and of its derivative, in units of u.

    Its coefficients alternate in sign, so their magnitudes add up to it at i cos θ. Horner takes m + 1 roundings.
    """
    c = np.abs(cos)
    root = np.hypot(c, 1.0)
    up, down = (c + root) ** m, (c - root) ** m
    return (m + 2.0) * np.abs(up + down) / 2.0, (m + 2.0) * m * np.abs(up - down) / (2.0 * root)


def of_target(head: Head, settings: margin.Margin, cosine: Array, a: Arithmetic) -> Target:
    """Error of ψ and of dψ/dcos θ, by way of the angle or of the cosine, whichever loses more; jumps within reach."""
    theta, sine = head.theta, np.sin(head.theta)
    by_cosine = np.minimum(cosine / np.maximum(sine, 1e-300), np.sqrt(2.0 * cosine))
    of_theta = of_angle(theta, a.sum_of(head.x.shape[1]), a)
    curve = margin.curve_of(settings._replace(gradient="exact"))
    eased = settings.annealing / (1.0 + settings.annealing)
    bend = eased + (1.0 - eased) * max(1.0, settings.m1**2)

    reach = 4.0 * np.maximum(of_theta, by_cosine)
    near = np.clip(np.stack([theta, theta - reach, theta + reach]), 0.0, np.pi)
    here, *beside = (margin.turned(angle.of(place), settings) for place in near)
    at, slope = curve.psi(here), curve.slope(here).hi
    psi, moved = at.hi, near[1:] - theta
    apart = np.stack([(curve.psi(there) - at).hi for there in beside])  # in pairs: roundings are no leaps
    leap = np.abs(apart - slope * moved) > 0.6 * bend * moved**2  # a smooth curve keeps to half of that
    jump = np.where(leap, np.abs(apart) + np.abs(slope * moved) + bend * moved**2, 0.0).max(axis=0)

    on_cosine = settings.m1 == 1.0 and settings.m2 == 0.0
    polynomial = settings.m2 == 0.0 and settings.m1 == int(settings.m1) and settings.m1 <= POLYNOMIALS
    evaluated = 4.0 + 2.0 * np.abs(psi) + 2.0 * np.abs(slope) * (theta + settings.m2) + settings.m3 + settings.m2
    of_psi = np.abs(slope) * of_theta + bend * of_theta**2 / 2.0 + a.u * (evaluated + 3.0 * eased)
    terms, of_terms = of_polynomial(settings.m1, np.cos(theta)) if polynomial else (theta, theta)
    if on_cosine:
        of_psi = cosine + a.u * (3.0 + 2.0 * np.abs(psi) + settings.m3)
    elif polynomial:
        sum_of_terms = (1.0 - eased) * terms + 3.0 * eased + 2.0 * np.abs(psi)
        of_psi = np.maximum(of_psi, np.abs(slope) * by_cosine + bend * by_cosine**2 / 2.0 + a.u * sum_of_terms)
    if on_cosine or settings.gradient == "detached":
        return Target(of_psi + jump, np.ones_like(psi), np.full_like(psi, 4.0 * a.u))

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
    return Target(of_psi + jump, steepness, np.where(sine > 2.0 * of_theta, of_steepness + kink / safe, UNKNOWN))


def of_rows(rows: Rows, dz: Array, a: Arithmetic) -> tuple[Array, Array]:
    """Error of the loss of each row (N,), and of its gradient in the logits (N, C), given the error of the logits."""
    z, p, q, t, total = rows.z, rows.p, rows.q, rows.t, rows.total
    classes = a.sum_of(z.shape[1])
    known = np.isfinite(z)
    largest = z.max(axis=1, keepdims=True)
    gap = np.where(known, largest - z, 0.0)
    spread = (p * gap).sum(axis=1, keepdims=True)
    wide = np.where(dz > 1e-3, np.expm1(np.minimum(2.0 * dz, 40.0)) / 2.0, dz)  # beyond first order
    moved = (p * wide).sum(axis=1, keepdims=True)
    of_loss = (np.abs(rows.g) * dz).sum(axis=1) + (total * p * wide**2).sum(axis=1) + a.smallest
    of_p = p * (q * wide + np.maximum(moved - p * wide, 0.0))
    if a.relative:  # -log p is the gap and a log1p, 1 - p a sum: each keeps its own digits
        others = np.where(gap > 0.0, gap, 0.0).max(axis=1, keepdims=True, initial=0.0, where=p > a.smallest)
        with np.errstate(invalid="ignore"):
            terms = np.where(t == 0.0, 0.0, t * rows.minus_log_p)
        of_loss += a.u * ((classes + 6.0 + others[:, 0]) * terms.sum(axis=1))
        own = (classes + 6.0 + others) * t * q + (classes + 6.0 + gap + spread) * p * np.abs(total - t)
        return of_loss, total * of_p + a.u * own + a.smallest
    several = (np.count_nonzero(t, axis=1, keepdims=True) > 1) * 1.0  # then targets too are rounded and added up
    log_sum = np.log(np.exp(-np.where(known, gap, np.inf)).sum(axis=1, keepdims=True))
    evaluated = total * (classes + 3.0 + spread + 2.0 * log_sum)
    evaluated += (t * (2.0 * gap + log_sum)).sum(axis=1, keepdims=True)
    of_loss += a.u * (evaluated[:, 0] + (1.0 + several[:, 0] * (classes + 1.0)) * np.abs(rows.loss))
    of_p += a.u * p * (2.0 * (gap + log_sum) + classes + 5.0 + spread)  # exp of a difference of a difference
    of_total = several * (classes + 2.0) * total * p
    return of_loss, total * of_p + a.u * ((1.0 + 2.0 * several) * np.abs(t) + np.abs(rows.g) + of_total) + a.smallest


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


def of_side(side: Side, upstream: Array, of_upstream: Array, a: Arithmetic) -> Array:
    """Error of the gradient of rows, from dL/dcos (R, S) and its error: two products, the projection, the length."""
    d = a.sum_of(side.own.shape[1])
    most = np.abs(upstream) + of_upstream  # what it may be: on a boundary, far more than it is
    exact, inner, more = upstream @ side.other, np.abs(side.own), of_upstream @ np.abs(side.other)
    radial = (exact * side.own).sum(axis=1, keepdims=True)
    whole, along = np.abs(exact) + more, np.abs(radial) + (inner * more).sum(axis=1, keepdims=True)
    passed, own = np.empty_like(whole), np.empty_like(radial)
    for row, (unit, cosines) in enumerate(zip(side.own, side.cosines, strict=True)):
        tangents = np.abs(side.other - cosines[:, None] * unit)  # (S, D), a row at a time
        passed[row] = (of_upstream[row] + (d / 2.0 + 1.0) * a.u * most[row]) @ tangents
        own[row] = np.abs(upstream[row]) @ np.linalg.norm(tangents, axis=1)
    terms = most @ np.abs(side.other)
    product = a.lost(side.other.shape[0], terms, whole) + 2.0 * (a.u + a.factor) * terms
    error = passed + product + inner * (inner * product).sum(axis=1, keepdims=True)
    size = (whole * inner).sum(axis=1, keepdims=True)
    error += inner * (a.lost(side.own.shape[1], size, along) + a.u * (2.0 * size + (d + 6.0) * along))
    error += a.u * (whole + inner * along) + (d / 2.0 + 2.0) * a.u * (np.abs(exact - radial * side.own) + more)
    return np.asarray((error + OWN * own) / side.lengths[:, None])


# ------------------------------------------------------------------------------------------------------------- together


class Budget(NamedTuple):
    """What a correct implementation may be off by, absolutely."""

    value: Array
    """Of the value: 0-d, or (N,) for reduction="none"."""
    gradient: Any
    """Of every entry of the gradients, in the loss's own named tuple."""


def budget(
    loss: Any,
    *inputs: Any,
    dtype: str | None = None,
    accumulate: str | None = None,
    matmul: str | None = None,
    upstream: Any = None,
    standard: str = "working",
) -> Budget:
    """Return the allowed absolute error of the value and of every entry of the gradients of a correct implementation.

    Parameters
    ----------
    loss
        Any loss of refloss.
    inputs
        What the loss is called with, as numbers of the dtype; they count as exact.
    dtype
        "float16", "bfloat16", "float32" or "float64": what is stored. It may also stand last among the inputs.
    accumulate
        A wider dtype of sums. Left out: float32 for the half precisions, the dtype itself for the others.
    matmul
        "tf32", "bfloat16" or "float16", where matrix products round their factors to that.
    upstream
        Gradient of what comes after, as in ``value_and_grad``.
    standard
        "working", absolute accuracy of log p as good frameworks have it, or "relative", that of tiny losses too.

    Returns
    -------
    Budget
        In the shapes of value and gradients.
    """
    if dtype is None:
        *inputs, dtype = inputs  # type: ignore[assignment]
    if not isinstance(dtype, str) or dtype not in SMALLEST:
        raise ValueError(f"dtype: expected one of {sorted(SMALLEST)}; got {dtype!r}")
    found = arithmetic(dtype, accumulate, matmul, standard)
    _, gradient = loss.value_and_grad(*inputs, upstream=upstream)
    value, errors = bounds(loss, inputs, found, upstream)
    return Budget(value, gradient._replace(**errors))


def truth(loss: Any, inputs: Any, upstream: Any = None) -> tuple[Any, Any]:
    """Return the value and the gradients that budgets are about, which are off by `OWN` at most."""
    value, gradient = loss.value_and_grad(*inputs, upstream=upstream, engine="dd")
    return value, gradient


def bounds(loss: Any, inputs: Any, a: Arithmetic, upstream: Any = None) -> tuple[Array, dict[str, Array]]:
    """As `budget`, the gradients by name."""
    value, errors = _HEADS[loss.spec.head](loss, [np.asarray(entry) for entry in inputs], a, upstream)
    return np.asarray(value), errors


class _Counting(NamedTuple):
    """Rows that count, their targets, and what each of them weighs in the value."""

    kept: Any
    y: Any
    t: Array
    coefficient: Array
    weight: Array


def _counting(loss: Any, y: Any, classes: int, upstream: Any) -> _Counting:
    settings = loss.spec.cross_entropy
    kept = cross_entropy.kept(y, settings)
    some = y[kept]
    weights = cross_entropy.weights(some, classes, settings)
    t, divisor = cross_entropy.targets(some, weights, settings.label_smoothing)
    above = np.asarray(1.0 if upstream is None else upstream, dtype=np.float64)
    above = above[kept] if above.ndim else above
    weight = cross_entropy.coefficient(np.float64(1.0), settings.reduction, divisor, len(some))
    return _Counting(kept, some, t, cross_entropy.coefficient(above, settings.reduction, divisor, len(some)), weight)


def _reduced(loss: Any, rows: Rows, of_loss: Array, counting: _Counting, a: Arithmetic) -> Array:
    """Error of the value, from those of the rows."""
    if loss.reduction == "none":
        whole = np.full(len(counting.kept), a.smallest)
        whole[counting.kept] = of_loss + OWN * np.abs(rows.loss)
        return whole
    n = a.sum_of(len(of_loss)) + 2.0
    return np.asarray(((of_loss + (n * a.u + OWN) * np.abs(rows.loss)) * counting.weight).sum() + a.smallest)


def _spread(part: Array, kept: Any, a: Arithmetic) -> Array:
    """Rows put back; an ignored row has gradient 0, which nobody may miss."""
    whole = np.full((len(kept), *part.shape[1:]), a.smallest)
    whole[kept] = part + a.smallest
    return whole


def _rows(z: Array, t: Array) -> Rows:
    p, saved = softmax.forward(Pair.of(z))
    log_p, _ = log_softmax.forward(Pair.of(z))
    return Rows(z, p, saved.q, t, -log_p)


def _on_logits(loss: Any, inputs: list[Any], a: Arithmetic, upstream: Any) -> tuple[Array, dict[str, Array]]:
    z, y = inputs
    shape, classes = z.shape, z.shape[-1]
    labels = y.reshape(-1, classes) if y.ndim == z.ndim else y.reshape(-1)
    above = np.asarray(1.0 if upstream is None else upstream)
    counting = _counting(loss, labels, classes, above.reshape(-1) if above.ndim else above)
    rows = _rows(z.reshape(-1, classes).astype(np.float64)[counting.kept], counting.t)
    of_loss, of_g = of_rows(rows, np.zeros_like(rows.z), a)
    value = _reduced(loss, rows, of_loss, counting, a)
    scale = np.abs(counting.coefficient)[:, None]
    error = _spread(scale * (of_g + (3.0 * a.u + OWN) * np.abs(rows.g)), counting.kept, a)
    return value.reshape(shape[:-1]) if loss.reduction == "none" else value, {"z": error.reshape(shape)}


def _linear(loss: Any, inputs: list[Any], a: Arithmetic, upstream: Any) -> tuple[Array, dict[str, Array]]:
    x, w, y, *bias = inputs
    counting = _counting(loss, y, len(w), upstream)
    x, w = x.astype(np.float64)[counting.kept], w.astype(np.float64)
    b = bias[0].astype(np.float64) if bias else np.zeros(len(w))
    z = x @ w.T + b
    terms = np.abs(x) @ np.abs(w).T
    of_z = a.lost(x.shape[1], terms, np.abs(z - b)) + 2.0 * a.factor * terms + a.u * (np.abs(b) + np.abs(z))
    rows = _rows(z, counting.t)
    of_loss, of_g = of_rows(rows, of_z, a)
    scale = np.abs(counting.coefficient)[:, None]
    g, error = scale * rows.g, scale * (of_g + 3.0 * a.u * np.abs(rows.g))

    def product(upstream: Array, of_upstream: Array, other: Array) -> Array:
        terms, whole = np.abs(upstream) @ np.abs(other), np.abs(upstream @ other)
        own = np.abs(upstream) @ np.linalg.norm(other, axis=1, keepdims=True)
        rounded = a.lost(len(other), terms, whole) + (a.u + 2.0 * a.factor) * terms
        return np.asarray(of_upstream @ np.abs(other) + rounded + OWN * own)

    errors = {
        "x": _spread(product(g, error, w), counting.kept, a),
        "w": product(g.T, error.T, x) + a.smallest,
    }
    if bias:
        errors["b"] = product(g.T, error.T, np.ones((len(x), 1)))[:, 0] + a.smallest
    return _reduced(loss, rows, of_loss, counting, a), errors


def _margin(loss: Any, inputs: list[Any], a: Arithmetic, upstream: Any) -> tuple[Array, dict[str, Array]]:
    x, w, y = inputs
    counting = _counting(loss, y, len(w), upstream)
    steps = loss.trace(x[counting.kept], w, counting.y)
    z = steps["logits"].output
    head = _head(steps, counting.y, loss.spec.scale)
    of_f = of_cosines(head, a)
    each = np.arange(len(z))
    target = of_target(head, loss.spec.margin, of_f[each, counting.y], a)
    of_f[each, counting.y] = target.psi
    length = (a.sum_of(x.shape[1]) / 2.0 + 1.0) * a.u if loss.spec.scale is None else 0.0
    scale = head.scale[:, None]
    rows = _rows(z, counting.t)
    of_loss, of_g = of_rows(rows, scale * (of_f + (a.u + length) * np.abs(head.f)), a)

    above = np.abs(counting.coefficient)[:, None]
    g, error = counting.coefficient[:, None] * rows.g, above * (of_g + 3.0 * a.u * np.abs(rows.g))
    steepness, of_steepness = np.ones_like(g), np.zeros_like(g)
    steepness[each, counting.y], of_steepness[each, counting.y] = target.steepness, target.of_steepness
    sign = np.ones_like(g)
    sign[each, counting.y] = np.where(loss.target_slope(head.theta) > 0.0, -1.0, 1.0)
    upward = scale * g * steepness * sign
    # On a boundary neither error is small, and their product counts.
    of_upward = scale * (steepness * error + (np.abs(g) + error) * of_steepness)
    of_upward += (2.0 * a.u + length) * np.abs(upward)
    to_x = of_side(Side(head.x, head.w, head.c, head.length_x), upward, of_upward, a)
    to_w = of_side(Side(head.w, head.x, head.c.T, head.length_w), upward.T, of_upward.T, a)
    if loss.spec.scale is None:
        to_x = to_x + np.abs(head.x) * _radial(g, error, head, of_f, a)
    value = _reduced(loss, rows, of_loss, counting, a)
    return value, {"x": _spread(to_x, counting.kept, a), "w": to_w + a.smallest}


def _head(steps: Any, y: Any, s: float | None) -> Head:
    (x, length_x), (w, length_w) = steps["normalize_x"].output, steps["normalize_w"].output
    f = steps["cosine"].output.copy()
    f[np.arange(len(y)), y] = steps["margin"].output
    scale = length_x if s is None else np.full(len(y), s)
    return Head(x, w, length_x, length_w, steps["cosine"].output, f, steps["angle"].output, y, scale)


def _radial(g: Array, error: Array, head: Head, of_f: Array, a: Arithmetic) -> Array:
    """Error of the gradient along x̂, where the length of the embedding is the scale (N, 1)."""
    d, f = a.sum_of(head.x.shape[1]), np.abs(head.f)
    terms = (np.abs(g) * f).sum(axis=1, keepdims=True)
    along = np.abs((g * head.f).sum(axis=1, keepdims=True))
    passed = (error * f + np.abs(g) * of_f).sum(axis=1, keepdims=True)
    summed = a.lost(g.shape[1], terms, along)
    return np.asarray(passed + summed + (a.u + OWN) * terms + (d / 2.0 + 5.0) * a.u * along)


def _triplet(loss: Any, inputs: list[Any], a: Arithmetic, upstream: Any) -> tuple[Array, dict[str, Array]]:
    anchor, positive, negative = (entry.astype(np.float64) for entry in inputs)
    power, d = (1.0 if loss.squared else 0.5), a.sum_of(anchor.shape[1])
    apart = {"positive": anchor - positive, "negative": anchor - negative}
    near, far = ((v**2).sum(axis=1) ** power for v in apart.values())
    violation = near - far + loss.m
    of_violation = a.u * ((d * power + 4.0) * (near + far) + np.abs(near - far) + loss.m + np.abs(violation))
    reached = violation > -of_violation
    above = np.asarray(1.0 if upstream is None else upstream, dtype=np.float64)
    above = np.abs(above / len(anchor) if loss.reduction == "mean" else above) * np.ones(len(anchor))
    undecided = (np.abs(violation) <= of_violation)[:, None]  # either slope of the hinge will do
    errors = {}
    for name, v in apart.items():
        length = np.sqrt((v**2).sum(axis=1, keepdims=True))
        slope = 2.0 * np.abs(v) if loss.squared else np.abs(v) / np.where(length == 0.0, 1.0, length)
        allowed = (d / 2.0 + 6.0) * a.u * slope + np.where(undecided, slope, 0.0)
        allowed += 0.0 if loss.squared else (length == 0.0) * 1.0  # any vector of length 1 is a slope there
        allowed += OWN * np.linalg.norm(slope, axis=1, keepdims=True)
        errors[name] = above[:, None] * np.where(reached[:, None], allowed, 0.0) + a.smallest
    errors["anchor"] = errors["positive"] + errors["negative"]
    rows = np.where(reached, of_violation + OWN * np.abs(violation), 0.0) + a.smallest
    if loss.reduction == "none":
        return rows, errors
    n = a.sum_of(len(rows)) + 2.0
    whole = (rows + n * a.u * np.maximum(violation, 0.0)).sum()
    return np.asarray(whole / len(rows) if loss.reduction == "mean" else whole), errors


_HEADS = {"logits": _on_logits, "linear": _linear, "margin": _margin, "triplet": _triplet}
