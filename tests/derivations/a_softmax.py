"""A-Softmax: the folds of the curve, its slopes, the margin it is, its annealed form, and how large m should be."""

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
    mean_loss,
    norm,
    probabilities,
    step,
    unit,
)

TRIES = 30  # draws for a statement that is only true or false at each
NEAR = mpf(10) ** -25  # so near to a border that a wrong one would show


def _fold(m: mpf, theta: mpf) -> int:
    """The first fold that θ lies in, found by trying them all."""
    k = 0
    while theta > (k + 1) * mp.pi / m:
        k += 1
    return k


def _piece(m: mpf, k: int, theta: mpf) -> mpf:
    """What the definition has on fold k, at any angle."""
    return (-1) ** k * mp.cos(m * theta) - 2 * k


def _psi(m: mpf, theta: mpf) -> mpf:
    return _piece(m, _fold(m, theta), theta)


def _points(draw: Draw) -> list[tuple[mpf, int, mpf, mpf]]:
    """Margins m, folds k, and angles θ = kπ/m + τ inside of them; any fold that is in reach."""
    points = []
    for _ in range(6):
        m = mpf(draw.whole(1, 7)) if draw.whole(0, 1) else draw.number(1, 7)
        k = draw.whole(0, int(mp.ceil(m)) - 1)
        tau = draw.number(0.001, 0.999) * min(mp.pi / m, mp.pi - k * mp.pi / m)
        points.append((m, k, k * mp.pi / m + tau, tau))
    return points


def _truths(values: list[bool]) -> Vector:
    return [mpf(value) for value in values]


@step("a-softmax-rise", "7f67632f")
def _(draw: Draw) -> tuple:
    m, theta = draw.number(1, 7), draw.number(0, mp.pi)
    places = [draw.number(mp.pi, 2 * mp.pi) for _ in range(TRIES)] + [mp.pi + NEAR, 2 * mp.pi - NEAR]
    return (
        derivative(lambda t: mp.cos(m * t), theta),
        -m * mp.sin(m * theta),
        *(Below(mpf(0), derivative(lambda t: mp.cos(m * t), place / m), strict=True) for place in places),
    )


@step("a-softmax-twice", "1207efec")
def _(draw: Draw) -> tuple:
    m, theta = draw.number(1, 7), draw.number(0, mp.pi)
    return mp.cos(m * (2 * mp.pi / m - theta)), mp.cos(m * theta)


@step("a-softmax-turn", "668266a0")
def _(draw: Draw) -> tuple:
    points = _points(draw)
    return (
        [mp.cos(m * theta) for m, _, theta, _ in points],
        [mp.cos(k * mp.pi + m * tau) for m, k, _, tau in points],
        [(-1) ** k * mp.cos(m * tau) for m, k, _, tau in points],
    )


@step("a-softmax-copy", "9079ac9a")
def _(draw: Draw) -> tuple:
    points = _points(draw)
    return [(-1) ** k * mp.cos(m * theta) for m, k, theta, _ in points], [mp.cos(m * tau) for m, _, _, tau in points]


@step("a-softmax-fold-slope", "547bee73")
def _(draw: Draw) -> tuple:
    m = draw.number(1, 7)
    taus = [draw.number(0, mp.pi) / m for _ in range(TRIES)]
    slopes = [derivative(lambda t: mp.cos(m * t), tau) for tau in taus]
    return slopes, [-m * mp.sin(m * tau) for tau in taus], *(Below(slope, mpf(0)) for slope in slopes)


@step("a-softmax-lowering", "96105e10")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    right.append(left[0])
    for _ in range(TRIES):
        low = mpf(draw.whole(-40, 40)) / 8
        following = low + draw.whole(-4, 4)
        left.append(mpf(mp.cos(mp.pi) - low == mp.cos(0) - following))
        right.append(mpf(following == low + 2))
    return left, right


@step("a-softmax-psi", "f0dd3117")
def _(draw: Draw) -> tuple:
    points = _points(draw)
    return (
        [_psi(m, theta) for m, _, theta, _ in points],
        [(-1) ** k * mp.cos(m * theta) - 2 * k for m, k, theta, _ in points],
        [mp.cos(m * tau) - 2 * k for m, k, _, tau in points],
    )


