r"""Triplet: the loss that compares images with images, for comparison with those that compare images with classes.

Symbols: anchors a, positives p, negatives n, all (N, D); margin m; d the squared Euclidean distance (FaceNet) or the
plain one; the violation d(a, p) - d(a, n) + m; row losses L_n (N,).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from refloss.error_free import (
    Array,
    Exponents,
    Pair,
    StageResult,
    dot,
    expansion,
    frexp,
    high,
    integers,
    ldexp,
    put,
    rounded,
    scale_rows,
    sqrt,
    total,
    u,
    where,
)

_LEAST = np.int32(-(2**14))
"""Exponent of 0, below that of every other number."""


class Settings(NamedTuple):
    """The settings of the loss."""

    m: float = 0.2
    squared: bool = True
    reduction: str = "mean"


class WithExponent(NamedTuple):
    """Numbers or rows, mantissa times 2^exponent, which may lie outside the range of float64."""

    mantissa: Array | Pair
    """(N,) or (N, D)."""
    exponent: Exponents
    """(N,), one per row; (N, D), one per entry, in products."""


class Saved(NamedTuple):
    """What backward needs."""

    active: Array
    """1 where the loss of the row is above 0, else 0 (N,)."""
    a_minus_p: WithExponent
    """a - p (N, D)."""
    a_minus_n: WithExponent
    """a - n (N, D)."""
    n_minus_p: WithExponent | None
    """n - p (N, D), for squared distances."""
    lengths: tuple[WithExponent, ...]
    """Lengths of the mantissas of a - p and a - n (N,), for plain ones."""


def forward(
    anchor: Array | Pair, positive: Array | Pair, negative: Array | Pair, m: float, squared: bool
) -> tuple[WithExponent, Saved]:
    r"""Compare the distance to the positive with the distance to the negative.

    $$L = \max\bigl(0,\; d(a, p) - d(a, n) + m\bigr), \qquad
    d(a, b) = \lVert a - b\rVert^2 \;\text{ or }\; \lVert a - b\rVert$$

    A loss is right to 1u of itself, however near the hinge, and whether it is above 0 is decided exactly. Differences
    of embeddings are exact pairs. Plain distances are pairs as well; squared ones are compared by
    $\lVert a - p\rVert^2 - \lVert a - n\rVert^2 = \sum_i (n_i - p_i)\bigl((a_i - p_i) + (a_i - n_i)\bigr)$. That gives
    about 100 bits of the distances, or of the sizes of these terms. A violation that cancels to less than $2^{-40}$ of
    them is computed anew, from integers. Source: FaceNet (Schroff, Kalenichenko and Philbin 2015),
    https://arxiv.org/abs/1503.03832, eq. 3.

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
    WithExponent
        Row losses (N,).
    Saved
        What `backward` needs.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # rows at the end of the range are left to the integers
        a_minus_p, a_minus_n = _difference(anchor, positive), _difference(anchor, negative)
        n_minus_p, lengths = None, tuple[WithExponent, ...]()
        if squared:
            n_minus_p = _difference(negative, positive)
            gap, size = _gap_of_squares(a_minus_p.mantissa + a_minus_n.mantissa, n_minus_p.mantissa)
        else:
            lengths = _length(a_minus_p.mantissa), _length(a_minus_n.mantissa)
            gap, size = _sum(lengths[0], _minus(lengths[1])), high(_sum(*lengths).mantissa)
        same = (high(positive) == high(negative)).all(axis=1)
        width = anchor.shape[1]
        error = np.where(same, 0.0, (10 + 3 * width.bit_length()) * u**2 * size + width * 2.0**-1000)
        violation = _sum(
            _normal(gap), _normal(WithExponent(Pair.of(np.full(len(same), m)), np.zeros(len(same), np.int32)))
        )
        known = np.ldexp(error, gap.exponent - violation.exponent) <= 2.0**-60 * np.abs(high(violation.mantissa))
    for difference in (a_minus_p, a_minus_n, n_minus_p):
        known &= difference is None or difference.exponent == 0
    for row in np.flatnonzero(~known):
        points = np.stack([high(v)[row] for v in (anchor, positive, negative)])
        mantissa, violation.exponent[row] = _pair(_violation(points, Fraction(m), squared))
        put(violation.mantissa, row, mantissa)
    active = high(violation.mantissa) > 0.0
    losses = WithExponent(rounded(where(active, violation.mantissa, 0.0)), np.where(active, violation.exponent, _LEAST))
    return losses, Saved(active.astype(np.float64), a_minus_p, a_minus_n, n_minus_p, lengths)


def backward(
    upstream: Array | Pair, saved: Saved, exponent: Exponents | int = 0
) -> tuple[StageResult, StageResult, StageResult]:
    r"""Pull the anchor to the positive and push it from the negative where the loss is above 0.

    $$\frac{\partial L}{\partial a} = [L > 0]\Bigl(\frac{\partial d(a,p)}{\partial a}
    - \frac{\partial d(a,n)}{\partial a}\Bigr), \quad
    \frac{\partial L}{\partial p} = -[L > 0]\frac{\partial d(a,p)}{\partial a}, \quad
    \frac{\partial L}{\partial n} = [L > 0]\frac{\partial d(a,n)}{\partial a}$$

    with ∂d(a,b)/∂a = 2 (a - b) for the squared distance and (a - b)/‖a - b‖ for the plain one. At the hinge itself, and
    at distance 0, where the plain distance has no derivative, the choice of least norm, 0, stands. Entries are right to
    2u of 2 (a - b), and of 2 (n - p) for the anchor; for the plain distance to 5u of the terms. No product leaves the
    range of float64 on the way to a number that fits.

    Parameters
    ----------
    upstream
        dL/dL_n (N,), less a power of two.
    saved
        What `forward` saved.
    exponent
        Of that power of two: one number, or (N,).

    Returns
    -------
    tuple of Numbers
        Gradients of anchor, positive and negative, all (N, D).
    """
    g = upstream * saved.active
    if saved.n_minus_p is not None:
        differences = (saved.n_minus_p, saved.a_minus_p, saved.a_minus_n)
        from_both, near, far = (_product(g, rows, exponent + 1 + power) for rows, power in differences)
    else:
        near, far = (
            _product(g / rounded(where(high(length) > 0.0, length, 1.0)), rows.mantissa, exponent - power)
            for rows, (length, power) in zip((saved.a_minus_p, saved.a_minus_n), saved.lengths, strict=True)
        )
        from_both = _sum(near, _minus(far))
    da, dp, dn = (ldexp(part.mantissa, part.exponent) for part in (from_both, near, far))
    return da, -dp, dn


