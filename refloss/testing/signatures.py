"""What a loss is called with, and those of its settings that inputs, budgets and diagnoses depend on.

All of `refloss.testing` reads a loss's spec here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from refloss.engines.chain import Step
from refloss.engines.spec import (
    KINDS,
    MARGINS,
    Divergence,
    Margin,
    OnCosines,
    Sigmoid,
    Spec,
    Triplet,
    TwoWay,
    WithCap,
    WithLabels,
)
from refloss.error_free import Array
from refloss.losses.margin import PerSampleLoss
from refloss.messages import shown
from refloss.stages import (
    angle,
    binary_cross_entropy,
    class_angles,
    cross_entropy,
    divergence,
    margin,
    negatives,
    normalize,
    quality,
    softcap,
    triplet,
)

Inputs: TypeAlias = tuple[NDArray[Any], ...]
"""What a loss is called with, in order: float64 arrays, some of shape (), and integer labels or probabilities."""

INPUTS: dict[str, tuple[str, ...]] = {kind.head: tuple(each.name for each in kind.inputs) for kind in KINDS}
"""Names of all inputs that losses of a head have, by the head; `inputs_of` has those of one loss."""
LABELS = {head: names.index("y") for head, names in INPUTS.items() if "y" in names}
"""Position of the labels among the inputs, of losses that are called with labels."""
FIELDS: dict[str, tuple[str, ...]] = {kind.head: kind.differentiable() for kind in KINDS}
"""Names of the inputs that have gradients."""


class Loss(Protocol):
    """A loss of refloss, called with the inputs of its head."""

    @property
    def spec(self) -> Spec:
        """What an engine needs to know of it."""

    @property
    def reduction(self) -> str:
        """One of "mean", "sum" and "none"."""

    def __call__(self, *inputs: Any, engine: str = "auto") -> Any:
        """Return the value."""

    def value_and_grad(self, *inputs: Any, upstream: Any = None, engine: str = "auto") -> tuple[Any, Any]:
        """Return the value and the named tuple of its gradients."""

    def trace(self, *inputs: Any, upstream: Any = None) -> Mapping[str, Step]:
        """Return every stage's output and gradient."""


def as_loss(loss: Any) -> Loss:
    """Return a loss; of its class, the loss with the default settings."""
    instance = loss() if isinstance(loss, type) and hasattr(loss, "spec") else loss
    if not isinstance(getattr(instance, "spec", None), Spec):
        raise TypeError(f"loss: expected a loss of refloss such as refloss.ArcFace(m=0.5); got {shown(loss)}")
    return cast(Loss, instance)


def with_settings(loss: Loss, **changes: object) -> Loss:
    """Return the loss with other settings; it refuses those that it does not have or that are out of range."""
    return cast(Loss, dataclasses.replace(cast(Any, loss), **changes))


def head_of(loss: Loss) -> str:
    """Return what the loss begins with: "logits", "linear" or "margin"; or what it is.

    That is "sigmoid", "two_way", "triplet" or "divergence".
    """
    return loss.spec.head


def takes_margins(loss: Loss) -> bool:
    """Whether a loss may be called with margins, one per sample, as its fourth input."""
    return isinstance(loss, PerSampleLoss)


def on_cosines(loss: Loss) -> bool:
    """Whether a loss ends in another way than in one cross entropy, on scaled cosines."""
    return isinstance(loss.spec, OnCosines)


def of_pairs(loss: Loss) -> bool:
    """Whether a loss is of pairs of embeddings, with a scale that is an input, and without labels."""
    return isinstance(loss.spec, OnCosines) and loss.spec.logits.scale_input is not None


def of_directions(loss: Loss) -> bool:
    """Whether rows of x and w count by their directions alone."""
    return loss.spec.directions


def scale_place(loss: Loss) -> int:
    """Return the position of the scale among the inputs, of a loss of pairs."""
    return inputs_of(loss).index(cast(str, margin_head(loss).scale_input))


def may_have_bias(loss: Loss) -> bool:
    """Whether the last input of a loss is a bias that may be left out."""
    return "b" in INPUTS[head_of(loss)] and not of_pairs(loss)


def inputs_of(loss: Loss) -> tuple[str, ...]:
    """Return the names of the inputs of a loss; the last may be left out where it is margins, or `may_have_bias`."""
    others = set() if takes_margins(loss) else {MARGINS.name}
    if on_cosines(loss):
        others |= {"y"} if of_pairs(loss) else {"t"}
    return tuple(name for name in INPUTS[head_of(loss)] if name not in others)


def fields_of(loss: Loss) -> tuple[str, ...]:
    """Return the names of the inputs of a loss that have gradients."""
    return tuple(name for name in inputs_of(loss) if name != "y")


def labels_of(loss: Loss) -> int | None:
    """Return the position of the labels among the inputs; None for a loss without labels."""
    return LABELS[head_of(loss)] if has_labels(loss) else None


def has_labels(loss: Loss) -> bool:
    """Whether a loss is called with labels, and has the settings that go with them."""
    return "y" in inputs_of(loss)


def cross_entropy_of(loss: Loss) -> cross_entropy.Settings:
    """Return the settings of the cross entropy of a loss with labels, or of pairs, whose labels are their own."""
    return cast(WithLabels | OnCosines, loss.spec).cross_entropy


