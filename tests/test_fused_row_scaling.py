"""Row scaling: lengths, scales, weights and upstream gradients near the ends of the range."""

from __future__ import annotations

import numpy as np
import pytest

import refloss
from refloss import testing
from refloss.engines.fused.row_scaling import scaled
from support import checks
from support.checks import agree_with_chain as agree
from support.fused_cases import (
    ENDS,
    LONGEST,
    SINGLE,
    U,
    bits,
    check_against_certified,
    float32_keeps_its_bound,
    in_blocks,
    ordinary,
    promised,
    unit,
)


def test_an_entry_that_scaling_loses_is_left_to_the_chain():
    """The target is opposite to x except for 2e-354 of its length, which makes the tangent: dL/dx is across x."""
    x, w = np.array([[-0.5, -0.0]]), np.array([[1.35e187, 2.7e-167], [1.0, 0.0]])
    loss = refloss.ArcFace(m=3.0, boundary="monotone")
    result, expected = (loss.value_and_grad(x, w, [0], engine=engine) for engine in ("fused", "chain"))
    assert bits(result) == bits(expected)
    assert abs(result[1].x[0, 1]) > 1.0


def test_unrounded_are_the_vectors_themselves_by_the_same_powers_of_two():
    x, _, _ = ordinary(4, 7, 3)
    x[2] *= 1e-30
    for dtype in (np.float64, np.float32):
        rows = scaled(x, np.dtype(dtype))
        exactly = rows.unrounded(x)
        assert exactly.rows.dtype == np.float64
        assert np.array_equal(np.ldexp(exactly.rows, rows.exponent[:, None]), x)
        assert np.array_equal(exactly.rows.astype(dtype), rows.rows)
        assert np.array_equal(exactly.rows, rows.in_float64().rows) == (dtype is np.float64)


def test_extreme_lengths_are_no_matter(monkeypatch):
    in_blocks(monkeypatch, 2)
    x, w, y = ordinary(4, 7, 3)
    for loss in (refloss.ArcFace(s=16.0), refloss.CosFace(s=16.0, label_smoothing=0.1)):
        for size in (1e-307, 1e-200, 1e-100, 1e100, 1e200, 1e307):
            rows_of_w, rows_of_x = w.copy(), x.copy()
            rows_of_w[[1, 4]] *= size
            rows_of_x[2] *= size
            agree(loss, x, rows_of_w, y)
            agree(loss, rows_of_x, w, y)
            agree(loss, size * x, w * (1.0 / size), y)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_class_far_shorter_than_others_keeps_its_gradient(dtype):
    """Its probability is far below 1, and so is what it is multiplied by: not to be multiplied with each other."""
    size, tiny = (300.0, 1e-200) if dtype == np.float64 else (40.0, 1e-30)
    x, w = np.array([[1.0]], dtype), np.array([[size], [tiny], [size]], dtype)
    _, grad = refloss.SoftmaxLoss().value_and_grad(x, w, [0], engine="fused", dtype=dtype)
    p = np.exp(-np.float64(size)) / 2.0
    assert abs(grad.w[1, 0] - p) <= promised(1, 3, 1, size)[1] * unit(dtype) * p
    if dtype == np.float64:
        assert grad.w[1, 0] == pytest.approx(2.574e-131, rel=1e-3)


@pytest.mark.parametrize("lengths", [(1e30, 1.0), (1e-30, 1e30), (1e100, 1e-100)], ids=str)
def test_exponentials_meet_lengths_of_classes_without_underflow(lengths):
    """p of 1e-300, and upstream gradients that make it a number of any size."""
    x, w = np.array([[1.0, 0.5]]), np.array([[1.0, 0.4], [-1.0, -0.45], [0.9, 0.5]])
    w *= np.array([[1.0], [lengths[0]], [lengths[1]]])
    loss = refloss.NormFace(s=345.0)
    for upstream in (1.0, 1e280):
        check_against_certified(loss, x, w, [0], upstream=upstream)


