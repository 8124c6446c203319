"""Explanations by lost digits: a clamped cosine, an angle by arccos, numbers shorter than those of the dtype."""

from __future__ import annotations

import numpy as np

from refloss.formats import FORMATS, PRECISION_BITS, dtype_of
from refloss.testing.adapters import Found
from refloss.testing.budgets import arithmetic
from refloss.testing.defects.head_steps import CLAMPS
from refloss.testing.defects.roundings import Rounded, to_bits
from refloss.testing.defects.steps import value_of_cosines
from refloss.testing.defects.table import TABLE
from refloss.testing.diagnosis.references import Outcomes, References, accounts, agrees, misfit
from refloss.testing.signatures import Inputs, Loss, adds_to_cosine, class_angles_of

NEAR = 0.3
"""Radians from a class or its opposite, within which an arccos loses more digits than atan2 does."""
ALIKE = 0.5
"""Least correlation of errors with the roundings of shorter numbers that explain them; that of noise is far less."""
FEWEST = 8
"""Least number of errors whose correlation says anything."""
SIZES = 5.0
"""How many times larger or smaller than those roundings errors may be."""


def clamped(loss: Loss, failing: Outcomes, references: References) -> list[str]:
    """Return the smallest clamp of the cosines that explains the failing cases, if one does."""
    distances = (distance for distance in CLAMPS if _is_clamped(loss, failing, references, distance))
    return [f"cosine clamped at 1 - {distance:g}" for distance in distances][:1]


def _is_clamped(loss: Loss, failing: Outcomes, references: References, distance: float) -> bool:
    """Whether a clamp explains the values of all failing cases in which it would show, of which there is one.

    In the other cases it acts, or angles are small. Rounding errors are far below the budget of a value: a tenth of the
    budget is enough for a clamp to show.
    """
    showing, most = 0, float(np.asarray(1.0 - distance).astype(dtype_of(references.dtype)))
    for inputs, output in failing:
        stages = references.trace(loss, inputs)
        c, true = stages["cosine"].output, references.value(loss, inputs)
        clipped, plain = (np.asarray(value_of_cosines(loss, inputs, some)) for some in (np.clip(c, -most, most), c))
        apart = clipped - plain  # by the clamp alone: both have the errors of an arccos
        if (np.abs(apart) > 0.1 * references.bounds(loss, inputs, output.upstream)[0]).any():
            showing += 1
            if (
                output.value.shape != true.shape
                or (np.abs(output.value - true - apart) > 0.2 * np.abs(apart).max()).any()
            ):
                return False
        elif np.abs(c).max() < most and not _near(loss, inputs, references):
            return False
    return showing > 0


def by_arccos(loss: Loss, failing: Outcomes, references: References) -> list[str]:
    """Explain failures next to a class or its opposite by an arccos, if its error covers all of theirs."""
    every = class_angles_of(loss) is not None
    if adds_to_cosine(loss) and not every:
        return []
    a = references.arithmetic._replace(angle="arccos")
    if all(_near(loss, i, references) and agrees(loss, i, output, references, a) for i, output in failing):
        which = "embeddings are within {} rad of a class" if every else "targets are within {} rad of their class"
        return [f"only where {which.format(NEAR)} or its opposite: arccos, or a clamped cosine"]
    return []


def _near(loss: Loss, inputs: Inputs, references: References) -> bool:
    """Whether a target is next to its class or its opposite; or any class, where other classes have angles too."""
    steps = references.trace(loss, inputs)
    theta = steps["angle"].output
    if class_angles_of(loss) is not None:
        theta = np.arccos(np.clip(steps["cosine"].output, -1.0, 1.0))
    return bool((np.minimum(theta, np.pi - theta) < NEAR).any())


