"""Sub-center ArcFace in NumPy, with its gradients.

Embeddings x (N, D), K centers for each class w (C, K, D), labels y (N,).
"""

import math

import numpy as np


def sub_center_arcface(x, w, y, s=64.0, m=0.5):
    """Return the mean loss, dL/dx and dL/dw."""
    x_norm = np.linalg.norm(x, axis=1, keepdims=True)
    w_norm = np.linalg.norm(w, axis=2, keepdims=True)
    x_unit, w_unit = x / x_norm, w / w_norm
    every, rows = np.einsum("nd,ckd->nck", x_unit, w_unit), np.arange(len(y))
    nearest = every.argmax(axis=2)[:, :, None]
    cos = np.take_along_axis(every, nearest, axis=2)[:, :, 0]
    c = cos[rows, y]
    # sin θ: sqrt(1 - c * c) has no digits at small angles
    center = w_unit[y, nearest[rows, y, 0]]
    sin = np.linalg.norm(center - c[:, None] * x_unit, axis=1)
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
    a = np.zeros_like(every)  # dL/dcos of every center: 0 but for the nearest
    np.put_along_axis(a, nearest, (s * g * slope)[:, :, None], axis=2)
    dx = np.einsum("nck,ckd->nd", a, w_unit) - (a * every).sum((1, 2))[:, None] * x_unit
    dw = np.einsum("nck,nd->ckd", a, x_unit) - (a * every).sum(0)[:, :, None] * w_unit
    return loss, dx / x_norm, dw / w_norm
