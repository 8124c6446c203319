"""Sub-center ArcFace in PyTorch, differentiated by autograd.

Embeddings x (N, D), K centers for each class w (C, K, D), labels y (N,).
"""

import math

import torch
import torch.nn.functional as F


def sub_center_arcface(x, w, y, s=64.0, m=0.5):
    """Return the mean loss."""
    x, w = F.normalize(x), F.normalize(w, dim=2)
    cos, nearest = torch.einsum("nd,ckd->nck", x, w).max(dim=2)
    c = cos.gather(1, y[:, None])
    center = w[y, nearest.gather(1, y[:, None])[:, 0]]
    # sin θ: sqrt(1 - c * c) has no digits at small angles
    sin = (center - c * x).norm(dim=1, keepdim=True)
    psi = c * math.cos(m) - sin * math.sin(m)  # cos(θ + m)
    return F.cross_entropy(s * cos.scatter(1, y[:, None], psi), y)
