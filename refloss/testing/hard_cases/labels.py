"""Labels of cases: repeated, ignored, of weight 0; and whether any label of a batch counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refloss.testing.hard_cases.case import Labels
from refloss.testing.signatures import (
    Inputs,
    Loss,
    class_weight_of,
    has_row_terms,
    ignore_index_of,
    labels_of,
)

CANCELLING = 16.0
"""Largest ratio of the magnitudes of weights of both signs to their sum, for a mean that divides by the sum."""
NOTHING = "every label is to be ignored: the sum is 0, the mean NaN or 0, and there is no gradient"
SATURATED = "logits up to 8 times the cap, where its slope is below 1e-6"
WEIGHTLESS = "every label is of a class of weight 0: the sum is 0, the mean NaN or 0"


def label_source(n: int, c: int) -> Callable[[], Labels]:
    """Return a source of labels (N,): they repeat, include the last class, and cover every class over the batches."""
    turn = 0

    def following() -> Labels:
        nonlocal turn
        turn += 1
        if n >= c:
            return np.random.default_rng(turn).permutation(np.arange(n) % c)
        y = (np.arange(n) * max(1, c // n) + turn) % c
        if n > 2 or turn % 2:
            y[np.arange(turn, turn + 2) % n] = c - 1
        return y

    return following


def can_ignore(loss: Loss) -> bool:
    """Whether the loss has a label that is ignored."""
    return ignore_index_of(loss) is not None


def ignored_reason(loss: Loss) -> str:
    """Return the reason of cases with ignored labels."""
    return (
        f"every second label is {ignore_index_of(loss)}, which is to be ignored: no loss, no gradient, and no part of "
        "the mean; code that has no such labels may refuse"
    )


def every_second_ignored(loss: Loss, y: Labels) -> Labels:
    """Return labels of which every second, the first included, is ignored."""
    ignored = ignore_index_of(loss)
    return y if ignored is None else np.where(np.arange(len(y)) % 2 == 0, ignored, y)


def weightless_labels(loss: Loss, n: int) -> Labels | None:
    """Return labels (N,) of classes of weight 0, if there are any; none where a row has other terms, which count."""
    weights = None if has_row_terms(loss) else class_weight_of(loss)
    none = np.flatnonzero(np.equal([1.0] if weights is None else weights, 0.0))
    return np.resize(none, n) if len(none) else None


def counts_nothing(loss: Loss, inputs: Inputs) -> bool:
    """Whether a mean divides by 0: every label is ignored or of weight 0, or weights of both signs add up to 0."""
    place = labels_of(loss)
    if place is None or loss.reduction != "mean":
        return False
    y = inputs[place]
    if y.dtype.kind not in "iu":
        return False
    kept, weights = y[y != ignore_index_of(loss)], class_weight_of(loss)
    return not kept.size or (weights is not None and math.fsum(np.take(weights, kept)) == 0.0)


def weights_cancel(loss: Loss, y: NDArray[Any]) -> bool:
    """Whether a mean divides by weights of both signs that nearly cancel."""
    weights = class_weight_of(loss)
    if weights is None or loss.reduction != "mean" or y.dtype.kind not in "iu":
        return False
    own = np.take(weights, y[y != ignore_index_of(loss)])
    return bool(np.abs(own).sum() > CANCELLING * abs(math.fsum(own)))
