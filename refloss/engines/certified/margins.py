"""Margins: m2 and m3 of every sample, exact numbers, and the same on a tape.

A number v per sample, where there is one, adds b2 v to m2 and b3 v to m3. It is given, or v = p + q a with the length
of the embedding held between two bounds, a = min(max(‖x‖, l), u): a rational multiple of a root. Lengths are compared
with their bounds by their squares, rational numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from refloss.engines.certified.balls import arb, rational
from refloss.engines.certified.exact import Surd, integers
from refloss.engines.certified.tape import Tape, Variable
from refloss.engines.spec import Arrays, Margin
from refloss.error_free import Array
from refloss.stages.margin import Settings as MarginSettings
from refloss.stages.quality import Settings as QualitySettings


class SampleMargins(NamedTuple):
    """The margins of a sample, and where its length is."""

    m2: Surd
    """What is added to the angle."""
    m3: Surd
    """What is taken off the cosine."""
    side: int = 0
    """-1 where the length is below its bounds, 1 where it is above them, else 0."""
    at: Fraction | None = None
    """The bound that the length is exactly at."""


def margins_of(arrays: Arrays, spec: Margin) -> list[SampleMargins]:
    """Return the margins of every sample."""
    if "m" in arrays:
        return [_added(spec.margin, Surd(Fraction(m))) for m in arrays["m"].tolist()]
    if spec.quality is None:
        return [_added(spec.margin, Surd(Fraction(0)))] * len(arrays["x"])
    return [_by_length(spec.margin, spec.quality, x) for x in arrays["x"]]


def _added(margin: MarginSettings, v: Surd) -> SampleMargins:
    """The margins of a sample with this v."""
    m2, m3 = (Fraction(float(m)) for m in (margin.m2, margin.m3))
    b2, b3 = margin.by_quality
    return SampleMargins(v.times(b2).plus(m2), v.times(b3).plus(m3))


def _by_length(margin: MarginSettings, quality: QualitySettings, x: Array) -> SampleMargins:
    """The margins of a sample by its length."""
    low, high, p, q = quality[:4]
    square = square_of(x)
    side = 1 if square > high**2 else -1 if square < low**2 else 0
    a = Surd(Fraction(0), Fraction(1), square) if side == 0 else Surd(high if side > 0 else low)
    at = next((bound for bound in (low, high) if square == bound**2), None)
    return _added(margin, a.times(q).plus(p))._replace(side=side, at=at)


def moves(spec: Margin, own: SampleMargins) -> bool:
    """Return whether margins of a sample change with its length, as the gradient sees it."""
    if spec.quality is None or spec.quality.detached or spec.margin.gradient == "detached":
        return False
    return own.side == 0 and spec.quality.factor != 0 and any(spec.margin.by_quality)


def bound_notes(spec: Margin, own: SampleMargins) -> list[str]:
    """Say that a length is exactly at a bound, where that makes a kink."""
    if own.at is None or spec.quality is None or not (moves(spec, own) or spec.quality.regularizer):
        return []
    return [f"the length is {float(own.at):g} exactly, a bound: the slope between the bounds is used"]


def square_of(x: Array) -> Fraction:
    """Return the square of the length of x."""
    row, exponent = integers(x)
    return int(row @ row) * Fraction(4) ** exponent


class Recorded(NamedTuple):
    """The margins of all samples on a tape."""

    m2: Variable
    """(N,)."""
    m3: Variable
    """(N,)."""
    leaves: dict[str, Variable]
    """The given margins."""
    terms: Variable | None
    """λ (a/u² + 1/a) (N,), where λ is not 0."""


def record_margins(
    tape: Tape, arrays: Arrays, square_x: Variable, spec: Margin, margins: Sequence[SampleMargins]
) -> Recorded:
    """Record the margins, of the squares of lengths (N,): where a length is beyond a bound, a is a constant."""
    leaves, terms = {}, None
    v = tape.leaf(np.zeros(len(margins)))
    if "m" in arrays:
        v = leaves["m"] = tape.leaf(arrays["m"])
    elif spec.quality is not None:
        low, high, p, q, regularizer, detached = spec.quality
        beyond = np.array([n for n, each in enumerate(margins) if each.side], np.intp)
        bounds = np.array([rational(high if margins[n].side > 0 else low) for n in beyond], object)
        a = square_x.sqrt().set_at(beyond, bounds)
        v = a * rational(q) + rational(p)
        if detached:
            v = Variable(tape, v.value)
        if regularizer:
            terms = (a / rational(high**2) + tape.leaf(np.ones(len(margins))) / a) * arb(regularizer)
    b2, b3 = spec.margin.by_quality
    m2, m3 = (v * rational(b) + arb(float(m)) for b, m in ((b2, spec.margin.m2), (b3, spec.margin.m3)))
    return Recorded(m2, m3, leaves, terms)
