"""Heads: which gradients are wanted, where they are written, and samples or classes that count nothing."""

from __future__ import annotations

import numpy as np
import pytest

import refloss
from support import checks
from support.fused_cases import bits, ordinary


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_all_rows_ignored(reduction, dtype):
    x, w, y = np.full((3, 2), np.nan), np.array([[1.0, 2.0], [3.0, 1.0]]), np.full(3, -100)
    for loss in (
        refloss.ArcFace(reduction=reduction),
        refloss.SoftmaxLoss(reduction=reduction, label_smoothing=0.1),
        refloss.MagFace(reduction=reduction),
        refloss.CurricularFace(reduction=reduction),
        refloss.InterTopK(reduction=reduction),
    ):
        for out in ({}, {"w": np.full((2, 2), 7.0, dtype)}):
            value, grad = loss.value_and_grad(x, w, y, engine="fused", dtype=dtype, out=out)
            np.testing.assert_array_equal(value, loss(x, w, y, engine="chain"))
            np.testing.assert_array_equal(loss(x, w, y, engine="fused", dtype=dtype), value)
            assert not grad.x.any()
            assert not grad.w.any()
    b = np.ones(2)
    assert not refloss.SoftmaxLoss(reduction=reduction).value_and_grad(x, w, y, b, engine="fused")[1].b.any()
    value, grad = refloss.CrossEntropy(reduction=reduction).value_and_grad(x, y, engine="fused", dtype=dtype)
    np.testing.assert_array_equal(value, refloss.CrossEntropy(reduction=reduction)(x, y, engine="chain"))
    assert not grad.z.any()


def test_one_class_costs_nothing():
    x, w, y = ordinary(4, 1, 3)
    for dtype in (np.float64, np.float32):
        for loss in (refloss.ArcFace(), refloss.SoftmaxLoss(), refloss.ArcFace(label_smoothing=0.1)):
            value, grad = loss.value_and_grad(x, w, y, engine="fused", dtype=dtype)
            assert value == 0.0
            assert not grad.x.any()
            assert not grad.w.any()


@pytest.mark.parametrize(("engine", "dtype"), [("fused", np.float64), ("fused", np.float32), ("chain", np.float64)])
def test_only_what_is_wanted_comes_back_and_has_the_same_bits(engine, dtype):
    """With N up to D samples are one group whatever is wanted; a BLAS may round products of other groups otherwise."""
    x, w, y = ordinary(6, 9, 7)
    b = np.linspace(-1.0, 1.0, 9)
    for loss, inputs in (
        (refloss.ArcFace(), (x, w, y)),
        (refloss.SoftmaxLoss(label_smoothing=0.1), (x, w, y, b)),
        (refloss.ArcFace(), (x, w, y, b[:6])),
        (refloss.CurricularFace(t=0.5), (x, w, y)),
        (refloss.SphereFaceR(version=2), (x, w, y)),
        (refloss.CircleLoss(s=8.0), (x, w, y)),
        (refloss.InterTopK(k=2), (x, w, y)),
    ):
        value, whole = loss.value_and_grad(*inputs, engine=engine, dtype=dtype)
        names = [name for name, part in whole._asdict().items() if part is not None]
        for wrt in (*names, names, names[:2], ("w",), names[1:], ()):
            loss_value, grad = loss.value_and_grad(*inputs, engine=engine, wrt=wrt, dtype=dtype)
            chosen = {wrt} if isinstance(wrt, str) else set(wrt)
            assert {name for name, part in grad._asdict().items() if part is not None} == chosen
            assert all(np.array_equal(getattr(grad, name), getattr(whole, name)) for name in chosen)
            assert loss_value == value
    for wrt in ("z", (), None):
        grad = refloss.CrossEntropy().value_and_grad(x, [0, 1, 2, 3, 0, 1], engine=engine, wrt=wrt, dtype=dtype)[1]
        assert (grad.z is None) == (wrt == ())
    points = tuple(np.random.default_rng(3).standard_normal((3, 4, 5)))
    grad = refloss.Triplet().value_and_grad(*points, engine=engine, wrt=("anchor", "negative"), dtype=dtype)[1]
    assert grad.positive is None
    assert np.array_equal(grad.anchor, refloss.Triplet().value_and_grad(*points, engine=engine, dtype=dtype)[1].anchor)


