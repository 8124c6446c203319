"""The chain: the picture read downwards, and then upwards, in NumPy.

    x, W ──► normalize ──► cosine ──► sub_centers ──► negatives ──► class_angles ┐
    x, w_y ─► angle ──► margin ──────────────────────────────────────────────────┴─► logits ──► log_softmax,
                 quality ─┘                                        logsumexp ──► cross_entropy ──► loss

The plain head has `linear` in place of both branches; cross entropy alone begins at the logits; both may have a
`softcap` before log_softmax. The output of `logsumexp` is one of its own; with a `z_loss` it is also a term of the
loss. `sub_centers`, `negatives`, `class_angles` and `quality`, a number per sample from the length of x, are there for
the losses that have them. Some go from the logits through `bias` and `binary_cross_entropy` instead, or through
log_softmax both by rows and by columns. Triplet and divergence are pictures of their own.

Each picture runs its stages forward and returns their outputs, and a function that runs them backward in the opposite
order, on what they saved. Arithmetic is float64, with pairs where 53 bits are too few.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refloss import inputs
from refloss.engines.counting import counted
from refloss.engines.protocol import IN_FLOAT64, Request, ValueAndGradients
from refloss.engines.spec import (
    UPSTREAM_LSE,
    Arrays,
    Divergence,
    Linear,
    Logits,
    Margin,
    Sigmoid,
    Spec,
    Triplet,
    TwoWay,
    WithCap,
    WithLabels,
)
from refloss.error_free import (
    Array,
    Integers,
    Numbers,
    Pair,
    Scaled,
    StageResult,
    frexp,
    ldexp,
    plain,
    put,
    rounded,
    rounded_total,
    total_by_label,
)
from refloss.fixed_point import Between
from refloss.stages import (
    angle,
    bias,
    binary_cross_entropy,
    class_angles,
    cosine,
    cross_entropy,
    divergence,
    linear,
    log_softmax,
    logits,
    logsumexp,
    margin,
    negatives,
    normalize,
    quality,
    softcap,
    softmax,
    sub_centers,
    triplet,
    z_loss,
)


class Normalized(NamedTuple):
    """Output of a normalize stage in a trace."""

    unit: Array
    """Unit rows."""
    norm: Array
    """Their lengths before; the gradient is 0 unless the length is the scale."""


class Step(NamedTuple):
    """One stage of a trace."""

    output: Any
    """The output of the stage: an array, or `Normalized`."""
    gradient: Any
    """The gradient of the loss with respect to that, of the same form."""


Stages: TypeAlias = dict[str, Any]
"""Outputs of stages, or gradients with respect to them, by stage name; numbers of any kind."""
Backward: TypeAlias = Callable[[Array], tuple[Stages, Stages]]
"""From the upstream gradient to gradients by stage, and by input."""
PER_CLASS_STAGES = frozenset({"normalize_w"})
"""Stages whose output has one row per class."""


class _Walk(NamedTuple):
    """A walk through the picture, and back if there is an upstream gradient."""

    outputs: Stages
    gradients: Stages
    input_gradients: Arrays

    @property
    def loss(self) -> Array:
        """The output of the last stage."""
        return np.asarray(self.outputs[next(reversed(self.outputs))])


def value(spec: Spec, arrays: Arrays, request: Request = IN_FLOAT64) -> Array:
    """Return the loss."""
    return _walk(spec, arrays, None).loss


def value_and_grad(
    spec: Spec,
    arrays: Arrays,
    upstream: Array,
    request: Request = IN_FLOAT64,
) -> ValueAndGradients:
    """Return the loss and its gradients by the name of the input."""
    walk = _walk(spec, arrays, upstream)
    return walk.loss, walk.input_gradients


def trace(spec: Spec, arrays: Arrays, upstream: Array) -> dict[str, Step]:
    """Return every stage's output and the gradient with respect to it, by stage name, in the order of the picture."""
    walk = _walk(spec, arrays, upstream)
    return {name: Step(output, walk.gradients[name]) for name, output in walk.outputs.items()}


