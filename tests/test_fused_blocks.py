"""Blocks: classes in any blocks and samples in any groups make the same results, in the memory of one N x C buffer."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import refloss
from refloss.engines import fused
from refloss.engines.fused import blocks
from refloss.engines.fused.samples import Samples
from support import cases, checks, exact
from support.checks import agree_with_chain as agree
from support.fused_cases import BLOCKED, U, bits, float32_keeps_its_bound, in_blocks, ordinary, random_of


@pytest.mark.parametrize("loss", BLOCKED, ids=repr)
@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_the_contract_holds_in_blocks_that_divide_and_that_do_not(loss, classes, monkeypatch):
    in_blocks(monkeypatch, classes)
    random = random_of("blocks")
    x, w, y = cases.ordinary(random, 5, 7, 3)  # two groups of samples: N > D
    y[:2] = 6
    w[2] = 2.0 * x[1]
    w[4] *= 1e200 if loss.spec.head == "margin" else 1.0
    b = (random.standard_normal(7),) if loss.spec.head == "linear" else ()
    checks.against_exact(loss, x, w, y, *b, engine="fused", digits=60)
    value = loss(x, w, y, *b, engine="fused")
    assert exact.value_error(value, exact.value(loss, x, w, y, *b)) <= checks.allowed(loss, x, w, y)[0]


def test_groups_are_as_large_as_memory_worth_64_mib_or_w(monkeypatch):
    """Samples far more than dimensions: one group where what is kept is small."""
    sizes = []
    real = Samples.take
    monkeypatch.setattr(Samples, "take", lambda self, some: (sizes.append(some.stop - some.start), real(self, some))[1])
    x, w, y = ordinary(5000, 4, 2)
    refloss.NormFace().value_and_grad(x, w, y, engine="fused")
    assert sizes == [5000]
    for kept, size in ((2**15, 1024), (0, 2)):
        sizes.clear()
        monkeypatch.setattr(blocks, "MIN_KEPT_BYTES", kept)
        refloss.NormFace().value_and_grad(x[:2048], w, y[:2048], engine="fused")
        assert sizes == [size] * (2048 // size)
    sizes.clear()
    monkeypatch.setattr(blocks, "MIN_KEPT_BYTES", 2**15)
    refloss.NormFace()(x, w, y, engine="fused")  # of which nothing is kept but a block
    assert sizes == [1024] * 4 + [904]


BAD_WEIGHTS = {
    "NaN": lambda w: w.__setitem__((5, 1), np.nan),
    "inf": lambda w: w.__setitem__((5, 1), -np.inf),
    "zeros": lambda w: w.__setitem__(5, 0.0),
    "NaN in an own class": lambda w: w.__setitem__((0, 2), np.nan),
    "zeros in an own class": lambda w: w.__setitem__(0, 0.0),
    "two": lambda w: w.__setitem__(([4, 6], [2, 0]), [np.inf, np.nan]),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("block", [1, 64])
@pytest.mark.parametrize("change", BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_class_weights_are_refused_as_by_the_chain(change, block, dtype, monkeypatch):
    in_blocks(monkeypatch, block)
    x, w, _ = ordinary(3, 8, 3)
    y = [0, 1, 2]
    change(w)
    for loss in (refloss.ArcFace(), refloss.ASoftmax(), refloss.SoftmaxLoss(), refloss.CurricularFace()):
        if isinstance(loss, refloss.SoftmaxLoss) and np.isfinite(w).all():  # to which zeros are a class like any other
            result, expected = (loss.value_and_grad(x, w, y, engine=engine) for engine in ("fused", "chain"))
            np.testing.assert_allclose(result[0], expected[0], rtol=64 * U, atol=0.0)
            np.testing.assert_allclose(result[1].w, expected[1].w, rtol=0.0, atol=64 * U)
            continue
        with pytest.raises(ValueError, match=r"^w must ") as expected:
            loss(x, w, y, engine="chain")
        for call in (loss, loss.value_and_grad):
            with pytest.raises(ValueError, match=r"^w must ") as caught:
                call(x, w, y, engine="fused", dtype=dtype)
            assert str(caught.value) == str(expected.value)


def test_classes_of_linear_heads_beyond_the_room_of_products_are_left_to_the_chain(monkeypatch):
    chain = []
    real = fused._by_chain
    monkeypatch.setattr(fused, "_by_chain", lambda *arguments: (chain.append(1), real(*arguments))[1])
    x, w, y = ordinary(3, 5, 2)
    for size, taken in ((1e-140, 0), (1e140, 0), (1e-170, 1), (1e170, 1), (1e-200, 1)):
        chain.clear()
        agree(refloss.SoftmaxLoss(), x / size, w * size, y)
        assert len(chain) == taken, size
    chain.clear()
    value, grad = refloss.SoftmaxLoss().value_and_grad(x, np.zeros((5, 2)), y, engine="fused")  # logits of 0
    assert value == pytest.approx(np.log(5.0), rel=16 * U)
    assert not grad.x.any()
    assert not chain


def test_short_classes_beside_a_block_of_zeros_are_left_to_the_chain(monkeypatch):
    in_blocks(monkeypatch, 2)
    random = np.random.default_rng(0)
    x = (random.standard_normal((2, 3)) * 1e30).astype(np.float32)
    w = np.concatenate([np.zeros((2, 3)), random.standard_normal((2, 3)) * 1e-40]).astype(np.float32)
    float32_keeps_its_bound(refloss.SoftmaxLoss(), x, w, [3, 0], upstream=1e20)


# --------------------------------------------------------------------------------------------------------------- memory


N, C, D, BLOCK = 32, 8000, 32, 64
FLOAT = 8


@pytest.fixture
def peak(monkeypatch, set_threads):
    """Measures what a call takes at most, beyond what was there, in bytes; in blocks of 64 classes, two threads."""
    in_blocks(monkeypatch, BLOCK)
    set_threads(2)

    def measure(call):
        call()  # whatever is kept from call to call
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            result = call()
            return tracemalloc.get_traced_memory()[1] - before, result
        finally:
            tracemalloc.stop()

    return measure


def room(n, d, dtype=np.float64):
    """What is needed beside the logits that are kept.

    - Two blocks in work: rows of w, converted or scaled, and a product (B, D); logits and a mask (N, B); four vectors.
    - Partial states, five waiting and three merged: two gradients of x (N, D) and four vectors.
    - Class weights, their shares, β, an exponent, what a bias takes: eight vectors of C.
    - The narrow branch, projections and dL/dx in float64: 24 (N, D), some of them one after the other.
    """
    size = np.dtype(dtype).itemsize
    blocks = 2 * size * (2 * BLOCK * (d + 4) + 2 * n * BLOCK)
    states = 8 * n * (2 * d * size + 4 * FLOAT)
    return blocks + states + 8 * FLOAT * C + 24 * FLOAT * n * d


ONE_BUFFER = refloss.ArcFace(), refloss.ASoftmax(), refloss.SoftmaxLoss(), refloss.MagFace(), refloss.CurricularFace()


@pytest.mark.parametrize("loss", ONE_BUFFER, ids=repr)
def test_value_and_gradients_take_one_buffer_of_all_logits(loss, peak):
    x, w, y = ordinary(N, C, D)
    for dtype in (np.float64, np.float32):
        inputs, out = (x.astype(dtype), w.astype(dtype), y), {"w": np.empty_like(w, dtype)}
        taken, _ = peak(lambda g=inputs, o=out: loss.value_and_grad(*g, engine="fused", out=o, dtype=o["w"].dtype))
        one = np.dtype(dtype).itemsize * N * C
        assert taken <= one + room(N, D, dtype) < 2 * one


def test_of_many_samples_no_more_is_kept_than_w_takes(peak, monkeypatch):
    n, d = 512, 16
    x, w, y = ordinary(n, C, d)
    for kept in (0, w.nbytes):
        monkeypatch.setattr(blocks, "MIN_KEPT_BYTES", kept)
        out = {"w": np.empty_like(w)}
        taken, _ = peak(lambda o=out: refloss.ArcFace().value_and_grad(x, w, y, engine="fused", out=o))
        assert taken <= w.nbytes + room(n, d) < FLOAT * n * C / 4


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_value_alone_and_the_gradient_of_x_alone_take_no_more_than_blocks(peak, dtype):
    x, w, y = (a.astype(dtype) if a.dtype.kind == "f" else a for a in ordinary(N, C, D))
    assert room(N, D, dtype) < np.dtype(dtype).itemsize * N * C
    value, alone = peak(lambda: refloss.ArcFace()(x, w, y, engine="fused", dtype=dtype))
    assert value <= room(N, D, dtype)
    taken, result = peak(lambda: refloss.ArcFace().value_and_grad(x, w, y, engine="fused", wrt="x", dtype=dtype))
    assert taken <= room(N, D, dtype)
    assert result[1].w is None
    assert result[0] == alone


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_value_takes_no_more_for_more_classes(peak, set_threads, monkeypatch, dtype):
    """Half a number per class at most: what a block means to four samples, and where it is."""
    in_blocks(monkeypatch, 1000)
    set_threads(1)  # of several the most is taken when their largest moments meet
    x, w, y = (a.astype(dtype) if a.dtype.kind == "f" else a for a in ordinary(4, 4 * C, D))
    taken = [
        peak(lambda some=w[:classes]: refloss.ArcFace()(x, some, y % C, engine="fused", dtype=dtype))[0]
        for classes in (C, 4 * C)
    ]
    assert taken[1] - taken[0] <= 4 * 3 * C


def test_a_file_of_class_weights_is_read_and_their_gradient_written_in_blocks(peak, tmp_path):
    x, w, y = ordinary(N, C, D)
    loss = refloss.ArcFace(s=16.0)
    for kind in (np.float64, np.float32, np.float16):
        w.astype(kind).tofile(tmp_path / "w")
        file_w = np.memmap(tmp_path / "w", kind, "r", shape=(C, D))
        in_memory = np.array(file_w)
        into = np.memmap(tmp_path / "dw", np.float64, "w+", shape=(C, D))
        taken, (value, grad) = peak(lambda g=file_w, i=into: loss.value_and_grad(x, g, y, engine="fused", out={"w": i}))
        assert taken <= FLOAT * N * C + room(N, D)
        assert grad.w is into
        into.flush()
        expected = loss.value_and_grad(x, in_memory, y, engine="fused")
        assert bits((value, grad)) == bits(expected)
        written = np.fromfile(tmp_path / "dw").reshape(C, D)
        assert np.array_equal(written, expected[1].w)
        alone, _ = peak(lambda g=file_w: loss(x, g, y, engine="fused"))
        assert alone <= room(N, D)
