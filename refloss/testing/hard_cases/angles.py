"""Embeddings at chosen angles from their classes, and of chosen probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np

from refloss.error_free import Array
from refloss.testing.hard_cases.case import Labels, Setting
from refloss.testing.signatures import Inputs, Loss, MarginLoss, head_of, margin_of, scale_of

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


def at_angles(setting: Setting, y: Labels, theta: tuple[float, float]) -> Inputs:
    """Return embeddings whose angles from their classes are evenly spaced between two angles."""
    w, own, tangent = _tangents(setting, y)
    angles = np.linspace(*theta, setting.size.n)[:, None]
    return np.cos(angles) * own + np.sin(angles) * tangent, w, y


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
    loss, each = setting.loss, np.arange(n)
    by_length = head_of(loss) == "linear" or scale_of(loss) is None
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
                else (middle, cast(float, scale_of(loss)))
            )
            z = z if by_length else scale * z
            z[each, y] = scale * cast(MarginLoss, loss).target_logit(theta)
        target = z[each, y].copy()
        z[each, y] = -np.inf
        more = target - log_sum_exp(z) < log_odds(n)
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return embeddings(np.where(high == 100.0, 1.0, high) if by_length else high), w, y


def log_sum_exp(z: Array) -> Array:
    """Return log of the sum of exp over each row (N,)."""
    largest = z.max(axis=1, keepdims=True)
    return np.asarray(largest[:, 0] + np.log(np.exp(z - largest).sum(axis=1)))


def boundaries(loss: Loss) -> Iterator[tuple[str, float, str]]:
    """Yield the angles at which the curve of the target has a boundary or a fold: name, angle, reason."""
    margin = margin_of(loss)
    if margin.boundary in ("easy", "conditional"):
        yield "cosine", float(np.arccos(0.0 if margin.boundary == "easy" else margin.m3)), "the rule's boundary"
    elif margin.boundary == "min":
        yield "half", float(np.pi - margin.m2 / 2.0), "where the margin's curve meets the cosine"
    elif margin.m1 != 1.0 or margin.m2:
        for fold in range(1, int(margin.m1 + margin.m2 / np.pi) + 1):
            theta = (fold * np.pi - margin.m2) / margin.m1
            if 0.1 < theta < np.pi - 0.1:
                yield f"fold{fold}", float(theta), f"m1 theta + m2 = {fold} pi"
