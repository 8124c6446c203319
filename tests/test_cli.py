"""The command line: what it prints, that its verdicts follow from numbers, and that its truth is the truth."""

import inspect
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import fields
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mpmath import mp
from typer.testing import CliRunner

import refloss
from refloss import cli
from refloss.cli import Comparison, verdict
from refloss.error_free import u
from refloss.testing import naive
from support import exact

NAN = math.nan
CASES = {case.name: case for case in cli.cases()}


def invoke(*arguments, columns=80, charset="utf-8"):
    # FORCE_COLOR and the like would make rich take the runner for a terminal.
    env = {"COLUMNS": str(columns), "FORCE_COLOR": None, "TTY_COMPATIBLE": None}
    return CliRunner(charset=charset).invoke(cli.application(), list(map(str, arguments)), env=env)


def run(*arguments, **terminal):
    result = invoke(*arguments, **terminal)
    assert result.exit_code == 0, result.output
    return result.stdout


def parsed(text):
    """JSON without NaN and Infinity, which are none."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


NAIVE = cache(lambda: refloss.testing.check(naive.arcface_value_and_grad, refloss.ArcFace(), dtype="float64"))


@cache
def demo(columns=80, charset="utf-8"):
    """What the demo prints, with a report that is made only once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "check_code", lambda *_, **__: NAIVE())
        return run("demo", columns=columns, charset=charset)


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
    output = demo(columns)
    assert said(output) == {name: verdict(cli.compare(case)) for name, case in CASES.items()}
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= columns


def test_demo_is_the_same_every_time_and_makes_its_own_report():
    assert run("demo") == demo()


def test_demo_tells_the_known_failures():
    verdicts = said(demo())
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
    output = demo()
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
    assert float(mp.pi - exact.angle(case.x, case.w[:1])[0]) == pytest.approx(1e-4, abs=2.0**-48)


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
    if not isinstance(loss, type) or issubclass(loss, Warning):
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


def test_losses_print_json():
    found = {entry["name"]: entry for entry in parsed(run("losses", "--json"))}
    assert list(found) == [loss.__name__ for loss in cli.public_losses()]
    assert found["ASoftmax"] == {
        "name": "ASoftmax",
        "aliases": ["SphereFace"],
        "defaults": {field.name: field.default for field in fields(refloss.ASoftmax)},
        "psi": cli.PSI["ASoftmax"],
        "scale": "||x||",
        "weights": "unit",
        "gradients": ["x", "w"],
    }
    assert found["Triplet"]["psi"] is found["Triplet"]["scale"] is found["Triplet"]["weights"] is None
    assert found["CosFace"]["scale"] == "s"


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
from __future__ import annotations

import sys
from dataclasses import dataclass

import refloss

print("printed at import")


@dataclass
class Settings:  # looks its module up, since annotations are strings
    m: float = 0.35


def good(x, w, y):
    print("printed in a call")
    value, grad = refloss.CosFace(m=Settings().m).value_and_grad(x, w, y)
    return value, grad.x, grad.w

def bad(x, w, y):
    value, grad = refloss.CosFace(reduction="sum").value_and_grad(x, w, y)
    return value, grad.x, float("nan") * grad.w

def value_only(x, w, y):
    return refloss.CosFace()(x, w, y)

def without_ignored(x, w, y):
    if (y < 0).any():
        raise ValueError("[/b] is no markup, :smile: no picture, \\u03b8 no ascii")
    return good(x, w, y)

def leaves(x, w, y):
    sys.exit(0)

class Inside:
    good = staticmethod(good)

number, nothing = 3, None
"""
SMALL = ("--loss", "CosFace()", "--shape", "3,4,5")


@pytest.fixture(autouse=True)
def imports(tmp_path, monkeypatch):
    """Forget what a test loads from its directory, and where it was looked for."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return str(path)


