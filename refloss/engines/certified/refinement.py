"""Refinement: balls at higher and higher precision, until every entry of a result is decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refloss.engines.certified.balls import START_BITS, Arb, Balls, precision, precisions
from refloss.engines.certified.rounding import correctly_rounded, describe
from refloss.error_free import Array, Mask


class Refinable(Protocol):
    """Named arrays, some of their entries known exactly, the others as balls at any precision."""

    known: dict[str, Array]
    """The known entries; anything where `unknown` is True."""
    unknown: dict[str, Mask]
    """Which entries are not known."""

    def balls(self) -> dict[str, Balls]:
        """Return balls for the unknown entries, computed at the current precision."""

    def is_zero(self, name: str, index: tuple[int, ...]) -> bool:
        """Return whether an unknown entry is proven to be 0."""


@dataclass(frozen=True)
class Entry:
    """An entry that stayed undecided."""

    name: str
    index: tuple[int, ...]
    ball: Arb
    """Its last ball."""

    def __str__(self) -> str:
        return f"{self.name}[{', '.join(map(str, self.index))}]" if self.index else self.name


class Refined(NamedTuple):
    """What refinement came to."""

    arrays: dict[str, NDArray[np.object_]]
    """By name: known entries, results of unknown entries, and 0.0 where that was proven."""
    undecided: list[Entry]
    """The entries for which MAX_BITS are too few."""
    bits: int
    """The precision of the last balls."""


def refine(problem: Refinable, start: int, decide: Callable[[Arb], Arb | float | None]) -> Refined:
    """Double the precision until every entry is decided or proven to be 0, or MAX_BITS are reached.

    `decide` returns the result for a ball, or None where it takes more bits.
    """
    arrays = {name: known.astype(object) for name, known in problem.known.items()}
    remaining = [(name, tuple(index)) for name, mask in problem.unknown.items() for index in np.argwhere(mask).tolist()]
    undecided: list[Entry] = []
    for step, bits in enumerate(precisions(start)):
        with precision(bits):
            balls = problem.balls()
        undecided = []
        for name, index in remaining:
            ball = balls[name][index]
            result = decide(ball)
            if result is None and step == 0 and _may_be_zero(ball) and problem.is_zero(name, index):
                result = 0.0  # sought once: a proof needs no bits
            if result is None:
                undecided.append(Entry(name, index, ball))
            else:
                arrays[name][index] = result
        remaining = [(entry.name, entry.index) for entry in undecided]
        if not remaining:
            break
    return Refined(arrays, undecided, bits)


def round_correctly(problem: Refinable) -> dict[str, Array]:
    """Return every entry as the float64 nearest to the truth; ArithmeticError where MAX_BITS leave open which."""
    refined = refine(problem, START_BITS, correctly_rounded)
    if refined.undecided:
        entry = refined.undecided[0]
        raise ArithmeticError(
            f"{entry} cannot be rounded with {refined.bits} bits, as far as they go: {describe(entry.ball)}"
        )
    return {name: array.astype(np.float64) for name, array in refined.arrays.items()}


def _may_be_zero(ball: Arb) -> bool:
    return not ball.is_finite() or ball.contains(0)
