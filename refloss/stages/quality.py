r"""Quality: a number v per sample, from the length of its embedding, which its margins depend on (AdaFace, MagFace).

Symbols: ‖x‖ (N,) lengths; l, u the bounds between which they are held; a the length held; v = p + q a; λ the weight of
MagFace's regularizer.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from refloss.error_free import (
    Array,
    Mask,
    Numbers,
    Pair,
    StageResult,
    dot,
    expansion,
    ldexp,
    scale_rows,
    sqrt,
    where,
)
from refloss.fixed_point import Surd, settled, square_of
from refloss.stages.normalize import Directions


class Settings(NamedTuple):
    """How a length becomes a quality, in rational numbers: no constant is rounded."""

    low: Fraction
    """l, above 0."""
    high: Fraction
    """u."""
    offset: Fraction
    """p."""
    factor: Fraction
    """q."""
    regularizer: float = 0.0
    """λ in λ (a/u² + 1/a)."""
    detached: bool = False
    """Whether v counts as a constant in the gradient."""


class Quality(NamedTuple):
    """A number per sample which margins depend on."""

    value: Pair
    """v (N,)."""
    exactly: Callable[[int], Surd]
    """v of a row, not rounded."""


class Saved(NamedTuple):
    """What backward needs."""

    slope: Numbers
    """dv/d‖x‖ (N,)."""
    pull: Numbers
    """λ d(a/u² + 1/a)/d‖x‖ (N,)."""


NEAR = 2.0**-90
"""Lengths as near to a bound, relative to it, are compared with it in rational numbers."""
STEEP = 2.0**6
"""Where q u or q is larger, p + q a may cancel more than a pair has to spare: v is found in fixed point."""


def given(m: Numbers) -> Quality:
    """Return numbers that come as an input, as margins per sample do."""
    value = Pair.of(m)
    return Quality(value, lambda n: Surd(Fraction(value.hi.flat[n]) + Fraction(value.lo.flat[n])))


def pair_of(number: Fraction, kind: type[Pair] = Pair) -> Pair:
    """Return a rational number as a pair."""
    return kind(*map(np.asarray, expansion(number, 2)))


def forward(x: Array, directions: Directions, settings: Settings) -> tuple[Quality, Pair, Saved]:
    r"""Hold the length between two bounds, and take a linear function of it.

    $$v_n = p + q\,a_n, \qquad a_n = \min(\max(\lVert x_n\rVert, l), u), \qquad
    r_n = \lambda\Bigl(\frac{a_n}{u^2} + \frac{1}{a_n}\Bigr)$$

    AdaFace's $\operatorname{clip}(h\,(a - \mu)/(\sigma + \epsilon), -1, 1)$ (Kim et al. 2022,
    https://arxiv.org/abs/2204.00964) and MagFace's $(a - l)/(u - l)$ with its regularizer (Meng et al. 2021,
    https://arxiv.org/abs/2103.06627) are of this form: where v is held, so is a.

    Parameters
    ----------
    x
        Embeddings (N, D), no row zero.
    directions
        What `refloss.stages.normalize` made of them.
    settings
        Bounds, function, regularizer, and whether v has a gradient.

    Returns
    -------
    Quality
        v (N,).
    Pair
        r (N,).
    Saved
        What `backward` needs.
    """
    kind = type(directions.length)
    norm, low, high = _norm(x, directions), pair_of(settings.low, kind), pair_of(settings.high, kind)
    below, above = _beyond(x, norm, settings.low, -1.0), _beyond(x, norm, settings.high, 1.0)
    a, inside = where(below, low, where(above, high, norm)), ~(below | above)

    def exactly(n: int) -> Surd:
        if inside[n]:
            return Surd(settings.offset, settings.factor, square_of(x[n]))
        return Surd(settings.offset + settings.factor * (settings.low if below[n] else settings.high))

    terms = pull = slope = kind.of(np.zeros(a.shape))
    if settings.factor * max(settings.high, Fraction(1)) > STEEP:
        v = kind(*np.array([expansion(settled(exactly(n).units), 2) for n in range(len(x))]).reshape(-1, 2).T)
    else:
        v = a * pair_of(settings.factor, kind) + pair_of(settings.offset, kind)
    if settings.regularizer:
        square = pair_of(settings.high**2, kind)
        terms = (a / square + 1.0 / a) * settings.regularizer
        # 1/u² - 1/a² = (a - u)(a + u) / (a u)²: next to u nothing cancels
        pull = where(inside, (a - high) * (a + high) / (a * a * square), 0.0) * settings.regularizer
    if not settings.detached:
        slope = where(inside, pair_of(settings.factor, kind), 0.0)
    return Quality(v, exactly), terms, Saved(slope.rounded(), pull.rounded())


def backward(upstream: Numbers, saved: Saved, upstream_terms: Numbers) -> StageResult:
    r"""Carry the gradients of v and of the regularizer to the length; at a bound as inside of it.

    $$\frac{\partial L}{\partial\lVert x\rVert} = [\lVert x\rVert \ge l]\,[\lVert x\rVert \le u]\left(q\,\frac{\partial
    L}{\partial v} + \lambda\Bigl(\frac{1}{u^2} - \frac{1}{a^2}\Bigr)\frac{\partial L}{\partial r}\right)$$

    without the first term for a v that is detached.

    Parameters
    ----------
    upstream
        dL/dv (N,).
    saved
        What `forward` saved.
    upstream_terms
        dL/dr (N,).

    Returns
    -------
    Numbers
        dL/d‖x‖ (N,).
    """
    return upstream * saved.slope + upstream_terms * saved.pull


def _norm(x: Array, directions: Directions) -> Pair:
    """Return lengths right to 100 bits: of float64 rows `normalize` has 75 or so."""
    if type(directions.length) is not Pair:
        return directions.norm
    scaled, exponent = scale_rows(x)
    return ldexp(sqrt(dot(scaled, scaled)), exponent)


def _beyond(x: Array, norm: Pair, bound: Fraction, side: float) -> Mask:
    """Decide whether lengths are beyond a bound, on its side: exactly."""
    size = float(bound)
    with np.errstate(invalid="ignore"):  # of a length that overflows
        difference = np.where(np.isfinite(norm.hi), (norm - pair_of(bound)).hi, norm.hi)
    beyond = difference * side > 0.0
    for n in np.flatnonzero(np.abs(difference) <= NEAR * size):
        square = square_of(x[n])
        beyond[n] = square > bound**2 if side > 0.0 else square < bound**2
    return np.asarray(beyond)
