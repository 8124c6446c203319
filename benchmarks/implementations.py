"""The record implementations.md: losses as other libraries' users write them, beside "chain" and "dd".

One sample at a time, so that an error belongs to that sample's regime. Inputs are rounded to a dtype and then count as
exact: the truth is that of the rounded inputs. Each implementation computes in that dtype as its framework does.
libraries.py has the implementations.
"""

from __future__ import annotations

import math
import statistics
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pages
from libraries import FORMULAS, Array, Arrays, Implementation, M, Result, naive_arcface
from mpmath import mp, mpf
from pages import Measured, Rows

from refloss.engines.certified import enclose
from refloss.formats import FORMATS, dtype_of
from support import cases

Random = np.random.Generator

C, D = 10, 16
DTYPES = ("float64", "float32", "bfloat16", "float16")
ENGINES = ("chain", "dd")
PACKAGES = (
    "numpy", "scipy", "torch", "jax", "jaxlib", "optax", "pytorch-metric-learning", "ml_dtypes", "python-flint",
)  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- inputs


class Sample(NamedTuple):
    """A regime, the scale of the loss in it, and inputs."""

    regime: str
    s: float
    arrays: Arrays
    y: Array


def samples(formula: str, random: Random, dtype: str) -> Iterator[Sample]:
    """A sample or a few of every regime."""
    if formula == "cross entropy on logits":
        yield from logits_samples(random, dtype)
        return
    loss = FORMULAS[formula].loss(64.0)
    by_norm = getattr(loss, "s", None) is None

    def at(theta: float, length: float = 1.0) -> Arrays:
        x, w, own = cases.at_angle(random, theta, 1, C, D)
        w[[0, own[0]]] = w[[own[0], 0]]
        return {"x": x * (length / np.linalg.norm(x)), "w": w}

    y = np.array([0])
    for _ in range(2):
        x, w, _ = cases.ordinary(random, 1, C, D)
        yield Sample("ordinary", 64.0, {"x": x, "w": w}, y)
    for theta, length in ((0.6, 20.0), (0.2, 40.0), (0.2, 80.0)):
        arrays = at(theta, length)
        arrays["w"][1:] = -arrays["w"][0] * (1.0 + random.random((C - 1, 1))) + 0.3 * arrays["w"][1:]
        yield Sample("confident", length, arrays, y)
    if by_norm:
        largest = 1e3 if dtype == "float16" else 1e5
        yield Sample("huge logits", 1.0, at(1.0, largest), y)
    if formula == "SoftmaxLoss":
        return
    for power in (1, 2, 4, 6, 8):
        yield Sample("theta to 0", 4.0, at(10.0**-power, 4.0), y)
    for power in (1, 2, 4, 6, 8):
        yield Sample("theta to pi", 4.0, at(math.pi - 10.0**-power, 4.0), y)
    multiples = [k * math.pi / 4 for k in (1, 2, 3)] if formula == "ASoftmax" else [math.pi - M] * ("Arc" in formula)
    for theta in multiples:
        for side in (-1e-4, -1e-8, 1e-8, 1e-4):
            yield Sample("m1 theta + m2 at a multiple of pi", 4.0, at(theta + side, 4.0), y)
    for power in {"float64": (30, 200), "float32": (15, 30), "bfloat16": (15, 30), "float16": (2, 3)}[dtype]:
        for size in (10.0**-power, 10.0**power):
            if not by_norm:
                yield Sample("norms", 4.0, at(1.0, size), y)
            arrays = at(1.0, 4.0)
            arrays["w"][0] *= size
            yield Sample("norms", 4.0, arrays, y)


def logits_samples(random: Random, dtype: str) -> Iterator[Sample]:
    """Logits from ordinary to confident and huge."""
    y = np.array([0])
    for _ in range(2):
        yield Sample("ordinary", 1.0, {"z": 5.0 * random.standard_normal((1, C))}, y)
    for sign, regime in ((1.0, "confident"), (-1.0, "confidently wrong")):
        for gap in (5.0, 10.0, 20.0, 36.0, 50.0, 100.0, 300.0, 700.0):
            z = random.uniform(-1.0, 1.0, (1, C))
            z[0, 0] += sign * gap
            yield Sample(regime, 1.0, {"z": z}, y)
    for size in (1e3, 1e4) if dtype == "float16" else (1e4, 1e8, 1e30):
        yield Sample("huge logits", 1.0, {"z": size + 3.0 * random.standard_normal((1, C))}, y)


# ----------------------------------------------------------------------------------------------------------- measuring


class Truth(NamedTuple):
    """The midpoint of an enclosure as the sum of two float64: twice the digits of one."""

    high: Array
    low: Array

    @classmethod
    def of(cls, decimal: Any) -> Truth:
        """Split decimals, as an enclosure has them."""
        with mp.workdps(50):
            exact = [mpf(text) for text in np.ravel(decimal)]
            high = [float(number) for number in exact]
            low = [float(number - near) for number, near in zip(exact, high, strict=True)]
        return cls(np.reshape(high, np.shape(decimal)), np.reshape(low, np.shape(decimal)))

    def error(self, result: Any, dtype: str) -> float:
        """The worst row's largest error over its largest entry, in u of the dtype; NaN if a result is not finite."""
        off = np.atleast_2d(np.abs((np.asarray(result, np.float64) - self.high) - self.low))
        size = np.abs(np.atleast_2d(self.high)).max(axis=1)
        stored = FORMATS[dtype]
        return float((off.max(axis=1) / np.maximum(size, stored.smallest)).max() / stored.u)


