r"""Losses whose classes are questions of their own: binary cross entropy of scaled cosines and a bias.

Symbols: those of `refloss.losses.margin`; $c_{nk} = \cos\theta_{nk}$; a bias b, one number; $\operatorname{softplus}(a)
= \log(1 + e^a)$.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from refloss import inputs
from refloss.engines import dispatch
from refloss.engines.call import Call
from refloss.engines.dispatch import Value
from refloss.engines.spec import Margin, Sigmoid
from refloss.error_free import Array
from refloss.losses.base import Loss, Trace
from refloss.stages import binary_cross_entropy, class_angles, cross_entropy, margin


class BiasGradient(NamedTuple):
    """Gradient of a loss on directions with a bias."""

    x: Array
    """dL/dx (N, D)."""
    w: Array
    """dL/dw (C, D)."""
    b: np.float64 | None
    """dL/db, a number; None where b is not given."""


class PairGradient(NamedTuple):
    """Gradient of a loss of pairs with a scale and a bias."""

    x: Array
    """dL/dx (N, D)."""
    w: Array
    """dL/dw (N, D)."""
    t: np.float64
    """dL/dt, a number."""
    b: np.float64
    """dL/db, a number."""


@dataclass(frozen=True, kw_only=True, repr=False)
class SigmoidLoss(Loss, ABC):
    """What losses on labels with a bias share."""

    _gradient = BiasGradient

    ignore_index: int | None = -100
    gradient: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ignore_index is not None:
            self._keep("ignore_index", inputs.integer("ignore_index", self.ignore_index))
        inputs.check_choice("gradient", self.gradient, inputs.GRADIENTS)

    @property
    @abstractmethod
    def _head(self) -> Margin:
        """What comes before the bias."""

    @property
    @abstractmethod
    def _link(self) -> binary_cross_entropy.Settings:
        """The weights of the answers, and the bound of logits."""

    @property
    def _cross_entropy(self) -> cross_entropy.Settings:
        return cross_entropy.Settings(self.reduction, ignore_index=self.ignore_index)

    @cached_property
    def spec(self) -> Sigmoid:
        """What an engine needs to know of this loss."""
        return Sigmoid(self._head, self._link)

    def __call__(self, x: Any, w: Any, y: Any, b: Any = None, *, engine: str = "auto", dtype: Any = None) -> Value:
        """Return the loss of embeddings x (N, D), class weights w (C, D), labels y (N,) and a bias b, 0 if left out."""
        return dispatch.value(self._call(x, w, y, b), engine, dtype)

    def value_and_grad(
        self,
        x: Any,
        w: Any,
        y: Any,
        b: Any = None,
        *,
        upstream: Any = None,
        wrt: Any = None,
        out: Any = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> tuple[Value, BiasGradient]:
        """Return the loss and its gradients, a named tuple with the fields x (N, D), w (C, D) and b, a number.

        Without a bias the field b is None. The options are those of `CrossEntropy.value_and_grad`; upstream is a
        number, or (N,) for reduction="none".
        """
        return self._value_and_grad(self._call(x, w, y, b), upstream, wrt, out, engine, dtype)

    def trace(self, x: Any, w: Any, y: Any, b: Any = None, *, upstream: Any = None) -> Trace:
        """Return every stage's output and gradient by stage name; ignored rows hold 0."""
        return dispatch.trace(self._call(x, w, y, b), upstream)

    def _call(self, x: Any, w: Any, y: Any, b: Any = None) -> Call:
        arrays = inputs.embeddings_and_classes(x, w, y, None, None, self.ignore_index, directions=True)
        if b is not None:
            arrays["b"] = inputs.one_number("b", b)
        return Call(self.spec, arrays, arrays["y"].shape, {"x": x, "w": w, "y": y, "b": b})


