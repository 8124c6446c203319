"""What a report says: states, verdicts, what was never decided, and how it reads."""

from __future__ import annotations

import math

from refloss.testing import Case
from refloss.testing.report import ENDS, Conformance, Quantity, Report, Result

INF = math.inf
NAN = math.nan


def same(one, other):
    """Equality of tuples of numbers, where NaN is like NaN."""
    return all(a == b or (a != a and b != b) for a, b in zip(one, other, strict=True))  # noqa: PLR0124


def quantity(name="value", decided=1, undecided=0, complaint="", over=0):
    return Quantity(name, 0.5, (0,), 1.0, 1.0, 0.1, decided, undecided, complaint, over)


def result(group="ordinary", *, name="a", error="", xfail="", accepts=("truth",), quantities=None):
    case = Case(f"{group}-{name}-2x3x1", group, (), f"reason {name}", (), accepts)
    return Result(case, (quantity(),) if quantities is None else quantities, None, error, xfail)


BAD = (quantity(over=1),)
NO_REFUSAL = "ValueError: no"


def test_the_status_of_a_result():
    assert result().status == "passed"
    assert result(quantities=(quantity(decided=0, undecided=3),)).status == "undecided"
    assert result(quantities=()).status == "undecided"
    assert result(quantities=(quantity(decided=0), quantity())).status == "passed"
    assert result(quantities=BAD).status == "failed"
    assert result(quantities=(quantity(), quantity(complaint="all zero"))).status == "failed"
    assert result(error=NO_REFUSAL).status == "failed"
    assert result(error=NO_REFUSAL, accepts=("refusal",)).status == "refused"
    assert result(error=f"{ENDS} SystemExit: 0", accepts=("refusal",)).status == "failed"
    assert result(accepts=("refusal",)).status == "passed"
    assert result(xfail="known").status == "xpassed"
    assert result(xfail="known", quantities=BAD).status == "xfailed"
    assert result(xfail="known", error=NO_REFUSAL, accepts=("refusal",)).status == "xfailed"


def test_a_complaint_is_a_quantity_that_fails():
    bad = result().with_complaint("dx", "was not returned")
    assert bad.status == "failed"
    assert bad.quantities[0] == quantity()
    assert same(bad.quantities[1], ("dx", INF, (), NAN, NAN, NAN, 0, 0, "was not returned", 0))


def report_of(*results, **more):
    return Report("loss", "float32", "numpy", results, **more)


def test_the_verdict_of_a_group():
    blunt = (quantity(decided=0),)
    for of_group, verdict in (
        ([result()], "passed"),
        ([result(), result(quantities=blunt)], "passed"),
        ([result(quantities=blunt)], "undecided"),
        ([result(error=NO_REFUSAL, accepts=("refusal",))], "undecided"),
        ([result(quantities=BAD, xfail="known")], "passed"),
        ([result(), result(xfail="known")], "failed"),
        ([result(), result(quantities=BAD)], "failed"),
    ):
        assert report_of(*of_group).verdicts == {"ordinary": verdict}
    assert list(report_of(result("range"), result("hard")).verdicts) == ["hard", "range"]


def test_the_state_of_a_report():
    assert report_of(result()).state == "conforms"
    assert report_of(result(), result("range", quantities=BAD)).state == "conforms"
    assert report_of(result("range", quantities=BAD)).state == "does not conform"
    assert report_of(result(), result("hard", quantities=BAD)).state == "does not conform"
    assert report_of(result(), dead=("gone",)).state == "does not conform"
    assert report_of(result(), stale=("gone",)).state == "does not conform"
    assert report_of(result(), result("range", xfail="known")).state == "does not conform"
    assert report_of(result(), names=("value", "dx")).state == "undecided"
    assert [bool(report) for report in (report_of(result()), report_of(result(), names=("dx",)))] == [True, False]


