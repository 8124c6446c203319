"""CosFace: other classes counted more often, the margin as an angle, bounds on m and s, the condition."""

from __future__ import annotations

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


def _sample(draw: Draw) -> tuple[Vector, int, mpf, mpf]:
    """Cosines, the label, scale and margin."""
    c = draw.vector(draw.whole(2, 5), -1, 1)
    return c, draw.whole(0, len(c) - 1), draw.number(0.5, 10), draw.number(0, 1)


def _probabilities(c: Vector, y: int, s: mpf, m: mpf) -> Vector:
    e = [mp.exp(s * (entry - m * (k == y))) for k, entry in enumerate(c)]
    return [entry / mp.fsum(e) for entry in e]


def _loss(c: Vector, y: int, s: mpf, m: mpf) -> mpf:
    return -mp.log(_probabilities(c, y, s, m)[y])


@step("cosface-multiplied", "69847037")
def _(draw: Draw) -> tuple:
    c, y, s, m = _sample(draw)
    others = mp.fsum(mp.exp(s * entry) for k, entry in enumerate(c) if k != y)
    target = mp.exp(s * (c[y] - m))
    return target / (target + others), mp.exp(s * c[y]) / (mp.exp(s * c[y]) + mp.exp(s * m) * others)


@step("cosface-gaps", "1c3dc453")
def _(draw: Draw) -> tuple:
    c, y, s, m = _sample(draw)
    gaps = mp.fsum(mp.exp(s * (entry - c[y])) for k, entry in enumerate(c) if k != y)
    return _loss(c, y, s, m), mp.log(1 + mp.exp(s * m) * gaps)


@step("cosface-probability-m", "acf60957")
def _(draw: Draw) -> tuple:
    c, y, s, m = _sample(draw)
    p = _probabilities(c, y, s, mpf(0))[y]
    return _probabilities(c, y, s, m)[y], p / (p + mp.exp(s * m) * (1 - p))


@step("cosface-probability", "3934691b")
def _(draw: Draw) -> tuple:
    c, y, s, m = _sample(draw)
    with_margin, without = _probabilities(c, y, s, m)[y], _probabilities(c, y, s, mpf(0))[y]
    return with_margin / (1 - with_margin), mp.exp(-s * m) * without / (1 - without)


@step("cosface-rises", "f0bc8581")
def _(draw: Draw) -> tuple:
    c, y, s, m = _sample(draw)
    slope = derivative(lambda t: _loss(c, y, s, t), m)
    return slope, s * (1 - _probabilities(c, y, s, m)[y]), Below(mpf(0), slope, strict=True)


@step("cosface-slope", "c26dd635")
def _(draw: Draw) -> tuple:
    theta, m = draw.number(0, mp.pi), draw.number(0, 1)
    return (
        [
            derivative(lambda t: mp.cos(t) - m, theta),
            derivative(lambda c: mp.cos(mp.acos(c)) - m, mp.cos(theta)),
            theta,
        ],
        [-mp.sin(theta), 1, theta],
    )


@step("cosface-gradient", "22410005")
def _(draw: Draw) -> tuple:
    c, y, s, m = _sample(draw)
    p = _probabilities(c, y, s, m)
    return gradient(lambda v: _loss(v, y, s, m), c), [s * (p[k] - (k == y)) for k in range(len(c))]


@step("cosface-pull", "99d61ff0")
def _(draw: Draw) -> tuple:
    c, y, s, m = _sample(draw)
    theta = mp.acos(c[y])
    return (
        derivative(lambda t: _loss([*c[:y], mp.cos(t), *c[y + 1 :]], y, s, m), theta),
        s * (1 - _probabilities(c, y, s, m)[y]) * mp.sin(theta),
    )


@step("cosface-product", "719228aa")
def _(draw: Draw) -> tuple:
    theta = draw.number(0.5, mp.pi)
    m = draw.number(0, 1) * (1 - mp.cos(theta))
    a = theta - mp.acos(mp.cos(theta) + m)
    return m, mp.cos(theta - a) - mp.cos(theta), 2 * mp.sin(theta - a / 2) * mp.sin(a / 2)


@step("cosface-angle", "b58cd105")
def _(draw: Draw) -> tuple:
    theta = draw.number(0.5, mp.pi)
    m = draw.number(0.1, 0.9) * (1 - mp.cos(theta))
    nearer = mp.findroot(
        lambda t: mp.cos(t) - m - mp.cos(theta), (mpf(0), theta), solver="anderson", tol=mpf(10) ** -115
    )
    return theta - nearer, theta - mp.acos(mp.cos(theta) + m)


