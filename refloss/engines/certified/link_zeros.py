"""Zeros of losses with a link: an entry of a gradient as a sum of rational vectors times probabilities times roots.

dL/dz is a rational combination of 1 and of sigmoids or probabilities. Those of a group add up to 1: σ(a) and σ(-a), or
the probabilities of a row or column. What else is known of them is not used. True is a proof; False says nothing.

Symbols: those of `links`; X = x·x and W = w·w as integers; c = x·w / √(XW).
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np

from refloss.engines.certified.exact import BigInts, IntegerVectors, Surd, Term, root
from refloss.engines.certified.links import ExactLogits
from refloss.engines.certified.zeros import Proofs
from refloss.error_free import Array, Mask
from refloss.stages.binary_cross_entropy import Settings

Group: TypeAlias = frozenset[tuple[Hashable, int]]
"""Keys of logits, and how often each is there."""


class Probability(NamedTuple):
    """exp(z) over the sum of exp(z) of a group: equal where the fields are."""

    group: Group
    key: Hashable


ONE = Probability(frozenset({("1", 1)}), "1")
"""1, of one logit."""
Combination: TypeAlias = dict[Probability, Fraction]
"""So many times each of these."""


class LinkProofs(Proofs):
    """What holds of gradients dL/dz that are combinations of probabilities."""

    def __init__(self, logits: ExactLogits, vectors: IntegerVectors, upstream: Array):
        super().__init__(np.asarray(upstream == 0.0))
        self.logits, self.vectors = logits, vectors
        self.upstream = [Fraction(u) for u in upstream.tolist()]
        self.gradient = cache(self._gradient)

    @abstractmethod
    def _gradient(self, n: int, k: int) -> Combination:
        """Return dL/dz of a sample and a class, with the upstream gradient in it."""

    def value_is_zero(self, samples: Iterable[int]) -> bool:
        """Return False: such losses are positive, or their balls are 0."""
        return False

    def row_is_zero(self, name: str, row: int) -> Mask:
        """Return where a row of a gradient is proven to be 0."""
        total = Sum()
        for n, k in self._at(name, row):
            roots, vector = self._slope(name, n, k)
            for factor, square in roots:
                if factor and square:
                    total.add(square, self.gradient(n, k), vector * factor)
        return total.is_zero()

    def _at(self, name: str, row: int) -> Iterator[tuple[int, int]]:
        """Which logits depend on the row."""
        samples, classes = self.logits.shape
        return (
            (n, k)
            for n in ([row] if name == "x" else range(samples))
            for k in ([row] if name == "w" else range(classes))
        )

    def _slope(self, name: str, n: int, k: int) -> tuple[Sequence[Term], BigInts]:
        """Return dz as so many roots times a vector, up to a factor that the row has in common.

        dz/dx = s f' (X w - x·w x) / (√W X √X) and dz/dw = s f' (W x - x·w w) / (√X W √W), where f' = p + q √(XW) and
        so f'/√W = p/√W + q √X; dz/ds = f, dz/db = 1.
        """
        if name not in ("x", "w"):
            f = Surd(Fraction(1)) if name == "b" else self.logits.f(n, k)
            return f.terms(), np.array(Fraction(1), object)
        x, _, dots = self.vectors.sample(n)
        own, other = (x, int(x @ x)), (self.vectors.w[k], self.vectors.squares[k])
        if name == "w":
            own, other = other, own
        (vector, square), (other_vector, other_square) = own, other
        p, q, _ = self.logits.slope(n, k)
        roots = (p / other_square, Fraction(other_square)), (q, Fraction(square))
        return roots, other_vector * square - vector * dots[k]


class SigmoidProofs(LinkProofs):
    """dL/dz = -v₊ σ(-z) of the label's class, v₋ σ(z) of others, 0 of logits beyond their bound."""

    def __init__(
        self,
        logits: ExactLogits,
        vectors: IntegerVectors,
        upstream: Array,
        y: Array,
        link: Settings,
        sides: Array,
    ):
        super().__init__(logits, vectors, upstream)
        self.y, self.link, self.sides = y, link, sides

    def _gradient(self, n: int, k: int) -> Combination:
        if self.sides[n, k]:
            return {}
        z, is_label = self.logits.z(n, k), k == self.y[n]
        keys = (z.negative().key, z.key) if is_label else (z.key, z.negative().key)
        weight = -self.link.positive if is_label else self.link.negative
        return {Probability(frozenset(Counter(keys).items()), keys[0]): self.upstream[n] * weight}


class TwoWayProofs(LinkProofs):
    """dL/dz_nk = (u_n (p_nk - [n = k]) + u_k (q_nk - [n = k])) / 2, p those of rows and q of columns, or the first."""

    def __init__(self, logits: ExactLogits, vectors: IntegerVectors, upstream: Array, ways: int):
        super().__init__(logits, vectors, upstream)
        self.ways = ways
        self.row, self.column = cache(self._row), cache(self._column)

    def _row(self, n: int) -> Group:
        return frozenset(Counter(self.logits.z(n, k).key for k in range(len(self.upstream))).items())

    def _column(self, k: int) -> Group:
        return frozenset(Counter(self.logits.z(n, k).key for n in range(len(self.upstream))).items())

    def _gradient(self, n: int, k: int) -> Combination:
        combination: Combination = defaultdict(Fraction)
        for group, sample in ((self.row(n), n), (self.column(k), k))[: self.ways]:
            combination[Probability(group, self.logits.z(n, k).key)] += self.upstream[sample]
            combination[ONE] -= self.upstream[sample] * (n == k)
        return combination


class Sum:
    """A sum of vectors times probabilities times roots."""

    def __init__(self) -> None:
        self._by_root: dict[Fraction, dict[Probability, BigInts]] = {}

    def add(self, square: Fraction, combination: Combination, vector: BigInts) -> None:
        """Add √square times a combination of probabilities times a vector."""
        for other in self._by_root:
            ratio = root(square / other)
            if ratio is not None:
                square, vector = other, vector * ratio
                break
        by_probability = self._by_root.setdefault(square, {})
        for probability, factor in combination.items():
            by_probability[probability] = by_probability.get(probability, 0) + vector * factor

    def is_zero(self) -> Mask:
        """Return where, with every root, the sum is 0: all of a group have the same multiple, these add up to 0."""
        mask = np.array(True)
        for by_probability in self._by_root.values():
            constant = np.array(0, object)
            for group in {probability.group for probability in by_probability}:
                first, *rest = (
                    by_probability.get(Probability(group, key), Fraction(0)) / count for key, count in group
                )
                constant = constant + first
                for other in rest:
                    mask = mask & np.asarray(other == first, np.bool_)
            mask = mask & np.asarray(constant == 0, np.bool_)
        return mask
