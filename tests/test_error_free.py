import hashlib
import itertools
import math
import os
import re
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp, mpf

from refloss import error_free
from refloss.error_free import (
    ACCURACY,
    DEEPEST,
    LONGEST,
    PI,
    ZERO,
    Pair,
    Scaled,
    cuts,
    digits,
    direction,
    dot,
    fast_two_sum,
    frexp,
    high,
    in_range,
    integers,
    ldexp,
    leaves,
    matmul,
    plain,
    rounded_total,
    row_dot,
    scale_rows,
    shift,
    shown,
    sin_cos,
    spread,
    sqrt,
    total,
    total_by_label,
    two_product,
    two_sum,
    ulp_error,
    where,
)
from support.odd_values import Unprintable, contains_itself, nested

U = Fraction(1, 2**53)
HIGHER = 1 + Fraction(1, 2**40)  # bounds are quoted to leading order in u; what is left out is 100u of them at most

# Where arithmetic goes wrong first: zeros, subnormals, powers of two and their neighbours, full mantissas, the largest.
EXTREMES = [0.0, -0.0, 5e-324, -1.5e-323, 2.0**-1022, 1.0, -1.0, 1.0 + 2.0**-52, 1.0 - 2.0**-53, -(2.0**53 - 1.0), 0.1]
EXTREMES += [2.0**27 + 1.0, 1e-200, -1e200, 2.0**1022, -(2.0 - 2.0**-52) * 2.0**1021]


def numbers(rng, count, low=-2, high=2):
    """Float64 numbers with random mantissas and with those that are worst for rounding: 10…0, 10…01, 11…1."""
    mantissa = rng.integers(2**52, 2**53, count)
    kind = rng.integers(0, 5, count)
    mantissa = np.where(kind == 0, 2**52, np.where(kind == 1, 2**53 - 1, mantissa))
    mantissa = np.where(kind == 2, 2**52 + rng.integers(0, 4, count), mantissa)
    return np.ldexp(rng.choice([-1.0, 1.0], count) * mantissa, rng.integers(low, high + 1, count) - 52)


def pairs(rng, count, low=-2, high=2):
    """Pairs whose low part is anything up to half an ulp of the high part, the half itself among them."""
    hi = numbers(rng, count, low, high)
    share = np.where(
        rng.integers(0, 2, count), rng.uniform(-0.5, 0.5, count), 0.5 - rng.integers(0, 3, count) * 2.0**-53
    )
    share = share * rng.choice([-1.0, 0.0, 1.0, 2.0**-30], count)
    return Pair(*two_sum(hi, share * np.spacing(np.abs(hi))))


def exactly(value):
    """The numbers of a pair or an array, as a flat list of rationals."""
    if isinstance(value, Pair):
        return [Fraction(hi) + Fraction(lo) for hi, lo in zip(value.hi.ravel(), value.lo.ravel(), strict=True)]
    return [Fraction(number) for number in np.asarray(value).ravel()]


def worst(found, true, sizes):
    """The largest |found - true| / size in units of u²; where the size is 0 the error has to be."""
    errors = [0.0]
    for result, truth, size in zip(exactly(found), true, sizes, strict=True):
        assert size or result == truth
        errors.append(float(abs(result - truth) / size / U**2) if size else 0.0)
    return max(errors)


def normalised(pair):
    return bool((np.abs(pair.lo) <= float(U) * np.abs(pair.hi)).all())


# ------------------------------------------------------------------------------------------------ sums and products


def test_two_sum_is_exact():
    rng = np.random.default_rng(1)
    a, b = np.array(list(itertools.product(EXTREMES, EXTREMES))).T
    a, b = np.append(a, numbers(rng, 2000, -60, 60)), np.append(b, numbers(rng, 2000, -60, 60))
    s, e = two_sum(a, b)
    assert exactly(Pair(s, e)) == [p + q for p, q in zip(exactly(a), exactly(b), strict=True)]
    assert (s == a + b).all()
    larger = np.abs(a) >= np.abs(b)
    fast = fast_two_sum(a[larger], b[larger])
    assert all(np.array_equal(p, q[larger]) for p, q in zip(fast, (s, e), strict=True))
    assert two_sum(1, 2.0**-60) == (1.0, 2.0**-60)


def test_two_product_is_exact_short_of_over_and_underflow():
    rng = np.random.default_rng(2)
    inside = [v for v in EXTREMES if v == 0.0 or 2.0**-960 < abs(v) < 2.0**990]
    both = [v for v in itertools.product(inside, inside) if 0.0 in v or 2.0**-960 < abs(v[0] * v[1]) < math.inf]
    a, b = np.array(both).T
    a, b = np.append(a, numbers(rng, 2000, -400, 400)), np.append(b, numbers(rng, 2000, -400, 400))
    p, e = two_product(a, b)
    assert exactly(Pair(p, e)) == [v * w for v, w in zip(exactly(a), exactly(b), strict=True)]
    assert (p == a * b).all()


# -------------------------------------------------------------------------------------------------------- Pair


def cancelling(rng, a):
    """Pairs a few units in the last place of hi or of lo away from minus `a`."""
    count = len(a.hi)
    hi = -a.hi * (1.0 + rng.integers(-2, 3, count) * 2.0**-52)
    return Pair(*two_sum(hi, -a.lo * rng.choice([1.0, -1.0, 0.5, 1.0 + 2.0**-50], count)))


