"""Boundaries of two classes: where logits are equal, gaps on the arc between the centres."""

from __future__ import annotations

from collections.abc import Callable

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, dot, norm, step

TRIES = 30  # draws for a statement that is true or false


def _minus(a: Vector, b: Vector) -> Vector:
    return [i - j for i, j in zip(a, b, strict=True)]


def _loss(z: Vector, y: int) -> mpf:
    return -mp.log(mp.exp(z[y]) / mp.fsum(map(mp.exp, z)))


def _angle(a: Vector, b: Vector) -> mpf:
    return mp.acos(dot(a, b) / (norm(a) * norm(b)))


def _border(leads: Callable[[mpf, mpf], mpf], between: mpf) -> mpf:
    """The angle from centre 1, on the arc, at which its lead ends: found by halving."""
    low, high = mpf(0), between
    assert leads(low, between - low) > 0 > leads(high, between - high)
    for _ in range(4 * mp.dps):
        middle = (low + high) / 2
        low, high = (middle, high) if leads(middle, between - middle) > 0 else (low, middle)
    return low


def _a_softmax(m: mpf) -> Callable[[mpf, mpf], mpf]:
    def leads(own: mpf, other: mpf) -> mpf:
        k = int(mp.floor(m * own / mp.pi))
        return (-1) ** k * mp.cos(m * own) - 2 * k - mp.cos(other)

    return leads


def _cosface(m: mpf) -> Callable[[mpf, mpf], mpf]:
    return lambda own, other: mp.cos(own) - m - mp.cos(other)


def _arcface(m: mpf) -> Callable[[mpf, mpf], mpf]:
    return lambda own, other: mp.cos(own + m) - mp.cos(other)


@step("boundaries-half", "89603e08")
def _(draw: Draw) -> tuple:
    sides = [[draw.number()], [mpf(0)], [mpf(0)]]
    sides[1][0] = sides[2][0] = sides[0][0]
    for _ in range(TRIES):
        z = draw.vector(2, -5, 5)
        p = mp.exp(z[0]) / (mp.exp(z[0]) + mp.exp(z[1]))
        for side, true in zip(sides, (z[0] > z[1], 2 * p > 1, -mp.log(p) < mp.log(2)), strict=True):
            side.append(mpf(true))
    return tuple(sides)


@step("boundaries-sharp", "9d194e93")
def _(draw: Draw) -> tuple:
    s, f = draw.number(0.1, 20), draw.vector(2, -1, 1)
    return _loss([s * entry for entry in f], 0), mp.log(1 + mp.exp(-s * (f[0] - f[1])))


def _plane(draw: Draw) -> tuple[Vector, Vector, Vector, mpf, mpf]:
    size = draw.whole(2, 4)
    return draw.vector(size), draw.vector(size), draw.vector(size), draw.number(), draw.number()


@step("boundaries-softmax", "7f2fb0b5")
def _(draw: Draw) -> tuple:
    x, first, second, b1, b2 = _plane(draw)
    return dot(first, x) + b1 - (dot(second, x) + b2), dot(_minus(first, second), x) + b1 - b2


@step("boundaries-distance", "050b6bfa")
def _(draw: Draw) -> tuple:
    _, first, second, b1, b2 = _plane(draw)
    normal = _minus(first, second)
    foot = [(b2 - b1) / dot(normal, normal) * entry for entry in normal]
    sides = []
    for _ in range(TRIES):  # any other point with equal logits is further away
        v = draw.vector(len(normal))
        share = dot(v, normal) / dot(normal, normal)
        other = [i + j - share * k for i, j, k in zip(foot, v, normal, strict=True)]
        assert abs(dot(first, other) + b1 - dot(second, other) - b2) < mpf(10) ** -50
        sides.append(Below(norm(foot), norm(other)))
    equal = dot(first, foot) + b1 - (dot(second, foot) + b2)
    return [norm(foot), equal], [abs(b1 - b2) / norm(normal), mpf(0)], *sides