@pytest.mark.parametrize("upstream", ENDS)
@pytest.mark.parametrize("length", [1e-320, 1e-200, 1e-165, 1.0, 1e165, 1e200])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_upstream_gradients_near_the_ends_of_the_range(upstream, length, smoothing):
    x, w, y = np.array([[0.6, 0.7, 0.1], [0.3, -0.8, 0.4]]), np.array([[0.3, 0.1, 0.9], [0.2, 0.5, -0.3]]), [0, 1]
    settings = {"label_smoothing": smoothing}
    for loss in (refloss.NormFace(s=4.0, **settings), refloss.CosFace(s=4.0, reduction="sum", **settings)):
        check_against_certified(loss, x * length, w, y, upstream=upstream)
        check_against_certified(loss, x, w * length, y, upstream=upstream)
    if length <= 1.0:
        check_against_certified(refloss.ModifiedSoftmax(**settings), x * length, w, y, upstream=upstream)
        check_against_certified(refloss.ModifiedSoftmax(**settings), x, w * length, y, upstream=upstream)
        loss = refloss.SoftmaxLoss(reduction="none", **settings)
        b = np.array([0.5, -0.25])
        for each in ([upstream, upstream], [upstream, 1.0], [-1.0, upstream]):
            check_against_certified(loss, x * length, w, y, b, upstream=each)


def test_the_gradient_of_a_short_embedding_with_a_small_upstream_gradient():
    """‖x‖ is the scale and what is divided by: their product with the upstream gradient, 1e-400, is nobody's."""
    x, w = np.array([[0.6e-200, 0.8e-200]]), np.array([[1.0, 0.2], [0.1, -1.0], [0.3, 0.5]])
    _, grad = refloss.ModifiedSoftmax().value_and_grad(x, w, [0], upstream=-1e-200, engine="fused")
    true = refloss.ModifiedSoftmax().value_and_grad(x, w, [0], upstream=-1e-200, engine="certified")[1].x
    assert (np.abs(grad.x - true) <= 32 * U * np.abs(true).max()).all()


def test_upstream_gradients_are_powers_of_two_away_from_each_other():
    """What they have in common is a factor of every gradient, and rows of x have none in common: the same bits."""
    x, w, y = ordinary(6, 9, 4)
    for loss in (refloss.ArcFace(s=16.0, reduction="none"), refloss.SoftmaxLoss(reduction="none")):
        ones = loss.value_and_grad(x, w, y, upstream=np.ones(6), engine="fused")[1]
        for power in (-700, -100, 100, 700):
            moved = loss.value_and_grad(x, w, y, upstream=np.full(6, 2.0**power), engine="fused")[1]
            for name, part in checks.as_dict(ones).items():
                assert np.array_equal(getattr(moved, name), np.ldexp(part, power)), (loss, power, name)
        powers = np.array([-900, 0, 300, -300, 10, 900])  # a sum over them, as dL/dW is, is left to the chain
        moved = loss.value_and_grad(x, w, y, upstream=2.0**powers, wrt="x", engine="fused")[1]
        assert np.array_equal(moved.x, np.ldexp(ones.x, powers[:, None]))


def test_a_small_sample_is_not_lost_beside_large_ones_whose_gradients_are_0():
    x, w = np.array([[-6.5e-120], [-5e228], [-2.4e271]]), np.array([[2.5], [-1.2]])
    for y, b in (([1, 1, 1], None), ([1, 1, 1], [0.5, -0.5])):
        check_against_certified(refloss.SoftmaxLoss(), x, w, y, b)
    single = np.array([[1e-20], [-1e14]], np.float32)
    check_against_certified(refloss.SoftmaxLoss(), single, w.astype(np.float32), [0, 1], dtype=np.float32)
    upstream = [1e-200, 1e200]
    check_against_certified(refloss.NormFace(s=2000.0, reduction="none"), [[1.0], [1.0]], w, [1, 0], upstream=upstream)


def test_a_sample_that_weighs_nothing_hides_no_other():
    """Its upstream gradient of 1e308 is multiplied by 0; that of the others is 5e-324."""
    x, w = np.array([[0.1, 0.2], [3e200, 1e200]]), np.array([[1.0, -1.0], [0.5, 2.0]]) * 1e-100
    loss = refloss.CosFace(s=4.0, reduction="none", class_weight=(0.0, 1.0))
    check_against_certified(loss, x, w, [0, 1], upstream=[1e308, 5e-324])


