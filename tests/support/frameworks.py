"""Another implementation beside refloss: the same numbers from two sides, and how far apart they may lie.

The oracle is the exacter side, so a bound is the error that the other may have, in units of u = 2^-53. It is derived
from the inputs, never tuned, and it is the worst case: every rounding at its largest, all of one sign. It still rejects
a gradient that is wrong by one part in 10^9; `agree` shows that for every comparison it makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import refloss
from support import textbook
from support.checks import U
from support.mutants import GROSS, Gradients

MORE_MUTANTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # beside mutants.GROSS
    "factor 1 + 1e-9": lambda g: g * (1.0 + 1e-9),
    "rows swapped": lambda g: np.roll(g, 1, axis=0),
}


class Comparison(NamedTuple):
    """The same number or gradient from two sides, and how far apart they may lie."""

    theirs: np.ndarray
    ours: np.ndarray
    bound: np.ndarray

    def holds(self) -> bool:
        return bool((np.abs(np.asarray(self.theirs) - self.ours) <= self.bound).all())


def agree(value: Comparison, wrong: dict[str, Gradients] | None = None, /, **gradients: Comparison) -> None:
    """Test value and gradients against their bounds, then every gradient changed by every mutant: none may pass.

    `wrong` holds wrong gradients of this very comparison, by what is wrong with them.
    """
    for name, it in {"value": value, **gradients}.items():
        assert np.shape(it.theirs) == np.shape(it.ours), name
        assert it.holds(), f"{name}: theirs {it.theirs}, ours {it.ours}, allowed {it.bound}"
    for name, it in gradients.items():
        mutants = {title: mutant({name: it.ours})[name] for title, mutant in GROSS.items()}
        mutants |= {title: mutant(it.ours) for title, mutant in MORE_MUTANTS.items()}
        mutants |= {title: named[name] for title, named in (wrong or {}).items()}
        for title, mutant in mutants.items():
            if not np.array_equal(mutant, it.ours):  # 0 is 0 with its sign changed, too
                assert not it._replace(ours=mutant).holds(), f"d{name} passes with {title}"


def torch_gradients(
    torch: ModuleType, f: Callable[..., Any], upstream: Any, **arrays: np.ndarray
) -> tuple[np.ndarray, Gradients]:
    """Value of f and, by backward, its gradients."""
    tensors = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in arrays.items()}
    value = f(**tensors)
    value.backward(torch.as_tensor(upstream, dtype=value.dtype))
    return value.detach().numpy(), {name: tensor.grad.numpy() for name, tensor in tensors.items()}


def head_inputs(seed: int, classes: int = 7, d: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings near their class, far from it, and nearly opposite to it, three each; lengths from 0.5 to 2 or so."""
    rng = np.random.default_rng(seed)
    w, y = rng.standard_normal((classes, d)), rng.integers(classes, size=9)
    x = rng.standard_normal((9, d))
    x[:3] = w[y[:3]] + 0.4 * x[:3]
    x[6:] = 0.1 * x[6:] - w[y[6:]]
    return x, w, y


class Rows(NamedTuple):
    """The error that cross entropy may have, by row (N,) and by entry of dL/dz (N, C), for upstream gradients of 1."""

    loss: np.ndarray
    gradient: np.ndarray
    terms: np.ndarray
    """The absolute terms of dL/dz_k = T p_k - t_k: T p_k + t_k."""


def log_softmax_bound(z: np.ndarray, off: Any = 0.0) -> np.ndarray:
    """The error (N, 1) of log p, or of log of the sum of exponentials, of rows z (N, C), for logits wrong by `off`.

    Gaps z_k - M round by u R at most, R the range of the row, and pass it on to exp; exp and its C - 1 sums are wrong
    by (C + 4) u relative, an absolute error after log, which rounds by u (log C + 2); taking the log from the gap
    rounds by u (R + log C). optax takes it from z_k itself: u E more, twice, E = max |z|. `off` enters by the logit and
    by the sum.
    """
    classes = z.shape[1]
    spread, largest = np.ptp(z, axis=1, keepdims=True), np.abs(z).max(axis=1, keepdims=True)
    return 2.0 * off + U * (classes + 6.0 + 2.0 * spread + 2.0 * largest + 2.0 * math.log(classes))


def log_softmax(z: np.ndarray) -> np.ndarray:
    """log p (N, C) as a textbook has it, for the bounds."""
    gap = z - z.max(axis=1, keepdims=True)
    return gap - np.log(np.exp(gap).sum(axis=1, keepdims=True))