@step("a-softmax-join", "d446af9b")
def _(draw: Draw) -> tuple:
    m, folds = draw.number(1, 7), [draw.whole(0, 7) for _ in range(6)]
    joins = [(k + 1) * mp.pi / m for k in folds]
    return (
        [m, *((-1) ** k * mp.cos(m * theta) - 2 * k for k, theta in zip(folds, joins, strict=True))],
        [m, *(-1 - 2 * k for k in folds)],
        [m, *((-1) ** (k + 1) * mp.cos(m * theta) - 2 * (k + 1) for k, theta in zip(folds, joins, strict=True))],
    )


@step("a-softmax-slope", "623b86d6")
def _(draw: Draw) -> tuple:
    points = _points(draw)
    return (
        [derivative(lambda t, m=m: _psi(m, t), theta) for m, _, theta, _ in points],
        [-((-1) ** k) * m * mp.sin(m * theta) for m, k, theta, _ in points],
        [-m * mp.sin(m * tau) for m, _, _, tau in points],
    )


@step("a-softmax-slope-abs", "5743dc16")
def _(draw: Draw) -> tuple:
    points = _points(draw)
    slopes = [derivative(lambda t, m=m: _psi(m, t), theta) for m, _, theta, _ in points]
    return (
        slopes,
        [-m * abs(mp.sin(m * theta)) for m, _, theta, _ in points],
        *(Below(slope, mpf(0)) for slope in slopes),
    )


@step("a-softmax-second", "9a7a0c08")
def _(draw: Draw) -> tuple:
    points = _points(draw)[:3]
    return (
        [derivative(lambda t, m=m: derivative(lambda v: _psi(m, v), t), theta) for m, _, theta, _ in points],
        [-((-1) ** k) * m**2 * mp.cos(m * theta) for m, k, theta, _ in points],
        [-(m**2) * mp.cos(m * tau) for m, _, _, tau in points],
    )


def _bend(m: mpf, k: int, theta: mpf) -> mpf:
    """ψ'' of the piece of fold k, which at a join is the second derivative from the side of that fold."""
    return derivative(lambda t: derivative(lambda v: _piece(m, k, v), t), theta)


@step("a-softmax-second-before", "a0293edc")
def _(draw: Draw) -> tuple:
    m, k = draw.number(1, 7), draw.whole(0, 6)
    return _bend(m, k, (k + 1) * mp.pi / m), -(m**2) * mp.cos(mp.pi), m**2


@step("a-softmax-second-after", "04754d74")
def _(draw: Draw) -> tuple:
    m, k = draw.number(1, 7), draw.whole(0, 6)
    return _bend(m, k + 1, (k + 1) * mp.pi / m), -(m**2) * mp.cos(0), -(m**2)


def _integral(f, low: mpf, high: mpf, cell: mpf) -> mpf:
    """∫ f between two places, cut at the multiples of cell, where f has its corners."""
    cuts = [j * cell for j in range(int(mp.floor(low / cell)) + 1, int(mp.ceil(high / cell)))]
    return mp.quad(f, [low, *cuts, high])


@step("a-softmax-integral", "be7fa466")
def _(draw: Draw) -> tuple:
    points = _points(draw)[:3]
    return (
        [_psi(m, theta) for m, _, theta, _ in points],
        [1 - _integral(lambda t, m=m: m * abs(mp.sin(m * t)), mpf(0), theta, mp.pi / m) for m, _, theta, _ in points],
        [1 - _integral(lambda t: abs(mp.sin(t)), mpf(0), m * theta, mp.pi) for m, _, theta, _ in points],
    )


@step("a-softmax-cosine-integral", "3dfecae1")
def _(draw: Draw) -> tuple:
    theta = draw.number(0, mp.pi)
    return mp.cos(theta), 1 - mp.quad(lambda t: abs(mp.sin(t)), [0, theta])


