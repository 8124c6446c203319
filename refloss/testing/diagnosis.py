"""What would explain a failure: the defects that are common in public code, each tried on the cases that were run.

A cause is named only if it explains everything that was found. Another loss does if value and gradients agree with it
within budget, in the cases that failed and in those that passed. A wrong step, of which only the value is known, does
if it accounts for how far the value is off. What is NaN or infinite is explained by nothing but a step that gives
exactly that; and what shorter numbers would explain has to look like their roundings, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refloss.error_free import Array
from refloss.formats import FORMATS, PRECISION_BITS, dtype_of
from refloss.losses import CrossEntropy
from refloss.stages import margin
from refloss.testing.adapters import Found
from refloss.testing.budgets import arithmetic, bounds
from refloss.testing.errors import Arithmetic
from refloss.testing.hard_cases import LABELS, Case, counts_nothing

Length: TypeAlias = Callable[[Array], Array]
Ran: TypeAlias = Sequence[tuple[tuple[Any, ...], Found]]
"""Inputs and what was found."""
CLAMPS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
ADDED = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""To a length, or to its square."""
TO_PROBABILITIES = (1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
NEAR = 0.3
"""Radians from a class or its opposite, within which an arccos loses more than atan2 does."""
SPECIAL = {
    "overflow",
    "underflow",
    "offset",
    "ignored",
    "weightless",
    "masked",
    "soft",
    "gap",
    "coinciding",
}
"""Flags of cases that fail for reasons of their own."""
MOST = 4  # cases that an explanation is tried on before it is tried on all
ALIKE = 0.5
"""Correlation with the roundings of shorter numbers from which on they explain an error: that of noise is far less."""
FEWEST = 8  # errors of which a correlation says anything
SIZES = 5.0  # how much larger or smaller than those roundings an error may be
OTHER = 1e-4
"""Relative difference from which on a fitted setting is another one."""


class _Known:
    """What is true of losses in the cases, and how far off one may be there: each is found once."""

    def __init__(self, dtype: str, a: Arithmetic) -> None:
        self.dtype, self.arithmetic = dtype, a
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
        self, loss: Any, inputs: tuple[Any, ...], upstream: Any, a: Arithmetic | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Return the budgets of the value and of the gradients, in the arithmetic of the check or in another."""
        found: tuple[Array, dict[str, Array]] = self._once(
            ("bounds", loss, a),
            (inputs, upstream),
            lambda: bounds(loss, inputs, self.arithmetic if a is None else a, upstream),
        )
        return found


def diagnose(
    loss: Any,
    failed: Sequence[tuple[Case, Found]],
    passed: Sequence[tuple[Case, Found]],
    a: Arithmetic,
    dtype: str,
) -> list[str]:
    """Return sentences that explain all of the failing cases (or all but the hard ones), or none.

    Cases that fail for reasons of their own, such as lengths that overflow and labels that are ignored, are looked at
    only if nothing else fails: other causes show there too, but not alone.
    """
    if loss.spec.head == "logits":
        failed, passed = ([_flat(loss, case, found) for case, found in ran] for ran in (failed, passed))
    known = _Known(dtype, a)
    finite = [(case, found) for case, found in failed if _finite(loss, case, found, known)]
    infinite = [(case, found) for case, found in failed if not _finite(loss, case, found, known)]
    said = _of_infinite(loss, [case for case, _ in infinite if case.group != "range"], known)
    failing, right = _plain(finite), [(case.inputs, found) for case, found in _plain(passed)]
    if failing:
        said = _named(loss, failing, right, known) + said  # what explains numbers may explain infinities too
    else:
        said += list(_special(loss, finite, known))
    beside = _of_infinite(loss, [case for case, _ in infinite if case.group == "range"], known)
    return said + [f"in the group range: {sentence}" for sentence in beside]


def _named(loss: Any, failing: Sequence[tuple[Case, Found]], right: Ran, known: _Known) -> list[str]:
    """Causes of failures that have no special reason; if there is none, of those outside the group hard."""
    named = _general(loss, [(case.inputs, found) for case, found in failing], right, known)
    easy = [(case.inputs, found) for case, found in failing if case.group != "hard"]
    if named or len(easy) == len(failing):
        return named
    general = _general(loss, easy, right, known, whole=False)
    return [f"{sentence} (but for the group hard, where more is wrong)" for sentence in general]


def _flat(loss: Any, case: Case, found: Found) -> tuple[Case, Found]:
    """Logits of any layout as rows."""
    z, y = case.inputs
    classes = z.shape[-1]
    rows = z.reshape(-1, classes), y.reshape((-1, classes) if y.ndim == z.ndim else -1)
    parts = (found.value, found.upstream)
    value, upstream = (np.reshape(part, -1) for part in parts) if loss.reduction == "none" else parts
    gradients = (
        None
        if found.gradients is None
        else tuple(
            part if part is None or part.shape != z.shape else part.reshape(-1, classes) for part in found.gradients
        )
    )
    return case._replace(inputs=rows), found._replace(value=value, upstream=upstream, gradients=gradients)


def _plain(ran: Iterable[tuple[Case, Found]]) -> list[tuple[Case, Found]]:
    return [(case, found) for case, found in ran if "truth" in case.accepts and not set(case.flags) & SPECIAL]


def _finite(loss: Any, case: Case, found: Found, known: _Known) -> bool:
    """Whether everything is a number that has to be one."""
    given = (found.value, *(found.gradients or ()))
    if counts_nothing(loss, case.inputs) or all(part is None or np.isfinite(part).all() for part in given):
        return True
    if "truth" not in case.accepts:
        return False
    true = (known.value(loss, case.inputs), *known.gradient(loss, case.inputs, found.upstream))
    pairs = [(part, ours) for part, ours in zip(given, true, strict=False) if part is not None and ours is not None]
    return all(np.shape(part) != np.shape(ours) or np.isfinite(part[np.isfinite(ours)]).all() for part, ours in pairs)


OF_INFINITE = (
    ("masked", "where logits are -inf: masked classes have no part in any sum, and 0 * inf is NaN"),
    ("coinciding", "where points coincide, as the root of a squared distance has no slope at 0"),
    ("weightless", "where all weights are 0, as 0/0 is NaN"),
    ("zero vector", "for vectors of zeros, which have no direction"),
    (
        "gap",
        "where logits are far apart: an exponential overflows, or a probability vanishes before its logarithm",
    ),
    (
        "offset",
        "where all logits are large, and not taken away from the largest: exponentials overflow or vanish",
    ),
    ("overflow", "where the square of a length overflows: divide by the largest entry before squaring"),
    ("underflow", "where the square of a length vanishes: divide by the largest entry before squaring"),
    ("ignored", "where labels are to be ignored"),
    ("soft", "where labels are probabilities"),
)
"""What is special about cases by their flags, in the order in which they are looked at."""


def _of_infinite(loss: Any, infinite: Sequence[Case], known: _Known) -> list[str]:
    """Say where results are NaN or infinite: in which kinds of cases, if they are in no others."""
    kinds = [{flag for flag, _ in OF_INFINITE if flag in (*case.flags, *_gap(loss, case, known))} for case in infinite]
    if not all(kinds):
        plain = next(case for case, kind in zip(infinite, kinds, strict=True) if not kind)
        return [f"results are NaN or infinite, in {plain.id} for one ({plain.reason})"]
    there = dict.fromkeys(next(said for flag, said in OF_INFINITE if flag in kind) for kind in kinds)
    return ["NaN or infinite only " + "; and ".join(there)] if there else []


def _gap(loss: Any, case: Case, known: _Known) -> tuple[str, ...]:
    """Whether logits are so far apart that an exponential vanishes, also where that is not what the case is for."""
    if loss.spec.head == "triplet" or "truth" not in case.accepts:
        return ()
    name = {"linear": "linear", "margin": "logits"}.get(loss.spec.head)
    z = case.inputs[0] if name is None else known.trace(loss, case.inputs)[name].output
    apart = float((z.max(axis=1) - np.where(np.isfinite(z), z, np.inf).min(axis=1)).max())
    return ("gap",) if apart > -np.log(FORMATS[known.dtype].smallest) else ()


def _special(loss: Any, failed: Sequence[tuple[Case, Found]], known: _Known) -> Iterator[str]:
    """What explains that only cases with certain flags fail: labels first, for they count in the verdict."""
    flags = {flag for case, _ in failed for flag in case.flags}
    ignored = [(case.inputs, found) for case, found in failed if "ignored" in case.flags]
    if ignored:
        yield _of_ignored(loss, ignored, known)
    if "soft" in flags:
        yield "only where labels are probabilities"
    if "masked" in flags:
        yield "only where logits are -inf: masked classes have no probability and no gradient"
    if "coinciding" in flags:
        yield "only where points coincide"
    if "gap" in flags and "offset" not in flags:
        yield "only where logits are far apart, and probabilities vanish: take log_softmax, not the log of a softmax"
    if "offset" in flags and loss.spec.head == "triplet":
        yield "only where points are far from the origin: take differences of points before anything else"
    elif "offset" in flags:
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


def _general(loss: Any, failing: Ran, right: Ran, known: _Known, *, whole: bool = True) -> list[str]:
    """Causes of everything that failed; without the group hard, only such as leave no room for chance."""
    some = failing[:MOST]
    if not some:
        return []

    def explains(other: Any) -> bool:
        return all(_all_agree(other, ran, known) for ran in (some, failing, right))

    like = [pair for pair in _relatives(loss) if explains(pair[1])]
    like = like or ([pair for pair in _fitted(loss, some, known) if explains(pair[1])] if whole else [])
    found = [f"{said}: {other}" for said, other in like]
    if not found:
        found += [
            said
            for said, changed in _relabelled(loss)
            if all(_all_agree(loss, changed(ran), known) for ran in (some, failing, right))
        ]
    found = found or list(_wrong_steps(loss, failing, right, known))[:1]
    if not whole:
        return found
    found = found or _gradients(loss, failing, known)
    if loss.spec.head == "margin" and not found:
        clamps = [f"cosine clamped at 1 - {least:g}" for least in CLAMPS if _clamped(loss, failing, known, least)]
        found += clamps[:1] or list(_by_arccos(loss, failing, known))
    return found or list(_single(loss, failing, known)) or list(_shorter(loss, failing, right, known))


def _all_agree(loss: Any, failing: Ran, known: _Known) -> bool:
    return all(_agrees(loss, inputs, theirs, known) for inputs, theirs in failing)


def _fitted(loss: Any, some: Ran, known: _Known) -> Iterator[tuple[str, Any]]:
    """The loss with another margin, or another scale, that gives this value: by secants, and then the shortest number.

    It is fitted where the setting shows most. What is no further from the loss's own setting than `OTHER` is no other.
    """
    for name in ("m", "m2", "s"):
        own = getattr(loss, name, None)
        if not isinstance(own, float):
            continue
        try:
            shown = [
                abs(_mean(replace(loss, **{name: 1.001 * own})(*inputs)) - _mean(known.value(loss, inputs)))
                / max(float(np.mean(known.bounds(loss, inputs, theirs.upstream)[0])), 1e-300)
                for inputs, theirs in some
            ]
            inputs, theirs = some[int(np.argmax(shown))]
            low, high = own, 1.001 * own
            first, second = (_mean(replace(loss, **{name: at})(*inputs)) for at in (low, high))
            for _ in range(6):
                if second == first:
                    break
                low, high = high, high + (_mean(theirs.value) - second) * (high - low) / (second - first)
                first, second = second, _mean(replace(loss, **{name: high})(*inputs))
            for digits in range(1, 7):
                short = float(f"{high:.{digits}g}")
                if abs(short - own) > OTHER * abs(own) and _agrees(
                    replace(loss, **{name: short}), inputs, theirs, known
                ):
                    yield f"value and gradient agree with {name}={short:g}", replace(loss, **{name: short})
                    break
        except (ValueError, TypeError):
            continue


def _mean(value: Any) -> float:
    return float(np.mean(value))


def _over(
    loss: Any, inputs: tuple[Any, ...], theirs: Found, known: _Known, a: Arithmetic | None = None
) -> Iterator[tuple[str, Any]]:
    """Which entries of the value, then of each gradient, are over budget; None for arrays of another shape."""

    def over(got: Array, ours: Array, bound: Array) -> Any:
        if got.shape != np.shape(ours):
            return None
        return ~((np.abs(got - ours) <= bound) | (np.isnan(got) & np.isnan(ours)) | (got == ours))

    value = known.value(loss, inputs)  # first, for it refuses what is no input
    allowed, errors = known.bounds(loss, inputs, theirs.upstream, a)
    yield "value", over(theirs.value, value, allowed)
    if theirs.gradients:
        grad = known.gradient(loss, inputs, theirs.upstream)
        for name, got in zip(grad._fields, theirs.gradients, strict=False):
            if got is not None:
                yield name, over(got, getattr(grad, name), errors[name])


def _agrees(loss: Any, inputs: tuple[Any, ...], theirs: Found, known: _Known, a: Arithmetic | None = None) -> bool:
    """Whether value and gradients are those of this loss, within its budget."""
    try:
        other = loss.of(inputs) if isinstance(loss, _SmoothedOthers) else loss
        return all(over is not None and not over.any() for _, over in _over(other, inputs, theirs, known, a))
    except (ValueError, TypeError):
        return False


def _single(loss: Any, failing: Ran, known: _Known) -> Iterator[str]:
    """One entry of a gradient alone is wrong, in every case, and in some by far."""
    wrong: dict[str, int] = {}
    if len(failing) < 2 or all(_agrees(loss, i, t, known, _ten_times(known.arithmetic)) for i, t in failing):
        return
    for inputs, theirs in failing:
        for name, over in _over(loss, inputs, theirs, known):
            count = 2 if over is None else int(np.count_nonzero(over))
            if count:
                wrong[name] = max(count, wrong.get(name, 0))
    for name, count in wrong.items():
        if len(wrong) == 1 and name != "value" and count == 1:
            yield f"a single entry of the gradient of {name} is wrong, all others are right"


def _ten_times(a: Arithmetic) -> Arithmetic:
    """An arithmetic whose roundings are ten times as large."""
    return a._replace(u=10.0 * a.u, accumulated=10.0 * a.accumulated, stored=10.0 * a.stored)


def _classes(inputs: tuple[Any, ...], loss: Any) -> int:
    return int(inputs[0].shape[-1] if loss.spec.head == "logits" else len(inputs[1]))


class _SmoothedOthers(NamedTuple):
    """A loss whose smoothing goes to the other classes alone: which loss of refloss it is depends on their number."""

    loss: Any

    def of(self, inputs: tuple[Any, ...]) -> Any:
        """Return the loss for so many classes."""
        classes, eps = _classes(inputs, self.loss), self.loss.label_smoothing
        return replace(self.loss, label_smoothing=eps * classes / max(classes - 1, 1))

    def __str__(self) -> str:
        """Say which smoothing of refloss it is."""
        return f"label_smoothing={self.loss.label_smoothing:g} * C / (C - 1)"


def _relatives(loss: Any) -> Iterator[tuple[str, Any]]:
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
        yield "label smoothing of eps/(C - 1) on the other classes, not eps/C on all", _SmoothedOthers(loss)
    if spec.cross_entropy.class_weight:
        yield from other("class weights left out", class_weight=None)
        if min(spec.cross_entropy.class_weight) < 0.0:
            positive = tuple(map(abs, spec.cross_entropy.class_weight))
            yield from other("class weights without their sign", class_weight=positive)


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


def _relabelled(loss: Any) -> Iterator[tuple[str, Callable[[Ran], Ran]]]:
    """The same loss of other labels."""
    place = LABELS.get(loss.spec.head)
    if place is None:
        return

    def shifted(inputs: tuple[Any, ...], by: int) -> tuple[Any, ...]:
        labels = (inputs[place] + by) % _classes(inputs, loss)
        return (*inputs[:place], labels, *inputs[place + 1 :])

    def moved(by: int) -> Callable[[Ran], Ran]:
        return lambda ran: [(shifted(inputs, by), theirs) for inputs, theirs in ran]

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
        try:
            return all(
                (np.abs(found - value(inputs)) <= 0.01 * off + allowed).all() for inputs, found, off, allowed in values
            )
        except (ValueError, TypeError, IndexError):  # the step is none for such inputs
            return False

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


def _gradients(loss: Any, failing: Ran, known: _Known) -> list[str]:
    """What may be wrong with a gradient beside a right value."""
    with np.errstate(all="ignore"):  # rows of zeros, and gradients that have nothing to do with each other
        return _of_gradients(loss, failing, known)


def _of_gradients(loss: Any, failing: Ran, known: _Known) -> list[str]:
    found: dict[str, list[_Gradient]] = {}
    for inputs, theirs in failing:
        grad = known.gradient(loss, inputs, theirs.upstream)
        errors = known.bounds(loss, inputs, theirs.upstream)[1]
        floats = [entry for place, entry in enumerate(inputs) if place != LABELS.get(loss.spec.head)]
        for name, rows, got in zip(grad._fields, floats, theirs.gradients or (), strict=False):
            ours = getattr(grad, name)
            if got is None:
                continue
            if got.shape != ours.shape:
                return []
            length = np.linalg.norm(rows, axis=-1, keepdims=True)
            incoming = float(np.mean(theirs.upstream))
            found.setdefault(name, []).append(
                _Gradient(got, ours, errors[name], length, rows / length, incoming, len(inputs[0]))
            )
    return [
        f"the gradient of {name} {said}" for name, each in found.items() for said in list(_of_gradient(loss, each))[:1]
    ]


def _of_gradient(loss: Any, each: Sequence[_Gradient]) -> Iterator[str]:
    each = [one for one in each if one.ours.any()]  # a gradient of nothing but zeros tells no factor
    if not each or all(one.near(one.got, one.ours) for one in each):
        return
    if not any(one.got.any() for one in each):
        yield "is all zero"
        return
    factors = np.array([(one.got * one.ours).sum() / (one.ours**2).sum() for one in each])
    if all(one.near(one.got / factor, one.ours) for factor, one in zip(factors, each, strict=True)):
        yield from _of_factors(loss, factors, each)
    elif loss.spec.head == "margin" and each[0].got.ndim == 2:
        if all(one.near(one.got / one.length, one.ours) for one in each):
            yield "is not divided by the length of its row"
        along = [(one.got * one.unit).sum(axis=1, keepdims=True) * one.unit for one in each]
        if all(one.near(one.got - part, one.ours) for part, one in zip(along, each, strict=True)):
            yield "has a part along its row: the projection of its normalisation is missing"


def _of_factors(loss: Any, factors: Array, each: Sequence[_Gradient]) -> Iterator[str]:
    """What a factor of its own in each case may be. One case, or one number of samples, tells no law."""
    counts = np.array([one.samples for one in each], dtype=np.float64)
    several = len(set(counts)) > 1 and loss.reduction == "mean"

    def are(expected: Any) -> bool:
        return bool(np.allclose(factors, expected, rtol=1e-2))

    if are(-1.0):
        yield "has the opposite sign"
    elif several and are(counts):
        yield "is N times as large: of the sum, not of the mean"
    elif several and are(1.0 / counts):
        yield "is divided by N twice"
    elif are(factors[0]):
        where = f"in each of {len(each)} failing cases" if len(each) > 1 else "in the one case that failed"
        yield f"is {factors[0]:.6g} times what it should be, {where}"
    elif are([1.0 / one.upstream for one in each]):
        yield "does not depend on the upstream gradient, which has to be multiplied in"


def _by_arccos(loss: Any, failing: Ran, known: _Known) -> Iterator[str]:
    """Whether an angle by arccos would explain everything: it does nowhere but next to a class or its opposite."""
    settings = loss.spec.margin
    if settings.m1 == 1.0 and settings.m2 == 0.0:
        return
    a = known.arithmetic._replace(angle="arccos")

    def near(inputs: tuple[Any, ...]) -> bool:
        theta = known.trace(loss, inputs)["angle"].output
        return bool((np.minimum(theta, np.pi - theta) < NEAR).any())

    if all(near(inputs) and _agrees(loss, inputs, theirs, known, a) for inputs, theirs in failing):
        yield f"only where targets are within {NEAR} rad of their class or its opposite: arccos, or a clamped cosine"


def _shorter(loss: Any, failing: Ran, right: Ran, known: _Known) -> Iterator[str]:
    """Numbers that are shorter than those of the dtype: all on the way, or factors of a matrix product.

    Errors have to be within what such numbers would explain, and those of values to look like their roundings: noise
    does not.
    """
    if loss.spec.head == "triplet":
        return
    ran = [*failing, *right]

    def within(a: Arithmetic, *, values: bool = False) -> bool:
        return all(_agrees(loss, i, t._replace(gradients=None) if values else t, known, a) for i, t in failing)

    def looks_like(changed: Callable[[tuple[Any, ...]], Any]) -> bool:
        pairs = [(theirs.value - known.value(loss, i), changed(i) - known.value(loss, i)) for i, theirs in ran]
        theirs, ours = (np.concatenate([np.ravel(pair[side]) for pair in pairs]) for side in (0, 1))
        scale = np.concatenate([np.ravel(known.bounds(loss, i, t.upstream)[0] + 0.0 * t.value) for i, t in ran])
        theirs, ours = theirs / scale, ours / scale
        size, other = float(np.linalg.norm(theirs)), float(np.linalg.norm(ours))
        alike = float(theirs @ ours) > ALIKE * size * other
        return len(theirs) >= FEWEST and alike and other / SIZES <= size <= other * SIZES

    off = [not _agrees(loss, i, t._replace(gradients=None), known) for i, t in failing]
    if 2 * sum(off) < len(off):
        return  # the values are right, and short numbers would show there
    bits = PRECISION_BITS[known.dtype]
    with np.errstate(all="ignore"):
        for kind, said in (
            ("tf32", "11 bits, those of tf32 and of float16"),
            ("bfloat16", "8 bits, those of bfloat16"),
        ):
            factor = PRECISION_BITS[kind]
            if loss.spec.head == "logits" or factor >= bits:
                continue
            changes = [
                functools.partial(_with_rounded_factors, loss, factor, unit=unit, down=down)
                for unit in (True, False)
                for down in (False, True)
            ]
            # Twice the factors' error, for the result of such a product may be rounded to it as well; values alone, for
            # gradients of a half precision may vanish besides.
            a = known.arithmetic._replace(factor=2.0 ** (1 - factor))
            if within(a, values=True) and any(map(looks_like, changes)):
                yield f"as matrix products would give whose factors are rounded to {said}"
                return
        for kind in ("float32", "float16", "bfloat16"):
            if FORMATS[kind].bits >= bits or not within(arithmetic(kind, standard="working")):
                continue
            values = np.concatenate([np.ravel(theirs.value) for _, theirs in failing])
            exact = np.count_nonzero(values) >= FEWEST and (_to_bits(values, FORMATS[kind].bits) == values).all()
            if exact or looks_like(functools.partial(_with_rounded_inputs, loss, FORMATS[kind].bits)):
                yield f"as {kind} would give: something is computed in {kind} on the way"
                return


def _to_bits(array: Array, bits: int, *, down: bool = False) -> Array:
    """Round to so many bits of a significand, to nearest or towards 0."""
    mantissa, exponent = np.frexp(array)
    scaled = np.ldexp(mantissa, bits)
    return np.asarray(np.ldexp(np.trunc(scaled) if down else np.rint(scaled), exponent - bits))


def _with_rounded_inputs(loss: Any, bits: int, inputs: tuple[Any, ...]) -> Any:
    return loss(*(_to_bits(entry, bits) if entry.dtype.kind == "f" else entry for entry in inputs))


def _with_rounded_factors(loss: Any, bits: int, inputs: tuple[Any, ...], *, unit: bool, down: bool) -> Any:
    """The value, if matrix products round their factors: unit rows of a margin loss, or rows as they are."""
    x, w, *rest = inputs
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if unit and loss.spec.head == "margin":
        x, w = x / length, w / np.linalg.norm(w, axis=1, keepdims=True)
    x, w = (_to_bits(rows, bits, down=down) for rows in (x, w))
    if loss.spec.head == "linear":
        return loss(x, w, *rest)
    c = x @ w.T
    if not unit:
        c = c / length / np.linalg.norm(inputs[1], axis=1)
    return _of_cosines(loss, length, rest[0], c)


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