def _walk(spec: Spec, arrays: Arrays, upstream: Array | None) -> _Walk:
    """Go down the picture and, given an upstream gradient, up again, leaving out the rows that are ignored."""
    rows = counted(spec, arrays, upstream)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        outputs, backward = _forward(spec, rows.arrays)
        gradients, input_gradients = ({}, {}) if rows.upstream is None else backward(rows.upstream)
        outputs, gradients, input_gradients = (
            {name: _plain(result) for name, result in results.items()}
            for results in (outputs, gradients, input_gradients)
        )

    def restored(stages: Stages) -> Stages:
        return {name: it if name in PER_CLASS_STAGES else _restored(it, rows.restored) for name, it in stages.items()}

    return _Walk(restored(outputs), restored(gradients), rows.gradients(input_gradients))


def _plain(result: Any) -> Any:
    return Normalized(*map(plain, result)) if isinstance(result, Normalized) else plain(result)


def _restored(result: Any, restored: Callable[[Array], Array]) -> Any:
    return Normalized(*map(restored, result)) if isinstance(result, Normalized) else restored(result)


def _forward(spec: Spec, arrays: Arrays) -> tuple[Stages, Backward]:
    """Run the stages of a loss forward."""
    match spec:
        case Logits():
            return _capped(spec, Pair.of(arrays["z"]), arrays)
        case Linear():
            return _linear(spec, arrays)
        case Margin():
            return _margin(spec, arrays)
        case Sigmoid() | TwoWay():
            return _sigmoid(spec, arrays) if isinstance(spec, Sigmoid) else _two_way(spec, arrays)
        case Divergence():
            return _divergence(spec, arrays)
        case _:  # Triplet
            return _triplet(spec, arrays)


# ---------------------------------------------------------------------------------------- cross entropy on given logits


def _logits(spec: WithLabels, z: Pair, arrays: Arrays, terms: Pair | None = None) -> tuple[Stages, Backward]:
    """Cross entropy of logits, plus terms of every row that they do not depend on."""
    settings, y, upstream_lse = spec.cross_entropy, arrays["y"], arrays.get(UPSTREAM_LSE)
    parts = softmax.exponentials(z)
    log_p, saved_log_softmax = log_softmax.forward(z, parts)
    lse, saved_lse = logsumexp.forward(z, parts)
    row_terms, saved_z_loss = z_loss.forward(lse, settings.z_loss) if settings.z_loss else (None, None)
    weights = cross_entropy.weights(y, log_p.shape[1], settings)
    targets = cross_entropy.targets(y, weights, settings.label_smoothing)
    added = row_terms if terms is None else rounded(terms)
    loss, saved_cross_entropy = cross_entropy.forward(log_p, targets, settings.reduction, added)

    def backward(upstream: Array) -> tuple[Stages, Stages]:
        dlog_p = cross_entropy.backward(upstream, saved_cross_entropy)
        dz = log_softmax.backward(dlog_p, saved_log_softmax)
        of_lse = 0.0 if upstream_lse is None else upstream_lse
        dlse = cross_entropy.row_weights(of_lse, "none", 1.0, len(y))
        gradients = {"log_softmax": dlog_p, "cross_entropy": upstream}
        if saved_z_loss is not None:
            gradients["z_loss"] = cross_entropy.row_weights(upstream, settings.reduction, float(len(y)), len(y))
            dlse = dlse + z_loss.backward(gradients["z_loss"], saved_z_loss)
        if saved_z_loss is not None or upstream_lse is not None:
            dz = dz + logsumexp.backward(dlse, saved_lse)
        return gradients | {"logsumexp": dlse}, {"z": dz}

    of_lse = {} if row_terms is None else {"z_loss": row_terms}
    return {"log_softmax": log_p, "logsumexp": lse.hi} | of_lse | {"cross_entropy": loss}, backward


def _capped(spec: WithCap, z: Pair, arrays: Arrays) -> tuple[Stages, Backward]:
    """Scale and cap logits before their cross entropy."""
    if spec.softcap == softcap.UNCHANGED:
        return _logits(spec, z, arrays)
    capped, saved_softcap = softcap.forward(z, spec.softcap)
    inputs.check_scaled_logits_fit(z.hi, capped.hi)
    outputs, logits_backward = _logits(spec, capped, arrays)

    def backward(upstream: Array) -> tuple[Stages, Stages]:
        gradients, dlogits = logits_backward(upstream)
        return gradients | {"softcap": dlogits["z"]}, {"z": softcap.backward(dlogits["z"], saved_softcap)}

    return {"softcap": capped.hi} | outputs, backward


# ------------------------------------------------------------------------------------------------------ the plain head


