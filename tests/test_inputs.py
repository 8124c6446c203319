"""What refloss refuses, and how it says so; what it takes, and that no way of storing numbers changes a result."""

from __future__ import annotations

import builtins
import dataclasses
import math
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import refloss
from refloss import (
    AdaFace,
    ArcFace,
    ASoftmax,
    CircleLoss,
    CombinedMargin,
    CosFace,
    CrossEntropy,
    CurricularFace,
    InfoNCE,
    InterTopK,
    KLDivergence,
    MagFace,
    ModifiedSoftmax,
    MVSoftmax,
    NormFace,
    SigLIP,
    SoftmaxLoss,
    SphereFace2,
    SphereFaceR,
    SubCenterArcFace,
    Triplet,
    UniFace,
    inputs,
)

NAN, INF = math.nan, math.inf

# Small integers: every dtype below holds them exactly.
X = np.array([[3.0, 1.0, -2.0], [1.0, 2.0, 4.0], [-1.0, 5.0, 2.0], [2.0, 2.0, 1.0], [4.0, -3.0, 1.0]])
W = np.array([[1.0, 2.0, 2.0], [-2.0, 1.0, 3.0], [3.0, -1.0, 1.0], [1.0, -4.0, 2.0]])
CENTERS = np.stack([W, np.roll(W, 1, axis=1), -W], axis=1)
Y = np.array([0, 1, 2, 3, 0])
B = np.array([1.0, 0.0, -1.0, 2.0])
Z = X @ W.T
M = np.array([0.5, -0.25, 0.0, 1.0, 0.75])
T = np.array(10.0)
P = np.abs(Z)  # "probabilities": they need not sum to 1

HEADS = [SoftmaxLoss, ModifiedSoftmax, NormFace, ASoftmax, CosFace, ArcFace, CombinedMargin]
HEADS += [AdaFace, MagFace, CurricularFace, MVSoftmax, SphereFaceR, CircleLoss, InterTopK]
PER_SAMPLE = [CosFace, ArcFace, CombinedMargin]
QUESTIONS = [SphereFace2, UniFace]
PAIRS = [SigLIP, InfoNCE]
LOSSES = [CrossEntropy, *HEADS, SubCenterArcFace, *QUESTIONS, *PAIRS, Triplet, KLDivergence]
UNLABELLED = [*PAIRS, Triplet, KLDivergence]
FLOATS: dict[type, dict[str, Any]] = {  # what each loss is called with, less its labels
    CrossEntropy: {"z": Z},
    **{head: {"x": X, "w": W} for head in HEADS},
    SoftmaxLoss: {"x": X, "w": W, "b": B},
    SubCenterArcFace: {"x": X, "w": CENTERS},
    **{loss: {"x": X, "w": W, "b": np.array(2.0)} for loss in QUESTIONS},
    SigLIP: {"x": X, "w": X[::-1].copy(), "t": T, "b": np.array(-10.0)},
    InfoNCE: {"x": X, "w": X[::-1].copy(), "s": np.array(20.0)},
    Triplet: {"anchor": X, "positive": X[::-1].copy(), "negative": X + 1.0},
    KLDivergence: {"z": Z, "target": Z[::-1].copy()},
}
REDUCTIONS = ("mean", "sum", "none")


def of(loss: type, **changed: Any) -> dict[str, Any]:
    """What to call a loss with."""
    return FLOATS[loss] | ({} if loss in UNLABELLED else {"y": Y}) | changed


def leaves(result: Any) -> Iterator[np.ndarray]:
    """Every array in what a loss gave back."""
    if isinstance(result, dict | tuple):
        for part in result.values() if isinstance(result, dict) else result:
            yield from leaves(part)
    elif result is not None:
        yield np.asarray(result)


def answers(loss: Any, arguments: dict[str, Any], **upstream: Any) -> list[np.ndarray]:
    """Value, value and gradient, and trace, as a flat list."""
    gradient, trace = loss.value_and_grad(**arguments, **upstream), loss.trace(**arguments, **upstream)
    return [*leaves(loss(**arguments)), *leaves(gradient), *leaves(trace)]


def bits(arrays: list[np.ndarray]) -> list[tuple[tuple[int, ...], str, bytes]]:
    return [(array.shape, array.dtype.str, array.tobytes()) for array in arrays]


def refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def at(array: np.ndarray, index: Any, value: Any) -> np.ndarray:
    """Return a copy with other values there."""
    out = array.copy()
    out[index] = value
    return out


class OnTheGpu:
    """An array that NumPy cannot reach."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError("no implicit copies")


# ------------------------------------------------------------------------------------------------------ what is refused

REFUSED = """
ArcFace(s=0)
    ValueError: s must be a finite number > 0; got 0.0
ASoftmax(s=-64)
    ValueError: s must be a finite number > 0; got -64.0
CosFace(s=NAN)
    ValueError: s must be a finite number > 0; got nan
NormFace(s=10**400)
    ValueError: s must be a finite number > 0; got inf
CombinedMargin(s="64")
    TypeError: s must be a number; got '64'
ArcFace(s=True)
    TypeError: s must be a number; got True
ArcFace(s=np.True_)
    TypeError: s must be a number; got np.True_
ArcFace(m=28.6)
    ValueError: m must be a finite number >= 0 and <= 3.141592653589793; got 28.6 (radians: 28.6 degrees are 0.5)
ArcFace(m=None)
    TypeError: m must be a number; got None
CombinedMargin(m1=0)
    ValueError: m1 must be a finite number > 0 and <= 30; got 0.0
CombinedMargin(m2=-0.1)
    ValueError: m2 must be a finite number >= 0 and <= 3.141592653589793; got -0.1
CombinedMargin(m3=-1e-9)
    ValueError: m3 must be a finite number >= 0 and <= 2; got -1e-09
CosFace(m=-0.35)
    ValueError: m must be a finite number >= 0 and <= 2; got -0.35
CosFace(m=2.1)
    ValueError: m must be a finite number >= 0 and <= 2; got 2.1
ASoftmax(m=0.99)
    ValueError: m must be a finite number >= 1 and <= 30; got 0.99
ASoftmax(m=31)
    ValueError: m must be a finite number >= 1 and <= 30; got 31.0
ASoftmax(annealing=-1)
    ValueError: annealing must be a finite number >= 0 and <= 1e+100; got -1.0
AdaFace(m=1.5)
    ValueError: m must be a finite number >= 0 and <= 1; got 1.5
AdaFace(h=-1)
    ValueError: h must be a finite number >= 0 and <= 1000000; got -1.0
AdaFace(mean=-20)
    ValueError: mean must be a finite number >= 0 and <= 1000000; got -20.0
AdaFace(std=NAN)
    ValueError: std must be a finite number >= 0 and <= 1000000; got nan
AdaFace(momentum=1.1)
    ValueError: momentum must be a finite number >= 0 and <= 1; got 1.1
AdaFace(eps=0)
    ValueError: eps must be a finite number > 0 and <= 1; got 0.0
AdaFace(mean="20")
    TypeError: mean must be a number; got '20'
MagFace(l_a=0)
    ValueError: l_a must be a finite number >= 1e-06 and <= 1000000; got 0.0
MagFace(u_a=10)
    ValueError: u_a must be a finite number > 10 and <= 1000000; got 10.0
MagFace(l_m=-0.1)
    ValueError: l_m must be a finite number >= 0 and <= 3.141592653589793; got -0.1
MagFace(l_m=25)
    ValueError: l_m must be a finite number >= 0 and <= 3.141592653589793; got 25.0 (radians: 28.6 degrees are 0.5)
MagFace(u_m=0.4)
    ValueError: u_m must be a finite number >= 0.45 and <= 3.141592653589793; got 0.4
MagFace(regularizer=-35)
    ValueError: regularizer must be a finite number >= 0 and <= 1000000; got -35.0
MagFace(boundary="conditional")
    ValueError: boundary must be one of 'none', 'hard', 'easy', 'keep', 'continuous', 'monotone', 'clamp', 'min';
    got 'conditional'
MagFace(l_m=0, u_m=0, boundary="hard")
    ValueError: boundary='hard' acts past m1 theta + m2 = pi, which m1=1, m2=0, m3=0 never reach
CurricularFace(m=28.6)
    ValueError: m must be a finite number >= 0 and <= 3.141592653589793; got 28.6 (radians: 28.6 degrees are 0.5)
CurricularFace(t=-1.5)
    ValueError: t must be a finite number >= -1 and <= 1; got -1.5
CurricularFace(momentum=-0.1)
    ValueError: momentum must be a finite number >= 0 and <= 1; got -0.1
CurricularFace(boundary="acute")
    ValueError: boundary must be one of 'none', 'hard', 'easy', 'keep', 'continuous', 'monotone', 'clamp', 'min';
    got 'acute'
MVSoftmax(margin="cos")
    ValueError: margin must be one of 'am', 'arc'; got 'cos'
MVSoftmax(m=2.5)
    ValueError: m must be a finite number >= 0 and <= 2; got 2.5
MVSoftmax(margin="arc", m=4)
    ValueError: m must be a finite number >= 0 and <= 3.141592653589793; got 4.0 (radians: 28.6 degrees are 0.5)
MVSoftmax(t=-0.1)
    ValueError: t must be a finite number >= 0 and <= 1000000; got -0.1
MVSoftmax(boundary="hard")
    ValueError: boundary must be one of 'easy', 'none'; got 'hard'
SubCenterArcFace(centers=0)
    ValueError: centers must be 1 or more; got 0
SubCenterArcFace(centers=2.0)
    TypeError: centers must be an integer; got 2.0
SubCenterArcFace(centers=True)
    TypeError: centers must be an integer; got True
SubCenterArcFace(m=-0.5)
    ValueError: m must be a finite number >= 0 and <= 3.141592653589793; got -0.5
SubCenterArcFace(m=0, boundary="hard")
    ValueError: boundary='hard' acts past m1 theta + m2 = pi, which m1=1, m2=0, m3=0 never reach
SubCenterArcFace(boundary="conditional")
    ValueError: boundary must be one of 'none', 'hard', 'easy', 'keep', 'continuous', 'monotone', 'clamp', 'min';
    got 'conditional'
MVSoftmax(s=0)
    ValueError: s must be a finite number > 0; got 0.0
SphereFaceR(m=0.5)
    ValueError: m must be a finite number >= 1 and <= 30; got 0.5
SphereFaceR(m=31)
    ValueError: m must be a finite number >= 1 and <= 30; got 31.0
SphereFaceR(m="1.5")
    TypeError: m must be a number; got '1.5'
SphereFaceR(version=0)
    ValueError: version must be 1 or 2; got 0
SphereFaceR(version=3)
    ValueError: version must be 1 or 2; got 3
SphereFaceR(version=2.0)
    TypeError: version must be an integer; got 2.0
SphereFaceR(version=True)
    TypeError: version must be an integer; got True
SphereFaceR(version="v1")
    TypeError: version must be an integer; got 'v1'
SphereFaceR(s=0)
    ValueError: s must be a finite number > 0; got 0.0
SphereFaceR(gradient="none")
    ValueError: gradient must be one of 'exact', 'detached'; got 'none'
CircleLoss(m=-0.1)
    ValueError: m must be a finite number >= 0 and <= 1; got -0.1
