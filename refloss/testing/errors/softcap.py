"""Errors of scaled and capped logits, and of the slope of the cap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.stages import softcap
from refloss.testing.errors.arithmetic import Arithmetic


class Capped(NamedTuple):
    """Scaled and capped logits."""

    z: Array
    """z' (N, C)."""
    of_z: Array
    """Their error."""
    slope: Array
    """dz'/dz."""
    of_slope: Array
    """Its error."""


def softcap_error(z: Array, of_z: Array, settings: softcap.Settings, a: Arithmetic) -> Capped:
    """Return capped logits with their errors, from logits and their errors (N, C).

    Scale and division are rounded once each, the tanh twice, its product with the cap once. A slope formed as 1 - tanh²
    is wrong by 7u absolutely, which only the standard "relative" does not accept: there it is 4e/(1 + e)².
    """
    sigma, cap = settings
    if settings == softcap.UNCHANGED:
        return Capped(z, of_z, np.ones_like(z), np.zeros_like(z))
    finite = np.isfinite(z)
    scaled = sigma * np.where(finite, z, 0.0)
    moved = sigma * np.where(finite, of_z, 0.0) + a.u * np.abs(scaled) * (1.0 if cap is None else 2.0)
    if cap is None:
        return Capped(np.where(finite, scaled, z), moved, np.full_like(z, sigma), np.zeros_like(z))
    tanh = np.where(finite, np.tanh(scaled / cap), np.copysign(1.0, z))
    e = np.exp(-2.0 * np.abs(scaled) / cap)
    sech2 = np.where(finite, 4.0 * e / (1.0 + e) ** 2, 0.0)
    rounded = sech2 * (2.0 * np.abs(scaled) / cap + 8.0) if a.log_p == "relative" else 7.0 * np.where(finite, 1.0, 0.0)
    # beyond first order a slope is moved by no more than all of it, or by the square of where it is steepest
    of_sech2 = np.minimum(2.0 * sech2 * np.abs(tanh) * moved / cap + (moved / cap) ** 2, 1.0) + a.u * rounded
    of_capped = np.minimum(sech2 * moved + moved**2 / cap, 2.0 * cap) + 4.0 * a.u * cap * np.abs(tanh)
    return Capped(cap * tanh, of_capped, sigma * sech2, sigma * of_sech2)
