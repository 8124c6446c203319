"""Hypothesis strategies that reach the hard places on purpose.

Entries are small integers and quarters, which keep sums and products exact and shrink well, or floats of full length.
Angles are placed: a target is built at a chosen angle from its class, and what rounding leaves of that angle is part of
the case. Rows are lengthened last, by powers of two where the angle must stay exactly what it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

import refloss

Array = np.ndarray[Any, Any]
Draw = Any

IGNORED = -100
FORMS = ("forward", "reverse", "jensen-shannon")
RULES = ("none", "hard", "easy", "keep", "continuous", "monotone", "clamp", "min", "conditional")

QUARTERS = st.integers(-8, 8).map(lambda i: i / 4)
LONG = st.floats(-2.0, 2.0).map(lambda v: v if abs(v) > 1e-100 else 0.0)
TINY = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12)
ON_AXES = (1e-17, 1e-30, 1e-100, 1e-300)
BESIDE = (0.0, 1e-8, -1e-8, 1e-4, -1e-4)
HUGE = (1e-200, 1e-100, 1e-30, 1e-8, 1e5, 1e30, 1e100, 1e200)


def vectors(size: int, entries: SearchStrategy[float] = QUARTERS | LONG) -> SearchStrategy[Array]:
    """Rows whose largest entry is at least 1/4: the length is chosen elsewhere."""
    return st.lists(entries, min_size=size, max_size=size).map(_not_short)


def _not_short(row: Sequence[float]) -> Array:
    array = np.array(row)
    if np.abs(array).max() < 0.25:
        array[0] += 1.0
    return array


def matrices(rows: int, size: int, entries: SearchStrategy[float] = QUARTERS | LONG) -> SearchStrategy[Array]:
    return st.lists(vectors(size, entries), min_size=rows, max_size=rows).map(np.array)


# --------------------------------------------------------------------------------------------------------------- logits


@st.composite
def logits(draw: Draw, short: bool = False, masked: bool = True, classes: int | None = None) -> Array:
    """Logits (N, C): tame, wide, saturated (gaps up to 700), tied, far from 0, masked (never a whole row), C = 1.

    With `short` all are multiples of 2^-4 below 2^10, so that a shift by such a number is exact; none is far from 0.
    """
    rows, size = draw(st.integers(1, 3)), classes or draw(st.integers(1, 6))
    entries = st.integers(-80, 80).map(lambda i: i / 16) | st.integers(-8, 8).map(float)
    z = np.array(draw(st.lists(st.lists(entries, min_size=size, max_size=size), min_size=rows, max_size=rows)))
    if not short:
        z = z * draw(st.sampled_from((1.0, 0.1, math.pi, 1 / 3, 8.7))) + draw(
            st.sampled_from((0.0, 0.0, 1e4, -1e8, 1e30))
        )
    for row in z:
        if draw(st.booleans()):
            row[draw(st.integers(0, size - 1))] += draw(st.sampled_from((10.0, 20.0, 36.0, 50.0, 100.0, 300.0, 690.0)))
    if masked and size > 1 and draw(st.booleans()):
        for row in z:
            hidden = draw(st.sets(st.integers(0, size - 1), max_size=size - 1))
            row[list(hidden)] = -np.inf
    return z


@st.composite
def labels(draw: Draw, z: Array, ignored: bool = False) -> Array:
    """One label per row, whose logit is finite, or IGNORED."""
    return np.array([
        draw(st.sampled_from(np.flatnonzero(np.isfinite(row)).tolist() + [IGNORED] * ignored)) for row in z
    ])  # fmt: skip


@st.composite
def probabilities(draw: Draw, z: Array) -> Array:
    """Targets of z's shape that need not sum to 1; 0 where z is -inf."""
    entries = st.sampled_from((0.0, 1.0, 0.5, 0.125, 1e-3, 0.3, 2.0))
    y = np.array([[draw(entries) if np.isfinite(number) else 0.0 for number in row] for row in z])
    return y


# --------------------------------------------------------------------------------------------------------------- losses


