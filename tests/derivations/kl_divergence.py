"""KL divergence: its terms, its gradients, and the form in which nothing cancels."""

from __future__ import annotations

from mpmath import mp, mpf

from derivations import Draw, Vector, gradient, step


def _softmax(z: Vector) -> Vector:
    e = [mp.exp(entry) for entry in z]
    return [entry / mp.fsum(e) for entry in e]


def _rows(draw: Draw) -> tuple[Vector, Vector]:
    """Logits of a student and of a teacher."""
    size = draw.whole(2, 5)
    return draw.vector(size), draw.vector(size)


def _kl(p: Vector, q: Vector) -> mpf:
    return mp.fsum(a * (mp.log(a) - mp.log(b)) for a, b in zip(p, q, strict=True))


def _mean(q: Vector, p: Vector) -> Vector:
    return [(a + b) / 2 for a, b in zip(q, p, strict=True)]


def _ratios(q: Vector, p: Vector) -> Vector:
    return [mp.log(a) - mp.log(b) for a, b in zip(q, p, strict=True)]


@step("kl-cross-entropy", "2f3637d4")
def _(draw: Draw) -> tuple:
    q, p = map(_softmax, _rows(draw))
    entropy = -mp.fsum(a * mp.log(a) for a in p)
    return _kl(p, q), -mp.fsum(a * mp.log(b) for a, b in zip(p, q, strict=True)) - entropy


@step("kl-nothing", "8265d955")
def _(draw: Draw) -> tuple:
    q, p = map(_softmax, _rows(draw))
    left = [a * (mp.exp(d) - 1) for a, d in zip(p, _ratios(q, p), strict=True)]
    right = [b - a for a, b in zip(p, q, strict=True)]
    return [*left, mp.fsum(left)], [*right, mp.fsum(right)], [*right, mpf(0)]


@step("kl-terms", "93e420a1")
def _(draw: Draw) -> tuple:
    q, p = map(_softmax, _rows(draw))
    return _kl(p, q), mp.fsum(a * (mp.exp(d) - 1 - d) for a, d in zip(p, _ratios(q, p), strict=True))


@step("kl-student", "08dd947a")
def _(draw: Draw) -> tuple:
    z, t = _rows(draw)
    q, p = _softmax(z), _softmax(t)
    k = draw.whole(0, len(z) - 1)
    middle = -mp.fsum(p[j] * ((j == k) - q[k]) for j in range(len(z)))
    return gradient(lambda v: _kl(p, _softmax(v)), z)[k], middle, q[k] - p[k]


@step("kl-teacher", "ae4a2846")
def _(draw: Draw) -> tuple:
    z, t = _rows(draw)
    q, p = _softmax(z), _softmax(t)
    k, ratios = draw.whole(0, len(z) - 1), _ratios(q, p)
    middle = mp.fsum(p[j] * ((j == k) - p[k]) * -ratios[j] for j in range(len(z)))
    return gradient(lambda v: _kl(_softmax(v), q), t)[k], middle, p[k] * (-ratios[k] - _kl(p, q))


@step("kl-reverse", "cb6e918a")
def _(draw: Draw) -> tuple:
    z, t = _rows(draw)
    q, p = _softmax(z), _softmax(t)
    loss, ratios = _kl(q, p), _ratios(q, p)
    return (
        [gradient(lambda v: _kl(_softmax(v), p), z), gradient(lambda v: _kl(q, _softmax(v)), t)],
        [[q[k] * (ratios[k] - loss) for k in range(len(z))], [b - a for a, b in zip(q, p, strict=True)]],
    )


@step("kl-mean", "a4093f94")
def _(draw: Draw) -> tuple:
    z, t = _rows(draw)
    q, p = _softmax(z), _softmax(t)
    k, classes = draw.whole(0, len(z) - 1), range(len(z))
    logs = [gradient(lambda v, j=j: mp.log(_mean(_softmax(v), p)[j]), z)[k] for j in classes]
    means = [gradient(lambda v, j=j: _mean(_softmax(v), p)[j], z)[k] for j in classes]
    weighed = [(p[j] + q[j]) * logs[j] for j in classes]
    doubled = [2 * means[j] for j in classes]
    return [*weighed, mp.fsum(weighed)], [*doubled, mp.fsum(doubled)], [*doubled, mpf(0)]


@step("kl-js", "5b85a06c")
def _(draw: Draw) -> tuple:
    z, t = _rows(draw)
    q, p = _softmax(z), _softmax(t)
    m, k = _mean(q, p), draw.whole(0, len(z) - 1)

    def loss(v: Vector) -> mpf:
        own = _softmax(v)
        mean = _mean(own, p)
        return (_kl(p, mean) + _kl(own, mean)) / 2

    expected = mp.fsum(a * mp.log(a / b) for a, b in zip(q, m, strict=True))
    return gradient(loss, z)[k], q[k] / 2 * (mp.log(q[k] / m[k]) - expected)


@step("kl-temperature", "7f87f1d3")
def _(draw: Draw) -> tuple:
    z, t = _rows(draw)
    heat = draw.number(1, 5)
    p = _softmax([entry / heat for entry in t])

    def loss(v: Vector) -> mpf:
        return heat**2 * _kl(p, _softmax([entry / heat for entry in v]))

    q = _softmax([entry / heat for entry in z])
    return gradient(loss, z), [heat * (a - b) for a, b in zip(q, p, strict=True)]


@step("kl-shift", "4b7c0cab")
def _(draw: Draw) -> tuple:
    z, t = _rows(draw)
    q, p = _softmax(z), _softmax(t)
    moved = draw.number()  # whatever is subtracted from all d
    d = [a - b - moved for a, b in zip(z, t, strict=True)]
    total = mp.log(mp.fsum(a * mp.exp(b) for a, b in zip(p, d, strict=True)))
    return _ratios(q, p), [entry - total for entry in d]


@step("kl-correction", "527d1c33")
def _(draw: Draw) -> tuple:
    q, p = map(_softmax, _rows(draw))
    off = draw.number()
    return mp.fsum(a * (mp.exp(d + off) - 1) for a, d in zip(p, _ratios(q, p), strict=True)), mp.exp(off) - 1


@step("kl-tanh", "07884d1b")
def _(draw: Draw) -> tuple:
    q, p = map(_softmax, _rows(draw))
    m, ratios = _mean(q, p), _ratios(q, p)
    tangents = [mp.tanh(d / 2) for d in ratios]
    return (
        [*(mp.log(a / b) for a, b in zip(q, m, strict=True)), *tangents],
        [*(mp.log(1 + t) for t in tangents), *((a - b) / (a + b) for a, b in zip(q, p, strict=True))],
    )
