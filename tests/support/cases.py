"""Hard inputs by name, for every loss, each built on purpose. Used by test_chain.py and by .ci/record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import refloss
from support import nearest, thresholds

Inputs = tuple[Any, ...]
Random = np.random.Generator

RULES = ("none", "hard", "easy", "keep", "continuous", "monotone", "clamp", "min")

HEADS: tuple[Any, ...] = (
    refloss.ModifiedSoftmax(),
    refloss.NormFace(),
    refloss.NormFace(s=1.0),
    refloss.ASoftmax(),
    refloss.ASoftmax(m=2, s=30.0),
    refloss.ASoftmax(m=3, annealing=5.0),
    refloss.ASoftmax(m=1.5, boundary="none"),
    refloss.CosFace(),
    refloss.CosFace(boundary="conditional"),
    *(refloss.ArcFace(boundary=rule) for rule in RULES),
    refloss.ArcFace(s=4.0, label_smoothing=0.1),
    refloss.ArcFace(s=None),
    refloss.ArcFace(gradient="detached", boundary="hard"),
    refloss.CombinedMargin(),
    *(refloss.CombinedMargin(m1=1.35, m2=0.3, m3=0.2, boundary=rule) for rule in (*RULES[1:], "conditional")),
    refloss.CombinedMargin(m1=0.9, m2=0.4, m3=0.15, class_weight=(1.0, 2.0, 0.5, 3.0, 1.5)),
    refloss.AdaFace(),
    refloss.AdaFace(m=0.5, h=1.0, mean=2.0, std=0.5 - 2.0**-10, eps=2.0**-10),  # v = -1 at 1.5 and 1 at 2.5
    refloss.AdaFace(m=0.5, h=1.0, mean=2.0, std=0.5, s=None, gradient="detached"),
    refloss.MagFace(),
    refloss.MagFace(l_a=1.0, u_a=3.0),
    refloss.MagFace(l_a=1.0, u_a=3.0, l_m=0.0, boundary="hard", s=None, class_weight=(1.0, 2.0, 0.5, 3.0, 1.5)),
    refloss.MagFace(l_a=1.0, u_a=3.0, boundary="monotone", s=4.0, label_smoothing=0.1, regularizer=1e-3),
    refloss.MagFace(l_a=1.0, u_a=3.0, gradient="detached"),
    refloss.CurricularFace(),
    refloss.CurricularFace(t=0.3),
    refloss.CurricularFace(t=-0.7, s=None, boundary="easy"),
    refloss.CurricularFace(t=1.0, s=4.0, gradient="detached", label_smoothing=0.1),
    refloss.MVSoftmax(),
    refloss.MVSoftmax(margin="arc", m=0.5, t=3.0),
    refloss.MVSoftmax(m=0.0, s=None, boundary="none"),
    refloss.MVSoftmax(m=0.25, s=8.0, gradient="detached", class_weight=(1.0, 2.0, 0.5, 3.0, 1.5)),
    refloss.SubCenterArcFace(),
    refloss.SubCenterArcFace(centers=1, s=16.0),
    refloss.SubCenterArcFace(m=0.3, centers=2, s=None, boundary="hard", class_weight=(1.0, 2.0, 0.5, 3.0, 1.5)),
    refloss.SubCenterArcFace(centers=4, s=4.0, gradient="detached", label_smoothing=0.1),
    refloss.SphereFaceR(),
    refloss.SphereFaceR(m=4.0, s=None, gradient="detached"),
    refloss.SphereFaceR(version=2),
    refloss.SphereFaceR(m=3.0, version=2, s=8.0, label_smoothing=0.1),
    refloss.SphereFaceR(version=2, s=None, gradient="detached", class_weight=(1.0, 2.0, 0.5, 3.0, 1.5)),
    refloss.CircleLoss(),
    refloss.CircleLoss(m=0.0, s=8.0, label_smoothing=0.1),
    refloss.CircleLoss(s=None, gradient="detached", class_weight=(1.0, 2.0, 0.5, 3.0, 1.5)),
    refloss.InterTopK(),
    refloss.InterTopK(m=0.5, penalty=1.0, k=2, s=8.0, boundary="hard", label_smoothing=0.1),
    refloss.InterTopK(m=0.0, k=1, s=None, boundary="none", class_weight=(1.0, 2.0, 0.5, 3.0, 1.5)),
    refloss.InterTopK(k=3, gradient="detached"),
    refloss.SoftmaxLoss(),
    refloss.SoftmaxLoss(logit_scale=0.5, softcap=30.0, z_loss=1e-3),
)


def heads(loss: Any, random: Random) -> Iterator[tuple[str, Inputs]]:
    """Every named case of a head: (name, (x, w, y)); of the plain head also (x, w, y, b), of given margins m also m.

    Of classes with centers, w (C, K, D).
    """
    if isinstance(loss, refloss.SubCenterArcFace):
        for name, inputs in _of_classes(loss, random):
            yield name, with_centers(loss.centers, random, *inputs)
        yield from centers(loss.centers, random)
        return
    yield from _of_classes(loss, random)
    if type(loss).__name__ == "SoftmaxLoss":
        yield "with a bias", (*ordinary(random), random.standard_normal(5) * 30.0)
    if isinstance(loss, (refloss.ArcFace, refloss.CosFace, refloss.CombinedMargin)):
        yield from given_margins(loss, random)
    if isinstance(loss, (refloss.AdaFace, refloss.MagFace)):
        yield from lengths(loss, random)
    if isinstance(loss, (refloss.SphereFaceR, refloss.CircleLoss, refloss.InterTopK)):
        yield from other_classes(random)
    if isinstance(loss, refloss.InterTopK):
        yield "classes built onto the k-th largest", nearest.near(random, 4, 4)
        x, w, y = nearest.ties()
        yield "classes with equal cosines", (x, w[:5], y)
    if isinstance(loss, refloss.CircleLoss):
        yield "classes built onto -m", thresholds.near(loss, random, 3)
        x, w, y = thresholds.at_minus(loss.m)
        yield "classes at -m", (x, w[:5], y)
    if isinstance(loss, (refloss.CurricularFace, refloss.MVSoftmax)):
        yield "classes built onto the threshold", thresholds.near(loss, random, 3)
        if getattr(loss, "margin", "arc") == "am" and loss.m in (0.0, 0.25):
            x, w, y = thresholds.ties(loss.m)
            yield "classes on the threshold", (x, w[[0, 1, 2, 3, 5]], y)


def _of_classes(loss: Any, random: Random) -> Iterator[tuple[str, Inputs]]:
    """The cases that all heads have, with one row of w per class."""
    for name, theta in angles(loss).items():
        yield name, at_angle(random, theta)
    for name, theta in {"1e-8": 1e-8, "1e-17": 1e-17, "1e-300": 1e-300, "pi - 1e-8": math.pi - 1e-8}.items():
        yield f"theta = {name}, axes", on_axes(theta)
    for name, change in PLACED.items():
        yield name, change(random)


def angles(loss: Any) -> dict[str, float]:
    """Target angles by name: towards 0, towards pi, and around every multiple of pi of the margin's own angle."""
    thetas = {f"theta = {t:g}": t for t in (1.0, 1e-2, 1e-4, 1e-6, 1e-8, 1e-12)}
    thetas |= {f"theta = pi - {t:g}": math.pi - t for t in (1e-2, 1e-4, 1e-8)}
    multiplied = isinstance(loss, refloss.ASoftmax) or getattr(loss, "version", 2) == 1
    m1 = getattr(loss, "m1", loss.m if multiplied else 1.0)
    arcs = refloss.ArcFace, refloss.CurricularFace, refloss.SubCenterArcFace, refloss.InterTopK
    on_angle = isinstance(loss, arcs) or getattr(loss, "margin", "") == "arc"
    m2 = getattr(loss, "m2", loss.m if on_angle else 0.0)
    for k in range(1, int((m1 * math.pi + m2) / math.pi) + 1):
        for side in (-1e-3, -1e-8, 0.0, 1e-8, 1e-3):
            if 0.0 < (theta := (k * math.pi - m2) / m1 + side) < math.pi:
                thetas[f"phi = {k} pi {side:+g}"] = theta
    if "easy" in repr(loss):
        thetas |= {f"theta = pi/2 {side:+g}": math.pi / 2 + side for side in (-1e-8, 1e-8)}
    return thetas


