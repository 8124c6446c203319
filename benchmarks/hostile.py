"""Inputs drawn to break a promise: what every engine makes of them, against `certified`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import facts

from support import hostile_cases

SEEDS = range(5000, 5032)
CASES = 800
"""In a round."""


def measured(seed: int) -> list[dict[str, Any]]:
    """One round: a row for each kind and engine, and one for each case that is over its bound."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    over = []
    for number in range(CASES):
        case = hostile_cases.drawn(seed, number)
        truth = hostile_cases.truth_of(case)
        for engine in hostile_cases.ENGINES:
            if "float32" in engine and not case.single:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of scales at which nothing is promised
                found = hostile_cases.outcome(case, engine, truth)
            empty = {"kind": case.kind, "engine": engine, "cases": 0, "refused": 0, "value": 0.0, "gradient": 0.0}
            row = rows.setdefault((case.kind, engine), empty | {"no truth": 0})
            row["cases"] += 1
            row["refused"] += found.note.startswith("refused")
            row["no truth"] += found.note.startswith("no truth")
            if max(found.value, found.gradient) <= 1.0:
                row["value"], row["gradient"] = max(row["value"], found.value), max(row["gradient"], found.gradient)
            else:
                over.append({"seed": seed, "number": number, "loss": repr(case.loss), "engine": engine}
                            | {"kind": case.kind, "share": max(found.value, found.gradient)})  # fmt: skip
    return [*rows.values(), *over]


def write(measured: Any, commit: str, out: Path) -> None:
    """Write docs/records/hostile.md: cases by engine and kind, the largest shares, and each case over its bound."""
    rows = [row for row in measured.rows if "cases" in row]
    over = [row for row in measured.rows if "cases" not in row]
    whole = sum(row["cases"] for row in rows if row["engine"] == "chain")

    def line(some: list[dict[str, Any]], wrong: list[dict[str, Any]], *titles: str) -> tuple[str, ...]:
        counts = [str(sum(row[name] for row in some)) for name in ("cases", "refused", "no truth")]
        shares = [f"{max(row[name] for row in some):.2f}" for name in ("value", "gradient")]
        return (*titles, *counts, str(len(wrong)), *shares)

    by_engine, by_kind = [], []
    for engine in hostile_cases.ENGINES:
        some, wrong = ([row for row in part if row["engine"] == engine] for part in (rows, over))
        by_engine.append(line(some, wrong, engine))
        for kind in hostile_cases.KINDS:
            one, bad = ([row for row in part if row["kind"] == kind] for part in (some, wrong))
            by_kind += [line(one, bad, kind, engine)] if one else []
    counts = ("cases", "refused", "no truth", "over", "value", "gradients")
    worst = [
        (f"`{row['loss']}`", row["engine"], row["kind"], f"{row['seed']}, {row['number']}", f"{row['share']:.3g}")
        for row in over[:100]
    ]
    found = facts.table(("loss", "engine", "kind", "case", "share"), worst, words=3) if worst else "None."
    (out / "hostile.md").write_text(
        f"""\
# Inputs drawn to break a promise

Written by `.ci/record`. Cases are drawn from the kinds of inputs on which a promise was broken once: scales from 1e-300
to 1e300, mixed magnitudes in a row, subnormal numbers, equal and opposite vectors, hundreds of equal samples, classes
or dimensions, triplets next to the hinge, targets next to a fold, masked, huge and confident logits, probabilities and
weights of any sign, smoothing and upstream gradients at the ends of their ranges
(`hostile_cases.drawn(round, number)` in tests/ gives each again). A share is an error as a part of what
`refloss.error_bound` allows, the largest of values and of gradients below; the truth is `certified`, correctly rounded.
Refused are inputs whose logits float64 cannot hold, or that are no input; without a truth are those that `certified`
refuses or leaves undecided.

- cases: {whole} in {measured.rounds} rounds
- over the bound: {len(over)}
{facts.lines(measured, commit, ("numpy", "numba", "python-flint"))}

## By engine

{facts.table(("engine", *counts), by_engine)}

## By kind

{facts.table(("kind", "engine", *counts), by_kind, words=2)}

## Over the bound

{found}
"""
    )