SUM_BOUND, PRODUCT_BOUND, QUOTIENT_BOUND, ROOT_BOUND = 3, 5, 20, 4  # times u²: the docstring of Pair
OPERATIONS = {
    "+": (lambda a, b: a + b, SUM_BOUND),
    "-": (lambda a, b: a - b, SUM_BOUND),
    "*": (lambda a, b: a * b, PRODUCT_BOUND),
    "/": (lambda a, b: a / b, QUOTIENT_BOUND),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_pair_operations_keep_their_bounds(name):
    operation, bound = OPERATIONS[name]
    rng = np.random.default_rng(3)
    a, b = pairs(rng, 1500), pairs(rng, 1500)
    near = cancelling(rng, a)
    for other in (b, near, -near, b.hi, near.hi, -near.hi):
        found = operation(a, other)
        true = [operation(p, q) for p, q in zip(exactly(a), exactly(other), strict=True)]
        assert normalised(found)
        assert worst(found, true, [abs(t) for t in true]) <= bound * HIGHER


def test_the_sum_of_pairs_at_the_worst_example_known():
    """Joldes, Muller and Popescu 2017, after their theorem 3.1: 2.25u²."""
    a = Pair(np.array(9007199254740991.0), np.array(-9007199254740991.0 / 2**54))
    b = Pair(np.array(-9007199254740987.0 / 2), np.array(-9007199254740991.0 / 2**56))
    true = exactly(a)[0] + exactly(b)[0]
    assert 2.2 < worst(a + b, [true], [abs(true)]) <= SUM_BOUND


def test_square_root_keeps_its_bound_and_zero_stays_zero():
    rng = np.random.default_rng(4)
    a = pairs(rng, 2000, -300, 300)
    a = where(a.hi > 0.0, a, -a)
    found = sqrt(a)
    with mp.workdps(80):
        true = [mp.sqrt(mpf(v.numerator) / v.denominator) for v in exactly(a)]
        errors = [abs(mpf(v.numerator) / v.denominator - t) / t for v, t in zip(exactly(found), true, strict=True)]
        assert max(errors) * 2**106 <= ROOT_BOUND * (1 + mpf(2) ** -40)
    assert normalised(found)
    zero = sqrt(Pair.of([0.0, 4.0]))
    assert zero.hi.tolist() == [0.0, 2.0]
    assert zero.lo.tolist() == [0.0, 0.0]


def test_operators_take_numbers_and_arrays_on_either_side():
    rng = np.random.default_rng(5)
    a = pairs(rng, 6)
    array = numbers(rng, 6)
    reflected = {
        "+": (lambda v: v + a, lambda v: Pair.of(v) + a, SUM_BOUND),
        "-": (lambda v: v - a, lambda v: Pair.of(v) - a, SUM_BOUND),
        "*": (lambda v: v * a, lambda v: Pair.of(v) * a, PRODUCT_BOUND),
        "/": (lambda v: v / a, lambda v: Pair.of(v) / a, QUOTIENT_BOUND),
    }
    for value in (array, 3.0, 3, np.float64(0.1), np.full(6, 2)):
        for name, (operation, same, bound) in reflected.items():
            found = operation(value)
            assert isinstance(found, Pair), name
            assert found.shape == (6,)
            sizes = [abs(v) for v in exactly(same(value))]
            assert worst(found, exactly(same(value)), sizes) <= 2 * bound * HIGHER  # each is within the bound


def test_pair_negates_indexes_and_knows_its_shape():
    a = Pair(np.arange(6.0).reshape(2, 3), np.zeros((2, 3)))
    assert a.shape == (2, 3)
    assert a[1].shape == (3,)
    assert a[:, 2].hi.tolist() == [2.0, 5.0]
    assert exactly(-a) == [-v for v in exactly(a)]
    assert Pair.of(a) is a
    assert Pair.of(2).hi.dtype == np.float64


def test_where_and_ldexp_act_on_both_parts():
    a, b = Pair(np.array([1.0, 2.0]), np.array([2.0**-60, 2.0**-61])), Pair.of([3.0, 4.0])
    chosen = where(np.array([True, False]), a, b)
    assert chosen.hi.tolist() == [1.0, 4.0]
    assert chosen.lo.tolist() == [2.0**-60, 0.0]
    exponent = np.array([3, -500])
    assert exactly(ldexp(a, exponent)) == [v * Fraction(2) ** int(e) for v, e in zip(exactly(a), exponent, strict=True)]


# ----------------------------------------------------------------------------------------------- sums along an axis


def levels(count):
    return math.ceil(math.log2(count)) if count > 1 else 0


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8, 33, 1000])
@pytest.mark.parametrize("as_pairs", [False, True])
def test_total_keeps_its_bound(count, as_pairs):
    """3u² ceil(log2 n) of the sum of |terms|: the terms cancel to 1e-16 of that and less."""
    rng = np.random.default_rng(count)
    terms = pairs(rng, 4 * count, -3, 20)
    hi, lo = (part.reshape(4, count) for part in (terms.hi, terms.lo))
    if count > 2:
        hi[:, -1] = -hi[:, :-1].sum(axis=1)
        lo[:, -1] = 0.0
    rows = Pair(hi, lo) if as_pairs else hi
    for found in (total(rows), total(Pair(hi.T, lo.T) if as_pairs else hi.T, axis=0)):
        assert found.shape == (4,)
        entries = [exactly(rows[n]) for n in range(4)]
        sizes = [sum(map(abs, row), Fraction(0)) for row in entries]
        assert worst(found, [sum(row, Fraction(0)) for row in entries], sizes) <= 3 * levels(count) * HIGHER


@pytest.mark.parametrize("size", [1, 2, 7, 64, 513])
def test_dot_keeps_its_bound(size):
    """(5 + 3 ceil(log2 D)) u² of the sum of |a_i b_i|, whether the vectors are pairs or not."""
    rng = np.random.default_rng(size)
    a, b = pairs(rng, 3 * size), pairs(rng, 3 * size)
    a, b = (Pair(v.hi.reshape(3, size), v.lo.reshape(3, size)) for v in (a, b))
    a.hi[:, -1] = -(a.hi[:, :-1] * b.hi[:, :-1]).sum(axis=1) / b.hi[:, -1] if size > 1 else a.hi[:, -1]
    a.lo[:, -1] = 0.0
    for left, right in ((a, b), (a.hi, b), (a, b.hi), (a.hi, b.hi)):
        terms = [[p * q for p, q in zip(exactly(left[n]), exactly(right[n]), strict=True)] for n in range(3)]
        sizes = [sum(map(abs, row)) for row in terms]
        assert worst(dot(left, right), [sum(row) for row in terms], sizes) <= (5 + 3 * levels(size)) * HIGHER


