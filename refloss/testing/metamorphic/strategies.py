"""Strategies of hypothesis for the inputs of properties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from refloss.error_free import Array
from refloss.formats import FORMATS
from refloss.testing.hard_cases import Shape
from refloss.testing.hard_cases.case import Labels
from refloss.testing.metamorphic.code import Code, Inputs
from refloss.testing.metamorphic.labels import labels_that_count, with_a_mean
from refloss.testing.signatures import (
    Loss,
    centers_of,
    given_margin,
    head_of,
    ignore_index_of,
    is_on_cosine,
    of_pairs,
    quality_of,
)

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

ORDINARY = 0.95
"""Largest cosine of an ordinary sample and any class."""
FAR_APART = 64.0
"""Factor of logits of up to 16 at which exponentials of their differences vanish."""


def strategy(code: Code, shape: Shape, hard: bool, names: Sequence[str]) -> SearchStrategy[Inputs]:
    """Return a strategy of inputs: short numbers, which every dtype holds even after the changes of a property."""
    from hypothesis import assume
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as arrays

    loss, (n, c, d) = code.loss, shape._replace(c=shape.n) if of_pairs(code.loss) else shape
    head, centers = head_of(loss), centers_of(loss) or 1

    def rows(count: int, width: int, largest: int = 16) -> SearchStrategy[Array]:
        return arrays.arrays(np.int64, (count, width), elements=st.integers(-largest, largest)).map(lambda k: k / 4.0)

    def sometimes(draw: DrawFn) -> bool:
        return bool(hard and draw(st.booleans()))

    @st.composite
    def labels(draw: DrawFn) -> Labels:
        counting = labels_that_count(loss, c)
        every = [k for k in range(c) if k != ignore_index_of(loss)]
        y = draw(arrays.arrays(np.int64, n, elements=st.sampled_from(every)))
        if draw(st.booleans()):
            y[-1] = y[0]  # else no class of many would occur twice
        if not np.isin(y, counting).any():
            y[0] = counting[0]
        return with_a_mean(loss, y)

    @st.composite
    def logits(draw: DrawFn) -> Inputs:
        z = draw(rows(n, c, 64))
        return {"z": z * FAR_APART if sometimes(draw) else z, "y": draw(labels())}

    @st.composite
    def linear(draw: DrawFn) -> Inputs:
        x = draw(rows(n, d))
        if sometimes(draw):  # x·w is at most 16 d
            x *= 2.0 ** np.floor(np.log2(max(1.0, min(FAR_APART, FORMATS[code.dtype].largest / (64.0 * d)))))
        inputs = {"x": x, "w": draw(rows(c, d)), "y": draw(labels())}
        return inputs | {"b": draw(rows(1, c))[0]} if "b" in names else inputs

    @st.composite
    def margin(draw: DrawFn) -> Inputs:
        x, every, y = draw(rows(n, d)) * _usual_length(loss, d), draw(rows(c * centers, d)), draw(labels())
        w = every[::centers]  # the first of the centers of each class
        if sometimes(draw):
            first, turn = draw(st.integers(0, n - 1)), draw(st.integers(0, 2))
            x[first:] = np.resize(np.roll((1.0, -1.0, 2.0), turn), (n, 1))[first:] * w[y[first:]]
        if c > 1 and sometimes(draw):
            w[(y[0] + 1) % c] = x[0]
        lengths = [np.linalg.norm(entry, axis=1) for entry in (x, every)]
        assume(min(entry.min() for entry in lengths) > 0.0)
        if not hard:
            assume(np.abs(x @ every.T / lengths[0][:, None] / lengths[1]).max() < ORDINARY)
        inputs = {"x": x, "w": every.reshape(c, *[centers] * (centers_of(loss) is not None), d), "y": y}
        return inputs | {"m": np.abs(draw(rows(1, n, _largest(loss)))[0])} if "m" in names else inputs

    @st.composite
    def links(draw: DrawFn) -> Inputs:
        return _with_numbers(draw, draw(margin()), names)

    @st.composite
    def triplet(draw: DrawFn) -> Inputs:
        points: Inputs = {}
        for name in names:
            points[name] = draw(rows(n, d))
            if name != "anchor" and sometimes(draw):
                points[name][0] = points["anchor"][0]
        return points

    @st.composite
    def divergence(draw: DrawFn) -> Inputs:
        inputs: Inputs = {}
        for name in names:
            logits = draw(rows(n, c, 64))
            inputs[name] = logits * FAR_APART if sometimes(draw) else logits
        if sometimes(draw):
            inputs["z"] = code.rounded(inputs["target"] + draw(rows(n, c, 1)))
        return inputs

    heads = {
        "logits": logits,
        "linear": linear,
        "margin": margin,
        "sigmoid": links,
        "two_way": links,
        "triplet": triplet,
        "divergence": divergence,
    }
    return heads[head]()


def _with_numbers(draw: DrawFn, inputs: Inputs, names: Sequence[str]) -> Inputs:
    """Return inputs of these names, with scales and biases that are single numbers."""
    from hypothesis import strategies as st

    numbers = {"b": st.integers(-64, 64), "t": st.integers(1, 128), "s": st.integers(1, 128)}
    further = {name: np.asarray(draw(numbers[name]) / 4.0) for name in names if name in numbers}
    return {name: entry for name, entry in inputs.items() if name in names} | further


def _usual_length(loss: Loss, d: int) -> float:
    """Return the power of two that gives rows such lengths that margins depend on them, if any does."""
    held = quality_of(loss)
    middle = 2.5 * np.sqrt(d) if held is None else (float(held.low) + float(held.high)) / 2.0
    return float(2.0 ** np.round(np.log2(middle / (2.5 * np.sqrt(d)))))


def _largest(loss: Loss) -> int:
    """Return four times the largest margin; on the cosine it is below 1, which a cosine of 1 may be rounded above."""
    return 3 if is_on_cosine(given_margin(loss)) else 6
