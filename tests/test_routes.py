"""Three independent routes to every loss and rule: they agree within the sum of their bounds, or the suite fails.

1. Hand-derived: the engines "chain" and "dd", whose backward is written out stage by stage.
2. Certified: the definition on balls, differentiated by a tape; its balls are far below all other bounds.
3. Autograd: torch differentiates the textbook form below, through acos, on inputs where float64 is good enough for it.

Routes 1 and 3 are each tested against route 2; `agree` shows for every comparison that no wrong gradient would pass it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import refloss
from refloss import (
    ArcFace,
    CircleLoss,
    CombinedMargin,
    CosFace,
    CurricularFace,
    InterTopK,
    MagFace,
    MVSoftmax,
    SphereFaceR,
    SubCenterArcFace,
)
from support import cases, centers, checks, exact, mutants, published
from support.frameworks import (
    Comparison,
    agree,
    cross_entropy_bound,
    divergence_bound,
    head_bound,
    head_inputs,
    linear_bound,
    options_bound,
    torch_gradients,
    torch_options,
    triplet_bound,
)
from support.textbook import by_length, torch_head

pytest.importorskip("flint")

HEADS = {
    repr(loss): replace(loss, label_smoothing=0.0, class_weight=None)
    for loss in cases.HEADS
    if getattr(loss, "softcap", None) is None  # options of logits have a section of their own
}
UPSTREAM = -1.7


def certified(loss: Any, *inputs: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Midpoints, after making sure that nothing is undecided and no radius counts."""
    enclosure = refloss.enclose(loss, *inputs, digits=20, upstream=UPSTREAM)
    assert not enclosure.notes
    for ball in (enclosure.value, *enclosure.grad.values()):
        assert (ball.radius <= checks.U * np.abs(ball.midpoint)).all()
    return enclosure.value.midpoint, {name: ball.midpoint for name, ball in enclosure.grad.items()}


def hold(theirs: Any, ours: Any, bounds: dict[str, Any], wrong: Any = None) -> None:
    """Hold a value and gradients by name to the certified ones; none of the wrong gradients may pass."""
    gradients = {name: Comparison(theirs[1][name], truth, bounds[name]) for name, truth in ours[1].items()}
    agree(Comparison(theirs[0], ours[0], bounds["value"]), wrong, **gradients)


def hold_engines(loss: Any, *inputs: Any) -> None:
    """Hold both hand-derived engines to the certified one, each to its own contract."""
    truth = certified(loss, *inputs)
    for engine in ("chain", "dd"):
        of_value, of_gradients = refloss.error_bound(loss, *inputs, upstream=UPSTREAM, engine=engine)
        bounds = {"value": of_value} | checks.as_dict(of_gradients)
        value, gradients = loss.value_and_grad(*inputs, upstream=UPSTREAM, engine=engine)
        hold((value, checks.as_dict(gradients)), truth, bounds)


# --------------------------------------------------------------------------------------------------------------- heads


