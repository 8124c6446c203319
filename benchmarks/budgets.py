"""The record budgets.md: budgets tested against implementations that are right and that are wrong.

soundness.py measures correct implementations, verdicts.py what `check` says of right, wrong and public code.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path

import pages
from pages import Measured, Rows
from soundness import DTYPES, LARGE, NEAR

from refloss.testing import budgets

GROUPS = ("ordinary", "boundary", "hard", "range")
ARRAYS = ("rows", "value", "gradients")
"""Whose budgets are compared with real errors: values of rows, the loss's own value, its gradients."""


def sound_table(rows: Rows, titles: dict[str, str]) -> str:
    """Runs, entries, and those over their budget, by the columns that have titles."""
    lines = [
        (
            *key,
            str(len(group)),
            str(sum(row["entries"] for row in group)),
            str(sum(row["decided"] for row in group)),
            str(sum(row["over"] for row in group)),
            f"{max(row['worst'] for row in group):.2g}",
        )
        for key, group in pages.grouped(rows, *titles).items()
    ]
    numbers = ("runs", "entries", "decided", "over budget", "worst share")
    return pages.table((*titles.values(), *numbers), lines, len(titles))


def tight_table(rows: Rows) -> str:
    """Median ratios of the largest budget to the largest error, by loss and dtype."""
    ratios: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_row = row["kind"] == "tight, rows"
        for name, ratio in row["ratios"].items():
            array = ("rows" if by_row else "value") if name == "value" else "gradients"
            if not (by_row and array == "gradients"):
                for loss in (f"`{row['loss']}`", "all of them"):
                    ratios[loss, row["dtype"]][array].append(ratio)
    lines = [
        (loss, dtype, *(f"{statistics.median(by_array[name]):.3g}" if by_array[name] else "–" for name in ARRAYS))
        for (loss, dtype), by_array in sorted(ratios.items(), key=lambda item: DTYPES.index(item[0][1]))
    ]
    return pages.table(("loss", "dtype", "values of rows", "the loss's own value", "gradients"), lines, 2)


def right_table(rows: Rows) -> str:
    """Checks of right code, by dtype and standard."""
    lines = [
        (
            *key,
            str(len({(row["name"], row["framework"], row["loss"]) for row in group})),
            str(len(group)),
            str(sum(row["cases"] for row in group)),
            str(sum(row["entries"] for row in group)),
            str(sum(row["state"] == "does not conform" for row in group)),
            str(sum(row["state"] == "undecided" for row in group)),
        )
        for key, group in pages.grouped(rows, "dtype", "standard").items()
    ]
    titles = ("dtype", "standard", "codes", "checks", "cases", "entries", "refused", "undecided")
    return pages.table(titles, lines, 2)


def standards_table(rows: Rows) -> str:
    """The strictest standard that each right code meets on all seeds, by dtype."""
    lines = []
    for key, group in pages.grouped(rows, "framework", "name", "loss", "standard").items():
        framework, name, loss, standard = key
        meets = {dtype: strictest(checks) for (dtype,), checks in pages.grouped(group, "dtype").items()}
        code = pages.escaped(name.removesuffix(f", {loss}"))
        lines.append((framework, code, f"`{loss}`", standard, *(meets.get(dtype, "–") for dtype in DTYPES)))
    return pages.table(("framework", "code", "reference", "its standard", *DTYPES), lines, 8)


def strictest(checks: Rows) -> str:
    """The strictest standard that all these checks meet."""
    if any(row["state"] == "does not conform" for row in checks):
        return "**refused**"
    ladder = ("", *budgets.STANDARDS)
    return min((row["meets"] for row in checks), key=ladder.index) or "**none**"


def diagnosis(row: pages.Row) -> str:
    """What a check says is wrong."""
    return pages.escaped("; ".join(row["diagnoses"])) or "–"


def wrong_table(rows: Rows) -> str:
    """What checks say of wrong code."""
    refused = {"conforms": "**no**", "undecided": "undecided"}
    lines = [
        (
            pages.escaped(row["name"]),
            f"`{row['loss']}`",
            row["dtype"],
            row["standard"],
            refused.get(row["state"], "yes"),
            str(row["cases"]),
            diagnosis(row),
        )
        for row in sorted(rows, key=lambda row: row["loss"])
    ]
    return pages.table(("code", "reference", "dtype", "standard", "refused", "failing cases", "diagnosis"), lines, 7)


def defects_table(rows: Rows) -> str:
    """What checks say of single defects."""
    lines = [
        (row["loss"], row["defect"], "yes" if row["flagged"] else "**no**", str(row["cases"]), diagnosis(row))
        for row in rows
    ]
    return pages.table(("loss", "defect", "refused", "failing cases", "diagnosis"), lines, 5)


def public_table(rows: Rows) -> str:
    """What checks say of public code, by group of cases."""
    lines = []
    for row in rows:
        verdicts = (row["verdicts"].get(group, "–") for group in GROUPS)
        lines.append((row["name"], row["source"], f"`{row['loss']}`", *verdicts, diagnosis(row)))
    return pages.table(("code", "run", "reference", *GROUPS, "diagnosis"), lines, 8)


def cases_per_dtype(rows: Rows, rounds: int) -> str:
    """Count the cases of all rounds; a round's have the names of another's."""
    counts = {dtype: len(pages.grouped(pages.where(rows, dtype=dtype), "loss", "case")) for dtype in DTYPES}
    return ", ".join(f"{dtype} {count * rounds}" for dtype, count in counts.items())


def write(measured: Measured, right: Measured, wrong: Measured, commit: str, folder: Path) -> None:
    """Write budgets.md."""
    kinds = {kind: rows for (kind,), rows in pages.grouped([*measured.rows, *wrong.rows], "kind").items()}
    parts = (measured, right, wrong)
    total = Measured([], sum(part.rounds for part in parts), sum(part.seconds for part in parts))
    refused = [row for row in kinds["wrong"] if row["state"] != "conforms"]
    n, c, d = LARGE
    pages.write(
        folder,
        "budgets.md",
        counted=cases_per_dtype(kinds["sound"], measured.rounds),
        runs=len(measured.rows),
        entries=sum(row["entries"] for row in measured.rows),
        over=sum(row["over"] for row in measured.rows),
        checks=len(right.rows),
        refusals=len(pages.where(right.rows, state="does not conform")),
        wrong_checks=len(kinds["wrong"]),
        refused=len(refused),
        diagnosed=sum(bool(row["diagnoses"]) for row in refused),
        facts=pages.facts(total, commit, ("numpy", "torch", "jax", "optax", "pytorch-metric-learning")),
        near=NEAR,
        sound=sound_table(kinds["sound"], {"dtype": "dtype", "by": "implementation"}),
        adversarial=sound_table(kinds["adversarial"], {"dtype": "dtype", "case": "inputs", "by": "implementation"}),
        seeds=", ".join(map(str, sorted({row["seed"] for row in right.rows}))),
        right=right_table(right.rows),
        standards=standards_table(right.rows),
        wrong=wrong_table(kinds["wrong"]),
        defects=defects_table(kinds["sharp"]),
        n=n,
        c=c,
        d=d,
        tight=tight_table([*kinds["tight"], *kinds["tight, rows"]]),
        public=public_table(kinds["public"]),
    )