CircleLoss(m=1.5)
    ValueError: m must be a finite number >= 0 and <= 1; got 1.5
CircleLoss(m=None)
    TypeError: m must be a number; got None
CircleLoss(s=-256)
    ValueError: s must be a finite number > 0; got -256.0
InterTopK(m=-0.2)
    ValueError: m must be a finite number >= 0 and <= 3.141592653589793; got -0.2
InterTopK(m=28.6)
    ValueError: m must be a finite number >= 0 and <= 3.141592653589793; got 28.6 (radians: 28.6 degrees are 0.5)
InterTopK(penalty=-0.1)
    ValueError: penalty must be a finite number >= 0 and <= 3.141592653589793; got -0.1
InterTopK(penalty=3.4)
    ValueError: penalty must be a finite number >= 0 and <= 3.141592653589793; got 3.4 (radians: 28.6 degrees are 0.5)
InterTopK(penalty=None)
    TypeError: penalty must be a number; got None
InterTopK(k=0)
    ValueError: k must be 1 or more; got 0
InterTopK(k=2.5)
    TypeError: k must be an integer; got 2.5
InterTopK(k=True)
    TypeError: k must be an integer; got True
InterTopK(k=None)
    TypeError: k must be an integer; got None
InterTopK(k=2**64)
    ValueError: k must be an integer that int64 can hold; got 18446744073709551616
InterTopK(boundary="conditional")
    ValueError: boundary must be one of 'none', 'hard', 'easy', 'keep', 'continuous', 'monotone', 'clamp', 'min';
    got 'conditional'
InterTopK(s=0)
    ValueError: s must be a finite number > 0; got 0.0
SphereFace2(m=-0.1)
    ValueError: m must be a finite number >= 0 and <= 2; got -0.1
SphereFace2(m=2.5)
    ValueError: m must be a finite number >= 0 and <= 2; got 2.5
SphereFace2(s=0)
    ValueError: s must be a finite number > 0; got 0.0
SphereFace2(s=None)
    TypeError: s must be a number; got None
SphereFace2(t=0)
    ValueError: t must be 1 or more; got 0
SphereFace2(t=31)
    ValueError: t must be a whole number from 1 to 30; got 31
SphereFace2(t=3.0)
    TypeError: t must be an integer; got 3.0
SphereFace2(t=True)
    TypeError: t must be an integer; got True
SphereFace2(alpha=-0.1)
    ValueError: alpha must be a finite number >= 0 and <= 1; got -0.1
SphereFace2(alpha=1.1)
    ValueError: alpha must be a finite number >= 0 and <= 1; got 1.1
SphereFace2(weight=0)
    ValueError: weight must be a finite number > 0; got 0.0
SphereFace2(weight=INF)
    ValueError: weight must be a finite number > 0; got inf
SphereFace2(gradient="none")
    ValueError: gradient must be one of 'exact', 'detached'; got 'none'
SphereFace2(ignore_index=1.0)
    TypeError: ignore_index must be an integer; got 1.0
UniFace(m=2.1)
    ValueError: m must be a finite number >= 0 and <= 2; got 2.1
UniFace(s=-64)
    ValueError: s must be a finite number > 0; got -64.0
UniFace(s=None)
    TypeError: s must be a number; got None
UniFace(l=-1)
    ValueError: l must be a finite number >= 0; got -1.0
UniFace(l="1")
    TypeError: l must be a number; got '1'
UniFace(gradient=None)
    ValueError: gradient must be one of 'exact', 'detached'; got None
UniFace(ignore_index="none")
    TypeError: ignore_index must be an integer; got 'none'
SigLIP(reduction="avg")
    ValueError: reduction must be one of 'mean', 'sum', 'none'; got 'avg'
InfoNCE(ways=3)
    ValueError: ways must be 1 or 2; got 3
InfoNCE(ways=1.0)
    TypeError: ways must be an integer; got 1.0
InfoNCE(ways=True)
    TypeError: ways must be an integer; got True
Triplet(m=-0.2)
    ValueError: m must be a finite number >= 0; got -0.2
Triplet(m=INF)
    ValueError: m must be a finite number >= 0; got inf
Triplet(squared=1)
    TypeError: squared must be True or False; got 1
KLDivergence(form="backward")
    ValueError: form must be one of 'forward', 'reverse', 'jensen-shannon'; got 'backward'
KLDivergence(form=True)
    ValueError: form must be one of 'forward', 'reverse', 'jensen-shannon'; got True
CrossEntropy(label_smoothing=1.1)
    ValueError: label_smoothing must be a finite number >= 0 and <= 1; got 1.1
ArcFace(label_smoothing=-0.1)
    ValueError: label_smoothing must be a finite number >= 0 and <= 1; got -0.1
SoftmaxLoss(label_smoothing=NAN)
    ValueError: label_smoothing must be a finite number >= 0 and <= 1; got nan
CrossEntropy(reduction="avg")
    ValueError: reduction must be one of 'mean', 'sum', 'none'; got 'avg'
Triplet(reduction=None)
    ValueError: reduction must be one of 'mean', 'sum', 'none'; got None
ArcFace(reduction=np.array(["sum", "none"]))
    ValueError: reduction must be one of 'mean', 'sum', 'none'; got array(['sum', 'none'], dtype='<U4')
ArcFace(gradient="stop")
    ValueError: gradient must be one of 'exact', 'detached'; got 'stop'
CrossEntropy(ignore_index=-100.0)
    TypeError: ignore_index must be an integer; got -100.0
ArcFace(ignore_index=True)
    TypeError: ignore_index must be an integer; got True
ArcFace(ignore_index=2**63)
    ValueError: ignore_index must be an integer that int64 can hold; got 9223372036854775808
CrossEntropy(ignore_index=-(2**63) - 1)
    ValueError: ignore_index must be an integer that int64 can hold; got -9223372036854775809
CrossEntropy(class_weight=2.0)
    ValueError: class_weight must be one number a class, shape (C,); got shape ()
CrossEntropy(class_weight=[])
    ValueError: class_weight must be one number a class, shape (C,); got shape (0,)
ArcFace(class_weight=[1.0, INF])
    ValueError: class_weight must be finite; got inf at class_weight[1]
ArcFace(class_weight={0: 1.0})
    TypeError: class_weight must hold real numbers that float64 can hold; got dict of dtype object

ArcFace(boundary="soft")
    ValueError: boundary must be one of 'none', 'hard', 'easy', 'keep', 'continuous', 'monotone', 'clamp', 'min';
    got 'soft'
CosFace(boundary="easy")
    ValueError: boundary must be one of 'none', 'conditional'; got 'easy'
ASoftmax(boundary="keep")
    ValueError: boundary must be one of 'monotone', 'none'; got 'keep'
ArcFace(m=0, boundary="hard")
    ValueError: boundary='hard' acts past m1 theta + m2 = pi, which m1=1, m2=0, m3=0 never reach
CombinedMargin(m2=0, boundary="easy")
    ValueError: boundary='easy' switches off a margin on the angle, and m1=1, m2=0, m3=0.2 have none
ArcFace(boundary="conditional")
    ValueError: boundary must be one of 'none', 'hard', 'easy', 'keep', 'continuous', 'monotone', 'clamp', 'min';
    got 'conditional'
CosFace(m=0, boundary="conditional")
    ValueError: boundary='conditional' switches off the margin m3 on the cosine, and m1=1, m2=0, m3=0 have none
ArcFace(m=0, boundary="min")
    ValueError: boundary='min' acts where cos(theta + m2) - m3 > cos(theta), which m1=1, m2=0, m3=0 never reach
CombinedMargin(m2=0.3, m3=0.045, boundary="min")
    ValueError: boundary='min' acts where cos(theta + m2) - m3 > cos(theta), which m1=1, m2=0.3, m3=0.045 never reach
CrossEntropy(logit_scale=0)
    ValueError: logit_scale must be a finite number > 0; got 0.0
CrossEntropy(softcap=-30.0)
    ValueError: softcap must be a finite number > 0; got -30.0
SoftmaxLoss(softcap=INF)
    ValueError: softcap must be a finite number > 0; got inf
SoftmaxLoss(logit_scale=None)
    TypeError: logit_scale must be a number; got None
CrossEntropy(z_loss=-1e-4)
    ValueError: z_loss must be a finite number >= 0; got -0.0001
CrossEntropy(z_loss=NAN)
    ValueError: z_loss must be a finite number >= 0; got nan

ArcFace()(1.0, W, Y)
    ValueError: x must have shape (N, D); got shape ()
ArcFace()(X[0], W, Y)
    ValueError: x must have shape (N, D); got shape (3,)
SoftmaxLoss()(X[None], W, Y)
    ValueError: x must have shape (N, D); got shape (1, 5, 3)
ArcFace()([], W, Y)
    ValueError: x must have shape (N, D); got shape (0,)
ArcFace()(X, W[0], Y)
    ValueError: w must have shape (C, D); got shape (3,)
ArcFace()(X, W.T, Y)
    ValueError: w must have shape (C, 3), a class a row, to go with x of shape (5, 3); got shape (3, 4);
    did you mean w.T?
SoftmaxLoss()(X, W[:, :2], Y)
    ValueError: w must have shape (C, 3), a class a row, to go with x of shape (5, 3); got shape (4, 2)
ArcFace()(X[:0], W, Y[:0])
    ValueError: x holds no sample: an empty batch has no loss; got shape (0, 3)
ArcFace()([[]], W[:, :0], [0])
    ValueError: x and w need at least one dimension and one class; got shapes (1, 0) and (4, 0)
SoftmaxLoss()(X, W[:0], Y)
    ValueError: x and w need at least one dimension and one class; got shapes (5, 3) and (0, 3)
SoftmaxLoss()(X, W, Y, B[:3])
    ValueError: b must have shape (4,), one bias a class; got shape (3,)
SoftmaxLoss()(X, W, Y, B[:, None])
    ValueError: b must have shape (4,), one bias a class; got shape (4, 1)
CrossEntropy()(1.0, 0)
    ValueError: z must have shape (..., C) with at least one class; got shape ()
CrossEntropy()(Z[:, :0], Y)
    ValueError: z must have shape (..., C) with at least one class; got shape (5, 0)
CrossEntropy()(Z[:0], Y[:0])
    ValueError: z holds no sample: an empty batch has no loss; got shape (0, 4)
KLDivergence()(1.0, 1.0)
    ValueError: z must have shape (..., C) with at least one class; got shape ()
KLDivergence()(Z[:, :0], Z[:, :0])
    ValueError: z must have shape (..., C) with at least one class; got shape (5, 0)
KLDivergence()(Z[:0], Z[:0])
    ValueError: z holds no sample: an empty batch has no loss; got shape (0, 4)
KLDivergence()(Z, Z[:4])
    ValueError: target must be logits of the shape of z, (5, 4); got shape (4, 4)
KLDivergence()(Z, Y)
    ValueError: target must be logits of the shape of z, (5, 4); got shape (5,)
KLDivergence()(Z, Z + 0j)
    TypeError: target must hold real numbers that float64 can hold; got ndarray of dtype complex128
Triplet()(X[0], X, X)
    ValueError: anchor must have shape (N, D); got shape (3,)
Triplet()(X, X[:4], X)
    ValueError: positive must have the shape of anchor, (5, 3); got shape (4, 3)
