"""Double-double kernels against mpmath: bounds in u², for pairs of any size, and results that are not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mpmath import mp, mpf

from refloss.engines.kernels import pairs
from refloss.error_free import Pair, two_sum

U2 = mpf(2) ** -106


def pairs_of(random, values):
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


def as_mpf(pair):
    return [mpf(float(h)) + mpf(float(low)) for h, low in zip(pair.hi, pair.lo, strict=True)]


def worst(computed, true):
    """The largest relative error, in u²."""
    with mp.workdps(60):
        return max(abs(f - t) / abs(t) / U2 for f, t in zip(as_mpf(computed), true, strict=True) if t)


def has_rounded_high_part(pair):
    return (pair.hi + pair.lo == pair.hi).all()


@pytest.mark.parametrize(("name", "bound"), [("add", 3), ("multiply", 5), ("divide", 20)])
def test_arithmetic_keeps_the_bounds_of_pairs(name, bound):
    random = np.random.default_rng(1)
    a, b = pairs_of(random, wide(random)), pairs_of(random, wide(random))
    for c in (b, pairs_of(random, -a.hi), pairs_of(random, a.hi * (1.0 + 2.0**-50))):  # the sum cancels
        computed = applied(getattr(pairs, name), a, c)
        with mp.workdps(60):
            operation = {"add": lambda p, q: p + q, "multiply": lambda p, q: p * q, "divide": lambda p, q: p / q}[name]
            true = [operation(p, q) for p, q in zip(as_mpf(a), as_mpf(c), strict=True)]
        assert worst(computed, true) <= bound
        assert has_rounded_high_part(computed)


def test_arithmetic_is_that_of_pairs_in_numpy():
    """The same algorithms, so the same bits: neither compiler fuses or reorders an operation."""
    random = np.random.default_rng(2)
    a, b = pairs_of(random, wide(random)), pairs_of(random, wide(random))
    for name, expected in {"add": a + b, "multiply": a * b}.items():
        computed = applied(getattr(pairs, name), a, b)
        assert np.array_equal(computed.hi, expected.hi)
        assert np.array_equal(computed.lo, expected.lo)


def test_exp_keeps_its_bound():
    random = np.random.default_rng(3)
    a = pairs_of(random, np.concatenate([-random.uniform(0.0, 650.0, 300), wide(random, 100) * 1e-58, [0.0, 700.0]]))
    computed = applied(pairs.exp, a)
    with mp.workdps(60):
        assert worst(computed, [mp.exp(number) for number in as_mpf(a)]) <= 64
    assert has_rounded_high_part(computed)
    assert computed.hi[-2] == 1.0
    assert computed.lo[-2] == 0.0


def test_exp_of_what_is_nearly_nothing_is_right_to_float64_and_below_that_0():
    a = Pair.of(np.array([-700.0, -708.0, -720.0, -740.0, -745.1, -745.2, -746.0, -1e5, -np.inf]))
    computed = applied(pairs.exp, a)
    with mp.workdps(60):
        for hi, number in zip(computed.hi, as_mpf(a)[:-1], strict=False):
            assert abs(mpf(float(hi)) - mp.exp(number)) <= max(mp.exp(number) * mpf(2) ** -53, mpf(2) ** -1074)
    assert (computed.hi[-4:] == 0.0).all()


def test_expm1_keeps_its_bound():
    random = np.random.default_rng(4)
    special = [0.3465, 0.3466, 0.34657359027997264, 1e-305, 3e-308]
    a = pairs_of(random, np.concatenate([10.0 ** random.uniform(-300.0, 2.8, 400), special]))
    computed = applied(pairs.expm1, a)
    with mp.workdps(400):
        true = [mp.expm1(number) for number in as_mpf(a)]
    assert worst(Pair(computed.hi[a.hi > 1e-280], computed.lo[a.hi > 1e-280]), np.array(true)[a.hi > 1e-280]) <= 64
    assert has_rounded_high_part(computed)


def test_expm1_of_what_is_negative():
    """Down to where it is -1 to every bit of a pair; relative to itself next to 0, too."""
    random = np.random.default_rng(6)
    a = pairs_of(
        random, -np.concatenate([10.0 ** random.uniform(-270.0, 3.0, 200), [0.3466, 37.0, 80.0, 800.0, 1e300]])
    )
    computed = applied(pairs.expm1, a)
    with mp.workdps(400):
        true = [mp.expm1(number) for number in as_mpf(a)]
    assert worst(computed, np.array(true)) <= 64
    assert computed.hi[-1] == -1.0


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
    computed = applied(getattr(pairs, name), Pair.of(np.array([a])), Pair.of(np.array([b])))
    np.testing.assert_array_equal(computed.hi, [expected])
    assert computed.lo[0] == 0.0


def test_exp_of_what_is_not_finite():
    computed = applied(pairs.exp, Pair.of(np.array([np.nan, np.inf, 710.0, -np.inf])))
    np.testing.assert_array_equal(computed.hi, [np.nan, np.inf, np.inf, 0.0])


def test_kernels_read_arrays_that_cannot_be_written_and_are_not_contiguous():
    a = np.broadcast_to(np.array([[1.0], [2.0]]), (2, 3))
    b = np.arange(12.0).reshape(4, 3)[::2]
    hi, lo = np.empty((2, 3)), np.empty((2, 3))
    pairs.add(a, np.zeros_like(b), b, np.zeros_like(b), hi, lo)
    assert np.array_equal(hi, a + b)


@pytest.mark.parametrize("d", [1, 2, 3, 7, 64, 129])
def test_inner_products_are_pairs(d):
    random = np.random.default_rng(d)
    a, b = random.standard_normal((2, 4, d))
    a[1] *= 10.0 ** random.uniform(-20.0, 20.0, d)
    if d > 1:
        a[2, 0], b[2, 0] = -(a[2, 1:] @ b[2, 1:]), 1.0  # cancels
    hi, lo = np.empty(4), np.empty(4)
    pairs.vecdot(a, b, hi, lo)
    with mp.workdps(60):
        for n in range(4):
            terms = [mpf(p) * mpf(q) for p, q in zip(a[n].tolist(), b[n].tolist(), strict=True)]
            error = abs(mpf(hi[n]) + mpf(lo[n]) - mp.fsum(terms))
            assert error <= (6 + 4 * math.log2(d)) * U2 * mp.fsum(abs(term) for term in terms)
    assert (hi + lo == hi).all()


@pytest.mark.parametrize("d", [2, 3, 64, 129])
@pytest.mark.parametrize("theta", [1.0, 1e-3, 1e-10, math.pi - 1e-6])
def test_tangents_and_the_products_behind_them(d, theta):
    """To 100 bits of the lengths, the directions to 4u where the angle itself is known to 53 bits."""
    random = np.random.default_rng(d)
    x, across = random.standard_normal((2, 3, d))
    x[1] *= 1e30
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    across -= (across * unit).sum(axis=1, keepdims=True) * unit
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    w = 1.7 * (math.cos(theta) * unit + math.sin(theta) * across)
    tangent_x, tangent_w, products = np.empty((3, d)), np.empty((3, d)), np.empty((3, 8))
    pairs.tangents(x, w, tangent_x, tangent_w, products)
    with mp.workdps(80):
        for n in range(3):
            p, q = ([mpf(v) for v in rows[n].tolist()] for rows in (x, w))
            xx, ww, xw = (mp.fsum(s * t for s, t in zip(a, b, strict=True)) for a, b in ((p, p), (q, q), (p, q)))
            vv = ww - xw**2 / xx
            for place, (true, size) in enumerate([(xx, xx), (ww, ww), (xw, mp.sqrt(xx * ww))]):
                computed = mpf(products[n, 2 * place]) + mpf(products[n, 2 * place + 1])
                assert abs(computed - true) <= mpf(2) ** -100 * size * (1 + d)
            # v·v is the square of a length known to 2^-100 of that of w
            computed = mpf(products[n, 6]) + mpf(products[n, 7])
            assert abs(mp.sqrt(computed) - mp.sqrt(vv)) <= mpf(2) ** -97 * mp.sqrt(ww)
            sin = mp.sqrt(vv / ww)
            limit = 4 * mpf(2) ** -53 + mpf(2) ** -97 / sin
            for rows, a, b, bb in ((tangent_x, q, p, xx), (tangent_w, p, q, ww)):
                tangent = [s - xw / bb * t for s, t in zip(a, b, strict=True)]
                length = mp.sqrt(mp.fsum(t * t for t in tangent))
                assert max(abs(mpf(f) - t / length) for f, t in zip(rows[n].tolist(), tangent, strict=True)) <= limit
