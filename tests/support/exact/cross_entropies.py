"""Cross entropy row by row: targets, reduction, and the loss of a row as its logits move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from mpmath import mp, mpf

from support.exact.numbers import INFINITY, NAN, Reals, exact, places


class Base(NamedTuple):
    """A row of logits seen from one of them (by default the largest): exp(z_k - z_base), its sum over the others."""

    k: int
    ratios: Reals
    others: mpf

    @classmethod
    def of(cls, z: Sequence[mpf], base: int | None = None) -> Base:
        k = max(range(len(z)), key=lambda j: z[j]) if base is None else base
        ratios = [mpf(1) if j == k else mp.exp(number - z[k]) for j, number in enumerate(z)]
        return cls(k, ratios, mp.fsum(ratio for j, ratio in enumerate(ratios) if j != k))

    def log_sum(self) -> mpf:
        """The log of the sum of exp(z_j - z_base)."""
        return mp.log1p(self.others)

    def changes(self, steps: Mapping[int, tuple[mpf, mpf]]) -> tuple[mpf, mpf]:
        """What that is more at the lower end of steps than unmoved, and at the upper end than at the lower."""
        low, difference = self._sums(steps)
        return mp.log1p(low / (1 + self.others)), mp.log1p(difference / (1 + self.others + low))

    def change(self, steps: Mapping[int, tuple[mpf, mpf]]) -> mpf:
        """The second of these alone."""
        low, difference = self._sums(steps)
        return mp.log1p(difference / (1 + self.others + low))

    def _sums(self, steps: Mapping[int, tuple[mpf, mpf]]) -> tuple[mpf, mpf]:
        """The same of the sum of the exponentials."""
        down_base, up_base = steps.get(self.k, (mpf(0), mpf(0)))
        moving = [(self.ratios[k], *step) for k, step in steps.items() if k != self.k and self.ratios[k]]
        if down_base or up_base:
            moving.append((self.others - mp.fsum(ratio for ratio, *_ in moving), mpf(0), mpf(0)))
        gaps = [(ratio, down - down_base, up - up_base) for ratio, down, up in moving]
        low = mp.fsum(ratio * mp.expm1(down) for ratio, down, _ in gaps)
        difference = mp.fsum(ratio * mp.exp(down) * mp.expm1(up - down) for ratio, down, up in gaps)
        return low, difference


def undefined(z: Iterable[mpf]) -> bool:
    """Whether a softmax of these has no value: a NaN, a +inf, or every class masked by -inf."""
    return any(mp.isnan(number) or number == INFINITY for number in z) or all(number == -INFINITY for number in z)


class Settings(NamedTuple):
    """The cross-entropy settings of a loss."""

    label_smoothing: float = 0.0
    class_weight: Sequence[float] | None = None
    ignore_index: int | None = None
    reduction: str = "mean"
    logit_scale: float = 1.0
    softcap: float | None = None
    z_loss: float = 0.0

    @classmethod
    def of(cls, loss: Any) -> Settings:
        return cls(*(getattr(loss, name, default) for name, default in cls._field_defaults.items()))

    @property
    def cap(self) -> Cap:
        return Cap(mp.convert(self.logit_scale), None if self.softcap is None else mp.convert(self.softcap))


class Cap(NamedTuple):
    """What becomes of a logit before the softmax: K tanh(sigma z / K), or sigma z without a K."""

    scale: mpf = mpf(1)
    most: mpf | None = None

    def of(self, z: mpf) -> mpf:
        if self.most is None:
            return self.scale * z
        return mp.sign(z) * self.most if mp.isinf(z) else self.most * mp.tanh(self.scale * z / self.most)

    def change(self, z: mpf, step: mpf) -> mpf:
        """What a step of z adds, right relative to itself: tanh a - tanh b = sinh(a - b) / (cosh a cosh b)."""
        if self.most is None:
            return self.scale * step
        if mp.isinf(z):
            return mpf(0)
        a, b = (self.scale * number / self.most for number in (z + step, z))
        return self.most * mp.sinh(self.scale * step / self.most) / (mp.cosh(a) * mp.cosh(b))

    def steepness(self) -> mpf:
        """Steps of a logit are to be small against 1 over this."""
        return max(mpf(1), self.scale) * (1 if self.most is None else max(mpf(1), 1 / self.most))

    def size(self, z: mpf) -> mpf:
        """How large the numbers are that a logit becomes, and that tanh is taken of."""
        return abs(self.scale * z) * (1 if self.most is None else max(mpf(1), 1 / self.most))

    def places(self, z: Iterable[mpf]) -> int:
        """The digits before the point of these; none where logits stay as they are."""
        changed = self != Cap()
        return places(max((self.size(number) for number in z if changed and mp.isfinite(number)), default=mpf(0)))


class Weights(NamedTuple):
    """What a row counts: its loss, the square of its log-sum-exp and the log-sum-exp itself."""

    loss: mpf = mpf(1)
    square: mpf = mpf(0)
    lse: mpf = mpf(0)


class Batch(NamedTuple):
    """The targets t_k of every row, and how rows are reduced."""

    targets: list[dict[int, mpf] | None]  # weights and smoothing included, zeros left out; None for an ignored row
    divisor: mpf  # of "mean"
    shape: tuple[int, ...]  # of "none"
    reduction: str
    one_label: bool  # whether each row's loss is that of one label alone
    z_loss: mpf = mpf(0)

    @classmethod
    def of(cls, y: Any, shape: tuple[int, ...], settings: Settings) -> Batch:
        """From labels (z's shape without its last axis) or probabilities (z's shape)."""
        array = np.asarray(y)
        eps, size = mp.convert(float(settings.label_smoothing)), shape[-1]
        weights = list(exact(np.ones(size) if settings.class_weight is None else settings.class_weight))
        z_loss = mp.convert(float(settings.z_loss))

        def weighted(row: Iterable[mpf]) -> dict[int, mpf]:
            smoothed = (weight * ((1 - eps) * t + eps / size) for weight, t in zip(weights, row, strict=True))
            return {k: t for k, t in enumerate(smoothed) if t}

        if array.shape == tuple(shape):
            probabilities = exact(array).reshape(-1, size)
            targets = [weighted(row) for row in probabilities]
            return cls(list(targets), mpf(len(targets)), shape[:-1], settings.reduction, False, z_loss)
        if array.shape != tuple(shape[:-1]) or array.dtype.kind not in "iu":
            message = f"y {array.shape} {array.dtype} is neither labels nor probabilities for logits {shape}"
            raise ValueError(message)
        labels = [None if label == settings.ignore_index else label for label in array.reshape(-1).tolist()]
        return cls(
            [None if label is None else weighted(mpf(k == label) for k in range(size)) for label in labels],
            mp.fsum(weights[label] for label in labels if label is not None),
            shape[:-1],
            settings.reduction,
            one_label=eps == 0,
            z_loss=z_loss,
        )

    @classmethod
    def plain(cls, count: int, reduction: str) -> Batch:
        """Rows without targets, all counting the same."""
        return cls([{}] * count, mpf(count), (count,), reduction, one_label=True)

    def absolute(self) -> Batch:
        """The magnitudes of targets and divisor."""
        targets = [None if row is None else {k: abs(t) for k, t in row.items()} for row in self.targets]
        return self._replace(targets=targets, divisor=abs(self.divisor))

    def reduce(self, losses: list[mpf], terms: list[mpf] | None = None) -> Any:
        """The value from the losses of the rows and, with a z-loss or MagFace's regularizer, their terms beside."""
        terms = terms or [mpf(0)] * len(losses)
        if self.reduction == "none":
            result = np.empty(len(losses), dtype=object)
            result[:] = [loss + term for loss, term in zip(losses, terms, strict=True)]
            return result.reshape(self.shape)
        total = mp.fsum(losses)
        if self.reduction == "sum":
            return total + mp.fsum(terms)
        return (total / self.divisor if self.divisor else NAN) + mp.fsum(terms) / self.count

    @property
    def count(self) -> int:
        """The number of rows that count, at least 1."""
        return max(1, sum(targets is not None for targets in self.targets))

    def coefficients(self, upstream: Any) -> Reals:
        """What a row's own gradient is multiplied by: the reduction and the upstream gradient."""
        return self._shares(upstream, self.divisor)

    def _shares(self, upstream: Any, divisor: mpf) -> Reals:
        upstream = mpf(1) if upstream is None else exact(upstream)
        if self.reduction == "none":
            return list(np.broadcast_to(upstream, self.shape).reshape(-1))
        number = upstream if isinstance(upstream, mpf) else upstream.item()
        if self.reduction == "mean":
            number = number / divisor if divisor else NAN
        return [mpf(0) if targets is None else number for targets in self.targets]

    def of_terms(self, upstream: Any) -> Reals:
        """What a row's terms beside its loss are multiplied by: no class weight counts."""
        return self._shares(upstream, mpf(self.count))

    def weights(self, upstream: Any, upstream_lse: Any = None) -> list[Weights]:
        """What every row counts in what follows the loss."""
        squares = [self.z_loss * share for share in self.of_terms(upstream)]
        of_lse = exact(np.zeros(len(self.targets)) if upstream_lse is None else upstream_lse).reshape(-1)
        return [Weights(*each) for each in zip(self.coefficients(upstream), squares, of_lse, strict=True)]


