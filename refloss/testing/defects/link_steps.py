"""Steps of SphereFace2, UniFace, SigLIP and InfoNCE computed wrongly: what the value would be if that step were wrong.

Symbols: those of `refloss.losses.sigmoid` and `refloss.losses.contrastive`; z the logits (N, C), held to their bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.functions import log_softmax
from refloss.losses import InfoNCE, SphereFace2, UniFace
from refloss.testing.signatures import (
    Inputs,
    Loss,
    class_angles_of,
    has_labels,
    ignore_index_of,
    inputs_of,
    link_of,
    margin_head,
    margin_of,
    of_pairs,
    on_cosines,
)

WrongStep: TypeAlias = tuple[str, Callable[[Inputs], Any]]
"""A sentence, and the value that the step would give."""
Softplus: TypeAlias = Callable[[Array], Array]
"""The loss of an answer, from its logit, negative where the answer is right (N, C)."""
ADDED_TO_PROBABILITIES = (2.0**-52, 2.0**-23, 1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
"""What code adds to probabilities before their logarithm; the first two are eps of float64 and of float32."""
LEAST_LOG = 100.0
"""What torch's binary cross entropy of probabilities holds a loss to."""
THRESHOLD = 20.0
"""From where on torch's softplus is its argument."""


class Cosines(NamedTuple):
    """What the value of such a loss is made of."""

    loss: Loss
    y: NDArray[np.int64]
    """Labels, of pairs their own places; those that are ignored too."""
    c: Array
    """Cosines (N, C)."""
    s: float
    b: float
    """What is added to all logits."""

    @property
    def target(self) -> NDArray[np.bool_]:
        """Which entries are the targets' (N, C)."""
        return np.asarray(np.arange(self.c.shape[1]) == self.y[:, None])

    @property
    def eta(self) -> Array:
        """What is scaled (N, C)."""
        margins = self.margins
        return self.g(self.c) + margins

    @property
    def margins(self) -> Array:
        """What is added to g (N, C)."""
        others = class_angles_of(self.loss)
        return np.where(self.target, -np.asarray(margin_of(self.loss).m3), 0.0 if others is None else others.m)

    def g(self, c: Array) -> Array:
        """Return the power of SphereFace2, of other losses the cosine itself."""
        return 2.0 * self.halved(c) - 1.0 if class_angles_of(self.loss) else c

    def halved(self, c: Array) -> Array:
        """Return ((1 + c)/2)^t."""
        return np.asarray(((1.0 + c) / 2.0) ** margin_of(self.loss).power)

    def logits(self, eta: Array | None = None) -> Array:
        """Return z, of other η."""
        z = self.s * (self.eta if eta is None else eta) + self.b
        bound = None if isinstance(cast(object, self.loss), InfoNCE) else link_of(self.loss).bound
        return z if bound is None else np.clip(z, -bound, bound)

    def value(self, eta: Array | None = None) -> Array:
        """Return the value, of other η."""
        z = self.logits(eta)
        if isinstance(cast(object, self.loss), InfoNCE):
            return self.of_ways(z, log_softmax)
        return self.of_answers(z, softplus)

    def of_answers(self, z: Array, of: Softplus, of_others: Softplus | None = None) -> Array:
        """Return the value of losses of answers, or of those of other classes another."""
        link = link_of(self.loss)
        targets, others = of(-z) * float(link.positive), (of_others or of)(z) * float(link.negative)
        return self.reduced(np.where(self.target, targets, others).sum(axis=1))

    def of_ways(self, z: Array, log_p: Callable[[Array], Array]) -> Array:
        """Return the value of logarithms of the probabilities of rows (N, N)."""
        ways = cast(InfoNCE, self.loss).ways
        return self.reduced(-np.sum([np.diagonal(log_p(each)) for each in (z, z.T)[:ways]], axis=0) / ways)

    def reduced(self, rows: Array) -> Array:
        """Return the value of the losses of rows (N,)."""
        kept = self.y != ignore_index_of(self.loss) if has_labels(self.loss) else np.ones(len(self.y), bool)
        rows, reduction = np.where(kept, rows, 0.0), self.loss.reduction
        return np.asarray(rows if reduction == "none" else rows.sum() / (kept.sum() if reduction == "mean" else 1.0))


