"""Inputs of public bug reports of 2025 and 2026: the truth on each, and what the installed releases return there.

The truth is mpmath's. Code that cannot be had, or that runs on several devices only, is written again from the report.
Where an installed release still differs from the truth, the test is a strict expected failure that names the release.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpmath import mp

import refloss
from refloss.testing import assert_close
from support import checks, exact
from support.checks import U
from support.real_code.adapters import cross_entropy, hugging_face, onnx_cross_entropy, onnx_reference, upcast
from support.real_code.kernels import liger_cross_entropy

CE, ROWS = refloss.CrossEntropy(), refloss.CrossEntropy(reduction="none")


def by_torch(fn: Callable[..., Any], dtype: str, z: Any, y: Any, upstream: Any = None) -> tuple[Any, Any]:
    """Value and gradient by autograd."""
    import torch

    logits = torch.tensor(z, dtype=getattr(torch, dtype), requires_grad=True)
    value = fn(logits, torch.tensor(y))
    value.backward(torch.ones_like(value) if upstream is None else torch.tensor(upstream, dtype=value.dtype))
    return value.detach(), logits.grad


# ------------------------------------------------------------------------- a confident target: PyTorch and TensorFlow

CONFIDENT, FIRST = np.array([[37.43, 0.0]]), np.array([0])


def test_a_confident_target_has_a_gradient():
    """1 - p is half a unit in the last place of 1, so 1 is what float64 has for p."""
    checks.against_exact(CE, CONFIDENT, FIRST)
    assert mp.nstr(exact.gradients(CE, CONFIDENT, FIRST)["z"][0, 0], 4) == "-5.551e-17"
    grad = CE.value_and_grad(CONFIDENT, FIRST)[1].z
    assert_close(CE, CONFIDENT, FIRST, dtype="float64", grad_z=grad, standard="relative")


@pytest.mark.xfail(raises=AssertionError, reason="torch 2.13.0 takes 1 from a probability of 1")
def test_a_confident_target_has_a_gradient_in_torch(torch):
    _, grad = by_torch(cross_entropy(), "float64", CONFIDENT, FIRST)
    assert_close(CE, CONFIDENT, FIRST, dtype="float64", grad_z=grad, standard="relative")


@pytest.mark.xfail(raises=AssertionError, reason="optax 0.2.8 takes 1 from a probability of 1")
def test_a_confident_target_has_a_gradient_in_optax(jax):
    optax = pytest.importorskip("optax")
    grad = jax.grad(lambda z: optax.softmax_cross_entropy_with_integer_labels(z, FIRST).sum())(CONFIDENT)
    assert_close(CE, CONFIDENT, FIRST, dtype="float64", grad_z=grad, standard="relative")


# -------------------------------------------------------- a large offset of all logits: MLX, optax, CuTe DSL in PyTorch

OFFSET = np.array([[1e8, 1e8]])


def test_an_offset_takes_nothing_from_the_loss():
    checks.against_exact(CE, OFFSET, FIRST)
    assert CE(OFFSET, FIRST) == math.log(2.0)
    with pytest.raises(AssertionError, match=r"expected 0\.693"):  # log of the sum, less the logit, in float32
        assert_close(CE, OFFSET, FIRST, dtype="float32", value=np.float32(0.0), standard="stable")


def test_an_offset_takes_nothing_from_the_loss_in_torch(torch):
    value, grad = by_torch(cross_entropy(), "float32", OFFSET, FIRST)
    assert_close(CE, OFFSET, FIRST, dtype="float32", value=value, grad_z=grad, standard="stable")


@pytest.mark.xfail(raises=AssertionError, reason="optax 0.2.8 takes the logit from the rounded log of the sum")
def test_an_offset_takes_nothing_from_the_loss_in_optax(jax):
    optax = pytest.importorskip("optax")
    value = optax.softmax_cross_entropy_with_integer_labels(np.float32(OFFSET), FIRST).mean()
    assert_close(CE, OFFSET, FIRST, dtype="float32", value=value, standard="stable")


# --------------------------------------------------------------------------------- a probability of 0: ONNX's evaluator

UNLIKELY = np.array([[0.0, 200.0]])


def test_an_unlikely_label_has_a_finite_loss():
    checks.against_exact(CE, UNLIKELY, FIRST)
    assert CE(UNLIKELY, FIRST) == 200.0


@pytest.mark.parametrize(
    "fn",
    [
        pytest.param(onnx_cross_entropy(), id="runtime"),
        pytest.param(
            onnx_reference(),
            id="evaluator",
            marks=pytest.mark.xfail(raises=AssertionError, reason="onnx 1.23.2: the log of a softmax"),
        ),
    ],
)
def test_an_unlikely_label_has_a_finite_loss_in_onnx(fn):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    with np.errstate(divide="ignore"):
        assert_close(CE, UNLIKELY, FIRST, dtype="float32", value=fn(UNLIKELY.astype(np.float32), FIRST))


# --------------------------------------------------------------------------- a mask after the loss of each token: Liger

TOKENS = np.array([[0.5, -1.0, 2.0], [3.0, 0.25, -2.0], [-0.5, 1.5, 1.0], [0.0, -4.0, 0.75]])
LABELS, MASK = np.array([2, 1, 0, 0]), np.array([1.0, 0.0, 1.0, 0.5])


def test_a_mask_comes_back_as_the_upstream_gradient():
    checks.against_exact(ROWS, TOKENS, LABELS, upstream=MASK)
    grad = ROWS.value_and_grad(TOKENS, LABELS, upstream=MASK)[1].z
    assert (grad[1] == 0.0).all()
    assert (grad[[0, 2, 3]] != 0.0).all()


def test_a_mask_comes_back_as_the_upstream_gradient_in_liger(torch):
    pytest.importorskip("triton")
    pytest.importorskip("liger_kernel")
    value, grad = by_torch(liger_cross_entropy(reduction="none"), "float32", TOKENS, LABELS, MASK)
    assert_close(ROWS, TOKENS, LABELS, dtype="float32", value=value, grad_z=grad, upstream=MASK)


# ------------------------------------------------------------ a softmax rounded before p - 1: Liger, TransformerEngine


def nearly_certain(p: float, classes: int = 4096) -> np.ndarray:
    """A row of logits, exact in bfloat16, whose first class has a probability close to p."""
    from refloss.formats import rounded

    z = np.zeros((1, classes))
    z[0, 0] = rounded(np.log(p / (1.0 - p) * (classes - 1.0)), "bfloat16")
    return z


@pytest.mark.parametrize(("p", "least", "most"), [(0.99, 0.1, 0.3), (0.999, 1.0, 1.0)])
def test_a_softmax_rounded_before_the_subtraction_loses_the_target(p, least, most):
    """Reported as errors of 20 % and 100 %; bfloat16 has 8 bits, and p - 1 keeps the error of p."""
    from ml_dtypes import bfloat16

    z = nearly_certain(p)
    truth = float(exact.gradients(CE, z, FIRST, entries={"z": [(0, 0)]})["z"][0, 0])
    rounded_p = np.float64(bfloat16(1.0 + truth))
    assert least <= abs(rounded_p - 1.0 - truth) / -truth <= most

    rounded_once = np.array(refloss.CrossEntropy().value_and_grad(z, FIRST)[1].z).astype(bfloat16)
    rounded_before = rounded_once.copy()
    rounded_before[0, 0] = bfloat16(rounded_p - 1.0)
    settings = {"dtype": "bfloat16", "standard": "mixed"}
    assert_close(CE, z, FIRST, grad_z=rounded_once.astype(np.float64), **settings)
    with pytest.raises(AssertionError, match=r"grad_z|dz"):
        assert_close(CE, z, FIRST, grad_z=rounded_before.astype(np.float64), **settings)


def test_a_softmax_is_not_rounded_before_the_subtraction_in_float32(torch):
    z = nearly_certain(0.999)
    _, grad = by_torch(upcast, "bfloat16", z, FIRST)
    assert_close(CE, z, FIRST, dtype="bfloat16", grad_z=grad, standard="mixed")


@pytest.mark.xfail(raises=AssertionError, reason="torch 2.13.0 stores log p of a bfloat16 row between its two kernels")
def test_a_softmax_is_not_rounded_before_the_subtraction_in_torch(torch):
    z = nearly_certain(0.99)
    _, grad = by_torch(cross_entropy(), "bfloat16", z, FIRST)
    assert_close(CE, z, FIRST, dtype="bfloat16", grad_z=grad, standard="mixed")


# ------------------------------------------------------------------------ classes in shards: Megatron, two devices each

SHARDS = 2
WIDE, WIDE_LABELS = np.random.default_rng(1).normal(size=(5, 8)), np.array([1, 6, 3, 0, 7])


def test_gathered_logits_that_are_summed_over_shards_add_log_of_their_number():
    """Every device has all logits, and the sum of exponentials is added up over the devices once more."""
    checks.against_exact(ROWS, WIDE, WIDE_LABELS)
    truth = ROWS(WIDE, WIDE_LABELS)
    summed = np.log(SHARDS * np.exp(WIDE).sum(axis=1)) - WIDE[np.arange(5), WIDE_LABELS]
    assert np.abs(summed - truth - math.log(SHARDS)).max() <= 64.0 * U  # a sum of 8, two logs, losses up to 5
    with pytest.raises(AssertionError, match="value"):
        assert_close(ROWS, WIDE, WIDE_LABELS, dtype="float64", value=summed)


def test_smoothing_is_over_all_classes_and_not_over_those_of_a_shard():
    """Each device smooths by eps / (K - 1) and the mean of log p over its own K classes, and has a loss of its own."""
    smoothed = refloss.CrossEntropy(label_smoothing=0.1, reduction="none")
    checks.against_exact(smoothed, WIDE, WIDE_LABELS)
    log_p = np.asarray(refloss.log_softmax(WIDE))
    k = WIDE.shape[1] // SHARDS
    eps = 0.1 * k / (k - 1)
    target = log_p[np.arange(5), WIDE_LABELS]
    losses = [-(1.0 - eps) * target - eps * own.mean(axis=1) for own in np.split(log_p, SHARDS, axis=1)]
    assert (np.abs(losses[0] - losses[1]) > 0.01).all()
    for each in losses:
        with pytest.raises(AssertionError, match="value"):
            assert_close(smoothed, WIDE, WIDE_LABELS, dtype="float64", value=each)
    whole = -0.9 * target - 0.1 * log_p.mean(axis=1)
    assert_close(smoothed, WIDE, WIDE_LABELS, dtype="float64", value=whole)


# ------------------------------------------------------------------- a batch in parts: PyTorch's DTensor, Transformers

WEIGHT = (1.0, 0.25, 4.0)
HALVES = (slice(0, 2), slice(2, 4))


def test_a_weighted_mean_over_shards_divides_by_all_weights(torch):
    """The mean of the shards' own weighted means is another number, by per cents."""
    weighted = refloss.CrossEntropy(class_weight=WEIGHT)
    checks.against_exact(weighted, TOKENS, LABELS)
    f, z, y, v = torch.nn.functional, torch.tensor(TOKENS), torch.tensor(LABELS), torch.tensor(WEIGHT).double()
    means = sum(f.cross_entropy(z[part], y[part], weight=v) for part in HALVES) / 2
    sums = sum(f.cross_entropy(z[part], y[part], weight=v, reduction="sum") for part in HALVES)
    assert abs(means - weighted(TOKENS, LABELS)) > 0.01 * weighted(TOKENS, LABELS)
    with pytest.raises(AssertionError, match="value"):
        assert_close(weighted, TOKENS, LABELS, dtype="float64", value=means)
    assert_close(weighted, TOKENS, LABELS, dtype="float64", value=sums / v[y].sum())


def test_accumulated_losses_are_those_of_the_whole_batch(torch):
    """Parts with 1 and 2 labels that count: the mean of their means gives the first half too much weight."""
    pytest.importorskip("transformers")
    y = np.array([2, -100, 0, 0])
    checks.against_exact(CE, TOKENS, y)
    loss, z, labels = hugging_face("fixed_cross_entropy"), torch.tensor(TOKENS), torch.tensor(y)
    means = sum(loss(z[part], labels[part]) for part in HALVES) / 2
    parts = sum(loss(z[part], labels[part], num_items_in_batch=(labels != -100).sum()) for part in HALVES)
    assert abs(means - CE(TOKENS, y)) > 0.01 * CE(TOKENS, y)
    with pytest.raises(AssertionError, match="value"):
        assert_close(CE, TOKENS, y, dtype="float64", value=means)
    assert_close(CE, TOKENS, y, dtype="float64", value=parts)


# The report of OLMo-core, in which a z-loss stays in the loss although it is switched off, belongs here as soon as a
# loss of refloss has a z-loss.
