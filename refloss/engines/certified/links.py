"""Links: what follows the logits of scaled cosines, sigmoids of single ones or softmaxes of rows and of columns.

Cosines are rational multiples of roots of rational numbers, and so are logits but for a rational number: on which side
of a bound one is, and which are equal, are questions about integers.

Symbols: c cosines; z = s f(c) + b logits; f(c) = g(c) - m of the label's class, g(c) + m of others with the rule
"power", c otherwise; b the bias; K the bound of logits; v₊, v₋ weights of the label's class and of others.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from refloss.engines.certified.balls import arb, exact_balls, rational
from refloss.engines.certified.exact import Surd
from refloss.engines.certified.heads import Recorded, Scored, cross_entropy
from refloss.engines.certified.others import OtherClasses
from refloss.engines.certified.tape import Tape, Variable
from refloss.engines.certified.targets import Targets
from refloss.engines.spec import Arrays, Margin
from refloss.error_free import Array
from refloss.stages.binary_cross_entropy import Settings


class ExactLogits:
    """Logits of samples and classes, exact numbers."""

    def __init__(self, spec: Margin, arrays: Arrays, others: OtherClasses, bias_sign: int = 1):
        self._spec, self._others, self._y = spec, others, arrays["y"]
        self.shape = others.others.shape
        scale: Any = spec.scale if spec.scale_input is None else arrays[spec.scale_input]
        self._scale = Fraction(float(scale))
        self._bias = bias_sign * Fraction(float(arrays.get("b", 0.0)))
        self.z = cache(self._z)

    def _z(self, n: int, k: int) -> Surd:
        """Return z."""
        return self.f(n, k).times(self._scale).plus(self._bias)

    def f(self, n: int, k: int) -> Surd:
        """Return f(c)."""
        c, margin, angles = self.cos(n, k), self._spec.margin, self._spec.class_angles
        g = c if angles is None else _power(c, angles.k).times(Fraction(2)).plus(Fraction(-1))
        if k == self._y[n]:
            return g.plus(-Fraction(float(margin.m3)))
        return g if angles is None else g.plus(Fraction(angles.m))

    def slope(self, n: int, k: int) -> Surd:
        """Return df/dc."""
        angles = self._spec.class_angles
        if angles is None or angles.gradient == "detached":
            return Surd(Fraction(1))
        return _power(self.cos(n, k), angles.k - 1).times(Fraction(angles.k))

    def cos(self, n: int, k: int) -> Surd:
        """Return c."""
        return Surd(Fraction(0), *self._others.cos(n, k))


def _power(c: Surd, exponent: int) -> Surd:
    """((1 + c)/2)ᵏ."""
    half, power = c.plus(Fraction(1)).times(Fraction(1, 2)), Surd(Fraction(1), Fraction(0), c.square)
    for _ in range(exponent):
        power = power.product(half)
    return power


class Held(NamedTuple):
    """Which logits are beyond their bound."""

    sides: Array
    """1 above K, -1 below -K, 0 between and at either (N, C)."""
    notes: list[list[str]]
    """Of every sample the classes whose logits are at a bound."""


def held(logits: ExactLogits, bound: float | None) -> Held:
    """Decide on which side of its bound every logit is."""
    sides, notes = np.zeros(logits.shape), [list[str]() for _ in range(logits.shape[0])]
    if bound is not None:
        for n, k in np.ndindex(logits.shape):
            z = logits.z(n, k)
            above, below = (z.plus(side * Fraction(bound)).side for side in (-1, 1))
            sides[n, k] = (above > 0) - (below < 0)
            if 0 in (above, below):
                notes[n].append(f"the logit of class {k} is at its bound exactly: the slope within is used")
    return Held(sides, notes)


def sigmoid(tape: Tape, scored: Scored, arrays: Arrays, link: Settings, sides: Array) -> Recorded:
    """L = v₊ softplus(-z_y) + v₋ Σ_{k≠y} softplus(z_k), z held between -K and K."""
    leaves, z = scored.leaves, scored.z
    if "b" in arrays:
        b = leaves["b"] = tape.leaf(arrays["b"])
        z = z - b if link.bias_sign < 0 else z + b
    beyond = np.nonzero(sides)
    if link.bound is not None:
        z = z.set_at(beyond, exact_balls(sides[beyond] * link.bound))
    label = np.arange(z.value.shape[1]) == arrays["y"][:, None]
    weights = np.array([rational(link.negative), rational(link.positive)], object)[label.astype(np.intp)]
    return Recorded(leaves, (softplus(z * exact_balls(np.where(label, -1.0, 1.0))) * weights).sum(axis=1))


def softplus(a: Variable) -> Variable:
    """max(a, 0) + log(1 + exp(-|a|)): with the other sign of a it is true, too."""
    positive = np.array([[ball > 0 for ball in row] for row in a.value.tolist()])
    e = (a * exact_balls(np.where(positive, -1.0, 1.0))).exp()
    return e.log1p() + a * exact_balls(np.where(positive, 1.0, 0.0))


def two_way(scored: Scored, targets: Targets, ways: int) -> Recorded:
    """The cross entropy of rows of logits (N, N), or the mean of that of rows and of columns."""
    losses, _ = cross_entropy(scored.z, targets)
    if ways == 2:
        n = np.arange(len(targets.share))
        of_columns, _ = cross_entropy(scored.z[n, n[:, None]], targets)
        losses = (losses + of_columns) / arb(2)
    return Recorded(scored.leaves, losses)
