"""Public functions: softmax, its logarithm and entropy, the log of the sum of exponentials; error bounds of losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from refloss import inputs
from refloss.engines import dispatch
from refloss.engines.call import call_of
from refloss.engines.dispatch import Value
from refloss.error_free import Array, Pair, plain
from refloss.stages import log_softmax as log_softmax_stage
from refloss.stages import logsumexp as logsumexp_stage
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
    log_sum: np.float64 | Array = restore(logsumexp_stage.forward(Pair.of(rows))[0].hi)
    return log_sum


def entropy(z: Any, axis: int = -1) -> np.float64 | Array:
    r"""Entropy of softmax along an axis, which is taken out, in units of log e.

    $$H = -\sum_k p_k\log p_k, \qquad p = \operatorname{softmax}(z)$$

    No term is negative, and each is right relative to itself, and so is H: entropy([0, -40]) is 1.7e-16, not 0. A
    masked class, whose logit is -inf, contributes 0.

    Parameters
    ----------
    z
        Logits; NaN, +inf, or nothing but -inf make a row NaN.
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

    Examples
    --------
    >>> import refloss
    >>> float(refloss.entropy([0.0, 0.0]))
    0.6931471805599453
    """
    rows, restore = inputs.rows_along("z", z, axis)
    entropies: np.float64 | Array = restore(plain(log_softmax_stage.entropy(Pair.of(rows))))
    return entropies


def error_bound(
    loss: Any,
    *inputs: Any,
    engine: str = "chain",
    dtype: Any = None,
    upstream: Any = None,
    upstream_lse: Any = None,
) -> tuple[Value, Any]:
    r"""Return the absolute error that an engine may have on the value and on every entry of the gradients.

    Of a value it is r |L|, of a gradient's entry ρ times the absolute terms of its row, with r and ρ by
    `refloss.engines.contract.promise`: each counts the rounding errors of its engine. Terms are what adds up to a row
    before anything cancels. For heads with G = dL/dz and the slope ψ' of the target's curve, 1 off the
    target: $\sum_k |s\,G_{nk}\,\psi'_{nk}|/\lVert x_n\rVert$ for x, and
    $\sum_n |s\,G_{nk}\,\psi'_{nk}|/\lVert w_k\rVert$ for w; where ‖x‖ is the scale $\sum_k |G_{nk} f_{nk}|$ more, f the
    logit over the scale. A hard class has the largest slope that there is, 2 + |t| or 1 + t, for ψ', and one of
    `CircleLoss` 2, or 0 where η is 0. A class that goes through its angle has |dη/dθ|; all others of version 2 of
    `SphereFaceR` have $|d\eta/d\theta|/\sin^2\theta$, or 1 if the gradient is detached. A margin m that
    is given has $|s\,G_{ny_n}|\,(|\partial\psi_n/\partial m_n| + 16u)$; one that depends on the length adds this, times
    its slope $|dm_n/d\lVert x_n\rVert|$, to the terms of x. MagFace's regularizer adds itself to those of the value,
    and $\lambda(1/u_a^2 + 1/a_n^2)$ to those of x. Losses with sigmoids and pairs have the terms of heads, with t for
    ψ' off the target of `SphereFace2`, or 1 if the gradient is detached, and 0 beyond the bound of `UniFace`; of both
    ways of `InfoNCE` |G| is the sum of two; a bias has $\sum_{nk} |G_{nk}|$, and a scale that is an input
    $\sum_{nk} |G_{nk}|\,(|f_{nk}| + 1/16)$. For `SoftmaxLoss` the terms are
    $\sum_k |G_{nk}|\lVert w_k\rVert$, $\sum_n |G_{nk}|\lVert x_n\rVert$ and,
    for b, $\sum_n |G_{nk}|$. For "dd" ψ' off the target is sin θ times that, and |dη/dθ| of `InterTopK`, of version
    2 of `SphereFaceR` and, but for $2^{-44}t(t - 1)$, of `SphereFace2`; in place of 1/16 it has $2^{-43}$. For
    `CrossEntropy` |G|; for `Triplet` the lengths of the two gradients of distances; for `KLDivergence`
    $|q_k - p_k| + \max(p_k, q_k)\,V$ and
    $p_k\,(|\log q_k - \log p_k| + L + V)$, with $V = \sum_k |q_k - p_k|$. Where several classes are targets, by
    smoothing or probabilities, the terms of |G| are $|c_n|(p_{nk}\sum_j|t_{nj}| + |t_{nk}|)$ and those of a loss
    $|t_{nk}\log p_{nk}|$. A z-loss has the terms $\lambda(\operatorname{lse}^2 + 2|\operatorname{lse}|\ell)$ with
    $\ell = 1 + |M| + \operatorname{log1p}(\cdot)$, of which the log-sum-exp is the sum, and in the gradient
    $2\lambda(|\operatorname{lse}| + \ell)\,p_k$; upstream_lse has $|u_n|\,p_k$. Under a softcap all terms of |G| are
    multiplied by its slope. Probabilities, or their products with slopes, below the smallest normal number may be
    rounded to 0, and so may as much of a result.

    The truth is that of the inputs as they are; with dtype float32, of the inputs rounded to float32. "certified"
    rounds correctly, so its bound is half an ulp.

    Parameters
    ----------
    loss
        A loss of refloss.
    inputs
        What it is called with.
    engine, dtype, upstream, upstream_lse
        As in ``value_and_grad``.

    Returns
    -------
    value, gradients
        Bounds, in the form in which ``value_and_grad`` returns what they bound; inf where nothing can be said.

    Raises
    ------
    ValueError, TypeError
        As the loss itself, naming the argument.
    """
    call = call_of(loss, inputs).with_upstream_lse(upstream_lse)
    bound, gradients = dispatch.error_bound(call, engine, dtype, upstream)
    return bound, loss._gradient(**gradients)
