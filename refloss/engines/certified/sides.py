"""Sides: on which side of every boundary of its margin a target lies, decided exactly, and what ψ is there.

m1 θ + m2 = k π has no solution with a rational m2 ≠ 0, nor has cos(m1 θ + m2) - m3 = cos θ (Lindemann), so that there
more bits always decide. With m2 = 0 a rational θ/π decides the first, Chebyshev's polynomials the second.

Symbols: as in `refloss.stages.margin`: θ the target's angle; φ = m1 θ + m2; ψ what replaces cos θ.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from refloss.engines.certified.balls import MAX_BITS, START_BITS, Arb, arb, atan2, pi, precision
from refloss.engines.certified.exact import half_turns, integers, sign
from refloss.error_free import Array
from refloss.stages.margin import Settings as MarginSettings


class Psi(NamedTuple):
    """ψ where a target lies: a multiple of cos θ, a multiple of cos φ and a constant."""

    cos_theta: int
    """What cos θ is multiplied by."""
    cos_phi: int
    """What cos φ is multiplied by."""
    constant: Callable[[], Arb] | None
    """What is added, as a ball at the current precision; None for 0."""


class TargetAngle:
    """A sample and the weights of its class, as integers, and what is decided about their angle."""

    def __init__(self, x: Array, w: Array, margin: MarginSettings):
        (x_int, _), (w_int, _) = integers(x), integers(w)
        self.margin, self.notes = margin, list[str]()
        self.m1, self.m2, self.m3 = float(margin.m1), float(margin.m2), float(margin.m3)
        self.dot, self.squares = int(x_int @ w_int), int(x_int @ x_int) * int(w_int @ w_int)
        self.half_turns = half_turns(self.dot, self.squares)
        folds = None if self.m2 or self.half_turns is None else Fraction(self.m1) * self.half_turns
        self.folds = int(folds) if folds is not None and folds.denominator == 1 else None  # φ/π, where an integer

    def theta(self) -> Arb:
        """θ at the current precision."""
        return atan2(arb(self.squares - self.dot**2).sqrt(), arb(self.dot))

    def phi(self) -> Arb:
        """φ = m1 θ + m2 at the current precision."""
        return arb(self.m1) * self.theta() + arb(self.m2)

    def psi(self) -> Psi:
        """ψ where the target lies; a constant where θ has no direction to change in, or cos φ is at a turning point.

        A cosine of a multiple of π has slope 0, so nothing is lost. A target exactly parallel to its class has no
        tangent; a constant ψ takes the one of least norm.
        """
        psi = self._by_rule()
        parallel = self.half_turns in (0, 1)
        if psi.cos_phi == 0 or (self.folds is None and not parallel):
            return psi
        if self.folds is not None and parallel:  # cos φ is cos θ or -cos θ, and cos θ is a constant there
            same = (-1) ** (self.folds + int(self.half_turns == 1))
            return Psi(same * psi.cos_phi, 0, psi.constant)
        if parallel and self.margin.gradient == "exact":
            angle = "0" if self.half_turns == 0 else "pi"
            self.notes.append(f"theta = {angle} exactly: the tangent of least norm, 0, is used")

        def constant() -> Arb:
            cos = self.phi().cos() if self.folds is None else arb((-1) ** self.folds)
            return psi.cos_phi * cos + (0 if psi.constant is None else psi.constant())

        return Psi(0, 0, constant)

    def _by_rule(self) -> Psi:
        """ψ by the boundary rule."""
        boundary, cos_theta = self.margin.boundary, Psi(1, 0, None)
        on_angle = self.m1 != 1.0 or self.m2 != 0.0
        lowered = Psi(1, 0, (lambda: -arb(self.m3)) if self.m3 else None)
        margin = Psi(0, 1, lowered.constant) if on_angle else lowered
        if boundary == "easy":
            if self.dot == 0:
                self.notes.append("cos theta = 0 exactly: the easy margin does not hold")
            return margin if self.dot > 0 else lowered
        if boundary == "conditional":
            side = self._sign_of_cos_less_m3()
            if side == 0:
                self.notes.append("cos theta = m3 exactly: the conditional margin does not hold")
            return margin if side > 0 else cos_theta
        if boundary == "min":
            return margin if self._sign_of_margin_less_cos() <= 0 else cos_theta
        if boundary == "none" or not on_angle:
            return margin
        if boundary == "monotone":
            return self._monotone()
        return self._beyond_pi(lowered) if self._exceeds(1) else margin

    def _beyond_pi(self, lowered: Psi) -> Psi:
        """ψ for φ > π, where that is one function."""
        m1, m2, m3 = self.m1, self.m2, self.m3
        by_rule: dict[str, Psi] = {
            "hard": Psi(1, 0, lambda: -arb(m2) * arb(m2).sin() - m3),
            "keep": lowered,
            "continuous": Psi(1, 0, lambda: -((pi() - m2) / m1).cos() - 1 - m3),
            "clamp": Psi(0, 0, lambda: -1 - arb(m3)),
        }
        return by_rule[self.margin.boundary]

    def _monotone(self) -> Psi:
        """(-1)^k cos φ - 2k - m3, k = floor(φ/π), but k - 1 where φ = kπ."""
        with precision(START_BITS):
            nearest = round(float(self.phi() / pi()))
        k = max(0, nearest if self._exceeds(nearest) else nearest - 1)
        return Psi(0, (-1) ** k, (lambda: -2 * k - arb(self.m3)) if k or self.m3 else None)

    def _exceeds(self, k: int) -> bool:
        """Whether φ > kπ."""
        if k == 0:
            return True  # φ = 0 lies in the first fold
        if self.folds is not None:
            if self.folds == k:
                self.notes.append(f"m1 theta + m2 = {'' if k == 1 else f'{k} '}pi exactly: the margin still holds")
            return self.folds > k
        side = sign(lambda: self.phi() - k * pi(), lambda: False)
        if side is None:
            self.notes.append(f"m1 theta + m2 and {k} pi differ by less than {MAX_BITS} bits tell: counted as equal")
        return side == 1

    def _sign_of_cos_less_m3(self) -> int:
        """The sign of cos θ - m3."""
        numerator, denominator = self.m3.as_integer_ratio()
        difference = (self.dot * denominator) ** 2 - numerator**2 * self.squares
        return -1 if self.dot <= 0 else (difference > 0) - (difference < 0)

    def _sign_of_margin_less_cos(self) -> int:
        """The sign of cos φ - m3 - cos θ; 0 where it stays open."""
        side = sign(lambda: self.phi().cos() - arb(self.m3) - self.theta().cos(), self._margin_is_cos)
        if side == 0:
            self.notes.append("cos(m1 theta + m2) - m3 = cos theta exactly: the margin still holds")
        if side is None:
            self.notes.append(
                f"cos(m1 theta + m2) - m3 and cos theta differ by less than {MAX_BITS} bits tell: undecided, "
                "counted as equal, the margin holds"
            )
        return side or 0

    def _margin_is_cos(self) -> bool:
        """Whether cos m1 θ - m3 = cos θ, for an integer m1.

        cos m1 θ is Chebyshev's polynomial of cos θ, here p + q cos θ with rational p and q, since cos² θ is rational.
        """
        if self.m2 or self.m1 != int(self.m1):
            return False
        square = Fraction(self.dot**2, self.squares)
        (p, q), before = (Fraction(0), Fraction(1)), (Fraction(1), Fraction(0))
        for _ in range(int(self.m1) - 1):
            (p, q), before = (2 * q * square - before[0], 2 * p - before[1]), (p, q)
        p, q = p - Fraction(self.m3), q - 1
        return p * p == q * q * square and p * q * self.dot <= 0