def cross_entropy_bound(z: np.ndarray, t: np.ndarray, off: Any = 0.0, spread: float = 1.0) -> Rows:
    """The error that cross entropy of rows z (N, C) with targets t (N, C) may have, for logits wrong by `off` (N, 1).

    With e for the error of log p: L_n = sum of t_k (-log p_k) is wrong by T e, T the sum of t_k, and (C + N + 8) u
    of its terms in products, targets and sums over classes and rows. p_k = exp(log p_k) is wrong by e + 2u relative,
    so dL/dz_k = T p_k - t_k is wrong by e + (C + N + 8) u of T p_k and (N + 8) u of t_k, N for the divisor of "mean".
    refloss may be wrong by 8u of the same. Targets count with their magnitudes; the divisor of weights of both signs,
    whose magnitudes add up to `spread` times the sum, has `spread` times the error.
    """
    (n, classes), log_p, t = z.shape, log_softmax(z), np.abs(t)
    n *= spread
    e, total, p = log_softmax_bound(z, off), t.sum(axis=1, keepdims=True), np.exp(log_p)
    sums = (classes + n + 16.0) * U
    loss = (total * e)[:, 0] + sums * (t * -log_p).sum(axis=1)
    return Rows(loss, (e + sums) * total * p + sums * t, total * p + t)


class CappedLogits(NamedTuple):
    """Logits scaled and capped (N, C), how far off they may be (N, 1), their slope and how far off that may be."""

    z: np.ndarray
    off: np.ndarray
    slope: np.ndarray
    slope_off: np.ndarray


def capped(z: np.ndarray, sigma: float, cap: float | None, off: Any = 0.0) -> CappedLogits:
    """Logits σz, or K tanh(σz/K), of logits wrong by `off`, and their slope σ (1 - tanh²).

    Product and quotient are rounded, tanh is wrong by 2u, and its product with K is rounded: 6u max |z'|, and what the
    logit itself is off by, times the slope, which is σ at most. 1 - tanh² is wrong by 4u from tanh and 2u of 1, and
    rounded; as is its product with σ; and a slope changes by 2σ²/K |dz| at most.
    """
    off = np.broadcast_to(off, (len(z), 1))
    if cap is None:
        scaled = sigma * z
        return CappedLogits(
            scaled,
            sigma * off + U * np.abs(scaled).max(axis=1, keepdims=True),
            np.full_like(z, sigma),
            np.zeros_like(z),
        )
    tanh = np.tanh(sigma * z / cap)
    of_z = sigma * off + 6.0 * U * cap * np.abs(tanh).max(axis=1, keepdims=True)
    of_slope = sigma * (8.0 * U + 2.0 / cap * sigma * off) * np.ones_like(z)
    return CappedLogits(cap * tanh, of_z, sigma * (1.0 - tanh**2), of_slope)


class OptionsBound(NamedTuple):
    """The error of the value and of dL/dz of a loss on logits with options, and the absolute terms of dL/dz."""

    value: np.ndarray
    gradient: np.ndarray
    terms: np.ndarray


def options_bound(
    loss: Any, z: np.ndarray, t: np.ndarray, divisor: float, upstream: float, of_lse: Any, off: Any = 0.0
) -> OptionsBound:
    """The error that cross entropy with options may have, of rows z (N, C) with targets t; reductions to a number.

    Beside `cross_entropy_bound`, for capped logits, there are r_n = λ lse², wrong by 2λ |lse| e + 4u r_n, with e the
    error of the log-sum-exp, and its gradient 2λ lse p, by 2λ (e + |lse| (e + 4u)) p; an upstream gradient of the
    log-sum-exp `of_lse` (N,) has u p, wrong by (e + 3u) of itself. All is times the slope of the cap.
    """
    n, given = len(z), capped(z, loss.logit_scale, loss.softcap, off)
    rows, e = cross_entropy_bound(given.z, t, given.off), log_softmax_bound(given.z, given.off)[:, 0]
    log_p = log_softmax(given.z)
    p, lse = np.exp(log_p), np.abs((given.z - log_p)[:, 0])
    count = n if loss.reduction == "mean" else 1.0
    squares = loss.z_loss * (2.0 * lse * e + (n + 4.0) * U * lse**2)
    slope, of_slope = 2.0 * loss.z_loss * lse, 2.0 * loss.z_loss * (e + lse * (e + (n + 12.0) * U))
    on_lse = abs(upstream) / count * slope + np.abs(of_lse)
    of_on_lse = abs(upstream) / count * of_slope + np.abs(of_lse) * (e + 11.0 * U)
    share_ = abs(upstream) / (abs(divisor) if loss.reduction == "mean" else 1.0)
    terms = share_ * rows.terms + on_lse[:, None] * p
    gradient = share_ * rows.gradient + of_on_lse[:, None] * p + 4.0 * U * terms
    value = reduced(rows.loss, loss.reduction, abs(divisor)) + squares.sum() / count
    return OptionsBound(value, gradient * given.slope + (terms + gradient) * given.slope_off, terms * given.slope)


