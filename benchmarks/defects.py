"""Single defects of margin losses in float32: whether `check` refuses them is the table "Sharp" of budgets.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from correct_codes import Array, Fn, in_numpy

import refloss
from support.right_codes import torch_psi


class Defect(NamedTuple):
    """Code with one defect."""

    name: str
    framework: str
    fn: Fn


def single_defects(loss: Any) -> Iterator[Defect]:
    """Yield one defect at a time, of a margin loss with m on the angle or the cosine."""

    def changed(change: Fn) -> Fn:
        right = in_numpy(loss)
        return lambda x, w, y: change(x, w, y, *right(x, w, y))

    def other(**changes: Any) -> Fn:
        return in_numpy(replace(loss, **changes))

    def one_entry(x: Array, w: Array, y: Array, value: Any, dx: Array, dw: Array) -> Any:
        dx = dx.copy()
        dx[np.unravel_index(np.abs(dx).argmax(), dx.shape)] *= np.float32(1.001)
        return value, dx, dw

    def unprojected(x: Array, w: Array, y: Array, value: Any, dx: Array, dw: Array) -> Any:
        unit = w / np.linalg.norm(w, axis=1, keepdims=True)
        c = x / np.linalg.norm(x, axis=1, keepdims=True) @ unit.T
        return value, dx, dw + unit * np.abs(dw).max() * c.T.mean(axis=1, keepdims=True)

    def rounded(reduce: Fn) -> Fn:
        def fn(x: Array, w: Array, y: Array) -> Any:
            unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, w)]
            less = [reduce(rows) for rows in unit]
            value, dx, dw = in_numpy(loss)(*less, y)
            return value, dx / np.linalg.norm(x, axis=1, keepdims=True), dw / np.linalg.norm(w, axis=1, keepdims=True)

        return fn

    def clamped(x: Any, w: Any, y: Any) -> Any:
        import torch

        f = torch.nn.functional
        cos = (f.normalize(x) @ f.normalize(w).T).clamp(-1 + 1e-5, 1 - 1e-5)
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        psi = torch_psi(loss, cos[target], None, torch.acos(cos[target]), "arccos")
        return f.cross_entropy(loss.s * torch.where(target, psi[:, None], cos), y)

    yield Defect("m wrong by 1e-3", "numpy", other(m=loss.m * 1.001))
    yield Defect("s wrong by 1e-3", "numpy", other(s=loss.s * 1.001))
    yield Defect("one gradient entry wrong by 1e-3", "numpy", changed(one_entry))
    if isinstance(loss, refloss.ArcFace):
        detached = replace(loss, gradient="detached")

        def without(x: Array, w: Array, y: Array) -> Any:
            value, grad = detached.value_and_grad(x, w, y)
            return value, grad.x, grad.w

        yield Defect("detached margin", "numpy", without)
    yield Defect("all-zero gradient", "numpy", changed(lambda x, w, y, v, dx, dw: (v, 0 * dx, 0 * dw)))
    yield Defect("projection of dW missing", "numpy", changed(unprojected))
    for rule in (
        ("hard", "easy", "keep", "continuous", "monotone", "clamp", "min") if loss.m == 0.5 else ("conditional",)
    ):
        yield Defect(f"rule {rule} for {loss.boundary}", "numpy", other(boundary=rule))

    def ten_bits(rows: Array) -> Array:
        return (rows.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)

    yield Defect("inputs cut off after 10 bits (TF32)", "numpy", rounded(ten_bits))
    yield Defect("float16 matrix product", "numpy", rounded(lambda rows: rows.astype(np.float16).astype(np.float32)))
    yield Defect("cosine clamped at 1 - 1e-5", "torch", clamped)

    def smoothed(x: Array, w: Array, y: Array) -> Any:
        return in_numpy(replace(loss, label_smoothing=0.1 * len(w) / (len(w) - 1)))(x, w, y)

    yield Defect("smoothing eps/(C-1)", "numpy", smoothed)

    def counted(x: Array, w: Array, y: Array) -> Any:
        sums = in_numpy(replace(loss, reduction="sum"))(x, w, y)
        return tuple(part / np.float32(len(y)) for part in sums)

    yield Defect("ignored rows counted in the mean", "numpy", counted)
