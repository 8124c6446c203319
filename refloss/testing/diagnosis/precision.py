"""Explanations by lost digits: a clamped cosine, an angle by arccos, numbers shorter than those of the dtype."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from refloss.error_free import Array
from refloss.formats import FORMATS, PRECISION_BITS, dtype_of
from refloss.testing.adapters import Found
from refloss.testing.budgets import arithmetic
from refloss.testing.diagnosis.heads import cosines_of
from refloss.testing.diagnosis.references import Outcomes, References, agrees
from refloss.testing.diagnosis.wrong_steps import value_of_cosines
from refloss.testing.signatures import Inputs, Loss, adds_to_cosine, class_angles_of, head_of, of_directions

CLAMPS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Distances from 1 at which code clamps a cosine."""
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
    if head_of(loss) == "triplet":
        return []
    values_right = [agrees(loss, inputs, _value_alone(output), references) for inputs, output in failing]
    if 2 * sum(values_right) > len(values_right):
        return []  # short numbers would show in the values
    with np.errstate(all="ignore"):
        return _short_factors(loss, failing, right, references) or _short_results(loss, failing, right, references)


def _short_factors(loss: Loss, failing: Outcomes, right: Outcomes, references: References) -> list[str]:
    """Explain failures by matrix products that round their factors."""
    for kind, sentence in (
        ("tf32", "11 bits, those of tf32 and of float16"),
        ("bfloat16", "8 bits, those of bfloat16"),
    ):
        bits = PRECISION_BITS[kind]
        if head_of(loss) in ("logits", "divergence") or bits >= PRECISION_BITS[references.dtype]:
            continue
        # Twice the error of a factor, since the product may be rounded to as many bits. Values alone, since gradients
        # of a half precision may also vanish.
        a = references.arithmetic._replace(factor=2.0 ** (1 - bits))
        if not all(agrees(loss, inputs, _value_alone(output), references, a) for inputs, output in failing):
            continue
        roundings = [
            functools.partial(_with_rounded_factors, loss, bits, unit=unit, down=down)
            for unit in (True, False)
            for down in (False, True)
        ]
        if any(_looks_like(loss, value, (*failing, *right), references) for value in roundings):
            return [f"as matrix products would give whose factors are rounded to {sentence}"]
    return []


def _short_results(loss: Loss, failing: Outcomes, right: Outcomes, references: References) -> list[str]:
    """Explain failures by a computation in a shorter dtype."""
    for kind in ("float32", "float16", "bfloat16"):
        bits = FORMATS[kind].bits
        if bits >= PRECISION_BITS[references.dtype]:
            continue
        a = arithmetic(kind, standard="working")
        if not all(agrees(loss, inputs, output, references, a) for inputs, output in failing):
            continue
        values = np.concatenate([np.ravel(output.value) for _, output in failing])
        exact = np.count_nonzero(values) >= FEWEST and (_to_bits(values, bits) == values).all()
        rounded = functools.partial(_with_rounded_inputs, loss, bits)
        if exact or _looks_like(loss, rounded, (*failing, *right), references):
            return [f"as {kind} would give: something is computed in {kind} on the way"]
    return []


def _value_alone(output: Found) -> Found:
    """Return the output without its gradients."""
    return output._replace(gradients=None)


def _looks_like(loss: Loss, value: Callable[[Inputs], Array], outcomes: Outcomes, references: References) -> bool:
    """Whether errors of values correlate with those of another way to compute them, and are about as large."""
    errors, expected, scales = [], [], []
    for inputs, output in outcomes:
        true = references.value(loss, inputs)
        errors.append(np.ravel(output.value - true))
        expected.append(np.ravel(value(inputs) - true))
        scales.append(np.ravel(references.bounds(loss, inputs, output.upstream)[0] + 0.0 * output.value))
    scale = np.concatenate(scales)
    theirs, ours = np.concatenate(errors) / scale, np.concatenate(expected) / scale
    size, other = float(np.linalg.norm(theirs)), float(np.linalg.norm(ours))
    alike = float(theirs @ ours) > ALIKE * size * other
    return len(theirs) >= FEWEST and alike and other / SIZES <= size <= other * SIZES


def _to_bits(array: Array, bits: int, *, down: bool = False) -> Array:
    """Round to so many bits of a significand, to nearest or towards 0."""
    mantissa, exponent = np.frexp(array)
    scaled = np.ldexp(mantissa, bits)
    return np.asarray(np.ldexp(np.trunc(scaled) if down else np.rint(scaled), exponent - bits))


def _with_rounded_inputs(loss: Loss, bits: int, inputs: Inputs) -> Array:
    rounded = (_to_bits(entry, bits) if entry.dtype.kind == "f" else entry for entry in inputs)
    return np.asarray(loss(*rounded))


def _with_rounded_factors(loss: Loss, bits: int, inputs: Inputs, *, unit: bool, down: bool) -> Array:
    """Return the value if matrix products round their factors: unit rows of a margin loss, or rows as they are."""
    x, w, *rest = inputs
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if unit and of_directions(loss):
        x, w = x / length, w / np.linalg.norm(w, axis=-1, keepdims=True)
    x, w = (_to_bits(rows, bits, down=down) for rows in (x, w))
    if head_of(loss) == "linear":
        return np.asarray(loss(x, w, *rest))
    c = cosines_of(x, w)
    if not unit:
        c = cosines_of(x / length, w / np.linalg.norm(inputs[1], axis=-1, keepdims=True))
    return np.asarray(value_of_cosines(loss, inputs, c))