def torch_options(torch: ModuleType, loss: Any, z: Any, y: Any, of_lse: Any = None, upstream: float = 1.0) -> Any:
    """The loss as the code of language models has it; of_lse times the log-sum-exps, over upstream, is added."""
    z = z * loss.logit_scale
    z = z if loss.softcap is None else loss.softcap * torch.tanh(z / loss.softcap)
    weight = None if loss.class_weight is None else torch.tensor(loss.class_weight, dtype=z.dtype)
    value = torch.nn.functional.cross_entropy(
        z, y, weight, label_smoothing=loss.label_smoothing, reduction=loss.reduction
    )
    lse = torch.logsumexp(z, dim=1)
    terms = loss.z_loss * lse.square()
    value = value + (terms.mean() if loss.reduction == "mean" else terms.sum())
    return value if of_lse is None else value + (torch.from_numpy(of_lse) / upstream * lse).sum()


def reduced(rows: np.ndarray, reduction: str, count: float) -> np.ndarray:
    """The error that a reduced loss may have, from that of its rows."""
    return rows if reduction == "none" else rows.sum() / (count if reduction == "mean" else 1.0)


def share(upstream: Any, reduction: str, count: float) -> np.ndarray:
    """dL/dL_n, as a column."""
    return np.reshape(upstream, (-1, 1)) / (count if reduction == "mean" else 1.0)


def linear_bound(
    x: np.ndarray, w: np.ndarray, y: np.ndarray, b: np.ndarray, reduction: str, upstream: Any
) -> dict[str, np.ndarray]:
    """The error that cross entropy behind a linear layer may have.

    A logit is a sum of D + 1 terms, wrong by (D + 2) u (|x||w| + |b|). dL/dx is a sum over classes: it has the
    errors of its terms and (C + 2) u of them; dL/dw and dL/db likewise over rows. refloss may be wrong by
    max(32, 8S) u of the same terms, and by max(16, 4S) u of the value, S = max |x||w|.
    """
    (n, d), classes = x.shape, len(w)
    length_x, length_w = np.linalg.norm(x, axis=1)[:, None], np.linalg.norm(w, axis=1)
    z, t, contract = x @ w.T + b, np.eye(classes)[y], max(32.0, 8.0 * (length_x * length_w).max())
    off = (d + 2.0) * U * (length_x * length_w + np.abs(b)).max(axis=1, keepdims=True)
    rows = cross_entropy_bound(z, t, off)
    lost = np.abs(share(upstream, reduction, n)) * (rows.gradient + (classes + n + contract) * U * rows.terms)
    value = reduced(rows.loss + 0.5 * contract * U * (t * -log_softmax(z)).sum(axis=1), reduction, n)
    return {"value": value, "x": lost @ length_w[:, None], "w": lost.T @ length_x, "b": lost.sum(axis=0)}


class Lengths(NamedTuple):
    """How far off a margin by length may be (N,), its slope in the length (N,), and the same of a regularizer."""

    margin: Any = 0.0
    slope: Any = 0.0
    term: Any = 0.0
    term_slope: Any = 0.0


def lengths_bound(loss: Any, length: np.ndarray, d: int) -> Lengths:
    """The error of margins that depend on lengths, of D squares each wrong by (D/2 + 2) u.

    v = q (a - p) is wrong by q times that of a, and by 6u q (a + p): a difference, a product, a quotient, rounded
    constants. A margin b v + m by b times as much and by 4u (b |v| + m). The regularizer has two positive terms of a,
    of which each, and its slope, is wrong by twice what a is relatively, and by 8u.
    """
    kind = type(loss).__name__
    if kind not in ("AdaFace", "MagFace"):
        return Lengths()
    if kind == "AdaFace":
        low, most, p, q, b, m = 1e-3, 100.0, loss.mean, loss.h / (loss.std + loss.eps), loss.m, loss.m
    else:
        low, most, p, q = loss.l_a, loss.u_a, loss.l_a, 1.0 / (loss.u_a - loss.l_a)
        b, m = loss.u_m - loss.l_m, loss.l_m
    a, of_a = np.clip(length, low, most), (0.5 * d + 2.0) * U * length
    of_margin = b * q * (of_a + 6.0 * U * (a + p)) + 4.0 * U * (b * q * (a + p) + m)
    if kind == "AdaFace":  # on the cosine as well, and no slope: v is a constant
        return Lengths(2.0 * of_margin)
    sizes, slopes = loss.regularizer * (a / most**2 + 1.0 / a), loss.regularizer * (1.0 / most**2 + 1.0 / a**2)
    off = 2.0 * of_a / length + 8.0 * U
    return Lengths(of_margin, b * q * np.ones(len(a)), off * sizes, off * slopes)


