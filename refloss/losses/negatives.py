r"""Losses that count classes other than the target's more if they are hard: nearer than the target with its margin.

Symbols: those of `refloss.losses.margin`; τ the threshold that the cosine of a hard class is above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refloss import inputs
from refloss.losses.margin import ScaledLoss
from refloss.stages import angle, negatives
from refloss.stages.margin import RULES_ON_ANGLE, Settings, check_rule


@dataclass(frozen=True, kw_only=True, repr=False)
class CurricularFace(ScaledLoss):
    r"""CurricularFace: ArcFace whose hard classes count more the further training is.

    $$L_n = -\log\frac{e^{s\,\psi(\theta_{y_n})}}{e^{s\,\psi(\theta_{y_n})} + \sum_{k\ne y_n} e^{s\,\eta_{nk}}}$$

    $$\eta_{nk} = \begin{cases} c_{nk}\,(t + c_{nk}) & c_{nk} > \tau_n\\ c_{nk} & c_{nk} \le \tau_n \end{cases}, \qquad
    \tau_n = \cos(\theta_{y_n} + m)$$

    with the cosines $c_{nk}$. ψ is that of `ArcFace`, with its rule; the threshold τ is cos(θ + m) before any rule.
    Which classes are hard, and t, count as constants. t is the running mean of the target's cosine: a setting, which
    `updated` replaces. Source: CurricularFace (Huang et al. 2020), https://arxiv.org/abs/2004.00288.

    Parameters
    ----------
    m
        Margin on the angle in radians, in [0, pi].
    s
        Scale, above 0; None for the length of the embedding.
    t
        In [-1, 1].
    momentum
        Weight of a new batch in `updated`, in [0, 1].
    boundary
        "hard", as in the authors' code, or any other rule of `ArcFace`.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact", or "detached" for dψ/dθ := -sin θ.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m: float = 0.5
    t: float = 0.0
    momentum: float = 0.01
    boundary: str = "hard"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.angle("m", self.m))
        self._keep("t", inputs.number("t", self.t, -1.0, 1.0))
        self._keep("momentum", inputs.number("momentum", self.momentum, 0.0, 1.0))
        inputs.check_choice("boundary", self.boundary, RULES_ON_ANGLE)
        if self.m:  # without a margin no rule acts
            check_rule(self.boundary, 1.0, self.m, 0.0)

    def updated(self, x: Any, w: Any, y: Any) -> CurricularFace:
        r"""Return the loss with t of the next step, from a batch of embeddings, the class weights and the labels.

        $$t' = \alpha\,\frac{1}{N}\sum_n\cos\theta_{y_n} + (1 - \alpha)\,t$$

        with the momentum α, over the N samples that count. The authors' code does this before each step, without
        gradient.
        """
        arrays = self._call(x, w, y).in_float64()
        kept = arrays["y"] != self.ignore_index
        if not kept.any():
            return self
        theta, _ = angle.forward(arrays["x"][kept], arrays["w"][arrays["y"][kept]])
        t = self.momentum * math.fsum(theta.cos.hi) / int(np.count_nonzero(kept)) + (1.0 - self.momentum) * self.t
        return replace(self, t=t)

    @property
    def _margin(self) -> Settings:
        return Settings(m2=self.m, boundary=self.boundary, gradient=self.gradient)

    @property
    def _negatives(self) -> negatives.Settings:
        return negatives.Settings("curricular", self.t)


@dataclass(frozen=True, kw_only=True, repr=False)
class MVSoftmax(ScaledLoss):
    r"""MV-Softmax: a margin on the cosine or on the angle, and hard classes that count more.

    $$L_n = -\log\frac{e^{s\,\psi(\theta_{y_n})}}{e^{s\,\psi(\theta_{y_n})} + \sum_{k\ne y_n} e^{s\,\eta_{nk}}}, \qquad
    \eta_{nk} = \begin{cases} (1 + t)\,c_{nk} + t & c_{nk} > \tau_n\\ c_{nk} & c_{nk} \le \tau_n \end{cases}$$

    with the cosines $c_{nk}$; $\psi = \tau = \cos\theta - m$ with the margin "am", $\cos(\theta + m)$ with "arc", and τ
    is that also where a rule changes ψ. Which classes are hard counts as a constant. Source: MV-Softmax (Wang et al.
    2020), https://arxiv.org/abs/1912.00833, whose own t is 1 more than that of the authors' code, and this one.

    Parameters
    ----------
    m
        Margin, in [0, 2] on the cosine, or in radians, in [0, pi].
    t
        How much more hard classes count, 0 or more.
    margin
        "am" or "arc".
    s
        Scale, above 0; None for the length of the embedding.
    boundary
        "easy", as in the authors' code: cos θ where that is not above 0. "none": the margin holds everywhere.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact", or "detached" for dψ/dθ := -sin θ.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m: float = 0.35
    t: float = 0.2
    margin: str = "am"
    s: float | None = 32.0
    boundary: str = "easy"

    def __post_init__(self) -> None:
        super().__post_init__()
        inputs.check_choice("margin", self.margin, ("am", "arc"))
        self._keep("m", inputs.angle("m", self.m) if self.margin == "arc" else inputs.number("m", self.m, 0.0, 2.0))
        self._keep("t", inputs.number("t", self.t, 0.0, 1e6))
        inputs.check_choice("boundary", self.boundary, ("easy", "none"))

    @property
    def _margin(self) -> Settings:
        boundary = "acute" if self.boundary == "easy" else "none"
        m2, m3 = (self.m, 0.0) if self.margin == "arc" else (0.0, self.m)
        return Settings(m2=m2, m3=m3, boundary=boundary, gradient=self.gradient)

    @property
    def _negatives(self) -> negatives.Settings:
        return negatives.Settings("reweighted", self.t)
