"""``refloss check``: exit status, report and options."""

import inspect
import sys

import pytest

import refloss
from refloss import testing
from refloss.cli.check import show_report
from refloss.cli.printing import progress
from refloss.testing import conformance
from support.command_line import SMALL, error_of, invoke, parsed, run


@pytest.fixture
def settings(monkeypatch):
    """The arguments with which the command line calls `testing.check`."""
    arguments = {}

    def record(fn, loss, **settings):
        arguments.update(settings, fn=fn, loss=loss)
        return REPORT

    monkeypatch.setattr(testing, "check", record)
    return arguments


def good(x, w, y):
    value, grad = refloss.CosFace().value_and_grad(x, w, y)
    return value, grad.x, grad.w


REPORT = testing.check(good, refloss.CosFace(), shapes=(3, 4, 5))


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
    monkeypatch.setattr(testing, "check", lambda *_, **__: sys.exit(code))
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
    assert settings.pop("track") is progress
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
    library = inspect.signature(conformance.check).parameters
    assert settings.pop("xfail") == (library["xfail"].default or {})
    assert settings == {name: library[name].default for name in settings}


def test_expected_failures(mine):
    def check(*expected, of="without_ignored"):
        arguments = [text for name in expected for text in ("--xfail", name)]
        return invoke("check", f"{mine}:{of}", *SMALL, *arguments)

    assert check().exit_code == 0  # a refusal, where that is right
    unknown = check("boundary-no-such-case=why")
    assert unknown.exit_code == 1
    assert "there is no case 'boundary-no-such-case'" in unknown.stdout
    assert parsed(invoke("check", f"{mine}:good", *SMALL, "--xfail", "no", "--json").stdout)["dead"] == ["no"]
    passing = check("ordinary-random-3x4x5=it was bad", of="good")
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
    show_report(REPORT._replace(results=tuple(results)))
    row = table_of(capsys.readouterr().out)["hard"]
    assert row.pop("verdict") == "failed"
    counts = {name: int(count) for name, count in row.items()}
    assert counts == {"cases": 41, "passed": 2, "failed": 16, "undecided": 7, "refused": 5, "xfailed": 11}
    assert counts.pop("cases") == sum(counts.values())
    show_report(REPORT._replace(results=(passed, failed)))
    assert set(table_of(capsys.readouterr().out)["hard"]) == {"cases", "passed", "failed", "undecided", "verdict"}


def test_check_prints_json(mine):
    printed = parsed(invoke("check", f"{mine}:bad", *SMALL, "--json").stdout)
    assert not printed["passed"]
    assert (printed["state"], printed["standard"], printed["meets"]) == ("does not conform", "working", "")
    assert (printed["loss"], printed["dtype"], printed["framework"], printed["device"]) == (
        str(refloss.CosFace()),
        "float32",
        "numpy",
        None,
    )
    assert printed["verdicts"]["ordinary"] == "failed"
    names = {entry["name"] for failure in printed["failures"] for entry in failure["quantities"]}
    assert names == {"value", "dx", "dw"}
    first = {entry["name"]: entry for entry in printed["failures"][0]["quantities"]}
    assert isinstance(first["value"]["got"], float)
    assert first["dw"]["got"] == "nan"

    report = parsed(run("check", f"{mine}:good", *SMALL, "--device", "cpu", "--json"))
    assert (report["state"], report["device"], report["failures"], report["dead"]) == ("conforms", "cpu", [], [])
    assert report["meets"] == REPORT.meets
    assert report["undecided"] == list(REPORT.undecided)
    assert report["notes"] == list(REPORT.notes)
