r"""Divergence: how far the softmax of one row of logits is from that of another, as in knowledge distillation.

Symbols: logits z of the model (the student) and of the target (the teacher), both (N, C); their probabilities q and p;
the mean m = (p + q)/2; log ratios δ = log q - log p; row losses L_n (N,).

p - q and log p - log q cancel where the two agree, and that is what a model is trained for. So δ comes from the gaps of
the logits, $d_k = (z_k - \max z) - (t_k - \max t)$ with the target's logits t, which are exact pairs, and from one
number per row, $\delta_k = d_k - \log\sum_j p_j e^{d_j}$; and q - p from δ.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import (
    LOG_2,
    Array,
    Mask,
    Numbers,
    Pair,
    StageResult,
    Wide,
    digits,
    frexp,
    plain,
    rounded,
    rounded_total,
    total,
    where,
)
from refloss.stages import softmax

FORMS = ("forward", "reverse", "jensen-shannon")
"""KL(p||q), KL(q||p), and the mean of KL(p||m) and KL(q||m)."""
NEAR = 1.0
"""Up to this |δ|, q - p is computed as p (e^δ - 1)."""
FAR = 4.0
"""Up to this δ, and from -1 on, q - p - p δ is computed as p (e^δ - 1 - δ)."""


class Settings(NamedTuple):
    """The settings of the loss."""

    form: str = "forward"
    reduction: str = "mean"


class Compared(NamedTuple):
    """Two rows of probabilities, and how they differ."""

    q: StageResult
    """Probabilities of the model (N, C)."""
    p: StageResult
    """Probabilities of the target (N, C)."""
    delta: StageResult
    """log q - log p (N, C): infinite where one is masked, 0 where both are."""
    gaps: tuple[Wide, Wide]
    """z and the target's logits, both less the largest of their row (N, C)."""


class Saved(NamedTuple):
    """What backward needs."""

    form: str
    """The form, of `FORMS`."""
    compared: Compared
    """q, p and δ."""
    divergences: tuple[StageResult, ...]
    """KL(p||q), or KL(q||p), or KL(q||m) and KL(p||m) (N,)."""


def forward(z: Pair, target: Pair, form: str) -> tuple[StageResult, Saved]:
    r"""Compare two softmaxes.

    $$L = \sum_k p_k\,(\log p_k - \log q_k) \;\text{(forward)}, \quad
    \sum_k q_k\,(\log q_k - \log p_k) \;\text{(reverse)}, \quad
    \frac{1}{2}\sum_k \Bigl(p_k\log\frac{p_k}{m_k} + q_k\log\frac{q_k}{m_k}\Bigr) \;\text{(Jensen-Shannon)}$$

    with $q = \operatorname{softmax}(z)$, p that of the target and $m = (p + q)/2$. These terms have both signs. Because
    $\sum_k (q_k - p_k) = 0$, the same sums have terms that are all 0 or more, see `terms`, and L is right relative to
    itself, however little p and q differ.

    Parameters
    ----------
    z
        Logits of the model (N, C).
    target
        Logits of the target (N, C).
    form
        One of `FORMS`.

    Returns
    -------
    Numbers
        Row losses (N,).
    Saved
        What `backward` needs.
    """
    compared = compare(z, target)
    q, p, delta, _ = compared
    if form == "jensen-shannon":
        mean = 0.5 * (p + q)
        divergences = tuple(
            rounded_total(terms(each, mean, -log)) for each, log in zip((q, p), logs_over_mean(delta), strict=True)
        )
        losses = 0.5 * (divergences[0] + divergences[1])
    else:
        losses = rounded_total(terms(p, q, delta) if form == "forward" else terms(q, p, -delta))
        divergences = (losses,)
    return losses, Saved(form, compared, divergences)


