"""A-Softmax: signs and steps of the curve, its slopes, the margin it makes, annealing."""

from __future__ import annotations

from mpmath import mp, mpf

from derivations import Below, Draw, derivative, step

TRIES = 30  # draws for an inequality


def _psi(theta: mpf, m: mpf, k: int | None = None) -> mpf:
    """The definition, by the interval in which θ lies; k picks another."""
    if k is None:
        k = next(j for j in range(int(mp.ceil(m)) + 1) if theta <= (j + 1) * mp.pi / m)
    return (-1) ** k * mp.cos(m * theta) - 2 * k


def _inside(draw: Draw) -> tuple[mpf, int, int, mpf]:
    """An angle, m, the number of its arc, and how far inside it lies."""
    m = draw.whole(1, 7)
    k = draw.whole(0, m - 1)
    tau = draw.number(0, 1) * mp.pi / m
    return k * mp.pi / m + tau, m, k, tau


def _several(draw: Draw) -> list[tuple[mpf, int, int, mpf]]:
    return [_inside(draw) for _ in range(6)]


@step("a-softmax-naive-slope", "48839b22")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0, mp.pi), draw.number(1, 7)
    return derivative(lambda t: mp.cos(m * t), theta), -m * mp.sin(m * theta)


@step("a-softmax-naive-rises", "0f68ec45")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        m = draw.number(1, 7)
        theta = draw.number(mp.pi / m, 2 * mp.pi / m)
        sides += [Below(mpf(0), -m * mp.sin(m * theta), strict=True)]
    m = draw.number(1, 7)  # and at both ends it is 0: the interval is no longer
    return [-m * mp.sin(m * (mp.pi / m)), m], [-m * mp.sin(m * (2 * mp.pi / m)), m], *sides


@step("a-softmax-naive-twice", "d33e097a")
def _(draw: Draw) -> tuple:
    m, tau = draw.number(1, 7), draw.number(0, 1)
    return mp.cos(m * (mp.pi / m + tau)), mp.cos(m * (mp.pi / m - tau))


@step("a-softmax-arc", "c103bb66")
def _(draw: Draw) -> tuple:
    points = _several(draw)
    return (
        [mp.cos(m * theta) for theta, m, _, _ in points],
        [mp.cos(k * mp.pi + m * tau) for _, m, k, tau in points],
        [mp.cos(k * mp.pi) * mp.cos(m * tau) for _, m, k, tau in points],
        [(-1) ** k * mp.cos(m * tau) for _, m, k, tau in points],
    )


@step("a-softmax-sign", "5e93b02e")
def _(draw: Draw) -> tuple:
    points = _several(draw)
    return [(-1) ** k * mp.cos(m * theta) for theta, m, k, _ in points], [mp.cos(m * tau) for _, m, _, tau in points]


@step("a-softmax-join", "18f941c1")
def _(draw: Draw) -> tuple:
    m = draw.number(1, 7)
    k = [draw.whole(0, 6) for _ in range(4)]
    return (
        [m, *((-1) ** j * mp.cos((j + 1) * mp.pi) - 2 * j for j in k)],
        [m, *(-1 - 2 * j for j in k)],
        [m, *((-1) ** (j + 1) * mp.cos((j + 1) * mp.pi) - 2 * (j + 1) for j in k)],
        [m, *(_psi((j + 1) * mp.pi / m, m, j) for j in k)],
        [m, *(_psi((j + 1) * mp.pi / m, m, j + 1) for j in k)],
    )


@step("a-softmax-tau", "b5bb19d0")
def _(draw: Draw) -> tuple:
    points = _several(draw)
    return (
        [_psi(theta, m) for theta, m, _, _ in points],
        [(-1) ** k * mp.cos(m * theta) - 2 * k for theta, m, k, _ in points],
        [mp.cos(m * tau) - 2 * k for _, m, k, tau in points],
    )


@step("a-softmax-slope", "56381ba7")
def _(draw: Draw) -> tuple:
    points = _several(draw)
    return (
        [derivative(lambda t, m=m: _psi(t, m), theta) for theta, m, _, _ in points],
        [-((-1) ** k) * m * mp.sin(m * theta) for theta, m, k, _ in points],
        [-m * mp.sin(m * tau) for _, m, _, tau in points],
    )


