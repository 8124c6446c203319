"""Sub-center ArcFace in PyTorch, with a backward of its own.

Embeddings x (N, D), K centers for each class w (C, K, D), labels y (N,).
"""

import math

import torch
import torch.nn.functional as F


class SubCenterArcFace(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, x, w, y, s, m):
        x_norm, w_norm = x.norm(dim=1, keepdim=True), w.norm(dim=2, keepdim=True)
        x_unit, w_unit = x / x_norm, w / w_norm
        every = torch.einsum("nd,ckd->nck", x_unit, w_unit)
        cos, nearest = every.max(dim=2)
        c = cos.gather(1, y[:, None])
        center = w_unit[y, nearest.gather(1, y[:, None])[:, 0]]
        # sin θ: sqrt(1 - c * c) has no digits at small angles
        sin = (center - c * x_unit).norm(dim=1, keepdim=True)
        psi = c * math.cos(m) - sin * math.sin(m)  # cos(θ + m)
        # sin(θ + m) / sin θ
        ratio = math.cos(m) + math.sin(m) * c / torch.where(sin > 0, sin, math.inf)
        f = cos.scatter(1, y[:, None], psi)  # the logits over s
        slope = torch.ones_like(cos).scatter(1, y[:, None], ratio)  # df/dcos
        z = s * f
        p = z.softmax(dim=1)
        ctx.save_for_backward(x_unit, w_unit, x_norm, w_norm, every, nearest, slope, p, y)
        ctx.s = s
        return F.cross_entropy(z, y)

    @staticmethod
    def backward(ctx, upstream):
        x_unit, w_unit, x_norm, w_norm, every, nearest, slope, p, y = ctx.saved_tensors
        g = upstream / len(y) * (p - F.one_hot(y, p.shape[1]))  # dL/dz
        a = (ctx.s * g * slope)[:, :, None]
        a = torch.zeros_like(every).scatter(2, nearest[:, :, None], a)  # dL/dcos
        dx = torch.einsum("nck,ckd->nd", a, w_unit)
        dx -= (a * every).sum(dim=(1, 2))[:, None] * x_unit
        dw = torch.einsum("nck,nd->ckd", a, x_unit)
        dw -= (a * every).sum(dim=0)[:, :, None] * w_unit
        return dx / x_norm, dw / w_norm, None, None, None


def sub_center_arcface(x, w, y, s=64.0, m=0.5):
    """Return the mean loss."""
    return SubCenterArcFace.apply(x, w, y, s, m)
