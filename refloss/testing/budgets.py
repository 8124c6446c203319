"""Budgets: how far a correct implementation in a dtype may be from the truth on these inputs, entry by entry.

`refloss.testing.errors` has the error of each stage. They are combined here for each head, and a standard says how
accurate an implementation has to be:

- "working": log p as logsumexp(z) - z_y, two rounded numbers, as most fused kernels have it; of a binary cross entropy,
  a softplus as the difference of a logit and another softplus;
- "stable": the largest logit subtracted first; log(1 + e^-|z|) of a binary cross entropy;
- "mixed": inputs and results are of the dtype, and everything between is computed in a wider one;
- "fused": "mixed", and the logits of a linear layer are never stored;
- "relative": losses and gradients of confident targets accurate relative to themselves, however small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refloss.engines import contract
from refloss.engines.chain import Step
from refloss.error_free import Array, Pair
from refloss.formats import FORMATS, PRECISION_BITS, dtype_name
from refloss.stages import cross_entropy, log_softmax, margin, quality, softcap, softmax
from refloss.testing.errors import (
    UNKNOWN,
    Answers,
    Arithmetic,
    Capped,
    Divergences,
    Head,
    Held,
    NegativesError,
    Pairs,
    Rows,
    SampleMargins,
    Side,
    Triplets,
    Turned,
    Ways,
    bias_error,
    binary_cross_entropy_error,
    centers_error,
    chord_error,
    class_angles_error,
    cosine_error,
    cross_entropy_error,
    divergence_error,
    length_error,
    log_sum_exp_error,
    margin_error,
    margins_error,
    negatives_error,
    normalize_error,
    others_of,
    power_error,
    quality_error,
    regularizer_error,
    scale_error,
    softcap_error,
    threshold_error,
    total_error,
    triplet_error,
    turn,
    turned_error,
    two_way_error,
)
from refloss.testing.options import one_name
from refloss.testing.signatures import (
    Loss,
    as_loss,
    centers_of,
    class_angles_of,
    cross_entropy_of,
    divergence_of,
    given_margin,
    head_of,
    inputs_of,
    is_on_cosine,
    link_of,
    margin_head,
    margin_of,
    negatives_of,
    numbers_of,
    quality_of,
    scale_of,
    softcap_of,
    triplet_of,
    ways_of,
    with_settings,
)

Bounds: TypeAlias = tuple[Array, dict[str, Array]]
"""Budgets of the value, and of the gradients by name."""
InputList: TypeAlias = list[NDArray[Any]]
Upstream: TypeAlias = ArrayLike | None
STANDARDS = ("working", "stable", "mixed", "fused", "relative")
HALVES = ("float16", "bfloat16")
TRUTH = float(contract.promise("dd", "margin", np.ones(1)).gradient[0])
"""Error of the truth, computed by the engine "dd", relative to a value and to the terms of a gradient's row.