def inputs_for(loss: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets near their class, far from it and nearly opposite to it: on both sides of every boundary."""
    x, w, y = head_inputs(31, classes=5, d=4)
    if isinstance(loss, SubCenterArcFace):
        w = with_centers(w, loss.centers)
    return x, w, y


def with_centers(w: np.ndarray, count: int) -> np.ndarray:
    """Classes with their centers next to each other, so that what is opposite to one is so to all."""
    apart = 0.1 * np.random.default_rng(32).standard_normal((len(w), count, w.shape[1]))
    return w[:, None] + apart * np.linalg.norm(w, axis=1)[:, None, None]


@pytest.mark.parametrize("loss", HEADS.values(), ids=HEADS)
def test_heads_by_hand_and_certified(loss):
    hold_engines(loss, *inputs_for(loss))


@pytest.mark.parametrize("loss", HEADS.values(), ids=HEADS)
def test_heads_by_autograd_and_certified(torch, loss):
    x, w, y = inputs_for(loss)
    truth = certified(loss, x, w, y)
    labels = torch.from_numpy(y)
    if isinstance(loss, refloss.SoftmaxLoss):
        bounds = linear_bound(x, w, y, np.zeros(len(w)), "mean", UPSTREAM)

        def textbook(x, w):
            return torch.nn.functional.cross_entropy(x @ w.T, labels)
    else:
        bounds = head_bound(loss, x, w, y, UPSTREAM, max(1.0, exact.curve(loss)["m1"]))

        def textbook(x, w):
            return torch_head(torch, loss, x, w, labels)

    hold(torch_gradients(torch, textbook, UPSTREAM, x=x, w=w), truth, bounds)


PER_SAMPLE = {name: loss for name, loss in HEADS.items() if isinstance(loss, ArcFace | CosFace | CombinedMargin)}


@pytest.mark.parametrize("loss", PER_SAMPLE.values(), ids=PER_SAMPLE)
def test_given_margins_by_all_routes(torch, loss):
    """Margins of both signs, away from the edges of every rule; some targets at a right angle are not sure."""
    x, w, y = head_inputs(33, classes=5, d=4)
    m = np.array([0.5, -0.25, 0.75, 0.1, 0.6, -0.4, 0.3, 0.9, -0.7])
    hold_engines(loss, x, w, y, m)
    bounds = head_bound(loss, x, w, y, UPSTREAM, max(1.0, exact.curve(loss)["m1"]), m)

    def textbook(x, w, m):
        return torch_head(torch, loss, x, w, torch.from_numpy(y), m) + 0.0 * m.sum()  # detached, m has no gradient

    result = torch_gradients(torch, textbook, UPSTREAM, x=x, w=w, m=m)
    hold(result, certified(loss, x, w, y, m), bounds)


PUBLISHED = [
    (published.adaface, refloss.AdaFace()),
    (published.adaface, refloss.AdaFace(h=1.0, mean=2.0, std=0.5)),
    (published.magface, MagFace(l_a=1.0, u_a=3.0)),
    (published.magface, MagFace(l_a=1.0, u_a=3.0, boundary="hard")),
    (published.magface, MagFace()),
    (published.curricularface, CurricularFace()),
    (published.curricularface, CurricularFace(t=0.3)),
    (published.mv_softmax, MVSoftmax()),
    (published.mv_softmax, MVSoftmax(margin="arc", m=0.5, boundary="none")),
    (published.sub_center_arcface, SubCenterArcFace()),
    (published.sub_center_arcface, SubCenterArcFace(m=0.3, centers=2)),
    (published.sphereface_r, SphereFaceR(gradient="detached")),
    (published.sphereface_r, SphereFaceR(gradient="detached", m=4.0)),
    (published.sphereface_r, SphereFaceR(gradient="detached", version=2)),
    (published.sphereface_r, SphereFaceR(gradient="detached", m=3.0, version=2, s=60.0)),
    (published.circle, CircleLoss(gradient="detached", s=64.0)),
    (published.circle, CircleLoss(gradient="detached", s=64.0, m=0.4)),
    (published.inter_top_k, InterTopK()),
    (published.inter_top_k, InterTopK(m=0.5, penalty=0.3, k=3, s=64.0)),
    (published.elastic, ArcFace()),
    (published.elastic, CosFace()),
]


@pytest.mark.parametrize(
    ("theirs", "loss"), PUBLISHED, ids=[f"{theirs.__name__}, {loss}" for theirs, loss in PUBLISHED]
)
def test_the_ways_of_the_papers_code(torch, theirs, loss):
    """1e-13, 900u, of the largest entry, at angles 0.2 and more from 0 and pi.

    A cosine is wrong by a few u, psi by 5 times that, and a logit by s = 64 times. `head_bound` has the worst case,
    which roundings of one sign would be.

    What official code does otherwise. SphereFace-R: angles between 1e-5 and 3.14159, not 0 and pi, and the loss times
    50 / s. Circle loss: nothing. Inter-top-k: no penalty before a margin scheduler first sets it; with fewer than
    k classes an error, and with k of them the target among the nearest; of equal cosines torch.topk takes any.
    """
    random = np.random.default_rng(71)
    x, w, y = random.standard_normal((12, 5)), random.standard_normal((7, 5)), random.integers(0, 7, 12)
    x += np.linspace(-1.0, 2.0, 12)[:, None] * w[y]
    x *= 20.0 if getattr(loss, "u_a", 0.0) > 100.0 else 1.0  # so that lengths are between their bounds
    own = w[y]
    if isinstance(loss, SubCenterArcFace):
        w = with_centers(w, loss.centers)
        own = w[y, centers.truth(x, w)[np.arange(12), y]]
    theta = exact.angle(x, own).astype(float)
    assert theta.min() > 0.2
    assert theta.max() < math.pi - 0.2
    given = {"m": random.normal(0.4, 0.1, 12)} if theirs is published.elastic else {}
    labels = torch.from_numpy(y)
    value, gradients = torch_gradients(
        torch, lambda x, w, **m: theirs(torch, loss, x, w, labels, *m.values()), UPSTREAM, x=x, w=w, **given
    )
    expected, truth = checks.value_and_gradients(loss, x, w, y, *given.values(), upstream=UPSTREAM)
    assert abs(value - expected) <= 1e-13 * expected
    for name, gradient in truth.items():
        assert np.abs(gradients[name] - gradient).max() <= 1e-13 * np.abs(gradient).max(), name
    for title, other in mutants.loss_mutants(loss).items():
        _, wrong = checks.value_and_gradients(other, x, w, y, *given.values(), upstream=UPSTREAM)
        assert any(np.abs(wrong[name] - truth[name]).max() > 1e-9 * np.abs(truth[name]).max() for name in truth), title


LINKS: list[tuple[Any, Any, dict[str, float]]] = [
    (published.sphereface2, refloss.SphereFace2(gradient="detached"), {"b": -3.0}),
    (published.sphereface2, refloss.SphereFace2(gradient="detached", s=30.0, t=5, alpha=0.6, weight=1.0), {"b": 10.0}),
    (published.uniface, refloss.UniFace(), {"b": 10.0}),
    (published.uniface, refloss.UniFace(m=0.2, s=16.0, l=0.5), {"b": 8.0}),
    (published.siglip, refloss.SigLIP(), {"t": 10.0, "b": -10.0}),
    (published.siglip, refloss.SigLIP(), {"t": 60.0, "b": 4.0}),
    (published.clip, refloss.InfoNCE(), {"s": 14.285714285714286}),
    (published.clip, refloss.CLIP(), {"s": 100.0}),
]


@pytest.mark.parametrize(
    ("theirs", "loss", "numbers"),
    LINKS,
    ids=[f"{theirs.__name__}, {loss}, {numbers}" for theirs, loss, numbers in LINKS],
)
def test_the_ways_of_the_papers_code_without_one_cross_entropy(torch, theirs, loss, numbers):
    """1e-13 of the largest entry, as above; of b, t and s of the terms that add up to them.

    What official code does otherwise. SphereFace2 (opensphere): b starts from α, r, m, t and the number of classes.
    UniFace: vectors shorter than 1e-5 are divided by that, and b starts at log(10 C); log(1 + e^z) overflows where the
    clip is beyond 709, and has lost its digits below e^-37. SigLIP (big_vision): t is e to what is trained; open_clip
    also has softplus(z) - z for the pairs, which is 0 for those it is sure of. CLIP (open_clip): over several devices
    the gradients depend on which of them gathers.
    """
    random = np.random.default_rng(73)
    x, w, y = random.standard_normal((12, 5)), random.standard_normal((7, 5)), random.integers(0, 7, 12)
    x += np.linspace(-1.0, 2.0, 12)[:, None] * w[y]
    labelled = isinstance(loss, refloss.SphereFace2 | refloss.UniFace)
    if not labelled:
        w, y = w[y] + 0.3 * random.standard_normal((12, 5)), np.arange(12)
    theta = exact.angle(x, w[y]).astype(float)
    assert 0.2 < theta.min() <= theta.max() < math.pi - 0.2
    more = (torch.from_numpy(y),) if labelled else ()
    value, gradients = torch_gradients(
        torch,
        lambda x, w, **given: theirs(torch, loss, x, w, *more, *given.values()),
        UPSTREAM,
        x=x,
        w=w,
        **{name: np.array(number) for name, number in numbers.items()},
    )
    inputs = (x, w, *((y,) if labelled else ()), *numbers.values())
    expected, truth = checks.value_and_gradients(loss, *inputs, upstream=UPSTREAM)
    terms = exact.absolute_terms(loss, *inputs, upstream=UPSTREAM)
    sizes = {name: np.abs(gradient).max() if gradient.ndim else terms[name] for name, gradient in truth.items()}
    assert abs(value - expected) <= 1e-13 * expected
    for name, gradient in truth.items():
        assert np.abs(gradients[name] - gradient).max() <= 1e-13 * sizes[name], name
    wrong = {
        title: checks.value_and_gradients(other, *inputs, upstream=UPSTREAM)[1]
        for title, other in mutants.link_mutants(loss, inputs).items()
    }
    assert wrong
    for title, other in wrong.items():
        assert any(np.abs(other[name] - truth[name]).max() > 1e-9 * sizes[name] for name in truth), title


def test_the_inputs_reach_both_sides_of_every_boundary():
    for loss in HEADS.values():
        if getattr(loss, "boundary", "none") == "none" and getattr(loss, "version", 2) == 2:
            continue
        x, w, y = inputs_for(loss)
        theta, length = loss.trace(x, w, y)["angle"].output, np.linalg.norm(x, axis=1)
        margins = exact.curve(loss)
        m2, m3 = margins["m2"], margins["m3"]
        if isinstance(loss, MagFace):
            _, m2, m3 = by_length(loss, length)
        plain = np.cos(margins["m1"] * theta + m2) - m3
        changed = replace(loss, annealing=0.0) if isinstance(loss, refloss.ASoftmax) else loss
        psi = changed.target_logit(theta, *((length,) if isinstance(loss, MagFace) else ()))
        apart = np.abs(psi - plain) > 1e-6
        assert 0 < apart.sum() < len(y), loss


def test_the_inputs_reach_lengths_between_their_bounds_and_beyond_and_hard_classes():
    for loss in HEADS.values():
        x, w, y = inputs_for(loss)
        lengths = np.linalg.norm(x, axis=1)
        if isinstance(loss, MagFace) and loss.l_a == 1.0:
            assert 0 < ((lengths > loss.l_a) & (lengths < loss.u_a)).sum() < len(y), loss
        if isinstance(loss, CurricularFace | MVSoftmax):
            trace = loss.trace(x, w, y)
            hard = trace["negatives"].output != trace["cosine"].output
            assert 0.1 * hard.size < hard.sum() < 0.9 * hard.size, loss
        if isinstance(loss, CircleLoss):
            weighted = loss.trace(x, w, y)["negatives"].output != 0.0
            assert 0.1 * weighted.size < weighted.sum() < 0.9 * weighted.size, loss
        if isinstance(loss, InterTopK):
            trace = loss.trace(x, w, y)
            nearer = trace["class_angles"].output > trace["cosine"].output
            assert (nearer.sum(axis=1) == min(loss.k, len(w) - 1)).all(), loss


# ------------------------------------------------------------------------------------------- cross entropy, triplet


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, (0.5, 1.0, 2.0, 1.5)])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_by_all_routes(torch, smoothing, weight, soft):
    random = np.random.default_rng(51)
    z = 3.0 * random.standard_normal((5, 4))
    y = random.dirichlet(np.ones(4), 5) if soft else random.integers(0, 4, 5)
    loss = refloss.CrossEntropy(label_smoothing=smoothing, class_weight=weight, reduction="sum")
    hold_engines(loss, z, y)
    v = np.ones(4) if weight is None else np.array(weight)
    t = v * ((1.0 - smoothing) * (y if soft else np.eye(4)[y]) + smoothing / 4.0)
    rows = cross_entropy_bound(z, t)

    def theirs(z):
        other = torch.nn.CrossEntropyLoss(torch.from_numpy(v), label_smoothing=smoothing, reduction="sum")
        return other(z, torch.from_numpy(y))

    bounds = {"value": rows.loss.sum(), "z": abs(UPSTREAM) * rows.gradient}
    hold(torch_gradients(torch, theirs, UPSTREAM, z=z), certified(loss, z, y), bounds)


OPTIONS = {
    "logit scale": {"logit_scale": 0.0625},
    "softcap": {"softcap": 3.0},
    "scale and softcap": {"logit_scale": 1.7, "softcap": 2.5},
    "z-loss": {"z_loss": 0.25},
    "all": {"logit_scale": 0.5, "softcap": 2.0, "z_loss": 0.125, "reduction": "sum"},
    "all, weighted": {"logit_scale": 2.0, "softcap": 4.0, "z_loss": 1.5, "class_weight": (0.5, 1.0, 2.0, 1.5)},
    "all, smoothed": {"logit_scale": 2.0, "softcap": 4.0, "z_loss": 1.5, "label_smoothing": 0.1},
}


def forgetful(loss: Any, inputs: Any, **followed: Any) -> dict[str, Any]:
    """Gradients that leave out an option, by what is left out; those of the others are as they should be."""
    others = {
        "the scale forgotten": replace(loss, logit_scale=1.0),
        "the cap forgotten": replace(loss, softcap=None),
        "the z-loss forgotten": replace(loss, z_loss=0.0),
        "half of the z-loss's slope": replace(loss, z_loss=loss.z_loss / 2.0),
    }
    wrong = {title: other.value_and_grad(*inputs, **followed) for title, other in others.items() if other != loss}
    if followed["upstream_lse"] is not None:
        wrong["no gradient of the log-sum-exp"] = loss.value_and_grad(*inputs, upstream=followed["upstream"])
    return {title: checks.as_dict(gradients) for title, (_, gradients) in wrong.items()}


def hold_options(loss: Any, inputs: Any, theirs: Any, of_lse: Any, bounds: dict[str, Any]) -> None:
    """All three routes with an upstream gradient of the log-sum-exps, which `refloss.enclose` does not take."""
    followed = {"upstream": UPSTREAM, "upstream_lse": of_lse}
    value, gradients = checks.value_and_gradients(loss, *inputs, engine="certified", **followed)
    truth = value, gradients  # within half a unit in the last place
    wrong = forgetful(loss, inputs, **followed)
    for engine in ("chain", "dd", "fused"):
        of_value, of_gradients = refloss.error_bound(loss, *inputs, engine=engine, **followed)
        result = checks.value_and_gradients(loss, *inputs, engine=engine, **followed)
        hold(result, truth, {"value": of_value + checks.U * abs(value)} | {
            name: bound + checks.U * np.abs(gradients[name]) for name, bound in checks.as_dict(of_gradients).items()
        }, wrong)  # fmt: skip
    hold(theirs, truth, bounds, wrong)
    if of_lse is None:
        hold(theirs, certified(loss, *inputs), bounds, wrong)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_of_logits_by_all_routes(torch, options, given, soft):
    random = np.random.default_rng(61)
    z = 3.0 * random.standard_normal((5, 4))
    y = random.dirichlet(np.ones(4), 5) if soft else random.integers(0, 4, 5)
    of_lse = random.standard_normal(5) if given else None
    loss = refloss.CrossEntropy(**options)

    def theirs(z):
        return torch_options(torch, loss, z, torch.from_numpy(y), of_lse, UPSTREAM)

    result = torch_gradients(torch, theirs, UPSTREAM, z=z)
    if given:  # theirs has the log-sum-exps added
        result = theirs_alone(torch, loss, z, y), result[1]
    t, divisor = targets_of(loss, y)
    bound = options_bound(loss, z, t, divisor, UPSTREAM, 0.0 if of_lse is None else of_lse)
    hold_options(loss, (z, y), result, of_lse, {"value": bound.value, "z": bound.gradient})


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("options", [{}, *OPTIONS.values()], ids=["none", *OPTIONS])
def test_options_of_a_linear_head_by_all_routes(torch, options, given, soft):
    """Logits are sums of D + 1 terms, wrong by (D + 2) u of them, and gradients sums over classes and rows."""
    random = np.random.default_rng(62)
    x, w, b = random.standard_normal((5, 3)), random.standard_normal((4, 3)), random.standard_normal(4)
    y = random.dirichlet(np.ones(4), 5) if soft else random.integers(0, 4, 5)
    of_lse = random.standard_normal(5) if given else None
    loss = refloss.SoftmaxLoss(**options)

    def theirs(x, w, b):
        return torch_options(torch, loss, x @ w.T + b, torch.from_numpy(y), of_lse, UPSTREAM)

    result = torch_gradients(torch, theirs, UPSTREAM, x=x, w=w, b=b)
    z, (t, divisor) = x @ w.T + b, targets_of(loss, y)
    if given:
        result = theirs_alone(torch, loss, z, y), result[1]
    length_x, length_w = np.linalg.norm(x, axis=1)[:, None], np.linalg.norm(w, axis=1)
    off = 5.0 * checks.U * (length_x * length_w + np.abs(b)).max(axis=1, keepdims=True)
    bound = options_bound(loss, z, t, divisor, UPSTREAM, 0.0 if of_lse is None else of_lse, off)
    lost = bound.gradient + 11.0 * checks.U * bound.terms
    bounds = {"value": bound.value, "x": lost @ length_w[:, None], "w": lost.T @ length_x, "b": lost.sum(axis=0)}
    hold_options(loss, (x, w, y, b), result, of_lse, bounds)


def theirs_alone(torch: ModuleType, loss: Any, z: Any, y: Any) -> Any:
    return torch_options(torch, loss, torch.from_numpy(z), torch.from_numpy(y)).numpy()


def targets_of(loss: Any, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Targets of 4 classes, and what "mean" divides by."""
    v = np.ones(4) if loss.class_weight is None else np.array(loss.class_weight)
    t = v * ((1.0 - loss.label_smoothing) * (y if y.ndim == 2 else np.eye(4)[y]) + loss.label_smoothing / 4.0)
    return t, float(len(y) if y.ndim == 2 else v[y].sum())


@pytest.mark.parametrize("form", ["forward", "reverse", "jensen-shannon"])
@pytest.mark.parametrize("near", [False, True])
def test_divergences_by_all_routes(torch, form, near):
    z, target = np.random.default_rng(53).standard_normal((2, 6, 4))
    z = target + 2.0**-6 * z if near else 2.0 * z
    loss = refloss.KLDivergence(form=form)
    hold_engines(loss, z, target)

    def theirs(z, target):
        log_q, log_p = (torch.log_softmax(logits, 1) for logits in (z, target))

        def kl(log_q, log_p):
            return torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)

        if form != "jensen-shannon":
            return kl(log_q, log_p) if form == "forward" else kl(log_p, log_q)
        log_m = torch.logaddexp(log_p, log_q) - math.log(2.0)
        return (kl(log_m, log_p) + kl(log_m, log_q)) / 2.0

    result = torch_gradients(torch, theirs, UPSTREAM, z=z, target=target)
    hold(result, certified(loss, z, target), divergence_bound(z, target, UPSTREAM))


@pytest.mark.parametrize("squared", [True, False])
def test_triplet_by_all_routes(torch, squared):
    anchor, positive, negative = np.random.default_rng(52).standard_normal((3, 6, 4))
    positive[:2] = anchor[:2] + 0.1 * positive[:2]  # these are apart: a loss of 0
    loss, inputs = refloss.Triplet(m=0.3, squared=squared), (anchor, positive, negative)
    hold_engines(loss, *inputs)

    def theirs(anchor, positive, negative):
        near, far = ((anchor - other).square().sum(dim=1) for other in (positive, negative))
        return torch.relu((near - far if squared else near.sqrt() - far.sqrt()) + 0.3).mean()

    result = torch_gradients(torch, theirs, UPSTREAM, anchor=anchor, positive=positive, negative=negative)
    hold(result, certified(loss, *inputs), triplet_bound(*inputs, 0.3, squared, "mean", UPSTREAM))
