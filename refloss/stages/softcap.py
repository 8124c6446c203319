r"""Softcap: logits scaled, and kept between -K and K by a tanh. Stands between the logits and their softmax.

Symbols: logits z (N, C); logit scale σ; cap K; capped logits z' (N, C), or scaled ones where there is no cap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import Numbers, Pair, Scaled, StageResult, frexp, in_range, ldexp, plain, tanh, where
from refloss.stages.softmax import exp_of_gap

ORDINARY_BITS = 300
"""Logits and settings from 2^-ORDINARY_BITS to 2^ORDINARY_BITS have products in float64."""
SLOPE_BITS = 200
"""Slopes from 2^-SLOPE_BITS to 2^SLOPE_BITS are float64 numbers, others `Scaled`: what they are multiplied by may be
as far out on the other side."""
SATURATED = 2.0**20
"""|σz / K| beyond which the slope is 0 to any range of numbers."""
NEGLIGIBLE = 2.0**-300
"""|σz / K| up to which a cap changes no bit of a pair; the quotient itself may be subnormal."""


class Settings(NamedTuple):
    """What is done to logits before their softmax; nothing by default."""

    logit_scale: float = 1.0
    """σ."""
    softcap: float | None = None
    """K; None for no cap."""


UNCHANGED = Settings()
"""What leaves logits as they are."""


class Saved(NamedTuple):
    """What backward needs."""

    slope: Numbers
    """dz'/dz (N, C)."""


def forward(z: Pair, settings: Settings) -> tuple[Pair, Saved]:
    r"""Scale the logits and cap them.

    $$z'_k = K\tanh\frac{\sigma z_k}{K}, \qquad
    \frac{\partial z'_k}{\partial z_k} = \sigma\,\frac{4 e_k}{(1 + e_k)^2}, \qquad
    e_k = e^{-2\sigma\lvert z_k\rvert/K}$$

    Without a cap z' is σz. The slope is never formed as $1 - \tanh^2$, of which nothing is left at a saturated logit.
    Infinite logits are at the cap, where the slope is 0: a class is masked after the cap, not before. Cap: Gemma Team,
    "Gemma 2: Improving open language models at a practical size" (2024), https://arxiv.org/abs/2408.00118, section 2.

    Parameters
    ----------
    z
        Logits (N, C).
    settings
        σ and K.

    Returns
    -------
    Pair
        z' (N, C).
    Saved
        What `backward` needs.
    """
    sigma, cap = settings
    finite = np.isfinite(z.hi)
    known = where(finite, z, 0.0)
    ordinary = all(in_range(part, ORDINARY_BITS) for part in (known, np.asarray(sigma), np.asarray(cap or 1.0)))
    scaled = (known if ordinary else Scaled.of(known)) * sigma
    if cap is None:
        return where(finite, plain(scaled), z), Saved(_with_room(np.full(z.shape, sigma)))
    ratio: Pair = Pair.of(plain(scaled / cap))  # of the kind of z
    ratio = where(np.abs(ratio.hi) < SATURATED, ratio, np.copysign(SATURATED, ratio.hi))
    mantissa, exponent = frexp(np.asarray(cap))
    capped = ldexp(tanh(ratio) * mantissa, exponent)
    capped = where(np.abs(ratio.hi) < NEGLIGIBLE, plain(scaled), capped)
    e = exp_of_gap(where(ratio.hi < 0.0, ratio, -ratio) * 2.0)
    slope = 4.0 * e / ((1.0 + e) * (1.0 + e)) * (sigma if ordinary else Scaled.of(np.asarray(sigma)))
    at_cap = np.copysign(cap, z.hi)  # of infinite logits; NaN stays
    return (
        where(finite, capped, np.where(np.isnan(z.hi), z.hi, at_cap)),
        Saved(_with_room(where(finite, slope, np.where(np.isnan(z.hi), z.hi, 0.0)))),
    )


def _with_room(slope: Numbers) -> Numbers:
    """Return slopes as they are, or `Scaled` where products with them may not fit."""
    return slope if in_range(slope, SLOPE_BITS) else Scaled.of(slope)


def backward(upstream: Numbers, saved: Saved) -> StageResult:
    r"""Multiply by the slope.

    $$\frac{\partial L}{\partial z_k} = \frac{\partial L}{\partial z'_k}\,\frac{\partial z'_k}{\partial z_k}$$

    Parameters
    ----------
    upstream
        dL/dz' (N, C).
    saved
        What `forward` saved.

    Returns
    -------
    Numbers
        dL/dz (N, C).
    """
    return upstream * saved.slope
