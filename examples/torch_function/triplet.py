"""The triplet loss in PyTorch, with a backward of its own.

Anchors, positives and negatives (N, D).
"""

import torch


class Triplet(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, anchor, positive, negative, m):
        near, far = anchor - positive, anchor - negative
        rows = near.square().sum(dim=1) - far.square().sum(dim=1) + m
        ctx.save_for_backward(near, far, rows)
        return rows.relu().mean()

    @staticmethod
    def backward(ctx, upstream):
        near, far, rows = ctx.saved_tensors
        g = 2.0 * upstream / len(rows) * (rows > 0)[:, None]
        return g * (near - far), -g * near, g * far, None


def triplet(anchor, positive, negative, m=0.2):
    """Return the mean loss."""
    return Triplet.apply(anchor, positive, negative, m)
