"""Sub-center ArcFace in JAX, for jax.grad.

Embeddings x (N, D), K centers for each class w (C, K, D), labels y (N,).
"""

import jax
import jax.numpy as jnp


@jax.jit
def sub_center_arcface(x, w, y, s=64.0, m=0.5):
    """Return the mean loss."""
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    w = w / jnp.linalg.norm(w, axis=2, keepdims=True)
    every, rows = jnp.einsum("nd,ckd->nck", x, w), jnp.arange(len(y))
    nearest = every.argmax(axis=2)
    cos = jnp.take_along_axis(every, nearest[:, :, None], axis=2)[:, :, 0]
    c = cos[rows, y]
    # sin² θ: 1 - c * c has no digits at small angles, and a root no slope at 0
    square = ((w[y, nearest[rows, y]] - c[:, None] * x) ** 2).sum(axis=1)
    sin = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    psi = c * jnp.cos(m) - sin * jnp.sin(m)  # cos(θ + m)
    log_p = jax.nn.log_softmax(s * cos.at[rows, y].set(psi))
    return -log_p[rows, y].mean()
