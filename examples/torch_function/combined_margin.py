"""The combined margin in PyTorch, with a backward of its own.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import math

import torch
import torch.nn.functional as F


class CombinedMargin(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, x, w, y, s, m1, m2, m3):
        x_norm, w_norm = x.norm(dim=1, keepdim=True), w.norm(dim=1, keepdim=True)
        x_unit, w_unit = x / x_norm, w / w_norm
        cos = x_unit @ w_unit.T
        c = cos.gather(1, y[:, None])
        # sin θ: sqrt(1 - c * c) has no digits at small angles
        sin = (w_unit[y] - c * x_unit).norm(dim=1, keepdim=True)
        phi = m1 * sin.atan2(c) + m2
        psi = phi.cos() - m3
        ratio = m1 * phi.sin() / torch.where(sin > 0, sin, math.inf)
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
        return dx, dw, None, None, None, None, None


def combined_margin(x, w, y, s=64.0, m1=1.0, m2=0.3, m3=0.2):
    """Return the mean loss."""
    return CombinedMargin.apply(x, w, y, s, m1, m2, m3)
