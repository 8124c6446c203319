"""SphereFace-R: folds cut off, slopes in the angle and in the cosine, the gradient exact and detached, the border."""

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


def _psi(theta: mpf, m: mpf) -> mpf:
    """Version 1."""
    return mp.cos(m * theta) if m * theta <= mp.pi else mpf(-1)


@step("sr-cut", "aece001f")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        theta, m = draw.number(0, mp.pi), draw.number(1, 6)
        k = int(mp.floor(m * theta / mp.pi))
        left.append(_psi(theta, m))
        right.append(max((-1) ** k * mp.cos(m * theta) - 2 * k, mpf(-1)))
    return left, right


@step("sr-slope-one", "b001d75e")
def _(draw: Draw) -> tuple:
    m = draw.number(1.2, 6)
    inside, beyond = draw.number(0, 0.99) * mp.pi / m, mp.pi / m + draw.number(0.01, 1) * (mp.pi - mp.pi / m)
    numeric = [derivative(lambda t: _psi(t, m), theta) for theta in (inside, beyond)]
    return numeric, [-m * mp.sin(m * inside), mpf(0)]


@step("sr-eta-slope", "698a2f70")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0, mp.pi), draw.number(1, 6)
    return derivative(lambda t: mp.cos(t / m), theta), -mp.sin(theta / m) / m


@step("sr-in-cosine", "9b923c2f")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0.1, 3), draw.number(1, 6)
    return (
        derivative(lambda c: mp.cos(mp.acos(c) / m), mp.cos(theta)),
        mp.sin(theta / m) / (m * mp.sin(theta)),
    )


@step("sr-at-zero", "36403575")
def _(draw: Draw) -> tuple:
    """The ratio is that of its limit up to θ²/6."""
    m, theta = draw.number(1, 6), mpf(10) ** -30
    return mp.sin(theta / m) / (m * mp.sin(theta)), 1 / m**2


@step("sr-tangent", "92d14ebf")
def _(draw: Draw) -> tuple:
    size, m = draw.whole(2, 4), draw.number(1, 6)
    x, w = draw.vector(size), draw.vector(size)
    (c,) = cosines(x, [w])
    theta = mp.acos(c)
    factor = mp.sin(theta / m) / (m * mp.sin(theta))
    across, tangent = towards(x, w), unit(towards(x, w))
    return (
        [factor * i for i in across],
        [mp.sin(theta / m) / m * i for i in tangent],
        [mp.sin(theta / m) / m * i / mp.sin(theta) for i in across],
    )


@step("sr-known", "f1e6c803")
def _(draw: Draw) -> tuple:
    c = draw.number(-1, 1) * (1 - mpf(2) ** -7)
    slope = abs(derivative(mp.acos, c))
    furthest = 1 / mp.sin(mp.acos(1 - mpf(2) ** -7))
    return slope, 1 / mp.sin(mp.acos(c)), Below(slope, mpf("8.1")), Below(furthest, mpf("8.1"))


class Sample(NamedTuple):
    """An embedding, class weights of which the first is the label's, and settings."""

    x: Vector
    w: list[Vector]
    version: int
    s: mpf
    m: mpf
    g: mpf


def _sample(draw: Draw) -> Sample:
    size = draw.whole(2, 4)
    w = [draw.vector(size) for _ in range(draw.whole(2, 5))]
    return Sample(draw.vector(size), w, draw.whole(1, 2), draw.number(1, 4), draw.number(1.1, 1.9), draw.number(0.1, 2))


def _f(each: Sample) -> Vector:
    """ψ, and η of the other classes."""
    angles = [mp.acos(c) for c in cosines(each.x, each.w)]
    if each.version == 1:
        return [_psi(angles[0], each.m), *(mp.cos(theta) for theta in angles[1:])]
    return [mp.cos(angles[0]), *(mp.cos(theta / each.m) for theta in angles[1:])]


def _cross_entropy(each: Sample, f: Vector) -> mpf:
    return each.g * mp.log(mp.fsum(mp.exp(each.s * (i - f[0])) for i in f))


def _loss(each: Sample) -> mpf:
    return _cross_entropy(each, _f(each))


def _in_logits(each: Sample) -> Vector:
    e = [mp.exp(each.s * i) for i in _f(each)]
    return [each.g * (i / mp.fsum(e) - (k == 0)) for k, i in enumerate(e)]


def _slopes(each: Sample) -> Vector:
    """What each direction of the gradient is multiplied by: of the target minus ψ', then η' in the cosine."""
    angles, m = [mp.acos(c) for c in cosines(each.x, each.w)], each.m
    if each.version == 1:
        of_target = m * mp.sin(m * angles[0]) if m * angles[0] <= mp.pi else mpf(0)
        factors = [of_target, *(mpf(1) for _ in angles[1:])]
    else:
        factors = [mp.sin(angles[0]), *(mp.sin(theta / m) / (m * mp.sin(theta)) for theta in angles[1:])]
    return [g * factor for g, factor in zip(_in_logits(each), factors, strict=True)]


@step("sr-x", "37401500")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    return gradient(lambda v: _loss(each._replace(x=v)), each.x), of_embedding(each.s, each.x, each.w, _slopes(each))


@step("sr-w", "5cb277a7")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    numeric = [
        gradient(lambda v, k=k: _loss(each._replace(w=[*each.w[:k], v, *each.w[k + 1 :]])), row)
        for k, row in enumerate(each.w)
    ]
    return numeric, of_classes(each.s, each.x, each.w, _slopes(each))


@step("sr-detached", "87e0c807")
def _(draw: Draw) -> tuple:
    """What is added to each cosine stays as it is."""
    each = _sample(draw)
    added = [f - c for f, c in zip(_f(each), cosines(each.x, each.w), strict=True)]

    def constant(v: Vector) -> mpf:
        return _cross_entropy(each, [c + i for c, i in zip(cosines(v, each.w), added, strict=True)])

    terms = [[g * i for i in towards(each.x, row)] for g, row in zip(_in_logits(each), each.w, strict=True)]
    length = mp.sqrt(mp.fsum(i * i for i in each.x))
    return gradient(constant, each.x), [each.s / length * mp.fsum(column) for column in zip(*terms, strict=True)]


@step("sr-gap", "4b9e9bad")
def _(draw: Draw) -> tuple:
    m = draw.number(1, 6)
    below = []
    for _ in range(TRIES):
        theta, other = draw.number(0, mp.pi), draw.number(0, mp.pi)
        below.append(Below(_psi(theta, m) - mp.cos(other), mpf(2)))
        below.append(Below(mp.cos(theta) - mp.cos(other / m), 1 - mp.cos(mp.pi / m)))
    return _psi(mpf(0), m) - mp.cos(mp.pi), mpf(2), *below


@step("sr-border", "b47cfc4c")
def _(draw: Draw) -> tuple:
    one, angles, two = [draw.number()], [], []
    for _ in range(TRIES):
        first, second, m = draw.number(0, mp.pi), draw.number(0, mp.pi), draw.number(1, 4)
        one.append(mpf(_psi(first, m) > mp.cos(second)))
        angles.append(mpf(m * first < second))
        two.append(mpf(mp.cos(first) > mp.cos(second / m)))
    return one, [one[0], *angles], [one[0], *two]
