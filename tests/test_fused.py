"""Engine "fused": the chain's contract in float64, the budget of `refloss.testing` in float32; any blocks, any threads.

Two results within the contract of the same truth are within twice the contract of each other: that is how fused is
held to the chain where mpmath would take too long.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

import refloss
from refloss import testing
from refloss.engines import dispatch, fused
from refloss.engines import threads as parallel
from refloss.engines.kernels import jit
from refloss.error_free import Pair
from support import cases, checks, exact, strategies
from support.checks import TWICE
from support.checks import agree_with_chain as agree

U = checks.U
SINGLE = 2.0**-24


def _random(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()) + 2)


def _check(name, loss, *inputs, **options):
    try:
        checks.against_exact(loss, *inputs, engine="fused", **options)
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from None


def test_an_entry_that_scaling_loses_is_left_to_the_chain():
    """The target is opposite to x except for 2e-354 of its length, which makes the tangent: dL/dx is across x."""
    x, w = np.array([[-0.5, -0.0]]), np.array([[1.35e187, 2.7e-167], [1.0, 0.0]])
    loss = refloss.ArcFace(m=3.0, boundary="monotone")
    found, expected = (loss.value_and_grad(x, w, [0], engine=engine) for engine in ("fused", "chain"))
    assert bits(found) == bits(expected)
    assert abs(found[1].x[0, 1]) > 1.0


def in_blocks(patch, classes):
    """Blocks of so many classes, whatever the number of samples."""
    patch.setattr(fused, "TILE", 1)
    patch.setattr(fused, "NARROWEST", classes)


def bits(result):
    value, gradients = result
    return [np.asarray(part).tobytes() for part in (value, *checks.as_dict(gradients).values())]


def ordinary(n, c, d, seed=0):
    return cases.ordinary(np.random.default_rng(seed), n, c, d)


def weights_of(c, seed=0):
    return tuple(np.random.default_rng(seed).uniform(0.25, 2.0, c))


def signed_weights_of(c, seed=0):
    return tuple(np.random.default_rng(seed).standard_normal(c))


# --------------------------------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("loss", cases.HEADS, ids=repr)
def test_heads_keep_the_contract(loss):
    """Every third case of most losses, all of a few: .ci/record has the others."""
    whole = repr(loss) in {repr(refloss.ArcFace()), repr(refloss.ASoftmax()), repr(refloss.SoftmaxLoss())}
    chosen = [
        (name, inputs)
        for name, inputs in cases.heads(loss, _random(repr(loss)))
        if not loss.class_weight or len(inputs[1]) == len(loss.class_weight)
    ]
    start = 0 if whole else int(_random(f"start {loss}").integers(0, 3))
    for name, inputs in chosen[start :: 1 if whole else 3]:
        _check(name, loss, *inputs, **({"digits": 300} if "1e-200" in name else {}))


@pytest.mark.parametrize("loss", cases.CROSS_ENTROPIES, ids=repr)
@pytest.mark.parametrize("classes", [2, 10, 150])
def test_cross_entropy_keeps_the_contract(loss, classes):
    chosen = list(cases.logits(_random(repr(loss)), classes))
    for name, inputs in chosen if classes < 100 else chosen[::4]:
        _check(name, loss, *inputs)


@pytest.mark.parametrize("loss", cases.TRIPLETS, ids=repr)
def test_triplet_keeps_the_contract(loss):
    for name, inputs in cases.triplets(_random(repr(loss))):
        _check(name, loss, *inputs)


@pytest.mark.parametrize("build", cases.WIDE.values(), ids=cases.WIDE)
def test_heads_keep_the_contract_at_real_widths(build):
    x, w, y = build(_random("wide"))
    entries = cases.some_entries(_random("entries"), x, w, y)
    checks.against_exact(refloss.ArcFace(), x, w, y, engine="fused", entries=entries)


BLOCKED = (
    refloss.ArcFace(s=30.0),
    refloss.ASoftmax(),
    refloss.ArcFace(s=20.0, label_smoothing=0.1, class_weight=weights_of(7)),
    refloss.ArcFace(s=20.0, label_smoothing=0.1, class_weight=signed_weights_of(7)),
    refloss.SoftmaxLoss(label_smoothing=0.1),
    refloss.SoftmaxLoss(label_smoothing=0.5, class_weight=signed_weights_of(7), reduction="sum"),
    refloss.CombinedMargin(reduction="none", gradient="detached"),
)


@pytest.mark.parametrize("loss", BLOCKED, ids=repr)
@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_the_contract_holds_in_blocks_that_divide_and_that_do_not(loss, classes, monkeypatch):
    in_blocks(monkeypatch, classes)
    random = _random("blocks")
    x, w, y = cases.ordinary(random, 5, 7, 3)  # two groups of samples: N > D
    y[:2] = 6
    w[2] = 2.0 * x[1]
    w[4] *= 1e200 if loss.spec.head == "margin" else 1.0
    b = (random.standard_normal(7),) if loss.spec.head == "linear" else ()
    checks.against_exact(loss, x, w, y, *b, engine="fused", digits=60)
    value = loss(x, w, y, *b, engine="fused")
    assert exact.value_error(value, exact.value(loss, x, w, y, *b)) <= checks.allowed(loss, x, w, y)[0]


@pytest.mark.parametrize("bias", [[500.0, 500.0, 500.0], [0.0, 0.0, -500.0], [1e6, 1e6, 1e6 - 3.0]], ids=str)
def test_a_bias_far_larger_than_the_products_costs_no_digits(bias):
    """The contract counts products of lengths: what a bias of 500 would round off, 256u, is far more than 16u."""
    x, w = np.array([[1.0, 0.01], [0.3, 0.7]]), np.array([[1.0, 0.1], [0.1, 1.0], [0.7, 0.6]])
    for y in ([0, 1], [2, 2]):
        checks.against_exact(refloss.SoftmaxLoss(), x, w, y, np.array(bias), engine="chain")
        checks.against_exact(refloss.SoftmaxLoss(), x, w, y, np.array(bias), engine="fused")


# ------------------------------------------------------------------------------------------------ the same as the chain


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
        loss = draw(strategies.losses())
        inputs = (x, w, y)
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
        found = agree(loss, *inputs, upstream=upstream)
        alone = loss(*inputs, engine="fused")
    allowed = checks.allowed(loss, *inputs)[0]
    assert exact.value_error(alone, exact.exact(found[0])) <= TWICE * allowed


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
@pytest.mark.parametrize("kind", [refloss.ArcFace, refloss.ASoftmax, refloss.SoftmaxLoss, refloss.CrossEntropy])
def test_every_setting(kind, settings, reduction):
    """In more samples than dimensions, and blocks of 64 classes."""
    random = _random(f"{kind} {settings} {reduction}")
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


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_all_rows_ignored(reduction, dtype):
    x, w, y = np.full((3, 2), np.nan), np.array([[1.0, 2.0], [3.0, 1.0]]), np.full(3, -100)
    for loss in (refloss.ArcFace(reduction=reduction), refloss.SoftmaxLoss(reduction=reduction, label_smoothing=0.1)):
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


ROWS = [
    [0.0, -np.inf, 1.0],
    [0.0, -np.inf, -np.inf],
    [-np.inf, 0.0, 1.0],
    [-np.inf, -np.inf, -np.inf],
    [np.nan, 0.0, 1.0],
    [1.0, np.nan, 0.0],
    [np.nan, np.nan, np.nan],
    [np.inf, 0.0, 1.0],
    [np.inf, np.inf, -np.inf],
    [0.0, np.inf, np.nan],
]
SOFT = [[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 0.0], [0.25, 0.25, 0.5], [0.0, 2.0, 0.0]]
SOFT += [[-1.0, 1.0, 0.0], [0.0, -0.5, -0.5], [0.0, 0.25, -0.25]]
MASKED = [
    {},
    {"label_smoothing": 0.1},
    {"label_smoothing": 1.0},
    {"class_weight": (1.0, 0.0, 2.0)},
    {"class_weight": (1.0, 0.0, 2.0), "label_smoothing": 0.2},
    {"class_weight": (-1.0, 0.5, 2.0)},
    {"class_weight": (-1.0, 0.5, 2.0), "label_smoothing": 0.2},
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("settings", MASKED, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_logits_that_are_not_finite_come_out_as_of_the_chain(settings, reduction, dtype):
    """Gradients are below 4, the sum of weighted targets."""
    loss = refloss.CrossEntropy(reduction=reduction, **settings)
    rtol = 16 * U if dtype == np.float64 else 16 * SINGLE
    for row in ROWS:
        z = np.array([row], dtype)
        for y in (*([label] for label in range(3)), *([soft] for soft in SOFT)):
            expected = loss.value_and_grad(z, y, engine="chain")
            found = loss.value_and_grad(z, y, engine="fused", dtype=dtype)
            said = f"{row} {y}"
            np.testing.assert_allclose(found[0], expected[0], rtol=rtol, atol=0.0, err_msg=said)
            np.testing.assert_allclose(found[1].z, expected[1].z, rtol=0.0, atol=4.0 * rtol, err_msg=said)
            assert not found[1].z[expected[1].z == 0.0].any(), said
            np.testing.assert_array_equal(loss(z, y, engine="fused", dtype=dtype), found[0])


@pytest.mark.parametrize(("dtype", "u"), [(np.float64, U), (np.float32, SINGLE)])
def test_targets_that_are_far_apart_hide_none(dtype, u):
    """8u of |t_k| q_k + p_k Σ |t_j| over j ≠ k: at a largest logit with the target 1, 1 - p is nothing, and Σ small."""
    loss, z = refloss.CrossEntropy(), np.array([[80.0, 1.0, 0.0]], dtype)
    for y in ([1.0, 1e-10, -3e-10], [-1.0, 1e-10, 3e-10]):
        y = np.array([y], dtype)  # noqa: PLW2901
        rest = float(y[0, 1]) + float(y[0, 2])
        found = loss.value_and_grad(z, y.astype(np.float64), engine="fused", dtype=dtype)[1].z[0, 0]
        assert abs(float(found) - rest) <= 8.0 * u * 4e-10


def test_one_class_costs_nothing():
    x, w, y = ordinary(4, 1, 3)
    for dtype in (np.float64, np.float32):
        for loss in (refloss.ArcFace(), refloss.SoftmaxLoss(), refloss.ArcFace(label_smoothing=0.1)):
            value, grad = loss.value_and_grad(x, w, y, engine="fused", dtype=dtype)
            assert value == 0.0
            assert not grad.x.any()
            assert not grad.w.any()


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
)


def in_float32(loss):
    """What another project would hand to refloss.testing."""

    def found(*inputs):
        value, grad = loss.value_and_grad(*inputs, engine="fused", dtype=np.float32)
        parts = (value, *(part for part in grad if part is not None))
        assert all(part.dtype == np.float32 for part in parts)
        return parts

    return found


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
            given = [part.astype(np.float32) if part.dtype.kind == "f" else part for part in case.inputs]
            value, *gradients = in_float32(loss)(*given)
        truth, grad = loss.value_and_grad(*case.inputs, engine="chain")
        allowed = testing.budget(loss, *case.inputs, dtype="float32")
        same = np.isnan(value) & np.isnan(truth)  # the mean of nothing
        assert (same | (np.abs(value - truth) <= allowed.value + SINGLE * np.abs(truth))).all(), case
        ours = [(t, a) for t, a in zip(grad, allowed.gradient, strict=True) if t is not None]
        for found, (true, bound) in zip(gradients, ours, strict=True):
            assert (np.abs(found - true) <= bound + SINGLE * np.abs(true)).all(), case


@pytest.mark.parametrize("power", [-660, -200, -120, -60, 60, 120, 200, 660])
@pytest.mark.parametrize("longer", ["x", "w"])
def test_float32_takes_directions_of_any_length(longer, power):
    """What float32 cannot hold, float64 may have given; gradients come out where float32 holds them."""
    x, w, y = (a.astype(np.float32) if a.dtype.kind == "f" else a for a in ordinary(4, 9, 5))
    given = {"x": x.astype(np.float64), "w": w.astype(np.float64)}
    given[longer][1:3] *= 2.0**power
    if abs(power) <= 120:
        given = {name: array.astype(np.float32) for name, array in given.items()}
    for loss in (refloss.ArcFace(s=8.0), refloss.CosFace(s=8.0, label_smoothing=0.1), refloss.ASoftmax(s=8.0)):
        value, grad = loss.value_and_grad(**given, y=y, engine="fused", dtype=np.float32)
        true, exactly = loss.value_and_grad(**given, y=y, engine="chain")
        allowed = testing.budget(loss, given["x"], given["w"], y, dtype="float32")
        assert abs(value - true) <= allowed.value
        assert loss(**given, y=y, engine="fused", dtype=np.float32) == value
        for found, expected, bound in zip(grad, exactly, allowed.gradient, strict=True):
            held = np.abs(expected) < 2.0**127
            allowance = bound + SINGLE * np.abs(expected) + 2.0**-149
            assert (np.abs(found - expected) <= allowance)[held].all(), loss


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


# ----------------------------------------------------------------------------------------------------------- long sums


def summed(terms):
    """What a sum of rounded terms may lose, in u of these: pieces of 512, and a few roundings where they are added."""
    return min(terms, 512) + 16


def promised(n, c, d, s=1.0):
    """The contract of heads in u: of the value relative to itself, and of gradients relative to absolute terms."""
    kappa = (8 + summed(d)) * s
    return max(16, kappa), max(32, 2 * kappa) + summed(max(n, c))


def unit(dtype):
    return np.finfo(dtype).eps / 2.0


def few_kept(patch, width=512):
    """Groups of at most D samples, and pieces of so many terms."""
    patch.setattr(fused, "KEPT", 0)
    patch.setattr(fused, "PIECE", width)


@pytest.mark.parametrize("groups", [False, True])
def test_a_bias_of_many_equal_samples(groups, monkeypatch):
    """The mean over N equal samples is that of one: p - [k = y] for b, and (p - [k = y]) x for w."""
    n = 80000
    if groups:
        few_kept(monkeypatch)
        n = 4000
    x, w = np.full((n, 8), 0.1), np.outer(np.arange(8.0) - 3.0, np.ones(8)) * 0.1
    _, grad = refloss.SoftmaxLoss().value_and_grad(x, w, np.zeros(n, int), np.zeros(8), engine="fused")
    assert abs(grad.b[0] - -0.9070955448157113) <= promised(n, 8, 8)[1] * U * 2.0 * 0.907
    truth = refloss.SoftmaxLoss().value_and_grad(x[:1], w, [0], np.zeros(8), engine="certified")[1]
    for found, true in ((grad.b, truth.b), (grad.w, truth.w)):  # one sample: what is added up is the truth itself
        assert (np.abs(found - true) <= promised(n, 8, 8)[1] * U * np.abs(true)).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_many_equal_samples_are_as_one(smoothing, groups, dtype, monkeypatch):
    n = 20000
    if groups:
        few_kept(monkeypatch)
        n = 2000
    random = np.random.default_rng(4)
    x, w = random.standard_normal((1, 5)).astype(dtype), random.standard_normal((7, 5)).astype(dtype)
    for loss in (
        refloss.NormFace(s=1.0, label_smoothing=smoothing),
        refloss.SoftmaxLoss(reduction="sum", label_smoothing=smoothing),
    ):
        some = np.full(n, 3)
        value, grad = loss.value_and_grad(np.repeat(x, n, 0), w, some, engine="fused", dtype=dtype)
        truth, true = loss.value_and_grad(x, w, [3], engine="certified")
        s = max(1.0, checks.scale_of(loss, x, w))
        of_value, of_gradient = promised(n, 7, 5, s)
        scale = n if loss.reduction == "sum" else 1
        assert abs(value - truth * scale) <= of_value * unit(dtype) * truth * scale
        terms = {name: np.array(rows, float)[:, None] for name, rows in exact.absolute_terms(loss, x, w, [3]).items()}
        allowed = 2.0 * of_gradient * unit(dtype)  # 2: terms of targets and others are counted apart
        assert (np.abs(grad.w - true.w * scale) <= allowed * scale * terms["w"]).all()
        assert (np.abs(grad.x - true.x * scale / n) <= allowed * scale / n * terms["x"]).all()


def test_many_equal_classes_share_one_probability():
    """C equal classes: L = log C, p = 1/C, and the gradient of x adds up to 0."""
    c, x, w = 100_000, np.array([[0.3, -0.7, 0.2]]), np.array([[1.0, 2.0, -0.5]])
    loss = refloss.NormFace(s=1.0)
    value, grad = loss.value_and_grad(x, np.repeat(w, c, 0), [0], engine="fused")
    of_value, of_gradient = promised(1, c, 3)
    assert abs(value - np.log(c)) <= of_value * U * value
    one = 2.0 * loss.value_and_grad(x, np.repeat(w, 2, 0), [0], engine="certified")[1].w[1]  # 1/2 of the tangent
    terms = 1.0 / np.linalg.norm(w)
    assert np.abs(grad.w[1:] * c - one).max() <= of_gradient * U * terms
    assert np.abs(grad.w[0] + one * (1.0 - 1.0 / c)).max() <= of_gradient * U * terms
    assert np.abs(grad.x).max() <= of_gradient * U * 2.0 / np.linalg.norm(x)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rows", [1, 300])
def test_sums_of_lanes_are_no_longer_than_sections(dtype, rows):
    """Confident samples have no loss but the sum over 40,000 equal classes, 1.2e-5 of the target."""
    c, d = 40_000, 4
    x, w = np.zeros((rows, d), dtype), np.full((c, d), 0.5, dtype)
    x[:, 0], w[0] = 1.0, [1.0, 0.0, 0.0, 0.0]
    s = 44.0
    value = refloss.NormFace(s=s)(x, w, np.zeros(rows, int), engine="fused", dtype=dtype)
    true = np.log1p((c - 1.0) * np.exp(-s / 2.0))
    assert abs(value - true) <= promised(rows, c, d, s)[0] * unit(dtype) * true


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sums_over_thousands_of_dimensions(dtype):
    """Constant vectors, of which a plain sum may lose D u; the truth from the few different entries there are."""
    d, half = 16384, 8192
    x, w = np.full((3, d), 0.1, dtype), np.full((2, d), 0.3, dtype)
    w[1, half:] = 0.1
    loss = refloss.NormFace(s=16.0)
    value, grad = loss.value_and_grad(x, w, [0, 0, 1], engine="fused", dtype=dtype)
    with mp.workdps(40):
        a, b = mpf(float(w[1, 0])), mpf(float(w[1, -1]))
        length = mp.sqrt(half * (a * a + b * b))
        cos = half * (a + b) / (mp.sqrt(d) * length)
        p = 1 / (1 + mp.exp(16 * (cos - 1)))  # of the class along x
        loss_of = [-mp.log(p), -mp.log(p), -mp.log(1 - p)]
        true = mp.fsum(loss_of) / 3
        of_value, of_gradient = promised(3, 2, d, 16.0)
        assert abs(mpf(float(value)) - true) <= of_value * unit(dtype) * true
        pull = 16 * (2 * (1 - p) - p) / 3 / length
        terms = 16 * (2 * (1 - p) + p) / 3 / length
        for i, entry in ((0, a), (d - 1, b)):
            tangent = 1 / mp.sqrt(d) - cos * entry / length
            assert abs(mpf(float(grad.w[1, i])) - pull * tangent) <= of_gradient * unit(dtype) * terms


@pytest.mark.parametrize("width", [1, 2, 3])
def test_pieces_of_any_width_make_the_same_sums(width, monkeypatch):
    in_blocks(monkeypatch, 3)
    few_kept(monkeypatch, width)
    monkeypatch.setattr(fused, "FEW", width)
    for loss in BLOCKED:
        x, w, y = ordinary(17, 7, 5)
        for some in (1, 17):
            agree(loss, x[:some], w, y[:some])
    x, w, y = ordinary(17, 7, 5)
    agree(refloss.SoftmaxLoss(label_smoothing=0.2), x, w, y, np.linspace(-1.0, 1.0, 7))


def test_products_are_cut_into_halves_of_whole_pieces(monkeypatch):
    """Of integers, whose sums are exact; and no piece is longer than it may be."""
    seen = []
    real = np.matmul
    monkeypatch.setattr(fused.np, "matmul", lambda a, b, out=None: (seen.append(a.shape[1]), real(a, b, out=out))[1])
    monkeypatch.setattr(fused, "PIECE", 4)
    random = np.random.default_rng(0)
    for k in (1, 4, 5, 8, 9, 23):
        a, b = random.integers(-9, 9, (3, k)).astype(float), random.integers(-9, 9, (k, 2)).astype(float)
        seen.clear()
        out = np.empty((3, 2))
        assert fused.product(a, b, out) is out
        assert np.array_equal(out, a @ b)
        assert sum(seen) == k
        assert max(seen) <= 4
        assert len(seen) == -(-k // 4)


def test_groups_are_as_large_as_memory_worth_64_mib_or_w(monkeypatch):
    """Samples far more than dimensions: one group where what is kept is small."""
    sizes = []
    real = fused._Samples.group
    monkeypatch.setattr(
        fused._Samples, "group", lambda self, some: (sizes.append(some.stop - some.start), real(self, some))[1]
    )
    x, w, y = ordinary(5000, 4, 2)
    refloss.NormFace().value_and_grad(x, w, y, engine="fused")
    assert sizes == [5000]
    for kept, size in ((2**15, 1024), (0, 2)):
        sizes.clear()
        monkeypatch.setattr(fused, "KEPT", kept)
        refloss.NormFace().value_and_grad(x[:2048], w, y[:2048], engine="fused")
        assert sizes == [size] * (2048 // size)
    sizes.clear()
    monkeypatch.setattr(fused, "KEPT", 2**15)
    refloss.NormFace()(x, w, y, engine="fused")  # of which nothing is kept but a block
    assert sizes == [1024] * 4 + [904]


# ------------------------------------------------------------------------------------------------- ends of the range


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


def check_against_certified(loss, *inputs, upstream=None, dtype=np.float64):
    """Within the contract: of each row's absolute terms, which at least its largest entries are."""
    value, grad = loss.value_and_grad(*inputs, upstream=upstream, engine="fused", dtype=dtype)
    truth, true = loss.value_and_grad(*inputs, upstream=upstream, engine="certified")
    s = 1.0
    if loss.spec.head != "logits":
        s = max(1.0, float(checks.scale_of(loss, *inputs)))
    n, c = len(inputs[0]), len(inputs[1])
    of_value, of_gradient = promised(n, c, np.shape(inputs[0])[1], s)
    assert (np.abs(value - truth) <= of_value * unit(dtype) * np.abs(truth)).all()
    for name, part in checks.as_dict(grad).items():
        exactly = getattr(true, name)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = exactly.astype(dtype)
            rows = np.abs(exactly).max(axis=-1, keepdims=True)
            error = np.abs(part.astype(np.float64) - expected)
            held = np.abs(expected) < np.inf
        least = float(np.finfo(dtype).smallest_subnormal)
        assert np.array_equal(part[~held], expected[~held]), (loss, name)
        allowed = of_gradient * unit(dtype) * rows + least
        assert (error <= allowed)[held].all(), (loss, name, part, exactly)


