"""Zeros: what is proven to be 0, and what must not be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mpmath import mp

import refloss
from refloss.engines.certified import enclose
from refloss.engines.certified.problem import Problem
from support import cases, checks
from support.enclosures import at, encloses, random, truths, undecided

pytest.importorskip("flint")


def same_direction(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, w, y = cases.ordinary(random(seed), 2, 4, 3)
    return x, np.outer([1.0, 2.0, 0.5, 3.0], np.round(64.0 * w[0])), y


ALL = np.s_[:]
MIRRORED = np.array([[1.0, 0.0]]), np.array([[2.0, 0.0], [-1.0, 3.0], [-1.0, -3.0]]), np.array([0])
TWO_ROWS = (
    np.array([[-1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]),
    np.array([[1.0, 1.0, 0.0], [3.0, 1.0, -1.0]]),
    np.array([0, 1]),
)
WEIGHTLESS = np.array([[1.0, 0.0], [0.3, 0.4]]), MIRRORED[1], np.array([1, 0])
SAME_SIDE = np.array([[2.0], [3.0]]), np.array([[0.1], [0.5], [3.0]]), np.array([0, 2])
TWO_SIDES = np.array([[1.0, 0.0]]), np.array([[3.0, 0.0], [1.0, 1.0], [-1.0, 1.0]]), np.array([0])
AT_HALF = np.ones((1, 4)), np.eye(4)[:2], np.array([1])
THREE_QUARTERS = np.ones((1, 16)), np.array([[1.0] * 9 + [0.0] * 7, np.eye(16)[3], -np.eye(16)[5]]), np.array([0])
AT_RIGHT_ANGLES = np.array([[0.1, 0.2]]), np.array([[1.0, 3.0], [-0.2, 0.1]]), np.array([0])
ALIKE = np.array([[1.0, 2.0]]), np.array([[3.0, 0.1], [3.0, 0.2], [3.0, -1.0]]), np.array([0])


@pytest.mark.parametrize(
    ("loss", "inputs", "zeros"),
    [
        (refloss.NormFace(), cases.ordinary(random(), 3, 5, 1), {"x": ALL, "w": ALL}),  # D = 1
        (refloss.ArcFace(), cases.ordinary(random(), 3, 5, 1), {"x": ALL, "w": ALL}),
        (refloss.ArcFace(), cases.ordinary(random(), 2, 1, 4), {"value": (), "x": ALL, "w": ALL}),  # C = 1
        (refloss.NormFace(), same_direction(), {"x": ALL}),
        (refloss.NormFace(s=None), same_direction(), {"x": ALL}),
        (refloss.ModifiedSoftmax(), same_direction(), {"x": ALL}),
        (refloss.CosFace(), same_direction(), {"x": ALL}),
        (refloss.ArcFace(gradient="detached"), same_direction(), {"x": ALL}),
        (refloss.NormFace(label_smoothing=1.0), same_direction(), {"x": ALL, "w": ALL}),
        (refloss.NormFace(), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (refloss.ArcFace(), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (refloss.ModifiedSoftmax(), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (refloss.ArcFace(s=None), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (refloss.ArcFace(boundary="clamp", m=3.0), at([0.1, 1.0, 0.0]), {"w": (0, ALL)}),
        (refloss.ASoftmax(m=4, s=8.0), at([1.0, 1.0, 0.0]), {"w": (0, ALL)}),
        (refloss.ArcFace(boundary="clamp", m=3.0), TWO_ROWS, {"w": (0, np.s_[:2])}),
        (refloss.SphereFaceR(version=2), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (refloss.SphereFaceR(version=2, s=None, gradient="detached"), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (refloss.SphereFaceR(version=2, s=None), SAME_SIDE, {"x": ALL, "w": ALL}),
        (refloss.InterTopK(k=2), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (refloss.InterTopK(k=2, s=None), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (refloss.CircleLoss(m=0.5), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (refloss.CircleLoss(m=0.5, s=None, gradient="detached"), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (refloss.CircleLoss(), MIRRORED, {"x": ALL, "w": ALL}),  # no class is above -1/4, and the label's is parallel
        (refloss.CircleLoss(s=None, m=0.0, label_smoothing=0.5), MIRRORED, {"x": ALL, "w": ALL}),  # all logits are 0
        (refloss.CircleLoss(m=1.0), TWO_SIDES, {"x": ALL}),  # slopes 2c of opposite signs
        (refloss.CircleLoss(), AT_HALF, {"x": (0, np.s_[2:])}),  # where 2 (1 - c) is 2c
        (refloss.CircleLoss(gradient="detached"), AT_HALF, {"x": (0, np.s_[2:])}),
        (refloss.CircleLoss(m=0.5), (AT_HALF[0], [*AT_HALF[1], [-1.0, 0, 0, 0]], [1]), {"w": (2, ALL)}),  # c = -m
        (refloss.CircleLoss(m=0.5, label_smoothing=1.0), (AT_HALF[0], -np.array(AT_HALF[1]), [1]), {"w": (0, ALL)}),
        (refloss.CircleLoss(label_smoothing=1.0), THREE_QUARTERS, {"x": ALL, "w": ALL}),  # ψ = η = 0
        (refloss.CircleLoss(m=0.0), AT_RIGHT_ANGLES, {"w": (1, ALL)}),  # c = -m
        (refloss.CircleLoss(), AT_RIGHT_ANGLES, {"w": (1, ALL)}),  # 2c = 0
        (refloss.SoftmaxLoss(), ALIKE, {"x": (0, 0)}),
        (
            refloss.SoftmaxLoss(label_smoothing=1.0),
            (np.eye(2), [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [0, 0]),
            {"w": (ALL, 1)},
        ),
        (
            refloss.SoftmaxLoss(label_smoothing=1.0),
            (*MIRRORED[:1], np.ones((3, 2)), [0], np.ones(3)),
            {"b": ALL, "w": ALL},
        ),
        (refloss.CrossEntropy(label_smoothing=1.0), (np.full((2, 3), 0.1), [0, 1]), {"z": ALL}),
        (refloss.CrossEntropy(), (np.full((1, 3), 0.1), np.full((1, 3), 1 / 3)), {"z": ALL}),
        (refloss.CosFace(class_weight=(0.0, 1.0, 1.0), label_smoothing=0.0), WEIGHTLESS, {"w": (0, 1)}),
        (refloss.CrossEntropy(), ([[0.0, -np.inf]], [0]), {"value": (), "z": ALL}),
        (refloss.CrossEntropy(), ([[0.0, 1.0]], [[0.0, 0.0]]), {"value": (), "z": ALL}),
        (refloss.CrossEntropy(), ([[0.1, 0.1, 0.1]], [[1.0, -1.0, 0.0]]), {"value": (), "z": (0, 2)}),
        (refloss.CrossEntropy(), ([[0.0, 1.0, 7.0, -np.inf]], [[1.0, -1.0, 0.0, 0.0]]), {"z": (0, 2)}),
        (refloss.CrossEntropy(), ([[0.1, -np.inf]], [[-1.0, 0.0]]), {"value": (), "z": ALL}),
        (
            refloss.CrossEntropy(reduction="none", label_smoothing=0.3, class_weight=(1.0, -2.0, 1.0)),
            ([[0.0, 1.0, 2.0], [0.1, 0.1, 0.1]], np.full((2, 3), 0.1)),  # T = 0, to be divided by 3
            {"value": ALL},
        ),
        (
            refloss.CrossEntropy(reduction="sum", class_weight=(1.0, 7.0, -1.0)),
            ([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], [0, 2]),  # two samples with the same logits
            {"value": ()},
        ),
        (
            refloss.SoftmaxLoss(reduction="sum", label_smoothing=0.1, class_weight=(1.0, -1.0)),
            (np.eye(2), [[0.1, 0.2], [0.2, 0.1]], [0, 1]),
            {"value": ()},
        ),
        *(
            (
                loss(reduction="sum", class_weight=(1.0, -1.0)),
                ([[1.0, 2.0], [2.0, 1.0]], [[3, 1.0], [1, 3]], [0, 1]),
                {"value": ()},
            )
            for loss in (refloss.NormFace, refloss.ArcFace, refloss.ModifiedSoftmax, refloss.ASoftmax)
        ),
        (
            refloss.NormFace(reduction="sum", class_weight=(1.0, -1.0)),
            ([[1.0, 2.0], [3.0, 1.0]], [[3.0, 1.0], [6.0, 2.0]], [0, 1]),  # classes alike: log 2 - log 2
            {"value": ()},
        ),
        (refloss.CrossEntropy(softcap=2.0, label_smoothing=1.0), (np.full((2, 3), 0.1), [0, 1]), {"z": ALL}),
        (refloss.CrossEntropy(softcap=2.0), (np.full((1, 3), 0.1), np.full((1, 3), 1 / 3)), {"z": ALL}),
        (refloss.CrossEntropy(softcap=2.0), ([[np.inf, 1.0, -np.inf]], [1]), {"z": (0, [0, 2])}),  # at the cap
        (refloss.CrossEntropy(softcap=2.0), ([[0.1, 0.1, 0.1]], [[1.0, -1.0, 0.0]]), {"value": (), "z": (0, 2)}),
        (refloss.CrossEntropy(logit_scale=3.0), ([[0.0, 1.0, 7.0]], [[1.0, -1.0, 0.0]]), {"z": (0, 2)}),
        (
            refloss.CrossEntropy(softcap=2.0, reduction="sum", class_weight=(1.0, 7.0, -1.0)),
            ([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], [0, 2]),
            {"value": ()},
        ),
        (refloss.CrossEntropy(z_loss=0.5), ([[0.0, -np.inf]], [0]), {"value": (), "z": ALL}),  # lse = 0
        (refloss.CrossEntropy(z_loss=0.5, softcap=3.0), ([[0.0]], [0]), {"value": (), "z": ALL}),
        (refloss.CrossEntropy(z_loss=0.5), ([[1.0, -np.inf]], [0]), {"z": (0, 1)}),
        (refloss.SoftmaxLoss(z_loss=0.5), ([[1.0, 0.0]], [[3.0, 1.0], [2.0, 4.0]], [0]), {"w": (ALL, 1)}),
        (refloss.SoftmaxLoss(z_loss=0.5), (np.eye(2), [[1.0, 0.0], [2.0, 0.0]], [0, 1]), {"x": (ALL, 1)}),
        (refloss.SoftmaxLoss(softcap=3.0), (np.eye(2), [[1.0, 0.0], [2.0, 0.0]], [0, 1]), {"x": (ALL, 1)}),
        (refloss.SoftmaxLoss(softcap=3.0, label_smoothing=1.0), (np.eye(2), np.ones((2, 2)), [0, 1]), {"x": ALL}),
        (
            refloss.SoftmaxLoss(),
            ([[1.0, 2.0]], [[3.0, 0.1], [3.0, 0.2], [3.0, -1.0]], [[0.5, 0.25, 0.25]]),
            {"x": (0, 0)},
        ),
        (refloss.Triplet(), ([[0.0, 0.0]], [[0.1, 0.0]], [[0.0, 4.0]]), {"value": (), "anchor": ALL, "negative": ALL}),
        (refloss.Triplet(m=3.0), ([[1e-40, 0.0]], [[9.0, 0.0]], [[9.0, 1.0]]), {"anchor": (0, 0), "positive": (0, 1)}),
        (
            refloss.Triplet(squared=False),  # (3, 4) and (6, 8) less a point far below their last place
            ([[0.0, 1e-40]], [[6.0, 1e-40]], [[3.0, 1e-40]]),
            {"anchor": ALL, "positive": (0, 1), "negative": (0, 1)},
        ),
        (refloss.Triplet(squared=False, m=9.0), ([[1e-40, 1.0]], [[3.0, 5.0]], [[3.0, 5.0]]), {"anchor": ALL}),
        *(
            (
                refloss.KLDivergence(form=form, reduction="none"),
                ([[0.25, 0.5, -np.inf], [0.1, -np.inf, -np.inf]], [[8.25, 8.5, -np.inf], [7.0, -np.inf, -np.inf]]),
                {"value": ALL, "z": ALL, "target": ALL},
            )
            for form in ("forward", "reverse", "jensen-shannon")
        ),
        # sums of the same exponentials; d of every single target the same mean; classes apart
        (refloss.KLDivergence(), ([[0.0, 1.0, -1.0]], [[1.0, 0.0, -1.0]]), {"z": (0, 2)}),
        (refloss.KLDivergence(form="reverse"), ([[0.0, 1.0, -1.0]], [[1.0, 0.0, -1.0]]), {"target": (0, 2)}),
        (refloss.KLDivergence(), ([[1.0, -1.0, 0.0, 2.0]], [[0.0, 0.0, 0.0, 2.0]]), {"target": (0, [2, 3])}),
        (
            refloss.KLDivergence(form="jensen-shannon"),
            ([[0.1, -np.inf, 0.2, -np.inf]], [[-np.inf, 0.3, -np.inf, 0.5]]),
            {"z": ALL, "target": ALL},
        ),
        (refloss.KLDivergence(), ([[-np.inf, -np.inf, 1.0]], [[0.1, 0.1, -np.inf]]), {"target": ALL}),
    ],
    ids=lambda part: type(part).__name__,
)
def test_zeros_are_proven(loss: Any, inputs: Any, zeros: dict[str, Any]) -> None:
    enclosure = enclose(loss, *inputs)
    assert enclosure.bits < 1000
    assert not undecided(enclosure)
    for name, index in zeros.items():
        ball = enclosure.value if name == "value" else enclosure.grad[name]
        assert np.all(ball.midpoint[index] == 0.0), name
        assert np.all(ball.radius[index] == 0.0), name
        assert np.all(np.asarray(ball.decimal[index]) == "0"), name
        assert np.all(np.asarray(ball.decimal_radius[index]) == "0"), name
    encloses(loss, *inputs, enclosure=enclosure)


@pytest.mark.parametrize(
    ("loss", "more"),
    [
        (refloss.SoftmaxLoss(class_weight=(1.0, 0.0, 1.0)), "b"),
        (refloss.SoftmaxLoss(label_smoothing=1.0), ""),
        (refloss.SoftmaxLoss(class_weight=(1.0, -1.0, 0.0), reduction="sum"), "b"),
        (refloss.SoftmaxLoss(softcap=2.0), "b"),
        (refloss.SoftmaxLoss(softcap=2.0, label_smoothing=1.0, reduction="sum"), "b"),
        (refloss.SoftmaxLoss(softcap=1.0, class_weight=(1.0, -1.0, 0.0), reduction="sum"), ""),
        (refloss.SoftmaxLoss(logit_scale=2.0, class_weight=(1.0, -1.0, 0.0), reduction="sum"), "b"),
        (refloss.SoftmaxLoss(z_loss=0.5), "b"),
        (refloss.SoftmaxLoss(z_loss=0.5, softcap=2.0, class_weight=(1.0, -1.0, 0.0), reduction="sum"), ""),
        (refloss.SoftmaxLoss(z_loss=1.0, label_smoothing=1.0), ""),
        (refloss.NormFace(class_weight=(1.0, -1.0, 1.0), reduction="sum"), ""),
        (refloss.ArcFace(class_weight=(1.0, -1.0, 0.0), reduction="sum", s=None, label_smoothing=0.5), ""),
        (refloss.NormFace(label_smoothing=1.0), ""),
        (refloss.ModifiedSoftmax(), ""),
        (refloss.CosFace(s=None, m=1.0, label_smoothing=0.5), ""),
        (refloss.CosFace(label_smoothing=1.0), ""),
        (refloss.ArcFace(s=None), ""),
        (refloss.ArcFace(s=None, gradient="detached"), ""),
        (refloss.ArcFace(s=2.0, m=3.0, boundary="clamp"), ""),
        (refloss.ASoftmax(m=4, s=3.0, annealing=1.0), ""),
        (refloss.ArcFace(s=2.0, boundary="easy"), "m"),
        (refloss.ArcFace(s=None, boundary="hard", label_smoothing=1.0), "m"),
        (refloss.CosFace(s=None, boundary="conditional", gradient="detached"), "m"),
        (refloss.CosFace(s=2.0, class_weight=(1.0, -1.0, 0.0), reduction="sum"), "m"),
        (refloss.AdaFace(s=2.0, m=0.5, h=1.0, mean=2.0, std=0.5, eps=0.5), ""),
        (refloss.AdaFace(s=None, m=0.5, h=1.0, mean=1.0, std=0.5, label_smoothing=1.0), ""),
        (refloss.MagFace(s=2.0, l_a=1.0, u_a=2.0, l_m=0.0), ""),
        (refloss.MagFace(s=2.0, l_a=1.0, u_a=3.0, regularizer=0.0), ""),
        (refloss.MagFace(s=None, l_a=1.0, u_a=3.0, label_smoothing=1.0, regularizer=0.0), ""),
        (refloss.MagFace(s=2.0, l_a=1.0, u_a=2.0, class_weight=(1.0, -1.0, 0.0), reduction="sum"), ""),
        (refloss.MagFace(s=2.0, l_a=1.0, u_a=2.0, regularizer=0.0, class_weight=(1.0, -1.0, 0.0), reduction="sum"), ""),
        (refloss.MagFace(s=2.0, l_a=1.0, u_a=2.0, l_m=0.5, u_m=3.0, boundary="clamp", gradient="detached"), ""),
        (refloss.CurricularFace(s=2.0, t=-1.0, m=2.0, boundary="none"), ""),
        (refloss.CurricularFace(s=None, t=-1.0, label_smoothing=0.5), ""),
        (refloss.CurricularFace(s=2.0, class_weight=(1.0, -1.0, 0.0), reduction="sum"), ""),
        (refloss.MVSoftmax(s=2.0, m=0.0, t=1.0, boundary="none"), ""),
        (refloss.MVSoftmax(s=None, m=0.0, t=1.0, boundary="none"), ""),
        (refloss.MVSoftmax(s=2.0, m=0.5, t=1.0, boundary="none"), ""),
        (refloss.MVSoftmax(s=2.0, m=0.5, t=1.0, label_smoothing=1.0), ""),
        (refloss.MVSoftmax(s=None, m=0.5, t=1.0, label_smoothing=1.0), ""),
        (refloss.MVSoftmax(s=None, margin="arc", m=1.0, class_weight=(1.0, -1.0, 0.0), reduction="sum"), ""),
        *(
            (replace(loss, **settings), "")
            for loss in (
                refloss.SphereFaceR(m=2.0, s=2.0),
                refloss.SphereFaceR(version=2, m=2.0, s=2.0),
                refloss.CircleLoss(m=0.0, s=2.0),
                refloss.CircleLoss(m=0.5, s=2.0),
                refloss.CircleLoss(m=1.0, s=2.0),
                refloss.CircleLoss(m=0.25, s=2.0, gradient="detached"),
                refloss.InterTopK(k=1, s=2.0),
                refloss.InterTopK(k=2, m=0.0, penalty=0.5, boundary="none", s=2.0),
            )
            for settings in (
                {},
                {"gradient": "detached", "label_smoothing": 0.5},
                {"s": None, "label_smoothing": 1.0},
                {"class_weight": (1.0, -1.0, 0.0), "reduction": "sum", "gradient": "detached", "s": None},
                # G is -1/3 and 1/3 of the others, and 0 of label 0
                {"class_weight": (0.0, 1.0, -1.0), "reduction": "sum", "label_smoothing": 1.0, "s": None},
            )
        ),
    ],
    ids=repr,
)
def test_no_proof_of_0_is_wrong(loss: Any, more: str) -> None:
    """Small integers, full of coincidences; every claim about every entry, asked for or not, against mpmath."""
    g, claims = random(1), 0
    calls = [
        (
            [[1.0, 1.0, 0.0]],
            [[2.0, 2.0, 1.0], [1.0, 0.0, 0.0], [3.0, 0.0, 0.0]],
            [0],
        ),  # w_0 turns, but not along axis 1
        ([[1.0, 1.0, 3.0]], [[1.0, -1.0, 1.0], [0.0, 1.0, 2.0], [2.0, 1.0, 0.0]], [1]),  # x·w_0 = w_0·w_0
        ([[1.0, 2.0, 3.0]], np.ones((3, 3)), [0]),
        ([[-1.0, -2.0, -3.0]], np.ones((3, 3)), [0]),
        ([[1.0, 2.0, 1.0], [4.0, 2.0, 2.0]], [[3.0, 1.0, 0.0], [1.0, 3.0, 0.0], [1.0, 1.0, 0.0]], [0, 1]),  # the same θ
        ([[2.0, 0.0, 0.0]], [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [2.0, 1.0, 0.0]], [0]),  # no w_k turns along x
        ([[1.0, 1.0, 1.0]], [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0]], [0]),  # x alone has axis 1
        (np.ones((1, 4)), np.eye(4)[[1, 2, 2]] * [[1.0], [2.0], [-1.0]], [0]),  # cosines 1/2, 1/2 and -1/2
        ([[1.0], [-2.0]], [[1.0], [2.0], [-1.0]], [0, 2]),
        ([[1.0, 0.0]], [[1.0, 0.0], [1.0, 1.0], [-1.0, 1.0]], [0]),  # opposite cosines
        ([[1.0, 0.0]], [[1.0, 0.0], [1.0, 1.0], [-1.0, -1.0]], [0]),
        ([[1.0, 1.0]], [[1.0, 3.0], [1.0, 0.0], [1.0, 1.0]], [0]),  # (x·w_k) w_k / w_k·w_k is (1, 0) and (1, 1)
        (
            [[1.0, 1.0, 1.0]],
            [[1.0, 2.0, 3.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]],
            [0],
        ),  # other cosines; only x has axis 2
        (np.ones((1, 4)), [[1.0, 2.0, 3.0, 4.0], [1.0, 0, 0, 0], [0, -1.0, 0, 0]], [0]),  # cosines of 1/2 and -1/2
    ]
    for _ in range(12):
        x, w = (g.integers(-1, 3, shape).astype(float) for shape in ((2, 3), (3, 3)))
        x[:, 0], w[:, 0] = 1.0, 1.0  # no zero vectors
        calls.append((x, w, g.integers(0, 3, 2)))
    for inputs in calls:
        if more:  # biases, or margins
            inputs = (*inputs, g.integers(-1, 2, 3 if more == "b" else len(inputs[0])).astype(float))  # noqa: PLW2901
        spare = [None] if isinstance(loss, refloss.SoftmaxLoss) and not more else []
        call = loss._call(*inputs, *spare)
        problem = Problem(call.spec, call.arrays, np.array(1.0))
        for name, true, noise in truths(loss, *inputs):
            for i in np.ndindex(true.shape):
                if problem.unknown[name][i] and problem.is_zero(name, i):
                    claims += 1
                    assert abs(true[i]) <= noise[i], f"{name}{list(i)} is {mp.nstr(true[i])}, not 0: {inputs}"
    assert claims


@pytest.mark.parametrize("form", ["forward", "reverse", "jensen-shannon"])
def test_no_proof_of_0_of_divergences_is_wrong(form: str) -> None:
    g, claims = random(3), 0
    loss = refloss.KLDivergence(form=form, reduction="none")
    for _ in range(12):
        z, target = g.integers(-1, 2, (2, 4, 3)).astype(float)
        z[0], target[0] = [0.0, 1.0, -1.0], [1.0, 0.0, -1.0]  # q_2 = p_2
        z[3], target[3] = [1.0, 0.5, 0.0], [0.0, 0.0, 1.0]
        target[1, g.integers(3)] = z[1, g.integers(3)] = z[2, 0] = target[2, 0] = -np.inf
        problem = Problem(loss.spec, loss._call(z, target).arrays, np.ones(4))
        for name, true, noise in truths(loss, z, target):
            for i in np.ndindex(true.shape):
                if problem.unknown[name][i] and problem.is_zero(name, i[:1] if name == "value" else i):
                    claims += 1
                    assert abs(true[i]) <= noise[i], f"{name}{list(i)} is {mp.nstr(true[i])}, not 0: {z}, {target}"
    assert claims


@pytest.mark.parametrize(
    "loss",
    [
        refloss.CrossEntropy(),
        refloss.CrossEntropy(softcap=1.0),
        refloss.CrossEntropy(z_loss=0.5),
        refloss.CrossEntropy(softcap=1.0, label_smoothing=1.0, class_weight=(1.0, 0.0, -1.0), reduction="sum"),
        refloss.SoftmaxLoss(),
        refloss.SoftmaxLoss(softcap=1.0, class_weight=(1.0, 0.0, -1.0), reduction="sum"),
        refloss.SoftmaxLoss(label_smoothing=1.0, z_loss=0.5),
    ],
    ids=repr,
)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("of_lse", [None, (1.0, 0.0), (0.0, 0.0), (0.0, -1.0)])
def test_no_proof_of_0_with_a_gradient_of_the_log_sum_exp_is_wrong(loss: Any, of_lse: Any, soft: bool) -> None:
    """Small integers, probabilities too; upstream gradients of 0 of the values, of the log-sum-exps, or of both."""
    g, claims = random(3), 0
    for upstream in (1.0, 0.0):
        for _ in range(5):
            x, w = (g.integers(-1, 3, shape).astype(float) for shape in ((2, 3), (3, 3)))
            y = g.integers(-1, 2, (2, 3)).astype(float) if soft else g.integers(0, 3, 2)
            inputs = (x, y) if loss.spec.head == "logits" else (x, w, y)
            call = loss._call(*inputs, *([None] * (loss.spec.head == "linear"))).with_upstream_lse(of_lse)
            problem = Problem(loss.spec, call.arrays, np.array(upstream))
            followed = {"upstream": upstream} | ({} if of_lse is None else {"upstream_lse": np.array(of_lse)})
            for name, true, noise in truths(loss, *inputs, **followed):
                for i in np.ndindex(true.shape):
                    if problem.unknown[name][i] and problem.is_zero(name, i):
                        claims += 1
                        assert abs(true[i]) <= noise[i], f"{name}{list(i)} is {mp.nstr(true[i])}, not 0: {inputs}"
    assert claims


@pytest.mark.parametrize("ratio", [1e3, 1e5, 1e300])
def test_saturated_caps_are_decided(ratio: float) -> None:
    """exp(-2 |z| / K) is far below every number, with thousands of digits or without."""
    loss, z = refloss.CrossEntropy(softcap=1.0, z_loss=0.25), np.array([[ratio, -ratio, 0.5]])
    enclosure = enclose(loss, z, [1])
    assert not undecided(enclosure)
    value, grad = loss.value_and_grad(z, [1], engine="certified", upstream_lse=[1.0])
    assert np.isfinite(value)
    assert grad.z[0].tolist()[:2] == [0.0, 0.0]
    checks.against_exact(loss, z, [1], engine="certified")


@pytest.mark.parametrize("squared", [True, False])
def test_no_proof_of_0_of_triplets_is_wrong(squared: bool) -> None:
    g, claims = random(2), 0
    loss = refloss.Triplet(m=3.0, squared=squared)
    for _ in range(12):
        inputs = tuple(g.integers(-1, 2, (3, 3, 3)).astype(float))
        problem = Problem(loss.spec, loss._call(*inputs).arrays, np.array(1.0))
        for name, true, noise in truths(loss, *inputs):
            for i in np.ndindex(true.shape):
                if problem.unknown[name][i] and problem.is_zero(name, i):
                    claims += 1
                    assert abs(true[i]) <= noise[i], f"{name}{list(i)} is {mp.nstr(true[i])}, not 0: {inputs}"
    assert claims


def test_losses_that_almost_cancel_are_not_called_0() -> None:
    """Samples with the same logits and opposite weights, one of them moved by 1e-30 of itself."""
    loss = refloss.CrossEntropy(reduction="sum", class_weight=(1.0, -1.0))
    for z in ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1e-30, 1.0]]):
        enclosure = enclose(loss, z, [0, 1])
        assert (enclosure.value.midpoint == 0.0) == (z[1][0] == 0.0)
        encloses(loss, z, [0, 1], enclosure=enclosure)


def test_what_is_almost_0_is_not_called_0() -> None:
    x, w, y = (np.array(part) for part in MIRRORED)
    w[1, 1] = np.nextafter(3.0, 4.0)
    w[0, 1] = 1e-200
    for loss in (refloss.NormFace(), refloss.ModifiedSoftmax(), refloss.ArcFace(s=None)):
        enclosure = enclose(loss, x, w, y)
        assert "0" not in set(enclosure.grad["x"].decimal[0]) - {"0"} | set(enclosure.grad["w"].decimal.flat)
        assert enclosure.grad["x"].midpoint[0, 1] != 0.0
        encloses(loss, x, w, y, enclosure=enclosure)


def test_an_upstream_of_0_proves_nothing_about_other_rows() -> None:
    x, w, y = (np.concatenate([np.array(part)] * 2) if i != 1 else part for i, part in enumerate(MIRRORED))
    x[1] = [0.3, 0.4]
    enclosure = enclose(refloss.NormFace(reduction="none"), x, w, y, upstream=[1.0, 0.0])
    assert not enclosure.grad["x"].midpoint[1].any()
    assert not enclosure.grad["w"].midpoint[0].any()
    assert not enclosure.notes
    assert enclose(refloss.NormFace(reduction="none"), x, w, y, upstream=[0.0, 1.0]).grad["w"].midpoint[0, 1] != 0.0


def test_in_one_dimension_classes_have_two_sides() -> None:
    """z = (200, 200, -200): dL/dx = G_0 + G_1 - G_2 = -2 G_2, about -e^-400."""
    x, w = [[200.0]], [[1.0], [1.0], [-1.0]]
    encloses(refloss.ModifiedSoftmax(), x, w, [0])
    assert refloss.ModifiedSoftmax().value_and_grad(x, w, [0], engine="certified")[1].x[0, 0] < 0.0
