"""The engines on many hard cases, by their contracts: pages chain.md, fused.md, dd.md and certified.md.

A round is every named case of tests/support/cases.py for every loss, with random numbers of its own, other than the
suite's, and `harder` ones. Each case is enclosed by the engine "certified", the enclosure is held against mpmath, and
the other engines against the enclosure's midpoints.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import facts
import numpy as np
import speed
from mpmath import mp, mpf

import refloss
from refloss.engines.certified import Ball, Enclosure, enclose
from support import cases, checks, exact

Random = np.random.Generator

DIGITS = 30  # of an enclosure
MPMATH_DIGITS = 200
SLACK = mpf(10) ** -190  # what mpmath's differences may lose of the terms of a row, with room
LOSSES = (*cases.HEADS, *cases.CROSS_ENTROPIES, *cases.TRIPLETS)
LARGE_SCALE = (
    refloss.NormFace(s=128.0),
    refloss.CosFace(s=128.0),
    refloss.ArcFace(s=128.0),
    refloss.ArcFace(s=128.0, boundary="monotone"),
    refloss.ASoftmax(s=128.0),
    refloss.CombinedMargin(s=128.0, m1=1.35, boundary="continuous"),
)
REGIMES = (  # a case belongs to the first that its name has a word of
    ("D = 4096", ("D = 4096",)),
    ("s = 128", ("s = 128",)),
    ("other classes within 1e-8 of x", ("others within", "another class")),
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


def named(seed: int) -> Iterator[tuple[Any, str, tuple[Any, ...], dict[str, Any]]]:
    """Every case of a round: the loss, a name, inputs, and what mpmath needs to be told."""
    for loss in (*LOSSES, *LARGE_SCALE):
        random = np.random.default_rng([seed, zlib.crc32(repr(loss).encode())])
        if isinstance(loss, refloss.CrossEntropy):
            for classes in (2, 10, 100):
                yield from ((loss, f"{name}, C = {classes}", z, {}) for name, z in cases.logits(random, classes))
        elif isinstance(loss, refloss.Triplet):
            yield from ((loss, name, points, {}) for name, points in cases.triplets(random))
        else:
            where = "s = 128: " if loss in LARGE_SCALE else ""
            for name, given in cases.heads(loss, random):
                if not loss.class_weight or len(given[1]) == len(loss.class_weight):
                    yield loss, where + name, given, {"digits": 300} if "1e-200" in name else {}
            for name, (x, w, y) in wide(loss, random):
                yield loss, where + name, (x, w, y), {"entries": cases.some_entries(random, x, w, y)}
            for name, given in crowded(loss, random):
                yield loss, where + name, given, {}


def wide(loss: Any, random: Random) -> Iterator[tuple[str, Any]]:
    """Cases at real sizes, of which mpmath looks at some entries only."""
    if not loss.class_weight and loss not in LARGE_SCALE:
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
                yield f"{name}, others within 1e-8", (x, beside(random, x, w, y), y)


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
    return next((it, given) for it, title, given, _ in named(seed) if repr(it) == loss and title == name)


# ----------------------------------------------------------------------------------------------------------- measuring


def measured(seed: int) -> list[dict[str, Any]]:
    """One round: a row a case."""
    rows = []
    for loss, name, given, told in named(seed):
        found = enclose(loss, *given, digits=DIGITS)
        terms = {on: exact.absolute_terms(loss, *given, digits=30, projected=on) for on in (False, True)}
        truth = numbers(found.value.decimal), {name: numbers(ball.decimal) for name, ball in found.grad.items()}
        row = {
            "seed": seed, "loss": repr(loss), "kind": type(loss).__name__, "name": name,
            "regime": next(regime for regime, words in REGIMES if any(word in name for word in words)),
            "certified": contains(found, loss, given, told, terms[False]),
        }  # fmt: skip
        for engine in ("chain", "fused", "dd"):
            result = loss.value_and_grad(*given, engine=engine)
            value, gradient = errors(truth, result, terms[engine == "dd"])
            shares = checks.shares_of(result, truth, refloss.error_bound(loss, *given, engine=engine))
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


def contains(found: Enclosure, loss: Any, given: Any, told: dict[str, Any], terms: Any) -> dict[str, int]:
    """Hold an enclosure against mpmath, entry by entry, both as decimals and as float64."""
    digits = max(MPMATH_DIGITS, told.get("digits", 0))
    value = np.asarray(exact.value(loss, *given, digits=digits))
    pairs = [(value, found.value, np.vectorize(abs, [object])(value))]
    truth = exact.gradients(loss, *given, digits=digits, entries=told.get("entries"))
    for name, ball in found.grad.items():
        if told.get("entries") is None:
            pairs.append((truth[name], ball, terms[name]))
        else:
            at = tuple(np.array(told["entries"][name]).T)
            pairs.append((truth[name][at], Ball(*(part[at] for part in ball)), terms[name][at[0]]))
    counts = {"entries": 0, "failed": 0, "zeros": 0, "zeros proven": 0}
    with mp.workdps(digits + 50):
        for true, ball, sizes in pairs:
            sizes = sizes.reshape(sizes.shape + (1,) * (true.ndim - sizes.ndim))  # noqa: PLW2901 (a row's, for each of it)
            for index in np.ndindex(true.shape):
                size = mpf(np.broadcast_to(sizes, true.shape)[index])
                parts = [mpf(part[index]) for part in ball]
                counts["entries"] += 1
                counts["failed"] += not all(
                    within(true[index], middle, radius + SLACK * size)
                    for middle, radius in (parts[:2], parts[2:])
                )  # fmt: skip
                counts["zeros"] += size == 0
                counts["zeros proven"] += size == 0 and parts == [0, 0, 0, 0]
    undecided = sum(note.startswith("undecided") for note in found.notes)
    return counts | {"undecided": undecided, "kinks": len(found.notes) - undecided, "bits": found.bits}


def within(true: mpf, middle: mpf, radius: mpf) -> bool:
    """Whether a ball holds a number; NaN and infinite where that is."""
    if mp.isnan(true):
        return bool(mp.isnan(middle))
    return bool(true == middle or abs(true - middle) <= radius)


# --------------------------------------------------------------------------------------------------------------- pages


def by(rows: list[dict[str, Any]], column: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Rows by regime, in the order of REGIMES, or by loss."""
    keys = [regime for regime, _ in REGIMES] if column == "regime" else dict.fromkeys(row[column] for row in rows)
    for key in keys:
        if some := [row for row in rows if row[column] == key]:
            yield key, some