ENDS = [5e-324, -1e-200, 1e-60, 1e60, -1e200, 1e308]


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
        powers = np.array([-900, 0, 300, -300, 10, 900])
        moved = loss.value_and_grad(x, w, y, upstream=2.0**powers, engine="fused")[1]
        assert np.array_equal(moved.x, np.ldexp(ones.x, powers[:, None]))


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
                given = [np.asarray(part, dtype) for part in inputs[:2]]
                grad = loss.value_and_grad(*given, inputs[2], engine="fused", dtype=dtype)[1]
                true = loss.value_and_grad(*given, inputs[2], engine="certified")[1]
                for found, exactly in zip(grad, true, strict=True):
                    with np.errstate(over="ignore"):
                        beyond = np.isinf(exactly.astype(dtype))
                    assert np.array_equal(found[beyond], np.copysign(dtype(np.inf), exactly[beyond])), (loss, found)
                    assert np.isfinite(found[~beyond]).all()


def test_classes_of_linear_heads_beyond_the_room_of_products_are_left_to_the_chain(monkeypatch):
    chain = []
    real = fused._by_chain
    monkeypatch.setattr(fused, "_by_chain", lambda *given: (chain.append(1), real(*given))[1])
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
            for found, expected, bound in zip(grad, exactly, allowed.gradient, strict=True):
                held = np.abs(expected) < 2.0**127
                assert (np.abs(found - expected) <= bound + SINGLE * np.abs(expected) + 2.0**-149)[held].all()


