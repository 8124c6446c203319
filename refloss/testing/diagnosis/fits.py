"""Defects that a number has to be fitted for: another margin, scale or cap, a padding, a z-loss.

A number is fitted in the case where it shows most, and rounded to the shortest decimal that agrees in all cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refloss.error_free import Array
from refloss.testing.adapters import Found
from refloss.testing.defects.loss_rows import rows_of
from refloss.testing.defects.row import Defect
from refloss.testing.defects.settings import is_softmax
from refloss.testing.defects.steps import plain_scores, plainly
from refloss.testing.defects.sums import MULTIPLES, added_z_loss, padded, padding, z_loss
from refloss.testing.diagnosis.references import Explained, Outcomes, References, all_agree, over_budget
from refloss.testing.signatures import Inputs, Loss, cross_entropy_of, has_cap, softcap_of, with_settings

Explanation: TypeAlias = tuple[str, Explained]
"""A sentence, and the loss that it names."""
Fit: TypeAlias = tuple[str, Explained, str]
"""A sentence, the loss that it names, and how far the number may be off."""
OTHER = 1e-4
"""Smallest relative difference at which a fitted setting counts as another one."""
SETTINGS = ("m", "m2", "penalty", "s", "t", "h", "regularizer", "alpha", "weight", "l", "annealing", "label_smoothing")
"""Settings that are fitted, caps and logit scales apart."""
START = 0.1
"""Where a fit begins of a setting that is 0."""
CAPS = np.geomspace(0.25, 4096.0, 29)
"""Caps between which the value is compared with that of the code."""
SCALES = np.geomspace(2.0**-10, 2.0**10, 41)
"""Multiples of a logit scale, likewise."""
SETTING_DIGITS, EXACT_DIGITS = 6, 3
"""Most decimal digits of a fitted setting, and of one that code is sure to have."""
FIT_DIGITS = 4
"""Most decimal digits of a fitted padding or factor of a z-loss."""


class Errors(NamedTuple):
    """The value of one case, and how far it is from the truth."""

    inputs: Inputs
    theirs: Array
    off: Array
    """Distance from the true value."""
    allowed: Array
    """Its budget."""


def fitted(loss: Loss, outcomes: Outcomes, references: References, *, coarse: bool = True) -> Iterator[Fit]:
    """Yield the loss with another margin, scale, smoothing or cap that has this value.

    What is no cap is fitted by secants, which start near it, or near START where it is 0. Numbers of many digits, and
    those that are known only roughly, may cover other errors: they are left out unless `coarse`.
    """
    for name in SETTINGS:
        own = getattr(loss, name, None)
        if isinstance(own, float):
            start = own or START
            yield from _settings(loss, name, 1.001 * start, partial(_secant, start), outcomes, references, coarse)
    if getattr(loss, "s", 1.0) is None:
        yield from _settings(loss, "s", CAPS[0], partial(_crossings, CAPS), outcomes, references, coarse)
    # A cap has wider budgets. Where no value is wrong, they alone might cover an error of the gradients.
    if has_cap(loss) and any(_value_is_wrong(loss, inputs, output, references) for inputs, output in outcomes):
        scale, cap = softcap_of(loss)
        beside = CAPS[-1] if cap is None else 1.001 * cap
        yield from _settings(loss, "softcap", beside, partial(_crossings, CAPS), outcomes, references, coarse)
        crossings = partial(_crossings, scale * SCALES)
        yield from _settings(loss, "logit_scale", 1.001 * scale, crossings, outcomes, references, coarse)


def _value_is_wrong(loss: Loss, inputs: Inputs, output: Found, references: References) -> bool:
    """Whether the value, or that of a row, is over budget."""
    _, over = next(over_budget(loss, inputs, output, references))
    return over is not None and bool(over.any())


Solver: TypeAlias = Callable[[Callable[[float], float], float], Iterable[float]]
"""Settings at which a value is the one that is asked for."""


def _settings(
    loss: Loss, name: str, beside: float, solve: Solver, outcomes: Outcomes, references: References, coarse: bool
) -> Iterator[Fit]:
    """Yield the loss with another value of one setting; `beside` is one that shows in which case it matters.

    The value of one case fits any number: it is named only if gradients, or another case, agree with it.
    """
    if len(outcomes) == 1 and not outcomes[0][1].gradients:
        return
    own, with_setting = getattr(loss, name), partial(_with_setting, loss, name)

    def value(setting: float, inputs: Inputs) -> float:
        return _mean(plainly(with_setting(setting), inputs))

    try:
        allowed = [
            max(float(np.mean(references.bounds(loss, inputs, output.upstream)[0])), 1e-300)
            for inputs, output in outcomes
        ]
        effects = [
            abs(value(beside, inputs) - _mean(plainly(loss, inputs))) / each
            for (inputs, _), each in zip(outcomes, allowed, strict=True)
        ]
        place = int(np.argmax(effects))
        inputs, output = outcomes[place]
        for fit in solve(lambda setting: value(setting, inputs), _mean(output.value)):
            if not all(is_near(with_setting(fit), loss, *outcome, references) for outcome in outcomes):
                continue
            for digits in range(1, SETTING_DIGITS + 1 if coarse else EXACT_DIGITS + 1):
                short = float(f"{fit:.{digits}g}")
                other = own is None or abs(short - own) > OTHER * abs(own)
                if other and all_agree(with_setting(short), outcomes, references):
                    apart = abs(value(1.001 * short, inputs) - value(short, inputs))
                    far = 0.001 * allowed[place] / max(apart, 1e-300)
                    if far > OTHER and not coarse:
                        return
                    yield f"value and gradient agree with {name}={short:g}", with_setting(short), _within(far)
                    return
    except (ValueError, TypeError):
        return


def _within(share: float) -> str:
    """Say how far a fitted number may be from another that would agree as well, where that is not a rounding error."""
    return f" (to within {share:.2g} of it)" if share > OTHER else ""


COARSE = 10.0
"""Budgets of the right loss, beside a thousandth of the error, within which a plain value is looked at again."""


def is_near(other: Explained, loss: Loss, inputs: Inputs, output: Found, references: References) -> bool:
    """Whether the plain value of an explanation is so near to that of code that it may explain it."""
    true, allowed = references.value(loss, inputs), references.bounds(loss, inputs, output.upstream)[0]
    value = np.asarray(plainly(other, inputs))
    if value.shape != output.value.shape or value.shape != np.shape(true):
        return False
    with np.errstate(all="ignore"):
        off = np.abs(output.value - true)
        return bool((np.abs(output.value - value) <= COARSE * allowed + 1e-3 * off).all())


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


# --------------------------------------------------------------------------------------------------- paddings, z-losses


def fitted_steps(loss: Loss, errors: Sequence[Errors]) -> Iterator[Defect]:
    """Yield rows of changed steps that have a number, each with the numbers next to the fitted one.

    One case shows no number: any error of it would have one.
    """
    if is_softmax(loss) and len(errors) > 1:
        yield from _paddings(loss, errors)
        yield from _z_losses(loss, errors)


def _paddings(loss: Loss, errors: Sequence[Errors]) -> Iterator[Defect]:
    """Yield classes up to the next multiple of a number, with logits of another number than 0."""
    worst = _worst(errors)
    rows = rows_of(loss, plain_scores(loss, worst.inputs), worst.inputs)
    classes = {plain_scores(loss, one.inputs).z.shape[1] for one in errors}
    for multiple in MULTIPLES:
        if len({-count % multiple for count in classes}) > 1:
            fit = _bisected(lambda pad, multiple=multiple: padded(multiple, pad, loss, rows), worst)  # type: ignore[misc]
            yield from (padding(multiple, pad) for pad in _short(fit) if pad)


def _bisected(value: Callable[[float], Array], worst: Errors) -> float:
    """Return the number with which the mean of a value that grows with it is that of the code."""
    low, high = -100.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2.0
        more = float(np.mean(value(middle))) < float(np.mean(worst.theirs))
        low, high = (middle, high) if more else (low, middle)
    return high


def _worst(errors: Sequence[Errors]) -> Errors:
    """Return the case whose value is furthest from the truth, in units of its budget."""
    return max(errors, key=lambda one: float(np.max(one.off / np.maximum(one.allowed, 1e-300))))


def _short(fit: float) -> list[float]:
    """Return the decimal numbers next to a fitted one, the shortest first."""
    return list(dict.fromkeys(float(f"{fit:.{digits}g}") for digits in range(1, FIT_DIGITS + 1)))


def _z_losses(loss: Loss, errors: Sequence[Errors]) -> Iterator[Defect]:
    """Yield a term of lambda lse^2 for each row, which no class weight multiplies and the mean divides by the rows."""
    worst = _worst(errors)
    rows = rows_of(loss, plain_scores(loss, worst.inputs), worst.inputs)
    without, one = (np.sum(added_z_loss(lam, loss, rows)) for lam in (0.0, 1.0))
    fit = float((np.sum(worst.theirs) - without) / (one - without))
    said = "the z-loss has lambda={}" if cross_entropy_of(loss).z_loss else "a z-loss of lambda={} is added"
    for lam in _short(fit) if np.isfinite(fit) else []:
        yield z_loss(lam, said.format(f"{lam:g}"))
