r"""Margin: what makes one loss of the family different from another. A curve ψ of the target's angle.

Symbols: θ the target's angle; margins m1 (multiplies), m2 (adds to the angle), m3 (lowers the cosine), each one number
or one number per sample; φ = m1 θ + m2; ψ the value that replaces cos θ of the target; s the scale, applied later. One
function covers the family; what public code does beyond φ = π, annealing and gradient conventions are functions from
one curve to another, so they compose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np

from refloss.error_free import PI, Array, Mask, Numbers, Pair, StageResult, expansion, high, sin_cos, where
from refloss.fixed_point import Turned, pi, settled
from refloss.stages.angle import Angle
from refloss.stages.quality import Quality, pair_of

CosSin: TypeAlias = tuple[Pair, Pair]
PerSample: TypeAlias = float | Array  # one number, or one number per sample (N,)

CONSTANT = Fraction(0), Fraction(0)
"""Margins that are the same for all samples."""


class Settings(NamedTuple):
    """The settings of a curve."""

    m1: PerSample = 1.0
    m2: PerSample = 0.0
    m3: PerSample = 0.0
    boundary: str = "none"
    annealing: float = 0.0
    gradient: str = "exact"
    by_quality: tuple[Fraction, Fraction] = CONSTANT
    """What a sample's number v, if it has one, adds to m2 and to m3, for v = 1."""
    eps: float = 0.0
    """How far from 0 and π the rule "clip" keeps φ."""
    power: int = 1
    """The exponent of the curve "power"."""


CIRCLE = "circle"
"""In place of a rule: the curve of CircleLoss, which has its margin in m3."""
POWER = "power"
"""In place of a rule: the curve of SphereFace2, which has its margin in m3 and its exponent in `Settings.power`."""


class Own(NamedTuple):
    """The settings with the margins that each sample has from its number v."""

    m1: PerSample
    m2: Pair
    m3: Pair
    boundary: str
    annealing: float
    gradient: str
    by_quality: tuple[Fraction, Fraction]
    eps: float
    power: int


class Target(NamedTuple):
    """The target's angle θ, and φ, the angle with its margin added (N,)."""

    theta: Angle
    """θ, cos θ, sin θ."""
    phi: Pair
    """φ."""
    cos_phi: Pair
    """cos φ."""
    sin_phi: Pair
    """sin φ, exactly 0 where φ is a multiple of π, and right relative to itself next to one."""
    folds: Array
    """How many multiples of π lie below φ."""
    exactly: Callable[[int, int], Turned]
    """θ, φ and the margins of a row, to a number of bits."""


class Curve(NamedTuple):
    """A function of the target's angle and margins, and its derivatives, in pairs (N,)."""

    psi: Callable[[Target], Pair]
    """ψ(θ)."""
    slope: Callable[[Target], Pair]
    """ψ'(θ) = dψ/dθ, per radian."""
    by_m2: Callable[[Target], Pair]
    """∂ψ/∂m2, per radian."""
    by_m3: Callable[[Target], Pair]
    """∂ψ/∂m3."""


class Rule(NamedTuple):
    """A row of the table of boundary rules: a condition, what holds beyond it, and when it can act at all."""

    beyond: Callable[[Target, Settings | Own], Mask]
    """Where the margin itself no longer holds."""
    curve: Callable[[Settings | Own], Curve]
    """The curve that holds there instead."""
    can_act: Callable[[float, float, float], bool]
    """Whether an angle in [0, π] is beyond the boundary of these margins m1, m2, m3."""
    refusal: str
    """What is said of other margins."""


class Saved(NamedTuple):
    """What backward needs."""

    slope: Numbers
    """ψ'(θ) (N,)."""
    by_quality: Numbers | None
    """∂ψ/∂v (N,), where there is a v."""
    threshold: Pair
    """cos φ - m3 before any rule (N,): what hard negatives are above."""
    exactly: Callable[[int, int], Turned]
    """θ, φ and the margins of a row, to a number of bits."""


