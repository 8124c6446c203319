"""Triplets: distances and the hinge, from exact differences."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from mpmath import mp, mpf

from support.exact.numbers import GUARD, Array, Moved, Vector, settle


class Triple(NamedTuple):
    """Anchor, positive and negative: a - p and a - n as integers of one exponent, the distance and the margin."""

    to_positive: Vector
    to_negative: Vector
    m: mpf
    squared: bool

    @classmethod
    def of(cls, anchor: Array, positive: Array, negative: Array, m: float, squared: bool) -> Triple:
        together = Vector.of([*anchor, *positive, *negative])
        a, p, n = np.array(together.integers, dtype=object).reshape(3, -1)

        def vector(integers: list[int]) -> Vector:
            return Vector(integers, together.exponent, sum(i * i for i in integers))

        return cls(vector(list(a - p)), vector(list(a - n)), mp.convert(float(m)), squared)

    def distance(self, vector: Vector) -> mpf:
        return vector.norm() ** 2 if self.squared else vector.norm()

    def hinge(self, digits: int) -> mpf:
        """The hinge's argument d(a, p) - d(a, n) + m to `digits` of its own digits; exactly 0 at the hinge."""

        def relative() -> mpf:
            near, far = self.distance(self.to_positive), self.distance(self.to_negative)
            size = near + far + abs(self.m)
            return (near - far + self.m) / size if size else mpf(0)

        result = settle(relative, digits)
        with mp.workdps(digits + GUARD):
            return result * (self.distance(self.to_positive) + self.distance(self.to_negative) + abs(self.m))

    def slope(self, vector: Vector, i: int, digits: int) -> mpf:
        """The difference of d over a step of entry i of a - p or a - n; 0 at distance 0."""
        if not vector.square:
            return mpf(0)
        tens = digits // 2 + 6
        with mp.workdps(digits + tens + GUARD):
            move = Moved.by(vector, tens)
            lengths = [mp.sqrt(mpf(move.square(vector, i, sign))) for sign in (-1, 1)]
            step = move.length(vector)
            unit = step / move.step
            down, up = (unit * length for length in lengths)
            return (up**2 - down**2 if self.squared else up - down) / (2 * step)
