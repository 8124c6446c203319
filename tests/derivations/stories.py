"""Three stories of public code: a detached margin, the gradient of SphereFace's layer, shares of random directions."""

from __future__ import annotations

from typing import NamedTuple

from mpmath import mp, mpf

from derivations import Below, Draw, Vector, derivative, dot, gradient, norm, step, towards, unit

TRIES = 30  # draws for an inequality


def _loss(c: Vector, s: mpf, m: mpf) -> mpf:
    """ArcFace's loss as a function of cosines, the target's first."""
    logits = [s * mp.cos(mp.acos(c[0]) + m), *(s * other for other in c[1:])]
    return mp.log(mp.fsum(map(mp.exp, logits))) - logits[0]


def _arcface(draw: Draw) -> tuple[Vector, mpf, mpf, mpf]:
    """Cosines, s, m, and the probability of the target, with its margin."""
    c, s, m = draw.vector(draw.whole(2, 5), -0.99, 0.99), draw.number(1, 10), draw.number(0.1, 2)
    return c, s, m, mp.exp(-_loss(c, s, m))


@step("stories-exact", "bf42b5a1")
def _(draw: Draw) -> tuple:
    c, s, m, p = _arcface(draw)
    theta = mp.acos(c[0])
    return derivative(lambda t: _loss([mp.cos(t), *c[1:]], s, m), theta), s * (1 - p) * mp.sin(theta + m)


@step("stories-detached", "03745684")
def _(draw: Draw) -> tuple:
    """Also what automatic differentiation has where ψ is the cosine plus a constant that is held."""
    c, s, m, p = _arcface(draw)
    theta = mp.acos(c[0])
    added = mp.cos(theta + m) - c[0]

    def held(t: mpf) -> mpf:
        logits = [s * (mp.cos(t) + added), *(s * other for other in c[1:])]
        return mp.log(mp.fsum(map(mp.exp, logits))) - logits[0]

    return derivative(held, theta), s * (p - 1) * derivative(mp.cos, theta), s * (1 - p) * mp.sin(theta)


@step("stories-curl", "f72a6081")
def _(draw: Draw) -> tuple:
    c, s, m, _ = _arcface(draw)
    k = draw.whole(1, len(c) - 1)

    def share(at: Vector, n: int) -> mpf:
        logits = [s * mp.cos(mp.acos(at[0]) + m), *(s * other for other in at[1:])]
        return mp.exp(logits[n]) / mp.fsum(map(mp.exp, logits))

    of_other = derivative(lambda v: s * share([v, *c[1:]], k), c[0])
    of_target = derivative(lambda v: s * (share([*c[:k], v, *c[k + 1 :]], 0) - 1), c[k])
    slope = derivative(lambda v: mp.cos(mp.acos(v) + m), c[0])
    return of_other - of_target, s**2 * share(c, 0) * share(c, k) * (1 - slope)


class Layer(NamedTuple):
    """One embedding and the unit weight of its class, inside a fold of ψ."""

    m: int
    k: int
    weight: mpf
    x: Vector
    w: Vector

    @property
    def c(self) -> mpf:
        """The cosine."""
        return dot(unit(self.x), self.w)

    def psi(self, c: mpf) -> mpf:
        """The curve, as a function of the cosine."""
        return (-1) ** self.k * mp.cos(self.m * mp.acos(c)) - 2 * self.k

    def logit(self, x: Vector, w: Vector) -> mpf:
        """f, of a weight of any length."""
        c = dot(unit(x), unit(w))
        return norm(x) * (self.weight * c + self.psi(c)) / (1 + self.weight)

    @property
    def a(self) -> mpf:
        """The slope of ψ in c."""
        return derivative(self.psi, self.c)

    @property
    def b(self) -> mpf:
        """What x is multiplied by."""
        return (self.psi(self.c) - self.c * self.a) / norm(self.x)

    def changed(self, divisor: mpf) -> Vector:
        """∂f/∂x with a and b over a divisor."""
        own = [(self.a * i + self.b * j) / divisor for i, j in zip(self.w, self.x, strict=True)]
        return [(self.weight * i + j) / (1 + self.weight) for i, j in zip(self.w, own, strict=True)]


