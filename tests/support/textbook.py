"""The losses as papers and public code write them, of real or complex numbers, and inputs at which they are smooth."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

import refloss
from support import exact, strategies

SETTINGS = {"label_smoothing": 0.1, "class_weight": (1.0, 0.5, 2.0)}


def inputs(loss, seed=0, samples=4, classes=3, dims=3):
    """Embeddings from near their class to opposite it, none within 0.02 of a kink, 0 or pi."""
    again, smooth = 0, False
    while not smooth:
        random = np.random.default_rng([seed, again])
        again += 1
        x, w = random.standard_normal((samples, dims)), random.standard_normal((classes, dims))
        y = random.integers(0, classes, samples)
        x += np.linspace(-2.0, 2.0, samples)[:, None] * w[y]
        own = w[y]
        if isinstance(loss, refloss.SubCenterArcFace):
            w = np.concatenate([w[:, None], random.standard_normal((classes, loss.centers - 1, dims))], axis=1)
            own = w[y, of_centers(x, w).argmax(axis=2)[np.arange(samples), y]]
        theta = exact.angle(x, own).astype(float)
        smooth = all(abs(theta - at).min() > 0.02 for at in (0.0, math.pi, *strategies.kinks(loss)))
        smooth = smooth and is_smooth(loss, x, w, y, theta)
    return x, w, y


def is_smooth(loss, x, w, y, theta):
    """Whether nothing is within 0.02 of an edge: a class of its threshold, a length, an angle by length, a center."""
    lengths = np.linalg.norm(x, axis=1)
    if isinstance(loss, (refloss.AdaFace, refloss.MagFace)):
        v, m2, _ = by_length(loss, lengths)
        edges = (loss.eps, math.pi - loss.eps) if isinstance(loss, refloss.AdaFace) else (math.pi,)
        beside = [by_length(loss, lengths + side)[0] - v for side in (-0.02, 0.02)]
        return np.allclose(beside[0], -beside[1], atol=1e-12) and all(abs(theta + m2 - at).min() > 0.02 for at in edges)
    if isinstance(loss, (refloss.CurricularFace, refloss.MVSoftmax)):
        cos = (x @ w.T) / (lengths[:, None] * np.linalg.norm(w, axis=1))
        near = np.abs(cos - threshold(loss, theta)[:, None]) < 0.02
        near[np.arange(len(y)), y] = False
        return not near.any()
    if isinstance(loss, (refloss.CircleLoss, refloss.InterTopK, refloss.SphereFaceR)):
        cos = (x @ w.T) / (lengths[:, None] * np.linalg.norm(w, axis=1))
        cos = cos[np.arange(len(w)) != y[:, None]].reshape(len(y), -1)
        edge = -loss.m if isinstance(loss, refloss.CircleLoss) else 2.0
        apart = -np.diff(np.sort(-cos, axis=1), axis=1)  # between a class and the next nearest
        return bool((np.abs(cos - edge) > 0.02).all() and (np.abs(cos) < 0.9998).all() and (np.abs(apart) > 0.02).all())
    if isinstance(loss, refloss.SubCenterArcFace):
        ranked = np.sort(of_centers(x, w), axis=2)
        return bool((ranked[..., 1:] - ranked[..., :-1] > 0.02)[..., -1:].all())
    return True


def of_centers(x, w):
    """The cosines of all centers (N, C, K)."""
    rows = w.reshape(-1, w.shape[-1])
    x_norm, w_norm = (np.sqrt((v * v).sum(axis=1, keepdims=True)) for v in (x, rows))
    return ((x @ rows.T) / (x_norm * w_norm.T)).reshape(len(x), *w.shape[:2])


def by_length(loss, length):
    """The number v of a sample, and its margins m2 and m3; for complex lengths at which nothing changes over."""
    _, m2, m3 = strategies.margins_of(loss)
    if isinstance(loss, refloss.AdaFace):
        v = loss.h * (np.clip(length.real, 1e-3, 100.0) - loss.mean) / (loss.std + loss.eps)
        v = np.clip(v, -1.0, 1.0)
        return v, -loss.m * v, loss.m + loss.m * v
    if isinstance(loss, refloss.MagFace):
        a = held(loss, length)
        v = (a - loss.l_a) / (loss.u_a - loss.l_a)
        return v, loss.l_m + (loss.u_m - loss.l_m) * v, 0.0
    return 0.0, m2, m3


def held(loss, length):
    """MagFace's length between its bounds."""
    return np.where(length.real < loss.l_a, loss.l_a, np.where(length.real > loss.u_a, loss.u_a, length))


def threshold(loss, theta):
    """What the cosine of a hard class is above."""
    _, m2, m3 = strategies.margins_of(loss)
    return np.cos(theta.real + m2) - m3


