"""The triplet loss and its smooth form with class centres."""

from __future__ import annotations

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, derivative, dot, gradient, norm, step

TRIES = 40  # draws for a statement that is only true or false at each


def _apart(a: Vector, b: Vector) -> Vector:
    return [i - j for i, j in zip(a, b, strict=True)]


def _squared(a: Vector, b: Vector) -> mpf:
    return norm(_apart(a, b)) ** 2


def _plain(a: Vector, b: Vector) -> mpf:
    return norm(_apart(a, b))


def _times(factor: mpf, a: Vector) -> Vector:
    return [factor * entry for entry in a]


def _angle(a: Vector, b: Vector) -> mpf:
    """The angle of two vectors, from their difference and their sum at equal lengths."""
    a, b = _times(1 / norm(a), a), _times(1 / norm(b), b)
    return 2 * mp.atan2(norm(_apart(a, b)), norm(_apart(a, _times(mpf(-1), b))))


def _triple(draw: Draw, distance=_squared) -> tuple[Vector, Vector, Vector, mpf, mpf]:
    """Three points, a margin and [u > 0]; both values of it occur."""
    size = draw.whole(2, 5)
    a, p, n, m = draw.vector(size), draw.vector(size), draw.vector(size), draw.number(0.1, 1)
    return a, p, n, m, mpf(distance(a, p) - distance(a, n) + m > 0)


def _active(draw: Draw, distance=_squared) -> tuple[Vector, Vector, Vector, mpf, mpf]:
    """The same with [u > 0] = 1: where it is 0, all sides are 0 and say nothing."""
    while True:
        drawn = _triple(draw, distance)
        if drawn[4]:
            return drawn


def _loss(a: Vector, p: Vector, n: Vector, m: mpf, distance=_squared) -> mpf:
    return max(mpf(0), distance(a, p) - distance(a, n) + m)


@step("triplet-ball", "0cb678a5")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        a, p, n, m, active = _triple(draw)
        left.append(active)
        right.append(mpf(norm(_apart(a, n)) < mp.sqrt(dot(_apart(a, p), _apart(a, p)) + m)))
    return left, right


@step("triplet-ball-plain", "d2d80dbb")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        a, p, n, m, active = _triple(draw, _plain)
        left.append(active)
        right.append(mpf(norm(_apart(a, n)) < norm(_apart(a, p)) + m))
    return left, right


@step("triplet-half-space", "68f28ccc")
def _(draw: Draw) -> tuple:
    a, p, n, m, _ = _triple(draw)
    return _squared(a, p) - _squared(a, n) + m, 2 * dot(a, _apart(n, p)) + dot(p, p) - dot(n, n) + m


@step("triplet-plain-bound", "7962e10f")
def _(draw: Draw) -> tuple:
    a, p, n, m, _ = _active(draw, _plain)
    beside = [3 * j - 2 * i for i, j in zip(p, n, strict=True)]  # behind n, seen from p: equality
    most = norm(_apart(n, p)) + m
    return (
        _loss(beside, p, n, m, _plain),
        most,
        Below(_loss(a, p, n, m, _plain), most),
        Below(_plain(a, p), _plain(a, n) + _plain(n, p)),
    )


@step("triplet-hinge", "c44fd22f")
def _(draw: Draw) -> tuple:
    at = [draw.number() for _ in range(TRIES)]
    return [derivative(lambda u: max(mpf(0), u), u) for u in at], [mpf(u > 0) for u in at]


@step("triplet-squared-sum", "2f39f969")
def _(draw: Draw) -> tuple:
    size = draw.whole(2, 5)
    a, b = draw.vector(size), draw.vector(size)
    return norm(_apart(a, b)) ** 2, sum((a[i] - b[i]) ** 2 for i in range(size))


@step("triplet-squared-slope", "d9b04263")
def _(draw: Draw) -> tuple:
    size = draw.whole(2, 5)
    a, b, i = draw.vector(size), draw.vector(size), draw.whole(0, size - 1)
    return (
        derivative(lambda t: norm(_apart([*a[:i], t, *a[i + 1 :]], b)) ** 2, a[i]),
        derivative(lambda t: (t - b[i]) ** 2, a[i]),
        2 * (a[i] - b[i]),
    )


