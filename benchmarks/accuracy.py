"""Measures the engines' errors on many hard cases, for the records chain.md, fused.md, dd.md and certified.md.

A round is every named case of tests/support/cases.py for every loss, with random numbers of its own, other than the
suite's, and wider and crowded ones. The engine "certified" encloses each case; the enclosure is tested against mpmath,
and the other engines against the midpoints of the enclosure, by what `refloss.error_bound` allows.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from mpmath import mp, mpf
from pages import Row, Rows

import refloss
from refloss.engines.certified import Ball, Enclosure, enclose
from refloss.engines.spec import centers_of
from support import cases, checks, exact

Random = np.random.Generator

DIGITS = 30  # of an enclosure
MPMATH_DIGITS = 200
SLACK = mpf(10) ** -190  # the error of mpmath's differences relative to the terms of a row, with room
ENGINES = ("chain", "fused", "dd")
LOSSES = (*cases.HEADS, *cases.LINKS, *cases.CROSS_ENTROPIES, *cases.TRIPLETS, *cases.DIVERGENCES)
LARGE_SCALE = (
    refloss.NormFace(s=128.0),
    refloss.CosFace(s=128.0),
    refloss.ArcFace(s=128.0),
    refloss.ArcFace(s=128.0, boundary="monotone"),
    refloss.ASoftmax(s=128.0),
    refloss.CombinedMargin(s=128.0, m1=1.35, boundary="continuous"),
    refloss.SphereFaceR(s=128.0, version=2),
    refloss.InterTopK(s=128.0),
)
REGIMES = (  # a case belongs to the first regime of which its name contains a word
    ("D = 4096", ("D = 4096",)),
    ("s = 128", ("s = 128",)),
    ("a bias or a scale of any size; logits at a bound", ("a bias of", "a scale of", "of the bound")),
    ("other classes next to x, or opposite to it", ("others within", "another class", "other classes")),
    ("classes at a threshold, or with equal cosines", ("threshold", "onto", "classes at", "equal cosines")),
    ("m1 theta + m2 at a multiple of pi; kinks", ("phi =", "pi/2", "degrees")),
    ("exactly parallel or antiparallel", ("exactly", "one ulp")),
    ("theta towards 0", ("theta = 0.01", "theta = 0.0001", "theta = 1e-",)),
    ("theta towards pi", ("theta = pi - ",)),
    ("norms from 1e-200 to 1e200", ("|x| ~", "|w_y| ~", "of size")),
    ("confident, and confidently wrong", ("confiden",)),
    ("huge logits", ("huge", "offset")),
    ("identical and nearby points", ("identical", "ties", "coincident", "same", "close", "hinge")),
    ("real widths", ("D = 512", "D = 1000", "C = 500", "N = 100")),
    ("ordinary and small", ("",)),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- cases


class Case(NamedTuple):
    """A case of a round, and how mpmath computes it."""

    loss: Any
    name: str
    inputs: tuple[Any, ...]
    digits: int = MPMATH_DIGITS
    entries: dict[str, Any] | None = None
    """The entries of each gradient that mpmath computes, where not all."""


def drawn(seed: int) -> Iterator[Case]:
    """Every case of a round."""
    for loss in (*LOSSES, *LARGE_SCALE):
        random = np.random.default_rng([seed, zlib.crc32(repr(loss).encode())])
        if isinstance(loss, refloss.CrossEntropy):
            for classes in (2, 10, 100):
                yield from (Case(loss, f"{name}, C = {classes}", z) for name, z in cases.logits(random, classes))
        elif isinstance(loss, refloss.Triplet):
            yield from (Case(loss, name, points) for name, points in cases.triplets(random))
        elif isinstance(loss, refloss.KLDivergence):
            yield from (Case(loss, name, logits) for name, logits in cases.divergences(random))
        elif loss in cases.LINKS:
            for name, inputs in cases.links(loss, random):
                far = any(word in name for word in ("e-200", "e-300", "1e+300"))
                yield Case(loss, name, inputs, digits=400 if far else MPMATH_DIGITS)
        else:
            prefix = "s = 128: " if loss in LARGE_SCALE else ""
            for name, inputs in cases.heads(loss, random):
                if not loss.class_weight or len(inputs[1]) == len(loss.class_weight):
                    yield Case(loss, prefix + name, inputs, digits=300 if "1e-200" in name else MPMATH_DIGITS)
            for name, (x, w, y) in wide(loss, random):
                yield Case(loss, prefix + name, (x, w, y), entries=cases.some_entries(random, x, w, y))
            for name, inputs in crowded(loss, random):
                yield Case(loss, prefix + name, inputs)


def wide(loss: Any, random: Random) -> Iterator[tuple[str, Any]]:
    """Cases at real sizes."""
    has_centers = centers_of(loss.spec) is not None  # w (C, K, D), of which no test picks entries
    if not loss.class_weight and loss not in LARGE_SCALE and not has_centers:
        yield from ((name, build(random)) for name, build in cases.WIDE.items())
    if loss in (refloss.SoftmaxLoss(), refloss.ASoftmax(), *LARGE_SCALE[1:3]):
        angles = cases.angles(loss)
        for name in ("theta = 1", *[name for name in angles if name.endswith("pi +1e-08")][-1:]):
            yield f"{name}, D = 4096", cases.at_angle(random, angles[name], 2, 4, 4096)
        x, w, y = cases.at_angle(random, 1e-8, 2, 4, 4096)
        yield "theta = 1e-8, others within 1e-8, D = 4096", (x, beside(random, x, w, y), y)


def crowded(loss: Any, random: Random) -> Iterator[tuple[str, Any]]:
    """The target at each of its special angles while all other classes are within 1e-8 of an embedding."""
    if not loss.class_weight:
        for name, theta in cases.angles(loss).items():
            if "1e-08" in name:
                x, w, y = cases.at_angle(random, theta)
                inputs, count = (x, beside(random, x, w, y), y), centers_of(loss.spec)
                yield (
                    f"{name}, others within 1e-8",
                    inputs if count is None else cases.with_centers(count, random, *inputs),
                )


def beside(random: Random, x: np.ndarray, w: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Put each class that is no target within 1e-8 of one of the embeddings."""
    w = w.copy()
    for k in set(range(len(w))) - set(y.tolist()):
        near = x[k % len(x)]
        noise = random.standard_normal(x.shape[1])
        w[k] = 2.0 * (near + 1e-8 * np.linalg.norm(near) * noise / np.linalg.norm(noise))
    return w