@step("a-softmax-end-whole", "44e70e21")
def _(draw: Draw) -> tuple:
    number, margins = draw.number(), [draw.whole(1, 9) for _ in range(6)]
    return (
        [number, *(_psi(mpf(m), mp.pi) for m in margins)],
        [number, *((-1) ** (m - 1) * mp.cos(m * mp.pi) - 2 * (m - 1) for m in margins)],
        [number, *(1 - 2 * m for m in margins)],
    )


@step("a-softmax-end", "47ee9e49")
def _(draw: Draw) -> tuple:
    margins = [draw.number(1, 9) for _ in range(6)]
    return (
        [_psi(m, mp.pi) for m in margins],
        [(-1) ** int(mp.floor(m)) * mp.cos(m * mp.pi) - 2 * mp.floor(m) for m in margins],
        [mp.cos((m - mp.floor(m)) * mp.pi) - 2 * mp.floor(m) for m in margins],
    )


@step("a-softmax-below", "9684432d")
def _(draw: Draw) -> tuple:
    points = _points(draw)[:3]
    return (
        [mp.cos(theta) - _psi(m, theta) for m, _, theta, _ in points],
        [_integral(lambda t: abs(mp.sin(t)), theta, m * theta, mp.pi) for m, _, theta, _ in points],
        *(Below(_psi(m, theta), mp.cos(theta)) for m, _, theta, _ in _points(draw)),
    )


@step("a-softmax-cos-slope", "cb9a5633")
def _(draw: Draw) -> tuple:
    points = _points(draw)
    return (
        [derivative(lambda c, m=m: _psi(m, mp.acos(c)), mp.cos(theta)) for m, _, theta, _ in points],
        [derivative(lambda t, m=m: _psi(m, t), theta) / -mp.sin(theta) for m, _, theta, _ in points],
        [(-1) ** k * (m * mp.sin(m * theta) / mp.sin(theta)) for m, k, theta, _ in points],
        [m * abs(mp.sin(m * theta)) / mp.sin(theta) for m, _, theta, _ in points],
    )


@step("a-softmax-cos-slope-split", "3b1a6ee1")
def _(draw: Draw) -> tuple:
    m, theta = draw.number(1, 7), draw.number(0, mp.pi)
    return m * mp.sin(m * theta) / mp.sin(theta), m**2 * (mp.sin(m * theta) / (m * theta)) * (theta / mp.sin(theta))


def _little(draw: Draw) -> mpf:
    """An angle whose square is beyond all digits: a quotient that is even in it is at its limit."""
    return draw.number(1, 2) * mpf(10) ** -40


@step("a-softmax-limit-zero", "5bd30371")
def _(draw: Draw) -> tuple:
    m, theta = draw.number(1, 7), _little(draw)
    return m * mp.sin(m * theta) / mp.sin(theta), m**2


@step("a-softmax-near-pi", "f45d695b")
def _(draw: Draw) -> tuple:
    m, little = draw.whole(1, 7), draw.number(0, 2)
    return (
        mp.sin(m * (mp.pi - little)),
        -mp.cos(m * mp.pi) * mp.sin(m * little),
        (-1) ** (m - 1) * mp.sin(m * little),
    )


@step("a-softmax-limit-pi", "73920447")
def _(draw: Draw) -> tuple:
    number, left, middle, right = draw.number(), [], [], []
    for _ in range(4):
        m, little = draw.whole(1, 7), _little(draw)
        with mp.workdps(3 * mp.dps):
            theta = mp.pi - little
            left.append((-1) ** (m - 1) * (m * mp.sin(m * theta) / mp.sin(theta)))
        middle.append(m * mp.sin(m * little) / mp.sin(little))
        right.append(m**2)
    return [number, *left], [number, *middle], [number, *right]


@step("a-softmax-limit-floor", "99182e40")
def _(draw: Draw) -> tuple:
    number, left, right = draw.number(), [], []
    for _ in range(4):
        m, little = draw.whole(1, 7), _little(draw)
        with mp.workdps(3 * mp.dps):
            theta = mp.pi - little
            left.append((-1) ** m * (m * mp.sin(m * theta) / mp.sin(theta)))
        right.append(-(m**2))
    return [number, *left], [number, *right]