@pytest.mark.parametrize(
    ("z", "y", "dtype"),
    [
        ([[1e39, 0.0]], [0], np.float32),
        ([[1e39, 0.0]], [1], np.float32),
        ([[-1e39, -1e39], [0.0, 1.0]], [1, 0], np.float32),
        ([[3e38, -3e38]], [[0.9, 0.1]], np.float32),
        ([[1e308, -1e308]], [[0.9, 0.1]], np.float64),
        ([[0.0, 1.0]], [[8e307, 8e307]], np.float64),
    ],
)
def test_logits_and_targets_without_room_are_left_to_the_chain(z, y, dtype):
    loss = refloss.CrossEntropy(reduction="sum")
    value, grad = loss.value_and_grad(z, y, engine="fused", dtype=dtype)
    true, exactly = loss.value_and_grad(z, y, engine="chain")
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(value, true.astype(dtype))
        np.testing.assert_array_equal(grad.z, exactly.z.astype(dtype))


@pytest.mark.parametrize("upstream", ENDS)
@pytest.mark.parametrize("soft", [False, True])
def test_upstream_gradients_of_logits_near_the_ends_of_the_range(upstream, soft):
    z = np.array([[0.0, 1.0, -200.0], [3.0, -700.0, 2.0]])
    y = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]) if soft else [0, 2]
    for loss in (refloss.CrossEntropy(), refloss.CrossEntropy(reduction="none", label_smoothing=0.1)):
        above = upstream if loss.reduction == "mean" else [upstream, 1.0]
        check_against_certified(loss, z, y, upstream=above)


