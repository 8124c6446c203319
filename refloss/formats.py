"""Facts about dtypes: their names, bits, smallest and largest numbers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from refloss.messages import shown


class Format(NamedTuple):
    """What a binary floating-point format can hold."""

    bits: int
    """Bits of a significand, the hidden one included."""
    min_exponent: int
    """Exponent of the smallest normal number."""

    @property
    def u(self) -> float:
        """Unit roundoff: the largest relative error of rounding to nearest."""
        return 2.0**-self.bits

    @property
    def smallest(self) -> float:
        """Smallest normal number."""
        return 2.0**self.min_exponent

    @property
    def spacing(self) -> float:
        """Smallest number above 0: the distance of all numbers below the smallest normal one."""
        return 2.0 ** (self.min_exponent - self.bits + 1)

    @property
    def largest(self) -> float:
        """Largest finite number."""
        return (2.0 - 2.0 * self.u) * 2.0 ** (1 - self.min_exponent)


FORMATS = {
    "float16": Format(11, -14),
    "bfloat16": Format(8, -126),
    "float32": Format(24, -126),
    "float64": Format(53, -1022),
}
"""The formats in which results are stored."""
PRECISION_BITS = {"tf32": 11} | {name: stored.bits for name, stored in FORMATS.items()}
"""Bits of a significand, also of what a matrix product rounds its factors to."""


def format_of(dtype: Any) -> Format:
    """Return the facts of a dtype."""
    return FORMATS[dtype_name(dtype)]


def dtype_name(dtype: Any, argument: str = "dtype", names: Sequence[str] = tuple(FORMATS)) -> str:
    """Return the name of a dtype that is given by name, or as a dtype of NumPy, ml_dtypes, PyTorch or JAX."""
    name = _name_of(dtype)
    if name not in names:
        raise ValueError(f"{argument}: expected one of {', '.join(map(repr, names))}; got {shown(dtype)}")
    return name


def _name_of(dtype: Any) -> str:
    text = dtype if isinstance(dtype, str) else shown(dtype)
    if isinstance(dtype, str) or text.startswith("torch."):
        return text.removeprefix("torch.")
    try:
        return "None" if dtype is None else np.dtype(dtype).name
    except Exception:  # NumPy raises errors of many types
        return text


def dtype_of(name: str) -> Any:
    """Return the NumPy dtype of a name; bfloat16 is that of ml_dtypes."""
    name = dtype_name(name)
    return import_module("ml_dtypes").bfloat16 if name == "bfloat16" else getattr(np, name)


def rounded(numbers: Any, name: str) -> Any:
    """Round numbers to a dtype, and return them in float64."""
    return np.asarray(numbers).astype(dtype_of(name)).astype(np.float64)
