r"""Contract: how accurate each engine promises to be, and the warning where that is worth nothing.

Everything that says how wrong an engine may be reads it here: `refloss.error_bound`, README's table, the tests, the
records, the budgets of `refloss.testing`.

Symbols: u the unit roundoff of the dtype; S_n the scale of a sample: s, or ‖x_n‖ where that is the scale, or
‖x_n‖ max ‖w_k‖ + max |b_k| of the plain head, times the logit scale σ and, with a cap K, times 1 + 2/K, see `scales`,
also for losses that change the cosines of other classes; K_n the rounding error of a sum of n rounded terms, in u of
its terms.
"""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any, NamedTuple

import numpy as np

from refloss.engines.spec import (
    UPSTREAM_LSE,
    Arrays,
    Divergence,
    Linear,
    Logits,
    Margin,
    OnCosines,
    Spec,
    Triplet,
    WithCap,
)
from refloss.error_free import Array, high, scale_rows
from refloss.formats import FORMATS, format_of
from refloss.stages import class_angles, cross_entropy, negatives, softcap

MAX_TERMS = 512
"""Most terms that the engine `fused` leaves to one product of the BLAS; longer sums are added up in such pieces."""
SATURATED = 2.0**10
"""σ|z|/K beyond which the slope of a cap is 0 in every dtype."""


class AccuracyWarning(RuntimeWarning):
    r"""A result whose error may be as large as its absolute terms.

    That is so where ρ, what the engine promises for gradients at the scale of a sample, is 1 or more, see `promise`.
    The message names the argument that is so large, and an engine that can do it.
    """


class Promise(NamedTuple):
    """What an engine promises for each sample: relative errors."""

    value: Array
    """Relative error of a row's loss (N,)."""
    gradient: Array
    """Error of a gradient, relative to its absolute terms (N,)."""
    sums: float = 0.0
    """Further error of a gradient, relative to the same terms, from sums over samples and classes."""


def summed(terms: int) -> int:
    """Return the rounding error of a sum in the engine `fused`, in u of its terms.

    Up to `MAX_TERMS` terms are added by the BLAS, one after the other at worst; two roundings more for every doubling.
    """
    return min(terms, MAX_TERMS) + 2 * max(0, math.ceil(math.log2(max(terms, 1) / MAX_TERMS)))


