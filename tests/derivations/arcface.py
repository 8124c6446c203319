"""ArcFace: the moved cosine, its slopes, what each rule does beyond π - m, the margin without gradient."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

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
    head_loss,
    mean_loss,
    norm,
    probabilities,
    step,
)

TRIES = 30  # draws for an inequality
NEAR = mpf(10) ** -25  # a one-sided limit from here is good to its first 25 digits


def _psi(theta: mpf, m: mpf) -> mpf:
    return mp.cos(theta + m)


def _angles(draw: Draw, m: mpf) -> list[mpf]:
    """Angles on both sides of π - m."""
    return [draw.number(0, mp.pi - m), draw.number(mp.pi - m, mp.pi)]


@step("arcface-addition", "a3a12c87")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0, mp.pi), draw.number(0, mp.pi)
    turn = mp.expj(theta) * mp.expj(m)
    return mp.cos(theta + m), mp.cos(theta) * mp.cos(m) - mp.sin(theta) * mp.sin(m), turn.real


def _residual(x: Vector, w: Vector) -> Vector:
    """What of w is at right angles to x."""
    return [j - dot(w, x) / dot(x, x) * i for i, j in zip(x, w, strict=True)]


@step("arcface-residual", "fbd3b2d8")
def _(draw: Draw) -> tuple:
    x, w = draw.vector(3), draw.vector(3)
    r, c = _residual(x, w), cosines(x, [w])[0]
    by_units = [j / norm(w) - c * i / norm(x) for i, j in zip(x, w, strict=True)]
    return [[each / norm(w) for each in r], mp.sin(mp.acos(c))], [by_units, norm(r) / norm(w)]


@step("arcface-sine-addition", "8ecf683a")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0, mp.pi), draw.number(0, mp.pi)
    turn = mp.expj(theta) * mp.expj(m)
    return mp.sin(theta + m), mp.sin(theta) * mp.cos(m) + mp.cos(theta) * mp.sin(m), turn.imag


@step("arcface-in-cosine", "2b439482")
def _(draw: Draw) -> tuple:
    m = draw.number(0, mp.pi)
    c = [draw.number(-1, 1) for _ in range(3)]
    return [_psi(mp.acos(i), m) for i in c], [i * mp.cos(m) - mp.sqrt(1 - i**2) * mp.sin(m) for i in c]


@step("arcface-slope", "7a202385")
def _(draw: Draw) -> tuple:
    m = draw.number(0, mp.pi)
    at = _angles(draw, m)
    return [derivative(lambda t: _psi(t, m), theta) for theta in at], [-mp.sin(theta + m) for theta in at]


@step("arcface-slope-cosine", "b3d0f30a")
def _(draw: Draw) -> tuple:
    m = draw.number(0, mp.pi)
    at = _angles(draw, m)
    return (
        [derivative(lambda c: _psi(mp.acos(c), m), mp.cos(theta)) for theta in at],
        [-mp.sin(theta + m) / -mp.sin(theta) for theta in at],
        [mp.cos(m) + mp.sin(m) * mp.cos(theta) / mp.sin(theta) for theta in at],
    )


@step("arcface-slope-limit", "9de8b8ce")
def _(draw: Draw) -> tuple:
    m = draw.number(0.1, mp.pi)
    with mp.workdps(600):  # the steps of the difference have to stay inside the 1e-120 that are left up to 1
        theta = mpf(10) ** -60
        near = theta * derivative(lambda c: _psi(mp.acos(c), m), mp.cos(theta))
    return near, mp.sin(m)


def _tangent(x: Vector, w: Vector) -> Vector:
    rest = [i - dot(w, x) / dot(x, x) * j for i, j in zip(w, x, strict=True)]
    return [entry / norm(rest) for entry in rest]


def _angle(x: Vector, w: Vector) -> mpf:
    return mp.acos(dot(x, w) / (norm(x) * norm(w)))


@step("arcface-gradient", "0a459486")
def _(draw: Draw) -> tuple:
    size, m = draw.whole(2, 4), draw.number(0, 1)
    x, w = draw.vector(size), draw.vector(size)
    theta, t = _angle(x, w), _tangent(x, w)
    return (
        gradient(lambda v: _psi(_angle(v, w), m), x),
        [mp.sin(theta + m) / mp.sin(theta) * (mp.sin(theta) * entry / norm(x)) for entry in t],
        [mp.sin(theta + m) * entry / norm(x) for entry in t],
    )


@step("arcface-pull", "0c082895")
def _(draw: Draw) -> tuple:
    s, m, others = draw.number(1, 10), draw.number(0, 2), draw.vector(draw.whole(1, 4), -1, 1)

    def loss(theta: mpf) -> mpf:
        logits = [s * _psi(theta, m), *(s * c for c in others)]
        return -mp.log(mp.exp(logits[0]) / mp.fsum(map(mp.exp, logits)))

    at = _angles(draw, m)
    p = [mp.exp(-loss(theta)) for theta in at]
    return (
        [derivative(loss, theta) for theta in at],
        [s * (i - 1) * derivative(lambda t: _psi(t, m), theta) for i, theta in zip(p, at, strict=True)],
        [s * (1 - i) * mp.sin(theta + m) for i, theta in zip(p, at, strict=True)],
    )


@step("arcface-pull-vector", "3971cdc7")
def _(draw: Draw) -> tuple:
    size, s, m, others = draw.whole(2, 4), draw.number(1, 10), draw.number(0, 2), draw.vector(draw.whole(1, 4), -1, 1)
    x, w = draw.vector(size), draw.vector(size)
    if draw.whole(0, 1):  # beyond π - m
        w = [0.1 * i - j for i, j in zip(w, x, strict=True)]

    def loss(psi: mpf) -> mpf:
        logits = [s * psi, *(s * c for c in others)]
        return -mp.log(mp.exp(logits[0]) / mp.fsum(map(mp.exp, logits)))

    theta, t = _angle(x, w), _tangent(x, w)
    psi = _psi(theta, m)
    in_psi, in_theta = derivative(loss, psi), derivative(lambda a: loss(_psi(a, m)), theta)
    p = mp.exp(-loss(psi))
    return (
        gradient(lambda v: loss(_psi(_angle(v, w), m)), x),
        [in_psi * entry for entry in gradient(lambda v: _psi(_angle(v, w), m), x)],
        [-in_theta * entry / norm(x) for entry in t],
        [-s * (1 - p) * mp.sin(theta + m) * entry / norm(x) for entry in t],
    )


@step("arcface-stronger", "f8203465")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        m, theta = draw.number(0, mp.pi), draw.number(0, mp.pi)
        left.append(mpf(mp.sin(theta + m) >= mp.sin(theta)))
        right.append(mpf(theta <= (mp.pi - m) / 2))
    m = draw.number(0, mp.pi)  # at the bound the sines are equal
    return [*left, mp.sin((mp.pi - m) / 2 + m)], [*right, mp.sin((mp.pi - m) / 2)]


@step("arcface-boundary", "5b9297f7")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        m = draw.number(0, 1)
        first, second = draw.number(0, mp.pi - m), draw.number(0, mp.pi)
        left.append(mpf(mp.cos(first + m) > mp.cos(second)))
        right.append(mpf(first + m < second))
    return left, right


@step("arcface-turn", "69937b2b")
def _(draw: Draw) -> tuple:
    m = draw.number(0, mp.pi)
    tau = draw.number(0, m)
    theta = mp.pi - m + tau
    return (
        [_psi(theta, m), derivative(lambda t: _psi(t, m), theta)],
        [mp.cos(mp.pi + tau), -mp.sin(theta + m)],
        [-mp.cos(tau), mp.sin(tau)],
    )


@step("arcface-turn-cosine", "ec30b838")
def _(draw: Draw) -> tuple:
    m = draw.number(0, mp.pi)
    theta = draw.number(mp.pi - m, mp.pi)
    slope = derivative(lambda c: _psi(mp.acos(c), m), mp.cos(theta))
    before = draw.number(0, mp.pi - m)  # and above 0 before
    return (
        slope,
        mp.sin(theta + m) / mp.sin(theta),
        Below(slope, mpf(0), strict=True),
        Below(mpf(0), derivative(lambda c: _psi(mp.acos(c), m), mp.cos(before)), strict=True),
    )


def _against_opposite(theta: mpf, s: mpf, m: mpf) -> mpf:
    """The loss beside one other class, whose centre is opposite to the target's."""
    target = mp.exp(s * mp.cos(theta + m))
    return -mp.log(target / (target + mp.exp(s * mp.cos(mp.pi - theta))))


