"""Hinges: triplets exactly at their kinks and next to them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

import refloss
from refloss.engines.certified import enclose
from support.enclosures import encloses, undecided

pytest.importorskip("flint")


@pytest.mark.parametrize(
    ("loss", "inputs", "note"),
    [
        (refloss.Triplet(m=7.0), ([[0.0, 0.0]], [[3.0, 0.0]], [[0.0, 4.0]]), "the hinge is at 0 exactly"),
        (
            refloss.Triplet(m=1.0, squared=False),
            ([[0.0, 0.0]], [[3.0, 0.0]], [[0.0, 4.0]]),
            "the hinge is at 0 exactly: the gradient of least norm, 0, is used",
        ),
        (
            refloss.Triplet(squared=False),
            ([[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.1]]),
            "anchor and positive coincide: the plain distance has no derivative, 0 is used",
        ),
        (
            refloss.Triplet(squared=False),
            ([[1.0, 0.0]], [[1.0, 0.1]], [[1.0, 0.0]]),
            "anchor and negative coincide: the plain distance has no derivative, 0 is used",
        ),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_every_kink_is_named_and_follows_its_convention(loss: Any, inputs: Any, note: str) -> None:
    enclosure = enclose(loss, *inputs)
    assert any(text.startswith(f"row 0: {note}") for text in enclosure.notes), enclosure.notes
    assert not undecided(enclosure)
    encloses(loss, *inputs, enclosure=enclosure)


def test_what_is_smooth_is_not_noted() -> None:
    inputs = [[0.0, 0.0]], [[0.1, 0.0]], [[0.0, 4.0]]
    enclosure = enclose(refloss.Triplet(), *inputs)
    assert not enclosure.notes
    encloses(refloss.Triplet(), *inputs, enclosure=enclosure)


def test_a_triplet_loss_of_almost_0_takes_bits_and_is_not_called_0() -> None:
    inputs = [[0.0, 0.0]], [[1.0, 1e-30]], [[1.0, 0.0]]
    enclosure = enclose(refloss.Triplet(m=0.0), *inputs)
    assert enclosure.bits > 200  # with 128 the distances are alike
    assert enclosure.value.midpoint == float(Fraction(1e-30) ** 2)
    encloses(refloss.Triplet(m=0.0), *inputs, enclosure=enclosure)
