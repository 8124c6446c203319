"""Combined margin: the slope, the rules beyond π, what each of the three margins is worth as an angle."""

from __future__ import annotations

from collections.abc import Callable

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
    gradients,
    head_loss,
    mean_loss,
    probabilities,
    step,
)

TRIES = 30  # draws for an inequality


def _settings(draw: Draw) -> tuple[mpf, mpf, mpf]:
    return draw.number(0.5, 4), draw.number(0, 1.5), draw.number(0, 1)


def _psi(theta: mpf, m1: mpf, m2: mpf, m3: mpf) -> mpf:
    return mp.cos(m1 * theta + m2) - m3


def _folded(theta: mpf, m1: mpf, m2: mpf, m3: mpf, k: int | None = None) -> mpf:
    if k is None:
        k = int(mp.floor((m1 * theta + m2) / mp.pi))
    return (-1) ** k * mp.cos(m1 * theta + m2) - 2 * k - m3


@step("combined-slope", "987c3f62")
def _(draw: Draw) -> tuple:
    m, theta = _settings(draw), draw.number(0, mp.pi)
    return derivative(lambda t: _psi(t, *m), theta), -m[0] * mp.sin(m[0] * theta + m[1])


@step("combined-slope-cosine", "8ea86c4e")
def _(draw: Draw) -> tuple:
    m, theta = _settings(draw), draw.number(0, mp.pi)
    return (
        derivative(lambda c: _psi(mp.acos(c), *m), mp.cos(theta)),
        m[0] * mp.sin(m[0] * theta + m[1]) / mp.sin(theta),
    )


@step("combined-slope-limit", "180cd321")
def _(draw: Draw) -> tuple:
    m1, m2, _ = _settings(draw)
    with mp.workdps(200):
        theta = mpf(10) ** -60 * draw.number(1, 2)
        near = [
            m1 * mp.sin(m1 * theta) / mp.sin(theta),
            theta * m1 * mp.sin(m1 * theta + m2) / mp.sin(theta),
        ]
    return near, [m1**2, m1 * mp.sin(m2)]


@step("combined-cases", "a29a9486")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0, mp.pi), draw.number(0, 1)
    return (
        [_psi(theta, mpf(1), mpf(0), mpf(0)), _psi(theta, mpf(1), m, mpf(0)), _psi(theta, mpf(1), mpf(0), m)],
        [mp.cos(theta), mp.cos(theta + m), mp.cos(theta) - m],
    )


def _turn(m1: mpf, m2: mpf) -> mpf:
    """The first angle at which the slope changes its sign, by halving."""
    low, high = (mp.pi / 2 - m2) / m1, (3 * mp.pi / 2 - m2) / m1
    for _ in range(4 * mp.dps):
        middle = (low + high) / 2
        low, high = (middle, high) if mp.sin(m1 * middle + m2) > 0 else (low, middle)
    return low


@step("combined-turn", "131cbbaa")
def _(draw: Draw) -> tuple:
    m1, m2, _ = _settings(draw)
    turn = _turn(m1, m2)
    return [turn, m1 * turn + m2], [(mp.pi - m2) / m1, mp.pi]


@step("combined-least", "fe51c7eb")
def _(draw: Draw) -> tuple:
    m1, m2, m3 = _settings(draw)
    turn = (mp.pi - m2) / m1
    around = [Below(_psi(turn, m1, m2, m3), _psi(turn + h, m1, m2, m3)) for h in draw.vector(TRIES, -0.5, 0.5)]
    return _psi(turn, m1, m2, m3), mp.cos(mp.pi) - m3, -1 - m3, *around