Scales from 2^41 on have larger errors, and budgets that are larger still: a logit in float64 is wrong by u S.
"""


def arithmetic(dtype: Any, accumulate: Any = None, matmul: Any = None, standard: str = "working") -> Arithmetic:
    """Return an arithmetic: the dtypes that are stored, and in which sums and products are computed, and a standard.

    Parameters
    ----------
    dtype
        "float16", "bfloat16", "float32" or "float64", or such a dtype of a framework.
    accumulate
        Dtype of sums; by the standards "mixed" and "fused" of everything between load and store. If left out: float32
        for the half precisions; the dtype itself for the others, or float64 by "mixed" and "fused".
    matmul
        "tf32", "bfloat16" or "float16", where matrix products round their factors to that.
    standard
        One of `STANDARDS`.
    """
    name = dtype_name(dtype)
    one_name("standard", standard, STANDARDS)
    mixed = standard in ("mixed", "fused")
    sums = "float32" if name in HALVES else "float64" if mixed else name
    sums = sums if accumulate is None else dtype_name(accumulate, "accumulate")
    factor = 0.0 if matmul is None else 2.0 ** -PRECISION_BITS[dtype_name(matmul, "matmul", tuple(PRECISION_BITS))]
    stored, wide = FORMATS[name], FORMATS[sums]
    if mixed:
        # No implementation flushes the subnormal numbers of float16.
        least = stored.spacing if name == "float16" else stored.smallest
        between = 0.0 if standard == "fused" else stored.u
        return Arithmetic(wide.u, wide.u, factor, wide.smallest, "stable", stored.u, least, between)
    return Arithmetic(stored.u, min(stored.u, wide.u), factor, stored.smallest, standard)


def ladder(dtype: str, loss: Loss) -> tuple[str, ...]:
    """Return the standards that apply to a dtype and a loss, the loosest first."""
    if head_of(loss) == "triplet":
        return ("working", "mixed") if dtype in HALVES else ("working",)
    if dtype not in HALVES:
        return ("working", "stable", "relative")
    return ("working", "stable", "mixed", "fused") if head_of(loss) == "linear" else ("working", "stable", "mixed")


class Budget(NamedTuple):
    """The allowed absolute errors of a correct implementation."""

    value: Array
    """Error of the value: 0-d, or (N,) for reduction="none"."""
    gradient: Any
    """Error of every entry of the gradients, in the named tuple of the loss."""


def budget(
    loss: Any,
    *inputs: Any,
    dtype: Any,
    accumulate: Any = None,
    matmul: Any = None,
    upstream: Any = None,
    standard: str = "working",
) -> Budget:
    """Return the allowed absolute error of the value and of every entry of the gradients of a correct implementation.

    Parameters
    ----------
    loss
        Any loss of refloss.
    inputs
        Inputs of the loss, as numbers of the dtype; they count as exact.
    dtype
        "float16", "bfloat16", "float32" or "float64", or such a dtype of NumPy or a framework: the dtype of inputs and
        results.
    accumulate
        A wider dtype of sums. If left out: float32 for the half precisions, the dtype itself for the others. By "mixed"
        and "fused" the dtype of everything between load and store: float32 for the half precisions, else float64.
    matmul
        "tf32", "bfloat16" or "float16", where matrix products round their factors to that.
    upstream
        Upstream gradient, as in ``value_and_grad``.
    standard
        "working", "stable", "mixed", "fused" or "relative": how accurate the implementation has to be.

    Returns
    -------
    Budget
        Allowed errors, in the shapes of value and gradients.

    Raises
    ------
    ValueError
        For an unknown dtype or standard, naming the argument.
    """
    a = arithmetic(dtype_name(dtype), accumulate, matmul, standard)
    loss = as_loss(loss)
    _, gradient = loss.value_and_grad(*inputs, upstream=upstream)
    value, allowed = bounds(loss, inputs, a, upstream)
    return Budget(value, gradient._replace(**allowed))


def truth(loss: Loss, inputs: Sequence[ArrayLike], upstream: Upstream = None) -> tuple[Any, Any]:
    """Return the value and the gradients that budgets are about, with an error of `TRUTH` at most."""
    return loss.value_and_grad(*inputs, upstream=upstream, engine="dd")


def bounds(loss: Loss, inputs: Sequence[ArrayLike], a: Arithmetic, upstream: Upstream = None) -> Bounds:
    """As `budget`, with the gradients by name."""
    arrays = [np.asarray(entry) for entry in inputs]
    with np.errstate(all="ignore"):  # no truth, no budget: infinite logits, the mean of nothing
        value, allowed = _HEADS[head_of(loss)](loss, arrays, a, upstream)
        if a.stored:
            value, allowed = _stored(loss, arrays, a, upstream, value, allowed)
    return np.asarray(value), allowed


def _stored(
    loss: Loss, inputs: InputList, a: Arithmetic, upstream: Upstream, value: Array, allowed: dict[str, Array]
) -> Bounds:
    """Add the rounding errors of storage: the value is rounded once, a gradient twice, alone and times upstream."""
    true, gradient = loss.value_and_grad(*inputs, upstream=upstream, engine="chain")
    most = a.stored_smallest * max(1.0, float(np.max(np.abs(1.0 if upstream is None else upstream), initial=0.0)))
    value = value + a.stored * (np.abs(true) + value) + a.stored_smallest
    twice = (2.0 + a.stored) * a.stored
    return value, {
        name: bound + twice * (np.abs(getattr(gradient, name)) + bound) + most for name, bound in allowed.items()
    }


# -------------------------------------------------------------------------------------------------- each head's budget


class _Counting(NamedTuple):
    """The rows that count, their targets, and their weights in the value."""

    kept: NDArray[np.bool_]
    """Which rows count (N,)."""
    y: NDArray[Any]
    """Their labels or probabilities."""
    t: Array
    """Their targets."""
    row_weights: Array
    """Upstream gradient of each row, with the weight of the reduction."""
    weight: Array
    """Weight of each row in the value."""
    plain_weights: Array
    """Upstream gradient of each row's terms that no class weight multiplies."""
    divisor: float
    """Relative error of the sum of weights of both signs by which "mean" divides."""

    def divided(self, error: Array, size: Array) -> Array:
        """Return the error of a quotient by that sum, from the error and the magnitude of the dividend."""
        return error if self.divisor == 0.0 else error + self.divisor * (size + error)