@step("boundaries-lengths", "0f23e778")
def _(draw: Draw) -> tuple:
    x, first, second, _, _ = _plane(draw)
    normal = _minus(first, second)
    on = _minus(x, [dot(x, normal) / dot(normal, normal) * entry for entry in normal])  # equal logits, no bias
    return norm(first) * mp.cos(_angle(first, on)), norm(second) * mp.cos(_angle(second, on))


@step("boundaries-modified", "59c6c8bf")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        size = draw.whole(2, 4)
        x, first, second = draw.unit(size), draw.unit(size), draw.unit(size)
        left.append(mpf(dot(x, first) > dot(x, second)))
        right.append(mpf(_angle(x, first) < _angle(x, second)))
    return left, [left[0], *right]


@step("boundaries-arc", "670f6c23")
def _(draw: Draw) -> tuple:
    size, share = draw.whole(2, 4), draw.number(0, 1)
    first, second = draw.unit(size), draw.unit(size)
    x = [(1 - share) * i + share * j for i, j in zip(first, second, strict=True)]  # the chord, seen from the origin
    return _angle(x, first) + _angle(x, second), _angle(first, second)


@step("boundaries-gap", "54533d96")
def _(draw: Draw) -> tuple:
    between, m = draw.number(0.6, 3), draw.number(0, 0.5)
    own = _border(_arcface(m), between)
    opposite = between - _border(_arcface(m), between)  # the border of class 2, measured from centre 1
    return between - 2 * own, (between - own) - own, opposite - own


@step("boundaries-a-softmax", "8978b851")
def _(draw: Draw) -> tuple:
    between, m = draw.number(0.3, 3), draw.number(1.5, 6)
    own = _border(_a_softmax(m), between)
    return [m * own, own], [between - own, between / (m + 1)]


@step("boundaries-a-softmax-gap", "4820e855")
def _(draw: Draw) -> tuple:
    between, m = draw.number(0.3, 3), draw.number(1.5, 6)
    own = _border(_a_softmax(m), between)
    return between - own - own, (m - 1) * own, (m - 1) / (m + 1) * between


@step("boundaries-cosface-product", "ea9e3e4c")
def _(draw: Draw) -> tuple:
    first, second = draw.number(0, mp.pi), draw.number(0, mp.pi)
    return mp.cos(first) - mp.cos(second), 2 * mp.sin((first + second) / 2) * mp.sin((second - first) / 2)


@step("boundaries-cosface-gap", "da69dff5")
def _(draw: Draw) -> tuple:
    between = draw.number(0.3, 3)
    m = draw.number(0, 1) * (1 - mp.cos(between))
    own = _border(_cosface(m), between)
    return between - own - own, 2 * mp.asin(m / (2 * mp.sin(between / 2)))


@step("boundaries-cosface-exists", "09d6e266")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        between, m = draw.number(0, mp.pi), draw.number(0, 2)
        left.append(mpf(_cosface(m)(mpf(0), between) >= 0))
        right.append(mpf(m <= 2 * mp.sin(between / 2) ** 2))
    between = draw.number(0, mp.pi)
    return [*left, 1 - mp.cos(between)], [*right, 2 * mp.sin(between / 2) ** 2]


@step("boundaries-cosface-most", "60f9ea62")
def _(draw: Draw) -> tuple:
    size = draw.whole(2, 4)
    first, second = draw.unit(size), draw.unit(size)
    chord = norm(_minus(first, second))
    best = [entry / chord for entry in _minus(first, second)]
    others = [draw.unit(size) for _ in range(TRIES)]
    return (
        mp.cos(_angle(best, first)) - mp.cos(_angle(best, second)),
        chord,
        2 * mp.sin(_angle(first, second) / 2),
        *(Below(mp.cos(_angle(x, first)) - mp.cos(_angle(x, second)), chord) for x in others),
    )


