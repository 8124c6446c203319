"""An implementation that is right, the dtypes it is right in, and the losses that most of them compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import refloss

Array = np.ndarray[Any, Any]
Add = Callable[[Array], Array]
HALVES = ("float16", "bfloat16")
SINGLES = ("float32", "float64")
DTYPES = (*HALVES, *SINGLES)
WEIGHTS = (0.5, 0.0, 2.0, 1.0, 3.0, 0.0, 0.25)
"""Class weights, exact in every dtype, two of them 0."""


class Right(NamedTuple):
    """Code that is right, and what it is right at."""

    name: str
    framework: str
    fn: Callable[..., Any]
    loss: Any
    dtypes: tuple[str, ...]
    """The dtypes it is right in."""
    standard: str
    """The standard it is right at in the dtype that was asked for."""
    settings: dict[str, Any]
    """Further arguments of `check`: "accumulate" of jax, whose backward adds up in what it stores; known failures."""


def by_dtype(dtype: str, half: str, single: str = "stable") -> str:
    """Return the standard of half precision or of single and double precision."""
    return half if dtype in HALVES else single


CE = refloss.CrossEntropy()
SMOOTH = refloss.CrossEntropy(label_smoothing=0.1)
WEIGHTED = refloss.CrossEntropy(class_weight=WEIGHTS)
LINEAR = refloss.SoftmaxLoss()