def test_weights_and_divisors_near_the_ends_of_the_range():
    """The mean divides by 1e-25, in float32 by 1e-10, and the upstream gradient by as much."""
    x, w, y = (a.astype(np.float32) if a.dtype.kind == "f" else a for a in ordinary(3, 4, 2))
    for dtype, size, some in ((np.float64, 1e-25, (1e-300, 1.0, 1e200)), (np.float32, 1e-10, (1e-30, 1.0, 1e25))):
        loss = refloss.CosFace(s=4.0, class_weight=(size, 2.0 * size, size, 3.0 * size))
        for upstream in some:
            check_against_certified(loss, x, w, y, upstream=upstream, dtype=dtype)


def test_confident_samples_with_short_classes():
    """dL/dz of 1e-277, classes of 1e-67 and an upstream gradient of 1e287: no two of them are to meet first."""
    x = np.array([[6.4e68, 1.42e69, -7.7e68, 1.24e69]])
    w = np.array([[2.6e-137, -1.8e-137, 1e-137, -1.7e-138], [-4e-68, 1.01e-67, -2.5e-67, 2.6e-67]])
    for upstream in (1.0, 6e287):
        check_against_certified(refloss.SoftmaxLoss(), x, w, [1], upstream=upstream)


def test_gradients_beyond_the_range_have_their_sign():
    """Of subnormal rows: what is added up before it is scaled back is no inf - inf."""
    x, w = np.array([[0.6, 0.7, 0.1], [0.3, -0.8, 0.4]]), np.array([[0.3, 0.1, 0.9], [0.2, 0.5, -0.3], [1.0, 1.0, 0.0]])
    for dtype, tiny in ((np.float64, 1e-320), (np.float32, 1e-43)):
        for loss in (
            refloss.NormFace(s=16.0),
            refloss.ModifiedSoftmax(),
            refloss.NormFace(s=16.0, label_smoothing=0.1),
        ):
            for inputs in ((x * tiny, w, [0, 1]), (x, w * tiny, [0, 1]), (x * tiny, w * tiny, [2, 2])):
                rounded = [np.asarray(part, dtype) for part in inputs[:2]]
                grad = loss.value_and_grad(*rounded, inputs[2], engine="fused", dtype=dtype)[1]
                true = loss.value_and_grad(*rounded, inputs[2], engine="certified")[1]
                for gradient, exactly in zip(grad, true, strict=True):
                    with np.errstate(over="ignore"):
                        beyond = np.isinf(exactly.astype(dtype))
                    assert np.array_equal(gradient[beyond], np.copysign(dtype(np.inf), exactly[beyond])), loss
                    assert np.isfinite(gradient[~beyond]).all()


@pytest.mark.parametrize("power", [-660, -200, -120, -60, 60, 120, 200, 660])
@pytest.mark.parametrize("longer", ["x", "w"])
def test_float32_takes_directions_of_any_length(longer, power):
    """What float32 cannot hold, float64 may have given; gradients come out where float32 holds them."""
    x, w, y = (a.astype(np.float32) if a.dtype.kind == "f" else a for a in ordinary(4, 9, 5))
    arrays = {"x": x.astype(np.float64), "w": w.astype(np.float64)}
    arrays[longer][1:3] *= 2.0**power
    if abs(power) <= 120:
        arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    for loss in (refloss.ArcFace(s=8.0), refloss.CosFace(s=8.0, label_smoothing=0.1), refloss.ASoftmax(s=8.0)):
        value, grad = loss.value_and_grad(**arrays, y=y, engine="fused", dtype=np.float32)
        true, exactly = loss.value_and_grad(**arrays, y=y, engine="chain")
        allowed = testing.budget(loss, arrays["x"], arrays["w"], y, dtype="float32")
        assert abs(value - true) <= allowed.value
        assert loss(**arrays, y=y, engine="fused", dtype=np.float32) == value
        for gradient, expected, bound in zip(grad, exactly, allowed.gradient, strict=True):
            held = np.abs(expected) < 2.0**127
            allowance = bound + SINGLE * np.abs(expected) + 2.0**-149
            assert (np.abs(gradient - expected) <= allowance)[held].all(), loss


