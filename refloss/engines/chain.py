"""The chain: the picture read downwards, and then upwards, in NumPy.

    x, W ──► normalize ──► cosine ──► sub_centers ──► negatives ──► class_angles ┐
    x, w_y ─► angle ──► margin ──────────────────────────────────────────────────┴─► logits ──► log_softmax,
                 quality ─┘                                        logsumexp ──► cross_entropy ──► loss

The plain head has `linear` in place of both branches; cross entropy alone begins at the logits; both may have a
`softcap` before log_softmax. The output of `logsumexp` is one of its own; with a `z_loss` it is also a term of the
loss. `sub_centers`, `negatives`, `class_angles` and `quality`, a number per sample from the length of x, are there for
the losses that have them. Triplet and divergence are pictures of their own.

Each picture runs its stages forward and returns their outputs, and a function that runs them backward in the opposite
order, on what they saved. Arithmetic is float64, with pairs where 53 bits are too few.
"""

from __future__ import annotations

from collections.abc import Callable
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
    Spec,
    Triplet,
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
    total_by_label,
)
from refloss.stages import (
    angle,
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


def _margin(spec: Margin, arrays: Arrays) -> tuple[Stages, Backward]:
    x, w, y = arrays["x"], arrays["w"], arrays["y"]
    unit_x, unit_w = normalize.forward(x), normalize.forward(w)
    cosines, saved_cosine = cosine.forward(unit_x, unit_w)
    c, own, saved_centers = class_cosines(spec, arrays, cosines)
    theta, saved_angle = angle.forward(x, w[own])
    v, terms, saved_quality = quality_of(spec, arrays, unit_x)
    psi, saved_margin = margin.forward(theta, spec.margin, v)
    eta, saved_negatives = hard_negatives(spec, arrays, c, saved_margin)
    eta, saved_class_angles = changed_angles(spec, eta, x, w, y)
    scale, exponent = logits.scale_of(spec.scale, unit_x.length, unit_x.exponent)
    z, saved_logits = logits.forward(eta, psi, y, scale, exponent)
    inputs.check_logits_fit(z.hi)
    outputs, logits_backward = _logits(spec, z, arrays, terms)

    def backward(upstream: Array) -> tuple[Stages, Stages]:
        gradients, dlogits = logits_backward(upstream)
        dz = dlogits["z"]
        deta, dpsi, dscale = logits.backward(dz, saved_logits)
        dtheta, dv = margin.backward(dpsi, saved_margin)
        dc = deta if saved_negatives is None else negatives.backward(deta, saved_negatives)
        if saved_class_angles is not None:
            dc, dx_others, dw_others = class_angles.backward(deta, saved_class_angles)
        dx_target, dw_target = angle.backward(dtheta, saved_angle)
        dcosines = dc if saved_centers is None else sub_centers.backward(dc, saved_centers)
        dunit_x, dunit_w = cosine.backward(dcosines, saved_cosine)
        if spec.scale is not None:
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
        return gradients, {"x": dx, "w": dw} | ({} if dv is None else {"m": dv})

    return {
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
    } | outputs, backward


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
