"""The record softcap.md: what a softcap and a z-loss cost the engine "fused".

`python benchmarks/softcap_times.py` measures and prints the table; `.ci/record softcap` writes the page. Losses with
and without these options take turns in one process, value and gradient, and what counts is the ratio in a round.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pages
import timing
from contenders import Problem, arrays_of
from pages import Measured, Row, Rows

import refloss
from refloss.engines import threads

N, C = 4096, 32_000
PLAIN = "plain"
LOSSES = {
    PLAIN: refloss.CrossEntropy(),
    "softcap": refloss.CrossEntropy(softcap=30.0),
    "z_loss": refloss.CrossEntropy(z_loss=1e-4),
    "both": refloss.CrossEntropy(softcap=30.0, z_loss=1e-4),
}
DTYPES = ("float32", "float64")
OUTPUTS = {"new": "a new array", "out": "out="}
"""Where the gradient goes, and how the page calls it."""
PARTS = tuple((dtype, output) for dtype in DTYPES for output in OUTPUTS)
SEEDS = range(len(PARTS))
ROUNDS = 16
"""A multiple of the number of losses, so that each follows each other one equally often."""
PACKAGES = ("numpy", "numba")


def measured(seed: int, n: int = N, c: int = C, rounds: int = ROUNDS) -> Rows:
    """Seconds of every loss by round, for one dtype and one kind of output."""
    dtype, output = PARTS[seed]
    z, y = arrays_of(Problem("logits", n, c, 0), dtype)
    options: dict[str, Any] = {"engine": "fused", "dtype": np.dtype(dtype).type}
    if output == "out":
        options["out"] = {"z": np.zeros_like(z)}  # written once, so that its pages exist
    calls: timing.Calls = {
        name: functools.partial(loss.value_and_grad, z, y, **options) for name, loss in LOSSES.items()
    }
    seconds = timing.without_pauses(calls, rounds)
    return [{"dtype": dtype, "output": output, "n": n, "c": c, "threads": threads.THREADS, "seconds": seconds}]


def table(rows: Rows) -> str:
    """Medians of seconds and of ratios to the loss without options, and the least and largest ratio."""
    titles = ("loss", "dtype", "gradient in", "ms", "over the first", "middle half", "all rounds")
    return pages.table(titles, (line for row in rows for line in lines(row)), words=3)


def lines(row: Row) -> list[tuple[str, ...]]:
    """The lines of one dtype and one kind of output."""
    every = []
    for name, loss in LOSSES.items():
        ratios = timing.ratios(row["seconds"], name, PLAIN)
        first, middle, third = statistics.quantiles(ratios, n=4, method="inclusive")
        every.append(
            (
                f"`{loss}`",
                row["dtype"],
                OUTPUTS[row["output"]],
                f"{1000 * statistics.median(row['seconds'][name]):.1f}",
                f"{middle:.2f}",
                f"{first:.2f}–{third:.2f}",
                f"{min(ratios):.2f}–{max(ratios):.2f}",
            )
        )
    return every


def write(measured: Measured, commit: str, folder: Path) -> None:
    """Write softcap.md."""
    first = measured.rows[0]
    pages.write(
        folder,
        "softcap.md",
        trial=(first["n"], first["c"]) != (N, C),
        facts=pages.facts(measured, commit, PACKAGES, rounds="parts"),
        n=first["n"],
        c=first["c"],
        threads=first["threads"],
        rounds=len(first["seconds"][PLAIN]),
        times=table(measured.rows),
    )


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="fewer logits: to see whether it runs")
    options = parser.parse_args()
    size = {"n": N // 16, "c": C // 10} if options.quick else {}
    print(table([row for seed in SEEDS for row in measured(seed, rounds=options.rounds, **size)]))


if __name__ == "__main__":
    main()