@step("arcface-opposite", "a83effea")
def _(draw: Draw) -> tuple:
    theta, s, m = draw.number(0, mp.pi), draw.number(0.5, 4), draw.number(0, mp.pi)
    p = mp.exp(-_against_opposite(theta, s, m))
    return (
        derivative(lambda t: mp.log(1 + mp.exp(s * (mp.cos(mp.pi - t) - mp.cos(t + m)))), theta),
        derivative(lambda t: _against_opposite(t, s, m), theta),
        s * (1 - p) * (mp.sin(theta) + mp.sin(theta + m)),
    )


@step("arcface-opposite-sum", "cca655a2")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(), draw.number()
    return mp.sin(theta) + mp.sin(theta + m), 2 * mp.sin(theta + m / 2) * mp.cos(m / 2)


@step("arcface-opposite-turn", "de2c7073")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        m = draw.number(0, mp.pi)
        near = draw.number(-1, 1) * m  # both sides of the turn have to occur, and what lies between π - m and it
        theta = min(max(mp.pi - m / 2 + near, mpf("1e-9")), mp.pi - mpf("1e-9"))
        left.append(mpf(mp.sin(theta) + mp.sin(theta + m) > 0))
        right.append(mpf(theta < mp.pi - m / 2))
    assert {0, 1} == set(map(int, left))
    return left, right


