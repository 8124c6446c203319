"""Which properties a loss has: those that apply to its head, its settings and the shape of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from refloss.testing.hard_cases import Shape
from refloss.testing.metamorphic.accumulation import whole_of_parts, whole_of_parts_with_ignored
from refloss.testing.metamorphic.changes import (
    axes,
    far_above,
    far_below,
    lengths_of_w,
    lengths_of_x,
    masked,
    order_of_centers,
    order_of_classes,
    order_of_samples,
    samples_alone,
    samples_twice,
    shift,
    translation,
    upstream,
    vector_for_all_classes,
)
from refloss.testing.metamorphic.code import Code, Inputs
from refloss.testing.metamorphic.excluded import (
    closed,
    ignored_all,
    ignored_batch,
    ignored_rows,
    weightless_batch,
    weightless_rows,
)
from refloss.testing.metamorphic.labels import kinds_of_classes, weightless_classes
from refloss.testing.metamorphic.pairs import order_of_pairs, sides
from refloss.testing.metamorphic.within_result import (
    coincident,
    directions,
    finite,
    not_negative,
    nothing_in_sum,
    radial,
    repeatable,
    slope,
)
from refloss.testing.signatures import (
    centers_of,
    cross_entropy_of,
    has_options,
    has_row_terms,
    head_of,
    margin_of,
    of_pairs,
    quality_of,
    scale_of,
    ways_of,
)

Property: TypeAlias = Callable[[Code, Inputs, np.random.Generator], None]


def properties_of(code: Code, shape: Shape, ignored: bool) -> Iterator[Property]:
    """Yield the properties of a loss that apply to this shape."""
    head, on_directions = head_of(code.loss), code.loss.spec.directions
    if of_pairs(code.loss):
        yield from _of_pairs(code, shape)
        return
    yield from (repeatable, finite, samples_twice)
    if code.weights is None or (code.weights >= 0.0).all():
        yield not_negative
    if shape.n > 1:
        yield from (order_of_samples, samples_alone, whole_of_parts) if _is_shared(code) else (order_of_samples,)
    if head == "triplet":
        yield from (axes, translation, closed, coincident)
    elif head == "divergence":
        yield from (order_of_classes, shift) if shape.c > 1 else (shift,)
    else:
        yield from _labelled(code, shape, ignored)
    if not code.gradients:
        return
    if code.framework != "numpy":
        yield upstream
    if on_directions and directions(code) & set(code.gradients):
        yield radial
    balanced = head == "divergence" or (head == "logits" and not has_options(code.loss))
    if balanced or (head == "triplet" and len(code.gradients) == 3):
        yield nothing_in_sum
    if not on_directions or _is_slope(code):
        yield slope


def _of_pairs(code: Code, shape: Shape) -> Iterator[Property]:
    """Yield the properties of a loss of pairs, whose classes are as many as there are samples."""
    yield from (repeatable, finite, not_negative, axes, lengths_of_w, lengths_of_x)
    if shape.n > 1:
        yield order_of_pairs
    two_ways = head_of(code.loss) == "two_way" and ways_of(code.loss) == 2
    by_rows = head_of(code.loss) == "sigmoid" and code.loss.reduction == "none"  # not what columns add up to
    if not by_rows and (two_ways or head_of(code.loss) == "sigmoid"):
        yield sides
    if not code.gradients:
        return
    if code.framework != "numpy" and not (two_ways and code.loss.reduction == "none"):
        yield upstream  # of a column's loss, the gradients belong to all rows
    if directions(code) & set(code.gradients):
        yield radial
    yield slope


def _is_shared(code: Code) -> bool:
    """Whether a batch's mean is that of its samples by what they count; not with terms that no class weight divides."""
    return code.loss.reduction != "mean" or code.weights is None or not has_row_terms(code.loss)


def _is_slope(code: Code) -> bool:
    """Whether the gradient of a margin loss is that of its value: not where a part counts as a constant."""
    of_length = quality_of(code.loss)
    return margin_of(code.loss).gradient == "exact" and (of_length is None or not of_length.detached)


def _labelled(code: Code, shape: Shape, ignored: bool) -> Iterator[Property]:
    """Yield the properties of a loss with labels that concern values too."""
    head, loss = head_of(code.loss), code.loss
    kinds = kinds_of_classes(code, shape.c)
    if len(np.unique(kinds)) < len(kinds):
        yield order_of_classes
    if head == "logits" and not has_options(loss):
        yield shift
        if shape.c > 1:
            yield far_below
            if not cross_entropy_of(loss).label_smoothing:
                yield from (far_above, masked)
    if head != "logits":
        yield axes
    if head == "linear" and not has_options(loss):
        yield vector_for_all_classes
    if loss.spec.directions:
        yield lengths_of_w
        if (centers_of(loss) or 1) > 1:
            yield order_of_centers
        if scale_of(loss) is not None and quality_of(loss) is None:
            yield lengths_of_x
    if ignored:
        yield from (ignored_rows, ignored_batch, ignored_all)
        if _is_shared(code):
            yield whole_of_parts_with_ignored
    if len(weightless_classes(code)):
        yield from (weightless_rows, weightless_batch)
