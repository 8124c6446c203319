"""What a property asks of results: conditions, differences within budgets, expected changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refloss.engines.spec import PER_CLASS
from refloss.error_free import Array
from refloss.testing.metamorphic.code import BrokenError, Code, Excuse, Inputs, Parts, Results, ask, named, shown_with


def within(what: str, off: ArrayLike, allowed: ArrayLike, inputs: Inputs) -> None:
    """Ask that differences are within their budgets, which may be 0; NaN never is."""
    right = np.abs(off) <= allowed
    if not np.all(right):
        with np.errstate(all="ignore"):
            worst = np.max(np.where(right, 0.0, np.abs(off) / allowed))
        raise BrokenError(shown_with(f"{what}: {worst:.3g} times what rounding explains, for", inputs))


def by_sample(name: str, part: Array) -> bool:
    """Whether a result has one row per sample."""
    return part.ndim == 1 if name == "value" else name not in PER_CLASS


def each_sample(inputs: Inputs, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Inputs:
    """Change every input with one row per sample."""
    return {name: entry if name in PER_CLASS else change(entry) for name, entry in inputs.items()}


def together(sides: Sequence[Parts], shares: Array) -> Parts:
    """Put results of parts of a batch together, each times its share: rows one after the other, all else added up."""
    parts = {}
    for name, part in sides[0].items():
        every = [share * side[name] for share, side in zip(shares, sides, strict=True)]
        parts[name] = np.concatenate(every) if by_sample(name, part) else np.asarray(np.sum(every, axis=0))
    return parts


def compare(
    before: Results, after: Results, expected: Callable[[str, Array], Array], inputs: Inputs, what: str = "differs"
) -> None:
    """Ask that results changed by a linear map, which changes the budgets too."""
    for name, part in before.parts.items():
        ask(name in after.parts, f"{named(name)} is not returned for inputs that are changed, for", inputs)
        allowed = np.abs(expected(name, before.allowed[name])) + after.allowed[name]
        within(f"{named(name)} {what}", after.parts[name] - expected(name, part), allowed, inputs)


def same(
    code: Code,
    inputs: Inputs,
    changed: Inputs,
    expected: Callable[[str, Array], Array] = lambda name, part: part,
    excuse: Excuse | None = None,
) -> None:
    """Ask that changed inputs change every result as expected."""
    compare(code.run(inputs), code.run(changed, excuse=excuse), expected, inputs)
