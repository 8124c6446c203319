"""Stage bias: sums of pairs, bounds decided exactly, and the gradient of one number, against mpmath and Fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp, mpf

import refloss
from refloss.engines.dd import DoubleDouble
from refloss.error_free import Pair, high, plain
from refloss.stages import bias
from support import checks, exact

kinds = pytest.mark.parametrize("kind", [Pair, DoubleDouble])
engines = pytest.mark.parametrize("engine", ["chain", "dd"])


def never(n, k):
    raise AssertionError(f"logit {k} of sample {n} is not next to a bound")


def whole(pair):
    with mp.workdps(80):
        return exact.exact(pair.hi) + exact.exact(pair.lo)


@kinds
@pytest.mark.parametrize("b", [0.0, -10.0, 1e-30, 0.1, 1e17])
def test_the_sum_is_a_pair(b, kind):
    """3u² of what is added up: no low part is lost, and none of b."""
    rng = np.random.default_rng(1)
    z = kind(rng.standard_normal((3, 4)), 2.0**-55 * rng.uniform(-1.0, 1.0, (3, 4)))
    shifted, saved = bias.forward(z, kind.of(b), None, never)
    assert saved.inside is None
    with mp.workdps(80):
        sizes = abs(whole(z)) + abs(mpf(b))
        assert (abs(whole(shifted) - (whole(z) + mpf(b))) <= 3 * mpf(2) ** -106 * sizes).all()


@kinds
def test_what_is_not_next_to_a_bound_is_decided_by_its_pair(kind):
    z = kind.of([[-9.0, -8.5, -1.0, 0.0, 7.0, 7.25, 1e300]])
    held, saved = bias.forward(z, kind.of(0.25), 8.0, never)
    assert held.hi.tolist() == [[-8.0, -8.0, -0.75, 0.25, 7.25, 7.5, 8.0]]
    assert not held.lo.any()
    assert saved.inside.tolist() == [[False, False, True, True, True, True, False]]


@kinds
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_next_to_a_bound_the_exact_side_counts(side, kind):
    """At it a logit moves, as within; beyond it does not. What is asked is within 2^-49 of the bound."""
    asked = []

    def exactly(n, k):
        asked.append(k)
        return (-1, 0, 1)[k]

    z = kind(np.full((1, 4), side * 8.0), np.zeros((1, 4)))
    z[0, 3] = side * 8.0 * (1.0 - 2.0**-48)
    held, saved = bias.forward(z, kind.of(0.0), 8.0, exactly)
    assert asked == [0, 1, 2]
    assert saved.inside.tolist() == [[True, True, False, True]]
    assert held.hi[0, :3].tolist() == [side * 8.0] * 3
    dz, _ = bias.backward(np.array([[1.0, 2.0, 3.0, 4.0]]), saved)
    assert dz.tolist() == [[1.0, 2.0, 0.0, 4.0]]


def test_the_gradient_of_the_bias_is_a_sum_that_may_cancel():
    """Within a row nothing is lost, 1u of the sum; between rows 1u of each row's sum, and 1u more."""
    rng = np.random.default_rng(2)
    large = 10.0 ** rng.uniform(-3.0, 12.0, (5, 40))
    dz = np.concatenate([large, -large, rng.standard_normal((5, 1))], axis=1)
    for row in dz:
        _, db = bias.backward(row[None], bias.Saved(None))
        true = sum(map(Fraction, row.tolist()))
        assert abs(Fraction(float(high(plain(db)))) - true) <= Fraction(checks.U) * abs(true)
    dz += 10.0 ** rng.uniform(-3.0, 12.0, (5, 81))
    _, db = bias.backward(dz, bias.Saved(None))
    sums = [sum(map(Fraction, row.tolist())) for row in dz]
    true = sum(sums)
    allowed = Fraction(checks.U) * (sum(map(abs, sums)) + abs(true)) * (1 + Fraction(2) ** -40)
    assert abs(Fraction(float(high(plain(db)))) - true) <= allowed


def test_what_is_held_has_no_part_in_it():
    inside = np.array([[True, False], [False, True]])
    dz, db = bias.backward(np.array([[1.0, 2.0], [4.0, 8.0]]), bias.Saved(inside))
    assert dz.tolist() == [[1.0, 0.0], [0.0, 8.0]]
    assert float(db) == 9.0


def test_no_logits_add_up_to_nothing():
    _, db = bias.backward(np.zeros((0, 4)), bias.Saved(None))
    assert float(db) == 0.0


# ------------------------------------------------------------------------------------------------ the bound of a loss


FOUR, ONE = (np.where(np.arange(16) < many, 1.0, 0.0) for many in (4, 1))


@engines
def test_a_logit_at_the_bound_of_uniface_moves(engine):
    """The other class has a cosine of 1/2: 8/2 - b is -8 at b = 12, and 8 at b = -4. The target's is m: -8 at b = 8.

    One number further on the class has no gradient; one number back it has.
    """
    x, w, y = np.ones((1, 16)), np.array([ONE, 3.0 * FOUR]), np.array([0])
    loss = refloss.UniFace(s=8.0, m=0.25, reduction="sum")
    for k, edge in ((1, 12.0), (1, -4.0), (0, 8.0)):
        beyond, within = math.nextafter(edge, 2.0 * edge), math.nextafter(edge, 0.0)
        for b, moves in ((edge, True), (beyond, False), (within, True)):
            _, gradient = loss.value_and_grad(x, w, y, b, engine=engine)
            assert gradient.w[k].any() == moves
            bounded = loss.trace(x, w, y, b)["bias"].output[0, k]
            assert abs(bounded) == 8.0 or b == within


@engines
def test_cosines_that_float64_cannot_tell_from_the_bound_are_on_their_side_of_it(engine):
    """Classes built onto cos θ = (b - s) / s, to within 1e-16: which have a gradient is what rational numbers say."""
    rng = np.random.default_rng(3)
    loss, b = refloss.UniFace(s=8.0, m=0.25), 9.0
    x = rng.standard_normal((1, 5))
    with mp.workdps(50):
        unit, built = exact.normalize(x)[0], []
        for across in exact.exact(rng.standard_normal((60, 5))):
            across = across - across @ unit * unit  # noqa: PLW2901
            tangent = across / mp.sqrt(across @ across)
            built.append((unit / 8 + mp.sqrt(mpf(63)) / 8 * tangent).astype(np.float64))
    w = np.array([x[0], *built])
    _, gradient = loss.value_and_grad(x, w, [0], b, engine=engine)
    truth = exact.gradients(loss, x, w, [0], b, digits=20)["w"]
    moves = np.array([any(row) for row in truth])
    assert np.array_equal(gradient.w.any(axis=1), moves)
    assert 5 < moves[1:].sum() < 55
    c = (x @ w.T) / (np.linalg.norm(x) * np.linalg.norm(w, axis=1))
    assert ((8.0 * c[0] - b >= -8.0) != moves).sum() > 3, "these classes are no test: float64 has them right"