def backward(upstream: Numbers, saved: Saved) -> tuple[StageResult, StageResult]:
    r"""Carry the gradient of the row losses to both rows of logits.

    $$\frac{\partial L}{\partial z_k} = q_k - p_k, \qquad
    \frac{\partial L}{\partial t_k} = p_k\,(\log p_k - \log q_k - L)$$

    with t the target's logits, of forward; of reverse the same with the two sides exchanged. Of Jensen-Shannon

    $$\frac{\partial L}{\partial z_k} = \frac{q_k}{2}\Bigl(\log\frac{q_k}{m_k} - \sum_j q_j\log\frac{q_j}{m_j}\Bigr),
    \qquad
    \frac{\partial L}{\partial t_k} = \frac{p_k}{2}\Bigl(\log\frac{p_k}{m_k} - \sum_j p_j\log\frac{p_j}{m_j}\Bigr)$$

    q - p is p (e^δ - 1) where q and p are near each other, and sums that are divergences are as accurate. Where L is
    infinite, because q is 0 at a class where p is not, the second gradient of forward is the limit as such logits z go
    to -inf together: infinite, or that of Σ p log p where all of p is on such classes.

    Parameters
    ----------
    upstream
        dL/dL_n (N,).
    saved
        What `forward` saved.

    Returns
    -------
    tuple of Numbers
        Gradients of z and of the target's logits, both (N, C).
    """
    form, (q, p, delta, gaps), divergences = saved
    g = upstream[:, None]
    if form == "jensen-shannon":
        sides = zip((q, p), logs_over_mean(delta), divergences, strict=True)
        dz, dtarget = (_times(each, rounded(0.5 * (log - kl[:, None]))) for each, log, kl in sides)
        return g * dz, g * dtarget
    if form == "forward":
        return g * difference(p, q, delta), _of_expectation(g, p, delta, gaps[1], divergences[0])
    return _of_expectation(g, q, -delta, gaps[0], divergences[0]), g * difference(q, p, -delta)


def compare(z: Pair, target: Pair) -> Compared:
    r"""Take the probabilities and δ.

    $$\delta_k = d_k - \log\sum_j p_j e^{d_j}$$

    Three steps make δ right to a few u of $|\delta_k| + \sum_j |q_j - p_j|$:

    1. With d less its value at the largest p, the logarithm is $\operatorname{log1p}\sum_j p_j(e^{d_j} - 1)$, which is
       as small as the d are.
    2. Where that sum is not small, it is the difference of two logsumexps, right to a few u of 1.
    3. The error ε that is left solves $\sum_j p_j(e^{\delta_j + \varepsilon} - 1) = e^\varepsilon - 1$. It is taken
       off, with q - p in place of the terms whose |δ| is large, where enough of q is on the others.
    """
    parts_z, parts_t = softmax.exponentials(z), softmax.exponentials(target)
    known = np.isfinite(z.hi.max(axis=1)) & np.isfinite(target.hi.max(axis=1))  # of others everything is NaN
    q, p = (where(known[:, None], softmax.probabilities(parts).p, np.nan) for parts in (parts_z, parts_t))
    in_z, in_target = z.hi > -np.inf, target.hi > -np.inf
    both = in_z & in_target & known[:, None]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        d = where(both, parts_z.gap - parts_t.gap, 0.0)
        rows, reference = np.arange(len(p)), parts_t.argmax
        relative = where(both, d - d[rows, reference][:, None], 0.0)
        near = both & _at_most(relative, NEAR)
        shrunk = p[rows, reference] / q[rows, reference]
        change = total(where(near, p * _expm1(relative, near), q * shrunk[:, None] - p))
        small = both[rows, reference] & (_floats(change) >= -0.5) & (_floats(change) <= 1.0)
        coarse = d - (_log_sum(parts_z.sum_exp_minus_one) - _log_sum(parts_t.sum_exp_minus_one))[:, None]
        delta = where(small[:, None], relative - where(small, change, 0.0).log1p()[:, None], coarse)

        near = both & _at_most(delta, NEAR)
        share = total(where(near, q, 0.0))
        off = total(where(near, p * _expm1(delta, near), q - p)) / share
        delta = where((_floats(share) >= 0.5)[:, None], delta - off[:, None], coarse)
    delta = where(both, delta, np.where(in_z == in_target, 0.0, np.where(in_z, np.inf, -np.inf)))
    return Compared(q, p, delta, (parts_z.gap, parts_t.gap))


