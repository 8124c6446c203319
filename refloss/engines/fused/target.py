r"""Target: the narrow branch, from each sample's embedding and its own class to the target logit z_y, in float64.

These are the stages of the chain, forward and backward. With one number per sample, the accuracy of the target costs
little compared with N x C logits.

Symbols: N samples; D entries of a vector; x (N, D) embeddings; w = W[y] (N, D); s the scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refloss.engines.fused.row_scaling import ScaledRows, ldexp_rows
from refloss.engines.kernels import pairs
from refloss.error_free import Array, Pair, high, ldexp, plain, sqrt
from refloss.stages import angle, logits, margin, softcap

NEARLY_PARALLEL = 2.0**-80
"""Square of the sine of an angle below which it is left to the stage."""


class Target(NamedTuple):
    """The target of each sample, and the way back from it."""

    logit: Pair
    """z_y (N,)."""
    over_scale: Array
    """z_y / s (N,)."""
    backward: Callable[[Array], tuple[Array, Array]]
    """From s dL/dz_y (N,) to the gradients of x and of w, both as they were scaled (N, D)."""
    slope: Array | None = None
    """The slope of a cap at z_y (N,); None without a cap."""


def margin_target(settings: margin.Settings, scale: float | None, x: ScaledRows, w: ScaledRows) -> Target:
    """Return the target of a margin head, s times psi(theta); without a scale, s is the length of x."""
    theta, saved_angle = _angle(x, w)
    psi, saved_margin = margin.forward(theta, settings)
    exponent_x = np.zeros(len(x.rows), np.int32) if x.exponent is None else x.exponent
    s, exponent = logits.scale_of(scale, Pair.of(saved_angle.length_x), exponent_x)

    def backward(dz: Array) -> tuple[Array, Array]:
        dx, dw = angle.backward(margin.backward(dz, saved_margin)[0], saved_angle)
        return plain(dx), plain(dw)

    return Target(ldexp(psi * s, exponent), psi.hi, backward)


def linear_target(x: ScaledRows, w: ScaledRows, b: Array | None, settings: softcap.Settings) -> Target:
    """Return the target of a linear head, w·x + b, scaled and capped; its classes count as they are, not scaled."""
    hi, lo = np.empty(len(x.rows)), np.empty(len(x.rows))
    pairs.vecdot(x.rows, w.rows, hi, lo)
    logit = Pair(hi * x.factor * w.factor, lo * x.factor * w.factor)
    logit = logit if b is None else logit + b
    logit = logit if settings.logit_scale == 1.0 else logit * settings.logit_scale
    slope = None
    if settings.softcap is not None:
        logit, saved = softcap.forward(logit, softcap.Settings(softcap=settings.softcap))
        slope = high(plain(saved.slope))

    def backward(dz: Array) -> tuple[Array, Array]:
        return ldexp_rows(dz[:, None] * w.rows, w.exponent), dz[:, None] * x.rows

    return Target(logit, logit.hi, backward, slope)


def _angle(x: ScaledRows, w: ScaledRows) -> tuple[angle.Angle, angle.Saved]:
    """Return what `angle.forward` returns, from a kernel; only tiny angles are left to the stage."""
    zeros = np.zeros(len(x.rows), np.int32)  # gradients are those of scaled rows
    tangent_x, tangent_w, numbers = np.empty_like(x.rows), np.empty_like(x.rows), np.empty((len(x.rows), 8))
    pairs.tangents(x.rows, w.rows, tangent_x, tangent_w, numbers)
    xx, ww, xw, rr = (Pair(numbers[:, i].copy(), numbers[:, i + 1].copy()) for i in range(0, 8, 2))
    length_x, length_w = sqrt(xx), sqrt(ww)
    cos, sin = xw / (length_x * length_w), sqrt(rr) / length_w
    tiny = ~(rr.hi > NEARLY_PARALLEL * ww.hi)
    if tiny.any():
        tiny_angle, tiny_saved = angle.forward(x.rows[tiny], w.rows[tiny])
        cos[tiny], sin[tiny] = tiny_angle.cos, tiny_angle.sin
        tangent_x[tiny], tangent_w[tiny] = tiny_saved.tangent_x, tiny_saved.tangent_w
    theta = angle.atan2(sin, cos)
    if tiny.any():
        theta[tiny] = tiny_angle.theta
    saved = angle.Saved(tangent_x, tangent_w, length_x.hi, length_w.hi, zeros, zeros)
    return angle.Angle(theta, cos, sin, angle.between(x.rows, w.rows)), saved
