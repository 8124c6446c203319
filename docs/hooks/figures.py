"""The drawings of the site, from refloss itself, made while it is built.

Each function draws one and bears its name, with _ for -. What it computes it computes with refloss, or with the naive
code written out beside it. `svg` makes text to be put into a page: letters stay letters, and take the page's colour
and font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import refloss

TEXT = "#010203"  # a colour nobody else uses; becomes the page's own
COLOURS = ["#3b82c4", "#c8603c", "#3f9a55", "#9a6bc4", "#b0802b", "#888888", "#c25a8e"]  # 3:1 on white and on slate
DASHES = ["-", "--", "-.", ":", (0, (6, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)), (0, (3, 1, 1, 1, 1, 1))]
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "refloss",
    "font.size": 10.0,
    "text.color": TEXT,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}
ANGLES = np.linspace(0.0, np.pi, 181)
RULES = ("hard", "easy", "keep", "continuous", "monotone", "clamp", "min")


def svg(name: str) -> str:
    """Draw one, as an SVG element without a size of its own."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        FIGURES[name](figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"| height="[^"]*pt"', r"\1", text)
    text = re.sub(r'\bid="', f'id="{name}-', text).replace('"#', f'"#{name}-').replace("url(#", f"url(#{name}-")
    text = re.sub(r"font: [^;\"]*?([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    return re.sub(r"(\.\d\d)\d+", r"\1", text.replace(TEXT, "currentColor")).strip()


def _lines(axes: Any, curves: dict[str, tuple[Any, Any]]) -> None:
    for number, (label, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, color=COLOURS[number % len(COLOURS)], ls=DASHES[number % len(DASHES)], lw=1.8, label=label)
    axes.legend(fontsize=9)


def _angle_axis(axes: Any) -> None:
    axes.set_xticks(np.pi * np.arange(5) / 4, ["0", "π/4", "π/2", "3π/4", "π"])
    axes.set_xlabel("θ, radians")


def rules(figure: Figure) -> None:
    """ψ of ArcFace under each boundary rule, where it is not that of "none", beside cos θ."""
    axes = figure.add_subplot()
    plain = np.array(refloss.ArcFace(m=0.5).target_logit(ANGLES))
    curves = {"cos θ": (ANGLES, np.cos(ANGLES)), "none": (ANGLES, plain)}
    for rule in RULES:
        psi = np.array(refloss.ArcFace(m=0.5, boundary=rule).target_logit(ANGLES))
        curves[rule] = (ANGLES, np.where(np.abs(psi - plain) > 1e-9, psi, np.nan))
    _lines(axes, curves)
    _angle_axis(axes)
    axes.set_ylabel("ψ(θ), m = 0.5")


def confident_loss(figure: Figure) -> None:
    """Cross entropy of two classes against the gap of their logits, beside -log of a softmax in float64."""
    gap = np.linspace(0.0, 690.0, 139)
    z = np.stack([gap, np.zeros_like(gap)], axis=-1)
    true = refloss.CrossEntropy(reduction="none")(z, np.zeros(len(gap), int))
    e = np.exp(z - gap[:, None])
    naive = -np.log(e[:, 0] / e.sum(axis=-1))
    seen = naive > 0
    axes = figure.add_subplot()
    _lines(axes, {"refloss": (gap, true), "-log(softmax(z)): 0 after the dot": (gap[seen], naive[seen])})
    axes.plot(gap[seen][-1], naive[seen][-1], "o", color=COLOURS[1])
    axes.set_yscale("log")
    axes.set_yticks(10.0 ** -np.arange(0, 301, 50))
    axes.set_xlabel("gap of the two logits")
    axes.set_ylabel("loss of the target")


def _with_angle(theta: float) -> tuple[Any, Any]:
    """Float64 vectors an angle of about theta apart, turned so that no coordinate is 0."""
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    return turn @ np.array([1.0, 0.0]), turn @ np.array([np.cos(theta), np.sin(theta)])


def arccos_error(figure: Figure) -> None:
    """Relative error of two ways to an angle; the truth is atan2 of the cross product, made with exact fractions."""
    angles = np.geomspace(1e-12, 1.0, 97)
    through_cosine, ours = [], []
    for theta in angles:
        x, w = _with_angle(theta)
        true = _true_angle(x, w)
        cosine = x @ w / (np.linalg.norm(x) * np.linalg.norm(w))
        through_cosine.append(abs(np.arccos(min(1.0, cosine)) - true) / true)
        found = refloss.ArcFace().trace([x], [w, -w], [0])["angle"].output[0]
        ours.append(abs(found - true) / true)
    axes = figure.add_subplot()
    floor = 2.0**-54  # what is 0 is drawn here
    curves = {"arccos of the cosine": through_cosine, "refloss": ours}
    _lines(axes, {label: (angles, np.maximum(errors, floor)) for label, errors in curves.items()})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("angle, radians")
    axes.set_ylabel("relative error of θ")


def _true_angle(x: Any, w: Any) -> float:
    """The angle of two vectors of the plane: their cross and dot products in exact fractions, rounded once."""
    from fractions import Fraction

    (a, b), (c, d) = ([Fraction(float(entry)) for entry in vector] for vector in (x, w))
    return float(np.arctan2(abs(float(a * d - b * c)), float(a * c + b * d)))


def triplet(figure: Figure) -> None:
    """Anchor, positive and the ball inside which a negative costs something, for the squared distance."""
    axes = figure.add_subplot()
    anchor, positive, m = np.zeros(2), np.array([0.7, 0.0]), 0.5
    grid = np.stack(np.meshgrid(np.linspace(-1.9, 1.9, 161), np.linspace(-1.15, 1.15, 97)), axis=-1)
    flat = grid.reshape(-1, 2)
    loss = refloss.Triplet(m=m, reduction="none")(
        np.broadcast_to(anchor, flat.shape), np.broadcast_to(positive, flat.shape), flat
    )
    turn, radius = np.linspace(0.0, 2.0 * np.pi, 181), np.sqrt(positive @ positive + m)
    axes.plot(radius * np.cos(turn), radius * np.sin(turn), color=COLOURS[0], lw=2)
    levels = axes.contour(
        grid[..., 0], grid[..., 1], loss.reshape(grid.shape[:2]), [0.25, 0.5, 0.75], colors=COLOURS[5], linestyles="--"
    )
    axes.clabel(levels, fmt="loss %.2f", fontsize=8)
    for point, name, colour in ((anchor, "a", COLOURS[3]), (positive, "p", COLOURS[2])):
        axes.plot(*point, "o", color=colour)
        axes.annotate(name, point, xytext=(5, 5), textcoords="offset points")
    axes.annotate("a negative out here costs nothing", (0.0, 0.0), xytext=(0, -1.12), ha="center")
    axes.set_aspect("equal")
    axes.set_axis_off()


FIGURES: dict[str, Callable[[Figure], None]] = {
    "rules": rules,
    "confident-loss": confident_loss,
    "arccos-error": arccos_error,
    "triplet": triplet,
}
