"""Smoothed targets: sums over classes and samples, against the targets written out, one row per sample."""

from __future__ import annotations

import numpy as np
import pytest

from refloss.engines.fused.smoothed_targets import SmoothedTargets
from support.fused_cases import U, unit

LABELS = {"none in the block": [-1, -1, -1], "one of all": [2, 2, 2], "several": [0, 3, -1]}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("columns", LABELS.values(), ids=LABELS)
def test_sums_are_those_of_targets_written_out(columns, dtype):
    random = np.random.default_rng(0)
    n, b, d = len(columns), 5, 4
    t, weight = random.standard_normal(b), random.standard_normal(n)
    w, beta, x = (random.standard_normal(shape).astype(dtype) for shape in ((b, d), b, (n, d)))
    smoothed = SmoothedTargets.of(t, np.array(columns))
    dense = np.tile(t, (n, 1))  # 0 for the label of each row
    for row, column in enumerate(columns):
        dense[row, column if column >= 0 else b :][:1] = 0.0
    np.testing.assert_allclose(smoothed.sums(), dense.sum(axis=1), rtol=0.0, atol=16 * U * np.abs(t).sum())
    grad_x = smoothed.grad_x(w, beta)
    assert grad_x.dtype == dtype
    terms = np.abs(dense) @ np.abs(beta[:, None] * w)
    assert (np.abs(grad_x - dense @ (beta[:, None] * w)) <= 16 * unit(dtype) * terms).all()
    dw = np.zeros((b, d), dtype)
    smoothed.subtract_from_dw(dw, beta, x, x.sum(axis=0))
    terms = np.abs(t * beta)[:, None] * np.abs(x).sum(axis=0)
    assert (np.abs(dw + (dense * beta).T @ x) <= 16 * unit(dtype) * terms).all()
    db = np.zeros(b)
    smoothed.subtract_from_db(db, weight)
    np.testing.assert_allclose(db, -dense.T @ weight, rtol=0.0, atol=16 * U * np.abs(t).max() * np.abs(weight).sum())
