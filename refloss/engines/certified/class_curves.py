"""Class curves: functions of the angles, or of the cosines, of all other classes or of the nearest ones.

`power` is that of all classes, the label's among them.

c |c| is a rational number. Whether c > -m, which classes are the nearest and which vectors are parallel are questions
about such numbers.

Symbols: c cosines; θ their angles; m the margin; η what replaces c of a class that is not the label's.
"""

from __future__ import annotations

from collections.abc import Hashable
from fractions import Fraction

import numpy as np

from refloss.engines.certified.balls import arb, zero_balls
from refloss.engines.certified.exact import IntegerVectors, root
from refloss.engines.certified.others import CONSTANT, Multiple, OtherClasses, Theta
from refloss.engines.certified.tape import Variable
from refloss.error_free import Array, Integers, Mask
from refloss.stages.class_angles import Settings as AngleSettings
from refloss.stages.negatives import Settings


class CircleClasses(OtherClasses):
    """η = (c + m)(c - m) for c > -m, else 0; detached, the weight c + m is a constant."""

    mask: Mask
    """Which classes have c > -m (N, C)."""

    def __init__(self, settings: Settings, y: Array, vectors: IntegerVectors, row_of: Integers):
        super().__init__(y, vectors, row_of)
        self._m, self._detached = Fraction(settings.t), settings.gradient == "detached"
        self.mask = np.zeros(self.others.shape, np.bool_)
        for n, k in np.argwhere(self.others).tolist():
            square = self.signed_square(n, k)
            self.mask[n, k] = square > -(self._m**2)
            if square == -(self._m**2) and self._m and not self._detached:
                self.notes[n].append(f"the cosine of class {k} is -m exactly: its slope is 0")

    def eta(self, cos: Variable, theta: Theta) -> Variable:
        """Return η of cosines (N, C)."""
        on, m = np.nonzero(self.mask), arb(float(self._m))
        c = cos[on]
        weight = c + m
        off = Variable(cos.tape, zero_balls(cos.value.shape))
        return off.set_at(on, (c - m) * (weight.value if self._detached else weight))

    def logit(self, n: int, k: int) -> Hashable:
        """Return η, a rational number."""
        if not self.others[n, k]:
            return super().logit(n, k)
        return abs(self.signed_square(n, k)) - self._m**2 if self.mask[n, k] else Fraction(0)

    def slope(self, n: int, k: int) -> Multiple:
        """Return η' / ‖w‖: η' is 2c, or c + m of a constant weight."""
        if not self.mask[n, k]:
            return CONSTANT if self.others[n, k] else super().slope(n, k)
        if not self._detached:
            return self._over_length(n, k, 2 * abs(self.signed_square(n, k)))
        c = self._rational_cos(n, k)
        if c:
            return self._over_length(n, k, (c + self._m) * c)
        return (self.square(n, k), self.signed_square(n, k)), Fraction(1)

    def target_slope(self, n: int, k: int) -> Multiple:
        """Return ψ' / ‖w‖: ψ' is 2 (1 - c), or m + 1 - c of a constant weight."""
        c = self._rational_cos(n, k)
        if not c:
            return super().target_slope(n, k)
        return self._over_length(n, k, (self._m + 1 - c if self._detached else 2 - 2 * c) * c)

    def _rational_cos(self, n: int, k: int) -> Fraction | None:
        """C where it is rational."""
        factor, square = self.cos(n, k)
        rational_root = root(square)
        return None if rational_root is None else factor * rational_root

    def _over_length(self, n: int, k: int, times_cos: Fraction) -> Multiple:
        """A number over ‖w‖, of c times the number: as c is x·w / (‖x‖ ‖w‖), so many times ‖x‖."""
        return "|x|", times_cos / self.product(n, k) if times_cos else Fraction(0)

    def along_x(self, n: int, k: int) -> Multiple:
        """Return η - c η': -(c² + m²), or -m (c + m) of a constant weight."""
        if not self.mask[n, k]:
            return CONSTANT
        square = self.signed_square(n, k)
        return (square, -self._m) if self._detached else ("1", -abs(square) - self._m**2)


