"""Implementations that are wrong, each in one way: those of public reports, planted ones, and kinds of our own.

`wrong_codes` yields them with the dtypes in which they are wrong. `check` must pass none of them. Where only a stricter
standard can show a defect, the settings name that standard. Most are a right implementation with one thing changed: its
results, a setting of its loss, or a line of its formula. Symbols as in `right_codes`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

import refloss
from support.right_codes import (
    CE,
    DTYPES,
    HALVES,
    LINEAR,
    SINGLES,
    SMOOTH,
    WEIGHTED,
    WEIGHTS,
    accumulated,
    jax_logits,
    log_sum_exp,
    max_first,
    numpy_head,
    numpy_linear,
    numpy_logits,
    numpy_triplet,
    pairwise,
    picked,
    product,
    targets_of,
    torch_head,
    torch_linear,
    torch_logits,
    torch_p_minus_one,
    torch_psi,
    torch_reduced,
    torch_rows,
    torch_settings,
    torch_triplet,
    without_bias,
)

Array = np.ndarray[Any, Any]
Change = Callable[..., Any]

ROWS = replace(CE, reduction="none")
SUM = replace(CE, reduction="sum")
ARC, COS, NORM = refloss.ArcFace(), refloss.CosFace(), refloss.NormFace(s=16.0)
SPHERE = refloss.ASoftmax()
SQUARED, PLAIN = refloss.Triplet(), refloss.Triplet(squared=False)


class Wrong(NamedTuple):
    """Code that is wrong, and where."""

    name: str
    framework: str
    fn: Callable[..., Any]
    loss: Any
    dtypes: tuple[str, ...]
    """The dtypes in which it has to be refused."""
    settings: dict[str, Any]
    """Further arguments of `check`: a standard, where "working" cannot see the defect."""


def wrong_codes() -> Iterator[Wrong]:
    """Yield every implementation that is wrong."""
    for family in FAMILIES:
        for name, framework, fn, loss, dtypes, *settings in family():
            yield Wrong(name, framework, fn, loss, dtypes, settings[0] if settings else {})


def by_hand(loss: Any) -> Callable[..., Any]:
    """The right implementation in NumPy that defects are planted in."""
    return {
        "logits": lambda: numpy_logits(loss),
        "linear": lambda: without_bias(numpy_linear(loss)),
        "margin": lambda: numpy_head(loss),
        "triplet": lambda: numpy_triplet(loss),
    }[loss.spec.head]()


def tampered(fn: Callable[..., Any], change: Change) -> Callable[..., Any]:
    """Results of other code, changed: change(inputs, value, *gradients)."""

    def wrapped(*inputs: Any) -> Any:
        return change(inputs, *fn(*inputs))

    return wrapped


def gradient_changed(fn: Callable[..., Any], change: Callable[..., Any], place: int = 0) -> Callable[..., Any]:
    """One gradient changed: change(gradient, inputs)."""

    def wrapped(*inputs: Any) -> Any:
        value, *found = fn(*inputs)
        found[place] = change(found[place].copy(), inputs)
        return value, *found

    return wrapped


def value_changed(fn: Callable[..., Any], change: Callable[..., Any]) -> Callable[..., Any]:
    """The value changed: change(value, inputs)."""

    def wrapped(*inputs: Any) -> Any:
        value, *found = fn(*inputs)
        return change(value, inputs), *found

    return wrapped


def put(a: Array, where: Any, what: Any) -> Array:
    """A copy with some entries replaced."""
    a = a.copy()
    a[where] = what
    return a


# ------------------------------------------------------------------------------------------ entries whose truth is 0


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

    def behind(inputs: Any, value: Any, *found: Array) -> Any:
        pull = (inputs[0] - inputs[1]) * closed(loss, inputs)[:, None]
        return value, *(part + part.dtype.type(0.5) * pull for part in found)

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


def one_hot(z: Any, y: Any) -> Any:
    """Targets in the dtype of z, those of ignored labels class 0."""
    import torch

    return torch.nn.functional.one_hot(y.clamp(min=0), z.shape[1]).to(z.dtype)


def with_logits(change: Callable[[Array], Array], loss: Any = CE) -> Callable[..., Any]:
    """Right code for logits that are changed first."""
    return lambda z, y: by_hand(loss)(change(z), y)


# ------------------------------------------------------------------------------------------------ indices and writing


def indices() -> Iterator[tuple[Any, ...]]:
    """Labels that repeat, last rows, classes and columns, blocks, buffers and what is written into."""
    for loss in (LINEAR, replace(LINEAR, reduction="none")):
        for kind in ("overwritten", "dropped"):
            yield f"dw[y] -= x, {kind} where labels repeat, {loss}", "numpy", repeated(loss, kind), loss, SINGLES
    fn = gradient_changed(numpy_linear(LINEAR), repeated_bias, -1)
    yield "db[y] -= 1 overwritten where labels repeat", "numpy", fn, LINEAR, DTYPES, {"bias": True}

    def first_of_class(g: Array, inputs: Any) -> Array:
        _, where = np.unique(inputs[-1], return_index=True)
        return g * np.isin(np.arange(len(g)), where)[:, None]

    yield (
        "the first sample of each label alone has a gradient",
        "numpy",
        gradient_changed(by_hand(CE), first_of_class),
        CE,
        SINGLES,
    )

    drops: dict[str, Callable[[Array], Array]] = {
        "last row": lambda g: put(g, -1, 0.0),
        "first row": lambda g: put(g, 0, 0.0),
        "last column": lambda g: put(g, (slice(None), -1), 0.0),
        "last entry": lambda g: put(g, (-1, -1), 0.0),
        "remainder of rows by 4": lambda g: put(g, slice(len(g) // 4 * 4, None), 0.0) if len(g) > 4 else g,
        "remainder of columns by 4": lambda g: put(g, (slice(None), slice(g.shape[1] // 4 * 4, None)), 0.0),
        "remainder of columns by 8": lambda g: put(g, (slice(None), slice(g.shape[1] // 8 * 8, None)), 0.0),
        "second half of the rows": lambda g: put(g, slice((len(g) + 1) // 2, None), 0.0),
        "every row after the first": lambda g: put(g, slice(1, None), 0.0),
        "every second row": lambda g: put(g, slice(1, None, 2), 0.0),
        "every second column": lambda g: put(g, (slice(None), slice(1, None, 2)), 0.0),
    }
    for loss in (CE, LINEAR, ARC, SQUARED):
        for name, drop in drops.items():
            fn = gradient_changed(by_hand(loss), lambda g, i, drop=drop: drop(g), -1 if loss is LINEAR else 0)
            yield f"gradient not written: {name}, {type(loss).__name__}", "numpy", fn, loss, SINGLES
    fn = gradient_changed(by_hand(CE), lambda g, i: put(g, (slice(None), -1), np.nan))
    yield "gradient not initialised in the last column", "numpy", fn, CE, DTYPES
    fn = gradient_changed(by_hand(COS), lambda g, i: put(g, -1, 0.0), 1)
    yield "dw of the last class is 0", "numpy", fn, COS, DTYPES
    fn = gradient_changed(by_hand(COS), lambda g, i: g * np.isin(np.arange(len(g)), i[-1])[:, None], 1)
    yield "dw of classes without a sample is 0", "numpy", fn, COS, SINGLES
    fn = gradient_changed(by_hand(COS), lambda g, i: g * ~np.isin(np.arange(len(g)), i[-1])[:, None], 1)
    yield "dw of classes with a sample is 0", "numpy", fn, COS, DTYPES

    for block in (2, 4, 8):
        fn = torch_logits(of_some_classes(block), CE)
        yield f"logsumexp over whole blocks of {block} classes", "torch", fn, CE, SINGLES
    for block in (2, 8, 16, 32, 64, 128):
        fn = torch_logits(padded(block), CE)
        yield f"exp(0) of columns padded to a multiple of {block}", "torch", fn, CE, SINGLES

    def rows_left_out(count: Callable[[int], int]) -> Callable[..., Any]:
        def fn(z: Array, y: Array) -> Any:
            keep = slice(0, count(len(z)))
            value, _ = by_hand(SUM)(z[keep], y[keep])
            _, g = by_hand(CE)(z, y)
            counted = max(int((y != -100).sum()), 1)
            return value / value.dtype.type(counted), g

        return fn

    yield "the last row left out of the loss", "numpy", rows_left_out(lambda n: n - 1), CE, SINGLES
    yield "rows past a multiple of 2 left out of the loss", "numpy", rows_left_out(lambda n: n // 2 * 2), CE, SINGLES
    yield "the last column left out of the product", "numpy", shorter_product(), LINEAR, SINGLES

    moved: dict[str, tuple[Any, Callable[..., Any]]] = {
        "rows of dz rolled": (CE, lambda i, v, g: (v, np.roll(g, 1, axis=0))),
        "columns of dz rolled": (CE, lambda i, v, g: (v, np.roll(g, 1, axis=1))),
        "rows of dz reversed": (CE, lambda i, v, g: (v, g[::-1])),
        "dz transposed in memory": (CE, lambda i, v, g: (v, g.T.reshape(g.shape))),
        "dz transposed": (CE, lambda i, v, g: (v, g.T)),
        "dx and dw exchanged": (LINEAR, lambda i, v, dx, dw: (v, dw, dx)),
        "dw for dx": (ARC, lambda i, v, dx, dw: (v, np.resize(dw, dx.shape), dw)),
        "classes of dw rolled": (COS, lambda i, v, dx, dw: (v, dx, np.roll(dw, 1, axis=0))),
        "dw negated": (COS, lambda i, v, dx, dw: (v, dx, -dw)),
        "dx negated": (ARC, lambda i, v, dx, dw: (v, -dx, dw)),
        "positive and negative exchanged in the gradient": (SQUARED, lambda i, v, a, p, n: (v, a, n, p)),
        "positive and negative exchanged in the gradient, plain": (PLAIN, lambda i, v, a, p, n: (v, a, n, p)),
        "anchor's gradient without the negative": (SQUARED, lambda i, v, a, p, n: (v, -p, p, n)),
        "anchor's gradient without the positive": (PLAIN, lambda i, v, a, p, n: (v, -n, p, n)),
        "gradients of one triplet shared": (SQUARED, lambda i, v, a, p, n: (v, a, p, -p)),
    }
    for name, (loss, change) in moved.items():
        yield name, "numpy", tampered(by_hand(loss), change), loss, SINGLES
    for label, which in (("first", 0), ("last", -1)):

        def only_of(g: Array, inputs: Any, which: int = which) -> Array:
            label = which % inputs[0].shape[1]
            return g * np.where(inputs[-1] == label, 1.001, 1.0).astype(g.dtype)[:, None]

        fn = gradient_changed(by_hand(CE), only_of)
        yield f"a thousandth off where the label is the {label} class", "numpy", fn, CE, SINGLES
    for loss in (CE, ARC, SQUARED):
        fn = gradient_changed(by_hand(loss), one_entry)
        yield f"one entry a thousandth off, {type(loss).__name__}", "numpy", fn, loss, SINGLES
    yield "negative labels count from the last class", "numpy", last_class, CE, DTYPES
    yield "class 0 ignored too", "numpy", lambda z, y: by_hand(CE)(z, np.where(y > 0, y, -100)), CE, DTYPES
    yield "labels of the next row", "numpy", lambda z, y: by_hand(CE)(z, np.roll(y, -1)), CE, DTYPES
    yield "labels not looked at", "numpy", lambda z, y: by_hand(CE)(z, np.arange(len(z)) % z.shape[1]), CE, DTYPES
    for name, keep in {
        "classes past the largest label left out": lambda z, y: np.arange(z.shape[1]) <= max(int(y.max()), 0),
        "classes without a label left out": lambda z, y: np.isin(np.arange(z.shape[1]), np.maximum(y, 0)),
        "the five largest logits of each row alone": lambda z, y: z >= np.sort(z, axis=1)[:, -5:][:, :1],
        "logits more than 8 below the maximum left out": lambda z, y: z >= z.max(axis=1, keepdims=True) - 8.0,
    }.items():

        def of_some(z: Array, y: Array, keep: Any = keep) -> Any:
            own = np.arange(z.shape[1]) == y[:, None]
            return by_hand(CE)(np.where(keep(z, y) | own, z, -np.inf).astype(z.dtype), y)

        yield name, "numpy", of_some, CE, SINGLES
    yield "negative labels count from the last class, CosFace", "numpy", last_class_of_head, COS, SINGLES
    yield "ignored labels taken for class 0", "numpy", lambda z, y: by_hand(CE)(z, np.maximum(y, 0)), CE, DTYPES
    yield "ignored labels wrapped around", "numpy", lambda z, y: by_hand(CE)(z, y % z.shape[1]), CE, SINGLES
    yield "labels from 1", "numpy", lambda z, y: by_hand(CE)(z, np.where(y < 0, y, (y - 1) % z.shape[1])), CE, DTYPES
    yield "labels by argmax", "numpy", lambda z, y: by_hand(CE)(z, np.where(y < 0, y, z.argmax(axis=1))), CE, DTYPES
    yield "of a label's equals the first", "numpy", first_equal, CE, SINGLES
    fn = jax_logits("optax, labels", replace(ROWS, ignore_index=-7))
    yield "indices out of bounds, clipped by jax", "jax", fn, ROWS, SINGLES


def repeated(loss: Any, kind: str) -> Callable[..., Any]:
    """Softmax loss whose dw takes x off the label's row once, whatever the number of its samples."""

    def fn(x: Array, w: Array, y: Array) -> Any:
        value, dx, _ = by_hand(loss)(x, w, y)
        z = product(x, w, pairwise)
        targets = targets_of(y, len(w), loss, z.dtype)
        _, p = max_first(z, pairwise)
        scale = targets.kept / z.dtype.type(targets.divisor or np.inf)
        dw = (p * scale[:, None]).T @ x
        kept = y != loss.ignore_index
        if kind == "overwritten":
            dw[y[kept]] -= x[kept] * scale[kept, None]
        else:
            _, first = np.unique(y[kept], return_index=True)
            dw[y[kept][first]] -= x[kept][first] * scale[kept][first, None]
        return value, dx, dw.astype(x.dtype)

    return fn


