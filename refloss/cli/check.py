"""``refloss check``: a user's function against a loss."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer
from typer import Argument, Option

from refloss import testing
from refloss.cli.loading import load_function
from refloss.cli.options import Accumulate, AsJson, Dtype, LossOption, Matmul, Seed, Shapes, Standard, choices
from refloss.cli.printing import json_number, make_console, make_table, progress, show_json
from refloss.cli.refusals import refusing
from refloss.losses import Loss
from refloss.testing.adapters import FRAMEWORKS
from refloss.testing.hard_cases import GROUPS
from refloss.testing.report import Report, Result


def command(
    target: Annotated[
        Any, Argument(parser=refusing()(load_function), metavar="TARGET", help="module:function or path.py:function")
    ],
    loss: LossOption,
    framework: Annotated[str, Option(metavar=choices(FRAMEWORKS), help="what it takes")] = "numpy",
    dtype: Dtype = "float32",
    shapes: Shapes = None,
    groups: Annotated[
        list[str] | None,
        Option("--group", metavar=choices(GROUPS), help="a group of cases; several may be named"),
    ] = None,
    standard: Standard = "working",
    accumulate: Accumulate = None,
    matmul: Matmul = None,
    seed: Seed = 0,
    device: Annotated[str | None, Option(help="where tensors are made")] = None,
    xfail: Annotated[
        list[str] | None,
        Option(metavar="CASE[=REASON]", help="a case that is known to fail, with or without its shape; repeatable"),
    ] = None,
    no_ignored: Annotated[bool, Option("--no-ignored", help="The code has no ignored labels.")] = False,
    soft: Annotated[bool, Option("--soft", help="The code takes probabilities for labels.")] = False,
    value_only: Annotated[bool, Option("--value-only", help="Look at the value alone.")] = False,
    as_json: AsJson = False,
) -> None:
    """Test a function against a loss: exit status 0 if it conforms, 1 if not, 2 if the call is wrong.

    A function of which some quantity could not be decided does not conform.
    """
    report = run_check(
        target,
        loss,
        framework=framework,
        dtype=dtype,
        device=device,
        shapes=shapes or None,
        groups=groups or GROUPS,
        standard=standard,
        accumulate=accumulate,
        matmul=matmul,
        gradients=not value_only,
        ignored=not no_ignored,
        soft=soft,
        xfail=dict(map(parse_xfail, xfail or ())),
        seed=seed,
        track=iter if as_json else progress,
    )
    show_json(report_data(report)) if as_json else show_report(report)
    raise typer.Exit(0 if report.passed else 1)


def parse_xfail(text: str) -> tuple[str, str]:
    """Split "case=reason", or name a reason for a case alone; a reason may hold "="."""
    case, _, reason = text.partition("=")
    return case.strip(), reason.strip() or "known to fail"


def run_check(target: Callable[..., Any], loss: Loss, **settings: Any) -> Report:
    """Call `refloss.testing.check`; what the code under check prints goes to standard error.

    A SystemExit, were one to come through, would end the process with a status of its own before there is a report.
    """
    try:
        with refusing(), redirect_stdout(sys.stderr):
            return testing.check(target, loss, **settings)
    except SystemExit as error:
        typer.echo(f"refloss: SystemExit({error.code!r}) before there was a report", err=True)
        raise typer.Exit(1) from None


def count_results(report: Report) -> dict[str, dict[str, int]]:
    """Count the cases of each group, and their results by status; one that passed against expectation has failed."""
    counts = {}
    for group in report.verdicts:
        statuses = Counter(result.status for result in report.results if result.case.group == group)
        counts[group] = {
            "cases": statuses.total(),
            "passed": statuses["passed"],
            "failed": statuses["failed"] + statuses["xpassed"],
            "undecided": statuses["undecided"],
            "refused": statuses["refused"],
            "xfailed": statuses["xfailed"],
        }
    return counts


def show_report(report: Report) -> None:
    """Print a table of the groups, and below it what failed and why."""
    counts = count_results(report)
    rare = [name for name in ("refused", "xfailed") if any(count[name] for count in counts.values())]
    columns = ["cases", "passed", "failed", "undecided", *rare]
    table = make_table()
    for header in ("group", *columns, "verdict"):
        table.add_column(header)
    for group, count in counts.items():
        table.add_row(group, *(str(count[column]) for column in columns), report.verdicts[group])
    console = make_console()
    console.print(table)
    console.print()
    console.print(str(report))


def report_data(report: Report) -> dict[str, object]:
    """Return the report in numbers and strings alone."""
    return {
        "loss": str(report.loss),
        "dtype": report.dtype,
        "framework": report.framework,
        "device": report.device or None,
        "standard": report.standard,
        "passed": report.passed,
        "state": report.state,
        "meets": report.meets,
        "verdicts": report.verdicts,
        "counts": count_results(report),
        "undecided": list(report.undecided),
        "notes": list(report.notes),
        "diagnoses": list(report.diagnoses),
        "dead": list(report.dead),
        "stale": list(report.stale),
        "failures": [result_data(result) for result in report.results if result.status in ("failed", "xpassed")],
    }


def result_data(result: Result) -> dict[str, object]:
    """Return a case that failed, with those of its quantities that did."""
    return {
        "case": result.case.id,
        "reason": result.case.reason,
        "status": result.status,
        "error": result.error,
        "quantities": [
            {"name": quantity.name, "where": list(quantity.where), "over": quantity.over}
            | {"complaint": quantity.complaint}
            | {name: json_number(getattr(quantity, name)) for name in ("got", "expected", "allowed", "share")}
            for quantity in result.quantities
            if not quantity.passed
        ],
    }
