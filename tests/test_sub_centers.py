"""Stage sub_centers: which center is nearest, exactly; what forward takes and backward gives; what engines take."""

from __future__ import annotations

import numpy as np
import pytest

import refloss
from refloss.engines.dd import DoubleDouble
from refloss.error_free import Pair, Scaled, high, plain
from refloss.stages import cosine, normalize, sub_centers
from refloss.stages.sub_centers import Saved
from support import centers, checks

KINDS = [Pair, DoubleDouble]
kinds = pytest.mark.parametrize("kind", KINDS)
ENGINES = [("chain", np.float64), ("dd", np.float64), ("fused", np.float64), ("fused", np.float32)]
ENGINES += [("certified", np.float64)]


def never(n, rows):
    raise AssertionError(f"nothing is as near to sample {n} as rows {rows}")


def chosen(kind, x, w):
    """What the chain chooses: cosines next to the largest are found again before."""
    count, rows = w.shape[1], w.reshape(-1, w.shape[2])
    c = kind.of(cosine.forward(normalize.forward(x), normalize.forward(rows))[0].hi)
    n, row = sub_centers.close(c, count)
    c[n, row] = cosine.of_rows(x[n], rows[row])
    return sub_centers.nearest(c, count, sub_centers.exactly(x, rows)) - count * np.arange(len(w))


@kinds
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_largest_cosine_is_taken_with_all_its_bits(kind, count):
    rng = np.random.default_rng(1)
    c = kind(rng.uniform(-1.0, 1.0, (4, 5 * count)), 2.0**-54 * rng.uniform(-1.0, 1.0, (4, 5 * count)))
    nearest = sub_centers.nearest(c, count, never)
    assert nearest.tolist() == [[k * count + int(row[k].argmax()) for k in range(5)] for row in c.hi.reshape(4, 5, -1)]
    taken, saved = sub_centers.forward(c, nearest)
    assert type(taken) is kind
    assert np.array_equal(taken.hi, c.hi.reshape(4, 5, -1).max(axis=2))
    for index in np.ndindex(4, 5):
        assert taken.lo[index] == c.lo[index[0], nearest[index]]
    assert saved.rows == 5 * count
    assert np.array_equal(saved.chosen, nearest)


@kinds
def test_low_parts_decide_between_equal_high_ones(kind):
    lo = np.array([[0.0, 2.0**-60, -(2.0**-60), 2.0**-55, 2.0**-55 - 2.0**-85, -(2.0**-80)]])
    nearest = sub_centers.nearest(kind(np.full((1, 6), 0.25), lo), 3, never)
    assert nearest.tolist() == [[1, 3]]


def test_what_is_within_2_to_the_minus_90_is_asked_for():
    """And nothing else."""
    lo = np.array([[0.0, 2.0**-81, 2.0**-80, 2.0**-80 - 2.0**-91, 2.0**-80, 0.0]])
    asked = []

    def last(n, rows):
        asked.append((n, rows))
        return rows[-1]

    nearest = sub_centers.nearest(Pair(np.full((1, 6), 0.5), lo), 3, last)
    assert nearest.tolist() == [[2, 4]]
    assert asked == [(0, [3, 4])]


def test_of_equal_squares_the_first_is_taken():
    w = np.array([[1.0, 2.0, 0.0], [3.0, 1.0, 0.0], [2.0, 4.0, 0.0], [1.0, 2.0, 0.0], [2.0, 0.0, 1.0]])
    decide = sub_centers.exactly(np.array([[0.0, 0.0, 2.0], [1.0, 1.0, 1.0]]), w)
    assert decide(1, [0, 2, 3]) == 0
    assert decide(1, [2, 3, 0]) == 2
    assert decide(1, [0, 3]) == 0  # the same numbers
    assert decide(1, [1, 0, 4]) == 0  # 16/10, 9/5, 9/5
    assert decide(1, [1, 4, 0]) == 4
    assert decide(0, [1, 0]) == 1  # both at right angles


def test_close_names_what_float64_does_not_tell():
    """Cosines are wrong by 2u at most, so two of them by 4u; 2^-49 is 16u."""
    c = Pair.of(np.array([[0.25, 0.25 + 2.0**-50, 0.25 - 2.0**-48, 0.9, 0.5, 0.9 - 2.0**-48, 0.1, 0.1, 0.1]]))
    n, row = sub_centers.close(c, 3)
    assert n.tolist() == [0] * 5
    assert row.tolist() == [0, 1, 6, 7, 8]