def reduce(losses: WithExponent, reduction: str) -> StageResult:
    """Add up row losses, rounding once at the end; "mean" divides by their number."""
    if reduction == "none":
        return ldexp(losses.mantissa, losses.exponent)
    largest = losses.exponent.max()
    added = total(ldexp(losses.mantissa, losses.exponent - largest)).rounded()
    return ldexp(added / float(len(losses.exponent)) if reduction == "mean" else added, largest)


def _difference(a: Array | Pair, b: Array | Pair) -> WithExponent:
    """a - b, exactly; short of subnormal entries in rows that reach the end of the range, which are quartered."""
    exponent = np.where(np.abs(high(a) - high(b)).max(axis=1) < 2.0**1022, np.int32(0), np.int32(2))
    if exponent.any():
        a, b = (ldexp(v, -exponent[:, None]) for v in (a, b))
    return WithExponent(Pair.of(a) - b, exponent)


def _gap_of_squares(added: Array | Pair, n_minus_p: Array | Pair) -> tuple[WithExponent, Array]:
    """The inner products of rows, and the sums of their terms' sizes, of the same exponent.

    The error is 3u² of these for what was added, (5 + 3 ceil(log2 D)) u² for `dot`, and 2^-1000 for underflow.
    """
    (added, power), (n_minus_p, other) = scale_rows(added), scale_rows(n_minus_p)
    return WithExponent(dot(added, n_minus_p), power + other), np.abs(high(added) * high(n_minus_p)).sum(axis=1)


def _length(rows: Array | Pair) -> WithExponent:
    """Return the lengths of rows, with an error of (7 + 3/2 ceil(log2 D)) u² of themselves."""
    scaled, exponent = scale_rows(rows)
    return _normal(WithExponent(sqrt(dot(scaled, scaled)), exponent))


def _normal(a: WithExponent) -> WithExponent:
    """Return the same numbers with mantissas from 1/2 to 1, or 0."""
    mantissa, exponent = frexp(a.mantissa)
    return WithExponent(mantissa, a.exponent + exponent)


def _sum(a: WithExponent, b: WithExponent) -> WithExponent:
    """Add normal numbers."""
    exponent = np.maximum(*(np.where(high(mantissa) == 0.0, _LEAST, power) for mantissa, power in (a, b)))
    parts = [ldexp(mantissa, power - exponent) for mantissa, power in (a, b)]
    return WithExponent(parts[0] + parts[1], exponent)


def _minus(a: WithExponent) -> WithExponent:
    return WithExponent(-a.mantissa, a.exponent)


def _product(a: Array | Pair, rows: Array | Pair, exponent: Exponents | int) -> WithExponent:
    """Multiply numbers (N,), rows (N, D) and 2^exponent; each entry has an exponent of its own."""
    mantissa, power = frexp(rounded(rows))
    return WithExponent(a[:, None] * mantissa, power + np.asarray(exponent)[..., None])


# ------------------------------------------------------------------------------------------------------ in integers


def _violation(points: Array, m: Fraction, squared: bool) -> Fraction:
    r"""d(a, p) - d(a, n) + m of one row: exact for squared distances, else to 2^-120 of itself, with the exact sign.

    $P = \lVert a - p\rVert^2$ and $Q = \lVert a - n\rVert^2$ are exact. With $A = P + m^2 - Q$ and $B = 4 m^2 P$,
    $(\sqrt P + m)^2 - Q = A + \sqrt B = (B - A^2) / (\sqrt B - A)$: nothing cancels but in rational numbers.
    """
    (a, p, n), exponent = integers(points)
    near, far = (int((d * d).sum()) for d in (a - p, a - n))
    unit = Fraction(2) ** exponent
    if squared:
        return Fraction(near - far) * unit**2 + m
    m /= unit
    rest, cross = near + m * m - far, 4 * m * m * near
    numerator = rest + _root(cross) if rest >= 0 else (cross - rest * rest) / (_root(cross) - rest)
    return numerator / (_root(Fraction(near)) + m + _root(Fraction(far))) * unit


def _root(a: Fraction) -> Fraction:
    """The square root, rounded down to at least 127 bits."""
    square = a.numerator * a.denominator
    shift = max(0, 128 - square.bit_length() // 2)
    return Fraction(math.isqrt(square << 2 * shift), a.denominator << shift)


def _pair(a: Fraction) -> tuple[Pair, int]:
    """A rational number as a pair of size about 1 and a power of two."""
    exponent = a.numerator.bit_length() - a.denominator.bit_length()
    hi, lo = expansion(a / Fraction(2) ** exponent, 2)
    return Pair(np.asarray(hi), np.asarray(lo)), exponent
