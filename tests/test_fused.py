"""Engine "fused": the chain's contract in float64, the budget of `refloss.testing` in float32; any blocks, any threads.

Two results within the contract of the same truth are within twice the contract of each other: that is how fused is
tested against the chain where mpmath would take too long.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import refloss
from refloss import testing
from refloss.engines import dispatch
from refloss.engines.kernels import jit
from support import cases, checks, exact, strategies
from support.checks import TWICE
from support.checks import agree_with_chain as agree
from support.fused_cases import (
    SINGLE,
    bits,
    in_blocks,
    ordinary,
    random_of,
    signed_weights_of,
    weights_of,
)


def _check(name, loss, *inputs, **options):
    try:
        checks.against_exact(loss, *inputs, engine="fused", **options)
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from None


# --------------------------------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("loss", cases.HEADS, ids=repr)
def test_heads_keep_the_contract(loss):
    """Every third case of most losses, all of a few: .ci/record has the others."""
    whole = repr(loss) in {repr(refloss.ArcFace()), repr(refloss.ASoftmax()), repr(refloss.SoftmaxLoss())}
    chosen = [
        (name, inputs)
        for name, inputs in cases.heads(loss, random_of(repr(loss)))
        if not loss.class_weight or len(inputs[1]) == len(loss.class_weight)
    ]
    start = 0 if whole else int(random_of(f"start {loss}").integers(0, 3))
    for name, inputs in chosen[start :: 1 if whole else 3]:
        _check(name, loss, *inputs, **({"digits": 300} if "1e-200" in name else {}))


@pytest.mark.parametrize("loss", cases.CROSS_ENTROPIES, ids=repr)
@pytest.mark.parametrize("classes", [2, 10, 150])
def test_cross_entropy_keeps_the_contract(loss, classes):
    chosen = list(cases.logits(random_of(repr(loss)), classes))
    for name, inputs in chosen if classes < 100 else chosen[::4]:
        _check(name, loss, *inputs)


@pytest.mark.parametrize("loss", cases.TRIPLETS, ids=repr)
def test_triplet_keeps_the_contract(loss):
    for name, inputs in cases.triplets(random_of(repr(loss))):
        _check(name, loss, *inputs)


@pytest.mark.parametrize("loss", cases.DIVERGENCES, ids=repr)
def test_divergences_keep_the_contract(loss):
    for name, inputs in cases.divergences(random_of(repr(loss))):
        _check(name, loss, *inputs)


@pytest.mark.parametrize("build", cases.WIDE.values(), ids=cases.WIDE)
def test_heads_keep_the_contract_at_real_widths(build):
    x, w, y = build(random_of("wide"))
    entries = cases.some_entries(random_of("entries"), x, w, y)
    checks.against_exact(refloss.ArcFace(), x, w, y, engine="fused", entries=entries)


@pytest.mark.parametrize("bias", [[500.0, 500.0, 500.0], [0.0, 0.0, -500.0], [1e6, 1e6, 1e6 - 3.0]], ids=str)
def test_a_bias_far_larger_than_the_products_costs_no_digits(bias):
    """The contract counts products of lengths: what a bias of 500 would round off, 256u, is far more than 16u."""
    x, w = np.array([[1.0, 0.01], [0.3, 0.7]]), np.array([[1.0, 0.1], [0.1, 1.0], [0.7, 0.6]])
    for y in ([0, 1], [2, 2]):
        checks.against_exact(refloss.SoftmaxLoss(), x, w, y, np.array(bias), engine="chain")
        checks.against_exact(refloss.SoftmaxLoss(), x, w, y, np.array(bias), engine="fused")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "options",
    [
        {"softcap": 30.0},
        {"softcap": 0.5, "logit_scale": 3.0, "z_loss": 1e-4},
        {"logit_scale": 0.0625, "z_loss": 0.5, "label_smoothing": 0.1},
        {"softcap": 5.0, "z_loss": 0.5, "class_weight": signed_weights_of(300), "reduction": "sum"},
        {"softcap": 5.0, "z_loss": 0.5, "reduction": "none", "ignore_index": 3},
    ],
    ids=str,
)
def test_options_at_sizes_of_several_blocks_and_groups(options, dtype, monkeypatch):
    """Against dd, which is 2^30 times as accurate, within error_bound; of float32 on inputs that it can hold."""
    in_blocks(monkeypatch, 64)
    random = random_of(str(options))
    x, w, b = (random.standard_normal(shape).astype(dtype).astype(np.float64) for shape in ((50, 12), (300, 12), 300))
    y = random.integers(0, 300, 50)
    z = (8.0 * random.standard_normal((50, 300))).astype(dtype).astype(np.float64)
    most = float(np.finfo(dtype).max)
    for loss, inputs in (
        (refloss.SoftmaxLoss(**options), (x, w, y)),
        (refloss.SoftmaxLoss(**options), (x, w, y, 10.0 * b)),
        (refloss.CrossEntropy(**options), (z, y)),
    ):
        upstream = random.standard_normal(50) if loss.reduction == "none" else -1.5
        result = loss.value_and_grad(*inputs, upstream=upstream, engine="fused", dtype=dtype)
        truth = loss.value_and_grad(*inputs, upstream=upstream, engine="dd")
        bound = refloss.error_bound(loss, *inputs, upstream=upstream, engine="fused", dtype=dtype)
        for each in ((result[0], truth[0], bound[0]), *zip(result[1], truth[1], bound[1], strict=True)):
            assert each[0] is None or checks.rounded_share(*each, most) <= 1.0


# ------------------------------------------------------------------------------------------------ the same as the chain


OF_SAMPLES = (
    refloss.AdaFace(),
    refloss.AdaFace(m=0.5, h=1.0, mean=2.0, std=0.5),
    refloss.MagFace(l_a=1.0, u_a=3.0),
    refloss.MagFace(l_a=2.0, u_a=2.5, boundary="hard", regularizer=0.0),
    refloss.CurricularFace(t=0.3),
    refloss.CurricularFace(t=-0.5, m=0.2, boundary="easy"),
    refloss.MVSoftmax(),
    refloss.MVSoftmax(margin="arc", t=2.0),
)
"""Losses with a margin by length, and with hard classes."""


@st.composite
def shaped(draw):
    """A loss of any settings and ordinary inputs of any shape: (loss, inputs, upstream, classes of a block)."""
    n, c, d = draw(st.integers(1, 9)), draw(st.integers(1, 12)), draw(st.integers(1, 7))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    x, w = random.standard_normal((n, d)), random.standard_normal((c, d))
    y = np.array(draw(st.lists(st.integers(0, c - 1) | st.just(-100), min_size=n, max_size=n)))
    kind = draw(st.sampled_from(("margin", "margin", "linear", "logits")))
    shared = draw(strategies.shared(c))
    if kind == "margin":
        loss = draw(strategies.losses() | strategies.losses(among=OF_SAMPLES))
        m = draw(st.booleans()) and isinstance(loss, (refloss.ArcFace, refloss.CosFace, refloss.CombinedMargin))
        inputs = (x, w, y, random.uniform(-1.0, 1.5, n)) if m else (x, w, y)
        loss = replace(loss, **shared)
    elif kind == "linear":
        loss, b = refloss.SoftmaxLoss(**shared), random.standard_normal(c)
        inputs = (x, w, y, b) if draw(st.booleans()) else (x, w, y)
    else:
        loss = refloss.CrossEntropy(**shared)
        soft = draw(st.booleans())
        inputs = (4.0 * random.standard_normal((n, c)), random.dirichlet(np.ones(c), n) if soft else y)
    upstream = random.standard_normal(n if loss.reduction == "none" else ())
    return loss, inputs, draw(st.none() | st.just(upstream)), draw(st.sampled_from((1, 2, 3, 5, 64)))


@settings(max_examples=200)
@given(shaped())
def test_any_shape_and_setting_is_that_of_the_chain(case):
    loss, inputs, upstream, block = case
    with pytest.MonkeyPatch.context() as patch:
        in_blocks(patch, block)
        result = agree(loss, *inputs, upstream=upstream)
        alone = loss(*inputs, engine="fused")
    allowed = checks.allowed(loss, *inputs)[0]
    assert exact.value_error(alone, exact.exact(result[0])) <= TWICE * allowed


@settings(max_examples=80)
@given(strategies.cases() | strategies.linear_cases(), st.sampled_from((1, 2, 64)))
def test_hard_cases_are_those_of_the_chain(case, block):
    with pytest.MonkeyPatch.context() as patch:
        in_blocks(patch, block)
        agree(case[0], *case[1])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"label_smoothing": 0.1},
        {"class_weight": weights_of(150)},
        {"label_smoothing": 0.3, "class_weight": weights_of(150)},
        {"class_weight": signed_weights_of(150)},
        {"label_smoothing": 0.3, "class_weight": signed_weights_of(150)},
        {"ignore_index": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "kind",
    [refloss.ArcFace, refloss.ASoftmax, refloss.MagFace, refloss.MVSoftmax, refloss.SoftmaxLoss, refloss.CrossEntropy],
)
def test_every_setting(kind, settings, reduction):
    """In more samples than dimensions, and blocks of 64 classes."""
    random = random_of(f"{kind} {settings} {reduction}")
    x, w, y = cases.ordinary(random, 10, 150, 4)
    y[[1, 5, 6]] = 3
    loss = kind(reduction=reduction, **settings)
    inputs = {refloss.CrossEntropy: (x @ w.T, y), refloss.SoftmaxLoss: (x, w, y, random.standard_normal(150))}
    upstream = random.standard_normal(10 if reduction == "none" else ())
    with pytest.MonkeyPatch.context() as patch:
        in_blocks(patch, 64)
        _, grad = agree(loss, *inputs.get(kind, (x, w, y)), upstream=upstream)
    if loss.ignore_index == 3:
        assert not grad[0][[1, 5, 6]].any()


# -------------------------------------------------------------------------------------------------------------- float32

LOSSES = (
    refloss.ModifiedSoftmax(),
    refloss.NormFace(),
    refloss.ASoftmax(),
    refloss.ASoftmax(m=3, annealing=5.0, s=30.0),
    refloss.CosFace(),
    refloss.ArcFace(),
    refloss.ArcFace(boundary="easy", label_smoothing=0.1),
    refloss.ArcFace(boundary="monotone", gradient="detached"),
    refloss.CombinedMargin(),
    refloss.SoftmaxLoss(),
    refloss.SoftmaxLoss(reduction="sum", label_smoothing=0.1),
    refloss.CrossEntropy(),
    refloss.CrossEntropy(reduction="none", label_smoothing=0.1),
    refloss.Triplet(),
    refloss.Triplet(squared=False),
    refloss.KLDivergence(),
    refloss.KLDivergence(form="jensen-shannon"),
)


def in_float32(loss):
    """What another project would hand to refloss.testing."""

    def implementation(*inputs):
        value, grad = loss.value_and_grad(*inputs, engine="fused", dtype=np.float32)
        parts = (value, *(part for part in grad if part is not None))
        assert all(part.dtype == np.float32 for part in parts)
        return parts

    return implementation


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_float32_conforms(loss):
    report = testing.check(in_float32(loss), loss, shapes=((8, 20, 64), (20, 150, 8)))
    assert report.passed, str(report)
    assert all(q.passed for result in report.results for q in result.quantities if result.status != "refused")


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_float32_is_within_its_budget(loss):
    """Every entry, also those that the conformance check holds to be undecidable."""
    for case in testing.cases(loss, "float32", shapes=((5, 70, 4),)):
        if case.group == "range" or "truth" not in case.accepts:
            continue
        with pytest.MonkeyPatch.context() as patch:
            in_blocks(patch, 16)
            inputs = [part.astype(np.float32) if part.dtype.kind == "f" else part for part in case.inputs]
            value, *gradients = in_float32(loss)(*inputs)
        truth, grad = loss.value_and_grad(*case.inputs, engine="chain")
        allowed = testing.budget(loss, *case.inputs, dtype="float32")
        same = np.isnan(value) & np.isnan(truth)  # the mean of nothing
        assert (same | (np.abs(value - truth) <= allowed.value + SINGLE * np.abs(truth))).all(), case
        ours = [(t, a) for t, a in zip(grad, allowed.gradient, strict=True) if t is not None]
        for gradient, (true, bound) in zip(gradients, ours, strict=True):
            assert (np.abs(gradient - true) <= bound + SINGLE * np.abs(true)).all(), case


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_dtype_goes_in_and_the_asked_one_comes_out(dtype):
    x, w, y = (a.astype(dtype) if a.dtype.kind == "f" else a for a in ordinary(3, 5, 4))
    for kind in (np.float64, np.float32):
        for loss in (refloss.ArcFace(s=8.0), refloss.SoftmaxLoss(reduction="none"), refloss.CrossEntropy()):
            inputs = (x, w, y) if loss.spec.head != "logits" else (x, [0, 1, 2])
            value, grad = loss.value_and_grad(*inputs, engine="fused", dtype=kind)
            assert value.dtype == kind
            assert type(value) is (np.ndarray if loss.reduction == "none" else kind)
            assert {part.dtype for part in grad if part is not None} == {np.dtype(kind)}
            if kind == np.float64:
                agree(loss, *inputs)


@pytest.mark.parametrize("size", [1e-45, 1e45])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_float32_takes_class_weights_that_it_could_not_hold(size, smoothing):
    """A mean depends on ratios of weights only."""
    x, w, y = ordinary(6, 5, 4)
    z = x @ w.T
    for loss, inputs in ((refloss.CosFace(s=8.0), (x, w, y)), (refloss.CrossEntropy(), (z, y))):
        ones, scaled = (
            replace(loss, label_smoothing=smoothing, class_weight=(v,) * 5).value_and_grad(
                *inputs, engine="fused", dtype=np.float32
            )
            for v in (1.0, size)
        )
        np.testing.assert_allclose(scaled[0], ones[0], rtol=64 * SINGLE)
        for some, others in zip(scaled[1], ones[1], strict=True):
            np.testing.assert_allclose(some, others, rtol=0.0, atol=256 * SINGLE * np.abs(others).max())


# ------------------------------------------------------------------------------------------------------------- refusals


def test_logits_that_float64_cannot_hold_are_refused_as_by_the_chain():
    for loss, *inputs in (
        (refloss.SoftmaxLoss(), [[1e200, 0.0]], [[1.0, 0.0], [1e200, 0.0]], [0]),
        (refloss.SoftmaxLoss(), [[1e200, 0.0]], [[1.0, 0.0], [1e200, 0.0]], [1]),
        (refloss.ModifiedSoftmax(), [[1.7e308, 1.7e308]], [[1.0, 1.0], [1.0, 0.0]], [0]),
    ):
        with pytest.raises(ValueError, match="logits that float64 can hold") as expected:
            loss(*inputs, engine="chain")
        for dtype in (np.float64, np.float32):
            for call in (loss, loss.value_and_grad):
                with pytest.raises(ValueError, match="logits that float64 can hold") as caught:
                    call(*inputs, engine="fused", dtype=dtype)
                assert str(caught.value) == str(expected.value)


@pytest.mark.parametrize("size", [1e300, 1e304, 1.7e307])
def test_logits_near_the_end_of_the_range_are_those_of_the_chain(size):
    x, w, y = np.array([[size, 0.0], [0.5, 1.0]]), np.array([[1.0, 0.5], [0.5, 1.0], [-1.0, 2.0]]), [0, 1]
    agree(refloss.SoftmaxLoss(), x, w, y)
    agree(refloss.ModifiedSoftmax(), x, w, y)
    agree(refloss.SoftmaxLoss(), x, w, y, [1.0, 0.0, -1.0])


def test_float32_hands_logits_that_it_cannot_hold_to_the_chain():
    x, w, y = np.array([[1e20, 1.0], [1e18, 1e19]]), np.array([[1e20, 2e19], [1e19, 1e20], [1.0, 2.0]]), [0, 2]
    loss = refloss.SoftmaxLoss(reduction="none")
    value, grad = loss.value_and_grad(x, w, y, engine="fused", dtype=np.float32, wrt="w")
    true, exactly = loss.value_and_grad(x, w, y, engine="chain")
    np.testing.assert_array_equal(loss(x, w, y, engine="fused", dtype=np.float32), value)
    with np.errstate(over="ignore"):
        assert np.array_equal(value, true.astype(np.float32))
        assert np.array_equal(grad.w, exactly.w.astype(np.float32))
    assert grad.x is None


# --------------------------------------------------------------------------------------------------- which engine it is


@pytest.fixture
def loaded(monkeypatch):
    """Names of the engines that are loaded."""
    names = []

    def spy(name):
        if name != "refloss.engines.kernels.jit":
            names.append(name.rpartition(".")[2])
        return sys.modules.get(name) or __import__(name, fromlist=["_"])

    monkeypatch.setattr(dispatch, "import_module", spy)
    return names


def test_small_work_never_waits_for_a_compiler(loaded, monkeypatch):
    monkeypatch.setattr(dispatch, "_numba_works", lambda: pytest.fail("asked for numba"))
    x, w, y = ordinary(8, 20, 16)
    refloss.ArcFace().value_and_grad(x, w, y)
    refloss.SoftmaxLoss()(x, w, y)
    refloss.CrossEntropy().value_and_grad(x, y % 16)
    refloss.Triplet()(*np.ones((3, 1000, 100)))  # nothing there is N x C, at any size
    assert set(loaded) == {"chain"}


def test_large_work_and_float32_are_for_fused(loaded, monkeypatch):
    x, w, y = ordinary(8, 20, 16)
    refloss.ArcFace()(x, w, y, dtype=np.float32)
    refloss.CrossEntropy()(x, y % 16, dtype=np.float32)
    assert loaded == ["fused", "fused"]
    loaded.clear()
    monkeypatch.setattr(dispatch, "LARGE", {"logits": x.size, "linear": 8 * 20 * 16, "margin": 8 * 20 * 16})
    for loss, *inputs in (
        (refloss.ArcFace(), x, w, y),
        (refloss.SoftmaxLoss(), x, w, y),
        (refloss.CrossEntropy(), x, y % 16),
    ):
        value, grad = loss.value_and_grad(*inputs)
        assert bits((value, grad)) == bits(loss.value_and_grad(*inputs, engine="fused"))
        loss(inputs[0][1:], *inputs[1:-1], inputs[-1][1:])
    assert [loaded[i] for i in (0, 2, 3, 5, 6, 8)] == ["fused", "chain"] * 3


@pytest.fixture
def no_numba(monkeypatch):
    """A numba that cannot compile."""

    def broken():
        raise OSError("no compiler here")

    monkeypatch.setattr(jit, "ready", broken)
    dispatch._numba_works.cache_clear()
    yield
    dispatch._numba_works.cache_clear()


def test_where_numba_fails_the_chain_takes_over_and_says_so_once(no_numba):
    x, w, y = ordinary(8, 20, 16)
    with pytest.warns(RuntimeWarning, match=r"numba.*OSError: no compiler here.*chain"):
        result = refloss.ArcFace().value_and_grad(x, w, y, engine="fused")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bits(result) == bits(refloss.ArcFace().value_and_grad(x, w, y, engine="chain"))
        value, grad = refloss.ArcFace().value_and_grad(x, w, y, engine="auto", dtype=np.float32)
        room = np.empty_like(w, np.float32)
        again = refloss.ArcFace().value_and_grad(x, w, y, engine="fused", dtype=np.float32, wrt="w", out={"w": room})
    assert value == np.float32(result[0])
    assert value.dtype == grad.w.dtype == np.float32
    assert np.array_equal(grad.w, result[1].w.astype(np.float32))
    assert again[1].w is room
    assert again[1].x is None
    assert np.array_equal(room, grad.w)


@pytest.mark.parametrize(
    "name", ["weights of 1e300", "upstream of many sizes", "probabilities of 8e307", "label smoothing 1e-300"]
)
def test_weights_and_upstream_at_the_ends_of_the_range_are_left_to_the_chain(name):
    loss, inputs, upstream = cases.BEYOND[name]
    (value, gradients), (same, others) = (
        loss.value_and_grad(*inputs, upstream=upstream, engine=engine) for engine in ("fused", "chain")
    )
    assert np.array_equal(value, same)
    for gradient, other in zip(gradients, others, strict=True):
        assert gradient is other is None or np.array_equal(gradient, other)