def test_nan_at_a_class_that_weighs_nothing_is_nan():
    loss = refloss.CrossEntropy(class_weight=(0.0, 1.0, 1.0), reduction="sum")
    for dtype in (np.float64, np.float32):
        value, grad = loss.value_and_grad([[np.nan, 1.0, 2.0], [1.0, 1.0, 1.0]], [0, 2], engine="fused", dtype=dtype)
        assert np.isnan(value)
        assert np.isnan(grad.z[0]).all()
        assert np.isfinite(grad.z[1]).all()
        assert loss([[-np.inf, 1.0, 2.0]], [0], engine="fused", dtype=dtype) == 0.0


# ------------------------------------------------------------------------------- what a bit must not depend on


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
                found = loss.value_and_grad(unaligned(x), unaligned(classes), y, engine="fused", dtype=dtype, out=room)
                assert bits(found) == expected
    expected = bits(refloss.CrossEntropy().value_and_grad(x, y % 33, engine="fused", dtype=dtype))
    assert bits(refloss.CrossEntropy().value_and_grad(unaligned(x), y % 33, engine="fused", dtype=dtype)) == expected


BLAS_THREADS = """
import hashlib
import numpy as np
import refloss

random = np.random.default_rng(0)
x, w = random.standard_normal((3, 20001)), random.standard_normal((5, 20001))
found = hashlib.sha256()
for loss in (refloss.ArcFace(), refloss.SoftmaxLoss(), refloss.ModifiedSoftmax()):
    for dtype in (np.float64, np.float32):
        value, grad = loss.value_and_grad(x / 100.0, w / 100.0, [0, 1, 4], engine="fused", dtype=dtype)
        for part in (value, grad.x, grad.w):
            found.update(part.tobytes())
print(found.hexdigest())
"""


