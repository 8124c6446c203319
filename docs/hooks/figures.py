"""The drawings of the site, from refloss itself, made while it is built.

Each function draws one and bears its name, with _ for -; its docstring is the caption that pages show. What it computes
it computes with refloss, or with the naive code written out beside it. `svg` makes text to be put into a page: letters
stay letters, and take the page's colour and font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import refloss
from refloss.stages import angle
from refloss.testing import naive

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
RULES = ("none", "hard", "keep", "continuous", "monotone", "clamp", "min", "easy", "conditional")
M = 0.5  # the margin they are drawn for
LAST = {np.pi - 2.0 * M: "π − 2m", np.pi - M: "π − m", np.pi: "π"}
EDGES: dict[str, tuple[float, dict[float, str]]] = {
    "min": (np.pi - M / 2.0, LAST),
    "easy": (np.pi / 2.0, {np.pi / 2.0 - M: "π/2 − m", np.pi / 2.0: "π/2", np.pi / 2.0 + M: "π/2 + m"}),
    "conditional": (np.arccos(M), {np.arccos(M) - M: "", np.arccos(M): "arccos m", np.arccos(M) + M: ""}),
}
"""Where a rule begins to act, and the ticks from end to end of its panel, if not π - m and `LAST`."""
AT_EDGE = ("easy", "conditional")
"""Rules that hold at that angle itself; at that of the others the margin does."""


def svg(name: str) -> str:
    """Draw one, as an SVG element without a size of its own."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.6), layout="constrained")
        FIGURES[name](figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"| height="[^"]*pt"', r"\1", text)
    text = re.sub(r'\bid="', f'id="{name}-', text).replace('"#', f'"#{name}-').replace("url(#", f"url(#{name}-")
    text = re.sub(r"font: [^;\"]*?([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"|(?<=<g) id="[^"]*"| *\n *', "", text)  # a quarter of it, for nothing
    return re.sub(r"(\.\d\d)\d+", r"\1", text.replace(TEXT, "currentColor"))


def _lines(axes: Any, curves: dict[str, tuple[Any, Any]]) -> None:
    """Draw curves, told apart by colour and by dashes; a long legend stands above, where it covers none."""
    for number, (label, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, color=COLOURS[number % len(COLOURS)], ls=DASHES[number % len(DASHES)], lw=1.8, label=label)
    if len(curves) > 4:
        axes.figure.legend(fontsize=9, loc="outside upper center", ncols=3, handlelength=2.2, columnspacing=1.0)
    else:
        axes.legend(fontsize=9)


def _angle_axis(axes: Any) -> None:
    axes.set_xticks(np.pi * np.arange(5) / 4, ["0", "π/4", "π/2", "3π/4", "π"])
    axes.set_xlabel("θ, radians")


def _rule_panels(figure: Figure, quantity: str, heights: tuple[float, float], label: str) -> None:
    """Draw one panel for each rule: its curve with the jump, where it rises, and in grey cos θ and the margin alone."""
    figure.set_size_inches(5.4, 5.8)
    for place, rule in enumerate(RULES):
        edge, ticks = EDGES.get(rule, (np.pi - M, LAST))
        theta = np.sort(np.append(np.linspace(min(ticks), max(ticks), 24), [edge - 1e-12, edge + 1e-12]))
        alone: Any = refloss.CosFace(m=M) if rule == "conditional" else refloss.ArcFace(m=M)
        ruled, bare = replace(alone, boundary=rule), refloss.NormFace()
        curve, inside = getattr(ruled, quantity)(theta), theta < edge
        axes = figure.add_subplot(3, 3, place + 1, title=rule)
        for other, dash, name in ((bare, ":", "cos θ"), (alone, "--", "margin alone")):
            axes.plot(theta, getattr(other, quantity)(theta), color=COLOURS[5], ls=dash, lw=1.2, label=name)
        for side in (inside, ~inside):
            axes.plot(theta[side], curve[side], color=COLOURS[0], lw=1.8, label=rule)
        rising = ruled.target_slope(theta) > 0.0
        if rising.any():
            axes.plot(theta[rising], curve[rising], color=COLOURS[1], lw=4.0, alpha=0.5, label="rises")
        before, after = curve[inside][-1], curve[~inside][0]
        if abs(after - before) > 1e-9:
            axes.plot([edge, edge], [before, after], color=COLOURS[0], ls=":", lw=1.8, label="jump")
            ends = (after, before) if rule in AT_EDGE else (before, after)
            for end, fill in zip(ends, (COLOURS[0], "none"), strict=True):
                axes.plot(edge, end, "o", color=COLOURS[0], ms=4.5, mfc=fill)
        axes.title.set_size(10)
        axes.set_xticks(list(ticks), list(ticks.values()), fontsize=9)
        axes.locator_params(axis="y", nbins=4)
        if ticks is LAST:
            axes.set_ylim(*heights)
            axes.tick_params(labelleft=place % 3 == 0)
    figure.supylabel(label, fontsize=10)


def rules(figure: Figure) -> None:
    """ψ under each boundary rule, m = 0.5, from π - 2m to π, or about the boundary that lies elsewhere."""
    _rule_panels(figure, "target_logit", (-1.32, -0.48), "ψ(θ), m = 0.5")


def detached_gradient(figure: Figure) -> None:
    """Pulls of ArcFace's target with both gradients, and the work of both along a circle that x runs round thrice."""
    figure.set_size_inches(5.4, 3.0)
    left, right = figure.subplots(1, 2)
    turn = np.linspace(0.0, 6.0 * np.pi, 301)
    middle, across = np.array([2.0, 1.0, 1.0]) / np.sqrt(6.0), np.array([1.0, -2.0, 0.0]) / np.sqrt(5.0)
    around = np.cos(turn)[:, None] * across + np.sin(turn)[:, None] * np.cross(middle, across)
    x = np.cos(0.3) * middle + np.sin(0.3) * around
    pulls, works = {}, {}
    for gradient, formula in (("exact", "sin(θ + m)"), ("detached", "sin θ")):
        loss = refloss.ArcFace(s=16.0, gradient=gradient, reduction="sum")
        pulls[f"{gradient}: {formula}"] = (ANGLES, -loss.target_slope(ANGLES))
        dx = loss.value_and_grad(x, np.eye(3)[:2], np.zeros(len(x), int))[1].x
        steps = ((dx[1:] + dx[:-1]) / 2.0 * np.diff(x, axis=0)).sum(axis=1)
        works[gradient] = (turn / (2.0 * np.pi), np.append(0.0, np.cumsum(steps)))
    _lines(left, pulls)
    left.axhline(0.0, color=COLOURS[5], lw=0.8)
    left.set_ylim(-0.55, 1.5)
    _angle_axis(left)
    left.set_ylabel("pull over s(1 − p)")
    _lines(right, works)
    right.legend(fontsize=9, loc="lower left")
    right.set_xlabel("rounds")
    right.set_ylabel("gradient · steps, summed")


def sphereface_layer(figure: Figure) -> None:
    """The target's logit of A-Softmax, λ = 5, ‖x‖ = 10: parts of its gradient in x along t and x̂, as in two codes."""
    figure.set_size_inches(5.4, 3.0)
    theta = np.linspace(0.0, np.pi, 361)[1:-1]
    weight, length, c = 5.0, 10.0, np.cos(theta)
    psi, slope = (getattr(refloss.ASoftmax(m=4.0), name)(theta) for name in ("target_logit", "target_slope"))
    of_w = -slope / np.sin(theta)
    divisor = np.hypot(of_w, (psi - c * of_w) / length)
    loss = refloss.ASoftmax(m=4.0, annealing=weight)
    along_t = {
        "derivative": -loss.target_slope(theta),
        "layer": (weight * np.sin(theta) - slope / divisor) / (1.0 + weight),
        "detached": np.sin(theta),
    }
    along_x = {"derivative": loss.target_logit(theta), "layer": (weight * c + psi / divisor) / (1.0 + weight)}
    for axes, curves, direction in zip(figure.subplots(1, 2), (along_t, along_x), ("t", "x̂"), strict=True):
        _lines(axes, {name: (theta, curve) for name, curve in curves.items()})
        _angle_axis(axes)
        axes.set_ylabel(f"part of ∂f/∂x along {direction}")


def confident_loss(figure: Figure) -> None:
    r"""The loss of two classes against the gap of their logits: of refloss, and $-\log$ of a softmax in float64."""
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


def loss_error(figure: Figure) -> None:
    r"""Relative error of the loss of the logits $100 + d$ and 100, in float64, over the lead d of the label.

    Two usual ways and refloss; the truth is that of the engine `dd`.
    """
    lead = np.arange(0.0, 44.0, 0.25)  # 100 + d is exact
    z, y = np.stack([100.0 + lead, np.full_like(lead, 100.0)], axis=-1), np.zeros(len(lead), int)
    loss = refloss.CrossEntropy(reduction="none")
    true, e = loss(z, y, engine="dd"), np.exp(z - z[:, :1])
    ways = {
        "log-sum-exp − logit": z[:, 0] + np.log(e.sum(axis=-1)) - z[:, 0],
        "−log of the softmax": -np.log(e[:, 0] / e.sum(axis=-1)),
        "refloss": loss(z, y),
    }
    axes = figure.add_subplot()
    floor = 2.0**-54  # what is 0 is drawn here
    _lines(axes, {name: (lead, np.maximum(np.abs(way - true) / true, floor)) for name, way in ways.items()})
    axes.set_yscale("log")
    axes.set_yticks(10.0 ** -np.arange(0, 17, 4))
    axes.set_xlabel("lead of the label's logit")
    axes.set_ylabel("relative error of the loss")


def _with_angle(theta: float) -> tuple[Any, Any]:
    """Float64 vectors an angle of about theta apart, turned so that no coordinate is 0."""
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    return turn @ np.array([1.0, 0.0]), turn @ np.array([np.cos(theta), np.sin(theta)])


def arccos_error(figure: Figure) -> None:
    """Relative error of an angle: of arccos of the cosine, and of the angle that refloss computes.

    The truth is atan2 of the cross and the dot product, each an exact fraction, rounded once.
    """
    angles = np.geomspace(1e-12, 1.0, 97)
    through_cosine, ours = [], []
    for theta in angles:
        x, w = _with_angle(theta)
        true = _true_angle(x, w)
        cosine = x @ w / (np.linalg.norm(x) * np.linalg.norm(w))
        through_cosine.append(abs(np.arccos(min(1.0, cosine)) - true) / true)
        trace = refloss.ArcFace().trace([x], [w, -w], [0])
        ours.append(abs(trace["angle"].output[0] - true) / true)
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


def gradient_error(figure: Figure) -> None:
    """Error of dL/dx of ArcFace against the target's angle, the usual code and refloss; the truth is `dd`'s."""
    figure.set_size_inches(5.4, 2.7)  # the home page has room for no more
    x, across = np.zeros(16), np.zeros(16)
    x[:4], across[4:8] = (1.0, -1.0, 1.0, 1.0), (1.0, 1.0, -1.0, 1.0)
    others = (np.arange(9.0 * 16.0).reshape(9, 16) ** 2 * 3.0) % 11.0 - 5.0
    loss, label = refloss.ArcFace(s=4.0, m=0.5), np.array([0])
    angles = np.geomspace(1e-10, 1.0, 81)
    usual, ours = [], []
    for theta in angles:
        w = np.vstack([3.0 * (x + np.tan(theta) * across), others])
        true = loss.value_and_grad(x[None], w, label, engine="dd")[1].x
        for errors, grad in (
            (usual, naive.arcface_value_and_grad(x[None], w, label, s=4.0)[1]),
            (ours, loss.value_and_grad(x[None], w, label)[1].x),
        ):
            errors.append(np.linalg.norm(grad - true) / np.linalg.norm(true))
    axes = figure.add_subplot()
    floor = 2.0**-54  # what is 0 is drawn here
    curves = {"usual: arccos of the cosine": usual, "refloss": ours}
    _lines(axes, {label: (angles, np.maximum(errors, floor)) for label, errors in curves.items()})
    lost, half = angles[np.isnan(usual)], np.sqrt(angles[1] / angles[0])
    axes.axvspan(lost[0] / half, lost[-1] * half, color=COLOURS[0], alpha=0.25, lw=0)
    axes.annotate("NaN", (1e-9, 1e-8), ha="center")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_yticks(10.0 ** -np.arange(0, 17, 4))
    axes.set_xlabel("angle to the class centre, radians")
    axes.set_ylabel("relative error of dL/dx")


def triplet(figure: Figure) -> None:
    """The loss of a triplet over the place of its negative, for the squared distance and $m = 0.5$.

    The negative n inside the circle costs something; n′ outside costs nothing.
    """
    axes = figure.add_subplot()
    anchor, positive, m = np.zeros(2), np.array([0.7, 0.0]), 0.5
    loss = refloss.Triplet(m=m, reduction="none")
    grid = np.stack(np.meshgrid(np.linspace(-1.9, 1.9, 161), np.linspace(-1.15, 1.15, 97)), axis=-1)
    flat = grid.reshape(-1, 2)
    over = loss(np.broadcast_to(anchor, flat.shape), np.broadcast_to(positive, flat.shape), flat)
    turn, radius = np.linspace(0.0, 2.0 * np.pi, 181), np.sqrt(positive @ positive + m)
    axes.plot(radius * np.cos(turn), radius * np.sin(turn), color=COLOURS[0], lw=2)
    levels = axes.contour(
        grid[..., 0], grid[..., 1], over.reshape(grid.shape[:2]), [0.25, 0.5, 0.75], colors=COLOURS[5], linestyles="--"
    )
    axes.clabel(levels, fmt="loss %.2f", fontsize=8)
    inside, outside = np.array([0.35, -0.68]), np.array([-1.5, 0.75])
    of_inside, of_outside = loss([anchor] * 2, [positive] * 2, [inside, outside])
    for point, name, colour in (
        (positive, "p", COLOURS[2]),
        (inside, f"n, loss {of_inside:.2f}", COLOURS[1]),
        (outside, f"n′, loss {of_outside:.0f}", COLOURS[1]),
        (anchor, "a", COLOURS[3]),
    ):
        axes.plot(*np.stack([anchor, point]).T, color=colour, lw=1, ls=":")
        axes.plot(*point, "o", color=colour, label=name)
        axes.annotate(name, point, xytext=(5, 5), textcoords="offset points")
    axes.set_aspect("equal")
    axes.set_axis_off()


LOSSES: dict[str, Any] = {
    "modified softmax": refloss.NormFace(s=16.0),
    "A-Softmax, m = 4": refloss.ASoftmax(m=4.0, s=16.0),
    "CosFace, m = 0.35": refloss.CosFace(s=16.0),
    "ArcFace, m = 0.5": refloss.ArcFace(s=16.0),
    "combined (1, 0.3, 0.2)": refloss.CombinedMargin(s=16.0),
}


def _broken(figure: Figure, curves: dict[str, tuple[Any, Any]], cut: float, lowest: float, label: str) -> None:
    """Draw curves above a cut, and below it, on a smaller scale, those that go on there."""
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.0, 1.0))
    _lines(upper, curves)
    for line in upper.lines:
        if np.min(line.get_ydata()) < cut:
            lower.plot(*line.get_data(), color=line.get_color(), ls=line.get_linestyle(), lw=1.8)
    upper.set_ylim(bottom=cut)
    lower.set_ylim(lowest, cut)
    upper.spines.bottom.set(color=COLOURS[5], linestyle=":")
    upper.tick_params(bottom=False)
    lower.locator_params(axis="y", nbins=3, integer=True)
    _angle_axis(lower)
    upper.set_ylabel(label)


