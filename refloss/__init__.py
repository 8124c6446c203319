"""refloss: the numerical truth about softmax and margin losses.

Values, hand-derived gradients and stated accuracy for cross entropy, the softmax loss, modified softmax, NormFace,
A-Softmax (SphereFace), CosFace, ArcFace, their combined margin, and the triplet loss.
"""

from refloss.engines.certified import enclose
from refloss.error_free import ulp_error
from refloss.losses import (
    AMSoftmax,
    ArcFace,
    ASoftmax,
    CombinedMargin,
    CosFace,
    CrossEntropy,
    ModifiedSoftmax,
    NormFace,
    SoftmaxLoss,
    SphereFace,
    Triplet,
    log_softmax,
    logsumexp,
    softmax,
)

__version__ = "0.1.0"

__all__ = [
    "AMSoftmax",
    "ASoftmax",
    "ArcFace",
    "CombinedMargin",
    "CosFace",
    "CrossEntropy",
    "ModifiedSoftmax",
    "NormFace",
    "SoftmaxLoss",
    "SphereFace",
    "Triplet",
    "enclose",
    "log_softmax",
    "logsumexp",
    "softmax",
    "ulp_error",
]
