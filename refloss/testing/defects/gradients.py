"""Defects of a gradient beside a right value.

Most are of one gradient, whichever it is; `Emulated` takes them for all gradients, or for one: "zero gradient of w".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refloss.error_free import Array
from refloss.formats import rounded
from refloss.stages import cross_entropy, softcap
from refloss.testing.defects.centers import has_centers
from refloss.testing.defects.emulations import Emulation, without_defects
from refloss.testing.defects.loss_rows import logits_of, rows_of
from refloss.testing.defects.row import Defect
from refloss.testing.defects.variants import projected
from refloss.testing.signatures import (
    Inputs,
    class_weight_of,
    cross_entropy_of,
    has_labels,
    head_of,
    ignore_index_of,
    inputs_of,
    of_directions,
    of_pairs,
    scale_place,
    softcap_of,
)


class Context(NamedTuple):
    """What a gradient belongs to."""

    loss: Any
    inputs: Inputs
    upstream: Array
    """(N,), or of shape ()."""
    name: str
    """Of the input."""

    @property
    def rows(self) -> Array:
        """The input."""
        return np.asarray(self.inputs[inputs_of(self.loss).index(self.name)])

    @property
    def length(self) -> Array:
        """Lengths of its rows (..., 1)."""
        return np.asarray(np.linalg.norm(self.rows, axis=-1, keepdims=True))

    @property
    def scale(self) -> float:
        """The scale of a loss of pairs."""
        return float(self.inputs[scale_place(self.loss)])

    @property
    def samples(self) -> int:
        """N."""
        return len(self.inputs[0])


Change: TypeAlias = Callable[[Array, Context], Array]
"""The gradient of code, from the right one; or the part of a gradient that is compared."""


@dataclass(frozen=True)
class WithChange(Emulation):
    """A loss with a change of one gradient, or of all."""

    change: Change
    compared: Change | None = None
    """The part of a gradient that `check` compares; None for all of it."""
    shows: Callable[[Sequence[Context]], bool] = bool
    """Whether cases can tell it from another change."""
    field: str | None = None
    """The gradient that is changed; None for all."""

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        value, gradient = self.loss.value_and_grad(*inputs, upstream=upstream, engine=engine)
        above, loss = np.ones(np.shape(value)) if upstream is None else np.asarray(upstream), without_defects(self.loss)
        parts = {
            name: self.change(part, Context(loss, inputs, above, name))
            for name, part in gradient._asdict().items()
            if part is not None and self.field in (None, name)
        }
        return value, gradient._replace(**parts)


@dataclass(frozen=True)
class WithUpstream(Emulation):
    """A loss whose gradients belong to another upstream gradient."""

    taken: Callable[[Array], Array]

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        value = self.loss(*inputs, engine=engine)
        above = np.ones(np.shape(value)) if upstream is None else np.asarray(upstream)
        return value, self.loss.value_and_grad(*inputs, upstream=self.taken(above), engine=engine)[1]


@dataclass(frozen=True)
class Spread(Emulation):
    """A loss in whose gradient every center of a class has a share of what the nearest should have alone."""

    divided: bool
    """Whether that is divided by the number of centers."""

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        value, gradient = self.loss.value_and_grad(*inputs, upstream=upstream, engine=engine)
        steps, w = self.loss.trace(*inputs, upstream=upstream), inputs[1]
        dc = of_cosines(steps, "sub_centers", inputs)
        nearest = np.repeat(steps["sub_centers"].output, w.shape[1], axis=1)
        every = np.repeat(dc, w.shape[1], axis=1) * (steps["cosine"].output < nearest)
        (x, length_x), (rows, length_w) = steps["normalize_x"].output, steps["normalize_w"].output
        dx, dw = projected(every @ rows, x, length_x), projected(every.T @ x, rows, length_w)
        share = 1.0 / w.shape[1] if self.divided else 1.0
        return value, gradient._replace(x=share * (gradient.x + dx), w=share * (gradient.w + dw.reshape(w.shape)))


def of_cosines(steps: Any, stage: str, inputs: Inputs) -> Array:
    """Return the gradient of the cosines (N, C) of a trace, with what reaches the target's through its angle."""
    each, theta, dc = np.arange(len(inputs[0])), steps["angle"], steps[stage].gradient.copy()
    labels = inputs[2].dtype.kind in "iu"
    y = np.clip(inputs[2], 0, dc.shape[1] - 1) if labels else each  # of ignored rows, with gradients of 0, any
    dc[each, y] -= theta.gradient / np.where(np.sin(theta.output) == 0.0, 1.0, np.sin(theta.output))
    return np.asarray(dc)


