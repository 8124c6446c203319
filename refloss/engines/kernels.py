"""The loops that NumPy would make slow, compiled by numba: serial, without the lock, and nothing else.

First arithmetic on pairs, see `refloss.error_free`, for the engine `dd`: one pass over memory an operation, where NumPy
takes twenty. What is infinite or undefined comes out as float64 has it, with a low part of 0. Every array has two axes.

Then what the engine `fused` does to rows, in float64 or float32 as they come: each row is brought into the cache once.
Sums and maxima run in `LANES` lanes, which is how a loop that may not be reordered is vectorised; their order depends
on the length of a row and on nothing else.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from functools import wraps
from typing import Any, TypeAlias, TypeVar, cast
from warnings import warn

import llvmlite.binding
import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from refloss.engines.locks import Lock, forks_wait_for
from refloss.error_free import Array, expansion

F = TypeVar("F", bound=Callable[..., Any])
Double: TypeAlias = tuple[float, float]

_SPLITTER = 134217729.0  # 2^27 + 1
_READ = numba.types.Array(numba.float64, 2, "A", readonly=True)
_WRITE = numba.types.Array(numba.float64, 2, "A")


class _Cache:
    """A cache of numba, done without where files are damaged or cannot be read or written."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *kernel: Any) -> Any:
        """Return what was compiled before; None, and a new index, if it cannot be had."""
        try:
            return self._cache.load_overload(*kernel)
        except Exception as error:
            with suppress(Exception):
                self._cache.flush()
            _do_without(error)
            return None

    def save_overload(self, *kernel: Any) -> None:
        """Keep what was compiled, if that can be done."""
        try:
            self._cache.save_overload(*kernel)
        except Exception as error:
            _do_without(error)


_cache_errors: list[Exception] = []


def _do_without(error: Exception) -> None:
    """Say, once in a process, that a kernel is compiled that might have been loaded or kept."""
    _cache_errors.append(error)
    if len(_cache_errors) == 1:
        reason = f"{type(error).__name__}: {error}"
        warn(f"the cache of numba fails here ({reason}); kernels are compiled without it", RuntimeWarning, stacklevel=2)


_compiling = Lock()
forks_wait_for(global_compiler_lock, llvmlite.binding.ffi.lib._lock)


def _jit(*types: Any) -> Callable[[F], F]:
    """Compile with the one set of options: no fastmath, which would destroy error-free sums; no threads of its own.

    What was compiled is kept on disk, where numba keeps it (NUMBA_CACHE_DIR says where else), unless REFLOSS_JIT_CACHE
    is 0 or no folder can be written to. Files are replaced whole, so that many processes may come first at once. They
    are code: nobody else may be able to write to that folder. Where files are damaged or the disk is full, kernels are
    compiled anew, with a RuntimeWarning. Given types, it is compiled for these and no others, when first called.
    """

    def compiled(function: F) -> F:
        kernel: Any = numba.njit(nogil=True, error_model="numpy")(function)
        if kernel is function:  # as with NUMBA_DISABLE_JIT
            return function
        if os.environ.get("REFLOSS_JIT_CACHE", "1") != "0":
            with suppress(RuntimeError, OSError):  # numba finds no place for its cache
                kernel.enable_caching()
                kernel._cache = _Cache(kernel._cache)
        if not types:
            return cast(F, kernel)
        done: list[bool] = []

        def compile_once() -> None:
            if not kernel.signatures:
                kernel.compile(numba.void(*types))
            kernel.disable_compile()
            done.append(True)

        @wraps(function)
        def with_types(*arrays: Array) -> None:
            if not done:
                _compiling.run(compile_once)
            kernel(*arrays)

        return cast(F, with_types)

    return compiled


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
_T9, _T8, _T7, _T6 = (1.0 / math.factorial(n) for n in (9, 8, 7, 6))  # these need no low part
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
    s, s_low = ((_T9 * r + _T8) * r + _T7) * r + _T6, 0.0
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


# ------------------------------------------------------------------------------------------------------ rows, for fused

LANES = 128
"""Without leave to reorder a sum LLVM vectorises none, so the order is written out: entry j of a row goes to lane
j mod LANES. A chunk is a slice, whose length is not known when it is compiled: short loops of known length are unrolled
before they can be vectorised."""
SECTION = 16 * LANES
"""Entries that lanes add up; sums of sections, of longer rows, are added up with their rounding errors kept."""
_SINGLE = np.dtype(np.float32)

