"""SigLIP in PyTorch, with a backward of its own.

Pairs x and w (N, D), a scale t, a bias b.
"""

import torch
import torch.nn.functional as F


class SigLIP(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, x, w, t, b):
        x_norm, w_norm = x.norm(dim=1, keepdim=True), w.norm(dim=1, keepdim=True)
        x_unit, w_unit = x / x_norm, w / w_norm
        cos = x_unit @ w_unit.T
        sign = 1.0 - 2.0 * torch.eye(len(x)).to(x)  # -1 for the pairs, on the diagonal
        z = t * cos + b
        ctx.save_for_backward(x_unit, w_unit, x_norm, w_norm, cos, z, sign, t)
        return -F.logsigmoid(-sign * z).sum(dim=1).mean()

    @staticmethod
    def backward(ctx, upstream):
        x_unit, w_unit, x_norm, w_norm, cos, z, sign, t = ctx.saved_tensors
        g = upstream / len(z) * sign * (sign * z).sigmoid()  # dL/dz
        a = t * g  # dL/dcos
        dx = (a @ w_unit - (a * cos).sum(dim=1, keepdim=True) * x_unit) / x_norm
        dw = (a.T @ x_unit - (a * cos).sum(dim=0)[:, None] * w_unit) / w_norm
        return dx, dw, (g * cos).sum(), g.sum()


def siglip(x, w, t, b):
    """Return the mean loss."""
    return SigLIP.apply(x, w, t, b)
