"""Losses on scaled cosines that do not end in one cross entropy: of every class by itself, or of pairs in two ways."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from mpmath import mp, mpf

from support.exact.cross_entropies import Row
from support.exact.heads import Head, name_of
from support.exact.numbers import Reals, exact, places, sine_of
from support.exact.others import signed_square


def head_of(loss: Any, *inputs: Any, upstream: Any = None) -> Head:
    """A loss on x and w at its inputs; what follows the value counts in rows that are not told apart by samples."""
    match name_of(loss):
        case "SphereFace2" | "UniFace":
            x, w, y, b = (*inputs, None)[:4]
            return Questions(loss, x, w, y, b=b, upstream=upstream)
        case "SigLIP":
            x, w, t, b = inputs
            return Questions(loss, x, w, np.arange(len(x)), scale={"t": t}, b=b, upstream=upstream)
        case "InfoNCE":
            x, w, s = inputs
            return Pairs(loss, x, w, scale={"s": s}, upstream=upstream)
        case _:
            return Head(loss, *inputs)


class Linked(Head):
    """What both kinds share: inputs that are one number each, and what each row counts in what follows."""

    def __init__(self, loss: Any, x: Any, w: Any, y: Any, scale: Mapping[str, Any] | None, upstream: Any):
        scale = scale or {}
        super().__init__(loss, x, w, y, scale=next(iter(scale.values()), None))
        self.numbers = {name: exact(value)[()] for name, value in scale.items()}
        self.coefficients = self.batch.coefficients(upstream)

    def shallow(self, n: int) -> list[int]:
        sample, others = self.sample(n), self.others[n]
        sizes = [
            others.size(k, sine_of(sample.x, w), sample.angle_to(k, dot), True)
            for k, (w, dot) in enumerate(zip(sample.classes, sample.dots, strict=True))
        ]
        return [places(1 / size) if size else 0 for size in sizes]

    def slopes_of(self, name: str, n: int) -> Reals:
        """How much each logit of a row moves with a number."""
        return list(self.sample(n).f)


class Questions(Linked):
    """Binary cross entropy of all classes, and a bias, which UniFace takes off. Logits may be held within a bound.

    Which are beyond it is decided by squares of cosines, in rational numbers. At the bound a logit still moves.
    """

    def __init__(self, loss: Any, x: Any, w: Any, y: Any, scale: Any = None, b: Any = None, upstream: Any = None):
        super().__init__(loss, x, w, y, scale, upstream)
        self.sign = -1 if name_of(loss) == "UniFace" else 1
        self.numbers |= {} if b is None else {"b": exact(b)[()]}
        self.shift = Fraction(self.sign * float(b or 0.0))
        self.of_weights = weights_of(loss)
        self.m3 = Fraction(getattr(loss, "m", 0.0))
        self.bound = Fraction(loss.s) if name_of(loss) == "UniFace" else None

    def slopes_of(self, name: str, n: int) -> Reals:
        return [mpf(self.sign)] * self.shape[1] if name == "b" else super().slopes_of(name, n)

    def size(self, n: int) -> mpf:
        return super().size(n) + abs(mpf(self.shift.numerator) / self.shift.denominator)

    def side(self, n: int, k: int) -> int:
        """1 for a logit above the bound, -1 for one below its negative, 0 for all others."""
        if self.bound is None:
            return 0
        square = signed_square(self.samples[n], self.classes(n)[k])
        m = self.m3 if k == self.labels[n] else 0
        high, low = ((side * self.bound - self.shift) / self.bound + m for side in (1, -1))
        return (square > high * abs(high)) - (square < low * abs(low))

    def row(self, n: int, weights: Any = None) -> Answers:
        shift = mpf(self.shift.numerator) / self.shift.denominator
        z = [number + shift for number in self.logits(n)]
        held = {k: side for k in range(len(z)) if (side := self.side(n, k))}
        for k, side in held.items():
            z[k] = side * mpf(self.bound.numerator) / self.bound.denominator
        return Answers(z, int(self.labels[n]), self.of_weights, self.coefficients[n], frozenset(held))


def weights_of(loss: Any) -> tuple[mpf, mpf]:
    """What the answer of the target and those of all others are multiplied by."""
    match name_of(loss):
        case "SphereFace2":
            alpha, share = mp.convert(loss.alpha), mp.convert(loss.weight) / mp.convert(loss.s)
            return alpha * share, (1 - alpha) * share
        case "UniFace":
            return mpf(1), mp.convert(loss.l)
        case _:
            return mpf(1), mpf(1)


class Answers:
    """The loss of a row: softplus(-z) of the target and softplus(z) of all others, each with its weight."""

    def __init__(self, z: Reals, label: int, weights: tuple[mpf, mpf], coefficient: mpf, held: frozenset[int]):
        self.a = [-number if k == label else number for k, number in enumerate(z)]
        self.signs = [-1 if k == label else 1 for k in range(len(z))]
        self.weights = [weights[k != label] for k in range(len(z))]
        self.coefficient, self.held = coefficient, held

    def value(self) -> mpf:
        return mp.fsum(v * mp.log1p(mp.exp(a)) for v, a in zip(self.weights, self.a, strict=True))

    def change(self, k: int, down: mpf, up: mpf) -> mpf:
        """What follows the loss at z_k + up less that at z_k + down, right relative to itself."""
        if k in self.held:
            return mpf(0)
        low, high = self.signs[k] * down, self.signs[k] * up
        sigma = 1 / (1 + mp.exp(-(self.a[k] + low)))
        return self.coefficient * self.weights[k] * mp.log1p(sigma * mp.expm1(high - low))

    def change_of_all(self, down: Reals, up: Reals) -> mpf:
        return mp.fsum(self.change(k, *ends) for k, ends in enumerate(zip(down, up, strict=True)))

    def terms(self, k: int, one_label: bool) -> mpf:
        """The size of the derivative, over a step of a third of the digits in use."""
        step = mpf(2) ** (-mp.prec // 3)
        return abs(self.change(k, -step, step) / (2 * step))


class Pairs(Linked):
    """InfoNCE: cross entropy of rows, and of columns too, whose own logits are the targets."""

    def __init__(self, loss: Any, x: Any, w: Any, scale: Any, upstream: Any):
        super().__init__(loss, x, w, np.arange(len(x)), scale, upstream)
        self.ways = loss.ways
        self.known: tuple[int, list[Row], list[Row]] = (0, [], [])

    def row(self, n: int, weights: Any = None) -> Ways:
        if self.known[0] != mp.prec:
            z = [self.logits(sample) for sample in range(self.shape[0])]
            columns = list(zip(*z, strict=True))
            self.known = mp.prec, *([Row(list(line), {n: mpf(1)}) for n, line in enumerate(it)] for it in (z, columns))
        _, rows, columns = self.known
        return Ways(n, rows[n], columns if self.ways == 2 else [], self.coefficients)


class Ways:
    """The loss of a pair; and how all losses change with its row of logits, each of which is in a column as well."""

    def __init__(self, n: int, row: Row, columns: list[Row], coefficients: Reals):
        self.n, self.own, self.columns, self.coefficients = n, row, columns, coefficients

    @cached_property
    def share(self) -> mpf:
        """What one way counts."""
        return mpf(1) / 2 if self.columns else mpf(1)

    def value(self) -> mpf:
        return self.share * (self.own.value() + (self.columns[self.n].value() if self.columns else 0))

    def change(self, k: int, down: mpf, up: mpf) -> mpf:
        """What follows the losses at z_nk + up less that at z_nk + down."""
        of_row = self.coefficients[self.n] * self.own.change(k, down, up)
        return self.share * (of_row + self._of_columns({k: (down, up)}))

    def change_of_all(self, down: Reals, up: Reals) -> mpf:
        of_row = self.coefficients[self.n] * self.own.change_of_all(down, up)
        return self.share * (of_row + self._of_columns(dict(enumerate(zip(down, up, strict=True)))))

    def _of_columns(self, steps: Mapping[int, tuple[mpf, mpf]]) -> mpf:
        if not self.columns:
            return mpf(0)
        return mp.fsum(self.coefficients[k] * self.columns[k].change(self.n, *ends) for k, ends in steps.items())

    def terms(self, k: int, one_label: bool) -> mpf:
        """The sizes of the derivatives of both ways."""
        of_row = abs(self.coefficients[self.n] * self.own.slope(k))
        of_column = abs(self.coefficients[k] * self.columns[k].slope(self.n)) if self.columns else 0
        return self.share * (of_row + of_column)
