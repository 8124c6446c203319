"""Measure the engine "chain" against mpmath on many hard cases, and write docs/records/chain.md.

Run by `.ci/record`, which gives it a virtual environment, tests/ on its path, and a folder where finished rounds are
kept, so that it goes on where it was stopped. A round is every named case of tests/cases.py for every loss, with random
numbers of its own, other than the suite's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import cases
import checks
import refloss

ROOT = Path(__file__).parents[1]
REGIMES = (  # a case belongs to the first that its name has a word of
    ("m1 theta + m2 at a multiple of pi; kinks", ("phi =", "pi/2", "degrees")),
    ("exactly parallel or antiparallel", ("exactly", "one ulp")),
    ("theta towards 0", ("theta = 0.01", "theta = 0.0001", "theta = 1e-",)),
    ("theta towards pi", ("theta = pi - ",)),
    ("norms from 1e-200 to 1e200", ("|x| ~", "|w_y| ~", "of size")),
    ("confident, and confidently wrong", ("confiden",)),
    ("huge logits", ("huge", "offset")),
    ("identical and nearby points", ("identical", "another", "ties", "coincident", "same", "close", "hinge")),
    ("real widths", ("D = 512", "D = 1000", "C = 500", "N = 100")),
    ("ordinary and small", ("",)),
)  # fmt: skip


def measured(seed: int) -> list[dict[str, Any]]:
    """One round: for every case its loss, regime, and worst errors as found and as a share of what is allowed."""
    rows = []
    for loss in (*cases.HEADS, *cases.CROSS_ENTROPIES, *cases.TRIPLETS):
        for name, inputs, options in named(loss, np.random.default_rng([seed, zlib.crc32(repr(loss).encode())])):
            value_allowed, gradient_allowed = checks.allowed(loss, *inputs)
            errors = checks.errors(loss, *inputs, **options)
            value, gradient = errors.pop("value"), max(errors.values())
            rows.append({
                "loss": type(loss).__name__,
                "regime": next(regime for regime, words in REGIMES if any(word in name for word in words)),
                "value": value, "value share": value / value_allowed,
                "gradient": gradient, "gradient share": gradient / gradient_allowed,
            })  # fmt: skip
    return rows


def named(loss: Any, random: np.random.Generator) -> Any:
    """Every case for a loss: name, inputs, and what mpmath needs to be told."""
    if isinstance(loss, refloss.CrossEntropy):
        for classes in (2, 10, 100):
            yield from ((name, inputs, {}) for name, inputs in cases.logits(random, classes))
    elif isinstance(loss, refloss.Triplet):
        yield from ((name, inputs, {}) for name, inputs in cases.triplets(random))
    else:
        for name, inputs in cases.heads(loss, random):
            if not loss.class_weight or len(inputs[1]) == len(loss.class_weight):
                yield name, inputs, {"digits": 300} if "1e-200" in name else {}
        if not loss.class_weight:
            for name, build in cases.WIDE.items():
                x, w, y = build(random)
                yield name, (x, w, y), {"entries": cases.some_entries(random, x, w, y)}


def table(rows: list[dict[str, Any]], by: str) -> str:
    """A Markdown table: cases, and the largest errors, for every value of one column."""
    lines = [
        f"| {by} | cases | value, u | share of allowed | gradient, u | share of allowed |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for key in dict.fromkeys(row[by] for row in rows):
        some = [row for row in rows if row[by] == key]
        worst = [max(row[column] for row in some) for column in ("value", "value share", "gradient", "gradient share")]
        lines.append(f"| {key} | {len(some)} | {worst[0]:.3g} | {worst[1]:.2f} | {worst[2]:.3g} | {worst[3]:.2f} |")
    return "\n".join(lines)


def record(rows: list[dict[str, Any]], rounds: int, seconds: float, commit: str) -> str:
    """The record as a page."""
    over = sum(row["value share"] > 1.0 or row["gradient share"] > 1.0 for row in rows)
    bad = sum(not math.isfinite(row["value"] + row["gradient"]) for row in rows)
    order = [regime for regime, _ in REGIMES]
    by_regime = sorted(rows, key=lambda row: order.index(row["regime"]))
    return f"""# Engine `chain` against mpmath

Written by `.ci/record`. Errors are in units of roundoff, u = 2^-53: of the value relative to itself, of a gradient
relative to the absolute terms of its row. What is allowed is the contract: for heads of scale S, max(16u, 4u S) and
max(32u, 8u S); for cross entropy on logits and for the triplet loss 8u. "Share of allowed" is the largest error as a
part of that; the largest error in u and the largest share may come from different cases.

- cases: {len(rows)} in {rounds} rounds
- over what is allowed: {over}; of these not finite, or not 0 where the truth is exactly 0: {bad}
- commit: {commit}
- date: {time.strftime("%Y-%m-%d")}
- versions: refloss {refloss.__version__}, Python {platform.python_version()}, \
{", ".join(f"{name} {version(name)}" for name in ("numpy", "mpmath", "gmpy2"))}
- machine: {platform.machine()}, {cpu()}, {os.cpu_count()} cores, {platform.system()}
- time: {seconds:.0f} s of computing

## By loss

{table(rows, "loss")}

## By regime

{table(by_regime, "regime")}
"""


def cpu() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def one_round(seed: int, kept: Path) -> float:
    """Measure a round, unless it was measured before; return the seconds it took."""
    path = kept / f"round-{seed}.json"
    if not path.exists():
        start = time.perf_counter()
        rows = measured(seed)
        path.write_text(json.dumps({"seconds": time.perf_counter() - start, "rows": rows}))
    return float(json.loads(path.read_text())["seconds"])


def main() -> None:
    """Measure all rounds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--kept", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/records/chain.md")
    options = parser.parse_args()
    options.kept.mkdir(parents=True, exist_ok=True)
    command = ["git", "describe", "--always", "--dirty"]  # now: the tree may move on while this runs
    commit = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    seeds = range(1000, 1000 + options.rounds)
    with ProcessPoolExecutor() as pool:
        seconds = sum(pool.map(one_round, seeds, [options.kept] * options.rounds))
    rows = [row for seed in seeds for row in json.loads((options.kept / f"round-{seed}.json").read_text())["rows"]]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(record(rows, options.rounds, seconds, commit))
    print(f"{len(rows)} cases -> {options.out}")


if __name__ == "__main__":
    main()
