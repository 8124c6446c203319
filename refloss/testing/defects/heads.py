"""The parts that the logits of a margin loss are made of, from which they are computed with one of them changed.

Symbols: embeddings x (N, D); cosines c (N, C); θ the angle of the target, ψ what stands for its cosine, τ the threshold
of hard classes, v the number that a margin depends on, r the terms of a regularizer (N,). All are float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array, Pair, high
from refloss.stages import angle, class_angles, margin, negatives, normalize, quality
from refloss.testing.defects.kept import Kept
from refloss.testing.defects.loss_rows import Scores
from refloss.testing.signatures import (
    Inputs,
    Loss,
    class_angles_of,
    given_margin,
    ignore_index_of,
    is_on_cosine,
    margin_of,
    negatives_of,
    numbers_of,
    quality_of,
    scale_of,
    target_logit,
)


class Parts(NamedTuple):
    """What a value is made of."""

    loss: Loss
    settings: margin.Settings
    """Settings of the curve."""
    y: NDArray[np.int64]
    """Labels (N,); of ignored rows, 0."""
    length: Array
    """Lengths of embeddings (N,)."""
    c: Array
    """Cosines (N, C)."""
    angles: Array
    """Their angles (N, C)."""
    v: quality.Quality | None
    psi: Array
    tau: Array
    terms: Array
    """r (N,)."""

    @property
    def target(self) -> Array:
        """The target's cosine (N,)."""
        return np.asarray(self.c[np.arange(len(self.y)), self.y])

    @property
    def theta(self) -> Array:
        """θ (N,)."""
        return np.asarray(self.angles[np.arange(len(self.y)), self.y])

    @property
    def margins(self) -> tuple[Array, Array]:
        """m2 and m3 of each sample (N,)."""
        own = margin.at(self.settings, self.v)
        m2, m3 = (np.broadcast_to(high(m) if isinstance(m, Pair) else m, self.y.shape) for m in (own.m2, own.m3))
        return np.asarray(m2), np.asarray(m3)

    @property
    def eta(self) -> Array:
        """What stands for the cosines of other classes (N, C)."""
        of_hard, of_angles = negatives_of(self.loss), class_angles_of(self.loss)
        if of_angles is not None:
            return turned(of_angles, self, nearest(self.c, self.y, of_angles.k))
        if of_hard is None:
            return self.c
        rest = 0.0 if of_hard.rule == "circle" else self.c
        return np.where(self.c > self.tau[:, None], raised(of_hard, self.c), rest)

    def scores(self) -> Scores:
        """Return the logits, and the terms of a regularizer."""
        return self.scores_with(self.eta)

    def scores_with(self, eta: Array) -> Scores:
        """Return the logits with other η (N, C)."""
        f = eta.copy()
        f[np.arange(len(self.y)), self.y] = self.psi
        return self.scores_of(f)

    def scores_of(self, f: Array) -> Scores:
        """Return the logits from what is scaled (N, C), ψ at the targets."""
        s = scale_of(self.loss)
        return Scores((self.length[:, None] if s is None else s) * f, self.terms)


def raised(settings: negatives.Settings, c: Array) -> Array:
    """Return what cosines of hard classes become."""
    if settings.rule == "circle":
        return (c - settings.t) * (c + settings.t)
    return c * (settings.t + c) if settings.rule == "curricular" else c + (settings.t * c + settings.t)


def nearest(c: Array, y: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Return the k other classes of the largest cosines, of equal ones the first (N, C)."""
    others = c.copy()
    others[np.arange(len(y)), y] = -np.inf
    return np.asarray((-others).argsort(axis=1, kind="stable").argsort(axis=1) < k)


def turned(settings: class_angles.Settings, parts: Parts, chosen: NDArray[np.bool_]) -> Array:
    """Return η of all classes, or of those that are chosen (N, C)."""
    if settings.rule == "divided":
        return np.asarray(np.cos(parts.angles / settings.m))
    return np.where(chosen, np.cos(parts.angles - settings.m), parts.c)


def cosines_of(x: Array, w: Array) -> Array:
    """Return the products of rows (N, C), or with all centers (N, C, K)."""
    c = x @ w.reshape(-1, w.shape[-1]).T
    return np.asarray(c.reshape(len(x), *w.shape[:-1]))


_GEOMETRIES: Kept[tuple[Array, Array, Array]] = Kept(16)


def _geometry(x: Array, w: Array) -> tuple[Array, Array, Array]:
    """Return lengths of embeddings (N,), cosines and angles (N, C)."""
    return _GEOMETRIES.once((x, w), lambda: _new_geometry(x, w))


def _new_geometry(x: Array, w: Array) -> tuple[Array, Array, Array]:
    length = np.linalg.norm(x, axis=1)
    c = cosines_of(x / length[:, None], w / np.linalg.norm(w, axis=-1, keepdims=True))
    if w.ndim == 3:
        c = c.max(axis=2)
    angles = np.arccos(np.clip(c, -1.0, 1.0))
    if w.ndim == 2:
        n, k = np.nonzero(np.abs(c) > 1.0 - class_angles.STEEP)  # there a cosine does not know its angle
        angles[n, k] = angle.forward(x[n], w[k])[0].theta.hi
    for part in (length, c, angles):
        part.flags.writeable = False
    return length, c, angles


def parts_of(loss: Loss, inputs: Inputs, c: Array | None = None) -> Parts:
    """Return the parts of a value on some inputs, from their cosines or from others, of all centers or of classes."""
    x, w, labels, *given = inputs
    y = np.where(labels == ignore_index_of(loss), 0, labels)
    length, own, angles = _geometry(x, w)
    if c is None:
        c = own
    else:  # a cosine that is as it was keeps its angle, and has no errors of an arccos
        c = c.max(axis=2) if c.ndim == 3 else c
        angles = np.where(c == own, angles, np.arccos(np.clip(c, -1.0, 1.0)))
    settings, v = given_margin(loss) if given else margin_of(loss), numbers_of(loss, x, *(given or (None,)))
    terms, of_length = np.zeros(len(x)), quality_of(loss)
    if of_length is not None and of_length.regularizer:
        terms = quality.forward(x, normalize.forward(x), of_length)[1].hi
    parts = Parts(loss, settings, y, length, c, angles, v, np.zeros(len(x)), np.zeros(len(x)), terms)
    m2, m3 = parts.margins
    if settings.boundary == margin.CIRCLE:
        away = 1.0 - parts.target
        return parts._replace(psi=np.maximum(m3 + away, 0.0) * (m3 - away), tau=-m3)
    if is_on_cosine(settings):
        least = {"conditional": m3, "acute": 0.0 * m3}.get(settings.boundary, np.full(len(x), -np.inf))
        psi = np.where(parts.target > least, parts.target - m3, parts.target)
    else:
        psi = target_logit(settings, parts.theta, v)
    return parts._replace(psi=psi, tau=np.cos(settings.m1 * parts.theta + m2) - m3)