BLOCKS = (2, 4, 8, 16, 32)
"""Sizes of blocks past which kernels may leave rows or columns untouched."""

# ----------------------------------------------------------------------------------------------------------------- rows


def one_gradient(
    name: str,
    sentence: str,
    change: Change,
    applies: Callable[[Any], bool] = lambda loss: True,
    compared: Change | None = None,
    shows: Callable[[Sequence[Context]], bool] = bool,
) -> Defect:
    """Return a row of a change of one gradient, or of all; its sentence goes on after "the gradient of x"."""
    return Defect(
        name, sentence, applies, lambda loss: WithChange(loss, "", change, compared, shows), "gradient", whole=False
    )


def _with_rounded_p(dtype: str, part: Array, of: Context) -> Array:
    """Round probabilities before the target is subtracted from them."""
    rows, changed = rows_of(of.loss, logits_of(of.loss, of.inputs), of.inputs), part.copy()
    error = (rounded(rows.p, dtype) - rows.p) * (rows.t != 0.0) * rows.total[:, None]
    changed[rows.kept] += _row_weights(of)[rows.kept, None] * error
    return changed


ROUNDED = tuple(
    one_gradient(
        f"p rounded to {dtype}",
        f"comes from a softmax that was rounded to {dtype} before the target was subtracted",
        partial(_with_rounded_p, dtype),
        lambda loss: head_of(loss) == "logits" and softcap_of(loss) == softcap.UNCHANGED,
    )
    for dtype in ("float32", "float16", "bfloat16")
)


def _is_mean(loss: Any) -> bool:
    return bool(loss.reduction == "mean")


def _several(contexts: Sequence[Context]) -> bool:
    """Whether a factor of N can be told from a number."""
    return len({context.samples for context in contexts}) > 1


FACTORS = (
    one_gradient("zero gradient", "is all zero", lambda part, of: 0.0 * part),
    one_gradient("gradient of the wrong sign", "has the opposite sign", lambda part, of: -part),
    one_gradient(
        "gradient of the sum",
        "is N times as large: of the sum, not of the mean",
        lambda part, of: of.samples * part,
        _is_mean,
        shows=_several,
    ),
    one_gradient(
        "gradient over N twice",
        "is divided by N twice",
        lambda part, of: part / of.samples,
        _is_mean,
        shows=_several,
    ),
    one_gradient(
        "gradient without upstream",
        "does not depend on the upstream gradient, which has to be multiplied in",
        lambda part, of: part / float(np.mean(of.upstream)),
        lambda loss: loss.reduction != "none",
        shows=lambda contexts: len({float(np.mean(of.upstream)) for of in contexts}) > 1,
    ),
    one_gradient(
        "scale once too often",
        "has the scale as a factor once too often",
        lambda part, of: of.scale * part,
        of_pairs,
        shows=lambda contexts: len({of.scale for of in contexts}) > 1,
    ),
    one_gradient(
        "gradient without scale",
        "lacks the scale as a factor",
        lambda part, of: part / of.scale,
        of_pairs,
        shows=lambda contexts: len({of.scale for of in contexts}) > 1,
    ),
    *(
        one_gradient(
            f"gradient times {world}",
            f"is {world} times what it should be, as where {world} processes add it up",
            lambda part, of, world=world: world * part,  # type: ignore[misc]
            shows=lambda contexts: False,  # any number is fitted, and may have another reason
        )
        for world in (2, 4, 8, 16, 32, 64)
    ),
)


# ----------------------------------------------------------------------------------------------- parts that are missing


def _zeroed(axis: int, start: Callable[[int], int], part: Array, of: Context) -> Array:
    """Return a gradient with zeros from some place of an axis on."""
    rest = part.copy()
    np.moveaxis(rest, axis, 0)[start(part.shape[axis]) :] = 0.0
    return rest


def _beyond(multiple: int, n: int) -> int:
    return n // multiple * multiple


def _of_others(even: bool, part: Array, of: Context) -> Array:
    rest = part.copy()
    rest[..., (0 if even else 1) :: 2] = 0.0
    return rest


def _of_array(
    name: str,
    sentence: str,
    change: Change,
    applies: Callable[[Any], bool] = lambda loss: True,
    shows: Callable[[Sequence[Context]], bool] = bool,
) -> Defect:
    """Return a row of a change of gradients, which leaves those that are one number as they are."""
    return one_gradient(name, sentence, lambda part, of: change(part, of) if part.ndim else part, applies, shows=shows)


def _rolled(by: int, part: Array, of: Context) -> Array:
    return np.roll(part, by, axis=0)


