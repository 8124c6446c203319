"""AdaFace: its three curves, one clip for two, slopes, the gradient, what the quality would add to it."""

from __future__ import annotations

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, derivative, dot, gradient, norm, step, towards, unit

TRIES = 30  # draws for an inequality


def _psi(theta: mpf, m: mpf, v: mpf) -> mpf:
    return mp.cos(theta - m * v) - m * (1 + v)


@step("adaface-three", "6b869fbf")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0, mp.pi), draw.number(0, 1)
    return (
        [_psi(theta, m, mpf(v)) for v in (-1, 0, 1)],
        [mp.cos(theta + m), mp.cos(theta) - m, mp.cos(theta - m) - 2 * m],
    )


@step("adaface-held", "00a6b4ad")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):  # below, between and above
        h, mu, w, a = draw.number(0.1, 2), draw.number(0, 30), draw.number(0.1, 10), draw.number(0, 60)
        left.append(min(max(h * (a - mu) / w, mpf(-1)), mpf(1)))
        right.append(h * (min(max(a, mu - w / h), mu + w / h) - mu) / w)
    return left, right


@step("adaface-slope", "1c4138f7")
def _(draw: Draw) -> tuple:
    eps, m, v = draw.number(0.001, 0.1), draw.number(0.2, 1), draw.number(-1, 1)

    def clipped(theta: mpf) -> mpf:
        return mp.cos(min(max(theta - m * v, eps), mp.pi - eps)) - m * (1 + v)

    at = [m * v + eps - mpf("1e-3"), m * v + draw.number(0.2, 2.9), m * v + mp.pi - eps + mpf("1e-3")]
    return [derivative(clipped, theta) for theta in at], [0, -mp.sin(at[1] - m * v), 0]


@step("adaface-rises", "c09e61b5")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        m, v, theta = draw.number(0, 1), draw.number(0, 1), draw.number(0, mp.pi)
        left.append(mpf(-mp.sin(theta - m * v) > 0))
        right.append(mpf(theta < m * v))
    return left, [left[0], *right]


def _logits(x: Vector, w: list[Vector], s: mpf, m: mpf, v: mpf) -> Vector:
    """Of the first class as the label."""
    c = [dot(unit(x), unit(row)) for row in w]
    return [s * _psi(mp.acos(c[0]), m, v), *(s * i for i in c[1:])]


def _loss(x: Vector, w: list[Vector], s: mpf, m: mpf, v: mpf, g: mpf) -> mpf:
    z = _logits(x, w, s, m, v)
    return g * mp.log(mp.fsum(mp.exp(i - z[0]) for i in z))


def _sample(draw: Draw) -> tuple:
    size = draw.whole(2, 4)
    w = [draw.vector(size) for _ in range(draw.whole(2, 4))]
    return draw.vector(size), w, draw.number(1, 4), draw.number(0, 0.5), draw.number(-1, 1), draw.number(0.1, 2)


def _in_logits(x: Vector, w: list[Vector], s: mpf, m: mpf, v: mpf, g: mpf) -> Vector:
    e = [mp.exp(i) for i in _logits(x, w, s, m, v)]
    return [g * (i / mp.fsum(e) - (k == 0)) for k, i in enumerate(e)]


@step("adaface-x", "df2aaafb")
def _(draw: Draw) -> tuple:
    x, w, s, m, v, g = _sample(draw)
    theta, in_logits = mp.acos(dot(unit(x), unit(w[0]))), _in_logits(x, w, s, m, v, g)
    terms = [[in_logits[k] * i for i in towards(x, w[k])] for k in range(1, len(w))]
    terms.append([in_logits[0] * mp.sin(theta - m * v) * i for i in unit(towards(x, w[0]))])
    by_hand = [s / norm(x) * mp.fsum(column) for column in zip(*terms, strict=True)]
    return gradient(lambda a: _loss(a, w, s, m, v, g), x), by_hand


@step("adaface-w", "f0d3470d")
def _(draw: Draw) -> tuple:
    x, w, s, m, v, g = _sample(draw)
    theta, in_logits = mp.acos(dot(unit(x), unit(w[0]))), _in_logits(x, w, s, m, v, g)
    numeric, by_hand = [], []
    for k, row in enumerate(w):
        numeric.append(gradient(lambda a, k=k: _loss(x, [*w[:k], a, *w[k + 1 :]], s, m, v, g), row))
        direction, factor = towards(row, x), mpf(1)
        if k == 0:
            direction, factor = unit(direction), mp.sin(theta - m * v)
        by_hand.append([s * in_logits[k] * factor * i / norm(row) for i in direction])
    return numeric, by_hand


@step("adaface-quality", "aad56f73")
def _(draw: Draw) -> tuple:
    theta, m, v = draw.number(0, mp.pi), draw.number(0, 1), draw.number(-1, 1)
    slope = derivative(lambda t: _psi(theta, m, t), v)
    return slope, m * mp.sin(theta - m * v) - m, Below(slope, mpf(0))


@step("adaface-zero", "392eaa98")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0, mp.pi), draw.number(0, 1)
    return _psi(theta, m, mpf(0)), mp.cos(theta) - m * (1 + 0), mp.cos(theta) - m


@step("adaface-most", "9bb196ca")
def _(draw: Draw) -> tuple:
    m, v = draw.number(0, 1), draw.number(-1, 1)
    top = mp.findroot(lambda t: derivative(lambda a: mp.sin(a - m * v), t), mpf("1.5"))
    return [top - m * v, top], [mp.pi / 2, mp.pi / 2 + m * v]


@step("adaface-meet", "a994bdcd")
def _(draw: Draw) -> tuple:
    m, v = draw.number(0, 1), draw.number(-1, 1)
    rest = mp.sin(m * v) - m * v
    return _psi(mp.pi / 2, m, v), -m + rest, Below(abs(rest), abs(m * v) ** 3 / 6)
