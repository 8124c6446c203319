"""CurricularFace: hard classes raised or lowered, the gradient with its factor t + 2c, the jump at the threshold."""

from __future__ import annotations

from typing import NamedTuple

from mpmath import mp, mpf

from derivations import Draw, Vector, cosines, derivative, gradient, of_classes, of_embedding, step

TRIES = 30  # draws for an inequality


@step("curricular-raised", "de78a14e")
def _(draw: Draw) -> tuple:
    c, t = draw.number(-1, 1), draw.number(-1, 1)
    return c * (t + c) - c, c * (t + c - 1)


@step("curricular-more", "3d3d71bb")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        c, t = draw.number(0, 1), draw.number(-1, 1)
        left.append(mpf(c * (t + c) > c))
        right.append(mpf(c > 1 - t))
    return left, [left[0], *right]


@step("curricular-slope", "94351341")
def _(draw: Draw) -> tuple:
    c, t = draw.number(-1, 1), draw.number(-1, 1)
    return derivative(lambda a: a * (t + a), c), t + 2 * c


class Sample(NamedTuple):
    """An embedding, class weights of which the first is the label's, which others are hard, and settings."""

    x: Vector
    w: list[Vector]
    hard: list[bool]
    s: mpf
    m: mpf
    t: mpf
    g: mpf


def _sample(draw: Draw) -> Sample:
    """Drawn until some other class is hard and some is not."""
    while True:
        x, w, m = draw.vector(3), [draw.vector(3) for _ in range(5)], draw.number(0, 1)
        c = cosines(x, w)
        hard = [i > mp.cos(mp.acos(c[0]) + m) for i in c]
        if len({*hard[1:]}) == 2 and mp.acos(c[0]) + m < mp.pi:
            return Sample(x, w, hard, draw.number(1, 4), m, draw.number(0, 1), draw.number(0.1, 2))


def _logits(each: Sample) -> Vector:
    """Which classes are hard stays as it is."""
    c = cosines(each.x, each.w)
    eta = [i * (each.t + i) if is_hard else i for i, is_hard in zip(c, each.hard, strict=True)]
    return [each.s * mp.cos(mp.acos(c[0]) + each.m), *(each.s * i for i in eta[1:])]


def _loss(each: Sample) -> mpf:
    z = _logits(each)
    return each.g * mp.log(mp.fsum(mp.exp(i - z[0]) for i in z))


def _in_logits(each: Sample) -> Vector:
    e = [mp.exp(i) for i in _logits(each)]
    return [each.g * (i / mp.fsum(e) - (k == 0)) for k, i in enumerate(e)]


def _factors(each: Sample) -> Vector:
    """The slope of the target with its sign turned, then those of the other classes."""
    c = cosines(each.x, each.w)
    others = [each.t + 2 * i if is_hard else mpf(1) for i, is_hard in zip(c, each.hard, strict=True)]
    return [mp.sin(mp.acos(c[0]) + each.m), *others[1:]]


def _slopes(each: Sample) -> Vector:
    return [g * factor for g, factor in zip(_in_logits(each), _factors(each), strict=True)]


@step("curricular-x", "37401500")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    return gradient(lambda v: _loss(each._replace(x=v)), each.x), of_embedding(each.s, each.x, each.w, _slopes(each))


@step("curricular-w", "5cb277a7")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    numeric = [
        gradient(lambda v, k=k: _loss(each._replace(w=[*each.w[:k], v, *each.w[k + 1 :]])), row)
        for k, row in enumerate(each.w)
    ]
    return numeric, of_classes(each.s, each.x, each.w, _slopes(each))


@step("curricular-t", "eb8a252e")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    g, c = _in_logits(each), cosines(each.x, each.w)
    hard = [k for k in range(1, len(c)) if each.hard[k]]
    return derivative(lambda t: _loss(each._replace(t=t)), each.t), each.s * mp.fsum(g[k] * c[k] for k in hard)


@step("curricular-sign", "24f46df5")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        c, t = draw.number(-1, 1), draw.number(-1, 1)
        left.append(mpf(t + 2 * c < 0))
        right.append(mpf(c < -t / 2))
    return left, [left[0], *right]


@step("curricular-jump", "060d972e")
def _(draw: Draw) -> tuple:
    s, t, tau = draw.number(1, 64), draw.number(-1, 1), draw.number(-1, 1)
    return s * (tau * (t + tau) - tau), s * tau * (t + tau - 1)


@step("curricular-hard", "7f9f1a6c")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        m = draw.number(0, 1)
        theta, other = draw.number(0, mp.pi - m), draw.number(0, mp.pi)
        left.append(mpf(mp.cos(other) > mp.cos(theta + m)))
        right.append(mpf(other < theta + m))
    return left, [left[0], *right]