def psi(figure: Figure) -> None:
    """ψ of each loss; below the dotted line, on a smaller scale, A-Softmax goes on alone."""
    _broken(figure, {name: (ANGLES, loss.target_logit(ANGLES)) for name, loss in LOSSES.items()}, -2.0, -7.3, "ψ(θ)")


def psi_slope(figure: Figure) -> None:
    """The slope of ψ of each loss; below the dotted line, on a smaller scale, that of A-Softmax alone."""
    slopes = {name: (ANGLES, loss.target_slope(ANGLES)) for name, loss in LOSSES.items()}
    _broken(figure, slopes, -1.25, -4.3, "ψ′(θ)")


def rules_slope(figure: Figure) -> None:
    """ψ' under each rule, at the same places."""
    _rule_panels(figure, "target_slope", (-1.0, 0.6), "ψ′(θ), m = 0.5")


def boundaries(figure: Figure) -> None:
    """Two classes on the circle, for five losses.

    An embedding is in the colour of a class where the loss with its label is below log 2, and grey where neither is.
    """
    turn = np.linspace(0.0, 2.0 * np.pi, 721)
    x = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    w = np.stack([np.cos([np.pi / 6, 5 * np.pi / 6]), np.sin([np.pi / 6, 5 * np.pi / 6])], axis=-1)
    heads: dict[str, tuple[Any, Any]] = {
        "softmax": (refloss.SoftmaxLoss(reduction="none"), [[1.6], [1.0]] * w),
        "modified softmax": (refloss.ModifiedSoftmax(reduction="none"), w),
        "A-Softmax, m = 2": (refloss.ASoftmax(m=2.0, reduction="none"), w),
        "CosFace, m = 0.35": (refloss.CosFace(s=1.0, reduction="none"), w),
        "ArcFace, m = 0.5": (refloss.ArcFace(s=1.0, boundary="monotone", reduction="none"), w),
    }
    for place, (name, (loss, weights)) in enumerate(heads.items()):
        axes = figure.add_subplot(2, 3, place + 1)
        axes.plot(*x.T, color=COLOURS[5], lw=1)
        for label, colour in ((0, COLOURS[0]), (1, COLOURS[1])):
            inside = loss(x, weights, np.full(len(x), label)) < np.log(2.0)
            axes.plot(*np.where(inside[:, None], x, np.nan).T, color=colour, lw=5, ls=("-", (0, (1, 0.4)))[label])
            _arrow(axes, (0.0, 0.0), weights[label], colour)
            beside = weights[label] * (1.0 + 0.3 / np.linalg.norm(weights[label]))
            axes.annotate(f"w{label + 1}", beside, ha="center", va="center")
        axes.set_title(name, fontsize=10)
        axes.set_xlim(-1.5, 1.75)
        axes.set_ylim(-1.2, 1.25)
        _plane(axes)


