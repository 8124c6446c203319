"""Stage angle: angle, cosine, sine and tangents against mpmath at every angle; backward against differences."""

import math
import subprocess
import sys

import numpy as np
import pytest
from mpmath import mp, mpf

from refloss.engines.dd import DoubleDouble
from refloss.error_free import PI
from refloss.stages import angle
from support import checks, exact

SMALL = [1e-17, 1e-15, 1e-12, 1e-8, 1e-4, 1.0]
LARGE = [1.5, math.pi / 2, math.pi - 1e-4, math.pi - 1e-8, math.pi - 1e-12]


def at(rng, theta, size, count=8):
    """Rows about theta apart: rounding moves the angle by u or so, and what it leaves is the case."""
    x, r = rng.standard_normal((2, count, size))
    x /= np.linalg.norm(x, axis=1)[:, None]
    r -= (r * x).sum(axis=1)[:, None] * x
    r /= np.linalg.norm(r, axis=1)[:, None]
    if theta < 1.6:
        w = x * math.cos(theta) + r * math.sin(theta)
    else:
        w = -x * math.cos(math.pi - theta) + r * math.sin(math.pi - theta)
    return x * rng.uniform(0.5, 2.0, (count, 1)), w * rng.uniform(0.5, 2.0, (count, 1))


def on_axes(theta):
    """Exactly theta apart for tiny ones: the tangent of so small an angle is the angle."""
    x = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, -0.7]])
    w = np.array([[2.0, 2.0 * theta], [1.0, -theta], [theta, -1.0]])
    return x, w


def graded(rng, size, span, count=40):
    """Rows of entries from 1 down to 10^-span, w a multiple of x except for a few of its last bits here and there."""
    x = rng.standard_normal((count, size)) * 10.0 ** rng.uniform(-span, 0.0, (count, size))
    w = x * rng.choice([1.0 / 3.0, 3.0, -0.5, 7.0], (count, 1))
    for _ in range(2):
        places = rng.integers(size, size=count)
        w[np.arange(count), places] *= 1.0 + rng.choice([1, -1, 2, 2**26, 2**50], count) * 2.0**-52
    theta = exact.angle(x, w, digits=900)
    with mp.workdps(900):
        inside = np.array([min(t, mp.pi - t) > 1e-307 for t in theta])
    return x[inside], w[inside]


def whole(pair, n):
    return mpf(float(pair.hi[n])) + mpf(float(pair.lo[n]))


def tangent(v, base):
    """The direction of (base.base) v - (v.base) base, at the working precision."""
    v, base = exact.exact(v), exact.exact(base)
    rest = mp.fsum(b * b for b in base) * v - mp.fsum(p * q for p, q in zip(v, base, strict=True)) * base
    return rest / norm(rest)


def norm(row):
    return mp.sqrt(mp.fsum(entry**2 for entry in row))


def check(x, w, digits=120):
    """Every output of the stage, against the angle and the tangents in as many digits as it takes.

    The high part of the angle is its rounding, 1u. Sine and cosine are a dot product, (5 + 3 log2 D) u² of its terms,
    over lengths, half as much each, with 4u², 5u² and 15u² for a root, a product and a quotient. The angle's own pair
    takes 16u² more for the sine and cosine of its high part, and 3u² for a sum; below 2^-960 low parts are subnormal.

    A tangent: of every entry the low part left out, the length rounded, the division, 1u each, hence so for the row,
    and what it has along the base is no more than that.
    """
    angles, saved = angle.forward(x, w)
    true = exact.angle(x, w, digits=digits)
    pair = (5 + 3 * math.ceil(math.log2(x.shape[1]))) * 2 + 30
    with mp.workdps(digits + 20):
        u = exact.UNIT
        rounded, lost = u * (1 + mpf(2) ** -40), u**2 * mpf(2) ** -960
        for n in range(len(x)):
            theta = true[n]
            assert abs(mpf(float(angles.theta.hi[n])) - theta) <= rounded * theta
            assert abs(whole(angles.theta, n) - theta) <= (pair + 20) * u**2 * min(1, theta) + lost
            assert abs(whole(angles.sin, n) - mp.sin(theta)) <= pair * u**2 * mp.sin(theta) + lost
            assert abs(whole(angles.cos, n) - mp.cos(theta)) <= pair * u**2
            for unit, v, base in ((saved.tangent_x, w, x), (saved.tangent_w, x, w)):
                t, b = exact.exact(unit[n]), exact.exact(base[n])
                assert norm(t - tangent(v[n], base[n])) <= 3 * rounded
                assert abs(mp.fsum(t * b)) <= 3 * rounded * norm(b)


