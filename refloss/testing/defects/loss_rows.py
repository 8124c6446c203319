"""The rows of a loss with labels: logits, targets and what divides, from which a wrong step is computed.

Symbols: logits z (n, C) of the n rows that count, as the softmax takes them; targets t (n, C), whose sums need not be
1; class weights v (C,); logarithms of the sums of exponentials, lse (n,).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.stages import cross_entropy
from refloss.testing.signatures import Inputs, Loss, cross_entropy_of, head_of, labels_of, softcap_of


class Scores(NamedTuple):
    """What the softmax of a loss takes, and what is added to the loss of each row."""

    z: Array
    """Logits (N, C), scaled and capped."""
    terms: Array
    """Terms that no class weight multiplies (N,)."""


class LossRows(NamedTuple):
    """The rows that count, and how they are reduced."""

    z: Array
    """Logits (n, C)."""
    lse: Array
    """The logarithm of the sum of exponentials of each row (n,)."""
    label: Array
    """Rows of 0 and a 1 at the label, or the probabilities (n, C)."""
    t: Array
    """Targets (n, C)."""
    v: Array
    """Class weights (C,)."""
    kept: NDArray[np.bool_]
    """Which rows count (N,)."""
    divisor: float
    """What "mean" divides by."""
    reduction: str
    """One of "mean", "sum" and "none"."""
    z_loss: float
    """What multiplies lse^2 of each row."""
    terms: Array
    """What is added to the loss of each row that counts (n,)."""

    @property
    def classes(self) -> int:
        """C."""
        return int(self.z.shape[1])

    @property
    def total(self) -> Array:
        """The sum of the targets of each row (n,)."""
        return np.asarray(self.t.sum(axis=1))

    def losses(self, t: Array) -> Array:
        """Return the loss of each row for other targets (n,)."""
        terms = t * (self.lse[:, None] - self.z)
        return np.asarray(np.where(t == 0.0, 0.0, terms).sum(axis=1))

    def reduced(self, losses: Array, divisor: float | None = None) -> Array:
        """Return the value of a loss of each row that counts, with its own divisor of the mean or another."""
        if self.reduction == "none":
            rows = np.zeros(len(self.kept))
            rows[self.kept] = losses
            return rows
        by = self.divisor if divisor is None else divisor
        return np.asarray(losses.sum() / (by if self.reduction == "mean" else 1.0))

    def value(self, losses: Array) -> Array:
        """Return the value of a loss of each row that counts, with the z-loss and other terms."""
        return self.reduced(losses) + self.reduced(self.z_loss * self.lse**2 + self.terms, float(len(self.z)))

    @property
    def p(self) -> Array:
        """Probabilities (n, C)."""
        return np.asarray(np.exp(self.z - self.lse[:, None]))

    def of_logits(self, z: Array) -> LossRows:
        """Return rows with other logits (n, C)."""
        return self._replace(z=z, lse=log_sum_exp(z))


def log_sum_exp(z: Array) -> Array:
    """Return the logarithm of the sum of exponentials of each row (n,)."""
    largest = z.max(axis=1)
    return np.asarray(largest + np.log(np.exp(z - largest[:, None]).sum(axis=1)))


def rows_of(loss: Loss, scores: Scores, inputs: Inputs) -> LossRows:
    """Return the rows of a loss with labels."""
    settings, y = cross_entropy_of(loss), inputs[labels_of(loss) or 0]
    kept = cross_entropy.kept(y, settings)
    z, y = scores.z[kept], y[kept]
    weights = cross_entropy.weights(y, z.shape[1], settings)
    t, divisor = cross_entropy.targets(y, weights, settings.label_smoothing)
    label = np.asarray(y, np.float64) if y.ndim > 1 else np.zeros(z.shape)
    if y.ndim == 1:
        label[np.arange(len(y)), y] = 1.0
    v, divisor = np.asarray(weights.v, dtype=np.float64), float(np.asarray(divisor))
    reduction, terms = settings.reduction, scores.terms[kept]
    return LossRows(z, log_sum_exp(z), label, np.asarray(t), v, kept, divisor, reduction, settings.z_loss, terms)


def logits_of(loss: Loss, inputs: Inputs) -> Scores:
    """Return the logits of a loss on logits, or of a linear head, with its scale and its cap."""
    z = inputs[0]
    if head_of(loss) == "linear":
        x, w, _, *b = inputs
        z = x @ w.T + (b[0] if b else 0.0)
    scale, cap = softcap_of(loss)
    z = scale * z
    return Scores(np.asarray(z if cap is None else cap * np.tanh(z / cap)), np.zeros(len(z)))