def head_bound(
    loss: Any, x: np.ndarray, w: np.ndarray, y: np.ndarray, upstream: float, m1: float, m: Any = None
) -> dict[str, np.ndarray]:
    """The error of a head that goes through the target's cosine, by acos or polynomial and autograd; "mean" only.

    (a) Norms of D squares are wrong by (D/2 + 2) u, so unit vectors are, and cosines by dc = (2D + 8) u.
    (b) psi as a function of c = cos theta has slope k, |k| <= m1 / sin theta: psi is wrong by k dc, and by 32u: a few
        roundings of angles up to 2 pi, of polynomials with terms up to 2 (m1 = 4), of folds up to 2 m1.
    (c) Logits are S times that; a norm as scale adds (D/2 + 4) u of them.
    (d) k itself is wrong by 32u relative and by dc |dk/dc|, |dk/dc| <= 2 m1^2 / sin^3 theta, since |psi''| <= m1^2 and
        |psi'| <= m1.
    (e) dL/dx is S / |x| times the sum of G_k k_k w_k, G = dL/dz, less its projection on x: it has the errors of G_k (as
        in cross entropy) and of k_k, and (C + 3D + 16) u of its absolute terms. A norm as scale adds the sum of
        G_k f_k, f = psi or c. dL/dw_k is the same over rows.
    (f) refloss may be wrong by max(32, 8S) u of the absolute terms, and max(16, 4S) u of the value.
    (g) A margin by length is wrong by dm, see `lengths_bound`: psi by dm more, and k by m1 dm / sin theta. dL/dm is
        S G_y times a number up to B = 1 + m, which is wrong by dm, by the angle's m1 dc / sin theta, and by 32u.
    (h) What replaces a hard class's cosine has slope eta', 2 + |t| at most, which is wrong by 2 dc and 4u of that, and
        is itself wrong by 4u more.
    (i) Angles of other classes, by acos, are as those of (b) and (d), with m1 = 1: cos(theta / m) and cos(theta - m').
        A product of c + m and c - m has slope 2 and is wrong as in (h); psi of the circle loss is that of (b) and (d)
        with m1 = 4, and what refloss may be wrong by is 4 times as much.
    (j) Which center of a class is nearest no rounding decides, so that one is all there is of the class; nor
        which classes are the k nearest.
    """
    (n, d), classes, at, by_norm = x.shape, len(w), (np.arange(len(x)), y), getattr(loss, "s", None) is None
    length_x, length_w = np.linalg.norm(x, axis=1)[:, None], np.linalg.norm(w, axis=-1)
    s = length_x if by_norm else np.full((n, 1), loss.s)
    dc, contract = (2.0 * d + 8.0) * U, max(32.0, 8.0 * s.max())
    c = (x @ w.reshape(-1, d).T / length_x / length_w.reshape(-1)).reshape(n, classes, -1)
    nearest = c == c.max(axis=2, keepdims=True)
    assert (np.sort(c, axis=2)[..., 1:] - np.sort(c, axis=2)[..., :-1] > 2.0 * dc)[..., -1:].all()
    f, slope, slope_off = c.max(axis=2), np.ones((n, classes)), np.zeros((n, classes))
    theta, of_length = np.arccos(f[at]), lengths_bound(loss, length_x[:, 0], d)
    if isinstance(loss, refloss.SphereFaceR | refloss.InterTopK):
        sine = np.sqrt((1.0 - f) * (1.0 + f))
        slope, slope_off = 1.0 / sine, 2.0 / sine**3 * dc + 32.0 * U / sine
    if isinstance(loss, refloss.CircleLoss):
        slope[:], slope_off[:] = 2.0, 2.0 * dc + 8.0 * U
        m1, contract = 4.0, 4.0 * contract
    f = textbook.eta(loss, f, theta, y)
    if hasattr(loss, "t"):
        slope[:], slope_off[:] = 2.0 + abs(loss.t), 2.0 * dc + 4.0 * U * (2.0 + abs(loss.t))
        contract *= 2.0 + abs(loss.t)
    f[at], slope[at] = textbook.psi(loss, theta, length_x[:, 0], m), m1 / np.sin(theta)
    slope_off[at] = 2.0 * m1**2 / np.sin(theta) ** 3 * dc + 32.0 * U * slope[at] + slope[at] * of_length.margin
    f_off = slope * dc + 36.0 * U + by_norm * (0.5 * d + 4.0) * U * np.abs(f)
    f_off[at] += of_length.margin
    rows = cross_entropy_bound(s * f, np.eye(classes)[y], (s * f_off).max(axis=1, keepdims=True))
    sums = (classes + n + 3.0 * d + 16.0 + contract) * U
    lost = s * (rows.gradient * slope + rows.terms * (slope_off + sums * slope)) * abs(upstream) / n
    radial = by_norm * (rows.gradient * np.abs(f) + rows.terms * (f_off + sums * np.abs(f))) * abs(upstream) / n
    most = 1.0 + (math.pi if m is None else np.abs(m))
    of_slope = of_length.margin + m1 * dc / np.sin(theta) + 32.0 * U + sums * most
    of_m = s[:, 0] * (rows.gradient[at] * most + rows.terms[at] * of_slope) * abs(upstream) / n
    along = of_m * of_length.slope + (1.0 + sums) * of_length.term_slope * abs(upstream) / n
    bounds = {
        "value": (rows.loss - 0.5 * contract * U * log_softmax(s * f)[at] + of_length.term).mean(),
        "x": (lost / length_x + radial).sum(axis=1, keepdims=True) + np.reshape(along, (-1, 1)),
        "w": (lost[..., None] * nearest).sum(axis=0).reshape(*length_w.shape, 1) / length_w[..., None],
    }
    return bounds if m is None else bounds | {"m": of_m}


