"""The command line: ``refloss check``, ``budget``, ``cases``, ``demo``, ``losses``, and ``refloss --version``.

It needs the extra ``cli``. Typer and rich are imported when a command runs, and everything that is computed here, the
comparison and the verdicts, does without them.
"""

# Without `from __future__ import annotations`: typer evaluates annotations, and its own name is none of this module's.

import ast
import importlib.util
import io
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import Field, fields
from functools import reduce
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast, get_args, get_type_hints

import numpy as np

import refloss
from refloss.error_free import Array, u
from refloss.formats import FORMATS, PRECISION_BITS
from refloss.messages import shown
from refloss.testing import Report, naive
from refloss.testing import budget as budget_of
from refloss.testing import cases as cases_of
from refloss.testing import check as check_code
from refloss.testing.adapters import FRAMEWORKS
from refloss.testing.budgets import STANDARDS, truth
from refloss.testing.hard_cases import GROUPS

if TYPE_CHECKING:
    import typer
    from rich.console import Console
    from rich.table import Table

AGREES = 100.0
"""Errors below this many units of roundoff, less than two of sixteen digits, count as agreement."""
NOTHING_LEFT = 0.1
"""A relative error from here on leaves no digit right."""


def main() -> None:
    """Run the command line, or say in one line what is missing."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError:
        raise SystemExit("refloss: the command line needs typer and rich: pip install 'refloss[cli]'") from None
    application()(prog_name="refloss")


def application() -> "typer.Typer":
    """Build the command line."""
    import typer
    from typer import Option

    # Without rich's panels an error is one line, however narrow the terminal, and ascii.
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(refloss.__version__)
            raise typer.Exit

    @app.callback()
    def root(
        version: Annotated[
            bool, Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
        ] = False,
    ) -> None:
        """The numerical truth about softmax and margin losses."""
        escape_unencodable()

    # Names of dtypes, standards and groups are refused by the library, which has the only list of them.
    target = Annotated[
        Any, typer.Argument(parser=refusing()(target_of), metavar="TARGET", help="module:function or path.py:function")
    ]
    loss = Annotated[
        Any, Option(parser=refusing()(loss_of), metavar="LOSS", help='as in Python: "ArcFace(s=64.0, m=0.5)"')
    ]
    dtype = Annotated[str, Option(metavar=one_of(FORMATS), help="what it computes in")]
    shape = Annotated[
        list[Any] | None,
        Option(parser=refusing()(shape_of), metavar="N,C,D", help="of the cases; several may be given"),
    ]
    seed = Annotated[int, Option(min=0, help="of the random numbers")]
    standard = Annotated[str, Option(metavar=one_of(STANDARDS), help="what counts as right")]
    accumulate = Annotated[str | None, Option(metavar=one_of(FORMATS), help="what sums are accumulated in")]
    matmul = Annotated[
        str | None, Option(metavar=one_of(PRECISION_BITS), help="what matrix products round their factors to")
    ]
    as_json = Annotated[bool, Option("--json", help="Print JSON.")]

    @app.command("check")
    def check(
        target: target,
        loss: loss,
        framework: Annotated[str, Option(metavar=one_of(FRAMEWORKS), help="what it takes")] = "numpy",
        dtype: dtype = "float32",
        shape: shape = None,
        group: Annotated[
            list[str] | None, Option(metavar=one_of(GROUPS), help="a group of cases; several may be named")
        ] = None,
        standard: standard = "working",
        accumulate: accumulate = None,
        matmul: matmul = None,
        seed: seed = 0,
        device: Annotated[str | None, Option(help="where tensors are made")] = None,
        xfail: Annotated[
            list[str] | None,
            Option(metavar="CASE[=REASON]", help="a case that is known to fail, with or without its shape; repeatable"),
        ] = None,
        no_ignored: Annotated[bool, Option("--no-ignored", help="The code has no ignored labels.")] = False,
        soft: Annotated[bool, Option("--soft", help="The code takes probabilities for labels.")] = False,
        value_only: Annotated[bool, Option("--value-only", help="Look at the value alone.")] = False,
        as_json: as_json = False,
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
            shapes=shape or None,
            groups=group or GROUPS,
            standard=standard,
            accumulate=accumulate,
            matmul=matmul,
            gradients=not value_only,
            ignored=not no_ignored,
            soft=soft,
            xfail=dict(map(xfail_of, xfail or ())),
            seed=seed,
            track=iter if as_json else progress,
        )
        show_json(report_data(report)) if as_json else show_report(report)
        raise typer.Exit(0 if report.passed else 1)

    @app.command("budget")
    def budget(
        loss: loss,
        dtype: dtype = "float32",
        shape: shape = None,
        standard: standard = "working",
        accumulate: accumulate = None,
        matmul: matmul = None,
        seed: seed = 0,
        as_json: as_json = False,
    ) -> None:
        """Show how far a correct implementation may be off in each case of a loss."""
        settings = {"dtype": dtype, "standard": standard, "accumulate": accumulate, "matmul": matmul}
        with refusing():
            budgets = budget_data(loss, cases_of(loss, dtype, shape or None, seed), settings)
        if as_json:
            show_json({"loss": str(loss), **settings, "seed": seed, "cases": budgets})
        else:
            show_budgets(f"{loss} in {dtype}, standard {standard}", budgets)

    @app.command("cases")
    def cases(
        loss: loss, dtype: dtype = "float32", shape: shape = None, seed: seed = 0, as_json: as_json = False
    ) -> None:
        """List the cases of a loss, each with the reason why it is there."""
        with refusing():
            listed = cases_of(loss, dtype, shape or None, seed)
        show_json([case_data(case) for case in listed]) if as_json else show_cases(listed)

    app.command("demo")(demo)

    @app.command("losses")
    def losses(as_json: as_json = False) -> None:
        """List every loss with its defaults."""
        show_json([loss_data(*entry) for entry in public_losses().items()]) if as_json else show_losses()

    return app


# -------------------------------------------------------------------------------------------------------------- options


@contextmanager
def refusing() -> Iterator[None]:
    """Turn an error of the library, which names an argument, into one line on standard error and exit status 2."""
    import typer

    try:
        yield
    except (ValueError, TypeError, ArithmeticError, ImportError) as error:
        raise typer.BadParameter(in_one_line(error)) from None


def in_one_line(error: BaseException) -> str:
    """Return the message of an error without its line breaks."""
    return " ".join(str(error).split())


def one_of(names: Iterable[str]) -> str:
    """Write the values of an option as its help shows them."""
    return f"[{'|'.join(names)}]"


def loss_of(text: str) -> Any:
    """Make the loss that a text names, such as "ArcFace(s=64.0, m=0.5)". It is parsed, never run."""
    try:
        call = ast.parse(text, mode="eval").body
        ast.unparse(call)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a null character; more levels than Python reads
        raise ValueError(f"expected a loss such as 'ArcFace(m=0.5)', got {shown(text)}") from None
    called = call.func if isinstance(call, ast.Call) else call
    names = {name: loss for loss, aliases in public_losses().items() for name in (loss.__name__, *aliases)}
    if not isinstance(called, ast.Name) or called.id not in names:
        raise ValueError(f"expected one of {', '.join(names)}, got {shown(text)}")
    if not isinstance(call, ast.Call):
        return names[called.id]()
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError(f"expected settings by name, got {shown(text)}")
    return names[called.id](**{str(keyword.arg): setting_of(keyword) for keyword in call.keywords})


def setting_of(keyword: ast.keyword) -> Any:
    """Return the value of a setting, which is a literal."""
    try:
        return ast.literal_eval(keyword.value)
    except (ValueError, TypeError) as error:  # TypeError: a set of lists
        why, came = str(error).partition(":")[0], shown(ast.unparse(keyword.value))
        raise ValueError(f"{keyword.arg}: expected a literal such as 0.5 or 'sum', got {came}: {why}") from None


def shape_of(text: str) -> tuple[int, ...]:
    """Read N,C,D."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"expected N,C,D such as 9,7,13, got {text!r}")
    return tuple(map(int, parts))


