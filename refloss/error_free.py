r"""Error-free arithmetic: sums and products with their rounding errors kept.

The bottom floor of the house. Roundoff is $u = 2^{-53}$. A quantity that needs more than 53 bits is a `Pair`: an
unevaluated sum ``hi + lo`` of two float64 arrays with ``|lo| <= u |hi|``, about 106 bits. The algorithms are those of
Dekker (1971), Knuth (TAOCP 2, 4.2.2) and, with the bounds quoted below, Joldes, Muller and Popescu, "Tight and rigorous
error bounds for basic building blocks of double-word arithmetic", ACM TOMS 44 (2017). No fused multiply-add is needed;
any compiler option that reorders floating point would destroy them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Exponents: TypeAlias = NDArray[np.int32]  # what frexp gives, and what ldexp is fast with

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
    4u² (Lefèvre, Louvet, Muller, Picot and Rideau, 2023).
    """

    hi: Array
    lo: Array

    __array_ufunc__ = None  # an ndarray on the left hands the operation over to the pair

    @staticmethod
    def of(value: Pair | ArrayLike) -> Pair:
        """Return value as a pair; what is one already stays as it is."""
        if isinstance(value, Pair):
            return value
        hi = np.asarray(value, np.float64)
        return Pair(hi, np.zeros_like(hi))

    def __neg__(self) -> Pair:
        return Pair(-self.hi, -self.lo)

    def __add__(self, other: Pair | ArrayLike) -> Pair:
        if not isinstance(other, Pair):
            s, e = two_sum(self.hi, other)
            return Pair(*fast_two_sum(s, e + self.lo))
        s, e = two_sum(self.hi, other.hi)
        t, f = two_sum(self.lo, other.lo)
        s, e = fast_two_sum(s, e + t)
        return Pair(*fast_two_sum(s, e + f))

    __radd__ = __add__

    def __sub__(self, other: Pair | ArrayLike) -> Pair:
        return self + (-other if isinstance(other, Pair) else -np.asarray(other, np.float64))

    def __rsub__(self, other: Pair | ArrayLike) -> Pair:
        return -self + other

    def __mul__(self, other: Pair | ArrayLike) -> Pair:
        if not isinstance(other, Pair):
            other = np.asarray(other, np.float64)
            p, e = two_product(self.hi, other)
            return Pair(*fast_two_sum(p, e + self.lo * other))
        p, e = two_product(self.hi, other.hi)
        return Pair(*fast_two_sum(p, e + (self.hi * other.lo + self.lo * other.hi)))

    __rmul__ = __mul__

    def __truediv__(self, other: Pair | ArrayLike) -> Pair:
        other = Pair.of(other)
        q = self.hi / other.hi
        r = other * q
        return Pair(*fast_two_sum(q, ((self.hi - r.hi) + (self.lo - r.lo)) / other.hi))

    def __rtruediv__(self, other: Pair | ArrayLike) -> Pair:
        return Pair.of(other) / self

    def __getitem__(self, index: Any) -> Pair:
        return Pair(self.hi[index], self.lo[index])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of both parts."""
        return self.hi.shape


def sqrt(a: Pair) -> Pair:
    """Square root of a pair; 0 stays 0."""
    root = np.sqrt(a.hi)
    p, e = two_product(root, root)
    safe = np.where(root > 0.0, root, 1.0)
    return Pair(*fast_two_sum(root, ((a.hi - p) - e + a.lo) / (2.0 * safe)))


def where(condition: NDArray[np.bool_], a: Pair, b: Pair) -> Pair:
    """Choose between two pairs, entry by entry."""
    return Pair(np.where(condition, a.hi, b.hi), np.where(condition, a.lo, b.lo))


def ldexp(a: Pair, exponent: Exponents) -> Pair:
    """Return ``a * 2**exponent``, exact short of over- and underflow."""
    return Pair(np.ldexp(a.hi, exponent), np.ldexp(a.lo, exponent))


def scale_rows(rows: Array) -> tuple[Array, Exponents]:
    """Return ``(scaled, e)`` with ``rows = scaled * 2**e`` and the largest entry of a row in [1/2, 1).

    The scaling is exact for entries down to 2^-1022 of the largest of their row; smaller ones become subnormal, or 0.
    The exponent e has one entry a row, and is 0 for a row of zeros.
    """
    _, exponent = np.frexp(np.abs(rows).max(axis=-1, initial=0.0))
    return np.ldexp(rows, -exponent[..., None]), exponent


def total(terms: Pair | Array, axis: int = -1) -> Pair:
    """Sum along an axis, halving it again and again: error at most 3u² ceil(log2 n) of the sum of |terms|."""
    if isinstance(terms, Pair):
        left = Pair(np.moveaxis(terms.hi, axis, 0), np.moveaxis(terms.lo, axis, 0))
    else:
        values = np.moveaxis(terms, axis, 0)
        half = len(values) // 2
        left = Pair(*two_sum(values[:half], values[half : 2 * half]))
        if len(values) % 2:
            left = _join(left, Pair.of(values[-1:]))
    if len(left.hi) == 0:
        return Pair.of(np.zeros(left.shape[1:]))
    while (n := len(left.hi)) > 1:
        half = n // 2
        summed = left[:half] + left[half : 2 * half]
        left = _join(summed, left[-1:]) if n % 2 else summed
    return left[0]


def rounded_total(terms: Array, axis: int = -1) -> Array:
    """Sum along an axis, rounded once; infinite and undefined terms, which have no error to carry, add up as ever."""
    with np.errstate(invalid="ignore"):
        exact, plain = total(terms, axis).hi, terms.sum(axis)
    return np.where(np.isfinite(plain), exact, plain)


def _join(a: Pair, b: Pair) -> Pair:
    return Pair(np.concatenate([a.hi, b.hi]), np.concatenate([a.lo, b.lo]))


def dot(a: Pair | Array, b: Pair | Array) -> Pair:
    """Row by row inner product to the full width of a pair: error at most (5 + 3 ceil(log2 D)) u² of sum |a_i b_i|."""
    return total(Pair.of(a) * b)


def direction(rows: Pair) -> tuple[Array, Pair]:
    """Return unit rows, rounded, and lengths to the full width of a pair; a row of zeros has direction 0, length 0."""
    hi, exponent = scale_rows(rows.hi)
    scaled = Pair(hi, np.ldexp(rows.lo, -exponent[:, None]))
    length = sqrt(dot(scaled, scaled))
    return hi / np.where(length.hi > 0.0, length.hi, 1.0)[:, None], ldexp(length, exponent)


_BLOCK = 1024  # terms of an inner product that are added without rounding


def _slices(rows: Array) -> tuple[Array, Array]:
    """Cut entries of size at most 1 into a head of few bits and the rest, exactly."""
    bits = (53 - math.ceil(math.log2(max(rows.shape[1], 2)))) // 2
    lift = 1.5 * 2.0 ** (52 - bits)  # adding it rounds to multiples of 2^-bits
    head = rows + lift
    head -= lift
    return head, rows - head


def _in_blocks(a: Array, b: Array, product: Callable[[Array, Array], Pair]) -> Pair:
    """Add up, as pairs, what product makes of the blocks of columns of a and b."""
    summed = product(a[:, :_BLOCK], b[:, :_BLOCK])
    for start in range(_BLOCK, a.shape[1], _BLOCK):
        columns = slice(start, start + _BLOCK)
        summed = summed + product(a[:, columns], b[:, columns])
    return summed


def matmul(a: Array, b: Array) -> Pair:
    r"""Return ``a @ b.T`` as a pair, by three matrix products in float64 for every block of at most 1024 columns.

    Rows of a block of a (M, K) and of b (P, K) are scaled by powers of two to entries of size at most 1 and cut into a
    head of $\beta = \lfloor (53 - \lceil \log_2 K \rceil)/2 \rfloor$ bits and a tail of size at most $2^{-\beta-1}$.
    Sums of products of heads are integers of at most 53 bits times $2^{-2\beta}$, exact in whatever order a BLAS adds
    them. Products with a tail, about $2^{-\beta}$ smaller, are rounded as a BLAS does it: error at most
    $$(K + 1)\,u \sum_i (|a_i^h b_i^t| + |a_i^t b_i|)
    \le 2 (K + 1) \sqrt K\,2^{-\beta} u\,\lVert a\rVert\lVert b\rVert$$
    which at K = 512 is 2^-60 of the lengths and at K = 1024 u/32. Relative to $\max|b| \sum_i |a_i|$ it is at most
    $(K + 1)^2\,2^{-\beta} u$, u/2 at K = 1024, in every block. What is found is far below either.
    """

    def product(a: Array, b: Array) -> Pair:
        (a, a_exponent), (b, b_exponent) = scale_rows(a), scale_rows(b)
        (a_head, a_tail), (b_head, b_tail) = _slices(a), _slices(b)
        found = Pair(*two_sum(a_head @ b_head.T, a_head @ b_tail.T + a_tail @ b.T))
        return ldexp(found, a_exponent[:, None] + b_exponent)

    return _in_blocks(a, b, product)


def row_dot(a: Array, b: Array) -> Pair:
    """Row by row inner product of rows with entries of size at most 1, as accurate as `matmul` and as cheap."""

    def product(a: Array, b: Array) -> Pair:
        (a_head, a_tail), (b_head, b_tail) = _slices(a), _slices(b)
        low = np.einsum("nd,nd->n", a_head, b_tail) + np.einsum("nd,nd->n", a_tail, b)
        return Pair(*two_sum(np.einsum("nd,nd->n", a_head, b_head), low))

    return _in_blocks(a, b, product)


def total_by_label(rows: Array, labels: Integers) -> tuple[Integers, Array]:
    """Add up the rows of each label: the labels that occur, in order, and their sums, each rounded once.

    Rows are added two by two within their label, as `total` does it, so labels do not share a scale.
    """
    order = np.argsort(labels, kind="stable")
    labels, summed = labels[order], Pair.of(rows[order])
    while (same := labels[1:] == labels[:-1]).any():
        first = np.flatnonzero(np.concatenate([[True], ~same]))
        position = np.arange(len(labels)) - np.repeat(first, np.diff(np.append(first, len(labels))))
        left = np.flatnonzero(position % 2 == 0)
        right = np.minimum(left + 1, len(labels) - 1)
        paired = ((right > left) & (labels[right] == labels[left]))[:, None]
        partner = where(paired, summed[right], Pair.of(np.zeros_like(summed.hi[right])))
        labels, summed = labels[left], summed[left] + partner
    return labels, summed.hi


def _expansion(value: Fraction, parts: int) -> list[float]:
    """Write a rational as a sum of doubles, each the rounding of what is left."""
    out = []
    for _ in range(parts):
        out.append(float(value))
        value -= Fraction(out[-1])
    return out


def _constant(value: Fraction) -> Pair:
    hi, lo = _expansion(value, 2)
    return Pair(np.asarray(hi), np.asarray(lo))


_PI = Fraction("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211707")
PI = _constant(_PI)
_HALF_PI = _expansion(_PI / 2, 3)
_SINE = [_constant(Fraction((-1) ** i, math.factorial(2 * i + 1))) for i in range(1, 16)]
_COSINE = [_constant(Fraction((-1) ** i, math.factorial(2 * i))) for i in range(1, 16)]


def sin_cos(angle: Pair) -> tuple[Pair, Pair]:
    """Sine and cosine of an angle in radians, as pairs; absolute error below 16u² up to |angle| = 100.

    The angle is reduced by multiples of pi/2, held to 160 bits, then Taylor's series is summed on [-pi/4, pi/4]. A sine
    next to a multiple of pi keeps its relative accuracy as far as the pair it was given does.
    """
    quarter = np.rint(angle.hi / _HALF_PI[0])
    r = angle
    for part in _HALF_PI:
        r = r - Pair(*two_product(quarter, part))
    t = r * r
    sine, cosine = _SINE[-1], _COSINE[-1]
    for s, c in zip(_SINE[-2::-1], _COSINE[-2::-1], strict=True):
        sine, cosine = s + t * sine, c + t * cosine
    sine, cosine = r + r * (t * sine), 1.0 + t * cosine
    quadrant = quarter % 4
    swapped = quadrant % 2 == 1
    sine, cosine = where(swapped, cosine, sine), where(swapped, sine, cosine)
    return where(quadrant >= 2, -sine, sine), where((quadrant == 1) | (quadrant == 2), -cosine, cosine)
