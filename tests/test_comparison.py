"""How a check compares: entry by entry with the truth, twice, by any standard, and what it expects and notes."""

from __future__ import annotations

import math
from unittest import SkipTest

import numpy as np
import pytest

import refloss
from refloss.testing import (
    Case,
    assert_close,
    assert_conforms,
    budgets,
    check,
    comparison,
    conformance,
    conforms,
    options,
)
from refloss.testing.adapters import Found
from refloss.testing.comparison import compare
from refloss.testing.expected import ExpectedFailures
from refloss.testing.hard_cases import GROUPS
from refloss.testing.judge import Judge
from refloss.testing.options import some_names
from refloss.testing.report import ENDS, Quantity, Result, refused

CE, INF, NAN = refloss.CrossEntropy(), math.inf, math.nan
Z, Y = np.array([[0.5, -1.0, 0.25], [2.0, 0.0, 0.5]]), np.array([0, 2])
CASE = Case("ordinary-own-2x3x1", "ordinary", ("own",), "by hand", (Z, Y))


def exact(loss=CE, change=lambda value, *grad: (value, *grad)):
    """The loss itself in float64, its results changed."""

    def fn(*inputs):
        inputs = [a if a.dtype.kind in "iu" else a.astype(np.float64) for a in map(np.asarray, inputs)]
        value, grad = loss.value_and_grad(*inputs, engine="dd")
        return change(np.asarray(value), *(part for part in grad if part is not None))

    return fn


def same(one, other):
    """Equality of tuples of numbers, where NaN is like NaN."""
    return all(a == b or (a != a and b != b) for a, b in zip(one, other, strict=True))  # noqa: PLR0124


def quantity(name="value", decided=1, undecided=0, complaint="", over=0):
    return Quantity(name, 0.5, (0,), 1.0, 1.0, 0.1, decided, undecided, complaint, over)


BAD = (quantity(over=1),)


def test_an_array_is_compared_entry_by_entry():
    got, true = np.array([[1.0, -2.5], [0.25, 0.0]]), [[1.0, -2.0], [0.0, 0.0]]
    allowed = np.array([[0.1, 0.25], [0.5, 0.0]])
    quantity = compare("dx", got, true, allowed)
    assert quantity == Quantity("dx", 2.0, (0, 1), -2.5, -2.0, 0.25, 4, 0, "", 1)
    assert not quantity.passed
    assert str(quantity) == "dx[0, 1]: got -2.5, expected -2, off by 0.5, allowed 0.25: 2 times"
    below = compare("dx", got, true, allowed, floor=0.1)
    assert (below.decided, below.undecided, below.over) == (3, 1, 1)
    assert compare("dx", got, true, allowed, floor=0.5).decided == 4


def test_an_error_of_a_whole_budget_passes_and_a_budget_of_a_whole_row_decides_nothing():
    quantity = compare("dx", np.array([[1.5, 4.0]]), [[1.0, 4.0]], np.array([[0.5, 4.0]]))
    assert quantity == Quantity("dx", 1.0, (0, 0), 1.5, 1.0, 0.5, 1, 1, "", 0)
    assert quantity.passed
    assert compare("dx", np.array([[1.5, 4.0]]), [[1.0, 4.0]], np.array([[0.49, 3.9]])).over == 1


def test_the_size_of_a_row_is_that_of_its_largest_finite_number():
    quantity = compare("dx", np.array([[INF, 1.0], [0.0, 8.0]]), [[INF, 1.0], [0.0, 8.0]], np.full((2, 2), 2.0))
    assert (quantity.decided, quantity.undecided) == (3, 1)
    assert compare("dx", np.array([INF, 0.25]), [INF, 0.25], 0.5).undecided == 1
    rows = compare("value", np.array([4.0, 0.125]), [4.0, 0.125], np.ones(2))
    assert (rows.decided, rows.undecided) == (2, 0)
    one = compare("value", np.asarray(-1.5), -2.0, 1.0)
    assert one == Quantity("value", 0.5, (), -1.5, -2.0, 1.0, 1, 0, "", 0)


def test_a_budget_that_is_no_number_allows_nothing():
    assert compare("value", np.asarray(2.0), 2.0, NAN) == Quantity("value", 0.0, (), 2.0, 2.0, 0.0, 1, 0, "", 0)
    assert compare("value", np.asarray(2.5), 2.0, NAN) == Quantity("value", INF, (), 2.5, 2.0, 0.0, 1, 0, "", 1)


