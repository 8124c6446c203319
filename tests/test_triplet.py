import math

import numpy as np
import pytest
from mpmath import mp

import checks
import exact
from refloss.stages import triplet

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


def distances(a, p, n, squared):
    """d(a, p) + d(a, n)."""
    with mp.workdps(60):
        a, p, n = (exact.exact(v) for v in (a, p, n))
        both = [np.array([mp.fsum(row**2) for row in a - other]) for other in (p, n)]
        return sum(d if squared else np.array([mp.sqrt(v) for v in d]) for d in both)


def check(a, p, n, m, squared):
    """The loss is rounded once, 1u; what it is made of is right to pairs. Below 64u² of that it is taken for 0.

    Differences are exact; squares and their sum have (5 + 3 log2 D) u² of the distance; a plain one half of that and
    4u² for the root; two sums 3u² each, of the distances and of m.
    """
    loss, _ = triplet.forward(a, p, n, m, squared)
    dots = 5 + 3 * math.ceil(math.log2(max(a.shape[1], 1)))
    pairs = (dots if squared else dots / 2 + 4) + 6
    true = truth(a, p, n, m, squared)
    with mp.workdps(60):
        least = exact.UNIT**2 * (distances(a, p, n, squared) + m)
        largest = exact.exact(np.finfo(float).max)[()]
        for found, value, unit in zip(loss, true, least, strict=True):
            if value > largest:
                assert found == np.inf
            elif found == 0.0:
                assert value <= max((64 + pairs) * unit, exact.SMALLEST)
            else:
                assert abs(exact.exact(found)[()] - value) <= max(exact.UNIT * value + pairs * unit, exact.SMALLEST)


