"""Stage normalize: unit vectors and lengths against mpmath at every length; backward against differences."""

import numpy as np
import pytest
from mpmath import mp

from refloss.stages import normalize
from support import checks, exact

LENGTHS = [1.0, 1e-300, 1e-200, 1e-10, 1e10, 1e200, 1e300]


def rows(rng, size, length=1.0):
    """Ordinary rows and hard ones: one entry alone, all alike, entries from 1 down to 2^-60."""
    v = rng.standard_normal((6, size))
    v[1, 1:] = 0.0
    v[2] = -1.0
    v[3:5] = np.ldexp(v[3:5], rng.integers(-60, 1, (2, size)))
    return v / np.linalg.norm(v, axis=1)[:, None] * length


@pytest.mark.parametrize("size", [1, 2, 16, 512])
@pytest.mark.parametrize("length", LENGTHS)
def test_directions_are_right_to_2u_in_every_entry(size, length):
    """1u for rounding the length and 1u for the division; `excess` takes the first, which is a whole row's, back."""
    v = rows(np.random.default_rng(size), size, length)
    normalized = normalize.forward(v)
    true = exact.normalize(v)
    assert exact.row_error(normalized.unit, true, np.abs(true)) <= 2.0 + 1e-9
    with mp.workdps(60):
        restored = exact.exact(normalized.unit) / (1 + exact.exact(normalized.excess))[:, None]
    assert exact.row_error(restored, true, np.abs(true)) <= 1.0 + 1e-9


@pytest.mark.parametrize("size", [1, 2, 16, 512])
@pytest.mark.parametrize("length", LENGTHS)
def test_lengths_are_pairs_with_ten_bits_to_spare(size, length):
    """The square is right to (D + 1) u 2^-b, b = floor((53 - log2 D) / 2), see `matmul`; the length to half of it."""
    v = rows(np.random.default_rng(size), size, length)
    normalized = normalize.forward(v)
    bits = (53 - int(np.ceil(np.log2(max(size, 2))))) // 2
    allowed = (size + 1) * 2.0**-bits + 4.0 * checks.U
    with mp.workdps(60):
        true = np.array([mp.sqrt(mp.fsum(entry**2 for entry in row)) for row in exact.exact(v)])
        pair = exact.exact(normalized.length.hi) + exact.exact(normalized.length.lo)
        scaled = true * np.array([mp.ldexp(1, -int(e)) for e in normalized.exponent])
        assert exact.value_error(pair, scaled) <= allowed
    assert exact.value_error(normalized.norm.hi, true) <= 1.0 + allowed
    assert ((normalized.length.hi >= 0.5) & (normalized.length.hi < np.sqrt(size) + 1e-9)).all()


def test_lengths_beyond_float64_are_kept_as_length_and_exponent():
    normalized = normalize.forward(np.full((1, 4), 1.5e308))
    assert normalized.unit.tolist() == [[0.5] * 4]
    assert (normalized.length.hi * 2.0 ** (normalized.exponent - 1023.0)).tolist() == [1.5e308 / 2.0**1022]
    with np.errstate(over="ignore"):
        assert normalized.norm.hi.tolist() == [np.inf]


def together(v):
    """Directions and lengths, one beside the other."""
    lengths = np.array([mp.sqrt(mp.fsum(entry**2 for entry in row)) for row in v])
    return np.column_stack([exact.normalize(v, digits=mp.dps), lengths])


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("with_norm", [False, True])
def test_backward_against_differences(size, length, with_norm):
    """9u of |g_i| / |v| + sum over j of |g_j v^_j| |v^_i| / |v| + |g_norm v^_i|, entry by entry.

    g . v^ is wrong by 2u (v^) and 1u (rounded), its product with v^_i by 2u and 1u more; the difference, the rounded
    length and the division 1u each, of all. The part of the norm: 2u (v^), 1u (product), 1u (sum).
    """
    rng = np.random.default_rng(size)
    v = rows(rng, size, length)
    saved = normalize.forward(v)
    upstream = rng.standard_normal(v.shape) * 10.0 ** rng.uniform(-3.0, 3.0, (6, 1))
    upstream[0] = 0.0
    upstream_norm = rng.standard_normal(6) / length if with_norm else np.zeros(6)
    gradient = normalize.backward(upstream, saved, upstream_norm if with_norm else None)
    true = exact.normalize(v)
    along = (np.abs(upstream) * np.abs(true)).sum(axis=1)[:, None] * np.abs(true)
    terms = (np.abs(upstream) + along) / exact.exact(np.linalg.norm(v / length, axis=1)[:, None]) / exact.exact(length)
    terms = terms + np.abs(upstream_norm)[:, None] * np.abs(true)
    both = np.column_stack([upstream, upstream_norm])
    checks.against_exact_vjp(together, [v], both, [gradient], 9.0 + 1e-9, terms=[terms])


def test_backward_of_what_points_along_the_row_is_what_rounding_leaves():
    """A gradient along v is projected away: the residual is rounding alone, 6u of it."""
    v = rows(np.random.default_rng(1), 5)
    saved = normalize.forward(v)
    gradient = normalize.backward(saved.unit * 3.0, saved)
    assert np.abs(gradient).max() <= 6.0 * checks.U * 3.0 / saved.norm.hi.min()
    assert not normalize.backward(np.zeros_like(v), saved).any()


def test_saved_is_what_it_says():
    v = rows(np.random.default_rng(2), 3, 1e5)
    saved = normalize.forward(v)
    assert saved._fields == ("unit", "excess", "length", "exponent")
    assert np.allclose(saved.unit * saved.norm.hi[:, None], v, rtol=1e-15, atol=0.0)
    assert (np.abs(saved.excess) <= checks.U).all()
    assert np.array_equal(saved.norm.hi, np.ldexp(saved.length.hi, saved.exponent))
