"""Angles: the inner product, the scale, gradients of lengths, directions, cosines and angles."""

from __future__ import annotations

from collections.abc import Callable

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, derivative, dot, gradient, norm, step
from derivations import unit as _direction

TRIES = 20  # draws for an inequality


def _two(draw: Draw) -> tuple[Vector, Vector]:
    size = draw.whole(2, 5)
    return draw.vector(size), draw.vector(size)


def _minus(a: Vector, b: Vector) -> Vector:
    return [i - j for i, j in zip(a, b, strict=True)]


def _times(factor: mpf, a: Vector) -> Vector:
    return [factor * entry for entry in a]


def _angle(a: Vector, b: Vector) -> mpf:
    """From lengths alone: half the angle of unit vectors is atan2 of the lengths of difference and sum (Kahan)."""
    a, b = _direction(a), _direction(b)
    return 2 * mp.atan2(norm(_minus(a, b)), norm([i + j for i, j in zip(a, b, strict=True)]))


def _tangent(x: Vector, w: Vector) -> Vector:
    """The unit tangent at x towards w, by the step of Gram and Schmidt."""
    return _direction(_minus(w, _times(dot(w, x) / dot(x, x), x)))


def _loss(draw: Draw, size: int) -> Callable[[Vector], mpf]:
    """A function of a direction, of no meaning."""
    a, b = draw.vector(size), draw.vector(size)
    return lambda v: mp.exp(dot(a, v)) + mp.sin(dot(b, v)) * v[0]


@step("angles-law", "70806d7d")
def _(draw: Draw) -> tuple:
    w, x = _two(draw)
    return (
        norm(_minus(w, x)) ** 2,
        norm(w) ** 2 + norm(x) ** 2 - 2 * norm(w) * norm(x) * mp.cos(_angle(w, x)),
    )


@step("angles-expand", "d521216b")
def _(draw: Draw) -> tuple:
    w, x = _two(draw)
    return norm(_minus(w, x)) ** 2, norm(w) ** 2 + norm(x) ** 2 - 2 * dot(w, x)


@step("angles-product", "8600b348")
def _(draw: Draw) -> tuple:
    w, x = _two(draw)
    return dot(w, x), norm(w) * norm(x) * mp.cos(_angle(w, x))


@step("angles-logit", "1c194c0e")
def _(draw: Draw) -> tuple:
    (w, x), b = _two(draw), draw.number()
    return dot(w, x) + b, norm(w) * norm(x) * mp.cos(_angle(w, x)) + b


@step("angles-difference", "a035c4a0")
def _(draw: Draw) -> tuple:
    (w, x), v = _two(draw), draw.number()
    other = [entry + v * k for k, entry in enumerate(reversed(w))]
    return (
        dot(_minus(w, other), x),
        norm(x) * (norm(w) * mp.cos(_angle(w, x)) - norm(other) * mp.cos(_angle(other, x))),
    )


@step("angles-unit", "ff40361a")
def _(draw: Draw) -> tuple:
    w, x = _two(draw)
    return dot(_direction(w), x), norm(x) * mp.cos(_angle(w, x))


def _centres(draw: Draw) -> list[Vector]:
    size = draw.whole(2, 5)
    return [draw.unit(size) for _ in range(draw.whole(3, 6))]  # with two, a mean of one cosine is that cosine


def _simplex(classes: int) -> list[Vector]:
    """Unit vectors as far apart as can be."""
    share = mpf(1) / classes
    return [_direction([(i == k) - share for i in range(classes)]) for k in range(classes)]


def _cosines(w: list[Vector]) -> mpf:
    return mp.fsum(dot(w[k], w[y]) for y in range(len(w)) for k in range(len(w)) if k != y)


@step("angles-square", "1924d42e")
def _(draw: Draw) -> tuple:
    w = _centres(draw)
    added = [mp.fsum(column) for column in zip(*w, strict=True)]
    return norm(added) ** 2, len(w) + _cosines(w), Below(mpf(0), norm(added) ** 2)


@step("angles-mean-cosine", "80df8231")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        w = _centres(draw)
        sides.append(Below(-mpf(1) / (len(w) - 1), _cosines(w) / (len(w) * (len(w) - 1))))
    classes = draw.whole(2, 6)
    return _cosines(_simplex(classes)) / (classes * (classes - 1)), -mpf(1) / (classes - 1), *sides


