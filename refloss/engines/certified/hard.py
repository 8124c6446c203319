"""Hard: which classes are nearer to a sample than its own class with the margin, decided exactly, and what they count.

Symbols: c cosines; τ the threshold cos φ - m3 that the cosine of a hard class is above; η what replaces it: c (t + c)
with the rule "curricular", (1 + t) c + t with "reweighted". x̂ is x over its length, ŵ the same of w.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from fractions import Fraction

import numpy as np

from refloss.engines.certified.balls import MAX_BITS, Arb, arb
from refloss.engines.certified.exact import IntegerVectors, Term, cancel, sign
from refloss.engines.certified.sides import TargetAngle
from refloss.engines.certified.tape import Variable
from refloss.error_free import Array, Mask
from refloss.stages.negatives import Settings


class HardClasses:
    """The hard classes of every sample."""

    mask: Mask
    """Which classes are hard (N, C)."""

    def __init__(self, settings: Settings, y: Array, vectors: IntegerVectors, angles: Sequence[TargetAngle]):
        self.is_curricular, self.t, self.vectors = settings.rule == "curricular", settings.t, vectors
        self.mask = np.zeros((len(y), len(vectors.squares)), np.bool_)
        for n, k in np.ndindex(self.mask.shape):
            self.mask[n, k] = k != y[n] and self._is_hard(n, k, angles[n])

    def _is_hard(self, n: int, k: int, angle: TargetAngle) -> bool:
        """Whether c > τ."""
        cos = self.cos(n, k)
        dot, squares = self.vectors.sample(n).dots[k], cos[1].numerator

        def gap() -> Arb:
            return arb(dot) / arb(squares).sqrt() - angle.threshold()

        side = sign(gap, lambda: angle.is_at_threshold(cos))
        if side == 0:
            angle.notes.append(f"the cosine of class {k} is the threshold of hard classes exactly: it is not hard")
        if side is None:
            angle.notes.append(
                f"the cosine of class {k} and the threshold of hard classes differ by less than {MAX_BITS} bits tell: "
                "undecided, counted as equal, it is not hard"
            )
        return side == 1

    def cos(self, n: int, k: int) -> Term:
        """Return c as a rational multiple of a root."""
        x, _, dots = self.vectors.sample(n)
        squares = int(x @ x) * self.vectors.squares[k]
        return Fraction(dots[k], squares), Fraction(squares)

    def eta(self, cos: Variable) -> Variable:
        """Return cosines (N, C) with those of hard classes replaced; which are hard, and t, are constants."""
        hard = np.nonzero(self.mask)
        if not len(hard[0]):
            return cos
        c, t = cos[hard], arb(self.t)
        return cos.set_at(hard, c * (c + t) if self.is_curricular else c * (t + 1) + t)

    def slope(self, n: int, k: int) -> Hashable:
        """Return a key for dη/dc, 0 where that is 0: equal only where the slopes are."""
        if not self.mask[n, k]:
            return Fraction(1)
        if not self.is_curricular:
            return Fraction(self.t) + 1
        factor, root = self.cos(n, k)
        is_zero = cancel([(2 * factor, root), (Fraction(self.t), Fraction(1))])  # t + 2c
        return Fraction(0) if is_zero else (factor > 0, factor**2 * root)

    def along_x(self, n: int, k: int) -> Fraction:
        """Return r in d(‖x‖ η)/dx = η' ŵ + r x̂, η - c η': 0 of a cosine, t, or -c²."""
        if not self.mask[n, k]:
            return Fraction(0)
        factor, root = self.cos(n, k)
        return -(factor**2) * root if self.is_curricular else Fraction(self.t)