@pytest.mark.parametrize("theta", SMALL + LARGE)
@pytest.mark.parametrize("size", [2, 16, 512])
def test_angles_between_vectors_anywhere(theta, size):
    check(*at(np.random.default_rng(size), theta, size, count=8 if size < 100 else 2))


@pytest.mark.parametrize("theta", [*SMALL, *LARGE])
@pytest.mark.parametrize("size", [2, 64, 4096])
def test_angles_are_right_to_the_width_of_a_pair(theta, size):
    """256u² of the angle, as `_theta` says."""
    x, w = at(np.random.default_rng(size), theta, size, 2)
    angles, true = angle.forward(x, w)[0].theta, exact.angle(x, w, digits=100)
    with mp.workdps(100):
        for hi, lo, t in zip(angles.hi, angles.lo, true, strict=True):
            assert abs(mpf(float(hi)) + mpf(float(lo)) - t) <= 256 * mpf(2) ** -106 * t


@pytest.mark.parametrize("theta", [1e-300, 1e-200, 1e-100, 1e-30, 1e-17])
def test_angles_on_axes(theta):
    x, w = on_axes(theta)
    check(x, w, digits=700)
    check(x, -w, digits=700)
    assert np.allclose(angle.forward(x, w)[0].theta.hi, theta, rtol=1e-15, atol=0.0)


@pytest.mark.parametrize("span", [20, 100, 300])
@pytest.mark.parametrize("size", [2, 3, 16])
def test_angles_between_rows_whose_entries_differ_wildly(size, span):
    """Where a pass of the projection leaves more than two can take away."""
    x, w = graded(np.random.default_rng(size), size, span)
    assert len(x) > 10
    check(x, w, digits=900)


@pytest.mark.parametrize("length", [1e-300, 1e-200, 1e200, 1e300])
def test_lengths_do_not_matter(length):
    """Powers of two change no bit; other factors round the entries, which makes it another angle, as good."""
    rng = np.random.default_rng(1)
    x, w = at(rng, 1e-3, 16)
    check(x * length, w)
    check(x, w * length)
    check(x * length, w * length)
    ordinary, _ = angle.forward(x, w)
    scaled, _ = angle.forward(x * 2.0**900, w * 2.0**-900)
    for part, same in zip(ordinary[:3], scaled[:3], strict=True):
        assert np.array_equal(part.hi, same.hi)
        assert np.array_equal(part.lo, same.lo)


def test_subnormal_vectors():
    x = np.array([[5e-324, 0.0], [1.5e-323, -1e-323], [5e-324, 5e-324]])
    w = np.array([[5e-324, 5e-324], [3e-322, 1.0], [-5e-324, 1e-323]])
    check(x, w)


SUBNORMAL_ANGLES = """
import numpy
from refloss.stages import angle
x = numpy.array([[-1e-320, 5.0, 0.0], [8.0, -5e-320, 1e-307], [2e-307, -6e-307, -3.0]])
w = numpy.array([[-3.335e-321, 2.083333333333333, 0.0], [0.8, -5e-321, 1e-308], [2e-308, -6e-308, -0.3]])
w[1, 2] *= 1.0 + 2.0**-51
with numpy.errstate(all="ignore"):
    angles, saved = angle.forward(x, w)
assert (angles.theta.hi <= 1e-307).all()
assert all(numpy.isfinite(part).all() for part in (*angles.theta.hi, *saved.tangent_x, *saved.tangent_w))
"""


def test_angles_that_float64_cannot_hold_are_found_in_finite_time():
    """Where the rest is subnormal, what lies along the base cannot be made any smaller."""
    subprocess.run([sys.executable, "-c", SUBNORMAL_ANGLES], check=True, timeout=5)


AT_THE_END = [
    ([1.0, 0.0], [1.0, 5e-324]),
    ([1.0, 0.0], [-1.0, 5e-324]),
    ([0.7, 0.0, 1e-323], [0.9, 5e-324, 0.0]),
    ([0.7, 0.3, 1e-323], [-1.4, -0.6, 0.0]),
    ([3.0, 3e-320], [1.0, 1.5e-320]),
    ([1.7e308, 1.0], [1.0, 5e-324]),
    ([1.7e308, 5e-324], [1e300, 1e-10]),
    ([1e-100, 1e-100, 1e-320], [1e200, 1e200, -1e-20]),
]


