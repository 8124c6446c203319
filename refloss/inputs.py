"""The one place that refuses input: settings of a loss, arrays of a call, options of a call.

Every message names the argument, what was expected and what came. A function returns its argument checked, as the type
that its name says; `check_...` only refuses. Nothing here writes to an argument: arrays come back as float64 in C
order, the same object where it already was one. Which margins a boundary rule refuses stands in the rule's own row, in
`refloss.stages.margin`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array, Integers
from refloss.messages import leaves, shown

REDUCTIONS = ("mean", "sum", "none")
GRADIENTS = ("exact", "detached")


# --------------------------------------------------------------------------------------------------- settings of a loss


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Refuse a word that is not in the list."""
    words = tuple(allowed)
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, words))}; got {shown(value)}")


def number(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """Return value as a float; refuse what is no finite number from low to high, low itself excluded by `above`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number; got {shown(value)}")
    try:
        converted = float(value)
    except OverflowError:  # an integer above 1e308
        converted = math.inf
    if not math.isfinite(converted) or converted < low or converted > high or (above and converted == low):
        bounds = f"{'>' if above else '>='} {low:g}" + (f" and <= {high:.16g}" if high < math.inf else "")
        raise ValueError(f"{name} must be a finite number {bounds}; got {converted!r}")
    return converted


def angle(name: str, value: Any) -> float:
    """Return a margin that is added to an angle, in radians from 0 to π."""
    try:
        return number(name, value, 0.0, math.pi)
    except ValueError as error:
        hint = " (radians: 28.6 degrees are 0.5)" if value > math.pi else ""
        raise ValueError(f"{error}{hint}") from None


def class_weights(value: Any) -> tuple[float, ...] | None:
    """Return class weights as a tuple of finite floats, of either sign."""
    if value is None:
        return None
    weights = float64_array("class_weight", value)
    if weights.ndim != 1 or not weights.size:
        raise ValueError(f"class_weight must be one number a class, shape (C,); got shape {weights.shape}")
    _check_finite("class_weight", weights)
    return tuple(weights.tolist())


def flag(name: str, value: Any) -> bool:
    """Return a bool; refuse numbers that could stand for one."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {shown(value)}")
    return bool(value)


def integer(name: str, value: Any) -> int:
    """Return an integer that int64 holds."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer; got {shown(value)}")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must be an integer that int64 can hold; got {shown(value)}")
    return int(value)


def count(name: str, value: Any) -> int:
    """Return an integer from 1 on."""
    number = integer(name, value)
    if number < 1:
        raise ValueError(f"{name} must be 1 or more; got {number}")
    return number


# ----------------------------------------------------------------------------------------------------- arrays of a call


def logits_and_targets(
    z: Any, y: Any, weights: tuple[float, ...] | None, ignored: int | None
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Return logits z (N, C) with labels (N,) or probabilities (N, C) y, and the shape of their samples before.

    Probabilities may be any finite numbers. A logit of -inf masks a class; NaN and +inf pass through.
    """
    z = float_array("z", z)
    if z.ndim == 0 or z.shape[-1] == 0:
        raise ValueError(f"z must have shape (..., C) with at least one class; got shape {z.shape}")
    if z.size == 0:
        raise ValueError(f"z holds no sample: an empty batch has no loss; got shape {z.shape}")
    classes = z.shape[-1]
    _check_length(weights, classes)
    rows = z.shape[:-1]
    y = _as_array("y", y)
    if y.dtype.kind not in "iu" and y.shape == z.shape:
        y = float64_array("y", y)
        _check_finite("y", y)
        return {"z": z.reshape(-1, classes), "y": y.reshape(-1, classes)}, rows
    y = labels(y, rows, classes, ignored, otherwise=f", or float probabilities of shape {z.shape}")
    return {"z": z.reshape(-1, classes), "y": y.reshape(-1)}, rows


