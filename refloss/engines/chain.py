"""The chain: the picture read downwards, and then upwards, in NumPy.

    x, W ──► normalize ──► cosine ─────────────┐
    x, w_y ─► angle ──► margin ────────────────┴─► logits ──► log_softmax ──► cross_entropy ──► loss

The plain head has `linear` in place of both branches; cross entropy alone begins at the logits; triplet is a picture
of its own. Each ``_down`` runs the stages forward and keeps what they saved, each ``_up`` runs them backward in the
opposite order. Arithmetic is float64, with pairs where 53 bits are too few.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refloss import inputs
from refloss.engines import Arrays, Spec, without_ignored
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
    total_by_label,
)
from refloss.stages import (
    angle,
    cosine,
    cross_entropy,
    linear,
    log_softmax,
    logits,
    margin,
    normalize,
    triplet,
)

Outputs: TypeAlias = dict[str, Any]
Gradients: TypeAlias = dict[str, Any]
Saved: TypeAlias = dict[str, Any]


class Step(NamedTuple):
    """One stage of a trace."""

    output: Any
    """What the stage put out."""
    gradient: Any
    """The gradient of the loss with respect to that, of the same form."""


class Normalized(NamedTuple):
    """Output of a normalize stage in a trace."""

    unit: Array
    """Unit rows."""
    norm: Array
    """Their lengths before; the gradient is 0 unless the length is the scale."""


class _Walk(NamedTuple):
    """What a walk through the picture brings back: by stage, and by input."""

    outputs: dict[str, Any]
    gradients: dict[str, Any]
    of_inputs: dict[str, Array]


def value(spec: Spec, arrays: Arrays) -> Array:
    """Return the loss."""
    return _result(_walk(spec, arrays, None))


def value_and_grad(spec: Spec, arrays: Arrays, upstream: Array) -> tuple[Array, dict[str, Array]]:
    """Return the loss and its gradients by the name of the input."""
    walk = _walk(spec, arrays, upstream)
    return _result(walk), walk.of_inputs


def trace(spec: Spec, arrays: Arrays, upstream: Array) -> dict[str, Step]:
    """Return every stage's output and the gradient with respect to it, by stage name, in the order of the picture."""
    walk = _walk(spec, arrays, upstream)
    return {name: Step(output, walk.gradients[name]) for name, output in walk.outputs.items()}


def _result(walk: _Walk) -> Array:
    return np.asarray(list(walk.outputs.values())[-1])


def _walk(spec: Spec, arrays: Arrays, upstream: Array | None) -> _Walk:
    """Go down the picture and, given an upstream gradient, up again, leaving out the rows that are ignored."""
    some, above, restored = without_ignored(spec, arrays, upstream)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        down, up = _PICTURES[spec.head]
        outputs, saved = down(spec, some)
        gradients, of_inputs = ({}, {}) if above is None else up(spec, above, saved)

        found = [{name: _plain(part) for name, part in parts.items()} for parts in (outputs, gradients, of_inputs)]

    def back(name: str, part: Any) -> Any:
        if isinstance(part, Normalized):
            return Normalized(restored(name, part.unit), restored(name, part.norm))
        return restored(name, part)

    return _Walk(*({name: back(name, part) for name, part in parts.items()} for parts in found))


def _plain(part: Any) -> Any:
    return Normalized(*map(plain, part)) if isinstance(part, Normalized) else plain(part)


# ---------------------------------------------------------------------------------------- cross entropy on given logits


def _logits_down(spec: Spec, arrays: Arrays) -> tuple[Outputs, Saved]:
    log_p, of_log_softmax = log_softmax.forward(Pair.of(arrays["z"]))
    weights = cross_entropy.weights(arrays["y"], log_p.shape[1], spec.cross_entropy)
    targets = cross_entropy.targets(arrays["y"], weights, spec.cross_entropy.label_smoothing)
    loss, of_cross_entropy = cross_entropy.forward(log_p, targets, spec.cross_entropy.reduction)
    outputs = {"log_softmax": log_p, "cross_entropy": loss}
    return outputs, {"log_softmax": of_log_softmax, "cross_entropy": of_cross_entropy}


def _logits_up(spec: Spec, upstream: Array, saved: Saved) -> tuple[Gradients, Gradients]:
    log_p = cross_entropy.backward(upstream, saved["cross_entropy"])
    z = log_softmax.backward(log_p, saved["log_softmax"])
    return {"log_softmax": log_p, "cross_entropy": upstream}, {"z": z}


# ------------------------------------------------------------------------------------------------------ the plain head


def _linear_down(spec: Spec, arrays: Arrays) -> tuple[Outputs, Saved]:
    z, of_linear = linear.forward(arrays["x"], arrays["w"], arrays.get("b"))
    inputs.check_logits_fit(z.hi)
    outputs, saved = _logits_down(spec, {"z": z, "y": arrays["y"]})
    return {"linear": z.hi} | outputs, {"linear": of_linear} | saved


