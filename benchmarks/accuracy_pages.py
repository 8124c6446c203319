"""Writes the records chain.md, fused.md, dd.md and certified.md from what accuracy.py and engine_times.py measure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import engine_times
import pages
from accuracy import DIGITS, MPMATH_DIGITS, REGIMES
from pages import Measured, Row, Rows


def groups(rows: Rows, column: str) -> Iterator[tuple[str, Rows]]:
    """Rows by loss, or by regime in the order of REGIMES."""
    by_value = pages.grouped(rows, column)
    keys = [(regime,) for regime, _ in REGIMES] if column == "regime" else list(by_value)
    yield from ((key[0], by_value[key]) for key in keys if key in by_value)


def errors_table(rows: Rows, column: str, engine: str) -> str:
    """Cases and largest errors, by loss or by regime."""
    lines = []
    for key, group in groups(rows, column):
        value, value_share, gradient, gradient_share = (
            max(row[engine][name] for row in group) for name in ("value", "value share", "gradient", "gradient share")
        )
        lines.append((
            key, str(len(group)), f"{value:.3g}", f"{value_share:.2f}", f"{gradient:.3g}", f"{gradient_share:.2f}",
        ))  # fmt: skip
    title = {"kind": "loss"}.get(column, column)
    return pages.table((title, "cases", "value, u", "share of allowed", "gradient, u", "share of allowed"), lines)


def worst_table(rows: Rows, engine: str, count: int = 5) -> str:
    """The cases with the largest shares of what is allowed, and all that are over it."""

    def share(row: Row) -> float:
        return max(row[engine]["value share"], row[engine]["gradient share"])

    ordered = sorted(rows, key=share, reverse=True)
    over = sum(share(row) > 1.0 for row in rows)
    lines = [
        (f"`{row['loss']}`", row["name"], str(row["seed"]), f"{row[engine]['value']:.3g}",
         f"{row[engine]['gradient']:.3g}", f"{share(row):.2f}")
        for row in ordered[: max(count, min(over, 100))]
    ]  # fmt: skip
    return pages.table(("loss", "case", "round", "value, u", "gradient, u", "share of allowed"), lines, words=2)


def write_engine(engine: str, measured: Measured, commit: str, folder: Path, times: str = "") -> None:
    """Write the page of an engine that is tested against enclosures."""
    rows = measured.rows
    results = [row[engine] for row in rows]
    pages.write(
        folder,
        f"{engine}.md",
        template="engine.md",
        engine=engine,
        digits=DIGITS,
        cases=len(rows),
        rounds=measured.rounds,
        over=sum(result["value share"] > 1.0 or result["gradient share"] > 1.0 for result in results),
        not_finite=sum(not math.isfinite(result["value"] + result["gradient"]) for result in results),
        facts=pages.facts(measured, commit, ("numpy", "numba", "python-flint", "mpmath", "gmpy2")),
        by_loss=errors_table(rows, "kind", engine),
        by_regime=errors_table(rows, "regime", engine),
        worst=worst_table(rows, engine),
        times=times,
    )


def write_chain(measured: Measured, commit: str, folder: Path) -> None:
    """Write chain.md."""
    write_engine("chain", measured, commit, folder)


def write_fused(measured: Measured, commit: str, folder: Path) -> None:
    """Write fused.md: in float64, where the contract is the chain's."""
    write_engine("fused", measured, commit, folder)


def write_dd(measured: Measured, times: Measured, commit: str, folder: Path) -> None:
    """Write dd.md."""
    write_engine("dd", measured, commit, folder, engine_times.engines_table(times.rows))


COUNTS = {  # a column's title by its name in the rows
    "entries": "entries",
    "failed": "failed",
    "zeros": "exact zeros",
    "zeros proven": "proven 0",
    "undecided": "undecided",
    "kinks": "notes of kinks",
    "bits": "most bits",
}


def certified_counts(rows: Rows) -> dict[str, int]:
    """Sums over cases, and the most bits."""
    counts = [row["certified"] for row in rows]
    return {name: (max if name == "bits" else sum)(each[name] for each in counts) for name in COUNTS}


def certified_table(rows: Rows, column: str) -> str:
    """Counts by loss or by regime, and of all."""
    lines = [
        (key, str(len(group)), *map(str, certified_counts(group).values()))
        for key, group in (*groups(rows, column), ("all", rows))
    ]
    return pages.table(({"kind": "loss"}.get(column, column), "cases", *COUNTS.values()), lines)


def write_certified(measured: Measured, times: Measured, commit: str, folder: Path) -> None:
    """Write certified.md."""
    rows = measured.rows
    pages.write(
        folder,
        "certified.md",
        digits=DIGITS,
        mpmath_digits=MPMATH_DIGITS,
        cases=len(rows),
        rounds=measured.rounds,
        counts=certified_counts(rows),
        facts=pages.facts(measured, commit, ("numpy", "python-flint", "mpmath", "gmpy2")),
        by_loss=certified_table(rows, "kind"),
        by_regime=certified_table(rows, "regime"),
        times=engine_times.enclosures_table(times.rows),
    )
