"""NumPy, and everything that takes arrays: bindings, programs called through files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refloss.error_free import Array
from refloss.testing.adapters.results import Found, changed, finish, parts, told_apart


def ready(dtype: str, device: Any) -> None:
    """Refuse a device: arrays have none."""
    if device not in (None, "cpu"):
        raise ValueError(f"device: NumPy has none but 'cpu'; got {device!r}")


def run(
    fn: Callable[..., Any],
    dtype: str,
    device: Any,
    arrays: list[Any],
    upstream: Array,
    fields: tuple[str, ...],
    labels: int | None,
    wanted: tuple[str, ...],
) -> Found:
    """Call fn with arrays; what it returns beside the value is its gradients."""
    before = [entry.copy() for entry in arrays]
    shapes = [np.shape(entry) for place, entry in enumerate(before) if place != labels]
    found = told_apart(parts(fn(*arrays), fields), shapes, differentiable=False)
    return finish(found, None, fields)._replace(changed=changed(before, arrays))
