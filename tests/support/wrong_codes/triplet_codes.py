"""Wrong triplet losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from support.right_codes.code import DTYPES, SINGLES
from support.right_codes.numpy_codes import numpy_triplet
from support.wrong_codes.code import PLAIN, SQUARED, by_hand, tampered


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
        tampered(by_hand(rows), lambda i, *gradients: tuple(part / part.dtype.type(len(i[0])) for part in gradients)),
        rows,
        DTYPES,
    )
    yield (
        "gradient without its factor 2",
        "numpy",
        tampered(by_hand(SQUARED), lambda i, v, *gradients: (v, *(part / part.dtype.type(2.0) for part in gradients))),
        SQUARED,
        DTYPES,
    )
    yield (
        "gradient of the mean over open triplets",
        "numpy",
        tampered(by_hand(PLAIN), lambda i, v, *gradients: (v, *(part * part.dtype.type(1.5) for part in gradients))),
        PLAIN,
        DTYPES,
    )
    yield (
        "gradient of the plain distance not divided by it",
        "numpy",
        tampered(by_hand(PLAIN), lambda i, v, *gradients: (v, *numpy_triplet(SQUARED)(*i)[1:])),
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
