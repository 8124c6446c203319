r"""Losses that compare embeddings with embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from refloss import inputs
from refloss.engines import dispatch, spec
from refloss.engines.call import Call
from refloss.engines.dispatch import Value
from refloss.error_free import Array
from refloss.losses.base import Loss, Trace
from refloss.stages import triplet


class TripletGradient(NamedTuple):
    """Gradient of the triplet loss."""

    anchor: Array
    """dL/da (N, D)."""
    positive: Array
    """dL/dp (N, D)."""
    negative: Array
    """dL/dn (N, D)."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Triplet(Loss):
    r"""Triplet loss: the positive nearer to the anchor than the negative, by a margin.

    $$L_n = \max\bigl(0,\; d(a_n, p_n) - d(a_n, n_n) + m\bigr)$$

    Whether a row is active, L_n > 0, is decided exactly, and L_n is right relative to itself however little is left of
    the distances: the loss of the anchor 0 with (1, 1e-100) and (1, 0) is 1e-200 for m = 0. At the hinge itself, and
    where the plain distance is 0, the gradient of least norm, 0, is used. Distances, squares and sums may be beyond the
    range of float64 if the result is not. Source: FaceNet (Schroff, Kalenichenko and Philbin 2015),
    https://arxiv.org/abs/1503.03832, eq. 3.

    Parameters
    ----------
    m
        Margin in units of the distance, 0 or more.
    squared
        True for the squared Euclidean distance of FaceNet, False for the plain one.
    reduction
        "mean" over all triplets, also those whose loss is 0; "sum" or "none".

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    _gradient = TripletGradient

    m: float = 0.2
    squared: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("m", inputs.number("m", self.m, 0.0))
        self._keep("squared", inputs.flag("squared", self.squared))

    @cached_property
    def spec(self) -> spec.Triplet:
        """What an engine needs to know of this loss."""
        return spec.Triplet(triplet.Settings(self.m, self.squared, self.reduction))

    def __call__(self, anchor: Any, positive: Any, negative: Any, *, engine: str = "auto", dtype: Any = None) -> Value:
        """Return the loss of anchors, positives and negatives, all (N, D)."""
        return dispatch.value(self._call(anchor, positive, negative), engine, dtype)

    def value_and_grad(
        self,
        anchor: Any,
        positive: Any,
        negative: Any,
        *,
        upstream: Any = None,
        wrt: Any = None,
        out: Any = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> tuple[Value, TripletGradient]:
        """Return the loss and its gradients, a named tuple with the fields anchor, positive and negative.

        The options are those of `CrossEntropy.value_and_grad`; upstream is a number, or (N,) for reduction="none".
        """
        return self._value_and_grad(self._call(anchor, positive, negative), upstream, wrt, out, engine, dtype)

    def trace(self, anchor: Any, positive: Any, negative: Any, *, upstream: Any = None) -> Trace:
        """Return every stage's output and gradient by stage name."""
        return dispatch.trace(self._call(anchor, positive, negative), upstream)

    def _call(self, anchor: Any, positive: Any, negative: Any) -> Call:
        arrays = inputs.triplets(anchor, positive, negative)
        arguments = {"anchor": anchor, "positive": positive, "negative": negative}
        return Call(self.spec, arrays, arrays["anchor"].shape[:1], arguments)
