"""What performance.md is made of, measured part by part: each part runs in a process of its own, with all its threads.

The parts: the rows of the first table (contenders side by side), memory of the engines, time and memory against the
number of classes, chain and fused at small sizes, imports and first calls, and the machine.
`python benchmarks/performance_parts.py NAME` measures one and prints its rows as JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import timing
from contenders import ARCFACE, Problem, arrays_of, contenders, engine
from pages import Rows
from timing import Call, Calls, peak_memory, timed

DTYPES = ("float32", "float64")


class Work(NamedTuple):
    """A row of the first table, in both dtypes."""

    title: str
    problem: Problem
    aim: dict[str, str]
    """The ratio to the floor that is aimed at, by dtype."""
    rounds: int
    pauses: bool = True
    """Whether each contender is measured alone, or called right after another one."""
    variables: Mapping[str, str] = {}
    """Environment variables of the process."""


FIRST_ROW = Problem("gradients", 128, 20_000, 512)
IDLE_BLAS_SLEEPS = {"OPENBLAS_THREAD_TIMEOUT": "4"}
"""Idle threads of OpenBLAS spin for 2^4 cycles and not for 2^26, its default."""
WORKS = (
    Work("first", FIRST_ROW, {"float32": "1.20", "float64": "1.15"}, 11),
    Work("in turn", FIRST_ROW, dict.fromkeys(DTYPES, "1.20"), 24, pauses=False),
    Work("in turn", FIRST_ROW, dict.fromkeys(DTYPES, "1.20"), 24, pauses=False, variables=IDLE_BLAS_SLEEPS),
    Work("many classes", Problem("gradients", 128, 100_000, 512), {"float32": "1.15", "float64": "1.15"}, 5),
    Work("many samples", Problem("gradients", 1024, 20_000, 512), {"float32": "1.10", "float64": "1.10"}, 5),
    Work("value", Problem("value", 128, 100_000, 512), {"float32": "1.15", "float64": "1.15"}, 5),
    Work("logits", Problem("logits", 4096, 32_000, 0), dict.fromkeys(DTYPES, "less than torch"), 3),
)
IN_TURN = ("floor", "fused", "jax.jit", "torch.compile")
"""Who takes part without pauses: what a program has loaded together."""

CLASSES = (1_000, 10_000, 100_000, 1_000_000, 5_000_000)
FEW_N, FEW_D = 32, 16
CHAIN_BUFFERS = 40  # of N x C, that the chain takes: it is left out where they are more than 2 GiB
POWERS = range(10, 27, 2)
CROSSINGS: dict[str, Callable[[int], tuple[int, int, int]]] = {
    "N = C = D": lambda k: (2 ** (k // 3), 2 ** (k - 2 * (k // 3)), 2 ** (k // 3)),
    "N = 8, D = 64": lambda k: (8, 2 ** (k - 9), 64),
    "logits, N = 32": lambda k: (32, 2 ** (k - 5), 0),
}
"""How N, C and D grow with the power of two that is their product."""
IMPORTS = 15
COLD = 3


def reduced(work: Work) -> Work:
    """The same row, small enough for a trial."""
    _, n, c, d = work.problem
    small = work.problem._replace(n=max(64, n // 8), c=c // 10, d=d and 128)
    return work._replace(problem=small, rounds=2)


# ------------------------------------------------------------------------------------------------------ the first table


def work_rows(place: int, dtype: str, *, quick: bool, rounds: int | None) -> Rows:
    """A row of the table: every contender's seconds by round, and why others are left out."""
    work = reduced(WORKS[place]) if quick else WORKS[place]
    makers = participants(work, dtype)
    calls: Calls = {}
    skipped: dict[str, str] = {}
    values: dict[str, float] = {}
    for name, make in makers.items():
        try:
            call = make()
            value = call()  # compiles what is compiled
        except Exception as error:  # whatever is missing: the page says so
            skipped[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        calls[name] = call
        if name != "floor":
            values[name] = float(value)
    for name, value in values.items():
        if not math.isclose(value, values["fused"], rel_tol=1e-3):
            raise ValueError(f"{name} computes {value} and not {values['fused']}")
    measure = timing.with_pauses if work.pauses else timing.without_pauses
    seconds = measure(calls, rounds or work.rounds)
    described = {"title": work.title, "aim": work.aim, "pauses": work.pauses, "variables": dict(work.variables)}
    described |= work.problem._asdict()
    return [{"what": "work", "work": described, "dtype": dtype, "seconds": seconds, "skipped": skipped}]


def participants(work: Work, dtype: str) -> dict[str, Callable[[], Call]]:
    """What prepares each contender's call; in the first row refloss's other engines take part."""
    problem, arrays = work.problem, arrays_of(work.problem, dtype)
    makers = contenders(problem, arrays, dtype)
    if not work.pauses:
        return {name: makers[name] for name in IN_TURN}
    if work.title == "first" and dtype == "float64":
        makers |= {name: functools.partial(engine, problem, arrays, name, dtype) for name in ("chain", "dd")}
    return makers


# --------------------------------------------------------------------------------------------------- refloss's engines


def memory_rows(*, quick: bool) -> Rows:
    """What the engines hold in the first row, and for the value of many classes."""
    rows: Rows = []
    for work in (WORKS[0], next(work for work in WORKS if work.title == "value")):
        problem = (reduced(work) if quick else work).problem
        for dtype in DTYPES:
            arrays = arrays_of(problem, dtype)
            every = problem.kind == "gradients" and dtype == "float64"
            for name in ("fused", "chain", "dd") if every else ("fused",):
                fn = ARCFACE if problem.kind == "value" else ARCFACE.value_and_grad
                options = {"dtype": np.dtype(dtype).type} if name == "fused" else {}
                call = functools.partial(fn, *arrays, engine=name, **options)
                if name == "fused":  # compile first
                    call()
                buffer = problem.n * problem.c * np.dtype(dtype).itemsize
                measured = {"engine": name, "bytes": peak_memory(call), "buffer": buffer}
                rows.append({"what": "memory", "work": problem._asdict(), "dtype": dtype} | measured)
    return rows


def classes_rows(dtype: str, *, quick: bool) -> Rows:
    """Time and memory against C, for few samples of few dimensions."""
    rows: Rows = []
    for c in CLASSES[: 3 if quick else None]:
        arrays = arrays_of(Problem("gradients", FEW_N, c, FEW_D), dtype)
        engines = ["fused"]
        if dtype == "float64" and CHAIN_BUFFERS * FEW_N * c * 8 <= 2**31:
            engines.append("chain")
        for of, fn in (("value", ARCFACE), ("gradients", ARCFACE.value_and_grad)):
            calls: Calls = {
                name: functools.partial(fn, *arrays, engine=name, dtype=np.dtype(dtype).type) for name in engines
            }
            for call in calls.values():
                call()
            seconds = timing.with_pauses(calls, 3)
            for name, call in calls.items():
                measured = {"seconds": seconds[name], "bytes": peak_memory(call)}
                rows.append({"what": "classes", "c": c, "dtype": dtype, "engine": name, "of": of} | measured)
    return rows


def crossing_rows(*, quick: bool) -> Rows:
    """Chain and fused at small sizes, a call repeated for 5 ms."""
    rows: Rows = []
    for shape, sizes in CROSSINGS.items():
        for power in POWERS[: 6 if quick else None]:
            problem = Problem("logits" if "logits" in shape else "gradients", *sizes(power))
            arrays = arrays_of(problem, "float64")
            calls: Calls = {name: engine(problem, arrays, name, "float64") for name in ("chain", "fused")}
            counts = {}
            for name, call in calls.items():
                call()
                counts[name] = max(1, math.ceil(0.005 / timed(call)))
            repeated: Calls = {name: functools.partial(repeat, call, counts[name]) for name, call in calls.items()}
            seconds = {
                name: [each / counts[name] for each in times] for name, times in timing.with_pauses(repeated, 3).items()
            }
            rows.append({"what": "crossing", "shape": shape, "power": power, "seconds": seconds})
    return rows


def repeat(call: Call, count: int) -> None:
    """Call so many times."""
    for _ in range(count):
        call()


# -------------------------------------------------------------------------------------------- imports, and first calls

IMPORT = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
IMPORTED = {
    "numpy": "import numpy",
    "refloss": "import refloss",
    "a loss": "from refloss import ArcFace",  # names load when first used
}
FIRST_CALL = """
import time
import numpy as np
import refloss
random = np.random.default_rng(0)
x, w = (random.standard_normal((rows, 64)).astype("{dtype}") for rows in (32, 1000))
y = random.integers(0, 1000, 32)
inputs = (x @ w.T, y) if "{loss}" == "CrossEntropy" else (x, w, y)
call = lambda: refloss.{loss}().value_and_grad(*inputs, engine="fused", dtype=np.{dtype})
start = time.perf_counter()
call()
print(time.perf_counter() - start)
"""


def start_rows(*, quick: bool) -> Rows:
    """Imports in turn with NumPy's, and first calls, with kernels compiled before and not."""
    seconds: timing.Seconds = {name: [] for name in IMPORTED}
    for _ in range(3 if quick else IMPORTS):
        for name, source in IMPORTED.items():
            seconds[name].append(printed(IMPORT.format(source)))
    rows: Rows = [{"what": "import", "seconds": {name: times[1:] for name, times in seconds.items()}}]
    for loss in ("ArcFace", "CrossEntropy"):
        for dtype in DTYPES:
            source, cold, warm = FIRST_CALL.format(loss=loss, dtype=dtype), [], []
            for _ in range(1 if quick else COLD):
                with tempfile.TemporaryDirectory() as folder:
                    cold.append(printed(source, NUMBA_CACHE_DIR=folder))
                    warm += [printed(source, NUMBA_CACHE_DIR=folder) for _ in range(3)]
            rows.append({"what": "first call", "loss": loss, "dtype": dtype, "cold": cold, "warm": warm})
    return rows


def printed(source: str, **variables: str) -> float:
    """The seconds that a fresh process prints."""
    command = [sys.executable, "-c", source]
    output = subprocess.run(command, env=environment() | variables, check=True, capture_output=True, text=True).stdout
    return float(output)


# ------------------------------------------------------------------------------------------------------------- machine


def machine_rows(*, quick: bool) -> Rows:
    """NumPy's BLAS and the C++ compiler; whether this is a trial."""
    import threadpoolctl

    blas = next((pool for pool in threadpoolctl.threadpool_info() if pool.get("user_api") == "blas"), {})
    columns = ("internal_api", "version", "architecture", "num_threads", "threading_layer")
    compiler = next((name for name in ("g++", "clang++") if shutil.which(name)), None)
    described = {"blas": {name: blas.get(name) for name in columns}, "compiler": compiler}
    return [{"what": "machine", "quick": quick} | described]


# --------------------------------------------------------------------------------------------------------------- parts

PARTS: dict[str, Callable[..., Rows]] = {"machine": machine_rows, "start": start_rows, "memory": memory_rows}
PARTS |= {
    f"work {place} {dtype}": functools.partial(work_rows, place, dtype)
    for place in range(len(WORKS)) for dtype in DTYPES
}  # fmt: skip
PARTS |= {f"classes {dtype}": functools.partial(classes_rows, dtype) for dtype in DTYPES}
PARTS["crossing"] = crossing_rows
SEEDS = range(len(PARTS))

THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "XLA_FLAGS")
"""Settings under which other records are measured with one thread; here every contender has all it asks for."""


def environment() -> dict[str, str]:
    """Variables of the processes that are measured: without limits on threads."""
    return {name: value for name, value in os.environ.items() if name not in THREAD_LIMITS}


def part(name: str, *, quick: bool = False, rounds: int | None = None) -> Rows:
    """Measure one part in a process of its own."""
    command = [sys.executable, __file__, name, "--rounds", str(rounds or 0), *["--quick"] * quick]
    variables = WORKS[int(name.split()[1])].variables if name.startswith("work") else {}
    start = time.perf_counter()
    output = subprocess.run(
        command, env=environment() | variables, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    rows: Rows = json.loads(output.splitlines()[-1])
    return rows


def measured(seed: int) -> Rows:
    """A part by its number, so that a recorded run goes on where it was stopped."""
    return part(list(PARTS)[seed])


def main() -> None:
    """Measure one part in this process and print its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=0, help="of a row of the first table; 0: as many as it has")
    parser.add_argument("--quick", action="store_true", help="reduced sizes and few rounds")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # pytorch-metric-learning and NumPy 2
    more: dict[str, Any] = {"rounds": options.rounds} if options.part.startswith("work") else {}
    print(json.dumps(PARTS[options.part](quick=options.quick, **more)))


if __name__ == "__main__":
    main()
