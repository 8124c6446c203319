"""Choosing s and m: what scale a probability needs, what room centres have, and the first loss of a network."""

from __future__ import annotations

from itertools import combinations

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, dot, step, unit

TRIES = 20  # draws for an inequality


def _probability(leads: Vector, s: mpf) -> mpf:
    """Softmax of the target, whose logit is 0."""
    return 1 / mp.fsum([mpf(1), *(mp.exp(-s * lead) for lead in leads)])


@step("choosing-jensen", "64cd0482")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        s, leads = draw.number(0.5, 5), draw.vector(draw.whole(1, 5), -1, 2)
        mean = mp.fsum(leads) / len(leads)
        sides.append(Below(_probability(leads, s), 1 / (1 + len(leads) * mp.exp(-s * mean))))
    s, lead, others = draw.number(0.5, 5), draw.number(), draw.whole(1, 5)
    return _probability([lead] * others, s), 1 / (1 + others * mp.exp(-s * lead)), *sides


def _reached(draw: Draw, lead: mpf) -> tuple[list[mpf], list[mpf], mpf, mpf]:
    """Whether P is reached, and whether s is at least the bound; at the bound itself both sides of P."""
    left, right = [], []
    for _ in range(TRIES):
        classes, s, wanted = draw.whole(2, 50), draw.number(0.5, 20), draw.number(0.5, 0.999)
        left.append(mpf(1 / (1 + (classes - 1) * mp.exp(-s * lead)) >= wanted))
        right.append(mpf(s >= mp.log((classes - 1) * wanted / (1 - wanted)) / lead))
    bound = mp.log((classes - 1) * wanted / (1 - wanted)) / lead
    return left, right, 1 / (1 + (classes - 1) * mp.exp(-bound * lead)), wanted


@step("choosing-scale", "95089435")
def _(draw: Draw) -> tuple:
    left, right, reached, wanted = _reached(draw, draw.number(0.1, 2))
    return [*left, reached], [*right, wanted]


def _simplex(classes: int) -> list[Vector]:
    return [unit([(i == k) - mpf(1) / classes for i in range(classes)]) for k in range(classes)]


@step("choosing-lead", "4ea397e9")
def _(draw: Draw) -> tuple:
    m = draw.number(0.1, 1)
    curves = [mp.cos, lambda t: mp.cos(t) - m, lambda t: mp.cos(t + m)]
    tops = [mpf(1), 1 - m, mp.cos(m)]

    def leads(w: list[Vector], top: mpf) -> Vector:
        """Mean leads of samples on their centres."""
        return [mp.fsum(top - dot(w[y], w[k]) for k in range(len(w)) if k != y) / (len(w) - 1) for y in range(len(w))]

    below = []
    for _ in range(TRIES):
        classes = draw.whole(2, 6)
        w = [draw.unit(3) for _ in range(classes)]
        below += [Below(min(leads(w, top)), top + mpf(1) / (classes - 1)) for top in tops]
    classes = draw.whole(3, 6)
    reached = [entry for top in tops for entry in leads(_simplex(classes), top)]
    return (
        [*(curve(mpf(0)) for curve in curves), *reached],
        [*tops, *(top + mpf(1) / (classes - 1) for top in tops for _ in range(classes))],
        *below,
    )


@step("choosing-scale-there", "066f294f")
def _(draw: Draw) -> tuple:
    m = draw.number(0.1, 0.5)
    theta = draw.number(0, 1)
    left, right, reached, wanted = _reached(draw, mp.cos(theta + m))
    classes, s = draw.whole(2, 5), draw.number(0.5, 5)
    p = mp.exp(s * mp.cos(theta + m)) / (mp.exp(s * mp.cos(theta + m)) + (classes - 1) * mp.exp(s * mp.cos(mp.pi / 2)))
    return [*left, reached, p], [*right, wanted, 1 / (1 + (classes - 1) * mp.exp(-s * mp.cos(theta + m)))]


@step("choosing-adacos", "ad417331")
def _(draw: Draw) -> tuple:
    classes, half = draw.whole(3, 100000), mpf(1) / 2
    return 1 / mp.cos(mp.pi / 4) * mp.log((classes - 1) * half / (1 - half)), mp.sqrt(2) * mp.log(classes - 1)


@step("choosing-quiet", "3c3db9fe")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        s, leads, epsilon = draw.number(0.5, 5), draw.vector(draw.whole(1, 5), 0.1, 2), draw.number(0.001, 0.5)
        least = min(leads)
        sides.append(Below(1 - _probability(leads, s), len(leads) * mp.exp(-s * least)))
        beyond = mp.log(len(leads) / epsilon) / s + draw.number(0, 1)
        sides.append(Below(len(leads) * mp.exp(-s * beyond), epsilon))
    at = mp.log(len(leads) / epsilon) / s
    return len(leads) * mp.exp(-s * at), epsilon, *sides


