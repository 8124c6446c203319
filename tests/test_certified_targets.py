"""Targets: masked classes, undefined rows, ignored rows, weights that add up to 0."""

from __future__ import annotations

import numpy as np
import pytest

import refloss
from refloss.engines.certified import Ball, enclose
from support.enclosures import encloses, head_inputs

pytest.importorskip("flint")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_logits_without_an_ordinary_loss(reduction: str, smoothing: float) -> None:
    rows = {
        "NaN": [np.nan, 0.0, 1.0],
        "inf": [np.inf, 0.0, 1.0],
        "all masked": [-np.inf] * 3,
        "target masked": [-np.inf, 0.0, 1.0],
        "another masked": [0.5, -np.inf, 1.0],
        "another masked, far down": [-1e308, -np.inf, -1.0001e308],
        "two masked": [-np.inf, 0.5, -np.inf],
        "ordinary": [0.1, 0.2, 0.3],
    }
    for chosen in (*([name] for name in rows), ["target masked", "ordinary"], list(rows)):
        z = np.array([rows[name] for name in chosen])
        for y in (np.zeros(len(z), int), np.tile([1.0, 0.0, 0.5], (len(z), 1))):
            for weights in ((1.0, 2.0, 0.5), (-1.0, 2.0, 0.5)):
                loss = refloss.CrossEntropy(reduction=reduction, label_smoothing=smoothing, class_weight=weights)
                encloses(loss, z, y)


def test_masked_targets_of_both_signs() -> None:
    """-inf by a negative one, NaN by both, as in PyTorch; a target that smoothing makes exactly 0 is none."""
    z = [[-np.inf, 0.0, 1.0, -np.inf]]
    for y, expected in (
        ([-1.0, 0.5, 0.0, 0.0], -np.inf),
        ([-1.0, 0.5, 0.0, 2.0], np.nan),
        ([1.0, 0.0, 1.0, 1.0], np.inf),
    ):
        enclosure = enclose(refloss.CrossEntropy(), z, [y])
        assert f"the loss is {expected:g}" in enclosure.notes[0]
        for engine in ("certified", "chain", "fused", "dd"):
            assert np.array_equal(refloss.CrossEntropy()(z, [y], engine=engine), expected, equal_nan=True), engine
    smooth = refloss.CrossEntropy(label_smoothing=0.5)
    encloses(smooth, z, [[-0.25, 1.0, 1.0, -0.25]])
    assert np.isfinite(smooth(z, [[-0.25, 1.0, 1.0, -0.25]], engine="certified"))


def test_undefined_rows_are_named() -> None:
    z = [[np.nan, 0.0], [0.0, 1.0], [0.0, -np.inf]]
    notes = enclose(refloss.CrossEntropy(), z, [0, 0, 1]).notes
    assert [note[:6] for note in notes] == ["row 0:", "row 2:"]
    assert "NaN" in notes[0]
    assert "the loss is inf" in notes[1]


def test_ignored_logits_are_not_looked_at() -> None:
    enclosure = enclose(refloss.CrossEntropy(), [[np.nan, 0.0], [0.0, 1.0]], [-100, 0])
    assert not enclosure.notes
    assert np.array_equal(enclosure.grad["z"].midpoint[0], [0.0, 0.0])
    encloses(
        refloss.CrossEntropy(),
        [[0.0, 1.0]],
        [0],
        enclosure=enclosure._replace(grad={"z": first(enclosure.grad["z"], 1)}),
    )


def first(ball: Ball, row: int) -> Ball:
    return Ball(*(part[row : row + 1] for part in ball))


def test_smoothing_of_1_lets_every_class_weigh() -> None:
    loss = refloss.CrossEntropy(label_smoothing=1.0, class_weight=(0.0, 1.0, 2.0))
    encloses(loss, [[-np.inf, 0.0, 1.0], [0.0, -np.inf, 1.0]], [1, 1])


def test_all_rows_ignored() -> None:
    x, w, _ = head_inputs()
    for reduction, expected in (("mean", np.nan), ("sum", 0.0), ("none", np.zeros(3))):
        enclosure = enclose(refloss.ArcFace(reduction=reduction), x, w, np.full(3, -100))
        assert np.array_equal(enclosure.value.midpoint, expected, equal_nan=True)
        assert not enclosure.grad["x"].midpoint.any()
        assert not enclosure.grad["w"].midpoint.any()


def test_a_mean_over_no_weight_is_nan() -> None:
    x, w, y = head_inputs()
    loss = refloss.NormFace(class_weight=(0.0, 0.0, 1.0, 1.0), label_smoothing=0.1)
    enclosure = enclose(loss, x, w, y)
    assert '"mean" divides by a total weight of 0: NaN' in enclosure.notes
    assert np.isnan(enclosure.value.midpoint)
    assert np.isnan(enclosure.grad["w"].midpoint).all()
    assert np.array_equal(np.isnan(enclosure.grad["x"].midpoint).all(axis=1), [True, False, True])


@pytest.mark.parametrize("smoothing", [0.0, 0.25, 1.0])
def test_weights_that_add_up_to_0(smoothing: float) -> None:
    """The value alone is enclosed: what PyTorch has, see `refloss.engines.counting.mean_over_zero`."""
    loss = refloss.CrossEntropy(class_weight=(-1.0, 2.0, 0.5), label_smoothing=smoothing)
    enclosure = enclose(loss, [[0.3, -1.0, 2.0], [1.0, 0.2, -0.7], [0.0, 1.0, 0.5]], [1, 0, 0])
    expected = np.nan if smoothing == 1.0 else np.inf
    assert np.array_equal(enclosure.value.midpoint, expected, equal_nan=True)
    assert np.isnan(enclosure.grad["z"].midpoint).all()
    said = "NaN" if smoothing == 1.0 else "the value is inf, the gradient NaN"
    assert enclosure.notes == (f'"mean" divides by a total weight of 0: {said}',)
