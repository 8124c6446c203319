r"""Losses of pairs of embeddings, each against all others, by a softmax.

Symbols: embeddings x and w (N, D), pair by pair; θ_nk the angle between x_n and w_k; the scale s, an input.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from refloss import inputs
from refloss.engines import dispatch
from refloss.engines.call import Call
from refloss.engines.dispatch import Value
from refloss.engines.spec import Margin, TwoWay
from refloss.error_free import Array
from refloss.losses.base import Loss, Trace
from refloss.stages import cross_entropy, margin


class ScaleGradient(NamedTuple):
    """Gradient of a loss of pairs with a scale."""

    x: Array
    """dL/dx (N, D)."""
    w: Array
    """dL/dw (N, D)."""
    s: np.float64
    """dL/ds, a number."""


@dataclass(frozen=True, kw_only=True, repr=False)
class InfoNCE(Loss):
    r"""InfoNCE, and with both ways the loss of CLIP: NormFace whose classes are the other embeddings of the pairs.

    $$L_n = -\frac{1}{2}\log\frac{e^{s\cos\theta_{nn}}}{\sum_k e^{s\cos\theta_{nk}}}
    - \frac{1}{2}\log\frac{e^{s\cos\theta_{nn}}}{\sum_k e^{s\cos\theta_{kn}}}$$

    or twice the first term alone. The scale, one over the temperature, is an input with a gradient. Sources:
    InfoNCE (van den Oord, Li and Vinyals 2018), https://arxiv.org/abs/1807.03748; CLIP (Radford et al. 2021),
    https://arxiv.org/abs/2103.00020.

    Parameters
    ----------
    ways
        2 for x against all w and w against all x, 1 for the first alone.
    reduction
        "mean" over the N pairs, "sum" or "none".

    Raises
    ------
    ValueError, TypeError
        For settings and inputs out of range, naming the argument.
    """

    _gradient = ScaleGradient

    ways: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep("ways", inputs.integer("ways", self.ways))
        if self.ways not in (1, 2):
            raise ValueError(f"ways must be 1 or 2; got {self.ways}")

    @cached_property
    def spec(self) -> TwoWay:
        """What an engine needs to know of this loss."""
        head = Margin(cross_entropy.Settings(self.reduction), margin.Settings(), None, scale_input="s")
        return TwoWay(head, self.ways)

    def __call__(self, x: Any, w: Any, s: Any, *, engine: str = "auto", dtype: Any = None) -> Value:
        """Return the loss of embeddings x and w, pair by pair, both (N, D), and a scale s above 0."""
        return dispatch.value(self._call(x, w, s), engine, dtype)

    def value_and_grad(
        self,
        x: Any,
        w: Any,
        s: Any,
        *,
        upstream: Any = None,
        wrt: Any = None,
        out: Any = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> tuple[Value, ScaleGradient]:
        """Return the loss and its gradients, a named tuple with the fields x (N, D), w (N, D) and s, a number.

        The options are those of `CrossEntropy.value_and_grad`; upstream is a number, or (N,) for reduction="none".
        """
        return self._value_and_grad(self._call(x, w, s), upstream, wrt, out, engine, dtype)

    def trace(self, x: Any, w: Any, s: Any, *, upstream: Any = None) -> Trace:
        """Return every stage's output and gradient by stage name."""
        return dispatch.trace(self._call(x, w, s), upstream)

    def _call(self, x: Any, w: Any, s: Any) -> Call:
        arrays = inputs.pairs(x, w) | {"s": inputs.one_number("s", s, above=0.0)}
        return Call(self.spec, arrays, arrays["y"].shape, {"x": x, "w": w, "s": s})


CLIP = InfoNCE
