"""Circle loss: squares from weights, the slopes of both conventions, the gradient, the border, the least loss."""

from __future__ import annotations

from typing import NamedTuple

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, cosines, derivative, gradient, of_classes, of_embedding, step

TRIES = 30  # draws for an inequality


@step("circle-psi", "9b4836f0")
def _(draw: Draw) -> tuple:
    c, m = draw.number(-1, 1), draw.number(0, 1)
    return (1 + m - c) * (c - 1 + m), m**2 - (1 - c) ** 2


@step("circle-eta", "fefe2bda")
def _(draw: Draw) -> tuple:
    c, m = draw.number(-1, 1), draw.number(0, 1)
    return (c + m) * (c - m), c**2 - m**2


def _of_target(c: mpf, m: mpf) -> mpf:
    """Weight times distance from the mark."""
    return (1 + m - c) * (c - (1 - m))


def _of_other(c: mpf, m: mpf) -> mpf:
    return max(c + m, mpf(0)) * (c - m)


@step("circle-psi-slope", "61053f0e")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0, mp.pi), draw.number(0, 1)
    return (
        derivative(lambda t: _of_target(mp.cos(t), m), theta),
        derivative(lambda t: m**2 - (1 - mp.cos(t)) ** 2, theta),
        -2 * (1 - mp.cos(theta)) * mp.sin(theta),
    )


@step("circle-eta-slope", "fdc2c603")
def _(draw: Draw) -> tuple:
    m = draw.number(0.05, 0.95)
    above, below = -m + draw.number(0.01, 1) * (1 + m), -m - draw.number(0.01, 1) * (1 - m)
    return [derivative(lambda c: _of_other(c, m), at) for at in (above, below)], [2 * above, mpf(0)]


@step("circle-product", "f9ed43d5")
def _(draw: Draw) -> tuple:
    """For both weights."""
    c, m = draw.number(0, 1), draw.number(0, 1)
    numeric = [derivative(lambda a: _of_target(a, m), c), derivative(lambda a: _of_other(a, m), c)]
    return numeric, [(1 + m - c) + -1 * (c - (1 - m)), (c + m) + 1 * (c - m)]


@step("circle-detached", "ed791d8d")
def _(draw: Draw) -> tuple:
    """The weight stays as it is."""
    theta, c, m = draw.number(0, mp.pi), draw.number(-1, 1), draw.number(0, 1)
    weight, of_other = 1 + m - mp.cos(theta), max(c + m, mpf(0))
    of_target = derivative(lambda t: weight * (mp.cos(t) - (1 - m)), theta)
    return (
        [of_target, derivative(lambda a: of_other * (a - m), c)],
        [-weight * mp.sin(theta), of_other],
        [-(m + 1 - mp.cos(theta)) * mp.sin(theta), max(c + m, mpf(0))],
    )


@step("circle-apart", "7f0a4f27")
def _(draw: Draw) -> tuple:
    c, m = draw.number(-1, 1), draw.number(0, 1)
    return [(1 + m - c) - 2 * (1 - c), (c + m) - 2 * c], [c - (1 - m), m - c]


@step("circle-sign", "5e1790fc")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        c, m = draw.number(-1, 1), draw.number(0, 1)
        left.append(mpf(2 * c < 0 < c + m))
        right.append(mpf(-m < c < 0))
    return left, [left[0], *right]


class Sample(NamedTuple):
    """An embedding, class weights of which the first is the label's, settings, and the weights where constant."""

    x: Vector
    w: list[Vector]
    s: mpf
    m: mpf
    g: mpf
    weights: Vector | None


def _weights(c: Vector, m: mpf) -> Vector:
    return [1 + m - c[0], *(max(i + m, mpf(0)) for i in c[1:])]


def _sample(draw: Draw) -> Sample:
    """Drawn until some other class is on either side of -m; of either convention."""
    while True:
        x, w, m = draw.vector(3), [draw.vector(3) for _ in range(5)], draw.number(0.1, 0.6)
        c = cosines(x, w)
        if len({i > -m for i in c[1:]}) == 2:
            constant = _weights(c, m) if draw.whole(0, 1) else None
            return Sample(x, w, draw.number(1, 6), m, draw.number(0.1, 2), constant)


def _logits(each: Sample) -> Vector:
    c = cosines(each.x, each.w)
    weights = _weights(c, each.m) if each.weights is None else each.weights
    marks = [1 - each.m, *(each.m for _ in c[1:])]
    return [each.s * weight * (i - mark) for weight, i, mark in zip(weights, c, marks, strict=True)]


def _loss(each: Sample) -> mpf:
    z = _logits(each)
    return each.g * mp.log(mp.fsum(mp.exp(i - z[0]) for i in z))


def _slopes(each: Sample) -> Vector:
    """What each direction of the gradient is multiplied by: of the target minus ψ', then η' in the cosine."""
    e, c, m = [mp.exp(i) for i in _logits(each)], cosines(each.x, each.w), each.m
    sin = mp.sqrt(1 - c[0] ** 2)
    if each.weights is None:
        factors = [2 * (1 - c[0]) * sin, *(2 * i if i > -m else mpf(0) for i in c[1:])]
    else:
        factors = [(m + 1 - c[0]) * sin, *(i + m if i > -m else mpf(0) for i in c[1:])]
    return [each.g * (i / mp.fsum(e) - (k == 0)) * factors[k] for k, i in enumerate(e)]


@step("circle-x", "37401500")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    return gradient(lambda v: _loss(each._replace(x=v)), each.x), of_embedding(each.s, each.x, each.w, _slopes(each))


@step("circle-w", "5cb277a7")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    numeric = [
        gradient(lambda v, k=k: _loss(each._replace(w=[*each.w[:k], v, *each.w[k + 1 :]])), row)
        for k, row in enumerate(each.w)
    ]
    return numeric, of_classes(each.s, each.x, each.w, _slopes(each))


@step("circle-versine", "9bd35d26")
def _(draw: Draw) -> tuple:
    theta = draw.number(0, 3)
    return 1 - mp.cos(theta), mp.sin(theta) ** 2 / (1 + mp.cos(theta))


@step("circle-gap", "bef70c59")
def _(draw: Draw) -> tuple:
    s, m, below = draw.number(1, 64), draw.number(0, 1), []
    for _ in range(TRIES):
        c = draw.vector(draw.whole(2, 6), -1, 1)
        f = [_of_target(c[0], m), *(_of_other(i, m) for i in c[1:])]
        loss = mp.log(mp.fsum(mp.exp(s * (i - f[0])) for i in f))
        below += [Below(f[0] - i, 2 * m**2) for i in f[1:]]
        below.append(Below(mp.log(1 + (len(c) - 1) * mp.exp(-2 * s * m**2)), loss))
    best = _of_target(mpf(1), m) - _of_other(mpf(0), m)
    return best, 2 * m**2, *below


@step("circle-border", "f7440528")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        target, other, m = draw.number(-1, 1), draw.number(-1, 1), draw.number(0, 1)
        left.append(mpf(_of_target(target, m) > _of_other(other, m)))
        inside = other**2 + (1 - target) ** 2 < 2 * m**2 if other > -m else target > 1 - m
        right.append(mpf(inside))
    return left, [left[0], *right]
