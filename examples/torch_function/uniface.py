"""UniFace in PyTorch, with a backward of its own.

Embeddings x (N, D), class weights w (C, D), labels y (N,), a bias b.
"""

import torch
import torch.nn.functional as F


class UniFace(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, x, w, y, b, s, m, l):
        x_norm, w_norm = x.norm(dim=1, keepdim=True), w.norm(dim=1, keepdim=True)
        x_unit, w_unit = x / x_norm, w / w_norm
        cos = x_unit @ w_unit.T
        target = F.one_hot(y, len(w)).to(x.dtype)
        sign, v = 1.0 - 2.0 * target, target + l * (1.0 - target)
        unclipped = s * (cos - m * target) - b
        z = unclipped.clamp(-s, s)
        v_inside = v * (z == unclipped)
        ctx.save_for_backward(x_unit, w_unit, x_norm, w_norm, cos, z, sign, v_inside)
        ctx.s = s
        # not F.softplus, which is z itself above 20
        return -(v * F.logsigmoid(-sign * z)).sum(dim=1).mean()

    @staticmethod
    def backward(ctx, upstream):
        x_unit, w_unit, x_norm, w_norm, cos, z, sign, v = ctx.saved_tensors
        g = upstream / len(z) * v * sign * (sign * z).sigmoid()  # dL/dz
        a = ctx.s * g  # dL/dcos
        dx = (a @ w_unit - (a * cos).sum(dim=1, keepdim=True) * x_unit) / x_norm
        dw = (a.T @ x_unit - (a * cos).sum(dim=0)[:, None] * w_unit) / w_norm
        db = -g.sum() if ctx.needs_input_grad[3] else None
        return dx, dw, None, db, None, None, None


def uniface(x, w, y, b=0.0, s=64.0, m=0.4, l=1.0):
    """Return the mean loss."""
    return UniFace.apply(x, w, y, b, s, m, l)
