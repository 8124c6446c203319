"""Modified softmax: the length as a scale, the radial and the tangential part of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mpmath import mp, mpf

from derivations import (
    Batch,
    Below,
    Draw,
    Vector,
    assembled,
    batch,
    cosines,
    derivative,
    dot,
    gradient,
    gradients,
    mean_loss,
    norm,
    probabilities,
    step,
)
from derivations import unit as _direction

TRIES = 20  # draws for an inequality


class Sample(NamedTuple):
    """An embedding, weights and a label."""

    x: Vector
    w: list[Vector]
    y: int


def _sample(draw: Draw) -> Sample:
    size, classes = draw.whole(2, 4), draw.whole(2, 5)
    return Sample(draw.vector(size), [draw.vector(size) for _ in range(classes)], draw.whole(0, classes - 1))


def _times(factor: mpf, a: Vector) -> Vector:
    return [factor * entry for entry in a]


def _plus(*vectors: Vector) -> Vector:
    return [mp.fsum(column) for column in zip(*vectors, strict=True)]


def _cosines(x: Vector, w: list[Vector]) -> Vector:
    return [dot(x, row) / (norm(x) * norm(row)) for row in w]


def _softmax(z: Vector) -> Vector:
    e = [mp.exp(entry) for entry in z]
    return [entry / mp.fsum(e) for entry in e]


def _loss(x: Vector, w: list[Vector], y: int, scale: Callable[[Vector], mpf] = norm) -> mpf:
    """-log p of the label, with logits scale times cosine."""
    return -mp.log(_softmax(_times(scale(x), _cosines(x, w)))[y])


def _at_length(sample: Sample) -> Callable[[mpf], mpf]:
    """The loss as a function of the length, the angles kept."""
    unit = _direction(sample.x)
    return lambda r: _loss(_times(r, unit), sample.w, sample.y)


def _upstream(sample: Sample, scale: mpf | None = None) -> Vector:
    """G: the gradient in the logits."""
    z = _times(norm(sample.x) if scale is None else scale, _cosines(sample.x, sample.w))
    return gradient(lambda v: -mp.log(_softmax(v)[sample.y]), z)


def _mean(sample: Sample) -> mpf:
    c = _cosines(sample.x, sample.w)
    return dot(_softmax(_times(norm(sample.x), c)), c)


def _tangential(sample: Sample, g: Vector) -> Vector:
    """The sum of G_k (w_k - cos θ_k x) over unit vectors."""
    unit, c = _direction(sample.x), _cosines(sample.x, sample.w)
    terms = [_plus(_direction(row), _times(-c[k], unit)) for k, row in enumerate(sample.w)]
    return _plus(*(_times(g[k], term) for k, term in enumerate(terms)))


@step("modified-softmax-logit", "fc5dcdaf")
def _(draw: Draw) -> tuple:
    x, w, k = _sample(draw)
    cosine = (norm(x) ** 2 + norm(w[k]) ** 2 - norm(_plus(x, _times(mpf(-1), w[k]))) ** 2) / (2 * norm(x) * norm(w[k]))
    return dot(_direction(w[k]), x), norm(x) * mp.cos(mp.acos(cosine))  # the angle by the law of cosines


@step("modified-softmax-gaps", "4705671a")
def _(draw: Draw) -> tuple:
    x, w, y = _sample(draw)
    c = _cosines(x, w)
    return (
        _loss(x, w, y),
        mp.log(1 + mp.fsum(mp.exp(norm(x) * (c[k] - c[y])) for k in range(len(w)) if k != y)),
    )


@step("modified-softmax-order", "34abd0b2")
def _(draw: Draw) -> tuple:
    left, middle, right = [], [], []
    for _ in range(TRIES):
        x, w, y = _sample(draw)
        k, c = (y + 1) % len(w), _cosines(x, w)
        left.append(mpf(dot(_direction(w[k]), x) < dot(_direction(w[y]), x)))
        middle.append(mpf(c[k] < c[y]))
        right.append(mpf(mp.acos(c[k]) > mp.acos(c[y])))
    return left, middle, right


@step("modified-softmax-right", "2632c7da")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        x, w, _ = _sample(draw)
        c = _cosines(x, w)
        y = c.index(max(c))
        delta = min(c[y] - c[k] for k in range(len(w)) if k != y)
        sides.append(Below(_loss(x, w, y), (len(w) - 1) * mp.exp(-norm(x) * delta)))
    far = draw.number(60, 80)  # one other class: as close as it gets, the bound's own square below it
    theta = draw.number(0.8, 1.5)
    loss = _loss([far, mpf(0)], [[mpf(1), mpf(0)], [mp.cos(theta), mp.sin(theta)]], 0)
    bound = mp.exp(-far * (1 - mp.cos(theta)))
    return *sides, Below(bound * (1 - bound), loss)


@step("modified-softmax-tie", "9b6a3853")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        x, w, _ = _sample(draw)
        c = _cosines(x, w)
        y = c.index(max(c))
        level = draw.whole(0, 3)  # so many copies of the nearest class share its lead
        every = [*w, *([w[y]] * level)]
        delta = min(c[y] - c[k] for k in range(len(w)) if k != y)
        excess = _loss(x, every, y) - mp.log(1 + level)
        bound = mpf(len(every) - 1 - level) / (1 + level) * mp.exp(-norm(x) * delta)
        sides += [Below(mpf(0), excess), Below(excess, bound)]
    far, theta = draw.number(60, 80), draw.number(0.8, 1.5)  # two that lead, one behind: as close as it gets
    w = [[mpf(1), mpf(0)], [mpf(1), mpf(0)], [mp.cos(theta), mp.sin(theta)]]
    bound = mp.exp(-far * (1 - mp.cos(theta))) / 2
    return *sides, Below(bound * (1 - bound), _loss([far, mpf(0)], w, 0) - mp.log(2))


@step("modified-softmax-wrong", "4a76eb3d")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        x, w, _ = _sample(draw)
        c = _cosines(x, w)
        y = c.index(min(c))
        delta = max(c[k] - c[y] for k in range(len(w)) if k != y)
        sides.append(Below(norm(x) * delta, _loss(x, w, y)))
    far, theta = draw.number(60, 80), draw.number(0.8, 1.5)
    lead = far * (1 - mp.cos(theta))
    loss = _loss([far, mpf(0)], [[mpf(1), mpf(0)], [mp.cos(theta), mp.sin(theta)]], 1)
    return *sides, Below(loss, lead + mp.exp(-lead))


@step("modified-softmax-radial", "0a95defd")
def _(draw: Draw) -> tuple:
    sample = _sample(draw)
    c, g, unit = _cosines(sample.x, sample.w), _upstream(sample), _direction(sample.x)
    slopes = [derivative(lambda r, row=row: dot(_direction(row), _times(r, unit)), norm(sample.x)) for row in sample.w]
    return derivative(_at_length(sample), norm(sample.x)), dot(g, slopes), dot(g, c)


@step("modified-softmax-radial-sign", "3b603434")
def _(draw: Draw) -> tuple:
    sample = _sample(draw)
    c = _cosines(sample.x, sample.w)
    return derivative(_at_length(sample), norm(sample.x)), _mean(sample) - c[sample.y]


@step("modified-softmax-start", "72a83d8f")
def _(draw: Draw) -> tuple:
    x, w, y = _sample(draw)
    c = _cosines(x, w)
    return (
        derivative(lambda r: mp.log(mp.fsum(mp.exp(r * entry) for entry in c)) - r * c[y], mpf(0)),
        mp.fsum(c) / len(c) - c[y],
    )


@step("modified-softmax-longer", "148b6fed")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        x, w, _ = _sample(draw)
        c = _cosines(x, w)
        sides.append(Below(_mean(Sample(x, w, 0)) - max(c), mpf(0), strict=True))
    x, w, _ = _sample(draw)
    alone = [w[0]] * len(w)  # all equal: 0
    return _mean(Sample(x, alone, 0)), _cosines(x, alone)[0], *sides


@step("modified-softmax-variance", "ea3e926c")
def _(draw: Draw) -> tuple:
    sample = _sample(draw)
    c = _cosines(sample.x, sample.w)
    p = _softmax(_times(norm(sample.x), c))
    spread = mp.fsum(i * (j - _mean(sample)) ** 2 for i, j in zip(p, c, strict=True))
    with mp.workprec(4 * mp.prec):  # a difference of differences
        curvature = derivative(lambda r: derivative(_at_length(sample), r), norm(sample.x))
    return curvature, spread, Below(mpf(0), spread)


@step("modified-softmax-tangential", "b33d61d0")
def _(draw: Draw) -> tuple:
    sample = _sample(draw)
    g, r = _upstream(sample), norm(sample.x)
    slopes = [gradient(lambda v, row=row: _cosines(v, [row])[0], sample.x) for row in sample.w]
    return _plus(*(_times(g[k] * r, slope) for k, slope in enumerate(slopes))), _tangential(sample, g)


@step("modified-softmax-gradient", "10ff1acd")
def _(draw: Draw) -> tuple:
    sample = _sample(draw)
    g, c, unit = _upstream(sample), _cosines(sample.x, sample.w), _direction(sample.x)
    return (
        gradient(lambda v: _loss(v, sample.w, sample.y), sample.x),
        _plus(_tangential(sample, g), _times(dot(g, c), unit)),
        _plus(*(_times(g[k], _direction(row)) for k, row in enumerate(sample.w))),
    )


@step("modified-softmax-pythagoras", "82a8bc0e")
def _(draw: Draw) -> tuple:
    sample = _sample(draw)
    whole = gradient(lambda v: _loss(v, sample.w, sample.y), sample.x)
    radial = _mean(sample) - _cosines(sample.x, sample.w)[sample.y]
    return norm(whole) ** 2, norm(_tangential(sample, _upstream(sample))) ** 2 + radial**2


@step("modified-softmax-weight", "875e89ca")
def _(draw: Draw) -> tuple:
    x, w, y = _sample(draw)
    g = _upstream(Sample(x, w, y))
    left, right = [], []
    for k, row in enumerate(w):
        unit = _direction(row)
        left.append(gradient(lambda v, k=k: _loss(x, [*w[:k], v, *w[k + 1 :]], y), row))
        right.append(_times(g[k] / norm(row), _plus(x, _times(-dot(x, unit), unit))))
    return left, right


@step("modified-softmax-fixed", "394a97ad")
def _(draw: Draw) -> tuple:
    sample, s = _sample(draw), draw.number(0.5, 10)
    return (
        gradient(lambda v: _loss(v, sample.w, sample.y, lambda _: s), sample.x),
        _times(s / norm(sample.x), _tangential(sample, _upstream(sample, s))),
    )


def _whole(draw: Draw) -> tuple[Batch, list[Vector]]:
    """A batch, and G as written."""
    each = batch(draw)
    p = [probabilities([norm(x) * c for c in cosines(x, each.w)]) for x in each.x]
    g = [[(row[k] - (k == y)) / len(p) for k in range(len(row))] for row, y in zip(p, each.y, strict=True)]
    return each, g


def _whole_loss(each: Batch) -> mpf:
    c = [cosines(row, each.w) for row in each.x]
    return mean_loss(c, each.y, [norm(row) for row in each.x], lambda own: own)


@step("modified-softmax-whole-x", "cdc38d63")
def _(draw: Draw) -> tuple:
    each, g = _whole(draw)
    by_hand = [_plus(*(_times(g_k, _direction(w)) for g_k, w in zip(row, each.w, strict=True))) for row in g]
    return gradients(lambda x: _whole_loss(each._replace(x=x)), each.x), by_hand


@step("modified-softmax-whole-w", "568bae72")
def _(draw: Draw) -> tuple:
    each, g = _whole(draw)
    a = [_times(norm(x), row) for x, row in zip(each.x, g, strict=True)]
    by_hand = [assembled([row[k] for row in a], each.x, w) for k, w in enumerate(each.w)]
    return gradients(lambda w: _whole_loss(each._replace(w=w)), each.w), by_hand


@step("modified-softmax-ex-short", "011ffb0b")
def _(draw: Draw) -> tuple:
    x, w, y = sample = _sample(draw)
    g, p = _upstream(sample), _softmax([norm(x) * c for c in _cosines(x, w)])
    units = [_direction(row) for row in w]
    whole = norm(_plus(*(_times(g[k], row) for k, row in enumerate(units))))
    others = [_times(p[k], _plus(row, _times(mpf(-1), units[y]))) for k, row in enumerate(units) if k != y]
    line = [[mpf(1)], [mpf(-1)]]  # opposite weights: equality
    far = -mp.log(_softmax([x[0], -x[0]])[0])
    return (
        [whole, abs(gradient(lambda v: _loss(v, line, 0), [x[0]])[0])],
        [norm(_plus(*others)), 2 * (1 - mp.exp(-far))],
        Below(whole, 2 * (1 - p[y])),
    )
