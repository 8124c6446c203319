"""Rounding: conditions, error bounds, the angle from the orthogonal part, tangents."""

from __future__ import annotations

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, derivative, dot, gradient, norm, step

TRIES = 30  # draws for an inequality


def _softmax(z: Vector) -> Vector:
    e = [mp.exp(entry) for entry in z]
    return [entry / mp.fsum(e) for entry in e]


def _loss(z: Vector, y: int) -> mpf:
    return -mp.log(mp.exp(z[y]) / mp.fsum(mp.exp(entry) for entry in z))


def _logits(draw: Draw) -> tuple[Vector, int]:
    z = draw.vector(draw.whole(2, 6), -5, 5)
    return z, draw.whole(0, len(z) - 1)


def _minus(a: Vector, b: Vector) -> Vector:
    return [i - j for i, j in zip(a, b, strict=True)]


def _times(factor: mpf, a: Vector) -> Vector:
    return [factor * entry for entry in a]


def _cosine(x: Vector, w: Vector) -> mpf:
    return dot(x, w) / (norm(x) * norm(w))


def _two(draw: Draw) -> tuple[Vector, Vector]:
    size = draw.whole(2, 5)
    return draw.vector(size), draw.vector(size)


def _orthogonal(x: Vector, w: Vector) -> Vector:
    return _minus(w, _times(dot(w, x) / dot(x, x), x))


def _curve(draw: Draw):
    """A margin curve that belongs to no loss: any differentiable one has to do."""
    a, b = draw.number(), draw.number(0.5, 2)
    return lambda theta: a * mp.sin(b * theta) + mp.exp(b * theta)


@step("stability-log-condition", "98b95644")
def _(draw: Draw) -> tuple:
    p = draw.number(0, 1)
    return abs(p * derivative(mp.log, p) / mp.log(p)), 1 / abs(mp.log(p)), 1 / -mp.log(p)


@step("stability-rounded-one", "f2c26a7d")
def _(draw: Draw) -> tuple:
    u = mpf(2) ** -53
    losses = [draw.number(0, 1) * u / 2 for _ in range(TRIES)]
    nearest = [mpf(float(mp.exp(-loss))) for loss in losses]  # as float64 rounds it
    above = mp.exp(-u * (1 + draw.number(0, 1)) / 2)  # the old bound was u, where p is still rounded to 1 - u
    return (
        [*nearest, mpf(float(above))],
        [*[mpf(1) for _ in losses], 1 - u],
        *(Below(1 - mp.exp(-loss), loss, strict=True) for loss in losses),
        *(Below(loss, u / 2) for loss in losses),
    )


@step("stability-target-gradient", "d1cb56b9")
def _(draw: Draw) -> tuple:
    z, y = _logits(draw)
    p = _softmax(z)
    return gradient(lambda v: _loss(v, y), z)[y], p[y] - 1, -mp.fsum(p[k] for k in range(len(z)) if k != y)


@step("stability-loss", "a482fabc")
def _(draw: Draw) -> tuple:
    z, y = _logits(draw)
    total = mp.fsum(mp.exp(entry) for entry in z)
    return -mp.log(_softmax(z)[y]), -mp.log(mp.exp(z[y]) / total), mp.log(total) - z[y]


@step("stability-shift", "b4ab8111")
def _(draw: Draw) -> tuple:
    z, _ = _logits(draw)
    largest = max(z)
    return mp.log(mp.fsum(mp.exp(v) for v in z)), largest + mp.log(mp.fsum(mp.exp(v - largest) for v in z))


@step("stability-relative", "4349afa3")
def _(draw: Draw) -> tuple:
    z, y = _logits(draw)
    a = max(range(len(z)), key=lambda k: z[k])
    others = mp.fsum(mp.exp(z[k] - z[a]) for k in range(len(z)) if k != a)
    return _loss(z, y), (z[a] - z[y]) + mp.log1p(others)


@step("stability-log1p-condition", "a48d6654")
def _(draw: Draw) -> tuple:
    s = draw.number(0, 5)
    points = [s * mpf(10) ** -k for k in range(20)]
    return (
        [v * derivative(lambda t: mp.log(1 + t), v) for v in points],  # what the condition number is made of
        [v * (1 / (1 + v)) for v in points],
        *(Below(v / (1 + v) / mp.log(1 + v), mpf(1), strict=True) for v in points),
    )


