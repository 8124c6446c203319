"""Labels as properties need them: those that count, those of one sign, classes that are alike."""

from __future__ import annotations

import numpy as np

from refloss.error_free import Array
from refloss.testing.hard_cases import weights_cancel
from refloss.testing.hard_cases.case import Labels
from refloss.testing.metamorphic.code import Code
from refloss.testing.signatures import (
    Loss,
    class_weight_of,
    cross_entropy_of,
    has_labels,
    has_row_terms,
    ignore_index_of,
)


def labels_that_count(loss: Loss, classes: int) -> Labels:
    """Return the labels that are not ignored and whose weight is not 0."""
    weights = class_weight_of(loss)
    counting = np.ones(classes, dtype=bool) if weights is None else np.asarray(weights) != 0.0
    return np.flatnonzero(counting & (np.arange(classes) != ignore_index_of(loss)))


def kinds_of_classes(code: Code, classes: int) -> Array:
    """Return one number per class, the same for classes that a loss treats alike."""
    kinds = np.ones(classes) if code.weights is None else code.weights.copy()
    kinds[np.arange(classes) == ignore_index_of(code.loss)] = np.inf
    return kinds


def that_count(code: Code, y: Labels) -> Labels:
    """Replace labels of weight 0."""
    weights = code.weights
    return y if weights is None else np.where(weights[y] != 0.0, y, int(np.abs(weights).argmax()))


def of_one_sign(loss: Loss, y: Labels) -> Labels:
    """Replace labels whose weight has another sign than the largest weight, so that no mean divides by 0."""
    weights = class_weight_of(loss)
    if weights is None or loss.reduction != "mean":
        return y
    largest = max(labels_that_count(loss, len(weights)).tolist(), key=lambda k: abs(weights[k]))
    return np.where(np.multiply(weights, weights[largest])[y] >= 0.0, y, largest)


def with_a_mean(loss: Loss, y: Labels) -> Labels:
    """Replace labels whose weights cancel in the divisor of the mean."""
    return of_one_sign(loss, y) if weights_cancel(loss, y) else y


def weightless_classes(code: Code) -> Labels:
    """Return classes whose samples do not count; with label smoothing, or other terms of a row, there are none."""
    smoothed = has_labels(code.loss) and cross_entropy_of(code.loss).label_smoothing
    counts = smoothed or has_row_terms(code.loss)
    return np.zeros(0, np.int64) if code.weights is None or counts else np.flatnonzero(code.weights == 0.0)
