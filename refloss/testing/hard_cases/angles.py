"""Embeddings at chosen angles from their classes, and of chosen probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np

from refloss.error_free import Array, Pair, high
from refloss.formats import FORMATS
from refloss.stages import class_angles, margin
from refloss.testing.hard_cases.case import Labels, Setting
from refloss.testing.signatures import (
    Inputs,
    Loss,
    class_angles_of,
    has_other_curves,
    head_of,
    margin_of,
    negatives_of,
    numbers_of,
    quality_of,
    scale_of,
    target_logit,
)

SURE = 24
"""The most certain target has probability 1 - 2^-24, which float32 rounds to 1."""


def cosines(x: Array, w: Array) -> Array:
    """Return the cosine of each row of x and the same row of w (N,)."""
    return np.asarray((x * w).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(w, axis=1))


def unit(rows: Array) -> Array:
    """Return rows divided by their lengths; rows of zeros stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0.0, length, 1.0))  # in one dimension no tangent exists


def _tangents(setting: Setting, y: Labels) -> tuple[Array, Array, Array]:
    """Return unit class weights (C, D), those of the targets (N, D), and unit tangents at these (N, D)."""
    n, c, d = setting.size
    w = unit(setting.normal(c, d))
    tangent = setting.normal(n, d)
    tangent -= (tangent * w[y]).sum(axis=1, keepdims=True) * w[y]
    return w, w[y], unit(tangent)


def at_angles(setting: Setting, y: Labels, theta: tuple[float | Array, float | Array]) -> Inputs:
    """Return embeddings whose angles from their classes are evenly spaced between two angles.

    Each may be one number per sample (N,): then sample n is between its own two.
    """
    w, own, tangent = _tangents(setting, y)
    n = setting.size.n
    angles = np.linspace(*theta, n)
    angles = (angles[np.arange(n), np.arange(n)] if angles.ndim > 1 else angles)[:, None]
    return np.cos(angles) * own + np.sin(angles) * tangent, w, y


def sample_lengths(setting: Setting, least: float = 0.1, most: float = 0.9) -> Array | None:
    """Return lengths of embeddings (N,) between two shares of those that margins depend on; None if on none."""
    settings = quality_of(setting.loss) if head_of(setting.loss) == "margin" else None
    if settings is None:
        return None
    low, largest = float(settings.low), np.sqrt(FORMATS[setting.dtype].largest) / 2.0
    return np.asarray(
        np.linspace(least, most, setting.size.n) * (max(min(float(settings.high), largest), low) - low) + low
    )


def of_lengths(x: Array, lengths: Array | None) -> Array:
    """Return embeddings with other lengths; those of zeros stay."""
    return x if lengths is None else lengths[:, None] * unit(x)


def with_rivals(setting: Setting, y: Labels, theta: float) -> Inputs:
    """As `at_angles`, with every class that is no target at the same angle from one of the embeddings, elsewhere."""
    n, c, d = setting.size
    x, w, _ = at_angles(setting, y, (theta, theta))
    for place, rival in enumerate(np.setdiff1d(np.arange(c), y)):
        near = x[place % n]
        tangent = setting.normal(d)
        tangent -= (tangent @ near) * near
        w[rival] = near + theta * tangent / max(float(np.linalg.norm(tangent)), 1e-300)
    return x, w, y


def orthogonal(setting: Setting, y: Labels) -> Inputs:
    """Return embeddings along an axis, and weights of short numbers whose entry on that axis is 0 or 2^-16."""
    n, c, d = setting.size
    w = setting.rng.integers(-24, 25, (c, d)) / 16.0
    w[:, -1] += np.where(w[:, -1] < 0.0, -2.0, 2.0)  # no row of zeros
    axis = np.arange(c) % (d - 1)
    w[np.arange(c), axis] = np.where(np.arange(c) % 2 == 0, 2.0**-16, 0.0)
    x = np.zeros((n, d))
    x[np.arange(n), axis[y]] = 2.0 ** (np.arange(n) % 3)
    return x, w, y


def log_odds(n: int) -> Array:
    """Return log(p / (1 - p)) of p = 1 - 2^-k, k from 1 to 24, one per sample."""
    k = np.round(np.linspace(1.0, SURE, n)) if n > 1 else np.array([10.0])
    return np.asarray(np.log(np.exp2(k) - 1.0))