def _hard(theta: mpf, m: mpf) -> mpf:
    return mp.cos(theta) - m * mp.sin(m)


def _continuous(theta: mpf, m: mpf) -> mpf:
    return mp.cos(theta) + mp.cos(m) - 1


def _monotone(theta: mpf, m: mpf) -> mpf:
    k = mp.floor((theta + m) / mp.pi)
    return (-1) ** int(k) * mp.cos(theta + m) - 2 * k


@step("arcface-hard", "3cfec73a")
def _(draw: Draw) -> tuple:
    m = draw.number(0, mp.pi)
    return _hard(mp.pi - m, m), mp.cos(mp.pi - m) - m * mp.sin(m), -mp.cos(m) - m * mp.sin(m)


@step("arcface-hard-drop", "66014ba0")
def _(draw: Draw) -> tuple:
    m = draw.number(0, mp.pi)
    before, after = _psi(mp.pi - m, m), _hard(mp.pi - m, m)
    return before - after, -1 - (-mp.cos(m) - m * mp.sin(m)), mp.cos(m) + m * mp.sin(m) - 1


@step("arcface-hard-drop-size", "ced4f7a2")
def _(draw: Draw) -> tuple:
    def off(m: mpf) -> mpf:
        return abs(_psi(mp.pi - m, m) - _hard(mp.pi - m, m) - m**2 / 2)

    small = draw.number(1e-9, 2e-9)  # the constant 1/8 is reached in the limit
    return *(Below(off(m), m**4 / 8) for m in draw.vector(TRIES, 0, 1)), Below(small**4 / 8 * (1 - small), off(small))


