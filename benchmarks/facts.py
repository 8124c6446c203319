"""What every record says about itself: commit, date, versions, machine; and how tables are written."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import refloss

ROOT = Path(__file__).parents[1]
MATTERS = ("refloss", "benchmarks", "tests", ".ci", "pyproject.toml")


class Measured(NamedTuple):
    """All rows of a measurement."""

    rows: list[dict[str, Any]]
    rounds: int
    seconds: float


def commit() -> str:
    """The commit, marked where what is measured, or what measures, was changed since."""
    return _git("describe", "--always") + ("-dirty" if _changes() else "")


def state() -> str:
    """The commit and, where it is marked, a digest of the changes: rounds of another state are not to be mixed in."""
    changes = _changes()
    return commit() + (f"-{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else "")


def _changes() -> str:
    new = _git("ls-files", "--others", "--exclude-standard", "--", *MATTERS).splitlines()
    return _git("diff", "HEAD", "--", *MATTERS) + "".join((ROOT / path).read_text() for path in new)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()


def lines(measured: Measured, commit: str, packages: Iterable[str]) -> str:
    """The list at the top of a page."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"""\
- commit: {commit}
- date: {time.strftime("%Y-%m-%d")}
- versions: refloss {refloss.__version__}, Python {platform.python_version()}, {versions}
- machine: {platform.machine()}, {cpu()}, {os.cpu_count()} cores, {platform.system()}
- time: {measured.seconds:.0f} s of computing, in {measured.rounds} rounds"""


def cpu() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    found = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in found if line.startswith("model name")), platform.processor()
    )


def table(titles: Iterable[str], rows: Iterable[Iterable[str]], words: int = 1) -> str:
    """A Markdown table; its first columns hold words, the others numbers."""
    titles = list(titles)
    rule = ["---"] * words + ["---:"] * (len(titles) - words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *rows))
