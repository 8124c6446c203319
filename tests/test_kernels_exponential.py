"""exp against mpmath, in both dtypes: the bounds of its docstring, their proof, the ends of the range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mpmath import mp, mpf

from refloss.engines.kernels import exponential
from support.kernel_cases import BITS, LEAST, NORMAL, arguments, both, exponentials_of, is_compiled

FLUSHED = {np.float64: -708.75, np.float32: -87.69}
ULPS = {np.float64: 0.82, np.float32: 0.79}


def ulps(x, computed):
    """The largest error, in ulp of the true value."""
    bits, least, worst = BITS[x.dtype.type], LEAST[x.dtype.type], 0.0
    with mp.workprec(160):
        for a, e in zip(x.tolist(), computed.tolist(), strict=True):
            true = mp.exp(a)
            exponent = max(int(mp.frexp(true)[1]) - bits, least)
            worst = max(worst, float(abs(mpf(e) - true) * mpf(2) ** -exponent))
    return worst


@both
def test_exponentials_of_rows_are_within_what_their_docstring_says(dtype):
    x = arguments(dtype, np.random.default_rng(10))
    assert ulps(x, exponentials_of(x)) < ULPS[dtype]
    assert f"- {dtype.__name__}: within {ULPS[dtype]} ulp for {NORMAL[dtype][0]} <= x <=" in exponential.exp.__doc__


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
