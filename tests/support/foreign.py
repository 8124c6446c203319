"""Losses of refloss as foreign code that is checked: one function each, of arrays of any kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import refloss


def ours(loss, gradients=True, **changes):
    """A loss of refloss in the dress of foreign code, with settings changed."""
    other = replace(loss, **changes)

    def fn(*inputs):
        inputs = [
            np.asarray(entry).astype(np.float64) if np.asarray(entry).dtype.kind not in "iu" else entry
            for entry in inputs
        ]
        if not gradients:
            return other(*inputs)
        value, grad = other.value_and_grad(*inputs)
        return value, *(part for part in grad if part is not None)

    return fn


LOSSES = [
    refloss.CrossEntropy(),
    refloss.CrossEntropy(reduction="none", label_smoothing=0.1),
    refloss.SoftmaxLoss(),
    refloss.ModifiedSoftmax(),
    refloss.NormFace(reduction="none"),
    refloss.ASoftmax(),
    refloss.CosFace(boundary="conditional"),
    refloss.ArcFace(boundary="easy"),
    refloss.ArcFace(boundary="min"),
    refloss.CombinedMargin(m1=1.35),
    refloss.ASoftmax(m=1.01),
    refloss.Triplet(),
    refloss.KLDivergence(),
]