def softplus(a: Array) -> Array:
    """Return log(1 + e^a)."""
    return np.asarray(np.logaddexp(0.0, a))


def cosines_in(loss: Loss, inputs: Inputs, c: Array | None = None) -> Cosines:
    """Return what a value is made of on some inputs, from their cosines or from others."""
    named = dict(zip(inputs_of(loss), inputs, strict=False))
    if c is None:
        x, w = (named[name] / np.linalg.norm(named[name], axis=1, keepdims=True) for name in "xw")
        c = x @ w.T
    head = margin_head(loss)
    s = head.scale if head.scale_input is None else float(named[head.scale_input])
    b = link_of(loss).bias_sign * float(named["b"]) if "b" in named else 0.0
    return Cosines(loss, named.get("y", np.arange(len(c))), c, float(s or 1.0), b)


# --------------------------------------------------------------------------------------------------------------- steps


def steps_of(loss: Loss) -> Iterator[WrongStep]:
    """Yield the steps of losses that end in another way on scaled cosines that code may get wrong."""
    if not on_cosines(loss):
        return

    def of(change: Callable[[Cosines], Any]) -> Callable[[Inputs], Any]:
        return lambda inputs: change(cosines_in(loss, inputs))

    settings = cast(object, loss)
    if isinstance(settings, InfoNCE):
        steps = _of_pairs()
        sentence = "every embedding is against all others of both kinds, as SimCLR's: x is against w alone"
        yield sentence, partial(_both_kinds, loss)
    else:
        steps = _of_answers(loss)
        if isinstance(settings, SphereFace2):
            steps |= _of_sphere_face2(settings)
        if isinstance(settings, UniFace):
            steps |= _of_uniface(settings)
    for sentence, change in steps.items():
        yield sentence, of(change)


Steps: TypeAlias = dict[str, Callable[[Cosines], Any]]
"""The value of each step that is wrong, by its sentence."""


def _of_answers(loss: Loss) -> Steps:
    """What may be wrong with a binary cross entropy."""

    def by_probabilities(eps: float, a: Array) -> Array:
        return np.asarray(-np.log(np.exp(-softplus(a)) + eps))

    def held(a: Array) -> Array:
        return np.minimum(softplus(a), LEAST_LOG)

    def straight(a: Array) -> Array:
        return np.where(a > THRESHOLD, a, softplus(a))

    def of(form: Softplus, of_others: Softplus | None = None) -> Callable[[Cosines], Any]:
        return lambda here: here.of_answers(here.logits(), form, of_others)

    def of_softmax(here: Cosines) -> Any:
        return here.reduced(-np.where(here.target, log_softmax(here.logits()), 0.0).sum(axis=1))

    def of_both(here: Cosines) -> Any:
        z = here.logits()
        return here.reduced(-(np.diagonal(log_softmax(z)) + np.diagonal(log_softmax(z.T))) / 2.0)

    remedy = "every answer has a sigmoid"
    steps: Steps = {
        f"a softmax of each row: {remedy}": of_softmax,
        "labels of 1 and -1 are given to a binary cross entropy: it takes 1 and 0": of(
            softplus, lambda z: softplus(z) + z
        ),
        f"losses of answers are held to {LEAST_LOG:g}, as torch's binary cross entropy of probabilities does: "
        "take logits": of(held),
        f"softplus is its argument from {THRESHOLD:g} on, as torch's: take logsigmoid, or a larger threshold": of(
            straight
        ),
    }
    for eps in ADDED_TO_PROBABILITIES:
        steps[f"{eps:g} added to sigmoids before their logarithm: take softplus of logits"] = of(
            partial(by_probabilities, eps)
        )
    return {**steps, f"a softmax of rows and of columns, as CLIP's: {remedy}": of_both} if of_pairs(loss) else steps