def _valid(kind: type, **settings: Any) -> list[Any]:
    try:
        return [kind(**settings)]
    except ValueError:
        return []


def _every(kind: type, rules: Sequence[str], *margins: dict[str, float]) -> list[Any]:
    """Every rule that can act with every margin given."""
    return [loss for m in margins for rule in rules for loss in _valid(kind, boundary=rule, **m)]


PLAIN = [refloss.ModifiedSoftmax(), refloss.NormFace()]
MULTIPLIED = [
    *_every(refloss.ASoftmax, ("monotone", "none"), *({"m": m} for m in (1.0, 1.5, 2.0, 4.0))),
    *_every(refloss.ASoftmax, ("monotone", "none"), {"m": 4.0, "annealing": 5.0}, {"m": 3.0, "annealing": 1000.0}),
]
LOWERED = _every(refloss.CosFace, ("none", "conditional"), {"m": 0.35}, {"m": 0.0}, {"m": 1.0})
ADDED = _every(refloss.ArcFace, RULES[:-1], *({"m": m} for m in (0.5, 0.25, 1.0, 3.0, 0.0, math.pi)))
COMBINED = _every(
    refloss.CombinedMargin, RULES,
    {}, {"m1": 1.35, "m2": 0.5, "m3": 0.25}, {"m1": 0.9, "m2": 0.4, "m3": 0.15}, {"m1": 3.0, "m2": 0.0, "m3": 0.0},
    {"m1": 0.5, "m2": 2.0, "m3": 0.0}, {"m1": 1.0, "m2": 1.5, "m3": 0.01},
)  # fmt: skip
HARD = [
    *_every(refloss.CurricularFace, ("hard", "easy", "none"), {"t": 0.3}, {"t": -0.7, "m": 0.25}),
    *_every(refloss.MVSoftmax, ("easy", "none"), {}, {"m": 0.0, "t": 1.0}, {"margin": "arc", "m": 0.5}),
]
CENTERS = [
    refloss.SubCenterArcFace(boundary=rule, centers=count) for rule, count in (("none", 3), ("hard", 2), ("easy", 1))
]
CURVES = [
    *(refloss.SphereFaceR(m=m, version=version) for m in (1.5, 4.0) for version in (1, 2)),
    *(refloss.CircleLoss(m=m) for m in (0.25, 0.0, 1.0)),
    *_every(refloss.InterTopK, RULES[:-1], {"k": 2}, {"m": 1.0, "penalty": 3.0, "k": 1}),
    refloss.InterTopK(m=0.0, boundary="none", penalty=0.5),
]
"""Losses that change the cosines of other classes by curves of their own."""
MARGINS = [*PLAIN, *MULTIPLIED, *LOWERED, *ADDED, *COMBINED, *HARD, *CURVES]
BY_LENGTH = [
    refloss.AdaFace(),
    refloss.AdaFace(m=0.5, h=1.0, mean=2.0, std=0.5 - 2.0**-10, eps=2.0**-10),
    *_every(refloss.MagFace, ("easy", "hard", "monotone"), {}, {"l_a": 1.0, "u_a": 3.0}),
]
PER_SAMPLE = [*LOWERED, *ADDED, *COMBINED]
"""Losses of which the margins may be given."""
SCALES = (64.0, 1.0, 30.0, 0.01, 300.0, None)


@st.composite
def shared(draw: Draw, classes: int, reduction: str | None = None) -> dict[str, Any]:
    """Settings that all losses of labels share. A weight is 0 only where "mean" need not divide by it."""
    settings: dict[str, Any] = {"reduction": reduction or draw(st.sampled_from(("mean", "sum", "none")))}
    if draw(st.booleans()):
        settings["label_smoothing"] = draw(st.sampled_from((0.1, 1e-6, 0.5, 1.0)))
    if draw(st.booleans()):
        weights = (1.0, 0.5, 2.0, 0.3) if settings["reduction"] == "mean" else (1.0, 0.5, 0.3, 0.0)
        settings["class_weight"] = tuple(draw(st.lists(st.sampled_from(weights), min_size=classes, max_size=classes)))
    return settings


