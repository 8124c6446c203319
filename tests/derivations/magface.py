"""MagFace: the slope in the length, its gradient, where the length comes to rest, how large λ has to be."""

from __future__ import annotations

from typing import NamedTuple

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, derivative, dot, gradient, norm, step, towards, unit

TRIES = 30  # draws for an inequality


class Sample(NamedTuple):
    """An embedding between the bounds, class weights of which the first is the label's, and settings."""

    x: Vector
    w: list[Vector]
    s: mpf
    low: mpf
    high: mpf
    least: mpf
    most: mpf
    weight: mpf
    g: mpf
    h: mpf


def _sample(draw: Draw) -> Sample:
    size = draw.whole(2, 4)
    w = [draw.vector(size) for _ in range(draw.whole(2, 4))]
    low, high = draw.number(0.5, 1), draw.number(2, 3)
    x = [draw.number(1.1, 1.9) * i for i in draw.unit(size)]
    x = [entry / norm(x) * draw.number(1.1, 1.9) for entry in x]
    margins = draw.number(0, 0.4), draw.number(0.5, 0.8)
    return Sample(x, w, draw.number(1, 4), low, high, *margins, draw.number(0.1, 3), *draw.vector(2, 0.1, 2))


def _slope(each: Sample) -> mpf:
    return (each.most - each.least) / (each.high - each.low)


def _margin(each: Sample) -> mpf:
    return each.least + _slope(each) * (norm(each.x) - each.low)


def _logits(each: Sample, m: mpf) -> Vector:
    c = [dot(unit(each.x), unit(row)) for row in each.w]
    return [each.s * mp.cos(mp.acos(c[0]) + m), *(each.s * i for i in c[1:])]


def _cross_entropy(z: Vector) -> mpf:
    return mp.log(mp.fsum(mp.exp(i - z[0]) for i in z))


def _loss(each: Sample) -> mpf:
    a = norm(each.x)
    term = each.weight * (a / each.high**2 + 1 / a)
    return each.g * _cross_entropy(_logits(each, _margin(each))) + each.h * term


def _in_logits(each: Sample) -> Vector:
    e = [mp.exp(i) for i in _logits(each, _margin(each))]
    return [each.g * (i / mp.fsum(e) - (k == 0)) for k, i in enumerate(e)]


def _theta(each: Sample) -> mpf:
    return mp.acos(dot(unit(each.x), unit(each.w[0])))


def _along(each: Sample) -> mpf:
    """The loss differentiated along the embedding."""
    direction = unit(each.x)
    return derivative(lambda a: _loss(each._replace(x=[a * i for i in direction])), norm(each.x))


@step("magface-length", "7afe2c66")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    theta, a = _theta(each), norm(each.x)
    in_margin = derivative(lambda m: mp.cos(theta + m), _margin(each))
    of_term = each.h * each.weight * (1 / each.high**2 - 1 / a**2)
    return _along(each), each.s * _in_logits(each)[0] * in_margin * _slope(each) + of_term


@step("magface-length-one", "00298364")
def _(draw: Draw) -> tuple:
    each = _sample(draw)._replace(g=mpf(1), h=mpf(1))
    theta, a, m = _theta(each), norm(each.x), _margin(each)
    p = mp.exp(-_cross_entropy(_logits(each, m)))
    pull = each.weight * (1 / a**2 - 1 / each.high**2)
    return _along(each), each.s * (1 - p) * mp.sin(theta + m) * _slope(each) - pull


@step("magface-stable", "11a95f0b")
def _(draw: Draw) -> tuple:
    a, u = draw.number(1, 10), draw.number(1, 10)
    return 1 / u**2 - 1 / a**2, (a - u) * (a + u) / (a * u) ** 2


@step("magface-x", "72bb4112")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    g, turned = _in_logits(each), _theta(each) + _margin(each)
    terms = [[g[k] * i for i in towards(each.x, row)] for k, row in enumerate(each.w) if k]
    terms.append([g[0] * mp.sin(turned) * i for i in unit(towards(each.x, each.w[0]))])
    across = [each.s / norm(each.x) * mp.fsum(column) for column in zip(*terms, strict=True)]
    by_hand = [i + _along(each) * j for i, j in zip(across, unit(each.x), strict=True)]
    return gradient(lambda v: _loss(each._replace(x=v)), each.x), by_hand


@step("magface-w", "930dc347")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    g, turned = _in_logits(each), _theta(each) + _margin(each)
    numeric, by_hand = [], []
    for k, row in enumerate(each.w):
        numeric.append(gradient(lambda v, k=k: _loss(each._replace(w=[*each.w[:k], v, *each.w[k + 1 :]])), row))
        direction, factor = towards(row, each.x), mpf(1)
        if k == 0:
            direction, factor = unit(direction), mp.sin(turned)
        by_hand.append([each.s * g[k] * factor * i / norm(row) for i in direction])
    return numeric, by_hand


@step("magface-balance", "20f5162d")
def _(draw: Draw) -> tuple:
    weight, u, q = draw.number(1, 40), draw.number(50, 150), draw.number(0, 0.3)
    a = (1 / u**2 + q / weight) ** mpf(-0.5)
    root = mp.findroot(lambda t: weight * (1 / t**2 - 1 / u**2) - q, a * mpf("1.001"))
    return [root, q], [a, weight * (1 / a**2 - 1 / u**2)], Below(a, u)


@step("magface-lambda", "e1f63a11")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        low, high, s, kappa = draw.number(1, 20), draw.number(50, 150), draw.number(1, 64), draw.number(0.001, 0.01)
        weight = draw.number(0, 2) * s * kappa * low**2
        left.append(mpf(weight * (1 / low**2 - 1 / high**2) >= s * kappa))
        right.append(mpf(weight >= s * kappa * high**2 * low**2 / (high**2 - low**2)))
    return left, [left[0], *right]
