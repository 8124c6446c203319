"""InfoNCE in both directions, the loss of CLIP, in PyTorch, with a backward of its own.

Pairs x and w (N, D), a scale s.
"""

import torch
import torch.nn.functional as F


class InfoNCE(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, x, w, s):
        x_norm, w_norm = x.norm(dim=1, keepdim=True), w.norm(dim=1, keepdim=True)
        x_unit, w_unit = x / x_norm, w / w_norm
        cos = x_unit @ w_unit.T
        z, y = s * cos, torch.arange(len(x), device=x.device)
        ctx.save_for_backward(x_unit, w_unit, x_norm, w_norm, cos, s)
        return (F.cross_entropy(z, y) + F.cross_entropy(z.T, y)) / 2.0

    @staticmethod
    def backward(ctx, upstream):
        x_unit, w_unit, x_norm, w_norm, cos, s = ctx.saved_tensors
        p = ((s * cos).softmax(dim=1) + (s * cos).softmax(dim=0)) / 2.0
        g = upstream / len(p) * (p - torch.eye(len(p)).to(p))  # dL/dz
        a = s * g  # dL/dcos
        dx = (a @ w_unit - (a * cos).sum(dim=1, keepdim=True) * x_unit) / x_norm
        dw = (a.T @ x_unit - (a * cos).sum(dim=0)[:, None] * w_unit) / w_norm
        return dx, dw, (g * cos).sum()


def infonce(x, w, s):
    """Return the mean loss."""
    return InfoNCE.apply(x, w, s)
