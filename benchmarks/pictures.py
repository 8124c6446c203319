"""The record pictures.md and its pictures: error against what makes a case hard, a curve per implementation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import drawing
import numpy as np
import pages
from implementations import ENGINES, C, D, Truths, by_engine
from libraries import FORMULAS, Arrays, Implementation, M
from mpmath import mp
from pages import Measured, Rows

import refloss
from support import cases, exact

ARCFACE = {"PML (hard)": 'ArcFace, boundary="hard"', "torch, acos": "ArcFace", "torch, sqrt(1 - c^2)": "ArcFace"}
ARCFACE |= {"jax, arccos": "ArcFace", "textbook NumPy": "ArcFace", "chain": "ArcFace", "dd": "ArcFace"}
LOGITS = ("torch", "optax", "jax, log_softmax", "scipy, log_softmax", "textbook NumPy", "chain", "dd")
STYLES = {  # line, marker and shade, alike for implementations of one family: they can be told apart in black and white
    "chain": ("-", "o", "#0050a0"),
    "dd": ("-", "s", "#000000"),
    "textbook NumPy": (":", "x", "#909090"),
    "torch": ("--", "^", "#d04000"),
    "torch, acos": ("--", "^", "#d04000"),
    "torch, sqrt(1 - c^2)": ("-.", "v", "#e08030"),
    "PML (hard)": ("--", "D", "#a0208f"),
    "optax": ("-.", "<", "#208050"),
    "jax, arccos": ("-.", ">", "#208050"),
    "jax, log_softmax": (":", ">", "#60b080"),
    "scipy, log_softmax": ("--", "+", "#806000"),
}


PACKAGES = (
    "numpy", "scipy", "torch", "jax", "jaxlib", "optax", "pytorch-metric-learning", "python-flint", "matplotlib",
)  # fmt: skip
LOWEST, HIGHEST = 0.1, 1e17
"""Errors below the first are drawn there; above the second, marks of results that are not finite."""


class Picture(NamedTuple):
    """A file's name and title, and the axes of its panels."""

    name: str
    title: str
    panels: dict[str, str]
    """Label of the x axis by the name of a panel."""
    errors: dict[str, str]
    """Label of the y axis by "value" or "gradient": a row of panels each."""


PICTURES = (
    Picture(
        "angle",
        "ArcFace, s = 4, m = 28.6°, float64",
        {"theta to 0": r"$\theta$", "theta to pi": r"$\pi - \theta$"},
        {"value": "error of the loss, u", "gradient": "error of the gradient, u"},
    ),
    Picture(
        "margin",
        "ArcFace, s = 4, m = 28.6°, float64, where the slope of $\\cos(\\theta + m)$ vanishes",
        {"before pi": r"$\pi - (\theta + m)$", "past pi": r"$(\theta + m) - \pi$"},
        {"gradient": "error of the gradient, u"},
    ),
    Picture(
        "confident",
        "Cross entropy on logits, 10 classes, float64",
        {"1e-300 to 1e-20": "true loss", "1e-20 to 1": "true loss"},
        {"value": "error of the loss, u", "gradient": "error of the gradient, u"},
    ),
    Picture(
        "norm",
        "ArcFace, s = 4, m = 28.6°, float64",
        {"length of x": r"$\|x\|$", "length of w": r"$\|w_y\|$"},
        {"gradient": "error of the gradient, u"},
    ),
)


# ----------------------------------------------------------------------------------------------------------- measuring


class Point(NamedTuple):
    """A sample, and where it stands on the x axis of a panel."""

    panel: str
    step: int
    at: float
    arrays: Arrays


def target_at(random: np.random.Generator, theta: float, x: float = 1.5, w: float = 1.0) -> Arrays:
    """One sample of class 0 at an angle, with these lengths of x and of that class's weights."""
    rows, weights, own = cases.at_angle(random, theta, 1, C, D)
    weights[[0, own[0]]] = weights[[own[0], 0]]
    weights[0] *= w / np.linalg.norm(weights[0])
    return {"x": rows * (x / np.linalg.norm(rows)), "w": weights}


def points(picture: str, random: np.random.Generator) -> Iterator[Point]:
    """Every sample of a picture; its place is that of the rounded numbers, not of those aimed at."""
    if picture == "confident":
        for panel, powers in {"1e-300 to 1e-20": range(300, 19, -10), "1e-20 to 1": range(20, -1, -1)}.items():
            for step, power in enumerate(powers):
                z = random.uniform(-1.0, 1.0, (1, C))
                z[0, 0] = z[0, 1:].max() + (power * math.log(10.0) or 1.0)
                yield Point(panel, step, float(refloss.CrossEntropy()(z, [0])), {"z": z})
    elif picture == "norm":
        for step, power in enumerate(range(-200, 201, 10)):
            yield Point("length of x", step, 10.0**power, target_at(random, 1.0, x=10.0**power))
            yield Point("length of w", step, 10.0**power, target_at(random, 1.0, w=10.0**power))
    else:
        base = {"theta to 0": (0.0, 1), "theta to pi": (math.pi, -1)}
        base |= {"before pi": (math.pi - M, -1), "past pi": (math.pi - M, 1)}
        for panel in next(each.panels for each in PICTURES if each.name == picture):
            start, sign = base[panel]
            for step, power in enumerate(np.linspace(-12.0, -0.5, 24)):
                arrays = target_at(random, start + sign * 10.0**power)
                yield Point(panel, step, distance(panel, arrays), arrays)


