"""The KL divergence of two rows of logits in PyTorch, with a backward of its own.

KL(p || q) of p = softmax(target) and q = softmax(z), both (N, C).
"""

import math

import torch
import torch.nn.functional as F


class KLDivergence(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, z, target):
        log_q, log_p = F.log_softmax(z, dim=1), F.log_softmax(target, dim=1)
        # a masked class does not count
        ratio = torch.where(log_p > -math.inf, log_p - log_q, 0.0)
        rows = (log_p.exp() * ratio).sum(dim=1)
        ctx.save_for_backward(log_q, log_p, ratio, rows)
        return rows.mean()

    @staticmethod
    def backward(ctx, upstream):
        log_q, log_p, ratio, rows = ctx.saved_tensors
        p, q, g = log_p.exp(), log_q.exp(), upstream / len(rows)
        return g * (q - p), g * p * (ratio - rows[:, None])


def kl_divergence(z, target):
    """Return the mean loss."""
    return KLDivergence.apply(z, target)
