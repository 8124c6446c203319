"""Margins: psi(theta) on each side of its boundaries, and the logits of a sample as it, a class or a margin moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from mpmath import mp, mpf

from support.exact.numbers import GUARD, NAN, Array, Moved, Reals, Vector, angle_of, cosine_of, exact, filled, settle
from support.exact.others import Others
from support.exact.qualities import NO_QUALITY, Quality, real
from support.untraced import untraced

Margins = Callable[[], tuple[mpf, mpf]]  # m2 and m3 at the working precision
Branch = Callable[[mpf, mpf, mpf], mpf]  # psi as a function of theta, m2 and m3, one side of every boundary chosen


class Curve(NamedTuple):
    """What makes theta into the target's logit: scale * psi(theta); scale None is the feature norm."""

    m1: mpf
    m2: mpf
    m3: mpf
    boundary: str
    annealing: mpf
    scale: mpf | None
    eps: mpf
    power: int = 1

    @classmethod
    def of(
        cls,
        m1: Any,
        m2: Any,
        m3: Any,
        boundary: str,
        annealing: Any,
        scale: Any = None,
        eps: float = 0.0,
        power: int = 1,
    ) -> Curve:
        first, second, third, weight, near = map(number_of, (m1, m2, m3, annealing, eps))
        by = None if scale is None else mp.convert(float(scale))
        return cls(first, second, third, boundary, weight, by, near, power)

    def margins(self) -> tuple[mpf, mpf]:
        """m2 and m3, of all samples."""
        return self.m2, self.m3


def number_of(number: Any) -> mpf:
    return number if isinstance(number, mpf) else mp.convert(float(number))


def branch_of(theta: Callable[[], mpf], c: Curve, digits: int | None = None, margins: Margins | None = None) -> Branch:
    """The formula of psi on the side of each boundary where theta lies, a smooth function of the angle and margins.

    psi = rule(phi) - m3 with phi = m1 theta + m2, annealed as in SphereFace. `theta()` gives the angle at the working
    precision, `margins()` those of the sample if it has its own; with `digits`, they are known to those digits only,
    and what agrees to them is equal.
    """
    rule = rule_of(theta, c, digits, margins or c.margins)
    if not c.annealing:
        return rule
    return lambda t, m2, m3: (c.annealing * mp.cos(t) + rule(t, m2, m3)) / (1 + c.annealing)


def rule_of(theta: Callable[[], mpf], c: Curve, digits: int | None, margins: Margins) -> Branch:
    """The boundary rule's formula where theta lies, m3 taken off. At a boundary itself the margin still holds."""
    m1 = c.m1

    def sign(quantity: Callable[[], mpf]) -> int:
        if digits is None:
            return int(mp.sign(settle(quantity, GUARD)))
        with mp.workdps(digits + GUARD):
            result = quantity()
        return int(mp.sign(result)) if abs(result) > mpf(10) ** -digits else 0

    def phi() -> mpf:
        return m1 * theta() + margins()[0]

    def exceeds(k: int) -> bool:
        """Whether phi > k pi."""
        return sign(lambda: phi() - k * mp.pi) > 0

    def margin(t: mpf, m2: mpf, m3: mpf) -> mpf:
        return mp.cos(m1 * t + m2) - m3

    def monotone(t: mpf, m2: mpf, m3: mpf) -> mpf:
        return (-1) ** (folds % 2) * mp.cos(m1 * t + m2) - 2 * folds - m3

    beyond: dict[str, Branch] = {
        "hard": lambda t, m2, m3: mp.cos(t) - m2 * mp.sin(m2) - m3,
        "keep": lambda t, m2, m3: mp.cos(t) - m3,
        "easy": lambda t, m2, m3: mp.cos(t) - m3,
        "continuous": lambda t, m2, m3: mp.cos(t) - mp.cos((mp.pi - m2) / m1) - 1 - m3,
        "monotone": monotone,
        "clamp": lambda t, m2, m3: -1 - m3,
        "clip": lambda t, m2, m3: mp.cos(c.eps if below else mp.pi - c.eps) - m3,
        **dict.fromkeys(("acute", "conditional", "min"), lambda t, m2, m3: mp.cos(t)),
    }
    match c.boundary:
        case "circle":  # in place of a margin, everywhere
            return lambda t, m2, m3: m3**2 - versine(t) ** 2
        case "power":  # so too
            return lambda t, m2, m3: 2 * mp.cos(t / 2) ** (2 * c.power) - 1 - m3
        case "none":
            holds = True
        case "monotone":
            nearest = int(mp.nint(phi() / mp.pi))
            folds = nearest if exceeds(nearest) else nearest - 1
            holds = folds <= 0
        case "easy" | "acute":
            holds = sign(lambda: mp.cos(theta())) > 0
        case "conditional":
            holds = sign(lambda: mp.cos(theta()) - margins()[1]) > 0
        case "min":
            holds = sign(lambda: margin(theta(), *margins()) - mp.cos(theta())) <= 0
        case "clip":
            below = sign(lambda: phi() - c.eps) < 0
            holds = not below and sign(lambda: phi() - (mp.pi - c.eps)) <= 0
        case _:
            holds = not exceeds(1)
    return margin if holds else beyond[c.boundary]