@step("boundaries-cosface-least", "cf328505")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        between = draw.number(0.3, mp.pi)
        m = draw.number(0, 1) * (1 - mp.cos(between))
        gap = 2 * mp.asin(m / (2 * mp.sin(between / 2)))
        sides += [Below(2 * mp.asin(m / 2), gap), Below(m, 2 * mp.asin(m / 2))]
    m = draw.number(0, 2)  # opposite centres reach the first bound, and small m the second
    small = mpf(10) ** -20 * m
    return (
        2 * mp.asin(m / (2 * mp.sin(mp.pi / 2))),
        2 * mp.asin(m / 2),
        *sides,
        Below(2 * mp.asin(small / 2), small + small**3),
    )


@step("boundaries-cosface-plane", "41a8d757")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        size, m = draw.whole(2, 4), draw.number(0, 1)
        x, first, second = draw.unit(size), draw.unit(size), draw.unit(size)
        left.append(mpf(mp.cos(_angle(x, first)) - m > mp.cos(_angle(x, second))))
        right.append(mpf(dot(x, _minus(first, second)) > m))
    return left, [left[0], *right]


@step("boundaries-arcface", "5b9297f7")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        m = draw.number(0, 2)
        first, second = draw.number(0, mp.pi - m), draw.number(0, mp.pi)
        left.append(mpf(mp.cos(first + m) > mp.cos(second)))
        right.append(mpf(first + m < second))
    return left, [left[0], *right]


@step("boundaries-arcface-border", "ce3879af")
def _(draw: Draw) -> tuple:
    between = draw.number(0.3, 3)
    m = draw.number(0, 1) * between
    own = _border(_arcface(m), between)
    return [own + m, own], [between - own, (between - m) / 2]


@step("boundaries-turn", "6c8f1083")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        size = draw.whole(2, 4)
        x, first, second = (draw.unit(size) for _ in range(3))
        sides.append(Below(_angle(x, first) + _angle(x, second) + _angle(first, second), 2 * mp.pi + mpf(10) ** -50))
    second, third = draw.number(0.1, 1) * mp.pi, draw.number(1, 1.1) * mp.pi  # on a circle, all around: equality
    x, first, other = ([mp.cos(t), mp.sin(t)] for t in (mpf(0), second, third))
    return _angle(x, first) + _angle(x, other) + _angle(first, other), 2 * mp.pi, *sides


@step("boundaries-arcface-past", "3e0952a1")
def _(draw: Draw) -> tuple:
    sides = []
    while len(sides) < TRIES:
        size = draw.whole(2, 4)
        x, first, second = (draw.unit(size) for _ in range(3))
        m = draw.number(0, 1) * _angle(first, second)
        if _angle(x, first) + m >= mp.pi:
            sides.append(Below(mp.cos(_angle(x, first) + m), mp.cos(_angle(x, second))))
    angle = draw.number(0, mp.pi)
    return mp.cos(2 * mp.pi - angle), mp.cos(angle), *sides


@step("boundaries-same", "d7eba68f")
def _(draw: Draw) -> tuple:
    between = draw.number(0.3, 3)
    gap = draw.number(0, 0.9) * between
    m = (between + gap) / (between - gap)
    return [(m - 1) / (m + 1) * between, m], [gap, (1 + gap / between) / (1 - gap / between)]


@step("boundaries-same-cosface", "65130e2d")
def _(draw: Draw) -> tuple:
    between = draw.number(0.3, 3)
    gap = draw.number(0, 1) * between
    m = 2 * mp.sin(between / 2) * mp.sin(gap / 2)
    own = (between - gap) / 2
    return [2 * mp.asin(m / (2 * mp.sin(between / 2))), m], [gap, mp.cos(own) - mp.cos(between - own)]


@step("boundaries-many", "c7a11579")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        z = draw.vector(draw.whole(2, 4), -2, 2)
        y = draw.whole(0, len(z) - 1)
        left.append(mpf(_loss(z, y) < mp.log(2)))
        right.append(mpf(z[y] > mp.log(mp.fsum(mp.exp(entry) for k, entry in enumerate(z) if k != y))))
    return left, [left[0], *right]
