"""MagFace in JAX, for jax.grad.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

import jax
import jax.numpy as jnp


@jax.jit
def magface(x, w, y, s=64.0, l_a=10.0, u_a=110.0, l_m=0.45, u_m=0.8, regularizer=35.0):
    """Return the mean loss."""
    length = jnp.clip(jnp.linalg.norm(x, axis=1), l_a, u_a)
    m = l_m + (u_m - l_m) * (length - l_a) / (u_a - l_a)
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    w = w / jnp.linalg.norm(w, axis=1, keepdims=True)
    cos, rows = x @ w.T, jnp.arange(len(y))
    c = cos[rows, y]
    # sin² θ: 1 - c * c has no digits at small angles, and a root no slope at 0
    square = ((w[y] - c[:, None] * x) ** 2).sum(axis=1)
    sin = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    psi = jnp.where(c > 0, c * jnp.cos(m) - sin * jnp.sin(m), c)  # cos(θ + m)
    log_p = jax.nn.log_softmax(s * cos.at[rows, y].set(psi))
    return (regularizer * (length / u_a**2 + 1.0 / length) - log_p[rows, y]).mean()
