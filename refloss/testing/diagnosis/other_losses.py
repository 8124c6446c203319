"""Explanations by another loss of refloss: another setting, a fitted one, or the same loss of shifted labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.losses import CircleLoss
from refloss.stages import divergence, margin
from refloss.testing.adapters import Found
from refloss.testing.diagnosis.centers import other_layouts
from refloss.testing.diagnosis.class_curves import other_curves
from refloss.testing.diagnosis.links import other_links
from refloss.testing.diagnosis.references import (
    Explained,
    Outcomes,
    References,
    Retargeted,
    Reweighted,
    SmoothedOthers,
    all_agree,
    number_of_classes,
    over_budget,
)
from refloss.testing.diagnosis.smoothing import ALL_CLASSES, smoothings
from refloss.testing.diagnosis.variants import other_heads
from refloss.testing.diagnosis.wrong_heads import other_margins
from refloss.testing.signatures import (
    Inputs,
    Loss,
    class_weight_of,
    cross_entropy_of,
    divergence_of,
    has_cap,
    has_labels,
    head_of,
    labels_of,
    margin_of,
    of_pairs,
    on_cosines,
    softcap_of,
    with_settings,
)

Explanation: TypeAlias = tuple[str, Explained]
"""A sentence, and the loss that it names."""
OTHER = 1e-4
"""Smallest relative difference at which a fitted setting counts as another one."""
CAPS = np.geomspace(0.25, 4096.0, 29)
"""Caps between which the value is compared with that of the code."""
SCALES = np.geomspace(2.0**-10, 2.0**10, 41)
"""Multiples of a logit scale, likewise."""

LEFT_OUT = (
    ("z_loss", 0.0, "the z-loss is left out"),
    ("softcap", None, "no softcap"),
    ("logit_scale", 1.0, "no logit scale"),
)
"""Settings that only some losses have, the value that changes nothing, and what that is called."""


def relatives(loss: Loss) -> Iterator[Explanation]:
    """Yield losses that code is often mistaken for."""
    for reduction in ("mean", "sum"):
        if reduction != loss.reduction:
            yield from _with(loss, f"{reduction} instead of {loss.reduction}", reduction=reduction)
    if head_of(loss) == "margin" or on_cosines(loss):
        yield from _margins(loss)
    if head_of(loss) == "divergence":
        yield from _forms(loss)
    if has_cap(loss):
        yield from _caps(loss)
    if has_labels(loss):
        yield from _targets(loss)
        for name, nothing, sentence in LEFT_OUT:
            if getattr(loss, name, nothing) != nothing:
                yield from _with(loss, sentence, **{name: nothing})
        if loss.reduction == "mean":
            yield from other_means(loss)


def _caps(loss: Loss) -> Iterator[Explanation]:
    """Yield a cap that lacks one of its two factors, and a logit scale after it."""
    scale, cap = softcap_of(loss)
    if cap is None:
        return
    yield from _with(loss, "the logits are not divided by the softcap before the tanh", logit_scale=scale * cap)
    yield from _with(loss, "the tanh is not multiplied by the softcap", logit_scale=scale / cap, softcap=1.0)
    if scale != 1.0:
        yield from _with(loss, "the logit scale multiplies the capped logits", softcap=scale * cap)


def _forms(loss: Loss) -> Iterator[Explanation]:
    """Yield the other divergences."""
    for form in divergence.FORMS:
        if form != divergence_of(loss).form:
            yield from _with(loss, f"value and gradient agree with form={form!r}", form=form)


def _targets(loss: Loss) -> Iterator[Explanation]:
    """Yield the loss with other targets."""
    if cross_entropy_of(loss).label_smoothing:
        yield from _with(loss, "no label smoothing", label_smoothing=0.0)
        yield "label smoothing of eps/(C - 1) on the other classes, not eps/C on all", SmoothedOthers(loss)
    weights = class_weight_of(loss)
    if weights:
        yield from _with(loss, "class weights left out", class_weight=None)
        if min(weights) < 0.0:
            yield from _with(loss, "class weights without their sign", class_weight=tuple(map(abs, weights)))


def of_shards(loss: Loss) -> Iterator[Explanation]:
    """Yield losses of logits whose label smoothing takes the classes of one shard for all."""
    if head_of(loss) == "logits" and cross_entropy_of(loss).label_smoothing:
        for sentence, targets in smoothings(cross_entropy_of(loss).label_smoothing):
            yield sentence, Retargeted(loss, ALL_CLASSES, targets)


def other_means(loss: Loss) -> Iterator[Explanation]:
    """Yield means that are divided otherwise than by what counts."""
    for up in (0, 1):
        sentence, remedy = "the mean of the means of two halves", "add up both, and divide once by what counts in both"
        yield sentence, Reweighted(loss, remedy, partial(_of_halves, up))
    if class_weight_of(loss):
        sentence = "the weighted sum is divided by the number of rows"
        yield sentence, Reweighted(loss, "divide by the sum of the weights of the labels", _of_number)


def _of_halves(up: int, own: Array, kept: NDArray[np.bool_]) -> Array:
    first = (len(own) + up) // 2
    return np.asarray(0.5 / np.where(np.arange(len(own)) < first, own[:first].sum(), own[first:].sum()))


def _of_number(own: Array, kept: NDArray[np.bool_]) -> Array:
    return kept / np.count_nonzero(kept)


def _with(loss: Loss, sentence: str, **changes: object) -> Iterator[Explanation]:
    """Yield the loss with other settings, unless it refuses them."""
    try:
        yield sentence, with_settings(loss, **changes)
    except (ValueError, TypeError):
        return


def _margins(loss: Loss) -> Iterator[Explanation]:
    """Yield the loss with another gradient, rule, margin, annealing or scale."""
    settings = margin_of(loss)
    convention = {"exact": "detached", "detached": "exact"}[settings.gradient]
    what = "weights" if isinstance(cast(object, loss), CircleLoss) else "margin"
    yield from _with(loss, f"the gradient is that of the {convention} {what}", gradient=convention)
    for rule in margin.RULES:
        if rule != settings.boundary and hasattr(loss, "boundary"):
            yield from _with(loss, f"value and gradient agree with boundary={rule!r}", boundary=rule)
    kind = type(loss).__name__
    angle = "m2" if kind == "CombinedMargin" else "m"
    if kind in ("ArcFace", "CombinedMargin", "CurricularFace", "SubCenterArcFace", "InterTopK"):
        yield from _with(loss, "margin taken in degrees", **{angle: np.radians(getattr(loss, angle))})
    if hasattr(loss, "m"):
        none = 1.0 if kind in ("ASoftmax", "SphereFaceR") else 0.0
        yield from _with(loss, "no margin", m=none)
        if settings.boundary != "none":
            yield from _with(loss, "no margin", m=none, boundary="none")
    if hasattr(loss, "annealing"):
        yield from _with(loss, "no annealing", annealing=0.0)
    if hasattr(loss, "s"):
        yield from _with(loss, "no scale", s=1.0)
        if loss.s is not None:
            yield from _with(loss, "the length of the embedding as the scale", s=None)
    yield from other_heads(loss)
    yield from other_curves(loss)
    yield from other_links(loss)


def fitted(loss: Loss, outcomes: Outcomes, references: References) -> Iterator[Explanation]:
    """Yield the loss with another margin, scale or cap that has this value.

    The setting is fitted in the case where it shows most, a margin or its scale by secants, which start near it; then
    the shortest decimal number that agrees in all of these cases is taken.
    """
    for name in ("m", "m2", "penalty", "s", "t", "h", "regularizer", "alpha", "weight", "l"):
        own = getattr(loss, name, None)
        if isinstance(own, float):
            yield from _settings(loss, name, 1.001 * own, partial(_secant, own), outcomes, references)
    # A cap has wider budgets. Where no value is wrong, they alone might cover an error of the gradients.
    if has_cap(loss) and any(_value_is_wrong(loss, inputs, output, references) for inputs, output in outcomes):
        scale, cap = softcap_of(loss)
        beside = CAPS[-1] if cap is None else 1.001 * cap
        yield from _settings(loss, "softcap", beside, partial(_crossings, CAPS), outcomes, references)
        crossings = partial(_crossings, scale * SCALES)
        yield from _settings(loss, "logit_scale", 1.001 * scale, crossings, outcomes, references)


def _value_is_wrong(loss: Loss, inputs: Inputs, output: Found, references: References) -> bool:
    """Whether the value, or that of a row, is over budget."""
    _, over = next(over_budget(loss, inputs, output, references))
    return over is not None and bool(over.any())


Solver: TypeAlias = Callable[[Callable[[float], float], float], Iterable[float]]
"""Settings at which a value is the one that is asked for."""


def _settings(
    loss: Loss, name: str, beside: float, solve: Solver, outcomes: Outcomes, references: References
) -> Iterator[Explanation]:
    """Yield the loss with another value of one setting; `beside` is one that shows in which case it matters."""
    own, with_setting = getattr(loss, name), partial(_with_setting, loss, name)
    try:
        effects = [
            abs(_mean(with_setting(beside)(*inputs)) - _mean(references.value(loss, inputs)))
            / max(float(np.mean(references.bounds(loss, inputs, output.upstream)[0])), 1e-300)
            for inputs, output in outcomes
        ]
        inputs, output = outcomes[int(np.argmax(effects))]
        for fit in solve(lambda setting: _mean(with_setting(setting)(*inputs)), _mean(output.value)):
            for digits in range(1, 7):
                short = float(f"{fit:.{digits}g}")
                other = own is None or abs(short - own) > OTHER * abs(own)
                if other and all_agree(with_setting(short), outcomes, references):
                    yield f"value and gradient agree with {name}={short:g}", with_setting(short)
                    return
    except (ValueError, TypeError):
        return


def _with_setting(loss: Loss, name: str, setting: float) -> Loss:
    return with_settings(loss, **{name: setting})


def _secant(start: float, value: Callable[[float], float], target: float) -> Iterator[float]:
    """Solve value(setting) = target by at most six secants."""
    low, high = start, 1.001 * start
    first, second = value(low), value(high)
    for _ in range(6):
        if second == first:
            break
        low, high = high, high + (target - second) * (high - low) / (second - first)
        first, second = second, value(high)
    yield high


def _crossings(grid: Array, value: Callable[[float], float], target: float) -> Iterator[float]:
    """Solve value(setting) = target by bisection, between neighbours of a grid on either side of a solution."""
    above = [value(float(setting)) > target for setting in grid]
    for place in np.flatnonzero(np.diff(above)):
        low, high = float(grid[place]), float(grid[place + 1])
        for _ in range(40):
            middle = float(np.sqrt(low * high))
            low, high = (middle, high) if (value(middle) > target) == above[place] else (low, middle)
        yield high


def _mean(value: Any) -> float:
    return float(np.mean(value))


def relabelled(loss: Loss) -> Iterator[tuple[str, Callable[[Outcomes], Outcomes]]]:
    """Yield a sentence, and the same cases with the labels that it names."""
    if of_pairs(loss):
        for by in (1, -1):
            sentence = f"the pairs are off by one: x[n] belongs to w[n], not to w[n {'+' if by > 0 else '-'} 1]"
            yield sentence, partial(_repaired, by)
    place = labels_of(loss)
    if place is None:
        return

    def shifted(inputs: Inputs, by: int) -> Inputs:
        labels = (inputs[place] + by) % number_of_classes(inputs, loss)
        return (*inputs[:place], labels, *inputs[place + 1 :])

    def shift(by: int) -> Callable[[Outcomes], Outcomes]:
        return lambda outcomes: [(shifted(inputs, by), output) for inputs, output in outcomes]

    for by in (1, -1):
        yield f"every label is off by one: value and gradient agree with y {'+' if by > 0 else '-'} 1", shift(by)
    for sentence, other in other_margins(loss):
        yield sentence, partial(_with_margins, other)
    yield from other_layouts(loss)


def _repaired(by: int, outcomes: Outcomes) -> Outcomes:
    """Return the same cases with the rows of w in the order in which they are taken."""

    def moved(rows: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *others = rows
        return (x, *(None if w is None else np.roll(w, -by, axis=0) for w in others[:1]), *others[1:])

    return [
        (moved(inputs), output._replace(gradients=output.gradients and moved(output.gradients)))
        for inputs, output in outcomes
    ]


def _with_margins(other: Callable[[Array], Array], outcomes: Outcomes) -> Outcomes:
    """Return the same cases with other margins, whose gradient is not looked at; those without any as they are."""
    return [
        ((*inputs[:3], other(inputs[3])), output._replace(gradients=output.gradients and output.gradients[:2]))
        if len(inputs) > 3
        else (inputs, output)
        for inputs, output in outcomes
    ]
