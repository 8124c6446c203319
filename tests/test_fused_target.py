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