def repeated_bias(g: Array, inputs: Any) -> Array:
    """db with 1 added back for every sample of a label but one."""
    if len(inputs) < 4:
        return g
    kept = inputs[2][inputs[2] >= 0]
    counts = np.bincount(kept, minlength=len(g))
    return (g + (np.maximum(counts - 1, 0) / max(len(kept), 1)).astype(g.dtype)).astype(g.dtype)


def of_some_classes(block: int) -> Callable[..., Any]:
    """Rows whose logsumexp leaves out what does not fill a block."""

    def rows(z: Any, y: Any) -> Any:
        return z[:, : z.shape[1] // block * block or None].logsumexp(dim=1) - picked(z, y)

    return rows


def padded(block: int) -> Callable[..., Any]:
    """Rows whose logsumexp has logits of 0 for columns up to a multiple of the block."""

    def rows(z: Any, y: Any) -> Any:
        import torch

        return torch.nn.functional.pad(z, (0, -z.shape[1] % block)).logsumexp(dim=1) - picked(z, y)

    return rows


def shorter_product() -> Callable[..., Any]:
    """Softmax loss whose logits miss the last dimension, with gradients as they should be."""

    def fn(x: Array, w: Array, y: Array) -> Any:
        value, *_ = by_hand(LINEAR)(x[:, :-1], w[:, :-1], y)
        return value, *by_hand(LINEAR)(x, w, y)[1:]

    return fn


def one_entry(g: Array, inputs: Any) -> Array:
    """The largest entry a thousandth larger."""
    at = np.unravel_index(np.abs(g).argmax(), g.shape)
    return put(g, at, g[at] * g.dtype.type(1.001))


def last_class(z: Array, y: Array) -> Any:
    """Negative labels as NumPy indexes them."""
    return by_hand(CE)(z, np.where(y < 0, z.shape[1] - 1, y))


def last_class_of_head(x: Array, w: Array, y: Array) -> Any:
    """Negative labels as NumPy indexes them."""
    return by_hand(COS)(x, w, np.where(y < 0, len(w) - 1, y))


def first_equal(z: Array, y: Array) -> Any:
    """The gradient of the first class that has the label's logit."""
    value, _ = by_hand(CE)(z, y)
    kept = y >= 0
    own = z[np.arange(len(z)), np.where(kept, y, 0)]
    first = (z == own[:, None]).argmax(axis=1)
    return value, by_hand(CE)(z, np.where(kept, first, y))[1]


def writing() -> Iterator[tuple[Any, ...]]:
    """Inputs and labels written into, buffers that remember, code that is another at its second call."""

    def maximum_off(z: Array, y: Array) -> Any:
        found = by_hand(CE)(z, y)
        z -= z.max(axis=1, keepdims=True)
        return found

    def labels_cleared(z: Array, y: Array) -> Any:
        found = by_hand(CE)(z, y)
        y[y < 0] = 0
        return found

    def labels_are_truth(z: Array, y: Array) -> Any:
        y[...] = (np.abs(y) + 1) % z.shape[1]
        return by_hand(CE)(z, y)

    def unit_rows(x: Array, w: Array, y: Array) -> Any:
        found = by_hand(COS)(x, w, y)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        return found

    def gradient_over(z: Array, y: Array) -> Any:
        value, z[...] = by_hand(CE)(z, y)
        return value, z

    def view_of_weights(x: Array, w: Array, y: Array) -> Any:
        value, dx, dw = by_hand(LINEAR)(x, w, y)
        w[...] = dw
        return value, dx, w[:]

    def one_entry_written(a: Array, p: Array, n: Array) -> Any:
        found = by_hand(SQUARED)(a, p, n)
        n[-1, -1] += n.dtype.type(1.0)
        return found

    for name, fn, loss in (
        ("the maximum taken off the logits in place", maximum_off, CE),
        ("ignored labels set to 0 in place", labels_cleared, CE),
        ("labels replaced by others in place", labels_are_truth, CE),
        ("embeddings normalised in place", unit_rows, COS),
        ("gradient written over the logits", gradient_over, CE),
        ("gradient written over the weights", view_of_weights, LINEAR),
        ("one entry of the negative changed", one_entry_written, SQUARED),
    ):
        yield name, "numpy", fn, loss, DTYPES

    def torch_in_place(z: Any, y: Any) -> Any:
        import torch

        value = torch.nn.functional.cross_entropy(z, y)
        y.clamp_(min=0)
        return value

    def torch_data(x: Any, w: Any, y: Any) -> Any:
        import torch

        w.data = torch.nn.functional.normalize(w.data)
        return torch_head(COS, "cosine")(x, w, y)

    def torch_copy(x: Any, w: Any, y: Any) -> Any:
        value = torch_head(COS, "cosine")(x, w, y)
        w.data.copy_(w.data / w.data.norm(dim=1, keepdim=True))
        return value

    yield "labels clamped in place", "torch", torch_in_place, CE, SINGLES
    yield "weights projected through .data", "torch", torch_copy, COS, SINGLES
    yield "weights projected before, no tangent", "torch", torch_data, COS, SINGLES

    def accumulating() -> Callable[..., Any]:
        memory: dict[Any, Array] = {}

        def fn(z: Array, y: Array) -> Any:
            value, g = by_hand(CE)(z, y)
            memory[z.shape] = memory.get(z.shape, 0 * g) + g
            return value, memory[z.shape]

        return fn

    def counting(then: Callable[[int, Any, Array], Any]) -> Callable[..., Any]:
        calls = [0]

        def fn(z: Array, y: Array) -> Any:
            calls[0] += 1
            return then(calls[0], *by_hand(CE)(z, y))

        return fn

    def wrong_from(call: int, until: int = 10**9) -> Callable[..., Any]:
        return counting(lambda n, v, g: (v, g * g.dtype.type(2.0)) if call <= n < until else (v, g))

    def raising(n: int, v: Any, g: Array) -> Any:
        if n == 2:
            raise RuntimeError("the buffer is gone")
        return v, g

    def leaving(n: int, v: Any, g: Array) -> Any:
        if n == 2:
            sys.exit(0)
        return v, g

    yield "gradients pile up from call to call", "numpy", accumulating(), CE, SINGLES
    yield "the second call has twice the gradient", "numpy", wrong_from(2, 3), CE, DTYPES
    yield "every call but the first has twice the gradient", "numpy", wrong_from(2), CE, DTYPES
    yield "the first call has twice the gradient", "numpy", wrong_from(1, 2), CE, DTYPES
    yield "the second call raises", "numpy", counting(raising), CE, DTYPES
    yield "the second call leaves the program", "numpy", counting(leaving), CE, DTYPES
    yield "values alternate", "numpy", counting(lambda n, v, g: (v * v.dtype.type(1 + n % 2), g)), CE, DTYPES
    for size, dtypes in ((1e-3, SINGLES), (1e-5, SINGLES), (0.1, DTYPES), (1e-12, ("float64",))):
        rng = np.random.default_rng(7)

        def noisy(g: Array, i: Any, size: float = size, rng: Any = rng) -> Array:
            return (g * (1.0 + size * rng.normal(size=g.shape))).astype(g.dtype)

        yield f"noise of {size:g} in the gradient", "numpy", gradient_changed(by_hand(CE), noisy), CE, dtypes

    class Stop(BaseException):
        """Nothing that `except Exception` sees."""

    def raises(error: BaseException, where: Callable[[Any], bool] = lambda z: True) -> Callable[..., Any]:
        def fn(z: Array, y: Array) -> Any:
            if where(z):
                raise error
            return by_hand(CE)(z, y)

        return fn

    for error in (SystemExit(0), SystemExit(1), KeyboardInterrupt(), Stop(), MemoryError(), RecursionError()):
        yield f"raises {type(error).__name__}({error})", "numpy", raises(error), CE, SINGLES
    only_large = raises(SystemExit(0), lambda z: bool(np.abs(z).max() > 100))
    yield "leaves the program for large logits", "numpy", only_large, CE, SINGLES
    only_odd = raises(ValueError("C has to be even"), lambda z: z.shape[1] % 2 == 1)
    yield "refuses an odd number of classes", "numpy", only_odd, CE, SINGLES
    yield "has nothing", "numpy", raises(NotImplementedError()), CE, DTYPES


# --------------------------------------------------------------------------------------------- logarithms, exponentials


def logarithms() -> Iterator[tuple[Any, ...]]:
    """log(softmax), sums of exponentials that overflow, what is added to probabilities, clips, short constants."""
    log_softmax = log_of_softmax()
    for loss in (CE, ROWS):
        yield f"log(softmax(z)), {loss.reduction}", "torch", torch_logits(log_softmax, loss), loss, DTYPES
        yield f"log(softmax(z)), {loss.reduction}", "numpy", numpy_logits(loss, numpy_log_softmax), loss, DTYPES
    yield "log(softmax(z)) of z.float()", "torch", torch_logits(log_softmax, CE, upcast=True), CE, HALVES
    linear = torch_linear(torch_logits(log_softmax, LINEAR))
    yield "log(softmax(z)) of a linear layer", "torch", linear, LINEAR, SINGLES
    linear = torch_linear(torch_logits(log_softmax, LINEAR), upcast=True)
    yield "log(softmax(z)) of a linear layer in float32", "torch", linear, LINEAR, HALVES
    for loss in (COS, refloss.NormFace(), ARC):
        fn = torch_head_with(loss, lambda z, y, loss=loss: torch_reduced(log_softmax(z, y), y, loss))
        yield f"log(softmax(z)), {type(loss).__name__}", "torch", fn, loss, ("float32",)
    fn = torch_head_with(refloss.ModifiedSoftmax(), lambda z, y: torch_reduced(log_softmax(z, y), y, CE))
    yield "log(softmax(z)), ModifiedSoftmax", "torch", fn, refloss.ModifiedSoftmax(), SINGLES

    unshifted = {
        "log sum exp(z) - z_y": lambda z, y: z.exp().sum(dim=1).log() - picked(z, y),
        "log of sum exp(z - z_y)": lambda z, y: (z - picked(z, y)[:, None]).exp().sum(dim=1).log(),
        "maximum of all rows taken off": lambda z, y: (z - z.max()).exp().sum(dim=1).log() - picked(z - z.max(), y),
        "first logit taken off": lambda z, y: (z - z[:, :1]).exp().sum(dim=1).log() - picked(z - z[:, :1], y),
        "minimum taken off": lambda z, y: (
            (z - z.amin(dim=1, keepdim=True)).exp().sum(dim=1).log() - picked(z - z.amin(dim=1, keepdim=True), y)
        ),
        "maximum of sizes taken off": lambda z, y: (
            (z - z.abs().amax(dim=1, keepdim=True)).exp().sum(dim=1).log()
            - picked(z - z.abs().amax(dim=1, keepdim=True), y)
        ),
        "exp(z_y) over the sum": lambda z, y: -(picked(z, y).exp() / z.exp().sum(dim=1)).log(),
        "exponential cut off at e^80": lambda z, y: z.exp().clamp(max=math.exp(80.0)).sum(dim=1).log() - picked(z, y),
        "1 added to the sum": lambda z, y: (1.0 + z.exp().sum(dim=1)).log() - picked(z, y),
        "log1p of the sum": lambda z, y: z.logsumexp(dim=1).exp().log1p() - picked(z, y),
        "softplus of the second class": lambda z, y: z.max(dim=1).values - picked(z, y),
        "log1p(p - 1)": lambda z, y: -(picked(z.softmax(dim=1), y) - 1.0).log1p(),
        "maximum subtracted from the sum alone": lambda z, y: (
            (z - z.amax(dim=1, keepdim=True)).exp().sum(dim=1).log() - picked(z, y)
        ),
        "maximum added twice": lambda z, y: z.logsumexp(dim=1) + z.amax(dim=1) - picked(z, y),
    }
    for name, rows in unshifted.items():
        for loss in (CE, ROWS) if "exp(z) - z_y" in name else (CE,):
            yield f"{name}, {loss.reduction}", "torch", torch_logits(rows, loss), loss, SINGLES
    yield (
        "log sum exp(z) - z_y of a linear layer",
        "torch",
        torch_linear(torch_logits(unshifted["log sum exp(z) - z_y"], LINEAR)),
        LINEAR,
        SINGLES,
    )
    yield (
        "log sum exp(z) - z_y, CosFace",
        "torch",
        torch_head_with(
            refloss.CosFace(s=800.0), lambda z, y: torch_reduced(unshifted["log sum exp(z) - z_y"](z, y), y, CE)
        ),
        refloss.CosFace(s=800.0),
        SINGLES,
    )
    for name, rows in {
        "log sum exp(z) - z_y": lambda jnp, z: jnp.log(jnp.exp(z).sum(axis=1)),
        "log(sum(exp(z)) + 1e-8)": lambda jnp, z: jnp.log(jnp.exp(z).sum(axis=1) + 1e-8),
        "maximum of all rows off, each row's put back": lambda jnp, z: (
            jnp.log(jnp.exp(z - z.max()).sum(axis=1)) + z.max(axis=1)
        ),
    }.items():
        yield name, "jax", jax_with(rows), CE, SINGLES, {"ignored": False}

    for least in (1e-12, 1e-10, 1e-8, 1e-7, 1e-5, 1e-3):
        rows = added_to_p(least)
        yield f"log(p + {least:g})", "torch", torch_logits(rows, CE), CE, SINGLES
        yield f"log(max(p, {least:g}))", "torch", torch_logits(at_least(least), CE), CE, SINGLES
        if least > 1e-12:
            yield f"log(p + {least:g}), in float32", "torch", torch_logits(rows, CE, upcast=True), CE, HALVES
    yield "log(max(p, 1e-30))", "torch", torch_logits(at_least(1e-30), CE), CE, SINGLES
    yield "log(p + 1e-30)", "torch", torch_logits(added_to_p(1e-30), CE), CE, SINGLES
    yield (
        "p between 1e-7 and 1 - 1e-7",
        "torch",
        torch_logits(lambda z, y: -picked(z.softmax(dim=1).clamp(1e-7, 1.0 - 1e-7), y).log(), CE),
        CE,
        SINGLES,
    )
    yield "loss at most 20", "torch", torch_logits(lambda z, y: log_softmax_rows(z, y).clamp(max=20.0), CE), CE, DTYPES
    yield (
        "loss at least 1e-4",
        "torch",
        torch_logits(lambda z, y: log_softmax_rows(z, y).clamp(min=1e-4), CE),
        CE,
        SINGLES,
    )
    yield (
        "loss not a number becomes 0",
        "torch",
        torch_logits(lambda z, y: log_softmax(z, y).nan_to_num(posinf=0.0), CE),
        CE,
        SINGLES,
    )

    softmaxes: dict[str, Any] = {
        "softmax taken twice": lambda z, y: log_softmax_rows(z.softmax(dim=1), y),
        "log_softmax taken for logits of softmax": lambda z, y: -picked(z.softmax(dim=1), y),
        "softmax over the samples": lambda z, y: -picked(z.log_softmax(dim=0), y),
        "sigmoids instead of softmax": lambda z, y: -picked(z, y).sigmoid().log(),
        "binary cross entropy of every class": lambda z, y: (
            -(one_hot(z, y) * z.sigmoid().log() + (1.0 - one_hot(z, y)) * (-z).sigmoid().log()).sum(dim=1)
        ),
        "others alone in the sum": lambda z, y: (
            z.masked_fill(one_hot(z, y).bool(), -math.inf).logsumexp(dim=1) - picked(z, y)
        ),
        "temperature of 1.01": lambda z, y: log_softmax_rows(z / 1.01, y),
        "mean of exponentials": lambda z, y: z.logsumexp(dim=1) - math.log(z.shape[1]) - picked(z, y),
        "base 2": lambda z, y: log_softmax_rows(z, y) / math.log(2.0),
        "logs of base 10": lambda z, y: log_softmax_rows(z, y) / math.log(10.0),
        "focal, gamma 0.01": lambda z, y: (
            log_softmax_rows(z, y) * (-log_softmax_rows(z, y)).exp().neg().add(1.0).pow(0.01)
        ),
        "a z-loss beside it": lambda z, y: log_softmax_rows(z, y) + 1e-4 * z.logsumexp(dim=1).square(),
        "logits softly capped at 30": lambda z, y: log_softmax_rows(30.0 * (z / 30.0).tanh(), y),
        "mean squared error of p": lambda z, y: (z.softmax(dim=1) - one_hot(z, y)).square().sum(dim=1),
        "logits of 16 bits": lambda z, y: log_softmax_rows(z.half().to(z.dtype), y),
        "two classes by sigmoid of their difference": lambda z, y: (
            log_softmax_rows(z, y) if z.shape[1] != 2 else -(picked(z, y) - z.amin(dim=1)).sigmoid().log()
        ),
    }
    for name, rows in softmaxes.items():
        yield name, "torch", torch_logits(rows, CE), CE, SINGLES

    constants: dict[str, tuple[float, float]] = {
        "log2(e) = 1.4427": (1.4427, math.log(2.0)),
        "ln 2 = 0.6931": (math.log2(math.e), 0.6931),
        "log2(e) with nine digits": (1.44269504, math.log(2.0)),
        "ln 2 with eight digits": (math.log2(math.e), 0.69314718),
    }
    for name, (up, down) in constants.items():
        dtypes = ("float64",) if "digits" in name else SINGLES
        yield name, "numpy", numpy_logits(CE, base_two_of(up, down)), CE, dtypes
    yield "powers of two without the maximum", "numpy", numpy_logits(CE, unshifted_base_two), CE, SINGLES
    yield "exponentials by a polynomial of degree 4", "numpy", numpy_logits(CE, polynomial_exp), CE, SINGLES
    yield "exponentials rounded to float16", "numpy", numpy_logits(CE, rounded_exp(np.float16)), CE, SINGLES
    yield "exponentials rounded to float32", "numpy", numpy_logits(CE, rounded_exp(np.float32)), CE, ("float64",)
    yield "running sum that is not rescaled", "numpy", numpy_logits(CE, not_rescaled), CE, DTYPES
    yield "running sum rescaled by the wrong sign", "numpy", numpy_logits(CE, rescaled_wrongly), CE, DTYPES
    yield "block sums added without their maxima", "numpy", numpy_logits(CE, sum_of_blocks), CE, DTYPES
    yield (
        "logsumexp of logsumexps added up",
        "torch",
        torch_logits(lambda z, y: sum(part.logsumexp(dim=1) for part in z.split(4, dim=1)) - picked(z, y), CE),
        CE,
        SINGLES,
    )
    yield (
        "log of the world size added",
        "torch",
        torch_logits(lambda z, y: z.logsumexp(dim=1) + math.log(4.0) - picked(z, y), CE),
        CE,
        DTYPES,
    )
    yield "classes gathered twice", "torch", torch_logits(log_softmax_of_pair, CE), CE, DTYPES
    yield "pairs added by logaddexp without -inf", "numpy", numpy_logits(CE, by_log_add), CE, SINGLES


def log_softmax_rows(z: Any, y: Any) -> Any:
    """Right rows."""
    return torch_rows("log_softmax, gather")(z, y)


def log_softmax_of_pair(z: Any, y: Any) -> Any:
    """Rows of logits that stand twice."""
    import torch

    return log_softmax_rows(torch.cat([z, z], dim=1), y)


def log_of_softmax() -> Callable[..., Any]:
    """Rows by log(softmax(z))."""
    return lambda z, y: -picked(z.softmax(dim=1).log(), y)


def numpy_log_softmax(z: Array, add: Any) -> tuple[Array, Array]:
    """log(softmax(z)), and p."""
    _, p = max_first(z, add)
    return np.log(p), p


def jax_with(log_sum: Callable[..., Any]) -> Callable[..., Any]:
    """Mean of log_sum(jax.numpy, z) - z_y in jax."""

    def fn(z: Any, y: Any) -> Any:
        import jax

        return (log_sum(jax.numpy, z) - z[np.arange(len(z)), y]).mean()

    return fn


def added_to_p(least: float) -> Callable[..., Any]:
    """Rows by log(p + eps)."""
    return lambda z, y: -(picked(z.softmax(dim=1), y) + least).log()


def at_least(least: float) -> Callable[..., Any]:
    """Rows by log(max(p, eps))."""
    return lambda z, y: -picked(z.softmax(dim=1), y).clamp(min=least).log()


def torch_head_with(loss: Any, of_logits: Callable[..., Any]) -> Callable[..., Any]:
    """A margin head without a rule and another loss of its logits."""
    import torch

    f = torch.nn.functional

    def fn(x: Any, w: Any, y: Any) -> Any:
        length = x.norm(dim=1, keepdim=True)
        ux, uw = x / length, w / w.norm(dim=1, keepdim=True)
        cos = ux @ uw.T
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        mine = uw[y.clamp(min=0)]
        theta = 2.0 * torch.atan2((ux - mine).norm(dim=1), (ux + mine).norm(dim=1))
        psi = torch_psi(loss, (ux * mine).sum(dim=1), torch.sin(theta), theta, "lengths")
        scale = length if loss.spec.scale is None else loss.spec.scale
        return of_logits(scale * torch.where(target, psi[:, None], cos), y)

    return fn


def base_two_of(up: float, down: float) -> Callable[..., Any]:
    """Powers of two with other constants."""

    def kernel(z: Array, add: Any) -> tuple[Array, Array]:
        gap = z - z.max(axis=1, keepdims=True)
        e = np.exp2(gap * z.dtype.type(up))
        total = accumulated(add)(e)[:, None]
        return gap - np.log2(total) * z.dtype.type(down), e / total

    return kernel


def unshifted_base_two(z: Array, add: Any) -> tuple[Array, Array]:
    """Powers of two of the logits themselves."""
    e = np.exp2(z * z.dtype.type(math.log2(math.e)))
    total = accumulated(add)(e)[:, None]
    return z - np.log2(total) * z.dtype.type(math.log(2.0)), e / total


def polynomial_exp(z: Array, add: Any) -> tuple[Array, Array]:
    """Exponentials of the fractional part by a short Taylor series."""
    gap = z - z.max(axis=1, keepdims=True)
    whole = np.where(np.isfinite(gap), np.rint(gap), -1e4)
    part = np.where(np.isfinite(gap), gap - whole, 0.0)
    e = (np.exp(whole) * (1.0 + part * (1.0 + part / 2.0 * (1.0 + part / 3.0 * (1.0 + part / 4.0))))).astype(z.dtype)
    total = accumulated(add)(e)[:, None]
    return gap - np.log(total), e / total


def rounded_exp(kind: Any) -> Callable[..., Any]:
    """Exponentials rounded to a shorter dtype."""

    def kernel(z: Array, add: Any) -> tuple[Array, Array]:
        gap = z - z.max(axis=1, keepdims=True)
        e = np.exp(gap).astype(kind).astype(z.dtype)
        total = accumulated(add)(e)[:, None]
        return gap - np.log(total), e / total

    return kernel


def _blocks(z: Array, size: int = 4) -> Iterator[Array]:
    for start in range(0, z.shape[1], size):
        yield z[:, start : start + size]


def not_rescaled(z: Array, add: Any) -> tuple[Array, Array]:
    """Online softmax that forgets to rescale its sum when the maximum grows."""
    top, total = np.full(len(z), -np.inf).astype(z.dtype), np.zeros(len(z)).astype(z.dtype)
    for part in _blocks(z, 2):
        top = np.maximum(top, part.max(axis=1))
        total = total + accumulated(add)(np.exp(part - top[:, None]))
    return (z - top[:, None]) - np.log(total)[:, None], np.exp(z - top[:, None]) / total[:, None]


def rescaled_wrongly(z: Array, add: Any) -> tuple[Array, Array]:
    """Online softmax that rescales by exp(new - old)."""
    top, total = z[:, 0], np.zeros(len(z)).astype(z.dtype)
    for part in _blocks(z, 2):
        higher = np.maximum(top, part.max(axis=1))
        total = total * np.exp(higher - top) + accumulated(add)(np.exp(part - higher[:, None]))
        top = higher
    return (z - top[:, None]) - np.log(total)[:, None], np.exp(z - top[:, None]) / total[:, None]


def sum_of_blocks(z: Array, add: Any) -> tuple[Array, Array]:
    """Sums of exponentials of blocks, each less its own maximum, added up as they are."""
    total = sum(accumulated(add)(np.exp(part - part.max(axis=1, keepdims=True))) for part in _blocks(z, 2))
    top = z.max(axis=1, keepdims=True)
    return z - top - np.log(total)[:, None], np.exp(z - top) / total[:, None]


def by_log_add(z: Array, add: Any) -> tuple[Array, Array]:
    """log(exp a + exp b) = a + log1p(exp(b - a)), with whichever comes first for a."""
    whole = z[:, 0]
    for k in range(1, z.shape[1]):
        whole = whole + np.log1p(np.exp(z[:, k] - whole))
    return z - whole[:, None], np.exp(z - whole[:, None])


# --------------------------------------------------------------------------------------------------------- arithmetic


def truncated(a: Array, bits: int = 10) -> Array:
    """Numbers of float32 with fewer bits, as tf32 has them."""
    mask = np.uint32(0xFFFFFFFF ^ ((1 << (23 - bits)) - 1))
    return np.asarray((np.ascontiguousarray(a, np.float32).view(np.uint32) & mask).view(np.float32))


def cast(fn: Callable[..., Any], kind: Any) -> Callable[..., Any]:
    """Code that computes in another dtype and casts back."""

    def wrapped(*inputs: Any) -> Any:
        like = inputs[0].dtype
        found = fn(*(a if a.dtype.kind == "i" else a.astype(kind) for a in inputs))
        return tuple(np.asarray(part).astype(like) for part in found)

    return wrapped


def arithmetic() -> Iterator[tuple[Any, ...]]:
    """Shorter dtypes where none is promised."""
    import ml_dtypes

    for loss in (CE, LINEAR, COS, ARC, SQUARED, PLAIN):
        name = f"{type(loss).__name__}{'' if getattr(loss, 'squared', True) else ', plain'}"
        yield f"float32 inside float64, {name}", "numpy", cast(by_hand(loss), np.float32), loss, ("float64",)
        yield f"bfloat16 inside, {name}", "numpy", cast(by_hand(loss), ml_dtypes.bfloat16), loss, SINGLES
        if loss is not ARC:
            yield f"float16 inside, {name}", "numpy", cast(by_hand(loss), np.float16), loss, SINGLES
    yield "bfloat16 inside float16", "numpy", cast(by_hand(CE), ml_dtypes.bfloat16), CE, ("float16",)

    def shorter(fn: Callable[..., Any], *places: int) -> Callable[..., Any]:
        return tampered(
            fn,
            lambda i, *found: tuple(
                np.asarray(part).astype(np.float32) if at in places else part for at, part in enumerate(found)
            ),
        )

    yield "the value in float32", "numpy", shorter(by_hand(CE), 0), CE, ("float64",)
    yield "the gradient in float32", "numpy", shorter(by_hand(CE), 1), CE, ("float64",)
    yield "dw in float32", "numpy", shorter(by_hand(COS), 2), COS, ("float64",)
    tf32 = {
        "x and w": lambda x, w: (truncated(x), truncated(w)),
        "x": lambda x, w: (truncated(x), w),
    }
    for which, factors in tf32.items():

        def rounded_factors(x: Array, w: Array, y: Array, factors: Any = factors) -> Any:
            return by_hand(LINEAR)(*factors(x, w), y)

        yield f"{which} rounded as tf32 rounds them", "numpy", rounded_factors, LINEAR, ("float32",)

    def tf32_cosines(x: Array, w: Array, y: Array) -> Any:
        size = [np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, w)]
        value, dx, dw = by_hand(COS)(truncated(x / size[0]), truncated(w / size[1]), y)
        return value, dx / size[0], dw / size[1]

    yield "cosines of tf32", "numpy", tf32_cosines, COS, ("float32",)

    def half_product(kind: str) -> Callable[..., Any]:
        def fn(x: Any, w: Any, y: Any) -> Any:
            import torch

            half = getattr(torch, kind)
            return torch.nn.functional.cross_entropy((x.to(half) @ w.to(half).T).to(x.dtype), y)

        return fn

    yield "a product in bfloat16", "torch", half_product("bfloat16"), LINEAR, SINGLES
    yield "a product in float16", "torch", half_product("float16"), LINEAR, ("float32",)
    yield (
        "sums in bfloat16, one term after the other",
        "numpy",
        narrow_sums,
        LINEAR,
        ("bfloat16",),
        {"standard": "mixed"},
    )
    rounded = torch_logits(torch_rows("log_softmax, gather"), CE)
    mixed = {"standard": "mixed"}
    yield "softmax rounded before p - 1", "torch", softmax_rounded, CE, ("bfloat16",), mixed
    yield "log p rounded", "torch", rounded, CE, ("bfloat16",), mixed
    yield "F.cross_entropy in half precision", "torch", torch_logits(torch_own, CE), CE, ("bfloat16",), mixed
    yield (
        "maximum off in half precision",
        "torch",
        torch_logits(torch_rows("maximum off, detached"), CE),
        CE,
        HALVES,
        mixed,
    )
    yield "logsumexp in half precision", "numpy", numpy_logits(CE, log_sum_exp), CE, HALVES, mixed
    yield "p - t in half precision", "torch", torch_p_minus_one(CE, upcast=False), CE, HALVES, mixed
    yield "cosines stored in half precision", "numpy", by_hand(COS), COS, HALVES, mixed
    yield (
        "an angle in half precision",
        "numpy",
        by_hand(refloss.ArcFace(s=16.0)),
        refloss.ArcFace(s=16.0),
        HALVES,
        mixed,
    )
    yield "a triplet in half precision", "numpy", by_hand(SQUARED), SQUARED, ("bfloat16",), mixed
    filtered = gradient_changed(numpy_logits(CE, upcast=True), lambda g, i: np.where(np.abs(g) < 2.0**-12, g * 0, g))
    yield "gradients below 2^-12 left out", "numpy", filtered, CE, HALVES, mixed
    stored = torch_linear(torch_logits(torch_rows("log_softmax, gather"), LINEAR, upcast=True))
    yield "logits stored in bfloat16", "torch", stored, LINEAR, ("bfloat16", "float16"), {"standard": "fused"}
    dz_stored = linear_in_float32(lambda g, like: g.astype(like.dtype), pairwise)
    yield "dz stored in half precision", "numpy", dz_stored, LINEAR, HALVES, {"standard": "fused"}
    added_up = linear_in_float32(lambda g, like: g, None)
    yield "dw added up in half precision", "numpy", added_up, LINEAR, HALVES, {"standard": "fused"}
    kernel = numpy_linear(LINEAR, upcast="kernel")
    yield "logits stored between two kernels", "numpy", kernel, LINEAR, HALVES, {"standard": "fused"}
    yield (
        "logsumexp - z_y, where the maximum has to be off",
        "numpy",
        numpy_logits(CE, log_sum_exp),
        CE,
        DTYPES,
        {"standard": "stable"},
    )
    relative = {"standard": "relative"}
    yield "tiny losses lost", "torch", torch_logits(torch_own, CE), CE, SINGLES, relative
    yield "tiny losses lost", "numpy", by_hand(CE), CE, SINGLES, relative
    filtered = gradient_changed(by_hand(CE), lambda g, i: np.where(np.abs(g) < 1e-4, g * 0, g))
    yield "gradients below 1e-4 left out", "numpy", filtered, CE, SINGLES
    filtered = gradient_changed(by_hand(COS), lambda g, i: np.where(np.abs(g) < 1e-5, g * 0, g))
    yield "gradients below 1e-5 left out, CosFace", "numpy", filtered, COS, SINGLES
    confident = gradient_changed(by_hand(ROWS), lambda g, i: g * (np.abs(g).max(axis=1, keepdims=True) > 1e-3))
    yield "gradients of confident rows are 0", "numpy", confident, ROWS, SINGLES
    clipped = gradient_changed(by_hand(SUM), lambda g, i: np.clip(g, -0.5, 0.5))
    yield "gradients between -0.5 and 0.5", "numpy", clipped, SUM, DTYPES
    total = replace(LINEAR, reduction="sum")
    clipped = gradient_changed(by_hand(total), lambda g, i: np.clip(g, -1, 1).astype(g.dtype), 1)
    yield "dw between -1 and 1", "numpy", clipped, total, DTYPES
    clipped = gradient_changed(by_hand(ARC), lambda g, i: (g / max(1.0, float(np.linalg.norm(g)))).astype(g.dtype))
    yield "gradients clipped by their norm", "numpy", clipped, ARC, SINGLES
    for factor in (1.0 + 1e-4, 1.0 + 1e-6, 1.0 - 1e-12):
        dtypes = ("float64",) if abs(factor - 1.0) < 1e-5 else SINGLES
        fn = gradient_changed(by_hand(CE), lambda g, i, factor=factor: (g * factor).astype(g.dtype))
        yield f"gradient times {factor!r}", "numpy", fn, CE, dtypes
        fn = value_changed(by_hand(CE), lambda v, i, factor=factor: v * v.dtype.type(factor))
        yield f"loss times {factor!r}", "numpy", fn, CE, dtypes
    fn = value_changed(by_hand(CE), lambda v, i: v * v.dtype.type(1.05))
    yield "loss 5 per cent too large", "numpy", fn, CE, HALVES
    fn = gradient_changed(by_hand(CE), lambda g, i: (g * g.dtype.type(1.05)).astype(g.dtype))
    yield "gradient 5 per cent too large", "numpy", fn, CE, HALVES
    yield "gradient by differences of 1e-3", "numpy", by_differences(1e-3), CE, SINGLES
    for size in (np.nan, np.inf, 1e30, -1e4):
        fn = gradient_changed(by_hand(CE), lambda g, i, size=size: confident_rows(g, size))
        yield f"{size:g} where rows are confident", "numpy", fn, CE, HALVES
        fn = gradient_changed(by_hand(ROWS), lambda g, i, size=size: one_of_confident(g, size))
        yield f"{size:g} in one entry of a confident row", "numpy", fn, ROWS, HALVES


