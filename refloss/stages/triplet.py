r"""Triplet: the loss that compares images with images, for comparison with those that compare images with classes.

Symbols: anchors a, positives p, negatives n, all (N, D); margin m; d the squared Euclidean distance (FaceNet) or the
plain one; row losses L_n (N,).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import Array, Exponents, Numbers, Pair, direction, dot, high, ldexp, u, where


class Settings(NamedTuple):
    """What the loss can be asked for."""

    m: float = 0.2
    squared: bool = True
    reduction: str = "mean"


class Saved(NamedTuple):
    """What backward needs."""

    active: Array
    """1 where the loss of the row is above 0, else 0 (N,)."""
    to_positive: Numbers
    """dd(a, p)/da: 2 (a - p), or its direction for the plain distance (N, D)."""
    to_negative: Numbers
    """dd(a, n)/da (N, D)."""
    apart: Numbers
    """The difference of the two, rounded once for squared distances (N, D)."""


def forward(anchor: Numbers, positive: Numbers, negative: Numbers, m: float, squared: bool) -> tuple[Numbers, Saved]:
    r"""Compare the distance to the positive with the distance to the negative.

    $$L = \max\bigl(0,\; d(a, p) - d(a, n) + m\bigr), \qquad
    d(a, b) = \lVert a - b\rVert^2 \;\text{ or }\; \lVert a - b\rVert$$

    Differences are exact and distances have 106 bits, so a loss next to the hinge is right relative to itself; one that
    distances which differ leave below 64u² of themselves and m cannot be told from the hinge, and is 0. Source: FaceNet
    (Schroff, Kalenichenko and Philbin 2015), eq. 3.

    Parameters
    ----------
    anchor, positive, negative
        Embeddings, all (N, D).
    m
        Margin, in units of d.
    squared
        Squared distance, or plain.

    Returns
    -------
    Numbers
        Row losses (N,).
    Saved
        What `backward` needs.
    """
    if squared:
        (a, p, n), exponent = _scaled(anchor, positive, negative)
        ap, an, pn = Pair.of(a) - p, Pair.of(a) - n, Pair.of(n) - p
        near, far, power = dot(ap, ap), dot(an, an), 2 * exponent
        to_positive, to_negative, apart = (
            ldexp(difference.rounded(), (exponent + 1)[:, None]) for difference in (ap, an, pn)
        )
    else:
        to_positive, near = direction(Pair.of(anchor) - positive)
        to_negative, far = direction(Pair.of(anchor) - negative)
        power = np.zeros(len(anchor), np.int32)
        apart = to_positive - to_negative
    difference = ldexp(near - far, power)
    with np.errstate(invalid="ignore", over="ignore"):  # an infinite difference has no rounding error to carry
        losses = where(np.isfinite(difference.hi), difference + m, difference).rounded()
        loss = high(losses)
        least = 64.0 * u**2 * (np.ldexp(near.hi + far.hi, power) + m)
    active = (loss > 0.0) & ((loss > least) | ~np.isfinite(least) | (difference.hi == 0.0))
    return where(active, losses, 0.0), Saved(active.astype(np.float64), to_positive, to_negative, apart)


def backward(upstream: Numbers, saved: Saved) -> tuple[Numbers, Numbers, Numbers]:
    r"""Pull the anchor to the positive and push it from the negative where the loss is above 0.

    $$\frac{\partial L}{\partial a} = [L > 0]\Bigl(\frac{\partial d(a,p)}{\partial a}
    - \frac{\partial d(a,n)}{\partial a}\Bigr), \quad
    \frac{\partial L}{\partial p} = -[L > 0]\frac{\partial d(a,p)}{\partial a}, \quad
    \frac{\partial L}{\partial n} = [L > 0]\frac{\partial d(a,n)}{\partial a}$$

    with ∂d(a,b)/∂a = 2 (a - b) for the squared distance and (a - b)/‖a - b‖ for the plain one. At the hinge itself, and
    at distance 0, where the plain distance has no derivative, the choice of least norm, 0, stands.

    Parameters
    ----------
    upstream
        dL/dL_n (N,).
    saved
        What `forward` saved.

    Returns
    -------
    tuple of Numbers
        Gradients of anchor, positive and negative, all (N, D).
    """
    g = (upstream * saved.active)[:, None]
    return g * saved.apart, -g * saved.to_positive, g * saved.to_negative


def _scaled(*points: Numbers) -> tuple[list[Numbers], Exponents]:
    """Scale all points of a row by one exact power of two."""
    largest = np.max([np.abs(high(v)).max(axis=1, initial=0.0) for v in points], axis=0)
    exponent = np.frexp(largest)[1]
    return [ldexp(v, -exponent[:, None]) for v in points], exponent
