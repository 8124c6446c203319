"""Centers in the sweep: which takes part, in any blocks, groups and threads; near ties by the inputs as they came."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import refloss
from refloss.engines import fused
from refloss.engines.fused import centers as fused_centers
from refloss.engines.fused.blocks import block_ranges
from refloss.engines.fused.centers import Centers
from support import cases, centers, checks
from support.fused_cases import bits, few_kept, float32_keeps_its_bound, in_blocks, random_of, weights_of

DTYPES = [np.float64, np.float32]
LOSSES = [
    refloss.SubCenterArcFace(s=20.0),
    refloss.SubCenterArcFace(s=20.0, centers=1),
    refloss.SubCenterArcFace(s=None, centers=2, reduction="none"),
    refloss.SubCenterArcFace(s=20.0, centers=5, class_weight=weights_of(7), gradient="detached"),
]


def some_inputs(loss, n=5, c=7, d=3):
    """Ordinary ones, and a class that the last block must find."""
    random = random_of(repr(loss))
    x, w, y = random.standard_normal((n, d)), random.standard_normal((c, loss.centers, d)), random.integers(0, c, n)
    y[:2] = c - 1
    return x, w, y


@pytest.mark.parametrize("dtype", [np.dtype(kind) for kind in DTYPES])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 5000])
@pytest.mark.parametrize("classes", [1, 2, 1000, 30000])
@pytest.mark.parametrize("samples", [1, 300, 10**6])
def test_no_block_cuts_a_class(classes, count, samples, dtype):
    blocks = block_ranges(classes * count, samples, dtype, count)
    assert blocks[0].start == 0
    assert blocks[-1].stop == classes * count
    assert all(a.stop == b.start for a, b in pairwise(blocks))
    assert all((block.stop - block.start) % count == 0 for block in blocks)
    if count == 1:
        assert blocks == block_ranges(classes, samples, dtype)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("rows", [1, 4, 7])
def test_the_contract_holds_in_blocks_that_divide_and_that_do_not(loss, rows, monkeypatch):
    in_blocks(monkeypatch, rows)
    few_kept(monkeypatch, 8)
    checks.against_exact(loss, *some_inputs(loss), engine="fused")


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_float32_keeps_its_bound(loss, monkeypatch):
    pytest.importorskip("flint")
    in_blocks(monkeypatch, 6)
    x, w, y = (each.astype(np.float32) if each.dtype == np.float64 else each for each in some_inputs(loss))
    float32_keeps_its_bound(loss, x, w, y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_on_every_run_and_for_every_number_of_threads(dtype, set_threads, monkeypatch):
    in_blocks(monkeypatch, 50)
    runs, loss = [], refloss.SubCenterArcFace(s=20.0)
    x, w, y = centers.near(random_of("threads"), 200, 3, 16)
    x, y = np.concatenate([x, random_of("more").standard_normal((30, 16))]), np.arange(31)
    for count in (1, 1, 2, 3):
        set_threads(count)
        result = loss.value_and_grad(x, w, y, engine="fused", dtype=dtype)
        assert loss(x, w, y, engine="fused", dtype=dtype) == result[0]
        runs.append(bits(result))
    assert all(a == b for a, b in pairwise(runs))


@pytest.mark.parametrize("dtype", DTYPES)
def test_near_ties_in_any_blocks_are_those_of_the_inputs_as_they_came(dtype, monkeypatch):
    """Vectors in float64, also for results in float32, which would call all of them equal; a few cosines at a time."""
    in_blocks(monkeypatch, 20)
    monkeypatch.setattr(fused_centers, "ENTRIES_AT_ONCE", 50)
    loss = refloss.SubCenterArcFace(s=8.0)
    for seed in range(3):
        x, w, y = centers.near(random_of(str(seed)), 40, 3, 5)
        assert np.array_equal(centers.taken(loss, x, w, y, engine="fused", dtype=dtype), centers.truth(x, w))
    x, w, y = centers.ties()
    assert np.array_equal(centers.taken(loss, x, w, y, engine="fused", dtype=dtype), centers.truth(x, w))


@pytest.mark.parametrize("size", [1e-300, 1e-20, 1e20, 1e300])
def test_lengths_do_not_matter(size):
    x, w, y = centers.near(random_of("lengths"), 40, 3)
    lengths = size ** np.arange(-1.0, 2.0)[:, None] if size in (1e-20, 1e20) else size
    result = centers.taken(refloss.SubCenterArcFace(s=8.0), x / size, w * lengths, y, engine="fused")
    assert np.array_equal(result, centers.truth(x / size, w * lengths))


def test_the_row_of_the_label():
    x, w, _ = centers.near(random_of("rows"), 30, 4)
    rows = Centers(4, np.repeat(x, 30, axis=0)).own_rows(w.reshape(-1, 4), np.arange(30))
    assert rows.tolist() == (4 * np.arange(30) + centers.truth(x, w)[0]).tolist()


def test_smoothed_labels_are_left_to_the_chain(monkeypatch):
    """Which center a class has its share of a target at differs from sample to sample."""
    loss = refloss.SubCenterArcFace(label_smoothing=0.1)
    inputs = some_inputs(loss)
    assert bits(loss.value_and_grad(*inputs, engine="fused")) == bits(loss.value_and_grad(*inputs, engine="chain"))
    monkeypatch.setattr(fused, "_by_chain", None)
    for own in (refloss.SubCenterArcFace(), refloss.SubCenterArcFace(s=None)):
        own.value_and_grad(*inputs, engine="fused")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("change", ["NaN", "zeros"])
def test_class_weights_are_refused_as_by_the_chain(change, dtype, monkeypatch):
    in_blocks(monkeypatch, 3)
    loss = refloss.SubCenterArcFace()
    for at in ((4, 1), (6, 2)):  # the last is the class of a label
        x, w, y = some_inputs(loss)
        w[at] = np.nan if change == "NaN" else 0.0
        where = f"w[{at[0]}, {at[1]}" + (", 0]" if change == "NaN" else "]")
        for labels in (y, np.full(5, -100)):
            with pytest.raises(ValueError, match=r"^w must") as caught:
                loss(x, w, labels, engine="fused", dtype=dtype)
            assert str(caught.value).endswith(where)


def test_many_samples_and_groups_agree_with_the_chain(monkeypatch):
    in_blocks(monkeypatch, 64)
    few_kept(monkeypatch)
    loss = refloss.SubCenterArcFace(s=20.0)
    x, w, y = cases.with_centers(3, random_of("groups"), *cases.ordinary(random_of("groups"), 40, 50, 6))
    result = loss.value_and_grad(x, w, y, engine="fused")
    truth, bound = loss.value_and_grad(x, w, y, engine="dd"), refloss.error_bound(loss, x, w, y, engine="fused")
    assert abs(result[0] - truth[0]) <= bound[0]
    for ours, true, allowed in zip(result[1], truth[1], bound[1], strict=True):
        assert (np.abs(ours - true) <= allowed + checks.U * np.abs(true)).all()


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16])
def test_a_file_of_centers_is_read_and_their_gradient_written(kind, tmp_path, monkeypatch):
    in_blocks(monkeypatch, 64)
    loss, random = refloss.SubCenterArcFace(s=16.0), random_of("file")
    x, y, in_memory = random.standard_normal((20, 8)), random.integers(0, 100, 20), random.standard_normal((100, 3, 8))
    in_memory.astype(kind).tofile(tmp_path / "w")
    w = np.memmap(tmp_path / "w", kind, "r", shape=(100, 3, 8))
    into = np.memmap(tmp_path / "dw", np.float64, "w+", shape=(100, 3, 8))
    value, gradients = loss.value_and_grad(x, w, y, engine="fused", out={"w": into})
    assert gradients.w is into
    assert bits((value, gradients)) == bits(loss.value_and_grad(x, np.array(w), y, engine="fused"))
