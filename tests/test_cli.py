"""The command line: what it prints, that its verdicts follow from numbers, and that its truth is the truth."""

import json
import math
import re
import subprocess
import sys
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import exact
import refloss
from refloss import cli
from refloss.cli import Comparison, verdict
from refloss.error_free import u

NAN = math.nan
CASES = {case.name: case for case in cli.cases()}


def run(*arguments, columns=80):
    # FORCE_COLOR and the like would make rich take the runner for a terminal.
    env = {"COLUMNS": str(columns), "FORCE_COLOR": None, "TTY_COMPATIBLE": None}
    result = CliRunner().invoke(cli.application(), arguments, env=env)
    assert result.exit_code == 0, result.output
    return result.output


def said(output):
    """The verdict by the name of the case, out of the demo's table."""
    rows = {}
    for line in output.splitlines():
        for name in CASES:
            if found := re.match(rf"{re.escape(name)} +[\d.e-]+ +[\d.e-]+( +(NaN|[\d.e+-]+)){{4}} (\w.*)", line):
                rows[name] = found[3].rstrip()
    return rows


# ----------------------------------------------------------------------------------------------------------------- demo


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_demo_shows_every_case_with_its_verdict_on_one_line(columns):
    output = run("demo", columns=columns)
    assert said(output) == {name: verdict(cli.compare(case)) for name, case in CASES.items()}
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= columns


def test_demo_is_the_same_every_time():
    assert run("demo") == run("demo")


def test_demo_tells_the_known_failures():
    verdicts = said(run("demo"))
    assert verdicts["1"] == "agrees"
    lost = [int(re.fullmatch(r"gradient loses (\d+) digits", verdicts[name])[1]) for name in ("1e-2", "1e-4", "1e-6")]
    assert lost == sorted(lost)
    assert lost[0] >= 2
    assert lost[2] >= 10
    assert verdicts["1e-8"] in {"gradient has no digit right", "gradient is NaN"}
    assert verdicts["0"] == "gradient is NaN"
    assert verdicts["pi - 1e-4"].startswith("gradient loses")
    assert verdicts["confident"] == "loss is 0, truth is 1.3e-38"


def test_demo_ends_with_the_count():
    output = run("demo")
    agreeing = sum(verdict == "agrees" for verdict in said(output).values())
    assert output.splitlines()[-1] == f"naive agrees with the truth in {agreeing} of 9 cases"


@pytest.mark.parametrize(
    ("name", "theta"),
    [("1", 1.0), ("1e-2", 1e-2), ("1e-4", 1e-4), ("1e-6", 1e-6), ("1e-8", 1e-8), ("0", 0.0), ("2.9 > pi-m", 2.9)],
)
def test_angles_are_what_the_table_says(name, theta):
    case = CASES[name]
    assert float(exact.angle(case.x, case.w[:1])[0]) == pytest.approx(theta, abs=2.0**-48)


def test_angle_near_pi_is_what_the_table_says():
    case = CASES["pi - 1e-4"]
    assert float(exact.mp.pi - exact.angle(case.x, case.w[:1])[0]) == pytest.approx(1e-4, abs=2.0**-48)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_inputs_are_short_numbers_and_the_other_classes_apart(case):
    assert (case.w * 2.0**48 == np.rint(case.w * 2.0**48)).all()
    assert len(np.unique(case.w, axis=0)) == len(case.w) == 10
    cosines = case.w[1:] @ case.x[0] / np.linalg.norm(case.w[1:], axis=1) / np.linalg.norm(case.x)
    assert np.abs(cosines).max() < 0.9


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_truth_is_the_truth(case):
    """Within what engine chain promises: 16u or 4u s for the loss, 32u or 8u s of its absolute terms for a gradient."""
    loss, y = refloss.ArcFace(s=case.s), np.array([0])
    value, gradient = loss.value_and_grad(case.x, case.w, y)
    truth, terms = exact.gradients(loss, case.x, case.w, y, digits=30), exact.absolute_terms(loss, case.x, case.w, y)
    assert exact.value_error(value, exact.value(loss, case.x, case.w, y)) <= max(16, 4 * case.s)
    assert exact.row_error(gradient.x, truth["x"], terms["x"]) <= max(32, 8 * case.s)
    assert exact.row_error(gradient.w, truth["w"], terms["w"]) <= max(32, 8 * case.s)