def at(margin: Settings, quality: Quality | None) -> Settings | Own:
    """Return the settings with the margins of every sample, m2 and m3 with what its v adds."""
    if quality is None:
        return margin
    kind, (b2, b3) = type(quality.value), margin.by_quality
    m2, m3 = (quality.value * pair_of(b, kind) + m for b, m in ((b2, margin.m2), (b3, margin.m3)))
    return Own(margin.m1, m2, m3, *margin[3:])


def turned(theta: Angle, margin: Settings, quality: Quality | None = None) -> Target:
    """Add the angle φ = m1 θ + m2.

    A whole m1 multiplies cos θ + i sin θ with itself: a sine near θ = 0 and θ = π then keeps the relative accuracy that
    sin θ has. Next to other multiples of π a sine is the small difference of two numbers: see `resolved`. The side of a
    multiple on which φ lies is the sign of its sine.
    """
    own = at(margin, quality)
    m1, m2 = np.asarray(own.m1), _high(own.m2)
    phi, is_whole = theta.theta * m1 + own.m2, m1 == np.floor(m1)
    cos_sin = _chosen(is_whole, lambda: _power(theta, m1), lambda: _cos_sin(theta.theta * m1))
    cos, sin = _chosen(m2 == 0.0, lambda: cos_sin, lambda: _rotated(*cos_sin, *_cos_sin_of(own.m2)))
    size = np.where(is_whole, theta.sin.hi * m1 + np.abs(m2), np.maximum(phi.hi, np.abs(m2)))

    def exactly(n: int, bits: int) -> Turned:
        m1, m2, m3 = (float(np.broadcast_to(m, phi.shape).flat[n]) for m in margin[:3])
        if quality is None:
            return Turned(theta.exactly(n), m1, m2, m3, bits)
        v = quality.exactly(n)
        b2, b3 = margin.by_quality
        return Turned(theta.exactly(n), m1, v.mapped(b2, Fraction(m2)), v.mapped(b3, Fraction(m3)), bits)

    sin = resolved(sin, size, exactly, lambda at: at.sin_phi)
    nearest = np.rint(phi.hi / PI.hi)
    beyond = sin.hi * (1.0 - 2.0 * (nearest % 2.0)) > 0.0
    return Target(theta, phi, cos, sin, np.maximum(np.where(beyond, nearest, nearest - 1.0), 0.0), exactly)


def _chosen(condition: Mask, yes: Callable[[], CosSin], no: Callable[[], CosSin]) -> CosSin:
    """Choose between two results entry by entry; one that no entry needs is not computed."""
    if condition.all():
        return yes()
    return _where(condition, yes(), no()) if condition.any() else no()


def _where(condition: Mask, a: CosSin, b: CosSin) -> CosSin:
    return where(condition, a[0], b[0]), where(condition, a[1], b[1])


def _power(theta: Angle, m1: Array) -> CosSin:
    """Return the parts of (cos θ + i sin θ)^m1, cosine and sine of m1 θ, for whole m1."""
    first = power = theta.cos, theta.sin
    for n in range(1, int(m1.max(initial=1.0))):
        further, more = _rotated(*power, *first), n < m1
        power = further if more.all() else _where(more, further, power)
    return power


def resolved(
    difference: Pair,
    size: Array | float,
    exactly: Callable[[int, int], Turned],
    quantity: Callable[[Turned], int],
    relative: float = 2.0**-20,
) -> Pair:
    """Compute a difference again, in fixed point, where it is below a share of the size of its two numbers.

    A pair has lost 20 bits there and has another 80. Such rows are rare: one in a million random ones.
    """
    cancelled = np.flatnonzero(np.abs(difference.hi) < relative * size)
    if not len(cancelled):
        return difference
    hi, lo = np.array(difference.hi), np.array(difference.lo)
    for n in cancelled.tolist():
        exact = settled(lambda bits, n=n: quantity(exactly(n, bits)))  # type: ignore[misc]
        hi.flat[n], lo.flat[n] = expansion(exact, 2)
    return type(difference)(hi, lo)


