"""Explanations by rows of the table that change the value: other settings, other inputs, a wrong step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, combinations, islice, product
from typing import Any

import numpy as np

from refloss.testing.adapters import Found
from refloss.testing.defects.emulations import Emulation, Scaled, WithGradient
from refloss.testing.defects.inputs import WithInputs
from refloss.testing.defects.row import Defect
from refloss.testing.defects.settings import AGREES
from refloss.testing.defects.steps import Stepped, plainly
from refloss.testing.defects.table import TABLE, combined
from refloss.testing.diagnosis.fits import Errors, Explanation, fitted, fitted_steps, is_near
from refloss.testing.diagnosis.gradients import all_gradients, whole_gradients
from refloss.testing.diagnosis.precision import short_numbers
from refloss.testing.diagnosis.references import (
    Explained,
    Outcomes,
    References,
    all_agree,
    gradients_of,
    has_shape,
    misfit,
    split,
    values_alone,
)
from refloss.testing.signatures import Inputs, Loss

FIRST = 4
"""Number of cases that an explanation is tried on before it is tried on all."""
CLEAR = 3.0
"""Budgets that the error of a value has to exceed in some case for a wrong step to be named."""


def rows(loss: Loss, kind: str, table: Iterable[Defect] | None = None) -> Iterator[Explanation]:
    """Yield the sentences of the rows of a kind that apply to a loss, and the loss with each."""
    for row in TABLE if table is None else table:
        other = row.of(loss) if row.kind == kind else None
        if other is not None:
            yield row.said(loss, other), other


def explains(other: Explained, failing: Outcomes, right: Outcomes, references: References) -> bool:
    """Whether value and gradients are those of this loss, in the cases that failed and in those that passed."""
    return all(all_agree(other, part, references) for part in (failing[:FIRST], failing, right))


def other_losses(loss: Loss, failing: Outcomes, right: Outcomes, references: References, *, coarse: bool) -> list[str]:
    """Name other settings that explain all cases; where none does, a fitted one."""
    known: dict[Explained, str] = {}  # of rows that are the same loss, the first; a factor, where nothing else is
    for sentence, other in rows(loss, "setting"):
        if other in known or (known and isinstance(other, Scaled)):
            continue
        if explains(other, failing, right, references):
            known[other] = _with_remedy(sentence, other)
    if known or not has_shape(loss, failing, references):
        return list(known.values())
    return [
        f"{sentence}: {other}{far}"
        for sentence, other, far in fitted(loss, failing[:FIRST], references, coarse=coarse)
        if explains(other, failing, right, references)
    ]


def both(first: str, second: str) -> str:
    """Return the sentence of two rows."""
    return f"{first}; and {second.removeprefix(AGREES).lstrip()}"


def _with_remedy(sentence: str, other: Explained | str) -> str:
    return f"{sentence}: {other}" if str(other) else sentence


def other_inputs(loss: Loss, failing: Outcomes, right: Outcomes, references: References) -> list[str]:
    """Name other labels, margins or layouts that explain all cases."""
    others = rows(loss, "inputs")
    return [sentence for sentence, other in others if explains(other, failing, right, references)]


def wrong_steps(loss: Loss, failing: Outcomes, right: Outcomes, references: References, *, coarse: bool) -> list[str]:
    """Name the step that accounts for the errors, if one does: of several rows the nearest, else a fit.

    Of most steps the value alone is known: it has to be clearly wrong. Where one number is, or unless `coarse`, a step
    has to give it to a thousandth of the error.
    """
    errors = _errors(loss, (*failing, *right), references)
    shown = _shows(errors)
    exact = not coarse or sum(int((one.off > CLEAR * one.allowed).sum()) for one in errors) == 1

    def may_be(other: Explained) -> bool:
        if not explains(other, failing, right, references):
            return False
        return not exact or all(is_near(other, loss, *outcome, references) for outcome in (*failing, *right))

    with np.errstate(all="ignore"):
        explained = {
            _with_remedy(sentence, other): round(misfit(loss, other, (*failing, *right), references), 2)
            for sentence, other in rows(loss, "step")
            if (shown or not isinstance(other, Stepped)) and may_be(other)
        }
        if explained:
            return [min(explained, key=lambda sentence: explained[sentence])]
        fits = ((row.sentence, row.emulate(loss)) for row in (fitted_steps(loss, errors) if shown else ()))
        return list(islice((_with_remedy(sentence, other) for sentence, other in fits if may_be(other)), 1))


def _errors(loss: Loss, outcomes: Outcomes, references: References) -> list[Errors]:
    errors = []
    for inputs, output in outcomes:
        allowed = references.bounds(loss, inputs, output.upstream)[0]
        off = np.abs(output.value - references.value(loss, inputs))
        errors.append(Errors(inputs, output.value, off, allowed))
    return errors


def shows_value(loss: Loss, outcomes: Outcomes, references: References) -> bool:
    """Whether some value is clearly wrong."""
    return _shows(_errors(loss, outcomes, references))


def _shows(errors: Iterable[Errors]) -> bool:
    return any((one.off > CLEAR * one.allowed).any() for one in errors)


# ---------------------------------------------------------------------------------------------------------- two defects

CHANGES_VALUE = ("setting", "step", "inputs")
"""Kinds of rows that pairs are made of; two gradients are explained by themselves."""
OF_EACH_SHAPE = 2
"""Number of cases of each shape in which gradients of a changed step are taken."""
OF_ROUNDINGS = 0.1
"""Share of the error of a value that may be left to roundings."""
LOOKED_AT = 6
"""Number of cases with a wrong value among which the one is chosen that pairs are tried on first."""


def in_part(loss: Loss, failing: Outcomes, right: Outcomes, references: References) -> list[str]:
    """Name other settings that the gradients alone have, or the value alone; factors are those of gradients."""
    if not any(output.gradients for _, output in failing):
        return []
    others = [
        (said, other)
        for said, other in rows(loss, "setting")
        if other.reduction == loss.reduction and not isinstance(other, Scaled)
    ]
    parts = chain(
        ((f"in the gradients alone, {said}", WithGradient(loss, "", other)) for said, other in others),
        ((f"in the value alone, {said}", WithGradient(other, "", loss)) for said, other in others),
    )
    explained = (said for said, other in parts if explains(other, failing, right, references))
    return list(islice(explained, 1))


def pairs(loss: Loss, failing: Outcomes, right: Outcomes, references: References, *, coarse: bool) -> list[str]:
    """Name the first two rows, or a row and a fitted setting, that together explain all cases.

    They are tried in one case first, by their values in plain float64: of those in which the value is wrong, the one in
    which most rows change it. Of two rows one may leave the value as it is, and be wrong in the gradients alone.
    """
    if not failing:
        return []
    with np.errstate(all="ignore"):
        candidates = [row for row in TABLE if row.kind in CHANGES_VALUE and row.of(loss) is not None]
        if not shows_value(loss, failing, references):
            settings = [
                row
                for row in candidates
                if row.kind == "setting" and _changes_gradients(row.of(loss), loss, failing, references)
            ]
            return list(islice(_beside_gradients(loss, settings, failing, right, references), 1))
        wrong = (outcome for outcome in failing if shows_value(loss, [outcome], references))
        changing, shown = {}, list(islice(wrong, LOOKED_AT))
        for outcome in shown:
            changing[id(outcome)] = [row for row in candidates if _changes(row.of(loss), loss, outcome, references)]
        first = max(shown, key=lambda outcome: len(changing[id(outcome)]))
        some = changing[id(first)]
        near = [row for row in some if _may_explain(row.of(loss), loss, first, references)]
        alone = [row for row in near if _explains_values(row.of(loss), failing, references)]
        others = [row for row in candidates if row not in some]
        found: Iterable[str] = chain(
            _two(loss, product(near, others), alone, first, failing, right, references),
            _beside_gradients(loss, near, failing, right, references),
        )
        if not alone:  # else nothing is missing in the values
            found = chain(
                found,
                _two(loss, combinations(some, 2), alone, first, failing, right, references),
                _with_fits(loss, candidates, failing, right, references, coarse=coarse),
                _beside_roundings(loss, some, first, failing, right, references),
            )
        return list(islice(found, 1))


def _changes(other: Any, loss: Loss, outcome: tuple[Inputs, Found], references: References) -> bool:
    """Whether a row changes the value of a case by more than its budget."""
    inputs, output = outcome
    try:
        value = np.asarray(plainly(other, inputs))
    except (ValueError, TypeError, IndexError):
        return False
    true, allowed = references.value(loss, inputs), references.bounds(loss, inputs, output.upstream)[0]
    return value.shape != np.shape(true) or bool((np.abs(value - true) > allowed).any())


def _changes_gradients(other: Any, loss: Loss, outcomes: Outcomes, references: References) -> bool:
    """Whether a setting changes a gradient of some case by more than its budget, with the reduction that it has."""
    if other.reduction != loss.reduction:
        return False
    for inputs, output in outcomes:
        gradient, errors = gradients_of(loss, inputs, output.upstream, references)
        try:
            changed, _ = gradients_of(other, inputs, output.upstream, references)
        except (ValueError, TypeError, IndexError):  # it does not apply to such inputs
            continue
        for name, allowed in errors.items():
            if (np.abs(getattr(changed, name) - getattr(gradient, name)) > allowed).any():
                return True
    return False


def _two(
    loss: Loss,
    pairs: Iterable[tuple[Defect, Defect]],
    alone: Sequence[Defect],
    first: tuple[Inputs, Found],
    failing: Outcomes,
    right: Outcomes,
    references: References,
) -> Iterator[str]:
    """Yield two rows that explain all cases together, of those that may explain the first.

    A step, of which the value is known, is not named beside a row that explains the values alone.
    """
    for one, two in pairs:
        other = combined(loss, (one, two))
        if other is None or not _may_explain(other, loss, first, references):
            continue
        if _has_step(other) and (one in alone or two in alone):
            continue
        if explains(other, failing, right, references):
            yield _with_remedy(both(one.said(loss, other), two.said(loss, other)), other)


def _has_step(other: Explained) -> bool:
    """Whether a changed step is part of it."""
    return _has_step(other.loss) if isinstance(other, WithInputs) else isinstance(other, Stepped)


def _explains_values(other: Any, failing: Outcomes, references: References) -> bool:
    """Whether the values are those of a row."""
    return all_agree(other, values_alone(failing), references)


def _beside_gradients(
    loss: Loss, candidates: Iterable[Defect], failing: Outcomes, right: Outcomes, references: References
) -> Iterator[str]:
    """Yield a row that explains the values, and what is wrong with gradients beside."""
    wrong, others = values_alone(failing), values_alone(right)
    for row in candidates:
        other: Any = row.of(loss)
        if not explains(other, wrong, others, references):
            continue
        outcomes = [*failing, *right]
        if isinstance(other, Stepped):
            outcomes = _of_each_shape(outcomes)  # since its gradients are differences
        sentences = [] if isinstance(other, Emulation) else whole_gradients(other, failing, references)[:1]
        sentences = sentences or all_gradients(other, outcomes, references)
        if not sentences:
            continue
        if isinstance(other, Emulation):  # a remedy is that of the row
            yield "; and ".join([_with_remedy(row.said(loss, other), other), *sentences])
        else:
            yield _with_remedy("; and ".join([row.said(loss, other), *sentences]), other)


def _of_each_shape(outcomes: Outcomes) -> list[tuple[Inputs, Found]]:
    """Return the first cases of each shape."""
    by_shape: dict[tuple[int, ...], list[tuple[Inputs, Found]]] = {}
    for inputs, output in outcomes:
        by_shape.setdefault(tuple(map(np.size, inputs)), []).append((inputs, output))
    return [outcome for some in by_shape.values() for outcome in some[:OF_EACH_SHAPE]]


def _beside_roundings(
    loss: Loss,
    candidates: Iterable[Defect],
    first: tuple[Inputs, Found],
    failing: Outcomes,
    right: Outcomes,
    references: References,
) -> Iterator[str]:
    """Yield another setting beside numbers shorter than those of the dtype."""
    inputs, output = first
    for row in candidates:
        other = row.of(loss) if row.kind == "setting" else None
        if other is None or isinstance(other, Emulation) or _in_rows(other) != _in_rows(loss):
            continue
        off, rest = (np.abs(output.value - np.asarray(plainly(each, inputs))) for each in (loss, other))
        if (rest > OF_ROUNDINGS * off.max()).any():
            continue
        wrong, agreeing = split(other, [*failing, *right], references)
        for sentence in short_numbers(other, wrong, agreeing, references) if wrong else ():
            yield _with_remedy(both(row.said(loss, other), sentence), other)


def _may_explain(other: Any, loss: Loss, outcome: tuple[Inputs, Found], references: References) -> bool:
    try:
        return is_near(other, loss, *outcome, references)
    except (ValueError, TypeError, IndexError):  # it does not apply to such inputs
        return False


def _in_rows(loss: Loss) -> bool:
    """Whether the value is that of each row."""
    return loss.reduction == "none"


def _with_fits(
    loss: Loss,
    candidates: Sequence[Defect],
    failing: Outcomes,
    right: Outcomes,
    references: References,
    *,
    coarse: bool,
) -> Iterator[str]:
    """Yield a row of another setting with a fitted setting beside."""
    for row in candidates:
        other = row.of(loss) if row.kind == "setting" else None
        if other is None or isinstance(other, Emulation) or _in_rows(other) != _in_rows(loss):
            continue
        for sentence, fit, far in fitted(other, failing[:FIRST], references, coarse=coarse):
            if explains(fit, failing, right, references):
                yield _with_remedy(both(row.said(loss, other), sentence), f"{fit}{far}")
