"""How fast the engine "fused" is, beside the matrix products it cannot do without and beside other libraries.

`python benchmarks/fused.py` prints the tables; `.ci/record performance` writes them to docs/records/performance.md.

Each part runs in a process of its own. Contenders take turns in every round, and what counts is the median over rounds
of a contender's time over the floor's in the same round. Threads that a library leaves waiting for more work keep
spinning, up to 0.2 s, and take a core from whoever is next: so a turn begins with a pause, and with a call that is not
counted.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import facts
import numpy as np

import refloss
from refloss.engines import dispatch

Rows = list[dict[str, Any]]
Calls = dict[str, Callable[[], Any]]

PAUSE = 0.3  # s: longer than idle threads spin
SLOW = 2.0  # s: what takes longer gets one call a turn, in the first two rounds
ARCFACE = refloss.ArcFace()
DTYPES = ("float32", "float64")
HELD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "XLA_FLAGS")
"""Settings under which other records are measured with one thread: they do not hold here."""
IMPORTS = 15
COLD = 3


class Work(NamedTuple):
    """A row of the table."""

    title: str
    kind: str
    """"gradients", "value" or "logits"."""
    n: int
    c: int
    d: int
    aim: dict[str, str]
    """What is aimed at, by dtype."""
    rounds: int


WORKS = (
    Work("first", "gradients", 128, 20_000, 512, {"float32": "1.20", "float64": "1.15"}, 11),
    Work("many classes", "gradients", 128, 100_000, 512, {"float32": "1.15", "float64": "1.15"}, 5),
    Work("many samples", "gradients", 1024, 20_000, 512, {"float32": "1.10", "float64": "1.10"}, 5),
    Work("value", "value", 128, 100_000, 512, {"float32": "1.15", "float64": "1.15"}, 5),
    Work("logits", "logits", 4096, 32_000, 0, {"float32": "less than torch", "float64": "less than torch"}, 3),
)
FLOORS = {
    "gradients": "x w^T; z w; z^T x",
    "value": "x w^T",
    "logits": "a copy of z",
}
COUNTS = (1_000, 10_000, 100_000, 1_000_000, 5_000_000)
FEW_N, FEW_D = 32, 16
CHAIN_BUFFERS = 40  # of N x C, that the chain takes: it is left out where they are more than 2 GiB
POWERS = range(10, 27, 2)
CROSSINGS = {  # how N, C and D grow with the power of two that is their product
    "N = C = D": lambda k: (2 ** (k // 3), 2 ** (k - 2 * (k // 3)), 2 ** (k // 3)),
    "N = 8, D = 64": lambda k: (8, 2 ** (k - 9), 64),
    "logits, N = 32": lambda k: (32, 2 ** (k - 5), 0),
}


def reduced(work: Work) -> Work:
    """The same row, small enough for a trial."""
    return work._replace(n=max(64, work.n // 8), c=work.c // 10, d=work.d and 128, rounds=2)


# ----------------------------------------------------------------------------------------------------------- contenders


def data(work: Work, dtype: str) -> tuple[Any, ...]:
    """Embeddings, weights and labels, or logits and labels."""
    random = np.random.default_rng(0)
    y = random.integers(0, work.c, work.n)
    if work.kind == "logits":
        z = random.standard_normal((work.n, work.c), np.float32).astype(dtype)
        z *= 4.0
        return z, y
    x, w = (random.standard_normal((rows, work.d), np.float32).astype(dtype) for rows in (work.n, work.c))
    return x, w, y


def ours(work: Work, given: tuple[Any, ...], dtype: str, engine: str) -> Callable[[], Any]:
    """An engine of refloss; those without that dtype compute and return float64."""
    settings = {"engine": engine} | ({"dtype": np.dtype(dtype).type} if engine == "fused" else {})
    loss = refloss.CrossEntropy() if work.kind == "logits" else ARCFACE
    if work.kind == "value":
        return lambda: loss(*given, **settings)
    return lambda: loss.value_and_grad(*given, **settings)[0]


def by_torch(work: Work, given: tuple[Any, ...], how: str) -> Callable[[], Any]:
    """Torch: eager, compiled, InsightFace's formulation, or pytorch-metric-learning."""
    import torch

    f, s, m = torch.nn.functional, ARCFACE.s, ARCFACE.m
    *arrays, y = (torch.from_numpy(array) for array in given)
    tensors = [array.requires_grad_(work.kind != "value") for array in arrays]

    def arcface(x: Any, w: Any) -> Any:
        """The margin is put where the target is, nothing else is N x C."""
        cos = f.linear(f.normalize(x), f.normalize(w))
        psi = torch.cos(torch.acos(cos.gather(1, y[:, None]).clamp(-1, 1)) + m)
        return f.cross_entropy(s * cos.scatter(1, y[:, None], psi), y)

    def insightface(x: Any, w: Any) -> Any:
        """Written after the description: all angles taken, moved and put back in place, without a gradient."""
        cos = f.linear(f.normalize(x), f.normalize(w)).clamp(-1, 1)
        with torch.no_grad():
            own = cos[torch.arange(len(y)), y].acos()
            cos.acos_()
            cos[torch.arange(len(y)), y] = own + m
            cos.cos_()
        return f.cross_entropy(cos * s, y)

    def logits(z: Any) -> Any:
        return f.cross_entropy(z, y)

    fn = logits if work.kind == "logits" else insightface if how == "InsightFace" else arcface
    if how == "torch.compile":
        if not (shutil.which("g++") or shutil.which("clang++")):
            raise RuntimeError("no C++ compiler")
        fn = torch.compile(fn)
    if how == "PML":
        from pytorch_metric_learning import losses as pml

        module = pml.ArcFaceLoss(work.c, work.d, margin=math.degrees(m), scale=s)
        module.W = torch.nn.Parameter(tensors[1].detach().T.contiguous(), requires_grad=work.kind != "value")
        tensors[1] = module.W

        def fn(x: Any, w: Any) -> Any:
            return module(x, y)

    def value() -> Any:
        with torch.no_grad():
            return float(fn(*tensors))

    def gradients() -> Any:
        found = fn(*tensors)
        torch.autograd.grad(found, tensors)
        return float(found.detach())

    return value if work.kind == "value" else gradients


