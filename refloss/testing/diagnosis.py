"""What would explain a failure: the defects that are common in public code, each tried on the failing cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from refloss.error_free import Array
from refloss.losses import CrossEntropy
from refloss.stages import margin
from refloss.testing.adapters import Found
from refloss.testing.budgets import budget
from refloss.testing.hard_cases import Case, dtype_of

Failing: TypeAlias = Sequence[tuple[tuple[Any, ...], Found]]
CLAMPS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
NEAR = 0.02  # radians
SPECIAL = {
    "overflow": "only where the square of a length would overflow: divide by the largest entry before squaring",
    "underflow": "only where the square of a length would underflow: divide by the largest entry before squaring",
    "offset": "only where all logits are large: take the largest away from all of them before anything else",
    "ignored": "",
}
"""Flags of cases that fail for reasons of their own."""
LABELS = {"logits": 1, "linear": 2, "margin": 2}
"""Where the labels are among the inputs."""
MOST = 4  # failing cases that a diagnosis has to explain


def diagnose(loss: Any, failed: Sequence[tuple[Case, Found]], dtype: str) -> list[str]:
    """Return sentences that explain all of the failing cases (of the first few), or none.

    Lengths that overflow, and labels that are ignored, are looked at only if nothing else fails: other causes show
    there too, but not alone.
    """
    with_truth = [(case, found) for case, found in failed if "truth" in case.accepts]
    failing = [(case, found) for case, found in with_truth if not set(case.flags) & set(SPECIAL)]
    if not failing:
        return [sentence for flag in SPECIAL for sentence in _only(loss, flag, with_truth, dtype)]
    easy = [(case.inputs, found) for case, found in failing if case.group != "hard"]
    return _general(loss, [(case.inputs, found) for case, found in failing], dtype) or [
        f"{sentence} (but for the group hard, where more is wrong)" for sentence in _general(loss, easy, dtype)
    ]


def _only(loss: Any, flag: str, failed: Sequence[tuple[Case, Found]], dtype: str) -> Iterator[str]:
    """What explains that only cases with this flag fail."""
    failing = [(case.inputs, found) for case, found in failed if flag in case.flags]
    if not failing:
        return
    if flag != "ignored":
        yield SPECIAL[flag]
        return
    whole = replace(loss, reduction="sum")

    def counted(inputs: tuple[Any, ...], theirs: Found) -> bool:
        n = np.size(inputs[LABELS[loss.spec.head]])
        return _agrees(whole, inputs, theirs._replace(upstream=theirs.upstream / n, value=theirs.value * n), dtype)

    if loss.reduction == "mean" and all(counted(*pair) for pair in failing):
        yield "ignored rows are counted in the mean: divide by the number of labels that count, not by N"
    else:
        yield f"only where labels are to be ignored (ignore_index={loss.ignore_index}): leave those rows out, or refuse"


def _general(loss: Any, failing: Failing, dtype: str) -> list[str]:
    some = failing[:MOST]
    if not some:
        return []
    classes = _classes(some[0][0], loss)
    like = [pair for pair in (*_relatives(loss, classes), *_fitted(loss, some[0])) if _all_agree(pair[1], some, dtype)]
    found = [f"{said}: {other}" for said, other in like if _all_agree(other, failing, dtype)]
    found = found or [f"{said}: {other}" for said, other in like]
    found += [sentence for sentence, holds in _gradients(loss) if all(holds(inputs, theirs) for inputs, theirs in some)]
    if loss.spec.head == "margin":
        clamps = [f"cosine clamped at 1 - {least:g}" for least in CLAMPS if _clamped(loss, failing, dtype, least)]
        found += clamps[:1] or [sentence for sentence, holds in _inputs(loss) if all(holds(*pair) for pair in failing)]
    found = found or list(_single(loss, failing, dtype))
    if not found:
        for kind in ("tf32", "float16", "bfloat16"):
            if all(_agrees(loss, inputs, theirs, dtype, matmul=kind) for inputs, theirs in some):
                return [f"within what matrix products with factors rounded to {kind} would explain"]
    return found


def _all_agree(loss: Any, failing: Failing, dtype: str) -> bool:
    return all(_agrees(loss, inputs, theirs, dtype) for inputs, theirs in failing)


def _fitted(loss: Any, pair: tuple[tuple[Any, ...], Found]) -> Iterator[tuple[str, Any]]:
    """The loss with another margin, or another scale, that gives this value: by secants."""
    inputs, theirs = pair
    for name in ("m", "m2", "s"):
        if not isinstance(getattr(loss, name, None), float):
            continue
        low, high = getattr(loss, name), 1.001 * getattr(loss, name)
        try:
            first, second = (_mean(replace(loss, **{name: at})(*inputs)) for at in (low, high))
            for _ in range(6):
                if second == first:
                    break
                low, high = high, high + (_mean(theirs.value) - second) * (high - low) / (second - first)
                first, second = second, _mean(replace(loss, **{name: high})(*inputs))
            yield f"value and gradient agree with {name}={high:.5g}", replace(loss, **{name: high})
        except (ValueError, TypeError):
            continue


def _mean(value: Any) -> float:
    return float(np.mean(value))


def _single(loss: Any, failing: Failing, dtype: str) -> Iterator[str]:
    """One entry of a gradient alone is wrong, in every case."""
    counts: dict[str, list[int]] = {}
    for inputs, theirs in failing:
        value, grad = loss.value_and_grad(*inputs, upstream=theirs.upstream)
        allowed = budget(loss, *inputs, dtype=dtype, upstream=theirs.upstream)
        parts = [("value", theirs.value, np.asarray(value), allowed.value)]
        for name, got in zip(grad._fields, theirs.gradients or (), strict=False):
            parts.append((name, got, getattr(grad, name), getattr(allowed.gradient, name)))
        for name, got, ours, bound in parts:
            if got.shape != ours.shape:
                return
            over = (
                np.abs(got - ours) > bound + 2.0**-45 * np.abs(ours).max() if got.shape == ours.shape else ours != got
            )
            counts.setdefault(name, []).append(int(np.count_nonzero(over)))
    wrong = [name for name, each in counts.items() if any(each)]
    if len(wrong) == 1 and wrong[0] != "value" and max(counts[wrong[0]]) == 1:
        yield f"a single entry of the gradient of {wrong[0]} is wrong, all others are right"


def _agrees(loss: Any, inputs: tuple[Any, ...], theirs: Found, dtype: str, matmul: str | None = None) -> bool:
    """Whether value and gradients are those of this loss, within its budget."""
    try:
        value, grad = loss.value_and_grad(*inputs, upstream=theirs.upstream)
        allowed = budget(loss, *inputs, dtype=dtype, upstream=theirs.upstream, matmul=matmul)
    except (ValueError, TypeError):
        return False
    pairs = [(theirs.value, value, allowed.value)]
    if theirs.gradients is not None:
        pairs += [
            (got, getattr(grad, name), getattr(allowed.gradient, name))
            for name, got in zip(grad._fields, theirs.gradients, strict=False)
        ]
    return all(
        got.shape == np.shape(ours) and bool((np.abs(got - ours) <= bound + 2.0**-45 * np.abs(ours).max()).all())
        for got, ours, bound in pairs
    )


def _classes(inputs: tuple[Any, ...], loss: Any) -> int:
    return int(inputs[0].shape[-1] if loss.spec.head == "logits" else len(inputs[1]))


def _relatives(loss: Any, classes: int) -> Iterator[tuple[str, Any]]:
    """Losses that code is often mistaken for."""
    spec = loss.spec

    def other(sentence: str, **changes: Any) -> Iterator[tuple[str, Any]]:
        try:
            yield sentence, replace(loss, **changes)
        except (ValueError, TypeError):
            return

    for reduction in ("mean", "sum"):
        if reduction != loss.reduction:
            yield from other(f"{reduction} instead of {loss.reduction}", reduction=reduction)
    if spec.head == "margin":
        yield from _of_margins(loss, other)
    if spec.cross_entropy.label_smoothing:
        yield from other("no label smoothing", label_smoothing=0.0)
        shared = spec.cross_entropy.label_smoothing * classes / (classes - 1.0)
        yield from other(
            "label smoothing of eps/(C - 1) on the other classes, not eps/C on all", label_smoothing=shared
        )
    if spec.cross_entropy.class_weight:
        yield from other("class weights left out", class_weight=None)


def _of_margins(loss: Any, other: Callable[..., Iterator[tuple[str, Any]]]) -> Iterator[tuple[str, Any]]:
    turned = {"exact": "detached", "detached": "exact"}[loss.gradient]
    yield from other(f"the gradient is that of the {turned} margin", gradient=turned)
    for rule in margin.RULES:
        if rule != loss.spec.margin.boundary and hasattr(loss, "boundary"):
            yield from other(f"value and gradient agree with boundary={rule!r}", boundary=rule)
    angle = {"ArcFace": "m", "CombinedMargin": "m2"}.get(type(loss).__name__)
    if angle:
        yield from other("margin taken in degrees", **{angle: np.radians(getattr(loss, angle))})
    if hasattr(loss, "m"):
        none = 1.0 if type(loss).__name__ == "ASoftmax" else 0.0
        yield from other("no margin", m=none)
        if loss.spec.margin.boundary != "none":
            yield from other("no margin", m=none, boundary="none")
    if hasattr(loss, "annealing"):
        yield from other("no annealing", annealing=0.0)
    if hasattr(loss, "s"):
        yield from other("no scale", s=1.0)
        if loss.s is not None:
            yield from other("the length of the embedding as the scale", s=None)


def _gradients(loss: Any) -> Iterator[tuple[str, Callable[[tuple[Any, ...], Found], bool]]]:
    """What may be wrong with a gradient beside a right value."""

    def truth(inputs: tuple[Any, ...], theirs: Found) -> Any:
        return loss.value_and_grad(*inputs, upstream=theirs.upstream)[1]

    def ratio(inputs: tuple[Any, ...], theirs: Found, place: int, factor: float) -> bool:
        got, ours = (theirs.gradients or ())[place], truth(inputs, theirs)[place]
        return got.shape == ours.shape and bool(np.allclose(got, factor * ours, rtol=1e-3, atol=1e-3 * _size(ours)))

    fields = {
        "logits": ["z"],
        "linear": ["x", "w"],
        "margin": ["x", "w"],
        "triplet": ["anchor", "positive", "negative"],
    }
    for place, name in enumerate(fields[loss.spec.head]):

        def zero(inputs: tuple[Any, ...], theirs: Found, place: int = place) -> bool:
            return theirs.gradients is not None and not theirs.gradients[place].any()

        def opposite(inputs: tuple[Any, ...], theirs: Found, place: int = place) -> bool:
            return theirs.gradients is not None and ratio(inputs, theirs, place, -1.0)

        def whole(inputs: tuple[Any, ...], theirs: Found, place: int = place) -> bool:
            return theirs.gradients is not None and ratio(inputs, theirs, place, float(len(inputs[0])))

        yield f"the gradient of {name} is all zero", zero
        yield f"the gradient of {name} has the opposite sign", opposite
        yield f"the gradient of {name} is N times as large: of the sum, not of the mean", whole
    if loss.spec.head == "margin":

        def unprojected(inputs: tuple[Any, ...], theirs: Found) -> bool:
            if theirs.gradients is None:
                return False
            got, ours = theirs.gradients[1], truth(inputs, theirs).w
            unit = inputs[1] / np.linalg.norm(inputs[1], axis=1, keepdims=True)
            along = (got * unit).sum(axis=1, keepdims=True)
            far = np.abs(along).max() > 1e-3 * _size(ours)
            return bool(far and np.allclose(got - along * unit, ours, rtol=1e-3, atol=1e-3 * _size(ours)))

        yield "the gradient of w has a part along w: the projection of its normalisation is missing", unprojected


def _inputs(loss: Any) -> Iterator[tuple[str, Callable[[tuple[Any, ...], Found], bool]]]:
    """What may be wrong with what goes into a margin."""

    def unnormalised(inputs: tuple[Any, ...], theirs: Found) -> bool:
        x, w, y = inputs
        long = np.abs(np.linalg.norm(w, axis=1) - 1.0).max() > NEAR  # else there is nothing to see
        value = _of_cosines(loss, x, y, x / np.linalg.norm(x, axis=1, keepdims=True) @ w.T)
        same = theirs.value.shape == np.shape(value) and np.allclose(theirs.value, value, rtol=1e-3)
        return bool(long and same)

    def near(inputs: tuple[Any, ...], theirs: Found) -> bool:
        theta = loss.trace(*inputs)["angle"].output
        return bool((np.minimum(theta, np.pi - theta) < NEAR).any())

    yield "weights are not brought to unit length", unnormalised
    yield f"only where targets are within {NEAR} rad of their class or its opposite: arccos, or a clamped cosine", near


def _clamped(loss: Any, failing: Failing, dtype: str, least: float) -> bool:
    """Whether a clamp explains the values of all failing cases in which it would show.

    In the others it acts, or angles are small. Real errors are far below the budget of a value: a tenth of it is
    enough for a clamp to show.
    """
    told, most = 0, float(np.asarray(1.0 - least).astype(dtype_of(dtype)))
    for inputs, theirs in failing:
        x, _, y = inputs
        steps, truth = loss.trace(*inputs), np.asarray(loss(*inputs))
        value = np.asarray(_of_cosines(loss, x, y, np.clip(steps["cosine"].output, -most, most)))
        apart = np.abs(value - truth)
        if (apart > 0.1 * budget(loss, *inputs, dtype=dtype).value).any():
            told += 1
            if theirs.value.shape != value.shape or (np.abs(theirs.value - value) > 0.2 * apart.max()).any():
                return False
        elif np.abs(steps["cosine"].output).max() < most and np.sin(steps["angle"].output).min() > NEAR:
            return False
    return told > 0


def _of_cosines(loss: Any, x: Array, y: Any, c: Array) -> Any:
    """The value, from cosines however they were made."""
    each, settings = np.arange(len(y)), loss.spec.margin
    c = c.copy()
    if settings.m1 == 1.0 and settings.m2 == 0.0:
        c[each, y] -= settings.m3
    else:
        c[each, y] = loss.target_logit(np.arccos(np.clip(c[each, y], -1.0, 1.0)))
    scale = np.linalg.norm(x, axis=1, keepdims=True) if loss.spec.scale is None else loss.spec.scale
    return CrossEntropy(**loss.spec.cross_entropy._asdict())(scale * c, y)


def _size(entries: Array) -> float:
    return float(np.abs(entries).max())
