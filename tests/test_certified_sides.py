"""Sides: targets at every boundary of every margin, exactly at it and next to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import refloss
from refloss.engines.certified import balls, enclose, sides
from support.enclosures import at, encloses, undecided

pytest.importorskip("flint")


PARALLEL, OPPOSITE = at([3.0, 0.0, 0.0]), at([-3.0, 0.0, 0.0])
RIGHT, AT_60, AT_120 = at([0.0, 2.0, 0.0]), at([1.0, 1.0, 1.0, 1.0]), at([-1.0, 1.0, 1.0, 1.0])
AT_45, AT_135, AT_30 = at([1.0, 1.0, 0.0]), at([-1.0, 1.0, 0.0]), at([3.0, 1.0, 1.0, 1.0])
LONG_AT_60 = at([1.0, 2.0**-100] * 4, [1.0, 2.0**-100])
HOLDS = "exactly: the margin still holds"
AT_EPS = refloss.AdaFace(m=0.5, h=1.0, mean=2.0, std=0.5, eps=0.5)  # of a length of 1 m2 is ε; of a mean of 0, -ε


@pytest.mark.parametrize(
    ("loss", "inputs", "note"),
    [
        (refloss.ArcFace(), PARALLEL, "theta = 0 exactly: the tangent of least norm, 0, is used"),
        (refloss.ArcFace(boundary="keep"), PARALLEL, "theta = 0 exactly: the tangent of least norm, 0, is used"),
        (refloss.ArcFace(), OPPOSITE, "theta = pi exactly: the tangent of least norm, 0, is used"),
        (refloss.ASoftmax(m=1.5, boundary="none"), OPPOSITE, "theta = pi exactly: the tangent of least norm, 0, is"),
        (refloss.ASoftmax(m=2), OPPOSITE, f"m1 theta + m2 = 2 pi {HOLDS}"),
        (refloss.ASoftmax(m=4), AT_45, f"m1 theta + m2 = pi {HOLDS}"),
        (refloss.ASoftmax(m=4, annealing=2.0), AT_135, f"m1 theta + m2 = 3 pi {HOLDS}"),
        (refloss.ASoftmax(m=6), AT_30, f"m1 theta + m2 = pi {HOLDS}"),
        (refloss.ASoftmax(m=3, s=8.0), AT_60, f"m1 theta + m2 = pi {HOLDS}"),
        (refloss.ASoftmax(m=3), AT_120, f"m1 theta + m2 = 2 pi {HOLDS}"),
        *(
            (refloss.CombinedMargin(m1=2.0, m2=0.0, boundary=rule), RIGHT, f"m1 theta + m2 = pi {HOLDS}")
            for rule in ("hard", "keep", "continuous", "clamp", "monotone")
        ),
        (refloss.ArcFace(boundary="easy"), RIGHT, "cos theta = 0 exactly: the easy margin does not hold"),
        (refloss.CosFace(m=0.5, boundary="conditional"), AT_60, "cos theta = m3 exactly: the conditional margin does"),
        (refloss.CosFace(boundary="conditional"), (*AT_120, [-0.5]), "cos theta = m3 exactly: the conditional margin"),
        (refloss.CosFace(boundary="conditional"), (*RIGHT, [0.0]), "cos theta = m3 exactly: the conditional margin"),
        (refloss.CosFace(m=0.5, boundary="conditional"), LONG_AT_60, "cos theta = m3 exactly: the conditional margin"),
        (refloss.MVSoftmax(), RIGHT, "cos theta = 0 exactly: the easy margin does not hold"),
        (refloss.ArcFace(boundary="min"), (*AT_60, [0.0]), "cos(m1 theta + m2) - m3 = cos theta exactly"),
        (refloss.ArcFace(boundary="keep"), (*OPPOSITE, [0.0]), f"m1 theta + m2 = pi {HOLDS}"),
        (refloss.ArcFace(), (*PARALLEL, [-0.5]), "theta = 0 exactly: the tangent of least norm, 0, is used"),
        (AT_EPS, PARALLEL, "theta = 0 exactly: the tangent of least norm, 0, is used"),
        (replace(AT_EPS, mean=0.0), OPPOSITE, "theta = pi exactly: the tangent of least norm, 0, is used"),
        *(
            (
                refloss.CombinedMargin(m1=m1, m2=0.0, m3=m3, boundary="min"),
                inputs,
                "cos(m1 theta + m2) - m3 = cos theta exactly: the margin still holds",
            )
            for m1, m3, inputs in (
                (2.0, 0.0, AT_120),
                (2.0, 0.875, at([-3.0, 2.0, 1.0, 1.0, 1.0])),  # cos θ = -3/4
                (3.0, 0.0, RIGHT),
                (1.5, 0.0, PARALLEL),
            )
        ),
        (
            refloss.CombinedMargin(
                m1=1.5, m2=0.0, m3=1.0, boundary="min"
            ),  # cos 3π/2 - 1 = cos π, not enclosure exactly
            OPPOSITE,
            f"cos(m1 theta + m2) - m3 and cos theta differ by less than {balls.MAX_BITS} bits tell: undecided",
        ),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_every_kink_is_named_and_follows_its_convention(loss: Any, inputs: Any, note: str) -> None:
    enclosure = enclose(loss, *inputs)
    assert any(text.startswith(f"row 0: {note}") for text in enclosure.notes), enclosure.notes
    assert not undecided(enclosure)
    encloses(loss, *inputs, enclosure=enclosure)


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (refloss.ArcFace(gradient="detached"), PARALLEL),
        (refloss.NormFace(), PARALLEL),
        (refloss.ASoftmax(m=3), PARALLEL),
        (refloss.ArcFace(boundary="none"), AT_60),
        (refloss.ASoftmax(m=4, boundary="none"), AT_45),
        (refloss.ASoftmax(m=4), AT_30),
        (refloss.CosFace(m=0.5, boundary="conditional"), AT_45),
        (refloss.CosFace(m=0.5, boundary="conditional"), AT_120),
        (refloss.ArcFace(boundary="easy"), AT_120),
        (refloss.CombinedMargin(m1=2.0, m2=0.0, m3=1e-50, boundary="min"), AT_120),
        (refloss.CombinedMargin(m1=1.0, m2=1e-30, m3=0.0, boundary="min", gradient="detached"), PARALLEL),
        (refloss.CombinedMargin(m1=3.0, m2=0.0, m3=0.0, boundary="min"), AT_135),
        (refloss.CombinedMargin(m1=2.0, m2=0.0, boundary="keep"), OPPOSITE),
        (refloss.ArcFace(boundary="hard"), (*AT_60, [-3.0])),
        (refloss.ArcFace(boundary="monotone"), (*AT_60, [-3.0])),
        (refloss.ArcFace(boundary="monotone"), (*AT_60, [3.0])),
        (refloss.CombinedMargin(m1=2.0, m3=0.0, boundary="continuous"), (*AT_120, [0.5])),
        (refloss.CosFace(boundary="conditional"), (*AT_120, [-0.75])),
        (replace(AT_EPS, m=0.75), OPPOSITE),  # φ = π + 3/4
        (replace(AT_EPS, m=0.75, mean=0.0), PARALLEL),  # φ = -3/4
        (replace(AT_EPS, mean=1.0), AT_60),  # v = 0
        (refloss.MVSoftmax(), AT_120),
    ],
    ids=lambda part: type(part).__name__,
)
def test_what_is_smooth_is_not_noted(loss: Any, inputs: Any) -> None:
    enclosure = enclose(loss, *inputs)
    assert not enclosure.notes
    encloses(loss, *inputs, enclosure=enclosure)


def test_sides_are_decided_however_near() -> None:
    x, w, y = at([-1.0, 5e-324, 0.0])
    loss = refloss.CombinedMargin(m1=1.0, m2=1e-300, boundary="clamp")  # θ = π - 5e-324, θ + m2 beyond π
    enclosure = enclose(loss, x, w, y)
    assert not enclosure.notes
    encloses(loss, x, w, y, enclosure=enclosure)


def test_sides_that_max_bits_cannot_tell_count_as_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (balls, sides):
        monkeypatch.setattr(module, "MAX_BITS", 256)
    loss = refloss.CombinedMargin(m1=1.0, m2=1e-200, boundary="clamp")
    assert any("differ by less than 256 bits tell: counted as equal" in note for note in enclose(loss, *OPPOSITE).notes)
    notes = enclose(AT_EPS, *at([1.0, 1e-200, 0.0])).notes
    assert "row 0: m1 theta + m2 and eps differ by less than 256 bits tell: undecided, counted as equal" in notes
