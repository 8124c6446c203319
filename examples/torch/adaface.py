"""AdaFace in PyTorch, differentiated by autograd.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import math

import torch.nn.functional as F


def adaface(x, w, y, s=64.0, m=0.4, h=0.333, mean=20.0, std=100.0, eps=1e-3):
    """Return the mean loss."""
    length = x.detach().norm(dim=1, keepdim=True).clamp(1e-3, 100.0)
    v = (h * (length - mean) / (std + eps)).clamp(-1.0, 1.0)  # a constant
    x, w = F.normalize(x), F.normalize(w)
    cos = x @ w.T
    c = cos.gather(1, y[:, None])
    # sin θ: sqrt(1 - c * c) has no digits at small angles
    sin = (w[y] - c * x).norm(dim=1, keepdim=True)
    psi = (sin.atan2(c) - m * v).clamp(eps, math.pi - eps).cos() - m * (1.0 + v)
    return F.cross_entropy(s * cos.scatter(1, y[:, None], psi), y)
