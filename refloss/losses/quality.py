r"""Losses whose margin depends on the length of the embedding, which stands for the quality of the sample.

Symbols: those of `refloss.losses.margin`; a the length ‖x‖ held between two bounds.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from refloss import inputs
from refloss.engines.dispatch import Value
from refloss.error_free import Array
from refloss.losses.margin import ScaledLoss
from refloss.stages import angle, margin, normalize, quality

LOW, HIGH = 1e-3, 100.0
"""Bounds of a length in AdaFace."""


@dataclass(frozen=True, kw_only=True, repr=False)
class QualityLoss(ScaledLoss, ABC):
    """What losses with a margin by length share."""

    @property
    @abstractmethod
    def _quality(self) -> quality.Settings:
        """How a number per sample comes of the length of its embedding."""

    def target_logit(self, theta: Any, length: Any = None) -> Value:
        """Return ψ, which replaces cos θ before the scale, of angles in [0, pi] and embeddings of these lengths."""
        return self._of_angle_and_length("psi", theta, length)

    def target_slope(self, theta: Any, length: Any = None) -> Value:
        """Return ψ'(θ) per radian, as this loss's gradient convention has it, of angles and lengths."""
        return self._of_angle_and_length("slope", theta, length)

    def _of_angle_and_length(self, quantity: str, theta: Any, length: Any) -> Value:
        radians = inputs.angles(theta)
        radians, lengths = np.broadcast_arrays(radians, inputs.lengths(length))
        rows = np.ascontiguousarray(lengths).reshape(-1, 1)
        v, _, _ = quality.forward(rows, normalize.forward(rows), self._quality)
        target = margin.turned(angle.of(radians.reshape(-1)), self._margin, v)
        curve = margin.curve_of(margin.at(self._margin, v))
        values: Array = getattr(curve, quantity)(target).hi.reshape(radians.shape)
        return values if radians.ndim else np.float64(values)


@dataclass(frozen=True, kw_only=True, repr=False)
class AdaFace(QualityLoss):
    r"""AdaFace: a margin on the angle for short embeddings, and one on the cosine for long ones.

    $$\psi(\theta) = \cos\bigl(\operatorname{clip}(\theta - m v,\, \epsilon,\, \pi - \epsilon)\bigr) - m\,(1 + v)$$

    $$v = \operatorname{clip}\left(h\,\frac{a - \mu}{\sigma + \epsilon},\, -1,\, 1\right), \qquad
    a = \operatorname{clip}(\lVert x\rVert,\, 10^{-3},\, 100)$$

    v, the quality, counts as a constant in the gradient. μ and σ are the mean and the standard deviation of lengths so
    far: settings, which `updated` replaces. Source: AdaFace (Kim et al. 2022), https://arxiv.org/abs/2204.00964, and
    its authors' code, from which the bounds of the length and ε are; there all cosines are held within 1 - ε too.

    Parameters
    ----------
    m
        Margin, in [0, 1]: in radians on the angle, and on the cosine.
    h
        How far the margin moves with the length, 0 or more; 0 is CosFace.
    s
        Scale, above 0; None for the length of the embedding.
    mean, std
        μ and σ, 0 or more.
    momentum
        Weight of a new batch in `updated`, in [0, 1].
    eps
        ε, in radians and in units of length, above 0 and at most 1.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact", or "detached" for dψ/dθ := -sin θ, as the authors' later code has it.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m: float = 0.4
    h: float = 0.333
    mean: float = 20.0
    std: float = 100.0
    momentum: float = 0.01
    eps: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.number("m", self.m, 0.0, 1.0))
        self._keep("h", inputs.number("h", self.h, 0.0, 1e6))
        self._keep("mean", inputs.number("mean", self.mean, 0.0, 1e6))
        self._keep("std", inputs.number("std", self.std, 0.0, 1e6))
        self._keep("momentum", inputs.number("momentum", self.momentum, 0.0, 1.0))
        self._keep("eps", inputs.number("eps", self.eps, 0.0, 1.0, above=True))

    def updated(self, x: Any) -> AdaFace:
        r"""Return the loss with μ and σ of the next step, from the lengths a of a batch of embeddings x (N, D).

        $$\mu' = \alpha\,\bar a + (1 - \alpha)\,\mu, \qquad \bar a = \frac{1}{N}\sum_n a_n$$

        $$\sigma' = \alpha\sqrt{\frac{1}{N - 1}\sum_n (a_n - \bar a)^2} + (1 - \alpha)\,\sigma$$

        with the momentum α. The authors' code does this before each step, without gradient. One sample has no standard
        deviation and is refused.
        """
        lengths = np.clip(normalize.forward(inputs.embeddings(x, least=2)).norm.hi, LOW, HIGH)
        mean = math.fsum(lengths) / len(lengths)
        std = math.sqrt(math.fsum((lengths - mean) ** 2) / (len(lengths) - 1))
        keep = 1.0 - self.momentum
        return replace(self, mean=self.momentum * mean + keep * self.mean, std=self.momentum * std + keep * self.std)

    @property
    def _margin(self) -> margin.Settings:
        m = Fraction(self.m)
        return margin.Settings(m3=self.m, boundary="clip", gradient=self.gradient, by_quality=(-m, m), eps=self.eps)

    @property
    def _quality(self) -> quality.Settings:
        mean, width, h = Fraction(self.mean), Fraction(self.std) + Fraction(self.eps), Fraction(self.h)
        low, high = Fraction(LOW), Fraction(HIGH)
        if h:  # where v is held, so is the length
            least, most = mean - width / h, mean + width / h
            low, high = (min(max(bound, least), most) for bound in (low, high))
        return quality.Settings(low, high, -mean * h / width, h / width, detached=True)


