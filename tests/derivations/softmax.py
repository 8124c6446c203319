"""Softmax: the shift, the logarithm of the sum, the Jacobian, two classes."""

from __future__ import annotations

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, derivative, gradient, step

TRIES = 20  # draws for an inequality


def _softmax(z: Vector) -> Vector:
    e = [mp.exp(entry) for entry in z]
    return [entry / mp.fsum(e) for entry in e]


def _log_sum(z: Vector) -> mpf:
    return mp.log(mp.fsum(mp.exp(entry) for entry in z))


def _logits(draw: Draw) -> tuple[Vector, int]:
    z = draw.vector(draw.whole(2, 6), -5, 5)
    return z, draw.whole(0, len(z) - 1)


def _two_indices(draw: Draw) -> list[tuple[Vector, int, int]]:
    """Logits with two indices, equal ones and different ones."""
    z = draw.vector(draw.whole(3, 6), -5, 5)
    k = draw.whole(0, len(z) - 1)
    j = (k + draw.whole(1, len(z) - 1)) % len(z)
    return [(z, k, j), (z, j, k), (z, k, k)]


@step("softmax-shift-step", "97a13632")
def _(draw: Draw) -> tuple:
    (z, k), c = _logits(draw), draw.number(-5, 5)
    return (
        mp.exp(z[k]) / mp.fsum(map(mp.exp, z)),
        (mp.exp(-c) * mp.exp(z[k])) / (mp.exp(-c) * mp.fsum(map(mp.exp, z))),
        mp.exp(z[k] - c) / mp.fsum(mp.exp(entry - c) for entry in z),
    )


@step("softmax-shift", "e498b006")
def _(draw: Draw) -> tuple:
    (z, k), c = _logits(draw), draw.number(-5, 5)
    return _softmax([entry - c for entry in z])[k], _softmax(z)[k]


@step("softmax-sum-bounds", "d375818c")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        z, _ = _logits(draw)
        total = mp.fsum(mp.exp(entry - max(z)) for entry in z)
        sides += [Below(mpf(1), total), Below(total, mpf(len(z)))]
    equal = [draw.number()] * draw.whole(2, 6)  # both bounds are reached
    apart = [draw.number(), draw.number() - 1000]
    return (
        [
            mp.fsum(mp.exp(entry - max(equal)) for entry in equal),
            mp.fsum(mp.exp(entry - max(apart)) for entry in apart),
        ],
        [mpf(len(equal)), mpf(1)],
        *sides,
    )


@step("softmax-logsumexp", "446998b3")
def _(draw: Draw) -> tuple:
    z, _ = _logits(draw)
    return _log_sum(z), max(z) + mp.log(mp.fsum(mp.exp(entry - max(z)) for entry in z))


@step("softmax-logsumexp-bounds", "7921ad5b")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        z, _ = _logits(draw)
        sides += [Below(max(z), _log_sum(z)), Below(_log_sum(z), max(z) + mp.log(len(z)))]
    equal = [draw.number()] * draw.whole(2, 6)
    apart = [draw.number(), draw.number() - 1000]
    return [_log_sum(equal), _log_sum(apart)], [equal[0] + mp.log(len(equal)), apart[0]], *sides


@step("softmax-logsumexp-slope", "64361c5c")
def _(draw: Draw) -> tuple:
    z, k = _logits(draw)
    return (
        gradient(_log_sum, z)[k],
        gradient(lambda v: mp.fsum(map(mp.exp, v)), z)[k] / mp.fsum(map(mp.exp, z)),
        mp.exp(z[k]) / mp.fsum(map(mp.exp, z)),
    )


@step("softmax-log-p", "a0cf397e")
def _(draw: Draw) -> tuple:
    z, k = _logits(draw)
    return mp.log(mp.exp(z[k]) / mp.fsum(map(mp.exp, z))), z[k] - _log_sum(z)


@step("softmax-ratio", "76d81d12")
def _(draw: Draw) -> tuple:
    z, k, j = _two_indices(draw)[0]
    s = draw.number(0.1, 10)
    p = _softmax([s * entry for entry in z])
    return p[k] / p[j], mp.exp(s * z[k] - s * z[j]), (mp.exp(z[k]) / mp.exp(z[j])) ** s


def _sharp(draw: Draw) -> tuple[Vector, int, mpf, mpf]:
    """Logits, the index of the largest, its lead, a scale."""
    z, _ = _logits(draw)
    a = z.index(max(z))
    return z, a, min(z[a] - entry for k, entry in enumerate(z) if k != a), draw.number(0.1, 10)


def _others(z: Vector, a: int, s: mpf) -> mpf:
    return mp.fsum(mp.exp(s * (entry - z[a])) for j, entry in enumerate(z) if j != a)


