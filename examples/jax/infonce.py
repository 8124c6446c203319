"""InfoNCE in both directions, the loss of CLIP, in JAX, for jax.grad.

Pairs x and w (N, D), a scale s.
"""

import jax
import jax.numpy as jnp


@jax.jit
def infonce(x, w, s):
    """Return the mean loss."""
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    w = w / jnp.linalg.norm(w, axis=1, keepdims=True)
    z = s * (x @ w.T)
    log_p = jax.nn.log_softmax(z, axis=1) + jax.nn.log_softmax(z, axis=0)
    return -log_p.diagonal().mean() / 2.0
