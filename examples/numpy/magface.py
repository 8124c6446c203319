"""MagFace in NumPy, with its gradients.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import numpy as np


def magface(x, w, y, s=64.0, l_a=10.0, u_a=110.0, l_m=0.45, u_m=0.8, regularizer=35.0):
    """Return the mean loss, dL/dx and dL/dw."""
    x_norm = np.linalg.norm(x, axis=1, keepdims=True)
    w_norm = np.linalg.norm(w, axis=1, keepdims=True)
    x_unit, w_unit = x / x_norm, w / w_norm
    cos, rows = x_unit @ w_unit.T, np.arange(len(y))
    c = cos[rows, y]
    # sin θ: sqrt(1 - c * c) has no digits at small angles
    sin = np.linalg.norm(w_unit[y] - c[:, None] * x_unit, axis=1)
    length = np.clip(x_norm[:, 0], l_a, u_a)
    m = l_m + (u_m - l_m) * (length - l_a) / (u_a - l_a)
    f, slope = cos.copy(), np.ones_like(cos)  # the logits over s, and df/dcos
    f[rows, y] = np.where(c > 0, c * np.cos(m) - sin * np.sin(m), c)
    # sin(θ + m) / sin θ
    ratio = np.cos(m) + np.sin(m) * c / np.where(sin > 0, sin, np.inf)
    slope[rows, y] = np.where(c > 0, ratio, 1.0)

    z = s * f
    z -= z.max(axis=1, keepdims=True)
    total = np.exp(z).sum(axis=1, keepdims=True)
    loss = np.mean(np.log(total[:, 0]) - z[rows, y])
    loss += np.mean(regularizer * (length / u_a**2 + 1.0 / length))

    g = np.exp(z) / total  # the softmax p, and then dL/dz
    g[rows, y] -= 1.0
    g /= len(y)
    a = s * g * slope  # dL/dcos
    dm = -s * g[rows, y] * np.where(c > 0, sin * np.cos(m) + c * np.sin(m), 0.0)
    dlength = regularizer / len(y) * (1.0 / u_a**2 - 1.0 / length**2)
    dlength += dm * (u_m - l_m) / (u_a - l_a)
    dx = (a @ w_unit - (a * cos).sum(axis=1, keepdims=True) * x_unit) / x_norm
    dx += np.where(length == x_norm[:, 0], dlength, 0.0)[:, None] * x_unit
    dw = (a.T @ x_unit - (a * cos).sum(axis=0)[:, None] * w_unit) / w_norm
    return loss, dx, dw