@st.composite
def logit_options(draw: Draw) -> dict[str, Any]:
    """Settings of losses on logits: a scale, a cap that some logits are far below and others far beyond, a z-loss."""
    options = {
        "logit_scale": draw(st.sampled_from((1.0, 1.0, 0.0625, 0.3, 3.0, 1e-3))),
        "softcap": draw(st.sampled_from((None, 30.0, 50.0, 2.0, 0.1, 1e3, 1e-3))),
        "z_loss": draw(st.sampled_from((0.0, 1e-4, 1.0, 3.0))),
    }
    return {name: value for name, value in options.items() if draw(st.booleans())}


@st.composite
def optional_losses(draw: Draw, kind: type, classes: int, **fixed: Any) -> Any:
    """A loss on logits with options, class weights of both signs among its settings."""
    settings = draw(shared(classes, fixed.pop("reduction", None))) | draw(logit_options())
    if "class_weight" in settings and settings["reduction"] != "mean" and draw(st.booleans()):
        settings["class_weight"] = tuple(-v if draw(st.booleans()) else v for v in settings["class_weight"])
    return kind(**settings | fixed)


@st.composite
def upstreams(draw: Draw, loss: Any, samples: int) -> dict[str, Any]:
    """Gradients of what follows a loss on logits: of its value, and of the log-sum-exps or not."""
    sizes = st.sampled_from((1.0, -1.5, 0.0, 0.125, 64.0))
    rows = st.lists(sizes, min_size=samples, max_size=samples).map(np.array)
    given = {"upstream": draw(rows if loss.reduction == "none" else sizes)}
    return given | ({"upstream_lse": draw(rows)} if draw(st.booleans()) else {})


@st.composite
def losses(draw: Draw, settings: bool = False, classes: int = 1, among: Sequence[Any] = MARGINS, **fixed: Any) -> Any:
    """A margin loss with a rule that can act, a scale and a gradient convention; with `settings` shared ones too."""
    loss = draw(st.sampled_from(list(among)))
    chosen: dict[str, Any] = {"gradient": draw(st.sampled_from(("exact", "exact", "detached")))}
    if hasattr(loss, "s"):
        chosen["s"] = draw(st.sampled_from(SCALES))
    if settings:
        chosen |= draw(shared(classes))
    return replace(loss, **{name: value for name, value in (chosen | fixed).items() if hasattr(loss, name)})


def margins_of(loss: Any) -> tuple[float, float, float]:
    """m1, m2 and m3 of a loss, from its public parameters; for MagFace the smallest m2, for AdaFace those of v = 0."""
    match loss:
        case refloss.ASoftmax() | refloss.SphereFaceR(version=1):
            return loss.m, 0.0, 0.0
        case refloss.CosFace() | refloss.MVSoftmax(margin="am") | refloss.AdaFace() | refloss.CircleLoss():
            return 1.0, 0.0, loss.m
        case (
            refloss.ArcFace()
            | refloss.CurricularFace()
            | refloss.MVSoftmax()
            | refloss.SubCenterArcFace()
            | refloss.InterTopK()
        ):
            return 1.0, loss.m, 0.0
        case refloss.MagFace():
            return 1.0, loss.l_m, 0.0
        case refloss.CombinedMargin():
            return loss.m1, loss.m2, loss.m3
    return 1.0, 0.0, 0.0


def kinks(loss: Any) -> list[float]:
    """Where rules change over and slopes vanish: phi = k pi, cos theta = 0 or m3, cos phi - m3 = cos theta (m1 = 1)."""
    m1, m2, m3 = margins_of(loss)
    angles = [(k * math.pi - m2) / m1 for k in range(1, int(m1 + m2 / math.pi) + 2)]
    rule = getattr(loss, "boundary", "none")
    if isinstance(loss, refloss.MagFace):
        angles.append(math.pi - loss.u_m)
    if isinstance(loss, refloss.AdaFace):  # of v = -1 and of v = 1
        angles += [math.pi - loss.eps - loss.m, loss.eps + loss.m]
    if rule == "easy":
        angles.append(math.pi / 2)
    if rule == "conditional" and m3 <= 1.0:
        angles.append(math.acos(m3))
    if rule == "min" and m1 == 1.0 and m3 < 2.0 * math.sin(m2 / 2):
        angles.append(math.pi - m2 / 2 + math.asin(m3 / (2 * math.sin(m2 / 2))))
    return [theta for theta in angles if 0.0 < theta < math.pi]