def _linear(spec: Linear, arrays: Arrays) -> tuple[Stages, Backward]:
    z, saved_linear = linear.forward(arrays["x"], arrays["w"], arrays.get("b"))
    inputs.check_logits_fit(z.hi)
    outputs, logits_backward = _capped(spec, z, arrays)

    def backward(upstream: Array) -> tuple[Stages, Stages]:
        gradients, dlogits = logits_backward(upstream)
        dz = dlogits["z"]
        dx, dw, db = linear.backward(dz, saved_linear)
        return gradients | {"linear": dz}, {"x": dx, "w": dw, "b": db}

    return {"linear": z.hi} | outputs, backward


# ---------------------------------------------------------------------------------------------------- the margin heads


class _Head(NamedTuple):
    """Logits of a margin head, and the way back from them."""

    outputs: Stages
    z: Pair
    terms: Pair | None
    """What the length of each embedding adds to the loss of its row (N,)."""
    backward: Callable[[StageResult, Array, Stages], tuple[Stages, Stages]]
    """From dL/dz, the upstream gradient and the gradients by stage so far to gradients by stage, and by input."""


def _margin(spec: Margin, arrays: Arrays) -> tuple[Stages, Backward]:
    head = _head(spec, arrays)
    outputs, logits_backward = _logits(spec, head.z, arrays, head.terms)

    def backward(upstream: Array) -> tuple[Stages, Stages]:
        gradients, dlogits = logits_backward(upstream)
        return head.backward(dlogits["z"], upstream, gradients)

    return head.outputs | outputs, backward


def _head(spec: Margin, arrays: Arrays) -> _Head:
    x, w, y = arrays["x"], arrays["w"], arrays["y"]
    unit_x, unit_w = normalize.forward(x), normalize.forward(w)
    cosines, saved_cosine = cosine.forward(unit_x, unit_w)
    c, own, saved_centers = class_cosines(spec, arrays, cosines)
    theta, saved_angle = angle.forward(x, w[own])
    v, terms, saved_quality = quality_of(spec, arrays, unit_x)
    psi, saved_margin = margin.forward(theta, spec.margin, v)
    eta, saved_negatives = hard_negatives(spec, arrays, c, saved_margin)
    eta, saved_class_angles = changed_angles(spec, eta, x, w, y)
    s = spec.scale_in(arrays)
    scale, exponent = logits.scale_of(s, unit_x.length, unit_x.exponent)
    z, saved_logits = logits.forward(eta, psi, y, scale, exponent)
    inputs.check_logits_fit(z.hi)

    def backward(dz: StageResult, upstream: Array, gradients: Stages) -> tuple[Stages, Stages]:
        deta, dpsi, dscale = logits.backward(dz, saved_logits)
        given_scale = {} if spec.scale_input is None else {spec.scale_input: rounded_total(dscale)}
        dtheta, dv = margin.backward(dpsi, saved_margin)
        dc = deta if saved_negatives is None else negatives.backward(deta, saved_negatives)
        if saved_class_angles is not None:
            dc, dx_others, dw_others = class_angles.backward(deta, saved_class_angles)
        dx_target, dw_target = angle.backward(dtheta, saved_angle)
        dcosines = dc if saved_centers is None else sub_centers.backward(dc, saved_centers)
        dunit_x, dunit_w = cosine.backward(dcosines, saved_cosine)
        if s is not None:
            dscale = np.zeros(len(z))
        if saved_quality is not None and dv is not None:
            reduction, rows = spec.cross_entropy.reduction, len(z)
            dterms = cross_entropy.row_weights(upstream, reduction, float(rows), rows)
            dscale = dscale + quality.backward(dv, saved_quality, dterms)
        dx = normalize.backward(dunit_x, unit_x, dscale) + dx_target
        dw = normalize.backward(dunit_w, unit_w) + _by_class(dw_target, own, len(w))
        if saved_class_angles is not None:
            dx = dx + _by_class(dx_others, saved_class_angles.n, len(x))
            dw = dw + _by_class(dw_others, saved_class_angles.k, len(w))
        gradients |= {
            "normalize_x": Normalized(dunit_x, dscale),
            "normalize_w": Normalized(dunit_w, np.zeros(len(w))),
            "cosine": dcosines,
            "sub_centers": dc,
            "angle": dtheta,
            "margin": dpsi,
            "negatives": deta,
            "class_angles": deta,
            "logits": dz,
        } | ({} if dv is None else {"quality": dv})
        return gradients, {"x": dx, "w": dw} | ({} if dv is None else {"m": dv}) | given_scale

    return _Head(
        {
            "normalize_x": Normalized(unit_x.unit, unit_x.norm.hi),
            "normalize_w": Normalized(unit_w.unit, unit_w.norm.hi),
            "cosine": cosines.hi,
            **({} if saved_centers is None else {"sub_centers": c.hi}),
            "angle": theta.theta.hi,
            **({} if saved_quality is None or v is None else {"quality": v.value.hi}),
            "margin": psi.hi,
            **({} if saved_negatives is None else {"negatives": eta.hi}),
            **({} if saved_class_angles is None else {"class_angles": eta.hi}),
            "logits": z.hi,
        },
        z,
        terms,
        backward,
    )


