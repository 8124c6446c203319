r"""Double-double arithmetic, about 106 bits, on arrays with two axes, and inner products of rows.

A number is an unevaluated sum hi + lo with |lo| <= u |hi|, u = 2^-53; see `refloss.error_free` for the algorithms and
their origin. An operation is one pass over memory here, where NumPy takes twenty. Results that are infinite or
undefined are those of float64, with a low part of 0.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from refloss.engines.kernels.jit import READ, WRITE, Float, njit, njit_for
from refloss.error_free import Array, expansion

DoubleDouble: TypeAlias = tuple[Float, Float]

ZERO: DoubleDouble = 0.0, 0.0
_SPLITTER = 134217729.0  # 2^27 + 1


@njit
def two_sum(a: Float, b: Float) -> DoubleDouble:
    """Return s, e with s = fl(a + b) and s + e = a + b exactly (Knuth); in float32 too."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@njit
def _renormalize(s: Float, e: Float) -> DoubleDouble:
    """Return s + e as a pair, where |s| >= |e|; s where the sum is not finite."""
    hi = s + e
    if not math.isfinite(hi):
        return s, 0.0
    return hi, e - (hi - s)


@njit
def two_product(a: Float, b: Float) -> DoubleDouble:
    """Return p, e with p = fl(a b) and p + e = a b exactly (Dekker), short of over- and underflow."""
    p = a * b
    c = _SPLITTER * a
    a_high = c - (c - a)
    c = _SPLITTER * b
    b_high = c - (c - b)
    a_low, b_low = a - a_high, b - b_high
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


@njit
def _add(a: Float, a_low: Float, b: Float, b_low: Float) -> DoubleDouble:
    s, e = two_sum(a, b)
    t, f = two_sum(a_low, b_low)
    s, e = _renormalize(s, e + t)
    return _renormalize(s, e + f)


@njit
def _multiply(a: Float, a_low: Float, b: Float, b_low: Float) -> DoubleDouble:
    p, e = two_product(a, b)
    return _renormalize(p, e + (a * b_low + a_low * b))


@njit
def _divide(a: Float, a_low: Float, b: Float, b_low: Float) -> DoubleDouble:
    q = a / b
    p, e = two_product(q, b)
    p, e = _renormalize(p, e + q * b_low)
    return _renormalize(q, ((a - p) + (a_low - e)) / b)


@njit_for(READ, READ, READ, READ, WRITE, WRITE)
def add(a: Array, a_low: Array, b: Array, b_low: Array, hi: Array, lo: Array) -> None:
    """Write a + b: error at most 3u² of it."""
    for i in range(hi.shape[0]):
        for j in range(hi.shape[1]):
            hi[i, j], lo[i, j] = _add(a[i, j], a_low[i, j], b[i, j], b_low[i, j])


@njit_for(READ, READ, READ, READ, WRITE, WRITE)
def multiply(a: Array, a_low: Array, b: Array, b_low: Array, hi: Array, lo: Array) -> None:
    """Write a b: error at most 5u² of it."""
    for i in range(hi.shape[0]):
        for j in range(hi.shape[1]):
            hi[i, j], lo[i, j] = _multiply(a[i, j], a_low[i, j], b[i, j], b_low[i, j])


@njit_for(READ, READ, READ, READ, WRITE, WRITE)
def divide(a: Array, a_low: Array, b: Array, b_low: Array, hi: Array, lo: Array) -> None:
    """Write a / b: error at most 20u² of it."""
    for i in range(hi.shape[0]):
        for j in range(hi.shape[1]):
            hi[i, j], lo[i, j] = _divide(a[i, j], a_low[i, j], b[i, j], b_low[i, j])


# --------------------------------------------------------------------------------------------------------- exponentials

