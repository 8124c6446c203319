"""Right implementations of margins that are given, of margins by length, and of hard classes that count more.

In torch, jax and NumPy, as public code writes them but for the angle, which is found from two lengths.
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
    accumulated,
    head_gradients,
    max_first,
    numpy_length,
    numpy_logits,
    numpy_turn,
    pairwise,
    product,
    widened,
)
from support.right_codes.torch_codes import torch_settings


def torch_quality(loss: Any, length: Any) -> tuple[Any, Any]:
    """The margins on the angle and on the cosine that embeddings of these lengths have (N,)."""
    if isinstance(loss, refloss.AdaFace):
        length = length.detach().clamp(1e-3, 100.0)
        v = (loss.h * (length - loss.mean) / (loss.std + loss.eps)).clamp(-1.0, 1.0)
        return -loss.m * v, loss.m + loss.m * v
    a = length.clamp(loss.l_a, loss.u_a)
    m = (loss.u_m - loss.l_m) / (loss.u_a - loss.l_a) * (a - loss.l_a) + loss.l_m
    return m.detach() if loss.gradient == "detached" else m, 0.0


def torch_margins(loss: Any, length: Any, m: Any) -> tuple[Any, Any]:
    """The margins on the angle and on the cosine."""
    settings = loss.spec.margin
    if isinstance(loss, refloss.AdaFace | refloss.MagFace):
        return torch_quality(loss, length)
    if m is None:
        return settings.m2, settings.m3
    return (settings.m2, m) if isinstance(loss, refloss.CosFace) else (m, settings.m3)


def torch_curve(loss: Any, c: Any, theta: Any, m2: Any, m3: Any) -> Any:
    """The target's cosine with its margin, which may differ from sample to sample."""
    import torch

    settings = loss.spec.margin
    phi = settings.m1 * theta + m2
    m2 = torch.as_tensor(m2, dtype=c.dtype)
    exceeds_pi, k = phi > math.pi, torch.floor(phi.detach() / math.pi).clamp(min=0.0)
    on_cosine = isinstance(loss, refloss.CosFace) or getattr(loss, "margin", "") == "am"
    inside = c - m3 if on_cosine else torch.cos(phi) - m3
    psi = {
        "none": lambda: inside,
        "hard": lambda: torch.where(exceeds_pi, c - m2 * torch.sin(m2) - m3, inside),
        "easy": lambda: torch.where(c > 0.0, inside, c - m3),
        "keep": lambda: torch.where(exceeds_pi, c - m3, inside),
        "continuous": lambda: torch.where(exceeds_pi, c - (torch.cos((math.pi - m2) / settings.m1) + 1.0 + m3), inside),
        "monotone": lambda: (1.0 - 2.0 * (k % 2.0)) * torch.cos(phi) - 2.0 * k - m3,
        "clamp": lambda: torch.where(exceeds_pi, torch.full_like(c, -1.0) - m3, inside),
        "min": lambda: torch.minimum(inside, c),
        "conditional": lambda: torch.where(c > m3, inside, c),
        "acute": lambda: torch.where(c > 0.0, inside, c),
        "clip": lambda: torch.cos(phi.clamp(settings.eps, math.pi - settings.eps)) - m3,
    }[settings.boundary]()
    return c + (psi - c).detach() if settings.gradient == "detached" else psi


def torch_threshold(loss: Any, c: Any, theta: Any) -> Any:
    """What the cosines of hard classes are above."""
    return c - loss.m if getattr(loss, "margin", "") == "am" else (theta + loss.m).cos()


class Steps(NamedTuple):
    """Steps of a head, each of which a wrong code may replace."""

    margins: Callable[..., Any] = torch_margins
    """m2 and m3 of (loss, lengths of embeddings, given margins)."""
    curve: Callable[..., Any] = torch_curve
    """ψ of (loss, c, theta, m2, m3)."""
    threshold: Callable[..., Any] = torch_threshold
    """Threshold of (loss, c, theta)."""
    raised: Callable[..., Any] = lambda loss, cos: (
        cos * (loss.t + cos) if isinstance(loss, refloss.CurricularFace) else (1.0 + loss.t) * cos + loss.t
    )
    """What the cosine of a hard class becomes, of (loss, cosines)."""
    terms: Callable[..., Any] = lambda loss, a: loss.regularizer * (a / loss.u_a**2 + 1.0 / a)
    """Terms of the loss, of (loss, held lengths)."""
    held: Callable[..., Any] = lambda loss, length: length.clamp(loss.l_a, loss.u_a)
    """The held lengths of these terms."""
    put: Callable[..., Any] = lambda target, psi, eta, hard, loss: None
    """Another choice of what is scaled, if any, of (target, psi, eta, hard, loss)."""


RIGHT = Steps()


