r"""Log-softmax: log probabilities that keep their relative accuracy when one class is almost certain.

Symbols: logits z (N, C); log p (N, C); M the largest logit of a row, a its index; p and q = 1 - p as in softmax.
"""

from __future__ import annotations

import numpy as np

from refloss.error_free import Numbers, Pair, StageResult, digits, high, order, rounded_total, total, where
from refloss.stages.softmax import Exponentials, Saved, exponentials, probabilities


def forward(z: Pair, parts: Exponentials | None = None) -> tuple[StageResult, Saved]:
    r"""Take the log of softmax without taking a log near 1.

    $$\log p_k = (z_k - M) - \operatorname{log1p}\Bigl(\sum_{j\ne a} e^{z_j - M}\Bigr)$$

    At the largest logit z_a - M is 0, so that log p_a = -1e-300 comes out as -1e-300.

    Parameters
    ----------
    z
        Logits (N, C).
    parts
        Their exponentials, if they are known already.

    Returns
    -------
    Numbers
        log p (N, C).
    Saved
        What `backward` needs: p and 1 - p.
    """
    parts = exponentials(z) if parts is None else parts
    log_sum = parts.sum_exp_minus_one.log1p()[:, None]
    with np.errstate(invalid="ignore"):  # a logit of -inf stays what it is: it has no rounding error to carry
        exact, rounded = parts.gap - log_sum, high(parts.gap) - high(log_sum)
    return where(np.isfinite(digits(rounded)), exact, rounded).rounded(), probabilities(parts)


def entropy(z: Pair) -> StageResult:
    """Return the entropy -Σ p_k log p_k of every row (N,)."""
    log_p, saved = forward(z)
    p = saved.p
    with np.errstate(invalid="ignore"):
        return rounded_total(where(digits(p) == 0.0, 0.0, p * -log_p))


def backward(upstream: Numbers, saved: Saved) -> StageResult:
    r"""Carry the gradient of log p back to the logits.

    $$\frac{\partial L}{\partial z_k} = g_k\,q_k - p_k\,(T - g_k), \qquad g = \frac{\partial L}{\partial\log p},
    \qquad T = \sum_j g_j, \qquad q_k = 1 - p_k$$

    The textbook form g_k - p_k T is the same number with the accuracy lost: at a confident target it is 1 - 1. Errors
    are relative to the absolute terms |g_k| q_k + p_k Σ |g_j| over j ≠ k: from its own T - g_k the largest g_k is left
    out before anything is added up.

    Parameters
    ----------
    upstream
        dL/d log p (N, C).
    saved
        What `forward` saved.

    Returns
    -------
    Numbers
        dL/dz (N, C).
    """
    rows, largest = np.arange(len(upstream)), order(upstream).argmax(axis=1)
    without_largest = upstream.copy()
    without_largest[rows, largest] = 0.0
    others = total(without_largest)
    rest = (others + upstream[rows, largest])[:, None] - upstream
    rest[rows, largest] = others
    return upstream * saved.q - saved.p * rest.rounded()
