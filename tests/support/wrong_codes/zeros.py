"""Wrong entries where the truth is 0: ignored rows, closed hinges, classes of weight 0, masked classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from support.right_codes.code import CE, DTYPES, LINEAR, SINGLES, WEIGHTED, WEIGHTS
from support.right_codes.torch_codes import picked, torch_logits, torch_triplet
from support.wrong_codes.code import (
    COS,
    PLAIN,
    ROWS,
    SQUARED,
    SUM,
    Array,
    by_hand,
    gradient_changed,
    one_hot,
    put,
    tampered,
    value_changed,
)


def structural_zeros() -> Iterator[tuple[Any, ...]]:
    """Ignored rows, closed hinges, classes of weight 0, masked classes, one class."""
    for loss in (CE, LINEAR, COS, ROWS):
        fn = by_hand(loss)
        for size in (1e30, 1e-3, 1e-20, np.nan):
            planted = gradient_changed(fn, lambda g, i, size=size: put(g, i[-1] == -100, size))
            yield f"{size:g} in the gradient of ignored rows, {loss}", "numpy", planted, loss, SINGLES
        planted = gradient_changed(fn, lambda g, i: put(g, (i[-1] == -100).nonzero()[0][-1:], 1e-3))
        yield f"1e-3 in the gradient of the last ignored row, {loss}", "numpy", planted, loss, DTYPES
        planted = gradient_changed(fn, lambda g, i: put(g, ((i[-1] == -100).nonzero()[0][:1], -1), 1e-3))
        yield f"1e-3 in one entry of the first ignored row, {loss}", "numpy", planted, loss, DTYPES

    def all_ignored(g: Array, inputs: Any) -> Array:
        return g + g.dtype.type(0.25) if (inputs[-1] == -100).all() else g

    yield "a gradient where all labels are ignored", "numpy", gradient_changed(by_hand(CE), all_ignored), CE, DTYPES
    yield (
        "a loss of 5 where all labels are ignored",
        "numpy",
        value_changed(by_hand(CE), lambda v, i: v.dtype.type(5.0) if (i[-1] == -100).all() else v),
        CE,
        DTYPES,
    )
    yield (
        "NaN for the sum of nothing",
        "numpy",
        value_changed(by_hand(SUM), lambda v, i: v * np.nan if (i[-1] == -100).all() else v),
        SUM,
        DTYPES,
    )
    yield (
        "NaN in the rows of ignored labels",
        "numpy",
        value_changed(by_hand(ROWS), lambda v, i: put(v, i[-1] == -100, np.nan)),
        ROWS,
        DTYPES,
    )
    for value in (1000.0, 1e-3):
        sure = value_changed(by_hand(CE), lambda v, i, value=value: v.dtype.type(value) if abs(v) < 1e-9 else v)
        yield f"a loss of {value:g} for 1e-13", "numpy", sure, CE, SINGLES
        sure = value_changed(by_hand(ROWS), lambda v, i, value=value: np.where(np.abs(v) < 1e-9, value, v))
        yield f"row losses of {value:g} for 1e-13", "numpy", sure, ROWS, SINGLES

    masked = "the gradient of masked classes"
    for size in (1e-3, 1e-20, np.nan):
        fn = gradient_changed(by_hand(CE), lambda g, i, size=size: put(g, np.isneginf(i[0]), size))
        yield f"{size:g} in {masked}", "numpy", fn, CE, SINGLES
    nan_logits = torch_logits(lambda z, y: z.logsumexp(dim=1) - (z * one_hot(z, y)).sum(dim=1), CE)  # 0 times -inf
    yield "NaN through 0 times a masked logit", "torch", nan_logits, CE, SINGLES
    for floor in (0.0, -10.0, -20.0):
        fn = with_logits(lambda z, floor=floor: np.where(np.isneginf(z), z.dtype.type(floor), z))
        dtypes = tuple(dtype for dtype in DTYPES if floor == 0.0 or dtype != "float16")  # which flushes exp(-10)
        yield f"masked logits taken for {floor:g}", "numpy", fn, CE, dtypes
    yield "masked logits taken for -100", "numpy", with_logits(lambda z: np.maximum(z, -100)), CE, ("float64",)
    yield "logits cut off at -50", "numpy", with_logits(lambda z: np.maximum(z, z.dtype.type(-50))), CE, SINGLES
    yield "logits cut off at 50", "numpy", with_logits(lambda z: np.clip(z, -50, 50).astype(z.dtype)), CE, DTYPES

    one = {"shapes": [(4, 1, 3)]}
    fn = gradient_changed(by_hand(CE), lambda g, i: g + g.dtype.type(1e-4))
    yield "a gradient for the only class", "numpy", fn, CE, SINGLES, one
    fn = value_changed(by_hand(CE), lambda v, i: v + v.dtype.type(1e-4) * np.isfinite(v))
    yield "a loss for the only class", "numpy", fn, CE, SINGLES, one
    fn = torch_logits(lambda z, y: -picked((z.softmax(dim=1) + 1e-5).log(), y), CE)
    yield "1e-5 added to the only probability", "torch", fn, CE, SINGLES, one

    def weightless(g: Array, inputs: Any) -> Array:
        return put(g, np.isin(inputs[-1], [1, 5]), 1e-3)

    for loss in (WEIGHTED, replace(LINEAR, class_weight=WEIGHTS), replace(COS, class_weight=WEIGHTS)):
        fn = gradient_changed(by_hand(loss), weightless)
        yield f"1e-3 in the gradient of rows of weight 0, {loss}", "numpy", fn, loss, DTYPES
    fn = gradient_changed(by_hand(WEIGHTED), lambda g, i: put(g, np.isin(i[-1], [1, 5]), np.nan))
    yield "NaN for classes of weight 0", "numpy", fn, WEIGHTED, DTYPES

    for loss in (SQUARED, PLAIN):
        yield from behind_closed_hinges(loss)


def behind_closed_hinges(loss: Any) -> Iterator[tuple[Any, ...]]:
    """Triplets that keep the margin, and have a gradient or a loss all the same."""
    fn, rows = by_hand(loss), replace(loss, reduction="none")

    def behind(inputs: Any, value: Any, *gradients: Array) -> Any:
        difference = (inputs[0] - inputs[1]) * closed(loss, inputs)[:, None]
        return value, *(part + part.dtype.type(0.5) * difference for part in gradients)

    def last(g: Array, inputs: Any) -> Array:
        return put(g, (closed(loss, inputs).nonzero()[0][-1:], -1), 1e-3)

    def opened(a: Any, p: Any, n: Any) -> Any:
        form = "squares" if loss.squared else "norm"
        open_rows = torch_triplet(replace(rows, m=loss.m + 1e4), form)(a, p, n)
        return (open_rows + (torch_triplet(rows, form)(a, p, n) - open_rows).detach()).mean()

    yield f"pulls behind a closed hinge, {loss}", "numpy", tampered(fn, behind), loss, DTYPES
    for place, name in enumerate(("anchor", "positive", "negative")):
        planted = gradient_changed(fn, last, place)
        yield f"1e-3 behind the last closed hinge, {name}, {loss}", "numpy", planted, loss, DTYPES
    yield f"gradient as if every hinge were open, {loss}", "torch", opened, loss, SINGLES
    fn = value_changed(by_hand(rows), lambda v, i: np.where(closed(loss, i), v.dtype.type(-0.5), v))
    yield f"negative rows behind a closed hinge, {loss}", "numpy", fn, rows, DTYPES


def closed(loss: Any, inputs: Any) -> Array:
    """Which triplets keep the margin with room to spare (N,)."""
    a, p, n = (part.astype(np.float64) for part in inputs)
    near, far = (((a - b) ** 2).sum(axis=1) ** (1.0 if loss.squared else 0.5) for b in (p, n))
    return np.asarray(near - far + loss.m < -0.05 * (near + far))


def with_logits(change: Callable[[Array], Array], loss: Any = CE) -> Callable[..., Any]:
    """Right code for logits that are changed first."""
    return lambda z, y: by_hand(loss)(change(z), y)