def _layer(draw: Draw, at: mpf | None = None) -> Layer:
    """A place in a fold; `at` says where in it, from 0 to 1."""
    m = draw.whole(2, 4)
    k = draw.whole(0, m - 1)
    theta = (k + (draw.number(0.001, 0.999) if at is None else at)) * mp.pi / m
    w, length = draw.unit(4), draw.number(0.1, 20)
    across = unit(towards(w, draw.unit(4)))
    x = [length * (mp.cos(theta) * i + mp.sin(theta) * j) for i, j in zip(w, across, strict=True)]
    return Layer(m, k, draw.number(0, 10), x, w)


@step("stories-derivative", "38a2740c")
def _(draw: Draw) -> tuple:
    layer = _layer(draw)
    f = (layer.weight * dot(layer.w, layer.x) + norm(layer.x) * layer.psi(layer.c)) / (1 + layer.weight)
    return [f, *gradient(lambda x: layer.logit(x, layer.w), layer.x)], [
        layer.logit(layer.x, layer.w),
        *layer.changed(mpf(1)),
    ]


@step("stories-parts", "911a0684")
def _(draw: Draw) -> tuple:
    layer = _layer(draw)
    d, c, weight = mp.sqrt(layer.a**2 + layer.b**2), layer.c, layer.weight
    changed, along = layer.changed(d), unit(towards(layer.x, layer.w))
    return [dot(changed, along), dot(changed, unit(layer.x))], [
        (weight + layer.a / d) / (1 + weight) * mp.sin(mp.acos(c)),
        (weight * c + layer.psi(c) / d) / (1 + weight),
    ]


@step("stories-between", "fdb1e9eb")
def _(draw: Draw) -> tuple:
    bounds = []
    for layer in (_layer(draw) for _ in range(TRIES)):
        a, weight = layer.a, layer.weight
        factor = (weight + a / mp.sqrt(a**2 + layer.b**2)) / (1 + weight)
        bounds += [Below(weight / (1 + weight), factor), Below(factor, mpf(1))]
    return tuple(bounds)


@step("stories-up-to", "09d246b1")
def _(draw: Draw) -> tuple:
    layers = [_layer(draw) for _ in range(TRIES)]
    return tuple(Below((i.weight + i.a) / (1 + i.weight), (i.weight + i.m**2) / (1 + i.weight)) for i in layers)


@step("stories-fold", "62d4ee95")
def _(draw: Draw) -> tuple:
    """At the end of a fold; the value is that at both sides of it."""
    layer = _layer(draw, mpf(1))
    c, weight = mp.cos((layer.k + 1) * mp.pi / layer.m), layer.weight
    psi = layer.psi(c)
    d = abs(psi) / norm(layer.x)  # a is 0
    return (weight * c + psi / d) / (1 + weight), (weight * c - norm(layer.x)) / (1 + weight)


@step("stories-weight", "0692c567")
def _(draw: Draw) -> tuple:
    layer = _layer(draw)
    along = dot(layer.w, layer.x)
    factor = (layer.weight + layer.a) / (1 + layer.weight)
    return (
        gradient(lambda w: layer.logit(layer.x, w), layer.w),
        [factor * (i - along * j) for i, j in zip(layer.x, layer.w, strict=True)],
    )


@step("stories-share", "97815bec")
def _(draw: Draw) -> tuple:
    """c² of a random direction has the beta distribution with 1/2 and (D - 1)/2, and c is as often above 0 as below."""
    dimensions, alpha = draw.whole(2, 12), draw.number(0.1, 3)
    integral = [mp.quad(lambda t: mp.sin(t) ** (dimensions - 2), [low, mp.pi / 2, mp.pi]) for low in (alpha, 0)]
    half = mp.betainc(mpf(1) / 2, mpf(dimensions - 1) / 2, 0, mp.cos(alpha) ** 2, regularized=True) / 2
    return integral[0] / integral[1], mpf(1) / 2 + mp.sign(mp.cos(alpha)) * half