@step("stability-positive-sum", "309b1baa")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        a, b = draw.number(0, 5), draw.number(0, 5)
        alpha, beta = draw.number(-1, 1), draw.number(-1, 1)
        wrong = abs(a * (1 + alpha) + b * (1 + beta) - (a + b)) / (a + b)
        sides.append(Below(wrong, max(abs(alpha), abs(beta))))
    a, b, alpha = draw.number(0, 5), draw.number(0, 5), draw.number(-1, 1)  # equal errors: the bound is reached
    return abs(a * (1 + alpha) + b * (1 + alpha) - (a + b)) / (a + b), abs(alpha), *sides


def _added(terms: Vector, errors: Vector) -> mpf:
    """Add one after another, every addition with an error of its own."""
    total = terms[0]
    for term, error in zip(terms[1:], errors, strict=True):
        total = (total + term) * (1 + error)
    return total


@step("stability-sum", "9d4f47cd")
def _(draw: Draw) -> tuple:
    u, sides = mpf(2) ** -7, []
    for _ in range(TRIES):
        classes = draw.whole(2, 8)
        terms = draw.vector(classes - 1, 0, 1)
        most = (1 + u) ** (classes - 2) - 1
        sides.append(Below(abs(_added(terms, draw.vector(classes - 2, -u, u)) - mp.fsum(terms)), most * mp.fsum(terms)))
    last = [draw.number(0, 1)] + [mpf(0)] * 5  # all of the sum in the first term, all roundings up: 7 classes, reached
    return abs(_added(last, [u] * 5) - last[0]), ((1 + u) ** (7 - 2) - 1) * last[0], *sides


@step("stability-sum-unfolded", "c31f4a6e")
def _(draw: Draw) -> tuple:
    n = draw.whole(2, 8)
    terms, errors = draw.vector(n, 0, 1), draw.vector(n - 1, -0.1, 0.1)
    delta = dict(zip(range(2, n + 1), errors, strict=True))
    return (
        _added(terms, errors),
        mp.fsum(terms[i - 1] * mp.fprod(1 + delta[j] for j in range(max(i, 2), n + 1)) for i in range(1, n + 1)),
    )


@step("stability-sum-product", "6363311b")
def _(draw: Draw) -> tuple:
    u, sides = mpf(2) ** -7, []
    for _ in range(TRIES):
        n = draw.whole(2, 8)
        i = draw.whole(1, n)
        product = mp.fprod(1 + draw.number(-u, u) for _ in range(max(i, 2), n + 1))
        sides += [Below((1 - u) ** (n - 1), product), Below(product, (1 + u) ** (n - 1))]
    n = draw.whole(2, 8)  # i = 1 and all errors alike: both bounds are reached
    reached = [mp.fprod(1 + error for _ in range(2, n + 1)) for error in (-u, u)]
    return reached, [(1 - u) ** (n - 1), (1 + u) ** (n - 1)], *sides


@step("stability-exp", "ed61dc44")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        g = draw.number(-700, 700)
        delta = draw.number(-1, 1) / abs(g)
        sides.append(Below(abs(mp.exp(g * (1 + delta)) / mp.exp(g) - 1 - g * delta), (g * delta) ** 2))
    return tuple(sides)


def _rounded(operation, a: mpf, b: mpf) -> mpf:
    """One operation in 53 bits, rounded to nearest."""
    with mp.workprec(53):
        return operation(a, b)


@step("stability-two-sum", "111c447e")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        a, b = (_rounded(lambda v, w: v * w, draw.number(), mpf(2) ** draw.whole(-40, 40)) for _ in range(2))
        s = _rounded(lambda v, w: v + w, a, b)
        t = _rounded(lambda v, w: v - w, s, a)
        back = _rounded(lambda v, w: v - w, s, t)
        e = _rounded(lambda v, w: v + w, _rounded(lambda v, w: v - w, a, back), _rounded(lambda v, w: v - w, b, t))
        left.append((s + e) / s)  # divided, so that all count alike however large they are
        right.append((a + b) / s)
    return left, right


