"""Errors of divergences of two softmaxes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import Array, Pair, high, plain
from refloss.stages import divergence, log_softmax, softmax
from refloss.testing.errors.arithmetic import Arithmetic

MOST = 40.0
"""Largest error of a logarithm that counts: beyond it nothing is known of its exponential."""


class Divergences(NamedTuple):
    """True values of divergences: logits of both sides, and which divergence."""

    z: Array
    """Logits of the model (N, C)."""
    target: Array
    """Logits of the target (N, C)."""
    form: str
    """One of `refloss.stages.divergence.FORMS`."""


class LogSoftmax(NamedTuple):
    """One side: its probabilities and their logarithms, and the errors of both."""

    p: Array
    """Probabilities (N, C)."""
    log_p: Array
    """Their logarithms (N, C); 0 for masked classes, which have no part."""
    error: Array
    """Absolute error of the logarithm (N, C)."""
    relative: Array
    """Relative error of the probability (N, C)."""
    largest: Array
    """Where the largest logit is (N, C)."""


class Terms(NamedTuple):
    """The terms w (log w - log v) of a divergence."""

    size: Array
    """w (|log w| + |log v|) (N, C)."""
    error: Array
    """Their errors (N, C)."""


def divergence_error(rows: Divergences, own: float, a: Arithmetic) -> tuple[Array, dict[str, Array]]:
    """Return the errors of the loss of each row (N,) and of its gradients in z and target (N, C).

    A logarithm of a probability is that of a log-softmax, and one is subtracted from the other; or products with both
    are. Where rows nearly agree the error of the stable form may be the smaller one, which then counts by the standard
    "relative" too. own is the relative error of the truth.
    """
    if a.log_p == "relative":
        stable = divergence_error(rows, own, a._replace(log_p="stable"))
        of_rows, of_gradients = _relative_error(rows, own, a)
        return np.minimum(of_rows, stable[0]), {
            name: np.minimum(error, stable[1][name]) for name, error in of_gradients.items()
        }
    classes = rows.z.shape[1]
    q, p = (log_softmax_error(logits, a) for logits in (rows.z, rows.target))
    losses, _ = _true(rows)
    if rows.form == "jensen-shannon":
        mean = _mean(q, p, a)
        parts = {"z": _terms(q, mean, a), "target": _terms(p, mean, a)}
        share = 0.5
        # The logarithm of the mean has a gradient too, which cancels that of the probabilities beside it.
        beside = {
            "z": q.p * (q.relative + p.relative + 6.0 * a.u),
            "target": p.p * (q.relative + p.relative + 6.0 * a.u),
        }
        upstream = {
            name: (0.5 * part.size + side.p, 0.5 * part.error + beside[name])
            for (name, part), side in zip(parts.items(), (q, p), strict=True)
        }
    else:
        weighing, other = ("target", "z") if rows.form == "forward" else ("z", "target")
        first, second = (p, q) if rows.form == "forward" else (q, p)
        parts, share = {weighing: _terms(first, second, a)}, 1.0
        upstream = {
            weighing: (
                parts[weighing].size + first.p,
                parts[weighing].error + first.p * (first.relative + 2.0 * a.u),
            ),
            other: (first.p, first.p * (first.relative + a.u)),
        }
    summed = sum(
        part.error.sum(axis=1) + a.sum_error(classes, part.size.sum(axis=1), losses) for part in parts.values()
    )
    of_rows = share * summed + (3.0 * a.u + own) * losses + a.smallest
    of_gradients = {name: _through(side, *upstream[name], own, a) for name, side in (("z", q), ("target", p))}
    return of_rows, of_gradients


def _true(rows: Divergences) -> tuple[Array, Array]:
    """Return the losses (N,), and log q - log p (N, C)."""
    losses, saved = divergence.forward(Pair.of(rows.z), Pair.of(rows.target), rows.form)
    return np.asarray(high(plain(losses))), saved.compared.delta.hi


def log_softmax_error(logits: Array, a: Arithmetic) -> LogSoftmax:
    """Return the errors of the logarithms of probabilities and, relative to themselves, of these.

    As in `cross_entropy_error`: of the gap and the logarithm of the sum of exponentials, or by the standard "working"
    of two rounded numbers, the logit and a logsumexp.
    """
    p, _ = softmax.forward(Pair.of(logits))
    log_p = high(plain(log_softmax.forward(Pair.of(logits))[0]))
    known = np.isfinite(logits)
    largest = logits.max(axis=1, keepdims=True)
    gap = np.where(known, largest - logits, 0.0)
    log_sum = np.log(np.exp(-np.where(known, gap, np.inf)).sum(axis=1, keepdims=True))
    spread = (p * gap).sum(axis=1, keepdims=True)
    error = a.u * (a.sum_of(logits.shape[1]) + 3.0 + spread + 3.0 * log_sum + 2.0 * gap)
    if a.log_p == "working":
        error += a.u * (np.abs(largest + log_sum) + np.where(known, np.abs(logits), 0.0))
    relative = np.expm1(np.minimum(error, MOST)) + 2.0 * a.u
    return LogSoftmax(p, np.where(known, log_p, 0.0), error, relative, known & (gap == 0.0))


def _mean(q: LogSoftmax, p: LogSoftmax, a: Arithmetic) -> LogSoftmax:
    """Return the mean of two sides."""
    mean = 0.5 * (q.p + p.p)
    log_mean = np.log(np.where(mean > 0.0, mean, 1.0))
    relative = np.maximum(q.relative, p.relative) + 3.0 * a.u
    return LogSoftmax(mean, log_mean, relative + a.u * np.abs(log_mean), relative, q.largest)


def _terms(first: LogSoftmax, second: LogSoftmax, a: Arithmetic) -> Terms:
    """Return the terms w (log w - log v), w the probabilities of the first side and v those of the second."""
    w, ratio = first.p, np.abs(first.log_p - second.log_p)
    size = w * (np.abs(first.log_p) + np.abs(second.log_p))
    off = (1.0 + first.relative) * (first.error + second.error) + first.relative * ratio
    return Terms(size, w * off + 2.0 * a.u * size + a.smallest)


def _through(side: LogSoftmax, g: Array, of_g: Array, own: float, a: Arithmetic) -> Array:
    """Return the error of g_k - p_k Σ g, the gradient through a log-softmax, from the magnitude of g and its error.

    A maximum that is not detached has the gradient Σ (g_k - p_k Σ g), which is 0 except for roundings.
    """
    classes, total = g.shape[1], g.sum(axis=1, keepdims=True)
    rounded = a.sum_error(classes, total, total)
    error = of_g + side.p * (of_g.sum(axis=1, keepdims=True) + rounded + (side.relative + 2.0 * a.u) * total)
    error += (2.0 * a.u + own) * (g + side.p * total)
    error += np.where(side.largest, a.sum_error(classes, 2.0 * total, 0.0 * total) + 8.0 * a.u * total, 0.0)
    return np.asarray(error + a.smallest)


def _relative_error(rows: Divergences, own: float, a: Arithmetic) -> tuple[Array, dict[str, Array]]:
    """As `divergence_error`, for log ratios right to a few u of the largest of them, and terms that do not cancel."""
    q, p = (log_softmax_error(logits, a._replace(log_p="stable")) for logits in (rows.z, rows.target))
    losses, delta = _true(rows)
    delta = np.where(np.isfinite(delta), delta, 0.0)
    counted = np.maximum(q.p, p.p) > a.smallest
    most = np.where(counted, np.abs(delta), 0.0).max(axis=1, keepdims=True)
    off = a.u * (2.0 * np.abs(delta) + (a.sum_of(rows.z.shape[1]) + 12.0) * most)
    apart = np.abs(divergence.difference(p.p, q.p, Pair.of(delta)))
    relative = np.maximum(q.relative, p.relative) + 12.0 * a.u
    larger = np.maximum(q.p, p.p)
    # A loss, and each gradient with it, is a sum of terms of one sign: of at most δ (q - p) each.
    of_rows = (relative * np.abs(delta) * apart + 2.0 * apart * off).sum(axis=1) + own * losses + a.smallest
    near = relative * apart + larger * off + own * larger * most
    far = larger * (relative * (np.abs(delta) + losses[:, None]) + off + of_rows[:, None])
    if rows.form == "jensen-shannon":
        gradients = {"z": far, "target": far}
    else:
        gradients = {"z": near, "target": far} if rows.form == "forward" else {"z": far, "target": near}
    return of_rows, {name: error + a.smallest for name, error in gradients.items()}