def test_bits_do_not_depend_on_the_threads_of_the_blas():
    found = {
        subprocess.run(
            [sys.executable, "-c", BLAS_THREADS],
            env=path_to_refloss(OPENBLAS_NUM_THREADS=threads, OMP_NUM_THREADS=threads),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "3")
    }
    assert len(found) == 1


# ------------------------------------------------------------------------------------------------- parts of the classes


def parts_of(random, blocks, n=4, d=3):
    """Parts of blocks of random logits and directions, and the logits and directions themselves."""
    for size in blocks:
        z = 20.0 * random.standard_normal((n, size))
        z[0, :] = -np.inf if size == 1 else z[0, :]  # nothing but the hidden class
        t, w = random.uniform(0.0, 1.0, size), random.standard_normal((size, d))
        yield z, t, w


def part_of(z, t, w):
    peak = z.max(axis=1)
    there = np.isfinite(z) * t
    with np.errstate(invalid="ignore"):  # -inf less -inf
        e = np.where(np.isfinite(peak)[:, None], np.exp(z - peak[:, None]), 0.0)
        gaps = np.where(np.isfinite(z), peak[:, None] - z, 0.0)
    others = np.where(np.isfinite(peak), np.sort(e, axis=1)[:, :-1].sum(axis=1), 0.0)
    return fused.Part(
        peak, np.zeros_like(peak), others, there.sum(axis=1), (there * gaps).sum(axis=1), e @ w, there @ w
    )


merge = np.errstate(invalid="ignore")(fused.merge)  # as the engine calls it
merged = np.errstate(invalid="ignore")(fused.merged)


def close(a, b):
    """Within what a few additions and products round, and a gap of up to 200 in the exponent: 256u of the terms."""
    np.testing.assert_array_equal(a.peak, b.peak)
    for name in ("others", "weight", "short"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=256 * U, atol=0.0, err_msg=name)
    for name in ("pull", "drag"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0.0, atol=1024 * U, err_msg=name)


def whole(blocks):
    z, t, w = (np.concatenate(part, axis=axis) for part, axis in zip(zip(*blocks, strict=True), (1, 0, 0), strict=True))
    return part_of(z, t, w)


@pytest.mark.parametrize("seed", range(4))
def test_parts_merge_to_the_part_of_all_and_in_any_order(seed):
    blocks = list(parts_of(np.random.default_rng(seed), (3, 1, 5)))
    a, b, c = (part_of(*block) for block in blocks)
    left, right = merge(merge(a, b), c), merge(a, merge(b, c))
    close(left, right)
    close(left, merge(c, merge(b, a)))
    close(left, whole(blocks))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(0, 1000))
def test_any_split_makes_the_same_whole(sizes, seed):
    blocks = list(parts_of(np.random.default_rng(seed), sizes))
    close(merged(part_of(*block) for block in blocks), whole(blocks))


def test_parts_of_nothing_change_nothing():
    [one] = [part_of(*block) for block in parts_of(np.random.default_rng(1), (4,))]
    nothing = part_of(np.full((4, 1), -np.inf), np.zeros(1), np.ones((1, 3)))
    for both in (merge(one, nothing), merge(nothing, one)):
        for name in fused.Part._fields:
            np.testing.assert_array_equal(getattr(both, name), getattr(one, name))
    empty = merge(nothing, nothing)
    assert (empty.peak == -np.inf).all()
    assert not any(getattr(empty, name).any() for name in fused.Part._fields[1:])