def table(rows: list[dict[str, Any]], column: str, engine: str) -> str:
    """Cases, and the largest errors, for every loss or regime."""
    lines = []
    for key, some in by(rows, column):
        value, value_share, gradient, gradient_share = (
            max(row[engine][what] for row in some) for what in ("value", "value share", "gradient", "gradient share")
        )
        shown = f"{value:.3g}", f"{value_share:.2f}", f"{gradient:.3g}", f"{gradient_share:.2f}"
        lines.append((key, str(len(some)), *shown))
    title = {"kind": "loss"}.get(column, column)
    return facts.table((title, "cases", "value, u", "share of allowed", "gradient, u", "share of allowed"), lines)


def worst(rows: list[dict[str, Any]], engine: str, count: int = 5) -> str:
    """The cases with the largest shares of what is allowed, or all that are over it."""

    def share(row: dict[str, Any]) -> float:
        return max(row[engine]["value share"], row[engine]["gradient share"])

    order = sorted(rows, key=share, reverse=True)
    over = sum(share(row) > 1.0 for row in rows)
    lines = [
        (f"`{row['loss']}`", row["name"], str(row["seed"]), f"{row[engine]['value']:.3g}",
         f"{row[engine]['gradient']:.3g}", f"{share(row):.2f}")
        for row in order[: max(count, min(over, 100))]
    ]  # fmt: skip
    return facts.table(("loss", "case", "round", "value, u", "gradient, u", "share of allowed"), lines, words=2)


