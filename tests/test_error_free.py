"""Error-free transformations, pairs and scaled numbers against rational numbers and mpmath, in u and u²."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp, mpf

from refloss import error_free
from refloss.engines.dd import DoubleDouble
from refloss.error_free import (
    LOG_2,
    PI,
    ZERO,
    Pair,
    Scaled,
    digits,
    direction,
    dot,
    expm1,
    fast_two_sum,
    frexp,
    high,
    in_range,
    integers,
    ldexp,
    plain,
    rounded_total,
    scale_rows,
    shift,
    sin_cos,
    spread,
    sqrt,
    tanh,
    total,
    total_by_label,
    two_product,
    two_sum,
    where,
)
from refloss.sliced_product import matmul
from support.pairs import HIGHER, SUM_BOUND, U, exactly, normalised

# Where arithmetic goes wrong first: zeros, subnormals, powers of two and their neighbours, full mantissas, the largest.
EXTREMES = [0.0, -0.0, 5e-324, -1.5e-323, 2.0**-1022, 1.0, -1.0, 1.0 + 2.0**-52, 1.0 - 2.0**-53, -(2.0**53 - 1.0), 0.1]
EXTREMES += [2.0**27 + 1.0, 1e-200, -1e200, 2.0**1022, -(2.0 - 2.0**-52) * 2.0**1021]


def numbers(rng, count, low=-2, high=2):
    """Float64 numbers with random mantissas and with those that are worst for rounding: 10…0, 10…01, 11…1."""
    mantissa = rng.integers(2**52, 2**53, count)
    kind = rng.integers(0, 5, count)
    mantissa = np.where(kind == 0, 2**52, np.where(kind == 1, 2**53 - 1, mantissa))
    mantissa = np.where(kind == 2, 2**52 + rng.integers(0, 4, count), mantissa)
    return np.ldexp(rng.choice([-1.0, 1.0], count) * mantissa, rng.integers(low, high + 1, count) - 52)


def pairs(rng, count, low=-2, high=2):
    """Pairs whose low part is anything up to half an ulp of the high part, the half itself among them."""
    hi = numbers(rng, count, low, high)
    share = np.where(
        rng.integers(0, 2, count), rng.uniform(-0.5, 0.5, count), 0.5 - rng.integers(0, 3, count) * 2.0**-53
    )
    share = share * rng.choice([-1.0, 0.0, 1.0, 2.0**-30], count)
    return Pair(*two_sum(hi, share * np.spacing(np.abs(hi))))


def worst(computed, true, sizes):
    """The largest |computed - true| / size in units of u²; where the size is 0 the error has to be."""
    errors = [0.0]
    for result, truth, size in zip(exactly(computed), true, sizes, strict=True):
        assert size or result == truth
        errors.append(float(abs(result - truth) / size / U**2) if size else 0.0)
    return max(errors)


# ------------------------------------------------------------------------------------------------ sums and products


def test_two_sum_is_exact():
    rng = np.random.default_rng(1)
    a, b = np.array(list(itertools.product(EXTREMES, EXTREMES))).T
    a, b = np.append(a, numbers(rng, 2000, -60, 60)), np.append(b, numbers(rng, 2000, -60, 60))
    s, e = two_sum(a, b)
    assert exactly(Pair(s, e)) == [p + q for p, q in zip(exactly(a), exactly(b), strict=True)]
    assert (s == a + b).all()
    larger = np.abs(a) >= np.abs(b)
    fast = fast_two_sum(a[larger], b[larger])
    assert all(np.array_equal(p, q[larger]) for p, q in zip(fast, (s, e), strict=True))
    assert two_sum(1, 2.0**-60) == (1.0, 2.0**-60)


def test_two_product_is_exact_short_of_over_and_underflow():
    rng = np.random.default_rng(2)
    inside = [v for v in EXTREMES if v == 0.0 or 2.0**-960 < abs(v) < 2.0**990]
    both = [v for v in itertools.product(inside, inside) if 0.0 in v or 2.0**-960 < abs(v[0] * v[1]) < math.inf]
    a, b = np.array(both).T
    a, b = np.append(a, numbers(rng, 2000, -400, 400)), np.append(b, numbers(rng, 2000, -400, 400))
    p, e = two_product(a, b)
    assert exactly(Pair(p, e)) == [v * w for v, w in zip(exactly(a), exactly(b), strict=True)]
    assert (p == a * b).all()


# -------------------------------------------------------------------------------------------------------- Pair


def cancelling(rng, a):
    """Pairs a few units in the last place of hi or of lo away from minus `a`."""
    count = len(a.hi)
    hi = -a.hi * (1.0 + rng.integers(-2, 3, count) * 2.0**-52)
    return Pair(*two_sum(hi, -a.lo * rng.choice([1.0, -1.0, 0.5, 1.0 + 2.0**-50], count)))


PRODUCT_BOUND, QUOTIENT_BOUND, ROOT_BOUND = 5, 20, 4  # times u²: the docstring of Pair
OPERATIONS = {
    "+": (lambda a, b: a + b, SUM_BOUND),
    "-": (lambda a, b: a - b, SUM_BOUND),
    "*": (lambda a, b: a * b, PRODUCT_BOUND),
    "/": (lambda a, b: a / b, QUOTIENT_BOUND),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_pair_operations_keep_their_bounds(name):
    operation, bound = OPERATIONS[name]
    rng = np.random.default_rng(3)
    a, b = pairs(rng, 1500), pairs(rng, 1500)
    near = cancelling(rng, a)
    for other in (b, near, -near, b.hi, near.hi, -near.hi):
        result = operation(a, other)
        true = [operation(p, q) for p, q in zip(exactly(a), exactly(other), strict=True)]
        assert normalised(result)
        assert worst(result, true, [abs(t) for t in true]) <= bound * HIGHER


def test_the_sum_of_pairs_at_the_worst_example_known():
    """Joldes, Muller and Popescu 2017, after their theorem 3.1: 2.25u²."""
    a = Pair(np.array(9007199254740991.0), np.array(-9007199254740991.0 / 2**54))
    b = Pair(np.array(-9007199254740987.0 / 2), np.array(-9007199254740991.0 / 2**56))
    true = exactly(a)[0] + exactly(b)[0]
    assert 2.2 < worst(a + b, [true], [abs(true)]) <= SUM_BOUND


def test_square_root_keeps_its_bound_and_zero_stays_zero():
    rng = np.random.default_rng(4)
    a = pairs(rng, 2000, -300, 300)
    a = where(a.hi > 0.0, a, -a)
    roots = sqrt(a)
    with mp.workdps(80):
        true = [mp.sqrt(mpf(v.numerator) / v.denominator) for v in exactly(a)]
        errors = [abs(mpf(v.numerator) / v.denominator - t) / t for v, t in zip(exactly(roots), true, strict=True)]
        assert max(errors) * 2**106 <= ROOT_BOUND * (1 + mpf(2) ** -40)
    assert normalised(roots)
    zero = sqrt(Pair.of([0.0, 4.0]))
    assert zero.hi.tolist() == [0.0, 2.0]
    assert zero.lo.tolist() == [0.0, 0.0]


def test_operators_take_numbers_and_arrays_on_either_side():
    rng = np.random.default_rng(5)
    a = pairs(rng, 6)
    array = numbers(rng, 6)
    reflected = {
        "+": (lambda v: v + a, lambda v: Pair.of(v) + a, SUM_BOUND),
        "-": (lambda v: v - a, lambda v: Pair.of(v) - a, SUM_BOUND),
        "*": (lambda v: v * a, lambda v: Pair.of(v) * a, PRODUCT_BOUND),
        "/": (lambda v: v / a, lambda v: Pair.of(v) / a, QUOTIENT_BOUND),
    }
    for value in (array, 3.0, 3, np.float64(0.1), np.full(6, 2)):
        for name, (operation, same, bound) in reflected.items():
            result = operation(value)
            assert isinstance(result, Pair), name
            assert result.shape == (6,)
            sizes = [abs(v) for v in exactly(same(value))]
            assert worst(result, exactly(same(value)), sizes) <= 2 * bound * HIGHER  # each is within the bound


def test_pair_negates_indexes_and_knows_its_shape():
    a = Pair(np.arange(6.0).reshape(2, 3), np.zeros((2, 3)))
    assert a.shape == (2, 3)
    assert a[1].shape == (3,)
    assert a[:, 2].hi.tolist() == [2.0, 5.0]
    assert exactly(-a) == [-v for v in exactly(a)]
    assert Pair.of(a) is a
    assert Pair.of(2).hi.dtype == np.float64


def test_where_and_ldexp_act_on_both_parts():
    a, b = Pair(np.array([1.0, 2.0]), np.array([2.0**-60, 2.0**-61])), Pair.of([3.0, 4.0])
    chosen = where(np.array([True, False]), a, b)
    assert chosen.hi.tolist() == [1.0, 4.0]
    assert chosen.lo.tolist() == [2.0**-60, 0.0]
    exponent = np.array([3, -500])
    assert exactly(ldexp(a, exponent)) == [v * Fraction(2) ** int(e) for v, e in zip(exactly(a), exponent, strict=True)]


# ----------------------------------------------------------------------------------------------- sums along an axis


def levels(count):
    return math.ceil(math.log2(count)) if count > 1 else 0


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 8, 33, 1000])
@pytest.mark.parametrize("as_pairs", [False, True])
def test_total_keeps_its_bound(count, as_pairs):
    """3u² ceil(log2 n) of the sum of |terms|: the terms cancel to 1e-16 of that and less."""
    rng = np.random.default_rng(count)
    terms = pairs(rng, 4 * count, -3, 20)
    hi, lo = (part.reshape(4, count) for part in (terms.hi, terms.lo))
    if count > 2:
        hi[:, -1] = -hi[:, :-1].sum(axis=1)
        lo[:, -1] = 0.0
    rows = Pair(hi, lo) if as_pairs else hi
    for sums in (total(rows), total(Pair(hi.T, lo.T) if as_pairs else hi.T, axis=0)):
        assert sums.shape == (4,)
        entries = [exactly(rows[n]) for n in range(4)]
        sizes = [sum(map(abs, row), Fraction(0)) for row in entries]
        assert worst(sums, [sum(row, Fraction(0)) for row in entries], sizes) <= 3 * levels(count) * HIGHER


@pytest.mark.parametrize("size", [1, 2, 7, 64, 513])
def test_dot_keeps_its_bound(size):
    """(5 + 3 ceil(log2 D)) u² of the sum of |a_i b_i|, whether the vectors are pairs or not."""
    rng = np.random.default_rng(size)
    a, b = pairs(rng, 3 * size), pairs(rng, 3 * size)
    a, b = (Pair(v.hi.reshape(3, size), v.lo.reshape(3, size)) for v in (a, b))
    a.hi[:, -1] = -(a.hi[:, :-1] * b.hi[:, :-1]).sum(axis=1) / b.hi[:, -1] if size > 1 else a.hi[:, -1]
    a.lo[:, -1] = 0.0
    for left, right in ((a, b), (a.hi, b), (a, b.hi), (a.hi, b.hi)):
        terms = [[p * q for p, q in zip(exactly(left[n]), exactly(right[n]), strict=True)] for n in range(3)]
        sizes = [sum(map(abs, row)) for row in terms]
        assert worst(dot(left, right), [sum(row) for row in terms], sizes) <= (5 + 3 * levels(size)) * HIGHER


# ------------------------------------------------------------------------------------------------ powers of two


def test_frexp_scales_every_entry():
    a = np.array([[3.0, -5e-324], [0.0, 1e308]])
    for mantissa, exponent in (frexp(a), frexp(Pair.of(a))):
        hi = mantissa.hi if isinstance(mantissa, Pair) else mantissa
        assert np.array_equal(np.ldexp(hi, exponent), a)
        assert ((np.abs(hi) >= 0.5) & (np.abs(hi) < 1.0) | (a == 0.0)).all()


def test_integers_are_the_numbers():
    for a in (np.array([0.1, -3.0, 0.0, 5e-324, 1.7e308]), np.array([[1.0, 1e-300]]), np.zeros(2)):
        numerators, exponent = integers(a)
        assert [Fraction(n) * Fraction(2) ** exponent for n in numerators.ravel()] == [
            Fraction(v) for v in a.ravel().tolist()
        ]


def test_scale_rows_is_exact():
    rng = np.random.default_rng(9)
    rows = np.ldexp(rng.standard_normal((50, 6)), rng.integers(-900, 900, (50, 1)) + rng.integers(-60, 60, (50, 6)))
    special = [
        [5e-324, 0.0, -1.5e-323],
        [0.0, -0.0, 0.0],
        [1.7e308, 1.0, -1.7e308],
        [2.0**-1022, 5e-324, 0.0],
        [1, -2, 0.5],
    ]
    rows = np.concatenate([rows, np.pad(special, ((0, 0), (0, 3)))])
    scaled, exponent = scale_rows(rows)
    assert exponent.dtype.kind == "i"
    assert exactly(rows) == [
        v * Fraction(2) ** int(e) for row, e in zip(scaled, exponent, strict=True) for v in exactly(row)
    ]
    largest = np.abs(scaled).max(axis=1)
    zero = ~rows.any(axis=1)
    assert ((largest[~zero] >= 0.5) & (largest[~zero] < 1.0)).all()
    assert (exponent[zero] == 0).all()


@pytest.mark.parametrize("size", [1, 3, 64, 513])
def test_direction_is_a_unit_row_and_a_length(size):
    """An entry: its low part left out (1u), the length rounded (1u), the division (1u).

    The length: half the error of the dot product, (5 + 3 ceil(log2 D)) u², and the square root's 4u².
    """
    rng = np.random.default_rng(size)
    rows = pairs(rng, 5 * size, -3, 3)
    rows = Pair(rows.hi.reshape(5, size), rows.lo.reshape(5, size))
    rows = ldexp(rows, np.array([0, 600, -600, 990, -960])[:, None])
    rows.hi[1], rows.lo[1] = 0.0, 0.0
    unit, length = direction(rows)
    allowed = (5 + 3 * levels(size)) / 2 + ROOT_BOUND
    with mp.workdps(80):
        for n in range(5):
            entries = [mpf(v.numerator) / v.denominator for v in exactly(rows[n])]
            true = mp.sqrt(mp.fsum(v * v for v in entries))
            assert abs(mpf(float(length.hi[n])) + mpf(float(length.lo[n])) - true) <= allowed * mpf(2) ** -106 * true
            for component, entry in zip(unit[n], entries, strict=True):
                share = entry / true if true else mpf(0)
                assert abs(mpf(float(component)) - share) <= 3 * mpf(2) ** -53 * abs(share) * (1 + mpf(2) ** -40)


@pytest.mark.parametrize("count", [1, 2, 7, 64, 1000])
def test_total_by_label_rounds_the_sum_of_each_label_once(count):
    """1u of the sum, and 3u² ceil(log2 n) of the sum of |terms|: `total`. Labels of any size beside each other."""
    rng = np.random.default_rng(count)
    labels = rng.choice([0, 3, 4, 11], count, p=[0.1, 0.2, 0.6, 0.1])
    rows = (
        numbers(rng, 3 * count).reshape(count, 3)
        * np.array([1e-200, 0, 0, 1.0, 1e200] + [0] * 6 + [1e-30])[labels][:, None]
    )
    rows[:, 2] = np.where(rng.integers(0, 2, count), rows[:, 2], -rows[0, 2])
    present, summed = total_by_label(rows, labels)
    assert present.tolist() == sorted(set(labels.tolist()))
    for label, sums in zip(present, summed, strict=True):
        mine = rows[labels == label]
        for column in range(3):
            terms = exactly(mine[:, column])
            allowed = U * abs(sum(terms)) + 3 * levels(len(terms)) * U**2 * sum(map(abs, terms))
            assert abs(Fraction(sums[column]) - sum(terms)) <= allowed * HIGHER


# ---------------------------------------------------------------------------------------------------- sine and cosine


def as_mpf(pair, index):
    return mpf(float(pair.hi[index])) + mpf(float(pair.lo[index]))


def test_sin_cos_keep_their_absolute_bound():
    rng = np.random.default_rng(10)
    steps = np.arange(-127, 128) * (math.pi / 4)
    hi = np.concatenate(
        [rng.uniform(-100.0, 100.0, 1500), rng.uniform(-4.0, 4.0, 1000), steps, np.nextafter(steps, 9.0)]
    )
    hi = np.concatenate([hi, 10.0 ** rng.uniform(-320.0, 0.0, 300), [0.0, 100.0, -100.0]])
    hi = hi[np.abs(hi) <= 100.0]
    angle = Pair(*two_sum(hi, rng.uniform(-0.5, 0.5, len(hi)) * np.spacing(np.abs(hi)) * rng.integers(0, 2, len(hi))))
    sine, cosine = sin_cos(angle)
    with mp.workdps(60):
        for n in range(len(hi)):
            assert abs(as_mpf(sine, n) - mp.sin(as_mpf(angle, n))) <= 16 * mpf(2) ** -106
            assert abs(as_mpf(cosine, n) - mp.cos(as_mpf(angle, n))) <= 16 * mpf(2) ** -106


def test_sine_next_to_a_multiple_of_pi_is_right_relative_to_itself():
    """With pi/2 to 160 bits, k pi is known to k 2^-159; beyond that the sine is right to all 53 bits of its high part.

    The pair nearest to k pi + d has a sine of its own, which is what counts: it can be smaller than u² by chance.
    """
    with mp.workdps(80):
        near = [k * mp.pi + sign * mpf(10) ** -e for k in range(-31, 32) for e in range(1, 34, 2) for sign in (1, -1)]
        hi = np.array([float(v) for v in near])
        lo = np.array([float(v - mpf(h)) for v, h in zip(near, hi.tolist(), strict=True)])
        angle = Pair(hi, lo)
        sine, _ = sin_cos(angle)
        for n in range(len(near)):
            true = mp.sin(as_mpf(angle, n))
            allowed = 2 * mpf(2) ** -53 * abs(true) + abs(near[n]) * mpf(2) ** -159
            assert abs(as_mpf(sine, n) - true) <= allowed


def test_pi_is_held_as_a_pair():
    with mp.workdps(60):
        assert abs(mpf(float(PI.hi)) + mpf(float(PI.lo)) - mp.pi) <= mp.pi * mpf(2) ** -107
    assert float(PI.hi) == math.pi
    assert error_free.u == float(U)


# ------------------------------------------------------------------------------------------ exponentials minus 1, tanh


def hyperbolic_arguments(rng, most):
    """Anywhere, tiny to subnormal, next to multiples of log(2) / 2, where the reduction of `expm1` changes over."""
    halves = np.arange(1, int(most / math.log(2.0) * 2.0)) * (math.log(2.0) / 2.0)
    hi = np.concatenate([
        rng.uniform(-most, most, 1000), rng.uniform(-2.0, 2.0, 500), 10.0 ** rng.uniform(-300.0, 0.0, 400),
        -(10.0 ** rng.uniform(-20.0, 0.0, 200)), halves, -halves, np.nextafter(halves, 0.0), [0.0, -0.0, 1e-307],
    ])  # fmt: skip
    lo = rng.uniform(-0.5, 0.5, len(hi)) * np.spacing(np.abs(hi)) * rng.integers(0, 2, len(hi))
    return Pair(*two_sum(hi, np.where(np.abs(hi) < 1e-290, 0.0, lo)))


def relative_errors(computed, a, function):
    """|computed - function(a)| / |function(a)| in units of u²; results below 1e-290 have no room for a low part."""
    with mp.workdps(420):
        out = []
        for n in range(len(a.hi)):
            true = function(as_mpf(a, n))
            error = abs(as_mpf(computed, n) - true)
            out.append(float(error / max(abs(true), mpf(2) ** -960) * mpf(2) ** 106))
    return np.array(out)


def test_expm1_is_right_relative_to_itself():
    """150u², next to 0 too, where exp(a) - 1 would have lost all."""
    a = hyperbolic_arguments(np.random.default_rng(21), 130.0)
    assert relative_errors(expm1(a), a, mp.expm1).max() < 150.0
    assert "below 150u²" in expm1.__doc__


@pytest.mark.parametrize("kind", [Pair, DoubleDouble])
def test_tanh_is_right_relative_to_itself(kind):
    """200u², next to 0, next to 1, and beyond 64, where it is 1 to more bits than a pair has."""
    a = hyperbolic_arguments(np.random.default_rng(22), 70.0)
    a = kind(a.hi, a.lo)
    computed = tanh(a)
    assert type(computed) is kind
    assert relative_errors(computed, a, mp.tanh).max() < 200.0
    assert "below 200u²" in tanh.__doc__


def test_tanh_far_out_and_of_both_signs():
    a = Pair.of([64.0, -64.0, 1e3, -1e300, 0.0])
    assert tanh(a).hi.tolist() == [1.0, -1.0, 1.0, -1.0, 0.0]
    assert relative_errors(tanh(a), Pair.of([64.0, -64.0, 700.0, -700.0, 0.0]), mp.tanh).max() < 1.0
    b = hyperbolic_arguments(np.random.default_rng(23), 3.0)
    assert np.array_equal(tanh(b).hi, -tanh(-b).hi)
    assert np.array_equal(tanh(b).lo, -tanh(-b).lo)


def test_log_2_is_held_as_a_pair():
    with mp.workdps(60):
        assert abs(mpf(float(LOG_2.hi)) + mpf(float(LOG_2.lo)) - mp.log(2)) <= mp.log(2) * mpf(2) ** -107


# ------------------------------------------------------------------------------- numbers beyond the range of float64


def true(scaled):
    """The numbers as rationals, in a list."""
    m = scaled.mantissa
    parts = (m.hi, m.lo) if isinstance(m, Pair) else (m, np.zeros_like(m))
    return [
        (Fraction(float(hi)) + Fraction(float(lo))) * Fraction(2) ** int(e)
        for hi, lo, e in zip(*map(np.ravel, (*parts, scaled.exponent)), strict=True)
    ]


def scaled_numbers(seed, shape=(40,), pairs_of=False):
    rng = np.random.default_rng(seed)
    hi = rng.uniform(-1.0, 1.0, shape)
    value = Pair(*two_sum(hi, hi * rng.uniform(-1.0, 1.0, shape) * 2.0**-54)) if pairs_of else hi
    return Scaled.of(value, rng.integers(-5000, 5000, shape)), value


@pytest.mark.parametrize("pairs_of", [False, True])
def test_scaled_numbers_compute_as_their_mantissas_do(pairs_of):
    """2u of an operation on arrays, 20u² of one on pairs; a sum relative to its terms, for of what is small bits go."""
    a, b = (scaled_numbers(seed, pairs_of=pairs_of)[0] for seed in (1, 2))
    b = where(np.arange(40) % 2 == 0, b, ldexp(b, a.exponent - b.exponent))  # and some that can be added to a
    roundoff = 20 * U**2 if pairs_of else 2 * U
    exact_a, exact_b = true(a), true(b)
    for result, operation in ((a * b, "*"), (a / b, "/"), (a + b, "+"), (a - b, "-"), (-a, "n"), (a.rounded(), "r")):
        for f, x, y in zip(true(result), exact_a, exact_b, strict=True):
            truth = {"*": x * y, "/": x / y, "+": x + y, "-": x - y, "n": -x, "r": x}[operation]
            size = abs(x) + abs(y) if operation in "+-" else abs(truth)
            limit = U if operation == "r" else roundoff
            assert abs(f - truth) <= limit * size
    assert ((np.abs(digits(a * b)) >= 0.5) & (np.abs(digits(a * b)) <= 1.0)).all()


@pytest.mark.parametrize("kind", [np.asarray, Pair.of], ids=["array", "Pair"])
def test_scaled_numbers_beside_others(kind):
    a, (other, numbers_) = ldexp(Scaled.of(np.array([0.5, 4.0])), 3000), (kind([2.0, 8.0]), [Fraction(2), Fraction(8)])
    x = true(a)
    for result, truth in (
        (other * a, [p * q for p, q in zip(x, numbers_, strict=True)]),
        (other / a, [q / p for p, q in zip(x, numbers_, strict=True)]),
        (ldexp(a, -3000) + other, [Fraction(5, 2), Fraction(12)]),
        (other + ldexp(a, -3000), [Fraction(5, 2), Fraction(12)]),
        (other - ldexp(a, -3000), [Fraction(3, 2), Fraction(4)]),
    ):
        assert isinstance(result, Scaled)
        assert true(result) == truth


def test_scaled_numbers_that_are_0_or_not_finite():
    a = Scaled.of([0.0, np.inf, -np.inf, np.nan, 5e-324], 10)
    assert a.exponent.tolist() == [ZERO, 0, 0, 0, -1073 + 10]
    assert np.array_equal(np.asarray(a), [0.0, np.inf, -np.inf, np.nan, 1024 * 5e-324], equal_nan=True)
    assert np.array_equal(
        (a + ldexp(Scaled.of(1.0), 5000)).mantissa, [0.5, np.inf, -np.inf, np.nan, 0.5], equal_nan=True
    )
    assert np.array_equal((a * a).hi, [0.0, np.inf, np.inf, np.nan, 0.0], equal_nan=True)
    assert true((a * a)[-1:]) == [Fraction(1024 * 5e-324) ** 2]


def test_scaled_numbers_are_arrays_in_the_rest():
    a, values = scaled_numbers(3, (4, 3))
    rows = a.copy()
    rows[1] = 2.0
    rows[2] = np.array([3.0, 0.0, -1.0])
    assert np.asarray(rows[1:3]).tolist() == [[2.0] * 3, [3.0, 0.0, -1.0]]
    assert true(rows[3]) == true(a[3])
    assert a.shape == (4, 3)
    assert len(a) == 4
    assert true(a.T) == true(a[:, [0]]) + true(a[:, [1]]) + true(a[:, [2]])
    assert true(spread(a[0], (2, 3))) == 2 * true(a[0])
    pair = Scaled.of(Pair(values, values * 2.0**-60), a.exponent)
    assert true(high(pair)) == true(Scaled.of(values, a.exponent))
    assert plain(values) is values
    assert np.array_equal(plain(Scaled.of(pair.mantissa)).lo, pair.mantissa.lo)
    assert np.asarray(rows[1], np.float32).dtype == np.float32


@pytest.mark.parametrize("pairs_of", [False, True])
def test_sums_and_products_of_scaled_numbers(pairs_of):
    """To a power of two of the whole sum, the sums of what was scaled by that: the same bits."""
    a, value = scaled_numbers(4, (5, 6), pairs_of)
    a = Scaled.of(value, a.exponent[:, :1])
    b = np.random.default_rng(5).uniform(-1.0, 1.0, (3, 6))
    power = np.ravel(np.broadcast_to(a.exponent.max(axis=1), 5))
    for result, plainly in (
        (total(a), total(value)),
        (rounded_total(a), rounded_total(value)),
        (matmul(a, b), matmul(value, b)),
        (matmul(b, a).T, matmul(b, value).T),
    ):
        shifts = (a.exponent[:, 0] - Scaled.of(value).exponent[:, 0]).reshape(-1, *[1] * (len(result.shape) - 1))
        assert true(result) == true(Scaled.of(plainly, shifts))
    assert power.shape == (5,)
    labels = np.array([2, 0, 2, 0, 7])
    present, summed = total_by_label(a, labels)
    assert present.tolist() == [0, 2, 7]
    for label, row in zip(present, summed, strict=True):
        rows = [true(a[n]) for n in np.flatnonzero(labels == label)]
        size = max(abs(number) for row_ in rows for number in row_)
        for entry, terms in zip(true(row), zip(*rows, strict=True), strict=True):
            assert abs(entry - sum(terms)) <= 2 * U * size
    scaled, exponent = scale_rows(a)
    assert true(Scaled.of(scaled, exponent[:, None])) == true(a)
    assert scale_rows(Scaled.of(np.zeros((1, 2))))[1].tolist() == [0]


def test_log1p_of_scaled_numbers():
    a = Scaled.of(Pair.of(np.array([0.75, 0.75, 0.75, 0.0])), np.array([0, -190, -3000, 0]))
    logarithms = a.log1p()
    assert true(logarithms)[1:] == [Fraction(3, 4) / 2**190, Fraction(3, 4) / 2**3000, 0]
    assert np.asarray(logarithms)[0] == np.log1p(0.75)


def test_where_float64_is_enough():
    a = np.array([1.0, 0.0, np.inf, np.nan, -4.0])
    assert in_range(a, 2)
    assert not in_range(a, 1)
    assert not in_range(np.array([0.2]), 2)
    assert not in_range(Scaled.of(a), 2)
    for exponent, type_ in ((200, np.ndarray), (-200, np.ndarray), (ZERO, np.ndarray), (201, Scaled), (-201, Scaled)):
        shifted = shift(np.array([1.0]), np.array([exponent]))
        assert isinstance(shifted, type_)
        assert np.asarray(shifted) == (0.0 if exponent == ZERO else 2.0**exponent)
