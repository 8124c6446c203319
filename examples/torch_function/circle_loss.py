"""Circle loss with class weights in PyTorch, with a backward of its own.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import torch
import torch.nn.functional as F


class CircleLoss(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, x, w, y, s, m):
        x_norm, w_norm = x.norm(dim=1, keepdim=True), w.norm(dim=1, keepdim=True)
        x_unit, w_unit = x / x_norm, w / w_norm
        cos = x_unit @ w_unit.T
        c = cos.gather(1, y[:, None])
        f = (cos + m).clamp(min=0.0) * (cos - m)  # the logits over s
        slope = torch.where(cos > -m, 2.0 * cos, 0.0)  # df/dcos
        f = f.scatter(1, y[:, None], m**2 - (1.0 - c) ** 2)
        slope = slope.scatter(1, y[:, None], 2.0 * (1.0 - c))
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
        return dx, dw, None, None, None


def circle_loss(x, w, y, s=256.0, m=0.25):
    """Return the mean loss."""
    return CircleLoss.apply(x, w, y, s, m)