Triplet()(X, X, X[:1])
    ValueError: negative must have the shape of anchor, (5, 3); got shape (1, 3)
Triplet()(X[:0], X, X)
    ValueError: anchor holds no sample: an empty batch has no loss; got shape (0, 3)
Triplet()(X[:, :0], X, X)
    ValueError: anchor needs at least one dimension; got shape (5, 0)
ArcFace(class_weight=[1, 1, 1])(X, W, Y)
    ValueError: class_weight must have one number for each of 4 classes; got 3
CrossEntropy(class_weight=[1, 1, 1])(Z, Y)
    ValueError: class_weight must have one number for each of 4 classes; got 3

SubCenterArcFace()(X, W, Y)
    ValueError: w must have shape (C, 3, D), 3 centers a class; got shape (4, 3)
SubCenterArcFace(centers=2)(X, CENTERS, Y)
    ValueError: w must have shape (C, 2, D), 2 centers a class; got shape (4, 3, 3)
SubCenterArcFace()(X, CENTERS[..., :2], Y)
    ValueError: w must have shape (C, 3, 3), to go with x of shape (5, 3); got shape (4, 3, 2)
SubCenterArcFace()(X[:, :2], CENTERS[:2], Y)
    ValueError: w must have shape (C, 3, 2), to go with x of shape (5, 2); got shape (2, 3, 3)
SubCenterArcFace()(X, CENTERS[:0], Y)
    ValueError: x and w need at least one dimension and one class; got shapes (5, 3) and (0, 3, 3)
SubCenterArcFace()(X[:0], CENTERS, Y[:0])
    ValueError: x holds no sample: an empty batch has no loss; got shape (0, 3)
SubCenterArcFace(class_weight=[1] * 12)(X, CENTERS, Y)
    ValueError: class_weight must have one number for each of 4 classes; got 12
SubCenterArcFace()(X, CENTERS, at(Y, 1, 4))
    ValueError: y must be labels from 0 to 3, or ignore_index=-100; got 4 at y[1]
ArcFace()(X, CENTERS, Y)
    ValueError: w must have shape (C, D); got shape (4, 3, 3)
SubCenterArcFace()(X, at(CENTERS, (2, 1), 0.0), Y)
    ValueError: w must have no zero vector, whose direction is undefined; got zeros in w[2, 1]
SubCenterArcFace()(X, at(CENTERS, ([2, 3], 1, 2), NAN), Y)
    ValueError: w must be finite; got nan at w[2, 1, 2]

ArcFace()(X, W, Y[:4])
    ValueError: y must be integer labels of shape (5,); got dtype int64 and shape (4,)
ArcFace()(X, W, Y[:, None])
    ValueError: y must be integer labels of shape (5,); got dtype int64 and shape (5, 1)
ArcFace()(X, W, np.int64(0))
    ValueError: y must be integer labels of shape (5,); got dtype int64 and shape ()
ArcFace()(X, W, [])
    TypeError: y must be integer labels of shape (5,); got dtype float64 and shape (0,)
ArcFace()(X, W, Y * 1.0)
    TypeError: y must be integer labels of shape (5,); got dtype float64 and shape (5,)
ArcFace()(X, W, Y == 0)
    TypeError: y must be integer labels of shape (5,); got dtype bool and shape (5,)
ArcFace()(X, W, list("abcde"))
    TypeError: y must be integer labels of shape (5,); got dtype <U1 and shape (5,)
ArcFace()(X, W, [2**70] * 5)
    TypeError: y must be integer labels of shape (5,); got dtype object and shape (5,)
ArcFace()(X, W, P)
    TypeError: y must be integer labels of shape (5,); got dtype float64 and shape (5, 4)
ArcFace()(X, W, at(Y, 3, -1))
    ValueError: y must be labels from 0 to 3, or ignore_index=-100; got -1 at y[3]
SoftmaxLoss()(X, W, at(Y, [2, 4], 4))
    ValueError: y must be labels from 0 to 3, or ignore_index=-100; got 4 at y[2]
CosFace()(X, W, at(Y.astype(np.uint64), 0, 2**64 - 100))
    ValueError: y must be labels from 0 to 3, or ignore_index=-100; got 18446744073709551516 at y[0]
CrossEntropy()(np.zeros((2, 3, 4)), [[0, 1, 2], [3, 4, 5]])
    ValueError: y must be labels from 0 to 3, or ignore_index=-100; got 4 at y[1, 1]
CrossEntropy(ignore_index=7)(Z[0], 4)
    ValueError: y must be labels from 0 to 3, or ignore_index=7; got 4
CrossEntropy()(Z, Y * 1.0)
    TypeError: y must be integer labels of shape (5,), or float probabilities of shape (5, 4);
    got dtype float64 and shape (5,)
CrossEntropy()(Z, P[:, :3])
    TypeError: y must be integer labels of shape (5,), or float probabilities of shape (5, 4);
    got dtype float64 and shape (5, 3)
CrossEntropy()(Z, P.astype(np.int64))
    ValueError: y must be integer labels of shape (5,), or float probabilities of shape (5, 4);
    got dtype int64 and shape (5, 4)
CrossEntropy()(Z, P > 1)
    TypeError: y must hold real numbers that float64 can hold; got ndarray of dtype bool
CrossEntropy()(Z, at(P, (4, 0), NAN))
    ValueError: y must be finite; got nan at y[4, 0]
CrossEntropy()(Z, at(P, (4, 0), INF))
    ValueError: y must be finite; got inf at y[4, 0]
SoftmaxLoss()(X, W, P[:4])
    TypeError: y must be integer labels of shape (5,), or float probabilities of shape (5, 4);
    got dtype float64 and shape (4, 4)
SoftmaxLoss()(X, W, P.T)
    TypeError: y must be integer labels of shape (5,), or float probabilities of shape (5, 4);
    got dtype float64 and shape (4, 5)
SoftmaxLoss()(X, W, P.astype(np.int64))
    ValueError: y must be integer labels of shape (5,), or float probabilities of shape (5, 4);
    got dtype int64 and shape (5, 4)
SoftmaxLoss()(X, W, P > 1)
    TypeError: y must hold real numbers that float64 can hold; got ndarray of dtype bool
SoftmaxLoss()(X, W, at(P, (4, 0), NAN))
    ValueError: y must be finite; got nan at y[4, 0]

CrossEntropy().value_and_grad(Z, Y, upstream_lse=1.0)
    ValueError: upstream_lse must have shape (5,), one number per sample; got shape ()
CrossEntropy().value_and_grad(Z, Y, upstream_lse=np.ones(4))
    ValueError: upstream_lse must have shape (5,), one number per sample; got shape (4,)
CrossEntropy().trace(Z, Y, upstream_lse=np.ones((5, 1)))
    ValueError: upstream_lse must have shape (5,), one number per sample; got shape (5, 1)
CrossEntropy().value_and_grad(np.zeros((2, 3, 4)), [[0, 1, 2], [3, 0, 1]], upstream_lse=np.ones(6))
    ValueError: upstream_lse must have shape (2, 3), one number per sample; got shape (6,)
SoftmaxLoss().value_and_grad(X, W, Y, upstream_lse=at(np.ones(5), 3, NAN))
    ValueError: upstream_lse must be finite; got nan at upstream_lse[3]
SoftmaxLoss().trace(X, W, P, upstream_lse=at(np.ones(5), 0, INF))
    ValueError: upstream_lse must be finite; got inf at upstream_lse[0]
SoftmaxLoss().value_and_grad(X, W, Y, upstream_lse=list("abcde"))
    TypeError: upstream_lse must hold real numbers that float64 can hold; got list of dtype <U1
refloss.error_bound(ArcFace(), X, W, Y, upstream_lse=np.ones(5))
    ValueError: upstream_lse goes with a loss on logits, CrossEntropy or SoftmaxLoss, alone
refloss.error_bound(Triplet(), X, X, X + 1.0, upstream_lse=np.ones(5))
    ValueError: upstream_lse goes with a loss on logits, CrossEntropy or SoftmaxLoss, alone
refloss.error_bound(KLDivergence(), Z, Z, upstream_lse=np.ones(5))
    ValueError: upstream_lse goes with a loss on logits, CrossEntropy or SoftmaxLoss, alone

ArcFace()(at(X, [2, 4], 0.0), W, Y)
    ValueError: x must have no zero vector, whose direction is undefined; got zeros in x[2]
ModifiedSoftmax()(X, at(W, 3, -0.0), Y)
    ValueError: w must have no zero vector, whose direction is undefined; got zeros in w[3]
ArcFace()(at(X, (1, 2), NAN), W, Y)
    ValueError: x must be finite; got nan at x[1, 2]
SoftmaxLoss()(at(X, ([1, 4], 0), -INF), W, Y)
    ValueError: x must be finite; got -inf at x[1, 0]
ArcFace()(at(X, ([0, 1], 0), NAN), W, at(Y, 0, -100))
    ValueError: x must be finite; got nan at x[1, 0]
ArcFace()(X, at(W, (3, 1), INF), Y)
    ValueError: w must be finite; got inf at w[3, 1]
SoftmaxLoss()(X, W, Y, at(B, 2, NAN))
    ValueError: b must be finite; got nan at b[2]
Triplet()(at(X, (0, 1), NAN), X, X)
    ValueError: anchor must be finite; got nan at anchor[0, 1]
Triplet()(X, X, at(X, (4, 2), INF))
    ValueError: negative must be finite; got inf at negative[4, 2]
SoftmaxLoss()(at(X, (2, 0), 1e200), at(W, (3, 0), -1e200), at(Y, 0, -100))
    ValueError: x and w must have logits that float64 can hold, below 1.8e308;
    got more for class 3 and sample 1 of those not ignored
ModifiedSoftmax()([[1.7e308, 1.7e308]], [[1, 1]], [0])
    ValueError: x and w must have logits that float64 can hold, below 1.8e308;
    got more for class 0 and sample 0 of those not ignored

ArcFace()(None, W, Y)
    TypeError: x must hold real numbers that float64 can hold; got NoneType of dtype object
ArcFace()(X + 0j, W, Y)
    TypeError: x must hold real numbers that float64 can hold; got ndarray of dtype complex128
ArcFace()(X.astype(object), W, Y)
    TypeError: x must hold real numbers that float64 can hold; got ndarray of dtype object
ArcFace()([["1", "2"]], W, Y)
    TypeError: x must hold real numbers that float64 can hold; got list of dtype <U1
ArcFace()(X, W > 0, Y)
    TypeError: w must hold real numbers that float64 can hold; got ndarray of dtype bool
ArcFace()(X, (row for row in W), Y)
    TypeError: w must hold real numbers that float64 can hold; got generator of dtype object
SoftmaxLoss()(X, W, Y, [10**400] * 4)
    TypeError: b must hold real numbers that float64 can hold; got list of dtype object
CrossEntropy()([0, 2**53 + 1], 0)
    ValueError: z must hold integers up to 2^53, exact in float64; got 9007199254740993 at z[1]
CrossEntropy()(at(Z.astype(np.int64), (2, 0), -(2**53) - 1), Y)
    ValueError: z must hold integers up to 2^53, exact in float64; got -9007199254740993 at z[2, 0]
ArcFace()(OnTheGpu(), W, Y)
    TypeError: x must be an array, or something that NumPy can make one of; got OnTheGpu: no implicit copies

