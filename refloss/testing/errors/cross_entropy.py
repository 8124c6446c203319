"""Errors of log-softmax and cross entropy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.testing.errors.arithmetic import Arithmetic

FAR = 175.0
"""Errors of logits up to which the exponential of twice their size, squared, is a number."""


class Rows(NamedTuple):
    """True values of cross entropy."""

    z: Array
    """Logits (N, C)."""
    p: Array
    """Probabilities (N, C)."""
    q: Array
    """1 - p, without cancellation (N, C)."""
    t: Array
    """Targets (N, C)."""
    minus_log_p: Array
    """-log p (N, C)."""

    @property
    def loss(self) -> Array:
        """L_n (N,)."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(self.t == 0.0, 0.0, self.t * self.minus_log_p).sum(axis=1))

    @property
    def terms(self) -> Array:
        """L_n before targets of both signs cancel: the sum of |t_k| (-log p_k) (N,)."""
        return self._replace(t=np.abs(self.t)).loss

    @property
    def total(self) -> Array:
        """T, the sum of the targets of a row (N, 1)."""
        return np.asarray(self.t.sum(axis=1, keepdims=True))

    @property
    def g(self) -> Array:
        """dL_n/dz = p (T - t) - t q (N, C)."""
        return np.asarray(self.p * (self.total - self.t) - self.t * self.q)


def cross_entropy_error(rows: Rows, dz: Array, a: Arithmetic) -> tuple[Array, Array]:
    """Return the errors of the loss of each row (N,) and of its gradient (N, C), from those of the logits.

    Targets count with their magnitudes: terms of both signs may cancel, but their errors do not. Away from confident
    targets the error of a stable log p may be the smaller one, which then counts by the standard "relative" too.
    """
    if a.log_p == "relative":
        stable = cross_entropy_error(rows, dz, a._replace(log_p="stable"))
        of_loss, of_g = _relative_error(rows, dz, a)
        return np.minimum(of_loss, stable[0]), np.minimum(of_g, stable[1])
    z, p, t = rows.z, rows.p, np.abs(rows.t)
    total = t.sum(axis=1, keepdims=True)
    classes = a.sum_of(z.shape[1])
    known = np.isfinite(z)
    largest, gap, spread = _gaps(rows)
    of_loss, _ = _propagated(rows, dz)
    of_p = _probability_error(rows, dz, a)
    several = (np.count_nonzero(t, axis=1, keepdims=True) > 1) * 1.0  # then targets are rounded and added up too
    log_sum = np.log(np.exp(-np.where(known, gap, np.inf)).sum(axis=1, keepdims=True))
    evaluated = total * (classes + 3.0 + spread + 2.0 * log_sum)
    evaluated += (t * (2.0 * gap + log_sum)).sum(axis=1, keepdims=True)
    of_loss += a.u * (evaluated[:, 0] + (1.0 + several[:, 0] * (classes + 1.0)) * rows.terms)
    of_total = several * (classes + 2.0) * total * p
    if a.log_p == "working":  # logsumexp and z_y are rounded, and exp of their difference is the probability
        size = np.abs(largest + log_sum)
        terms = (t * np.abs(np.where(known, z, 0.0))).sum(axis=1)
        of_loss += a.u * (total * size)[:, 0] + a.u * (1.0 + several[:, 0] * (classes + 2.0)) * terms
    of_g = total * of_p + a.u * ((1.0 + 2.0 * several) * t + np.abs(rows.g) + of_total)
    # A maximum that is not detached has a gradient too, the sum of the row's: 0, except for the rounding of each term
    # and of the sum. It is added at the largest logit. Errors of logits change no sum of probabilities.
    largest_reach = gap <= 2.0 * dz.max(axis=1, keepdims=True)
    through = a.sum_error(z.shape[1], 2.0 * total, 0.0 * total) + 8.0 * a.u * total
    of_g += np.where(largest_reach & known, through, 0.0)
    if a.log_p != "working":  # for a single class p = 1 and log p = 0, by any formula that shifts by the maximum
        alone = np.count_nonzero(known, axis=1, keepdims=True) == 1
        of_loss, of_g = np.where(alone[:, 0], 0.0, of_loss), np.where(alone, 0.0, of_g)
    return of_loss + a.smallest, of_g + a.smallest