# ------------------------------------------------------------------------------------------------- matrix products


def cut(row):
    """Head and tail of a row of entries up to 1, as `matmul` describes them, in rationals."""
    bits = (53 - math.ceil(math.log2(max(len(row), 2)))) // 2
    heads = [Fraction(round(Fraction(v) * 2**bits), 2**bits) for v in row.tolist()]
    return heads, [Fraction(v) - head for v, head in zip(row.tolist(), heads, strict=True)]


def block_bound(a, b):
    """What the product of two rows of entries up to 1 may be wrong by.

    Each of the two products with a tail rounds a product and K - 1 sums on the way of every term, and their sum is
    rounded once more: at most K + 1 times u. The rest is exact. (What is of second order is in HIGHER.)
    """
    (a_head, a_tail), (_, b_tail) = cut(a), cut(b)
    entries = zip(a_head, a_tail, b.tolist(), b_tail, strict=True)
    return (
        (len(a) + 1) * U * sum(abs(head * rest) + abs(tail * Fraction(v)) for head, tail, v, rest in entries) * HIGHER
    )


def product_bound(a, b, scaled):
    """Blocks of 1024 columns one by one, each scaled first if asked; then 3u² for adding each to those before."""
    bound, blocks = Fraction(0), range(0, len(a), 1024)
    for start in blocks:
        left, right = a[None, start : start + 1024], b[None, start : start + 1024]
        size = Fraction(1)
        if scaled:
            (left, e), (right, f) = scale_rows(left), scale_rows(right)
            size = Fraction(2) ** int(e[0] + f[0])
        bound += block_bound(left[0], right[0]) * size
    terms = sum(abs(p * q) for p, q in zip(exactly(a), exactly(b), strict=True))
    return bound + (len(blocks) - 1) * SUM_BOUND * U**2 * terms * HIGHER


def graded(rng, rows, columns, kind):
    values = rng.standard_normal((rows, columns))
    if kind == "graded":
        values = np.ldexp(values, rng.integers(-60, 3, values.shape))
    if kind == "cancelling":
        values[:, columns // 2 :] = -values[:, : columns - columns // 2]
    if kind == "positive":
        values = np.abs(values)
    return values


@pytest.mark.parametrize("size", [1, 2, 3, 16, 512, 1024, 1025, 4096])
@pytest.mark.parametrize("kind", ["plain", "graded", "cancelling", "positive"])
def test_matmul_and_row_dot_keep_their_bound(size, kind):
    rng = np.random.default_rng(size)
    count = 12 if size <= 3 else 2 if size <= 512 else 1
    a, b = graded(rng, count, size, kind), graded(rng, count, size, "plain" if kind == "cancelling" else kind)
    if kind == "cancelling":
        b[:, size // 2 :] = b[:, : size - size // 2] * (1.0 + 2.0**-40)
    power = [2.0 ** np.ceil(np.log2(np.abs(v).max())) for v in (a, b)]
    small_a, small_b = a / power[0], b / power[1]  # entries up to 1
    found, by_row = matmul(a, b), row_dot(small_a, small_b)
    for n, k in np.ndindex(found.shape):
        true = sum(p * q for p, q in zip(exactly(a[n]), exactly(b[k]), strict=True))
        assert abs(exactly(found[n, k])[0] - true) <= product_bound(a[n], b[k], scaled=True)
        if n == k:
            true /= Fraction(power[0]) * Fraction(power[1])
            assert abs(exactly(by_row[n])[0] - true) <= product_bound(small_a[n], small_b[n], scaled=False)
    assert normalised(found)
    assert normalised(by_row)


@pytest.mark.parametrize("size", [1, 512, 1024])
def test_matmul_of_short_numbers_is_exact_whatever_cancels(size):
    """Heads alone: integers of beta bits, whose sums of products fit 53 bits in any order."""
    rng = np.random.default_rng(size)
    bits = (53 - math.ceil(math.log2(max(size, 2)))) // 2
    a, b = rng.integers(-(2**bits), 2**bits, (2, 3, size)).astype(float)
    a[:, -1] = 2.0**bits  # so that scaling does not move the cut: the largest entry becomes 1/2, with a bit to spare
    b[:, -1] = -(2.0**bits)
    found = matmul(a, b)
    true = [sum(int(p) * int(q) for p, q in zip(a[n], b[k], strict=True)) for n, k in np.ndindex(3, 3)]
    assert exactly(found) == true


def test_matmul_is_far_below_roundoff_of_the_lengths_at_512():
    """The docstring's 2^-63 of |a| |b|, and so, short of cancellation, the correctly rounded product."""
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((2, 6, 512))
    found = matmul(a, b)
    for n, k in np.ndindex(found.shape):
        true = sum(p * q for p, q in zip(exactly(a[n]), exactly(b[k]), strict=True))
        lengths = Fraction(float(np.linalg.norm(a[n]) * np.linalg.norm(b[k])))
        assert abs(exactly(found[n, k])[0] - true) <= lengths / 2**63
        assert found.hi[n, k] == float(true)


def test_matmul_has_the_same_high_part_however_the_work_is_cut():
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((40, 512)), rng.standard_normal((70, 512))
    whole, order = matmul(a, b).hi, rng.permutation(512)
    assert np.array_equal(matmul(a[:, order], b[:, order]).hi, whole)
    assert np.array_equal(np.concatenate([matmul(a[n : n + 1], b).hi for n in range(40)]), whole)
    assert np.array_equal(np.concatenate([matmul(a, b[k : k + 7]).hi for k in range(0, 70, 7)], axis=1), whole)
    assert np.array_equal(matmul(b, a).hi.T, whole)
    assert np.array_equal(matmul(np.asfortranarray(a), b[::-1]).hi[:, ::-1], whole)


def test_as_many_slices_as_the_accuracy_takes():
    """The bound 2 n K (K + 1) 2^-(n - 1) beta u of the docstring, n = cuts + 1, worked out in rationals."""
    for terms in (1, 2, 3, 16, 17, 128, 512):
        beta = (53 - math.ceil(math.log2(max(terms, 2)))) // 2

        def bound(count, beta=beta, terms=terms):
            return 2 * (count + 1) * terms * (terms + 1) * U * Fraction(1, 2 ** (count * beta))

        for accuracy in (60, 96, 120):
            count = cuts(terms, accuracy)
            assert bound(count) <= Fraction(1, 2**accuracy)
            assert count == 1 or bound(count - 1) > Fraction(1, 2**accuracy)
    assert [cuts(terms, ACCURACY) + 1 for terms in (4, 5, 512)] == [3, 4, 4]


def wide_pairs(rng, rows, columns, kind):
    hi = graded(rng, rows, columns, kind)
    return Pair(*two_sum(hi, rng.uniform(-0.5, 0.5, hi.shape) * np.spacing(np.abs(hi))))


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 128, 512, 513, 1500])
@pytest.mark.parametrize("kind", ["plain", "graded", "cancelling", "positive"])
def test_matmul_of_pairs_keeps_its_bound(size, kind):
    """2^-96 of both rows' largest entries a block; in u² what is lost of low parts, and sums of pairs."""
    rng = np.random.default_rng(size)
    a, b = wide_pairs(rng, 2, size, kind), wide_pairs(rng, 2, size, "plain" if kind == "cancelling" else kind)
    if kind == "cancelling":
        half = size // 2
        b.hi[:, half:], b.lo[:, half:] = b.hi[:, : size - half], b.lo[:, : size - half]
    found = matmul(a, b)
    for n, k in np.ndindex(found.shape):
        left, right = exactly(a[n]), exactly(b[k])
        true = sum(p * q for p, q in zip(left, right, strict=True))
        terms = sum(abs(p * q) for p, q in zip(left, right, strict=True))
        blocks = math.ceil(size / 512)
        largest = max(abs(p) for p in left) * max(abs(q) for q in right)
        bound = blocks * largest * Fraction(1, 2**ACCURACY) + 16 * (blocks + 1) * U**2 * terms
        assert abs(exactly(found[n, k])[0] - true) <= bound
    assert normalised(found)