@step("a-softmax-sine-bound", "a7d36dfc")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        m, theta = draw.whole(1, 9), draw.number(0, mp.pi)
        sides.append(Below(abs(mp.sin(m * theta)), m * mp.sin(theta)))
    return tuple(sides)


@step("a-softmax-sine-step", "aa61d3e9")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        j, theta = draw.whole(1, 9), draw.number(0, mp.pi)
        most = abs(mp.sin(j * theta)) * abs(mp.cos(theta)) + abs(mp.cos(j * theta)) * mp.sin(theta)
        sides.append(Below(abs(mp.sin((j + 1) * theta)), most + mpf(10) ** -50))  # often equal except for rounding
    return tuple(sides)


@step("a-softmax-sine-step-bound", "271e7805")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        j, theta = draw.whole(1, 9), draw.number(0, mp.pi)
        most = abs(mp.sin(j * theta)) * abs(mp.cos(theta)) + abs(mp.cos(j * theta)) * mp.sin(theta)
        sides.append(Below(most, abs(mp.sin(j * theta)) + mp.sin(theta)))
    return tuple(sides)


@step("a-softmax-end-slope", "59bbfbc2")
def _(draw: Draw) -> tuple:
    margins = [draw.number(1, 9) for _ in range(6)]
    ends = [derivative(lambda t, m=m: _piece(m, _fold(m, mp.pi), t), mp.pi) for m in margins]
    return (
        ends,
        [-m * abs(mp.sin(m * mp.pi)) for m in margins],
        *(Below(end, mpf(0), strict=True) for end in ends),
    )


def _angle(a: Vector, b: Vector) -> mpf:
    return mp.acos(dot(a, b) / (norm(a) * norm(b)))


def _pull(draw: Draw) -> tuple[mpf, Vector, Vector, mpf, mpf, mpf]:
    """m, x, a unit centre, their angle, and ψ and ψ' there."""
    size, m = draw.whole(2, 4), draw.number(1, 6)
    x, w = draw.vector(size), draw.unit(size)
    theta = _angle(x, w)
    return m, x, w, theta, _psi(m, theta), derivative(lambda t: _psi(m, t), theta)


def _logit_gradient(m: mpf, x: Vector, w: Vector) -> Vector:
    return gradient(lambda v: norm(v) * _psi(m, _angle(v, w)), x)


@step("a-softmax-pull", "5551bf64")
def _(draw: Draw) -> tuple:
    m, x, w, theta, psi, slope = _pull(draw)
    unit = [entry / norm(x) for entry in x]
    t = [(i - mp.cos(theta) * j) / mp.sin(theta) for i, j in zip(w, unit, strict=True)]
    return (
        _logit_gradient(m, x, w),
        [psi * j + norm(x) * (-slope * i / norm(x)) for i, j in zip(t, unit, strict=True)],
        [psi * j - slope * i for i, j in zip(t, unit, strict=True)],
    )


@step("a-softmax-pull-length", "070a2d55")
def _(draw: Draw) -> tuple:
    m, x, w, _, psi, slope = _pull(draw)
    return norm(_logit_gradient(m, x, w)), mp.sqrt(psi**2 + slope**2)


@step("a-softmax-recurrence", "3e52abbe")
def _(draw: Draw) -> tuple:
    j, theta = draw.whole(1, 9), draw.number(0, mp.pi)
    return mp.cos((j + 1) * theta) + mp.cos((j - 1) * theta), 2 * mp.cos(theta) * mp.cos(j * theta)


@step("a-softmax-two", "839c86e8")
def _(draw: Draw) -> tuple:
    theta = draw.number(0, mp.pi)
    c = mp.cos(theta)
    return mp.cos(2 * theta), 2 * c * c - 1, 2 * c**2 - 1


@step("a-softmax-three", "fc7ceed4")
def _(draw: Draw) -> tuple:
    theta = draw.number(0, mp.pi)
    c = mp.cos(theta)
    return mp.cos(3 * theta), 2 * c * (2 * c**2 - 1) - c, 4 * c**3 - 3 * c


