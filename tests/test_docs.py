"""README and the pages of the site: their snippets run, and print what it says they print."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

import refloss

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block, and the text block that follows it."""

    language: str
    source: str
    output: str


def _fences(text: str) -> list[tuple[str, str]]:
    """Language and source of each block, also of one that is indented."""
    return [(language, textwrap.dedent(source)) for _, language, source in FENCE.findall(text)]


def _blocks(page: Path = ROOT / "README.md") -> list[Block]:
    matches = _fences(page.read_text())
    following = [*matches[1:], ("", "")][: len(matches)]
    return [
        Block(language, source, after if kind == "text" else "")
        for (language, source), (kind, after) in zip(matches, following, strict=True)
        if language != "text"
    ]


def _run(command: list[str]) -> str:
    environment = os.environ | {"COLUMNS": "100"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True).stdout


def _without_numbers(text: str) -> str:
    """What does not depend on the machine: the words. Naive code's last digits do depend on it, and so do times."""
    return " ".join(re.sub(r"[-+\d.,]*\d[\d.e+-]*", "#", text).split())


SHELL, PYTHON = ([block for block in _blocks() if block.language == kind] for kind in ("sh", "python"))


def test_there_is_a_snippet_for_each_kind_of_user():
    assert len(PYTHON) >= 3
    assert all(block.output for block in PYTHON + SHELL)


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.source.splitlines()[1])
def test_python_snippets_print_what_is_printed(block):
    if "import torch" in block.source:
        pytest.importorskip("torch", reason="the snippet uses torch")
    if "enclose" in block.source:
        pytest.importorskip("flint", reason="the snippet uses python-flint")
    assert _run([sys.executable, "-c", block.source]).rstrip() == block.output.rstrip()


PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if "node_modules" not in page.parts)
EXAMPLES = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(block for block in _blocks(page) if block.language == "python" and block.output)
]


@pytest.mark.parametrize("block", EXAMPLES)
def test_examples_of_the_site_print_what_is_printed(block, capsys):
    """The site runs them too while it is built; here they are tested without building it.

    All except those of a framework, whose output does not directly follow them.
    """
    for framework in ("torch", "jax", "hypothesis"):
        if f"import {framework}" in block.source or (framework == "hypothesis" and "properties" in block.source):
            pytest.importorskip(framework)
    exec(block.source, {"__name__": "__main__"})
    assert capsys.readouterr().out.rstrip() == block.output.rstrip()


EXACT = ("triplet",)
"""Pages whose case comes out in two decimals."""
WORKED = [
    pytest.param(page, section, id=f"{page.stem}-{heading}")
    for page in PAGES
    for heading in ("By hand", "Exercises")
    if (section := f"{page.read_text()}\n## ".partition(f"\n## {heading}\n")[2].partition("\n## ")[0])
]
"""Sections whose numbers are worked out in words, and printed by the examples in it."""


@pytest.mark.parametrize(("page", "section"), WORKED)
def test_numbers_worked_by_hand_are_printed_by_the_example_below(page, section):
    """Those with three decimals or more; two are as likely given as worked out."""
    printed = {
        round(float(number), 4)
        for language, source in _fences(section)
        if language == "text"
        for number in re.findall(r"\d+\.\d+", source)
    }
    prose = FENCE.sub("", section)
    worked = re.findall(r"\d+\.\d{3,}", prose)
    assert printed
    assert worked or page.stem in EXACT
    assert [number for number in worked if round(float(number), 4) not in printed] == []


def test_the_first_two_shell_lines_are_the_two_commands():
    """`.ci/run` runs both as they stand, each in a new virtual environment."""
    lines = [line for block in SHELL for line in block.source.splitlines()]
    assert lines[0].endswith("refloss demo")
    assert lines[1].endswith("pytest")


def test_every_record_is_named_where_it_is_told_how_to_make_them():
    record = (ROOT / "benchmarks" / "record.py").read_text()
    names = re.findall(r'^    "(\w+)": Record\(', record, re.MULTILINE)
    told = (ROOT / "CONTRIBUTING.md").read_text().partition("all of it or by name:")[2].partition(".")[0]
    assert sorted(names) == sorted(re.findall(r"`(\w+)`", told))


def test_readme_wants_the_node_that_the_site_wants():
    wanted = json.loads((ROOT / "docs" / "package.json").read_text())["engines"]["node"]
    assert f"Node {wanted.removeprefix('>=')} or later" in " ".join((ROOT / "README.md").read_text().split())


def test_the_demo_prints_what_is_printed():
    pytest.importorskip("typer", reason="the command line is an extra")
    output = _run(
        [sys.executable, "-c", "import sys; sys.argv = ['refloss', 'demo']; from refloss.cli import main; main()"]
    )
    assert _without_numbers(output) == _without_numbers(SHELL[0].output)


def test_the_property_checks_run_as_printed():
    arguments = SHELL[2].source.split()[1:]
    output = _run(
        [
            sys.executable,
            "-m",
            "pytest",
            *(argument.strip('"') for argument in re.findall(r'"[^"]*"|\S+', " ".join(arguments))),
        ]
    )
    counts, of_readme = (_without_numbers(text.splitlines()[-1]) for text in (output, SHELL[2].output))
    assert counts.removesuffix(" (#:#:#)") == of_readme  # which pytest adds from a minute on


def test_the_table_of_losses_is_whole():
    table = (ROOT / "README.md").read_text().partition("## The losses")[2].partition("## ")[0]
    for name in refloss.__all__:
        if name[0].isupper() and name != "AccuracyWarning":
            assert f"`{name}" in table


def test_accuracy_names_only_recorded_figures():
    """What README says was measured stands in docs/records."""
    section = (ROOT / "README.md").read_text().partition("## How accurate")[2].partition("## ")[0]
    records = "".join(path.read_text() for path in sorted((ROOT / "docs/records").glob("*.md")))
    for figure in re.findall(r"\*\*([\d.,]+)u?\*\*", section):
        assert figure in records, f"{figure} is in no record"