@dataclass(frozen=True, kw_only=True, repr=False)
class MagFace(QualityLoss):
    r"""MagFace: a margin on the angle that grows with the length of the embedding, and a term that makes lengths grow.

    $$L_n = -\log\frac{e^{s\cos(\theta_{y_n} + m_n)}}
    {e^{s\cos(\theta_{y_n} + m_n)} + \sum_{k\ne y_n} e^{s\cos\theta_{nk}}}
    + \lambda\left(\frac{a_n}{u_a^2} + \frac{1}{a_n}\right)$$

    $$m_n = l_m + (u_m - l_m)\,\frac{a_n - l_a}{u_a - l_a}, \qquad
    a_n = \operatorname{clip}(\lVert x_n\rVert,\, l_a,\, u_a)$$

    The gradient goes through the length, in the margin and in the regularizer; beyond its bounds it is 0. No class
    weight multiplies the regularizer, and "mean" divides it by the number of samples that count. Source: MagFace (Meng
    et al. 2021), https://arxiv.org/abs/2103.06627.

    Parameters
    ----------
    l_a, u_a
        Bounds of the length, above 0.
    l_m, u_m
        Margins there in radians, in [0, pi], the second not smaller.
    s
        Scale, above 0; None for the length of the embedding.
    regularizer
        λ, 0 or more.
    boundary
        "easy", as in the authors' code, or any other rule of `ArcFace`.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact", or "detached" for dψ/dθ := -sin θ and a margin that counts as a constant.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    l_a: float = 10.0
    u_a: float = 110.0
    l_m: float = 0.45
    u_m: float = 0.8
    regularizer: float = 35.0
    boundary: str = "easy"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("l_a", inputs.number("l_a", self.l_a, 1e-6, 1e6))
        self._keep("u_a", inputs.number("u_a", self.u_a, self.l_a, 1e6, above=True))
        self._keep("l_m", inputs.angle("l_m", self.l_m))
        self._keep("u_m", inputs.number("u_m", self.u_m, self.l_m, math.pi))
        self._keep("regularizer", inputs.number("regularizer", self.regularizer, 0.0, 1e6))
        inputs.check_choice("boundary", self.boundary, margin.RULES_ON_ANGLE)
        margin.check_rule(self.boundary, 1.0, self.u_m, 0.0)

    @property
    def _margin(self) -> margin.Settings:
        by_quality = Fraction(self.u_m) - Fraction(self.l_m), Fraction(0)
        return margin.Settings(m2=self.l_m, boundary=self.boundary, gradient=self.gradient, by_quality=by_quality)

    @property
    def _quality(self) -> quality.Settings:
        low, high = Fraction(self.l_a), Fraction(self.u_a)
        return quality.Settings(low, high, -low / (high - low), 1 / (high - low), self.regularizer)