def test_merging_ties_counts_every_largest_but_one():
    z = np.zeros((2, 1))
    parts = [part_of(z, np.ones(1), np.ones((1, 1)))._replace(pull=None, drag=None) for _ in range(5)]
    together = merged(iter(parts))
    assert together.others.tolist() == [4.0, 4.0]
    assert together.pull is together.drag is None


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("block", [1, 64])
def test_what_is_rounded_off_a_huge_logit_is_not_small(monkeypatch, block, dtype):
    """Where biases are lost beside products they decide alone: softmax of the biases, in closed form."""
    in_blocks(monkeypatch, block)
    size = 2.0**60 if dtype == np.float64 else 2.0**31
    for b in ([0.0, 100.0, 50.0, -30.0], [3.0, 1.0, 2.0, 2.5], [100.0, 0.0, -100.0, 99.0]):
        for y in range(4):
            e = np.exp(np.subtract(b, max(b)))
            value, grad = refloss.SoftmaxLoss().value_and_grad(
                np.full((1, 1), size, dtype),
                np.ones((4, 1), dtype),
                [y],
                np.array(b, dtype),
                engine="fused",
                dtype=dtype,
            )
            true = max(b) - b[y] + np.log1p(np.delete(e, np.argmax(b)).sum())
            tolerance = 64.0 * np.finfo(dtype).eps  # of exact gaps a few exponentials, their sum and its logarithm
            assert abs(value - true) <= tolerance * true, (b, y)
            expected = e / e.sum() - np.eye(4)[y]
            assert np.abs(grad.b - expected).max() <= tolerance, (b, y)


def test_a_target_ahead_by_what_its_logit_does_not_hold():
    """Found by hypothesis: z_y = 1e30 + 2.5e12, the others 1e30, the same float64: the loss is 0 and not NaN."""
    x, w = np.array([[1e30, 1e13]]), np.ones((5, 2)) * [1.0, 0.0]
    w[0, 1] = 0.25
    for engine in ("fused", "chain", "dd"):
        value, grad = refloss.SoftmaxLoss().value_and_grad(x, w, [0], np.zeros(5), engine=engine)
        assert value == 0.0, engine
        assert not any(part.any() for part in grad), engine


def test_what_is_rounded_off_the_largest_counts():
    """Logits of 1e6 with low parts: parts merge, and meet the target, as the numbers they stand for do."""
    n, low = 3, np.array([[1e-11, -2e-11, 3e-11], [0.0, 4e-11, -4e-11]])
    peaks = np.array([[1e6, 1e6, 1e6 - 3.0], [1e6, 1e6 - 2.0, 1e6]])
    a, b = (
        fused.Part(peak, rest, np.full(n, 0.5), np.full(n, 0.1), np.full(n, 0.2))
        for peak, rest in zip(peaks, low, strict=True)
    )
    both = merge(a, b)
    target = Pair(np.full(n, 1e6 + 1.0), np.full(n, 5e-11))
    done = fused.finish(both, target, np.ones(n))
    with mp.workdps(40):
        for i in range(n):
            exact_peaks = [mpf(float(part.peak[i])) + mpf(float(part.low[i])) for part in (a, b)]
            top = exact_peaks[0] if a.peak[i] >= b.peak[i] else exact_peaks[1]
            assert mpf(float(both.peak[i])) + mpf(float(both.low[i])) == top
            sums = mp.fsum(mpf(1.5) * mp.exp(peak - top) for peak in exact_peaks)
            short = mp.fsum(mpf(0.2) + mpf(0.1) * (top - peak) for peak in exact_peaks)
            assert abs(mpf(float(both.others[i])) - (sums - 1)) <= 8 * mpf(U) * sums
            assert abs(mpf(float(both.short[i])) - short) <= 8 * mpf(U) * short
            y = mpf(1e6 + 1.0) + mpf(5e-11)
            whole = mp.log1p(sums * mp.exp(top - y))
            loss = whole + short + mpf(0.2) * (y - top) + mpf(0.2) * whole
            assert abs(mpf(float(done.loss[i])) - loss) <= 16 * mpf(U) * loss


def test_a_part_and_a_target_make_the_loss():
    """Against mpmath, on both sides of the largest other class, to 8u."""
    gaps = np.array([-700.0, -36.0, -1.0, -1e-9, 0.0, 1e-9, 1.0, 36.0, 700.0])
    n = len(gaps)
    z = np.array([[0.0, -1.0, -3.0]]) + 0.5 * gaps[:, None]
    part = part_of(z, np.zeros(3), np.ones((3, 1)))
    done = fused.finish(part, Pair.of(-0.5 * gaps), np.full(n, 2.0))
    with mp.workdps(400):
        for i in range(n):
            own, rest = mp.exp(mpf(-0.5 * gaps[i])), [mp.exp(mpf(v)) for v in z[i].tolist()]
            p = own / (own + mp.fsum(rest))
            for found, true in (
                (done.loss[i], -2 * mp.log(p)),
                (done.target[i], -2 * mp.fsum(rest) / (own + mp.fsum(rest))),
                (done.factor[i], 2 * rest[0] / (own + mp.fsum(rest))),
            ):
                assert abs(mpf(found) - true) <= 8 * mpf(2) ** -53 * abs(true)


# ------------------------------------------------------------------------------------------------ threads and processes


def some_work(dtype=np.float64):
    """A few losses at sizes of several blocks and groups of samples."""
    x, w, y = ordinary(40, 700, 16)
    smoothed = refloss.ArcFace(s=30.0, label_smoothing=0.1)
    for loss in (refloss.ArcFace(s=30.0), refloss.ASoftmax(), smoothed, refloss.SoftmaxLoss()):
        yield bits(loss.value_and_grad(x, w, y, engine="fused", dtype=dtype))
        yield loss(x, w, y, engine="fused", dtype=dtype).tobytes()
    z = x @ w.T
    yield bits(refloss.CrossEntropy().value_and_grad(z, y, engine="fused", dtype=dtype))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_same_bits_on_every_run_and_for_every_number_of_threads(dtype, set_threads, monkeypatch):
    in_blocks(monkeypatch, 64)
    found = []
    for count in (1, 1, 2, 3):
        set_threads(count)
        found.append(list(some_work(dtype)))
    assert all(a == b for a, b in pairwise(found))


def test_eight_threads_at_once_give_the_bits_of_one(monkeypatch):
    in_blocks(monkeypatch, 64)
    expected = list(some_work())
    with ThreadPoolExecutor(8) as pool:
        for found in [task.result() for task in [pool.submit(lambda: list(some_work())) for _ in range(8)]]:
            assert found == expected


