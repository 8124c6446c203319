"""Refinement: more bits where they decide, and what is said of entries that no bits decide."""

from __future__ import annotations

import numpy as np
import pytest

import refloss
from refloss.engines.certified import balls, enclose
from support import cases
from support.enclosures import encloses, random, undecided

pytest.importorskip("flint")


def test_what_is_neither_0_nor_told_from_it_is_reported() -> None:
    x, w, _ = cases.ordinary(random(), 1)
    loss, y = refloss.ArcFace(reduction="none"), np.array([1, 1])
    twice = np.concatenate([x, x])
    enclosure = enclose(loss, twice, w, y, upstream=[1.0, -1.0])  # gradients on w cancel, which no rule here proves
    assert enclosure.bits == balls.MAX_BITS
    assert len(undecided(enclosure)) == enclosure.grad["w"].midpoint.size
    assert all(float(note.rpartition("<= ")[2].replace("E-4", "E-")) < 1e-300 for note in undecided(enclosure))
    assert "undecided: w[3, 1]: |truth| <= " in " ".join(enclosure.notes)
    assert (enclosure.grad["w"].midpoint == 0.0).all()
    assert (enclosure.grad["w"].radius == 5e-324).all()
    encloses(loss, twice, w, y, enclosure=enclosure, upstream=[1.0, -1.0])
    _, gradients = loss.value_and_grad(twice, w, y, upstream=[1.0, -1.0], engine="certified")
    assert not gradients.w.any()  # which is how anything below 2^-1075 is rounded


def test_the_precision_ends_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balls, "MAX_BITS", 256)
    loss, inputs = refloss.ArcFace(), cases.on_axes(1e-300)
    with pytest.raises(ArithmeticError, match=r"value cannot be rounded with 256 bits.*: nothing is known"):
        loss.value_and_grad(*inputs, engine="certified")
    enclosure = enclose(loss, *inputs)
    assert enclosure.bits == 256
    assert np.isinf(enclosure.grad["x"].radius).any()
    assert "inf" in enclosure.grad["x"].decimal_radius
    assert any(note.endswith("nothing is known") for note in undecided(enclosure))
    encloses(loss, *inputs, enclosure=enclosure)
    assert undecided(enclose(refloss.NormFace(), *cases.ordinary(random()), digits=90))


def test_halfway_between_two_floats_is_not_guessed() -> None:
    smoothing = (2.0**26 - 1.0) / 2.0**27  # dL/dz_1 is (2^27 + 1)(2^26 + 1) 2^-27: 54 bits, the last 1
    loss = refloss.CrossEntropy(label_smoothing=smoothing, reduction="sum")
    with pytest.raises(ArithmeticError, match=r"z\[0, \d\] cannot be rounded with 16384 bits.*: truth in \["):
        loss.value_and_grad(np.full((1, 5), 0.1), [0], upstream=5.0 * (2.0**27 + 1.0), engine="certified")
