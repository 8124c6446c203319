"""Wrong reductions, targets and upstream gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from support.right_codes.code import CE, DTYPES, LINEAR, SINGLES, SMOOTH, WEIGHTED, WEIGHTS
from support.right_codes.numpy_codes import numpy_logits
from support.right_codes.torch_codes import picked, torch_reduced
from support.wrong_codes.code import (
    COS,
    ROWS,
    SQUARED,
    SUM,
    Array,
    Change,
    by_hand,
    gradient_changed,
    one_hot,
    put,
    tampered,
    value_changed,
)
from support.wrong_codes.precision import torch_own


def means() -> Iterator[tuple[Any, ...]]:
    """What the mean is of, class weights, smoothing, ignored classes, upstream gradients, forms of the results."""

    def scaled(loss: Any, by: Callable[[Any], float]) -> Callable[..., Any]:
        return tampered(by_hand(loss), lambda i, *results: tuple((part * part.dtype.type(by(i))) for part in results))

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
