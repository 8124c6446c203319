"""Stage triplet: losses against mpmath and rational numbers, hinges included; backward against differences."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp

import refloss
from refloss.engines.dd import DoubleDouble
from refloss.stages import triplet
from support import checks, exact

KINDS = ["plain", "near", "far positive", "graded"]
LENGTHS = [1e-200, 1e-10, 1.0, 1e10, 1e200]


def points(rng, size, kind, length=1.0, count=4):
    a, p, n = rng.standard_normal((3, count, size))
    if kind == "near":
        p, n = a + 1e-9 * p, a + 1e-9 * n
    if kind == "far positive":
        p = 1e3 * p
    if kind == "graded":
        a, p, n = (np.ldexp(v, rng.integers(-50, 1, v.shape)) for v in (a, p, n))
    return a * length, p * length, n * length


def truth(a, p, n, m, squared):
    return exact.triplet(a, p, n, m=m, squared=squared, reduction="none", digits=60)


def forward(a, p, n, m, squared):
    losses, saved = triplet.forward(a, p, n, m, squared)
    with np.errstate(over="ignore"):
        return triplet.reduce(losses, "none"), saved


def check(a, p, n, m, squared):
    """A violation is right to 2^-60 and rounded once, 1u; below the normal range once more. Its sign is exact."""
    loss, saved = forward(a, p, n, m, squared)
    true = truth(a, p, n, m, squared)
    with mp.workdps(60):
        largest = exact.exact(np.finfo(float).max)[()]
        assert saved.active.tolist() == [float(value > 0) for value in true]
        for computed, value in zip(loss, true, strict=True):
            if value > largest:
                assert computed == np.inf
            else:
                allowed = (1 + mp.mpf(2) ** -6) * exact.UNIT * max(value, exact.SMALLEST_NORMAL)
                assert abs(exact.exact(computed)[()] - value) <= allowed


@pytest.mark.parametrize("size", [1, 2, 5, 64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("m", [0.0, 0.2, 100.0])
def test_losses(size, kind, squared, m):
    check(*points(np.random.default_rng(size), size, kind), m, squared)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("squared", [True, False])
def test_losses_of_any_size(length, squared):
    """Squares of 1e200 are infinite, and so is the loss, or it is 0; those of 1e-200 are 0, and the hinge is open."""
    a, p, n = points(np.random.default_rng(1), 5, "plain", length)
    n[0] = a[0] + 0.5 * (p[0] - a[0])  # a loss above 0 and one of 0, whatever the size
    n[1] = a[1] + 2.0 * (p[1] - a[1])
    for m in (0.0, 1e-300, 0.2):
        check(a, p, n, m, squared)


# ---------------------------------------------------------------------------------------------------- next to the hinge


@pytest.mark.parametrize("size", [1, 2, 16])
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("steps", [-1, 0, 1, 2, 2**20])
def test_next_to_the_hinge(size, squared, steps):
    """m is what the distances differ by in float64, up to some units: losses of 1e-17 and less, from distances of 1."""
    rng = np.random.default_rng(size)
    for _ in range(20):
        a, p, n = points(rng, size, "plain", count=1)
        m = float(np.linalg.norm(a - n) ** (1 + squared) - np.linalg.norm(a - p) ** (1 + squared))
        if m < 0.0:
            p, n, m = n, p, -m
        check(a, p, n, m + steps * math.ulp(m), squared)


ENGINES = [("chain", None), ("fused", None), ("dd", None), ("fused", np.float32)]


@pytest.mark.parametrize(("engine", "dtype"), ENGINES)
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("step", [1e-9, 1e-12, 1e-14, 1e-100, 1e-154, 0.0])
def test_distances_that_differ_by_less_than_their_roundoff(engine, dtype, squared, step):
    """Of (0.1, 0.2, 0.3, h) and (0.3, 0.1, 0.2, 0): h², or h²/(2 sqrt(0.14)) of plain distances."""
    loss = refloss.Triplet(m=0.0, squared=squared, reduction="sum")
    points = np.zeros((1, 4)), np.array([[0.1, 0.2, 0.3, step]]), np.array([[0.3, 0.1, 0.2, 0.0]])
    if dtype is None:
        checks.against_exact(loss, *points, engine=engine, digits=200)
        if squared:
            assert loss(*points, engine=engine) == step * step
    else:
        true = np.float32(float(exact.value(loss, *points)))
        assert np.isclose(loss(*points, engine=engine, dtype=dtype), true, rtol=2.0**-23, atol=2.0**-150)


def test_a_loss_below_the_roundoff_of_its_distances():
    """(1 + h)² - 1 - 2h = h²: all of the loss is in what float64 would have rounded away."""
    h = 2.0**-30 * np.array([[1.0], [1.25], [3.0]])
    a, p, n = np.zeros((3, 1)), 1.0 + h, np.ones((3, 1))
    for row in range(3):
        exactly = h[row, 0] ** 2
        m = -2.0 * h[row, 0]
        loss, saved = forward(a[[row]], p[[row]], n[[row]], m, True)
        assert loss.tolist() == [exactly]
        assert saved.active.tolist() == [1.0]


@pytest.mark.parametrize("h", [2.0**-98, 2.0**-101, 2.0**-500, 2.0**-1000, 5e-324])
def test_nothing_is_too_near_the_hinge(h):
    """Squared lengths 1 + h² and 1, of h orthogonal to a unit vector; and a margin of h, between equal distances."""
    a, p, n = np.zeros((1, 2)), np.array([[1.0, h]]), np.array([[1.0, 0.0]])
    for squared in (True, False):
        check(a, p, n, 0.0, squared)
        check(a, n, p, 0.0, squared)
        loss, saved = forward(a, n[:, ::-1].copy(), n, h, squared)
        assert loss.tolist() == [h]
        assert saved.active.tolist() == [1.0]


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("low", [0.0, 1e-200, 2.0**-60, 3.0])
@pytest.mark.parametrize("high", [1e-150, 1.0, 1e150])
def test_violations_from_integers(low, high, squared):
    """Right to 2^-120 and exactly 0 where it is, with margins on both sides of what closes the hinge."""
    points = np.array([[low, -high], [high, 3.0 * low], [2.0 * high, high]])
    for a, p, n in itertools.permutations(points):
        gap = max(float(np.linalg.norm(a - n)) - float(np.linalg.norm(a - p)), 0.0)
        for m in (0.0, low, high, gap, gap * (1.0 + 2.0**-50)):
            violation = triplet._violation(np.stack([a, p, n]), Fraction(m), squared)
            true = exact.Triple.of(*(exact.exact(v) for v in (a, p, n)), m, squared).hinge(60)
            with mp.workdps(60):
                assert abs(mp.mpf(violation.numerator) / violation.denominator - true) <= mp.mpf(2) ** -120 * abs(true)


@pytest.mark.parametrize(
    ("a", "p", "n", "m", "squared"),
    [
        ([0.0, 0.0], [3.0, 4.0], [6.0, 8.0], 5.0, False),
        ([0.0, 0.0], [3.0, 4.0], [6.0, 8.0], 75.0, True),
        ([0.5, 0.25], [0.5, 1.25], [0.5, -1.0], 0.25, False),
        ([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], 0.0, True),
        ([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], 0.0, False),
        ([1.0, 2.0], [4.0, 6.0], [6.0, 2.0], 0.0, True),
        ([1.0, 2.0], [4.0, 6.0], [6.0, 2.0], 0.0, False),
    ],
)
def test_at_the_hinge_itself_the_loss_is_0_and_so_are_the_gradients(a, p, n, m, squared):
    a, p, n = (np.array([v]) for v in (a, p, n))
    loss, saved = forward(a, p, n, m, squared)
    assert loss.tolist() == [0.0]
    assert not any(gradient.any() for gradient in triplet.backward(np.ones(1), saved))
    above, saved = forward(a, p, n, np.nextafter(m, 9e9), squared)
    assert above.tolist() == [np.nextafter(m, 9e9) - m]
    assert saved.active.tolist() == [1.0]


@pytest.mark.parametrize(
    ("a", "p", "n"),
    [
        ("-0x1.711ca0159148ap-4", "0x1.7a830623b6397p-1", "0x1.a92c3e4412fb1p-1"),
        ("0x1.46008a820e974p+1", "0x1.e6a1a974f7706p-2", "-0x1.87688f04b33cdp-1"),
    ],
)
def test_at_the_hinge_itself_with_numbers_of_full_length(a, p, n):
    """On a line, where the difference of the distances is n - p, a float64 number."""
    a, p, n = (np.array([[float.fromhex(v)]]) for v in (a, p, n))
    m = float(abs(n - p)[0, 0])
    assert truth(a, p, n, m, squared=False).tolist() == [0.0]
    loss, saved = forward(a, p, n, m, False)
    assert loss.tolist() == [0.0]
    assert not any(gradient.any() for gradient in triplet.backward(np.ones(1), saved))


# ------------------------------------------------------------------------------------------------ the ends of the range


HUGE = 1.7e308


def every_engine(loss, *points, upstream=None, digits=60):
    """Value and gradients of one engine after another, inf where the truth does not fit: the contract, but stricter.

    Entries are compared with themselves, and only those of a difference of two directions with the row's terms.
    """
    true = exact.gradients(loss, *points, upstream=upstream, digits=digits)
    true["value"] = exact.value(loss, *points, digits=digits)
    largest = mp.mpf(float(np.finfo(float).max))
    true = {
        name: np.vectorize(lambda v: v if abs(v) <= largest else mp.sign(v) * mp.inf, otypes=[object])(entries)
        for name, entries in true.items()
    }
    terms = exact.absolute_terms(loss, *points, upstream=upstream)["anchor"]
    for engine in ("chain", "fused", "dd"):
        value, gradients = loss.value_and_grad(*points, upstream=upstream, engine=engine)
        assert np.array_equal(loss(*points, engine=engine), value)
        assert exact.value_error(value, true["value"]) <= (4.0 if engine == "dd" else 8.0)
        for name, gradient in gradients._asdict().items():
            if name == "anchor" and not loss.squared:
                assert exact.row_error(gradient, true[name], terms) <= 8.0
            else:
                assert exact.value_error(gradient, true[name]) <= 8.0
    return value, gradients


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_differences_and_distances_that_do_not_fit(squared, reduction):
    """Distances of 3.4e308 and more, whose difference is 3.4e307, or 0, or 5e-324 from m alone."""
    a = np.full((4, 2), [HUGE, 5e-324])
    p = np.full((4, 2), [-HUGE, 0.0])
    n = np.array([[-0.8 * HUGE, 0.0], [-HUGE, 0.0], [-HUGE, 1e-323], [HUGE, 0.0]])
    for m in (0.0, 5e-324, 1.0):
        loss = refloss.Triplet(squared=squared, reduction=reduction, m=m)
        for rows in ([0], [1], [2], [0, 1, 2], [0, 1, 2, 3]):
            every_engine(loss, a[rows], p[rows], n[rows], digits=1400)


def test_plain_distances_beyond_the_range():
    """‖a - p‖ = 2 sqrt(2) 1.7e308 does not fit, and is the loss of the first row; the second gains its eighth."""
    a, p = np.full((2, 2), HUGE), np.full((2, 2), -HUGE)
    n = np.array([[HUGE, HUGE], [-0.75 * HUGE, -0.75 * HUGE]])
    each = refloss.Triplet(m=0.0, squared=False, reduction="none")
    for engine in ("chain", "fused", "dd"):
        losses = each(a, p, n, engine=engine)
        assert losses[0] == np.inf
        assert losses[1] == pytest.approx(0.25 * math.sqrt(2.0) * HUGE, rel=1e-15)
    every_engine(each, a, p, n)


def test_squared_distances_beyond_the_range():
    """4e310 + 9 - 4e310 - 1: squares do not fit, their difference does."""
    a, p, n = np.zeros((1, 2)), np.array([[2e155, 3.0]]), np.array([[2e155, 1.0]])
    value, _ = every_engine(refloss.Triplet(m=0.0), a, p, n, digits=400)
    assert value == 8.0
    every_engine(
        refloss.Triplet(m=0.0), a, np.array([[2e155, 1e153]]), np.array([[np.nextafter(2e155, 0.0), 0.0]]), digits=400
    )
    assert refloss.Triplet()(a, p, a, engine="chain") == np.inf


@pytest.mark.parametrize("engine", ["chain", "fused", "dd"])
def test_a_mean_that_fits_of_losses_whose_sum_does_not(engine):
    a, n = np.zeros((4, 1)), np.zeros((4, 1))
    for squared, size in ((False, HUGE), (True, math.sqrt(HUGE))):
        loss = refloss.Triplet(m=0.0, squared=squared)
        assert loss(a, np.full((4, 1), size), n, engine=engine) == pytest.approx(HUGE, rel=1e-15)
        assert refloss.Triplet(m=0.0, squared=squared, reduction="sum")(a, a + size, n, engine=engine) == np.inf
    one = np.array([[2e154], [0.0], [0.0], [0.0]])  # 4e308, of which a quarter fits
    assert refloss.Triplet(m=0.0)(a, one, n, engine=engine) == pytest.approx(1e308, rel=1e-15)
    small = np.full((4, 1), 2.0**-538)  # 2^-1076, of which two make half the smallest subnormal number
    assert refloss.Triplet(m=0.0, reduction="sum")(a, small, n, engine=engine) == 5e-324
    assert not refloss.Triplet(m=0.0, reduction="none")(a, small, n, engine=engine).any()


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("length", [5e-324, 1e-315, 1e-300, 1e-200])
def test_a_hinge_is_open_where_the_loss_underflows(squared, length):
    a, p, n = np.zeros((2, 2)), length * np.array([[3.0, 4.0], [1.0, 2.0]]), length * np.array([[1.0, 2.0], [3.0, 4.0]])
    for m in (0.0, 5e-324):
        result = every_engine(refloss.Triplet(m=m, squared=squared, reduction="sum"), a, p, n, digits=400)
        assert result[1].positive[0].any()
        if m == 0.0:
            assert not result[1].positive[1].any()


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("upstream", [1e308, 5e-324, -1e-310, 1e-200, 1e200])
@pytest.mark.parametrize("length", [1e-310, 1e-300, 1e-108, 1.0, 1e-3, 1e300, 8e307])
def test_upstream_at_the_ends_of_the_range(squared, upstream, length):
    """A product that fits is right to 8u, or half the smallest subnormal number, whichever of its factors do not."""
    a, p, n = points(np.random.default_rng(5), 3, "plain")
    a, p, n = (length * v / 4.0 for v in (a, p, n))
    n[:3] = 0.5 * (a + p)[:3]  # an open hinge
    for reduction in ("mean", "none"):
        loss = refloss.Triplet(m=0.0, squared=squared, reduction=reduction)
        of_loss = np.full(4, upstream) if reduction == "none" else upstream
        every_engine(loss, a, p, n, upstream=of_loss, digits=400)


def test_entries_of_a_row_far_apart_in_size_keep_their_digits():
    """1e-320 beside 1e300, times 1e308 or 1e-300: each entry of 2 (a - b) is right relative to itself."""
    a, p, n = np.array([[1e300, 1e-320]]), np.zeros((1, 2)), np.array([[1e300, 0.0]])
    for engine in ("chain", "fused", "dd"):
        for upstream in (1e-300, 1e7, 1e300):
            gradients = refloss.Triplet(m=0.0).value_and_grad(a, p, n, upstream=upstream, engine=engine)[1]
            assert gradients.negative[0, 1] == pytest.approx(2.0 * upstream * 1e-320, rel=1e-15, abs=5e-324)
            assert gradients.positive[0, 1] == pytest.approx(-2.0 * upstream * 1e-320, rel=1e-15, abs=5e-324)


@pytest.mark.parametrize("kind", [np.asarray, DoubleDouble.of])
def test_what_is_left_to_integers_is_what_pairs_know(kind):
    """Rows of up to 1000 entries: pairs are right to the 2^-60 that they are taken for."""
    rng = np.random.default_rng(6)
    for size in (1, 3, 64, 1000):
        a, p, n = rng.standard_normal((3, 3, size))
        for squared in (True, False):
            losses, saved = triplet.forward(kind(a), kind(p), kind(n), 50.0, squared)
            for row in np.flatnonzero(saved.active):
                true = triplet._violation(np.stack([a[row], p[row], n[row]]), Fraction(50), squared)
                mantissa = losses.mantissa[row]
                parts = [mantissa] if kind is np.asarray else [mantissa.hi, mantissa.lo]
                loss = sum(Fraction(float(part)) for part in parts) * Fraction(2) ** int(losses.exponent[row])
                assert abs(loss / true - 1) <= Fraction(2) ** (-53 if kind is np.asarray else -60) * (
                    1 + Fraction(2) ** -6
                )


# ---------------------------------------------------------------------------------------------------------- coincident


@pytest.mark.parametrize("squared", [True, False])
def test_coincident_points_have_no_distance_and_no_direction(squared):
    a, p, n = np.array([[0.1, 0.2]] * 3), np.array([[0.1, 0.2], [0.4, 0.6], [0.1, 0.2]]), np.array([[0.4, 0.6]] * 3)
    n[1:] = a[1:]
    loss, saved = forward(a, p, n, 1.0, squared)
    check(a, p, n, 1.0, squared)
    da, dp, dn = triplet.backward(np.ones(3), saved)
    assert not dp[0].any()
    assert not dn[1].any()
    assert not np.concatenate([da[2], dp[2], dn[2]]).any()
    assert loss[2] == 1.0
    for alone, gradient, row, other in ((da, dn, 0, n), (da, dp, 1, p)):
        assert np.array_equal(alone[row], -gradient[row])
        length = 2.0 if squared else 1.0 / 0.5
        expected = (a - other)[row] * length * (-1.0 if row == 0 else 1.0)
        assert np.allclose(alone[row], expected, rtol=1e-15)


# ------------------------------------------------------------------------------------------------------------ backward


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("length", LENGTHS)
def test_backward_against_differences(size, kind, squared, length):
    """Squared: 2u of an entry, since each is a difference rounded once, and a product.

    Plain: 3u of each direction, see `direction`; the anchor's difference of two 1u; the product 1u. Of the anchor
    relative to both directions' entries.
    """
    rng = np.random.default_rng(size)
    a, p, n = points(rng, size, kind, length)
    upstream = rng.standard_normal(4)
    with np.errstate(over="ignore"):
        _, saved = triplet.forward(a, p, n, 0.2, squared)
        gradients = triplet.backward(upstream, saved)
    active = truth(a, p, n, 0.2, squared) > 0
    assert saved.active.tolist() == active.tolist()

    def distance(difference):
        squares = [mp.fsum(row**2) for row in difference]
        return np.array(squares if squared else [mp.sqrt(v) for v in squares])

    terms = None
    if not squared:
        with mp.workdps(60):
            terms_p, terms_n = (abs(exact.normalize(exact.exact(a) - exact.exact(other))) for other in (p, n))
        g = np.abs(upstream * active)[:, None]
        terms = [g * (terms_p + terms_n), g * terms_p, g * terms_n]
    checks.against_exact_vjp(
        lambda a, p, n: active * (distance(a - p) - distance(a - n)),
        [a, p, n],
        upstream,
        gradients,
        2.0 + 1e-9 if squared else 5.0 + 1e-9,
        terms=terms,
    )


def test_where_the_loss_is_0_so_are_the_gradients():
    a, p, n = points(np.random.default_rng(2), 3, "plain")
    n = a + 10.0 * (p - a)
    loss, saved = forward(a, p, n, 0.2, True)
    assert not loss.any()
    assert not any(gradient.any() for gradient in triplet.backward(np.ones(4), saved))


def test_the_gradients_of_a_row_add_up_to_nothing():
    """Moving all three points alike changes nothing: rounding, 2u of each entry, or 5u of directions."""
    a, p, n = points(np.random.default_rng(3), 6, "plain")
    for squared, allowed in ((True, 2.0), (False, 5.0)):
        _, saved = triplet.forward(a, p, n, 100.0, squared)
        gradients = triplet.backward(np.ones(4), saved)
        terms = sum(np.abs(gradient) for gradient in gradients)
        assert (np.abs(gradients[0] + gradients[1] + gradients[2]) <= 2.0 * allowed * checks.U * terms).all()


@pytest.mark.parametrize("squared", [True, False])
def test_many_rows_are_as_each_alone(squared):
    a, p, n = (np.tile(rows, (25, 1)) for rows in points(np.random.default_rng(5), 3, "plain"))
    n[::3] = a[::3] + (p - a)[::3, ::-1]  # at the hinge
    loss, _ = forward(a, p, n, 1e-20, squared)
    alone = [forward(*(rows[i : i + 1] for rows in (a, p, n)), 1e-20, squared)[0] for i in range(len(a))]
    assert len(a) > 64
    assert np.array_equal(loss, np.concatenate(alone))


@pytest.mark.parametrize("squared", [True, False])
def test_saved_is_what_it_says(squared):
    a, p, n = points(np.random.default_rng(4), 3, "plain")
    _, saved = forward(a, p, n, 0.2, squared)
    assert saved._fields == ("active", "a_minus_p", "a_minus_n", "n_minus_p", "lengths")
    for computed, other in ((saved.a_minus_p, p), (saved.a_minus_n, n)):
        assert np.array_equal(computed.mantissa.hi, a - other)
        assert not computed.exponent.any()
    if squared:
        assert np.array_equal(saved.n_minus_p.mantissa.hi, n - p)
        assert not saved.lengths
    else:
        assert saved.n_minus_p is None
        for computed, other in zip(saved.lengths, (p, n), strict=True):
            assert np.allclose(
                np.ldexp(computed.mantissa.hi, computed.exponent), np.linalg.norm(a - other, axis=1), rtol=1e-15
            )
