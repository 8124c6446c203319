"""SphereFace2 in PyTorch, with a backward of its own.

Embeddings x (N, D), class weights w (C, D), labels y (N,), a bias b.
"""

import torch
import torch.nn.functional as F


class SphereFace2(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, x, w, y, b, s, m, t, alpha, weight):
        x_norm, w_norm = x.norm(dim=1, keepdim=True), w.norm(dim=1, keepdim=True)
        x_unit, w_unit = x / x_norm, w / w_norm
        cos = x_unit @ w_unit.T
        target = F.one_hot(y, len(w)).to(x.dtype)
        sign = 1.0 - 2.0 * target
        v = weight / s * (alpha * target + (1.0 - alpha) * (1.0 - target))
        z = s * (2.0 * ((1.0 + cos) / 2.0) ** t - 1.0 + sign * m) + b
        ctx.save_for_backward(x_unit, w_unit, x_norm, w_norm, cos, z, sign, v)
        ctx.s, ctx.t = s, t
        # not F.softplus, which is z itself above 20
        return -(v * F.logsigmoid(-sign * z)).sum(dim=1).mean()

    @staticmethod
    def backward(ctx, upstream):
        x_unit, w_unit, x_norm, w_norm, cos, z, sign, v = ctx.saved_tensors
        g = upstream / len(z) * v * sign * (sign * z).sigmoid()  # dL/dz
        a = ctx.s * g * ctx.t * ((1.0 + cos) / 2.0) ** (ctx.t - 1)  # dL/dcos
        dx = (a @ w_unit - (a * cos).sum(dim=1, keepdim=True) * x_unit) / x_norm
        dw = (a.T @ x_unit - (a * cos).sum(dim=0)[:, None] * w_unit) / w_norm
        db = g.sum() if ctx.needs_input_grad[3] else None
        return dx, dw, None, db, None, None, None, None, None


def sphereface2(x, w, y, b=0.0, s=40.0, m=0.4, t=3, alpha=0.7, weight=50.0):
    """Return the mean loss."""
    return SphereFace2.apply(x, w, y, b, s, m, t, alpha, weight)