@step("cosface-angle-first", "d6813b83")
def _(draw: Draw) -> tuple:
    theta = draw.number(0.1, 3)
    return derivative(lambda m: theta - mp.acos(mp.cos(theta) + m), mpf(0)), 1 / mp.sin(theta)


@step("cosface-angle-least", "360d12be")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        theta = draw.number(0.2, mp.pi)
        m = draw.number(0, 1) * (1 - mp.cos(theta))
        sides.append(Below(m / 2, mp.sin((theta - mp.acos(mp.cos(theta) + m)) / 2)))
    m = draw.number(0, 2)
    theta = mp.acos(-m / 2)  # the least value is reached, at θ - a/2 = π/2
    a = theta - mp.acos(mp.cos(theta) + m)
    return [mp.sin(a / 2), theta - a / 2], [m / 2, mp.pi / 2], *sides


@step("cosface-room-two", "f2608415")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    for _ in range(TRIES):
        between, m = draw.number(0, mp.pi), draw.number(0, 2)
        left.append(mpf(mp.cos(0) - m >= mp.cos(between)))
        right.append(mpf(m <= 1 - mp.cos(between)))
    return left, [left[0], *right]


def _simplex(classes: int) -> list[Vector]:
    share = mpf(1) / classes
    corners = [[(i == k) - share for i in range(classes)] for k in range(classes)]
    return [[entry / norm(corner) for entry in corner] for corner in corners]


def _sum(w: list[Vector]) -> Vector:
    return [mp.fsum(row[i] for row in w) for i in range(len(w[0]))]


def _centres(draw: Draw) -> list[Vector]:
    size = draw.whole(2, 4)
    return [draw.unit(size) for _ in range(draw.whole(2, 6))]


def _long(w: list[Vector], y: int) -> Vector:
    """C w_y - S."""
    return [len(w) * i - j for i, j in zip(w[y], _sum(w), strict=True)]


def _gap(x: Vector, w: list[Vector], y: int) -> mpf:
    """The mean gap of the cosines."""
    gaps = [dot(x, w[y]) - dot(x, w[k]) for k in range(len(w)) if k != y]
    return mp.fsum(gaps) / len(gaps)


@step("cosface-mean-gap", "0bc835a5")
def _(draw: Draw) -> tuple:
    w = _centres(draw)
    y, x = draw.whole(0, len(w) - 1), draw.unit(len(w[0]))
    long = _long(w, y)
    along = [entry / norm(long) for entry in long]  # where the bound is reached
    bound = norm(long) / (len(w) - 1)
    return [_gap(x, w, y), bound], [dot(x, long) / (len(w) - 1), _gap(along, w, y)], Below(_gap(x, w, y), bound)


@step("cosface-mean-square", "7676c6e6")
def _(draw: Draw) -> tuple:
    w = _centres(draw)
    mean = mp.fsum(norm(_long(w, y)) ** 2 for y in range(len(w))) / len(w)
    return mean, len(w) ** 2 - norm(_sum(w)) ** 2, Below(mean, mpf(len(w) ** 2))


@step("cosface-square", "1803e299")
def _(draw: Draw) -> tuple:
    w = _centres(draw)
    y, total = draw.whole(0, len(w) - 1), _sum(w)
    return norm(_long(w, y)) ** 2, len(w) ** 2 - 2 * len(w) * dot(w[y], total) + norm(total) ** 2


def _best_lead(w: list[Vector], y: int) -> tuple[mpf, Vector]:
    """The largest least gap in the plane, and where: it is at the top of one gap or where two of them meet."""
    others = [row for k, row in enumerate(w) if k != y]
    places = [[w[y][i] - row[i] for i in (0, 1)] for row in others]
    for i, row in enumerate(others):
        for other in others[:i]:
            places += [[row[1] - other[1], other[0] - row[0]], [other[1] - row[1], row[0] - other[0]]]
    units = [[entry / norm(place) for entry in place] for place in places]
    return max((min(dot(x, w[y]) - dot(x, row) for row in others), x) for x in units)