@step("stability-gap-pair", "ccb4ae70")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        g, h = draw.number(-700, 0), draw.number(-1, 1)
        sides.append(Below(abs(mp.exp(g + h) - mp.exp(g) * (1 + h)), h**2 * mp.exp(g)))
    return tuple(sides)


@step("stability-softmax-slope", "bade854c")
def _(draw: Draw) -> tuple:
    z, k = _logits(draw)
    j = draw.whole(0, len(z) - 1)
    slopes = [gradient(lambda v, k=k: mp.log(_softmax(v)[k]), z)[j] for k in (k, j)]
    return slopes, [(k == j) - _softmax(z)[j], 1 - _softmax(z)[j]]


@step("stability-softmax-condition", "cd09d178")
def _(draw: Draw) -> tuple:
    z, k = _logits(draw)
    p = _softmax(z)
    return (
        mp.fsum(map(abs, gradient(lambda v: mp.log(_softmax(v)[k]), z))),
        (1 - p[k]) + mp.fsum(p[j] for j in range(len(z)) if j != k),
        2 * (1 - p[k]),
    )


@step("stability-softmax-bound", "cf6d9835")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        z, k = _logits(draw)
        d = draw.vector(len(z))
        moved = [i + j for i, j in zip(z, d, strict=True)]
        sides.append(Below(abs(mp.log(_softmax(moved)[k]) - mp.log(_softmax(z)[k])), 2 * max(map(abs, d))))
    return tuple(sides)


@step("stability-arccos", "a99255c7")
def _(draw: Draw) -> tuple:
    theta = draw.number(0.1, 3)
    return derivative(lambda d: mp.acos((1 + d) * mp.cos(theta)), mpf(0)), -mp.cos(theta) / mp.sin(theta)


@step("stability-arccos-relative", "7e260baf")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        theta = draw.number(0, mp.pi / 2) * mpf(10) ** -draw.whole(0, 6)
        relative = mp.cos(theta) / (theta * mp.sin(theta))
        sides += [Below(1 / theta**2 - mpf(1) / 2, relative), Below(relative, 1 / theta**2 - mpf(1) / 3)]
    with mp.workdps(200):  # towards 0 the upper bound is reached
        theta = draw.number(1, 2) * mpf(10) ** -40
        rest = mp.cos(theta) / (theta * mp.sin(theta)) - 1 / theta**2
    return +rest, -mpf(1) / 3, *sides


@step("stability-one-minus-cos", "16a3b606")
def _(draw: Draw) -> tuple:
    theta = draw.number(0, mp.pi)
    return 1 - mp.cos(theta), 2 * mp.sin(theta / 2) ** 2, Below(2 * mp.sin(theta / 2) ** 2, theta**2 / 2)


@step("stability-orthogonal", "a061b92e")
def _(draw: Draw) -> tuple:
    x, w = _two(draw)
    zero = dot(w, x) - dot(w, x) / dot(x, x) * dot(x, x)
    return dot(_orthogonal(x, w), x) + norm(w), zero + norm(w), norm(w)  # a bare 0 would not depend on the point


@step("stability-orthogonal-square", "6041dc7e")
def _(draw: Draw) -> tuple:
    x, w = _two(draw)
    return (
        norm(_orthogonal(x, w)) ** 2,
        norm(w) ** 2 - dot(w, x) ** 2 / norm(x) ** 2,
        norm(w) ** 2 * (1 - _cosine(x, w) ** 2),
    )


@step("stability-sine", "7998e131")
def _(draw: Draw) -> tuple:
    x, w = _two(draw)
    return norm(_orthogonal(x, w)) / norm(w), mp.sin(mp.acos(_cosine(x, w)))


@step("stability-atan2", "84f87604")
def _(draw: Draw) -> tuple:
    theta = draw.number(0, mp.pi)
    s, c = mp.sin(theta), mp.cos(theta)
    of_sine = derivative(lambda d: mp.atan2((1 + d) * s, c), mpf(0))
    of_cosine = derivative(lambda d: mp.atan2(s, (1 + d) * c), mpf(0))  # of this the text says "as much"
    return [of_sine, of_cosine], [s * c, -s * c]


@step("stability-atan2-relative", "ebc26cd6")
def _(draw: Draw) -> tuple:
    angles = [draw.number(0, mp.pi) * mpf(10) ** -draw.whole(0, 9) for _ in range(TRIES)]
    return tuple(Below(mp.sin(theta) * abs(mp.cos(theta)) / theta, mpf(1)) for theta in angles)


