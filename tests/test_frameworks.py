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


def agree(value: Found, wrong: dict[str, Gradients] | None = None, /, **gradients: Found) -> None:
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


def target_rows(y: np.ndarray, classes: int, settings: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Targets t (N, C) and what "mean" divides by, as torch has it, for the bounds."""
    weight, e = np.array(settings["class_weight"] or [1.0] * classes), settings["label_smoothing"]
    if y.dtype.kind == "f":
        t = y.reshape(-1, classes)
        return weight * ((1.0 - e) * t + e / classes), float(len(t))
    labels = y.reshape(-1)
    kept = labels != settings["ignore_index"]
    t = kept[:, None] * np.eye(classes)[np.where(kept, labels, 0)]
    return weight * ((1.0 - e) * t + e * kept[:, None] / classes), float(weight[labels[kept]].sum())


def cross_entropy_found(
    theirs: tuple[Any, Any], z: np.ndarray, y: np.ndarray, upstream: Any, settings: dict[str, Any]
) -> tuple[Found, Found]:
    """refloss.CrossEntropy beside another's value and dL/dz of the same logits (..., C), with their bounds."""
    classes, reduction = z.shape[-1], settings["reduction"]
    value, gradient = refloss.CrossEntropy(**settings).value_and_grad(z, y, upstream=upstream)
    t, count = target_rows(y, classes, settings)
    rows = cross_entropy_bound(z.reshape(-1, classes), t)
    value_bound = reduced(rows.loss, reduction, count).reshape(np.shape(value))
    gradient_bound = (share(upstream, reduction, count) * rows.gradient).reshape(z.shape)
    return Found(theirs[0], value, value_bound), Found(theirs[1], gradient.z, gradient_bound)


def torch_cross_entropy(
    torch: ModuleType, z: np.ndarray, y: np.ndarray, upstream: Any, settings: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Value and dL/dz of torch's cross entropy, with classes moved to where torch wants them (the second axis) and back."""
    axis = min(1, z.ndim - 1)
    options = settings | {"ignore_index": settings["ignore_index"] if y.dtype.kind == "i" else -100}
    if weight := options.pop("class_weight"):
        options["weight"] = torch.tensor(weight, dtype=torch.float64)
    target = torch.from_numpy(np.moveaxis(y, -1, axis) if y.dtype.kind == "f" else y)
    value, gradients = torch_gradients(
        torch,
        lambda z: torch.nn.functional.cross_entropy(z, target, **options),
        upstream,
        z=np.ascontiguousarray(np.moveaxis(z, -1, axis)),
    )
    return value, np.moveaxis(gradients["z"], axis, -1)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("kind", ["labels", "some ignored", "a class ignored", "probabilities"])
@pytest.mark.parametrize("shape", [(7,), (6, 7), (4, 7, 3), (2, 7, 3, 2)], ids=str)
def test_torch_cross_entropy(
    torch: ModuleType, shape: tuple[int, ...], kind: str, weighted: bool, smoothing: float, reduction: str
) -> None:
    rng, classes, places = np.random.default_rng(12), 7, (*shape[:1], *shape[2:]) if len(shape) > 1 else ()
    z = 4.0 * rng.standard_normal((*places, classes))
    y = np.array(rng.integers(classes, size=places))
    y.flat[0] = 5  # this one is never ignored: what "mean" makes of nothing is the next test
    if kind == "some ignored":
        y.flat[1::2] = -100
    elif kind == "a class ignored":
        y.flat[1::2] = 2
    elif kind == "probabilities":
        y = rng.dirichlet(np.ones(classes), size=places) * rng.uniform(0.5, 1.5, size=(*places, 1))  # sums need not be 1
    settings = {
        "reduction": reduction,
        "label_smoothing": smoothing,
        "class_weight": tuple(rng.uniform(0.1, 3.0, classes)) if weighted else None,
        "ignore_index": 2 if kind == "a class ignored" else -100,
    }
    upstream = rng.standard_normal(places if reduction == "none" else ())
    theirs = torch_cross_entropy(torch, z, y, upstream, settings)
    value, gradient = cross_entropy_found(theirs, z, y, upstream, settings)
    agree(value, z=gradient)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(7,), (6, 7), (2, 3, 7)], ids=str)
def test_torch_cross_entropy_with_every_row_ignored(
    torch: ModuleType, shape: tuple[int, ...], smoothing: float, reduction: str
) -> None:
    z, y = np.random.default_rng(13).standard_normal(shape), np.full(shape[:-1], -100)
    upstream = np.ones(shape[:-1] if reduction == "none" else ())
    settings = {"reduction": reduction, "label_smoothing": smoothing, "class_weight": None, "ignore_index": -100}
    value, gradient = torch_cross_entropy(torch, z, y, upstream, settings)
    ours, grad = refloss.CrossEntropy(**settings).value_and_grad(z, y, upstream=upstream)
    np.testing.assert_array_equal(ours, value)  # NaN for "mean", here equal to itself; 0 otherwise
    assert np.isnan(value).all() == (reduction == "mean")
    np.testing.assert_array_equal(grad.z, np.zeros(shape))
    np.testing.assert_array_equal(gradient, np.zeros(shape))


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("shape", [(7,), (6, 7), (2, 3, 7)], ids=str)
def test_optax_cross_entropies(jax: ModuleType, optax: ModuleType, shape: tuple[int, ...], kind: str) -> None:
    rng = np.random.default_rng(14)
    z, upstream = 4.0 * rng.standard_normal(shape), rng.standard_normal(shape[:-1])
    if kind == "labels":
        f, y = optax.softmax_cross_entropy_with_integer_labels, np.array(rng.integers(7, size=shape[:-1]))
    else:
        f, y = optax.softmax_cross_entropy, rng.dirichlet(np.ones(7), size=shape[:-1])
    value, back = jax.vjp(lambda z: f(z, jax.numpy.asarray(y)), jax.numpy.asarray(z))
    theirs = np.asarray(value), np.asarray(back(jax.numpy.asarray(upstream))[0])
    settings = {"reduction": "none", "label_smoothing": 0.0, "class_weight": None, "ignore_index": -100}
    found, gradient = cross_entropy_found(theirs, z, y, upstream, settings)
    agree(found, z=gradient)


