"""JAX: arrays on any device, gradients by vjp. Labels are NumPy arrays, so that code may read them while tracing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from refloss.messages import shown
from refloss.testing.adapters.results import (
    ForeignCall,
    Found,
    changed,
    finish,
    parts,
    separate_gradients,
    upstream_for,
)


def ready(dtype: str, device: Any) -> None:
    """Refuse a device that is not here, and float64 where JAX would silently compute in float32."""
    jax = import_module("jax")
    if dtype == "float64" and not jax.config.jax_enable_x64:
        raise ValueError(
            "dtype: JAX computes 'float64' in float32 unless told otherwise: "
            "call jax.config.update('jax_enable_x64', True) first, or set JAX_ENABLE_X64=1"
        )
    try:
        jax.device_put(np.zeros(1, np.float32), _device(jax, device))
    except Exception as error:  # jax and its backends raise many kinds
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"device: expected one that jax has here; got {shown(device)} ({said})") from None


def _device(jax: Any, device: Any) -> Any:
    """Return a device of JAX's: None for its own choice, or by name, such as "cpu" or "gpu:1"."""
    if device is None or not isinstance(device, str):
        return device
    platform, _, number = device.partition(":")
    return jax.devices(platform)[int(number or 0)]


def run(call: ForeignCall) -> Found:
    """ForeignCall fn with arrays, and differentiate its value."""
    jax = import_module("jax")
    where = _device(jax, call.device)
    before = [entry.copy() for entry in call.arrays]
    inputs = [
        jax.device_put(entry, where) if place in call.places and entry.dtype.kind not in "iu" else entry
        for place, entry in enumerate(call.arrays)
    ]
    returned = separate_gradients(parts(call.fn(*inputs), call.fields), call.shapes, differentiable=True)
    upstream = None
    named = dict(zip(call.places, call.fields, strict=False))
    differentiated = {place: name for place, name in named.items() if name in call.wanted}
    if returned.gradients is None and differentiated and hasattr(returned.value, "dtype"):

        def value_of(*variables: Any) -> Any:
            every = dict(enumerate(inputs)) | dict(zip(differentiated, variables, strict=True))
            return parts(call.fn(*every.values()), call.fields).value

        value, vjp = jax.vjp(value_of, *(inputs[place] for place in differentiated))
        upstream = upstream_for(call.upstream, np.shape(value), call.dtype)
        gradients = vjp(jax.numpy.asarray(upstream, dtype=value.dtype))
        by_name = dict(zip(differentiated.values(), gradients, strict=True))
        returned = returned._replace(value=value, gradients=tuple(map(by_name.get, call.fields)))
    # JAX's own arrays cannot be written to.
    after = [
        call.arrays[place] if inputs[place] is call.arrays[place] else before[place] for place in range(len(before))
    ]
    return finish(returned, upstream, call.fields, doubtful=upstream is None)._replace(changed=changed(before, after))
