"""Relations within the results of one input, and along a short path from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refloss.error_free import Array
from refloss.testing.metamorphic.code import Code, Inputs, Parts, Results, UntriedError, ask
from refloss.testing.metamorphic.comparisons import compare, within
from refloss.testing.signatures import of_pairs, quality_of, scale_of

STEPS = 4
"""Number of intervals of a path along which a gradient is integrated."""
SIMPSON = np.array([1.0, 4.0, 2.0, 4.0, 1.0]) / (3.0 * STEPS)
NO_GRADIENT = "the value alone is returned, no gradient; gradients=False if that is all there is"


def finite(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The value and every gradient are finite."""
    parts = code.run(inputs).parts
    missing = [name for name in code.gradients if name not in parts]
    if len(parts) > 1:
        ask(not missing, f"no gradient of {', '.join(missing)} is returned, for", inputs)


def repeatable(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The same inputs give the same results."""
    compare(code.run(inputs), code.run(inputs), lambda name, part: part, inputs, "differs from call to call")


def coincident(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Points that coincide have finite gradients."""
    code.run(inputs | {"positive": inputs["anchor"]})
    code.run(inputs | {"negative": inputs["anchor"]})
    code.run(dict.fromkeys(inputs, inputs["anchor"]))


def not_negative(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """No loss is below 0."""
    parts, allowed = code.run(inputs)
    ask(bool((parts["value"] >= -allowed["value"]).all()), f"the value is {parts['value']} for", inputs)


def radial(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The gradient of what only gives a direction is orthogonal to it."""
    parts, allowed = _with_gradients(code, inputs)
    for name in sorted(parts.keys() & directions(code)):
        along = (parts[name] * inputs[name]).sum(axis=-1)
        bound = (allowed[name] * np.abs(inputs[name])).sum(axis=-1)
        within(f"the gradient of {name} has a part along {name}", along, bound, inputs)


def directions(code: Code) -> set[str]:
    """Return the inputs of a margin loss whose lengths do not matter."""
    of_length = quality_of(code.loss)
    through_length = of_length is not None and (not of_length.detached or of_length.regularizer != 0.0)
    by_length = scale_of(code.loss) is None and not of_pairs(code.loss)
    return {"w"} if by_length or through_length else {"x", "w"}


def nothing_in_sum(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Gradients add up to nothing: over the classes of a sample, or over anchor, positive and negative."""

    def total(side: Parts) -> Array:
        every = [part for name, part in side.items() if name != "value"]
        by_class = side.keys() & {"z", "target"}
        return np.concatenate([part.sum(axis=-1) for part in every]) if by_class else np.asarray(np.sum(every, axis=0))

    parts, allowed = _with_gradients(code, inputs)
    within("gradients do not add up to 0", total(parts), total(allowed), inputs)


def slope(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The gradient is that of the value: integrated along a short path, it is how much the value changes.

    The residual of Simpson's rule is measured on the loss itself.
    """
    parts = _with_gradients(code, inputs).parts
    ways = {name: rng.integers(-1, 2, inputs[name].shape) / 16.0 for name in inputs if name in parts}

    def at(share: float) -> Inputs:
        return {
            name: code.rounded(entry + share * ways[name]) if name in ways else entry for name, entry in inputs.items()
        }

    def along(side: Parts, size: Callable[[Any], Any] = np.asarray) -> float:
        return float(sum((side[name] * size(way)).sum() for name, way in ways.items()))

    points = [at(k / STEPS) for k in range(STEPS + 1)]
    steps = [code.run(point) for point in points]
    change = float((steps[-1].parts["value"] - steps[0].parts["value"]).sum())
    integral = float(SIMPSON @ [along(step.parts) for step in steps])
    allowed = float(steps[-1].allowed["value"].sum() + steps[0].allowed["value"].sum())
    allowed += float(SIMPSON @ [along(step.allowed, np.abs) for step in steps])
    true = [code.truth(point).parts for point in points]
    residual = np.sum(true[-1]["value"]) - np.sum(true[0]["value"]) - SIMPSON @ [along(side) for side in true]
    what = f"the value changes by {change:.6g}, its gradient says {integral:.6g}"
    within(what, change - integral, allowed + abs(residual), inputs)


def _with_gradients(code: Code, inputs: Inputs) -> Results:
    results = code.run(inputs)
    if len(results.parts) == 1:
        raise UntriedError(NO_GRADIENT)
    return results
