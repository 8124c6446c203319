"""Budgets: never exceeded by correct implementations in the dtype, exceeded by wrong ones, and not far too wide.

The correct ones are torch in its own precision, textbook form, on ordinary inputs; refloss is the reference for
them. An entry of a budget that is as large as the row it belongs to decides nothing: it is left out of both tests.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

import refloss
from refloss.formats import FORMATS
from refloss.testing import budgets, errors
from refloss.testing.budgets import budget
from support import cases
from support.textbook import torch_logits

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}
HEADS = [loss for loss in cases.HEADS if loss.class_weight is None or len(loss.class_weight) == 5]
HEADS = [loss for loss in HEADS if not isinstance(loss, refloss.SubCenterArcFace)]  # these are among the right codes


def textbook(torch, loss, x, w, y):
    """A loss as public code writes it, in whatever precision x and w have."""
    if isinstance(loss, refloss.SoftmaxLoss):
        z = loss.logit_scale * (x @ w.T)
        z = z if loss.softcap is None else loss.softcap * torch.tanh(z / loss.softcap)
        terms = loss.z_loss * z.logsumexp(dim=1) ** 2
    else:
        z, terms = torch_logits(torch, loss, x, w, y)
    weight = None if loss.class_weight is None else torch.tensor(loss.class_weight, dtype=z.dtype)
    value = torch.nn.functional.cross_entropy(
        z, y, weight, reduction=loss.reduction, label_smoothing=loss.label_smoothing, ignore_index=loss.ignore_index
    )
    return value + terms.mean() if terms.any() else value


def ordinary(seed, dtype, n=6, c=5, d=16):
    """Inputs of a dtype, none of whose targets is near its class or opposite to it."""
    rng = np.random.default_rng(seed)
    while True:
        x, w = rng.normal(size=(n, d)), rng.normal(size=(c, d))
        x, w = (entry.astype(DTYPES[dtype]).astype(np.float64) for entry in (x, w))
        y = rng.integers(0, c, n)
        theta = refloss.NormFace().trace(x, w, y)["angle"].output
        if np.abs(np.cos(theta)).max() < 0.9:
            return x, w, y, rng.normal()


def run(torch, loss, dtype, x, w, y, upstream):
    """Value and gradients of the textbook form in a dtype, the upstream gradient as that dtype has it."""
    kind = getattr(torch, dtype)
    x, w = (torch.tensor(entry).to(kind).requires_grad_() for entry in (x, w))
    upstream = torch.tensor(upstream).to(kind)
    value = textbook(torch, loss, x, w, torch.tensor(y))
    value.backward(upstream)
    results = value.detach().double().numpy(), x.grad.double().numpy(), w.grad.double().numpy()
    return results, upstream.double().numpy()


def shares(loss, dtype, inputs, results, upstream):
    """Error over budget, and budget over error, of value, x and w; only what the budget decides."""
    value, grad = loss.value_and_grad(*inputs, upstream=upstream)
    allowed = budget(loss, *inputs, dtype=dtype, upstream=upstream)
    pairs = zip(results, (value, *grad[:2]), (allowed.value, *allowed.gradient[:2]), strict=True)
    exceeded, slack = [], []
    for theirs, ours, bound in pairs:
        size = np.abs(ours).max()
        decided = bound < size
        error = np.abs(theirs - ours)
        exceeded.append(np.max(error / bound, where=decided, initial=0.0))
        slack.append(np.max(bound) / max(np.max(error), 1e-300) if np.all(decided) else np.nan)
    return exceeded, slack


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", HEADS, ids=repr)
def test_a_correct_implementation_is_never_over_budget(torch, loss, dtype):
    for seed in range(3):
        for d in (4, 64):
            *inputs, upstream = ordinary(seed, dtype, d=d)
            results, upstream = run(torch, loss, dtype, *inputs, upstream)
            assert max(shares(loss, dtype, inputs, results, upstream)[0]) <= 1.0


@pytest.mark.parametrize("loss", [refloss.CosFace(), refloss.ArcFace(), refloss.ASoftmax(s=64.0)], ids=repr)
def test_a_budget_is_not_far_above_real_errors(torch, loss):
    slacks = []
    for seed in range(20):
        *inputs, upstream = ordinary(seed, "float32", n=8, c=20, d=64)
        theirs, upstream = run(torch, loss, "float32", *inputs, upstream)
        slacks.append(shares(loss, "float32", inputs, theirs, upstream)[1])
    value, *gradients = np.nanmedian(slacks, axis=0)
    assert value < 1000.0  # a mean is often near the truth by chance
    assert max(gradients) < 250.0


def _wrong(loss, inputs, upstream):
    """Defects, as results of a loss that has them."""
    x, w, y = inputs
    truth, grad = loss.value_and_grad(*inputs, upstream=upstream)
    for name, other in (
        ("m wrong by a thousandth", replace(loss, m=loss.m * 1.001)),
        ("s wrong by a thousandth", replace(loss, s=loss.s * 1.001)),
    ):
        value, gradient = other.value_and_grad(*inputs, upstream=upstream)
        yield name, (value, gradient.x, gradient.w)
    rounded = [np.round(entry * 2.0**9) / 2.0**9 for entry in (x, w)]
    value, gradient = loss.value_and_grad(*rounded, y, upstream=upstream)
    yield "inputs rounded to about ten bits", (value, gradient.x, gradient.w)
    one = grad.x.copy()
    one[np.unravel_index(np.abs(one).argmax(), one.shape)] *= 1.001
    yield "one entry wrong by a thousandth", (truth, one, grad.w)
    yield "no gradient", (truth, np.zeros_like(grad.x), np.zeros_like(grad.w))
    along = grad.w + 0.01 * w * np.abs(grad.w).max() / np.abs(w).max()
    yield "not projected", (truth, grad.x, along)


@pytest.mark.parametrize("loss", [refloss.CosFace(), refloss.ArcFace()], ids=repr)
def test_a_wrong_implementation_is_over_budget(loss):
    for seed in range(3):
        *inputs, upstream = ordinary(seed, "float32", n=8, c=20, d=64)
        for name, results in _wrong(loss, inputs, upstream):
            assert max(shares(loss, "float32", inputs, results, upstream)[0]) > 1.0, name
    detached, gradient = replace(refloss.ArcFace(), gradient="detached").value_and_grad(*inputs, upstream=upstream)
    results = (detached, gradient.x, gradient.w)
    assert max(shares(refloss.ArcFace(), "float32", inputs, results, upstream)[0]) > 1.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_on_logits(torch, dtype, reduction):
    rng, kind = np.random.default_rng(0), getattr(torch, dtype)
    z = (4.0 * rng.normal(size=(6, 7))).astype(DTYPES[dtype]).astype(np.float64)
    y = np.array([0, 1, -100, 3, 4, 5])
    upstream = rng.normal(size=6) if reduction == "none" else rng.normal()
    upstream = torch.tensor(upstream).to(kind).double().numpy()
    loss = refloss.CrossEntropy(reduction=reduction, label_smoothing=0.1)
    theirs = torch.tensor(z).to(kind).requires_grad_()
    their_loss = torch.nn.functional.cross_entropy(theirs, torch.tensor(y), reduction=reduction, label_smoothing=0.1)
    their_loss.backward(torch.tensor(upstream).to(kind))
    value, grad = loss.value_and_grad(z, y, upstream=upstream)
    allowed = budget(loss, z, y, dtype=dtype, upstream=upstream)
    assert (np.abs(their_loss.detach().double().numpy() - value) <= allowed.value).all()
    assert (np.abs(theirs.grad.double().numpy() - grad.z) <= allowed.gradient.z).all()
    assert allowed.gradient.z.shape == z.shape
    assert np.shape(allowed.value) == np.shape(value)
    assert not (np.abs(grad.z) <= allowed.gradient.z).all()  # no gradient at all is over budget


def test_probabilities_and_more_axes_on_logits():
    rng = np.random.default_rng(0)
    z, t = rng.normal(size=(2, 3, 4)), rng.dirichlet(np.ones(4), size=(2, 3))
    loss = refloss.CrossEntropy(reduction="none")
    allowed = budget(loss, z, t, dtype="float32")
    assert allowed.value.shape == (2, 3)
    assert allowed.gradient.z.shape == z.shape
    assert (allowed.value < 1e-4).all()


@pytest.mark.parametrize("bias", [False, True])
def test_the_plain_head_with_and_without_bias(torch, bias):
    *inputs, upstream = ordinary(0, "float32")
    loss, b = refloss.SoftmaxLoss(), np.linspace(-1.0, 1.0, 5).astype(np.float32)
    x, w = (torch.tensor(entry, dtype=torch.float32, requires_grad=True) for entry in inputs[:2])
    shift = torch.tensor(b * bias, requires_grad=True)
    value = torch.nn.functional.cross_entropy(x @ w.T + shift, torch.tensor(inputs[2]))
    value.backward(torch.tensor(upstream, dtype=torch.float32))
    if bias:
        inputs.append(b.astype(np.float64))
    upstream = float(np.float32(upstream))
    truth, grad = loss.value_and_grad(*inputs, upstream=upstream)
    allowed = budget(loss, *inputs, dtype="float32", upstream=upstream)
    assert abs(float(value.detach()) - truth) <= allowed.value
    assert (np.abs(x.grad.numpy() - grad.x) <= allowed.gradient.x).all()
    assert (np.abs(w.grad.numpy() - grad.w) <= allowed.gradient.w).all()
    if bias:
        assert (np.abs(shift.grad.numpy() - grad.b) <= allowed.gradient.b).all()
    else:
        assert allowed.gradient.b is None


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_triplets(torch, squared, reduction):
    rng = np.random.default_rng(3)
    inputs = [rng.normal(size=(5, 8)).astype(np.float32).astype(np.float64) for _ in range(3)]
    inputs[1][0] = inputs[0][0]  # a positive on its anchor
    inputs[2][1] = inputs[0][1] + 10.0  # one that keeps its margin
    tensors = [torch.tensor(entry, dtype=torch.float32, requires_grad=True) for entry in inputs]
    anchor, positive, negative = tensors
    near, far = ((anchor - other).pow(2).sum(1) for other in (positive, negative))
    if not squared:
        near, far = (torch.where(d > 0, d.clamp(min=1e-30).sqrt(), 0.0) for d in (near, far))
    rows = (near - far + 0.25).clamp(min=0)
    value = {"mean": rows.mean, "sum": rows.sum, "none": lambda: rows}[reduction]()
    value.backward(torch.ones_like(value))
    loss = refloss.Triplet(m=0.25, squared=squared, reduction=reduction)
    truth, grad = loss.value_and_grad(*inputs)
    allowed = budget(loss, *inputs, dtype="float32")
    assert (np.abs(value.detach().numpy() - truth) <= allowed.value).all()
    for tensor, ours, bound in zip(tensors, grad, allowed.gradient, strict=True):
        assert (np.abs(tensor.grad.numpy() - ours) <= bound).all()
    assert not all((np.abs(g) <= bound).all() for g, bound in zip(grad, allowed.gradient, strict=True))


@pytest.mark.parametrize("form", ["forward", "reverse", "jensen-shannon"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_divergences(torch, form, reduction, dtype):
    rng = np.random.default_rng(4)
    z, target = 2.0 * rng.normal(size=(2, 5, 8))
    z[0] = target[0] + 0.25
    inputs = [entry.astype(DTYPES[dtype]).astype(np.float64) for entry in (z, target)]
    tensors = [torch.tensor(entry).to(getattr(torch, dtype)).requires_grad_() for entry in inputs]
    log_q, log_p = (torch.log_softmax(tensor, 1) for tensor in tensors)
    log_m = torch.logaddexp(log_q, log_p) - np.log(2.0)

    def kl(log_p, log_q):
        return (log_p.exp() * (log_p - log_q)).sum(dim=1)

    by_form = {"forward": (log_p, log_q), "reverse": (log_q, log_p)}
    rows = kl(*by_form[form]) if form in by_form else (kl(log_p, log_m) + kl(log_q, log_m)) / 2
    value = {"mean": rows.mean, "sum": rows.sum, "none": lambda: rows}[reduction]()
    value.backward(torch.ones_like(value))
    loss = refloss.KLDivergence(form=form, reduction=reduction)
    truth, grad = loss.value_and_grad(*inputs)
    allowed = budget(loss, *inputs, dtype=dtype)
    assert (np.abs(value.detach().double().numpy() - truth) <= allowed.value).all()
    for tensor, ours, bound in zip(tensors, grad, allowed.gradient, strict=True):
        assert bound.shape == ours.shape
        assert (np.abs(tensor.grad.double().numpy() - ours) <= bound).all()
        assert not (np.abs(ours) <= bound).all()  # no gradient at all is over budget


def test_divergences_with_more_axes():
    z, target = np.random.default_rng(5).normal(size=(2, 2, 3, 4))
    allowed = budget(refloss.KLDivergence(reduction="none"), z, target, dtype="float32")
    assert allowed.value.shape == (2, 3)
    assert allowed.gradient.z.shape == allowed.gradient.target.shape == z.shape
    flat = budget(
        refloss.KLDivergence(reduction="none"), *(part.reshape(6, 4) for part in (z, target)), dtype="float32"
    )
    assert np.array_equal(flat.gradient.z, allowed.gradient.z.reshape(6, 4))


@pytest.mark.parametrize("form", ["forward", "reverse", "jensen-shannon"])
def test_budgets_of_divergences_shrink_along_their_ladder_and_with_the_difference(form):
    loss, (z, target) = refloss.KLDivergence(form=form), np.random.default_rng(6).normal(size=(2, 4, 5))
    for near in (z, target + 2.0**-12 * np.round(8.0 * z)):
        found = [budget(loss, near, target, dtype="float32", standard=s) for s in ("working", "stable", "relative")]
        for wide, narrow in pairwise(found):
            assert narrow.value <= wide.value
            assert all((a <= b).all() for a, b in zip(narrow.gradient, wide.gradient, strict=True))
        value, grad = loss.value_and_grad(near, target)
        assert found[-1].value < 0.01 * value
        assert (np.abs(grad.z) > 10.0 * found[-1].gradient.z).any()
    assert found[1].value > value  # the stable form says nothing there


def test_on_the_border_of_a_triplet_either_slope_will_do():
    anchor, positive, negative = [[0.0, 0.0]], [[0.5, 0.0]], [[0.0, 1.0]]
    loss = refloss.Triplet(m=0.75)
    _, grad = loss.value_and_grad(anchor, positive, negative)
    allowed = budget(loss, anchor, positive, negative, dtype="float32")
    assert (grad.positive == 0.0).all()
    assert allowed.gradient.positive[0, 0] >= 1.0


def test_ignored_rows_may_have_no_gradient_and_no_loss():
    *inputs, _ = ordinary(0, "float32")
    inputs[2][1] = -100
    for loss in (refloss.ArcFace(reduction="none"), refloss.SoftmaxLoss(reduction="none")):
        allowed = budget(loss, *inputs, dtype="float32")
        assert allowed.value[1] < 1e-30
        assert (allowed.gradient.x[1] < 1e-30).all()
        assert (allowed.gradient.x[0] > 1e-30).all()


def test_at_a_boundary_both_sides_are_allowed():
    theta = np.pi - 0.5
    x, w = [[1.0, 0.0]], [[np.cos(theta), np.sin(theta)], [0.0, 1.0]]
    loss = refloss.ArcFace(s=4.0, boundary="keep")
    jump = 4.0 * (1.0 - np.cos(0.5))
    apart = abs(replace(loss, boundary="none")(x, w, [0]) - jump - loss(x, w, [0]))
    assert budget(loss, x, w, [0], dtype="float32").value > 0.5 * jump - apart
    away = [[np.cos(theta - 0.1), np.sin(theta - 0.1)], [0.0, 1.0]]
    assert budget(loss, x, away, [0], dtype="float32").value < 1e-4
    kink = replace(loss, boundary="continuous", gradient="detached")
    assert (budget(kink, x, w, [0], dtype="float32").gradient.x > 0.0).all()


def test_the_dtype_has_to_be_one():
    *inputs, _ = ordinary(0, "float32")
    loss = refloss.CosFace()
    for dtype in ("float8", "tf32", None):
        with pytest.raises(ValueError, match="dtype: expected one of"):
            budget(loss, *inputs, dtype=dtype)


@pytest.mark.parametrize("add", ["accumulate", "sort"])
def test_a_sum_of_either_sign_loses_no_more_than_its_larger_half(add):
    rng, u = np.random.default_rng(0), 2.0**-24
    terms = rng.normal(size=(200, 64)).astype(np.float32)
    terms = np.sort(terms, axis=1) if add == "sort" else terms  # all negative terms first: the largest partial sums
    sums = np.add.accumulate(terms, axis=1)[:, -1].astype(np.float64)
    exact = terms.astype(np.float64)
    size, whole = np.abs(exact).sum(axis=1), np.abs(exact.sum(axis=1))
    lost = budgets.arithmetic("float32").sum_error(64, size, whole)
    assert (np.abs(sums - exact.sum(axis=1)) <= lost - u * size).all()  # no products here, so none are rounded
    assert (lost < 64 * u * size).all()


@pytest.mark.parametrize("m", [2.0, 3.0, 4.0, 7.0])
def test_the_terms_of_a_polynomial_are_those_of_its_coefficients(m):
    coefficients = np.polynomial.chebyshev.cheb2poly(np.eye(9)[int(m)])
    for cos in (-0.9, 0.0, 0.3, 1.0):
        terms = np.polynomial.Polynomial(np.abs(coefficients))
        value, slope = errors.polynomial_error(m, np.array(cos))
        assert np.isclose(value, (m + 2.0) * terms(abs(cos)), rtol=1e-12)
        assert np.isclose(slope, (m + 2.0) * terms.deriv()(abs(cos)), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_smooth_curve_has_no_leaps_in_any_dtype(dtype):
    """Roundings of float64 once passed for a leap there."""
    *inputs, _ = ordinary(0, dtype, d=64)
    u = FORMATS[dtype].u
    assert budget(refloss.NormFace(s=16.0), *inputs, dtype=dtype).value < 16.0 * 4.0 * 64.0 * u


def test_lower_precision_inside_is_allowed_only_if_said():
    *inputs, _ = ordinary(0, "float32")
    loss = refloss.CosFace()
    plain = budget(loss, *inputs, dtype="float32")
    for matmul in ("tf32", "bfloat16", "float16"):
        wider = budget(loss, *inputs, dtype="float32", matmul=matmul)
        assert wider.value > 2.0 * plain.value
        assert (wider.gradient.w > 2.0 * plain.gradient.w).all()
    sums = budget(loss, *inputs, dtype="float32", accumulate="float64")
    assert sums.value < plain.value
    half = budgets.arithmetic("float16")
    assert half.accumulated == 2.0**-24
    assert budgets.arithmetic("float16", "float16").accumulated == 2.0**-11
