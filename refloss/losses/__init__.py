"""What: the losses, as frozen settings, by family. No arithmetic happens here."""

from refloss.losses.base import Loss
from refloss.losses.divergence import DivergenceGradient, KLDivergence
from refloss.losses.margin import (
    AMSoftmax,
    ArcFace,
    ASoftmax,
    CombinedMargin,
    CosFace,
    HeadGradient,
    ModifiedSoftmax,
    NormFace,
    SphereFace,
)
from refloss.losses.pairwise import Triplet, TripletGradient
from refloss.losses.softmax import CrossEntropy, LinearGradient, LogitGradient, SoftmaxLoss

LOSSES: tuple[type[Loss], ...] = (
    CrossEntropy,
    SoftmaxLoss,
    ModifiedSoftmax,
    NormFace,
    ASoftmax,
    CosFace,
    ArcFace,
    CombinedMargin,
    Triplet,
    KLDivergence,
)
"""Every loss once, from the plain ones to those with margins."""

__all__ = [
    "LOSSES",
    "AMSoftmax",
    "ASoftmax",
    "ArcFace",
    "CombinedMargin",
    "CosFace",
    "CrossEntropy",
    "DivergenceGradient",
    "HeadGradient",
    "KLDivergence",
    "LinearGradient",
    "LogitGradient",
    "Loss",
    "ModifiedSoftmax",
    "NormFace",
    "SoftmaxLoss",
    "SphereFace",
    "Triplet",
    "TripletGradient",
]