def embeddings_and_classes(
    x: Any,
    w: Any,
    y: Any,
    b: Any,
    weights: tuple[float, ...] | None,
    ignored: int | None,
    *,
    directions: bool,
    centers: int | None = None,
) -> dict[str, Any]:
    """Return embeddings x (N, D), class weights w (C, D), labels y (N,) and bias b (C,) by name.

    Class weights with so many centers a class come as w (C, centers, D), and leave as rows (C centers, D).

    Where classes are no directions, y may be probabilities (N, C): any finite numbers.

    Ignored rows of x may be anything. Of w only the shape is checked: it may be larger than memory, and stays as it is
    until `as_float64` converts and checks it, or an engine does so block by block.
    """
    x, w = _matrix("x", x, "(N, D)"), float_array("w", w)
    if centers is None and w.ndim != 2:
        raise ValueError(f"w must have shape (C, D); got shape {w.shape}")
    if centers is not None and (w.ndim != 3 or w.shape[1] != centers):
        raise ValueError(f"w must have shape (C, {centers}, D), {centers} centers a class; got shape {w.shape}")
    if len(x) == 0:
        raise ValueError(f"x holds no sample: an empty batch has no loss; got shape {x.shape}")
    if x.shape[1] == 0 or len(w) == 0:
        raise ValueError(f"x and w need at least one dimension and one class; got shapes {x.shape} and {w.shape}")
    if x.shape[1] != w.shape[-1]:
        expected = f"(C, {x.shape[1]}), a class a row" if centers is None else f"(C, {centers}, {x.shape[1]})"
        hint = "; did you mean w.T?" if centers is None and w.shape[0] == x.shape[1] else ""
        raise ValueError(f"w must have shape {expected}, to go with x of shape {x.shape}; got shape {w.shape}{hint}")
    classes, w = len(w), w.reshape(-1, x.shape[1])
    _check_length(weights, classes)
    shape = (len(x), classes)
    y = _as_array("y", y)
    if not directions and y.dtype.kind not in "iu" and y.shape == shape:
        y = float64_array("y", y)
        _check_finite("y", y)
        kept = np.ones(len(x), np.bool_)
    else:
        otherwise = "" if directions else f", or float probabilities of shape {shape}"
        y = labels(y, shape[:1], classes, ignored, otherwise=otherwise)
        kept = y != ignored
    _check_rows("x", x, kept, directions)
    if b is None:
        return {"x": x, "w": w, "y": y}
    b = float64_array("b", b)
    if b.shape != (len(w),):
        raise ValueError(f"b must have shape ({len(w)},), one bias a class; got shape {b.shape}")
    _check_finite("b", b)
    return {"x": x, "w": w, "y": y, "b": b}


def margins(m: Any, counted: NDArray[np.bool_], largest: float) -> Array:
    """Return margins m (N,), one per sample, of either sign; those of samples that do not count may be anything."""
    array = float64_array("m", m)
    if array.shape != counted.shape:
        raise ValueError(f"m must have shape ({len(counted)},), one margin per sample; got shape {array.shape}")
    outside = counted & ~(np.abs(array) <= largest)
    if outside.any():
        raise ValueError(f"m must be margins from {-largest:g} to {largest:g}; got {_first_bad(outside, array, 'm')}")
    return array


def one_number(name: str, value: Any, *, above: float | None = None) -> Array:
    """Return a finite number as an array of shape (), above another if one is named."""
    array = float64_array(name, value)
    if array.shape != ():
        raise ValueError(f"{name} must be one number; got shape {array.shape}")
    if not np.isfinite(array) or (above is not None and not array > above):
        more = "" if above is None else f" above {above:g}"
        raise ValueError(f"{name} must be a finite number{more}; got {float(array)!r}")
    return array


def pairs(x: Any, w: Any) -> dict[str, Any]:
    """Return embeddings x and w, pair by pair, both (N, D), and the labels 0 to N - 1, by name."""
    rows, others = _matrix("x", x, "(N, D)"), _matrix("w", w, "(N, D)")
    if rows.shape != others.shape:
        raise ValueError(f"w must have the shape of x, {rows.shape}; got shape {others.shape}")
    return embeddings_and_classes(rows, others, np.arange(len(rows)), None, None, None, directions=True)


