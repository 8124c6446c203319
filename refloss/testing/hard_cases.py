"""Named inputs on which implementations differ, exact in the dtype they are for.

Groups: `ordinary`, what training sees; `boundary`, every boundary of the loss, on it and on both sides, and labels that
are ignored; `hard`, angles next to 0 and π, confident and wrong targets, classes that coincide; `range`, lengths that
overflow when they are squared, and rows of zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refloss.error_free import Array

GROUPS = ("ordinary", "boundary", "hard", "range")
ACCEPTED = {"ignored": ("truth", "refusal"), "zero vector": ("refusal", "finite")}
"""What may come back beside or instead of the truth, where there is more than one convention."""
LONGEST = {"float16": 2, "bfloat16": 30, "float32": 30, "float64": 200}  # powers of ten whose square overflows


def dtype_of(name: str) -> Any:
    """Return the NumPy dtype of a name; bfloat16 is that of ml_dtypes."""
    if name not in LONGEST:
        raise ValueError(f"dtype: expected one of {sorted(LONGEST)}; got {name!r}")
    return import_module("ml_dtypes").bfloat16 if name == "bfloat16" else getattr(np, name)


class Shape(NamedTuple):
    """How large the inputs of a case are."""

    n: int = 8
    """Samples."""
    c: int = 20
    """Classes."""
    d: int = 64
    """Dimensions of an embedding; of no use to losses of logits."""


class Case(NamedTuple):
    """Inputs with a name and a reason."""

    id: str
    """Group, name and shape."""
    group: str
    """One of `GROUPS`."""
    flags: tuple[str, ...]
    """Why it is there, in words for a program."""
    reason: str
    """Why it is there, in a sentence."""
    inputs: tuple[Any, ...]
    """What the loss is called with: float64 arrays whose numbers the dtype holds exactly, and labels."""
    accepts: tuple[str, ...] = ("truth",)
    """What may come back: "truth", within the budget; "refusal", an exception; "finite", any numbers, there being no
    truth. On a boundary the budget itself holds what is true on either side."""

    def __str__(self) -> str:
        """Return its id, for pytest."""
        return self.id


def cases(loss: Any, dtype: str = "float32", shapes: Sequence[Sequence[int]] = (Shape(),), seed: int = 0) -> list[Case]:
    """Make the cases of a loss.

    Parameters
    ----------
    loss
        Any loss of refloss.
    dtype
        "float16", "bfloat16", "float32" or "float64": every number is one of that dtype.
    shapes
        (N, C, D) of what is made; a kernel that asks for D % 16 == 0 or for a certain C gets what it asks for.
    seed
        Of the random numbers.

    Returns
    -------
    list of Case
        With ids that no other case of the list has.
    """
    dtype_of(dtype)
    made = {"logits": _logits, "linear": _heads, "margin": _heads, "triplet": _triplets}[loss.spec.head]
    found = []
    for shape in shapes:
        size = Shape(*shape)
        for group, name, flags, reason, inputs in made(loss, dtype, size, seed):
            exact = tuple(_held(entry, dtype) for entry in inputs)
            accepts = next((ACCEPTED[flag] for flag in flags if flag in ACCEPTED), ("truth",))
            found.append(Case(f"{group}-{name}-{'x'.join(map(str, shape))}", group, flags, reason, exact, accepts))
    return found


def _held(entry: Any, dtype: str) -> Any:
    """Round numbers to the dtype; labels stay."""
    return entry if entry.dtype.kind == "i" else entry.astype(dtype_of(dtype)).astype(np.float64)


Made: TypeAlias = Iterator[tuple[str, str, tuple[str, ...], str, tuple[Any, ...]]]


def _heads(loss: Any, dtype: str, size: Shape, seed: int) -> Made:
    rng = np.random.default_rng(seed)
    n, c, d = size
    y = np.arange(n) % c

    def random() -> tuple[Array, Array]:
        """Rows; if there is room, no target within 0.3 rad of its class or of the opposite of it."""
        for _ in range(100):
            x, w = rng.normal(size=(n, d)), rng.normal(size=(c, d))
            if np.abs(_cosines(x, w[y])).max() < 0.95:
                break
        return x, w

    x, w = random()
    yield "ordinary", "random", ("random",), "independent normal numbers, nothing special", (x, w, y)
    x, w = random()
    lengths = np.geomspace(0.125, 8.0, n)[:, None]
    yield "ordinary", "lengths", ("lengths",), "embeddings of lengths from 1/8 to 8 times another", (x * lengths, w, y)
    yield "ordinary", "trained", ("near",), "targets at 0.5 to 1.2 rad of their class", _at(rng, size, y, (0.5, 1.2))
    if loss.spec.head == "margin":
        for name, theta, reason in _boundaries(loss):
            for side, off in (("before", -0.02), ("after", 0.02)):
                at = (max(theta + off, 0.05), min(theta + off, np.pi - 0.05))
                yield "boundary", f"{name}-{side}", ("boundary",), f"0.02 rad {side} {reason}", _at(rng, size, y, at)
            either = f"{reason}, as near as the dtype can: what holds on either side is accepted"
            yield "boundary", f"{name}-on", ("boundary",), f"on {either}", _at(rng, size, y, (theta, theta))
        for theta in (1e-1, 1e-2, 1e-3):
            angles = f"{theta:.0e}"
            yield (
                "hard",
                f"theta-{angles}",
                ("small angle",),
                f"targets at {theta:g} rad of their class: a cosine does not know them well",
                _at(rng, size, y, (theta, theta)),
            )
            yield (
                "hard",
                f"pi-minus-{angles}",
                ("angle near pi",),
                f"targets at pi - {theta:g} rad, nearly opposite to their class",
                _at(rng, size, y, (np.pi - theta, np.pi - theta)),
            )
        for theta in (1e-2, 1e-3):
            rivals = f"targets at {theta:g} rad of their class, and other classes as near: the loss is not small"
            yield "hard", f"rivals-{theta:.0e}", ("small angle", "rivals"), rivals, _rivalled(rng, size, y, theta)
    x, w = random()
    if n > 1:
        yield "boundary", "ignored", ("ignored",), _ignored(loss), (x, w, _some(loss, y))
    x, w = random()
    yield "hard", "same-classes", ("coinciding",), "all other classes are one and the same", (x, _same(w, y), y)
    x, w = random()
    long = 10.0 ** LONGEST[dtype]
    if loss.spec.head == "margin" and loss.spec.scale is not None:
        yield (
            "range",
            "long-x",
            ("overflow",),
            f"embeddings of length {long:g}: their squares overflow",
            (x * long, w, y),
        )
        yield (
            "range",
            "short-w",
            ("underflow",),
            f"weights of length {1 / long:g}: their squares vanish",
            (x, w / long, y),
        )
        x, w = random()
        x[0] = 0.0
        yield "range", "zero-x", ("zero vector",), f"an embedding of zeros {NO_DIRECTION}", (x, w, y)
        x, w = random()
        w[-1] = 0.0
        yield "range", "zero-w", ("zero vector",), f"a class of zeros {NO_DIRECTION}", (x, w, y)


NO_DIRECTION = "has no direction, and its loss no value: to refuse it is right, and so is any finite answer"


def _ignored(loss: Any) -> str:
    return (
        f"every second label is {loss.ignore_index}, which is to be ignored: no loss, no gradient, and no part of the "
        "mean; code that has no such labels may refuse"
    )


def _some(loss: Any, y: Any) -> Any:
    """Every second label, the first included, ignored."""
    return np.where(np.arange(len(y)) % 2 == 0, loss.ignore_index, y)


def _cosines(x: Array, w: Array) -> Array:
    return np.asarray((x * w).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(w, axis=1))


def _same(w: Array, y: Any) -> Array:
    other = w.copy()
    other[np.setdiff1d(np.arange(len(w)), y[:1])] = w[-1]
    return other


def _at(rng: np.random.Generator, size: Shape, y: Any, theta: tuple[float, float]) -> tuple[Any, ...]:
    """Embeddings that far from their classes, evenly from the one angle to the other."""
    n, c, d = size
    w = rng.normal(size=(c, d))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    own = w[y]
    aside = rng.normal(size=(n, d))
    aside -= (aside * own).sum(axis=1, keepdims=True) * own
    length = np.linalg.norm(aside, axis=1, keepdims=True)
    aside /= np.where(length > 0.0, length, 1.0)  # in one dimension there is no aside
    angles = np.linspace(*theta, n)[:, None]
    return np.cos(angles) * own + np.sin(angles) * aside, w, y


def _rivalled(rng: np.random.Generator, size: Shape, y: Any, theta: float) -> tuple[Any, ...]:
    """As `_at`, and the classes that are no targets each as near to one of the embeddings, on another side."""
    x, w, _ = _at(rng, size, y, (theta, theta))
    for place, rival in enumerate(np.setdiff1d(np.arange(size.c), y)):
        near = x[place % size.n]
        aside = rng.normal(size=size.d)
        aside -= (aside @ near) * near
        w[rival] = near + theta * aside / max(float(np.linalg.norm(aside)), 1e-300)
    return x, w, y


def _boundaries(loss: Any) -> Iterator[tuple[str, float, str]]:
    """Angles at which the curve of the target has a boundary or a fold."""
    margin = loss.spec.margin
    if margin.boundary in ("easy", "conditional"):
        yield "cosine", float(np.arccos(0.0 if margin.boundary == "easy" else margin.m3)), "the rule's boundary"
    elif margin.boundary == "min":
        yield "half", float(np.pi - margin.m2 / 2.0), "where the margin's curve meets the cosine"
    elif margin.m1 != 1.0 or margin.m2:
        for fold in range(1, int(margin.m1 + margin.m2 / np.pi) + 1):
            theta = (fold * np.pi - margin.m2) / margin.m1
            if 0.1 < theta < np.pi - 0.1:
                yield f"fold{fold}", float(theta), f"m1 theta + m2 = {fold} pi"


def _logits(loss: Any, dtype: str, size: Shape, seed: int) -> Made:
    rng = np.random.default_rng(seed)
    n, c, _ = size
    y = np.arange(n) % c
    z = rng.normal(size=(n, c))
    yield "ordinary", "random", ("random",), "independent normal numbers, nothing special", (z, y)
    yield "ordinary", "wide", ("random",), "logits of size 5", (5.0 * rng.normal(size=(n, c)), y)
    each = np.arange(n)
    for gap in (5.0, 10.0, 30.0):
        sure = rng.normal(size=(n, c))
        sure[each, y] = sure.max(axis=1) + gap
        yield "hard", f"confident-{gap:g}", ("confident",), f"the label's logit leads by {gap:g}", (sure, y)
        wrong = rng.normal(size=(n, c))
        wrong[each, (y + 1) % c] = wrong.max(axis=1) + gap
        yield "hard", f"wrong-{gap:g}", ("wrong",), f"another class's logit leads by {gap:g}", (wrong, y)
    if n > 1:
        yield "boundary", "ignored", ("ignored",), _ignored(loss), (rng.normal(size=(n, c)), _some(loss, y))
    yield "hard", "equal", ("equal",), "all logits equal: the loss is log C", (np.full((n, c), 2.0), y)
    yield "range", "offset", ("offset",), "logits of size 1000: their exponentials overflow", (z + 1000.0, y)


def _triplets(loss: Any, dtype: str, size: Shape, seed: int) -> Made:
    rng = np.random.default_rng(seed)
    n, _, d = size

    def rows(spread: float = 1.0) -> Array:
        return spread * rng.normal(size=(n, d))

    yield "ordinary", "random", ("random",), "independent normal numbers, nothing special", (rows(), rows(), rows())
    a = rows()
    near = (a, a + rows(0.01), a + rows(0.01))
    yield "hard", "near", ("cancellation",), "positive and negative next to the anchor", near
    kept = (a, a + rows(0.1), -a)
    yield "boundary", "kept", ("inactive",), "the margin is kept: no loss and no gradient", kept