def _sign(difference: Pair, size: Array | float, t: Target, quantity: Callable[[Turned], int]) -> Array:
    """Return the sign of a difference, of which a pair knows all but 2^-80 of the size."""
    return np.sign(resolved(difference, size, t.exactly, quantity, 2.0**-80).hi)


def _cos_sin(angle: Pair) -> CosSin:
    sin, cos = sin_cos(angle)
    return cos, sin


@lru_cache
def _cos_sin_of_number(m2: float) -> CosSin:
    return _cos_sin(Pair.of(m2))


def _cos_sin_of(m2: PerSample | Pair) -> CosSin:
    """Return cosine and sine of a margin; those of one number are kept, for each batch has the same one."""
    return _cos_sin_of_number(m2) if isinstance(m2, float) else _cos_sin(Pair.of(m2))


def _high(m: PerSample | Pair) -> Array:
    """Return a margin in float64."""
    return high(m) if isinstance(m, Pair) else np.asarray(m)


def _constant(number: Numbers | float) -> Callable[[Target], Pair]:
    """Return a derivative that does not depend on the angle."""
    return lambda t: Pair.of(np.zeros(t.cos_phi.shape)) + number


def _rotated(cos: Pair, sin: Pair, by_cos: Pair, by_sin: Pair) -> CosSin:
    return cos * by_cos - sin * by_sin, sin * by_cos + cos * by_sin


def marginal(margin: Settings | Own) -> Curve:
    """The margin itself: cos φ - m3."""
    return Curve(
        lambda t: t.cos_phi - margin.m3, lambda t: t.sin_phi * -margin.m1, lambda t: -t.sin_phi, _constant(-1.0)
    )


def lowered(by: PerSample | Pair, by_m2: Pair | float = 0.0, by_m3: float = 0.0) -> Curve:
    """A curve lower than cos θ by a constant per sample, and what the margins change of it."""
    return Curve(lambda t: t.theta.cos - by, lambda t: -t.theta.sin, _constant(by_m2), _constant(by_m3))


def flat(at: Callable[[Target], Pair]) -> Curve:
    """A constant per sample, less m3."""
    return Curve(lambda t: at(t) + np.zeros(t.cos_phi.shape), _constant(0.0), _constant(0.0), _constant(-1.0))


def folded(margin: Settings | Own) -> Curve:
    """(-1)^k cos φ - 2k - m3 with k = floor(φ / π): cos φ continued so that it never rises (SphereFace, eq. 7)."""

    def sign(t: Target) -> Array:
        return 1.0 - 2.0 * (t.folds % 2.0)

    return Curve(
        lambda t: t.cos_phi * sign(t) - 2.0 * t.folds - margin.m3,
        lambda t: t.sin_phi * (-margin.m1 * sign(t)),
        lambda t: t.sin_phi * -sign(t),
        _constant(-1.0),
    )


def beyond_pi(t: Target, margin: Settings | Own) -> Mask:
    """φ > π; at φ = π itself the margin still holds."""
    return t.folds > 0.0


def _cos_below_0(t: Target, margin: Settings | Own) -> Mask:
    """cos θ <= 0."""
    return _sign(t.theta.cos, 1.0, t, lambda at: at.cos_theta) <= 0.0


def _cos_below_m3(t: Target, margin: Settings | Own) -> Mask:
    """cos θ <= m3."""
    return (
        _sign(t.theta.cos - margin.m3, 1.0 + np.abs(_high(margin.m3)), t, lambda at: at.cos_theta - at.of(at.m3)) <= 0.0
    )


def _psi_above_cos(t: Target, margin: Settings | Own) -> Mask:
    """cos φ - m3 > cos θ."""
    difference = t.cos_phi - margin.m3 - t.theta.cos
    return (
        _sign(difference, 2.0 + np.abs(_high(margin.m3)), t, lambda at: at.cos_phi_minus_cos_theta - at.of(at.m3)) > 0.0
    )