def _at_centre(w: list[Vector], y: int, s: mpf) -> mpf:
    """NormFace of a sample at the centre of its class."""
    logits = [s * dot(row, w[y]) for row in w]
    return -mp.log(mp.exp(logits[y]) / mp.fsum(map(mp.exp, logits)))


@step("angles-centre-loss", "017ae637")
def _(draw: Draw) -> tuple:
    w, s = _centres(draw), draw.number(0.1, 10)
    y = draw.whole(0, len(w) - 1)
    return (
        _at_centre(w, y, s),
        mp.log(1 + mp.fsum(mp.exp(s * (dot(w[k], w[y]) - 1)) for k in range(len(w)) if k != y)),
    )


@step("angles-jensen", "9a4d2d12")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        w, s = _centres(draw), draw.number(0.1, 10)
        y = draw.whole(0, len(w) - 1)
        mean = mp.fsum(dot(w[k], w[y]) for k in range(len(w)) if k != y) / (len(w) - 1)
        sides.append(Below(mp.log(1 + (len(w) - 1) * mp.exp(s * (mean - 1))), _at_centre(w, y, s)))
    classes, s = draw.whole(3, 6), draw.number(0.1, 10)  # equal cosines: equality, with their mean -1/(C - 1)
    return (
        _at_centre(_simplex(classes), 0, s),
        mp.log(1 + (classes - 1) * mp.exp(s * (-mpf(1) / (classes - 1) - 1))),
        *sides,
    )


def _scale_bound(classes: int, s: mpf) -> mpf:
    return mp.log(1 + (classes - 1) * mp.exp(-s * mpf(classes) / (classes - 1)))


@step("angles-scale-bound", "f169586f")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        w, s = _centres(draw), draw.number(0.1, 10)
        mean = mp.fsum(_at_centre(w, y, s) for y in range(len(w))) / len(w)
        sides.append(Below(_scale_bound(len(w), s), mean))
    classes, s = draw.whole(2, 6), draw.number(0.1, 10)
    best = _simplex(classes)
    return mp.fsum(_at_centre(best, y, s) for y in range(classes)) / classes, _scale_bound(classes, s), *sides


@step("angles-scale", "c90aca61")
def _(draw: Draw) -> tuple:
    classes, epsilon = draw.whole(2, 1000), draw.number(0.001, 1)
    s = mpf(classes - 1) / classes * mp.log((classes - 1) / (mp.exp(epsilon) - 1))
    return _scale_bound(classes, s), epsilon


@step("angles-length-slope", "05d3c701")
def _(draw: Draw) -> tuple:
    v = draw.vector(draw.whole(2, 5))
    return (
        gradient(norm, v),
        _times(1 / (2 * norm(v)), gradient(lambda u: mp.fsum(entry**2 for entry in u), v)),
        [entry / norm(v) for entry in v],
        _direction(v),
    )


@step("angles-direction-slope", "95f37c74")
def _(draw: Draw) -> tuple:
    v = draw.vector(draw.whole(2, 4))
    size, unit = range(len(v)), _direction(v)
    return (
        [gradient(lambda u, i=i: _direction(u)[i], v) for i in size],
        [(i == j) / norm(v) - v[i] / norm(v) ** 2 * unit[j] for i in size for j in size],
        [((i == j) - unit[i] * unit[j]) / norm(v) for i in size for j in size],
    )


@step("angles-project", "47665c5c")
def _(draw: Draw) -> tuple:
    v = draw.vector(draw.whole(2, 4))
    loss, unit, size = _loss(draw, len(v)), _direction(v), range(len(v))
    g = gradient(loss, unit)
    slopes = [gradient(lambda u, i=i: _direction(u)[i], v) for i in size]
    return (
        gradient(lambda u: loss(_direction(u)), v),
        [mp.fsum(g[i] * slopes[i][j] for i in size) for j in size],
        [(g[j] - dot(g, unit) * unit[j]) / norm(v) for j in size],
    )


@step("angles-tangential", "a137e656")
def _(draw: Draw) -> tuple:
    v = draw.vector(draw.whole(2, 4))
    loss, unit = _loss(draw, len(v)), _direction(v)
    g, whole = gradient(loss, unit), gradient(lambda u: loss(_direction(u)), v)
    return (
        [dot(v, whole), dot(g, unit)],
        [dot(g, unit) - dot(g, unit) * dot(unit, unit), dot(g, unit) * dot(unit, unit)],
        [0, dot(g, unit)],
    )