def other_classes(random: Random) -> Iterator[tuple[str, Inputs]]:
    """Other classes whose angle no cosine tells: parallel and opposite, nearly so, and where cosines begin to tell."""
    x, w, _ = ordinary(random)
    w[1], w[2], w[3] = 2.0 * x[0], -0.5 * x[0], x[1] * (1.0 + 2.0**-30)
    yield "other classes parallel and opposite", (x, w, np.array([0, 4]))
    for name, apart in {"1e-4": 1e-4, "1e-8": 1e-8}.items():
        _, across, _ = ordinary(random)
        w = np.array([1.0, 1.0, -1.0, -2.0, 0.5])[:, None] * x[0] + apart * across
        yield f"other classes at about {name} and pi - {name}", (x, w, np.array([4, 1]))
    for theta in (1e-17, 1e-300):
        x, w, _ = on_axes(theta)
        w[1] = [-math.cos(theta), 0.0, math.sin(theta)]
        yield f"other classes at {theta:g} and pi - {theta:g}, axes", (x, w, np.array([4, 3]))
    edge = math.acos(1.0 - 2.0**-7)
    angles = edge + np.array([-1e-9, 1e-9, 1e-3])
    w = np.column_stack([np.cos(angles), np.sin(angles)])
    yield "other classes at |c| = 1 - 2^-7", ([[1.0, 0.0], [-2.0, 0.0]], [*w, [0.3, 1.0], [-1.0, 1.0]], [3, 4])


def given_margins(loss: Any, random: Random) -> Iterator[tuple[str, Inputs]]:
    """Margins of both signs: ordinary ones, at small and large angles, and such that the target is at a boundary."""
    x, w, y = ordinary(random, 4)
    yield "margins given", (x, w, y, random.uniform(-1.0, 1.5, 4))
    for name, theta in {"1e-8": 1e-8, "pi - 1e-5": math.pi - 1e-5}.items():
        yield f"theta = {name}, margins given", (*at_angle(random, theta, 3), np.array([0.5, -0.5, 0.0]))
    yield "exactly parallel, margins given", (*_parallel(1.0)(random), np.array([0.4, -0.4]))
    m1, sides = getattr(loss, "m1", 1.0), np.array([-1e-3, -1e-8, 0.0, 1e-8, 1e-3])
    for theta in (0.7, 2.0, 3.0):
        x, w, y = at_angle(random, theta, 5)
        if isinstance(loss, refloss.CosFace):
            yield f"theta = {theta:g}, cos theta = m, margins given", (x, w, y, math.cos(theta) + sides)
            continue
        for k in range(4):
            margin = k * math.pi - m1 * theta
            if abs(margin) <= math.pi - 1e-3:
                yield f"theta = {theta:g}, phi = {k} pi, margins given", (x, w, y, margin + sides)


