"""``refloss demo``: ArcFace as many repositories write it beside the truth, in nine cases that show where it fails."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

import refloss
from refloss import testing
from refloss.cli.printing import make_console, make_table
from refloss.error_free import Array, u
from refloss.testing import naive

AGREES = 100.0
"""Errors below this many units of roundoff, less than two of sixteen digits, count as agreement."""
NOTHING_LEFT = 0.1
"""A relative error from here on leaves no digit right."""


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
    """The naive ArcFace against the truth in one case; errors are relative, NaN where the result is not finite."""

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


def command() -> None:
    """Put ArcFace as many repositories write it beside the truth."""
    comparisons = {case.name: compare(case) for case in build_cases()}
    console = make_console()
    console.print(
        "ArcFace as many repositories write it (NumPy, float64, arccos of a clipped cosine) beside the truth, "
        "refloss.ArcFace. One sample, 10 classes, 16 dimensions, m=0.5.\n"
    )
    show_comparisons(comparisons.items())
    console.print(
        f"\nErrors are relative to the truth, u = 2^-53; below {AGREES:g} u they count as agreement. "
        "At the angles s=4: what is lost is lost by the angle, not by p_y - 1. The confident target has s=64 and the "
        "angle 0.3. At angle 0 the angle has no derivative, and its subgradient of least norm, 0, stands for it: the "
        "target pulls nowhere.\n"
    )
    report = testing.check(naive.arcface_value_and_grad, refloss.ArcFace(), dtype="float64")
    console.print(f"refloss check, on cases of its own: naive {report.state}")
    for group, group_verdict in report.verdicts.items():
        console.print(f"  {group}: {group_verdict}")
    for sentence in report.diagnoses:
        console.print(f"  {sentence}")
    agreeing = sum(verdict(comparison) == "agrees" for comparison in comparisons.values())
    console.print(f"\nnaive agrees with the truth in {agreeing} of {len(comparisons)} cases")


def show_comparisons(comparisons: Iterable[tuple[str, Comparison]]) -> None:
    """Print a table with one row per case, green where the naive loss agrees with the truth."""
    table = make_table(padding=0)
    table.add_column("target\nangle", no_wrap=True)
    for header in ("true\nloss", "naive\nloss", "error\nloss", "\nin u", "error\ndL/dx", "error\ndL/dw_y"):
        table.add_column(header, justify="right")
    table.add_column("\nverdict")
    for name, comparison in comparisons:
        case_verdict = verdict(comparison)
        table.add_row(
            name,
            format_number(comparison.truth),
            format_number(comparison.loss),
            format_error(comparison.error),
            format_error(comparison.error / u),
            format_error(comparison.error_x),
            format_error(comparison.error_w),
            case_verdict,
            style="green" if case_verdict == "agrees" else "red",
        )
    make_console().print(table)


def build_cases() -> list[Case]:
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
    """Compare the naive ArcFace with `refloss.ArcFace` in one case."""
    y = np.zeros(1, np.int64)
    truth, gradient = refloss.ArcFace(s=case.s).value_and_grad(case.x, case.w, y)
    loss, x, w = naive.arcface_value_and_grad(case.x, case.w, y, case.s)
    return Comparison(
        float(truth),
        loss,
        relative_error(np.array([loss]), np.array([truth])),
        relative_error(x[0], gradient.x[0]),
        relative_error(w[0], gradient.w[0]),
    )


def relative_error(computed: Array, truth: Array) -> float:
    """‖computed - truth‖ / ‖truth‖; NaN if computed is not finite, inf if the truth is 0 and computed is not."""
    if not np.isfinite(computed).all():
        return math.nan
    error, size = float(np.linalg.norm(computed - truth)), float(np.linalg.norm(truth))
    return error / size if size else math.inf if error else 0.0


def verdict(comparison: Comparison) -> str:
    """Judge by the numbers alone, the worst first.

    A loss or gradient that is not finite is called NaN; a loss of 0 is called that if the truth is none. Otherwise the
    greater of the errors of the loss and of the gradient decides: below `AGREES` u it "agrees", from `NOTHING_LEFT` on
    no digit is right, and in between log10(error / u) of float64's sixteen digits are lost.
    """
    if math.isnan(comparison.error):
        return "loss is NaN"
    gradient = float(np.maximum(comparison.error_x, comparison.error_w))  # NaN if either is
    if math.isnan(gradient):
        return "gradient is NaN"
    if comparison.loss == 0.0 != comparison.truth:
        return f"loss is 0, truth is {format_number(comparison.truth)}"
    error, what = max((comparison.error, "loss"), (gradient, "gradient"))
    if error < AGREES * u:
        return "agrees"
    if error >= NOTHING_LEFT:
        return f"{what} has no digit right"
    return f"{what} loses {round(math.log10(error / u))} digits"


def format_number(value: float) -> str:
    """Write a number with four digits, or with an exponent where that would be long."""
    return f"{value:.1e}" if 0.0 < abs(value) < 1e-3 else f"{value + 0.0:.4g}"  # + 0.0 takes the sign off -0.0


def format_error(value: float) -> str:
    """Write an error in at most five columns."""
    if math.isnan(value):
        return "NaN"
    return f"{value:.0e}" if 0.0 < value < 0.1 or value >= 999.5 else f"{value:.3g}"
