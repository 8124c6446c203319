"""Defects of the steps of margin losses: lengths, hard classes, normalization, and margins that are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, cast

import numpy as np

from refloss.error_free import Array
from refloss.losses import AdaFace, CircleLoss, CurricularFace, MagFace, SphereFaceR
from refloss.losses.margin import ON_ANGLE
from refloss.stages import negatives, quality
from refloss.testing.defects.emulations import OfInputs
from refloss.testing.defects.heads import Parts, cosines_of, raised
from refloss.testing.defects.inputs import other_inputs
from refloss.testing.defects.loss_rows import Scores
from refloss.testing.defects.row import Defect
from refloss.testing.defects.steps import cosine_step, of_parts, step
from refloss.testing.signatures import (
    Inputs,
    Loss,
    head_of,
    is_on_cosine,
    margin_of,
    negatives_of,
    of_directions,
    own_margin,
    raises_cosines,
    takes_margins,
    target_logit,
)

# -------------------------------------------------------------------------------------------------------------- lengths


def _has_quality(loss: Any) -> bool:
    return isinstance(loss, AdaFace) and loss.h != 0.0


def _updated(loss: Any, inputs: Inputs) -> Loss:
    return cast(Loss, loss.updated(*inputs) if isinstance(loss, CurricularFace) else loss.updated(inputs[0]))


def _of_inputs(settings: Callable[[Any, Inputs], Loss], loss: Any) -> OfInputs:
    remedy = "take the t of the step before" if isinstance(loss, CurricularFace) else "pass those so far"
    return OfInputs(loss, remedy, settings)


def _of_batch(loss: Any, inputs: Inputs) -> Loss:
    return _updated(replace(loss, momentum=1.0), inputs)


UPDATES = tuple(
    Defect(name, sentence, applies, partial(_of_inputs, settings))
    for name, sentence, applies, settings in (
        (
            "lengths updated first",
            "the mean and the standard deviation of lengths are updated before they are used",
            _has_quality,
            _updated,
        ),
        (
            "lengths of the batch",
            "the mean and the standard deviation are those of the batch",
            _has_quality,
            _of_batch,
        ),
        (
            "t updated first",
            "t is updated before it is used",
            lambda loss: isinstance(loss, CurricularFace),
            _updated,
        ),
    )
)


def _terms(loss: MagFace, length: Array) -> Array:
    return loss.regularizer * (length / loss.u_a**2 + 1.0 / length)


def _unclipped(parts: Parts) -> Scores:
    loss = cast(MagFace, parts.loss)
    m = loss.l_m + (loss.u_m - loss.l_m) / (loss.u_a - loss.l_a) * (parts.length - loss.l_a)
    own = parts.settings._replace(m2=0.0, by_quality=ON_ANGLE)
    psi = target_logit(own, parts.theta, quality.given(m))
    return parts._replace(psi=psi, terms=_terms(loss, parts.length)).scores()


def _unclipped_terms(parts: Parts) -> Scores:
    return parts._replace(terms=_terms(cast(MagFace, parts.loss), parts.length)).scores()


LENGTHS = (
    step(
        "lengths not clipped, MagFace",
        "lengths are not clipped, in the margin and in the regularizer",
        lambda loss: isinstance(loss, MagFace),
        of_parts(_unclipped),
    ),
    step(
        "lengths of the regularizer not clipped",
        "the regularizer takes lengths that are not clipped",
        lambda loss: isinstance(loss, MagFace) and loss.regularizer != 0.0,
        of_parts(_unclipped_terms),
    ),
)

# --------------------------------------------------------------------------------------------------------- hard classes


def _settings(parts: Parts) -> negatives.Settings:
    return cast(negatives.Settings, negatives_of(parts.loss))


def _added(parts: Parts) -> Scores:
    f = np.where(parts.c > parts.tau[:, None], parts.c + _settings(parts).t, parts.c)
    return parts.scores_with(f)


BEFORE = "the threshold of hard classes is cos(theta + m), or cos(theta) - m, before any rule"
HARD_CLASSES = tuple(
    step(name, sentence, lambda loss: head_of(loss) == "margin" and raises_cosines(loss), of_parts(change))
    for name, sentence, change in (
        (
            "hard above psi",
            f"hard classes are above psi, which a rule has changed: {BEFORE}",
            lambda parts: parts._replace(tau=parts.psi).scores(),
        ),
        (
            "hard above the target's cosine",
            f"hard classes are above the target's cosine: {BEFORE}",
            lambda parts: parts._replace(tau=parts.target).scores(),
        ),
        (
            "target counts as hard",
            "the target counts as a hard class, and its margin is lost",
            lambda parts: parts._replace(psi=raised(_settings(parts), parts.target)).scores(),
        ),
        (
            "psi raised",
            "the target's cosine with its margin is raised as that of a hard class",
            lambda parts: parts._replace(psi=raised(_settings(parts), parts.psi)).scores(),
        ),
        (
            "all classes hard",
            "all classes count as hard",
            lambda parts: parts._replace(tau=np.full(len(parts.y), -2.0)).scores(),
        ),
        ("t added", "t is added to hard cosines, which are not multiplied by 1 + t", _added),
    )
)

# -------------------------------------------------------------------------------------------------------- normalization

Length: TypeAlias = Callable[[Array], Array]
"""The divisor of rows, from their lengths."""
ADDED_TO_LENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Constants that code adds to a length, or to its square."""


