"""Write docs/records/: measure in rounds, keep every finished round, and make each page from its rounds.

Run by `.ci/record`, which gives it a virtual environment and tests/ on its path. Finished rounds are kept in .record/,
a folder for each state of the code, so that it goes on where it was stopped. A record is a page, or pictures, made of
one measurement or two; a measurement is a module's `measured(seed)`, a round for each seed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import accuracy
import budgets
import facts
import fused
import hostile
import implementations
import mutation
import pictures
import speed

Rows = list[dict[str, Any]]


class Measurement(NamedTuple):
    """What is measured, once for each seed."""

    name: str
    measured: Callable[[int], Rows]
    seeds: Iterable[int]
    alone: bool = False
    """Times are taken while nothing else runs."""


class Record(NamedTuple):
    """A page, or pictures, made of measurements."""

    measurements: tuple[Measurement, ...]
    write: Callable[..., None]
    """Called with the rows of every measurement, what is to stand at the top of a page, and the folder."""


ENGINES = Measurement("engines", accuracy.measured, range(1000, 1005))
OTHERS = Measurement("implementations", implementations.measured, range(2000, 2005))
CURVES = Measurement("pictures", pictures.measured, range(3000, 3005))
BUDGETS = Measurement("budgets", budgets.measured, budgets.SEEDS)
RIGHT = Measurement("right", budgets.right, budgets.RIGHT)
WRONG = Measurement("wrong", budgets.wrong, budgets.WRONG)
TIMES = Measurement("speed", speed.measured, [0], alone=True)
HOSTILE = Measurement("hostile", hostile.measured, hostile.SEEDS)
MUTANTS = Measurement("mutants", mutation.measured, range(len(mutation.ROUNDS)))
FUSED = Measurement("performance", fused.measured, fused.SEEDS, alone=True)

RECORDS = {
    "chain": Record((ENGINES,), accuracy.write_chain),
    "fused": Record((ENGINES,), accuracy.write_fused),
    "dd": Record((ENGINES, TIMES), accuracy.write_dd),
    "certified": Record((ENGINES, TIMES), accuracy.write_certified),
    "hostile": Record((HOSTILE,), hostile.write),
    "performance": Record((FUSED,), fused.write),
    "implementations": Record((OTHERS,), implementations.write),
    "budgets": Record((BUDGETS, RIGHT, WRONG), budgets.write),
    "mutants": Record((MUTANTS,), mutation.write),
    "pictures": Record((CURVES,), pictures.write),
}


def one_round(measurement: Measurement, seed: int, kept: Path) -> Path:
    """Measure a round, unless it was measured before, and keep it."""
    path = kept / measurement.name / f"{seed}.json"
    if not path.exists():
        start = time.perf_counter()
        rows = measurement.measured(seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(".part")  # a round that is cut off is no round
        whole.write_text(json.dumps({"seconds": time.perf_counter() - start, "rows": rows}))
        whole.rename(path)
        print(f"{measurement.name} {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    return path


def main() -> None:
    """Measure what the chosen records need, and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", nargs="*", help=f"of {', '.join(RECORDS)}; all, if none is named")
    parser.add_argument("--kept", type=Path, default=facts.ROOT / ".record", help="where finished rounds are kept")
    parser.add_argument("--out", type=Path, default=facts.ROOT / "docs/records")
    parser.add_argument("--rounds", type=int, help="at most so many rounds, but of times")
    options = parser.parse_args()
    if unknown := set(options.records) - set(RECORDS):
        parser.error(f"no record {', '.join(unknown)}; there are {', '.join(RECORDS)}")
    chosen = {name: RECORDS[name] for name in options.records or RECORDS}
    commit, kept = facts.commit(), options.kept / facts.state()  # now: the tree may move on while this runs
    options.out.mkdir(parents=True, exist_ok=True)

    needed = {m.name: m for record in chosen.values() for m in record.measurements}.values()
    found: dict[str, Any] = {}
    for measurement in sorted(needed, key=lambda m: m.alone):
        seeds = list(measurement.seeds)[: None if measurement.alone else options.rounds]
        with ProcessPoolExecutor(1 if measurement.alone else None) as pool:
            paths = pool.map(one_round, [measurement] * len(seeds), seeds, [kept] * len(seeds))
            rounds = [json.loads(path.read_text()) for path in paths]
        found[measurement.name] = facts.Measured(
            [row for one in rounds for row in one["rows"]], len(rounds), sum(one["seconds"] for one in rounds)
        )
    for name, record in chosen.items():
        record.write(*(found[m.name] for m in record.measurements), commit, options.out)
        print(f"{name} -> {options.out}")


if __name__ == "__main__":
    main()