def _arrow(axes: Any, start: Any, end: Any, colour: str, style: str = "-") -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.8, "ls": style})


def _plane(axes: Any) -> None:
    axes.set_aspect("equal")
    axes.set_axis_off()


def _mark(axes: Any, text: str, point: Any, offset: tuple[float, float] = (5, 5)) -> None:
    axes.annotate(text, point, xytext=offset, textcoords="offset points")


def probability(figure: Figure) -> None:
    """The probability of the target among 1000 classes against its angle, for four scales s.

    The other 999 classes are at right angles to the embedding.
    """
    axes = figure.add_subplot()
    curves = {}
    for s in (1.0, 4.0, 16.0, 64.0):
        z = np.zeros((len(ANGLES), 1000))
        z[:, 0] = s * np.cos(ANGLES)
        curves[f"s = {s:.0f}"] = (ANGLES, refloss.softmax(z)[:, 0])
    _lines(axes, curves)
    _angle_axis(axes)
    axes.set_ylabel("p of the target among 1000 classes")


def gradient_length(figure: Figure) -> None:
    """The length of the gradient of a unit embedding against the angle of its target, $s = 16$.

    The one other class is at right angles to the embedding and to the target.
    """
    axes = figure.add_subplot()
    curves = {}
    losses = {**LOSSES, "ArcFace, detached": refloss.ArcFace(s=16.0, gradient="detached")}
    x = np.stack([np.cos(ANGLES), np.sin(ANGLES), np.zeros_like(ANGLES)], axis=-1)
    w = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    for name, loss in losses.items():
        grad = replace(loss, reduction="sum").value_and_grad(x, w, np.zeros(len(x), int))[1]
        curves[name] = (ANGLES, np.linalg.norm(grad.x, axis=1))
    _lines(axes, curves)
    _angle_axis(axes)
    axes.set_yscale("log")
    axes.set_ylim(1e-4, 2e2)
    axes.set_ylabel("‖∂L/∂x‖, s = 16")


def angle_geometry(figure: Figure) -> None:
    """The plane of the directions x̂ and ŵ: the angle θ, the part r of ŵ at right angles to x̂, the tangent t."""
    axes = figure.add_subplot()
    turn, theta = np.linspace(-0.35, np.pi / 2 + 0.3, 91), 0.9
    x, w = np.array([1.0, 0.0]), np.array([np.cos(theta), np.sin(theta)])
    axes.plot(np.cos(turn), np.sin(turn), color=COLOURS[5], lw=1)
    arc = np.linspace(0.0, theta, 31)
    axes.plot(0.3 * np.cos(arc), 0.3 * np.sin(arc), color=COLOURS[3], lw=1.8)
    _mark(axes, "θ", (0.3 * np.cos(theta / 2), 0.3 * np.sin(theta / 2)))
    for end, name, colour in ((x, "x̂", COLOURS[0]), (w, "ŵ", COLOURS[1])):
        _arrow(axes, (0, 0), end, colour)
        _mark(axes, name, end)
    _arrow(axes, (w[0], 0.0), w, COLOURS[2])
    _mark(axes, "r, length\nsin θ", (w[0], w[1] / 3))
    _arrow(axes, x, (1.0, 0.55), COLOURS[4], "--")
    _mark(axes, "tₓ", (1.0, 0.5))
    axes.annotate("cos θ", (w[0] / 2, 0.0), xytext=(0, -14), textcoords="offset points", ha="center")
    axes.set_xlim(-0.35, 1.5)
    axes.set_ylim(-0.35, 1.1)
    _plane(axes)