def terms(p: StageResult, q: StageResult, delta: StageResult) -> StageResult:
    r"""Return the terms of KL(p||q), all 0 or more.

    $$h_k = p_k\,(e^{\delta_k} - 1 - \delta_k) = q_k - p_k\,(1 + \delta_k), \qquad
    \delta_k = \log q_k - \log p_k$$

    The second form is as good where δ is below -1 or above 4, and holds where p is 0 as well.
    """
    size = _floats(delta)
    middle = (size >= -1.0) & (size <= FAR)
    with np.errstate(invalid="ignore", over="ignore"):
        outer = q - _times(p, 1.0 + delta)
        inner = p * Pair.of(plain(where(middle, delta, 0.0))).expm1mx()
    return where(digits(delta) == -np.inf, np.inf, where(middle, inner, rounded(outer)))


def difference(p: StageResult, q: StageResult, delta: StageResult) -> StageResult:
    """Return q - p: as p (e^δ - 1) where |δ| is small."""
    near = _at_most(delta, NEAR)
    return where(near, p * _expm1(delta, near), q - p)


def logs_over_mean(delta: StageResult) -> tuple[StageResult, StageResult]:
    r"""Return log(q/m) and log(p/m).

    $$r_k = \operatorname{log1p}(\tau_k), \qquad s_k = \operatorname{log1p}(-\tau_k) = r_k - \delta_k, \qquad
    \tau_k = \frac{e^{\delta_k} - 1}{e^{\delta_k} + 1}$$

    with r = log(q/m), s = log(p/m) and τ, the hyperbolic tangent of δ/2, from -|δ|.
    """
    first = _floats(delta) >= 0.0
    below = where(first, -delta, delta)  # -|δ|
    small = Pair.of(plain(below)).expm1()
    tanh = -small / (2.0 + small)
    near = _at_most(below, NEAR)
    larger = Pair.of(tanh).log1p()
    smaller = where(near, Pair.of(where(near, -tanh, 0.0)).log1p(), larger + below)
    return where(first, larger, smaller), where(first, smaller, larger)


def _of_expectation(g: Numbers, p: StageResult, delta: StageResult, gap: StageResult, kl: StageResult) -> StageResult:
    """Return the gradient of KL(p||q) in the logits of p, times g (N, 1)."""
    gradient = g * _times(p, rounded(-(delta + kl[:, None])))
    infinite = digits(kl) == np.inf
    if not infinite.any():
        return gradient
    own, masked = digits(gap) > -np.inf, digits(delta) == -np.inf
    limit = where((digits(g) == 0.0) | ~own, 0.0, g * np.where(masked, np.inf, -np.inf))
    log_p = _times(p, rounded(gap))
    entropy = g * (log_p - _times(p, rounded_total(log_p)[:, None]))
    alone = ~(own & ~masked).any(axis=1)
    return where(infinite[:, None], where(alone[:, None], entropy, limit), gradient)


def _log_sum(sum_exp_minus_one: Wide) -> Pair:
    """Return log(1 + S) with an absolute error of a few u: its whole multiple of log 2 is a pair."""
    mantissa, exponent = frexp(1.0 + Pair.of(plain(sum_exp_minus_one)))
    doubled = mantissa + mantissa - 1.0
    return (exponent - 1.0) * LOG_2 + Pair.of(doubled.log1p())


def _expm1(delta: StageResult, near: Mask) -> StageResult:
    """Return e^δ - 1 where it is near 0, and 0 elsewhere."""
    return Pair.of(plain(where(near, delta, 0.0))).expm1()


def _at_most(a: Numbers, size: float) -> Mask:
    return np.asarray(np.abs(_floats(a)) <= size)


def _floats(a: Numbers) -> Array:
    """Return numbers rounded to float64."""
    return a if isinstance(a, np.ndarray) else a.hi


def _times(p: StageResult, a: StageResult) -> StageResult:
    """Return p a, 0 where p is 0."""
    with np.errstate(invalid="ignore"):
        return where(digits(p) == 0.0, 0.0, p * a)
