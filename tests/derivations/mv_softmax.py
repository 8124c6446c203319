"""MV-Softmax: a softmax with weights, the paper's t, the gradient, the jump at the threshold, the dropped margin."""

from __future__ import annotations

from typing import NamedTuple

from mpmath import mp, mpf

from derivations import (
    Below,
    Draw,
    Vector,
    cosines,
    derivative,
    dot,
    gradient,
    of_classes,
    of_embedding,
    step,
    towards,
    unit,
)

TRIES = 30  # draws for an inequality


@step("mv-raised", "d7598292")
def _(draw: Draw) -> tuple:
    c, t = draw.number(-1, 1), draw.number(0, 1)
    return (1 + t) * c + t, c + t * (c + 1), Below(mpf(0), t * (c + 1))


class Sample(NamedTuple):
    """An embedding, class weights of which the first is the label's, which others are hard, and settings."""

    x: Vector
    w: list[Vector]
    hard: list[bool]
    on_angle: bool
    s: mpf
    m: mpf
    t: mpf
    g: mpf


def _psi(c: mpf, m: mpf, on_angle: bool) -> mpf:
    return mp.cos(mp.acos(c) + m) if on_angle else c - m


def _sample(draw: Draw) -> Sample:
    """Drawn until some other class is hard and some is not."""
    while True:
        x, w, m, on_angle = draw.vector(3), [draw.vector(3) for _ in range(5)], draw.number(0, 1), draw.whole(0, 1) == 1
        c = cosines(x, w)
        hard = [i > _psi(c[0], m, on_angle) for i in c]
        if len({*hard[1:]}) == 2:
            return Sample(x, w, hard, on_angle, draw.number(1, 4), m, draw.number(0, 1), draw.number(0.1, 2))


def _logits(each: Sample) -> Vector:
    """Which classes are hard stays as it is."""
    c = cosines(each.x, each.w)
    eta = [(1 + each.t) * i + each.t if is_hard else i for i, is_hard in zip(c, each.hard, strict=True)]
    return [each.s * _psi(c[0], each.m, each.on_angle), *(each.s * i for i in eta[1:])]


def _loss(each: Sample) -> mpf:
    z = _logits(each)
    return each.g * mp.log(mp.fsum(mp.exp(i - z[0]) for i in z))


@step("mv-weights", "ab897773")
def _(draw: Draw) -> tuple:
    each = _sample(draw)._replace(g=mpf(1))
    c = cosines(each.x, each.w)
    target = mp.exp(each.s * _psi(c[0], each.m, each.on_angle))
    weights = [mp.exp(each.s * each.t * (i + 1)) if is_hard else 1 for i, is_hard in zip(c, each.hard, strict=True)]
    others = mp.fsum(weights[k] * mp.exp(each.s * c[k]) for k in range(1, len(c)))
    return _loss(each), -mp.log(target / (target + others))


@step("mv-paper", "1f49a5b7")
def _(draw: Draw) -> tuple:
    s, t, c = draw.number(1, 10), draw.number(1, 2), draw.number(-1, 1)
    return mp.exp(s * (t - 1) * (c + 1)) * mp.exp(s * c), mp.exp(s * (t * c + t - 1))


@step("mv-slope", "6e6e552f")
def _(draw: Draw) -> tuple:
    c, t = draw.number(-1, 1), draw.number(0, 1)
    return derivative(lambda a: (1 + t) * a + t, c), 1 + t


def _in_logits(each: Sample) -> Vector:
    e = [mp.exp(i) for i in _logits(each)]
    return [each.g * (i / mp.fsum(e) - (k == 0)) for k, i in enumerate(e)]


def _factors(each: Sample) -> Vector:
    """The slope of the target with its sign turned, then those of the other classes."""
    theta = mp.acos(cosines(each.x, each.w)[0])
    turned = mp.sin(theta + each.m) if each.on_angle else mp.sin(theta)
    return [turned, *(1 + each.t if is_hard else mpf(1) for is_hard in each.hard[1:])]


def _slopes(each: Sample) -> Vector:
    return [g * factor for g, factor in zip(_in_logits(each), _factors(each), strict=True)]


@step("mv-x", "37401500")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    return gradient(lambda v: _loss(each._replace(x=v)), each.x), of_embedding(each.s, each.x, each.w, _slopes(each))


@step("mv-w", "5cb277a7")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    numeric = [
        gradient(lambda v, k=k: _loss(each._replace(w=[*each.w[:k], v, *each.w[k + 1 :]])), row)
        for k, row in enumerate(each.w)
    ]
    return numeric, of_classes(each.s, each.x, each.w, _slopes(each))


@step("mv-am", "f1c998f3")
def _(draw: Draw) -> tuple:
    size, g = draw.whole(2, 4), draw.number()
    x, w = draw.unit(size), draw.unit(size)
    theta, tangent = mp.acos(dot(x, w)), unit(towards(x, w))
    return (
        [-g * -mp.sin(theta) * i for i in tangent],
        [g * (i - mp.cos(theta) * j) for i, j in zip(w, x, strict=True)],
    )


@step("mv-jump", "cd61699e")
def _(draw: Draw) -> tuple:
    s, t, tau = draw.number(1, 64), draw.number(0, 1), draw.number(-1, 1)
    return s * ((1 + t) * tau + t - tau), s * t * (1 + tau)


@step("mv-between", "684d109a")
def _(draw: Draw) -> tuple:
    theta, m, share = draw.number(mp.pi / 2, mp.pi), draw.number(0.01, 1), draw.number(0.01, 0.99)
    threshold = mp.cos(theta) - m
    c = threshold + share * m
    psi = mp.cos(theta) - m if mp.cos(theta) > 0 else mp.cos(theta)
    return psi, mp.cos(theta), Below(threshold, c, strict=True), Below(c, psi, strict=True)


@step("mv-gap", "839998c6")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        theta, c, m, t = draw.number(0, mp.pi), draw.number(-1, 1), draw.number(0, 1), draw.number(0, 1)
        psi = mp.cos(theta) - m
        left.append(psi - ((1 + t) * c + t if c > psi else c))
        right.append(mp.cos(theta) - m - c if c <= mp.cos(theta) - m else mp.cos(theta) - m - c - t * (c + 1))
    return left, right