def normalize_projection(figure: Figure) -> None:
    """A gradient at the direction v̂, and the part of it along the tangent, which alone reaches v."""
    axes = figure.add_subplot()
    turn = np.linspace(-0.3, np.pi / 2 + 0.3, 91)
    unit, g = np.array([0.8, 0.6]), np.array([0.45, -0.4])
    tangent = g - (g @ unit) * unit
    axes.plot(np.cos(turn), np.sin(turn), color=COLOURS[5], lw=1)
    _arrow(axes, (0, 0), 1.6 * unit, COLOURS[5], "--")
    _mark(axes, "v", 1.6 * unit)
    _arrow(axes, (0, 0), unit, COLOURS[0])
    _mark(axes, "v̂", unit, (-14, 4))
    _arrow(axes, unit, unit + g, COLOURS[1])
    _mark(axes, "∂L/∂v̂", unit + g)
    _arrow(axes, unit, unit + tangent, COLOURS[2])
    _mark(axes, "‖v‖ ∂L/∂v", unit + tangent, (-62, -6))
    axes.plot(*np.stack([unit + g, unit + tangent]).T, color=COLOURS[5], ls=":")
    axes.set_xlim(-0.2, 1.7)
    axes.set_ylim(-0.3, 1.1)
    _plane(axes)


def softmax_two_class(figure: Figure) -> None:
    """The probability of the first of two classes over the difference of the logits, and its slope."""
    gap = np.linspace(-6.0, 6.0, 121)
    p = refloss.softmax(np.stack([gap, np.zeros_like(gap)], axis=-1))
    axes = figure.add_subplot()
    _lines(axes, {"p₁": (gap, p[:, 0]), "slope, p₁ p₂": (gap, p[:, 0] * p[:, 1])})
    axes.set_xlabel("z₁ - z₂")


def cross_entropy_curve(figure: Figure) -> None:
    """The loss L of two classes and its slope, over the lead of the label's logit."""
    gap = np.linspace(-6.0, 6.0, 121)
    z, y = np.stack([gap, np.zeros_like(gap)], axis=-1), np.zeros(len(gap), int)
    loss, grad = refloss.CrossEntropy(reduction="none").value_and_grad(z, y)
    axes = figure.add_subplot()
    _lines(axes, {"L": (gap, loss), "∂L/∂z of the label": (gap, grad.z[:, 0])})
    axes.set_xlabel("lead of the label's logit")


def a_softmax_folds(figure: Figure) -> None:
    r"""$\cos m\theta$, which rises again beyond $\pi/m$, and ψ of A-Softmax, which falls all the way, for three m."""
    for place, m in enumerate((2, 3, 4)):
        axes = figure.add_subplot(1, 3, place + 1)
        for label, curve, colour, dash in (
            ("cos mθ", np.cos(m * ANGLES), COLOURS[1], "--"),
            ("ψ", refloss.ASoftmax(m=float(m)).target_logit(ANGLES), COLOURS[0], "-"),
        ):
            axes.plot(ANGLES, curve, color=colour, ls=dash, lw=1.8, label=label)
        axes.set_title(f"m = {m}", fontsize=10)
        axes.set_xticks([0.0, np.pi], ["0", "π"])
        axes.set_ylim(-7.5, 1.5)
        if place == 0:
            axes.legend(fontsize=9, loc="lower left")
            axes.set_xlabel("θ, radians")
        else:
            axes.tick_params(labelleft=False)


def annealing(figure: Figure) -> None:
    r"""ψ of A-Softmax mixed with $\cos\theta$, $m = 4$, for four weights λ of the cosine."""
    axes = figure.add_subplot()
    curves = {"cos θ": (ANGLES, np.cos(ANGLES))}
    for weight in (50.0, 5.0, 1.0, 0.0):
        curves[f"λ = {weight:.0f}"] = (ANGLES, refloss.ASoftmax(m=4.0, annealing=weight).target_logit(ANGLES))
    _lines(axes, curves)
    _angle_axis(axes)
    axes.set_ylabel("ψ(θ) with annealing, m = 4")


