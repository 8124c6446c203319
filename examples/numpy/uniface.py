"""UniFace in NumPy, with its gradients.

Embeddings x (N, D), class weights w (C, D), labels y (N,), a bias b.
"""

import numpy as np


def uniface(x, w, y, b=0.0, s=64.0, m=0.4, l=1.0):
    """Return the mean loss, dL/dx, dL/dw and dL/db."""
    x_norm = np.linalg.norm(x, axis=1, keepdims=True)
    w_norm = np.linalg.norm(w, axis=1, keepdims=True)
    x_unit, w_unit = x / x_norm, w / w_norm
    cos, rows = x_unit @ w_unit.T, np.arange(len(y))
    sign, v = np.ones_like(cos), np.full_like(cos, l)
    sign[rows, y], v[rows, y] = -1.0, 1.0
    z = s * cos - b
    z[rows, y] -= s * m
    inside, z = np.abs(z) <= s, np.clip(z, -s, s)
    loss = np.mean((v * np.logaddexp(0.0, sign * z)).sum(axis=1))  # log(1 + e^±z)

    g = v * sign * np.exp(-np.logaddexp(0.0, -sign * z)) / len(y)
    g *= inside  # dL/dz
    a = s * g  # dL/dcos
    dx = (a @ w_unit - (a * cos).sum(axis=1, keepdims=True) * x_unit) / x_norm
    dw = (a.T @ x_unit - (a * cos).sum(axis=0)[:, None] * w_unit) / w_norm
    return loss, dx, dw, -g.sum()
