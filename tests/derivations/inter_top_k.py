"""Inter-top-k: how much more a nearest class counts, its slope, the gradient, two that change places, the border."""

from __future__ import annotations

from typing import NamedTuple

from mpmath import mp, mpf

from derivations import (
    Below,
    Draw,
    Vector,
    cosines,
    derivative,
    gradient,
    of_classes,
    of_embedding,
    step,
    towards,
    unit,
)

TRIES = 30  # draws for an inequality


@step("itk-eta", "d81e0d7b")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0, mp.pi), draw.number(0, mp.pi)
    return mp.cos(theta - m), mp.cos(theta) * mp.cos(m) + mp.sin(theta) * mp.sin(m)


@step("itk-more", "5469d77e")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0, mp.pi), draw.number(0, mp.pi)
    return mp.cos(theta - m) - mp.cos(theta), 2 * mp.sin(m / 2) * mp.sin(theta - m / 2)


@step("itk-weight", "252c0d91")
def _(draw: Draw) -> tuple:
    s, m = draw.number(1, 64), draw.number(0, mp.pi)
    angles = draw.vector(TRIES, 0, mp.pi)
    most = mp.exp(2 * s * mp.sin(m / 2))
    at_most = mp.pi / 2 + m / 2
    return (
        mp.exp(s * (mp.cos(at_most - m) - mp.cos(at_most))),
        most,
        *(Below(mp.exp(s * (mp.cos(theta - m) - mp.cos(theta))), most) for theta in angles),
    )


@step("itk-less", "b795470f")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        theta, m = draw.number(0, mp.pi), draw.number(0, mp.pi)
        left.append(mpf(mp.cos(theta - m) < mp.cos(theta)))
        right.append(mpf(theta < m / 2))
    return left, [left[0], *right]


@step("itk-slope", "8b021c0b")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0.1, 3), draw.number(0, mp.pi)
    c = mp.cos(theta)
    in_cosine = derivative(lambda a: mp.cos(mp.acos(a) - m), c)
    return (
        [derivative(lambda t: mp.cos(t - m), theta), in_cosine, in_cosine],
        [-mp.sin(theta - m), mp.sin(theta - m) / mp.sin(theta), mp.cos(m) - c * mp.sin(m) / mp.sin(theta)],
    )


@step("itk-sign", "b730fc29")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        theta, m = draw.number(0, mp.pi), draw.number(0, mp.pi)
        left.append(mpf(derivative(lambda t, m=m: mp.cos(t - m), theta) > 0))
        right.append(mpf(theta < m))
    return left, [left[0], *right]


class Sample(NamedTuple):
    """An embedding, class weights of which the first is the label's, which others are nearest, and settings."""

    x: Vector
    w: list[Vector]
    nearest: list[bool]
    s: mpf
    m: mpf
    penalty: mpf
    g: mpf


def _sample(draw: Draw) -> Sample:
    """Drawn until the margin of the target ends before π."""
    while True:
        x, w, m = draw.vector(3), [draw.vector(3) for _ in range(5)], draw.number(0, 1)
        c, k = cosines(x, w), draw.whole(1, 3)
        least = sorted(c[1:], reverse=True)[k - 1]
        if mp.acos(c[0]) + m < mp.pi:
            nearest = [False, *(i >= least for i in c[1:])]
            return Sample(x, w, nearest, draw.number(1, 4), m, draw.number(0, 1), draw.number(0.1, 2))


def _logits(each: Sample) -> Vector:
    """Which classes are the nearest stays as it is."""
    angles = [mp.acos(c) for c in cosines(each.x, each.w)]
    moved = [each.m, *(-each.penalty if near else mpf(0) for near in each.nearest[1:])]
    return [each.s * mp.cos(theta + by) for theta, by in zip(angles, moved, strict=True)]


def _loss(each: Sample) -> mpf:
    z = _logits(each)
    return each.g * mp.log(mp.fsum(mp.exp(i - z[0]) for i in z))


def _slopes(each: Sample) -> Vector:
    """What each direction of the gradient is multiplied by: of the target minus ψ', then η' in the cosine."""
    e, angles = [mp.exp(i) for i in _logits(each)], [mp.acos(c) for c in cosines(each.x, each.w)]
    factors = [mp.sin(angles[0] + each.m)]
    for theta, near in zip(angles[1:], each.nearest[1:], strict=True):
        factors.append(mp.sin(theta - each.penalty) / mp.sin(theta) if near else mpf(1))
    return [each.g * (i / mp.fsum(e) - (k == 0)) * factors[k] for k, i in enumerate(e)]


@step("itk-x", "37401500")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    return gradient(lambda v: _loss(each._replace(x=v)), each.x), of_embedding(each.s, each.x, each.w, _slopes(each))


@step("itk-w", "5cb277a7")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    numeric = [
        gradient(lambda v, k=k: _loss(each._replace(w=[*each.w[:k], v, *each.w[k + 1 :]])), row)
        for k, row in enumerate(each.w)
    ]
    return numeric, of_classes(each.s, each.x, each.w, _slopes(each))


@step("itk-tangent", "417dc523")
def _(draw: Draw) -> tuple:
    size, m = draw.whole(2, 4), draw.number(0, mp.pi)
    x, w = draw.vector(size), draw.vector(size)
    (c,) = cosines(x, [w])
    theta, across = mp.acos(c), towards(x, w)
    return (
        [mp.sin(theta - m) / mp.sin(theta) * i for i in across],
        [mp.sin(theta - m) * i for i in unit(across)],
        [mp.sin(theta - m) * (i / mp.sin(theta)) for i in across],
    )


@step("itk-swap", "cd02a6cd")
def _(draw: Draw) -> tuple:
    s, m, theta = draw.number(1, 8), draw.number(0, 1), draw.number(0, mp.pi)
    x, size = draw.unit(3), mp.sin(theta)
    across = [unit(towards(x, draw.vector(3))) for _ in range(2)]
    w = [[mp.cos(theta) * i + size * j for i, j in zip(x, direction, strict=True)] for direction in across]
    a, b = (mp.acos(c) for c in cosines(x, w))
    return (
        mp.exp(s * mp.cos(a - m)) + mp.exp(s * mp.cos(b)),
        mp.exp(s * mp.cos(a)) + mp.exp(s * mp.cos(b - m)),
    )


@step("itk-border", "f6c40ba1")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        m, penalty = draw.number(0, 1), draw.number(0, 1)
        target, other = draw.number(0, mp.pi - m), draw.number(penalty, mp.pi)
        left.append(mpf(mp.cos(target + m) > mp.cos(other - penalty)))
        right.append(mpf(target + m + penalty < other))
    return left, [left[0], *right]


@step("itk-nearest", "ce1d54bf")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        m, k = draw.number(0, 1), draw.whole(1, 4)
        angles = sorted(draw.vector(5, m, mp.pi))
        left.append(max(*(mp.cos(i - m) for i in angles[:k]), *(mp.cos(i) for i in angles[k:])))
        right.append(mp.cos(min(angles) - m))
    return left, right
