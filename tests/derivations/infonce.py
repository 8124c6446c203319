"""InfoNCE and CLIP: the gradient of both ways, of embeddings, scale and temperature, the least loss, a floor."""

from __future__ import annotations

from typing import NamedTuple

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, across, cosines, derivative, gradients, step

TRIES = 20  # draws for an inequality


class Batch(NamedTuple):
    """Pairs, the scale, and what each row counts."""

    x: list[Vector]
    w: list[Vector]
    s: mpf
    g: Vector


def _batch(draw: Draw) -> Batch:
    x, w = ([draw.vector(3) for _ in range(4)] for _ in range(2))
    return Batch(x, w, draw.number(1, 6), draw.vector(4, 0.2, 2))


def _cosines(each: Batch) -> list[Vector]:
    return [cosines(row, each.w) for row in each.x]


def _logits(each: Batch) -> list[Vector]:
    return [[each.s * c for c in row] for row in _cosines(each)]


def _softmax(z: Vector) -> Vector:
    e = [mp.exp(i) for i in z]
    return [i / mp.fsum(e) for i in e]


def _columns(rows: list[Vector]) -> list[Vector]:
    return [list(column) for column in zip(*rows, strict=True)]


def _losses(z: list[Vector]) -> Vector:
    """L_n of both ways."""
    across = _columns(z)
    return [-(mp.log(_softmax(z[n])[n]) + mp.log(_softmax(across[n])[n])) / 2 for n in range(len(z))]


def _loss(each: Batch) -> mpf:
    return mp.fsum(g * i for g, i in zip(each.g, _losses(_logits(each)), strict=True))


def _big_g(each: Batch) -> list[Vector]:
    z, size = _logits(each), len(each.x)
    p, q = [_softmax(row) for row in z], _columns([_softmax(column) for column in _columns(z)])
    return [
        [each.g[n] / 2 * (p[n][k] - (n == k)) + each.g[k] / 2 * (q[n][k] - (n == k)) for k in range(size)]
        for n in range(size)
    ]


@step("nce-logits", "a7d0e742")
def _(draw: Draw) -> tuple:
    each = _batch(draw)

    def loss(z: list[Vector]) -> mpf:
        return mp.fsum(g * i for g, i in zip(each.g, _losses(z), strict=True))

    return gradients(loss, _logits(each)), _big_g(each)


@step("nce-total", "9e14e4c6")
def _(draw: Draw) -> tuple:
    """With equal g."""
    each = _batch(draw)
    g = _big_g(each._replace(g=[each.g[0]] * 4))
    return [each.g[0], mp.fsum(i for row in g for i in row)], [each.g[0], mpf(0)]


@step("nce-x", "f105f5fc")
def _(draw: Draw) -> tuple:
    each = _batch(draw)
    g = _big_g(each)
    numeric = [
        gradients(lambda rows: _loss(each._replace(x=rows)), each.x),
        gradients(lambda rows: _loss(each._replace(w=rows)), each.w),
    ]
    of_x = [across(each.s, x, each.w, g[n]) for n, x in enumerate(each.x)]
    of_w = [across(each.s, w, each.x, column) for w, column in zip(each.w, _columns(g), strict=True)]
    return numeric, [of_x, of_w]


@step("nce-scale", "7eb54923")
def _(draw: Draw) -> tuple:
    each = _batch(draw)
    pairs = zip(_big_g(each), _cosines(each), strict=True)
    by_hand = mp.fsum(i * j for of_g, of_c in pairs for i, j in zip(of_g, of_c, strict=True))
    return derivative(lambda s: _loss(each._replace(s=s)), each.s), by_hand


@step("nce-expected", "76a44e3d")
def _(draw: Draw) -> tuple:
    """One way, and the mean."""
    each = _batch(draw)
    c = _cosines(each)

    def loss(s: mpf) -> mpf:
        return -mp.fsum(mp.log(_softmax([s * i for i in row])[n]) for n, row in enumerate(c)) / len(c)

    p = [_softmax([each.s * i for i in row]) for row in c]
    above = [mp.fsum(i * j for i, j in zip(p[n], row, strict=True)) - row[n] for n, row in enumerate(c)]
    return derivative(loss, each.s), mp.fsum(above) / len(c)


@step("nce-temperature", "454418c2")
def _(draw: Draw) -> tuple:
    each = _batch(draw)
    of_s = derivative(lambda s: _loss(each._replace(s=s)), each.s)
    numeric = [
        derivative(lambda tau: _loss(each._replace(s=1 / tau)), 1 / each.s),
        derivative(lambda a: _loss(each._replace(s=mp.exp(a))), mp.log(each.s)),
    ]
    return numeric, [-(each.s**2) * of_s, each.s * of_s]


@step("nce-least", "3ac16b28")
def _(draw: Draw) -> tuple:
    below = []
    for _ in range(TRIES):
        each = _batch(draw)
        least = mp.log(1 + 3 * mp.exp(-2 * each.s))
        below += [Below(least, loss) for loss in _losses(_logits(each))]
    return tuple(below)


@step("nce-floor", "6072af8f")
def _(draw: Draw) -> tuple:
    z, delta = draw.vector(4), mp.exp(-draw.number(0, 20))
    p = _softmax(z)[0]
    slope = derivative(lambda own: -mp.log(_softmax([own, *z[1:]])[0] + delta), z[0])
    return slope, p / (p + delta) * (p - 1), Below(-mp.log(p + delta), -mp.log(delta))