def lengths(loss: Any, random: Random) -> Iterator[tuple[str, Inputs]]:
    """Embeddings as long as the bounds, and nearly; short and long ones at the edges of the rule."""
    if isinstance(loss, refloss.MagFace):
        bounds, edges = [loss.l_a, loss.u_a], [math.pi]
    else:
        width = (loss.std + loss.eps) / loss.h
        bounds, edges = [1e-3, 100.0, loss.mean - width, loss.mean + width], [loss.eps, math.pi - loss.eps]
    for bound in bounds:
        if bound > 0.0:
            yield f"|x| = {bound:g} and next to it", _next_to(bound, random)
    if bounds[1] == 110.0:
        _, w, y = ordinary(random, 3, 5, 3)
        yield "|x| = 110 (1 + 4e-19), 110 (1 + 4e-37), 110", ([[66.0, 88.0, t] for t in (1e-7, 1e-16, 0.0)], w, y)
    for length in (1e-2 * max(min(bounds), 1e-3), 1e2 * max(bounds)):
        for name, theta in {"1e-8": 1e-8, "pi - 1e-5": math.pi - 1e-5}.items():
            yield f"theta = {name}, |x| = {length:g}", _of_length(length, at_angle(random, theta))
        for edge in edges:
            for side in (-1e-3, -1e-8, 0.0, 1e-8, 1e-3):
                if 0.0 < (theta := edge - _added(loss, length) + side) < math.pi:
                    yield f"phi = {edge:g} {side:+g}, |x| = {length:g}", _of_length(length, at_angle(random, theta))


def _next_to(bound: float, random: Random) -> Inputs:
    """Lengths of exactly that, beyond it by 4e-19 and 4e-37 of it, an ulp to either side, and next to it from below."""
    below, above = np.nextafter(bound, 0.0), np.nextafter(bound, np.inf)
    across = math.sqrt((bound - below) * (bound + below))
    rows = [[bound, 0.0], [bound, 1e-9 * bound], [bound, 1e-18 * bound], [below, 0.0], [above, 0.0], [below, across]]
    rows += [[below, (1.0 - 2.0**-40) * across], [below, (1.0 + 2.0**-40) * across]]
    x = np.zeros((len(rows), 4))
    x[:, [1, 2]] = rows
    _, w, y = ordinary(random, len(rows))
    return x, w, y


def _of_length(length: float, inputs: Inputs) -> Inputs:
    x, w, y = inputs
    return x * (length / np.linalg.norm(x, axis=1))[:, None], w, y


def _added(loss: Any, length: float) -> float:
    """The margin on the angle of an embedding of a length, as float64 has it."""
    if isinstance(loss, refloss.MagFace):
        share = (min(max(length, loss.l_a), loss.u_a) - loss.l_a) / (loss.u_a - loss.l_a)
        return loss.l_m + share * (loss.u_m - loss.l_m)
    v = loss.h * (min(max(length, 1e-3), 100.0) - loss.mean) / (loss.std + loss.eps)
    return -loss.m * min(max(v, -1.0), 1.0)


def with_centers(count: int, random: Random, x: Any, w: np.ndarray, y: np.ndarray) -> Inputs:
    """Classes of so many centers, one of which is the row of w.

    Others of a label's class are multiples of it by powers of two, which leave the angle as it is, or opposite to it
    where that is further away; those of other classes are normal.
    """
    labels = np.asarray(y).tolist()
    sizes = np.abs(w).max(axis=1)
    built = sizes[:, None, None] * random.standard_normal((len(w), count, w.shape[1]))
    built[np.arange(len(w)), random.integers(0, count, len(w))] = w
    for row, k in zip(np.asarray(x), labels, strict=True):
        acute = (row / np.abs(row).max()) @ (w[k] / sizes[k]) > 0.0
        factors = np.ldexp(1.0, np.arange(count))
        factors[1::2] *= -1.0 if acute else 1.0
        built[k] = random.permutation(factors)[:, None] * w[k]
    return x, built, y


def centers(count: int, random: Random) -> Iterator[tuple[str, Inputs]]:
    """Centers that are equal, or nearly: which of a class is nearest decides where its gradient goes."""
    x, w, y = ordinary(random, 3)
    alike = np.repeat(w[:, None, :], count, axis=1)
    yield "equal centers", (x, alike, y)
    yield "centers that are multiples of one", (x, alike * np.arange(count, 0, -1)[:, None], y)
    yield "antiparallel centers", (x, alike * (1.0 - 2.0 * (np.arange(count) % 2))[:, None], y)
    beside = alike.copy()
    for j in range(1, count):
        beside[np.arange(5), j, random.integers(0, 4, 5)] *= 1.0 + (-1) ** j * 2.0**-52
    yield "centers within an ulp", (x, beside, y)
    orders = np.array([[1.0, 2.0, 3.0, 5.0], [5.0, 1.0, 3.0, 2.0], [2.0, 5.0, 1.0, 3.0], [3.0, 2.0, 5.0, 1.0]])
    signs = np.array([1.0, -1.0, 1.0, -1.0, 1.0])[:, None, None]
    yield (
        "centers of the same entries in other orders",
        (np.array([[1.0] * 4, [-0.3] * 4]), signs * orders[:count], [0, 1]),
    )
    x, near = np.array([[1.0, 2.0**-40, 0.3], [-1.0, 2.0**-40, 0.4]]), np.zeros((3, count, 3))
    near[:, :, 0], near[2, :, 2] = 1.0, -0.5
    near[:, :, 1] = 2.0**-60 * (np.arange(count) % 3 - 1.0)  # 2^-100 to either side of the first
    yield "centers within 2^-100", (x, near, np.array([0, 2]))
    across = np.array([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 3.0], [0.0, 1.0, 1.0]])[:count]
    yield "centers at right angles to x", (np.array([[2.0, 0.0, 0.0]]), np.stack([across, -across, across + 0.5]), [1])
    yield "one class", (x, near[:1], np.array([0, 0]))


