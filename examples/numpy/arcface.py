"""ArcFace in NumPy, with its gradients.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import math

import numpy as np


def arcface(x, w, y, s=64.0, m=0.5):
    """Return the mean loss, dL/dx and dL/dw."""
    x_norm = np.linalg.norm(x, axis=1, keepdims=True)
    w_norm = np.linalg.norm(w, axis=1, keepdims=True)
    x_unit, w_unit = x / x_norm, w / w_norm
    cos, rows = x_unit @ w_unit.T, np.arange(len(y))
    c = cos[rows, y]
    # sin θ: sqrt(1 - c * c) has no digits at small angles
    sin = np.linalg.norm(w_unit[y] - c[:, None] * x_unit, axis=1)
    f, slope = cos.copy(), np.ones_like(cos)  # the logits over s, and df/dcos
    f[rows, y] = c * math.cos(m) - sin * math.sin(m)  # cos(θ + m)
    # sin(θ + m) / sin θ
    slope[rows, y] = math.cos(m) + math.sin(m) * c / np.where(sin > 0, sin, np.inf)

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
