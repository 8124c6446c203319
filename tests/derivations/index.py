"""Home page: the gradient of ArcFace in four lines."""

from __future__ import annotations

from mpmath import mp, mpf

from derivations import Draw, Vector, derivative, dot, gradient, norm, step

N, C, D = 2, 3, 4


def _angles(x: list[Vector], w: list[Vector]) -> list[list[mpf]]:
    return [[mp.acos(dot(a, b) / (norm(a) * norm(b))) for b in w] for a in x]


def _softmax(angles: Vector, y: int, s: mpf, m: mpf) -> Vector:
    e = [mp.exp(s * mp.cos(theta + (m if k == y else 0))) for k, theta in enumerate(angles)]
    return [each / mp.fsum(e) for each in e]


def _loss(angles: list[Vector], y: list[int], s: mpf, m: mpf) -> mpf:
    return -mp.fsum(mp.log(_softmax(row, label, s, m)[label]) for row, label in zip(angles, y, strict=True)) / N


def _drawn(draw: Draw) -> tuple:
    x, w = [draw.vector(D) for _ in range(N)], [draw.vector(D) for _ in range(C)]
    return x, w, [draw.whole(0, C - 1) for _ in range(N)], draw.number(0.5, 4), draw.number(0, 1)


def _slopes(x: list[Vector], w: list[Vector], y: list[int], s: mpf, m: mpf) -> list[Vector]:
    """A, as the equations print it."""
    slopes = []
    for angles, label in zip(_angles(x, w), y, strict=True):
        p = _softmax(angles, label, s, m)
        row = [s / N * each for each in p]
        row[label] = s / N * (p[label] - 1) * mp.sin(angles[label] + m) / mp.sin(angles[label])
        slopes.append(row)
    return slopes


def _slope_of_loss(x: list[Vector], w: list[Vector], y: list[int], s: mpf, m: mpf, n: int, k: int) -> mpf:
    """dL/dc_nk by a difference, with all other cosines held fixed."""
    angles = _angles(x, w)

    def moved(c: mpf) -> mpf:
        return _loss([[mp.acos(c) if (i, j) == (n, k) else angles[i][j] for j in range(C)] for i in range(N)], y, s, m)

    return derivative(moved, mp.cos(angles[n][k]))


@step("home-slope", "b8554e41")
def _(draw: Draw) -> tuple:
    x, w, y, s, m = _drawn(draw)
    others = [(n, k) for n in range(N) for k in range(C) if k != y[n]]
    slopes = _slopes(x, w, y, s, m)
    return [_slope_of_loss(x, w, y, s, m, n, k) for n, k in others], [slopes[n][k] for n, k in others]


@step("home-slope-target", "b1de3818")
def _(draw: Draw) -> tuple:
    x, w, y, s, m = _drawn(draw)
    slopes = _slopes(x, w, y, s, m)
    return [_slope_of_loss(x, w, y, s, m, n, y[n]) for n in range(N)], [slopes[n][y[n]] for n in range(N)]


@step("home-gradient-x", "cdd0f535")
def _(draw: Draw) -> tuple:
    x, w, y, s, m = _drawn(draw)
    a, angles, units = _slopes(x, w, y, s, m), _angles(x, w), [[e / norm(row) for e in row] for row in w]
    by_difference, printed = [], []
    for n in range(N):
        by_difference += gradient(lambda v, n=n: _loss(_angles([*x[:n], v, *x[n + 1 :]], w), y, s, m), x[n])
        radial = mp.fsum(a[n][k] * mp.cos(angles[n][k]) for k in range(C))
        printed += [
            (mp.fsum(a[n][k] * units[k][d] for k in range(C)) - radial * x[n][d] / norm(x[n])) / norm(x[n])
            for d in range(D)
        ]
    return by_difference, printed


@step("home-gradient-w", "eee9be95")
def _(draw: Draw) -> tuple:
    x, w, y, s, m = _drawn(draw)
    a, angles, units = _slopes(x, w, y, s, m), _angles(x, w), [[e / norm(row) for e in row] for row in x]
    by_difference, printed = [], []
    for k in range(C):
        by_difference += gradient(lambda v, k=k: _loss(_angles(x, [*w[:k], v, *w[k + 1 :]]), y, s, m), w[k])
        radial = mp.fsum(a[n][k] * mp.cos(angles[n][k]) for n in range(N))
        printed += [
            (mp.fsum(a[n][k] * units[n][d] for n in range(N)) - radial * w[k][d] / norm(w[k])) / norm(w[k])
            for d in range(D)
        ]
    return by_difference, printed