@step("cosface-room", "fad0dad1")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        w = [draw.unit(2) for _ in range(draw.whole(2, 6))]
        leads = [_best_lead(w, y) for y in range(len(w))]
        m, x = min(leads)  # every class has a place with this margin, and one of them has none with a larger one
        y = leads.index((m, x))
        elsewhere = draw.unit(2)
        sides += [
            Below(m, mpf(len(w)) / (len(w) - 1)),
            Below(min(dot(elsewhere, w[y]) - dot(elsewhere, w[k]) for k in range(len(w)) if k != y), m),
        ]
    turn, classes = draw.number(0, mp.pi), draw.whole(2, 3)  # the simplices of the plane reach the bound
    w = [[mp.cos(turn + 2 * mp.pi * k / classes), mp.sin(turn + 2 * mp.pi * k / classes)] for k in range(classes)]
    return min(_best_lead(w, y) for y in range(classes))[0], mpf(classes) / (classes - 1), *sides


def _room(w: list[Vector]) -> mpf:
    """The largest m with which every class wins at its own centre: asked of each of them."""
    return min(dot(w[y], w[y]) - dot(w[k], w[y]) for y in range(len(w)) for k in range(len(w)) if k != y)


@step("cosface-room-centres", "e5e7a02b")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        w = _centres(draw)
        largest = max(dot(w[k], w[j]) for k in range(len(w)) for j in range(len(w)) if k != j)
        sides += [Below(_room(w), 1 - largest + mpf(10) ** -50), Below(1 - largest, mpf(len(w)) / (len(w) - 1))]
        sides += [Below(1 - largest - mpf(10) ** -50, _room(w))]
    classes = draw.whole(2, 6)
    return _room(_simplex(classes)), mpf(classes) / (classes - 1), *sides  # reached


@step("cosface-project", "0198d7ca")
def _(draw: Draw) -> tuple:
    size = draw.whole(2, 5)
    v, w, other = draw.unit(size), draw.vector(size), draw.vector(size)
    w, other = ([-entry if dot(a, v) > 0 else entry for entry in a] for a in (w, other))
    rest, rest_of_other = ([i - dot(a, v) * j for i, j in zip(a, v, strict=True)] for a in (w, other))
    return (
        dot(rest, rest_of_other),
        dot(w, other) - dot(w, v) * dot(other, v),
        Below(dot(rest, rest_of_other), dot(w, other)),
    )


@step("cosface-jensen", "3a5bdf29")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        w, s, m = [draw.unit(3) for _ in range(draw.whole(3, 6))], draw.number(0.1, 10), draw.number(0, 1)
        y, x = draw.whole(0, len(w) - 1), draw.unit(3)
        p = _probabilities([dot(x, row) for row in w], y, s, m)[y]
        sides.append(Below(p, 1 / (1 + (len(w) - 1) * mp.exp(s * (m - _gap(x, w, y)))), strict=True))
    c, s, m = draw.vector(2, -1, 1), draw.number(0.1, 10), draw.number(0, 1)  # equal gaps: equality
    c += [c[1]] * draw.whole(0, 3)
    return _probabilities(c, 0, s, m)[0], 1 / (1 + (len(c) - 1) * mp.exp(s * (m - c[0] + c[1]))), *sides


def _at_best(classes: int, s: mpf, m: mpf) -> mpf:
    """The probability of a sample on a corner of the simplex."""
    corners = _simplex(classes)
    return _probabilities([dot(corner, corners[0]) for corner in corners], 0, s, m)[0]


@step("cosface-least-probability", "ad49a3cf")
def _(draw: Draw) -> tuple:
    def bound(classes: int, s: mpf, m: mpf) -> mpf:
        return 1 / (1 + (classes - 1) * mp.exp(s * (m - mpf(classes) / (classes - 1))))

    sides = []
    for _ in range(TRIES):
        w, s, m = _centres(draw), draw.number(0.1, 10), draw.number(0, 1)
        placed = [draw.unit(len(w[0])) for _ in w]
        along = [[entry / norm(_long(w, y)) for entry in _long(w, y)] for y in range(len(w))]
        for samples in (placed, w, along):
            p = [_probabilities([dot(x, row) for row in w], y, s, m)[y] for y, x in enumerate(samples)]
            sides.append(Below(min(p), bound(len(w), s, m)))
    classes, s, m = draw.whole(2, 6), draw.number(0.1, 10), draw.number(0, 1)
    return _at_best(classes, s, m), bound(classes, s, m), *sides  # reached


