"""Heads: every loss from its definition in the papers, forward only, on a tape.

Each function takes the inputs of the rows that are computed and returns the leaves, whose gradients are wanted, with
the losses of the rows (N,), or logits (N, C) for `softcap` and `cross_entropy`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple, TypeAlias

import numpy as np

from refloss.engines.certified.balls import Balls, arb, exact_balls, pi
from refloss.engines.certified.class_curves import power
from refloss.engines.certified.margins import Recorded as Margins
from refloss.engines.certified.margins import SampleMargins, record_margins
from refloss.engines.certified.masks import Masks
from refloss.engines.certified.others import OtherClasses, Theta
from refloss.engines.certified.sides import Psi, TargetAngle
from refloss.engines.certified.tape import Tape, Variable
from refloss.engines.certified.targets import Targets
from refloss.engines.spec import Arrays, Linear, Margin
from refloss.error_free import Array, Integers, Mask
from refloss.stages.margin import Settings as MarginSettings
from refloss.stages.softcap import Settings as CapSettings

Leaves: TypeAlias = dict[str, Variable]
Parallel: TypeAlias = Callable[[int, int], int]


class Scored(NamedTuple):
    """What is recorded of a head."""

    leaves: Leaves
    """The inputs whose gradients are wanted."""
    z: Variable
    """Logits (N, C)."""
    terms: Variable | None = None
    """What every row's loss has added, whatever its class weight is (N,)."""


class Recorded(NamedTuple):
    """What is recorded of a loss."""

    leaves: Leaves
    """The inputs whose gradients are wanted."""
    losses: Variable
    """The losses of the rows (N,)."""
    lse: Variable | None = None
    """The log-sum-exp of the rows (N,) of a loss on logits."""


def logits(tape: Tape, arrays: Arrays, present: Mask, settings: CapSettings) -> Scored:
    """Logits that are inputs; masked ones, which do not count, are replaced by the largest.

    With a cap none is masked: infinite ones are constants, at the cap.
    """
    z = arrays["z"]
    if settings.softcap is None:
        leaf = tape.leaf(np.where(present, z, z.max(axis=1, keepdims=True)))
        return Scored({"z": leaf}, softcap(leaf, settings))
    at_cap = np.isinf(z)
    leaf = tape.leaf(np.where(at_cap, 0.0, z))
    capped = softcap(leaf, settings)
    at = exact_balls(np.copysign(settings.softcap, z[at_cap]))
    return Scored({"z": leaf}, capped.set_at(np.nonzero(at_cap), at))


def linear(tape: Tape, arrays: Arrays, settings: CapSettings) -> Scored:
    """z_nk = x_n · w_k + b_k."""
    leaves = {name: tape.leaf(array) for name, array in arrays.items() if name in Linear.differentiable()}
    z = leaves["x"].linear(leaves["w"])
    return Scored(leaves, softcap(z + leaves["b"] if "b" in leaves else z, settings))


def softcap(z: Variable, settings: CapSettings) -> Variable:
    """σz, or K tanh(σz/K) = ±K (1 - e)/(1 + e) with e = exp(-2σ|z|/K): of the other sign it is true, too."""
    sigma, cap = settings
    if cap is None:
        return z if sigma == 1.0 else z * arb(sigma)
    sign = np.frompyfunc(lambda ball: arb(-1) if ball < 0 else arb(1), 1, 1)(z.value)
    e = (z * sign * (arb(-2) * arb(sigma) / arb(cap))).exp()
    tanh: Variable = (e * arb(-1) + arb(1)) / (e + arb(1)) * sign
    return tanh * arb(cap)


