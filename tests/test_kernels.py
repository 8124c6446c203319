"""The compiled loops, against mpmath: bounds in u², for pairs of any size, and what is not finite."""

from __future__ import annotations

import numpy as np
import pytest
from mpmath import mp, mpf

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
