"""Measure a black box: calls with one sample in the plane, and with several that are the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.formats import FORMATS, rounded
from refloss.testing.adapters import Found, call
from refloss.testing.black_box.curves import Points
from refloss.testing.signatures import Inputs

DIMENSIONS = 4
NEAR = 0.3
"""Angle of the other class while the target's angle varies: next to the embedding, so that no softmax saturates."""
LOWEST, HIGHEST = 0.02, math.pi - 0.02
"""Angles that are measured: nearer to 0 and π a cosine in float32 does not know its angle."""


class Log:
    """What calls of foreign code showed beside their results."""

    def __init__(self) -> None:
        self.calls = 0
        self.changed: set[int] = set()
        """Positions of inputs that the code wrote into."""
        self.not_finite: list[Inputs] = []
        """Inputs at which the value was NaN or infinite."""
        self.kinds: set[str] = set()
        """Dtypes of values."""
        self.others = self.hint = ""
        """What else was returned, and how it was read; see `refloss.testing.adapters.Found`."""

    def add(self, inputs: Inputs, found: Found) -> None:
        """Add a call."""
        self.calls += 1
        self.changed.update(found.changed)
        self.kinds.add(found.kind)
        self.others, self.hint = self.others or found.others, self.hint or found.hint
        if not np.isfinite(found.value).all():
            self.not_finite.append(inputs)

    def remarks(self, fields: tuple[str, ...]) -> Iterator[str]:
        """Yield what a user has to know."""
        if self.not_finite:
            rows = zip(fields, self.not_finite[0], strict=False)
            sizes = [f"rows of {name} have lengths up to {np.linalg.norm(x, axis=-1).max():.3g}" for name, x in rows]
            where = f"in {len(self.not_finite)} of {self.calls} calls, first where {' and '.join(sizes)}"
            yield f"the value is NaN or infinite {where}"
        for place in sorted(self.changed):
            yield f"the code writes into its input {(*fields, 'y')[place]}"
        if self.others:
            yield f"beside the value came what is no gradient, and was not looked at: {self.others}"


@dataclass(frozen=True)
class Box:
    """Foreign code, and how it is called."""

    fn: Callable[..., Any]
    framework: str
    dtype: str
    device: Any
    fields: tuple[str, ...]
    """Names of the inputs that have gradients."""
    centers: int | None = None
    """How many rows of w a class has, where w is (C, K, D)."""
    log: Log = field(default_factory=Log)

    @property
    def u(self) -> float:
        """Half the distance from 1 to the next number."""
        return FORMATS[self.dtype].u

    def called(self, *inputs: NDArray[Any], upstream: Array | None = None) -> Found:
        """Call the code; with an upstream gradient it is differentiated too."""
        wanted = () if upstream is None else self.fields
        labels = 1 if self.fields == ("z",) else 2
        upstream = np.ones(1) if upstream is None else upstream
        settings = self.fn, self.framework, self.dtype, self.device
        found = call(*settings, inputs, upstream, self.fields, labels, wanted)
        self.log.add(inputs, found)
        return found

    def repeated(self, seed: int) -> Found:
        """Call and differentiate the code with inputs that are always the same."""
        rng = np.random.default_rng([seed, 4])
        x, w = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(2, 6, 6)))
        inputs = (x,) if self.fields == ("z",) else (x, self.with_centers(w))
        return self.called(*map(self.exact, inputs), rng.permutation(6), upstream=np.ones(6))

    def exact(self, numbers: Array) -> Array:
        """Round numbers to the dtype."""
        return np.asarray(rounded(numbers, self.dtype), dtype=np.float64)

    def with_centers(self, w: Array) -> Array:
        """Return class weights (C, D), every center of a class the same where it has several."""
        return w if self.centers is None else np.repeat(w[:, None], self.centers, axis=1)


class Plane:
    """One embedding, its target and another class at given angles, each with a tangent of its own."""

    def __init__(self, box: Box, seed: int) -> None:
        self.box = box
        self.axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(DIMENSIONS, DIMENSIONS)))[0]

    def inputs(
        self, theta: float, other: float, copies: int, length: float, of_target: float, of_other: float
    ) -> Inputs:
        """Return x (1, D), w (1 + n, D) and y (1,): the target is the first class."""
        x, first, second, _ = self.axes
        target = of_target * (math.cos(theta) * x + math.sin(theta) * first)
        others = of_other * (math.cos(other) * x + math.sin(other) * second)
        w = self.box.exact(np.vstack([target, *[others] * copies]))
        return self.box.exact(length * x[None]), w, np.zeros(1, dtype=np.int64)

    def at(
        self,
        theta: float,
        other: float,
        copies: int = 1,
        length: float = 1.0,
        of_target: float = 1.0,
        of_other: float = 1.0,
    ) -> tuple[float, float, float, float, float]:
        """Measure one point: its angles and length as the dtype has them, and the value."""
        x, w, y = self.inputs(theta, other, copies, length, of_target, of_other)
        value = single(self.box.called(x, self.box.with_centers(w), y).value)
        return angle_between(x[0], w[0]), angle_between(x[0], w[1]), copies, float(np.linalg.norm(x)), value

    def first(self) -> Inputs:
        """Return inputs to measure a reduction with."""
        x, w, y = self.inputs(1.5, 0.8, 1, 1.0, 1.0, 1.0)
        return x, self.box.with_centers(w), y

    def curve(self, points: Iterable[tuple[float, ...]]) -> Points:
        """Measure several points."""
        return Points.of([self.at(*point) for point in points])  # type: ignore[arg-type]


def difference(one: Found, other: Found, u: float) -> str | None:
    """Return how two calls with the same inputs differ, if it is by more than sums in another order."""
    ours, theirs = (
        {"value": found.value} | {place: part for place, part in enumerate(found.gradients or ()) if part is not None}
        for found in (one, other)
    )
    if {name: part.shape for name, part in ours.items()} != {name: part.shape for name, part in theirs.items()}:
        return "two calls with the same inputs return results of other shapes"
    for name, part in ours.items():
        with np.errstate(invalid="ignore"):  # of infinities
            off = np.where((part == theirs[name]) | np.isnan(part) & np.isnan(theirs[name]), 0.0, part - theirs[name])
        most, size = np.abs(off).max(initial=0.0), np.abs(part[np.isfinite(part)]).max(initial=0.0)
        if not most <= 64.0 * u * size:
            return f"two calls with the same inputs differ by {most:.2g}"
    return None


def single(value: Array) -> float:
    """Return the value of one sample; NaN where it is not one number."""
    return float(value.reshape(-1)[0]) if value.size == 1 else math.nan


def angle_between(a: Array, b: Array) -> float:
    """Return the angle between two vectors, right to float64 near 0 and π too."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return 2.0 * math.atan2(float(np.linalg.norm(a - b)), float(np.linalg.norm(a + b)))


def target_angles(count: int = 31) -> Array:
    """Return angles of the target, closer together next to 0 and π, where large margins and small ones show.

    None is a number at which rules change over, such as π/2.
    """
    low, high = np.array([0.02, 0.05, 0.1, 0.17]), np.array([0.1, 0.05, 0.02, 0.01, 0.005])
    return np.concatenate([low, np.linspace(0.247, math.pi - 0.253, count), math.pi - high])