ArcFace()(X, W, Y, engine="gpu")
    ValueError: engine must be one of 'auto', 'chain', 'fused', 'dd', 'certified'; got 'gpu'
ArcFace()(X, W, Y, engine=None)
    ValueError: engine must be one of 'auto', 'chain', 'fused', 'dd', 'certified'; got None
ArcFace()(X, W, Y, engine="chain", dtype=np.float32)
    ValueError: dtype must be float64, the only one engine='chain' computes in; got float32
ArcFace().value_and_grad(X, W, Y, engine="dd", dtype=np.float32)
    ValueError: dtype must be float64, the only one engine='dd' computes in; got float32
ArcFace()(X, W, Y, engine="fused", dtype=np.float16)
    ValueError: dtype must be float64 or float32, those engine='fused' computes in; got float16
CrossEntropy().value_and_grad(Z, Y, dtype=int)
    ValueError: dtype must be float64 or float32, those engine='auto' computes in; got int64
ArcFace()(X, W, Y, dtype="single precision")
    TypeError: dtype must be one of NumPy's; got 'single precision'

ArcFace()(X, W, Y, 0.5)
    ValueError: m must have shape (5,), one margin per sample; got shape ()
CosFace()(X, W, Y, M[:4])
    ValueError: m must have shape (5,), one margin per sample; got shape (4,)
CombinedMargin()(X, W, Y, M[:, None])
    ValueError: m must have shape (5,), one margin per sample; got shape (5, 1)
ArcFace()(X, W, Y, at(M, 2, -3.2))
    ValueError: m must be margins from -3.14159 to 3.14159; got -3.2 at m[2]
CombinedMargin().value_and_grad(X, W, Y, at(M, 4, NAN))
    ValueError: m must be margins from -3.14159 to 3.14159; got nan at m[4]
CosFace().trace(X, W, Y, at(M, 0, 2.5))
    ValueError: m must be margins from -2 to 2; got 2.5 at m[0]
ArcFace()(X, W, Y, ["a"] * 5)
    TypeError: m must hold real numbers that float64 can hold; got list of dtype <U1
ArcFace().value_and_grad(X, W, Y, wrt="m")
    ValueError: wrt must name inputs among 'x', 'w'; got 'm'
ArcFace().value_and_grad(X, W, Y, M, wrt="b")
    ValueError: wrt must name inputs among 'x', 'w', 'm'; got 'b'
ArcFace().value_and_grad(X, W, Y, M, out={"m": M})
    ValueError: out['m'] must not share memory with m, which stays as it is
AdaFace().updated(X[:1])
    ValueError: x must have at least 2 samples and one dimension; got shape (1, 3)
AdaFace().updated(X[0])
    ValueError: x must have shape (N, D); got shape (3,)
AdaFace().updated(at(X, 3, 0.0))
    ValueError: x must have no zero vector, whose direction is undefined; got zeros in x[3]
AdaFace().updated(at(X, (1, 2), INF))
    ValueError: x must be finite; got inf at x[1, 2]
CurricularFace().updated(X, W.T, Y)
    ValueError: w must have shape (C, 3), a class a row, to go with x of shape (5, 3); got shape (3, 4);
    did you mean w.T?
SphereFace2()(X, W, Y, B)
    ValueError: b must be one number; got shape (4,)
SphereFace2()(X, W, Y, [0.5])
    ValueError: b must be one number; got shape (1,)
UniFace()(X, W, Y, NAN)
    ValueError: b must be a finite number; got nan
UniFace()(X, W, Y, b="0.5")
    TypeError: b must hold real numbers that float64 can hold; got str of dtype <U3
UniFace()(X, 0 * W, Y)
    ValueError: w must have no zero vector, whose direction is undefined; got zeros in w[0]
SphereFace2()(at(X, (2, 1), NAN), W, Y)
    ValueError: x must be finite; got nan at x[2, 1]
SphereFace2()(X, W, Y + 1)
    ValueError: y must be labels from 0 to 3, or ignore_index=-100; got 4 at y[3]
UniFace(ignore_index=None)(X, W, Y - 1)
    ValueError: y must be labels from 0 to 3; got -1 at y[0]
SphereFace2()(X, W, P)
    TypeError: y must be integer labels of shape (5,); got dtype float64 and shape (5, 4)
SigLIP()(X, W, 10.0, -10.0)
    ValueError: w must have the shape of x, (5, 3); got shape (4, 3)
SigLIP()(X, X[0], 10.0, -10.0)
    ValueError: w must have shape (N, D); got shape (3,)
SigLIP()(X, X, 0.0, -10.0)
    ValueError: t must be a finite number above 0; got 0.0
SigLIP()(X, X, -10.0, -10.0)
    ValueError: t must be a finite number above 0; got -10.0
SigLIP()(X, X, [10.0], -10.0)
    ValueError: t must be one number; got shape (1,)
SigLIP()(X, X, 10.0, INF)
    ValueError: b must be a finite number; got inf
SigLIP()(X, X, 10.0, None)
    TypeError: b must hold real numbers that float64 can hold; got NoneType of dtype object
SigLIP()(X, at(X, 3, 0.0), 10.0, -10.0)
    ValueError: w must have no zero vector, whose direction is undefined; got zeros in w[3]
InfoNCE()(X, X, None)
    TypeError: s must hold real numbers that float64 can hold; got NoneType of dtype object
InfoNCE()(X, X, NAN)
    ValueError: s must be a finite number above 0; got nan
InfoNCE()(X, X, B)
    ValueError: s must be one number; got shape (4,)
InfoNCE()(X, X[:, :2], 20.0)
    ValueError: w must have the shape of x, (5, 3); got shape (5, 2)
InfoNCE()(X[:0], X[:0], 20.0)
    ValueError: x holds no sample: an empty batch has no loss; got shape (0, 3)
SphereFace2().value_and_grad(X, W, Y, wrt="b")
    ValueError: wrt must name inputs among 'x', 'w'; got 'b'
UniFace().value_and_grad(X, W, Y, 0.5, wrt="t")
    ValueError: wrt must name inputs among 'x', 'w', 'b'; got 't'
SigLIP().value_and_grad(X, X, 10.0, -10.0, wrt="y")
    ValueError: wrt must name inputs among 'x', 'w', 't', 'b'; got 'y'
InfoNCE().value_and_grad(X, X, 20.0, wrt="t")
    ValueError: wrt must name inputs among 'x', 'w', 's'; got 't'
SphereFace2().value_and_grad(X, W, Y, out={"b": np.empty(())})
    ValueError: out must name inputs among 'x', 'w'; got 'b'
SigLIP().value_and_grad(X, X, 10.0, -10.0, out={"t": np.empty(1)})
    ValueError: out['t'] must be a writable float64 array of shape (); got a float64 array of shape (1,)
SigLIP().value_and_grad(X, X, T, -10.0, out={"t": T})
    ValueError: out['t'] must not share memory with t, which stays as it is
InfoNCE().value_and_grad(X, X, 20.0, out={"s": 0.0})
    TypeError: out['s'] must be a writable float64 array of shape (); got float
CurricularFace().updated(X, W, Y + 1)
    ValueError: y must be labels from 0 to 3, or ignore_index=-100; got 4 at y[3]
MagFace().target_logit(0.5, [20.0, 0.0])
    ValueError: length must be finite and above 0; got 0.0 at length[1]
AdaFace().target_slope(0.5, INF)
    ValueError: length must be finite and above 0; got inf
AdaFace().target_logit(0.5)
    TypeError: length must be lengths of embeddings, since the margin depends on them; got None
AdaFace().target_logit(0.5, "long")
    TypeError: length must hold real numbers that float64 can hold; got str of dtype <U4
CircleLoss().target_logit(4.0)
    ValueError: theta must be in radians, from 0 to pi; got 4.0
InterTopK().target_slope(-0.1)
    ValueError: theta must be in radians, from 0 to pi; got -0.1
AdaFace().target_logit(4.0, 20.0)
    ValueError: theta must be in radians, from 0 to pi; got 4.0
ArcFace().value_and_grad(X, W, Y, wrt="b")
    ValueError: wrt must name inputs among 'x', 'w'; got 'b'
SoftmaxLoss().value_and_grad(X, W, Y, wrt=("x", "b"))
    ValueError: wrt must name inputs among 'x', 'w'; got 'b'
SoftmaxLoss().value_and_grad(X, W, Y, B, wrt="xw")
    ValueError: wrt must name inputs among 'x', 'w', 'b'; got 'xw'
CrossEntropy().value_and_grad(Z, Y, wrt=["z", 0])
    ValueError: wrt must name inputs among 'z'; got 0
CrossEntropy().value_and_grad(Z, P, wrt="y")
    ValueError: wrt must name inputs among 'z'; got 'y'
KLDivergence().value_and_grad(Z, Z, wrt="y")
    ValueError: wrt must name inputs among 'z', 'target'; got 'y'
Triplet().value_and_grad(X, X, X, wrt="x")
    ValueError: wrt must name inputs among 'anchor', 'positive', 'negative'; got 'x'
ArcFace().value_and_grad(X, W, Y, wrt=3)
    TypeError: wrt must be a name of an input, or a tuple of names; got 3
ArcFace()(X, W, Y, dtype=">f8")
    ValueError: dtype must be float64 or float32, those engine='auto' computes in; got >f8
ArcFace().value_and_grad(X, W, Y, wrt="x", out={"w": W.copy()})
    ValueError: out must name inputs that wrt names; got 'w'
ArcFace().value_and_grad(X, W, Y, out={"w": W})
    ValueError: out['w'] must not share memory with w, which stays as it is
ArcFace().value_and_grad(X, W, Y, out={"w": np.ma.array(W.copy())})
    TypeError: out['w'] must be a writable float64 array of shape (4, 3); got MaskedArray
ArcFace().value_and_grad(X, W, Y, out=W)
    TypeError: out must map names of inputs to arrays; got ndarray
ArcFace().value_and_grad(X, W, Y, out={"dw": W.copy()})
    ValueError: out must name inputs among 'x', 'w'; got 'dw'
SoftmaxLoss().value_and_grad(X, W, Y, out={"b": B.copy()})
    ValueError: out must name inputs among 'x', 'w'; got 'b'
ArcFace().value_and_grad(X, W, Y, out={"w": W.tolist()})
    TypeError: out['w'] must be a writable float64 array of shape (4, 3); got list
ArcFace().value_and_grad(X, W, Y, out={"x": X.copy(), "w": W.T.copy()})
    ValueError: out['w'] must be a writable float64 array of shape (4, 3); got a float64 array of shape (3, 4)
ArcFace().value_and_grad(X, W, Y, out={"w": W.astype(np.float32)})
    ValueError: out['w'] must be a writable float64 array of shape (4, 3); got a float32 array of shape (4, 3)
ArcFace().value_and_grad(X, W, Y, dtype=np.float32, out={"w": W.copy()})
    ValueError: out['w'] must be a writable float32 array of shape (4, 3); got a float64 array of shape (4, 3)
ArcFace().value_and_grad(X, W, Y, out={"w": read_only(W)})
    ValueError: out['w'] must be a writable float64 array of shape (4, 3);
    got a read-only float64 array of shape (4, 3)