def triplets(anchor: Any, positive: Any, negative: Any) -> dict[str, Array]:
    """Return anchors, positives and negatives, all (N, D), by name."""
    points = {
        name: _matrix(name, value, "(N, D)")
        for name, value in (("anchor", anchor), ("positive", positive), ("negative", negative))
    }
    shape = points["anchor"].shape
    if shape[0] == 0:
        raise ValueError(f"anchor holds no sample: an empty batch has no loss; got shape {shape}")
    if shape[1] == 0:
        raise ValueError(f"anchor needs at least one dimension; got shape {shape}")
    for name, rows in points.items():
        if rows.shape != shape:
            raise ValueError(f"{name} must have the shape of anchor, {shape}; got shape {rows.shape}")
        _check_finite(name, rows)
    return points


def logits_and_logits(z: Any, target: Any) -> tuple[dict[str, Array], tuple[int, ...]]:
    """Return logits z and target, both (N, C), by name, and the shape of their samples before.

    A logit of -inf masks a class; NaN and +inf pass through.
    """
    z, target = float64_array("z", z), float64_array("target", target)
    if z.ndim == 0 or z.shape[-1] == 0:
        raise ValueError(f"z must have shape (..., C) with at least one class; got shape {z.shape}")
    if z.size == 0:
        raise ValueError(f"z holds no sample: an empty batch has no loss; got shape {z.shape}")
    if target.shape != z.shape:
        raise ValueError(f"target must be logits of the shape of z, {z.shape}; got shape {target.shape}")
    arrays = {"z": z, "target": target}
    return {name: array.reshape(-1, z.shape[-1]) for name, array in arrays.items()}, z.shape[:-1]


def labels(y: Any, shape: tuple[int, ...], classes: int, ignored: int | None, *, otherwise: str = "") -> Integers:
    """Return integer labels from 0 to classes - 1, or the ignored label."""
    array = _as_array("y", y)
    integers = array.dtype.kind in "iu"
    if not integers or array.shape != shape:
        message = (
            f"y must be integer labels of shape {shape}{otherwise}; got dtype {array.dtype} and shape {array.shape}"
        )
        raise ValueError(message) if integers else TypeError(message)
    outside = (array != ignored) & ((array < 0) | (array >= classes))
    if outside.any():
        other = "" if ignored is None else f", or ignore_index={ignored}"
        raise ValueError(f"y must be labels from 0 to {classes - 1}{other}; got {_first_bad(outside, array, 'y')}")
    return array.astype(np.int64)


def angles(value: Any) -> Array:
    """Return angles in radians, from 0 to π."""
    theta = float64_array("theta", value)
    outside = ~((theta >= 0.0) & (theta <= math.pi))
    if outside.any():
        raise ValueError(f"theta must be in radians, from 0 to pi; got {_first_bad(outside, theta, 'theta')}")
    return theta


def lengths(value: Any) -> Array:
    """Return lengths of embeddings, above 0."""
    if value is None:
        raise TypeError("length must be lengths of embeddings, since the margin depends on them; got None")
    length = float64_array("length", value)
    outside = ~((length > 0.0) & np.isfinite(length))
    if outside.any():
        raise ValueError(f"length must be finite and above 0; got {_first_bad(outside, length, 'length')}")
    return length


def embeddings(x: Any, least: int) -> Array:
    """Return embeddings x (N, D), none of them zero, at least so many."""
    rows = _matrix("x", x, "(N, D)")
    if len(rows) < least or rows.shape[1] == 0:
        raise ValueError(f"x must have at least {least} samples and one dimension; got shape {rows.shape}")
    _check_rows("x", rows, np.ones(len(rows), np.bool_), directions=True)
    return rows