_LOG_2 = Fraction(
    "0.69314718055994530941723212145817656807550013436025525412068000949339362196969471560586332699641868754"
)
_PER_LOG_2 = float(1 / _LOG_2)
_LOG_2_HIGH = float(Fraction(round(_LOG_2 * 2**40), 2**40))  # 40 bits each: times a whole number up to 2^13 exact
_LOG_2_MIDDLE = float(Fraction(round((_LOG_2 - Fraction(_LOG_2_HIGH)) * 2**80), 2**80))
_LOG_2_LOW = float(_LOG_2 - Fraction(_LOG_2_HIGH) - Fraction(_LOG_2_MIDDLE))
_TAYLOR = np.array([expansion(Fraction(1, math.factorial(n)), 2) for n in (5, 4, 3, 2)])  # coefficients as pairs
_T9, _T8, _T7, _T6 = (1.0 / math.factorial(n) for n in (9, 8, 7, 6))  # these need no low part
_TINY = 2.0**-110  # below it exp(a) - 1 is a, and a / 256 may be subnormal
_MINUS_ONE = -80.0  # below it exp(a) is less than u²/64
_OVERFLOW, _UNDERFLOW = 709.782712893384, -745.1332191019412  # beyond them exp is inf, or 0


@njit
def _expm1_reduced(a: Float, a_low: Float) -> tuple[Float, Float, Float]:
    """Return k and exp(a - k log 2) - 1 as a pair, for the whole k nearest to a / log 2."""
    k = np.rint(a * _PER_LOG_2)
    r, r_low = _add(a, a_low, -k * _LOG_2_HIGH, -k * _LOG_2_MIDDLE)
    p, e = two_product(-k, _LOG_2_LOW)
    r, r_low = _add(r, r_low, p, e)
    r, r_low = r / 256.0, r_low / 256.0
    s: Float = ((_T9 * r + _T8) * r + _T7) * r + _T6
    s_low: Float = 0.0
    for n in range(4):
        s, s_low = _multiply(s, s_low, r, r_low)
        s, s_low = _add(s, s_low, _TAYLOR[n, 0], _TAYLOR[n, 1])
    s, s_low = _multiply(s, s_low, r, r_low)
    s, s_low = _multiply(s, s_low, r, r_low)
    s, s_low = _add(s, s_low, r, r_low)
    for _ in range(8):  # exp(2 r) - 1 = (exp(r) - 1)^2 + 2 (exp(r) - 1)
        p, e = _multiply(s, s_low, s, s_low)
        s, s_low = _add(2.0 * s, 2.0 * s_low, p, e)
    return k, s, s_low


@njit_for(READ, READ, WRITE, WRITE)
def exp(a: Array, a_low: Array, hi: Array, lo: Array) -> None:
    """Write exp(a): error at most 64u² of it, short of underflow.

    a is k log 2 + r, k whole; Taylor's series up to r^9 at r / 256, whose rest is below 2^-107, is squared eight times.
    A squaring of exp(r) - 1 adds 4u² and passes on what was wrong before, in all times 1.2: below 50u² of exp(r) - 1,
    itself below 0.42, and 3u² for adding 1.
    """
    for i in range(hi.shape[0]):
        for j in range(hi.shape[1]):
            if math.isnan(a[i, j]) or a[i, j] > _OVERFLOW:
                hi[i, j], lo[i, j] = a[i, j] * np.inf, 0.0
            elif a[i, j] < _UNDERFLOW:
                hi[i, j], lo[i, j] = 0.0, 0.0
            else:
                k, s, s_low = _expm1_reduced(a[i, j], a_low[i, j])
                s, s_low = _add(s, s_low, 1.0, 0.0)
                hi[i, j], lo[i, j] = math.ldexp(s, int(k)), math.ldexp(s_low, int(k))


@njit_for(READ, READ, WRITE, WRITE)
def expm1(a: Array, a_low: Array, hi: Array, lo: Array) -> None:
    """Write exp(a) - 1 for a up to 700: error at most 64u² of it."""
    for i in range(hi.shape[0]):
        for j in range(hi.shape[1]):
            if abs(a[i, j]) < _TINY:
                hi[i, j], lo[i, j] = a[i, j], a_low[i, j]
                continue
            if a[i, j] < _MINUS_ONE:
                hi[i, j], lo[i, j] = -1.0, 0.0
                continue
            k, s, s_low = _expm1_reduced(a[i, j], a_low[i, j])
            if k != 0.0:
                s, s_low = _add(s, s_low, 1.0, 0.0)
                s, s_low = _add(math.ldexp(s, int(k)), math.ldexp(s_low, int(k)), -1.0, 0.0)
            hi[i, j], lo[i, j] = s, s_low


