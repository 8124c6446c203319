"""The loops that NumPy would make slow, compiled by numba: serial, without the lock, and nothing else.

Arithmetic on pairs, see `refloss.error_free`, here for the engine `dd`: one pass over memory an operation, where NumPy
takes twenty. What is infinite or undefined comes out as float64 has it, with a low part of 0. Every array has two axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np

from refloss.error_free import Array, expansion

F = TypeVar("F", bound=Callable[..., Any])
Double: TypeAlias = tuple[float, float]

_SPLITTER = 134217729.0  # 2^27 + 1
_READ = numba.types.Array(numba.float64, 2, "A", readonly=True)
_WRITE = numba.types.Array(numba.float64, 2, "A")


def _jit(*types: Any) -> Callable[[F], F]:
    """Compile with the one set of options: no fastmath, which would destroy error-free sums; no threads of its own."""
    signature = numba.void(*types) if types else None
    return cast(Callable[[F], F], numba.njit(signature, nogil=True, cache=True, error_model="numpy"))


@_jit()
def _sum(a: float, b: float) -> Double:
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@_jit()
def _renormalized(s: float, e: float) -> Double:
    """Where |s| >= |e|, or s is not finite."""
    hi = s + e
    if not math.isfinite(hi):
        return s, 0.0
    return hi, e - (hi - s)


@_jit()
def _product(a: float, b: float) -> Double:
    p = a * b
    c = _SPLITTER * a
    a_high = c - (c - a)
    c = _SPLITTER * b
    b_high = c - (c - b)
    a_low, b_low = a - a_high, b - b_high
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


@_jit()
def _add(a: float, a_low: float, b: float, b_low: float) -> Double:
    s, e = _sum(a, b)
    t, f = _sum(a_low, b_low)
    s, e = _renormalized(s, e + t)
    return _renormalized(s, e + f)


@_jit()
def _multiply(a: float, a_low: float, b: float, b_low: float) -> Double:
    p, e = _product(a, b)
    return _renormalized(p, e + (a * b_low + a_low * b))


@_jit()
def _divide(a: float, a_low: float, b: float, b_low: float) -> Double:
    q = a / b
    p, e = _product(q, b)
    p, e = _renormalized(p, e + q * b_low)
    return _renormalized(q, ((a - p) + (a_low - e)) / b)


@_jit(_READ, _READ, _READ, _READ, _WRITE, _WRITE)
def add(a: Array, a_low: Array, b: Array, b_low: Array, hi: Array, lo: Array) -> None:
    """Write a + b: error at most 3u² of it."""
    for i in range(hi.shape[0]):
        for j in range(hi.shape[1]):
            hi[i, j], lo[i, j] = _add(a[i, j], a_low[i, j], b[i, j], b_low[i, j])


@_jit(_READ, _READ, _READ, _READ, _WRITE, _WRITE)
def multiply(a: Array, a_low: Array, b: Array, b_low: Array, hi: Array, lo: Array) -> None:
    """Write a b: error at most 5u² of it."""
    for i in range(hi.shape[0]):
        for j in range(hi.shape[1]):
            hi[i, j], lo[i, j] = _multiply(a[i, j], a_low[i, j], b[i, j], b_low[i, j])


@_jit(_READ, _READ, _READ, _READ, _WRITE, _WRITE)
def divide(a: Array, a_low: Array, b: Array, b_low: Array, hi: Array, lo: Array) -> None:
    """Write a / b: error at most 20u² of it."""
    for i in range(hi.shape[0]):
        for j in range(hi.shape[1]):
            hi[i, j], lo[i, j] = _divide(a[i, j], a_low[i, j], b[i, j], b_low[i, j])


_LOG_2 = Fraction(
    "0.69314718055994530941723212145817656807550013436025525412068000949339362196969471560586332699641868754"
)
_PER_LOG_2 = float(1 / _LOG_2)
_LOG_2_HIGH = float(Fraction(round(_LOG_2 * 2**40), 2**40))  # 40 bits each: times a whole number up to 2^13 exact
_LOG_2_MIDDLE = float(Fraction(round((_LOG_2 - Fraction(_LOG_2_HIGH)) * 2**80), 2**80))
_LOG_2_LOW = float(_LOG_2 - Fraction(_LOG_2_HIGH) - Fraction(_LOG_2_MIDDLE))
_LEADING = np.array([expansion(Fraction(1, math.factorial(n)), 2) for n in (5, 4, 3, 2)])  # of Taylor's series
_C9, _C8, _C7, _C6 = (1.0 / math.factorial(n) for n in (9, 8, 7, 6))  # these need no low part
_TINY = 2.0**-110  # below it exp(a) - 1 is a, and a / 256 may be subnormal
_OVERFLOW, _UNDERFLOW = 709.782712893384, -745.1332191019412  # beyond them exp is inf, or 0


@_jit()
def _expm1_reduced(a: float, a_low: float) -> tuple[float, float, float]:
    """Return k and exp(a - k log 2) - 1, for the k that makes it small."""
    k = np.rint(a * _PER_LOG_2)
    r, r_low = _add(a, a_low, -k * _LOG_2_HIGH, -k * _LOG_2_MIDDLE)
    p, e = _product(-k, _LOG_2_LOW)
    r, r_low = _add(r, r_low, p, e)
    r, r_low = r / 256.0, r_low / 256.0
    s, s_low = ((_C9 * r + _C8) * r + _C7) * r + _C6, 0.0
    for n in range(4):
        s, s_low = _multiply(s, s_low, r, r_low)
        s, s_low = _add(s, s_low, _LEADING[n, 0], _LEADING[n, 1])
    s, s_low = _multiply(s, s_low, r, r_low)
    s, s_low = _multiply(s, s_low, r, r_low)
    s, s_low = _add(s, s_low, r, r_low)
    for _ in range(8):  # exp(2 r) - 1 = (exp(r) - 1)^2 + 2 (exp(r) - 1)
        p, e = _multiply(s, s_low, s, s_low)
        s, s_low = _add(2.0 * s, 2.0 * s_low, p, e)
    return k, s, s_low


@_jit(_READ, _READ, _WRITE, _WRITE)
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


@_jit(_READ, _READ, _WRITE, _WRITE)
def expm1(a: Array, a_low: Array, hi: Array, lo: Array) -> None:
    """Write exp(a) - 1 for a from 0 to 700: error at most 64u² of it."""
    for i in range(hi.shape[0]):
        for j in range(hi.shape[1]):
            if a[i, j] < _TINY:
                hi[i, j], lo[i, j] = a[i, j], a_low[i, j]
                continue
            k, s, s_low = _expm1_reduced(a[i, j], a_low[i, j])
            if k > 0.0:
                s, s_low = _add(s, s_low, 1.0, 0.0)
                s, s_low = _add(math.ldexp(s, int(k)), math.ldexp(s_low, int(k)), -1.0, 0.0)
            hi[i, j], lo[i, j] = s, s_low