def class_cosines(spec: Margin, arrays: Arrays, cosines: Pair) -> tuple[Pair, Integers, sub_centers.Saved | None]:
    """Return the cosine of every class, the row of w of every target, and of classes with centers which was chosen."""
    x, w, y = arrays["x"], arrays["w"], arrays["y"]
    if spec.centers is None:
        return cosines, y, None
    known = cosine.refined(cosines, x, w, *sub_centers.close(cosines, spec.centers))
    chosen = sub_centers.nearest(known, spec.centers, sub_centers.exactly(x, w))
    c, saved = sub_centers.forward(known, chosen)
    return c, chosen[np.arange(len(y)), y], saved


def quality_of(
    spec: Margin, arrays: Arrays, unit_x: normalize.Directions
) -> tuple[quality.Quality | None, Pair | None, quality.Saved | None]:
    """Return the number that each sample's margin depends on, and the terms that its length adds to the loss."""
    if "m" in arrays:
        return quality.given(type(unit_x.length).of(arrays["m"])), None, None
    if spec.quality is None:
        return None, None, None
    v, terms, saved = quality.forward(arrays["x"], unit_x, spec.quality)
    return v, terms if spec.quality.regularizer else None, saved


def hard_negatives(spec: Margin, arrays: Arrays, c: Pair, saved: margin.Saved) -> tuple[Pair, negatives.Saved | None]:
    """Raise the cosines of hard classes, those next to the threshold found again."""
    if spec.negatives is None:
        return c, None
    x, w = arrays["x"], arrays["w"]
    threshold = negatives.threshold_of(spec.negatives, saved.threshold)
    known = cosine.refined(c, x, w, *negatives.close(c, threshold))
    exactly = negatives.above(x, w, spec.negatives, saved.exactly)
    return negatives.forward(known, threshold, arrays["y"], spec.negatives, exactly)


def changed_angles(
    spec: Margin, c: Pair, x: Array | Pair, w: Array | Pair, y: Integers
) -> tuple[Pair, class_angles.Saved | None]:
    """Change the angles of the other classes, for losses that do."""
    return (c, None) if spec.class_angles is None else class_angles.forward(c, x, w, y, spec.class_angles)


def _by_class(rows: Numbers, y: Integers, classes: int) -> StageResult:
    """Add up the rows of every class: backward of taking w[y], or x[n]."""
    present, sums = total_by_label(rows, y)
    dense = np.zeros((classes, rows.shape[1]))
    by_class = Scaled.of(dense) if isinstance(sums, Scaled) else dense
    put(by_class, present, sums)
    return by_class


# --------------------------------------------------------------------------------------- other losses on scaled cosines


def _sigmoid(spec: Sigmoid, arrays: Arrays) -> tuple[Stages, Backward]:
    head, y = _head(spec.logits, arrays), arrays["y"]
    sign = spec.link.bias_sign
    b = sign * arrays.get("b", np.zeros(()))
    z, saved_bias = bias.forward(head.z, Pair.of(b), spec.link.bound, beyond_bound(spec, arrays, float(b)))
    inputs.check_logits_fit(z.hi)
    losses, saved = binary_cross_entropy.forward(z, y, spec.link)
    rows = len(y)

    def backward(upstream: Array) -> tuple[Stages, Stages]:
        row_weights = cross_entropy.row_weights(upstream, spec.reduction, float(rows), rows)
        dz_shifted = binary_cross_entropy.backward(row_weights, saved)
        dz, db = bias.backward(dz_shifted, saved_bias)
        gradients = {"bias": dz_shifted, "binary_cross_entropy": row_weights, "reduction": upstream}
        gradients, of_inputs = head.backward(dz, upstream, gradients)
        return gradients, of_inputs | ({"b": db * sign} if "b" in arrays else {})

    loss = cross_entropy.reduce(losses, spec.reduction, np.asarray(float(rows) or np.nan))
    return head.outputs | {"bias": z.hi, "binary_cross_entropy": losses, "reduction": loss}, backward


