"""The softmax loss in PyTorch, differentiated by autograd.

Embeddings x (N, D), class weights w (C, D), labels y (N,), bias b (C,).
"""

import torch.nn.functional as F


def softmax_loss(x, w, y, b=0.0):
    """Return the mean loss."""
    return F.cross_entropy(x @ w.T + b, y)