@pytest.mark.parametrize("size", [1e-44, 1e-41, 1e-60, 1e60])
def test_float32_scales_rows_before_it_rounds_them(size):
    """Of 1e-44 float32 knows 3 bits: a direction of that would be 10 % off."""
    x, w, y = (a.astype(np.float32) if a.dtype.kind == "f" else a for a in ordinary(4, 9, 5))
    for loss in (refloss.ArcFace(s=8.0), refloss.ASoftmax(s=8.0)):
        for inputs in ((x * np.float64(size), w, y), (x, w * np.float64(size), y)):
            value, grad = loss.value_and_grad(*inputs, engine="fused", dtype=np.float32)
            true, exactly = loss.value_and_grad(*inputs, engine="chain")
            allowed = testing.budget(loss, *inputs, dtype="float32")
            assert abs(value - true) <= allowed.value
            for gradient, expected, bound in zip(grad, exactly, allowed.gradient, strict=True):
                held = np.abs(expected) < 2.0**127
                assert (np.abs(gradient - expected) <= bound + SINGLE * np.abs(expected) + 2.0**-149)[held].all()


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        # a bias beyond what logits in float32 may be
        (
            refloss.SoftmaxLoss(reduction="none", label_smoothing=0.1),
            ([[1.0, -2.0], [2.0, 0.5]], [[0.5, 1.0], [-0.5, 2.0], [1.0, 1.0]], [1, 0], [LONGEST, LONGEST, -LONGEST]),
        ),
        # an embedding longer than any number in float32, and classes short enough for logits that it can hold
        (refloss.SoftmaxLoss(), ([[LONGEST, -LONGEST]], [[1e-12, 2e-12], [3e-12, 1e-12]], [0])),
        # targets so near to their class that only entries 2^-150 of the row tell them apart
        (refloss.ArcFace(s=1.0, m=3.0), ([[2e-42, LONGEST]], [[1e-42, LONGEST], [0.5, 1.0]], [0])),
        (refloss.CombinedMargin(s=1.0), ([[LONGEST, 0.0, 1e-27]], [[LONGEST, 0.0, 0.0], [0.0, LONGEST, 1.0]], [0])),
    ],
    ids=["bias", "length", "angle", "tangent"],
)
def test_float32_hands_numbers_that_it_cannot_scale_to_the_chain(loss, inputs):
    arrays = [np.asarray(it, np.float32 if np.asarray(it).dtype.kind == "f" else np.int64) for it in inputs]
    float32_keeps_its_bound(loss, *arrays)


@pytest.mark.parametrize(
    ("cosine", "length", "upstream"),
    [
        (-0.083, 2.0**-100, 2.0**-59),  # p of 2^-100: its product with the upstream gradient is no float32
        (-0.19, 2.0**30, 2.0**50),  # p of 2^-110: over the length it is no float32
    ],
)
def test_gradients_of_classes_of_any_length_do_not_underflow_in_float32(cosine, length, upstream):
    x, w = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [cosine, 1.0]]) * [[1.0], [length]]
    true, bound = float32_keeps_its_bound(refloss.NormFace(s=64.0), x, w, [0], upstream=upstream)
    assert (np.abs(true.w[1]) > 1e3 * bound.w[1]).all()


def unaligned(array):
    """The same numbers, a byte further on."""
    room = np.empty(array.nbytes + 1, np.uint8)
    out = np.ndarray(array.shape, array.dtype, room, 1)
    out[...] = array
    assert not out.flags.aligned
    return out


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bits_do_not_depend_on_where_arrays_lie(dtype):
    x, w, y = ordinary(40, 300, 33)
    for loss in (refloss.ArcFace(s=30.0), refloss.SoftmaxLoss(label_smoothing=0.1)):
        for classes in (w, w.astype(np.float32)):
            expected = bits(loss.value_and_grad(x, classes, y, engine="fused", dtype=dtype))
            out = {"w": unaligned(np.zeros(w.shape, dtype))}
            for room in (None, out):
                result = loss.value_and_grad(unaligned(x), unaligned(classes), y, engine="fused", dtype=dtype, out=room)
                assert bits(result) == expected
    expected = bits(refloss.CrossEntropy().value_and_grad(x, y % 33, engine="fused", dtype=dtype))
    assert bits(refloss.CrossEntropy().value_and_grad(unaligned(x), y % 33, engine="fused", dtype=dtype)) == expected