def inputs_of(seed: int, loss: str, name: str) -> Any:
    """The loss and the inputs of a case that a page names."""
    return next((case.loss, case.inputs) for case in drawn(seed) if (repr(case.loss), case.name) == (loss, name))


# ----------------------------------------------------------------------------------------------------------- measuring


def measured(seed: int) -> Rows:
    """One round: a row per case."""
    rows: Rows = []
    for case in drawn(seed):
        loss, inputs = case.loss, case.inputs
        enclosure = enclose(loss, *inputs, digits=DIGITS)
        terms = {on: exact.absolute_terms(loss, *inputs, digits=30, projected=on) for on in (False, True)}
        truth = numbers(enclosure.value.decimal), {
            name: numbers(ball.decimal) for name, ball in enclosure.grad.items()
        }  # fmt: skip
        row: Row = {
            "seed": seed, "loss": repr(loss), "kind": type(loss).__name__, "name": case.name,
            "regime": next(regime for regime, words in REGIMES if any(word in case.name for word in words)),
            "certified": enclosure_counts(enclosure, case, terms[False]),
        }  # fmt: skip
        for engine in ENGINES:
            result = loss.value_and_grad(*inputs, engine=engine)
            value, gradient = errors(truth, result, terms[engine == "dd"])
            shares = checks.shares_of(result, truth, refloss.error_bound(loss, *inputs, engine=engine))
            row[engine] = {
                "value": value, "value share": shares.pop("value"),
                "gradient": gradient, "gradient share": max(shares.values()),
            }  # fmt: skip
        rows.append(row)
    return rows


def numbers(texts: np.ndarray, digits: int = 2 * DIGITS) -> np.ndarray:
    """Decimals as mpf."""
    with mp.workdps(digits):
        return np.vectorize(mpf, [object])(texts)


def errors(truth: Any, result: Any, terms: dict[str, np.ndarray]) -> tuple[float, float]:
    """In u: of the value relative to itself, and the worst of the gradients relative to their rows' absolute terms."""
    value, gradients = result
    return exact.value_error(value, truth[0]), max(
        exact.row_error(gradient, truth[1][name], terms[name]) for name, gradient in checks.as_dict(gradients).items()
    )


def enclosure_counts(enclosure: Enclosure, case: Case, terms: dict[str, np.ndarray]) -> dict[str, int]:
    """Test an enclosure against mpmath, entry by entry, both as decimals and as float64."""
    digits = case.digits
    value = np.asarray(exact.value(case.loss, *case.inputs, digits=digits))
    triples = [(value, enclosure.value, np.vectorize(abs, [object])(value))]
    gradients = exact.gradients(case.loss, *case.inputs, digits=digits, entries=case.entries)
    for name, ball in enclosure.grad.items():
        if case.entries is None:
            triples.append((gradients[name], ball, terms[name]))
        else:
            at = tuple(np.array(case.entries[name]).T)
            triples.append((gradients[name][at], Ball(*(part[at] for part in ball)), terms[name][at[0]]))
    counts = {"entries": 0, "failed": 0, "zeros": 0, "zeros proven": 0}
    with mp.workdps(digits + 50):
        for true, ball, row_sizes in triples:
            columns = (1,) * (true.ndim - row_sizes.ndim)
            sizes = np.broadcast_to(row_sizes.reshape(row_sizes.shape + columns), true.shape)
            for index in np.ndindex(true.shape):
                size = mpf(sizes[index])
                parts = [mpf(part[index]) for part in ball]
                counts["entries"] += 1
                counts["failed"] += not all(
                    within(true[index], middle, radius + SLACK * size)
                    for middle, radius in (parts[:2], parts[2:])
                )  # fmt: skip
                counts["zeros"] += size == 0
                counts["zeros proven"] += size == 0 and parts == [0, 0, 0, 0]
    undecided = sum(note.startswith("undecided") for note in enclosure.notes)
    return counts | {"undecided": undecided, "kinks": len(enclosure.notes) - undecided, "bits": enclosure.bits}


def within(true: mpf, middle: mpf, radius: mpf) -> bool:
    """Whether a ball contains a number; NaN and infinite only where that is."""
    if mp.isnan(true):
        return bool(mp.isnan(middle))
    return bool(true == middle or abs(true - middle) <= radius)
