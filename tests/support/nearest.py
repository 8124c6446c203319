"""Classes at nearly the same angle to an embedding, and which of them an engine takes for the k nearest."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from mpmath import mp, mpf

from support import exact
from support.exact.numbers import rows
from support.exact.others import nearest_classes

Random = np.random.Generator
Inputs = tuple[np.ndarray, np.ndarray, np.ndarray]


def near(random: Random, classes: int, d: int = 4) -> Inputs:
    """One sample, its class, and classes at one angle to it, as far as float64 can build that, between 0.8 and 1.2.

    Their order by angle is that of rounding errors, of vectors and cosines alike.
    """
    x, own = random.standard_normal((2, 1, d))
    alpha, built = mpf(random.uniform(0.8, 1.2)), []
    with mp.workdps(50):
        unit = exact.normalize(x)[0]
        for across in exact.exact(random.standard_normal((classes, d))):
            tangent = across - across @ unit * unit
            tangent = tangent / mp.sqrt(tangent @ tangent)
            row = mpf(random.uniform(0.5, 2.0)) * (mp.cos(alpha) * unit + mp.sin(alpha) * tangent)
            built.append(row.astype(np.float64))
    return x, np.array([own[0], *built]), np.array([0])


def ties(apart: float = 1e-100) -> Inputs:
    """Classes with the same cosine, multiples and other orders of each other, and two that are next to it."""
    x = np.array([[1.0, 1.0, 1.0, 1.0]])
    one = np.array([1.0, 2.0, 3.0, 0.0])
    w = [one[::-1], one, 0.25 * one, [3.0, 1.0, 2.0, apart], 4.0 * np.roll(one, 1), [3.0, 1.0, 2.0, -apart], one[::-1]]
    return x, np.array(w), np.array([0])


def truth(x: np.ndarray, w: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """Which classes are the k nearest of each sample (N, C): by integers."""
    samples, classes, chosen = rows(x), rows(w), np.zeros((len(x), len(w)), bool)
    for n, label in enumerate(y.tolist()):
        chosen[n, nearest_classes(samples[n], classes, label, k)] = True
    return chosen


def misjudged(loss: Any, x: np.ndarray, w: np.ndarray, y: np.ndarray, **options: Any) -> int:
    """How many classes of one sample a result of an engine has for the wrong kind.

    All have nearly one cosine, so the gradient of w_k is e^(s eta) |d eta / d theta| / |w_k| times what all share: of
    the nearest it is e^(s (cos(theta - m') - cos theta)) sin(theta - m') / sin theta times that of others.
    """
    _, gradients = loss.value_and_grad(x, w, y, **options)
    sizes = np.linalg.norm(np.asarray(gradients.w, np.float64), axis=1) * np.linalg.norm(w, axis=1)
    theta = float(exact.angle(x, w[1:2])[0])
    nearer = math.cos(theta - loss.penalty) - math.cos(theta)
    factor = loss.s * nearer + math.log(abs(math.sin(theta - loss.penalty) / math.sin(theta)))
    assert factor > 0.1, "the two kinds are too much alike"
    found = np.log(sizes[1:] / sizes[1:].min()) > factor / 2.0
    return int((found != truth(x, w, y, loss.k)[0, 1:]).sum())
