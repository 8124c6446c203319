"""Derivation steps: every equation of the site is transcribed, evaluated or said to be neither."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from mpmath import mp, mpf

from derivations import STEPS, Below, Draw, digest
from support.equations import equations

pytestmark = pytest.mark.untraced  # they run nothing of refloss

ROOT = Path(__file__).parents[1]
DIGITS = 60
ROUNDING = mpf(10) ** -45  # a side loses 15 of its 60 digits at most: a few cancellations, and differences

for file in sorted((ROOT / "tests" / "derivations").glob("[a-z]*.py")):
    importlib.import_module(f"derivations.{file.stem}")


EQUATIONS = equations()


def test_every_displayed_equation_has_a_label_of_its_own():
    labels = [equation.label for equation in EQUATIONS]
    assert [(equation.page, equation.tex) for equation in EQUATIONS if not equation.label] == []
    assert sorted(labels) == sorted(set(labels))
    assert all(re.fullmatch(r"[a-z0-9-]+", label) for label in labels)


def test_every_step_is_transcribed_and_every_transcription_has_its_equation():
    assert {equation.label for equation in EQUATIONS if equation.checked} == set(STEPS)


@pytest.mark.parametrize(
    "equation", [equation for equation in EQUATIONS if equation.checked], ids=lambda equation: equation.label
)
def test_no_equation_was_edited_since_its_transcription_was_written(equation):
    """After an edit: read the transcription beside the new TeX, and only then write the new digest."""
    assert STEPS[equation.label].digest == digest(equation.tex), f"{equation.page}: read it again: {equation.tex}"


@pytest.mark.parametrize("label", STEPS)
def test_the_sides_of_a_step_agree(label):
    values = []
    for seed in range(4):
        with mp.workdps(DIGITS):
            sides = STEPS[label].sides(Draw(seed))
            flat = [_flat(side) for side in sides if not isinstance(side, Below)]
            assert all(_holds(side) for side in sides if isinstance(side, Below)), (seed, sides)
            assert len(flat) != 1, "a side that is compared with nothing"
            assert all(_agree(flat[0], side) for side in flat[1:]), (seed, flat)
            values.append(repr(sides))
    assert len(set(values)) == len(values), "not a function of the point: nothing is checked"


def _flat(side: Any) -> list[Any]:
    if isinstance(side, Below):
        raise TypeError("an inequality is a side of its own")
    if isinstance(side, (list, tuple)):
        return [entry for part in side for entry in _flat(part)]
    return [mpf(side)]


def _holds(side: Below) -> bool:
    return bool(side.low < side.high if side.strict else side.low <= side.high)


def _agree(a: list[mpf], b: list[mpf]) -> bool:
    size = max(map(abs, a))
    return len(a) == len(b) and all(abs(i - j) <= ROUNDING * max(size, 1) for i, j in zip(a, b, strict=True))
