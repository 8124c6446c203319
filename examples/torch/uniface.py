"""UniFace in PyTorch, differentiated by autograd.

Embeddings x (N, D), class weights w (C, D), labels y (N,), a bias b.
"""

import torch.nn.functional as F


def uniface(x, w, y, b=0.0, s=64.0, m=0.4, l=1.0):
    """Return the mean loss."""
    cos = F.normalize(x) @ F.normalize(w).T
    target = F.one_hot(y, len(w)).to(x.dtype)
    z = (s * (cos - m * target) - b).clamp(-s, s)
    v = target + l * (1.0 - target)
    # not F.softplus, which is z itself above 20
    return -(v * F.logsigmoid((2.0 * target - 1.0) * z)).sum(dim=1).mean()
