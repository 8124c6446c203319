"""SigLIP in JAX, for jax.grad.

Pairs x and w (N, D), a scale t, a bias b.
"""

import jax
import jax.numpy as jnp


@jax.jit
def siglip(x, w, t, b):
    """Return the mean loss."""
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    w = w / jnp.linalg.norm(w, axis=1, keepdims=True)
    sign = 1.0 - 2.0 * jnp.eye(len(x), dtype=x.dtype)  # -1 for the pairs
    return jax.nn.softplus(sign * (t * (x @ w.T) + b)).sum(axis=1).mean()
