"""The gradient checks that the suite uses, and what they allow. test_mutants.py shows that each rejects every mutant.

u = 2^-53 is the unit roundoff. S is the scale of a loss, see `refloss.engines.contract`.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
from mpmath import mp, mpf

import refloss
from refloss.engines import contract
from support import exact

U = 2.0**-53
TWICE = 2.0 + 1e-9  # twice the contract, and what relating it to a result in place of the truth costs


def scale_of(loss: Any, *inputs: Any) -> float:
    """S of a head, the largest of its samples."""
    return float(contract.scales(loss.spec, _arrays(loss, inputs)).max())


def _arrays(loss: Any, inputs: Any) -> dict[str, Any]:
    names = tuple(signature(type(loss).__call__).parameters)[1:]
    arrays = {name: np.asarray(it, np.float64) for name, it in zip(names, inputs, strict=False) if it is not None}
    if "w" in arrays:  # all centers of all classes
        arrays["w"] = arrays["w"].reshape(-1, arrays["w"].shape[-1])
    return arrays


def allowed(loss: Any, *inputs: Any, engine: str = "chain", dtype: Any = np.float64) -> tuple[float, float]:
    """The contract in u: for a value relative to itself, for a gradient relative to the absolute terms of its row."""
    arrays = _arrays(loss, inputs)
    sizes = (len(arrays["w"]), arrays["w"].shape[1]) if "w" in arrays else (1, 1)
    options = contract.has_options(loss.spec, arrays)
    promise = contract.promise(
        engine, loss.spec.head, contract.scales(loss.spec, arrays), *sizes, dtype, options=options
    )
    return float(promise.value.max()) / U, float(promise.gradient.max() + promise.sums) / U


def share(result: Any, truth: Any, bound: Any, most: float = np.inf) -> float:
    """The largest |result - truth| / bound; inf where the result is not NaN, or not inf, as the truth is.

    A truth beyond `most` is infinite in the dtype of the result.
    """
    result, true, bound = exact.exact(result), exact.exact(truth), np.broadcast_to(bound, np.shape(truth))
    assert result.shape == true.shape, f"shapes of result {result.shape} and truth {true.shape} differ"
    return max((_share(result[i], true[i], bound[i], most) for i in np.ndindex(true.shape)), default=0.0)


def _share(result: mpf, true: mpf, bound: float, most: float) -> float:
    if mp.isnan(true):
        return 0.0 if mp.isnan(result) else float("inf")
    if mp.isinf(result) and result * true > 0 and abs(true) + bound > most:
        return 0.0
    if result == true or (result == 0 and bound <= 2.0**-1060):
        return 0.0  # of absolute terms of 0 mpmath's differences leave noise
    if not mp.isfinite(result) or not mp.isfinite(true):
        # what float64 cannot hold, or may not hold after rounding
        return 0.0 if bound == np.inf and not mp.isnan(result) else float("inf")
    with mp.workdps(60):
        return float(abs(result - true) / bound) if bound > 0.0 else float("inf")


def shares(
    loss: Any,
    *inputs: Any,
    result: Any = None,
    upstream: Any = None,
    upstream_lse: Any = None,
    entries: Any = None,
    engine: str = "chain",
    dtype: Any = np.float64,
    **precision: Any,
) -> dict[str, float]:
    """Errors against mpmath, of the value and of gradients by name, as parts of `refloss.error_bound`.

    `entries`, indices by name, leaves out all other entries of the gradients: mpmath takes its time at real sizes.
    """
    followed: dict[str, Any] = {"upstream": upstream}
    if upstream_lse is not None:
        followed["upstream_lse"] = upstream_lse
    result = result or loss.value_and_grad(*inputs, engine=engine, dtype=dtype, **followed)
    truth = exact.gradients(loss, *inputs, entries=entries, **followed, **precision)
    bound = refloss.error_bound(loss, *inputs, engine=engine, dtype=dtype, **followed)
    most = float(np.finfo(dtype).max) if np.dtype(dtype) != np.float64 else np.inf
    return shares_of(result, (exact.value(loss, *inputs, **precision), truth), bound, entries, most)


def shares_of(result: Any, truth: Any, bound: Any, entries: Any = None, most: float = np.inf) -> dict[str, float]:
    """The largest shares of what `refloss.error_bound` gave: "value", and gradients by name; the truth has a dict."""
    out = {"value": share(result[0], truth[0], bound[0], most)}
    for name, gradient in as_dict(result[1]).items():
        at = ... if entries is None else tuple(np.array(entries[name]).T)
        out[name] = share(np.asarray(gradient)[at], truth[1][name][at], getattr(bound[1], name)[at], most)
    return out


def against_exact(
    loss: Any, *inputs: Any, result: Any = None, upstream: Any = None, engine: str = "chain", **options: Any
) -> None:
    """Compare value and gradients with mpmath: nothing refloss derived is on the other side."""
    for name, part in shares(loss, *inputs, result=result, upstream=upstream, engine=engine, **options).items():
        assert part <= 1.0, f"{loss}: {name} is off by {part:.3g} times what error_bound allows"


def against_certified(loss: Any, *inputs: Any, upstream: Any = None, engine: str = "chain", **options: Any) -> None:
    """Compare with engine "certified", for inputs at which mpmath's differences would take thousands of digits."""
    result = loss.value_and_grad(*inputs, upstream=upstream, engine=engine, **options)
    truth = loss.value_and_grad(*inputs, upstream=upstream, engine="certified")
    bound = refloss.error_bound(loss, *inputs, upstream=upstream, engine=engine, **options)
    most = float(np.finfo(options.get("dtype", np.float64)).max)
    for name, *each in (
        ("value", result[0], truth[0], bound[0]),
        *zip(result[1]._fields, result[1], truth[1], bound[1], strict=True),
    ):
        part = 0.0 if each[0] is None else rounded_share(*each, most)
        assert part <= 1.0, f"{loss}: {name} is off by {part:.3g} times what error_bound allows"


