"""The stages: each as a function of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpmath import mp, mpf

from support.exact.cross_entropies import Base, Batch, Row, Settings, undefined
from support.exact.margins import Curve, Sample, TargetPair
from support.exact.numbers import GUARD, NAN, Array, Reals, Vector, angle_of, cosine_of, exact, filled, rows
from support.exact.others import Others
from support.exact.triplets import Triple
from support.untraced import untraced


@untraced
def normalize(v: Any, digits: int = 60) -> Array:
    """The direction v / |v|, along the last axis."""
    numbers = exact(v)
    with mp.workdps(digits + GUARD):
        result = filled(numbers.shape, NAN)
        for index in np.ndindex(numbers.shape[:-1]):
            vector = Vector.of(numbers[index])
            length = mp.sqrt(mpf(vector.square))
            result[index] = [i / length for i in vector.integers]
    return result


@untraced
def linear(x: Any, w: Any, b: Any = None, digits: int = 60) -> Array:
    """The logits x_n . w_k + b_k, shape (N, C)."""
    samples, classes = rows(x), rows(w)
    bias = filled((len(classes),), mpf(0)) if b is None else exact(b)
    result = filled((len(samples), len(classes)), NAN)
    with mp.workdps(digits + GUARD):
        for n, k in np.ndindex(result.shape):
            dot = samples[n].dot(classes[k])
            result[n, k] = mp.ldexp(mpf(dot), samples[n].exponent + classes[k].exponent) + bias[k]
    return result


@untraced
def cosine(x: Any, w: Any, digits: int = 60) -> Array:
    """The cosine of the angle between every sample and class, shape (N, C)."""
    samples, classes = rows(x), rows(w)
    result = filled((len(samples), len(classes)), NAN)
    with mp.workdps(digits + GUARD):
        for n, k in np.ndindex(result.shape):
            result[n, k] = cosine_of(samples[n].dot(classes[k]), samples[n].square, classes[k].square)
    return result


@untraced
def angle(x: Any, w: Any, digits: int = 60) -> Array:
    """The angle between row n of x and row n of w, shape (N,): 0, or pi to the digits, where they are parallel."""
    with mp.workdps(digits + GUARD):
        pairs = [angle_of(v.dot(u), v.square, u.square) for v, u in zip(rows(x), rows(w), strict=True)]
    return np.array(pairs, dtype=object)


@untraced
def logits(
    x: Any,
    w: Any,
    y: Any,
    *,
    m1: float = 1,
    m2: float = 0,
    m3: float = 0,
    boundary: str = "none",
    annealing: float = 0,
    scale: float | None = None,
    digits: int = 60,
) -> Array:
    """A scale times cos theta_nk, and psi(theta) for the label's class; without a scale, the feature norm |x_n|."""
    c = Curve.of(m1, m2, m3, boundary, annealing, scale)
    samples, classes = rows(x), rows(w)
    result = filled((len(samples), len(classes)), NAN)
    with mp.workdps(digits + GUARD):
        for n, label in enumerate(np.asarray(y).tolist()):
            target = TargetPair(samples[n], classes[label], c, detached=False)
            result[n] = Sample(samples[n], classes, label, target, Others()).z
    return result


def along(z: Any, axis: int, digits: int, function: Callable[[Reals], Reals]) -> Array:
    numbers = np.moveaxis(exact(z), axis, -1)
    result = filled(numbers.shape, NAN)
    with mp.workdps(digits + GUARD):
        for index in np.ndindex(numbers.shape[:-1]):
            row = list(numbers[index])
            if not undefined(row):
                result[index] = function(row)
    return np.moveaxis(result, -1, axis)


@untraced
def softmax(z: Any, axis: int = -1, digits: int = 60) -> Array:
    """The probabilities p_k = exp(z_k) / sum of exp(z_j)."""

    def of_row(row: Reals) -> Reals:
        base = Base.of(row)
        return [ratio / (1 + base.others) for ratio in base.ratios]

    return along(z, axis, digits, of_row)


