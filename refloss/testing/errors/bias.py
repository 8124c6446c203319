"""Errors of logits behind a bias, and of the bound that may hold them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.testing.errors.arithmetic import Arithmetic


class Biased(NamedTuple):
    """Logits behind a bias and a bound (N, C)."""

    z: Array
    """z'."""
    of_z: Array
    """Their error."""
    passes: NDArray[np.bool_]
    """Which are within the bound, and pass their gradient on."""
    either: NDArray[np.bool_]
    """Which are as near to the bound as their error: the gradient may be passed on or not."""


def bias_error(z: Array, of_z: Array, b: float, bound: float | None, a: Arithmetic) -> Biased:
    """Return logits z + b held within ±K and their errors, from logits and their errors (N, C); K is the bound.

    The sum is rounded once. Beyond K a logit is K, rounded, unless it is as near as its error; one that is held moves
    no further than it would without. The bias is an input, and exact.
    """
    shifted = z + b
    of_shifted = of_z + a.u * np.abs(shifted)
    if bound is None:
        return Biased(shifted, of_shifted, np.full(z.shape, True), np.full(z.shape, False))
    beyond, of_bound = np.abs(shifted) - bound, a.u * bound
    either = np.abs(beyond) <= of_shifted + of_bound
    held = np.where((beyond > 0.0) & ~either, of_bound, of_shifted + of_bound * either)
    return Biased(np.clip(shifted, -bound, bound), held, beyond <= 0.0, either)