def _linear_up(spec: Spec, upstream: Array, saved: Saved) -> tuple[Gradients, Gradients]:
    gradients, of_inputs = _logits_up(spec, upstream, saved)
    x, w, b = linear.backward(of_inputs["z"], saved["linear"])
    return gradients | {"linear": of_inputs["z"]}, {"x": x, "w": w, "b": b}


# ---------------------------------------------------------------------------------------------------- the margin heads


def _margin_down(spec: Spec, arrays: Arrays) -> tuple[Outputs, Saved]:
    x, w, y = arrays["x"], arrays["w"], arrays["y"]
    to_x, to_w = normalize.forward(x), normalize.forward(w)
    c, of_cosine = cosine.forward(to_x, to_w)
    theta, of_angle = angle.forward(x, w[y])
    psi, of_margin = margin.forward(theta, spec.margin)
    if spec.scale is None:
        scale, exponent = to_x.length, to_x.exponent
    else:
        mantissa, exponent = np.frexp(np.full(len(y), spec.scale))
        scale = Pair.of(mantissa)
    z, of_logits = logits.forward(c, psi, y, scale, exponent)
    inputs.check_logits_fit(z.hi)
    outputs, saved = _logits_down(spec, {"z": z, "y": y})
    outputs = {
        "normalize_x": Normalized(to_x.unit, to_x.norm.hi),
        "normalize_w": Normalized(to_w.unit, to_w.norm.hi),
        "cosine": c.hi,
        "angle": theta.theta.hi,
        "margin": psi.hi,
        "logits": z.hi,
    } | outputs
    saved |= {
        "normalize_x": to_x,
        "normalize_w": to_w,
        "cosine": of_cosine,
        "angle": of_angle,
        "margin": of_margin,
        "logits": of_logits,
    }
    return outputs, saved


def _margin_up(spec: Spec, upstream: Array, saved: Saved) -> tuple[Gradients, Gradients]:
    gradients, of_inputs = _logits_up(spec, upstream, saved)
    z = of_inputs["z"]
    c, psi, scale = logits.backward(z, saved["logits"])
    theta = margin.backward(psi, saved["margin"])
    target_x, target_w = angle.backward(theta, saved["angle"])
    unit_x, unit_w = cosine.backward(c, saved["cosine"])
    if spec.scale is not None:
        scale = np.zeros(len(z))
    x = normalize.backward(unit_x, saved["normalize_x"], scale) + target_x
    w = normalize.backward(unit_w, saved["normalize_w"]) + _by_class(target_w, saved["logits"].y, len(unit_w))
    gradients |= {
        "normalize_x": Normalized(unit_x, scale),
        "normalize_w": Normalized(unit_w, np.zeros(len(unit_w))),
        "cosine": c,
        "angle": theta,
        "margin": psi,
        "logits": z,
    }
    return gradients, {"x": x, "w": w}


def _by_class(rows: Numbers, y: Integers, classes: int) -> StageResult:
    """Add up the rows of every class: backward of taking w[y]."""
    present, summed = total_by_label(rows, y)
    out = np.zeros((classes, rows.shape[1]))
    whole = Scaled.of(out) if isinstance(summed, Scaled) else out
    put(whole, present, summed)
    return whole


# ------------------------------------------------------------------------------------------------------------- triplet


def _triplet_down(spec: Spec, arrays: Arrays) -> tuple[Outputs, Saved]:
    m, squared, reduction = spec.triplet
    losses, of_triplet = triplet.forward(arrays["anchor"], arrays["positive"], arrays["negative"], m, squared)
    outputs = {"triplet": triplet.reduce(losses, "none"), "reduction": triplet.reduce(losses, reduction)}
    return outputs, {"triplet": of_triplet}


def _triplet_up(spec: Spec, upstream: Array, saved: Saved) -> tuple[Gradients, Gradients]:
    rows = len(saved["triplet"].active)
    mantissa, exponent = frexp(upstream)
    losses = cross_entropy.coefficient(mantissa, spec.triplet.reduction, np.float64(rows), rows)
    anchor, positive, negative = triplet.backward(losses, saved["triplet"], exponent)
    of_inputs = {"anchor": anchor, "positive": positive, "negative": negative}
    return {"triplet": ldexp(losses, exponent), "reduction": upstream}, of_inputs


_Down: TypeAlias = Callable[[Spec, Arrays], tuple[Outputs, Saved]]
_Up: TypeAlias = Callable[[Spec, Array, Saved], tuple[Gradients, Gradients]]

_PICTURES: dict[str, tuple[_Down, _Up]] = {
    "logits": (_logits_down, _logits_up),
    "linear": (_linear_down, _linear_up),
    "margin": (_margin_down, _margin_up),
    "triplet": (_triplet_down, _triplet_up),
}
