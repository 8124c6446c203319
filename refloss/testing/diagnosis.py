"""What would explain a failure: the defects that are common in public code, each tried on the cases that were run.

Another loss explains a failure if value and gradients agree with it, in the cases that failed and in those that passed.
A wrong step, of which only the value is known, explains it if it accounts for how far the value is off.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refloss.error_free import Array
from refloss.losses import CrossEntropy
from refloss.stages import margin
from refloss.testing.adapters import Found
from refloss.testing.budgets import arithmetic, bounds
from refloss.testing.hard_cases import Case, dtype_of

Length: TypeAlias = Callable[[Array], Array]
Ran: TypeAlias = Sequence[tuple[tuple[Any, ...], Found]]
"""Inputs and what was found."""
CLAMPS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
ADDED = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""To a length, or to its square."""
TO_PROBABILITIES = (1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
NEAR = 0.3
"""Radians from a class or its opposite, within which an arccos loses more than atan2 does."""
SPECIAL = {"overflow", "underflow", "offset", "ignored"}
"""Flags of cases that fail for reasons of their own."""
LABELS = {"logits": 1, "linear": 2, "margin": 2}
"""Where the labels are among the inputs."""
MOST = 4  # cases that an explanation is tried on before it is tried on all


class _Known:
    """What is true of losses in the cases, and how far off one may be there: each is found once."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        # Budgets of shorter dtypes are 2^29 times those of float64 and more: there an explanation needs no "dd".
        self.engine = "dd" if dtype == "float64" else "chain"
        self.met: dict[tuple[Any, ...], Any] = {}

    def _once(self, key: tuple[Any, ...], given: tuple[Any, ...], find: Callable[[], Any]) -> Any:
        key += tuple(map(id, given))
        if key not in self.met:
            self.met[key] = find(), given  # what is given is kept, so that nothing else gets its id
        return self.met[key][0]

    def value(self, loss: Any, inputs: tuple[Any, ...]) -> Array:
        """Return the value."""
        found: Array = self._once(("value", loss), (inputs,), lambda: np.asarray(loss(*inputs, engine=self.engine)))
        return found

    def trace(self, loss: Any, inputs: tuple[Any, ...]) -> Any:
        """Return every step."""
        return self._once(("trace", loss), (inputs,), lambda: loss.trace(*inputs))

    def gradient(self, loss: Any, inputs: tuple[Any, ...], upstream: Any) -> Any:
        """Return the gradients."""
        return self._once(
            ("gradient", loss),
            (inputs, upstream),
            lambda: loss.value_and_grad(*inputs, upstream=upstream, engine=self.engine)[1],
        )

    def bounds(
        self, loss: Any, inputs: tuple[Any, ...], upstream: Any, matmul: str | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Return the budgets of the value and of the gradients."""
        found: tuple[Array, dict[str, Array]] = self._once(
            ("bounds", loss, matmul),
            (inputs, upstream),
            lambda: bounds(loss, inputs, arithmetic(self.dtype, matmul=matmul), upstream),
        )
        return found


def diagnose(
    loss: Any, failed: Sequence[tuple[Case, Found]], passed: Sequence[tuple[Case, Found]], dtype: str
) -> list[str]:
    """Return sentences that explain all of the failing cases (or all but the hard ones), or none.

    Lengths that overflow, and labels that are ignored, are looked at only if nothing else fails: other causes show
    there too, but not alone.
    """

    def plain(ran: Sequence[tuple[Case, Found]]) -> list[tuple[Case, Found]]:
        return [(case, found) for case, found in ran if "truth" in case.accepts and not set(case.flags) & SPECIAL]

    failing, right = plain(failed), [(case.inputs, found) for case, found in plain(passed)]
    known = _Known(dtype)
    if not failing:
        return list(_special(loss, failed, known))
    easy = [(case.inputs, found) for case, found in failing if case.group != "hard"]
    found = _general(loss, [(case.inputs, found) for case, found in failing], right, known)
    if found or len(easy) == len(failing):
        return found
    return [
        f"{sentence} (but for the group hard, where more is wrong)" for sentence in _general(loss, easy, right, known)
    ]


def _special(loss: Any, failed: Sequence[tuple[Case, Found]], known: _Known) -> Iterator[str]:
    """What explains that only cases with certain flags fail: labels first, for they count in the verdict."""
    flags = {flag for case, _ in failed for flag in case.flags}
    ignored = [(case.inputs, found) for case, found in failed if "ignored" in case.flags]
    if ignored:
        yield _of_ignored(loss, ignored, known)
    if "offset" in flags:
        yield "only where all logits are large: take the largest away from all of them before anything else"
    if flags & {"overflow", "underflow"}:
        which = " and ".join(f"{flag}s" for flag in ("overflow", "underflow") if flag in flags)
        yield f"in the group range, the square of a length {which}: divide by the largest entry before squaring"


def _of_ignored(loss: Any, failing: Ran, known: _Known) -> str:
    whole = replace(loss, reduction="sum")

    def counted(inputs: tuple[Any, ...], theirs: Found) -> bool:
        n = np.size(inputs[LABELS[loss.spec.head]])
        return _agrees(whole, inputs, theirs._replace(upstream=theirs.upstream / n, value=theirs.value * n), known)

    if loss.reduction == "mean" and all(counted(*pair) for pair in failing):
        return "ignored rows are counted in the mean: divide by the number of labels that count, not by N"
    return f"only where labels are to be ignored (ignore_index={loss.ignore_index}): leave those rows out, or refuse"


def _general(loss: Any, failing: Ran, right: Ran, known: _Known) -> list[str]:
    some = failing[:MOST]
    if not some:
        return []
    classes = _classes(some[0][0], loss)
    like = [pair for pair in _relatives(loss, classes) if _all_agree(pair[1], some, known)]
    like = like or [pair for pair in _fitted(loss, some[0]) if _all_agree(pair[1], some, known)]
    like = [pair for pair in like if _all_agree(pair[1], failing, known)] or like
    like = [pair for pair in like if _all_agree(pair[1], right, known)] or like
    found = [f"{said}: {other}" for said, other in like]
    found += [said for said, changed in _relabelled(loss, classes) if _all_agree(loss, changed(some), known)]
    found += [] if found else list(_wrong_steps(loss, failing, right, known))[:1]
    found += [] if found else _gradients(loss, some, known)
    if loss.spec.head == "margin" and not found:
        clamps = [f"cosine clamped at 1 - {least:g}" for least in CLAMPS if _clamped(loss, failing, known, least)]
        found += clamps[:1] or [said for said, holds in _inputs(loss) if all(holds(*pair) for pair in failing)]
    found = found or list(_single(loss, failing, known))
    if not found:
        for kind, said in (
            ("tf32", "11 bits, those of tf32 and of float16"),
            ("bfloat16", "8 bits, those of bfloat16"),
        ):
            if all(_agrees(loss, inputs, theirs, known, matmul=kind) for inputs, theirs in some):
                return [f"within what matrix products would explain whose factors are rounded to {said}"]
    return found


def _all_agree(loss: Any, failing: Ran, known: _Known) -> bool:
    return all(_agrees(loss, inputs, theirs, known) for inputs, theirs in failing)


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


def _over(
    loss: Any, inputs: tuple[Any, ...], theirs: Found, known: _Known, matmul: str | None = None
) -> Iterator[tuple[str, Any]]:
    """Which entries of the value, then of each gradient, are over budget; None for arrays of another shape."""

    def over(got: Array, ours: Array, bound: Array) -> Any:
        return ~(np.abs(got - ours) <= bound) if got.shape == ours.shape else None

    value = known.value(loss, inputs)  # first, for it refuses what is no input
    allowed, errors = known.bounds(loss, inputs, theirs.upstream, matmul)
    yield "value", over(theirs.value, value, allowed)
    if theirs.gradients:
        grad = known.gradient(loss, inputs, theirs.upstream)
        for name, got in zip(grad._fields, theirs.gradients, strict=False):
            yield name, over(got, getattr(grad, name), errors[name])


def _agrees(loss: Any, inputs: tuple[Any, ...], theirs: Found, known: _Known, matmul: str | None = None) -> bool:
    """Whether value and gradients are those of this loss, within its budget."""
    try:
        return all(over is not None and not over.any() for _, over in _over(loss, inputs, theirs, known, matmul))
    except (ValueError, TypeError):
        return False


def _single(loss: Any, failing: Ran, known: _Known) -> Iterator[str]:
    """One entry of a gradient alone is wrong, in every case."""
    wrong: dict[str, int] = {}
    for inputs, theirs in failing:
        for name, over in _over(loss, inputs, theirs, known):
            count = 2 if over is None else int(np.count_nonzero(over))
            if count:
                wrong[name] = max(count, wrong.get(name, 0))
    for name, count in wrong.items():
        if len(wrong) == 1 and name != "value" and count == 1:
            yield f"a single entry of the gradient of {name} is wrong, all others are right"


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


def _relabelled(loss: Any, classes: int) -> Iterator[tuple[str, Callable[[Ran], Ran]]]:
    """The same loss of other labels."""
    place = LABELS.get(loss.spec.head)
    if place is None:
        return

    def moved(by: int) -> Callable[[Ran], Ran]:
        return lambda ran: [
            ((*inputs[:place], (inputs[place] + by) % classes, *inputs[place + 1 :]), theirs) for inputs, theirs in ran
        ]

    for by in (1, -1):
        yield f"every label is off by one: value and gradient agree with y {'+' if by > 0 else '-'} 1", moved(by)


def _steps(loss: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """A step done wrongly, and the value that this would give."""
    head = loss.spec.head
    if head == "triplet":
        return
    last = {"logits": "", "linear": "linear", "margin": "logits"}[head]

    def logits(inputs: tuple[Any, ...]) -> Array:
        z: Array = loss.trace(*inputs)[last].output if last else inputs[0]
        return z

    def after(z: Array, inputs: tuple[Any, ...]) -> Any:
        return CrossEntropy(**loss.spec.cross_entropy._asdict())(z, inputs[LABELS[head]])

    def twice(inputs: tuple[Any, ...]) -> Any:
        e = np.exp(logits(inputs) - logits(inputs).max(axis=1, keepdims=True))
        return after(e / e.sum(axis=1, keepdims=True), inputs)

    def across(inputs: tuple[Any, ...]) -> Any:
        z = logits(inputs)
        top = z.max(axis=0)
        return of_own(np.log(np.exp(z - top).sum(axis=0)) + top - z, inputs)

    def of_own(rows: Array, inputs: tuple[Any, ...]) -> Any:
        own = np.take_along_axis(rows, inputs[LABELS[head]][:, None], axis=1)[:, 0]
        return own if loss.reduction == "none" else getattr(own, loss.reduction)()

    def more_probable(eps: float, inputs: tuple[Any, ...]) -> Any:
        z = logits(inputs) - logits(inputs).max(axis=1, keepdims=True)
        return of_own(-np.log(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) + eps), inputs)

    yield "softmax taken twice: of the logits, and of the probabilities again", twice
    yield "softmax over the samples, not over the classes", across
    for eps in TO_PROBABILITIES:
        said = f"{eps:g} added to probabilities before their logarithm: take log_softmax"
        yield said, functools.partial(more_probable, eps)
    if head != "margin":
        return

    def of(lengths: Length, other: Length, sign: float = 1.0) -> Callable[..., Any]:
        def value(inputs: tuple[Any, ...]) -> Any:
            x, w, y = inputs
            length = np.linalg.norm(x, axis=1, keepdims=True)
            c = (x / lengths(length)) @ (w / other(np.linalg.norm(w, axis=1, keepdims=True))).T
            return _of_cosines(loss, length, y, c, sign)

        return value

    def unit(length: Array) -> Array:
        return length

    yield "weights are not brought to unit length", of(unit, np.ones_like)
    yield "embeddings are not brought to unit length", of(np.ones_like, unit)
    yield "neither embeddings nor weights are brought to unit length", of(np.ones_like, np.ones_like)
    yield "the margin has the wrong sign: it has to make the target's logit smaller", of(unit, unit, -1.0)
    for eps in ADDED:
        root = np.sqrt(eps)
        added = functools.partial(np.add, eps), functools.partial(np.hypot, root)
        for said, length in zip((f"{eps:g} added to", f"{eps:g} added under the root of"), added, strict=True):
            yield f"{said} every length", of(length, length)


def _wrong_steps(loss: Any, failing: Ran, right: Ran, known: _Known) -> Iterator[str]:
    """Steps that account for 99 % of how far values are off, and for all that is right."""
    values = []
    for inputs, theirs in (*failing, *right):
        allowed = known.bounds(loss, inputs, theirs.upstream)[0]
        values.append((inputs, theirs.value, np.abs(theirs.value - known.value(loss, inputs)), allowed))
    if not any((off > 3.0 * allowed).any() for _, _, off, allowed in values):
        return

    def accounts(value: Callable[..., Any]) -> bool:
        return all(
            (np.abs(found - value(inputs)) <= 0.01 * off + allowed).all() for inputs, found, off, allowed in values
        )

    with np.errstate(all="ignore"):
        yield from (said for said, value in _steps(loss) if accounts(value))


class _Gradient(NamedTuple):
    """One gradient in one case."""

    got: Array
    ours: Array
    bound: Array
    length: Array
    """Of the rows it belongs to."""
    unit: Array
    """Those rows, of unit length."""
    upstream: float
    samples: int

    def near(self, got: Array, ours: Array) -> bool:
        """Whether this is that, to a thousandth of the largest entry or, where more is allowed, to that."""
        return bool((np.abs(got - ours) <= 1e-3 * np.abs(ours).max() + 10.0 * self.bound).all())


def _gradients(loss: Any, some: Ran, known: _Known) -> list[str]:
    """What may be wrong with a gradient beside a right value."""
    with np.errstate(all="ignore"):  # rows of zeros, and gradients that have nothing to do with each other
        return _of_gradients(loss, some, known)


def _of_gradients(loss: Any, some: Ran, known: _Known) -> list[str]:
    found: dict[str, list[_Gradient]] = {}
    for inputs, theirs in some:
        grad = known.gradient(loss, inputs, theirs.upstream)
        errors = known.bounds(loss, inputs, theirs.upstream)[1]
        for name, rows, got in zip(grad._fields, inputs, theirs.gradients or (), strict=False):
            ours = getattr(grad, name)
            if got.shape != ours.shape or not np.isfinite(got).all():
                return []
            length = np.linalg.norm(rows, axis=-1, keepdims=True)
            above = float(np.mean(theirs.upstream))
            found.setdefault(name, []).append(
                _Gradient(got, ours, errors[name], length, rows / length, above, len(inputs[0]))
            )
    return [
        f"the gradient of {name} {said}" for name, each in found.items() for said in list(_of_gradient(loss, each))[:1]
    ]


def _of_gradient(loss: Any, each: Sequence[_Gradient]) -> Iterator[str]:
    if not any(one.got.any() for one in each):
        yield "is all zero"
        return
    factors = np.array([(one.got * one.ours).sum() / (one.ours**2).sum() for one in each])
    if all(one.near(one.got, one.ours) for one in each):
        return
    if all(one.near(one.got / factor, one.ours) for factor, one in zip(factors, each, strict=True)):
        named = {-1.0: "has the opposite sign", each[0].samples: "is N times as large: of the sum, not of the mean"}
        if np.allclose(factors, factors[0], rtol=1e-2):
            plain = f"is {factors[0]:.4g} times what it should be, in every case"
            yield next((said for factor, said in named.items() if np.isclose(factors[0], factor, rtol=1e-2)), plain)
        elif np.allclose(factors, [1.0 / one.upstream for one in each], rtol=1e-2):
            yield "does not depend on the upstream gradient, which has to be multiplied in"
    elif loss.spec.head == "margin":
        if all(one.near(one.got / one.length, one.ours) for one in each):
            yield "is not divided by the length of its row"
        along = [(one.got * one.unit).sum(axis=1, keepdims=True) * one.unit for one in each]
        if all(one.near(one.got - part, one.ours) for part, one in zip(along, each, strict=True)):
            yield "has a part along its row: the projection of its normalisation is missing"


def _inputs(loss: Any) -> Iterator[tuple[str, Callable[[tuple[Any, ...], Found], bool]]]:
    """Where a margin's code fails alone."""

    def near(inputs: tuple[Any, ...], theirs: Found) -> bool:
        theta = loss.trace(*inputs)["angle"].output
        return bool((np.minimum(theta, np.pi - theta) < NEAR).any())

    yield f"only where targets are within {NEAR} rad of their class or its opposite: arccos, or a clamped cosine", near


def _clamped(loss: Any, failing: Ran, known: _Known, least: float) -> bool:
    """Whether a clamp explains the values of all failing cases in which it would show.

    In the others it acts, or angles are small. Real errors are far below the budget of a value: a tenth of it is
    enough for a clamp to show.
    """
    told, most = 0, float(np.asarray(1.0 - least).astype(dtype_of(known.dtype)))
    for inputs, theirs in failing:
        x, _, y = inputs
        steps = known.trace(loss, inputs)
        length = np.linalg.norm(x, axis=1, keepdims=True)
        value = np.asarray(_of_cosines(loss, length, y, np.clip(steps["cosine"].output, -most, most)))
        apart = np.abs(value - known.value(loss, inputs))
        if (apart > 0.1 * known.bounds(loss, inputs, theirs.upstream)[0]).any():
            told += 1
            if theirs.value.shape != value.shape or (np.abs(theirs.value - value) > 0.2 * apart.max()).any():
                return False
        elif np.abs(steps["cosine"].output).max() < most and np.sin(steps["angle"].output).min() > NEAR:
            return False
    return told > 0


def _of_cosines(loss: Any, length: Array, y: Any, c: Array, sign: float = 1.0) -> Any:
    """The value, from lengths of embeddings and cosines however they were made; margins of either sign."""
    each, settings = np.arange(len(y)), loss.spec.margin
    own, c = c[each, y], c.copy()
    if settings.m1 == 1.0 and settings.m2 == 0.0:
        c[each, y] = own - sign * settings.m3
    elif sign > 0.0:
        c[each, y] = loss.target_logit(np.arccos(np.clip(own, -1.0, 1.0)))
    else:
        turned = settings.m1 * np.arccos(np.clip(own, -1.0, 1.0)) - settings.m2
        c[each, y] = np.cos(turned) + settings.m3
    scale = length if loss.spec.scale is None else loss.spec.scale
    return CrossEntropy(**loss.spec.cross_entropy._asdict())(scale * c, y)