def versine(theta: mpf) -> mpf:
    """1 - cos theta, to all digits."""
    return 2 * mp.sin(theta / 2) ** 2


def at_each(angles: Any, function: Callable[[mpf], mpf]) -> Array:
    numbers = exact(angles)
    result = filled(numbers.shape, NAN)
    for index in np.ndindex(numbers.shape):
        result[index] = function(numbers[index])
    return result


@untraced
def psi(
    theta: Any,
    m1: float = 1,
    m2: float = 0,
    m3: float = 0,
    boundary: str = "none",
    annealing: float = 0,
    eps: float = 0,
    power: int = 1,
    digits: int = 60,
) -> Array:
    """The target's modified cosine: rule(m1 theta + m2) - m3 and its annealing, at every angle given."""
    c = Curve.of(m1, m2, m3, boundary, annealing, eps=eps, power=power)

    def at(t: mpf) -> mpf:
        with mp.workdps(digits + GUARD):
            return branch_of(lambda: t, c, digits)(t, *c.margins())

    return at_each(theta, at)


@untraced
def psi_slope(
    theta: Any,
    m1: float = 1,
    m2: float = 0,
    m3: float = 0,
    boundary: str = "none",
    annealing: float = 0,
    eps: float = 0,
    power: int = 1,
    by: str = "theta",
    digits: int = 60,
) -> Array:
    """The derivative of psi by "theta", "m2" or "m3", by mpmath.diff, of the formula that holds at theta."""
    c = Curve.of(m1, m2, m3, boundary, annealing, eps=eps, power=power)

    def at(t: mpf) -> mpf:
        with mp.workdps(digits + GUARD):
            branch = branch_of(lambda: t, c, digits)
        return settle(lambda: partial_of(branch, by, t, *c.margins()), digits)

    return at_each(theta, at)


def partial_of(branch: Branch, by: str, *at: mpf) -> mpf:
    """The derivative of psi by one of theta, m2 and m3."""
    place = ("theta", "m2", "m3").index(by)
    return mp.diff(lambda number: branch(*at[:place], number, *at[place + 1 :]), at[place])


