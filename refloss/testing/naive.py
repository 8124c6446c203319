r"""ArcFace as many repositories write it: no model to follow, but the code that `refloss demo` examines.

The pattern stands in much public code (ElasticFace and pytorch-metric-learning among it): divide by the norm,
matrix product, clip, arccos, add the margin, cos, one-hot select. The lines are our own. On ordinary inputs they are
right. These are their defects, where u is the roundoff of float64:

- The cosine determines an angle θ only to u/θ, and the slope of arccos multiplies that by 1/sin θ: the error of the
  loss grows as u/θ, that of the gradient as u/θ². At 1e-8 no digit is right. Near π it is the same with π - θ.
- Where a cosine rounds to exactly 1, the slope of arccos is infinite. Subtracting the part along x̂ from an infinite
  gradient is inf - inf, so the row is NaN. It need not even be the target's cosine: 0 · inf is NaN too.
- Where a cosine rounds to more than 1, the clip silently stops the target's gradient.
- A confident loss is log(1 + less than u), which is 0 and not 1e-35. With p_y rounded to 1 the target's gradient is 0
  too, while the other classes keep theirs.
- ‖v‖² overflows for lengths from 1e154 on and underflows below 1e-154.

Beyond θ + m = π there is no rule, as in the paper's formula; that is a convention, not an error.

Symbols: embeddings x (N, D); class weights w (C, D); labels y (N,); cosines c (N, C); scale s; margin m in radians.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refloss.error_free import Array


def arcface(x: Any, w: Any, y: Any, s: float = 64.0, m: float = 0.5) -> float:
    """Return the mean loss; see `arcface_value_and_grad`."""
    return arcface_value_and_grad(x, w, y, s, m)[0]


def arcface_value_and_grad(x: Any, w: Any, y: Any, s: float = 64.0, m: float = 0.5) -> tuple[float, Array, Array]:
    r"""Compute ArcFace the usual way, and follow the chain rule back through exactly those steps, as autograd would.

    $$c = \frac{x}{\lVert x\rVert}\cdot\frac{w}{\lVert w\rVert}, \qquad
    z = s\,\bigl(h\cos(\arccos c + m) + (1 - h)\,c\bigr), \qquad L = -\frac1N\sum_n\log p_{ny_n}$$

    with h the one-hot labels. $d\arccos c = -1/\sqrt{1-c^2}$; the derivative of the clip is 1 inside and at its bounds,
    0 outside, as in PyTorch.

    Parameters
    ----------
    x
        Embeddings (N, D).
    w
        Class weights (C, D).
    y
        Labels (N,).
    s
        Scale.
    m
        Margin in radians.

    Returns
    -------
    tuple of float, Array, Array
        The mean loss, dL/dx (N, D) and dL/dw (C, D); NaN and inf as they come.
    """
    x, w, y = np.asarray(x, np.float64), np.asarray(w, np.float64), np.asarray(y)
    with np.errstate(all="ignore"):  # a division by 0 shows in the results
        length_x, length_w = np.linalg.norm(x, axis=1, keepdims=True), np.linalg.norm(w, axis=1, keepdims=True)
        unit_x, unit_w = x / length_x, w / length_w
        cosine = unit_x @ unit_w.T
        clipped = np.clip(cosine, -1.0, 1.0)
        phi = np.arccos(clipped) + m
        one_hot = np.eye(len(w))[y]
        z = s * (one_hot * np.cos(phi) + (1.0 - one_hot) * cosine)
        shifted = z - z.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        loss = -log_p[np.arange(len(y)), y].mean()

        d_z = (np.exp(log_p) - one_hot) / len(y)
        d_phi = s * d_z * one_hot * -np.sin(phi)
        d_clipped = d_phi * (-1.0 / np.sqrt(1.0 - clipped**2))
        d_cosine = s * d_z * (1.0 - one_hot) + np.where(np.abs(cosine) <= 1.0, d_clipped, 0.0)
        d_x = _through_division(d_cosine @ unit_w, x, length_x)
        d_w = _through_division(d_cosine.T @ unit_x, w, length_w)
    return float(loss), d_x, d_w


def _through_division(upstream: Array, v: Array, length: Array) -> Array:
    """Backward of v / ‖v‖: through the numerator, and through the norm in the denominator."""
    d_length = -(upstream * v).sum(axis=1, keepdims=True) / length**2
    return np.asarray(upstream / length + d_length * v / length)
