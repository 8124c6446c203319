"""What would explain a failure: the rows of the table of defects, each tried on the cases that ran.

A cause is named only if it explains everything in the failing cases, and holds in those that passed. A row with another
loss or with other inputs does if value and gradients agree with it within its budget. A changed step, of which only the
value is known, does if it accounts for the errors of the value and if gradients have its slope, or are right. Where no
row explains all, gradients are looked at one by one, and rows are tried in pairs. Values that are NaN or infinite are
explained by no row. Errors that shorter numbers would explain must also look like the roundings of such numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial

import numpy as np

from refloss.engines.contract import AccuracyWarning
from refloss.testing.adapters import Found
from refloss.testing.defects.settings import REDUCTIONS
from refloss.testing.diagnosis.gradients import single_entry, whole_gradients, wrong_gradients
from refloss.testing.diagnosis.precision import by_arccos, clamped, short_numbers
from refloss.testing.diagnosis.references import Outcomes, References, agrees, has_shape, split
from refloss.testing.diagnosis.rounded import rounded_probabilities
from refloss.testing.diagnosis.special import SPECIAL, are_of_kinds, by_flags, is_finite, not_finite, without_special
from refloss.testing.diagnosis.values import both, in_part, other_inputs, other_losses, pairs, shows_value, wrong_steps
from refloss.testing.errors import Arithmetic
from refloss.testing.hard_cases import Case
from refloss.testing.signatures import Loss, head_of, of_directions

__all__ = ["diagnose"]

VALUE_UNKNOWN = "what is wrong with the value is not known"
"""Said beside what is wrong with gradients, where no row explains the value."""


def diagnose(
    loss: Loss,
    failed: Sequence[tuple[Case, Found]],
    passed: Sequence[tuple[Case, Found]],
    a: Arithmetic,
    dtype: str,
) -> list[str]:
    """Return sentences that explain all of the failing cases (or all but the hard ones), or none.

    Cases that fail for reasons of their own, such as lengths that overflow and labels that are ignored, are considered
    only if nothing else fails, since other causes show in them too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)  # of scales that are tried; budgets know how large they are
        return _diagnose(loss, failed, passed, References(dtype, a))


def _diagnose(
    loss: Loss,
    failed: Sequence[tuple[Case, Found]],
    passed: Sequence[tuple[Case, Found]],
    references: References,
) -> list[str]:
    if head_of(loss) in ("logits", "divergence"):
        failed, passed = ([_as_rows(loss, case, output) for case, output in ran] for ran in (failed, passed))
    finite = [(case, output) for case, output in failed if is_finite(loss, case, output, references)]
    infinite = [case for case, output in failed if not is_finite(loss, case, output, references)]
    elsewhere = [case for case in infinite if case.group != "range"]
    sentences = not_finite(loss, elsewhere, references)
    failing = without_special(loss, finite)
    right = [(case.inputs, output) for case, output in without_special(loss, passed)]
    if failing:
        sentences = _named(loss, failing, right, references) + sentences  # may explain infinities too
    else:
        sentences += _of_gaps(loss, finite, passed, references) or list(by_flags(loss, finite, references))
    in_range = [case for case in infinite if case.group == "range"] if are_of_kinds(loss, elsewhere, references) else []
    return sentences + [f"in the group range: {sentence}" for sentence in not_finite(loss, in_range, references)]


def _of_gaps(
    loss: Loss, failed: Sequence[tuple[Case, Found]], passed: Sequence[tuple[Case, Found]], references: References
) -> list[str]:
    """Return causes where all that fails has logits far apart, or far from 0 too, as where these are clamped."""
    others = SPECIAL - {"gap", "offset"}
    failing, right = (
        [(case.inputs, output) for case, output in ran if "truth" in case.accepts and not others & set(case.flags)]
        for ran in (failed, passed)
    )
    if len(failing) < len(failed) or not any("gap" in case.flags for case, _ in failed):
        return []
    return _certain_causes(loss, failing, right, references, coarse=False)


