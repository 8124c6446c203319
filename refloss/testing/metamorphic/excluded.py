"""Relations of batches with samples that do not count: ignored, of weight 0, or with a margin that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.testing.hard_cases.case import Labels
from refloss.testing.metamorphic.code import (
    REFUSED,
    Code,
    Excuse,
    Inputs,
    Parts,
    Results,
    ask,
    locked,
    named,
    number_of_samples,
)
from refloss.testing.metamorphic.comparisons import by_sample, compare, each_sample
from refloss.testing.metamorphic.labels import of_one_sign, that_count, weightless_classes
from refloss.testing.signatures import ignore_index_of, triplet_of

Rows: TypeAlias = NDArray[np.bool_]
"""Which samples do not count (N,)."""


def ignored_rows(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Samples whose label is ignored have no gradient, and what stands there changes nothing."""
    _count_nothing(code, *_left_out(code, inputs, rng, _ignored(code)), rng, REFUSED)


def ignored_batch(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """A batch with ignored labels is the batch without those samples."""
    _is_without(code, *_left_out(code, inputs, rng, _ignored(code)), REFUSED)


def ignored_all(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """A batch of nothing but ignored labels has no gradient; its value is 0, or a mean of nothing: NaN."""
    nothing = inputs | {"y": np.full_like(inputs["y"], _ignored(code)[0])}
    parts, _ = code.call(nothing, excuse=REFUSED)
    for name, part in parts.items():
        undefined = name == "value" and code.loss.reduction == "mean" and np.isnan(part).all()
        ask(bool(undefined or (part == 0.0).all()), f"{named(name)} is not 0 for", nothing)


def _ignored(code: Code) -> list[int]:
    index = ignore_index_of(code.loss)
    return [] if index is None else [index]


def weightless_rows(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Samples whose class has weight 0 have no gradient, and what stands there changes nothing."""
    _count_nothing(code, *_left_out(code, inputs, rng, weightless_classes(code)), rng)


def weightless_batch(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """A batch with classes of weight 0 is the batch without their samples."""
    _is_without(code, *_left_out(code, inputs, rng, weightless_classes(code)))


def _left_out(
    code: Code, inputs: Inputs, rng: np.random.Generator, labels: Sequence[int] | Labels
) -> tuple[Inputs, Rows]:
    """Set half of the labels to one of these; return the inputs and which rows. A sample alone is doubled."""
    if number_of_samples(inputs) == (1,):
        inputs = each_sample(inputs, lambda entry: np.concatenate([entry, entry]))
        code.run(inputs, excuse=locked(2))
    (n,) = number_of_samples(inputs)
    rows = np.arange(n) < n // 2
    rng.shuffle(rows)
    others = of_one_sign(code.loss, that_count(code, inputs["y"]))
    return inputs | {"y": np.where(rows, rng.choice(labels, n), others)}, rows


def _count_nothing(
    code: Code, inputs: Inputs, rows: Rows, rng: np.random.Generator, excuse: Excuse | None = None
) -> None:
    """Ask that rows have no value and no gradient, and that other numbers in them change no result."""
    d = inputs["z" if "z" in inputs else "x"].shape[1]
    huge = 2.0 ** (12 if code.dtype == "float16" else 80)  # its square is a number too
    huge = huge if "z" in inputs else 2.0 ** np.floor(np.log2(np.sqrt(huge / d)))

    def other(entry: Array) -> Array:
        numbers = rng.integers(1, 17, entry.shape) / 4.0 * rng.choice([-1.0, 1.0], entry.shape)
        return np.where(rows[:, None], numbers * rng.choice([1.0, huge]), entry)

    changed = {name: other(entry) if name in ("x", "z") else entry for name, entry in inputs.items()}
    _ask_unmoved(code, inputs, changed, rows, excuse)


def _ask_unmoved(code: Code, inputs: Inputs, changed: Inputs, rows: Rows, excuse: Excuse | None = None) -> None:
    """Ask that rows are 0 in every result, and that two batches that differ only there have the same results."""
    before, after = code.run(inputs, excuse=excuse), code.run(changed, excuse=excuse)
    where = f"in the samples {np.flatnonzero(rows).tolist()}, which count nothing, for"
    for batch, results in ((inputs, before), (changed, after)):
        for name, part in results.parts.items():
            if by_sample(name, part):
                ask(not part[rows].any(), f"{named(name)} is not 0 {where}", batch)
    compare(before, after, lambda name, part: part, changed, "depends on samples that count nothing")


def _is_without(code: Code, inputs: Inputs, rows: Rows, excuse: Excuse | None = None) -> None:
    """Ask that a batch has the results of the batch without some rows."""
    batch = code.run(inputs, excuse=excuse)
    rest = code.run(each_sample(inputs, lambda entry: entry[~rows]), excuse=locked(int((~rows).sum())))

    def kept(side: Parts) -> Parts:
        return {name: part[~rows] if by_sample(name, part) else part for name, part in side.items()}

    remaining = Results(kept(batch.parts), kept(batch.allowed))
    what = "is not that of the batch without samples that count nothing"
    compare(remaining, rest, lambda name, part: part, inputs, what)


def closed(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Triplets that keep the margin have no loss and no gradient, and where they lie changes nothing."""
    n, d = inputs["anchor"].shape
    settings = triplet_of(code.loss)
    power = 1.0 if settings.squared else 0.5
    far = (2.0 * ((d / 16.0) ** power + settings.m) + 1.0) ** (0.5 / power)
    rows = np.arange(n) < (n + 1) // 2
    rng.shuffle(rows)

    def keeping() -> Inputs:
        anchor = rng.integers(-8, 9, (n, d)) / 4.0
        aside = np.zeros((n, d))
        aside[np.arange(n), rng.integers(0, d, n)] = 2.0 ** np.ceil(np.log2(far)) * rng.choice([-1.0, 1.0], n)
        near = rng.choice([0.0, 0.25]) * rng.integers(-1, 2, (n, d))
        points = {"anchor": anchor, "positive": anchor + near, "negative": anchor + aside}
        return {name: np.where(rows[:, None], code.rounded(points[name]), entry) for name, entry in inputs.items()}

    _ask_unmoved(code, keeping(), keeping(), rows)
