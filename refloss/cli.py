"""The command line: ``refloss check``, ``budget``, ``cases``, ``demo``, ``losses``, and ``refloss --version``.

It needs the extra ``cli``. Typer and rich are imported when a command runs, and everything that is computed here, the
comparison and the verdicts, does without them.
"""

# Without `from __future__ import annotations`: typer evaluates annotations, and its own name is none of this module's.

import ast
import importlib
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, fields
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast, get_args, get_type_hints

import numpy as np

import refloss
from refloss.error_free import Array, u
from refloss.testing import Report, naive
from refloss.testing import budget as budget_of
from refloss.testing import cases as named_cases
from refloss.testing import check as check_code

if TYPE_CHECKING:
    import typer
    from rich.console import Console

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

    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(refloss.__version__)
            raise typer.Exit

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
        ] = False,
    ) -> None:
        """The numerical truth about softmax and margin losses."""

    def refusing(what: Callable[[str], Any]) -> Callable[[str], Any]:
        def parsed(text: str) -> Any:
            try:
                return what(text)
            except (ValueError, TypeError) as error:
                raise typer.BadParameter(str(error)) from None

        return parsed

    target = Annotated[Any, typer.Argument(parser=refusing(target_of), help="module:attribute or path.py:attribute")]
    loss = Annotated[Any, typer.Option(parser=refusing(loss_of), help='as in Python: "ArcFace(s=64.0, m=0.5)"')]
    dtype = Annotated[Dtype, typer.Option(help="what it computes in")]
    shape = Annotated[Any, typer.Option(parser=refusing(shape_of), help="N,C,D of the cases")]
    group = Annotated[list[Group], typer.Option(help="a group of cases; several may be named")]
    standard = Annotated[Standard, typer.Option(help="relative asks for tiny losses too")]

    @app.command("check")
    def check(
        target: target,
        loss: loss,
        framework: Annotated[Framework, typer.Option(help="what it takes")] = Framework.numpy,
        dtype: dtype = Dtype.float32,
        shape: shape = "8,20,64",
        group: group = list(Group),  # noqa: B006 (typer copies it)
        standard: standard = Standard.working,
        as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    ) -> None:
        """Hold a function to a loss: exit status 0 if it conforms, 1 if not, 2 if the call is wrong."""
        report = check_code(
            target,
            loss,
            framework=framework.value,
            dtype=dtype.value,
            shapes=[shape],
            groups=[each.value for each in group],
            standard=standard.value,
            track=_followed,
        )
        typer.echo(json.dumps(as_data(report), indent=2)) if as_json else show(report)
        raise typer.Exit(0 if report.passed else 1)

    @app.command("budget")
    def budget(
        loss: loss,
        dtype: dtype = Dtype.float32,
        shape: shape = "8,20,64",
        matmul: Annotated[Factors | None, typer.Option(help="what matrix products round their factors to")] = None,
    ) -> None:
        """Show how far a correct implementation may be off in each case of a loss."""
        show_budgets(loss, dtype.value, shape, matmul.value if matmul else None)

    @app.command("cases")
    def cases(loss: loss, dtype: dtype = Dtype.float32, shape: shape = "8,20,64") -> None:
        """List the cases of a loss, each with the reason why it is there."""
        for case in named_cases(loss, dtype.value, [shape]):
            typer.echo(f"{case.id}: {case.reason}")

    app.command("demo")(demo)
    app.command("losses")(losses)
    return app


# ---------------------------------------------------------------------------------------------------------------- check


class Framework(Enum):
    """What a function takes."""

    numpy = "numpy"
    torch = "torch"
    jax = "jax"


class Group(Enum):
    """Of cases."""

    ordinary = "ordinary"
    boundary = "boundary"
    hard = "hard"
    range = "range"


class Standard(Enum):
    """What is asked of a small loss."""

    working = "working"
    relative = "relative"


class Factors(Enum):
    """What a matrix product may round its factors to."""

    tf32 = "tf32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Dtype(Enum):
    """What a function computes in."""

    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"
    float64 = "float64"


def loss_of(text: str) -> Any:
    """Make the loss that a text names, such as "ArcFace(s=64.0, m=0.5)". It is parsed, never run."""
    try:
        call = ast.parse(text, mode="eval").body
    except SyntaxError:
        raise ValueError(f"expected a loss such as 'ArcFace(m=0.5)', got {text!r}") from None
    called = call.func if isinstance(call, ast.Call) else call
    names = {name: loss for loss, aliases in public_losses().items() for name in (loss.__name__, *aliases)}
    if not isinstance(called, ast.Name) or called.id not in names:
        raise ValueError(f"expected one of {', '.join(names)}, got {text!r}")
    if not isinstance(call, ast.Call):
        return names[called.id]()
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError(f"expected settings by name, got {text!r}")
    return names[called.id](**{str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords})


