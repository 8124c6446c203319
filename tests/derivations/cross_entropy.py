"""Cross entropy: one function under three names, its gradient, smoothing, weights, divergence."""

from __future__ import annotations

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, derivative, dot, gradient, gradients, step

TRIES = 20  # draws for an inequality


def _softmax(z: Vector) -> Vector:
    e = [mp.exp(entry) for entry in z]
    return [entry / mp.fsum(e) for entry in e]


def _row(draw: Draw, low: int = 2) -> tuple[Vector, int]:
    """Logits and a label."""
    z = draw.vector(draw.whole(low, 6), -5, 5)
    return z, draw.whole(0, len(z) - 1)


def _targets(draw: Draw, z: Vector) -> Vector:
    """Targets that need not add up to 1."""
    return draw.vector(len(z), 0, 2)


def _probabilities(draw: Draw, size: int) -> Vector:
    return _softmax(draw.vector(size))


def _loss(z: Vector, y: int) -> mpf:
    return -mp.log(_softmax(z)[y])


def _general(z: Vector, t: Vector) -> mpf:
    return -dot(t, [mp.log(p) for p in _softmax(z)])


def _indices(z: Vector, y: int) -> list[int]:
    """The label and a class that is not it."""
    return [y, (y + 1) % len(z)]


@step("cross-entropy-label", "5cc9cbc9")
def _(draw: Draw) -> tuple:
    z, y = _row(draw)
    return -mp.fsum((k == y) * mp.log(p) for k, p in enumerate(_softmax(z))), -mp.log(_softmax(z)[y])


@step("cross-entropy-quotient", "f6b8faa7")
def _(draw: Draw) -> tuple:
    z, y = _row(draw)
    total = mp.fsum(map(mp.exp, z))
    return _loss(z, y), -mp.log(mp.exp(z[y]) / total), -(mp.log(mp.exp(z[y])) - mp.log(total))


@step("cross-entropy-logits", "f7556c51")
def _(draw: Draw) -> tuple:
    z, y = _row(draw)
    return _loss(z, y), mp.log(mp.fsum(map(mp.exp, z))) - z[y]


@step("cross-entropy-gaps", "48f9933f")
def _(draw: Draw) -> tuple:
    z, y = _row(draw)
    return (
        _loss(z, y),
        mp.log(mp.fsum(mp.exp(entry - z[y]) for entry in z)),
        mp.log(1 + mp.fsum(mp.exp(entry - z[y]) for k, entry in enumerate(z) if k != y)),
    )


@step("cross-entropy-positive", "f5d64a5b")
def _(draw: Draw) -> tuple:
    only = _loss([draw.number()], 0)  # one class: 0
    return only, 0, *(Below(mpf(0), _loss(*_row(draw)), strict=True) for _ in range(TRIES))


@step("cross-entropy-uniform", "b5808310")
def _(draw: Draw) -> tuple:
    size = draw.whole(1, 6)
    z = [draw.number()] * size
    return [_loss(z, draw.whole(0, size - 1)), z[0]], [mp.log(size), z[0]]


@step("cross-entropy-slope-sum", "0970bc52")
def _(draw: Draw) -> tuple:
    z, y = _row(draw)
    t, p = _targets(draw, z), _softmax(z)
    return (
        [gradient(lambda v: _general(v, t), z)[k] for k in _indices(z, y)],
        [-mp.fsum(t[j] * ((j == k) - p[k]) for j in range(len(z))) for k in _indices(z, y)],
    )


@step("cross-entropy-gradient", "52529b13")
def _(draw: Draw) -> tuple:
    z, _ = _row(draw)
    t, p = _targets(draw, z), _softmax(z)
    return gradient(lambda v: _general(v, t), z), [mp.fsum(t) * p[k] - t[k] for k in range(len(z))]


@step("cross-entropy-label-gradient", "2238ed57")
def _(draw: Draw) -> tuple:
    z, y = _row(draw)
    return gradient(lambda v: _loss(v, y), z), [p - (k == y) for k, p in enumerate(_softmax(z))]


