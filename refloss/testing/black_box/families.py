"""The losses on directions that a black box may be, each with settings to begin a fit with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import refloss
from refloss.error_free import Array
from refloss.stages.margin import RULES, RULES_ON_ANGLE
from refloss.testing.black_box.curves import AS_IT_IS, Outer, Points, predicted, psi_of, terms_of

ANGLES = ("m2", "l_m", "u_m", "penalty")
"""Settings that are angles; m is one of some losses."""


class Start(NamedTuple):
    """A loss with the settings to begin with, and which of them are to be fitted."""

    loss: Any
    free: tuple[str, ...]


def _allowed(kind: Callable[..., Any], **settings: Any) -> list[Any]:
    """Return the loss with these settings, if it takes them: a rule may have no margin to act on."""
    try:
        return [kind(**settings)]
    except ValueError:
        return []


class Curves(NamedTuple):
    """The curves that fits begin from."""

    target: Points
    """The target's angle varies, the other class is next to the embedding."""
    other: Points
    """The other class's angle varies, the target's gives the largest loss."""
    beside: Points
    """The same beside a target at a smaller angle: losses tell hard classes by it."""
    copies: Points
    """There are 1, 2, 3 and more copies of the other class, at the same angles."""
    every: Points
    """All points."""
    by_length: bool | None
    """Whether the length of the embedding is the scale; None if it does something else."""
    adds_up: bool
    """Whether every class is a question of its own."""
    linear: bool
    """Whether the logits of other classes look linear in their cosines."""
    flat: bool
    """Whether the length of the embedding is of no account at all."""
    by_weights: bool
    """Whether the lengths of class weights count."""

    def are_measured(self, outer: Outer) -> bool:
        """Whether the curves have points, those of one sample and one other class with finite gaps of logits."""
        gaps = (gap_of(points, outer) for points in (self.target, self.other))
        return all(np.isfinite(gap).any() for gap in gaps) and min(len(self.copies.value), len(self.beside.value)) > 0


def gap_of(points: Points, outer: Outer) -> Array:
    """Return the logit of the other class minus the target's, by inverting softmax."""
    rows = (points.value - outer.constant) / outer.factor
    with np.errstate(all="ignore"):
        return np.asarray(rows + np.log(-np.expm1(-rows)) - np.log(points.copies))


def linear(columns: list[Array], values: Array) -> tuple[Array, float]:
    """Return the coefficients of a linear fit, and the largest residual."""
    keep = np.isfinite(values)
    if np.count_nonzero(keep) <= len(columns):
        return np.zeros(len(columns)), math.inf
    matrix = np.array(columns).T[keep]
    solved = np.linalg.lstsq(matrix, values[keep], rcond=None)[0]
    return np.asarray(solved), float(np.abs(matrix @ solved - values[keep]).max())


def with_scale(curves: Curves, loss: Any, s: float, free: tuple[str, ...]) -> Iterator[Start]:
    """Yield a loss with a fitted scale, or with the length of the embedding as its scale."""
    if curves.by_length is not True and s > 0.0:
        yield from (Start(scaled, ("s", *free)) for scaled in _allowed(partial(replace, loss), s=s))
    if curves.by_length is not False:
        yield Start(replace(loss, s=None), free)


# ---------------------------------------------------------------------------------------------- cosines as they are


def plain(curves: Curves, outer: Outer) -> Iterator[list[Start]]:
    """Yield losses that leave the cosines of other classes, those with few settings first."""
    (s, _), _ = linear([np.cos(curves.other.other), np.ones(len(curves.other.other))], gap_of(curves.other, outer))
    if not s > 0.0:
        return
    theta = curves.target.theta
    psi = np.cos(curves.target.other) - gap_of(curves.target, outer) / s
    keep = np.isfinite(psi)
    theta, psi = theta[keep], psi[keep]
    yield [*with_scale(curves, refloss.NormFace(), s, ())]
    yield from _on_target(curves, s, theta, psi)