@step("combined-folds", "6c9191a0")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(6):
        m, theta = _settings(draw), draw.number(0, mp.pi)
        phi = m[0] * theta + m[1]
        k = int(mp.floor(phi / mp.pi))
        tau = phi - k * mp.pi
        left += [_folded(theta, *m), derivative(lambda t, m=m: _folded(t, *m), theta)]
        right += [mp.cos(tau) - 2 * k - m[2], -m[0] * abs(mp.sin(phi))]
        border = ((k + 1) * mp.pi - m[1]) / m[0]  # and the two folds that meet there have one value
        left.append(_folded(border, *m, k))
        right.append(_folded(border, *m, k + 1))
    return left, right


@step("combined-join", "07818dda")
def _(draw: Draw) -> tuple:
    (m1, m2, m3), k = _settings(draw), draw.whole(1, 6)
    border = (k * mp.pi - m2) / m1
    return (
        [_folded(border, m1, m2, m3, k - 1), mp.sin(m1 * border + m2)],
        [_folded(border, m1, m2, m3, k), 0],
        [1 - 2 * k - m3, 0],
    )


@step("combined-end", "d1ef01b4")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(6):
        m1, m2, m3 = _settings(draw)
        k = int(mp.floor(m1 + m2 / mp.pi))
        left.append(_folded(mp.pi, m1, m2, m3))
        right.append((-1) ** k * mp.cos(m1 * mp.pi + m2) - 2 * k - m3)
    return left, right


@step("combined-continuous", "3ae86817")
def _(draw: Draw) -> tuple:
    m1, m2, m3 = _settings(draw)
    turn = _turn(m1, m2)
    return (
        mp.cos(turn) - mp.cos((mp.pi - m2) / m1) - 1 - m3,
        -1 - m3,
        _psi(turn, m1, m2, m3),
    )


@step("combined-hard", "d88afe1a")
def _(draw: Draw) -> tuple:
    m1, m2, m3 = _settings(draw)
    turn = _turn(m1, m2)
    return (
        mp.cos(turn) - m2 * mp.sin(m2) - m3 - _psi(turn, m1, m2, m3),
        mp.cos(turn) - m2 * mp.sin(m2) - m3 - (-1 - m3),
        1 + mp.cos((mp.pi - m2) / m1) - m2 * mp.sin(m2),
    )


def _equivalent(theta: mpf, m1: mpf, m2: mpf, m3: mpf) -> mpf:
    """a with cos(θ + a) = ψ and θ + a from 0 to π, by halving."""
    low, high = -theta, mp.pi - theta
    for _ in range(4 * mp.dps):
        middle = (low + high) / 2
        low, high = (middle, high) if mp.cos(theta + middle) > _psi(theta, m1, m2, m3) else (low, middle)
    return low


def _known(draw: Draw) -> tuple[mpf, mpf, mpf, mpf]:
    """An angle and settings for which there is such a margin."""
    while True:
        (m1, m2, m3), theta = _settings(draw), draw.number(0.1, 3)
        if m1 * theta + m2 <= mp.pi and _psi(theta, m1, m2, m3) >= -1:
            return theta, m1, m2, m3


@step("combined-equivalent", "4525004e")
def _(draw: Draw) -> tuple:
    theta, m1, m2, m3 = _known(draw)
    return _equivalent(theta, m1, m2, m3), mp.acos(mp.cos(m1 * theta + m2) - m3) - theta


@step("combined-first-order", "5c9b59f5")
def _(draw: Draw) -> tuple:
    theta = draw.number(0.3, 2.8)

    def a(m1: mpf, m2: mpf, m3: mpf) -> mpf:
        return mp.acos(_psi(theta, m1, m2, m3)) - theta

    one, nothing = mpf(1), mpf(0)
    return (
        [
            derivative(lambda t: a(t, nothing, nothing), one),
            derivative(lambda t: a(one, t, nothing), nothing),
            derivative(lambda t: a(one, nothing, t), nothing),
        ],
        [theta, 1, 1 / mp.sin(theta)],
    )