def divisor_error(own: Array, a: Arithmetic) -> float:
    """Return the relative error of the sum of the labels' weights (N,), each rounded; 0 for weights of one sign.

    The error of a sum that may be 0 is `UNKNOWN`.
    """
    if not (own < 0.0).any() or not (own > 0.0).any():
        return 0.0
    terms, total = np.abs(own).sum(), np.abs(math.fsum(own))
    off = float(a.sum_error(len(own), terms, total) + a.u * terms)
    return off / (total - off) if off < total else UNKNOWN


def _counting(loss: Loss, y: NDArray[Any], classes: int, upstream: Upstream, a: Arithmetic) -> _Counting:
    settings = cross_entropy_of(loss)
    kept = cross_entropy.kept(y, settings)
    counted = y[kept]
    weights = cross_entropy.weights(counted, classes, settings)
    t, divisor = cross_entropy.targets(counted, weights, settings.label_smoothing)
    upstream = np.asarray(1.0 if upstream is None else upstream, dtype=np.float64)
    upstream = upstream[kept] if upstream.ndim else upstream
    weight = cross_entropy.row_weights(np.float64(1.0), settings.reduction, divisor, len(counted))
    row_weights = cross_entropy.row_weights(upstream, settings.reduction, divisor, len(counted))
    plain = cross_entropy.row_weights(upstream, settings.reduction, float(len(counted)) or np.nan, len(counted))
    own = np.asarray(weights.v)[counted] if counted.ndim == 1 and settings.reduction == "mean" else np.ones(1)
    t, row_weights, weight, plain = (np.asarray(part) for part in (t, row_weights, weight, plain))
    return _Counting(kept, counted, t, row_weights, weight, plain, divisor_error(own, a))


def _reduced(loss: Loss, rows: Rows | Answers | Ways, of_loss: Array, counting: _Counting, a: Arithmetic) -> Array:
    """Return the error of the value from those of the rows."""
    if loss.reduction == "none":
        errors = np.full(len(counting.kept), a.smallest)
        errors[counting.kept] = of_loss + TRUTH * rows.terms
        return errors
    n = a.sum_of(len(of_loss)) + 2.0
    error = ((of_loss + (n * a.u + TRUTH) * rows.terms) * np.abs(counting.weight)).sum()
    return np.asarray(counting.divided(error, np.abs((rows.loss * counting.weight).sum())) + a.smallest)


def _put_back(errors: Array, kept: NDArray[np.bool_], a: Arithmetic) -> Array:
    """Return the errors of all rows; an ignored row has gradient 0, and may not exceed the smallest number."""
    every = np.full((len(kept), *errors.shape[1:]), a.smallest)
    every[kept] = errors + a.smallest
    return every


def _rows(z: Array, t: Array) -> Rows:
    p, saved = softmax.forward(Pair.of(z))
    log_p, _ = log_softmax.forward(Pair.of(z))
    return Rows(z, p, np.asarray(saved.q), t, -np.asarray(log_p))


def _logits(loss: Loss, inputs: InputList, a: Arithmetic, upstream: Upstream) -> Bounds:
    z, y = inputs
    shape, classes = z.shape, z.shape[-1]
    labels = y.reshape(-1, classes) if y.ndim == z.ndim else y.reshape(-1)
    upstream = np.asarray(1.0 if upstream is None else upstream)
    counting = _counting(loss, labels, classes, upstream.reshape(-1) if upstream.ndim else upstream, a)
    z = z.reshape(-1, classes).astype(np.float64)[counting.kept]
    capped = softcap_error(z, np.zeros_like(z), softcap_of(loss), a)
    rows = _rows(capped.z, counting.t)
    of_loss, of_g = cross_entropy_error(rows, capped.of_z, a)
    value = _reduced(loss, rows, of_loss, counting, a)
    scale = np.abs(counting.row_weights)[:, None]
    error = counting.divided(scale * (of_g + (3.0 * a.u + TRUTH) * np.abs(rows.g)), scale * np.abs(rows.g))
    g = counting.row_weights[:, None] * rows.g
    value, _, error = _with_options(loss, rows, capped, counting, a, value, g, error)
    error = _put_back(error, counting.kept, a)
    return value.reshape(shape[:-1]) if loss.reduction == "none" else value, {"z": error.reshape(shape)}


