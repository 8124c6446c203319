"""Errors of results: the sizes that they are measured against, and the worst of them in units of u."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpmath import mp, mpf

from support.exact.cross_entropies import Batch, Row, Settings
from support.exact.divergences import Divergence, DivergenceBatch
from support.exact.heads import Head, name_of
from support.exact.links import head_of
from support.exact.numbers import GUARD, SMALLEST, SMALLEST_NORMAL, UNIT, Array, exact, filled, places, sine_of
from support.exact.triplets import Triple
from support.untraced import untraced


@untraced
def absolute_terms(
    loss: Any,
    *inputs: Any,
    upstream: Any = None,
    upstream_lse: Any = None,
    digits: int = 60,
    projected: bool = False,
) -> dict[str, Array]:
    """The size of what a gradient row is made of before anything cancels: one float64 per row, or entry of z, b and m.

    With G_nk = dL/dz_nk by differences, or in its place c_n (p_k sum of |t_j| + |t_k|) for smoothed targets and
    probabilities:

    - margin losses: x_n: sum over k of |scale G_nk psi'_nk| / |x_n|, psi' := 1 off the target, and, where the scale is
      the feature norm, sum of |G_nk f_nk| more (f = cos theta or psi); w_k: sum over n of |scale G_nk psi'_nk| / |w_k|;
      of a hard class psi' := |t| + 2 (CurricularFace), 1 + t (MV-Softmax) or 2 (CircleLoss), the largest slope of what
      replaces its cosine, and 0 where nothing does; where an angle counts the slope of what replaces that, and of
      SphereFaceR, unless |cos theta| is above 1 - 2^-7 or its gradient is detached, sin(theta/m)/(m sin^2 theta), which
      the error of its slope grows with; a given margin: |scale G_ny dpsi/dm|; x_n of MagFace:
      |scale G_ny dpsi/dm dm/da| and the sizes of the two terms of its regularizer's derivative, lambda / u^2 and
      lambda / a^2, more, unless the length is held;
    - SphereFace2, UniFace, SigLIP and InfoNCE the same; off the target of SphereFace2 psi' := t, the largest slope of
      what replaces a cosine, or 1 if that is detached; |G_nk| of two ways is the sum of both; b: sum of all |G_nk|; t
      and s, where they are inputs: sum of all |G_nk cos theta_nk|;
    - SoftmaxLoss: x_n: sum over k of |G_nk| |w_k|; w_k: sum over n of |G_nk| |x_n|; b_k: sum over n of |G_nk|;
    - CrossEntropy: |G_nk|;
    - of these two a log-sum-exp, with r_n the row's weight in a z-loss lambda lse^2 and u_n its upstream gradient, has
      (2 lambda |r_n| (|lse| + 1 + |M| + log1p(.)) + |u_n|) p_nk more in |G_nk|, all times the slope of a softcap;
    - Triplet, where the hinge is open: 2 (|a - p| + |a - n|), 2 |a - p|, 2 |a - n|; of the plain distance 2, 1, 1;
    - KLDivergence: |q_k - p_k| + max(p_k, q_k) V with V = sum of |q_j - p_j| for q - p, and
      p_k (|log p_k - log q_k| + L + V) on the weighing side; of Jensen-Shannon the latter, with m and half as much.

    `projected` takes the terms after the projection that directions have, which is a stricter measure: off the target
    psi' is sin theta_nk instead of 1, where an angle counts the slope of what replaces it, and 0 for a class that is
    parallel to x.

    A number that is not 0 is never rounded to 0: it is at least the smallest subnormal.
    """
    with mp.workdps(digits + GUARD):
        if name_of(loss) == "Triplet":
            terms = triplet_terms(loss, inputs, upstream)
        elif name_of(loss) == "CrossEntropy":
            terms = logit_terms(loss, inputs, upstream, upstream_lse)
        elif name_of(loss) == "KLDivergence":
            batch = DivergenceBatch(*inputs, loss.form, loss.reduction)
            terms = batch.filled(Divergence.terms, [abs(c) for c in batch.batch.coefficients(upstream)])
        else:
            terms = head_terms(head_of(loss, *inputs, upstream=upstream), upstream, upstream_lse, digits, projected)
        return {name: as_floats(array) for name, array in terms.items()}


def as_floats(array: Array) -> Array:
    result = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        number = float(array[index])
        result[index] = SMALLEST if array[index] != 0 and number == 0 else number
    return result


def triplet_terms(loss: Any, inputs: Sequence[Any], upstream: Any) -> dict[str, Array]:
    anchor, positive, negative = (exact(array) for array in inputs)
    count = len(anchor)
    terms = {name: filled((count,), mpf(0)) for name in ("anchor", "positive", "negative")}
    for n, c in enumerate(Batch.plain(count, loss.reduction).coefficients(upstream)):
        triple = Triple.of(anchor[n], positive[n], negative[n], loss.m, loss.squared)
        if triple.hinge(GUARD) > 0:
            near, far = (2 * v.norm() if loss.squared else mpf(v.square != 0) for v in triple[:2])
            for name, size in (("anchor", near + far), ("positive", near), ("negative", far)):
                terms[name][n] = abs(c) * size
    return terms


def logit_terms(loss: Any, inputs: Sequence[Any], upstream: Any, upstream_lse: Any) -> dict[str, Array]:
    numbers, y = exact(inputs[0]), inputs[1]
    size, settings = numbers.shape[-1], Settings.of(loss)
    batch = Batch.of(y, numbers.shape, settings)
    terms = filled((len(batch.targets), size), mpf(0))
    for n, (targets, weights) in enumerate(zip(batch.targets, batch.weights(upstream, upstream_lse), strict=True)):
        if targets is not None:
            row = list(numbers.reshape(-1, size)[n])
            with mp.workdps(mp.dps + settings.cap.places(row)):
                of_row = Row(row, targets, weights, settings.cap)
                terms[n] = [of_row.terms(k, batch.one_label) for k in range(size)]
    return {"z": terms.reshape(numbers.shape)}


def head_terms(head: Head, upstream: Any, upstream_lse: Any, digits: int, projected: bool) -> dict[str, Array]:
    samples, classes = head.shape
    terms = {"x": filled((samples,), mpf(0)), "w": filled((len(head.rows),), mpf(0))}
    terms |= {
        name: filled(array.shape, mpf(0)) for name, array in (("b", head.bias), ("m", head.given)) if array is not None
    }
    terms |= {name: filled((), mpf(0)) for name in head.numbers}
    weights, of_terms = head.batch.weights(upstream, upstream_lse), head.batch.of_terms(upstream)
    for n in head.active():
        x = head.samples[n]
        with mp.workdps(digits + GUARD + places(head.size(n))):
            row = head.row(n, weights[n])
            g = [row.terms(k, head.batch.one_label) for k in range(classes)]
            if head.margin is None:
                terms["x"][n] = mp.fsum(number * w.norm() for number, w in zip(g, head.rows, strict=True))
                terms_w = [number * x.norm() for number in g]
            else:
                sample, pair, others = head.sample(n), head.pairs[n], head.others[n]
                sines = [sine_of(x, w) for w in sample.classes]
                angles = [sample.angle_to(k, dot) for k, dot in enumerate(sample.dots)]
                slopes = [others.size(k, sines[k], angles[k], projected) for k in range(classes)]
                slopes[sample.label] = abs(pair.slope(digits))
                slope_terms = [sample.scale * number * slope for number, slope in zip(g, slopes, strict=True)]
                terms["x"][n] = mp.fsum(slope_terms) / x.norm()
                if head.margin.scale is None:
                    terms["x"][n] += mp.fsum(abs(number * f) for number, f in zip(g, sample.f, strict=True))
                of_v = sample.scale * g[sample.label] * abs(pair.slope_of_v(digits))
                if head.given is not None:
                    terms["m"][n] = of_v
                elif not pair.quality.constant:
                    terms["x"][n] += of_v * abs(mp.diff(pair.quality.v, x.norm()))
                if head.regularizer:
                    terms["x"][n] += abs(of_terms[n] * head.regularizer) * pair.quality.term_size(x.norm())
                terms_w = [number / w.norm() for number, w in zip(slope_terms, sample.classes, strict=True)]
            for name in head.numbers:
                by = head.slopes_of(name, n)
                terms[name][()] += mp.fsum(abs(number * slope) for number, slope in zip(g, by, strict=True))
            terms["w"][head.chosen[n]] += np.array(terms_w, dtype=object)
            if head.bias is not None:
                terms["b"] += np.array(g, dtype=object)
    return terms | {"w": terms["w"].reshape(head.shape_of_rows)}


@untraced
def row_error(result: Any, truth: Any, terms: Any) -> float:
    """The worst row's largest |result - truth| over the row's terms, in units of u.

    `terms` has truth's shape (entry by entry) or one axis less (row by row). Terms of 0 demand a result of exactly 0;
    terms below the normal range count as the smallest normal number. Where the truth is NaN or inf, so must be the
    result. Whatever is not as it must be is an error of inf.
    """
    result, true, sizes = exact(result), exact(truth), exact(terms)
    if result.shape != true.shape or sizes.shape not in (true.shape, true.shape[:-1]):
        message = f"shapes of result {result.shape}, truth {true.shape} and terms {sizes.shape} do not fit"
        raise ValueError(message)
    by_row = sizes.shape != true.shape
    return max((error(result[i], true[i], sizes[i[:-1] if by_row else i]) for i in np.ndindex(true.shape)), default=0.0)


@untraced
def value_error(result: Any, truth: Any, terms: Any = None) -> float:
    """The worst |result - truth| / |truth| in units of u; given `terms` of truth's shape, over the larger of the two.

    A truth of 0 (and terms of 0) demands exactly 0, one below the normal range counts as the smallest normal number,
    NaN demands NaN and inf the same inf. Whatever is not as it must be is an error of inf.
    """
    result, true = exact(result), exact(truth)
    if result.shape != true.shape:
        message = f"shapes of result {result.shape} and truth {true.shape} differ"
        raise ValueError(message)
    sizes = exact(np.zeros(true.shape) if terms is None else terms)
    return max((error(result[i], true[i], max(abs(true[i]), sizes[i])) for i in np.ndindex(true.shape)), default=0.0)


def error(result: mpf, true: mpf, size: mpf) -> float:
    if mp.isnan(true):
        return 0.0 if mp.isnan(result) else float("inf")
    if mp.isinf(true):
        return 0.0 if result == true else float("inf")
    if not mp.isfinite(result):
        return float("inf")
    if size == 0:
        return 0.0 if result == 0 else float("inf")
    with mp.workdps(60):
        return float(abs(result - true) / max(size, SMALLEST_NORMAL) / UNIT)