def test_what_was_never_decided():
    both = ("value", "dx")
    some = result(quantities=(quantity(), quantity("dx", decided=0)))
    assert report_of(some, names=both).undecided == ("dx",)
    assert report_of(some, result("range", quantities=(quantity("dx"),)), names=both).undecided == ("dx",)
    assert report_of(some, result("hard", quantities=(quantity("dx"),)), names=both).undecided == ()
    known = result(quantities=(quantity("dx", over=1),), xfail="known")
    assert report_of(some, known, names=both).undecided == ("dx",)
    assert report_of(known, names=both).undecided == ()
    assert report_of(known, names=both).state == "conforms"
    only = report_of(result("range"), names=both)
    assert (only.undecided, only.counted) == (("dx",), only.results)
    assert report_of(some, result("range")).counted == (some,)


def test_whether_every_quantity_was_looked_at():
    some = result(quantities=(quantity(), quantity("dx", decided=0)))
    assert report_of(some, names=("value", "dx")).looked_at
    assert report_of(some, names=("dx",)).looked_at
    assert not report_of(some, names=("value", "dx", "dw")).looked_at
    assert not report_of(result(), result("range", quantities=some.quantities), names=("value", "dx")).looked_at


def test_a_whole_report_as_it_is_printed():
    blunt = (quantity("dx", decided=1, undecided=2),)
    results = [
        result(quantities=(*BAD, quantity("dx", undecided=1))),
        result("boundary", name="x", error=NO_REFUSAL, accepts=("refusal",)),
        result("boundary", name="w", error=NO_REFUSAL, accepts=("refusal",)),
        result("boundary", name="y", quantities=BAD, xfail="known"),
        result("hard", name="z", quantities=blunt),
        result("hard", name="r", error="RuntimeError: why", quantities=()),
    ]
    said = {"dead": ("gone",), "stale": ("old",), "notes": ("odd",), "diagnoses": ("because",)}
    report = report_of(*results, names=("value", "dw", "db"), device="cuda", **said)
    assert str(report).splitlines() == [
        "loss in float32, numpy on cuda: does not conform",
        "  standard: working; meets: none",
        "  ordinary: failed",
        "  boundary: passed",
        "  hard: failed",
        "  never decided: dw, db",
        "  note: odd",
        "  expected to fail, but there is no case 'gone'",
        "  expected to fail, but no case of 'old' did",
        "  undecided: 3 of 9 numbers, whose budgets are as large as their rows",
        "  refused, as it may be: boundary-x-2x3x1, boundary-w-2x3x1",
        "  failed, as expected: boundary-y-2x3x1",
        "failed: ordinary-a-2x3x1 (reason a)",
        "  value[0]: got 1, expected 1, off by 0, allowed 0.1: 0.5 times",
        "failed: hard-r-2x3x1 (reason r)",
        "  raised RuntimeError: why",
        "diagnosis: because",
    ]
    assert str(report_of(result(), meets="stable")) == (
        "loss in float32, numpy: conforms\n  standard: working; meets: stable\n  ordinary: passed"
    )
    many = [result(name=f"n{i}", quantities=BAD) for i in range(8)]
    assert str(report_of(*many)).splitlines()[-1] == "and 2 more: ordinary-n6-2x3x1, ordinary-n7-2x3x1"
    assert str(report_of(*many[:6])).splitlines()[-2] == "failed: ordinary-n5-2x3x1 (reason n5)"
    assert str(report_of(result(xfail="known"))).splitlines()[-1] == "xpassed: ordinary-a-2x3x1 (reason a)"
    assert str(quantity()._replace(where=())).startswith("value: got 1,")


def test_a_table_as_it_is_printed():
    good = report_of(result(), result("range"), meets="stable")
    bad = report_of(result(quantities=BAD))._replace(dtype="float64")
    table = Conformance({("float32", ""): good, ("float64", "cuda:0"): bad})
    assert str(table) == "\n".join(
        [
            "dtype    device  state             asked    meets   ordinary  boundary  hard  range",
            "float32  -       conforms          working  stable  passed    -         -     passed",
            "float64  cuda:0  does not conform  working  none    failed    -         -     -",
            "",
            str(bad),
        ]
    )
    assert not table
    assert Conformance({("float32", ""): good})
    assert str(Conformance({("float32", ""): good})).count("\n") == 1
