"""Errors of what stands for the cosines of classes that are not the target: hard ones, and those of CircleLoss."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.stages import angle, margin, negatives
from refloss.testing.errors.angle import angle_error, arccos_error
from refloss.testing.errors.arithmetic import Arithmetic
from refloss.testing.errors.cosine import Head
from refloss.testing.signatures import is_on_cosine


class NegativesError(NamedTuple):
    """Errors of η, and its slope (N, C)."""

    eta: Array
    """Of η."""
    slope: Array
    """dη/dc."""
    of_slope: Array
    """Its error."""


def threshold_error(head: Head, settings: margin.Settings, cosine: Array, a: Arithmetic) -> tuple[Array, Array]:
    """Return the threshold τ = cos φ - m3 of hard classes (N,), and its error by the angle or by the cosine.

    cosine is the error of the target's cosine (N,). CircleLoss has -m3 for all, which is rounded.
    """
    if settings.boundary == margin.CIRCLE:
        return np.full_like(cosine, -settings.m3), np.full_like(cosine, a.u * settings.m3)
    here = margin.turned(angle.of(head.theta), settings)
    tau = (here.cos_phi - settings.m3).hi
    if is_on_cosine(settings):
        return tau, cosine + a.u * (3.0 + 2.0 * np.abs(tau) + settings.m3)
    off = np.maximum(angle_error(head.theta, a.sum_of(head.x.shape[1]), a), arccos_error(head.theta, cosine))
    m2, m3 = settings.m2, settings.m3
    steep = np.abs(here.sin_phi.hi)
    evaluated = 4.0 + 2.0 * np.abs(tau) + 2.0 * steep * (head.theta + m2) + m2 + m3
    return tau, np.asarray(steep * off + off**2 / 2.0 + a.u * evaluated)


def negatives_error(
    c: Array, of_c: Array, threshold: tuple[Array, Array], settings: negatives.Settings, a: Arithmetic
) -> NegativesError:
    """Return η' and the errors of η and of η', from cosines and their errors (N, C), and the threshold with its own.

    A class that is as near to the threshold as the errors of both may be hard or not.
    """
    tau, of_tau = (part[:, None] for part in threshold)
    t, hard = settings.t, c > tau
    easy, flat = (np.zeros_like(c), 0.0) if settings.rule == "circle" else (c, 1.0)  # η and dη/dc of all others
    if settings.rule == "curricular":
        raised, steep, bend, turn = c * (t + c), t + 2.0 * c, 2.0, 2.0
        rounded = 2.0 * np.abs(raised) + 2.0 * np.abs(c) * (np.abs(c) + np.abs(t))
    elif settings.rule == "circle":  # as a product of two sums, or as a difference of two squares
        raised, bend, turn = (c - t) * (c + t), 2.0, 1.0 if settings.gradient == "detached" else 2.0
        steep = c + t if settings.gradient == "detached" else 2.0 * c
        rounded = 3.0 * np.abs(raised) + (np.abs(c) + t) ** 2 + 4.0 * t**2
    else:
        raised, steep, bend, turn = (1.0 + t) * c + t, (1.0 + t) * np.ones_like(c), 0.0, 0.0
        rounded = 4.0 * (1.0 + t) * np.abs(c) + 3.0 * t
    near = np.abs(c - tau) <= of_c + of_tau
    either = hard | near
    most = np.where(near, np.maximum(np.abs(steep), flat), np.where(hard, np.abs(steep), flat))
    of_eta = most * of_c + either * (bend * of_c**2 / 2.0 + a.u * rounded) + near * np.abs(raised - easy)
    of_slope = either * (turn * of_c + 3.0 * a.u * (np.abs(steep) + turn + np.abs(t))) + near * np.abs(steep - flat)
    return NegativesError(of_eta, np.where(hard, steep, flat), of_slope)