@step("a-softmax-slope-sign", "5743dc16")
def _(draw: Draw) -> tuple:
    points = _several(draw)
    slopes = [derivative(lambda t, m=m: _psi(t, m), theta) for theta, m, _, _ in points]
    return slopes, [-m * abs(mp.sin(m * theta)) for theta, m, _, _ in points], *(Below(s, mpf(0)) for s in slopes)


@step("a-softmax-second", "32b7bc42")
def _(draw: Draw) -> tuple:
    m, tau = draw.whole(1, 7), draw.number(0, 0.4)
    at = [tau, mpf(0), mp.pi / m]
    return (
        [derivative(lambda t: -m * mp.sin(m * t), t) for t in at],
        [-(m**2) * mp.cos(m * t) for t in at],
        [-(m**2) * mp.cos(m * tau), -(m**2), m**2],
    )


@step("a-softmax-range", "c1a4e3b6")
def _(draw: Draw) -> tuple:
    m, theta = [draw.whole(1, 7) for _ in range(4)], draw.number()
    return (
        [theta, *(_psi(mpf(0), j) for j in m), *(_psi(mp.pi, j, j - 1) for j in m)],
        [theta, *(1 for _ in m), *(-1 - 2 * (j - 1) for j in m)],
        [theta, *(1 for _ in m), *(1 - 2 * j for j in m)],
    )


@step("a-softmax-range-real", "1ddf5019")
def _(draw: Draw) -> tuple:
    m = [draw.number(1, 7) for _ in range(4)]
    k = [int(mp.floor(j)) for j in m]
    return [_psi(mp.pi, j) for j in m], [mp.cos((j - i) * mp.pi) - 2 * i for i, j in zip(k, m, strict=True)]


@step("a-softmax-slope-cosine", "76eca66c")
def _(draw: Draw) -> tuple:
    points = _several(draw)
    return (
        [derivative(lambda c, m=m: _psi(mp.acos(c), m), mp.cos(theta)) for theta, m, _, _ in points],
        [-derivative(lambda t, m=m: _psi(t, m), theta) / mp.sin(theta) for theta, m, _, _ in points],
        [(-1) ** k * m * mp.sin(m * theta) / mp.sin(theta) for theta, m, k, _ in points],
    )


@step("a-softmax-slope-ends", "5860e786")
def _(draw: Draw) -> tuple:
    m = draw.whole(1, 7)
    with mp.workdps(200):  # an even function of the distance: what is left at 1e-60 is of the order 1e-120
        near = mpf(10) ** -60 * draw.number(1, 2)
        first = m * mp.sin(m * near) / mp.sin(near)
        theta = mp.pi - near
        second = (-1) ** (m - 1) * m * mp.sin(m * theta) / mp.sin(theta)
        steep = derivative(lambda c: _psi(mp.acos(c), mpf(m), 0), mp.cos(mpf(10) ** -20))  # of the curve itself
    return [first, second, near], [m**2, m**2, near], Below(abs(steep - m**2), mpf(10) ** -35)


@step("a-softmax-below", "3e414854")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        m, theta = draw.number(1, 7), draw.number(0, mp.pi)
        sides.append(Below(_psi(theta, m), mp.cos(theta)))
    theta = draw.number(0, mp.pi)  # m = 1: equality
    return _psi(theta, 1), mp.cos(theta), *sides


@step("a-softmax-below-first", "a24f9317")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        m = draw.number(1, 7)
        theta = draw.number(0, mp.pi / m)
        sides += [Below(mp.cos(m * theta), mp.cos(theta)), Below(theta, m * theta), Below(m * theta, mp.pi)]
    m = draw.number(1, 7)  # just past π/m the claim would soon be false: at 2π/m cos mθ is 1
    return mp.cos(m * (2 * mp.pi / m)) - mp.cos(2 * mp.pi / m), 1 - mp.cos(2 * mp.pi / m), *sides


@step("a-softmax-below-others", "c96391cf")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        m = draw.whole(2, 7)
        k = draw.whole(1, m - 1)
        theta = draw.number(k * mp.pi / m, (k + 1) * mp.pi / m)
        sides += [Below(_psi(theta, m), mpf(1 - 2 * k)), Below(mpf(1 - 2 * k), mpf(-1)), Below(mpf(-1), mp.cos(theta))]
    m = draw.whole(2, 7)  # the first bound is reached at the beginning of an arc
    return [_psi(mp.pi / m, m, 1), mp.cos(m)], [1 - 2 * 1, mp.cos(m)], *sides


