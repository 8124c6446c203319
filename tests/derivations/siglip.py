"""SigLIP: labels of 1 and -1, the gradient of pairs, scale and bias, the exchange of both sides, softplus(z) - z."""

from __future__ import annotations

from typing import NamedTuple

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, across, cosines, derivative, gradient, gradients, sigma, softplus, step

TRIES = 20  # draws for an inequality


class Batch(NamedTuple):
    """Pairs, the scale and the bias."""

    x: list[Vector]
    w: list[Vector]
    t: mpf
    b: mpf


def _batch(draw: Draw) -> Batch:
    x, w = ([draw.vector(3) for _ in range(4)] for _ in range(2))
    return Batch(x, w, draw.number(1, 6), draw.number())


def _logits(each: Batch) -> list[Vector]:
    return [[each.t * c + each.b for c in cosines(row, each.w)] for row in each.x]


def _rows(each: Batch) -> Vector:
    """L_n, from softplus."""
    z = _logits(each)
    return [mp.fsum(softplus(-i if k == n else i) for k, i in enumerate(row)) for n, row in enumerate(z)]


def _loss(each: Batch) -> mpf:
    return mp.fsum(_rows(each)) / len(each.x)


def _big_g(each: Batch) -> list[Vector]:
    size = mpf(len(each.x))
    return [[(sigma(i) - (k == n)) / size for k, i in enumerate(row)] for n, row in enumerate(_logits(each))]


@step("sig-labels", "71d8dbfa")
def _(draw: Draw) -> tuple:
    each = _batch(draw)
    by_labels = [
        -mp.fsum(mp.log(sigma((2 * (n == k) - 1) * i)) for k, i in enumerate(row))
        for n, row in enumerate(_logits(each))
    ]
    return _rows(each), by_labels


@step("sig-logits", "34a6eea6")
def _(draw: Draw) -> tuple:
    """Row by row: of a loss on the logits."""
    each = _batch(draw)
    z, size = _logits(each), len(each.x)

    def loss(row: Vector, n: int) -> mpf:
        return mp.fsum(softplus(-i if k == n else i) for k, i in enumerate(row)) / size

    return [gradient(lambda v, n=n: loss(v, n), row) for n, row in enumerate(z)], _big_g(each)


@step("sig-x", "687bb903")
def _(draw: Draw) -> tuple:
    each = _batch(draw)
    g = _big_g(each)
    numeric = [
        gradients(lambda rows: _loss(each._replace(x=rows)), each.x),
        gradients(lambda rows: _loss(each._replace(w=rows)), each.w),
    ]
    of_x = [across(each.t, x, each.w, g[n]) for n, x in enumerate(each.x)]
    of_w = [across(each.t, w, each.x, [row[k] for row in g]) for k, w in enumerate(each.w)]
    return numeric, [of_x, of_w]


@step("sig-scale", "2f522bd2")
def _(draw: Draw) -> tuple:
    each = _batch(draw)
    g, c = _big_g(each), [cosines(row, each.w) for row in each.x]
    of_t = mp.fsum(i * j for of_g, of_c in zip(g, c, strict=True) for i, j in zip(of_g, of_c, strict=True))
    numeric = [
        derivative(lambda t: _loss(each._replace(t=t)), each.t),
        derivative(lambda b: _loss(each._replace(b=b)), each.b),
    ]
    return numeric, [of_t, mp.fsum(i for row in g for i in row)]


@step("sig-log-scale", "42bf6fce")
def _(draw: Draw) -> tuple:
    each = _batch(draw)
    of_t = derivative(lambda t: _loss(each._replace(t=t)), each.t)
    return derivative(lambda a: _loss(each._replace(t=mp.exp(a))), mp.log(each.t)), each.t * of_t


@step("sig-symmetric", "2e13a62b")
def _(draw: Draw) -> tuple:
    each = _batch(draw)
    return mp.fsum(_rows(each)), mp.fsum(_rows(each._replace(x=each.w, w=each.x)))


@step("sig-start", "0345436b")
def _(draw: Draw) -> tuple:
    size, b = draw.whole(2, 10**6), draw.number()
    return derivative(lambda a: softplus(-a) + (size - 1) * softplus(a), b), size * sigma(b) - 1


@step("sig-balance", "f1f85e4c")
def _(draw: Draw) -> tuple:
    size = draw.whole(2, 10**6)
    return [mpf(size), size * sigma(-mp.log(mpf(size - 1)))], [mpf(size), mpf(1)]


@step("sig-chunked", "1cea5bb7")
def _(draw: Draw) -> tuple:
    z = draw.number(-6, 6)
    return softplus(-z), softplus(z) - z


@step("sig-lost", "c00e2a2b")
def _(draw: Draw) -> tuple:
    """At some z beyond the border."""
    below = []
    for _ in range(TRIES):
        u = mpf(2) ** -draw.whole(8, 60)
        border = mp.lambertw(1 / u).real  # z e^z = 1/u
        z = border + draw.number(0, 5)
        below.append(Below(mpf(1), u * z / softplus(-z), strict=True))
    return tuple(below)
