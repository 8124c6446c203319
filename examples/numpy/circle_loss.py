"""Circle loss with class weights in NumPy, with its gradients.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import numpy as np


def circle_loss(x, w, y, s=256.0, m=0.25):
    """Return the mean loss, dL/dx and dL/dw."""
    x_norm = np.linalg.norm(x, axis=1, keepdims=True)
    w_norm = np.linalg.norm(w, axis=1, keepdims=True)
    x_unit, w_unit = x / x_norm, w / w_norm
    cos, rows = x_unit @ w_unit.T, np.arange(len(y))
    c = cos[rows, y]
    f = np.maximum(cos + m, 0.0) * (cos - m)  # the logits over s
    slope = np.where(cos > -m, 2.0 * cos, 0.0)  # df/dcos
    f[rows, y] = m**2 - (1.0 - c) ** 2
    slope[rows, y] = 2.0 * (1.0 - c)

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