def ordinary(random: Random, n: int = 2, c: int = 5, d: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal embeddings and weights, random labels."""
    return random.standard_normal((n, d)), random.standard_normal((c, d)), random.integers(0, c, n)


def at_angle(random: Random, theta: float, n: int = 2, c: int = 5, d: int = 4) -> Inputs:
    """Ordinary, but every embedding makes the given angle with the weights of a class of its own."""
    x, w, _ = ordinary(random, n, c, d)
    y = random.permutation(c)[:n]
    for row, own in enumerate(y):
        unit = x[row] / np.linalg.norm(x[row])
        across = random.standard_normal(d)
        across -= across @ unit * unit
        across /= np.linalg.norm(across)
        w[own] = random.uniform(0.5, 2.0) * (math.cos(theta) * unit + math.sin(theta) * across)
    return x, w, y


def on_axes(theta: float) -> Inputs:
    """A target angle that dense vectors cannot hold: x on an axis, w next to it."""
    x = np.array([[1.5, 0.0, 0.0], [0.0, 0.0, 3.0]])
    cos, sin = math.cos(theta), math.sin(theta)
    w = [[cos, sin, 0.0], [0.3, -1.0, 0.2], [sin, 0.0, 0.7 * cos], [0.1, 0.2, -0.4], [1.0, 1.0, 1.0]]
    return x, np.array(w), np.array([0, 2])


def _scaled(x: float = 1.0, w: float = 1.0) -> Callable[[Random], Inputs]:
    def build(random: Random) -> Inputs:
        a, b, y = ordinary(random)
        return a * x, np.where(np.arange(5)[:, None] == y[0], b * w, b), y

    return build


def _parallel(sign: float) -> Callable[[Random], Inputs]:
    def build(random: Random) -> Inputs:
        x, w, _ = ordinary(random)
        x[0], w[2] = [3.0, 6.0, -9.0, 1.5], sign * np.array([1.0, 2.0, -3.0, 0.5])  # one is a third of the other
        return x, w, np.array([2, 4])

    return build


def _one_ulp(random: Random) -> Inputs:
    x, w, _ = ordinary(random)
    w[2] = 3.0 * np.round(x[0] * 1024) / 1024
    x[0] = w[2] / 3.0
    w[2, 1] = np.nextafter(w[2, 1], np.inf)
    return x, w, np.array([2, 4])


def _identical(random: Random) -> Inputs:
    x, w, y = ordinary(random)
    return x, np.tile(w[0], (5, 1)), y


def _near_others(random: Random) -> Inputs:
    x, w, _ = ordinary(random)
    w[1] = 2.0 * x[0] + 1e-8 * random.standard_normal(4)
    return x, w, np.array([0, 3])


def _confident(length: float) -> Callable[[Random], Inputs]:
    def build(random: Random) -> Inputs:
        x, w, y = at_angle(random, 0.05)
        x *= length / np.linalg.norm(x, axis=1)[:, None]
        mine = np.isin(np.arange(5), y)
        w[~mine] = -w[y[0]] + 0.1 * random.standard_normal((5 - len(set(y)), 4))
        return x[:1], w[(np.arange(5) == y[0]) | ~mine], np.array([int((~mine[: y[0]]).sum())])

    return build


def _at_multiples(random: Random) -> Inputs:
    """Target angles of exactly 45, 90 and 135 degrees: multiples of pi for a multiplied angle."""
    x, w, _ = ordinary(random, 3)
    x[:, 1:] = 0.0
    w[1], w[2], w[3] = [3.0, 3.0, 0.0, 0.0], [0.0, 0.0, 5.0, 0.0], [-0.5, 0.0, 0.5, 0.0]
    return x, w * np.sign(x[0, 0]), np.array([1, 2, 3])


PLACED: dict[str, Callable[[Random], Inputs]] = {
    "ordinary": ordinary,
    "exactly parallel": _parallel(1.0),
    "exactly antiparallel": _parallel(-1.0),
    "one ulp from parallel": _one_ulp,
    "exactly at 45, 90 and 135 degrees": _at_multiples,
    "|x| ~ 1e-200": _scaled(x=1e-200),
    "|x| ~ 1e-30": _scaled(x=1e-30),
    "|x| ~ 1e30": _scaled(x=1e30),
    "|w_y| ~ 1e-200": _scaled(w=1e-200),
    "|w_y| ~ 1e200": _scaled(w=1e200),
    "identical classes": _identical,
    "another class within 1e-8 of x": _near_others,
    "confident, |x| = 30": _confident(30.0),
    "confident, |x| = 340": _confident(340.0),
    "huge logits, |x| = 1e5": _scaled(x=1e5),
    "C = 1": lambda random: ordinary(random, 2, 1, 4),
    "D = 1": lambda random: ordinary(random, 3, 5, 1),
    "many samples on one class": lambda random: (*ordinary(random, 12, 5, 3)[:2], np.ones(12, int)),
}


def _constant(random: Random) -> Inputs:
    """All entries nearly the same: a sum of 1000 equal terms drifts in one direction wherever it is rounded."""
    x, w, y = ordinary(random, 3, 20, 1000)
    return 0.1 + 1e-9 * x, 0.3 + 1e-9 * w, y


WIDE: dict[str, Callable[[Random], Inputs]] = {
    "D = 512": lambda random: ordinary(random, 3, 30, 512),
    "D = 512, theta = 1e-6": lambda random: at_angle(random, 1e-6, 3, 30, 512),
    "D = 1000, all entries alike": _constant,
    "C = 500": lambda random: ordinary(random, 2, 500, 8),
    "N = 100 on one class": lambda random: (*ordinary(random, 100, 4, 8)[:2], np.zeros(100, int)),
}


def some_entries(random: Random, x: np.ndarray, w: np.ndarray, y: np.ndarray) -> dict[str, list[tuple[int, int]]]:
    """A few entries of the first sample's row, of its class and of another class."""
    columns = random.choice(x.shape[1], min(6, x.shape[1]), replace=False)
    rows = {"x": [0], "w": sorted({int(y[0]), (int(y[0]) + 1) % len(w)})}
    return {name: [(row, int(column)) for row in some for column in columns] for name, some in rows.items()}


def logits(random: Random, classes: int = 10) -> Iterator[tuple[str, Inputs]]:
    """Every named case of cross entropy on given logits."""
    yield "ordinary", (5.0 * random.standard_normal((4, classes)), random.integers(0, classes, 4))
    for gap in (5.0, 10.0, 20.0, 36.0, 50.0, 100.0, 300.0, 500.0, 700.0):
        z = random.uniform(-3.0, 3.0, (2, classes)) + 1.0
        z[:, 0] += gap
        yield f"confident, gap {gap:g}", (z, [0, 0])
        yield f"confidently wrong, gap {gap:g}", (z, [1, classes - 1])
    for size in (1e4, 1e8, 1e30):
        yield f"offset {size:g}", (size + 3.0 * random.standard_normal((2, classes)), [0, 1])
    yield "ties", (np.full((2, classes), 0.1), [0, 1])
    masked = random.standard_normal((2, classes))
    masked[:, 1::2] = -np.inf
    yield "masked classes", (masked, [0, 2 * ((classes - 1) // 2)])
    yield "all but the target masked", (np.where(np.arange(classes) == 1, 2.0, -np.inf)[None], [1])
    yield "C = 1", (random.standard_normal((3, 1)), [0, 0, 0])
    soft = random.dirichlet(np.full(classes, 0.3), 3)
    yield "soft targets", (7.0 * random.standard_normal((3, classes)), soft)
    yield "soft targets, not summing to 1", (7.0 * random.standard_normal((3, classes)), 3.0 * soft)


LINKS: tuple[Any, ...] = (
    refloss.SphereFace2(),
    refloss.SphereFace2(m=0.0, s=8.0, t=1, reduction="sum"),
    refloss.SphereFace2(m=1.0, s=1.0, t=30, alpha=0.5, weight=1.0, reduction="none"),
    refloss.SphereFace2(t=2, gradient="detached", weight=0.1),
    refloss.UniFace(),
    refloss.UniFace(m=1.0, s=8.0, l=0.25, reduction="none"),
    refloss.UniFace(m=0.0, s=1.0, l=0.0, gradient="detached"),
    refloss.SigLIP(),
    refloss.SigLIP(reduction="sum"),
    refloss.InfoNCE(),
    refloss.InfoNCE(ways=1, reduction="none"),
)


def links(loss: Any, random: Random) -> Iterator[tuple[str, Inputs]]:
    """Every named case of losses on scaled cosines that do not end in one cross entropy.

    Of x, w, y and a bias or none, or of pairs, whose w are those of the labels, a scale and a bias.
    """
    of_pairs = isinstance(loss, (refloss.SigLIP, refloss.InfoNCE))
    numbers = {"SigLIP": (10.0, -7.0), "InfoNCE": (20.0,)}.get(type(loss).__name__, (-2.5,))

    def given(inputs: Inputs, numbers: Inputs = numbers) -> Inputs:
        x, w, y = (np.asarray(it) for it in inputs)
        return (x, w[y], *numbers) if of_pairs else (x, w, y, *numbers)

    for name, change in PLACED.items():
        yield name, given(change(random))
    for theta in (1e-2, 1e-8, math.pi - 1e-8):
        yield f"theta = {theta:g}", given(at_angle(random, theta))
    for name, inputs in other_classes(random):
        yield name, given(inputs)
    x, w, _ = ordinary(random)
    inputs = (x, w, np.array([0, 3]))
    if of_pairs:
        for scale in (1e-300, 1e-3, 1.0, 500.0):
            yield f"a scale of {scale:g}", given(inputs, (scale, *numbers[1:]))
        yield "pairs alike", given((x[[0, 0]], w, np.array([1, 1])))
    if isinstance(loss, refloss.InfoNCE):
        return
    if not of_pairs:
        yield "no bias", inputs
    for b in (0.0, 30.0, -30.0, 700.0, -700.0, 1e300, -1e300):
        yield f"a bias of {b:g}", given(inputs, (*numbers[:-1], b))
    if isinstance(loss, refloss.UniFace):
        x, w = [[1.0, 0.0], [6.0, 8.0]], [[3.0, 0.0], [3.0, 4.0], [4.0, -3.0], [-1.0, 0.0]]
        for side in (-1.0, 1.0):
            for f in (1.0, 0.6, 1.0 - loss.m, 0.6 - loss.m, -1.0):
                yield f"f = {f:g}, a logit at {side:g} of the bound", (x, w, [0, 1], loss.s * (f - side))


CROSS_ENTROPIES: tuple[Any, ...] = (
    refloss.CrossEntropy(),
    refloss.CrossEntropy(reduction="sum"),
    refloss.CrossEntropy(reduction="none"),
    refloss.CrossEntropy(label_smoothing=0.1),
    refloss.CrossEntropy(label_smoothing=1e-6, reduction="sum"),
    refloss.CrossEntropy(softcap=30.0, z_loss=1e-4),
    refloss.CrossEntropy(logit_scale=0.25, softcap=50.0, z_loss=1.0, label_smoothing=0.1, reduction="none"),
)


def triplets(random: Random) -> Iterator[tuple[str, Inputs]]:
    """Every named case of the triplet loss."""
    a, p, n = random.standard_normal((3, 4, 5))
    yield "ordinary", (a, p, n)
    yield "negative nearer", (a, p, a + 0.1 * n)
    yield "coincident with the positive", (a, a.copy(), n)
    yield "coincident with the negative", (a, p, a.copy())
    yield "all the same", (a, a.copy(), a.copy())
    yield "close together", (a, a + 1e-9 * p, a + 1e-9 * n)
    for size in (1e-200, 1e-30, 1e30, 1e100):
        yield f"of size {size:g}", (size * a, size * p, size * n)
    leg = np.sqrt(0.45)  # 0.25 - 0.45 + 0.2 is 0 except for roundings
    near = np.array([[0.0, leg], [np.nextafter(leg, 0.0), 0.0]])
    yield "next to the hinge", (np.zeros((2, 2)), np.array([[0.5, 0.0], [0.5, 0.0]]), near)


TRIPLETS: tuple[Any, ...] = (
    refloss.Triplet(),
    refloss.Triplet(m=1.0, reduction="sum"),
    refloss.Triplet(squared=False, reduction="none"),
    refloss.Triplet(squared=False, m=0.0),
)


def divergences(random: Random) -> Iterator[tuple[str, Inputs]]:
    """Every named case of a divergence."""
    z, t, noise = random.standard_normal((3, 3, 5))
    last = np.eye(5)[4]
    yield "ordinary", (z, t)
    yield "wide", (10.0 * z, 10.0 * t)
    for k in (4, 20, 40, 52):
        yield f"2^-{k} apart", (t + np.ldexp(noise, -k), t)
    yield "1e-300 apart", (1e-300 * noise, np.zeros((3, 5)))
    yield "equal", (t, t.copy())
    grid = np.round(t * 16.0) / 16.0
    yield "a constant apart", (grid + np.array([[0.25], [1000.0], [-3.0]]), grid)
    yield "offsets", (np.round(z * 16.0) / 16.0 + 1000.0, grid - 1000.0)
    for gap in (5.0, 30.0, 800.0):
        yield f"a class {gap:g} above", (t + gap * last, t)
        yield f"a class {gap:g} below", (t - gap * last, t)
    yield (
        "apart where both are e^-700",
        (np.tile([0.0, 0.0, 0.0, -700.0, -3.0], (1, 1)), [[0.0, 0.0, 0.0, -705.0, -3.0]]),
    )
    yield "e^-121 above e^-921", ([[0.0, 0.0, -121.0]], [[0.0, 0.0, -921.0]])
    yield "confident", (z + 40.0 * last, z + 45.0 * last)
    for k in (2, 12, 24, 50):
        sure = np.array([[math.log(2.0**k - 1.0), 0.0]])
        yield f"confident, 1 - 2^-{k}", (sure + np.array([[0.25, 0.0]]), sure)
    yield "huge logits", (300.0 * t, 300.0 * z)
    hidden = np.where(np.arange(5) == 1, -np.inf, t)
    yield "masked in z", (hidden, z)
    yield "masked in the target", (z, hidden)
    yield "masked in both", (np.where(np.isinf(hidden), hidden, z), hidden)
    one, other = [[0.0, -np.inf, 1.0, -np.inf, 2.0]], [[-np.inf, 1.0, -np.inf, 2.0, -np.inf]]
    yield "no class in common", (one, other)
    yield "one class in common", ([[0.0, -np.inf, 1.0]], [[1.0, 2.0, -np.inf]])
    yield "one class each", ([[0.0, -np.inf]], [[-np.inf, 1.0]])
    yield "C = 1", (z[:, :1], t[:, :1])
    yield "many classes", (random.standard_normal((1, 40)), random.standard_normal((1, 40)))


DIVERGENCES: tuple[Any, ...] = (
    refloss.KLDivergence(),
    refloss.KLDivergence(form="reverse", reduction="none"),
    refloss.KLDivergence(form="jensen-shannon", reduction="sum"),
)


# ------------------------------------------------------------------------------------------- at the ends of the range

_MANY = np.array([[0.3, -1.2, 0.7], [1.1, 0.4, -0.2]])
_TWO = np.array([[1.0, 2.0], [3.0, 1.0]])

BEYOND: dict[str, tuple[Any, Inputs, Any]] = {
    "a mean of losses whose sum overflows": (refloss.CrossEntropy(), ([[0.0, 1.5e308]] * 2, [0, 0]), None),
    "a gap that overflows, little of it wanted": (
        refloss.CrossEntropy(label_smoothing=0.1),
        ([[1e308, -1e308]], [0]),
        None,
    ),
    "a mean of which a gap overflows": (refloss.CrossEntropy(), ([[1e308, -1e308], [1.0, 1.0]] * 2, [0, 1] * 2), 1e-9),
    "a masked class beside a gap that overflows": (
        refloss.CrossEntropy(class_weight=(1.0, 0.25, 1.0)),
        ([[1e308, -1e308, -np.inf], [0.0, 1.0, 2.0]], [1, 0]),
        None,
    ),
    "probabilities of 8e307": (refloss.CrossEntropy(), ([[0.0, 1.0]] * 2, [[8e307, 0.0]] * 2), None),
    "probabilities of 8e307 at a confident class": (refloss.CrossEntropy(), ([[0.0, -30.0]], [[8e307, 1e290]]), None),
    "probabilities of 1e-310": (refloss.CrossEntropy(), (_MANY, [[1e-310, 0.0, 3e-320], [0.0, 0.0, 0.0]]), 1e300),
    "a probability of 1e-310 of a logit of -1e308": (refloss.CrossEntropy(), ([[0.0, -1e308]], [[1.0, 1e-310]]), None),
    "weights of 1e300": (refloss.CrossEntropy(class_weight=(1e300, 1.7e308, 1.7e308)), (_MANY, [1, 2]), None),
    "weights of 1e-300": (refloss.CrossEntropy(class_weight=(1e-300, 3e-310, 2.0)), (_MANY, [0, 1]), None),
    "weights that a small one divides": (
        refloss.CrossEntropy(class_weight=(1e-300, 1e-300, 1e8), label_smoothing=1e-8),
        (_MANY, [0, 1]),
        None,
    ),
    "a weight of 1e300 at a loss of e^-800": (
        refloss.CrossEntropy(class_weight=(1e300, 1.0), reduction="sum"),
        ([[0.0, -800.0]], [0]),
        1e40,
    ),
    **{
        f"label smoothing {smoothing}": (
            refloss.CrossEntropy(label_smoothing=smoothing),
            ([[0.0, 100.0, 3.0]], [1]),
            None,
        )
        for smoothing in (5e-324, 1e-300, 1e-17, 1.0 - 1e-16, 1.0)
    },
    "upstream 1e308 at a probability of e^-800": (refloss.CrossEntropy(), ([[0.0, -800.0, -900.0]], [0]), 1e308),
    "upstream 5e-324": (refloss.CrossEntropy(class_weight=(1e-20, 1e-20)), ([[0.0, 1.0]] * 3, [0] * 3), 5e-324),
    "upstream of many sizes": (
        refloss.SoftmaxLoss(reduction="none"),
        (np.array([[1e-300, 2e-300], [1e290, -3e290], [1.0, 2.0]]), [[1.0, 2.0], [2.0, 1.0], [0.0, 0.0]], [0, 1, 2]),
        np.array([1e300, -1e-300, 1e-320]),
    ),
    "x of length 1e-200, upstream -1e-200": (refloss.SoftmaxLoss(), (1e-200 * _TWO[:1], _TWO, [0]), -1e-200),
    "x of length 1e-200, upstream -1e-200, directions": (
        refloss.NormFace(s=4.0),
        (1e-200 * _TWO[:1], _TWO, [0]),
        -1e-200,
    ),
    "x of length 1e-200 as scale, upstream -1e-200": (
        refloss.ModifiedSoftmax(),
        (1e-200 * _TWO[:1], _TWO, [0]),
        -1e-200,
    ),
    "x whose length overflows": (refloss.ModifiedSoftmax(), ([[1.7e308, -1.6e308]], _TWO, [0]), 1e-300),
    "a scale of 1e308": (
        refloss.NormFace(s=1e308),
        ([[1.0, 0.5], [1.0, 0.0]], [[1.0, 0.3], [-1.0, 0.7]], [0, 1]),
        None,
    ),
    "a scale of 5e-324": (refloss.ArcFace(s=5e-324), (1e-300 * _TWO, 1e-300 * _TWO, [0, 1]), 1e20),
    "a long class that does not count beside a short one": (
        refloss.SoftmaxLoss(class_weight=(1e-22, 1e280, 1.0), label_smoothing=0.5, reduction="none"),
        ([[-5e-301]] * 2, [[0.0], [0.0], [2e-267]], [0, 1], [0.0, 0.0, -900.0]),
        np.array([1e-90, 1e-250]),
    ),
    "classes of very different lengths next to x": (
        refloss.NormFace(s=1000.0, class_weight=(1e-300, 1e-300, 1e-300), reduction="sum"),
        ([[1e-300, 0.0]], [[1e300, 1e290], [2e-300, 1e-316], [1.0, 1e-300]], [0]),
        1e-5,
    ),
    "a divergence of logits whose ratios overflow": (
        refloss.KLDivergence(),
        ([[1e308, -1e308]] * 2, [[1.0, 1.0], [0.0, -900.0]]),
        None,
    ),
    "a divergence of logits of 1e308 on both sides": (
        refloss.KLDivergence(form="reverse"),
        ([[1e308, -1e308, 0.0], [1.0, 2.0, 3.0]], [[-1e307, 1e307, -np.inf], [3e307, 1.0, 1.0]]),
        -1e-300,
    ),
    "a Jensen-Shannon divergence of logits of 1e308": (
        refloss.KLDivergence(form="jensen-shannon", reduction="none"),
        ([[1e308, -1e308], [0.5, 0.25]], [[-1e308, 1e308], [1e308, 1e308]]),
        np.array([1.0, 1e300]),
    ),
    "upstream 1e300 at a probability of e^-800": (
        refloss.KLDivergence(reduction="sum"),
        ([[0.0, 1.0, -800.0]], [[0.0, 1.0, -801.0]]),
        1e300,
    ),
    "upstream 0 where a divergence is infinite": (
        refloss.KLDivergence(reduction="none"),
        ([[0.0, -np.inf, 1.0]] * 3, [[0.0, 0.0, 0.0]] * 3),
        np.array([0.0, -2.0, 3.0]),
    ),
    "x of lengths from 1e-120 to 1e271, the long ones confident": (
        refloss.SoftmaxLoss(),
        ([[-6.5e-120], [-5e228], [-2.4e271]], [[2.5], [-1.2]], [1, 1, 1]),
        2.0,
    ),
    "x of lengths from 1e-120 to 1e271 under a cap": (
        refloss.SoftmaxLoss(logit_scale=3.0, softcap=30.0),
        ([[-6.5e-120], [-5e228], [-2.4e271]], [[2.5], [-1.2]], [1, 0, 0]),
        2.0,
    ),
    "weights of 1e-200 beside 1e200, whose row is confident": (
        refloss.NormFace(s=2000.0, class_weight=(1e-200, 1e200), reduction="sum"),
        ([[1.0, 0.1], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [0, 1]),
        None,
    ),
    "an infinite logit under a cap of 450": (
        refloss.CrossEntropy(softcap=450.0, reduction="sum"),
        ([[1e-12, np.inf, -1e-12], [-np.inf, 1.0, 2.0]], [2, 1]),
        0.5,
    ),
    "a bias of 1e300": (refloss.SigLIP(reduction="sum"), (_TWO, _TWO, 3.0, 1e300), None),
    "a mean of answers whose sum overflows": (refloss.SigLIP(), (_TWO, _TWO, 1.0, 1.7e308), None),
    "upstream 1e308 at an answer of e^-800": (refloss.SigLIP(), ([[1.0, 0.0]], [[1.0, 0.1]], 3.0, 797.0), 1e308),
    "upstream 1e-200 of embeddings of length 1e-200, a scale of 1e-300": (
        refloss.SigLIP(reduction="none"),
        (1e-200 * _TWO, _TWO, 1e-300, 0.5),
        np.array([1e300, -1e-300]),
    ),
    "answers that weigh 2e306": (refloss.SphereFace2(s=1e-5, weight=2e301), (_MANY, _MANY, [0, 1], 1.0), 1e-300),
    "answers that weigh 1e-310": (refloss.SphereFace2(s=1e5, weight=1e-305), (_MANY, _MANY, [1, -100], 1.0), 1e300),
    "a bound of 5e-324": (refloss.UniFace(m=0.25, s=5e-324), (1e-300 * _TWO, 1e-300 * _TWO, [0, 1]), 1e20),
    "a bound of 1e308": (refloss.UniFace(s=1e308), (_TWO, _TWO, [1, 1], 1e307), None),
    "pairs at a scale of 1e308": (
        refloss.InfoNCE(),
        ([[1.0, 0.5], [1.0, 0.0]], [[1.0, 0.3], [-1.0, 0.7]], 1e308),
        None,
    ),
    "pairs of length 1e-200, upstream -1e-200": (refloss.InfoNCE(ways=1), (1e-200 * _TWO, _TWO, 4.0), -1e-200),
    "upstream 5e-324 of pairs": (refloss.InfoNCE(), (1e-300 * _TWO, _TWO[::-1], 1e300), 5e-324),
    "every row ignored": (
        refloss.SoftmaxLoss(reduction="none"),
        ([[1.5e10]], [[-4e-28]], [-100], [-6.6e14]),
        np.array([0.9]),
    ),
}
"""Inputs whose losses or gradients fit where what leads to them over- or underflows: loss, inputs, upstream."""


def extreme(random: Random) -> tuple[Any, Inputs, Any]:
    """A loss, its inputs and an upstream gradient, of which any may be at the ends of its range."""
    n, c, d = (int(size) for size in random.integers((1, 1, 1), (5, 6, 5)))
    settings: dict[str, Any] = {
        "reduction": _one_of(random, "mean", "sum", "none"),
        "label_smoothing": _one_of(random, 0.0, 0.0, 0.1, 1e-17, 1.0 - 1e-16, 1.0, 1e-300),
    }
    if random.random() < 0.4:
        sizes = random.uniform(0.3, 1.0, c) * _one_of(
            random, 1.0, 1.7e308, 1e-310, 10.0 ** random.uniform(-300, 300, c)
        )
        settings["class_weight"] = tuple(sizes * random.integers(0, 3, c).clip(max=1))
    shape = (n,) if settings["reduction"] == "none" else ()
    upstream = random.uniform(-1.0, 1.0, shape) * _size(random)
    y = random.integers(0, c, n)
    y[random.random(n) < 0.05] = -100
    kind = random.integers(5)
    if kind < 2:
        z = random.standard_normal((n, c)) * _one_of(
            random, 1.0, 300.0, 1000.0, 1e5, 10.0 ** random.uniform(-320, 307, (n, 1))
        )
        z[random.random((n, c)) < 0.05] = _one_of(random, -np.inf, -np.inf, np.nan, np.inf)
        soft = random.dirichlet(np.full(c, 0.3), n) * _one_of(random, 1.0, 8e307, 1e-310)
        return refloss.CrossEntropy(**settings), (z, soft if kind else y), upstream
    size, s = _size(random), _one_of(random, 1.0, 64.0, 2000.0, _size(random))
    if kind == 2:
        other = min(_one_of(random, 1.0, 100.0, 1000.0) / size, 1e307)
        return refloss.SoftmaxLoss(**settings), (_rows(random, n, d, size), _rows(random, c, d, other), y), upstream
    losses = refloss.ModifiedSoftmax(**settings), refloss.NormFace(s=s, **settings), refloss.ArcFace(s=s, **settings)
    return _one_of(random, *losses), (_rows(random, n, d, size), _rows(random, c, d, _size(random)), y), upstream


def _rows(random: Random, count: int, width: int, size: float) -> np.ndarray:
    """Rows of about a size, or of many; none is of zeros."""
    rows = random.uniform(-1.0, 1.0, (count, width)) * size
    if random.random() < 0.4:
        rows = rows * 10.0 ** random.uniform(-100.0, 0.0, (count, 1))
    if random.random() < 0.2:
        rows = rows * 10.0 ** random.uniform(-200.0, 0.0, (count, width))
    rows[~rows.any(axis=1)] = 5e-324
    return rows


def _one_of(random: Random, *choices: Any) -> Any:
    return choices[random.integers(len(choices))]


def _size(random: Random) -> float:
    return float(_one_of(random, 1.0, 1.0, 1e-300, 1e300, 1e-307, 1e307, 10.0 ** random.uniform(-300.0, 300.0)))
