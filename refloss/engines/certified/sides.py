"""Sides: on which side of every boundary of its margin a target lies, decided exactly, and what ψ is there.

m1 θ + m2 = k π has no solution with an algebraic m2 ≠ 0, nor has cos(m1 θ + m2) - m3 = cos θ (Lindemann), so that there
more bits always decide. With m2 = 0 a rational θ/π decides the first, Chebyshev's polynomials the second.

Symbols: as in `refloss.stages.margin`: θ the target's angle; φ = m1 θ + m2; ψ what replaces cos θ.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from refloss.engines.certified.balls import MAX_BITS, START_BITS, Arb, arb, atan2, pi, precision
from refloss.engines.certified.exact import Term, cancel, half_turns, integers, root, sign
from refloss.engines.certified.margins import SampleMargins
from refloss.error_free import Array
from refloss.stages.margin import Settings as MarginSettings


class Psi(NamedTuple):
    """ψ where a target lies: so many times each of these."""

    cos_theta: int = 0
    """Cos θ."""
    cos_phi: int = 0
    """Cos φ."""
    m3: int = 0
    """The margin on the cosine."""
    drop: int = 0
    """What m2 lowers cos θ by beyond φ = π: m2 sin m2 with the rule "hard", cos((π - m2)/m1) with "continuous"."""
    cos_eps: int = 0
    """Cos ε."""
    one: int = 0
    """1."""
    circle: int = 0
    """m3² - (1 - cos θ)²."""


COS_THETA, LOWERED, MARGIN = Psi(cos_theta=1), Psi(cos_theta=1, m3=-1), Psi(cos_phi=1, m3=-1)
BEYOND_PI = {
    "hard": Psi(cos_theta=1, m3=-1, drop=-1),
    "keep": LOWERED,
    "continuous": Psi(cos_theta=1, m3=-1, drop=-1, one=-1),
    "clamp": Psi(m3=-1, one=-1),
}
"""ψ for φ > π, where that is one function."""


class TargetAngle:
    """A sample and the weights of its class, as integers, and what is decided about their angle."""

    def __init__(self, x: Array, w: Array, margin: MarginSettings, of_sample: SampleMargins):
        (x_int, _), (w_int, _) = integers(x), integers(w)
        self.margin, self.notes = margin, list[str]()
        self.m1, self.m2, self.m3 = Fraction(float(margin.m1)), of_sample.m2, of_sample.m3
        self.dot, self.squares = int(x_int @ w_int), int(x_int @ x_int) * int(w_int @ w_int)
        self.half_turns = half_turns(self.dot, self.squares)
        self.direction = (self.half_turns == 0) - (self.half_turns == 1)  # not 0 where the vectors are parallel
        folds = None if self.m2 or self.half_turns is None else self.m1 * self.half_turns
        self.folds = int(folds) if folds is not None and folds.denominator == 1 else None  # φ/π, where an integer
        self.psi = self._psi()

    def theta(self) -> Arb:
        """θ at the current precision."""
        return atan2(arb(self.squares - self.dot**2).sqrt(), arb(self.dot))

    def phi(self) -> Arb:
        """φ = m1 θ + m2 at the current precision."""
        return arb(float(self.m1)) * self.theta() + self.m2.ball()

    def cos_theta(self) -> Arb:
        """Cos θ at the current precision."""
        return arb(self.dot) / arb(self.squares).sqrt()

    def threshold(self) -> Arb:
        """Cos φ - m3 at the current precision: what the cosine of a hard class is above."""
        return self.phi().cos() - self.m3.ball()

    @property
    def cos_theta_term(self) -> Term:
        """Cos θ as a rational multiple of a root."""
        return Fraction(self.dot, self.squares), Fraction(self.squares)

    @property
    def like_cosine(self) -> bool:
        """Whether ψ is cos θ, but for a constant."""
        same = self.m1 == 1 and not self.m2  # φ is θ
        psi = self.psi
        return psi.cos_theta + psi.cos_phi == 1 and (same or not psi.cos_phi)

    @property
    def is_cosine(self) -> bool:
        """Whether ψ is cos θ."""
        psi = self.psi
        return self.like_cosine and not (psi.drop or psi.cos_eps or psi.one or (psi.m3 and self.m3))

    @property
    def rational(self) -> Fraction | None:
        """ψ of the curve "circle" where that is rational."""
        factor, square = self.cos_theta_term
        rational_root = root(square)
        if not self.psi.circle or rational_root is None:
            return None
        return self.m3.plain**2 - (1 - factor * rational_root) ** 2

    @property
    def is_constant(self) -> bool:
        """Whether ψ does not change with θ: it has no direction to change in, or cos φ is at a turning point.

        A cosine of a multiple of π has slope 0. A target exactly parallel to its class has no tangent: the one of least
        norm, 0, is taken.
        """
        if self.psi.cos_theta or self.psi.circle:
            return False
        return not self.psi.cos_phi or self.direction != 0 or self.folds is not None

    def _psi(self) -> Psi:
        """ψ where the target lies."""
        psi = self._by_rule()
        if psi.cos_phi == 0 or not self.direction:
            return psi
        if self.folds is not None:  # cos φ is cos θ or -cos θ
            same = (-1) ** (self.folds + int(self.half_turns == 1))
            return psi._replace(cos_theta=same * psi.cos_phi, cos_phi=0)
        if self.margin.gradient == "exact":
            angle = "0" if self.half_turns == 0 else "pi"
            self.notes.append(f"theta = {angle} exactly: the tangent of least norm, 0, is used")
        return psi

    def _by_rule(self) -> Psi:
        """ψ by the boundary rule."""
        boundary, beyond = self.margin.boundary, None
        on_angle = self.m1 != 1 or bool(self.m2) or self.margin.by_quality[0] != 0
        match boundary:
            case "none" | "power":
                pass
            case "circle":
                beyond = Psi(circle=1)
            case "easy" | "acute":
                if self.dot == 0:
                    self.notes.append("cos theta = 0 exactly: the easy margin does not hold")
                if self.dot <= 0:
                    beyond = LOWERED if boundary == "easy" else COS_THETA
            case "conditional":
                beyond = COS_THETA if self._sign_of_cos_less_m3() <= 0 else None
            case "min":
                beyond = COS_THETA if self._sign_of_margin_less_cos() > 0 else None
            case "clip":
                side = self._side_of_clip()
                beyond = Psi(cos_eps=side, m3=-1) if side else None
            case "monotone":
                beyond = self._monotone() if on_angle else None
            case _:
                beyond = BEYOND_PI[boundary] if on_angle and self._exceeds(1) else None
        return beyond or (MARGIN if on_angle else LOWERED)

    def _monotone(self) -> Psi:
        """(-1)^k cos φ - 2k - m3, k = floor(φ/π), but k - 1 where φ = kπ, and 0 for φ < 0."""
        with precision(START_BITS):
            nearest = round(float(self.phi() / pi()))
        k = 0 if nearest <= 0 else nearest if self._exceeds(nearest) else nearest - 1
        return Psi(cos_phi=(-1) ** k, m3=-1, one=-2 * k)

    def _exceeds(self, k: int) -> bool:
        """Whether φ > kπ."""
        if self.folds is not None:
            if self.folds == k:
                self.notes.append(f"m1 theta + m2 = {'' if k == 1 else f'{k} '}pi exactly: the margin still holds")
            return self.folds > k
        side = sign(lambda: self.phi() - k * pi(), lambda: False)
        if side is None:
            self.notes.append(f"m1 theta + m2 and {k} pi differ by less than {MAX_BITS} bits tell: counted as equal")
        return side == 1

    def _side_of_clip(self) -> int:
        """1 for φ < ε, -1 for φ > π - ε, 0 between and at either.

        φ is ε only where m2 is and θ = 0, and π - ε only where m2 is -ε and θ = π (Lindemann).
        """
        eps = self.margin.eps
        low = sign(
            lambda: self.phi() - arb(eps),
            lambda: self.half_turns == 0 and not self.m2.plus(-Fraction(eps)),
        )
        high = sign(
            lambda: self.phi() - pi() + arb(eps),
            lambda: self.half_turns == 1 and not self.m2.plus(Fraction(eps)),
        )
        if self._settled(low, "m1 theta + m2 and eps") < 0:
            return 1
        return -1 if self._settled(high, "m1 theta + m2 and pi - eps") > 0 else 0

    def _sign_of_cos_less_m3(self) -> int:
        """The sign of cos θ - m3; 0 where it stays open."""

        def equal() -> bool:
            return cancel([self.cos_theta_term, *self.m3.negative().terms()])

        side = sign(lambda: self.cos_theta() - self.m3.ball(), equal)
        if side == 0:
            self.notes.append("cos theta = m3 exactly: the conditional margin does not hold")
        return self._settled(side, "cos theta and m3")

    def _sign_of_margin_less_cos(self) -> int:
        """The sign of cos φ - m3 - cos θ; 0 where it stays open."""
        side = sign(lambda: self.threshold() - self.theta().cos(), self._margin_is_cos)
        if side == 0:
            self.notes.append("cos(m1 theta + m2) - m3 = cos theta exactly: the margin still holds")
        return self._settled(side, "cos(m1 theta + m2) - m3 and cos theta", ", the margin holds")

    def _margin_is_cos(self) -> bool:
        """Whether cos m1 θ - m3 = cos θ, for an integer m1.

        cos m1 θ is Chebyshev's polynomial of cos θ, here p + q cos θ with rational p and q, since cos² θ is rational.
        """
        if self.m2 or self.m1.denominator != 1:
            return False
        factor, root = self.cos_theta_term
        square = factor**2 * root
        (p, q), before = (Fraction(0), Fraction(1)), (Fraction(1), Fraction(0))
        for _ in range(int(self.m1) - 1):
            (p, q), before = (2 * q * square - before[0], 2 * p - before[1]), (p, q)
        return cancel([((q - 1) * factor, root), (p, Fraction(1)), *self.m3.negative().terms()])

    def is_at_threshold(self, cos: Term) -> bool:
        """Whether another cosine is cos φ - m3: with an algebraic m2 ≠ 0 it never is (Lindemann)."""
        if self.m2 or self.m1 != 1:
            return False
        factor, root = self.cos_theta_term
        return cancel([cos, (-factor, root), *self.m3.terms()])

    def _settled(self, side: int | None, what: str, so: str = "") -> int:
        """A sign, 0 where it stays open."""
        if side is None:
            self.notes.append(f"{what} differ by less than {MAX_BITS} bits tell: undecided, counted as equal{so}")
        return side or 0