def rows_along(name: str, value: Any, axis: int) -> tuple[Array, Callable[[Array], Any]]:
    """Return value as rows along an axis, and the function that puts results, rows or one number per row, back."""
    array = float64_array(name, value)
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise TypeError(f"axis must be an integer; got {shown(axis)}")
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"axis must be one of the {array.ndim} axes of {name}; got {shown(axis)}")
    if array.shape[axis] == 0:
        raise ValueError(f"{name} must have at least one class along axis {axis}; got shape {array.shape}")
    moved = np.moveaxis(array, axis, -1)

    def restore(result: Array) -> Any:
        if result.ndim == 1:
            return result.reshape(moved.shape[:-1])[()]  # a number, where no axis is left
        return np.ascontiguousarray(np.moveaxis(result.reshape(moved.shape), -1, axis))

    return np.ascontiguousarray(moved.reshape(-1, moved.shape[-1])), restore


def as_float64(arrays: dict[str, Any], *, directions: bool, centers: int | None = None) -> dict[str, Any]:
    """Return the arrays of a call as float64, converted exactly, and check w, which `embeddings_and_classes` left."""
    if "w" in arrays:
        check_classes(arrays["w"], directions=directions, centers=centers)
    return {
        name: array if name == "y" and array.ndim == 1 else float64_array(name, array) for name, array in arrays.items()
    }


def check_classes(w: NDArray[Any], *, directions: bool, centers: int | None = None) -> None:
    """Refuse class weights that are not finite or, where they are directions, zero.

    Rows that are so many centers a class are named by class and center.
    """
    if centers is not None:
        w = w.reshape(-1, centers, w.shape[1])
    _check_rows("w", w, np.ones(len(w), np.bool_), directions)


def check_logits_fit(z: Array) -> None:
    """Refuse embeddings and weights whose logits float64 cannot hold."""
    if not np.isfinite(z).all():
        sample, k = np.argwhere(~np.isfinite(z))[0]
        raise ValueError(
            f"x and w must have logits that float64 can hold, below 1.8e308; got more for class {k} and "
            f"sample {sample} of those not ignored"
        )


def check_scaled_logits_fit(z: Array, scaled: Array) -> None:
    """Refuse a logit scale that takes finite logits beyond what float64 can hold."""
    beyond = np.isfinite(z) & ~np.isfinite(scaled)
    if beyond.any():
        sample, k = np.argwhere(beyond)[0]
        raise ValueError(
            "logit_scale must leave logits that float64 can hold, below 1.8e308; it makes more of "
            f"{z[sample, k]} for class {k} and sample {sample} of those not ignored"
        )


def float64_array(name: str, value: Any) -> Array:
    """Return numbers as float64, converted exactly."""
    array = _as_array(name, value)
    if array.dtype.kind == "b" or not np.can_cast(array.dtype, np.float64):
        kind = f"{type(value).__name__} of dtype {array.dtype}"
        raise TypeError(f"{name} must hold real numbers that float64 can hold; got {kind}")
    if array.dtype.kind in "iu":
        large = (array > 2**53) | (array < -(2**53))
        if large.any():
            raise ValueError(
                f"{name} must hold integers up to 2^53, exact in float64; got {_first_bad(large, array, name)}"
            )
    with np.errstate(invalid="ignore"):  # a signaling NaN becomes a NaN, which the caller may refuse
        return np.require(array, np.float64, ["C_CONTIGUOUS", "ALIGNED"])


def float_array(name: str, value: Any) -> NDArray[Any]:
    """Return a float16, float32 or float64 array as it is, for it may be large; anything else as float64."""
    array = _as_array(name, value)
    if array.dtype in (np.float16, np.float32, np.float64) and array.dtype.isnative:
        return array
    return float64_array(name, value)


def _matrix(name: str, value: Any, shape: str) -> Array:
    array = float64_array(name, value)
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape {shape}; got shape {array.shape}")
    return array