def distance(panel: str, arrays: Arrays) -> float:
    """Distance of the angle between x and w_y from the panel's limit."""
    theta = exact.angle(arrays["x"], arrays["w"][:1])[0]
    with mp.workdps(50):
        if panel == "theta to 0":
            return float(theta)
        return float(mp.pi - theta if panel == "theta to pi" else abs(mp.pi - theta - mp.mpf(M)))


def measured(seed: int) -> Rows:
    """One round: a row for every point and implementation."""
    rows: Rows = []
    y = np.array([0])
    for picture in PICTURES:
        for panel, step, at, arrays in points(picture.name, np.random.default_rng([seed, len(picture.name)])):
            formulas = dict.fromkeys(LOGITS, "cross entropy on logits") if "z" in arrays else ARCFACE
            truths = {name: Truths.of(FORMULAS[name].loss(4.0), arrays, y) for name in set(formulas.values())}
            for who, formula in formulas.items():
                value, gradient = truths[formula].errors(implementation(who, formula)(arrays, y, 4.0), "float64")
                rows.append({
                    "picture": picture.name, "panel": panel, "step": step, "at": at, "who": who,
                    "value": value, "gradient": gradient,
                })  # fmt: skip
    return rows


def implementation(who: str, formula: str) -> Implementation:
    """The implementation that a curve's name stands for."""
    if who in ENGINES:
        return by_engine(FORMULAS[formula].loss(4.0), who, "float64")
    return FORMULAS[formula].others["PML ArcFaceLoss" if who.startswith("PML") else who]


# ------------------------------------------------------------------------------------------------------------- drawing


def draw(picture: Picture, rows: Rows, path: Path) -> None:
    """Draw medians over rounds; where a result is not finite, a mark above the upper line."""
    height = 1.2 + 3.3 * len(picture.errors)
    figure, axes = drawing.panels(len(picture.errors), len(picture.panels), (10.0, height))
    for (what, y_label), line in zip(picture.errors.items(), axes, strict=True):
        lost = dict.fromkeys(row["who"] for row in rows if not math.isfinite(row[what]))
        tops = {who: HIGHEST * 8.0 ** (place + 1) for place, who in enumerate(lost)}
        top = max(tops.values(), default=HIGHEST) * 8.0
        line[0].set_ylabel(y_label)
        for (panel, x_label), plot in zip(picture.panels.items(), line, strict=True):
            panel_rows = pages.where(rows, panel=panel)
            for place, ((who,), group) in enumerate(pages.grouped(panel_rows, "who").items()):
                curve(plot, who, place, group, what, tops.get(who, top))
            drawing.log_axes(plot, xlabel=x_label, ylim=(LOWEST / 2, top))
            plot.set_yticks([10.0**power for power in range(0, 17, 4)])
            plot.set_xticks(decades([row["at"] for row in panel_rows]))
            plot.axhline(2.0**53, color="black", linewidth=0.8, linestyle=(0, (1, 3)))
            if lost:
                plot.axhline(HIGHEST, color="black", linewidth=0.8)
                plot.text(0.99, 0.98, "not finite", ha="right", va="top", fontsize=8, transform=plot.transAxes)
    drawing.save(figure, path, picture.title, columns=4, entries=axes[0][0].get_legend_handles_labels())


def decades(numbers: list[float]) -> list[float]:
    """About five powers of ten, evenly spaced, across the numbers."""
    low, high = math.log10(min(numbers)), math.log10(max(numbers))
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if (high - low) / step <= 7)
    return [10.0 ** (step * k) for k in range(math.ceil(low / step - 0.1), math.floor(high / step + 0.1) + 1)]


def curve(plot: Any, who: str, place: int, rows: Rows, what: str, top: float) -> None:
    """One implementation in one panel; its markers stand where no other's do, so that none hides another."""
    dash, marker, colour = STYLES[who]
    x, y, lost = [], [], []
    for step in sorted({row["step"] for row in rows}):
        samples = pages.where(rows, step=step)
        at = statistics.median(row["at"] for row in samples)
        finite = [row[what] for row in samples if math.isfinite(row[what])]
        x.append(at)
        y.append(max(statistics.median(finite), LOWEST) if finite else math.nan)
        if len(finite) < len(samples):
            lost.append(at)
    style = {"color": colour, "marker": marker, "markersize": 4.5, "markerfacecolor": "none"}
    plot.plot(x, y, linestyle=dash, linewidth=1.3, markevery=(place % 4, 4), label=who, **style)
    plot.plot(lost, [top] * len(lost), linestyle="none", **style)


def write(measured: Measured, commit: str, folder: Path) -> None:
    """Write pictures.md and the pictures."""
    for picture in PICTURES:
        draw(picture, pages.where(measured.rows, picture=picture.name), folder / f"{picture.name}.png")
    facts = pages.facts(measured, commit, PACKAGES)
    pages.write(folder, "pictures.md", rounds=measured.rounds, c=C, d=D, lowest=LOWEST, facts=facts)
