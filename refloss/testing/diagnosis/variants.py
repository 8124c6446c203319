"""Losses with margins by length, or with hard classes, that have one part otherwise than their settings allow."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from refloss.engines.chain import Step
from refloss.engines.spec import Margin, Spec
from refloss.error_free import Array
from refloss.losses import AdaFace
from refloss.stages import quality
from refloss.testing.diagnosis.heads import parts_of
from refloss.testing.diagnosis.references import Explained, SummedTerms
from refloss.testing.signatures import Loss, negatives_of, quality_of, raises_cosines, with_settings

UNBOUNDED = Fraction(1, 10**12), Fraction(10**12)
"""Bounds that no length of a case reaches."""


class Variant(NamedTuple):
    """A loss with another spec."""

    loss: Loss
    remedy: str
    """What to do instead."""
    spec: Spec

    @property
    def reduction(self) -> str:
        """One of "mean", "sum" and "none"."""
        return self.loss.reduction

    @property
    def _changed(self) -> Loss:
        other = copy.copy(self.loss)
        vars(other)["spec"] = self.spec  # where the loss keeps it
        return other

    def __call__(self, *inputs: Any, engine: str = "auto") -> Any:
        """Return the value."""
        return self._changed(*inputs, engine=engine)

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        return self._changed.value_and_grad(*inputs, upstream=upstream, engine=engine)

    def trace(self, *inputs: Any, upstream: Any = None) -> Mapping[str, Step]:
        """Return every stage's output and gradient."""
        return self._changed.trace(*inputs, upstream=upstream)

    def __str__(self) -> str:
        """Say what to do instead."""
        return self.remedy


class WithSlopes(Protocol):
    """A loss, or what is called as a loss, of which gradients are taken."""

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return a value and the gradients."""


class WithGradient(NamedTuple):
    """The value of one loss with the gradient of another."""

    loss: Loss
    remedy: str
    """What to do instead."""
    other: WithSlopes
    """Whose gradient it is."""

    @property
    def spec(self) -> Any:
        """The spec of the loss."""
        return self.loss.spec

    @property
    def reduction(self) -> str:
        """One of "mean", "sum" and "none"."""
        return self.loss.reduction

    def __call__(self, *inputs: Any, engine: str = "auto") -> Any:
        """Return the value."""
        return self.loss(*inputs, engine=engine)

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the gradients."""
        gradient = self.other.value_and_grad(*inputs, upstream=upstream, engine=engine)[1]
        return self.loss(*inputs, engine=engine), gradient

    def trace(self, *inputs: Any, upstream: Any = None) -> Mapping[str, Step]:
        """Return every stage's output and gradient."""
        return self.loss.trace(*inputs, upstream=upstream)

    def __str__(self) -> str:
        """Say what to do instead."""
        return self.remedy


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
        hard = c.output > parts_of(self.loss, inputs).tau[:, None]
        hard[np.arange(len(c.output)), inputs[2]] = False
        apart = np.where(hard, raised.gradient * (self.a + self.b * c.output) - c.gradient, 0.0)
        (x, length_x), (w, length_w) = steps["normalize_x"].output, steps["normalize_w"].output
        moved = {"x": projected(apart @ w, x, length_x), "w": projected(apart.T @ x, w, length_w)}
        return value, gradient._replace(**{name: getattr(gradient, name) + part for name, part in moved.items()})


def projected(upstream: Array, unit: Array, length: Array) -> Array:
    """Carry a gradient of unit rows back to rows; ignored ones, of length 0, have none."""
    along = (upstream * unit).sum(axis=1, keepdims=True)
    return np.asarray(upstream - along * unit) / np.where(length == 0.0, 1.0, length)[:, None]


def other_heads(loss: Loss) -> Iterator[tuple[str, Explained]]:
    """Yield what code of margins by length and of hard classes is often mistaken in."""
    if quality_of(loss) is not None:
        yield from _of_quality(loss)
    if raises_cosines(loss):
        yield from _of_negatives(loss)


