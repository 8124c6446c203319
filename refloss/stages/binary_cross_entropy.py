r"""Binary cross entropy: every class is a question of its own, answered yes for the target and no for all others.

Symbols: logits z (N, C); labels y (N,); weights v₊ of the target and v₋ of other classes; row losses L_n (N,). Softplus
and sigmoid come of one exponential, of -|a|: each keeps its own digits however confident an answer is. Where that may
underflow it is `Scaled`, and so are the losses, whose sum may overflow though their mean does not.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from refloss.error_free import Integers, Numbers, Pair, Scaled, StageResult, Wide, rounded_total, where
from refloss.stages.cross_entropy import ORDINARY_BITS
from refloss.stages.quality import pair_of
from refloss.stages.softmax import exp_of_gap


class Settings(NamedTuple):
    """Weights of the two kinds of answers, rational numbers: none is rounded."""

    positive: Fraction = Fraction(1)
    """v₊."""
    negative: Fraction = Fraction(1)
    """v₋."""
    bound: float | None = None
    """What |z| is held to, see `refloss.stages.bias`."""
    bias_sign: int = 1
    """-1 where the bias is taken off."""


PLAIN = Settings()


class Saved(NamedTuple):
    """What backward needs."""

    slope: StageResult
    """dL_n/dz (N, C)."""


def forward(z: Pair, y: Integers, settings: Settings) -> tuple[StageResult, Saved]:
    r"""Add up the losses of all answers.

    $$L_n = v_+\operatorname{softplus}(-z_{ny_n}) + v_-\sum_{k\ne y_n}\operatorname{softplus}(z_{nk})$$

    $$\operatorname{softplus}(a) = \max(a, 0) + \operatorname{log1p}(e^{-\lvert a\rvert})$$

    Parameters
    ----------
    z, y
        Logits (N, C) and labels (N,).
    settings
        The weights.

    Returns
    -------
    Numbers
        L_n (N,).
    Saved
        What `backward` needs.
    """
    target = np.arange(z.shape[1]) == y[:, None]
    positive, negative = (_weight(weight, type(z)) for weight in (settings.positive, settings.negative))
    a, v = where(target, -z, z), where(target, positive, negative)
    below = a.hi < 0.0
    e = exp_of_gap(where(below, a, -a))
    softplus = where(below, 0.0, a) + (e if isinstance(e, Scaled) else type(z).of(e)).log1p()
    sigma = where(below, e, 1.0) / (1.0 + e)
    return rounded_total(softplus * v), Saved(sigma * where(target, -v, v).rounded())


def _weight(v: Fraction, kind: type[Pair]) -> Wide:
    """Return a weight as a pair, `Scaled` where products with it may over- or underflow."""
    exponent = v.numerator.bit_length() - v.denominator.bit_length()
    if not v or abs(exponent) <= ORDINARY_BITS:
        return pair_of(v, kind)
    return Scaled.of(pair_of(v / Fraction(2) ** exponent, kind), exponent)


def backward(upstream: Numbers, saved: Saved) -> StageResult:
    r"""Carry the gradient of the row losses back to the logits.

    $$\frac{\partial L}{\partial z_{ny_n}} = -v_+ g_n\,\sigma(-z_{ny_n}), \qquad
    \frac{\partial L}{\partial z_{nk}} = v_- g_n\,\sigma(z_{nk})$$

    $$\sigma(a) = \frac{1}{1 + e^{-a}}$$

    Parameters
    ----------
    upstream
        g, the gradient of every row loss (N,).
    saved
        What `forward` saved.

    Returns
    -------
    Numbers
        dL/dz (N, C).
    """
    return upstream[:, None] * saved.slope