def test_matmul_of_pairs_has_forty_bits_more_than_that_of_float64():
    rng = np.random.default_rng(9)
    a, b = rng.standard_normal((2, 4, 512))
    wide, narrow = matmul(Pair.of(a), Pair.of(b)), matmul(a, b)
    for n, k in np.ndindex(wide.shape):
        true = sum(p * q for p, q in zip(exactly(a[n]), exactly(b[k]), strict=True))
        lengths = Fraction(float(np.linalg.norm(a[n]) * np.linalg.norm(b[k])))
        assert abs(exactly(wide[n, k])[0] - true) <= lengths / 2**104
        assert exactly(wide[n, k])[0] != exactly(narrow[n, k])[0]


SCRIPT = """
import hashlib, numpy
from refloss.error_free import matmul
a, b = numpy.random.default_rng(8).standard_normal((2, 300, 512))
print(hashlib.sha256(matmul(a, b).hi.tobytes()).hexdigest())
"""


def test_matmul_has_the_same_high_part_for_every_number_of_blas_threads():
    a, b = np.random.default_rng(8).standard_normal((2, 300, 512))
    here = hashlib.sha256(matmul(a, b).hi.tobytes()).hexdigest()
    for threads in ("1", "2"):
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
        environment = os.environ | dict.fromkeys(names, threads)
        ran = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == here


@pytest.mark.parametrize(("left", "right"), [(1e-200, 1e200), (1e-200, 1e-100), (1e200, 1e100), (5e-324, 1.0)])
def test_matmul_at_the_ends_of_the_range(left, right):
    """Rows are scaled first, so only the result itself could leave the range; products of heads stay exact."""
    a, b = left * np.array([[3.0, -1.0, 2.0], [0.0, 0.0, 0.0]]), right * np.array([[1.0, 4.0, 7.0]])
    found = matmul(a, b)
    true = sum(p * q for p, q in zip(exactly(a[0]), exactly(b[0]), strict=True))
    assert found.hi.tolist() == [[float(true)], [0.0]]


def test_frexp_scales_every_entry():
    a = np.array([[3.0, -5e-324], [0.0, 1e308]])
    for found, exponent in (frexp(a), frexp(Pair.of(a))):
        hi = found.hi if isinstance(found, Pair) else found
        assert np.array_equal(np.ldexp(hi, exponent), a)
        assert ((np.abs(hi) >= 0.5) & (np.abs(hi) < 1.0) | (a == 0.0)).all()


def test_integers_are_the_numbers():
    for a in (np.array([0.1, -3.0, 0.0, 5e-324, 1.7e308]), np.array([[1.0, 1e-300]]), np.zeros(2)):
        found, exponent = integers(a)
        assert [Fraction(n) * Fraction(2) ** exponent for n in found.ravel()] == [
            Fraction(v) for v in a.ravel().tolist()
        ]


def test_scale_rows_is_exact():
    rng = np.random.default_rng(9)
    rows = np.ldexp(rng.standard_normal((50, 6)), rng.integers(-900, 900, (50, 1)) + rng.integers(-60, 60, (50, 6)))
    special = [
        [5e-324, 0.0, -1.5e-323],
        [0.0, -0.0, 0.0],
        [1.7e308, 1.0, -1.7e308],
        [2.0**-1022, 5e-324, 0.0],
        [1, -2, 0.5],
    ]
    rows = np.concatenate([rows, np.pad(special, ((0, 0), (0, 3)))])
    scaled, exponent = scale_rows(rows)
    assert exponent.dtype.kind == "i"
    assert exactly(rows) == [
        v * Fraction(2) ** int(e) for row, e in zip(scaled, exponent, strict=True) for v in exactly(row)
    ]
    largest = np.abs(scaled).max(axis=1)
    zero = ~rows.any(axis=1)
    assert ((largest[~zero] >= 0.5) & (largest[~zero] < 1.0)).all()
    assert (exponent[zero] == 0).all()


