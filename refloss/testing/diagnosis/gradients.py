"""Explanations of a wrong gradient beside a right value: a factor, a missing projection, a single entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, compress
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from refloss.error_free import Array
from refloss.stages import softcap
from refloss.testing.diagnosis.references import Outcomes, References, agrees, over_budget
from refloss.testing.errors import Arithmetic
from refloss.testing.signatures import Loss, head_of, labels_of, of_directions, of_pairs, scale_place, softcap_of


class _Gradient(NamedTuple):
    """One gradient in one case."""

    theirs: Array
    ours: Array
    bound: Array
    length: Array
    """Lengths of the rows that it is the gradient of."""
    unit: Array
    """Those rows, divided by their lengths."""
    upstream: float
    samples: int
    scale: float
    """The scale, where it is an input; 1 where it is none."""

    def near(self, theirs: Array, ours: Array) -> bool:
        """Whether two gradients agree to a thousandth of the largest entry, plus ten times the budget."""
        return bool((np.abs(theirs - ours) <= 1e-3 * np.abs(ours).max() + 10.0 * self.bound).all())


CLEAR = 200.0
"""How many times its budget a gradient that is one number has to be, to show a factor of it."""
NO_FACTOR = 2e-2
"""How near 1 factors of a number are that show its rounding errors alone."""
UPSTREAMS: dict[str, Callable[[Array], Array]] = {
    "the gradients do not depend on the upstream gradient, which has to be multiplied in, row by row": np.ones_like,
    "the upstream gradient of the first row is taken for all rows": lambda each: np.full_like(each, each[0]),
}
"""Upstream gradients that code takes instead of one for each row."""


def wrong_upstreams(loss: Loss, failing: Outcomes, references: References) -> list[str]:
    """Say which upstream gradient the gradients belong to, where each row has its own."""
    for sentence, taken in UPSTREAMS.items() if loss.reduction == "none" else ():
        others = [(inputs, output._replace(upstream=taken(output.upstream))) for inputs, output in failing]
        same = all((taken(output.upstream) == output.upstream).all() for _, output in failing)
        if not same and all(agrees(loss, inputs, output, references) for inputs, output in others):
            return [sentence]
    return []


def wrong_slopes(loss: Loss, failing: Outcomes, references: References) -> list[str]:
    """Say which slope of scaled and capped logits the gradient of z lacks."""
    if head_of(loss) != "logits" or softcap_of(loss) == softcap.UNCHANGED:
        return []
    with np.errstate(all="ignore"):  # rows of zeros have no direction
        gradients = _by_name(loss, failing, references).get("z", [])
    if len(gradients) < len(failing) or all(one.near(one.theirs, one.ours) for one in gradients):
        return []
    scale, cap = softcap_of(loss)
    lacking: dict[str, Sequence[Array | float]] = {}
    if cap is not None:
        lacking["softcap"] = [1.0 - (references.logits(loss, inputs) / cap) ** 2 for inputs, _ in failing]
    if scale != 1.0:
        lacking["logit scale"] = [scale] * len(failing)
    if len(lacking) == 2:
        lacking["softcap and of the logit scale"] = [scale * slope for slope in lacking["softcap"]]
    return [
        f"the gradient of z lacks the slope of the {what}"
        for what, slopes in lacking.items()
        if all(one.near(one.theirs * slope, one.ours) for one, slope in zip(gradients, slopes, strict=True))
    ]


def wrong_gradients(loss: Loss, failing: Outcomes, references: References) -> list[str]:
    """Say what is wrong with each gradient."""
    with np.errstate(all="ignore"):  # rows of zeros, and gradients that have nothing to do with each other
        sentences: list[str] = []
        by_name = _by_name(loss, failing, references)
        for one, other in combinations(by_name, 2):
            if _are_exchanged(by_name[one], by_name[other]):
                sentences += [f"the gradients of {one} and {other} are exchanged"]
                by_name = {name: part for name, part in by_name.items() if name not in (one, other)}
                break
        for name, gradients in by_name.items():
            first = next(_one_gradient(loss, gradients), None)
            sentences += [] if first is None else [f"the gradient of {name} {first}"]
        return sentences


def _are_exchanged(first: Sequence[_Gradient], second: Sequence[_Gradient]) -> bool:
    """Whether each of two gradients is the other in all cases, and not its own in one."""
    pairs = list(zip(first, second, strict=False))
    return (
        len(first) == len(second)
        and all(one.ours.shape == other.ours.shape for one, other in pairs)
        and all(one.near(other.theirs, one.ours) and other.near(one.theirs, other.ours) for one, other in pairs)
        and not all(one.near(one.theirs, one.ours) for one in first)
    )


def _by_name(loss: Loss, failing: Outcomes, references: References) -> dict[str, list[_Gradient]]:
    """Return the gradients of all cases by the name of their input; none if one of them has another shape."""
    by_name: dict[str, list[_Gradient]] = {}
    for inputs, output in failing:
        gradient = references.gradient(loss, inputs, output.upstream)
        errors = references.bounds(loss, inputs, output.upstream)[1]
        differentiable = [entry for place, entry in enumerate(inputs) if place != labels_of(loss)]
        for name, rows, theirs in zip(gradient._fields, differentiable, output.gradients or (), strict=False):
            ours = getattr(gradient, name)
            if theirs is None:
                continue
            if theirs.shape != ours.shape:
                return {}
            length = np.linalg.norm(np.atleast_1d(rows), axis=-1, keepdims=True)
            upstream = float(np.mean(output.upstream))
            entry = _Gradient(
                theirs,
                np.asarray(ours),
                np.asarray(errors[name]),
                length,
                rows / length,
                upstream,
                len(inputs[0]),
                float(inputs[scale_place(loss)]) if of_pairs(loss) else 1.0,
            )
            by_name.setdefault(name, []).append(entry)
    return by_name


def _one_gradient(loss: Loss, gradients: Sequence[_Gradient]) -> Iterator[str]:
    gradients = [one for one in gradients if one.ours.any()]  # a gradient of zeros alone shows no factor
    if not gradients or all(one.near(one.theirs, one.ours) for one in gradients):
        return
    if any(one.theirs.any() for one in gradients):
        yield from (_some_gradient if gradients[0].ours.ndim else _some_number)(loss, gradients)
    else:
        yield "is all zero"


def _some_gradient(loss: Loss, gradients: Sequence[_Gradient]) -> Iterator[str]:
    """Say what is wrong with a gradient that is not all zero."""
    factors = np.array([(one.theirs * one.ours).sum() / (one.ours**2).sum() for one in gradients])
    if all(one.near(one.theirs / factor, one.ours) for factor, one in zip(factors, gradients, strict=True)):
        yield from _factors(loss, factors, gradients)
    elif of_directions(loss) and gradients[0].theirs.ndim == 2:
        if all(one.near(one.theirs / one.length, one.ours) for one in gradients):
            yield "is not divided by the length of its row"
        radial = [(one.theirs * one.unit).sum(axis=1, keepdims=True) * one.unit for one in gradients]
        if all(one.near(one.theirs - part, one.ours) for part, one in zip(radial, gradients, strict=True)):
            yield "has a part along its row: the projection of its normalisation is missing"


def _some_number(loss: Loss, gradients: Sequence[_Gradient]) -> Iterator[str]:
    """Say by which factor a gradient is wrong that is one number: in two cases at least, far above its budget."""
    are_clear = [bool(np.abs(one.ours) > CLEAR * one.bound) for one in gradients]
    clear = list(compress(gradients, are_clear))
    factors = np.array([float(one.theirs / one.ours) for one in clear])
    if len(clear) < 2 or np.allclose(factors, 1.0, rtol=NO_FACTOR):
        return
    most = CLEAR * (1.0 + np.abs(factors).max())
    if all(
        is_clear or np.abs(one.theirs) <= most * one.bound for one, is_clear in zip(gradients, are_clear, strict=True)
    ):
        yield from _factors(loss, factors, clear)


def _factors(loss: Loss, factors: Array, gradients: Sequence[_Gradient]) -> Iterator[str]:
    """Explain the factor of each case. One case, or one number of samples, shows no dependence on N."""
    counts = np.array([one.samples for one in gradients], dtype=np.float64)
    several = len(set(counts)) > 1 and loss.reduction == "mean"
    scales = np.array([one.scale for one in gradients])
    scaled = len(set(scales)) > 1

    def are(expected: ArrayLike) -> bool:
        return bool(np.allclose(factors, expected, rtol=1e-2))

    if are(-1.0):
        yield "has the opposite sign"
    elif several and are(counts):
        yield "is N times as large: of the sum, not of the mean"
    elif several and are(1.0 / counts):
        yield "is divided by N twice"
    elif scaled and are(scales):
        yield "has the scale as a factor once too often"
    elif scaled and are(1.0 / scales):
        yield "lacks the scale as a factor"
    elif are(factors[0]):
        where = f"in each of {len(gradients)} failing cases" if len(gradients) > 1 else "in the one case that failed"
        yield f"is {factors[0]:.6g} times what it should be, {where}"
    elif are([1.0 / one.upstream for one in gradients]):
        yield "does not depend on the upstream gradient, which has to be multiplied in"


def single_entry(loss: Loss, failing: Outcomes, references: References) -> Iterator[str]:
    """Explain failures by one wrong entry of one gradient in every case, which is far over budget in at least one."""
    coarse = _ten_times(references.arithmetic)
    if len(failing) < 2 or all(agrees(loss, inputs, output, references, coarse) for inputs, output in failing):
        return
    wrong: dict[str, int] = {}
    for inputs, output in failing:
        for name, over in over_budget(loss, inputs, output, references):
            count = 2 if over is None else int(np.count_nonzero(over)) * (1 if over.ndim else 2)  # a number: all of it
            if count:
                wrong[name] = max(count, wrong.get(name, 0))
    for name, count in wrong.items():
        if len(wrong) == 1 and name != "value" and count == 1:
            yield f"a single entry of the gradient of {name} is wrong, all others are right"


def _ten_times(a: Arithmetic) -> Arithmetic:
    """Return an arithmetic whose roundings are ten times as large."""
    return a._replace(u=10.0 * a.u, accumulated=10.0 * a.accumulated, stored=10.0 * a.stored)