class Row:
    """The cross entropy of one row of logits, and how it changes when logits move.

    L = sum over k of t_k log(sum over j of exp(z_j - z_k)), written from a base class b so that nothing cancels:
    L = T log1p(sum over j != b of exp(z_j - z_b)) + sum over k of t_k (z_b - z_k). A single target is its own base.
    What follows the loss is the loss times its weight, with the log-sum-exp and its square times theirs.
    """

    def __init__(self, z: Reals, targets: Mapping[int, mpf], weights: Weights | None = None, cap: Cap | None = None):
        self.targets, self.weights, self.cap, self.given = targets, weights or Weights(), cap or Cap(), z
        self.total = mp.fsum(targets.values())
        self.size = mp.fsum(abs(t) for t in targets.values())
        z = [self.cap.of(number) for number in z]
        self.undefined = undefined(z)
        self.masked = {k for k in targets if z[k] == -INFINITY}
        self.infinite = not self.undefined and bool(self.masked)
        if self.undefined:
            return
        if self.infinite:  # the loss is inf; its gradient is the limit, taken far below the other logits
            depth = min(number for number in z if mp.isfinite(number)) - 10**5
            z = [depth if k in targets and number == -INFINITY else number for k, number in enumerate(z)]
        self.z = z
        self.base = Base.of(z, next(iter(targets)) if len(targets) == 1 else None)

    @cached_property
    def largest(self) -> Base:
        """The sum of exponentials as seen from the largest logit."""
        return self.base if self.base.k == max(range(len(self.z)), key=self.z.__getitem__) else Base.of(self.z)

    @cached_property
    def alone(self) -> Row:
        """The same without what follows the log-sum-exp."""
        return Row(self.given, self.targets, Weights(self.weights.loss), self.cap)

    def value(self) -> mpf:
        if self.undefined or self.infinite:
            signs = {mp.sign(t) for k, t in self.targets.items() if k in self.masked}
            return NAN if self.undefined or len(signs) > 1 else INFINITY * signs.pop()
        gaps = (t * (self.z[self.base.k] - self.z[k]) for k, t in self.targets.items() if k != self.base.k)
        return self.total * self.base.log_sum() + mp.fsum(gaps)

    def lse(self) -> mpf:
        """The log-sum-exp."""
        return NAN if self.undefined else self.z[self.largest.k] + self.largest.log_sum()

    def square(self, absolute: bool = False) -> mpf:
        """Its square; or with what it is added up from, see `lse_terms`."""
        lse = self.lse()
        return lse**2 + (2 * abs(lse) * self.lse_terms() if absolute else 0)

    def lse_terms(self) -> mpf:
        """1 + |M| + log1p(.): the size of what a log-sum-exp is added up from."""
        return NAN if self.undefined else 1 + abs(self.z[self.largest.k]) + self.largest.log_sum()

    def change(self, k: int, down: mpf, up: mpf) -> mpf:
        """What follows the loss at z_k + up less that at z_k + down, the other logits unmoved."""
        steps = {k: tuple(self.cap.change(self.given[k], step) for step in (down, up))}
        return self._change(steps)

    def change_of_all(self, down: Reals, up: Reals) -> mpf:
        """What follows the loss at z + up less that at z + down, every logit moving."""
        moves = enumerate(zip(self.given, down, up, strict=True))
        return self._change({k: (self.cap.change(z, low), self.cap.change(z, high)) for k, (z, low, high) in moves})

    def _change(self, steps: Mapping[int, tuple[mpf, mpf]]) -> mpf:
        """From the steps down and up of capped logits."""
        if self.undefined:
            return NAN
        of_loss, square, of_lse = self.weights
        change = of_loss * self._loss_change(steps)
        if square or of_lse:
            low, difference = self._lse_changes(steps)
            change += (of_lse + square * (2 * (self.lse() + low) + difference)) * difference
        return change

    def _loss_change(self, steps: Mapping[int, tuple[mpf, mpf]]) -> mpf:
        b, log_change = self.base.k, self.base.change(steps)
        down_b, up_b = steps.get(b, (mpf(0), mpf(0)))
        straight = [-self.targets[k] * (up - down) for k, (down, up) in steps.items() if k != b and k in self.targets]
        of_base = (self.total - self.targets.get(b, mpf(0))) * (up_b - down_b)
        return self.total * log_change + of_base + mp.fsum(straight)

    def _lse_changes(self, steps: Mapping[int, tuple[mpf, mpf]]) -> tuple[mpf, mpf]:
        """What the log-sum-exp is more at the lower end than unmoved, and at the upper end than at the lower."""
        low, change = self.largest.changes(steps)
        down, up = steps.get(self.largest.k, (mpf(0), mpf(0)))
        return down + low, (up - down) + change

    def slope(self, k: int) -> mpf:
        """The derivative of what follows the loss by z_k, over a step of a third of the digits in use."""
        step = mpf(2) ** (-mp.prec // 3) / self.cap.steepness()
        return self.change(k, -step, step) / (2 * step)

    def terms(self, k: int, one_label: bool) -> mpf:
        """The size of the derivative where the target is one label; else p_k times the sum of |t_j|, and |t_k|.

        A log-sum-exp has p_k more, times the size of what it is multiplied by; all times the slope of the cap.
        """
        if self.undefined:
            return abs(self.alone.slope(k))
        step = mpf(2) ** (-mp.prec // 3) / self.cap.steepness()
        slope = self.cap.change(self.given[k], step) / step
        p = self.largest.ratios[k] / (1 + self.largest.others)
        of_loss = p * self.size + abs(self.targets.get(k, mpf(0)))
        size = abs(self.alone.slope(k)) if one_label else abs(self.weights.loss) * of_loss * slope
        of_lse = 2 * abs(self.weights.square) * (abs(self.lse()) + self.lse_terms()) + abs(self.weights.lse)
        return size + of_lse * p * slope if of_lse else size
