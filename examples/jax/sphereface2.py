"""SphereFace2 in JAX, for jax.grad.

Embeddings x (N, D), class weights w (C, D), labels y (N,), a bias b.
"""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.jit, static_argnames="t")
def sphereface2(x, w, y, b=0.0, s=40.0, m=0.4, t=3, alpha=0.7, weight=50.0):
    """Return the mean loss."""
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    w = w / jnp.linalg.norm(w, axis=1, keepdims=True)
    cos, target = x @ w.T, jax.nn.one_hot(y, len(w), dtype=x.dtype)
    sign = 1.0 - 2.0 * target
    z = s * (2.0 * ((1.0 + cos) / 2.0) ** t - 1.0 + sign * m) + b
    v = weight / s * (alpha * target + (1.0 - alpha) * (1.0 - target))
    return (v * jax.nn.softplus(sign * z)).sum(axis=1).mean()