@step("triplet-other-end", "20c32504")
def _(draw: Draw) -> tuple:
    size = draw.whole(2, 5)
    a, b = draw.vector(size), draw.vector(size)
    left = [gradient(lambda v, d=d: d(a, v), b) for d in (_squared, _plain)]
    right = [_times(mpf(-1), gradient(lambda v, d=d: d(v, b), a)) for d in (_squared, _plain)]
    return left, right


def _points(draw: Draw, distance=_squared) -> list[tuple[Vector, Vector, Vector, mpf, mpf]]:
    """Some triplets, active ones among them."""
    return [_active(draw, distance), _triple(draw, distance), _triple(draw, distance)]


@step("triplet-positive", "68ac9e01")
def _(draw: Draw) -> tuple:
    points = _points(draw)
    return (
        [gradient(lambda v, t=t: _loss(t[0], v, t[2], t[3]), t[1]) for t in points],
        [_times(t[4], gradient(lambda v, t=t: _squared(t[0], v), t[1])) for t in points],
        [_times(-2 * t[4], _apart(t[0], t[1])) for t in points],
    )


@step("triplet-negative", "b117bc44")
def _(draw: Draw) -> tuple:
    points = _points(draw)
    return (
        [gradient(lambda v, t=t: _loss(t[0], t[1], v, t[3]), t[2]) for t in points],
        [_times(-t[4], gradient(lambda v, t=t: _squared(t[0], v), t[2])) for t in points],
        [_times(2 * t[4], _apart(t[0], t[2])) for t in points],
    )


@step("triplet-anchor", "ca00e792")
def _(draw: Draw) -> tuple:
    points = _points(draw)
    return (
        [gradient(lambda v, t=t: _loss(v, t[1], t[2], t[3]), t[0]) for t in points],
        [_times(t[4], _apart(_times(mpf(2), _apart(t[0], t[1])), _times(mpf(2), _apart(t[0], t[2])))) for t in points],
        [_times(2 * t[4], _apart(t[2], t[1])) for t in points],
    )


@step("triplet-balance", "f59ec697")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for distance in (_squared, _plain):
        a, p, n, m, _ = _active(draw, distance)
        parts = [
            gradient(lambda v, d=distance, p=p, n=n, m=m: _loss(v, p, n, m, d), a),
            gradient(lambda v, d=distance, a=a, n=n, m=m: _loss(a, v, n, m, d), p),
            gradient(lambda v, d=distance, a=a, p=p, m=m: _loss(a, p, v, m, d), n),
        ]
        # the sum on the left, with one term carried over: a zero alone would not depend on the point
        left.append([i + j for i, j in zip(parts[0], parts[1], strict=True)])
        right.append(_times(mpf(-1), parts[2]))
    return left, right


@step("triplet-plain-slope", "521d6219")
def _(draw: Draw) -> tuple:
    size = draw.whole(2, 5)
    a, b = draw.vector(size), draw.vector(size)
    length = norm(_apart(a, b))
    return (
        gradient(lambda v: _plain(v, b), a),
        _times(1 / (2 * length), gradient(lambda v: _squared(v, b), a)),
        [(i - j) / length for i, j in zip(a, b, strict=True)],
    )


@step("triplet-plain-anchor", "69708482")
def _(draw: Draw) -> tuple:
    points = _points(draw, _plain)
    return (
        [gradient(lambda v, t=t: _loss(v, t[1], t[2], t[3], _plain), t[0]) for t in points],
        [
            _times(active, [(i - j) / _plain(a, p) - (i - k) / _plain(a, n) for i, j, k in zip(a, p, n, strict=True)])
            for a, p, n, _, active in points
        ],
    )


