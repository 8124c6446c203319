"""Explanations by a probability that was rounded before the target was subtracted from it.

The gradient of a logit is p - t, times the weight of its row. Where the target is nearly certain, p - t is far smaller
than p, and a rounding error of p, up to u p, may be larger than all of it. Such an error is at the targets alone: no
other logit has anything subtracted, and there it is one more rounding of the gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.formats import FORMATS, rounded
from refloss.stages import cross_entropy
from refloss.testing.adapters import Found
from refloss.testing.defects.loss_rows import Scores, rows_of
from refloss.testing.diagnosis.references import Outcomes, References, agrees, all_agree, values_alone
from refloss.testing.signatures import Inputs, Loss, head_of, labels_of

ROUNDINGS = 8.0
"""Roundings of p in the wider dtype beside those of its sum: gap, exponential, quotient, logarithm."""
LOG_P = "the loss of confident targets is right only absolutely: it is the gap to the largest logit plus a log1p"
P_MINUS_ONE = (
    "p of confident targets was rounded before 1 was subtracted: the gradient of a target's logit is minus the sum of "
    "the other probabilities"
)


def rounded_probabilities(loss: Loss, failing: Outcomes, references: References) -> list[str]:
    """Say that p was rounded before the target was subtracted; by "relative" also that log p was, next to 0.

    All errors beyond the budget have to be those that this causes. That p was rounded is said only if an error at a
    target is more than one more rounding of the gradient.
    """
    a = references.arithmetic
    if head_of(loss) not in ("logits", "linear") or not (a.stored or a.log_p == "relative"):
        return []
    loose = a if a.stored else a._replace(log_p="stable")
    values = values_alone(failing)
    if not all(agrees(loss, inputs, output, references, loose) for inputs, output in values):
        return []
    with np.errstate(all="ignore"):
        shown = [_shows(loss, inputs, output, references) for inputs, output in failing]
    if None in shown:
        return []
    sentences = [] if all_agree(loss, values, references) else [LOG_P]
    if any(shown) and a.stored:
        wide = next(name for name, stored in FORMATS.items() if stored.u == a.u)
        what = f"a softmax was rounded to {references.dtype} before the target was subtracted"
        sentences += [f"{what}: form p - 1 in {wide} and round once"]
    elif any(shown):
        sentences += [P_MINUS_ONE]
    return sentences


class _Caused(NamedTuple):
    """The errors of dz (N, C) that rounding p to the dtype causes."""

    error: Array
    """At targets, p rounded less p; elsewhere 0."""
    reach: Array
    """How far they may be from that."""
    least: Array
    """What an error at a target has to exceed to show it; infinite elsewhere."""


def _caused(loss: Loss, inputs: Inputs, output: Found, references: References) -> _Caused:
    """Return the errors that rounding p causes, from p itself where the dtype that is stored is known.

    It is rounded with the least and with the largest value that the wider dtype may have given it. One more rounding,
    of the gradient, may follow. By "relative" p is rounded by every step in the dtype itself.
    """
    z = references.logits(loss, inputs)
    rows, a = rows_of(loss, Scores(z, np.zeros(len(z))), inputs), references.arithmetic
    upstream = output.upstream[rows.kept] if np.ndim(output.upstream) else output.upstream
    weights = cross_entropy.row_weights(np.asarray(upstream), loss.reduction, rows.divisor, len(rows.z))
    scale, gap = (np.asarray(weights) * rows.total)[:, None], rows.lse[:, None] - rows.z
    p, target = np.exp(-gap), rows.t != 0.0
    g = np.abs(scale * p - np.asarray(weights)[:, None] * rows.t)
    of_p = (a.sum_of(rows.classes) + ROUNDINGS + 2.0 * np.abs(gap)) * a.u
    u, error, reach = a.stored or a.u, np.zeros(p.shape), of_p * p
    if a.stored:
        least, most = rounded(p * (1.0 - of_p), references.dtype), rounded(p * (1.0 + of_p), references.dtype)
        error, reach = (least + most) / 2.0 - p, (most - least) / 2.0
    error = np.where(target, scale * error, 0.0)
    reach = np.where(target, np.abs(scale) * reach + u * (g + np.abs(error)), u * np.abs(scale) * p)
    whole = np.zeros((3, len(rows.kept), rows.classes))
    whole[:, rows.kept] = error, reach, np.where(target, u * g, np.inf)
    return _Caused(*whole)


def _shows(loss: Loss, inputs: Inputs, output: Found, references: References) -> bool | None:
    """Whether an error at a target shows that p was rounded; None if that does not explain every error."""
    if not output.gradients:
        return False
    if inputs[labels_of(loss) or 0].ndim > 1:
        return None
    gradient = references.gradient(loss, inputs, output.upstream)
    errors = references.bounds(loss, inputs, output.upstream)[1]
    named = zip(gradient._fields, output.gradients, strict=False)
    theirs = {name: part for name, part in named if part is not None}
    if any(part.shape != errors[name].shape for name, part in theirs.items()):
        return None
    off = {name: part - getattr(gradient, name) for name, part in theirs.items()}
    caused = _caused(loss, inputs, output, references)
    if head_of(loss) == "logits":
        of_z, budget = off["z"], errors["z"]
    elif "x" in off:
        of_z, budget = _of_logits(inputs, off["x"], errors["x"], caused)
    else:
        return None
    explained = (np.abs(of_z - caused.error) <= budget + caused.reach).all()
    if head_of(loss) == "linear":
        explained &= _through_products(inputs, off, errors, of_z, np.maximum(budget, caused.reach))
    return bool((np.abs(of_z) > budget + caused.least).any()) if explained else None


def _of_logits(inputs: Inputs, off: Array, errors: Array, caused: _Caused) -> tuple[Array, Array]:
    """Return the error of dz at the label of each row that its error of dx tells, and how far it may be from that.

    All other entries have the errors that are caused.
    """
    each, w = np.arange(len(off)), inputs[1]
    label = np.clip(inputs[2], 0, len(w) - 1)  # of ignored rows, whose errors are 0, any
    of_z, reach = caused.error.copy(), caused.reach.copy()
    of_z[each, label] = reach[each, label] = 0.0
    own, apart, slack = w[label], off - of_z @ w, errors + reach @ np.abs(w)
    squares = (own**2).sum(axis=1)
    of_z[each, label] = (apart * own).sum(axis=1) / squares
    budget = np.zeros(of_z.shape)
    budget[each, label] = (slack * np.abs(own)).sum(axis=1) / squares
    return of_z, budget


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