def _crossing(centre: mpf, m: mpf, low: mpf, high: mpf) -> mpf:
    """Where on the circle ψ of the angle to 0 meets the cosine of the angle to centre, between two places."""

    def gap(place: mpf) -> mpf:
        return _psi(abs(place), m) - mp.cos(place - centre)

    assert gap(low) * gap(high) < 0
    return mp.findroot(gap, (low, high), solver="anderson", tol=mpf(10) ** -110)


@step("a-softmax-inner", "b321c0e4")
def _(draw: Draw) -> tuple:
    centre, m = draw.number(0.3, 2), draw.number(1.5, 6)
    return _crossing(centre, m, mpf(0), min(centre, mp.pi / m)), centre / (m + 1)


@step("a-softmax-outer", "5025aec2")
def _(draw: Draw) -> tuple:
    m = draw.number(2.5, 6)
    centre = draw.number(0.3, 1) * min(mpf(2), mp.pi * (m - 1) / m)
    return -_crossing(centre, m, -min(mp.pi / m, mp.pi - centre), mpf(0)), centre / (m - 1)


@step("a-softmax-width", "fd3121c4")
def _(draw: Draw) -> tuple:
    centre, m = draw.number(0.1, 2), draw.number(1.5, 7)
    return centre / (m + 1) + centre / (m - 1), 2 * m * centre / (m**2 - 1)


@step("a-softmax-gap", "2d22ecb8")
def _(draw: Draw) -> tuple:
    centre, m = draw.number(0.1, 2), draw.number(1, 7)
    return centre - 2 * centre / (m + 1), (m - 1) / (m + 1) * centre


def _around(draw: Draw) -> list[mpf]:
    """Values of m, some just beside 2 + √3."""
    border = 2 + mp.sqrt(3)
    return [*(draw.number(1, 7) for _ in range(TRIES)), border + mpf(10) ** -30, border - mpf(10) ** -30]


@step("a-softmax-enough", "4b1aa09f")
def _(draw: Draw) -> tuple:
    m = _around(draw)
    return (
        [m[0], *(mpf(2 * i / (i**2 - 1) <= (i - 1) / (i + 1)) for i in m)],
        [m[0], *(mpf(i >= 2 + mp.sqrt(3)) for i in m)],
    )


@step("a-softmax-enough-product", "47e8a939")
def _(draw: Draw) -> tuple:
    m = _around(draw)
    return (
        [m[0], *(mpf(2 * i / (i**2 - 1) <= (i - 1) / (i + 1)) for i in m)],
        [m[0], *(mpf(2 * i <= (i - 1) ** 2) for i in m)],
    )


@step("a-softmax-enough-roots", "18b33584")
def _(draw: Draw) -> tuple:
    m = draw.number(-5, 7)
    return (m - 1) ** 2 - 2 * m, m**2 - 4 * m + 1, (m - 2 - mp.sqrt(3)) * (m - 2 + mp.sqrt(3))


@step("a-softmax-annealed", "ebc11182")
def _(draw: Draw) -> tuple:
    (theta, m, _, _), weight = _inside(draw), draw.number(0, 10)
    psi = _psi(theta, m)
    return (weight * mp.cos(theta) + psi) / (1 + weight), mp.cos(theta) - (mp.cos(theta) - psi) / (1 + weight)


@step("a-softmax-annealed-slope", "4da6e700")
def _(draw: Draw) -> tuple:
    (theta, m, _, _), weight = _inside(draw), draw.number(0, 10)
    return (
        derivative(lambda t: (weight * mp.cos(t) + _psi(t, m)) / (1 + weight), theta),
        (-weight * mp.sin(theta) + derivative(lambda t: _psi(t, m), theta)) / (1 + weight),
    )


@step("a-softmax-sixth", "9224e08e")
def _(draw: Draw) -> tuple:
    theta, m, _, _ = _inside(draw)
    psi = _psi(theta, m)
    return (5 * mp.cos(theta) + psi) / (1 + 5), mp.cos(theta) - (mp.cos(theta) - psi) / 6