@step("combined-sum", "6d0abeab")
def _(draw: Draw) -> tuple:
    """The error of the sum is of second order: a tenth of the margins, a hundredth of the error, and so on down."""
    theta, size = draw.number(0.5, 2.5), [draw.number(0.5, 1) for _ in range(3)]
    sides = []
    for exponent in (5, 10, 20):
        h = mpf(10) ** -exponent
        m1, m2, m3 = 1 + h * size[0], h * size[1], h * size[2]
        a = mp.acos(_psi(theta, m1, m2, m3)) - theta
        sides.append(Below(abs(a - ((m1 - 1) * theta + m2 + m3 / mp.sin(theta))), 100 * h**2))
    return tuple(sides)


@step("combined-why", "c88f680c")
def _(draw: Draw) -> tuple:
    (m1, m2, m3), theta = _settings(draw), draw.number(0, mp.pi)
    phi = m1 * theta + m2
    return (
        [
            derivative(lambda t: _psi(theta, t, m2, m3), m1),
            derivative(lambda t: _psi(theta, m1, t, m3), m2),
            derivative(lambda t: _psi(theta, m1, m2, t), m3),
        ],
        [-theta * mp.sin(phi), -mp.sin(phi), -1],
    )


@step("combined-below", "6b1aec47")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        theta, m3 = draw.number(0, mp.pi), draw.number(0, 1)
        phi = draw.number(theta, mp.pi)
        sides.append(Below(mp.cos(phi) - m3, mp.cos(theta)))
    theta = draw.number(0, mp.pi)  # equality without a margin
    return _psi(theta, mpf(1), mpf(0), mpf(0)), mp.cos(theta), *sides


@step("combined-below-until", "3109c169")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        m1, m2, theta = draw.number(0, 1), draw.number(0, 1), draw.number(0, mp.pi)
        left.append(mpf(m1 * theta + m2 >= theta))
        right.append(mpf(theta <= m2 / (1 - m1)))
    return left, [left[0], *right]


@step("combined-boundary", "ddcceb9a")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        (theta, m1, m2, m3), other = _known(draw), draw.number(0, mp.pi)
        left.append(mpf(_psi(theta, m1, m2, m3) > mp.cos(other)))
        right.append(mpf(theta + _equivalent(theta, m1, m2, m3) < other))
    return left, [left[0], *right]


def _whole(draw: Draw) -> tuple[Batch, Callable[[mpf], mpf], list[Vector], list[Vector]]:
    """A batch, ψ of a cosine, the cosines, and A as written."""
    each, (m1, m2, m3) = batch(draw), _settings(draw)
    c, a = [cosines(row, each.w) for row in each.x], []
    for row, y in zip(c, each.y, strict=True):
        theta = mp.acos(row[y])
        p = probabilities([each.s * (_psi(theta, m1, m2, m3) if k == y else cosine) for k, cosine in enumerate(row)])
        own = -each.s / len(c) * (1 - p[y]) * m1 * mp.sin(m1 * theta + m2) / mp.sin(theta)
        a.append([own if k == y else each.s / len(c) * p[k] for k in range(len(row))])
    return each, lambda own: _psi(mp.acos(own), m1, m2, m3), c, a


@step("combined-whole-cosines", "a53f6219")
def _(draw: Draw) -> tuple:
    each, curve, c, a = _whole(draw)
    return gradients(lambda v: mean_loss(v, each.y, [each.s] * len(c), curve), c), a


@step("combined-whole-x", "955fd8fe")
def _(draw: Draw) -> tuple:
    each, curve, _, a = _whole(draw)
    by_hand = [assembled(row, each.w, x) for row, x in zip(a, each.x, strict=True)]
    return gradients(lambda x: head_loss(each._replace(x=x), curve), each.x), by_hand


@step("combined-whole-w", "869ecd25")
def _(draw: Draw) -> tuple:
    each, curve, _, a = _whole(draw)
    by_hand = [assembled([row[k] for row in a], each.x, w) for k, w in enumerate(each.w)]
    return gradients(lambda w: head_loss(each._replace(w=w), curve), each.w), by_hand
