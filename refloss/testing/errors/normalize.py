"""Errors of the gradients of embeddings and class weights."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.testing.errors.arithmetic import Arithmetic
from refloss.testing.errors.cosine import Head


class Side(NamedTuple):
    """True values for the gradient of one of the two inputs of the cosines."""

    own: Array
    """Unit rows (R, D)."""
    other: Array
    """Unit rows of the other input (S, D)."""
    cosines: Array
    """(R, S)."""
    lengths: Array
    """(R,)."""


def normalize_error(
    side: Side, upstream: Array, of_upstream: Array, own: float, a: Arithmetic, *tangents: Array
) -> Array:
    """Return the error of the gradient of rows from dL/dcos (R, S) and its error: products, projection, length.

    ``own`` is the error of the truth itself, relative to the terms of a row. ``tangents`` (R, 1) are the parts of the
    terms along their row that angles by their chords have at right angles to it, where they cancel with nothing: those
    of the target, or those of other classes too.
    """
    d = a.sum_of(side.own.shape[1])
    most = np.abs(upstream) + of_upstream  # the largest it may be: on a boundary, far more than it is
    exact, inner, more = upstream @ side.other, np.abs(side.own), of_upstream @ np.abs(side.other)
    radial = (exact * side.own).sum(axis=1, keepdims=True)
    total, along = np.abs(exact), np.abs(radial)
    for tangent in tangents:
        total = np.maximum(total, np.abs(exact - tangent * side.own))
        along = np.maximum(along, np.abs(radial - tangent))
    total, along = total + more, along + (inner * more).sum(axis=1, keepdims=True)
    passed, truth = np.empty_like(total), np.empty_like(radial)
    for row, (unit, cosines) in enumerate(zip(side.own, side.cosines, strict=True)):
        tangents = np.abs(side.other - cosines[:, None] * unit)  # (S, D), for one row at a time
        passed[row] = (of_upstream[row] + (d / 2.0 + 1.0) * a.u * most[row]) @ tangents
        truth[row] = np.abs(upstream[row]) @ np.linalg.norm(tangents, axis=1)
    terms = most @ np.abs(side.other)
    product = a.sum_error(side.other.shape[0], terms, total) + 2.0 * (a.u + a.factor) * terms
    error = passed + product + inner * (inner * product).sum(axis=1, keepdims=True)
    size = (total * inner).sum(axis=1, keepdims=True)
    error += inner * (a.sum_error(side.own.shape[1], size, along) + a.u * (2.0 * size + (d + 6.0) * along))
    error += a.u * (total + inner * along) + (d / 2.0 + 2.0) * a.u * (np.abs(exact - radial * side.own) + more)
    error += (side.other.shape[0] + 2.0) * a.smallest  # each product may be flushed to 0
    return np.asarray((error + own * truth) / side.lengths[:, None])


def scale_error(g: Array, error: Array, head: Head, of_f: Array, own: float, a: Arithmetic) -> Array:
    """Return the error of the gradient along x̂ (N, 1), where the length of the embedding is the scale."""
    d, f = a.sum_of(head.x.shape[1]), np.abs(head.f)
    terms = (np.abs(g) * f).sum(axis=1, keepdims=True)
    along = np.abs((g * head.f).sum(axis=1, keepdims=True))
    passed = (error * f + np.abs(g) * of_f).sum(axis=1, keepdims=True)
    summed = a.sum_error(g.shape[1], terms, along)
    return np.asarray(passed + summed + (a.u + own) * terms + (d / 2.0 + 5.0) * a.u * along)
