"""``refloss budget``: the budgets of the library, in a table and as JSON."""

import re

import numpy as np
import pytest

import refloss
from refloss.cli.budget import show_budgets
from refloss.cli.listing import loss_data
from refloss.cli.loss_names import public_losses
from support.command_line import parsed, run


def budget_rows(output):
    """The cells of the table of budgets; an id stands in the first row of its case alone."""
    assert "..." not in output.replace("\N{HORIZONTAL ELLIPSIS}", "...")
    assert max(map(len, output.splitlines())) <= 80
    return [line.split() for line in output.splitlines() if re.search(r" (value|d\w+) ", line)]


@pytest.mark.parametrize("loss", public_losses(), ids=lambda loss: loss.__name__)
def test_budgets_keep_their_numbers_at_80_columns(loss, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = ["value", *(f"d{name}" for name in loss_data(loss, [])["gradients"])]
    quantities = [{"name": name, "largest": 1.2e-308, "allowed": 3.4e-300} for name in names]
    cases = refloss.testing.cases(loss())
    show_budgets("title", [{"case": case.id, "quantities": quantities} for case in cases])
    rows = budget_rows(capsys.readouterr().out)
    assert [row[-3:] for row in rows] == [[name, "1.2e-308", "3.4e-300"] for name in names] * len(cases)
    assert [row[0] for row in rows if len(row) == 4] == [case.id for case in cases]


@pytest.mark.parametrize("loss", [refloss.Triplet, refloss.SoftmaxLoss, refloss.CosFace])
def test_budgets_in_the_table_are_those_of_json(loss):
    arguments = ("budget", "--loss", loss.__name__, "--shape", "2,2,3", "--shape", "3,2,2")
    rows = budget_rows(run(*arguments, charset="ascii"))
    listed = parsed(run(*arguments, "--json"))["cases"]
    cases = refloss.testing.cases(loss(), shapes=[(2, 2, 3), (3, 2, 2)])
    assert [case["case"] for case in listed] == [case.id for case in cases if "truth" in case.accepts]
    assert [row[0] for row in rows if len(row) == 4] == [case["case"] for case in listed]
    assert [row[-3:] for row in rows] == [
        [entry["name"], *(f"{float(entry[name]):.2g}" for name in ("largest", "allowed"))]
        for case in listed
        for entry in case["quantities"]
    ]


def test_budgets_keep_their_numbers_where_names_are_long(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    number = {"name": "dpositive", "largest": 1.2345e-308, "allowed": "nan"}
    show_budgets("title", [{"case": "a-name-of-many-letters" * 3, "quantities": [number]}])
    assert re.search(r"dpositive +1.2e-308 +nan", capsys.readouterr().out)


def test_budgets_are_those_of_the_library():
    loss, options = refloss.CosFace(), {"dtype": "bfloat16", "standard": "mixed", "accumulate": "float32"}
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    arguments += ["--matmul", "float16", "--seed", 3, "--shape", "4,5,6"]
    printed = parsed(run("budget", "--loss", "CosFace()", *arguments, "--json"))
    assert (printed["loss"], printed["standard"], printed["matmul"], printed["seed"]) == (
        str(loss),
        "mixed",
        "float16",
        3,
    )
    case = refloss.testing.cases(loss, "bfloat16", (4, 5, 6), 3)[0]
    _, grad = loss.value_and_grad(*case.inputs)
    allowed = refloss.testing.budget(loss, *case.inputs, matmul="float16", **options)
    first = printed["cases"][0]
    assert (first["case"], first["reason"]) == (case.id, case.reason)
    assert [entry["name"] for entry in first["quantities"]] == ["value", "dx", "dw"]
    assert first["quantities"][1]["largest"] == pytest.approx(np.abs(grad.x).max())
    assert first["quantities"][1]["allowed"] == pytest.approx(np.abs(allowed.gradient.x).max())
    assert first["quantities"][0]["allowed"] == pytest.approx(float(allowed.value))