def _gained(figure: Figure, loss: Any, name: str, heights: tuple[float, ...]) -> Any:
    """cos θ and a margin's curve, with the angle between the two at some heights."""
    axes = figure.add_subplot()
    _lines(axes, {"cos θ": (ANGLES, np.cos(ANGLES)), name: (ANGLES, loss.target_logit(ANGLES))})
    fine = np.linspace(0.0, np.pi, 31417)
    for height in heights:
        with_margin = fine[np.argmin(np.abs(loss.target_logit(fine) - height))]
        without = np.arccos(height)
        _arrow(axes, (without, height), (with_margin, height), COLOURS[2])
        middle = (without + with_margin) / 2.0
        axes.annotate(
            f"{without - with_margin:.2f}",
            (middle, height),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    _angle_axis(axes)
    return axes


def cosface_margin(figure: Figure) -> None:
    """The margin 0.35 on the cosine: how much smaller the angle has to be for the same value, at three heights."""
    _gained(figure, refloss.CosFace(), "cos θ - 0.35", (0.6, 0.0, -0.9))


def arcface_margin(figure: Figure) -> None:
    r"""The margin 0.5 on the angle: the same shift at every height, up to $\pi - m$; beyond it ψ rises."""
    axes = _gained(figure, refloss.ArcFace(boundary="clamp"), "cos(θ + 0.5)", (0.6, 0.0, -0.9))
    beyond = np.pi - 0.5 <= ANGLES
    axes.lines[1].set_data(ANGLES, refloss.ArcFace().target_logit(ANGLES))
    axes.plot(ANGLES[beyond], refloss.ArcFace().target_logit(ANGLES[beyond]), color=COLOURS[1], lw=4, alpha=0.5)
    axes.axvline(np.pi - 0.5, color=COLOURS[5], ls=":")
    axes.annotate("π - m", (np.pi - 0.5, 0.6), xytext=(-4, 0), textcoords="offset points", ha="right")


def combined(figure: Figure) -> None:
    """The margin on the angle that has the same effect as $(m_1, m_2, m_3)$, at each angle up to where there is one."""
    axes = figure.add_subplot()
    curves = {}
    for m1, m2, m3 in ((1.35, 0.0, 0.0), (1.0, 0.5, 0.0), (1.0, 0.0, 0.35), (1.0, 0.3, 0.2), (0.9, 0.4, 0.15)):
        loss = refloss.CombinedMargin(m1=m1, m2=m2, m3=m3)
        value = np.array(loss.target_logit(ANGLES))
        known = (value >= -1.0) & (m1 * ANGLES + m2 <= np.pi)
        curves[f"({m1:g}, {m2:g}, {m3:g})"] = (
            ANGLES,
            np.where(known, np.arccos(np.maximum(value, -1.0)) - ANGLES, np.nan),
        )
    _lines(axes, curves)
    _angle_axis(axes)
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("equivalent margin on the angle, radians")


def image_class(figure: Figure) -> None:
    """Steps of descent: of a triplet of embeddings, and of an embedding and the centres of three classes."""
    left, right = figure.subplots(1, 2)
    a, p, n = np.array([0.1, 0.0]), np.array([0.9, 0.5]), np.array([0.75, -0.45])
    grad = refloss.Triplet(m=0.5).value_and_grad([a], [p], [n])[1]
    for point, name, slope, colour in (
        (a, "a", grad.anchor[0], COLOURS[0]),
        (p, "p", grad.positive[0], COLOURS[2]),
        (n, "n", grad.negative[0], COLOURS[1]),
    ):
        left.plot(*point, "o", color=colour)
        _mark(left, name, point)
        _arrow(left, point, point - 0.2 * slope, colour)
    left.set_title("images", fontsize=10)
    left.set_xlim(-0.3, 1.4)
    left.set_ylim(-1.0, 1.0)
    turn = np.linspace(0.0, 2.0 * np.pi, 181)
    x = np.array([np.cos(0.5), np.sin(0.5)])
    angles = np.array([1.3, -0.4, 3.4])
    w = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    right.plot(np.cos(turn), np.sin(turn), color=COLOURS[5], lw=1)
    descent = refloss.ArcFace(s=4.0).value_and_grad([x], w, [0])[1]
    for centre, slope, name, colour, offset in zip(
        w, descent.w, ("w, its class", "w", "w"), (COLOURS[2], COLOURS[1], COLOURS[1]), (-62, 6, -14), strict=True
    ):
        right.plot(*centre, "s", color=colour)
        _mark(right, name, centre, (offset, 4))
        _arrow(right, centre, centre - 0.12 * slope, colour)
    right.plot(*x, "o", color=COLOURS[0])
    _mark(right, "x̂", x)
    _arrow(right, x, x - 0.12 * descent.x[0], COLOURS[0])
    right.set_title("an image and classes", fontsize=10)
    right.set_xlim(-1.3, 1.7)
    right.set_ylim(-1.3, 1.3)
    for axes in (left, right):
        _plane(axes)


def tangent_vs_division(figure: Figure) -> None:
    r"""Error of the unit tangent against the angle: divided by $\sin\theta$, and as refloss computes it."""
    angles = np.geomspace(1e-12, 1.0, 49)
    divided, ours = [], []
    for theta in angles:
        x, w = _with_angle(theta)
        true = np.array([-x[1], x[0]]) / np.linalg.norm(x)  # in the plane, with w to the left of x
        cosine = x @ w / (np.linalg.norm(x) * np.linalg.norm(w))
        sine = np.sqrt(max(0.0, 1.0 - cosine**2))
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = (w / np.linalg.norm(w) - cosine * x / np.linalg.norm(x)) / sine
        divided.append(np.linalg.norm(quotient - true) if np.isfinite(quotient).all() else np.nan)
        tangent = angle.forward(x[None], w[None])[1].tangent_x[0]
        ours.append(np.linalg.norm(tangent - true))
    axes = figure.add_subplot()
    curves = {"divided by sin θ; where it ends, 0/0": np.array(divided), "refloss": np.maximum(ours, 2.0**-54)}
    _lines(axes, {label: (angles, errors) for label, errors in curves.items()})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("angle, radians")
    axes.set_ylabel("error of the unit tangent")


def _bfloat16(a: Any) -> Any:
    """Round float32 to bfloat16, ties to even."""
    bits = np.asarray(a, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def rounded_softmax(figure: Figure) -> None:
    """Relative error of $p - 1$, with p rounded to bfloat16 before 1 is subtracted, or the difference rounded."""
    missing = np.geomspace(1e-4, 0.5, 301)
    gap = np.float32(np.log1p(-missing) - np.log(missing))
    z = np.stack([gap, np.zeros_like(gap)], axis=-1)
    true = refloss.CrossEntropy(reduction="none").value_and_grad(z, np.zeros(len(gap), int))[1].z[:, 0]
    p = np.float32(1.0 + true)
    early, late = _bfloat16(_bfloat16(p) - np.float32(1.0)), _bfloat16(p - np.float32(1.0))
    axes = figure.add_subplot()
    curves = {"rounded before 1 is subtracted": early, "rounded afterwards": late}
    _lines(axes, {name: (-true, np.maximum(np.abs(entry / true - 1.0), 1e-5)) for name, entry in curves.items()})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-7)  # room for the legend
    axes.set_xlabel("1 − p of the target")
    axes.set_ylabel("relative error of its gradient")


def softcap(figure: Figure) -> None:
    """Left: logits behind a cap $K = 30$. Right: relative errors of two forms of its slope, in float32 and float64."""
    left, right = figure.subplots(1, 2)
    z = np.linspace(-90.0, 90.0, 121)
    capped = refloss.CrossEntropy(softcap=30.0, reduction="none").trace(z[:, None], np.zeros(len(z), int))
    _lines(left, {"no cap": (z, z), "K = 30": (z, capped["softcap"].output[:, 0])})
    left.set_ylim(-60.0, 60.0)
    left.set_xlabel("logit")
    left.set_ylabel("capped logit")
    t = np.linspace(0.5, 22.0, 87)
    loss, labels = refloss.CrossEntropy(softcap=1.0, reduction="none"), np.zeros(len(t), int)
    tanh = loss.trace(t[:, None], labels)["softcap"].output[:, 0]
    true = loss.value_and_grad(t[:, None], labels, upstream_lse=np.ones(len(t)))[1].z[:, 0]
    curves = {}
    for dtype in (np.float32, np.float64):
        curves[f"1 − tanh², {dtype.__name__}"] = 1.0 - tanh.astype(dtype) ** 2
        e = np.exp(-2.0 * t).astype(dtype)
        curves[f"4e/(1 + e)², {dtype.__name__}"] = 4 * e / (1 + e) ** 2
    _lines(right, {name: (t, np.maximum(np.abs(entry / true - 1.0), 2.0**-54)) for name, entry in curves.items()})
    right.set_yscale("log")
    right.set_ylim(1e-17, 1e10)
    right.set_xlabel("logit / cap")
    right.set_ylabel("relative error of the slope")


def margins_given(figure: Figure) -> None:
    """Left: ψ of ArcFace for three margins. Right: what each margin adds to the loss, per radian, $s = 4$."""
    left, right = figure.subplots(1, 2)
    x, w = np.stack([np.cos(ANGLES), np.sin(ANGLES), np.zeros_like(ANGLES)], axis=-1), np.eye(3)[[0, 2]]
    loss, y = refloss.ArcFace(s=4.0, reduction="sum"), np.zeros(len(ANGLES), int)
    psi, slopes = {"cos θ": (ANGLES, np.cos(ANGLES))}, {}
    for m in (0.3, 0.5, 0.7):
        given = np.full(len(ANGLES), m)
        psi[f"m = {m}"] = (ANGLES, loss.trace(x, w, y, given)["margin"].output)
        slopes[f"m = {m}"] = (ANGLES, loss.value_and_grad(x, w, y, given)[1].m)
    _lines(left, psi)
    _lines(right, slopes)
    for axes, label in ((left, "ψ(θ)"), (right, "∂L/∂m, s = 4")):
        _angle_axis(axes)
        axes.set_ylabel(label)


def adaface_margin(figure: Figure) -> None:
    """ψ of AdaFace, $m = 0.4$, for embeddings of three lengths: those of the qualities $v = -1$, 0 and 1."""
    axes = figure.add_subplot()
    loss = refloss.AdaFace(mean=20.0, std=3.0)
    curves = {"cos θ": (ANGLES, np.cos(ANGLES))}
    for length, quality in ((5.0, "v = −1"), (20.0, "v = 0"), (35.0, "v = 1")):
        curves[f"‖x‖ = {length:.0f}: {quality}"] = (ANGLES, loss.target_logit(ANGLES, length))
    _lines(axes, curves)
    _angle_axis(axes)
    axes.set_ylabel("ψ(θ), m = 0.4")


def magface_margin(figure: Figure) -> None:
    """Left: ψ of MagFace for three lengths, without a rule. Right: its regularizer, flat beyond its two bounds."""
    left, right = figure.subplots(1, 2)
    loss = refloss.MagFace(boundary="none")
    curves = {f"‖x‖ = {length:.0f}": (ANGLES, loss.target_logit(ANGLES, length)) for length in (10.0, 60.0, 110.0)}
    _lines(left, {"cos θ": (ANGLES, np.cos(ANGLES))} | curves)
    _angle_axis(left)
    left.set_ylabel("ψ(θ)")
    lengths = np.linspace(2.0, 140.0, 139)
    x, y = lengths[:, None] * np.array([[1.0, 0.0]]), np.zeros(len(lengths), int)
    with_term, without = (
        replace(loss, reduction="none", regularizer=weight)(x, [[1.0, 0.0]], y) for weight in (1.0, 0.0)
    )
    _lines(right, {"a/u² + 1/a": (lengths, with_term - without)})
    for bound in (loss.l_a, loss.u_a):
        right.axvline(bound, color=COLOURS[5], ls=":")
    right.set_xlabel("‖x‖")
    right.set_ylim(bottom=0.0)


def hard_classes(figure: Figure) -> None:
    r"""η of another class over its cosine c, for three t each; the threshold, $\cos(\theta + m)$, as a dotted line."""
    left, right = figure.subplots(1, 2)
    theta, c = 1.2, np.linspace(-1.0, 1.0, 201)
    w = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])  # an embedding θ from the first has up to sin θ with the other
    across = np.stack([c, np.sqrt(1.0 - c**2), np.zeros_like(c)], axis=-1)
    x, y = np.cos(theta) * w[0] + np.sin(theta) * across, np.zeros(len(c), int)
    curricular = {f"t = {t}": refloss.CurricularFace(t=t) for t in (0.0, 0.4, 0.8)}
    mv = {f"t = {t}": refloss.MVSoftmax(t=t, m=0.5, margin="arc") for t in (0.1, 0.2, 0.3)}
    for axes, losses, title in ((left, curricular, "CurricularFace"), (right, mv, "MV-Softmax")):
        curves = {"c": (c, c)}
        for name, loss in losses.items():
            steps = loss.trace(x, w, y)
            curves[name] = (steps["cosine"].output[:, 1], steps["negatives"].output[:, 1])
        _lines(axes, curves)
        axes.axvline(np.cos(theta + 0.5), color=COLOURS[5], ls=":")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("cosine c of another class")
        axes.set_ylim(-1.0, 1.5)
    left.set_ylabel("η")


