"""What foreign code returned: which part of it is the value, which are gradients, and what is neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.formats import rounded
from refloss.messages import leaves

VALUES = ("loss", "value")
GRADIENTS = ("gradients", "gradient", "grads", "grad")


class Call(NamedTuple):
    """A call of foreign code; see `refloss.testing.adapters.call`."""

    fn: Any
    dtype: str
    device: Any
    arrays: list[Any]
    """Inputs of its own, of the dtype."""
    upstream: Array
    fields: tuple[str, ...]
    labels: int | None
    wanted: tuple[str, ...]

    @property
    def places(self) -> list[int]:
        """Where the inputs are that have gradients."""
        return [place for place in range(len(self.arrays)) if place != self.labels]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the gradients."""
        return [np.shape(self.arrays[place]) for place in self.places]


class Found(NamedTuple):
    """What foreign code found."""

    value: Array
    """Its value, in float64."""
    gradients: tuple[Array | None, ...] | None
    """Its gradients, in the order of the inputs; None for one that was not returned, and if there are none at all."""
    upstream: Any
    """The gradient of what comes after that these belong to, exact in the dtype."""
    changed: tuple[int, ...] = ()
    """Which inputs were not the same after the call."""
    kind: str = ""
    """The dtype of the value as it came."""
    others: str = ""
    """What else came back and was not looked at."""
    hint: str = ""
    """How what came beside the value was read, where that may be wrong."""


class Parts(NamedTuple):
    """What came back, as it came."""

    value: Any
    gradients: tuple[Any, ...] | None
    others: tuple[Any, ...]
    """What is neither."""


def read(value: Any) -> Array:
    """Return any array or tensor as float64: detached, brought to the CPU, every number kept as it is."""
    return np.array(as_array(value), dtype=np.float64)


def as_array(value: Any) -> Any:
    """Return any array or tensor as a NumPy array of real numbers, bfloat16 among them."""
    if hasattr(value, "detach"):
        value = value.detach()
        value = (value.to_dense() if value.is_sparse else value).cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    for _ in leaves(value):  # which refuses lists that NumPy would follow for ever
        pass
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        came = f"{type(value).__name__} of dtype {array.dtype}"
        raise TypeError(f"what was returned has to be real numbers; got {came}")
    return array


def parts(returned: Any, fields: Sequence[str]) -> Parts:
    """Tell the value from gradients: a value, (value, dx, dw), (value, (dx, dw)), (value, {"x": dx}), or a dict.

    Raises
    ------
    TypeError
        For what holds no value, naming what came.
    """
    if isinstance(returned, Mapping):
        return _of_mapping(returned, fields)
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


def _of_mapping(returned: Mapping[str, Any], fields: Sequence[str]) -> Parts:
    name = next((name for name in VALUES if returned.get(name) is not None), None)
    if name is None:
        raise TypeError(f"expected 'loss' or 'value' in what was returned; got a dict of {sorted(map(str, returned))}")
    others = {key: entry for key, entry in returned.items() if key != name}
    nested = next((others.pop(key) for key in GRADIENTS if key in others), None)
    if nested is not None:
        found = parts((returned[name], nested), fields)
        return found._replace(others=(*found.others, *others.values()))
    return Parts(returned[name], *_by_name(others, fields))


def _by_name(entries: Mapping[str, Any], fields: Sequence[str]) -> tuple[tuple[Any, ...] | None, tuple[Any, ...]]:
    """Gradients under the name of their input, or that after "d" or "grad_"; and what has another name."""
    keys = {key: field for field in fields for key in (f"grad_{field}", f"d{field}", field)}
    named = {keys[key]: entry for key, entry in entries.items() if key in keys}
    others = tuple(entry for key, entry in entries.items() if key not in keys)
    return (tuple(map(named.get, fields)) if named else None), others


def separate_gradients(found: Parts, shapes: Sequence[tuple[int, ...]], differentiable: bool) -> Parts:
    """Take for gradients what has the form of gradients, and for others what has not.

    Where the value can be differentiated only exact shapes will do, since another result may come beside it.
    """
    if found.gradients is None:
        return found
    given = [None if entry is None else np.shape(entry) for entry in found.gradients]
    pairs = list(zip(given, shapes, strict=False))
    if differentiable:
        alike = len(given) <= len(shapes) and all(came is None or came == shape for came, shape in pairs)
    else:
        alike = any(came is not None and len(came) == len(shape) for came, shape in pairs)
    if alike and any(came is not None for came in given):
        return found
    return Parts(found.value, None, (*found.gradients, *found.others))


def finish(found: Parts, upstream: Any, fields: Sequence[str], *, doubtful: bool = False) -> Found:
    """Read value and gradients into float64; say how what came beside the value was read where that is doubtful."""
    gradients, others, hint = found.gradients, list(found.others), ""
    if gradients is not None:
        others += [entry for entry in gradients[len(fields) :] if entry is not None]
        gradients = tuple(None if entry is None else read(entry) for entry in gradients[: len(fields)])
    if gradients is not None and doubtful:
        names = ", ".join(f"d{name}" for name in fields[: len(gradients)])
        hint = f"what came beside the value was read as {names}; if it is something else, return the value alone"
    value = read(found.value)
    return Found(
        value,
        gradients,
        np.ones(value.shape) if upstream is None else upstream,
        kind=str(getattr(found.value, "dtype", "")).removeprefix("torch."),  # a number of Python's has none
        others=", ".join(
            f"{type(entry).__name__} of shape {tuple(np.shape(entry))}" for entry in others if entry is not None
        ),
        hint=hint,
    )


def upstream_for(upstream: Array, shape: tuple[int, ...], dtype: str) -> Array:
    """As many of the given numbers as the value has, in its shape, as the dtype holds them."""
    return np.asarray(rounded(np.resize(upstream, shape), dtype))


def changed(before: Iterable[Any], after: Iterable[Any]) -> tuple[int, ...]:
    """Which arrays are not the same, bit for bit."""
    pairs = enumerate(zip(before, after, strict=True))
    return tuple(place for place, (old, new) in pairs if as_array(old).tobytes() != as_array(new).tobytes())
