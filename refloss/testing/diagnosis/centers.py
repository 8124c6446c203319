"""What code of classes with several centers may get wrong: which center counts, where its gradient goes, the layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.stages import angle, margin
from refloss.testing.adapters import Found
from refloss.testing.diagnosis.heads import cosines_of, parts_of
from refloss.testing.diagnosis.references import Outcomes, References, agrees
from refloss.testing.diagnosis.variants import projected
from refloss.testing.diagnosis.wrong_sums import WrongStep
from refloss.testing.signatures import Inputs, Loss, centers_of, margin_of

SHARPNESS = (1.0, 5.0, 10.0, 20.0, 32.0, 64.0)
"""Factors of the cosines by whose softmax centers are weighted; SoftTriple has 10."""


def center_steps(loss: Loss) -> Iterator[WrongStep]:
    """Yield the steps of a loss of several centers that code may get wrong."""
    if (centers_of(loss) or 1) == 1:
        return
    nearest = "the nearest center stands for its class"
    yield f"the cosines of the centers of a class are averaged: {nearest}", _of_cosines(loss, lambda c: c.mean(axis=2))
    yield f"the cosines of the centers of a class are added up: {nearest}", _of_cosines(loss, lambda c: c.sum(axis=2))
    yield f"the farthest center of a class is taken: {nearest}", _of_cosines(loss, lambda c: c.min(axis=2))
    yield f"the first center of a class is taken: {nearest}", _of_cosines(loss, lambda c: c[:, :, 0])
    for sharpness in SHARPNESS:
        sentence = f"the centers of a class are weighted by the softmax of {sharpness:g} times their cosines: {nearest}"
        yield sentence, _of_cosines(loss, partial(_weighted, sharpness))
    sentence = "the target's center is chosen after the margin, by the largest psi: choose it by the largest cosine"
    yield sentence, partial(_after_margin, loss)


def _of_cosines(loss: Loss, of_class: Callable[[Array], Array]) -> Callable[[Inputs], Any]:
    """Return the value with other cosines of classes, from those of all centers (N, C, K)."""
    return lambda inputs: parts_of(loss, inputs, of_class(_cosines(inputs))).value()


def _cosines(inputs: Inputs) -> Array:
    x, w = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in inputs[:2])
    return cosines_of(x, w)


def _weighted(sharpness: float, c: Array) -> Array:
    e = np.exp(sharpness * (c - c.max(axis=2, keepdims=True)))
    return np.asarray((e * c).sum(axis=2) / e.sum(axis=2))


def _after_margin(loss: Loss, inputs: Inputs) -> Any:
    parts, settings = parts_of(loss, inputs), margin_of(loss)
    own = _cosines(inputs)[np.arange(len(parts.y)), parts.y]
    here = margin.turned(angle.of(np.arccos(np.clip(own, -1.0, 1.0))), settings)
    psi = margin.curve_of(margin.at(settings, None)).psi(here).hi
    return parts._replace(psi=psi.max(axis=1)).value()


NEAR = 1e-3
"""Share of the largest entry of a gradient within which two gradients count as the same; likewise of cosines."""


def wrong_centers(loss: Loss, failing: Outcomes, references: References) -> list[str]:
    """Say that the gradient of a class goes to all of its centers, where values are right and both gradients show it.

    Budgets say nothing of centers that should have no gradient, so gradients are compared to a thousandth.
    """
    centers = centers_of(loss) or 1
    values = [(inputs, output._replace(gradients=None)) for inputs, output in failing]
    if centers == 1 or not all(agrees(loss, inputs, output, references) for inputs, output in values):
        return []

    def near(theirs: Array | None, ours: Array) -> bool:
        return theirs is not None and bool((np.abs(theirs - ours) <= NEAR * np.abs(ours).max()).all())

    clear = [(inputs, output) for inputs, output in failing if _is_clear(inputs)]
    pairs = [(output.gradients or (), _spread(loss, inputs, output, references)) for inputs, output in clear]
    if not pairs or not all(len(theirs) > 1 for theirs, _ in pairs):
        return []
    return [
        f"{sentence}: the choice is a constant, and the nearest has all of the gradient"
        for share, sentence in (
            (1.0, "the gradient of a class goes to all of its centers"),
            (1.0 / centers, "the gradient of a class is divided among all of its centers"),
        )
        if all(near(a, share * b) for theirs, ours in pairs for a, b in zip(theirs, ours, strict=False))
    ]


def _is_clear(inputs: Inputs) -> bool:
    """Whether the nearest center of every class is nearer than all others by more than rounding."""
    c = np.sort(_cosines(inputs), axis=2)
    return bool((c[..., -1] - c[..., -2] > NEAR).all())


def _spread(loss: Loss, inputs: Inputs, output: Found, references: References) -> tuple[Array, Array]:
    """Return the gradients of x and w if every center of a class has that of the nearest."""
    gradient, w = references.gradient(loss, inputs, output.upstream), inputs[1]
    steps = loss.trace(*inputs, upstream=output.upstream)
    each, y = np.arange(len(inputs[0])), np.clip(inputs[2], 0, len(w) - 1)
    dc, theta = steps["sub_centers"].gradient.copy(), steps["angle"]
    dc[each, y] -= theta.gradient / np.where(np.sin(theta.output) == 0.0, 1.0, np.sin(theta.output))
    nearest = np.repeat(steps["sub_centers"].output, w.shape[1], axis=1)
    every = np.repeat(dc, w.shape[1], axis=1) * (steps["cosine"].output < nearest)
    (x, length_x), (rows, length_w) = steps["normalize_x"].output, steps["normalize_w"].output
    dx, dw = projected(every @ rows, x, length_x), projected(every.T @ x, rows, length_w)
    return gradient.x + dx, gradient.w + dw.reshape(w.shape)


def other_layouts(loss: Loss) -> Iterator[tuple[str, Callable[[Outcomes], Outcomes]]]:
    """Yield sentences, and the same cases with class weights in the layout that they name."""
    centers = centers_of(loss) or 1
    if centers > 1:
        yield f"class weights (C, {centers}, D) are taken for ({centers}, C, D)", partial(_in_layout, centers)


def _in_layout(centers: int, outcomes: Outcomes) -> Outcomes:
    def as_taken(rows: NDArray[Any] | None) -> Any:
        return None if rows is None else rows.reshape(centers, -1, rows.shape[-1]).swapaxes(0, 1)

    changed = []
    for (x, w, y), output in outcomes:
        gradients = output.gradients and (output.gradients[0], *map(as_taken, output.gradients[1:2]))
        changed.append(((x, as_taken(w), y), output._replace(gradients=gradients or None)))
    return changed
