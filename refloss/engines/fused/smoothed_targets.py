"""Smoothed targets: those of all classes except for the label's, without a row per sample.

The target of class k is t_k for all samples, except for those labelled k, whose target of k goes with the target logit:
here it is 0. So a sum over classes has two parts: that over classes which label no sample is the same for all samples,
that over the few others has one value per sample.

Symbols: N samples of a group; B classes of a block; P of them that label a sample; D entries of a vector; β_k (B,) what
makes a product of scaled rows a cosine, or a logit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.engines.fused.products import product
from refloss.engines.kernels import rows as row_kernels
from refloss.error_free import Array, Integers


class SmoothedTargets(NamedTuple):
    """The targets of a block of classes."""

    all: Array
    """t_k (B,)."""
    unlabelled: Array
    """t_k of classes that label no sample, 0 for others (B,)."""
    labels: Integers
    """Classes of the block that label a sample (P,)."""
    labelled: Array
    """t_k of these, 0 for the samples that they label (N, P)."""

    @classmethod
    def of(cls, uniform_targets: Array, label_columns: Integers) -> SmoothedTargets:
        """Take the t_k of a block (B,), and where each sample's label stands in it, or -1 (N,)."""
        labels = np.unique(label_columns[label_columns >= 0])
        unlabelled = uniform_targets.copy()
        unlabelled[labels] = 0.0
        labelled = uniform_targets[labels] * (label_columns[:, None] != labels)
        return cls(uniform_targets, unlabelled, labels, labelled)

    def sums(self) -> Array:
        """Return the sum of t_k over the block (N,)."""
        return np.asarray(self.unlabelled.sum() + self.labelled.sum(axis=1))

    def grad_x(self, w: Array, beta: Array) -> Array:
        """Return the sum of t_k β_k w_k over the block (N, D)."""
        of_unlabelled = product((self.unlabelled.astype(w.dtype) * beta)[None], w)
        return of_unlabelled + product(self.labelled.astype(w.dtype) * beta[self.labels], w[self.labels])

    def subtract_from_dw(self, dw: Array, beta: Array, weighted_x: Array, sum_weighted_x: Array) -> None:
        """Subtract t_k β_k x_n, weighted and added up over samples, from dL/dw_k (B, D)."""
        row_kernels.subtract_outer(dw, self.unlabelled.astype(dw.dtype) * beta, sum_weighted_x)
        dw[self.labels] -= beta[self.labels, None] * product(self.labelled.T.astype(dw.dtype), weighted_x)

    def subtract_from_db(self, db: Array, weight: Array) -> None:
        """Subtract t_k, weighted and added up over samples, from dL/db_k (B,)."""
        db -= self.unlabelled * weight.sum()
        db[self.labels] -= product(self.labelled.T, weight)
