"""Every gradient check of the suite rejects every mutant, and passes what refloss finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

import refloss
from refloss.error_free import Pair
from refloss.stages import class_angles, softmax
from support import checks, exact, mutants, textbook


class Case(NamedTuple):
    """A loss, its inputs, and which of the checks on values and textbooks can be made of it."""

    loss: Any
    inputs: tuple[Any, ...]
    textbook: Callable[..., Any] | None = None  # of the arrays that have gradients
    differences: bool = True

    @property
    def result(self) -> tuple[Any, dict[str, np.ndarray]]:
        return checks.value_and_gradients(self.loss, *self.inputs)


def head(loss: Any, *, differences: bool = True) -> Case:
    """A margin loss, or the softmax loss with a bias, at ordinary inputs."""
    x, w, y = textbook.inputs(loss, seed=5, samples=3, classes=3, dims=2)
    bias = (np.array([0.5, -1.0, 0.25]),) if isinstance(loss, refloss.SoftmaxLoss) else ()
    return Case(loss, (x, w, y, *bias), lambda x, w, *b: textbook.head(loss, x, w, y, *b), differences)


def beside(loss: Any) -> Case:
    """Other classes 0.05 from an embedding and opposite it: their cosines do not know their angles."""
    x = np.array([[1.0, 0.5], [0.5, -2.0]])
    w = np.array([[1.0, 0.0], 2.0 * x[0] + [-0.05, 0.1], -x[0] + [-0.025, 0.05]])
    y = np.array([0, 0])
    return Case(loss, (x, w, y), lambda x, w: textbook.head(loss, x, w, y))


def of_five(loss: Any) -> Case:
    """Five classes, so that some are among the nearest and some are not."""
    x, w, y = textbook.inputs(loss, seed=5, samples=3, classes=5, dims=3)
    return Case(loss, (x, w, y), lambda x, w: textbook.head(loss, x, w, y))


def given(loss: Any) -> Case:
    """A margin loss with margins given, of both signs and away from the edges of its rule."""
    x, w, y = textbook.inputs(loss, seed=5, samples=3, classes=3, dims=2)
    return Case(loss, (x, w, y, np.array([0.3, -0.2, 0.6])), lambda x, w, m: textbook.head(loss, x, w, y, m))


def near(loss: Any, theta: float, *, differences: bool = False) -> Case:
    """One embedding at a small angle to its class, the rest ordinary."""
    x = np.array([[1.0, 0.5, -0.25], [0.5, 2.0, 1.0]])
    w = np.array([x[0] + theta * np.array([0.0, 0.5, 1.0]), [-1.0, 0.25, 0.75], [0.3, 0.2, -1.0]])
    return Case(loss, (x, w, np.array([0, 1])), None, differences)


def confident(loss: Any, length: float = 1.0) -> Case:
    """A loss near 1e-20: one embedding near its class, the other classes 100 degrees away and more."""
    x = length * np.array([[1.0, 0.02, -0.01]])
    w = np.array([[1.0, 0.25, 0.0], [-0.45, 1.0, 0.25], [-0.5, 0.125, -1.0], [-1.0, 0.5, 0.5]])
    return Case(loss, (x, w, np.array([0])))


def on_logits(loss: Any, soft: bool = False) -> Case:
    z = 2.0 * np.random.default_rng(6).standard_normal((3, 3))
    y = np.array([[0.5, 0.25, 0.5], [1.0, 0.0, 0.0], [0.1, 0.2, 0.7]]) if soft else np.array([0, 2, 1])
    formula = None if soft else lambda z: textbook.cross_entropy(loss, z, y)
    return Case(loss, (z, y), formula)


def questions(loss: Any, *b: float) -> Case:
    """Labels, and a bias or none: some answers are sure, and some are not."""
    random = np.random.default_rng(9)
    x, w, y = random.standard_normal((4, 3)), random.standard_normal((3, 3)), np.array([0, 1, 2, 1])
    x += np.array([[1.0], [0.5], [-0.5], [2.0]]) * w[y]
    return Case(
        loss,
        (x, w, y, *map(np.array, b)),
        lambda x, w, *b: textbook.link(loss, x, w, y, None, *b),
        getattr(loss, "gradient", "exact") == "exact",
    )


def pairs(loss: Any, *numbers: float) -> Case:
    """Three pairs, more and less alike."""
    random = np.random.default_rng(10)
    x = random.standard_normal((3, 3))
    w = x + np.array([[0.5], [1.0], [3.0]]) * random.standard_normal((3, 3))
    return Case(
        loss, (x, w, *map(np.array, numbers)), lambda x, w, *numbers: textbook.link(loss, x, w, np.arange(3), *numbers)
    )


def triplet(loss: Any) -> Case:
    points = tuple(np.random.default_rng(7).standard_normal((3, 3, 2)))
    return Case(loss, points, lambda *points: textbook.triplet(loss, *points))


def divergence(loss: Any) -> Case:
    logits = tuple(np.random.default_rng(8).standard_normal((2, 3, 3)))
    return Case(loss, logits, lambda z, target: textbook.divergence(loss, z, target))


CASES = {
    "ArcFace": head(refloss.ArcFace(s=8.0)),
    "ArcFace, s = 64": head(refloss.ArcFace()),
    "ArcFace, a rule acting": head(refloss.ArcFace(s=8.0, boundary="hard")),
    "ArcFace, smoothed and weighted": head(refloss.ArcFace(s=8.0, **textbook.SETTINGS)),
    "ArcFace, confident": confident(refloss.ArcFace(s=40.0)),
    "ArcFace, theta near 1e-3": near(refloss.ArcFace(s=4.0), 1e-3, differences=True),
    "ArcFace, theta near 1e-8": near(refloss.ArcFace(s=4.0), 1e-8),
    "CosFace": head(refloss.CosFace(s=8.0)),
    "CosFace, confident": confident(refloss.CosFace(s=45.0)),
    "NormFace": head(refloss.NormFace(s=8.0, reduction="sum")),
    "ModifiedSoftmax": head(refloss.ModifiedSoftmax()),
    "ModifiedSoftmax, confident": confident(refloss.ModifiedSoftmax(), 40.0),
    "A-Softmax": head(refloss.ASoftmax()),
    "A-Softmax, annealed": head(refloss.ASoftmax(m=3.0, annealing=5.0, s=4.0)),
    "A-Softmax, theta near 1e-3": near(refloss.ASoftmax(m=2.0), 1e-3, differences=True),
    "CombinedMargin": head(refloss.CombinedMargin(s=8.0, m1=1.35, m2=0.5, m3=0.25, boundary="monotone")),
    "CombinedMargin, theta near 1e-8": near(refloss.CombinedMargin(s=4.0), 1e-8),
    "SubCenterArcFace": head(refloss.SubCenterArcFace(s=8.0, centers=2)),
    "SubCenterArcFace, smoothed and weighted": head(refloss.SubCenterArcFace(s=8.0, **textbook.SETTINGS)),
    "ArcFace, margins given": given(refloss.ArcFace(s=8.0)),
    "CosFace, margins given": given(refloss.CosFace(s=8.0)),
    "CombinedMargin, margins given": given(refloss.CombinedMargin(s=8.0, m1=1.35, m3=0.25, reduction="sum")),
    "AdaFace": head(refloss.AdaFace(s=8.0), differences=False),  # its gradient leaves out what a length does to v
    "AdaFace, v between its bounds": head(refloss.AdaFace(s=8.0, h=0.5, mean=2.0, std=1.0), differences=False),
    "MagFace": head(refloss.MagFace(s=8.0, l_a=0.25, u_a=7.0, l_m=0.25)),
    "MagFace, another rule": head(refloss.MagFace(s=8.0, l_a=0.25, u_a=7.0, boundary="hard", regularizer=1.0)),
    "MagFace, smoothed and weighted": head(refloss.MagFace(s=8.0, l_a=0.25, u_a=7.0, **textbook.SETTINGS)),
    "CurricularFace": head(refloss.CurricularFace(s=8.0, t=0.3)),
    "MV-Softmax": head(refloss.MVSoftmax(s=8.0)),
    "MV-Softmax, smoothed and weighted": head(refloss.MVSoftmax(s=8.0, margin="arc", m=0.5, **textbook.SETTINGS)),
    "SphereFaceR": head(refloss.SphereFaceR(s=8.0)),
    "SphereFaceR, version 2": head(refloss.SphereFaceR(s=8.0, m=1.5, version=2)),
    "SphereFaceR, version 2, smoothed and weighted": head(refloss.SphereFaceR(s=8.0, version=2, **textbook.SETTINGS)),
    "SphereFaceR, version 2, next to a class and opposite": beside(refloss.SphereFaceR(s=8.0, m=3.0, version=2)),
    "SphereFaceR, detached": beside(refloss.SphereFaceR(s=8.0, version=2, gradient="detached"))._replace(
        differences=False
    ),
    "CircleLoss": head(refloss.CircleLoss(s=8.0)),
    "CircleLoss, smoothed and weighted": head(refloss.CircleLoss(s=8.0, m=0.4, **textbook.SETTINGS)),
    "CircleLoss, detached": head(refloss.CircleLoss(s=8.0, gradient="detached"), differences=False),
    "CircleLoss, theta near 1e-3": near(refloss.CircleLoss(s=8.0), 1e-3),
    "InterTopK": of_five(refloss.InterTopK(s=8.0, penalty=0.3, k=2)),
    "InterTopK, smoothed and weighted": head(refloss.InterTopK(s=8.0, penalty=0.3, k=1, **textbook.SETTINGS)),
    "InterTopK, next to a class and opposite": beside(refloss.InterTopK(s=8.0, penalty=0.3, k=2)),
    "SoftmaxLoss": head(refloss.SoftmaxLoss()),
    "CrossEntropy": on_logits(refloss.CrossEntropy()),
    "CrossEntropy, smoothed and weighted": on_logits(refloss.CrossEntropy(**textbook.SETTINGS)),
    "CrossEntropy, probabilities": on_logits(refloss.CrossEntropy(reduction="sum"), soft=True),
    "CrossEntropy, scaled": on_logits(refloss.CrossEntropy(logit_scale=0.3)),
    "CrossEntropy, capped": on_logits(refloss.CrossEntropy(softcap=2.0)),
    "CrossEntropy, z-loss": on_logits(refloss.CrossEntropy(z_loss=0.25)),
    "CrossEntropy, every option": on_logits(
        refloss.CrossEntropy(logit_scale=0.7, softcap=2.0, z_loss=0.25, **textbook.SETTINGS)
    ),
    "CrossEntropy, every option, probabilities": on_logits(
        refloss.CrossEntropy(logit_scale=0.7, softcap=2.0, z_loss=0.25, reduction="sum"), soft=True
    ),
    "SoftmaxLoss, every option": head(refloss.SoftmaxLoss(logit_scale=0.7, softcap=2.0, z_loss=0.25)),
    "SphereFace2": questions(refloss.SphereFace2(s=8.0), 1.5),
    "SphereFace2, no bias": questions(refloss.SphereFace2(s=8.0, t=5, alpha=0.3, weight=1.0, reduction="sum")),
    "SphereFace2, detached": questions(refloss.SphereFace2(s=8.0, gradient="detached"), -2.0),
    "UniFace": questions(refloss.UniFace(s=8.0, l=0.5), 2.0),
    "UniFace, no bias": questions(refloss.UniFace(s=8.0, m=0.1, l=2.0, reduction="sum")),
    "UniFace, some at the bound": questions(refloss.UniFace(s=8.0, l=0.5), 5.0),
    "SigLIP": pairs(refloss.SigLIP(), 5.0, -3.0),
    "SigLIP, summed": pairs(refloss.SigLIP(reduction="sum"), 8.0, 1.0),
    "InfoNCE": pairs(refloss.InfoNCE(), 5.0),
    "InfoNCE, one way": pairs(refloss.InfoNCE(ways=1, reduction="sum"), 5.0),
    "Triplet": triplet(refloss.Triplet(m=8.0)),
    "Triplet, plain distance": triplet(refloss.Triplet(m=8.0, squared=False)),
    "KLDivergence": divergence(refloss.KLDivergence()),
    "KLDivergence, reverse": divergence(refloss.KLDivergence(form="reverse", reduction="sum")),
    "KLDivergence, Jensen-Shannon": divergence(refloss.KLDivergence(form="jensen-shannon")),
}


def wrong_gradients(case: Case, kinds: dict[str, mutants.Mutant]) -> dict[str, dict[str, np.ndarray]]:
    """Every mutant of the gradients of a case, on every input; none of them may be what it came from."""
    _, gradients = case.result
    names = dict(zip(("x", "w"), case.inputs[:2], strict=True))
    if isinstance(case.loss, refloss.SubCenterArcFace):
        kinds = kinds | mutants.CENTERS
    wrong = mutants.everywhere(kinds, gradients)
    if "x" in gradients and not isinstance(case.loss, refloss.SoftmaxLoss):
        directions = {name: gradients[name] for name in names}
        for title, changed in mutants.everywhere(mutants.input_mutants(names), directions).items():
            wrong[title] = gradients | changed
    others = mutants.settings_mutants(case.loss, len(case.inputs[0])) | mutants.loss_mutants(
        case.loss, "m" in gradients
    )
    others |= mutants.link_mutants(case.loss, case.inputs)
    if goes_through_angles(case):
        others |= mutants.angle_path_left_out(case.loss)
    for title, other in others.items():
        wrong[title] = checks.value_and_gradients(other, *case.inputs)[1]
    for title, changed in wrong.items():
        assert any(not np.array_equal(changed[name], gradients[name]) for name in gradients), f"{title} changes nothing"
    return wrong


def goes_through_angles(case: Case) -> bool:
    """Whether the gradient of another class goes through its angle."""
    if getattr(case.loss.spec, "class_angles", None) is None:
        return False
    x, w, y = case.inputs
    c = (x @ w.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(w, axis=1))
    return bool(class_angles.through_angle(Pair.of(c), x, w, y, case.loss.spec.class_angles).any())


def must_reject(check: Callable[[dict[str, np.ndarray]], None], wrong: dict[str, dict[str, np.ndarray]]) -> None:
    missed = []
    for title, gradients in wrong.items():
        try:
            check(gradients)
        except AssertionError:
            continue
        missed.append(title)
    assert not missed


def named(condition: Callable[[Case], bool]) -> Any:
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=name) for name, case in CASES.items() if condition(case)]
    )


def test_the_cases_have_hard_classes_and_lengths_that_count():
    for name, case in CASES.items():
        if "MagFace" in name:
            lengths = np.linalg.norm(case.inputs[0], axis=1)
            assert ((lengths > case.loss.l_a) & (lengths < case.loss.u_a)).all(), name
        if isinstance(case.loss, refloss.CurricularFace | refloss.MVSoftmax):
            trace = case.loss.trace(*case.inputs)
            assert (trace["negatives"].output != trace["cosine"].output).any(), name
            assert (trace["negatives"].output == trace["cosine"].output).any(), name
        if "at the bound" in name:
            held = np.abs(case.loss.trace(*case.inputs)["bias"].output) == case.loss.s
            assert held.any(), name
            assert not held.all(), name
        if isinstance(case.loss, refloss.CircleLoss):
            weighted = case.loss.trace(*case.inputs)["negatives"].output != 0.0
            assert weighted.any(), name
            assert not weighted.all(), name


def test_every_mutant_of_a_loss_is_tried():
    tried = {title for case in CASES.values() for title in mutants.loss_mutants(case.loss, len(case.inputs) == 4)}
    assert tried == {
        "detached margin", "half detached", "regularizer without its gradient", "quality attached", "sign of v", "2t",
        "weight constant", "half detached, the target", "other classes detached", "1/m left out", "penalty detached",
        "penalty of the k-th class with the wrong sign",
    }  # fmt: skip
    tried = {title for case in CASES.values() for title in mutants.link_mutants(case.loss, case.inputs)}
    assert tried == {
        "sign of the target forgotten", "weights exchanged", "db without the target", "dt with b", "b not in dt",
        "dg/dc := 1", "bias with the wrong sign", "ways without 1/2", "one way alone", "the other way",
    }  # fmt: skip
    through = {name for name, case in CASES.items() if goes_through_angles(case)}
    assert {"SphereFaceR, version 2, next to a class and opposite", "SphereFaceR, detached", "InterTopK"} <= through


def test_the_confident_cases_are():
    for name, case in CASES.items():
        if "confident" in name:
            assert 1e-25 < case.result[0] < 1e-15, name


@named(lambda case: True)
def test_against_exact_rejects_every_mutant(case):
    value, gradients = case.result

    def check(gradients):
        checks.against_exact(case.loss, *case.inputs, result=(value, gradients), digits=30)

    check(gradients)
    must_reject(check, wrong_gradients(case, mutants.GROSS | mutants.FINE))


@named(lambda case: case.differences)
def test_against_differences_rejects_every_mutant(case):
    value, gradients = case.result
    known = checks.differences(case.loss, *case.inputs)

    def check(gradients):
        checks.against_differences(case.loss, *case.inputs, result=(value, gradients), known=known)

    check(gradients)
    must_reject(check, wrong_gradients(case, mutants.GROSS))


@named(lambda case: case.textbook is not None)
def test_against_complex_step_rejects_every_mutant(case):
    arrays = case.inputs if {"anchor", "target"} & set(case.result[1]) else (case.inputs[0],)
    if "w" in case.result[1]:
        labelled = not isinstance(case.loss, refloss.SigLIP | refloss.InfoNCE)
        arrays = (*case.inputs[:2], *case.inputs[2 + labelled :])
    scale = checks.scale_of(case.loss, *case.inputs) if "w" in case.result[1] else float(np.abs(case.inputs[0]).max())

    def check(gradients):
        checks.against_complex_step(case.textbook, *arrays, gradients=gradients, scale=scale)

    check(case.result[1])
    must_reject(check, wrong_gradients(case, mutants.GROSS | mutants.FINE))


def test_against_exact_vjp_rejects_every_mutant():
    random = np.random.default_rng(8)
    z, upstream = 3.0 * random.standard_normal((2, 4)), random.standard_normal((2, 4))
    gradients = {"z": softmax.backward(upstream, softmax.forward(Pair.of(z))[1])}

    def check(gradients):
        checks.against_exact_vjp(lambda z: exact.softmax(z, digits=150), [z], upstream, [gradients["z"]], 16.0)

    check(gradients)
    must_reject(check, mutants.everywhere(mutants.GROSS | mutants.FINE, gradients))


VALUES = {
    "nothing": lambda value: 0.0 * value,
    "sign": np.negative,
    "relative 1e-12": lambda value: value * (1.0 + 1e-12),
    "rounded to float32": lambda value: np.float64(np.float32(value)),
    "absolute 1e-16": lambda value: value + 1e-16,
    "NaN": lambda value: value * np.nan,
    "inf": lambda value: value + np.inf,
}


@named(lambda case: True)
def test_against_exact_rejects_wrong_values(case):
    value, gradients = case.result
    for title, change in VALUES.items():
        if title == "absolute 1e-16" and value > 1e-10:
            continue  # that is rounding
        assert not np.array_equal(change(value), value)
        with pytest.raises(AssertionError, match="value"):
            checks.against_exact(case.loss, *case.inputs, result=(change(value), gradients), digits=30)


def test_against_exact_rejects_rows_in_the_wrong_place():
    case = CASES["ArcFace"]
    loss = replace(case.loss, reduction="none")
    value, gradients = checks.value_and_gradients(loss, *case.inputs)
    with pytest.raises(AssertionError, match="value"):
        checks.against_exact(loss, *case.inputs, result=(value[::-1], gradients))
    with pytest.raises(AssertionError, match="value"):
        checks.against_exact(loss, *case.inputs, result=(np.where(np.arange(3) == 1, np.nan, value), gradients))


def test_against_exact_rejects_0_for_1e_17():
    loss, z, y = refloss.CrossEntropy(), np.array([[39.0, 0.0]]), np.array([0])
    value, gradients = checks.value_and_gradients(loss, z, y)
    assert 1e-17 < value < 2e-17
    checks.against_exact(loss, z, y, result=(value, gradients))
    with pytest.raises(AssertionError, match="value"):
        checks.against_exact(loss, z, y, result=(0.0, gradients))
    with pytest.raises(AssertionError, match="z is"):
        checks.against_exact(loss, z, y, result=(value, {"z": gradients["z"] * [[0.0, 1.0]]}))


@named(lambda case: True)
def test_the_contract_of_dd_rejects_every_mutant(case):
    """A hundred times stricter than the chain's at s = 64: it rejects what is off by 1e-14 too."""
    value, gradients = checks.value_and_gradients(case.loss, *case.inputs, engine="dd")

    def check(gradients):
        checks.against_exact(case.loss, *case.inputs, result=(value, gradients), engine="dd", digits=30)

    check(gradients)
    finer = {"factor 1 + 1e-14": lambda g: {name: array * (1.0 + 1e-14) for name, array in g.items()}}
    wrong = wrong_gradients(case, mutants.GROSS | mutants.FINE)
    must_reject(check, wrong | mutants.everywhere(finer, gradients))
    off = 1e-14 if getattr(case.loss, "z_loss", 0.0) else 1e-15  # a square has terms three times its size, and more
    with pytest.raises(AssertionError, match="value"):
        checks.against_exact(case.loss, *case.inputs, result=(value * (1 + off), gradients), engine="dd", digits=30)


@named(lambda case: True)
def test_what_fused_is_held_to_rejects_every_mutant(case):
    """Against mpmath as the chain is, and against the chain."""
    value, gradients = checks.value_and_gradients(case.loss, *case.inputs, engine="fused")

    def check(gradients):
        checks.against_exact(case.loss, *case.inputs, result=(value, gradients), engine="fused", digits=30)

    def check_with_chain(gradients):
        checks.agree_with_chain(case.loss, *case.inputs, result=(value, gradients))

    wrong = wrong_gradients(case, mutants.GROSS | mutants.FINE)
    for accepts in (check, check_with_chain):
        accepts(gradients)
        must_reject(accepts, wrong)
    for title, change in VALUES.items():
        if title != "absolute 1e-16" or value <= 1e-10:
            with pytest.raises(AssertionError, match="value"):
                checks.agree_with_chain(case.loss, *case.inputs, result=(change(value), gradients))