# -------------------------------------------------------------------------------------------------------------------- heads


def head_inputs(seed: int, classes: int = 7, d: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings near their class, far from it, and nearly opposite to it, three each; lengths from 0.5 to 2 or so."""
    rng = np.random.default_rng(seed)
    w, y = rng.standard_normal((classes, d)), rng.integers(classes, size=9)
    x = rng.standard_normal((9, d))
    x[:3] = w[y[:3]] + 0.4 * x[:3]
    x[6:] = 0.1 * x[6:] - w[y[6:]]
    return x, w, y


def with_bounds(
    theirs: tuple[np.ndarray, Gradients], ours: tuple[Any, Any], bounds: dict[str, np.ndarray]
) -> tuple[Found, dict[str, Found]]:
    """Put value and gradients of two sides beside each other."""
    gradients = {name: Found(theirs[1][name], getattr(ours[1], name), bounds[name]) for name in theirs[1]}
    return Found(theirs[0], ours[0], bounds["value"]), gradients


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_torch_linear_and_cross_entropy(torch: ModuleType, bias: bool, reduction: str) -> None:
    x, w, y = head_inputs(21)
    rng = np.random.default_rng(22)
    b, upstream = rng.standard_normal(len(w)), rng.standard_normal(len(y) if reduction == "none" else ())
    layer, arrays = torch.nn.functional.linear, {"x": x, "w": w} | ({"b": b} if bias else {})

    def loss(x: Any, w: Any, b: Any = None) -> Any:
        return torch.nn.functional.cross_entropy(layer(x, w, b), torch.from_numpy(y), reduction=reduction)

    ours = refloss.SoftmaxLoss(reduction=reduction).value_and_grad(x, w, y, b if bias else None, upstream=upstream)
    bounds = linear_bound(x, w, y, b if bias else 0.0 * b, reduction, upstream)
    value, gradients = with_bounds(torch_gradients(torch, loss, upstream, **arrays), ours, bounds)
    agree(value, **gradients)


@pytest.mark.parametrize(
    ("theirs", "options", "loss", "m1"),
    [  # margins of PML's ArcFaceLoss are in degrees, and "hard" is its rule past theta + m = pi
        ("ArcFaceLoss", {"margin": 28.6, "scale": 64}, refloss.ArcFace(m=math.radians(28.6), boundary="hard"), 1.0),
        ("ArcFaceLoss", {"margin": 45.0, "scale": 10}, refloss.ArcFace(s=10, m=math.radians(45), boundary="hard"), 1.0),
        ("CosFaceLoss", {}, refloss.CosFace(), 1.0),
        ("CosFaceLoss", {"margin": 0.2, "scale": 10}, refloss.CosFace(s=10, m=0.2), 1.0),
        ("SphereFaceLoss", {"margin": 4, "scale": 1}, refloss.ASoftmax(m=4), 4.0),
        ("SphereFaceLoss", {"margin": 3, "scale": 1}, refloss.ASoftmax(m=3), 3.0),
        ("SphereFaceLoss", {"margin": 2, "scale": 1}, refloss.ASoftmax(m=2), 2.0),
        ("NormalizedSoftmaxLoss", {"temperature": 0.05}, refloss.NormFace(s=20), 1.0),
        ("NormalizedSoftmaxLoss", {"temperature": 1 / 64}, refloss.NormFace(s=64), 1.0),
    ],
    ids=lambda given: repr(given) if isinstance(given, refloss.losses._MarginLoss) else "",
)
@pytest.mark.parametrize("seed", [31, 32, 33])
def test_pytorch_metric_learning(
    torch: ModuleType, pml: ModuleType, theirs: str, options: dict[str, Any], loss: Any, m1: float, seed: int
) -> None:
    x, w, y = head_inputs(seed)
    cos = (x @ w.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(w, axis=1))[np.arange(len(y)), y]
    past = m1 * np.arccos(cos) + (getattr(loss, "m", 0.0) if m1 == 1.0 else 0.0) > math.pi
    if isinstance(loss, refloss.ArcFace | refloss.ASoftmax):
        assert past.any(), "no row is past its boundary"
        assert not past.all(), "every row is past its boundary"
    other = getattr(pml, theirs)(num_classes=len(w), embedding_size=w.shape[1], **options)
    ours = loss.value_and_grad(x, w, y, upstream=-1.7)
    bounds = head_bound(loss, x, w, y, -1.7, m1)
    value, gradients = with_bounds(pml_gradients(torch, other, x, w, y, -1.7), ours, bounds)
    wrong = {title: mutant.value_and_grad(x, w, y, upstream=-1.7)[1]._asdict() for title, mutant in loss_mutants(loss).items()}
    agree(value, {} if isinstance(loss, refloss.CosFace | refloss.NormFace) else wrong, **gradients)
