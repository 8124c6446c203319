"""Circle loss with class weights in JAX, for jax.grad.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import jax
import jax.numpy as jnp


@jax.jit
def circle_loss(x, w, y, s=256.0, m=0.25):
    """Return the mean loss."""
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    w = w / jnp.linalg.norm(w, axis=1, keepdims=True)
    cos, rows = x @ w.T, jnp.arange(len(y))
    c = cos[rows, y]
    psi = m**2 - (1.0 - c) ** 2
    others = jnp.maximum(cos + m, 0.0) * (cos - m)
    log_p = jax.nn.log_softmax(s * others.at[rows, y].set(psi))
    return -log_p[rows, y].mean()
