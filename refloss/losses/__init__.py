"""What: the losses, as frozen settings, by family. No arithmetic happens here."""

from refloss.losses.base import Loss
from refloss.losses.centers import SubCenterArcFace
from refloss.losses.class_curves import CircleLoss, InterTopK, SphereFaceR
from refloss.losses.contrastive import CLIP, InfoNCE, ScaleGradient
from refloss.losses.divergence import DivergenceGradient, KLDivergence
from refloss.losses.margin import (
    AMSoftmax,
    ArcFace,
    ASoftmax,
    CombinedMargin,
    CosFace,
    GivenMarginGradient,
    HeadGradient,
    ModifiedSoftmax,
    NormFace,
    SphereFace,
)
from refloss.losses.negatives import CurricularFace, MVSoftmax
from refloss.losses.pairwise import Triplet, TripletGradient
from refloss.losses.quality import AdaFace, MagFace
from refloss.losses.sigmoid import BiasGradient, PairGradient, SigLIP, SphereFace2, UniFace
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
    AdaFace,
    MagFace,
    CurricularFace,
    MVSoftmax,
    SubCenterArcFace,
    SphereFaceR,
    CircleLoss,
    InterTopK,
    SphereFace2,
    UniFace,
    SigLIP,
    InfoNCE,
    Triplet,
    KLDivergence,
)
"""Every loss once, from the plain ones to those with margins."""

__all__ = [
    "CLIP",
    "LOSSES",
    "AMSoftmax",
    "ASoftmax",
    "AdaFace",
    "ArcFace",
    "BiasGradient",
    "CircleLoss",
    "CombinedMargin",
    "CosFace",
    "CrossEntropy",
    "CurricularFace",
    "DivergenceGradient",
    "GivenMarginGradient",
    "HeadGradient",
    "InfoNCE",
    "InterTopK",
    "KLDivergence",
    "LinearGradient",
    "LogitGradient",
    "Loss",
    "MVSoftmax",
    "MagFace",
    "ModifiedSoftmax",
    "NormFace",
    "PairGradient",
    "ScaleGradient",
    "SigLIP",
    "SoftmaxLoss",
    "SphereFace",
    "SphereFace2",
    "SphereFaceR",
    "SubCenterArcFace",
    "Triplet",
    "TripletGradient",
    "UniFace",
]
