r"""ArcFace as most repositories write it: the patient, not the doctor.

The pattern is the commonest of those found in public code, divide, matrix product, clip, arccos, one-hot select (profile
N4 of our survey); the code is our own. On ordinary inputs it is right. What is wrong with it, u being the roundoff:

- An arccos knows a small angle θ only to u/θ, and its derivative is $-1/\sqrt{1-c^2}$: the error of the loss grows as
  u/θ, that of the gradient as u/θ², and near π the same with π - θ. At 1e-8 nothing of the gradient is left.
- Where the cosine c rounds to exactly 1 the derivative is infinite, and projecting it onto the tangent plane is inf - inf:
  the whole gradient is NaN. One column of a batch is enough, a target's or not (0 · inf).
- Where it rounds to more than 1 the clip stops the gradient of the target without a word.
- $\log\sum e^{z_k - M}$ of a confident row is log(1 + less than u) = 0: a loss of 1e-35 is 0. Its $p_y - 1$ is 0 too, and so the
  target gets no gradient while the other classes still get theirs.
- ‖v‖² over- and underflows for lengths beyond 1e154 and below 1e-162.
- Past θ + m = π it has no rule, like the paper's formula; that is a convention and no error.

Symbols: embeddings x (N, D); class weights w (C, D); labels y (N,); cosines c (N, C); target angles θ; scale s; margin m.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refloss.error_free import Array


def arcface(x: Any, w: Any, y: Any, s: float = 64.0, m: float = 0.5) -> float:
    """Return the mean loss; see `arcface_value_and_grad`."""
    return arcface_value_and_grad(x, w, y, s, m)[0]


def arcface_value_and_grad(
    x: Any, w: Any, y: Any, s: float = 64.0, m: float = 0.5
) -> tuple[float, Array, Array]:
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
    with np.errstate(all="ignore"):  # what comes of dividing by 0 is to be seen in the results
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
