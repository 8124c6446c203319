"""Margins per sample: the gradient of every input, what rules make of that in the margin, the chain rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mpmath import mp, mpf

from derivations import Draw, Vector, derivative, dot, gradient, norm, step, towards, unit


class Sample(NamedTuple):
    """An embedding, class weights, the label, scale, margin, and the weight in the reduction."""

    x: Vector
    w: list[Vector]
    y: int
    s: mpf
    m: mpf
    g: mpf


def _sample(draw: Draw) -> Sample:
    size, classes = draw.whole(2, 4), draw.whole(2, 4)
    w = [draw.vector(size) for _ in range(classes)]
    return Sample(
        draw.vector(size), w, draw.whole(0, classes - 1), draw.number(1, 4), draw.number(-0.5, 0.5), draw.number(0.1, 2)
    )


def _on_angle(theta: mpf, m: mpf) -> mpf:
    return mp.cos(theta + m)


def _on_cosine(theta: mpf, m: mpf) -> mpf:
    return mp.cos(theta) - m


def _angle(x: Vector, w: Vector) -> mpf:
    return mp.acos(dot(unit(x), unit(w)))


def _cross_entropy(z: Vector, y: int) -> mpf:
    return mp.log(mp.fsum(mp.exp(entry - z[y]) for entry in z))


def _logits(each: Sample, psi: Callable[[mpf, mpf], mpf]) -> Vector:
    angles = [_angle(each.x, row) for row in each.w]
    return [each.s * (psi(theta, each.m) if k == each.y else mp.cos(theta)) for k, theta in enumerate(angles)]


def _loss(each: Sample, psi: Callable[[mpf, mpf], mpf] = _on_angle) -> mpf:
    return each.g * _cross_entropy(_logits(each, psi), each.y)


def _in_logits(each: Sample, psi: Callable[[mpf, mpf], mpf] = _on_angle) -> Vector:
    """G."""
    e = [mp.exp(entry) for entry in _logits(each, psi)]
    return [each.g * (entry / mp.fsum(e) - (k == each.y)) for k, entry in enumerate(e)]


@step("per-sample-logits", "2982b31b")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    z, theta = _logits(each, _on_angle), _angle(each.x, each.w[each.y])

    def of_angle(t: mpf) -> mpf:
        return each.g * _cross_entropy([*z[: each.y], each.s * mp.cos(t + each.m), *z[each.y + 1 :]], each.y)

    of_logits, in_logits = gradient(lambda v: each.g * _cross_entropy(v, each.y), z), _in_logits(each)
    slope = derivative(lambda t: mp.cos(t + each.m), theta)
    return [*of_logits, derivative(of_angle, theta)], [*in_logits, each.s * in_logits[each.y] * slope]


@step("per-sample-tangents", "c4f74db8")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    x, w = unit(each.x), unit(each.w[each.y])
    theta = _angle(x, w)
    sides = [(towards(x, w), x, w), (towards(w, x), w, x)]
    return (
        [unit(rest) for rest, _, _ in sides],
        [[(j - mp.cos(theta) * i) / mp.sin(theta) for i, j in zip(a, b, strict=True)] for _, a, b in sides],
    )


@step("per-sample-x", "d5b78577")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    theta, g = _angle(each.x, each.w[each.y]), _in_logits(each)
    tangent = unit(towards(each.x, each.w[each.y]))
    others = [[g[k] * i for i in towards(each.x, row)] for k, row in enumerate(each.w) if k != each.y]
    summed = [mp.fsum(column) for column in zip(*others, strict=True)]
    by_hand = [i + g[each.y] * mp.sin(theta + each.m) * t for i, t in zip(summed, tangent, strict=True)]
    return gradient(lambda v: _loss(each._replace(x=v)), each.x), [each.s / norm(each.x) * i for i in by_hand]


@step("per-sample-w", "930dc347")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    theta, g = _angle(each.x, each.w[each.y]), _in_logits(each)
    numeric, by_hand = [], []
    for k, row in enumerate(each.w):
        numeric.append(gradient(lambda v, k=k: _loss(each._replace(w=[*each.w[:k], v, *each.w[k + 1 :]])), row))
        if k == each.y:
            tangent = unit(towards(row, each.x))
            by_hand.append([each.s * g[k] * mp.sin(theta + each.m) * i / norm(row) for i in tangent])
        else:
            by_hand.append([each.s * g[k] * i / norm(row) for i in towards(row, each.x)])
    return numeric, by_hand


@step("per-sample-m", "623e8800")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    theta = _angle(each.x, each.w[each.y])
    sides = [[], []]
    for psi in (_on_angle, _on_cosine):
        sides[0].append(derivative(lambda m, psi=psi: _loss(each._replace(m=m), psi), each.m))
        in_logit = _in_logits(each, psi)[each.y]
        sides[1].append(each.s * in_logit * derivative(lambda m, psi=psi: psi(theta, m), each.m))
    return tuple(sides)


@step("per-sample-m-two", "4df082a8")
def _(draw: Draw) -> tuple:
    each = _sample(draw)
    theta = _angle(each.x, each.w[each.y])
    numeric, by_hand = [], []
    for psi, factor in ((_on_angle, mp.sin(theta + each.m)), (_on_cosine, mpf(1))):
        p = mp.exp(-_loss(each._replace(g=mpf(1)), psi))
        numeric.append(derivative(lambda m, psi=psi: _loss(each._replace(m=m), psi), each.m))
        by_hand.append(each.g * each.s * (1 - p) * factor)
    return numeric, by_hand


@step("per-sample-m-hard", "a1da92ee")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0, mp.pi), draw.number(0, 1)
    return derivative(lambda t: mp.cos(theta) - t * mp.sin(t), m), -(mp.sin(m) + m * mp.cos(m))


@step("per-sample-m-continuous", "61eb0379")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0, mp.pi), draw.number(0, 1)
    numeric = [
        derivative(lambda t: mp.cos(theta) + mp.cos(t) - 1, m),
        derivative(lambda t: -mp.cos(theta + t) - 2, m),
    ]
    return numeric, [-mp.sin(m), mp.sin(theta + m)]


@step("per-sample-chain", "0169b5f6")
def _(draw: Draw) -> tuple:
    samples = [_sample(draw) for _ in range(2)]
    a, b, q = draw.vector(2, -1, 1), draw.vector(2, -1, 1), draw.number()

    def margins(t: mpf) -> Vector:
        return [i * mp.sin(t) + j for i, j in zip(a, b, strict=True)]

    def total(t: mpf, m: Vector) -> mpf:  # q is in the embeddings too
        moved = [each._replace(x=[i + t for i in each.x], m=j) for each, j in zip(samples, m, strict=True)]
        return mp.fsum(_loss(each) for each in moved)

    in_margins = gradient(lambda m: total(q, m), margins(q))
    slopes = [derivative(lambda t, n=n: margins(t)[n], q) for n in range(2)]
    fixed = margins(q)
    return (
        derivative(lambda t: total(t, margins(t)), q),
        derivative(lambda t: total(t, fixed), q) + dot(in_margins, slopes),
    )


@step("per-sample-adaptive", "00be0e36")
def _(draw: Draw) -> tuple:
    classes, weight = draw.whole(2, 4), draw.number(0, 5)
    w, s, margins = [draw.vector(3) for _ in range(classes)], draw.number(1, 4), draw.vector(classes, 0, 1)
    samples = [Sample(draw.vector(3), w, draw.whole(0, classes - 1), s, mpf(0), draw.number(0.1, 2)) for _ in range(3)]

    def total(m: Vector) -> mpf:
        losses = [_loss(each._replace(m=m[each.y]), _on_cosine) for each in samples]
        return mp.fsum(losses) - weight / classes * mp.fsum(m)

    by_hand = []
    for k in range(classes):
        own = [each._replace(m=margins[k]) for each in samples if each.y == k]
        missing = [each.g * (1 - mp.exp(-_loss(each._replace(g=mpf(1)), _on_cosine))) for each in own]
        by_hand.append(s * mp.fsum(missing) - weight / classes)
    return gradient(total, margins), by_hand
