"""Modified softmax in PyTorch, differentiated by autograd.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import torch.nn.functional as F


def modified_softmax(x, w, y):
    """Return the mean loss."""
    return F.cross_entropy(x @ F.normalize(w).T, y)
