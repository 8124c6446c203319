"""Products of slices against rationals: the bound of the docstring, and the same bits for every number of threads."""

import hashlib
import math
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from refloss.error_free import Pair, scale_rows, two_sum
from refloss.sliced_product import ACCURACY, cuts, matmul, row_dot
from support.pairs import HIGHER, SUM_BOUND, U, exactly, normalised


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
    product, by_row = matmul(a, b), row_dot(small_a, small_b)
    for n, k in np.ndindex(product.shape):
        true = sum(p * q for p, q in zip(exactly(a[n]), exactly(b[k]), strict=True))
        assert abs(exactly(product[n, k])[0] - true) <= product_bound(a[n], b[k], scaled=True)
        if n == k:
            true /= Fraction(power[0]) * Fraction(power[1])
            assert abs(exactly(by_row[n])[0] - true) <= product_bound(small_a[n], small_b[n], scaled=False)
    assert normalised(product)
    assert normalised(by_row)


@pytest.mark.parametrize("size", [1, 512, 1024])
def test_matmul_of_short_numbers_is_exact_whatever_cancels(size):
    """Heads alone: integers of beta bits, whose sums of products fit 53 bits in any order."""
    rng = np.random.default_rng(size)
    bits = (53 - math.ceil(math.log2(max(size, 2)))) // 2
    a, b = rng.integers(-(2**bits), 2**bits, (2, 3, size)).astype(float)
    a[:, -1] = 2.0**bits  # so that scaling does not move the cut: the largest entry becomes 1/2, with a bit to spare
    b[:, -1] = -(2.0**bits)
    product = matmul(a, b)
    true = [sum(int(p) * int(q) for p, q in zip(a[n], b[k], strict=True)) for n, k in np.ndindex(3, 3)]
    assert exactly(product) == true


def test_matmul_is_far_below_roundoff_of_the_lengths_at_512():
    """The docstring's 2^-63 of |a| |b|, and so, short of cancellation, the correctly rounded product."""
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((2, 6, 512))
    product = matmul(a, b)
    for n, k in np.ndindex(product.shape):
        true = sum(p * q for p, q in zip(exactly(a[n]), exactly(b[k]), strict=True))
        lengths = Fraction(float(np.linalg.norm(a[n]) * np.linalg.norm(b[k])))
        assert abs(exactly(product[n, k])[0] - true) <= lengths / 2**63
        assert product.hi[n, k] == float(true)


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
    """2^-96 of both rows' largest entries per block; in u² the rounding errors of low parts, and of sums of pairs."""
    rng = np.random.default_rng(size)
    a, b = wide_pairs(rng, 2, size, kind), wide_pairs(rng, 2, size, "plain" if kind == "cancelling" else kind)
    if kind == "cancelling":
        half = size // 2
        b.hi[:, half:], b.lo[:, half:] = b.hi[:, : size - half], b.lo[:, : size - half]
    product = matmul(a, b)
    for n, k in np.ndindex(product.shape):
        left, right = exactly(a[n]), exactly(b[k])
        true = sum(p * q for p, q in zip(left, right, strict=True))
        terms = sum(abs(p * q) for p, q in zip(left, right, strict=True))
        blocks = math.ceil(size / 512)
        largest = max(abs(p) for p in left) * max(abs(q) for q in right)
        bound = blocks * largest * Fraction(1, 2**ACCURACY) + 16 * (blocks + 1) * U**2 * terms
        assert abs(exactly(product[n, k])[0] - true) <= bound
    assert normalised(product)


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
from refloss.sliced_product import matmul
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
    product = matmul(a, b)
    true = sum(p * q for p, q in zip(exactly(a[0]), exactly(b[0]), strict=True))
    assert product.hi.tolist() == [[float(true)], [0.0]]
