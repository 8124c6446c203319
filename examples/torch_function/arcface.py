"""ArcFace in PyTorch, with a backward of its own.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import math

import torch
import torch.nn.functional as F


class ArcFace(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, x, w, y, s, m):
        x_norm, w_norm = x.norm(dim=1, keepdim=True), w.norm(dim=1, keepdim=True)
        x_unit, w_unit = x / x_norm, w / w_norm
        cos = x_unit @ w_unit.T
        c = cos.gather(1, y[:, None])
        # sin θ: sqrt(1 - c * c) has no digits at small angles
        sin = (w_unit[y] - c * x_unit).norm(dim=1, keepdim=True)
        psi = c * math.cos(m) - sin * math.sin(m)  # cos(θ + m)
        # sin(θ + m) / sin θ
        ratio = math.cos(m) + math.sin(m) * c / torch.where(sin > 0, sin, math.inf)
        f = cos.scatter(1, y[:, None], psi)  # the logits over s
        slope = torch.ones_like(cos).scatter(1, y[:, None], ratio)  # df/dcos
        z = s * f
        p = z.softmax(dim=1)
        ctx.save_for_backward(x_unit, w_unit, x_norm, w_norm, cos, slope, p, y)
        ctx.s = s
        return F.cross_entropy(z, y)

    @staticmethod
    def backward(ctx, upstream):
        x_unit, w_unit, x_norm, w_norm, cos, slope, p, y = ctx.saved_tensors
        g = upstream / len(y) * (p - F.one_hot(y, p.shape[1]))  # dL/dz
        a = ctx.s * g * slope  # dL/dcos
        dx = (a @ w_unit - (a * cos).sum(dim=1, keepdim=True) * x_unit) / x_norm
        dw = (a.T @ x_unit - (a * cos).sum(dim=0)[:, None] * w_unit) / w_norm
        return dx, dw, None, None, None


def arcface(x, w, y, s=64.0, m=0.5):
    """Return the mean loss."""
    return ArcFace.apply(x, w, y, s, m)
