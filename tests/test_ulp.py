"""Units in the last place against rationals, in every format."""

import re
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from refloss import ulp
from refloss.ulp import ulp_error
from support.odd_values import contains_itself


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ulp_error_counts_representable_numbers(dtype):
    one = dtype(1.0)
    up, down = np.nextafter(one, dtype(2.0)), np.nextafter(one, dtype(0.0))
    assert ulp_error(up, 1.0) == 1.0
    assert ulp_error(down, 1.0) == 0.5  # the unit at 1 is that of the numbers above it
    assert ulp_error(one, down.astype(np.float64)) == 1.0
    assert ulp_error(-one, [1.0, -1.0]).tolist() == [2.0 / np.finfo(dtype).eps, 0.0]
    tiny = np.finfo(dtype).smallest_subnormal
    assert ulp_error(3 * tiny, 0.0) == 3.0
    assert ulp_error(dtype(0.0), float(tiny) / 2.0 if dtype is not np.float64 else Fraction(float(tiny)) / 2) == 0.5


def test_ulp_error_of_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert ulp_error(np.array([1.0078125, 1.0], ml_dtypes.bfloat16), [1.0, 1.001953125]).tolist() == [1.0, 0.25]


def test_ulp_error_takes_truths_that_float64_cannot_hold():
    third = float(Fraction(1, 3))
    assert ulp_error(third, Fraction(1, 3)) == pytest.approx(1.0 / 3.0, rel=1e-12)
    exact = [abs(Fraction(v) - Fraction(s)) * 2**e for v, s, e in ((0.1, "0.1", 56), (0.2, "0.2", 55))]
    assert ulp_error([0.1, 0.2], ["0.1", "0.2"]).tolist() == [float(v) for v in exact]
    assert ulp_error(np.float64(2.0), "1." + "9" * 40) == pytest.approx(1e-40 * 2.0**52)  # the unit below 2
    assert ulp_error(0.0, "1e-400") == pytest.approx(float(Fraction(1, 10**400) * 2**1074))


def test_ulp_error_of_what_is_not_finite():
    errors = ulp_error([np.nan, np.nan, 1.0, np.inf, np.inf, -np.inf], [np.nan, 1.0, np.nan, np.inf, 1e300, np.inf])
    assert errors.tolist() == [0.0, np.inf, np.inf, 0.0, np.inf, np.inf]
    assert ulp_error(1e300, 0.0) == np.inf
    assert ulp_error(np.float64(np.inf), "inf") == 0.0


FAR = "434294481903251836286911761062"  # log10 of e to the power of 1e30
BEYOND = ["1e3000000", f"1E+{FAR}", Decimal("1E+3000000"), Fraction(10) ** 400, 10**400, 2**1024 - 2**970]
BELOW = ["1e-3000000", f"1E-{FAR}", Decimal("1E-3000000"), Fraction(1, 10**400000)]


def negated(truth):
    return f"-{truth}" if isinstance(truth, str) else truth.copy_negate() if isinstance(truth, Decimal) else -truth


@pytest.mark.parametrize("truth", BEYOND, ids=lambda truth: f"{type(truth).__name__}")
def test_ulp_error_of_truths_beyond_float64(truth):
    negative = negated(truth)
    assert ulp_error([np.inf, -np.inf, 1.0, np.nan], truth).tolist() == [0.0, np.inf, np.inf, np.inf]
    assert ulp_error([np.inf, -np.inf, 1.0], negative).tolist() == [np.inf, 0.0, np.inf]
    assert isinstance(ulp._exact(truth), float)  # and no integer of three million digits


@pytest.mark.parametrize("truth", BELOW, ids=lambda truth: f"{type(truth).__name__}")
def test_ulp_error_of_truths_below_float64(truth):
    negative = negated(truth)
    for each in (truth, negative):
        assert ulp_error([0.0, 5e-324, 1e-308, np.inf], each).tolist() == [0.0, 1.0, 1e-308 / 5e-324, np.inf]
        assert ulp._exact(each).denominator.bit_length() < 6000
    assert ulp._exact(negative) < 0 < ulp._exact(truth)


def test_ulp_error_of_zeros():
    for zero in ("0", "-0.0", "0e9999999999999999999", Decimal("0E-3000000"), Fraction(0), 0):
        assert ulp_error([0.0, -0.0, -1e-323], [zero] * 3).tolist() == [0.0, 0.0, 2.0]


