"""refloss: the numerical truth about softmax and margin losses.

Values, hand-derived gradients and stated accuracy for cross entropy, the softmax loss, modified softmax, NormFace,
A-Softmax (SphereFace), CosFace, ArcFace, their combined margin, AdaFace, MagFace, CurricularFace, MV-Softmax,
sub-center ArcFace, SphereFace-R, circle loss, inter-top-k, SphereFace2, UniFace, SigLIP, InfoNCE (CLIP), the triplet
loss, and the Kullback-Leibler divergence.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from refloss.engines.certified import enclose
    from refloss.engines.contract import AccuracyWarning
    from refloss.functions import entropy, error_bound, log_softmax, logsumexp, softmax
    from refloss.losses import (
        CLIP,
        AdaFace,
        AMSoftmax,
        ArcFace,
        ASoftmax,
        CircleLoss,
        CombinedMargin,
        CosFace,
        CrossEntropy,
        CurricularFace,
        InfoNCE,
        InterTopK,
        KLDivergence,
        MagFace,
        ModifiedSoftmax,
        MVSoftmax,
        NormFace,
        SigLIP,
        SoftmaxLoss,
        SphereFace,
        SphereFace2,
        SphereFaceR,
        SubCenterArcFace,
        Triplet,
        UniFace,
    )
    from refloss.ulp import ulp_error

__version__ = "0.1.0"

__all__ = [
    "CLIP",
    "AMSoftmax",
    "ASoftmax",
    "AccuracyWarning",
    "AdaFace",
    "ArcFace",
    "CircleLoss",
    "CombinedMargin",
    "CosFace",
    "CrossEntropy",
    "CurricularFace",
    "InfoNCE",
    "InterTopK",
    "KLDivergence",
    "MVSoftmax",
    "MagFace",
    "ModifiedSoftmax",
    "NormFace",
    "SigLIP",
    "SoftmaxLoss",
    "SphereFace",
    "SphereFace2",
    "SphereFaceR",
    "SubCenterArcFace",
    "Triplet",
    "UniFace",
    "enclose",
    "entropy",
    "error_bound",
    "log_softmax",
    "logsumexp",
    "softmax",
    "ulp_error",
]

_ELSEWHERE = {
    "AccuracyWarning": "refloss.engines.contract",
    "enclose": "refloss.engines.certified",
    "entropy": "refloss.functions",
    "error_bound": "refloss.functions",
    "log_softmax": "refloss.functions",
    "logsumexp": "refloss.functions",
    "softmax": "refloss.functions",
    "ulp_error": "refloss.ulp",
}


def __getattr__(name: str) -> _typing.Any:
    """Load a public name when it is first asked for, so that importing refloss takes no time."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(_importlib.import_module(_ELSEWHERE.get(name, "refloss.losses")), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
