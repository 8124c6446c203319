"""Explanations by a probability that was rounded before the target was subtracted from it.

The gradient of a logit is p - t, times the weight of its row. Where the target is nearly certain, p - t is far smaller
than p, and a rounding error of p, up to u p, may be larger than all of it. Such an error is at the targets alone: no
other logit has anything subtracted, and there it is one more rounding of the gradient.
"""

from __future__ import annotations

import numpy as np

from refloss.error_free import Array
from refloss.formats import FORMATS
from refloss.stages import cross_entropy
from refloss.testing.adapters import Found
from refloss.testing.diagnosis.references import Outcomes, References, agrees
from refloss.testing.diagnosis.rows import rows_of
from refloss.testing.hard_cases.case import Labels
from refloss.testing.signatures import Inputs, Loss, head_of, labels_of

ROUNDINGS = 2.0
"""Roundings of a probability: its own, and that of the difference."""


def rounded_probabilities(loss: Loss, failing: Outcomes, references: References) -> list[str]:
    """Say that p was rounded before the target was subtracted; by "relative" also that log p was, next to 0.

    Errors beyond the budget have to be at most two roundings of p at targets, and one elsewhere. That p was rounded is
    said only if an error at a target is more than one more rounding of the gradient.
    """
    a = references.arithmetic
    if head_of(loss) not in ("logits", "linear") or not (a.stored or a.log_p == "relative"):
        return []
    u, loose = a.stored or a.u, a if a.stored else a._replace(log_p="stable")
    values = [agrees(loss, inputs, output._replace(gradients=None), references) for inputs, output in failing]
    if not all(agrees(loss, inputs, output._replace(gradients=None), references, loose) for inputs, output in failing):
        return []
    with np.errstate(all="ignore"):
        shown = [_at_targets(loss, inputs, output, references, u) for inputs, output in failing]
    if None in shown:
        return []
    return ([] if all(values) else [LOG_P]) + ([_sentence(references)] if any(shown) else [])


LOG_P = "the loss of confident targets is right only absolutely: it is the gap to the largest logit plus a log1p"


def _sentence(references: References) -> str:
    a = references.arithmetic
    if not a.stored:
        return (
            f"p of confident targets was rounded to {references.dtype} before 1 was subtracted: the gradient of a "
            "target's logit is minus the sum of the other probabilities"
        )
    wide = next(name for name, stored in FORMATS.items() if stored.u == a.u)
    rounded = f"a softmax was rounded to {references.dtype} before the target was subtracted"
    return f"{rounded}: form p - 1 in {wide} and round once"


def _at_targets(loss: Loss, inputs: Inputs, output: Found, references: References, u: float) -> bool | None:
    """Whether any gradient is over budget; None if that is not explained by errors of p at the targets."""
    if not output.gradients:
        return False
    if inputs[labels_of(loss) or 0].ndim > 1:
        return None
    rows = rows_of(loss, inputs, references)
    upstream = output.upstream[rows.kept] if np.ndim(output.upstream) else output.upstream
    weights = cross_entropy.row_weights(np.asarray(upstream), loss.reduction, rows.divisor, len(rows.z))
    target, p, g = np.zeros((3, len(rows.kept), rows.classes))
    target[rows.kept] = rows.t != 0.0
    p[rows.kept] = np.abs(np.asarray(weights) * rows.total)[:, None] * np.exp(rows.z - rows.lse[:, None])
    g[rows.kept] = p[rows.kept] - np.abs(np.asarray(weights))[:, None] * rows.t
    gradient = references.gradient(loss, inputs, output.upstream)
    errors = references.bounds(loss, inputs, output.upstream)[1]
    named = zip(gradient._fields, output.gradients, strict=False)
    theirs = {name: part for name, part in named if part is not None}
    if any(part.shape != errors[name].shape for name, part in theirs.items()):
        return None
    off = {name: part - getattr(gradient, name) for name, part in theirs.items()}
    roundings = ROUNDINGS if references.arithmetic.stored else ROUNDINGS + references.arithmetic.sum_of(rows.classes)
    most = u * p * np.where(target, roundings, 1.0)
    if head_of(loss) == "logits":
        of_z, reach = off["z"], errors["z"]
        explained = bool((np.abs(of_z) <= reach + most).all())
    elif "x" in off:
        label = np.zeros(len(rows.kept), np.int64)
        label[rows.kept] = rows.label.argmax(axis=1)
        of_z, reach = _of_logits(inputs, label, off["x"], errors["x"], most)
        explained = _through_products(inputs, off, errors, of_z, np.maximum(reach, most))
        explained = explained and bool((np.abs(of_z) <= reach + most).all())
    else:
        return None
    return bool((target * np.abs(of_z) > reach + u * np.abs(g)).any()) if explained else None


def _of_logits(inputs: Inputs, label: Labels, off: Array, errors: Array, most: Array) -> tuple[Array, Array]:
    """Return the error of dz at the label of each row that its error of dx tells, and how far it may be from that.

    The other entries of the row have errors of up to ``most`` of their own.
    """
    each, w = np.arange(len(label)), inputs[1]
    own, others = w[label], most.copy()
    others[each, label] = 0.0
    squares = (own**2).sum(axis=1)
    of_z, reach = np.zeros((2, *most.shape))
    of_z[each, label] = (off * own).sum(axis=1) / squares
    reach[each, label] = ((errors + others @ np.abs(w)) * np.abs(own)).sum(axis=1) / squares
    return of_z, reach


def _through_products(
    inputs: Inputs, off: dict[str, Array], errors: dict[str, Array], of_z: Array, reach: Array
) -> bool:
    """Whether errors of the gradients of a linear layer are those of dz, as far as these are known."""
    x, w = inputs[:2]
    through = {
        "x": (of_z @ w, reach @ np.abs(w)),
        "w": (of_z.T @ x, reach.T @ np.abs(x)),
        "b": (of_z.sum(axis=0), reach.sum(axis=0)),
    }
    return all((np.abs(part - through[name][0]) <= errors[name] + through[name][1]).all() for name, part in off.items())