def _with_options(
    loss: Loss, rows: Rows, capped: Capped, counting: _Counting, a: Arithmetic, value: Array, g: Array, error: Array
) -> tuple[Array, Array, Array]:
    """Return the error of the value, dL/dz and its error with a z-loss and behind a cap, from those without."""
    z_loss = cross_entropy_of(loss).z_loss
    if z_loss:
        lse, of_lse, of_p = log_sum_exp_error(rows, capped.of_z, a)
        of_terms = z_loss * (2.0 * np.abs(lse) * of_lse + of_lse**2 + (4.0 * a.u + TRUTH) * lse**2)
        summed = (a.sum_of(len(lse)) + 2.0) * a.u * z_loss * lse**2
        value = _with_terms(loss, rows, of_terms, summed, counting, a, value)
        plain = 2.0 * z_loss * counting.plain_weights[:, None]
        through = plain * lse[:, None] * rows.p
        g = g + through
        of_through = of_lse[:, None] * (rows.p + of_p) + np.abs(lse)[:, None] * of_p
        error = error + np.abs(plain) * of_through + (5.0 * a.u + TRUTH) * np.abs(through)
        error = error + a.u * np.abs(g) + a.smallest
    error = capped.slope * error + (np.abs(g) + error) * capped.of_slope
    if softcap_of(loss) != softcap.UNCHANGED:
        error = error + (2.0 * a.u + TRUTH) * capped.slope * np.abs(g) + a.smallest
    return value, capped.slope * g, error


def _with_terms(
    loss: Loss, rows: Rows, of_terms: Array, summed: Array, counting: _Counting, a: Arithmetic, value: Array
) -> Array:
    """Return the error of the value with further terms of every row, which no class weight multiplies.

    summed is what adding them up loses, for each of them (N,).
    """
    if loss.reduction == "none":
        value = value.copy()
        value[counting.kept] += of_terms
        return value
    of_terms = of_terms + summed
    value = value + of_terms.sum() / (max(len(of_terms), 1) if loss.reduction == "mean" else 1)
    return np.asarray(value + a.u * np.abs((rows.loss * counting.weight).sum()))


def _linear(loss: Loss, inputs: InputList, a: Arithmetic, upstream: Upstream) -> Bounds:
    x, w, y, *bias = inputs
    counting = _counting(loss, y, len(w), upstream, a)
    x, w = x.astype(np.float64)[counting.kept], w.astype(np.float64)
    b = bias[0].astype(np.float64) if bias else np.zeros(len(w))
    z = x @ w.T + b

    def summed(left: Array, right: Array) -> tuple[Array, Array]:
        """Return the terms of a product and the number of those that are not 0: adding a 0 is exact."""
        return np.abs(left) @ np.abs(right), np.maximum((left != 0.0) * 1.0 @ (right != 0.0), 1.0)

    terms, count = summed(x, w.T)
    of_z = a.sum_error(count, terms, np.abs(z - b)) + 2.0 * a.factor * terms + a.u * (np.abs(b) + np.abs(z))
    of_z += a.between * (np.abs(b) + np.abs(z))
    capped = softcap_error(z, of_z, softcap_of(loss), a)
    rows = _rows(capped.z, counting.t)
    of_loss, of_g = cross_entropy_error(rows, capped.of_z, a)
    scale = np.abs(counting.row_weights)[:, None]
    g = counting.row_weights[:, None] * rows.g
    error = counting.divided(scale * (of_g + 3.0 * a.u * np.abs(rows.g)), np.abs(g)) + a.smallest
    value, g, error = _with_options(
        loss, rows, capped, counting, a, _reduced(loss, rows, of_loss, counting, a), g, error
    )
    if a.between:  # the gradient of the logits is stored too, before and after its product with upstream
        error += (2.0 + a.between) * a.between * (np.abs(g) + error)
        error += a.stored_smallest * (1.0 + np.abs(counting.row_weights).max(initial=0.0))

    def product(upstream: Array, of_upstream: Array, other: Array) -> Array:
        terms, count = summed(upstream, other)
        own = np.abs(upstream) @ np.linalg.norm(other, axis=1, keepdims=True)
        rounded = a.sum_error(count, terms, np.abs(upstream @ other)) + (a.u + 2.0 * a.factor) * terms
        return np.asarray(of_upstream @ np.abs(other) + rounded + TRUTH * own + count * a.smallest)

    allowed = {
        "x": _put_back(product(g, error, w), counting.kept, a),
        "w": product(g.T, error.T, x) + a.smallest,
    }
    if bias:
        allowed["b"] = product(g.T, error.T, np.ones((len(x), 1)))[:, 0] + a.smallest
    return value, allowed


