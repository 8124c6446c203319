"""Reference results of losses on the inputs of cases, and whether foreign results agree with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from refloss.engines.chain import Step
from refloss.engines.spec import Spec
from refloss.error_free import Array
from refloss.stages import softcap
from refloss.testing.adapters import Found
from refloss.testing.budgets import bounds
from refloss.testing.defects.emulations import (
    Change,
    Emulation,
    InRows,
    OfInputs,
    Recombined,
    Retargeted,
    Scaled,
    WithGradient,
)
from refloss.testing.defects.inputs import WithInputs
from refloss.testing.defects.roundings import Rounded
from refloss.testing.defects.steps import STEP, Stepped, differentiable, plainly, size_of
from refloss.testing.errors import Arithmetic
from refloss.testing.signatures import Inputs, Loss, fields_of, head_of, softcap_of

Outcomes: TypeAlias = Sequence[tuple[Inputs, Found]]
"""Inputs of cases, each with what the code returned for them."""
T = TypeVar("T")


class References:
    """Values, gradients, stages and budgets of losses on the inputs of cases, each computed once."""

    def __init__(self, dtype: str, a: Arithmetic) -> None:
        self.dtype, self.arithmetic = dtype, a
        # Budgets of shorter dtypes are at least 2^29 times those of float64: there an explanation needs no "dd".
        self.engine = "dd" if dtype == "float64" else "chain"
        self.cache: dict[tuple[Any, ...], Any] = {}

    def _once(self, key: tuple[Any, ...], arrays: tuple[Any, ...], compute: Callable[[], T]) -> T:
        key += tuple(map(id, arrays))
        if key not in self.cache:
            self.cache[key] = compute(), arrays  # the arrays are kept, so that no other object gets their id
        result: T = self.cache[key][0]
        return result

    def value(self, loss: Loss, inputs: Inputs) -> Array:
        """Return the value."""
        return self._once(("value", loss), (inputs,), lambda: np.asarray(loss(*inputs, engine=self.engine)))

    def trace(self, loss: Loss, inputs: Inputs) -> Mapping[str, Step]:
        """Return every stage's output."""
        return self._once(("trace", loss), (inputs,), lambda: loss.trace(*inputs))

    def logits(self, loss: Loss, inputs: Inputs) -> Array:
        """Return the logits of a loss with labels, or of pairs, as its softmax or its sigmoids take them."""
        if head_of(loss) == "logits" and softcap_of(loss) == softcap.UNCHANGED:
            return inputs[0].astype(np.float64)
        steps = self.trace(loss, inputs)
        last = ("softcap", "bias", "linear", "logits")
        return np.asarray(next(steps[name].output for name in last if name in steps))

    def gradient(self, loss: Loss, inputs: Inputs, upstream: Array) -> Any:
        """Return the named tuple of the gradients."""
        return self._once(
            ("gradient", loss),
            (inputs, upstream),
            lambda: loss.value_and_grad(*inputs, upstream=upstream, engine=self.engine)[1],
        )

    def bounds(
        self, loss: Loss, inputs: Inputs, upstream: Array, a: Arithmetic | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Return the budgets of the value and of the gradients, in the arithmetic of the check or in another."""
        return self._once(
            ("bounds", loss, a),
            (inputs, upstream),
            lambda: bounds(loss, inputs, self.arithmetic if a is None else a, upstream),
        )

    def in_rows(
        self, loss: InRows, inputs: Inputs, upstream: Array, a: Arithmetic | None
    ) -> tuple[Array, Array, tuple[Loss, Inputs, Array]]:
        """Return value and budget of a loss that is given by its rows; and the rows, with their upstream gradients."""
        rows, own, shares = self._once(("rows", loss), (inputs,), lambda: loss.rows(inputs))
        each = self._once(("shares", loss), (inputs, upstream), lambda: shares * upstream)
        terms, b = shares * self.value(rows, own), self.arithmetic if a is None else a
        allowed, _ = self.bounds(rows, own, each, a)
        if loss.reduction != "none":
            added = (b.sum_of(len(terms)) + 3.0) * b.u * np.abs(terms).sum()
            terms, allowed = np.asarray(terms.sum()), np.asarray((np.abs(shares) * allowed).sum() + added)
        return terms, allowed, (rows, own, each)

    def change(self, loss: Recombined, inputs: Inputs) -> Change:
        """Return what is computed in the place of a loss."""
        return self._once(("change", loss), (inputs,), lambda: loss.change(inputs))

    def other_inputs(self, loss: WithInputs, inputs: Inputs) -> Inputs:
        """Return the inputs that a loss is called with in place of some."""
        return self._once(("inputs", loss), (inputs,), lambda: loss.of(inputs))


Explained: TypeAlias = Loss | Emulation
"""What an explanation compares results with."""
ACCOUNTED = 0.01
"""Share of an error that a changed step need not account for."""


class _Expected(NamedTuple):
    """What an explanation expects of one case."""

    value: Array
    allowed: Array
    gradient: Callable[[], tuple[Any, Mapping[str, Array]]]
    """Return the gradients, and their budgets by name."""


def _expected(loss: Any, inputs: Inputs, upstream: Array, references: References, a: Arithmetic | None) -> _Expected:
    def of(other: Any, others: Inputs = inputs) -> _Expected:
        return _expected(other, others, upstream, references, a)

    match loss:
        case OfInputs():
            expected = of(loss.of(inputs))
        case Scaled():
            expected = _scaled(of(loss.loss), loss.factor(loss.loss, inputs))
        case InRows():
            value, allowed, (rows, own_inputs, each) = references.in_rows(loss, inputs, upstream, a)
            expected = _Expected(value, allowed, _gradient_of(rows, own_inputs, each, references, a))
            if isinstance(loss, Retargeted):
                expected = _of_rounded_targets(expected, own_inputs[1], each, a or references.arithmetic)
        case Recombined():
            expected = _recombined(loss, inputs, upstream, references, a)
        case WithInputs():
            expected = _returned(of(loss.loss, references.other_inputs(loss, inputs)), loss, inputs)
        case Stepped(loss=own):
            allowed = references.bounds(own, inputs, upstream, a)[0]
            by_differences = _gradient_of(loss, inputs, upstream, references, a, own)
            expected = _Expected(references.value(loss, inputs), allowed, by_differences)
        case WithGradient(loss=own, other=other) if isinstance(getattr(other, "spec", None), Spec):
            expected = of(own)._replace(gradient=of(other).gradient)
        case _:
            value = references.value(loss, inputs)  # first, since it refuses inputs that the loss does not take
            allowed = references.bounds(loss, inputs, upstream, a)[0]
            expected = _Expected(value, allowed, _gradient_of(loss, inputs, upstream, references, a))
    return expected


TARGET_STEPS = 3.0
"""Operations that a target of label smoothing takes: 1 less the share, the share of a class, their sum."""


def _of_rounded_targets(own: _Expected, t: Array, each: Array, a: Arithmetic) -> _Expected:
    """Return what is expected where targets t are computed, and rounded: dz = r (p sum t - t), r the upstream of rows.

    The value is a sum of terms t (-log p) of one sign, and |r p sum t| <= |dz| + |r t|.
    """

    def gradient() -> tuple[Any, Mapping[str, Array]]:
        parts, errors = own.gradient()
        off = TARGET_STEPS * a.u * (np.abs(parts.z) + 2.0 * np.abs(each[:, None] * t))
        return parts, {**errors, "z": errors["z"] + off}

    return _Expected(own.value, own.allowed + TARGET_STEPS * a.u * np.abs(own.value), gradient)


def _scaled(own: _Expected, factor: float) -> _Expected:
    def gradient() -> tuple[Any, Mapping[str, Array]]:
        parts, errors = own.gradient()
        times = {name: abs(factor) * error for name, error in errors.items()}
        return parts._make(None if part is None else factor * part for part in parts), times

    return _Expected(factor * own.value, abs(factor) * own.allowed, gradient)


def _returned(own: _Expected, loss: WithInputs, inputs: Inputs) -> _Expected:
    """Return what is expected of a loss of other inputs, whose gradients come back to those that are given."""

    def gradient() -> tuple[Any, Mapping[str, Array]]:
        parts, errors = own.gradient()
        carried = loss.returned(parts._make(errors.get(name) for name in parts._fields), inputs)._asdict()
        names = loss.kept or tuple(errors)
        return loss.returned(parts, inputs), {name: carried[name] for name in names}

    return own._replace(gradient=gradient)


def _recombined(
    loss: Recombined, inputs: Inputs, upstream: Array, references: References, a: Arithmetic | None
) -> _Expected:
    """Return what is expected of a loss of other inputs, multiplied and added to."""
    change, b = references.change(loss, inputs), a or references.arithmetic
    own = _expected(change.loss, change.inputs, upstream, references, a)

    def combined() -> tuple[Any, Mapping[str, Array]]:
        gradient, errors = own.gradient()
        floats, allowed = [entry for entry in inputs if entry.dtype.kind == "f"], {}
        for name, entry in zip(fields_of(loss), floats, strict=False):
            allowed[name] = np.full(entry.shape, b.smallest)
            for other, share in change.parts.get(name, {name: 1.0}).items():
                error = errors[other] + 3.0 * b.u * np.abs(getattr(gradient, other))
                allowed[name] = allowed[name] + abs(change.factor * share) * error
        return references.gradient(loss, inputs, upstream), allowed

    added = (b.sum_of(len(inputs[1])) + 3.0) * b.u * (np.abs(change.factor * own.value) + abs(change.constant))
    value = change.factor * own.value + change.constant
    return _Expected(value, abs(change.factor) * own.allowed + added, combined)


def _gradient_of(
    loss: Any, inputs: Inputs, upstream: Array, references: References, a: Arithmetic | None, own: Any = None
) -> Callable[[], tuple[Any, Mapping[str, Array]]]:
    """Return the gradients of a loss, with its budgets or those of its own loss."""
    return lambda: (
        references.gradient(loss, inputs, upstream),
        references.bounds(own or loss, inputs, upstream, a)[1],
    )


def gradients_of(
    loss: Explained, inputs: Inputs, upstream: Array, references: References
) -> tuple[Any, Mapping[str, Array]]:
    """Return the gradients that an explanation expects, and their budgets by name."""
    return _expected(loss, inputs, upstream, references, None).gradient()


def over_budget(
    loss: Explained, inputs: Inputs, output: Found, references: References, a: Arithmetic | None = None
) -> Iterator[tuple[str, NDArray[np.bool_] | None]]:
    """Yield which entries of the value, then of each gradient, are over budget; None for an array of another shape."""

    def over(theirs: Array, ours: Array, bound: Array) -> NDArray[np.bool_] | None:
        if theirs.shape != np.shape(ours):
            return None
        same = (theirs == ours) | (np.isnan(theirs) & np.isnan(ours))
        return np.asarray(~(same | (np.abs(theirs - ours) <= bound)))

    expected = _expected(loss, inputs, output.upstream, references, a)
    yield "value", over(output.value, expected.value, expected.allowed)
    if output.gradients:
        gradient, errors = expected.gradient()
        for name, theirs in zip(gradient._fields, output.gradients, strict=False):
            if theirs is not None and name in errors:
                yield name, over(theirs, getattr(gradient, name), errors[name])


def agrees(loss: Explained, inputs: Inputs, output: Found, references: References, a: Arithmetic | None = None) -> bool:
    """Whether value and gradients are those of this loss, within its budget.

    Of a changed step only the value is known, in plain float64. It has to account for 99 % of every error of a value.
    The gradients have to be right as they are, or to be those of the changed value in a random direction.
    """
    try:
        if isinstance(loss, Stepped):
            return accounts(loss, inputs, output, references) and _slopes(loss, inputs, output, references)
        if isinstance(loss, WithInputs) and isinstance(loss.loss, Stepped) and loss.back is None:
            others = references.other_inputs(loss, inputs)
            return agrees(loss.loss, others, _of_others(loss, output), references)
        masks = (over for _, over in over_budget(loss, inputs, output, references, a))
        return all(over is not None and not over.any() for over in masks)
    except (ValueError, TypeError, IndexError):  # it does not apply to such inputs
        return False


def _of_others(loss: WithInputs, output: Found) -> Found:
    """Return the output with the gradients of the other inputs, as far as they are looked at."""
    if not output.gradients:
        return output
    names = fields_of(loss.loss)
    by_name = dict(zip(names, output.gradients, strict=False))
    if loss.exchanged:
        first, second = loss.exchanged
        by_name[first], by_name[second] = by_name[second], by_name[first]
    kept = {name: part if name in (loss.kept or names) else None for name, part in by_name.items()}
    return output._replace(gradients=tuple(kept.values()))


def all_agree(loss: Explained, outcomes: Outcomes, references: References) -> bool:
    """Whether value and gradients are those of this loss in all of the cases."""
    return all(agrees(loss, inputs, output, references) for inputs, output in outcomes)


def values_alone(outcomes: Outcomes) -> Outcomes:
    """Return the cases without their gradients."""
    return [(inputs, output._replace(gradients=None)) for inputs, output in outcomes]


def split(loss: Explained, outcomes: Outcomes, references: References) -> tuple[Outcomes, Outcomes]:
    """Return the cases in which value and gradients are not those of this loss, and those in which they are."""
    agree = [agrees(loss, inputs, output, references) for inputs, output in outcomes]
    right = [outcome for outcome, does in zip(outcomes, agree, strict=True) if does]
    return [outcome for outcome, does in zip(outcomes, agree, strict=True) if not does], right


def has_shape(loss: Loss, outcomes: Outcomes, references: References) -> bool:
    """Whether all values have the shape that they have to have."""
    return all(output.value.shape == np.shape(references.value(loss, inputs)) for inputs, output in outcomes)


def accounts(loss: Stepped | Rounded, inputs: Inputs, output: Found, references: References) -> bool:
    """Whether a changed step, or a rounding, accounts for the error of the value."""
    true, allowed = references.value(loss.loss, inputs), references.bounds(loss.loss, inputs, output.upstream)[0]
    if output.value.shape != np.shape(true):
        return False
    with np.errstate(all="ignore"):
        off = np.abs(output.value - true)
        return bool((np.abs(output.value - references.value(loss, inputs)) <= ACCOUNTED * off + allowed).all())


def misfit(loss: Loss, other: Any, outcomes: Outcomes, references: References) -> float:
    """Return how far values are at most from those of an explanation, in budgets of the loss."""
    far = 0.0
    for inputs, output in outcomes:
        allowed = references.bounds(loss, inputs, output.upstream)[0]
        off = np.abs(output.value - references.value(other, inputs)) / np.maximum(allowed, 1e-300)
        far = max(far, float(np.nan_to_num(off).max()))
    return far


def _slopes(loss: Stepped, inputs: Inputs, output: Found, references: References) -> bool:
    """Whether gradients are right as they are, or have the slope of the changed value in a random direction.

    At a kink either of its slopes will do, and what lies between. Where a margin is detached, or the gradients of the
    loss are not the slope of its value for another reason, the value decides alone.
    """
    if not output.gradients or getattr(loss.loss, "gradient", "exact") == "detached":
        return True
    over = [over for name, over in over_budget(loss.loss, inputs, output, references) if name != "value"]
    if all(each is not None and not each.any() for each in over):
        return True
    gradient = references.gradient(loss.loss, inputs, output.upstream)
    errors = references.bounds(loss.loss, inputs, output.upstream)[1]
    rng, moved = np.random.default_rng(len(inputs[0])), [list(inputs), list(inputs)]
    slope = true = slack = 0.0
    places = differentiable(loss.loss, inputs)
    for name, place, theirs in zip(gradient._fields, places, output.gradients, strict=False):
        if theirs is None:
            continue
        direction = rng.normal(size=np.shape(inputs[place])) * size_of(np.asarray(inputs[place], np.float64))
        for side, others in zip((STEP, -STEP), moved, strict=True):
            others[place] = inputs[place] + side * direction
        slope += float((theirs * direction).sum())
        true += float((getattr(gradient, name) * direction).sum())
        slack += float((errors[name] * np.abs(direction)).sum())

    def agree(value: Callable[[Inputs], Any], slope: float, slack: float) -> bool:
        here, up, down = (float((output.upstream * np.asarray(value(at))).sum()) for at in (inputs, *map(tuple, moved)))
        sides = (up - here) / STEP, (here - down) / STEP
        slack += ACCOUNTED * abs(sum(sides) / 2.0 - true) + 2.0**-48 * abs(here) / STEP
        return bool(min(sides) - slack <= slope <= max(sides) + slack)

    with np.errstate(all="ignore"):
        return agree(lambda at: loss.sloped(*at), slope, slack) or not agree(
            lambda at: plainly(loss.loss, at), true, slack
        )
