r"""Margin: what makes one loss of the family different from another. A curve ψ of the target's angle.

Symbols: θ the target's angle; margins m1 (multiplies), m2 (adds to the angle), m3 (lowers the cosine); φ = m1 θ + m2;
ψ the value that replaces cos θ of the target; s the scale, applied later. One function covers the family; what public
code does past φ = π, annealing and gradient conventions are functions from one curve to another, so they compose.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import PI, Array, Numbers, Pair, expansion, sin_cos, where
from refloss.fixed_point import Turned, settled
from refloss.stages.angle import Angle

Mask: TypeAlias = NDArray[np.bool_]


class Margin(NamedTuple):
    """The settings of a curve."""

    m1: float = 1.0
    m2: float = 0.0
    m3: float = 0.0
    boundary: str = "none"
    annealing: float = 0.0
    gradient: str = "exact"


class Target(NamedTuple):
    """The target's angle, and the same angle with its margin on (N,)."""

    theta: Angle
    """θ, cos θ, sin θ."""
    cos: Pair
    """cos φ."""
    sin: Pair
    """sin φ, exactly 0 where φ is a multiple of π, and right relative to itself next to one."""
    folds: Array
    """How many multiples of π lie below φ."""
    turned: Callable[[int, int], Turned]
    """θ and φ of a row, to a number of bits."""


class Curve(NamedTuple):
    """A function of the target's angle and its derivative, in pairs (N,)."""

    psi: Callable[[Target], Pair]
    """ψ(θ)."""
    slope: Callable[[Target], Pair]
    """ψ'(θ) = dψ/dθ, per radian."""


class Rule(NamedTuple):
    """A row of the table of boundary rules: a condition, and what holds beyond it."""

    beyond: Callable[[Target, Margin], Mask]
    """Where the margin itself no longer holds."""
    curve: Callable[[Margin], Curve]
    """The curve that holds there instead."""


class Saved(NamedTuple):
    """What backward needs."""

    slope: Numbers
    """ψ'(θ) (N,)."""


def turned(theta: Angle, margin: Margin) -> Target:
    """Add the angle φ = m1 θ + m2.

    A whole m1 multiplies cos θ + i sin θ with itself: a sine near θ = 0 and θ = π then keeps the relative accuracy that
    sin θ has. Next to other multiples of π a sine is what two numbers leave that almost cancel: see `resolved`. The
    side of a multiple on which φ lies is the sign of its sine.
    """
    phi = theta.theta * margin.m1 + margin.m2
    if margin.m1 == int(margin.m1):
        cos, sin = theta.cos, theta.sin
        for _ in range(int(margin.m1) - 1):
            cos, sin = _rotated(cos, sin, theta.cos, theta.sin)
        size = theta.sin.hi * margin.m1 + margin.m2
    else:
        sin, cos = sin_cos(theta.theta * margin.m1)
        size = phi.hi
    if margin.m2:
        sin_m2, cos_m2 = _sin_cos_of(margin.m2)
        cos, sin = _rotated(cos, sin, cos_m2, sin_m2)

    def exactly(n: int, bits: int) -> Turned:
        return Turned(theta.exactly(n), margin.m1, margin.m2, bits)

    sin = resolved(sin, size, exactly, lambda at: at.sin_phi)
    nearest = np.rint(phi.hi / PI.hi)
    beyond = sin.hi * (1.0 - 2.0 * (nearest % 2.0)) > 0.0
    return Target(theta, cos, sin, np.maximum(np.where(beyond, nearest, nearest - 1.0), 0.0), exactly)


def resolved(
    difference: Pair,
    size: Array | float,
    exactly: Callable[[int, int], Turned],
    quantity: Callable[[Turned], int],
    share: float = 2.0**-20,
) -> Pair:
    """Compute again, in fixed point, what is below a share of the size of the numbers that it is a difference of.

    A pair has lost 20 bits there and is good for another 80. Such rows are rare: one of a million random ones.
    """
    lost = np.flatnonzero(np.abs(difference.hi) < share * size)
    if not len(lost):
        return difference
    hi, lo = np.array(difference.hi), np.array(difference.lo)
    for n in lost.tolist():
        exact = settled(lambda bits, n=n: quantity(exactly(n, bits)))  # type: ignore[misc]
        hi.flat[n], lo.flat[n] = expansion(exact, 2)
    return type(difference)(hi, lo)


