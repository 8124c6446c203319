"""Stage logits: the scaled cosines and the target's psi against mpmath; backward against differences."""

import numpy as np
import pytest
from mpmath import mp

from refloss.error_free import Pair, two_sum
from refloss.stages import angle, cosine, logits, margin, normalize
from support import checks, exact

Y = np.array([2, 0, 3])


def inputs(rng, size=4):
    """Cosines and psi as pairs of full width, and one scale per row as length and exponent."""
    c = Pair(*two_sum(rng.uniform(-1.0, 1.0, (3, size)), rng.uniform(-1.0, 1.0, (3, size)) * 2.0**-55))
    psi = Pair(*two_sum(rng.uniform(-7.0, 1.0, 3), rng.uniform(-1.0, 1.0, 3) * 2.0**-55))
    scale = Pair(*two_sum(np.array([0.5, 0.75, 1.7]), rng.uniform(-1.0, 1.0, 3) * 2.0**-55))
    return c, psi, scale


def whole(pair):
    with mp.workdps(80):
        return exact.exact(pair.hi) + exact.exact(pair.lo)


def truth(c, psi, scale):
    """s f, with psi in the target's place, of object arrays."""
    f = c.copy()
    f[np.arange(len(Y)), Y] = psi
    return scale[:, None] * f


@pytest.mark.parametrize("exponent", [[0, 0, 0], [7, -3, 1], [664, -664, 0]])
def test_logits_are_pairs_right_to_the_bits_of_a_pair(exponent):
    """A product of two pairs, 5u²; scaling is exact, also by the 2^664 of an embedding of length 1e200."""
    c, psi, scale = inputs(np.random.default_rng(1))
    z, _ = logits.forward(c, psi, Y, scale, np.array(exponent))
    with mp.workdps(80):
        true = truth(whole(c), whole(psi), whole(scale)) * np.array([[mp.mpf(2) ** e] for e in exponent])
        assert (abs(whole(z) - true) <= (5 + 1e-9) * mp.mpf(2) ** -106 * abs(true)).all()


def test_the_arguments_stay_as_they_are():
    c, psi, scale = inputs(np.random.default_rng(2))
    before = c.hi.copy(), c.lo.copy()
    logits.forward(c, psi, Y, scale, np.zeros(3, int))
    assert all(np.array_equal(*parts) for parts in zip((c.hi, c.lo), before, strict=True))


@pytest.mark.parametrize(
    ("exponent", "size"),
    [([0, 0, 0], 1.0), ([7, -3, 1], 1e-3), ([664, -664, 0], 1e-3), ([664, 0, 0], 1e-250), ([0, -664, 7], 1e250)],
)
def test_backward_against_differences(exponent, size):
    """Cosines and psi: 1u for rounding the scale and 1u for the product.

    The scale: the sum is taken in pairs and rounded once, 1u. Both relative to the sum of absolute terms of each entry.
    """
    rng = np.random.default_rng(3)
    c, psi, scale = inputs(rng)
    _, saved = logits.forward(c, psi, Y, scale, np.array(exponent))
    upstream = rng.standard_normal((3, 4)) * size
    upstream[:, 1] *= 1e-9
    gradients = logits.backward(upstream, saved)
    with mp.workdps(80):
        s = whole(scale) * np.array([mp.mpf(2) ** e for e in exponent])
    checks.against_exact_vjp(truth, [whole(c), whole(psi), s], upstream, gradients, 2.0 + 1e-9)
    assert not np.asarray(gradients[0])[np.arange(3), Y].any()


def test_gradient_of_the_scale_is_right_where_its_terms_cancel():
    """Rounded once: 1u of the result, and the (5 + 3 log2 C) u² of a dot product of pairs, of the absolute terms."""
    c, psi, scale = inputs(np.random.default_rng(4))
    _, saved = logits.forward(c, psi, Y, scale, np.zeros(3, int))
    upstream = np.random.default_rng(5).standard_normal((3, 4))
    upstream[:, -1] = -(upstream * saved.f.hi)[:, :-1].sum(axis=1) / saved.f.hi[:, -1]
    _, _, ds = logits.backward(upstream, saved)
    with mp.workdps(80):
        parts = exact.exact(upstream) * whole(saved.f)
        true, size = parts.sum(axis=1), abs(parts).sum(axis=1)
        assert (abs(true) < 1e-14 * size).all()
        assert (abs(exact.exact(ds) - true) <= checks.U * abs(true) + 11.001 * checks.U**2 * size).all()


@pytest.mark.parametrize("scale", [None, 64.0])
@pytest.mark.parametrize(
    "settings", [margin.Settings(), margin.Settings(m2=0.5), margin.Settings(4.0, boundary="monotone")]
)
def test_both_branches_meet_in_the_logits_of_the_papers(settings, scale):
    """Every cosine within 2u, see `cosine`; psi and the scale are pairs. So a logit is within 2u of s."""
    rng = np.random.default_rng(6)
    x, w = rng.standard_normal((3, 8)) * [[1.0], [1e-3], [20.0]], rng.standard_normal((4, 8))
    unit_x = normalize.forward(x)
    c, _ = cosine.forward(unit_x, normalize.forward(w))
    psi, _ = margin.forward(angle.forward(x, w[Y])[0], settings)
    s, exponent = (unit_x.length, unit_x.exponent) if scale is None else (Pair.of(np.full(3, scale)), np.zeros(3, int))
    z, _ = logits.forward(c, psi, Y, s, exponent)
    true = exact.logits(
        x, w, Y, m1=settings.m1, m2=settings.m2, m3=settings.m3, boundary=settings.boundary, scale=scale
    )
    sizes = np.full(3, scale) if scale else np.linalg.norm(x, axis=1)
    assert exact.row_error(whole(z), true, sizes) <= 2.0 + 1e-3


def test_saved_is_what_it_says():
    c, psi, scale = inputs(np.random.default_rng(7))
    _, saved = logits.forward(c, psi, Y, scale, np.array([3, 0, -1]))
    assert saved._fields == ("scale", "f", "y")
    assert saved.scale.tolist() == [8.0 * scale.hi[0], scale.hi[1], scale.hi[2] / 2.0]
    assert np.array_equal(saved.y, Y)
    for n in range(3):
        for k in range(4):
            entry = psi[n] if k == Y[n] else c[n, k]
            assert (saved.f.hi[n, k], saved.f.lo[n, k]) == (entry.hi, entry.lo)
