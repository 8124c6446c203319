"""What commands print with: tables and JSON on standard output, a progress bar on standard error."""

from __future__ import annotations

import io
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

T = TypeVar("T")


def escape_unencodable() -> None:
    r"""Write characters that standard output's encoding lacks as escapes such as \u2016, where Python would raise."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def make_console() -> Console:
    """Return a console on standard output that takes text as it is; colours only where rich finds a terminal."""
    return Console(highlight=False, markup=False, emoji=False)


def make_table(**settings: Any) -> Table:
    """Return a table with a line below its head, which is ASCII where the console is."""
    head = box.SIMPLE_HEAD
    if make_console().options.ascii_only:
        head = box.Box(str(head).replace("\N{BOX DRAWINGS LIGHT HORIZONTAL}", "-"), ascii=True)
    return Table(box=head, show_edge=False, **settings)


def show_json(data: object) -> None:
    """Print JSON, which is ASCII."""
    typer.echo(json.dumps(data, indent=2, allow_nan=False))


def json_number(value: float) -> float | str:
    """Return a number as JSON can hold it: one that is not finite becomes "nan", "inf" or "-inf"."""
    return float(value) if math.isfinite(value) else str(float(value))


def progress(cases: Sequence[T]) -> Iterator[T]:
    """Yield the cases, with a bar on standard error if that is a terminal, once they take more than a second."""
    bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    start = time.monotonic()
    task = bar.add_task("cases", total=len(cases))
    try:
        for case in cases:
            yield case
            bar.advance(task)
            if time.monotonic() - start > 1.0:
                bar.start()
    finally:
        if bar.live.is_started:
            bar.stop()
