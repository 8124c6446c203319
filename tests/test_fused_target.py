"""Target: the target logit and its gradients are those of the chain's stages."""

from __future__ import annotations

import numpy as np
import pytest

import refloss
from refloss.engines.fused.row_scaling import scaled
from refloss.engines.fused.target import linear_target, margin_target
from refloss.stages.softcap import UNCHANGED, Settings
from support.fused_cases import U, ordinary


@pytest.mark.parametrize("length", [1.0, 2.0**-300, 2.0**300])
@pytest.mark.parametrize("loss", [refloss.ArcFace(s=8.0), refloss.ASoftmax()], ids=repr)
def test_of_a_margin_head(loss, length):
    """An angle of the kernel and of the stage, each within a few roundings of pairs: the same float64 numbers."""
    x, w, y = ordinary(6, 9, 4)
    w[y[0]] = x[0] * (1.0 + 2.0**-50 * np.arange(4))  # nearly parallel
    x *= length
    rows = scaled(x, np.dtype(np.float64)), scaled(w[y], np.dtype(np.float64))
    target = margin_target(loss.spec, *rows)
    steps = loss.trace(x, w, y)
    psi = np.asarray(getattr(steps["margin"].output, "hi", steps["margin"].output))
    np.testing.assert_allclose(target.over_scale, psi, rtol=2 * U, atol=0.0)
    scale = np.linalg.norm(x / length, axis=1) * length if loss.spec.scale is None else loss.spec.scale
    np.testing.assert_allclose(target.logit.hi, psi * scale, rtol=16 * U, atol=0.0)
    dx, dw, dv = target.backward(np.ones(6))
    assert dv is None
    assert target.terms is None
    assert dx.shape == dw.shape == (6, 4)
    assert (np.abs((dx * rows[0].rows).sum(axis=1)) <= 16 * U * np.abs(dx * rows[0].rows).sum(axis=1)).all()  # across x
    assert (np.abs((dw * rows[1].rows).sum(axis=1)) <= 16 * U * np.abs(dw * rows[1].rows).sum(axis=1)).all()


FLOAT64 = np.dtype(np.float64)


def along_and_across(dx, x):
    """The parts of gradients along embeddings, as numbers, and across them."""
    unit = x / np.linalg.norm(x, axis=1)[:, None]
    along = (dx * unit).sum(axis=1)
    return along, dx - along[:, None] * unit