def _on_target(curves: Curves, s: float, theta: Array, psi: Array) -> Iterator[list[Start]]:
    one: list[tuple[Any, str, float, float]] = [
        (refloss.CosFace(boundary=rule), "m", *_best(theta, psi, rule, m3=np.linspace(0.0, 2.0, 201)))
        for rule in ("none", "conditional")
    ]
    turns = np.linspace(0.0, math.pi, 316)
    one += [(refloss.ArcFace(boundary=rule), "m", *_best(theta, psi, rule, m2=turns)) for rule in RULES_ON_ANGLE]
    factors = np.concatenate([np.linspace(1.0, 6.0, 401), np.linspace(6.0, 30.0, 1201)])
    one += [
        (refloss.ASoftmax(boundary=rule), "m", *_best(theta, psi, rule, m1=factors)) for rule in ("monotone", "none")
    ]
    one.append((refloss.SphereFaceR(), "m", *_best(theta, psi, "clamp", m1=factors)))
    one.sort(key=lambda entry: entry[3])
    yield [
        start
        for loss, name, value, _ in one[:8]
        for start in with_scale(curves, replace(loss, **{name: _inside(loss, value)}), s, (name,))
    ]
    yield [start for rule in ("monotone", "none") for start in _annealed(curves, s, theta, psi, rule)]
    yield [*_combined(curves, s, theta, psi)]


def _inside(loss: Any, value: float) -> float:
    """Return a margin off the ends of its range, where rules are refused."""
    return min(max(value, 1e-6), math.pi - 1e-9) if isinstance(loss, refloss.ArcFace) else max(value, 1e-6)


def _best(theta: Array, psi: Array, rule: str, **grid: Array) -> tuple[float, float]:
    """Return the margin of a grid that comes nearest to a curve, and how near."""
    ((name, values),) = grid.items()
    margins: dict[str, Any] = {"m1": 1.0, "m2": 0.0, "m3": 0.0, name: values[:, None]}
    off = np.abs(psi_of(theta, **margins, boundary=rule) - psi).mean(axis=1)
    return float(values[np.argmin(off)]), float(off.min())


def _annealed(curves: Curves, s: float, theta: Array, psi: Array, rule: str) -> Iterator[Start]:
    """Yield A-Softmax with annealing: ψ - cos θ is a share of what it is without."""
    found = []
    for m in np.linspace(1.05, 30.0, 580).tolist():
        whole = psi_of(theta, m, 0.0, 0.0, rule) - np.cos(theta)
        share = float(whole @ (psi - np.cos(theta)) / (whole @ whole))
        if 0.0 < share <= 1.0:
            found.append((float(np.abs(share * whole - psi + np.cos(theta)).mean()), m, 1.0 / share - 1.0))
    for _, m, annealing in sorted(found)[:2]:
        for loss in _allowed(refloss.ASoftmax, m=m, annealing=annealing, boundary=rule):
            yield from with_scale(curves, loss, s, ("m", "annealing"))


