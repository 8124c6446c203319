"""JAX: arrays on any device, gradients by vjp. Labels are NumPy's, so that they may be looked at while tracing."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from refloss.error_free import Array
from refloss.testing.adapters.results import Found, changed, finish, first_of, parts, told_apart


def ready(dtype: str, device: Any) -> None:
    """Refuse a device that is not here, and float64 where JAX would silently make float32 of it."""
    jax = import_module("jax")
    if dtype == "float64" and not jax.config.jax_enable_x64:
        raise ValueError(
            "dtype: JAX computes 'float64' in float32 unless told otherwise: "
            "call jax.config.update('jax_enable_x64', True) first, or set JAX_ENABLE_X64=1"
        )
    _device(jax, device)


def _device(jax: Any, device: Any) -> Any:
    """Return a device of JAX's: None for its own choice, or by name, such as "cpu" or "gpu:1"."""
    if device is None or not isinstance(device, str):
        return device
    platform, _, number = device.partition(":")
    try:
        return jax.devices(platform)[int(number or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"device: expected one that jax has here; got {device!r} ({said})") from None


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
    """Call fn with arrays, and differentiate its value."""
    jax = import_module("jax")
    where = _device(jax, device)
    fixed = {place: entry for place, entry in enumerate(arrays) if entry.dtype.kind in "iu" or place == labels}
    before = [entry.copy() for entry in arrays]
    floats = [jax.device_put(entry, where) for place, entry in enumerate(arrays) if place not in fixed]

    def of_floats(*given: Any) -> Any:
        rest = iter(given)
        return fn(*(fixed[place] if place in fixed else next(rest) for place in range(len(arrays))))

    shapes = [np.shape(entry) for entry in floats]
    found = told_apart(parts(of_floats(*floats), fields), shapes, differentiable=True)
    incoming = None
    moving = [place for place, name in enumerate(fields) if name in wanted]
    if found.gradients is None and moving and hasattr(found.value, "dtype"):

        def value_of(*given: Any) -> Any:
            every = dict(enumerate(floats)) | dict(zip(moving, given, strict=True))
            return parts(of_floats(*every.values()), fields).value

        value, back = jax.vjp(value_of, *(floats[place] for place in moving))
        incoming = first_of(upstream, np.shape(value), dtype)
        gradients = dict(zip(moving, back(jax.numpy.asarray(incoming, dtype=value.dtype)), strict=True))
        found = found._replace(value=value, gradients=tuple(gradients.get(place) for place in range(len(fields))))
    after = [fixed.get(place, entry) for place, entry in enumerate(before)]
    return finish(found, incoming, fields, doubtful=incoming is None)._replace(changed=changed(before, after))