def _margin(loss: Loss, inputs: InputList, a: Arithmetic, upstream: Upstream) -> Bounds:
    x, w, y, *given = inputs
    counting = _counting(loss, y, len(w), upstream, a)
    if not counting.kept.any():
        return _of_nothing(loss, y, dict(zip("xwm", (x, w, *given), strict=False)), a)
    x, given = x[counting.kept], [m.astype(np.float64)[counting.kept] for m in given]
    steps = loss.trace(x, w, counting.y, *given)
    z = steps["logits"].output
    s, settings = scale_of(loss), given_margin(loss) if given else margin_of(loss)
    head = _head(steps, counting.y, s)
    of_f = cosine_error(head, a)
    each, centers = np.arange(len(z)), centers_error(head.c, of_f, centers_of(loss) or 1)
    head, of_f, pairs = head._replace(y=centers.rows_of(counting.y)), centers.most(of_f), centers.of_targets(counting.y)
    held, margins = _sample_margins(loss, settings, x, head.length_x, a, *given)
    target = margin_error(head, settings, of_f[each, counting.y], a, margins, turn(x, w, head.theta, pairs))
    (of_f, slope, of_steepness), turned = _of_classes(loss, head, settings, x, w, of_f, a)
    steepness, sign = np.abs(slope), np.where(slope < 0.0, -1.0, 1.0)
    of_f[each, counting.y] = target.psi
    length = (a.sum_of(x.shape[1]) / 2.0 + 1.0) * a.u if s is None else 0.0
    scale = head.scale[:, None]
    rows = _rows(z, counting.t)
    of_z = scale * (of_f + (a.u + length) * np.abs(head.f))
    of_loss, of_g = cross_entropy_error(rows, of_z, a)

    row_weight, g = np.abs(counting.row_weights)[:, None], counting.row_weights[:, None] * rows.g
    error = counting.divided(row_weight * (of_g + 3.0 * a.u * np.abs(rows.g)), np.abs(g)) + a.smallest
    own = each, counting.y
    steepness[own], of_steepness[own], sign[own] = target.steepness, target.of_steepness, 1.0 - 2.0 * target.rises
    upward = scale * g * steepness * sign
    # On a boundary neither error is small, and their product counts.
    of_upward = scale * (steepness * error + (np.abs(g) + error) * of_steepness)
    of_upward += (2.0 * a.u + length) * np.abs(upward)
    unknown = of_steepness >= UNKNOWN
    of_upward[unknown] = 0.0  # the error of the gradient of such a target is in of_target
    upward, of_upward = centers.spread(upward, of_upward)
    most = scale * (np.abs(g) + error)
    of_target = chord_error(head.of_rows(*pairs), settings, most[own][pairs[0]], unknown[own][pairs[0]], a)
    tangents = _tangents(head, settings, upward, turned)
    dx, dw = _of_rows(head, upward, of_upward, tangents, of_target, pairs, a)
    if turned is not None:
        dx, dw = dx + turned_error(_side_x(head), turned, most), dw + turned_error(_side_w(head), turned.of_w, most.T)
    if s is None:
        dx = dx + np.abs(head.x) * scale_error(g, error, head, of_f, TRUTH, a)
    value = _reduced(loss, rows, of_loss, counting, a)
    allowed = {}
    if margins is not None:
        psi, of_psi = head.scale * np.abs(g)[own], head.scale * error[own]
        by_v = psi * target.by_v
        of_by_v = of_psi * target.by_v + (psi + of_psi) * target.of_by_v + (4.0 * a.u + length + TRUTH) * by_v
        if held is None:
            allowed["m"] = _put_back(of_by_v, counting.kept, a)
        else:
            value, of_length = _through_length(loss, rows, held, by_v, of_by_v, counting, a, value)
            dx = dx + np.abs(head.x) * of_length[:, None]
    return value, {"x": _put_back(dx, counting.kept, a), "w": (dw + a.smallest).reshape(w.shape)} | allowed