def angles(loss: Any) -> SearchStrategy[float]:
    """Angles of the target: ordinary, towards 0 and pi, at the ends, on and beside every kink of the curve."""
    special = [0.0, math.pi, *TINY, *ON_AXES, *(math.pi - tiny for tiny in TINY[:4])]
    special += [min(max(theta + side, 0.0), math.pi) for theta in kinks(loss) for side in BESIDE]
    return st.floats(0.05, 3.1) | st.sampled_from(special)


# ---------------------------------------------------------------------------------------------------------------- heads


@st.composite
def heads(
    draw: Draw, loss: Any, classes: int | None = None, ignored: bool = False, lengths: bool = True
) -> tuple[Array, Array, Array]:
    """x (N, D), w (C, D) and y (N,) for a loss, every embedding placed with regard to its own class.

    N is 1 to 3, C 1 to 5 (or as given), D 1 to 8. Some have identical classes, another class on top of an embedding,
    and, with `lengths`, rows from 1e-200 to 1e200 long, by powers of two or not, and embeddings long enough to be sure.
    """
    n, c = draw(st.integers(1, 3)), classes or draw(st.integers(1, 5))
    d = draw(st.integers(1, 8))
    w = draw(matrices(c, d))
    y = np.array(draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n)))
    places = [draw(st.sampled_from(("dense", "dense", "axes", "parallel", "anywhere"))) for _ in range(n)]
    for label, place in zip(y, places, strict=True):
        if place == "axes":
            w[label] = np.eye(d)[0] * draw(st.sampled_from((1.0, 0.75, 1 / 3)))
        elif place == "parallel":
            w[label] = draw(vectors(d, QUARTERS))
    x = np.array([draw(_placed(place, loss, w[label])) for label, place in zip(y, places, strict=True)])
    if draw(st.booleans()):
        _crowd(draw, x, w, y)
    if lengths and draw(st.booleans()):
        _lengthen(draw, loss, x, w)
    if ignored:
        y = np.where([draw(st.integers(0, 3)) == 0 for _ in y], IGNORED, y)
    return x, w, y


@st.composite
def _placed(draw: Draw, place: str, loss: Any, w: Array) -> Array:
    """An embedding of ordinary length for a class w."""
    if place == "anywhere" or (place == "dense" and len(w) == 1):
        return draw(vectors(len(w)))
    if place == "parallel":  # short times short: exactly parallel, also where w is not short
        return draw(st.sampled_from((1.0, 3.0, -1.0, -3.0, 0.75))) * w
    if place == "axes":
        x = np.zeros(len(w))
        x[-1] = draw(st.sampled_from((*ON_AXES, *TINY, 0.0)))
        x[0] = draw(st.sampled_from((1.0, -1.0, 1.25)))
        return x
    theta = draw(angles(loss))
    unit = w / np.linalg.norm(w)
    across = draw(vectors(len(w)))
    across -= across @ unit * unit
    if np.linalg.norm(across) < 1e-3:
        least = int(np.abs(unit).argmin())
        across = np.eye(len(w))[least] - unit[least] * unit
    x: Array = math.cos(theta) * unit + math.sin(theta) * across / np.linalg.norm(across)
    return x


def _crowd(draw: Draw, x: Array, w: Array, y: Array) -> None:
    """Put another class where one already is: on a class, on an embedding, opposite all."""
    k = draw(st.integers(0, len(w) - 1))
    if k in y:
        return
    where = draw(st.sampled_from(("class", "embedding", "beside", "opposite")))
    if where == "class":
        w[k] = w[y[0]]
    elif where == "embedding":
        w[k] = x[0]
    elif where == "beside":
        w[k] = x[0] + 1e-9 * w[k]
    else:
        w[k] = -w[y[0]]


