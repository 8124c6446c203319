"""Inter-top-k in PyTorch, differentiated by autograd.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import math

import torch
import torch.nn.functional as F


def inter_top_k(x, w, y, s=32.0, m=0.2, penalty=0.06, k=5):
    """Return the mean loss."""
    x, w = F.normalize(x), F.normalize(w)
    cos = x @ w.T
    near = cos.detach().scatter(1, y[:, None], -2.0).topk(min(k, len(w) - 1)).indices
    some = torch.cat([y[:, None], near], dim=1)  # the target and its rivals
    moved = torch.full_like(some, -penalty, dtype=x.dtype)  # added to their angles
    moved[:, 0] = m
    c = cos.gather(1, some)
    # sin θ: sqrt(1 - c * c) has no digits at small angles
    sin = (w[some] - c[:, :, None] * x[:, None]).norm(dim=2)
    psi = c * moved.cos() - sin * moved.sin()
    # the target beyond θ + m = π, where the rule "continuous" holds
    beyond = (c < -math.cos(m)) & (some == y[:, None])
    psi = torch.where(beyond, c + math.cos(m) - 1.0, psi)
    return F.cross_entropy(s * cos.scatter(1, some, psi), y)
