"""Wrong indices, and inputs that are written to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from support.right_codes.code import CE, DTYPES, LINEAR, SINGLES
from support.right_codes.jax_codes import jax_logits
from support.right_codes.numpy_codes import max_first, numpy_linear, pairwise, product, targets_of
from support.right_codes.torch_codes import picked, torch_head, torch_logits
from support.wrong_codes.code import (
    ARC,
    COS,
    PLAIN,
    ROWS,
    SQUARED,
    SUM,
    Array,
    by_hand,
    gradient_changed,
    put,
    tampered,
)


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
        result = by_hand(CE)(z, y)
        z -= z.max(axis=1, keepdims=True)
        return result

    def labels_cleared(z: Array, y: Array) -> Any:
        result = by_hand(CE)(z, y)
        y[y < 0] = 0
        return result

    def labels_are_truth(z: Array, y: Array) -> Any:
        y[...] = (np.abs(y) + 1) % z.shape[1]
        return by_hand(CE)(z, y)

    def unit_rows(x: Array, w: Array, y: Array) -> Any:
        result = by_hand(COS)(x, w, y)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        return result

    def gradient_over(z: Array, y: Array) -> Any:
        value, z[...] = by_hand(CE)(z, y)
        return value, z

    def view_of_weights(x: Array, w: Array, y: Array) -> Any:
        value, dx, dw = by_hand(LINEAR)(x, w, y)
        w[...] = dw
        return value, dx, w[:]

    def one_entry_written(a: Array, p: Array, n: Array) -> Any:
        result = by_hand(SQUARED)(a, p, n)
        n[-1, -1] += n.dtype.type(1.0)
        return result

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