def _outside_clip(t: Target, margin: Settings | Own) -> Mask:
    """φ < ε or φ > π - ε."""
    low = _sign(t.phi - margin.eps, 1.0, t, lambda at: at.phi - at.of(margin.eps))
    high = _sign(t.phi - PI + margin.eps, 4.0, t, lambda at: at.phi - pi(at.bits) + at.of(margin.eps))
    return (low < 0.0) | (high > 0.0)


def _lowered_at_pi(margin: Settings | Own) -> Curve:
    cos, sin = _cos_sin_of(margin.m2)
    return lowered(sin * margin.m2 + margin.m3, -(sin + cos * margin.m2), -1.0)


def _joined_at_pi(margin: Settings | Own) -> Curve:
    cos, sin = _cos_sin((PI - margin.m2) / margin.m1)
    return lowered(cos + 1.0 + margin.m3, -sin / margin.m1, -1.0)


def _lowered_by_m3(margin: Settings | Own) -> Curve:
    return lowered(margin.m3, by_m3=-1.0)


def _clipped(margin: Settings | Own) -> Curve:
    cos, _ = _cos_sin_of_number(margin.eps)
    return flat(lambda t: where(t.phi.hi > 1.0, -cos, cos) - margin.m3)


def _phi_reaches_pi(m1: float, m2: float, m3: float) -> bool:
    return m2 > (1.0 - m1) * math.pi


def _psi_can_exceed_cos(m1: float, m2: float, m3: float) -> bool:
    return m1 != 1.0 or m3 < 2.0 * math.sin(m2 / 2.0) ** 2  # the most they differ by, at θ = π


_NEVER_BEYOND_PI = "acts past m1 theta + m2 = pi, which {margins} never reach"
RULES: dict[str, Rule] = {
    "none": Rule(lambda t, margin: np.zeros(t.theta.cos.shape, np.bool_), marginal, lambda m1, m2, m3: True, ""),
    "hard": Rule(beyond_pi, _lowered_at_pi, _phi_reaches_pi, _NEVER_BEYOND_PI),
    "easy": Rule(
        _cos_below_0,
        _lowered_by_m3,
        lambda m1, m2, m3: m1 != 1.0 or m2 != 0.0,
        "switches off a margin on the angle, and {margins} have none",
    ),
    "keep": Rule(beyond_pi, _lowered_by_m3, _phi_reaches_pi, _NEVER_BEYOND_PI),
    "continuous": Rule(beyond_pi, _joined_at_pi, _phi_reaches_pi, _NEVER_BEYOND_PI),
    "monotone": Rule(beyond_pi, folded, _phi_reaches_pi, _NEVER_BEYOND_PI),
    "clamp": Rule(
        beyond_pi, lambda margin: flat(lambda t: Pair.of(-1.0) - margin.m3), _phi_reaches_pi, _NEVER_BEYOND_PI
    ),
    "min": Rule(
        _psi_above_cos,
        lambda margin: lowered(0.0),
        _psi_can_exceed_cos,
        "acts where cos(theta + m2) - m3 > cos(theta), which {margins} never reach",
    ),
    "conditional": Rule(
        _cos_below_m3,
        lambda margin: lowered(0.0),
        lambda m1, m2, m3: m3 != 0.0,
        "switches off the margin m3 on the cosine, and {margins} have none",
    ),
}
RULES_ON_ANGLE = tuple(rule for rule in RULES if rule != "conditional")
"""Rules of a margin on the angle alone."""
OF_ONE_LOSS: dict[str, Rule] = {
    "clip": Rule(_outside_clip, _clipped, lambda m1, m2, m3: True, ""),
    "acute": Rule(_cos_below_0, lambda margin: lowered(0.0), lambda m1, m2, m3: True, ""),
}
"""Rules that are no choice of other losses: AdaFace's, and that of MV-Softmax."""


