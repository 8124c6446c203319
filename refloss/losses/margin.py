r"""Losses on directions: the logits are scaled cosines, the target's replaced by a curve ψ of its angle.

Symbols: embeddings x (N, D), class weights w (C, D), labels y (N,); θ_nk the angle between x_n and w_k; scale s;
margins m, in radians where they are angles.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from refloss import inputs
from refloss.engines import dispatch
from refloss.engines.call import Call
from refloss.engines.dispatch import Value
from refloss.engines.spec import Margin
from refloss.error_free import Array
from refloss.losses.base import LabelledLoss, Trace
from refloss.stages import angle, class_angles, margin, negatives, quality

ON_ANGLE, ON_COSINE = (Fraction(1), Fraction(0)), (Fraction(0), Fraction(1))
"""A given margin added to the angle, and one taken off the cosine."""


class HeadGradient(NamedTuple):
    """Gradient of a margin loss."""

    x: Array
    """dL/dx (N, D)."""
    w: Array
    """dL/dw (C, D)."""


class GivenMarginGradient(NamedTuple):
    """Gradient of a margin loss whose margins are given."""

    x: Array
    """dL/dx (N, D)."""
    w: Array
    """dL/dw (C, D)."""
    m: Array
    """dL/dm (N,)."""


def head_gradient(**gradients: Any) -> HeadGradient | GivenMarginGradient:
    """Return gradients in the tuple that has their fields."""
    return GivenMarginGradient(**gradients) if "m" in gradients else HeadGradient(**gradients)


@dataclass(frozen=True, kw_only=True, repr=False)
class MarginLoss(LabelledLoss):
    """What every loss on directions shares: the curve of the target's angle, and a scale."""

    _gradient = staticmethod(head_gradient)

    gradient: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        inputs.check_choice("gradient", self.gradient, inputs.GRADIENTS)

    @property
    def _margin(self) -> margin.Settings:
        """The settings of the curve; losses with a margin say which."""
        return margin.Settings(gradient=self.gradient)

    @property
    def _quality(self) -> quality.Settings | None:
        """How a number per sample comes of the length of its embedding, for losses that have one."""
        return None

    @property
    def _negatives(self) -> negatives.Settings | None:
        """What becomes of hard classes, for losses that have them."""
        return None

    @property
    def _class_angles(self) -> class_angles.Settings | None:
        """What becomes of the angles of the other classes, for losses that change them."""
        return None

    @property
    def _centers(self) -> int | None:
        """How many centers a class has, for losses of w (C, K, D)."""
        return None

    @cached_property
    def spec(self) -> Margin:
        """What an engine needs to know of this loss."""
        scale = getattr(self, "s", None)
        others = self._quality, self._negatives, self._class_angles
        return Margin(self._cross_entropy, self._margin, scale, *others, self._centers)

    def target_logit(self, theta: Any) -> Value:
        """Return ψ(θ), which replaces cos θ of the target before the scale, for angles in [0, pi]."""
        return self._of_angle("psi", theta)

    def target_slope(self, theta: Any) -> Value:
        """Return ψ'(θ) per radian, as this loss's gradient convention has it, for angles in [0, pi]."""
        return self._of_angle("slope", theta)

    def _of_angle(self, quantity: Literal["psi", "slope"], theta: Any) -> Value:
        radians = inputs.angles(theta)
        target = margin.turned(angle.of(radians), self._margin)
        values: Array = getattr(margin.curve_of(self._margin), quantity)(target).hi
        return values if radians.ndim else np.float64(values)

    def __call__(self, x: Any, w: Any, y: Any, *, engine: str = "auto", dtype: Any = None) -> Value:
        """Return the loss of embeddings x (N, D), class weights w (C, D) and labels y (N,)."""
        return dispatch.value(self._call(x, w, y), engine, dtype)

    def value_and_grad(
        self,
        x: Any,
        w: Any,
        y: Any,
        *,
        upstream: Any = None,
        wrt: Any = None,
        out: Any = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> tuple[Value, HeadGradient]:
        """Return the loss and its gradients, a named tuple with the fields x (N, D) and w (C, D).

        The options are those of `CrossEntropy.value_and_grad`; upstream is a number, or (N,) for reduction="none".
        """
        return self._value_and_grad(self._call(x, w, y), upstream, wrt, out, engine, dtype)

    def trace(self, x: Any, w: Any, y: Any, *, upstream: Any = None) -> Trace:
        """Return every stage's output and gradient by stage name; ignored rows hold 0."""
        return dispatch.trace(self._call(x, w, y), upstream)

    def _call(self, x: Any, w: Any, y: Any) -> Call:
        arrays = inputs.embeddings_and_classes(
            x, w, y, None, self.class_weight, self.ignore_index, directions=True, centers=self._centers
        )
        return Call(self.spec, arrays, arrays["y"].shape, {"x": x, "w": w, "y": y})


@dataclass(frozen=True, kw_only=True, repr=False)
class ModifiedSoftmax(MarginLoss):
    r"""Modified softmax: unit class weights, no bias, the length of the embedding as the scale.

    $$L_n = -\log\frac{e^{\lVert x_n\rVert\cos\theta_{y_n}}}{\sum_k e^{\lVert x_n\rVert\cos\theta_{nk}}}$$

    Source: SphereFace (Liu et al. 2017), https://arxiv.org/abs/1704.08063, eq. 4.

    Parameters
    ----------
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact" or "detached"; without a margin the two are the same.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """


@dataclass(frozen=True, kw_only=True, repr=False)
class ScaledLoss(MarginLoss):
    """A margin loss with a scale of its own; None means the length of the embedding."""

    s: float | None = 64.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.s is not None:
            self._keep("s", inputs.number("s", self.s, 0.0, above=True))


@dataclass(frozen=True, kw_only=True, repr=False)
class PerSampleLoss(ScaledLoss, ABC):
    """A loss whose margin may be given for every sample, as a fourth argument."""

    @property
    @abstractmethod
    def _of_given(self) -> margin.Settings:
        """The settings of the curve without the margin that is given in its place."""

    @property
    @abstractmethod
    def _largest(self) -> float:
        """How large a given margin may be, of either sign."""

    def __call__(self, x: Any, w: Any, y: Any, m: Any = None, *, engine: str = "auto", dtype: Any = None) -> Value:
        """Return the loss of embeddings x (N, D), class weights w (C, D), labels y (N,) and, if given, margins m (N,).

        Margins of samples take the place of the setting.
        """
        return dispatch.value(self._call(x, w, y, m), engine, dtype)

    def value_and_grad(
        self,
        x: Any,
        w: Any,
        y: Any,
        m: Any = None,
        *,
        upstream: Any = None,
        wrt: Any = None,
        out: Any = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> tuple[Value, Any]:
        """Return the loss and its gradients, a named tuple with the fields x (N, D) and w (C, D).

        Where margins m (N,) are given, the tuple has a third field m (N,). The options are those of
        `CrossEntropy.value_and_grad`; upstream is a number, or (N,) for reduction="none".
        """
        return self._value_and_grad(self._call(x, w, y, m), upstream, wrt, out, engine, dtype)

    def trace(self, x: Any, w: Any, y: Any, m: Any = None, *, upstream: Any = None) -> Trace:
        """Return every stage's output and gradient by stage name; ignored rows hold 0."""
        return dispatch.trace(self._call(x, w, y, m), upstream)

    @cached_property
    def _spec_of_given(self) -> Margin:
        return replace(self.spec, margin=self._of_given)

    def _call(self, x: Any, w: Any, y: Any, m: Any = None) -> Call:
        call = super()._call(x, w, y)
        if m is None:
            return call
        counted = call.arrays["y"] != self.ignore_index
        arrays = call.arrays | {"m": inputs.margins(m, counted, self._largest)}
        return Call(self._spec_of_given, arrays, call.samples, {**call.arguments, "m": m})


@dataclass(frozen=True, kw_only=True, repr=False)
class NormFace(ScaledLoss):
    r"""NormFace: unit embeddings and unit class weights, one scale.

    $$L_n = -\log\frac{e^{s\cos\theta_{y_n}}}{\sum_k e^{s\cos\theta_{nk}}}$$

    Source: NormFace (Wang et al. 2017), https://arxiv.org/abs/1704.06369.

    Parameters
    ----------
    s
        Scale, above 0; None for the length of the embedding.
    reduction, label_smoothing, class_weight, ignore_index, gradient
        As in `ModifiedSoftmax`.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """


@dataclass(frozen=True, kw_only=True, repr=False)
class ASoftmax(ScaledLoss):
    r"""A-Softmax (SphereFace): the target's angle multiplied.

    $$L_n = -\log\frac{e^{s\,\psi(\theta_{y_n})}}{e^{s\,\psi(\theta_{y_n})} + \sum_{k\ne y_n} e^{s\cos\theta_{nk}}},
    \qquad \psi(\theta) = (-1)^k\cos m\theta - 2k, \quad k = \lfloor m\theta/\pi\rfloor$$

    At θ = π the fold is that of k = m - 1, and the value 1 - 2m. Source: SphereFace (Liu et al. 2017),
    https://arxiv.org/abs/1704.08063, eq. 7.

    Parameters
    ----------
    m
        Multiplies the angle, from 1 to 30.
    annealing
        λ in (λ cos θ + ψ) / (1 + λ), 0 or more.
    s
        Scale, above 0; None, the paper's choice, for the length of the embedding.
    boundary
        "monotone", the paper's folds, or "none", cos mθ, which rises again beyond mθ = π.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact", or "detached" for dψ/dθ := -sin θ.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m: float = 4.0
    annealing: float = 0.0
    s: float | None = None
    boundary: str = "monotone"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.number("m", self.m, 1.0, 30.0))
        self._keep("annealing", inputs.number("annealing", self.annealing, 0.0, 1e100))
        inputs.check_choice("boundary", self.boundary, ("monotone", "none"))

    @property
    def _margin(self) -> margin.Settings:
        return margin.Settings(self.m, boundary=self.boundary, annealing=self.annealing, gradient=self.gradient)


@dataclass(frozen=True, kw_only=True, repr=False)
class CosFace(PerSampleLoss):
    r"""CosFace (AM-Softmax): the target's cosine lowered.

    $$L_n = -\log\frac{e^{s(\cos\theta_{y_n} - m)}}
    {e^{s(\cos\theta_{y_n} - m)} + \sum_{k\ne y_n} e^{s\cos\theta_{nk}}}$$

    Sources: CosFace (Wang et al. 2018), https://arxiv.org/abs/1801.09414, eq. 4; AM-Softmax (Wang et al. 2018),
    https://arxiv.org/abs/1801.05599.

    Parameters
    ----------
    s
        Scale, above 0; None for the length of the embedding.
    m
        Margin on the cosine, in [0, 2].
    boundary
        "none", or "conditional" for a margin only where cos θ > m, as the official AM-Softmax layer has it.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact" or "detached"; for a margin on the cosine the two are the same.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m: float = 0.35
    boundary: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.number("m", self.m, 0.0, 2.0))
        inputs.check_choice("boundary", self.boundary, ("none", "conditional"))
        margin.check_rule(self.boundary, 1.0, 0.0, self.m)

    @property
    def _margin(self) -> margin.Settings:
        return margin.Settings(m3=self.m, boundary=self.boundary, gradient=self.gradient)

    @property
    def _of_given(self) -> margin.Settings:
        return margin.Settings(by_quality=ON_COSINE, boundary=self.boundary, gradient=self.gradient)

    @property
    def _largest(self) -> float:
        return 2.0


@dataclass(frozen=True, kw_only=True, repr=False)
class ArcFace(PerSampleLoss):
    r"""ArcFace: a margin added to the target's angle.

    $$L_n = -\log\frac{e^{s\cos(\theta_{y_n} + m)}}
    {e^{s\cos(\theta_{y_n} + m)} + \sum_{k\ne y_n} e^{s\cos\theta_{nk}}}$$

    Source: ArcFace (Deng et al. 2019), https://arxiv.org/abs/1801.07698, eq. 3, which has no rule for θ + m > π; those
    here are public code's.

    Parameters
    ----------
    s
        Scale, above 0; None for the length of the embedding.
    m
        Margin on the angle in radians, in [0, pi].
    boundary
        What holds where the margin itself does not. "none": the margin holds everywhere. Beyond θ + m = π "hard", cos θ
        - m sin m, "keep", cos θ, "continuous", cos θ + cos m - 1, "monotone", -cos(θ + m) - 2, or "clamp", -1. "easy":
        cos θ where that is not above 0. "min": cos θ where that is the smaller.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact", or "detached" for dψ/dθ := -sin θ, as InsightFace has it since 2022.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m: float = 0.5
    boundary: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.angle("m", self.m))
        inputs.check_choice("boundary", self.boundary, margin.RULES_ON_ANGLE)
        margin.check_rule(self.boundary, 1.0, self.m, 0.0)

    @property
    def _margin(self) -> margin.Settings:
        return margin.Settings(m2=self.m, boundary=self.boundary, gradient=self.gradient)

    @property
    def _of_given(self) -> margin.Settings:
        return margin.Settings(by_quality=ON_ANGLE, boundary=self.boundary, gradient=self.gradient)

    @property
    def _largest(self) -> float:
        return math.pi


@dataclass(frozen=True, kw_only=True, repr=False)
class CombinedMargin(PerSampleLoss):
    r"""Combined margin: multiplied and moved angle, lowered cosine.

    $$\psi(\theta) = \cos(m_1\theta + m_2) - m_3 \text{ where the rule lets the margin hold}$$

    Source: ArcFace (Deng et al. 2019), https://arxiv.org/abs/1801.07698, eq. 4.

    Parameters
    ----------
    s
        Scale, above 0; None for the length of the embedding.
    m1
        Multiplies the angle, above 0 and at most 30.
    m2
        Added to the angle in radians, in [0, pi].
    m3
        Taken off the cosine, in [0, 2].
    boundary
        As in `ArcFace` with m1 θ + m2 for θ + m, and m3 taken off as well ("continuous" joins at π, "monotone" folds at
        every multiple of π); "min" and "conditional", cos θ where that is not above m3, take nothing off. The table is
        in `refloss.stages.margin`.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact", or "detached" for dψ/dθ := -sin θ.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m1: float = 1.0
    m2: float = 0.3
    m3: float = 0.2
    boundary: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m1", inputs.number("m1", self.m1, 0.0, 30.0, above=True))
        self._keep("m2", inputs.angle("m2", self.m2))
        self._keep("m3", inputs.number("m3", self.m3, 0.0, 2.0))
        inputs.check_choice("boundary", self.boundary, margin.RULES)
        margin.check_rule(self.boundary, self.m1, self.m2, self.m3)

    @property
    def _margin(self) -> margin.Settings:
        return margin.Settings(self.m1, self.m2, self.m3, self.boundary, gradient=self.gradient)

    @property
    def _of_given(self) -> margin.Settings:
        return margin.Settings(self.m1, 0.0, self.m3, self.boundary, gradient=self.gradient, by_quality=ON_ANGLE)

    @property
    def _largest(self) -> float:
        return math.pi


SphereFace = ASoftmax
AMSoftmax = CosFace
