"""Defects of losses with margins by length, or with hard classes: one part otherwise than their settings allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np

from refloss.error_free import Array
from refloss.losses import AdaFace
from refloss.stages import quality
from refloss.testing.defects.emulations import OfInputs, Variant, WithGradient, labels_alone
from refloss.testing.defects.heads import parts_of
from refloss.testing.defects.row import Defect, setting
from refloss.testing.signatures import (
    LABELS,
    Inputs,
    Loss,
    head_of,
    ignore_index_of,
    negatives_of,
    quality_of,
    raises_cosines,
    with_settings,
)

UNBOUNDED = Fraction(1, 10**12), Fraction(10**12)
"""Bounds that no length of a case reaches."""


class Slopes(NamedTuple):
    """The gradient of a loss whose hard classes have another slope, a + b c of their cosine c."""

    loss: Loss
    a: float
    b: float

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        value, gradient = self.loss.value_and_grad(*inputs, upstream=upstream, engine=engine)
        steps = self.loss.trace(*inputs, upstream=upstream)
        c, raised = steps["cosine"], steps["negatives"]
        parts = parts_of(self.loss, inputs)
        hard = c.output > parts.tau[:, None]
        hard[np.arange(len(c.output)), parts.y] = False
        apart = np.where(hard, raised.gradient * (self.a + self.b * c.output) - c.gradient, 0.0)
        (x, length_x), (w, length_w) = steps["normalize_x"].output, steps["normalize_w"].output
        moved = {"x": projected(apart @ w, x, length_x), "w": projected(apart.T @ x, w, length_w)}
        return value, gradient._replace(**{name: getattr(gradient, name) + part for name, part in moved.items()})


def projected(upstream: Array, unit: Array, length: Array) -> Array:
    """Carry a gradient of unit rows back to rows; ignored ones, of length 0, have none."""
    along = (upstream * unit).sum(axis=1, keepdims=True)
    return np.asarray(upstream - along * unit) / np.where(length == 0.0, 1.0, length)[:, None]


def variant(
    name: str, sentence: str, applies: Callable[[Any], bool], remedy: str | Callable[[Any], str], **parts: Any
) -> Defect:
    """Return a row of another spec: `parts` are functions of the loss that give parts of it."""

    def emulate(loss: Any) -> Variant:
        changed = {part: of(loss) for part, of in parts.items()}
        return Variant(loss, remedy(loss) if callable(remedy) else remedy, replace(loss.spec, **changed))

    return Defect(name, sentence, applies, emulate)


def other_gradient(
    name: str, sentence: str, applies: Callable[[Any], bool], remedy: str, other: Callable[[Any], Any]
) -> Defect:
    """Return a row of another gradient, that of another loss or of what is called as one."""
    return Defect(name, sentence, applies, lambda loss: WithGradient(loss, remedy, other(loss)))


# ---------------------------------------------------------------------------------------------------- margins by length


def _depends(loss: Any) -> quality.Settings | None:
    """Return how margins depend on lengths."""
    return quality_of(loss) if head_of(loss) == "margin" else None


def _is_regularized(loss: Any) -> bool:
    own = _depends(loss)
    return own is not None and own.regularizer != 0.0


def _is_constant(loss: Any) -> bool:
    own = _depends(loss)
    return own is not None and own.detached and own.factor != 0.0


def _is_attached(loss: Any) -> bool:
    own = _depends(loss)
    return own is not None and not own.detached


def _is_ada_face(loss: Any) -> bool:
    return isinstance(loss, AdaFace)


def _has_quality(loss: Any) -> bool:
    return isinstance(loss, AdaFace) and loss.h != 0.0


def _quality(loss: Any, **changes: Any) -> quality.Settings:
    return cast(quality.Settings, quality_of(loss))._replace(**changes)


def _switched(loss: Any) -> quality.Settings:
    return _quality(loss, detached=not _quality(loss).detached)


def _qualities_alone(loss: Any) -> quality.Settings:
    """Return bounds of lengths at which qualities are -1 and 1."""
    mean, width = Fraction(loss.mean), (Fraction(loss.std) + Fraction(loss.eps)) / Fraction(loss.h)
    return _quality(loss, low=max(mean - width, UNBOUNDED[0]), high=mean + width)


def _summed(loss: Any, inputs: Inputs) -> Loss:
    """Return the loss whose regularizer is not averaged: in refloss, another factor for each N."""
    y = labels_alone(inputs[LABELS[head_of(loss)]])
    return with_settings(loss, regularizer=loss.regularizer * np.count_nonzero(y != ignore_index_of(loss)))


def _without_regularizer(loss: Any) -> Loss:
    return with_settings(loss, regularizer=0.0)


def _margins_by(on_angle: int, on_cosine: int, loss: Any) -> Any:
    m = Fraction(loss.m)
    return loss.spec.margin._replace(by_quality=(on_angle * m, on_cosine * m))


LENGTHS = (
    Defect("no regularizer", "the regularizer is left out", _is_regularized, _without_regularizer),
    other_gradient(
        "no gradient of the regularizer",
        "the regularizer has no gradient",
        _is_regularized,
        "the gradient of the length has its slope too, within the bounds of the length",
        _without_regularizer,
    ),
    Defect(
        "regularizer summed",
        "the regularizer is summed, not averaged",
        lambda loss: _is_regularized(loss) and loss.reduction == "mean",
        lambda loss: OfInputs(loss, "the mean divides it too", _summed),
    ),
    variant(
        "quality attached", "the quality has a gradient", _is_constant, "it counts as a constant", quality=_switched
    ),
    variant(
        "quality detached",
        "the margin counts as a constant",
        _is_attached,
        "the gradient goes through the length",
        quality=_switched,
    ),
    setting("margin without length", "the margin does not depend on the length, as CosFace's", _has_quality, h=0.0),
    *(
        variant(name, sentence, _has_quality, "the margins are -m v and m (1 + v)", margin=partial(_margins_by, *signs))
        for name, sentence, signs in (
            ("quality of the wrong sign", "the quality has the wrong sign", (1, -1)),
            ("margin on the angle of the wrong sign", "the margin on the angle has the wrong sign", (1, 1)),
            (
                "margin on the cosine of the wrong sign",
                "the margin on the cosine has the wrong sign of the quality",
                (-1, -1),
            ),
        )
    ),
    variant(
        "nothing clipped",
        "neither lengths nor qualities are clipped",
        _has_quality,
        "lengths to 0.001 and 100, qualities to -1 and 1",
        quality=lambda loss: _quality(loss, low=UNBOUNDED[0], high=UNBOUNDED[1]),
    ),
    variant(
        "lengths not clipped",
        "lengths are not clipped",
        _has_quality,
        "to 0.001 and 100, before the quality is formed",
        quality=_qualities_alone,
    ),
    variant(
        "angle not clipped",
        "the angle with its margin is not clipped",
        _is_ada_face,
        lambda loss: f"to {loss.eps:g} and pi - {loss.eps:g}",
        margin=lambda loss: loss.spec.margin._replace(boundary="none"),
    ),
)

# --------------------------------------------------------------------------------------------------------- hard classes


def _raises(loss: Any) -> bool:
    return head_of(loss) == "margin" and raises_cosines(loss)


def _is_curricular(loss: Any) -> bool:
    own = negatives_of(loss) if head_of(loss) == "margin" else None
    return own is not None and own.rule == "curricular"


def _is_mv(loss: Any) -> bool:
    return _raises(loss) and not _is_curricular(loss)


def _slopes(a: float, of_t: float, b: float, loss: Any) -> Slopes:
    own = negatives_of(loss)
    return Slopes(loss, a + of_t * (own.t if own else 0.0), b)


CURRICULAR = "the slope of c (t + c) is t + 2 c"

HARD_CLASSES = (
    variant(
        "no hard classes", "hard classes do not count more", _raises, "raise their cosines", negatives=lambda loss: None
    ),
    *(
        other_gradient(name, sentence, _is_curricular, CURRICULAR, partial(_slopes, *slope))
        for name, sentence, slope in (
            (
                "slope t + c of hard classes",
                "half of the square of a hard cosine counts as a constant",
                (0.0, 1.0, 1.0),
            ),
            ("slope 2 t + 2 c of hard classes", "t counts twice in the slope of hard cosines", (0.0, 2.0, 2.0)),
            ("slope 2 c of hard classes", "t is left out of the slope of hard cosines", (0.0, 0.0, 2.0)),
            (
                "slope 1 of hard classes",
                "what multiplies a hard cosine is left out of its slope",
                (1.0, 0.0, 0.0),
            ),
        )
    ),
    other_gradient(
        "slope 1 of raised classes",
        "1 + t is left out of the slope of hard cosines",
        _is_mv,
        "the slope of (1 + t) c + t is 1 + t",
        partial(_slopes, 1.0, 0.0, 0.0),
    ),
)