@step("cross-entropy-second-way", "6aa9d400")
def _(draw: Draw) -> tuple:
    z, y = _row(draw)
    total = mp.fsum(map(mp.exp, z))
    return (
        gradient(lambda v: mp.log(mp.fsum(map(mp.exp, v))) - v[y], z),
        [mp.exp(entry) / total - gradient(lambda v: v[y], z)[k] for k, entry in enumerate(z)],
        [_softmax(z)[k] - (k == y) for k in range(len(z))],  # as the sentence below it says
    )


@step("cross-entropy-balance", "6ab3ea88")
def _(draw: Draw) -> tuple:
    z, y = _row(draw)
    slopes = gradient(lambda v: _loss(v, y), z)
    return -slopes[y], 1 - _softmax(z)[y], mp.fsum(slope for k, slope in enumerate(slopes) if k != y)


@step("cross-entropy-complement", "4316fad9")
def _(draw: Draw) -> tuple:
    z, k = _row(draw)
    t, p = _targets(draw, z), _softmax(z)
    q = mp.fsum(entry for j, entry in enumerate(p) if j != k)
    return mp.fsum(t) * p[k] - t[k], p[k] * (mp.fsum(t) - t[k]) - t[k] * q


def _head(draw: Draw) -> tuple[list[Vector], list[Vector], Vector, list[int]]:
    """Embeddings, weights, bias, labels."""
    rows, classes, size = draw.whole(2, 3), draw.whole(2, 4), draw.whole(2, 3)
    return (
        [draw.vector(size) for _ in range(rows)],
        [draw.vector(size) for _ in range(classes)],
        draw.vector(classes),
        [draw.whole(0, classes - 1) for _ in range(rows)],
    )


def _logits(x: Vector, w: list[Vector], b: Vector) -> Vector:
    return [dot(x, row) + shift for row, shift in zip(w, b, strict=True)]


def _batch(x: list[Vector], w: list[Vector], b: Vector, y: list[int]) -> mpf:
    """A loss that weighs its rows unequally."""
    return mp.fsum((n + 1) * _loss(_logits(row, w, b), label) for n, (row, label) in enumerate(zip(x, y, strict=True)))


def _to_logits(x: list[Vector], w: list[Vector], b: Vector, y: list[int]) -> list[Vector]:
    """G: the gradient of that loss in its logits."""
    return [
        [(n + 1) * g for g in gradient(lambda v, label=label: _loss(v, label), _logits(row, w, b))]
        for n, (row, label) in enumerate(zip(x, y, strict=True))
    ]


@step("cross-entropy-embedding", "27788a26")
def _(draw: Draw) -> tuple:
    x, w, b, y = _head(draw)
    n = draw.whole(0, len(x) - 1)
    g = _to_logits(x, w, b, y)
    return (
        gradient(lambda v: _batch([*x[:n], v, *x[n + 1 :]], w, b, y), x[n]),
        [mp.fsum(g[n][k] * w[k][i] for k in range(len(w))) for i in range(len(x[n]))],
    )


@step("cross-entropy-mean-weight", "cc96004c")
def _(draw: Draw) -> tuple:
    x, w, b, y = _head(draw)
    p = _softmax(_logits(x[0], w, b))
    return (
        gradient(lambda v: _loss(_logits(v, w, b), y[0]), x[0]),
        [mp.fsum(p[k] * w[k][i] for k in range(len(w))) - w[y[0]][i] for i in range(len(x[0]))],
    )


@step("cross-entropy-weight", "12785df2")
def _(draw: Draw) -> tuple:
    x, w, b, y = _head(draw)
    k = draw.whole(0, len(w) - 1)
    g = _to_logits(x, w, b, y)
    return (
        [
            *gradient(lambda v: _batch(x, [*w[:k], v, *w[k + 1 :]], b, y), w[k]),
            derivative(lambda t: _batch(x, w, [*b[:k], t, *b[k + 1 :]], y), b[k]),
        ],
        [
            *(mp.fsum(g[n][k] * x[n][i] for n in range(len(x))) for i in range(len(x[0]))),
            mp.fsum(g[n][k] for n in range(len(x))),
        ],
    )


