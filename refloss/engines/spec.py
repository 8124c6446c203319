"""Spec: what a loss is to an engine.

`Spec` is a union of seven kinds of losses, told apart by their class or by the tag `head`: cross entropy on given
`Logits`, a `Linear` layer before it, a `Margin` head on directions, `Sigmoid` and `TwoWay`, which end in another way on
such a head, `Triplet`, and `Divergence`. Each has its settings,
as the stages take them, and its inputs as data: which have one row per sample, which one per class, and which hold
labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from numpy.typing import NDArray

from refloss.stages import (
    binary_cross_entropy,
    class_angles,
    cross_entropy,
    divergence,
    margin,
    negatives,
    quality,
    softcap,
    triplet,
)

Arrays: TypeAlias = dict[str, NDArray[Any]]
"""Inputs of a loss, or their gradients, by name."""


class Input(NamedTuple):
    """An input of a loss."""

    name: str
    """The name of the loss's argument."""
    per: Literal["sample", "class", "call"]
    """What it has one row, or one number, for."""
    kind: Literal["floats", "labels"] = "floats"
    """Numbers with a gradient, or labels, in whose place there may be probabilities."""


_X, _W, _Y, _B = Input("x", "sample"), Input("w", "class"), Input("y", "sample", "labels"), Input("b", "class")
_OTHERS = Input("w", "class")
"""Embeddings to compare with, as many as there are samples: the classes of their own."""
MARGINS = Input("m", "sample")
"""Margins, one per sample; where they are not given, no gradient has such a field."""


GIVEN = frozenset({MARGINS.name, "t", "s"})
"""Names of inputs for which the tuple of gradients has a field where they are given alone."""


class _Kind:
    """What the kinds share: questions about their inputs."""

    inputs: ClassVar[tuple[Input, ...]]
    directions: ClassVar[bool] = False
    """Whether rows of x and w count by their directions alone, so that none may be zero."""

    @classmethod
    def differentiable(cls) -> tuple[str, ...]:
        """Return the names of the inputs that have gradients."""
        return tuple(each.name for each in cls.inputs if each.kind == "floats")


@dataclass(frozen=True)
class _Labelled(_Kind):
    """A loss that ends in cross entropy."""

    cross_entropy: cross_entropy.Settings
    """Reduction, label smoothing, class weights and the ignored label."""

    @property
    def reduction(self) -> str:
        """One of "mean", "sum" and "none"."""
        return self.cross_entropy.reduction


@dataclass(frozen=True)
class _Capped(_Labelled):
    """Cross entropy on logits that may be scaled and capped before their softmax."""

    softcap: softcap.Settings = softcap.UNCHANGED
    """Logit scale and cap."""


@dataclass(frozen=True)
class Logits(_Capped):
    """Cross entropy on given logits."""

    head: ClassVar[Literal["logits"]] = "logits"
    inputs: ClassVar[tuple[Input, ...]] = (Input("z", "sample"), _Y)


@dataclass(frozen=True)
class Linear(_Capped):
    """Cross entropy on the logits of a linear layer; the bias may be left out."""

    head: ClassVar[Literal["linear"]] = "linear"
    inputs: ClassVar[tuple[Input, ...]] = (_X, _W, _Y, _B)


@dataclass(frozen=True)
class Margin(_Labelled):
    """Cross entropy on scaled cosines, the target's replaced by a curve of its angle; the margins may be left out."""

    margin: margin.Settings
    """m1, m2, m3, what a sample's number v adds to them, rule, annealing and gradient convention."""
    scale: float | None
    """The scale; None for the length of the embedding."""
    quality: quality.Settings | None = None
    """How v comes of the length of an embedding; None where it does not."""
    negatives: negatives.Settings | None = None
    """What becomes of the cosines of hard classes."""
    class_angles: class_angles.Settings | None = None
    """What becomes of the angles of the other classes."""
    centers: int | None = None
    """How many rows of w, side by side, a class has, given as w (C, K, D); None for one, given as w (C, D)."""
    scale_input: str | None = None
    """The name of the input that holds the scale, where it is no setting."""
    head: ClassVar[Literal["margin"]] = "margin"
    inputs: ClassVar[tuple[Input, ...]] = (_X, _W, _Y, MARGINS)
    directions: ClassVar[bool] = True

    def scale_in(self, arrays: Arrays) -> float | None:
        """Return the scale, from the inputs where it is one of them; None for the length of the embedding."""
        return self.scale if self.scale_input is None else float(arrays[self.scale_input])

    @property
    def is_plain(self) -> bool:
        """Whether samples have the same margins, and no cosine but the target's changes."""
        varies = self.quality is not None or self.margin.by_quality != margin.CONSTANT
        return not varies and self.negatives is None and self.class_angles is None


