"""Wrong curves of all classes: SphereFace-R, circle loss and inter-top-k with one step of a right head replaced."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import refloss
from support.right_codes.code import SINGLES
from support.right_codes.torch_codes import torch_settings

CLAMPED = refloss.SphereFaceR()
DIVIDED = refloss.SphereFaceR(version=2)
CIRCLE = refloss.CircleLoss()
TOP_K = refloss.InterTopK(k=3)


def detached(loss: Any) -> Any:
    """The loss with the other gradient."""
    return replace(loss, gradient="detached")


class Curves(NamedTuple):
    """ψ and η of (loss, cosines, angles, targets), all (N, C)."""

    psi: Callable[..., Any]
    eta: Callable[..., Any]


def straight(c: Any, f: Any) -> Any:
    """f with the slope of c."""
    return c + (f - c).detach()


def angular(m1: float, angle: Callable[[Any], Any] = lambda phi: phi.clamp(max=math.pi)) -> Callable[..., Any]:
    """cos(m1 θ) for ψ or η."""
    import torch

    def curve(loss: Any, c: Any, theta: Any, target: Any) -> Any:
        f = torch.cos(angle(m1 * theta))
        return straight(c, f) if loss.gradient == "detached" else f

    return curve


def folded(m1: float) -> Callable[..., Any]:
    """(-1)^k cos(m1 θ) - 2 k."""
    import torch

    def curve(loss: Any, c: Any, theta: Any, target: Any) -> Any:
        k = torch.floor(m1 * theta.detach() / math.pi)
        f = (1.0 - 2.0 * (k % 2.0)) * torch.cos(m1 * theta) - 2.0 * k
        return straight(c, f) if loss.gradient == "detached" else f

    return curve


def plain(loss: Any, c: Any, theta: Any, target: Any) -> Any:
    """The cosine."""
    return c


def steep(loss: Any, c: Any, theta: Any, target: Any) -> Any:
    """cos(θ/m) without 1/m in its slope."""
    return (theta.detach() / loss.m + (theta - theta.detach())).cos()


def weighted(
    weight: Callable[[Any], Any], margin: float, constant: bool | None = None, held: bool = True
) -> Callable[..., Any]:
    """A weight, a function of the cosine, times the cosine less its margin."""

    def curve(loss: Any, c: Any, theta: Any, target: Any) -> Any:
        alpha = weight(c)
        alpha = alpha.clamp(min=0.0) if held else alpha
        fixed = loss.gradient == "detached" if constant is None else constant
        return (alpha.detach() if fixed else alpha) * (c - margin)

    return curve


def continuous(loss: Any, c: Any, theta: Any, target: Any) -> Any:
    """The margin of InterTopK with its default rule."""
    import torch

    f = torch.where(theta + loss.m > math.pi, c - (1.0 + math.cos(math.pi - loss.m)), (theta + loss.m).cos())
    return straight(c, f) if loss.gradient == "detached" else f


def nearest(
    lessened: Callable[..., Any] = lambda loss, c, theta: (theta - loss.penalty).cos(), k: int = 0, out: float = 4.0
) -> Callable[..., Any]:
    """The k nearest classes changed; `out` is taken off the cosine of the target before they are chosen."""
    import torch

    def curve(loss: Any, c: Any, theta: Any, target: Any) -> Any:
        wanted = min(k or loss.k, c.shape[1] - 1)
        among = (c.detach() - out * target).topk(wanted, dim=1).indices
        chosen = torch.zeros_like(target).scatter(1, among, True)
        return torch.where(chosen & ~target, lessened(loss, c, theta), c)

    return curve


def curves_of(loss: Any) -> Curves:
    """What is right."""
    if isinstance(loss, refloss.SphereFaceR):
        return Curves(angular(loss.m), plain) if loss.version == 1 else Curves(plain, angular(1.0 / loss.m))
    if isinstance(loss, refloss.CircleLoss):
        return Curves(
            weighted(lambda c: 1.0 + loss.m - c, 1.0 - loss.m),
            weighted(lambda c: c + loss.m, loss.m),
        )
    return Curves(continuous, nearest())


def torch_curves(loss: Any, **wrong: Callable[..., Any]) -> Callable[..., Any]:
    """The head of a loss, ψ or η replaced; angles by two lengths."""
    import torch

    f = torch.nn.functional
    curves = curves_of(loss)._replace(**wrong)

    def fn(x: Any, w: Any, y: Any) -> Any:
        length = x.norm(dim=1, keepdim=True)
        ux, uw = x / length, w / w.norm(dim=1, keepdim=True)
        c = ux @ uw.T
        theta = 2.0 * torch.atan2((ux[:, None] - uw).norm(dim=2), (ux[:, None] + uw).norm(dim=2))
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        here = loss, c, theta, target
        z = (length if loss.s is None else loss.s) * torch.where(target, curves.psi(*here), curves.eta(*here))
        return f.cross_entropy(z, y, **torch_settings(loss, z))

    return fn


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
    yield from of_sphere_face_r()
    yield from of_circle()
    yield from of_top_k()


def of_sphere_face_r() -> Iterator[tuple[str, Any, Callable[..., Any]]]:
    """Yield wrong SphereFace-R."""
    m = DIVIDED.m
    for loss in (CLAMPED, DIVIDED, detached(CLAMPED), detached(DIVIDED)):
        yield "the other version", loss, torch_curves(replace(loss, version=3 - loss.version))
    yield "1/m left out of the slope", DIVIDED, torch_curves(DIVIDED, eta=steep)
    for loss in (DIVIDED, detached(DIVIDED)):
        yield "no division", loss, torch_curves(loss, eta=plain)
        yield "cos mθ of the others", loss, torch_curves(loss, eta=angular(m, lambda phi: phi))
        yield "the target divided too", loss, torch_curves(loss, psi=angular(1.0 / m))
    for loss in (CLAMPED, detached(CLAMPED)):
        yield "no clamp", loss, torch_curves(loss, psi=angular(m, lambda phi: phi))
        yield "folds", loss, torch_curves(loss, psi=folded(m))


def of_circle() -> Iterator[tuple[str, Any, Callable[..., Any]]]:
    """Yield wrong circle losses."""
    m = CIRCLE.m

    def of_target(c: Any) -> Any:
        return 1.0 + m - c

    def of_others(c: Any) -> Any:
        return c + m

    constant = detached(CIRCLE)
    yield "target's weight detached", CIRCLE, torch_curves(CIRCLE, psi=weighted(of_target, 1.0 - m, True))
    yield "other weights detached", CIRCLE, torch_curves(CIRCLE, eta=weighted(of_others, m, True))
    yield "target's weight attached", constant, torch_curves(constant, psi=weighted(of_target, 1.0 - m, False))
    yield "other weights attached", constant, torch_curves(constant, eta=weighted(of_others, m, False))
    wrong: dict[str, dict[str, Callable[..., Any]]] = {
        "weights below 0": {"eta": weighted(of_others, m, held=False)},
        "margins exchanged": {"psi": weighted(of_target, m), "eta": weighted(of_others, 1.0 - m)},
        "margin m of the target": {"psi": weighted(of_target, m)},
        "margin 1 + m of the target": {"psi": weighted(of_target, 1.0 + m)},
        "weight m - c": {"psi": weighted(lambda c: m - c, 1.0 - m)},
        "weights m - c and 1 + m + c": {
            "psi": weighted(lambda c: m - c, 1.0 - m),
            "eta": weighted(lambda c: 1.0 + m + c, m),
        },
        "no weights": {
            "psi": lambda loss, c, theta, target: c - (1.0 - m),
            "eta": lambda loss, c, theta, target: c - m,
        },
    }
    for loss in (CIRCLE, constant):
        for name, changed in wrong.items():
            yield name, loss, torch_curves(loss, **changed)
        yield "no scale", loss, torch_curves(replace(loss, s=1.0))
        yield "s = 80", loss, torch_curves(replace(loss, s=80.0))


def of_top_k() -> Iterator[tuple[str, Any, Callable[..., Any]]]:
    """Yield wrong inter-top-k."""
    constant = detached(TOP_K)

    def lessened(loss: Any, c: Any, theta: Any) -> Any:
        return straight(c, (theta - loss.penalty).cos())

    for loss in (TOP_K, constant):
        for name, other in {
            "no penalty": replace(loss, penalty=0.0),
            "k - 1": replace(loss, k=loss.k - 1),
            "k + 1": replace(loss, k=loss.k + 1),
            "penalty of 0.03": replace(loss, penalty=0.03),
            "penalty in degrees": replace(loss, penalty=math.radians(loss.penalty)),
        }.items():
            yield name, loss, torch_curves(other)
        for name, eta in {
            "penalty of the wrong sign": nearest(lambda loss, c, theta: (theta + loss.penalty).cos()),
            "penalty on all": lambda loss, c, theta, target: (theta - loss.penalty).cos(),
            "target among the k": nearest(out=0.0),
            "penalty added to the cosine": nearest(lambda loss, c, theta: c + loss.penalty),
            "penalty off the cosine": nearest(lambda loss, c, theta: c - loss.penalty),
        }.items():
            yield name, loss, torch_curves(loss, eta=eta)
        yield "hard rule", loss, torch_curves(loss, psi=hard)
    yield "penalty detached", TOP_K, torch_curves(TOP_K, eta=nearest(lessened))
    yield "margin and penalty detached", TOP_K, torch_curves(constant, eta=nearest(lessened))
    yield "margin and penalty detached", constant, torch_curves(constant, eta=nearest(lessened))


def hard(loss: Any, c: Any, theta: Any, target: Any) -> Any:
    """The margin of InterTopK with the rule "hard"."""
    import torch

    fall = loss.m * math.sin(loss.m)
    f = torch.where(theta + loss.m > math.pi, c - fall, (theta + loss.m).cos())
    return straight(c, f) if loss.gradient == "detached" else f
