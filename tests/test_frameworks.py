"""Real implementations against refloss, values and gradients, in float64; a framework that is not there is skipped.

What each framework may lose is derived in support/frameworks.py; `agree` there shows for every comparison that a
gradient that is wrong by one part in 10^9 would be rejected.

Where a framework is known to be wrong, a strict xfail tells the story on a fixed input, against a closed form and not
against refloss; `test_refloss_is_right_where_they_are_not` holds refloss to the same closed forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import refloss
from support.frameworks import (
    Comparison,
    U,
    agree,
    cross_entropy_bound,
    divergence_bound,
    head_bound,
    head_inputs,
    linear_bound,
    log_softmax_bound,
    reduced,
    share,
    torch_gradients,
    triplet_bound,
)
from support.mutants import Gradients, loss_mutants

REDUCTIONS = ["none", "mean", "sum"]

# ------------------------------------------------------------------------------------------------------ the frameworks


@pytest.fixture
def pml(torch: ModuleType) -> ModuleType:
    return pytest.importorskip("pytorch_metric_learning.losses")


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


def pml_gradients(
    torch: ModuleType, loss: Any, x: np.ndarray, w: np.ndarray, y: np.ndarray, upstream: float = 1.0
) -> tuple[np.ndarray, Gradients]:
    """Value and gradients of a loss of pytorch-metric-learning, which keeps its weights (D, C)."""
    loss.W = torch.nn.Parameter(torch.from_numpy(w.T.copy()))
    value, gradients = torch_gradients(torch, lambda x: loss(x, torch.from_numpy(y)), upstream, x=x)
    return value, gradients | {"w": loss.W.grad.numpy().T}


# -------------------------------------------------------------------------------------- softmax, log-softmax, logsumexp


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("softmaxes", ["torch", "scipy", "jax"], indirect=True)
def test_softmax_functions(softmaxes: SimpleNamespace, axis: int) -> None:
    z = 10.0 * np.random.default_rng(11).standard_normal((3, 4, 5))
    bound = log_softmax_bound(np.moveaxis(z, axis, -1).reshape(-1, z.shape[axis])).max()
    p = refloss.softmax(z, axis=axis)
    agree(Comparison(softmaxes.log_softmax(z, axis), refloss.log_softmax(z, axis=axis), bound))
    agree(Comparison(softmaxes.logsumexp(z, axis), refloss.logsumexp(z, axis=axis), bound))
    agree(Comparison(softmaxes.softmax(z, axis), p, (bound + 8.0 * U) * p))


# ------------------------------------------------------------------------------------------------------- cross entropy


def target_rows(y: np.ndarray, classes: int, settings: dict[str, Any]) -> tuple[np.ndarray, float, float]:
    """Targets t (N, C), what "mean" divides by, as torch has it, and its terms' magnitudes over it, for the bounds."""
    weight, e = np.array(settings["class_weight"] or [1.0] * classes), settings["label_smoothing"]
    if y.dtype.kind == "f":
        t = y.reshape(-1, classes)
        return weight * ((1.0 - e) * t + e / classes), float(len(t)), 1.0
    labels = y.reshape(-1)
    kept = labels != settings["ignore_index"]
    t = kept[:, None] * np.eye(classes)[np.where(kept, labels, 0)]
    own = weight[labels[kept]]
    return weight * ((1.0 - e) * t + e * kept[:, None] / classes), float(own.sum()), np.abs(own).sum() / abs(own.sum())


def hold_cross_entropy(
    theirs: tuple[Any, Any], z: np.ndarray, y: np.ndarray, upstream: Any, settings: dict[str, Any]
) -> None:
    """Hold another's value and dL/dz of logits (..., C) to those of refloss.CrossEntropy."""
    classes, reduction = z.shape[-1], settings["reduction"]
    value, gradient = refloss.CrossEntropy(**settings).value_and_grad(z, y, upstream=upstream)
    t, count, spread = target_rows(y, classes, settings)
    rows, g = cross_entropy_bound(z.reshape(-1, classes), t, spread=spread), share(upstream, reduction, count)
    of_value = Comparison(theirs[0], value, np.abs(reduced(rows.loss, reduction, count)).reshape(np.shape(value)))
    of_z = Comparison(theirs[1], gradient.z, (np.abs(g) * rows.gradient).reshape(z.shape))
    agree(of_value, {"target's term dropped": {"z": gradient.z + (g * t).reshape(z.shape)}}, z=of_z)


