"""The KL divergence of two rows of logits in PyTorch, differentiated by autograd.

KL(p || q) of p = softmax(target) and q = softmax(z), both (N, C).
"""

import math

import torch.nn.functional as F


def kl_divergence(z, target):
    """Return the mean loss."""
    log_q, log_p = F.log_softmax(z, dim=1), F.log_softmax(target, dim=1)
    masked = log_p == -math.inf  # such a class does not count
    ratio = log_p.masked_fill(masked, 0.0) - log_q.masked_fill(masked, 0.0)
    return (log_p.exp() * ratio).sum(dim=1).mean()