def shape_of(text: str) -> tuple[int, ...]:
    """Read N,C,D."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"expected N,C,D such as 8,20,64, got {text!r}")
    return tuple(map(int, parts))


def _followed(cases: Sequence[Any]) -> Iterator[Any]:
    """Show a bar on standard error once it takes more than a second."""
    from rich.console import Console
    from rich.progress import Progress

    bar, start = Progress(console=Console(stderr=True), transient=True), time.monotonic()
    task = bar.add_task("cases", total=len(cases))
    for case in cases:
        yield case
        bar.advance(task)
        if time.monotonic() - start > 1.0:
            bar.start()
    if bar.live.is_started:
        bar.stop()


def show_budgets(loss: Any, dtype: str, shape: Sequence[int], matmul: str | None) -> None:
    """Print a table: the value and the largest entry of each gradient, and what each may be off by."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("case", no_wrap=True)
    told = [case for case in named_cases(loss, dtype, [shape]) if "truth" in case.accepts]
    fields: list[str] = []
    for case in told:
        value, grad = loss.value_and_grad(*case.inputs)
        allowed = budget_of(loss, *case.inputs, dtype=dtype, matmul=matmul)
        parts = {"value": (value, allowed.value)}
        parts |= {"d" + name: (part, getattr(allowed.gradient, name)) for name, part in grad._asdict().items()}
        entries = {name: pair for name, pair in parts.items() if pair[0] is not None}
        if not fields:
            fields = list(entries)
            for name in fields:
                table.add_column(name, justify="right")
                table.add_column("±", justify="right")
        largest = [float(np.abs(each).max()) for name in fields for each in entries[name]]
        table.add_row(case.id, *(f"{number:.2g}" for number in largest))
    console = _console()
    console.print(f"{loss} in {dtype}: the largest entry, and the largest error that rounding explains\n")
    console.print(table)


def target_of(text: str) -> Callable[..., Any]:
    """Find the function that "module:attribute" or "path.py:attribute" names."""
    place, _, attribute = text.rpartition(":")
    if not place or not attribute:
        raise ValueError(f"expected module:attribute or path.py:attribute, got {text!r}")
    try:
        found = _loaded(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (ImportError, FileNotFoundError) as error:
        raise ValueError(f"{place}: {error}") from None
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ValueError(f"{place} has no {attribute}")
        found = getattr(found, name)
    if not callable(found):
        raise ValueError(f"{text} cannot be called")
    return cast("Callable[..., Any]", found)


def _loaded(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def show(report: Report) -> None:
    """Print a table of the groups, and below it what failed and why."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for header in ("group", "cases", "passed", "failed", "undecided", "verdict"):
        table.add_column(header)
    for group, verdict in report.verdicts.items():
        of_group = [result.status for result in report.results if result.case.group == group]
        counts = (of_group.count("passed"), of_group.count("failed"), of_group.count("undecided"))
        table.add_row(group, str(len(of_group)), *map(str, counts), verdict)
    console = _console()
    console.print(table)
    console.print()
    console.print(str(report))


def as_data(report: Report) -> dict[str, Any]:
    """Return a report in numbers and strings alone."""
    return {
        "loss": str(report.loss),
        "dtype": report.dtype,
        "framework": report.framework,
        "passed": report.passed,
        "verdicts": report.verdicts,
        "diagnoses": list(report.diagnoses),
        "failures": [
            {
                "case": result.case.id,
                "reason": result.case.reason,
                "error": result.error,
                "quantities": [
                    {"name": entry.name, "where": list(entry.where), "complaint": entry.complaint}
                    | {
                        name: value if math.isfinite(value) else str(value)
                        for name, value in (
                            ("got", entry.got),
                            ("expected", entry.expected),
                            ("allowed", entry.allowed),
                            ("share", entry.share),
                        )
                    }
                    for entry in result.quantities
                    if not entry.passed
                ],
            }
            for result in report.results
            if result.status == "failed"
        ],
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
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
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
    console = _console()
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
    console.print(f"refloss check, on cases of its own: naive {'conforms' if report.passed else 'does not conform'}")
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


def losses() -> None:
    """List every loss with its defaults."""
    from rich import box
    from rich.table import Table

    every = public_losses()
    shared = fields(refloss.ModifiedSoftmax)  # the loss that has these and no other
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for header in ("loss", "defaults", "psi(theta)", "scale", "weights", "gradients"):
        # On 80 columns the names of the triplet's gradients fold first, then defaults and psi.
        table.add_column(header, max_width=len(header) if header == "gradients" else None)
    for loss, aliases in every.items():
        spec = loss().spec
        table.add_row(
            "\n".join([loss.__name__, *(f"= {alias}" for alias in aliases)]),
            ", ".join(_default(field) for field in fields(loss) if field.name not in _names(shared)) or "-",
            PSI.get(loss.__name__, "-"),
            "-" if spec.head != "margin" else "||x||" if spec.scale is None else "s",
            {"margin": "unit", "linear": "given"}.get(spec.head, "-"),
            ", ".join(get_args(get_type_hints(loss.value_and_grad)["return"])[1]._fields),
        )
    settings = Table.grid(padding=(0, 2))
    for field in shared:
        without = [loss.__name__ for loss in every if field.name not in _names(fields(loss))]
        settings.add_row(f"  {_default(field)}", f"not {', '.join(without)}" if without else "")
    console = _console()
    console.print(table)
    console.print("\nk = floor(m*theta/pi); ||x|| is the length of the embedding. Defaults that losses share:\n")
    console.print(settings)


def public_losses() -> dict[type[Any], list[str]]:
    """Every public loss, in the order in which they are defined, with its other names."""
    out: dict[type[Any], list[str]] = {}
    for name, loss in vars(import_module("refloss.losses")).items():
        if name in refloss.__all__ and isinstance(loss, type):
            out.setdefault(loss, []).extend([name] * (name != loss.__name__))
    return out


def _names(of: tuple[Field[Any], ...]) -> set[str]:
    return {field.name for field in of}


def _default(field: Field[Any]) -> str:
    return f"{field.name}={field.default!r}"


def _console() -> "Console":
    """Write without guessing at what might be a number; colours only where rich finds a terminal."""
    from rich.console import Console

    return Console(highlight=False)
