"""The softmax loss in NumPy, with its gradients.

Embeddings x (N, D), class weights w (C, D), labels y (N,), bias b (C,).
"""

import numpy as np


def softmax_loss(x, w, y, b=0.0):
    """Return the mean loss, dL/dx, dL/dw and dL/db."""
    rows = np.arange(len(y))
    z = x @ w.T + b
    z -= z.max(axis=1, keepdims=True)
    total = np.exp(z).sum(axis=1, keepdims=True)
    loss = np.mean(np.log(total[:, 0]) - z[rows, y])

    g = np.exp(z) / total  # the softmax p, and then dL/dz
    g[rows, y] -= 1.0
    g /= len(y)
    return loss, g @ w, g.T @ x, g.sum(axis=0)
