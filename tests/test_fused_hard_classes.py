"""Hard classes: none is misjudged, in either dtype, and near the threshold logits are those of pairs."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

import refloss
from refloss.engines import contract
from refloss.engines.fused import hard_classes
from refloss.engines.fused.hard_classes import HardClasses
from refloss.engines.kernels import rows as row_kernels
from refloss.stages import negatives
from support import checks, thresholds
from support.checks import agree_with_chain as agree
from support.fused_cases import U, bits, few_kept, in_blocks, ordinary, random_of, unit

LOSSES = (
    refloss.CurricularFace(s=8.0, t=0.9),
    refloss.CurricularFace(s=16.0, t=-0.4, m=0.3),
    refloss.MVSoftmax(s=8.0),
    refloss.MVSoftmax(s=8.0, margin="arc", m=0.5),
)
DTYPES = pytest.mark.parametrize("dtype", [np.float64, np.float32])


@pytest.mark.parametrize(("loss", "classes"), [(LOSSES[0], 1000), *((loss, 100) for loss in LOSSES[1:])], ids=repr)
def test_of_classes_built_onto_the_threshold_none_is_misjudged(loss, classes, monkeypatch):
    """The inputs are float64 numbers, of which float32 could not tell the sides."""
    in_blocks(monkeypatch, 64)
    x, w, y = thresholds.near(loss, random_of(repr(loss)), classes, d=6)
    kinds = thresholds.hard(loss, x, w)
    assert classes / 4 < kinds.sum() < classes * 3 / 4
    for dtype in (np.float64, np.float32):
        assert thresholds.misjudged(loss, x, w, y, engine="fused", dtype=dtype) == 0


@DTYPES
@pytest.mark.parametrize("margin", [0.0, 0.25])
def test_classes_on_the_threshold_are_not_hard(margin, dtype):
    loss = refloss.MVSoftmax(m=margin, s=8.0, boundary="none")
    inputs = thresholds.ties(margin)
    assert thresholds.misjudged(loss, *inputs, engine="fused", dtype=dtype) == 0


@DTYPES
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_logit_is_as_near_to_its_threshold_as_the_band_says(loss, dtype):
    """Cosines as a block computes them are within (2 K_D + 16) u; 8u are for what they are compared with."""
    random = random_of(f"band {loss}")
    for width in (1, 3, 40, 700):
        x, w = random.standard_normal((5, width)), random.standard_normal((30, width))
        x[0], w[:10] = np.abs(x[0]) + 1.0, np.abs(w[:10]) + 1.0  # all terms of one sign
        exactly = np.array([[math.fsum(a * b) / math.hypot(*a) / math.hypot(*b) for b in w] for a in x])
        narrow_x, narrow_w = x.astype(dtype), w.astype(dtype)
        alpha = (loss.s / np.sqrt(np.vecdot(narrow_x, narrow_x).astype(np.float64))).astype(dtype)
        beta = (1.0 / np.sqrt(np.vecdot(narrow_w, narrow_w).astype(np.float64))).astype(dtype)
        z = (narrow_x @ narrow_w.T) * alpha[:, None] * beta
        band = (2.0 * contract.summed(width) + 16.0) * unit(dtype)
        assert np.abs(z / loss.s - exactly).max() <= band + 8.0 * U


@DTYPES
def test_what_becomes_of_hard_logits(dtype):
    """The polynomial of the logit is s times the stage's η, and its derivative dη/dc."""
    for settings in (negatives.Settings("curricular", -0.7), negatives.Settings("reweighted", 0.3)):
        hard = HardClasses(settings, 16.0, np.zeros((1, 1)), None, None)
        one, a, b, c = hard._raise(np.dtype(dtype))
        assert one == 1.0
        assert all(type(number) is dtype for number in (one, a, b, c))
        for cosine in (-0.9, 0.25, 1.0):
            z = 16.0 * cosine
            eta = negatives.raised(int(Fraction(cosine) * 2**60), settings, 60) / 2**60
            assert (float(a) * z + float(b)) * z + float(c) == pytest.approx(16.0 * eta, abs=float(64.0 * unit(dtype)))
            slope = settings.t + 2.0 * cosine if settings.rule == "curricular" else 1.0 + settings.t
            assert 2.0 * float(a) * z + float(b) == pytest.approx(slope, abs=float(8.0 * unit(dtype)))


