"""A-Softmax (SphereFace) in PyTorch, with a backward of its own.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import math

import torch
import torch.nn.functional as F


class ASoftmax(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, x, w, y, m):
        x_norm, w_norm = x.norm(dim=1, keepdim=True), w.norm(dim=1, keepdim=True)
        x_unit, w_unit = x / x_norm, w / w_norm
        cos = x_unit @ w_unit.T
        c = cos.gather(1, y[:, None])
        # sin θ: sqrt(1 - c * c) has no digits at small angles
        sin = (w_unit[y] - c * x_unit).norm(dim=1, keepdim=True)
        phi = m * sin.atan2(c)
        k = (phi / math.pi).floor()
        sign = 1.0 - 2.0 * (k % 2.0)
        psi = sign * phi.cos() - 2.0 * k
        ratio = sign * m * phi.sin() / torch.where(sin > 0, sin, math.inf)
        f = cos.scatter(1, y[:, None], psi)  # the logits over ‖x‖
        slope = torch.ones_like(cos).scatter(1, y[:, None], ratio)  # df/dcos
        z = x_norm * f
        p = z.softmax(dim=1)
        ctx.save_for_backward(x_unit, w_unit, x_norm, w_norm, cos, f, slope, p, y)
        return F.cross_entropy(z, y)

    @staticmethod
    def backward(ctx, upstream):
        x_unit, w_unit, x_norm, w_norm, cos, f, slope, p, y = ctx.saved_tensors
        g = upstream / len(y) * (p - F.one_hot(y, p.shape[1]))  # dL/dz
        a = x_norm * g * slope  # dL/dcos
        dx = (a @ w_unit - (a * cos).sum(dim=1, keepdim=True) * x_unit) / x_norm
        dx += (g * f).sum(dim=1, keepdim=True) * x_unit  # the length is the scale
        dw = (a.T @ x_unit - (a * cos).sum(dim=0)[:, None] * w_unit) / w_norm
        return dx, dw, None, None


def a_softmax(x, w, y, m=4):
    """Return the mean loss."""
    return ASoftmax.apply(x, w, y, m)
