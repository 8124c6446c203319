"""exp in float64 and float32: the same algorithm with constants of either dtype, its error proven below 0.82 ulp."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.engines.kernels.jit import Float, by_dtype, njit


class Constants(NamedTuple):
    """Constants of the reduction x = k log 2 + r, and of the range."""

    one: Float
    per_log_2: Float
    """1 / log 2."""
    log_2_high: Float
    """The leading digits of log 2: 42 bits in float64, where |k| < 2^11; 16 in float32, where |k| < 2^8."""
    log_2_low: Float
    """log 2 without them."""
    shift: Float
    """x + shift is rounded to whole numbers; its last bits are then the exponent of 2^k."""
    min_argument: Float
    """Smallest argument: its k is -1023 in float64, -127 in float32, whose exponent bits are 0: the float 0."""


FLOAT64 = Constants(1.0, 1.4426950408889634, 0.6931471805598903, 5.497923018708371e-14, 1.5 * 2.0**52 + 1023.0, -709.0)
FLOAT32 = Constants(
    *map(np.float32, (1.0, 1.4426950408889634, 0.693145751953125, 1.428606765330187e-06, 1.5 * 2.0**23 + 127.0, -88.0))
)

# exp(r) - 1 - r as a sum of C_n r^n, n from 2: minimax for |r| <= log(2) / 2, rounded one by one and the rest refitted.
C2, C3, C4, C5, C6 = 0.5, 0.16666666666666685, 0.04166666666660293, 0.008333333333314558, 0.0013888888927208924
C7, C8, C9 = 0.00019841269905688323, 2.4801508184096816e-05, 2.7557223119720786e-06
C10, C11 = 2.762537497267544e-07, 2.511671458777373e-08
D2, D3, D4 = np.float32(0.5), np.float32(0.1666652113199234), np.float32(0.041666388511657715)
D5, D6 = np.float32(0.008368678390979767), np.float32(0.0013941869838163257)


def tail_float64(r: Float) -> Float:
    """Return exp(r) - 1 - r for |r| <= log(2) / 2, summed in pairs: the chain of dependent operations is short."""
    r2 = r * r
    r4 = r2 * r2
    low = (C2 + C3 * r) + r2 * (C4 + C5 * r)
    high = ((C6 + C7 * r) + r2 * (C8 + C9 * r)) + r4 * (C10 + C11 * r)
    return r2 * (low + r4 * high)


def tail_float32(r: Float) -> Float:
    """Return exp(r) - 1 - r for |r| <= log(2) / 2 in float32."""
    r2 = r * r
    return r2 * ((D2 + D3 * r) + r2 * ((D4 + D5 * r) + r2 * D6))


def _constants_float64(x: Float) -> Constants:
    return FLOAT64


def _constants_float32(x: Float) -> Constants:
    return FLOAT32


def _power_float64(t: Float) -> Float:
    """Return 2^k for t = k + shift."""
    return np.int64(np.float64(t).view(np.int64) << 52).view(np.float64)


def _power_float32(t: Float) -> Float:
    """Return 2^k for t = k + shift in float32."""
    return np.int32(np.float32(t).view(np.int32) << 23).view(np.float32)


tail = by_dtype(tail_float64, tail_float32)
constants = by_dtype(_constants_float64, _constants_float32)
power_of_two = by_dtype(_power_float64, _power_float32)


@njit
def exp(x: Float) -> Float:
    """Return exp(x): NaN for NaN, exactly 1 at 0, at most 1 for x <= 0.

    - float64: within 0.82 ulp for -708.39 <= x <= 709
    - float32: within 0.79 ulp for -87.33 <= x <= 88

    Below, the result may be subnormal (to an ulp of those), and from -708.75 or -87.69 on, -inf included, it is 0.

    Notes
    -----
    x = k log 2 + r, k whole; exp(x) = 2^k exp(r); v = 2^-53; ulp = v for r < 0, 2v for r >= 0. In float64:

    - k: the rounded product is within 2^-42 of x / log 2 and `shift` puts it where floats are whole numbers, so
      |r| <= (1/2 + 2^-42) log 2.
    - h = x - k `log_2_high` is exact: for k = 0 it is x; else |x| > 1/4, the product has 52 bits, both are multiples
      of 2^-54, and |h| < 1/2. Rounding l = k (log 2 - `log_2_high`), `low` below, costs less than 2^-87.
    - 1 + h = s + ((1 - s) + h) exactly (Fast2Sum), so that rounding r = h - l to the nearest 2^-54 matters only in
      exp(r) - 1 - r, whose slope is at most 0.3 where an ulp is v: 0.08 ulp.
    - `tail_float64` is within 0.21 ulp: the polynomial is within 2^-57.2 of it, the rest is rounding.
    - Adding it in costs 0.04 ulp, adding s half an ulp, 2^k nothing: together 0.82 ulp.
    - At most 1 for x <= 0: if k < 0, y < 1.5 is halved; if k = 0, x + `tail_float64`(x) <= 0.8 x.

    The proof for float32 is the same with v = 2^-24: the product is within 2^-16 of x / log 2, k `log_2_high` has 23
    bits, both terms of h are multiples of 2^-25, rounding l costs 2^-36, the polynomial is within 2^-28.2.
    """
    c = constants(x)
    x = max(x, c.min_argument)  # in this order a NaN stays
    t = x * c.per_log_2 + c.shift
    k = t - c.shift
    h = x - k * c.log_2_high
    low = k * c.log_2_low
    s = c.one + h
    y = s + ((((c.one - s) + h) - low) + tail(h - low))
    return y * power_of_two(t)