def _sign(difference: Pair, size: float, t: Target, quantity: Callable[[Turned], int]) -> Array:
    """Return the sign of a difference, of which a pair knows all but 2^-80 of the size."""
    return np.sign(resolved(difference, size, t.turned, quantity, 2.0**-80).hi)


@lru_cache
def _sin_cos_of(m2: float) -> tuple[Pair, Pair]:
    """Sine and cosine of a margin: a batch is called with the same one again and again."""
    return sin_cos(Pair.of(m2))


def _rotated(cos: Pair, sin: Pair, by_cos: Pair, by_sin: Pair) -> tuple[Pair, Pair]:
    return cos * by_cos - sin * by_sin, sin * by_cos + cos * by_sin


def marginal(margin: Margin) -> Curve:
    """The margin itself: cos φ - m3."""
    return Curve(lambda t: t.cos - margin.m3, lambda t: t.sin * -margin.m1)


def lowered(by: Pair | float) -> Curve:
    """A curve lower than cos θ by a constant."""
    return Curve(lambda t: t.theta.cos - by, lambda t: -t.theta.sin)


def flat(at: Pair) -> Curve:
    """A constant."""
    return Curve(lambda t: at + np.zeros(t.cos.shape), lambda t: Pair.of(np.zeros(t.cos.shape)))


def folded(margin: Margin) -> Curve:
    """(-1)^k cos φ - 2k - m3 with k = floor(φ / π): cos φ made to fall for ever (SphereFace, eq. 7)."""

    def sign(t: Target) -> Array:
        return 1.0 - 2.0 * (t.folds % 2.0)

    return Curve(lambda t: t.cos * sign(t) - 2.0 * t.folds - margin.m3, lambda t: t.sin * (-margin.m1 * sign(t)))


def past_pi(t: Target, margin: Margin) -> Mask:
    """φ > π; at φ = π itself the margin still holds."""
    return t.folds > 0.0


def _fallen(margin: Margin) -> Curve:
    return lowered(_sin_cos_of(margin.m2)[0] * margin.m2 + margin.m3)


def _joined(margin: Margin) -> Curve:
    return lowered(sin_cos((PI - margin.m2) / margin.m1)[1] + 1.0 + margin.m3)


def _cos_over(m3: float, t: Target) -> Array:
    """Return the sign of cos θ - m3."""
    return _sign(t.theta.cos - m3, 1.0 + m3, t, lambda at: at.cos - at.of(m3))


def _psi_over_cos(t: Target, margin: Margin) -> Array:
    """Return the sign of cos φ - m3 - cos θ."""
    difference = t.cos - margin.m3 - t.theta.cos
    return _sign(difference, 2.0 + margin.m3, t, lambda at: at.over_cos - at.of(margin.m3))


RULES: dict[str, Rule] = {
    "none": Rule(lambda t, margin: np.zeros(t.theta.cos.shape, np.bool_), marginal),
    "hard": Rule(past_pi, _fallen),
    "easy": Rule(lambda t, margin: _cos_over(0.0, t) <= 0.0, lambda margin: lowered(margin.m3)),
    "keep": Rule(past_pi, lambda margin: lowered(margin.m3)),
    "continuous": Rule(past_pi, _joined),
    "monotone": Rule(past_pi, folded),
    "clamp": Rule(past_pi, lambda margin: flat(Pair.of(-1.0) - margin.m3)),
    "min": Rule(lambda t, margin: _psi_over_cos(t, margin) > 0.0, lambda margin: lowered(0.0)),
    "conditional": Rule(lambda t, margin: _cos_over(margin.m3, t) <= 0.0, lambda margin: lowered(0.0)),
}


def ruled(margin: Margin, curve: Curve) -> Curve:
    """Follow curve up to the boundary of the margin's rule, and the rule's own curve beyond it."""
    rule = RULES[margin.boundary]
    other = rule.curve(margin)
    return Curve(
        lambda t: where(rule.beyond(t, margin), other.psi(t), curve.psi(t)),
        lambda t: where(rule.beyond(t, margin), other.slope(t), curve.slope(t)),
    )