@dataclass(frozen=True)
class _AfterCosines(_Kind):
    """A loss on the logits of a margin head that does not end in one cross entropy."""

    logits: Margin
    """The head, with reduction and ignored label; its other settings of cross entropy are not used."""
    directions: ClassVar[bool] = True

    @property
    def cross_entropy(self) -> cross_entropy.Settings:
        """Reduction and ignored label."""
        return self.logits.cross_entropy

    @property
    def reduction(self) -> str:
        """One of "mean", "sum" and "none"."""
        return self.cross_entropy.reduction


@dataclass(frozen=True)
class Sigmoid(_AfterCosines):
    """Binary cross entropy of scaled cosines and a bias; scale and bias may be left out."""

    link: binary_cross_entropy.Settings = binary_cross_entropy.PLAIN
    """Weights of the two kinds of answers, and the bound of logits."""
    head: ClassVar[Literal["sigmoid"]] = "sigmoid"
    inputs: ClassVar[tuple[Input, ...]] = (_X, _W, _Y, Input("t", "call"), Input("b", "call"))


@dataclass(frozen=True)
class TwoWay(_AfterCosines):
    """Cross entropy of scaled cosines of pairs, of rows alone, or the mean of that of rows and of columns."""

    ways: int = 2
    """1 for rows alone, 2 for rows and columns."""
    head: ClassVar[Literal["two_way"]] = "two_way"
    inputs: ClassVar[tuple[Input, ...]] = (_X, _OTHERS, _Y, Input("s", "call"))


@dataclass(frozen=True)
class Triplet(_Kind):
    """The triplet loss."""

    triplet: triplet.Settings
    """Margin, distance and reduction."""
    head: ClassVar[Literal["triplet"]] = "triplet"
    inputs: ClassVar[tuple[Input, ...]] = tuple(Input(name, "sample") for name in ("anchor", "positive", "negative"))

    @property
    def reduction(self) -> str:
        """One of "mean", "sum" and "none"."""
        return self.triplet.reduction


@dataclass(frozen=True)
class Divergence(_Kind):
    """A divergence of the softmax of some logits from that of others."""

    divergence: divergence.Settings
    """Form and reduction."""
    head: ClassVar[Literal["divergence"]] = "divergence"
    inputs: ClassVar[tuple[Input, ...]] = (Input("z", "sample"), Input("target", "sample"))

    @property
    def reduction(self) -> str:
        """One of "mean", "sum" and "none"."""
        return self.divergence.reduction


UPSTREAM_LSE = "upstream_lse"
"""Name of the gradient with respect to the log-sum-exp of every row (N,), which stands beside the inputs of such losses
where it is given."""
WithCap: TypeAlias = Logits | Linear
"""Losses on logits that may be scaled and capped."""
WithLabels: TypeAlias = Logits | Linear | Margin
"""Losses that end in cross entropy."""
OnCosines: TypeAlias = Sigmoid | TwoWay
"""Other losses on scaled cosines."""
Spec: TypeAlias = Logits | Linear | Margin | Sigmoid | TwoWay | Triplet | Divergence


def centers_of(spec: Spec) -> int | None:
    """Return how many rows of w a class has, where w is given as (C, K, D)."""
    return spec.centers if isinstance(spec, Margin) else None


KINDS = (Logits, Linear, Margin, Sigmoid, TwoWay, Triplet, Divergence)
PER_CLASS = frozenset(each.name for kind in KINDS for each in kind.inputs if each.per != "sample")
"""Names of the inputs that have one row per class, or are one number; the others have one row per sample."""
