"""SphereFace2 in PyTorch, differentiated by autograd.

Embeddings x (N, D), class weights w (C, D), labels y (N,), a bias b.
"""

import torch.nn.functional as F


def sphereface2(x, w, y, b=0.0, s=40.0, m=0.4, t=3, alpha=0.7, weight=50.0):
    """Return the mean loss."""
    cos = F.normalize(x) @ F.normalize(w).T
    target = F.one_hot(y, len(w)).to(x.dtype)
    sign = 1.0 - 2.0 * target
    z = s * (2.0 * ((1.0 + cos) / 2.0) ** t - 1.0 + sign * m) + b
    v = weight / s * (alpha * target + (1.0 - alpha) * (1.0 - target))
    # not F.softplus, which is z itself above 20
    return -(v * F.logsigmoid(-sign * z)).sum(dim=1).mean()