def test_without_threadpoolctl_blocks_go_one_after_the_other(monkeypatch):
    monkeypatch.setattr(parallel, "_blas", lambda: None)
    monkeypatch.setattr(parallel, "in_order", lambda *_: pytest.fail("in parallel"))
    in_blocks(monkeypatch, 2)
    for loss in BLOCKED:
        agree(loss, *ordinary(5, 7, 3))


def test_what_is_raised_in_a_thread_comes_out_and_leaves_the_pool_usable(monkeypatch):
    in_blocks(monkeypatch, 1)
    x, w, y = ordinary(3, 20, 4)
    expected = bits(refloss.ArcFace().value_and_grad(x, w, y, engine="fused"))
    wrong = w.copy()
    wrong[13, 2] = np.inf
    for _ in range(3):
        with pytest.raises(ValueError, match=r"^w must be finite; got inf at w\[13, 2\]$"):
            refloss.ArcFace()(x, wrong, y, engine="fused")
    assert bits(refloss.ArcFace().value_and_grad(x, w, y, engine="fused")) == expected


PROCESSES = """
import multiprocessing, os, sys
import numpy as np
import refloss
from refloss.engines import fused

fused.TILE, fused.NARROWEST = 1, 64


def work(_=None):
    random = np.random.default_rng(0)
    x, w, y = random.standard_normal((40, 16)), random.standard_normal((700, 16)), random.integers(0, 700, 40)
    value, grad = refloss.ArcFace(s=30.0).value_and_grad(x, w, y, engine="fused")
    return value.tobytes() + grad.x.tobytes() + grad.w.tobytes()


if __name__ == "__main__":
    expected = work()
    if hasattr(os, "fork"):
        child = os.fork()
        if not child:
            os._exit(0 if work() == expected else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "a forked process"
        assert work() == expected
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(work, range(2)) == [expected] * 2, "spawned processes"
    print("the same bits")
"""


def test_forked_and_spawned_processes_give_the_same_bits(tmp_path):
    script = tmp_path / "processes.py"
    script.write_text(PROCESSES)
    found = subprocess.run(
        [sys.executable, script], env=path_to_refloss(), capture_output=True, text=True, check=False, timeout=300
    )
    assert found.stdout == "the same bits\n", found.stderr


def path_to_refloss(**more):
    """The environment of a process that is to import this refloss."""
    return os.environ | {"PYTHONPATH": str(Path(refloss.__file__).parents[1])} | more


