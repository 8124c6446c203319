"""Sub-center ArcFace: the nearest center, the gradient that it alone has, the kink between two, cells."""

from __future__ import annotations

from typing import NamedTuple

from mpmath import mp, mpf

from derivations import Draw, Vector, dot, gradient, norm, step, towards, unit

TRIES = 30  # draws for an equality of truth values


class Sample(NamedTuple):
    """An embedding, centers of classes of which the first is the label's, and settings."""

    x: Vector
    w: list[list[Vector]]
    s: mpf
    m: mpf
    g: mpf


def _sample(draw: Draw) -> Sample:
    w = [[draw.vector(3) for _ in range(3)] for _ in range(3)]
    return Sample(draw.vector(3), w, draw.number(1, 4), draw.number(0, 1), draw.number(0.1, 2))


def _cosines(each: Sample) -> list[Vector]:
    return [[dot(unit(each.x), unit(center)) for center in centers] for centers in each.w]


def _loss(each: Sample) -> mpf:
    c = [max(cosines) for cosines in _cosines(each)]
    z = [each.s * mp.cos(mp.acos(c[0]) + each.m), *(each.s * i for i in c[1:])]
    return each.g * mp.log(mp.fsum(mp.exp(i - z[0]) for i in z))


def _in_logits(each: Sample) -> Vector:
    """G."""
    c = [max(cosines) for cosines in _cosines(each)]
    e = [mp.exp(each.s * i) for i in (mp.cos(mp.acos(c[0]) + each.m), *c[1:])]
    return [each.g * (i / mp.fsum(e) - (k == 0)) for k, i in enumerate(e)]


def _nearest(each: Sample) -> list[int]:
    return [cosines.index(max(cosines)) for cosines in _cosines(each)]


@step("sub-max", "8c9da1de")
def _(draw: Draw) -> tuple:
    angles = draw.vector(draw.whole(1, 5), 0, mp.pi)
    return max(mp.cos(angle) for angle in angles), mp.cos(min(angles))


@step("sub-slope", "97dddde1")
def _(draw: Draw) -> tuple:
    c, g = draw.vector(4, -1, 1), draw.number()  # g, for numbers that differ from draw to draw
    return gradient(lambda v: g * max(v), c), [g * (entry == max(c)) for entry in c]


@step("sub-x", "197d2ddd")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    g, chosen = _in_logits(each), [centers[j] for centers, j in zip(each.w, _nearest(each), strict=True)]
    theta = mp.acos(dot(unit(each.x), unit(chosen[0])))
    terms = [[-g[0] * -mp.sin(theta + each.m) * i for i in unit(towards(each.x, chosen[0]))]]
    terms += [[g[k] * i for i in towards(each.x, chosen[k])] for k in (1, 2)]
    by_hand = [each.s / norm(each.x) * mp.fsum(column) for column in zip(*terms, strict=True)]
    return gradient(lambda v: _loss(each._replace(x=v)), each.x), by_hand


@step("sub-w", "cfaab6a2")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    g, nearest, numeric, by_hand = _in_logits(each), _nearest(each), [], []
    for k, centers in enumerate(each.w):
        for j, center in enumerate(centers):

            def moved(v: Vector, k: int = k, j: int = j) -> mpf:
                own = [*each.w[k][:j], v, *each.w[k][j + 1 :]]
                return _loss(each._replace(w=[*each.w[:k], own, *each.w[k + 1 :]]))

            numeric.append(gradient(moved, center))
            theta, away = mp.acos(dot(unit(each.x), unit(center))), towards(center, each.x)
            pull = [mp.sin(theta + each.m) * i for i in unit(away)] if k == 0 else away
            by_hand.append([(j == nearest[k]) * each.s * g[k] * i / norm(center) for i in pull])
    return numeric, by_hand


@step("sub-kink", "3937e5c1")
def _(draw: Draw) -> tuple:
    x, factor = draw.vector(3), draw.number()
    unit_x, angle = unit(x), draw.number(0.1, 3)
    centers = []
    for _ in range(2):  # at the same angle
        across = unit(towards(x, draw.vector(3)))
        centers.append([mp.cos(angle) * i + mp.sin(angle) * j for i, j in zip(unit_x, across, strict=True)])
    slopes = [gradient(lambda v, w=w: factor * dot(unit(v), w), x) for w in centers]
    terms = [[factor / norm(x) * (j - mp.cos(angle) * i) for i, j in zip(unit_x, w, strict=True)] for w in centers]
    return (
        [a - b for a, b in zip(*slopes, strict=True)],
        [a - b for a, b in zip(*terms, strict=True)],
        [factor / norm(x) * (a - b) for a, b in zip(*centers, strict=True)],
    )


@step("sub-cell", "7f04913c")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        x, a, b = (draw.vector(3) for _ in range(3))
        angles = [mp.acos(dot(unit(x), unit(w))) for w in (a, b)]
        left.append(mpf(angles[0] < angles[1]))
        right.append(mpf(dot([i - j for i, j in zip(unit(a), unit(b), strict=True)], x) > 0))
    return left, right