@step("angles-homogeneous", "12ce3d2d")
def _(draw: Draw) -> tuple:
    v, c = draw.vector(draw.whole(2, 4)), draw.number(0.1, 5)
    loss = _loss(draw, len(v))
    return (
        gradient(lambda u: loss(_direction(u)), _times(c, v)),
        _times(1 / c, gradient(lambda u: loss(_direction(u)), v)),
    )


@step("angles-growth", "d37dc788")
def _(draw: Draw) -> tuple:
    v, eta = draw.vector(draw.whole(2, 4)), draw.number(0.1, 2)
    loss = _loss(draw, len(v))
    slope = gradient(lambda u: loss(_direction(u)), v)
    return norm(_minus(v, _times(eta, slope))) ** 2, norm(v) ** 2 + eta**2 * norm(slope) ** 2


@step("angles-split", "7d5d8eb4")
def _(draw: Draw) -> tuple:
    w, x = _two(draw)
    theta, t, unit = _angle(w, x), _tangent(x, w), _direction(x)
    return (
        [*_direction(w), dot(t, unit)],
        [*(mp.cos(theta) * i + mp.sin(theta) * j for i, j in zip(unit, t, strict=True)), 0],
    )


@step("angles-cosine-gradient", "9cd79e24")
def _(draw: Draw) -> tuple:
    w, x = _two(draw)
    theta = _angle(w, x)
    return (
        gradient(lambda v: dot(w, v) / (norm(w) * norm(v)), x),
        [(i - mp.cos(theta) * j) / norm(x) for i, j in zip(_direction(w), _direction(x), strict=True)],
        _times(mp.sin(theta) / norm(x), _tangent(x, w)),
    )


@step("angles-gradient", "64d08480")
def _(draw: Draw) -> tuple:
    w, x = _two(draw)
    return (
        gradient(lambda v: _angle(w, v), x),
        _times(-1 / mp.sin(_angle(w, x)), gradient(lambda v: mp.cos(_angle(w, v)), x)),
        _times(-1 / norm(x), _tangent(x, w)),
    )


@step("angles-gradient-weight", "8d7943c6")
def _(draw: Draw) -> tuple:
    w, x = _two(draw)
    theta, t, unit = _angle(w, x), _tangent(w, x), _direction(w)
    return (
        [*gradient(lambda v: _angle(v, x), w), *_direction(x)],
        [*_times(-1 / norm(w), t), *(mp.cos(theta) * i + mp.sin(theta) * j for i, j in zip(unit, t, strict=True))],
    )


@step("angles-turn", "5f9c0887")
def _(draw: Draw) -> tuple:
    (w, x), alpha = _two(draw), draw.number()
    theta, unit = _angle(w, x), _direction(x)
    turned = [mp.cos(alpha) * i + mp.sin(alpha) * j for i, j in zip(unit, _tangent(x, w), strict=True)]
    return (
        dot(_direction(w), turned),
        mp.cos(theta) * mp.cos(alpha) + mp.sin(theta) * mp.sin(alpha),
        mp.cos(theta - alpha),
    )


@step("angles-negatives", "8ecdcc4b")
def _(draw: Draw) -> tuple:
    size, classes, s = draw.whole(2, 4), draw.whole(2, 4), draw.number(1, 10)
    x, w = draw.vector(size), [draw.vector(size) for _ in range(classes)]
    slopes, y, unit = draw.vector(classes), draw.whole(0, classes - 1), _direction(x)
    others = [k for k in range(classes) if k != y]
    g = [mp.fsum(s * slopes[k] * _direction(w[k])[i] for k in others) for i in range(size)]
    return (
        gradient(lambda v: mp.fsum(s * slopes[k] * mp.cos(_angle(w[k], v)) for k in others), x),
        [(g[i] - dot(g, unit) * unit[i]) / norm(x) for i in range(size)],
    )


@step("angles-target", "4d25ee86")
def _(draw: Draw) -> tuple:
    (w, x), s, slope = _two(draw), draw.number(1, 10), draw.number()
    a, b = draw.number(), draw.number(0.5, 2)

    def psi(theta: mpf) -> mpf:  # any curve has to do
        return a * mp.sin(b * theta) + mp.exp(b * theta)

    return (
        _times(s * slope, gradient(lambda v: psi(_angle(w, v)), x)),
        _times(-s * slope * derivative(psi, _angle(w, x)) / norm(x), _tangent(x, w)),
    )
