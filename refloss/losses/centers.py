r"""Losses with more than one center per class.

Symbols: those of `refloss.losses.margin`; K centers w (C, K, D).
"""

from __future__ import annotations

from dataclasses import dataclass

from refloss import inputs
from refloss.losses.margin import ScaledLoss
from refloss.stages import margin


@dataclass(frozen=True, kw_only=True, repr=False)
class SubCenterArcFace(ScaledLoss):
    r"""Sub-center ArcFace: of K centers of a class the nearest one stands for it.

    $$L_n = -\log\frac{e^{s\cos(\theta_{y_n} + m)}}
    {e^{s\cos(\theta_{y_n} + m)} + \sum_{k\ne y_n} e^{sc_{nk}}}, \qquad c_{nk} = \max_j\cos\theta_{nkj}$$

    θ_nkj is the angle of center j of class k, θ_y that of the target's nearest; the rules are those of `ArcFace`. Class
    weights are w (C, K, D). The gradient of a class goes to its nearest center alone; of centers at the same angle,
    decided exactly, the first is taken. Source: Sub-center ArcFace (Deng et al. 2020),
    https://doi.org/10.1007/978-3-030-58621-8_43.

    Parameters
    ----------
    m
        Margin on the angle in radians, in [0, pi].
    s
        Scale, above 0; None for the length of the embedding.
    centers
        K, 1 or more.
    boundary
        As in `ArcFace`.
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
    centers: int = 3
    boundary: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.angle("m", self.m))
        self._keep("centers", inputs.count("centers", self.centers))
        inputs.check_choice("boundary", self.boundary, margin.RULES_ON_ANGLE)
        margin.check_rule(self.boundary, 1.0, self.m, 0.0)

    @property
    def _margin(self) -> margin.Settings:
        return margin.Settings(m2=self.m, boundary=self.boundary, gradient=self.gradient)

    @property
    def _centers(self) -> int:
        return self.centers
