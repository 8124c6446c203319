"""UniFace: a softmax with the threshold alone, CosFace below it, the gradient within bounds, the bias to start with."""

from __future__ import annotations

from typing import NamedTuple

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, across, cosines, derivative, gradient, gradients, sigma, softplus, step

TRIES = 20  # draws for an inequality


@step("uni-two", "46e683b0")
def _(draw: Draw) -> tuple:
    u, b = draw.number(-4, 4), draw.number(-4, 4)
    both = mp.exp(u) + mp.exp(b)
    return [softplus(b - u), softplus(u - b)], [-mp.log(mp.exp(u) / both), -mp.log(mp.exp(b) / both)]


@step("uni-threshold", "3892cdd4")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        c, s, m, b = draw.number(-1, 1), draw.number(1, 6), draw.number(0, 1), draw.number()
        left += [mpf(s * (c - m) - b > 0), mpf(s * c - b < 0)]
        right += [mpf(c > m + b / s), mpf(c < b / s)]
    return left, [left[0], *right]


@step("uni-product", "c5c26319")
def _(draw: Draw) -> tuple:
    z = draw.vector(5, -4, 4)
    total = mp.fsum(map(softplus, z))
    return total, mp.log(mp.fprod(1 + mp.exp(i) for i in z)), Below(mp.log(1 + mp.fsum(map(mp.exp, z))), total)


@step("uni-cosface", "06f096b5")
def _(draw: Draw) -> tuple:
    """The right side is the cross entropy of CosFace, whatever b is."""
    c, s, m, b = draw.vector(5, -1, 1), draw.number(1, 6), draw.number(0, 1), draw.number()
    z = [s * (c[0] - m) - b, *(s * i - b for i in c[1:])]
    cosface = [s * (c[0] - m), *(s * i for i in c[1:])]
    right = mp.log(1 + mp.fsum(mp.exp(i - z[0]) for i in z[1:]))
    left = softplus(-z[0]) + mp.fsum(map(softplus, z[1:]))
    return (
        [right, *(i - z[0] for i in z[1:])],
        [mp.log(mp.fsum(map(mp.exp, cosface))) - cosface[0], *(s * (i - c[0] + m) for i in c[1:])],
        Below(right, left),
    )


class Sample(NamedTuple):
    """An embedding, class weights of which the first is the label's, and settings."""

    x: Vector
    w: list[Vector]
    b: mpf
    s: mpf
    m: mpf
    others: mpf


def _unheld(each: Sample) -> Vector:
    c = cosines(each.x, each.w)
    return [each.s * (c[0] - each.m) - each.b, *(each.s * i - each.b for i in c[1:])]


def _sample(draw: Draw) -> Sample:
    """Drawn until some logits are beyond a bound, and some are not."""
    while True:
        x, w, m = draw.vector(3), [draw.vector(3) for _ in range(5)], draw.number(0, 1)
        each = Sample(x, w, draw.number(), draw.number(1, 4), m, draw.number(0.2, 2))
        if len({abs(i) > each.s for i in _unheld(each)}) == 2:
            return each


def _of_logits(each: Sample, z: Vector) -> mpf:
    return softplus(-z[0]) + each.others * mp.fsum(map(softplus, z[1:]))


def _loss(each: Sample) -> mpf:
    return _of_logits(each, [min(max(i, -each.s), each.s) for i in _unheld(each)])


def _big_g(each: Sample, z: Vector) -> Vector:
    return [-sigma(-z[0]), *(each.others * sigma(i) for i in z[1:])]


def _factors(each: Sample) -> Vector:
    """G h."""
    z = _unheld(each)
    return [i if abs(j) <= each.s else mpf(0) for i, j in zip(_big_g(each, z), z, strict=True)]


@step("uni-logits", "c68aff67")
def _(draw: Draw) -> tuple:
    each, z = _sample(draw), draw.vector(5)
    return gradient(lambda v: _of_logits(each, v), z), _big_g(each, z)


@step("uni-x", "8f0434a2")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    factors = _factors(each)
    of_x = gradient(lambda v: _loss(each._replace(x=v)), each.x)
    of_w = gradients(lambda rows: _loss(each._replace(w=rows)), each.w)
    by_hand = [across(each.s, w, [each.x], [f]) for f, w in zip(factors, each.w, strict=True)]
    return [of_x, of_w], [across(each.s, each.x, each.w, factors), by_hand]


@step("uni-bias", "39ee5108")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    return derivative(lambda b: _loss(each._replace(b=b)), each.b), -mp.fsum(_factors(each))


@step("uni-bounds", "7cc6fe92")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        c, s, m, b = draw.number(-1, 1), draw.number(1, 6), draw.number(0, 1), draw.number(-1, 4)
        left += [mpf(s * (c - m) - b < -s), mpf(s * c - b < -s)]
        right += [mpf(c < m - 1 + b / s), mpf(c < b / s - 1)]
    return left, [left[0], *right]


@step("uni-start", "5a28625a")
def _(draw: Draw) -> tuple:
    classes = draw.whole(1, 10**6)
    push = (classes - 1) * sigma(-mp.log(10 * classes))
    return push, mpf(classes - 1) / (1 + 10 * classes), Below(push, mpf(1) / 10, strict=True)