@untraced
def log_softmax(z: Any, axis: int = -1, digits: int = 60) -> Array:
    """The logarithms of the probabilities, to all digits also where 1 - p_k is 1e-300."""

    def of_row(row: Reals) -> Reals:
        base = Base.of(row)
        return [(number - row[base.k]) - mp.log1p(base.others) for number in row]

    return along(z, axis, digits, of_row)


@untraced
def logsumexp(z: Any, axis: int = -1, digits: int = 60) -> Array:
    """The logarithm of the sum of exp(z_j); the axis goes."""
    numbers = np.moveaxis(exact(z), axis, -1)
    result = filled(numbers.shape[:-1], NAN)
    with mp.workdps(digits + GUARD):
        for index in np.ndindex(result.shape):
            row = list(numbers[index])
            if not undefined(row):
                base = Base.of(row)
                result[index] = row[base.k] + mp.log1p(base.others)
            elif not any(mp.isnan(number) for number in row):
                result[index] = max(row)
    return result


@untraced
def cross_entropy(
    z: Any,
    y: Any,
    *,
    label_smoothing: float = 0.0,
    class_weight: Sequence[float] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    logit_scale: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    digits: int = 60,
    absolute: bool = False,
) -> Any:
    """The cross entropy of torch, classes on the last axis: -sum over k of t_k log p_k for each row, and the reduction.

    Logits are scaled and capped first; `z_loss` times the square of the log-sum-exp is added to every row, with a mean
    of its own. `absolute` takes |t_k| and |n| of "mean": what the terms add up to before targets of both signs cancel;
    of a square lse^2 + 2 |lse| (1 + |M| + log1p(.)).
    """
    settings = Settings(label_smoothing, class_weight, ignore_index, reduction, logit_scale, softcap, z_loss)
    numbers = exact(z)
    with mp.workdps(digits + GUARD):
        rows_of_z = numbers.reshape(-1, numbers.shape[-1])
        batch = Batch.of(y, numbers.shape, settings)
        batch = batch.absolute() if absolute else batch
        losses, terms = [mpf(0)] * len(rows_of_z), [mpf(0)] * len(rows_of_z)
        for n, targets in enumerate(batch.targets):
            if targets is not None:
                z = list(rows_of_z[n])
                with mp.workdps(mp.dps + settings.cap.places(z)):
                    row = Row(z, targets, cap=settings.cap)
                    losses[n], terms[n] = row.value(), batch.z_loss * row.square(absolute)
        return batch.reduce(losses, terms)


@untraced
def softcap(z: Any, logit_scale: float = 1.0, softcap: float | None = None, digits: int = 60) -> tuple[Array, Array]:
    """The scaled and capped logits sigma z or K tanh(sigma z / K), and their slopes, each right relative to itself."""
    numbers, cap = exact(z), Settings(0.0, None, -100, "mean", logit_scale, softcap).cap
    capped, slopes = filled(numbers.shape, NAN), filled(numbers.shape, NAN)
    for index in np.ndindex(numbers.shape):
        with mp.workdps(2 * digits + GUARD + cap.places([numbers[index]])):
            if mp.isnan(numbers[index]):
                continue
            step = mpf(10) ** -(digits + GUARD // 2) / cap.steepness()
            capped[index] = cap.of(numbers[index])
            up, down = (cap.change(numbers[index], sign * step) for sign in (1, -1))
            slopes[index] = (up - down) / (2 * step)
    return capped, slopes


@untraced
def triplet(
    anchor: Any,
    positive: Any,
    negative: Any,
    *,
    m: float = 0.2,
    squared: bool = True,
    reduction: str = "mean",
    digits: int = 60,
) -> Any:
    """The hinge max(0, d(a, p) - d(a, n) + m) with the squared Euclidean distance, or the plain one."""
    inputs = (exact(anchor), exact(positive), exact(negative))
    triples = [Triple.of(*three, m, squared) for three in zip(*inputs, strict=True)]
    with mp.workdps(digits + GUARD):
        losses = [max(mpf(0), triple.hinge(digits)) for triple in triples]
        return Batch.plain(len(losses), reduction).reduce(losses)
