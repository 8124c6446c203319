"""Drawings of the site: well-formed, the same every time, in the page's colours, and of what they say."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="drawings are made by matplotlib, which the docs extra has")

from matplotlib.figure import Figure

import refloss

ROOT = Path(__file__).parents[1]
RULES = ("none", "hard", "keep", "continuous", "monotone", "clamp", "min", "easy", "conditional")
sys.path.insert(0, str(ROOT / "docs" / "hooks"))
import figures  # noqa: E402

USED = re.compile(r"^!\[[^\]]+\]\(figure:([a-z0-9-]+)\)$", re.MULTILINE)  # an alternative text may take several lines


@pytest.fixture(scope="module")
def drawn():
    return {name: figures.svg(name) for name in figures.FIGURES}


def _axes(name):
    figure = Figure()
    figures.FIGURES[name](figure)
    return figure.axes


def _line(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


@pytest.mark.parametrize("name", figures.FIGURES)
def test_a_drawing_is_well_formed_and_takes_size_and_colour_from_the_page(drawn, name):
    svg = drawn[name]
    root = ElementTree.fromstring(svg)
    assert root.get("viewBox")
    assert root.get("width") is root.get("height") is None
    assert figures.TEXT not in svg
    assert "currentColor" in svg
    assert not re.search(r"font-family|font: ", svg)
    assert set(re.findall(r'https?://[^"]*', svg)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert len(svg) < 60_000


def test_identifiers_are_unique_over_all_drawings_and_each_refers_to_its_own(drawn):
    ids = [name for svg in drawn.values() for name in re.findall(r'\bid="([^"]*)"', svg)]
    assert len(ids) == len(set(ids))
    for name, svg in drawn.items():
        own = set(re.findall(r'\bid="([^"]*)"', svg))
        assert all(identifier.startswith(f"{name}-") for identifier in own)
        assert set(re.findall(r'"#([^"]*)"|url\(#([^)]*)\)', svg)) <= {(i, "") for i in own} | {("", i) for i in own}


def test_a_drawing_is_the_same_every_time(drawn):
    assert figures.svg("triplet") == drawn["triplet"]


def test_pages_show_every_drawing_and_no_other():
    pages = [page for page in (ROOT / "docs").rglob("*.md") if "node_modules" not in page.parts]
    used = [name for page in pages for name in USED.findall(page.read_text())]
    assert sorted(set(used)) == sorted(figures.FIGURES)


def test_curves_of_the_losses_are_those_of_the_closed_forms():
    theta = figures.ANGLES
    axes, _ = _axes("psi")
    closed = {
        "modified softmax": np.cos(theta),
        "CosFace, m = 0.35": np.cos(theta) - 0.35,
        "ArcFace, m = 0.5": np.cos(theta + 0.5),
        "combined (1, 0.3, 0.2)": np.cos(theta + 0.3) - 0.2,
    }
    for label, expected in closed.items():
        assert np.allclose(_line(axes, label)[1], expected, rtol=0, atol=1e-14), label
    axes, _ = _axes("psi-slope")
    step = theta[1] - theta[0]
    for (
        label,
        loss,
    ) in figures.LOSSES.items():  # the slope drawn is that of the curve: trapezoids, wrong by m³h³/12 at most
        slope = _line(axes, label)[1]
        rise = step * (slope[:-1] + slope[1:]) / 2.0
        assert np.abs(np.diff(loss.target_logit(theta)) - rise).max() < (4.0 * step) ** 3 / 12.0, label


def test_what_is_far_below_is_drawn_below_a_cut_and_flattens_nothing():
    for name, quantity in (("psi", "target_logit"), ("psi-slope", "target_slope")):
        upper, lower = _axes(name)
        cut, lowest = upper.get_ylim()[0], lower.get_ylim()[0]
        assert lower.get_ylim()[1] == cut
        (below,) = lower.lines
        for label, loss in figures.LOSSES.items():
            _, value = _line(upper, label)
            expected = np.asarray(getattr(loss, quantity)(figures.ANGLES))
            assert (value == expected).all()
            if label.startswith("A-Softmax"):
                assert (below.get_ydata() == expected).all()
                assert lowest < expected.min() < cut
            else:
                assert expected.min() > cut


def test_the_negatives_of_the_triplet_are_drawn_with_their_losses():
    (axes,) = _axes("triplet")
    places = {line.get_label().partition(",")[0]: line.get_xydata()[0] for line in axes.lines}
    for name, cost in (("n", True), ("n′", False)):
        loss = refloss.Triplet(m=0.5)([places["a"]], [places["p"]], [places[name]])
        assert (loss > 0.0) == cost
        assert any(line.get_label() == f"{name}, loss {loss:.{2 * cost}f}" for line in axes.lines)
        radius = np.linalg.norm(axes.lines[0].get_xydata(), axis=1)
        assert (np.linalg.norm(places[name]) < radius.min()) == cost


def _page(markdown):
    """What the hook makes of a page, and its numbers of figures."""
    markdown_module = pytest.importorskip("markdown")
    pytest.importorskip("mkdocs")
    import plots

    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"), present_anchor_ids=set())
    html = markdown_module.markdown(plots.on_page_markdown(markdown, page, None, None))
    return plots.on_page_content(html, page, None, None), page.present_anchor_ids


def test_figures_have_numbers_and_captions():
    html, anchors = _page(
        "![a picture](one.png)\nIts caption.\n\ntext\n\n![a drawing](figure:psi)\n\n"
        "![another](figure:triplet)\nOf this page.\n"
    )
    assert anchors == {"figure-one", "figure-psi", "figure-triplet"}
    captions = re.findall(r'<figcaption><a href="#([a-z-]+)">(Figure \d)\.</a> (.*?)</figcaption>', html, re.DOTALL)
    assert captions == [
        ("figure-one", "Figure 1", "Its caption."),
        ("figure-psi", "Figure 2", " ".join(figures.psi.__doc__.split())),
        ("figure-triplet", "Figure 3", "Of this page."),
    ]
    assert html.count('aria-label="a drawing"') == 1


@pytest.mark.parametrize(
    ("markdown", "message"),
    [
        ("![a picture](one.png)\n", "one.png has no caption"),
        ("![a drawing](figure:nothing)\n", "no figure is called nothing"),
        ("![a drawing](figure:nothing)\nCaption.\n", "no figure is called nothing"),
        ("![](one.png)\nCaption.\n", "no alternative text"),
        ("![a](one.png)\nCaption.\n\n![a](one.png)\nCaption.\n", "is on this page twice"),
    ],
)
def test_a_figure_without_a_caption_is_refused(markdown, message):
    errors = pytest.importorskip("mkdocs.exceptions")
    with pytest.raises(errors.PluginError, match=message):
        _page(markdown)


def test_every_drawing_says_what_it_shows():
    for name, draw in figures.FIGURES.items():
        assert re.fullmatch(r"\S.*\.", " ".join((draw.__doc__ or "").split())), name


def test_boundaries_are_where_the_derivation_has_them():
    """On the arc between centres 2π/3 apart: the angle from w1 at which its colour ends."""
    between = 2.0 * np.pi / 3.0
    ends = {
        "modified softmax": between / 2.0,
        "A-Softmax, m = 2": between / 3.0,
        "CosFace, m = 0.35": (between - 2.0 * np.arcsin(0.35 / (2.0 * np.sin(between / 2.0)))) / 2.0,
        "ArcFace, m = 0.5": (between - 0.5) / 2.0,
    }
    for axes in _axes("boundaries"):
        if axes.get_title() not in ends:
            continue
        x, y = (np.asarray(entry, float) for entry in (axes.lines[1].get_xdata(), axes.lines[1].get_ydata()))
        turned = np.arctan2(y, x) - np.pi / 6.0
        turn = np.nanmax(turned[(turned > 0) & (turned < between)])
        assert abs(turn - ends[axes.get_title()]) < 2.0 * np.pi / 720.0, axes.get_title()


def test_errors_drawn_grow_for_the_naive_way_and_stay_at_roundoff_for_ours():
    for name, naive in (
        ("arccos-error", "arccos of the cosine"),
        ("gradient-error", "usual: arccos of the cosine"),
        ("tangent-vs-division", "divided by sin θ; where it ends, 0/0"),
    ):
        (axes,) = _axes(name)
        assert _line(axes, "refloss")[1].max() < 2.0**-51
        angles, errors = _line(axes, naive)
        assert errors[np.isfinite(errors) & (angles < 1e-6)].min() > 1e-8, name


def test_shaded_is_where_the_usual_gradient_is_nan():
    (axes,) = _axes("gradient-error")
    angles, errors = _line(axes, "usual: arccos of the cosine")
    (shaded,) = axes.patches
    left, right = shaded.get_x(), shaded.get_x() + shaded.get_width()
    assert (np.isnan(errors) == ((left < angles) & (angles < right))).all()
    assert np.isnan(errors).any()


def test_the_confident_loss_is_drawn_down_to_the_end_where_the_naive_one_is_gone():
    (axes,) = _axes("confident-loss")
    gap, loss = _line(axes, "refloss")
    assert np.allclose(np.log(loss[gap > 40]), -gap[gap > 40], rtol=1e-14)
    assert _line(axes, "-log(softmax(z)): 0 after the dot")[0].max() < 40.0


def test_errors_of_a_loss_are_drawn_as_they_are():
    """An exponential wrong by 2u, sum and quotient by u each, a logarithm by 2u of itself; or half an ulp of 143."""
    (axes,) = _axes("loss-error")
    u, ways = 2.0**-53, ("−log of the softmax", "log-sum-exp − logit")
    for way, wrong, vanishes in zip(ways, (5.0 * u, (128.0 + 5.0) * u), (u / 2.0, 64.0 * u), strict=True):
        lead, error = _line(axes, way)
        loss = np.log1p(np.exp(-lead))
        assert (error * loss <= wrong).all(), way
        assert (error[loss < vanishes] == 1.0).all(), way
        assert (loss < vanishes).any(), way
    assert _line(axes, "refloss")[1].max() <= 8.0 * u


TOPICS = sorted((ROOT / "docs" / "topics").glob("*.md"))


@pytest.mark.parametrize("page", TOPICS, ids=lambda page: page.stem)
def test_a_topic_begins_with_a_picture_and_two_sentences(page):
    """Before its first displayed formula, and beside the summary."""
    text = re.sub(r"^!!! summary.*\n(?: {4}.*\n|\n)*", "", page.read_text(), flags=re.MULTILINE)
    beginning = re.split(r"^(?:\$\$|::formula)", text, maxsplit=1, flags=re.MULTILINE)[0]
    assert USED.search(beginning)
    assert len(re.findall(r"[.?!](?=\s)", USED.sub("", beginning))) >= 2


def test_an_unknown_drawing_is_refused():
    with pytest.raises(KeyError):
        figures.svg("nothing")


EDGES = {"min": np.pi - 0.25, "easy": np.pi / 2.0, "conditional": np.arccos(0.5)}
BEYOND = {  # ψ for m = 0.5, and its slope
    "none": lambda t: (np.cos(t + 0.5), -np.sin(t + 0.5)),
    "hard": lambda t: (np.cos(t) - 0.5 * np.sin(0.5), -np.sin(t)),
    "continuous": lambda t: (np.cos(t) + np.cos(0.5) - 1.0, -np.sin(t)),
    "monotone": lambda t: (-np.cos(t + 0.5) - 2.0, np.sin(t + 0.5)),
    "clamp": lambda t: (0.0 * t - 1.0, 0.0 * t),
}


@pytest.mark.parametrize(("name", "quantity"), [("rules", 0), ("rules-slope", 1)])
def test_each_rule_has_a_panel_with_its_curve_and_its_jump(name, quantity):
    panels = {axes.get_title(): axes for axes in _axes(name)}
    assert list(panels) == list(RULES)
    for rule, axes in panels.items():
        edge = EDGES.get(rule, np.pi - 0.5)
        before, beyond = (
            (np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float))
            for line in axes.lines
            if line.get_label() == rule
        )
        assert before[0].max() < edge < beyond[0].min()
        m3 = 0.5 if rule == "conditional" else 0.0
        margin = (np.cos(before[0]) - m3, -np.sin(before[0])) if m3 else BEYOND["none"](before[0])
        assert np.allclose(before[1], margin[quantity], rtol=0, atol=1e-14), rule
        expected = BEYOND.get(rule, lambda t: (np.cos(t), -np.sin(t)))(beyond[0])
        assert np.allclose(beyond[1], expected[quantity], rtol=0, atol=1e-14), rule

        sides = before[1][-1], beyond[1][0]
        jumps = [line.get_ydata() for line in axes.lines if line.get_label() == "jump"]
        assert [tuple(jump) for jump in jumps] == ([sides] if abs(sides[1] - sides[0]) > 0.01 else []), rule
        dots = {line.get_markerfacecolor(): line.get_ydata() for line in axes.lines if line.get_marker() == "o"}
        assert not dots or set(dots) == {figures.COLOURS[0], "none"}
        if dots:  # filled is the value at the edge: of these two the condition is cos θ ≤ threshold, else φ > π
            assert list(dots[figures.COLOURS[0]]) == [sides[rule in ("easy", "conditional")]]


def test_what_rises_is_marked_and_nothing_else():
    for name in ("rules", "rules-slope"):
        for axes in _axes(name):
            marked = [np.asarray(line.get_xdata(), float) for line in axes.lines if line.get_label() == "rises"]
            assert bool(marked) == (axes.get_title() in ("none", "min"))
            end = {"none": np.pi, "min": np.pi - 0.25}.get(axes.get_title())
            for theta in marked:
                assert theta.min() > np.pi - 0.5
                assert abs(theta.max() - end) < 1e-9


def test_the_detached_gradient_is_drawn_as_it_is():
    pulls, works = _axes("detached-gradient")
    theta, exact = _line(pulls, "exact: sin(θ + m)")
    assert np.allclose(exact, np.sin(theta + 0.5), rtol=0, atol=1e-14)
    assert np.allclose(_line(pulls, "detached: sin θ")[1], np.sin(theta), rtol=0, atol=1e-14)
    rounds, exact = _line(works, "exact")
    s, c = 16.0, [2.0 / np.sqrt(6.0), 1.0 / np.sqrt(6.0)]
    turn = 2.0 * np.pi * rounds
    across, third = np.array([1.0, -2.0]) / np.sqrt(5.0), np.array([2.0, 1.0]) / np.sqrt(30.0)
    first, second = (
        np.cos(0.3) * c[i] + np.sin(0.3) * (np.cos(turn) * across[i] + np.sin(turn) * third[i]) for i in range(2)
    )
    loss = np.logaddexp(0.0, s * (second - np.cos(np.arccos(first) + 0.5)))
    # trapezoids of step h are wrong by some h² of the second derivative of the slope, in all
    assert np.allclose(exact, loss - loss[0], rtol=0, atol=s * np.diff(turn).max() ** 2)
    _, detached = _line(works, "detached")
    once = [np.interp(n, rounds, detached) for n in (0.0, 1.0, 2.0, 3.0)]
    assert np.allclose(np.diff(once), -1.15, rtol=0, atol=0.005)  # printed in the story


def test_the_layer_of_sphereface_is_drawn_as_it_is():
    """From vectors: w + (a w + b x)/d, with the polynomials of the layer."""
    along_t, along_x = _axes("sphereface-layer")
    theta, across = _line(along_t, "layer")
    _, along = _line(along_x, "layer")
    assert np.allclose(_line(along_t, "detached")[1], np.sin(theta), rtol=0, atol=1e-14)
    c = np.cos(theta)
    sign0 = np.sign(c)
    sign3 = sign0 * np.sign(2.0 * c**2 - 1.0)
    sign4 = 2.0 * sign0 + sign3 - 3.0
    a = sign3 * (32.0 * c**3 - 16.0 * c)
    b = -(sign3 * (24.0 * c**4 - 8.0 * c**2 - 1.0) - sign4) / 10.0
    x, t, w = np.eye(2)[0], np.eye(2)[1], np.stack([c, np.sin(theta)], axis=-1)
    inside = np.abs(np.remainder(theta, np.pi / 4.0) - np.pi / 8.0) < np.pi / 8.0 - 0.02  # not next to a fold
    for divisor, label in ((np.ones_like(a), "derivative"), (np.hypot(a, b), "layer")):
        own = (a[:, None] * w + 10.0 * b[:, None] * x) / divisor[:, None]
        changed = (5.0 * w + own) / 6.0
        for axes, direction in ((along_t, t), (along_x, x)):
            # terms up to 32, and d at least 0.5 there: some hundred roundings of that size
            assert np.allclose(_line(axes, label)[1][inside], (changed @ direction)[inside], rtol=0, atol=1e-12), label
    fold = np.abs(theta - np.pi / 2.0) < 1e-9
    assert np.allclose(across[fold], 5.0 / 6.0, rtol=0, atol=1e-9)
    assert np.allclose(along[fold], -10.0 / 6.0, rtol=0, atol=1e-9)


def test_the_combined_margin_at_an_angle_is_the_one_that_arcface_would_need():
    (axes,) = _axes("combined")
    for line in axes.lines:
        theta, margin = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        m1, m2, m3 = (float(entry) for entry in str(line.get_label()).strip("()").split(","))
        known = np.isfinite(margin)
        assert known.any()
        assert np.allclose(np.cos(theta + margin)[known], (np.cos(m1 * theta + m2) - m3)[known], rtol=0, atol=1e-14)
        assert all(b >= a for a, b in pairwise(np.flatnonzero(known)))


def test_margins_given_are_drawn_with_the_closed_form_of_their_gradient():
    psi, slopes = _axes("margins-given")
    for m in (0.3, 0.5, 0.7):
        theta, value = _line(psi, f"m = {m}")
        assert np.allclose(value, np.cos(theta + m), rtol=0, atol=1e-14)
        p = 1.0 / (1.0 + np.exp(-4.0 * value))  # the other class is at right angles
        expected = 4.0 * (1.0 - p) * np.sin(theta + m)
        # the bound of the engine for terms up to s = 4, and as much for p and the sine here
        assert np.allclose(_line(slopes, f"m = {m}")[1], expected, rtol=0, atol=256.0 * 2.0**-53)


def test_margins_by_length_are_drawn_as_they_are():
    (axes,) = _axes("adaface-margin")
    for length, v in ((5, -1), (20, 0), (35, 1)):
        theta, value = _line(axes, f"‖x‖ = {length}: v = {v}".replace("-", "−"))
        expected = np.cos(np.clip(theta - 0.4 * v, 1e-3, np.pi - 1e-3)) - 0.4 * (1 + v)
        assert np.allclose(value, expected, rtol=0, atol=1e-14)
    psi, term = _axes("magface-margin")
    for length, m in ((10, 0.45), (60, 0.625), (110, 0.8)):
        theta, value = _line(psi, f"‖x‖ = {length}")
        assert np.allclose(value, np.cos(theta + m), rtol=0, atol=1e-14)
    length, value = _line(term, "a/u² + 1/a")
    a = np.clip(length, 10.0, 110.0)
    assert np.allclose(value, a / 110.0**2 + 1.0 / a, rtol=0, atol=1e-14)


def test_hard_classes_are_drawn_as_they_are():
    for axes, eta in zip(
        _axes("hard-classes"), (lambda c, t: c * (t + c), lambda c, t: (1.0 + t) * c + t), strict=True
    ):
        for line in axes.lines:
            label = str(line.get_label())
            if label.startswith("t = "):
                c, value = _line(axes, label)
                hard = c > np.cos(1.7)
                assert hard.any()
                assert not hard.all()
                expected = np.where(hard, eta(c, float(label.removeprefix("t = "))), c)
                assert np.allclose(value, expected, rtol=0, atol=1e-14)


def test_the_nearest_center_is_drawn_as_it_is():
    largest, lengths = _axes("sub-centers")
    angles, value = _line(largest, "largest cosine")
    centers = np.array([-1.0, 0.2, 1.4])
    theta = np.abs(angles[:, None] - centers)
    assert np.allclose(value, np.cos(theta.min(axis=1)), rtol=0, atol=1e-14)
    for k, center in enumerate(centers):
        _, length = _line(lengths, f"center at {center:g}".replace("-", "−"))
        p = 1.0 / (1.0 + np.exp(-4.0 * np.cos(theta[:, k] + 0.5)))  # the other class is at right angles
        nearest = theta.argmin(axis=1) == k
        assert nearest.any()
        assert not nearest.all()
        expected = np.where(nearest, 4.0 * (1.0 - p) * np.sin(theta[:, k] + 0.5), 0.0)
        # the bound of the engine for terms up to s = 4, and as much for p and the sine here
        assert np.allclose(length, expected, rtol=0, atol=256.0 * 2.0**-53)


def test_sphereface_r_is_drawn_as_it_is():
    psi, eta = _axes("sphereface-r")
    for m in (1.2, 1.5, 2.0):
        theta, value = _line(psi, f"m = {m:g}")
        assert np.allclose(value, np.cos(np.minimum(m * theta, np.pi)), rtol=0, atol=1e-14)
        theta, value = _line(eta, f"m = {m:g}")
        assert np.allclose(value, np.cos(theta / m), rtol=0, atol=1e-14)
    psi, eta = _axes("sphereface-r-slope")
    for label, m in (("m = 1.5", 1.5), ("m = 2", 2.0), ("detached", 1.0)):
        theta, slope = _line(psi, label)
        expected = np.where(m * theta < np.pi, -m * np.sin(m * theta), 0.0)
        assert np.allclose(slope, expected, rtol=0, atol=1e-14)
        theta, slope = _line(eta, label)
        # the bound of the engine, 32u of its terms, of which there are two of the size of dL/dη, and as much for both
        assert np.allclose(slope, -np.sin(theta / m) / m, rtol=0, atol=256.0 * 2.0**-53)


def test_circle_loss_is_drawn_as_it_is():
    psi, eta = _axes("circle-loss")
    for m in (0.1, 0.25, 0.4):
        theta, value = _line(psi, f"m = {m:g}")
        assert np.allclose(value, m**2 - (1.0 - np.cos(theta)) ** 2, rtol=0, atol=1e-14)
        theta, value = _line(eta, f"m = {m:g}")
        assert np.allclose(value, np.maximum(np.cos(theta) + m, 0.0) * (np.cos(theta) - m), rtol=0, atol=1e-14)


def test_descent_of_circle_loss_is_drawn_as_it_is():
    m = 0.25
    slopes = (
        lambda c, target: (np.where(c > -m, 2.0 * c, 0.0), 2.0 * (1.0 - target)),
        lambda c, target: (np.maximum(c + m, 0.0), 1.0 + m - target),
    )
    for axes, slopes_of in zip(_axes("circle-plane"), slopes, strict=True):
        (arrows,) = axes.collections
        c, target = arrows.XY.T
        assert ((-m < c) & (c < 0.0)).any()
        eta, psi = slopes_of(c, target)
        expected = np.stack([-eta, psi]) / np.hypot(eta, psi)  # one other class: both logits have the same |dL/dz|
        assert np.allclose([arrows.U, arrows.V], expected, rtol=0, atol=256.0 * 2.0**-53)
        for c, target in zip(*_line(axes, "border"), strict=True):
            if np.hypot(c, target) < 1.0:
                x = [[target, c, np.sqrt(1.0 - c**2 - target**2)]]
                assert abs(refloss.CircleLoss(s=1.0, m=m)(x, np.eye(3)[:2], [0]) - np.log(2.0)) < 1e-14


def test_inter_top_k_is_drawn_as_it_is():
    curves, places = _axes("inter-top-k")
    for penalty in (0.06, 0.4):
        theta, value = _line(curves, f"η, m′ = {penalty:g}")
        assert np.allclose(value, np.cos(theta - penalty), rtol=0, atol=1e-14)
    angles, loss = _line(places, "L/s")
    theta = np.abs(angles[:, None] - [-0.6, 0.6])
    eta = np.cos(np.where(theta == theta.min(axis=1, keepdims=True), theta - 0.4, theta))
    for k, name in enumerate(("η of the class at −0.6", "η of the class at 0.6")):
        assert np.allclose(_line(places, name)[1], eta[:, k], rtol=0, atol=1e-14)
    psi = np.cos(np.pi / 2.0 + 0.2)
    assert np.allclose(loss, np.log1p(np.exp(4.0 * (eta - psi)).sum(axis=1)) / 4.0, rtol=0, atol=1e-14)


def test_sphereface2_is_drawn_as_it_is():
    psi, eta = _axes("sphereface2")
    for t in (1, 3, 8):
        for axes, shift in ((psi, -0.4), (eta, 0.4)):
            theta, value = _line(axes, f"t = {t}")
            assert np.allclose(value, 2.0 * np.cos(theta / 2.0) ** (2 * t) - 1.0 + shift, rtol=0, atol=1e-14)
    s, weight, alpha = 40.0, 50.0, 0.7
    for axes, sign, share in zip(_axes("sphereface2-pull"), (1.0, -1.0), (alpha, 1.0 - alpha), strict=True):
        for label, slope in (("exact", lambda a: 3.0 * np.cos(a / 2.0) ** 4), ("detached", np.ones_like)):
            theta, value = _line(axes, label)
            z = s * (2.0 * np.cos(theta / 2.0) ** 6 - 1.0 - 0.4 * sign)
            expected = weight * share / (1.0 + np.exp(sign * z)) * slope(theta) * np.sin(theta)
            # z up to 56 is rounded by some ulps of 64, and each is relative in σ; the terms of x are 50 α at most
            assert np.allclose(value, expected, rtol=512.0 * 2.0**-53, atol=50.0 * 256.0 * 2.0**-53)


def test_uniface_is_drawn_as_it_is():
    s, m, b = 64.0, 0.4, np.log(1e5)
    of_losses, of_slopes = _axes("uniface")
    for label, sign, margin in (("target", -1.0, m), ("another class", 1.0, 0.0)):
        c, loss = _line(of_losses, label)
        _, slope = _line(of_slopes, label)
        z = sign * (s * (c - margin) - b)
        held = np.clip(z, -s, s)
        # z up to 100 is rounded by some ulps of 128, and so is the sum of two losses up to 64
        assert np.allclose(loss, np.log1p(np.exp(held)), rtol=0, atol=128.0 * 16.0 * 2.0**-53)
        expected = np.where(np.abs(z) <= s, s * sign / (1.0 + np.exp(-z)), 0.0)
        assert np.allclose(slope, expected, rtol=0, atol=64.0 * 128.0 * 16.0 * 2.0**-53)
        assert (slope[np.abs(z) > s] == 0.0).all()
        assert (np.abs(z) > s).any()


def test_siglip_is_drawn_as_it_is():
    losses, errors = _axes("siglip")
    for t, b in ((10.0, -10.0), (40.0, -20.0)):
        for label, sign in (("pair", -1.0), ("others", 1.0)):
            c, loss = _line(losses, f"{label}, t = {t:g}, b = −{-b:g}")
            expected = np.logaddexp(0.0, sign * (t * c + b))
            # logits up to 60 are rounded by some ulps of 64, and so is the sum of two losses
            assert np.allclose(loss, expected, rtol=0, atol=64.0 * 16.0 * 2.0**-53)
    for dtype, bits in (("float32", 24), ("float64", 53)):
        z, lost = _line(errors, f"softplus(z) − z, {dtype}")
        # a sum next to z is off by half an ulp, up to u z; log1p(e^-z) itself by (z + 4) u at most
        assert (lost <= 2.0**-bits * (2.0 * z * np.exp(z) + z + 4.0)).all()
        assert (lost[z * np.exp(z) > 2.0 ** (bits + 1)] == 1.0).all()
    z, kept = _line(errors, "log1p(exp(−z)), float32")
    assert (kept <= (z + 4.0) * 2.0**-24).all()


def test_infonce_is_drawn_as_it_is():
    losses, floors = _axes("infonce")
    for n in (4, 16, 64):
        s, loss = _line(losses, f"N = {n}")
        # s up to 30 in logits that are rounded by some ulps of 32
        assert np.allclose(loss, np.log1p((n - 1) * np.exp(-0.3 * s)), rtol=0, atol=32.0 * 16.0 * 2.0**-53)
    gap, loss = _line(floors, "refloss")
    assert np.allclose(loss, np.logaddexp(0.0, gap), rtol=4.0 * 2.0**-53, atol=0)
    gap, loss = _line(floors, "−log(p + δ), float32")
    assert np.abs(loss[gap > 120.0] / -np.log(np.finfo(np.float32).tiny) - 1.0).max() < 4.0 * 2.0**-24


def test_the_rounding_of_a_softmax_is_drawn_as_it_is():
    """Before the subtraction: half a unit of numbers from 1/2 to 1, and all of it beyond; afterwards: half a unit."""
    (axes,) = _axes("rounded-softmax")
    missing, early = _line(axes, "rounded before 1 is subtracted")
    _, late = _line(axes, "rounded afterwards")
    assert (early <= 2.0**-9 / missing + 2.0**-8).all()
    assert (early[missing < 2.0**-9] == 1.0).all()
    assert early[missing > 2.0**-9].max() > 0.2
    assert (late <= 2.0**-8).all()


def test_the_slopes_of_a_cap_are_drawn_as_they_are():
    """1 - tanh² is wrong by sinh² (2δ + δ²) and two roundings, for a tanh that is wrong by δ; the other form by 8u."""
    capped, slopes = _axes("softcap")
    z, value = _line(capped, "K = 30")
    assert np.allclose(value, 30.0 * np.tanh(z / 30.0), rtol=1e-14, atol=0.0)
    for dtype, bits in (("float32", 24), ("float64", 53)):
        t, cancelled = _line(slopes, f"1 − tanh², {dtype}")
        _, kept = _line(slopes, f"4e/(1 + e)², {dtype}")
        u = 2.0**-bits
        assert (cancelled <= np.sinh(t) ** 2 * 4.0 * u + 4.0 * u).all()
        assert cancelled[t > 20.0].min() == 1.0
        assert (kept <= 8.0 * u).all()
