"""The record performance.md and its two pictures: how fast the engine "fused" is, beside a floor and other libraries.

`python benchmarks/performance.py` measures and prints the tables; `.ci/record performance` writes the page.
performance_parts.py measures, contenders.py has who takes part, timing.py how they take turns.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path

import drawing
import pages
import timing
from contenders import FLOORS
from pages import Measured, Row, Rows
from performance_parts import COLD, CROSSINGS, FEW_D, FEW_N, IMPORTED, IMPORTS, PARTS, part

from refloss.engines import dispatch

CONTENDERS = ("fused", "jax.jit", "torch.compile", "torch", "PML", "InsightFace")
PACKAGES = ("numpy", "numba", "threadpoolctl", "torch", "jax", "jaxlib", "pytorch-metric-learning")
STYLES = {  # engine, dtype and what is computed
    ("fused", "float32", "value"): (":", "^", "#e08030"),
    ("fused", "float32", "gradients"): ("--", "v", "#d04000"),
    ("fused", "float64", "value"): (":", "o", "#60a0e0"),
    ("fused", "float64", "gradients"): ("-", "s", "#0050a0"),
    ("chain", "float64", "value"): (":", "x", "#909090"),
    ("chain", "float64", "gradients"): ("-.", "D", "#000000"),
}


def title(work: Row) -> str:
    """What a row of the first table computes."""
    if work["kind"] == "logits":
        return f"CrossEntropy, value and gradient, logits {work['n']} × {work['c']}"
    what = "value" if work["kind"] == "value" else "value and gradients"
    turns = "" if work.get("pauses", True) else ", in turn"
    turns += "".join(f", {name}={value}" for name, value in work.get("variables", {}).items())
    return f"ArcFace, {what}, N={work['n']}, C={work['c']}, D={work['d']}{turns}"


def works_table(rows: Rows) -> str:
    """Medians of ratios to the floor."""
    lines = []
    for row in pages.where(rows, what="work"):
        seconds, aim = row["seconds"], row["work"]["aim"][row["dtype"]]
        by_name = {name: timing.ratios(seconds, name) for name in CONTENDERS}
        ours, *others = (f"{statistics.median(ratios):.2f}" if ratios else "–" for ratios in by_name.values())
        floor = f"{1000 * statistics.median(seconds['floor']):.0f}"
        every = f"{min(by_name['fused']):.2f}–{max(by_name['fused']):.2f}"
        lines.append((title(row["work"]), row["dtype"], floor, ours, aim, every, *others))
    titles = ("work", "dtype", "floor, ms", "fused", "aimed at", "all rounds", *CONTENDERS[1:])
    return pages.table(titles, lines, words=2)


def engines_table(rows: Rows) -> str:
    """Refloss's engines in the first row."""
    row = next(row for row in pages.where(rows, what="work") if "chain" in row["seconds"])
    lines = []
    for name in ("fused", "chain", "dd"):
        if name in row["seconds"]:
            seconds, ratios = row["seconds"][name], timing.ratios(row["seconds"], name)
            lines.append((f"`{name}`", f"{statistics.median(seconds):.3f}", f"{statistics.median(ratios):.2f}"))
    return f"{title(row['work'])}, float64:\n\n{pages.table(('engine', 's', 'over the floor'), lines)}"


def memory_table(rows: Rows) -> str:
    """Peak memory of the engines."""
    lines = []
    for row in pages.where(rows, what="memory"):
        size, buffer = row["bytes"], row["buffer"]
        numbers = f"{size / 2**20:.1f}", f"{size / buffer:.2f}", f"{(size - buffer) / 2**20:.1f}"
        lines.append((title(row["work"]), row["dtype"], f"`{row['engine']}`", *numbers))
    return pages.table(("work", "dtype", "engine", "MiB", "in N × C", "MiB beyond one N × C"), lines, words=3)


def start_table(rows: Rows) -> str:
    """Imports and first calls."""
    lines = []
    for row in pages.where(rows, what="import"):
        for name, source in IMPORTED.items():
            over = statistics.median(timing.ratios(row["seconds"], name, "numpy"))
            lines.append((f"`{source}`", f"{statistics.median(row['seconds'][name]):.3f}", f"{over:.2f}"))
    for row in pages.where(rows, what="first call"):
        for cache, state in (("warm", "compiled before, by another process"), ("cold", "nothing compiled yet")):
            call = f"first call of {row['loss']} in a process, {row['dtype']}, {state}"
            lines.append((call, f"{statistics.median(row[cache]):.2f}", "–"))
    return pages.table(("what", "s", "over NumPy's import"), lines)


