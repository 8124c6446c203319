"""Explanations by a step computed wrongly: what the value would be if that step alone were wrong.

Only the value is known of a wrong step. The step explains the failures if it accounts for 99 % of every error of a
value and changes no value that is right.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike

from refloss.error_free import Array
from refloss.losses import CircleLoss, CrossEntropy, SphereFaceR
from refloss.testing.diagnosis.centers import center_steps
from refloss.testing.diagnosis.class_curves import curve_steps
from refloss.testing.diagnosis.heads import cosines_of, parts_of
from refloss.testing.diagnosis.references import Outcomes, References
from refloss.testing.diagnosis.rows import rows_of
from refloss.testing.diagnosis.wrong_heads import head_steps
from refloss.testing.diagnosis.wrong_links import ADDED_TO_PROBABILITIES, cosines_in, link_steps
from refloss.testing.diagnosis.wrong_sums import Errors, WrongStep, sum_steps
from refloss.testing.signatures import (
    LABELS,
    Inputs,
    Loss,
    cross_entropy_of,
    has_cap,
    head_of,
    is_on_cosine,
    on_cosines,
    softcap_of,
    with_settings,
)

Length: TypeAlias = Callable[[Array], Array]
"""The divisor of rows, from their lengths."""
ADDED_TO_LENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Constants that code adds to a length, or to its square."""


def steps_that_explain(loss: Loss, failing: Outcomes, right: Outcomes, references: References) -> list[str]:
    """Return the first step that accounts for the errors of the values, if one does."""
    values = []
    for inputs, output in (*failing, *right):
        allowed = references.bounds(loss, inputs, output.upstream)[0]
        off = np.abs(output.value - references.value(loss, inputs))
        values.append(Errors(inputs, output.value, off, allowed))
    if not any((one.off > 3.0 * one.allowed).any() for one in values):
        return []

    def accounts(value: Callable[[Inputs], Any]) -> bool:
        try:
            return all((np.abs(one.theirs - value(one.inputs)) <= 0.01 * one.off + one.allowed).all() for one in values)
        except (ValueError, TypeError, IndexError):  # the step does not apply to such inputs
            return False

    with np.errstate(all="ignore"):
        explained = (sentence for sentence, value in _steps(loss, values, references) if accounts(value))
        return list(islice(explained, 1))


def _steps(loss: Loss, values: Sequence[Errors], references: References) -> Iterator[WrongStep]:
    if head_of(loss) == "triplet":
        return
    if head_of(loss) == "divergence":
        yield from _divergence_steps(loss)
        return
    if on_cosines(loss):
        yield from link_steps(loss)
        yield from _normalization_steps(loss)
        return
    if has_cap(loss):
        yield from _cap_steps(loss, references)
    yield from _softmax_steps(loss, references)
    if head_of(loss) == "margin":
        yield from head_steps(loss)
        yield from center_steps(loss)
        yield from curve_steps(loss)
        yield from _normalization_steps(loss)
    yield from sum_steps(loss, values, references)


def _softmax_steps(loss: Loss, references: References) -> Iterator[WrongStep]:
    """Softmax twice, over the wrong axis, or with a constant added to its probabilities."""
    labels, logits = LABELS[head_of(loss)], functools.partial(references.logits, loss)

    def twice(inputs: Inputs) -> Any:
        e = np.exp(logits(inputs) - logits(inputs).max(axis=1, keepdims=True))
        return CrossEntropy(**cross_entropy_of(loss)._asdict())(e / e.sum(axis=1, keepdims=True), inputs[labels])

    def over_samples(inputs: Inputs) -> Any:
        z = logits(inputs)
        largest = z.max(axis=0)
        return reduced(np.log(np.exp(z - largest).sum(axis=0)) + largest - z, inputs)

    def reduced(rows: Array, inputs: Inputs) -> Any:
        """Reduce the entries of the labels."""
        losses = np.take_along_axis(rows, inputs[labels][:, None], axis=1)[:, 0]
        return losses if loss.reduction == "none" else getattr(losses, loss.reduction)()

    def with_constant(eps: float, inputs: Inputs) -> Any:
        z = logits(inputs) - logits(inputs).max(axis=1, keepdims=True)
        return reduced(-np.log(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) + eps), inputs)

    yield "softmax taken twice: of the logits, and of the probabilities again", twice
    yield "softmax over the samples, not over the classes", over_samples
    for eps in ADDED_TO_PROBABILITIES:
        sentence = f"{eps:g} added to probabilities before their logarithm: take log_softmax"
        yield sentence, functools.partial(with_constant, eps)