# ------------------------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Comparison(1.0, NAN, NAN, NAN, NAN), "loss is NaN"),
        (Comparison(1.0, 1.0, 0.0, NAN, 0.0), "gradient is NaN"),
        (Comparison(1.0, 1.0, 0.0, 0.0, NAN), "gradient is NaN"),
        (Comparison(1e-35, 0.0, 1.0, NAN, 1.0), "gradient is NaN"),
        (Comparison(1.2e-35, 0.0, 1.0, 0.6, 1.0), "loss is 0, truth is 1.2e-35"),
        (Comparison(0.25, -0.0, 1.0, 0.0, 0.0), "loss is 0, truth is 0.25"),
        (Comparison(0.0, 0.0, 0.0, 0.0, 0.0), "agrees"),
        (Comparison(1.0, 1.0, 99 * u, 99 * u, 99 * u), "agrees"),
        (Comparison(1.0, 1.0, 0.0, 100 * u, 0.0), "gradient loses 2 digits"),
        (Comparison(1.0, 1.0, 0.0, 0.0, 1e-4), "gradient loses 12 digits"),
        (Comparison(1.0, 1.0, 1e4 * u, 1e3 * u, 0.0), "loss loses 4 digits"),
        (Comparison(1.0, 1.1, 0.1, 0.0, 0.0), "loss has no digit right"),
        (Comparison(1.0, 1.0, 0.0, 0.2, 0.0), "gradient has no digit right"),
        (Comparison(1.0, 1.0, 0.0, 0.0, math.inf), "gradient has no digit right"),
    ],
)
def test_verdict_follows_from_the_numbers(found, expected):
    assert verdict(found) == expected


@pytest.mark.parametrize(
    ("found", "truth", "expected"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([3.0, 4.5], [3.0, 4.0], 0.1),
        ([0.0, 0.0], [3.0, 4.0], 1.0),
        ([0.0], [0.0], 0.0),
        ([1.0], [0.0], math.inf),
        ([1.0, NAN], [1.0, 1.0], NAN),
        ([math.inf], [1.0], NAN),
    ],
)
def test_relative_error(found, truth, expected):
    assert cli.relative(np.array(found), np.array(truth)) == pytest.approx(expected, nan_ok=True)


# --------------------------------------------------------------------------------------------------------------- losses


def rows(output):
    """The cells of the table, given a width at which nothing folds but names and the gradients of the triplet."""
    lines = output.splitlines()
    starts = [*(lines[0].index(header) for header in lines[0].split()), None]
    cells = ([line[a:b].strip() for a, b in pairwise(starts)] for line in lines[2:])
    return {name: rest for name, *rest in cells}


EVERY = rows(run("losses", columns=160))


@pytest.mark.parametrize("name", refloss.__all__)
def test_losses_lists_every_public_loss(name):
    loss = getattr(refloss, name)
    if not isinstance(loss, type):
        assert name not in EVERY
    elif name == loss.__name__:
        assert name in EVERY
    else:
        assert list(EVERY).index(f"= {name}") == list(EVERY).index(loss.__name__) + 1


@pytest.mark.parametrize("loss", cli.public_losses(), ids=lambda loss: loss.__name__)
def test_losses_shows_every_default(loss):
    output = run("losses", columns=160)
    for field in fields(loss):
        assert f"{field.name}={field.default!r}" in output
        # A setting that losses share stands below the table, with those that lack it.
        shared = re.search(rf"^  {field.name}=\S+ +(?:not (.*))?$", output, re.MULTILINE)
        assert (f"{field.name}={field.default!r}" in EVERY[loss.__name__][0].split(", ")) != bool(shared)
        assert not shared or loss.__name__ not in (shared[1] or "")


