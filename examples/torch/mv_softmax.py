"""MV-Softmax in PyTorch, differentiated by autograd.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import torch
import torch.nn.functional as F


def mv_softmax(x, w, y, s=32.0, m=0.35, t=0.2):
    """Return the mean loss."""
    x, w = F.normalize(x), F.normalize(w)
    cos = x @ w.T
    c = cos.gather(1, y[:, None])
    psi = torch.where(c > 0, c - m, c)
    cos = torch.where(cos > c - m, (1.0 + t) * cos + t, cos)
    return F.cross_entropy(s * cos.scatter(1, y[:, None], psi), y)
