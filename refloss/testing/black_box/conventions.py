r"""Gradient conventions that are no setting of a loss: parts that code leaves out or takes otherwise.

Symbols: x̂, ŵ unit rows; c cosines (N, C); g = dL/dc (N, C), at the target -(dL/dθ)/sin θ; r = dL/d‖x‖ (N,).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refloss.engines.spec import Margin
from refloss.error_free import Array
from refloss.testing.signatures import Inputs


class Convention(NamedTuple):
    """What becomes of the parts of a gradient."""

    name: str
    sentence: str
    """For the user."""
    target: float = 1.0
    """What the gradient through the target's logit is multiplied by."""
    others: float = 1.0
    """What the gradient through the logits of other classes is multiplied by."""
    length: float = 1.0
    """What the gradient through the length of the embedding is multiplied by."""
    x: float = 1.0
    """What dL/dx is multiplied by."""
    w: float = 1.0
    """What dL/dw is multiplied by."""
    rows: str = "any"
    """How class weights count: "any", as rows of any length; "unit", as unit rows whose gradient is not projected and
    not divided by the length; "divided", not projected but divided."""


CONVENTIONS = (
    Convention("target", "no gradient goes through the target's logit", target=0.0),
    Convention("others", "no gradient goes through the logits of other classes", others=0.0),
    Convention("length", "the length of the embedding counts as a constant in the gradient", length=0.0),
    Convention("unit rows", "dL/dw is the gradient with respect to unit rows: not projected, not divided", rows="unit"),
    Convention("projection", "dL/dw is not projected: it has a part along each row of w", rows="divided"),
    Convention("w", "dL/dw is 0", w=0.0),
    Convention("x", "dL/dx is 0", x=0.0),
)
"""Conventions that are tried where no setting of the loss explains a gradient."""


def has_conventions(loss: Any) -> bool:
    """Whether the gradient of a loss is put together of cosines and the target's angle alone."""
    spec = loss.spec
    return isinstance(spec, Margin) and spec.class_angles is None and spec.centers is None


def gradients(loss: Any, inputs: Inputs, upstream: Array, convention: Convention) -> dict[str, Array]:
    r"""Return dL/dx and dL/dw under a convention, in float64.

    $$\frac{\partial L}{\partial x_n} = \frac{1}{\lVert x_n\rVert}\sum_k g_{nk}\,(\hat w_k - c_{nk}\hat x_n) + r_n\hat
    x_n, \qquad \frac{\partial L}{\partial w_k} = \frac{1}{\lVert w_k\rVert}\sum_n g_{nk}\,(\hat x_n - c_{nk}\hat w_k)$$
    """
    x, w, y = inputs
    trace = loss.trace(x, w, y, upstream=upstream)
    length_x, length_w = (np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, w))
    unit_x, unit_w = x / length_x, w / length_w
    cos, own = unit_x @ unit_w.T, (np.arange(len(y)), y)
    near, far = (np.linalg.norm(unit_x + side * unit_w[y], axis=1) for side in (-1.0, 1.0))
    g = convention.others * np.array(trace["cosine"].gradient)
    g[own] = convention.target * (trace["cosine"].gradient[own] - trace["angle"].gradient * 2.0 / (near * far))
    dx = (g @ unit_w - (g * cos).sum(axis=1, keepdims=True) * unit_x) / length_x
    dx = dx + convention.length * np.asarray(trace["normalize_x"].gradient.norm)[:, None] * unit_x
    dw = g.T @ unit_x
    if convention.rows == "any":
        dw = dw - (g * cos).sum(axis=0)[:, None] * unit_w
    if convention.rows != "unit":
        dw = dw / length_w
    return {"x": convention.x * dx, "w": convention.w * dw}
