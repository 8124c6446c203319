"""Classes built onto the threshold above which a class is hard, and which of them an engine takes for the wrong kind.

A threshold is τ = cos(θ + m) or cos θ - m. A class of dense numbers can be built to within 1e-16 of it, on either side,
where a cosine in float64 does not tell; where both cosines are square roots of rational numbers, it can lie on it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from mpmath import mp, mpf

import refloss
from support import exact
from support.exact.margins import Curve, TargetPair, curve
from support.exact.numbers import rows
from support.exact.others import Circle, Hard, others_of

Random = np.random.Generator
Inputs = tuple[np.ndarray, np.ndarray, np.ndarray]


def near(loss: Any, random: Random, classes: int, d: int = 4) -> Inputs:
    """One sample, its class, one nearly opposite to it, and classes within 1e-16 or so of the threshold."""
    x, own = random.standard_normal((2, 1, d))
    own[0] += x[0] * math.copysign(1.0, x[0] @ own[0])
    with mp.workdps(50):
        unit = exact.normalize(x)[0]
        pair = target_pair(loss, x, own)
        while not -0.9 < threshold(loss, pair) < 0.9:
            own[0] = random.standard_normal(d)
            pair = target_pair(loss, x, own)
        on_it, built = mp.acos(threshold(loss, pair)), []
        for k, across in enumerate(exact.exact(random.standard_normal((classes + 1, d)))):
            alpha = on_it if k else mpf(2.85)
            across = across - across @ unit * unit  # noqa: PLW2901
            tangent = across / mp.sqrt(across @ across)
            row = mpf(random.uniform(0.5, 2.0)) * (mp.cos(alpha) * unit + mp.sin(alpha) * tangent)
            built.append(row.astype(np.float64))
    return x, np.array([own[0], *built]), np.array([0])


def ties(m: float = 0.0) -> Inputs:
    """Classes on the threshold of an additive margin m, which is 0 or 1/4: equal, or apart by that, exactly."""
    x = np.ones((1, 16))
    four, one = (np.where(np.arange(16) < many, 1.0, 0.0) for many in (4, 1))
    if m == 0.0:  # any order of the same numbers
        own = np.arange(1.0, 17.0)
        w = [own, -own, own[::-1], np.roll(own, 5), 3.0 * np.roll(own, 7), own + 1e-13, own - 1e-13 * one]
    else:
        assert m == 0.25  # cosines 1/2 and 1/4
        w = [four, -four, one, np.roll(one, 3), 0.1 * np.roll(one, 5), one + 1e-15, one - 1e-15 * four]
    return x, np.array(w), np.array([0])


def at_minus(m: float) -> Inputs:
    """Classes at -m, which is 0, 1/4, 1/2 or 1, and next to it; class 1 is opposite."""
    x = np.ones((1, 16))
    four, one = (np.where(np.arange(16) < many, 1.0, 0.0) for many in (4, 1))
    signs = np.where(np.arange(16) % 2, 1.0, -1.0)
    at = {0.0: signs, 0.25: -one, 0.5: -four, 1.0: -x[0]}[m]
    below = 3.0 * np.roll(at, 3) + 1e-13 * signs
    return x, np.array([four + one, -x[0], at, 0.1 * np.roll(at, 5), below, at + 1e-15, at - 1e-15]), [0]


def threshold(loss: Any, pair: TargetPair) -> mpf:
    """What the cosine of a class is above that changes as hard classes do: the target's, or -m of CircleLoss."""
    return -mpf(loss.m) if isinstance(loss, refloss.CircleLoss) else pair.threshold()


def target_pair(loss: Any, x: np.ndarray, own: np.ndarray) -> TargetPair:
    (sample,), (label,) = rows(x), rows(own)
    return TargetPair(sample, label, Curve.of(**curve(loss)), detached=False)


def hard(loss: Any, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Which classes are hard, or above -m, for one sample of class 0: exactly, or to as many digits as it takes."""
    with mp.workdps(60):
        others = others_of(loss, *rows(x), rows(w), 0, target_pair(loss, x, w[:1]).threshold)
    assert isinstance(others, Hard | Circle)
    return np.isin(np.arange(len(w)), list(others.hard))


def misjudged(loss: Any, x: np.ndarray, w: np.ndarray, y: np.ndarray, **options: Any) -> int:
    """How many classes a result of an engine has for the wrong kind; class 1 is none that could be hard.

    The gradient of w_k is e^(s eta_k) eta'_k sin theta_k / |w_k| times what all classes share, so its ratio to that of
    class 1 is one of two numbers.
    """
    truth = hard(loss, x, w)
    assert not truth[1]
    _, gradients = loss.value_and_grad(x, w, y, **options)
    if isinstance(loss, refloss.CircleLoss):  # classes at -m and below have no gradient at all
        found = np.asarray(gradients.w)[2:].any(axis=1)
        return int((found != truth[2:]).sum())
    sizes = np.linalg.norm(np.asarray(gradients.w, np.float64), axis=1) * np.linalg.norm(w, axis=1)
    c = exact.cosine(x, w)[0].astype(np.float64)
    sine = np.sin(exact.angle(np.repeat(x, len(w), axis=0), w).astype(np.float64))
    curricular = isinstance(loss, refloss.CurricularFace)
    raised = c * (loss.t + c) if curricular else (1.0 + loss.t) * c + loss.t
    slope = loss.t + 2.0 * c if curricular else np.full(len(c), 1.0 + loss.t)
    ratio = np.log(sizes[2:] / sizes[1]) - np.log(sine[2:] / sine[1])
    as_hard = loss.s * (raised[2:] - c[1]) + np.log(np.abs(slope[2:]))
    as_easy = loss.s * (c[2:] - c[1])
    assert (np.abs(as_hard - as_easy) > 0.1).all(), "the two kinds are too much alike"
    found = np.abs(ratio - as_hard) < np.abs(ratio - as_easy)
    assert np.minimum(np.abs(ratio - as_hard), np.abs(ratio - as_easy)).max() < 0.01
    return int((found != truth[2:]).sum())
