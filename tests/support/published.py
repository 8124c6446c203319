"""Losses of the papers as their code goes about them: all entries at once, margins by addition formulas, no pairs.

Each takes a loss for its settings, torch tensors x, w and y, and returns the mean. They differ from `textbook` in the
way, not in what comes out at ordinary inputs.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any


def cosines(torch: ModuleType, x: Any, w: Any) -> Any:
    normalize = torch.nn.functional.normalize
    return normalize(x) @ normalize(w).T


def on_target(torch: ModuleType, y: Any, values: Any, classes: int) -> Any:
    """A row of zeros per sample, with its value in the label's column."""
    return torch.zeros(len(y), classes, dtype=values.dtype).scatter(1, y[:, None], values.reshape(-1, 1))


def adaface(torch: ModuleType, loss: Any, x: Any, w: Any, y: Any) -> Any:
    """Kim et al. 2022: every angle is clipped, and every cosine is kept within 1 - eps."""
    length = torch.norm(x, 2, 1).clip(1e-3, 100.0).detach()
    v = ((length - loss.mean) / (loss.std + loss.eps) * loss.h).clip(-1.0, 1.0)
    theta = cosines(torch, x, w).clamp(-1.0 + loss.eps, 1.0 - loss.eps).acos()
    theta = (theta + on_target(torch, y, -loss.m * v, len(w))).clip(loss.eps, math.pi - loss.eps)
    z = loss.s * (theta.cos() - on_target(torch, y, loss.m + loss.m * v, len(w)))
    return torch.nn.functional.cross_entropy(z, y)


def magface(torch: ModuleType, loss: Any, x: Any, w: Any, y: Any) -> Any:
    """Meng et al. 2021: a margin for every entry, of which the target's is used."""
    a = torch.norm(x, dim=1, keepdim=True).clamp(loss.l_a, loss.u_a)
    m = (loss.u_m - loss.l_m) / (loss.u_a - loss.l_a) * (a - loss.l_a) + loss.l_m
    cos = cosines(torch, x, w)
    with_margin = cos * m.cos() - (1.0 - cos**2).sqrt() * m.sin()
    if loss.boundary == "easy":
        with_margin = torch.where(cos > 0.0, with_margin, cos)
    else:
        with_margin = torch.where(cos > (math.pi - m).cos(), with_margin, cos - (math.pi - m).sin() * m)
    target = on_target(torch, y, torch.ones(len(y), dtype=x.dtype), len(w))
    z = loss.s * (target * with_margin + (1.0 - target) * cos)
    regularizer = (a / loss.u_a**2 + 1.0 / a).mean()
    return torch.nn.functional.cross_entropy(z, y) + loss.regularizer * regularizer


def sub_center_arcface(torch: ModuleType, loss: Any, x: Any, w: Any, y: Any) -> Any:
    """Deng et al. 2020: the largest cosine of the centers of a class, and from there on ArcFace by addition."""
    cos = cosines(torch, x, w.reshape(-1, w.shape[2])).view(len(x), len(w), -1)
    cos, _ = torch.max(cos, dim=2)
    with_margin = cos * math.cos(loss.m) - (1.0 - cos**2).sqrt() * math.sin(loss.m)
    target = on_target(torch, y, torch.ones(len(y), dtype=x.dtype), len(w))
    return torch.nn.functional.cross_entropy(loss.s * (target * with_margin + (1.0 - target) * cos), y)


def curricularface(torch: ModuleType, loss: Any, x: Any, w: Any, y: Any) -> Any:
    """Huang et al. 2020: hard classes by comparing with the target's cosine before its rule."""
    cos, m = cosines(torch, x, w), loss.m
    target = cos[torch.arange(len(y)), y][:, None]
    with_margin = target * math.cos(m) - (1.0 - target**2).sqrt() * math.sin(m)
    hard = cos > with_margin
    kept = torch.where(target > math.cos(math.pi - m), with_margin, target - math.sin(math.pi - m) * m)
    cos = torch.where(hard, cos * (loss.t + cos), cos)
    return torch.nn.functional.cross_entropy(loss.s * cos.scatter(1, y[:, None], kept), y)


def mv_softmax(torch: ModuleType, loss: Any, x: Any, w: Any, y: Any) -> Any:
    """Wang et al. 2020."""
    cos, m = cosines(torch, x, w), loss.m
    target = cos[torch.arange(len(y)), y][:, None]
    turned = target * math.cos(m) - (1.0 - target**2).sqrt() * math.sin(m)
    with_margin = target - m if loss.margin == "am" else turned
    kept = torch.where(target > 0.0, with_margin, target) if loss.boundary == "easy" else with_margin
    cos = torch.where(cos > with_margin, (loss.t + 1.0) * cos + loss.t, cos)
    return torch.nn.functional.cross_entropy(loss.s * cos.scatter(1, y[:, None], kept), y)


