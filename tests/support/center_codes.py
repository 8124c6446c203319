"""Code of Sub-center ArcFace as projects write it, right and wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

S, M = 64.0, 0.5
IGNORED = -100
NEAREST = "the nearest center stands for its class"
REMEDY = "the choice is a constant, and the nearest has all of the gradient"


def numpy_code(x: Any, w: Any, y: Any) -> Any:
    """Value and gradients in the dtype of the inputs: the angle by chords, tangents by differences."""
    number, each = x.dtype.type, np.arange(len(x))
    s, m, kept = number(S), number(M), y != IGNORED
    length_x, length_w = np.linalg.norm(x, axis=1, keepdims=True), np.linalg.norm(w, axis=2, keepdims=True)
    x, w = x / length_x, w / length_w
    every = np.einsum("nd,ckd->nck", x, w)
    chosen, classes, y = every.argmax(axis=2), np.arange(len(w)), np.where(kept, y, 0)
    c, nearest = every.max(axis=2), w[classes, chosen]
    own = nearest[each, y]
    theta = number(2.0) * np.arctan2(np.linalg.norm(x - own, axis=1), np.linalg.norm(x + own, axis=1))
    z = s * c
    z[each, y] = s * np.cos(theta + m)
    z -= z.max(axis=1, keepdims=True)
    e = np.exp(z)
    losses, count = np.log(e.sum(axis=1)) - z[each, y], number(max(kept.sum(), 1))
    g = e / e.sum(axis=1, keepdims=True)
    g[each, y] -= number(1.0)
    g *= s * (kept / count).astype(x.dtype)[:, None]
    of_target = g[each, y] * np.sin(theta + m)
    g[each, y] = 0.0
    across = own - (own * x).sum(axis=1, keepdims=True) * x
    back = x - (own * x).sum(axis=1, keepdims=True) * own
    dx = np.einsum("nc,ncd->nd", g, nearest - c[..., None] * x[:, None])
    dx += of_target[:, None] * across / np.linalg.norm(across, axis=1, keepdims=True)
    dw = np.zeros_like(w)
    for n, k in np.argwhere(g):
        dw[k, chosen[n, k]] += g[n, k] * (x[n] - c[n, k] * nearest[n, k])
    np.add.at(dw, (y, chosen[each, y]), of_target[:, None] * back / np.linalg.norm(back, axis=1, keepdims=True))
    return (losses * kept).sum() / count, dx / length_x, dw / length_w


def torch_code(choose: Callable[[Any], Any], *, arccos: bool = False) -> Callable[..., Any]:
    """Code that takes cosines of classes (N, C) from those of all centers (N, C, K) as it is told.

    The target's angle is that of the nearest by chords, or the arccos of its cosine.
    """

    def code(x: Any, w: Any, y: Any) -> Any:
        import torch
        from torch.nn import functional

        kept = y != IGNORED
        if not kept.any():
            return 0.0 * (x.sum() + w.sum())
        x, w, y = functional.normalize(x[kept], dim=1), functional.normalize(w, dim=2), y[kept]
        each = torch.arange(len(y))
        own, z = w[y], choose(torch.einsum("nd,ckd->nck", x, w))
        near, far = (x[:, None] - own).norm(dim=2), (x[:, None] + own).norm(dim=2)
        by_chords = -choose(-2.0 * torch.atan2(near, far)[:, None])[:, 0]
        theta = torch.arccos(z[each, y]) if arccos else by_chords
        return functional.cross_entropy(S * z.index_put((each, y), torch.cos(theta + M)), y)

    return code


def torch_first(c: Any) -> Any:
    """`torch.max`: the gradient goes to one index."""
    return c.max(dim=2)[0]


def torch_divided(c: Any) -> Any:
    """`torch.amax`: the gradient is divided among equal entries."""
    return c.amax(dim=2)


def torch_last(c: Any) -> Any:
    """The gradient goes to the last of equal entries."""
    return c.flip(dims=(2,)).max(dim=2)[0]


def through_all(share: float) -> Callable[[Any], Any]:
    """The largest, whose gradient goes to all, by a share."""

    def choose(c: Any) -> Any:
        every = share * c.sum(dim=2)
        return every + (c.amax(dim=2) - every).detach()

    return choose


def value_of(choose: Callable[[Any], Any], layout: Callable[[Any], Any] = lambda w: w) -> Callable[..., Any]:
    """The value in NumPy and float64, with other cosines of classes."""

    def code(x: Any, w: Any, y: Any) -> Any:
        x, w = np.asarray(x, float), layout(np.asarray(w, float))
        x, w = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in (x, w))
        kept = y != IGNORED
        return _value(choose(np.einsum("nd,ckd->nck", x, w))[kept], y[kept])

    return code


def after_margin(x: Any, w: Any, y: Any) -> Any:
    """The value, with the margin on every center of the target, and then the largest."""
    x, w = (
        rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in (np.asarray(x, float), np.asarray(w, float))
    )
    kept = y != IGNORED
    y, c = y[kept], np.einsum("nd,ckd->nck", x[kept], w)
    each, z = np.arange(len(y)), c.max(axis=2)
    z[each, y] = np.cos(np.arccos(np.clip(c[each, y], -1.0, 1.0)) + M).max(axis=1)
    return _cross_entropy(z, y)


def _value(c: Any, y: Any) -> Any:
    c = c.copy()
    each = np.arange(len(y))
    c[each, y] = np.cos(np.arccos(np.clip(c[each, y], -1.0, 1.0)) + M)
    return _cross_entropy(c, y)


def _cross_entropy(c: Any, y: Any) -> Any:
    z = S * (c - c.max(axis=1, keepdims=True))
    return (np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]).mean() if len(y) else 0.0


def _soft(c: Any) -> Any:
    e = np.exp(10.0 * c)
    return (e * c).sum(axis=2) / e.sum(axis=2)


WRONG_VALUES: dict[str, Callable[..., Any]] = {
    f"the cosines of the centers of a class are averaged: {NEAREST}": value_of(lambda c: c.mean(axis=2)),
    f"the cosines of the centers of a class are added up: {NEAREST}": value_of(lambda c: c.sum(axis=2)),
    f"the farthest center of a class is taken: {NEAREST}": value_of(lambda c: c.min(axis=2)),
    f"the first center of a class is taken: {NEAREST}": value_of(lambda c: c[:, :, 0]),
    f"the centers of a class are weighted by the softmax of 10 times their cosines: {NEAREST}": value_of(_soft),
    "the target's center is chosen after the margin, by the largest psi: choose it by the largest cosine": after_margin,
    "class weights (C, 3, D) are taken for (3, C, D)": value_of(
        lambda c: c.max(axis=2), lambda w: w.reshape(w.shape[1], w.shape[0], -1).swapaxes(0, 1)
    ),
}
"""What is said of code with a wrong value, and the code."""
WRONG_GRADIENTS: dict[str, Callable[[Any], Any]] = {
    f"the gradient of a class goes to all of its centers: {REMEDY}": through_all(1.0),
    f"the gradient of a class is divided among all of its centers: {REMEDY}": through_all(1.0 / 3.0),
}
"""What is said of code with a wrong gradient, and how it chooses."""
