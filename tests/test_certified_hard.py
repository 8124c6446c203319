"""Hard classes: decided right however near they are to the threshold, and what is 0 of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refloss
from refloss.engines.certified import balls, enclose, hard
from support import thresholds
from support.enclosures import encloses, random, undecided

pytest.importorskip("flint")

LOSSES = (
    refloss.CurricularFace(t=0.3, s=8.0),
    refloss.CurricularFace(t=-0.8, m=1.2, s=8.0),
    refloss.MVSoftmax(t=0.2),
    refloss.MVSoftmax(margin="arc", m=0.7, t=0.5),
)
AT = "is the threshold of hard classes exactly: it is not hard"


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_thousand_classes_built_onto_the_threshold(loss: Any) -> None:
    """250 of each loss; of their cosines float64 knows too little."""
    x, w, y = thresholds.near(loss, random(), 250)
    true = thresholds.hard(loss, x, w)
    assert true[2:].any()
    assert not true[2:].all()
    by_float64 = (x @ w.T / np.linalg.norm(x) / np.linalg.norm(w, axis=1))[0]
    tau = float(thresholds.target_pair(loss, x, w[:1]).threshold())
    assert (true != (by_float64 > tau))[2:].sum() > 10
    assert thresholds.misjudged(loss, x, w, y, engine="certified") == 0
    assert not enclose(loss, x, w[:5], y, gradients=False).notes


@pytest.mark.parametrize("m", [0.0, 0.25])
def test_classes_on_the_threshold(m: float) -> None:
    loss = refloss.MVSoftmax(m=m, boundary="none", s=4.0)
    x, w, y = thresholds.ties(m)
    assert thresholds.misjudged(loss, x, w, y, engine="certified") == 0
    at = [note for note in enclose(loss, x, w, y).notes if note.endswith(AT)]
    assert [int(note.split("class ")[1].split()[0]) for note in at] == [2, 3, 4]


def test_three_hundred_rational_cosines_at_the_threshold() -> None:
    """w = k e_i + δ e_j: its cosine, (k + δ)/(4 √(k² + δ²)), is above 1/4 if δ > 0 and 1/4 if δ = 0."""
    loss, random_ = refloss.MVSoftmax(m=0.25, s=4.0), random()
    x, w, y = thresholds.ties(0.25)
    moved = random_.choice([-1.0, 0.0, 1.0], 300) * 10.0 ** random_.uniform(-300.0, -10.0, 300)
    classes = np.zeros((300, 16))
    for row, delta in zip(classes, moved, strict=True):
        i, j = random_.permutation(16)[:2]
        row[i], row[j] = random_.uniform(0.5, 2.0), delta
    w = np.concatenate([w[:2], classes])
    assert np.array_equal(thresholds.hard(loss, x, w)[2:], moved > 0.0)
    assert thresholds.misjudged(loss, x, w, y, engine="certified") == 0
    notes = enclose(loss, x, w, y, gradients=False).notes
    assert [int(note.split("class ")[1].split()[0]) - 2 for note in notes] == np.flatnonzero(moved == 0.0).tolist()


@pytest.mark.parametrize("sign", [-1.0, 0.0, 1.0])
def test_next_to_a_tie(sign: float) -> None:
    """Cosines of 1/2 and of 1/4, moved by 1e-200 of it: more bits decide."""
    x, w, y = thresholds.ties(0.25)
    w = w[:3].copy()
    w[2, 1] = sign * 1e-200
    loss = refloss.MVSoftmax(m=0.25)
    enclosure = enclose(loss, x, w, y)
    assert not undecided(enclosure)
    assert bool(enclosure.notes) == (sign == 0.0)
    assert thresholds.hard(loss, x, w).tolist() == [False, False, sign > 0.0]
    assert thresholds.misjudged(loss, x, w, y, engine="certified") == 0
    encloses(loss, x, w, y, enclosure=enclosure)


@pytest.mark.parametrize("m", [0.0, 1e-60])
def test_an_equal_class(m: float) -> None:
    """Without a margin it is at the threshold, with any on the angle beyond it."""
    loss = refloss.CurricularFace(m=m, t=0.5, boundary="none")
    x, w, y = [[1.0, 2.0]], np.array([[1.0, 1.0], [-1.0, 0.5], [1.0, 1.0]]), [0]
    enclosure = enclose(loss, x, w, y)
    assert any(note.endswith(AT) for note in enclosure.notes) == (m == 0.0)
    encloses(loss, x, w, y, enclosure=enclosure)


def test_a_cosine_that_max_bits_cannot_tell_from_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (balls, hard):
        monkeypatch.setattr(module, "MAX_BITS", 256)
    x, w, y = thresholds.ties(0.25)
    w[2, 1] = 1e-200
    notes = enclose(refloss.MVSoftmax(m=0.25), x, w[:3], y).notes
    assert any("class 2 and the threshold of hard classes differ by less than 256 bits tell" in note for note in notes)


@pytest.mark.parametrize(
    ("loss", "inputs", "zeros"),
    [
        # t + 2 c = 0
        (refloss.CurricularFace(t=-0.5, m=2.0), ([[1.0, 0, 0, 0, 0]], [[1.0, 1, 0, 0, 0], [1, 3, 2, 1, 1]], [0]), 1),
        (refloss.CurricularFace(m=2.0), ([[1.0, 0.0]], [[1.0, 1.0], [0.0, 3.0]], [0]), 1),
    ],
    ids=["c = 1/4", "c = 0"],
)
def test_a_slope_of_0(loss: Any, inputs: Any, zeros: int) -> None:
    enclosure = enclose(loss, *inputs)
    assert not undecided(enclosure)
    assert not enclosure.grad["w"].midpoint[zeros].any()
    encloses(loss, *inputs, enclosure=enclosure)