def engine_page(engine: str, contract: str, measured: facts.Measured, commit: str, more: str = "") -> str:
    """The page of an engine that is held against enclosures."""
    rows = measured.rows
    results = [row[engine] for row in rows]
    over = sum(it["value share"] > 1.0 or it["gradient share"] > 1.0 for it in results)
    bad = sum(not math.isfinite(it["value"] + it["gradient"]) for it in results)
    return f"""# Engine `{engine}` against `certified`

Written by `.ci/record`. The truth is the midpoint of an enclosure to {DIGITS} digits, which is held against mpmath in
the same run (see [certified](certified.md)). Errors are in units of roundoff, u = 2^-53.

{contract} "Share of allowed" is the largest
error as a part of that; the largest error in u and the largest share may come from different cases.

- cases: {len(rows)} in {measured.rounds} rounds
- over what is allowed: {over}; of these not finite, or not 0 where the truth is exactly 0: {bad}
{facts.lines(measured, commit, ("numpy", "numba", "python-flint", "mpmath", "gmpy2"))}

## By loss

{table(rows, "kind", engine)}

## By regime

{table(rows, "regime", engine)}

## The worst cases

`accuracy.inputs_of(round, loss, case)` in benchmarks/ gives the inputs.

{worst(rows, engine)}
{more}"""


CHAIN = """\
Of the value they are relative to itself, of a gradient relative to the absolute terms of its row. What is allowed is
what `refloss.error_bound` says of these inputs. Terms of exactly 0 demand a result of exactly 0."""


def write_chain(measured: facts.Measured, commit: str, folder: Path) -> None:
    """Write chain.md."""
    (folder / "chain.md").write_text(engine_page("chain", CHAIN, measured, commit))


def write_fused(measured: facts.Measured, commit: str, folder: Path) -> None:
    """Write fused.md: in float64 the contract is the chain's."""
    (folder / "fused.md").write_text(engine_page("fused", CHAIN, measured, commit))


def write_dd(measured: facts.Measured, times: facts.Measured, commit: str, folder: Path) -> None:
    """Write dd.md."""
    contract = """\
Of the value they are relative to itself, of a gradient relative to the absolute terms of its row as they are after
projection, which leaves |s G_k sin theta_k| / |x| of a class off the target. What is allowed is what
`refloss.error_bound` says of these inputs. Terms of exactly 0 demand a result of exactly 0."""
    more = f"\n## Time and memory\n\n{speed.engines_table(times.rows)}\n"
    (folder / "dd.md").write_text(engine_page("dd", contract, measured, commit, more))


def write_certified(measured: facts.Measured, times: facts.Measured, commit: str, folder: Path) -> None:
    """Write certified.md."""
    columns = ("entries", "failed", "zeros", "zeros proven", "undecided", "kinks", "bits")

    def line(key: str, rows: Iterable[dict[str, Any]]) -> tuple[str, ...]:
        found = [row["certified"] for row in rows]
        most: Callable[..., int] = max
        shown = [str((most if name == "bits" else sum)(it[name] for it in found)) for name in columns]
        return key, str(len(found)), *shown

    titles = ("cases", "entries", "failed", "exact zeros", "proven 0", "undecided", "notes of kinks", "most bits")
    whole = [line("all", measured.rows)]
    page = f"""# Engine `certified` against mpmath

Written by `.ci/record`. Each case is enclosed to {DIGITS} digits by ball arithmetic and computed by mpmath with
{MPMATH_DIGITS} digits: values from the definitions, gradients by central differences. An enclosure fails where mpmath's
number is outside of the ball, as decimals or as float64; mpmath's differences are right to 10^-{MPMATH_DIGITS} of the
absolute terms of a row, so 10^-190 of those is granted. Of cases at real widths, gradients are compared at some entries
only. Exact zeros are entries whose absolute terms are 0. Undecided are entries that the enclosure lists as such.

- cases: {whole[0][1]} in {measured.rounds} rounds, {whole[0][2]} entries
- enclosures that fail: {whole[0][3]}
- exact zeros: {whole[0][4]}, of which proven: {whole[0][5]}
- undecided entries: {whole[0][6]}
{facts.lines(measured, commit, ("numpy", "python-flint", "mpmath", "gmpy2"))}

## By loss

{facts.table(("loss", *titles), [line(key, rows) for key, rows in by(measured.rows, "kind")] + whole)}

## By regime

{facts.table(("regime", *titles), [line(key, rows) for key, rows in by(measured.rows, "regime")] + whole)}

## Time

{speed.enclosures_table(times.rows)}
"""
    (folder / "certified.md").write_text(page)