@step("a-softmax-four", "ba12d074")
def _(draw: Draw) -> tuple:
    theta = draw.number(0, mp.pi)
    c = mp.cos(theta)
    return mp.cos(4 * theta), 2 * c * (4 * c**3 - 3 * c) - (2 * c**2 - 1), 8 * c**4 - 8 * c**2 + 1


def _annealed(weight: mpf, m: mpf, theta: mpf) -> mpf:
    return (weight * mp.cos(theta) + _psi(m, theta)) / (1 + weight)


@step("a-softmax-annealed", "ebc11182")
def _(draw: Draw) -> tuple:
    points, weight = _points(draw), draw.number(0, 10)
    return (
        [(weight * mp.cos(theta) + _psi(m, theta)) / (1 + weight) for m, _, theta, _ in points],
        [mp.cos(theta) - (mp.cos(theta) - _psi(m, theta)) / (1 + weight) for m, _, theta, _ in points],
    )


@step("a-softmax-between", "fff2c653")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        m, theta, weight = draw.number(1, 7), draw.number(0, mp.pi), draw.number(0, 10)
        middle = _annealed(weight, m, theta)
        sides += [Below(_psi(m, theta), middle), Below(middle, mp.cos(theta))]
    return tuple(sides)


@step("a-softmax-annealed-limit", "d00f423e")
def _(draw: Draw) -> tuple:
    points, weight = _points(draw), mpf(10) ** 55
    return [_annealed(weight, m, theta) for m, _, theta, _ in points], [mp.cos(theta) for _, _, theta, _ in points]


@step("a-softmax-annealed-slope", "80fd9950")
def _(draw: Draw) -> tuple:
    points, weight = _points(draw), draw.number(0, 10)
    slopes = [derivative(lambda t, m=m: _annealed(weight, m, t), theta) for m, _, theta, _ in points]
    return (
        slopes,
        [-(weight * mp.sin(theta) + m * abs(mp.sin(m * theta))) / (1 + weight) for m, _, theta, _ in points],
        *(Below(slope, mpf(0), strict=True) for slope in slopes),
    )


@step("a-softmax-annealed-bend", "ddc6c316")
def _(draw: Draw) -> tuple:
    m, weight = draw.number(1, 7), draw.number(0, 10)
    smaller = mp.sqrt((weight + m**2) / (1 + weight))

    def first(theta: mpf) -> mpf:  # on fold 0, continued to the left of 0
        return (weight * mp.cos(theta) + _piece(m, 0, theta)) / (1 + weight)

    return (
        derivative(lambda t: derivative(first, t), mpf(0)),
        -(weight + m**2) / (1 + weight),
        -(smaller**2),
        derivative(lambda t: derivative(lambda v: mp.cos(smaller * v), t), mpf(0)),
    )


# The circle. Centre 1 is at 0 and centre 2 at θ12; places are angles, t goes away from centre 1.


def _apart(place: mpf, centre: mpf) -> mpf:
    """The angle of two places on the circle."""
    return mp.acos(mp.cos(place - centre))


def _keeps(m: mpf, place: mpf, own: mpf, other: mpf) -> bool:
    """Whether A-Softmax has an embedding there right: its curve is above the cosine of the other class."""
    return bool(_psi(m, _apart(place, own)) > mp.cos(place - other))


def _border(m: mpf, apart: mpf, direction: int) -> mpf:
    """How far class 1 reaches in a direction, by bisection of what the loss says."""
    low, high = mpf(0), mp.pi
    for _ in range(170):
        middle = (low + high) / 2
        if _keeps(m, direction * middle, mpf(0), apart):
            low = middle
        else:
            high = middle
    return low


def _near(draw: Draw) -> tuple[mpf, mpf]:
    """m and θ12 with the border on the far side where θ2 still grows."""
    m = draw.number(1.2, 6)
    return m, draw.number(0.1, 0.99) * (m - 1) / m * mp.pi


