"""Logits: cross entropy of logits of any size and kind, in one sweep."""

from __future__ import annotations

import numpy as np
import pytest

import refloss
from support.fused_cases import ENDS, SINGLE, U, bits, check_against_certified

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
OPTIONS = [
    {"z_loss": 0.5},
    {"logit_scale": 0.5, "label_smoothing": 0.1},
    {"softcap": 2.0},
    {"softcap": 2.0, "z_loss": 0.5, "class_weight": (1.0, 0.0, -2.0)},
    {"softcap": 2.0, "label_smoothing": 0.1},
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
            result = loss.value_and_grad(z, y, engine="fused", dtype=dtype)
            said = f"{row} {y}"
            np.testing.assert_allclose(result[0], expected[0], rtol=rtol, atol=0.0, err_msg=said)
            np.testing.assert_allclose(result[1].z, expected[1].z, rtol=0.0, atol=4.0 * rtol, err_msg=said)
            assert not result[1].z[expected[1].z == 0.0].any(), said
            np.testing.assert_array_equal(loss(z, y, engine="fused", dtype=dtype), result[0])


@pytest.mark.parametrize(("dtype", "u"), [(np.float64, U), (np.float32, SINGLE)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_with_options_they_come_out_as_of_the_chain_too(options, reduction, dtype, u):
    """Numbers within 24u + 16u S, S up to 7, of terms up to 32: losses up to 4, squares of log-sum-exps up to 3."""
    loss = refloss.CrossEntropy(reduction=reduction, **options)
    for row in ROWS:
        z = np.array([row], dtype)
        for y in (*([label] for label in range(3)), *([soft] for soft in SOFT)):
            followed = {"upstream_lse": np.array([0.5])}
            expected = loss.value_and_grad(z, y, engine="chain", **followed)
            result = loss.value_and_grad(z, y, engine="fused", dtype=dtype, **followed)
            for ours, theirs in ((result[0], expected[0]), (result[1].z, expected[1].z)):
                atol = (24.0 + 16.0 * 7.0) * 32.0 * u
                np.testing.assert_allclose(ours, theirs, rtol=0.0, atol=atol, err_msg=f"{row} {y}")
            np.testing.assert_array_equal(loss(z, y, engine="fused", dtype=dtype), result[0])


@pytest.mark.parametrize(("dtype", "u"), [(np.float64, U), (np.float32, SINGLE)])
def test_targets_that_are_far_apart_hide_none(dtype, u):
    """8u of |t_k| q_k + p_k Σ |t_j| over j ≠ k: at a largest logit with the target 1, 1 - p is nothing, and Σ small."""
    loss, z = refloss.CrossEntropy(), np.array([[80.0, 1.0, 0.0]], dtype)
    for y in ([1.0, 1e-10, -3e-10], [-1.0, 1e-10, 3e-10]):
        y = np.array([y], dtype)  # noqa: PLW2901
        rest = float(y[0, 1]) + float(y[0, 2])
        result = loss.value_and_grad(z, y.astype(np.float64), engine="fused", dtype=dtype)[1].z[0, 0]
        assert abs(float(result) - rest) <= 8.0 * u * 4e-10


def test_nan_at_a_class_that_weighs_nothing_is_nan():
    loss = refloss.CrossEntropy(class_weight=(0.0, 1.0, 1.0), reduction="sum")
    for dtype in (np.float64, np.float32):
        value, grad = loss.value_and_grad([[np.nan, 1.0, 2.0], [1.0, 1.0, 1.0]], [0, 2], engine="fused", dtype=dtype)
        assert np.isnan(value)
        assert np.isnan(grad.z[0]).all()
        assert np.isfinite(grad.z[1]).all()
        assert loss([[-np.inf, 1.0, 2.0]], [0], engine="fused", dtype=dtype) == 0.0


@pytest.mark.parametrize("upstream", ENDS)
@pytest.mark.parametrize("soft", [False, True])
def test_upstream_gradients_of_logits_near_the_ends_of_the_range(upstream, soft):
    z = np.array([[0.0, 1.0, -200.0], [3.0, -700.0, 2.0]])
    y = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]) if soft else [0, 2]
    for loss in (refloss.CrossEntropy(), refloss.CrossEntropy(reduction="none", label_smoothing=0.1)):
        of_loss = upstream if loss.reduction == "mean" else [upstream, 1.0]
        check_against_certified(loss, z, y, upstream=of_loss)


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


def test_targets_without_room_go_to_the_chain():
    """Smoothing of 1e-100 is far below what exponentials may be multiplied by."""
    z, loss = np.array([[1.0, 2.0, 0.5]]), refloss.CrossEntropy(label_smoothing=1e-100)
    assert bits(loss.value_and_grad(z, [1], engine="fused")) == bits(loss.value_and_grad(z, [1], engine="chain"))


@pytest.mark.parametrize(
    ("options", "followed", "dtype"),
    [
        ({"softcap": 1e30}, {}, np.float64),
        ({"logit_scale": 1e-20}, {}, np.float32),
        ({"z_loss": 0.5}, {"upstream": 1e200}, np.float64),
        ({}, {"upstream": 1e-200, "upstream_lse": [1.0, 1.0]}, np.float64),
        ({"logit_scale": 1e5}, {}, np.float32),
    ],
)
def test_options_without_room_are_left_to_the_chain(options, followed, dtype):
    """A scale and a cap far out, upstream gradients with exponents of their own, logits that overflow once scaled."""
    loss, z, y = refloss.CrossEntropy(**options), np.array([[0.5, 1e30], [1.0, -2.0]]), [1, 0]
    z = z if "logit_scale" in options else np.minimum(z, 3.0)
    value, grad = loss.value_and_grad(z, y, engine="fused", dtype=dtype, **followed)
    true, exactly = loss.value_and_grad(z, y, engine="chain", **followed)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(value, true.astype(dtype))
        np.testing.assert_array_equal(grad.z, exactly.z.astype(dtype))
