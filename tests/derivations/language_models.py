"""Cross entropy in language models: blocks of the vocabulary, the options of its logits, denominators."""

from __future__ import annotations

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, derivative, dot, gradient, step

TRIES = 20  # draws for an inequality


def _row(draw: Draw, low: int = 2) -> tuple[Vector, int]:
    """Logits and a label."""
    z = draw.vector(draw.whole(low, 6), -4, 4)
    return z, draw.whole(0, len(z) - 1)


def _lse(z: Vector) -> mpf:
    return mp.log(mp.fsum(map(mp.exp, z)))


def _p(z: Vector) -> Vector:
    return [mp.exp(entry - _lse(z)) for entry in z]


def _one_hot(z: Vector, y: int) -> Vector:
    return [mpf(k == y) for k in range(len(z))]


def _two_blocks(draw: Draw) -> tuple[Vector, Vector]:
    return draw.vector(draw.whole(1, 4), -5, 5), draw.vector(draw.whole(1, 4), -5, 5)


def _merged(first: Vector, second: Vector) -> tuple[mpf, mpf, mpf, mpf]:
    """M, S, and the factors of the two blocks."""
    m1, m2 = max(first), max(second)
    s1, s2 = (mp.fsum(mp.exp(entry - m) for entry in block) for block, m in ((first, m1), (second, m2)))
    m = max(m1, m2)
    return m, s1 * mp.exp(m1 - m) + s2 * mp.exp(m2 - m), mp.exp(m1 - m), mp.exp(m2 - m)


@step("language-merge", "f920acc9")
def _(draw: Draw) -> tuple:
    first, second = _two_blocks(draw)
    m, s, *_ = _merged(first, second)
    return mp.log(mp.fsum(map(mp.exp, first + second))), m + mp.log(s)


@step("language-merge-vectors", "177fb028")
def _(draw: Draw) -> tuple:
    first, second = _two_blocks(draw)
    w = [draw.vector(3) for _ in first + second]
    p = _p(first + second)
    _, s, *factors = _merged(first, second)
    numerators = [
        [mp.fsum(mp.exp(entry - max(block)) * row[i] for entry, row in zip(block, rows, strict=True)) for i in range(3)]
        for block, rows in ((first, w[: len(first)]), (second, w[len(first) :]))
    ]
    return (
        [mp.fsum(p[k] * w[k][i] for k in range(len(w))) for i in range(3)],
        [mp.fsum(a[i] * factor for a, factor in zip(numerators, factors, strict=True)) / s for i in range(3)],
    )


@step("language-rounded-softmax", "7e7403da")
def _(draw: Draw) -> tuple:
    p, delta = draw.number(0.5, 0.999), draw.number(-0.01, 0.01)
    return ((p * (1 + delta) - 1) - (p - 1)) / (p - 1), -p * delta / (1 - p)


@step("language-scale", "cb8c92b6")
def _(draw: Draw) -> tuple:
    (z, y), sigma = _row(draw), draw.number(0.1, 3)
    p = _p([sigma * entry for entry in z])
    return (
        gradient(lambda v: _lse([sigma * entry for entry in v]) - sigma * v[y], z),
        [sigma * (p[k] - (k == y)) for k in range(len(z))],
    )


@step("language-cap-small", "1878714c")
def _(draw: Draw) -> tuple:
    below = []
    for _ in range(TRIES):
        cap, z = draw.number(0.2, 5), draw.number(-8, 8)
        below.append(Below(abs(cap * mp.tanh(z / cap) - z), abs(z) ** 3 / (3 * cap**2)))
    cap, z = draw.number(1, 5), draw.number(0, 8)
    # the slope lacks tanh² of 1, which is at most the square of its argument
    lacking = mp.quad(lambda t: mp.tanh(t / cap) ** 2, mp.linspace(0, z, 9))
    return abs(cap * mp.tanh(z / cap) - z), lacking, *below


@step("language-tanh", "5f3123e1")
def _(draw: Draw) -> tuple:
    t = draw.number(-3, 3)
    e = mp.exp(-2 * t)
    return mp.tanh(t), (mp.exp(t) - mp.exp(-t)) / (mp.exp(t) + mp.exp(-t)), (1 - e) / (1 + e)


@step("language-tanh-slope", "a0f51ad9")
def _(draw: Draw) -> tuple:
    t = draw.number(-3, 3)
    e = mp.exp(-2 * t)
    return (
        derivative(mp.tanh, t),
        1 - mp.tanh(t) ** 2,
        ((1 + e) ** 2 - (1 - e) ** 2) / (1 + e) ** 2,
        4 * e / (1 + e) ** 2,
    )


@step("language-even", "54293a22")
def _(draw: Draw) -> tuple:
    e = mp.exp(draw.number(-3, 3))
    return 4 * e / (1 + e) ** 2, (4 / e) / (1 + 1 / e) ** 2


@step("language-cap-slope", "072427d9")
def _(draw: Draw) -> tuple:
    sigma, cap, z = draw.number(0.2, 3), draw.number(0.3, 5), draw.number(-6, 6)
    e = mp.exp(-2 * sigma * abs(z) / cap)
    return derivative(lambda v: cap * mp.tanh(sigma * v / cap), z), sigma * 4 * e / (1 + e) ** 2


@step("language-tanh-cancels", "d692851d")
def _(draw: Draw) -> tuple:
    t, delta = draw.number(-2, 2), draw.number(-0.01, 0.01)
    square = mp.tanh(t) ** 2
    return (1 - (1 + delta) ** 2 * square) / (1 - square) - 1, -(mp.sinh(t) ** 2) * (2 * delta + delta**2)