def _given(draw: Draw) -> tuple[list[Vector], list[Vector], Vector, list[Vector], list[int], Vector]:
    """Embeddings, weights, bias, row targets with weights in them, labels, class weights."""
    x, w, b, y = _head(draw)
    v, epsilon = draw.vector(len(w), 0.1, 2), draw.number(0, 1)
    t = [[((1 - epsilon) * (k == label) + epsilon / len(w)) * v[k] for k in range(len(w))] for label in y]
    return x, w, b, t, y, v


def _mean(x: list[Vector], w: list[Vector], b: Vector, t: list[Vector], total: mpf) -> mpf:
    return mp.fsum(_general(_logits(row, w, b), targets) for row, targets in zip(x, t, strict=True)) / total


@step("cross-entropy-whole-logits", "41bac027")
def _(draw: Draw) -> tuple:
    x, w, b, t, y, v = _given(draw)
    total, z = mp.fsum(v[label] for label in y), [_logits(row, w, b) for row in x]
    numeric = [gradient(lambda u, n=n: _general(u, t[n]) / total, z[n]) for n in range(len(x))]
    by_hand = []
    for row, targets in zip(z, t, strict=True):
        p, whole = _softmax(row), mp.fsum(targets)
        by_hand.append([(whole * p[k] - targets[k]) / total for k in range(len(w))])
    return numeric, by_hand


@step("cross-entropy-whole", "03b80bc2")
def _(draw: Draw) -> tuple:
    x, w, b, t, y, v = _given(draw)
    total = mp.fsum(v[label] for label in y)
    g = [gradient(lambda u, n=n: _general(u, t[n]) / total, _logits(x[n], w, b)) for n in range(len(x))]
    return (
        [
            gradients(lambda u: _mean(u, w, b, t, total), x),
            gradients(lambda u: _mean(x, u, b, t, total), w),
            gradient(lambda u: _mean(x, w, u, t, total), b),
        ],
        [
            [[mp.fsum(g[n][k] * w[k][i] for k in range(len(w))) for i in range(len(x[0]))] for n in range(len(x))],
            [[mp.fsum(g[n][k] * x[n][i] for n in range(len(x))) for i in range(len(x[0]))] for k in range(len(w))],
            [mp.fsum(g[n][k] for n in range(len(x))) for k in range(len(w))],
        ],
    )


def _curvature(z: Vector, t: Vector, v: Vector) -> mpf:
    """The second derivative along v, which is the sum over j and k."""
    return derivative(
        lambda a: derivative(lambda b: _general([i + (a + b) * j for i, j in zip(z, v, strict=True)], t), mpf(0)),
        mpf(0),
    )


@step("cross-entropy-convex", "012f4212")
def _(draw: Draw) -> tuple:
    z, _ = _row(draw)
    t, v, p = _targets(draw, z), draw.vector(len(z)), _softmax(z)
    size = range(len(z))
    with mp.workprec(4 * mp.prec):  # differences of differences
        along = _curvature(z, t, v)
    variance = mp.fsum(t) * (mp.fsum(p[k] * v[k] ** 2 for k in size) - mp.fsum(p[k] * v[k] for k in size) ** 2)
    return along, variance, Below(mpf(0), variance)


@step("cross-entropy-floor", "e9e6f074")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        s, size = draw.number(0.1, 5), draw.whole(2, 6)
        floor = mp.log(1 + (size - 1) * mp.exp(-2 * s))
        sides.append(Below(floor, _loss(draw.vector(size, -s, s), draw.whole(0, size - 1))))
    s, size = draw.number(0.1, 5), draw.whole(2, 6)
    best = _loss([s] + [-s] * (size - 1), 0)  # reached
    return best, mp.log(1 + (size - 1) * mp.exp(-2 * s)), *sides


def _two_distributions(draw: Draw) -> tuple[Vector, Vector]:
    size = draw.whole(2, 6)
    return _probabilities(draw, size), _probabilities(draw, size)


