"""Units in the last place: how far a result is from an exact truth, in the spacing of the result's dtype."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refloss.formats import FORMATS, Format
from refloss.messages import leaves, shown

_TINY = Fraction(1, 2**5000)
"""The size that smaller truths are taken for: it shows in no difference from a number of these formats."""


def ulp_error(result: Any, truth: Any) -> Any:
    r"""How far a result is from the truth, in units in the last place that its dtype has there.

    $$\frac{|r - t|}{2^{\max(e,\,e_{\min}) - p + 1}}, \qquad 2^e \le |t| < 2^{e+1}$$

    with p the bits of the dtype of r and e_min its smallest normal exponent: 24 and -126 for float32. A correctly
    rounded result is at most 1/2 off, and one unit is between u and 2u of the truth, u the unit roundoff.

    Parameters
    ----------
    result
        Floating-point numbers: float16, bfloat16 (of ml_dtypes), float32 or float64.
    truth
        Numbers of a shape that fits, each of them exact. Where float64 is not enough: decimal strings, as
        `refloss.enclose` gives them, with exponents of any size, or integers, `fractions.Fraction`, `decimal.Decimal`
        or `numpy.longdouble` numbers, in an array or a list.

    Returns
    -------
    Array
        Units in the last place, float64, of the common shape. Equal infinities and two NaN are 0 apart, and so are an
        infinity and a truth that the dtype rounds to it; of a finite number and one that is not, inf. A truth that
        float64 rounds to infinity is not finite here. Where the truth is 0 the unit is the smallest subnormal number.

    Raises
    ------
    TypeError
        If result is of none of the four dtypes, or truth holds what is no real number.
    ValueError
        If the shapes do not fit, or truth holds a string that is no decimal number.

    Examples
    --------
    >>> float(ulp_error(numpy.float32(0.1), "0.1"))
    0.2
    """
    results = _array("result", result, None)
    # Of a list that mixes strings, integers and floats NumPy would make strings, or round the integers.
    truths = _array("truth", truth, None if hasattr(truth, "dtype") else object)
    if results.dtype.name not in FORMATS:
        raise TypeError(f"result must hold numbers of {', '.join(FORMATS)}; got {results.dtype}")
    try:
        shape = np.broadcast_shapes(results.shape, truths.shape)
    except (ValueError, RuntimeError):  # RuntimeError: more axes than NumPy broadcasts
        raise ValueError(f"truth must have a shape that fits result's {results.shape}; got {truths.shape}") from None
    stored = FORMATS[results.dtype.name]
    units = np.empty(shape)
    results = np.broadcast_to(results.astype(np.float64), shape)
    truths = np.broadcast_to(np.frompyfunc(_exact, 1, 1)(truths), shape)
    for index in np.ndindex(shape):
        units[index] = _units(results.item(index), truths.item(index), stored)
    return units if shape else np.float64(units)


def _array(name: str, value: Any, dtype: Any) -> NDArray[Any]:
    try:
        for _ in leaves(value):  # refuses a list that contains itself, which NumPy would follow for ever
            pass
        return np.asarray(value, dtype)
    except (TypeError, ValueError, RuntimeError) as error:  # a ragged list, a tensor that wants gradients, ...
        reason = f"{type(value).__name__}: {error}"
        raise TypeError(f"{name} must be a number, or an array or a list of numbers; got {reason}") from error


def _units(r: float, t: Fraction | float, stored: Format) -> float:
    """Return how far a result is from the truth, in units in the last place of the format that stores it."""
    if isinstance(t, Fraction) and math.isfinite(r):
        exponent = t.numerator.bit_length() - t.denominator.bit_length()
        exponent -= abs(t) < Fraction(2) ** exponent
        exponent = max(exponent, stored.min_exponent) if t else stored.min_exponent
        unit = Fraction(2) ** (exponent - stored.bits + 1)
        try:
            return float(abs(Fraction(r) - t) / unit)
        except OverflowError:
            return math.inf
    rounded = _infinity_beyond(_overflow(stored), t)
    return 0.0 if r == rounded or (math.isnan(r) and math.isnan(rounded)) else math.inf


def _overflow(stored: Format) -> Fraction:
    """Return the smallest number that a format rounds to infinity, half a unit above its largest."""
    return Fraction(2) ** (2 - stored.min_exponent) * (1 - Fraction(2) ** -(stored.bits + 1))


def _infinity_beyond(limit: Fraction, t: Fraction | float) -> Fraction | float:
    return t if isinstance(t, float) or abs(t) < limit else math.inf if t > 0 else -math.inf


def _exact(truth: Any) -> Fraction | float:
    """Return a truth as a rational of few digits, or as a float if it is NaN or infinite."""
    if isinstance(truth, str | Decimal):
        return _of_decimal(str(truth))
    if isinstance(truth, np.generic):
        truth = float(truth) if truth.dtype.name in FORMATS else truth.item()  # a longdouble's item is itself
    if isinstance(truth, bool) or not isinstance(truth, int | Fraction | float | np.longdouble):
        raise TypeError(f"truth must hold real numbers, or decimals as strings; got {shown(truth)}")
    if isinstance(truth, int | Fraction):
        return _within_reach(Fraction(truth))
    return _within_reach(Fraction(*truth.as_integer_ratio())) if np.isfinite(truth) else float(truth)


def _of_decimal(text: str) -> Fraction | float:
    """Return a decimal as `_exact` does, never with a power of ten of a million digits."""
    digits, e, exponent = text.strip().lower().partition("e")
    try:
        number, power = Decimal(digits), int(exponent) if e else 0
    except (ArithmeticError, ValueError):
        expected = "truth must hold decimals where it holds strings, such as '1.5E-400'"
        raise ValueError(f"{expected}; got {shown(text)}") from None
    if not number.is_finite():
        return math.nan if number.is_nan() else float(number)
    far = 2000  # 10^far is infinite, 10^-far below _TINY
    power = max(min(power, far - number.adjusted()), -far - number.adjusted())
    return _within_reach(Fraction(number) * Fraction(10) ** power)


def _within_reach(exact: Fraction) -> Fraction | float:
    """Return a rational, infinity where float64 rounds it to that, `_TINY` where it is smaller."""
    if 0 < abs(exact) < _TINY:
        return _TINY if exact > 0 else -_TINY
    return _infinity_beyond(_overflow(FORMATS["float64"]), exact)
