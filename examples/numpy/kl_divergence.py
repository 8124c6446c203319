"""The KL divergence of two rows of logits in NumPy, with its gradients.

KL(p || q) of p = softmax(target) and q = softmax(z), both (N, C).
"""

import numpy as np


def kl_divergence(z, target):
    """Return the mean loss, the gradients of z and target."""
    log_q = z - z.max(axis=1, keepdims=True)
    log_p = target - target.max(axis=1, keepdims=True)
    log_q -= np.log(np.exp(log_q).sum(axis=1, keepdims=True))
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    p, q = np.exp(log_p), np.exp(log_q)
    ratio = np.zeros_like(p)
    ratio[p > 0] = log_p[p > 0] - log_q[p > 0]  # a class without p does not count
    rows = (p * ratio).sum(axis=1)

    dz = (q - p) / len(rows)
    dtarget = p * (ratio - rows[:, None]) / len(rows)
    return np.mean(rows), dz, dtarget
