"""The gradient checks that the suite uses, and what they allow. test_mutants.py shows that each rejects every mutant.

u = 2^-53 is the unit roundoff. S is the scale of a loss: s, or the largest length of an embedding, or the largest
product of lengths for the plain head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mpmath import mp, mpf

import exact

U = 2.0**-53


def scale_of(loss: Any, *inputs: Any) -> float:
    """S of a head."""
    x, w = np.asarray(inputs[0], np.float64), np.asarray(inputs[1], np.float64)
    if type(loss).__name__ == "SoftmaxLoss":
        return float(_lengths(x).max() * _lengths(w).max())
    s = getattr(loss, "s", None)
    return float(_lengths(x).max()) if s is None else s


def _lengths(rows: np.ndarray) -> np.ndarray:
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return np.linalg.norm(rows / largest, axis=1) * largest[:, 0]


def allowed(loss: Any, *inputs: Any, engine: str = "chain") -> tuple[float, float]:
    """The contract, in u: for the value relative to itself, for a gradient relative to the absolute terms of its row.

    Engine "dd": 4u, and 8u of the terms after projection; one rounding, 1u, is what is left of either.

    Engine "chain":

    Heads: 4u S and 8u S. A cosine between unit vectors whose entries are rounded is wrong by at most 2u, so a logit is
    by 2u S and the loss, relative to itself, by that much and the error of cross entropy, 5u; a gradient's softmax is
    wrong by twice as much. 16u and 32u are for small S, where the sums over classes and the projection count.

    Cross entropy on logits: 8u, for exp (1u), its correction, the sum, a division (1u each), log1p (1u), coefficient
    and reduction (1u each). Triplet: 8u: differences and squares are exact, directions (2u), coefficient, reduction.
    """
    if engine == "dd":
        return 4.0, 8.0
    if type(loss).__name__ in ("CrossEntropy", "Triplet"):
        return 8.0, 8.0
    scale = scale_of(loss, *inputs)
    return max(16.0, 4.0 * scale), max(32.0, 8.0 * scale)


def errors(
    loss: Any,
    *inputs: Any,
    found: Any = None,
    upstream: Any = None,
    entries: Any = None,
    engine: str = "chain",
    **precision: Any,
) -> dict[str, float]:
    """Errors in u against mpmath: of value and gradients relative to the absolute terms, of the value and of each row.

    `entries`, indices by name, leaves out all other entries of the gradients: mpmath takes its time at real sizes.
    """
    value, gradients = found or loss.value_and_grad(*inputs, upstream=upstream, engine=engine)
    size = exact.value(loss, *inputs, **precision, absolute=True)  # |value| where targets have one sign
    out = {"value": exact.value_error(value, exact.value(loss, *inputs, **precision), size)}
    truth = exact.gradients(loss, *inputs, upstream=upstream, entries=entries, **precision)
    terms = exact.absolute_terms(loss, *inputs, upstream=upstream, projected=engine == "dd")
    for name, gradient in as_dict(gradients).items():
        counted = gradient
        if entries is not None:
            counted = np.full_like(gradient, np.nan)
            for index in entries[name]:
                counted[index] = gradient[index]
        out[name] = exact.row_error(counted, truth[name], terms[name])
    return out


def against_exact(
    loss: Any, *inputs: Any, found: Any = None, upstream: Any = None, engine: str = "chain", **options: Any
) -> None:
    """Compare value and gradients with mpmath: nothing refloss derived is on the other side."""
    value_allowed, gradient_allowed = allowed(loss, *inputs, engine=engine)
    for name, error in errors(loss, *inputs, found=found, upstream=upstream, engine=engine, **options).items():
        limit = value_allowed if name == "value" else gradient_allowed
        if limit * U >= 1.0:
            continue  # nothing is promised
        assert error <= limit, f"{loss}: {name} is {error:.3g}u off, allowed {limit:.3g}u"


def against_exact_vjp(
    function: Any, arrays: Any, upstream: Any, found: Any, allowed: float, *, terms: Any = None, digits: int = 150
) -> None:
    """Compare a stage's backward with central differences of sum(upstream * function(*arrays)), in mpmath.

    `function` takes and returns object arrays of mpf and is to compute with all of mp.dps, which is `digits`; a step is
    10^-(digits/3) of the largest entry of its row, so that truncation leaves the square of that. `allowed` is in u of
    `terms`, one array for each of `arrays`, by entry or by row; of each entry's own where they are left out: the sum
    over all outputs of |upstream * d output / d entry|.
    """
    with mp.workdps(digits):
        points, above = [exact.exact(array) for array in arrays], exact.exact(upstream)
        for place, (point, gradient) in enumerate(zip(points, found, strict=True)):
            true, size = np.full(point.shape, mp.zero), np.full(point.shape, mp.zero)
            for index in np.ndindex(point.shape):
                here, row = point[index], np.atleast_1d(point[index[:-1]])
                step = (max(abs(entry) for entry in row) or 1) * mpf(10) ** -(digits // 3)
                ends = []
                for sign in (-1, 1):
                    point[index] = here + sign * step
                    ends.append(function(*points))
                point[index] = here
                parts = np.ravel(above * (ends[1] - ends[0]) / (2 * step))
                true[index], size[index] = mp.fsum(parts), mp.fsum(abs(part) for part in parts)
            error = exact.row_error(gradient, true, size if terms is None else terms[place])
            assert error <= allowed, f"gradient {place} is {error:.3g}u off, allowed {allowed:.3g}u"


def against_differences(loss: Any, *inputs: Any, found: Any = None, known: Any = None) -> None:
    """Compare gradients with central differences of refloss's own float64 values, found here or `known` from before."""
    _, gradients = found or loss.value_and_grad(*inputs)
    known = known or differences(loss, *inputs)
    for name, gradient in as_dict(gradients).items():
        near, tolerance = known[name]
        for index in np.ndindex(near.shape):
            assert abs(gradient[index] - near[index]) <= tolerance[index], (
                f"{loss}: d{name}{list(index)} = {gradient[index]}, "
                f"differences give {near[index]} +- {tolerance[index]:.2g}"
            )