def margin(
    tape: Tape,
    arrays: Arrays,
    spec: Margin,
    samples: Sequence[SampleMargins],
    angles: Sequence[TargetAngle],
    others: OtherClasses,
    row_of: Integers,
    parallel: Parallel,
) -> Scored:
    """z_nk = s η of cos θ_nk, and s ψ(θ) for the label; s is the length of x where the scale is None, or an input.

    `angles` say which function of θ each row's ψ is, `others` what η is, `row_of` which row of w stands for a class,
    `parallel` whether a row of x and one of w are exactly parallel.
    """
    x, w, y = tape.leaf(arrays["x"]), tape.leaf(arrays["w"]), arrays["y"]
    label = np.arange(len(y)), y
    square_x, square_w = (x * x).sum(axis=1), (w * w).sum(axis=1)
    dot, length = x.linear(w), square_x.sqrt()[:, None]
    cos = _constant_where_parallel(dot / (length * square_w.sqrt()), parallel)
    if spec.centers is not None:
        cos = cos[np.arange(len(y))[:, None], row_of]
    margins = record_margins(tape, arrays, square_x, spec, samples)

    def theta(n: Integers, k: Integers, directions: Sequence[int]) -> Variable:
        row = row_of[n, k]
        return _theta(dot[n, row], square_x[n] * square_w[row], directions)

    detached = spec.margin.gradient == "detached"
    if spec.margin.boundary == "circle":
        curve = _circle(cos[label], margins.m3, detached=detached)
    elif spec.margin.boundary == "power":
        curve = power(cos[label], spec.margin.power, detached=detached) - margins.m3
    else:
        curve = _curve(cos[label], margins, spec.margin, angles, y, theta)
    leaves = {"x": x, "w": w} | margins.leaves
    scale = length if spec.scale is None else arb(spec.scale)
    if spec.scale_input is not None:
        scale = leaves[spec.scale_input] = tape.leaf(arrays[spec.scale_input])
    z: Variable = others.eta(cos, theta).set_at(label, curve) * scale
    return Scored(leaves, z, margins.terms)


def _curve(
    cos: Variable, margins: Margins, settings: MarginSettings, angles: Sequence[TargetAngle], y: Integers, theta: Theta
) -> Variable:
    """ψ of targets, each on its side of every boundary; detached, cos θ and a constant."""
    times = {name: np.array([arb(getattr(each.psi, name)) for each in angles], object) for name in Psi._fields}
    curve: Variable = cos * times["cos_theta"] + margins.m3 * times["m3"] + arb(settings.eps).cos() * times["cos_eps"]
    curve += times["one"]
    dropped = np.flatnonzero([each.psi.drop for each in angles])
    if len(dropped):
        curve = curve.set_at(dropped, curve[dropped] + _drop(margins.m2[dropped], settings) * times["drop"][dropped])
    turned = np.flatnonzero([each.psi.cos_phi for each in angles])
    if len(turned):
        turning = [angles[n] for n in turned.tolist()]
        turning_theta = theta(turned, y[turned], [each.direction for each in turning])
        cos_phi = _cos_phi(turning_theta * arb(float(settings.m1)) + margins.m2[turned], turning)
        curve = curve.set_at(turned, curve[turned] + cos_phi * times["cos_phi"][turned])
    if settings.annealing:
        curve = (cos * arb(settings.annealing) + curve) / (arb(settings.annealing) + 1)
    if settings.gradient == "detached":
        curve = cos + (curve.value - cos.value)
    return curve


def _circle(cos: Variable, m: Variable, *, detached: bool) -> Variable:
    """(1 + m - cos θ)(cos θ - 1 + m); detached, the first factor, the weight, is a constant."""
    weight = m - cos + arb(1)
    return (cos + m - arb(1)) * (weight.value if detached else weight)


def _drop(m2: Variable, settings: MarginSettings) -> Variable:
    """What m2 lowers cos θ by beyond φ = π."""
    if settings.boundary == "hard":
        return m2 * m2.sin()
    return ((m2 * arb(-1) + pi()) / arb(float(settings.m1))).cos()


def _theta(dot: Variable, squares: Variable, directions: Sequence[int]) -> Variable:
    """Angles, from the products of two vectors and of their squares.

    Constants where the vectors are parallel, by their `directions` 1 or -1.
    """
    constant = np.array([pi() if each == -1 else arb(0) for each in directions], object)
    turning = np.flatnonzero([each == 0 for each in directions])
    a, b = dot[turning], squares[turning]
    return Variable(dot.tape, constant).set_at(turning, (b - a * a).sqrt().atan2(a))


def _cos_phi(phi: Variable, angles: Sequence[TargetAngle]) -> Variable:
    """Cosines, of multiples of π exactly 1 or -1, with gradient 0, as at any extremum."""
    whole = np.flatnonzero([each.folds is not None for each in angles])
    return phi.cos().set_at(whole, exact_balls([(-1) ** each.folds for each in angles if each.folds is not None]))


def _constant_where_parallel(cos: Variable, parallel: Parallel) -> Variable:
    """Cosines that are exactly 1 or -1 for parallel vectors, with gradient 0, as at any extremum."""
    near = np.frompyfunc(lambda c: (1 - c * c).contains(0), 1, 1)(cos.value).astype(np.bool_)
    signs = {(n, k): sign for n, k in np.argwhere(near).tolist() if (sign := parallel(n, k))}
    if not signs:
        return cos
    return cos.set_at(tuple(np.array(list(signs)).T), np.array([arb(sign) for sign in signs.values()], object))


