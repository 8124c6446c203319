r"""Softmax: from logits to probabilities. Its exponentials are what log_softmax stands on.

Symbols: logits z (N, C); probabilities p (N, C) and their complements q = 1 - p, which near a confident class is known
only as the sum of the others; M the largest logit of a row, a its index.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import (
    LOG_2,
    Array,
    Integers,
    Numbers,
    Pair,
    Scaled,
    StageResult,
    Wide,
    ldexp,
    plain,
    put,
    total,
    two_sum,
    where,
)

LARGEST_UNSCALED = 2.0**900
"""Logits up to it are float64 numbers; larger ones, whose gaps or losses may overflow, are scaled."""
FAR = -400.0
"""Gaps from it on have exponentials in float64; those of smaller gaps, which may underflow, are `Scaled`."""


class Saved(NamedTuple):
    """What backward needs."""

    p: Numbers
    """p (N, C)."""
    q: Numbers
    """1 - p, at the largest logit as the sum of the others (N, C)."""


class Exponentials(NamedTuple):
    """The parts of a softmax before anything is divided."""

    gap: Wide
    """z_k - M (N, C), pairs."""
    e: Numbers
    """exp(z_k - M), 1 at a (N, C)."""
    sum_exp_minus_one: Wide
    """S, the sum of e over k != a (N,), pairs."""
    argmax: Integers
    """a, where the largest logit is (N,)."""


def exponentials(z: Pair) -> Exponentials:
    """Take exp of every logit's distance from the largest, with the rounding error of that distance corrected.

    A distance of 700 rounded to 53 bits would cost its exponential 350u. A logit of -inf is a masked class of
    probability 0. Rows with NaN or +inf, and rows of nothing but -inf, have no probabilities: NaN.

    Gaps and exponentials that float64 may not hold, because logits are huge or far apart, are `Scaled`.
    """
    rows, huge = np.arange(len(z.hi)), _huge(z.hi)
    z = ldexp(z, -2) if huge else z
    highest = z.hi.max(axis=1)
    argmax = np.where(z.hi == highest[:, None], z.lo, -np.inf).argmax(axis=1)  # of equal high parts the larger low one
    largest = z[rows, argmax][:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        g, h = two_sum(z.hi, -largest.hi)
        g, h = two_sum(g, _finite(h + (z.lo - largest.lo)))
        gap = Scaled.of(type(z)(g, _finite(h)), 2) if huge else type(z)(g, _finite(h))
        e = exp_of_gap(Pair.of(plain(gap)))
        others = e.copy()
        others[rows, argmax] = 0.0
        sum_exp_minus_one = total(others)
    known = np.isfinite(highest)
    return Exponentials(gap, e, where(known, sum_exp_minus_one, np.nan), argmax)


def _huge(z: Array) -> bool:
    """Whether there are finite logits above `LARGEST_UNSCALED`."""
    if z.min(initial=0.0) >= -LARGEST_UNSCALED and z.max(initial=0.0) <= LARGEST_UNSCALED:  # mostly so
        return False
    return bool((np.abs(z[np.isfinite(z)]) > LARGEST_UNSCALED).any())


def exp_of_gap(gap: Pair) -> Numbers:
    """Take exp of gaps, for 1e-400 may be multiplied by 1e308: exp(g) = 2^k exp(g - k log 2), k a multiple of 512."""
    far = gap.hi < FAR
    if not (far & (gap.hi > -np.inf)).any():
        return gap.exp()
    k = np.where(far, 512.0 * np.rint(np.maximum(gap.hi, -(2.0**18)) / (512.0 * LOG_2.hi)), 0.0)
    lifted = where(far & (gap.hi > -np.inf), gap - k * LOG_2, gap)
    return ldexp(Scaled.of(lifted.exp()), k.astype(np.int32))


def _finite(error: Array) -> Array:
    """Drop the rounding error of what is infinite."""
    return np.where(np.isfinite(error), error, 0.0)


def probabilities(parts: Exponentials) -> Saved:
    """Divide by the sum; the complement of the largest comes from the sum of the others."""
    rows = np.arange(len(parts.e))
    sum_exp = (1.0 + parts.sum_exp_minus_one).rounded()
    p = parts.e / sum_exp[:, None]
    q = 1.0 - p
    put(q, (rows, parts.argmax), parts.sum_exp_minus_one.rounded() / sum_exp)
    return Saved(p, q)


def forward(z: Pair) -> tuple[StageResult, Saved]:
    r"""Turn logits into probabilities.

    $$p_k = \frac{e^{z_k - M}}{\sum_j e^{z_j - M}}, \qquad M = \max_j z_j$$

    Subtracting the largest logit changes nothing in exact arithmetic and makes overflow impossible.

    Parameters
    ----------
    z
        Logits (N, C).

    Returns
    -------
    Numbers
        Probabilities (N, C).
    Saved
        What `backward` needs.
    """
    saved = probabilities(exponentials(z))
    return plain(saved.p), saved


def backward(upstream: Numbers, saved: Saved) -> StageResult:
    r"""Multiply by the Jacobian of softmax, diag(p) - p pᵀ.

    $$\frac{\partial L}{\partial z_k} = p_k\Bigl(g_k\,q_k - \sum_{j\ne k} g_j\,p_j\Bigr), \qquad
    g = \frac{\partial L}{\partial p}, \qquad q_k = 1 - p_k$$

    Parameters
    ----------
    upstream
        dL/dp (N, C).
    saved
        What `forward` saved.

    Returns
    -------
    Numbers
        dL/dz (N, C).
    """
    weighted = upstream * saved.p
    rest = total(weighted)[:, None] - weighted
    return saved.p * (upstream * saved.q - rest.rounded())