def xfail_of(text: str) -> tuple[str, str]:
    """Split "case=reason", or name a reason for a case alone; a reason may hold "="."""
    case, _, reason = text.partition("=")
    return case.strip(), reason.strip() or "known to fail"


def target_of(text: str) -> Callable[..., Any]:
    """Find the function that "module:function" or "path.py:function" names.

    What the module prints goes to standard error, and whatever it raises, SystemExit included, is a ValueError here.
    """
    place, _, attribute = text.rpartition(":")
    if not place or not attribute:
        raise ValueError(f"expected module:function or path.py:function, got {text!r}")
    try:
        with redirect_stdout(sys.stderr):
            module = loaded_file(Path(place)) if place.endswith(".py") else loaded_module(place)
            target = reduce(lambda owner, name: getattr(owner, name, None), attribute.split("."), cast("Any", module))
    except BaseException as error:  # SystemExit and KeyboardInterrupt too
        raise ValueError(f"{place}: {type(error).__name__}: {in_one_line(error)}".removesuffix(": ")) from None
    if not callable(target):
        raise ValueError(f"{place} has no {attribute}" if target is None else f"{text} cannot be called")
    return cast("Callable[..., Any]", target)


def loaded_module(name: str) -> ModuleType:
    """Import a module, the current directory first, as ``python -m`` does."""
    sys.path.insert(0, str(Path.cwd()))
    return import_module(name)


