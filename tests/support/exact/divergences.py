"""Divergences row by row: from the definition, in so many digits that what cancels leaves enough of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mpmath import mp, mpf

from support.exact.cross_entropies import Base, Batch, undefined
from support.exact.numbers import GUARD, INFINITY, NAN, Array, Reals, exact, filled, places, settle

DEEPEST = 400
"""Decimal places of the smallest probability whose gradient is told from 0; float64 ends at 324."""
NAMES = ("z", "target")


class Divergence:
    """The divergence of the softmax of z from that of t, and how it changes with a logit.

    A row in which a class has a probability on the weighing side alone has an infinite loss. Its gradients are limits,
    taken with the masked logits of the other side at one number far below the others, and at twice that.
    """

    def __init__(self, z: Reals, t: Reals, form: str):
        self.form, self.rows = form, (z, t)
        self.undefined = undefined(z) or undefined(t)
        self.weighing = {"forward": 1, "reverse": 0}.get(form, -1)
        self.infinite, self.alone = False, list[int]()
        if self.undefined:
            return
        if self.weighing >= 0:
            own, other = self.rows[self.weighing], self.rows[1 - self.weighing]
            self.alone = [k for k in range(len(z)) if own[k] > -INFINITY and other[k] == -INFINITY]
        self.infinite = bool(self.alone)

    def probabilities(self) -> tuple[Reals, Reals]:
        """q and p."""
        q, p = ([mp.exp(number) for number in logarithms(row)] for row in self.rows)
        return q, p

    def apart(self) -> mpf:
        """V, the sum of |q - p|."""
        q, p = self.probabilities()
        return mp.fsum(abs(a - b) for a, b in zip(q, p, strict=True))

    def value(self, digits: int) -> mpf:
        if self.undefined:
            return NAN
        return INFINITY if self.infinite else settle(lambda: definition(*self.rows, self.form), digits)

    def slope(self, side: int, k: int, digits: int) -> mpf:
        """The derivative in a logit: a central difference, or the limit where the loss is infinite."""
        if self.undefined:
            return NAN
        if self.rows[side][k] == -INFINITY and not (self.infinite and side != self.weighing and k in self.alone):
            return mpf(0)
        if not self.infinite:
            return self._difference(self.rows, side, k, digits)
        near, far = (self._difference(self._at_depth(depth), side, k, digits) for depth in (10**5, 2 * 10**5))
        return near if abs(far - near) < mpf(10) ** -digits else INFINITY * mp.sign(far - near)

    def _at_depth(self, depth: int) -> tuple[Reals, Reals]:
        rows = [list(row) for row in self.rows]
        other = rows[1 - self.weighing]
        lowest = min(number for number in other if mp.isfinite(number))
        for k in self.alone:
            other[k] = lowest - depth
        return rows[0], rows[1]

    def _difference(self, rows: tuple[Reals, Reals], side: int, k: int, digits: int) -> mpf:
        """Truncation is of the order of h² times the logit's own probability, and V times that is not to be lost."""
        with mp.workdps(digits + DEEPEST + GUARD):
            q, p = ([mp.exp(number) for number in logarithms(row)] for row in rows)
            apart = mp.fsum(abs(a - b) for a, b in zip(q, p, strict=True))
            if apart < mpf(10) ** -DEEPEST:
                return mpf(0)
            small, deep = places(1 / apart), min(places(1 / (q, p)[side][k]), DEEPEST)
        tens = (digits + small) // 2 + 6
        size = max(places(abs(number)) for row in rows for number in row if mp.isfinite(number))
        with mp.workdps(digits + tens + small + deep + size + GUARD):
            step, ends = mpf(10) ** -tens, []
            for sign in (-1, 1):
                moved = [list(row) for row in rows]
                moved[side][k] += sign * step
                ends.append(definition(moved[0], moved[1], self.form))
            return (ends[1] - ends[0]) / (2 * step)

    def terms(self, side: int, k: int) -> mpf:
        """The absolute terms of a gradient, see `refloss.error_bound`."""
        if self.undefined:
            return NAN
        with mp.workdps(DEEPEST + 2 * GUARD):
            q, p = self.probabilities()
            logs = [logarithms(row) for row in self.rows]
            apart, loss = self.apart(), self.value(GUARD)
            own, other = (q, p) if side == 0 else (p, q)
            if self.form == "jensen-shannon":
                return own[k] * (over_mean(own, other, k) + to_mean(own, other) + apart) / 2 if own[k] else mpf(0)
            if side != self.weighing:
                return abs(q[k] - p[k]) + max(q[k], p[k]) * apart
            return own[k] * (abs(logs[0][k] - logs[1][k]) + loss + apart) if own[k] else mpf(0)


def logarithms(row: Reals) -> Reals:
    base = Base.of(row)
    return [(number - row[base.k]) - mp.log1p(base.others) for number in row]


def definition(z: Reals, t: Reals, form: str) -> mpf:
    """KL(p||q), KL(q||p), or the mean of KL(p||m) and KL(q||m); 0 log 0 is 0."""
    log_q, log_p = logarithms(z), logarithms(t)
    if form == "forward":
        return mp.fsum(mp.exp(b) * (b - a) for a, b in zip(log_q, log_p, strict=True) if b > -INFINITY)
    if form == "reverse":
        return mp.fsum(mp.exp(a) * (a - b) for a, b in zip(log_q, log_p, strict=True) if a > -INFINITY)
    q, p = ([mp.exp(number) for number in row] for row in (log_q, log_p))
    return (to_mean(q, p) + to_mean(p, q)) / 2


def to_mean(own: Reals, other: Reals) -> mpf:
    """KL(own||m)."""
    return mp.fsum(a * mp.log(2 * a / (a + b)) for a, b in zip(own, other, strict=True) if a)


def over_mean(own: Reals, other: Reals, k: int) -> mpf:
    return abs(mp.log(2 * own[k] / (own[k] + other[k])))


class DivergenceBatch:
    """The rows of a divergence, and how they are reduced."""

    def __init__(self, z: Any, target: Any, form: str, reduction: str):
        self.z, self.target = exact(z), exact(target)
        self.size = self.z.shape[-1]
        count = self.z.size // self.size
        self.batch = Batch.plain(count, reduction)._replace(shape=self.z.shape[:-1])
        both = (array.reshape(-1, self.size) for array in (self.z, self.target))
        self.rows = [Divergence(list(a), list(b), form) for a, b in zip(*both, strict=True)]

    def value(self, digits: int) -> Any:
        return self.batch.reduce([row.value(digits) for row in self.rows])

    def filled(self, entry: Callable[[Divergence, int, int], mpf], coefficients: Reals) -> dict[str, Array]:
        """An array for each side, of an entry of every row and class times the row's coefficient."""
        arrays = {}
        for side, name in enumerate(NAMES):
            array = filled((len(self.rows), self.size), NAN)
            for n, k in np.ndindex(array.shape):
                number = entry(self.rows[n], side, k)
                array[n, k] = mpf(0) if coefficients[n] == 0 and mp.isinf(number) else coefficients[n] * number
            arrays[name] = array.reshape(self.z.shape)
        return arrays