def _lengthen(draw: Draw, loss: Any, x: Array, w: Array) -> None:
    """Change the lengths of x, w, or a row of either, in place.

    Where logits grow with the length their product stays below 1e300, and gradients in the range of float64.
    """
    which = draw(st.sampled_from(("x", "w", "a row of x", "a row of w")))
    target = x if which.endswith("x") else w
    rows: Any = draw(st.integers(0, len(target) - 1)) if which.startswith("a row") else slice(None)
    power = draw(st.booleans())
    size = draw(st.sampled_from((*HUGE, 30.0, 300.0, 340.0)))
    target[rows] *= 2.0 ** round(math.log2(size)) if power else size


@st.composite
def cases(
    draw: Draw, settings: bool = True, ignored: bool = True, lengths: bool = True, **fixed: Any
) -> tuple[Any, Any]:
    """A margin loss and inputs for it: (loss, (x, w, y))."""
    classes = draw(st.integers(1, 5))
    loss = draw(losses(settings, classes, **fixed))
    return loss, draw(heads(loss, classes, ignored, lengths))


BOUNDS = (1.0, 1.5, 2.5, 3.0, 10.0, 100.0, 110.0)
"""Lengths at which a number by length of `BY_LENGTH` is held."""


@st.composite
def length_cases(draw: Draw, settings: bool = True, ignored: bool = True) -> tuple[Any, Any]:
    """A loss with margins by length and inputs for it, some rows as long as a bound, or nearly: (loss, (x, w, y))."""
    loss, (x, w, y) = draw(cases(settings, ignored, lengths=False, among=BY_LENGTH))
    for n, row in enumerate(x):
        place, bound = draw(st.sampled_from(("as it is", "between", "on it", "beside"))), draw(st.sampled_from(BOUNDS))
        if place == "between":
            x[n] *= draw(st.floats(0.5, 2.0)) * bound / np.linalg.norm(row)
        elif place != "as it is":
            at = int(np.abs(row).argmax())
            x[n] = np.sign(row[at]) * bound * np.eye(len(row))[at]
            x[n, at - 1] += bound * draw(st.sampled_from((1e-9, 1e-18, 1e-30))) if place == "beside" else 0.0
    return loss, (x, w, y)


@st.composite
def given_cases(draw: Draw, settings: bool = True, ignored: bool = True) -> tuple[Any, Any]:
    """A loss whose margins are given: ordinary ones of both signs, and those that put φ onto 0 and π."""
    loss, (x, w, y) = draw(cases(settings, ignored, lengths=False, among=PER_SAMPLE))
    most = 2.0 if isinstance(loss, refloss.CosFace) else math.pi
    m1, _, _ = margins_of(loss)
    margins = []
    for row, label in zip(x, y, strict=True):
        m = draw(st.floats(-most, most) | st.sampled_from((0.0, 0.5, -0.5, most, -most)))
        if label != IGNORED and draw(st.booleans()):
            cos = float(row @ w[label] / np.linalg.norm(row) / np.linalg.norm(w[label]))
            theta = math.acos(min(max(cos, -1.0), 1.0))
            edge = cos if most == 2.0 else draw(st.integers(0, 2)) * math.pi - m1 * theta
            m = min(max(edge + draw(st.sampled_from(BESIDE)), -most), most)
        margins.append(m)
    return loss, (x, w, y, np.array(margins))


