"""Cross entropy in JAX, for jax.grad.

Logits z (N, C), labels y (N,); options as in torch.nn.functional.cross_entropy.
"""

import jax
import jax.numpy as jnp


@jax.jit
def cross_entropy(z, y, class_weight=None, label_smoothing=0.0, ignore_index=-100):
    """Return the mean loss."""
    kept = y != ignore_index
    label = jnp.where(kept, y, 0)
    classes = z.shape[1]
    v = jnp.asarray([1.0] * classes if class_weight is None else class_weight, z.dtype)
    t = (1.0 - label_smoothing) * jax.nn.one_hot(label, classes, dtype=z.dtype)
    t = v * (t + label_smoothing / classes)  # targets
    # log p of a masked class is -inf
    log_p = jnp.where(t == 0, 0.0, jax.nn.log_softmax(z))
    weight = (kept * v[label]).sum()
    weight = jnp.where(weight == 0, jnp.nan, weight)  # the mean of nothing is NaN
    return -(kept * (t * log_p).sum(axis=1)).sum() / weight
