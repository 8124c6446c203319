"""Time and memory: "dd" beside "chain" and a matrix product, and what an enclosure takes."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import facts
import numpy as np

import refloss
from refloss.engines.certified import enclose

N, C, D = 128, 20_000, 512
ENGINES = ("chain", "dd")
LOSSES = (refloss.ArcFace(), refloss.ASoftmax(), refloss.SoftmaxLoss(), refloss.CrossEntropy())
ENCLOSED = (  # loss, N, C, D, whether with gradients
    (refloss.ArcFace(), 8, 50, 32, True),
    (refloss.ASoftmax(), 8, 50, 32, True),
    (refloss.ArcFace(), 8, 1000, 512, False),
    (refloss.ASoftmax(), 8, 1000, 512, False),
)
BUFFER = N * C * 8


def measured(seed: int) -> list[dict[str, Any]]:
    """A row for each loss, with its engines timed in turn, and for each enclosure."""
    random = np.random.default_rng(seed)
    x, w, y = random.standard_normal((N, D)), random.standard_normal((C, D)), random.integers(0, C, N)
    rows = []
    for loss in LOSSES:
        given = (5.0 * x[:, :1] * w.T[:1], y) if isinstance(loss, refloss.CrossEntropy) else (x, w, y)
        calls = {
            name: lambda name=name, loss=loss, given=given: loss.value_and_grad(*given, engine=name) for name in ENGINES
        }
        times = in_turn(calls | {"product": lambda: x @ w.T})
        memory = {name: extra_memory(call) for name, call in calls.items()}
        rows.append({"loss": repr(loss), "times": times, "memory": memory})
    for loss, n, c, d, gradients in ENCLOSED:
        x, w, y = random.standard_normal((n, d)), random.standard_normal((c, d)), random.integers(0, c, n)
        what = {"enclosure": lambda x=x, w=w, y=y, loss=loss, on=gradients: enclose(loss, x, w, y, gradients=on)}
        size = f"N = {n}, C = {c}, D = {d}, {'with gradients' if gradients else 'the value'}"
        rows.append({"enclosed": repr(loss), "size": size, "times": in_turn(what)})
    return rows


def in_turn(calls: dict[str, Callable[[], Any]], times: int = 3) -> dict[str, float]:
    """Call each in turn, once to warm up and then three times; the median of its seconds."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(times + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds[1:]) for name, seconds in found.items()}


def extra_memory(call: Callable[[], Any]) -> float:
    """Peak of what NumPy and Python hold beyond inputs and outputs, in float64 arrays of N x C."""
    tracemalloc.start()
    _, gradients = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (peak - sum(array.nbytes for array in gradients if array is not None)) / BUFFER


def engines_table(rows: list[dict[str, Any]]) -> str:
    """Times and memory of the engines."""
    lines = [
        (f"`{row['loss']}`", *(f"{row['times'][name]:.2f}" for name in (*ENGINES, "product")),
         f"{row['times']['dd'] / row['times']['chain']:.1f}", *(f"{row['memory'][name]:.1f}" for name in ENGINES))
        for row in rows if "loss" in row
    ]  # fmt: skip
    titles = ("loss", "chain, s", "dd, s", "x w^T, s", "dd / chain", "chain, memory", "dd, memory")
    return f"""Value and gradients at N = {N}, C = {C}, D = {D}, one thread; medians of 3, taken in turn.
Memory is the peak beyond inputs and outputs as tracemalloc sees it, in float64 arrays of N x C.

{facts.table(titles, lines)}"""


def enclosures_table(rows: list[dict[str, Any]]) -> str:
    """Times of enclosures."""
    lines = [
        (f"`{row['enclosed']}`", row["size"], f"{row['times']['enclosure']:.2f}") for row in rows if "enclosed" in row
    ]
    return f"""Enclosures to 30 digits, one thread; medians of 3.

{facts.table(("loss", "size", "s"), lines, words=2)}"""