def linear_in_float32(store: Callable[..., Array], add: Any) -> Callable[..., Any]:
    """Softmax loss in float32 but for dz, or for dw, to which one row after the other is added."""

    def fn(x: Array, w: Array, y: Array) -> Any:
        wide_x, wide_w = x.astype(np.float32), w.astype(np.float32)
        value, g = by_hand(CE)(product(wide_x, wide_w, pairwise), y)
        g = store(g, x).astype(np.float32)
        dw = np.zeros_like(w)
        for row, of_row in zip(wide_x, g, strict=True):
            dw = (dw + np.outer(of_row, row)).astype(w.dtype)
        dw = dw if add is None else product(g.T, wide_x.T, add)
        return value.astype(x.dtype), product(g, wide_w.T, pairwise).astype(x.dtype), dw.astype(x.dtype)

    return fn


def softmax_rounded(z: Any, y: Any) -> Any:
    """A kernel that stores its softmax in the logits' dtype, and takes 1 off in that buffer."""
    import torch

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Any, y: Any) -> Any:
            wide, kept = z.float(), y >= 0
            p = wide.softmax(dim=1).to(z.dtype)
            p[torch.arange(len(z))[kept], y[kept]] -= 1.0
            ctx.save_for_backward((p * kept[:, None]) / max(int(kept.sum()), 1))
            return torch.nn.functional.cross_entropy(wide, y).to(z.dtype)

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            return ctx.saved_tensors[0] * upstream, None

    return Kernel.apply(z, y)


