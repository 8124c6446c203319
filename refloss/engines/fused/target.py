r"""Target: the narrow branch, from each sample's embedding and its own class to the target logit z_y, in float64.

These are the stages of the chain, forward and backward. With one number per sample, the accuracy of the target costs
little compared with N x C logits.

Symbols: N samples; D entries of a vector; x (N, D) embeddings; w = W[y] (N, D); s the scale; v a number per sample that
its margins depend on; r a term that its length adds to its loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refloss.engines import chain
from refloss.engines.fused.hard_classes import HardClasses
from refloss.engines.fused.products import pair_dots
from refloss.engines.fused.row_scaling import ScaledRows, ldexp_rows
from refloss.engines.kernels import pairs
from refloss.engines.spec import Margin
from refloss.error_free import Array, Pair, high, ldexp, plain, sqrt
from refloss.stages import angle, logits, margin, normalize, quality, softcap

NEARLY_PARALLEL = 2.0**-80
"""Square of the sine of an angle below which it is left to the stage."""


class TargetGradients(NamedTuple):
    """The gradients of a target."""

    x: Array
    """That of x as it was scaled (N, D)."""
    w: Array
    """That of w as it was scaled (N, D)."""
    v: Array | None = None
    """That of the number that a sample's margin depends on (N,), where there is one."""


class Terms(NamedTuple):
    """What the length of each embedding adds to its loss."""

    value: Array
    """r (N,)."""
    dx: Array
    """dr/dx, of x as it came (N, D)."""


class Target(NamedTuple):
    """The target of each sample, and the way back from it."""

    logit: Pair
    """z_y (N,)."""
    over_scale: Array
    """z_y / s (N,)."""
    backward: Callable[[Array], TargetGradients]
    """From s dL/dz_y (N,) to the gradients."""
    slope: Array | None = None
    """The slope of a cap at z_y (N,); None without a cap."""
    hard: HardClasses | None = None
    """What makes other classes hard, of losses that have such."""
    terms: Terms | None = None
    """Terms of the rows of the loss, where there are any."""


def margin_target(spec: Margin, x: ScaledRows, w: ScaledRows, m: Array | None = None) -> Target:
    """Return the target of a margin head, s times psi(theta); without a scale, s is the length of x.

    m are margins, where they are given (N,).
    """
    theta, saved_angle = _angle(x, w)
    exponent_x = np.zeros(len(x.rows), np.int32) if x.exponent is None else x.exponent
    v, terms, saved_quality = None, None, None
    if m is not None or spec.quality is not None:
        own = {"x": ldexp_rows(x.rows, x.exponent)} | ({} if m is None else {"m": m})
        v, added, saved_quality = chain.quality_of(spec, own, normalize.forward(own["x"]))
        if added is not None and saved_quality is not None:
            pull = quality.backward(np.zeros(len(x.rows)), saved_quality, np.ones(len(x.rows)))
            terms = Terms(added.hi, _along(pull, x, saved_angle))
    psi, saved_margin = margin.forward(theta, spec.margin, v)
    s, exponent = logits.scale_of(spec.scale, Pair.of(saved_angle.length_x), exponent_x)

    def backward(dz: Array) -> TargetGradients:
        dtheta, dv = margin.backward(dz, saved_margin)
        dx, dw = (plain(part) for part in angle.backward(dtheta, saved_angle))
        if saved_quality is not None and dv is not None:
            dlength = quality.backward(dv, saved_quality, np.zeros(len(dz)))
            dx += _along(np.ldexp(dlength, exponent_x), x, saved_angle)
        return TargetGradients(dx, dw, dv)

    hard = None
    if spec.negatives is not None and spec.scale is not None:
        hard = HardClasses.of(spec.negatives, spec.scale, x.rows, saved_margin)
    return Target(ldexp(psi * s, exponent), psi.hi, backward, hard=hard, terms=terms)


def _along(dlength: Array, x: ScaledRows, saved: angle.Saved) -> Array:
    """Carry the gradient of lengths (N,) to embeddings (N, D)."""
    return np.asarray((dlength / plain(saved.length_x))[:, None] * x.rows)


def linear_target(x: ScaledRows, w: ScaledRows, b: Array | None, settings: softcap.Settings) -> Target:
    """Return the target of a linear head, w·x + b, scaled and capped; its classes count as they are, not scaled."""
    dots = pair_dots(x.rows, w.rows)
    logit = Pair(dots.hi * x.factor * w.factor, dots.lo * x.factor * w.factor)
    logit = logit if b is None else logit + b
    logit = logit if settings.logit_scale == 1.0 else logit * settings.logit_scale
    slope = None
    if settings.softcap is not None:
        logit, saved = softcap.forward(logit, softcap.Settings(softcap=settings.softcap))
        slope = high(plain(saved.slope))

    def backward(dz: Array) -> TargetGradients:
        return TargetGradients(ldexp_rows(dz[:, None] * w.rows, w.exponent), dz[:, None] * x.rows)

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
