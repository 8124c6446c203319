"""What all pages of docs/records/ share: facts of the measurement and the machine, tables, and templates/.

A page is its template, a Markdown file of the same name, filled by the module that measures it.
"""

from __future__ import annotations

import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

import refloss

Row = dict[str, Any]
"""One result, as JSON keeps it."""
Rows = list[Row]

ROOT = Path(__file__).parents[1]
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
    trim_blocks=True,
    autoescape=False,  # Markdown, not HTML
)


class Measured(NamedTuple):
    """All rows of a measurement, the number of its rounds and the seconds that they took together."""

    rows: Rows
    rounds: int
    seconds: float


def write(folder: Path, name: str, template: str = "", **fields: Any) -> None:
    """Write the page `name` from the template of that name, or from another one."""
    (folder / name).write_text(TEMPLATES.get_template(template or name).render(fields))


def facts(measured: Measured, commit: str, packages: Iterable[str], rounds: str = "rounds") -> str:
    """Commit, date, versions, machine and time: the list near the top of each page."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"""\
- commit: {commit}
- date: {time.strftime("%Y-%m-%d")}
- versions: refloss {refloss.__version__}, Python {platform.python_version()}, {versions}
- machine: {platform.machine()}, {cpu()}, {os.cpu_count()} cores, {platform.system()}
- time: {measured.seconds:.0f} s of computing, in {measured.rounds} {rounds}"""


def cpu() -> str:
    """The processor's name, where the system has it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def table(titles: Iterable[str], rows: Iterable[Iterable[str]], words: int = 1) -> str:
    """Return a Markdown table; its first `words` columns hold words, the others numbers."""
    titles = list(titles)
    rule = ["---"] * words + ["---:"] * (len(titles) - words)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *rows))


def escaped(text: str) -> str:
    """Return a text as a cell of a table may hold it."""
    return text.replace("|", "\\|")


def where(rows: Rows, **columns: Any) -> Rows:
    """Rows that have these values in these columns."""
    return [row for row in rows if all(row[name] == value for name, value in columns.items())]


def grouped(rows: Rows, *columns: str) -> dict[tuple[Any, ...], Rows]:
    """Rows by their values in these columns, in the order in which the values first occur."""
    groups: dict[tuple[Any, ...], Rows] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in columns)].append(row)
    return groups