def promise(
    engine: str,
    head: str,
    scale: Array,
    classes: int = 1,
    width: int = 1,
    dtype: Any = np.float64,
    *,
    options: bool = False,
) -> Promise:
    r"""Return what an engine promises for samples of scale S_n, with options where `has_options` holds.

    With r and g for value and gradient:

    | engine | head | r | g |
    |---|---|---|---|
    | `chain` | linear, margin | max(16u, 4u S) | max(32u, 8u S) |
    | `fused` | linear, margin | max(16u, κu S), κ = 6 + K_D | max(32u, 2κu S) and (16 + K_N + K_C) u more |
    | `chain`, `fused` | logits, triplet | 8u; 16u in float32 | 8u; 16u in float32 |
    | `chain` | logits with options | max(16u, 2^-98 S) | max(16u, 2^-97 S) |
    | `fused` | logits with options | max(48u, 24u S) | max(48u, 48u S) |
    | `chain`, `fused` | divergence | 48u; 16u in float32 | 48u; 16u in float32 |
    | `chain`, `fused` | sigmoid, two_way | max(16u, 2^-51 S) | max(32u, 2^-50 S) |
    | `dd` | any | max(4u, 2^-92 S) | max(8u, 2^-91 S) |

    Chain: a cosine between unit vectors whose entries are rounded is wrong by at most 2u, so the gap between two logits
    is by 4u S, and a loss, relative to itself, by as much; a softmax by twice that. Fused: sums of D products and
    squares are the BLAS's, whose error is K_D u. What is beside S are the roundings of cross entropy: exp (1u), its
    correction, the sum, a division (1u each), log1p (1u), row weight and reduction (1u each).

    Options of logits (a logit scale, a cap, a z-loss): the chain has scaled and capped logits as pairs, wrong by at
    most 200u² < 2^-98 of themselves, and their slope to 8u. A capped logit of `fused` is wrong by 8u of itself
    (argument 2u, 1 - e^-x 2u, denominator 2u, two products), and its slope by (2 σ|z|/K + 8)u, see `scales`; a sum of
    exponentials by 24u. κ of a linear head is 8 more.

    Margins per sample: one that is given is exact, and one by length is right to 2^-90, for lengths and v are pairs,
    and v = p + q a is found in fixed point where q a is more than 64. No more is lost than with one margin for all.
    MagFace's regularizer and its slope are sums of two pairs, right to 40u² of the terms λ(a/u² + 1/a) and
    λ(1/u² + 1/a²), and rounded. The gradient of a margin is that of ψ times -sin φ or -1, or what the rule has for
    it, right to 60u² in all: the 16u beside its size in `refloss.error_bound` times 8u of `dd` is 128u².

    Hard classes: which are, and which lengths are beyond a bound, is decided exactly, so no promise has a jump. Where
    cosines are wrong by e, so is η by at most e times its largest slope, 2 + |t| for η = c (t + c) and 1 + t for
    η = (1 + t) c + t: S is larger by that factor. The slope t + 2c is wrong by 2e, however small it is, which is e of
    terms that have the largest slope in its place. That is what 1 more in S allows, for ρ = 4e S. The same holds for
    η = c² - t² of the circle loss, whose slope 2c, or t + c, is 2 at most; where η = 0 the gradient is exactly 0.

    Angles of other classes: where an entry goes through its angle, θ is right to 256u² of itself, and η to 512u².
    The slope dη/dθ, -sin(θ/m)/m or -sin(θ - m), is right relative to itself, for small differences are found in fixed
    point; it takes the place of ψ' in the absolute terms. All other cosines are at most 1 - 2^-7 in size. Where they
    are wrong by e, η = cos(θ/m) is wrong by at most e times its largest slope: dη/dc = sin(θ/m)/(m sin θ) grows with θ,
    and is at most 4.9. S is larger by that factor, if it is more than 1. The slope itself is wrong, relative to itself,
    by e |cot θ - cot(θ/m)/m|/sin θ, which is at most 1.1e/sin² θ and, since 1/sin θ is at most 8.1, at most 9e/sin θ:
    18u of terms with dη/dc over sin θ in the place of ψ'. With a detached gradient dη/dc := 1 is exact. Which classes
    are the nearest is decided exactly, so no promise has a jump.

    Centers: which of a class is nearest is decided exactly, so no promise has a jump either. A class counts as its
    nearest center, C in K_C are all rows of w, and the gradient of a center that stands for its class in no sample is
    exactly 0.

    Binary cross entropy: with cosines wrong by e a logit is wrong by e S, and softplus and the sigmoid are, relative to
    themselves, by as much: both grow by at most the factor $e^d$ where a logit does by d. A bias is added to a pair, so
    none is too large. Beside S are exp and its correction (1u each), log1p or a division, the weight, a product, the
    sum and the reduction. Which logits are beyond a bound is decided exactly: their gradient is exactly 0, and no
    promise has a jump. The cosine itself is what multiplies G in the gradient of a scale; it is wrong by e = 2u, a
    sixteenth of the smallest ρ. For SphereFace2 $g(c) = 2((1 + c)/2)^t - 1$ has slopes of at most t, and the slope is
    wrong by at most t (t - 1)/2 times e, which is (t - 1)u of terms that have t in its place: t - 1 more in S allows
    that. Of both ways of InfoNCE each has the errors of cross entropy. "fused" leaves all of these to the chain, in
    float64, and rounds its results.

    Divergence: a probability is wrong by 6u (exp and its correction 2u, their sum 3u, the division 1u), q - p by at
    most 14u of itself, and log q - log p by at most twice the sum of these errors, 28u of Σ|q - p|, for at least half
    of q enters the equation that the last step solves, see `refloss.stages.divergence.compare`. A loss passes on 14u of
    itself (a probability, e^δ - 1 - δ with 5u, a product, the sum, the reduction). What log q - log p is wrong by
    changes no sum Σ (q - p), so it matters only where q is more than e^4 times p, 28u Σ|q - p| times the sum of such q,
    which is at most half of Σ|q - p|; and that is 28u L, for Σ|q - p| is at most √(2L) (Pinsker). In float32 results
    are rounded once more.
    """
    unit = format_of(dtype).u
    scale = np.asarray(scale, np.float64)
    with np.errstate(over="ignore"):
        if engine == "dd":
            return Promise(np.maximum(4.0 * unit, 2.0**-92 * scale), np.maximum(8.0 * unit, 2.0**-91 * scale))
        if head in ("logits", "triplet"):
            if options:
                least, wrong = (16.0 * unit, 2.0**-98) if engine == "chain" else (48.0 * unit, 24.0 * unit)
                return Promise(np.maximum(least, wrong * scale), np.maximum(least, 2.0 * wrong * scale))
            most = np.full(scale.shape, (8.0 if np.dtype(dtype) == np.float64 else 16.0) * unit)
            return Promise(most, most)
        if head == "divergence":
            most = np.full(scale.shape, (48.0 if np.dtype(dtype) == np.float64 else 16.0) * unit)
            return Promise(most, most)
        if engine == "chain" or head in ("sigmoid", "two_way"):  # in float64, whatever the result is rounded to
            gap = 4.0 * FORMATS["float64"].u * scale
            return Promise(np.maximum(16.0 * unit, gap), np.maximum(32.0 * unit, 2.0 * gap))
        error = (6.0 + summed(width) + (8.0 if options else 0.0)) * unit * scale
    sums = (16.0 + summed(scale.size) + summed(classes)) * unit
    return Promise(np.maximum(16.0 * unit, error), np.maximum(32.0 * unit, 2.0 * error), sums)


