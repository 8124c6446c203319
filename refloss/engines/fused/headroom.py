"""Headroom: numbers whose products and differences fit the dtype of the sweep; all others are left to the chain."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from refloss.error_free import Array, Numbers, Scaled, high
from refloss.formats import format_of
from refloss.stages import softcap

DType: TypeAlias = np.dtype[np.float64]
"""The dtype of a sweep: float64 or float32, as `Array` stands for arrays of either."""


class TooLargeError(ArithmeticError):
    """Numbers that may not fit the dtype: the chain says which, or has room for them."""


def is_single(dtype: DType) -> bool:
    """Whether a dtype is float32."""
    return bool(dtype == np.float32)


def max_logit(dtype: DType) -> float:
    """Return the largest logit at which nothing overflows."""
    return format_of(dtype).largest / 2.0**16


def check_options(settings: softcap.Settings) -> None:
    """Refuse a logit scale or a cap whose quotients and products the dtype might not hold."""
    for number in (settings.logit_scale, settings.softcap or 1.0):
        if not 2.0**-40 < number < 2.0**40:
            raise TooLargeError


def check_scale(scale: float) -> None:
    """Refuse a scale of hard classes whose quotients and products the dtype might not hold."""
    if not 2.0**-40 < scale < 2.0**40:
        raise TooLargeError


def check_lse_gradient(dtype: DType, *parts: Array) -> None:
    """Refuse gradients of log-sum-exps, or what they are added up from, whose products the dtype might not hold."""
    room = 2.0 ** (64 if is_single(dtype) else 300)
    for part in parts:
        if (np.abs(part) > room).any():  # NaN is of a row without probabilities
            raise TooLargeError


def check_targets(dtype: DType, *targets: Numbers) -> None:
    """Refuse targets whose products the dtype might not hold."""
    room = 2.0 ** (64 if is_single(dtype) else 300)
    for t in targets:
        if isinstance(t, Scaled):
            raise TooLargeError
        sizes = np.abs(high(t))
        sizes = sizes[sizes != 0.0]
        if not ((sizes >= 1.0 / room) & (sizes <= room)).all():
            raise TooLargeError
