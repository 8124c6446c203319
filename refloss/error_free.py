r"""Error-free arithmetic: sums and products with their rounding errors kept.

The bottom floor of the house. Roundoff is $u = 2^{-53}$. A quantity that needs more than 53 bits is a `Pair`: an
unevaluated sum ``hi + lo`` of two float64 arrays with ``|lo| <= u |hi|``, about 106 bits. The algorithms are those of
Dekker (1971), Knuth (TAOCP 2, 4.2.2) and, with the bounds quoted below, Joldes, Muller and Popescu, "Tight and rigorous
error bounds for basic building blocks of double-word arithmetic", ACM TOMS 44 (2017). A quantity that needs more
exponents than float64 has is `Scaled`, by a power of two for each number. No fused multiply-add is needed; any compiler
option that reorders floating point would destroy them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Exponents: TypeAlias = NDArray[np.int32]  # what frexp gives, and what ldexp is fast with
Index: TypeAlias = Any  # whatever NumPy takes between brackets
Numbers: TypeAlias = "Array | Pair | Scaled"  # a stage computes with the kind that its engine passes
Operand: TypeAlias = "Numbers | ArrayLike"  # what arithmetic takes on either side
Wide: TypeAlias = "Pair | Scaled"  # what has `rounded` and `log1p`
StageResult: TypeAlias = Any  # Numbers, of a kind that only the engine knows: arrays in `chain`, wider pairs in `dd`

u = 2.0**-53  # unit roundoff: half the distance from 1 to the next float64
_SPLITTER = 134217729.0  # 2^27 + 1: cuts 53 bits into two halves whose products are exact


def two_sum(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    """Return ``(s, e)`` with ``s = fl(a + b)`` and ``s + e = a + b`` exactly (Knuth)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def fast_two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return ``two_sum(a, b)`` where ``|a| >= |b|`` or ``a = 0`` (Dekker)."""
    s = a + b
    return s, b - (s - a)


def two_product(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    """Return ``(p, e)`` with ``p = fl(a b)`` and ``p + e = a b`` exactly (Dekker), short of over- and underflow."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    p = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


