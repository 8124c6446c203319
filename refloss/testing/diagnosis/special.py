"""Explanations by kind of case: results that are not finite, and failures only where cases carry a certain flag."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from refloss.formats import FORMATS
from refloss.testing.adapters import Found
from refloss.testing.defects.settings import MEANS
from refloss.testing.diagnosis.references import Outcomes, References, agrees, all_agree, has_shape
from refloss.testing.hard_cases import Case, counts_nothing
from refloss.testing.signatures import Loss, has_labels, head_of, ignore_index_of, of_pairs

SPECIAL = {
    "overflow",
    "underflow",
    "offset",
    "ignored",
    "weightless",
    "masked",
    "soft",
    "gap",
    "coinciding",
}
"""Flags of cases that fail for reasons of their own."""
NOT_FINITE = (
    ("masked", "where logits are -inf: masked classes have no part in any sum, and 0 * inf is NaN"),
    ("coinciding", "where points coincide, as the root of a squared distance has no slope at 0"),
    ("weightless", "where all weights are 0, as 0/0 is NaN"),
    ("alone", "for one pair alone, of which a sum over other pairs is empty"),
    ("zero vector", "for vectors of zeros, which have no direction"),
    (
        "gap",
        "where logits are far apart: an exponential overflows, or a probability vanishes before its logarithm",
    ),
    (
        "offset",
        "where all logits are large, and not taken away from the largest: exponentials overflow or vanish",
    ),
    ("overflow", "where the square of a length overflows: divide by the largest entry before squaring"),
    ("underflow", "where the square of a length vanishes: divide by the largest entry before squaring"),
    ("ignored", "where labels are to be ignored"),
    ("soft", "where labels are probabilities"),
)
"""Why results may be NaN or infinite in cases with a flag; the first flag of a case that is listed counts."""


def without_special(loss: Loss, outcomes: Iterable[tuple[Case, Found]]) -> list[tuple[Case, Found]]:
    """Return the cases that have a truth, rows that count, and no reason of their own to fail."""
    plain = ((case, output) for case, output in outcomes if "truth" in case.accepts and not set(case.flags) & SPECIAL)
    return [(case, output) for case, output in plain if not counts_nothing(loss, case.inputs)]


def is_finite(loss: Loss, case: Case, output: Found, references: References) -> bool:
    """Whether every number is finite that has to be."""
    theirs = (output.value, *(output.gradients or ()))
    if counts_nothing(loss, case.inputs) or all(part is None or np.isfinite(part).all() for part in theirs):
        return True
    if "truth" not in case.accepts:
        return False
    if not has_shape(loss, [(case.inputs, output)], references):
        return False
    true = (references.value(loss, case.inputs), *references.gradient(loss, case.inputs, output.upstream))
    pairs = [(part, ours) for part, ours in zip(theirs, true, strict=False) if part is not None and ours is not None]
    return all(np.shape(part) != np.shape(ours) or np.isfinite(part[np.isfinite(ours)]).all() for part, ours in pairs)


def are_of_kinds(loss: Loss, cases: Sequence[Case], references: References) -> bool:
    """Whether all of these cases are of a kind in which results may be NaN or infinite for a reason of their own."""
    return all(_kinds(loss, cases, references))


def _kinds(loss: Loss, cases: Sequence[Case], references: References) -> list[set[str]]:
    listed = {flag for flag, _ in NOT_FINITE}
    return [listed & {*case.flags, *_gap(loss, case, references)} for case in cases]


def not_finite(loss: Loss, cases: Sequence[Case], references: References) -> list[str]:
    """Say in which kinds of cases results are NaN or infinite, if all of these cases are of such a kind."""
    kinds = _kinds(loss, cases, references)
    if not all(kinds):
        plain = next(case for case, kind in zip(cases, kinds, strict=True) if not kind)
        return [f"results are NaN or infinite, in {plain.id} for one ({plain.reason})"]
    reasons = dict.fromkeys(next(reason for flag, reason in NOT_FINITE if flag in kind) for kind in kinds)
    return ["NaN or infinite only " + "; and ".join(reasons)] if reasons else []


def _gap(loss: Loss, case: Case, references: References) -> tuple[str, ...]:
    """Return the flag "gap" if logits are so far apart that an exponential vanishes, whatever the case is for."""
    if not (has_labels(loss) or of_pairs(loss)) or "truth" not in case.accepts:
        return ()
    z = references.logits(loss, case.inputs)
    if head_of(loss) == "sigmoid":
        apart = float(np.abs(z).max())  # every answer is yes or no, with a logit of 0 for no
    else:
        apart = float((z.max(axis=1) - np.where(np.isfinite(z), z, np.inf).min(axis=1)).max())
    return ("gap",) if apart > -np.log(FORMATS[references.dtype].smallest) else ()


def by_flags(loss: Loss, failed: Sequence[tuple[Case, Found]], references: References) -> Iterator[str]:
    """Explain why only cases with certain flags fail: labels first, since they count in the verdict."""
    flags = {flag for case, _ in failed for flag in case.flags}
    ignored = [(case.inputs, output) for case, output in failed if "ignored" in case.flags]
    if ignored:
        yield _ignored_labels(loss, ignored, references)
    if "soft" in flags:
        yield "only where labels are probabilities"
    if "masked" in flags:
        yield "only where logits are -inf: masked classes have no probability and no gradient"
    if "coinciding" in flags:
        yield "only where points coincide"
    if "gap" in flags and "offset" not in flags:
        yield "only where logits are far apart, and probabilities vanish: take log_softmax, not the log of a softmax"
    if "offset" in flags and head_of(loss) == "triplet":
        yield "only where points are far from the origin: take differences of points before anything else"
    elif "offset" in flags:
        apart = references.arithmetic._replace(log_p="working")
        offset = [(case.inputs, output) for case, output in failed if "offset" in case.flags]
        by_difference = all(agrees(loss, inputs, output, references, apart) for inputs, output in offset)
        how = ", as logsumexp(z) - z_y gives the loss there" if by_difference else ""
        yield f"only where all logits are large{how}: take the largest away from all of them before anything else"
    if flags & {"overflow", "underflow"}:
        which = " and ".join(f"{flag}s" for flag in ("overflow", "underflow") if flag in flags)
        yield f"in the group range, the square of a length {which}: divide by the largest entry before squaring"


def _ignored_labels(loss: Loss, failing: Outcomes, references: References) -> str:
    """Say how ignored labels go wrong: counted in the mean, or otherwise."""
    for row in MEANS:
        other = row.of(loss)
        if other is not None and all_agree(other, failing, references):
            return f"{row.said(loss, other)}: {other}"
    ignored = ignore_index_of(loss)
    return f"only where labels are to be ignored (ignore_index={ignored}): leave those rows out, or refuse"
