"""What commands print with: JSON, terminals that lack characters, the progress bar."""

import io
import math
import sys
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from refloss.cli import printing
from support.command_line import SMALL, demo, invoke, run


def test_json_numbers():
    numbers = [printing.json_number(number) for number in (1.5, np.float32(2.0), math.inf, -math.inf, math.nan)]
    assert numbers == [1.5, 2.0, "inf", "-inf", "nan"]


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
    printing.escape_unencodable()


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
    monkeypatch.setattr(printing, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    yielded = printing.progress([1, 2, 3])
    assert list(islice(yielded, stop)) == [1, 2, 3][:stop]
    yielded.close()
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
