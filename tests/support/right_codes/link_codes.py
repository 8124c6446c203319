"""Right implementations of SphereFace2, UniFace, SigLIP and InfoNCE in torch, jax and NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import refloss
from support.right_codes.code import Array
from support.right_codes.jax_codes import jax_length, jax_reduced, jax_rows
from support.right_codes.numpy_codes import accumulated, max_first, numpy_length, pairwise, product, widened

ANSWERS = ("logsigmoid", "softplus", "softplus to 40", "with logits", "softplus less z", "log of 1 + exp")
"""Forms of a binary cross entropy."""


def weights_of(loss: Any) -> tuple[float, float]:
    """Weights of targets and of other classes."""
    if isinstance(loss, refloss.SphereFace2):
        return loss.alpha * loss.weight / loss.s, (1.0 - loss.alpha) * loss.weight / loss.s
    return 1.0, getattr(loss, "l", 1.0)


def numbers(loss: Any, given: tuple[Any, ...]) -> tuple[Any, Any]:
    """Scale and bias of a call, the bias as it is added; None where it is left out."""
    if isinstance(loss, refloss.SigLIP):
        return given
    if isinstance(loss, refloss.InfoNCE):
        return given[0], None
    b = given[0] if given else None
    return loss.s, -b if isinstance(loss, refloss.UniFace) and b is not None else b


def torch_answers(form: str, z: Any, target: Any) -> Any:
    """Loss of every answer."""
    import torch

    f, a = torch.nn.functional, torch.where(target, -z, z)
    return {
        "logsigmoid": lambda: -f.logsigmoid(-a),
        "softplus": lambda: f.softplus(a),
        "softplus to 40": lambda: f.softplus(a, threshold=40.0),
        "with logits": lambda: f.binary_cross_entropy_with_logits(z, target.to(z.dtype), reduction="none"),
        "softplus less z": lambda: f.softplus(z, threshold=40.0) - z * target,  # of open_clip
        "log of 1 + exp": lambda: a.relu() + torch.log(1.0 + torch.exp(-a.abs())),
    }[form]()


def torch_curve(loss: Any, cos: Any, target: Any) -> Any:
    """What is scaled, from cosines."""
    import torch

    if isinstance(loss, refloss.SphereFace2):
        g = 2.0 * ((1.0 + cos) / 2.0) ** loss.t - 1.0
        g = cos + (g - cos).detach() if loss.gradient == "detached" else g
        return torch.where(target, g - loss.m, g + loss.m)
    return torch.where(target, cos - loss.m, cos) if isinstance(loss, refloss.UniFace) else cos


def torch_unit(rows: Any) -> Any:
    """Rows of length 1."""
    return rows / rows.norm(dim=1, keepdim=True)


def torch_weighted(loss: Any, answers: Any, target: Any) -> Any:
    """Answers with their weights."""
    import torch

    positive, negative = weights_of(loss)
    return torch.where(target, positive * answers, negative * answers)


def torch_reduced(loss: Any, rows: Any, kept: Any) -> Any:
    """Mean over the rows that count, sum, or the rows."""
    import torch

    rows = torch.where(kept, rows, 0.0 * rows)
    return {"none": rows, "sum": rows.sum(), "mean": rows.sum() / max(int(kept.sum()), 1)}[loss.reduction]


def torch_ways(loss: Any, z: Any, y: Any) -> Any:
    """Cross entropy of rows, or the mean of that and of columns."""
    import torch

    ways = [torch.nn.functional.cross_entropy(each, y, reduction=loss.reduction) for each in (z, z.T)[: loss.ways]]
    return sum(ways) / loss.ways


class LinkSteps(NamedTuple):
    """Steps of the loss; wrong codes replace one."""

    unit_x: Callable[..., Any] = torch_unit
    unit_w: Callable[..., Any] = torch_unit
    cosine: Callable[..., Any] = lambda x, w: x @ w.T
    numbers: Callable[..., Any] = numbers
    """Scale and bias, of what is given."""
    own: Callable[..., Any] = lambda target: target
    curve: Callable[..., Any] = torch_curve
    scaled: Callable[..., Any] = lambda f, scale: scale * f
    biased: Callable[..., Any] = lambda z, b, target: z + b
    held: Callable[..., Any] = lambda loss, z, target: z.clamp(-loss.s, loss.s)
    answers: Callable[..., Any] | None = None
    weighted: Callable[..., Any] = torch_weighted
    summed: Callable[..., Any] = lambda answers: answers.sum(dim=1)
    reduced: Callable[..., Any] = torch_reduced
    ways: Callable[..., Any] = torch_ways


RIGHT = LinkSteps()


def torch_links(
    loss: Any, form: str = "logsigmoid", upcast: bool = False, steps: LinkSteps = RIGHT
) -> Callable[..., Any]:
    """The loss by autograd."""
    import torch

    def fn(x: Any, w: Any, *given: Any) -> Any:
        kind, labelled = x.dtype, hasattr(loss, "ignore_index")
        y, given = (given[0], given[1:]) if labelled else (torch.arange(len(x)), given)
        if upcast:
            x, w, *given = (entry.float() for entry in (x, w, *given))
        scale, b = steps.numbers(loss, tuple(given))
        cos = steps.cosine(steps.unit_x(x), steps.unit_w(w))
        target = steps.own(torch.nn.functional.one_hot(y.clamp(min=0), cos.shape[1]).bool())
        z = steps.scaled(steps.curve(loss, cos, target), scale)
        if isinstance(loss, refloss.InfoNCE):
            return steps.ways(loss, z, y).to(kind)
        z = z if b is None else steps.biased(z, b, target)
        z = steps.held(loss, z, target) if isinstance(loss, refloss.UniFace) else z
        answers = torch_answers(form, z, target) if steps.answers is None else steps.answers(z, target)
        rows = steps.summed(steps.weighted(loss, answers, target))
        kept = y != (loss.ignore_index if labelled else -1)
        return steps.reduced(loss, rows, kept).to(kind)

    return fn


def jax_links(loss: Any, form: str = "softplus", upcast: bool = False) -> Callable[..., Any]:
    """The same in jax, by jax.nn or by optax."""
    import jax
    import optax

    jnp = jax.numpy

    def fn(x: Any, w: Any, *given: Any) -> Any:
        kind, labelled = x.dtype, hasattr(loss, "ignore_index")
        y, given = (given[0], given[1:]) if labelled else (np.arange(len(x)), given)
        if upcast:
            x, w, *given = (entry.astype("float32") for entry in (x, w, *given))
        scale, b = numbers(loss, tuple(given))
        cos = (x / jax_length(x)[:, None]) @ (w / jax_length(w)[:, None]).T
        target = jax.nn.one_hot(jnp.maximum(jnp.asarray(y), 0), len(w)) > 0
        eta = cos
        if isinstance(loss, refloss.SphereFace2):
            g = 2.0 * ((1.0 + cos) / 2.0) ** loss.t - 1.0
            g = cos + jax.lax.stop_gradient(g - cos) if loss.gradient == "detached" else g
            eta = jnp.where(target, g - loss.m, g + loss.m)
        elif isinstance(loss, refloss.UniFace):
            eta = jnp.where(target, cos - loss.m, cos)
        z = (scale * eta).astype(x.dtype)
        if isinstance(loss, refloss.InfoNCE):
            rows = sum(jax_rows("log_softmax")(each, y) for each in (z, z.T)[: loss.ways]) / loss.ways
        else:
            z = z if b is None else z + b
            z = jnp.clip(z, -loss.s, loss.s) if isinstance(loss, refloss.UniFace) else z
            if form == "optax":
                answers = optax.sigmoid_binary_cross_entropy(z, target.astype(z.dtype))
            else:
                answers = jax.nn.softplus(jnp.where(target, -z, z))
            positive, negative = weights_of(loss)
            rows = jnp.where(target, positive * answers, negative * answers).sum(axis=1).astype(z.dtype)
        if labelled:
            return jax_reduced(rows, y, loss).astype(kind)
        return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[loss.reduction].astype(kind)

    return fn


def numpy_links(loss: Any, upcast: bool = False) -> Callable[..., Any]:
    """The same by hand: softplus and sigmoid of one exponential, gradients by two products."""
    total = accumulated(pairwise)

    def fn(x: Array, w: Array, *given: Any) -> Any:
        dtype, labelled = x.dtype, hasattr(loss, "ignore_index")
        y, given = (given[0], given[1:]) if labelled else (np.arange(len(x)), given)
        if upcast:
            x, w, *given = (widened(entry) for entry in (x, w, *given))
        kind = x.dtype.type
        scale, b = numbers(loss, tuple(given))
        scale = kind(scale)
        length_x, length_w = (numpy_length(rows, pairwise)[:, None] for rows in (x, w))
        ux, uw = x / length_x, w / length_w
        cos = product(ux, uw, pairwise)
        kept = y != (loss.ignore_index if labelled else -1)
        target = np.arange(len(w)) == y[:, None]
        f, slope = numpy_curve(loss, cos, target)
        z = scale * f
        share = kind(1.0 / max(int(kept.sum()), 1) if loss.reduction == "mean" else 1.0)
        if isinstance(loss, refloss.InfoNCE):
            each = [max_first(way, pairwise) for way in (z, z.T)[: loss.ways]]
            rows = sum(-np.diagonal(log_p) for log_p, _ in each) / kind(loss.ways)
            g = sum(p - np.eye(len(x), dtype=z.dtype) for _, p in each[:1])
            if loss.ways == 2:
                g = (g + (each[1][1] - np.eye(len(x), dtype=z.dtype)).T) / kind(2.0)
        else:
            z = z if b is None else z + b
            inside = np.ones(z.shape, bool)
            if isinstance(loss, refloss.UniFace):
                bound = kind(loss.s)
                inside, z = np.abs(z) <= bound, np.clip(z, -bound, bound)
            a, v = np.where(target, -z, z), np.where(target, *map(kind, weights_of(loss)))
            e = np.exp(-np.abs(a))
            rows = total(v * (np.maximum(a, kind(0.0)) + np.log1p(e))) * kept
            sigma = np.where(a < 0, e, kind(1.0)) / (kind(1.0) + e)
            g = np.where(target, -v, v) * sigma * (inside & kept[:, None])
        g = g * share
        value = rows if loss.reduction == "none" else total(rows) * share
        up = scale * g * slope
        dx, dw = product(up, uw.T, pairwise), product(up.T, ux.T, pairwise)
        dx, dw = ((d - total(d * u)[:, None] * u) / n for d, u, n in ((dx, ux, length_x), (dw, uw, length_w)))
        further = []
        if not labelled:
            further.append(total((g * cos).reshape(-1)))
        if b is not None:
            further.append(total(g.reshape(-1)) * kind(-1.0 if isinstance(loss, refloss.UniFace) else 1.0))
        return tuple(np.asarray(part).astype(dtype) for part in (value, dx, dw, *further))

    return fn


def numpy_curve(loss: Any, cos: Array, target: Array) -> tuple[Array, Array]:
    """What is scaled, and its slope in the cosine."""
    kind, one = cos.dtype.type, np.ones_like(cos)
    if isinstance(loss, refloss.SphereFace2):
        h = (kind(1.0) + cos) / kind(2.0)
        g = kind(2.0) * h**loss.t - kind(1.0)
        slope = one if loss.gradient == "detached" else kind(loss.t) * h ** (loss.t - 1)
        return np.where(target, g - kind(loss.m), g + kind(loss.m)), slope
    return (np.where(target, cos - kind(loss.m), cos), one) if isinstance(loss, refloss.UniFace) else (cos, one)
