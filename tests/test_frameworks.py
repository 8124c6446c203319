"""Real implementations against refloss, values and gradients, in float64; a framework that is not there is skipped.

The oracle is the exacter side, so a tolerance says what the framework may lose, in units of u = 2^-53. It is derived from
the inputs, never tuned (`cross_entropy_bound`, `linear_bound`, `head_bound`, `triplet_bound`), and it is worst-case: every
rounding at its largest, all pulling one way. What is left is still narrow enough to reject a gradient wrong by one part in
a million, and `agree` shows that for every comparison it makes.

Where a framework is known to be wrong, a strict xfail tells the story on a fixed input, against a closed form and not against
refloss; `test_refloss_is_right_where_they_are_not` puts refloss before the same closed forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from mutants import GROSS, Gradients, loss_mutants

import refloss

U = 2.0**-53
REDUCTIONS = ["none", "mean", "sum"]

MUTANTS_HERE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "factor 1 + 1e-6": lambda g: g * (1.0 + 1e-6),
    "rows swapped": lambda g: np.roll(g, 1, axis=0),
    "target's term dropped": lambda g: np.where(g == g.min(axis=-1, keepdims=True), 0.0, g),  # of dL/dz: where it is < 0
}


class Found(NamedTuple):
    """The same number or gradient from two sides, and how far apart they may lie."""

    theirs: np.ndarray
    ours: np.ndarray
    bound: np.ndarray

    def holds(self) -> bool:
        return bool((np.abs(np.asarray(self.theirs) - self.ours) <= self.bound).all())


def agree(value: Found, wrong: Gradients | None = None, /, **gradients: Found) -> None:
    """Hold value and gradients to their bounds, then every gradient changed by every mutant: none of those may pass."""
    for name, found in {"value": value, **gradients}.items():
        assert np.shape(found.theirs) == np.shape(found.ours), name
        assert found.holds(), f"{name}: theirs {found.theirs}, ours {found.ours}, allowed {found.bound}"
    for name, found in gradients.items():
        mutants = {title: mutant({name: found.ours})[name] for title, mutant in GROSS.items()}
        mutants |= {title: mutant(found.ours) for title, mutant in MUTANTS_HERE.items()}
        mutants |= {title: named[name] for title, named in (wrong or {}).items()}
        for title, mutant in mutants.items():
            if not np.array_equal(mutant, found.ours):  # 0 is 0 with its sign changed, too
                assert not found._replace(ours=mutant).holds(), f"d{name} passes with {title}"


# ----------------------------------------------------------------------------------------------------------- the frameworks


@pytest.fixture
def torch() -> ModuleType:
    return pytest.importorskip("torch")


@pytest.fixture
def pml(torch: ModuleType) -> ModuleType:
    return pytest.importorskip("pytorch_metric_learning.losses")


@pytest.fixture
def jax() -> Iterator[ModuleType]:
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield jax
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def optax(jax: ModuleType) -> ModuleType:
    return pytest.importorskip("optax")


@pytest.fixture
def softmaxes(request: pytest.FixtureRequest) -> SimpleNamespace:
    """softmax, log_softmax and logsumexp (z, axis) of the framework that the parameter names."""
    if request.param == "scipy":
        module, give = pytest.importorskip("scipy.special"), np.asarray
    elif request.param == "jax":
        module = request.getfixturevalue("jax").nn
        give = pytest.importorskip("jax.numpy").asarray
    else:
        module = request.getfixturevalue("torch")
        give = module.from_numpy

    def called(name: str) -> Callable[[np.ndarray, int], np.ndarray]:
        return lambda z, axis: np.asarray(getattr(module, name)(give(z), axis))

    return SimpleNamespace(**{name: called(name) for name in ("softmax", "log_softmax", "logsumexp")})


def torch_gradients(
    torch: ModuleType, f: Callable[..., Any], upstream: Any, **arrays: np.ndarray
) -> tuple[np.ndarray, Gradients]:
    """Value of f and, by backward, its gradients."""
    tensors = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in arrays.items()}
    value = f(**tensors)
    value.backward(torch.as_tensor(upstream, dtype=value.dtype))
    return value.detach().numpy(), {name: tensor.grad.numpy() for name, tensor in tensors.items()}


def pml_gradients(
    torch: ModuleType, loss: Any, x: np.ndarray, w: np.ndarray, y: np.ndarray, upstream: float = 1.0
) -> tuple[np.ndarray, Gradients]:
    """Value and gradients of a loss of pytorch-metric-learning, which keeps its weights (D, C)."""
    loss.W = torch.nn.Parameter(torch.from_numpy(w.T.copy()))
    value, gradients = torch_gradients(torch, lambda x: loss(x, torch.from_numpy(y)), upstream, x=x)
    return value, gradients | {"w": loss.W.grad.numpy().T}


# --------------------------------------------------------------------------------------------------------------- the bounds


class Rows(NamedTuple):
    """What cross entropy may lose, by row (N,) and by entry of dL/dz (N, C), for upstream gradients of 1."""

    loss: np.ndarray
    gradient: np.ndarray
    terms: np.ndarray
    """The absolute terms of dL/dz_k = T p_k - t_k: T p_k + t_k."""


def log_softmax_bound(z: np.ndarray, off: Any = 0.0) -> np.ndarray:
    """What log p, or log of the sum of exponentials, of rows z (N, C) may lose (N, 1), for logits wrong by `off` (N, 1).

    Gaps z_k - M round by u R at most, R the range of the row, and pass it on to exp; exp and its C - 1 sums are wrong by
    C + 4 u relative, an absolute error after log, which rounds by u (log C + 2); taking the log from the gap rounds by
    u (R + log C). optax takes it from z_k itself: u E more, twice, E = max |z|. `off` enters by the logit and by the sum.
    """
    classes = z.shape[1]
    spread, largest = np.ptp(z, axis=1, keepdims=True), np.abs(z).max(axis=1, keepdims=True)
    return 2.0 * off + U * (classes + 6.0 + 2.0 * spread + 2.0 * largest + 2.0 * math.log(classes))


def cross_entropy_bound(z: np.ndarray, t: np.ndarray, off: Any = 0.0) -> Rows:
    """What cross entropy of rows z (N, C) with targets t (N, C) may lose, for logits wrong by `off` (N, 1).

    With e for what log p loses: L_n = sum of t_k (-log p_k) loses T e, and (C + N + 8) u of its terms in products, targets
    and the sums over classes and rows. p_k = exp(log p_k) is wrong by e + 2u relative, so dL/dz_k = T p_k - t_k loses
    e + (C + N + 8) u of T p_k (T is a sum of C) and (N + 8) u of t_k, N for what "mean" divides by. refloss loses 8u.
    """
    n, classes = z.shape
    log_p = z - z.max(axis=1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    e, total, p = log_softmax_bound(z, off), t.sum(axis=1, keepdims=True), np.exp(log_p)
    sums = (classes + n + 16.0) * U
    loss = (total * e)[:, 0] + sums * (t * -log_p).sum(axis=1)
    return Rows(loss, (e + sums) * total * p + sums * t, total * p + t)


def reduced(rows: np.ndarray, reduction: str, count: float) -> np.ndarray:
    """What a reduced loss may lose, its rows losing that much."""
    return rows if reduction == "none" else rows.sum() / (count if reduction == "mean" else 1.0)


def share(upstream: Any, reduction: str, count: float) -> np.ndarray:
    """|dL/dL_n|, as a column."""
    return np.abs(np.reshape(upstream, (-1, 1))) / (count if reduction == "mean" else 1.0)


def linear_bound(
    x: np.ndarray, w: np.ndarray, y: np.ndarray, b: np.ndarray, reduction: str, upstream: Any
) -> dict[str, np.ndarray]:
    """What cross entropy behind a linear layer may lose.

    A logit is a sum of D + 1 terms, wrong by (D + 2) u (|x||w| + |b|). dL/dx is a sum over classes, so it loses what its
    terms do and (C + 2) u of them; dL/dw and dL/db likewise over rows. refloss may lose max(32, 8S) u of the same terms,
    and max(16, 4S) u of the value, S = max |x||w|.
    """
    length_x, length_w = np.linalg.norm(x, axis=1)[:, None], np.linalg.norm(w, axis=1)
    z, s = x @ w.T + b, (length_x * length_w).max()
    off = (x.shape[1] + 2.0) * U * (length_x * length_w + np.abs(b)).max(axis=1, keepdims=True)
    rows, n = cross_entropy_bound(z, np.eye(len(w))[y], off), len(x)
    lost = share(upstream, reduction, n) * (rows.gradient + (len(w) + n + max(32.0, 8.0 * s)) * U * rows.terms)
    loss = np.log(np.exp(z).sum(axis=1)) - z[np.arange(n), y]
    return {
        "value": reduced(rows.loss + max(16.0, 4.0 * s) * U * loss, reduction, n),
        "x": lost @ length_w[:, None],
        "w": lost.T @ length_x,
        "b": lost.sum(axis=0),
    }


def head_bound(
    loss: Any, x: np.ndarray, w: np.ndarray, y: np.ndarray, upstream: float, m1: float = 1.0
) -> dict[str, np.ndarray]:
    """What a head that goes through the cosine of the target, by acos or polynomial and autograd, may lose; "mean" only.

    (a) Norms of D squares are wrong by (D/2 + 2) u, so unit vectors are, and cosines by dc = (2D + 8) u.
    (b) psi as a function of c = cos theta has slope k, |k| <= m1 / sin theta: psi is wrong by k dc, and by 32u: a few
        roundings of angles up to 2 pi, of polynomials with terms up to 2 (m1 = 4), of folds up to 2 m1.
    (c) Logits are S times that; a norm as scale adds (D/2 + 4) u of them.
    (d) k itself is wrong by dc |dk/dc|, |dk/dc| <= 2 m1^2 / sin^3 theta (psi'' and psi' are at most m1^2 and m1), and 32u.
    (e) dL/dx is S / |x| times a sum over k of G_k k_k w_k, less its projection: it loses what G_k (cross entropy) and k_k do,
        and (C + 3D + 16) u of its absolute terms. A norm as scale adds the sum of G_k f_k, f = psi or c. dL/dw: over rows.
    refloss may lose max(32, 8S) u of the absolute terms, and max(16, 4S) u of the value.
    """
    (n, d), classes, at = x.shape, len(w), (np.arange(len(x)), y)
    length_x, length_w = np.linalg.norm(x, axis=1)[:, None], np.linalg.norm(w, axis=1)[:, None]
    by_norm = getattr(loss, "s", None) is None
    s = length_x if by_norm else np.full((n, 1), loss.s)
    f, slope, slope_off, dc = x @ w.T / length_x / length_w.T, np.ones((n, classes)), np.zeros((n, classes)), (2.0 * d + 8.0) * U
    theta = np.arccos(f[at])
    f[at], slope[at] = loss.target_logit(theta), m1 / np.sin(theta)
    slope_off[at] = 2.0 * m1**2 / np.sin(theta) ** 3 * dc + 32.0 * U * slope[at]
    f_off = slope * dc + 32.0 * U + by_norm * (0.5 * d + 4.0) * U * np.abs(f)
    z, contract = s * f, np.maximum(32.0, 8.0 * s.max())
    rows = cross_entropy_bound(z, np.eye(classes)[y], (s * f_off).max(axis=1, keepdims=True))
    true = np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1)) + z.max(axis=1) - z[at]
    terms, sums = rows.terms * slope, (classes + n + 3.0 * d + 16.0 + contract) * U
    lost = s * (rows.gradient * slope + rows.terms * slope_off + sums * terms)
    radial = by_norm * (rows.gradient * np.abs(f) + rows.terms * f_off + sums * rows.terms * np.abs(f))
    return {
        "value": (rows.loss + 0.5 * contract * U * true).mean(),
        "x": abs(upstream) / n * ((lost / length_x).sum(axis=1) + radial.sum(axis=1))[:, None],
        "w": abs(upstream) / n * lost.sum(axis=0)[:, None] / length_w,
    }


# -------------------------------------------------------------------------------------------- softmax, log-softmax, logsumexp


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("softmaxes", ["torch", "scipy", "jax"], indirect=True)
def test_softmax_functions(softmaxes: SimpleNamespace, axis: int) -> None:
    z = 10.0 * np.random.default_rng(11).standard_normal((3, 4, 5))
    bound = log_softmax_bound(np.moveaxis(z, axis, -1).reshape(-1, z.shape[axis])).max()
    p = refloss.softmax(z, axis=axis)
    agree(Found(softmaxes.log_softmax(z, axis), refloss.log_softmax(z, axis=axis), bound))
    agree(Found(softmaxes.logsumexp(z, axis), refloss.logsumexp(z, axis=axis), bound))
    agree(Found(softmaxes.softmax(z, axis), p, (bound + 8.0 * U) * p))


# -------------------------------------------------------------------------------------------------------------- cross entropy


class Case(NamedTuple):
    """Logits (..., C), targets in a framework's form, and what refloss.CrossEntropy is told."""

    z: np.ndarray
    y: np.ndarray
    settings: dict[str, Any]

    def rows(self) -> np.ndarray:
        return self.z.reshape(-1, self.z.shape[-1])

    def targets(self) -> tuple[np.ndarray, float]:
        """t (N, C) and what "mean" divides by, for the bounds; torch's meaning of the words."""
        n, classes = self.rows().shape
        weight = np.array(self.settings.get("class_weight") or np.ones(classes))
        if self.y.shape == self.z.shape:
            t, count = self.y.reshape(n, classes), float(n)
        else:
            labels, kept = self.y.reshape(n), (self.y != self.settings["ignore_index"]).reshape(n)
            t = np.eye(classes)[np.where(kept, labels, 0)]
            count = weight[labels[kept]].sum()
            if "class_weight" in self.settings:  # a row's smoothed target is weighed class by class
                pass
        e = self.settings.get("label_smoothing", 0.0)
        t = weight * ((1.0 - e) * t + e / classes)
        return (t if self.y.shape == self.z.shape else t * kept[:, None]), count