def _as_rows(loss: Loss, case: Case, output: Found) -> tuple[Case, Found]:
    """Return logits (..., C) as rows (N, C), with labels, other logits and results in the same layout."""
    z, y = case.inputs
    classes = z.shape[-1]
    rows = z.reshape(-1, classes), y.reshape((-1, classes) if y.ndim == z.ndim else -1)
    parts = (output.value, output.upstream)
    of_rows = getattr(loss, "reduction", "none") == "none"
    value, upstream = (part.reshape(-1) if of_rows and np.shape(part) == z.shape[:-1] else part for part in parts)
    gradients = (
        None
        if output.gradients is None
        else tuple(
            part if part is None or part.shape != z.shape else part.reshape(-1, classes) for part in output.gradients
        )
    )
    return case._replace(inputs=rows), output._replace(value=value, upstream=upstream, gradients=gradients)


def _named(loss: Loss, failing: Sequence[tuple[Case, Found]], right: Outcomes, references: References) -> list[str]:
    """Return causes of the failures; if nothing explains all of them, causes of those outside the group hard.

    Where all that came back is right, as where a gradient is missing, there is nothing to explain.
    """
    failing = [(case, output) for case, output in failing if not agrees(loss, case.inputs, output, references)]
    if not failing:
        return []
    causes = _causes(loss, [(case.inputs, output) for case, output in failing], right, references)
    easy = [(case.inputs, output) for case, output in failing if case.group != "hard"]
    if causes or len(easy) == len(failing):
        return causes
    causes = _certain_causes(loss, easy, right, references, coarse=False)
    if has_shape(loss, easy, references):
        causes = causes or in_part(loss, easy, right, references)
        causes = causes or pairs(loss, easy, right, references, coarse=False)
    return [f"{sentence} (but for the group hard, where more is wrong)" for sentence in causes]


def _causes(loss: Loss, failing: Outcomes, right: Outcomes, references: References) -> list[str]:
    """Return causes that explain all of the failures, from the surest kind that has one."""
    causes = _certain_causes(loss, failing, right, references, coarse=True)
    if causes:
        return causes
    if not has_shape(loss, failing, references):
        return _of_other_reduction(loss, failing, right, references)
    causes = rounded_probabilities(loss, failing, references)
    causes = causes or in_part(loss, failing, right, references)
    of_gradients = partial(wrong_gradients, loss, failing, right, references)
    of_two = partial(pairs, loss, failing, right, references, coarse=True)
    if shows_value(loss, failing, references):  # then what is wrong with gradients is not all
        causes = causes or of_two() or [*(found := of_gradients()), *([VALUE_UNKNOWN] if found else [])]
    else:
        causes = causes or of_gradients() or of_two()
    if of_directions(loss) and not causes:
        causes = clamped(loss, failing, references)
    if head_of(loss) == "margin" and not causes:
        causes = by_arccos(loss, failing, references)
    return causes or list(single_entry(loss, failing, references)) or short_numbers(loss, failing, right, references)


def _of_other_reduction(loss: Loss, failing: Outcomes, right: Outcomes, references: References) -> list[str]:
    """Return causes beside another reduction, where values have its shape."""
    found = []
    for row in REDUCTIONS:
        other = row.of(loss)
        if other is not None and has_shape(other, failing, references):
            wrong, others = split(other, failing, references)
            causes = _causes(other, wrong, [*others, *right], references)
            if causes and all(cause.startswith(("the gradient", VALUE_UNKNOWN)) for cause in causes):
                causes = ["; and ".join(causes)]  # these are wrong together
            found.append([both(row.said(loss, other), cause) for cause in causes])
    return min(filter(None, found), key=_defects_in, default=[])


def _defects_in(sentences: Sequence[str]) -> int:
    """Return how many defects sentences name."""
    return sum(1 + said.count("; and ") for said in sentences)


def _certain_causes(
    loss: Loss, failing: Outcomes, right: Outcomes, references: References, *, coarse: bool
) -> list[str]:
    """Return causes that leave no room for chance: another loss, other inputs, a wrong step, all gradients."""
    if not failing:
        return []
    others = other_losses(loss, failing, right, references, coarse=coarse)
    if others or not has_shape(loss, failing, references):
        return others
    return (
        other_inputs(loss, failing, right, references)
        or wrong_steps(loss, failing, right, references, coarse=coarse)
        or whole_gradients(loss, failing, references)
    )