def torch_own(z: Any, y: Any) -> Any:
    """Rows by torch's own cross entropy."""
    import torch

    return torch.nn.functional.cross_entropy(z, y.clamp(min=0), reduction="none")


def narrow_sums(x: Array, w: Array, y: Array) -> Any:
    """Matrix products that round every partial sum to the dtype."""

    def narrow(a: Array, b: Array) -> Array:
        total = np.zeros((len(a), len(b))).astype(a.dtype)
        for k in range(a.shape[1]):
            total = total + a[:, k : k + 1] * b[:, k]
        return total

    value, g = by_hand(CE)(narrow(x, w), y)
    return value, narrow(g, w.T.copy()), narrow(g.T.copy(), x.T.copy())


def by_differences(step: float) -> Callable[..., Any]:
    """A gradient by central differences of the value."""

    def fn(z: Array, y: Array) -> Any:
        value, g = by_hand(CE)(z, y)
        g = np.zeros_like(g)
        for at in np.ndindex(z.shape):
            sides = [by_hand(CE)(put(z, at, z[at] + z.dtype.type(side * step)), y)[0] for side in (1, -1)]
            g[at] = (sides[0] - sides[1]) / z.dtype.type(2.0 * step)
        return value, np.nan_to_num(g)

    return fn


def confident_rows(g: Array, size: float) -> Array:
    """Rows whose gradient is small, overwritten; rows of zeros stay."""
    most = np.abs(g.astype(np.float64)).max(axis=1)
    return put(g, (most > 0) & (most < 1e-4), size)


def one_of_confident(g: Array, size: float) -> Array:
    """The last entry of rows whose gradient is small, overwritten; rows of zeros stay."""
    most = np.abs(g.astype(np.float64)).max(axis=1)
    return put(g, (((most > 0) & (most < 1e-3)).nonzero()[0], -1), size)