@step("cosface-best", "c84e7cb1")
def _(draw: Draw) -> tuple:
    classes, s = draw.whole(2, 6), draw.number(0.1, 10)
    return (
        _at_best(classes, s, mpf(0)),
        1 / (1 + (classes - 1) * mp.exp(-s * classes / (classes - 1))),
        mp.exp(s) / (mp.exp(s) + (classes - 1) * mp.exp(-s / (classes - 1))),
    )


@step("cosface-odds", "71ca5fe7")
def _(draw: Draw) -> tuple:
    classes, s = draw.whole(2, 6), draw.number(0.1, 10)
    p = _at_best(classes, s, mpf(0))
    return p / (1 - p), mp.exp(s * classes / (classes - 1)) / (classes - 1)


@step("cosface-scale", "f70bebfb")
def _(draw: Draw) -> tuple:
    classes, s = draw.whole(2, 6), draw.number(0.1, 10)
    p = _at_best(classes, s, mpf(0))
    return s, mpf(classes - 1) / classes * mp.log((classes - 1) * p / (1 - p))


@step("cosface-scale-margin", "d13f2d97")
def _(draw: Draw) -> tuple:
    classes, s, m = draw.whole(2, 6), draw.number(0.1, 10), draw.number(0, 1)
    p = _at_best(classes, s, m)
    return s, 1 / (mpf(classes) / (classes - 1) - m) * mp.log((classes - 1) * p / (1 - p))


@step("cosface-boundary", "e518a5ee")
def _(draw: Draw) -> tuple:
    size = draw.whole(2, 5)
    x, first, second = draw.unit(size), draw.unit(size), draw.unit(size)
    m = mp.cos(mp.acos(dot(x, first))) - mp.cos(mp.acos(dot(x, second)))  # the margin with which x is on the boundary
    beside = mpf(10) ** -30
    return (
        [dot(x, [i - j for i, j in zip(first, second, strict=True)]), 1, 0],
        [
            m,
            mpf(dot(x, first) - (m - beside) > dot(x, second)),
            mpf(dot(x, first) - (m + beside) > dot(x, second)),
        ],
    )


@step("cosface-conditional-jump", "1e675d3e")
def _(draw: Draw) -> tuple:
    m = draw.number(0.1, 0.9)

    def psi(theta: mpf) -> mpf:
        return mp.cos(theta) - m if mp.cos(theta) > m else mp.cos(theta)

    near = mpf(10) ** -30
    inside, outside = psi(mp.acos(m) - near), psi(mp.acos(m) + near)
    return (
        [m, m],
        [psi(mp.acos(m) + mpf(10) ** -55), m],
        Below(abs(inside), 2 * near),
        Below(abs(outside - m), 2 * near),
    )


@step("cosface-conditional-twice", "b19c4f3f")
def _(draw: Draw) -> tuple:
    m = draw.number(0.1, 0.9)

    def psi(theta: mpf) -> mpf:
        return mp.cos(theta) - m if mp.cos(theta) > m else mp.cos(theta)

    v = draw.number(0, 1) * min(m, 1 - m)
    return psi(mp.acos(v + m)), psi(mp.acos(v)), v


def _whole(draw: Draw) -> tuple[Batch, mpf, list[Vector], list[Vector]]:
    """A batch, the margin, the cosines, and A as written."""
    each, m = batch(draw), draw.number(0.1, 1)
    c, a = [cosines(row, each.w) for row in each.x], []
    for row, y in zip(c, each.y, strict=True):
        p = probabilities([each.s * (cosine - m * (k == y)) for k, cosine in enumerate(row)])
        a.append([each.s / len(c) * (p[k] - (k == y)) for k in range(len(row))])
    return each, m, c, a


@step("cosface-whole-cosines", "e21755e3")
def _(draw: Draw) -> tuple:
    each, m, c, a = _whole(draw)
    return gradients(lambda v: mean_loss(v, each.y, [each.s] * len(c), lambda own: own - m), c), a


@step("cosface-whole-x", "955fd8fe")
def _(draw: Draw) -> tuple:
    each, m, _, a = _whole(draw)
    by_hand = [assembled(row, each.w, x) for row, x in zip(a, each.x, strict=True)]
    return gradients(lambda x: head_loss(each._replace(x=x), lambda own: own - m), each.x), by_hand


@step("cosface-whole-w", "869ecd25")
def _(draw: Draw) -> tuple:
    each, m, _, a = _whole(draw)
    by_hand = [assembled([row[k] for row in a], each.x, w) for k, w in enumerate(each.w)]
    return gradients(lambda w: head_loss(each._replace(w=w), lambda own: own - m), each.w), by_hand
