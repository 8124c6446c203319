"""The compiled loops, against mpmath: bounds in u², for pairs of any size, and what is not finite.

Then the loops over rows, in both dtypes: against mpmath and exact sums, and, bit for bit, against plain Python.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from mpmath import mp, mpf

import refloss
from refloss.engines import kernels
from refloss.error_free import Pair, two_sum

U2 = mpf(2) ** -106


def pairs(random, values):
    """Pairs with low parts of up to half a unit in the last place."""
    values = np.asarray(values)
    return Pair(*two_sum(values, random.uniform(-0.5, 0.5, values.shape) * np.spacing(np.abs(values))))


def wide(random, count=400):
    """Numbers of either sign from 1e-60 to 1e60."""
    return random.choice([-1.0, 1.0], count) * 10.0 ** random.uniform(-60.0, 60.0, count)


def applied(kernel, *operands):
    parts = [part[None] for operand in operands for part in (operand.hi, operand.lo)]
    hi, lo = np.empty_like(parts[0]), np.empty_like(parts[0])
    kernel(*parts, hi, lo)
    return Pair(hi[0], lo[0])


def exactly(pair):
    return [mpf(float(h)) + mpf(float(low)) for h, low in zip(pair.hi, pair.lo, strict=True)]


def worst(found, true):
    """The largest relative error, in u²."""
    with mp.workdps(60):
        return max(abs(f - t) / abs(t) / U2 for f, t in zip(exactly(found), true, strict=True) if t)


def normalised(pair):
    return (pair.hi + pair.lo == pair.hi).all()


@pytest.mark.parametrize(("name", "bound"), [("add", 3), ("multiply", 5), ("divide", 20)])
def test_arithmetic_keeps_the_bounds_of_pairs(name, bound):
    random = np.random.default_rng(1)
    a, b = pairs(random, wide(random)), pairs(random, wide(random))
    for c in (b, pairs(random, -a.hi), pairs(random, a.hi * (1.0 + 2.0**-50))):  # the sum cancels
        found = applied(getattr(kernels, name), a, c)
        with mp.workdps(60):
            operation = {"add": lambda p, q: p + q, "multiply": lambda p, q: p * q, "divide": lambda p, q: p / q}[name]
            true = [operation(p, q) for p, q in zip(exactly(a), exactly(c), strict=True)]
        assert worst(found, true) <= bound
        assert normalised(found)


def test_arithmetic_is_that_of_pairs_in_numpy():
    """The same algorithms, so the same bits: neither compiler fuses or reorders an operation."""
    random = np.random.default_rng(2)
    a, b = pairs(random, wide(random)), pairs(random, wide(random))
    for name, expected in {"add": a + b, "multiply": a * b}.items():
        found = applied(getattr(kernels, name), a, b)
        assert np.array_equal(found.hi, expected.hi)
        assert np.array_equal(found.lo, expected.lo)


def test_exp_keeps_its_bound():
    random = np.random.default_rng(3)
    a = pairs(random, np.concatenate([-random.uniform(0.0, 650.0, 300), wide(random, 100) * 1e-58, [0.0, 700.0]]))
    found = applied(kernels.exp, a)
    with mp.workdps(60):
        assert worst(found, [mp.exp(number) for number in exactly(a)]) <= 64
    assert normalised(found)
    assert found.hi[-2] == 1.0
    assert found.lo[-2] == 0.0


def test_exp_of_what_is_nearly_nothing_is_right_to_float64_and_below_that_0():
    a = Pair.of(np.array([-700.0, -708.0, -720.0, -740.0, -745.1, -745.2, -746.0, -1e5, -np.inf]))
    found = applied(kernels.exp, a)
    with mp.workdps(60):
        for hi, number in zip(found.hi, exactly(a)[:-1], strict=False):
            assert abs(mpf(float(hi)) - mp.exp(number)) <= max(mp.exp(number) * mpf(2) ** -53, mpf(2) ** -1074)
    assert (found.hi[-4:] == 0.0).all()


def test_expm1_keeps_its_bound():
    random = np.random.default_rng(4)
    special = [0.3465, 0.3466, 0.34657359027997264, 1e-305, 3e-308]
    a = pairs(random, np.concatenate([10.0 ** random.uniform(-300.0, 2.8, 400), special]))
    found = applied(kernels.expm1, a)
    with mp.workdps(400):
        true = [mp.expm1(number) for number in exactly(a)]
    assert worst(Pair(found.hi[a.hi > 1e-280], found.lo[a.hi > 1e-280]), np.array(true)[a.hi > 1e-280]) <= 64
    assert normalised(found)


@pytest.mark.filterwarnings("ignore:(invalid|divide by zero|overflow) .*:RuntimeWarning")
@pytest.mark.parametrize(
    ("name", "a", "b", "expected"),
    [
        ("add", np.inf, 1.0, np.inf),
        ("add", np.inf, -np.inf, np.nan),
        ("add", 1e308, 1e308, np.inf),
        ("multiply", -np.inf, 2.0, -np.inf),
        ("multiply", np.inf, 0.0, np.nan),
        ("multiply", 1e300, 2.0, 2e300),  # cut into halves it would overflow
        ("divide", 1.0, 0.0, np.inf),
        ("divide", 0.0, 0.0, np.nan),
        ("divide", 1.0, np.inf, 0.0),
        ("divide", np.nan, 1.0, np.nan),
    ],
)
def test_what_is_not_finite_comes_out_as_of_float64(name, a, b, expected):
    found = applied(getattr(kernels, name), Pair.of(np.array([a])), Pair.of(np.array([b])))
    np.testing.assert_array_equal(found.hi, [expected])
    assert found.lo[0] == 0.0


def test_exp_of_what_is_not_finite():
    found = applied(kernels.exp, Pair.of(np.array([np.nan, np.inf, 710.0, -np.inf])))
    np.testing.assert_array_equal(found.hi, [np.nan, np.inf, np.inf, 0.0])


def test_kernels_read_arrays_that_cannot_be_written_and_are_not_contiguous():
    a = np.broadcast_to(np.array([[1.0], [2.0]]), (2, 3))
    b = np.arange(12.0).reshape(4, 3)[::2]
    hi, lo = np.empty((2, 3)), np.empty((2, 3))
    kernels.add(a, np.zeros_like(b), b, np.zeros_like(b), hi, lo)
    assert np.array_equal(hi, a + b)


# -------------------------------------------------------------------------------------------------------- exponentials

BITS = {np.float64: 53, np.float32: 24}
LEAST = {np.float64: -1074, np.float32: -149}  # the exponent of the smallest subnormal number
NORMAL = {np.float64: (-708.39, 709.0), np.float32: (-87.33, 88.0)}  # where neither x nor exp(x) is subnormal
FLUSHED = {np.float64: -708.75, np.float32: -87.69}
ULPS = {np.float64: 0.82, np.float32: 0.79}
both = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def quiet():
    """Plain Python's NumPy numbers warn; compiled ones do not."""
    return np.errstate(all="ignore")


