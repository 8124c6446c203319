"""Circle loss with class weights in PyTorch, differentiated by autograd.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import torch.nn.functional as F


def circle_loss(x, w, y, s=256.0, m=0.25):
    """Return the mean loss."""
    cos = F.normalize(x) @ F.normalize(w).T
    c = cos.gather(1, y[:, None])
    psi = m**2 - (1.0 - c) ** 2
    others = (cos + m).clamp(min=0.0) * (cos - m)
    return F.cross_entropy(s * others.scatter(1, y[:, None], psi), y)
