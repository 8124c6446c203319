"""What a loss is called with, and those of its settings that inputs, budgets and diagnoses depend on.

All of `refloss.testing` reads a loss's spec here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, cast

from numpy.typing import NDArray

from refloss.engines.chain import Step
from refloss.engines.spec import KINDS, Divergence, Margin, Spec, Triplet, WithCap, WithLabels
from refloss.messages import shown
from refloss.stages import cross_entropy, divergence, margin, softcap, triplet

Inputs: TypeAlias = tuple[NDArray[Any], ...]
"""What a loss is called with, in order: float64 arrays, and integer labels or probabilities."""

INPUTS: dict[str, tuple[str, ...]] = {kind.head: tuple(each.name for each in kind.inputs) for kind in KINDS}
"""Names of the inputs of a loss, by its head; a linear head may go without its bias."""
LABELS = {head: names.index("y") for head, names in INPUTS.items() if "y" in names}
"""Position of the labels among the inputs."""
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


class MarginLoss(Loss, Protocol):
    """A loss with a margin head."""

    def target_logit(self, theta: Any) -> Any:
        """Return ψ(θ)."""

    def target_slope(self, theta: Any) -> Any:
        """Return dψ/dθ."""


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
    """Return what the loss begins with: "logits", "linear" or "margin"; or what it is: "triplet" or "divergence"."""
    return loss.spec.head


def labels_of(loss: Loss) -> int | None:
    """Return the position of the labels among the inputs; None for a loss without labels."""
    return LABELS.get(head_of(loss))


def has_labels(loss: Loss) -> bool:
    """Whether a loss has labels, and with them a cross entropy."""
    return head_of(loss) in LABELS


def cross_entropy_of(loss: Loss) -> cross_entropy.Settings:
    """Return the settings of the cross entropy of a loss with labels."""
    return cast(WithLabels, loss.spec).cross_entropy


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


def class_weight_of(loss: Loss) -> tuple[float, ...] | None:
    """Return the class weights, if the loss has any."""
    return cross_entropy_of(loss).class_weight if has_labels(loss) else None


def ignore_index_of(loss: Loss) -> int | None:
    """Return the label that is ignored, if there is one."""
    return cross_entropy_of(loss).ignore_index if has_labels(loss) else None


def margin_of(loss: Loss) -> margin.Settings:
    """Return the settings of the curve of a margin head."""
    return cast(Margin, loss.spec).margin


def adds_to_cosine(loss: Loss) -> bool:
    """Whether the margin is taken off the target's cosine, and its angle is never needed."""
    settings = margin_of(loss)
    return settings.m1 == 1.0 and settings.m2 == 0.0


def scale_of(loss: Loss) -> float | None:
    """Return the scale of a margin head; None where it is the length of the embedding."""
    return cast(Margin, loss.spec).scale


def triplet_of(loss: Loss) -> triplet.Settings:
    """Return the settings of a triplet loss."""
    return cast(Triplet, loss.spec).triplet


def divergence_of(loss: Loss) -> divergence.Settings:
    """Return the settings of a divergence."""
    return cast(Divergence, loss.spec).divergence