def _cap_steps(loss: Loss, references: References) -> Iterator[WrongStep]:
    """A cap on the loss, or on that of each row, and a clamp in its place."""
    cap = softcap_of(loss).softcap
    if cap is None:
        return
    uncapped = with_settings(loss, softcap=None)

    def capped(losses: Array) -> Array:
        return np.asarray(cap * np.tanh(losses / cap))

    def of_value(inputs: Inputs) -> Any:
        return capped(references.value(uncapped, inputs))

    def of_rows(inputs: Inputs) -> Any:
        rows = rows_of(uncapped, inputs, references)
        return rows.value(capped(rows.losses(rows.t)))

    def clamped(inputs: Inputs) -> Any:
        z = np.clip(references.logits(uncapped, inputs), -cap, cap)
        return CrossEntropy(**cross_entropy_of(loss)._asdict())(z, inputs[LABELS[head_of(loss)]])

    for value in (of_value, of_rows):
        yield "the softcap is applied to the loss, not to the logits", value
    yield f"the logits are clamped to ±{cap:g}, not capped by a tanh", clamped


def _divergence_steps(loss: Loss) -> Iterator[WrongStep]:
    """A mean over all entries, a temperature that is squared or not, probabilities taken for logits."""

    def over_entries(inputs: Inputs) -> Any:
        return np.asarray(loss(*inputs)) / inputs[0].shape[-1]

    def of_probabilities(inputs: Inputs) -> Any:
        z, target = inputs
        e = np.exp(target - target.max(axis=-1, keepdims=True))
        return loss(z, e / e.sum(axis=-1, keepdims=True))

    if loss.reduction == "mean":
        yield 'divided by the number of entries, as reduction="mean" of torch\'s kl_div: take "batchmean"', over_entries
    yield "softmax of the target taken twice: of its logits, and of their probabilities again", of_probabilities


def _normalization_steps(loss: Loss) -> Iterator[WrongStep]:
    """Rows that are not divided by their lengths, a margin of the wrong sign, constants added to lengths."""

    def with_lengths(of_x: Length, of_w: Length, sign: float = 1.0) -> Callable[[Inputs], Any]:
        def value(inputs: Inputs) -> Any:
            x, w, *_ = inputs
            length = np.linalg.norm(x, axis=1, keepdims=True)
            c = cosines_of(x / of_x(length), w / of_w(np.linalg.norm(w, axis=-1, keepdims=True)))
            return value_of_cosines(loss, inputs, c, sign)

        return value

    def own(length: Array) -> Array:
        return length

    yield "weights are not brought to unit length", with_lengths(own, np.ones_like)
    yield "embeddings are not brought to unit length", with_lengths(np.ones_like, own)
    yield "neither embeddings nor weights are brought to unit length", with_lengths(np.ones_like, np.ones_like)
    if not on_cosines(loss) and not isinstance(cast(object, loss), SphereFaceR | CircleLoss):
        sign = "the margin has the wrong sign: it has to make the target's logit smaller"
        yield sign, with_lengths(own, own, -1.0)
    for eps in ADDED_TO_LENGTHS:
        added, under_root = functools.partial(np.add, eps), functools.partial(np.hypot, np.sqrt(eps))
        yield f"{eps:g} added to every length", with_lengths(added, added)
        yield f"{eps:g} added under the root of every length", with_lengths(under_root, under_root)


def value_of_cosines(loss: Loss, inputs: Inputs, c: Array, sign: float = 1.0) -> ArrayLike:
    """Return the value of a loss on directions from other cosines; margins of either sign."""
    if on_cosines(loss):
        return cosines_in(loss, inputs, c).value()
    parts = parts_of(loss, inputs, c)
    if sign < 0.0:
        m2, m3 = parts.margins
        if is_on_cosine(parts.settings):
            parts = parts._replace(psi=parts.target + m3)
        else:
            parts = parts._replace(psi=np.cos(parts.settings.m1 * parts.theta - m2) + m3)
    return parts.value()
