"""Hard: which classes are nearer to a sample than its own class with the margin, decided exactly, and what they count.

Symbols: c cosines; τ the threshold cos φ - m3 that the cosine of a hard class is above; η what replaces it: c (t + c)
with the rule "curricular", (1 + t) c + t with "reweighted". x̂ is x over its length, ŵ the same of w.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from fractions import Fraction

import numpy as np

from refloss.engines.certified.balls import MAX_BITS, Arb, arb
from refloss.engines.certified.exact import IntegerVectors, cancel, sign
from refloss.engines.certified.others import Multiple, OtherClasses, Theta
from refloss.engines.certified.sides import TargetAngle
from refloss.engines.certified.tape import Variable
from refloss.error_free import Array, Integers, Mask
from refloss.stages.negatives import Settings


class HardClasses(OtherClasses):
    """The hard classes of every sample."""

    mask: Mask
    """Which classes are hard (N, C)."""

    def __init__(
        self,
        settings: Settings,
        y: Array,
        vectors: IntegerVectors,
        row_of: Integers,
        angles: Sequence[TargetAngle],
    ):
        super().__init__(y, vectors, row_of)
        self.is_curricular, self.t = settings.rule == "curricular", settings.t
        self.mask = np.zeros(self.others.shape, np.bool_)
        for n, k in np.argwhere(self.others).tolist():
            self.mask[n, k] = self._is_hard(n, k, angles[n])

    def _is_hard(self, n: int, k: int, angle: TargetAngle) -> bool:
        """Whether c > τ."""
        cos = self.cos(n, k)
        dot, squares = self.product(n, k), cos[1].numerator

        def gap() -> Arb:
            return arb(dot) / arb(squares).sqrt() - angle.threshold()

        side = sign(gap, lambda: angle.is_at_threshold(cos))
        if side == 0:
            self.notes[n].append(f"the cosine of class {k} is the threshold of hard classes exactly: it is not hard")
        if side is None:
            self.notes[n].append(
                f"the cosine of class {k} and the threshold of hard classes differ by less than {MAX_BITS} bits tell: "
                "undecided, counted as equal, it is not hard"
            )
        return side == 1

    def eta(self, cos: Variable, theta: Theta) -> Variable:
        """Return cosines (N, C) with those of hard classes replaced; which are hard, and t, are constants."""
        hard = np.nonzero(self.mask)
        if not len(hard[0]):
            return cos
        c, t = cos[hard], arb(self.t)
        return cos.set_at(hard, c * (c + t) if self.is_curricular else c * (t + 1) + t)

    def logit(self, n: int, k: int) -> Hashable:
        """Return c |c|, and whether the class is hard."""
        return self.mask[n, k], super().logit(n, k)

    def slope(self, n: int, k: int) -> Multiple:
        """Return η' / ‖w‖: η' is t + 2c or 1 + t, 1 where the class is not hard."""
        if not self.mask[n, k]:
            return super().slope(n, k)
        if not self.is_curricular:
            return self.square(n, k), Fraction(self.t) + 1
        factor, root = self.cos(n, k)
        is_zero = cancel([(2 * factor, root), (Fraction(self.t), Fraction(1))])  # t + 2c
        return (self.square(n, k), self.signed_square(n, k)), Fraction(not is_zero)

    def along_x(self, n: int, k: int) -> Multiple:
        """Return η - c η': 0 of a cosine, -c², or t."""
        if not self.mask[n, k]:
            return super().along_x(n, k)
        return "1", -abs(self.signed_square(n, k)) if self.is_curricular else Fraction(self.t)