def strided(array):
    return np.full([2 * n for n in array.shape], 7.0, array.dtype)[tuple(slice(None, None, 2) for _ in array.shape)]


ROOMS = {
    "of its own": np.empty_like,
    "strided": strided,
    "in Fortran order": lambda a: np.empty_like(a, order="F"),
    "a row of more": lambda a: np.empty((2, *a.shape), a.dtype)[1],
}


@pytest.mark.parametrize("engine", ["fused", "chain", "dd"])
@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
def test_gradients_are_written_where_they_are_wanted(engine, room):
    x, w, y = ordinary(6, 9, 4)
    b = np.linspace(-1.0, 1.0, 9)
    for loss, inputs in (
        (refloss.ArcFace(), {"x": x, "w": w, "y": y}),
        (refloss.SoftmaxLoss(ignore_index=int(y[0])), {"x": x, "w": w, "y": y, "b": b}),
        (refloss.ArcFace(ignore_index=int(y[0])), {"x": x, "w": w, "y": y, "m": b[:6]}),
        (refloss.CrossEntropy(), {"z": x.reshape(2, 3, 4), "y": [[0, 1, 2], [3, 0, 1]]}),
        (refloss.Triplet(), {"anchor": x, "positive": x[::-1].copy(), "negative": w[:6]}),
    ):
        value, expected = loss.value_and_grad(**inputs, engine=engine)
        out = {name: room(array) for name, array in inputs.items() if name != "y"}
        loss_value, grad = loss.value_and_grad(**inputs, engine=engine, out=out)
        assert loss_value == value
        for name, array in out.items():
            assert getattr(grad, name) is array
            assert np.array_equal(array, getattr(expected, name))
        first = next(iter(out))
        out[first][...] = 7.0
        grad = loss.value_and_grad(**inputs, engine=engine, out={first: out[first]})[1]
        assert all((part is out[first]) == (name == first) for name, part in grad._asdict().items())
        assert np.array_equal(out[first], getattr(expected, first))


def test_room_of_float32_is_taken():
    x, w, y = ordinary(6, 9, 4)
    out = {"w": np.empty((9, 4), np.float32), "x": np.empty((6, 4), np.float32)}
    grad = refloss.ArcFace().value_and_grad(x, w, y, engine="fused", dtype=np.float32, out=out)[1]
    assert grad.w is out["w"]
    expected = refloss.ArcFace().value_and_grad(x, w, y, engine="fused", dtype=np.float32)[1]
    assert bits((0.0, grad)) == bits((0.0, expected))


@pytest.mark.parametrize(
    ("options", "soft", "given"),
    [
        ({"softcap": 2.0, "label_smoothing": 0.1}, False, False),
        ({}, True, False),
        ({"softcap": 2.0}, False, True),
        ({"softcap": 1e30}, False, False),
    ],
)
def test_what_does_not_fit_a_sweep_is_that_of_the_chain(options, soft, given):
    """Smoothed targets behind a cap, probabilities, a gradient of the log-sum-exp, a cap far out: bit for bit."""
    x, w, y = ordinary(6, 9, 4)
    y = np.random.default_rng(1).dirichlet(np.ones(9), 6) if soft else y
    loss, followed = refloss.SoftmaxLoss(**options), {"upstream_lse": np.linspace(-1.0, 1.0, 6)} if given else {}
    chain = bits(loss.value_and_grad(x, w, y, engine="chain", **followed))
    assert bits(loss.value_and_grad(x, w, y, engine="fused", **followed)) == chain
    assert loss(x, w, y, engine="fused") == loss(x, w, y, engine="chain")
    single = loss.value_and_grad(x, w, y, engine="fused", dtype=np.float32, **followed)
    assert single[1].w.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "loss",
    [
        refloss.CurricularFace(label_smoothing=0.1),
        refloss.CurricularFace(s=None),
        refloss.MVSoftmax(s=2.0**41),
        refloss.MVSoftmax(s=2.0**-41),
        refloss.SphereFaceR(version=2),
        refloss.CircleLoss(),
        refloss.InterTopK(k=2),
    ],
    ids=repr,
)
def test_other_classes_that_do_not_fit_a_sweep_are_those_of_the_chain(loss, dtype):
    """Smoothed targets, the length as the scale, scales far out, changed cosines of easy classes: the chain's numbers.

    They are rounded to the dtype.
    """
    x, w, y = ordinary(6, 9, 4)
    value, expected = loss.value_and_grad(x, w, y, engine="chain")
    result = loss.value_and_grad(x, w, y, engine="fused", dtype=dtype)
    gradients = {name: gradient.astype(dtype) for name, gradient in expected._asdict().items()}
    assert bits(result) == bits((value.astype(dtype), gradients))
    assert loss(x, w, y, engine="fused", dtype=dtype) == dtype(value)