def test_where_there_is_no_number_that_is_expected():
    nan = compare("value", np.asarray(NAN), NAN, 1.0)
    assert (nan.share, nan.decided, nan.undecided, nan.over, nan.complaint) == (0.0, 1, 0, 0, "")
    wrong = compare("value", np.asarray(1.0), NAN, 1.0)
    assert (wrong.share, wrong.decided, wrong.over) == (INF, 0, 1)
    assert wrong.complaint == "1 of 1 are not NaN, as they have to be"
    assert compare("value", np.asarray(INF), INF, 1.0).passed
    assert compare("value", np.asarray(-INF), INF, 1.0).complaint == "1 of 1 are not infinite, as they have to be"
    both = compare("value", np.array([1.0, 2.0, 3.0]), [INF, NAN, 3.0], 1.0)
    assert (both.over, both.complaint) == (2, "2 of 3 are not NaN, as they have to be")
    assert compare("value", np.array([INF, 2.0]), [INF, NAN], 1.0).over == 1
    one = compare("value", np.array([2.0, NAN]), [INF, NAN], 1.0)
    assert one.complaint == "1 of 2 are not infinite, as they have to be"
    first = compare("dx", np.array([NAN, 2.0, 3.0]), [1.0, NAN, 3.0], 1.0)
    assert (first.over, first.complaint) == (2, "1 of 3 are NaN or infinite")
    assert compare("dx", np.array([NAN, 3.0]), [1.0, 3.0], 1.0).share == INF


def test_the_mean_of_nothing_is_nan_or_0():
    for got in (NAN, 0.0):
        quantity = compare("value", np.asarray(got), NAN, 1.0, nothing=True)
        assert quantity.passed
        assert (quantity.share, quantity.decided) == (0.0, 1)
    wrong = compare("value", np.asarray(5.0), NAN, 1.0, nothing=True)
    assert wrong.complaint == "1 of 1 are not NaN or 0, as they have to be"
    zeros = compare("dx", np.array([NAN, 0.0, 1e-3]), [0.0, 0.0, 0.0], 0.0, nothing=True)
    assert (zeros.over, zeros.share, zeros.where, zeros.complaint) == (1, INF, (2,), "")
    assert compare("value", np.asarray(0.0), NAN, 1.0).over == 1
    assert compare("dx", np.array([NAN]), [0.0], 0.0, nothing=True).share == 0.0


def test_arrays_of_another_shape_and_of_none():
    turned = compare("dw", np.ones((2, 3)), np.ones((3, 2)), 1.0)
    assert turned.complaint == "shape (2, 3), expected (3, 2): transposed?"
    assert same(turned[:8], ("dw", INF, (), NAN, NAN, NAN, 0, 0))
    assert compare("dw", np.ones((2, 3)), np.ones((2, 4)), 1.0).complaint == "shape (2, 3), expected (2, 4)"
    empty = compare("dw", np.ones((2, 0)), np.ones((2, 0)), 1.0)
    assert same(empty, ("dw", 0.0, (), NAN, NAN, NAN, 0, 0, "", 0))


def test_all_zero_is_said_of_gradients_with_an_entry_over_its_budget():
    assert compare("dx", np.zeros(2), [1.0, 0.0], 0.5).complaint == "all zero"
    assert compare("dx", np.zeros(2), [1.0, 0.0], 1.0).complaint == ""
    assert compare("value", np.zeros(()), 1.0, 0.5).complaint == ""
    assert compare("dx", np.array([0.0, 0.1]), [1.0, 0.0], 0.5).complaint == ""


def test_shares_of_budgets():
    off, limit = np.array([0.0, 1.0, NAN, INF, 3.0, 0.0]), np.array([0.0, 0.0, 1.0, INF, 2.0, NAN])
    assert comparison.shares_of(off, limit).tolist() == [0.0, INF, INF, INF, 1.5, 0.0]


def test_numbers_are_all_that_is_asked_where_there_is_no_truth():
    assert same(comparison.finite("dx", np.array([1.0, 2.0])), ("dx", 0.0, (), NAN, NAN, NAN, 2, 0, "", 0))
    wrong = comparison.finite("dx", np.array([1.0, NAN, -INF]))
    assert same(wrong, ("dx", INF, (), NAN, NAN, NAN, 0, 0, "2 of 3 are NaN or infinite", 0))


class Pair:
    """A judge that says how far two results are apart."""

    def __init__(self, off, share):
        self.both = off, share

    def difference(self, case, first, again):
        assert (case, first, again) == (CASE, "first", "again")
        return self.both

    def overwritten(self, case, again):
        return (refused("y", "was written into"),) if again == "writing" else ()


@pytest.mark.parametrize(
    ("off", "share", "note", "complaint"),
    [
        (0.0, 0.0, "", ""),
        (0.125, 1.0, "two calls on the same inputs differ by 0.12: results are not deterministic", ""),
        (
            0.125,
            1.25,
            "two calls on the same inputs differ by 0.12: results are not deterministic",
            "two calls on the same inputs differ by 1.25 times what is allowed",
        ),
    ],
)
def test_what_differs_from_call_to_call_is_noted_and_fails_beyond_its_budget(off, share, note, complaint):
    first = Result(CASE, (), "first", "", "")
    result, notes = conformance._twice(lambda case: "again", first, Pair(off, share))
    assert notes == ([note] if note else [])
    assert [(q.name, q.complaint) for q in result.quantities] == ([("value", complaint)] if complaint else [])