def _own(length: Array) -> Array:
    return length


def _with_lengths(of_x: Length, of_w: Length, loss: Any, inputs: Inputs) -> Array:
    """Return the cosines if rows are divided by something else than their lengths."""
    x, w, *_ = inputs
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return cosines_of(x / of_x(length), w / of_w(np.linalg.norm(w, axis=-1, keepdims=True)))


def _wrong_sign(parts: Parts) -> Scores:
    m2, m3 = parts.margins
    if is_on_cosine(parts.settings):
        return parts._replace(psi=parts.target + m3).scores()
    return parts._replace(psi=np.cos(parts.settings.m1 * parts.theta - m2) + m3).scores()


def _is_margin(loss: Any) -> bool:
    return head_of(loss) == "margin"


def _constants() -> Any:
    for eps in ADDED_TO_LENGTHS:
        added, under_root = partial(np.add, eps), partial(np.hypot, np.sqrt(eps))
        yield f"{eps:g} added to lengths", f"{eps:g} added to every length", added
        yield f"{eps:g} under the root of lengths", f"{eps:g} added under the root of every length", under_root


def _by_norm(lengths: Callable[[Array], Array], loss: Any, inputs: Inputs) -> Array:
    """Return the cosines if rows are divided by another norm."""
    x, w, *_ = inputs
    return cosines_of(x / lengths(x), w / lengths(w))


def _sizes(rows: Array) -> Array:
    return np.asarray(np.abs(rows).sum(axis=-1, keepdims=True))


def _squares(rows: Array) -> Array:
    return np.asarray((rows * rows).sum(axis=-1, keepdims=True))


def _over_classes(loss: Any, inputs: Inputs) -> Array:
    """Return the cosines if the columns of the weights are brought to unit length, not their rows."""
    x, w, *_ = inputs
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return cosines_of(unit, w / np.linalg.norm(w, axis=0, keepdims=True))


def _clipped(distance: float, loss: Any, inputs: Inputs) -> Array:
    x, w = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in inputs[:2])
    return np.clip(cosines_of(x, w), distance - 1.0, 1.0 - distance)


def _has_angle(loss: Any) -> bool:
    return _is_margin(loss) and not is_on_cosine(margin_of(loss)) and not isinstance(loss, CircleLoss)


def _held_angle(distance: float, parts: Parts) -> Scores:
    theta = np.clip(parts.theta, distance, np.pi - distance)
    return parts._replace(psi=target_logit(parts.settings, theta, parts.v)).scores()