@pytest.fixture
def settings(monkeypatch):
    """What the command line calls `check` with."""
    given = {}

    def record(fn, loss, **settings):
        given.update(settings, fn=fn, loss=loss)
        return REPORT

    monkeypatch.setattr(cli, "check_code", record)
    return given


def good(x, w, y):
    value, grad = refloss.CosFace().value_and_grad(x, w, y)
    return value, grad.x, grad.w


REPORT = refloss.testing.check(good, refloss.CosFace(), shapes=(3, 4, 5))


def error_of(result):
    """The one line that says what is wrong with a call."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert line == result.stderr.splitlines()[-1]
    return line


def table_of(output):
    """The rows of the report's table, by group."""
    header, _, *lines = output.split("\n\n")[0].splitlines()
    return {row[0]: dict(zip(header.split()[1:], row[1:], strict=True)) for row in map(str.split, lines)}


def test_check_says_by_its_exit_status_whether_code_conforms(mine):
    conforming, failing = (
        invoke("check", f"{mine}:{name}", "--loss", "CosFace(s=64.0)", "--shape", "3,4,5", columns=100)
        for name in ("good", "bad")
    )
    assert (conforming.exit_code, failing.exit_code) == (0, 1)
    assert "numpy: conforms" in conforming.stdout
    assert "numpy: does not conform" in failing.stdout
    row = table_of(failing.stdout)["ordinary"]
    assert (row["cases"], row["passed"], row["failed"], row["undecided"], row["verdict"]) == (
        "3",
        "0",
        "3",
        "0",
        "failed",
    )
    assert max(map(len, (conforming.stdout + failing.stdout).splitlines())) <= 100
    assert invoke("check", f"{mine}:Inside.good", "--loss", "AMSoftmax", "--shape", "3,4,5").exit_code == 0


def test_what_could_not_be_decided_is_no_success(mine):
    undecided = invoke("check", f"{mine}:value_only", *SMALL)
    assert undecided.exit_code == 1
    assert "numpy: undecided" in undecided.stdout
    assert invoke("check", f"{mine}:value_only", *SMALL, "--value-only").exit_code == 0


def test_code_that_leaves_is_no_success(mine):
    result = invoke("check", f"{mine}:leaves", *SMALL)
    assert result.exit_code == 1
    assert set(table_of(result.stdout)) == {"ordinary", "boundary", "hard", "range"}
    assert "raised what ends a program: SystemExit: 0" in " ".join(result.stdout.split())


@pytest.mark.parametrize("code", [0, None])
def test_no_exit_status_but_that_of_a_report(mine, monkeypatch, code):
    monkeypatch.setattr(cli, "check_code", lambda *_, **__: sys.exit(code))
    result = invoke("check", f"{mine}:good", *SMALL)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"refloss: SystemExit({code!r}) before there was a report"


def test_what_code_prints_is_not_taken_for_the_report(mine):
    result = invoke("check", f"{mine}:good", *SMALL, "--json")
    assert parsed(result.stdout)["passed"]
    assert "printed at import" in result.stderr
    assert "printed in a call" in result.stderr


def test_the_report_is_printed_though_code_replaces_standard_output(tmp_path):
    path = tmp_path / "replaces.py"
    path.write_text(
        "import io, sys\nsys.stdout = io.StringIO()\n\ndef f(*_):\n    sys.stdout = io.StringIO()\n    return 0.0"
    )
    result = invoke("check", f"{path}:f", *SMALL)
    assert result.exit_code == 1
    assert "does not conform" in result.stdout


def test_modules_are_found_in_the_current_directory(mine, monkeypatch):
    monkeypatch.chdir(Path(mine).parent)
    assert invoke("check", "mine:good", *SMALL).exit_code == 0
    assert sys.path[0] == str(Path(mine).parent)