@step("arcface-hard-series", "44c82124")
def _(draw: Draw) -> tuple:
    m = draw.number(0, 3)
    series = mp.fsum((-1) ** (j + 1) * mpf(2 * j - 1) / mp.factorial(2 * j) * m ** (2 * j) for j in range(1, 80))
    terms = [(2 * j - 1) / mp.factorial(2 * j) for j in range(1, 20)]  # at m = 1 each is smaller than the one before
    return (
        [mp.cos(m) + m * mp.sin(m) - 1, mpf(1) / 2, mpf(1) / 8, mpf(1) / 144],
        [series, *terms[:3]],
        *(Below(later, earlier, strict=True) for earlier, later in pairwise(terms)),
    )


@step("arcface-hard-sign", "b19c6f13")
def _(draw: Draw) -> tuple:
    m = draw.number(0, mp.pi)
    drop = _psi(mp.pi - m, m) - _hard(mp.pi - m, m)
    root, sides = mpf("2.3311"), []  # and the sentence below it
    for _ in range(TRIES):
        short, long = draw.number(0, root), draw.number(root + mpf("0.0001"), mp.pi)
        sides.append(Below(mpf(0), _psi(mp.pi - short, short) - _hard(mp.pi - short, short), strict=True))
        sides.append(Below(_psi(mp.pi - long, long) - _hard(mp.pi - long, long), mpf(0), strict=True))
        sides += [Below(mp.tan(short / 2), short, strict=True), Below(long, mp.tan(long / 2), strict=True)]
    return (
        drop,
        mp.cos(m) + m * mp.sin(m) - 1,
        2 * mp.sin(m / 2) * (m * mp.cos(m / 2) - mp.sin(m / 2)),
        *sides,
    )


@step("arcface-keep", "bc637ed8")
def _(draw: Draw) -> tuple:
    m = draw.number(0, mp.pi)
    return mp.cos(mp.pi - m) - _psi(mp.pi - m, m), mp.cos(mp.pi - m) - (-1), 1 - mp.cos(m)


@step("arcface-continuous", "d7baa7e2")
def _(draw: Draw) -> tuple:
    m = draw.number(0, mp.pi)
    return (
        [_psi(mp.pi - m, m), _continuous(mp.pi - m, m), m],
        [-1, mp.cos(mp.pi - m) + mp.cos(m) - 1, m],
    )


@step("arcface-continuous-slope", "972cbb3e")
def _(draw: Draw) -> tuple:
    m = draw.number(0, mp.pi)
    before, beyond = (derivative(lambda t, f=f: f(t, m), mp.pi - m) for f in (_psi, _continuous))
    return [beyond, before + 1], [-mp.sin(mp.pi - m), 1], [-mp.sin(m), 1]


@step("arcface-monotone", "36b70bd9")
def _(draw: Draw) -> tuple:
    m = draw.number(0.1, 3)
    tau = draw.number(0, m)
    theta = mp.pi - m + tau
    return _monotone(theta, m), -mp.cos(theta + m) - 2, mp.cos(tau) - 2


@step("arcface-monotone-slope", "18d6e0a7")
def _(draw: Draw) -> tuple:
    m = draw.number(0.1, 3)
    tau = draw.number(0, m)
    theta = mp.pi - m + tau
    return derivative(lambda t: _monotone(t, m), theta), mp.sin(theta + m), -mp.sin(tau)


@step("arcface-monotone-end", "ce6cf61a")
def _(draw: Draw) -> tuple:
    m = draw.number(0.1, 3)
    return (
        [_monotone(mp.pi, m), _continuous(mp.pi, m)],
        [-mp.cos(mp.pi + m) - 2, mp.cos(mp.pi) + mp.cos(m) - 1],
        [mp.cos(m) - 2, mp.cos(m) - 2],
    )


@step("arcface-clamp", "617e2a97")
def _(draw: Draw) -> tuple:
    m = draw.number(0.1, 3)
    theta = draw.number(mp.pi - m, mp.pi)
    before = draw.number(0, mp.pi - m)  # where it is the curve itself

    def clamped(t: mpf) -> mpf:
        return mp.cos(min(t + m, mp.pi))

    return (
        [clamped(theta), clamped(before), derivative(clamped, theta) + theta],
        [-1, _psi(before, m), theta],
    )


