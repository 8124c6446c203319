"""What would explain a failure: the defects that are common in public code, each tried on the cases that ran.

A cause is named only if it explains everything in the failing cases. Another loss does if value and gradients agree
with it within budget, in the cases that failed and in those that passed. A wrong step, of which only the value is
known, does if it accounts for the errors of the value. Values that are NaN or infinite are explained only by a step
that gives exactly those. Errors that shorter numbers would explain must also look like the roundings of such numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from refloss.engines.contract import AccuracyWarning
from refloss.testing.adapters import Found
from refloss.testing.diagnosis.centers import wrong_centers
from refloss.testing.diagnosis.gradients import single_entry, wrong_gradients, wrong_slopes, wrong_upstreams
from refloss.testing.diagnosis.other_losses import Explanation, fitted, of_shards, relabelled, relatives
from refloss.testing.diagnosis.precision import by_arccos, clamped, short_numbers
from refloss.testing.diagnosis.references import Outcomes, References, all_agree
from refloss.testing.diagnosis.rounded import rounded_probabilities
from refloss.testing.diagnosis.special import by_flags, is_finite, not_finite, without_special
from refloss.testing.diagnosis.wrong_steps import steps_that_explain
from refloss.testing.errors import Arithmetic
from refloss.testing.hard_cases import Case
from refloss.testing.signatures import Loss, head_of, of_directions

__all__ = ["diagnose"]

FIRST = 4
"""Number of cases that an explanation is tried on before it is tried on all."""


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
    sentences = not_finite(loss, [case for case in infinite if case.group != "range"], references)
    failing, right = without_special(finite), [(case.inputs, output) for case, output in without_special(passed)]
    if failing:
        sentences = _named(loss, failing, right, references) + sentences  # may explain infinities too
    else:
        sentences += list(by_flags(loss, finite, references))
    in_range = not_finite(loss, [case for case in infinite if case.group == "range"], references)
    return sentences + [f"in the group range: {sentence}" for sentence in in_range]


def _as_rows(loss: Loss, case: Case, output: Found) -> tuple[Case, Found]:
    """Return logits (..., C) as rows (N, C), with labels, other logits and results in the same layout."""
    z, y = case.inputs
    classes = z.shape[-1]
    rows = z.reshape(-1, classes), y.reshape((-1, classes) if y.ndim == z.ndim else -1)
    parts = (output.value, output.upstream)
    value, upstream = (np.reshape(part, -1) for part in parts) if loss.reduction == "none" else parts
    gradients = (
        None
        if output.gradients is None
        else tuple(
            part if part is None or part.shape != z.shape else part.reshape(-1, classes) for part in output.gradients
        )
    )
    return case._replace(inputs=rows), output._replace(value=value, upstream=upstream, gradients=gradients)


def _named(loss: Loss, failing: Sequence[tuple[Case, Found]], right: Outcomes, references: References) -> list[str]:
    """Return causes of the failures; if nothing explains all of them, causes of those outside the group hard."""
    causes = _causes(loss, [(case.inputs, output) for case, output in failing], right, references)
    easy = [(case.inputs, output) for case, output in failing if case.group != "hard"]
    if causes or len(easy) == len(failing):
        return causes
    causes = _certain_causes(loss, easy, right, references, fit=False)
    return [f"{sentence} (but for the group hard, where more is wrong)" for sentence in causes]


def _causes(loss: Loss, failing: Outcomes, right: Outcomes, references: References) -> list[str]:
    """Return causes that explain all of the failures, from the surest kind that has one."""
    causes = _certain_causes(loss, failing, right, references, fit=True)
    causes = causes or rounded_probabilities(loss, failing, references) or wrong_upstreams(loss, failing, references)
    causes = causes or wrong_slopes(loss, failing, references) or wrong_gradients(loss, failing, references)
    if of_directions(loss) and not causes:
        causes = clamped(loss, failing, references)
    if head_of(loss) == "margin" and not causes:
        causes = by_arccos(loss, failing, references)
    return causes or list(single_entry(loss, failing, references)) or short_numbers(loss, failing, right, references)


def _certain_causes(loss: Loss, failing: Outcomes, right: Outcomes, references: References, *, fit: bool) -> list[str]:
    """Return causes that leave no room for chance: another loss, other labels, a wrong step."""
    if not failing:
        return []
    tried = (failing[:FIRST], failing, right)

    def agreeing(explanations: Iterable[Explanation]) -> Iterator[str]:
        for sentence, other in explanations:
            if all(all_agree(other, part, references) for part in tried):
                yield f"{sentence}: {other}"

    others = list(agreeing(relatives(loss)))
    if fit and not others:
        others = list(agreeing(fitted(loss, failing[:FIRST], references)))
    if others:
        return others
    shifts = [
        sentence
        for sentence, shifted in relabelled(loss)
        if all(all_agree(loss, shifted(part), references) for part in tried)
    ]
    shifts = shifts or list(islice(agreeing(of_shards(loss)), 1))
    return shifts or steps_that_explain(loss, failing, right, references) or wrong_centers(loss, failing, references)
