"""MagFace in PyTorch, with a backward of its own.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import math

import torch
import torch.nn.functional as F


class MagFace(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, x, w, y, s, l_a, u_a, l_m, u_m, regularizer):
        x_norm, w_norm = x.norm(dim=1, keepdim=True), w.norm(dim=1, keepdim=True)
        x_unit, w_unit = x / x_norm, w / w_norm
        cos = x_unit @ w_unit.T
        c = cos.gather(1, y[:, None])
        # sin θ: sqrt(1 - c * c) has no digits at small angles
        sin = (w_unit[y] - c * x_unit).norm(dim=1, keepdim=True)
        length = x_norm.clamp(l_a, u_a)
        m = l_m + (u_m - l_m) * (length - l_a) / (u_a - l_a)
        by_m = torch.where(c > 0, -sin * m.cos() - c * m.sin(), 0.0)  # dψ/dm
        psi = torch.where(c > 0, c * m.cos() - sin * m.sin(), c)  # cos(θ + m)
        # sin(θ + m) / sin θ
        ratio = m.cos() + m.sin() * c / torch.where(sin > 0, sin, math.inf)
        ratio = torch.where(c > 0, ratio, 1.0)
        f = cos.scatter(1, y[:, None], psi)  # the logits over s
        slope = torch.ones_like(cos).scatter(1, y[:, None], ratio)  # df/dcos
        z = s * f
        p = z.softmax(dim=1)
        by_g = s * by_m * (u_m - l_m) / (u_a - l_a)
        by_mean = regularizer * (1.0 / u_a**2 - 1.0 / length**2)
        by_length = torch.where(length == x_norm, torch.stack([by_g, by_mean]), 0.0)
        ctx.save_for_backward(x_unit, w_unit, x_norm, w_norm, cos, slope, p, y, by_length)
        ctx.s = s
        rows = regularizer * (length / u_a**2 + 1.0 / length)
        return F.cross_entropy(z, y) + rows.mean()

    @staticmethod
    def backward(ctx, upstream):
        x_unit, w_unit, x_norm, w_norm, cos, slope, p, y, by_length = ctx.saved_tensors
        g = upstream / len(y) * (p - F.one_hot(y, p.shape[1]))  # dL/dz
        a = ctx.s * g * slope  # dL/dcos
        dlength = by_length[0] * g.gather(1, y[:, None]) + by_length[1] * upstream / len(y)
        dx = (a @ w_unit - (a * cos).sum(dim=1, keepdim=True) * x_unit) / x_norm
        dx += dlength * x_unit
        dw = (a.T @ x_unit - (a * cos).sum(dim=0)[:, None] * w_unit) / w_norm
        return dx, dw, None, None, None, None, None, None, None


def magface(x, w, y, s=64.0, l_a=10.0, u_a=110.0, l_m=0.45, u_m=0.8, regularizer=35.0):
    """Return the mean loss."""
    return MagFace.apply(x, w, y, s, l_a, u_a, l_m, u_m, regularizer)
