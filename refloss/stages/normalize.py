r"""Normalize: from vectors to directions. The first stage of both branches.

Symbols: v a row of x (N, D) or of w (C, D); v̂ its direction; ‖v‖ its length. Rows are first scaled by exact powers of
two, so that no length from 1e-300 to 1e300 over- or underflows.
"""

from __future__ import annotations

from typing import NamedTuple

from refloss.error_free import Exponents, Numbers, Pair, StageResult, ldexp, scale_rows, shift, sqrt
from refloss.sliced_product import row_dot


class Directions(NamedTuple):
    """Unit rows and their lengths, and what backward needs of them."""

    unit: StageResult
    """v̂ = v / ‖v‖, every entry rounded (R, D)."""
    excess: StageResult
    """Relative error of a row's entries from dividing by the rounded length: v̂ (1 + excess) is stored (R,)."""
    length: Pair
    """‖v‖ / 2^e, in [1/2, √D) (R,)."""
    exponent: Exponents
    """e, the power of two taken out of the row (R,)."""

    @property
    def norm(self) -> Pair:
        """‖v‖ itself, which may overflow where the length and the exponent cannot (R,)."""
        return ldexp(self.length, self.exponent)


def forward(v: Numbers) -> Directions:
    r"""Divide each row by its Euclidean length.

    $$\hat v = \frac{v}{\lVert v\rVert}, \qquad \lVert v\rVert = \sqrt{\sum_i v_i^2}$$

    Parameters
    ----------
    v
        Rows (R, D), none of them zero.

    Returns
    -------
    Directions
        Unit rows (R, D) with every entry within 2u of v / ‖v‖, and the lengths as pairs.
    """
    scaled, exponent = scale_rows(v)
    length = sqrt(row_dot(scaled, scaled))
    divisor = length.rounded()
    return Directions(scaled / divisor[:, None], ((length - divisor) / divisor).rounded(), length, exponent)


def backward(upstream: Numbers, saved: Directions, upstream_norm: Numbers | None = None) -> StageResult:
    r"""Project the gradient of v̂ onto the plane orthogonal to v̂; add what the length itself carries.

    $$\frac{\partial L}{\partial v} = \frac{1}{\lVert v\rVert}
    \left(\frac{\partial L}{\partial\hat v}
    - \left(\frac{\partial L}{\partial\hat v}\cdot\hat v\right)\hat v\right)
    + \frac{\partial L}{\partial\lVert v\rVert}\,\hat v$$

    Parameters
    ----------
    upstream
        dL/dv̂ (R, D).
    saved
        What `forward` returned.
    upstream_norm
        dL/d‖v‖ (R,), where the length is used as the scale.

    Returns
    -------
    Numbers
        dL/dv (R, D).
    """
    scaled, exponent = scale_rows(upstream)
    radial = row_dot(scaled, saved.unit)
    tangent = (scaled - radial.rounded()[:, None] * saved.unit) / saved.length.rounded()[:, None]
    gradient = shift(tangent, (exponent - saved.exponent)[:, None])
    return gradient if upstream_norm is None else gradient + upstream_norm[:, None] * saved.unit
