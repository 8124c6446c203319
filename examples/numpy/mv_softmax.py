"""MV-Softmax in NumPy, with its gradients.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import numpy as np


def mv_softmax(x, w, y, s=32.0, m=0.35, t=0.2):
    """Return the mean loss, dL/dx and dL/dw."""
    x_norm = np.linalg.norm(x, axis=1, keepdims=True)
    w_norm = np.linalg.norm(w, axis=1, keepdims=True)
    x_unit, w_unit = x / x_norm, w / w_norm
    cos, rows = x_unit @ w_unit.T, np.arange(len(y))
    c = cos[rows, y]
    hard = cos > (c - m)[:, None]
    f = np.where(hard, (1.0 + t) * cos + t, cos)  # the logits over s
    slope = np.where(hard, 1.0 + t, 1.0)  # df/dcos
    f[rows, y] = np.where(c > 0, c - m, c)
    slope[rows, y] = 1.0

    z = s * f
    z -= z.max(axis=1, keepdims=True)
    total = np.exp(z).sum(axis=1, keepdims=True)
    loss = np.mean(np.log(total[:, 0]) - z[rows, y])

    g = np.exp(z) / total  # the softmax p, and then dL/dz
    g[rows, y] -= 1.0
    g /= len(y)
    a = s * g * slope  # dL/dcos
    dx = (a @ w_unit - (a * cos).sum(axis=1, keepdims=True) * x_unit) / x_norm
    dw = (a.T @ x_unit - (a * cos).sum(axis=0)[:, None] * w_unit) / w_norm
    return loss, dx, dw
