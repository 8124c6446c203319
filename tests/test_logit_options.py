"""Logit scale, softcap, z-loss, and a gradient of the log-sum-exp: losses on logits with options, by every engine."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp

import refloss
from support import checks, strategies

ENGINES = ("chain", "dd", "fused")
EVERY = (*ENGINES, "certified")
INF, NAN = math.inf, math.nan


def needs(engine):
    if engine == "certified":
        pytest.importorskip("flint")


# ------------------------------------------------------------------------------------------ anything, by every engine


@st.composite
def on_logits(draw):
    """A loss with options, logits, labels or probabilities, and upstream gradients."""
    z = draw(strategies.logits())
    loss = draw(strategies.optional_losses(refloss.CrossEntropy, z.shape[1]))
    y = draw(strategies.labels(z, ignored=True) if draw(st.booleans()) else strategies.probabilities(z))
    if y.ndim == 1 and not np.isfinite(z).all():
        loss = replace(loss, label_smoothing=0.0)  # gives a masked class a target
    if y.ndim == 2 and draw(st.booleans()):
        y = -y
    return loss, (z, y), draw(strategies.upstreams(loss, len(z)))


@st.composite
def on_heads(draw):
    """The same behind a linear layer, with and without a bias."""
    classes = draw(st.integers(1, 5))
    loss = draw(strategies.optional_losses(refloss.SoftmaxLoss, classes))
    x, w, y = draw(strategies.heads(loss, classes, ignored=True, lengths=False))
    x = x * draw(st.sampled_from((1.0, 1.0, 8.0, 1e-3)))
    if draw(st.booleans()):
        y = draw(strategies.probabilities(x @ w.T))
    bias = (np.array(draw(st.lists(strategies.QUARTERS, min_size=classes, max_size=classes))),)
    return loss, (x, w, y, *(bias if draw(st.booleans()) else ())), draw(strategies.upstreams(loss, len(x)))


@pytest.mark.parametrize("engine", EVERY)
@given(case=on_logits())
@settings(max_examples=60)
def test_cross_entropy_with_any_options(engine, case):
    needs(engine)
    loss, inputs, followed = case
    checks.against_exact(loss, *inputs, engine=engine, **followed)


@pytest.mark.parametrize("engine", EVERY)
@given(case=on_heads())
@settings(max_examples=40)
def test_a_linear_head_with_any_options(engine, case):
    needs(engine)
    loss, inputs, followed = case
    checks.against_exact(loss, *inputs, engine=engine, **followed)


def as_float32(array):
    array = np.asarray(array)
    return array if array.dtype.kind == "i" else array.astype(np.float32).astype(np.float64)


@given(case=on_logits())
@settings(max_examples=60)
def test_cross_entropy_with_any_options_in_float32(case):
    loss, inputs, followed = case
    inputs = tuple(as_float32(array) for array in inputs)
    checks.against_exact(loss, *inputs, engine="fused", dtype=np.float32, **followed)


@given(case=on_heads())
@settings(max_examples=40)
def test_a_linear_head_with_any_options_in_float32(case):
    loss, inputs, followed = case
    inputs = tuple(as_float32(array) for array in inputs)
    checks.against_exact(loss, *inputs, engine="fused", dtype=np.float32, **followed)


# -------------------------------------------------------------------------------------------------------- hard places


def both(engine, loss, *inputs, **followed):
    needs(engine)
    checks.against_exact(loss, *inputs, engine=engine, **followed)


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("k", [1, 10, 24, 40, 53, 70, 300])
def test_a_target_that_is_almost_certain_under_a_cap(engine, k):
    """p_y = 1 - 2^-k: a gap of k log 2 between capped logits, which only a cap above half of that leaves."""
    cap = max(2.0, k * math.log(2.0))
    with mp.workdps(40):
        logit = float(cap * mp.atanh(k * mp.log(2) / (2 * cap)))
    loss = refloss.CrossEntropy(softcap=cap)
    z = np.array([[logit, -logit], [-logit, logit]])
    both(engine, loss, z, [0, 1])
    both(engine, replace(loss, z_loss=1e-4), z, [0, 1], upstream=-2.0, upstream_lse=np.array([1.0, -0.5]))
    assert float(loss(z, [0, 1], engine=engine)) == pytest.approx(math.log1p(2.0**-k), rel=1e-10)


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("ratio", [5.0, 6.7, 10.0, 19.0, 20.0, 40.0, 300.0, 371.0, 373.0, 1e5, 1e300])
@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_saturated_logits_have_the_slope_that_is_left(engine, ratio, cap):
    """1 - tanh² is 0 from 19 K on in float64; the truth is e^-38, down to what float64 can hold."""
    size = min(ratio * cap, 1e307)
    z = np.array([[size, -size, 1.0], [-size, 0.25, size], [size, size, size]])
    for loss in (refloss.CrossEntropy(softcap=cap), refloss.CrossEntropy(softcap=cap, z_loss=0.5, label_smoothing=0.1)):
        both(engine, loss, z, [1, 2, 0], upstream_lse=np.array([0.5, 0.0, -1.0]))


@pytest.mark.parametrize("engine", ENGINES)
def test_slopes_that_underflow_alone_come_back_with_the_upstream_gradient(engine):
    """e^-760 is 0 in float64, and 1e300 e^-760 is 1e-30."""
    loss, z = refloss.CrossEntropy(softcap=1.0), np.array([[380.0, 0.0]])
    _, grad = loss.value_and_grad(z, [1], engine="certified", upstream=1e300)
    bound = refloss.error_bound(loss, z, [1], engine=engine, upstream=1e300)[1].z
    result = loss.value_and_grad(z, [1], engine=engine, upstream=1e300)[1].z
    assert 0.0 < grad.z[0, 0] < 1e-20
    assert (np.abs(result - grad.z) <= bound).all()
    if engine != "fused":  # which may round a slope below the smallest normal number to 0
        assert result[0, 0] == pytest.approx(grad.z[0, 0], rel=16.0 * checks.U)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_exponentials_times_slopes_may_underflow_where_neither_does(engine, dtype):
    """p = 1 and a slope of 1e-320, p = e^-600 and one of 1e-200, times 1e300: numbers, or 0 by what a bound allows."""
    if dtype is np.float32 and engine != "fused":
        pytest.skip("float32 is of fused alone")
    below = -0.5 * math.log(0.7 * np.finfo(dtype).tiny)  # the slope is four times exp(-2 ratio)
    for cap, ratio, upstream in ((300.0, 231.0, 1e300), (1.0, 369.0, 1e300), (40.0, 40.0, 1e35), (0.5, below, 1.0)):
        size = float(np.float32(cap * ratio))
        for y in ([0, 1], [1, 0]):
            checks.against_exact(
                refloss.CrossEntropy(softcap=cap, reduction="sum"),
                np.array([[size, -size, 0.5 * size], [0.0, size, -size]]),
                y,
                engine=engine,
                dtype=dtype,
                upstream=upstream,
            )


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize(
    ("sigma", "cap", "size"),
    [
        (1e-200, 1.0, 1e200),
        (1e150, 30.0, 1e-150),
        (1e-3, 1e-200, 1e-200),
        (1.0, 1e200, 1.0),
        (1e-200, 1e-200, 1.0),
        (1.0, 1e-30, 1e30),
        (1e200, 1e200, 1e-200),
        (5e-324, 1.0, 5e307),
        (1.0, 5e-324, 1.0),
        (1.0, 1.7e308, 1e3),
    ],
)
def test_settings_at_the_ends_of_the_range(engine, sigma, cap, size):
    z = size * np.array([[0.5, -1.0, 2.0], [1.0, 1.0, 0.0]])
    loss = refloss.CrossEntropy(logit_scale=sigma, softcap=cap, reduction="sum", z_loss=0.25)
    both(engine, loss, z, [0, 2], upstream=-0.5, upstream_lse=np.array([1.0, -2.0]))


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("weight", [1e-300, 1e-20, 1e20, 1e290])
def test_z_losses_of_any_weight(engine, weight):
    z = np.array([[0.5, -1.0, 2.0], [700.0, 1.0, 0.0]])
    for reduction in ("mean", "none"):
        loss = refloss.CrossEntropy(z_loss=weight, reduction=reduction)
        both(engine, loss, z, [0, 2], upstream=-0.5 if reduction == "mean" else np.array([1.0, -0.5]))


@pytest.mark.parametrize("engine", EVERY)
def test_a_log_sum_exp_next_to_0(engine):
    """log C - log C: what is left of it is all that its slope is made of, and absolute."""
    z = np.full((2, 4), -math.log(4.0))
    z[1, 0] = 3.0
    both(engine, refloss.CrossEntropy(z_loss=1.0), z, [0, 1])
    both(engine, refloss.CrossEntropy(z_loss=1.0, reduction="none"), z, [0, 1], upstream=np.array([1.0, 0.0]))


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("upstream", [1e-300, 1e300, 5e-324])
def test_upstream_gradients_at_the_ends_of_the_range(engine, upstream):
    """Next to one of the log-sum-exp of ordinary size, and one that is as far out on the other side."""
    z = np.array([[0.5, -1.0, 2.0], [70.0, 1.0, 0.0]])
    for of_lse in ([1.0, -2.0], [1.0 / max(upstream, 1e-300), 0.0], [upstream, upstream]):
        for loss in (refloss.CrossEntropy(), refloss.CrossEntropy(softcap=5.0, z_loss=0.5)):
            both(engine, loss, z, [0, 2], upstream=upstream, upstream_lse=np.array(of_lse))


FAR_OUT = {
    "a scale whose gradient overflows before short classes": (
        refloss.SoftmaxLoss(logit_scale=1e300, z_loss=1e-4),
        ([[0.5, -0.75]], [[1.5e-300, -1.25e-300], [3e-301, -1e-300]], [0]),
        {"upstream": -0.25, "upstream_lse": [-5e299]},
    ),
    "a cap and a scale that make slopes underflow": (
        refloss.CrossEntropy(logit_scale=1e-300, softcap=1e-300, z_loss=1.0, reduction="none"),
        ([[12.0], [40.0]], [0, 0]),
        {"upstream": [-2e214, -6e214], "upstream_lse": [2e30, -5e28]},
    ),
    "a probability below the normal numbers": (
        refloss.CrossEntropy(z_loss=1e-4),
        ([[614.0, 1329.0], [0.0, -730.0]], [0, 0]),
        {"upstream": 1.0, "upstream_lse": [2e300, 1e300]},
    ),
    "a z-loss that overflows": (
        refloss.CrossEntropy(logit_scale=0.3, z_loss=1e300, reduction="none"),
        ([[-450.0, 1326.0, -39.0], [-INF, -1295.0, -1152.0]], [0, 1]),
        {"upstream": [-4e14, -5e14], "upstream_lse": [-3e229, -5e230]},
    ),
    "one class of zeros under a cap far below all": (
        refloss.SoftmaxLoss(logit_scale=1e30, softcap=1e-300, z_loss=1.0, reduction="sum"),
        ([[0.75], [-2.0]], [[0.0]], [0, 0]),
        {"upstream": 1e-300, "upstream_lse": [-1e299, 5e299]},
    ),
    "a z-loss behind a scale far out": (
        refloss.SoftmaxLoss(logit_scale=1e300, softcap=1.0, z_loss=1e30, label_smoothing=0.1, reduction="sum"),
        ([[0.5, -0.0625]], [[-6e-301, 5.5e-301]], [0]),
        {"upstream": -0.25, "upstream_lse": [1e30]},
    ),
}
"""Gradients that fit where products on the way to them do not."""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", FAR_OUT)
def test_products_that_do_not_fit_on_the_way_to_gradients_that_do(name, engine):
    needs("certified")
    loss, inputs, followed = FAR_OUT[name]
    followed = {key: np.array(each) for key, each in followed.items()}
    against_certified(loss, inputs, followed, engine)


def against_certified(loss, inputs, followed, engine, dtype=np.float64):
    """Within error_bound; no NaN and no warning on the way."""
    truth = loss.value_and_grad(*inputs, engine="certified", **followed)
    result = loss.value_and_grad(*inputs, engine=engine, dtype=dtype, **followed)
    bound = refloss.error_bound(loss, *inputs, engine=engine, dtype=dtype, **followed)
    parts = [("value", result[0], truth[0], bound[0])]
    parts += [(name, *each) for name, *each in zip(result[1]._fields, result[1], truth[1], bound[1], strict=True)]
    for name, *each in parts:
        part = 0.0 if each[0] is None else checks.rounded_share(*each, float(np.finfo(dtype).max))
        assert part <= 1.0, f"{loss}: {name} is off by {part:.3g} times what error_bound allows"


def size_of(random):
    return float(random.choice([1.0, 1.0, 1e-300, 1e300, 1e-30, 1e30, 10.0 ** random.uniform(-300.0, 300.0)]))


def far_out(random):
    """A loss, its inputs and upstream gradients, of which any may be at the ends of its range, and logits anywhere."""
    n, c = int(random.integers(1, 4)), int(random.integers(1, 5))
    kind = refloss.SoftmaxLoss if random.random() < 0.3 else refloss.CrossEntropy
    options = {
        "reduction": str(random.choice(["mean", "sum", "none"])),
        "label_smoothing": float(random.choice([0.0, 0.0, 0.1, 1.0])),
        "logit_scale": float(random.choice([1.0, 0.3, size_of(random)])),
        "softcap": [None, 30.0, 1.0, size_of(random)][random.integers(4)],
        "z_loss": float(random.choice([0.0, 0.0, 1e-4, 1.0, size_of(random)])),
    }
    if random.random() < 0.3:
        options["class_weight"] = tuple(random.standard_normal(c) * random.choice([1.0, 1e200, 1e-200]))
    knee = min((options["softcap"] or 1.0) / options["logit_scale"] * random.choice([0.01, 1.0, 20.0, 300.0]), 1e300)
    y = random.integers(0, c, n)
    y[random.random(n) < 0.1] = -100
    if random.random() < 0.3:
        y = random.standard_normal((n, c)) * random.choice([1.0, 1e200])
    if kind is refloss.CrossEntropy:
        z = random.standard_normal((n, c)) * random.choice([1.0, 30.0, 1000.0, knee, size_of(random)])
        z[random.random((n, c)) < 0.05] = random.choice([-INF, INF, NAN])
        inputs = z, y
    else:
        d = int(random.integers(1, 4))
        x, w = random.standard_normal((n, d)), random.standard_normal((c, d)) * random.choice([1.0, 10.0, knee])
        inputs = (x, w, y, *((random.standard_normal(c),) if random.random() < 0.5 else ()))
    shape = n if options["reduction"] == "none" else ()
    followed = {"upstream": np.asarray(random.standard_normal(shape) * size_of(random))}
    if random.random() < 0.5:
        followed["upstream_lse"] = random.standard_normal(n) * size_of(random)
    return kind(**options), inputs, followed


def test_anything_at_the_ends_of_the_range():
    """What certified cannot round (a tie, but for e^-1e30) or another engine has no room for (logits) is left out."""
    needs("certified")
    random, compared = np.random.default_rng(11), 0
    while compared < 250:
        with np.errstate(over="ignore", under="ignore"):
            loss, inputs, followed = far_out(random)
        for engine in ENGINES:
            try:
                against_certified(loss, inputs, followed, engine)
            except ArithmeticError:
                break
            except ValueError as error:
                assert "float64 can hold" in str(error)  # noqa: PT017
        else:
            compared += 1


# ------------------------------------------------------------------------------------------- rows that do not count


def bits(result):
    value, gradients = result
    return [np.asarray(part).tobytes() for part in (value, *checks.as_dict(gradients).values())]


HEAD = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.25]]), np.array([[1.0, 0.0], [0.25, 1.0], [-1.0, 0.5], [0.5, 2.0]])


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}, {"z_loss": 0.5}, {"softcap": 2.0, "z_loss": 0.5}])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_ignored_rows_count_for_nothing_and_are_not_looked_at(engine, options, reduction):
    """Neither their logits nor their upstream gradient of the log-sum-exp; "mean" divides by the others."""
    needs(engine)
    random = np.random.default_rng(1)
    z, y, of_lse = random.standard_normal((4, 3)), np.array([0, -100, 2, -100]), np.array([1.0, 1e300, -0.5, 7.0])
    z[1], z[3] = NAN, [INF, 1.0, 1e308]
    loss = refloss.CrossEntropy(reduction=reduction, **options)
    upstream = np.array([1.0, 3.0, -1.0, 2.0]) if reduction == "none" else -1.5
    value, grad = loss.value_and_grad(z, y, upstream=upstream, upstream_lse=of_lse, engine=engine)
    of_kept = upstream[::2] if reduction == "none" else upstream
    alone = loss.value_and_grad(z[::2], y[::2], upstream=of_kept, upstream_lse=of_lse[::2], engine=engine)
    assert not grad.z[1::2].any()
    assert np.array_equal(grad.z[::2], alone[1].z)
    assert np.array_equal(value[::2] if reduction == "none" else value, alone[0])
    assert reduction != "none" or not value[1::2].any()


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_rows_may_be_ignored(engine, reduction):
    needs(engine)
    options = {"reduction": reduction, "softcap": 2.0, "z_loss": 0.5, "logit_scale": 0.5}
    y, of_lse = np.full(3, -100), np.array([1.0, 2.0, 3.0])
    for loss, inputs in (
        (refloss.CrossEntropy(**options), (np.full((3, 4), NAN), y)),
        (refloss.SoftmaxLoss(**options), (np.full((3, 2), NAN), HEAD[1], y, np.ones(4))),
    ):
        value, grad = loss.value_and_grad(*inputs, upstream_lse=of_lse, engine=engine)
        expected = {"mean": NAN, "sum": 0.0, "none": np.zeros(3)}[reduction]
        assert np.array_equal(value, expected, equal_nan=True)
        assert not any(part.any() for part in checks.as_dict(grad).values())


@pytest.mark.parametrize("engine", EVERY)
def test_weights_that_add_up_to_0_have_no_mean_whatever_the_z_loss(engine):
    """The loss is infinite, as without a z-loss; a row term has no say in it, and the gradient is NaN."""
    needs(engine)
    z, y = np.array([[0.3, -1.0, 2.0], [1.0, 0.2, -0.7]]), np.array([0, 1])
    for options in ({}, {"z_loss": 0.5}, {"softcap": 2.0}, {"softcap": 2.0, "z_loss": 0.5}):
        loss = refloss.CrossEntropy(class_weight=(-1.0, 1.0, 0.5), **options)
        value, grad = loss.value_and_grad(z, y, engine=engine)
        assert np.isinf(value)
        assert value == loss(z, y, engine="chain")
        assert np.isnan(grad.z).all()
        weightless = refloss.CrossEntropy(class_weight=(0.0, 0.0, 0.5), **options)
        value, grad = weightless.value_and_grad(z, y, engine=engine)
        assert np.isnan(value)
        assert np.isnan(grad.z).all()


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_class_weight_counts_for_a_z_loss(engine, reduction):
    """A row of weight 0 has its z-loss, and its gradient; "mean" divides it by the number of rows."""
    z, y = np.array([[0.3, -1.0, 2.0], [1.0, 0.2, -0.7], [0.5, 0.5, 0.25]]), np.array([0, 1, 2])
    loss = refloss.CrossEntropy(class_weight=(0.0, 2.0, -0.5), z_loss=0.5, reduction=reduction, softcap=4.0)
    both(engine, loss, z, y, upstream=np.array([1.0, -2.0, 0.5]) if reduction == "none" else 1.5)
    x, w = HEAD
    loss = refloss.SoftmaxLoss(class_weight=(0.0, 2.0, -0.5, 1.0), z_loss=0.5, reduction=reduction)
    both(engine, loss, x, w, y, upstream=np.array([1.0, -2.0, 0.5]) if reduction == "none" else 1.5)


# --------------------------------------------------------------------------------- equal to its parts, where these are


def random_logits(seed=0):
    random = np.random.default_rng(seed)
    return 3.0 * random.standard_normal((6, 5)), random.integers(0, 5, 6)


OTHERS = [
    {},
    {"reduction": "sum", "label_smoothing": 0.1},
    {"reduction": "none", "class_weight": (1.0, 0.5, 2.0, 0.0, -1.0)},
]


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("others", OTHERS, ids=str)
@pytest.mark.parametrize("sigma", [0.0625, 1.0, 8.0])
def test_a_scale_of_a_power_of_two_is_the_loss_of_scaled_logits(engine, others, sigma):
    """The scale is exact, and so is that of the gradient: bit for bit, but for what sums in another order round."""
    needs(engine)
    z, y = random_logits()
    value, grad = refloss.CrossEntropy(logit_scale=sigma, **others).value_and_grad(z, y, engine=engine)
    plain, of_plain = refloss.CrossEntropy(**others).value_and_grad(sigma * z, y, engine=engine)
    assert np.array_equal(value, plain)
    assert np.array_equal(grad.z, sigma * of_plain.z)


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("kind", [refloss.CrossEntropy, refloss.SoftmaxLoss])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_options_that_do_nothing_change_no_bit(engine, kind, dtype):
    needs(engine)
    if dtype is np.float32 and engine != "fused":
        pytest.skip("float32 is of fused alone")
    z, y = random_logits(1)
    inputs = (z, y) if kind is refloss.CrossEntropy else (z, random_logits(2)[0][:5], y)
    for others in ({}, {"reduction": "sum", "label_smoothing": 0.1}):
        plain = bits(kind(**others).value_and_grad(*inputs, engine=engine, dtype=dtype))
        off = kind(logit_scale=1.0, softcap=None, z_loss=0.0, **others)
        assert off == kind(**others)
        assert bits(off.value_and_grad(*inputs, engine=engine, dtype=dtype)) == plain
        assert bits(kind(**others).value_and_grad(*inputs, engine=engine, dtype=dtype, upstream_lse=None)) == plain


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("options", [{}, {"z_loss": 0.25}, {"softcap": 3.0}], ids=str)
def test_an_upstream_gradient_of_0_changes_no_bit(engine, options):
    needs(engine)
    z, y = random_logits(3)
    for others in OTHERS:
        loss = refloss.CrossEntropy(**others, **options)
        value, grad = loss.value_and_grad(z, y, engine=engine)
        same = loss.value_and_grad(z, y, engine=engine, upstream_lse=np.zeros(6))
        assert np.array_equal(same[0], value)
        assert np.array_equal(same[1].z, grad.z)  # a zero may have another sign


@pytest.mark.parametrize("engine", EVERY)
def test_a_cap_that_no_logit_comes_near_changes_nothing(engine):
    """tanh(z/K) differs from z/K by (z/K)² / 3: nothing is left of that at K = 1e30, whatever a logit is made from."""
    needs(engine)
    z, y = random_logits(4)
    value, grad = refloss.CrossEntropy(softcap=1e30).value_and_grad(z, y, engine=engine)
    plain, of_plain = refloss.CrossEntropy().value_and_grad(z, y, engine=engine)
    u = checks.U * (24.0 + 16.0 * (1.0 + np.abs(z).max()))  # what fused promises; the others have the bits
    assert value == pytest.approx(plain, rel=u if engine == "fused" else 2.0 * checks.U)
    np.testing.assert_allclose(grad.z, of_plain.z, rtol=2.0 * u if engine == "fused" else 4.0 * checks.U, atol=0.0)


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("level", [0.0, 1.5, -2.0])
def test_a_z_loss_of_equal_logits(engine, level):
    """lse = level + log C; the value is log C and λ lse² more, the gradient that of the plain loss and 2λ lse / C."""
    needs(engine)
    z, y = np.full((2, 8), level), [0, 5]
    loss = refloss.CrossEntropy(z_loss=0.25)
    value, grad = loss.value_and_grad(z, y, engine=engine)
    lse = level + math.log(8.0)
    assert value == pytest.approx(math.log(8.0) + 0.25 * lse**2, rel=32.0 * checks.U)
    expected = (np.full((2, 8), 0.125) - np.eye(8)[y] + 2.0 * 0.25 * lse / 8.0) / 2.0
    np.testing.assert_allclose(grad.z, expected, rtol=0.0, atol=32.0 * checks.U)
    plain = refloss.CrossEntropy()(z, y, engine=engine)
    exactly = 0.25 * refloss.logsumexp(z)[0] ** 2
    assert value - plain == pytest.approx(exactly, rel=32.0 * checks.U * (1.0 + plain / exactly))


@pytest.mark.parametrize("engine", EVERY)
def test_without_an_upstream_gradient_of_the_value_there_is_that_of_the_log_sum_exp(engine):
    """u p: 16u of itself, see the promise of options."""
    needs(engine)
    z, y = random_logits(5)
    of_lse = np.array([1.0, -2.0, 0.0, 0.5, 1e-3, 3.0])
    for loss in (refloss.CrossEntropy(), refloss.CrossEntropy(z_loss=0.5), refloss.CrossEntropy(label_smoothing=0.2)):
        _, grad = loss.value_and_grad(z, y, upstream=0.0, upstream_lse=of_lse, engine=engine)
        np.testing.assert_allclose(grad.z, of_lse[:, None] * refloss.softmax(z), rtol=48.0 * checks.U, atol=0.0)


@pytest.mark.parametrize("engine", EVERY)
def test_a_z_loss_is_an_upstream_gradient_of_2_lambda_lse(engine):
    """32u of the terms of both."""
    needs(engine)
    z, y = random_logits(6)
    _, grad = refloss.CrossEntropy(z_loss=0.5, reduction="sum").value_and_grad(z, y, engine=engine)
    followed = {"upstream_lse": refloss.logsumexp(z), "engine": engine}
    _, other = refloss.CrossEntropy(reduction="sum").value_and_grad(z, y, **followed)
    size = refloss.softmax(z) * (2.0 + np.abs(refloss.logsumexp(z)))[:, None] + 1.0
    assert (np.abs(grad.z - other.z) <= 64.0 * checks.U * size).all()


@pytest.mark.parametrize("engine", EVERY)
def test_probabilities_of_a_linear_head_that_are_one_hot_are_labels(engine):
    needs(engine)
    x, w = HEAD
    y = np.array([0, 2, 3])
    for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.5, "softcap": 2.0}):
        loss = refloss.SoftmaxLoss(**options)
        of_labels = loss.value_and_grad(x, w, y, engine=engine)
        of_shares = loss.value_and_grad(x, w, np.eye(4)[y], engine=engine)
        bound = refloss.error_bound(loss, x, w, np.eye(4)[y], engine="fused" if engine == "fused" else "chain")
        assert of_shares[0] == pytest.approx(of_labels[0], abs=2.0 * bound[0])
        for one, other, limit in zip(of_labels[1][:2], of_shares[1][:2], bound[1][:2], strict=True):
            assert (np.abs(one - other) <= 2.0 * limit).all()


# ------------------------------------------------------------------------------------------------ shapes, traces, outs


@pytest.mark.parametrize("engine", EVERY)
def test_logits_of_more_axes_have_an_upstream_gradient_for_each_row(engine):
    needs(engine)
    random = np.random.default_rng(7)
    z, y, of_lse = random.standard_normal((2, 3, 4)), random.integers(0, 4, (2, 3)), random.standard_normal((2, 3))
    loss = refloss.CrossEntropy(softcap=2.0, z_loss=0.25)
    value, grad = loss.value_and_grad(z, y, upstream_lse=of_lse, engine=engine)
    flat = loss.value_and_grad(z.reshape(6, 4), y.reshape(6), upstream_lse=of_lse.reshape(6), engine=engine)
    assert value == flat[0]
    assert np.array_equal(grad.z.reshape(6, 4), flat[1].z)


STAGES = ["softcap", "log_softmax", "logsumexp", "z_loss", "cross_entropy"]


def test_a_trace_holds_every_stage_of_the_options():
    z, y = random_logits(8)
    y[2] = -100
    loss = refloss.CrossEntropy(logit_scale=0.5, softcap=3.0, z_loss=0.25)
    of_lse = np.linspace(-1.0, 1.0, 6)
    steps = loss.trace(z, y, upstream_lse=of_lse)
    assert [name for name in steps if name in STAGES] == STAGES
    kept = y != -100
    capped = 3.0 * np.tanh(0.5 * z / 3.0)
    np.testing.assert_allclose(steps["softcap"].output[kept], capped[kept], rtol=8.0 * checks.U)
    lse = refloss.logsumexp(np.asarray(steps["softcap"].output))
    np.testing.assert_allclose(steps["logsumexp"].output[kept], lse[kept], rtol=8.0 * checks.U)
    np.testing.assert_allclose(steps["z_loss"].output[kept], 0.25 * lse[kept] ** 2, rtol=24.0 * checks.U)
    assert not np.asarray(steps["logsumexp"].output)[~kept].any()
    np.testing.assert_allclose(steps["z_loss"].gradient[kept], 0.2)
    expected = of_lse + 0.2 * 0.5 * lse
    np.testing.assert_allclose(steps["logsumexp"].gradient[kept], expected[kept], rtol=0.0, atol=32.0 * checks.U)
    assert "softcap" not in refloss.CrossEntropy(z_loss=1.0).trace(z, y)
    plain = refloss.CrossEntropy().trace(z, y)
    assert "z_loss" not in plain
    assert not plain["logsumexp"].gradient.any()


def test_a_trace_of_a_linear_head_has_them_too():
    x, w = HEAD
    steps = refloss.SoftmaxLoss(softcap=2.0, z_loss=0.5).trace(x, w, [0, 1, 2], upstream_lse=np.ones(3))
    assert [name for name in steps if name in STAGES] == STAGES
    assert steps["logsumexp"].output.shape == (3,)


@pytest.mark.parametrize("engine", EVERY)
def test_inputs_and_upstream_gradients_are_never_written_to(engine):
    needs(engine)
    z, y = random_logits(9)
    of_lse = np.linspace(-1.0, 1.0, 6)
    before = z.copy(), of_lse.copy()
    for array in (z, of_lse):
        array.flags.writeable = False
    refloss.CrossEntropy(softcap=3.0, z_loss=0.5).value_and_grad(z, y, upstream_lse=of_lse, engine=engine)
    assert np.array_equal(z, before[0])
    assert np.array_equal(of_lse, before[1])


@pytest.mark.parametrize("engine", EVERY)
def test_the_value_alone_has_the_bits_of_the_one_with_gradients(engine):
    needs(engine)
    z, y = random_logits(10)
    for options in ({"softcap": 3.0}, {"z_loss": 0.25}, {"logit_scale": 0.3}):
        for others in OTHERS:
            loss = refloss.CrossEntropy(**others, **options)
            assert np.array_equal(loss(z, y, engine=engine), loss.value_and_grad(z, y, engine=engine)[0])


def test_losses_with_options_print_them():
    assert repr(refloss.CrossEntropy(softcap=30.0, z_loss=1e-4)) == "CrossEntropy(softcap=30.0, z_loss=0.0001)"
    assert repr(refloss.SoftmaxLoss(logit_scale=0.0625)) == "SoftmaxLoss(logit_scale=0.0625)"
    assert refloss.CrossEntropy(softcap=30) == refloss.CrossEntropy(softcap=30.0)