def test_the_current_directory_comes_first(tmp_path, monkeypatch):
    for folder, returned in (("installed", "'installed'"), ("here", "'here'")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twice.py").write_text(f"def where(): return {returned}")
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    monkeypatch.chdir(tmp_path / "here")
    assert cli.target_of("twice:where")() == "here"


def test_a_file_imports_those_beside_it(tmp_path):
    (tmp_path / "beside_mine.py").write_text("number = 7")
    (tmp_path / "my.file.py").write_text("import beside_mine\n\ndef seven(): return beside_mine.number")
    assert cli.target_of(f"{tmp_path}/my.file.py:seven")() == 7


def test_a_file_hides_no_installed_module(tmp_path, monkeypatch):
    for folder in ("installed", "here"):
        (tmp_path / folder).mkdir()
    (tmp_path / "installed" / "same_name.py").write_text("number = 7")
    (tmp_path / "here" / "same_name.py").write_text("import beside, same_name\n\ndef f(): return same_name.number")
    (tmp_path / "here" / "beside.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    assert cli.target_of(f"{tmp_path}/here/same_name.py:f")() == 7
    assert sys.modules["same_name"].number == 7


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def", "SyntaxError: .*line 1"),
        ("nothing_such", "NameError: name 'nothing_such' is not defined"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise SystemExit", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise ImportError('one line\\nand another')", "ImportError: one line and another"),
        ("import no_such_module_either", "ModuleNotFoundError: No module named 'no_such_module_either'"),
        ("class Own(BaseException): pass\nraise Own('[/b] mine')", re.escape("Own: [/b] mine")),
    ],
)
def test_what_cannot_be_imported_is_a_wrong_call(tmp_path, monkeypatch, as_file, code, said):
    (tmp_path / "broken.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    place = "broken.py" if as_file else "broken"
    assert re.fullmatch(
        f"Error: Invalid value for 'TARGET': {place}: {said}.*", error_of(invoke("check", f"{place}:f", *SMALL))
    )


@pytest.mark.parametrize(
    ("target", "loss", "said"),
    [
        ("{mine}:none", "CosFace()", "has no none"),
        ("{mine}:nothing", "CosFace()", "has no nothing"),
        ("{mine}:good.none.at.all", "CosFace()", "has no good.none.at.all"),
        ("{mine}:number", "CosFace()", "cannot be called"),
        ("good", "CosFace()", "expected module:function"),
        ("no_such_module:good", "CosFace()", "No module named"),
        ("/no/such/file.py:good", "CosFace()", "No such file"),
        ("{mine}:good", "CosFace(m=9)", "m must be"),
        ("{mine}:good", "CosFace(0.35)", "expected settings by name"),
        ("{mine}:good", "CosFace(**{'m': 1})", "expected settings by name"),
        ("{mine}:good", "CosFace(m=", "expected a loss such as"),
        ("{mine}:good", "CosFace\0", "expected a loss such as"),
        ("{mine}:good", "CosFace(n=1)", "unexpected keyword argument 'n'"),
        ("{mine}:good", "NoLoss()", "expected one of"),
        ("{mine}:good", "__import__('os').system('true')", "expected one of"),
        (
            "{mine}:good",
            "CosFace(m=__import__('os'))",
            "m: expected a literal such as 0.5 or 'sum', got \"__import__('os')\"",
        ),
        ("{mine}:good", "CosFace(m=1+1)", "got '1 + 1': malformed node or string on line 1"),
        ("{mine}:good", "CosFace(m={[]})", "m: expected a literal such as 0.5 or 'sum', got '{[]}': unhashable type"),
        (
            "{mine}:good",
            f"CosFace(m={'-' * 5000}1)",
            f"expected a loss such as 'ArcFace(m=0.5)', got 'CosFace(m={'-' * 180}",
        ),
        ("{mine}:good", f"CosFace(s={'9' * 5000})", "expected a loss such as 'ArcFace(m=0.5)', got 'CosFace(s=9"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(mine, target, loss, said):
    assert said in error_of(invoke("check", target.format(mine=mine), "--loss", loss))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("framework", "tensorflow"),
        ("dtype", "int8"),
        ("device", "no_such_device"),
        ("group", "no_such_group"),
        ("group", ""),
        ("standard", "no_such_standard"),
        ("accumulate", "int8"),
        ("matmul", "int8"),
        ("seed", "-1"),
        ("shape", "1"),
    ],
)
def test_a_wrong_option_is_named(mine, option, value):
    assert option in error_of(invoke("check", f"{mine}:good", "--loss", "CosFace()", f"--{option}", value))


def test_a_framework_that_is_not_there_is_a_wrong_call(mine, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch" in error_of(invoke("check", f"{mine}:good", *SMALL, "--framework", "torch"))


def test_options_reach_the_check(mine, settings):
    options = {
        "framework": "torch",
        "dtype": "bfloat16",
        "device": "cpu",
        "standard": "mixed",
        "accumulate": "float32",
        "matmul": "tf32",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    arguments += ["--shape", "9,7,13", "--shape", "2,2,3", "--group", "ordinary", "--group", "hard", "--seed", "7"]
    arguments += ["--xfail", "hard-a=of m=0.5", "--xfail", "hard-b", "--xfail", "hard-c="]
    run("check", f"{mine}:good", "--loss", "CosFace", *arguments, "--no-ignored", "--soft", "--value-only")
    assert settings.pop("fn").__name__ == "good"
    assert settings.pop("track") is cli.progress
    assert settings == options | {
        "loss": refloss.CosFace(),
        "shapes": [(9, 7, 13), (2, 2, 3)],
        "groups": ["ordinary", "hard"],
        "seed": 7,
        "xfail": {"hard-a": "of m=0.5", "hard-b": "known to fail", "hard-c": "known to fail"},
        "ignored": False,
        "soft": True,
        "gradients": False,
    }


def test_defaults_are_those_of_the_library(mine, settings):
    run("check", f"{mine}:good", "--loss", "CosFace", "--json")
    assert settings.pop("track") is iter
    del settings["fn"], settings["loss"]
    library = inspect.signature(refloss.testing.check).parameters
    assert settings.pop("xfail") == (library["xfail"].default or {})
    assert settings == {name: library[name].default for name in settings}


def test_expected_failures(mine):
    def found(*expected, of="without_ignored"):
        arguments = [text for name in expected for text in ("--xfail", name)]
        return invoke("check", f"{mine}:{of}", *SMALL, *arguments)

    assert found().exit_code == 0  # a refusal, where that is right
    unknown = found("boundary-no-such-case=why")
    assert unknown.exit_code == 1
    assert "there is no case 'boundary-no-such-case'" in unknown.stdout
    assert parsed(invoke("check", f"{mine}:good", *SMALL, "--xfail", "no", "--json").stdout)["dead"] == ["no"]
    passing = found("ordinary-random-3x4x5=it was bad", of="good")
    assert passing.exit_code == 1
    assert "xpassed: ordinary-random-3x4x5" in passing.stdout
    assert table_of(passing.stdout)["ordinary"]["failed"] == "1"


def test_the_rows_of_the_table_add_up(capsys):
    passed = next(result for result in REPORT.results if result.case.group == "hard")
    failed = passed._replace(error="ValueError: bad")
    refused = failed._replace(case=passed.case._replace(accepts=("truth", "refusal")))
    undecided = passed._replace(quantities=())
    results = [passed] * 2 + [failed] * 3 + [refused] * 5 + [undecided] * 7
    results += [failed._replace(xfail="known")] * 11 + [passed._replace(xfail="known")] * 13
    cli.show_report(REPORT._replace(results=tuple(results)))
    row = table_of(capsys.readouterr().out)["hard"]
    assert row.pop("verdict") == "failed"
    counts = {name: int(count) for name, count in row.items()}
    assert counts == {"cases": 41, "passed": 2, "failed": 16, "undecided": 7, "refused": 5, "xfailed": 11}
    assert counts.pop("cases") == sum(counts.values())
    cli.show_report(REPORT._replace(results=(passed, failed)))
    assert set(table_of(capsys.readouterr().out)["hard"]) == {"cases", "passed", "failed", "undecided", "verdict"}


def test_check_prints_json(mine):
    found = parsed(invoke("check", f"{mine}:bad", *SMALL, "--json").stdout)
    assert not found["passed"]
    assert (found["state"], found["standard"], found["meets"]) == ("does not conform", "working", "")
    assert (found["loss"], found["dtype"], found["framework"], found["device"]) == (
        str(refloss.CosFace()),
        "float32",
        "numpy",
        None,
    )
    assert found["verdicts"]["ordinary"] == "failed"
    names = {entry["name"] for failure in found["failures"] for entry in failure["quantities"]}
    assert names == {"value", "dx", "dw"}
    first = {entry["name"]: entry for entry in found["failures"][0]["quantities"]}
    assert isinstance(first["value"]["got"], float)
    assert first["dw"]["got"] == "nan"

    report = parsed(run("check", f"{mine}:good", *SMALL, "--device", "cpu", "--json"))
    assert (report["state"], report["device"], report["failures"], report["dead"]) == ("conforms", "cpu", [], [])
    assert report["meets"] == REPORT.meets
    assert report["undecided"] == list(REPORT.undecided)
    assert report["notes"] == list(REPORT.notes)


def test_json_numbers():
    numbers = [cli.json_number(number) for number in (1.5, np.float32(2.0), math.inf, -math.inf, NAN)]
    assert numbers == [1.5, 2.0, "inf", "-inf", "nan"]


# ----------------------------------------------------------------------------------------------------- budget and cases


def budget_rows(output):
    """The cells of the table of budgets; an id stands in the first row of its case alone."""
    assert "..." not in output.replace("\N{HORIZONTAL ELLIPSIS}", "...")
    assert max(map(len, output.splitlines())) <= 80
    return [line.split() for line in output.splitlines() if re.search(r" (value|d\w+) ", line)]


@pytest.mark.parametrize("loss", cli.public_losses(), ids=lambda loss: loss.__name__)
def test_budgets_keep_their_numbers_at_80_columns(loss, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = ["value", *(f"d{name}" for name in cli.loss_data(loss, [])["gradients"])]
    quantities = [{"name": name, "largest": 1.2e-308, "allowed": 3.4e-300} for name in names]
    cases = refloss.testing.cases(loss())
    cli.show_budgets("title", [{"case": case.id, "quantities": quantities} for case in cases])
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
    cli.show_budgets("title", [{"case": "a-name-of-many-letters" * 3, "quantities": [number]}])
    assert re.search(r"dpositive +1.2e-308 +nan", capsys.readouterr().out)


def test_budgets_are_those_of_the_library():
    loss, options = refloss.CosFace(), {"dtype": "bfloat16", "standard": "mixed", "accumulate": "float32"}
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    arguments += ["--matmul", "float16", "--seed", 3, "--shape", "4,5,6"]
    found = parsed(run("budget", "--loss", "CosFace()", *arguments, "--json"))
    assert (found["loss"], found["standard"], found["matmul"], found["seed"]) == (str(loss), "mixed", "float16", 3)
    case = refloss.testing.cases(loss, "bfloat16", (4, 5, 6), 3)[0]
    _, grad = loss.value_and_grad(*case.inputs)
    allowed = refloss.testing.budget(loss, *case.inputs, matmul="float16", **options)
    first = found["cases"][0]
    assert (first["case"], first["reason"]) == (case.id, case.reason)
    assert [entry["name"] for entry in first["quantities"]] == ["value", "dx", "dw"]
    assert first["quantities"][1]["largest"] == pytest.approx(np.abs(grad.x).max())
    assert first["quantities"][1]["allowed"] == pytest.approx(np.abs(allowed.gradient.x).max())
    assert first["quantities"][0]["allowed"] == pytest.approx(float(allowed.value))


@pytest.mark.parametrize("command", ["budget", "cases"])
def test_cases_and_budgets_are_of_the_default_shapes(command, monkeypatch):
    monkeypatch.setattr(cli, "budget_data", lambda loss, cases, settings: [cli.case_data(case) for case in cases])
    found = parsed(run(command, "--loss", "Triplet", "--json"))
    listed = found["cases"] if command == "budget" else found
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
    found = parsed(run("cases", *arguments, "--json"))
    cases = refloss.testing.cases(refloss.ArcFace(), "float16", [(4, 5, 6), (2, 2, 3)], 3)
    assert [case["case"] for case in found] == [case.id for case in cases]
    assert found[0] == {
        "case": "ordinary-random-4x5x6",
        "group": "ordinary",
        "reason": cases[0].reason,
        "flags": list(cases[0].flags),
        "accepts": ["truth"],
        "inputs": [[4, 6], [5, 6], [4]],
    }


@pytest.mark.parametrize("shape", ["4", "4,5,0", "a,b,c", "4,5,²"])
def test_a_shape_has_three_sizes(shape):
    assert "expected N,C,D" in error_of(invoke("cases", "--loss", "CosFace()", "--shape", shape))


# ------------------------------------------------------------------------------------------------------------ terminals


@pytest.mark.parametrize("charset", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_characters(mine, charset):
    outputs = [demo(charset=charset), run("losses", charset=charset)]
    refusing = invoke("check", f"{mine}:without_ignored", *SMALL, "--xfail", "boundary-ignored", charset=charset)
    outputs += [refusing.stdout, run("budget", "--loss", "Triplet", "--shape", "2,2,3", charset=charset)]
    assert refusing.exit_code == 0
    for output in outputs:
        assert output.isascii()
        assert "---" in output
        assert max(map(len, output.splitlines())) <= 80


def test_text_of_foreign_code_is_printed_as_it_is(tmp_path):
    (tmp_path / "raises.py").write_text("def f(*_): raise ValueError('[/b] :smile: \\u03b8')")
    arguments = ("check", f"{tmp_path}/raises.py:f", *SMALL, "--group", "ordinary")
    assert "[/b] :smile: \N{GREEK SMALL LETTER THETA}" in invoke(*arguments).stdout
    assert "[/b] :smile: \\u03b8" in invoke(*arguments, charset="ascii").stdout


def test_standard_output_that_encodes_nothing_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    cli.escape_unencodable()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def bar_of(monkeypatch, stdout, stderr, seconds, stop=None):
    """Go through three cases, up to one of them, after which so many seconds have passed."""
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    clock = iter([0.0, *seconds])
    monkeypatch.setattr(cli, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    followed = cli.progress([1, 2, 3])
    assert list(islice(followed, stop)) == [1, 2, 3][:stop]
    followed.close()
    return stdout.getvalue(), stderr.getvalue()


def test_a_bar_shows_after_a_second(monkeypatch):
    printed, bar = bar_of(monkeypatch, Terminal(), Terminal(), [0.5, 2.0, 3.0])
    assert printed == ""
    assert "cases" in bar
    assert "67%" in bar
    assert bar_of(monkeypatch, Terminal(), Terminal(), [0.5, 0.6, 0.7]) == ("", "")


def test_a_bar_goes_away_with_the_cases(monkeypatch):
    _, bar = bar_of(monkeypatch, Terminal(), Terminal(), [2.0, 3.0], stop=2)
    assert bar.count("\x1b[?25l") == bar.count("\x1b[?25h") == 1  # the cursor, hidden and shown


@pytest.mark.parametrize("stdout", [Terminal, io.StringIO])
def test_a_bar_shows_on_no_file_and_never_on_standard_output(monkeypatch, stdout):
    assert bar_of(monkeypatch, stdout(), io.StringIO(), [2.0, 3.0, 4.0]) == ("", "")
    printed, bar = bar_of(monkeypatch, stdout(), Terminal(), [2.0, 3.0, 4.0])
    assert printed == ""
    assert bar
