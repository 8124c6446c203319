"""Right implementations of losses with curves for the other classes: SphereFace-R, circle loss, inter-top-k.

In torch, jax and NumPy, as public code writes them but for angles, which are found from two lengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import refloss
from support.right_codes.code import Array
from support.right_codes.jax_codes import jax_length, jax_reduced, jax_rows
from support.right_codes.numpy_codes import (
    Psi,
    Turn,
    accumulated,
    head_gradients,
    max_first,
    numpy_length,
    numpy_logits,
    numpy_psi,
    numpy_turn,
    pairwise,
    product,
    widened,
)
from support.right_codes.torch_codes import torch_psi, torch_settings


def torch_circle_target(loss: Any, c: Any) -> Any:
    """ψ of CircleLoss: the weight times how far the cosine is above where it should be."""
    weight = (1.0 + loss.m - c).relu()
    return (weight.detach() if loss.gradient == "detached" else weight) * (c - (1.0 - loss.m))


def torch_circle_others(loss: Any, cos: Any) -> Any:
    """η of CircleLoss."""
    weight = (cos + loss.m).relu()
    return (weight.detach() if loss.gradient == "detached" else weight) * (cos - loss.m)


def torch_divided(loss: Any, cos: Any, theta: Any, far: Any) -> Any:
    """η of SphereFaceR, version 2."""
    import torch

    eta = torch.cos(theta / loss.m)
    return cos + (eta - cos).detach() if loss.gradient == "detached" else eta


def torch_half_angle(loss: Any, cos: Any, theta: Any, far: Any) -> Any:
    """η of SphereFaceR, version 2, m = 2: cos θ/2 is half the length of the sum of two unit rows."""
    return far / 2.0


def torch_nearest(loss: Any, others: Any) -> Any:
    """Which classes are the k nearest, of cosines with the target's put to -1e4 (N, C)."""
    import torch

    places = others.detach().topk(min(loss.k, others.shape[1]), dim=1).indices
    return torch.zeros_like(others, dtype=torch.bool).scatter(1, places, True) & (others > -1e3)


class CurveSteps(NamedTuple):
    """Steps of a head, each of which a wrong code may replace."""

    circle_target: Callable[..., Any] = torch_circle_target
    """ψ of (loss, cosines of targets)."""
    circle_others: Callable[..., Any] = torch_circle_others
    """η of (loss, cosines)."""
    divided: Callable[..., Any] = torch_divided
    """η of (loss, cosines, angles, lengths of sums of unit rows)."""
    nearest: Callable[..., Any] = torch_nearest
    """Mask of (loss, cosines of other classes)."""
    lessened: Callable[..., Any] = lambda loss, cos, theta: (theta - loss.penalty).cos()
    """η of the nearest classes, of (loss, cosines, angles)."""
    target: Callable[..., Any] = lambda loss, c, theta: torch_psi(loss, c, None, theta, "lengths")
    """ψ of (loss, c, θ)."""


RIGHT = CurveSteps()


