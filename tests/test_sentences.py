"""Sentences of pages that no displayed formula holds: each tried where an earlier wording was wrong."""

from __future__ import annotations

import numpy as np
import pytest

import refloss
from refloss.testing import check


def test_beyond_a_bound_uniface_may_be_below_cosface():
    """UniFace: its sum is never less than the loss of CosFace, but only while no bound acts."""
    x, w, y = [[1.0, 0.0]], [[-1.0, 0.0], [1.0, 0.0]], [0]  # a target opposite to x, and another class on it
    uniface, cosface = refloss.UniFace(s=4.0, m=0.25), refloss.CosFace(s=4.0, m=0.25)
    assert uniface(x, w, y, 0.0) < cosface(x, w, y)
    near = [[0.1, 1.0], [0.2, 1.0]]  # within the bounds
    assert uniface(x, near, y, 0.0) > cosface(x, near, y)


def test_where_descent_turns_depends_on_the_other_class():
    """ArcFace: beside an opposite centre at π - m/2, beside one at right angles to the plane at π - m."""
    loss = refloss.ArcFace(s=4.0, m=0.5)
    opposite, apart = [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]
    for other, turn in ((opposite, np.pi - 0.25), (apart, np.pi - 0.5)):
        for theta, sign in ((turn - 1e-3, 1.0), (turn + 1e-3, -1.0)):
            x = np.array([[np.cos(theta), np.sin(theta), 0.0]])
            slope = loss.value_and_grad(x, [[1.0, 0.0, 0.0], other], [0])[1].x[0] @ [-np.sin(theta), np.cos(theta), 0.0]
            assert np.sign(slope) == sign


def test_a_shared_lead_leaves_the_loss_of_a_choice():
    """Modified softmax: two that lead alike leave log 2, however long the embedding."""
    w = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    values = [refloss.ModifiedSoftmax()([[length, 0.0]], w, [0]) for length in (1.0, 10.0, 100.0)]
    assert values[0] > values[1] > values[2] >= np.log(2)
    assert abs(values[2] - np.log(2)) < 1e-15


def _arcface(x, w, y, s=64.0, m=0.5):
    """ArcFace as its page says how to write it, from {arcface-residual} to the three habits."""
    rows, n = np.arange(len(y)), len(y)
    largest_x, largest_w = (np.abs(v).max(axis=1, keepdims=True) for v in (x, w))
    x, w = x / largest_x, w / largest_w
    length_x, length_w = (np.linalg.norm(v, axis=1, keepdims=True) for v in (x, w))
    x, w = x / length_x, w / length_w

    cosine = x @ w.T
    c, own = cosine[rows, y][:, None], w[y]
    r_x, r_w = own - c * x, x - c * own
    sin_x, sin_w = (np.linalg.norm(r, axis=1, keepdims=True) for r in (r_x, r_w))
    t_x, t_w = (r / np.where(sine > 0.0, sine, 1.0) for r, sine in ((r_x, sin_x), (r_w, sin_w)))
    z = s * cosine
    z[rows, y] = s * (c * np.cos(m) - sin_x * np.sin(m))[:, 0]

    z -= z.max(axis=1, keepdims=True)
    e = np.exp(z)
    without_largest, others = e.copy(), e / e.sum(axis=1, keepdims=True)
    without_largest[rows, z.argmax(axis=1)] = others[rows, y] = 0.0
    loss = np.mean(np.log1p(without_largest.sum(axis=1)) - z[rows, y])

    a = s / n * others
    pull = s / n * others.sum(axis=1, keepdims=True) * (sin_x * np.cos(m) + c * np.sin(m))
    dx = a @ w - (a * cosine).sum(axis=1)[:, None] * x - pull * t_x
    dw = a.T @ x - (a * cosine).sum(axis=0)[:, None] * w
    np.subtract.at(dw, y, pull * t_w)
    return loss, dx / length_x / largest_x, dw / length_w / largest_w


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arcface_as_its_page_says_meets_the_strictest_standard(dtype):
    """With nothing but float64, or float32: no pairs, no arccos."""
    with np.errstate(all="ignore"):  # vectors of zeros have no direction
        settings = {"standard": "relative", "shapes": [(9, 7, 13), (2, 2, 3)]}
        report = check(_arcface, refloss.ArcFace(), dtype=dtype, **settings)
    assert report.state == "conforms", str(report)