def _check_rows(name: str, rows: NDArray[Any], counted: NDArray[np.bool_], directions: bool) -> None:
    _check_finite(name, rows, counted)
    if directions:
        zero = np.asarray(~rows.any(axis=-1))
        zero[~counted] = False
        if zero.any():
            where = f"{name}[{', '.join(map(str, np.argwhere(zero)[0]))}]"
            raise ValueError(f"{name} must have no zero vector, whose direction is undefined; got zeros in {where}")


def _check_finite(name: str, array: Array, counted: NDArray[np.bool_] | None = None) -> None:
    """Refuse entries that are not finite; they are looked for only if the largest is not."""
    rows = array if counted is None or counted.all() else array[counted]
    if np.isfinite(np.abs(rows).max(initial=0.0)):
        return
    bad = ~np.isfinite(array)
    if counted is not None:
        bad[~counted] = False
    raise ValueError(f"{name} must be finite; got {_first_bad(bad, array, name)}")


def _first_bad(bad: NDArray[np.bool_], array: NDArray[Any], name: str) -> str:
    """Describe the first bad entry: its value and its index."""
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{array[index]} at {name}[{', '.join(map(str, index))}]" if index else f"{array[()]}"


def _check_length(weights: tuple[float, ...] | None, classes: int) -> None:
    if weights is not None and len(weights) != classes:
        raise ValueError(f"class_weight must have one number for each of {classes} classes; got {len(weights)}")


def _as_array(name: str, value: Any) -> NDArray[Any]:
    """Return a NumPy view of what NumPy, a list or a tensor of another framework holds."""
    try:
        if not any(map(np.ma.is_masked, leaves(value))):  # which NumPy would silently unmask
            array = np.asarray(_on_cpu(value))
            # Before 2.2 NumPy may crash where integers in the other byte order meet an integer that they cannot hold.
            return array.astype(array.dtype.newbyteorder("="), copy=False) if array.dtype.kind in "iu" else array
    except (TypeError, ValueError, RuntimeError) as error:  # a ragged list, a sparse tensor, a tracer, ...
        reason = f"{type(value).__name__}: {error}"
        message = f"{name} must be an array, or something that NumPy can make one of; got {reason}"
        raise (ValueError if isinstance(error, ValueError) else TypeError)(message) from error
    raise ValueError(f"{name} must have no masked entries; say what they are with .filled(...), or leave them out")


def _on_cpu(value: Any) -> Any:
    """Return a tensor as NumPy can read it, and anything else as it is."""
    if not hasattr(value, "detach") or not hasattr(value, "cpu"):
        return value
    value = value.detach().cpu()  # perhaps one that wants gradients
    return value.float() if "bfloat16" in str(value.dtype) else value  # exact; NumPy has no bfloat16 of its own


# ---------------------------------------------------------------------------------------------------- options of a call


def upstream_gradient(value: Any, reduction: str, shape: tuple[int, ...]) -> Array:
    """Return the upstream gradient, ones for None: a number, or for reduction="none" one per sample, flattened."""
    shape = shape if reduction == "none" else ()
    gradient = np.ones(shape) if value is None else float64_array("upstream", value).copy()  # a trace returns it
    if gradient.shape != shape:
        raise ValueError(f"upstream must have shape {shape} for reduction={reduction!r}; got shape {gradient.shape}")
    _check_finite("upstream", gradient)
    return gradient.reshape(-1) if reduction == "none" else gradient


def upstream_of_lse(value: Any, shape: tuple[int, ...]) -> Array:
    """Return the upstream gradient of the log-sum-exp, one number per sample, flattened."""
    gradient = float64_array("upstream_lse", value)
    if gradient.shape != shape:
        raise ValueError(f"upstream_lse must have shape {shape}, one number per sample; got shape {gradient.shape}")
    _check_finite("upstream_lse", gradient)
    return gradient.reshape(-1).copy()  # a trace returns it


