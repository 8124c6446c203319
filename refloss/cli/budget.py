"""``refloss budget``: how far a correct implementation may be off in each case of a loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from refloss import testing
from refloss.cli.options import Accumulate, AsJson, Dtype, LossOption, Matmul, Seed, Shapes, Standard
from refloss.cli.printing import json_number, make_console, make_table, show_json
from refloss.cli.refusals import refusing
from refloss.error_free import Array
from refloss.testing.budgets import truth
from refloss.testing.hard_cases import Case
from refloss.testing.signatures import Loss


class QuantityBudget(TypedDict):
    """The value, or one gradient, in one case."""

    name: str
    largest: float | str
    """The largest magnitude of an entry."""
    allowed: float | str
    """The largest error allowed."""


class CaseBudget(TypedDict):
    """A case with the budgets of its quantities."""

    case: str
    reason: str
    quantities: list[QuantityBudget]


def command(
    loss: LossOption,
    dtype: Dtype = "float32",
    shapes: Shapes = None,
    standard: Standard = "working",
    accumulate: Accumulate = None,
    matmul: Matmul = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Show how far a correct implementation may be off in each case of a loss."""
    settings = {"dtype": dtype, "standard": standard, "accumulate": accumulate, "matmul": matmul}
    with refusing():
        budgets = budget_data(loss, testing.cases(loss, dtype, shapes or None, seed), settings)
    if as_json:
        show_json({"loss": str(loss), **settings, "seed": seed, "cases": budgets})
    else:
        show_budgets(f"{loss} in {dtype}, standard {standard}", budgets)


def budget_data(loss: Loss, cases: Iterable[Case], settings: Mapping[str, Any]) -> list[CaseBudget]:
    """Return, for each case that has a truth, the largest entry of each quantity and the largest error allowed."""
    return [
        {
            "case": case.id,
            "reason": case.reason,
            "quantities": [
                {"name": name, "largest": json_number(largest(exact)), "allowed": json_number(largest(allowed))}
                for name, exact, allowed in quantities(loss, case.inputs, settings)
            ],
        }
        for case in cases
        if "truth" in case.accepts
    ]


def quantities(loss: Loss, inputs: Sequence[Any], settings: Mapping[str, Any]) -> Iterator[tuple[str, Array, Array]]:
    """Yield the value and each gradient: name, truth and budget."""
    value, gradient = truth(loss, inputs)
    allowed = testing.budget(loss, *inputs, **settings)
    yield "value", value, allowed.value
    for name, part in gradient._asdict().items():
        if part is not None:  # no bias, no gradient of one
            yield f"d{name}", part, getattr(allowed.gradient, name)


def largest(entries: Array) -> float:
    """Return the largest magnitude, or NaN if there is one."""
    return float(np.abs(entries).max())


def show_budgets(title: str, budgets: Iterable[CaseBudget]) -> None:
    """Print a table with one row per quantity, which 80 columns hold for every loss."""
    table = make_table()
    table.add_column("case", overflow="fold")
    for header in ("quantity", "largest", "allowed"):
        table.add_column(header, justify="left" if header == "quantity" else "right", no_wrap=True)
    for budget in budgets:
        for place, quantity in enumerate(budget["quantities"]):
            numbers = (f"{float(number):.2g}" for number in (quantity["largest"], quantity["allowed"]))
            table.add_row("" if place else budget["case"], quantity["name"], *numbers)
    console = make_console()
    console.print(f"{title}: the largest entry, and the largest error that rounding explains\n")
    console.print(table)
