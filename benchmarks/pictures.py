"""Curves of error against what makes a case hard, one line an implementation: pictures.md and its pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import facts
import numpy as np
from implementations import KINDS, C, D, M, Truths, ours
from mpmath import mp

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


class Picture(NamedTuple):
    """What stands on the axes of each panel, and the file's name."""

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
    """Where a sample stands in which panel, and the sample."""

    panel: str
    step: int
    at: float
    arrays: dict[str, np.ndarray]


def target_at(random: np.random.Generator, theta: float, x: float = 1.5, w: float = 1.0) -> dict[str, np.ndarray]:
    """One sample of class 0 at an angle, and the lengths of x and of that class's weights."""
    rows, weights, own = cases.at_angle(random, theta, 1, C, D)
    weights[[0, own[0]]] = weights[[own[0], 0]]
    weights[0] *= w / np.linalg.norm(weights[0])
    return {"x": rows * (x / np.linalg.norm(rows)), "w": weights}


def points(picture: str, random: np.random.Generator) -> Iterator[Point]:
    """Every sample of a picture; its place is that of the numbers as they are, not as they were meant."""
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
        for panel in next(it.panels for it in PICTURES if it.name == picture):
            start, sign = base[panel]
            for step, power in enumerate(np.linspace(-12.0, -0.5, 24)):
                given = target_at(random, start + sign * 10.0**power)
                yield Point(panel, step, distance(panel, given), given)


def distance(panel: str, given: dict[str, np.ndarray]) -> float:
    """How far the angle between x and w_y is from where the panel goes to."""
    theta = exact.angle(given["x"], given["w"][:1])[0]
    with mp.workdps(50):
        if panel == "theta to 0":
            return float(theta)
        return float(mp.pi - theta if panel == "theta to pi" else abs(mp.pi - theta - mp.mpf(M)))


def measured(seed: int) -> list[dict[str, Any]]:
    """One round: a row for every point and implementation."""
    rows, y = [], np.array([0])
    for picture in PICTURES:
        for panel, step, at, arrays in points(picture.name, np.random.default_rng([seed, len(picture.name)])):
            of = dict.fromkeys(LOGITS, "cross entropy on logits") if "z" in arrays else ARCFACE
            truths = {kind: Truths.of(KINDS[kind].loss(4.0), arrays, y) for kind in set(of.values())}
            for who, kind in of.items():
                value, gradient = truths[kind].errors(called(who, kind)(arrays, y, 4.0), "float64")
                rows.append({
                    "picture": picture.name, "panel": panel, "step": step, "at": at, "who": who,
                    "value": value, "gradient": gradient,
                })  # fmt: skip
    return rows


def called(who: str, kind: str) -> Callable[..., Any]:
    """The implementation."""
    if who in ("chain", "dd"):
        return ours(KINDS[kind].loss(4.0), who, "float64")
    return KINDS[kind].others["PML ArcFaceLoss" if who.startswith("PML") else who]


# ------------------------------------------------------------------------------------------------------------- drawing

LOWEST, HIGHEST = 0.1, 1e17