def by_jax(work: Work, given: tuple[Any, ...]) -> Callable[[], Any]:
    """JAX, compiled."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    s, m = ARCFACE.s, ARCFACE.m

    def cross_entropy(z: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()

    def arcface(x: Any, w: Any, y: Any) -> Any:
        unit_x, unit_w = (rows / jnp.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, w))
        cos = unit_x @ unit_w.T
        psi = jnp.cos(jnp.arccos(jnp.clip(jnp.take_along_axis(cos, y[:, None], 1), -1, 1)) + m)
        return cross_entropy(s * jnp.where(jnp.arange(len(w)) == y[:, None], psi, cos), y)

    arrays = [jnp.asarray(array) for array in given]
    fn = cross_entropy if work.kind == "logits" else arcface
    wanted = 0 if work.kind == "logits" else (0, 1)
    called = jax.jit(fn if work.kind == "value" else jax.value_and_grad(fn, argnums=wanted))

    def run() -> Any:
        found = jax.block_until_ready(called(*arrays))
        return float(found if work.kind == "value" else found[0])

    return run


def floor(work: Work, given: tuple[Any, ...]) -> Callable[[], Any]:
    """The products as they are written in NumPy; of logits, a copy."""
    if work.kind == "logits":
        return given[0].copy
    x, w, _ = given

    def products() -> None:
        z = x @ w.T
        if work.kind == "gradients":
            _ = z @ w, z.T @ x

    return products


def contenders(work: Work, given: tuple[Any, ...], dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names, and what makes what is to be called."""
    yield "floor", lambda: floor(work, given)
    yield "fused", lambda: ours(work, given, dtype, "fused")
    if work.title == "first" and dtype == "float64":
        yield "chain", lambda: ours(work, given, dtype, "chain")
        yield "dd", lambda: ours(work, given, dtype, "dd")
    yield "jax.jit", lambda: by_jax(work, given)
    for how in ("torch.compile", "torch", "PML", "InsightFace"):
        if work.kind != "logits" or how.startswith("torch"):
            yield how, lambda how=how: by_torch(work, given, how)


