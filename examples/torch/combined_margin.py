"""The combined margin in PyTorch, differentiated by autograd.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import torch.nn.functional as F


def combined_margin(x, w, y, s=64.0, m1=1.0, m2=0.3, m3=0.2):
    """Return the mean loss."""
    x, w = F.normalize(x), F.normalize(w)
    cos = x @ w.T
    c = cos.gather(1, y[:, None])
    # sin θ: sqrt(1 - c * c) has no digits at small angles
    sin = (w[y] - c * x).norm(dim=1, keepdim=True)
    psi = (m1 * sin.atan2(c) + m2).cos() - m3
    return F.cross_entropy(s * cos.scatter(1, y[:, None], psi), y)