@step("triplet-plain-others", "2233324b")
def _(draw: Draw) -> tuple:
    a, p, n, m, _ = _active(draw, _plain)
    return (
        [
            gradient(lambda v: _loss(a, v, n, m, _plain), p),
            gradient(lambda v: _loss(a, p, v, m, _plain), n),
        ],
        [_times(-1 / _plain(a, p), _apart(a, p)), _times(1 / _plain(a, n), _apart(a, n))],
    )


@step("triplet-hinge-subgradient", "dd41332c")
def _(draw: Draw) -> tuple:
    least = [mpf(0), mpf(1), draw.number(0, 1)]
    return tuple(Below(g * v, max(mpf(0), v)) for g in least for v in draw.vector(TRIES))


@step("triplet-cone", "fdf393af")
def _(draw: Draw) -> tuple:
    size = draw.whole(2, 5)
    g = _times(draw.number(0, 1), draw.unit(size))
    longest = draw.unit(size)
    along = _times(draw.number(1, 3), longest)  # equality: a subgradient of length 1 along v
    return (
        norm(along),
        dot(longest, along),
        *(Below(dot(g, v), norm(v)) for v in (draw.vector(size) for _ in range(TRIES))),
    )


@step("triplet-gap", "f4a4959c")
def _(draw: Draw) -> tuple:
    a, p, n, _, _ = _triple(draw)
    added = [i + j for i, j in zip(_apart(a, p), _apart(a, n), strict=True)]
    return norm(_apart(a, p)) ** 2 - norm(_apart(a, n)) ** 2, dot(_apart(n, p), added)


@step("triplet-roots", "6b09ed28")
def _(draw: Draw) -> tuple:
    near, far, m = draw.number(0, 2), draw.number(0, 2), draw.number(0, 1)
    rest, cross = near + m**2 - far, 4 * m**2 * near
    size = mp.sqrt(near) + m + mp.sqrt(far)
    return (
        mp.sqrt(near) + m - mp.sqrt(far),
        (rest + mp.sqrt(cross)) / size,
        (cross - rest**2) / ((mp.sqrt(cross) - rest) * size),
    )


@step("triplet-expand", "e91332eb")
def _(draw: Draw) -> tuple:
    size = draw.whole(2, 5)
    a, b = draw.vector(size), draw.vector(size)
    return norm(_apart(a, b)) ** 2, norm(a) ** 2 - 2 * dot(a, b) + norm(b) ** 2


@step("triplet-unit-distance", "ddac8697")
def _(draw: Draw) -> tuple:
    size = draw.whole(2, 5)
    a, b = draw.unit(size), draw.unit(size)
    return norm(_apart(a, b)) ** 2, 2 - 2 * mp.cos(_angle(a, b))


@step("triplet-unit", "035f762f")
def _(draw: Draw) -> tuple:
    size, m = draw.whole(2, 5), draw.number(0, 1)
    a, p, n = draw.unit(size), draw.unit(size), draw.unit(size)
    return _squared(a, p) - _squared(a, n) + m, 2 * (mp.cos(_angle(a, n)) - mp.cos(_angle(a, p)) + m / 2)


@step("triplet-chord", "fb0c308b")
def _(draw: Draw) -> tuple:
    size = draw.whole(2, 5)
    a, b = draw.unit(size), draw.unit(size)
    return norm(_apart(a, b)), 2 * mp.sin(mp.acos(dot(a, b)) / 2)


@step("triplet-two-classes", "f99310d5")
def _(draw: Draw) -> tuple:
    p, n = draw.vector(2, -5, 5)
    return -mp.log(mp.exp(p) / (mp.exp(p) + mp.exp(n))), mp.log(1 + mp.exp(n - p))


def _softplus(s: mpf, v: mpf) -> mpf:
    return mp.log(1 + mp.exp(s * v)) / s


@step("triplet-softplus-positive", "b10eb1be")
def _(draw: Draw) -> tuple:
    s, v = draw.number(0.1, 20), draw.number(0, 2)
    return _softplus(s, v), v + mp.log(1 + mp.exp(-s * v)) / s


