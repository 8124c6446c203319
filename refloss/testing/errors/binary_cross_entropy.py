"""Errors of binary cross entropy, and of sums over all answers of a batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.testing.errors.arithmetic import Arithmetic


class Answers(NamedTuple):
    """True values of binary cross entropy: every class an answer, wrong by as much as its logit says so."""

    a: Array
    """a = -z of the target, z of other classes (N, C)."""
    v: Array
    """Weights (N, C)."""
    target: Array
    """Which are targets (N, C)."""

    @property
    def softplus(self) -> Array:
        """log(1 + eᵃ), right relative to itself (N, C)."""
        return np.asarray(np.maximum(self.a, 0.0) + np.log1p(np.exp(-np.abs(self.a))))

    @property
    def sigma(self) -> Array:
        """1 / (1 + e⁻ᵃ), right relative to itself (N, C)."""
        return _sigma(self.a)

    @property
    def loss(self) -> Array:
        """L_n (N,)."""
        return np.asarray((self.v * self.softplus).sum(axis=1))

    @property
    def terms(self) -> Array:
        """L_n: nothing in it cancels (N,)."""
        return self.loss

    @property
    def g(self) -> Array:
        """dL_n/dz (N, C)."""
        return np.asarray(np.where(self.target, -1.0, 1.0) * self.v * self.sigma)


def _sigma(a: Array) -> Array:
    """Return the sigmoid, right relative to itself, up to e^-700."""
    e = np.exp(-np.abs(a))
    return np.asarray(np.where(a < 0.0, e, 1.0) / (1.0 + e))


def binary_cross_entropy_error(answers: Answers, of_z: Array, several: int, a: Arithmetic) -> tuple[Array, Array]:
    """Return the errors of the loss of each row (N,) and of dL_n/dz (N, C), from those of the logits (N, C).

    ``several`` is how many answers are added up at once: those of a row, or of the batch. An error δ of a logit moves a
    softplus by at most δ σ(a + δ) and its slope σ by at most δ times σ' = σ(1 - σ) where that is steepest, next to 0.
    Weights are rounded, and so are the quotient and the product that they may come of.

    By the standard "relative" a softplus is max(a, 0) + log1p(e^-|a|), and σ comes of the same exponential: each keeps
    its own digits. By "stable" 1 + e^-|a| may be rounded before its logarithm, which is wrong by u, and the slope of a
    target may be σ(z) - 1, whose σ(z) is near 1 and has a rounded sum and a quotient: it is wrong by 2u. By "working" a
    softplus may be the difference of a and another softplus, as softplus(z) - z and z - logsigmoid(z) are, which is
    wrong by u |a|.
    """
    size, softplus, sigma, v = np.abs(answers.a), answers.softplus, answers.sigma, answers.v
    steepest = _sigma(-np.maximum(size - of_z, 0.0))
    moved = np.minimum(steepest * (1.0 - steepest) * of_z, 1.0)
    weighted = 1.0 + 3.0 * (v != 1.0)
    of_softplus = _sigma(answers.a + of_z) * of_z + a.u * (np.maximum(answers.a, 0.0) + (3.0 + weighted) * softplus)
    of_sigma = moved + (4.0 + weighted) * a.u * sigma
    if a.log_p != "relative":
        of_softplus += a.u
        of_sigma += 2.0 * a.u * answers.target
    if a.log_p == "working":
        of_softplus += a.u * size
    rows = (v * (of_softplus + a.smallest)).sum(axis=1)
    return rows + a.sum_of(several) * a.u * answers.loss + a.smallest, v * (of_sigma + a.smallest) + a.smallest


def total_error(factors: Array, of_g: Array, g: Array, of_factors: Array | float, own: float, a: Arithmetic) -> Array:
    """Return the error of the sum over all answers of dL/dz times a factor, which is the gradient of a single number.

    The factor is the cosine for a scale, with its error, and 1 for a bias. Terms of both signs cancel, and their errors
    do not; ``own`` is the error of the truth itself, relative to the terms.
    """
    terms, total = (np.abs(g) * np.abs(factors)).sum(), np.abs((g * factors).sum())
    passed = (of_g * np.abs(factors) + (np.abs(g) + of_g) * of_factors).sum()
    return np.asarray(passed + a.sum_error(g.size, terms, total) + (2.0 * a.u + own) * terms + g.size * a.smallest)