@pytest.mark.parametrize("name", cli.PSI)
def test_psi_in_the_table_is_the_curve(name):
    loss = getattr(refloss, name)()
    text = EVERY[name][1]
    assert text == cli.PSI[name]
    for theta in np.linspace(0.01, 3.13, 50):
        symbols = {field.name: getattr(loss, field.name) for field in fields(loss)}
        symbols |= {"theta": theta, "cos": math.cos, "k": math.floor(symbols.get("m", 1.0) * theta / math.pi)}
        assert eval(text.replace("^", "**"), symbols) == pytest.approx(loss.target_logit(theta), abs=32 * u)


def test_psi_is_given_for_every_margin_loss():
    assert set(cli.PSI) == {loss.__name__ for loss in cli.public_losses() if loss().spec.head == "margin"}


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("CrossEntropy", ["-", "-", "-", "-", "z"]),
        ("SoftmaxLoss", ["-", "-", "-", "given", "x, w, b"]),
        ("ModifiedSoftmax", ["-", "cos(theta)", "||x||", "unit", "x, w"]),
        ("ArcFace", ["s=64.0, m=0.5, boundary='none'", "cos(theta + m)", "s", "unit", "x, w"]),
        ("Triplet", ["m=0.2, squared=True", "-", "-", "-", "anchor,"]),
    ],
)
def test_losses_row(name, cells):
    assert EVERY[name] == cells


@pytest.mark.parametrize("columns", [80, 120])
def test_losses_cuts_nothing_off(columns):
    output = run("losses", columns=columns)
    assert "…" not in output
    assert "\x1b" not in output
    assert "boundary='monotone'" in output
    assert max(map(len, output.splitlines())) <= columns


# ------------------------------------------------------------------------------------------------------------ around it


def test_version():
    assert run("--version") == f"{refloss.__version__}\n"


def test_help_names_the_commands():
    output = run("--help")
    assert "demo" in output
    assert "losses" in output


