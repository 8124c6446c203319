"""The foreign code whose properties are tried: its calls, their results with budgets, and what it may refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refloss.engines.spec import MARGINS
from refloss.error_free import Array
from refloss.formats import FORMATS, rounded
from refloss.messages import raised
from refloss.testing.adapters import Found, call
from refloss.testing.budgets import bounds
from refloss.testing.errors import Arithmetic
from refloss.testing.signatures import Loss, class_weight_of

Inputs: TypeAlias = dict[str, NDArray[Any]]
"""Inputs by name, in the order in which the code takes them."""
Parts: TypeAlias = dict[str, Array]
"""The value and the gradients by name, or their budgets."""
SHOWN = 200
"""Inputs with more entries than this are abbreviated."""


class BrokenError(AssertionError):
    """A property does not hold."""


class InterruptError(BrokenError):
    """Foreign code was interrupted: nothing more is tried."""


class UntriedError(Exception):
    """A property could not be tried on these inputs."""

    def __init__(self, reason: str, accepted: bool = False) -> None:
        super().__init__(reason)
        self.accepted = accepted
        """Whether the property may stay untried."""


class Excuse(NamedTuple):
    """Reason for which code may raise on inputs that it need not take."""

    reason: str
    accepted: bool = False
    """Whether the property may stay untried."""


REFUSED = Excuse("refused", True)


class Results(NamedTuple):
    """Results of the code for one input, with their budgets."""

    parts: Parts
    allowed: Parts


class Code(NamedTuple):
    """Foreign code, and the loss that it implements."""

    fn: Callable[..., Any]
    loss: Loss
    framework: str
    dtype: str
    device: Any
    arithmetic: Arithmetic
    """What it computes with, and how accurate it has to be."""
    gradients: tuple[str, ...]
    """Inputs whose gradients the code has to return."""
    cache: dict[Any, Results]
    """True results and budgets of earlier inputs, which the properties share."""
    decided: set[str]
    """Results that were larger than their budget at least once."""
    doubtful: set[str]
    """Results that were not, although the truth is not 0."""
    written: dict[str, str]
    """Inputs that the code wrote into, each with the first such call."""

    def shape(self, inputs: Inputs) -> tuple[int, ...]:
        """Return the shape of the value."""
        return number_of_samples(inputs) if self.loss.reduction == "none" else ()

    def truth(self, inputs: Inputs, upstream: Any = 1.0) -> Results:
        """Return the loss's own results and the budgets."""
        upstream = np.broadcast_to(upstream, self.shape(inputs))
        key = tuple((np.shape(entry), np.asarray(entry).tobytes()) for entry in (*inputs.values(), upstream))
        if key not in self.cache:
            arrays = tuple(inputs.values())
            value, gradients = self.loss.value_and_grad(*arrays, upstream=upstream)
            allowed, errors = bounds(self.loss, arrays, self.arithmetic, upstream)
            true = {name: getattr(gradients, name) for name in errors}
            self.cache[key] = Results({"value": np.asarray(value)} | true, {"value": allowed} | errors)
        return self.cache[key]

    def call(self, inputs: Inputs, upstream: Any = 1.0, excuse: Excuse | None = None) -> tuple[Parts, Found]:
        """Call the code; return the value and the gradients by name, in the right shapes, and the complete output."""
        names = tuple(inputs)
        fields = tuple(name for name in names if name != "y")
        labels = names.index("y") if "y" in names else None
        arrays, upstream = tuple(inputs.values()), np.atleast_1d(upstream)
        wanted = self.gradients
        try:
            output = call(self.fn, self.framework, self.dtype, self.device, arrays, upstream, fields, labels, wanted)
        except BaseException as error:  # foreign code may raise anything
            if excuse and isinstance(error, Exception):
                raise UntriedError(f"{excuse.reason}: {raised(error)}", excuse.accepted) from error
            kind = InterruptError if isinstance(error, KeyboardInterrupt) else BrokenError
            raise kind(shown_with(f"raised {raised(error)}, for", inputs)) from error
        for place in output.changed:
            name = names[place]
            self.written.setdefault(name, shown_with(f"the code writes into its input {name}, for", inputs))
        gradients = zip(fields, output.gradients or (), strict=False) if self.gradients else ()
        returned = {name: part for name, part in gradients if part is not None}
        if MARGINS.name not in self.gradients:
            returned.pop(MARGINS.name, None)
        parts = {"value": output.value} | returned
        for name, part in parts.items():
            shape = self.shape(inputs) if name == "value" else inputs[name].shape
            ask(part.shape == shape, f"{named(name)} has shape {part.shape}, expected {shape}, for", inputs)
        return parts, output

    def run(self, inputs: Inputs, upstream: Any = 1.0, excuse: Excuse | None = None) -> Results:
        """Return the results, which have to be finite, with their budgets."""
        parts, _ = self.call(inputs, upstream, excuse)
        true, allowed = self.truth(inputs, upstream)
        for name, part in parts.items():
            ask(bool(np.isfinite(part).all()), f"{named(name)} is not finite for", inputs)
            size = np.abs(part).max(axis=-1, keepdims=True, initial=0.0) if part.ndim else np.abs(part)
            if np.any(allowed[name] < size):
                self.decided.add(name)
            elif true[name].any():
                self.doubtful.add(name)
        return Results(parts, {name: allowed[name] for name in parts})

    def rounded(self, entries: ArrayLike) -> Array:
        """Round numbers to the dtype."""
        return np.asarray(rounded(entries, self.dtype))

    def on_grid(self, entries: ArrayLike, largest: float) -> Array:
        """Round numbers so that the dtype holds them, and all numbers within `largest` of them, exactly."""
        spacing = 2.0 ** (np.ceil(np.log2(largest)) - FORMATS[self.dtype].bits)
        return np.asarray(np.round(np.asarray(entries) / spacing) * spacing)

    @property
    def weights(self) -> Array | None:
        """Class weights, if the loss has any."""
        weights = class_weight_of(self.loss)
        return None if weights is None else np.asarray(weights, dtype=np.float64)


def named(name: str) -> str:
    """Return how messages name a result."""
    return "the value" if name == "value" else f"the gradient of {name}"


def shown_with(what: str, inputs: Inputs) -> str:
    """Return a message, followed by the inputs."""

    def shown(entry: Any) -> str:
        return str(entry.tolist()) if entry.size <= SHOWN else np.array2string(entry, separator=", ", threshold=SHOWN)

    return "\n    ".join([what, *(f"{name} = {shown(entry)}" for name, entry in inputs.items())])


def ask(holds: bool, otherwise: str, inputs: Inputs) -> None:
    """Raise with the inputs if a condition does not hold."""
    if not holds:
        raise BrokenError(shown_with(otherwise, inputs))


def number_of_samples(inputs: Inputs) -> tuple[int]:
    """Return (N,)."""
    return (len(next(iter(inputs.values()))),)


def locked(n: int) -> Excuse:
    """Return the excuse of code that takes no other number of samples."""
    return Excuse(f"with {n} sample{'s' if n > 1 else ''} the code raises whatever the input")
