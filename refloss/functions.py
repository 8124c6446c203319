"""Softmax, its logarithm, and the log of the sum of exponentials, along an axis of an array."""

from __future__ import annotations

from typing import Any

import numpy as np

from refloss import inputs
from refloss.error_free import Array, Pair, plain
from refloss.stages import log_softmax as log_softmax_stage
from refloss.stages import softmax as softmax_stage


def softmax(z: Any, axis: int = -1) -> Array:
    r"""Softmax along an axis.

    $$p_k = \frac{e^{z_k}}{\sum_j e^{z_j}}$$

    Parameters
    ----------
    z
        Logits; -inf has probability 0; NaN, +inf, or nothing but -inf make a row NaN.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Probabilities, each to a few units in the last place.

    Raises
    ------
    ValueError, TypeError
        For input that holds no real numbers or has no such axis.
    """
    rows, restore = inputs.rows_along("z", z, axis)
    p: Array = restore(softmax_stage.forward(Pair.of(rows))[0])
    return p


def log_softmax(z: Any, axis: int = -1) -> Array:
    r"""Log of softmax along an axis, accurate relative to itself: log_softmax([0, -40])[0] is -4.2e-18, not 0.

    $$\log p_k = z_k - \log\sum_j e^{z_j}$$

    Parameters
    ----------
    z
        Logits; -inf stays -inf; NaN, +inf, or nothing but -inf make a row NaN.
    axis
        The axis of the classes.

    Returns
    -------
    Array
        Log probabilities.

    Raises
    ------
    ValueError, TypeError
        For input that holds no real numbers or has no such axis.
    """
    rows, restore = inputs.rows_along("z", z, axis)
    log_p: Array = restore(plain(log_softmax_stage.forward(Pair.of(rows))[0]))
    return log_p


def logsumexp(z: Any, axis: int = -1) -> np.float64 | Array:
    r"""Log of the sum of exponentials along an axis, which is taken out.

    $$\log\sum_k e^{z_k} = M + \operatorname{log1p}\Bigl(\sum_{k\ne a} e^{z_k - M}\Bigr), \qquad M = z_a = \max_k z_k$$

    Absolute error at most a few units of roundoff of max(|M|, log C): where M and the logarithm cancel there is no
    relative accuracy to be had from float64 results.

    Parameters
    ----------
    z
        Logits; all -inf give -inf, any +inf gives inf, any NaN gives NaN.
    axis
        The axis to sum over.

    Returns
    -------
    Array
        One number for each row, or one number where z has no other axis.

    Raises
    ------
    ValueError, TypeError
        For input that holds no real numbers or has no such axis.
    """
    rows, restore = inputs.rows_along("z", z, axis)
    log_sum: np.float64 | Array = restore(log_softmax_stage.log_sum_exp(Pair.of(rows)))
    return log_sum