def _side_x(head: Head) -> Side:
    return Side(head.x, head.w, head.c, head.length_x)


def _side_w(head: Head) -> Side:
    return Side(head.w, head.x, head.c.T, head.length_w)


def _tangents(head: Head, settings: margin.Settings, upward: Array, turned: Turned | None) -> list[Array]:
    """Return dL/dcos times the cosine where a gradient may go through the angle (N, C): at targets, and all others."""
    tangent, target = np.zeros_like(upward), (np.arange(len(upward)), head.y)
    if not is_on_cosine(settings):
        tangent[target] = (upward * head.c)[target]
    return [tangent] if turned is None else [tangent, tangent + np.where(turned.by_angle, upward * head.c, 0.0)]


def _of_rows(
    head: Head, upward: Array, of_upward: Array, tangents: list[Array], of_target: Array, pairs: Pairs, a: Arithmetic
) -> tuple[Array, Array]:
    """Return the errors of the gradients of x and w from dL/dcos (N, C) and its error, and from the targets' own.

    The latter are those of pairs of a sample and a row.
    """
    of_x, of_w = ([part.sum(axis=1, keepdims=True) for part in each] for each in (tangents, [t.T for t in tangents]))
    dx = normalize_error(_side_x(head), upward, of_upward, TRUTH, a, *of_x)
    dw = normalize_error(_side_w(head), upward.T, of_upward.T, TRUTH, a, *of_w)
    n, row = pairs
    np.add.at(dx, n, of_target / head.length_x[n][:, None])
    np.add.at(dw, row, of_target / head.length_w[row][:, None])
    return dx, dw


def _of_nothing(loss: Loss, y: NDArray[Any], inputs: dict[str, NDArray[Any]], a: Arithmetic) -> Bounds:
    """Return the budgets where no row counts."""
    value = np.full(len(y) if loss.reduction == "none" else (), a.smallest)
    return value, {name: np.full(each.shape, a.smallest) for name, each in inputs.items()}


def _of_classes(
    loss: Loss, head: Head, settings: margin.Settings, x: Array, w: Array, of_c: Array, a: Arithmetic
) -> tuple[NegativesError, Turned | None]:
    """Return the error of what stands for each cosine (N, C), its slope, and the error of that.

    Where other classes have gradients through their angles, what these lose too.
    """
    of_hard, of_angles = negatives_of(loss), class_angles_of(loss)
    if of_angles is not None and of_angles.rule == "power":
        return power_error(head.c, of_c, of_angles.k, of_angles.m, of_angles.gradient, a), None
    if of_angles is not None:
        others = others_of(x, w, head.c, of_c, head.y, of_angles)
        return class_angles_error(others, of_c, of_angles, a.sum_of(x.shape[1]), a)
    if of_hard is None:
        return NegativesError(of_c, np.ones_like(of_c), np.zeros_like(of_c)), None
    threshold = threshold_error(head, settings, of_c[np.arange(len(of_c)), head.y], a)
    return negatives_error(head.c, of_c, threshold, of_hard, a), None


def _sample_margins(
    loss: Loss, settings: margin.Settings, x: Array, length: Array, a: Arithmetic, m: Array | None = None
) -> tuple[Held | None, SampleMargins | None]:
    """Return the held lengths and the margins of samples with their errors; those that are given have none."""
    numbers, of_length = numbers_of(loss, x, m), quality_of(loss)
    if numbers is None:
        return None, None
    if of_length is None:
        return None, SampleMargins(numbers, np.zeros(len(x)), np.zeros(len(x)))
    held = quality_error(length, of_length, a.sum_of(x.shape[1]), a)
    return held, margins_error(numbers, held.of_v, settings, a)