def _of_sphere_face2(loss: SphereFace2) -> Steps:
    """What may be wrong with the curve."""

    def within(here: Cosines) -> Any:
        return here.value(here.g(here.c + here.margins))

    def on_angles(here: Cosines) -> Any:
        theta, m = np.arccos(np.clip(here.c, -1.0, 1.0)), loss.m
        target = np.where(theta + m < np.pi, np.cos(theta + m), here.c - 1.0 + np.cos(m))
        return here.value(here.g(np.where(here.target, target, np.cos(theta - m))))

    steps: Steps = {}
    if loss.m:
        steps = {
            "the margin is taken off the cosine, before its power: it is taken off g": within,
            "the margin is on the angles, as wespeaker's type A: it is taken off g": on_angles,
        }
    curve = "g is 2((1 + c)/2)^t - 1"
    return steps | {
        f"the power is not brought to the range from -1 to 1: {curve}": lambda here: here.value(
            here.halved(here.c) + here.margins
        ),
        f"the power is that of the cosine itself: {curve}": lambda here: here.value(here.c**loss.t + here.margins),
    }


def _of_uniface(loss: UniFace) -> Steps:
    """What may be wrong with the answers, and with their bound."""

    def with_target(here: Cosines) -> Any:
        z = here.logits()
        unlessened = here.logits(here.c)
        rows = np.where(here.target, softplus(-z), 0.0) + float(loss.l) * softplus(unlessened)
        return here.reduced(rows.sum(axis=1))

    def target_too(here: Cosines) -> Any:
        z = here.logits()
        return here.reduced((np.where(here.target, softplus(-z), 0.0) + float(loss.l) * softplus(z)).sum(axis=1))

    def early(here: Cosines) -> Any:
        z = np.clip(here.s * here.eta, -here.s, here.s) + here.b
        return here.of_answers(z, softplus)

    remedy = "leave it out of that sum"
    bare: Steps = {f"the target counts among the other classes, without its margin: {remedy}": with_target}
    return (bare if loss.m else {}) | {
        f"the target counts among the other classes: {remedy}": target_too,
        "the logits are held to ±s before the bias: hold them after it": early,
    }


def _of_pairs() -> Steps:
    """What may be wrong with a cross entropy of pairs."""

    def others_alone(z: Array) -> Array:
        others = np.where(np.eye(len(z), dtype=bool), -np.inf, z)
        largest = others.max(axis=1, keepdims=True)
        return np.asarray(z - largest - np.log(np.exp(others - largest).sum(axis=1, keepdims=True)))

    def with_constant(eps: float, z: Array) -> Array:
        return np.asarray(np.log(np.exp(log_softmax(z)) + eps))

    def twice(z: Array) -> Array:
        return log_softmax(np.exp(log_softmax(z)))

    def of(log_p: Callable[[Array], Array]) -> Callable[[Cosines], Any]:
        return lambda here: here.of_ways(here.logits(), log_p)

    steps: Steps = {
        "the pair itself is left out of the sum of exponentials: it belongs there": of(others_alone),
        "softmax taken twice: of the logits, and of the probabilities again": of(twice),
    }
    for eps in ADDED_TO_PROBABILITIES:
        steps[f"{eps:g} added to probabilities before their logarithm: take log_softmax"] = of(
            partial(with_constant, eps)
        )
    return steps


def _both_kinds(loss: Loss, inputs: Inputs) -> Any:
    """Return the value if every embedding is against all others of both kinds, as NT-Xent has it."""
    x, w, s = inputs
    rows = np.concatenate([x, w])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    n, z = len(x), float(s) * rows @ rows.T
    np.fill_diagonal(z, -np.inf)
    log_p = log_softmax(z)
    each = np.arange(n)
    losses = -(log_p[each, each + n] + log_p[each + n, each]) / 2.0
    return losses if loss.reduction == "none" else getattr(losses, loss.reduction)()
