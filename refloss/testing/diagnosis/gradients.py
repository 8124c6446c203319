"""Explanations of a wrong gradient: rows of the table, a factor, a single entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.testing.defects.emulations import without_defects
from refloss.testing.defects.gradients import Context, WithChange
from refloss.testing.defects.table import TABLE
from refloss.testing.diagnosis.references import (
    Outcomes,
    References,
    agrees,
    all_agree,
    gradients_of,
    over_budget,
    split,
    values_alone,
)
from refloss.testing.errors import Arithmetic
from refloss.testing.signatures import Loss


class _Gradient(NamedTuple):
    """One gradient in one case."""

    theirs: Array
    ours: Array
    bound: Array
    of: Context

    def near(self, theirs: Array, ours: Array) -> bool:
        """Whether two gradients agree within ten budgets and a thousandth."""
        return _near(theirs, ours, self.bound)

    @property
    def is_small(self) -> bool:
        """Whether it is all within its budget, so that it shows no factor."""
        return bool((np.abs(self.ours) <= self.bound).all())

    @property
    def is_right(self) -> bool:
        """Whether it is near the truth."""
        return self.near(self.theirs, self.ours)


CLEAR = 1e-2
"""Least difference of a factor from 1."""
MANY = 200.0
"""How many times its budget a gradient that is one number has to be, to show a factor of it."""
NEAR = 1e-3
"""Share of the largest entry of a gradient within which two gradients count as the same."""


def whole_gradients(loss: Loss, failing: Outcomes, references: References) -> list[str]:
    """Name the rows that give all gradients, beside right values, in the cases in which they say what these are."""
    if not all_agree(loss, values_alone(failing), references):
        return []
    return [
        sentence for sentence, other in _rows(loss, whole=True) if _is_gradient_of(loss, other, failing, references)
    ]


def _rows(loss: Loss, *, whole: bool) -> Iterator[tuple[str, Any]]:
    for row in TABLE:
        other = row.of(loss) if row.kind == "gradient" and row.whole is whole else None
        if other is not None:
            yield row.said(loss, other), other


def _is_gradient_of(loss: Loss, other: Any, failing: Outcomes, references: References) -> bool:
    """Whether gradients are those of a loss, and not those of the right one, where that has them."""
    shows = False
    for inputs, output in failing:
        expected = references.gradient(other, inputs, output.upstream)
        errors = references.bounds(loss, inputs, output.upstream)[1]
        true = references.gradient(loss, inputs, output.upstream)
        for name, theirs in zip(true._fields, output.gradients or (), strict=False):
            if theirs is None:
                continue
            ours = getattr(expected, name)
            if theirs.shape != ours.shape or not _near(theirs, ours, errors[name]):
                return False
            shows = shows or not _near(getattr(true, name), ours, errors[name])
    return shows


def _near(theirs: Array, ours: Array, bound: Array) -> bool:
    """Whether two gradients agree to a thousandth of the largest entry, plus ten times the budget."""
    return bool((np.abs(theirs - ours) <= NEAR * np.abs(ours).max() + 10.0 * bound).all())


def wrong_gradients(loss: Loss, failing: Outcomes, right: Outcomes, references: References) -> list[str]:
    """Say what is wrong with each gradient, in the cases that failed and in those that passed."""
    with np.errstate(all="ignore"):  # rows of zeros, and gradients that have nothing to do with each other
        sentences: list[str] = []
        by_name = _by_name(loss, failing, references)
        for one, other in combinations(by_name, 2):
            if _are_exchanged(by_name[one], by_name[other]):
                sentences += [f"the gradients of {one} and {other} are exchanged"]
                by_name = {name: part for name, part in by_name.items() if name not in (one, other)}
                break
        for name, gradients in by_name.items():
            others = partial(_of_one, loss, name, right, references)
            first = next(_one_gradient(loss, gradients, others), None)
            sentences += [] if first is None else [f"the gradient of {name} {first}"]
        return sentences


def all_gradients(loss: Loss, outcomes: Outcomes, references: References) -> list[str]:
    """Say what is wrong with each gradient, where that is known of all that are wrong."""
    shown, right = split(loss, outcomes, references)
    with np.errstate(all="ignore"):
        wrong = [name for name, part in _by_name(loss, shown, references).items() if not all(g.is_right for g in part)]
    sentences = wrong_gradients(loss, shown, right, references)
    return sentences if len(sentences) == len(wrong) else []


def _are_exchanged(first: Sequence[_Gradient], second: Sequence[_Gradient]) -> bool:
    """Whether each of two gradients is the other in all cases, and not its own in one."""
    pairs = list(zip(first, second, strict=False))
    return (
        len(first) == len(second)
        and all(one.ours.shape == other.ours.shape for one, other in pairs)
        and all(one.near(other.theirs, one.ours) and other.near(one.theirs, other.ours) for one, other in pairs)
        and not all(one.is_right for one in first)
    )


def _by_name(loss: Loss, failing: Outcomes, references: References) -> dict[str, list[_Gradient]]:
    """Return the gradients of all cases by the name of their input; none if one of them has another shape."""
    by_name: dict[str, list[_Gradient]] = {}
    for inputs, output in failing:
        gradient, errors = gradients_of(loss, inputs, output.upstream, references)
        for name, theirs in zip(gradient._fields, output.gradients or (), strict=False):
            ours = getattr(gradient, name)
            if theirs is None or name not in errors:
                continue
            if theirs.shape != ours.shape:
                return {}
            of = Context(without_defects(loss), inputs, output.upstream, name)
            entry = _Gradient(theirs, np.asarray(ours), np.asarray(errors[name]), of)
            by_name.setdefault(name, []).append(entry)
    return by_name


def _clear(gradients: Sequence[_Gradient]) -> list[_Gradient]:
    """Return the cases in which a gradient that is one number is far above its budget, if they show a factor.

    There have to be two at least, and what is not clear may not be more than such a factor makes of it.
    """
    clear = [one for one in gradients if np.abs(one.ours) > MANY * one.bound]
    factors = np.array([float(one.theirs / one.ours) for one in clear])
    if len(clear) < 2 or np.allclose(factors, 1.0, rtol=2.0 * CLEAR):
        return []
    most = MANY * (1.0 + np.abs(factors).max())
    unclear = [one for one in gradients if not np.abs(one.ours) > MANY * one.bound]
    return clear if all(np.abs(one.theirs) <= most * one.bound for one in unclear) else []


def _of_one(loss: Loss, name: str, outcomes: Outcomes, references: References) -> list[_Gradient]:
    return _by_name(loss, outcomes, references).get(name, [])


def _one_gradient(loss: Loss, gradients: Sequence[_Gradient], others: Callable[[], list[_Gradient]]) -> Iterator[str]:
    """Say what is wrong with one gradient: a row that gives it, a factor, both, or two rows; `others` are right."""
    gradients = [one for one in gradients if one.ours.any()]  # a gradient of zeros alone shows no factor
    if not gradients or all(one.is_right for one in gradients):
        return
    if not gradients[0].ours.ndim and any(one.theirs.any() for one in gradients):
        gradients = _clear(gradients)
    if not gradients:
        return
    rows = list(_rows(loss, whole=False))
    for sentence, other in rows:
        if _gives(other, gradients) and _gives(other, [*gradients, *(one for one in others() if one.ours.any())]):
            yield sentence
    if not any(one.ours.any() and not one.is_small for one in others()):
        yield from _factor(gradients)
        for sentence, other in rows:
            yield from (f"{sentence}, and {said}" for said in _factor(_changed(other, gradients)))
    for (one, first), (two, second) in combinations(rows, 2):
        if _gives_both(first, second, gradients, others):
            yield f"{one}, and {two}"


def _changed(other: WithChange, gradients: Sequence[_Gradient]) -> list[_Gradient]:
    """Return the cases that may show a factor of what a row gives; none where the row itself is but a factor."""
    if other.compared is not None or not other.shows([one.of for one in gradients]):
        return []
    changed = [one._replace(ours=other.change(one.ours, one.of)) for one in gradients]
    return [] if _are_multiples(gradients, changed) else [one for one in changed if one.ours.any()]


def _gives_both(
    first: WithChange, second: WithChange, gradients: Sequence[_Gradient], others: Callable[[], list[_Gradient]]
) -> bool:
    """Whether two rows together give one gradient in all cases."""
    contexts = [one.of for one in gradients]
    if first.compared or second.compared or not (first.shows(contexts) and second.shows(contexts)):
        return False
    both = WithChange(first.loss, "", lambda part, of: second.change(first.change(part, of), of))
    return all(_is_near(both, part) for part in (gradients[:1], gradients, others()))


def _gives(other: WithChange, gradients: Sequence[_Gradient]) -> bool:
    """Whether a row gives one gradient in all cases, and can be told from others by them."""
    return other.shows([one.of for one in gradients]) and _is_near(other, gradients)


def _is_near(other: WithChange, gradients: Sequence[_Gradient]) -> bool:
    """Whether a row gives one gradient in all cases."""

    def near(one: _Gradient) -> bool:
        ours = other.change(one.ours, one.of)
        moved = np.abs(other.change(one.ours + one.bound, one.of) - ours)  # the bound, where the change takes it
        theirs = one.theirs
        if other.compared is not None:
            theirs, ours = other.compared(theirs, one.of), other.compared(ours, one.of)
        return _near(theirs, ours, np.maximum(one.bound, moved))

    return all(map(near, gradients))


def _are_multiples(gradients: Sequence[_Gradient], changed: Sequence[_Gradient]) -> bool:
    """Whether a change is but a factor, or none, which another factor would undo."""
    pairs = zip(gradients, changed, strict=True)
    return _common_factor([one._replace(theirs=part.ours) for one, part in pairs]) is not None


def _common_factor(gradients: Sequence[_Gradient]) -> float | None:
    """Return the number by which a gradient is multiplied in all cases, if there is one but 0."""
    factors = np.array([_factor_of(one) for one in gradients])
    if not (factors.all() and np.allclose(factors, factors[0], rtol=1e-2)):
        return None
    near = (one.near(one.theirs / factor, one.ours) for factor, one in zip(factors, gradients, strict=True))
    return float(factors[0]) if all(near) else None


def _factor_of(one: _Gradient) -> float:
    """Return the factor of a gradient by least squares, in which each entry is divided by its budget."""
    theirs, ours = (part / np.maximum(one.bound, np.finfo(float).tiny) for part in (one.theirs, one.ours))
    most = np.abs(ours).max()
    theirs, ours = theirs / most, ours / most
    return float((theirs * ours).sum() / (ours**2).sum())


def _factor(gradients: Sequence[_Gradient]) -> Iterator[str]:
    """Say by which number a gradient is multiplied in all cases, if there are any."""
    factor = _common_factor(gradients) if gradients else None
    if factor is not None and abs(factor - 1.0) > CLEAR:
        where = f"in each of {len(gradients)} failing cases" if len(gradients) > 1 else "in the one case that failed"
        yield f"is {factor:.6g} times what it should be, {where}"


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