@step("softmax-sharp", "4b83cab6")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        z, a, lead, s = _sharp(draw)
        sides.append(Below(1 - _softmax([s * entry for entry in z])[a], (len(z) - 1) * mp.exp(-s * lead)))
    size, lead, s = draw.whole(2, 6), draw.number(1, 1.5), draw.number(20, 30)  # equal others: as close as it gets
    missing = 1 - _softmax([s * lead] + [mpf(0)] * (size - 1))[0]
    bound = (size - 1) * mp.exp(-s * lead)
    return *sides, Below(bound * (1 - bound), missing)


@step("softmax-sharp-exact", "edc6881a")
def _(draw: Draw) -> tuple:
    z, a, _, s = _sharp(draw)
    return 1 - _softmax([s * entry for entry in z])[a], _others(z, a, s) / (1 + _others(z, a, s))


@step("softmax-sharp-terms", "c5068479")
def _(draw: Draw) -> tuple:
    sides = []
    for _ in range(TRIES):
        z, a, lead, s = _sharp(draw)
        sides.append(Below(_others(z, a, s), (len(z) - 1) * mp.exp(-s * lead)))
    size, lead, s = draw.whole(2, 6), draw.number(0.1, 1), draw.number(0.1, 10)  # equal others: equality
    level = [lead] + [mpf(0)] * (size - 1)
    return _others(level, 0, s), (size - 1) * mp.exp(-s * lead), *sides


@step("softmax-log-slope", "bade854c")
def _(draw: Draw) -> tuple:
    points = _two_indices(draw)
    return (
        [gradient(lambda v, k=k: mp.log(_softmax(v)[k]), z)[j] for z, k, j in points],
        [(j == k) - _softmax(z)[j] for z, k, j in points],
    )


def _slope(z: Vector, k: int, j: int) -> mpf:
    return gradient(lambda v: _softmax(v)[k], z)[j]


@step("softmax-jacobian", "b16275b0")
def _(draw: Draw) -> tuple:
    points = _two_indices(draw)
    return (
        [_slope(z, k, j) for z, k, j in points],
        [_softmax(z)[k] * gradient(lambda v, k=k: mp.log(_softmax(v)[k]), z)[j] for z, k, j in points],
        [_softmax(z)[k] * ((j == k) - _softmax(z)[j]) for z, k, j in points],
    )


@step("softmax-jacobian-symmetric", "03d672e0")
def _(draw: Draw) -> tuple:
    points = _two_indices(draw)
    return [_slope(z, k, j) for z, k, j in points], [_slope(z, j, k) for z, k, j in points]


@step("softmax-jacobian-sum", "0f5316ab")
def _(draw: Draw) -> tuple:
    z, k = _logits(draw)
    p = _softmax(z)[k]
    return _slope(z, k, k), -mp.fsum(_slope(z, k, j) for j in range(len(z)) if j != k), p * (1 - p)


@step("softmax-backward", "358cbc55")
def _(draw: Draw) -> tuple:
    z, k = _logits(draw)
    g, p = draw.vector(len(z)), _softmax(z)
    loss = gradient(lambda v: mp.fsum(i * j for i, j in zip(g, _softmax(v), strict=True)), z)  # any loss of slope g
    return (
        loss[k],
        mp.fsum(g[j] * _slope(z, j, k) for j in range(len(z))),
        p[k] * (g[k] - mp.fsum(g[j] * p[j] for j in range(len(z)))),
    )


@step("softmax-backward-split", "d86a0b14")
def _(draw: Draw) -> tuple:
    z, k = _logits(draw)
    g, p = draw.vector(len(z)), _softmax(z)
    return (
        p[k] * (g[k] - mp.fsum(g[j] * p[j] for j in range(len(z)))),
        p[k] * (g[k] * (1 - p[k]) - mp.fsum(g[j] * p[j] for j in range(len(z)) if j != k)),
    )


@step("softmax-complement", "2cde00ff")
def _(draw: Draw) -> tuple:
    z, k = _logits(draw)
    return 1 - _softmax(z)[k], mp.fsum(p for j, p in enumerate(_softmax(z)) if j != k)


@step("softmax-by-hand", "7c9dd42c")
def _(draw: Draw) -> tuple:
    z = draw.vector(2)
    p = _softmax(z)
    return gradient(lambda v: _softmax(v)[0], z), [p[0] * (1 - p[0]), -p[1] * p[0]]


@step("softmax-two", "812b1060")
def _(draw: Draw) -> tuple:
    a, b = draw.vector(2, -5, 5)
    return _softmax([a, b])[0], mp.exp(a) / (mp.exp(a) + mp.exp(b)), 1 / (1 + mp.exp(-(a - b)))


def _logistic(t: mpf) -> mpf:
    return 1 / (1 + mp.exp(-t))


@step("softmax-two-slope", "c988efca")
def _(draw: Draw) -> tuple:
    at = [draw.number(-5, 5), mpf(0)]
    slopes = [derivative(_logistic, t) for t in at]
    return (
        slopes,
        [_logistic(at[0]) * (1 - _logistic(at[0])), mpf(1) / 4],  # the bound is reached at 0
        *(Below(derivative(_logistic, t), mpf(1) / 4) for t in draw.vector(TRIES, -5, 5)),
    )