def _circle(a: Any) -> Any:
    """Points of the unit circle, in the plane of the first two of three axes."""
    return np.stack([np.cos(a), np.sin(a), np.zeros_like(a)], axis=-1)


BESIDE = np.eye(3)[[2, 0]]
"""The target at right angles to `_circle`, and another class at its beginning."""


def _eta(loss: Any, stage: str) -> Any:
    """η of the other class of `BESIDE`, over its angle."""
    return loss.trace(_circle(ANGLES), BESIDE, np.zeros(len(ANGLES), int))[stage].output[:, 1]


def _eta_slope(loss: Any, stage: str) -> tuple[Any, Any]:
    """Its slope per radian: what of the gradient of an embedding points to that class, for each unit of dL/dη."""
    a = ANGLES[1:-1]
    x, y = _circle(a), np.zeros(len(a), int)
    towards = np.stack([np.sin(a), -np.cos(a), np.zeros_like(a)], axis=-1)
    whole = replace(loss, s=1.0, reduction="sum")
    along = (whole.value_and_grad(x, BESIDE, y)[1].x * towards).sum(axis=1)
    return a, -along / whole.trace(x, BESIDE, y)[stage].gradient[:, 1]


def _target_and_other(figure: Figure, of_target: Any, of_other: Any, labels: tuple[str, str]) -> tuple[Any, Any]:
    """Curves over the angle of the target on the left, over that of another class on the right."""
    left, right = figure.subplots(1, 2)
    for axes, curves, label in ((left, of_target, labels[0]), (right, of_other, labels[1])):
        _lines(axes, curves)
        _angle_axis(axes)
        axes.set_ylabel(label)
    return left, right


def sphereface_r(figure: Figure) -> None:
    r"""Left: ψ of version 1, $\cos m\theta$ up to $\pi/m$. Right: η of version 2, $\cos(\theta/m)$."""
    psi, eta = {"cos θ": (ANGLES, np.cos(ANGLES))}, {"cos θ": (ANGLES, np.cos(ANGLES))}
    for m in (1.2, 1.5, 2.0):
        psi[f"m = {m:g}"] = (ANGLES, refloss.SphereFaceR(m=m).target_logit(ANGLES))
        eta[f"m = {m:g}"] = (ANGLES, _eta(refloss.SphereFaceR(m=m, version=2), "class_angles"))
    _target_and_other(figure, psi, eta, ("ψ(θ) of version 1", "η(θ) of version 2"))


def sphereface_r_slope(figure: Figure) -> None:
    """The slopes of ψ of version 1 and of η of version 2: exact for two m, and detached, the same for every m."""
    psi, eta = {}, {}
    for name, m, gradient in (("m = 1.5", 1.5, "exact"), ("m = 2", 2.0, "exact"), ("detached", 1.5, "detached")):
        psi[name] = (ANGLES, refloss.SphereFaceR(m=m, gradient=gradient).target_slope(ANGLES))
        eta[name] = _eta_slope(refloss.SphereFaceR(m=m, version=2, gradient=gradient), "class_angles")
    _target_and_other(figure, psi, eta, ("ψ′(θ) of version 1", "η′(θ) of version 2"))


def circle_loss(figure: Figure) -> None:
    """Left: ψ of circle loss over the angle of the target. Right: η over that of another class. Three m each."""
    losses = {f"m = {m:g}": refloss.CircleLoss(m=m) for m in (0.1, 0.25, 0.4)}
    psi = {name: (ANGLES, loss.target_logit(ANGLES)) for name, loss in losses.items()}
    eta = {name: (ANGLES, _eta(loss, "negatives")) for name, loss in losses.items()}
    _target_and_other(figure, psi, eta, ("ψ(θ)", "η(θ)"))