# exp(r) - 1 - r as a sum of C_n r^n, n from 2: minimax for |r| <= log(2) / 2, rounded one by one and the rest refitted.
_C2, _C3, _C4, _C5, _C6 = 0.5, 0.16666666666666685, 0.04166666666660293, 0.008333333333314558, 0.0013888888927208924
_C7, _C8, _C9 = 0.00019841269905688323, 2.4801508184096816e-05, 2.7557223119720786e-06
_C10, _C11 = 2.762537497267544e-07, 2.511671458777373e-08
_PER = 1.4426950408889634
_HIGH = 0.6931471805598903  # 42 bits: times a whole number below 2^11 exact
_LOW = 5.497923018708371e-14
_SHIFT = 1.5 * 2.0**52 + 1023.0  # x + _SHIFT is rounded to whole numbers; its last bits are then 2^k's exponent
_LOWEST = -709.0  # k = -1023, whose exponent bits are 0: the float 0

_D2, _D3, _D4 = np.float32(0.5), np.float32(0.1666652113199234), np.float32(0.041666388511657715)
_D5, _D6 = np.float32(0.008368678390979767), np.float32(0.0013941869838163257)
_ONE_32 = np.float32(1.0)
_PER_32 = np.float32(1.4426950408889634)
_HIGH_32 = np.float32(0.693145751953125)  # 16 bits: times a whole number below 2^8 exact
_LOW_32 = np.float32(1.428606765330187e-06)
_SHIFT_32 = np.float32(1.5 * 2.0**23 + 127.0)
_LOWEST_32 = np.float32(-88.0)  # k = -127


@_jit()
def _tail64(r: Any) -> Any:
    """exp(r) - 1 - r for |r| <= log(2) / 2, summed in pairs: the chain of dependent operations is short."""
    r2 = r * r
    r4 = r2 * r2
    low = (_C2 + _C3 * r) + r2 * (_C4 + _C5 * r)
    high = ((_C6 + _C7 * r) + r2 * (_C8 + _C9 * r)) + r4 * (_C10 + _C11 * r)
    return r2 * (low + r4 * high)


@_jit()
def _exp64(x: Any) -> Any:
    """Return exp(x): for -708.39 <= x <= 709 within 0.82 ulp, NaN for NaN, exactly 1 at 0, at most 1 for x <= 0.

    Below, the result may be subnormal (to an ulp of those), and from -708.75 on, -inf included, it is 0.

    Notes
    -----
    x = k log 2 + r, k whole; exp(x) = 2^k exp(r); v = 2^-53; ulp = v for r < 0, 2v for r >= 0.

    - k: the rounded product is within 2^-42 of x / log 2 and `_SHIFT` puts it where floats are whole numbers, so
      |r| <= (1/2 + 2^-42) log 2.
    - h = x - k `_HIGH` is exact: for k = 0 it is x; else |x| > 1/4, the product has 52 bits, both are multiples
      of 2^-54, and |h| < 1/2. Rounding l = k (log 2 - `_HIGH`), `low` below, costs less than 2^-87.
    - 1 + h = s + ((1 - s) + h) exactly (Fast2Sum), so that rounding r = h - l to the nearest 2^-54 matters only in
      exp(r) - 1 - r, whose slope is at most 0.3 where an ulp is v: 0.08 ulp.
    - `_tail64` is within 0.21 ulp: the polynomial is within 2^-57.2 of it, the rest is rounding.
    - Adding it in costs 0.04 ulp, adding s half an ulp, 2^k nothing: together 0.82 ulp.
    - At most 1 for x <= 0: if k < 0, y < 1.5 is halved; if k = 0, x + `_tail64`(x) <= 0.8 x.
    """
    x = max(x, _LOWEST)  # in this order a NaN stays
    t = x * _PER + _SHIFT
    k = t - _SHIFT
    h = x - k * _HIGH
    low = k * _LOW
    s = 1.0 + h
    y = s + ((((1.0 - s) + h) - low) + _tail64(h - low))
    return y * np.int64(np.float64(t).view(np.int64) << 52).view(np.float64)