# ------------------------------------------------------------------------------------- reductions, targets and upstream


def means() -> Iterator[tuple[Any, ...]]:
    """What the mean is of, class weights, smoothing, ignored classes, upstream gradients, forms of the results."""

    def scaled(loss: Any, by: Callable[[Any], float]) -> Callable[..., Any]:
        return tampered(by_hand(loss), lambda i, *found: tuple((part * part.dtype.type(by(i))) for part in found))

    def kept(inputs: Any) -> int:
        return max(int((inputs[-1] != -100).sum()), 1)

    for loss in (CE, LINEAR, COS):
        name = type(loss).__name__
        yield (
            f"ignored rows counted in the mean, {name}",
            "numpy",
            scaled(loss, lambda i: kept(i) / len(i[-1])),
            loss,
            DTYPES,
        )
        yield f"mean over N - 1, {name}", "numpy", scaled(loss, lambda i: kept(i) / max(kept(i) - 1, 1)), loss, SINGLES
        yield f"mean over N + 1, {name}", "numpy", scaled(loss, lambda i: kept(i) / (kept(i) + 1)), loss, SINGLES
        yield f"sum instead of mean, {name}", "numpy", by_hand(replace(loss, reduction="sum")), loss, DTYPES
        yield f"mean instead of sum, {name}", "numpy", by_hand(loss), replace(loss, reduction="sum"), DTYPES
        yield f"rows instead of mean, {name}", "numpy", by_hand(replace(loss, reduction="none")), loss, DTYPES
        yield f"mean instead of rows, {name}", "numpy", by_hand(loss), replace(loss, reduction="none"), DTYPES
        yield f"8 times, for a world size, {name}", "numpy", scaled(loss, lambda i: 8.0), loss, DTYPES
        yield f"divided by a world size, {name}", "numpy", scaled(loss, lambda i: 0.125), loss, DTYPES
        yield f"divided by N twice, {name}", "numpy", scaled(loss, lambda i: 1.0 / kept(i)), loss, DTYPES
        yield (
            f"mean over the classes, {name}",
            "numpy",
            scaled(loss, lambda i: kept(i) / (i[0].shape[1] if len(i) == 2 else len(i[1]))),
            loss,
            SINGLES,
        )
        yield (
            f"gradient of the sum, {name}",
            "numpy",
            gradient_changed(by_hand(loss), lambda g, i: g * g.dtype.type(kept(i))),
            loss,
            DTYPES,
        )
        yield (
            f"gradient divided by N twice, {name}",
            "numpy",
            gradient_changed(by_hand(loss), lambda g, i: g / g.dtype.type(kept(i)), -1),
            loss,
            DTYPES,
        )
        yield (
            f"gradient of the mean over all rows, {name}",
            "numpy",
            gradient_changed(by_hand(loss), lambda g, i: g * g.dtype.type(kept(i) / len(i[-1]))),
            loss,
            DTYPES,
        )
        yield (
            f"value of the mean over all rows, {name}",
            "numpy",
            value_changed(by_hand(loss), lambda v, i: v * v.dtype.type(kept(i) / len(i[-1]))),
            loss,
            DTYPES,
        )
    yield "mean of the means of two halves", "torch", mean_of_means, CE, SINGLES
    yield "mean over rows with a loss", "torch", over_rows_with_loss, CE, SINGLES
    yield "mean of the means of each class", "torch", mean_of_classes, CE, SINGLES
    yield "mean over the number of different labels", "torch", over_labels, CE, SINGLES
    yield "median instead of mean", "torch", lambda z, y: torch_own(z, y).median(), CE, SINGLES
    yield "rows of 1 / N each", "numpy", scaled(ROWS, lambda i: 1.0 / len(i[0])), ROWS, DTYPES

    v = np.asarray(WEIGHTS)
    unweighted = numpy_logits(replace(WEIGHTED, class_weight=None))
    by_number = scaled(WEIGHTED, lambda i: (v[np.maximum(i[1], 0)] * (i[1] >= 0)).sum() / kept(i))
    yield "class weights left out", "numpy", unweighted, WEIGHTED, DTYPES
    of_all = scaled(WEIGHTED, lambda i: weighed(v, i, False) / (weighed(v, i, True) or 1.0))
    yield "ignored rows weigh as much as class 0 in the mean", "numpy", of_all, WEIGHTED, SINGLES
    of_soft = tampered(
        numpy_logits(WEIGHTED), lambda i, v, g: (v, g) if i[1].ndim == 1 else (v * v.dtype.type(0.75), g)
    )
    yield "weighted probabilities over the weights", "numpy", of_soft, WEIGHTED, SINGLES, {"soft": True}
    yield "weighted mean divided by N", "numpy", by_number, WEIGHTED, DTYPES
    yield "class weights left out of the gradient", "numpy", two_codes(by_hand(WEIGHTED), unweighted), WEIGHTED, DTYPES
    yield "class weights left out of the value", "numpy", two_codes(unweighted, by_hand(WEIGHTED)), WEIGHTED, DTYPES
    weighted_rows = replace(WEIGHTED, reduction="none")
    squared_weights = numpy_logits(replace(weighted_rows, class_weight=tuple(w * w for w in WEIGHTS)))
    yield "class weights taken twice", "numpy", squared_weights, weighted_rows, DTYPES
    relative_weights = numpy_logits(replace(weighted_rows, class_weight=tuple(w / sum(WEIGHTS) * 7 for w in WEIGHTS)))
    yield "class weights brought to mean 1", "numpy", relative_weights, weighted_rows, DTYPES
    turned_weights = numpy_logits(replace(WEIGHTED, class_weight=WEIGHTS[::-1]))
    yield "class weights in reverse", "numpy", turned_weights, WEIGHTED, DTYPES
    yield "class weights times the logits", "torch", weights_on_logits, WEIGHTED, SINGLES
    yield "weight 0 by a division", "torch", divided_by_weight, WEIGHTED, DTYPES
    weighted_smooth = replace(WEIGHTED, label_smoothing=0.1)
    yield "smoothing without the class weights", "torch", smoothed_unweighted, weighted_smooth, SINGLES

    def smoothed(eps: Callable[[int], float]) -> Callable[..., Any]:
        return lambda z, y: numpy_logits(replace(CE, label_smoothing=eps(z.shape[1])))(z, y)

    for name, eps in {
        "eps / (C - 1) on the others": lambda c: 0.1 * c / (c - 1),
        "eps / (C / 2), of a shard": lambda c: 0.2,
        "smoothing left out": lambda c: 0.0,
        "smoothing of 0.11": lambda c: 0.11,
        "smoothing taken twice": lambda c: 0.19,
    }.items():
        yield name, "numpy", smoothed(eps), SMOOTH, DTYPES if name != "smoothing of 0.11" else SINGLES
    yield "smoothing left out of the gradient", "numpy", two_codes(by_hand(SMOOTH), by_hand(CE)), SMOOTH, DTYPES
    yield "smoothing left out of the value", "numpy", two_codes(by_hand(CE), by_hand(SMOOTH)), SMOOTH, DTYPES
    for name, t in {
        "the target keeps its 1": lambda own, c: own + 0.1 / c,
        "eps / C on the others alone": lambda own, c: 0.9 * own + 0.1 / c * (1.0 - own),
        "1 - eps on the label, nothing else": lambda own, c: 0.9 * own,
    }.items():
        yield name, "torch", of_targets(t), SMOOTH, SINGLES
    yield "KL divergence instead of cross entropy", "torch", kl_divergence, SMOOTH, SINGLES
    yield (
        "smoothed over the first half of the classes",
        "torch",
        of_targets(lambda own, c: 0.9 * own + 0.1 / (c // 2) * (np.arange(c) < c // 2).astype(np.float64)),
        SMOOTH,
        SINGLES,
    )
    soft = {"soft": True}
    yield "probabilities taken for their largest", "numpy", argmaxed, CE, SINGLES, soft
    yield "probabilities without smoothing", "numpy", numpy_logits(CE), SMOOTH, SINGLES, soft
    yield "mean of probabilities over all entries", "torch", over_entries, CE, SINGLES, soft
    yield "probabilities normalised by softmax", "torch", soft_softmax, CE, SINGLES, soft
    yield "the gradient of probabilities is p - 1", "numpy", soft_gradient, CE, SINGLES, soft
    yield (
        "mean of probabilities over the targets' sum",
        "numpy",
        tampered(numpy_logits(CE), lambda i, v, g: (v, g) if i[1].ndim == 1 else (v * v.dtype.type(2.0), g)),
        CE,
        SINGLES,
        soft,
    )

    for index in (1, 2):
        loss = replace(CE, ignore_index=index)
        yield f"class {index}, ignored as a label, left out of logsumexp", "torch", without_class(index), loss, SINGLES
        yield f"ignore_index=-100 for {index}", "numpy", numpy_logits(CE), loss, SINGLES
        yield f"ignore_index={index} for -100", "numpy", numpy_logits(loss), CE, SINGLES
        fn = numpy_logits(loss)
        yield (
            f"gradient of class {index}, ignored as a label, is 0",
            "numpy",
            gradient_changed(
                fn, lambda g, i, index=index: put(g, (slice(None), index), 0.0) if g.shape[1] > index else g
            ),
            loss,
            SINGLES,
        )

    for name, of_rows in {
        "upstream left out": lambda g, up: g,
        "upstream of the first row for all": lambda g, up: g * up[0],
        "mean of upstream for all": lambda g, up: g * up.mean(),
        "upstream of the next row": lambda g, up: g * up.roll(1, 0)[:, None],
        "upstream in reverse": lambda g, up: g * up.flip(0)[:, None],
        "upstream taken twice": lambda g, up: g * (up * up)[:, None],
        "size of upstream alone": lambda g, up: g * up.abs()[:, None],
        "upstream divided by N": lambda g, up: g * up[:, None] / len(g),
        "upstream between -1 and 1": lambda g, up: g * up.clamp(-1.0, 1.0)[:, None],
        "upstream as a mask": lambda g, up: g * (up > 0)[:, None],
    }.items():
        yield f"{name}, rows", "torch", with_backward(ROWS, of_rows), ROWS, DTYPES
    for name, of_one in {
        "upstream left out": lambda g, up: g,
        "upstream taken twice": lambda g, up: g * up * up,
        "size of upstream alone": lambda g, up: g * up.abs(),
        "upstream divided by N": lambda g, up: g * up / len(g),
        "upstream negated": lambda g, up: -g * up,
        "upstream rounded to a whole number": lambda g, up: g * up.round(),
    }.items():
        yield f"{name}, mean", "torch", with_backward(CE, of_one), CE, DTYPES

    shapes: dict[str, tuple[Any, Change]] = {
        "a value of shape (1,)": (CE, lambda i, v, g: (np.reshape(v, 1), g)),
        "rows of shape (N, 1)": (ROWS, lambda i, v, g: (v[:, None], g)),
        "the mean once per row": (ROWS, lambda i, v, g: (np.full_like(v, v.mean()), g)),
        "a gradient of shape (C,)": (CE, lambda i, v, g: (v, g.sum(axis=0))),
        "a gradient of shape (1, N, C)": (CE, lambda i, v, g: (v, g[None])),
        "a gradient without its last row": (CE, lambda i, v, g: (v, g[:-1])),
        "a number for a gradient": (CE, lambda i, v, g: (v, 0.0)),
        "dw left out": (LINEAR, lambda i, v, dx, dw: (v, dx)),
        "None for dw": (COS, lambda i, v, dx, dw: (v, dx, None)),
        "None for dx": (COS, lambda i, v, dx, dw: (v, None, dw)),
        "all gradients 0": (CE, lambda i, v, g: (v, 0 * g)),
        "dw 0": (COS, lambda i, v, dx, dw: (v, dx, 0 * dw)),
        "anchor's gradient alone": (SQUARED, lambda i, v, a, p, n: (v, a, 0 * p, 0 * n)),
        "a value of 0": (CE, lambda i, v, g: (0 * np.nan_to_num(v), g)),
        "a value of NaN": (CE, lambda i, v, g: (v * np.nan, g)),
        "an infinite value": (CE, lambda i, v, g: (v * np.inf, g)),
        "the negative of the loss": (CE, lambda i, v, g: (-v, -g)),
        "the value of another batch": (CE, lambda i, v, g: (by_hand(CE)(i[0][::-1], i[1])[0], g)),
        "nothing": (CE, lambda i, v, g: None),
        "a text": (CE, lambda i, v, g: "2.5"),
        "an empty tuple": (CE, lambda i, v, g: ()),
        "a complex value": (CE, lambda i, v, g: (complex(v, 1.0), g)),
        "the gradient first": (CE, lambda i, v, g: (g, v)),
        "a dict with another name": (CE, lambda i, v, g: (v, {"logits": g})),
        "a dict without dw": (COS, lambda i, v, dx, dw: (v, {"x": dx})),
        "strings for gradients": (CE, lambda i, v, g: (v, g.astype(str))),
        "whole numbers": (CE, lambda i, v, g: (np.rint(np.nan_to_num(v)).astype(int), g)),
    }
    for name, (loss, change) in shapes.items():
        yield name, "numpy", tampered(by_hand(loss), change), loss, SINGLES
    cut: dict[str, Callable[..., Any]] = {
        "a constant of autograd": lambda z, y: torch_own(z.detach(), y).mean(),
        "a Python number from torch": lambda z, y: torch_own(z, y).mean().detach().item(),
        "logsumexp without gradient": lambda z, y: (z.logsumexp(dim=1).detach() - picked(z, y)).mean(),
        "z_y without gradient": lambda z, y: (z.logsumexp(dim=1) - picked(z.detach(), y)).mean(),
        "half the gradient": lambda z, y: torch_own(0.5 * z + 0.5 * z.detach(), y).mean(),
        "twice the gradient": lambda z, y: torch_own(2.0 * z - z.detach(), y).mean(),
        "gradient of the label's logit alone": lambda z, y: torch_own(
            z * one_hot(z, y) + z.detach() * (1 - one_hot(z, y)), y
        ).mean(),
        "gradient cut where rows are confident": cut_confident,
    }
    for name, fn in cut.items():
        yield name, "torch", fn, CE, SINGLES, {"ignored": False}


def weighed(v: Array, inputs: Any, ignored: bool) -> float:
    """Sum of the weights of labels, those of ignored rows counted as class 0's or not at all."""
    y = inputs[1]
    return float((v[np.maximum(y, 0)] * ((y >= 0) | ignored)).sum())


def two_codes(value: Callable[..., Any], gradient: Callable[..., Any]) -> Callable[..., Any]:
    """The value of one code and the gradients of another."""
    return lambda *inputs: (value(*inputs)[0], *gradient(*inputs)[1:])


def mean_of_means(z: Any, y: Any) -> Any:
    """Mean of the means of two micro-batches of different numbers of rows."""
    import torch

    half = max(len(z) // 3, 1)
    parts = [part for part in ((z[:half], y[:half]), (z[half:], y[half:])) if len(part[0])]
    return torch.stack([torch_reduced(torch_own(*part), part[1], CE) for part in parts]).mean()


def over_rows_with_loss(z: Any, y: Any) -> Any:
    """The sum over the number of rows whose loss is not small."""
    rows = torch_own(z, y) * (y >= 0)
    return rows.sum() / (rows > 1e-3).sum().clamp(min=1)


def mean_of_classes(z: Any, y: Any) -> Any:
    """Mean over the labels that occur, of the mean of each."""
    import torch

    rows = torch_own(z, y)
    return torch.stack([rows[y == k].mean() for k in y[y >= 0].unique()]).mean()


def over_labels(z: Any, y: Any) -> Any:
    """The sum over the number of different labels."""
    return torch_reduced(torch_own(z, y), y, SUM) / max(len(y[y >= 0].unique()), 1)


def weights_on_logits(z: Any, y: Any) -> Any:
    """Class weights as factors of the logits."""
    import torch

    return torch_own(z.nan_to_num(neginf=-1e4) * torch.tensor(WEIGHTS, dtype=z.dtype), y).mean()


def divided_by_weight(z: Any, y: Any) -> Any:
    """Rows divided by their weight and multiplied again."""
    import torch

    weight = torch.tensor(WEIGHTS, dtype=z.dtype)[y.clamp(min=0)] * (y >= 0)
    return (torch_own(z, y) / weight * weight * weight).sum() / weight.sum()


def smoothed_unweighted(z: Any, y: Any) -> Any:
    """Weights on the label's term alone."""
    import torch

    weight = torch.tensor(WEIGHTS, dtype=z.dtype)[y.clamp(min=0)] * (y >= 0)
    spread = -z.log_softmax(dim=1).mean(dim=1)
    return (weight * (0.9 * torch_own(z, y) + 0.1 * spread)).sum() / weight.sum().clamp(min=1e-3)


def of_targets(t: Callable[..., Any]) -> Callable[..., Any]:
    """Cross entropy with other targets than those of smoothing."""
    import torch

    def fn(z: Any, y: Any) -> Any:
        own = one_hot(z, y).numpy().astype(np.float64)
        targets = torch.tensor(np.asarray(t(own, z.shape[1])), dtype=z.dtype)
        return torch_reduced(-(targets * z.log_softmax(dim=1)).sum(dim=1), y, SMOOTH)

    return fn


def kl_divergence(z: Any, y: Any) -> Any:
    """Smoothed targets less their entropy."""
    import torch

    t = 0.9 * one_hot(z, y) + 0.1 / z.shape[1]
    return torch_reduced((t * (t.log() - z.log_softmax(dim=1))).sum(dim=1), y, SMOOTH) + 0.0 * torch.zeros(())


def argmaxed(z: Array, y: Array) -> Any:
    """Probabilities as labels."""
    return by_hand(CE)(z, y if y.ndim == 1 else y.argmax(axis=1))


def over_entries(z: Any, y: Any) -> Any:
    """Mean over N times C entries, for probabilities."""
    return torch_reduced(torch_own(z, y), y, CE) if y.ndim == 1 else -(y * z.log_softmax(dim=1)).mean()


def soft_softmax(z: Any, y: Any) -> Any:
    """Probabilities once more through softmax."""
    if y.ndim == 1:
        return torch_reduced(torch_own(z, y), y, CE)
    return -(y.softmax(dim=1) * z.log_softmax(dim=1)).sum(dim=1).mean()


def soft_gradient(z: Array, y: Array) -> Any:
    """The gradient of the largest probability's label."""
    return two_codes(numpy_logits(CE), argmaxed)(z, y)


def without_class(index: int) -> Callable[..., Any]:
    """Rows whose logsumexp leaves out one class."""

    def fn(z: Any, y: Any) -> Any:
        keep = [k for k in range(z.shape[1]) if k != index]
        rows = z[:, keep].logsumexp(dim=1) - picked(z, y)
        return torch_reduced(rows, y, replace(CE, ignore_index=index))

    return fn


def with_backward(loss: Any, change: Callable[..., Any]) -> Callable[..., Any]:
    """A right forward and a backward that takes the upstream gradient otherwise: change(gradient, upstream)."""
    import torch

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Any, y: Any) -> Any:
            kept = y >= 0
            n = max(int(kept.sum()), 1) if loss.reduction == "mean" else 1
            ctx.save_for_backward((z.softmax(dim=1) - one_hot(z, y)) * kept[:, None] / n)
            return torch_reduced(torch_own(z, y), y, loss)

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            return change(ctx.saved_tensors[0], upstream), None

    return Kernel.apply


def cut_confident(z: Any, y: Any) -> Any:
    """Rows of probability above 0.999 are left out of the gradient."""
    import torch

    rows = torch_own(z, y)
    return torch.where(rows < 1e-3, rows.detach(), rows).mean()


# --------------------------------------------------------------------------------------------------- heads and biases


def heads() -> Iterator[tuple[Any, ...]]:
    """Linear layers with a bias; lengths, margins, scales and rules of losses on directions."""
    biases: dict[str, Callable[..., Any]] = {
        "bias added twice": lambda x, w, y, b: numpy_linear(LINEAR)(x, w, y, b + b),
        "bias left out": lambda x, w, y, b: (*numpy_linear(LINEAR)(x, w, y), numpy_linear(LINEAR)(x, w, y, b)[3]),
        "bias subtracted": lambda x, w, y, b: numpy_linear(LINEAR)(x, w, y, -b),
        "bias of the next class": lambda x, w, y, b: numpy_linear(LINEAR)(x, w, y, np.roll(b, 1)),
        "db is 0": lambda x, w, y, b: (*numpy_linear(LINEAR)(x, w, y, b)[:3], 0 * b),
        "db is the mean of p": lambda x, w, y, b: (*numpy_linear(LINEAR)(x, w, y, b)[:3], probabilities(x, w, y, b)),
        "db negated": lambda x, w, y, b: (*numpy_linear(LINEAR)(x, w, y, b)[:3], -numpy_linear(LINEAR)(x, w, y, b)[3]),
        "db divided by C": lambda x, w, y, b: (
            *numpy_linear(LINEAR)(x, w, y, b)[:3],
            numpy_linear(LINEAR)(x, w, y, b)[3] / b.dtype.type(len(b)),
        ),
        "db of ignored rows too": lambda x, w, y, b: (*numpy_linear(LINEAR)(x, w, y, b)[:3], every_row(x, w, y, b)),
        "db left out": lambda x, w, y, b: numpy_linear(LINEAR)(x, w, y, b)[:3],
        "db of the last class left out": lambda x, w, y, b: (
            *numpy_linear(LINEAR)(x, w, y, b)[:3],
            put(numpy_linear(LINEAR)(x, w, y, b)[3], -1, 0.0),
        ),
        "bias beside the softmax alone": bias_off_the_target,
    }
    for name, with_bias in biases.items():

        def fn(x: Array, w: Array, y: Array, b: Array | None = None, with_bias: Any = with_bias) -> Any:
            return numpy_linear(LINEAR)(x, w, y) if b is None else with_bias(x, w, y, b)

        yield name, "numpy", fn, LINEAR, DTYPES

    cosine = "cosine"
    changed: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
        "m of 0.4999 for 0.5": (ARC, replace(ARC, m=0.4999), SINGLES),
        "m of 0.3501 for 0.35": (COS, replace(COS, m=0.3501), SINGLES),
        "m of 0.35 in float32": (COS, replace(COS, m=float(np.float32(0.35))), ("float64",)),
        "s of 63.9 for 64": (COS, replace(COS, s=63.9), SINGLES),
        "no scale": (COS, replace(COS, s=1.0), DTYPES),
        "scale of 30 for 64": (ARC, replace(ARC, s=30.0), DTYPES),
        "scale squared": (NORM, replace(NORM, s=256.0), DTYPES),
        "length of the embedding for the scale": (COS, replace(COS, s=None), DTYPES),
        "scale for the length of the embedding": (refloss.NormFace(s=None), NORM, DTYPES),
        "no margin": (ARC, replace(ARC, m=0.0), DTYPES),
        "no margin on the cosine": (COS, replace(COS, m=0.0), DTYPES),
        "margin twice": (COS, replace(COS, m=0.7), DTYPES),
        "m of 28.6 degrees for 0.5": (ARC, replace(ARC, m=math.radians(28.6)), ("float64", "float32")),
        "m in degrees": (ARC, replace(ARC, m=math.radians(0.5)), DTYPES),
        "margin on the cosine for the angle": (ARC, refloss.CosFace(m=0.5), DTYPES),
        "margin on the angle for the cosine": (COS, refloss.ArcFace(m=0.35), DTYPES),
        "m1 left out": (refloss.CombinedMargin(m1=1.35), refloss.CombinedMargin(), DTYPES),
        "m2 left out": (refloss.CombinedMargin(), refloss.CombinedMargin(m2=0.0), DTYPES),
        "m3 left out": (refloss.CombinedMargin(), refloss.CombinedMargin(m3=0.0), DTYPES),
        "m2 and m3 exchanged": (refloss.CombinedMargin(), refloss.CombinedMargin(m2=0.2, m3=0.3), DTYPES),
        "m2 times m1": (
            refloss.CombinedMargin(m1=0.9, m2=0.4, m3=0.15),
            refloss.CombinedMargin(m1=0.9, m2=0.36, m3=0.15),
            SINGLES,
        ),
        "m cut down to a whole number": (refloss.ASoftmax(m=1.5, s=16.0), refloss.ASoftmax(m=1.0, s=16.0), DTYPES),
        "annealing left out": (refloss.ASoftmax(annealing=5.0), SPHERE, DTYPES),
        "annealing of 1 / 5": (refloss.ASoftmax(annealing=5.0), refloss.ASoftmax(annealing=0.2), DTYPES),
        "detached margin": (ARC, replace(ARC, gradient="detached"), DTYPES),
        "exact gradient for a detached margin": (replace(ARC, gradient="detached"), ARC, DTYPES),
        "detached, A-Softmax": (SPHERE, replace(SPHERE, gradient="detached"), DTYPES),
        "cos 4θ that rises again": (SPHERE, replace(SPHERE, boundary="none"), DTYPES),
        "cos 4θ that falls for ever": (replace(SPHERE, boundary="none"), SPHERE, DTYPES),
        "the label's class left out of smoothing": (
            replace(COS, label_smoothing=0.1),
            replace(COS, label_smoothing=0.09),
            SINGLES,
        ),
    }
    for name, (loss, other, dtypes) in changed.items():
        yield (
            name,
            "numpy",
            numpy_head(other, cosine if other.spec.margin.m1 == 1.0 and not other.spec.margin.m2 else "lengths"),
            loss,
            dtypes,
        )
    rules = ("none", "hard", "easy", "keep", "continuous", "monotone", "clamp", "min")
    for place, rule in enumerate(rules):
        other = replace(ARC, s=30.0, boundary=rules[place - 1])
        loss = replace(other, boundary=rule)
        yield f"rule {other.boundary!r} for {rule!r}", "numpy", numpy_head(other), loss, SINGLES
        if rule not in ("none", "hard"):
            yield f"no rule for {rule!r}", "torch", torch_head(replace(loss, boundary="none")), loss, SINGLES
    yield "rule 'hard' for 'none'", "numpy", numpy_head(replace(ARC, boundary="hard")), ARC, DTYPES
    yield (
        "margin everywhere for 'conditional'",
        "numpy",
        numpy_head(COS, cosine),
        replace(COS, boundary="conditional"),
        SINGLES,
    )
    yield (
        "'conditional' for a margin everywhere",
        "numpy",
        numpy_head(replace(COS, boundary="conditional"), cosine),
        COS,
        SINGLES,
    )

    for name, (loss, fn, dtypes) in torch_heads().items():
        yield name, "torch", fn, loss, dtypes

    def unit(rows: Array) -> Array:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    projections: dict[str, tuple[Any, Change]] = {
        "dw without its projection": (ARC, lambda i, v, dx, dw: (v, dx, dw + radial(i, dw, 1).astype(dw.dtype))),
        "dx without its projection": (COS, lambda i, v, dx, dw: (v, dx + radial(i, dx, 0).astype(dx.dtype), dw)),
        "dx not divided by the length": (
            COS,
            lambda i, v, dx, dw: (v, dx * np.linalg.norm(i[0], axis=1, keepdims=True), dw),
        ),
        "dw not divided by the length": (
            ARC,
            lambda i, v, dx, dw: (v, dx, dw * np.linalg.norm(i[1], axis=1, keepdims=True)),
        ),
        "dx divided by the squared length": (
            COS,
            lambda i, v, dx, dw: (v, dx / np.linalg.norm(i[0], axis=1, keepdims=True), dw),
        ),
        "dw of the unit rows of the batch alone": (
            COS,
            lambda i, v, dx, dw: (v, dx, np.where(np.isin(np.arange(len(dw)), i[2])[:, None], dw, 0 * dw)),
        ),
        "gradient without the length's part": (
            refloss.NormFace(s=None),
            lambda i, v, dx, dw: (v, dx - unit(i[0]) * (dx * unit(i[0])).sum(axis=1, keepdims=True), dw),
        ),
        "gradient without the scale": (COS, lambda i, v, dx, dw: (v, dx / dx.dtype.type(64), dw / dw.dtype.type(64))),
        "dw without the scale": (COS, lambda i, v, dx, dw: (v, dx, dw / dw.dtype.type(64))),
        "dw of the plain product": (
            SPHERE,
            lambda i, v, dx, dw: (v, dx, numpy_head(refloss.ModifiedSoftmax(), "cosine")(*i)[2]),
        ),
        "gradient of the loss without a margin": (
            ARC,
            lambda i, v, dx, dw: (v, *numpy_head(refloss.NormFace(), "cosine")(*i)[1:]),
        ),
    }
    for name, (loss, change) in projections.items():
        yield (
            name,
            "numpy",
            tampered(numpy_head(loss, cosine if loss in (COS, refloss.NormFace(s=None)) else "lengths"), change),
            loss,
            SINGLES,
        )


def probabilities(x: Array, w: Array, y: Array, b: Array) -> Array:
    """The mean probability of each class."""
    z = product(x, w, pairwise) + b
    return np.asarray(max_first(z, pairwise)[1].astype(np.float64).mean(axis=0).astype(b.dtype))


def every_row(x: Array, w: Array, y: Array, b: Array) -> Array:
    """db with the probabilities of ignored rows."""
    right = numpy_linear(LINEAR)(x, w, y, b)[3]
    z = product(x, w, pairwise) + b
    p = max_first(z, pairwise)[1].astype(np.float64) * (y < 0)[:, None]
    return np.asarray((right.astype(np.float64) + p.sum(axis=0) / max(int((y >= 0).sum()), 1)).astype(b.dtype))


def bias_off_the_target(x: Array, w: Array, y: Array, b: Array) -> Any:
    """A value whose z_y has no bias."""
    value, *found = numpy_linear(LINEAR)(x, w, y, b)
    kept = y >= 0
    lost = b[y[kept]].astype(np.float64).sum() / max(int(kept.sum()), 1)
    return (value + value.dtype.type(lost)).astype(value.dtype), *found


def radial(inputs: Any, g: Array, place: int) -> Array:
    """A part of a gradient along the rows it belongs to, as large as the gradient."""
    rows = inputs[place].astype(np.float64)
    size = np.linalg.norm(g.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(0.3 * size * rows / np.linalg.norm(rows, axis=1, keepdims=True))


def torch_heads() -> dict[str, tuple[Any, Callable[..., Any], tuple[str, ...]]]:
    """Margin heads in torch with one line changed: the loss, the code, the dtypes."""
    import torch

    f = torch.nn.functional

    def head(
        loss: Any,
        psi: Callable[..., Any],
        unit_x: Callable[[Any], Any] = f.normalize,
        unit_w: Callable[[Any], Any] = f.normalize,
        clamp: float | None = None,
        scaled: Callable[..., Any] = lambda z, s: s * z,
    ) -> Callable[..., Any]:
        """Cosines, psi(target's cosine) in the target's place, the scale, cross entropy."""

        def fn(x: Any, w: Any, y: Any) -> Any:
            cos = unit_x(x) @ unit_w(w).T
            cos = cos if clamp is None else cos.clamp(-1.0 + clamp, 1.0 - clamp)
            target = f.one_hot(y.clamp(min=0), len(w)).bool()
            z = torch.where(target, psi(cos), cos)
            scale = x.norm(dim=1, keepdim=True) if loss.spec.scale is None else loss.spec.scale
            z = scaled(z, scale)
            return f.cross_entropy(z, y, **torch_settings(loss, z))

        return fn

    def arccos(c: Any) -> Any:
        return torch.cos(torch.acos(c) + 0.5)

    def root(c: Any, inside: Callable[[Any], Any] = lambda a: a.clamp(0.0, 1.0)) -> Any:
        return c * math.cos(0.5) - inside(1.0 - c * c).sqrt() * math.sin(0.5)

    def lowered(c: Any) -> Any:
        return c - 0.35

    def detached_length(rows: Any) -> Any:
        return rows / rows.norm(dim=1, keepdim=True).detach()

    def longer(by: float) -> Callable[[Any], Any]:
        return lambda rows: rows / (rows.norm(dim=1, keepdim=True) + by)

    def under_root(by: float) -> Callable[[Any], Any]:
        return lambda rows: rows / (rows.square().sum(dim=1, keepdim=True) + by).sqrt()

    def rsqrt(rows: Any) -> Any:
        return rows * rows.square().sum(dim=1, keepdim=True).bfloat16().to(rows.dtype).rsqrt()

    def everywhere(x: Any, w: Any, y: Any) -> Any:
        return f.cross_entropy(64.0 * (f.normalize(x) @ f.normalize(w).T - 0.35), y)

    def others_too(x: Any, w: Any, y: Any) -> Any:
        cos = f.normalize(x) @ f.normalize(w).T
        mine = 2.0 * one_hot(cos, y) - 1.0
        return f.cross_entropy(64.0 * (cos - 0.35 * mine), y)

    def margin_of_ignored(x: Any, w: Any, y: Any) -> Any:
        cos = f.normalize(x) @ f.normalize(w).T
        return f.cross_entropy(64.0 * (cos - 0.35 * one_hot(cos, y)), y.clamp(min=0))

    def all_angles(x: Any, w: Any, y: Any) -> Any:
        cos = (f.normalize(x) @ f.normalize(w).T).clamp(-1.0 + 1e-7, 1.0 - 1e-7)
        theta = torch.acos(cos) + 0.5 * one_hot(cos, y)
        return f.cross_entropy(64.0 * torch.cos(theta), y)

    def angle_itself(x: Any, w: Any, y: Any) -> Any:
        cos = (f.normalize(x) @ f.normalize(w).T).clamp(-1.0 + 1e-7, 1.0 - 1e-7)
        return f.cross_entropy(64.0 * (torch.acos(cos) + 0.5 * one_hot(cos, y)), y)

    def random_margin(x: Any, w: Any, y: Any) -> Any:
        cos = f.normalize(x) @ f.normalize(w).T
        margins = 0.35 + 0.05 * torch.randn(len(x), 1, dtype=x.dtype)
        return f.cross_entropy(64.0 * (cos - margins * one_hot(cos, y)), y)

    def projected(x: Any, w: Any, y: Any) -> Any:
        unit = w / w.norm(dim=1, keepdim=True)
        return f.cross_entropy(
            64.0 * (f.normalize(x) @ (w + (unit - w).detach()).T - 0.35 * f.one_hot(y.clamp(min=0), len(w))), y
        )

    def no_gradient_for_w(x: Any, w: Any, y: Any) -> Any:
        return torch_head(COS, "cosine")(x, w.detach(), y)

    def naive(c: Any) -> Any:
        return torch.cos(4.0 * torch.acos(c.clamp(-1.0, 1.0)))

    def flipped(c: Any) -> Any:
        theta = torch.acos(c.detach().clamp(-1.0, 1.0))
        k = (4.0 * theta / math.pi).floor()
        return (1.0 - 2.0 * (k % 2.0)) * (8.0 * c**4 - 8.0 * c**2 + 1.0) + 2.0 * k

    def unsigned(c: Any) -> Any:
        k = (4.0 * torch.acos(c.detach().clamp(-1.0, 1.0)) / math.pi).floor()
        return (8.0 * c**4 - 8.0 * c**2 + 1.0) - 2.0 * k

    def eased(c: Any) -> Any:
        k = (4.0 * torch.acos(c.detach().clamp(-1.0, 1.0)) / math.pi).floor()
        return 5.0 * c + (1.0 - 2.0 * (k % 2.0)) * (8.0 * c**4 - 8.0 * c**2 + 1.0) - 2.0 * k

    hard = replace(ARC, boundary="hard")
    easy = replace(ARC, boundary="easy")
    past = math.cos(math.pi - 0.5)
    fall = 0.5 * math.sin(0.5)
    annealed = refloss.ASoftmax(s=16.0, annealing=5.0)
    heads = {
        "arccos": (ARC, head(ARC, arccos), SINGLES),
        "arccos between -1 and 1": (ARC, head(ARC, arccos, clamp=0.0), SINGLES),
        "sqrt(1 - c^2)": (ARC, head(ARC, root), SINGLES),
        "sqrt(1 - c^2 + 1e-6)": (ARC, head(ARC, lambda c: root(c, lambda a: a + 1e-6)), ("float64",)),
        "sqrt(1 - c^2) without a guard": (ARC, head(ARC, lambda c: root(c, lambda a: a)), SINGLES),
        "arccos, rule 'hard'": (hard, head(hard, lambda c: torch.where(c > past, arccos(c), c - fall)), SINGLES),
        "arccos, the rule's side exchanged": (
            hard,
            head(hard, lambda c: torch.where(c > past, c - fall, arccos(c))),
            SINGLES,
        ),
        "'hard' without its fall": (hard, head(hard, lambda c: torch.where(c > past, root(c), c)), SINGLES),
        "'hard' past cos(m)": (hard, head(hard, lambda c: torch.where(c > math.cos(0.5), root(c), c - fall)), SINGLES),
        "'easy' past cos(π - m)": (easy, head(easy, lambda c: torch.where(c > past, root(c), c)), SINGLES),
        "'easy', exchanged": (easy, head(easy, lambda c: torch.where(c > 0.0, c, root(c))), SINGLES),
        "cos θ cos m + sin θ sin m": (
            ARC,
            head(ARC, lambda c: c * math.cos(0.5) + (1.0 - c * c).clamp(min=1e-7).sqrt() * math.sin(0.5)),
            DTYPES,
        ),
        "cos(θ) cos(m)": (ARC, head(ARC, lambda c: c * math.cos(0.5)), DTYPES),
        "cos(m θ)": (ARC, head(ARC, lambda c: torch.cos(1.5 * torch.acos(c.clamp(-1 + 1e-7, 1 - 1e-7)))), SINGLES),
        "margin added to the angle after the scale": (
            ARC,
            head(ARC, lambda c: c, scaled=lambda z, s: s * z - 0.5),
            SINGLES,
        ),
        "s (θ + m)": (ARC, angle_itself, DTYPES),
        "every cosine through arccos": (ARC, all_angles, SINGLES),
        "the margin added": (COS, head(COS, lambda c: c + 0.35), DTYPES),
        "the margin off every class": (COS, everywhere, DTYPES),
        "the margin on both sides": (COS, others_too, DTYPES),
        "margin taken off after the scale": (COS, head(COS, lambda c: c - 0.35 / 64.0), DTYPES),
        "the cosine times 1 - m": (COS, head(COS, lambda c: c * 0.65), DTYPES),
        "ignored labels have the margin of class 0": (COS, margin_of_ignored, DTYPES),
        "a random margin": (COS, random_margin, DTYPES),
        "scale after cross entropy": (
            COS,
            lambda x, w, y: 64.0 * head(refloss.CosFace(s=1.0), lowered)(x, w, y),
            DTYPES,
        ),
        "divided by the scale": (COS, lambda x, w, y: head(COS, lowered)(x, w, y) / 64.0, DTYPES),
        "w normalised where it is longer than 1": (
            COS,
            head(COS, lowered, unit_w=lambda w: w / w.norm(dim=1, keepdim=True).clamp(min=1.0)),
            DTYPES,
        ),
        "length of the embedding between 0.5 and 4": (
            refloss.NormFace(s=None),
            head(refloss.NormFace(s=None), lambda c: c, scaled=lambda z, s: s.clamp(0.5, 4.0) * z),
            DTYPES,
        ),
        "x is not normalised": (COS, head(COS, lowered, unit_x=lambda x: x), DTYPES),
        "w is not normalised": (COS, head(COS, lowered, unit_w=lambda w: w), DTYPES),
        "neither is normalised": (COS, head(COS, lowered, lambda x: x, lambda w: w), DTYPES),
        "w normalised over the classes": (COS, head(COS, lowered, unit_w=lambda w: f.normalize(w, dim=0)), DTYPES),
        "x normalised over the samples": (
            NORM,
            head(NORM, lambda c: c, unit_x=lambda x: f.normalize(x, dim=0)),
            DTYPES,
        ),
        "x and w over one length": (COS, head(COS, lowered, unit_x=lambda x: x / x.norm()), DTYPES),
        "sum of sizes for the length": (
            COS,
            head(COS, lowered, unit_w=lambda w: w / w.abs().sum(dim=1, keepdim=True)),
            DTYPES,
        ),
        "lengths without gradient": (COS, head(COS, lowered, detached_length, detached_length), DTYPES),
        "length of x without gradient": (COS, head(COS, lowered, unit_x=detached_length), DTYPES),
        "length of w without gradient": (NORM, head(NORM, lambda c: c, unit_w=detached_length), DTYPES),
        "w projected, gradient straight through": (COS, projected, DTYPES),
        "no gradient for w": (COS, no_gradient_for_w, DTYPES),
        "1e-3 added to lengths": (COS, head(COS, lowered, longer(1e-3), longer(1e-3)), SINGLES),
        "1e-5 added to lengths": (COS, head(COS, lowered, longer(1e-5)), SINGLES),
        "1e-8 added to lengths": (COS, head(COS, lowered, longer(1e-8)), ("float64",)),
        "1e-4 under the root": (NORM, head(NORM, lambda c: c, under_root(1e-4)), SINGLES),
        "reciprocal root of a bfloat16": (NORM, head(NORM, lambda c: c, rsqrt), SINGLES),
        "cosines between -1 + 1e-3 and 1 - 1e-3": (COS, head(COS, lowered, clamp=1e-3), SINGLES),
        "cosines between -1 + 1e-5 and 1 - 1e-5": (COS, head(COS, lowered, clamp=1e-5), SINGLES),
        "cosines between -1 + 1e-7 and 1 - 1e-7": (COS, head(COS, lowered, clamp=1e-7), ("float64",)),
        "cosines between 0 and 1": (NORM, head(NORM, lambda c: c, scaled=lambda z, s: s * z.clamp(min=0.0)), DTYPES),
        "cosines of 1e-2 steps": (
            NORM,
            head(NORM, lambda c: c, scaled=lambda z, s: s * (z + ((100.0 * z).round() / 100.0 - z).detach())),
            SINGLES,
        ),
        "arccos clamped at 1 - 1e-7": (ARC, head(ARC, arccos, clamp=1e-7), SINGLES),
        "cos 4θ by arccos, no folds": (SPHERE, head(SPHERE, naive), SINGLES),
        "folds that rise": (SPHERE, head(SPHERE, flipped), DTYPES),
        "folds without their sign": (SPHERE, head(SPHERE, unsigned), DTYPES),
        "annealing not divided by 1 + λ": (annealed, head(annealed, eased), DTYPES),
        "the embedding's length without gradient": (
            refloss.NormFace(s=None),
            head(refloss.NormFace(s=None), lambda c: c, scaled=lambda z, s: s.detach() * z),
            DTYPES,
        ),
        "the batch's mean length": (
            refloss.NormFace(s=None),
            head(refloss.NormFace(s=None), lambda c: c, scaled=lambda z, s: s.mean() * z),
            DTYPES,
        ),
    }
    return heads


# ------------------------------------------------------------------------------------------------------------ triplets


def triplets() -> Iterator[tuple[Any, ...]]:
    """Distances, hinges and means of triplets."""
    import torch

    f = torch.nn.functional

    def squared(a: Any, b: Any) -> Any:
        return (a - b).square().sum(dim=1)

    def expanded(a: Any, b: Any) -> Any:
        return a.square().sum(dim=1) - 2.0 * (a * b).sum(dim=1) + b.square().sum(dim=1)

    def safe(a: Any, b: Any) -> Any:
        return (a - b).norm(dim=1)

    def of(
        distance: Callable[..., Any], m: float = 0.2, hinge: Callable[[Any], Any] = torch.relu
    ) -> Callable[..., Any]:
        return lambda a, p, n: hinge(distance(a, p) - distance(a, n) + m).mean()

    def active(a: Any, p: Any, n: Any) -> Any:
        rows = torch.relu(squared(a, p) - squared(a, n) + 0.2)
        return rows.sum() / (rows > 0).sum().clamp(min=1)

    def swapped(a: Any, p: Any, n: Any) -> Any:
        return torch.relu(squared(a, p) - torch.minimum(squared(a, n), squared(p, n)) + 0.2).mean()

    def unit(a: Any, p: Any, n: Any) -> Any:
        return of(squared)(f.normalize(a), f.normalize(p), f.normalize(n))

    def hardest(a: Any, p: Any, n: Any) -> Any:
        return torch.relu(squared(a, p).max() - squared(a, n).min() + 0.2)

    def no_anchor(a: Any, p: Any, n: Any) -> Any:
        return of(squared)(a.detach(), p, n) + 0.0 * a.sum()

    every = {
        "positive and negative exchanged": (SQUARED, lambda a, p, n: of(squared)(a, n, p), DTYPES),
        "anchor and positive exchanged": (SQUARED, lambda a, p, n: of(squared)(p, a, n), DTYPES),
        "plain distance for squared": (SQUARED, of(safe), DTYPES),
        "squared distance for plain": (PLAIN, of(squared), DTYPES),
        "no hinge": (SQUARED, of(squared, hinge=lambda v: v), DTYPES),
        "softplus for the hinge": (SQUARED, of(squared, hinge=f.softplus), DTYPES),
        "a leaky hinge": (SQUARED, of(squared, hinge=lambda v: f.leaky_relu(v, 0.01)), DTYPES),
        "a leaky hinge, 1e-6": (SQUARED, of(squared, hinge=lambda v: f.leaky_relu(v, 1e-6)), SINGLES),
        "a squared hinge": (SQUARED, of(squared, hinge=lambda v: torch.relu(v).square()), DTYPES),
        "a smooth hinge": (PLAIN, of(safe, hinge=lambda v: f.elu(v, 0.1)), SINGLES),
        "the margin left out": (SQUARED, of(squared, 0.0), DTYPES),
        "the margin subtracted": (SQUARED, of(squared, -0.2), DTYPES),
        "the margin outside the hinge": (SQUARED, of(squared, 0.0, lambda v: torch.relu(v) + 0.2), DTYPES),
        "the margin squared": (PLAIN, of(safe, 0.04), DTYPES),
        "a margin of 0.201": (SQUARED, of(squared, 0.201), SINGLES),
        "mean over open triplets": (SQUARED, active, SINGLES),
        "sum instead of mean, triplets": (SQUARED, lambda a, p, n: len(a) * of(squared)(a, p, n), DTYPES),
        "mean over dimensions": (SQUARED, of(lambda a, b: (a - b).square().mean(dim=1)), DTYPES),
        "half the squared distance": (SQUARED, of(lambda a, b: 0.5 * (a - b).square().sum(dim=1)), DTYPES),
        "sum of sizes for the distance": (PLAIN, of(lambda a, b: (a - b).abs().sum(dim=1)), DTYPES),
        "cosine distance": (SQUARED, of(lambda a, b: 1.0 - f.cosine_similarity(a, b)), DTYPES),
        "negative of the product": (SQUARED, of(lambda a, b: -(a * b).sum(dim=1)), DTYPES),
        "the nearer of two negatives": (SQUARED, swapped, DTYPES),
        "embeddings normalised": (SQUARED, unit, DTYPES),
        "the hardest of the batch": (SQUARED, hardest, SINGLES),
        "|a|^2 - 2ab + |b|^2": (SQUARED, of(expanded), SINGLES),
        "root of |a|^2 - 2ab + |b|^2": (PLAIN, of(lambda a, b: expanded(a, b).clamp(min=0.0).sqrt()), SINGLES),
        "root with NaN at distance 0": (PLAIN, of(lambda a, b: squared(a, b).sqrt()), SINGLES),
        "root of the square plus 1e-12": (PLAIN, of(lambda a, b: (squared(a, b) + 1e-12).sqrt()), SINGLES),
        "root of the square plus 1e-4": (PLAIN, of(lambda a, b: (squared(a, b) + 1e-4).sqrt()), SINGLES),
        "root of at least 1e-8": (PLAIN, of(lambda a, b: squared(a, b).clamp(min=1e-8).sqrt()), SINGLES),
        "1e-6 added to the difference": (PLAIN, lambda a, p, n: f.triplet_margin_loss(a, p, n, margin=0.2), SINGLES),
        "margin of 1, torch's default": (PLAIN, lambda a, p, n: f.triplet_margin_loss(a, p, n, eps=0.0), DTYPES),
        "no gradient for the anchor": (SQUARED, no_anchor, DTYPES),
        "no gradient for the negative": (
            SQUARED,
            lambda a, p, n: of(squared)(a, p, n.detach()) + 0.0 * n.sum(),
            DTYPES,
        ),
        "the first triplet alone": (SQUARED, lambda a, p, n: of(squared)(a[:1], p[:1], n[:1]), DTYPES),
        "the last dimension left out": (SQUARED, lambda a, p, n: of(squared)(a[:, :-1], p[:, :-1], n[:, :-1]), DTYPES),
        "negatives of the next triplet": (SQUARED, lambda a, p, n: of(squared)(a, p, n.roll(1, 0)), DTYPES),
        "distances cut off at 4": (SQUARED, of(lambda a, b: squared(a, b).clamp(max=4.0)), DTYPES),
    }
    for name, (loss, fn, dtypes) in every.items():
        yield name, "torch", fn, loss, dtypes
    rows = replace(SQUARED, reduction="none")
    yield "mean instead of rows, triplets", "numpy", by_hand(SQUARED), rows, DTYPES
    yield (
        "rows of 1 / N each, triplets",
        "numpy",
        tampered(by_hand(rows), lambda i, *found: tuple(part / part.dtype.type(len(i[0])) for part in found)),
        rows,
        DTYPES,
    )
    yield (
        "gradient without its factor 2",
        "numpy",
        tampered(by_hand(SQUARED), lambda i, v, *found: (v, *(part / part.dtype.type(2.0) for part in found))),
        SQUARED,
        DTYPES,
    )
    yield (
        "gradient of the mean over open triplets",
        "numpy",
        tampered(by_hand(PLAIN), lambda i, v, *found: (v, *(part * part.dtype.type(1.5) for part in found))),
        PLAIN,
        DTYPES,
    )
    yield (
        "gradient of the plain distance not divided by it",
        "numpy",
        tampered(by_hand(PLAIN), lambda i, v, *found: (v, *numpy_triplet(SQUARED)(*i)[1:])),
        PLAIN,
        DTYPES,
    )
    yield (
        "NaN for points that coincide",
        "numpy",
        tampered(
            by_hand(PLAIN),
            lambda i, v, a, p, n: (v, a, np.where((i[0] == i[1]).all(axis=1)[:, None], p * np.nan, p), n),
        ),
        PLAIN,
        DTYPES,
    )
    yield (
        "1e30 for points that coincide",
        "numpy",
        tampered(
            by_hand(PLAIN), lambda i, v, a, p, n: (v, a, np.where((i[0] == i[1]).all(axis=1)[:, None], 1e30, p), n)
        ),
        PLAIN,
        SINGLES,
    )
    yield (
        "a gradient of length 3 at distance 0",
        "numpy",
        tampered(
            by_hand(PLAIN),
            lambda i, v, a, p, n: (v, a, np.where((i[0] == i[1]).all(axis=1)[:, None], 3.0 / len(i[0]), p), n),
        ),
        PLAIN,
        SINGLES,
    )


FAMILIES = (structural_zeros, indices, writing, logarithms, arithmetic, means, heads, triplets)