def circle_plane(figure: Figure) -> None:
    """Directions of descent in the plane of both cosines, $m = 0.25$: exact, and with constant weights.

    Dotted lines stand at $-m$ and at 0.
    """
    figure.set_size_inches(5.4, 2.8)
    columns = [-0.6, -0.4, -0.18, -0.06, 0.1, 0.3, 0.5, 0.7]
    across, up = (grid.ravel() for grid in np.meshgrid(columns, np.linspace(-0.4, 0.9, 7)))
    inside = across**2 + up**2 < 0.98
    across, up = across[inside], up[inside]
    x = np.stack([up, across, np.sqrt(1.0 - across**2 - up**2)], axis=-1)
    w, y = np.eye(3)[:2], np.zeros(len(x), int)
    for place, (gradient, title) in enumerate((("exact", "exact"), ("detached", "weights constant"))):
        axes = figure.add_subplot(1, 2, place + 1)
        loss = refloss.CircleLoss(s=4.0, m=0.25, gradient=gradient)
        steps = loss.trace(x, w, y)
        descent = np.stack([-steps["cosine"].gradient[:, 1], steps["angle"].gradient / np.sqrt(1.0 - up**2)])
        descent /= np.linalg.norm(descent, axis=0)
        axes.quiver(across, up, *descent, color=COLOURS[0], angles="xy", scale_units="xy", scale=7.0, width=0.008)
        c = np.concatenate([[-0.8], np.linspace(-loss.m, np.sqrt(2.0) * loss.m, 181)])
        border = 1.0 - np.sqrt(np.maximum(2.0 * loss.m**2 - np.maximum(c, -loss.m) ** 2, 0.0))
        axes.plot(c, border, color=COLOURS[1], lw=1.8, label="border")
        for turn in (-loss.m, 0.0):
            axes.axvline(turn, color=COLOURS[5], ls=":")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("cosine of another class")
        axes.set_xlim(-0.8, 0.9)
        axes.set_ylim(-0.5, 1.1)
        axes.set_aspect("equal")
    figure.axes[0].set_ylabel("cosine of the target")


def inter_top_k(figure: Figure) -> None:
    """Left: ψ, and η of a class among the nearest. Right: η of two classes and the loss, on the way between them."""
    left, right = figure.subplots(1, 2)
    curves = {"cos θ": (ANGLES, np.cos(ANGLES)), "ψ, m = 0.2": (ANGLES, refloss.InterTopK().target_logit(ANGLES))}
    for penalty in (0.06, 0.4):
        curves[f"η, m′ = {penalty:g}"] = (ANGLES, _eta(refloss.InterTopK(penalty=penalty, k=1), "class_angles"))
    _lines(left, curves)
    _angle_axis(left)
    angles, others = np.linspace(-1.2, 1.2, 242), np.array([-0.6, 0.6])
    loss, w = refloss.InterTopK(s=4.0, penalty=0.4, k=1), np.concatenate([BESIDE[:1], _circle(others)])
    x, y = _circle(angles), np.zeros(len(angles), int)
    names = [f"η of the class at {other:g}".replace("-", "−") for other in others]
    etas = loss.trace(x, w, y)["class_angles"].output[:, 1:].T
    of_each = {name: (angles, eta) for name, eta in zip(names, etas, strict=True)}
    _lines(right, of_each | {"L/s": (angles, replace(loss, reduction="none")(x, w, y) / loss.s)})
    right.axvline(0.0, ymax=0.78, color=COLOURS[5], ls=":")
    right.set_ylim(-0.4, 1.9)
    right.set_xlabel("direction of x, radians")


def sphereface2(figure: Figure) -> None:
    """Left: ψ of SphereFace2 over the angle of the target. Right: η over that of another class. Three t each."""
    losses = {f"t = {t}": refloss.SphereFace2(t=t) for t in (1, 3, 8)}
    x, y = _circle(ANGLES), np.zeros(len(ANGLES), int)
    psi = {name: (ANGLES, loss.trace(x, BESIDE[::-1], y)["margin"].output) for name, loss in losses.items()}
    eta = {name: (ANGLES, _eta(loss, "class_angles")) for name, loss in losses.items()}
    _target_and_other(figure, psi, eta, ("ψ(θ)", "η(θ)"))


def sphereface2_pull(figure: Figure) -> None:
    """The pull of a target, left, and the push of another class, right, per radian over its angle; $t = 3$, $b = 0$."""
    a = ANGLES[1:-1]
    x, y = _circle(a), np.zeros(len(a), int)
    towards = np.stack([np.sin(a), -np.cos(a), np.zeros_like(a)], axis=-1)
    pulls, pushes = {}, {}
    for gradient in ("exact", "detached"):
        loss = refloss.SphereFace2(gradient=gradient, reduction="sum")
        for curves, w in ((pulls, BESIDE[::-1]), (pushes, BESIDE)):
            curves[gradient] = (a, np.abs((loss.value_and_grad(x, w, y)[1].x * towards).sum(axis=1)))
    _target_and_other(figure, pulls, pushes, ("pull of the target", "push of another class"))


def uniface(figure: Figure) -> None:
    """Left: losses of UniFace's two answers over the cosine with a class. Right: their slopes.

    At the dotted lines the target's logit is at its bound $-s$, that of another class is 0, and the target's is 0.
    """
    figure.set_size_inches(5.4, 3.2)
    loss, b = refloss.UniFace(reduction="none"), np.log(10.0 * 10_000)
    x, y, c = _circle(ANGLES), np.zeros(len(ANGLES), int), np.cos(ANGLES)
    own, both = BESIDE[1:], BESIDE  # one class, the target; and another one, with a target at right angles
    losses = {"target": loss(x, own, y, b), "another class": loss(x, both, y, b) - loss(x, both[:1], y, b)}
    steps = [loss.trace(x, w, y, b)["logits"].gradient[:, -1] * loss.s for w in (own, both)]
    left, right = figure.subplots(1, 2)
    _lines(left, {name: (c, value) for name, value in losses.items()})
    _lines(right, {name: (c, slope) for name, slope in zip(losses, steps, strict=True)})
    for axes, label, top in ((left, "loss", 88.0), (right, "slope of the loss", 110.0)):
        for at in (loss.m - 1.0 + b / loss.s, b / loss.s, loss.m + b / loss.s):
            axes.axvline(at, color=COLOURS[5], ls=":", lw=1.0)
        axes.set_ylim(top=top)
        axes.set_xlabel("cosine")
        axes.set_ylabel(label)