@_jit()
def _tail32(r: Any) -> Any:
    r2 = r * r
    return r2 * ((_D2 + _D3 * r) + r2 * ((_D4 + _D5 * r) + r2 * _D6))


@_jit()
def _exp32(x: Any) -> Any:
    """Return exp(x) in float32: for -87.33 <= x <= 88 within 0.79 ulp, NaN for NaN, 1 at 0, at most 1 for x <= 0.

    Below, the result may be subnormal (to an ulp of those), and from -87.69 on, -inf included, it is 0.

    Notes
    -----
    The proof is that of `_exp64` with v = 2^-24: the product is within 2^-16 of x / log 2, k `_HIGH_32` has 23
    bits, both terms of h are multiples of 2^-25, rounding l costs 2^-36, the polynomial is within 2^-28.2.
    """
    x = max(x, _LOWEST_32)
    t = x * _PER_32 + _SHIFT_32
    k = t - _SHIFT_32
    h = x - k * _HIGH_32
    low = k * _LOW_32
    s = _ONE_32 + h
    y = s + ((((_ONE_32 - s) + h) - low) + _tail32(h - low))
    return y * np.int32(np.float32(t).view(np.int32) << 23).view(np.float32)


@_jit()
def _largest(row: Array, lanes: Array) -> Any:
    """Return the largest entry of a row that is not empty; NaN is passed over."""
    width = min(row.shape[0], LANES)
    lanes[:width] = -np.inf
    for i in range(0, row.shape[0], LANES):
        part = row[i : i + LANES]
        for j in range(part.shape[0]):
            lanes[j] = max(lanes[j], part[j])
    return _largest_of(lanes, width)


@_jit()
def _scaled(row: Array, factor: Any, factors: Array, lanes: Array) -> Any:
    """Multiply the entries of a row by a factor and by their own, and return the largest; NaN is passed over."""
    width = min(row.shape[0], LANES)
    lanes[:width] = -np.inf
    for i in range(0, row.shape[0], LANES):
        part, other = row[i : i + LANES], factors[i : i + LANES]
        for j in range(part.shape[0]):
            value = part[j] * factor * other[j]
            part[j] = value
            lanes[j] = max(lanes[j], value)
    return _largest_of(lanes, width)