class Truths(NamedTuple):
    """The true value of a loss, and its true gradients."""

    value: Truth
    gradients: dict[str, Truth]

    @classmethod
    def of(cls, loss: Any, arrays: Arrays, y: Array) -> Truths:
        """Enclose a loss of these inputs, and its gradients."""
        enclosure = enclose(loss, *arrays.values(), y)
        gradients = {name: Truth.of(ball.decimal) for name, ball in enclosure.grad.items()}
        return cls(Truth.of(enclosure.value.decimal), gradients)

    def errors(self, result: Result, dtype: str) -> tuple[float, float]:
        """The error of the value, and the largest error of a gradient; NaN where a gradient is not finite."""
        value, gradients = result
        with np.errstate(all="ignore"):
            each = [self.gradients[name].error(part, dtype) for name, part in gradients.items()]
            return self.value.error(value, dtype), max(each) if all(map(math.isfinite, each)) else math.nan


def by_engine(loss: Any, engine: str, dtype: str) -> Implementation:
    """An engine's results, rounded to the dtype as one would who needs them there."""

    def implementation(arrays: Arrays, y: Array, s: float) -> Result:
        value, gradients = loss.value_and_grad(*arrays.values(), y, engine=engine)
        with np.errstate(over="ignore"):
            by_name = {name: part for name, part in gradients._asdict().items() if part is not None}
            stored = dtype_of(dtype)
            return stored(value), {name: part.astype(stored) for name, part in by_name.items()}

    return implementation


def implementations(formula: str, s: float, dtype: str) -> dict[str, Implementation]:
    """Who computes a formula in a dtype, by name."""
    loss_of, others = FORMULAS[formula]
    everyone = others | {engine: by_engine(loss_of(s), engine, dtype) for engine in ENGINES}
    return {name: fn for name, fn in everyone.items() if dtype == "float64" or fn is not naive_arcface}


def measured(seed: int) -> Rows:
    """Measure a round: one row per sample and implementation."""
    rows: Rows = []
    for formula in FORMULAS:
        for dtype in DTYPES:
            random = np.random.default_rng([seed, zlib.crc32((formula + dtype).encode())])
            for regime, s, exact_arrays, y in samples(formula, random, dtype):
                arrays = {name: array.astype(dtype_of(dtype)) for name, array in exact_arrays.items()}
                truths = Truths.of(FORMULAS[formula].loss(s), arrays, y)
                for name, fn in implementations(formula, s, dtype).items():
                    value, gradient = truths.errors(fn(arrays, y, s), dtype)
                    rows.append({
                        "kind": formula, "regime": regime, "dtype": dtype, "who": name,
                        "value": value, "gradient": gradient,
                    })  # fmt: skip
    return rows


# ---------------------------------------------------------------------------------------------------------------- page


def cell(errors: list[float]) -> str:
    """Median and worst of finite errors, and how many are not finite; empty where nothing was computed."""
    finite = [error for error in errors if math.isfinite(error)]
    numbers = f"{small(statistics.median(finite))}, {small(max(finite))}" if finite else ""
    lost = len(errors) - len(finite)
    return numbers + (f"{'; ' if numbers else ''}**{lost} NaN**" if lost else "")


def small(error: float) -> str:
    """Two digits, and 0.00 for what is far below a rounding."""
    return f"{error:.2g}" if error >= 0.01 else "0.00"


def section(formula: str, rows: Rows) -> str:
    """A formula's table: one row per regime and implementation, columns for value and gradients of each dtype."""
    columns = [(dtype, part) for dtype in DTYPES for part in ("value", "gradient")]
    lines = []
    for (regime,), regime_rows in pages.grouped(rows, "regime").items():
        first = regime_rows[0]
        count = len(pages.where(regime_rows, who=first["who"], dtype=first["dtype"]))
        for (who,), group in pages.grouped(regime_rows, "who").items():
            cells = [cell([row[part] for row in pages.where(group, dtype=dtype)]) for dtype, part in columns]
            lines.append((regime, f"`{who}`" if who in ENGINES else who, str(count), *cells))
    titles = [f"{dtype} {part}" for dtype, part in columns]
    return f"## {formula}\n\n{pages.table(('regime', 'implementation', 'samples', *titles), lines, words=2)}"


def write(measured: Measured, commit: str, folder: Path) -> None:
    """Write implementations.md."""
    rows = measured.rows
    pages.write(
        folder,
        "implementations.md",
        c=C,
        d=D,
        m=f"{M:.3f}",
        comparisons=len(rows),
        facts=pages.facts(measured, commit, PACKAGES),
        sections="\n\n".join(section(formula, pages.where(rows, kind=formula)) for formula in FORMULAS),
    )
