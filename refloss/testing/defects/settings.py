"""Defects that are other settings of the same loss, or another of its reductions and targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.functions import softmax
from refloss.losses import ArcFace, ASoftmax, CircleLoss, CombinedMargin, CosFace
from refloss.stages import divergence, margin
from refloss.testing.defects.emulations import OfInputs, Reweighted, Scaled, labels_alone, number_of_classes
from refloss.testing.defects.inputs import other_inputs
from refloss.testing.defects.row import Defect, setting
from refloss.testing.signatures import (
    LABELS,
    Inputs,
    Loss,
    class_weight_of,
    cross_entropy_of,
    divergence_of,
    has_cap,
    has_labels,
    head_of,
    ignore_index_of,
    margin_of,
    on_cosines,
    softcap_of,
    with_settings,
)

AGREES = "value and gradient agree with"
IN_RADIANS = ("ArcFace", "CombinedMargin", "CurricularFace", "SubCenterArcFace", "InterTopK")
"""Losses whose margin m, or m2, is an angle that is given in radians."""


def is_margin(loss: Any) -> bool:
    """Whether a loss has the curve of a margin, and ends in one cross entropy or in another way."""
    return head_of(loss) == "margin" or on_cosines(loss)


def is_softmax(loss: Any) -> bool:
    """Whether a loss is one cross entropy with labels."""
    return has_labels(loss) and not on_cosines(loss)


def _has_gradient(convention: str, loss: Any) -> bool:
    return is_margin(loss) and margin_of(loss).gradient == convention and hasattr(loss, "gradient")


def _is_detached(convention: str, what: type | None, loss: Any) -> bool:
    return _has_gradient(convention, loss) and isinstance(loss, CircleLoss) == (what is CircleLoss)


def _is_capped(loss: Any) -> bool:
    return has_cap(loss) and softcap_of(loss).softcap is not None


def _is_smoothed(loss: Any) -> bool:
    return is_softmax(loss) and cross_entropy_of(loss).label_smoothing != 0.0


def _differs(name: str, value: object, loss: Any) -> bool:
    return getattr(loss, name, value) != value


def _none(loss: Any) -> float:
    """Return the margin that changes nothing."""
    return 1.0 if type(loss).__name__ in ("ASoftmax", "SphereFaceR") else 0.0


def _in_degrees(loss: Any) -> Loss:
    name = "m2" if type(loss).__name__ == "CombinedMargin" else "m"
    return with_settings(loss, **{name: np.radians(getattr(loss, name))})


REDUCTIONS = tuple(
    setting(
        f"reduction={reduction}",
        f"{reduction} instead of {{loss.reduction}}",
        partial(_differs, "reduction", reduction),
        reduction=reduction,
    )
    for reduction in ("mean", "sum", "none")
)

GRADIENTS = tuple(
    setting(
        f"gradient={other}, {what}",
        f"the gradient is that of the {other} {what}",
        partial(_is_detached, own, kind),
        gradient=other,
    )
    for what, kind in (("margin", None), ("weights", CircleLoss))
    for own, other in (("exact", "detached"), ("detached", "exact"))
)


def _has_other_rule(rule: str, loss: Any) -> bool:
    return is_margin(loss) and hasattr(loss, "boundary") and margin_of(loss).boundary != rule


RULES = tuple(
    setting(f"boundary={rule}", f"{AGREES} boundary={rule!r}", partial(_has_other_rule, rule), boundary=rule)
    for rule in margin.RULES
)

MARGINS = (
    Defect(
        "margin in degrees",
        "margin taken in degrees",
        lambda loss: is_margin(loss) and type(loss).__name__ in IN_RADIANS,
        _in_degrees,
    ),
    setting("no margin", "no margin", lambda loss: is_margin(loss) and hasattr(loss, "m"), m=_none),
    setting(
        "no margin, no rule",
        "no margin",
        lambda loss: is_margin(loss) and hasattr(loss, "m") and margin_of(loss).boundary != "none",
        m=_none,
        boundary="none",
    ),
    setting("no annealing", "no annealing", lambda loss: is_margin(loss) and hasattr(loss, "annealing"), annealing=0.0),
    setting(
        "annealing inverted",
        "one over the annealing is taken for it",
        lambda loss: is_margin(loss) and getattr(loss, "annealing", 0.0) not in (0.0, 1.0),
        annealing=lambda loss: 1.0 / loss.annealing,
    ),
    setting("no scale", "no scale", lambda loss: is_margin(loss) and hasattr(loss, "s"), s=1.0),
    setting(
        "length as scale",
        "the length of the embedding as the scale",
        lambda loss: is_margin(loss) and getattr(loss, "s", None) is not None,
        s=None,
    ),
)


def _of_family(kind: type, loss: Any) -> Any:
    """Return another loss of the family with the settings that both have, and its own rule."""
    names = {field.name for field in dataclasses.fields(kind)} - {"boundary"}
    return kind(**{name: getattr(loss, name) for name in names if hasattr(loss, name)})


def _is_other(kind: type, loss: Any) -> bool:
    return type(loss) in (ArcFace, CosFace, ASoftmax) and type(loss) is not kind


def _is_combined(*which: str) -> Callable[[Any], bool]:
    nothing = {"m1": 1.0, "m2": 0.0, "m3": 0.0}
    return lambda loss: isinstance(loss, CombinedMargin) and all(getattr(loss, m) != nothing[m] for m in which)


FAMILY = (
    *(
        Defect(
            f"{kind.__name__} with this m",
            f"{AGREES} another loss of the family",
            partial(_is_other, kind),
            partial(_of_family, kind),
        )
        for kind in (ArcFace, CosFace)
    ),
    setting("m1 left out", "m1 is left out", _is_combined("m1"), m1=1.0),
    setting("m2 left out", "m2 is left out", _is_combined("m2"), m2=0.0),
    setting("m3 left out", "m3 is left out", _is_combined("m3"), m3=0.0),
    setting(
        "m2 and m3 exchanged",
        "m2 and m3 are exchanged",
        _is_combined("m2", "m3"),
        m2=lambda loss: loss.m3,
        m3=lambda loss: loss.m2,
    ),
    setting(
        "m1 and m2 left out",
        "m1 and m2 are left out where m3 is above 0: the loss is CosFace",
        _is_combined("m3"),
        m1=1.0,
        m2=0.0,
    ),
)

FORMS = tuple(
    setting(
        f"form={form}",
        f"{AGREES} form={form!r}",
        lambda loss, form=form: head_of(loss) == "divergence" and divergence_of(loss).form != form,  # type: ignore[misc]
        form=form,
    )
    for form in divergence.FORMS
)

CAPS = (
    setting(
        "no division by the softcap",
        "the logits are not divided by the softcap before the tanh",
        _is_capped,
        logit_scale=lambda loss: loss.logit_scale * loss.softcap,
    ),
    setting(
        "no product with the softcap",
        "the tanh is not multiplied by the softcap",
        _is_capped,
        logit_scale=lambda loss: loss.logit_scale / loss.softcap,
        softcap=1.0,
    ),
    setting(
        "scale after the softcap",
        "the logit scale multiplies the capped logits",
        lambda loss: _is_capped(loss) and loss.logit_scale != 1.0,
        softcap=lambda loss: loss.logit_scale * loss.softcap,
    ),
)


def _of_others(taken: int, loss: Any, inputs: Inputs) -> Loss:
    """Return the loss with a smoothing of eps/(C - 1), or eps/(C - 2), on each of the other classes alone."""
    classes, eps = number_of_classes(inputs, loss), cross_entropy_of(loss).label_smoothing
    return with_settings(loss, label_smoothing=eps * classes / max(classes - taken, 1))


def _spread(loss: Any) -> OfInputs:
    eps = cross_entropy_of(loss).label_smoothing
    return OfInputs(loss, f"label_smoothing={eps:g} * C / (C - 1)", partial(_of_others, 1))


TARGETS = (
    setting("no label smoothing", "no label smoothing", _is_smoothed, label_smoothing=0.0),
    Defect(
        "smoothing eps/(C - 1)",
        "label smoothing of eps/(C - 1) on the other classes, not eps/C on all",
        _is_smoothed,
        _spread,
    ),
    setting("no class weights", "class weights left out", lambda loss: bool(class_weight_of(loss)), class_weight=None),
    setting(
        "class weights without sign",
        "class weights without their sign",
        lambda loss: min(class_weight_of(loss) or (0.0,)) < 0.0,
        class_weight=lambda loss: tuple(map(abs, loss.class_weight)),
    ),
    setting("no z-loss", "the z-loss is left out", partial(_differs, "z_loss", 0.0), z_loss=0.0),
    setting("no softcap", "no softcap", partial(_differs, "softcap", None), softcap=None),
    setting("no logit scale", "no logit scale", partial(_differs, "logit_scale", 1.0), logit_scale=1.0),
)

# ---------------------------------------------------------------------------------------------------------------- means


def _of_halves(up: int, own: Array, kept: NDArray[np.bool_]) -> Array:
    first = (len(own) + up) // 2
    return np.asarray(0.5 / np.where(np.arange(len(own)) < first, own[:first].sum(), own[first:].sum()))


def _of_number(own: Array, kept: NDArray[np.bool_]) -> Array:
    return kept / np.count_nonzero(kept)


def _by_all_weights(loss: Any, inputs: Inputs) -> float:
    y, v = labels_alone(inputs[LABELS[head_of(loss)]]), np.asarray(class_weight_of(loss))
    kept = y != ignore_index_of(loss)
    return float(v[y[kept]].sum() / v.sum())


def _is_mean(loss: Any) -> bool:
    return has_labels(loss) and loss.reduction == "mean"


def reweighted(
    name: str, sentence: str, remedy: str, applies: Callable[[Any], bool], shares: Callable[..., Array]
) -> Defect:
    """Return a row of a mean whose rows are weighted otherwise."""
    return Defect(name, sentence, applies, lambda loss: Reweighted(loss, remedy, shares))


MEANS = (
    *(
        reweighted(
            f"mean of means, halves of {'N + 1' if up else 'N'}",
            "the mean of the means of two halves",
            "add up both, and divide once by what counts in both",
            _is_mean,
            partial(_of_halves, up),
        )
        for up in (0, 1)
    ),
    reweighted(
        "weighted sum over N",
        "the weighted sum is divided by the number of rows",
        "divide by the sum of the weights of the labels",
        lambda loss: _is_mean(loss) and bool(class_weight_of(loss)),
        _of_number,
    ),
    Defect(
        "weighted sum over all weights",
        "the weighted sum is divided by the sum of the weights of all classes",
        lambda loss: _is_mean(loss) and bool(class_weight_of(loss)),
        lambda loss: Scaled(loss, "divide by the sum of the weights of the labels", _by_all_weights),
    ),
    reweighted(
        "ignored rows counted",
        "ignored rows are counted in the mean",
        "divide by the number of labels that count, not by N",
        lambda loss: _is_mean(loss) and not class_weight_of(loss) and ignore_index_of(loss) is not None,
        lambda own, kept: kept / len(kept),
    ),
)

# -------------------------------------------------------------------------------------------------------------- factors


def _counted(loss: Any, inputs: Inputs) -> int:
    """Return how many rows a mean counts."""
    if not has_labels(loss):
        return len(inputs[0])
    y = labels_alone(inputs[LABELS[head_of(loss)]])
    return int(np.count_nonzero(y != ignore_index_of(loss)))


def _is_plain_mean(loss: Any) -> bool:
    return bool(loss.reduction == "mean") and not class_weight_of(loss)


def _is_plain_mean_of_classes(loss: Any) -> bool:
    return _is_plain_mean(loss) and is_softmax(loss)


def _by_number(loss: Any, inputs: Inputs) -> float:
    return 1.0 / max(_counted(loss, inputs), 1)


def _over_others(by: int, loss: Any, inputs: Inputs) -> float:
    count = _counted(loss, inputs)
    return count / max(count + by, 1)


def _over_classes(loss: Any, inputs: Inputs) -> float:
    return _counted(loss, inputs) / number_of_classes(inputs, loss)


def _times(factor: float, loss: Any, inputs: Inputs) -> float:
    return factor


def scaled(
    name: str, sentence: str, remedy: str, applies: Callable[[Any], bool], factor: Callable[[Any, Inputs], float]
) -> Defect:
    """Return a row of a value and gradients that are multiplied by a number."""
    return Defect(name, sentence, applies, lambda loss: Scaled(loss, remedy, factor))


WORLDS = (2, 4, 8, 16, 32, 64)
"""Numbers of processes."""
FACTORS = (
    scaled(
        "divided by N twice", "value and gradients are divided by N twice", "once is enough", _is_plain_mean, _by_number
    ),
    *(
        scaled(
            f"mean over N {sign} 1",
            f"the sum is divided by N {sign} 1",
            "divide by N",
            _is_plain_mean,
            partial(_over_others, by),
        )
        for sign, by in (("-", -1), ("+", 1))
    ),
    scaled(
        "mean over classes",
        "the sum is divided by the number of classes",
        "divide by N",
        _is_plain_mean_of_classes,
        _over_classes,
    ),
    *(
        scaled(
            f"{how} {world}",
            f"value and gradients are {how} {world}",
            "as by a number of processes that is multiplied in or divided by once too often",
            lambda loss: True,
            partial(_times, float(world) if how == "multiplied by" else 1.0 / world),
        )
        for how in ("multiplied by", "divided by")
        for world in WORLDS
    ),
)

# ---------------------------------------------------------------------------------------------------------- divergences


def _is_divergence(loss: Any) -> bool:
    return head_of(loss) == "divergence"


def _one_of_classes(loss: Any, inputs: Inputs) -> float:
    return 1.0 / int(inputs[0].shape[-1])


def _of_probabilities(loss: Any, inputs: Inputs) -> Inputs:
    z, target = inputs
    return z, softmax(target)


def _through_softmax(name: str, gradient: Array, inputs: Inputs) -> Array:
    p = softmax(inputs[1])
    return p * (gradient - (p * gradient).sum(axis=-1, keepdims=True)) if name == "target" else gradient


DIVERGENCES = (
    Defect(
        "mean over entries",
        'divided by the number of entries, as reduction="mean" of torch\'s kl_div: take "batchmean"',
        lambda loss: _is_divergence(loss) and loss.reduction == "mean",
        lambda loss: Scaled(loss, "", _one_of_classes),
        "step",
    ),
    other_inputs(
        "softmax of the target twice",
        "softmax of the target taken twice: of its logits, and of their probabilities again",
        _is_divergence,
        _of_probabilities,
        _through_softmax,
        kept=("z",),
    ),
)
