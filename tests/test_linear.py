"""Stage linear: logits of a linear layer against mpmath; backward against differences."""

import math

import numpy as np
import pytest
from mpmath import mp

from refloss.stages import linear
from support import checks, exact


def inputs(rng, kind, n=3, c=4, d=6):
    """Embeddings, classes and bias: ordinary ones and hard ones."""
    x, w, b = rng.standard_normal((n, d)), rng.standard_normal((c, d)), rng.standard_normal(c)
    if kind == "graded":
        x, w = np.ldexp(x, rng.integers(-50, 2, x.shape)), np.ldexp(w, rng.integers(-50, 2, w.shape))
    if kind == "cancelling":
        w[0] = x[0] * np.where(np.arange(d) % 2, 1.0, -1.0) * (np.abs(x[0]).max() / np.abs(x[0])) ** 2
        b[1] = -x[1] @ w[1]
    if kind == "large":
        x *= 1e5
    if kind == "far apart":
        x, w, b = x * 1e-200, w * 1e200, b * 1e-3
    if kind == "zeros":
        x[0], w[1], b[:] = 0.0, 0.0, 0.0
    return x, w, b


KINDS = ["plain", "graded", "cancelling", "large", "far apart", "zeros"]


def product_bound(a, b):
    """(K + 1) u 2^-beta times the sum of a row's absolute entries and the other row's largest: `matmul`, in units of u.

    Tails are at most 2^-(beta + 1) of twice the row's largest entry, the power of two that the row is scaled by.
    """
    count = a.shape[1]
    beta = (53 - math.ceil(math.log2(max(count, 2)))) // 2
    sums, largest = np.abs(a).sum(axis=1), np.abs(a).max(axis=1)
    return (count + 1) * 2.0**-beta * (sums[:, None] * np.abs(b).max(axis=1) + largest[:, None] * np.abs(b).sum(axis=1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("size", [1, 6, 512])
def test_logits_are_pairs_as_good_as_the_product(kind, with_bias, size):
    """Beside the bound of the product, 3u^2 of the sum for adding the bias."""
    x, w, b = inputs(np.random.default_rng(size), kind, d=size)
    z, _ = linear.forward(x, w, b if with_bias else None)
    true = exact.linear(x, w, b if with_bias else None)
    with mp.workdps(60):
        computed = exact.exact(z.hi) + exact.exact(z.lo)
        bound = exact.exact(product_bound(x, w)) + 3 * checks.U * abs(true)
        errors = abs(computed - true) / exact.UNIT
    assert (errors <= bound).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_backward_against_differences(kind, with_bias):
    """1u for rounding an entry; the product itself adds (K + 1) 2^-beta of absolute terms, less than 0.001u here.

    Terms by row: what the head of one entry leaves is small beside the largest of a row and not beside each entry.
    """
    rng = np.random.default_rng(7)
    x, w, b = inputs(rng, kind)
    _, saved = linear.forward(x, w, b if with_bias else None)
    upstream = rng.standard_normal((3, 4)) * 10.0 ** rng.uniform(-3.0, 0.0, (3, 4))
    upstream[:, 2] = 0.0
    gradients = linear.backward(upstream, saved)
    size = exact.exact(np.abs(upstream))
    terms_x = [mp.fsum(size[n, k] * abs(w[k]).max() for k in range(4)) for n in range(3)]
    terms_w = [mp.fsum(size[n, k] * abs(x[n]).max() for n in range(3)) for k in range(4)]
    terms = [np.array(terms_x), np.array(terms_w), size.sum(axis=0)]

    def function(x, w, b):
        return exact.linear(x, w, b if with_bias else None, digits=mp.dps)

    if not with_bias:  # without a bias to move, the third gradient is what it would have been
        gradients, terms = gradients[:2], terms[:2]
        checks.against_exact_vjp(lambda x, w: function(x, w, None), [x, w], upstream, gradients, 1.001, terms=terms)
    else:
        checks.against_exact_vjp(function, [x, w, b], upstream, gradients, 1.001, terms=terms)


def test_gradient_of_the_bias_is_the_sum_rounded_once():
    upstream = np.array([[1.0, 1e16], [2.0**-60, 1.0], [-1.0, -1e16]])
    _, _, b = linear.backward(upstream, linear.Saved(np.zeros((3, 1)), np.zeros((2, 1))))
    assert b.tolist() == [2.0**-60, 1.0]


def test_saved_is_what_it_says():
    x, w, b = inputs(np.random.default_rng(8), "plain")
    _, saved = linear.forward(x, w, b)
    assert saved._fields == ("x", "w")
    assert saved.x is x
    assert saved.w is w
