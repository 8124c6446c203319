"""Steps of margins by length and of hard classes computed wrongly: what the value would be if that step were wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np

from refloss.error_free import Array
from refloss.losses import AdaFace, CurricularFace, MagFace
from refloss.losses.margin import ON_ANGLE
from refloss.stages import negatives, quality
from refloss.testing.diagnosis.heads import Parts, parts_of, raised
from refloss.testing.diagnosis.wrong_sums import WrongStep
from refloss.testing.signatures import (
    Inputs,
    Loss,
    negatives_of,
    own_margin,
    raises_cosines,
    takes_margins,
    target_logit,
)

Change = Callable[[Parts], Any]
"""The value from the parts, one of them changed."""


def head_steps(loss: Any) -> Iterator[WrongStep]:
    """Yield the steps of a margin loss that code of samples and of classes may get wrong."""

    def of(change: Change) -> Callable[[Inputs], Any]:
        return lambda inputs: change(parts_of(loss, inputs))

    if isinstance(loss, AdaFace) and loss.h:
        early = "the mean and the standard deviation of lengths are updated before they are used: pass those so far"
        yield early, lambda inputs: loss.updated(inputs[0])(*inputs)
        batch = replace(loss, momentum=1.0)
        yield "the mean and the standard deviation are those of the batch", lambda x: batch.updated(x[0])(*x)
    if isinstance(loss, CurricularFace):
        early = "t is updated before it is used: take the t of the step before"
        yield early, lambda inputs: loss.updated(*inputs)(*inputs)
    if isinstance(loss, MagFace):
        yield from ((sentence, of(change)) for sentence, change in _of_lengths(loss).items())
    if raises_cosines(loss):
        yield from ((sentence, of(change)) for sentence, change in _of_classes(loss).items())


def _of_lengths(loss: MagFace) -> dict[str, Change]:
    """What may be wrong with the length of MagFace."""
    per = (loss.u_m - loss.l_m) / (loss.u_a - loss.l_a)

    def terms(length: Array) -> Array:
        return loss.regularizer * (length / loss.u_a**2 + 1.0 / length)

    def unclipped(parts: Parts) -> Any:
        m = loss.l_m + per * (parts.length - loss.l_a)
        own = parts.settings._replace(m2=0.0, by_quality=ON_ANGLE)
        psi = target_logit(own, parts.theta, quality.given(m))
        return parts._replace(psi=psi, terms=terms(parts.length)).value()

    steps: dict[str, Change] = {"lengths are not clipped, in the margin and in the regularizer": unclipped}
    if loss.regularizer:
        steps["the regularizer takes lengths that are not clipped"] = lambda parts: parts._replace(
            terms=terms(parts.length)
        ).value()
    return steps


def _of_classes(loss: Loss) -> dict[str, Change]:
    """What may be wrong with hard classes."""
    settings = cast(negatives.Settings, negatives_of(loss))

    def with_target(parts: Parts) -> Any:
        return parts._replace(psi=raised(settings, parts.target)).value()

    def raised_psi(parts: Parts) -> Any:
        return parts._replace(psi=raised(settings, parts.psi)).value()

    def all_raised(parts: Parts) -> Any:
        return parts._replace(tau=np.full(len(parts.y), -2.0)).value()

    def added(parts: Parts) -> Any:
        f = np.where(parts.c > parts.tau[:, None], parts.c + settings.t, parts.c)
        f[np.arange(len(parts.y)), parts.y] = parts.psi
        return parts.value_of(f)

    before = "the threshold of hard classes is cos(theta + m), or cos(theta) - m, before any rule"
    return {
        f"hard classes are above psi, which a rule has changed: {before}": lambda p: p._replace(tau=p.psi).value(),
        f"hard classes are above the target's cosine: {before}": lambda p: p._replace(tau=p.target).value(),
        "the target counts as a hard class, and its margin is lost": with_target,
        "the target's cosine with its margin is raised as that of a hard class": raised_psi,
        "all classes count as hard": all_raised,
        "t is added to hard cosines, which are not multiplied by 1 + t": added,
    }


MARGINS: dict[str, Callable[[Array], Array]] = {
    "every sample has the margin of the next one": lambda m: np.roll(m, -1),
    "every sample has the margin of the one before": lambda m: np.roll(m, 1),
    "all samples have the margin of the first": lambda m: np.full_like(m, m[0]),
    "all samples have the mean of the margins": lambda m: np.full_like(m, m.mean()),
    "the margins have the wrong sign": lambda m: -m,
}
"""Margins that code takes instead of those that are given."""


def other_margins(loss: Loss) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    """Yield sentences, and the margins that they name in the place of those that are given."""
    if takes_margins(loss):
        yield "the margins that are given are not used", lambda m: np.full_like(m, own_margin(loss))
        yield from MARGINS.items()
