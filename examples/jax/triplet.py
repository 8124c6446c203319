"""The triplet loss in JAX, for jax.grad.

Anchors, positives and negatives (N, D).
"""

import jax
import jax.numpy as jnp


@jax.jit
def triplet(anchor, positive, negative, m=0.2):
    """Return the mean loss."""
    near = ((anchor - positive) ** 2).sum(axis=1)
    far = ((anchor - negative) ** 2).sum(axis=1)
    return jnp.maximum(near - far + m, 0.0).mean()