def _combined(curves: Curves, s: float, theta: Array, psi: Array) -> Iterator[Start]:
    """Yield combined margins with every rule; m3 is the median of what is left."""
    factors = np.concatenate([np.linspace(0.1, 6.0, 60), np.linspace(6.25, 30.0, 96)])
    m1, m2 = np.meshgrid(factors, np.linspace(0.0, 3.1, 32))
    m1, m2 = m1.reshape(-1, 1), m2.reshape(-1, 1)
    found = []
    for rule in RULES:
        if rule in ("min", "conditional"):
            m3 = np.maximum(np.median((psi_of(theta, m1, m2, 0.0, "none") - psi)[:, : len(theta) // 3], axis=1), 0.0)
        else:
            m3 = np.maximum(np.median(psi_of(theta, m1, m2, 0.0, rule) - psi, axis=1), 0.0)
        off = np.abs(psi_of(theta, m1, m2, m3[:, None], rule) - psi).mean(axis=1)
        found += [(float(off[n]), rule, float(m1[n, 0]), float(m2[n, 0]), float(m3[n])) for n in np.argsort(off)[:2]]
    for _, rule, a, b, c in sorted(found)[:8]:
        for loss in _allowed(refloss.CombinedMargin, m1=a, m2=b, m3=min(c, 2.0), boundary=rule):
            yield from with_scale(curves, loss, s, ("m1", "m2", "m3"))


# -------------------------------------------------------------------------------------------- curves of other classes


def changed(curves: Curves, outer: Outer) -> Iterator[list[Start]]:
    """Yield losses that change the cosines or angles of other classes."""
    other, gap = curves.other.other, gap_of(curves.other, outer)
    cos, ones = np.cos(other), np.ones(len(other))
    if not curves.linear:
        _, m, s = min(_with_margin(np.where(cos > -m, cos**2 - m**2, 0.0), gap, m) for m in np.linspace(0, 1, 101))
        yield [*with_scale(curves, refloss.CircleLoss(m=m), s, ("m",))]
        _, m, s = min(_with_margin(np.cos(other / m), gap, m) for m in np.linspace(1.01, 30.0, 800))
        yield [*with_scale(curves, refloss.SphereFaceR(m=m, version=2), s, ("m",))]
        yield _nearest(curves, cos, np.sin(other), ones, gap, outer)
    for points in (curves.other, curves.beside):
        gap = gap_of(points, outer)
        keep = gap > UNSATURATED
        cos, gap = np.cos(points.other)[keep], gap[keep]
        if not curves.linear:
            yield _curricular(curves, cos, gap, outer)
        yield _reweighted(curves, cos, gap, outer)


UNSATURATED = -5.0
"""Gaps of logits below which a softmax saturates, and its value knows them less exactly."""


def is_linear(points: Points, u: float) -> bool:
    """Whether the gap of logits is linear in the cosine of the other class, whatever it is multiplied by."""
    gap = gap_of(points, AS_IT_IS)
    keep = gap > -UNSATURATED
    cos, gap = np.cos(points.other)[keep], gap[keep]
    if len(gap) < 5:
        return False
    _, off = linear([cos, np.ones(len(cos))], gap)
    return off <= 1e3 * u * (1.0 + float(np.abs(gap).max())) + 1e-2


def _with_margin(eta: Array, gap: Array, m: float) -> tuple[float, float, float]:
    (s, _), off = linear([eta, np.ones(len(eta))], gap)
    return off, float(m), float(s)


def _rules(curves: Curves, psi: Array) -> list[tuple[float, str, float]]:
    """Return rules of ArcFace with the margin that comes nearest to a curve, the nearest first."""
    keep = np.isfinite(psi)
    turns = np.linspace(0.0, math.pi, 316)
    found = [(rule, *_best(curves.target.theta[keep], psi[keep], rule, m2=turns)) for rule in RULES_ON_ANGLE]
    return sorted((off, rule, min(max(m, 1e-6), 3.14159)) for rule, m, off in found)


def _curricular(curves: Curves, cos: Array, gap: Array, outer: Outer) -> list[Start]:
    near = np.cos(curves.target.other)
    starts: list[Start] = []
    for hard in _prefixes(len(gap)):
        (s, st, _), _ = linear([cos[:hard] ** 2, cos[:hard], np.ones(hard)], gap[:hard])
        if s > 0.0:
            t = min(max(st / s, -1.0), 1.0)
            psi = near * (t + near) - gap_of(curves.target, outer) / s
            for _, rule, m in _rules(curves, psi)[:4]:
                starts += with_scale(curves, refloss.CurricularFace(m=m, t=t, boundary=rule), s, ("m", "t"))
    return starts


def _prefixes(count: int) -> list[int]:
    """Return how many points of a curve are those of hard classes, if that is not known: some, many, all."""
    return [count // 4, count // 2, count]


def _reweighted(curves: Curves, cos: Array, gap: Array, outer: Outer) -> list[Start]:
    theta, of_target = curves.target.theta, -gap_of(curves.target, outer)
    acute = (theta > 0.2) & (theta < 1.5) & np.isfinite(of_target)
    theta, of_target = theta[acute], of_target[acute]
    starts: list[Start] = []
    near = float(np.cos(curves.target.other).mean())
    (a, b), _ = linear([np.cos(theta), np.ones(len(theta))], of_target)
    (c, d, _), _ = linear([np.cos(theta), np.sin(theta), np.ones(len(theta))], of_target)
    for hard in _prefixes(len(gap)):
        (steep, _), _ = linear([cos[:hard], np.ones(hard)], gap[:hard])
        for kind, s, m in (("am", a, None), ("arc", math.hypot(c, d), math.atan2(-d, c))):
            if not s > 0.0:
                continue
            t = max(steep / s - 1.0, 0.0)
            own = -(b / s + (1.0 + t) * near + t) if m is None else m
            for boundary in ("easy", "none"):
                for loss in _allowed(refloss.MVSoftmax, m=min(max(own, 0.0), 2.0), t=t, margin=kind, boundary=boundary):
                    starts += with_scale(curves, loss, s, ("m", "t"))
    return starts


def _nearest(curves: Curves, cos: Array, sin: Array, ones: Array, gap: Array, outer: Outer) -> list[Start]:
    (a, b, _), _ = linear([cos, sin, ones], gap)
    s, penalty = math.hypot(a, b), math.atan2(b, a)
    if not s > 0.0 or not 0.0 < penalty <= math.pi:
        return []
    psi = np.cos(curves.target.other - penalty) - gap_of(curves.target, outer) / s
    most = int(curves.copies.copies.max())
    starts: list[Start] = []
    for _, rule, m in _rules(curves, psi)[:5]:
        losses: list[Any] = [refloss.InterTopK(m=m, penalty=penalty, k=k, boundary=rule) for k in range(1, most + 1)]
        at_1 = [replace(loss, s=s) if curves.by_length is not True else replace(loss, s=None) for loss in losses]
        off = [float(np.std(predicted(loss, curves.copies, outer) - curves.copies.value)) for loss in at_1]
        starts += with_scale(curves, losses[int(np.argmin(off))], s, ("m", "penalty"))
    return starts


# --------------------------------------------------------------------------------------------- margins by the length


def by_length(curves: Curves, outer: Outer) -> Iterator[list[Start]]:
    """Yield losses whose margin depends on the length of the embedding."""
    (s, _), _ = linear([np.cos(curves.other.other), np.ones(len(curves.other.other))], gap_of(curves.other, outer))
    if not s > 0.0:
        return
    scales = [s, None] if curves.by_length is not True else [None]
    grid: list[Any] = [
        refloss.AdaFace(m=m, mean=mean, std=std, s=scale)
        for scale in scales
        for m in (0.1, 0.25, 0.4, 0.6, 0.9)
        for mean in (1.0, 5.0, 20.0, 40.0, 60.0)
        for std in (2.0, 10.0, 30.0, 100.0)
    ]
    names: tuple[str, ...] = ("m", "mean", "std")
    starts = [_descended(loss, names, curves, outer) for loss in _nearest_of(grid, curves, outer, 3)]
    yield [Start(loss, _free(loss, *names)) for loss in starts]
    psi = np.cos(curves.target.other) - gap_of(curves.target, outer) / s
    names = ("l_a", "u_a", "l_m", "u_m", "regularizer")
    for rule, m in _rules_up_to_a_constant(curves, psi)[:5]:
        losses = [
            refloss.MagFace(l_a=low, u_a=high, l_m=m, u_m=m + more, s=scale, regularizer=0.0, boundary=rule)
            for scale in scales
            for low in LENGTHS
            for high in LENGTHS
            if low < high
            for more in (0.03, 0.1, 0.2, 0.35, 0.6, 1.0)
            if m + more < math.pi
        ]
        off, best = zip(*(_with_regularizer(loss, curves.every, outer) for loss in losses), strict=True)
        starts = [_descended(best[place], names, curves, outer) for place in np.argsort(off)[:2].tolist()]
        yield [Start(loss, _free(loss, *names)) for loss in starts]


LENGTHS = (1.0, 2.0, 3.5, 5.0, 7.0, 10.0, 14.0, 20.0, 40.0, 60.0, 80.0, 110.0, 150.0, 220.0)
"""Bounds of lengths that fits begin from: while angles vary embeddings have the length 1, and the smallest margin."""


def _rules_up_to_a_constant(curves: Curves, psi: Array) -> list[tuple[str, float]]:
    """Return rules with the margin that comes nearest to a curve but for a constant, the nearest first."""
    keep = np.isfinite(psi)
    theta, psi = curves.target.theta[keep], psi[keep]
    turns = np.linspace(0.005, 3.1, 620)
    found = []
    for rule in RULES_ON_ANGLE:
        off = psi_of(theta, 1.0, turns[:, None], 0.0, rule) - psi
        off = np.abs(off - np.median(off, axis=1, keepdims=True)).mean(axis=1)
        found.append((float(off.min()), rule, float(turns[np.argmin(off)])))
    return [(rule, m) for _, rule, m in sorted(found)]


def _free(loss: Any, *names: str) -> tuple[str, ...]:
    return names if loss.s is None else ("s", *names)


def _nearest_of(losses: list[Any], curves: Curves, outer: Outer, count: int) -> list[Any]:
    """Return the losses that come nearest to all points."""
    with np.errstate(all="ignore"):
        off = [float(np.abs(predicted(loss, curves.every, outer) - curves.every.value).mean()) for loss in losses]
    return [losses[place] for place in np.argsort(off)[:count].tolist()]


def _descended(loss: Any, names: tuple[str, ...], curves: Curves, outer: Outer) -> Any:
    """Return a loss whose settings come nearer to all points: each is moved in turn, by smaller and smaller steps."""

    def off(tried: Any) -> float:
        return float(np.abs(predicted(tried, curves.every, outer) - curves.every.value).mean())

    best = off(loss)
    for step in (0.3, 0.2, 0.1, 0.05, 0.02, 0.01):
        for name in names:
            for factor in (1.0 + step, 1.0 - step):
                try:
                    tried = replace(loss, **{name: getattr(loss, name) * factor})
                except ValueError:  # out of range
                    continue
                if (now := off(tried)) < best:
                    loss, best = tried, now
    return loss


def _with_regularizer(loss: Any, points: Points, outer: Outer) -> tuple[float, Any]:
    """Return how near a loss without a regularizer comes with the best one, and with it: values are linear in it."""
    rest = points.value - predicted(loss, points, outer)
    terms = outer.factor * terms_of(replace(loss, regularizer=1.0), points.length)
    regularizer = float(np.clip(np.median(rest / terms), 0.0, 1e6))
    return float(np.abs(rest - regularizer * terms).mean()), replace(loss, regularizer=regularizer)


# ------------------------------------------------------------------------------------------- a question of every class


def sigmoid(curves: Curves, outer: Outer) -> Iterator[list[Start]]:
    """Yield losses of binary cross entropies: the values are linear in the weights of the answers."""
    every = curves.every
    scales = np.geomspace(0.75, 200.0, 40).tolist()
    found: list[tuple[float, Any]] = []
    for s in scales:
        for m in (0.0, 0.2, 0.4, 0.7, 1.1, 1.6):
            own, rest = _answers(refloss.UniFace(s=s, m=m), every)
            weight = max(float(rest @ (every.value - own) / (rest @ rest)), 0.0)
            off = float(np.abs(own + weight * rest - every.value).mean())
            found += [(off, loss) for loss in _allowed(refloss.UniFace, s=s, m=m, l=weight)]
    found.sort(key=lambda entry: entry[0])
    yield [Start(_descended(loss, ("s", "m", "l"), curves, outer), ("s", "m", "l")) for _, loss in found[:3]]
    by_power = [_of_power(t, scales[::3], every) for t in range(1, 31)]
    names = ("s", "m", "alpha", "weight")
    for several in sorted(filter(None, by_power), key=lambda several: several[0][0])[:8]:
        yield [Start(_descended(loss, names, curves, outer), names) for _, loss in several[:3]]


def _of_power(t: int, scales: list[float], points: Points) -> list[tuple[float, Any]]:
    """Return SphereFace2 with an exponent and settings of a grid, those first that come nearest to the points."""
    found: list[tuple[float, Any]] = []
    for s in scales:
        for m in (0.0, 0.15, 0.3, 0.5, 0.7, 1.0, 1.4):
            loss = refloss.SphereFace2(s=s, m=m, t=t, weight=s)
            own, rest = (part / share for part, share in zip(_answers(loss, points), (0.7, 0.3), strict=True))
            (a, b), _ = linear([own, rest], points.value)
            if a > 0.0 and b > 0.0:
                off = float(np.abs(a * own + b * rest - points.value).mean())
                settings = {"alpha": a / (a + b), "weight": s * (a + b)}
                found += [(off, other) for other in _allowed(partial(replace, loss), **settings)]
    return sorted(found, key=lambda entry: entry[0])


def _answers(loss: Any, points: Points) -> tuple[Array, Array]:
    """Return what the target and what the other classes add to the values."""
    without = predicted(loss, points._replace(copies=np.zeros(len(points.value))))
    return without, predicted(loss, points) - without
