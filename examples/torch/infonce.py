"""InfoNCE in both directions, the loss of CLIP, in PyTorch, differentiated by autograd.

Pairs x and w (N, D), a scale s.
"""

import torch
import torch.nn.functional as F


def infonce(x, w, s):
    """Return the mean loss."""
    z = s * F.normalize(x) @ F.normalize(w).T
    y = torch.arange(len(x), device=x.device)
    return (F.cross_entropy(z, y) + F.cross_entropy(z.T, y)) / 2.0
