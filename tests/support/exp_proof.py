"""Bounds of the errors of `_exp64` and `_exp32`, by ball arithmetic: the code of the polynomial itself runs on balls.

Notation as in `kernels._exp64`: rho = x - k log 2 exactly, l* = k (log 2 - HIGH), so that rho = h - l*, and h is exact;
g(r) = exp(r) - 1 - r. exp(rho) = (1 + h) - l* + g(rho); the code has s + (((1 - s) + h) - l + tail(r)), where s and
((1 - s) + h) make 1 + h. Its error before the last rounding is at most

    |l - l*| + [rounding of ((1 - s) + h) - l] + [rounding of (...) + tail] + [rounding within tail, at r]
    + |polynomial(r) - g(r)| + |g(r) - g(rho)|, the last at most max |exp - 1| |r - rho|.

The last rounding adds half an ulp of the result: if exp(rho) < 1 and the sum passes 1, it rounds to 1, which is nearer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flint
import numpy as np
from flint import arb

from refloss.engines import kernels

CELLS = 1000  # of |r|, on either side of 0


class Format(NamedTuple):
    """What is to be proven in one dtype."""

    tail: Any
    coefficients: list[Any]
    per: Any
    high: Any
    low: Any
    bits: int
    high_bits: int
    largest: int
    """The largest |k|."""
    tiny: Any
    """What underflow costs an operation at most."""


def formats() -> dict[str, Format]:
    k = kernels
    c = [k._C2, k._C3, k._C4, k._C5, k._C6, k._C7, k._C8, k._C9, k._C10, k._C11]
    d = [k._D2, k._D3, k._D4, k._D5, k._D6]
    return {
        "float64": Format(k._tail64, c, k._PER, k._HIGH, k._LOW, 53, 42, 1023, arb(2) ** -1070),
        "float32": Format(k._tail32, d, k._PER_32, k._HIGH_32, k._LOW_32, 24, 16, 127, arb(2) ** -145),
    }


def upper(a: Any) -> Any:
    """An upper bound of |a|, as an exact ball."""
    return abs(a).upper()


def half_ulp(largest: Any, v: Any, tiny: Any) -> Any:
    """Half an ulp of any number up to that: v 2^floor(log2), and what underflow costs."""
    number = float(largest) * (1 + 2.0**-50) + 1e-300
    return v * arb(2) ** (int(np.frexp(number)[1]) - 1) + tiny


class Rounded(NamedTuple):
    """The ball of an exact expression, and a bound of the computed value's distance from it."""

    exact: Any
    error: Any
    v: Any
    tiny: Any

    __array_ufunc__ = None

    def _of(self, other: Any) -> Rounded:
        return other if isinstance(other, Rounded) else self._replace(exact=arb(float(other)), error=arb(0))

    def _rounded(self, exact: Any, error: Any) -> Rounded:
        return self._replace(exact=exact, error=error + half_ulp(upper(exact) + error, self.v, self.tiny))

    def __add__(self, other: Any) -> Rounded:
        o = self._of(other)
        return self._rounded(self.exact + o.exact, self.error + o.error)

    def __mul__(self, other: Any) -> Rounded:
        o = self._of(other)
        error = self.error * upper(o.exact) + o.error * upper(self.exact) + self.error * o.error
        return self._rounded(self.exact * o.exact, error.upper())

    __radd__, __rmul__ = __add__, __mul__


def bound(f: Format) -> float:
    """An upper bound of the error in ulp, where neither x nor the result is subnormal."""
    flint.ctx.prec, before = 240, flint.ctx.prec
    try:
        return _bound(f)
    finally:
        flint.ctx.prec = before


def _bound(f: Format) -> float:
    v, log_2 = arb(2) ** -f.bits, arb(2).log()
    high, low, k = arb(float(f.high)), arb(float(f.low)), f.largest
    assert upper(arb(float(f.per)) * log_2 - 1) <= v
    assert (high * arb(2) ** f.high_bits).is_integer()
    assert high < 1
    assert f.high_bits + k.bit_length() <= f.bits
    near = 2 * v * (1 + v) * (k + 1)  # |fl(x per) - x / log 2|
    reach = (arb("0.5") + near) * log_2
    assert (arb("0.5") - near) * log_2 > arb("0.25")  # |x| > 1/4 where k is not 0
    low_most = upper(k * (log_2 - high))
    assert reach + low_most < 0.5
    of_low = upper(k * (log_2 - high - low)) + half_ulp(upper(k * low), v, f.tiny)
    of_r = half_ulp(arb(0.499), v, f.tiny) + of_low
    reach = (reach + of_r).upper()

    last = 30  # g by Taylor's series up to r^30
    d = [arb(0), arb(0)]
    for n in range(2, last + 1):
        c = arb(float(f.coefficients[n - 2])) if n - 2 < len(f.coefficients) else arb(0)
        d.append(c - 1 / arb(flint.fmpz.fac_ui(n)))
    difference = flint.arb_poly(d)
    derivative = difference.derivative()
    rest = reach ** (last + 1) / arb(flint.fmpz.fac_ui(last + 1)) * reach.exp()

    worst = 0.0
    for sign in (-1, 1):
        for cell in range(CELLS):
            a = reach * cell / CELLS
            r = sign * a.union(reach * (cell + 1) / CELLS)
            ulp = v if sign < 0 or cell == 0 else 2 * v
            middle = r.mid()  # mean value form: the width of the cell loses no cancellation
            polynomial = upper(difference(middle) + derivative(r) * (r - middle)) + rest
            tail = getattr(f.tail, "py_func", f.tail)(Rounded(r, arb(0), v, f.tiny))
            slope = upper(r.exp() - 1) + 2 * of_r
            of_s = v if sign > 0 or a < 2 * low_most else v / 2  # half an ulp of 1 + h
            corrected = of_s + low_most + of_low
            first = half_ulp(corrected, v, f.tiny)
            second = half_ulp(corrected + first + upper(tail.exact) + tail.error, v, f.tiny)
            before = of_low + first + second + tail.error + polynomial + slope * of_r
            worst = max(worst, float((arb("0.5") + before / ulp).upper()))
    return worst


def ends_hold() -> bool:
    """Whether results are normal numbers, and below that 0, where the docstrings say so."""
    log_2 = arb(2).log()
    return bool(
        arb(-708.39) > -1022 * log_2
        and arb(float(np.float32(-87.33))) > -126 * log_2
        and arb(-708.75) < arb("-1022.5") * log_2
        and arb(float(np.float32(-87.69))) < arb("-126.5") * log_2
        and arb(709) < arb("1023.5") * log_2
        and arb(88) < arb("127.5") * log_2
    )
