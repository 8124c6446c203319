"""The record ratios.md: what an option, or another loss of a family, costs the engine "fused" beside the plain loss.

`python benchmarks/ratios.py` measures and prints the tables; `.ci/record ratios` writes the page. Losses take turns in
one process, value and gradients, and what counts is the ratio in a round.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pages
import timing
from contenders import Arrays, Problem, arrays_of
from pages import Measured, Row, Rows

import refloss
from refloss.engines import threads

PACKAGES = ("numpy", "numba")
DTYPES = ("float32", "float64")
OUTPUTS = {"new": "new", "out": "out="}
"""Where gradients go, and how the page calls it."""


class Family(NamedTuple):
    """Losses on the same arrays; the first is the one that others are compared with."""

    problem: Problem
    losses: tuple[Any, ...]
    inputs: Callable[[Any, Arrays], Arrays]
    """What a loss is called with."""
    outputs: tuple[str, ...]
    rounds: int
    """A multiple of the number of losses, so that each follows each other one equally often."""


def on_directions(loss: Any, arrays: Arrays) -> Arrays:
    """Embeddings, weights of as many rows for each loss, and labels; lengths of embeddings are about 20."""
    x, w, y = arrays
    x = x * x.dtype.type(20.0 / np.sqrt(x.shape[1]))
    if isinstance(loss, refloss.SubCenterArcFace):
        w = w.reshape(-1, loss.centers, w.shape[1])
    return x, w, y % len(w)


FAMILIES = {
    "logits": Family(
        Problem("logits", 4096, 32_000, 0),
        (
            refloss.CrossEntropy(),
            refloss.CrossEntropy(softcap=30.0),
            refloss.CrossEntropy(z_loss=1e-4),
            refloss.CrossEntropy(softcap=30.0, z_loss=1e-4),
        ),
        lambda loss, arrays: arrays,
        tuple(OUTPUTS),
        16,
    ),
    "directions": Family(
        Problem("gradients", 256, 30_000, 128),
        (
            refloss.ArcFace(),
            refloss.AdaFace(),
            refloss.MagFace(),
            refloss.CurricularFace(t=0.3),
            refloss.MVSoftmax(),
            refloss.SubCenterArcFace(),
        ),
        on_directions,
        ("new",),
        30,
    ),
}
PARTS = tuple((name, dtype, output) for name, each in FAMILIES.items() for dtype in DTYPES for output in each.outputs)
SEEDS = range(len(PARTS))


def measured(seed: int, shrink: int = 1, rounds: int | None = None) -> Rows:
    """Seconds of every loss by round, for one family, one dtype and one kind of output."""
    name, dtype, output = PARTS[seed]
    family = FAMILIES[name]
    problem = family.problem._replace(n=family.problem.n // shrink, c=family.problem.c // shrink)
    arrays, calls = arrays_of(problem, dtype), {}
    for loss in family.losses:
        inputs = family.inputs(loss, arrays)
        options: dict[str, Any] = {"engine": "fused", "dtype": np.dtype(dtype).type}
        if output == "out":
            options["out"] = {"z": np.zeros_like(inputs[0])}  # written once, so that its pages exist
        calls[repr(loss)] = functools.partial(loss.value_and_grad, *inputs, **options)
    seconds = timing.without_pauses(calls, rounds or family.rounds)
    return [{"family": name, "dtype": dtype, "output": output, "problem": list(problem), "seconds": seconds}]


def table(rows: Rows) -> str:
    """Medians of seconds and of ratios to the first loss, and the least and largest ratio."""
    titles = ("loss", "dtype", "output", "ms", "ratio", "middle half", "range")
    return pages.table(titles, (line for row in rows for line in lines(row)), words=3)


def lines(row: Row) -> list[tuple[str, ...]]:
    """The lines of one dtype and one kind of output."""
    every, plain = [], next(iter(row["seconds"]))
    for name, seconds in row["seconds"].items():
        ratios = timing.ratios(row["seconds"], name, plain)
        first, middle, third = statistics.quantiles(ratios, n=4, method="inclusive")
        every.append(
            (
                f"`{name}`",
                row["dtype"],
                OUTPUTS[row["output"]],
                f"{1000 * statistics.median(seconds):.1f}",
                f"{middle:.2f}",
                f"{first:.2f}–{third:.2f}",
                f"{min(ratios):.2f}–{max(ratios):.2f}",
            )
        )
    return every


def write(measured: Measured, commit: str, folder: Path) -> None:
    """Write ratios.md."""
    trial = any(row["problem"] != list(FAMILIES[row["family"]].problem) for row in measured.rows)
    pages.write(
        folder,
        "ratios.md",
        trial=trial,
        facts=pages.facts(measured, commit, PACKAGES, rounds="parts"),
        threads=threads.THREADS,
        **{name: table(pages.where(measured.rows, family=name)) for name in FAMILIES},
    )


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true", help="fewer numbers: to see whether it runs")
    parser.add_argument("--family", choices=FAMILIES)
    options = parser.parse_args()
    seeds = [seed for seed in SEEDS if options.family in (None, PARTS[seed][0])]
    rows = [row for seed in seeds for row in measured(seed, 10 if options.quick else 1, options.rounds)]
    for name in FAMILIES:
        if some := pages.where(rows, family=name):
            print(table(some))


if __name__ == "__main__":
    main()
