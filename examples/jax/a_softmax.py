"""A-Softmax (SphereFace) in JAX, for jax.grad.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import jax
import jax.numpy as jnp


@jax.jit
def a_softmax(x, w, y, m=4):
    """Return the mean loss."""
    length = jnp.linalg.norm(x, axis=1, keepdims=True)
    x, w = x / length, w / jnp.linalg.norm(w, axis=1, keepdims=True)
    cos, rows = x @ w.T, jnp.arange(len(y))
    c = cos[rows, y]
    # sin² θ: 1 - c * c has no digits at small angles, and a root no slope at 0
    square = ((w[y] - c[:, None] * x) ** 2).sum(axis=1)
    sin = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    theta = jnp.arctan2(sin, c)
    k = jnp.floor(m * theta / jnp.pi)
    psi = (1.0 - 2.0 * (k % 2.0)) * jnp.cos(m * theta) - 2.0 * k
    log_p = jax.nn.log_softmax(length * cos.at[rows, y].set(psi))
    return -log_p[rows, y].mean()
