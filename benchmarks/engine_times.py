"""Times on dd.md and certified.md: "dd" beside "chain" and a matrix product with their memory, and enclosures.

All run with one thread.
"""

from __future__ import annotations

import functools
import statistics
from typing import Any

import numpy as np
import pages
import timing
from pages import Rows

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
ROUNDS = 3


def measured(seed: int) -> Rows:
    """A row for each loss, with its engines in turn, and for each enclosure."""
    random = np.random.default_rng(seed)
    x, w, y = random.standard_normal((N, D)), random.standard_normal((C, D)), random.integers(0, C, N)
    rows: Rows = []
    for loss in LOSSES:
        inputs: Any = (5.0 * x[:, :1] * w.T[:1], y) if isinstance(loss, refloss.CrossEntropy) else (x, w, y)
        calls = {name: functools.partial(loss.value_and_grad, *inputs, engine=name) for name in ENGINES}
        times = medians(calls | {"product": lambda: x @ w.T})
        memory = {name: timing.peak_memory(call) / BUFFER for name, call in calls.items()}
        rows.append({"loss": repr(loss), "times": times, "memory": memory})
    for loss, n, c, d, gradients in ENCLOSED:
        inputs = random.standard_normal((n, d)), random.standard_normal((c, d)), random.integers(0, c, n)
        call = functools.partial(enclose, loss, *inputs, gradients=gradients)
        size = f"N = {n}, C = {c}, D = {d}, {'with gradients' if gradients else 'the value'}"
        rows.append({"enclosed": repr(loss), "size": size, "times": medians({"enclosure": call})})
    return rows


def medians(calls: timing.Calls) -> dict[str, float]:
    """Median seconds of calls in turn."""
    return {name: statistics.median(times) for name, times in timing.without_pauses(calls, ROUNDS).items()}


def engines_table(rows: Rows) -> str:
    """Times and memory of the engines."""
    lines = []
    for row in rows:
        if "loss" in row:
            times, memory = row["times"], row["memory"]
            seconds = (f"{times[name]:.2f}" for name in (*ENGINES, "product"))
            buffers = (f"{memory[name]:.1f}" for name in ENGINES)
            lines.append((f"`{row['loss']}`", *seconds, f"{times['dd'] / times['chain']:.1f}", *buffers))
    titles = ("loss", "chain, s", "dd, s", "x w^T, s", "dd / chain", "chain, memory", "dd, memory")
    return f"""Value and gradients at N = {N}, C = {C}, D = {D}, one thread; medians of {ROUNDS}, taken in turn.
Memory is the peak beyond inputs and outputs as tracemalloc sees it, in float64 arrays of N x C.

{pages.table(titles, lines)}"""


def enclosures_table(rows: Rows) -> str:
    """Times of enclosures."""
    lines = [
        (f"`{row['enclosed']}`", row["size"], f"{row['times']['enclosure']:.2f}") for row in rows if "enclosed" in row
    ]
    return f"""Enclosures to 30 digits, one thread; medians of {ROUNDS}.

{pages.table(("loss", "size", "s"), lines, words=2)}"""