def test_what_a_second_call_writes_into_is_said_once():
    judge = Pair(0.0, 0.0)
    judge.difference = lambda *results: (0.0, 0.0)
    first = Result(CASE, (quantity(),), "first", "", "")
    result, _ = conformance._twice(lambda case: "writing", first, judge)
    assert result.quantities == (quantity(), *judge.overwritten(CASE, "writing"))
    again = result._replace(found="writing")  # the first call did so already
    assert conformance._twice(lambda case: "writing", again, judge)[0] == again


def test_what_a_second_call_raises_fails():
    def run(case):
        raise RuntimeError("gone")

    result, notes = conformance._twice(run, Result(CASE, (), "first", "", ""), Pair(0.0, 0.0))
    assert [str(quantity) for quantity in result.quantities] == [
        "value: a second call on the same inputs raised RuntimeError: gone"
    ]
    assert notes == []
    refused = Result(CASE, (), None, "ValueError: no", "")
    assert conformance._twice(run, refused, Pair(1.0, 1.0)) == (refused, [])


def test_whatever_code_raises_is_its_result():
    def raising(error):
        def run(case):
            raise error

        return conformance._tried(run, CASE)

    assert conformance._tried(lambda case: ("found", case), CASE) == (("found", CASE), "")
    assert raising(ValueError("no")) == (None, "ValueError: no")
    for error in (SystemExit(0), KeyboardInterrupt(), GeneratorExit(), SkipTest("later")):
        result, said = raising(error)
        assert result is None
        assert said.endswith(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
        assert said.startswith(ENDS) != isinstance(error, Exception)


def judge_of(loss=CE, dtype="float32", wanted=("z",), writable=(), standard="working"):
    return Judge(loss, dtype, standard, None, None, wanted, writable)


def found_of(value=1.0, grad=None, **more):
    value = np.asarray(value, dtype=np.float64)
    return Found(value, None if grad is None else tuple(grad), np.ones(value.shape), **more)


def test_how_far_two_results_are_apart():
    judge = judge_of()
    allowed, bound = budgets.bounds(CE, CASE.inputs, judge.arithmetic, np.ones(()))
    grad = np.ones((2, 3))
    one = found_of(1.0, [grad])
    assert judge.difference(CASE, one, one) == (0.0, 0.0)
    other = grad.copy()
    other[1, 2] += 4.0 * bound["z"][1, 2]
    off, share = judge.difference(CASE, one, found_of(1.0 + allowed, [other]))
    assert off == max(abs(other[1, 2] - 1.0), (1.0 + allowed) - 1.0)
    assert share == pytest.approx(4.0, rel=1e-6)
    assert judge.difference(CASE, one, found_of(1.0 - 2.0 * allowed, [grad]))[1] == pytest.approx(2.0, rel=1e-6)
    assert judge.difference(CASE, one, found_of(1.0, [grad[:1]])) == (INF, INF)
    assert judge.difference(CASE, one, found_of(NAN, [grad])) == (INF, INF)
    assert judge.difference(CASE, found_of(NAN), found_of(NAN)) == (0.0, 0.0)
    assert judge.difference(CASE, found_of(1.0, [None]), found_of(1.0, [None])) == (0.0, 0.0)
    assert judge.difference(CASE, found_of(1.0, [None]), found_of(1.0, [grad])) == (INF, INF)
    assert judge.difference(CASE, found_of(1.0), found_of(1.0, [grad])) == (INF, INF)
    assert judge.difference(CASE, found_of([1.0, 2.0]), found_of([1.0, 2.5])) == (0.5, 0.0)
    assert judge.difference(CASE, found_of(1.0, [grad[:1]]), found_of(1.0, [2.0 * grad[:1]])) == (0.0, 0.0)
    partly = np.array([NAN, 1.0, INF]), np.array([NAN, 1.25, INF])
    assert judge.difference(CASE, found_of(INF), found_of(1.0)) == (INF, INF)
    none = CASE._replace(accepts=("refusal", "finite"))
    assert judge.difference(none, *map(found_of, partly)) == (0.25, 0.0)
    assert judge.difference(none, found_of(1.0, [grad]), found_of(1.0, [grad + 0.5])) == (0.5, 0.0)
    four = [found_of(1.0, [grad + more])._replace(upstream=np.asarray(4.0)) for more in (0.0, 4.0 * bound["z"])]
    assert judge.difference(CASE, *four)[1] == pytest.approx(1.0, rel=1e-3)
    linear = refloss.SoftmaxLoss()
    case = Case("a-3x3x3", "ordinary", (), "", (np.eye(3), np.eye(3), np.arange(3)))
    judge = judge_of(linear, wanted=("x", "w"))
    _, bound = budgets.bounds(linear, case.inputs, judge.arithmetic)
    two = [found_of(1.0, [None, np.eye(3) + more]) for more in (0.0, 2.0 * bound["w"])]
    assert judge.difference(case, *two)[1] == pytest.approx(2.0, rel=1e-6)


def test_what_a_check_looks_at_follows_from_inputs_and_settings():
    linear = refloss.SoftmaxLoss()
    judge = judge_of(linear, wanted=("x", "b"))
    short, long = (Case("a", "ordinary", (), "", (0,) * count) for count in (3, 4))
    assert judge.fields(short) == ("x", "w")
    assert judge.fields(long) == ("x", "w", "b")
    assert judge.names([short]) == ("value", "dx")
    assert judge.names([short, long]) == ("value", "dx", "db")
    none = long._replace(accepts=("refusal", "finite"))
    assert judge.names([short, none]) == ("value", "dx", "db")
    assert judge.names([none]) == ("value", "dx", "db")
    assert judge_of(refloss.Triplet(), wanted=("anchor",)).names([short]) == ("value", "danchor")


def test_written_inputs_are_named_by_their_place():
    linear = refloss.SoftmaxLoss()
    inputs = (np.eye(3), np.eye(3), np.arange(3), np.zeros(3))
    case = Case("a-3x3x3", "ordinary", (), "", inputs, ("finite",))
    judge = judge_of(linear, wanted=("x", "w", "b"), writable=("w",))
    found = found_of(1.0, [np.ones(2), None, np.array([NAN])], changed=(0, 1, 2, 3))
    said = [(quantity.name, quantity.complaint) for quantity in judge.quantities(case, found)]
    text = "is not what it was before the call: the code writes into its input"
    assert said == [
        ("value", ""), ("dx", ""), ("db", "1 of 1 are NaN or infinite"), ("x", text), ("y", text), ("b", text)
    ]  # fmt: skip
    triplet = judge_of(refloss.Triplet(), wanted=("anchor",))
    said = triplet.quantities(case, found_of(1.0, changed=(2,)))
    assert [quantity.name for quantity in said] == ["value", "negative"]


def test_gradients_that_are_missing_are_refused_by_name():
    judge = judge_of(refloss.SoftmaxLoss(), wanted=("x", "w"))
    inputs = (np.eye(3), np.eye(3), np.arange(3))
    case = Case("a-3x3x3", "ordinary", (), "", inputs)
    value, grad = refloss.SoftmaxLoss().value_and_grad(*inputs)
    quantities = judge.compared(case, found_of(value, [grad.x, None]), judge.arithmetic)
    assert [(quantity.name, quantity.complaint) for quantity in quantities] == [
        ("value", ""), ("dx", ""), ("dw", "was not returned")
    ]  # fmt: skip
    quantities = judge.compared(case, found_of(value), judge.arithmetic)
    assert [quantity.name for quantity in quantities] == ["value"]
    (quantities,) = judge.compared(case, found_of([value] * 3), judge.arithmetic)
    assert quantities.name == "value"
    assert quantities.complaint == "shape (3,), expected (): is reduction='none' on one side only?"
    with_none = Result(case, (), found_of(value), "", "")
    with_both = Result(case, (), found_of(value, [grad.x, grad.w]), "", "")
    raised = Result(case, (), None, "ValueError: no", "")
    nothing = with_none._replace(case=case._replace(inputs=(*inputs[:2], np.full(3, -100))))
    first, *others = judge.with_missing_gradients([with_none, with_both, raised, nothing])
    text = "was not returned, as it was in other cases"
    assert [(quantity.name, quantity.complaint) for quantity in first.quantities] == [("dx", text), ("dw", text)]
    assert others == [with_both, raised, nothing]
    assert judge.with_missing_gradients([with_none, raised]) == [with_none, raised]


def test_a_value_of_another_shape_of_the_same_rank_gets_no_hint():
    judge = judge_of(refloss.CrossEntropy(reduction="none"))
    (quantities,) = judge.compared(CASE, found_of(np.ones(3)), judge.arithmetic)
    assert quantities.complaint == "shape (3,), expected (2,)"
    assert judge._shape(CASE) == (2,)
    assert judge._shape(CASE._replace(inputs=(np.zeros((2, 4, 3)), np.zeros((2, 4), int)))) == (2, 4)
    value = refloss.CrossEntropy(reduction="none")(Z, Y)
    assert all(quantity.passed for quantity in judge.compared(CASE, found_of(value), judge.arithmetic))
    assert judge_of()._shape(CASE) == ()
    assert judge_of(refloss.Triplet(reduction="none"))._shape(CASE) == (2,)


def test_results_are_compared_with_the_truth_of_their_case_and_upstream_gradient():
    judge = judge_of()
    other = CASE._replace(inputs=(2.0 * Z, Y))
    for case in (CASE, other):
        value, (dz,) = _true(case)
        _, bound = budgets.bounds(CE, case.inputs, judge.arithmetic, 4.0)
        found = found_of(value, [4.0 * dz + 0.9 * bound["z"]])._replace(upstream=np.asarray(4.0))
        quantities = judge.compared(case, found, judge.arithmetic)
        assert [(quantity.name, quantity.passed) for quantity in quantities] == [("value", True), ("dz", True)]
        assert quantities[1].share == pytest.approx(0.9, rel=1e-2)
    wide = Judge(CE, "float32", "stable", "float64", "tf32", ("z",), ())
    assert wide.arithmetic == budgets.arithmetic("float32", "float64", "tf32", "stable")
    assert wide.standards == {
        name: budgets.arithmetic("float32", "float64", "tf32", name) for name in ("working", "stable", "relative")
    }


def test_of_the_mean_of_nothing_gradients_may_be_nan_too():
    judge = judge_of()
    none = CASE._replace(inputs=(Z, np.full(2, -100)))
    for value, grad in ((0.0, NAN), (NAN, 0.0), (NAN, NAN), (0.0, 0.0)):
        assert all(quantity.passed for quantity in judge.compared(none, found_of(value, [grad * Z]), judge.arithmetic))
    quantities = judge.compared(none, found_of(1.0, [1e-3 * Z]), judge.arithmetic)
    assert not any(quantity.passed for quantity in quantities)
    assert not judge.compared(CASE, found_of(NAN, [NAN * Z]), judge.arithmetic)[1].passed


def test_zeros_of_labelled_losses_are_known_whatever_their_budget():
    judge = judge_of()
    one = CASE._replace(inputs=(np.array([[5.0]]), np.array([0])))
    quantities = judge.compared(one, found_of(0.0, [np.zeros((1, 1))]), judge.arithmetic)
    assert [quantity.decided for quantity in quantities] == [1, 1]
    assert quantities[1].allowed > 1e-8


def test_zeros_of_triplets_count_as_known_only_where_the_budget_is_tiny():
    loss = refloss.Triplet()
    judge = judge_of(loss, wanted=("anchor", "positive", "negative"))
    a = np.zeros((1, 2))
    for far, undecided in ((9.0, 0), (1.0, 8)):  # the margin is kept; it is 1 and the dtype cannot tell
        case = Case("a-1x1x2", "ordinary", (), "", (a, a, np.array([[far, 0.0]])))
        loss = refloss.Triplet(m=1.0)
        judge = judge_of(loss, wanted=("anchor", "positive", "negative"))
        value, grad = loss.value_and_grad(*case.inputs)
        quantities = judge.compared(case, found_of(value, grad), judge.arithmetic)
        assert sum(quantity.undecided for quantity in quantities) == (0 if undecided == 0 else 5), quantities


def test_the_strictest_standard_that_all_results_meet():
    report = check(exact(), CE, cases=[CASE])
    assert (report.state, report.meets) == ("conforms", "relative")
    assert check(exact(), CE, cases=[CASE], dtype="bfloat16").meets == "mixed"
    judge = judge_of()
    good = Result(CASE, judge.quantities(CASE, found := Found(*_true(CASE), np.ones(()))), found, "", "")
    assert judge.meets([good]) == "relative"
    assert judge.meets([]) == ""
    assert judge.meets([good._replace(xfail="known")]) == ""
    assert judge.meets([good, good._replace(found=None, quantities=(), error="ValueError: no")]) == ""
    assert judge.meets([good.with_complaint("value", "wrong")]) == ""
    assert judge.meets([good, good._replace(case=CASE._replace(group="range")).with_complaint("value", "wrong")]) != ""
    refusing = CASE._replace(accepts=("truth", "refusal"))
    refused = Result(refusing, (), None, "ValueError: no", "")
    assert judge.meets([good, refused]) == "relative"
    wide, _ = budgets.bounds(CE, Z_BIG.inputs, judge.arithmetic)
    value, grad = _true(Z_BIG)
    loose = Found(value + 0.5 * wide, grad, np.ones(()))
    assert judge.meets([Result(Z_BIG, judge.quantities(Z_BIG, loose), loose, "", "")]) == "working"
    over = Found(value + 1.5 * wide, grad, np.ones(()))
    assert judge.meets([Result(Z_BIG, judge.quantities(Z_BIG, over), over, "", "")]) == ""
    open_end = Result(CASE._replace(accepts=("finite",)), (), found, "", "")
    assert judge.meets([open_end]) == "relative"
    odd = Result(CASE._replace(accepts=("finite",)), (), found._replace(value=np.asarray(5.0)), "", "")
    assert judge.meets([good, odd]) == "relative"
    strict = judge_of(standard="relative")
    good = Result(CASE, strict.quantities(CASE, found), found, "", "")
    assert strict.meets([good]) == "relative"
    assert strict.meets([good.with_complaint("z", "is not what it was")]) == ""
    assert strict.meets([Result(Z_BIG, strict.quantities(Z_BIG, loose), loose, "", "")]) == "working"


Z_BIG = CASE._replace(inputs=(Z + 1000.0, Y))


def _true(case):
    value, grad = CE.value_and_grad(*case.inputs, engine="dd")
    return np.asarray(value), tuple(grad)


def test_notes_say_what_was_not_looked_at():
    judge = judge_of()

    def notes(*found, framework="numpy", quantities=(), error=""):
        return list(judge.notes([Result(CASE, quantities, each, error, "") for each in found], framework))

    grad = [np.ones((2, 3))]
    assert notes(found_of(1.0)) == ["the value alone was returned: no gradient was looked at"]
    assert notes(found_of(1.0), found_of(1.0, grad)) == []
    assert list(judge_of(wanted=()).notes([Result(CASE, (), found_of(1.0), "", "")], "numpy")) == []
    other = [found_of(1.0, grad, kind=kind) for kind in ("float64", "", "float32", "float16")]
    assert notes(*other) == ["the value came back in float16, float64, not in float32"]
    beside = found_of(1.0, grad, others="list of shape (2,)", hint="was read as dz")
    said = "beside the value came what is no gradient, and was not looked at: list of shape (2,)"
    other = found_of(1.0, grad, others="int of shape ()", hint="was read as dx")
    assert notes(beside, other) == [said]
    assert notes(beside, other, quantities=(refused("value", "wrong"),)) == [said, "was read as dz"]
    tensors = "TypeError: expected a Tensor"
    assert notes(None, error=tensors) == ["the code was given NumPy's arrays; for tensors say framework='torch'"]
    assert notes(None, framework="torch", error=tensors) == []
    assert notes(None, error="TypeError: expected a list") == []
    assert notes(found_of(1.0, grad), None, error=tensors) == []


def test_expected_failures_are_matched_by_id_and_by_name_without_shape():
    one, two = CASE, CASE._replace(id="ordinary-own-4x3x1")
    bad = [Result(case, (), None, "ValueError: no", "") for case in (one, two)]
    good = [Result(case, (), None, "", "") for case in (one, two)]
    expected = ExpectedFailures(
        {"ordinary-own": "", one.id: "first", "gone": "x", "away": "x"}, [one, two], CE, partial=False
    )
    assert expected.reasons == {"ordinary-own": "expected", one.id: "first", "gone": "x", "away": "x"}
    assert expected.dead == ("away", "gone")
    assert [result.xfail for result in expected.marked(bad)] == ["first", "expected"]
    assert [result.xfail for result in expected.marked(good)] == ["first", ""]
    other = bad[0]._replace(case=CASE._replace(id="ordinary-other-2x3x1"))
    assert [result.xfail for result in expected.marked([other])] == [""]
    assert expected.stale(expected.marked(bad)) == ()
    assert expected.stale([]) == ()
    named = ExpectedFailures({"ordinary-own": "", one.id: "first"}, [one, two], CE, partial=False)
    assert named.stale(named.marked([good[1]])) == ("ordinary-own",)
    assert named.stale(named.marked([bad[1]])) == ()
    assert named.stale(named.marked([bad[0]])) == ()
    alone = ExpectedFailures({"b": "", "ordinary-own": "", "a": ""}, [one, two], CE, partial=False)
    assert alone.stale(alone.marked(good)) == ("ordinary-own",)
    assert alone.stale(alone.marked([good[0], bad[1]])) == ()
    none = ExpectedFailures(None, [one], CE, partial=True)
    assert (none.reasons, none.dead) == ({}, ())
    part = ExpectedFailures(
        {"boundary-soft": "a", "boundary-soft-9x7x13": "b", "range-soft": "c", "no": "d"}, [one], CE, partial=True
    )
    assert part.dead == ("no",)
    own = ExpectedFailures({one.id: "a", "ordinary-own": "b", "ordinary-random": "c"}, [one], CE, partial=True)
    assert own.dead == ()
    whole = ExpectedFailures({"boundary-soft": "a"}, [one], CE, partial=False)
    assert whole.dead == ("boundary-soft",)
    biased = ExpectedFailures({"hard-bias-offset": "a"}, [one], refloss.SoftmaxLoss(), partial=True)
    assert biased.dead == ()


def test_arguments_of_a_check_are_names_or_several_names():
    assert some_names("groups", "hard", GROUPS, least=1) == ("hard",)
    assert some_names("groups", ["hard", "range"], GROUPS, least=1) == ("hard", "range")
    for wrong in ((), ("hard", "soft"), "soft"):
        with pytest.raises(ValueError, match=r"^groups: expected some of 'ordinary', 'boundary', 'hard', 'range'; got"):
            some_names("groups", wrong, GROUPS, least=1)
    linear = refloss.SoftmaxLoss()
    assert options.wanted_gradients(linear, True) == ("x", "w", "b")
    assert options.wanted_gradients(linear, False) == ()
    assert options.wanted_gradients(linear, "w") == ("w",)
    assert options.wanted_gradients(linear, ["b", "x"]) == ("b", "x")
    assert options.wanted_gradients(refloss.Triplet(), "anchor") == ("anchor",)
    with pytest.raises(ValueError, match=r"^gradients: expected True, False or some of 'x', 'w', 'b'; got 'y'$"):
        options.wanted_gradients(linear, "y")
    assert options.writable_inputs(linear, ("x", "b", "y")) == ("x", "b", "y")
    assert options.writable_inputs(CE, "y") == ("y",)
    assert options.writable_inputs(refloss.Triplet(), ("negative",)) == ("negative",)
    assert options.writable_inputs(refloss.Triplet(), "positive") == ("positive",)
    with pytest.raises(ValueError, match=r"^overwrites: expected some of 'x', 'w', 'y', 'b'; got"):
        options.writable_inputs(linear, ("z", "x"))
    assert options.takes_bias(lambda a, b, c, d: 0, linear, None)
    assert options.takes_bias(lambda a, b, c, bias=None: 0, linear, None)
    assert not options.takes_bias(lambda a, b, c, scale=1.0: 0, linear, None)
    assert not options.takes_bias(lambda a, b, c: 0, linear, None)
    assert not options.takes_bias(lambda *a: 0, linear, None)
    assert not options.takes_bias(lambda a, *b: 0, linear, None)
    assert not options.takes_bias(3, linear, None)


def test_own_cases_are_rounded_and_have_to_be_inputs_of_the_loss():
    own = CASE._replace(inputs=((Z + 1e-9).tolist(), [0, 2]))
    held = conformance._own(CE, own, "float32")
    assert held.inputs[0].dtype == np.float64
    assert (held.inputs[0] == (Z + 1e-9).astype(np.float32)).all()
    assert held.inputs[1].dtype == np.int64
    soft = np.full((2, 3), 1.0 / 3.0)
    held = conformance._own(CE, CASE._replace(inputs=(Z + 1e-9, soft)), "float16")
    assert (held.inputs[1] == soft).all()
    assert (held.inputs[0] == (Z + 1e-9).astype(np.float16)).all()
    with pytest.raises(
        TypeError, match=r"^cases: expected cases as `refloss.testing.Case`, each with an id; got 'random'$"
    ):
        conformance._own(CE, "random", "float32")
    with pytest.raises(
        ValueError, match=r"^cases: expected a group of 'ordinary', 'boundary', 'hard', 'range'; got 'x' in"
    ):
        conformance._own(CE, CASE._replace(group="x"), "float32")
    with pytest.raises(ValueError, match=r"^cases: 'ordinary-own-2x3x1' is no input of CrossEntropy.*: \w+"):
        conformance._own(CE, CASE._replace(inputs=(Z, np.array([0, 5]))), "float32")
    conformance._own(CE, CASE._replace(inputs=(Z, np.array([0, 5])), accepts=("finite",)), "float32")
    too_long = conformance._own(CE, CASE._replace(inputs=(Z * 1e300, Y), accepts=("finite",)), "float16")
    assert np.isinf(too_long.inputs[0]).any()


def test_whole_numbers_are_labels_only_where_labels_are():
    whole = CASE._replace(inputs=([[1, 0, 2], [0, 1, 1]], [0, 2]))
    assert [entry.dtype for entry in conformance._own(CE, whole, "float32").inputs] == [np.float64, np.int64]
    assert check(exact(), CE, cases=[whole]).passed


def test_diagnoses_are_looked_for_among_results_that_came(monkeypatch):
    calls = []
    monkeypatch.setattr(conformance, "diagnose", lambda *arguments: calls.append(arguments) or ["because"])
    judge, found = judge_of(), found_of(1.0)
    good = Result(CASE, (quantity(),), found, "", "")
    bad = good._replace(quantities=BAD)
    raised = Result(CASE, (), None, "ValueError: no", "")
    assert conformance._diagnoses(judge, [good, bad, raised], changing=False) == ("because",)
    assert calls == [(CE, [(CASE, found)], [(CASE, found)], judge.arithmetic, "float32")]
    assert conformance._diagnoses(judge, [good, raised], changing=True) == ("because",)
    assert calls[1][1:3] == ([], [(CASE, found)])
    said = "results change from call to call: no other cause was looked for"
    assert conformance._diagnoses(judge, [good, bad], changing=True) == (said,)
    assert len(calls) == 2
    monkeypatch.setattr(conformance, "diagnose", lambda *arguments: 1 / 0)
    said = "none: looking for one raised ZeroDivisionError: division by zero"
    assert conformance._diagnoses(judge, [bad], changing=False) == (said,)


def outcome(fn, loss=CE, **settings):
    """What `assert_conforms` does; a test of its own that is skipped would hide a wrong skip."""
    try:
        assert_conforms(fn, loss, **settings)
    except SkipTest as skipped:
        return "skipped", str(skipped)
    except AssertionError as failed:
        return "failed", str(failed)
    return "passed", ""


def test_single_cases_are_skipped_where_nothing_is_decided_and_fail_where_something_is_wrong_or_missing():
    def refuse(z, y):
        raise ValueError("no")

    blunt = CASE._replace(inputs=(np.array([[300.0, 0.0, 0.0]]), np.array([0])))
    may_refuse = CASE._replace(accepts=("truth", "refusal"))
    assert outcome(exact(), cases=[CASE]) == ("passed", "")
    assert outcome(exact(), shapes=[(2, 3, 1)], groups=("ordinary",)) == ("passed", "")
    state, said = outcome(exact(), cases=[blunt], dtype="float16")
    assert (state, said.splitlines()[0]) == ("skipped", f"{CE} in float16, numpy: undecided")
    state, said = outcome(refuse, cases=[may_refuse])
    assert (state, "refused, as it may be" in said) == ("skipped", True)
    assert outcome(refuse, cases=[may_refuse, CASE])[0] == "failed"
    assert outcome(refuse, cases=[CASE])[0] == "failed"
    state, said = outcome(exact(change=lambda value, grad: (2.0 * value, grad)), cases=[CASE])
    assert (state, said.splitlines()[0]) == ("failed", f"{CE} in float32, numpy: does not conform")
    assert outcome(exact(change=lambda value, grad: value), cases=[CASE])[0] == "failed"
    assert outcome(exact(change=lambda value, grad: value), shapes=[(2, 3, 1)], groups=("ordinary",))[0] == "failed"


def test_a_table_has_a_report_for_each_dtype_and_device():
    table = conforms(exact(), CE, dtypes=(np.float32, "float64"), devices=(None, "cpu"), cases=[CASE])
    assert list(table.reports) == [("float32", ""), ("float32", "cpu"), ("float64", ""), ("float64", "cpu")]
    assert [(report.dtype, report.device) for report in table.reports.values()] == list(table.reports)
    assert table.passed
    assert [len(report.results) for report in table.reports.values()] == [1] * 4
    with pytest.raises(ValueError, match=r"^dtypes: expected one of 'float16'"):
        conforms(exact(), CE, dtypes=("float8",), cases=[CASE])
    for name in ("dtypes", "devices"):
        for wrong in ((), "float32"):
            with pytest.raises(ValueError, match=rf"^{name}: expected at least one, in a tuple or list; got"):
                conforms(exact(), CE, cases=[CASE], **{name: wrong})


def test_results_that_one_has_are_compared_as_a_check_compares():
    value, (dz,) = _true(CASE)
    assert_close(CE, Z, Y, dtype="float32", value=value)
    assert_close(CE, Z, Y, dtype="float32", value=value, grad_z=dz)
    assert_close(CE, Z, Y, dtype="float32", grad_z=3.0 * dz, upstream=3.0)
    with pytest.raises(AssertionError) as raised:
        assert_close(CE, Z, Y, dtype="float32", value=2.0 * value, grad_z=dz, upstream=2.0)
    first, *others = str(raised.value).splitlines()
    assert first == f"{CE} in float32"
    assert [line[:9] for line in others] == ["  value: ", "  dz[1, 2"]
    with pytest.raises(AssertionError) as raised:
        assert_close(CE, Z + 1e-12, Y, dtype="float32", value=2.0 * value)
    last = str(raised.value).splitlines()[-1]
    assert last == "  input 0: holds numbers that float32 does not; is that what the code was given?"
    with pytest.raises(ValueError, match=r"^value: expected it or a gradient to compare; got neither$"):
        assert_close(CE, Z, Y, dtype="float32", grad_z=None)
    with pytest.raises(TypeError, match=r"^grad_z: expected one of grad_x, grad_w, grad_b$"):
        assert_close(refloss.SoftmaxLoss(), np.eye(2), np.eye(2), [0, 1], dtype="float32", grad_z=Z)
    linear = refloss.SoftmaxLoss(), np.eye(2), np.full((2, 2), 0.1), [0, 1]
    with pytest.raises(AssertionError, match=r"  input 0, input 1: holds numbers that float32 does not;"):
        assert_close(linear[0], linear[1] / 3.0, *linear[2:], dtype="float32", value=9.0)
    wide, _ = (budgets.budget(*linear, dtype="float32", accumulate=a).value for a in ("float32", "float64"))
    assert_close(*linear, dtype="float32", value=linear[0](*linear[1:]) + 0.9 * wide)
    with pytest.raises(AssertionError, match="value: got"):
        assert_close(*linear, dtype="float32", value=linear[0](*linear[1:]) + 0.9 * wide, accumulate="float64")
    with pytest.raises(TypeError, match=r"^grad_x: expected one of grad_z$"):
        assert_close(CE, Z, Y, dtype="float32", grad_x=None)
    big = Z + 1000.0
    allowed, _ = budgets.bounds(CE, (big, Y), budgets.arithmetic("float32"))
    value = float(CE(big, Y)) + 0.5 * float(allowed)
    assert_close(CE, big, Y, dtype="float32", value=value)
    with pytest.raises(AssertionError, match="value"):
        assert_close(CE, big, Y, dtype="float32", value=value, standard="stable")
    assert_close(refloss.SoftmaxLoss(), np.eye(2), np.eye(2), [0, 1], dtype="float32", matmul="tf32",
                 value=float(refloss.SoftmaxLoss()(np.eye(2), np.eye(2), [0, 1])) * (1.0 + 2.0**-12))  # fmt: skip


def test_a_check_of_nothing_and_a_bias_that_is_none_are_refused_by_name():
    loss = refloss.SoftmaxLoss()
    with pytest.raises(ValueError, match=r"^cases: expected at least one in the groups ordinary, hard; got none$"):
        check(loss.value_and_grad, loss, groups=("ordinary", "hard"), cases=[])
    with pytest.raises((TypeError, ValueError), match=r"^bias\b"):
        check(loss.value_and_grad, loss, bias="some")