def exponentials_of(x):
    """What the kernel makes of them; neither subtracting 0 nor a factor of 1 changes a bit."""
    out = x.copy()
    with quiet():
        if x.dtype == np.float64:
            kernels._exp_sum_64(out, 0.0, np.ones(len(out)), np.empty(LANES))
        else:
            kernels._exp_32(out, np.float32(0.0))
    return out


def ulps(x, found):
    """The largest error, in ulp of the true value."""
    bits, least, worst = BITS[x.dtype.type], LEAST[x.dtype.type], 0.0
    with mp.workprec(160):
        for a, e in zip(x.tolist(), found.tolist(), strict=True):
            true = mp.exp(a)
            exponent = max(int(mp.frexp(true)[1]) - bits, least)
            worst = max(worst, float(abs(mpf(e) - true) * mpf(2) ** -exponent))
    return worst


def arguments(dtype, random, count=1000):
    """Arguments anywhere, next to multiples of log(2) / 2, where the error is largest, and tiny."""
    low, high = NORMAL[dtype]
    halves = np.arange(int(low / math.log(2) * 2), int(high / math.log(2) * 2), 1 if count > 1000 else 7)
    ends = np.array([float(i * mp.log(2) / 2) for i in halves if i], dtype)
    ends = np.concatenate([ends, np.nextafter(ends, dtype(-np.inf)), np.nextafter(ends, dtype(np.inf))])
    worst = math.log(2) * (halves[::2] // 2 - 0.4999 + random.uniform(0.0, 0.02, halves[::2].shape))
    tiny = -np.ldexp(random.uniform(1.0, 2.0, 100), random.integers(-140 if dtype == np.float32 else -1070, 0, 100))
    anywhere = [random.uniform(low, 0.0, count), -random.uniform(0.0, 40.0, count), random.uniform(-1.0, high, count)]
    x = np.concatenate([*(part.astype(dtype) for part in (*anywhere, worst, tiny)), ends])
    return x[(x >= low) & (x <= high)]


@both
def test_exponentials_of_rows_are_within_what_their_docstring_says(dtype):
    x = arguments(dtype, np.random.default_rng(10))
    assert ulps(x, exponentials_of(x)) < ULPS[dtype]
    function = kernels._exp64 if dtype == np.float64 else kernels._exp32
    assert f"within {ULPS[dtype]} ulp" in function.__doc__


@both
def test_that_bound_is_proven(dtype):
    pytest.importorskip("flint")
    from support import exp_proof

    assert exp_proof.bound(exp_proof.formats()[dtype.__name__]) < ULPS[dtype]
    assert exp_proof.ends_hold()


@both
def test_exponentials_below_the_normal_numbers_are_subnormal_or_0(dtype):
    x = np.linspace(NORMAL[dtype][0], LEAST[dtype] * 0.7, 501).astype(dtype)
    e = exponentials_of(x)
    assert (e[x <= FLUSHED[dtype]] == 0.0).all()
    assert ulps(x[e > 0.0], e[e > 0.0]) < 1.0
    assert math.exp(float(x[e == 0.0].max())) < np.finfo(dtype).tiny


@both
@pytest.mark.parametrize("rest", [0, 64])  # one by one, and in vectors
def test_exponentials_of_special_values(dtype, rest):
    info = np.finfo(dtype)
    x = np.array([0.0, -0.0, -np.inf, np.nan, -np.nan, info.min, -info.tiny, *([0.0] * rest)], dtype)
    e = exponentials_of(x)
    np.testing.assert_array_equal(e, np.array([1.0, 1.0, 0.0, np.nan, np.nan, 0.0, 1.0, *([1.0] * rest)], dtype))
    assert not np.signbit(e[[2, 5]]).any()


@both
def test_exponentials_of_what_is_not_above_0_are_at_most_1(dtype):
    count = 20000 if is_compiled() else 500
    normal = -np.abs(np.random.default_rng(11).normal(0.0, 1.0, count))
    for x in (normal.astype(dtype), -(2.0 ** np.linspace(-70.0, 0.0, count)).astype(dtype)):
        assert exponentials_of(x).max() <= 1.0


# ---------------------------------------------------------------------------------------------------------------- rows

LANES = kernels.LANES
LENGTHS = (1, 2, LANES - 1, LANES, LANES + 1, 3 * LANES + 5)
lengths = pytest.mark.parametrize("n", LENGTHS)


def is_compiled():
    return isinstance(kernels._tail64, numba.core.registry.CPUDispatcher)


def depth(n):
    """How many additions an entry goes through at most: down its lane, then halves to halves; sections one by one."""
    return math.ceil(n / LANES) + math.ceil(math.log2(min(n, LANES)))


def off(found, terms, bits=53):
    """Error against the exact sum of the terms, in u of the sum of their sizes."""
    size = math.fsum(abs(term) for term in terms) or 1.0
    return abs(math.fsum([float(found), *(-term for term in terms)])) / size * 2.0**bits


@both
@lengths
def test_largest(dtype, n):
    row, lanes = np.random.default_rng(n).standard_normal(n).astype(dtype), np.empty(LANES, dtype)
    assert kernels._largest(row, lanes) == row.max()
    for at in {0, n // 2, n - 1}:
        with_one = row.copy()
        with_one[at] = 100.0
        assert kernels._largest(with_one, lanes) == 100.0
    row[:] = -np.inf
    assert kernels._largest(row, lanes) == -np.inf
    row[n // 2] = np.nan  # is passed over
    assert kernels._largest(row, lanes) == -np.inf
    row[n - 1] = np.inf
    assert kernels._largest(row, lanes) == np.inf


@both
@lengths
def test_sums_of_rows(dtype, n):
    random, lanes = np.random.default_rng(n), np.empty(LANES)
    a, b = random.standard_normal((2, n)).astype(dtype)
    assert off(kernels._sum_of(a, lanes), a.tolist()) <= depth(n)
    products = a.astype(np.float64) * b  # of float32 they are exact
    assert off(kernels._dot(a, b, np.empty(LANES, dtype)), products.tolist(), BITS[dtype]) <= depth(n) + 1
    t, top = np.abs(b), a.max()
    terms = (t.astype(np.float64) * (top - a)).tolist()
    assert off(kernels._shortfall(a, top, t, lanes), terms) <= depth(n) + 1
    a[n // 2] = -np.inf  # what is not there is not counted
    terms[n // 2] = 0.0
    if a.max() == top:
        assert off(kernels._shortfall(a, top, t, lanes), terms) <= depth(n) + 1


@both
@lengths
def test_total_has_twice_the_digits(dtype, n):
    random = np.random.default_rng(n)
    row = (random.standard_normal(n) * 10.0 ** random.uniform(-5.0, 5.0, n)).astype(dtype)
    if n > 2:
        row[: n // 2] = -row[-(n // 2) :]  # cancels
    lanes, low = np.empty(LANES, dtype), np.empty(LANES, dtype)
    v = 2.0 ** -BITS[dtype]
    true, size = math.fsum(row.tolist()), math.fsum(np.abs(row).tolist())
    assert abs(float(kernels._total(row, lanes, low)) - true) <= v * abs(true) + 2.0 * depth(n) ** 2 * v**2 * size


def tile_of(random, n, dtype, classes):
    """Products, the factors that make logits of them, and a hidden class for all rows but the first."""
    tile = random.standard_normal((n, classes)).astype(dtype)
    alpha = random.uniform(1.0, 20.0, n).astype(dtype)
    beta = random.uniform(0.5, 2.0, classes).astype(dtype)
    bias = random.standard_normal(classes).astype(dtype)
    hidden = np.array([-1, *random.integers(0, classes, n - 1)])
    return tile, alpha, beta, bias, hidden


@both
@lengths
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("smoothed", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_exponentials_and_their_sums(dtype, n, keep, smoothed, biased):
    """NumPy makes the same logits, bit for bit: nothing is fused. From there on it is 0.82 ulp, and sums.

    What adding the bias rounds off is made good: two roundings more.
    """
    random = np.random.default_rng(n)
    tile, alpha, beta, bias, hidden = tile_of(random, 4, dtype, n)
    bias = dtype(1000.0) + bias if biased else bias[:0]
    z = tile * alpha[:, None] * beta
    lows = np.zeros(z.shape)
    if biased:
        products = z
        z = products + bias
        lows = two_sum(products, bias)[1] if dtype is np.float64 else products.astype(float) + bias - z
    shared = random.uniform(0.0, 1.0, n).astype(dtype) if smoothed else np.zeros(0, dtype)
    peak, low, others, short = np.empty((4, 4))
    with quiet():
        kernels.exponentials(tile, alpha, beta, bias, hidden, shared, keep, peak, low, others, short)
    for i, row in enumerate(z):
        left = [k for k in range(n) if k != hidden[i]]
        if not left:
            assert (peak[i], low[i], others[i], short[i]) == (-np.inf, 0.0, 0.0, 0.0)
            assert not tile[i].any()
            continue
        top = row[left].max()
        at = int(np.flatnonzero(row == top)[0])
        gaps = (row[left] - top).astype(np.float64)  # rounded as the kernel rounds them
        u, rounded = 2.0 ** -BITS[dtype], 2.0
        e = np.exp(gaps)
        if biased:
            gaps, more = two_sum(row[left].astype(np.float64), -np.float64(top))
            more += lows[i][left] - lows[i][at]
            e, gaps, rounded = np.exp(gaps) * (1.0 + more), gaps + more, 6.0
        terms = [v for k, v in zip(left, e, strict=True) if k != at]
        assert (peak[i], low[i]) == (top, lows[i][at])
        assert abs(others[i] - math.fsum(terms)) <= (rounded * u + depth(n) * 2.0**-53) * math.fsum(terms)
        if smoothed:
            slack = 2.0 + (u * 2.0**53 if biased else 0.0)  # in float32 low parts are subtracted in float32
            assert off(short[i], (shared[left] * -gaps).tolist()) <= depth(n) + slack
        else:
            assert short[i] == 0.0
        if keep:
            expected = np.zeros(n)
            expected[left] = e * beta[left]  # these, and the kernel's, are within 2u; products within 1u
            np.testing.assert_allclose(tile[i], expected, rtol=(4.0 + rounded) * u, atol=4.0 * np.finfo(dtype).tiny)


@both
@lengths
def test_project_leaves_nothing_along_the_class(dtype, n):
    random = np.random.default_rng(n)
    rows, w = random.standard_normal((2, 3, n)).astype(dtype)
    beta = np.array([1.0 / math.sqrt(math.fsum((own * own).tolist())) for own in w.astype(np.float64)], dtype)
    found = rows.copy()
    kernels.project(found, w, beta)
    u = 2.0 ** -BITS[dtype]
    for row, own, left in zip(rows.astype(np.float64), w.astype(np.float64), found, strict=True):
        along = math.fsum((row * own).tolist()) / math.fsum((own * own).tolist())
        size = np.abs(row * own).sum() / (own @ own)
        # beta is within 2u (3u in float32) and counts twice; three products, a difference, roundings of the dtype
        allowed = (depth(n) + 11) * u * size * np.abs(own) + u * np.abs(row)
        assert (np.abs(left - (row - along * own)) <= allowed).all()


@both
@lengths
def test_lower_is_numpy_s_own_arithmetic(dtype, n):
    random = np.random.default_rng(n)
    rows, factor, vector = (random.standard_normal(shape).astype(dtype) for shape in ((3, n), 3, n))
    expected = rows - factor[:, None] * vector
    kernels.lower(rows, factor, vector)
    assert np.array_equal(rows, expected)


@pytest.mark.parametrize("d", [1, 2, 3, 7, 64, 129])
def test_inner_products_are_pairs(d):
    random = np.random.default_rng(d)
    a, b = random.standard_normal((2, 4, d))
    a[1] *= 10.0 ** random.uniform(-20.0, 20.0, d)
    if d > 1:
        a[2, 0], b[2, 0] = -(a[2, 1:] @ b[2, 1:]), 1.0  # cancels
    hi, lo = np.empty(4), np.empty(4)
    kernels.inner(a, b, hi, lo)
    with mp.workdps(60):
        for n in range(4):
            terms = [mpf(p) * mpf(q) for p, q in zip(a[n].tolist(), b[n].tolist(), strict=True)]
            error = abs(mpf(hi[n]) + mpf(lo[n]) - mp.fsum(terms))
            assert error <= (6 + 4 * math.log2(d)) * U2 * mp.fsum(abs(term) for term in terms)
    assert (hi + lo == hi).all()


@pytest.mark.parametrize("d", [2, 3, 64, 129])
@pytest.mark.parametrize("theta", [1.0, 1e-3, 1e-10, math.pi - 1e-6])
def test_separate_finds_what_an_angle_is_made_of(d, theta):
    """To 100 bits of the lengths, the directions to 4u where the angle itself is known to 53 bits."""
    random = np.random.default_rng(d)
    x, across = random.standard_normal((2, 3, d))
    x[1] *= 1e30
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    across -= (across * unit).sum(axis=1, keepdims=True) * unit
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    w = 1.7 * (math.cos(theta) * unit + math.sin(theta) * across)
    to_x, to_w, numbers = np.empty((3, d)), np.empty((3, d)), np.empty((3, 8))
    kernels.separate(x, w, to_x, to_w, numbers)
    with mp.workdps(80):
        for n in range(3):
            p, q = ([mpf(v) for v in rows[n].tolist()] for rows in (x, w))
            xx, ww, xw = (mp.fsum(s * t for s, t in zip(a, b, strict=True)) for a, b in ((p, p), (q, q), (p, q)))
            rest = ww - xw**2 / xx
            for place, (true, size) in enumerate([(xx, xx), (ww, ww), (xw, mp.sqrt(xx * ww))]):
                found = mpf(numbers[n, 2 * place]) + mpf(numbers[n, 2 * place + 1])
                assert abs(found - true) <= mpf(2) ** -100 * size * (1 + d)
            # rest is the square of a length known to 2^-100 of that of w
            found = mpf(numbers[n, 6]) + mpf(numbers[n, 7])
            assert abs(mp.sqrt(found) - mp.sqrt(rest)) <= mpf(2) ** -97 * mp.sqrt(ww)
            sin = mp.sqrt(rest / ww)
            limit = 4 * mpf(2) ** -53 + mpf(2) ** -97 / sin
            for found, a, b, bb in ((to_x, q, p, xx), (to_w, p, q, ww)):
                tangent = [s - xw / bb * t for s, t in zip(a, b, strict=True)]
                length = mp.sqrt(mp.fsum(t * t for t in tangent))
                assert max(abs(mpf(f) - t / length) for f, t in zip(found[n].tolist(), tangent, strict=True)) <= limit


def logits_of(random, dtype, n, classes):
    return (4.0 * random.standard_normal((n, classes))).astype(dtype)


def cross_entropies(random, dtype, classes):
    """Arguments for every way through the kernel: labels, smoothed labels, probabilities; rows that do not count."""
    for kind in ("labels", "smoothed", "probabilities"):
        for keep in (True, False):
            z = logits_of(random, dtype, 6, classes)
            z[1, :: max(2, classes)], z[4, -1] = -np.inf, np.nan if classes == 1 else 3.0
            z[2] = -np.inf
            if classes > 1:
                z[3, 1] = np.nan
            label = random.integers(0, classes, 6) if kind != "probabilities" else np.full(6, -1)
            if kind != "probabilities":
                label[0] = z[0].argmax()
                label[5] = z[5].argmin()
            own = random.uniform(0.5, 2.0, 6).astype(dtype)
            own[[1, 2, 3]] = [0.0, 0.0, 1.0]  # of a class that weighs nothing
            t = random.uniform(0.0, 1.0, ({"labels": 0, "smoothed": 1, "probabilities": 6}[kind], classes))
            t[:, :: max(2, classes)] = 0.0  # at what is masked in row 1
            above = random.standard_normal(6).astype(dtype)
            counts = np.array([True, True, True, True, True, kind != "smoothed"])
            out = np.full((6 if keep else 1, classes), 7.0, dtype)
            yield z, label, own, t.astype(dtype), above, counts, keep, np.empty(6), out


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_of_equal_logits_the_largest_is_that_which_lost_most(dtype):
    """Biases below half a unit of the products, which they leave as they are: the exponentials are those of biases."""
    size, bias = dtype(2.0 ** (60 if dtype == np.float64 else 31)), np.array([1.0, 2.0, -3.0, 2.0], dtype)
    tile, ones = np.full((1, 4), size), np.ones(4, dtype)
    peak, low, others, short = (np.empty(1) for _ in range(4))
    with quiet():
        kernels.exponentials(tile, ones[:1], ones, bias, np.array([-1]), ones[:0], True, peak, low, others, short)
    assert (peak[0], low[0]) == (size, 2.0)
    expected = np.exp([-1.0, 0.0, -5.0, 0.0])
    assert np.abs(tile[0] / expected - 1.0).max() <= 2.0 * np.finfo(dtype).eps  # an ulp each, and one to round expected
    assert abs(others[0] / (1.0 + expected[[0, 2]].sum()) - 1.0) <= 4.0 * np.finfo(dtype).eps


def test_place_is_where_a_value_is_first():
    row = np.arange(2.0 * LANES + 5.0)
    for at in (0, 1, LANES - 1, LANES, 2 * LANES + 4):
        assert kernels._place(row, float(at)) == at
    row[LANES + 2] = 1.0
    assert kernels._place(row, 1.0) == 1
    assert kernels._place(row, -1.0) == 0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_weighted_rows_add_up(dtype):
    """Two products and a sum, each rounded: 2u of the terms."""
    random = np.random.default_rng(5)
    a, b = random.standard_normal((2, 3, 7)).astype(dtype)
    f, g = random.standard_normal((2, 3)).astype(dtype)
    out = np.empty_like(a)
    kernels.weighted(a, f, b, g, out)
    terms = [rows.astype(np.float64) * factor[:, None] for rows, factor in ((a, f), (b, g))]
    assert (np.abs(out - sum(terms)) <= np.finfo(dtype).eps * sum(map(np.abs, terms))).all()


@both
@pytest.mark.parametrize("classes", [1, 2, 5, LANES, 2 * LANES + 3])
def test_cross_entropy_of_rows(dtype, classes):
    """Against the formula in float64, from which float32 is far enough: 16u of what is added up.

    float64's own accuracy is seen against mpmath, in test_fused.py.
    """
    u = 16.0 * 2.0 ** -BITS[dtype]
    for z, label, own, t, above, counts, keep, losses, out in cross_entropies(
        np.random.default_rng(classes), dtype, classes
    ):
        with quiet():
            kernels.cross_entropy(z, label, own, t, above, counts, keep, losses, out)
        for i, row in enumerate(z.astype(np.float64)):
            if not counts[i]:
                assert losses[i] == 0.0
                assert not keep or not out[i].any()
                continue
            targets = np.zeros(classes) if not len(t) else t[min(i, len(t) - 1)].astype(np.float64)
            if label[i] >= 0:
                targets[label[i]] = own[i]
            if np.isnan(row).any() or not np.isfinite(row.max()):
                assert np.isnan(losses[i])  # 0 times NaN too
                assert not keep or np.isnan(out[i]).all()
                continue
            minus_log_p, p = refloss.logsumexp(row) - row, refloss.softmax(row)
            with quiet():
                terms = np.where(targets > 0.0, targets * minus_log_p, 0.0)
            if np.isfinite(terms).all():
                assert abs(losses[i] - terms.sum()) <= u * (terms.sum() + targets.sum() * np.abs(row[p > 0]).max())
            if keep:
                size = targets.sum() * p + targets
                error = np.abs(out[i] - float(above[i]) * (targets.sum() * p - targets))
                assert (error <= u * abs(float(above[i])) * size).all()


# ------------------------------------------------------------------------------------------- compiled, and as it stands


def everything():
    """Call every kernel of rows in every dtype and length, and digest all bits that come out, by what they are."""
    digests = {}

    def note(what, *results):
        digest = digests.setdefault(what, hashlib.sha256())
        for result in results:
            digest.update(np.nan_to_num(np.asarray(result), nan=7.0).tobytes())  # NaN has many forms

    with quiet():
        for dtype in (np.float64, np.float32):
            random, kind = np.random.default_rng(12), dtype.__name__
            for x in (arguments(dtype, random, 50), np.array([np.nan, -np.inf, 0.0, -0.0, -1e5], dtype)):
                note(f"exp, {kind}", exponentials_of(x))
            for n in LENGTHS:
                a, b = random.standard_normal((2, n)).astype(dtype)
                lanes, low, wide = np.empty(LANES, dtype), np.empty(LANES, dtype), np.empty(LANES)
                note(f"largest, {kind}", dtype(kernels._largest(a, lanes)))
                note(f"sums, {kind}", kernels._sum_of(a, wide), dtype(kernels._dot(a, b, lanes)))
                note(f"shortfall, {kind}", kernels._shortfall(a, a.max(), np.abs(b), wide))
                note(f"total, {kind}", dtype(kernels._total(a, lanes, low)))
                note(f"place, {kind}", kernels._place(a, a[-1]))
                added = np.empty((1, n), dtype)
                kernels.weighted(a[None], b[:1], b[None], a[:1], added)
                note(f"weighted, {kind}", added)
                for keep in (True, False):
                    for shared in (np.zeros(0, dtype), random.uniform(0.0, 1.0, n).astype(dtype)):
                        for biased in (True, False):
                            tile, alpha, beta, bias, hidden = tile_of(random, 4, dtype, n)
                            given, found = (alpha, beta, bias if biased else bias[:0], hidden), np.empty((4, 4))
                            kernels.exponentials(tile, *given, shared, keep, *found)
                            note(f"exponentials, {kind}", found, *([tile] if keep else []))
                rows, w = random.standard_normal((2, 3, n)).astype(dtype)
                kernels.project(rows, w, np.array([1.0, 0.5, 2.0], dtype))
                note(f"project, {kind}", rows)
                inner, low = np.empty(3, dtype), np.zeros_like(w)
                kernels.dots(rows, w, inner)
                kernels.accumulate(rows, low, w)
                note(f"dots and accumulate, {kind}", inner, rows, low)
                kernels.lower(rows, np.array([1.0, -0.1, 2.0], dtype), b)
                note(f"lower, {kind}", rows)
                for *given, losses, out in cross_entropies(random, dtype, n):
                    kernels.cross_entropy(*given, losses, out)
                    what = "labels" if not len(given[3]) else "smoothed" if len(given[3]) == 1 else "probabilities"
                    note(f"cross entropy, {what}, {kind}, losses", losses)
                    note(f"cross entropy, {what}, {kind}, gradient", *([out] if given[-1] else []))
        for d in (1, 2, 5, 64):
            x, w = np.random.default_rng(d).standard_normal((2, 3, d))
            hi, lo = np.empty(3), np.empty(3)
            kernels.inner(x, w, hi, lo)
            note("inner", hi, lo)
            to_x, to_w, numbers = np.empty((3, d)), np.empty((3, d)), np.empty((3, 8))
            kernels.separate(x, w, to_x, to_w, numbers)
            note("separate", to_x, to_w, numbers)
    return {what: digest.hexdigest()[:16] for what, digest in digests.items()}


def test_plain_python_gives_the_same_bits():
    """So nothing is reordered, fused or otherwise made fast."""
    other = os.environ | {"NUMBA_DISABLE_JIT": "1" if is_compiled() else "0"}
    code = f"import sys, json; sys.path[:0] = {sys.path!r}; import test_kernels as t; print(json.dumps(t.everything()))"
    found = subprocess.run([sys.executable, "-c", code], env=other, capture_output=True, text=True, check=False)
    assert not found.returncode, found.stderr
    assert json.loads(found.stdout) == everything()


def twice(a):
    return 2.0 * a


def doubled(a, out):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[i, j] = 2.0 * a[i, j]


def test_the_cache_can_be_switched_off_and_is_done_without_where_there_is_no_place_for_it(monkeypatch):
    if not is_compiled():
        pytest.skip("nothing is compiled")
    monkeypatch.setenv("REFLOSS_JIT_CACHE", "0")
    assert kernels._jit()(twice).stats.cache_path is None
    monkeypatch.setenv("REFLOSS_JIT_CACHE", "1")
    assert kernels._jit()(twice).stats.cache_path is not None
    for error in (RuntimeError("no locator available"), OSError("no such file")):

        def nowhere(self, error=error):
            raise error

        monkeypatch.setattr(numba.core.registry.CPUDispatcher, "enable_caching", nowhere)
        kernel = kernels._jit()(twice)
        assert kernel(3.0) == 6.0
        assert kernel.stats.cache_path is None


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Makes the kernel of `twice` and calls it, in a cache of its own; what has been said before is forgotten."""
    if not is_compiled():
        pytest.skip("nothing is compiled")
    monkeypatch.setenv("REFLOSS_JIT_CACHE", "1")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "_cache_errors", [])

    def call():
        kernel = kernels._jit()(twice)
        assert kernel(3.0) == 6.0
        return sum(kernel.stats.cache_hits.values())

    return call


def replaced_by_a_folder(file):
    file.unlink()
    (file / "full").mkdir(parents=True)


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "of another kind": lambda file: file.write_bytes(b"garbage"),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-10]),
    "another object": lambda file: file.write_bytes(pickle.dumps(numba.__version__) + pickle.dumps((1, 2, 3))),
    "cannot be read": replaced_by_a_folder,
}


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_done_without_and_that_is_said_once(kind, damage, cached, tmp_path):
    assert (cached(), cached()) == (0, 1)
    (file,) = tmp_path.rglob(f"*.{kind}")
    damage(file)
    if file.is_dir() and kind == "nbc":  # what numba takes for a file that is gone is said where it is to be written
        with pytest.warns(RuntimeWarning, match="the cache of numba fails here"):
            assert cached() == 0
        return
    if damage is DAMAGES["another object"] and kind == "nbc":
        file.write_bytes(pickle.dumps((1, 2, 3)))
    with pytest.warns(RuntimeWarning, match=r"the cache of numba fails here \(\w+: .*\); kernels are compiled without"):
        assert cached() == 0
    assert cached() == (not file.is_dir())  # it is there again, and if it is not, nothing is said a second time


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), pickle.PicklingError("whatever")])
def test_where_nothing_can_be_kept_kernels_are_compiled_and_that_is_said_once(error, cached, monkeypatch):
    def full(*_):
        raise error

    monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, "_save_data", full)
    with pytest.warns(RuntimeWarning, match="the cache of numba fails here"):
        assert cached() == 0
    assert cached() == 0
    monkeypatch.undo()


def test_kernels_of_given_types_are_compiled_once_though_two_threads_come_first(monkeypatch):
    """The second finds it done when it has the lock; so does who comes after an interrupt."""
    taken = []

    def both(compile_once):
        compile_once()
        taken.append(compile_once())

    monkeypatch.setattr(kernels, "_compiling", SimpleNamespace(run=both))
    kernel = kernels._jit(kernels._READ, kernels._WRITE)(doubled)
    for a in (np.ones((2, 3)), np.ones((3, 2)).T):
        out = np.empty((2, 3))
        kernel(a, out)
        assert (out == 2.0).all()
    assert taken == [None] * is_compiled()


DAMAGED = """
import warnings
import numpy as np
import refloss
from refloss.engines import fused, kernels

random = np.random.default_rng(0)
x, w = random.standard_normal((2, 3)), random.standard_normal((4, 3))


def work():
    yield refloss.SoftmaxLoss()(x, w, [0, 1], engine="fused").hex()
    yield refloss.Triplet()(x, w[:2], w[2:], engine="dd").hex()


with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    print(*work())
print([(warning.category.__name__, str(warning.message).partition("(")[0]) for warning in said])
"""


def test_of_any_kernel_the_cache_may_be_damaged(tmp_path):
    if not is_compiled():
        pytest.skip("the other run does it")
    root, here = Path(refloss.__file__).parents[1], {"NUMBA_CACHE_DIR": str(tmp_path), "REFLOSS_JIT_CACHE": "1"}
    environment = os.environ | here | {"NUMBA_DISABLE_JIT": "0"}

    def results():
        return subprocess.run(
            [sys.executable, "-c", DAMAGED], env=environment, capture_output=True, text=True, check=True, cwd=root
        ).stdout.splitlines()

    expected = results()
    assert expected[1] == "[]"
    for name in ("kernels.inner-*.nbc", "kernels.add-*.nbi", "kernels.multiply-*.nbc"):
        (file,) = tmp_path.rglob(name)
        file.write_bytes(file.read_bytes()[:-10])
    assert results() == [expected[0], "[('RuntimeWarning', 'the cache of numba fails here ')]"]
    assert results() == expected


def test_what_is_compiled_is_kept_where_numba_is_told(tmp_path):
    for number, switch in enumerate(("0", "1")):
        place = tmp_path / switch
        place.mkdir()
        here = {"NUMBA_CACHE_DIR": str(place), "NUMBA_DISABLE_JIT": "0", "REFLOSS_JIT_CACHE": switch}
        code = "from refloss.engines import kernels; kernels.ready()"
        root = Path(refloss.__file__).parents[1]
        subprocess.run([sys.executable, "-c", code], env=os.environ | here, check=True, cwd=root)
        assert bool(list(place.rglob("*.nb?"))) == bool(number)


def test_ready_says_nothing():
    assert kernels.ready() is None
