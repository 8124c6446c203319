"""Results of foreign code: which part of them is the value, which are gradients, and which are neither."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.formats import rounded
from refloss.messages import leaves

VALUES = ("loss", "value")
GRADIENTS = ("gradients", "gradient", "grads", "grad")


class ForeignCall(NamedTuple):
    """A call of foreign code; see `refloss.testing.adapters.call`."""

    fn: Callable[..., Any]
    dtype: str
    device: Any
    arrays: list[NDArray[Any]]
    """Copies of the inputs, in the dtype."""
    upstream: Array
    fields: tuple[str, ...]
    labels: int | None
    wanted: tuple[str, ...]

    @property
    def places(self) -> list[int]:
        """Positions of the inputs that have gradients."""
        return [place for place in range(len(self.arrays)) if place != self.labels]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the gradients."""
        return [np.shape(self.arrays[place]) for place in self.places]


class Found(NamedTuple):
    """Results of foreign code, read into float64."""

    value: Array
    gradients: tuple[Array | None, ...] | None
    """Gradients in the order of the inputs; None for one that was not returned, and if there are none at all."""
    upstream: Any
    """Upstream gradient that these gradients belong to, exact in the dtype; None for 1."""
    changed: tuple[int, ...] = ()
    """Positions of the inputs that differ after the call."""
    kind: str = ""
    """The dtype in which the value was returned."""
    others: str = ""
    """Description of further results, which are not compared."""
    hint: str = ""
    """How the results beside the value were read, where that may be wrong."""


class Parts(NamedTuple):
    """Results of foreign code, as they were returned."""

    value: Any
    gradients: tuple[Any, ...] | None
    others: tuple[Any, ...]
    """Neither value nor gradients."""


def read(value: Any) -> Array:
    """Return any array or tensor in float64: detached, on the CPU, every number exact."""
    return np.array(as_array(value), dtype=np.float64)


def as_array(value: Any) -> NDArray[Any]:
    """Return any array or tensor as a NumPy array of real numbers, which may be bfloat16."""
    if hasattr(value, "detach"):
        value = value.detach()
        value = (value.to_dense() if value.is_sparse else value).cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    for _ in leaves(value):  # refuses lists that contain themselves, which NumPy would follow for ever
        pass
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        came = f"{type(value).__name__} of dtype {array.dtype}"
        raise TypeError(f"what was returned has to be real numbers; got {came}")
    return array


def parts(returned: Any, fields: Sequence[str]) -> Parts:
    """Separate the value and the gradients: a value, (value, dx, dw), (value, (dx, dw)), (value, {"x": dx}), or a dict.

    Raises
    ------
    TypeError
        For results without a value, naming their type.
    """
    if isinstance(returned, Mapping):
        return _parts_of_mapping(returned, fields)
    if isinstance(returned, tuple) or (isinstance(returned, list) and not all(map(np.isscalar, returned))):
        if not len(returned):
            raise TypeError("expected a value, or a tuple of the value and its gradients; got nothing")
        value, *rest = returned
        if value is None or isinstance(value, tuple | list | Mapping):
            came = type(value).__name__
            raise TypeError(f"expected a value first, then its gradients; got a {came} first (has_aux, perhaps)")
        if len(rest) == 1 and isinstance(rest[0], Mapping):
            return Parts(value, *_by_name(rest[0], fields))
        if len(rest) == 1 and isinstance(rest[0], tuple | list):
            rest = list(rest[0])
        return Parts(value, tuple(rest) or None, ())
    if returned is None:
        raise TypeError("expected a value, or a tuple of the value and its gradients; got None")
    return Parts(returned, None, ())


def _parts_of_mapping(returned: Mapping[str, Any], fields: Sequence[str]) -> Parts:
    name = next((name for name in VALUES if returned.get(name) is not None), None)
    if name is None:
        raise TypeError(f"expected 'loss' or 'value' in what was returned; got a dict of {sorted(map(str, returned))}")
    others = {key: entry for key, entry in returned.items() if key != name}
    nested = next((others.pop(key) for key in GRADIENTS if key in others), None)
    if nested is not None:
        separated = parts((returned[name], nested), fields)
        return separated._replace(others=(*separated.others, *others.values()))
    return Parts(returned[name], *_by_name(others, fields))


def _by_name(entries: Mapping[str, Any], fields: Sequence[str]) -> tuple[tuple[Any, ...] | None, tuple[Any, ...]]:
    """Return the gradients, named as their input, with or without "d" or "grad_", and the entries of other names."""
    keys = {key: field for field in fields for key in (f"grad_{field}", f"d{field}", field)}
    named = {keys[key]: entry for key, entry in entries.items() if key in keys}
    others = tuple(entry for key, entry in entries.items() if key not in keys)
    return (tuple(map(named.get, fields)) if named else None), others


def separate_gradients(returned: Parts, shapes: Sequence[tuple[int, ...]], differentiable: bool) -> Parts:
    """Keep the gradients if they have the shapes of gradients; move them to the others if they have not.

    Where the value can be differentiated the shapes have to be exact, since code may return other results beside it.
    """
    if returned.gradients is None:
        return returned
    theirs = [None if entry is None else np.shape(entry) for entry in returned.gradients]
    pairs = list(zip(theirs, shapes, strict=False))
    if differentiable:
        alike = len(theirs) <= len(shapes) and all(own is None or own == shape for own, shape in pairs)
    else:
        alike = any(own is not None and len(own) == len(shape) for own, shape in pairs)
    if alike and any(own is not None for own in theirs):
        return returned
    return Parts(returned.value, None, (*returned.gradients, *returned.others))


def finish(returned: Parts, upstream: Array | None, fields: Sequence[str], *, doubtful: bool = False) -> Found:
    """Read value and gradients into float64; where it is doubtful, say how the results beside the value were read."""
    gradients, others, hint = returned.gradients, list(returned.others), ""
    if gradients is not None:
        others += [entry for entry in gradients[len(fields) :] if entry is not None]
        gradients = tuple(None if entry is None else read(entry) for entry in gradients[: len(fields)])
    if gradients is not None and doubtful:
        names = ", ".join(f"d{name}" for name in fields[: len(gradients)])
        hint = f"what came beside the value was read as {names}; if it is something else, return the value alone"
    value = read(returned.value)
    return Found(
        value,
        gradients,
        np.ones(value.shape) if upstream is None else upstream,
        kind=str(getattr(returned.value, "dtype", "")).removeprefix("torch."),  # a Python number has none
        others=", ".join(
            f"{type(entry).__name__} of shape {tuple(np.shape(entry))}" for entry in others if entry is not None
        ),
        hint=hint,
    )


def upstream_for(upstream: Array, shape: tuple[int, ...], dtype: str) -> Array:
    """Return the first of these numbers in the shape of the value, rounded to the dtype."""
    return np.asarray(rounded(np.resize(upstream, shape), dtype))


def changed(before: Iterable[Any], after: Iterable[Any]) -> tuple[int, ...]:
    """Return the positions of arrays that differ in any bit."""
    pairs = enumerate(zip(before, after, strict=True))
    return tuple(place for place, (old, new) in pairs if as_array(old).tobytes() != as_array(new).tobytes())
