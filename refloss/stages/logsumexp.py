r"""Log-sum-exp: the logarithm of what softmax divides by, an output with a gradient of its own.

Symbols: logits z (N, C); lse (N,); M the largest logit of a row, a its index; p as in softmax.
"""

from __future__ import annotations

import numpy as np

from refloss.error_free import Numbers, Pair, StageResult, plain, where
from refloss.stages.softmax import Exponentials, exponentials, probabilities


def forward(z: Pair, parts: Exponentials | None = None) -> tuple[Pair, Exponentials]:
    r"""Add the largest logit to the logarithm of the sum relative to it.

    $$\operatorname{lse} = M + \operatorname{log1p}\Bigl(\sum_{k\ne a} e^{z_k - M}\Bigr)$$

    Parameters
    ----------
    z
        Logits (N, C).
    parts
        Their exponentials, if they are known already.

    Returns
    -------
    Pair
        lse (N,); infinite where M is.
    Exponentials
        What `backward` needs.
    """
    parts = exponentials(z) if parts is None else parts
    largest = z[np.arange(len(z)), parts.argmax]
    with np.errstate(invalid="ignore"):
        lse = largest + plain(parts.sum_exp_minus_one.log1p())
    highest = z.hi.max(axis=1)
    return where(np.isinf(highest), highest, lse), parts


def backward(upstream: Numbers, saved: Exponentials) -> StageResult:
    r"""Share the gradient out by the probabilities.

    $$\frac{\partial L}{\partial z_k} = \frac{\partial L}{\partial\operatorname{lse}}\,p_k$$

    Parameters
    ----------
    upstream
        dL/d lse (N,).
    saved
        What `forward` saved.

    Returns
    -------
    Numbers
        dL/dz (N, C).
    """
    return probabilities(saved).p * upstream[:, None]