def triplet_bound(
    a: np.ndarray, p: np.ndarray, n: np.ndarray, m: float, squared: bool, reduction: str, upstream: Any
) -> dict[str, np.ndarray]:
    """The error that a triplet loss may have: (D + 4) u of a distance d of D squares, and as much when squared.

    `slip` is what rounding moves the ends of a difference by: 2u of the largest entry in D coordinates (a little shift,
    as torch's eps, included). It moves d by slip, d^2 by 2 d slip, the unit vector of dd/da by 2 slip / d and 2 (a - b)
    by 2 slip. The sum over rows and "mean" are wrong by N u. Each side may: refloss does less.
    """
    rows, d = a.shape
    slip = 2.0 * U * math.sqrt(d) * np.abs([a, p, n]).max()
    ap, an = np.linalg.norm(a - p, axis=1), np.linalg.norm(a - n, axis=1)
    sums = (d + rows + 8.0) * U
    if squared:
        loss, slopes = sums * (ap**2 + an**2 + m) + 2.0 * (ap + an) * slip, 2.0 * (ap + an) * sums + 4.0 * slip
    else:
        loss, slopes = sums * (ap + an + m) + 2.0 * slip, 2.0 * sums + 2.0 * slip * (1.0 / ap + 1.0 / an)
    gradient = 2.0 * np.abs(share(upstream, reduction, rows)) * slopes[:, None]
    return {"value": 2.0 * reduced(loss, reduction, rows)} | dict.fromkeys(("anchor", "positive", "negative"), gradient)


def divergence_bound(z: np.ndarray, target: np.ndarray, upstream: float) -> dict[str, np.ndarray]:
    """The error that a divergence may have whose code subtracts one log of softmax from another; "mean" only.

    With e for the error of the two logs, and 4u more for the log of a mean, a log ratio r_k is wrong by e, and a
    probability relative to itself: a term by E_k = e + (e + (C + N + 16) u) (1 + |r_k|) of the larger of p_k and q_k.
    The value adds such terms of both sides. A gradient is one of them, less its probability times their sum. refloss
    may be wrong by 48u of the terms.
    """
    n, classes = z.shape
    log_q, log_p = log_softmax(z), log_softmax(target)
    larger, e = np.exp(np.maximum(log_q, log_p)), log_softmax_bound(z) + log_softmax_bound(target) + 4.0 * U
    off = larger * (e + (e + (classes + n + 64.0) * U) * (1.0 + np.abs(log_q - log_p)))
    total = off.sum(axis=1, keepdims=True)
    gradient = abs(upstream) / n * (off + larger * total)
    return {"value": 2.0 * total.mean(), "z": gradient, "target": gradient}