def psi(loss, theta, length=None, m=None):
    """psi as papers and public code write it, for complex angles at which nothing changes over."""
    m1, m2, m3 = strategies.margins_of(loss)
    if length is not None:
        _, m2, m3 = by_length(loss, length)
    if m is not None:
        m2, m3 = (m2, m) if isinstance(loss, refloss.CosFace) else (m, m3)
    phi, cos = m1 * theta + m2, np.cos(theta)
    margin = np.cos(phi) - m3
    exceeds_pi = phi.real > np.pi
    k = np.maximum(np.floor(phi.real / np.pi), 0.0)
    rule = getattr(loss, "boundary", "none")
    if isinstance(loss, refloss.MVSoftmax) and rule == "easy":
        rule = "acute"
    if isinstance(loss, refloss.AdaFace):
        rule, eps = "clip", loss.eps
        phi = np.where(phi.real < eps, eps, np.where(phi.real > math.pi - eps, math.pi - eps, phi))
    by_rule = {
        "none": margin,
        "hard": np.where(exceeds_pi, cos - m2 * np.sin(m2) - m3, margin),
        "easy": np.where(cos.real > 0, margin, cos - m3),
        "acute": np.where(cos.real > 0, margin, cos),
        "clip": np.cos(phi) - m3,
        "keep": np.where(exceeds_pi, cos - m3, margin),
        "continuous": np.where(exceeds_pi, cos - np.cos((np.pi - m2) / m1) - 1 - m3, margin),
        "monotone": (-1) ** k * np.cos(phi) - 2 * k - m3,
        "clamp": np.where(exceeds_pi, -1 - m3, margin),
        "min": np.where(margin.real > cos.real, cos, margin),
        "conditional": np.where(cos.real > m3, margin, cos),
    }
    if isinstance(loss, refloss.SphereFaceR) and loss.version == 1:
        rule = "clamp"
    if isinstance(loss, refloss.CircleLoss):
        return kept(loss, 1 + loss.m - cos) * (cos - 1 + loss.m)
    weight = getattr(loss, "annealing", 0.0)
    annealed = (weight * cos + by_rule[rule]) / (1 + weight)
    return cos + (annealed - cos).real if loss.gradient == "detached" else annealed


def kept(loss, weight):
    """A weight that counts as a constant if it is detached."""
    return weight.real if loss.gradient == "detached" else weight


def eta(loss, cos, theta, y):
    """What replaces the cosines of classes that are not the label's, for complex cosines."""
    if isinstance(loss, refloss.CircleLoss):
        return kept(loss, np.where(cos.real > -loss.m, cos + loss.m, 0)) * (cos - loss.m)
    if isinstance(loss, refloss.SphereFaceR) and loss.version == 2:
        divided = np.cos(np.arccos(cos) / loss.m)
        return cos + (divided - cos).real if loss.gradient == "detached" else divided
    if isinstance(loss, refloss.InterTopK):
        others = np.where(np.arange(cos.shape[1]) == y[:, None], -2.0, cos.real)
        rank = np.argsort(np.argsort(-others, axis=1), axis=1)
        return np.where(rank < min(loss.k, cos.shape[1] - 1), np.cos(np.arccos(cos) - loss.penalty), cos)
    if not isinstance(loss, (refloss.CurricularFace, refloss.MVSoftmax)):
        return cos
    hard = cos.real > threshold(loss, theta)[:, None]
    raised = cos * (loss.t + cos) if isinstance(loss, refloss.CurricularFace) else (1 + loss.t) * cos + loss.t
    return np.where(hard, raised, cos)


def torch_margins(torch: ModuleType, loss: Any, length: Any, m: Any = None) -> tuple[Any, Any]:
    """m2 and m3 of every sample, as public code writes them."""
    c = exact.curve(loss)
    if m is not None:
        return (c["m2"], m) if isinstance(loss, refloss.CosFace) else (m, c["m3"])
    if isinstance(loss, refloss.AdaFace):
        safe = torch.clip(length, 1e-3, 100.0).detach()
        v = torch.clip((safe - loss.mean) / (loss.std + loss.eps) * loss.h, -1.0, 1.0)
        return -loss.m * v, loss.m + loss.m * v
    if isinstance(loss, refloss.MagFace):
        a = torch.clamp(length, loss.l_a, loss.u_a)
        return (loss.u_m - loss.l_m) / (loss.u_a - loss.l_a) * (a - loss.l_a) + loss.l_m, 0.0
    return c["m2"], c["m3"]


