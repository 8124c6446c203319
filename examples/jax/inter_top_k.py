"""Inter-top-k in JAX, for jax.grad.

Embeddings x (N, D), class weights w (C, D), labels y (N,).
"""

from functools import partial

import jax
import jax.numpy as jnp


@partial(jax.jit, static_argnames="k")
def inter_top_k(x, w, y, s=32.0, m=0.2, penalty=0.06, k=5):
    """Return the mean loss."""
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    w = w / jnp.linalg.norm(w, axis=1, keepdims=True)
    cos, rows = x @ w.T, jnp.arange(len(y))
    others = jax.lax.stop_gradient(cos).at[rows, y].set(-2.0)
    _, near = jax.lax.top_k(others, min(k, len(w) - 1))
    some = jnp.hstack([y[:, None], near])  # the target and its rivals
    moved = jnp.full(some.shape[1], -penalty, x.dtype).at[0].set(m)  # added to their angles
    c = jnp.take_along_axis(cos, some, axis=1)
    # sin² θ: 1 - c * c has no digits at small angles, and a root no slope at 0
    square = ((w[some] - c[:, :, None] * x[:, None]) ** 2).sum(axis=2)
    sin = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    psi = c * jnp.cos(moved) - sin * jnp.sin(moved)
    beyond = c[:, 0] < -jnp.cos(m)  # θ + m > π, where the rule is "continuous"
    psi = psi.at[:, 0].set(jnp.where(beyond, c[:, 0] + jnp.cos(m) - 1.0, psi[:, 0]))
    log_p = jax.nn.log_softmax(s * cos.at[rows[:, None], some].set(psi))
    return -log_p[rows, y].mean()