def short_numbers(loss: Loss, failing: Outcomes, right: Outcomes, references: References) -> list[str]:
    """Explain failures by numbers shorter than those of the dtype: in a matrix product, or everywhere.

    Errors have to be within what such numbers would explain, and those of values have to correlate with the roundings
    of such numbers. Noise does not.
    """
    values_right = [agrees(loss, inputs, _value_alone(output), references) for inputs, output in failing]
    if 2 * sum(values_right) > len(values_right):
        return []  # short numbers would show in the values
    with np.errstate(all="ignore"):
        alike: dict[str, float] = {}
        by_products = False
        for row in TABLE:
            other = row.of(loss) if row.kind == "rounding" else None
            if other is None or (by_products and not other.granted and not _accounted(other, failing, references)):
                continue  # what products explain is looked for first
            likeness = _likeness(loss, other, failing, right, references)
            if likeness:
                said = row.said(loss, other)
                alike[said] = max(likeness, alike.get(said, 0.0))
                by_products = by_products or other.granted is not None
    return [max(alike, key=lambda said: alike[said])] if alike else []


def _likeness(loss: Loss, other: Rounded, failing: Outcomes, right: Outcomes, references: References) -> float:
    """Return how much errors look like those of a rounding that explains them; 0 where it does not.

    It explains them if they are its own, to a hundredth, or if they are within budgets of such roundings. Of products
    values alone are looked at, since gradients of a half precision may also vanish.
    """
    rounds = references.arithmetic.accumulated if other.of_sums else 2.0 ** -PRECISION_BITS[references.dtype]
    if 2.0**-other.bits <= rounds:
        return 0.0
    a = other.granted(references.arithmetic) if other.granted else arithmetic(_dtype_of(other.bits), standard="working")
    outcomes = [(inputs, _value_alone(output) if other.granted else output) for inputs, output in failing]
    values = np.concatenate([np.ravel(output.value) for _, output in failing])
    exact = np.count_nonzero(values) >= FEWEST and (to_bits(values, other.bits) == values).all()
    if exact and other.granted:
        return 0.0  # sums of products have more digits
    nearness = _accounted(other, failing, references) if len(values) >= FEWEST else 0.0
    if nearness:
        return 1.0 + nearness  # where a curve bends, more than budgets grant
    # First what takes less time. Numbers of few digits are those of any longer dtype too.
    likeness = 1.0 + 1.0 / other.bits if exact else _correlation(loss, other, (*failing, *right), references)
    granted = likeness and all(agrees(loss, inputs, output, references, a) for inputs, output in outcomes)
    return likeness if granted else 0.0


def _accounted(other: Rounded, failing: Outcomes, references: References) -> float:
    """Return how near values are to those of a rounding that accounts for all of their errors; 0 where it does not."""
    if not all(accounts(other, inputs, output, references) for inputs, output in failing):
        return 0.0
    return 1.0 / (1.0 + misfit(other.loss, other, failing, references))


def _dtype_of(bits: int) -> str:
    return next(name for name, stored in FORMATS.items() if stored.bits == bits)


def _value_alone(output: Found) -> Found:
    """Return the output without its gradients."""
    return output._replace(gradients=None)


def _correlation(loss: Loss, other: Rounded, outcomes: Outcomes, references: References) -> float:
    """Return the correlation of errors of values with those of another way to compute them, if they are as large."""
    errors, expected, scales = [], [], []
    for inputs, output in outcomes:
        true = references.value(loss, inputs)
        errors.append(np.ravel(output.value - true))
        expected.append(np.ravel(other(*inputs) - true))
        scales.append(np.ravel(references.bounds(loss, inputs, output.upstream)[0] + 0.0 * output.value))
    scale = np.concatenate(scales)
    theirs, ours = np.concatenate(errors) / scale, np.concatenate(expected) / scale
    size, expected_size = float(np.linalg.norm(theirs)), float(np.linalg.norm(ours))
    correlation = float(theirs @ ours) / (size * expected_size) if size and expected_size else 0.0
    large = len(theirs) >= FEWEST and expected_size / SIZES <= size <= expected_size * SIZES
    return correlation if large and correlation > ALIKE else 0.0