@step("arcface-easy", "21cbc850")
def _(draw: Draw) -> tuple:
    m = draw.number(0, mp.pi)
    return _psi(mp.pi / 2, m), mp.cos(mp.pi / 2 + m), -mp.sin(m)


@step("arcface-min", "99c309e7")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        m = draw.number(0.1, mp.pi)
        for theta in (draw.number(0, mp.pi), mp.pi - m / 2 + NEAR, mp.pi - m / 2 - NEAR):
            left.append(mpf(mp.cos(theta + m) > mp.cos(theta)))
            right.append(mpf(theta > mp.pi - m / 2))
    return [*left, m], [*right, m]


@step("arcface-min-product", "75cd24a7")
def _(draw: Draw) -> tuple:
    m, theta = draw.number(0, mp.pi), draw.number(0, mp.pi)
    return mp.cos(theta + m) - mp.cos(theta), -2 * mp.sin(theta + m / 2) * mp.sin(m / 2)


@step("arcface-min-slope", "b2052b1f")
def _(draw: Draw) -> tuple:
    m = draw.number(0.1, 3)
    at = mp.pi - m / 2
    return (
        [derivative(lambda t: _psi(t, m), at), derivative(mp.cos, at), _psi(at, m)],
        [-mp.sin(at + m), -mp.sin(at), mp.cos(at)],
        [mp.sin(m / 2), -mp.sin(m / 2), -mp.cos(m / 2)],
    )


@step("arcface-detached", "6a624c75")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0, mp.pi), draw.number(0, 1)

    def held(t: mpf) -> mpf:
        """The cosine, plus a number that does not move: what automatic differentiation sees."""
        return mp.cos(t) + (_psi(theta, m) - mp.cos(theta))

    return (
        [derivative(held, theta), held(theta)],
        [derivative(mp.cos, theta), _psi(theta, m)],
        [-mp.sin(theta), _psi(theta, m)],
    )


@step("arcface-detached-ratio", "0f277617")
def _(draw: Draw) -> tuple:
    sides = []
    m = draw.number(0.1, 1)
    for _ in range(TRIES):  # above 1 from (π - m)/2 on, of the other sign beyond π - m
        theta = draw.number(0, mp.pi)
        ratio = mp.sin(theta) / mp.sin(theta + m)
        sides.append(
            Below(ratio, mpf(1))
            if theta < (mp.pi - m) / 2
            else Below(mpf(1), ratio)
            if theta < mp.pi - m
            else Below(ratio, mpf(0))
        )
    theta = draw.number(0, mp.pi - m)
    true = derivative(lambda t: _psi(t, m), theta)
    return (
        derivative(mp.cos, theta) / true,
        -mp.sin(theta) / -mp.sin(theta + m),
        mp.sin(theta) / mp.sin(theta + m),
        *sides,
    )


def _field(c: Vector, y: int, s: mpf, m: mpf) -> Vector:
    """What is descended in all cosines, if the margin's slope counts as 1."""
    e = [mp.exp(s * (_psi(mp.acos(entry), m) if k == y else entry)) for k, entry in enumerate(c)]
    return [s * (entry / mp.fsum(e) - (k == y)) for k, entry in enumerate(e)]


def _crossed(draw: Draw) -> tuple[Vector, int, int, mpf, mpf, Vector]:
    """Cosines, label, another class, s and m; the probabilities."""
    c, s, m = draw.vector(draw.whole(2, 5), -1, 1), draw.number(0.5, 3), draw.number(0.1, 2)
    y = draw.whole(0, len(c) - 1)
    k = (y + draw.whole(1, len(c) - 1)) % len(c)
    return c, y, k, s, m, [entry / s + (j == y) for j, entry in enumerate(_field(c, y, s, m))]