def _smallest(w: list[Vector]) -> mpf:
    """The smallest angle between two of these unit vectors."""
    return min(mp.acos(dot(a, b)) for a, b in combinations(w, 2))


@step("choosing-room", "d745659c")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        w, m = [draw.unit(3) for _ in range(4)], draw.number(0, 2)
        largest = max(dot(a, b) for a, b in combinations(w, 2))
        left += [mpf(mp.cos(m) >= largest), mpf(1 - m >= largest)]
        right += [mpf(m <= _smallest(w)), mpf(m <= 1 - mp.cos(_smallest(w)))]
    return [*left, m], [*right, m]


def _share(phi: mpf, dimensions: int) -> mpf:
    def area(end: mpf) -> mpf:
        return mp.quad(lambda t: mp.sin(t) ** (dimensions - 2), [0, end / 2, end])

    return area(phi) / area(mp.pi)


def _arranged(draw: Draw) -> list[tuple[list[Vector], int]]:
    """Best arrangements: corners of a polygon, and of three regular bodies, in two and three dimensions."""
    corners = draw.whole(3, 9)
    turns = [2 * mp.pi * k / corners for k in range(corners)]
    axes = [[mpf(sign * (i == k)) for i in range(3)] for k in range(3) for sign in (1, -1)]
    golden = (1 + mp.sqrt(5)) / 2
    bases = [[mpf(0), mpf(a), b * golden] for a in (1, -1) for b in (1, -1)]
    icosahedron = [unit([*base[k:], *base[:k]]) for base in bases for k in range(3)]
    simplex = [unit([mpf(i) for i in row]) for row in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))]
    return [([[mp.cos(t), mp.sin(t)] for t in turns], 2), (simplex, 3), (axes, 3), (icosahedron, 3)]


@step("choosing-packing", "238c3bf0")
def _(draw: Draw) -> tuple:
    drawn = [([draw.unit(d) for _ in range(draw.whole(2, 6))], d) for d in (2, 3, 4)]
    sides = [Below(len(w) * _share(_smallest(w) / 2, d), mpf(1)) for w, d in _arranged(draw)[1:] + drawn]
    phi = draw.number(0, mp.pi)
    polygon, _ = _arranged(draw)[0]  # on a circle caps fill everything
    return (
        [_share(phi, 2), _share(phi, 3), len(polygon) * _share(_smallest(polygon) / 2, 2)],
        [phi / mp.pi, mp.sin(phi / 2) ** 2, mpf(1)],
        *sides,
    )


@step("choosing-greedy", "c945d633")
def _(draw: Draw) -> tuple:
    sides = []
    for w, d in _arranged(draw):
        best = _smallest(w)
        # at the best angle, and so at any larger one, the left side does not hold
        sides.append(Below(mpf(1), (len(w) - 1) * _share(best, d)))
    phi = draw.number(0.1, 3)
    return _share(phi, 4), (phi - mp.sin(phi) * mp.cos(phi)) / mp.pi, *sides


@step("choosing-left", "75ad9ba7")
def _(draw: Draw) -> tuple:
    between, m = draw.number(1, 3), draw.number(0, 1)
    theta = (between - m) / 2  # the border: as far from the other centre, less m
    return [theta + m, m], [between - theta, between - 2 * theta]


@step("choosing-beyond", "33e84958")
def _(draw: Draw) -> tuple:
    m, dimensions = draw.number(0.1, 1.5), draw.whole(2, 6)
    return 1 - _share(mp.pi - m, dimensions), _share(m, dimensions)


def _loss(s: mpf, top: mpf, others: Vector) -> mpf:
    return mp.log(mp.fsum(mp.exp(s * (c - top)) for c in [top, *others]))


def _three(theta: mpf, m: mpf) -> Vector:
    return [mp.cos(theta), mp.cos(theta) - m, mp.cos(theta + m)]


@step("choosing-start", "11af1d40")
def _(draw: Draw) -> tuple:
    s, m, classes = draw.number(1, 64), draw.number(0.1, 1), draw.whole(2, 9)
    tops = _three(mp.pi / 2, m)
    return (
        [*tops, *(_loss(s, top, [mp.cos(mp.pi / 2)] * (classes - 1)) for top in tops)],
        [mpf(0), -m, -mp.sin(m), *(mp.log(1 + (classes - 1) * mp.exp(-s * top)) for top in tops)],
    )


@step("choosing-collapsed", "4df100bd")
def _(draw: Draw) -> tuple:
    s, m, classes = draw.number(1, 64), draw.number(0.1, 1), draw.whole(2, 9)
    tops = _three(mpf(0), m)
    return (
        [_loss(s, top, [mpf(1)] * (classes - 1)) for top in tops],
        [mp.log(1 + (classes - 1) * mp.exp(s * (1 - top))) for top in tops],
    )
