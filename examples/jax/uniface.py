"""UniFace in JAX, for jax.grad.

Embeddings x (N, D), class weights w (C, D), labels y (N,), a bias b.
"""

import jax
import jax.numpy as jnp


@jax.jit
def uniface(x, w, y, b=0.0, s=64.0, m=0.4, l=1.0):
    """Return the mean loss."""
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    w = w / jnp.linalg.norm(w, axis=1, keepdims=True)
    cos, target = x @ w.T, jax.nn.one_hot(y, len(w), dtype=x.dtype)
    z = jnp.clip(s * (cos - m * target) - b, -s, s)
    v = target + l * (1.0 - target)
    return (v * jax.nn.softplus((1.0 - 2.0 * target) * z)).sum(axis=1).mean()