@step("stability-orthogonal-cancels", "9b54b463")
def _(draw: Draw) -> tuple:
    (x, w), u = _two(draw), draw.number(0, 1)
    return u * norm(w) / norm(_orthogonal(x, w)), u / mp.sin(mp.acos(_cosine(x, w)))


@step("stability-cos-gradient", "9cd79e24")
def _(draw: Draw) -> tuple:
    x, w = _two(draw)
    cos, r = _cosine(x, w), _orthogonal(x, w)
    sin = mp.sin(mp.acos(cos))
    return (
        gradient(lambda v: _cosine(v, w), x),
        [(j / norm(w) - cos * i / norm(x)) / norm(x) for i, j in zip(x, w, strict=True)],
        [sin * entry / norm(r) / norm(x) for entry in r],
    )


@step("stability-slope-in-cos", "a3252d3e")
def _(draw: Draw) -> tuple:
    psi, theta = _curve(draw), draw.number(0.1, 3)
    return derivative(lambda c: psi(mp.acos(c)), mp.cos(theta)), -derivative(psi, theta) / mp.sin(theta)


@step("stability-tangent", "18f014d5")
def _(draw: Draw) -> tuple:
    x, w = _two(draw)
    psi, theta, r = _curve(draw), mp.acos(_cosine(x, w)), _orthogonal(x, w)
    tangent, slope = _times(1 / norm(r), r), derivative(psi, theta)
    return (
        gradient(lambda v: psi(mp.acos(_cosine(v, w))), x),
        _times(-slope / mp.sin(theta), _times(mp.sin(theta) / norm(x), tangent)),
        _times(-slope / norm(x), tangent),
    )


@step("stability-cone", "c47a305b")
def _(draw: Draw) -> tuple:
    w, along, aside, psi = draw.vector(3), draw.number(0.5, 2), draw.vector(3), _curve(draw)
    with mp.workdps(400):  # the limit is one-sided, and wrong by about h
        x, h = _times(along, w), mpf(10) ** -60
        v = _orthogonal(x, aside)
        v = _times(1 / norm(v), v)
        theta = mp.acos(_cosine([i + h * j for i, j in zip(x, v, strict=True)], w))
        limit = (psi(theta) - psi(mpf(0))) / h
    return +limit, derivative(psi, mpf(0)) / norm(x)


def _chebyshev(m: int) -> list[int]:
    """Coefficients of T_m, lowest power first."""
    lower, upper = [1], [0, 1]
    for _ in range(m):
        longer = [2 * entry for entry in [0, *upper]]
        lower, upper = upper, [i - j for i, j in zip(longer, [*lower, 0, 0], strict=True)]
    return lower


@step("stability-chebyshev", "f46fff61")
def _(draw: Draw) -> tuple:
    m, theta = draw.whole(1, 12), draw.number(0, mp.pi)
    c = mp.cos(theta)

    def polynomial(k: int) -> mpf:
        return mp.fsum(t * c**j for j, t in enumerate(_chebyshev(k)))

    return (
        [mp.cos(m * theta), mp.cos((m + 1) * theta)],
        [polynomial(m), polynomial(m + 1)],
        [polynomial(m), 2 * c * mp.cos(m * theta) - mp.cos((m - 1) * theta)],
    )


@step("stability-chebyshev-size", "781a6300")
def _(draw: Draw) -> tuple:
    degrees = [draw.whole(0, 60) for _ in range(3)]
    return (
        [mpf(sum(map(abs, _chebyshev(m)))) for m in degrees],
        [((1 + mp.sqrt(2)) ** m + (1 - mp.sqrt(2)) ** m) / 2 for m in degrees],
    )


@step("stability-rotation", "2ae64dbe")
def _(draw: Draw) -> tuple:
    j, t = draw.whole(1, 12), draw.number(0, mp.pi)
    c, s = mp.cos(t), mp.sin(t)
    return (
        [mp.cos((j + 1) * t), mp.sin((j + 1) * t)],
        [mp.cos(j * t) * c - mp.sin(j * t) * s, mp.sin(j * t) * c + mp.cos(j * t) * s],
    )