def torch_curves(loss: Any, steps: CurveSteps = RIGHT, upcast: bool = False) -> Callable[..., Any]:
    """The head of such a loss, angles by two lengths."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        kind = x.dtype
        if upcast:
            x, w = x.float(), w.float()
        length = x.norm(dim=1, keepdim=True)
        ux, uw = x / length, w / w.norm(dim=1, keepdim=True)
        cos = ux @ uw.T
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        if isinstance(loss, refloss.CircleLoss):
            psi, eta = steps.circle_target(loss, cos[target]), steps.circle_others(loss, cos)
        else:
            near, far = (ux[:, None] - uw).norm(dim=2), (ux[:, None] + uw).norm(dim=2)
            theta = 2.0 * torch.atan2(near, far)
            psi, eta = steps.target(loss, cos[target], theta[target]), cos
            if isinstance(loss, refloss.InterTopK):
                chosen = steps.nearest(loss, cos.masked_fill(target, -1e4))
                eta = torch.where(chosen, steps.lessened(loss, cos, theta), cos)
            elif loss.version == 2:
                eta = steps.divided(loss, cos, theta, far)
        z = (length if loss.s is None else loss.s) * torch.where(target, psi[:, None], eta)
        value = f.cross_entropy(z, y, **torch_settings(loss, z))
        return value.to(kind) if upcast else value

    return fn


def jax_curves(loss: Any, upcast: bool = False) -> Callable[..., Any]:
    """CircleLoss, SphereFaceR version 2, or InterTopK without a rule."""
    import jax

    jnp = jax.numpy

    def fn(x: Any, w: Any, y: Any) -> Any:
        kind = x.dtype
        if upcast:
            x, w = x.astype("float32"), w.astype("float32")
        label = jnp.maximum(jnp.asarray(y), 0)
        ux, uw = x / jax_length(x)[:, None], w / jax_length(w)[:, None]
        cos = ux @ uw.T
        target = jax.nn.one_hot(label, len(w), dtype=x.dtype) > 0
        if isinstance(loss, refloss.CircleLoss):
            of_target, of_others = jax.nn.relu(1.0 + loss.m - cos), jax.nn.relu(cos + loss.m)
            if loss.gradient == "detached":
                of_target, of_others = map(jax.lax.stop_gradient, (of_target, of_others))
            f = jnp.where(target, of_target * (cos - (1.0 - loss.m)), of_others * (cos - loss.m))
        else:
            near, far = jax_length(ux[:, None] - uw), jax_length(ux[:, None] + uw)
            theta = 2 * jnp.arctan2(near, far)
            if isinstance(loss, refloss.InterTopK):
                others = jnp.where(target, -jnp.inf, jax.lax.stop_gradient(cos))
                _, places = jax.lax.top_k(others, min(loss.k, len(w) - 1))
                chosen = jax.nn.one_hot(places, len(w)).sum(axis=1) > 0
                moved = jnp.where(target, theta + loss.m, jnp.where(chosen, theta - loss.penalty, theta))
                f = jnp.where(target | chosen, jnp.cos(moved), cos)
            else:
                eta = jnp.cos(theta / loss.m)
                eta = cos + jax.lax.stop_gradient(eta - cos) if loss.gradient == "detached" else eta
                f = jnp.where(target, cos, eta)
        z = (loss.s * f).astype(x.dtype)
        return jax_reduced(jax_rows("log_softmax")(z, label), y, loss).astype(kind)

    return fn


def numpy_circle(loss: Any, cos: Array, c: Array) -> tuple[Psi, Array, Array]:
    """ψ with its slope, and η and dη/dc of all classes."""
    kind = c.dtype.type
    m, one, zero = kind(loss.m), kind(1.0), np.zeros_like(c)
    weight, above = one + m - c, c - (one - m)
    slope = weight if loss.gradient == "detached" else weight - above
    of_others = np.maximum(cos + m, kind(0.0))
    per = of_others if loss.gradient == "detached" else of_others + (cos - m) * (of_others > 0)
    return Psi(weight * above, slope, zero), of_others * (cos - m), per


def numpy_top(cos: Array, own: Array, k: int) -> Array:
    """Which classes are the k nearest of each sample, but the target."""
    chosen = np.zeros(cos.shape, bool)
    for n, row in enumerate(cos):
        others = np.delete(np.arange(len(row)), own[n])
        chosen[n, others[np.argsort(-row[others].astype(np.float64), kind="stable")[:k]]] = True
    return chosen


class Curves(NamedTuple):
    """η of other classes, of the samples that count."""

    eta: Array
    per_cosine: Array
    """dη/dc (N, C)."""
    n: Array
    """Samples and classes whose η is of an angle (E,)."""
    k: Array
    per_angle: Array
    """dη/dθ of these (E,)."""
    turn: Turn


def numpy_curve(loss: Any, cos: Array, ux: Array, uw: Array, own: Array, curve: str) -> Curves:
    """The curves of SphereFaceR and InterTopK, and where they act."""
    kind, eta, per = cos.dtype.type, cos.copy(), np.ones_like(cos)
    on = np.arange(cos.shape[1]) != own[:, None]
    if isinstance(loss, refloss.InterTopK):
        on = numpy_top(cos, own, loss.k)
    elif loss.version == 1:
        on[:] = False
    n, k = np.nonzero(on)
    turn = numpy_turn(ux[n], uw[k], curve, pairwise)
    if isinstance(loss, refloss.InterTopK):
        m = loss.penalty
        if curve == "addition":  # of the cosine and the sine
            cos_m, sin_m = kind(math.cos(m)), kind(math.sin(m))
            eta[n, k], per[n, k] = turn.c * cos_m + turn.theta * sin_m, cos_m
            return Curves(eta, per, n, k, np.full_like(turn.c, sin_m), turn)
        phi, rate = turn.theta - kind(m), kind(1.0)
    else:
        phi, rate = turn.theta / kind(loss.m), kind(1.0) / kind(loss.m)
    eta[n, k] = np.cos(phi)
    if getattr(loss, "version", 0) and loss.gradient == "detached":
        return Curves(eta, per, n, k, np.zeros_like(phi), turn)
    per[n, k] = kind(0.0)
    return Curves(eta, per, n, k, -rate * np.sin(phi), turn)


def numpy_curves(loss: Any, curve: str = "lengths", upcast: bool = False) -> Callable[..., Any]:
    """The same by hand: gradients through cosines by two products, through angles class by class."""

    def fn(x: Array, w: Array, y: Array) -> Any:
        dtype = x.dtype
        if upcast:
            x, w = widened(x), widened(w)
        kind, add = x.dtype.type, pairwise
        length_x, length_w = (numpy_length(rows, add)[:, None] for rows in (x, w))
        ux, uw = x / length_x, w / length_w
        f = product(ux, uw, add)
        kept = np.flatnonzero(y != loss.ignore_index)
        own, some = y[kept], f[kept]
        turn = numpy_turn(ux[kept], uw[own], curve, add)
        up_x, up_w = np.zeros_like(ux), np.zeros_like(uw)
        if isinstance(loss, refloss.CircleLoss):
            psi, f[kept], per = numpy_circle(loss, some, turn.c)
            others = None
        else:
            psi, others = numpy_psi(loss, turn, curve), numpy_curve(loss, some, ux[kept], uw, own, curve)
            f[kept], per = others.eta, others.per_cosine
        f[kept, own] = psi.psi
        s = length_x if loss.s is None else kind(loss.s)
        value, g = numpy_logits(loss, max_first, add)(s * f, y)
        up = s * g
        at_target, of_angles = up[kept, own], up[kept]
        up[kept] = up[kept] * per
        up[kept, own] = at_target * psi.per_cosine
        if others is not None:
            along = (of_angles[others.n, others.k] * others.per_angle)[:, None]
            for whole, place, part in ((up_x, kept[others.n], others.turn.in_x), (up_w, others.k, others.turn.in_w)):
                for row in np.unique(place):
                    whole[row] = accumulated(add)((along * part)[place == row].T)
        sides = (ux, length_x), (uw, length_w)
        dx, dw = head_gradients(up, at_target * psi.per_angle, turn, kept, own, sides, add)
        dx, dw = (
            whole + (part - accumulated(add)(part * unit)[:, None] * unit) / size
            for whole, part, (unit, size) in ((dx, up_x, sides[0]), (dw, up_w, sides[1]))
        )
        if loss.s is None:
            dx = dx + accumulated(add)(g * f)[:, None] * ux
        return value.astype(dtype), dx.astype(dtype), dw.astype(dtype)

    return fn
