"""ForeignCall foreign code and read what comes back: arrays, tensors of a framework, values with gradients.

A framework is a module with two functions: `ready`, which refuses a device or dtype that it does not have, and `run`,
which converts the inputs to its own arrays, calls the code and differentiates its value where the framework can.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np

from refloss.error_free import Array
from refloss.formats import dtype_of
from refloss.testing.adapters.results import ForeignCall, Found, read
from refloss.testing.options import one_name
from refloss.testing.signatures import Inputs

__all__ = ["FRAMEWORKS", "Found", "call", "read", "ready"]

FRAMEWORKS = {"numpy": "arrays", "torch": "torch", "jax": "jax"}
"""Name of the module of each framework."""


class _Adapter(Protocol):
    """The functions of a framework's module."""

    def ready(self, dtype: str, device: Any) -> None:
        """Refuse a device or a dtype that the framework does not have."""

    def run(self, call: ForeignCall) -> Found:
        """ForeignCall foreign code."""


def _module(framework: str) -> _Adapter:
    name = FRAMEWORKS[one_name("framework", framework, FRAMEWORKS)]
    return cast(_Adapter, import_module(f"refloss.testing.adapters.{name}"))


def ready(framework: str, dtype: str, device: Any) -> None:
    """Refuse a framework, a dtype or a device that cannot be had here.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    _module(framework).ready(dtype, device)


def call(
    fn: Callable[..., Any],
    framework: str,
    dtype: str,
    device: Any,
    inputs: Inputs,
    upstream: Array,
    fields: tuple[str, ...],
    labels: int | None = None,
    wanted: tuple[str, ...] | None = None,
) -> Found:
    """ForeignCall fn with inputs of the framework and the dtype.

    Parameters
    ----------
    fn
        Foreign code. Gradients that it returns belong to an upstream gradient of 1. A value of torch or jax alone is
        differentiated, with the upstream gradient of this call.
    framework
        "numpy", "torch" or "jax".
    dtype
        Name of the dtype of the inputs.
    device
        Device of the inputs; None for the framework's own choice.
    inputs
        Float64 arrays and labels. Every call gets copies. Probabilities for labels are float32 where the dtype is
        shorter, as frameworks have them.
    upstream
        At least as many numbers as the value has.
    fields
        Names of the inputs that have gradients, in their order.
    labels
        Position of the labels among the inputs; None if there are none.
    wanted
        Fields that a framework has to differentiate by; all if left out.
    """
    module = _module(framework)
    wide = np.float32 if dtype in ("float16", "bfloat16") else dtype_of(dtype)
    arrays = [
        entry.copy() if entry.dtype.kind in "iu" else entry.astype(wide if place == labels else dtype_of(dtype))
        for place, entry in enumerate(inputs)
    ]
    with np.errstate(all="ignore"):  # an overflow shows in the results
        by = fields if wanted is None else wanted
        return module.run(ForeignCall(fn, dtype, device, arrays, upstream, fields, labels, by))
