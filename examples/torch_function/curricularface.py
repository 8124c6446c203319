"""CurricularFace in PyTorch, with a backward of its own.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import math

import torch
import torch.nn.functional as F


class CurricularFace(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, x, w, y, s, m, t):
        x_norm, w_norm = x.norm(dim=1, keepdim=True), w.norm(dim=1, keepdim=True)
        x_unit, w_unit = x / x_norm, w / w_norm
        cos = x_unit @ w_unit.T
        c = cos.gather(1, y[:, None])
        # sin θ: sqrt(1 - c * c) has no digits at small angles
        sin = (w_unit[y] - c * x_unit).norm(dim=1, keepdim=True)
        tau = c * math.cos(m) - sin * math.sin(m)  # cos(θ + m)
        inside = c > -math.cos(m)  # beyond θ + m = π holds the rule "hard"
        psi = torch.where(inside, tau, c - m * math.sin(m))
        # sin(θ + m) / sin θ
        ratio = math.cos(m) + math.sin(m) * c / torch.where(sin > 0, sin, math.inf)
        ratio = torch.where(inside, ratio, 1.0)
        hard = cos > tau
        f = torch.where(hard, cos * (t + cos), cos)  # the logits over s
        slope = torch.where(hard, t + 2.0 * cos, 1.0)  # df/dcos
        f, slope = f.scatter(1, y[:, None], psi), slope.scatter(1, y[:, None], ratio)
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
        return dx, dw, None, None, None, None


def curricularface(x, w, y, s=64.0, m=0.5, t=0.0):
    """Return the mean loss."""
    return CurricularFace.apply(x, w, y, s, m, t)
