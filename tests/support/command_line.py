"""The command line in this process: what it prints, as text and as JSON, and its errors."""

import json
from functools import cache

import pytest
from typer.testing import CliRunner

import refloss
from refloss import testing
from refloss.cli.app import app
from refloss.testing import naive


def invoke(*arguments, columns=80, charset="utf-8"):
    # FORCE_COLOR and the like would make rich take the runner for a terminal.
    env = {"COLUMNS": str(columns), "FORCE_COLOR": None, "TTY_COMPATIBLE": None}
    return CliRunner(charset=charset).invoke(app, list(map(str, arguments)), env=env)


def run(*arguments, **terminal):
    result = invoke(*arguments, **terminal)
    assert result.exit_code == 0, result.output
    return result.stdout


def parsed(text):
    """Parse JSON, and refuse NaN and Infinity, which are none."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def error_of(result):
    """The one line that says what is wrong with a call."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert line == result.stderr.splitlines()[-1]
    return line


SMALL = ("--loss", "CosFace()", "--shape", "3,4,5")


@cache
def demo(columns=80, charset="utf-8"):
    """What the demo prints, with a report that is computed only once."""
    report = naive_report()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testing, "check", lambda *_, **__: report)
        return run("demo", columns=columns, charset=charset)


@cache
def naive_report():
    """The report on the naive ArcFace, the same that the demo prints."""
    return testing.check(naive.arcface_value_and_grad, refloss.ArcFace(), dtype="float64")
