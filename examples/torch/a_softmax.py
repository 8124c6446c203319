"""A-Softmax (SphereFace) in PyTorch, differentiated by autograd.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import math

import torch.nn.functional as F


def a_softmax(x, w, y, m=4):
    """Return the mean loss."""
    length = x.norm(dim=1, keepdim=True)
    x, w = x / length, F.normalize(w)
    cos = x @ w.T
    c = cos.gather(1, y[:, None])
    # sin θ: sqrt(1 - c * c) has no digits at small angles
    sin = (w[y] - c * x).norm(dim=1, keepdim=True)
    theta = sin.atan2(c)
    k = (m * theta / math.pi).floor().detach()
    psi = (1.0 - 2.0 * (k % 2.0)) * (m * theta).cos() - 2.0 * k
    return F.cross_entropy(length * cos.scatter(1, y[:, None], psi), y)
