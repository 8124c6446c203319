"""Losses on x and w at their inputs: what is decided once, and rows of logits at the working precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from mpmath import mp, mpf

from support.exact.cross_entropies import Batch, Row, Settings, Weights
from support.exact.margins import Curve, Sample, TargetPair, curve, without
from support.exact.numbers import Reals, Vector, exact, rows
from support.exact.others import Others, nearest, others_of
from support.exact.qualities import quality_of


def name_of(loss: Any) -> str:
    return type(loss).__name__


class Head:
    """A loss on x and w: SoftmaxLoss, or a margin loss. Rows that are ignored are not looked at.

    Of centers w (C, K, D) those of a class are side by side; the nearest one stands for the class.
    """

    numbers: Mapping[str, mpf] = {}
    """Inputs that are one number each."""

    def __init__(self, loss: Any, x: Any, w: Any, y: Any, more: Any = None, scale: Any = None):
        samples = exact(x)
        self.rows = rows(np.reshape(w, (-1, np.shape(w)[-1])))
        self.shape_of_rows, self.centers = np.shape(w)[:-1], int(getattr(loss, "centers", 1))
        self.shape = (len(samples), len(self.rows) // self.centers)
        self.labels = np.asarray(y)
        self.margin = None if name_of(loss) == "SoftmaxLoss" else Curve.of(**curve(loss, scale))
        extra = None if more is None else exact(more)  # biases of classes, or margins of samples
        self.bias, self.given = (extra, None) if self.margin is None else (None, extra)
        settings = Settings.of(loss)
        self.batch, self.cap = Batch.of(y, self.shape, settings), settings.cap
        self.regularizer = mp.convert(float(getattr(loss, "regularizer", 0.0)))
        self.samples = {n: Vector.of(samples[n]) for n in self.active()}
        self.chosen = {n: self.nearest_rows(sample) for n, sample in self.samples.items()}
        self.pairs: dict[int, TargetPair] = {}
        self.others: dict[int, Others] = {}
        if self.margin is not None:
            for n, sample in self.samples.items():
                label = int(self.labels[n])
                quality = quality_of(loss, sample, None if self.given is None else self.given[n])
                c = self.margin if self.given is None else without(self.margin, quality)
                detached = getattr(loss, "gradient", "exact") == "detached"
                classes = self.classes(n)
                self.pairs[n] = TargetPair(sample, classes[label], c, detached=detached, quality=quality)
                self.others[n] = others_of(loss, sample, classes, label, self.pairs[n].threshold)

    def active(self) -> Iterator[int]:
        return (n for n, targets in enumerate(self.batch.targets) if targets is not None)

    def nearest_rows(self, x: Vector) -> list[int]:
        """Which row of w stands for each class."""
        k = self.centers
        return [first + nearest(x, self.rows[first : first + k]) for first in range(0, len(self.rows), k)]

    def classes(self, n: int) -> list[Vector]:
        """What stands for each class of a sample."""
        return [self.rows[row] for row in self.chosen[n]]

    def sample(self, n: int) -> Sample:
        return Sample(self.samples[n], self.classes(n), int(self.labels[n]), self.pairs[n], self.others[n])

    def term(self, n: int) -> mpf:
        """What the loss of a row has added for the length of x: only MagFace has such a term."""
        return self.regularizer * self.pairs[n].quality.term(self.samples[n].norm()) if self.regularizer else mpf(0)

    def logits(self, n: int) -> Reals:
        if self.margin is not None:
            return self.sample(n).z
        x = self.samples[n]
        z = [mp.ldexp(mpf(x.dot(w)), x.exponent + w.exponent) for w in self.rows]
        return z if self.bias is None else [number + b for number, b in zip(z, self.bias, strict=True)]

    def size(self, n: int) -> mpf:
        """How large the logits of a row can be."""
        if self.margin is not None:
            scale = self.samples[n].norm() if self.margin.scale is None else self.margin.scale
            return scale * self.others[n].largest
        size = self.samples[n].norm() * max(w.norm() for w in self.rows)
        return self.cap.size(size + (0 if self.bias is None else max(abs(b) for b in self.bias)))

    def shallow(self, n: int) -> list[int]:
        """Decimal places by which each logit may change less than a step; none are added for cross entropy."""
        return [0] * self.shape[1]

    def row(self, n: int, weights: Weights | None = None) -> Row:
        return Row(self.logits(n), self.batch.targets[n] or {}, weights, self.cap)