def log2_lengths(rows: Any) -> Array:
    """Return the binary logarithm of each row's length, -inf for a row of zeros: lengths themselves may overflow."""
    scaled, exponent = scale_rows(high(rows))
    with np.errstate(divide="ignore"):
        return np.asarray(0.5 * np.log2((scaled * scaled).sum(axis=1)) + exponent)


def scales(spec: Spec, arrays: Arrays, longest: float | None = None) -> Array:
    r"""Return S_n of every sample (N,), 1 where there is none; longest is the largest ‖w_k‖, if it is known already.

    Logits that are scaled or capped have $S = 1 + \max_k|z'_k| + 2\min(\sigma\max_k|z_k|/K, 2^{10})$: what a capped
    logit is wrong by, and its slope, which beyond is 0 in every dtype. A linear head with a cap has
    $\sigma S (1 + 2/K)$, since the slope of a logit changes by 2/K of itself where the logit does by 1. With hard
    classes it is $(2 + |t|)\,S + 1$ (CurricularFace) or $(1 + t)\,S$ (MV-Softmax), with squares of cosines $2S + 1$
    (CircleLoss), and with divided angles S times `steepest_divided` (SphereFace-R, version 2). With a power
    (SphereFace2) it is $t\,S + t - 1$. A scale that is an input, t of SigLIP or s of InfoNCE, is S of every sample; a
    bias changes nothing.
    """
    if isinstance(spec, Triplet | Divergence):
        return np.ones(len(next(iter(arrays.values()))))
    if isinstance(spec, Logits):
        return _of_logits(spec.softcap, arrays["z"])
    if isinstance(spec, OnCosines):
        return scales(spec.logits, arrays)
    if isinstance(spec, Margin) and (s := spec.scale_in(arrays)) is not None:
        return _of_margin(spec, np.full(len(arrays["x"]), s))
    logs = log2_lengths(arrays["x"])
    if isinstance(spec, Linear):
        logs = logs + (
            log2_lengths(arrays["w"]).max() if longest is None else math.log2(max(longest, FORMATS["float64"].spacing))
        )
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.exp2(logs)
        scale = scale if "b" not in arrays else scale + _of_bias(arrays["b"], scale)
        if isinstance(spec, Margin):
            return _of_margin(spec, scale)
        return np.where(scale > 0.0, scale * _of_options(spec.softcap), scale)


def _of_margin(spec: Margin, scale: Array) -> Array:
    """Return S_n of a margin head whose logits have a scale, from what becomes of the cosines of other classes."""
    with np.errstate(over="ignore"):
        if spec.class_angles is not None and spec.class_angles.rule == "power":
            return scale * spec.class_angles.k + (spec.class_angles.k - 1.0)
        if spec.class_angles is not None:
            return scale * steepest_divided(spec.class_angles)
        if spec.negatives is None:
            return scale
        return scale * steepest(spec.negatives) + (0.0 if spec.negatives.rule == "reweighted" else 1.0)


def steepest(settings: negatives.Settings) -> float:
    """Return the largest slope that hard classes may have."""
    match settings.rule:
        case "curricular":
            return 2.0 + abs(settings.t)
        case "reweighted":
            return 1.0 + settings.t
        case _:  # circle
            return 2.0


