"""The naive ArcFace: right where inputs are ordinary, and wrong in exactly the ways its docstring says."""

import numpy as np
import pytest

import refloss
from refloss.testing.naive import arcface, arcface_value_and_grad


@pytest.fixture(params=range(4))
def ordinary(request):
    random = np.random.default_rng(request.param)
    return random.normal(size=(6, 8)), random.normal(size=(5, 8)), random.integers(5, size=6)


def norm_error(result, truth):
    return np.linalg.norm(result - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("settings", [{}, {"s": 4.0}, {"s": 30.0, "m": 0.2}, {"m": 0.0}])
def test_agrees_with_refloss_on_ordinary_inputs(ordinary, settings):
    truth, gradient = refloss.ArcFace(**settings).value_and_grad(*ordinary)
    value, x, w = arcface_value_and_grad(*ordinary, **settings)
    # Logits of at most 64 carry some 64 u, angles here some 10 u / sin^2: 1e-12 is 9000 u.
    assert value == pytest.approx(truth, rel=1e-12)
    assert norm_error(x, gradient.x) < 1e-12
    assert norm_error(w, gradient.w) < 1e-12
    assert arcface(*ordinary, **settings) == value


def test_takes_lists_and_float32():
    x, w, y = [[1.0, 2.0]], [[2.0, 1.0], [-1.0, 1.0]], [0]
    result = arcface_value_and_grad(np.float32(x), np.float32(w), y)
    assert result[0] == arcface(x, w, y)
    assert result[1].dtype == result[2].dtype == np.float64


@pytest.mark.parametrize("which", ["x", "w"])
def test_gradient_agrees_with_differences_of_its_own_value(ordinary, which):
    x, w, y = ordinary
    s, step = 4.0, 2.0**-12
    gradient = dict(zip("xw", arcface_value_and_grad(x, w, y, s)[1:], strict=True))[which]
    differences = np.empty_like(gradient)

    def moved(index, by):
        arrays = {"x": x.copy(), "w": w.copy()}
        arrays[which][index] += by * step
        return arcface(**arrays, y=y, s=s)

    for index in np.ndindex(gradient.shape):
        near, far = (moved(index, k) - moved(index, -k) for k in (1, 2))
        differences[index] = (8 * near - far) / (12 * step)
    # Truncation is step^4/30 times a fifth derivative, about 1e-16 of those s^5 could make; rounding is u L / step.
    assert np.abs(differences - gradient).max() < 1e-10


def others(count, size):
    return np.random.default_rng(0).normal(size=(count, size))


@pytest.mark.parametrize("factor", [3.0, -3.0])
def test_gradient_is_nan_where_the_cosine_is_exactly_one_or_minus_one(factor):
    x = np.ones((1, 4))
    w = np.vstack([factor * x, others(2, 4)])
    value, grad_x, grad_w = arcface_value_and_grad(x, w, [0], 4.0)
    assert np.isfinite(value)
    assert np.isnan(grad_x).all()
    assert np.isnan(grad_w[0]).all()
    assert np.isfinite(grad_w[1:]).all()


def test_gradient_is_nan_where_another_class_is_exactly_parallel():
    """0 · inf: the one-hot select multiplies the infinite derivative by 0."""
    x = np.ones((1, 4))
    w = np.vstack([others(1, 4), 3.0 * x])
    value, grad_x, _ = arcface_value_and_grad(x, w, [0], 4.0)
    assert np.isfinite(value)
    assert np.isnan(grad_x).all()
    assert np.isfinite(refloss.ArcFace(s=4.0).value_and_grad(x, w, [0])[1].x).all()


def test_clip_silently_stops_the_gradient_of_a_cosine_above_one():
    # The squares of the rounded 170 / n and 195 / n add up to 1 + 1.57 * 2^-52, which no order of rounding brings to 1.
    x = np.array([[170.0, 195.0]])
    w = np.array([[170.0 * 2**40, 195.0 * 2**40 + 1.0], [1.0, -3.0]])
    unit_x, unit_w = x / np.linalg.norm(x), w[:1] / np.linalg.norm(w[0])
    assert (unit_x @ unit_w.T).item() > 1.0
    _, grad_x, grad_w = arcface_value_and_grad(x, w, [0], 4.0)
    truth = refloss.ArcFace(s=4.0).value_and_grad(x, w, [0])[1]
    assert (grad_w[0] == 0.0).all()
    assert np.linalg.norm(truth.w[0]) > 0.0
    assert norm_error(grad_x, truth.x) > 0.1


def test_confident_loss_and_its_target_gradient_are_zero():
    x = np.array([[1.0, 0.0, 0.0]])
    w = np.array([[1.0, 0.25, 0.0], [-1.0, 0.0, 0.5]])
    truth, gradient = refloss.ArcFace().value_and_grad(x, w, [0])
    value, _, grad_w = arcface_value_and_grad(x, w, [0])
    assert 0.0 < truth < 1e-30
    assert value == 0.0
    assert (grad_w[0] == 0.0).all()
    assert norm_error(grad_w[1], gradient.w[1]) < 1e-12


@pytest.mark.parametrize("length", [1e200, 1e-200])
def test_norms_over_and_underflow(length):
    x, w = np.array([[3.0, 4.0]]), np.array([[1.0, 2.0], [2.0, -1.0]])
    truth = refloss.ArcFace()(x * length, w, [0])
    assert truth == pytest.approx(arcface(x, w, [0]), rel=1e-12)
    assert arcface(x * length, w, [0]) != pytest.approx(truth, rel=0.1, nan_ok=True)
