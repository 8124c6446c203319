"""Inter-top-k in PyTorch, with a backward of its own.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import math

import torch
import torch.nn.functional as F


class InterTopK(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, x, w, y, s, m, penalty, k):
        x_norm, w_norm = x.norm(dim=1, keepdim=True), w.norm(dim=1, keepdim=True)
        x_unit, w_unit = x / x_norm, w / w_norm
        cos = x_unit @ w_unit.T
        near = cos.scatter(1, y[:, None], -2.0).topk(min(k, len(w) - 1)).indices
        some = torch.cat([y[:, None], near], dim=1)  # the target and its rivals
        moved = torch.full_like(some, -penalty, dtype=x.dtype)  # added to their angles
        moved[:, 0] = m
        c = cos.gather(1, some)
        # sin θ: sqrt(1 - c * c) has no digits at small angles
        sin = (w_unit[some] - c[:, :, None] * x_unit[:, None]).norm(dim=2)
        psi = c * moved.cos() - sin * moved.sin()
        ratio = moved.cos() + moved.sin() * c / torch.where(sin > 0, sin, math.inf)
        beyond = c[:, 0] < -math.cos(m)  # θ + m > π, where the rule is "continuous"
        psi[beyond, 0], ratio[beyond, 0] = c[beyond, 0] + math.cos(m) - 1.0, 1.0
        f = cos.scatter(1, some, psi)  # the logits over s
        slope = torch.ones_like(cos).scatter(1, some, ratio)  # df/dcos
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


def inter_top_k(x, w, y, s=32.0, m=0.2, penalty=0.06, k=5):
    """Return the mean loss."""
    return InterTopK.apply(x, w, y, s, m, penalty, k)