def softcap_of(loss: Loss) -> softcap.Settings:
    """Return the scale and the cap of the logits of a loss on logits."""
    return cast(WithCap, loss.spec).softcap


def has_cap(loss: Loss) -> bool:
    """Whether a loss has settings of a scale and a cap of its logits."""
    return head_of(loss) in ("logits", "linear")


def has_options(loss: Loss) -> bool:
    """Whether a loss on logits has a cap or a z-loss, so that what all logits have in common counts too."""
    capped = has_cap(loss) and softcap_of(loss).softcap is not None
    return capped or (has_labels(loss) and cross_entropy_of(loss).z_loss != 0.0)


def has_row_terms(loss: Loss) -> bool:
    """Whether rows have terms that no class weight multiplies: a z-loss, or a regularizer of lengths."""
    settings = quality_of(loss) if head_of(loss) == "margin" else None
    of_lengths = settings is not None and settings.regularizer != 0.0
    return of_lengths or (has_labels(loss) and cross_entropy_of(loss).z_loss != 0.0)


def class_weight_of(loss: Loss) -> tuple[float, ...] | None:
    """Return the class weights, if the loss has any."""
    return cross_entropy_of(loss).class_weight if has_labels(loss) else None


def ignore_index_of(loss: Loss) -> int | None:
    """Return the label that is ignored, if there is one."""
    return cross_entropy_of(loss).ignore_index if has_labels(loss) else None


def margin_head(loss: Loss) -> Margin:
    """Return the settings of all that comes before the logits, of a loss on directions."""
    return cast(Margin, loss.spec.logits if isinstance(loss.spec, OnCosines) else loss.spec)


def margin_of(loss: Loss) -> margin.Settings:
    """Return the settings of the curve of a margin head."""
    return margin_head(loss).margin


def given_margin(loss: Loss) -> margin.Settings:
    """Return the settings of the curve of a loss that is given a margin for each sample."""
    return cast(PerSampleLoss, loss)._of_given


def own_margin(loss: Loss) -> float:
    """Return the margin in whose place others may be given."""
    settings = margin_of(loss)
    return float(settings.m3 if given_margin(loss).by_quality[1] else settings.m2)


def quality_of(loss: Loss) -> quality.Settings | None:
    """Return how the margin of a sample depends on the length of its embedding; None where it does not."""
    return margin_head(loss).quality


def negatives_of(loss: Loss) -> negatives.Settings | None:
    """Return what becomes of the cosines of hard classes; None for losses that have none."""
    return margin_head(loss).negatives


def raises_cosines(loss: Loss) -> bool:
    """Whether a loss raises the cosines of hard classes, those above a threshold that the target has."""
    settings = negatives_of(loss)
    return settings is not None and settings.rule != "circle"


def class_angles_of(loss: Loss) -> class_angles.Settings | None:
    """Return what becomes of the angles of the other classes; None for losses that leave them."""
    return margin_head(loss).class_angles


def has_other_curves(loss: Loss) -> bool:
    """Whether a loss with margins has curves for the cosines, or angles, of the other classes."""
    of_hard = negatives_of(loss)
    return class_angles_of(loss) is not None or (of_hard is not None and of_hard.rule == "circle")


def centers_of(loss: Loss) -> int | None:
    """Return how many centers a class has, for losses of class weights (C, K, D)."""
    return cast(Margin, loss.spec).centers if head_of(loss) == "margin" else None


def numbers_of(loss: Loss, x: Array, m: Array | None) -> quality.Quality | None:
    """Return the number per sample that margins depend on: given, or from the lengths of embeddings x; else None."""
    settings = quality_of(loss)
    if m is not None:
        return quality.given(m)
    return None if settings is None else quality.forward(x, normalize.forward(x), settings)[0]


def target_logit(settings: margin.Settings, theta: Array, v: quality.Quality | None) -> Array:
    """Return ψ of angles (N,), with the margins of samples if there are any."""
    curve = margin.curve_of(margin.at(settings, v))
    return np.asarray(curve.psi(margin.turned(angle.of(theta), settings, v)).hi)


def is_on_cosine(settings: margin.Settings) -> bool:
    """Whether a margin is taken off the target's cosine, and its angle is never needed."""
    return settings.m1 == 1.0 and settings.m2 == 0.0 and settings.by_quality[0] == 0


def adds_to_cosine(loss: Loss) -> bool:
    """Whether the margin is taken off the target's cosine, and its angle is never needed."""
    return is_on_cosine(margin_of(loss))


def scale_of(loss: Loss) -> float | None:
    """Return the scale of a margin head; None where it is the length of the embedding, or an input."""
    return margin_head(loss).scale


def link_of(loss: Loss) -> binary_cross_entropy.Settings:
    """Return the weights of answers and the bound of logits of a loss with a binary cross entropy."""
    return cast(Sigmoid, loss.spec).link


def ways_of(loss: Loss) -> int:
    """Return 1 for a cross entropy of rows alone, 2 for that of rows and of columns."""
    return cast(TwoWay, loss.spec).ways


def triplet_of(loss: Loss) -> triplet.Settings:
    """Return the settings of a triplet loss."""
    return cast(Triplet, loss.spec).triplet


def divergence_of(loss: Loss) -> divergence.Settings:
    """Return the settings of a divergence."""
    return cast(Divergence, loss.spec).divergence