def cross_entropy(z: Variable, targets: Targets) -> tuple[Variable, Variable]:
    """L = T log(1 + Σ_{k≠a} exp(z_k - z_a)) - Σ_{k≠a} t_k (z_k - z_a): -Σ t_k log p_k as seen from the largest.

    a is the class with the largest logit, T the sum of t. Returned with the log-sum-exp, z_a + log(1 + …).
    """
    t, present = targets.balls(), targets.present
    largest = np.arange(len(t)), np.array([_argmax(row, counts) for row, counts in zip(z.value, present, strict=True)])
    others = present.copy()
    others[largest] = False
    z_largest = z[largest]
    gaps = z - z_largest[:, None]
    exp_sum = (gaps.exp() * exact_balls(np.where(others, 1.0, 0.0))).sum(axis=1)
    total: Balls = t.sum(axis=1)
    t[largest] = arb(0)
    log_sum = exp_sum.log1p()
    return log_sum * total - (gaps * t).sum(axis=1), z_largest + log_sum


def _argmax(row: Balls, present: Mask) -> int:
    """The class with the largest logit, as far as the balls tell."""
    floats = np.where(present, np.nan_to_num([float(ball) for ball in row], nan=-inf), -inf)  # NaN: too few bits as yet
    best, *others = np.flatnonzero(present & (floats == floats.max())).tolist()
    for k in others:  # equal as floats, maybe not as balls
        best = k if row[k] > row[best] else best
    return int(best)


def triplet(tape: Tape, arrays: Arrays, m: float, squared: bool, equidistant: Mask) -> Recorded:
    """L = d(a, p) - d(a, n) + m, of open hinges.

    `equidistant` says where the two distances are equal: roots that cancel leave a radius, the exact difference is 0.
    """
    leaves = {name: tape.leaf(array) for name, array in arrays.items()}
    differences = [leaves["anchor"] - leaves["positive"], leaves["anchor"] - leaves["negative"]]
    near, far = ((v * v).sum(axis=1) if squared else v.norm() for v in differences)
    gap = near - far
    exact = gap.value.copy()
    exact[equidistant] = arb(0)
    return Recorded(leaves, tape.record(exact, gap.accumulate) + arb(m))


def divergence(tape: Tape, arrays: Arrays, form: str, masks: Masks) -> Recorded:
    """Σ_k p_k (log p_k - log q_k), the same with p and q exchanged, or the mean of both with (p + q)/2 for the other.

    A masked logit counts as the largest of its row where the other side has a probability: then the loss is infinite,
    and balls give its gradients alone.
    """
    leaves: Leaves = {}
    logs, probabilities = {}, {}
    for name, present in masks._asdict().items():
        leaf, logs[name] = _log_softmax(tape, arrays[name], present)
        leaves[name], probabilities[name] = leaf, logs[name].exp() * exact_balls(np.where(present, 1.0, 0.0))
    q, p, log_q, log_p = probabilities["z"], probabilities["target"], logs["z"], logs["target"]
    if form == "forward":
        return Recorded(leaves, (p * (log_p - log_q)).sum(axis=1))
    if form == "reverse":
        return Recorded(leaves, (q * (log_q - log_p)).sum(axis=1))
    absent = exact_balls(np.where(masks.z | masks.target, 0.0, 1.0))  # the logarithm of 0 is taken of no class
    log_mean = ((p + q) / arb(2) + absent).log()
    return Recorded(leaves, (p * (log_p - log_mean) + q * (log_q - log_mean)).sum(axis=1) / arb(2))


def _log_softmax(tape: Tape, z: Array, present: Mask) -> tuple[Variable, Variable]:
    """Logits that are inputs, and z_k - z_a - log(1 + Σ_{j≠a} exp(z_j - z_a)), a being the class with the largest."""
    leaf = tape.leaf(np.where(present, z, z.max(axis=1, keepdims=True)))
    largest = np.arange(len(z)), np.where(present, z, -inf).argmax(axis=1)
    others = present.copy()
    others[largest] = False
    gaps = leaf - leaf[largest][:, None]
    exp_sum = (gaps.exp() * exact_balls(np.where(others, 1.0, 0.0))).sum(axis=1)
    return leaf, gaps - exp_sum.log1p()[:, None]