@pytest.mark.parametrize(("x", "w"), AT_THE_END)
def test_tangents_where_the_end_of_the_range_makes_the_angle(x, w):
    """Scaling by 2^-1 would already lose 5e-324. θ is rounded, to 0 if that is nearest; the tangents exist."""
    x, w = np.array([x]), np.array([w])
    angles, saved = angle.forward(x, w)
    true = exact.angle(x, w, digits=1400)[0]
    with mp.workdps(1400):
        assert abs(mpf(float(angles.sin.hi[0])) - mp.sin(true)) <= exact.UNIT * mp.sin(true) + mpf(2) ** -1075
        assert math.isclose(angles.theta.hi[0], float(true), rel_tol=1e-15, abs_tol=5e-324)
        for unit, v, base in ((saved.tangent_x, w, x), (saved.tangent_w, x, w)):
            assert norm(exact.exact(unit[0]) - tangent(v[0], base[0])) <= 3 * exact.UNIT * (1 + mpf(2) ** -40)
    wide = angle.forward(DoubleDouble.of(x), DoubleDouble.of(w))[1]
    with mp.workdps(1400):
        for unit, v, base in ((wide.tangent_x, w, x), (wide.tangent_w, x, w)):
            pairs = exact.exact(unit.hi[0]) + exact.exact(unit.lo[0])
            assert norm(pairs - tangent(v[0], base[0])) <= 64 * exact.UNIT**2


def test_hard_rows_do_not_hide_ordinary_ones():
    x, w = np.array([[1.0, 0.0], [1.0, 2.0], [1.0, 0.0]]), np.array([[1.0, 5e-324], [3.0, -1.0], [2.0, 0.0]])
    angles, saved = angle.forward(x, w)
    assert angles.theta.hi.tolist() == [5e-324, angles.theta.hi[1], 0.0]
    assert saved.tangent_x.any(axis=1).tolist() == [True, True, False]
    assert math.isclose(angles.theta.hi[1], math.acos(1.0 / math.sqrt(50.0)), rel_tol=1e-15)


PARALLEL = [
    ([3.0, 6.0], [1.0, 2.0], 1),  # a third is no float64 number
    ([1.0, 2.0, 0.0], [7.0, 14.0, 0.0], 1),
    ([0.1, 0.3], [0.2, 0.6], 1),
    ([0.1 * 3, 0.1], [-0.1 * 3, -0.1], -1),
    ([0.1, 0.7], [-0.1 * 2.0**-700, -0.7 * 2.0**-700], -1),
    ([5.0], [2.0], 1),
    ([5.0], [-1e-300], -1),
    ([5e-324, 0.0], [1e308, 0.0], 1),
    ([1.0, 2e-320], [-0.5, -1e-320], -1),
    ([(1 + 2.0**-20) * 3, (1 - 2.0**-21) * 3, -3.0], [(1 + 2.0**-20) * 7, (1 - 2.0**-21) * 7, -7.0], 1),
]


@pytest.mark.parametrize(("x", "w", "sign"), PARALLEL)
def test_exactly_parallel_vectors_have_exactly_0_or_pi_and_no_tangents(x, w, sign):
    x, w = np.array([x]), np.array([w])
    angles, saved = angle.forward(x, w)
    expected = 0.0 if sign > 0 else math.pi
    assert angles.theta.hi.tolist() == [expected]
    assert angles.theta.lo.tolist() == [0.0 if sign > 0 else float(PI.lo)]
    assert (angles.cos.hi.tolist(), angles.cos.lo.tolist()) == ([sign], [0.0])
    assert (angles.sin.hi.tolist(), angles.sin.lo.tolist()) == ([0.0], [0.0])
    assert not saved.tangent_x.any()
    assert not saved.tangent_w.any()
    dx, dw = map(np.asarray, angle.backward(np.ones(1), saved))
    assert not dx.any()
    assert not dw.any()