def test_main_runs_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["refloss", "--version"])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"{refloss.__version__}\n"


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_main_without_the_extra_says_in_one_line_what_to_install(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == "refloss: the command line needs typer and rich: pip install 'refloss[cli]'"


def test_process_without_the_extra_exits_with_1_and_one_line():
    code = "import sys; sys.modules['typer'] = None; from refloss.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == ["refloss: the command line needs typer and rich: pip install 'refloss[cli]'"]


def test_importing_refloss_and_the_cli_module_loads_neither_typer_nor_rich():
    code = "import sys, refloss.cli; print(sorted({'typer', 'rich', 'click'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------------------------------------------------------- check

MINE = """
import refloss

def good(x, w, y):
    value, grad = refloss.CosFace().value_and_grad(x, w, y)
    return value, grad.x, grad.w

def bad(x, w, y):
    value, grad = refloss.CosFace(reduction="sum").value_and_grad(x, w, y)
    return value, grad.x, float("nan") * grad.w

class Inside:
    good = staticmethod(good)

number = 3
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return str(path)


def checked(*arguments, columns=100):
    env = {"COLUMNS": str(columns), "FORCE_COLOR": None, "TTY_COMPATIBLE": None}
    return CliRunner().invoke(cli.application(), ["check", *arguments], env=env)


def test_check_says_by_its_exit_status_whether_code_conforms(mine):
    good, bad = (checked(f"{mine}:{name}", "--loss", "CosFace(s=64.0)") for name in ("good", "bad"))
    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert "conforms" in good.output
    assert "does not conform" in bad.output
    assert re.search(r"ordinary +3 +0 +3 +0 +failed", bad.output)
    assert max(map(len, (good.output + bad.output).splitlines())) <= 100
    assert checked(f"{mine}:Inside.good", "--loss", "AMSoftmax").exit_code == 0


def test_check_finds_modules_too(mine, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(mine).parent))
    assert checked("mine:good", "--loss", "CosFace()", "--dtype", "float64").exit_code == 0


def test_check_prints_json(mine):
    found = json.loads(checked(f"{mine}:bad", "--loss", "CosFace()", "--json").output)
    assert not found["passed"]
    assert found["verdicts"]["ordinary"] == "failed"
    names = {entry["name"] for failure in found["failures"] for entry in failure["quantities"]}
    assert names == {"value", "dx", "dw"}
    assert json.loads(checked(f"{mine}:good", "--loss", "CosFace()", "--json").output)["failures"] == []


@pytest.mark.parametrize(
    ("target", "loss", "said"),
    [
        ("{mine}:none", "CosFace()", "has no none"),
        ("{mine}:number", "CosFace()", "cannot be called"),
        ("good", "CosFace()", "expected module:attribute"),
        ("no_such_module:good", "CosFace()", "No module named"),
        ("/no/such/file.py:good", "CosFace()", "No such file"),
        ("{mine}:good", "CosFace(m=9)", "m must be"),
        ("{mine}:good", "CosFace(0.35)", "expected settings by name"),
        ("{mine}:good", "CosFace(**{'m': 1})", "expected settings by name"),
        ("{mine}:good", "CosFace(m=", "expected a loss such as"),
        ("{mine}:good", "NoLoss()", "expected one of"),
        ("{mine}:good", "__import__('os').system('true')", "expected one of"),
        ("{mine}:good", "CosFace(m=__import__('os'))", "malformed node"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(mine, target, loss, said):
    found = checked(target.format(mine=mine), "--loss", loss)
    assert found.exit_code == 2
    assert re.search(said, " ".join(found.output.replace("│", " ").split()))


def test_cases_are_listed_with_their_reasons():
    listed = run("cases", "--loss", "ArcFace()").splitlines()
    assert len(listed) == len(refloss.testing.cases(refloss.ArcFace()))
    assert listed[0].startswith("ordinary-random-8x20x64: ")


def test_only_python_files_are_loaded(monkeypatch):
    monkeypatch.setattr(cli.importlib.util, "spec_from_file_location", lambda *_: None)
    with pytest.raises(ValueError, match="not a Python file"):
        cli.target_of("mine.py:good")


def test_budgets_are_shown():
    out = CliRunner().invoke(cli.application(), ["budget", "--loss", "CosFace()", "--shape", "4,5,16"]).output
    wide = (
        CliRunner()
        .invoke(cli.application(), ["budget", "--loss", "CosFace()", "--shape", "4,5,16", "--matmul", "float16"])
        .output
    )
    assert "ordinary-random-4x5x16" in out
    assert "zero" not in out
    assert wide != out
    assert "ordinary-random" in CliRunner().invoke(cli.application(), ["budget", "--loss", "SoftmaxLoss()"]).output


@pytest.mark.parametrize("shape", ["4", "4,5,0", "a,b,c"])
def test_a_shape_has_three_sizes(shape):
    result = CliRunner().invoke(cli.application(), ["cases", "--loss", "CosFace()", "--shape", shape])
    assert result.exit_code == 2
    assert "expected N,C,D" in result.output


def test_a_bar_shows_after_a_second(monkeypatch):
    clock = iter([0.0, 0.5, 2.0, 3.0])
    monkeypatch.setattr(cli.time, "monotonic", lambda: next(clock))
    assert list(cli._followed([1, 2, 3])) == [1, 2, 3]
    monkeypatch.setattr(cli.time, "monotonic", lambda: 0.0)
    assert list(cli._followed([1, 2, 3])) == [1, 2, 3]