def _through_length(
    loss: Loss, rows: Rows, held: Held, by_v: Array, of_by_v: Array, counting: _Counting, a: Arithmetic, value: Array
) -> tuple[Array, Array]:
    """Return the error of the value with the terms of the lengths, and that of dL/d‖x‖ (N,)."""
    settings = cast(quality.Settings, quality_of(loss))
    weights = np.abs(counting.plain_weights) * np.ones(len(held.a))
    if settings.regularizer:
        terms, of_terms = regularizer_error(held, settings, TRUTH, a)
        summed = (a.sum_of(len(terms)) + 2.0) * a.u * terms
        value = _with_terms(loss, rows, of_terms + a.u * rows.terms, summed, counting, a, value)
    return value, length_error(held, settings, by_v, of_by_v, weights, TRUTH, a)


_CLASSES = ("class_angles", "negatives", "sub_centers", "cosine")
"""Stages whose output stands for the classes that are not the target, the last first."""


def _head(steps: Mapping[str, Step], y: NDArray[Any], s: float | None) -> Head:
    (x, length_x), (w, length_w) = steps["normalize_x"].output, steps["normalize_w"].output
    f = next(steps[name].output.copy() for name in _CLASSES if name in steps)
    f[np.arange(len(y)), y] = steps["margin"].output
    scale = length_x if s is None else np.full(len(y), s)
    return Head(x, w, length_x, length_w, steps["cosine"].output, f, steps["angle"].output, y, scale)


class _Scaled(NamedTuple):
    """Scaled cosines of the rows that count, with their errors (N, C)."""

    named: dict[str, NDArray[Any]]
    """The inputs by name."""
    counting: _Counting
    head: Head
    z: Array
    """z = s f."""
    of_f: Array
    """The error of f."""
    of_z: Array
    slope: Array
    """df/dc."""
    of_slope: Array
    """Its error."""


def _scaled(loss: Loss, inputs: InputList, a: Arithmetic, upstream: Upstream) -> _Scaled | None:
    """Return the scaled cosines of a loss that ends in another way than a margin loss, or None where no row counts.

    The scale is rounded, where it is a setting, and so is the product.
    """
    named = dict(zip(inputs_of(loss), inputs, strict=False))
    x, w = (named[name].astype(np.float64) for name in "xw")
    y = named.get("y", np.arange(len(x)))
    counting = _counting(loss, y, len(w), upstream, a)
    if not counting.kept.any():
        return None
    further = [entry for name, entry in named.items() if name not in "xwy"]
    labels = [counting.y] if "y" in named else []
    steps = loss.trace(x[counting.kept], w, *labels, *further)
    of_head, settings = margin_head(loss), margin_of(loss)
    s = of_head.scale if of_head.scale_input is None else float(named[of_head.scale_input])
    head = _head(steps, counting.y, s)
    own = np.arange(len(counting.y)), counting.y
    of_c = cosine_error(head, a)
    (of_f, slope, of_slope), _ = _of_classes(loss, head, settings, x, w, of_c.copy(), a)
    target = margin_error(head, settings, of_c[own], a)
    of_f[own], slope[own], of_slope[own] = target.psi, target.steepness, target.of_steepness
    scale = head.scale[:, None]
    of_z = scale * (of_f + 2.0 * a.u * np.abs(head.f))
    return _Scaled(named, counting, head, steps["logits"].output, of_f, of_z, slope, of_slope)


def _from_logits(scaled: _Scaled, g: Array, error: Array, a: Arithmetic) -> dict[str, Array]:
    """Return the errors of the gradients from dL/dz and its error (N, C)."""
    head, slope, of_slope, scale = scaled.head, scaled.slope, scaled.of_slope, scaled.head.scale[:, None]
    upward = scale * g * slope
    of_upward = scale * (slope * error + (np.abs(g) + error) * of_slope) + 3.0 * a.u * np.abs(upward)
    dx = normalize_error(_side_x(head), upward, of_upward, TRUTH, a)
    dw = normalize_error(_side_w(head), upward.T, of_upward.T, TRUTH, a)
    allowed = {"x": _put_back(dx, scaled.counting.kept, a), "w": dw + a.smallest}
    if "b" in scaled.named:
        allowed["b"] = total_error(np.ones(1), error, g, 0.0, TRUTH, a)
    for name in scaled.named.keys() & {"s", "t"}:
        allowed[name] = total_error(head.f, error, g, scaled.of_f, TRUTH, a)
    return allowed