def test_cosines_are_found_again_in_pieces_of_any_size(monkeypatch):
    loss = LOSSES[0]
    x, w, y = thresholds.near(loss, random_of("pieces"), 20)
    expected = bits(loss.value_and_grad(x, w, y, engine="fused"))
    for entries in (1, 12, 79):
        monkeypatch.setattr(hard_classes, "ENTRIES_AT_ONCE", entries)
        assert bits(loss.value_and_grad(x, w, y, engine="fused")) == expected


def test_few_logits_are_looked_at_again(monkeypatch):
    """Of 28000 in float64 none; in float32 a band of 2 (2 * 16 + 16) 2^-24, below 6e-6, where densities are below 2."""
    counts, real = [], row_kernels.near_threshold

    def counted(*tile):
        first, columns = real(*tile)
        counts.append(len(columns))
        return first, columns

    monkeypatch.setattr(row_kernels, "near_threshold", counted)
    x, w, y = ordinary(40, 700, 16)
    refloss.CurricularFace()(x, w, y, engine="fused")
    assert not sum(counts)
    refloss.CurricularFace()(x, w, y, engine="fused", dtype=np.float32)
    assert sum(counts) < 10


@DTYPES
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("loss", [refloss.CurricularFace(s=30.0, t=0.3), refloss.MVSoftmax(t=0.5)], ids=repr)
def test_at_sizes_of_several_blocks_and_groups(loss, reduction, dtype, monkeypatch):
    """Against dd, within error_bound; where ignored rows are left out, and only x or w is wanted."""
    in_blocks(monkeypatch, 64)
    few_kept(monkeypatch)
    random = random_of(f"{loss} {reduction}")
    x, w = (random.standard_normal(shape).astype(dtype).astype(np.float64) for shape in ((50, 12), (300, 12)))
    y = random.integers(0, 300, 50)
    x[::2] += (3.0 * w[y[::2]]).astype(dtype)
    loss = type(loss)(s=loss.s, t=loss.t, reduction=reduction, ignore_index=int(y[3]))
    upstream = random.standard_normal(50) if reduction == "none" else -1.5
    how = {"upstream": upstream, "engine": "fused", "dtype": dtype}
    result, bound = loss.value_and_grad(x, w, y, **how), refloss.error_bound(loss, x, w, y, **how)
    truth = loss.value_and_grad(x, w, y, upstream=upstream, engine="dd")
    most = float(np.finfo(dtype).max)
    for each in ((result[0], truth[0], bound[0]), *zip(result[1], truth[1], bound[1], strict=True)):
        assert checks.rounded_share(*each, most) <= 1.0
    assert not result[1].x[y == y[3]].any()
    assert np.array_equal(loss.value_and_grad(x, w, y, wrt="x", **how)[1].x, result[1].x)
    assert np.array_equal(loss.value_and_grad(x, w, y, wrt="w", **how)[1].w, result[1].w)


def test_other_dtypes_of_class_weights_count_as_they_are():
    x, w, y = ordinary(4, 9, 3)
    for kind in (np.float16, np.float32):
        agree(refloss.CurricularFace(s=16.0), x, w.astype(kind), y)


def test_a_single_class_has_no_hard_ones():
    x, w, y = ordinary(4, 1, 3)
    for dtype in (np.float64, np.float32):
        value, grad = refloss.CurricularFace().value_and_grad(x, w, y, engine="fused", dtype=dtype)
        assert value == 0.0
        assert not grad.x.any()
        assert not grad.w.any()