def siglip(figure: Figure) -> None:
    """Left: losses of SigLIP over the cosine. Right: relative errors of the loss of a pair, over $z$."""
    left, right = figure.subplots(1, 2)
    loss, c = refloss.SigLIP(reduction="none"), np.linspace(-1.0, 1.0, 41)
    curves = {}
    for t, b, name in ((10.0, -10.0, "t = 10, b = −10"), (40.0, -20.0, "t = 40, b = −20")):
        rows = np.stack([c, np.sqrt(1.0 - c**2), np.zeros_like(c)], axis=-1)
        pair = [float(loss(row[None], [[1.0, 0.0, 0.0]], t, b)[0]) for row in rows]
        other = [float((loss([row, row], BESIDE, t, b) - loss([row], BESIDE[:1], t, b))[0]) for row in rows]
        curves |= {f"pair, {name}": (c, pair), f"others, {name}": (c, other)}
    _lines(left, curves)
    left.get_legend().remove()
    figure.legend(handles=left.lines, fontsize=9, loc="outside upper center", ncols=2)
    left.set_ylim(-0.5, 21.0)
    left.set_xlabel("cosine")
    left.set_ylabel("loss of an answer")
    z = np.arange(1.0, 41.0)
    truth = np.array([loss([[1.0]], [[1.0]], each, 0.0)[0] for each in z])
    for number, (name, dtype, late) in enumerate(
        (
            ("softplus(z) − z, float32", np.float32, True),
            ("softplus(z) − z, float64", np.float64, True),
            ("log1p(exp(−z)), float32", np.float32, False),
        )
    ):
        a = z.astype(dtype)
        own = np.log1p(np.exp(-a))
        found = ((own + a) - a if late else own).astype(float)
        error = np.maximum(np.abs(found - truth) / truth, 2.0**-54)
        right.plot(z, error, color=COLOURS[number], ls=DASHES[number], lw=1.8, label=name)
    right.legend(fontsize=8, loc="lower right")
    right.set_yscale("log")
    right.set_xlabel("z")
    right.set_ylabel("relative error")


def infonce(figure: Figure) -> None:
    """Left: InfoNCE over the scale, for three sizes of a batch. Right: one loss, and that with δ in its logarithm."""
    left, right = figure.subplots(1, 2)
    scales, curves = np.linspace(0.5, 30.0, 16), {}
    for n in (4, 16, 64):
        x = np.eye(n, 2 * n)
        w = 0.3 * x + np.sqrt(1.0 - 0.3**2) * np.eye(n, 2 * n, n)
        curves[f"N = {n}"] = (scales, [float(refloss.InfoNCE()(x, w, s)) for s in scales])
    _lines(left, curves)
    left.set_xlabel("scale")
    left.set_ylabel("loss")
    gap = np.linspace(2.0, 160.0, 80)
    wrong = [refloss.InfoNCE(ways=1, reduction="none")([[1.0], [1.0]], [[-1.0], [1.0]], g / 2.0)[0] for g in gap]
    e = np.exp(-gap.astype(np.float32))
    floor = -np.log(e / (1 + e) + np.finfo(np.float32).tiny)
    _lines(right, {"refloss": (gap, wrong), "−log(p + δ), float32": (gap, floor)})
    right.set_xlabel("gap to the largest logit")


def kl_divergence(figure: Figure) -> None:
    """The three divergences of two classes over the student's lead, and their slopes in the first logit."""
    left, right = figure.subplots(1, 2)
    lead = np.linspace(-4.0, 7.0, 111)
    z, t = (np.stack([each, np.zeros_like(lead)], axis=-1) for each in (lead, np.full_like(lead, np.log(4.0))))
    values, slopes = {}, {}
    for form in ("forward", "reverse", "jensen-shannon"):
        loss = refloss.KLDivergence(form=form, reduction="none")
        value, grad = loss.value_and_grad(z, t)
        values[form], slopes[form] = (lead, value), (lead, grad.z[:, 0])
    for axes, curves, label, low, high in (
        (left, values, "divergence", 0.0, 0.8),
        (right, slopes, "slope in the first logit", 0.25, 1.0),  # beside the legend
    ):
        _lines(axes, curves)
        axes.axvline(np.log(4.0), low, high, color=COLOURS[5], ls=":")
        axes.set_xlabel("lead of the first logit")
        axes.set_ylabel(label)


def choosing(figure: Figure) -> None:
    """The least scale over the number of classes; the angle that centres can keep from each other, over theirs."""
    left, right = figure.subplots(1, 2)
    classes = np.geomspace(10, 1e7, 61)
    odds = np.log((classes - 1.0) * 0.99 / 0.01)
    normface, cosface, arcface = refloss.NormFace(), refloss.CosFace(m=0.35), refloss.ArcFace(m=0.5)
    curves = {"no margin": normface, "CosFace 0.35": cosface, "ArcFace 0.5": arcface}
    scales = {name: (classes, odds / (loss.target_logit(0.0) + 1.0 / (classes - 1.0))) for name, loss in curves.items()}
    _lines(left, scales | {"ArcFace, at 0.5 rad": (classes, odds / arcface.target_logit(0.5))})
    t, angles = np.linspace(0.0, np.pi, 200_001), {}
    for dimensions in (3, 16, 128, 512):
        area = np.cumsum(np.sin(t) ** (dimensions - 2))
        angles[f"D = {dimensions}"] = (classes, np.interp(1.0 / (classes - 1.0), area / area[-1], t))
    _lines(right, angles)
    left.set_ylim(0.0, 52.0)
    right.set_ylim(0.0, 2.5)
    for axes, label in ((left, "least s for p = 0.99"), (right, "angle between centres, radians")):
        axes.set_xscale("log")
        axes.set_xlabel("classes")
        axes.set_ylabel(label)


def sub_centers(figure: Figure) -> None:
    """Left: cosines of the three centers of a class, and the largest. Right: the lengths of the centers' gradients."""
    left, right = figure.subplots(1, 2)
    angles, centers = np.linspace(-1.8, 2.2, 200), np.array([-1.0, 0.2, 1.4])
    w = np.stack([_circle(centers), np.broadcast_to(np.eye(3)[2], (3, 3))])
    loss, x = refloss.SubCenterArcFace(s=4.0), _circle(angles)
    steps = loss.trace(x, w, np.zeros(len(x), int))
    for column in steps["cosine"].output[:, :3].T:
        left.plot(angles, column, color=COLOURS[5], lw=1.0)
    _lines(left, {"largest cosine": (angles, steps["sub_centers"].output[:, 0])})
    lengths = [np.linalg.norm(loss.value_and_grad(row[None], w, [0])[1].w[0], axis=1) for row in x]
    left.set_ylim(-1.5, 1.1)
    right.set_ylim(-0.05, 1.5)
    names = [f"center at {center:g}".replace("-", "−") for center in centers]
    _lines(right, {name: (angles, column) for name, column in zip(names, np.array(lengths).T, strict=True)})
    for axes, label in ((left, "c"), (right, "length of ∂L/∂w, s = 4")):
        for border in (centers[1:] + centers[:-1]) / 2.0:
            axes.axvline(border, color=COLOURS[5], ls=":")
        axes.set_xlabel("direction of the embedding (rad)")
        axes.set_ylabel(label)


FIGURES: dict[str, Callable[[Figure], None]] = {
    draw.__name__.replace("_", "-"): draw
    for draw in (
        softmax_two_class,
        cross_entropy_curve,
        angle_geometry,
        normalize_projection,
        boundaries,
        probability,
        psi,
        psi_slope,
        gradient_length,
        a_softmax_folds,
        annealing,
        cosface_margin,
        arcface_margin,
        rules,
        rules_slope,
        detached_gradient,
        sphereface_layer,
        combined,
        margins_given,
        adaface_margin,
        magface_margin,
        hard_classes,
        sub_centers,
        sphereface_r,
        sphereface_r_slope,
        circle_loss,
        circle_plane,
        inter_top_k,
        sphereface2,
        sphereface2_pull,
        uniface,
        siglip,
        infonce,
        triplet,
        kl_divergence,
        choosing,
        image_class,
        loss_error,
        confident_loss,
        arccos_error,
        gradient_error,
        tangent_vs_division,
        rounded_softmax,
        softcap,
    )
}
