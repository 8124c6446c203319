"""Cross entropy in NumPy, with its gradient.

Logits z (N, C), labels y (N,); options as in torch.nn.functional.cross_entropy.
"""

import numpy as np


def cross_entropy(z, y, class_weight=None, label_smoothing=0.0, ignore_index=-100):
    """Return the mean loss and dL/dz."""
    classes = z.shape[1]
    kept = y != ignore_index
    v = np.asarray([1.0] * classes if class_weight is None else class_weight, z.dtype)
    label = np.where(kept, y, 0)
    t = (1.0 - label_smoothing) * np.eye(classes, dtype=z.dtype)[label[kept]]
    t = v * (t + label_smoothing / classes)  # targets
    weight = v[label[kept]].sum() or np.nan  # the mean of nothing is NaN

    log_p = z[kept] - z[kept].max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    some = t != 0  # log p of a masked class is -inf
    loss = -(t[some] * log_p[some]).sum() / weight

    dz = np.zeros_like(z)
    dz[kept] = (np.exp(log_p) * t.sum(axis=1, keepdims=True) - t) / weight
    return loss, dz
