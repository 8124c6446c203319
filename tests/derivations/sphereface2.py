"""SphereFace2: yes and no, a power of half an angle, the gradient, thresholds, the first bias, the least loss."""

from __future__ import annotations

from typing import NamedTuple

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, across, cosines, derivative, gradient, gradients, sigma, softplus, step

TRIES = 20  # draws for an inequality


def _g(c: mpf, t: int) -> mpf:
    return 2 * ((1 + c) / 2) ** t - 1


@step("sf2-answers", "e667bb14")
def _(draw: Draw) -> tuple:
    z = draw.number(-5, 5)
    return [-mp.log(sigma(z)), -mp.log(1 - sigma(z))], [softplus(-z), softplus(z)]


class Sample(NamedTuple):
    """An embedding, class weights of which the first is the label's, and settings."""

    x: Vector
    w: list[Vector]
    b: mpf
    s: mpf
    m: mpf
    t: int
    positive: mpf
    negative: mpf


def _sample(draw: Draw) -> Sample:
    weights = draw.number(0.1, 2), draw.number(0.1, 2)
    x, w = draw.vector(3), [draw.vector(3) for _ in range(4)]
    return Sample(x, w, draw.number(), draw.number(1, 6), draw.number(0, 1), draw.whole(1, 5), *weights)


def _logits(each: Sample) -> Vector:
    of_classes = [_g(c, each.t) for c in cosines(each.x, each.w)]
    return [each.s * (g + (-each.m if k == 0 else each.m)) + each.b for k, g in enumerate(of_classes)]


def _of_logits(each: Sample, z: Vector) -> mpf:
    return each.positive * softplus(-z[0]) + each.negative * mp.fsum(softplus(i) for i in z[1:])


def _loss(each: Sample) -> mpf:
    return _of_logits(each, _logits(each))


def _big_g(each: Sample) -> Vector:
    z = _logits(each)
    return [-each.positive * sigma(-z[0]), *(each.negative * sigma(i) for i in z[1:])]


@step("sf2-logits", "b86182db")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    return gradient(lambda z: _of_logits(each, z), _logits(each)), _big_g(each)


@step("sf2-bias", "27010ba1")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    return derivative(lambda b: _loss(each._replace(b=b)), each.b), mp.fsum(_big_g(each))


@step("sf2-half", "d6fbdaf0")
def _(draw: Draw) -> tuple:
    theta, t = draw.number(0, mp.pi), draw.whole(1, 6)
    return _g(mp.cos(theta), t), 2 * mp.cos(theta / 2) ** (2 * t) - 1


@step("sf2-slope", "52b02d49")
def _(draw: Draw) -> tuple:
    theta, t = draw.number(0.1, 3), draw.whole(1, 6)
    c = mp.cos(theta)
    return (
        [derivative(lambda a: _g(a, t), c), derivative(lambda a: _g(mp.cos(a), t), theta)],
        [t * ((1 + c) / 2) ** (t - 1), -t * mp.cos(theta / 2) ** (2 * t - 2) * mp.sin(theta)],
    )


def _factors(each: Sample) -> Vector:
    slopes = [each.t * ((1 + c) / 2) ** (each.t - 1) for c in cosines(each.x, each.w)]
    return [i * slope for i, slope in zip(_big_g(each), slopes, strict=True)]


@step("sf2-x", "28101ec6")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    factors = _factors(each)
    of_x = gradient(lambda v: _loss(each._replace(x=v)), each.x)
    of_w = gradients(lambda rows: _loss(each._replace(w=rows)), each.w)
    by_hand = [across(each.s, w, [each.x], [f]) for f, w in zip(factors, each.w, strict=True)]
    return [of_x, of_w], [across(each.s, each.x, each.w, factors), by_hand]


@step("sf2-detached", "1c3a4545")
def _(draw: Draw) -> tuple:
    """What is added to the cosine stays as it is."""
    each = _sample(draw)
    added = [z - each.s * c for z, c in zip(_logits(each), cosines(each.x, each.w), strict=True)]

    def loss(x: Vector) -> mpf:
        return _of_logits(each, [each.s * c + i for c, i in zip(cosines(x, each.w), added, strict=True)])

    return gradient(loss, each.x), across(each.s, each.x, each.w, _big_g(each))


@step("sf2-threshold", "69cd7dc4")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        c, s, m, b, t = draw.number(-1, 1), draw.number(1, 6), draw.number(0, 1), draw.number(), draw.whole(1, 4)
        left += [mpf(s * (_g(c, t) - m) + b > 0), mpf(s * (_g(c, t) + m) + b < 0)]
        right += [mpf(_g(c, t) > m - b / s), mpf(_g(c, t) < -m - b / s)]
    return left, [left[0], *right]


@step("sf2-start", "10143e59")
def _(draw: Draw) -> tuple:
    alpha, s, m = draw.number(0.1, 0.9), draw.number(1, 6), draw.number(0, 1)
    classes, t = draw.whole(2, 50), draw.whole(1, 4)
    of_target, of_others = s * (_g(mpf(0), t) - m), s * (_g(mpf(0), t) + m)
    q = alpha / ((1 - alpha) * (classes - 1))
    root = mp.sqrt((1 - q) ** 2 + 4 * q * mp.exp(of_target - of_others))
    b = mp.log(2 * q * mp.exp(-of_others) / (1 - q + root))
    return alpha * sigma(-of_target - b), (1 - alpha) * (classes - 1) * sigma(of_others + b)


@step("sf2-least", "a3c31316")
def _(draw: Draw) -> tuple:
    below = []
    for _ in range(TRIES):
        each = _sample(draw)
        edge = each.s * (1 - each.m)
        least = each.positive * softplus(-edge - each.b)
        least += (len(each.w) - 1) * each.negative * softplus(-edge + each.b)
        below.append(Below(least, _loss(each)))
    return tuple(below)


@step("sf2-opposite", "60fa63a0")
def _(draw: Draw) -> tuple:
    theta = draw.number(0.1, 3)
    return (1 + mp.cos(theta)) / 2, mp.sin(theta) ** 2 / (2 * (1 - mp.cos(theta)))
