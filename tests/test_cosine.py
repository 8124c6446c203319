"""Stage cosine: all products of unit vectors against mpmath; backward against differences."""

import numpy as np
import pytest
from mpmath import mp

from refloss.stages import cosine, normalize
from support import checks, exact


def vectors(rng, count, size, kind):
    v = rng.standard_normal((count, size))
    if kind == "graded":
        v = np.ldexp(v, rng.integers(-50, 2, v.shape))
    if kind == "constant":
        v = np.ones_like(v) * rng.choice([1.0, 3.0, 1e-200, 1e200], (count, 1))
    if kind == "lengths":
        v *= 10.0 ** rng.uniform(-200.0, 200.0, (count, 1))
    if kind == "nearly alike":
        v = v[:1] * (1.0 + 1e-9 * v)
    return v


KINDS = ["plain", "graded", "constant", "lengths", "nearly alike"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 16, 512])
def test_cosines_keep_the_bound_of_the_docstring(kind, size):
    """2u of the sum of |x^_i w^_i|: entries are rounded by u on either side. The product adds 2^-10 u at most."""
    rng = np.random.default_rng(size)
    x, w = vectors(rng, 4, size, kind), vectors(rng, 5, size, "graded" if kind == "constant" else kind)
    c, _ = cosine.forward(normalize.forward(x), normalize.forward(w))
    true = exact.cosine(x, w)
    terms = abs(exact.normalize(x)) @ abs(exact.normalize(w)).T
    with mp.workdps(60):
        cosines = exact.exact(c.hi) + exact.exact(c.lo)
    # The product's error is relative to the lengths of the rows, 1, which for graded rows is more than their terms.
    assert exact.row_error(cosines, true, 2 * terms + 2.0**-10) <= 1.0
    assert (np.abs(c.lo) <= checks.U * np.abs(c.hi)).all()


def test_the_cosine_of_a_vector_with_itself_is_1_but_for_its_rounded_entries():
    x = vectors(np.random.default_rng(1), 20, 64, "plain")
    directions = normalize.forward(x)
    c, _ = cosine.forward(directions, directions)
    assert (np.abs(np.diag(c.hi) - 1.0 + np.diag(c.lo)) <= 2.0 * checks.U).all()


@pytest.mark.parametrize("kind", ["plain", "graded", "lengths"])
def test_backward_against_differences(kind):
    """1u for rounding an entry; the unit vectors are taken as they are.

    The product adds (K + 1) 2^-beta u, 2^-20 u, of the largest terms of a row: terms are those of rows, see `linear`.
    """
    rng = np.random.default_rng(2)
    x, w = normalize.forward(vectors(rng, 3, 6, kind)), normalize.forward(vectors(rng, 4, 6, kind))
    _, saved = cosine.forward(x, w)
    upstream = rng.standard_normal((3, 4)) * 10.0 ** rng.uniform(-3.0, 3.0, (3, 1))
    gradients = cosine.backward(upstream, saved)

    def function(x, w):
        return x @ w.T

    checks.against_exact_vjp(function, [x.unit, w.unit], upstream, gradients, 1.0 + 2.0**-10, terms=by_row(upstream))


def by_row(upstream):
    """The sum of |g_nk| along rows and columns: unit vectors have entries of 1 at most."""
    size = exact.exact(np.abs(upstream))
    return [size.sum(axis=1), size.sum(axis=0)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 16, 512])
def test_cosines_of_rows_are_right_to_100_bits(kind, size):
    """64u² = 2^-100 of the sum of |x^_i w^_i| and of the cosine, for D up to 512.

    Three products of rows with (5 + 3 log2 D)u² = 32u², halved for a length by its root; less than 20u² for the roots,
    their product and the quotient, so 32u² of the sum and 52u² of the cosine.
    """
    rng = np.random.default_rng(size + 1)
    x, w = vectors(rng, 5, size, kind), vectors(rng, 5, size, "plain" if kind == "constant" else kind)
    c = cosine.of_rows(x, w)
    true = np.diag(exact.cosine(x, w, digits=80))
    with mp.workdps(80):
        sizes = np.diag(abs(exact.normalize(x)) @ abs(exact.normalize(w)).T)
        error = abs(exact.exact(c.hi) + exact.exact(c.lo) - true)
        assert (error <= mp.mpf(2) ** -100 * (sizes + abs(true))).all()


def test_saved_is_what_it_says():
    rng = np.random.default_rng(3)
    x, w = normalize.forward(vectors(rng, 3, 6, "plain")), normalize.forward(vectors(rng, 4, 6, "plain"))
    _, saved = cosine.forward(x, w)
    assert saved._fields == ("x", "w")
    assert saved.x is x.unit
    assert saved.w is w.unit