def test_the_number_of_threads_and_no_cache_may_be_asked_for(tmp_path):
    code = (
        "import refloss; from refloss.engines import threads; print(threads.THREADS);"
        "print(refloss.SoftmaxLoss()([[1.0, 2.0]], [[1.0, 0.5], [0.25, 1.0]], [1], engine='fused'))"
    )
    place = {"REFLOSS_THREADS": "3", "REFLOSS_JIT_CACHE": "0", "NUMBA_CACHE_DIR": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=path_to_refloss(**place), capture_output=True, text=True, check=True
    )
    threads, value = found.stdout.split()
    assert threads == "3"
    expected = refloss.SoftmaxLoss()([[1.0, 2.0]], [[1.0, 0.5], [0.25, 1.0]], [1], engine="fused")
    assert float(value) == expected
    assert not list(tmp_path.iterdir())


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
    - Parts, five waiting and three merged: two pulls (N, D) and four vectors.
    - Class weights, their shares, β, an exponent, what a bias takes: eight vectors of C.
    - The narrow branch, projections and dL/dx in float64: 24 (N, D), some of them one after the other.
    """
    size = np.dtype(dtype).itemsize
    blocks = 2 * size * (2 * BLOCK * (d + 4) + 2 * n * BLOCK)
    parts = 8 * n * (2 * d * size + 4 * FLOAT)
    return blocks + parts + 8 * FLOAT * C + 24 * FLOAT * n * d


@pytest.mark.parametrize("loss", [refloss.ArcFace(), refloss.ASoftmax(), refloss.SoftmaxLoss()], ids=repr)
def test_value_and_gradients_take_one_buffer_of_all_logits(loss, peak):
    x, w, y = ordinary(N, C, D)
    for dtype in (np.float64, np.float32):
        given, out = (x.astype(dtype), w.astype(dtype), y), {"w": np.empty_like(w, dtype)}
        taken, _ = peak(lambda g=given, o=out: loss.value_and_grad(*g, engine="fused", out=o, dtype=o["w"].dtype))
        one = np.dtype(dtype).itemsize * N * C
        assert taken <= one + room(N, D, dtype) < 2 * one


def test_of_many_samples_no_more_is_kept_than_w_takes(peak, monkeypatch):
    n, d = 512, 16
    x, w, y = ordinary(n, C, d)
    for kept in (0, w.nbytes):
        monkeypatch.setattr(fused, "KEPT", kept)
        out = {"w": np.empty_like(w)}
        taken, _ = peak(lambda o=out: refloss.ArcFace().value_and_grad(x, w, y, engine="fused", out=o))
        assert taken <= w.nbytes + room(n, d) < FLOAT * n * C / 4


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_value_alone_and_the_gradient_of_x_alone_take_no_more_than_blocks(peak, dtype):
    x, w, y = (a.astype(dtype) if a.dtype.kind == "f" else a for a in ordinary(N, C, D))
    assert room(N, D, dtype) < np.dtype(dtype).itemsize * N * C
    value, alone = peak(lambda: refloss.ArcFace()(x, w, y, engine="fused", dtype=dtype))
    assert value <= room(N, D, dtype)
    taken, found = peak(lambda: refloss.ArcFace().value_and_grad(x, w, y, engine="fused", wrt="x", dtype=dtype))
    assert taken <= room(N, D, dtype)
    assert found[1].w is None
    assert found[0] == alone


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_value_takes_no_more_for_more_classes(peak, set_threads, monkeypatch, dtype):
    """Half a number a class at most: what a block means to four samples, and where it is."""
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
        given = np.memmap(tmp_path / "w", kind, "r", shape=(C, D))
        in_memory = np.array(given)
        into = np.memmap(tmp_path / "dw", np.float64, "w+", shape=(C, D))
        taken, (value, grad) = peak(lambda g=given, i=into: loss.value_and_grad(x, g, y, engine="fused", out={"w": i}))
        assert taken <= FLOAT * N * C + room(N, D)
        assert grad.w is into
        into.flush()
        expected = loss.value_and_grad(x, in_memory, y, engine="fused")
        assert bits((value, grad)) == bits(expected)
        written = np.fromfile(tmp_path / "dw").reshape(C, D)
        assert np.array_equal(written, expected[1].w)
        alone, _ = peak(lambda g=given: loss(x, g, y, engine="fused"))
        assert alone <= room(N, D)


# -------------------------------------------------------------------------------------------------------- wrt= and out=


@pytest.mark.parametrize(("engine", "dtype"), [("fused", np.float64), ("fused", np.float32), ("chain", np.float64)])
def test_only_what_is_wanted_comes_back_and_has_the_same_bits(engine, dtype):
    """With N up to D samples are one group whatever is wanted; a BLAS may round products of other groups otherwise."""
    x, w, y = ordinary(6, 9, 7)
    b = np.linspace(-1.0, 1.0, 9)
    for loss, inputs in ((refloss.ArcFace(), (x, w, y)), (refloss.SoftmaxLoss(label_smoothing=0.1), (x, w, y, b))):
        value, whole = loss.value_and_grad(*inputs, engine=engine, dtype=dtype)
        names = [name for name, part in whole._asdict().items() if part is not None]
        for wrt in (*names, names, names[:2], ("w",), names[1:], ()):
            found, grad = loss.value_and_grad(*inputs, engine=engine, wrt=wrt, dtype=dtype)
            chosen = {wrt} if isinstance(wrt, str) else set(wrt)
            assert {name for name, part in grad._asdict().items() if part is not None} == chosen
            assert all(np.array_equal(getattr(grad, name), getattr(whole, name)) for name in chosen)
            assert found == value
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
        (refloss.CrossEntropy(), {"z": x.reshape(2, 3, 4), "y": [[0, 1, 2], [3, 0, 1]]}),
        (refloss.Triplet(), {"anchor": x, "positive": x[::-1].copy(), "negative": w[:6]}),
    ):
        value, expected = loss.value_and_grad(**inputs, engine=engine)
        out = {name: room(array) for name, array in inputs.items() if name != "y"}
        found, grad = loss.value_and_grad(**inputs, engine=engine, out=out)
        assert found == value
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


# ------------------------------------------------------------------------------------------------------------- refusals

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
    for loss in (refloss.ArcFace(), refloss.ASoftmax(), refloss.SoftmaxLoss()):
        if isinstance(loss, refloss.SoftmaxLoss) and np.isfinite(w).all():  # to which zeros are a class like any other
            found, expected = (loss.value_and_grad(x, w, y, engine=engine) for engine in ("fused", "chain"))
            np.testing.assert_allclose(found[0], expected[0], rtol=64 * U, atol=0.0)
            np.testing.assert_allclose(found[1].w, expected[1].w, rtol=0.0, atol=64 * U)
            continue
        with pytest.raises(ValueError, match=r"^w must ") as expected:
            loss(x, w, y, engine="chain")
        for call in (loss, loss.value_and_grad):
            with pytest.raises(ValueError, match=r"^w must ") as caught:
                call(x, w, y, engine="fused", dtype=dtype)
            assert str(caught.value) == str(expected.value)


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


LONGEST = float(np.finfo(np.float32).max)


def float32_keeps_its_bound(loss, *inputs, upstream=None):
    """Compare fused in float32 with certified, by error_bound; return the true gradients and their bounds."""
    how = {"engine": "fused", "dtype": np.float32, "upstream": upstream}
    found, bound = loss.value_and_grad(*inputs, **how), refloss.error_bound(loss, *inputs, **how)
    true = loss.value_and_grad(*inputs, engine="certified", upstream=upstream)
    assert checks.rounded_share(found[0], true[0], bound[0], LONGEST) <= 1.0
    for entries in zip(found[1], true[1], bound[1], strict=True):
        assert entries[0] is None or checks.rounded_share(*entries, LONGEST) <= 1.0
    return true[1], bound[1]


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
    given = [np.asarray(it, np.float32 if np.asarray(it).dtype.kind == "f" else np.int64) for it in inputs]
    float32_keeps_its_bound(loss, *given)


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


def test_short_classes_beside_a_block_of_zeros_are_left_to_the_chain(monkeypatch):
    in_blocks(monkeypatch, 2)
    random = np.random.default_rng(0)
    x = (random.standard_normal((2, 3)) * 1e30).astype(np.float32)
    w = np.concatenate([np.zeros((2, 3)), random.standard_normal((2, 3)) * 1e-40]).astype(np.float32)
    float32_keeps_its_bound(refloss.SoftmaxLoss(), x, w, [3, 0], upstream=1e20)


def test_exponentials_keep_what_was_rounded_off():
    """2u of exp, which NumPy keeps below an ulp, and one rounding each of 1 + low and of the product."""
    high, low = np.array([-700.0, -30.5, -1.0, 0.25]), np.array([5e-14, -1.5e-15, 1e-16, 2e-17])
    with mp.workdps(40):
        for found, one, other in zip(fused.exp_of(high, low), high, low, strict=True):
            true = mp.exp(mpf(float(one)) + mpf(float(other)))
            assert abs(mpf(float(found)) / true - 1) <= 4.01 * U


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


# --------------------------------------------------------------------------------------------------- which engine it is


@pytest.fixture
def loaded(monkeypatch):
    """Names of the engines that are loaded."""
    found = []

    def spy(name):
        if name != "refloss.engines.kernels.jit":
            found.append(name.rpartition(".")[2])
        return sys.modules.get(name) or __import__(name, fromlist=["_"])

    monkeypatch.setattr(dispatch, "import_module", spy)
    return found


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
        found = refloss.ArcFace().value_and_grad(x, w, y, engine="fused")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bits(found) == bits(refloss.ArcFace().value_and_grad(x, w, y, engine="chain"))
        value, grad = refloss.ArcFace().value_and_grad(x, w, y, engine="auto", dtype=np.float32)
        room = np.empty_like(w, np.float32)
        again = refloss.ArcFace().value_and_grad(x, w, y, engine="fused", dtype=np.float32, wrt="w", out={"w": room})
    assert value == np.float32(found[0])
    assert value.dtype == grad.w.dtype == np.float32
    assert np.array_equal(grad.w, found[1].w.astype(np.float32))
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


def test_targets_without_room_go_to_the_chain():
    """Smoothing of 1e-100 is far below what exponentials may be multiplied by."""
    z, loss = np.array([[1.0, 2.0, 0.5]]), refloss.CrossEntropy(label_smoothing=1e-100)
    assert bits(loss.value_and_grad(z, [1], engine="fused")) == bits(loss.value_and_grad(z, [1], engine="chain"))