def _far(draw: Draw) -> tuple[mpf, mpf]:
    """m and θ12 with the border beyond the point opposite to centre 2."""
    m = draw.number(1.2, 6)
    least = (m - 1) / m * mp.pi
    return m, least + draw.number(0.01, 1) * (mp.pi - least)


@step("a-softmax-inner", "3a7372c5")
def _(draw: Draw) -> tuple:
    m, apart = (_near, _far)[draw.whole(0, 1)](draw)
    t = apart / (m + 1)
    return [_border(m, apart, 1), m * t], [t, apart - t]


@step("a-softmax-two-ways", "4abaf7b1")
def _(draw: Draw) -> tuple:
    pairs = [(draw.number(0, mp.pi), draw.number(0, mp.pi)) for _ in range(TRIES)]
    return (
        [_apart(-t, apart) for apart, t in pairs],
        [min(apart + t, 2 * mp.pi - apart - t) for apart, t in pairs],
    )


@step("a-softmax-outer", "03bcce97")
def _(draw: Draw) -> tuple:
    m, apart = _near(draw)
    t = apart / (m - 1)
    return [_border(m, apart, -1), m * t], [t, apart + t]


@step("a-softmax-outer-far", "0187e497")
def _(draw: Draw) -> tuple:
    m, apart = _far(draw)
    t = (2 * mp.pi - apart) / (m + 1)
    return [_border(m, apart, -1), m * t], [t, 2 * mp.pi - apart - t]


@step("a-softmax-near-case", "f65c5e1c")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    right.append(left[0])
    for j in range(TRIES):
        m = draw.number(1.01, 7)
        apart = (m - 1) / m * mp.pi + (NEAR if j % 2 else -NEAR) if j < 4 else draw.number(0, mp.pi)
        left.append(mpf(apart / (m - 1) <= (2 * mp.pi - apart) / (m + 1)))
        right.append(mpf(apart <= (m - 1) / m * mp.pi))
    return left, right


@step("a-softmax-width", "fd3121c4")
def _(draw: Draw) -> tuple:
    m, apart = _near(draw)
    return (
        _border(m, apart, 1) + _border(m, apart, -1),
        apart / (m + 1) + apart / (m - 1),
        2 * m * apart / (m**2 - 1),
    )


@step("a-softmax-gap", "2d22ecb8")
def _(draw: Draw) -> tuple:
    m, apart = (_near, _far)[draw.whole(0, 1)](draw)
    return (
        apart - 2 * _border(m, apart, 1),
        apart - 2 * apart / (m + 1),
        (m - 1) / (m + 1) * apart,
    )


@step("a-softmax-far-gap", "07efad82")
def _(draw: Draw) -> tuple:
    (m, apart), (other, nearer) = _far(draw), _near(draw)
    return (
        2 * mp.pi - apart - 2 * _border(m, apart, -1),  # there this is the gap itself
        2 * mp.pi - apart - 2 * ((2 * mp.pi - apart) / (m + 1)),
        (m - 1) / (m + 1) * (2 * mp.pi - apart),
        Below((other - 1) / (other + 1) * (2 * mp.pi - nearer), 2 * mp.pi - nearer - 2 * _border(other, nearer, -1)),
    )


@step("a-softmax-far-gap-larger", "b5d6c51f")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        m, apart = draw.number(1, 7), draw.number(0, mp.pi)
        sides.append(Below((m - 1) / (m + 1) * apart, (m - 1) / (m + 1) * (2 * mp.pi - apart)))
    return tuple(sides)


@step("a-softmax-far-width", "b1142029")
def _(draw: Draw) -> tuple:
    (m, apart), (other, nearer) = _far(draw), _near(draw)
    width = _border(other, nearer, 1) + _border(other, nearer, -1)
    return (
        _border(m, apart, 1) + _border(m, apart, -1),
        apart / (m + 1) + (2 * mp.pi - apart) / (m + 1),
        2 * mp.pi / (m + 1),
        Below(2 * mp.pi / (m + 1), mp.pi),
        Below(width, 2 * mp.pi / (other + 1)),
    )