@pytest.mark.parametrize("size", [1, 2, 5, 64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("m", [0.0, 0.2, 100.0])
def test_losses(size, kind, squared, m):
    check(*points(np.random.default_rng(size), size, kind), m, squared)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("squared", [True, False])
def test_losses_of_any_size(length, squared):
    """Squares of 1e200 are infinite, and so is the loss, or it is 0; those of 1e-200 vanish beside m."""
    a, p, n = points(np.random.default_rng(1), 5, "plain", length)
    n[0] = a[0] + 0.5 * (p[0] - a[0])  # a loss above 0 and one of 0, whatever the size
    n[1] = a[1] + 2.0 * (p[1] - a[1])
    with np.errstate(over="ignore"):
        check(a, p, n, 0.2, squared)
        loss, saved = triplet.forward(a, p, n, 0.0, squared)
    if not (squared and length == 1e-200):
        assert saved.active[:2].tolist() == [1.0, 0.0]
    assert loss[1] == 0.0
    assert not np.isnan(loss).any()


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


def test_a_loss_below_the_roundoff_of_its_distances_is_right_to_half_its_digits():
    """(1 + h)² - 1 - 2h = h²: all of the loss is in what float64 would have rounded away."""
    h = 2.0**-30 * np.array([[1.0], [1.25], [3.0]])
    a, p, n = np.zeros((3, 1)), 1.0 + h, np.ones((3, 1))
    for row in range(3):
        exactly = h[row, 0] ** 2
        m = -2.0 * h[row, 0]
        loss, saved = triplet.forward(a[[row]], p[[row]], n[[row]], m, True)
        assert loss.tolist() == [exactly]
        assert saved.active.tolist() == [1.0]


@pytest.mark.parametrize("squared", [True, False])
def test_what_106_bits_cannot_tell_from_the_hinge_is_at_it(squared):
    """Distances of 1 + h and 1: a loss from 64u² of both together on, 2^-99."""
    a, n = np.zeros((1, 2)), np.array([[1.0, 0.0]])
    for h, active in ((2.0**-90, True), (2.0**-98, True), (2.0**-101, False), (2.0**-105, False)):
        p = np.array([[1.0, math.sqrt(h if squared else 2.0 * h)]])
        loss, saved = triplet.forward(a, p, n, 0.0, squared)
        assert saved.active.tolist() == [float(active)]
        assert (loss > 0.0).tolist() == [active]
    # Distances that do not differ leave the margin, however small.
    loss, saved = triplet.forward(a, n[:, ::-1].copy(), n, 1e-40, squared)
    assert loss.tolist() == [1e-40]
    assert saved.active.tolist() == [1.0]


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
    loss, saved = triplet.forward(a, p, n, m, squared)
    assert loss.tolist() == [0.0]
    assert not any(gradient.any() for gradient in triplet.backward(np.ones(1), saved))
    above, saved = triplet.forward(a, p, n, np.nextafter(m, 9e9), squared)
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
    loss, saved = triplet.forward(a, p, n, m, False)
    assert loss.tolist() == [0.0]
    assert not any(gradient.any() for gradient in triplet.backward(np.ones(1), saved))


# ---------------------------------------------------------------------------------------------------------- coincident


@pytest.mark.parametrize("squared", [True, False])
def test_coincident_points_have_no_distance_and_no_direction(squared):
    a, p, n = np.array([[0.1, 0.2]] * 3), np.array([[0.1, 0.2], [0.4, 0.6], [0.1, 0.2]]), np.array([[0.4, 0.6]] * 3)
    n[1:] = a[1:]
    loss, saved = triplet.forward(a, p, n, 1.0, squared)
    check(a, p, n, 1.0, squared)
    to_a, to_p, to_n = triplet.backward(np.ones(3), saved)
    assert not to_p[0].any()
    assert not to_n[1].any()
    assert not np.concatenate([to_a[2], to_p[2], to_n[2]]).any()
    assert loss[2] == 1.0
    for alone, gradient, row, other in ((to_a, to_n, 0, n), (to_a, to_p, 1, p)):
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
        found = triplet.backward(upstream, saved)
    active = truth(a, p, n, 0.2, squared) > 0
    assert saved.active.tolist() == active.tolist()

    def distance(difference):
        squares = [mp.fsum(row**2) for row in difference]
        return np.array(squares if squared else [mp.sqrt(v) for v in squares])

    terms = None
    if not squared:
        with mp.workdps(60):
            to_p, to_n = (abs(exact.normalize(exact.exact(a) - exact.exact(other))) for other in (p, n))
        g = np.abs(upstream * active)[:, None]
        terms = [g * (to_p + to_n), g * to_p, g * to_n]
    checks.against_exact_vjp(
        lambda a, p, n: active * (distance(a - p) - distance(a - n)),
        [a, p, n],
        upstream,
        found,
        2.0 + 1e-9 if squared else 5.0 + 1e-9,
        terms=terms,
    )


def test_where_the_loss_is_0_so_are_the_gradients():
    a, p, n = points(np.random.default_rng(2), 3, "plain")
    n = a + 10.0 * (p - a)
    loss, saved = triplet.forward(a, p, n, 0.2, True)
    assert not loss.any()
    assert not any(gradient.any() for gradient in triplet.backward(np.ones(4), saved))


def test_the_gradients_of_a_row_add_up_to_nothing():
    """Moving all three points alike changes nothing: rounding, 2u of each entry, or 5u of directions."""
    a, p, n = points(np.random.default_rng(3), 6, "plain")
    for squared, allowed in ((True, 2.0), (False, 5.0)):
        _, saved = triplet.forward(a, p, n, 100.0, squared)
        found = triplet.backward(np.ones(4), saved)
        terms = sum(np.abs(gradient) for gradient in found)
        assert (np.abs(found[0] + found[1] + found[2]) <= 2.0 * allowed * checks.U * terms).all()


@pytest.mark.parametrize("squared", [True, False])
def test_saved_is_what_it_says(squared):
    a, p, n = points(np.random.default_rng(4), 3, "plain")
    _, saved = triplet.forward(a, p, n, 0.2, squared)
    assert saved._fields == ("active", "to_positive", "to_negative", "apart")
    for found, other in ((saved.to_positive, p), (saved.to_negative, n)):
        length = 0.5 if squared else np.linalg.norm(a - other, axis=1)[:, None]
        assert np.allclose(found, (a - other) / length, rtol=1e-14)
    assert np.allclose(saved.apart, saved.to_positive - saved.to_negative, rtol=0.0, atol=1e-14)