@dataclass(frozen=True, kw_only=True, repr=False)
class SphereFace2(SigmoidLoss):
    r"""SphereFace2: every class against all samples, each cosine through a power.

    $$L_n = \frac{w}{s}\Bigl(\alpha\operatorname{softplus}(-z_{ny_n}) +
    (1 - \alpha)\sum_{k\ne y_n}\operatorname{softplus}(z_{nk})\Bigr)$$

    $$z_{ny_n} = s\,(g_{ny_n} - m) + b, \qquad z_{nk} = s\,(g_{nk} + m) + b, \qquad
    g_{nk} = 2\Bigl(\frac{1 + c_{nk}}{2}\Bigr)^t - 1$$

    where k are the classes that are not the target. Source: SphereFace2 (Wen et al. 2022),
    https://arxiv.org/abs/2108.01513, with the weight w of the authors' code.

    Parameters
    ----------
    m
        Margin, taken off the target's g and added to that of other classes; in [0, 2].
    s
        Scale, above 0.
    t
        Exponent, a whole number from 1 to 30.
    alpha
        Share of the target, in [0, 1].
    weight
        w, above 0.
    reduction, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact", or "detached", the authors' choice, for dg/dc := 1.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m: float = 0.4
    s: float = 40.0
    t: int = 3
    alpha: float = 0.7
    weight: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.number("m", self.m, 0.0, 2.0))
        self._keep("s", inputs.number("s", self.s, 0.0, above=True))
        self._keep("t", inputs.count("t", self.t))
        if self.t > 30:
            raise ValueError(f"t must be a whole number from 1 to 30; got {self.t}")
        self._keep("alpha", inputs.number("alpha", self.alpha, 0.0, 1.0))
        self._keep("weight", inputs.number("weight", self.weight, 0.0, above=True))

    @property
    def _head(self) -> Margin:
        curve = margin.Settings(m3=self.m, boundary=margin.POWER, gradient=self.gradient, power=self.t)
        others = class_angles.Settings("power", self.m, self.t, self.gradient)
        return Margin(self._cross_entropy, curve, self.s, class_angles=others)

    @property
    def _link(self) -> binary_cross_entropy.Settings:
        alpha, share = Fraction(self.alpha), Fraction(self.weight) / Fraction(self.s)
        return binary_cross_entropy.Settings(alpha * share, (1 - alpha) * share)


@dataclass(frozen=True, kw_only=True, repr=False)
class UniFace(SigmoidLoss):
    r"""UniFace: one threshold, the bias, between the cosines of all targets and those of all other classes.

    $$L_n = \operatorname{softplus}(-z_{ny_n}) + l\sum_{k\ne y_n}\operatorname{softplus}(z_{nk})$$

    $$z_{ny_n} = \operatorname{clip}(s\,(c_{ny_n} - m) - b, -s, s), \qquad
    z_{nk} = \operatorname{clip}(s\,c_{nk} - b, -s, s)$$

    where k are the classes that are not the target. Beyond ±s a logit has the gradient 0. Source: UniFace (Zhou et al.
    2023), the unified cross-entropy loss; code of its authors: https://github.com/CVI-SZU/UniFace.

    Parameters
    ----------
    m
        Margin on the target's cosine, in [0, 2].
    s
        Scale, above 0.
    l
        Weight of the other classes, 0 or more.
    reduction, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact" or "detached"; for a margin on the cosine the two are the same.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m: float = 0.4
    s: float = 64.0
    l: float = 1.0  # noqa: E741 (the paper's letter)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.number("m", self.m, 0.0, 2.0))
        self._keep("s", inputs.number("s", self.s, 0.0, above=True))
        self._keep("l", inputs.number("l", self.l, 0.0))

    @property
    def _head(self) -> Margin:
        return Margin(self._cross_entropy, margin.Settings(m3=self.m, gradient=self.gradient), self.s)

    @property
    def _link(self) -> binary_cross_entropy.Settings:
        return binary_cross_entropy.Settings(Fraction(1), Fraction(self.l), self.s, bias_sign=-1)


@dataclass(frozen=True, kw_only=True, repr=False)
class SigLIP(Loss):
    r"""SigLIP: pairs of embeddings, each against all others, as questions of their own.

    $$L_n = \operatorname{softplus}(-z_{nn}) + \sum_{k\ne n}\operatorname{softplus}(z_{nk}), \qquad
    z_{nk} = t\,c_{nk} + b$$

    Source: SigLIP (Zhai et al. 2023), https://arxiv.org/abs/2303.15343; t and b are inputs with gradients. Authors'
    code trains log t.

    Parameters
    ----------
    reduction
        "mean" over the N pairs, "sum" or "none".

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    _gradient = PairGradient

    @cached_property
    def spec(self) -> Sigmoid:
        """What an engine needs to know of this loss."""
        return Sigmoid(
            Margin(cross_entropy.Settings(self.reduction), margin.Settings(), None, scale_input="t"),
            binary_cross_entropy.PLAIN,
        )

    def __call__(self, x: Any, w: Any, t: Any, b: Any, *, engine: str = "auto", dtype: Any = None) -> Value:
        """Return the loss of embeddings x and w, pair by pair, both (N, D), a scale t above 0 and a bias b."""
        return dispatch.value(self._call(x, w, t, b), engine, dtype)

    def value_and_grad(
        self,
        x: Any,
        w: Any,
        t: Any,
        b: Any,
        *,
        upstream: Any = None,
        wrt: Any = None,
        out: Any = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> tuple[Value, PairGradient]:
        """Return the loss and its gradients, a named tuple with the fields x (N, D), w (N, D), t and b, two numbers.

        The options are those of `CrossEntropy.value_and_grad`; upstream is a number, or (N,) for reduction="none".
        """
        return self._value_and_grad(self._call(x, w, t, b), upstream, wrt, out, engine, dtype)

    def trace(self, x: Any, w: Any, t: Any, b: Any, *, upstream: Any = None) -> Trace:
        """Return every stage's output and gradient by stage name."""
        return dispatch.trace(self._call(x, w, t, b), upstream)

    def _call(self, x: Any, w: Any, t: Any, b: Any) -> Call:
        arrays = inputs.pairs(x, w)
        arrays |= {"t": inputs.one_number("t", t, above=0.0), "b": inputs.one_number("b", b)}
        return Call(self.spec, arrays, arrays["y"].shape, {"x": x, "w": w, "t": t, "b": b})
