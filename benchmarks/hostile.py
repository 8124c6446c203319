"""The record hostile.md: every engine on inputs drawn to break its promise, against `certified`."""

from __future__ import annotations

import warnings
from pathlib import Path

import pages
from pages import Measured, Row, Rows

from support import hostile_cases

SEEDS = range(5000, 5032)
CASES = 800
"""In a round."""


def measured(seed: int) -> Rows:
    """One round: a row for each kind and engine, and one for each case that is over its bound."""
    rows: dict[tuple[str, str], Row] = {}
    over: Rows = []
    for number in range(CASES):
        case = hostile_cases.drawn(seed, number)
        truth = hostile_cases.truth_of(case)
        for engine in hostile_cases.ENGINES:
            if "float32" in engine and not case.single:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of scales at which nothing is promised
                outcome = hostile_cases.outcome(case, engine, truth)
            empty = {"kind": case.kind, "engine": engine, "cases": 0, "refused": 0, "value": 0.0, "gradient": 0.0}
            row = rows.setdefault((case.kind, engine), empty | {"no truth": 0})
            row["cases"] += 1
            row["refused"] += outcome.note.startswith("refused")
            row["no truth"] += outcome.note.startswith("no truth")
            share = max(outcome.value, outcome.gradient)
            if share <= 1.0:
                row["value"] = max(row["value"], outcome.value)
                row["gradient"] = max(row["gradient"], outcome.gradient)
            else:
                over.append({"seed": seed, "number": number, "loss": repr(case.loss), "engine": engine}
                            | {"kind": case.kind, "share": share})  # fmt: skip
    return [*rows.values(), *over]


def line(rows: Rows, over: Rows, **group: str) -> tuple[str, ...]:
    """Counts and largest shares of an engine's cases, or of those of one kind."""
    group_rows, group_over = pages.where(rows, **group), pages.where(over, **group)
    counts = [str(sum(row[name] for row in group_rows)) for name in ("cases", "refused", "no truth")]
    shares = [f"{max(row[name] for row in group_rows):.2f}" for name in ("value", "gradient")]
    return (*group.values(), *counts, str(len(group_over)), *shares)


def write(measured: Measured, commit: str, folder: Path) -> None:
    """Write hostile.md: cases by engine and kind, the largest shares, and each case over its bound."""
    rows = [row for row in measured.rows if "cases" in row]
    over = [row for row in measured.rows if "cases" not in row]
    by_kind = [
        line(rows, over, kind=kind, engine=engine)
        for engine in hostile_cases.ENGINES for kind in hostile_cases.KINDS
        if pages.where(rows, kind=kind, engine=engine)
    ]  # fmt: skip
    worst = [
        (f"`{row['loss']}`", row["engine"], row["kind"], f"{row['seed']}, {row['number']}", f"{row['share']:.3g}")
        for row in over[:100]
    ]
    counts = ("cases", "refused", "no truth", "over", "value", "gradients")
    pages.write(
        folder,
        "hostile.md",
        cases=sum(row["cases"] for row in pages.where(rows, engine="chain")),
        rounds=measured.rounds,
        over=len(over),
        facts=pages.facts(measured, commit, ("numpy", "numba", "python-flint")),
        by_engine=pages.table(
            ("engine", *counts), [line(rows, over, engine=engine) for engine in hostile_cases.ENGINES]
        ),
        by_kind=pages.table(("kind", "engine", *counts), by_kind, words=2),
        worst=pages.table(("loss", "engine", "kind", "case", "share"), worst, words=3) if worst else "None.",
    )