@step("language-lse-slope", "c3a4294a")
def _(draw: Draw) -> tuple:
    z, _ = _row(draw)
    total = mp.fsum(map(mp.exp, z))
    return (
        gradient(_lse, z),
        [mp.exp(entry) / total for entry in z],
        _p(z),  # as the sentence below it says
    )


@step("language-z-loss", "4b44ea6f")
def _(draw: Draw) -> tuple:
    (z, _), weight = _row(draw), draw.number(0.1, 2)
    return gradient(lambda v: weight * _lse(v) ** 2, z), [2 * weight * _lse(z) * p for p in _p(z)]


@step("language-z-loss-pull", "fa0d98f9")
def _(draw: Draw) -> tuple:
    (z, y), weight = _row(draw), draw.number(0.1, 2)
    return mp.fsum(gradient(lambda v: _lse(v) - v[y] + weight * _lse(v) ** 2, z)), 2 * weight * _lse(z)


def _batch(draw: Draw) -> tuple[list[Vector], list[int]]:
    rows, classes = draw.whole(2, 4), draw.whole(2, 4)
    return [draw.vector(classes) for _ in range(rows)], [draw.whole(0, classes - 1) for _ in range(rows)]


@step("language-z-loss-batch", "16dd531a")
def _(draw: Draw) -> tuple:
    z, y = _batch(draw)
    v, weight, n = draw.vector(len(z[0]), 0.2, 3), draw.number(0.1, 2), draw.whole(0, len(z) - 1)
    divisor = mp.fsum(v[label] for label in y)

    def loss(row: Vector) -> mpf:
        rows = [*z[:n], row, *z[n + 1 :]]
        weighted = mp.fsum(v[label] * (_lse(a) - a[label]) for a, label in zip(rows, y, strict=True)) / divisor
        return weighted + mp.fsum(weight * _lse(a) ** 2 for a in rows) / len(rows)

    p = _p(z[n])
    return (
        gradient(loss, z[n]),
        [v[y[n]] / divisor * (p[k] - (k == y[n])) + 2 * weight * _lse(z[n]) / len(z) * p[k] for k in range(len(p))],
    )


@step("language-all", "2a061546")
def _(draw: Draw) -> tuple:
    z, _ = _row(draw)
    t, (g, h, weight, u) = draw.vector(len(z)), draw.vector(4)
    p = _p(z)
    return (
        gradient(lambda v: -g * dot(t, [entry - _lse(v) for entry in v]) + h * weight * _lse(v) ** 2 + u * _lse(v), z),
        [g * (mp.fsum(t) * p[k] - t[k]) + (2 * h * weight * _lse(z) + u) * p[k] for k in range(len(z))],
    )


@step("language-smoothing", "cdbdc84a")
def _(draw: Draw) -> tuple:
    (z, y), epsilon = _row(draw), draw.number(0, 1)
    size, label = len(z), _one_hot(z, y)
    other = epsilon * size / (size - 1)
    return (
        [(1 - epsilon) * entry + epsilon / (size - 1) * (1 - entry) for entry in label],
        [(1 - other) * entry + other / size for entry in label],
    )


def _smoothed(z: Vector, y: int, epsilon: mpf) -> mpf:
    t = [(1 - epsilon) * entry + epsilon / len(z) for entry in _one_hot(z, y)]
    return -dot(t, [mp.log(p) for p in _p(z)])


@step("language-smoothing-gap", "7aa31034")
def _(draw: Draw) -> tuple:
    (z, y), epsilon = _row(draw), draw.number(0, 1)
    size, log_p = len(z), [mp.log(p) for p in _p(z)]
    return (
        _smoothed(z, y, epsilon * size / (size - 1)) - _smoothed(z, y, epsilon),
        epsilon / (size - 1) * (log_p[y] - mp.fsum(log_p) / size),
    )


def _parts(draw: Draw) -> list[tuple[Vector, Vector]]:
    """Row losses and row weights of the parts of a batch."""
    sizes = [draw.whole(1, 4) for _ in range(draw.whole(2, 4))]
    return [(draw.vector(size, 0, 3), draw.vector(size, 0.2, 2)) for size in sizes]


def _means(parts: list[tuple[Vector, Vector]]) -> tuple[Vector, Vector]:
    """L_m and n_m of every part; L_n is a row's loss times its weight."""
    return [dot(losses, weights) / mp.fsum(weights) for losses, weights in parts], [mp.fsum(w) for _, w in parts]


@step("language-accumulation", "511a97fa")
def _(draw: Draw) -> tuple:
    parts = _parts(draw)
    means, counts = _means(parts)
    total = mp.fsum(weight for _, weights in parts for weight in weights)
    rows = mp.fsum(loss * weight for losses, weights in parts for loss, weight in zip(losses, weights, strict=True))
    return dot(counts, means) / mp.fsum(counts), rows / total


@step("language-mean-of-means", "79652b3c")
def _(draw: Draw) -> tuple:
    means, counts = _means(_parts(draw))
    size, total = len(means), mp.fsum(counts)
    return (
        mp.fsum(means) / size - dot(counts, means) / total,
        mp.fsum((mpf(1) / size - n / total) * mean for n, mean in zip(counts, means, strict=True)),
    )


@step("language-gathered", "5fb0eac6")
def _(draw: Draw) -> tuple:
    (z, y), copies = _row(draw), draw.whole(2, 8)
    return mp.log(mp.fsum(mp.exp(entry) for _ in range(copies) for entry in z)) - z[y], (
        -mp.log(_p(z)[y]) + mp.log(copies)
    )
