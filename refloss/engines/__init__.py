"""How: every engine takes the same specification of a loss and offers the same calls.

An engine reads the `Spec` and never a loss's name. It offers ``value(spec, arrays)``, ``value_and_grad(spec, arrays,
upstream)`` and ``trace(spec, arrays, upstream)``, with arrays already looked over by `refloss.inputs`.
"""

from __future__ import annotations

from typing import NamedTuple

from refloss.stages import cross_entropy, triplet
from refloss.stages.margin import Margin


class Spec(NamedTuple):
    """What an engine needs to know of a loss."""

    head: str
    """What the loss begins with: "logits", "linear", "margin" or "triplet"."""
    margin: Margin = Margin()
    """m1, m2, m3, rule, annealing and gradient convention, for a margin head."""
    scale: float | None = None
    """The scale of a margin head; None for the length of the embedding."""
    cross_entropy: cross_entropy.Settings = cross_entropy.Settings()
    """Reduction, label smoothing, class weights and the ignored label."""
    triplet: triplet.Settings = triplet.Settings()
    """Margin, distance and reduction of the triplet loss."""
