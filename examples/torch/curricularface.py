"""CurricularFace in PyTorch, differentiated by autograd.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import math

import torch
import torch.nn.functional as F


def curricularface(x, w, y, s=64.0, m=0.5, t=0.0):
    """Return the mean loss."""
    x, w = F.normalize(x), F.normalize(w)
    cos = x @ w.T
    c = cos.gather(1, y[:, None])
    # sin θ: sqrt(1 - c * c) has no digits at small angles
    sin = (w[y] - c * x).norm(dim=1, keepdim=True)
    tau = c * math.cos(m) - sin * math.sin(m)  # cos(θ + m)
    inside = c > -math.cos(m)  # beyond θ + m = π holds the rule "hard"
    psi = torch.where(inside, tau, c - m * math.sin(m))
    cos = torch.where(cos > tau, cos * (t + cos), cos)
    return F.cross_entropy(s * cos.scatter(1, y[:, None], psi), y)