def differences(loss: Any, *inputs: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Central differences of float64 values by every entry of every input, and how far from them a gradient may lie.

    Of each input, every entry is moved by h and by 2h, h = 2^-17 of its row's length over max(1, S). Rounding of values
    leaves at most 2 (4u S) |L| / 2h; truncation, (h^2/6) L''', is a third of the difference of the two steps. Twice the
    sum is allowed. The value is smooth in these tests.
    """
    value, gradients = loss.value_and_grad(*inputs)
    rounding = allowed(loss, *inputs)[0] * U * abs(float(value))
    stiffness = max(1.0, scale_of(loss, *inputs)) if type(loss).__name__ not in ("CrossEntropy", "Triplet") else 1.0
    out = {}
    for place, (name, gradient) in enumerate(as_dict(gradients).items()):
        place = {"b": 3}.get(name, place)  # noqa: PLW2901 (y stands before b)
        out[name] = slopes, tolerances = np.empty(gradient.shape), np.empty(gradient.shape)
        for index in np.ndindex(gradient.shape):
            row = np.asarray(inputs[place])[index[0]]
            h = 2.0**-17 / stiffness * max(float(np.linalg.norm(row)), 1e-3)
            near, far = (_slope(loss, inputs, place, index, step) for step in (h, 2.0 * h))
            slopes[index], tolerances[index] = near, 2.0 * (abs(far - near) / 3.0 + rounding / h) + 1e-300
    return out


def _slope(loss: Any, inputs: tuple[Any, ...], place: int, index: tuple[int, ...], h: float) -> float:
    ends = []
    for sign in (1.0, -1.0):
        moved = [np.array(array) for array in inputs]
        moved[place][index] += sign * h
        ends.append((float(moved[place][index]), float(loss(*moved))))
    (right, upper), (left, lower) = ends
    return (upper - lower) / (right - left)


def against_complex_step(textbook: Any, *inputs: Any, gradients: Any, scale: float) -> None:
    """Compare gradients with Im f(v + ih) / h of a smooth textbook function of the same inputs, h = 1e-200.

    Nothing is subtracted, so the derivative is as good as the textbook's own arithmetic at ordinary inputs: 64u S of
    the largest entry, for logits of size S each wrong by a few u and a softmax that passes it on.
    """
    for place, (name, gradient) in enumerate(as_dict(gradients).items()):
        found = np.empty_like(gradient)
        for index in np.ndindex(gradient.shape):
            moved = [np.array(array, dtype=complex) if i == place else array for i, array in enumerate(inputs)]
            moved[place][index] += 1e-200j
            found[index] = textbook(*moved).imag / 1e-200
        worst = np.abs(gradient - found).max()
        limit = 64.0 * U * max(1.0, scale) * np.abs(found).max()
        assert worst <= limit, f"d{name} is {worst:.3g} off a complex step, allowed {limit:.3g}"


def as_dict(gradients: Any) -> dict[str, np.ndarray]:
    """Gradients by name, from the named tuple or a dict; a bias that was not there is left out."""
    named = gradients if isinstance(gradients, dict) else gradients._asdict()
    return {name: array for name, array in named.items() if array is not None}
