"""AdaFace in JAX, for jax.grad.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import jax
import jax.numpy as jnp


@jax.jit
def adaface(x, w, y, s=64.0, m=0.4, h=0.333, mean=20.0, std=100.0, eps=1e-3):
    """Return the mean loss."""
    length = jnp.clip(jax.lax.stop_gradient(jnp.linalg.norm(x, axis=1)), 1e-3, 100.0)
    v = jnp.clip(h * (length - mean) / (std + eps), -1.0, 1.0)  # a constant
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    w = w / jnp.linalg.norm(w, axis=1, keepdims=True)
    cos, rows = x @ w.T, jnp.arange(len(y))
    c = cos[rows, y]
    # sin² θ: 1 - c * c has no digits at small angles, and a root no slope at 0
    square = ((w[y] - c[:, None] * x) ** 2).sum(axis=1)
    sin = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    phi = jnp.clip(jnp.arctan2(sin, c) - m * v, eps, jnp.pi - eps)
    psi = jnp.cos(phi) - m * (1.0 + v)
    log_p = jax.nn.log_softmax(s * cos.at[rows, y].set(psi))
    return -log_p[rows, y].mean()
