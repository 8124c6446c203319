"""Wrong heads and biases."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

import refloss
from support.right_codes.code import DTYPES, LINEAR, SINGLES
from support.right_codes.numpy_codes import max_first, numpy_head, numpy_linear, pairwise, product
from support.right_codes.torch_codes import torch_head, torch_settings
from support.wrong_codes.code import ARC, COS, NORM, SPHERE, Array, Change, one_hot, put, tampered


def heads() -> Iterator[tuple[Any, ...]]:
    """Linear layers with a bias; lengths, margins, scales and rules of losses on directions."""
    biases: dict[str, Callable[..., Any]] = {
        "bias added twice": lambda x, w, y, b: numpy_linear(LINEAR)(x, w, y, b + b),
        "bias left out": lambda x, w, y, b: (*numpy_linear(LINEAR)(x, w, y), numpy_linear(LINEAR)(x, w, y, b)[3]),
        "bias subtracted": lambda x, w, y, b: numpy_linear(LINEAR)(x, w, y, -b),
        "bias of the next class": lambda x, w, y, b: numpy_linear(LINEAR)(x, w, y, np.roll(b, 1)),
        "db is 0": lambda x, w, y, b: (*numpy_linear(LINEAR)(x, w, y, b)[:3], 0 * b),
        "db is the mean of p": lambda x, w, y, b: (*numpy_linear(LINEAR)(x, w, y, b)[:3], probabilities(x, w, y, b)),
        "db negated": lambda x, w, y, b: (*numpy_linear(LINEAR)(x, w, y, b)[:3], -numpy_linear(LINEAR)(x, w, y, b)[3]),
        "db divided by C": lambda x, w, y, b: (
            *numpy_linear(LINEAR)(x, w, y, b)[:3],
            numpy_linear(LINEAR)(x, w, y, b)[3] / b.dtype.type(len(b)),
        ),
        "db of ignored rows too": lambda x, w, y, b: (*numpy_linear(LINEAR)(x, w, y, b)[:3], every_row(x, w, y, b)),
        "db left out": lambda x, w, y, b: numpy_linear(LINEAR)(x, w, y, b)[:3],
        "db of the last class left out": lambda x, w, y, b: (
            *numpy_linear(LINEAR)(x, w, y, b)[:3],
            put(numpy_linear(LINEAR)(x, w, y, b)[3], -1, 0.0),
        ),
        "bias beside the softmax alone": bias_off_the_target,
    }
    for name, with_bias in biases.items():

        def fn(x: Array, w: Array, y: Array, b: Array | None = None, with_bias: Any = with_bias) -> Any:
            return numpy_linear(LINEAR)(x, w, y) if b is None else with_bias(x, w, y, b)

        yield name, "numpy", fn, LINEAR, DTYPES

    cosine = "cosine"
    changed: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
        "m of 0.4999 for 0.5": (ARC, replace(ARC, m=0.4999), SINGLES),
        "m of 0.3501 for 0.35": (COS, replace(COS, m=0.3501), SINGLES),
        "m of 0.35 in float32": (COS, replace(COS, m=float(np.float32(0.35))), ("float64",)),
        "s of 63.9 for 64": (COS, replace(COS, s=63.9), SINGLES),
        "no scale": (COS, replace(COS, s=1.0), DTYPES),
        "scale of 30 for 64": (ARC, replace(ARC, s=30.0), DTYPES),
        "scale squared": (NORM, replace(NORM, s=256.0), DTYPES),
        "length of the embedding for the scale": (COS, replace(COS, s=None), DTYPES),
        "scale for the length of the embedding": (refloss.NormFace(s=None), NORM, DTYPES),
        "no margin": (ARC, replace(ARC, m=0.0), DTYPES),
        "no margin on the cosine": (COS, replace(COS, m=0.0), DTYPES),
        "margin twice": (COS, replace(COS, m=0.7), DTYPES),
        "m of 28.6 degrees for 0.5": (ARC, replace(ARC, m=math.radians(28.6)), ("float64", "float32")),
        "m in degrees": (ARC, replace(ARC, m=math.radians(0.5)), DTYPES),
        "margin on the cosine for the angle": (ARC, refloss.CosFace(m=0.5), DTYPES),
        "margin on the angle for the cosine": (COS, refloss.ArcFace(m=0.35), DTYPES),
        "m1 left out": (refloss.CombinedMargin(m1=1.35), refloss.CombinedMargin(), DTYPES),
        "m2 left out": (refloss.CombinedMargin(), refloss.CombinedMargin(m2=0.0), DTYPES),
        "m3 left out": (refloss.CombinedMargin(), refloss.CombinedMargin(m3=0.0), DTYPES),
        "m2 and m3 exchanged": (refloss.CombinedMargin(), refloss.CombinedMargin(m2=0.2, m3=0.3), DTYPES),
        "m2 times m1": (
            refloss.CombinedMargin(m1=0.9, m2=0.4, m3=0.15),
            refloss.CombinedMargin(m1=0.9, m2=0.36, m3=0.15),
            SINGLES,
        ),
        "m cut down to a whole number": (refloss.ASoftmax(m=1.5, s=16.0), refloss.ASoftmax(m=1.0, s=16.0), DTYPES),
        "annealing left out": (refloss.ASoftmax(annealing=5.0), SPHERE, DTYPES),
        "annealing of 1 / 5": (refloss.ASoftmax(annealing=5.0), refloss.ASoftmax(annealing=0.2), DTYPES),
        "detached margin": (ARC, replace(ARC, gradient="detached"), DTYPES),
        "exact gradient for a detached margin": (replace(ARC, gradient="detached"), ARC, DTYPES),
        "detached, A-Softmax": (SPHERE, replace(SPHERE, gradient="detached"), DTYPES),
        "cos 4θ that rises again": (SPHERE, replace(SPHERE, boundary="none"), DTYPES),
        "cos 4θ that falls for ever": (replace(SPHERE, boundary="none"), SPHERE, DTYPES),
        "the label's class left out of smoothing": (
            replace(COS, label_smoothing=0.1),
            replace(COS, label_smoothing=0.09),
            SINGLES,
        ),
    }
    for name, (loss, other, dtypes) in changed.items():
        yield (
            name,
            "numpy",
            numpy_head(other, cosine if other.spec.margin.m1 == 1.0 and not other.spec.margin.m2 else "lengths"),
            loss,
            dtypes,
        )
    rules = ("none", "hard", "easy", "keep", "continuous", "monotone", "clamp", "min")
    for place, rule in enumerate(rules):
        other = replace(ARC, s=30.0, boundary=rules[place - 1])
        loss = replace(other, boundary=rule)
        yield f"rule {other.boundary!r} for {rule!r}", "numpy", numpy_head(other), loss, SINGLES
        if rule not in ("none", "hard"):
            yield f"no rule for {rule!r}", "torch", torch_head(replace(loss, boundary="none")), loss, SINGLES
    yield "rule 'hard' for 'none'", "numpy", numpy_head(replace(ARC, boundary="hard")), ARC, DTYPES
    yield (
        "margin everywhere for 'conditional'",
        "numpy",
        numpy_head(COS, cosine),
        replace(COS, boundary="conditional"),
        SINGLES,
    )
    yield (
        "'conditional' for a margin everywhere",
        "numpy",
        numpy_head(replace(COS, boundary="conditional"), cosine),
        COS,
        SINGLES,
    )

    for name, (loss, fn, dtypes) in torch_heads().items():
        yield name, "torch", fn, loss, dtypes

    def unit(rows: Array) -> Array:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    projections: dict[str, tuple[Any, Change]] = {
        "dw without its projection": (ARC, lambda i, v, dx, dw: (v, dx, dw + radial(i, dw, 1).astype(dw.dtype))),
        "dx without its projection": (COS, lambda i, v, dx, dw: (v, dx + radial(i, dx, 0).astype(dx.dtype), dw)),
        "dx not divided by the length": (
            COS,
            lambda i, v, dx, dw: (v, dx * np.linalg.norm(i[0], axis=1, keepdims=True), dw),
        ),
        "dw not divided by the length": (
            ARC,
            lambda i, v, dx, dw: (v, dx, dw * np.linalg.norm(i[1], axis=1, keepdims=True)),
        ),
        "dx divided by the squared length": (
            COS,
            lambda i, v, dx, dw: (v, dx / np.linalg.norm(i[0], axis=1, keepdims=True), dw),
        ),
        "dw of the unit rows of the batch alone": (
            COS,
            lambda i, v, dx, dw: (v, dx, np.where(np.isin(np.arange(len(dw)), i[2])[:, None], dw, 0 * dw)),
        ),
        "gradient without the length's part": (
            refloss.NormFace(s=None),
            lambda i, v, dx, dw: (v, dx - unit(i[0]) * (dx * unit(i[0])).sum(axis=1, keepdims=True), dw),
        ),
        "gradient without the scale": (COS, lambda i, v, dx, dw: (v, dx / dx.dtype.type(64), dw / dw.dtype.type(64))),
        "dw without the scale": (COS, lambda i, v, dx, dw: (v, dx, dw / dw.dtype.type(64))),
        "dw of the plain product": (
            SPHERE,
            lambda i, v, dx, dw: (v, dx, numpy_head(refloss.ModifiedSoftmax(), "cosine")(*i)[2]),
        ),
        "gradient of the loss without a margin": (
            ARC,
            lambda i, v, dx, dw: (v, *numpy_head(refloss.NormFace(), "cosine")(*i)[1:]),
        ),
    }
    for name, (loss, change) in projections.items():
        yield (
            name,
            "numpy",
            tampered(numpy_head(loss, cosine if loss in (COS, refloss.NormFace(s=None)) else "lengths"), change),
            loss,
            SINGLES,
        )


def probabilities(x: Array, w: Array, y: Array, b: Array) -> Array:
    """The mean probability of each class."""
    z = product(x, w, pairwise) + b
    return np.asarray(max_first(z, pairwise)[1].astype(np.float64).mean(axis=0).astype(b.dtype))


def every_row(x: Array, w: Array, y: Array, b: Array) -> Array:
    """db with the probabilities of ignored rows."""
    right = numpy_linear(LINEAR)(x, w, y, b)[3]
    z = product(x, w, pairwise) + b
    p = max_first(z, pairwise)[1].astype(np.float64) * (y < 0)[:, None]
    return np.asarray((right.astype(np.float64) + p.sum(axis=0) / max(int((y >= 0).sum()), 1)).astype(b.dtype))


def bias_off_the_target(x: Array, w: Array, y: Array, b: Array) -> Any:
    """A value whose z_y has no bias."""
    value, *gradients = numpy_linear(LINEAR)(x, w, y, b)
    kept = y >= 0
    lost = b[y[kept]].astype(np.float64).sum() / max(int(kept.sum()), 1)
    return (value + value.dtype.type(lost)).astype(value.dtype), *gradients


def radial(inputs: Any, g: Array, place: int) -> Array:
    """A part of a gradient along the rows it belongs to, as large as the gradient."""
    rows = inputs[place].astype(np.float64)
    size = np.linalg.norm(g.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(0.3 * size * rows / np.linalg.norm(rows, axis=1, keepdims=True))


def torch_heads() -> dict[str, tuple[Any, Callable[..., Any], tuple[str, ...]]]:
    """Margin heads in torch with one line changed: the loss, the code, the dtypes."""
    import torch

    f = torch.nn.functional

    def head(
        loss: Any,
        psi: Callable[..., Any],
        unit_x: Callable[[Any], Any] = f.normalize,
        unit_w: Callable[[Any], Any] = f.normalize,
        clamp: float | None = None,
        scaled: Callable[..., Any] = lambda z, s: s * z,
    ) -> Callable[..., Any]:
        """Cosines, psi(target's cosine) in the target's place, the scale, cross entropy."""

        def fn(x: Any, w: Any, y: Any) -> Any:
            cos = unit_x(x) @ unit_w(w).T
            cos = cos if clamp is None else cos.clamp(-1.0 + clamp, 1.0 - clamp)
            target = f.one_hot(y.clamp(min=0), len(w)).bool()
            z = torch.where(target, psi(cos), cos)
            scale = x.norm(dim=1, keepdim=True) if loss.spec.scale is None else loss.spec.scale
            z = scaled(z, scale)
            return f.cross_entropy(z, y, **torch_settings(loss, z))

        return fn

    def arccos(c: Any) -> Any:
        return torch.cos(torch.acos(c) + 0.5)

    def root(c: Any, inside: Callable[[Any], Any] = lambda a: a.clamp(0.0, 1.0)) -> Any:
        return c * math.cos(0.5) - inside(1.0 - c * c).sqrt() * math.sin(0.5)

    def lowered(c: Any) -> Any:
        return c - 0.35

    def detached_length(rows: Any) -> Any:
        return rows / rows.norm(dim=1, keepdim=True).detach()

    def longer(by: float) -> Callable[[Any], Any]:
        return lambda rows: rows / (rows.norm(dim=1, keepdim=True) + by)

    def under_root(by: float) -> Callable[[Any], Any]:
        return lambda rows: rows / (rows.square().sum(dim=1, keepdim=True) + by).sqrt()

    def rsqrt(rows: Any) -> Any:
        return rows * rows.square().sum(dim=1, keepdim=True).bfloat16().to(rows.dtype).rsqrt()

    def everywhere(x: Any, w: Any, y: Any) -> Any:
        return f.cross_entropy(64.0 * (f.normalize(x) @ f.normalize(w).T - 0.35), y)

    def others_too(x: Any, w: Any, y: Any) -> Any:
        cos = f.normalize(x) @ f.normalize(w).T
        mine = 2.0 * one_hot(cos, y) - 1.0
        return f.cross_entropy(64.0 * (cos - 0.35 * mine), y)

    def margin_of_ignored(x: Any, w: Any, y: Any) -> Any:
        cos = f.normalize(x) @ f.normalize(w).T
        return f.cross_entropy(64.0 * (cos - 0.35 * one_hot(cos, y)), y.clamp(min=0))

    def all_angles(x: Any, w: Any, y: Any) -> Any:
        cos = (f.normalize(x) @ f.normalize(w).T).clamp(-1.0 + 1e-7, 1.0 - 1e-7)
        theta = torch.acos(cos) + 0.5 * one_hot(cos, y)
        return f.cross_entropy(64.0 * torch.cos(theta), y)

    def angle_itself(x: Any, w: Any, y: Any) -> Any:
        cos = (f.normalize(x) @ f.normalize(w).T).clamp(-1.0 + 1e-7, 1.0 - 1e-7)
        return f.cross_entropy(64.0 * (torch.acos(cos) + 0.5 * one_hot(cos, y)), y)

    def random_margin(x: Any, w: Any, y: Any) -> Any:
        cos = f.normalize(x) @ f.normalize(w).T
        margins = 0.35 + 0.05 * torch.randn(len(x), 1, dtype=x.dtype)
        return f.cross_entropy(64.0 * (cos - margins * one_hot(cos, y)), y)

    def projected(x: Any, w: Any, y: Any) -> Any:
        unit = w / w.norm(dim=1, keepdim=True)
        return f.cross_entropy(
            64.0 * (f.normalize(x) @ (w + (unit - w).detach()).T - 0.35 * f.one_hot(y.clamp(min=0), len(w))), y
        )

    def no_gradient_for_w(x: Any, w: Any, y: Any) -> Any:
        return torch_head(COS, "cosine")(x, w.detach(), y)

    def naive(c: Any) -> Any:
        return torch.cos(4.0 * torch.acos(c.clamp(-1.0, 1.0)))

    def flipped(c: Any) -> Any:
        theta = torch.acos(c.detach().clamp(-1.0, 1.0))
        k = (4.0 * theta / math.pi).floor()
        return (1.0 - 2.0 * (k % 2.0)) * (8.0 * c**4 - 8.0 * c**2 + 1.0) + 2.0 * k

    def unsigned(c: Any) -> Any:
        k = (4.0 * torch.acos(c.detach().clamp(-1.0, 1.0)) / math.pi).floor()
        return (8.0 * c**4 - 8.0 * c**2 + 1.0) - 2.0 * k

    def eased(c: Any) -> Any:
        k = (4.0 * torch.acos(c.detach().clamp(-1.0, 1.0)) / math.pi).floor()
        return 5.0 * c + (1.0 - 2.0 * (k % 2.0)) * (8.0 * c**4 - 8.0 * c**2 + 1.0) - 2.0 * k

    hard = replace(ARC, boundary="hard")
    easy = replace(ARC, boundary="easy")
    cos_border = math.cos(math.pi - 0.5)
    fall = 0.5 * math.sin(0.5)
    annealed = refloss.ASoftmax(s=16.0, annealing=5.0)
    heads = {
        "arccos": (ARC, head(ARC, arccos), SINGLES),
        "arccos between -1 and 1": (ARC, head(ARC, arccos, clamp=0.0), SINGLES),
        "sqrt(1 - c^2)": (ARC, head(ARC, root), SINGLES),
        "sqrt(1 - c^2 + 1e-6)": (ARC, head(ARC, lambda c: root(c, lambda a: a + 1e-6)), ("float64",)),
        "sqrt(1 - c^2) without a guard": (ARC, head(ARC, lambda c: root(c, lambda a: a)), SINGLES),
        "arccos, rule 'hard'": (hard, head(hard, lambda c: torch.where(c > cos_border, arccos(c), c - fall)), SINGLES),
        "arccos, the rule's side exchanged": (
            hard,
            head(hard, lambda c: torch.where(c > cos_border, c - fall, arccos(c))),
            SINGLES,
        ),
        "'hard' without its fall": (hard, head(hard, lambda c: torch.where(c > cos_border, root(c), c)), SINGLES),
        "'hard' past cos(m)": (hard, head(hard, lambda c: torch.where(c > math.cos(0.5), root(c), c - fall)), SINGLES),
        "'easy' past cos(π - m)": (easy, head(easy, lambda c: torch.where(c > cos_border, root(c), c)), SINGLES),
        "'easy', exchanged": (easy, head(easy, lambda c: torch.where(c > 0.0, c, root(c))), SINGLES),
        "cos θ cos m + sin θ sin m": (
            ARC,
            head(ARC, lambda c: c * math.cos(0.5) + (1.0 - c * c).clamp(min=1e-7).sqrt() * math.sin(0.5)),
            DTYPES,
        ),
        "cos(θ) cos(m)": (ARC, head(ARC, lambda c: c * math.cos(0.5)), DTYPES),
        "cos(m θ)": (ARC, head(ARC, lambda c: torch.cos(1.5 * torch.acos(c.clamp(-1 + 1e-7, 1 - 1e-7)))), SINGLES),
        "margin added to the angle after the scale": (
            ARC,
            head(ARC, lambda c: c, scaled=lambda z, s: s * z - 0.5),
            SINGLES,
        ),
        "s (θ + m)": (ARC, angle_itself, DTYPES),
        "every cosine through arccos": (ARC, all_angles, SINGLES),
        "the margin added": (COS, head(COS, lambda c: c + 0.35), DTYPES),
        "the margin off every class": (COS, everywhere, DTYPES),
        "the margin on both sides": (COS, others_too, DTYPES),
        "margin taken off after the scale": (COS, head(COS, lambda c: c - 0.35 / 64.0), DTYPES),
        "the cosine times 1 - m": (COS, head(COS, lambda c: c * 0.65), DTYPES),
        "ignored labels have the margin of class 0": (COS, margin_of_ignored, DTYPES),
        "a random margin": (COS, random_margin, DTYPES),
        "scale after cross entropy": (
            COS,
            lambda x, w, y: 64.0 * head(refloss.CosFace(s=1.0), lowered)(x, w, y),
            DTYPES,
        ),
        "divided by the scale": (COS, lambda x, w, y: head(COS, lowered)(x, w, y) / 64.0, DTYPES),
        "w normalised where it is longer than 1": (
            COS,
            head(COS, lowered, unit_w=lambda w: w / w.norm(dim=1, keepdim=True).clamp(min=1.0)),
            DTYPES,
        ),
        "length of the embedding between 0.5 and 4": (
            refloss.NormFace(s=None),
            head(refloss.NormFace(s=None), lambda c: c, scaled=lambda z, s: s.clamp(0.5, 4.0) * z),
            DTYPES,
        ),
        "x is not normalised": (COS, head(COS, lowered, unit_x=lambda x: x), DTYPES),
        "w is not normalised": (COS, head(COS, lowered, unit_w=lambda w: w), DTYPES),
        "neither is normalised": (COS, head(COS, lowered, lambda x: x, lambda w: w), DTYPES),
        "w normalised over the classes": (COS, head(COS, lowered, unit_w=lambda w: f.normalize(w, dim=0)), DTYPES),
        "x normalised over the samples": (
            NORM,
            head(NORM, lambda c: c, unit_x=lambda x: f.normalize(x, dim=0)),
            DTYPES,
        ),
        "x and w over one length": (COS, head(COS, lowered, unit_x=lambda x: x / x.norm()), DTYPES),
        "sum of sizes for the length": (
            COS,
            head(COS, lowered, unit_w=lambda w: w / w.abs().sum(dim=1, keepdim=True)),
            DTYPES,
        ),
        "lengths without gradient": (COS, head(COS, lowered, detached_length, detached_length), DTYPES),
        "length of x without gradient": (COS, head(COS, lowered, unit_x=detached_length), DTYPES),
        "length of w without gradient": (NORM, head(NORM, lambda c: c, unit_w=detached_length), DTYPES),
        "w projected, gradient straight through": (COS, projected, DTYPES),
        "no gradient for w": (COS, no_gradient_for_w, DTYPES),
        "1e-3 added to lengths": (COS, head(COS, lowered, longer(1e-3), longer(1e-3)), SINGLES),
        "1e-5 added to lengths": (COS, head(COS, lowered, longer(1e-5)), SINGLES),
        "1e-8 added to lengths": (COS, head(COS, lowered, longer(1e-8)), ("float64",)),
        "1e-4 under the root": (NORM, head(NORM, lambda c: c, under_root(1e-4)), SINGLES),
        "reciprocal root of a bfloat16": (NORM, head(NORM, lambda c: c, rsqrt), SINGLES),
        "cosines between -1 + 1e-3 and 1 - 1e-3": (COS, head(COS, lowered, clamp=1e-3), SINGLES),
        "cosines between -1 + 1e-5 and 1 - 1e-5": (COS, head(COS, lowered, clamp=1e-5), SINGLES),
        "cosines between -1 + 1e-7 and 1 - 1e-7": (COS, head(COS, lowered, clamp=1e-7), ("float64",)),
        "cosines between 0 and 1": (NORM, head(NORM, lambda c: c, scaled=lambda z, s: s * z.clamp(min=0.0)), DTYPES),
        "cosines of 1e-2 steps": (
            NORM,
            head(NORM, lambda c: c, scaled=lambda z, s: s * (z + ((100.0 * z).round() / 100.0 - z).detach())),
            SINGLES,
        ),
        "arccos clamped at 1 - 1e-7": (ARC, head(ARC, arccos, clamp=1e-7), SINGLES),
        "cos 4θ by arccos, no folds": (SPHERE, head(SPHERE, naive), SINGLES),
        "folds that rise": (SPHERE, head(SPHERE, flipped), DTYPES),
        "folds without their sign": (SPHERE, head(SPHERE, unsigned), DTYPES),
        "annealing not divided by 1 + λ": (annealed, head(annealed, eased), DTYPES),
        "the embedding's length without gradient": (
            refloss.NormFace(s=None),
            head(refloss.NormFace(s=None), lambda c: c, scaled=lambda z, s: s.detach() * z),
            DTYPES,
        ),
        "the batch's mean length": (
            refloss.NormFace(s=None),
            head(refloss.NormFace(s=None), lambda c: c, scaled=lambda z, s: s.mean() * z),
            DTYPES,
        ),
    }
    return heads