def draw(picture: Picture, rows: list[dict[str, Any]], path: Path) -> None:
    """Draw medians over rounds; where some are not finite, a mark above the upper line."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    shape = len(picture.errors), len(picture.panels)
    size = (10.0, 1.2 + 3.3 * shape[0])
    figure, axes = plt.subplots(*shape, squeeze=False, sharey="row", figsize=size, layout="constrained")
    for (what, y_label), line in zip(picture.errors.items(), axes, strict=True):
        lost = dict.fromkeys(row["who"] for row in rows if not math.isfinite(row[what]))
        tops = {who: HIGHEST * 8.0 ** (place + 1) for place, who in enumerate(lost)}
        top = max(tops.values(), default=HIGHEST) * 8.0
        line[0].set_ylabel(y_label)
        for (panel, x_label), plot in zip(picture.panels.items(), line, strict=True):
            some = [row for row in rows if row["panel"] == panel]
            for place, who in enumerate(dict.fromkeys(row["who"] for row in some)):
                curve(plot, who, place, [row for row in some if row["who"] == who], what, tops.get(who, top))
            plot.set(xscale="log", yscale="log", xlabel=x_label, ylim=(LOWEST / 2, top))
            plot.set_yticks([10.0**power for power in range(0, 17, 4)])
            plot.set_xticks(decades([row["at"] for row in some]))
            plot.minorticks_off()
            plot.grid(visible=True, color="#dddddd", linewidth=0.5)
            plot.axhline(2.0**53, color="black", linewidth=0.8, linestyle=(0, (1, 3)))
            if lost:
                plot.axhline(HIGHEST, color="black", linewidth=0.8)
                plot.text(0.99, 0.98, "not finite", ha="right", va="top", fontsize=8, transform=plot.transAxes)
    figure.suptitle(picture.title, fontsize=11)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False, handlelength=3.5)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def decades(numbers: list[float]) -> list[float]:
    """Some five powers of ten, evenly spaced, across the numbers."""
    low, high = math.log10(min(numbers)), math.log10(max(numbers))
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100) if (high - low) / step <= 7)
    return [10.0 ** (step * k) for k in range(math.ceil(low / step - 0.1), math.floor(high / step + 0.1) + 1)]


def curve(plot: Any, who: str, place: int, rows: list[dict[str, Any]], what: str, top: float) -> None:
    """One implementation in one panel; markers of different ones at different points, so that none hides another."""
    dash, marker, colour = STYLES[who]
    x, y, lost = [], [], []
    for step in sorted({row["step"] for row in rows}):
        some = [row for row in rows if row["step"] == step]
        at = statistics.median(row["at"] for row in some)
        finite = [row[what] for row in some if math.isfinite(row[what])]
        x.append(at)
        y.append(max(statistics.median(finite), LOWEST) if finite else math.nan)
        if len(finite) < len(some):
            lost.append(at)
    style = {"color": colour, "marker": marker, "markersize": 4.5, "markerfacecolor": "none"}
    plot.plot(x, y, linestyle=dash, linewidth=1.3, markevery=(place % 4, 4), label=who, **style)
    plot.plot(lost, [top] * len(lost), linestyle="none", **style)


def write(measured: facts.Measured, commit: str, folder: Path) -> None:
    """Write pictures.md and the pictures."""
    for picture in PICTURES:
        rows = [row for row in measured.rows if row["picture"] == picture.name]
        draw(picture, rows, folder / f"{picture.name}.png")
    packages = (
        "numpy",
        "scipy",
        "torch",
        "jax",
        "jaxlib",
        "optax",
        "pytorch-metric-learning",
        "python-flint",
        "matplotlib",
    )
    page = f"""# Errors of implementations, drawn

Written by `.ci/record`. Medians of {measured.rounds} samples a point, each alone, C = {C}, D = {D}, in float64. Errors
are in u = 2^-53, of the loss relative to itself, of gradients the worst row relative to its largest entry; errors below
{LOWEST} are drawn there. The dotted line is an error of 100 %. Marks above the upper line say that some results there
are not finite; those are left out of the curves. Who computes how: [implementations](implementations.md).

{facts.lines(measured, commit, packages)}

## Small and large angles

acos and sqrt(1 - c^2) keep half of the digits of a small angle, and autograd divides by its sine: the gradient loses
1 / theta^2 and ends as NaN.

![Error against the target's angle](angle.png)

## theta + m at pi

The slope of cos(theta + m) goes through 0 there, and with it the gradient of the target's weights.

![Error against the distance of theta + m from pi](margin.png)

## Confident targets

1 + exp(-gap) is 1 from a loss of 1e-16 on; -log p and p - 1 are then 0.

![Error against the true loss](confident.png)

## Lengths

Squares of entries underflow and overflow; torch's normalize does not divide by less than 1e-12.

![Error against the length of x and of w](norm.png)
"""
    (folder / "pictures.md").write_text(page)
