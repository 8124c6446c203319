"""Defects of classes with several centers: which center counts, and the layout of class weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from refloss.error_free import Array
from refloss.stages import angle, margin
from refloss.testing.defects.heads import cosines_of, parts_of
from refloss.testing.defects.inputs import other_inputs
from refloss.testing.defects.loss_rows import Scores
from refloss.testing.defects.steps import step
from refloss.testing.signatures import Inputs, centers_of, head_of, margin_of

SHARPNESS = (1.0, 5.0, 10.0, 20.0, 32.0, 64.0)
"""Factors of the cosines by whose softmax centers are weighted; SoftTriple has 10."""
NEAREST = "the nearest center stands for its class"


def has_centers(loss: Any) -> bool:
    """Whether classes have several centers."""
    return head_of(loss) == "margin" and (centers_of(loss) or 1) > 1


def cosines(inputs: Inputs) -> Array:
    """Return the cosines of all centers (N, C, K)."""
    x, w = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in inputs[:2])
    return cosines_of(x, w)


def _of_cosines(of_class: Callable[[Array], Any], loss: Any, inputs: Inputs) -> Scores:
    """Return the logits with other cosines of classes, from those of all centers (N, C, K)."""
    return parts_of(loss, inputs, of_class(cosines(inputs))).scores()


def _weighted(sharpness: float, c: Array) -> Array:
    e = np.exp(sharpness * (c - c.max(axis=2, keepdims=True)))
    return np.asarray((e * c).sum(axis=2) / e.sum(axis=2))


def _after_margin(loss: Any, inputs: Inputs) -> Scores:
    parts, settings = parts_of(loss, inputs), margin_of(loss)
    own = cosines(inputs)[np.arange(len(parts.y)), parts.y]
    here = margin.turned(angle.of(np.arccos(np.clip(own, -1.0, 1.0))), settings)
    psi = margin.curve_of(margin.at(settings, None)).psi(here).hi
    return parts._replace(psi=psi.max(axis=1)).scores()


CHOSEN: tuple[tuple[str, str, Callable[[Array], Any]], ...] = (
    ("mean of centers", "the cosines of the centers of a class are averaged", lambda c: c.mean(axis=2)),
    ("sum of centers", "the cosines of the centers of a class are added up", lambda c: c.sum(axis=2)),
    ("farthest center", "the farthest center of a class is taken", lambda c: c.min(axis=2)),
    ("first center", "the first center of a class is taken", lambda c: c[:, :, 0]),
    *(
        (
            f"centers weighted, {sharpness:g}",
            f"the centers of a class are weighted by the softmax of {sharpness:g} times their cosines",
            partial(_weighted, sharpness),
        )
        for sharpness in SHARPNESS
    ),
)
"""Names, sentences, and the cosine of a class from those of its centers."""
STEPS = (
    *(
        step(name, f"{sentence}: {NEAREST}", has_centers, partial(_of_cosines, of_class))
        for name, sentence, of_class in CHOSEN
    ),
    step(
        "center after the margin",
        "the target's center is chosen after the margin, by the largest psi: choose it by the largest cosine",
        has_centers,
        _after_margin,
    ),
)


def _in_layout(loss: Any, inputs: Inputs) -> Inputs:
    (x, w, y), centers = inputs, centers_of(loss) or 1
    return x, w.reshape(centers, -1, w.shape[-1]).swapaxes(0, 1), y


def _from_layout(name: str, gradient: Array, inputs: Inputs) -> Array:
    return gradient.swapaxes(0, 1).reshape(inputs[1].shape) if name == "w" else gradient


LAYOUTS = (
    other_inputs(
        "centers first",
        "class weights (C, {loss.centers}, D) are taken for ({loss.centers}, C, D)",
        has_centers,
        _in_layout,
        _from_layout,
    ),
)
