r"""Class angles: a function η of the angles of the classes that are not the target.

Symbols: embeddings x (N, D); class weights w (C, D); their cosines c (N, C) and angles θ; labels y (N,); η (N, C).
Where a cosine is next to 1 or -1 it does not know its angle: such entries go through their angle, as the target does,
and so does the gradient.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from refloss.error_free import Array, Integers, Mask, Numbers, Pair, StageResult, high, sin_cos, sqrt
from refloss.fixed_point import Between, ExactAngle, Turned
from refloss.stages import angle
from refloss.stages.cosine import CLOSE, NEAR, refined
from refloss.stages.margin import powered, resolved

STEEP = 2.0**-7
"""Cosines nearer than that to 1 or -1 go through their angle; sin θ is at least 0.124 for all others."""


class Settings(NamedTuple):
    """What becomes of the other classes."""

    rule: str = "divided"
    """"divided", the angles of all divided by m; "nearest", those of the k nearest classes lessened by m; or "power",
    2 cos²ᵗ(θ/2) - 1 + m."""
    m: float = 1.0
    k: int = 0
    """How many are the nearest; of "power", the exponent t."""
    gradient: str = "exact"
    """"exact", or "detached" for dη/dc := 1."""


class Saved(NamedTuple):
    """What backward needs."""

    slope: StageResult
    """dη/dc (N, C), 0 where the gradient goes through the angle."""
    n: Integers
    """Samples of the entries that go through their angle (E,)."""
    k: Integers
    """Their classes (E,)."""
    slope_of_angle: StageResult
    """Their dη/dθ (E,)."""
    angle: angle.Saved
    """What backward of their angles needs."""


def turned(theta: ExactAngle, settings: Settings, bits: int) -> Turned:
    """Return what an angle becomes, φ = θ / m or θ - m, to a number of bits."""
    if settings.rule == "divided":
        return Turned(theta, 1 / Fraction(settings.m), 0.0, 0.0, bits)
    return Turned(theta, 1.0, -settings.m, 0.0, bits)


def of_angle(theta: Pair, cos: Pair, sin: Pair, settings: Settings) -> tuple[Pair, Pair, Array]:
    """Return η = cos φ, sin φ, and the size of what that may be the small difference of."""
    if settings.rule == "divided":
        phi = theta / settings.m
        sin_phi, cos_phi = sin_cos(phi)
        return cos_phi, sin_phi, phi.hi
    by_sin, by_cos = sin_cos(type(cos).of(settings.m))
    return cos * by_cos + sin * by_sin, sin * by_cos - cos * by_sin, sin.hi + np.abs(by_sin.hi)


def slope_of(sin_phi: Pair, sin: Pair, settings: Settings) -> Pair:
    """Return dη/dθ."""
    if settings.gradient == "detached":
        return -sin
    return sin_phi / -settings.m if settings.rule == "divided" else -sin_phi


def of_cosine(c: Pair, settings: Settings) -> tuple[Pair, Pair]:
    """Return η and dη/dc of cosines (E,) that are not next to 1 or -1, for which no sin φ is a small difference.

    Of the rule "power" they may be.
    """
    if settings.rule == "power":
        half = (1.0 + c) * 0.5
        eta = powered(half, settings.k) * 2.0 - 1.0 + settings.m
        if settings.gradient == "detached":
            return eta, c * 0.0 + 1.0
        return eta, powered(half, settings.k - 1) * float(settings.k)
    sin = sqrt((1.0 - c) * (1.0 + c))
    eta, sin_phi, _ = of_angle(angle.atan2(sin, c), c, sin, settings)
    return eta, slope_of(sin_phi, sin, settings) / -sin


def through_angle(c: Pair, x: Array, w: Array, y: Integers, settings: Settings) -> Mask:
    """Return which entries go through their angle (N, C): those next to 1 or -1, or the k nearest classes."""
    if settings.rule != "nearest":
        steep = 1.0 - STEEP if settings.rule == "divided" else np.inf
        return np.asarray((np.abs(c.hi) > steep) & (np.arange(c.shape[1]) != y[:, None]))
    return nearest(c, x, w, y, settings.k)


def nearest(c: Pair, x: Array, w: Array, y: Integers, k: int) -> Mask:
    """Choose the k classes of the largest cosines, without the target; of equal ones the first (N, C).

    All others are chosen where there are no more. Cosines next to the k-th largest are found again, and compared in
    rational numbers where that is not enough.
    """
    samples, classes = c.shape
    chosen = np.arange(classes) != y[:, None]
    if k >= classes - 1:
        return np.asarray(chosen)
    hi = np.where(chosen, c.hi, -np.inf)
    last = -np.partition(-hi, k - 1, axis=1)[:, k - 1 : k]
    close = np.abs(hi - last) < CLOSE
    known = refined(c, x, w, *np.nonzero(close))
    chosen = hi >= last + CLOSE
    for n in range(samples):
        rows = np.flatnonzero(close[n])
        wanted = k - int(chosen[n].sum())
        order = rows[np.lexsort((rows, -known.lo[n, rows], -known.hi[n, rows]))]
        chosen[n, _settled(order, known[n], x[n], w, wanted)] = True
    return np.asarray(chosen)


def _settled(order: Integers, c: Pair, x: Array, w: Array, wanted: int) -> Integers:
    """Return the classes of the largest cosines, of some in falling order, exactly; of equal ones the first."""
    if not 0 < wanted < len(order):
        return order[:wanted]
    last = order[wanted - 1]
    near = np.abs((c.hi[order] - c.hi[last]) + (c.lo[order] - c.lo[last])) < NEAR
    if near.sum() > 1:
        equal = np.sort(order[near])
        squares = {k: Between.of(x, w[k]).signed_square for k in equal.tolist()}
        order[near] = sorted(equal.tolist(), key=lambda k: -squares[k])  # stable
    return order[:wanted]


def are_changed(y: Integers, saved: Saved, settings: Settings) -> Mask:
    """Return which entries are not the cosine (N, C)."""
    others = np.arange(saved.slope.shape[1]) != y[:, None]
    if settings.rule == "nearest":
        others[:] = False
        others[saved.n, saved.k] = True
    return np.asarray(others)


def changed(theta: Between, settings: Settings, bits: int) -> int:
    """Return η of an angle that is changed, in units of 2^-bits."""
    return turned(theta, settings, bits).threshold


def forward(c: Pair, x: Array | Pair, w: Array | Pair, y: Integers, settings: Settings) -> tuple[Pair, Saved]:
    r"""Change the angles of the classes that are not the target.

    $$\eta_{nk} = \cos\frac{\theta_{nk}}{m} \text{ (divided)}$$

    $$\eta_{nk} = \begin{cases} \cos(\theta_{nk} - m) & k \in K_n\\ c_{nk} & k \notin K_n \end{cases}
    \text{ (nearest)}$$

    $$\eta_{nk} = 2\Bigl(\frac{1 + c_{nk}}{2}\Bigr)^t - 1 + m \text{ (power)}$$

    for the classes k that are not the target; $K_n$ are the k of them with the largest cosines. Sources: SphereFace-R
    (Liu et al. 2022), https://arxiv.org/abs/2109.05565, version 2; inter-topK penalty (Zhao et al. 2021),
    https://arxiv.org/abs/2110.05042; SphereFace2 (Wen et al. 2022), https://arxiv.org/abs/2108.01513.

    Parameters
    ----------
    c, x, w, y
        Cosines (N, C), embeddings (N, D), class weights (C, D), labels (N,).
    settings
        The rule, m, how many classes, and the gradient convention.

    Returns
    -------
    Pair
        η (N, C); at the targets it is of no account.
    Saved
        What `backward` needs.
    """
    by_angle, eta, slope = through_angle(c, high(x), high(w), y, settings), c.copy(), type(c).of(np.ones(c.shape))
    if settings.rule != "nearest":
        by_cosine = np.nonzero(~by_angle & (np.arange(c.shape[1]) != y[:, None]))
        eta[by_cosine], slope[by_cosine] = of_cosine(c[by_cosine], settings)
    n, k = np.nonzero(by_angle)
    theta, saved_angle = angle.forward(x[n], w[k])
    eta[n, k], sin_phi, size = of_angle(theta.theta, theta.cos, theta.sin, settings)
    sin_phi = resolved(sin_phi, size, lambda n, bits: turned(theta.exactly(n), settings, bits), lambda at: at.sin_phi)
    slope[n, k] = 0.0
    return eta, Saved(slope.rounded(), n, k, slope_of(sin_phi, theta.sin, settings).rounded(), saved_angle)


def backward(upstream: Numbers, saved: Saved) -> tuple[StageResult, StageResult, StageResult]:
    r"""Multiply by the slope; which classes are the nearest counts as a constant.

    $$\frac{\partial L}{\partial c_{nk}} = \frac{\partial L}{\partial\eta_{nk}}\,
    \frac{\sin(\theta_{nk}/m)}{m\sin\theta_{nk}} \text{ (divided)}$$

    $$\frac{\partial L}{\partial\theta_{nk}} = -\frac{\partial L}{\partial\eta_{nk}}\sin(\theta_{nk} - m)
    \text{ (nearest)}$$

    $$\frac{\partial L}{\partial c_{nk}} = \frac{\partial L}{\partial\eta_{nk}}\,
    t\Bigl(\frac{1 + c_{nk}}{2}\Bigr)^{t - 1} \text{ (power)}$$

    Entries that go through their angle have $\partial\eta/\partial\theta = -\sin(\theta/m)/m$ there; detached, dη/dc
    is 1 and dη/dθ is -sin θ.

    Parameters
    ----------
    upstream
        dL/dη (N, C).
    saved
        What `forward` saved.

    Returns
    -------
    Numbers
        dL/dc (N, C), 0 where the gradient goes through the angle.
    tuple of Numbers
        dL/dx and dL/dw of the entries that do, both (E, D).
    """
    dx, dw = angle.backward(upstream[saved.n, saved.k] * saved.slope_of_angle, saved.angle)
    return upstream * saved.slope, dx, dw