def certain(setting: Setting, y: Labels) -> Inputs | None:
    """Return embeddings whose targets have probability 1 - 2^-k, by bisection of their length or of their angle.

    The targets are of two classes. If D > 3, all other classes are at right angles to these, and none is a rival.
    """
    n, c, d = setting.size
    if c < 2 or d < 2:
        return None
    loss, each, lengths = setting.loss, np.arange(n), sample_lengths(setting)
    by_length = head_of(loss) == "linear" or (scale_of(loss) is None and lengths is None)
    y = np.where(np.arange(n) % 2 == 0, c - 1, y[0])
    w = unit(setting.normal(c, d))
    for target in dict.fromkeys(y) if d > 3 else ():
        others = np.arange(c) != target
        w[others] = unit(w[others] - (w[others] @ w[target])[:, None] * w[target])
    own, tangent = w[y], setting.normal(n, d)
    tangent = unit(tangent - (tangent * own).sum(axis=1, keepdims=True) * own)
    low, high = (np.full(n, 0.05), np.full(n, 100.0)) if by_length else (np.full(n, np.pi - 0.05), np.full(n, 0.05))

    turn = 0.1 if head_of(loss) == "margin" else 0.5

    def embeddings(place: Array) -> Array:
        at = place[:, None]
        x: Array = at * (own + turn * tangent) if by_length else np.cos(at) * own + np.sin(at) * tangent
        return x

    for _ in range(30):
        middle = (low + high) / 2.0
        z = embeddings(middle) @ w.T  # unit weights; unit embeddings too, unless their length is bisected
        if head_of(loss) == "margin":
            theta, scale = (
                (np.full(n, np.arctan(turn)), middle * np.hypot(1.0, turn))
                if by_length
                else (middle, np.asarray(lengths if scale_of(loss) is None else np.full(n, scale_of(loss))))
            )
            z = z if by_length else scale[:, None] * z
            if has_other_curves(loss):
                z[each, y] = -2.0 * scale  # no class is as far
                z = scale[:, None] * of_others(loss, z / scale[:, None])
            v = None if lengths is None else numbers_of(loss, lengths[:, None], None)
            z[each, y] = scale * target_logit(margin_of(loss), theta, v)
        target = z[each, y].copy()
        z[each, y] = -np.inf
        more = target - log_sum_exp(z) < log_odds(n)
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return embeddings(np.where(high == 100.0, 1.0, high) if by_length else high), w, y


def of_others(loss: Loss, c: Array) -> Array:
    """Return what curves for the other classes make of their cosines (N, C), the target's below -1."""
    of_hard, theta = negatives_of(loss), np.arccos(np.clip(c, -1.0, 1.0))
    if of_hard is not None:
        return np.asarray(np.maximum(c + of_hard.t, 0.0) * (c - of_hard.t))
    settings = cast(class_angles.Settings, class_angles_of(loss))
    if settings.rule == "divided":
        return np.asarray(np.cos(theta / settings.m))
    nearest = np.argsort(np.argsort(-c, axis=1), axis=1) < settings.k
    return np.where(nearest, np.cos(theta - settings.m), c)


def log_sum_exp(z: Array) -> Array:
    """Return log of the sum of exp over each row (N,)."""
    largest = z.max(axis=1, keepdims=True)
    return np.asarray(largest[:, 0] + np.log(np.exp(z - largest).sum(axis=1)))


class Boundary(NamedTuple):
    """A boundary of the curve of the target."""

    name: str
    theta: float | Array
    """Where it is, or where it is for each sample (N,)."""
    reason: str
    lengths: Array | None
    """Lengths of the embeddings, if margins depend on them."""


def boundaries(setting: Setting) -> Iterator[Boundary]:
    """Yield the angles at which the curve of the target has a boundary or a fold."""
    settings, lengths = margin_of(setting.loss), sample_lengths(setting)
    m1, m2 = settings.m1, _m2(setting, lengths)
    if settings.boundary in ("easy", "acute", "conditional"):
        least = float(settings.m3) if settings.boundary == "conditional" else 0.0
        if least < 1.0:  # beyond, the rule is the same at every angle
            yield Boundary("cosine", float(np.arccos(least)), "the rule's boundary", lengths)
    elif settings.boundary == "min":
        yield Boundary("half", np.pi - m2 / 2.0, "where the margin's curve meets the cosine", lengths)
    elif settings.boundary == "clip":
        for name, at, shares in (("least", settings.eps, (0.8, 0.95)), ("most", np.pi - settings.eps, (0.05, 0.2))):
            ends = sample_lengths(setting, *shares)
            theta = at - _m2(setting, ends)
            if np.all((theta > 0.05) & (theta < np.pi - 0.05)):
                yield Boundary(f"clip-{name}", theta, f"theta + m2 = {at:g}, where it is clipped", ends)
    elif m1 != 1.0 or np.any(m2):
        for fold in range(1, int(m1 + np.max(m2) / np.pi) + 1):
            theta = (fold * np.pi - m2) / m1
            if np.all((theta > 0.1) & (theta < np.pi - 0.1)):
                yield Boundary(f"fold{fold}", theta, f"m1 theta + m2 = {fold} pi", lengths)


def _m2(setting: Setting, lengths: Array | None) -> float | Array:
    """Return m2, of every sample where it depends on the length of its embedding."""
    settings = margin_of(setting.loss)
    if lengths is None:
        return settings.m2
    m2 = margin.at(settings, numbers_of(setting.loss, lengths[:, None], None)).m2
    return high(m2) if isinstance(m2, Pair) else m2


def beside_threshold(setting: Setting, y: Labels, off: float) -> Inputs:
    """Return classes at the threshold of hard ones, or so many radians beyond: each for one of the embeddings."""
    n, c, d = setting.size
    x, w, _ = at_angles(setting, y, (0.5, 0.9))
    settings = margin_of(setting.loss)
    theta = np.arccos(np.clip(cosines(x, w[y]), -1.0, 1.0))
    at = np.arccos(np.clip(np.cos(settings.m1 * theta + settings.m2) - settings.m3, -1.0, 1.0))
    for place, rival in enumerate(np.setdiff1d(np.arange(c), y)):
        near, angle = x[place % n], at[place % n] + off
        tangent = setting.normal(d)
        tangent -= (tangent @ near) * near
        w[rival] = np.cos(angle) * near + np.sin(angle) * tangent / max(float(np.linalg.norm(tangent)), 1e-300)
    return x, w, y
