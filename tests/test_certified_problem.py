"""Problem: balls of every head at every precision hold the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refloss
from refloss.engines.certified.balls import precision
from refloss.engines.certified.problem import Problem
from support import cases
from support.enclosures import random

pytest.importorskip("flint")


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (refloss.CrossEntropy(reduction="none"), (random().standard_normal((3, 4)), np.array([0, 3, -100]))),
        (refloss.SoftmaxLoss(), (*cases.ordinary(random()), None)),
        (refloss.ASoftmax(m=3, annealing=2.0), cases.ordinary(random())),
        (refloss.ArcFace(gradient="detached"), cases.ordinary(random())),
        (refloss.ArcFace(boundary="hard"), (*cases.ordinary(random()), np.array([0.5, -0.25]))),
        (refloss.AdaFace(mean=2.0, std=1.0), cases.ordinary(random())),
        (refloss.MagFace(l_a=1.0, u_a=3.0, class_weight=(1.0, 2.0, 3.0, 4.0, 5.0)), cases.ordinary(random())),
        (refloss.CurricularFace(t=0.25), cases.ordinary(random())),
        (refloss.MVSoftmax(s=None), cases.ordinary(random())),
        (refloss.SphereFaceR(), cases.ordinary(random())),
        (refloss.SphereFaceR(version=2, gradient="detached"), cases.ordinary(random())),
        (refloss.CircleLoss(), cases.ordinary(random())),
        (refloss.InterTopK(k=2), cases.ordinary(random())),
        (refloss.SphereFace2(), (*cases.ordinary(random()), 0.5)),
        (refloss.UniFace(s=2.0), (*cases.ordinary(random()), -0.25)),
        (refloss.SigLIP(), (*random().standard_normal((2, 3, 4)), 10.0, -5.0)),
        (refloss.InfoNCE(), (*random().standard_normal((2, 3, 4)), 10.0)),
        (refloss.Triplet(squared=False), tuple(random().standard_normal((3, 4, 5)))),
    ],
    ids=lambda part: type(part).__name__,
)
def test_more_bits_give_balls_within_those_of_fewer(loss: Any, inputs: Any) -> None:
    upstream = np.array([1.0, -2.0, 0.5]) if loss.reduction == "none" else np.array(-0.7)
    call = loss._call(*inputs)
    problem = Problem(call.spec, call.arrays, upstream)
    by_bits = []
    for bits in (60, 300):
        with precision(bits):
            by_bits.append(problem.balls())
    coarse, fine = by_bits
    assert list(coarse) == list(problem.known)
    for name in coarse:
        for wide, narrow in zip(coarse[name].flat, fine[name].flat, strict=True):
            assert wide.contains(narrow)
            assert narrow.rel_accuracy_bits() > 200 or narrow.is_zero()
