"""Wrong gradients that every gradient check of the suite must reject.

A mutant takes the gradients of one loss by name, as a dict, and returns them changed in one place. `GROSS` holds what
any check must see; `FINE` what a check against exact numbers must see as well. `loss_mutants` and `settings_mutants`
hold those that need the loss, `input_mutants` those that need its inputs. `everywhere` puts a mutant on every input in
turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

import refloss
from refloss.error_free import where
from refloss.stages import bias, binary_cross_entropy, class_angles, margin, negatives

Gradients = dict[str, np.ndarray]
Mutant = Callable[[Gradients], Gradients]


def _largest(gradients: Gradients) -> tuple[str, tuple[int, ...]]:
    """Where the largest entry of the first gradient stands."""
    name = next(iter(gradients))
    array = gradients[name]
    return name, tuple(int(i) for i in np.unravel_index(np.abs(array).argmax(), array.shape))


def _changed(gradients: Gradients, change: Callable[[np.ndarray], np.ndarray]) -> Gradients:
    """Change the first gradient as a whole."""
    name = next(iter(gradients))
    return gradients | {name: change(gradients[name].copy())}


def dropped_term(gradients: Gradients) -> Gradients:
    """One entry lost."""
    name, index = _largest(gradients)
    array = gradients[name].copy()
    array[index] = 0.0
    return gradients | {name: array}


def swapped_index(gradients: Gradients) -> Gradients:
    """The largest and the smallest entry changed places."""
    name, index = _largest(gradients)
    array = gradients[name].copy()
    other = np.unravel_index(np.abs(array).argmin(), array.shape)
    array[index], array[other] = array[other], array[index]
    return gradients | {name: array}


GROSS: dict[str, Mutant] = {
    "all zero": lambda g: {name: np.zeros_like(array) for name, array in g.items()},
    "sign": lambda g: _changed(g, np.negative),
    "factor 2": lambda g: _changed(g, lambda array: 2.0 * array),
    "factor 1.001": lambda g: _changed(g, lambda array: 1.001 * array),
    "dropped term": dropped_term,
    "swapped index": swapped_index,
    "last input's gradient zero": lambda g: g | {(name := list(g)[-1]): np.zeros_like(g[name])},
    "NaN": lambda g: _changed(g, lambda array: np.where(np.abs(array) == np.abs(array).max(), np.nan, array)),
}

FINE: dict[str, Mutant] = {
    "factor 1 + 1e-12": lambda g: _changed(g, lambda array: array * (1.0 + 1e-12)),
    "one entry, 1 + 1e-12": lambda g: _changed(
        g, lambda array: np.where(np.abs(array) == np.abs(array).max(), array * (1.0 + 1e-12), array)
    ),
    "rounded to float32": lambda g: _changed(g, lambda array: array.astype(np.float32).astype(np.float64)),
}


def _of_centers(change: Callable[[np.ndarray], np.ndarray]) -> Mutant:
    """Change the gradients of centers (C, K, D), where such are first; others are doubled."""
    return lambda g: _changed(g, lambda array: change(array) if array.ndim == 3 else 2.0 * array)


CENTERS: dict[str, Mutant] = {
    "to another center": _of_centers(lambda array: np.roll(array, 1, axis=1)),
    "to all centers alike": _of_centers(lambda array: 0.0 * array + array.mean(axis=1, keepdims=True)),
    "a little to all centers": _of_centers(lambda array: array + 1e-3 * array.sum(axis=1, keepdims=True)),
}
"""What a gradient of centers may be wrong by."""


class Altered(NamedTuple):
    """A loss whose gradients come of a stage that has a function replaced."""

    loss: Any
    stage: ModuleType
    name: str
    function: Callable[..., Any]

    def value_and_grad(self, *inputs: Any, **options: Any) -> Any:
        with mock.patch.object(self.stage, self.name, self.function):
            return self.loss.value_and_grad(*inputs, **options | {"engine": "chain"})


class _AttachedQuality(refloss.AdaFace):
    """AdaFace with a gradient through the length of x."""

    @property
    def _quality(self) -> Any:
        return super()._quality._replace(detached=False)


class _WrongSign(refloss.AdaFace):
    """AdaFace with -v."""

    @property
    def _quality(self) -> Any:
        of_v = super()._quality
        return of_v._replace(offset=-of_v.offset, factor=-of_v.factor)


def _settings(loss: Any) -> dict[str, Any]:
    return {field.name: getattr(loss, field.name) for field in fields(loss)}


def _half_detached(loss: Any) -> Altered:
    """The target's slope as if its margin were a constant, the margin's own gradient as it is."""
    curve_of = margin.curve_of
    return Altered(loss, margin, "curve_of", lambda own: curve_of(own)._replace(slope=lambda target: -target.theta.sin))


def _twice_t(loss: Any) -> Altered:
    """2t in the slope of hard classes, where t belongs."""

    def backward(upstream: Any, saved: Any) -> Any:
        return upstream * (saved.slope + loss.t * saved.hard)

    return Altered(loss, negatives, "backward", backward)


def _circle_mutants(loss: Any) -> dict[str, Any]:
    """The weight of the target, of the others, or of both as a constant."""
    forward, curve_of = negatives.forward, margin.curve_of

    def of_others(c: Any, threshold: Any, y: Any, settings: Any, exactly: Any) -> Any:
        return forward(c, threshold, y, settings._replace(gradient="detached"), exactly)

    return {
        "weight constant": replace(loss, gradient="detached"),
        "half detached": Altered(loss, negatives, "forward", of_others),
        "half detached, the target": Altered(
            loss, margin, "curve_of", lambda own: curve_of(own._replace(gradient="detached"))
        ),
    }


def _angle_mutants(loss: Any) -> dict[str, Any]:
    """Slopes of other classes: detached, without 1/m, without the penalty, or of the k-th one with its wrong sign."""
    forward, slope_of, settings = class_angles.forward, class_angles.slope_of, loss.spec.class_angles

    def without_m(sin_phi: Any, sin: Any, own: Any) -> Any:
        return slope_of(sin_phi, sin, own) * own.m

    def without_penalty(sin_phi: Any, sin: Any, own: Any) -> Any:
        return -sin

    def other_sign(c: Any, x: Any, w: Any, y: Any, own: Any) -> Any:
        eta, saved = forward(c, x, w, y, own)
        cosines, slope = c.hi[saved.n, saved.k], np.array(saved.slope_of_angle)
        for n in set(saved.n.tolist()):
            entries = np.flatnonzero(saved.n == n)
            last = entries[cosines[entries].argmin()]
            slope[last] = -np.sin(np.arccos(np.clip(cosines[last], -1.0, 1.0)) + own.m)
        return eta, saved._replace(slope_of_angle=slope)

    if settings.rule == "divided":
        if settings.gradient == "detached":
            return {}
        return {
            "other classes detached": replace(loss, gradient="detached"),
            "1/m left out": Altered(loss, class_angles, "slope_of", without_m),
        }
    return {
        "penalty detached": Altered(loss, class_angles, "slope_of", without_penalty),
        "penalty of the k-th class with the wrong sign": Altered(loss, class_angles, "forward", other_sign),
    }


def angle_path_left_out(loss: Any) -> dict[str, Any]:
    """For inputs with classes that go through their angle: what they add to the gradients is not there."""
    backward = class_angles.backward

    def without(upstream: Any, saved: Any) -> Any:
        dc, dx, dw = backward(upstream, saved)
        return dc, dx * 0.0, dw * 0.0

    return {"angle path left out": Altered(loss, class_angles, "backward", without)}


def loss_mutants(loss: Any, given: bool = False) -> dict[str, Any]:
    """Losses with another gradient than `loss`: a margin detached, or half, and others of single losses.

    With margins `given`, they have a gradient.
    """
    by_title: dict[str, Any] = {}
    by_length = isinstance(loss, refloss.AdaFace | refloss.MagFace)
    if getattr(loss, "gradient", None) == "exact" and hasattr(loss, "target_slope"):
        detached, length = replace(loss, gradient="detached"), (2.0,) if by_length else ()
        if abs(detached.target_slope(1.0, *length) - loss.target_slope(1.0, *length)) >= 1e-3:
            if not isinstance(loss, refloss.CircleLoss):
                by_title["detached margin"] = detached
            if given or isinstance(loss, refloss.MagFace):
                by_title["half detached"] = _half_detached(loss)
    if isinstance(loss, refloss.MagFace) and loss.regularizer:
        by_title["regularizer without its gradient"] = replace(loss, regularizer=0.0)
    if isinstance(loss, refloss.AdaFace):
        by_title["quality attached"] = _AttachedQuality(**_settings(loss))
        by_title["sign of v"] = _WrongSign(**_settings(loss))
    if isinstance(loss, refloss.CurricularFace | refloss.MVSoftmax) and loss.t:
        by_title["2t"] = _twice_t(loss)
    if isinstance(loss, refloss.CircleLoss) and loss.gradient == "exact":
        by_title |= _circle_mutants(loss)
    if isinstance(loss, refloss.SphereFaceR | refloss.InterTopK) and loss.spec.class_angles:
        by_title |= _angle_mutants(loss)
    return by_title


class Reckoned(NamedTuple):
    """A loss whose gradients are changed, by name, after the fact."""

    loss: Any
    change: Mutant

    def value_and_grad(self, *inputs: Any, **options: Any) -> Any:
        value, gradients = self.loss.value_and_grad(*inputs, **options | {"engine": "chain"})
        return value, self.change(gradients._asdict())


def link_mutants(loss: Any, inputs: tuple[Any, ...]) -> dict[str, Any]:
    """Losses on scaled cosines that do not end in one cross entropy, with what their gradients may be wrong by."""
    if isinstance(loss, refloss.InfoNCE):
        if loss.ways == 1:
            return {"the other way": Reckoned(loss, lambda g: g | {"x": g["w"], "w": g["x"]})}
        twice = Reckoned(loss, lambda g: {name: 2.0 * array for name, array in g.items()})
        return {"ways without 1/2": twice, "one way alone": replace(loss, ways=1)}
    if not isinstance(loss, refloss.SphereFace2 | refloss.UniFace | refloss.SigLIP):
        return {}
    forward, backward = binary_cross_entropy.forward, bias.backward

    def target_of(z: Any, y: Any) -> Any:
        return np.arange(z.shape[1]) == y[:, None]

    def without_sign(z: Any, y: Any, settings: Any) -> Any:
        losses, saved = forward(z, y, settings)
        return losses, saved._replace(slope=where(target_of(z, y), -saved.slope, saved.slope))

    def exchanged(z: Any, y: Any, settings: Any) -> Any:
        return forward(z, y, settings._replace(positive=settings.negative, negative=settings.positive))

    pairs = isinstance(loss, refloss.SigLIP)
    y = np.arange(len(inputs[0])) if pairs else np.asarray(inputs[2])
    y = y if pairs else y[y != loss.ignore_index]

    def without_target(upstream: Any, saved: Any) -> Any:
        dz, _ = backward(upstream, saved)
        return dz, backward(where(target_of(dz, y), 0.0, dz), saved)[1]

    by_title: dict[str, Any] = {
        "sign of the target forgotten": Altered(loss, binary_cross_entropy, "forward", without_sign)
    }
    link = loss.spec.link
    if link.positive != link.negative:
        by_title["weights exchanged"] = Altered(loss, binary_cross_entropy, "forward", exchanged)
    if len(inputs) == 4:
        by_title["db without the target"] = Altered(loss, bias, "backward", without_target)
    if pairs:
        _, _, t, b = inputs
        by_title["dt with b"] = Reckoned(loss, lambda g: g | {"t": g["t"] + g["b"] * b / t})
        by_title["b not in dt"] = Reckoned(loss, lambda g: g | {"t": loss.value_and_grad(*inputs[:3], 0.0)[1].t})
    if isinstance(loss, refloss.SphereFace2) and loss.gradient == "exact" and loss.t > 1:
        by_title["dg/dc := 1"] = replace(loss, gradient="detached")
    if isinstance(loss, refloss.UniFace) and len(inputs) == 4:
        by_title["bias with the wrong sign"] = Reckoned(loss, lambda g: g | {"b": -g["b"]})
    return by_title


def settings_mutants(loss: Any, rows: int) -> dict[str, Any]:
    """Losses whose gradient forgets a setting of `loss` that has to do with targets, or reduces the rows otherwise."""
    by_title = {}
    if getattr(loss, "label_smoothing", 0.0):
        by_title["smoothing forgotten"] = replace(loss, label_smoothing=0.0)
    if getattr(loss, "class_weight", None) is not None:
        by_title["class weights forgotten"] = replace(loss, class_weight=None)
    if getattr(loss, "logit_scale", 1.0) != 1.0:
        by_title["scale forgotten"] = replace(loss, logit_scale=1.0)
    if getattr(loss, "softcap", None) is not None:
        by_title["softcap forgotten"] = replace(loss, softcap=None)
    if getattr(loss, "z_loss", 0.0):
        by_title["z-loss forgotten"] = replace(loss, z_loss=0.0)
        by_title["z-loss halved"] = replace(loss, z_loss=loss.z_loss / 2.0)
    if rows > 1:
        other = "sum" if loss.reduction == "mean" else "mean"
        by_title[f"reduction={other!r}"] = replace(loss, reduction=other)
    return by_title


def input_mutants(inputs: Gradients) -> dict[str, Mutant]:
    """Mutants for gradients of directions: the projection left out, so that rows keep a part along their vector."""

    def unprojected(gradients: Gradients) -> Gradients:
        name = next(iter(gradients))
        array, v = gradients[name], inputs[name]
        lengths, sizes = (np.linalg.norm(rows, axis=-1, keepdims=True) for rows in (v, array))
        return gradients | {name: array + 0.1 * sizes * v / lengths}

    return {"projection dropped": unprojected}


def everywhere(mutants: dict[str, Mutant], gradients: Gradients) -> dict[str, Gradients]:
    """What every mutant makes of the gradients when each input in turn is the first; the order of inputs is kept."""
    by_title = {}
    for first in gradients:
        turned = {first: gradients[first]} | gradients
        for title, mutant in mutants.items():
            if title == "swapped index" and gradients[first].size == 1:
                continue
            changed = mutant(turned)
            by_title[f"{title}, {first} first"] = {name: changed[name] for name in gradients}
    return by_title