def _sigmoid(loss: Loss, inputs: InputList, a: Arithmetic, upstream: Upstream) -> Bounds:
    scaled = _scaled(loss, inputs, a, upstream)
    if scaled is None:
        named = dict(zip(inputs_of(loss), inputs, strict=False))
        return _of_nothing(loss, named.pop("y"), named, a)
    link, counting = link_of(loss), scaled.counting
    b = link.bias_sign * float(scaled.named.get("b", 0.0))
    biased = bias_error(scaled.z, scaled.of_z, b, link.bound, a)
    target = counting.t != 0.0
    v = np.where(target, float(link.positive), float(link.negative))
    answers = Answers(np.where(target, -biased.z, biased.z), v, target)
    several = target.shape[1] * (1 if loss.reduction == "none" else len(target))
    of_loss, of_g = binary_cross_entropy_error(answers, biased.of_z, several, a)
    row_weights = counting.row_weights[:, None]
    g = row_weights * answers.g
    error = np.abs(row_weights) * of_g + 3.0 * a.u * np.abs(g) + a.smallest
    error = np.where(biased.passes | biased.either, error, 0.0) + np.where(biased.either, np.abs(g), 0.0)
    value = _reduced(loss, answers, of_loss, counting, a)
    return value, _from_logits(scaled, np.where(biased.passes, g, 0.0), error, a)


def _two_way(loss: Loss, inputs: InputList, a: Arithmetic, upstream: Upstream) -> Bounds:
    scaled = cast(_Scaled, _scaled(loss, inputs, a, upstream))
    z, t = scaled.z, scaled.counting.t
    ways = Ways(tuple(_rows(each, t) for each in (z, z.T)[: ways_of(loss)]))
    of_loss, g, error = two_way_error(ways, scaled.of_z, scaled.counting.row_weights, a)
    value = _reduced(loss, ways, of_loss, scaled.counting, a)
    return value, _from_logits(scaled, g, error + a.smallest, a)


def _triplet(loss: Loss, inputs: InputList, a: Arithmetic, upstream: Upstream) -> Bounds:
    anchor, positive, negative = (entry.astype(np.float64) for entry in inputs)
    settings = triplet_of(loss)
    triplets = Triplets(anchor - positive, anchor - negative, settings.m, settings.squared)
    rows, slopes = triplet_error(triplets, TRUTH, a)
    n = len(anchor)
    upstream = np.asarray(1.0 if upstream is None else upstream, dtype=np.float64)
    row_weights = np.abs(upstream / n if loss.reduction == "mean" else upstream) * np.ones(n)
    allowed = {name: row_weights[:, None] * slope + a.smallest for name, slope in slopes.items()}
    allowed = {"anchor": allowed["positive"] + allowed["negative"]} | allowed
    if loss.reduction == "none":
        return rows, allowed
    near, far = triplets.distances
    summed = (a.sum_of(n) + 2.0) * a.u * np.maximum(near - far + settings.m, 0.0)
    total = (rows + summed).sum()
    return np.asarray(total / n if loss.reduction == "mean" else total), allowed


def _divergence(loss: Loss, inputs: InputList, a: Arithmetic, upstream: Upstream) -> Bounds:
    shape = inputs[0].shape
    z, target = (entry.reshape(-1, shape[-1]).astype(np.float64) for entry in inputs)
    pairs = Divergences(z, target, divergence_of(loss).form)
    rows, slopes = divergence_error(pairs, TRUTH, a)
    n = len(z)
    upstream = np.asarray(1.0 if upstream is None else upstream, dtype=np.float64).reshape(-1)
    row_weights = np.abs(upstream / n if loss.reduction == "mean" else upstream) * np.ones(n)
    allowed = {name: (row_weights[:, None] * slope + a.smallest).reshape(shape) for name, slope in slopes.items()}
    if loss.reduction == "none":
        return rows.reshape(shape[:-1]), allowed
    losses = np.asarray(with_settings(loss, reduction="none")(z, target))
    total = (rows + (a.sum_of(n) + 2.0) * a.u * (losses + rows)).sum()
    return np.asarray(total / n if loss.reduction == "mean" else total), allowed


_HEADS: dict[str, Callable[[Loss, InputList, Arithmetic, Upstream], Bounds]] = {
    "logits": _logits,
    "linear": _linear,
    "margin": _margin,
    "sigmoid": _sigmoid,
    "two_way": _two_way,
    "triplet": _triplet,
    "divergence": _divergence,
}