CrossEntropy().value_and_grad(np.zeros((2, 3, 4)), [[0, 1, 2], [3, 0, 1]], out={"z": np.zeros((6, 4))})
    ValueError: out['z'] must be a writable float64 array of shape (2, 3, 4); got a float64 array of shape (6, 4)

refloss.softmax(1.0)
    ValueError: axis must be one of the 0 axes of z; got -1
refloss.log_softmax(Z, axis=2)
    ValueError: axis must be one of the 2 axes of z; got 2
refloss.logsumexp(Z, axis=-3)
    ValueError: axis must be one of the 2 axes of z; got -3
refloss.softmax(Z, axis=None)
    TypeError: axis must be an integer; got None
refloss.softmax(Z, axis=True)
    TypeError: axis must be an integer; got True
refloss.logsumexp(Z[:, :0])
    ValueError: z must have at least one class along axis -1; got shape (5, 0)
ArcFace().target_logit([0.1, 4.0])
    ValueError: theta must be in radians, from 0 to pi; got 4.0 at theta[1]
ArcFace().target_slope(-0.1)
    ValueError: theta must be in radians, from 0 to pi; got -0.1
ArcFace().target_slope(NAN)
    ValueError: theta must be in radians, from 0 to pi; got nan
"""
CASES = [case.split("\n", 1) for case in re.split(r"\n+(?! )", REFUSED.strip())]


@pytest.mark.parametrize(("call", "answer"), CASES, ids=[call for call, _ in CASES])
def test_what_cannot_be_is_refused_by_name(call: str, answer: str) -> None:
    error, message = " ".join(answer.split()).split(": ", 1)
    refused(lambda: eval(call, globals()), getattr(builtins, error), message)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_way_to_call_a_loss_looks_at_its_inputs(loss: type) -> None:
    name = next(iter(FLOATS[loss]))
    arguments = of(loss, **{name: None})
    for call in (loss(), loss().value_and_grad, loss().trace):
        with pytest.raises(TypeError, match=f"^{name} must hold real numbers"):
            call(**arguments)


@pytest.mark.skipif(np.finfo(np.longdouble).bits == 64, reason="long double is float64 on this machine")
def test_long_double_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^x must hold real numbers that float64 can hold; got ndarray of dtype"):
        ArcFace()(X.astype(np.longdouble), W, Y)


@pytest.mark.parametrize(
    ("reduction", "upstream", "message"),
    [
        ("mean", np.ones(5), "upstream must have shape () for reduction='mean'; got shape (5,)"),
        ("sum", [1.0], "upstream must have shape () for reduction='sum'; got shape (1,)"),
        ("none", 1.0, "upstream must have shape (5,) for reduction='none'; got shape ()"),
        ("none", np.ones((5, 1)), "upstream must have shape (5,) for reduction='none'; got shape (5, 1)"),
        ("mean", NAN, "upstream must be finite; got nan"),
        ("none", [1, 1, 1, INF, 1], "upstream must be finite; got inf at upstream[3]"),
    ],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_upstream_has_the_shape_of_the_value(loss: type, reduction: str, upstream: Any, message: str) -> None:
    for call in (loss(reduction=reduction).value_and_grad, loss(reduction=reduction).trace):
        refused(lambda call=call: call(**of(loss, upstream=upstream)), ValueError, message)


def test_a_ragged_list_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^x must be an array, or .*; got list: .*inhomogeneous"):
        ArcFace()([[1.0, 2.0, 3.0], [1.0]], W, Y)
    with pytest.raises(ValueError, match=r"^y must be an array, or .*; got tuple: .*inhomogeneous"):
        ArcFace()(X, W, (0, [1]))


@pytest.mark.parametrize("name", ["x", "w", "y", "b"])
def test_masked_entries_are_not_unmasked(name: str) -> None:
    arguments = of(SoftmaxLoss)
    masked = np.ma.masked_array(arguments[name], mask=np.zeros(arguments[name].shape, np.bool_))
    assert bits(answers(SoftmaxLoss(), arguments | {name: masked})) == bits(answers(SoftmaxLoss(), arguments))
    masked[0] = np.ma.masked
    message = f"{name} must have no masked entries; say what they are with .filled(...), or leave them out"
    for value in (masked, list(masked), tuple(masked)):
        refused(lambda value=value: SoftmaxLoss()(**arguments | {name: value}), ValueError, message)


def test_culprits_are_looked_for_only_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: Any) -> str:
        pytest.fail("searched valid input")

    monkeypatch.setattr(inputs, "_first_bad", search)
    for loss in LOSSES:
        answers(loss(), of(loss))


# ------------------------------------------------------------------------------------------------------- what a loss is


@pytest.mark.parametrize("rule", ["hard", "keep", "continuous", "monotone", "clamp"])
@pytest.mark.parametrize(("m1", "m2"), [(1.0, 0.0), (0.75, math.pi / 4), (0.5, math.pi / 2)])
def test_a_rule_past_pi_must_be_in_reach(rule: str, m1: float, m2: float) -> None:
    message = f"boundary='{rule}' acts past m1 theta + m2 = pi, which m1={m1:g}, m2={m2:g}, m3=0.1 never reach"
    refused(lambda: CombinedMargin(m1=m1, m2=m2, m3=0.1, boundary=rule), ValueError, message)
    CombinedMargin(m1=m1, m2=math.nextafter(m2, 4.0), boundary=rule)


def test_rules_that_can_act_are_taken() -> None:
    for rule in ("hard", "easy", "keep", "continuous", "monotone", "clamp", "min"):
        ArcFace(m=1e-9, boundary=rule)
        CombinedMargin(m1=1.5, m2=0.0, boundary=rule)
    CombinedMargin(m1=0.5, m2=0.0, boundary="easy")
    CombinedMargin(m2=0.3, m3=0.04, boundary="min")
    CosFace(boundary="conditional")
    ASoftmax(m=1.0, boundary="monotone")  # the modified softmax


def test_the_ends_of_every_range_are_taken() -> None:
    CrossEntropy(label_smoothing=0, class_weight=[0.0], ignore_index=-(2**63))
    ArcFace(class_weight=[0.5, -0.5, 0.0])
    CrossEntropy(label_smoothing=1, ignore_index=2**63 - 1)
    ArcFace(s=5e-324, m=0)
    CombinedMargin(m1=30, m2=math.pi, m3=2)
    AdaFace(m=0, h=0, mean=0, std=0, momentum=0)
    AdaFace(m=1, h=1e6, mean=1e6, std=1e6, momentum=1, eps=1)
    MagFace(l_a=1e-6, u_a=1e6, l_m=0, u_m=math.pi, regularizer=0)
    CurricularFace(m=math.pi, t=-1, momentum=1)
    MVSoftmax(m=2, t=1e6)
    MVSoftmax(margin="arc", m=math.pi, t=0, boundary="none")
    SphereFaceR(m=1)
    SphereFaceR(m=30, version=np.int64(2), s=None)
    CircleLoss(m=0)
    CircleLoss(m=1)
    InterTopK(m=math.pi, penalty=math.pi, k=2**63 - 1)
    InterTopK(m=0, penalty=0, k=np.int32(1), boundary="none")
    SphereFace2(m=0, t=1, alpha=0, weight=5e-324)
    SphereFace2(m=2, t=np.int8(30), alpha=1, s=5e-324)
    UniFace(m=0, l=0)
    UniFace(m=2, l=1e300, ignore_index=None)
    InfoNCE(ways=np.int64(1))
    ASoftmax(m=1, annealing=0)
    Triplet(m=0)
    assert ArcFace(m=0).target_logit([0, math.pi]).tolist() == [1.0, -1.0]
    assert refloss.softmax([2**53, -(2**53)]).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_a_value(loss: type) -> None:
    summed = loss(reduction="sum")
    assert summed == loss(reduction="sum")
    assert summed != loss()
    assert hash(summed) == hash(loss(reduction="sum"))
    assert summed == eval(repr(summed), vars(refloss).copy())
    assert summed == pickle.loads(pickle.dumps(summed)) == dataclasses.replace(loss(), reduction="sum")
    assert "reduction" not in repr(loss())
    with pytest.raises(dataclasses.FrozenInstanceError):
        summed.reduction = "mean"
    with pytest.raises(TypeError, match="positional"):
        loss("sum")


def test_settings_are_kept_in_one_form() -> None:
    loss = ArcFace(s=np.float32(30), m=np.float16(0.5), class_weight=np.array([1, 2]), ignore_index=np.int8(-1))
    same = ArcFace(s=30, m=0.5, class_weight=[1.0, 2.0], ignore_index=-1)
    assert loss == same
    assert hash(loss) == hash(same)
    assert repr(loss) == "ArcFace(class_weight=(1.0, 2.0), ignore_index=-1, s=30.0, m=0.5, boundary='none')"
    assert eval(repr(loss), vars(refloss).copy()) == loss
    assert ArcFace() != CosFace()
    assert refloss.SphereFace is ASoftmax
    assert Triplet(squared=np.False_) == Triplet(squared=False)


# -------------------------------------------------------------------------------------------------------- what is taken


class Frame(NamedTuple):
    """What is no array but can be made one, as a pandas table can."""

    array: np.ndarray

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array


def torch_tensor(array: np.ndarray, dtype: str, **settings: Any) -> Any:
    torch = pytest.importorskip("torch")
    return torch.tensor(array.tolist(), dtype=getattr(torch, dtype), **settings)


def jax_array(array: np.ndarray, dtype: str) -> Any:
    return pytest.importorskip("jax.numpy").asarray(array, dtype=dtype)


def every_third(array: np.ndarray) -> np.ndarray:
    """Return a view into a larger array."""
    larger = np.full([3 * n for n in array.shape], 7, array.dtype)
    view = larger[(slice(1, None, 3),) * array.ndim]
    view[...] = array
    return view


def read_only(array: np.ndarray) -> np.ndarray:
    out = array.copy()
    out.flags.writeable = False
    return out


Form = Callable[[np.ndarray], Any]
LAYOUTS: dict[str, Form] = {
    "nested lists": np.ndarray.tolist,
    "tuples": lambda a: tuple(map(tuple, a.tolist())) if a.ndim > 1 else tuple(a.tolist()),
    "list of arrays": list,
    "strided": every_third,
    "reversed": lambda a: np.flip(np.flip(a).copy()),
    "Fortran order": np.asfortranarray,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "unaligned": lambda a: np.frombuffer(b"-" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
    "read-only": read_only,
    "masked array, nothing masked": np.ma.asarray,
    "__array__": Frame,
}
FLOATING: dict[str, Form] = {
    "float16": lambda a: a.astype(np.float16),
    "float32": lambda a: a.astype(np.float32),
    "bfloat16": lambda a: a.astype(ml_dtypes.bfloat16),
    "torch float16": lambda a: torch_tensor(a, "float16"),
    "torch bfloat16": lambda a: torch_tensor(a, "bfloat16"),
    "torch float32": lambda a: torch_tensor(a, "float32"),
    "torch float64": lambda a: torch_tensor(a, "float64"),
    "torch float64 with gradients": lambda a: torch_tensor(a, "float64", requires_grad=True),
    "torch bfloat16 with gradients": lambda a: torch_tensor(a, "bfloat16", requires_grad=True),
    "jax float32": lambda a: jax_array(a, "float32"),
    "jax bfloat16": lambda a: jax_array(a, "bfloat16"),
}
INTEGERS: dict[str, Form] = {
    "int8": lambda a: a.astype(np.int8),
    "big-endian int32": lambda a: a.astype(">i4"),
    "unsigned": lambda a: a.astype(np.uint64 if (a >= 0).all() else np.int64),
    "lists of integers": lambda a: a.astype(np.int64).tolist(),
    "torch int64": lambda a: torch_tensor(a, "int64"),
    "torch int16": lambda a: torch_tensor(a, "int16"),
    "jax int32": lambda a: jax_array(a, "int32"),
}


def bits_of(loss: Any, arguments: dict[str, Any]) -> list[tuple[tuple[int, ...], str, bytes]]:
    return bits(list(leaves(loss.value_and_grad(**arguments))))


@pytest.mark.parametrize("form", (every := LAYOUTS | FLOATING | INTEGERS).values(), ids=every)
@pytest.mark.parametrize(
    "loss", [CrossEntropy, SoftmaxLoss, ASoftmax, ArcFace, *QUESTIONS, *PAIRS, Triplet, KLDivergence]
)
def test_the_same_numbers_give_the_same_bits(loss: type, form: Form) -> None:
    of_axes = {LAYOUTS[name] for name in ("tuples", "list of arrays", "strided", "Fortran order")}
    arguments = {
        name: form(array) if array.ndim or form not in of_axes else array for name, array in FLOATS[loss].items()
    }
    assert bits_of(loss(reduction="none"), of(loss, **arguments)) == bits_of(loss(reduction="none"), of(loss))


@pytest.mark.parametrize("form", (every := LAYOUTS | INTEGERS).values(), ids=every)
@pytest.mark.parametrize("loss", [CrossEntropy, ArcFace])
def test_the_same_labels_give_the_same_bits(loss: type, form: Form) -> None:
    assert bits_of(loss(), of(loss, y=form(Y))) == bits_of(loss(), of(loss))


@pytest.mark.parametrize("kind", ["i2", "i4", "i8", "u2", "u4", "u8"])
def test_integers_of_the_other_byte_order_meet_bounds_they_cannot_hold(kind: str) -> None:
    """2^53 for inputs, an ignored label below 0 and 40,000 classes for labels: NumPy before 2.2 may crash on either."""
    labels, z = np.arange(1000) % 7, np.arange(7000).reshape(1000, 7) % 11
    swapped = np.dtype(kind).newbyteorder("S")
    loss = CrossEntropy(ignore_index=-3)
    assert bits_of(loss, {"z": z.astype(swapped), "y": labels.astype(swapped)}) == bits_of(loss, {"z": z, "y": labels})
    wide = np.zeros((50, 40000))
    assert bits_of(loss, {"z": wide, "y": labels[:50].astype(swapped)}) == bits_of(loss, {"z": wide, "y": labels[:50]})


@pytest.mark.parametrize("form", (every := LAYOUTS | FLOATING).values(), ids=every)
def test_the_same_probabilities_give_the_same_bits(form: Form) -> None:
    assert bits_of(CrossEntropy(), {"z": Z, "y": form(P)}) == bits_of(CrossEntropy(), {"z": Z, "y": P})


def test_memory_maps_give_the_same_bits(tmp_path: Path) -> None:
    for name, array in of(SoftmaxLoss).items():
        np.save(tmp_path / name, array)
    arguments = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in of(SoftmaxLoss)}
    assert bits_of(SoftmaxLoss(), arguments) == bits_of(SoftmaxLoss(), of(SoftmaxLoss))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float32])
def test_floats_are_converted_exactly(dtype: Any) -> None:
    """Subnormal, infinite and NaN ones too; the signaling NaNs among them raise no warning."""
    size = 8 * np.dtype(dtype).itemsize
    patterns = np.arange(0, 2**size, max(1, 2 ** (size - 16) - 1), dtype=f"u{size // 8}")  # all of them, up to 16 bits
    floats = patterns.view(dtype)
    np.testing.assert_array_equal(inputs.float64_array("x", floats), [float(value) for value in floats])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_inputs_are_never_written_to(loss: type, reduction: str) -> None:
    instance, arguments = loss(reduction=reduction), {name: array.copy() for name, array in of(loss).items()}
    upstream = np.full(5, 2.0) if reduction == "none" else np.array(2.0)
    before = bits([*arguments.values(), upstream])
    results = answers(instance, arguments, upstream=upstream)
    assert bits([*arguments.values(), upstream]) == before
    assert not any(np.shares_memory(result, array) for result in results for array in [*arguments.values(), upstream])
    locked = {name: read_only(array) for name, array in arguments.items()}
    assert bits(answers(instance, locked, upstream=read_only(upstream))) == bits(results)


# --------------------------------------------------------------------------------------------- out= shares no memory


class Interface:
    """An array-like with the interface's attribute alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.__array_interface__ = array, array.__array_interface__