# ------------------------------------------------------------------------------------------------------------ measuring


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def turn(call: Callable[[], Any], slow: bool = False) -> float:
    """Pause, call once for nothing and then three times, or for a second: the median of seconds."""
    time.sleep(PAUSE)
    if slow:
        return timed(call)
    call()
    found: list[float] = []
    while len(found) < 3 and sum(found) < 1.0:
        found.append(timed(call))
    return statistics.median(found)


def in_turn(calls: Calls, rounds: int) -> dict[str, list[float]]:
    """Seconds by name, one a round; each round begins with another one. Every call has been made before."""
    slow = {name: timed(call) > SLOW for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if number < 2 or not slow[name]:
                found[name].append(turn(calls[name], slow[name]))
    return found


def of_work(place: int, dtype: str, quick: bool, rounds: int | None) -> Rows:
    """A row of the table: everybody's seconds."""
    work = reduced(WORKS[place]) if quick else WORKS[place]
    given, calls, skipped, expected = data(work, dtype), {}, {}, None
    for name, make in contenders(work, given, dtype):
        try:
            call = make()
            value = call()  # compiles what is compiled
        except Exception as error:  # whatever is missing: the page says so
            skipped[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        if name == "fused":
            expected = float(value)
        elif name != "floor" and not math.isclose(value, expected, rel_tol=1e-3):
            raise ValueError(f"{name} computes {value} and not {expected}")
        calls[name] = call
    seconds = in_turn(calls, rounds or work.rounds)
    return [{"what": "work", "place": place, "work": work._asdict(), "dtype": dtype} | {
        "seconds": seconds, "skipped": skipped
    }]  # fmt: skip


def extra_memory(call: Callable[[], Any]) -> int:
    """Peak bytes of what NumPy and Python hold beyond inputs and outputs."""
    gc.collect()
    tracemalloc.start()
    found = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    gradients = found[1] if isinstance(found, tuple) else ()
    return peak - sum(array.nbytes for array in gradients if array is not None)


def of_memory(quick: bool) -> Rows:
    """What the engines hold in the first row, and the value of many classes."""
    rows = []
    for place, kind in ((0, "gradients"), (3, "value")):
        work = reduced(WORKS[place]) if quick else WORKS[place]
        for dtype in DTYPES:
            given = data(work, dtype)
            names = ("fused", "chain", "dd") if kind == "gradients" and dtype == "float64" else ("fused",)
            for engine in names:
                settings = {"engine": engine} | ({"dtype": np.dtype(dtype).type} if engine == "fused" else {})
                fn = ARCFACE if kind == "value" else ARCFACE.value_and_grad
                call = functools.partial(fn, *given, **settings)
                if engine == "fused":
                    call()
                rows.append({
                    "what": "memory", "work": work._asdict(), "dtype": dtype, "engine": engine,
                    "bytes": extra_memory(call), "buffer": work.n * work.c * np.dtype(dtype).itemsize,
                })  # fmt: skip
    return rows


def of_classes(dtype: str, quick: bool) -> Rows:
    """Time and memory against C, at few samples of few dimensions."""
    rows = []
    for c in COUNTS[: 3 if quick else None]:
        work = Work("", "gradients", FEW_N, c, FEW_D, {}, 3)
        given = data(work, dtype)
        engines = ["fused"]
        if dtype == "float64" and CHAIN_BUFFERS * FEW_N * c * 8 <= 2**31:
            engines.append("chain")
        for what, fn in (("value", ARCFACE), ("gradients", ARCFACE.value_and_grad)):
            calls: Calls = {
                engine: functools.partial(fn, *given, engine=engine, dtype=np.dtype(dtype).type) for engine in engines
            }
            for call in calls.values():
                call()
            times = in_turn(calls, 3)
            rows += [
                {"what": "classes", "c": c, "dtype": dtype, "engine": engine, "of": what,
                 "seconds": times[engine], "bytes": extra_memory(calls[engine])}
                for engine in engines
            ]  # fmt: skip
    return rows


def of_crossing(quick: bool) -> Rows:
    """Chain and fused at small sizes."""
    rows = []
    for name, shape in CROSSINGS.items():
        for power in POWERS[: 6 if quick else None]:
            work = Work("", "logits" if "logits" in name else "gradients", *shape(power), {}, 3)
            given = data(work, "float64")
            calls: Calls = {engine: ours(work, given, "float64", engine) for engine in ("chain", "fused")}
            times = {}
            for engine, call in calls.items():
                call()
                times[engine] = max(1, math.ceil(0.005 / timed(call)))
            repeated: Calls = {
                engine: lambda call=call, count=times[engine]: [call() for _ in range(count)]
                for engine, call in calls.items()
            }
            found = in_turn(repeated, 3)
            seconds = {engine: [it / times[engine] for it in found[engine]] for engine in calls}
            rows.append({"what": "crossing", "shape": name, "power": power, "seconds": seconds})
    return rows


IMPORT = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
IMPORTED = {
    "numpy": "import numpy",
    "refloss": "import refloss",
    "a loss": "from refloss import ArcFace",  # names load when they are asked for
}
FIRST = """
import time
import numpy as np
import refloss
random = np.random.default_rng(0)
x, w = (random.standard_normal((rows, 64)).astype("{dtype}") for rows in (32, 1000))
y = random.integers(0, 1000, 32)
given = (x @ w.T, y) if "{loss}" == "CrossEntropy" else (x, w, y)
call = lambda: refloss.{loss}().value_and_grad(*given, engine="fused", dtype=np.{dtype})
start = time.perf_counter()
call()
print(time.perf_counter() - start)
"""


def fresh(source: str, **more: str) -> float:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", source], env=environment() | more, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def of_start(quick: bool) -> Rows:
    """Imports, and first calls, in fresh processes."""
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTED}
    for _ in range(3 if quick else IMPORTS):
        for name, source in IMPORTED.items():
            seconds[name].append(fresh(IMPORT.format(source)))
    rows: Rows = [{"what": "import", "seconds": {name: found[1:] for name, found in seconds.items()}}]
    for loss in ("ArcFace", "CrossEntropy"):
        for dtype in DTYPES:
            source, cold, warm = FIRST.format(loss=loss, dtype=dtype), [], []
            for _ in range(1 if quick else COLD):
                with tempfile.TemporaryDirectory() as folder:
                    cold.append(fresh(source, NUMBA_CACHE_DIR=folder))
                    warm += [fresh(source, NUMBA_CACHE_DIR=folder) for _ in range(3)]
            rows.append({"what": "first call", "loss": loss, "dtype": dtype, "cold": cold, "warm": warm})
    return rows


def of_machine(quick: bool) -> Rows:
    """What the page says beside the usual."""
    import threadpoolctl

    found = threadpoolctl.threadpool_info()
    blas = next((it for it in found if it.get("user_api") == "blas"), {})
    return [{
        "what": "machine", "quick": quick, "blas": {key: blas.get(key) for key in
        ("internal_api", "version", "architecture", "num_threads", "threading_layer")},
        "compiler": next((name for name in ("g++", "clang++") if shutil.which(name)), None),
    }]  # fmt: skip


PARTS: dict[str, Callable[..., Rows]] = {"machine": of_machine, "start": of_start, "memory": of_memory}
PARTS |= {
    f"work {place} {dtype}": functools.partial(of_work, place, dtype) for place in range(len(WORKS)) for dtype in DTYPES
}
PARTS |= {f"classes {dtype}": functools.partial(of_classes, dtype) for dtype in DTYPES}
PARTS["crossing"] = of_crossing


def environment() -> dict[str, str]:
    """Of the processes that are measured: with all the threads that everybody likes to have."""
    return {name: value for name, value in os.environ.items() if name not in HELD}


def part(name: str, *, quick: bool = False, rounds: int | None = None) -> Rows:
    """One part, in a process of its own."""
    command = [sys.executable, __file__, "--part", name, "--rounds", str(rounds or 0), *["--quick"] * quick]
    start = time.perf_counter()
    done = subprocess.run(command, env=environment(), check=True, stdout=subprocess.PIPE, text=True)
    print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


SEEDS = range(len(PARTS))


def measured(seed: int) -> Rows:
    """A part, by its number: so that a recorded run goes on where it was."""
    return part(list(PARTS)[seed])


# ---------------------------------------------------------------------------------------------------------------- pages


def titled(work: dict[str, Any]) -> str:
    """What is computed."""
    if work["kind"] == "logits":
        return f"CrossEntropy, value and gradient, logits {work['n']} × {work['c']}"
    what = "value" if work["kind"] == "value" else "value and gradients"
    return f"ArcFace, {what}, N={work['n']}, C={work['c']}, D={work['d']}"


def some(rows: Rows, what: str) -> Rows:
    """Rows of one kind."""
    return [row for row in rows if row["what"] == what]


def ratios(row: dict[str, Any], name: str, over: str = "floor") -> list[float]:
    """A contender's seconds over another's, round by round."""
    found = row["seconds"]
    return [a / b for a, b in zip(found.get(name, ()), found[over], strict=False)]


NAMES = ("fused", "jax.jit", "torch.compile", "torch", "PML", "InsightFace")


def works_table(rows: Rows) -> str:
    """The table of medians of ratios."""
    lines = []
    for row in some(rows, "work"):
        found = ratios(row, "fused")
        ours, *others = (f"{statistics.median(it):.2f}" if (it := ratios(row, name)) else "–" for name in NAMES)
        lines.append((
            titled(row["work"]), row["dtype"], f"{1000 * statistics.median(row['seconds']['floor']):.0f}",
            ours, row["work"]["aim"][row["dtype"]], f"{min(found):.2f}–{max(found):.2f}", *others,
        ))  # fmt: skip
    titles = ("work", "dtype", "floor, ms", "fused", "aimed at", "all rounds", *NAMES[1:])
    return facts.table(titles, lines, words=2)


def engines_table(rows: Rows) -> str:
    """Our engines in the first row."""
    row = next(row for row in some(rows, "work") if "chain" in row["seconds"])
    lines = [
        (f"`{name}`", f"{statistics.median(row['seconds'][name]):.3f}", f"{statistics.median(ratios(row, name)):.2f}")
        for name in ("fused", "chain", "dd")
        if name in row["seconds"]
    ]
    return f"{titled(row['work'])}, float64:\n\n{facts.table(('engine', 's', 'over the floor'), lines)}"


def memory_table(rows: Rows) -> str:
    """What engines hold."""
    lines = [
        (titled(row["work"]), row["dtype"], f"`{row['engine']}`", f"{row['bytes'] / 2**20:.1f}",
         f"{row['bytes'] / row['buffer']:.2f}", f"{(row['bytes'] - row['buffer']) / 2**20:.1f}")
        for row in some(rows, "memory")
    ]  # fmt: skip
    return facts.table(("work", "dtype", "engine", "MiB", "in N × C", "MiB beyond one N × C"), lines, words=3)


def start_table(rows: Rows) -> str:
    """Imports and first calls."""
    lines = []
    for row in some(rows, "import"):
        for name, source in IMPORTED.items():
            over = statistics.median(ratios(row, name, "numpy"))
            lines.append((f"`{source}`", f"{statistics.median(row['seconds'][name]):.3f}", f"{over:.2f}"))
    for row in some(rows, "first call"):
        for cache, named in (("warm", "compiled before, by another process"), ("cold", "nothing compiled yet")):
            title = f"first call of {row['loss']} in a process, {row['dtype']}, {named}"
            lines.append((title, f"{statistics.median(row[cache]):.2f}", "–"))
    return facts.table(("what", "s", "over NumPy's import"), lines)


def classes_table(rows: Rows) -> str:
    """Time and memory against C."""
    lines = [
        (f"`{row['engine']}`", row["dtype"], row["of"], f"{row['c']}", f"{statistics.median(row['seconds']):.4f}",
         f"{row['bytes'] / 2**20:.1f}")
        for row in sorted(some(rows, "classes"), key=lambda row: (row["engine"], row["dtype"], row["of"], row["c"]))
    ]  # fmt: skip
    return facts.table(("engine", "dtype", "of", "C", "s", "MiB"), lines, words=3)


def crossing_table(rows: Rows) -> str:
    """Chain over fused at small sizes."""
    found = {(row["shape"], row["power"]): row for row in some(rows, "crossing")}
    powers = sorted({power for _, power in found})
    lines = []
    for power in powers:
        cells = []
        for shape in CROSSINGS:
            row = found[shape, power]
            a, b = (1000 * statistics.median(row["seconds"][engine]) for engine in ("chain", "fused"))
            cells += [f"{a:.2f}", f"{b:.2f}"]
        lines.append((f"2^{power}", *cells))
    titles = [f"{shape}: {engine}, ms" for shape in CROSSINGS for engine in ("chain", "fused")]
    return facts.table(("size", *titles), lines)


def skipped_list(rows: Rows) -> str:
    """Who did not take part, and why."""
    found = {f"{name}: {reason}" for row in some(rows, "work") for name, reason in row["skipped"].items()}
    return "\n".join(f"- left out: {it}" for it in sorted(found)) + "\n" * bool(found)


def blas_line(rows: Rows) -> str:
    """NumPy's BLAS."""
    found = some(rows, "machine")[0]
    blas = found["blas"]
    return (
        f"- BLAS of NumPy: {blas['internal_api']} {blas['version']}, {blas['architecture']}, "
        f"{blas['num_threads']} threads; C++ compiler: {found['compiler']}"
    )


STYLES = {
    ("fused", "float32", "value"): (":", "^", "#e08030"),
    ("fused", "float32", "gradients"): ("--", "v", "#d04000"),
    ("fused", "float64", "value"): (":", "o", "#60a0e0"),
    ("fused", "float64", "gradients"): ("-", "s", "#0050a0"),
    ("chain", "float64", "value"): (":", "x", "#909090"),
    ("chain", "float64", "gradients"): ("-.", "D", "#000000"),
}


def draw(rows: Rows, of: str, label: str, path: Path) -> None:
    """A picture of seconds, or of bytes, against C."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, plot = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    for key, (dash, marker, colour) in STYLES.items():
        curve = [row for row in some(rows, "classes") if (row["engine"], row["dtype"], row["of"]) == key]
        y = [statistics.median(row["seconds"]) if of == "seconds" else row["bytes"] / 2**20 for row in curve]
        named = f"{key[0]}, {key[1]}, value{' and gradients' * (key[2] == 'gradients')}"
        style = {"color": colour, "marker": marker, "markersize": 5, "markerfacecolor": "none", "linewidth": 1.3}
        plot.plot([row["c"] for row in curve], y, linestyle=dash, label=named, **style)
    plot.set(xscale="log", yscale="log", xlabel="C", ylabel=label)
    plot.minorticks_off()
    plot.grid(visible=True, color="#dddddd", linewidth=0.5)
    figure.suptitle(f"ArcFace, N = {FEW_N}, D = {FEW_D}", fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False, handlelength=3.5)
    figure.savefig(path, dpi=90)
    plt.close(figure)


PACKAGES = ("numpy", "numba", "threadpoolctl", "torch", "jax", "jaxlib", "pytorch-metric-learning")


def write(measured: facts.Measured, commit: str, folder: Path) -> None:
    """Write performance.md and its pictures."""
    rows = measured.rows
    draw(rows, "seconds", "s", folder / "classes-time.png")
    draw(rows, "bytes", "MiB beyond inputs and outputs", folder / "classes-memory.png")
    trial = "**A trial at reduced sizes, to show the form of this page. It measures nothing.**\n\n"
    large = dispatch.LARGE
    top = facts.lines(measured, commit, PACKAGES).replace(" rounds", " parts")
    rounds = ", ".join(f"{len(row['seconds']['floor'])}" for row in some(rows, "work") if row["dtype"] == "float64")
    page = f"""# Time and memory of the engine `fused`

Written by `.ci/record performance`.

{trial if some(rows, "machine")[0]["quick"] else ""}{top}
{blas_line(rows)}
{skipped_list(rows)}
## How it was measured

A floor is what cannot be done without: with gradients the products z = x wᵀ, z w and zᵀ x, for the value alone the
first of them, each as NumPy computes it with all its threads; of logits, a copy. Contenders take turns in every round,
each round beginning with another one. Numbers are medians over rounds of a contender's time over the floor's time in
the same round; rounds by row of the table, float32 and float64 alike: {rounds}.

On few cores one thing decides more than all others: when a library returns, its threads go on spinning for up to 0.2 s
and take a core from whoever is next. So every turn begins with a pause of {PAUSE} s and a call that is not counted;
then come three calls, or as many as begin within a second, of which the median counts. What takes longer than
{SLOW:.0f} s gets one call in each of the first two rounds.

Everybody has all threads they ask for, and was compiled before. Each row is a process of its own. Inputs are the same
normal numbers, in the dtype of the row, and lie in each library's own kind of array already. The values of all agree to
1e-3.

- fused: `engine="fused"`, with the dtype of the row.
- jax.jit: `jax.value_and_grad` of unit rows, their product, the margin by arccos on the target, log_softmax; compiled.
- torch, torch.compile: normalize, linear, the margin by gather, acos and scatter, cross_entropy; autograd.
- PML: `ArcFaceLoss` of pytorch-metric-learning, with its own weight W (D, C).
- InsightFace: its formulation, written after its description: all cosines to angles, the margin, and back, in place and
  without gradient.

## Time

<!-- --8<-- [start:table] -->
{works_table(rows)}
<!-- --8<-- [end:table] -->

Floors: {"; ".join(f"{name}: {what}" for name, what in FLOORS.items())}. NumPy copies with one thread.

## The engines

{engines_table(rows)}

## Memory

The peak beyond inputs and outputs, as tracemalloc sees it.

<!-- --8<-- [start:memory] -->
{memory_table(rows)}
<!-- --8<-- [end:memory] -->

## Imports and first calls

In fresh processes: medians of {IMPORTS - 1} imports, in turn with NumPy's, and of {COLD} and {3 * COLD} first calls.

<!-- --8<-- [start:start] -->
{start_table(rows)}
<!-- --8<-- [end:start] -->

## Against the number of classes

ArcFace, N = {FEW_N}, D = {FEW_D}. The chain is left out where it would need more than 2 GiB.

![Seconds against the number of classes](classes-time.png)

![Memory beyond inputs and outputs against the number of classes](classes-memory.png)

{classes_table(rows)}

## Where `auto` changes over

Value and gradients in float64, by N C D, or by the entries of logits. `auto` takes `fused` from {large["margin"]:,}
= 2^{math.log2(large["margin"]):.0f} on, of logits from {large["logits"]:,} = 2^{math.log2(large["logits"]):.0f} on.

{crossing_table(rows)}
"""
    (folder / "performance.md").write_text(page)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="of each row of the first table")
    parser.add_argument("--quick", action="store_true", help="reduced sizes and few rounds: to see whether it runs")
    parser.add_argument("--only", default="", help=f"parts with this in their name, of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, help="write what was measured there, too")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # pytorch-metric-learning and NumPy 2
    if options.part:
        more = {"rounds": options.rounds} if options.part.startswith("work") else {}
        print(json.dumps(PARTS[options.part](quick=options.quick, **more)))
        return
    chosen = [name for name in PARTS if options.only in name or name == "machine"]
    rows = [row for name in chosen for row in part(name, quick=options.quick, rounds=options.rounds)]
    if options.json:
        options.json.write_text(json.dumps(rows))
    print(blas_line(rows), skipped_list(rows), sep="\n")
    tables = {"work": works_table, "memory": memory_table, "import": start_table, "classes": classes_table}
    for what, table in (tables | {"crossing": crossing_table}).items():
        if some(rows, what):
            print(table(rows), end="\n\n")


if __name__ == "__main__":
    main()