def test_a_sweep_takes_smoothed_targets_without_a_cap_and_a_cap_without_them(monkeypatch):
    monkeypatch.setattr("refloss.engines.chain.value_and_grad", lambda *_: pytest.fail("by the chain"))
    x, w, y = ordinary(6, 9, 4)
    for options in ({"softcap": 2.0, "z_loss": 0.5}, {"z_loss": 0.5, "logit_scale": 0.5, "label_smoothing": 0.1}):
        for dtype in (np.float64, np.float32):
            refloss.SoftmaxLoss(**options).value_and_grad(x, w, y, np.ones(9), engine="fused", dtype=dtype)


def test_a_sweep_takes_a_multiplied_angle_of_the_target(monkeypatch):
    monkeypatch.setattr("refloss.engines.chain.value_and_grad", lambda *_: pytest.fail("by the chain"))
    for loss in (refloss.SphereFaceR(), refloss.SphereFaceR(m=1.0, version=2), refloss.InterTopK(penalty=0.0)):
        loss.value_and_grad(*ordinary(6, 9, 4), engine="fused")


def test_a_sweep_takes_margins_per_sample_and_hard_classes(monkeypatch):
    monkeypatch.setattr("refloss.engines.chain.value_and_grad", lambda *_: pytest.fail("by the chain"))
    x, w, y = ordinary(6, 9, 4)
    for loss, *m in (
        (refloss.AdaFace(label_smoothing=0.1),),
        (refloss.MagFace(s=None),),
        (refloss.CosFace(s=None, label_smoothing=0.1), np.linspace(-1.0, 1.0, 6)),
        (refloss.CurricularFace(),),
        (refloss.MVSoftmax(s=2.0**-39),),
    ):
        for dtype in (np.float64, np.float32):
            loss.value_and_grad(x, w, y, *m, engine="fused", dtype=dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_regularizer_has_no_class_weight_and_any_upstream(dtype):
    """Of a mean the terms are divided by the number of samples that count; their gradient may overflow alone."""
    x, w, y = ordinary(6, 9, 4)
    weights, ones = tuple(np.linspace(0.5, 2.0, 9)), (1.0,) * 9
    plain, weighted = (refloss.MagFace(l_a=1.0, u_a=3.0, class_weight=each) for each in (None, weights))
    without = refloss.MagFace(l_a=1.0, u_a=3.0, class_weight=weights, regularizer=0.0)
    terms = plain(x, w, y) - refloss.MagFace(l_a=1.0, u_a=3.0, class_weight=ones, regularizer=0.0)(x, w, y)
    unit = np.finfo(dtype).eps / 2.0
    value = weighted(x, w, y, engine="fused", dtype=dtype)
    assert abs(value - without(x, w, y) - terms) <= 2.0 * (8 + 16) * 64.0 * unit * abs(value)  # the contract, D = 4
    for upstream in (1e-300, 1e30):
        how = {"upstream": upstream, "dtype": dtype}
        checks.against_certified(weighted, x.astype(dtype), w.astype(dtype), y, engine="fused", **how)