@pytest.mark.parametrize(("dtype", "largest"), [(np.float16, 65504), (np.float32, 2**128 - 2**104)])
def test_an_infinity_is_right_where_the_dtype_rounds_to_it(dtype, largest):
    limit = float(Fraction(largest) + (largest - int(np.nextafter(dtype(largest), dtype(0.0)))) / 2)
    below = np.nextafter(limit, 0.0)
    with np.errstate(over="ignore"):
        assert np.array([below, limit]).astype(dtype).tolist() == [largest, np.inf]
    assert ulp_error(np.array([np.inf, -np.inf, largest], dtype), limit).tolist() == [0.0, np.inf, 0.5]
    assert ulp_error(np.array([np.inf, -np.inf], dtype), [below, -below]).tolist() == [np.inf, np.inf]
    assert ulp_error(np.inf, [2**1024 - 2**970, 2**1024 - 2**970 - 1]).tolist() == [0.0, np.inf]
    assert ulp_error(sys.float_info.max, 2**1024 - 2**970 - 1) == pytest.approx(0.5)


def test_ulp_error_takes_every_truth_as_exact():
    assert ulp_error([0.1, 0.1, 0.1], ["0.1", 0.1, Fraction(1, 10)]).tolist() == [0.4, 0.0, 0.4]
    assert ulp_error([2.0**53, 0.5], [2**53 + 1, 0.5]).tolist() == [0.5, 0.0]  # NumPy would round the integer
    assert ulp_error(2.0**64, np.array(2**64 - 1, np.uint64)) == 2.0**-11
    assert ulp_error([1.0, 1.0], [np.int8(1), np.float32(1.5)]).tolist() == [0.0, 2.0**51]
    assert ulp_error(1.0, "1." + "0" * 5000 + "1") == 0.0
    assert ulp_error(np.nan, Decimal("sNaN")) == ulp_error(-np.inf, Decimal("-Infinity")) == 0.0
    third = np.longdouble(1.0) / 3
    exact = Fraction(*third.as_integer_ratio())
    assert (
        ulp_error(1.0 / 3.0, [third, np.array([third])[0]]).tolist()
        == [float(abs(Fraction(1 / 3) - exact) * 2**54)] * 2
    )
    special = np.array(["nan", "inf", "-inf", "1"], np.longdouble)
    assert ulp_error([np.nan, np.inf, np.inf, 1.0], special).tolist() == [0.0, 0.0, np.inf, 0.0]


def test_ulp_error_takes_truths_of_bfloat16():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    assert ulp_error(bfloat16(1.0), [bfloat16(1.0), bfloat16(1.5)]).tolist() == [0.0, 64.0]
    assert ulp_error(1.0, np.array([1.0, np.nan], bfloat16)).tolist() == [0.0, np.inf]


class Nothing:
    """Always shown the same, since workers of a test run compare the names of tests."""

    def __repr__(self):
        return "nothing"


NOTHING = Nothing()


@pytest.mark.parametrize(
    ("result", "truth", "kind", "message"),
    [
        (3, 3.0, TypeError, "result must hold numbers of float16, bfloat16, float32, float64; got int64"),
        (np.longdouble(3), 3.0, TypeError, "result must hold numbers of .*; got "),
        ([1.0, [2.0]], 3.0, TypeError, "result must be a number, or an array or a list of numbers; got "),
        (contains_itself(), 3.0, TypeError, "result must be a number, .*; got list: it contains itself"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], ValueError, r"truth must have a shape that fits result's \(2,\); got \(3,\)"),
        (1.0, np.zeros((1,) * 40), ValueError, r"truth must have a shape that fits result's \(\); got \(1, 1"),
        (1.0, contains_itself(), TypeError, "truth must be a number, .*; got list: it contains itself"),
        (1.0, [1.0, [2.0]], TypeError, r"truth must hold real numbers, or decimals as strings; got \[2.0\]"),
        *[
            (1.0, odd, TypeError, f"truth must hold real numbers, or decimals as strings; got {re.escape(repr(odd))}")
            for odd in (None, True, 1j, b"1", NOTHING, float, {})
        ],
        (1.0, np.True_, TypeError, "truth must hold real numbers, or decimals as strings; got True"),
        *[
            (1.0, odd, ValueError, f"truth must hold decimals where it holds strings, .*; got '{odd[:50]}")
            for odd in ("abc", "", "1e", "e5", "1/3", "1e5e6", "0x10", "1e" + "9" * 5000)
        ],
    ],
)
def test_ulp_error_refuses_what_it_cannot_measure(result, truth, kind, message):
    with pytest.raises(kind, match=message):
        ulp_error(result, truth)


def test_ulp_error_broadcasts():
    assert ulp_error(np.ones((2, 1)), np.array([1.0, 2.0, 0.5])).shape == (2, 3)
