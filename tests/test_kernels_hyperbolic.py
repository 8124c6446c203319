"""Capped logits and their slopes against mpmath, in both dtypes: bounds of docstrings, borders, ends of the range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mpmath import mp, mpf

from refloss.engines.kernels import hyperbolic, rows
from support.kernel_cases import BITS, both, is_compiled, quiet

CAPS = [(1.0, 1.0), (1.0, 30.0), (0.0625, 50.0), (3.0, 0.1), (1e-3, 1e-6), (7.0, 1e9)]


def capped(z, sigma, cap):
    """Capped logits, and their slopes relative to scaled ones."""
    out, slopes = np.empty_like(z), np.empty_like(z)
    with quiet():
        rows.cap_row(z, z.dtype.type(sigma), z.dtype.type(cap), out, slopes)
        return out, slopes / z.dtype.type(sigma)


def arguments(dtype, sigma, cap, random):
    """Logits by |σz/K|: anywhere, tiny, on both sides of the polynomial's border, up to where a slope underflows."""
    count = 400 if is_compiled() else 60
    least = -30.0 if dtype is np.float32 else -250.0
    most = 350.0 if dtype is np.float64 else 40.0  # with slopes that are normal numbers
    border = 0.6 * (1.0 + np.arange(-40, 41) * float(np.finfo(dtype).eps))
    ratios = np.concatenate([
        random.uniform(0.0, 2.0, count), random.uniform(0.0, 0.6, count), random.uniform(2.0, most, count),
        10.0 ** random.uniform(least, 0.0, count), border, np.arange(1, 60) * (math.log(2.0) / 4.0),
    ])  # fmt: skip
    z = (ratios * cap / sigma * random.choice([-1.0, 1.0], len(ratios))).astype(dtype)
    return z[np.abs(z) > 8.0 * np.finfo(dtype).tiny * max(1.0, 1.0 / sigma)]


@both
@pytest.mark.parametrize(("sigma", "cap"), CAPS)
def test_capped_logits_are_within_what_their_docstring_says(dtype, sigma, cap):
    """8u of the logit, 8u and 4u σ|z|/K of the slope, σ and K as they are in the dtype; below the polynomial too."""
    z, u = arguments(dtype, sigma, cap, np.random.default_rng(1)), 2.0 ** -BITS[dtype]
    out, slopes = capped(z, sigma, cap)
    sigma, cap = (mpf(float(dtype(number))) for number in (sigma, cap))
    with mp.workdps(60):
        for argument, logit, slope in zip(z.tolist(), out.tolist(), slopes.tolist(), strict=True):
            ratio = sigma * mpf(argument) / cap
            true, of_slope = cap * mp.tanh(ratio), mp.sech(ratio) ** 2
            assert abs(mpf(logit) - true) <= 8 * u * abs(true)
            # one rounding more, of the quotient by σ in this test, and σ's own product
            assert abs(mpf(slope) - of_slope) <= (10 + 4 * abs(ratio)) * u * of_slope
    assert "within 8u and 8u + 4σ|z|u/K" in hyperbolic.capped.__doc__


@both
def test_tanh_of_half_is_within_what_its_docstring_says(dtype):
    """6u and 7u of the tanh and the slope of the argument given: that alone, from where the polynomial ends."""
    random, u = np.random.default_rng(2), 2.0 ** -BITS[dtype]
    count = 2000 if is_compiled() else 200
    x = np.concatenate([
        random.uniform(1.2, 60.0, count), random.uniform(0.5, 3.0, count), np.arange(2, 80) * (math.log(2.0) / 2.0)
    ]).astype(dtype)  # fmt: skip
    with quiet(), mp.workdps(60):
        for argument in x:
            tanh, slope = hyperbolic.tanh_of_half(argument)
            true, of_slope = mp.tanh(mpf(float(argument)) / 2), mp.sech(mpf(float(argument)) / 2) ** 2
            assert abs(mpf(float(tanh)) - true) <= 6 * u * true
            assert abs(mpf(float(slope)) - of_slope) <= 7 * u * of_slope


@both
def test_the_polynomial_is_as_near_as_its_docstring_says(dtype):
    """Within 2^-55 and 2^-26 of tanh(a)/a, and a rounding of each of its steps, of terms up to a²/3: 2^-2 u."""
    u, near = 2.0 ** -BITS[dtype], {np.float64: 2.0**-55, np.float32: 2.0**-26}[dtype]
    a = np.concatenate([np.linspace(1e-3, 0.6, 300), 10.0 ** np.linspace(-18.0, -3.0, 50)])
    with quiet(), mp.workdps(60):
        for number in a:
            square = dtype(number * number)
            root = mp.sqrt(mpf(float(square)))
            true = mp.tanh(root) / root
            computed = mpf(float(hyperbolic.excess(square)))
            assert abs(computed - (true - 1)) <= near * true + 3.0 * u * abs(true - 1)


@both
@pytest.mark.parametrize("rest", [0, 64])  # one by one, and in vectors
def test_capped_logits_of_special_values(dtype, rest):
    """At the cap, where the slope is 0; NaN stays; a logit of 0 has the slope 1."""
    z = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(dtype).max, *([1e5] * rest)], dtype)
    out, slopes = capped(z, 1.0, 30.0)
    np.testing.assert_array_equal(out, np.array([0.0, 0.0, 30.0, -30.0, np.nan, 30.0, *([30.0] * rest)], dtype))
    np.testing.assert_array_equal(slopes, np.array([1.0, 1.0, 0.0, 0.0, np.nan, 0.0, *([0.0] * rest)], dtype))


@both
def test_signs_are_kept_and_no_logit_is_beyond_the_cap(dtype):
    z = arguments(dtype, 1.0, 30.0, np.random.default_rng(3))
    out, slopes = capped(z, 1.0, 30.0)
    mirrored, of_mirrored = capped(-z, 1.0, 30.0)
    assert np.array_equal(out, -mirrored)
    assert np.array_equal(slopes, of_mirrored)
    assert (np.abs(out) <= 30.0).all()
    assert (slopes <= 1.0).all()
    assert (slopes >= 0.0).all()


@both
def test_the_order_of_logits_is_kept_but_for_roundings(dtype):
    """The largest logit is looked for before any is capped: none may come out above it by more than both are wrong."""
    z = np.sort(arguments(dtype, 1.0, 30.0, np.random.default_rng(4)))
    out, _ = capped(z, 1.0, 30.0)
    highest = np.maximum.accumulate(out.astype(np.float64))
    assert (highest - out <= 16.0 * 2.0 ** -BITS[dtype] * np.abs(highest)).all()
    again, _ = capped(np.repeat(z, 2), 1.0, 30.0)
    assert np.array_equal(again[::2], again[1::2])
    assert np.array_equal(again[::2], out)


@both
def test_without_room_for_slopes_there_are_none(dtype):
    z, slopes = np.linspace(-50.0, 50.0, 11).astype(dtype), np.empty(0, dtype)
    out, with_slopes = np.empty_like(z), capped(z, 1.0, 30.0)[0]
    with quiet():
        rows.cap_row(z, dtype(1.0), dtype(30.0), out, slopes)
    assert np.array_equal(out, with_slopes)
