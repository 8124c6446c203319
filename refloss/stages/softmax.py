r"""Softmax: from logits to probabilities. Its exponentials are what log_softmax stands on.

Symbols: logits z (N, C); probabilities p (N, C) and their complements q = 1 - p, which near a confident class is known
only as the sum of the others; M the largest logit of a row, a its index.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import Array, Integers, Numbers, Pair, total, two_sum, where


class Saved(NamedTuple):
    """What backward needs."""

    p: Numbers
    """p (N, C)."""
    q: Numbers
    """1 - p, at the largest logit as the sum of the others (N, C)."""


class Exponentials(NamedTuple):
    """The parts of a softmax before anything is divided."""

    gap: Pair
    """z_k - M (N, C)."""
    e: Numbers
    """exp(z_k - M), 1 at a (N, C)."""
    others: Pair
    """S, the sum of e over k != a (N,)."""
    top: Integers
    """a, where the largest logit is (N,)."""


def exponentials(z: Pair) -> Exponentials:
    """Take exp of every logit's distance from the largest, with the rounding of that distance made good.

    A distance of 700 rounded to 53 bits would cost its exponential 350u. A logit of -inf is a masked class of
    probability 0. Rows with NaN or +inf, and rows of nothing but -inf, have no probabilities: NaN.
    """
    rows = np.arange(len(z.hi))
    peak = z.hi.max(axis=1)
    top = np.where(z.hi == peak[:, None], z.lo, -np.inf).argmax(axis=1)  # of equal high parts the larger low one
    largest = z[rows, top][:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        g, h = two_sum(z.hi, -largest.hi)
        g, h = two_sum(g, _finite(h + (z.lo - largest.lo)))
        gap = type(z)(g, _finite(h))
        e = gap.exp()
        apart = e.copy()
        apart[rows, top] = 0.0
        others = total(apart)
    known = np.isfinite(peak)
    return Exponentials(gap, e, where(known, others, np.nan), top)


def _finite(error: Array) -> Array:
    """Drop the rounding error of what is infinite."""
    return np.where(np.isfinite(error), error, 0.0)


def probabilities(parts: Exponentials) -> Saved:
    """Divide by the sum; the complement of the largest comes from the sum of the others."""
    rows = np.arange(len(parts.e))
    whole = (1.0 + parts.others).rounded()
    p = parts.e / whole[:, None]
    q = 1.0 - p
    q[rows, parts.top] = parts.others.rounded() / whole
    return Saved(p, q)


def forward(z: Pair) -> tuple[Numbers, Saved]:
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
    return saved.p, saved


def backward(upstream: Numbers, saved: Saved) -> Numbers:
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