@step("arcface-detached-target", "b8b14e07")
def _(draw: Draw) -> tuple:
    c, y, k, s, m, p = _crossed(draw)
    return derivative(lambda v: _field([*c[:k], v, *c[k + 1 :]], y, s, m)[y], c[k]), -(s**2) * p[y] * p[k]


@step("arcface-detached-other", "dc282ddc")
def _(draw: Draw) -> tuple:
    c, y, k, s, m, p = _crossed(draw)
    slope = derivative(lambda v: _psi(mp.acos(v), m), c[y])
    cross = derivative(lambda v: _field([*c[:y], v, *c[y + 1 :]], y, s, m)[k], c[y])
    other = derivative(lambda v: _field([*c[:k], v, *c[k + 1 :]], y, s, m)[y], c[k])  # the true one agrees
    return [cross, cross], [-(s**2) * p[y] * p[k] * slope, other * slope]


def _curve(m: mpf) -> Callable[[mpf], mpf]:
    return lambda c: _psi(mp.acos(c), m)


def _whole(draw: Draw) -> tuple[Batch, mpf, list[Vector], list[Vector]]:
    """A batch, the margin, the cosines, and A as written."""
    each, m = batch(draw), draw.number(0.1, 1)
    c, a = [cosines(row, each.w) for row in each.x], []
    for row, y in zip(c, each.y, strict=True):
        theta = mp.acos(row[y])
        p = probabilities([each.s * (_psi(theta, m) if k == y else cosine) for k, cosine in enumerate(row)])
        own = -each.s / len(c) * (1 - p[y]) * mp.sin(theta + m) / mp.sin(theta)
        a.append([own if k == y else each.s / len(c) * p[k] for k in range(len(row))])
    return each, m, c, a


@step("arcface-whole-cosines", "c93ea6d5")
def _(draw: Draw) -> tuple:
    each, m, c, a = _whole(draw)
    return gradients(lambda v: mean_loss(v, each.y, [each.s] * len(c), _curve(m)), c), a


@step("arcface-whole-x", "955fd8fe")
def _(draw: Draw) -> tuple:
    each, m, _, a = _whole(draw)
    by_hand = [assembled(row, each.w, x) for row, x in zip(a, each.x, strict=True)]
    return gradients(lambda x: head_loss(each._replace(x=x), _curve(m)), each.x), by_hand


@step("arcface-whole-w", "869ecd25")
def _(draw: Draw) -> tuple:
    each, m, _, a = _whole(draw)
    by_hand = [assembled([row[k] for row in a], each.x, w) for k, w in enumerate(each.w)]
    return gradients(lambda w: head_loss(each._replace(w=w), _curve(m)), each.w), by_hand


def _of_targets(draw: Draw, of_row: bool) -> tuple[list[Vector], list[Vector]]:
    """The targets' terms of dL/dx, or of dL/dw, before the lengths: with quotients of sines, and with tangents."""
    each, m, c, a = _whole(draw)
    quotients, tangents = [], []
    for x, y, cosine, slope in zip(each.x, each.y, c, a, strict=True):
        theta = mp.acos(cosine[y])
        p = probabilities([each.s * (_psi(theta, m) if k == y else other) for k, other in enumerate(cosine)])
        pull = -each.s / len(c) * (1 - p[y]) * mp.sin(theta + m)
        base, other = (each.w[y], x) if of_row else (x, each.w[y])
        r = _residual(base, other)
        across = [j / norm(other) - cosine[y] * i / norm(base) for i, j in zip(base, other, strict=True)]
        quotients.append([slope[y] * i for i in across])
        tangents.append([pull * i / norm(r) for i in r])
    return quotients, tangents


@step("arcface-whole-target", "031df7b3")
def _(draw: Draw) -> tuple:
    return _of_targets(draw, of_row=False)


@step("arcface-whole-target-row", "cf91cdc5")
def _(draw: Draw) -> tuple:
    return _of_targets(draw, of_row=True)