@pytest.mark.parametrize("size", [1, 3, 64, 513])
def test_direction_is_a_unit_row_and_a_length(size):
    """An entry: its low part left out (1u), the length rounded (1u), the division (1u).

    The length: half the error of the dot product, (5 + 3 ceil(log2 D)) u², and the square root's 4u².
    """
    rng = np.random.default_rng(size)
    rows = pairs(rng, 5 * size, -3, 3)
    rows = Pair(rows.hi.reshape(5, size), rows.lo.reshape(5, size))
    rows = ldexp(rows, np.array([0, 600, -600, 990, -960])[:, None])
    rows.hi[1], rows.lo[1] = 0.0, 0.0
    unit, length = direction(rows)
    allowed = (5 + 3 * levels(size)) / 2 + ROOT_BOUND
    with mp.workdps(80):
        for n in range(5):
            entries = [mpf(v.numerator) / v.denominator for v in exactly(rows[n])]
            true = mp.sqrt(mp.fsum(v * v for v in entries))
            assert abs(mpf(float(length.hi[n])) + mpf(float(length.lo[n])) - true) <= allowed * mpf(2) ** -106 * true
            for found, entry in zip(unit[n], entries, strict=True):
                share = entry / true if true else mpf(0)
                assert abs(mpf(float(found)) - share) <= 3 * mpf(2) ** -53 * abs(share) * (1 + mpf(2) ** -40)


@pytest.mark.parametrize("count", [1, 2, 7, 64, 1000])
def test_total_by_label_rounds_the_sum_of_each_label_once(count):
    """1u of the sum, and 3u² ceil(log2 n) of the sum of |terms|: `total`. Labels of any size beside each other."""
    rng = np.random.default_rng(count)
    labels = rng.choice([0, 3, 4, 11], count, p=[0.1, 0.2, 0.6, 0.1])
    rows = (
        numbers(rng, 3 * count).reshape(count, 3)
        * np.array([1e-200, 0, 0, 1.0, 1e200] + [0] * 6 + [1e-30])[labels][:, None]
    )
    rows[:, 2] = np.where(rng.integers(0, 2, count), rows[:, 2], -rows[0, 2])
    present, summed = total_by_label(rows, labels)
    assert present.tolist() == sorted(set(labels.tolist()))
    for label, found in zip(present, summed, strict=True):
        mine = rows[labels == label]
        for column in range(3):
            terms = exactly(mine[:, column])
            allowed = U * abs(sum(terms)) + 3 * levels(len(terms)) * U**2 * sum(map(abs, terms))
            assert abs(Fraction(found[column]) - sum(terms)) <= allowed * HIGHER


# ---------------------------------------------------------------------------------------------------- sine and cosine


def as_mpf(pair, index):
    return mpf(float(pair.hi[index])) + mpf(float(pair.lo[index]))


def test_sin_cos_keep_their_absolute_bound():
    rng = np.random.default_rng(10)
    steps = np.arange(-127, 128) * (math.pi / 4)
    hi = np.concatenate(
        [rng.uniform(-100.0, 100.0, 1500), rng.uniform(-4.0, 4.0, 1000), steps, np.nextafter(steps, 9.0)]
    )
    hi = np.concatenate([hi, 10.0 ** rng.uniform(-320.0, 0.0, 300), [0.0, 100.0, -100.0]])
    hi = hi[np.abs(hi) <= 100.0]
    angle = Pair(*two_sum(hi, rng.uniform(-0.5, 0.5, len(hi)) * np.spacing(np.abs(hi)) * rng.integers(0, 2, len(hi))))
    sine, cosine = sin_cos(angle)
    with mp.workdps(60):
        for n in range(len(hi)):
            assert abs(as_mpf(sine, n) - mp.sin(as_mpf(angle, n))) <= 16 * mpf(2) ** -106
            assert abs(as_mpf(cosine, n) - mp.cos(as_mpf(angle, n))) <= 16 * mpf(2) ** -106


def test_sine_next_to_a_multiple_of_pi_is_right_relative_to_itself():
    """With pi/2 to 160 bits, k pi is known to k 2^-159; beyond that the sine is right to all 53 bits of its high part.

    The pair nearest to k pi + d has a sine of its own, which is what counts: it can be smaller than u² by chance.
    """
    with mp.workdps(80):
        near = [k * mp.pi + sign * mpf(10) ** -e for k in range(-31, 32) for e in range(1, 34, 2) for sign in (1, -1)]
        hi = np.array([float(v) for v in near])
        lo = np.array([float(v - mpf(h)) for v, h in zip(near, hi.tolist(), strict=True)])
        angle = Pair(hi, lo)
        sine, _ = sin_cos(angle)
        for n in range(len(near)):
            true = mp.sin(as_mpf(angle, n))
            allowed = 2 * mpf(2) ** -53 * abs(true) + abs(near[n]) * mpf(2) ** -159
            assert abs(as_mpf(sine, n) - true) <= allowed


def test_pi_is_held_as_a_pair():
    with mp.workdps(60):
        assert abs(mpf(float(PI.hi)) + mpf(float(PI.lo)) - mp.pi) <= mp.pi * mpf(2) ** -107
    assert float(PI.hi) == math.pi
    assert error_free.u == float(U)


# ------------------------------------------------------------------------------------------- units in the last place


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ulp_error_counts_representable_numbers(dtype):
    one = dtype(1.0)
    up, down = np.nextafter(one, dtype(2.0)), np.nextafter(one, dtype(0.0))
    assert ulp_error(up, 1.0) == 1.0
    assert ulp_error(down, 1.0) == 0.5  # the unit at 1 is that of the numbers above it
    assert ulp_error(one, down.astype(np.float64)) == 1.0
    assert ulp_error(-one, [1.0, -1.0]).tolist() == [2.0 / np.finfo(dtype).eps, 0.0]
    tiny = np.finfo(dtype).smallest_subnormal
    assert ulp_error(3 * tiny, 0.0) == 3.0
    assert ulp_error(dtype(0.0), float(tiny) / 2.0 if dtype is not np.float64 else Fraction(float(tiny)) / 2) == 0.5


