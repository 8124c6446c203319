"""SphereFace-R, version 1, in PyTorch, differentiated by autograd.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import math

import torch.nn.functional as F


def sphereface_r(x, w, y, s=30.0, m=1.5):
    """Return the mean loss."""
    x, w = F.normalize(x), F.normalize(w)
    cos = x @ w.T
    c = cos.gather(1, y[:, None])
    # sin θ: sqrt(1 - c * c) has no digits at small angles
    sin = (w[y] - c * x).norm(dim=1, keepdim=True)
    psi = (m * sin.atan2(c)).clamp(max=math.pi).cos()
    return F.cross_entropy(s * cos.scatter(1, y[:, None], psi), y)