def curve(loss: Any, scale: Any = None) -> dict[str, Any]:
    """The margin of a loss object: m1, m2, m3, boundary, annealing and scale (None: the feature norm).

    The scale is given where it is an input. Margins that depend on the sample are those of v = 0, see `quality_of`.
    """
    no_margin = {"m1": 1.0, "m2": 0.0, "m3": 0.0, "boundary": "none", "annealing": 0.0, "scale": None}
    match type(loss).__name__:
        case "ModifiedSoftmax" | "NormFace" | "SigLIP" | "InfoNCE":
            margin = {}
        case "ASoftmax" | "SphereFace":
            margin = {"m1": loss.m, "annealing": loss.annealing, "boundary": loss.boundary}
        case "CosFace" | "AMSoftmax" | "UniFace":
            margin = {"m3": loss.m, "boundary": getattr(loss, "boundary", "none")}
        case "ArcFace" | "CurricularFace" | "SubCenterArcFace" | "InterTopK":
            margin = {"m2": loss.m, "boundary": loss.boundary}
        case "CombinedMargin":
            margin = {"m1": loss.m1, "m2": loss.m2, "m3": loss.m3, "boundary": loss.boundary}
        case "AdaFace":
            margin = {"m3": loss.m, "boundary": "clip", "eps": loss.eps}
        case "MagFace":
            margin = {"m2": loss.l_m, "boundary": loss.boundary}
        case "MVSoftmax":
            rule = {"easy": "acute", "none": "none"}[loss.boundary]
            margin = {{"am": "m3", "arc": "m2"}[loss.margin]: loss.m, "boundary": rule}
        case "SphereFaceR":
            margin = {"m1": loss.m, "boundary": "clamp"} if loss.version == 1 else {}
        case "CircleLoss":
            margin = {"m3": loss.m, "boundary": "circle"}
        case "SphereFace2":
            margin = {"m3": loss.m, "boundary": "power", "power": loss.t}
        case name:
            message = f"{name} has no margin"
            raise TypeError(message)
    return no_margin | margin | {"scale": getattr(loss, "s", scale)}


def without(c: Curve, given: Quality) -> Curve:
    """The curve without the margin in whose place another one is given."""
    return c._replace(**({"m2": mpf(0)} if given.on_angle else {"m3": mpf(0)}))


class TargetPair:
    """A sample and its label's class: the angle, the branch of psi, and what a step must be small against."""

    def __init__(self, x: Vector, w: Vector, c: Curve, *, detached: bool, quality: Quality = NO_QUALITY):
        self.c, self.detached, self.quality = c, detached, quality
        self.x, self.numbers = x, (x.dot(w), x.square, w.square)
        dot, square, other = self.numbers
        self.parallel = dot * dot == square * other
        self.sine = mpf(1) if self.parallel else mp.sqrt(mpf(square * other - dot * dot) / mpf(square * other))
        self.branch = branch_of(self.theta, c, margins=self.margins)

    def theta(self) -> mpf:
        return angle_of(*self.numbers)

    def margins(self, v: mpf | None = None) -> tuple[mpf, mpf]:
        """m2 and m3 of the sample, or of another v."""
        v = self.quality.v(self.x.norm()) if v is None else v
        return self.c.m2 + real(self.quality.on_angle) * v, self.c.m3 + real(self.quality.on_cosine) * v

    def threshold(self) -> mpf:
        """cos phi - m3 before any rule: what the cosine of a hard class is above."""
        m2, m3 = self.margins()
        return mp.cos(self.c.m1 * self.theta() + m2) - m3

    def weight(self) -> mpf:
        """What the derivative in cos theta counts as if it is detached: 1, or of CircleLoss its weight."""
        return self.c.m3 + versine(self.theta()) if self.c.boundary == "circle" else mpf(1)

    def slope(self, digits: int) -> mpf:
        """The derivative of psi in theta, by mpmath.diff; that of cos theta if detached; 0 for a parallel pair."""
        if self.parallel:
            return mpf(0)
        if self.detached:
            return settle(lambda: self.weight() * mp.diff(mp.cos, self.theta()), digits)
        return settle(lambda: partial_of(self.branch, "theta", self.theta(), *self.margins()), digits)

    def slope_of_v(self, digits: int) -> mpf:
        """The derivative of psi in v; 0 if detached."""
        by = [(name, factor) for name, factor in zip(("m2", "m3"), self.quality[1:3], strict=True) if factor]
        if self.detached or not by:
            return mpf(0)
        return settle(
            lambda: mp.fsum(real(b) * partial_of(self.branch, on, self.theta(), *self.margins()) for on, b in by),
            digits,
        )


