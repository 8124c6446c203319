r"""Losses that change the cosines of the other classes too, by curves of their own.

Symbols: those of `refloss.losses.margin`; $c_{nk} = \cos\theta_{nk}$.
"""

from __future__ import annotations

from dataclasses import dataclass

from refloss import inputs
from refloss.losses.margin import ScaledLoss
from refloss.stages import class_angles, margin, negatives


@dataclass(frozen=True, kw_only=True, repr=False)
class SphereFaceR(ScaledLoss):
    r"""SphereFace-R: A-Softmax without folds, or with the angles of the other classes divided.

    $$L_n = -\log\frac{e^{s\,\psi(\theta_{y_n})}}
    {e^{s\,\psi(\theta_{y_n})} + \sum_{k\ne y_n} e^{s\,\eta_{nk}}}$$

    $$\psi(\theta) = \cos(\min(m\theta, \pi)), \quad \eta_{nk} = \cos\theta_{nk} \text{ (version 1)}$$

    $$\psi(\theta) = \cos\theta, \quad \eta_{nk} = \cos\frac{\theta_{nk}}{m} \text{ (version 2)}$$

    Version 0 of the authors' code is `ASoftmax`. They multiply the loss by 50/s, which upstream does here. Source:
    SphereFace Revived (Liu et al. 2022), https://arxiv.org/abs/2109.05565.

    Parameters
    ----------
    m
        Multiplies the target's angle, or divides those of the other classes; from 1 to 30.
    s
        Scale, above 0; None for the length of the embedding.
    version
        1 or 2.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact", or "detached", the authors' choice, for dψ/dθ := -sin θ and dη/dθ := -sin θ.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m: float = 1.5
    version: int = 1
    s: float | None = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.number("m", self.m, 1.0, 30.0))
        self._keep("version", inputs.integer("version", self.version))
        if self.version not in (1, 2):
            raise ValueError(f"version must be 1 or 2; got {self.version}")

    @property
    def _margin(self) -> margin.Settings:
        if self.version == 2 or self.m == 1.0:
            return margin.Settings(gradient=self.gradient)
        return margin.Settings(self.m, boundary="clamp", gradient=self.gradient)

    @property
    def _class_angles(self) -> class_angles.Settings | None:
        if self.version == 1 or self.m == 1.0:
            return None
        return class_angles.Settings("divided", self.m, gradient=self.gradient)


@dataclass(frozen=True, kw_only=True, repr=False)
class CircleLoss(ScaledLoss):
    r"""Circle loss with class weights: every cosine is weighted by how far it is from where it should be.

    $$L_n = -\log\frac{e^{s\,\psi_n}}{e^{s\,\psi_n} + \sum_{k\ne y_n} e^{s\,\eta_{nk}}}$$

    $$\psi_n = (1 + m - c_{ny_n})\,(c_{ny_n} - 1 + m) = m^2 - (1 - c_{ny_n})^2$$

    $$\eta_{nk} = \max(c_{nk} + m, 0)\,(c_{nk} - m)$$

    The first factor of each is its weight. Source: Circle loss (Sun et al. 2020), https://arxiv.org/abs/2002.10857, the
    form for class labels.

    Parameters
    ----------
    m
        Margin, in [0, 1].
    s
        Scale, above 0; None for the length of the embedding.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact", or "detached", the authors' choice, for weights that count as constants.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m: float = 0.25
    s: float | None = 256.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.number("m", self.m, 0.0, 1.0))

    @property
    def _margin(self) -> margin.Settings:
        return margin.Settings(m3=self.m, boundary=margin.CIRCLE, gradient=self.gradient)

    @property
    def _negatives(self) -> negatives.Settings:
        return negatives.Settings("circle", self.m, self.gradient)


@dataclass(frozen=True, kw_only=True, repr=False)
class InterTopK(ScaledLoss):
    r"""Inter-top-k: ArcFace with the angles of the k nearest other classes lessened.

    $$L_n = -\log\frac{e^{s\,\psi(\theta_{y_n})}}{e^{s\,\psi(\theta_{y_n})} + \sum_{k\ne y_n} e^{s\,\eta_{nk}}}, \qquad
    \eta_{nk} = \begin{cases} \cos(\theta_{nk} - m') & k \in K_n\\ c_{nk} & k \notin K_n \end{cases}$$

    with the penalty m'; ψ is that of `ArcFace`, with its rule. K_n are the k classes of the largest cosines but the
    target; of equal ones, decided exactly, the first, and all where there are no more. Which they are counts as a
    constant. Source: inter-topK penalty (Zhao et al. 2021), https://arxiv.org/abs/2110.05042, which has it with the
    nearest of several centers.

    Parameters
    ----------
    m
        Margin on the target's angle in radians, in [0, pi].
    penalty
        Taken off the angles of the nearest classes, in radians, in [0, pi].
    k
        How many classes, 1 or more.
    s
        Scale, above 0; None for the length of the embedding.
    boundary
        "continuous", as in public code, or any other rule of `ArcFace`.
    reduction, label_smoothing, class_weight, ignore_index
        As in `CrossEntropy`.
    gradient
        "exact", or "detached" for dψ/dθ := -sin θ.

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    m: float = 0.2
    penalty: float = 0.06
    k: int = 5
    s: float | None = 32.0
    boundary: str = "continuous"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.angle("m", self.m))
        self._keep("penalty", inputs.angle("penalty", self.penalty))
        self._keep("k", inputs.count("k", self.k))
        inputs.check_choice("boundary", self.boundary, margin.RULES_ON_ANGLE)
        if self.m:  # without a margin no rule acts
            margin.check_rule(self.boundary, 1.0, self.m, 0.0)

    @property
    def _margin(self) -> margin.Settings:
        return margin.Settings(m2=self.m, boundary=self.boundary, gradient=self.gradient)

    @property
    def _class_angles(self) -> class_angles.Settings | None:
        return class_angles.Settings("nearest", self.penalty, self.k) if self.penalty else None
