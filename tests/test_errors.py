"""Budgets are the formulas that they are said to be: each stage written out entry by entry, and heads put together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import refloss
from refloss.formats import dtype_of
from refloss.stages.softcap import Settings
from refloss.testing import budgets, errors
from refloss.testing.errors import cross_entropy

CE = refloss.CrossEntropy()
INF = math.inf
Z, Y = np.array([[0.5, -1.0, 0.25], [2.0, 0.0, 0.5]]), np.array([0, 2])


def test_an_arithmetic_holds_the_units_of_its_dtypes():
    a = budgets.arithmetic
    assert a("float32") == errors.Arithmetic(2.0**-24, 2.0**-24, 0.0, 2.0**-126, "working")
    assert a("bfloat16", standard="stable") == errors.Arithmetic(2.0**-8, 2.0**-24, 0.0, 2.0**-126, "stable")
    assert a("float32", "float64", "tf32") == errors.Arithmetic(2.0**-24, 2.0**-53, 2.0**-11, 2.0**-126, "working")
    assert a("float32", "float16").accumulated == 2.0**-24
    half = 2.0**-11, 2.0**-24, 2.0**-11
    assert a("float16", standard="mixed") == errors.Arithmetic(2.0**-24, 2.0**-24, 0.0, 2.0**-126, "stable", *half)
    assert a("float16", standard="fused").between == 0.0
    assert a("bfloat16", "float64", standard="mixed") == errors.Arithmetic(
        2.0**-53, 2.0**-53, 0.0, 2.0**-1022, "stable", 2.0**-8, 2.0**-126, 2.0**-8
    )
    assert a("float32", standard="fused").u == 2.0**-53
    assert a("float64", standard="relative").log_p == "relative"
    for name, settings in {
        "standard": {"standard": "strict"}, "accumulate": {"accumulate": "tf32"}, "matmul": {"matmul": "int8"}
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=rf"^{name}: expected one of '"):
            a("float32", **settings)


def test_ladders():
    plain, halves = ("working", "stable", "relative"), ("working", "stable", "mixed")
    for dtype, of_logits, of_heads, of_triplets in (
        ("float32", plain, plain, ("working",)),
        ("float64", plain, plain, ("working",)),
        ("float16", halves, (*halves, "fused"), ("working", "mixed")),
        ("bfloat16", halves, (*halves, "fused"), ("working", "mixed")),
    ):
        assert budgets.ladder(dtype, CE) == budgets.ladder(dtype, refloss.ArcFace()) == of_logits
        assert budgets.ladder(dtype, refloss.SoftmaxLoss()) == of_heads
        assert budgets.ladder(dtype, refloss.Triplet()) == of_triplets
        assert budgets.ladder(dtype, refloss.KLDivergence()) == of_logits


def test_a_loss_is_a_loss_or_its_class():
    assert budgets.as_loss(refloss.ArcFace) == refloss.ArcFace()
    assert budgets.as_loss(CE) is CE
    for wrong in (3, dict):
        with pytest.raises(TypeError, match=r"^loss: expected a loss of refloss such as refloss.ArcFace"):
            budgets.as_loss(wrong)


TINY = errors.Arithmetic(2.0**-24, 2.0**-24, 0.0, 2.0**-126, "stable", 2.0**-11, 2.0**-24, 0.0)


def test_what_storage_loses_is_added_once_to_the_value_and_twice_to_gradients():
    value, (dz,) = CE.value_and_grad(Z, Y, upstream=3.0, engine="chain")
    bound = np.full(Z.shape, 0.25)
    stored, of_grad = budgets._stored(CE, [Z, Y], TINY, 3.0, np.asarray(0.125), {"z": bound})
    u = 2.0**-11
    assert stored == pytest.approx(0.125 + u * (value + 0.125) + 2.0**-24, rel=1e-12)
    expected = bound + (2.0 + u) * u * (np.abs(dz) + bound) + 3.0 * 2.0**-24
    assert np.allclose(of_grad["z"], expected, rtol=1e-12)
    _, one = budgets._stored(CE, [Z, Y], TINY, 0.5, np.asarray(0.0), {"z": 0.0 * bound})
    _, (dz,) = CE.value_and_grad(Z, Y, upstream=0.5)
    assert np.allclose(one["z"], (2.0 + u) * u * np.abs(dz) + 2.0**-24, rtol=1e-12)
    _, alone = budgets._stored(CE, [Z, Y], TINY, None, np.asarray(0.0), {"z": 0.0 * bound})
    value, (dz,) = CE.value_and_grad(Z, Y)
    assert np.allclose(alone["z"], (2.0 + u) * u * np.abs(dz) + 2.0**-24, rtol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_errors_of_rows_are_reduced_as_rows_are(reduction):
    loss = refloss.CrossEntropy(reduction=reduction)
    z, y = np.vstack([Z, Z + 1.0]), np.array([0, -100, 2, 1])
    a = errors.Arithmetic(2.0**-11, 2.0**-20, 0.0, 2.0**-14)
    counting = budgets._counting(loss, y, 3, None, a)
    assert counting.kept.tolist() == [True, False, True, True]
    rows = budgets._rows(z[counting.kept], counting.t)
    of_loss = np.array([1e-3, 2e-3, 4e-3])
    reduced = budgets._reduced(loss, rows, of_loss, counting, a)
    losses, truth = refloss.CrossEntropy(reduction="none")(z, y)[counting.kept], 8.0 * 2.0**-53
    if reduction == "none":
        assert reduced[1] == 2.0**-14
        assert np.allclose(reduced[counting.kept], of_loss + truth * losses, rtol=1e-14)
        return
    n = 3.0 * 2.0**-20 / 2.0**-11 + 2.0
    total = (of_loss + (n * 2.0**-11 + truth) * losses).sum() / (3.0 if reduction == "mean" else 1.0)
    assert reduced == pytest.approx(total + 2.0**-14, rel=1e-13)


def test_rows_are_put_back_where_they_were():
    a = errors.Arithmetic(2.0**-11, 2.0**-11, 0.0, 0.25)
    whole = budgets._put_back(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([True, False, True]), a)
    assert whole.tolist() == [[1.25, 2.25], [0.25, 0.25], [3.25, 4.25]]


def test_bounds_are_those_of_the_head_and_of_storage():
    loss = refloss.SoftmaxLoss()
    inputs = (np.eye(3), 2.0 * np.eye(3), np.arange(3))
    plain = budgets.bounds(loss, inputs, budgets.arithmetic("float32"))
    assert (np.shape(plain[0]), sorted(plain[1])) == ((), ["w", "x"])
    mixed = budgets.bounds(loss, inputs, budgets.arithmetic("float16", standard="mixed"))
    assert mixed[0] > 100.0 * plain[0]
    twice = budgets.bounds(loss, inputs, budgets.arithmetic("float32"), 2.0)
    assert np.allclose(twice[1]["x"], 2.0 * plain[1]["x"], rtol=1e-6)


UNITS = errors.Arithmetic(2.0**-11, 2.0**-13, 2.0**-9, 2.0**-14)
U, ACC, FACTOR, LEAST = UNITS[:4]
OWN = 2.0**-7


@pytest.fixture(params=[UNITS, errors.Arithmetic(2.0**-53, 2.0**-53, 0.0, 2.0**-1022)], ids=["half", "float64"])
def units(request, monkeypatch):
    """Coarse units, and those of float64, in which what the truth itself may be off by shows."""
    for name, value in zip(("U", "ACC", "FACTOR", "LEAST"), request.param, strict=False):
        monkeypatch.setitem(globals(), name, value)
    monkeypatch.setitem(globals(), "UNITS", request.param)


def head_of(loss, x, w, y):
    steps = loss.trace(np.asarray(x, float), np.asarray(w, float), np.asarray(y))
    return budgets._head(steps, np.asarray(y), loss.spec.scale)


def some_head(loss, seed=0, n=4, c=3, d=5):
    rng = np.random.default_rng(seed)
    return head_of(loss, rng.normal(size=(n, d)), rng.normal(size=(c, d)), np.arange(n) % c)


def lost(n, terms, whole):
    return ACC * ((n - 1) * (terms + abs(whole)) / 2.0 + terms)


def test_what_a_sum_loses():
    assert UNITS.sum_of(6) == 1.5
    assert UNITS.sum_error(5, np.float64(3.0), np.float64(1.0)) == ACC * (4 * 4.0 / 2.0 + 3.0)


def test_rows_of_cross_entropy_hold_loss_and_gradient():
    t = np.array([[0.0, 0.75, 0.5]])
    p = np.array([[0.0, 0.25, 0.75]])
    rows = errors.Rows(np.zeros((1, 3)), p, 1.0 - p, t, np.array([[INF, 2.0, 4.0]]))
    assert rows.loss.tolist() == [3.5]
    assert rows.total.tolist() == [[1.25]]
    assert np.allclose(rows.g, 1.25 * p - t, rtol=1e-15, atol=0.0)


def test_the_error_of_a_cosine():
    head = some_head(refloss.ArcFace())
    bound = errors.cosine_error(head, UNITS)
    for i in range(4):
        for k in range(3):
            terms = sum(abs(head.x[i, j] * head.w[k, j]) for j in range(5))
            c = abs(head.c[i, k])
            own = lost(5, terms, c) + 2.0 * (U + FACTOR) * terms + U * (5 * ACC / U + 3.0) * c
            assert bound[i, k] == pytest.approx(own, rel=1e-12, abs=0.0)


def test_the_error_of_an_angle():
    theta, d = np.array([0.0, 1e-4, 0.5, np.pi / 2.0, 2.5, np.pi]), 1.25
    delta, alpha = U * (d + 2.0), np.minimum(theta, np.pi - theta)
    expected = U * ((d + 4.0) * np.sin(theta) + 4.0 + 3.0 * theta) + np.hypot(alpha, delta) - alpha
    assert np.allclose(errors.angle_error(theta, d, UNITS), expected, rtol=1e-10, atol=0.0)
    cosine = np.array([1e-4, 1e-6])
    assert np.allclose(
        errors.arccos_error(np.array([1e-3, 0.5]), cosine), [np.sqrt(2e-4), 1e-6 / np.sin(0.5)], rtol=1e-14, atol=0.0
    )
    assert errors.arccos_error(np.zeros(1), cosine[:1]).tolist() == [np.sqrt(2e-4)]


def test_a_polynomial_in_the_cosine_has_the_terms_of_its_coefficients():
    c = -0.3
    value, slope = errors.polynomial_error(3.0, np.array(c))
    assert value == pytest.approx(5.0 * (4.0 * abs(c) ** 3 + 3.0 * abs(c)), rel=1e-14, abs=0.0)
    assert slope == pytest.approx(5.0 * (12.0 * c**2 + 3.0), rel=1e-14, abs=0.0)


def target_error(loss, theta, cosine=1e-5, units=UNITS, d=5):
    w = np.eye(2, d)
    x = np.zeros((1, d))
    x[0, :2] = np.cos(theta), np.sin(theta)
    head = head_of(loss, x, w, [0])
    return errors.margin_error(head, loss.spec.margin, np.array([cosine]), units)


def test_the_error_of_a_target_on_the_cosine():
    bound = target_error(refloss.CosFace(m=0.35), 1.0)
    assert bound.psi[0] == pytest.approx(1e-5 + U * (3.0 + 2.0 * abs(np.cos(1.0) - 0.35) + 0.35), rel=1e-12, abs=0.0)
    assert (bound.steepness[0], bound.of_steepness[0]) == (1.0, 4.0 * U)
    detached = target_error(refloss.ArcFace(gradient="detached"), 1.0)
    assert (detached.steepness[0], detached.of_steepness[0]) == (1.0, 4.0 * U)
    assert detached.psi[0] == pytest.approx(target_error(refloss.ArcFace(), 1.0).psi[0], rel=1e-14, abs=0.0)


@pytest.mark.parametrize("theta", [0.7, 1.6])
def test_the_error_of_a_target_on_the_angle(theta):
    m1, m2, m3 = 1.25, 0.3, 0.2
    loss = refloss.CombinedMargin(m1=m1, m2=m2, m3=m3)
    bound = target_error(loss, theta)
    off = float(errors.angle_error(np.array([theta]), 5 * ACC / U, UNITS)[0])
    angle = m1 * theta + m2
    psi, slope, bend, sine = abs(np.cos(angle) - m3), m1 * np.sin(angle), m1**2, np.sin(theta)
    evaluated = U * (4.0 + 2.0 * psi + 2.0 * slope * (theta + m2) + m2 + m3)
    assert bound.psi[0] == pytest.approx(slope * off + bend * off**2 / 2.0 + evaluated, rel=1e-9, abs=0.0)
    assert bound.steepness[0] == pytest.approx(slope / sine, rel=1e-9, abs=0.0)
    moved = (bend + slope / (sine - off)) * off / sine
    rounded = U * (8.0 * slope / sine + bend * (theta + m2) / sine)
    assert bound.of_steepness[0] == pytest.approx(moved + rounded, rel=1e-9, abs=0.0)
    diagnosed = target_error(loss, theta, cosine=1e-3, units=UNITS._replace(angle="arccos"))
    wider = off + 1e-3 / sine
    assert diagnosed.psi[0] == pytest.approx(slope * wider + bend * wider**2 / 2.0 + evaluated, rel=1e-9, abs=0.0)


def test_the_error_of_a_target_that_a_polynomial_may_give():
    theta, annealing, cosine, m = 0.5, 4.0, 2e-2, 2.0
    bound = target_error(refloss.ASoftmax(m=m, annealing=annealing), theta, cosine)
    part = 1.0 / (1.0 + annealing)
    eased = 1.0 - part
    c, sine = np.cos(theta), np.sin(theta)
    psi = part * np.cos(m * theta) + eased * c
    slope = part * m * np.sin(m * theta) + eased * sine
    bend = part * m**2 + eased
    by_cosine = cosine / sine
    terms, of_terms = (m + 2.0) * (2.0 * c**2 + 1.0), (m + 2.0) * 4.0 * c
    rounded = U * (part * terms + 3.0 * eased + 2.0 * psi)
    assert bound.psi[0] == pytest.approx(slope * by_cosine + bend * by_cosine**2 / 2.0 + rounded, rel=1e-9, abs=0.0)
    assert bound.steepness[0] == pytest.approx(slope / sine, rel=1e-9, abs=0.0)
    off = float(errors.angle_error(np.array([theta]), 5 * ACC / U, UNITS)[0])

    def moved(by):
        return (bend + slope / sine / (1.0 - by / sine)) * by / sine

    steepest = part * m**2 * (m**2 - 1.0) / 3.0
    through = min(moved(by_cosine), steepest * cosine) + U * (part * of_terms + 4.0 * eased)
    direct = moved(off) + U * (8.0 * slope / sine + bend * theta / sine)
    assert bound.of_steepness[0] == pytest.approx(max(through, direct), rel=1e-9, abs=0.0)
    blunt = target_error(refloss.ASoftmax(m=m, annealing=annealing), theta, 1e-9)
    evaluated = U * (4.0 + 2.0 * psi + 2.0 * slope * theta + 3.0 * eased)
    assert blunt.psi[0] == pytest.approx(slope * off + bend * off**2 / 2.0 + evaluated, rel=1e-9, abs=0.0)
    assert blunt.of_steepness[0] == pytest.approx(direct, rel=1e-9, abs=0.0)
    for above in (refloss.ASoftmax(m=9.0), refloss.ASoftmax(m=1.5)):  # no polynomial of that degree, or at all
        assert target_error(above, 0.3, 1e-9).psi[0] == target_error(above, 0.3, 1e-6).psi[0]


def test_a_direction_that_is_not_known_has_no_budget():
    assert target_error(refloss.ArcFace(m=0.25), U).of_steepness[0] == errors.UNKNOWN
    assert target_error(refloss.ArcFace(m=0.25), 64.0 * U).of_steepness[0] < 10.0


def test_a_jump_within_reach_counts_on_either_side():
    loss = refloss.ArcFace(m=0.5, boundary="keep")
    theta, far = np.pi - 0.5, np.pi - 0.6
    away = target_error(loss, far).psi[0]
    off = float(errors.angle_error(np.array([theta]), 5 * ACC / U, UNITS)[0])
    reach = 4.0 * max(off, 1e-5 / np.sin(theta))
    jump = 1.0 - np.cos(0.5 - reach)  # from cos(theta + m) = -1 to cos(theta), as far away as the angle may be
    smooth = off**2 / 2.0 + U * (4.0 + 2.0 + 0.5)
    on = target_error(loss, theta - 1e-9)
    assert on.psi[0] == pytest.approx(jump + reach + reach**2 + smooth, rel=1e-4, abs=0.0)
    assert away < 0.1 * jump
    slope = np.sin(0.5 - reach)  # on the other side; on this one it is 0
    kink = (slope + reach) / np.sin(0.5)
    plain = (off / np.sin(0.5) + U * (np.pi)) / np.sin(0.5)
    assert on.of_steepness[0] == pytest.approx(kink + plain, rel=0.02, abs=0.0)


@pytest.mark.parametrize(("m", "theta", "by_angle"), [(2.0, 0.5, False), (4.0, 1.3, True)])
def test_the_slope_of_a_polynomial_is_as_far_off_as_a_cosine_moves_it(m, theta, by_angle):
    fine = errors.Arithmetic(2.0**-20, 2.0**-22, 0.0, 2.0**-126)
    annealing, cosine = 1.5, 1e-3
    bound = target_error(refloss.ASoftmax(m=m, annealing=annealing), theta, cosine, fine)
    part = 1.0 / (1.0 + annealing)
    eased, c, sine = 1.0 - part, np.cos(theta), np.sin(theta)
    fold = np.floor(m * theta / np.pi)
    slope = part * m * abs(np.sin(m * theta)) + eased * sine
    bend, by = part * m**2 + eased, cosine / sine
    moved = (bend + slope / (sine - by)) * by / sine
    steepest = part * m**2 * (m**2 - 1.0) / 3.0 * cosine
    assert fold == (1.0 if by_angle else 0.0)
    assert (moved < steepest) == by_angle
    coefficients = {2.0: 4.0 * c, 4.0: 32.0 * c**3 + 16.0 * c}  # of the derivative of the polynomial, in magnitude
    own = min(moved, steepest) + fine.u * (part * (m + 2.0) * coefficients[m] + 4.0 * eased)
    assert bound.of_steepness[0] == pytest.approx(own, rel=1e-9, abs=0.0)


@pytest.mark.parametrize("gradient", ["exact", "detached"])
def test_a_jump_counts_with_what_the_curve_does_on_the_way(gradient):
    loss, theta = refloss.ArcFace(m=0.5, boundary="easy", gradient=gradient), np.pi / 2.0 - 1e-9
    off = float(errors.angle_error(np.array([theta]), 5 * ACC / U, UNITS)[0])
    reach, slope, psi = 4.0 * off, np.cos(0.5), np.sin(0.5)
    jump = abs(np.cos(theta + reach) + psi) + slope * reach + reach + reach**2
    smooth = slope * off + off**2 / 2.0 + U * (4.0 + 2.0 * psi + 2.0 * slope * (theta + 0.5) + 0.5)
    assert target_error(loss, theta).psi[0] == pytest.approx(jump + smooth, rel=1e-6, abs=0.0)


def test_a_kink_at_the_end_of_reach_counts_too():
    loss = refloss.ArcFace(s=1.0, m=0.5, boundary="continuous")
    fold = np.pi - 0.5
    off = float(errors.angle_error(np.array([fold]), 5 * ACC / U, UNITS)[0])
    reach = 4.0 * off
    theta = fold - 0.98 * reach
    bound = target_error(loss, theta)
    ends = theta + reach * np.array([1.0 - 1e-6, 1.0 + 1e-6])
    beyond = np.diff(loss.target_logit(ends))[0] / np.diff(ends)[0]
    turn, sine = abs(beyond + np.sin(theta + 0.5)), np.sin(theta)
    plain = target_error(loss, theta - 2.0 * reach).of_steepness[0]
    assert turn > 4.0 * reach
    assert bound.psi[0] < 0.1
    assert bound.of_steepness[0] - plain == pytest.approx((turn + reach) / sine, rel=0.1, abs=0.0)


def test_polynomials_count_up_to_degree_8():
    assert target_error(refloss.ASoftmax(m=8.0), 0.3, 1e-9).psi[0] > 1.0
    assert target_error(refloss.ASoftmax(m=9.0), 0.3, 1e-9).psi[0] < 1.0


def test_the_error_of_an_angle_by_chords():
    loss = refloss.CombinedMargin(m1=2.0, m2=0.25, m3=0.0)
    head = some_head(loss)
    upstream, unknown = np.array([1.0, 2.0, 0.5, 3.0]), np.array([False, False, True, False])
    bound = errors.chord_error(head, loss.spec.margin, upstream, unknown, UNITS)
    for i in range(4):
        x, w = np.abs(head.x[i]), np.abs(head.w[head.y[i]])
        inner = sum(x * (x + w))
        steep = 2.0 / np.sin(head.theta[i])
        own = 8.0 * U * upstream[i] * steep * (x + w + x * inner) + (4.0 * 4.0 * upstream[i] if unknown[i] else 0.0)
        assert np.allclose(bound[i], own, rtol=1e-12, atol=0.0)
    for plain in (refloss.CosFace(), refloss.ArcFace(gradient="detached")):
        assert not errors.chord_error(head, plain.spec.margin, upstream, unknown, UNITS).any()
    narrow = errors.chord_error(head, refloss.ArcFace(m=0.5).spec.margin, upstream, unknown, UNITS)
    assert np.allclose(narrow[0], bound[0] / 2.0, rtol=1e-12, atol=0.0)
    level = errors.chord_error(head._replace(theta=np.zeros(4)), loss.spec.margin, upstream, ~unknown, UNITS)
    assert np.allclose(level[2], bound[2] * 0.0 + 8.0 * U * 0.5 * 2.0 / U * _projected(head, 2), rtol=1e-12, atol=0.0)


def _projected(head, i):
    x, w = np.abs(head.x[i]), np.abs(head.w[head.y[i]])
    return x + w + x * sum(x * (x + w))


Z_ROW = np.array([1.0, 0.25, -2.0, 3.0])


@pytest.mark.parametrize("standard", ["working", "stable", "relative"])
@pytest.mark.parametrize("t", [(0.0, 1.0, 0.0, 0.0), (0.5, 0.75, 0.25, 0.0), (0.0, 0.0, 0.0, 2.0)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_the_error_of_a_row_of_cross_entropy(standard, t, masked):
    t, z = np.array(t), Z_ROW.copy()
    if masked and t[2] == 0.0:
        z[2] = -INF
    dz = np.array([1e-4, 2e-4, 5e-4, 0.25])
    a = UNITS._replace(log_p=standard)
    rows = budgets._rows(z[None], t[None])
    of_loss, of_g = (entry[0] for entry in errors.cross_entropy_error(rows, dz[None], a))
    if standard == "relative":
        both = (
            cross_entropy._relative_error(rows, dz[None], a),
            errors.cross_entropy_error(rows, dz[None], a._replace(log_p="stable")),
        )
        assert (of_loss == np.minimum(both[0][0], both[1][0])).all()
        assert (of_g == np.minimum(both[0][1], both[1][1])).all()
        of_loss, of_g = (entry[0] for entry in both[0])
    total, k = t.sum(), 4 * ACC / U
    p = np.exp(z - 3.0) / np.exp(z - 3.0).sum()
    gap = np.where(np.isfinite(z), 3.0 - z, 0.0)
    spread, log_sum = (p * gap).sum(), np.log(np.exp(z - 3.0).sum())
    wide = np.where(dz > 1e-3, (np.exp(2.0 * dz) - 1.0) / 2.0, dz)
    g = total * p - t
    with np.errstate(invalid="ignore"):
        loss = np.where(t > 0.0, t * (gap + log_sum), 0.0).sum()
    value = (np.abs(g) * dz).sum() + total * (p * wide**2).sum()
    of_p = p * np.array([(1.0 - p[i]) * wide[i] + (p * wide).sum() - p[i] * wide[i] for i in range(4)])
    if standard == "relative":
        others = gap[p > LEAST].max()
        assert of_loss == pytest.approx(value + U * (k + 6.0 + others) * loss + LEAST, rel=1e-9, abs=0.0)
        own = (k + 6.0 + others) * t * (1.0 - p) + (k + 6.0 + gap + spread) * p * np.abs(total - t)
        assert np.allclose(of_g, total * of_p + U * own + LEAST, rtol=1e-9, atol=0.0)
        return
    several = np.count_nonzero(t) > 1
    bracket = total * (k + 3.0 + spread + 2.0 * log_sum) + (t * (2.0 * gap + log_sum)).sum()
    value += U * (bracket + (1.0 + (k + 1.0) * several) * loss)
    of_p = of_p + U * p * (2.0 * (gap + log_sum) + k + 5.0 + spread)
    if standard == "working":
        size = 3.0 + log_sum
        value += (
            U * total * size + U * (1.0 + (k + 2.0) * several) * (t * np.abs(np.where(np.isfinite(z), z, 0.0))).sum()
        )
        of_p = of_p + p * np.expm1(U * size)
    gradient = total * of_p + U * ((1.0 + 2.0 * several) * t + np.abs(g) + several * (k + 2.0) * total * p)
    through = lost(4, 2.0 * total, 0.0) + 8.0 * U * total
    gradient[3] += through  # the largest logit; no other is within twice the error of the logits
    assert of_loss == pytest.approx(value + LEAST, rel=1e-9, abs=0.0)
    assert np.allclose(of_g, gradient + LEAST, rtol=1e-9, atol=0.0)


def test_a_maximum_that_others_may_have_reaches_them_too():
    z, t = np.array([[1.0, 0.9375, 0.0]]), np.array([[0.0, 0.0, 1.0]])
    rows = budgets._rows(z, t)
    through = lost(3, 2.0, 0.0) + 8.0 * U
    for dz, near in ((0.03, False), (1.0 / 32.0, True)):
        both = errors.cross_entropy_error(rows, np.full((1, 3), dz), UNITS)[1][0]
        p, q = rows.p[0], rows.q[0]
        plain = p * (q * _wide(dz) + (p.sum() * _wide(dz) - p * _wide(dz)))
        gap, spread = 1.0 - z[0], (p * (1.0 - z[0])).sum()
        log_sum = np.log(np.exp(-gap).sum())
        plain = (
            plain
            + U * p * (2.0 * (gap + log_sum) + 3 * ACC / U + 5.0 + spread)
            + U * (t[0] + np.abs(rows.g[0]))
            + LEAST
        )
        assert np.allclose(both - plain, [through, through if near else 0.0, 0.0], rtol=0.0, atol=1e-9)


def _wide(dz):
    return (np.exp(2.0 * dz) - 1.0) / 2.0


def test_one_class_alone_is_known_exactly_unless_logsumexp_is_rounded():
    for z, t in (([[5.0]], [[1.0]]), ([[5.0, -INF]], [[1.0, 0.0]])):
        rows = budgets._rows(np.array(z), np.array(t))
        zero = np.zeros(np.shape(z))
        for standard, exactly in (("stable", True), ("working", False)):
            of_loss, of_g = errors.cross_entropy_error(rows, zero, UNITS._replace(log_p=standard))
            assert (of_loss[0] == LEAST) == exactly
            assert (of_g[0, 0] == LEAST) == exactly


def test_huge_errors_of_logits_stay_finite():
    rows = budgets._rows(np.array([[5.0, 1e6]]), np.array([[1.0, 0.0]]))
    bounds = errors.cross_entropy_error(rows, np.full((1, 2), 1e3), UNITS._replace(log_p="working"))
    assert all(np.isfinite(entry).all() for entry in bounds)


def test_the_error_of_a_gradient_through_directions():
    rng = np.random.default_rng(1)
    own, other = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (rng.normal(size=(2, 3)), rng.normal(size=(4, 3)))
    )
    lengths, a, da = np.array([0.5, 2.0]), rng.normal(size=(2, 4)), np.abs(rng.normal(size=(2, 4))) / 64.0
    bound = errors.normalize_error(errors.Side(own, other, own @ other.T, lengths), a, da, OWN, UNITS)
    d = 3 * ACC / U
    for i in range(2):
        x, most = own[i], np.abs(a[i]) + da[i]
        tangents = np.abs(np.array([w - (x @ w) * x for w in other]))
        h, more, ax = a[i] @ other, da[i] @ np.abs(other), np.abs(x)
        radial = h @ x
        whole, along = np.abs(h) + more, abs(radial) + ax @ more
        passed = sum((da[i, k] + (d / 2.0 + 1.0) * U * most[k]) * tangents[k] for k in range(4))
        terms = most @ np.abs(other)
        product = np.array([lost(4, terms[j], whole[j]) + 2.0 * (U + FACTOR) * terms[j] for j in range(3)])
        size = whole @ ax
        error = passed + product + ax * (ax @ product)
        error = error + ax * (lost(3, size, along) + U * (2.0 * size + (d + 6.0) * along))
        error = error + U * (whole + ax * along) + (d / 2.0 + 2.0) * U * (np.abs(h - radial * x) + more) + 6.0 * LEAST
        truth = sum(abs(a[i, k]) * np.linalg.norm(tangents[k]) for k in range(4))
        assert np.allclose(bound[i], (error + OWN * truth) / lengths[i], rtol=1e-10, atol=0.0)


def test_the_error_of_a_gradient_through_the_scale():
    head = some_head(refloss.NormFace(s=None))
    rng = np.random.default_rng(2)
    g, dg, df = rng.normal(size=(4, 3)), np.abs(rng.normal(size=(4, 3))) / 64.0, np.abs(rng.normal(size=(4, 3))) / 32.0
    bound = errors.scale_error(g, dg, head, df, OWN, UNITS)
    for i in range(4):
        f = head.f[i]
        terms, along = sum(np.abs(g[i] * f)), abs(sum(g[i] * f))
        passed = sum(dg[i] * np.abs(f) + np.abs(g[i]) * df[i])
        own = passed + lost(3, terms, along) + (U + OWN) * terms + (5 * ACC / U / 2.0 + 5.0) * U * along
        assert bound[i, 0] == pytest.approx(own, rel=1e-12, abs=0.0)


@pytest.mark.parametrize("squared", [True, False])
def test_the_error_of_a_triplet(squared):
    p = np.array([[1.0, 2.0], [0.5, 0.25], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    n = np.array([[1.0, 1.0], [3.0, 4.0], [0.5, 0.0], [0.0, 1.25], [0.125, 0.0]])
    m = 0.25 if not squared else 0.5625  # the last one is on the border
    bound, slopes = errors.triplet_error(errors.Triplets(p, n, m, squared), OWN, UNITS)
    d, power = 2 * ACC / U, 1.0 if squared else 0.5
    for i in range(5):
        near, far = sum(p[i] ** 2) ** power, sum(n[i] ** 2) ** power
        violation = near - far + m
        off = U * ((d * power + 4.0) * (near + far) + abs(near - far) + m + abs(violation))
        reached, border = violation > -off, abs(violation) <= off
        assert (reached, border) == [(True, False), (False, False), (squared, False), (True, True), (True, False)][i]
        assert bound[i] == pytest.approx((off + OWN * abs(violation) if reached else 0.0) + LEAST, rel=1e-12, abs=0.0)
        for name, v in (("positive", p[i]), ("negative", n[i])):
            length = np.sqrt(sum(v**2))
            slope = 2.0 * np.abs(v) if squared else np.abs(v) / (length or 1.0)
            own = (d / 2.0 + 6.0) * U * slope + (slope if border else 0.0) + OWN * np.sqrt(sum(slope**2))
            own = own + (1.0 if length == 0.0 and not squared else 0.0)
            assert np.allclose(slopes[name][i], own if reached else 0.0, rtol=1e-12, atol=0.0)


TRUTH = 8.0 * 2.0**-53


def test_logits_that_stay_as_they_are_have_their_errors():
    z, dz = np.array([[1.0, -2.0]]), np.array([[1e-3, 0.25]])
    same = errors.softcap_error(z, dz, Settings(), UNITS)
    assert same.z is z
    assert same.of_z is dz
    assert (same.slope == 1.0).all()
    assert not same.of_slope.any()


@pytest.mark.parametrize("standard", ["working", "stable", "relative"])
def test_the_error_of_a_capped_logit(standard):
    """Two roundings of the argument, one without a cap; two of the tanh; a slope by 1 - tanh², unless digits count."""
    a = UNITS._replace(log_p=standard)
    z, dz = np.array([[0.5, -8.0, 300.0, INF, -INF]]), np.array([[1e-3, 2e-3, 0.25, 0.0, 0.0]])
    scaled = errors.softcap_error(z[:, :3], dz[:, :3], Settings(0.5), a)
    assert np.array_equal(scaled.z, 0.5 * z[:, :3])
    assert np.allclose(scaled.of_z, 0.5 * dz[:, :3] + U * 0.5 * np.abs(z[:, :3]), rtol=1e-12, atol=0.0)
    assert (scaled.slope == 0.5).all()
    assert not scaled.of_slope.any()
    capped = errors.softcap_error(z, dz, Settings(0.5, 4.0), a)
    for k in range(5):
        ratio, known = (0.5 * z[0, k] / 4.0, True) if k < 3 else (math.copysign(INF, z[0, k]), False)
        tanh, sech2 = math.tanh(ratio), 1.0 / math.cosh(min(abs(ratio), 700.0)) ** 2 if known else 0.0
        moved = 0.5 * dz[0, k] + 2.0 * U * abs(0.5 * z[0, k]) if known else 0.0
        assert capped.z[0, k] == pytest.approx(4.0 * tanh, rel=1e-14)
        assert capped.slope[0, k] == pytest.approx(0.5 * sech2, rel=1e-12, abs=0.0)
        own = min(sech2 * moved + moved**2 / 4.0, 8.0) + 4.0 * U * 4.0 * abs(tanh)
        assert capped.of_z[0, k] == pytest.approx(own, rel=1e-12)
        rounded = sech2 * (2.0 * abs(ratio) + 8.0) if standard == "relative" and known else 7.0 * known
        own = 0.5 * (min(2.0 * sech2 * abs(tanh) * moved / 4.0 + (moved / 4.0) ** 2, 1.0) + U * rounded)
        assert capped.of_slope[0, k] == pytest.approx(own, rel=1e-12, abs=0.0)


@pytest.mark.parametrize("standard", ["stable", "relative"])
def test_no_capped_logit_of_float32_is_further_off(standard):
    """Logits moved by up to their errors, then capped in float32: within the error, and some near it."""
    random, a = np.random.default_rng(5), budgets.arithmetic("float32", standard=standard)
    z = (random.uniform(-3.0, 3.0, (40, 50)) * 10.0 ** random.uniform(-2.0, 1.0, (40, 1))).astype(np.float32)
    for off in (0.0, 1e-5, 0.3):
        dz = off * np.abs(z).astype(np.float64)
        for sigma, cap in ((0.5, 4.0), (3.0, 0.25), (1.0, 50.0)):
            given = errors.softcap_error(z.astype(np.float64), dz, Settings(sigma, cap), a)
            moved = (z + random.choice([-1.0, 1.0], z.shape) * dz).astype(np.float32)
            single = np.float32(sigma) * moved
            tanh = np.tanh(single / np.float32(cap))
            e = np.exp(np.float32(-2.0) * np.abs(single) / np.float32(cap))
            one = np.float32(1.0)
            sech2 = 4 * e / ((one + e) * (one + e)) if standard == "relative" else one - tanh * tanh
            slack = 1.0 + 2.0**-20 if off == 0.0 else 1.0 + 2.0**-10  # moved logits are rounded too
            share = np.abs(np.float32(cap) * tanh - given.z) / given.of_z
            of_slope = np.abs(sigma * sech2.astype(np.float64) - given.slope) / given.of_slope
            assert 0.05 < share.max() <= slack
            assert 0.05 < of_slope.max() <= slack


def test_the_error_of_a_log_sum_exp():
    """Its own roundings, (k + 3 + 2 log + Σ p gap) u and u of itself, and Σ p |dz|; p as by the standard "working"."""
    dz = np.array([1e-4, 2e-4, 5e-4, 0.25])
    rows = budgets._rows(Z_ROW[None], np.array([[0.0, 1.0, 0.0, 0.0]]))
    lse, of_lse, of_p = (entry[0] for entry in errors.log_sum_exp_error(rows, dz[None], UNITS))
    p = np.exp(Z_ROW - 3.0) / np.exp(Z_ROW - 3.0).sum()
    log_sum, k = np.log(np.exp(Z_ROW - 3.0).sum()), 4 * ACC / U
    assert lse == pytest.approx(3.0 + log_sum, rel=1e-14)
    wide = np.where(dz > 1e-3, np.exp(dz) - 1.0, dz)
    own = (p * wide).sum() + U * (k + 3.0 + 2.0 * log_sum + (p * (3.0 - Z_ROW)).sum() + abs(lse))
    assert of_lse == pytest.approx(own, rel=1e-12, abs=0.0)
    working = UNITS._replace(log_p="working")
    assert (of_p == cross_entropy._probability_error(rows, dz[None], working)[0]).all()


@pytest.mark.parametrize("kind", [refloss.CrossEntropy, refloss.SoftmaxLoss])
@pytest.mark.parametrize("options", [{"z_loss": 0.25}, {"softcap": 2.0}, {"softcap": 2.0, "z_loss": 0.25}], ids=str)
def test_a_budget_is_the_same_for_both_signs_of_an_upstream_gradient(kind, options):
    """The gradient of a z-loss is added to that of the loss, whatever the sign of both is."""
    z, y = np.vstack([Z, Z + 0.5]), np.array([0, -100, 2, 1])
    inputs = (z, y) if kind is refloss.CrossEntropy else (z, Z[:, :3].repeat(2, axis=0)[:3] + np.eye(3), y)
    rows = np.array([1.0, 2.0, 0.5, 3.0])
    for loss, upstream in ((kind(**options), 3.0), (kind(**options, reduction="none"), rows)):
        plus, minus = (budgets.bounds(loss, inputs, UNITS, sign * upstream) for sign in (1.0, -1.0))
        assert np.array_equal(plus[0], minus[0])
        for name, allowed in plus[1].items():
            assert np.allclose(allowed, minus[1][name], rtol=1e-12, atol=0.0)


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_budget_with_a_z_loss_and_a_cap_is_put_together_from_both(reduction):
    loss = refloss.CrossEntropy(
        logit_scale=0.5, softcap=4.0, z_loss=0.25, class_weight=(1.0, 2.0, 0.5), reduction=reduction
    )
    z, y = np.vstack([Z, Z + 0.5]), np.array([0, -100, 2, 1])
    upstream = np.array([1.0, 2.0, -0.5, 3.0]) if reduction == "none" else np.asarray(-3.0)
    value, allowed = budgets.bounds(loss, (z, y), UNITS, upstream)
    kept, n = np.array([0, 2, 3]), {"mean": 3.0, "sum": 1.0, "none": 1.0}[reduction]
    capped = errors.softcap_error(z[kept], np.zeros((3, 3)), Settings(0.5, 4.0), UNITS)
    counting = budgets._counting(loss, y, 3, upstream, UNITS)
    rows = budgets._rows(capped.z, counting.t)
    of_loss, of_g = errors.cross_entropy_error(rows, capped.of_z, UNITS)
    lse, of_lse, of_p = errors.log_sum_exp_error(rows, capped.of_z, UNITS)
    terms = 0.25 * (2.0 * np.abs(lse) * of_lse + of_lse**2 + (4.0 * U + TRUTH) * lse**2)
    plain = np.asarray(budgets._reduced(loss, rows, of_loss, counting, UNITS))
    if reduction == "none":
        assert np.allclose(value[kept], plain[kept] + terms, rtol=1e-12, atol=0.0)
        assert value[1] == plain[1]
    else:
        sums = (3.0 * ACC / U + 2.0) * U * 0.25 * lse**2
        last = U * np.abs((rows.loss * counting.weight).sum())
        assert value == pytest.approx(float(plain + (terms + sums).sum() / n + last), rel=1e-12)
    weight = np.abs(np.broadcast_to(upstream, 4)[kept])[:, None]
    scale = np.abs(counting.row_weights)[:, None]
    g = counting.row_weights[:, None] * rows.g
    through = 2.0 * 0.25 * (np.broadcast_to(upstream, 4)[kept] * lse / n)[:, None] * rows.p
    error = scale * (of_g + (3.0 * U + TRUTH) * np.abs(rows.g))
    error += 0.5 * weight / n * (of_lse[:, None] * (rows.p + of_p) + np.abs(lse)[:, None] * of_p)
    error += (5.0 * U + TRUTH) * np.abs(through) + U * np.abs(g + through) + LEAST
    error = capped.slope * error + (np.abs(g + through) + error) * capped.of_slope
    error += (2.0 * U + TRUTH) * capped.slope * np.abs(g + through) + LEAST
    assert np.allclose(allowed["z"][kept], error + LEAST, rtol=1e-9, atol=0.0)


@pytest.mark.usefixtures("units")
def test_a_budget_on_logits_is_that_of_the_rows_that_count():
    loss = refloss.CrossEntropy(label_smoothing=0.1, class_weight=(1.0, 2.0, 0.5))
    z, y = np.vstack([Z, Z + 0.5]), np.array([0, -100, 2, 1])
    value, allowed = budgets.bounds(loss, (z, y), UNITS, -3.0)
    counting = budgets._counting(loss, y, 3, -3.0, UNITS)
    rows = budgets._rows(z[counting.kept], counting.t)
    of_loss, of_g = errors.cross_entropy_error(rows, 0.0 * rows.z, UNITS)
    assert value == pytest.approx(float(budgets._reduced(loss, rows, of_loss, counting, UNITS)), rel=1e-14, abs=0.0)
    scale = np.abs(counting.row_weights)[:, None]
    assert np.allclose(scale * np.array([1.0]), 3.0 / np.array([1.0, 0.5, 2.0]).sum(), rtol=1e-12, atol=0.0)
    expected = scale * (of_g + (3.0 * U + TRUTH) * np.abs(rows.g)) + LEAST
    assert np.allclose(allowed["z"][counting.kept], expected, rtol=1e-12, atol=0.0)
    assert (allowed["z"][1] == LEAST).all()
    plain, one = budgets.bounds(loss, (z, y), UNITS), budgets.bounds(loss, (z, y), UNITS, 1.0)
    assert plain[0] == one[0]
    assert (plain[1]["z"] == one[1]["z"]).all()


def test_a_budget_of_more_axes_is_that_of_rows():
    loss = refloss.CrossEntropy(reduction="none")
    z, y = np.stack([Z, Z + 0.5]), np.stack([Y, 1 - Y // 2])
    upstream = np.array([[1.0, -2.0], [3.0, 0.5]])
    value, allowed = budgets.bounds(loss, (z, y), UNITS, upstream)
    flat, of_rows = budgets.bounds(loss, (z.reshape(-1, 3), y.reshape(-1)), UNITS, upstream.reshape(-1))
    assert (value == flat.reshape(2, 2)).all()
    assert (allowed["z"] == of_rows["z"].reshape(z.shape)).all()
    one, alone = budgets.bounds(loss, (Z[0], Y[0]), UNITS)
    assert (np.shape(one), alone["z"].shape) == ((), (3,))
    soft = np.array([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    assert budgets.bounds(loss, (Z, soft), UNITS)[1]["z"].shape == (2, 3)


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("between", [0.0, 2.0**-10])
def test_a_budget_of_a_linear_head_is_put_together_from_products(between):
    a = UNITS._replace(between=between, stored_smallest=2.0**-20)
    rng = np.random.default_rng(3)
    x, w, b, y = rng.normal(size=(4, 2)), rng.normal(size=(3, 2)), rng.normal(size=3), np.array([0, -100, 2, 1])
    x[0, 0] = 0.0
    loss = refloss.SoftmaxLoss(reduction="sum")
    value, allowed = budgets._linear(loss, [x, w, y, b], a, 0.25)
    kept = np.array([0, 2, 3])
    counting = budgets._counting(loss, y, 3, 0.25, a)
    z = x @ w.T + b
    of_z = np.zeros((3, 3))
    for row, i in enumerate(kept):
        for k in range(3):
            products = [x[i, j] * w[k, j] for j in range(2)]
            count, terms = max(sum(p != 0.0 for p in products), 1), sum(map(abs, products))
            of_z[row, k] = lost(count, terms, z[i, k] - b[k]) + 2.0 * FACTOR * terms
            of_z[row, k] += (U + between) * (abs(b[k]) + abs(z[i, k]))
    rows = budgets._rows(z[kept], counting.t)
    of_loss, of_g = errors.cross_entropy_error(rows, of_z, a)
    assert value == pytest.approx(float(budgets._reduced(loss, rows, of_loss, counting, a)), rel=1e-12, abs=0.0)
    g, error = 0.25 * rows.g, 0.25 * (of_g + 3.0 * U * np.abs(rows.g)) + LEAST
    if between:
        error = error + (2.0 + between) * between * (np.abs(g) + error)
        error = error + a.stored_smallest * 1.25

    def product(up, of_up, other):
        bounds = np.zeros((len(up), other.shape[1]))
        for i in range(len(up)):
            own = sum(abs(up[i, k]) * np.linalg.norm(other[k]) for k in range(len(other)))
            for j in range(other.shape[1]):
                products = [up[i, k] * other[k, j] for k in range(len(other))]
                count, terms = max(sum(p != 0.0 for p in products), 1), sum(map(abs, products))
                rounded = lost(count, terms, sum(products)) + (U + 2.0 * FACTOR) * terms
                bounds[i, j] = of_up[i] @ np.abs(other[:, j]) + rounded + TRUTH * own + count * LEAST
        return bounds

    assert np.allclose(allowed["x"][kept], product(g, error, w) + LEAST, rtol=1e-10, atol=0.0)
    assert (allowed["x"][1] == LEAST).all()
    assert np.allclose(allowed["w"], product(g.T, error.T, x[kept]) + LEAST, rtol=1e-10, atol=0.0)
    assert np.allclose(allowed["b"], product(g.T, error.T, np.ones((3, 1)))[:, 0] + LEAST, rtol=1e-10, atol=0.0)
    assert set(budgets._linear(loss, [x, w, y], a, None)[1]) == {"x", "w"}


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize(
    "loss",
    [refloss.CombinedMargin(s=4.0), refloss.ArcFace(s=4.0, m=2.5), refloss.NormFace(s=None), refloss.ASoftmax(m=2.0)],
    ids=repr,
)
def test_a_budget_of_a_margin_is_put_together_from_stages(loss):
    rng = np.random.default_rng(4)
    x, w, y = rng.normal(size=(4, 5)), rng.normal(size=(3, 5)), np.array([0, -100, 2, 1])
    value, allowed = budgets._margin(loss, [x, w, y], UNITS, -2.0)
    kept, each = np.array([0, 2, 3]), np.arange(3)
    counting = budgets._counting(loss, y, 3, -2.0, UNITS)
    head = head_of(loss, x[kept], w, y[kept])
    of_f = errors.cosine_error(head, UNITS)
    target = errors.margin_error(head, loss.spec.margin, of_f[each, head.y], UNITS)
    of_f[each, head.y] = target.psi
    by_length = loss.spec.scale is None
    length = (5 * ACC / U / 2.0 + 1.0) * U if by_length else 0.0
    s = (np.linalg.norm(x[kept], axis=1) if by_length else np.full(3, loss.spec.scale))[:, None]
    rows = budgets._rows(s * head.f, counting.t)
    of_loss, of_g = errors.cross_entropy_error(rows, s * (of_f + (U + length) * np.abs(head.f)), UNITS)
    assert value == pytest.approx(float(budgets._reduced(loss, rows, of_loss, counting, UNITS)), rel=1e-9, abs=0.0)
    weight = 2.0 / 3.0
    g, dg = -weight * rows.g, weight * (of_g + 3.0 * U * np.abs(rows.g)) + LEAST
    steep, of_steep = np.ones((3, 3)), np.zeros((3, 3))
    steep[each, head.y], of_steep[each, head.y] = target.steepness, target.of_steepness
    sign = np.ones((3, 3))
    sign[each, head.y] = np.where(loss.target_slope(head.theta) > 0.0, -1.0, 1.0)
    a = s * g * steep * sign
    da = s * (steep * dg + (np.abs(g) + dg) * of_steep) + (2.0 * U + length) * np.abs(a)
    tangent = np.zeros((3, 3))
    if not isinstance(loss, refloss.NormFace):  # an angle by its chords: at right angles to the row from the start
        tangent[each, head.y] = a[each, head.y] * np.cos(head.theta)
    of_x, of_w = tangent.sum(axis=1)[:, None], tangent.sum(axis=0)[:, None]
    dx = errors.normalize_error(errors.Side(head.x, head.w, head.c, head.length_x), a, da, TRUTH, UNITS, of_x)
    dw = errors.normalize_error(errors.Side(head.w, head.x, head.c.T, head.length_w), a.T, da.T, TRUTH, UNITS, of_w)
    most = s[:, 0] * (np.abs(g) + dg)[each, head.y]
    chords = errors.chord_error(head, loss.spec.margin, most, np.zeros(3, bool), UNITS)
    dx = dx + chords / head.length_x[:, None]
    for row, k in enumerate(head.y):
        dw[k] += chords[row] / head.length_w[k]
    if by_length:
        dx = dx + np.abs(head.x) * errors.scale_error(g, dg, head, of_f, TRUTH, UNITS)
    assert np.allclose(allowed["x"][kept], dx + LEAST, rtol=1e-8, atol=0.0)
    assert (allowed["x"][1] == LEAST).all()
    assert np.allclose(allowed["w"], dw + LEAST, rtol=1e-8, atol=0.0)


def test_a_target_without_a_direction_has_a_budget_of_a_turn():
    loss = refloss.ArcFace(s=4.0, m=0.25)
    x, w, y = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 1.0]]), np.eye(3), np.array([0, 1])
    _, allowed = budgets._margin(loss, [x, w, y], UNITS, None)
    head = head_of(loss, x, w, y)
    of_f = errors.cosine_error(head, UNITS)
    target = errors.margin_error(head, loss.spec.margin, of_f[[0, 1], y], UNITS)
    assert (target.of_steepness >= errors.UNKNOWN).tolist() == [True, False]
    g = 0.5 * np.abs(budgets._rows(4.0 * head.f, np.eye(2, 3)).g[[0, 1], y])
    turn = 4.0 * 4.0 * g[0]
    assert turn / 2.0 < allowed["x"][0].min() < 2.0 * turn
    assert turn < allowed["w"][0].min() < 4.0 * turn
    assert allowed["x"][1].max() < 1.0


def test_a_margin_of_ignored_rows_alone_has_the_smallest_budget():
    for loss, shape in ((refloss.ArcFace(), ()), (refloss.ArcFace(reduction="none"), (2,))):
        value, allowed = budgets._margin(loss, [np.eye(2), np.eye(2), np.full(2, -100)], UNITS, None)
        assert np.shape(value) == shape
        assert (value == LEAST).all()
        assert all((allowed[name] == LEAST).all() and allowed[name].shape == (2, 2) for name in "xw")


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_budget_of_triplets_is_put_together_from_rows(reduction):
    loss = refloss.Triplet(m=0.5, reduction=reduction)
    rng = np.random.default_rng(5)
    a = rng.normal(size=(3, 2))
    p = a + np.array([[1.0, 2.0], [0.5, -1.5], [0.25, 0.5]])
    n = a + np.array([[0.5, 0.25], [-1.0, 0.5], [9.0, 9.0]])
    value, allowed = budgets._triplet(loss, [a, p, n], UNITS, None)
    ones = budgets._triplet(loss, [a, p, n], UNITS, 1.0 if reduction != "none" else np.ones(3))
    assert np.array_equal(value, ones[0])
    assert all(np.array_equal(allowed[name], ones[1][name]) for name in allowed)
    upstream = np.array([1.0, -2.0, 3.0]) if reduction == "none" else -2.0
    value, allowed = budgets._triplet(loss, [a, p, n], UNITS, upstream)
    triplets = errors.Triplets(a - p, a - n, 0.5, True)
    rows, slopes = errors.triplet_error(triplets, TRUTH, UNITS)
    up = np.abs(upstream) * np.ones(3) / (3.0 if reduction == "mean" else 1.0)
    for name in ("positive", "negative"):
        assert np.allclose(allowed[name], up[:, None] * slopes[name] + LEAST, rtol=1e-13, atol=0.0)
    assert np.allclose(allowed["anchor"], allowed["positive"] + allowed["negative"], rtol=1e-13, atol=0.0)
    if reduction == "none":
        assert np.allclose(value, rows, rtol=1e-13, atol=0.0)
        return
    losses = np.maximum(((a - p) ** 2).sum(1) - ((a - n) ** 2).sum(1) + 0.5, 0.0)
    assert (losses > 0.0).tolist() == [True, True, False]
    whole = (rows + (3 * ACC / U + 2.0) * U * losses).sum()
    assert value == pytest.approx(whole / (3.0 if reduction == "mean" else 1.0), rel=1e-12, abs=0.0)


def test_a_dtype_may_be_numpy_s():
    for name in ("float32", "bfloat16"):
        value = budgets.budget(CE, Z, Y, dtype=name).value
        for dtype in (dtype_of(name), np.dtype(dtype_of(name))):
            assert budgets.budget(CE, Z, Y, dtype=dtype).value == value


def test_a_budget_has_the_form_of_value_and_gradients():
    budget = budgets.budget(CE, Z, Y, dtype="float32", upstream=3.0)
    value, allowed = budgets.bounds(CE, (Z, Y), budgets.arithmetic("float32"), 3.0)
    assert budget.value == value
    assert (budget.gradient.z == allowed["z"]).all()
    assert type(budget.gradient) is type(CE.value_and_grad(Z, Y)[1])
    assert (budgets.budget(CE, Z, Y, dtype="float32", upstream=3.0).gradient.z == allowed["z"]).all()
    assert budgets.budget(refloss.CrossEntropy, Z, Y, dtype=np.float32, upstream=3.0).value == value
    assert budgets.budget(CE, Z, Y, dtype=np.dtype("float32"), upstream=3.0).value == value
    assert (
        budgets.budget(CE, Z, Y, dtype="float32", accumulate="float64", matmul="tf32", standard="stable").value
        == budgets.bounds(CE, (Z, Y), budgets.arithmetic("float32", "float64", "tf32", "stable"))[0]
    )
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'dtype'"):
        budgets.budget(CE, Z, Y, np.float32)
    with pytest.raises(ValueError, match=r"^dtype: expected one of 'float16', .*; got array.*"):
        budgets.budget(CE, Z, Y, dtype=Y)


def test_the_truth_is_that_of_the_engine_of_100_bits():
    class Loss:
        def value_and_grad(self, *inputs, **settings):
            return inputs, settings

    assert budgets.truth(Loss(), (1, 2), 3.0) == ((1, 2), {"upstream": 3.0, "engine": "dd"})


@pytest.mark.parametrize("standard", ["working", "stable", "relative"])
def test_a_row_of_cross_entropy_is_off_by_what_it_is_alone(standard):
    z, t = np.stack([Z_ROW, -2.0 * Z_ROW]), np.array([[0.0, 1.0, 0.0, 0.0], [0.5, 0.25, 0.0, 0.0]])
    dz, a = np.array([[1e-4, 2e-4, 5e-4, 0.25], [0.1, 1e-5, 0.0, 2e-3]]), UNITS._replace(log_p=standard)
    both = errors.cross_entropy_error(budgets._rows(z, t), dz, a)
    for i in range(2):
        alone = errors.cross_entropy_error(budgets._rows(z[i : i + 1], t[i : i + 1]), dz[i : i + 1], a)
        assert np.allclose(both[0][i], alone[0][0], rtol=1e-12, atol=0.0)
        assert np.allclose(both[1][i], alone[1][0], rtol=1e-12, atol=0.0)
    whole, halves = (errors.cross_entropy_error(budgets._rows(z[:1], np.array([row])), dz[:1], UNITS)[0][0] for row in
                     ((0.0, 1.0, 0.0, 0.0), (0.0, 1.0 - 1e-9, 1e-9, 0.0)))  # fmt: skip
    loss = budgets._rows(z[:1], t[:1]).loss[0]
    assert halves - whole == pytest.approx(U * (4 * ACC / U + 1.0) * loss, rel=1e-3, abs=0.0)


@pytest.mark.parametrize("standard", ["working", "stable", "relative"])
def test_targets_of_both_signs_count_with_their_magnitudes(standard):
    """Except for the rounding of g itself and the error of the upstream gradient: relative to g, which may cancel."""
    t, a = np.array([[0.5, -0.25, 0.0, 1.0]]), UNITS._replace(log_p=standard)
    signed, plain = (budgets._rows(Z_ROW[None], some) for some in (t, np.abs(t)))
    assert signed.terms == plain.loss == plain.terms
    assert signed.loss == pytest.approx((t * signed.minus_log_p).sum(), rel=1e-14)
    (loss, g), (whole, terms) = (errors.cross_entropy_error(rows, np.zeros((1, 4)), a) for rows in (signed, plain))
    assert loss == whole
    if standard != "relative":
        assert np.allclose(terms - g, U * (np.abs(plain.g) - np.abs(signed.g)), rtol=1e-9, atol=1e-15)


def test_weights_of_both_signs_cancel_in_a_mean():
    """R(3, 7, 1) and 7u for rounding the weights, over a sum of 1; of one sign it is not counted."""
    off = ACC * (2.0 * 4.0 + 7.0) + 7.0 * U
    assert budgets.divisor_error(np.array([3.0, -3.0, 1.0]), UNITS) == pytest.approx(off / (1.0 - off), rel=1e-14)
    assert budgets.divisor_error(np.array([3.0, -3.0, 0.0]), UNITS) == errors.UNKNOWN
    for one in (np.ones(3), -np.ones(3), np.zeros(2), np.zeros(0)):
        assert budgets.divisor_error(one, UNITS) == 0.0
    y = np.array([0, 1, -100, 0])
    for reduction in ("mean", "sum"):
        loss = refloss.CrossEntropy(class_weight=(2.0, -1.0, 5.0), reduction=reduction)
        counting = budgets._counting(loss, y, 3, None, UNITS)
        own = budgets.divisor_error(np.array([2.0, -1.0, 2.0]), UNITS) if reduction == "mean" else 0.0
        assert counting.divisor == own
        assert counting.divided(0.25, 3.0) == pytest.approx(0.25 + own * 3.25, rel=1e-14)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_mean_over_weights_of_both_signs_is_off_by_its_divisor_too(sign):
    w = (sign * 2.0, -sign, sign * 0.5)
    loss = refloss.CrossEntropy(class_weight=w)
    z, y = np.vstack([Z, Z + 0.5]), np.array([0, 1, 2, 0])
    value, allowed = budgets.bounds(loss, (z, y), UNITS)
    added = replace(loss, reduction="sum")
    parts, of_z = budgets.bounds(added, (z, y), UNITS)
    own, n = budgets.divisor_error(np.take(w, y), UNITS), 3.5
    true, (dz,) = loss.value_and_grad(z, y)
    assert value == pytest.approx((parts - LEAST) / n * (1.0 + own) + own * abs(true) + LEAST, rel=1e-12)
    assert np.allclose(allowed["z"], (of_z["z"] - LEAST) / n * (1.0 + own) + own * np.abs(dz) + LEAST, rtol=1e-9)


def test_targets_are_smoothed_and_weighted_as_the_loss_says():
    loss = refloss.CrossEntropy(label_smoothing=0.25, class_weight=(1.0, 2.0, 0.5, 1.0))
    counting = budgets._counting(loss, np.array([1, -100]), 4, None, UNITS)
    assert np.allclose(counting.t, [[0.0625, 2.0 * 0.8125, 0.03125, 0.0625]], rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_the_truth_is_off_by_shows_in_float64(reduction):
    loss, a = refloss.CrossEntropy(reduction=reduction), budgets.arithmetic("float64")
    counting = budgets._counting(loss, Y, 3, None, a)
    rows = budgets._rows(Z, counting.t)
    reduced = budgets._reduced(loss, rows, np.zeros(2), counting, a)
    if reduction == "none":
        assert np.allclose(reduced, TRUTH * rows.loss, rtol=1e-12, atol=0.0)
    else:
        assert reduced == pytest.approx((4.0 * 2.0**-53 + TRUTH) * rows.loss.mean(), rel=1e-12, abs=0.0)


def test_bounds_of_masked_classes_warn_of_nothing_and_storage_knows_the_upstream_gradient():
    masked = np.where(np.eye(2, 3) > 0.0, -INF, Z)
    value, allowed = budgets.bounds(CE, (masked, np.array([1, 2])), budgets.arithmetic("float32"))
    assert np.isfinite(value)
    assert np.isfinite(allowed["z"]).all()
    huge = np.array([[INF, 0.0, 0.0]])
    assert budgets.bounds(CE, (huge, Y[:1]), budgets.arithmetic("float32"))[1]["z"].shape == (1, 3)
    mixed = budgets.arithmetic("float16", standard="mixed")
    one, four = (budgets.bounds(CE, (Z, Y), mixed, upstream)[1]["z"] for upstream in (1.0, 4.0))
    assert np.allclose(four, 4.0 * one, rtol=0.02, atol=0.0)
    with pytest.raises(ValueError, match=r"^standard: .* 'working', 'stable', 'mixed', 'fused', 'relative'; got 'x'$"):
        budgets.arithmetic("float32", standard="x")