def check_rule(boundary: str, m1: float, m2: float, m3: float) -> None:
    """Refuse a rule whose boundary no angle in [0, π] is beyond."""
    rule = RULES[boundary]
    if not rule.can_act(m1, m2, m3):
        refusal = rule.refusal.format(margins=f"m1={m1:g}, m2={m2:g}, m3={m3:g}")
        raise ValueError(f"boundary={boundary!r} {refusal}")


def ruled(margin: Settings | Own, curve: Curve) -> Curve:
    """Follow curve up to the boundary of the margin's rule, and the rule's own curve beyond it."""
    rule = (RULES | OF_ONE_LOSS)[margin.boundary]
    other = rule.curve(margin)

    def chosen(quantity: str) -> Callable[[Target], Pair]:
        beyond, inside = getattr(other, quantity), getattr(curve, quantity)
        return lambda t: where(rule.beyond(t, margin), beyond(t), inside(t))

    return Curve(*map(chosen, Curve._fields))


def annealed(weight: float, curve: Curve) -> Curve:
    """(λ cos θ + ψ) / (1 + λ): λ from large to small eases a hard margin in (SphereFace's training schedule)."""
    share = Pair.of(1.0) + weight

    def slope(t: Target) -> Pair:
        hard, easy = curve.slope(t), t.theta.sin * weight
        size = (np.abs(hard.hi) + easy.hi) / share.hi
        return resolved((hard - easy) / share, size, t.exactly, rising)

    def rising(at: Turned) -> int:
        """-(m1 sin φ + λ sin θ) / (1 + λ): a slope above 0, and no other cancels, is that of the margin itself."""
        return -((Fraction(at.m1) * at.sin_phi + Fraction(weight) * at.sin_theta) // (1 + Fraction(weight)))

    return Curve(
        lambda t: (t.theta.cos * weight + curve.psi(t)) / share,
        slope,
        lambda t: curve.by_m2(t) / share,
        lambda t: curve.by_m3(t) / share,
    )


def detached(curve: Curve) -> Curve:
    """The margin taken without gradient: ψ as it is, ψ' := -sin θ (InsightFace since 2022, OpenSphere)."""
    return Curve(curve.psi, lambda t: -t.theta.sin, _constant(0.0), _constant(0.0))


def circle(margin: Settings | Own) -> Curve:
    """m3² - (1 - cos θ)²; the weight m3 + 1 - cos θ of its two factors counts as a constant if that is detached."""

    def versine(t: Target) -> Pair:
        """1 - cos θ, right relative to itself."""
        cos, sin = t.theta.cos, t.theta.sin
        return where(cos.hi > 0.0, sin * sin / (where(cos.hi > 0.0, cos, 0.0) + 1.0), 1.0 - cos)

    def psi(t: Target) -> Pair:
        away = versine(t)
        return Pair.of(margin.m3) * margin.m3 - away * away

    def slope(t: Target) -> Pair:
        away = versine(t)
        return -(away + (margin.m3 if margin.gradient == "detached" else away)) * t.theta.sin

    return Curve(psi, slope, _constant(0.0), _constant(0.0))


def powered(base: Pair, exponent: int) -> Pair:
    """Return a whole power, from 0 on, by repeated multiplication."""
    power = base * 0.0 + 1.0
    for _ in range(exponent):
        power = power * base
    return power


def of_power(margin: Settings | Own) -> Curve:
    """2 cos²ᵗ(θ/2) - 1 - m3."""

    def half(t: Target) -> Pair:
        """cos²(θ/2) = (1 + cos θ) / 2, right relative to itself."""
        cos, sin = t.theta.cos, t.theta.sin
        return where(cos.hi < 0.0, sin * sin / (1.0 - where(cos.hi < 0.0, cos, 0.0)), 1.0 + cos) * 0.5

    def slope(t: Target) -> Pair:
        if margin.gradient == "detached":
            return -t.theta.sin
        return powered(half(t), margin.power - 1) * t.theta.sin * -float(margin.power)

    return Curve(
        lambda t: powered(half(t), margin.power) * 2.0 - 1.0 - margin.m3, slope, _constant(0.0), _constant(-1.0)
    )


def curve_of(margin: Settings | Own) -> Curve:
    """Compose the curve that the settings ask for: the margin, its rule, annealing, the gradient convention."""
    if margin.boundary == CIRCLE:
        return circle(margin)
    if margin.boundary == POWER:
        return of_power(margin)
    curve = annealed(margin.annealing, ruled(margin, marginal(margin)))
    return detached(curve) if margin.gradient == "detached" else curve


def forward(angle: Angle, margin: Settings, quality: Quality | None = None) -> tuple[Pair, Saved]:
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
    | `acute` (MV-Softmax) | cos θ ≤ 0 | $\cos\theta$ |
    | `clip` (AdaFace) | φ < ε, φ > π - ε | $\pm\cos\epsilon - m_3$ |

    The curve `circle` (CircleLoss) is $m_3^2 - (1 - \cos\theta)^2$ everywhere, and `power` (SphereFace2)
    $2\cos^{2t}(\theta/2) - 1 - m_3$ with the exponent t.

    A number v per sample, where there is one, adds $b_2 v$ to m2 and $b_3 v$ to m3. Annealing with weight λ then makes
    it $(\lambda\cos\theta + \psi)/(1 + \lambda)$. Sources: SphereFace (Liu et al. 2017),
    https://arxiv.org/abs/1704.08063, eq. 7; CosFace (Wang et al. 2018), https://arxiv.org/abs/1801.09414, eq. 4;
    ArcFace (Deng et al. 2019), https://arxiv.org/abs/1801.07698, eqs. 3 and 4. The rules are those of public code.

    Parameters
    ----------
    angle
        The target's angle θ with cos θ and sin θ (N,).
    margin
        Margins (m2 in radians), rule, annealing and gradient convention.
    quality
        v (N,), or None.

    Returns
    -------
    Pair
        ψ(θ) (N,).
    Saved
        What `backward` needs, and the threshold of hard negatives, cos φ - m3 before any rule.
    """
    target, own = turned(angle, margin, quality), at(margin, quality)
    curve, by_quality = curve_of(own), None
    if quality is not None:
        by = curve.by_m2(target), curve.by_m3(target)
        first, second = (part * pair_of(b, type(part)) for part, b in zip(by, margin.by_quality, strict=True))
        by_quality = (first + second).rounded()
    return curve.psi(target), Saved(curve.slope(target).rounded(), by_quality, target.cos_phi - own.m3, target.exactly)


def backward(upstream: Numbers, saved: Saved) -> tuple[StageResult, StageResult | None]:
    r"""Multiply by the slopes of the curve.

    $$\frac{\partial L}{\partial\theta} = \frac{\partial L}{\partial\psi}\,\psi'(\theta), \qquad
    \psi'(\theta) = -m_1\sin\varphi \text{ inside the boundary}$$

    $$\frac{\partial L}{\partial v} = \frac{\partial L}{\partial\psi}
    \left(b_2\frac{\partial\psi}{\partial m_2} + b_3\frac{\partial\psi}{\partial m_3}\right), \qquad
    \frac{\partial\psi}{\partial m_2} = -\sin\varphi,\quad \frac{\partial\psi}{\partial m_3} = -1
    \text{ inside}$$

    Beyond it ∂ψ/∂m2 is -(sin m2 + m2 cos m2) of `hard`, $-\sin((\pi - m_2)/m_1)/m_1$ of `continuous`, $-(-1)^k \sin
    \varphi$ of `monotone` and 0 of all others; ∂ψ/∂m3 is 0 where no m3 is taken off. Annealing divides both by 1 + λ.
    With a detached gradient both are 0. The slope of `circle` is $-2(1 - \cos\theta)\sin\theta$, and detached
    $-(m_3 + 1 - \cos\theta)\sin\theta$.

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
    Numbers or None
        dL/dv (N,), where there is a v.
    """
    return upstream * saved.slope, None if saved.by_quality is None else upstream * saved.by_quality