def elastic(torch: ModuleType, loss: Any, x: Any, w: Any, y: Any, m: Any) -> Any:
    """Boutros et al. 2022: a margin drawn for every sample, on the angle or on the cosine."""
    cos, margins = cosines(torch, x, w), on_target(torch, y, m, len(w))
    cos = cos - margins if type(loss).__name__ == "CosFace" else (cos.acos() + margins).cos()
    return torch.nn.functional.cross_entropy(loss.s * cos, y)


def sphereface_r(torch: ModuleType, loss: Any, x: Any, w: Any, y: Any) -> Any:
    """Liu et al. 2022: every angle, the target's times m; all that is not the cosine is without a gradient."""
    cos = cosines(torch, x, w)
    with torch.no_grad():
        theta = torch.acos(cos) * (1.0 + on_target(torch, y, torch.full_like(x[:, 0], loss.m - 1.0), len(w)))
        turned = torch.cos(theta.clamp(0.0, math.pi) if loss.version == 1 else theta / loss.m)
        apart = turned - cos
    return torch.nn.functional.cross_entropy(loss.s * (cos + apart), y)


def circle(torch: ModuleType, loss: Any, x: Any, w: Any, y: Any) -> Any:
    """Sun et al. 2020, with class weights: the weights of all entries are constants."""
    cos, m = cosines(torch, x, w), loss.m
    with torch.no_grad():
        of_target, of_others = torch.relu(1.0 + m - cos), torch.relu(cos + m)
    target = torch.nn.functional.one_hot(y, len(w)).bool()
    z = torch.where(target, of_target * (cos - (1.0 - m)), of_others * (cos - m))
    return torch.nn.functional.cross_entropy(loss.s * z, y)


def inter_top_k(torch: ModuleType, loss: Any, x: Any, w: Any, y: Any) -> Any:
    """Zhao et al. 2021, of one center per class: both margins by addition, and products with ones and zeros."""
    cos, m = cosines(torch, x, w), loss.m
    sine = (1.0 - cos**2).sqrt()
    with_margin = cos * math.cos(m) - sine * math.sin(m)
    nearer = cos * math.cos(loss.penalty) + sine * math.sin(loss.penalty)
    with_margin = torch.where(cos > math.cos(math.pi - m), with_margin, cos - (1.0 + math.cos(math.pi - m)))
    target = on_target(torch, y, torch.ones_like(x[:, 0]), len(w))
    _, top = torch.topk(cos - 2.0 * target, loss.k, dim=1)
    nearest = torch.zeros_like(cos).scatter(1, top, 1.0)
    z = target * with_margin + nearest * nearer + (1.0 - target - nearest) * cos
    return torch.nn.functional.cross_entropy(loss.s * z, y)


def sphereface2(torch: ModuleType, loss: Any, x: Any, w: Any, y: Any, b: Any) -> Any:
    """Wen et al. 2022: what g adds to the cosine is without a gradient; torch's mean over N·C, times C."""
    cos, target = cosines(torch, x, w), torch.nn.functional.one_hot(y, len(w)).bool()
    with torch.no_grad():
        g = 2.0 * ((cos + 1.0) / 2.0).pow(loss.t) - 1.0
        apart = torch.where(target, g - loss.m, g + loss.m) - cos
    z = loss.s * (cos + apart) + b
    one_hot = target.to(z.dtype)
    weight = loss.alpha * one_hot + (1.0 - loss.alpha) * (1.0 - one_hot)
    mean = torch.nn.functional.binary_cross_entropy_with_logits(z, one_hot, weight=weight)
    return loss.weight / loss.s * len(w) * mean


def uniface(torch: ModuleType, loss: Any, x: Any, w: Any, y: Any, b: Any) -> Any:
    """Zhou et al. 2023, the unified cross-entropy loss: log(1 + e^z) of logits that are clipped to ±s."""
    cos, target = cosines(torch, x, w), torch.nn.functional.one_hot(y, len(w)).bool()
    own, other = (torch.clamp(loss.s * (cos - m) - b, -loss.s, loss.s) for m in (loss.m, 0.0))
    of_own, of_other = torch.log(1.0 + torch.exp(-own)), torch.log(1.0 + torch.exp(other)) * loss.l
    return torch.where(target, of_own, of_other).sum(dim=1).mean()


def siglip(torch: ModuleType, loss: Any, x: Any, w: Any, t: Any, b: Any) -> Any:
    """Zhai et al. 2023: log σ of logits with the sign of each answer."""
    z = cosines(torch, x, w) * t + b
    signs = 2.0 * torch.eye(len(x), dtype=z.dtype) - 1.0
    return -torch.nn.functional.logsigmoid(signs * z).sum(dim=-1).mean()


def clip(torch: ModuleType, loss: Any, x: Any, w: Any, s: Any) -> Any:
    """Radford et al. 2021, as open_clip has it: two cross entropies with the same labels, halved."""
    own = torch.arange(len(x))
    z, turned = s * torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(w).T, s * cosines(torch, w, x)
    return (torch.nn.functional.cross_entropy(z, own) + torch.nn.functional.cross_entropy(turned, own)) / 2.0
