"""MagFace in PyTorch, differentiated by autograd.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import torch
import torch.nn.functional as F


def magface(x, w, y, s=64.0, l_a=10.0, u_a=110.0, l_m=0.45, u_m=0.8, regularizer=35.0):
    """Return the mean loss."""
    length = x.norm(dim=1, keepdim=True).clamp(l_a, u_a)
    m = l_m + (u_m - l_m) * (length - l_a) / (u_a - l_a)
    x, w = F.normalize(x), F.normalize(w)
    cos = x @ w.T
    c = cos.gather(1, y[:, None])
    # sin θ: sqrt(1 - c * c) has no digits at small angles
    sin = (w[y] - c * x).norm(dim=1, keepdim=True)
    psi = torch.where(c > 0, c * m.cos() - sin * m.sin(), c)  # cos(θ + m)
    loss = F.cross_entropy(s * cos.scatter(1, y[:, None], psi), y)
    return loss + regularizer * (length / u_a**2 + 1.0 / length).mean()
