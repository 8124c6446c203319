"""Errors of margins that depend on the length of the embedding, and of what the loss has through that length."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array, Pair, high
from refloss.stages import margin, quality
from refloss.testing.errors.arithmetic import Arithmetic

QUOTIENT = 6.0
"""Roundings of v relative to itself: h, ε, the sum σ + ε, quotient, product, and one of the result."""


class Held(NamedTuple):
    """Lengths held between two bounds."""

    a: Array
    """a (N,)."""
    kappa: float
    """Relative error of a length."""
    reached: NDArray[np.bool_]
    """Whether the length is between the bounds, or as near to one as its error (N,)."""
    undecided: NDArray[np.bool_]
    """Whether it is as near to one as its error (N,)."""
    of_v: Array
    """Error of v (N,)."""


class SampleMargins(NamedTuple):
    """Margins of samples: the number v that each depends on, and their errors."""

    v: quality.Quality
    of_m2: Array
    """Error of m2 (N,)."""
    of_m3: Array
    """Error of m3 (N,)."""


def magnitudes(own: margin.Settings | margin.Own) -> tuple[Array, Array]:
    """Return the magnitudes of m2 and m3, of each sample where they depend on it."""
    m2, m3 = (high(m) if isinstance(m, Pair) else m for m in (own.m2, own.m3))
    return np.abs(m2), np.abs(m3)


def quality_error(length: Array, settings: quality.Settings, d: float, a: Arithmetic) -> Held:
    """Return held lengths, and the error of v = p + q a; d is K_D.

    A length is the root of a sum of squares, as in a direction, and is rounded once more. p and q a may cancel, and
    both come from rounded constants.
    """
    low, high, p, q = (float(number) for number in settings[:4])
    kappa = (d / 2.0 + 2.0) * a.u
    held = np.clip(length, low, high)
    reach = kappa * length
    undecided = (np.abs(length - low) <= reach + a.u * low) | (np.abs(length - high) <= reach + a.u * high)
    reached = undecided | ((low <= length) & (length <= high))
    v = p + q * held
    of_v = q * kappa * held + a.u * (QUOTIENT * np.abs(v) + 2.0 * (q * held + abs(p)))
    return Held(held, kappa, reached, undecided, of_v)


def margins_error(v: quality.Quality, of_v: Array, settings: margin.Settings, a: Arithmetic) -> SampleMargins:
    """Return the errors of m2 + b2 v and m3 + b3 v: a constant, two that may be subtracted, a product and a sum."""
    number, errors = high(v.value), []
    parts = settings.by_quality, magnitudes(settings), magnitudes(margin.at(settings, v))
    for b, constant, whole in zip(*parts, strict=True):
        size = np.abs(float(b) * number)
        rounded = 4.0 * size + 3.0 * constant + whole
        errors.append(abs(float(b)) * of_v + a.u * np.where(size > 0.0, rounded, 0.0))
    return SampleMargins(v, *errors)


def regularizer_error(held: Held, settings: quality.Settings, own: float, a: Arithmetic) -> tuple[Array, Array]:
    """Return the terms λ (a/u² + 1/a) of the loss (N,), and their errors: two quotients, the constants, the sum."""
    terms = settings.regularizer * (held.a / float(settings.high) ** 2 + 1.0 / held.a)
    return terms, (held.kappa + 7.0 * a.u + own) * terms


def length_error(
    held: Held, settings: quality.Settings, by_v: Array, of_by_v: Array, weights: Array, own: float, a: Arithmetic
) -> Array:
    """Return the error of dL/d‖x‖ (N,) from |dL/dv|, its error, and the row weights of the regularizer (N,).

    Next to a bound the whole slope may be there or not.
    """
    q = 0.0 if settings.detached else float(settings.factor)
    terms = np.abs(weights) * settings.regularizer * (1.0 / float(settings.high) ** 2 + 1.0 / held.a**2)
    whole = q * by_v + terms
    error = q * of_by_v + (3.0 * held.kappa + 8.0 * a.u + own) * whole
    return np.where(held.reached, error, 0.0) + np.where(held.undecided, whole, 0.0)
