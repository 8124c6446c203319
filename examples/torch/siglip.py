"""SigLIP in PyTorch, differentiated by autograd.

Pairs x and w (N, D), a scale t, a bias b.
"""

import torch
import torch.nn.functional as F


def siglip(x, w, t, b):
    """Return the mean loss."""
    z = t * F.normalize(x) @ F.normalize(w).T + b
    pairs = torch.eye(len(x), dtype=x.dtype, device=x.device)
    return -F.logsigmoid((2.0 * pairs - 1.0) * z).sum(dim=1).mean()
