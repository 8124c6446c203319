"""Wrong gradients that every gradient check of the suite must reject.

A mutant takes the gradients of one loss by name, as a dict, and returns them changed in one place. `GROSS` holds what
any check must see; `FINE` what a check against exact numbers must see as well. `loss_mutants` holds those that need the
loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

Gradients = dict[str, np.ndarray]
Mutant = Callable[[Gradients], Gradients]


def _largest(gradients: Gradients) -> tuple[str, tuple[int, ...]]:
    """Where the largest entry of the first gradient stands."""
    name = next(iter(gradients))
    array = gradients[name]
    return name, tuple(int(i) for i in np.unravel_index(np.abs(array).argmax(), array.shape))


def _changed(gradients: Gradients, change: Callable[[np.ndarray], np.ndarray]) -> Gradients:
    """Change the first gradient as a whole."""
    name = next(iter(gradients))
    return gradients | {name: change(gradients[name].copy())}


def dropped_term(gradients: Gradients) -> Gradients:
    """One entry lost."""
    name, index = _largest(gradients)
    array = gradients[name].copy()
    array[index] = 0.0
    return gradients | {name: array}


def swapped_index(gradients: Gradients) -> Gradients:
    """The largest and the smallest entry changed places."""
    name, index = _largest(gradients)
    array = gradients[name].copy()
    other = np.unravel_index(np.abs(array).argmin(), array.shape)
    array[index], array[other] = array[other], array[index]
    return gradients | {name: array}


GROSS: dict[str, Mutant] = {
    "all zero": lambda g: {name: np.zeros_like(array) for name, array in g.items()},
    "sign": lambda g: _changed(g, np.negative),
    "factor 2": lambda g: _changed(g, lambda array: 2.0 * array),
    "factor 1.001": lambda g: _changed(g, lambda array: 1.001 * array),
    "dropped term": dropped_term,
    "swapped index": swapped_index,
    "last input's gradient zero": lambda g: g | {(name := list(g)[-1]): np.zeros_like(g[name])},
    "NaN": lambda g: _changed(g, lambda array: np.where(np.abs(array) == np.abs(array).max(), np.nan, array)),
}

FINE: dict[str, Mutant] = {
    "factor 1 + 1e-12": lambda g: _changed(g, lambda array: array * (1.0 + 1e-12)),
    "one entry, 1 + 1e-12": lambda g: _changed(
        g, lambda array: np.where(np.abs(array) == np.abs(array).max(), array * (1.0 + 1e-12), array)
    ),
}


def loss_mutants(loss: Any) -> dict[str, Any]:
    """Losses whose gradient is wrong for `loss` although their value is right: the margin detached."""
    if getattr(loss, "gradient", None) == "exact":
        return {"detached margin": replace(loss, gradient="detached")}
    return {}