def loaded_file(path: Path) -> ModuleType:
    """Run a file as a module, under a name that no installed module has; dataclasses look it up in `sys.modules`.

    The files beside it can be imported, and come first, as in ``python path.py``; last if the file has the name of an
    installed module, which it would hide otherwise.
    """
    hides = PathFinder.find_spec(path.stem) is not None
    sys.path.insert(len(sys.path) if hides else 0, str(path.resolve().parent))
    name = f"_refloss_check_{path.stem.replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the path ends in .py, so there is a loader
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --------------------------------------------------------------------------------------------------------------- output


def escape_unencodable() -> None:
    r"""Write characters that standard output's encoding lacks as escapes such as \u2016, where Python would raise."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def make_console() -> "Console":
    """Return a console on standard output that takes text as it is; colours only where rich finds a terminal."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def make_table(**settings: Any) -> "Table":
    """Return a table with a line below its head, which is ascii where the console is."""
    from rich import box
    from rich.table import Table

    head = box.SIMPLE_HEAD
    if make_console().options.ascii_only:
        head = box.Box(str(head).replace("\N{BOX DRAWINGS LIGHT HORIZONTAL}", "-"), ascii=True)
    return Table(box=head, show_edge=False, **settings)


def show_json(data: Any) -> None:
    """Print JSON, which is ascii."""
    import typer

    typer.echo(json.dumps(data, indent=2, allow_nan=False))


def json_number(value: float) -> float | str:
    """Return a number as JSON can hold it: one that is not finite becomes "nan", "inf" or "-inf"."""
    return float(value) if math.isfinite(value) else str(float(value))


def progress(cases: Sequence[Any]) -> Iterator[Any]:
    """Yield the cases, with a bar on standard error if that is a terminal, once they take more than a second."""
    from rich.console import Console
    from rich.progress import Progress

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


# ---------------------------------------------------------------------------------------------------------------- check


def run_check(target: Callable[..., Any], loss: Any, **settings: Any) -> Report:
    """Call `refloss.testing.check`; what the code under check prints goes to standard error.

    A SystemExit, were one to come through, would end the process with a status of its own before there is a report.
    """
    import typer

    try:
        with refusing(), redirect_stdout(sys.stderr):
            return check_code(target, loss, **settings)
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


def report_data(report: Report) -> dict[str, Any]:
    """Return a report in numbers and strings alone."""
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


def result_data(result: Any) -> dict[str, Any]:
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