def rounded_share(result: Any, truth: Any, bound: Any, most: float = float(np.finfo(np.float64).max)) -> float:
    """The largest error as a part of its bound, where the truth is rounded; beyond `most` all is infinite."""
    result, truth, bound = (np.atleast_1d(np.asarray(it, np.float64)) for it in (result, truth, bound))
    with np.errstate(all="ignore"):
        ours, true = np.clip(result, -most, most), np.clip(truth, -most, most)
        own = np.abs(true) * U
        error = np.maximum(np.abs(ours / 4.0 - true / 4.0) * 4.0 - own, 0.0)
        part = np.where(error > 0.0, error / bound, 0.0)
    part = np.where(np.isnan(truth) != np.isnan(result), np.inf, np.where(np.isnan(truth), 0.0, part))
    # Over weights that add up to 0 a mean is infinite or, if the losses cancel too, NaN: no bound tells these apart.
    part[np.isinf(bound) & ~np.isfinite(truth) & ~np.isfinite(result)] = 0.0
    return float(part.max(initial=0.0))


def against_exact_vjp(
    function: Any, arrays: Any, upstream: Any, gradients: Any, allowed: float, *, terms: Any = None, digits: int = 150
) -> None:
    """Compare a stage's backward with central differences of sum(upstream * function(*arrays)), in mpmath.

    `function` takes and returns object arrays of mpf and is to compute with all of mp.dps, which is `digits`; a step is
    10^-(digits/3) of the largest entry of its row, so that truncation leaves the square of that. `allowed` is in u of
    `terms`, one array for each of `arrays`, by entry or by row; of each entry's own where they are left out: the sum
    over all outputs of |upstream * d output / d entry|.
    """
    with mp.workdps(digits):
        points, upstream = [exact.exact(array) for array in arrays], exact.exact(upstream)
        for place, (point, gradient) in enumerate(zip(points, gradients, strict=True)):
            true, size = np.full(point.shape, mp.zero), np.full(point.shape, mp.zero)
            for index in np.ndindex(point.shape):
                here, row = point[index], np.atleast_1d(point[index[:-1]])
                step = (max(abs(entry) for entry in row) or 1) * mpf(10) ** -(digits // 3)
                ends = []
                for sign in (-1, 1):
                    point[index] = here + sign * step
                    ends.append(function(*points))
                point[index] = here
                parts = np.ravel(upstream * (ends[1] - ends[0]) / (2 * step))
                true[index], size[index] = mp.fsum(parts), mp.fsum(abs(part) for part in parts)
            error = exact.row_error(gradient, true, size if terms is None else terms[place])
            assert error <= allowed, f"gradient {place} is {error:.3g}u off, allowed {allowed:.3g}u"


def against_differences(loss: Any, *inputs: Any, result: Any = None, known: Any = None) -> None:
    """Compare gradients with central differences of refloss's own float64 values, or with `known` ones."""
    _, gradients = result or loss.value_and_grad(*inputs)
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
        place = {"b": 3, "m": 3}.get(name, place)  # noqa: PLW2901 (y, or t, stands before them)
        out[name] = slopes, tolerances = np.empty(gradient.shape), np.empty(gradient.shape)
        for index in np.ndindex(gradient.shape):
            row = np.asarray(inputs[place])[index[:1]]
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
        derivatives = np.empty_like(gradient)
        for index in np.ndindex(gradient.shape):
            moved = [np.array(array, dtype=complex) if i == place else array for i, array in enumerate(inputs)]
            moved[place][index] += 1e-200j
            derivatives[index] = textbook(*moved).imag / 1e-200
        worst = np.abs(gradient - derivatives).max()
        limit = 64.0 * U * max(1.0, scale) * np.abs(derivatives).max()
        assert worst <= limit, f"d{name} is {worst:.3g} off a complex step, allowed {limit:.3g}"


def as_dict(gradients: Any) -> dict[str, np.ndarray]:
    """Gradients by name, from the named tuple or a dict; a bias that was not there is left out."""
    named = gradients if isinstance(gradients, dict) else gradients._asdict()
    return {name: np.asarray(array) for name, array in named.items() if array is not None}


def value_and_gradients(loss: Any, *inputs: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The value, and the gradients by name."""
    value, gradients = loss.value_and_grad(*inputs, **options)
    return value, as_dict(gradients)


def agree_with_chain(loss: Any, *inputs: Any, upstream: Any = None, result: Any = None, **options: Any) -> Any:
    """Fused and chain, within the sum of both contracts; the value alone has the bits of the one with gradients."""
    result = result or loss.value_and_grad(*inputs, upstream=upstream, engine="fused", **options)
    other = loss.value_and_grad(*inputs, upstream=upstream, engine="chain")
    value_allowed, gradient_allowed = allowed(loss, *inputs)
    error = exact.value_error(result[0], exact.exact(other[0]), exact.value(loss, *inputs, absolute=True))
    assert error <= TWICE * value_allowed, f"{loss}: values {result[0]} and {other[0]} are {error:.3g}u apart"
    terms = exact.absolute_terms(loss, *inputs, upstream=upstream)
    for name, gradient in as_dict(result[1]).items():
        error = exact.row_error(gradient, exact.exact(getattr(other[1], name)), terms[name])
        assert error <= TWICE * gradient_allowed, f"{loss}: gradients of {name} are {error:.3g}u apart"
    return result
