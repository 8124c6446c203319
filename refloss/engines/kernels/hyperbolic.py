"""tanh in float64 and float32, and its slope: next to 0 as a polynomial, elsewhere from an exponential."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.engines.kernels.exponential import constants, power_of_two, tail
from refloss.engines.kernels.jit import Float, by_dtype, njit


class Cap(NamedTuple):
    """A logit scale σ and a cap K, and what is computed from them once."""

    one: Float
    logit_scale: Float
    cap: Float
    twice_per_cap: Float
    """2σ / K."""
    per_square: Float
    """1 / K²."""
    near: Float
    """|z| up to which the cap is a polynomial: 0.6 K / σ."""


@njit
def cap_settings(logit_scale: Float, cap: Float) -> Cap:
    """Return the settings in the dtype of their arguments."""
    one = cap / cap
    near = (one + one + one) / (one + one + one + one + one) * cap / logit_scale
    return Cap(one, logit_scale, cap, (logit_scale + logit_scale) / cap, one / (cap * cap), near)


# (tanh a / a - 1) / a² in powers of a², interpolated at Chebyshev's points of 0 <= a² <= 0.36
A0, A1, A2, A3 = -0.33333333333333326, 0.13333333333330197, -0.05396825396475762, 0.02186948838378093
A4, A5, A6, A7 = -0.008863232113541474, 0.0035920831663434575, -0.001455464802800745, 0.0005880541548418729
A8, A9, A10 = -0.0002322510406793851, 8.154737806525365e-05, -1.833596211003942e-05
B0, B1, B2 = np.float32(-0.3333333134651184), np.float32(0.13332915306091309), np.float32(-0.053873948752880096)
B3, B4 = np.float32(0.021110959351062775), np.float32(-0.006269119679927826)


def excess_float64(s: Float) -> Float:
    """Return tanh(a) / a - 1 for s = a² <= 0.36: within 2^-55 of tanh(a) / a, but for roundings."""
    s2 = s * s
    s4 = s2 * s2
    low = (A0 + A1 * s) + s2 * (A2 + A3 * s)
    high = ((A4 + A5 * s) + s2 * (A6 + A7 * s)) + s4 * ((A8 + A9 * s) + s2 * A10)
    return s * (low + s4 * high)


def excess_float32(s: Float) -> Float:
    """Return tanh(a) / a - 1 for s = a² <= 0.36 in float32: within 2^-26 of tanh(a) / a, but for roundings."""
    s2 = s * s
    return s * ((B0 + B1 * s) + s2 * ((B2 + B3 * s) + s2 * B4))


excess = by_dtype(excess_float64, excess_float32)


@njit
def tanh_of_half(x: Float) -> tuple[Float, Float]:
    """Return tanh(x / 2) and its slope relative to x / 2, 1 - tanh², for x >= 0: within 6u and 7u of themselves.

    With e = exp(-x) they are (1 - e) / (1 + e) and 4e / (1 + e)². 1 - e is (1 - 2^k) - 2^k (exp(r) - 1), in the symbols
    of `refloss.engines.kernels.exponential.exp`: for k = 0, where it is small, exp(r) - 1 keeps its own digits, and for
    k < 0 nothing cancels. NaN stays.
    """
    c = constants(x)
    x = max(-x, c.min_argument)
    t = x * c.per_log_2 + c.shift
    k = t - c.shift
    h = x - k * c.log_2_high
    low = k * c.log_2_low
    power = power_of_two(t)
    scaled = power * (h + (tail(h - low) - low))
    e = power + scaled
    inverse = c.one / (c.one + e)
    slope = e * inverse * inverse
    return ((c.one - power) - scaled) * inverse, (slope + slope) + (slope + slope)


@njit
def capped_near(z: Float, settings: Cap) -> Float:
    """Return K tanh(σz / K) for |z| <= near."""
    scaled = z * settings.logit_scale
    return scaled + scaled * excess(scaled * scaled * settings.per_square)


@njit
def slope_near(capped_logit: Float, settings: Cap) -> Float:
    """Return the slope of the cap relative to σz for |z| <= near, where 1 - tanh² keeps its digits."""
    return settings.one - capped_logit * capped_logit * settings.per_square


@njit
def nearer(z: Float, tanh: Float, slope: Float, settings: Cap) -> tuple[Float, Float]:
    """Return K tanh(σz / K) and its slope: from the tanh of |σz / K| and its own, or near 0 from the polynomial."""
    near, far = capped_near(z, settings), tanh * settings.cap
    is_near = max(z, -z) <= settings.near
    return near if is_near else (far if z >= 0.0 else -far), slope_near(near, settings) if is_near else slope


@njit
def capped(z: Float, settings: Cap) -> tuple[Float, Float]:
    """Return K tanh(σz / K) and its slope relative to σz, for any z: within 8u and 8u + 4σ|z|u/K of themselves."""
    tanh, slope = tanh_of_half(max(z, -z) * settings.twice_per_cap)
    return nearer(z, tanh, slope, settings)
