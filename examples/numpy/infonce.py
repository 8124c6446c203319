"""InfoNCE in both directions, the loss of CLIP, in NumPy, with its gradients.

Pairs x and w (N, D), a scale s.
"""

import numpy as np


def infonce(x, w, s):
    """Return the mean loss, dL/dx, dL/dw and dL/ds."""
    x_norm = np.linalg.norm(x, axis=1, keepdims=True)
    w_norm = np.linalg.norm(w, axis=1, keepdims=True)
    x_unit, w_unit = x / x_norm, w / w_norm
    cos = x_unit @ w_unit.T
    loss, g = 0.0, np.zeros_like(cos)
    for axis in (1, 0):  # x against all w, and w against all x
        z = s * cos
        z -= z.max(axis=axis, keepdims=True)
        total = np.exp(z).sum(axis=axis, keepdims=True)
        loss += 0.5 * np.mean(np.log(total).ravel() - z.diagonal())
        g += 0.5 * (np.exp(z) / total - np.eye(len(x), dtype=x.dtype)) / len(x)  # dL/dz

    a = s * g  # dL/dcos
    dx = (a @ w_unit - (a * cos).sum(axis=1, keepdims=True) * x_unit) / x_norm
    dw = (a.T @ x_unit - (a * cos).sum(axis=0)[:, None] * w_unit) / w_norm
    return loss, dx, dw, (g * cos).sum()
