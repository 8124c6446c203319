"""Compare a black box with a fitted loss on inputs that no fit has seen, in budgets of its dtype and standard."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.testing.adapters import Found
from refloss.testing.black_box.curves import target
from refloss.testing.black_box.deviations import Expected
from refloss.testing.black_box.measure import Box
from refloss.testing.comparison import compare
from refloss.testing.errors import Arithmetic
from refloss.testing.report import Quantity, refused
from refloss.testing.signatures import Inputs, Loss, centers_of, head_of, quality_of, scale_of


class Seen(NamedTuple):
    """A call of the black box with inputs that no fit has seen."""

    inputs: Inputs
    found: Found


class Verdict(NamedTuple):
    """How a loss with its deviations compares with the black box."""

    quantities: tuple[Quantity, ...]

    @property
    def residual(self) -> float:
        """The largest error over its budget."""
        return max((quantity.share for quantity in self.quantities), default=math.inf)

    @property
    def passed(self) -> bool:
        """Whether every value and every gradient is within its budget, and some of each could be decided."""
        names = {quantity.name for quantity in self.quantities}
        decided = {quantity.name for quantity in self.quantities if quantity.decided}
        return bool(names) and names == decided and all(quantity.passed for quantity in self.quantities)

    def of(self, *, values: bool) -> Verdict:
        """Return the verdict on the values, or on the gradients."""
        return Verdict(tuple(each for each in self.quantities if (each.name == "value") is values))


def seen(box: Box, several: Sequence[Inputs], seed: int) -> list[Seen]:
    """Call the black box with inputs, and differentiate it."""
    rng = np.random.default_rng(seed)
    return [Seen(inputs, box.called(*inputs, upstream=rng.normal(size=64))) for inputs in several]


def verdict(expected: Expected, calls: Sequence[Seen], fields: Sequence[str], a: Arithmetic, engine: str) -> Verdict:
    """Compare values and gradients with what is expected."""
    quantities: list[Quantity] = []
    for inputs, found in calls:
        got = {"value": found.value}
        got |= {f"d{name}": part for name, part in zip(fields, found.gradients or (), strict=False) if part is not None}
        truth, allowed = expected.at(inputs, found.upstream, a, engine)
        for name, entry in got.items():
            if np.shape(truth[name]) != entry.shape:
                quantities.append(refused(name, f"shape {entry.shape}, expected {np.shape(truth[name])}"))
            else:
                quantities.append(compare(name, entry, truth[name], allowed[name]))
    return Verdict(tuple(quantities))


# ------------------------------------------------------------------------------------------------------------- inputs


MANY = 40, 70, 6
"""Samples, classes and dimensions of the largest batch: code may leave out samples or classes of large ones alone."""


def held_out(loss: Loss, box: Box, seed: int) -> list[Inputs]:
    """Return inputs of a loss on directions: samples beside a class whose logit is near the target's, and batches."""
    rng = np.random.default_rng([seed, 1])
    several = [*_balanced(loss, box, rng)]
    for n, c, d in ((5, 4, 3), (3, 7, 6), (9, 3, 4)):
        y = rng.integers(c, size=n)
        x, w = rng.normal(size=(n, d)), rng.normal(size=(c, d)) * rng.uniform(0.3, 0.9, size=(c, 1))
        several.append((x / np.linalg.norm(x, axis=1, keepdims=True) * _lengths(loss, rng, n), w, y))
    several.append(_many(loss, rng))
    return [(box.exact(x), _with_centers(box.exact(w), loss, box, rng), y) for x, w, y in several]


