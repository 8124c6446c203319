"""MV-Softmax in JAX, for jax.grad.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import jax
import jax.numpy as jnp


@jax.jit
def mv_softmax(x, w, y, s=32.0, m=0.35, t=0.2):
    """Return the mean loss."""
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    w = w / jnp.linalg.norm(w, axis=1, keepdims=True)
    cos, rows = x @ w.T, jnp.arange(len(y))
    c = cos[rows, y]
    psi = jnp.where(c > 0, c - m, c)
    cos = jnp.where(cos > (c - m)[:, None], (1.0 + t) * cos + t, cos)
    log_p = jax.nn.log_softmax(s * cos.at[rows, y].set(psi))
    return -log_p[rows, y].mean()
