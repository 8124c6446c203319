"""CosFace in PyTorch, with a backward of its own.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import torch
import torch.nn.functional as F


class CosFace(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, x, w, y, s, m):
        x_norm, w_norm = x.norm(dim=1, keepdim=True), w.norm(dim=1, keepdim=True)
        x_unit, w_unit = x / x_norm, w / w_norm
        cos = x_unit @ w_unit.T
        z = s * cos - s * m * F.one_hot(y, len(w)).to(x.dtype)
        p = z.softmax(dim=1)
        ctx.save_for_backward(x_unit, w_unit, x_norm, w_norm, cos, p, y)
        ctx.s = s
        return F.cross_entropy(z, y)

    @staticmethod
    def backward(ctx, upstream):
        x_unit, w_unit, x_norm, w_norm, cos, p, y = ctx.saved_tensors
        g = upstream / len(y) * (p - F.one_hot(y, p.shape[1]))  # dL/dz
        a = ctx.s * g  # dL/dcos
        dx = (a @ w_unit - (a * cos).sum(dim=1, keepdim=True) * x_unit) / x_norm
        dw = (a.T @ x_unit - (a * cos).sum(dim=0)[:, None] * w_unit) / w_norm
        return dx, dw, None, None, None


def cosface(x, w, y, s=64.0, m=0.35):
    """Return the mean loss."""
    return CosFace.apply(x, w, y, s, m)