# ----------------------------------------------------------------------------------------------- inner products of rows


@njit
def _sum_pairs(hi: Array, lo: Array) -> DoubleDouble:
    """Return the sum of pairs, adding halves to halves; destroys its input."""
    n = len(hi)
    while n > 1:
        rest = n - n // 2
        upper, upper_low = hi[rest:n], lo[rest:n]  # a slice, so that the compiler sees that it does not overlap
        for i in range(len(upper)):
            s, e = two_sum(hi[i], upper[i])
            e += lo[i] + upper_low[i]
            hi[i], lo[i] = two_sum(s, e)
        n = rest
    return hi[0], lo[0]


@njit
def _dot(a: Array, b: Array, hi: Array, lo: Array) -> DoubleDouble:
    """Return the inner product of two rows; hi and lo are scratch space."""
    for i in range(len(a)):
        hi[i], lo[i] = two_product(a[i], b[i])
    return _sum_pairs(hi, lo)


@njit
def vecdot(a: Array, b: Array, hi: Array, lo: Array) -> None:
    """Write the inner products of rows: error at most (6 + 4 log2 D) u² of the sum of the sizes of their terms."""
    work, work_low = np.empty(a.shape[1]), np.empty(a.shape[1])
    for n in range(len(a)):
        hi[n], lo[n] = _dot(a[n], b[n], work, work_low)


@njit
def tangents(x: Array, w: Array, tangent_x: Array, tangent_w: Array, products: Array) -> None:
    r"""Write the directions in which the angle between rows of x and w changes, and the products behind them.

    $$v = w - \frac{x \cdot w}{x \cdot x}\,x, \qquad t_x = \frac{v}{\lVert v \rVert}, \qquad
    t_w = \frac{1}{\lVert x \rVert \sin\theta}\Bigl(x - \frac{x \cdot w}{w \cdot w}\,w\Bigr)$$

    The products are x·x, w·w, x·w and v·v, as pairs, to about 100 bits of ‖x‖ and ‖w‖. Rows are not nearly parallel,
    and their squares neither over- nor underflow.
    """
    work, work_low = np.empty(x.shape[1]), np.empty(x.shape[1])
    for n in range(len(x)):
        a, b, tangent_a, tangent_b = x[n], w[n], tangent_x[n], tangent_w[n]
        xx, xx_low = _dot(a, a, work, work_low)
        ww, ww_low = _dot(b, b, work, work_low)
        xw, xw_low = _dot(a, b, work, work_low)
        q, q_low = _divide(xw, xw_low, xx, xx_low)
        for i in range(len(a)):
            p, e = two_product(q, a[i])
            s, f = two_sum(b[i], -p)
            hi, lo = two_sum(s, (f - e) - q_low * a[i])
            p, e = two_product(hi, hi)
            tangent_a[i], work[i], work_low[i] = hi, p, e + 2.0 * hi * lo
        vv, vv_low = _sum_pairs(work, work_low)
        q, q_low = _divide(xw, xw_low, ww, ww_low)
        length_a, length_b = math.sqrt(vv), math.sqrt(vv / ww * xx)
        for i in range(len(a)):
            p, e = two_product(q, b[i])
            s, f = two_sum(a[i], -p)
            tangent_a[i] /= length_a
            tangent_b[i] = (s + ((f - e) - q_low * b[i])) / length_b
        products[n, 0], products[n, 1], products[n, 2], products[n, 3] = xx, xx_low, ww, ww_low
        products[n, 4], products[n, 5], products[n, 6], products[n, 7] = xw, xw_low, vv, vv_low