def _split(a: Array) -> tuple[Array, Array]:
    c = _SPLITTER * a
    high = c - (c - a)
    return high, a - high


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A double-double array: the unevaluated sum ``hi + lo``, ``|lo| <= u |hi|``.

    ``+``, ``-``, ``*`` and ``/`` take pairs, float64 arrays and numbers. Relative error of one operation: sum and
    difference 3u² of the result, whatever cancels (JMP algorithms 4 and 6); product 5u² (algorithms 8 and 10, the bound
    of Muller and Rideau, ACM TOMS 48, 2022); quotient 20u² (algorithm 17 with the product of algorithm 8); square root
    4u² (Lefèvre, Louvet, Muller, Picot and Rideau, 2023). What two kinds of pairs make is of the wider kind.

    A stage says `rounded`, `exp`, `expm1`, `expm1mx` and `log1p` where 53 bits are enough for the engine `chain`, and
    gets them; the wider kind of the engine `dd` gives all of its bits there. That is all in which the two engines
    differ inside a stage.
    """

    hi: Array
    lo: Array

    __array_ufunc__ = None  # an ndarray on the left hands the operation over to the pair

    @classmethod
    def of(cls, value: Pair | ArrayLike) -> Self:
        """Return value as a pair of this kind; what is one already stays as it is."""
        if isinstance(value, cls):
            return value
        if isinstance(value, Pair):
            return cls(value.hi, value.lo)
        hi = np.asarray(value, np.float64)
        return cls(hi, np.zeros_like(hi))

    def rounded(self) -> Array | Pair:
        """What is kept of the pair where 53 bits are enough."""
        return self.hi

    def exp(self) -> Array | Pair:
        """e to the power of the pair, to 53 bits: exp(h + l) = exp(h) (1 + l), for l² does not count."""
        e = np.exp(self.hi)
        return e + e * self.lo

    def log1p(self) -> Array | Pair:
        """log(1 + the pair), to 53 bits."""
        return np.log1p(self.hi) + self.lo / (1.0 + self.hi)

    def expm1(self) -> Array | Pair:
        """e^a - 1, to 53 bits: expm1(h + l) = expm1(h) + exp(h) l, for l² does not count."""
        e = np.expm1(self.hi)
        return e + (1.0 + e) * self.lo

    def expm1mx(self) -> Array | Pair:
        """e^a - 1 - a for a from -1 to 4, to 53 bits: Taylor's series up to a = 1, else a difference."""
        x = np.where(self.hi <= 1.0, self.hi, 0.0)
        series = np.zeros_like(x)
        for coefficient in EXP_TAYLOR[:17][::-1]:  # the rest is below 2^-56 of the sum
            series = coefficient.hi + x * series
        e = np.expm1(self.hi)
        return np.where(self.hi <= 1.0, x * x * series, e - self.hi) + e * self.lo

    def __neg__(self) -> Self:
        return type(self)(-self.hi, -self.lo)

    def __add__(self, other: Pair | ArrayLike) -> Pair:
        if isinstance(other, Scaled):
            return NotImplemented
        if not isinstance(other, Pair):
            s, e = two_sum(self.hi, other)
            return type(self)(*fast_two_sum(s, e + self.lo))
        s, e = two_sum(self.hi, other.hi)
        t, f = two_sum(self.lo, other.lo)
        s, e = fast_two_sum(s, e + t)
        return wider(self, other)(*fast_two_sum(s, e + f))

    __radd__ = __add__

    def __sub__(self, other: Pair | ArrayLike) -> Pair:
        return self + (-other if isinstance(other, Pair | Scaled) else -np.asarray(other, np.float64))

    def __rsub__(self, other: Pair | ArrayLike) -> Pair:
        return -self + other

    def __mul__(self, other: Pair | ArrayLike) -> Pair:
        if isinstance(other, Scaled):
            return NotImplemented
        if not isinstance(other, Pair):
            other = np.asarray(other, np.float64)
            p, e = two_product(self.hi, other)
            return type(self)(*fast_two_sum(p, e + self.lo * other))
        p, e = two_product(self.hi, other.hi)
        return wider(self, other)(*fast_two_sum(p, e + (self.hi * other.lo + self.lo * other.hi)))

    __rmul__ = __mul__

    def __truediv__(self, other: Pair | ArrayLike) -> Pair:
        if isinstance(other, Scaled):
            return NotImplemented
        other = Pair.of(other)
        q = self.hi / other.hi
        r = Pair(other.hi, other.lo) * q
        return wider(self, other)(*fast_two_sum(q, ((self.hi - r.hi) + (self.lo - r.lo)) / other.hi))

    def __rtruediv__(self, other: Pair | ArrayLike) -> Pair:
        return Pair.of(other) / self

    def __getitem__(self, index: Index) -> Self:
        return type(self)(self.hi[index], self.lo[index])

    def __setitem__(self, index: Index, value: Pair | ArrayLike) -> None:
        value = Pair.of(value)
        self.hi[index], self.lo[index] = value.hi, value.lo

    def __len__(self) -> int:
        return len(self.hi)

    def copy(self) -> Self:
        """Return a copy of both parts."""
        return type(self)(self.hi.copy(), self.lo.copy())

    @property
    def T(self) -> Self:  # noqa: N802 (NumPy's name)
        """Both parts transposed."""
        return type(self)(self.hi.T, self.lo.T)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of both parts."""
        return self.hi.shape


ZERO = np.int32(-(2**20))
"""The exponent of 0, below that of any product of a few numbers that are not 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """Numbers beyond the range of float64: ``mantissa * 2**exponent``.

    Mantissas are arrays or pairs with high parts in [1/2, 1), 0, infinite or NaN. Operations are those of the mantissas
    and round as these do, so a stage that is given such numbers computes what it always does, without over- and
    underflow. Slow: `in_range` and `shift` make them where float64 may not be enough, and nowhere else.
    """

    mantissa: Array | Pair
    exponent: Exponents

    __array_ufunc__ = None  # an ndarray on the left hands the operation over

    @classmethod
    def of(cls, value: Operand, exponent: Exponents | Integers | int = 0) -> Scaled:
        """Return ``value * 2**exponent`` with high parts of mantissas in [1/2, 1)."""
        if isinstance(value, Scaled):
            return cls.of(value.mantissa, value.exponent + exponent)
        value = value if isinstance(value, Pair) else np.asarray(value, np.float64)
        top = high(value)
        finite = np.isfinite(top)
        power = np.where(finite, np.frexp(top)[1], 0)
        whole = np.where(top == 0.0, ZERO, np.where(finite, power + exponent, 0)).astype(np.int32)
        return cls(ldexp(value, np.broadcast_to(-power, whole.shape)), whole)

    @property
    def hi(self) -> Array:
        """The numbers rounded to float64."""
        return high(plain(high(self)))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.hi, dtype)  # for NumPy's own functions

    def rounded(self) -> Scaled:
        """What is kept where 53 bits are enough."""
        return Scaled(self.mantissa.rounded(), self.exponent) if isinstance(self.mantissa, Pair) else self

    def log1p(self) -> Scaled:
        """log(1 + the number), as accurate as that of the mantissas; of numbers below 2^-200 they themselves."""
        tiny = self.exponent < -200
        return Scaled.of(where(tiny, self.rounded(), Pair.of(plain(where(tiny, 0.0, self))).log1p()))

    def __neg__(self) -> Scaled:
        return Scaled(-self.mantissa, self.exponent)

    def __add__(self, other: Operand) -> Scaled:
        other = Scaled.of(other)
        exponent = np.maximum(self.exponent, other.exponent)
        a, b = (ldexp(it.mantissa, it.exponent - exponent) for it in (self, other))
        return Scaled.of(a + b, exponent)

    __radd__ = __add__

    def __sub__(self, other: Operand) -> Scaled:
        return self + -Scaled.of(other)

    def __rsub__(self, other: Operand) -> Scaled:
        return -self + Scaled.of(other)

    def __mul__(self, other: Operand) -> Scaled:
        other = Scaled.of(other)
        return Scaled.of(self.mantissa * other.mantissa, self.exponent + other.exponent)

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> Scaled:
        other = Scaled.of(other)
        return Scaled.of(self.mantissa / other.mantissa, self.exponent - other.exponent)

    def __rtruediv__(self, other: Operand) -> Scaled:
        return Scaled.of(other) / self

    def __getitem__(self, index: Index) -> Scaled:
        return Scaled(self.mantissa[index], self.exponent[index])

    def __setitem__(self, index: Index, value: Operand) -> None:
        value = Scaled.of(value)
        put(self.mantissa, index, value.mantissa)
        self.exponent[index] = value.exponent

    def __len__(self) -> int:
        return len(self.exponent)

    def copy(self) -> Scaled:
        """Return a copy of both parts."""
        return Scaled(self.mantissa.copy(), self.exponent.copy())

    @property
    def T(self) -> Scaled:  # noqa: N802 (NumPy's name)
        """Both parts transposed."""
        return Scaled(self.mantissa.T, self.exponent.T)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of both parts."""
        return self.exponent.shape


P = TypeVar("P", bound=Pair)


@overload
def plain(a: Array) -> Array: ...
@overload
def plain(a: P) -> P: ...
@overload
def plain(a: Scaled) -> Array | Pair: ...
def plain(a: Numbers) -> Array | Pair:
    """Return numbers without their exponents: infinite or 0 where float64 cannot hold them."""
    if not isinstance(a, Scaled):
        return a
    with np.errstate(over="ignore", under="ignore"):
        return ldexp(a.mantissa, a.exponent)


def put(a: Numbers, index: Index, value: Numbers | float) -> None:
    """Write entries; value is a number, or of the kind of a."""
    a[index] = value  # type: ignore[assignment]


def in_range(a: Operand, bits: int) -> bool:
    """Whether all numbers that are neither 0 nor infinite nor NaN are from 2^-bits to 2^bits, and none is `Scaled`."""
    if isinstance(a, Scaled):
        return False
    sizes = np.abs(a.hi if isinstance(a, Pair) else np.asarray(a))
    return not ((sizes > 2.0**bits) & (sizes < np.inf) | (sizes < 2.0**-bits) & (sizes > 0.0)).any()


def shift(a: Numbers, exponent: Exponents) -> Numbers:
    """Return ``a * 2**exponent`` of numbers that have room for 2^200, as `Scaled` where that is not enough."""
    enough = (np.abs(exponent) <= 200) | (exponent == ZERO)
    return ldexp(a if enough.all() else Scaled.of(a), exponent)


def along(a: Scaled, axis: int) -> tuple[Array | Pair, Exponents]:
    """Return ``(m, e)`` with ``a = m * 2**e`` and one e along an axis, the largest; it is 0 where all are 0."""
    exponent = a.exponent.max(axis=axis, initial=ZERO, keepdims=True)
    exponent = np.where(exponent == ZERO, np.int32(0), exponent)
    return ldexp(a.mantissa, a.exponent - exponent), np.squeeze(exponent, axis)


def wider(a: Pair, b: object) -> type[Pair]:
    """Return the kind of pair that holds both."""
    return type(b) if isinstance(b, type(a)) else type(a)


@overload
def high(a: Array | Pair) -> Array: ...
@overload
def high(a: Scaled) -> Scaled: ...
def high(a: Numbers) -> Array | Scaled:
    """Return numbers rounded to 53 bits: the high part of a pair."""
    if isinstance(a, Scaled):
        return Scaled(high(a.mantissa), a.exponent)
    return a.hi if isinstance(a, Pair) else a


def digits(a: Numbers) -> Array:
    """Return numbers, or their mantissas, rounded to 53 bits: 0, infinite or NaN where the numbers are."""
    return high(a.mantissa if isinstance(a, Scaled) else a)


def order(a: Numbers) -> Array:
    """Return float64 numbers that are in the order of |a|."""
    sizes = np.abs(digits(a))
    return np.asarray(a.exponent + sizes if isinstance(a, Scaled) else sizes)


@overload
def rounded(a: Array | Pair) -> Array | Pair: ...
@overload
def rounded(a: Scaled) -> Scaled: ...
def rounded(a: Numbers) -> Numbers:
    """What is kept of numbers where 53 bits are enough: all of an array, else what its kind says."""
    return a if isinstance(a, np.ndarray) else a.rounded()


def sqrt(a: Pair) -> Pair:
    """Square root of a pair; 0 stays 0."""
    root = np.sqrt(a.hi)
    p, e = two_product(root, root)
    safe = np.where(root > 0.0, root, 1.0)
    return type(a)(*fast_two_sum(root, ((a.hi - p) - e + a.lo) / (2.0 * safe)))


@overload
def where(condition: Mask, a: Scaled, b: Numbers | float) -> Scaled: ...
@overload
def where(condition: Mask, a: Numbers | float, b: Scaled) -> Scaled: ...
@overload
def where(condition: Mask, a: Pair, b: Array | Pair | float) -> Pair: ...
@overload
def where(condition: Mask, a: Array | Pair | float, b: Pair) -> Pair: ...
@overload
def where(condition: Mask, a: Array | float, b: Array | float) -> Array: ...
def where(condition: Mask, a: Numbers | float, b: Numbers | float) -> Numbers:
    """Choose between two, entry by entry."""
    if isinstance(a, Scaled) or isinstance(b, Scaled):
        a, b = Scaled.of(a), Scaled.of(b)
        return Scaled(where(condition, a.mantissa, b.mantissa), np.where(condition, a.exponent, b.exponent))
    if not isinstance(a, Pair) and not isinstance(b, Pair):
        return np.where(condition, a, b)
    a, b = Pair.of(a), Pair.of(b)
    return wider(a, b)(np.where(condition, a.hi, b.hi), np.where(condition, a.lo, b.lo))


@overload
def ldexp(a: Array, exponent: Exponents | Integers | int) -> Array: ...
@overload
def ldexp(a: P, exponent: Exponents | Integers | int) -> P: ...
@overload
def ldexp(a: Scaled, exponent: Exponents | Integers | int) -> Scaled: ...
def ldexp(a: Numbers, exponent: Exponents | Integers | int) -> Numbers:
    """Return ``a * 2**exponent``, exact short of over- and underflow."""
    if isinstance(a, Scaled):
        return Scaled.of(a.mantissa, a.exponent + exponent)
    if not isinstance(a, Pair):
        return np.ldexp(a, exponent)
    return type(a)(np.ldexp(a.hi, exponent), np.ldexp(a.lo, exponent))


@overload
def frexp(a: Array) -> tuple[Array, Exponents]: ...
@overload
def frexp(a: P) -> tuple[P, Exponents]: ...
def frexp(a: Array | Pair) -> tuple[Array | Pair, Exponents]:
    """Return ``(m, e)`` with ``a = m * 2**e`` and m, its high part for a pair, in [1/2, 1), or 0: entry by entry."""
    exponent = np.frexp(high(a))[1]
    return ldexp(a, -exponent), exponent


def integers(a: Array) -> tuple[NDArray[np.object_], int]:
    """Return ``(n, e)`` with ``a = n * 2**e`` exactly, n being Python integers."""
    mantissa, exponent = np.frexp(a)
    least = int(exponent[a != 0.0].min(initial=5000))
    shift = np.where(a != 0.0, exponent - least, 0).astype(object)
    return np.ldexp(mantissa, 53).astype(np.int64).astype(object) << shift, least - 53


@overload
def spread(a: P, shape: tuple[int, ...]) -> P: ...
@overload
def spread(a: Scaled, shape: tuple[int, ...]) -> Scaled: ...
@overload
def spread(a: Array | float, shape: tuple[int, ...]) -> Array: ...
def spread(a: Numbers | float, shape: tuple[int, ...]) -> Numbers:
    """Broadcast to a shape, for reading."""
    if isinstance(a, Scaled):
        return Scaled(spread(a.mantissa, shape), np.broadcast_to(a.exponent, shape))
    if not isinstance(a, Pair):
        return np.broadcast_to(a, shape)
    return type(a)(np.broadcast_to(a.hi, shape), np.broadcast_to(a.lo, shape))


@overload
def scale_rows(rows: Array) -> tuple[Array, Exponents]: ...
@overload
def scale_rows(rows: P) -> tuple[P, Exponents]: ...
@overload
def scale_rows(rows: Scaled) -> tuple[Array | Pair, Exponents]: ...
def scale_rows(rows: Numbers) -> tuple[Array | Pair, Exponents]:
    """Return ``(scaled, e)`` with ``rows = scaled * 2**e`` and the largest entry of a row in [1/2, 1).

    The scaling is exact for entries down to 2^-1022 of the largest of their row; smaller ones become subnormal, or 0.
    The exponent e has one entry per row, and is 0 for a row of zeros.
    """
    if isinstance(rows, Scaled):
        return along(rows, -1)
    _, exponent = np.frexp(np.abs(high(rows)).max(axis=-1, initial=0.0))
    return ldexp(rows, -exponent[..., None]), exponent


@overload
def total(terms: Array, axis: int = -1) -> Pair: ...
@overload
def total(terms: P, axis: int = -1) -> P: ...
@overload
def total(terms: Scaled, axis: int = -1) -> Scaled: ...
def total(terms: Numbers, axis: int = -1) -> Pair | Scaled:
    """Sum along an axis, halving it again and again: error at most 3u² ceil(log2 n) of the sum of |terms|."""
    if isinstance(terms, Scaled):
        aligned, exponent = along(terms, axis)
        return Scaled.of(total(aligned, axis), exponent)
    if isinstance(terms, Pair):
        left = type(terms)(np.moveaxis(terms.hi, axis, 0), np.moveaxis(terms.lo, axis, 0))
    else:
        values = np.moveaxis(terms, axis, 0)
        half = len(values) // 2
        left = Pair(*two_sum(values[:half], values[half : 2 * half]))
        if len(values) % 2:
            left = _join(left, Pair.of(values[-1:]))
    if len(left) == 0:
        return type(left).of(np.zeros(left.shape[1:]))
    while (n := len(left)) > 1:
        half = n // 2
        summed = left[:half] + left[half : 2 * half]
        left = _join(summed, left[-1:]) if n % 2 else summed
    return left[0]


@overload
def rounded_total(terms: Array | Pair, axis: int = -1) -> Array | Pair: ...
@overload
def rounded_total(terms: Scaled, axis: int = -1) -> Scaled: ...
def rounded_total(terms: Numbers, axis: int = -1) -> Numbers:
    """Sum along an axis, rounded once; infinite and undefined terms, which have no error to carry, add up as ever."""
    if isinstance(terms, Scaled):
        aligned, exponent = along(terms, axis)
        return Scaled.of(rounded_total(aligned, axis), exponent)
    with np.errstate(invalid="ignore"):
        exact, plain = total(terms, axis).rounded(), np.asarray(high(terms).sum(axis))
    return where(np.isfinite(plain), exact, plain)


def _join(a: Pair, b: Pair) -> Pair:
    return type(a)(np.concatenate([a.hi, b.hi]), np.concatenate([a.lo, b.lo]))


def dot(a: Array | Pair, b: Array | Pair) -> Pair:
    """Row by row inner product to the full width of a pair: error at most (5 + 3 ceil(log2 D)) u² of sum |a_i b_i|."""
    return total(Pair.of(a) * b)


def direction(rows: Pair) -> tuple[Array | Pair, Pair]:
    """Return unit rows, rounded, and lengths to the full width of a pair; a row of zeros has direction 0, length 0."""
    scaled, exponent = scale_rows(rows)
    length = sqrt(dot(scaled, scaled))
    divisor = where(length.hi > 0.0, length, 1.0).rounded()
    return scaled.rounded() / divisor[:, None], ldexp(length, exponent)


@overload
def total_by_label(rows: Array, labels: Integers) -> tuple[Integers, Array]: ...
@overload
def total_by_label(rows: Pair, labels: Integers) -> tuple[Integers, Array | Pair]: ...
@overload
def total_by_label(rows: Scaled, labels: Integers) -> tuple[Integers, Scaled]: ...
def total_by_label(rows: Numbers, labels: Integers) -> tuple[Integers, Numbers]:
    """Add up the rows of each label: the labels that occur, in order, and their sums, each rounded once.

    Rows are added two by two within their label, as `total` does it, so labels do not share a scale.
    """
    if isinstance(rows, Scaled):
        present, place = np.unique(labels, return_inverse=True)
        exponent = np.full(len(present), ZERO)
        np.maximum.at(exponent, place, rows.exponent.max(axis=1))
        aligned = ldexp(rows.mantissa, rows.exponent - exponent[place, None])
        return present, Scaled.of(total_by_label(aligned, labels)[1], exponent[:, None])
    order = np.argsort(labels, kind="stable")
    labels = labels[order]
    first = np.flatnonzero(np.diff(labels, prepend=labels[:1] - 1))
    counts = np.diff(first, append=len(labels))
    sums, several = rounded(rows[order[first]]), counts > 1  # mostly there is one row, and nothing to add
    if several.any():
        repeated = np.repeat(several, counts)
        put(sums, several, _sums(Pair.of(rows[order[repeated]]), labels[repeated]).rounded())
    return labels[first], sums


def _sums(summed: Pair, labels: Integers) -> Pair:
    """Add up the rows of each label; labels are sorted."""
    while (same := labels[1:] == labels[:-1]).any():
        first = np.flatnonzero(np.concatenate([[True], ~same]))
        position = np.arange(len(labels)) - np.repeat(first, np.diff(np.append(first, len(labels))))
        left = np.flatnonzero(position % 2 == 0)
        right = np.minimum(left + 1, len(labels) - 1)
        paired = ((right > left) & (labels[right] == labels[left]))[:, None]
        partner = where(paired, summed[right], 0.0)
        labels, summed = labels[left], summed[left] + partner
    return summed


def expansion(value: Fraction, parts: int) -> list[float]:
    """Write a rational as a sum of doubles, each the rounding of the residual."""
    out = []
    for _ in range(parts):
        out.append(float(value))
        value -= Fraction(out[-1])
    return out


def _constant(value: Fraction) -> Pair:
    hi, lo = expansion(value, 2)
    return Pair(np.asarray(hi), np.asarray(lo))


_LOG_2 = Fraction(
    "0.693147180559945309417232121458176568075500134360255254120680009493393621969694715605863326996418687"
)
LOG_2 = _constant(_LOG_2)
_LOG_2_PARTS = expansion(_LOG_2, 3)
EXP_TAYLOR = [_constant(Fraction(1, math.factorial(n))) for n in range(2, 31)]
"""Coefficients of the Taylor series of e^x from x² on, up to x^30: the rest is below 2^-108 of their sum at |x| = 1."""
_PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211707")
PI = _constant(_PI)
_HALF_PI = expansion(_PI / 2, 3)
_IN_PAIRS = 8
_TAYLOR = [
    Pair(*np.array([expansion(Fraction((-1) ** i, math.factorial(2 * i + 1 - k)), 2) for k in (0, 1)]).T)
    for i in range(1, 16)
]
"""Coefficients of the Taylor series of sin r / r and cos r in powers of r², from the first power on."""


def sin_cos(angle: Pair) -> tuple[Pair, Pair]:
    """Sine and cosine of an angle in radians, as pairs; absolute error below 16u² up to |angle| = 100.

    The angle is reduced by multiples of pi/2, known to 160 bits, then Taylor's series is summed on [-pi/4, pi/4]. A
    sine next to a multiple of pi keeps its relative accuracy as far as the pair it was given does. From the ninth on,
    terms are below 2^-58 in all, and are summed in float64: that costs 0.1u².
    """
    quarter = np.rint(angle.hi / _HALF_PI[0])
    r = angle
    for part in _HALF_PI:
        r = r - Pair(*two_product(quarter, part))
    t = r * r
    terms = [term[:, *[None] * t.hi.ndim] for term in _TAYLOR]  # sine and cosine side by side
    small = np.zeros(1)
    for term in reversed(terms[_IN_PAIRS:]):
        small = term.hi + t.hi * small
    both = Pair.of(small)
    for term in reversed(terms[:_IN_PAIRS]):
        both = term + t * both
    both = t * both
    sine, cosine = r + r * both[0], 1.0 + both[1]
    quadrant = quarter % 4
    swapped = quadrant % 2 == 1
    sine, cosine = where(swapped, cosine, sine), where(swapped, sine, cosine)
    return where(quadrant >= 2, -sine, sine), where((quadrant == 1) | (quadrant == 2), -cosine, cosine)


def expm1(a: Pair) -> Pair:
    """exp(a) - 1 as a pair for -130 <= a <= 130: relative error below 150u².

    a = k log 2 + r with k whole and log 2 known to 160 bits; Taylor's series is summed at r / 16, and
    exp(2r) - 1 = s (s + 2), with s = exp(r) - 1, taken four times. What is then added, 2^k - 1, is 0 where k is.
    """
    k = np.rint(a.hi / _LOG_2_PARTS[0])
    r = a
    for part in _LOG_2_PARTS:
        r = r - Pair(*two_product(k, part))
    r = ldexp(r, -4)
    s = r * 0.0
    for term in reversed(EXP_TAYLOR[:16]):
        s = (s + term) * r
    s = (s + 1.0) * r
    for _ in range(4):
        s = s * (s + 2.0)
    power = np.ldexp(1.0, k.astype(np.int32))
    return s * power + Pair(*two_sum(power, -1.0))


def tanh(a: Pair) -> Pair:
    """Hyperbolic tangent of a pair of finite numbers, as a pair: relative error below 200u², next to 0 too."""
    negative = a.hi < 0.0
    size = where(negative, -a, a)
    below = expm1(where(size.hi < 64.0, size, 64.0) * -2.0)  # exp(-2|a|) - 1; beyond 64 it is -1 to 184 bits
    ratio = -below / (below + 2.0)
    return where(negative, -ratio, ratio)