def torch_cross_entropy(
    torch: ModuleType, z: np.ndarray, y: np.ndarray, upstream: Any, settings: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Value and dL/dz of torch's cross entropy, the classes moved to where torch wants them (axis 1) and back."""
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
@pytest.mark.parametrize("weights", ["unweighted", "weighted", "of both signs"])
@pytest.mark.parametrize("kind", ["labels", "some ignored", "a class ignored", "probabilities", "of both signs"])
@pytest.mark.parametrize("shape", [(7,), (6, 7), (4, 7, 3), (2, 7, 3, 2)], ids=str)
def test_torch_cross_entropy(
    torch: ModuleType, shape: tuple[int, ...], kind: str, weights: str, smoothing: float, reduction: str
) -> None:
    """Weights and targets of both signs too, as in the samples of torch's own OpInfo."""
    rng, classes, places = np.random.default_rng(12), 7, (*shape[:1], *shape[2:]) if len(shape) > 1 else ()
    z = 4.0 * rng.standard_normal((*places, classes))
    y = np.array(rng.integers(classes, size=places))
    y.flat[0] = 5  # this one is never ignored: what "mean" makes of nothing is the next test
    if kind == "some ignored":
        y.flat[1::2] = -100
    elif kind == "a class ignored":
        y.flat[1::2] = 2
    elif kind == "probabilities":
        y = rng.uniform(size=z.shape) / 3.0  # sums need not be 1
    elif kind == "of both signs":
        y = rng.standard_normal(z.shape)
    settings = {
        "reduction": reduction,
        "label_smoothing": smoothing,
        "class_weight": {
            "weighted": tuple(rng.uniform(0.1, 3.0, classes)),
            "of both signs": tuple(rng.standard_normal(classes)),
        }.get(weights),
        "ignore_index": 2 if kind == "a class ignored" else -100,
    }
    upstream = rng.standard_normal(places if reduction == "none" else ())
    hold_cross_entropy(torch_cross_entropy(torch, z, y, upstream, settings), z, y, upstream, settings)


@pytest.mark.parametrize("engine", ["chain", "fused", "dd", "certified"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9, 1.0])
def test_torch_cross_entropy_with_weights_that_add_up_to_0(torch: ModuleType, smoothing: float, engine: str) -> None:
    """The value is infinite or NaN as torch's; refloss has no gradient there, and torch next to none."""
    z = np.random.default_rng(13).standard_normal((3, 3))
    settings = {"reduction": "mean", "label_smoothing": smoothing, "ignore_index": -100}
    for y in ([0, 0, 1], [1, 0, 0], [0, 1, -100], [2, 2, 2], [2, 0, 2]):
        for weights in ((-1.0, 2.0, 0.0), (1.0, -2.0, 0.0), (1.0, -1.0, 3.0), (0.0, 0.0, 0.0)):
            settings["class_weight"] = weights
            theirs, _ = torch_cross_entropy(torch, z, np.array(y), 1.0, settings)
            loss = refloss.CrossEntropy(**settings)
            if np.isfinite(theirs):
                continue
            value, grad = loss.value_and_grad(z, y, engine=engine)
            np.testing.assert_array_equal(value, theirs)
            np.testing.assert_array_equal(loss(z, y, engine=engine), theirs)
            np.testing.assert_array_equal(loss.trace(z, y)["cross_entropy"].output, theirs)
            kept = np.array(y) != -100
            assert np.isnan(grad.z[kept]).all()
            assert not grad.z[~kept].any()


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
@pytest.mark.parametrize("shape", [(7,), (2, 3, 7)], ids=str)
def test_optax_cross_entropies(jax: ModuleType, optax: ModuleType, shape: tuple[int, ...], kind: str) -> None:
    rng = np.random.default_rng(14)
    z, upstream = 4.0 * rng.standard_normal(shape), rng.standard_normal(shape[:-1])
    if kind == "labels":
        f, y = optax.softmax_cross_entropy_with_integer_labels, np.array(rng.integers(7, size=shape[:-1]))
    else:
        f, y = optax.softmax_cross_entropy, rng.dirichlet(np.ones(7), size=shape[:-1])

    def both(z: Any, upstream: Any) -> tuple[Any, Any]:
        value, back = jax.vjp(lambda z: f(z, jax.numpy.asarray(y)), z)
        return value, back(upstream)[0]

    theirs = tuple(np.asarray(output) for output in jax.jit(both)(z, upstream))
    settings = {"reduction": "none", "label_smoothing": 0.0, "class_weight": None, "ignore_index": -100}
    hold_cross_entropy(theirs, z, y, upstream, settings)


# --------------------------------------------------------------------------------------------------------------- heads


def lengths(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Lengths of the rows, as columns."""
    return tuple(np.linalg.norm(array, axis=1)[:, None] for array in arrays)


def beside(
    theirs: tuple[np.ndarray, Gradients], ours: tuple[Any, Any], bounds: dict[str, np.ndarray]
) -> tuple[Comparison, dict[str, Comparison]]:
    """Put value and gradients of two sides beside each other."""
    gradients = {name: Comparison(theirs[1][name], getattr(ours[1], name), bounds[name]) for name in theirs[1]}
    return Comparison(theirs[0], ours[0], bounds["value"]), gradients


def without_target(loss: Any, x: np.ndarray, w: np.ndarray, y: np.ndarray, upstream: float) -> Gradients:
    """dL/dx and dL/dw of a margin loss less what they have by the target's angle, dtheta = -t dx / |x|."""
    of_theta = loss.trace(x, w, y, upstream=upstream)["angle"].gradient[:, None]
    ours, (length_x, length_w) = loss.value_and_grad(x, w, y, upstream=upstream)[1], lengths(x, w[y])
    unit_x, unit_w = x / length_x, w[y] / length_w
    cos = (unit_x * unit_w).sum(axis=1, keepdims=True)
    sin, of_w = np.sqrt(1.0 - cos**2), ours.w.copy()
    np.add.at(of_w, y, of_theta * (unit_x - cos * unit_w) / sin / length_w)
    return {"x": ours.x + of_theta * (unit_w - cos * unit_x) / sin / length_x, "w": of_w}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_torch_linear_and_cross_entropy(torch: ModuleType, bias: bool, reduction: str) -> None:
    (x, w, y), rng = head_inputs(21), np.random.default_rng(22)
    b, upstream = bias * rng.standard_normal(len(w)), rng.standard_normal(len(y) if reduction == "none" else ())
    arrays = {"x": x, "w": w} | ({"b": b} if bias else {})

    def loss(x: Any, w: Any, b: Any = None) -> Any:
        z = torch.nn.functional.linear(x, w, b)
        return torch.nn.functional.cross_entropy(z, torch.from_numpy(y), reduction=reduction)

    ours, inputs = refloss.SoftmaxLoss(reduction=reduction), (x, w, y, b if bias else None)
    value, gradient = ours.value_and_grad(*inputs, upstream=upstream)
    bounds = linear_bound(x, w, y, b, reduction, upstream)
    of_target = np.eye(len(w))[y] * ours.trace(*inputs, upstream=upstream)["linear"].gradient
    wrong = {"x": gradient.x - of_target @ w, "w": gradient.w - of_target.T @ x}
    if bias:
        wrong["b"] = gradient.b - of_target.sum(axis=0)
    value, gradients = beside(torch_gradients(torch, loss, upstream, **arrays), (value, gradient), bounds)
    agree(value, {"target's term dropped": wrong}, **gradients)


HEADS = [  # margins of PML's ArcFaceLoss are in degrees, and "hard" is its rule beyond theta + m = pi
    ("ArcFaceLoss", {"margin": 28.6, "scale": 64}, refloss.ArcFace(m=math.radians(28.6), boundary="hard"), 1.0),
    ("ArcFaceLoss", {"margin": 45.0, "scale": 10}, refloss.ArcFace(s=10, m=math.radians(45.0), boundary="hard"), 1.0),
    ("CosFaceLoss", {}, refloss.CosFace(), 1.0),
    ("CosFaceLoss", {"margin": 0.2, "scale": 10}, refloss.CosFace(s=10, m=0.2), 1.0),
    ("SphereFaceLoss", {"margin": 4, "scale": 1}, refloss.ASoftmax(m=4), 4.0),
    ("SphereFaceLoss", {"margin": 3, "scale": 1}, refloss.ASoftmax(m=3), 3.0),
    ("SphereFaceLoss", {"margin": 2, "scale": 1}, refloss.ASoftmax(m=2), 2.0),
    ("NormalizedSoftmaxLoss", {"temperature": 1 / 20}, refloss.NormFace(s=20), 1.0),
    ("NormalizedSoftmaxLoss", {"temperature": 1 / 64}, refloss.NormFace(), 1.0),
]

# numpy 2 wants more arguments of __array_wrap__ than torch's has; SphereFaceLoss calls scipy on torch tensors when made
of_pml = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")


@of_pml
@pytest.mark.parametrize("seed", [31, 32, 33])
@pytest.mark.parametrize(("theirs", "options", "loss", "m1"), [pytest.param(*h, id=f"{h[0]}({h[1]})") for h in HEADS])
def test_pytorch_metric_learning(
    torch: ModuleType, pml: ModuleType, theirs: str, options: dict[str, Any], loss: Any, m1: float, seed: int
) -> None:
    x, w, y = head_inputs(seed)
    length_x, length_w = lengths(x, w[y])
    phi = m1 * np.arccos((x * w[y] / length_x / length_w).sum(axis=1)) + (loss.m if theirs == "ArcFaceLoss" else 0.0)
    bends = theirs in ("ArcFaceLoss", "SphereFaceLoss")
    assert not bends or 0 < np.count_nonzero(phi > math.pi) < len(y), "both sides of the boundary"
    other = getattr(pml, theirs)(num_classes=len(w), embedding_size=w.shape[1], **options)
    bounds, ours = head_bound(loss, x, w, y, -1.7, m1), loss.value_and_grad(x, w, y, upstream=-1.7)
    value, gradients = beside(pml_gradients(torch, other, x, w, y, -1.7), ours, bounds)
    wrong = {"target's term dropped": without_target(loss, x, w, y, -1.7)}
    for title, mutant in loss_mutants(loss).items() if bends else ():  # detached: else the same to rounding
        wrong[title] = mutant.value_and_grad(x, w, y, upstream=-1.7)[1]._asdict()
    agree(value, wrong, **gradients)


@of_pml
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", [31, 32])
def test_pytorch_metric_learning_with_centers(torch: ModuleType, pml: ModuleType, seed: int, count: int) -> None:
    """Centers of a class are next to each other as columns of their weights, as they are in ours as rows."""
    x, w, y = head_inputs(seed)
    apart = 0.1 * np.random.default_rng(seed).standard_normal((len(w), count, w.shape[1]))
    w = w[:, None] + apart * np.linalg.norm(w, axis=1)[:, None, None]
    loss = refloss.SubCenterArcFace(m=math.radians(28.6), boundary="hard", centers=count)
    other = pml.SubCenterArcFaceLoss(num_classes=len(w), embedding_size=w.shape[2], sub_centers=count)
    bounds, ours = head_bound(loss, x, w, y, -1.7, 1.0), loss.value_and_grad(x, w, y, upstream=-1.7)
    value, by_row = pml_gradients(torch, other, x, w.reshape(-1, w.shape[2]), y, -1.7)
    theirs = value, by_row | {"w": by_row["w"].reshape(w.shape)}
    value, gradients = beside(theirs, ours, bounds)
    wrong = {title: it.value_and_grad(x, w, y, upstream=-1.7)[1]._asdict() for title, it in loss_mutants(loss).items()}
    agree(value, wrong, **gradients)


# ------------------------------------------------------------------------------------------------------------- triplet


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("theirs", ["plain, eps=0", "plain, eps=1e-6", "squared"])
def test_torch_triplets(torch: ModuleType, theirs: str, reduction: str) -> None:
    rng, m = np.random.default_rng(41), 0.2
    inputs = {name: rng.standard_normal((12, 6)) for name in ("anchor", "positive", "negative")}
    inputs["positive"][:4] = inputs["anchor"][:4] + 0.1 * inputs["positive"][:4]  # these are apart: a loss of 0
    if theirs == "squared":
        distance = {"distance_function": lambda a, b: (a - b).square().sum(-1)}
        other, shift = torch.nn.TripletMarginWithDistanceLoss(margin=m, reduction=reduction, **distance), 0.0
    else:  # torch adds eps to every coordinate of both differences: the same loss with the anchor shifted
        shift = float(theirs.split("=")[1])
        other = torch.nn.TripletMarginLoss(margin=m, eps=shift, reduction=reduction)
    upstream = rng.standard_normal(12 if reduction == "none" else ())
    a, p, n = inputs["anchor"] + shift, inputs["positive"], inputs["negative"]
    ours = refloss.Triplet(m=m, squared=theirs == "squared", reduction=reduction)
    assert 0 < np.count_nonzero(replace(ours, reduction="none")(a, p, n)) < 12, "rows on both sides of the hinge"
    bounds = triplet_bound(a, p, n, m, theirs == "squared", reduction, upstream)
    result = ours.value_and_grad(a, p, n, upstream=upstream)
    value, gradients = beside(torch_gradients(torch, other, upstream, **inputs), result, bounds)
    agree(value, **gradients)


# --------------------------------------------------------------------------------------------------------- divergences


@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("form", ["forward", "reverse"])
def test_torch_kl_div(torch: ModuleType, form: str, log_target: bool) -> None:
    z, target = np.random.default_rng(42).standard_normal((2, 6, 5))
    first, second = ("z", "target") if form == "forward" else ("target", "z")

    def theirs(**logits: Any) -> Any:
        log_q, log_p = (torch.log_softmax(logits[name], 1) for name in (first, second))
        other = log_p if log_target else log_p.exp()
        return torch.nn.functional.kl_div(log_q, other, reduction="batchmean", log_target=log_target)

    result = refloss.KLDivergence(form=form).value_and_grad(z, target, upstream=-1.3)
    bounds = divergence_bound(z, target, -1.3)
    value, gradients = beside(torch_gradients(torch, theirs, -1.3, z=z, target=target), result, bounds)
    agree(value, **gradients)


def test_optax_kl_divergences(jax: ModuleType, optax: ModuleType) -> None:
    z, target = np.random.default_rng(43).standard_normal((2, 6, 5))

    def theirs(z: Any, target: Any) -> Any:
        return optax.losses.kl_divergence(jax.nn.log_softmax(z), jax.nn.softmax(target)).mean()

    value, gradients = jax.value_and_grad(theirs, (0, 1))(z, target)
    result = refloss.KLDivergence().value_and_grad(z, target)
    found = np.asarray(value), dict(zip(("z", "target"), map(np.asarray, gradients), strict=True))
    compared, by_name = beside(found, result, divergence_bound(z, target, 1.0))
    agree(compared, **by_name)


# ------------------------------------------------------------------------------------ where they are known to be wrong

# PML is pytorch-metric-learning. Tolerances here only tell right from wrong: 1e-6 and finer where the story is finer.
defect = partial(pytest.mark.xfail, strict=True, raises=AssertionError)

CONFIDENT = np.array([[50.0, 0.0]]), np.array([0])
CONFIDENT_LOSS = math.log1p(math.exp(-50.0))
CONFIDENT_GRADIENT = np.array([[-1.0, 1.0]]) * math.exp(-50.0) / (1.0 + math.exp(-50.0))

EQUAL = np.full((1, 20), 1e30), np.array([7])

GAP_40 = np.array([0.0, -40.0])
GAP_40_LOG_P = -math.log1p(math.exp(-40.0))

TWO = np.eye(2)  # two classes, at right angles
FIRST = np.array([0])
ALONG = np.array([[2.0, 0.0]])  # theta = 0 exactly


def arcface_near(t: float, s: float = 4.0, m: float = math.radians(28.6)) -> tuple[np.ndarray, float, np.ndarray]:
    """x = (1, t), close to the first of TWO classes: x, ArcFace's loss of it, and dL/dx, written out for the plane.

    theta = atan t, z = (s cos(theta + m), s sin theta), and x turns by dtheta = (-t, 1) / (1 + t^2) dx. s = 4, so that
    the loss is no smaller than 0.03 and p_y - 1 loses nothing.
    """
    theta = math.atan(t)
    gap = s * (math.cos(theta + m) - math.sin(theta))
    q = 1.0 / (1.0 + math.exp(gap))
    turn = q * s * (math.sin(theta + m) + math.cos(theta))
    return np.array([[1.0, t]]), math.log1p(math.exp(-gap)), turn / (1.0 + t * t) * np.array([[-t, 1.0]])


def arcface(s: float = 4.0) -> refloss.ArcFace:
    return refloss.ArcFace(s=s, m=math.radians(28.6), boundary="hard")


def pml_arcface(torch: ModuleType, pml: ModuleType, x: np.ndarray) -> tuple[np.ndarray, Gradients]:
    other = pml.ArcFaceLoss(num_classes=2, embedding_size=2, margin=28.6, scale=4)
    return pml_gradients(torch, other, x, TWO, FIRST)


NEARLY_OPPOSITE = np.array([[-1.0, 1e-8]])  # theta = pi - 1e-8 from the first of TWO classes, and |x| = 1
FOLD = math.exp(-7.0 - 1e-8)  # of m = 4: psi = 1 - 2m = -7 there, to 1e-15, and the other class's cosine is 1e-8
OPPOSITE_W = np.array([0.0, -4.0 * math.sin(4e-8) / (1.0 + FOLD)])  # dL/dw of the first class: (p - 1) psi' dtheta/dw


def near(result: Any, truth: Any, relative: float) -> bool:
    """Close relative to the largest entry of the truth."""
    return bool((np.abs(np.asarray(result) - truth) <= relative * np.abs(truth).max()).all())


@defect(reason="torch 2.13.0: the loss is 0: e^-50 is lost beside 1, as at any gap from 36.7 on")
def test_torch_value_of_a_confident_target(torch: ModuleType) -> None:
    z, y = map(torch.from_numpy, CONFIDENT)
    assert near(torch.nn.functional.cross_entropy(z, y), CONFIDENT_LOSS, 1e-6)


@defect(reason="torch 2.13.0: the target's gradient is p - 1 = 0, while the other class gets 1.9e-22")
def test_torch_gradient_of_a_confident_target(torch: ModuleType) -> None:
    cross_entropy, y = torch.nn.functional.cross_entropy, torch.from_numpy(CONFIDENT[1])
    _, gradients = torch_gradients(torch, lambda z: cross_entropy(z, y), 1.0, z=CONFIDENT[0])
    assert near(gradients["z"], CONFIDENT_GRADIENT, 1e-6)


@defect(reason="optax 0.2.8: logsumexp(z) - z_y with the largest not taken off: 0 for log 20 at 1e30")
def test_optax_value_of_huge_equal_logits(optax: ModuleType) -> None:
    assert near(optax.softmax_cross_entropy_with_integer_labels(*EQUAL), math.log(20.0), 1e-6)


LOST = "{}: log_softmax([0, -40])[0] is 0: 1 + e^-40 rounds to 1, where log1p keeps it"


@pytest.mark.parametrize(
    "softmaxes",
    [
        pytest.param("torch", marks=defect(reason=LOST.format("torch 2.13.0"))),
        pytest.param("scipy", marks=defect(reason=LOST.format("scipy 1.17.1"))),
        pytest.param("jax", marks=defect(reason=LOST.format("jax 0.10.2"))),
    ],
    indirect=True,
)
def test_log_softmax_of_a_confident_class(softmaxes: SimpleNamespace) -> None:
    assert near(softmaxes.log_softmax(GAP_40, -1)[0], GAP_40_LOG_P, 1e-6)


@of_pml
@defect(reason="PML 2.9.0: the derivative of acos at 1 is infinite, times a tangent of 0: NaN in dx and dW")
def test_pml_arcface_gradient_at_theta_0(torch: ModuleType, pml: ModuleType) -> None:
    gradients = pml_arcface(torch, pml, ALONG)[1]
    assert np.isfinite(gradients["x"]).all()
    assert np.isfinite(gradients["w"]).all()


@of_pml
@defect(reason="PML 2.9.0: acos of a cosine that rounds to 1 makes theta 0: the value is off by 2e-8")
def test_pml_arcface_value_at_theta_1e8(torch: ModuleType, pml: ModuleType) -> None:
    x, loss, _ = arcface_near(1e-8)
    assert near(pml_arcface(torch, pml, x)[0], loss, 1e-12)


@of_pml
@defect(reason="PML 2.9.0: acos leaves theta = 1e-6 four digits, and the gradient no more: u / theta^2")
def test_pml_arcface_gradient_at_theta_1e6(torch: ModuleType, pml: ModuleType) -> None:
    x, _, gradient = arcface_near(1e-6)
    assert near(pml_arcface(torch, pml, x)[1]["x"], gradient, 1e-9)


@of_pml
@defect(reason="PML 2.9.0: k = floor(m theta / pi) is m where the cosine rounds to -1: dL/dw_y flips sign")
def test_pml_sphereface_gradient_next_to_theta_pi(torch: ModuleType, pml: ModuleType) -> None:
    other = pml.SphereFaceLoss(num_classes=2, embedding_size=2, margin=4, scale=1)
    assert near(pml_gradients(torch, other, NEARLY_OPPOSITE, TWO, FIRST)[1]["w"][0], OPPOSITE_W, 1e-6)


def test_refloss_is_right_where_they_are_not() -> None:
    # 1e-14 is 90u: the closed forms are themselves in float64, and exp of 50 or less passes on as many u
    value, gradient = refloss.CrossEntropy().value_and_grad(*CONFIDENT)
    assert near(value, CONFIDENT_LOSS, 1e-14)
    assert near(gradient.z, CONFIDENT_GRADIENT, 1e-14)
    assert near(refloss.CrossEntropy()(*EQUAL), math.log(20.0), 1e-14)
    assert near(refloss.log_softmax(GAP_40)[0], GAP_40_LOG_P, 1e-14)
    for t in (0.0, 1e-8, 1e-6):
        x, loss, of_x = arcface_near(t)
        value, gradient = arcface().value_and_grad(x, TWO, FIRST)
        assert near(value, loss, 1e-14), t
        if t:  # at 0 the target has no tangent
            assert near(gradient.x, of_x, 1e-14), t
    assert all(np.isfinite(part).all() for part in arcface().value_and_grad(ALONG, TWO, FIRST)[1])
    assert near(refloss.ASoftmax(m=4).value_and_grad(NEARLY_OPPOSITE, TWO, FIRST)[1].w[0], OPPOSITE_W, 1e-14)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("engine", ["chain", "dd"])
def test_torch_has_nan_where_refloss_has(torch: ModuleType, engine: str, reduction: str) -> None:
    """Rows of logits without probabilities, at targets of weight 0 and others; ignored rows are for refloss alone."""
    inf, nan = math.inf, math.nan
    for row in ([nan, 1.0, 2.0], [1.0, nan, 2.0], [inf, 1.0, -inf], [1.0, inf, 2.0], [inf, inf, 0.0], [-inf] * 3):
        z = np.array([row, [1.0, 1.0, 1.0]])
        for y in (np.array([0, 2]), np.array([1, 2]), np.zeros((2, 3)), np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])):
            for weight in (None, (0.0, 1.0, 1.0), (0.0, 0.0, 0.0)):
                for smoothing in (0.0, 0.1):
                    settings = {"reduction": reduction, "class_weight": weight, "label_smoothing": smoothing}
                    settings |= {"ignore_index": -100}
                    upstream = np.ones(2) if reduction == "none" else 1.0
                    theirs = torch_cross_entropy(torch, z, y, upstream, settings)
                    ours = refloss.CrossEntropy(**settings).value_and_grad(z, y, upstream=upstream, engine=engine)
                    for a, b in zip(theirs, (ours[0], ours[1].z), strict=True):
                        assert np.array_equal(np.isnan(a), np.isnan(b)), (row, y, settings)