def compute_dtype(engine: str, dtype: Any, known: Iterable[Any]) -> np.dtype[Any]:
    """Return the dtype to compute in; refuse one that the engine does not know."""
    try:
        requested: np.dtype[Any] = np.dtype(dtype)  # None is float64
    except Exception as error:  # NumPy raises errors of many types
        raise TypeError(f"dtype must be one of NumPy's; got {shown(dtype)}") from error
    names = [np.dtype(each).name for each in known]
    if requested.name not in names or not requested.isnative:
        only = f"{names[0]}, the only one" if len(names) == 1 else f"{' or '.join(names)}, those"
        raise ValueError(f"dtype must be {only} engine={engine!r} computes in; got {requested}")
    return requested


def wanted_inputs(value: Any, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the names of the inputs whose gradients are wanted, None for all."""
    if value is None:
        return None
    wanted = (value,) if isinstance(value, str) else value
    if not isinstance(wanted, tuple | list):
        raise TypeError(f"wrt must be a name of an input, or a tuple of names; got {shown(value)}")
    for name in wanted:
        if not isinstance(name, str) or name not in names:
            raise ValueError(f"wrt must name inputs among {', '.join(map(repr, names))}; got {shown(name)}")
    return tuple(wanted)


def output_arrays(
    value: Any,
    shapes: dict[str, tuple[int, ...]],
    dtype: np.dtype[Any],
    wanted: tuple[str, ...],
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the arrays that take gradients, by the name of the input.

    Inputs stay as they are and gradients do not overwrite one another: none of these arrays may share memory with one
    of the caller's arguments (as they were before any conversion), with another of these arrays, or within itself.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"out must map names of inputs to arrays; got {type(value).__name__}")
    for name, array in value.items():
        if name not in shapes:
            raise ValueError(f"out must name inputs among {', '.join(map(repr, shapes))}; got {shown(name)}")
        if name not in wanted:
            raise ValueError(f"out must name inputs that wrt names; got {name!r}")
        _check_output(name, array, shapes[name], dtype)
    arrays = dict(value)
    for argument, passed in arguments.items():
        for name, array in arrays.items():
            if any(_share_memory(array, memory) for memory in _views_of(passed)):
                raise ValueError(f"out[{name!r}] must not share memory with {argument}, which stays as it is")
    for (name, array), (other, another) in combinations(arrays.items(), 2):
        if _share_memory(array, another):
            raise ValueError(f"out[{name!r}] must not share memory with out[{other!r}]")
    return arrays


def _check_output(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an array that a gradient cannot be written into."""
    expected = f"out[{name!r}] must be a writable {dtype} array of shape {shape}"
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{expected}; got {type(array).__name__}")
    if array.shape != shape or array.dtype != dtype or not array.flags.writeable:
        kind = "" if array.flags.writeable else "read-only "
        raise ValueError(f"{expected}; got a {kind}{array.dtype} array of shape {array.shape}")
    if _overlaps_itself(array):
        raise ValueError(f"{expected}; got one with entries that share memory")


def _share_memory(array: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays have a byte in common; where that takes long to find out, whether their bounds overlap."""
    return np.may_share_memory(array, other, max_work=10_000)  # type: ignore[arg-type]  # its stub knows no limit


def _overlaps_itself(array: NDArray[Any]) -> bool:
    """Whether entries of an array may share memory: an axis steps over less than the axes of smaller steps span."""
    span = array.itemsize
    steps = zip(map(abs, array.strides), array.shape, strict=True)
    for step, length in sorted(step for step in steps if step[1] > 1):
        if step < span:
            return True
        span += step * (length - 1)
    return False


def _views_of(value: Any) -> Iterator[NDArray[Any]]:
    """Yield views of the memory that an argument holds its numbers in, without conversion.

    The argument is one that was checked. A number shares no memory, nor does an argument that has to be copied.
    """
    for each in leaves(value):
        if hasattr(each, "detach") and "bfloat16" in str(each.dtype):  # which NumPy cannot hold
            yield each.detach().cpu().view(import_module("torch").int16).numpy()
        elif each is not None and not isinstance(each, float | int):
            yield _as_array("", each)