@st.composite
def center_cases(draw: Draw, settings: bool = True, ignored: bool = True) -> tuple[Any, Any]:
    """A loss with centers and inputs for it, w (C, K, D): centers anywhere, equal, opposite, or next to each other."""
    loss, (x, w, y) = draw(cases(settings, ignored, lengths=False, among=CENTERS))
    built = np.repeat(w[:, None, :], loss.centers, axis=1)
    for k, j in np.ndindex(len(w), loss.centers - 1):
        place = draw(st.sampled_from(("anywhere", "multiple", "entries in another order", "beside")))
        if place == "anywhere":
            built[k, j + 1] = draw(
                st.sampled_from(list(x[np.any(x, axis=1) & np.isfinite(x).all(axis=1)] / 2.0) or [w[k]])
            )
        elif place == "multiple":
            built[k, j + 1] *= draw(st.sampled_from((-1.0, 2.0, 0.25, 3.0)))
        elif place == "entries in another order":
            built[k, j + 1] = draw(st.permutations(w[k].tolist()))
        else:
            at = int(np.abs(w[k]).argmax())
            built[k, j + 1, at] *= 1.0 + draw(st.sampled_from((-(2.0**-52), 2.0**-52, 1e-12)))
    return loss, (x, built, y)


@st.composite
def curve_cases(draw: Draw, settings: bool = True, ignored: bool = True) -> tuple[Any, Any]:
    """A loss with curves of other classes and inputs for it: classes next to an embedding and opposite, tied, at -m."""
    loss, (x, w, y) = draw(cases(settings, ignored, lengths=False, among=CURVES))
    for k in set(range(len(w))) - set(y.tolist()):
        row = x[draw(st.integers(0, len(x) - 1))]
        place = draw(st.sampled_from(("as it is", "on a line", "nearly on a line", "entries in another order", "-m")))
        if place == "on a line":
            w[k] = draw(st.sampled_from((1.0, -1.0, 3.0, -0.75))) * row
        elif place == "nearly on a line":
            apart = draw(st.sampled_from((2.0**-10, 1e-4, 1e-8, 1e-12, 0.12)))
            w[k] = draw(st.sampled_from((1.0, -1.0))) * row + apart * w[k]
        elif place == "entries in another order":
            w[k] = draw(st.permutations(w[draw(st.integers(0, len(w) - 1))].tolist()))
        elif place == "-m":
            unit = row / np.linalg.norm(row)
            across = w[k] - w[k] @ unit * unit
            m = min(getattr(loss, "m", 0.0), 1.0)
            if np.linalg.norm(across) > 1e-3:
                w[k] = math.sqrt(1.0 - m * m) * across / np.linalg.norm(across) - m * unit
    return loss, (x, w, y)


QUESTIONS = [
    *(refloss.SphereFace2(m=m, t=t, s=s) for m, t, s in ((0.4, 3, 40.0), (0.0, 1, 1.0), (2.0, 5, 8.0))),
    refloss.SphereFace2(t=2, s=30.0, alpha=0.25, weight=1.0),
    refloss.UniFace(),
    refloss.UniFace(m=0.0, s=8.0, l=0.5),
    refloss.UniFace(m=1.0, s=1.0, l=3.0),
    refloss.UniFace(m=2.0, s=0.01, l=0.0),
]
"""Losses on labels whose classes are questions of their own."""
PAIRS = [refloss.SigLIP(), refloss.InfoNCE(), refloss.InfoNCE(ways=1)]


@st.composite
def link_cases(draw: Draw, among: Sequence[Any] = (*QUESTIONS, *PAIRS), ignored: bool = True) -> tuple[Any, Any]:
    """A loss on scaled cosines that does not end in one cross entropy, and inputs for it.

    (loss, (x, w, y)) or (loss, (x, w, y, b)) with a b that puts a logit onto a bound, or beside it; of pairs, each of
    an embedding and the class it was placed for, (loss, (x, w, t, b)) or (loss, (x, w, s)).
    """
    loss = replace(draw(st.sampled_from(list(among))), reduction=draw(st.sampled_from(("mean", "sum", "none"))))
    of_labels = hasattr(loss, "ignore_index")
    x, w, y = draw(heads(refloss.NormFace(), ignored=ignored and of_labels, lengths=False))
    b = draw(st.sampled_from((0.0, 1.5, -10.0, 3.3, 40.0)))
    if not of_labels:
        scale = draw(st.sampled_from((10.0, 1.0, 0.01, 100.0)))
        return loss, (x, w[y], scale, *((b,) if isinstance(loss, refloss.SigLIP) else ()))
    loss = replace(loss, gradient=draw(st.sampled_from(("exact", "exact", "detached"))))
    if draw(st.booleans()):
        return loss, (x, w, y)
    if draw(st.booleans()) and y[0] != IGNORED:
        cos = float(x[0] @ w[y[0]] / np.linalg.norm(x[0]) / np.linalg.norm(w[y[0]]))
        b = loss.s * (cos - loss.m + draw(st.sampled_from((1.0, -1.0)))) + draw(st.sampled_from(BESIDE))
    return loss, (x, w, y, b)


