r"""Curves of a loss in the plane: what one sample, its target and copies of one other class give, in plain float64.

They are for fitting alone, where speed counts: what a fit says is tested with the losses themselves, see `verify`.
Symbols: θ the target's angle, θ' that of the other class, of which there are n copies; a the length of the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refloss.error_free import Array
from refloss.stages import class_angles, margin, negatives, quality
from refloss.testing.signatures import (
    Loss,
    class_angles_of,
    head_of,
    link_of,
    margin_of,
    negatives_of,
    quality_of,
    scale_of,
)


class Points(NamedTuple):
    """Inputs in the plane, and the values that were measured there (P,)."""

    theta: Array
    """θ."""
    other: Array
    """θ'."""
    copies: Array
    """n."""
    length: Array
    """a."""
    value: Array
    """The value of one sample."""

    @classmethod
    def of(cls, rows: list[tuple[float, float, float, float, float]]) -> Points:
        """Collect rows; those that are not finite are left out."""
        table = np.array(rows, dtype=np.float64).reshape(-1, 5)
        return cls(*table[np.isfinite(table).all(axis=1)].T)

    def __add__(self, more: object) -> Points:
        """Return the points of both."""
        assert isinstance(more, Points)
        return Points(*(np.concatenate(pair) for pair in zip(self, more, strict=True)))


class Outer(NamedTuple):
    """What is done to the loss of a sample: multiplied by a factor, and a constant added."""

    factor: float = 1.0
    constant: float = 0.0

    def has(self, name: str, value: float) -> bool:
        """Whether one of the two is this number; False for any other name."""
        return name in self._fields and float(getattr(self, name)) == value


AS_IT_IS = Outer()
"""Neither."""


def psi_of(theta: Array, m1: ArrayLike, m2: ArrayLike, m3: ArrayLike, boundary: str, eps: float = 0.0) -> Array:
    """Return ψ(θ), see `refloss.stages.margin`; arguments broadcast."""
    theta, m1, m2, m3 = (np.asarray(entry, dtype=np.float64) for entry in (theta, m1, m2, m3))
    phi, cos = m1 * theta + m2, np.cos(theta)
    inside = np.cos(phi) - m3
    beyond = phi > math.pi
    folds = np.floor(phi / math.pi)
    past: dict[str, Callable[[], tuple[Any, Any]]] = {
        "hard": lambda: (beyond, cos - m2 * np.sin(m2) - m3),
        "easy": lambda: (cos <= 0.0, cos - m3),
        "keep": lambda: (beyond, cos - m3),
        "continuous": lambda: (beyond, cos - np.cos((math.pi - m2) / m1) - 1.0 - m3),
        "monotone": lambda: (beyond, (1.0 - 2.0 * (folds % 2.0)) * np.cos(phi) - 2.0 * folds - m3),
        "clamp": lambda: (beyond, -1.0 - m3),
        "min": lambda: (inside > cos, cos),
        "conditional": lambda: (cos <= m3, cos),
        "acute": lambda: (cos <= 0.0, cos),
        "clip": lambda: ((phi < eps) | (phi > math.pi - eps), np.cos(np.clip(phi, eps, math.pi - eps)) - m3),
    }
    if boundary == "none":
        return np.asarray(inside)
    where, other = past[boundary]()
    return np.asarray(np.where(where, other, inside))


def target(loss: Loss, theta: Array, length: Array) -> tuple[Array, Array]:
    """Return ψ and the threshold of hard classes."""
    settings, of_length = margin_of(loss), quality_of(loss)
    cos = np.cos(theta)
    m1, m2, m3 = (np.asarray(m, dtype=np.float64) for m in (settings.m1, settings.m2, settings.m3))
    if settings.boundary == margin.CIRCLE:
        return m3**2 - (1.0 - cos) ** 2, np.broadcast_to(-m3, theta.shape)
    if settings.boundary == margin.POWER:
        return 2.0 * ((1.0 + cos) / 2.0) ** settings.power - 1.0 - m3, cos
    if of_length is not None:
        v = number_of(of_length, length)
        m2, m3 = (m + float(by) * v for m, by in zip((m2, m3), settings.by_quality, strict=True))
    psi = psi_of(theta, m1, m2, m3, settings.boundary, settings.eps)
    psi = (settings.annealing * cos + psi) / (1.0 + settings.annealing)
    return psi, np.cos(m1 * theta + m2) - m3


def number_of(settings: quality.Settings, length: Array) -> Array:
    """Return the number per sample that margins depend on."""
    held = np.clip(length, float(settings.low), float(settings.high))
    return np.asarray(float(settings.offset) + float(settings.factor) * held)


def terms_of(loss: Loss, length: Array) -> Array | float:
    """Return the regularizer of lengths, 0 of a loss that has none."""
    settings = quality_of(loss)
    if settings is None:
        return 0.0
    held = np.clip(length, float(settings.low), float(settings.high))
    return settings.regularizer * (held / float(settings.high) ** 2 + 1.0 / held)


def others(loss: Loss, points: Points, threshold: Array) -> tuple[Array, Array]:
    """Return η of the other class, and how many of its copies have it; the others have its cosine."""
    cos, of_hard, of_angles = np.cos(points.other), negatives_of(loss), class_angles_of(loss)
    every = points.copies
    if of_hard is not None:
        return hard(cos, threshold, of_hard), every
    if of_angles is None:
        return cos, every
    if of_angles.rule == "nearest":
        return np.cos(points.other - of_angles.m), np.minimum(every, float(of_angles.k))
    return eta_of(points.other, of_angles), every


def hard(cos: Array, threshold: Array, settings: negatives.Settings) -> Array:
    """Return η of hard classes."""
    t = settings.t
    raised = {
        "curricular": lambda: cos * (t + cos),
        "reweighted": lambda: (1.0 + t) * cos + t,
        "circle": lambda: cos**2 - t**2,
    }[settings.rule]()
    return np.where(cos > threshold, raised, 0.0 if settings.rule == "circle" else cos)


def eta_of(other: Array, settings: class_angles.Settings) -> Array:
    """Return η of angles that are divided, or of their cosines through a power."""
    if settings.rule == "divided":
        return np.asarray(np.cos(other / settings.m))
    return np.asarray(2.0 * ((1.0 + np.cos(other)) / 2.0) ** settings.k - 1.0 + settings.m)


def softplus(a: Array) -> Array:
    """log(1 + e^a)."""
    return np.asarray(np.logaddexp(0.0, a))


def predicted(loss: Loss, points: Points, outer: Outer = AS_IT_IS) -> Array:
    """Return the values of a loss on directions at the points."""
    psi, threshold = target(loss, points.theta, points.length)
    eta, changed = others(loss, points, threshold)
    own = scale_of(loss)
    scale = points.length if own is None else np.full(len(points.length), own)
    z, z_other, z_rest = scale * psi, scale * eta, scale * np.cos(points.other)
    if head_of(loss) == "sigmoid":
        link = link_of(loss)
        if link.bound is not None:
            z, z_other = (np.clip(each, -link.bound, link.bound) for each in (z, z_other))
        rows = float(link.positive) * softplus(-z) + float(link.negative) * points.copies * softplus(z_other)
        return outer.factor * rows + outer.constant
    with np.errstate(divide="ignore"):
        gap = np.logaddexp(z_other + np.log(changed), z_rest + np.log(points.copies - changed)) - z
    return outer.factor * (softplus(gap) + terms_of(loss, points.length)) + outer.constant
