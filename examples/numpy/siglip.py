"""SigLIP in NumPy, with its gradients.

Pairs x and w (N, D), a scale t, a bias b.
"""

import numpy as np


def siglip(x, w, t, b):
    """Return the mean loss, dL/dx, dL/dw, dL/dt and dL/db."""
    x_norm = np.linalg.norm(x, axis=1, keepdims=True)
    w_norm = np.linalg.norm(w, axis=1, keepdims=True)
    x_unit, w_unit = x / x_norm, w / w_norm
    cos = x_unit @ w_unit.T
    sign = 1.0 - 2.0 * np.eye(len(x), dtype=x.dtype)  # -1 for the pairs
    z = t * cos + b
    loss = np.mean(np.logaddexp(0.0, sign * z).sum(axis=1))  # log(1 + e^±z)

    g = sign * np.exp(-np.logaddexp(0.0, -sign * z)) / len(x)  # dL/dz
    a = t * g  # dL/dcos
    dx = (a @ w_unit - (a * cos).sum(axis=1, keepdims=True) * x_unit) / x_norm
    dw = (a.T @ x_unit - (a * cos).sum(axis=0)[:, None] * w_unit) / w_norm
    return loss, dx, dw, (g * cos).sum(), g.sum()