@st.composite
def linear_cases(draw: Draw, lengths: bool = True) -> tuple[Any, Any]:
    """The softmax loss and inputs for it, with and without a bias: (loss, (x, w, y)) or (loss, (x, w, y, b))."""
    classes = draw(st.integers(1, 5))
    loss = refloss.SoftmaxLoss(**draw(shared(classes)))
    x, w, y = draw(heads(loss, classes, ignored=True, lengths=lengths))
    if draw(st.booleans()):
        return loss, (x, w, y)
    entries = QUARTERS | LONG | st.sampled_from((30.0, -500.0))
    return loss, (x, w, y, np.array(draw(st.lists(entries, min_size=classes, max_size=classes))))


# ---------------------------------------------------------------------------------------------------------- divergences


@st.composite
def divergences(draw: Draw, masked: bool = True) -> tuple[Any, tuple[Array, Array]]:
    """A divergence and its logits: anywhere, near each other, a constant apart, equal; masked on one side or both."""
    reduction = draw(st.sampled_from(("mean", "sum", "none")))
    loss = refloss.KLDivergence(form=draw(st.sampled_from(FORMS)), reduction=reduction)
    target = draw(logits(masked=masked))
    classes = target.shape[1]
    apart = draw(matrices(len(target), classes))
    match draw(st.sampled_from(("anywhere", "near", "a constant apart", "one class apart"))):
        case "near":
            z = target + np.ldexp(apart, -draw(st.integers(1, 60)))
        case "a constant apart":
            z = target + draw(st.sampled_from((0.0, 0.25, -1000.0)))
        case "one class apart":
            z = target + draw(st.sampled_from((1e-3, 1.0, -40.0, 800.0))) * (np.arange(classes) == 0)
        case _:
            z = draw(st.sampled_from((1.0, 30.0))) * apart
    if masked and classes > 1 and draw(st.booleans()):
        z[:, draw(st.integers(1, classes - 1))] = -np.inf
    z[np.isneginf(z).all(axis=1), 0] = 0.0
    return loss, (z, target)


# ------------------------------------------------------------------------------------------------------------- triplets


@st.composite
def triplets(draw: Draw) -> tuple[Any, tuple[Array, Array, Array]]:
    """The triplet loss and its points: anywhere, coincident, close together, next to the hinge."""
    m, squared = draw(st.sampled_from((0.2, 0.0, 0.25, 1.0))), draw(st.booleans())
    loss = refloss.Triplet(m=m, squared=squared, reduction=draw(st.sampled_from(("mean", "sum", "none"))))
    n, d = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    anchor, positive, negative = (draw(matrices(n, d)) for _ in range(3))
    for a, p, q in zip(anchor, positive, negative, strict=True):
        match draw(st.sampled_from(("anywhere", "on the positive", "on the negative", "all one", "close", "hinge"))):
            case "on the positive":
                p[:] = a
            case "on the negative":
                q[:] = a
            case "all one":
                p[:] = q[:] = a
            case "close":
                p[:], q[:] = a + 1e-9 * p, a - 1e-9 * q
            case "hinge":  # on it, or an ulp to either side
                a[0] = p[0] = 0.0
                p[1:], q[1:] = a[1:], a[1:]
                q[0] = math.sqrt(m) if squared else m
                q[0] = np.nextafter(q[0], draw(st.sampled_from((q[0], -10.0, 10.0))))
    size = draw(st.sampled_from((1.0, 1.0, 1.0, 1e-100, 1e-30, 1e30, 1e100)))
    return loss, (size * anchor, size * positive, size * negative)