def torch_psi(torch: ModuleType, theta: Any, loss: Any, length: Any = None, m: Any = None) -> Any:
    """psi of the target's angle, as public code writes it."""
    c = exact.curve(loss)
    m1, cos, (m2, m3) = c["m1"], torch.cos(theta), torch_margins(torch, loss, length, m)
    phi = m1 * theta + m2
    margin, exceeds_pi, k = torch.cos(phi) - m3, phi > math.pi, torch.floor(phi.detach() / math.pi).clamp(min=0.0)
    on_angle = torch.as_tensor(m2, dtype=theta.dtype)
    by_rule = {
        "none": lambda: margin,
        "hard": lambda: torch.where(exceeds_pi, cos - m2 * torch.sin(on_angle) - m3, margin),
        "easy": lambda: torch.where(cos > 0.0, margin, cos - m3),
        "acute": lambda: torch.where(cos > 0.0, margin, cos),
        "keep": lambda: torch.where(exceeds_pi, cos - m3, margin),
        "continuous": lambda: torch.where(exceeds_pi, cos - torch.cos((math.pi - on_angle) / m1) - 1.0 - m3, margin),
        "monotone": lambda: (-1.0) ** k * torch.cos(phi) - 2.0 * k - m3,
        "clamp": lambda: torch.where(exceeds_pi, -1.0 - m3, margin),
        "clip": lambda: torch.cos(torch.clip(phi, c["eps"], math.pi - c["eps"])) - m3,
        "min": lambda: torch.minimum(margin, cos),
        "conditional": lambda: torch.where(cos > m3, margin, cos),
    }
    if isinstance(loss, refloss.CircleLoss):
        return torch_kept(loss, 1.0 + loss.m - cos) * (cos - 1.0 + loss.m)
    annealed = (c["annealing"] * cos + by_rule[c["boundary"]]()) / (1.0 + c["annealing"])
    return cos + (annealed - cos).detach() if loss.gradient == "detached" else annealed


def torch_kept(loss: Any, weight: Any) -> Any:
    """A weight that counts as a constant if it is detached."""
    return weight.detach() if loss.gradient == "detached" else weight


def torch_eta(torch: ModuleType, loss: Any, cos: Any, theta: Any, target: Any) -> Any:
    """What replaces the cosines of other classes; which are hard, or nearest, is a constant."""
    if isinstance(loss, refloss.CircleLoss):
        return torch_kept(loss, torch.relu(cos + loss.m)) * (cos - loss.m)
    if isinstance(loss, refloss.SphereFaceR) and loss.version == 2:
        divided = torch.cos(torch.acos(cos) / loss.m)
        return cos + (divided - cos).detach() if loss.gradient == "detached" else divided
    if isinstance(loss, refloss.InterTopK):
        k = min(loss.k, cos.shape[1] - 1)
        chosen = torch.topk(cos.masked_fill(target, -2.0), k, dim=1).indices
        return cos.scatter(1, chosen, torch.cos(torch.acos(cos.gather(1, chosen)) - loss.penalty))
    if not isinstance(loss, (refloss.CurricularFace, refloss.MVSoftmax)):
        return cos
    _, m2, m3 = strategies.margins_of(loss)
    hard = cos > (torch.cos(theta + m2) - m3)[:, None]
    raised = cos * (loss.t + cos) if isinstance(loss, refloss.CurricularFace) else (1.0 + loss.t) * cos + loss.t
    return torch.where(hard, raised, cos)


def torch_logits(torch: ModuleType, loss: Any, x: Any, w: Any, y: Any, m: Any = None) -> tuple[Any, Any]:
    """Scaled cosines, psi in the target's place and eta in those of others; and what lengths add to each row's loss."""
    length = x.norm(dim=1, keepdim=True)
    unit = w / w.norm(dim=-1, keepdim=True)
    cos = torch.einsum("nd,...d->n...", x / length, unit) if w.ndim == 3 else (x / length) @ unit.T
    cos = cos.amax(dim=2) if w.ndim == 3 else cos
    target = torch.nn.functional.one_hot(y.clamp(min=0), len(w)).bool()
    theta = torch.acos(cos[target])
    psi = torch_psi(torch, theta, loss, length[:, 0], m)
    f = torch.where(target, psi[:, None], torch_eta(torch, loss, cos, theta, target))
    s = exact.curve(loss)["scale"]
    terms = torch.zeros_like(length[:, 0])
    if isinstance(loss, refloss.MagFace):
        a = torch.clamp(length[:, 0], loss.l_a, loss.u_a)
        terms = loss.regularizer * (a / loss.u_a**2 + 1.0 / a)
    return (length if s is None else s) * f, terms


def torch_head(torch: ModuleType, loss: Any, x: Any, w: Any, y: Any, m: Any = None) -> Any:
    """Cross entropy of these logits, and the mean of what lengths add; "mean" of all rows."""
    z, terms = torch_logits(torch, loss, x, w, y, m)
    return torch.nn.functional.cross_entropy(z, y) + terms.mean()