def test_ulp_error_of_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert ulp_error(np.array([1.0078125, 1.0], ml_dtypes.bfloat16), [1.0, 1.001953125]).tolist() == [1.0, 0.25]


def test_ulp_error_takes_truths_that_float64_cannot_hold():
    third = float(Fraction(1, 3))
    assert ulp_error(third, Fraction(1, 3)) == pytest.approx(1.0 / 3.0, rel=1e-12)
    exact = [abs(Fraction(v) - Fraction(s)) * 2**e for v, s, e in ((0.1, "0.1", 56), (0.2, "0.2", 55))]
    assert ulp_error([0.1, 0.2], ["0.1", "0.2"]).tolist() == [float(v) for v in exact]
    assert ulp_error(np.float64(2.0), "1." + "9" * 40) == pytest.approx(1e-40 * 2.0**52)  # the unit below 2
    assert ulp_error(0.0, "1e-400") == pytest.approx(float(Fraction(1, 10**400) * 2**1074))


def test_ulp_error_of_what_is_not_finite():
    found = ulp_error([np.nan, np.nan, 1.0, np.inf, np.inf, -np.inf], [np.nan, 1.0, np.nan, np.inf, 1e300, np.inf])
    assert found.tolist() == [0.0, np.inf, np.inf, 0.0, np.inf, np.inf]
    assert ulp_error(1e300, 0.0) == np.inf
    assert ulp_error(np.float64(np.inf), "inf") == 0.0


FAR = "434294481903251836286911761062"  # log10 of e to the power of 1e30
BEYOND = ["1e3000000", f"1E+{FAR}", Decimal("1E+3000000"), Fraction(10) ** 400, 10**400, 2**1024 - 2**970]
BELOW = ["1e-3000000", f"1E-{FAR}", Decimal("1E-3000000"), Fraction(1, 10**400000)]


def negated(truth):
    return f"-{truth}" if isinstance(truth, str) else truth.copy_negate() if isinstance(truth, Decimal) else -truth


@pytest.mark.parametrize("truth", BEYOND, ids=lambda truth: f"{type(truth).__name__}")
def test_ulp_error_of_truths_beyond_float64(truth):
    negative = negated(truth)
    assert ulp_error([np.inf, -np.inf, 1.0, np.nan], truth).tolist() == [0.0, np.inf, np.inf, np.inf]
    assert ulp_error([np.inf, -np.inf, 1.0], negative).tolist() == [np.inf, 0.0, np.inf]
    assert isinstance(error_free._exact(truth), float)  # and no integer of three million digits


@pytest.mark.parametrize("truth", BELOW, ids=lambda truth: f"{type(truth).__name__}")
def test_ulp_error_of_truths_below_float64(truth):
    negative = negated(truth)
    for each in (truth, negative):
        assert ulp_error([0.0, 5e-324, 1e-308, np.inf], each).tolist() == [0.0, 1.0, 1e-308 / 5e-324, np.inf]
        assert error_free._exact(each).denominator.bit_length() < 6000
    assert error_free._exact(negative) < 0 < error_free._exact(truth)


def test_ulp_error_of_zeros():
    for zero in ("0", "-0.0", "0e9999999999999999999", Decimal("0E-3000000"), Fraction(0), 0):
        assert ulp_error([0.0, -0.0, -1e-323], [zero] * 3).tolist() == [0.0, 0.0, 2.0]


@pytest.mark.parametrize(("dtype", "largest"), [(np.float16, 65504), (np.float32, 2**128 - 2**104)])
def test_an_infinity_is_right_where_the_dtype_rounds_to_it(dtype, largest):
    limit = float(Fraction(largest) + (largest - int(np.nextafter(dtype(largest), dtype(0.0)))) / 2)
    below = np.nextafter(limit, 0.0)
    with np.errstate(over="ignore"):
        assert np.array([below, limit]).astype(dtype).tolist() == [largest, np.inf]
    assert ulp_error(np.array([np.inf, -np.inf, largest], dtype), limit).tolist() == [0.0, np.inf, 0.5]
    assert ulp_error(np.array([np.inf, -np.inf], dtype), [below, -below]).tolist() == [np.inf, np.inf]
    assert ulp_error(np.inf, [2**1024 - 2**970, 2**1024 - 2**970 - 1]).tolist() == [0.0, np.inf]
    assert ulp_error(sys.float_info.max, 2**1024 - 2**970 - 1) == pytest.approx(0.5)


def test_ulp_error_takes_every_truth_as_exact():
    assert ulp_error([0.1, 0.1, 0.1], ["0.1", 0.1, Fraction(1, 10)]).tolist() == [0.4, 0.0, 0.4]
    assert ulp_error([2.0**53, 0.5], [2**53 + 1, 0.5]).tolist() == [0.5, 0.0]  # NumPy would round the integer
    assert ulp_error(2.0**64, np.array(2**64 - 1, np.uint64)) == 2.0**-11
    assert ulp_error([1.0, 1.0], [np.int8(1), np.float32(1.5)]).tolist() == [0.0, 2.0**51]
    assert ulp_error(1.0, "1." + "0" * 5000 + "1") == 0.0
    assert ulp_error(np.nan, Decimal("sNaN")) == ulp_error(-np.inf, Decimal("-Infinity")) == 0.0
    third = np.longdouble(1.0) / 3
    exact = Fraction(*third.as_integer_ratio())
    assert (
        ulp_error(1.0 / 3.0, [third, np.array([third])[0]]).tolist()
        == [float(abs(Fraction(1 / 3) - exact) * 2**54)] * 2
    )
    special = np.array(["nan", "inf", "-inf", "1"], np.longdouble)
    assert ulp_error([np.nan, np.inf, np.inf, 1.0], special).tolist() == [0.0, 0.0, np.inf, 0.0]


