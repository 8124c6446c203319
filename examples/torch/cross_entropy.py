"""Cross entropy in PyTorch, differentiated by autograd.

Logits z (N, C), labels y (N,); options as in torch.nn.functional.cross_entropy.
"""

import torch
import torch.nn.functional as F


def cross_entropy(z, y, class_weight=None, label_smoothing=0.0, ignore_index=-100):
    """Return the mean loss."""
    kept = y != ignore_index
    label = y.where(kept, 0)
    v = z.new_ones(z.shape[1]) if class_weight is None else z.new_tensor(class_weight)
    t = (1.0 - label_smoothing) * F.one_hot(label, z.shape[1]).to(z.dtype)
    t = v * (t + label_smoothing / z.shape[1])  # targets
    # log p of a masked class is -inf
    log_p = F.log_softmax(z, dim=1).masked_fill(t == 0, 0.0)
    weight = v[label[kept]].sum()
    weight = weight.where(weight != 0, torch.nan)  # the mean of nothing is NaN
    return -(t * log_p).sum(dim=1)[kept].sum() / weight
