"""SphereFace2 in NumPy, with its gradients.

Embeddings x (N, D), class weights w (C, D), labels y (N,), a bias b.
"""

import numpy as np


def sphereface2(x, w, y, b=0.0, s=40.0, m=0.4, t=3, alpha=0.7, weight=50.0):
    """Return the mean loss, dL/dx, dL/dw and dL/db."""
    x_norm = np.linalg.norm(x, axis=1, keepdims=True)
    w_norm = np.linalg.norm(w, axis=1, keepdims=True)
    x_unit, w_unit = x / x_norm, w / w_norm
    cos, rows = x_unit @ w_unit.T, np.arange(len(y))
    sign, v = np.ones_like(cos), np.full_like(cos, (1.0 - alpha) * weight / s)
    sign[rows, y], v[rows, y] = -1.0, alpha * weight / s
    half = (1.0 + cos) / 2.0
    z = s * (2.0 * half**t - 1.0 + sign * m) + b
    loss = np.mean((v * np.logaddexp(0.0, sign * z)).sum(axis=1))  # log(1 + e^±z)

    g = v * sign * np.exp(-np.logaddexp(0.0, -sign * z)) / len(y)  # dL/dz
    a = s * g * t * half ** (t - 1)  # dL/dcos
    dx = (a @ w_unit - (a * cos).sum(axis=1, keepdims=True) * x_unit) / x_norm
    dw = (a.T @ x_unit - (a * cos).sum(axis=0)[:, None] * w_unit) / w_norm
    return loss, dx, dw, g.sum()
