"""Automatic differentiation on balls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf

from refloss.engines.certified.balls import exact_balls
from refloss.engines.certified.tape import Tape
from support import exact
from support.enclosures import random

pytest.importorskip("flint")


def test_every_operation_knows_its_derivative() -> None:
    """The tape alone, operation by operation, against mpmath: none of the losses is involved."""
    tape, g = Tape(), random()
    points = [g.uniform(0.5, 2.0, (2, 3)) for _ in range(2)]
    a, b = (tape.leaf(point) for point in points)
    row = a[0] * b[1]
    out = ((a / b).sqrt() - (a * b).cos()).exp().log1p() + a.atan2(b) + row - a.linear(b).sum(axis=1)[:, None]
    out = (out * out.set_at(([0], [1]), row[[0]]) / (b - a).norm()[:, None] + a.sin()).sum()
    outputs = [(out, exact_balls(1.0)), (row, exact_balls([0.5, -2.0, 0.0]))]
    gradients = tape.backward(outputs, {"a": a, "b": b, "unused": tape.leaf(1.0)})
    assert set(gradients) == {"a", "b"}

    def by_mpmath(*moved: Any) -> mpf:
        (p, q), at = moved, np.vectorize
        r = p[0] * q[1]
        wave = at(mp.exp, otypes=[object])(at(mp.sqrt, otypes=[object])(p / q) - at(mp.cos, otypes=[object])(p * q))
        sums = at(mp.log1p, otypes=[object])(wave) + at(mp.atan2, otypes=[object])(p, q) + r
        sums = sums - (p @ q.T).sum(axis=1)[:, None]
        put = sums.copy()
        put[0, 1] = r[0]
        lengths = at(mp.sqrt, otypes=[object])(((q - p) ** 2).sum(axis=1))
        return (sums * put / lengths[:, None] + at(mp.sin, otypes=[object])(p)).sum() + (
            r * [mpf(0.5), mpf(-2.0), mpf(0)]
        ).sum()

    for which, gradient in enumerate(gradients.values()):
        for i in np.ndindex(2, 3):
            with mp.workdps(80):
                moved = [exact.exact(point) for point in points]
                ends = []
                for step in (mpf(10) ** -25, -2 * mpf(10) ** -25):
                    moved[which][i] += step
                    ends.append(by_mpmath(*moved))
                slope = (ends[0] - ends[1]) / (2 * mpf(10) ** -25)
                assert float(gradient[i].mid()) == pytest.approx(float(slope), rel=1e-14)