def _margins(draw: Draw) -> list[mpf]:
    """Margins above 1, some of them close to the border 2 + √3."""
    border = 2 + mp.sqrt(3)
    return [draw.number(1.001, 8) for _ in range(TRIES)] + [border - NEAR, border + NEAR]


@step("a-softmax-demand", "5b0ec4d8")
def _(draw: Draw) -> tuple:
    margins, apart = _margins(draw), draw.number(0.1, mp.pi)
    return (
        [apart, *_truths([2 * m * apart / (m**2 - 1) <= (m - 1) / (m + 1) * apart for m in margins])],
        [apart, *_truths([2 * m <= (m - 1) ** 2 for m in margins])],
    )


@step("a-softmax-smallest", "0caf75c6")
def _(draw: Draw) -> tuple:
    margins = _margins(draw)
    return (
        [margins[0], *_truths([2 * m <= (m - 1) ** 2 for m in margins])],
        [margins[0], *_truths([m**2 - 4 * m + 1 >= 0 for m in margins])],
        [margins[0], *_truths([m >= 2 + mp.sqrt(3) for m in margins])],
    )


@step("a-softmax-demand-far", "097880e5")
def _(draw: Draw) -> tuple:
    left, right = [draw.number()], []
    right.append(left[0])
    for j in range(TRIES):
        m = draw.number(1.01, 7)
        apart = 2 * mp.pi / (m - 1) + (NEAR if j % 2 else -NEAR) if j < 4 else draw.number(0, mp.pi)
        left.append(mpf(2 * mp.pi / (m + 1) <= (m - 1) / (m + 1) * apart))
        right.append(mpf((m - 1) * apart >= 2 * mp.pi))
    return left, right


def _whole(draw: Draw) -> tuple[Batch, mpf, list[Vector], list[Vector], Vector]:
    """A batch, m, the cosines, A and R as written."""
    each, m = batch(draw), draw.number(1, 5)
    c, a, radial = [cosines(row, each.w) for row in each.x], [], []
    for x, row, y in zip(each.x, c, each.y, strict=True):
        theta = mp.acos(row[y])
        f = [_psi(m, theta) if k == y else cosine for k, cosine in enumerate(row)]
        p = probabilities([norm(x) * entry for entry in f])
        g = [(p[k] - (k == y)) / len(c) for k in range(len(row))]
        slope = m * abs(mp.sin(m * theta)) / mp.sin(theta)
        a.append([norm(x) * g[k] * (slope if k == y else 1) for k in range(len(row))])
        radial.append(dot(g, f))
    return each, m, c, a, radial


def _whole_loss(each: Batch, m: mpf) -> mpf:
    c = [cosines(row, each.w) for row in each.x]
    return mean_loss(c, each.y, [norm(row) for row in each.x], lambda own: _psi(m, mp.acos(own)))


@step("a-softmax-whole-cosines", "7bcca05d")
def _(draw: Draw) -> tuple:
    each, m, c, a, radial = _whole(draw)
    lengths = [norm(row) for row in each.x]

    def loss(c: list[Vector], lengths: Vector) -> mpf:
        return mean_loss(c, each.y, lengths, lambda own: _psi(m, mp.acos(own)))

    in_cosines, in_lengths = gradients(lambda v: loss(v, lengths), c), gradient(lambda v: loss(c, v), lengths)
    return [in_cosines, in_lengths], [a, radial]


@step("a-softmax-whole-x", "694eb49f")
def _(draw: Draw) -> tuple:
    each, m, _, a, radial = _whole(draw)
    by_hand = [
        [i + along * j for i, j in zip(assembled(row, each.w, x), unit(x), strict=True)]
        for row, x, along in zip(a, each.x, radial, strict=True)
    ]
    return gradients(lambda x: _whole_loss(each._replace(x=x), m), each.x), by_hand


@step("a-softmax-whole-w", "869ecd25")
def _(draw: Draw) -> tuple:
    each, m, _, a, _ = _whole(draw)
    by_hand = [assembled([row[k] for row in a], each.x, w) for k, w in enumerate(each.w)]
    return gradients(lambda w: _whole_loss(each._replace(w=w), m), each.w), by_hand
