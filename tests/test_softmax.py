"""Stage softmax: probabilities and their sums against mpmath; backward against differences."""

import numpy as np
import pytest
from mpmath import mp

from refloss.error_free import Pair, plain, two_sum
from refloss.stages import softmax
from support import checks, exact


def rows(rng, classes, gap, count=3):
    """Ordinary logits with the largest raised above the others: by `gap` over the second, one of them as low as 700."""
    z = rng.standard_normal((count, classes)) * 3.0
    top = rng.integers(classes, size=count)
    others = z.copy()
    others[np.arange(count), top] = -np.inf
    if classes > 1:
        z[np.arange(count), top] = others.max(axis=1) + gap
        z[0, (top[0] + 1) % classes] = z[0, top[0]] - 700.0 * (gap > 0)
    return z


def whole(pair):
    with mp.workdps(60):
        return exact.exact(pair.hi) + exact.exact(pair.lo)


GAPS = [0.0, 1e-9, 1.0, 20.0, 50.0, 300.0, 690.0]


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
def test_probabilities_and_complements(classes, gap):
    """Relative to themselves, p within 6u and 1 - p within 7u.

    exp 1u, its correction 1u; their sum has 2u of its terms and 1u for its high part; the division 1u: 6u at most. The
    complement at the largest logit is the sum of the others, 2u, over the whole, 3u, 1u. Elsewhere p is 1/2 at most, so
    1 - p has 6u p / (1 - p) and 1u for the difference.
    """
    z = rows(np.random.default_rng(classes), classes, gap)
    p, saved = softmax.forward(Pair.of(z))
    true = exact.softmax(z, digits=400)
    assert exact.row_error(p, true, true) <= 6.0
    with mp.workdps(400):
        complements = np.array([mp.fsum(row) - row for row in true])
    assert exact.row_error(saved.q, complements, complements) <= 7.0
    assert np.array_equal(saved.p, p)


def test_the_low_parts_of_logits_count():
    """Logits of 1e5 as pairs: their differences are as good as those of small ones."""
    rng = np.random.default_rng(1)
    z = Pair(*two_sum(1e5 + rng.standard_normal((4, 6)), rng.uniform(-1.0, 1.0, (4, 6)) * 2.0**-38))
    p, _ = softmax.forward(z)
    true = exact.softmax(whole(z))
    assert exact.row_error(p, true, true) <= 6.0
    assert exact.row_error(softmax.forward(Pair.of(z.hi))[0], true, true) > 1e3


@pytest.mark.parametrize("size", [1e4, 1e30, 1e300])
def test_huge_logits(size):
    z = np.array([[size, size, size], [size, -size, 0.0], [-size, -size, -size]])
    p, _ = softmax.forward(Pair.of(z))
    assert p.tolist() == [[1 / 3] * 3, [1.0, 0.0, 0.0], [1 / 3] * 3]


def test_masked_classes_have_probability_0():
    z = np.array([[0.0, -np.inf, 1.0], [-np.inf, 2.0, -np.inf]])
    p, saved = softmax.forward(Pair.of(z))
    true = exact.softmax(z)
    assert exact.row_error(p, true, true) <= 6.0
    assert p[1].tolist() == [0.0, 1.0, 0.0]
    assert saved.q[1].tolist() == [1.0, 0.0, 1.0]
    assert (p[0, 1], saved.q[0, 1]) == (0.0, 1.0)
    gradient = softmax.backward(np.ones((2, 3)), saved)
    assert np.isfinite(gradient).all()
    assert gradient[:, 1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("row", [[-np.inf, -np.inf], [np.inf, 0.0], [np.inf, np.inf], [np.nan, 0.0], [0.0, np.nan]])
def test_what_has_no_probabilities_is_nan_and_spoils_no_other_row(row):
    """As in torch; a row beside it is what it would have been alone."""
    with np.errstate(invalid="ignore"):
        p, saved = softmax.forward(Pair.of([row, [1.0, 2.0]]))
    alone, _ = softmax.forward(Pair.of([[1.0, 2.0]]))
    assert np.isnan(p[0]).all()
    assert np.isnan(saved.q[0]).all()
    assert np.array_equal(p[1:], alone)


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_backward_against_differences(classes, gap):
    """16u of p_k (|g_k| q_k + sum over j != k of |g_j| p_j), which is the sum of an entry's absolute terms.

    p has 6u and what it multiplies has 8u: its q 7u, a product 1u; its sum 6u, 1u and 1u. The difference 1u, the
    product 1u. Terms of an entry whose p is below the normal range count as the smallest normal number.
    """
    rng = np.random.default_rng(classes)
    z = rows(rng, classes, gap)
    _, saved = softmax.forward(Pair.of(z))
    upstream = rng.standard_normal(z.shape) * 10.0 ** rng.uniform(-2.0, 2.0, z.shape)
    gradient = np.asarray(softmax.backward(upstream, saved))

    def function(z):
        return exact.softmax(z, digits=mp.dps)

    if classes == 1:
        assert not gradient.any()
    else:
        checks.against_exact_vjp(function, [z], upstream, [gradient], 16.0, digits=1200)


def test_the_same_upstream_for_all_classes_has_no_gradient_but_rounding():
    z = rows(np.random.default_rng(2), 6, 1.0)
    _, saved = softmax.forward(Pair.of(z))
    gradient, terms = np.asarray(softmax.backward(np.ones_like(z), saved)), np.asarray(saved.p * saved.q)
    assert (np.abs(gradient) <= 16.0 * checks.U * 2.0 * terms).all()


def test_the_parts_are_what_they_say():
    z = Pair.of(rows(np.random.default_rng(3), 5, 3.0))
    parts = softmax.exponentials(z)
    assert np.array_equal(parts.argmax, z.hi.argmax(axis=1))
    gaps, e = whole(parts.gap), exact.exact(parts.e)
    with mp.workdps(60):
        true = exact.exact(z.hi) - exact.exact(z.hi.max(axis=1))[:, None]
        assert (abs(gaps - true) <= 3 * checks.U**2 * abs(true)).all()
        sizes = np.array([[mp.exp(gap) for gap in row] for row in true])
        others = e.sum(axis=1) - 1
    assert exact.row_error(e, sizes, sizes) <= 2.0
    assert (np.asarray(parts.e)[np.arange(3), parts.argmax] == 1.0).all()
    assert exact.value_error(whole(plain(parts.sum_exp_minus_one)), others) <= 1e-9
    saved = softmax.probabilities(parts)
    assert saved._fields == ("p", "q")
