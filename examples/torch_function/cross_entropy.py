"""Cross entropy in PyTorch, with a backward of its own.

Logits z (N, C), labels y (N,); options as in torch.nn.functional.cross_entropy.
"""

import torch
import torch.nn.functional as F


class CrossEntropy(torch.autograd.Function):
    """The mean loss, and its gradients."""

    @staticmethod
    def forward(ctx, z, y, class_weight, label_smoothing, ignore_index):
        kept = y != ignore_index
        label = y.where(kept, 0)
        v = z.new_ones(z.shape[1]) if class_weight is None else z.new_tensor(class_weight)
        t = (1.0 - label_smoothing) * F.one_hot(label, z.shape[1]).to(z.dtype)
        t = v * (t + label_smoothing / z.shape[1])  # targets
        log_p, total = F.log_softmax(z, dim=1), v[label[kept]].sum()
        total = total.where(total != 0, torch.nan)  # the mean of nothing is NaN
        ctx.save_for_backward(log_p, t, kept, total)
        # log p of a masked class is -inf
        rows = -(t * log_p.masked_fill(t == 0, 0.0)).sum(dim=1)
        return rows[kept].sum() / total

    @staticmethod
    def backward(ctx, upstream):
        log_p, t, kept, total = ctx.saved_tensors
        dz = upstream / total * (log_p.exp() * t.sum(dim=1, keepdim=True) - t)
        return dz.where(kept[:, None], 0.0), None, None, None, None


def cross_entropy(z, y, class_weight=None, label_smoothing=0.0, ignore_index=-100):
    """Return the mean loss."""
    return CrossEntropy.apply(z, y, class_weight, label_smoothing, ignore_index)