def log_sum_exp_error(rows: Rows, dz: Array, a: Arithmetic) -> tuple[Array, Array, Array]:
    """Return the log-sum-exp of each row (N,), its error (N,), and that of its gradient, the probabilities (N, C)."""
    largest, gap, _ = _gaps(rows)
    known = np.isfinite(rows.z)
    log_sum = np.log(np.exp(-np.where(known, gap, np.inf)).sum(axis=1, keepdims=True))
    lse = (largest + log_sum)[:, 0]
    wide = np.where(dz > 1e-3, np.expm1(np.minimum(dz, 40.0)), dz)
    evaluated = a.sum_of(rows.z.shape[1]) + 3.0 + 2.0 * log_sum[:, 0] + (rows.p * gap).sum(axis=1)
    of_lse = (rows.p * wide).sum(axis=1) + a.u * (evaluated + np.abs(lse))
    return lse, of_lse, _probability_error(rows, dz, a._replace(log_p="working"))


def _probability_error(rows: Rows, dz: Array, a: Arithmetic) -> Array:
    """Return the error of the probabilities by a stable formula or, by the standard "working", by exp(z - lse)."""
    p, known = rows.p, np.isfinite(rows.z)
    largest, gap, spread = _gaps(rows)
    log_sum = np.log(np.exp(-np.where(known, gap, np.inf)).sum(axis=1, keepdims=True))
    _, of_p = _propagated(rows, dz)
    # exp of a difference of a difference
    of_p = of_p + a.u * p * (2.0 * (gap + log_sum) + a.sum_of(rows.z.shape[1]) + 5.0 + spread)
    if a.log_p == "working":  # logsumexp and z_y are rounded, and exp of their difference is the probability
        of_p = of_p + p * np.expm1(np.minimum(a.u * np.abs(largest + log_sum), 40.0))
    return np.asarray(of_p)


def _gaps(rows: Rows) -> tuple[Array, Array, Array]:
    """Return the largest logit, the distances of all logits below it, and the mean of these."""
    largest = rows.z.max(axis=1, keepdims=True)
    gap = np.where(np.isfinite(rows.z), largest - rows.z, 0.0)
    return largest, gap, (rows.p * gap).sum(axis=1, keepdims=True)


def _propagated(rows: Rows, dz: Array) -> tuple[Array, Array]:
    """Return the errors of the loss of each row and of the probabilities that errors of the logits cause."""
    p, total = rows.p, np.abs(rows.t).sum(axis=1, keepdims=True)
    wide = np.where(dz > 1e-3, np.expm1(np.minimum(2.0 * dz, 2.0 * FAR)) / 2.0, dz)  # beyond first order
    moved = (p * wide).sum(axis=1, keepdims=True)
    of_loss = (np.abs(rows.g) * dz).sum(axis=1) + (total * p * wide**2).sum(axis=1)
    of_p = p * (rows.q * wide + np.maximum(moved - p * wide, 0.0))
    most = dz.max(axis=1, keepdims=True)
    any_p = most > FAR  # then any probability may be the result, and no loss moves by more than two logits
    return np.where(any_p, 2.0 * total * most, of_loss[:, None])[:, 0], np.where(any_p, 1.0, of_p)


def _relative_error(rows: Rows, dz: Array, a: Arithmetic) -> tuple[Array, Array]:
    """As `cross_entropy_error`, for -log p as the gap plus a log1p and 1 - p as a sum, relative to themselves."""
    p, t = rows.p, np.abs(rows.t)
    total = t.sum(axis=1, keepdims=True)
    classes = a.sum_of(rows.z.shape[1]) + 6.0
    _, gap, spread = _gaps(rows)
    of_loss, of_p = _propagated(rows, dz)
    others = np.where(gap > 0.0, gap, 0.0).max(axis=1, keepdims=True, initial=0.0, where=p > a.smallest)
    of_loss += a.u * ((classes + others[:, 0]) * rows.terms)
    own = (classes + others) * t * rows.q + (classes + gap + spread) * p * np.abs(total - t)
    return of_loss + a.smallest, total * of_p + a.u * own + a.smallest
