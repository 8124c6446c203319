"""Steps of kernels for many classes computed wrongly: sums over shards, padded classes, label smoothing, a z-loss.

Each is the value that a loss would have if the step alone were wrong. A number that the code has chosen, a pad value or
the factor of a z-loss, is fitted in the case where it shows most and rounded to the shortest decimal that explains all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refloss.error_free import Array
from refloss.testing.diagnosis.references import References
from refloss.testing.diagnosis.rows import LossRows, rows_of
from refloss.testing.diagnosis.smoothing import ALL_CLASSES, smoothings
from refloss.testing.signatures import Inputs, Loss, cross_entropy_of

WrongStep: TypeAlias = tuple[str, Callable[[Inputs], Any]]
"""A sentence, and the value that the step would give."""
WORLDS = (2, 4, 8, 16, 32, 64)
"""Numbers of shards of the classes."""
MULTIPLES = (8, 16, 32, 64, 128, 256, 512, 1024)
"""Numbers to a multiple of which kernels round the number of classes up."""
FIT_DIGITS = 4
"""Most decimal digits of a fitted number."""


class Errors(NamedTuple):
    """The value of one case, and how far it is from the truth."""

    inputs: Inputs
    theirs: Array
    off: Array
    """Distance from the true value."""
    allowed: Array
    """Its budget."""


def sum_steps(loss: Loss, errors: Sequence[Errors], references: References) -> Iterator[WrongStep]:
    """Yield the steps of a loss with labels that sums over classes may get wrong."""
    known: dict[int, LossRows] = {}

    def own(inputs: Inputs) -> LossRows:
        if id(inputs) not in known:
            known[id(inputs)] = rows_of(loss, inputs, references)
        return known[id(inputs)]

    for world in WORLDS:
        sentence = f"log {world} is added to every loss: classes that were gathered count {world} times in the sum"
        yield sentence, functools.partial(_with_log, own, float(np.log(world)))
    yield from _paddings(own, errors)
    if cross_entropy_of(loss).label_smoothing:
        for sentence, targets in smoothings(cross_entropy_of(loss).label_smoothing):
            yield f"{sentence}: {ALL_CLASSES}", functools.partial(_of_targets, own, targets)
    yield from _z_losses(loss, own, errors)


Own: TypeAlias = Callable[[Inputs], LossRows]
"""The rows of a loss on some inputs."""


def _with_log(own: Own, log: float, inputs: Inputs) -> Array:
    rows = own(inputs)
    return rows.value(rows.losses(rows.t) + rows.total * log)


def _of_targets(own: Own, targets: Callable[[Array], Array], inputs: Inputs) -> Array:
    rows = own(inputs)
    return rows.value(rows.losses(rows.v * targets(rows.label)))


# ------------------------------------------------------------------------------------------------------- padded classes


def _paddings(own: Own, errors: Sequence[Errors]) -> Iterator[WrongStep]:
    """Classes up to the next multiple of a number, with logits of 0 or of another number."""
    for multiple in MULTIPLES:
        value = functools.partial(_padded, own, multiple)
        yield _padding_sentence(multiple, 0.0), functools.partial(value, 0.0)
        added = {-own(one.inputs).classes % multiple for one in errors}
        if len(added) > 1:  # of one number of padded classes, any multiple and any logit explain the same
            fit = _bisected(value, _worst(errors))
            yield from ((_padding_sentence(multiple, pad), functools.partial(value, pad)) for pad in _short(fit) if pad)


def _padding_sentence(multiple: int, pad: float) -> str:
    return f"padded classes count in the softmax: C is rounded up to a multiple of {multiple}, with logits of {pad:g}"


def _padded(own: Own, multiple: int, pad: float, inputs: Inputs) -> Array:
    rows = own(inputs)
    others = -rows.classes % multiple
    return rows.value(rows.losses(rows.t) + rows.total * np.log1p(others * np.exp(pad - rows.lse)))


def _bisected(value: Callable[[float, Inputs], Array], worst: Errors) -> float:
    """Return the number with which the mean of a value that grows with it is that of the code."""
    low, high = -100.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2.0
        more = float(np.mean(value(middle, worst.inputs))) < float(np.mean(worst.theirs))
        low, high = (middle, high) if more else (low, middle)
    return high


def _worst(errors: Sequence[Errors]) -> Errors:
    """Return the case whose value is furthest from the truth, in units of its budget."""
    return max(errors, key=lambda one: float(np.max(one.off / np.maximum(one.allowed, 1e-300))))


def _short(fit: float) -> list[float]:
    """Return the decimal numbers next to a fitted one, the shortest first."""
    return list(dict.fromkeys(float(f"{fit:.{digits}g}") for digits in range(1, FIT_DIGITS + 1)))


# --------------------------------------------------------------------------------------------------------------- z-loss


def _z_losses(loss: Loss, own: Own, errors: Sequence[Errors]) -> Iterator[WrongStep]:
    """A term of lambda lse^2 for each row, which no class weight multiplies and which the mean divides by the rows."""
    factor = cross_entropy_of(loss).z_loss

    def added(lam: float, inputs: Inputs) -> Array:
        rows = own(inputs)
        return np.asarray(rows.reduced(rows.losses(rows.t)) + rows.reduced(lam * rows.lse**2, float(len(rows.z))))

    def of_weights(lam: float, weighted: bool, inputs: Inputs) -> Array:
        rows = own(inputs)
        weights = rows.label @ rows.v if weighted else 1.0
        return np.asarray(rows.reduced(rows.losses(rows.t)) + rows.reduced(weights * lam * rows.lse**2))

    if factor and cross_entropy_of(loss).class_weight:
        yield "class weights multiply the z-loss too", functools.partial(of_weights, factor, True)
        sentence = "the z-loss is divided by the sum of class weights, not by the number of rows"
        yield sentence, functools.partial(of_weights, factor, False)
    if len(errors) > 1:
        worst = _worst(errors)
        without, one = (np.sum(added(lam, worst.inputs)) for lam in (0.0, 1.0))
        fit = float((np.sum(worst.theirs) - without) / (one - without))
        for lam in _short(fit) if np.isfinite(fit) else []:
            sentence = f"a z-loss of lambda={lam:g} is added" if not factor else f"the z-loss has lambda={lam:g}"
            yield sentence, functools.partial(added, lam)