def test_of_a_margin_by_length():
    """Two lengths of six are beyond the bounds, where neither v nor the regularizer's term has a gradient."""
    x, w, y = ordinary(6, 9, 4)
    norm, inside = np.array([0.5, 1.5, 2.0, 2.5, 4.0, 1.25]), np.array([0.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    x *= (norm / np.linalg.norm(x, axis=1))[:, None]
    rows = scaled(x, FLOAT64), scaled(w[y], FLOAT64)
    target = margin_target(refloss.MagFace(l_a=1.0, u_a=3.0, s=8.0, boundary="none").spec, *rows)
    length, slope = np.clip(norm, 1.0, 3.0), (0.8 - 0.45) / 2.0
    phi = np.arccos((x * w[y]).sum(axis=1) / norm / np.linalg.norm(w[y], axis=1)) + 0.45 + slope * (length - 1.0)
    np.testing.assert_allclose(target.over_scale, np.cos(phi), rtol=0.0, atol=32 * U)
    dx, _, dv = target.backward(np.ones(6))
    np.testing.assert_allclose(dv, -np.sin(phi) * (0.8 - 0.45), rtol=0.0, atol=32 * U)
    along, across = along_and_across(dx, x)
    np.testing.assert_allclose(along, -np.sin(phi) * slope * inside, rtol=0.0, atol=32 * U)
    np.testing.assert_allclose(np.linalg.norm(across, axis=1), np.abs(np.sin(phi)) / norm, rtol=64 * U)
    np.testing.assert_allclose(target.terms.value, 35.0 * (length / 9.0 + 1.0 / length), rtol=8 * U)
    along, across = along_and_across(target.terms.dx, x)
    np.testing.assert_allclose(along, 35.0 * (1.0 / 9.0 - 1.0 / length**2) * inside, rtol=0.0, atol=35 * 16 * U)
    assert np.abs(across).max() <= 35 * 16 * U
    assert target.hard is None


@pytest.mark.parametrize("loss", [refloss.MagFace(l_a=1.0, u_a=1e6), refloss.AdaFace(mean=1e3, std=0.0, h=1.0)])
def test_lengths_count_as_they_came(loss):
    """2^34 is scaled by a power of two, which 2^16, between the bounds, is not."""
    x, w, y = ordinary(4, 9, 4)
    x *= (np.array([0.5, 2.0, 2.0**16, 2.0**34]) / np.linalg.norm(x, axis=1))[:, None]
    rows = scaled(x, FLOAT64), scaled(w[y], FLOAT64)
    assert list(rows[0].exponent == 0) == [True, True, True, False]
    target = margin_target(loss.spec, *rows)
    np.testing.assert_allclose(target.over_scale, loss.trace(x, w, y)["margin"].output, rtol=0.0, atol=4 * U)
    assert (target.terms is None) == isinstance(loss, refloss.AdaFace)
    if target.terms is None:  # v counts as a constant
        along, _ = along_and_across(target.backward(np.ones(4)).x, rows[0].rows)
        assert np.abs(along).max() <= 16 * U


@pytest.mark.parametrize("loss", [refloss.ArcFace(s=8.0), refloss.CosFace(s=8.0)], ids=repr)
def test_of_margins_given(loss):
    x, w, y = ordinary(6, 9, 4)
    m = np.linspace(-0.5, 1.0, 6)
    target = margin_target(loss._call(x, w, y, m).spec, scaled(x, FLOAT64), scaled(w[y], FLOAT64), m)
    theta = np.arccos((x * w[y]).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(w[y], axis=1))
    on_angle = isinstance(loss, refloss.ArcFace)
    psi, by_m = (np.cos(theta + m), -np.sin(theta + m)) if on_angle else (np.cos(theta) - m, -np.ones(6))
    np.testing.assert_allclose(target.over_scale, psi, rtol=0.0, atol=16 * U)
    np.testing.assert_allclose(target.backward(np.full(6, 2.0)).v, 2.0 * by_m, rtol=0.0, atol=32 * U)


@pytest.mark.parametrize("power", [0, 300])
@pytest.mark.parametrize("with_bias", [False, True])
def test_of_a_linear_head(power, with_bias):
    x, w, y = ordinary(5, 7, 3)
    b = np.linspace(-1.0, 1.0, 5) if with_bias else None
    rows = scaled(np.ldexp(x, power), np.dtype(np.float64)), scaled(np.ldexp(w[y], -power), np.dtype(np.float64))
    target = linear_target(*rows, b, UNCHANGED)
    logit = (x * w[y]).sum(axis=1) + (0.0 if b is None else b)
    np.testing.assert_allclose(target.logit.hi, logit, rtol=0.0, atol=16 * U)
    assert np.array_equal(target.over_scale, target.logit.hi)
    dz = np.arange(1.0, 6.0)
    dx, dw, _ = target.backward(dz)
    assert np.array_equal(dx, dz[:, None] * np.ldexp(w[y], -power))
    assert np.array_equal(dw, dz[:, None] * rows[0].rows)
    assert target.slope is None


@pytest.mark.parametrize("sigma", [1.0, 0.3])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_of_a_linear_head_with_options(sigma, cap):
    """The logit is a pair; the slope of the cap is relative to the scaled logit, and 8u off."""
    x, w, y = ordinary(5, 7, 3)
    b = np.linspace(-1.0, 1.0, 5)
    rows = scaled(x, np.dtype(np.float64)), scaled(w[y], np.dtype(np.float64))
    target = linear_target(*rows, b, Settings(sigma, cap))
    logit = sigma * ((x * w[y]).sum(axis=1) + b)
    expected = logit if cap is None else cap * np.tanh(logit / cap)
    np.testing.assert_allclose(target.logit.hi, expected, rtol=0.0, atol=16 * U)
    if cap is None:
        assert target.slope is None
    else:
        np.testing.assert_allclose(target.slope, 1.0 - np.tanh(logit / cap) ** 2, rtol=0.0, atol=32 * U)
