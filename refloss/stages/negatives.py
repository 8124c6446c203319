r"""Negatives: a function η of the cosines of the classes that are not the target, another one for the hard ones.

Symbols: cosines c (N, C); labels y (N,); τ (N,) the threshold that the cosine of a hard class is above; t the weight
of hard classes; η (N, C).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from refloss.error_free import Array, Integers, Mask, Numbers, Pair, StageResult, where
from refloss.fixed_point import Between, Turned, fixed, settled
from refloss.stages.cosine import CLOSE, NEAR


class Settings(NamedTuple):
    """What becomes of hard classes."""

    rule: str = "curricular"
    """"curricular", "reweighted" or "circle"."""
    t: float = 0.0
    """The weight of hard classes; of "circle" its margin."""
    gradient: str = "exact"
    """"exact", or "detached" for the weight of "circle" as a constant."""


class Saved(NamedTuple):
    """What backward needs."""

    hard: Mask
    """Which classes are hard (N, C)."""
    slope: StageResult
    """dη/dc; where they are not 1, and 0 of "circle" but at the targets (N, C)."""


def threshold_of(settings: Settings, of_target: Pair) -> Pair:
    """Return what the cosines of hard classes are above (N,): the target's threshold, or -m of "circle"."""
    return of_target * 0.0 - settings.t if settings.rule == "circle" else of_target


def close(c: Pair, threshold: Pair) -> tuple[Integers, Integers]:
    """Return the samples and classes whose cosine has to be known to more bits before a class is called hard."""
    n, k = np.nonzero(np.abs((c - threshold[:, None]).hi) < CLOSE)
    return n, k


def above(x: Array, w: Array, settings: Settings, exactly: Callable[[int, int], Turned]) -> Callable[[int, int], bool]:
    """Return what decides exactly whether the cosine of a sample and a class is above the sample's threshold."""

    def decide(n: int, k: int) -> bool:
        angle = Between.of(x[n], w[k])
        if settings.rule == "circle":
            return angle.signed_square > -(Fraction(settings.t) ** 2)
        return settled(lambda bits: angle.cos(bits) - exactly(n, bits).threshold) > 0

    return decide


def is_hard(c: Pair, threshold: Pair, y: Integers, exactly: Callable[[int, int], bool]) -> Mask:
    """Decide which cosines are above their threshold, c > τ; at it, none, and no target is."""
    difference = (c - threshold[:, None]).hi
    difference[np.arange(len(y)), y] = -1.0
    hard = np.asarray(difference > 0.0)
    for n, k in np.argwhere(np.abs(difference) < NEAR).tolist():
        hard[n, k] = exactly(n, k)
    return hard


def forward(
    c: Pair, threshold: Pair, y: Integers, settings: Settings, exactly: Callable[[int, int], bool]
) -> tuple[Pair, Saved]:
    r"""Raise the cosines of hard classes.

    $$\eta_{nk} = \begin{cases} c_{nk}\,(t + c_{nk}) & c_{nk} > \tau_n\\ c_{nk} & c_{nk} \le \tau_n \end{cases}
    \text{ (curricular)}$$

    $$\eta_{nk} = \begin{cases} (1 + t)\,c_{nk} + t & c_{nk} > \tau_n\\ c_{nk} & c_{nk} \le \tau_n \end{cases}
    \text{ (reweighted)}$$

    $$\eta_{nk} = \begin{cases} c_{nk}^2 - t^2 & c_{nk} > -t\\ 0 & c_{nk} \le -t \end{cases}
    \text{ (circle)}$$

    for the classes k that are not the target. Sources: CurricularFace (Huang et al. 2020),
    https://arxiv.org/abs/2004.00288; MV-Softmax (Wang et al. 2020), https://arxiv.org/abs/1912.00833, whose own t is 1
    more; Circle loss (Sun et al. 2020), https://arxiv.org/abs/2002.10857.

    Parameters
    ----------
    c, threshold, y
        Cosines (N, C), those that `close` names right to 100 bits; thresholds τ (N,), see `threshold_of`; labels (N,).
    settings
        The rule and t.
    exactly
        Decides whether the cosine of a sample and a class is above the threshold, see `above`.

    Returns
    -------
    Pair
        η (N, C); at the targets c.
    Saved
        What `backward` needs.
    """
    hard = is_hard(c, threshold, y, exactly)
    kind, t = type(c), settings.t
    easy, its_slope = c, np.ones(c.shape)
    if settings.rule == "curricular":
        raised, slope = c * (c + t), (c * 2.0 + t).rounded()
    elif settings.rule == "reweighted":
        share = kind.of(1.0) + t
        raised, slope = c * share + t, (share + np.zeros(c.shape)).rounded()
    else:  # circle
        raised, slope = (c - t) * (c + t), (c + (t if settings.gradient == "detached" else c)).rounded()
        target = np.arange(c.shape[1]) == y[:, None]
        easy, its_slope = where(target, c, 0.0), np.where(target, 1.0, 0.0)
    return where(hard, raised, easy), Saved(hard, where(hard, slope, its_slope))


def raised(c: int, settings: Settings, bits: int) -> int:
    """Return η of a hard class, as its cosine in units of 2^-bits."""
    t = fixed(settings.t, bits)
    if settings.rule == "circle":
        return (c - t) * (c + t) >> bits
    return c * (t + c) >> bits if settings.rule == "curricular" else c + (t * c >> bits) + t


def backward(upstream: Numbers, saved: Saved) -> StageResult:
    r"""Multiply by the slope; which classes are hard, and t, count as constants.

    $$\frac{\partial L}{\partial c_{nk}} = \frac{\partial L}{\partial\eta_{nk}}\,(t + 2c_{nk}) \text{ (curricular)}$$

    $$\frac{\partial L}{\partial c_{nk}} = \frac{\partial L}{\partial\eta_{nk}}\,(1 + t) \text{ (reweighted)}$$

    $$\frac{\partial L}{\partial c_{nk}} = \frac{\partial L}{\partial\eta_{nk}}\,2c_{nk} \text{ (circle)},
    \qquad \frac{\partial L}{\partial\eta_{nk}}\,(t + c_{nk}) \text{ (circle, detached)}$$

    for hard classes; for all others dL/dη, and 0 of "circle".

    Parameters
    ----------
    upstream
        dL/dη (N, C).
    saved
        What `forward` saved.

    Returns
    -------
    Numbers
        dL/dc (N, C).
    """
    return upstream * saved.slope
