"""Relations between results of pairs of embeddings."""

from __future__ import annotations

import numpy as np

from refloss.error_free import Array
from refloss.testing.metamorphic.code import Code, Inputs, Parts, Results, number_of_samples
from refloss.testing.metamorphic.comparisons import compare, same

OTHER_SIDE = {"x": "w", "w": "x"}


def order_of_pairs(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The order of the pairs changes nothing but the order of what belongs to them."""
    order = rng.permutation(*number_of_samples(inputs))

    def ordered(name: str, part: Array) -> Array:
        return part[order] if part.ndim else part

    same(code, inputs, {name: ordered(name, entry) for name, entry in inputs.items()}, ordered)


def sides(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The two sides of the pairs may change places, and their gradients with them."""
    changed = inputs | {"x": inputs["w"], "w": inputs["x"]}
    before, after = code.run(inputs), code.run(changed)

    def swapped(side: Parts) -> Parts:
        parts = {OTHER_SIDE.get(name, name): part for name, part in side.items()}
        return {name: part for name, part in parts.items() if name in after.parts}

    compare(Results(swapped(before.parts), swapped(before.allowed)), after, lambda name, part: part, changed)