def _many(loss: Loss, rng: np.random.Generator) -> tuple[Array, Array, Any]:
    """Return a large batch; its classes are near each other, so that every one of them counts in the value."""
    n, c, d = MANY
    x, w = rng.normal(size=(n, d)), np.eye(d)[0] + 0.05 * rng.normal(size=(c, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True) * _lengths(loss, rng, n), w, rng.integers(c, size=n)


def _with_centers(w: Array, loss: Loss, box: Box, rng: np.random.Generator) -> Array:
    """Return class weights with centers beside them, each in its own direction."""
    centers = centers_of(loss)
    if centers is None:
        return w
    every = np.repeat(w[:, None], centers, axis=1)
    every[:, 1:] += rng.normal(size=every[:, 1:].shape)
    return box.exact(every)


def _lengths(loss: Loss, rng: np.random.Generator, n: int) -> Array:
    """Return lengths of embeddings (n, 1): of margins that depend on them up to 200, else about 1."""
    most = 200.0 if head_of(loss) == "margin" and quality_of(loss) is not None else 3.0
    return np.exp(rng.uniform(math.log(0.4), math.log(most), size=(n, 1)))


def angles(loss: Loss) -> Array:
    """Return angles of the target that no fit has seen: all over, and past the boundary of a small or large margin."""
    every = np.linspace(0.07, math.pi - 0.07, 400)
    psi, _ = target(loss, every, np.ones(len(every)))
    bends = np.abs(np.diff(psi, 2))
    corner = every[1:-1][bends > 20.0 * (np.median(bends) + 1e-12)][:1]
    regular = np.array([0.13, 0.41, 0.77, 1.13, 1.49, 1.83, 2.17, 2.51, 2.79, 3.01])
    return np.concatenate([regular, np.clip(np.concatenate([corner - 0.03, corner + 0.03]), 0.07, math.pi - 0.07)])


def _balanced(loss: Loss, box: Box, rng: np.random.Generator) -> Iterator[tuple[Array, Array, Any]]:
    """Yield one sample, its target at an angle, a class whose logit is about the same, and one further away."""
    for theta in angles(loss).tolist():
        length = float(_lengths(loss, rng, 1)[0, 0])
        scale = length if scale_of(loss) is None else float(scale_of(loss) or 0.0)
        psi = float(target(loss, np.array([theta]), np.array([length]))[0][0])
        other = math.acos(min(max(psi + rng.uniform(-1.5, 2.5) / scale, -0.98), 0.98))
        yield _sample(rng, length, (theta, other, min(other + 0.4, 3.0)))


def _sample(rng: np.random.Generator, length: float, turns: Sequence[float]) -> tuple[Array, Array, Any]:
    """Return an embedding with classes at angles from it, in random directions, the target at a random place."""
    axes = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    tangents = rng.normal(size=(len(turns), 4)) @ axes[1:]
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    cos, sin = np.cos(turns)[:, None], np.sin(turns)[:, None]
    w = (cos * axes[0] + sin * tangents) * rng.uniform(0.3, 0.9, size=(len(turns), 1))
    order = rng.permutation(len(turns))
    return length * axes[:1], w[order], np.flatnonzero(order == 0)


def held_out_logits(box: Box, seed: int, classes: Sequence[int] = (2, 3, 7)) -> list[Inputs]:
    """Return logits and labels."""
    rng = np.random.default_rng([seed, 2])
    several: list[Inputs] = []
    for c in classes:
        for size, shift in ((0.3, 0.0), (1.0, 0.7), (3.0, -4.0), (12.0, 9.0)):
            z = size * rng.normal(size=(4, c)) + shift
            several.append((box.exact(z), rng.integers(c, size=4)))
    n, c, _ = MANY
    several.append((box.exact(rng.normal(size=(n, c))), rng.integers(c, size=n)))
    return several


def held_out_linear(box: Box, seed: int) -> list[Inputs]:
    """Return embeddings, class weights and labels of a linear head."""
    rng = np.random.default_rng([seed, 3])
    several: list[Inputs] = []
    for n, c, d in ((5, 4, 3), (3, 7, 6), (6, 2, 5)):
        for size in (0.3, 1.0, 3.0):
            x, w = size * rng.normal(size=(n, d)), rng.normal(size=(c, d))
            several.append((box.exact(x), box.exact(w), rng.integers(c, size=n)))
    n, c, d = MANY
    x, w = rng.normal(size=(n, d)), rng.normal(size=(c, d))
    several.append((box.exact(x), box.exact(w), rng.integers(c, size=n)))
    return several