def _has_samples(contexts: Sequence[Context]) -> bool:
    """Whether rows are few enough to differ: a single row has no neighbour."""
    return any(len(np.atleast_1d(of.rows)) > 1 for of in contexts)


def _row_weights(of: Context) -> Array:
    """Return what multiplies the gradient of the loss of each row (N,), 0 for rows that are ignored."""
    rows = rows_of(of.loss, logits_of(of.loss, of.inputs), of.inputs)
    upstream = of.upstream[rows.kept] if np.ndim(of.upstream) else of.upstream
    weights = np.zeros(len(rows.kept))
    weights[rows.kept] = cross_entropy.row_weights(np.asarray(upstream), of.loss.reduction, rows.divisor, len(rows.z))
    return weights


def _last_counts(part: Array, of: Context) -> Array:
    """Take what the target adds to the gradient of its class from the last sample of each label alone."""
    if of.name not in ("w", "b"):
        return part
    y, kept = of.inputs[2], of.inputs[2] != ignore_index_of(of.loss)
    later = np.array([bool((y[n + 1 :] == label).any()) for n, label in enumerate(y)]) & kept
    rest = part.copy()
    if head_of(of.loss) == "linear":
        rows = np.ones(len(y)) if of.name == "b" else of.inputs[0]
        own = _row_weights(of)
        for n in np.flatnonzero(later):
            rest[y[n]] += own[n] * rows[n]
        return rest
    steps = of.loss.trace(*of.inputs, upstream=of.upstream)
    (x, _), (w, length) = steps["normalize_x"].output, steps["normalize_w"].output
    dc = of_cosines(steps, "cosine", of.inputs)
    for n in np.flatnonzero(later):
        rest[y[n]] -= projected((dc[n, y[n]] * x[n])[None], w[y[n]][None], length[y[n]][None])[0]
    return rest


def _has_classes(loss: Any) -> bool:
    plain = head_of(loss) == "linear" and softcap_of(loss) == softcap.UNCHANGED and not class_weight_of(loss)
    smoothed = has_labels(loss) and cross_entropy_of(loss).label_smoothing
    return not smoothed and (plain or (head_of(loss) == "margin" and not has_centers(loss)))


def _repeats(contexts: Sequence[Context]) -> bool:
    return any(len(set(of.inputs[2].tolist())) < len(of.inputs[2]) for of in contexts)