def test_ulp_error_takes_truths_of_bfloat16():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    assert ulp_error(bfloat16(1.0), [bfloat16(1.0), bfloat16(1.5)]).tolist() == [0.0, 64.0]
    assert ulp_error(1.0, np.array([1.0, np.nan], bfloat16)).tolist() == [0.0, np.inf]


class Nothing:
    """Always shown the same, since workers of a test run compare the names of tests."""

    def __repr__(self):
        return "nothing"


NOTHING = Nothing()


@pytest.mark.parametrize(
    ("result", "truth", "kind", "message"),
    [
        (3, 3.0, TypeError, "result must hold numbers of float16, bfloat16, float32, float64; got int64"),
        (np.longdouble(3), 3.0, TypeError, "result must hold numbers of .*; got "),
        ([1.0, [2.0]], 3.0, TypeError, "result must be a number, or an array or a list of numbers; got "),
        (contains_itself(), 3.0, TypeError, "result must be a number, .*; got list: it contains itself"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], ValueError, r"truth must have a shape that fits result's \(2,\); got \(3,\)"),
        (1.0, np.zeros((1,) * 40), ValueError, r"truth must have a shape that fits result's \(\); got \(1, 1"),
        (1.0, contains_itself(), TypeError, "truth must be a number, .*; got list: it contains itself"),
        (1.0, [1.0, [2.0]], TypeError, r"truth must hold real numbers, or decimals as strings; got \[2.0\]"),
        *[
            (1.0, odd, TypeError, f"truth must hold real numbers, or decimals as strings; got {re.escape(repr(odd))}")
            for odd in (None, True, 1j, b"1", NOTHING, float, {})
        ],
        (1.0, np.True_, TypeError, "truth must hold real numbers, or decimals as strings; got True"),
        *[
            (1.0, odd, ValueError, f"truth must hold decimals where it holds strings, .*; got '{odd[:50]}")
            for odd in ("abc", "", "1e", "e5", "1/3", "1e5e6", "0x10", "1e" + "9" * 5000)
        ],
    ],
)
def test_ulp_error_refuses_what_it_cannot_measure(result, truth, kind, message):
    with pytest.raises(kind, match=message):
        ulp_error(result, truth)


def test_ulp_error_broadcasts():
    assert ulp_error(np.ones((2, 1)), np.array([1.0, 2.0, 0.5])).shape == (2, 3)


# -------------------------------------------------------------------------------------------------- odd arguments


def test_values_are_shown_by_their_repr():
    assert shown("odd") == "'odd'"
    assert shown(contains_itself()) == "[[...]]"
    assert shown("a" * (LONGEST - 2)) == f"'{'a' * (LONGEST - 2)}'"
    assert shown("a" * LONGEST) == f"'{'a' * (LONGEST - 1)}..."


@pytest.mark.parametrize("value", [Unprintable(), 10**5000, nested()], ids=["raises", "too long", "too deep"])
def test_values_without_a_repr_are_shown_by_their_type(value: object):
    assert shown(value) == f"an object of type {type(value).__name__}"


def test_leaves_are_what_lists_and_tuples_hold():
    array = np.zeros(2)
    assert list(leaves([1, (2, [3.0, array]), [], "45", {6: 7}])) == [1, 2, 3.0, array, "45", {6: 7}]
    assert list(leaves(array)) == [array]
    shared = [1, 2]
    assert list(leaves([shared, shared])) == [1, 2, 1, 2]  # in it twice, but not in itself
    assert list(leaves([[[]] * 3] * 2)) == []


def test_lists_that_no_array_holds_are_refused():
    twice = contains_itself()
    twice.append(twice)
    within = [[1], [twice]]
    for endless in (contains_itself(), twice, within, ([1, contains_itself()],)):
        with pytest.raises(ValueError, match=r"^it contains itself$"):
            list(leaves(endless))
    deep: list[object] = [1]
    for _ in range(DEEPEST - 1):
        deep = [deep]
    assert list(leaves(deep)) == [1]
    for deeper in ([deep], nested()):
        with pytest.raises(ValueError, match=f"^its lists are nested more than {DEEPEST} levels deep$"):
            list(leaves(deeper))


# ------------------------------------------------------------------------------- numbers beyond the range of float64


def true(scaled):
    """The numbers as rationals, in a list."""
    m = scaled.mantissa
    parts = (m.hi, m.lo) if isinstance(m, Pair) else (m, np.zeros_like(m))
    return [
        (Fraction(float(hi)) + Fraction(float(lo))) * Fraction(2) ** int(e)
        for hi, lo, e in zip(*map(np.ravel, (*parts, scaled.exponent)), strict=True)
    ]


def scaled_numbers(seed, shape=(40,), pairs_of=False):
    rng = np.random.default_rng(seed)
    hi = rng.uniform(-1.0, 1.0, shape)
    value = Pair(*two_sum(hi, hi * rng.uniform(-1.0, 1.0, shape) * 2.0**-54)) if pairs_of else hi
    return Scaled.of(value, rng.integers(-5000, 5000, shape)), value


@pytest.mark.parametrize("pairs_of", [False, True])
def test_scaled_numbers_compute_as_their_mantissas_do(pairs_of):
    """2u of an operation on arrays, 20u² of one on pairs; a sum relative to its terms, for of what is small bits go."""
    a, b = (scaled_numbers(seed, pairs_of=pairs_of)[0] for seed in (1, 2))
    b = where(np.arange(40) % 2 == 0, b, ldexp(b, a.exponent - b.exponent))  # and some that can be added to a
    roundoff = 20 * U**2 if pairs_of else 2 * U
    exact_a, exact_b = true(a), true(b)
    for found, operation in ((a * b, "*"), (a / b, "/"), (a + b, "+"), (a - b, "-"), (-a, "n"), (a.rounded(), "r")):
        for f, x, y in zip(true(found), exact_a, exact_b, strict=True):
            truth = {"*": x * y, "/": x / y, "+": x + y, "-": x - y, "n": -x, "r": x}[operation]
            size = abs(x) + abs(y) if operation in "+-" else abs(truth)
            limit = U if operation == "r" else roundoff
            assert abs(f - truth) <= limit * size
    assert ((np.abs(digits(a * b)) >= 0.5) & (np.abs(digits(a * b)) <= 1.0)).all()