class Sample:
    """One row of a margin head at the working precision: its logits, and how they change when something moves."""

    def __init__(self, x: Vector, classes: list[Vector], label: int, target: TargetPair, others: Others):
        self.x, self.classes, self.label, self.target, self.c = x, classes, label, target, target.c
        self.dots = [x.dot(w) for w in classes]
        self.per_norm = [1 / mp.sqrt(mpf(w.square)) for w in classes]
        self.scale = x.norm() if self.c.scale is None else self.c.scale
        self.angle, self.v = target.theta(), target.quality.v(x.norm())
        self.psi = target.branch(self.angle, *target.margins(self.v))
        self.weight = target.weight()
        self.constant = self.psi - self.weight * mp.cos(self.angle)
        per_x = 1 / mp.sqrt(mpf(x.square))
        self.cosines = [dot * per_x * per_w for dot, per_w in zip(self.dots, self.per_norm, strict=True)]
        self.others = others
        self.f = [others.eta(k, c, self.angle_to(k, self.dots[k])) for k, c in enumerate(self.cosines)]
        self.f[label] = self.psi
        self.z = [self.scale * number for number in self.f]

    def moved_psi(self, dot: int, square: int, other: int, v: mpf | None = None) -> mpf:
        """The moved target pair's psi: the angle kept where the pair is parallel, cos theta + constant if detached."""
        if self.target.detached:
            moved = self.weight * cosine_of(dot, square, other) + self.constant
            return self.psi if self.target.parallel else moved
        theta = self.angle if self.target.parallel else angle_of(dot, square, other)
        return self.target.branch(theta, *self.target.margins(self.v if v is None else v))

    def angle_to(self, k: int, dot: int, square: int | None = None, other: int | None = None) -> Callable[[], mpf]:
        """The angle of a class once x or the class has moved."""
        return lambda: angle_of(dot, square or self.x.square, other or self.classes[k].square)

    def moved_eta(self, k: int, c: mpf, theta: Callable[[], mpf]) -> mpf:
        """The moved eta of a class that is not the label's, as its gradient convention has it.

        An angle is kept where the pair is parallel; detached, eta moves with the cosine.
        """
        if self.others.detached:
            return self.f[k] + self.others.weight(k, self.cosines[k]) * (c - self.cosines[k])
        return self.f[k] if k in self.others.parallel else self.others.eta(k, c, theta)

    def length_moved(self, move: Moved, square: int) -> mpf:
        """The length of x once an entry has moved."""
        return mp.ldexp(mp.sqrt(mpf(square)), self.x.exponent - move.shift)

    def x_moved(self, i: int, move: Moved, sign: int) -> Reals:
        """How every logit changes when entry i of x moves."""
        square = move.square(self.x, i, sign)
        norm, quality = mp.sqrt(mpf(square)), self.target.quality
        length = self.length_moved(move, square)
        v = None if quality.constant else quality.v(length)
        scale = length if self.c.scale is None else self.c.scale
        changes = []
        for k, w in enumerate(self.classes):
            dot = move.dot(self.dots[k], w.integers[i], sign)
            if k == self.label:
                moved = scale * self.moved_psi(dot, square, w.square, v)
            else:
                moved = scale * self.moved_eta(k, dot * self.per_norm[k] / norm, self.angle_to(k, dot, square))
            changes.append(moved - self.z[k])
        return changes

    def term_moved(self, i: int, move: Moved, sign: int) -> mpf:
        """What the term of the length is when entry i of x moves."""
        return self.target.quality.term(self.length_moved(move, move.square(self.x, i, sign)))

    def w_moved(self, k: int, i: int, move: Moved, sign: int) -> mpf:
        """How logit k changes when entry i of class k moves."""
        dot = move.dot(self.dots[k], self.x.integers[i], sign)
        numbers = dot, self.x.square, move.square(self.classes[k], i, sign)
        if k == self.label:
            return self.scale * self.moved_psi(*numbers) - self.z[k]
        return self.scale * self.moved_eta(k, cosine_of(*numbers), self.angle_to(k, *numbers)) - self.z[k]

    def m_moved(self, step: mpf) -> mpf:
        """How the label's logit changes when a given margin moves."""
        return self.scale * self.moved_psi(*self.target.numbers, self.v + step) - self.z[self.label]
