"""The explorer: the length of the gradient of an embedding on the circle through two class weights."""

from __future__ import annotations

from mpmath import mp, mpf

from derivations import Draw, Vector, cosines, derivative, gradient, norm, step


@step("explorer-gradient", "559066bb")
def _(draw: Draw) -> tuple:
    """A loss of more than two classes, by differences of the loss itself, on both sides of the second class."""
    lengths, formula = [], []
    for side in (-1, 1):
        classes, s, m, share = draw.whole(3, 5), draw.number(1, 4), draw.number(0, 0.5), draw.number(1, 3)
        between = draw.number(1, 2)
        theta = between + side * draw.number(0.2, 0.8)
        weights = [[mpf(i == k) for i in range(classes)] for k in range(classes)]
        weights[1] = [mp.cos(between), mp.sin(between), *weights[1][2:]]

        def psi(angle: mpf, m: mpf = m) -> mpf:
            return mp.cos(angle + m)

        def eta(angle: mpf, share: mpf = share) -> mpf:
            return mp.cos(angle / share)

        def loss(x: Vector, w: list[Vector] = weights, s: mpf = s) -> mpf:
            own, *others = map(mp.acos, cosines(x, w))
            z = [s * psi(own), *(s * eta(angle) for angle in others)]
            return mp.log(mp.fsum(map(mp.exp, z))) - z[0]

        length = draw.number(1, 3)
        x = [length * mp.cos(theta), length * mp.sin(theta), *[mpf(0)] * (classes - 2)]
        lengths.append(norm(gradient(loss, x)))

        other = side * (theta - between)
        p, p2, p3 = (mp.exp(s * f) for f in (psi(theta), eta(other), eta(mp.pi / 2)))
        total = p + p2 + (classes - 2) * p3
        p, p2, p3 = p / total, p2 / total, p3 / total
        along = (1 - p) * derivative(psi, theta) - side * p2 * derivative(eta, other)
        across = (classes - 2) * (p3 * derivative(eta, mp.pi / 2)) ** 2
        formula.append(s / length * mp.sqrt(along**2 + across))
    return lengths, formula
