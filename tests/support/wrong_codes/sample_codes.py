"""Wrong margins of samples and wrong hard classes: signs, clips, gradients, thresholds, masks, state used too early."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import refloss
from support.right_codes.code import DTYPES, SINGLES
from support.right_codes.quality_codes import Steps, torch_curve, torch_family, torch_margins, torch_quality

ADA = refloss.AdaFace(h=1.0, std=20.0)
MAG = refloss.MagFace()
CURRICULAR = refloss.CurricularFace(t=0.4)
BEYOND = refloss.CurricularFace(t=0.4, m=1.2)
MV = refloss.MVSoftmax()
ARC = refloss.ArcFace(s=30.0)

EXPLAINED = {
    "quality attached": "the quality has a gradient",
    "quality of the wrong sign": "the quality has the wrong sign",
    "angular margin of the wrong sign": "the margin on the angle has the wrong sign",
    "h = 0": "h=0",
    "no clip of lengths and qualities": "neither lengths nor qualities are clipped",
    "no clip of the angle": "the angle with its margin is not clipped",
    "gradient of CVLface": "detached",
    "statistics of the batch": "those of the batch",
    "statistics updated too early": "updated before they are used",
    "regularizer left out": "the regularizer is left out",
    "regularizer without gradient": "the regularizer has no gradient",
    "regularizer of lengths as they are": "takes lengths that are not clipped",
    "regularizer summed": "the regularizer is summed",
    "no clip of lengths": "lengths are not clipped, in the margin and in the regularizer",
    "margin without gradient": "the margin counts as a constant",
    "half detached": "counts as a constant",
    "2t in the slope": "t counts twice",
    "2t for t": "t=0.8",
    "mask by psi after the rule": "hard classes are above psi",
    "mask by the cosine": "hard classes are above the target's cosine",
    "mask that takes the target": "the target counts as a hard class",
    "t updated before use": "t is updated before",
    "no hard classes": "hard classes do not count more",
    "t of the paper": "t=",
    "t added": "t is added",
    "slope of a plain cosine": "is left out of",
    "margins of the next sample": "the margin of the next one",
    "margin of the first sample": "the margin of the first",
    "margins not used": "are not used",
}
"""What the cause that is named has to say of each."""


def samples() -> Iterator[tuple[Any, ...]]:
    """Yield code with one step of a right head replaced."""
    for name, loss, fn, dtypes in named_samples():
        yield f"{name}, {type(loss).__name__}", "torch", fn, loss, dtypes


def named_samples() -> Iterator[tuple[str, Any, Callable[..., Any], tuple[str, ...]]]:
    """Yield the name of a defect, the loss, the code, and the dtypes in which it shows."""
    for name, loss, steps in replaced():
        yield name, loss, torch_family(loss, steps), DTYPES if name in SHOWN else SINGLES
    others = {
        "h = 0": (ADA, replace(ADA, h=0.0)),
        "gradient of CVLface": (ADA, replace(ADA, gradient="detached")),
        "regularizer left out": (MAG, replace(MAG, regularizer=0.0)),
        "2t for t": (CURRICULAR, replace(CURRICULAR, t=0.8)),
        "t of the paper": (MV, replace(MV, t=1.2)),
        "another rule": (MAG, replace(MAG, boundary="hard")),
        "another u_m": (MAG, replace(MAG, u_m=MAG.l_m + 0.05)),
    }
    for name, (loss, other) in others.items():
        yield name, loss, torch_family(other), SINGLES
    ada, curricular = replace(ADA, momentum=0.5), replace(CURRICULAR, momentum=0.5)
    yield "statistics updated too early", ada, with_statistics(ada, 0.5), SINGLES
    yield "statistics of the batch", ada, with_statistics(ada, 1.0), SINGLES
    yield "t updated before use", curricular, with_early_t(curricular), SINGLES
    for name, taken in {
        "margins of the next sample": lambda m: m.roll(-1),
        "margin of the first sample": lambda m: m[:1].expand(len(m)),
        "margins not used": lambda m: 0.0 * m + ARC.m,
        "half of the gradient of given margins": lambda m: m / 2 + (m / 2).detach(),
    }.items():
        yield name, ARC, torch_family(ARC, Steps(margins=with_given(taken))), SINGLES


def with_given(taken: Callable[[Any], Any]) -> Callable[..., Any]:
    """Other margins than those that are given."""
    return lambda loss, length, m: torch_margins(loss, length, m if m is None else taken(m))


SHOWN = {"quality of the wrong sign", "no hard classes", "mask by the cosine"}
"""What shows in half precision too."""


def replaced() -> Iterator[tuple[str, Any, Steps]]:
    """Yield a loss with the steps that are wrong."""
    yield "quality attached", ADA, Steps(margins=attached)
    yield (
        "quality of the wrong sign",
        ADA,
        Steps(margins=lambda *some: (-torch_quality(*some[:2])[0], 2 * ADA.m - torch_quality(*some[:2])[1])),
    )
    yield (
        "angular margin of the wrong sign",
        ADA,
        Steps(margins=lambda *some: (-torch_quality(*some[:2])[0], torch_quality(*some[:2])[1])),
    )
    yield "no clip of lengths and qualities", ADA, Steps(margins=unclipped)
    yield "no clip of the angle", ADA, Steps(curve=unclipped_angle)
    yield "regularizer without gradient", MAG, Steps(held=lambda loss, a: a.detach().clamp(loss.l_a, loss.u_a))
    yield "regularizer of lengths as they are", MAG, Steps(held=lambda loss, a: a)
    yield "regularizer summed", MAG, Steps(terms=lambda loss, a: len(a) * loss.regularizer * (a / loss.u_a**2 + 1 / a))
    yield "no clip of lengths", MAG, Steps(margins=mag_unclipped, held=lambda loss, a: a)
    yield "margin without gradient", MAG, Steps(margins=lambda *some: (torch_quality(*some[:2])[0].detach(), 0.0))
    yield (
        "margin of the embedding before",
        MAG,
        Steps(margins=lambda loss, a, m: (torch_quality(loss, a)[0].roll(1), 0.0)),
    )
    yield "half detached", CURRICULAR, Steps(raised=lambda loss, c: c * (loss.t + c.detach()))
    yield "2t in the slope", CURRICULAR, Steps(raised=twice_t)
    yield "slope of a plain cosine", CURRICULAR, Steps(raised=lambda loss, c: c + (c * (loss.t + c) - c).detach())
    yield (
        "mask by psi after the rule",
        BEYOND,
        Steps(threshold=lambda loss, c, theta: torch_curve(loss, c, theta, loss.m, 0.0)),
    )
    yield "mask by the cosine", CURRICULAR, Steps(threshold=lambda loss, c, theta: c)
    yield "mask that takes the target", CURRICULAR, Steps(curve=lambda loss, c, theta, m2, m3: c * (loss.t + c))
    yield "no hard classes", CURRICULAR, Steps(raised=lambda loss, c: c)
    yield "mask by the cosine", MV, Steps(threshold=lambda loss, c, theta: c)
    yield "t added", MV, Steps(raised=lambda loss, c: c + loss.t)
    yield "slope of a plain cosine", MV, Steps(raised=lambda loss, c: c + (loss.t * c + loss.t).detach())


def attached(loss: Any, length: Any, m: Any) -> tuple[Any, Any]:
    """The quality with its gradient."""
    v = (loss.h * (length.clamp(1e-3, 100.0) - loss.mean) / (loss.std + loss.eps)).clamp(-1.0, 1.0)
    return -loss.m * v, loss.m + loss.m * v


def unclipped(loss: Any, length: Any, m: Any) -> tuple[Any, Any]:
    """The quality without a clip of the length or of itself."""
    v = loss.h * (length.detach() - loss.mean) / (loss.std + loss.eps)
    return -loss.m * v, loss.m + loss.m * v


def mag_unclipped(loss: Any, length: Any, m: Any) -> tuple[Any, Any]:
    """The margin of MagFace without a clip of the length."""
    return (loss.u_m - loss.l_m) / (loss.u_a - loss.l_a) * (length - loss.l_a) + loss.l_m, 0.0


def unclipped_angle(loss: Any, c: Any, theta: Any, m2: Any, m3: Any) -> Any:
    """The curve of AdaFace without a clip."""
    return (theta + m2).cos() - m3


def twice_t(loss: Any, c: Any) -> Any:
    """The raised cosine with the slope 2 t + 2 c."""
    return c * (loss.t + c) + loss.t * (c - c.detach())


def with_statistics(loss: Any, momentum: float) -> Callable[..., Any]:
    """AdaFace whose statistics are updated by the batch before they are used."""

    def fn(x: Any, w: Any, y: Any) -> Any:
        lengths = x.detach().norm(dim=1).clamp(1e-3, 100.0)
        mean = float(momentum * lengths.mean() + (1.0 - momentum) * loss.mean)
        std = float(momentum * lengths.std() + (1.0 - momentum) * loss.std) if len(x) > 1 else math.nan
        return torch_family(replace(loss, mean=mean, std=std))(x, w, y)

    return fn


def with_early_t(loss: Any) -> Callable[..., Any]:
    """CurricularFace whose t is updated by the batch before it is used."""

    def fn(x: Any, w: Any, y: Any) -> Any:
        kept = y != loss.ignore_index
        c = (x / x.norm(dim=1, keepdim=True) * (w / w.norm(dim=1, keepdim=True))[y.clamp(min=0)]).sum(dim=1).detach()
        t = loss.momentum * float(c[kept].mean()) + (1.0 - loss.momentum) * loss.t if kept.any() else loss.t
        return torch_family(replace(loss, t=max(-1.0, min(1.0, t))))(x, w, y)

    return fn