@kinds
def test_centers_at_the_same_angle_but_for_rounding_are_told(kind):
    """Float64 takes another center of a third of them, and the stage of none."""
    count, wrong = 0, 0
    for seed in range(3):
        x, w, _ = centers.near(np.random.default_rng(seed), 100, 3)
        assert centers.angle_apart(x, w) < 1e-14
        true = centers.truth(x, w)
        assert np.array_equal(chosen(kind, x, w), true)
        count, wrong = count + true.size, wrong + int((centers.naive(x, w) != true).sum())
    assert wrong > 0.2 * count


@kinds
@pytest.mark.parametrize("apart", [1e-16, 1e-20, 1e-35, 1e-100, 1e-250])
def test_a_center_as_near_as_float64_can_build_is_told(kind, apart):
    x = np.ones((1, 4))
    w = np.array([[[1.0, 2.0, 3.0, 0.0], [3.0, 1.0, 2.0, apart], [3.0, 1.0, 2.0, -apart], [2.0, 3.0, 1.0, 0.0]]])
    for shift in range(4):
        assert chosen(kind, x, np.roll(w, shift, axis=1)).tolist() == [[(1 + shift) % 4]]
    assert chosen(kind, x, w[:, [2, 0, 3]]).tolist() == [[1]]  # the first of equal ones


@kinds
def test_of_centers_at_the_same_angle_the_first_is_taken(kind):
    x, w, _ = centers.ties()
    assert centers.truth(x, w).tolist() == [[0, 2, 1, 0]]
    assert chosen(kind, x, w).tolist() == [[0, 2, 1, 0]]
    scaled = w[:1] * np.array([[1.0], [8.0], [0.25]])
    assert chosen(kind, x, scaled).tolist() == [[0]]
    assert chosen(kind, x, -scaled).tolist() == [[0]]


@kinds
@pytest.mark.parametrize("count", [1, 2, 5])
def test_backward_gives_the_gradient_to_the_nearest_alone(kind, count):
    rng = np.random.default_rng(2)
    _, saved = sub_centers.forward(kind.of(c := rng.uniform(-1.0, 1.0, (3, 4 * count))), nearest_of(c, count))
    upstream = rng.standard_normal((3, 4))
    gradient = high(plain(sub_centers.backward(upstream, saved)))
    assert gradient.shape == c.shape
    assert np.array_equal(gradient.reshape(3, 4, count).sum(axis=2), upstream)
    assert np.array_equal(gradient != 0.0, sub_centers.stands(saved))
    assert np.array_equal(sub_centers.of_all(upstream, saved, -np.inf) > -np.inf, sub_centers.stands(saved))

    def function(c):
        return np.array([[row[k] for k in chosen] for row, chosen in zip(c, saved.chosen, strict=True)])

    checks.against_exact_vjp(function, [c], upstream, [gradient], 1e-80)  # nothing is rounded but the differences


def nearest_of(c, count):
    return c.reshape(len(c), -1, count).argmax(axis=2) + count * np.arange(c.shape[1] // count)


def test_backward_takes_numbers_beyond_the_range_of_float64():
    upstream = Scaled.of(np.array([[3.0, -2.0]]), -5000)
    gradient = sub_centers.backward(upstream, Saved(np.array([[1, 2]]), 4))
    assert gradient.mantissa[gradient.mantissa != 0.0].tolist() == [0.75, -0.5]
    assert gradient.exponent[0, 1:3].tolist() == [-4998, -4998]


@pytest.mark.parametrize(("engine", "dtype"), ENGINES)
@pytest.mark.parametrize("s", [8.0, None])
def test_engines_take_no_other_center(engine, dtype, s):
    if engine == "certified":
        pytest.importorskip("flint")
    loss = refloss.SubCenterArcFace(s=s)
    x, w, y = centers.near(np.random.default_rng(7), 60, 3)
    assert np.array_equal(centers.taken(loss, x, w, y, engine=engine, dtype=dtype), centers.truth(x, w))
    x, w, y = centers.ties()
    assert np.array_equal(centers.taken(loss, x, w, y, engine=engine, dtype=dtype), centers.truth(x, w))
    x, w, y = centers.near(np.random.default_rng(8), 20, 3, 300)
    assert np.array_equal(centers.taken(loss, x, w, y, engine=engine, dtype=dtype), centers.truth(x, w))