# ----------------------------------------------------------------------------------------------------- budget and cases


def budget_data(loss: Any, cases: Iterable[Any], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return, for each case that has a truth, the largest entry of each quantity and the largest error allowed."""
    return [
        {
            "case": case.id,
            "reason": case.reason,
            "quantities": [
                {"name": name, "largest": json_number(largest(exact)), "allowed": json_number(largest(allowed))}
                for name, exact, allowed in quantities_of(loss, case.inputs, settings)
            ],
        }
        for case in cases
        if "truth" in case.accepts
    ]


def quantities_of(loss: Any, inputs: Sequence[Any], settings: dict[str, Any]) -> Iterator[tuple[str, Array, Array]]:
    """Yield the value and each gradient: name, truth and budget."""
    value, gradient = truth(loss, inputs)
    allowed = budget_of(loss, *inputs, **settings)
    yield "value", value, allowed.value
    for name, part in gradient._asdict().items():
        if part is not None:  # no bias, no gradient of one
            yield f"d{name}", part, getattr(allowed.gradient, name)


def largest(entries: Array) -> float:
    """Return the largest magnitude, or NaN if there is one."""
    return float(np.abs(entries).max())


def show_budgets(title: str, budgets: Iterable[dict[str, Any]]) -> None:
    """Print a table with one row per quantity, which 80 columns hold for every loss."""
    table = make_table()
    table.add_column("case", overflow="fold")
    for header in ("quantity", "largest", "allowed"):
        table.add_column(header, justify="left" if header == "quantity" else "right", no_wrap=True)
    for budget in budgets:
        for place, quantity in enumerate(budget["quantities"]):
            numbers = (f"{float(quantity[name]):.2g}" for name in ("largest", "allowed"))
            table.add_row("" if place else budget["case"], quantity["name"], *numbers)
    console = make_console()
    console.print(f"{title}: the largest entry, and the largest error that rounding explains\n")
    console.print(table)


def show_cases(cases: Iterable[Any]) -> None:
    """Print one line per case."""
    console = make_console()
    for case in cases:
        console.print(f"{case.id}: {case.reason}", soft_wrap=True)


def case_data(case: Any) -> dict[str, Any]:
    """Return what is known of a case except its numbers: of its inputs, the shapes."""
    return {
        "case": case.id,
        "group": case.group,
        "reason": case.reason,
        "flags": list(case.flags),
        "accepts": list(case.accepts),
        "inputs": [list(np.shape(entry)) for entry in case.inputs],
    }


# ----------------------------------------------------------------------------------------------------------------- demo


class Case(NamedTuple):
    """One sample and its classes; class 0 is the target."""

    name: str
    """What is special about it."""
    x: Array
    """Embedding (1, D)."""
    w: Array
    """Class weights (C, D)."""
    s: float
    """Scale."""


class Comparison(NamedTuple):
    """What the naive ArcFace makes of a case; errors are relative to the truth, NaN where the result is not finite."""

    truth: float
    """The true loss."""
    loss: float
    """The naive one."""
    error: float
    """|loss - truth| / |truth|."""
    error_x: float
    """The same for dL/dx, in Euclidean norm."""
    error_w: float
    """The same for dL/dw of the target's row."""


def demo() -> None:
    """Put ArcFace as many repositories write it beside the truth."""
    table = make_table(padding=0)
    table.add_column("target\nangle", no_wrap=True)
    for header in ("true\nloss", "naive\nloss", "error\nloss", "\nin u", "error\ndL/dx", "error\ndL/dw_y"):
        table.add_column(header, justify="right")
    table.add_column("\nverdict")
    agreed, made = 0, cases()
    for case in made:
        found = compare(case)
        said = verdict(found)
        agreed += said == "agrees"
        table.add_row(
            case.name,
            _number(found.truth),
            _number(found.loss),
            _error(found.error),
            _error(found.error / u),
            _error(found.error_x),
            _error(found.error_w),
            said,
            style="green" if said == "agrees" else "red",
        )
    console = make_console()
    console.print(
        "ArcFace as many repositories write it (NumPy, float64, arccos of a clipped cosine) beside the truth, "
        "refloss.ArcFace. One sample, 10 classes, 16 dimensions, m=0.5.\n"
    )
    console.print(table)
    console.print(
        f"\nErrors are relative to the truth, u = 2^-53; below {AGREES:g} u they count as agreement. "
        "At the angles s=4: what is lost is lost by the angle, not by p_y - 1. The confident target has s=64 and the "
        "angle 0.3. At angle 0 the true gradient is the one of least norm, in which the target pulls nowhere.\n"
    )
    report = check_code(naive.arcface_value_and_grad, refloss.ArcFace(), dtype="float64")
    console.print(f"refloss check, on cases of its own: naive {report.state}")
    for group, said in report.verdicts.items():
        console.print(f"  {group}: {said}")
    for sentence in report.diagnoses:
        console.print(f"  {sentence}")
    console.print(f"\nnaive agrees with the truth in {agreed} of {len(made)} cases")


def cases() -> list[Case]:
    """Build the cases: the other classes are small integers in all directions, less 7x where the target is confident.

    x has four entries of ±1 and t four others, so w_y = ±3 (x + t tan θ) makes the angle θ with x. The tangent is cut
    to 48 bits after the point, so that w_y is exact and the inputs are the same everywhere. So is the naive cosine of
    the target: the entries of x̂ are ±1/2, those of ŵ_y beside them all equally large, and four such products add up
    to the same number in whatever order a matrix product takes them.
    """
    x, t = np.zeros(16), np.zeros(16)
    x[:4], t[4:8] = (1.0, -1.0, 1.0, 1.0), (1.0, 1.0, -1.0, 1.0)
    others = (np.arange(9.0 * 16.0).reshape(9, 16) ** 2 * 3.0) % 11.0 - 5.0

    def case(name: str, theta: float, others: Array = others, s: float = 4.0) -> Case:
        tangent = math.ldexp(round(math.ldexp(math.tan(theta), 48)), -48)
        side = math.copysign(3.0, math.cos(theta))
        return Case(name, x[None], np.vstack([side * (x + tangent * t), others]), s)

    return [
        case("1", 1.0),
        case("1e-2", 1e-2),
        case("1e-4", 1e-4),
        case("1e-6", 1e-6),
        case("1e-8", 1e-8),
        case("0", 0.0),
        case("pi - 1e-4", math.pi - 1e-4),
        case("2.9 > pi-m", 2.9),
        case("confident", 0.3, others - 7.0 * x, 64.0),
    ]


def compare(case: Case) -> Comparison:
    """Take the case to `refloss.ArcFace` and to the naive one."""
    y = np.zeros(1, np.int64)
    truth, gradient = refloss.ArcFace(s=case.s).value_and_grad(case.x, case.w, y)
    loss, x, w = naive.arcface_value_and_grad(case.x, case.w, y, case.s)
    return Comparison(
        float(truth),
        loss,
        relative(np.array([loss]), np.array([truth])),
        relative(x[0], gradient.x[0]),
        relative(w[0], gradient.w[0]),
    )


def relative(found: Array, truth: Array) -> float:
    """‖found - truth‖ / ‖truth‖; NaN if found is not finite, inf if the truth is 0 and found is not."""
    if not np.isfinite(found).all():
        return math.nan
    error, size = float(np.linalg.norm(found - truth)), float(np.linalg.norm(truth))
    return error / size if size else math.inf if error else 0.0


def verdict(found: Comparison) -> str:
    """Judge by the numbers alone, the worst first.

    A loss or gradient that is not finite is called NaN; a loss of 0 is called that if the truth is none. Otherwise the
    greater of the errors of the loss and of the gradient decides: below `AGREES` u it "agrees", from `NOTHING_LEFT` on
    no digit is right, and in between log10(error / u) of float64's sixteen digits are lost.
    """
    if math.isnan(found.error):
        return "loss is NaN"
    gradient = float(np.maximum(found.error_x, found.error_w))  # NaN if either is
    if math.isnan(gradient):
        return "gradient is NaN"
    if found.loss == 0.0 != found.truth:
        return f"loss is 0, truth is {_number(found.truth)}"
    error, what = max((found.error, "loss"), (gradient, "gradient"))
    if error < AGREES * u:
        return "agrees"
    if error >= NOTHING_LEFT:
        return f"{what} has no digit right"
    return f"{what} loses {round(math.log10(error / u))} digits"


def _number(value: float) -> str:
    """Four digits, or an exponent where that would be long."""
    return f"{value:.1e}" if 0.0 < abs(value) < 1e-3 else f"{value + 0.0:.4g}"  # + 0.0 takes the sign off -0.0


def _error(value: float) -> str:
    """What fits five columns."""
    if math.isnan(value):
        return "NaN"
    return f"{value:.0e}" if 0.0 < value < 0.1 or value >= 999.5 else f"{value:.3g}"


# --------------------------------------------------------------------------------------------------------------- losses

PSI = {
    "ModifiedSoftmax": "cos(theta)",
    "NormFace": "cos(theta)",
    "ASoftmax": "(-1)^k*cos(m*theta) - 2*k",
    "CosFace": "cos(theta) - m",
    "ArcFace": "cos(theta + m)",
    "CombinedMargin": "cos(m1*theta + m2) - m3",
}
"""ψ of the losses that have one, with their default settings; k = floor(m*theta/pi)."""


def show_losses() -> None:
    """List every loss with its defaults."""
    from rich.table import Table

    every = public_losses()
    shared = fields(refloss.ModifiedSoftmax)  # the loss that has these and no other
    table = make_table(padding=0)
    for header in ("loss", "defaults", "psi(theta)", "scale", "weights", "gradients"):
        # On 80 columns the names of the triplet's gradients fold first, then defaults and psi.
        table.add_column(header, max_width=len(header) if header == "gradients" else None)
    for loss, aliases in every.items():
        data = loss_data(loss, aliases)
        table.add_row(
            "\n".join([data["name"], *(f"= {alias}" for alias in aliases)]),
            ", ".join(_default(field) for field in fields(loss) if field.name not in _names(shared)) or "-",
            *(data[column] or "-" for column in ("psi", "scale", "weights")),
            ", ".join(data["gradients"]),
        )
    settings = Table.grid(padding=(0, 2))
    for field in shared:
        without = [loss.__name__ for loss in every if field.name not in _names(fields(loss))]
        settings.add_row(f"  {_default(field)}", f"not {', '.join(without)}" if without else "")
    console = make_console()
    console.print(table)
    console.print("\nk = floor(m*theta/pi); ||x|| is the length of the embedding. Defaults that losses share:\n")
    console.print(settings)


def loss_data(loss: type[Any], aliases: Sequence[str]) -> dict[str, Any]:
    """Return what is listed of a loss; null for what it does not have."""
    spec = loss().spec
    return {
        "name": loss.__name__,
        "aliases": list(aliases),
        "defaults": {field.name: field.default for field in fields(loss)},
        "psi": PSI.get(loss.__name__),
        "scale": None if spec.head != "margin" else "||x||" if spec.scale is None else "s",
        "weights": {"margin": "unit", "linear": "given"}.get(spec.head),
        "gradients": list(get_args(get_type_hints(loss.value_and_grad)["return"])[1]._fields),
    }


def public_losses() -> dict[type[Any], list[str]]:
    """Every public loss, in the order in which they are defined, with its other names."""
    names: tuple[type[Any], ...] = import_module("refloss.losses").LOSSES
    return {
        loss: [name for name in refloss.__all__ if getattr(refloss, name) is loss and name != loss.__name__]
        for loss in names
    }


def _names(of: tuple[Field[Any], ...]) -> set[str]:
    return {field.name for field in of}


def _default(field: Field[Any]) -> str:
    return f"{field.name}={field.default!r}"