def _divergence(t: Vector, p: Vector) -> mpf:
    return mp.fsum(i * mp.log(i / j) for i, j in zip(t, p, strict=True))


@step("cross-entropy-divergence", "ad81ef23")
def _(draw: Draw) -> tuple:
    t, p = _two_distributions(draw)
    return (
        -dot(t, [mp.log(entry) for entry in p]),
        -dot(t, [mp.log(entry) for entry in t]) + _divergence(t, p),
    )


@step("cross-entropy-gibbs", "f07dccd8")
def _(draw: Draw) -> tuple:
    t, _ = _two_distributions(draw)
    near = _probabilities(draw, len(t))
    return (
        [_divergence(t, t), t[0]],  # equality at p = t
        [0, t[0]],
        *(Below(mpf(0), _divergence(*_two_distributions(draw)), strict=True) for _ in range(TRIES)),
        *(
            Below(mpf(0), _divergence(t, [i + h * (j - i) for i, j in zip(t, near, strict=True)]), strict=True)
            for h in (mpf(1) / 100, mpf(1) / 10)
        ),
    )


@step("cross-entropy-tangent", "e27cd67e")
def _(draw: Draw) -> tuple:
    below = [Below(mp.log(v), v - 1, strict=True) for v in draw.vector(TRIES, 0, 3)]
    at = draw.number(0.1, 3)  # v - 1 is the tangent: no line through the same point with another slope stays above
    return derivative(mp.log, mpf(1)) * (at - 1) + mp.log(1), at - 1, *below


@step("cross-entropy-gibbs-step", "4fd9c712")
def _(draw: Draw) -> tuple:
    t, p = _two_distributions(draw)
    other_way = mp.fsum(i * mp.log(j / i) for i, j in zip(t, p, strict=True))
    tangent = mp.fsum(i * (j / i - 1) for i, j in zip(t, p, strict=True))
    return (
        [-_divergence(t, p), tangent, mp.fsum(p)],
        [other_way, mp.fsum(p) - mp.fsum(t), mp.fsum(t)],
        Below(other_way, tangent),
    )


def _smoothed(size: int, y: int, epsilon: mpf) -> Vector:
    return [(1 - epsilon) * (k == y) + epsilon / size for k in range(size)]


@step("cross-entropy-smoothing", "a5a3ee21")
def _(draw: Draw) -> tuple:
    (z, y), epsilon = _row(draw), draw.number(0, 1)
    p = _softmax(z)
    return (
        -dot(_smoothed(len(z), y, epsilon), [mp.log(entry) for entry in p]),
        (1 - epsilon) * -mp.log(p[y]) + epsilon / len(z) * mp.fsum(-mp.log(entry) for entry in p),
    )


@step("cross-entropy-smoothing-lead", "679a993d")
def _(draw: Draw) -> tuple:
    size, epsilon = draw.whole(2, 6), draw.number(0.01, 0.99)
    y = draw.whole(0, size - 1)
    t = _smoothed(size, y, epsilon)
    k = (y + draw.whole(1, size - 1)) % size
    lead = mp.log(1 + size * (1 - epsilon) / epsilon)
    z = [lead * (j == y) for j in range(size)]
    return [mp.log(t[y] / t[k])] + [mpf(0)] * size, [lead, *gradient(lambda v: _general(v, t), z)]  # at rest there


@step("cross-entropy-mean", "01271503")
def _(draw: Draw) -> tuple:
    rows = draw.whole(2, 5)
    classes = draw.whole(2, 4)
    weight, y = draw.vector(classes, 0.1, 3), [draw.whole(0, classes - 1) for _ in range(rows)]
    losses = [_loss(draw.vector(classes), label) for label in y]
    return (
        mp.fsum(2 * weight[n] * loss for n, loss in zip(y, losses, strict=True)) / mp.fsum(2 * weight[n] for n in y),
        mp.fsum(weight[n] * loss for n, loss in zip(y, losses, strict=True)) / mp.fsum(weight[n] for n in y),
    )
