"""Derivation steps of the site, transcribed: each labelled equation of a page written a second time, in mpmath.

One file a topic, of the page's name. A transcription shares no line with refloss and no line with another step: it
computes every side of its equation from random points, and the sides have to agree. The digest stands for the TeX it
was written from, so that an edited equation fails until somebody has read the transcription again.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from mpmath import mp, mpf

Vector = list[mpf]


class Step(NamedTuple):
    """One equation of a page, transcribed."""

    label: str
    digest: str
    sides: Callable[[Draw], tuple[Any, ...]]


class Below(NamedTuple):
    """An inequality: low ≤ high, or low < high if strict."""

    low: mpf
    high: mpf
    strict: bool = False


STEPS: dict[str, Step] = {}


def digest(tex: str) -> str:
    """Eight hexadecimal digits that stand for a formula; white space and its label do not count."""
    bare = re.sub(r"\\label\{[^}]*\}", "", tex)
    return hashlib.sha256("".join(bare.split()).encode()).hexdigest()[:8]


def step(label: str, of: str) -> Callable[[Callable[[Draw], tuple[Any, ...]]], Callable[[Draw], tuple[Any, ...]]]:
    """Register the transcription of the equation with this label and digest.

    It gets a `Draw` and returns the sides of the equation, as numbers or lists of numbers that must agree, or `Below`s.
    """

    def register(sides: Callable[[Draw], tuple[Any, ...]]) -> Callable[[Draw], tuple[Any, ...]]:
        assert label not in STEPS, f"two transcriptions of {label}"
        STEPS[label] = Step(label, of, sides)
        return sides

    return register


class Draw:
    """Random points, in mpmath numbers."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def number(self, low: float = -2.0, high: float = 2.0) -> mpf:
        """A number between low and high, with all the digits of the working precision."""
        return low + (high - mpf(low)) * mpf(self._random.getrandbits(mp.prec)) / mpf(2) ** mp.prec

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return self._random.randint(low, high)

    def vector(self, size: int, low: float = -2.0, high: float = 2.0) -> Vector:
        """Numbers between low and high."""
        return [self.number(low, high) for _ in range(size)]

    def unit(self, size: int) -> Vector:
        """A vector of length 1."""
        vector = self.vector(size)
        length = norm(vector)
        return [entry / length for entry in vector]


def dot(a: Vector, b: Vector) -> mpf:
    """Inner product."""
    return mp.fsum(i * j for i, j in zip(a, b, strict=True))


def norm(a: Vector) -> mpf:
    """Length."""
    return mp.sqrt(dot(a, a))


def unit(a: Vector) -> Vector:
    """Direction."""
    return [entry / norm(a) for entry in a]


def towards(a: Vector, b: Vector) -> Vector:
    """What of the second direction is at right angles to the first."""
    a, b = unit(a), unit(b)
    return [j - dot(a, b) * i for i, j in zip(a, b, strict=True)]


def cosines(x: Vector, w: list[Vector]) -> Vector:
    """Cosines of one vector with others."""
    return [dot(unit(x), unit(row)) for row in w]


def of_embedding(s: mpf, x: Vector, w: list[Vector], slopes: Vector) -> Vector:
    """dL/dx of a head: along the tangent to the target, which is the first, and what is across to the others."""
    directions = [unit(towards(x, w[0])), *(towards(x, row) for row in w[1:])]
    terms = [[slope * i for i in direction] for slope, direction in zip(slopes, directions, strict=True)]
    return [s / norm(x) * mp.fsum(column) for column in zip(*terms, strict=True)]


def of_classes(s: mpf, x: Vector, w: list[Vector], slopes: Vector) -> list[Vector]:
    """dL/dw of each class of a head."""
    directions = [unit(towards(w[0], x)), *(towards(row, x) for row in w[1:])]
    return [
        [s * slope * i / norm(row) for i in direction]
        for slope, row, direction in zip(slopes, w, directions, strict=True)
    ]


def across(s: mpf, v: Vector, others: list[Vector], slopes: Vector) -> Vector:
    """s/‖v‖ times the sum of what of the others is at right angles to v."""
    terms = [[slope * i for i in towards(v, other)] for slope, other in zip(slopes, others, strict=True)]
    return [s / norm(v) * mp.fsum(column) for column in zip(*terms, strict=True)]


class Batch(NamedTuple):
    """Embeddings, class weights, labels and a scale."""

    x: list[Vector]
    w: list[Vector]
    y: list[int]
    s: mpf


def batch(draw: Draw) -> Batch:
    """Up to three samples of up to four classes, of any lengths."""
    size, samples, classes = draw.whole(2, 3), draw.whole(1, 3), draw.whole(2, 4)
    x, w = ([draw.vector(size) for _ in range(rows)] for rows in (samples, classes))
    return Batch(x, w, [draw.whole(0, classes - 1) for _ in x], draw.number(1, 4))


def mean_loss(c: list[Vector], y: list[int], scales: Vector, curve: Callable[[mpf], mpf]) -> mpf:
    """Mean cross entropy of scale times cosine, with a function of its cosine at each target."""
    rows = []
    for row, label, scale in zip(c, y, scales, strict=True):
        z = [scale * (curve(cosine) if k == label else cosine) for k, cosine in enumerate(row)]
        rows.append(mp.log(mp.fsum(mp.exp(each - z[label]) for each in z)))
    return mp.fsum(rows) / len(rows)


def head_loss(each: Batch, curve: Callable[[mpf], mpf]) -> mpf:
    """The same of a head with the batch's scale."""
    return mean_loss([cosines(x, each.w) for x in each.x], each.y, [each.s] * len(each.x), curve)


def probabilities(z: Vector) -> Vector:
    """Softmax of a row."""
    e = [mp.exp(each) for each in z]
    return [each / mp.fsum(e) for each in e]


def assembled(a: Vector, rows: list[Vector], v: Vector) -> Vector:
    """The sum of A times directions, less the sum of A times cosines along v, over the length of v."""
    along = mp.fsum(each * c for each, c in zip(a, cosines(v, rows), strict=True))
    summed = [dot(a, [unit(row)[i] for row in rows]) for i in range(len(v))]
    return [(total - along * i) / norm(v) for total, i in zip(summed, unit(v), strict=True)]


def sigma(z: mpf) -> mpf:
    """Sigmoid."""
    return 1 / (1 + mp.exp(-z))


def softplus(z: mpf) -> mpf:
    """log(1 + e^z)."""
    return mp.log(1 + mp.exp(z))


def derivative(f: Callable[[mpf], Any], at: mpf) -> mpf:
    """df/dx as a central difference of five points with the digits it costs added: good to some 60 digits."""
    with mp.workprec(8 * mp.prec):
        h = mpf(2) ** (-mp.prec // 4)
        slope = (8 * (f(at + h) - f(at - h)) - (f(at + 2 * h) - f(at - 2 * h))) / (12 * h)
    return +slope


def gradient(f: Callable[[Vector], Any], at: Vector) -> Vector:
    """df/dx of a function of a vector, by `derivative`."""

    def along(i: int) -> mpf:
        return derivative(lambda t: f([*at[:i], t, *at[i + 1 :]]), at[i])

    return [along(i) for i in range(len(at))]


def gradients(f: Callable[[list[Vector]], Any], at: list[Vector]) -> list[Vector]:
    """df/dx of a function of vectors, by `derivative`."""
    return [gradient(lambda v, n=n: f([*at[:n], v, *at[n + 1 :]]), row) for n, row in enumerate(at)]
