"""Relations between a batch and its parts, over which gradients are accumulated."""

from __future__ import annotations

from operator import itemgetter

import numpy as np

from refloss.testing.metamorphic.code import REFUSED, Code, Excuse, Inputs, Results, locked, number_of_samples
from refloss.testing.metamorphic.comparisons import compare, each_sample, together
from refloss.testing.metamorphic.labels import of_one_sign, that_count
from refloss.testing.signatures import ignore_index_of

LEAST = 3
"""Samples of a batch of which one part has an ignored label and one that counts, and the other has another."""


def whole_of_parts(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The loss of parts, weighted by what counts, is the loss of the whole."""
    _is_sum_of_parts(code, _with_means(code, inputs))


def whole_of_parts_with_ignored(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The loss of parts with ignored labels, weighted by what counts, is the loss of the whole."""
    (n,) = number_of_samples(inputs)
    copies = -(-LEAST // n)
    inputs = _with_means(code, each_sample(inputs, lambda entry: np.concatenate([entry] * copies)))
    n *= copies
    if copies > 1:
        code.run(inputs, excuse=locked(n))
    rest = np.arange(_first(n), n)
    ignored = rng.choice(rest, rng.integers(1, len(rest)), replace=False)
    y = np.where(np.isin(np.arange(n), ignored), ignore_index_of(code.loss) or 0, inputs["y"])
    _is_sum_of_parts(code, inputs | {"y": y}, REFUSED)


def _with_means(code: Code, inputs: Inputs) -> Inputs:
    """Replace labels of weight 0, and of another sign than the largest weight: then any part has a mean."""
    mean = code.loss.reduction == "mean" and code.weights is not None
    return inputs | {"y": of_one_sign(code.loss, that_count(code, inputs["y"]))} if mean else inputs


def _first(n: int) -> int:
    """Return the number of samples of the first part, the smaller one where that is possible."""
    return max(1, (n - 1) // 2)


def _is_sum_of_parts(code: Code, inputs: Inputs, excuse: Excuse | None = None) -> None:
    """Ask that value and gradients of a batch are the sums of those of its two parts."""
    (n,) = number_of_samples(inputs)
    slices = slice(0, _first(n)), slice(_first(n), n)
    batch = code.run(inputs, excuse=excuse)
    sides = [code.run(each_sample(inputs, itemgetter(s)), excuse=locked(s.stop - s.start)) for s in slices]
    shares = np.ones(len(sides))
    if code.loss.reduction == "mean":
        counts = np.array([_count(code, inputs, rows) for rows in slices])
        shares = counts / counts.sum()
    summed = Results(
        together([side.parts for side in sides], shares), together([side.allowed for side in sides], np.abs(shares))
    )
    compare(summed, batch, lambda name, part: part, inputs, "is not that of the parts of the batch")


def _count(code: Code, inputs: Inputs, rows: slice) -> float:
    """Return what the mean of some samples divides by."""
    if "y" not in inputs:
        return float(rows.stop - rows.start)
    y = inputs["y"][rows]
    y = y[y != ignore_index_of(code.loss)]
    return float(len(y)) if code.weights is None else float(np.sum(code.weights[y]))