def cross_entropy(loss, z, y):
    c = z.shape[1]
    z = loss.logit_scale * z if hasattr(loss, "softcap") else z
    z = loss.softcap * np.tanh(z / loss.softcap) if getattr(loss, "softcap", None) else z
    t = (1 - loss.label_smoothing) * np.eye(c)[y] + loss.label_smoothing / c
    v = np.ones(c) if loss.class_weight is None else np.array(loss.class_weight)
    shifted = z - z.real.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    total = -(v * t * log_p).sum()
    squares = getattr(loss, "z_loss", 0.0) * ((z - log_p)[:, 0] ** 2).sum()
    return total / v[y].sum() + squares / len(z) if loss.reduction == "mean" else total + squares


def head(loss, x, w, y, more=None):
    """The loss of a head; more is the bias of classes, or margins of samples."""
    if isinstance(loss, refloss.SoftmaxLoss):
        return cross_entropy(loss, x @ w.T + (0.0 if more is None else more), y)
    x_norm = np.sqrt((x * x).sum(axis=1, keepdims=True))
    if w.ndim == 3:
        cos = of_centers(x, w)
        cos = np.take_along_axis(cos, cos.real.argmax(axis=2)[..., None], 2)[..., 0]
    else:
        cos = of_centers(x, w[:, None])[..., 0]
    own = np.eye(len(w), dtype=bool)[y]
    theta = np.arccos(cos[own])
    at_target = psi(loss, theta, x_norm[:, 0], more)
    s = getattr(loss, "s", None)
    f = np.where(own, at_target[:, None], eta(loss, cos, theta, y))
    value = cross_entropy(loss, (x_norm if s is None else s) * f, y)
    if isinstance(loss, refloss.MagFace):
        a = held(loss, x_norm[:, 0])
        terms = loss.regularizer * (a / loss.u_a**2 + 1 / a).sum()
        return value + (terms / len(y) if loss.reduction == "mean" else terms)
    return value


def link(loss, x, w, y, scale=None, b=0.0):
    """A loss on scaled cosines that does not end in one cross entropy; of pairs y are their own places."""
    x_norm, w_norm = (np.sqrt((v * v).sum(axis=1, keepdims=True)) for v in (x, w))
    cos, own = (x @ w.T) / (x_norm * w_norm.T), np.arange(len(w)) == y[:, None]
    mean = (lambda rows: rows.sum() / len(y)) if loss.reduction == "mean" else (lambda rows: rows.sum())
    if isinstance(loss, refloss.InfoNCE):
        z = scale * cos
        ways = [z - np.log(np.exp(z).sum(axis=axis, keepdims=True)) for axis in (1, 0)][: loss.ways]
        return mean(-sum(log_p[own] for log_p in ways) / loss.ways)
    weights = 1.0, 1.0
    if isinstance(loss, refloss.SphereFace2):
        g = 2 * ((1 + cos) / 2) ** loss.t - 1
        g = cos + (g - cos).real if loss.gradient == "detached" else g
        z = loss.s * (g + np.where(own, -loss.m, loss.m)) + b
        weights = loss.alpha * loss.weight / loss.s, (1.0 - loss.alpha) * loss.weight / loss.s
    elif isinstance(loss, refloss.UniFace):
        z = loss.s * (cos - np.where(own, loss.m, 0.0)) - b
        z = np.where(np.abs(z.real) > loss.s, np.sign(z.real) * loss.s, z)
        weights = 1.0, loss.l
    else:
        z = scale * cos + b
    return mean(np.where(own, weights[0] * np.log(1 + np.exp(-z)), weights[1] * np.log(1 + np.exp(z))).sum(axis=1))


def triplet(loss, a, p, n):
    near, far = ((a - p) ** 2).sum(axis=1), ((a - n) ** 2).sum(axis=1)
    if not loss.squared:
        near, far = np.sqrt(near), np.sqrt(far)
    hinge = near - far + loss.m
    return np.where(hinge.real > 0, hinge, 0).mean()


def divergence(loss, z, target):
    def log_softmax(z):
        shifted = z - z.real.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    log_q, log_p = log_softmax(z), log_softmax(target)
    q, p = np.exp(log_q), np.exp(log_p)
    by_form = {
        "forward": lambda: p * (log_p - log_q),
        "reverse": lambda: q * (log_q - log_p),
        "jensen-shannon": lambda: (p * (log_p - np.log((p + q) / 2)) + q * (log_q - np.log((p + q) / 2))) / 2,
    }
    rows = by_form[loss.form]().sum(axis=1)
    return rows.mean() if loss.reduction == "mean" else rows.sum()