def beyond_bound(spec: Sigmoid, arrays: Arrays, b: float) -> Callable[[int, int], int]:
    """Return what tells the sign of |s f + b| - K exactly, where f is a cosine, less m of the target.

    The cosine is above a rational number if its square is, signs apart.
    """
    numbers = spec.logits.scale_in(arrays), spec.logits.margin.m3, spec.link.bound
    s, m, bound = (Fraction(float(number or 0.0)) for number in numbers)

    def sign(n: int, k: int) -> int:
        square = Between.of(arrays["x"][n], arrays["w"][k]).signed_square
        margin_of_class = m if arrays["y"][n] == k else Fraction(0)
        high, low = ((side * bound - Fraction(b)) / s + margin_of_class for side in (1, -1))
        beyond = max(square - high * abs(high), low * abs(low) - square)
        return int(beyond > 0) - int(beyond < 0)

    return sign


def _two_way(spec: TwoWay, arrays: Arrays) -> tuple[Stages, Backward]:
    head, y, rows = _head(spec.logits, arrays), arrays["y"], len(arrays["y"])
    ways = [head.z, head.z.T][: spec.ways]
    parts = [log_softmax.forward(z) for z in ways]
    own = [-log_p[np.arange(rows), y] for log_p, _ in parts]
    losses = own[0] if spec.ways == 1 else 0.5 * (own[0] + own[1])

    def backward(upstream: Array) -> tuple[Stages, Stages]:
        row_weights = cross_entropy.row_weights(upstream, spec.reduction, float(rows), rows)
        each = row_weights * (1.0 / spec.ways)
        targets = np.eye(rows)
        dz_ways = [log_softmax.backward(-each[:, None] * targets, saved) for _, saved in parts]
        dz = dz_ways[0] if spec.ways == 1 else dz_ways[0] + dz_ways[1].T
        gradients = {"log_softmax": -each[:, None] * targets, "two_way": row_weights, "reduction": upstream}
        return head.backward(dz, upstream, gradients)

    loss = cross_entropy.reduce(losses, spec.reduction, np.asarray(float(rows)))
    return head.outputs | {"log_softmax": parts[0][0], "two_way": losses, "reduction": loss}, backward


# ------------------------------------------------------------------------------------------------------------- triplet


def _triplet(spec: Triplet, arrays: Arrays) -> tuple[Stages, Backward]:
    m, squared, reduction = spec.triplet
    losses, saved = triplet.forward(arrays["anchor"], arrays["positive"], arrays["negative"], m, squared)

    def backward(upstream: Array) -> tuple[Stages, Stages]:
        rows = len(saved.active)
        mantissa, exponent = frexp(upstream)
        row_weights = cross_entropy.row_weights(mantissa, reduction, np.float64(rows), rows)
        danchor, dpositive, dnegative = triplet.backward(row_weights, saved, exponent)
        gradients = {"triplet": ldexp(row_weights, exponent), "reduction": upstream}
        return gradients, {"anchor": danchor, "positive": dpositive, "negative": dnegative}

    return {"triplet": triplet.reduce(losses, "none"), "reduction": triplet.reduce(losses, reduction)}, backward


# ---------------------------------------------------------------------------------------------------------- divergence


def _divergence(spec: Divergence, arrays: Arrays) -> tuple[Stages, Backward]:
    form, reduction = spec.divergence
    losses, saved = divergence.forward(Pair.of(arrays["z"]), Pair.of(arrays["target"]), form)
    rows = len(losses)

    def backward(upstream: Array) -> tuple[Stages, Stages]:
        row_weights = cross_entropy.row_weights(upstream, reduction, np.float64(rows), rows)
        dz, dtarget = divergence.backward(row_weights, saved)
        return {"divergence": row_weights, "reduction": upstream}, {"z": dz, "target": dtarget}

    loss = cross_entropy.reduce(losses, reduction, np.asarray(float(rows)))
    return {"divergence": losses, "reduction": loss}, backward