def _on_all(parts: Parts) -> Scores:
    each = [target_logit(parts.settings, column, parts.v) for column in parts.angles.T]
    return parts._replace(psi=target_logit(parts.settings, parts.theta, parts.v)).scores_with(np.stack(each, axis=1))


CLAMPS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Distances from 1, or from 0 and pi, at which code clamps a cosine or an angle."""

GEOMETRY = (
    step(
        "margin on every class",
        "the margin is on every class: only the target has one",
        _has_angle,
        of_parts(_on_all),
    ),
    *(
        cosine_step(
            f"cosine within {eps:g} of 1", f"cosine clamped at 1 - {eps:g}", of_directions, partial(_clipped, eps)
        )
        for eps in CLAMPS
    ),
    *(
        step(
            f"angle within {eps:g} of 0 and pi",
            f"the target's angle is clamped between {eps:g} and pi - {eps:g}",
            _has_angle,
            of_parts(partial(_held_angle, eps)),
        )
        for eps in CLAMPS
    ),
    cosine_step(
        "L1 for L2 lengths",
        "rows are divided by the sum of the sizes of their entries (L1), not by their lengths",
        of_directions,
        partial(_by_norm, _sizes),
    ),
    cosine_step(
        "squared lengths",
        "rows are divided by the squares of their lengths",
        of_directions,
        partial(_by_norm, _squares),
    ),
    cosine_step(
        "weights unit over classes",
        "the columns of the class weights are brought to unit length, not the rows: the axis is wrong",
        of_directions,
        _over_classes,
    ),
)

NORMALIZATION = (
    *(
        cosine_step(name, sentence, of_directions, partial(_with_lengths, of_x, of_w))
        for name, sentence, of_x, of_w in (
            ("weights not unit", "weights are not brought to unit length", _own, np.ones_like),
            ("embeddings not unit", "embeddings are not brought to unit length", np.ones_like, _own),
            (
                "nothing unit",
                "neither embeddings nor weights are brought to unit length",
                np.ones_like,
                np.ones_like,
            ),
        )
    ),
    step(
        "margin of the wrong sign",
        "the margin has the wrong sign: it has to make the target's logit smaller",
        lambda loss: _is_margin(loss) and not isinstance(loss, SphereFaceR | CircleLoss),
        of_parts(_wrong_sign),
    ),
    *(
        cosine_step(name, sentence, of_directions, partial(_with_lengths, length, length))
        for name, sentence, length in _constants()
    ),
)

# --------------------------------------------------------------------------------------------------- margins of samples


def _given(change: Callable[[Any, Array], Array], loss: Any, inputs: Inputs) -> Inputs:
    """Return inputs with other margins, where any are given."""
    return (*inputs[:3], change(loss, inputs[3])) if len(inputs) > 3 else inputs


MARGINS = tuple(
    other_inputs(name, sentence, takes_margins, partial(_given, change), kept=("x", "w"))
    for name, sentence, change in (
        (
            "given margins not used",
            "the margins that are given are not used",
            lambda loss, m: np.full_like(m, own_margin(loss)),
        ),
        (
            "margin of the next sample",
            "every sample has the margin of the next one",
            lambda loss, m: np.roll(m, -1),
        ),
        (
            "margin of the sample before",
            "every sample has the margin of the one before",
            lambda loss, m: np.roll(m, 1),
        ),
        (
            "margin of the first sample",
            "all samples have the margin of the first",
            lambda loss, m: np.full_like(m, m[0]),
        ),
        (
            "mean margin",
            "all samples have the mean of the margins",
            lambda loss, m: np.full_like(m, m.mean()),
        ),
        ("given margins of the wrong sign", "the margins have the wrong sign", lambda loss, m: -m),
    )
)
"""Margins that code takes instead of those that are given; their gradient is not looked at."""