MISSING = (
    _of_array(
        "no gradient in the second half of columns",
        "is 0 in the second half of its columns",
        partial(_zeroed, -1, lambda n: (n + 1) // 2),
    ),
    _of_array(
        "no gradient from the middle column on",
        "is 0 in the second half of its columns, the middle one included",
        partial(_zeroed, -1, lambda n: n // 2),
    ),
    _of_array("no gradient in even columns", "is 0 in every second column", partial(_of_others, True)),
    _of_array("no gradient in odd columns", "is 0 in every second column", partial(_of_others, False)),
    _of_array("no gradient in the last row", "is 0 in its last row", partial(_zeroed, 0, lambda n: n - 1)),
    _of_array("no gradient in the last column", "is 0 in its last column", partial(_zeroed, -1, lambda n: n - 1)),
    *(
        _of_array(
            f"no gradient past rows of {multiple}",
            f"is 0 in the rows past a multiple of {multiple}",
            partial(_zeroed, 0, partial(_beyond, multiple)),
        )
        for multiple in BLOCKS
    ),
    *(
        _of_array(
            f"no gradient past columns of {multiple}",
            f"is 0 in the columns past a multiple of {multiple}",
            partial(_zeroed, -1, partial(_beyond, multiple)),
        )
        for multiple in BLOCKS
    ),
    *(
        _of_array(name, f"has the rows of {which}", partial(_rolled, by), shows=_has_samples)
        for name, which, by in (
            ("gradient of the next row", "the next ones", -1),
            ("gradient of the row before", "the ones before", 1),
        )
    ),
    _of_array(
        "gradient rows in reverse",
        "has its rows in reverse",
        lambda part, of: part[::-1],
        shows=_has_samples,
    ),
    _of_array(
        "one of repeated labels",
        "has of samples of one label the target's part of the last alone: add them up",
        _last_counts,
        _has_classes,
        shows=_repeats,
    ),
)


def _with_maximum(sign: float, part: Array, of: Context) -> Array:
    """Add the gradient of the largest logit, times the sum of the targets."""
    rows, changed = rows_of(of.loss, logits_of(of.loss, of.inputs), of.inputs), part.copy()
    changed[rows.kept, rows.z.argmax(axis=1)] += sign * _row_weights(of)[rows.kept] * rows.total
    return changed


MAXIMUM = tuple(
    one_gradient(
        name,
        sentence,
        partial(_with_maximum, sign),
        lambda loss: head_of(loss) == "logits" and softcap_of(loss) == softcap.UNCHANGED,
    )
    for name, sentence, sign in (
        (
            "maximum detached where subtracted",
            "has the gradient of the maximum that is added, which is detached where it is subtracted",
            1.0,
        ),
        (
            "maximum detached where added",
            "has the gradient of the maximum that is subtracted, which is detached where it is added",
            -1.0,
        ),
    )
)


def _times_length(part: Array, of: Context) -> Array:
    return np.asarray(part * of.length if of.name in ("x", "w") else part)


def _with_radial(part: Array, of: Context) -> Array:
    """Add what the projection takes off: the part of the gradient of a unit row along it."""
    if of.name not in ("x", "w"):
        return part
    steps = of.loss.trace(*of.inputs, upstream=of.upstream)
    radial = (of_cosines(steps, "cosine", of.inputs) * steps["cosine"].output).sum(axis=1 if of.name == "x" else 0)
    return np.asarray(part + radial.reshape(-1, 1) * of.rows / of.length**2)


def _across(part: Array, of: Context) -> Array:
    """Return what is orthogonal to the rows."""
    unit = of.rows / of.length
    return np.asarray(part - (part * unit).sum(axis=-1, keepdims=True) * unit)


DIRECTIONS = (
    one_gradient(
        "gradient without lengths",
        "is not divided by the length of its row",
        _times_length,
        of_directions,
    ),
    one_gradient(
        "gradient without projection",
        "has a part along its row: the projection of its normalisation is missing",
        _with_radial,
        lambda loss: of_directions(loss) and not has_centers(loss),
        compared=lambda part, of: _across(part, of) if part.ndim == 2 else part,
    ),
)


def _slope(scale: bool, cap: bool, of: Context) -> Array:
    settings = softcap_of(of.loss)
    slope: Array = np.asarray(settings.logit_scale if scale else 1.0)
    if cap and settings.softcap:
        slope = slope * (1.0 - np.square(logits_of(of.loss, of.inputs).z / settings.softcap))
    return np.asarray(slope)


def _without_slope(scale: bool, cap: bool) -> tuple[Change, Change]:
    def change(part: Array, of: Context) -> Array:
        slope = _slope(scale, cap, of)
        return np.where(slope == 0.0, 0.0, part / np.where(slope == 0.0, 1.0, slope))

    return change, lambda part, of: part * _slope(scale, cap, of)


def _scaled_and_capped(scale: bool, cap: bool, loss: Any) -> bool:
    if head_of(loss) != "logits" or softcap_of(loss) == softcap.UNCHANGED:
        return False
    settings = softcap_of(loss)
    return (not scale or settings.logit_scale != 1.0) and (not cap or settings.softcap is not None)


SLOPES = tuple(
    one_gradient(
        f"no slope of the {what}",
        f"lacks the slope of the {what}",
        _without_slope(scale, cap)[0],
        partial(_scaled_and_capped, scale, cap),
        _without_slope(scale, cap)[1],
    )
    for what, scale, cap in (
        ("softcap", False, True),
        ("logit scale", True, False),
        ("softcap and of the logit scale", True, True),
    )
)


def _of_rows(loss: Any) -> bool:
    return bool(loss.reduction == "none")


UPSTREAMS = tuple(
    Defect(name, sentence, _of_rows, lambda loss, taken=taken: WithUpstream(loss, "", taken), "gradient")  # type: ignore[misc]
    for name, sentence, taken in (
        (
            "no upstream of rows",
            "the gradients do not depend on the upstream gradient, which has to be multiplied in, row by row",
            np.ones_like,
        ),
        (
            "upstream of the first row",
            "the upstream gradient of the first row is taken for all rows",
            lambda each: np.full_like(each, each[0]),
        ),
    )
)
"""Upstream gradients that code takes instead of one for each row."""

CHOICE = "the choice is a constant, and the nearest has all of the gradient"
CENTERS = tuple(
    Defect(
        name,
        f"{sentence}: {CHOICE}",
        has_centers,
        lambda loss, divided=divided: Spread(loss, "", divided),  # type: ignore[misc]
        "gradient",
    )
    for name, sentence, divided in (
        ("gradient to all centers", "the gradient of a class goes to all of its centers", False),
        ("gradient divided among centers", "the gradient of a class is divided among all of its centers", True),
    )
)
