"""NumPy, and everything else that takes its arrays: bindings, programs called through files."""

from __future__ import annotations

from typing import Any

from refloss.messages import shown
from refloss.testing.adapters.results import ForeignCall, Found, changed, finish, parts, separate_gradients


def ready(dtype: str, device: Any) -> None:
    """Refuse a device: arrays have none."""
    if device is not None and not (isinstance(device, str) and device == "cpu"):
        raise ValueError(f"device: NumPy has none but 'cpu'; got {shown(device)}")


def run(call: ForeignCall) -> Found:
    """ForeignCall fn with arrays; what it returns beside the value is its gradients."""
    before = [entry.copy() for entry in call.arrays]
    returned = separate_gradients(parts(call.fn(*call.arrays), call.fields), call.shapes, differentiable=False)
    return finish(returned, None, call.fields)._replace(changed=changed(before, call.arrays))