class PowerClasses(OtherClasses):
    """η = 2 cos²ᵏ(θ/2) - 1 + m; detached, its slope is 1."""

    def __init__(self, settings: AngleSettings, y: Array, vectors: IntegerVectors, row_of: Integers):
        super().__init__(y, vectors, row_of)
        self._settings = settings

    def eta(self, cos: Variable, theta: Theta) -> Variable:
        """Return η of cosines (N, C)."""
        return power(cos, self._settings.k, detached=self._settings.gradient == "detached") + arb(self._settings.m)


def power(cos: Variable, exponent: int, *, detached: bool) -> Variable:
    """Return 2 ((1 + cos θ)/2)ᵏ - 1; detached, cos θ and a constant."""
    half = (cos + arb(1)) / arb(2)
    whole = half
    for _ in range(exponent - 1):
        whole = whole * half
    curve = whole * arb(2) - arb(1)
    return cos + (curve.value - cos.value) if detached else curve


class ClassAngles(OtherClasses):
    """η = cos(θ/m) of all other classes, or cos(θ - m) of the nearest."""

    mask: Mask
    """Which classes have an angle that changes (N, C)."""

    def __init__(self, settings: AngleSettings, y: Array, vectors: IntegerVectors, row_of: Integers):
        super().__init__(y, vectors, row_of)
        self._divided, self._m, self._detached = settings.rule == "divided", settings.m, settings.gradient == "detached"
        self.mask = np.zeros(self.others.shape, np.bool_)
        for n, others in enumerate(self.others):
            squares = {k: self.signed_square(n, k) for k in np.flatnonzero(others).tolist()}
            if self._divided:  # an angle of 0 stays
                chosen = [k for k, square in squares.items() if square != 1]
            else:
                chosen = self._nearest(n, squares, settings.k)
            self.mask[n, chosen] = True
            for k in chosen:
                if abs(squares[k]) == 1 and not self._detached:
                    angle = "0" if squares[k] == 1 else "pi"
                    self.notes[n].append(f"class {k}: theta = {angle} exactly: the tangent of least norm, 0, is used")

    def _nearest(self, n: int, squares: dict[int, Fraction], count: int) -> list[int]:
        """The classes of the largest cosines; of equal ones the first."""
        order = sorted(squares, key=lambda k: -squares[k])  # stable
        chosen, rest = order[:count], order[count:]
        if rest and squares[rest[0]] == squares[chosen[-1]]:
            equal = [k for k in order if squares[k] == squares[chosen[-1]]]
            those = " and ".join(map(str, equal))
            self.notes[n].append(f"classes {those} are at the same angle exactly: the first count as nearest")
        return sorted(chosen)

    def eta(self, cos: Variable, theta: Theta) -> Variable:
        """Return η of cosines (N, C)."""
        n, k = np.nonzero(self.mask)
        if not len(n):
            return cos
        angle = theta(n, k, [self._parallel(*at) for at in zip(n.tolist(), k.tolist(), strict=True)])
        m = arb(self._m)
        eta = (angle / m if self._divided else angle - m).cos()
        if self._detached:
            eta = cos[n, k] + (eta.value - cos.value[n, k])
        return cos.set_at((n, k), eta)

    def _parallel(self, n: int, k: int) -> int:
        """1 or -1 where the vectors have the same or opposite directions, else 0."""
        square = self.signed_square(n, k)
        return int(square) if abs(square) == 1 else 0

    def logit(self, n: int, k: int) -> Hashable:
        """Return c |c|, and whether the angle changes."""
        return self.mask[n, k], super().logit(n, k)

    def slope(self, n: int, k: int) -> Multiple:
        """Return η' / ‖w‖: 0 for parallel vectors, which have no tangent, else never 0."""
        if self._detached or not self.mask[n, k]:
            return super().slope(n, k)
        return (self.square(n, k), self.signed_square(n, k)), Fraction(not self._parallel(n, k))

    def along_x(self, n: int, k: int) -> Multiple:
        """Return η - c η', η for parallel vectors."""
        return self.signed_square(n, k), Fraction(int(self.mask[n, k]))