def torch_family(loss: Any, steps: Steps = RIGHT, upcast: bool = False, gathered: bool = False) -> Callable[..., Any]:
    """The head of a loss with such margins or classes, the angle by two lengths."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any, m: Any = None) -> Any:
        kind = x.dtype
        if upcast:
            x, w, m = x.float(), w.float(), None if m is None else m.float()
        length = x.norm(dim=1)
        ux, uw = x / length[:, None], w / w.norm(dim=1, keepdim=True)
        cos = ux @ uw.T
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        mine = uw[y.clamp(min=0)] if gathered else target.to(w.dtype) @ uw
        on_cosine = isinstance(loss, refloss.CosFace) or getattr(loss, "margin", "") == "am"
        c = cos[target] if on_cosine else (ux * mine).sum(dim=1)
        near, far = (ux - mine).norm(dim=1), (ux + mine).norm(dim=1)
        theta = c if on_cosine else 2.0 * torch.atan2(near, far)
        psi = steps.curve(loss, c, theta, *steps.margins(loss, length, m))
        eta = cos
        if hasattr(loss, "t"):
            hard = cos.detach() > steps.threshold(loss, c, theta).detach()[:, None]
            eta = torch.where(hard, steps.raised(loss, cos), cos)
        scaled = torch.where(target, psi[:, None], eta)
        z = (length[:, None] if loss.s is None else loss.s) * scaled
        value = f.cross_entropy(z, y, **torch_settings(loss, z))
        if getattr(loss, "regularizer", 0.0):
            kept = y != loss.ignore_index
            terms = steps.terms(loss, steps.held(loss, length))
            terms = torch.where(kept, terms, torch.zeros_like(terms))
            reduce = {"none": lambda: terms, "sum": terms.sum, "mean": lambda: terms.sum() / kept.sum()}
            value = value + reduce[loss.reduction]()
        return value.to(kind) if upcast else value

    return fn


def jax_family(loss: Any, upcast: bool = False) -> Callable[..., Any]:
    """A margin loss without a rule whose margins are given, AdaFace, or hard classes."""
    import jax

    jnp = jax.numpy

    def fn(x: Any, w: Any, y: Any, m: Any = None) -> Any:
        kind = x.dtype
        if upcast:
            x, w, m = x.astype("float32"), w.astype("float32"), None if m is None else m.astype("float32")
        label = jnp.maximum(jnp.asarray(y), 0)
        length = jax_length(x)
        ux, uw = x / length[:, None], w / jax_length(w)[:, None]
        cos = ux @ uw.T
        target = jax.nn.one_hot(label, len(w), dtype=x.dtype)
        mine = target @ uw
        theta = 2 * jnp.arctan2(jax_length(ux - mine), jax_length(ux + mine))
        if isinstance(loss, refloss.AdaFace):
            v = jax.lax.stop_gradient(jnp.clip(length, 1e-3, 100.0))
            v = jnp.clip(loss.h * (v - loss.mean) / (loss.std + loss.eps), -1.0, 1.0)
            psi = jnp.cos(jnp.clip(theta - loss.m * v, loss.eps, math.pi - loss.eps)) - (loss.m + loss.m * v)
        else:
            psi = jnp.cos(theta + (loss.m if m is None else m))
        eta = cos
        if isinstance(loss, refloss.CurricularFace):
            eta = jnp.where(cos > jax.lax.stop_gradient(jnp.cos(theta + loss.m))[:, None], cos * (loss.t + cos), cos)
        z = (loss.s * jnp.where(target > 0, psi[:, None], eta)).astype(x.dtype)
        return jax_reduced(jax_rows("log_softmax")(z, label), y, loss).astype(kind)

    return fn


class Margins(NamedTuple):
    """Margins of samples, and their derivative in the length (N,)."""

    m2: Array
    m3: Array
    by_length: Array


def numpy_margins(loss: Any, length: Array, m: Array | None) -> Margins:
    """The margins of samples."""
    kind, settings, nothing = length.dtype.type, loss.spec.margin, np.zeros_like(length)
    if isinstance(loss, refloss.AdaFace):
        a = np.clip(length, kind(1e-3), kind(100.0))
        v = np.clip(kind(loss.h) * (a - kind(loss.mean)) / kind(loss.std + loss.eps), kind(-1.0), kind(1.0))
        return Margins(-kind(loss.m) * v, kind(loss.m) * (kind(1.0) + v), nothing)
    if isinstance(loss, refloss.MagFace):
        a = np.clip(length, kind(loss.l_a), kind(loss.u_a))
        per = kind((loss.u_m - loss.l_m) / (loss.u_a - loss.l_a))
        inside = (length >= kind(loss.l_a)) & (length <= kind(loss.u_a))
        return Margins(per * (a - kind(loss.l_a)) + kind(loss.l_m), nothing, np.where(inside, per, kind(0.0)))
    m2, m3 = nothing + kind(settings.m2), nothing + kind(settings.m3)
    if m is None:
        return Margins(m2, m3, nothing)
    return Margins(m2, m, nothing) if isinstance(loss, refloss.CosFace) else Margins(m, m3, nothing)


class Slopes(NamedTuple):
    """ψ and its derivatives by the cosine, the angle, and the margin that samples have of their own (N,)."""

    psi: Array
    per_cosine: Array
    per_angle: Array
    per_margin: Array


def numpy_slopes(loss: Any, c: Array, theta: Array, margins: Margins) -> Slopes:
    """ψ of these margins: rules "none", "hard", "easy", "conditional", and those of AdaFace and MV-Softmax."""
    kind, settings, (m2, m3, _) = c.dtype.type, loss.spec.margin, margins
    one, zero = np.ones_like(c), np.zeros_like(c)
    if isinstance(loss, refloss.CosFace) or getattr(loss, "margin", "") == "am":
        on = {"none": one > 0, "conditional": c > m3, "acute": c > 0}[settings.boundary]
        return Slopes(np.where(on, c - m3, c), one, zero, np.where(on, -one, zero))
    phi = kind(settings.m1) * theta + m2
    inside = Slopes(np.cos(phi) - m3, zero, -kind(settings.m1) * np.sin(phi), -np.sin(phi))
    beyond = phi > kind(math.pi)
    low, high = phi < kind(settings.eps), phi > kind(math.pi - settings.eps)
    ends = np.where(low, kind(math.cos(settings.eps)), -kind(math.cos(settings.eps)))
    where, other = {
        "none": (one < 0, inside),
        "hard": (beyond, Slopes(c - m2 * np.sin(m2) - m3, one, zero, -(np.sin(m2) + m2 * np.cos(m2)))),
        "easy": (c <= 0, Slopes(c - m3, one, zero, zero)),
        "acute": (c <= 0, Slopes(c, one, zero, zero)),
        "clip": (low | high, Slopes(ends - m3, zero, zero, zero)),
    }[settings.boundary]
    psi = Slopes(*(np.where(where, out, in_) for out, in_ in zip(other, inside, strict=True)))
    return Slopes(psi.psi, one, zero, zero) if settings.gradient == "detached" else psi


def numpy_family(loss: Any, curve: str = "lengths", upcast: bool = False) -> Callable[..., Any]:
    """The same by hand: margins with their gradients, hard classes by a mask, and all through two projections."""

    def fn(x: Array, w: Array, y: Array, m: Array | None = None) -> Any:
        dtype = x.dtype
        if upcast:
            x, w, m = widened(x), widened(w), None if m is None else widened(m)
        kind, add = x.dtype.type, pairwise
        length_x, length_w = (numpy_length(rows, add)[:, None] for rows in (x, w))
        ux, uw = x / length_x, w / length_w
        cos = product(ux, uw, add)
        kept = np.flatnonzero(y != loss.ignore_index)
        own = y[kept]
        turn = numpy_turn(ux[kept], uw[own], curve, add)
        length = length_x[kept, 0]
        margins = numpy_margins(loss, length, None if m is None else m[kept])
        psi = numpy_slopes(loss, turn.c, turn.theta, margins)
        f, slope = cos.copy(), np.ones_like(cos)
        if hasattr(loss, "t"):
            on_cosine = getattr(loss, "margin", "") == "am"
            tau = turn.c - kind(loss.m) if on_cosine else np.cos(turn.theta + kind(loss.m))
            hard = cos[kept] > tau[:, None]
            t, some = kind(loss.t), cos[kept]
            if isinstance(loss, refloss.CurricularFace):
                raised, steep = some * (t + some), t + kind(2.0) * some
            else:
                raised, steep = (kind(1.0) + t) * some + t, np.full_like(some, kind(1.0) + t)
            f[kept], slope[kept] = np.where(hard, raised, some), np.where(hard, steep, kind(1.0))
        f[kept, own] = psi.psi
        s = length_x if loss.s is None else kind(loss.s)
        value, g = numpy_logits(loss, max_first, add)(s * f, y)
        up = s * g
        at_target = up[kept, own]
        up = up * slope
        up[kept, own] = at_target * psi.per_cosine
        sides = (ux, length_x), (uw, length_w)
        dx, dw = head_gradients(up, at_target * psi.per_angle, turn, kept, own, sides, add)
        along = at_target * psi.per_margin * margins.by_length
        if loss.s is None:
            along = along + accumulated(add)(g[kept] * f[kept])
        if getattr(loss, "regularizer", 0.0) and len(kept):
            number = kind(len(kept) if loss.reduction == "mean" else 1.0)
            low, high, weight = kind(loss.l_a), kind(loss.u_a), kind(loss.regularizer)
            a = np.clip(length, low, high)
            terms = np.zeros(len(x), x.dtype)
            terms[kept] = weight * (a / (high * high) + kind(1.0) / a)
            value = value + (terms if loss.reduction == "none" else add(widened(terms)).astype(x.dtype) / number)
            pull = weight * (kind(1.0) / (high * high) - kind(1.0) / (a * a)) / number
            along = along + np.where((length >= low) & (length <= high), pull, kind(0.0))
        dx[kept] = dx[kept] + along[:, None] * ux[kept]
        gradients = [dx, dw]
        if m is not None:
            dm = np.zeros(len(x), x.dtype)
            dm[kept] = at_target * psi.per_margin
            gradients.append(dm)
        return value.astype(dtype), *(part.astype(dtype) for part in gradients)

    return fn
