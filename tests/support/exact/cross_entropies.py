"""Cross entropy row by row: targets, reduction, and the loss of a row as its logits move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from mpmath import mp, mpf

from support.exact.numbers import INFINITY, NAN, Reals, exact


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


def undefined(z: Iterable[mpf]) -> bool:
    """Whether a softmax of these has no value: a NaN, a +inf, or every class masked by -inf."""
    return any(mp.isnan(number) or number == INFINITY for number in z) or all(number == -INFINITY for number in z)


class Settings(NamedTuple):
    """The cross-entropy settings of a loss."""

    label_smoothing: float
    class_weight: Sequence[float] | None
    ignore_index: int
    reduction: str

    @classmethod
    def of(cls, loss: Any) -> Settings:
        return cls(loss.label_smoothing, loss.class_weight, loss.ignore_index, loss.reduction)


class Batch(NamedTuple):
    """The targets t_k of every row, and how rows are reduced."""

    targets: list[dict[int, mpf] | None]  # weights and smoothing included, zeros left out; None for an ignored row
    divisor: mpf  # of "mean"
    shape: tuple[int, ...]  # of "none"
    reduction: str
    one_label: bool  # whether each row's loss is that of one label alone

    @classmethod
    def of(cls, y: Any, shape: tuple[int, ...], settings: Settings) -> Batch:
        """From labels (z's shape without its last axis) or probabilities (z's shape)."""
        array = np.asarray(y)
        eps, size = mp.convert(float(settings.label_smoothing)), shape[-1]
        weights = list(exact(np.ones(size) if settings.class_weight is None else settings.class_weight))

        def weighted(row: Iterable[mpf]) -> dict[int, mpf]:
            smoothed = (weight * ((1 - eps) * t + eps / size) for weight, t in zip(weights, row, strict=True))
            return {k: t for k, t in enumerate(smoothed) if t}

        if array.shape == tuple(shape):
            probabilities = exact(array).reshape(-1, size)
            targets = [weighted(row) for row in probabilities]
            return cls(list(targets), mpf(len(targets)), shape[:-1], settings.reduction, one_label=False)
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
        )

    @classmethod
    def plain(cls, count: int, reduction: str) -> Batch:
        """Rows without targets, all counting the same."""
        return cls([{}] * count, mpf(count), (count,), reduction, one_label=True)

    def absolute(self) -> Batch:
        """The magnitudes of targets and divisor."""
        targets = [None if row is None else {k: abs(t) for k, t in row.items()} for row in self.targets]
        return self._replace(targets=targets, divisor=abs(self.divisor))

    def reduce(self, losses: list[mpf]) -> Any:
        if self.reduction == "none":
            result = np.empty(len(losses), dtype=object)
            result[:] = losses
            return result.reshape(self.shape)
        total = mp.fsum(losses)
        if self.reduction == "sum":
            return total
        return total / self.divisor if self.divisor else NAN

    def coefficients(self, upstream: Any) -> Reals:
        """What a row's own gradient is multiplied by: the reduction and the upstream gradient."""
        upstream = mpf(1) if upstream is None else exact(upstream)
        if self.reduction == "none":
            return list(np.broadcast_to(upstream, self.shape).reshape(-1))
        number = upstream if isinstance(upstream, mpf) else upstream.item()
        if self.reduction == "mean":
            number = number / self.divisor if self.divisor else NAN
        return [mpf(0) if targets is None else number for targets in self.targets]


class Row:
    """The cross entropy of one row of logits, and how it changes when logits move.

    L = sum over k of t_k log(sum over j of exp(z_j - z_k)), written from a base class b so that nothing cancels:
    L = T log1p(sum over j != b of exp(z_j - z_b)) + sum over k of t_k (z_b - z_k). A single target is its own base.
    """

    def __init__(self, z: Reals, targets: Mapping[int, mpf]):
        self.targets = targets
        self.total = mp.fsum(targets.values())
        self.size = mp.fsum(abs(t) for t in targets.values())
        self.undefined = undefined(z)
        self.masked = {k for k in targets if z[k] == -INFINITY}
        self.infinite = not self.undefined and bool(self.masked)
        if self.undefined:
            return
        if self.infinite:  # the loss is inf; its gradient is the limit, taken far below the other logits
            depth = min(number for number in z if mp.isfinite(number)) - 10**5
            z = [depth if k in targets and number == -INFINITY else number for k, number in enumerate(z)]
        self.z = z
        self.base, self.ratios, self.others = Base.of(z, next(iter(targets)) if len(targets) == 1 else None)

    def value(self) -> mpf:
        if self.undefined or self.infinite:
            signs = {mp.sign(t) for k, t in self.targets.items() if k in self.masked}
            return NAN if self.undefined or len(signs) > 1 else INFINITY * signs.pop()
        gaps = (t * (self.z[self.base] - self.z[k]) for k, t in self.targets.items() if k != self.base)
        return self.total * mp.log1p(self.others) + mp.fsum(gaps)

    def change(self, k: int, down: mpf, up: mpf) -> mpf:
        """The difference L(z_k + up) - L(z_k + down), the other logits unmoved."""
        if self.undefined:
            return NAN
        target = self.targets.get(k, mpf(0))
        if k == self.base:
            low, high = self.others * mp.exp(-down), self.others * mp.exp(-up)
            change, straight = high - low, (self.total - target) * (up - down)
        else:
            low, high = self.ratios[k] * mp.exp(down), self.ratios[k] * mp.exp(up)
            change, straight = high - low, -target * (up - down)
            low += self.others - self.ratios[k]
        return self.total * mp.log1p(change / (1 + low)) + straight

    def change_of_all(self, down: Reals, up: Reals) -> mpf:
        """The difference L(z + up) - L(z + down), every logit moving."""
        if self.undefined:
            return NAN
        b = self.base
        moving = [k for k, ratio in enumerate(self.ratios) if ratio and k != b]
        low = mp.fsum(self.ratios[k] * mp.exp(down[k] - down[b]) for k in moving)
        high = mp.fsum(self.ratios[k] * mp.exp(up[k] - up[b]) for k in moving)
        straight = mp.fsum(t * ((up[b] - down[b]) - (up[k] - down[k])) for k, t in self.targets.items() if k != b)
        return self.total * mp.log1p((high - low) / (1 + low)) + straight

    def slope(self, k: int) -> mpf:
        """The derivative dL/dz_k, by the difference over a step of a third of the digits in use."""
        step = mpf(2) ** (-mp.prec // 3)
        return self.change(k, -step, step) / (2 * step)

    def terms(self, k: int, one_label: bool) -> mpf:
        """The size of dL/dz_k where the target is one label; else p_k times the sum of |t_j|, and |t_k|."""
        if one_label or self.undefined:
            return abs(self.slope(k))
        p = self.ratios[k] / (1 + self.others)
        return p * self.size + abs(self.targets.get(k, mpf(0)))
