"""MV-Softmax in PyTorch, with a backward of its own.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import torch
import torch.nn.functional as F


class MVSoftmax(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, x, w, y, s, m, t):
        x_norm, w_norm = x.norm(dim=1, keepdim=True), w.norm(dim=1, keepdim=True)
        x_unit, w_unit = x / x_norm, w / w_norm
        cos = x_unit @ w_unit.T
        c = cos.gather(1, y[:, None])
        psi = torch.where(c > 0, c - m, c)
        hard = cos > c - m
        f = torch.where(hard, (1.0 + t) * cos + t, cos)  # the logits over s
        slope = torch.where(hard, 1.0 + t, torch.ones_like(cos))  # df/dcos
        f, slope = f.scatter(1, y[:, None], psi), slope.scatter(1, y[:, None], 1.0)
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


def mv_softmax(x, w, y, s=32.0, m=0.35, t=0.2):
    """Return the mean loss."""
    return MVSoftmax.apply(x, w, y, s, m, t)