@pytest.mark.parametrize("size", [2, 16, 512])
@pytest.mark.parametrize("factor", [1.0, -3.0, 1.0 / 3.0])
def test_one_unit_in_the_last_place_is_not_parallel(size, factor):
    rng = np.random.default_rng(size)
    x = rng.standard_normal((3, size))
    x[:, 0] = 1.0
    w = x * factor
    w[:, -1] = np.nextafter(w[:, -1], 9.0)
    angles, saved = angle.forward(x, w)
    assert (angles.sin.hi > 0.0).all()
    assert np.allclose(np.linalg.norm(saved.tangent_x, axis=1), 1.0, rtol=1e-15, atol=0.0)
    check(x, w, digits=200)


def test_in_one_dimension_there_is_0_and_pi():
    x, w = np.array([[2.0], [-3.0], [1e-300]]), np.array([[0.1], [7.0], [-1e300]])
    angles, _ = angle.forward(x, w)
    assert angles.theta.hi.tolist() == [0.0, math.pi, math.pi]


def test_hard_rows_among_ordinary_ones_change_no_bit_of_them():
    """The number of passes is that of the hardest row: for the others the last ones take nothing away."""
    rng = np.random.default_rng(2)
    x, w = at(rng, 1.0, 16, count=20)
    (alone, of_alone), (hard, of_hard) = (
        angle.forward(x, w),
        angle.forward(*(np.concatenate(rows) for rows in zip((x, w), at(rng, 1e-15, 16), strict=True))),
    )
    assert np.array_equal(hard.theta.hi[:20], alone.theta.hi)
    assert np.array_equal(of_hard.tangent_x[:20], of_alone.tangent_x)


@pytest.mark.parametrize("theta", [1e-15, 1e-8, 1e-2, 1.0, 2.0, math.pi - 1e-6, math.pi - 1e-12])
@pytest.mark.parametrize("length", [1.0, 1e-200, 1e200])
def test_backward_against_differences(theta, length):
    """7u of |g| / |x|: the tangent 4u, the length, the quotient and the product 1u each."""
    rng = np.random.default_rng(3)
    x, w = at(rng, theta, 5, count=3)
    x *= length
    _, saved = angle.forward(x, w)
    upstream = rng.standard_normal(3)
    gradients = angle.backward(upstream, saved)
    with mp.workdps(60):
        lengths = [np.array([norm(row) for row in exact.exact(v)]) for v in (x, w)]
        terms = [abs(exact.exact(upstream)) / each for each in lengths]

    def function(x, w):
        return exact.angle(x, w, digits=mp.dps)

    checks.against_exact_vjp(function, [x, w], upstream, gradients, 7.0 + 1e-9, terms=terms)


def test_backward_at_the_smallest_angle_is_the_tangent_over_the_length():
    x, w = on_axes(1e-300)
    _, saved = angle.forward(x, w)
    dx, dw = angle.backward(np.array([1.0, 2.0, 4.0]), saved)
    assert dx.tolist() == [[0.0, -1.0], [0.0, 2.0 / 3.0], [-4.0 / 0.7, 0.0]]
    assert np.allclose(dw, [[0.0, 0.5], [0.0, -2.0], [4.0, 0.0]], rtol=1e-15, atol=1e-299)


@pytest.mark.parametrize("theta", [0.0, 1e-300, 1e-8, 1.0, math.pi / 2, math.pi - 1e-8, math.pi])
def test_an_angle_in_radians_has_its_sine_and_cosine(theta):
    """`of` takes a float64 number as it is: 16u², see `sin_cos`."""
    angles = angle.of(np.array([theta]))
    assert (angles.theta.hi.tolist(), angles.theta.lo.tolist()) == ([theta], [0.0])
    with mp.workdps(60):
        assert abs(whole(angles.cos, 0) - mp.cos(mpf(theta))) <= 16 * exact.UNIT**2
        assert abs(whole(angles.sin, 0) - mp.sin(mpf(theta))) <= 16 * exact.UNIT**2


def test_saved_is_what_it_says():
    x, w = at(np.random.default_rng(4), 0.3, 7)
    x *= 1e-200
    _, saved = angle.forward(x, w)
    assert saved._fields == ("tangent_x", "tangent_w", "length_x", "length_w", "exponent_x", "exponent_w")
    for rows, length, exponent in ((x, saved.length_x, saved.exponent_x), (w, saved.length_w, saved.exponent_w)):
        lengths = np.linalg.norm(rows / rows[:, :1], axis=1) * np.abs(rows[:, 0])
        assert np.allclose(np.ldexp(length, exponent), lengths, rtol=1e-15, atol=0.0)
        assert ((length >= 0.5) & (length < math.sqrt(7))).all()
