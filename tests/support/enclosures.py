"""Enclosures against mpmath with 200 digits, which shares no line with them: neither derives a gradient by hand."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from mpmath import mp, mpf

from refloss.engines.certified import Ball, Enclosure, enclose
from support import cases, exact

DIGITS = 200  # of mpmath
LOST = 10  # of them in mpmath's differences, relative to a row's terms


def truths(
    loss: Any, *inputs: Any, upstream: Any = None, entries: Any = None, digits: int = DIGITS, **followed: Any
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, truth and error of mpmath's differences, both of the truth's shape, of value and gradients."""
    noise = mpf(10) ** (LOST - digits)
    value, size = (
        exact.exact(exact.value(loss, *inputs, digits=digits, absolute=absolute)) for absolute in (False, True)
    )
    yield "value", value, np.array(noise * size, object)
    sizes = exact.absolute_terms(loss, *inputs, upstream=upstream, **followed)
    gradients = exact.gradients(loss, *inputs, upstream=upstream, digits=digits, entries=entries, **followed)
    for name, true in gradients.items():
        largest = np.nan_to_num(
            sizes[name]
        ).max()  # terms are 0 where the slope is, and mpmath's comes from differences
        terms = np.asarray(exact.exact(np.where(sizes[name] == 0.0, largest, sizes[name])) * noise)
        yield name, true, np.broadcast_to(terms if terms.ndim == true.ndim else terms[..., None], true.shape)


def outside(loss: Any, *inputs: Any, enclosure: Enclosure | None = None, **options: Any) -> list[str]:
    """Entries of an enclosure that do not hold the truth by mpmath, in float64 or in decimals.

    `entries`, indices by name, leaves out all other entries of the gradients.
    """
    enclosure = enclosure or enclose(loss, *inputs, upstream=options.get("upstream"))
    complaints = []
    for name, true, noise in truths(loss, *inputs, **options):
        ball = enclosure.value if name == "value" else enclosure.grad[name]
        wanted = np.ndindex(true.shape)
        if name != "value" and options.get("entries") is not None:
            wanted = options["entries"][name]
        for i in wanted:
            if not holds(ball, i, true[i], noise[i]):
                about = f"{ball.decimal[i]} +- {ball.decimal_radius[i]}, in float64 {ball.midpoint[i]}"
                complaints.append(f"{name}{list(i)}: {about}, does not hold {mp.nstr(true[i], 40)}")
    return complaints


def holds(ball: Ball, i: tuple[int, ...], true: mpf, allowed: mpf) -> bool:
    """Whether one entry holds the truth, in decimals and in float64."""
    if not mp.isfinite(true):
        shown = str(float(true))
        return (ball.decimal[i], ball.decimal_radius[i], str(ball.midpoint[i])) == (shown, "0", shown)
    with mp.workdps(DIGITS + exact.GUARD):
        forms = (
            (mpf(ball.decimal[i]), mpf(ball.decimal_radius[i])),
            (mpf(float(ball.midpoint[i])), mpf(float(ball.radius[i]))),
        )
        return all(abs(true - midpoint) <= radius + allowed for midpoint, radius in forms)


def encloses(loss: Any, *inputs: Any, **options: Any) -> None:
    """Compare an enclosure, computed here unless it is passed, with mpmath."""
    complaints = outside(loss, *inputs, **options)
    assert not complaints, f"{loss}: {len(complaints)} entries, first {complaints[0]}"


def undecided(enclosure: Enclosure) -> list[str]:
    return [note for note in enclosure.notes if note.startswith("undecided")]


def nearest(number: mpf) -> float:
    """The float64 nearest to a number, ties to even: Python divides integers just so."""
    if not mp.isfinite(number):
        return float(number)
    sign, mantissa, exponent, _ = number._mpf_
    ratio = (-1) ** sign * int(mantissa) * Fraction(2) ** int(exponent)
    return ratio.numerator / ratio.denominator


# --------------------------------------------------------------------------------------------------------------- inputs


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def at(w: Any, x: Any = (1.0,)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One sample on an axis, the weights of its class, and those of two others."""
    x = np.pad(np.array([x], float), ((0, 0), (0, len(w) - len(x))))
    return x, np.array([w, np.arange(1.0, 1.0 + len(w)), -(np.arange(2.0, 2.0 + len(w)) ** 2)]), np.array([0])


def head_inputs(classes: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, w, _ = cases.ordinary(random(3), 3, classes, 3)
    return x, w, np.array([1, -100, 0])
