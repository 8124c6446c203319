r"""z-loss: a term of every row that keeps the log-sum-exp near 0.

It is a row term: no class weight multiplies it, and "mean" divides it by the number of rows that count.

Symbols: lse (N,) the log-sum-exp of a row; λ the weight of the term.
"""

from __future__ import annotations

from typing import NamedTuple

from refloss.error_free import Numbers, Pair, Scaled, StageResult, in_range, rounded

ORDINARY_BITS = 200
"""A log-sum-exp and a λ from 2^-ORDINARY_BITS to 2^ORDINARY_BITS have products, also with slopes, in float64."""


class Saved(NamedTuple):
    """What backward needs."""

    slope: Numbers
    """2λ lse (N,)."""


def forward(lse: Pair, z_loss: float) -> tuple[StageResult, Saved]:
    r"""Square the log-sum-exp.

    $$r_n = \lambda\,\operatorname{lse}_n^2$$

    Source: Chowdhery et al., "PaLM: Scaling language modeling with Pathways" (2022), https://arxiv.org/abs/2204.02311,
    section 5.

    Parameters
    ----------
    lse, z_loss
        The log-sum-exp of each row (N,), and λ.

    Returns
    -------
    Numbers
        r (N,).
    Saved
        What `backward` needs.
    """
    ordinary = in_range(lse, ORDINARY_BITS) and in_range(z_loss, ORDINARY_BITS)
    weighted = (lse if ordinary else Scaled.of(lse)) * z_loss
    return rounded(weighted * lse), Saved(rounded(weighted * 2.0))


def backward(upstream: Numbers, saved: Saved) -> StageResult:
    r"""Multiply by the slope.

    $$\frac{\partial L}{\partial\operatorname{lse}_n} = 2\lambda\operatorname{lse}_n\,\frac{\partial L}{\partial r_n}$$

    Parameters
    ----------
    upstream
        dL/dr (N,).
    saved
        What `forward` saved.

    Returns
    -------
    Numbers
        dL/d lse (N,).
    """
    return upstream * saved.slope