def steepest_divided(settings: class_angles.Settings) -> float:
    """Return the largest slope dη/dc of divided angles where |c| is at most 1 - 2^-7; 1 if it is less, or none is."""
    if settings.rule != "divided":
        return 1.0
    theta = math.acos(class_angles.STEEP - 1.0)
    return max(1.0, math.sin(theta / settings.m) / (settings.m * math.sin(theta)))


def _of_options(settings: softcap.Settings) -> float:
    """Return σ, times 1 + 2/K where there is a cap."""
    return settings.logit_scale * (1.0 if settings.softcap is None else 1.0 + 2.0 / settings.softcap)


def _of_logits(settings: softcap.Settings, z: Array) -> Array:
    """Return S_n of logits, 1 where they are neither scaled nor capped."""
    sigma, cap = settings
    if settings == softcap.UNCHANGED:
        return np.ones(len(z))
    with np.errstate(over="ignore", invalid="ignore"):
        largest = sigma * np.abs(np.where(np.isfinite(z), z, 0.0)).max(axis=1)
        if cap is None:
            return np.asarray(1.0 + largest)
        capped = np.where(np.isinf(z).any(axis=1), cap, np.minimum(largest, cap))  # K of what is infinite, its slope 0
        return np.asarray(1.0 + capped + 2.0 * np.minimum(largest / cap, SATURATED))


def has_options(spec: Spec, arrays: Arrays) -> bool:
    """Whether logits are scaled or capped, or their log-sum-exp has a gradient of its own."""
    if not isinstance(spec, WithCap):
        return False
    return spec.softcap != softcap.UNCHANGED or spec.cross_entropy.z_loss != 0.0 or UPSTREAM_LSE in arrays


def _of_bias(b: Array, products: Array) -> Array:
    """Return the largest |b_k| of a class that may have a probability above 0 (N,): others are masked by it."""
    rising = np.sort(b)
    lowest = rising[np.searchsorted(rising, rising[-1] - 2.0 * products - 800.0)]
    return np.asarray(np.maximum(np.abs(lowest), np.abs(rising[-1])))


def _factor(spec: Margin) -> str:
    """Return in words what makes S_n of a margin head larger than its scale."""
    if spec.negatives is None:
        return "" if spec.class_angles is None or spec.class_angles.rule == "nearest" else "slopes of other classes"
    return "slopes of other classes" if spec.negatives.rule == "circle" else "t"


def warn_if_unreliable(
    engine: str, spec: Spec, arrays: Arrays, dtype: Any = np.float64, longest: float | None = None
) -> None:
    """Warn where samples that count have a scale at which nothing is promised."""
    if isinstance(spec, Triplet | Divergence) or (isinstance(spec, Logits) and spec.softcap == softcap.UNCHANGED):
        return
    kept, name = cross_entropy.kept(arrays["y"], spec.cross_entropy), "z" if isinstance(spec, Logits) else "x"
    scale = np.zeros(len(kept))
    scale[kept] = scales(spec, arrays | {name: arrays[name][kept]}, longest)  # of others nothing is looked at
    warn_of_scales(engine, spec, scale, arrays[name].shape[1], dtype)


def warn_of_scales(engine: str, spec: Spec, scale: Array, width: int, dtype: Any = np.float64) -> None:
    """Warn, where the user's code calls, of scales (N,) at which nothing is promised."""
    options = has_options(spec, {})
    error = promise(engine, spec.head, scale, width=width, dtype=dtype, options=options).gradient
    if not (error >= 1.0).any():
        return
    n = int(error.argmax())
    names = {"logits": f"z[{n}] scaled to", "linear": f"x[{n}] and w with a product of lengths"}
    head = spec.logits if isinstance(spec, OnCosines) else spec
    if isinstance(head, Margin):
        name = "s" if head.scale is not None else head.scale_input
        factor = _factor(head)
        what = f"{name} of" if name else f"x[{n}] of length"
        what = f"{name or f'x[{n}]'} with {factor}, a scale of" if factor else what
    else:
        what = names[spec.head]
    wider = {"fused": ("chain", "dd"), "chain": ("dd",), "dd": ()}[engine]
    able = [name for name in wider if (promise(name, spec.head, scale, options=options).gradient < 1.0).all()]
    message = (
        f"{what} {scale[n]:.3g}: logits of that size leave engine={engine!r} in {np.dtype(dtype)} no digit of their "
        f"differences, and the result may be wrong altogether; engine={(*able, 'certified')[0]!r} can do it"
    )
    depth, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "refloss":
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, AccuracyWarning, stacklevel=depth)
