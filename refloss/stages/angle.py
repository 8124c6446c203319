r"""Angle: the narrow branch of the picture, one number per sample: the angle between an embedding and its own class.

Symbols: embeddings x (N, D); the target rows w = W[y] (N, D); θ in radians in [0, π]; t_x the unit tangent at x̂ towards
ŵ, t_w the one at ŵ towards x̂. The angle is never taken from its cosine: near 0 and π a cosine rounded to 53 bits knows
θ only to 1e-8, and its derivative is infinite there. Inputs are taken as exact numbers; a pair is an unevaluated sum of
two float64, see `refloss.error_free`.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np

from refloss.error_free import (
    PI,
    Array,
    Exponents,
    Mask,
    Numbers,
    Pair,
    StageResult,
    direction,
    dot,
    expansion,
    fast_two_sum,
    high,
    scale_rows,
    shift,
    sin_cos,
    sqrt,
    two_product,
    where,
)
from refloss.fixed_point import Between, ExactAngle, Radians, inner, settled, units

Exactly: TypeAlias = Callable[[int], ExactAngle]  # the angle of a row, to any number of bits


_TINY = 2.0**-900  # what is smaller loses bits when it is multiplied


class Angle(NamedTuple):
    """An angle with its cosine and sine, each a pair (N,), and what they are rounded from."""

    theta: Pair
    cos: Pair
    sin: Pair
    exactly: Exactly


class Saved(NamedTuple):
    """What backward needs."""

    tangent_x: StageResult
    """t_x, or 0 where x and w are parallel (N, D)."""
    tangent_w: StageResult
    """t_w, or 0 where x and w are parallel (N, D)."""
    length_x: Numbers
    """‖x‖ / 2^e (N,)."""
    length_w: Numbers
    """‖w‖ / 2^f (N,)."""
    exponent_x: Exponents
    """e (N,)."""
    exponent_w: Exponents
    """f (N,)."""


def forward(x: Array | Pair, w: Array | Pair) -> tuple[Angle, Saved]:
    r"""Find the angle from the part of w that is orthogonal to x.

    $$\theta = \operatorname{atan2}\left(\frac{\lVert r\rVert}{\lVert w\rVert},\; \hat x\cdot\hat w\right), \qquad
    r = w - \frac{w\cdot x}{x\cdot x}\,x, \qquad t_x = \frac{r}{\lVert r\rVert}$$

    r is taken with exact products, and again from the residual of the first pass, until its part along x does not
    count: two or three times for almost all vectors, since a pass gains 106 bits. So it is right relative to its own
    length however small θ is; where that is near the end of float64's range, it is found in integers. The tangent t_w
    is found in the same way from the part of x orthogonal to w. Exactly parallel vectors give exactly θ = 0 or π; the
    tangents do not exist there, and 0, their choice of least norm, stands for them.

    Parameters
    ----------
    x, w
        Embeddings and the weights of their own classes, both (N, D), no row zero; float64 numbers, in pairs or not.

    Returns
    -------
    Angle
        θ, cos θ and sin θ, as pairs (N,), and what they are rounded from.
    Saved
        What `backward` needs.
    """
    exact_x, exact_w = high(x), high(w)
    (x, exponent_x), (w, exponent_w) = scale_rows(x), scale_rows(w)
    length_x, length_w = sqrt(dot(x, x)), sqrt(dot(w, w))
    parallel = _parallel(x, w)
    tangent_x, sine = _orthogonal(w, x, parallel)
    tangent_w, _ = _orthogonal(x, w, parallel)
    cos = dot(x, w) / (length_x * length_w)
    sin, exactly = sine / length_w, between(exact_x, exact_w)
    for n in _at_the_end(sin, exact_x, exact_w):
        tangent_x[n], tangent_w[n] = _exact_tangents(exact_x[n], exact_w[n], type(sine))
        sin.hi[n], sin.lo[n] = expansion(settled(exactly(n).sin), 2)
    cos = where(parallel, np.sign(cos.hi), cos)
    saved = Saved(tangent_x, tangent_w, length_x.rounded(), length_w.rounded(), exponent_x, exponent_w)
    return Angle(atan2(sin, cos), cos, sin, exactly), saved


def backward(upstream: Numbers, saved: Saved) -> tuple[StageResult, StageResult]:
    r"""Turn the gradient of the angle into gradients of both vectors: no division by sin θ anywhere.

    $$\frac{\partial L}{\partial x} = -\frac{\partial L}{\partial\theta}\,\frac{t_x}{\lVert x\rVert}, \qquad
    \frac{\partial L}{\partial w} = -\frac{\partial L}{\partial\theta}\,\frac{t_w}{\lVert w\rVert}$$

    Parameters
    ----------
    upstream
        dL/dθ (N,).
    saved
        What `forward` saved.

    Returns
    -------
    tuple of Numbers
        dL/dx and dL/dw for the target rows, both (N, D).
    """
    dx_size, dw_size = upstream / saved.length_x, upstream / saved.length_w
    return (
        shift(-dx_size[:, None] * saved.tangent_x, -saved.exponent_x[:, None]),
        shift(-dw_size[:, None] * saved.tangent_w, -saved.exponent_w[:, None]),
    )


def of(theta: Numbers) -> Angle:
    """Return the `Angle` of given radians, with its cosine and sine."""
    exact = Pair.of(theta)
    sin, cos = sin_cos(exact)
    return Angle(exact, cos, sin, lambda n: Radians(Fraction(exact.hi.flat[n]) + Fraction(exact.lo.flat[n])))


def between(x: Array, w: Array) -> Exactly:
    """Return what knows the angles between rows exactly."""
    return cache(lambda n: Between.of(x[n], w[n]))


def _orthogonal(v: Array | Pair, base: Array | Pair, parallel: Mask) -> tuple[StageResult, Pair]:
    """Return the direction and the length of the part of v orthogonal to base; 0 and 0 where they are parallel."""
    rest = where(parallel[:, None], 0.0, Pair.of(v))
    square, entries = dot(base, base), high(base)
    length, underflow = np.abs(entries).max(axis=1), v.shape[1] * 2.0**-1070
    projection, enough = Pair.of(np.ones(len(v))), 2.0**-90  # below that the last bits of pairs are noise
    while (np.abs(projection.hi) * length > np.maximum(enough * np.abs(rest.hi).max(axis=1), underflow)).any():
        projection = dot(rest, base) / square  # a pass gains 106 bits
        for part in (projection.hi, projection.lo):
            rest = rest - Pair(*two_product(part[:, None], entries))
    return direction(rest)


def _parallel(x: Array | Pair, w: Array | Pair) -> Mask:
    """Decide, short of underflow, whether every minor x_p w_i - w_p x_i is 0; p is where x is largest."""
    x, w = high(x), high(w)
    pivot = np.abs(x).argmax(axis=1)[:, None]
    left = two_product(np.take_along_axis(x, pivot, 1), w)
    right = two_product(np.take_along_axis(w, pivot, 1), x)
    same = (left[0] == right[0]) & (left[1] == right[1])
    return np.asarray(same.all(axis=1))


def _at_the_end(sin: Pair, x: Array, w: Array) -> list[int]:
    """Return which rows have tiny entries and no other angle than such entries make."""
    tiny = np.flatnonzero(sin.hi < _TINY)

    def uneven(rows: Array) -> Mask:
        sizes = np.abs(rows[tiny])
        least: Array = np.where(sizes > 0.0, sizes, np.inf).min(axis=1) / sizes.max(axis=1)
        return least < _TINY

    return [int(n) for n in tiny[uneven(x) | uneven(w)]]


def _exact_tangents(x: Array, w: Array, kind: type[Pair]) -> tuple[Array | Pair, Array | Pair]:
    """Return t_x and t_w of two rows: the directions of (x·x) w - (x·w) x and of (w·w) x - (x·w) w."""
    a, b = units(x), units(w)
    dot, tangents = inner(a, b), []
    for base, other in ((a, b), (b, a)):
        square = inner(base, base)
        rest = [square * v - dot * along for v, along in zip(other, base, strict=True)]
        size = max(map(abs, rest)) or 1
        hi, lo = np.array([expansion(Fraction(entry, size), 2) for entry in rest]).T
        tangents.append(direction(kind(hi[None], lo[None]))[0][0])
    return tangents[0], tangents[1]


def atan2(sin: Pair, cos: Pair) -> Pair:
    """atan2 of two pairs: the rounded angle, and the sine of its error.

    Error at most 32u² beside what sine and cosine pass on: 16u² for the sine and cosine of the rounded angle, and the
    rest for their products. In all that is below 256u² of the angle up to D = 4096, where inner products are wrong by
    41u², lengths by 25u², and their product and quotient by 45u².
    """
    theta = np.arctan2(sin.hi, cos.hi)
    rounded_sin, rounded_cos = sin_cos(Pair.of(theta))
    error = (sin * rounded_cos - cos * rounded_sin).hi
    return where(sin.hi == 0.0, where(cos.hi > 0.0, 0.0, PI), type(sin)(*fast_two_sum(theta, error)))
