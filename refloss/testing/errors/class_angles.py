"""Errors of what stands for the cosines of classes that are not the target, as curves of their angles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.stages import angle, class_angles
from refloss.testing.errors.angle import angle_error, arccos_error
from refloss.testing.errors.arithmetic import UNKNOWN, Arithmetic
from refloss.testing.errors.margin import CHORDS
from refloss.testing.errors.negatives import NegativesError
from refloss.testing.errors.normalize import Side


class Others(NamedTuple):
    """The other classes of every sample: true values, and which of them have curves (N, C)."""

    theta: Array
    """θ."""
    c: Array
    """cos θ."""
    chosen: NDArray[np.bool_]
    """Whose angles are changed."""
    either: NDArray[np.bool_]
    """Which are as near to being chosen, or not, as the errors of their cosines."""


class Turned(NamedTuple):
    """What gradients through the angles of other classes lose, relative to s |g| (N, C)."""

    chords: Array
    """Of each term of an angle's gradient, at rows of unit length."""
    unknown: Array
    """In any direction, where the dtype does not resolve the direction."""
    by_angle: NDArray[np.bool_]
    """Which have gradients through their angle."""

    @property
    def of_w(self) -> Turned:
        """The same for the gradient of class weights (C, N)."""
        return Turned(self.chords.T, self.unknown.T, self.by_angle.T)


def others_of(
    x: Array, w: Array, c: Array, of_c: Array, own: NDArray[np.int64], settings: class_angles.Settings
) -> Others:
    """Return the other classes; own is the target of each sample, and of_c the error of each cosine."""
    theta = np.arccos(np.clip(c, -1.0, 1.0))
    n, k = np.nonzero(np.abs(c) > 1.0 - class_angles.STEEP)  # there a cosine does not know its angle
    theta[n, k] = angle.forward(x[n], w[k])[0].theta.hi
    other = np.arange(c.shape[1]) != own[:, None]
    if settings.rule == "divided":
        return Others(theta, c, other, np.zeros_like(other))
    return Others(theta, c, *_nearest(np.where(other, c, -np.inf), np.where(other, of_c, 0.0), settings.k, other))


def _nearest(c: Array, of_c: Array, k: int, other: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which are the k largest cosines of each row, and which of them may be or not.

    One may be if its cosine may be as large as the k-th largest of what others are at least; it may not be if it may be
    as small as the next largest, with itself, of what they are at most.
    """
    if k >= c.shape[1] - 1:
        return other, np.zeros_like(other)
    place = np.argsort(np.argsort(-c, axis=1, kind="stable"), axis=1)
    least, most = np.sort(c - of_c, axis=1)[:, [-k]], np.sort(c + of_c, axis=1)[:, [-k - 1]]
    return other & (place < k), other & ~(c + of_c < least) & ~(c - of_c > most)


def class_angles_error(
    others: Others, of_c: Array, settings: class_angles.Settings, d: float, a: Arithmetic
) -> tuple[NegativesError, Turned]:
    """Return the errors of η and of dη/dc, from the errors of the cosines (N, C), and those of the angles' gradients.

    d is K_D. The angle is that of two lengths. What a cosine is wrong by is granted too, as far as the curve does not
    enlarge it: next to π an arccos loses digits.
    """
    theta, c, chosen, either = others
    sine, off = np.sin(theta), angle_error(theta, d, a)
    off = off + (arccos_error(theta, of_c) if a.angle == "arccos" else 0.0)
    divided = settings.rule == "divided"
    m1, m2 = (1.0 / settings.m, 0.0) if divided else (1.0, settings.m)
    phi = m1 * theta - m2
    eta, steep, bend = np.cos(phi), m1 * np.sin(phi), m1**2
    safe = np.maximum(sine, off)
    slope = steep / safe
    share = np.minimum(np.abs(slope), 1.0) if divided else 1.0
    moved = np.maximum(np.abs(steep) * off + bend * off**2 / 2.0, share * of_c)
    moved += a.u * (4.0 + 2.0 * np.abs(eta) + 2.0 * np.abs(steep) * (theta + m2))
    if settings.gradient == "detached":
        slope, of_slope, terms = np.ones_like(c), np.full_like(c, 4.0 * a.u), np.zeros_like(c)
        known, whole = np.full(c.shape, True), np.zeros_like(c)
    else:
        of_slope = (bend + np.abs(steep) / np.maximum(safe - off, safe / 8.0)) * off / safe
        of_slope += a.u * (8.0 * np.abs(slope) + 2.0 * bend * (theta + m2) / safe)
        # η' itself, or the two terms of the addition formula
        terms = np.abs(steep) if divided else sine * abs(np.cos(m2)) + np.abs(c) * np.sin(m2)
        known, whole = sine > 2.0 * off, 4.0 * (np.abs(steep) + bend * off)
    some = chosen | either
    of_eta = np.where(some, moved, of_c) + np.where(either, np.maximum(of_c - moved, 0.0) + np.abs(eta - c), 0.0)
    of_slope = np.where(some, of_slope, 0.0) + np.where(either, np.abs(slope - 1.0), 0.0)
    errors = NegativesError(of_eta, np.where(chosen, slope, 1.0), np.where(known | ~some, of_slope, UNKNOWN))
    chords = CHORDS * a.u * terms / np.maximum(sine, a.u)
    by_angle = chosen & (terms > 0.0)
    return errors, Turned(np.where(some, chords, 0.0), np.where(some & ~known, whole, 0.0), by_angle)


def turned_error(side: Side, turned: Turned, upstream: Array) -> Array:
    """Return the error of the gradient of rows (R, D) that goes through angles, from s |g| of each pair (R, S).

    As the errors of a target's own terms: of each pair the magnitudes of both rows, and their projection.
    """
    own, other, chords = np.abs(side.own), np.abs(side.other), turned.chords * upstream
    along = (chords * (1.0 + own @ other.T)).sum(axis=1, keepdims=True)
    terms = chords @ other + (chords.sum(axis=1, keepdims=True) + along) * own
    return np.asarray((terms + (turned.unknown * upstream).sum(axis=1, keepdims=True)) / side.lengths[:, None])