def classes_table(rows: Rows) -> str:
    """Time and memory against C."""
    ordered = sorted(
        pages.where(rows, what="classes"), key=lambda row: (row["engine"], row["dtype"], row["of"], row["c"])
    )
    lines = [
        (f"`{row['engine']}`", row["dtype"], row["of"], f"{row['c']}", f"{statistics.median(row['seconds']):.4f}",
         f"{row['bytes'] / 2**20:.1f}")
        for row in ordered
    ]  # fmt: skip
    return pages.table(("engine", "dtype", "of", "C", "s", "MiB"), lines, words=3)


def crossing_table(rows: Rows) -> str:
    """Chain and fused at small sizes."""
    crossings = {(row["shape"], row["power"]): row["seconds"] for row in pages.where(rows, what="crossing")}
    columns = [(shape, engine) for shape in CROSSINGS for engine in ("chain", "fused")]
    lines = [
        (f"2^{power}",
         *(f"{1000 * statistics.median(crossings[shape, power][engine]):.2f}" for shape, engine in columns))
        for power in sorted({power for _, power in crossings})
    ]  # fmt: skip
    return pages.table(("size", *(f"{shape}: {engine}, ms" for shape, engine in columns)), lines)


def left_out(rows: Rows) -> list[str]:
    """Contenders that did not take part, and why."""
    return sorted({f"{name}: {why}" for row in pages.where(rows, what="work") for name, why in row["skipped"].items()})


def blas_line(rows: Rows) -> str:
    """NumPy's BLAS, and the C++ compiler."""
    (machine,) = pages.where(rows, what="machine")
    blas = machine["blas"]
    return (
        f"- BLAS of NumPy: {blas['internal_api']} {blas['version']}, {blas['architecture']}, "
        f"{blas['num_threads']} threads; C++ compiler: {machine['compiler']}"
    )


def draw(rows: Rows, of: str, label: str, path: Path) -> None:
    """Draw seconds, or bytes, against C."""
    figure, ((plot,),) = drawing.panels(1, 1, (7.5, 4.8))
    for (engine, dtype, what), (dash, marker, colour) in STYLES.items():
        curve = pages.where(rows, what="classes", engine=engine, dtype=dtype, of=what)
        y = [statistics.median(row["seconds"]) if of == "seconds" else row["bytes"] / 2**20 for row in curve]
        name = f"{engine}, {dtype}, value{' and gradients' * (what == 'gradients')}"
        style = {"color": colour, "marker": marker, "markersize": 5, "markerfacecolor": "none", "linewidth": 1.3}
        plot.plot([row["c"] for row in curve], y, linestyle=dash, label=name, **style)
    drawing.log_axes(plot, xlabel="C", ylabel=label)
    drawing.save(figure, path, f"ArcFace, N = {FEW_N}, D = {FEW_D}", columns=2)


def write(measured: Measured, commit: str, folder: Path) -> None:
    """Write performance.md and its pictures."""
    rows = measured.rows
    draw(rows, "seconds", "s", folder / "classes-time.png")
    draw(rows, "bytes", "MiB beyond inputs and outputs", folder / "classes-memory.png")
    pages.write(
        folder,
        "performance.md",
        trial=pages.where(rows, what="machine")[0]["quick"],
        facts=pages.facts(measured, commit, PACKAGES, rounds="parts"),
        blas=blas_line(rows),
        left_out=left_out(rows),
        rounds=", ".join(f"{len(row['seconds']['floor'])}" for row in pages.where(rows, what="work", dtype="float64")),
        pause=timing.PAUSE,
        slow=f"{timing.SLOW:.0f}",
        floors="; ".join(f"{kind}: {what}" for kind, what in FLOORS.items()),
        works=works_table(rows),
        engines=engines_table(rows),
        memory=memory_table(rows),
        start=start_table(rows),
        imports=IMPORTS - 1,
        cold=COLD,
        classes=classes_table(rows),
        few_n=FEW_N,
        few_d=FEW_D,
        crossing=crossing_table(rows),
        large={kind: (f"{size:,}", f"2^{math.log2(size):.0f}") for kind, size in dispatch.LARGE.items()},
    )


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="of each row of the first table")
    parser.add_argument("--quick", action="store_true", help="reduced sizes and few rounds: to see whether it runs")
    parser.add_argument("--only", default="", help=f"parts with this in their name, of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, help="write what was measured there, too")
    options = parser.parse_args()
    chosen = [name for name in PARTS if options.only in name or name == "machine"]
    rows = [row for name in chosen for row in part(name, quick=options.quick, rounds=options.rounds)]
    if options.json:
        options.json.write_text(json.dumps(rows))
    print(blas_line(rows), *(f"- left out: {contender}" for contender in left_out(rows)), "", sep="\n")
    tables = {"work": works_table, "memory": memory_table, "import": start_table, "classes": classes_table}
    for what, table_of in (tables | {"crossing": crossing_table}).items():
        if pages.where(rows, what=what):
            print(table_of(rows), end="\n\n")


if __name__ == "__main__":
    main()
