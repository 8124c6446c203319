"""The right forms on the page of corrections."""

from __future__ import annotations

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, derivative, dot, gradient, norm, step

TRIES = 60  # draws for a statement that is only true or false at each


def _softmax(z: Vector) -> Vector:
    total = mp.fsum(mp.exp(entry) for entry in z)
    return [mp.exp(entry) / total for entry in z]


def _psi(m: int, theta: mpf) -> tuple[mpf, int]:
    """The folded cosine, and the interval theta lies in, found by trying them all."""
    k = next(k for k in range(m) if theta <= (k + 1) * mp.pi / m)
    return (-1) ** k * mp.cos(m * theta) - 2 * k, k


@step("corrections-shift", "c9c4f25a")
def _(draw: Draw) -> tuple:
    far = draw.number(-2000, 0)
    z = [far + entry for entry in draw.vector(draw.whole(2, 6), -5, 0)]
    shifted = [mp.exp(entry - max(z)) for entry in z]
    return max(shifted), mpf(1), Below(mpf(1), mp.fsum(shifted))


@step("corrections-boundary", "b28c8678")
def _(draw: Draw) -> tuple:
    size = draw.whole(2, 5)
    x, first, second = draw.vector(size), draw.unit(size), draw.unit(size)
    angles = [mp.acos(dot(w, x) / norm(x)) for w in (first, second)]
    return (
        dot([i - j for i, j in zip(first, second, strict=True)], x),
        norm(x) * (mp.cos(angles[0]) - mp.cos(angles[1])),
    )


@step("corrections-no-margin", "6973ea81")
def _(draw: Draw) -> tuple:
    theta = draw.number(0, mp.pi)
    psi, k = _psi(1, theta)
    return [psi, mpf(k)], [mp.cos(theta), mpf(0)]


@step("corrections-more", "15930b90")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        m, theta = draw.number(1, 5), draw.number(0, mp.pi)
        k = mp.floor(m * theta / mp.pi)
        sides.append(Below((-1) ** int(k) * mp.cos(m * theta) - 2 * k, mp.cos(theta), strict=True))
    return tuple(sides)


@step("corrections-condition", "ed7c5044")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        m, first, second = draw.whole(1, 6), draw.number(0, mp.pi), draw.number(0, mp.pi)
        first /= draw.whole(1, 4)  # both sides of the condition have to occur
        left.append(mpf(_psi(m, first)[0] > mp.cos(second)))
        right.append(mpf(first < second / m))
    return left, right


@step("corrections-condition-inside", "459f59d0")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        m, second = draw.whole(1, 6), draw.number(0, mp.pi)
        first = draw.number(0, mp.pi / m)
        left.append(mpf(mp.cos(m * first) > mp.cos(second)))
        right.append(mpf(m * first < second))
    return left, right


@step("corrections-condition-beyond", "ad0bfd1f")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        m, second = draw.whole(2, 6), draw.number(0, mp.pi)
        psi, k = _psi(m, draw.number(mp.pi / m, mp.pi))
        assert k >= 1
        sides += [Below(psi, mpf(1 - 2 * k)), Below(mpf(1 - 2 * k), mpf(-1)), Below(mpf(-1), mp.cos(second))]
    return tuple(sides)


@step("corrections-condition-angle", "ef6b5a9b")
def _(draw: Draw) -> tuple:
    sides = []
    while len(sides) < TRIES:
        m, first, second = draw.whole(2, 6), draw.number(0, mp.pi), draw.number(0, mp.pi)
        if _psi(m, first)[1] >= 1:
            sides += [Below(mp.pi / m, first), Below(second / m, mp.pi / m)]
    return tuple(sides)


@step("corrections-opposite", "b480f7ba")
def _(draw: Draw) -> tuple:
    length = draw.number(0.1, 10)
    angles = [draw.number(0, mp.pi) for _ in range(TRIES)]
    printed = [mp.log(1 + mp.exp(length * (mp.cos(2 * mp.pi) - mp.cos(2 * theta)))) for theta in angles]
    best = -mp.log(mp.exp(length * mp.cos(0)) / (mp.exp(length * mp.cos(0)) + mp.exp(length * mp.cos(2 * mp.pi))))
    return [best, length], [mp.log(2), length], *(Below(mp.log(2), loss) for loss in printed)


@step("corrections-optax", "e089be84")
def _(draw: Draw) -> tuple:
    x = draw.vector(draw.whole(2, 6), -5, 5)
    y = draw.whole(0, len(x) - 1)
    return -mp.log(_softmax(x)[y]), mp.log(mp.fsum(mp.exp(entry) for entry in x)) - x[y]


@step("corrections-sklearn", "fb5cbf85")
def _(draw: Draw) -> tuple:
    z, weight = draw.vector(draw.whole(2, 6), -5, 5), draw.number(0, 3)
    y = draw.whole(0, len(z) - 1)
    p = _softmax(z)
    return (
        gradient(lambda v: -weight * mp.log(_softmax(v)[y]), z),
        [weight * (p[k] - (y == k)) for k in range(len(z))],
    )


@step("corrections-hard-jump", "8b937f89")
def _(draw: Draw) -> tuple:
    m = draw.number(0, 1)
    theta = mp.pi - m
    jump = mp.cos(theta) - m * mp.sin(m) - mp.cos(theta + m)
    sides = [1 - mp.cos(v) - v * mp.sin(v) for v in (draw.number(0, 1) for _ in range(TRIES))]
    return jump, 1 - mp.cos(m) - m * mp.sin(m), *(Below(side, mpf(0), strict=True) for side in sides)


def _quartic(c: mpf, sign: mpf, shift: mpf) -> mpf:
    """The target's logit of SphereFace with m = 4, over the length of x."""
    return sign * (8 * c**4 - 8 * c**2 + 1) + shift


@step("corrections-sphereface", "9150d8f0")
def _(draw: Draw) -> tuple:
    size = draw.whole(2, 5)
    x, w, sign, shift = draw.vector(size), draw.unit(size), draw.number(), draw.number()

    def logit(v: Vector) -> mpf:
        return norm(v) * _quartic(dot(w, v) / norm(v), sign, shift)

    c = dot(w, x) / norm(x)
    value, slope = _quartic(c, sign, shift), derivative(lambda t: _quartic(t, sign, shift), c)
    return (
        gradient(logit, x),
        [slope * j + (value - c * slope) / norm(x) * i for i, j in zip(x, w, strict=True)],
    )


@step("corrections-sphereface-x", "434bf9a3")
def _(draw: Draw) -> tuple:
    c, sign, shift = draw.number(-1, 1), draw.number(), draw.number()
    return (
        _quartic(c, sign, shift) - c * derivative(lambda t: _quartic(t, sign, shift), c),
        -(sign * (24 * c**4 - 8 * c**2 - 1) - shift),
    )
