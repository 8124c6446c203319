"""Others: the classes that are not the label's, and what is known exactly of their cosines.

Symbols: c cosines; η what replaces c of such a class. x̂ is x over its length, ŵ the same of w.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from functools import cache
from typing import TypeAlias

import numpy as np

from refloss.engines.certified.exact import IntegerVectors, Term
from refloss.engines.certified.tape import Variable
from refloss.error_free import Array, Integers, Mask

Multiple: TypeAlias = tuple[Hashable, Fraction]
"""A rational multiple of a number: a key that no other number has, and the factor."""
ONE: Multiple = "1", Fraction(1)
CONSTANT: Multiple = "1", Fraction(0)
"""The slope of what does not change."""
Theta: TypeAlias = Callable[[Integers, Integers, Sequence[int]], Variable]
"""Angles of samples and classes; of each pair 1 or -1 if they have the same or opposite directions, else 0."""


class OtherClasses:
    """What becomes of the cosines of every sample's other classes: nothing, η = c."""

    others: Mask
    """Which classes are not the label's (N, C)."""
    notes: list[list[str]]
    """Of every sample what is at a boundary or has no tangent."""

    def __init__(self, y: Array, vectors: IntegerVectors, row_of: Integers):
        self._vectors, self._row_of = vectors, row_of
        self.others = np.arange(row_of.shape[1]) != y[:, None]
        self.notes = [[] for _ in y]
        self.signed_square = cache(self._signed_square)

    def product(self, n: int, k: int) -> int:
        """Return x·w of a sample and what stands for a class, as integers."""
        return self._vectors.sample(n).dots[int(self._row_of[n, k])]

    def square(self, n: int, k: int) -> int:
        """Return w·w of what stands for a class, as integers."""
        return self._vectors.squares[int(self._row_of[n, k])]

    def cos(self, n: int, k: int) -> Term:
        """Return c as a rational multiple of a root."""
        x, dot = self._vectors.sample(n).x, self.product(n, k)
        squares = int(x @ x) * self.square(n, k)
        return Fraction(dot, squares), Fraction(squares)

    def _signed_square(self, n: int, k: int) -> Fraction:
        """C |c|: greater where c is, and 1 or -1 where the vectors are parallel."""
        factor, root = self.cos(n, k)
        return factor * abs(factor) * root

    def eta(self, cos: Variable, theta: Theta) -> Variable:
        """Return η of cosines (N, C); what is at the labels is of no account."""
        return cos

    def logit(self, n: int, k: int) -> Hashable:
        """Return a key for η of another class, or c of the label's: equal only where they are, of any samples."""
        return self.signed_square(n, k)

    def slope(self, n: int, k: int) -> Multiple:
        """Return η' / ‖w‖, η' = dη/dc; c is taken for η of the label's class."""
        return self.square(n, k), Fraction(1)

    def target_slope(self, n: int, k: int) -> Multiple:
        """Return dψ/dc / ‖w‖ of the label's class; only its key, where it is no rational multiple of another."""
        return "target", Fraction(1)

    def along_x(self, n: int, k: int) -> Multiple:
        """Return r in d(‖x‖ η)/dx = η' ŵ + r x̂, η - c η'."""
        return CONSTANT
