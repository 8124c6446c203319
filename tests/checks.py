"""The gradient checks that the suite uses, and what they allow. test_mutants.py shows that each rejects every mutant.

u = 2^-53 is the unit roundoff. S is the scale of a loss: s, or the largest length of an embedding, or the largest
product of lengths for the plain head.
"""

from __future__ import annotations

from typing import Any

import numpy as np

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


def allowed(loss: Any, *inputs: Any) -> tuple[float, float]:
    """The contract, in u: for the value relative to itself, for a gradient relative to the absolute terms of its row.

    Heads: 4u S and 8u S. A cosine between unit vectors whose entries are rounded is wrong by at most 2u, so a logit is
    by 2u S and the loss, relative to itself, by that much and the error of cross entropy, 5u; a gradient's softmax is
    wrong by twice as much. 16u and 32u are for small S, where the sums over classes and the projection count.

    Cross entropy on logits: 8u, for exp (1u), its correction, the sum, a division (1u each), log1p (1u), coefficient
    and reduction (1u each). Triplet: 8u: differences and squares are exact, directions (2u), coefficient, reduction.
    """
    if type(loss).__name__ in ("CrossEntropy", "Triplet"):
        return 8.0, 8.0
    scale = scale_of(loss, *inputs)
    return max(16.0, 4.0 * scale), max(32.0, 8.0 * scale)


def against_exact(loss: Any, *inputs: Any, found: Any = None, upstream: Any = None, **precision: Any) -> None:
    """Compare value and gradients with mpmath: nothing refloss derived is on the other side."""
    value, gradients = found or loss.value_and_grad(*inputs, upstream=upstream)
    value_allowed, gradient_allowed = allowed(loss, *inputs)
    true_value = exact.value(loss, *inputs, **precision)
    error = exact.value_error(value, true_value)
    assert error <= value_allowed, f"{loss}: value {value} is {error:.3g}u off, allowed {value_allowed:.3g}u"
    true_gradients = exact.gradients(loss, *inputs, upstream=upstream, **precision)
    terms = exact.absolute_terms(loss, *inputs, upstream=upstream)
    for name, gradient in as_dict(gradients).items():
        error = exact.row_error(gradient, true_gradients[name], terms[name])
        assert error <= gradient_allowed, f"{loss}: d{name} is {error:.3g}u off, allowed {gradient_allowed:.3g}u"


def against_differences(loss: Any, *inputs: Any, found: Any = None) -> None:
    """Compare gradients with central differences of refloss's own float64 values.

    Of each input, every entry is moved by h and by 2h, h = 2^-17 of its row's length over max(1, S). Rounding of values
    leaves at most 2 (4u S) |L| / 2h; truncation, (h^2/6) L''', is a third of the difference of the two steps. Twice the
    sum is allowed. The value is smooth in these tests.
    """
    value, gradients = found or loss.value_and_grad(*inputs)
    rounding = allowed(loss, *inputs)[0] * U * abs(float(value))
    stiffness = max(1.0, scale_of(loss, *inputs)) if type(loss).__name__ not in ("CrossEntropy", "Triplet") else 1.0
    for place, (name, gradient) in enumerate(as_dict(gradients).items()):
        place = {"b": 3}.get(name, place)  # noqa: PLW2901 (y stands before b)
        for index in np.ndindex(gradient.shape):
            row = np.asarray(inputs[place])[index[0]]
            h = 2.0**-17 / stiffness * max(float(np.linalg.norm(row)), 1e-3)
            near, far = (_slope(loss, inputs, place, index, step) for step in (h, 2.0 * h))
            tolerance = 2.0 * (abs(far - near) / 3.0 + rounding / h) + 1e-300
            assert abs(gradient[index] - near) <= tolerance, (
                f"{loss}: d{name}{list(index)} = {gradient[index]}, differences give {near} +- {tolerance:.2g}"
            )


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