@_jit()
def _largest_of(lanes: Array, width: int) -> Any:
    """Return the largest of the first lanes; they are lost."""
    while width > 1:
        upper = lanes[(width + 1) // 2 : width]
        for j in range(upper.shape[0]):
            lanes[j] = max(lanes[j], upper[j])
        width -= upper.shape[0]
    return lanes[0]


@_jit()
def _added(lanes: Array, width: int) -> Any:
    """Add up the first lanes, halves to halves; they are lost."""
    while width > 1:
        upper = lanes[(width + 1) // 2 : width]
        for j in range(upper.shape[0]):
            lanes[j] += upper[j]
        width -= upper.shape[0]
    return lanes[0]


@_jit()
def _joined(total: float, low: float, section: float) -> Double:
    """Add the sum of a section to that of those before it, and the rounding error to theirs."""
    s, e = _sum(total, section)
    return s, low + e


@_jit()
def _rounded(total: float, low: float) -> float:
    """A sum and its rounding error, which has no meaning where the sum is not finite."""
    return total + low if abs(total) < np.inf else total


@_jit()
def _sum_of(row: Array, lanes: Array) -> Any:
    """Return the sum of a row, in float64: at most SECTION / LANES + 8 additions deep."""
    total, low = 0.0, 0.0
    for i in range(0, row.shape[0], SECTION):
        total, low = _joined(total, low, _section_sum(row[i : i + SECTION], lanes))
    return _rounded(total, low)


@_jit()
def _section_sum(row: Array, lanes: Array) -> Any:
    """Return the sum of a section."""
    width = min(row.shape[0], LANES)
    lanes[:width] = 0.0
    for i in range(0, row.shape[0], LANES):
        part = row[i : i + LANES]
        for j in range(part.shape[0]):
            lanes[j] += part[j]
    return _added(lanes, width)


@_jit()
def _dot(a: Array, b: Array, lanes: Array) -> Any:
    """Return the inner product of two rows, in the type of the lanes: at most n / LANES + 8 additions deep."""
    width = min(a.shape[0], LANES)
    lanes[:width] = 0.0
    for i in range(0, a.shape[0], LANES):
        part, other = a[i : i + LANES], b[i : i + LANES]
        for j in range(part.shape[0]):
            lanes[j] += part[j] * other[j]
    return _added(lanes, width)


@_jit()
def _shortfall(row: Array, top: Any, t: Array, lanes: Array) -> Any:
    """Return the sum of t_k (top - row_k), where that is finite, in float64."""
    total, low = 0.0, 0.0
    for i in range(0, row.shape[0], SECTION):
        section = _section_shortfall(row[i : i + SECTION], top, t[i : i + SECTION], lanes)
        total, low = _joined(total, low, section)
    return _rounded(total, low)


@_jit()
def _section_shortfall(row: Array, top: Any, t: Array, lanes: Array) -> Any:
    """The same of a section."""
    width = min(row.shape[0], LANES)
    lanes[:width] = 0.0
    for i in range(0, row.shape[0], LANES):
        part, other = row[i : i + LANES], t[i : i + LANES]
        for j in range(part.shape[0]):
            apart = np.float64(top - part[j])
            lanes[j] += np.float64(other[j]) * (apart if apart < np.inf else 0.0)
    return _added(lanes, width)


@_jit()
def _place(row: Array, value: Any) -> int:
    """Return where the value is first; 0 if nowhere."""
    for i in range(0, row.shape[0], LANES):
        part, count = row[i : i + LANES], 0
        for j in range(part.shape[0]):
            count += part[j] == value
        if count:
            k = i
            while row[k] != value:
                k += 1
            return k
    return 0


@_jit()
def _exp_sum_64(row: Array, top: Any, beta: Array, lanes: Array) -> Any:
    """Write β exp(row - top) over the row, and return the sum of the exponentials."""
    total, low = 0.0, 0.0
    for i in range(0, row.shape[0], SECTION):
        section = _section_exp_sum_64(row[i : i + SECTION], top, beta[i : i + SECTION], lanes)
        total, low = _joined(total, low, section)
    return _rounded(total, low)


@_jit()
def _section_exp_sum_64(row: Array, top: Any, beta: Array, lanes: Array) -> Any:
    """The same for a section."""
    width = min(row.shape[0], LANES)
    lanes[:width] = 0.0
    for i in range(0, row.shape[0], LANES):
        part, other = row[i : i + LANES], beta[i : i + LANES]
        for j in range(part.shape[0]):
            value = _exp64(part[j] - top)
            lanes[j] += value
            part[j] = value * other[j]
    return _added(lanes, width)


@_jit()
def _exp_32(row: Array, top: Any) -> None:
    """Write exp(row - top) over the row."""
    for k in range(row.shape[0]):
        row[k] = _exp32(row[k] - top)


@_jit()
def _over_largest(row: Array, top: Any, lows: Array, at: int, beta: Array, keep: bool, lanes: Array) -> Any:
    """With keep, write β exp(row - top) over the row; return the sum of the exponentials, in float64.

    Where there are low parts, to their accuracy.
    """
    single = row.dtype == _SINGLE
    if not single and not len(lows):
        return _exp_sum_64(row, top, beta, lanes)
    if len(lows):
        low = lows[at]
        for k in range(len(row)):  # of huge logits what was rounded off is not small
            if row[k] > -np.inf:
                gap, rest = _sum(row[k], -top)
                row[k], lows[k] = _sum(gap, rest + (lows[k] - low))
        top -= top  # rows are relative to it now
    if single:
        _exp_32(row, top)
    else:
        _shifted_64(row, top, row)
    for k in range(len(lows)):
        if row[k] > 0.0:
            row[k] += row[k] * lows[k]
    total = _sum_of(row, lanes)
    if keep:
        for k in range(len(row)):
            row[k] *= beta[k]
    return total


@_jit()
def exponentials(
    tile: Array,
    alpha: Array,
    beta: Array,
    bias: Array,
    hidden: Any,
    shared: Array,
    keep: bool,
    peak: Array,
    low: Array,
    others: Array,
    short: Array,
) -> None:
    r"""Turn products into exponentials, in place, and add them up.

    $$z_{nk} = \alpha_n \beta_k\,g_{nk} + b_k, \qquad M_n = \max_k z_{nk}, \qquad
    g_{nk} \leftarrow \beta_k\,e^{z_{nk} - M_n}$$

    over all k but the hidden one of the row, which becomes 0. Writes M, what was rounded off it, the sum of the
    exponentials less one that is 1, and, where there are shares, the sum of shared_k (M - z_k). Without keep the tile
    is left undefined. A row of nothing but the hidden class has the peak -inf. What adding a bias, which may be far
    larger than products, rounds off is made good.
    """
    lanes, wide, lows = np.empty(LANES, tile.dtype), np.empty(LANES), np.empty(len(bias), tile.dtype)
    for i in range(len(tile)):
        row, own = tile[i], hidden[i]
        if own >= 0:
            row[own] = -np.inf
        top = _scaled(row, alpha[i], beta, lanes)
        for k in range(len(lows)):
            row[k], lows[k] = _sum(row[k], bias[k])
        if own >= 0:
            row[own] = -np.inf
            if len(lows):
                lows[own] = 0.0
        if len(lows):
            top = _largest(row, lanes)
        peak[i], low[i], others[i], short[i] = top, 0.0, 0.0, 0.0
        if top == -np.inf:
            row[:] = 0.0
            continue
        at = _place(row, top)
        for k in range(len(lows)):
            if row[k] == top and lows[k] > lows[at]:
                at = k
        if len(shared):
            short[i] = _shortfall(row, top, shared, wide)
        if len(lows):
            low[i] = lows[at]
            short[i] += _shortfall_of_lows(row, lows, lows[at], shared)
        row[at] = -np.inf
        others[i] = _over_largest(row, top, lows, at, beta, keep, wide)
        row[at] = beta[at]


@_jit()
def _shortfall_of_lows(row: Array, lows: Array, low: Any, t: Array) -> Any:
    """Return what the low parts add to the shortfall, in float64."""
    total = 0.0
    for k in range(len(t)):
        if row[k] > -np.inf:
            total += np.float64(t[k]) * np.float64(low - lows[k])
    return total


@_jit()
def project(rows: Array, w: Array, beta: Array) -> None:
    """Take off every row its part along the row of w, whose length is 1/β."""
    lanes = np.empty(LANES, rows.dtype)
    for k in range(len(rows)):
        row, own = rows[k], w[k]
        along = _dot(row, own, lanes) * beta[k] * beta[k]
        for i in range(row.shape[0]):
            row[i] -= along * own[i]


@_jit()
def dots(a: Array, b: Array, out: Array) -> None:
    """Write the inner products of rows, in their own type; unlike a BLAS, with nobody's threads."""
    lanes = np.empty(LANES, a.dtype)
    for n in range(len(a)):
        out[n] = _dot(a[n], b[n], lanes)


@_jit()
def accumulate(total: Array, low: Array, rows: Array) -> None:
    """Add rows to a total, and what that rounds off to its low part."""
    for k in range(len(rows)):
        row, into, lost = rows[k], total[k], low[k]
        for i in range(row.shape[0]):
            s, e = _sum(into[i], row[i])
            into[i] = s
            lost[i] += e


@_jit()
def weighted(a: Array, of_a: Array, b: Array, of_b: Array, out: Array) -> None:
    """Write of_a times the rows of a plus of_b times those of b."""
    for n in range(len(out)):
        row, other, into = a[n], b[n], out[n]
        for i in range(len(into)):
            into[i] = row[i] * of_a[n] + other[i] * of_b[n]


@_jit()
def lower(rows: Array, factor: Array, vector: Array) -> None:
    """Take factor_k times a vector off row k."""
    for k in range(len(rows)):
        for i in range(rows.shape[1]):
            rows[k, i] -= factor[k] * vector[i]


@_jit()
def _folded(hi: Array, lo: Array) -> Double:
    """Add up pairs, halving them again and again; they are lost."""
    n = len(hi)
    while n > 1:
        rest = n - n // 2
        upper, upper_low = hi[rest:n], lo[rest:n]  # a slice, so that the compiler sees that it lies apart
        for i in range(len(upper)):
            s, e = _sum(hi[i], upper[i])
            e += lo[i] + upper_low[i]
            hi[i], lo[i] = _sum(s, e)
        n = rest
    return hi[0], lo[0]


@_jit()
def _inner(a: Array, b: Array, hi: Array, lo: Array) -> Double:
    """Return the inner product of two rows as a pair."""
    for i in range(len(a)):
        hi[i], lo[i] = _product(a[i], b[i])
    return _folded(hi, lo)


@_jit()
def inner(a: Array, b: Array, hi: Array, lo: Array) -> None:
    """Write the inner products of rows, as pairs: error at most (6 + 4 log2 D) u² of the sum of their terms."""
    work, work_low = np.empty(a.shape[1]), np.empty(a.shape[1])
    for n in range(len(a)):
        hi[n], lo[n] = _inner(a[n], b[n], work, work_low)


@_jit()
def separate(x: Array, w: Array, tangent_x: Array, tangent_w: Array, numbers: Array) -> None:
    """Write what an angle is made of, where rows are not nearly parallel and their squares neither over- nor underflow.

    The directions of what is left of w without its part along x, and of x without its part along w; and as pairs x·x,
    w·w, x·w and the square of the first length, all to about 100 bits of ‖x‖ and ‖w‖.
    """
    work, work_low = np.empty(x.shape[1]), np.empty(x.shape[1])
    for n in range(len(x)):
        a, b, towards_b, towards_a = x[n], w[n], tangent_x[n], tangent_w[n]
        xx, xx_low = _inner(a, a, work, work_low)
        ww, ww_low = _inner(b, b, work, work_low)
        xw, xw_low = _inner(a, b, work, work_low)
        q, q_low = _divide(xw, xw_low, xx, xx_low)
        for i in range(len(a)):
            p, e = _product(q, a[i])
            s, f = _sum(b[i], -p)
            hi, lo = _sum(s, (f - e) - q_low * a[i])
            p, e = _product(hi, hi)
            towards_b[i], work[i], work_low[i] = hi, p, e + 2.0 * hi * lo
        rest, rest_low = _folded(work, work_low)
        q, q_low = _divide(xw, xw_low, ww, ww_low)
        length_x, length_w = math.sqrt(rest), math.sqrt(rest / ww * xx)
        for i in range(len(a)):
            p, e = _product(q, b[i])
            s, f = _sum(a[i], -p)
            towards_b[i] /= length_x
            towards_a[i] = (s + ((f - e) - q_low * b[i])) / length_w
        numbers[n, 0], numbers[n, 1], numbers[n, 2], numbers[n, 3] = xx, xx_low, ww, ww_low
        numbers[n, 4], numbers[n, 5], numbers[n, 6], numbers[n, 7] = xw, xw_low, rest, rest_low


@_jit()
def _total(row: Array, lanes: Array, low: Array) -> Any:
    """Return the sum of the entries as if added up with twice the digits, and rounded."""
    hi, lo = _total_pair(row, lanes, low)
    return hi + lo if abs(hi) < np.inf else hi


@_jit()
def _total_pair(row: Array, lanes: Array, low: Array) -> Any:
    """Return the sum of the entries, added up with twice the digits, and what is rounded off it."""
    width = min(row.shape[0], LANES)
    lanes[:width], low[:width] = 0.0, 0.0
    for i in range(0, row.shape[0], LANES):
        part = row[i : i + LANES]
        for j in range(part.shape[0]):
            s, e = _sum(lanes[j], part[j])
            lanes[j] = s
            low[j] += e
    while width > 1:
        upper, upper_low = lanes[(width + 1) // 2 : width], low[(width + 1) // 2 : width]
        for j in range(upper.shape[0]):
            s, e = _sum(lanes[j], upper[j])
            lanes[j] = s
            low[j] += upper_low[j] + e
        width -= upper.shape[0]
    return lanes[0], low[0]


@_jit()
def _shifted_64(row: Array, top: Any, e: Array) -> None:
    """Write exp(row - top), what is rounded off the difference made good: below 2.7u of it."""
    for k in range(len(row)):
        gap, low = _sum(row[k], -top)
        v = _exp64(gap)
        e[k] = v + v * low if v > 0.0 else v


@_jit()
def _shifted_32(row: Array, top: Any, e: Array) -> None:
    """The same in float32."""
    for k in range(len(row)):
        gap, low = _sum(row[k], -top)
        v = _exp32(gap)
        e[k] = v + v * low if v > 0.0 else v


@_jit()
def cross_entropy(
    z: Array, label: Any, own: Array, t: Array, above: Array, counts: Any, keep: bool, losses: Array, out: Array
) -> None:
    r"""Write the loss of every row of logits and, with keep, its gradient: rows are read once and written once.

    $$L = \sum_k t_k\,\bigl((M - z_k) + \operatorname{log1p}(S)\bigr), \qquad
    \frac{\partial L}{\partial z_k} = g\,\bigl(p_k (T - t_k) - t_k q_k\bigr), \qquad S = \sum_{k\ne a} e^{z_k - M}$$

    t is `own` at the label and 0 elsewhere (no row of t), one row with `own` put in at the label, or, where there is
    no label (-1), a row for each row of z. g is `above`. Rows that do not count are not looked at: loss and gradient 0.
    """
    lanes, low = np.empty(LANES, z.dtype), np.empty(LANES, z.dtype)
    work = np.empty(z.shape[1] * min(len(t), 1), z.dtype)
    for i in range(len(z)):
        row, e = z[i], out[i if keep else 0]
        top = _largest(row, lanes) if counts[i] else row[0]
        if not counts[i] or not -np.inf < top < np.inf:
            losses[i] = np.nan if counts[i] else 0.0  # 0 times NaN too
            if keep:
                e[:] = np.nan if counts[i] else 0.0
            continue
        at = _place(row, top)
        if row.dtype == _SINGLE:
            _shifted_32(row, top, e)
        else:
            _shifted_64(row, top, e)
        one = e[at]
        e[at] = one - one
        others = _total(e, lanes, low)
        e[at] = one
        if not len(t):
            loss = _one_label(row, top, others, label[i], own[i], at, above[i], keep, e)
            losses[i] = loss if own[i] != 0.0 else 0.0 * others  # 0, also of an infinite gap, or NaN
            continue
        work[:] = t[i if label[i] < 0 else 0]
        if label[i] >= 0:
            work[label[i]] = own[i]
        total, total_low = _total_pair(work, lanes, low)
        if keep:
            _differences(others, total, total_low, work, at, above[i], e)
        for k in range(len(row)):
            apart = top - row[k]
            work[k] = work[k] * apart if work[k] != 0.0 else work[k]
        loss = _total(work, lanes, low) + total * _log1p(others)
        losses[i] = loss if _targeted(t, i, label[i], own[i]) else 0.0 * others


@_jit()
def _targeted(t: Array, i: int, y: int, own: Any) -> bool:
    """Whether any class of a row has a target other than 0."""
    row, targeted = t[i if y < 0 else 0], y >= 0 and own != 0.0
    for k in range(len(row)):
        targeted |= k != y and row[k] != 0.0
    return targeted


@_jit()
def _log1p(x: Any) -> Any:
    """NumPy's is another function than numba's."""
    return np.float64(math.log1p(np.float64(x)))


@_jit()
def _one_label(row: Array, top: Any, others: Any, y: int, own: Any, at: int, above: Any, keep: bool, e: Array) -> Any:
    """Return the loss where only the label has a target, and make exponentials the gradient."""
    if keep:
        one = e[at]
        whole = one + others
        q = others / whole if y == at else one - e[y] / whole
        _times(e, above * own / whole)
        e[y] = -above * own * q
    return own * ((top - row[y]) + _log1p(others))


@_jit()
def _differences(others: Any, total: Any, low: Any, t: Array, at: int, above: Any, e: Array) -> None:
    """Make exponentials the gradient, where every class may have a target; T comes with what is rounded off it."""
    one = e[at]
    whole = one + others
    for k in range(len(e)):
        p = e[k] / whole
        e[k] = above * (p * _less(total, low, t[k]) - t[k] * (one - p))
    e[at] = above * (one / whole * _less(total, low, t[at]) - t[at] * (others / whole))


@_jit()
def _less(total: Any, low: Any, part: Any) -> Any:
    """Return T - t_k, the sum of the other targets, to its own digits."""
    s, e = _sum(total, -part)
    return s + (e + low)


@_jit()
def _times(row: Array, factor: Any) -> None:
    for k in range(len(row)):
        row[k] *= factor


def ready() -> None:
    """Compile something, so that a compiler that does not work is found out."""
    _product(1.0, 1.0)