@pytest.mark.parametrize("kind", [np.asarray, Pair.of], ids=["array", "Pair"])
def test_scaled_numbers_beside_others(kind):
    a, (other, numbers_) = ldexp(Scaled.of(np.array([0.5, 4.0])), 3000), (kind([2.0, 8.0]), [Fraction(2), Fraction(8)])
    x = true(a)
    for found, truth in (
        (other * a, [p * q for p, q in zip(x, numbers_, strict=True)]),
        (other / a, [q / p for p, q in zip(x, numbers_, strict=True)]),
        (ldexp(a, -3000) + other, [Fraction(5, 2), Fraction(12)]),
        (other + ldexp(a, -3000), [Fraction(5, 2), Fraction(12)]),
        (other - ldexp(a, -3000), [Fraction(3, 2), Fraction(4)]),
    ):
        assert isinstance(found, Scaled)
        assert true(found) == truth


def test_scaled_numbers_that_are_0_or_not_finite():
    a = Scaled.of([0.0, np.inf, -np.inf, np.nan, 5e-324], 10)
    assert a.exponent.tolist() == [ZERO, 0, 0, 0, -1073 + 10]
    assert np.array_equal(np.asarray(a), [0.0, np.inf, -np.inf, np.nan, 1024 * 5e-324], equal_nan=True)
    assert np.array_equal(
        (a + ldexp(Scaled.of(1.0), 5000)).mantissa, [0.5, np.inf, -np.inf, np.nan, 0.5], equal_nan=True
    )
    assert np.array_equal((a * a).hi, [0.0, np.inf, np.inf, np.nan, 0.0], equal_nan=True)
    assert true((a * a)[-1:]) == [Fraction(1024 * 5e-324) ** 2]


def test_scaled_numbers_are_arrays_in_the_rest():
    a, values = scaled_numbers(3, (4, 3))
    rows = a.copy()
    rows[1] = 2.0
    rows[2] = np.array([3.0, 0.0, -1.0])
    assert np.asarray(rows[1:3]).tolist() == [[2.0] * 3, [3.0, 0.0, -1.0]]
    assert true(rows[3]) == true(a[3])
    assert a.shape == (4, 3)
    assert len(a) == 4
    assert true(a.T) == true(a[:, [0]]) + true(a[:, [1]]) + true(a[:, [2]])
    assert true(spread(a[0], (2, 3))) == 2 * true(a[0])
    pair = Scaled.of(Pair(values, values * 2.0**-60), a.exponent)
    assert true(high(pair)) == true(Scaled.of(values, a.exponent))
    assert plain(values) is values
    assert np.array_equal(plain(Scaled.of(pair.mantissa)).lo, pair.mantissa.lo)
    assert np.asarray(rows[1], np.float32).dtype == np.float32


@pytest.mark.parametrize("pairs_of", [False, True])
def test_sums_and_products_of_scaled_numbers(pairs_of):
    """To a power of two of the whole sum, the sums of what was scaled by that: the same bits."""
    a, value = scaled_numbers(4, (5, 6), pairs_of)
    a = Scaled.of(value, a.exponent[:, :1])
    b = np.random.default_rng(5).uniform(-1.0, 1.0, (3, 6))
    power = np.ravel(np.broadcast_to(a.exponent.max(axis=1), 5))
    for found, plainly in (
        (total(a), total(value)),
        (rounded_total(a), rounded_total(value)),
        (matmul(a, b), matmul(value, b)),
        (matmul(b, a).T, matmul(b, value).T),
    ):
        shifts = (a.exponent[:, 0] - Scaled.of(value).exponent[:, 0]).reshape(-1, *[1] * (len(found.shape) - 1))
        assert true(found) == true(Scaled.of(plainly, shifts))
    assert power.shape == (5,)
    labels = np.array([2, 0, 2, 0, 7])
    present, summed = total_by_label(a, labels)
    assert present.tolist() == [0, 2, 7]
    for label, row in zip(present, summed, strict=True):
        rows = [true(a[n]) for n in np.flatnonzero(labels == label)]
        size = max(abs(entry) for row_ in rows for entry in row_)
        for found, terms in zip(true(row), zip(*rows, strict=True), strict=True):
            assert abs(found - sum(terms)) <= 2 * U * size
    scaled, exponent = scale_rows(a)
    assert true(Scaled.of(scaled, exponent[:, None])) == true(a)
    assert scale_rows(Scaled.of(np.zeros((1, 2))))[1].tolist() == [0]


def test_log1p_of_scaled_numbers():
    a = Scaled.of(Pair.of(np.array([0.75, 0.75, 0.75, 0.0])), np.array([0, -190, -3000, 0]))
    found = a.log1p()
    assert true(found)[1:] == [Fraction(3, 4) / 2**190, Fraction(3, 4) / 2**3000, 0]
    assert np.asarray(found)[0] == np.log1p(0.75)


def test_where_float64_is_enough():
    a = np.array([1.0, 0.0, np.inf, np.nan, -4.0])
    assert in_range(a, 2)
    assert not in_range(a, 1)
    assert not in_range(np.array([0.2]), 2)
    assert not in_range(Scaled.of(a), 2)
    for exponent, type_ in ((200, np.ndarray), (-200, np.ndarray), (ZERO, np.ndarray), (201, Scaled), (-201, Scaled)):
        found = shift(np.array([1.0]), np.array([exponent]))
        assert isinstance(found, type_)
        assert np.asarray(found) == (0.0 if exponent == ZERO else 2.0**exponent)
