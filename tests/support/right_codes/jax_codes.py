"""Right implementations in jax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def jax_rows(name: str) -> Callable[..., Any]:
    """Loss of each row of logits with labels."""
    import jax
    import optax

    jnp = jax.numpy

    def one(a: Any, y: Any) -> Any:
        return jnp.take_along_axis(a, jnp.maximum(y, 0)[:, None], axis=1)[:, 0]

    def by_max(stop: Callable[[Any], Any]) -> Callable[..., Any]:
        def rows(z: Any, y: Any) -> Any:
            gap = z - stop(z.max(axis=1, keepdims=True))
            return jnp.log(jnp.exp(gap).sum(axis=1)) - one(gap, y)

        return rows

    return {
        "log_softmax": lambda z, y: -one(jax.nn.log_softmax(z), y),
        "logsumexp - z_y": lambda z, y: jax.scipy.special.logsumexp(z, axis=1) - one(z, y),
        "maximum off, stopped": by_max(jax.lax.stop_gradient),
        "maximum off, with its gradient": by_max(lambda top: top),
        "optax, labels": lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, jnp.maximum(y, 0)),
        "optax, one-hot": lambda z, y: optax.softmax_cross_entropy(
            z, jax.nn.one_hot(jnp.maximum(y, 0), z.shape[1], dtype=z.dtype)
        ),
        "optax, safe": lambda z, y: optax.safe_softmax_cross_entropy(
            z, jax.nn.one_hot(jnp.maximum(y, 0), z.shape[1], dtype=z.dtype)
        ),
    }[name]


def jax_reduced(rows: Any, y: Any, loss: Any) -> Any:
    """Mean over the rows that count, sum, or the rows."""
    import jax

    jnp = jax.numpy
    kept = jnp.asarray(y) != loss.ignore_index
    rows = jnp.where(kept, rows, 0)
    return {
        "none": lambda: rows,
        "sum": rows.sum,
        "mean": lambda: rows.sum() / jnp.maximum(kept.sum(), 1).astype(rows.dtype),
    }[loss.reduction]()


def jax_logits(name: str, loss: Any, upcast: bool = False) -> Callable[..., Any]:
    """A loss of logits from its rows."""
    rows = jax_rows(name)

    def fn(z: Any, y: Any) -> Any:
        reduced = jax_reduced(rows(z.astype("float32") if upcast else z, y), y, loss)
        return reduced.astype(z.dtype) if upcast else reduced

    return fn


def jax_custom(loss: Any) -> Callable[..., Any]:
    """p - t by a custom backward."""
    import jax

    jnp = jax.numpy

    def forward(z: Any, y: Any) -> Any:
        log_p, kept = jax.nn.log_softmax(z), jnp.asarray(y) != loss.ignore_index
        own = jax.nn.one_hot(jnp.where(kept, y, 0), z.shape[1], dtype=z.dtype)
        rows = -jnp.take_along_axis(log_p, jnp.maximum(jnp.asarray(y), 0)[:, None], axis=1)[:, 0]
        return jax_reduced(rows, y, loss), (jnp.exp(log_p) - own) * kept[:, None] / jnp.maximum(kept.sum(), 1)

    def fn(z: Any, y: Any) -> Any:
        @jax.custom_vjp
        def of_logits(z: Any) -> Any:
            return forward(z, y)[0]

        of_logits.defvjp(lambda z: forward(z, y), lambda g, upstream: ((upstream * g).astype(z.dtype),))
        return of_logits(z)

    return fn


def jax_length(v: Any) -> Any:
    """Length of each row, with gradient 0 where it is 0."""
    import jax

    jnp = jax.numpy
    square = (v * v).sum(axis=-1)
    apart = square > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)


def jax_head(loss: Any, rows: str = "log_softmax", upcast: bool = False) -> Callable[..., Any]:
    """A margin loss without a rule: cosines less m3, or the angle by two lengths plus m2."""
    import jax

    jnp = jax.numpy

    def fn(x: Any, w: Any, y: Any) -> Any:
        kind = x.dtype
        if upcast:
            x, w = x.astype("float32"), w.astype("float32")
        margin, label = loss.spec.margin, jnp.maximum(jnp.asarray(y), 0)
        length = jax_length(x)[:, None]
        ux, uw = x / length, w / jax_length(w)[:, None]
        cos = ux @ uw.T
        target = jax.nn.one_hot(label, len(w), dtype=x.dtype)
        if margin.m1 == 1.0 and margin.m2 == 0.0:
            psi = cos - margin.m3
        else:
            mine = target @ uw
            theta = 2 * jnp.arctan2(jax_length(ux - mine), jax_length(ux + mine))
            psi = (jnp.cos(margin.m1 * theta + margin.m2) - margin.m3)[:, None]
        scale = length if loss.spec.scale is None else loss.spec.scale
        z = (scale * jnp.where(target > 0, psi, cos)).astype(x.dtype)
        return jax_reduced(jax_rows(rows)(z, label), y, loss).astype(kind)

    return fn


def jax_linear(rows: str, loss: Any, upcast: bool = False) -> Callable[..., Any]:
    """A linear layer and a loss of its logits."""

    def fn(x: Any, w: Any, y: Any) -> Any:
        kind = x.dtype
        if upcast:
            x, w = x.astype("float32"), w.astype("float32")
        return jax_logits(rows, loss)(x @ w.T, y).astype(kind)

    return fn


def jax_triplet(loss: Any) -> Callable[..., Any]:
    """A triplet loss with squared or plain distances."""
    import jax

    def distance(v: Any) -> Any:
        return (v * v).sum(axis=1) if loss.squared else jax_length(v)

    def fn(a: Any, p: Any, n: Any) -> Any:
        rows = jax.nn.relu(distance(a - p) - distance(a - n) + loss.m)
        return {"none": lambda: rows, "sum": rows.sum, "mean": rows.mean}[loss.reduction]()

    return fn
