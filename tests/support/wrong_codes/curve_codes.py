"""Wrong curves of all classes: SphereFace-R, circle loss and inter-top-k with one step of a right head replaced."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import refloss
from support.right_codes.code import SINGLES
from support.right_codes.curve_codes import CurveSteps, torch_curves

CLAMPED = refloss.SphereFaceR()
DIVIDED = refloss.SphereFaceR(version=2)
CIRCLE = refloss.CircleLoss()
TOP_K = refloss.InterTopK(k=3)


def detached(loss: Any) -> Any:
    """The loss with the other gradient."""
    return replace(loss, gradient="detached")


def of_loss(loss: Any, c: Any, f: Any) -> Any:
    """f with its own slope, or with that of the cosine."""
    return c + (f - c).detach() if loss.gradient == "detached" else f


def rising(loss: Any, c: Any, theta: Any, far: Any = None) -> Any:
    """cos(m θ)."""
    return of_loss(loss, c, (loss.m * theta).cos())


def folded(loss: Any, c: Any, theta: Any) -> Any:
    """(-1)^k cos(m θ) - 2 k."""
    k = (loss.m * theta.detach() / math.pi).floor()
    return of_loss(loss, c, (1.0 - 2.0 * (k % 2.0)) * (loss.m * theta).cos() - 2.0 * k)


def divided(loss: Any, c: Any, theta: Any) -> Any:
    """cos(θ/m)."""
    return of_loss(loss, c, (theta / loss.m).cos())


def steep(loss: Any, c: Any, theta: Any, far: Any) -> Any:
    """cos(θ/m) without 1/m in its slope."""
    return (theta.detach() / loss.m + (theta - theta.detach())).cos()


def hard(loss: Any, c: Any, theta: Any) -> Any:
    """The margin of InterTopK with the rule "hard"."""
    beyond = theta + loss.m > math.pi
    return of_loss(loss, c, (c - loss.m * math.sin(loss.m)).where(beyond, (theta + loss.m).cos()))


def weighted(weight: Callable[[Any], Any], margin: float, constant: bool | None = None) -> Callable[..., Any]:
    """A weight, a function of the cosine, times the cosine less its margin."""

    def curve(loss: Any, c: Any) -> Any:
        alpha = weight(c)
        fixed = loss.gradient == "detached" if constant is None else constant
        return (alpha.detach() if fixed else alpha) * (c - margin)

    return curve


def every(loss: Any, others: Any) -> Any:
    """All classes but the target, for the nearest."""
    return others > -1e3


def among(loss: Any, cos: Any, theta: Any) -> Any:
    """The k nearest classes changed, the target one of them."""
    chosen = cos >= cos.topk(min(loss.k, cos.shape[1]), dim=1).values[:, -1:]
    return (theta - loss.penalty).cos().where(chosen, cos)


EXPLAINED = {
    "detached": "the gradient is that of the detached ",
    "exact": "the gradient is that of the exact ",
    "the other version": "value and gradient agree with version=",
    "no division": "no margin: ",
    "1/m left out of the slope": "1/m is left out of the slope of the other classes: ",
    "cos mθ of the others": "the angles of the other classes are multiplied by m: ",
    "the target divided too": "the target's angle is divided by m too: ",
    "no clamp": "cos(m theta) rises again beyond pi: ",
    "folds": "cos(m theta) goes on in folds beyond pi, as A-Softmax's: ",
    "target's weight detached": "the target's weight counts as a constant: ",
    "other weights detached": "the weights of the other classes count as constants: ",
    "target's weight attached": "the target's weight has a gradient: ",
    "other weights attached": "the weights of the other classes have a gradient: ",
    "weights below 0": "the weights of other classes may be negative: ",
    "margins exchanged": "the margins of the target and of the other classes are exchanged: ",
    "margin m of the target": "the target's margin is m: ",
    "margin 1 + m of the target": "the target's margin is 1 + m: ",
    "weight m - c": "the target's weight is m - c: ",
    "weights m - c and 1 + m + c": "the weights are m - c and 1 + m + c: ",
    "no weights": "the cosines have no weights: ",
    "m = 0.3": "value and gradient agree with m=0.3: ",
    "m = 1.4": "value and gradient agree with m=1.4: ",
    "no scale": "no scale: ",
    "s = 80": "value and gradient agree with s=80: ",
    "no penalty": "the nearest classes have no penalty, as in wespeaker until update() is called: ",
    "penalty of the wrong sign": "the penalty has the wrong sign: ",
    "penalty on all": "the penalty is on all other classes: ",
    "k - 1": "value and gradient agree with k=2: ",
    "k + 1": "value and gradient agree with k=4: ",
    "penalty of 0.03": "value and gradient agree with penalty=0.03: ",
    "penalty in degrees": "the penalty is taken in degrees: ",
    "target among the k": "the target is counted among the nearest classes: ",
    "penalty added to the cosine": "the penalty is added to the cosines of the nearest classes: ",
    "penalty off the cosine": "the penalty is taken off the cosines of the nearest classes: ",
    "penalty detached": "the penalty counts as a constant: ",
    "margin and penalty detached": "margin and penalty count as constants: ",
    "hard rule": "value and gradient agree with boundary='hard': ",
}
"""How the cause that is named begins, of each."""


def curves() -> Iterator[tuple[Any, ...]]:
    """Yield code with one curve replaced."""
    for name, loss, fn in named_curves():
        kind = type(loss).__name__ + (f" {loss.version}" if isinstance(loss, refloss.SphereFaceR) else "")
        yield f"{name}, {kind}, {loss.gradient}", "torch", fn, loss, SINGLES


def named_curves() -> Iterator[tuple[str, Any, Callable[..., Any]]]:
    """Yield the name of a defect, the loss, and the code."""
    for loss in (CLAMPED, DIVIDED, CIRCLE, TOP_K):
        yield "detached", loss, torch_curves(detached(loss))
        yield "exact", detached(loss), torch_curves(loss)
        other = 1.4 if isinstance(loss, refloss.SphereFaceR) else 0.3
        yield f"m = {other}", loss, torch_curves(replace(loss, m=other))
    yield from of_sphere_face_r()
    yield from of_circle()
    yield from of_top_k()


def of_sphere_face_r() -> Iterator[tuple[str, Any, Callable[..., Any]]]:
    """Yield wrong SphereFace-R."""
    for loss in (CLAMPED, DIVIDED, detached(CLAMPED), detached(DIVIDED)):
        yield "the other version", loss, torch_curves(replace(loss, version=3 - loss.version))
    yield "1/m left out of the slope", DIVIDED, torch_curves(DIVIDED, CurveSteps(divided=steep))
    for loss in (DIVIDED, detached(DIVIDED)):
        yield "no division", loss, torch_curves(loss, CurveSteps(divided=lambda loss, c, theta, far: c))
        yield "cos mθ of the others", loss, torch_curves(loss, CurveSteps(divided=rising))
        yield "the target divided too", loss, torch_curves(loss, CurveSteps(target=divided))
    for loss in (CLAMPED, detached(CLAMPED)):
        yield "no clamp", loss, torch_curves(loss, CurveSteps(target=rising))
        yield "folds", loss, torch_curves(loss, CurveSteps(target=folded))


def of_circle() -> Iterator[tuple[str, Any, Callable[..., Any]]]:
    """Yield wrong circle losses."""
    m = CIRCLE.m

    def of_target(c: Any) -> Any:
        return (1.0 + m - c).relu()

    def of_others(c: Any) -> Any:
        return (c + m).relu()

    def less(c: Any) -> Any:
        return (m - c).relu()

    for loss, fixed, word in ((CIRCLE, True, "detached"), (detached(CIRCLE), False, "attached")):
        one, others = weighted(of_target, 1.0 - m, fixed), weighted(of_others, m, fixed)
        yield f"target's weight {word}", loss, torch_curves(loss, CurveSteps(circle_target=one))
        yield f"other weights {word}", loss, torch_curves(loss, CurveSteps(circle_others=others))
        for name, steps in {
            "weights below 0": CurveSteps(circle_others=weighted(lambda c: c + m, m)),
            "margins exchanged": CurveSteps(weighted(of_target, m), weighted(of_others, 1.0 - m)),
            "margin m of the target": CurveSteps(weighted(of_target, m)),
            "margin 1 + m of the target": CurveSteps(weighted(of_target, 1.0 + m)),
            "weight m - c": CurveSteps(weighted(less, 1.0 - m)),
            "weights m - c and 1 + m + c": CurveSteps(weighted(less, 1.0 - m), weighted(lambda c: 1.0 + m + c, m)),
            "no weights": CurveSteps(lambda loss, c: c - (1.0 - m), lambda loss, c: c - m),
        }.items():
            yield name, loss, torch_curves(loss, steps)
        yield "no scale", loss, torch_curves(replace(loss, s=1.0))
        yield "s = 80", loss, torch_curves(replace(loss, s=80.0))


def of_top_k() -> Iterator[tuple[str, Any, Callable[..., Any]]]:
    """Yield wrong inter-top-k."""
    constant = detached(TOP_K)
    fixed = CurveSteps(lessened=lambda loss, c, theta: c + ((theta - loss.penalty).cos() - c).detach())
    for loss in (TOP_K, constant):
        for name, other in {
            "no penalty": replace(loss, penalty=0.0),
            "k - 1": replace(loss, k=loss.k - 1),
            "k + 1": replace(loss, k=loss.k + 1),
            "penalty of 0.03": replace(loss, penalty=0.03),
            "penalty in degrees": replace(loss, penalty=math.radians(loss.penalty)),
        }.items():
            yield name, loss, torch_curves(other)
        for name, steps in {
            "penalty of the wrong sign": CurveSteps(lessened=lambda loss, c, theta: (theta + loss.penalty).cos()),
            "penalty on all": CurveSteps(nearest=every),
            "target among the k": CurveSteps(nearest=every, lessened=among),
            "penalty added to the cosine": CurveSteps(lessened=lambda loss, c, theta: c + loss.penalty),
            "penalty off the cosine": CurveSteps(lessened=lambda loss, c, theta: c - loss.penalty),
            "hard rule": CurveSteps(target=hard),
        }.items():
            yield name, loss, torch_curves(loss, steps)
        yield "margin and penalty detached", loss, torch_curves(constant, fixed)
    yield "penalty detached", TOP_K, torch_curves(TOP_K, fixed)
