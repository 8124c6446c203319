"""Inter-top-k in NumPy, with its gradients.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import math

import numpy as np


def inter_top_k(x, w, y, s=32.0, m=0.2, penalty=0.06, k=5):
    """Return the mean loss, dL/dx and dL/dw."""
    x_norm = np.linalg.norm(x, axis=1, keepdims=True)
    w_norm = np.linalg.norm(w, axis=1, keepdims=True)
    x_unit, w_unit = x / x_norm, w / w_norm
    cos, rows = x_unit @ w_unit.T, np.arange(len(y))
    others = cos.copy()
    others[rows, y] = -np.inf
    near = np.argsort(-others, axis=1, kind="stable")[:, : min(k, len(w) - 1)]
    some = np.hstack([y[:, None], near])  # the target, and the k nearest other classes
    moved = np.full(some.shape[1], -penalty, x.dtype)  # added to their angles
    moved[0] = m
    c = np.take_along_axis(cos, some, axis=1)
    # sin θ: sqrt(1 - c * c) has no digits at small angles
    sin = np.linalg.norm(w_unit[some] - c[:, :, None] * x_unit[:, None], axis=2)
    psi = c * np.cos(moved) - sin * np.sin(moved)
    slopes = np.cos(moved) + np.sin(moved) * c / np.where(sin > 0, sin, np.inf)
    beyond = c[:, 0] < -math.cos(m)  # θ + m > π, where the rule is "continuous"
    psi[beyond, 0], slopes[beyond, 0] = c[beyond, 0] + math.cos(m) - 1.0, 1.0
    f, slope = cos.copy(), np.ones_like(cos)  # the logits over s, and df/dcos
    np.put_along_axis(f, some, psi, axis=1)
    np.put_along_axis(slope, some, slopes, axis=1)

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
