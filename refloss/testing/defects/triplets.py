"""Defects of triplet losses: what is exchanged, distances, the hinge, the mean.

Symbols: anchors a, positives p, negatives n (N, D); d a distance (N,); margin m.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from refloss.error_free import Array
from refloss.testing.defects.emulations import Scaled
from refloss.testing.defects.inputs import other_inputs
from refloss.testing.defects.row import Defect, setting
from refloss.testing.defects.steps import distance, step, value_of_hinges
from refloss.testing.signatures import Inputs, head_of, with_settings

Distance = Callable[[Array, Array], Array]


def _is_triplet(loss: Any) -> bool:
    return head_of(loss) == "triplet"


def _is_plain(loss: Any) -> bool:
    return _is_triplet(loss) and not loss.squared


def _is_squared(loss: Any) -> bool:
    return _is_triplet(loss) and bool(loss.squared)


# --------------------------------------------------------------------------------------------------------------- inputs

PLACES = {"anchor": 0, "positive": 1, "negative": 2}


def _exchanged(first: str, second: str, loss: Any, inputs: Inputs) -> Inputs:
    others = list(inputs)
    others[PLACES[first]], others[PLACES[second]] = inputs[PLACES[second]], inputs[PLACES[first]]
    return tuple(others)


EXCHANGED = tuple(
    other_inputs(
        f"{first} and {second} exchanged",
        f"{first} and {second} are exchanged",
        _is_triplet,
        partial(_exchanged, first, second),
        exchanged=(first, second),
    )
    for first, second in (("positive", "negative"), ("anchor", "positive"))
)

# ------------------------------------------------------------------------------------------------------------- settings


def _of_open(loss: Any, inputs: Inputs) -> float:
    """Return N over the number of triplets whose loss is above 0."""
    losses = with_settings(loss, reduction="none")(*inputs)
    return len(losses) / max(int(np.count_nonzero(losses)), 1)


SETTINGS = (
    setting("squared distances", "distances are squared", _is_plain, squared=True),
    setting("plain distances", "distances are not squared", _is_squared, squared=False),
    setting("no triplet margin", "no margin", lambda loss: _is_triplet(loss) and loss.m != 0.0, m=0.0),
    Defect(
        "mean over open triplets",
        "the sum is divided by the number of triplets whose loss is above 0",
        lambda loss: _is_triplet(loss) and loss.reduction == "mean",
        lambda loss: Scaled(loss, "divide by N", _of_open),
    ),
)

# ---------------------------------------------------------------------------------------------------------------- steps


def _of(d: Callable[[Any, Array, Array], Array], loss: Any, inputs: Inputs) -> Array:
    """Return what goes into the hinge, without the margin, from another distance."""
    a, p, n = inputs
    return d(loss, a, p) - d(loss, a, n)


def _under_root(eps: float, loss: Any, a: Array, b: Array) -> Array:
    return np.asarray(np.sqrt(((a - b) ** 2).sum(axis=1) + eps))


def _in_difference(eps: float, loss: Any, a: Array, b: Array) -> Array:
    """The norm of a - b + eps, as torch.nn.functional.pairwise_distance has it."""
    length = np.linalg.norm(a - b + eps, axis=1)
    return np.asarray(length**2 if loss.squared else length)


def _cosine(loss: Any, a: Array, b: Array) -> Array:
    return np.asarray(1.0 - (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)))


def _gram(loss: Any, a: Array, b: Array) -> Array:
    """In float32, where it shows."""
    short = [rows.astype(np.float32) for rows in (a, b)]
    squares = [(rows * rows).sum(axis=1) for rows in short]
    square = np.maximum(squares[0] - np.float32(2.0) * (short[0] * short[1]).sum(axis=1) + squares[1], 0.0)
    return np.asarray(square if loss.squared else np.sqrt(square), np.float64)


def _unit(loss: Any, inputs: Inputs) -> Array:
    a, p, n = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in inputs)
    return distance(loss, a, p) - distance(loss, a, n)


def _swapped(loss: Any, inputs: Inputs) -> Array:
    a, p, n = inputs
    return distance(loss, a, p) - np.minimum(distance(loss, a, n), distance(loss, p, n))


DISTANCES: tuple[tuple[str, str, Callable[[Any], bool], Callable[[Any, Array, Array], Array]], ...] = (
    *(
        (
            f"{eps:g} under the root of distances",
            f"{eps:g} is added under the root of every distance",
            _is_plain,
            partial(_under_root, eps),
        )
        for eps in (1e-12, 1e-8, 1e-6, 1e-5, 1e-4)
    ),
    *(
        (
            f"{eps:g} added to differences",
            f"{eps:g} is added to every entry of a difference, as torch's pairwise_distance does",
            _is_triplet,
            partial(_in_difference, eps),
        )
        for eps in (1e-8, 1e-6)
    ),
    (
        "mean over dimensions",
        "squares of differences are averaged over the dimensions, not added up",
        _is_squared,
        lambda loss, a, b: ((a - b) ** 2).mean(axis=1),
    ),
    (
        "half the squared distance",
        "the squared distance is halved",
        _is_squared,
        lambda loss, a, b: 0.5 * ((a - b) ** 2).sum(axis=1),
    ),
    (
        "sum of sizes for the distance",
        "the distance is the sum of the sizes of differences (L1), not the root of the sum of their squares",
        _is_triplet,
        lambda loss, a, b: np.abs(a - b).sum(axis=1),
    ),
    ("cosine distance", "the distance is 1 less the cosine", _is_triplet, _cosine),
    (
        "distances by the Gram matrix",
        "distances are taken from the Gram matrix, |a|^2 - 2 ab + |b|^2, which loses digits where points are near",
        _is_triplet,
        _gram,
    ),
)


def _softplus(loss: Any, violation: Array) -> Array:
    return value_of_hinges(loss, np.logaddexp(0.0, violation + loss.m))


STEPS = (
    *(step(name, sentence, applies, partial(_of, d)) for name, sentence, applies, d in DISTANCES),
    step(
        "embeddings brought to unit length",
        "embeddings are brought to unit length, which the loss does not do",
        _is_triplet,
        _unit,
    ),
    step(
        "nearer of two negatives",
        "the negative is compared with the positive too, and the smaller distance counts (swap)",
        _is_triplet,
        _swapped,
    ),
    step(
        "no hinge",
        "there is no hinge: the loss is at least 0",
        _is_triplet,
        total=lambda loss, violation: value_of_hinges(loss, violation + loss.m),
    ),
    step("softplus for the hinge", "the hinge is a softplus, log(1 + e^v)", _is_triplet, total=_softplus),
    step(
        "squared hinge",
        "the hinge is squared",
        _is_triplet,
        total=lambda loss, violation: value_of_hinges(loss, np.maximum(violation + loss.m, 0.0) ** 2),
    ),
    step(
        "triplet margin of the wrong sign",
        "the margin is subtracted, not added",
        _is_triplet,
        total=lambda loss, violation: value_of_hinges(loss, np.maximum(violation - loss.m, 0.0)),
    ),
    step(
        "margin outside the hinge",
        "the margin is added after the hinge",
        _is_triplet,
        total=lambda loss, violation: value_of_hinges(loss, np.maximum(violation, 0.0) + loss.m),
    ),
)