def _of_quality(loss: Loss) -> Iterator[tuple[str, Explained]]:
    spec, own = cast(Margin, loss.spec), cast(quality.Settings, quality_of(loss))
    if own.regularizer:
        none = with_settings(loss, regularizer=0.0)
        yield "the regularizer is left out", none
        remedy = "the gradient of the length has its slope too, within the bounds of the length"
        yield "the regularizer has no gradient", WithGradient(loss, remedy, none)
        if loss.reduction == "mean":
            yield "the regularizer is summed, not averaged", SummedTerms(loss, own.regularizer)
    attached = own._replace(detached=not own.detached)
    if own.detached and own.factor:
        yield "the quality has a gradient", Variant(loss, "it counts as a constant", replace(spec, quality=attached))
    elif not own.detached:
        remedy = "the gradient goes through the length"
        yield "the margin counts as a constant", Variant(loss, remedy, replace(spec, quality=attached))
    if isinstance(cast(object, loss), AdaFace):
        yield from _of_ada_face(loss, spec, own)


def _of_ada_face(loss: Loss, spec: Margin, own: quality.Settings) -> Iterator[tuple[str, Explained]]:
    settings = cast(AdaFace, loss)
    if settings.h:
        yield from _of_ada_face_lengths(settings, loss, spec, own)
    unclipped = spec.margin._replace(boundary="none")
    remedy = f"to {settings.eps:g} and pi - {settings.eps:g}"
    yield "the angle with its margin is not clipped", Variant(loss, remedy, replace(spec, margin=unclipped))


def _of_ada_face_lengths(
    settings: AdaFace, loss: Loss, spec: Margin, own: quality.Settings
) -> Iterator[tuple[str, Explained]]:
    m, h = Fraction(settings.m), Fraction(settings.h)
    yield "the margin does not depend on the length, as CosFace's", with_settings(loss, h=0.0)
    for sentence, by_quality in (
        ("the quality has the wrong sign", (m, -m)),
        ("the margin on the angle has the wrong sign", (m, m)),
        ("the margin on the cosine has the wrong sign of the quality", (-m, -m)),
    ):
        curve = spec.margin._replace(by_quality=by_quality)
        yield sentence, Variant(loss, "the margins are -m v and m (1 + v)", replace(spec, margin=curve))
    wide = own._replace(low=UNBOUNDED[0], high=UNBOUNDED[1])
    yield (
        "neither lengths nor qualities are clipped",
        Variant(loss, "lengths to 0.001 and 100, qualities to -1 and 1", replace(spec, quality=wide)),
    )
    mean, width = Fraction(settings.mean), (Fraction(settings.std) + Fraction(settings.eps)) / h
    qualities = own._replace(low=max(mean - width, UNBOUNDED[0]), high=mean + width)
    remedy = "to 0.001 and 100, before the quality is formed"
    yield "lengths are not clipped", Variant(loss, remedy, replace(spec, quality=qualities))


def _of_negatives(loss: Loss) -> Iterator[tuple[str, Explained]]:
    spec, own = cast(Margin, loss.spec), negatives_of(loss)
    t = 0.0 if own is None else own.t
    yield "hard classes do not count more", Variant(loss, "raise their cosines", replace(spec, negatives=None))
    if own is not None and own.rule == "curricular":
        slopes = {
            "half of the square of a hard cosine counts as a constant": (t, 1.0),
            "t counts twice in the slope of hard cosines": (2.0 * t, 2.0),
            "t is left out of the slope of hard cosines": (0.0, 2.0),
            "what multiplies a hard cosine is left out of its slope": (1.0, 0.0),
        }
        remedy = "the slope of c (t + c) is t + 2 c"
    else:
        slopes = {"1 + t is left out of the slope of hard cosines": (1.0, 0.0)}
        remedy = "the slope of (1 + t) c + t is 1 + t"
    for sentence, (a, b) in slopes.items():
        yield sentence, WithGradient(loss, remedy, Slopes(loss, a, b))