@step("triplet-softplus-negative", "f863bcfe")
def _(draw: Draw) -> tuple:
    s, v = draw.number(0.1, 20), draw.number(-2, 0)
    return _softplus(s, v), mp.log(1 + mp.exp(-s * abs(v))) / s


@step("triplet-softplus", "3b2eec6a")
def _(draw: Draw) -> tuple:
    s, points = draw.number(0.1, 20), draw.vector(TRIES)
    return [_softplus(s, v) - max(mpf(0), v) for v in points], [mp.log(1 + mp.exp(-s * abs(v))) / s for v in points]


@step("triplet-softplus-bound", "ef14a8ac")
def _(draw: Draw) -> tuple:
    s = draw.number(0.1, 20)
    between = [_softplus(s, v) - max(mpf(0), v) for v in draw.vector(TRIES)]
    return (
        _softplus(s, mpf(0)),  # the upper bound is reached
        mp.log(2) / s,
        *(Below(mpf(0), gap, strict=True) for gap in between),
        *(Below(gap, mp.log(2) / s) for gap in between),
    )


@step("triplet-softplus-slope", "548b330c")
def _(draw: Draw) -> tuple:
    s, v = draw.number(0.1, 20), draw.number()
    return derivative(lambda t: _softplus(s, t), v), 1 / (1 + mp.exp(-s * v))


def _cosface(s: mpf, m: mpf, cosines: Vector, target: int) -> mpf:
    """Softmax loss with the margin on the target's cosine."""
    logits = [s * (c - m) if k == target else s * c for k, c in enumerate(cosines)]
    return -mp.log(mp.exp(logits[target]) / mp.fsum(map(mp.exp, logits)))


@step("triplet-cosface", "0ea9f1fb")
def _(draw: Draw) -> tuple:
    s, m, p, n = draw.number(1, 20), draw.number(0, 1), draw.number(0, mp.pi), draw.number(0, mp.pi)
    return (
        _cosface(s, m, [mp.cos(p), mp.cos(n)], 0),
        mp.log(1 + mp.exp(s * (mp.cos(n) - mp.cos(p) + m))),
    )


@step("triplet-image-class", "d52cc0b8")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        s, m, size = draw.number(1, 20), draw.number(0, 1), draw.whole(2, 5)
        x, p, n = draw.unit(size), draw.unit(size), draw.unit(size)
        loss = _cosface(s, m, [dot(n, x), dot(p, x)], 1)
        gap = loss / s - max(mpf(0), _squared(x, p) - _squared(x, n) + 2 * m) / 2
        sides += [Below(mpf(0), gap, strict=True), Below(gap, mp.log(2) / s)]
    s, m = draw.number(1, 20), draw.number(0, 1)
    here, away = mp.acos(m / 2), mp.acos(-m / 2)  # where the hinge is at 0 the upper bound is reached
    reached = _cosface(s, m, [mp.cos(here), mp.cos(away)], 0)
    return (reached / s, mp.log(2) / s, *sides)


@step("triplet-arcface", "aff64ef0")
def _(draw: Draw) -> tuple:
    left, right = [], []
    for _ in range(TRIES):
        m = draw.number(0, 1)
        p, n = draw.number(0, mp.pi - m), draw.number(0, mp.pi)
        left.append(mpf(mp.cos(n) - mp.cos(p + m) > 0))
        right.append(mpf(p + m > n))
    return left, right


@step("triplet-hardest", "26742a70")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        size = draw.whole(2, 6)
        z, y = draw.vector(size, -5, 5), draw.whole(0, size - 1)
        gaps = [z[k] - z[y] for k in range(size) if k != y]
        loss, hinge = mp.log(1 + mp.fsum(map(mp.exp, gaps))), max(mpf(0), *gaps)
        sides += [Below(hinge, loss), Below(loss, hinge + mp.log(size))]
    z = [draw.number()] * draw.whole(2, 6)  # all equal: the upper bound is reached
    return (mp.log(mp.fsum(map(mp.exp, z))) - z[0], mp.log(len(z)), *sides)