def annealed(weight: float, curve: Curve) -> Curve:
    """(λ cos θ + ψ) / (1 + λ): λ from large to small eases a hard margin in (SphereFace's training schedule)."""
    share = Pair.of(1.0) + weight

    def slope(t: Target) -> Pair:
        hard, easy = curve.slope(t), t.theta.sin * weight
        size = (np.abs(hard.hi) + easy.hi) / share.hi
        return resolved((hard - easy) / share, size, t.turned, rising)

    def rising(at: Turned) -> int:
        """-(m1 sin φ + λ sin θ) / (1 + λ): a slope above 0, and no other cancels, is that of the margin itself."""
        return -((Fraction(at.m1) * at.sin_phi + Fraction(weight) * at.sin) // (1 + Fraction(weight)))

    return Curve(lambda t: (t.theta.cos * weight + curve.psi(t)) / share, slope)


def detached(curve: Curve) -> Curve:
    """The margin taken without gradient: ψ as it is, ψ' := -sin θ (InsightFace since 2022, OpenSphere)."""
    return Curve(curve.psi, lambda t: -t.theta.sin)


def bounded(curve: Curve, low: float = 0.0, high: float = 2.0) -> Curve:
    """Hold dψ/dcos θ = -ψ'/sin θ between two numbers: ψ as it is (happynear's Caffe layer: 0 and 2)."""

    def slope(t: Target) -> Pair:
        steepest, gentlest = t.theta.sin * -high, t.theta.sin * -low
        inner = curve.slope(t)
        inner = where((inner - steepest).hi < 0.0, steepest, inner)
        bound: Pair = where((inner - gentlest).hi > 0.0, gentlest, inner)
        return bound

    return Curve(curve.psi, slope)


def curve_of(margin: Margin) -> Curve:
    """Compose the curve that the settings ask for: the margin, its rule, annealing, the gradient convention."""
    curve = annealed(margin.annealing, ruled(margin, marginal(margin)))
    return detached(curve) if margin.gradient == "detached" else curve


def forward(angle: Angle, margin: Margin) -> tuple[Pair, Saved]:
    r"""Put the margin on the target's angle.

    $$\psi(\theta) = \cos\varphi - m_3, \qquad \varphi = m_1\theta + m_2$$

    inside the boundary of the rule. Beyond it:

    | rule | where | ψ there |
    |---|---|---|
    | `none` | nowhere | |
    | `hard` | φ > π | $\cos\theta - m_2\sin m_2 - m_3$ |
    | `easy` | cos θ ≤ 0 | $\cos\theta - m_3$ |
    | `keep` | φ > π | $\cos\theta - m_3$ |
    | `continuous` | φ > π | $\cos\theta - \cos\frac{\pi - m_2}{m_1} - 1 - m_3$ |
    | `monotone` | φ > π | $(-1)^k\cos\varphi - 2k - m_3$, $k = \lfloor\varphi/\pi\rfloor$ |
    | `clamp` | φ > π | $-1 - m_3$ |
    | `min` | cos φ - m3 > cos θ | $\cos\theta$ |
    | `conditional` | cos θ ≤ m3 | $\cos\theta$ |

    Annealing with weight λ then makes it $(\lambda\cos\theta + \psi)/(1 + \lambda)$. Sources: SphereFace (Liu et al.
    2017, eq. 7), CosFace (Wang et al. 2018, eq. 4), ArcFace (Deng et al. 2019, eqs. 3 and 4); the rules are those found
    in public code.

    Parameters
    ----------
    angle
        The target's angle θ with cos θ and sin θ (N,).
    margin
        Margins (m2 in radians), rule, annealing and gradient convention.

    Returns
    -------
    Pair
        ψ(θ) (N,).
    Saved
        What `backward` needs.
    """
    curve, target = curve_of(margin), turned(angle, margin)
    return curve.psi(target), Saved(curve.slope(target).rounded())


def backward(upstream: Numbers, saved: Saved) -> Numbers:
    r"""Multiply by the slope of the curve.

    $$\frac{\partial L}{\partial\theta} = \frac{\partial L}{\partial\psi}\,\psi'(\theta), \qquad
    \psi'(\theta) = -m_1\sin\varphi \text{ inside the boundary}$$

    Parameters
    ----------
    upstream
        dL/dψ (N,).
    saved
        What `forward` saved.

    Returns
    -------
    Numbers
        dL/dθ (N,).
    """
    return upstream * saved.slope
