"""``refloss cases``, and what ``refloss budget`` has in common with it: the cases of the library."""

import pytest

import refloss
from refloss.cli import budget
from refloss.cli.cases import case_data
from support.command_line import error_of, invoke, parsed, run


@pytest.mark.parametrize("command", ["budget", "cases"])
def test_cases_and_budgets_are_of_the_default_shapes(command, monkeypatch):
    monkeypatch.setattr(budget, "budget_data", lambda loss, cases, settings: [case_data(case) for case in cases])
    printed = parsed(run(command, "--loss", "Triplet", "--json"))
    listed = printed["cases"] if command == "budget" else printed
    assert [case["case"] for case in listed] == [case.id for case in refloss.testing.cases(refloss.Triplet())]


@pytest.mark.parametrize("command", ["budget", "cases"])
@pytest.mark.parametrize(
    "wrong", [["--dtype", "int8"], ["--shape", "9,2,13"]], ids=["a dtype", "a shape for three class weights"]
)
def test_a_wrong_call_of_the_others(command, wrong):
    error_of(invoke(command, "--loss", "CrossEntropy(class_weight=[1.0, 2.0, 3.0])", *wrong))


def test_cases_are_listed_with_their_reasons():
    listed = run("cases", "--loss", "ArcFace()", charset="ascii").splitlines()
    cases = refloss.testing.cases(refloss.ArcFace())
    assert listed == [f"{case.id}: {case.reason}" for case in cases]
    assert listed[0].startswith("ordinary-random-9x7x13: ")


def test_cases_print_json():
    arguments = ("--loss", "ArcFace()", "--dtype", "float16", "--seed", "3", "--shape", "4,5,6", "--shape", "2,2,3")
    printed = parsed(run("cases", *arguments, "--json"))
    cases = refloss.testing.cases(refloss.ArcFace(), "float16", [(4, 5, 6), (2, 2, 3)], 3)
    assert [case["case"] for case in printed] == [case.id for case in cases]
    assert printed[0] == {
        "case": "ordinary-random-4x5x6",
        "group": "ordinary",
        "reason": cases[0].reason,
        "flags": list(cases[0].flags),
        "accepts": ["truth"],
        "inputs": [[4, 6], [5, 6], [4]],
    }
