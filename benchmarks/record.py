"""Write docs/records/: measure in rounds, keep every finished round, and write each page from its rounds.

`.ci/record` runs it in a virtual environment, with tests/ on the path. Finished rounds are kept in .record/, a folder
for each state of the code, so that a stopped run goes on where it was. A record is a page, or pictures, from one or
more measurements; a measurement is a function of a seed, called once per round.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import accuracy
import accuracy_pages
import budgets
import diagnose
import drawn_defects
import embeddings
import engine_times
import hostile
import implementations
import kernels
import mutation
import performance
import performance_parts
import pictures
import ratios
import soundness
import verdicts
from pages import ROOT, Measured, Rows


class Measurement(NamedTuple):
    """What is measured, once per seed."""

    name: str
    measured: Callable[[int], Rows]
    seeds: Iterable[int]
    alone: bool = False
    """Whether nothing else may run: times are taken."""


class Record(NamedTuple):
    """A page, or pictures, from measurements."""

    measurements: tuple[Measurement, ...]
    write: Callable[..., None]
    """Called with what each measurement returned, the commit, and the folder."""


ENGINES = Measurement("engines", accuracy.measured, range(1000, 1005))
ENGINE_TIMES = Measurement("engine_times", engine_times.measured, [0], alone=True)
LIBRARIES = Measurement("implementations", implementations.measured, range(2000, 2005))
KERNELS = Measurement("kernels", kernels.measured, kernels.PARTS)
CURVES = Measurement("pictures", pictures.measured, range(3000, 3005))
SOUND = Measurement("budgets", soundness.measured, soundness.SEEDS)
RIGHT = Measurement("right", verdicts.right, verdicts.RIGHT)
WRONG = Measurement("wrong", verdicts.wrong, verdicts.WRONG)
HOSTILE = Measurement("hostile", hostile.measured, hostile.SEEDS)
MUTANTS = Measurement("mutants", mutation.measured, range(len(mutation.ROUNDS)))
DIAGNOSES = Measurement("diagnoses", diagnose.measured, diagnose.SEEDS)
DEFECTS = Measurement("defects", drawn_defects.measured, drawn_defects.SEEDS)
PERFORMANCE = Measurement("performance", performance_parts.measured, performance_parts.SEEDS, alone=True)
EMBEDDINGS = Measurement("embeddings", embeddings.measured, embeddings.SEEDS)
RATIOS = Measurement("ratios", ratios.measured, ratios.SEEDS, alone=True)

RECORDS = {
    "chain": Record((ENGINES,), accuracy_pages.write_chain),
    "fused": Record((ENGINES,), accuracy_pages.write_fused),
    "dd": Record((ENGINES, ENGINE_TIMES), accuracy_pages.write_dd),
    "certified": Record((ENGINES, ENGINE_TIMES), accuracy_pages.write_certified),
    "hostile": Record((HOSTILE,), hostile.write),
    "performance": Record((PERFORMANCE,), performance.write),
    "ratios": Record((RATIOS,), ratios.write),
    "implementations": Record((LIBRARIES,), implementations.write),
    "kernels": Record((KERNELS,), kernels.write),
    "budgets": Record((SOUND, RIGHT, WRONG), budgets.write),
    "diagnose": Record((DIAGNOSES, DEFECTS), diagnose.write),
    "mutants": Record((MUTANTS,), mutation.write),
    "pictures": Record((CURVES,), pictures.write),
    "gallery": Record((EMBEDDINGS,), embeddings.write),
}

MEASURED_PATHS = ("refloss", "benchmarks", "examples", "tests", ".ci", "pyproject.toml")


def main() -> None:
    """Measure what the chosen records need, and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", nargs="*", help=f"of {', '.join(RECORDS)}; all, if none is named")
    parser.add_argument("--kept", type=Path, default=ROOT / ".record", help="where finished rounds are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/records")
    parser.add_argument("--rounds", type=int, help="at most so many rounds, except where times are taken")
    options = parser.parse_args()
    if unknown := set(options.records) - set(RECORDS):
        parser.error(f"no record {', '.join(unknown)}; there are {', '.join(RECORDS)}")
    chosen = {name: RECORDS[name] for name in options.records or RECORDS}
    commit, kept = current_commit(), options.kept / state()  # before measuring: the tree may change meanwhile
    options.out.mkdir(parents=True, exist_ok=True)

    needed = {m.name: m for record in chosen.values() for m in record.measurements}.values()
    results: dict[str, Measured] = {}
    for measurement in sorted(needed, key=lambda m: m.alone):
        results[measurement.name] = measure(measurement, kept, None if measurement.alone else options.rounds)
    for name, record in chosen.items():
        record.write(*(results[m.name] for m in record.measurements), commit, options.out)
        print(f"{name} -> {options.out}")


def measure(measurement: Measurement, kept: Path, limit: int | None) -> Measured:
    """All rounds of a measurement, or at most so many, side by side unless it has to be alone."""
    seeds = list(measurement.seeds)[:limit]
    with ProcessPoolExecutor(1 if measurement.alone else None) as pool:
        paths = list(pool.map(one_round, [measurement] * len(seeds), seeds, [kept] * len(seeds)))
    return read_rounds(paths)


def one_round(measurement: Measurement, seed: int, kept: Path) -> Path:
    """Measure a round, unless it was measured before, and keep it."""
    path = kept / measurement.name / f"{seed}.json"
    if not path.exists():
        start = time.perf_counter()
        rows = measurement.measured(seed)
        seconds = time.perf_counter() - start
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")  # renamed when complete: a file that is cut off is no round
        unfinished.write_text(json.dumps({"seconds": seconds, "rows": rows}))
        unfinished.rename(path)
        print(f"{measurement.name} {seed}: {seconds:.0f} s", flush=True)
    return path


def read_rounds(paths: list[Path]) -> Measured:
    """The rows of rounds together, in order."""
    rounds = [json.loads(path.read_text()) for path in paths]
    rows = [row for each in rounds for row in each["rows"]]
    return Measured(rows, len(rounds), sum(each["seconds"] for each in rounds))


# -------------------------------------------------------------------------------------------------- state of the code


def current_commit() -> str:
    """The commit, marked as dirty where what is measured, or what measures, was changed since."""
    return _git("describe", "--always") + ("-dirty" if _changes() else "")


def state() -> str:
    """The commit and, where it is marked, a digest of the changes: rounds of different states are not mixed."""
    changes = _changes()
    return current_commit() + (f"-{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else "")


def _changes() -> str:
    new = _git("ls-files", "--others", "--exclude-standard", "--", *MEASURED_PATHS).splitlines()
    return _git("diff", "HEAD", "--", *MEASURED_PATHS) + "".join((ROOT / path).read_text() for path in new)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()


if __name__ == "__main__":
    main()