class Converted:
    """An array-like that hands out the array it holds."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array


def tensor(array: np.ndarray) -> Any:
    torch = pytest.importorskip("torch")
    return torch.from_numpy(array).requires_grad_()


def half_tensor(array: np.ndarray) -> Any:
    """A tensor of bfloat16 of the same shape in the memory of an array of float64."""
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).reshape(-1)[: array.size].reshape(array.shape)
    return tensor.copy_(torch.arange(1.0, array.size + 1.0).reshape(tensor.shape))


def single(array: np.ndarray) -> np.ndarray:
    """An array of float32 of the same shape in the memory of an array of float64."""
    floats = array.view(np.float32).reshape(-1)[: array.size].reshape(array.shape)
    floats[...] = np.arange(1.0, array.size + 1.0).reshape(array.shape)
    return floats


SHARED: dict[str, Callable[[np.ndarray], Any]] = {
    "itself": lambda array: array,
    "reversed": lambda array: array[::-1],
    "turned": lambda array: array.reshape(array.shape[::-1]).T,
    "a matrix": lambda array: array.view(np.matrix),
    "float32": single,
    "a memoryview": memoryview,
    "an interface": Interface,
    "a conversion": Converted,
    "a list of rows": list,
    "a tuple of rows": lambda array: (*map(Interface, array[:-1]), array[-1].tolist()),
    "a tensor": tensor,
    "a tensor of bfloat16": half_tensor,
}

OF_ROWS = ("a matrix", "a list of rows", "a tuple of rows")


def memory(array: np.ndarray) -> np.ndarray:
    """An array of float64, in C order, with the same numbers."""
    return np.array(array, np.float64, order="C")


@pytest.mark.parametrize("shared", SHARED.values(), ids=SHARED)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_not_written_over_inputs(loss: type, shared: Callable[[np.ndarray], Any]) -> None:
    for name, array in FLOATS[loss].items():
        if array.ndim == 0 or (array.ndim == 1 and shared in map(SHARED.get, OF_ROWS)):
            continue
        if array.ndim == 3 and shared is SHARED["a matrix"]:
            continue
        room = memory(array)
        arguments = of(loss, **{name: shared(room)})
        before = room.tobytes()
        dtypes = (np.float64, np.float32) if shared is single else (np.float64,)
        for dtype in dtypes:
            into = room if dtype is np.float64 else arguments[name]
            message = f"out[{name!r}] must not share memory with {name}, which stays as it is"
            refused(
                lambda a=arguments, d=dtype, i=into, n=name: loss().value_and_grad(**a, dtype=d, out={n: i}),  # type: ignore[misc]
                ValueError,
                message,
            )
        assert room.tobytes() == before


def test_gradients_are_not_written_over_other_arguments() -> None:
    room = np.zeros((5, 3))
    labels = room.view(np.int64).reshape(-1)[:5]
    for argument, loss, arguments in (
        ("y", ArcFace(), of(ArcFace, y=labels)),
        ("y", CosFace(), of(CosFace, y=room.view(np.int8).reshape(-1)[3:8])),
        ("w", SoftmaxLoss(), of(SoftmaxLoss, w=room[:4])),
        ("upstream", ArcFace(reduction="none"), of(ArcFace, upstream=room[:, 1])),
        ("upstream", ArcFace(), of(ArcFace, upstream=room[4:, 2].reshape(()))),
        ("b", SoftmaxLoss(), of(SoftmaxLoss, b=room[1:, 2])),
        ("upstream_lse", SoftmaxLoss(), of(SoftmaxLoss, upstream_lse=room[:, 0])),
    ):
        message = f"out['x'] must not share memory with {argument}, which stays as it is"
        refused(lambda m=loss, a=arguments: m.value_and_grad(**a, out={"x": room}), ValueError, message)  # type: ignore[misc]
    targets = np.ones((5, 4))
    message = "out['z'] must not share memory with y, which stays as it is"
    refused(lambda: CrossEntropy().value_and_grad(Z, targets, out={"z": targets}), ValueError, message)
    message = "out['negative'] must not share memory with positive, which stays as it is"
    refused(lambda: Triplet().value_and_grad(X, room, X, out={"negative": room}), ValueError, message)


@pytest.mark.parametrize("engine", ["chain", "dd", "fused"])
def test_a_scale_that_takes_logits_beyond_float64_is_refused(engine: str) -> None:
    """By its name, with the logit in question; infinite logits and those of ignored rows are none.

    Certified has room for them. dd may name the gap of another class from the largest logit instead.
    """
    z, y = np.array([[NAN, 1e305], [-INF, 1.0], [1.0, 1e305]]), np.array([-100, 1, 0])
    message = (
        "logit_scale must leave logits that float64 can hold, below 1.8e308; "
        "it makes more of 1e+305 for class 1 and sample 1 of those not ignored"
    )
    loss = CrossEntropy(logit_scale=1e10)
    calls: list[Any] = [lambda: loss(z, y, engine=engine), lambda: loss.value_and_grad(z, y, engine=engine)]
    if engine == "chain":
        calls.append(lambda: loss.trace(z, y))
    for call in calls:
        refused(call, ValueError, message)
    head, inputs = SoftmaxLoss(logit_scale=1e10), ([[2.0]], [[0.5], [1.0]], [0], [0.0, 1e305])
    for call in (head, head.value_and_grad):
        with pytest.raises(ValueError, match=r"^logit_scale must leave logits that float64 can hold, below 1\.8e308"):
            call(*inputs, engine=engine)
    for kept in (CrossEntropy(logit_scale=1e10, softcap=5.0), CrossEntropy(logit_scale=100.0)):
        assert np.isfinite(kept.value_and_grad(z, y, engine=engine)[0])


def test_gradients_are_not_written_over_one_another() -> None:
    room = np.empty(40)
    x, w = room[:15].reshape(5, 3), room[14:26].reshape(4, 3)
    message = "out['w'] must not share memory with out['x']"
    refused(lambda: ArcFace().value_and_grad(X, W, Y, out={"w": w, "x": x}), ValueError, message)
    message = "out['x'] must not share memory with out['w']"
    refused(lambda: ArcFace().value_and_grad(W, W, Y[:4], out={"x": w, "w": w}), ValueError, message)
    for strides in ((0, 8), (8, 8), (24, 0)):
        folded = np.lib.stride_tricks.as_strided(room, (5, 3), strides)
        message = "out['x'] must be a writable float64 array of shape (5, 3); got one with entries that share memory"
        refused(lambda f=folded: ArcFace().value_and_grad(X, W, Y, out={"x": f}), ValueError, message)  # type: ignore[misc]
    folded = np.lib.stride_tricks.as_strided(room, (2, 3), (0, 8))
    message = "out['x'] must be a writable float64 array of shape (2, 3); got one with entries that share memory"
    refused(lambda: ArcFace().value_and_grad(X[:2], W, Y[:2], out={"x": folded}), ValueError, message)
    z, y = np.ones((2, 2, 2)), np.zeros((2, 2), np.int64)
    for strides in ((24, 16, 8), (8, 24, 16)):  # no two axes alone share memory
        folded = np.lib.stride_tricks.as_strided(room, (2, 2, 2), strides)
        message = "out['z'] must be a writable float64 array of shape (2, 2, 2); got one with entries that share memory"
        refused(lambda f=folded: CrossEntropy().value_and_grad(z, y, out={"z": f}), ValueError, message)  # type: ignore[misc]


@pytest.mark.parametrize("engine", ["chain", "fused", "dd"])
def test_memory_side_by_side_is_taken(engine: str) -> None:
    """Neighbours, columns between columns, an axis of length 1, bytes at an odd place."""
    expected = SoftmaxLoss().value_and_grad(X, W, Y, B, engine=engine)[1]
    room = np.empty((5, 8))
    room[:, ::2][:, :3] = X
    odd = np.frombuffer(bytearray(8 * 12 + 1), np.uint8)[1:].view(np.float64).reshape(4, 3)
    out = {"x": room[:, 1::2][:, :3], "w": odd, "b": room[:4, 6]}
    grad = SoftmaxLoss().value_and_grad(room[:, ::2][:, :3], W, Y, B, engine=engine, out=out)[1]
    assert bits([*leaves(grad)]) == bits([*leaves(expected)])
    assert all(getattr(grad, name) is array for name, array in out.items())
    assert np.array_equal(room[:, ::2][:, :3], X)
    one = np.lib.stride_tricks.as_strided(np.empty(3), (1, 3), (0, 8))
    assert ArcFace().value_and_grad(X[:1], W, Y[:1], engine=engine, out={"x": one})[1].x is one


@pytest.mark.parametrize("function", [refloss.softmax, refloss.log_softmax, refloss.logsumexp])
def test_functions_take_any_layout_and_axis(function: Callable[..., Any]) -> None:
    z = np.arange(24.0).reshape(2, 3, 4) ** 2 % 7
    for axis in (0, 1, np.int64(2), -1, -2):
        along_last = np.moveaxis(z, axis, -1)
        rows = [function(row) for row in along_last.reshape(-1, along_last.shape[-1])]
        expected = np.reshape(rows, along_last.shape if np.ndim(rows[0]) else along_last.shape[:-1])
        if np.ndim(rows[0]):
            expected = np.moveaxis(expected, -1, axis)
        for form in (np.asarray, every_third, np.asfortranarray, np.ndarray.tolist, read_only):
            np.testing.assert_array_equal(function(form(z), axis=axis), expected, strict=True)
    wide = np.arange(300.0).reshape(3, 100) ** 2 % 7
    np.testing.assert_array_equal(function(wide), [function(row) for row in wide])
    assert function(z[:0]).shape == (z[:0].shape if function is not refloss.logsumexp else (0, 3))
    assert isinstance(refloss.logsumexp([0, 1]), np.float64)
    assert isinstance(ArcFace().target_logit(0.5), np.float64)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_value_is_a_float64_or_one_a_sample(loss: type) -> None:
    for reduction in ("mean", "sum"):
        value, _ = loss(reduction=reduction).value_and_grad(**of(loss))
        assert type(value) is type(loss(reduction=reduction)(**of(loss))) is np.float64
    value, gradient = loss(reduction="none").value_and_grad(**of(loss))
    assert value.shape == (5,)
    for name, array in FLOATS[loss].items():
        assert getattr(gradient, name).shape == array.shape
    assert SoftmaxLoss().value_and_grad(X, W, Y)[1].b is None


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 1, 3)])
def test_logits_may_have_any_number_of_axes(shape: tuple[int, ...]) -> None:
    z = (np.arange(4.0 * math.prod(shape)) ** 2 % 7).reshape(*shape, 4)
    y, g = np.arange(math.prod(shape)).reshape(shape) % 4, np.arange(1.0, 1.0 + math.prod(shape)).reshape(shape)
    loss = CrossEntropy(reduction="none")
    flat, flat_gradient = loss.value_and_grad(z.reshape(-1, 4), y.reshape(-1), upstream=g.reshape(-1))
    for labels in (y, y.tolist(), np.eye(4)[y]):
        value, gradient = loss.value_and_grad(z, labels, upstream=g)
        np.testing.assert_array_equal(value, flat.reshape(shape))
        np.testing.assert_array_equal(gradient.z, flat_gradient.z.reshape(z.shape), strict=True)
        ones = loss.value_and_grad(z, labels, upstream=np.ones(shape))
        assert bits(list(leaves(loss.value_and_grad(z, labels)))) == bits(list(leaves(ones)))
    assert loss.trace(z, y)["log_softmax"].output.shape == (math.prod(shape), 4)


@pytest.mark.parametrize("loss", HEADS)
def test_vectors_of_any_length_have_a_direction(loss: type) -> None:
    x, w = at(X, 0, [5e-324, 0.0, 0.0]), at(W, 1, [0.0, -5e-324, 5e-324])
    x[1], w[2] = X[1] * 2.0**1020, W[2] * 2.0**-1060
    answers(loss(), {"x": x, "w": w, "y": Y})


@pytest.mark.parametrize("engine", ["chain", "dd", "fused"])
def test_centers_may_be_one_or_many_and_of_any_length(engine: str) -> None:
    for count in (1, 2, 40):
        w = np.random.default_rng(count).standard_normal((4, count, 3)) * np.ldexp(1.0, np.arange(count))[:, None]
        w[0] *= 1e-200
        value, gradient = SubCenterArcFace(centers=count).value_and_grad(X, w, Y, engine=engine)
        assert np.isfinite(value)
        assert gradient.w.shape == w.shape
        assert repr(SubCenterArcFace(centers=np.int64(count))) == repr(SubCenterArcFace(centers=count))


def test_zero_vectors_are_vectors_where_no_direction_is_asked_for() -> None:
    assert SoftmaxLoss()(0 * X, 0 * W, Y) == pytest.approx(math.log(4), rel=1e-15)
    assert Triplet()(0 * X, 0 * X, 0 * X) == 0.2


# --------------------------------------------------------------------- ignored rows, masked classes, the smallest sizes

IGNORING = [{}, {"label_smoothing": 0.25, "class_weight": (1.0, 0.5, 2.0, 3.0)}, {"ignore_index": 255}]


@pytest.mark.parametrize("settings", IGNORING)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", [CrossEntropy, *HEADS, SubCenterArcFace])
def test_ignored_rows_are_not_looked_at(loss: type, reduction: str, settings: dict[str, Any]) -> None:
    instance = loss(reduction=reduction, **settings)
    kept, rows = [1, 4], FLOATS[loss].keys() & {"x", "z"}
    arguments = of(loss, y=at(Y, [0, 2, 3], instance.ignore_index))
    rest = {name: array[kept] if name in rows | {"y"} else array for name, array in arguments.items()}
    for name in rows:
        for row, value in ((0, NAN), (2, 0.0), (3, INF)):
            arguments[name] = at(arguments[name], row, value)
    for whole, part in zip(answers(instance, arguments), answers(instance, rest), strict=True):
        if whole.shape != part.shape:  # one row per sample
            assert not whole[[0, 2, 3]].any()
        np.testing.assert_array_equal(whole if whole.shape == part.shape else whole[kept], part)


@pytest.mark.parametrize(("reduction", "expected"), [("mean", NAN), ("sum", 0.0), ("none", np.zeros(5))])
@pytest.mark.parametrize("loss", [CrossEntropy, *HEADS, SubCenterArcFace])
def test_all_rows_may_be_ignored(loss: type, reduction: str, expected: Any) -> None:
    instance, nothing = loss(reduction=reduction), {name: np.full((5, n), NAN) for name, n in (("x", 3), ("z", 4))}
    arguments = of(loss, y=np.full(5, -100)) | {name: nothing[name] for name in FLOATS[loss].keys() & nothing.keys()}
    value, gradient = instance.value_and_grad(**arguments)
    np.testing.assert_array_equal(value, expected)
    assert not any(array.any() for array in leaves(gradient))
    for name, array in FLOATS[loss].items():
        assert getattr(gradient, name).shape == array.shape
    trace = instance.trace(**arguments)
    assert not any(a.any() for name, step in trace.items() for a in leaves(step) if name != "normalize_w" and a.ndim)
    np.testing.assert_array_equal(trace["cross_entropy"].output, expected)
    assert trace["log_softmax"].output.shape == (5, 4)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", PER_SAMPLE)
def test_margins_of_ignored_rows_are_not_looked_at(loss: type, reduction: str) -> None:
    instance, y = loss(reduction=reduction), at(Y, [1, 3], -100)
    expected = answers(instance, {"x": X, "w": W, "y": y, "m": M})
    assert bits(answers(instance, {"x": X, "w": W, "y": y, "m": at(M, [1, 3], [NAN, 100.0])})) == bits(expected)
    _, gradient = instance.value_and_grad(X, W, y, at(M, [1, 3], INF))
    assert gradient.m[[1, 3]].tolist() == [0.0, 0.0]
    assert gradient.m[[0, 2, 4]].all()


@pytest.mark.parametrize("loss", PER_SAMPLE)
def test_margins_may_be_stored_in_any_way(loss: type) -> None:
    expected = bits(answers(loss(), {"x": X, "w": W, "y": Y, "m": M}))
    for m in (M.tolist(), M.astype(np.float32), M.astype(np.float16), np.repeat(M, 2)[::2], M[::-1].copy()[::-1]):
        assert bits(answers(loss(), {"x": X, "w": W, "y": Y, "m": m})) == expected
    kept = read_only(M)
    assert bits(answers(loss(), {"x": X, "w": W, "y": Y, "m": kept})) == expected
    whole = loss()(X, W, Y, [0, 1, 0, 1, 0])
    assert whole == loss()(X, W, Y, [0.0, 1.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize("loss", PER_SAMPLE)
def test_the_tuple_of_gradients_has_margins_where_they_are_given(loss: type) -> None:
    assert loss().value_and_grad(X, W, Y)[1]._fields == ("x", "w")
    gradient = loss().value_and_grad(X, W, Y, M)[1]
    assert gradient._fields == ("x", "w", "m")
    assert gradient.m.shape == (5,)
    only = loss().value_and_grad(X, W, Y, M, wrt="m")[1]
    assert only.x is only.w is None
    assert only.m.tolist() == gradient.m.tolist()
    out = np.empty(5)
    assert loss().value_and_grad(X, W, Y, m=M, out={"m": out})[1].m is out
    assert out.tolist() == gradient.m.tolist()


@pytest.mark.parametrize("loss", PER_SAMPLE)
def test_the_ends_of_the_range_of_a_margin_are_taken(loss: type) -> None:
    most = 2.0 if loss is CosFace else math.pi
    for m in (most, -most):
        value, gradient = loss().value_and_grad(X, W, Y, np.full(5, m))
        assert np.isfinite(value)
        assert all(np.isfinite(array).all() for array in leaves(gradient))


@pytest.mark.parametrize("loss", [CrossEntropy, *HEADS])
def test_one_class_costs_nothing(loss: type) -> None:
    arguments = {"x": X, "w": W[:1], "b": B[:1], "z": Z[:, :1]}
    arguments = {name: arguments[name] for name in FLOATS[loss]} | {"y": [0] * 5}
    own = {"regularizer": 0.0} if loss is MagFace else {}
    for settings in (own, own | {"label_smoothing": 0.5, "class_weight": [2.0]}):
        value, gradient = loss(**settings).value_and_grad(**arguments)
        assert value == 0.0
        assert not any(array.any() for array in leaves(gradient))


@pytest.mark.parametrize("loss", HEADS)
def test_one_sample_of_one_dimension(loss: type) -> None:
    """On a line there are only two directions: nothing turns, so with a scale of its own no loss has a gradient."""
    value, gradient = loss().value_and_grad([[2.0]], [[1.0], [-3.0]], [1])
    assert value > 4.0
    assert gradient.x.shape == (1, 1)
    assert gradient.w.shape == (2, 1)
    assert gradient.w.any() == (loss is SoftmaxLoss)
    assert gradient.x.any() == (getattr(loss(), "s", None) is None)


LOGITS: list[tuple[list[float], int, float, list[float]]] = [  # z, y, loss, gradient: torch's
    ([0.0, -INF, 0.0], 0, math.log(2.0), [-0.5, 0.0, 0.5]),
    ([0.0, -INF, 0.0], 1, INF, [0.5, -1.0, 0.5]),
    ([-INF, 3.0, -INF], 1, 0.0, [0.0, 0.0, 0.0]),
    ([-INF, -INF, -INF], 0, NAN, [NAN, NAN, NAN]),
    ([0.0, NAN, 0.0], 0, NAN, [NAN, NAN, NAN]),
    ([0.0, INF, 0.0], 0, NAN, [NAN, NAN, NAN]),
    ([0.0, INF, 0.0], 1, NAN, [NAN, NAN, NAN]),
    ([INF, INF, -INF], 0, NAN, [NAN, NAN, NAN]),
]


@pytest.mark.parametrize(("z", "y", "loss", "expected"), LOGITS)
def test_logits_that_are_not_finite_have_torchs_outcome(
    z: list[float], y: int, loss: float, expected: list[float]
) -> None:
    value, gradient = CrossEntropy().value_and_grad([z], [y])
    np.testing.assert_allclose(value, loss, rtol=1e-15)
    np.testing.assert_allclose(gradient.z, [expected], rtol=1e-15)
    beside = CrossEntropy(reduction="none").value_and_grad([z, [0.0, 1.0, 2.0]], [y, 1])[1].z[1]
    assert np.isfinite(beside).all()
    torch = pytest.importorskip("torch")
    logits = torch.tensor([z], dtype=torch.float64, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(logits, torch.tensor([y]))
    theirs.backward()
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-15)
    np.testing.assert_allclose(gradient.z, logits.grad.numpy(), rtol=1e-15)


def test_a_target_of_0_at_a_masked_class_contributes_0() -> None:
    z, y = np.array([[-INF, 1.0, 3.0], [2.0, -INF, 0.5]]), np.array([[0.0, 0.25, 0.75], [0.5, 0.0, 0.5]])
    value, gradient = CrossEntropy(reduction="none").value_and_grad(z, y)
    for row, classes in ((0, [1, 2]), (1, [0, 2])):
        alone, alone_gradient = CrossEntropy().value_and_grad(z[row, classes], y[row, classes])
        assert value[row] == alone
        np.testing.assert_array_equal(gradient.z[row, classes], alone_gradient.z)
        assert gradient.z[row, row] == 0.0
    weighted = CrossEntropy(class_weight=(0.0, 1.0, 1.0), label_smoothing=0.5)  # smoothing gives class 0 no target
    assert np.isfinite(weighted(z[:1], [2]))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "?", ">f4"])
def test_class_weights_stay_as_they_came_where_an_engine_reads_them_so(dtype: str) -> None:
    w = np.ones((2, 3), dtype)
    if dtype == "?":
        with pytest.raises(TypeError, match=r"^w must hold real numbers .* dtype bool"):
            inputs.float_array("w", w)
    elif dtype in ("f2", "f4", "f8"):
        assert inputs.float_array("w", w) is w
    else:
        assert inputs.float_array("w", w).dtype == np.float64


def test_results_along_an_axis_are_contiguous() -> None:
    z = np.arange(24.0).reshape(2, 3, 4)
    for axis in range(3):
        assert refloss.softmax(z, axis=axis).flags.c_contiguous
        assert inputs.rows_along("z", z, axis)[0].flags.c_contiguous


def test_angles_that_are_no_numbers_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"^theta must hold real"):
        inputs.angles("right")


def test_names_of_gradients_become_a_tuple() -> None:
    names = ("x", "w", "y")
    assert inputs.wanted_inputs(["w", "x"], names) == ("w", "x")
    assert inputs.wanted_inputs("w", names) == ("w",)
    assert inputs.wanted_inputs(None, names) is None


@pytest.mark.parametrize("engine", ["chain", "fused"])
def test_gradients_are_written_into_the_arrays_given_for_them(engine: str) -> None:
    arguments = of(SoftmaxLoss)
    _, expected = SoftmaxLoss().value_and_grad(**arguments, engine=engine)
    into = {name: np.full(arguments[name].shape, np.nan) for name in ("x", "b")}
    _, gradient = SoftmaxLoss().value_and_grad(**arguments, engine=engine, out=into)
    assert gradient.x is into["x"]
    assert gradient.b is into["b"]
    assert bits(leaves(gradient)) == bits(leaves(expected))


# -------------------------------------------------------------------------------- numbers among the inputs, and pairs


@pytest.mark.parametrize("engine", ["chain", "dd", "fused"])
@pytest.mark.parametrize("loss", [*QUESTIONS, *PAIRS])
def test_a_gradient_that_is_one_number_is_a_float64_or_in_the_array_given_for_it(loss: type, engine: str) -> None:
    arguments = of(loss)
    numbers = [name for name, array in FLOATS[loss].items() if not array.ndim]
    _, gradient = loss().value_and_grad(**arguments, engine=engine)
    assert gradient._fields == tuple(FLOATS[loss])
    for name in numbers:
        number = getattr(gradient, name)
        assert type(number) is np.float64
        out = np.empty(())
        _, other = loss().value_and_grad(**arguments, engine=engine, out={name: out})
        assert getattr(other, name) is out
        assert out == number
        _, only = loss().value_and_grad(**arguments, engine=engine, wrt=name)
        assert getattr(only, name) == number
        assert all(getattr(only, rest) is None for rest in FLOATS[loss] if rest != name)


@pytest.mark.parametrize("loss", [*QUESTIONS, *PAIRS])
def test_numbers_may_be_stored_in_any_way(loss: type) -> None:
    expected = bits(answers(loss(), of(loss)))
    for name, array in FLOATS[loss].items():
        if not array.ndim:
            for number in (float(array), int(array), np.float32(array), np.array(array, ">f4"), read_only(array)):
                assert bits(answers(loss(), of(loss, **{name: number}))) == expected


@pytest.mark.parametrize("loss", QUESTIONS)
def test_a_bias_left_out_is_0_and_has_no_gradient(loss: type) -> None:
    value, gradient = loss().value_and_grad(X, W, Y)
    other, with_bias = loss().value_and_grad(X, W, Y, 0.0)
    assert value == other == loss()(X, W, Y, None)
    assert gradient.b is None
    assert gradient._fields == ("x", "w", "b")
    assert type(with_bias.b) is np.float64
    for name in ("x", "w"):
        np.testing.assert_array_equal(getattr(gradient, name), getattr(with_bias, name))
    assert loss().value_and_grad(X, W, Y, wrt="x")[1].w is None


@pytest.mark.parametrize("settings", [{}, {"ignore_index": 255}])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", QUESTIONS)
def test_ignored_rows_of_questions_are_not_looked_at(loss: type, reduction: str, settings: dict[str, Any]) -> None:
    """Nor have they a part in the gradient of the bias, and "mean" divides by the others alone."""
    instance, kept = loss(reduction=reduction, **settings), [1, 4]
    y = at(Y, [0, 2, 3], instance.ignore_index)
    x = at(at(at(X, 0, NAN), 2, 0.0), 3, INF)
    whole, part = (
        answers(instance, {"x": rows, "w": W, "y": labels, "b": 2.0}) for rows, labels in ((x, y), (X[kept], Y[kept]))
    )
    for all_rows, alone in zip(whole, part, strict=True):
        if all_rows.shape != alone.shape:
            assert not all_rows[[0, 2, 3]].any()
        np.testing.assert_array_equal(all_rows if all_rows.shape == alone.shape else all_rows[kept], alone)


@pytest.mark.parametrize(("reduction", "expected"), [("mean", NAN), ("sum", 0.0), ("none", np.zeros(5))])
@pytest.mark.parametrize("loss", QUESTIONS)
def test_all_rows_of_questions_may_be_ignored(loss: type, reduction: str, expected: Any) -> None:
    value, gradient = loss(reduction=reduction).value_and_grad(X * NAN, W, np.full(5, -100), 2.0)
    np.testing.assert_array_equal(value, expected)
    assert not any(array.any() for array in leaves(gradient))
    assert gradient.b == 0.0
    trace = loss(reduction=reduction).trace(X * NAN, W, np.full(5, -100), 2.0)
    np.testing.assert_array_equal(trace["reduction"].output, expected)


@pytest.mark.parametrize("loss", QUESTIONS)
def test_without_an_ignored_label_every_label_counts(loss: type) -> None:
    assert loss(ignore_index=None)(X, W, Y) == loss()(X, W, Y)
    refused(
        lambda: loss(ignore_index=None)(X, W, Y - 100),
        ValueError,
        "y must be labels from 0 to 3; got -100 at y[0]",
    )


@pytest.mark.parametrize("loss", [*QUESTIONS, *PAIRS])
def test_directions_of_questions_and_pairs_have_any_length(loss: type) -> None:
    x = at(X, 0, [5e-324, 0.0, 0.0])
    x[1] = X[1] * 2.0**1020
    assert all(np.isfinite(array).all() for array in leaves(loss().trace(**of(loss, x=x))["logits"].output))
    value, _ = loss().value_and_grad(**of(loss, x=x))
    assert np.isfinite(value)


def test_the_names_of_stages_are_in_the_order_of_the_arithmetic() -> None:
    shared = ["normalize_x", "normalize_w", "cosine", "angle", "margin"]
    ends = ["logits", "bias", "binary_cross_entropy", "reduction"]
    assert list(SphereFace2().trace(X, W, Y)) == [*shared, "class_angles", *ends]
    assert list(UniFace().trace(X, W, Y, 2.0)) == [*shared, *ends]
    assert list(SigLIP().trace(X, X, 10.0, -10.0)) == [*shared, *ends]
    for ways in (1, 2):
        assert list(InfoNCE(ways=ways).trace(X, X, 20.0)) == [*shared, "logits", "log_softmax", "two_way", "reduction"]
