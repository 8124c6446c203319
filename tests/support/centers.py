"""Centers of a class at nearly the same angle to an embedding, and which of them an engine takes for the nearest."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from support.exact.numbers import rows
from support.exact.others import nearest

Random = np.random.Generator
Inputs = tuple[np.ndarray, np.ndarray, np.ndarray]


def near(random: Random, classes: int, count: int, d: int = 4) -> Inputs:
    """One sample; the centers of a class are at one angle to it, as far as float64 can build that, between 0.8 and 1.2.

    The order of a class's centers by angle is then that of rounding errors, of vectors and cosines alike.
    """
    x = random.standard_normal((1, d))
    unit = x[0] / np.linalg.norm(x[0])
    across = random.standard_normal((classes, count, d))
    across -= (across @ unit)[..., None] * unit
    across /= np.linalg.norm(across, axis=2, keepdims=True)
    alpha, lengths = random.uniform(0.8, 1.2, (classes, 1, 1)), random.uniform(0.5, 2.0, (classes, count, 1))
    return x, lengths * (np.cos(alpha) * unit + np.sin(alpha) * across), np.array([0])


def ties() -> Inputs:
    """Centers that have the same entries in other orders, beside x of equal entries: at the same angle exactly.

    The first class has three of them, of the second the last is nearer, of the third the first is further away; those
    of the fourth are opposite to these.
    """
    own = np.arange(1.0, 17.0)
    same = np.array([own, own[::-1], np.roll(own, 5)])
    w = [same, same + 1e-13 * np.array([[0.0], [0.0], [1.0]]), same - 1e-13 * np.array([[1.0], [0.0], [0.0]]), -same]
    return np.ones((1, 16)), np.array(w), np.array([0])


def truth(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Which center is nearest, for every sample and class (N, C), by integers."""
    return np.array([[nearest(row, rows(centers)) for centers in w] for row in rows(x)])


def naive(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The same as float64 has it."""
    c, k, d = w.shape
    unit = w / np.linalg.norm(w, axis=2, keepdims=True)
    return np.asarray(((x / np.linalg.norm(x)) @ unit.reshape(-1, d).T).reshape(len(x), c, k).argmax(axis=2))


def taken(loss: Any, x: np.ndarray, w: np.ndarray, y: np.ndarray, **options: Any) -> np.ndarray:
    """Which center of each class an engine takes for the nearest to one sample: the only one that has a gradient."""
    _, gradients = loss.value_and_grad(x, w, y, **options)
    has_gradient = gradients.w.any(axis=2)
    assert gradients.w.shape == w.shape
    assert (has_gradient.sum(axis=1) == 1).all()
    return np.asarray(has_gradient.argmax(axis=1))[None]


def angle_apart(x: np.ndarray, w: np.ndarray) -> float:
    """The largest difference between the angles of two centers of a class, as float64 has it."""
    theta = np.arccos((w @ x[0]) / np.linalg.norm(w, axis=2) / math.hypot(*x[0]))
    return float(np.ptp(theta, axis=1).max())
