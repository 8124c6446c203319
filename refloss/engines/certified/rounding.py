"""Rounding: a ball as the float64 or the decimals nearest to it, and how far from these the truth may be."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import inf, nextafter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.engines.certified.balls import Arb
from refloss.error_free import Array


class Ball(NamedTuple):
    """Midpoints and radii, all of the shape of what they enclose."""

    midpoint: Array
    """The float64 nearest to the midpoint; NaN or infinite where the truth is (the radius is then 0)."""
    radius: Array
    """|truth - midpoint| is at most this; rounded up, infinite where nothing is known or float64 overflows."""
    decimal: NDArray[np.object_]
    """The midpoint to the digits asked for, or to one more where it takes that, as strings."""
    decimal_radius: NDArray[np.object_]
    """|truth - decimal| is at most this, as strings; rounded up."""


def to_result(entries: NDArray[np.object_], digits: int) -> Ball:
    """Round balls, and floats where the truth is exactly 0, NaN or infinite, to float64 and to decimals."""
    result = Ball(*(np.empty(entries.shape, dtype) for dtype in (float, float, object, object)))
    for index, entry in np.ndenumerate(entries):
        if isinstance(entry, float):
            result.midpoint[index], result.radius[index] = entry, 0.0
            result.decimal[index], result.decimal_radius[index] = f"{entry:g}", "0"
        else:
            result.midpoint[index], result.radius[index] = to_float64(entry)
            result.decimal[index], result.decimal_radius[index] = to_decimal(entry, digits)
    return result


def describe(ball: Arb) -> str:
    """Say what is known of a number that stays undecided."""
    if not ball.is_finite():
        return "nothing is known"
    if ball.contains(0):
        midpoint, radius, exponent = map(int, ball.mid_rad_10exp(3))
        return f"|truth| <= {_radius_text(abs(midpoint) + radius, exponent)}"
    return f"truth in {ball.str(20)}"


# ----------------------------------------------------------------------------------------------------------- to float64


def interval(ball: Arb) -> tuple[int, int, int]:
    """Return integers low, high and an exponent: low 2^exponent <= truth <= high 2^exponent.

    Exact, except where the exponents of midpoint and radius are too far apart to be bridged by integers: the smaller
    then counts as 2^-10000 of the larger, outward.
    """
    (mid, mid_exp), (rad, rad_exp) = (tuple(map(int, part.man_exp())) for part in (ball.mid(), ball.rad()))
    if mid == 0:
        return -rad, rad, rad_exp
    if rad == 0:
        return mid, mid, mid_exp
    if rad_exp + rad.bit_length() < mid_exp - 10000:
        rad, rad_exp = 1, mid_exp - 10000
    elif mid_exp + mid.bit_length() < rad_exp - 10000:
        return -rad - 1, rad + 1, rad_exp
    exponent = min(mid_exp, rad_exp)
    mid, rad = mid << (mid_exp - exponent), rad << (rad_exp - exponent)
    return mid - rad, mid + rad, exponent


def nearest(mantissa: int, exponent: int) -> float:
    """Return the float64 nearest to mantissa 2^exponent, ties to even, as Python divides integers."""
    top = mantissa.bit_length() + exponent
    if mantissa == 0 or top < -1100:
        return -0.0 if mantissa < 0 else 0.0
    try:
        return mantissa / (1 << -exponent) if exponent < 0 else float(mantissa << min(exponent, 1100))
    except OverflowError:
        return inf if mantissa > 0 else -inf


def correctly_rounded(ball: Arb) -> float | None:
    """Return the float64 that every number in the ball is rounded to, or None."""
    if not ball.is_finite():
        return None
    low, high, exponent = interval(ball)
    least, greatest = nearest(low, exponent), nearest(high, exponent)
    if least != greatest:
        return None
    return least if (low < 0) == (high < 0) else 0.0


def to_float64(ball: Arb) -> tuple[float, float]:
    """Return the float64 nearest to the midpoint, and how far from it the truth may be, rounded up."""
    if not ball.is_finite():
        return 0.0, inf
    low, high, exponent = interval(ball)
    midpoint = nearest(*map(int, ball.mid().man_exp()))
    if midpoint in (-inf, inf):
        return midpoint, inf
    if max(-low, high).bit_length() + exponent < -1100:
        return 0.0, 0.0 if low == high == 0 else 5e-324
    if max(-low, high).bit_length() + exponent > 1100:
        return midpoint, inf
    power = Fraction(2) ** exponent
    radius = max(high * power - Fraction(midpoint), Fraction(midpoint) - low * power)
    try:
        upper = radius.numerator / radius.denominator
    except OverflowError:
        return midpoint, inf
    return midpoint, upper if Fraction(upper) >= radius else nextafter(upper, inf)


# ---------------------------------------------------------------------------------------------------------- to decimals


def to_decimal(ball: Arb, digits: int) -> tuple[str, str]:
    """Return the midpoint to so many digits, and how far from that the truth may be, rounded up to 3 digits.

    Half a unit of the last digit may be five times 10^-digits of a number that begins with 1: where that would be more
    than was asked for, one digit more is written.
    """
    if not ball.is_finite():
        return "0", "inf"
    midpoint, radius, exponent = map(int, ball.mid_rad_10exp(digits))  # a few digits more than that
    size = abs(midpoint)
    for count in (digits, digits + 1):
        cut = max(0, len(str(size)) - count)
        shortened = (size + 10**cut // 2) // 10**cut
        error = radius + abs(size - shortened * 10**cut)
        bound = error + error // 100  # rounding up to 3 digits adds at most a hundredth
        if 10**digits * bound <= shortened * 10**cut - bound:  # the truth is no smaller
            break
    return _text(shortened if midpoint >= 0 else -shortened, exponent + cut), _radius_text(error, exponent)


def _radius_text(radius: int, exponent: int) -> str:
    """A radius, rounded up to 3 digits."""
    cut = max(0, len(str(radius)) - 3)
    return _text(-(-radius // 10**cut), exponent + cut)


def _text(mantissa: int, exponent: int) -> str:
    if abs(exponent) < 10**17:  # the exponents that decimal knows
        return str(Decimal((int(mantissa < 0), tuple(map(int, str(abs(mantissa)))), exponent))) if mantissa else "0"
    digits = str(abs(mantissa))
    return f"{'-' if mantissa < 0 else ''}{digits[0]}.{digits[1:] or '0'}E{exponent + len(digits) - 1:+d}"
