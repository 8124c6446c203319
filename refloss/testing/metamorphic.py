"""Properties that need no expected value: relations between results of the same code.

A known change of the inputs has to change the results in a known way, and some relations hold within one result. Two
sides of a relation may differ by the budgets of both. Hypothesis looks for inputs that break a property and simplifies
them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refloss.error_free import Array
from refloss.formats import FORMATS, dtype_name, rounded
from refloss.messages import shown
from refloss.testing.adapters import Found, call, ready
from refloss.testing.budgets import arithmetic, as_loss, bounds
from refloss.testing.conformance import takes_bias, wanted_gradients, writable_inputs
from refloss.testing.hard_cases import INPUTS, Shape, weights_cancel
from refloss.testing.options import as_flag, as_function, is_shape, is_whole

Inputs: TypeAlias = dict[str, Any]
"""Inputs by name, in the order in which the code takes them."""
Parts: TypeAlias = dict[str, Array]
"""The value and the gradients by name, or their budgets."""
OF_CLASSES = ("w", "b")
"""Inputs with one row per class; all others have one row per sample."""
STEPS = 4
"""Number of intervals of a path along which a gradient is integrated."""
SIMPSON = np.array([1.0, 4.0, 2.0, 4.0, 1.0]) / (3.0 * STEPS)
SIMPLER = 40
"""How many simpler inputs are tried once a property is broken."""
ORDINARY = 0.95
"""Largest cosine of an ordinary sample and any class."""
FAR = 1000.0
"""What is added to all logits of a sample: no exponential survives it."""
GAP = 128.0
"""How far a logit is from the others where they do not count: e^-128 is less than any rounding error."""
FAR_APART = 64.0
"""What logits of up to 16 are multiplied by, so that exponentials of their differences vanish."""
SHOWN = 200
"""Inputs with more entries than this are shown in short."""


class BrokenError(AssertionError):
    """A property does not hold."""


class InterruptError(BrokenError):
    """Foreign code was interrupted: nothing more is tried."""


class UntriedError(Exception):
    """A property could not be tried on these inputs."""

    def __init__(self, reason: str, accepted: bool = False) -> None:
        super().__init__(reason)
        self.accepted = accepted
        """Whether the property may stay untried."""


class SimpleError(BaseException):
    """Inputs are as simple as they need to be: ends hypothesis's search."""


class Properties(NamedTuple):
    """The result of each property."""

    loss: Any
    dtype: str
    framework: str
    held: tuple[str, ...]
    """Properties that no input broke."""
    broken: dict[str, str]
    """Properties that some input broke, with the simplest such input."""
    untried: dict[str, str]
    """Properties that could not be tried, with the reason."""
    undecided: tuple[str, ...]
    """Why the result is undecided although nothing is broken. A refusal of ignored labels is no such reason."""

    @property
    def state(self) -> str:
        """One of "holds", "broken" and "undecided"."""
        return "broken" if self.broken else "undecided" if self.undecided else "holds"

    @property
    def passed(self) -> bool:
        """Whether every property holds."""
        return self.state == "holds"

    def __bool__(self) -> bool:
        """Whether every property holds."""
        return self.passed

    def __str__(self) -> str:
        """List the properties, each broken one with the simplest input that breaks it."""
        count = len(self.held) + len(self.broken) + len(self.untried)
        verdict = {
            "holds": "all properties hold" if not self.untried else "all properties hold that were tried",
            "broken": f"{len(self.broken)} of {count} properties broken",
            "undecided": "undecided",
        }
        lines = [f"{self.loss} in {self.dtype}, {self.framework}: {verdict[self.state]}"]
        lines += [f"  holds: {name}" for name in self.held]
        lines += [f"  untried: {name}\n    {reason}" for name, reason in self.untried.items()]
        lines += [f"  undecided: {reason}" for reason in self.undecided if reason not in self.untried]
        lines += [f"  broken: {name}\n    {shown}" for name, shown in self.broken.items()]
        return "\n".join(lines)


class Excuse(NamedTuple):
    """What an exception means for inputs that code need not take."""

    reason: str
    accepted: bool = False
    """Whether the property may stay untried."""


REFUSED = Excuse("refused", True)


class Results(NamedTuple):
    """Results of the code for one input, with their budgets."""

    parts: Parts
    allowed: Parts


class Code(NamedTuple):
    """Foreign code, and the loss that it implements."""

    fn: Callable[..., Any]
    loss: Any
    framework: str
    dtype: str
    device: Any
    standard: str
    gradients: tuple[str, ...]
    """Inputs whose gradients the code has to return."""
    known: dict[Any, Results]
    """True results and budgets of earlier inputs: every property is tried on much the same."""
    decided: set[str]
    """Results that were larger than their budget at least once."""
    doubtful: set[str]
    """Results that were not although the truth is not 0."""
    written: dict[str, str]
    """Inputs that the code wrote into, each with the first such call."""

    def shape(self, inputs: Inputs) -> tuple[int, ...]:
        """Return the shape of the value."""
        return _rows(inputs) if self.loss.reduction == "none" else ()

    def truth(self, inputs: Inputs, upstream: Any = 1.0) -> Results:
        """Return the loss's own results and the budgets."""
        upstream = np.broadcast_to(upstream, self.shape(inputs))
        key = tuple((np.shape(entry), np.asarray(entry).tobytes()) for entry in (*inputs.values(), upstream))
        if key not in self.known:
            arrays = tuple(inputs.values())
            value, gradients = self.loss.value_and_grad(*arrays, upstream=upstream)
            allowed, errors = bounds(self.loss, arrays, arithmetic(self.dtype, standard=self.standard), upstream)
            true = {name: getattr(gradients, name) for name in errors}
            self.known[key] = Results({"value": np.asarray(value)} | true, {"value": allowed} | errors)
        return self.known[key]

    def call(self, inputs: Inputs, upstream: Any = 1.0, excuse: Excuse | None = None) -> tuple[Parts, Found]:
        """Call the code: the value and the gradients by name, in the right shapes, and all else that was noticed."""
        names = tuple(inputs)
        fields = tuple(name for name in names if name != "y")
        labels = names.index("y") if "y" in names else None
        arrays, incoming = tuple(inputs.values()), np.atleast_1d(upstream)
        wanted = self.gradients
        try:
            found = call(self.fn, self.framework, self.dtype, self.device, arrays, incoming, fields, labels, wanted)
        except BaseException as error:  # whatever foreign code raises is a result
            if excuse and isinstance(error, Exception):
                raise UntriedError(f"{excuse.reason}: {_raised(error)}", excuse.accepted) from error
            kind = InterruptError if isinstance(error, KeyboardInterrupt) else BrokenError
            raise kind(_shown(f"raised {_raised(error)}, for", inputs)) from error
        for place in found.changed:
            self.written.setdefault(names[place], _shown(f"the code writes into its input {names[place]}, for", inputs))
        gradients = zip(fields, found.gradients or (), strict=False) if self.gradients else ()
        parts = {"value": found.value} | {name: part for name, part in gradients if part is not None}
        for name, part in parts.items():
            shape = self.shape(inputs) if name == "value" else inputs[name].shape
            _ask(part.shape == shape, f"{_named(name)} has shape {part.shape}, expected {shape}, for", inputs)
        return parts, found

    def run(self, inputs: Inputs, upstream: Any = 1.0, excuse: Excuse | None = None) -> Results:
        """Return results, all of them finite, with their budgets."""
        parts, _ = self.call(inputs, upstream, excuse)
        true, allowed = self.truth(inputs, upstream)
        for name, part in parts.items():
            _ask(bool(np.isfinite(part).all()), f"{_named(name)} is not finite for", inputs)
            size = np.abs(part).max(axis=-1, keepdims=True, initial=0.0) if part.ndim else np.abs(part)
            if np.any(allowed[name] < size):
                self.decided.add(name)
            elif true[name].any():
                self.doubtful.add(name)
        return Results(parts, {name: allowed[name] for name in parts})

    def held(self, entries: Any) -> Array:
        """Round numbers to the dtype."""
        return np.asarray(rounded(entries, self.dtype))

    def on_grid(self, entries: Any, largest: float) -> Array:
        """Round numbers so that the dtype holds them, and what is up to `largest` from them, exactly."""
        spacing = 2.0 ** (np.ceil(np.log2(largest)) - FORMATS[self.dtype].bits)
        return np.asarray(np.round(np.asarray(entries) / spacing) * spacing)

    @property
    def weights(self) -> Array | None:
        """Class weights, if the loss has any."""
        weights = None if self.loss.spec.head == "triplet" else self.loss.spec.cross_entropy.class_weight
        return None if weights is None else np.asarray(weights, dtype=np.float64)


def _raised(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _named(name: str) -> str:
    return "the value" if name == "value" else f"the gradient of {name}"


def _shown(what: str, inputs: Inputs) -> str:
    def shown(entry: Any) -> str:
        return str(entry.tolist()) if entry.size <= SHOWN else np.array2string(entry, separator=", ", threshold=SHOWN)

    return "\n    ".join([what, *(f"{name} = {shown(entry)}" for name, entry in inputs.items())])


def _ask(holds: bool, otherwise: str, inputs: Inputs) -> None:
    if not holds:
        raise BrokenError(_shown(otherwise, inputs))


def _within(what: str, off: Any, allowed: Any, inputs: Inputs) -> None:
    """Ask that differences are within their budgets, which may be 0; NaN is not."""
    right = np.abs(off) <= allowed
    if not np.all(right):
        with np.errstate(all="ignore"):
            worst = np.max(np.where(right, 0.0, np.abs(off) / allowed))
        raise BrokenError(_shown(f"{what}: {worst:.3g} times what rounding explains, for", inputs))


def _rows(inputs: Inputs) -> tuple[int]:
    """Return (N,)."""
    return (len(next(iter(inputs.values()))),)


def _by_sample(name: str, part: Array) -> bool:
    """Whether a result has one row per sample."""
    return part.ndim == 1 if name == "value" else name not in OF_CLASSES


def _each_sample(inputs: Inputs, change: Callable[[Any], Any]) -> Inputs:
    """Change every input with one row per sample."""
    return {name: entry if name in OF_CLASSES else change(entry) for name, entry in inputs.items()}


def _compare(
    before: Results, after: Results, expected: Callable[[str, Array], Array], inputs: Inputs, what: str = "differs"
) -> None:
    """Ask that results changed as expected: by a linear map, which the budgets follow too."""
    for name, part in before.parts.items():
        _ask(name in after.parts, f"{_named(name)} is not returned for inputs that are changed, for", inputs)
        allowed = np.abs(expected(name, before.allowed[name])) + after.allowed[name]
        _within(f"{_named(name)} {what}", after.parts[name] - expected(name, part), allowed, inputs)


def _same(
    code: Code,
    inputs: Inputs,
    changed: Inputs,
    expected: Callable[[str, Array], Array] = lambda name, part: part,
    excuse: Excuse | None = None,
) -> None:
    """Ask that changed inputs change every result as expected."""
    _compare(code.run(inputs), code.run(changed, excuse=excuse), expected, inputs)


def _locked(n: int) -> Excuse:
    return Excuse(f"with {n} sample{'s' if n > 1 else ''} the code raises whatever the input")


WRITES = "Inputs are left as they are"
NO_GRADIENT = "the value alone is returned, no gradient; gradients=False if that is all there is"


# --------------------------------------------------------------------------------------------------- changes of inputs


def order_of_samples(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The order of the samples changes nothing but the order of what belongs to them."""
    order = rng.permutation(*_rows(inputs))
    changed = _each_sample(inputs, lambda entry: entry[order])
    _same(code, inputs, changed, lambda name, part: part[order] if _by_sample(name, part) else part)


def order_of_classes(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The order of the classes changes nothing but the order of what belongs to them."""
    kinds = _kinds(code, inputs["z"].shape[1] if "z" in inputs else len(inputs["w"]))
    order = np.arange(len(kinds))
    for kind in np.unique(kinds):  # only classes of one weight change places, and not the one that is ignored
        places = np.flatnonzero(kinds == kind)
        order[places] = rng.permutation(places)

    def ordered(name: str, part: Any) -> Any:
        return part[:, order] if name == "z" else part[order] if name in OF_CLASSES else part

    changed = {name: ordered(name, entry) for name, entry in inputs.items()} | {"y": np.argsort(order)[inputs["y"]]}
    _same(code, inputs, changed, ordered)


def _kinds(code: Code, classes: int) -> Array:
    """Return one number per class, the same for classes that a loss treats alike."""
    kinds = np.ones(classes) if code.weights is None else code.weights.copy()
    kinds[np.arange(classes) == code.loss.ignore_index] = np.inf
    return kinds


def axes(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Axes that are swapped and reflected turn the gradients with them."""
    d = next(iter(inputs.values())).shape[1]
    order, signs = rng.permutation(d), rng.choice([-1.0, 1.0], d)

    def turned(name: str, part: Any) -> Any:
        return part[:, order] * signs if part.ndim == 2 else part

    _same(code, inputs, {name: turned(name, entry) for name, entry in inputs.items()}, turned)


def lengths_of_x(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The length of an embedding divides its gradient, and changes nothing else."""
    _lengths(code, inputs, "x", rng)


def lengths_of_w(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The length of a class weight divides its gradient, and changes nothing else."""
    _lengths(code, inputs, "w", rng)


def _lengths(code: Code, inputs: Inputs, field: str, rng: np.random.Generator) -> None:
    powers = 2.0 ** rng.integers(-3, 4, (len(inputs[field]), 1))
    changed = inputs | {field: inputs[field] * powers}
    _same(code, inputs, changed, lambda name, part: part / powers if name == field else part)


def shift(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The same number added to all logits of a sample changes nothing."""
    far = rng.choice([-FAR, 0.0, FAR])
    z = code.on_grid(inputs["z"], np.abs(inputs["z"]).max() + FAR) if far else inputs["z"]
    numbers = far or rng.integers(-4, 5, (len(z), 1))
    _same(code, inputs | {"z": z}, inputs | {"z": z + numbers})


def vector_for_all_classes(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The same vector added to every class, and a number to every bias, changes neither the value nor a gradient."""
    changed = inputs | {"w": inputs["w"] + rng.integers(-2, 3, inputs["w"].shape[1])}
    if "b" in inputs:
        changed["b"] = inputs["b"] + rng.integers(-4, 5)
    _same(code, inputs, changed)


def translation(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The same vector added to all embeddings changes neither the value nor a gradient."""
    vector = rng.integers(-2, 3, inputs["anchor"].shape[1])
    _same(code, inputs, _each_sample(inputs, lambda entry: entry + vector))


def masked(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """A logit of -inf counts as one that is far below the others, and has no gradient."""
    z, y = inputs["z"], inputs["y"]
    masks = rng.random(z.shape) < rng.choice([0.3, 0.7, 1.0])
    masks[np.arange(len(y)), y] = False
    lower = np.where(masks, z.min() - 2.0 * FAR, z)  # not even float64 has an exponential of this
    changed = inputs | {"z": np.where(masks, -np.inf, z)}
    _same(code, inputs | {"z": code.held(lower)}, changed)
    gradient = code.call(changed)[0].get("z", np.zeros(z.shape))
    _ask(not gradient[masks].any(), "the gradient of logits of -inf is not 0, for", changed)


def far_below(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """A label's logit far below the others raises the loss by as much as it is lowered."""
    smoothing, classes = code.loss.label_smoothing, inputs["z"].shape[1]
    weights = np.ones(classes) if code.weights is None else code.weights
    rises = weights[inputs["y"]] * (1.0 - smoothing + smoothing / classes) * GAP
    mean = rises.sum() / weights[inputs["y"]].sum()
    rise = {"none": rises, "sum": rises.sum(), "mean": mean}[code.loss.reduction]
    lowered = [_target_apart(code, inputs, gap) for gap in (-GAP, -2.0 * GAP)]
    before, after = map(code.run, lowered)
    left = classes * np.abs(weights).max() * np.exp(-GAP)  # what probabilities of labels are, once far below and once 0
    raised = Results(
        before.parts | {"value": before.parts["value"] + rise},
        {name: part + left for name, part in before.allowed.items()},
    )
    _compare(raised, after, lambda name, part: part, lowered[1])


def far_above(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """A label's logit far above the others leaves no loss and no gradient."""
    sure = _target_apart(code, inputs, GAP)
    parts, allowed = code.run(sure)
    true = code.truth(sure).parts
    for name, part in parts.items():
        _within(f"{_named(name)} is not 0", part, allowed[name] + np.abs(true[name]), sure)


def _target_apart(code: Code, inputs: Inputs, gap: float) -> Inputs:
    """Put the logit of each label that far above the largest of the others."""
    each, y = np.arange(len(inputs["y"])), inputs["y"]
    z = code.on_grid(inputs["z"], np.abs(inputs["z"]).max() + 2.0 * GAP)
    z[each, y] = -np.inf
    z[each, y] = z.max(axis=1) + gap
    return inputs | {"z": z}


def upstream(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Gradients are proportional to the upstream gradient, sample by sample."""
    factors = rng.choice([-2.0, 0.5, 4.0], code.shape(inputs))
    _, found = code.call(inputs, factors)
    if not np.array_equal(found.upstream, factors):
        raise UntriedError("the code returns gradients itself, for an upstream gradient of 1", True)
    one, some, rest = code.run(inputs), code.run(inputs, factors), code.run(inputs, 1.0 - factors)
    for name in one.parts.keys() - {"value"}:
        off = some.parts[name] + rest.parts[name] - one.parts[name]
        allowed = some.allowed[name] + rest.allowed[name] + one.allowed[name]
        _within(f"{_named(name)} is not linear in the upstream gradient", off, allowed, inputs)
        if name not in OF_CLASSES:
            each = factors[..., None]
            off = some.parts[name] - each * one.parts[name]
            allowed = some.allowed[name] + np.abs(each) * one.allowed[name]
            _within(f"{_named(name)} is not proportional to the upstream gradient", off, allowed, inputs)


def samples_twice(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Every sample twice leaves a mean as it was and doubles a sum."""
    mean = code.loss.reduction == "mean"
    changed = _each_sample(inputs, lambda entry: np.concatenate([entry, entry]))

    def expected(name: str, part: Array) -> Array:
        if _by_sample(name, part):
            return np.concatenate([part, part]) * (0.5 if mean else 1.0)
        return part if mean else 2.0 * part

    _same(code, inputs, changed, expected, _locked(2 * _rows(inputs)[0]))


def samples_alone(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The value and the gradients of a batch are those of its samples, each alone."""
    (n,) = _rows(inputs)
    shares = np.ones(n)
    if code.loss.reduction == "mean":
        if code.weights is not None:
            inputs = inputs | {"y": _with_a_mean(code.loss, _that_count(code, inputs["y"]))}
            shares = code.weights[inputs["y"]]
        shares = shares / shares.sum()
    whole = code.run(inputs)
    alone = [code.run(_each_sample(inputs, itemgetter(slice(k, k + 1))), excuse=_locked(1)) for k in range(n)]

    def together(side: Callable[[Results], Parts], shares: Array) -> Parts:
        found = {}
        for name, part in side(alone[0]).items():
            every = [share * side(one)[name] for share, one in zip(shares, alone, strict=True)]
            found[name] = np.concatenate(every) if _by_sample(name, part) else np.asarray(np.sum(every, axis=0))
        return found

    summed = Results(together(lambda one: one.parts, shares), together(lambda one: one.allowed, np.abs(shares)))
    _compare(summed, whole, lambda name, part: part, inputs, "is not that of the samples alone")


def _that_count(code: Code, y: Any) -> Any:
    """Replace labels of weight 0."""
    weights = code.weights
    return y if weights is None else np.where(weights[y] != 0.0, y, int(np.abs(weights).argmax()))


def _of_one_sign(loss: Any, y: Any) -> Any:
    """Replace labels whose weight has another sign than the largest: a mean of any of these divides by no 0."""
    weights = loss.spec.cross_entropy.class_weight
    if weights is None or loss.reduction != "mean":
        return y
    largest = max(_labels_that_count(loss, len(weights)).tolist(), key=lambda k: abs(weights[k]))
    return np.where(np.multiply(weights, weights[largest])[y] >= 0.0, y, largest)


def _with_a_mean(loss: Any, y: Any) -> Any:
    """Replace labels whose weights cancel in what "mean" divides by."""
    return _of_one_sign(loss, y) if weights_cancel(loss, y) else y


# ------------------------------------------------------------------------------------------- samples that count nothing


def ignored_rows(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Samples whose label is ignored have no gradient, and what stands there changes nothing."""
    _count_nothing(code, *_left_out(code, inputs, rng, [code.loss.ignore_index]), rng, REFUSED)


def ignored_batch(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """A batch with ignored labels is the batch without those samples."""
    _is_without(code, *_left_out(code, inputs, rng, [code.loss.ignore_index]), REFUSED)


def ignored_all(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """A batch of nothing but ignored labels has no gradient; its value is 0, or a mean of nothing: NaN."""
    nothing = inputs | {"y": np.full_like(inputs["y"], code.loss.ignore_index)}
    parts, _ = code.call(nothing, excuse=REFUSED)
    for name, part in parts.items():
        undefined = name == "value" and code.loss.reduction == "mean" and np.isnan(part).all()
        _ask(bool(undefined or (part == 0.0).all()), f"{_named(name)} is not 0 for", nothing)


def weightless_rows(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Samples whose class has weight 0 have no gradient, and what stands there changes nothing."""
    _count_nothing(code, *_left_out(code, inputs, rng, _weightless(code)), rng)


def weightless_batch(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """A batch with classes of weight 0 is the batch without their samples."""
    _is_without(code, *_left_out(code, inputs, rng, _weightless(code)))


def _weightless(code: Code) -> Any:
    """Classes whose samples count nothing: label smoothing gives others a part."""
    smoothed = code.loss.spec.head != "triplet" and code.loss.spec.cross_entropy.label_smoothing
    return [] if code.weights is None or smoothed else np.flatnonzero(code.weights == 0.0)


def _left_out(code: Code, inputs: Inputs, rng: np.random.Generator, labels: Any) -> tuple[Inputs, Any]:
    """Give half of the samples one of the labels; return which. A sample alone is doubled."""
    if _rows(inputs) == (1,):
        inputs = _each_sample(inputs, lambda entry: np.concatenate([entry, entry]))
        code.run(inputs, excuse=_locked(2))
    (n,) = _rows(inputs)
    rows = np.arange(n) < n // 2
    rng.shuffle(rows)
    others = _of_one_sign(code.loss, _that_count(code, inputs["y"]))
    return inputs | {"y": np.where(rows, rng.choice(labels, n), others)}, rows


def _count_nothing(
    code: Code, inputs: Inputs, rows: Any, rng: np.random.Generator, excuse: Excuse | None = None
) -> None:
    """Ask that rows have no value and no gradient, and that other numbers in them change no result."""
    d = inputs["z" if "z" in inputs else "x"].shape[1]
    huge = 2.0 ** (12 if code.dtype == "float16" else 80)  # its square is a number too
    huge = huge if "z" in inputs else 2.0 ** np.floor(np.log2(np.sqrt(huge / d)))

    def other(entry: Any) -> Any:
        numbers = rng.integers(1, 17, entry.shape) / 4.0 * rng.choice([-1.0, 1.0], entry.shape)
        return np.where(rows[:, None], numbers * rng.choice([1.0, huge]), entry)

    changed = {name: other(entry) if name in ("x", "z") else entry for name, entry in inputs.items()}
    _ask_unmoved(code, inputs, changed, rows, excuse)


def _ask_unmoved(code: Code, inputs: Inputs, changed: Inputs, rows: Any, excuse: Excuse | None = None) -> None:
    """Ask that rows are 0 in every result, and that two batches that differ only there have the same results."""
    before, after = code.run(inputs, excuse=excuse), code.run(changed, excuse=excuse)
    where = f"in the samples {np.flatnonzero(rows).tolist()}, which count nothing, for"
    for batch, results in ((inputs, before), (changed, after)):
        for name, part in results.parts.items():
            if _by_sample(name, part):
                _ask(not part[rows].any(), f"{_named(name)} is not 0 {where}", batch)
    _compare(before, after, lambda name, part: part, changed, "depends on samples that count nothing")


def _is_without(code: Code, inputs: Inputs, rows: Any, excuse: Excuse | None = None) -> None:
    """Ask that a batch has the results of the batch without some rows."""
    whole = code.run(inputs, excuse=excuse)
    some = code.run(_each_sample(inputs, lambda entry: entry[~rows]), excuse=_locked(int((~rows).sum())))

    def kept(side: Parts) -> Parts:
        return {name: part[~rows] if _by_sample(name, part) else part for name, part in side.items()}

    left = Results(kept(whole.parts), kept(whole.allowed))
    _compare(left, some, lambda name, part: part, inputs, "is not that of the batch without samples that count nothing")


def closed(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Triplets that keep the margin have no loss and no gradient, and where they lie changes nothing."""
    n, d = inputs["anchor"].shape
    power = 1.0 if code.loss.squared else 0.5
    far = (2.0 * ((d / 16.0) ** power + code.loss.m) + 1.0) ** (0.5 / power)
    rows = np.arange(n) < (n + 1) // 2
    rng.shuffle(rows)

    def keeping() -> Inputs:
        anchor = rng.integers(-8, 9, (n, d)) / 4.0
        aside = np.zeros((n, d))
        aside[np.arange(n), rng.integers(0, d, n)] = 2.0 ** np.ceil(np.log2(far)) * rng.choice([-1.0, 1.0], n)
        near = rng.choice([0.0, 0.25]) * rng.integers(-1, 2, (n, d))
        points = {"anchor": anchor, "positive": anchor + near, "negative": anchor + aside}
        return {name: np.where(rows[:, None], code.held(points[name]), entry) for name, entry in inputs.items()}

    _ask_unmoved(code, keeping(), keeping(), rows)


# ------------------------------------------------------------------------------------------- relations within a result


def finite(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The value and every gradient are finite."""
    parts = code.run(inputs).parts
    missing = [name for name in code.gradients if name not in parts]
    if len(parts) > 1:
        _ask(not missing, f"no gradient of {', '.join(missing)} is returned, for", inputs)


def repeatable(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The same inputs give the same results."""
    _compare(code.run(inputs), code.run(inputs), lambda name, part: part, inputs, "differs from call to call")


def coincident(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Points that coincide have finite gradients."""
    code.run(inputs | {"positive": inputs["anchor"]})
    code.run(inputs | {"negative": inputs["anchor"]})
    code.run(dict.fromkeys(inputs, inputs["anchor"]))


def not_negative(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """No loss is below 0."""
    parts, allowed = code.run(inputs)
    _ask(bool((parts["value"] >= -allowed["value"]).all()), f"the value is {parts['value']} for", inputs)


def radial(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The gradient of what only gives a direction is orthogonal to it."""
    parts, allowed = _with_gradients(code, inputs)
    for name in sorted(parts.keys() & _directions(code)):
        along = (parts[name] * inputs[name]).sum(axis=1)
        bound = (allowed[name] * np.abs(inputs[name])).sum(axis=1)
        _within(f"the gradient of {name} has a part along {name}", along, bound, inputs)


def _directions(code: Code) -> set[str]:
    """Inputs of a margin loss whose lengths do not count."""
    return {"w"} if code.loss.spec.scale is None else {"x", "w"}


def nothing_in_sum(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Gradients add up to nothing: over the classes of a sample, or over anchor, positive and negative."""

    def total(side: Parts) -> Any:
        every = [part for name, part in side.items() if name != "value"]
        return every[0].sum(axis=-1) if "z" in side else np.sum(every, axis=0)

    parts, allowed = _with_gradients(code, inputs)
    _within("gradients do not add up to 0", total(parts), total(allowed), inputs)


def slope(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The gradient is that of the value: integrated along a short path, it is how much the value changes.

    Simpson's rule leaves a residual; that of the loss itself tells how large it is.
    """
    parts = _with_gradients(code, inputs).parts
    ways = {name: rng.integers(-1, 2, inputs[name].shape) / 16.0 for name in inputs if name in parts}

    def at(share: float) -> Inputs:
        return {
            name: code.held(entry + share * ways[name]) if name in ways else entry for name, entry in inputs.items()
        }

    def along(side: Parts, size: Callable[[Any], Any] = np.asarray) -> float:
        return float(sum((side[name] * size(way)).sum() for name, way in ways.items()))

    points = [at(k / STEPS) for k in range(STEPS + 1)]
    steps = [code.run(point) for point in points]
    change = float((steps[-1].parts["value"] - steps[0].parts["value"]).sum())
    integral = float(SIMPSON @ [along(step.parts) for step in steps])
    allowed = float(steps[-1].allowed["value"].sum() + steps[0].allowed["value"].sum())
    allowed += float(SIMPSON @ [along(step.allowed, np.abs) for step in steps])
    true = [code.truth(point).parts for point in points]
    residual = np.sum(true[-1]["value"]) - np.sum(true[0]["value"]) - SIMPSON @ [along(side) for side in true]
    what = f"the value changes by {change:.6g}, its gradient says {integral:.6g}"
    _within(what, change - integral, allowed + abs(residual), inputs)


def _with_gradients(code: Code, inputs: Inputs) -> Results:
    results = code.run(inputs)
    if len(results.parts) == 1:
        raise UntriedError(NO_GRADIENT)
    return results


# ------------------------------------------------------------------------------------------------------------- together

Property: TypeAlias = Callable[[Code, Inputs, np.random.Generator], None]


def _those_of(code: Code, shape: Shape, ignored: bool) -> Iterator[Property]:
    """The properties of a loss that say something about this shape."""
    head = code.loss.spec.head
    yield from (repeatable, finite, samples_twice)
    if code.weights is None or (code.weights >= 0.0).all():
        yield not_negative
    if shape.n > 1:
        yield from (order_of_samples, samples_alone)
    if head == "triplet":
        yield from (axes, translation, closed, coincident)
    else:
        yield from _of_labels(code, shape, ignored)
    if not code.gradients:
        return
    if code.framework != "numpy":
        yield upstream
    if head == "margin" and _directions(code) & set(code.gradients):
        yield radial
    if head == "logits" or (head == "triplet" and len(code.gradients) == 3):
        yield nothing_in_sum
    if head != "margin" or code.loss.gradient == "exact":
        yield slope


def _of_labels(code: Code, shape: Shape, ignored: bool) -> Iterator[Property]:
    """The properties of a loss with labels that look at values too."""
    head, loss = code.loss.spec.head, code.loss
    kinds = _kinds(code, shape.c)
    if len(np.unique(kinds)) < len(kinds):
        yield order_of_classes
    if head == "logits":
        yield shift
        if shape.c > 1:
            yield far_below
            if not loss.label_smoothing:
                yield from (far_above, masked)
    else:
        yield axes
    if head == "linear":
        yield vector_for_all_classes
    if head == "margin":
        yield lengths_of_w
        if loss.spec.scale is not None:
            yield lengths_of_x
    if ignored:
        yield from (ignored_rows, ignored_batch, ignored_all)
    if len(_weightless(code)):
        yield from (weightless_rows, weightless_batch)


def properties(
    fn: Callable[..., Any],
    loss: Any,
    framework: str = "numpy",
    *,
    dtype: Any = "float32",
    device: Any = None,
    shape: Sequence[int] = (3, 9, 5),
    hard: bool = True,
    examples: int = 20,
    standard: str = "working",
    ignored: bool = True,
    gradients: bool | Sequence[str] = True,
    bias: bool | None = None,
    overwrites: Sequence[str] = (),
) -> Properties:
    """Look for inputs on which foreign code contradicts itself; no expected value is needed.

    Code that keeps every property may still be another loss, with another scale or margin: `check` tells.

    Parameters
    ----------
    fn
        As for `check`.
    loss
        The loss of refloss that it implements, or its class for the default settings: says which properties hold, and
        how far rounding may break them.
    framework
        "numpy", "torch" or "jax": what fn takes.
    dtype
        "float16", "bfloat16", "float32" or "float64", or such a dtype of NumPy or a framework.
    device
        Where tensors are made.
    shape
        (N, C, D) of the inputs; C is the number of class weights if the loss has any. Some properties also call fn with
        other numbers of samples: 1, 2 N, half of N.
    hard
        Whether inputs may be extreme: embeddings that meet a class or its opposite exactly, logits that are far apart,
        points that coincide.
    examples
        How many inputs to try for each property.
    standard
        As for `check`: what rounding may do.
    ignored
        False for code that has no ignored labels.
    gradients
        False for code that has a value only; or names of inputs, if only those gradients have to be returned.
    bias
        Whether a linear head takes a bias; if left out, whether the signature of fn takes four arguments.
    overwrites
        Names of inputs, "y" among them, that the code may write into.

    Returns
    -------
    Properties
        `passed` if every property holds; printed, it shows the simplest inputs that break one. A property is untried
        where fn takes no other number of samples than N, returns no gradient, or refuses ignored labels. All but the
        last leave the result undecided, and so does a result that was never larger than its budget.

    Raises
    ------
    ValueError
        For an argument out of range, naming it.
    ModuleNotFoundError
        Where hypothesis is not installed.
    """
    import_module("hypothesis")
    loss, name = as_loss(loss), dtype_name(dtype)
    arithmetic(name, standard=standard)
    fn, hard, ignored = as_function("fn", fn), as_flag("hard", hard), as_flag("ignored", ignored)
    ready(framework, name, device)
    if not is_whole(examples):
        raise ValueError(f"examples: expected a positive integer; got {shown(examples)}")
    size, names, with_bias = _size(loss, shape), INPUTS[loss.spec.head], takes_bias(fn, loss, bias)
    if "b" in names and not with_bias:
        names = names[:-1]
    wanted = tuple(entry for entry in wanted_gradients(loss, gradients) if entry in names)
    allowed = writable_inputs(loss, overwrites)
    code = Code(fn, loss, framework, name, device, standard, wanted, {}, set(), set(), {})
    inputs = _inputs(code, size, hard, names)
    held, broken, untried, undecided = [], {}, {}, []
    interrupted = False
    with _modules_that_answer():
        for each in _those_of(code, size, ignored and getattr(loss, "ignore_index", None) is not None):
            title = (each.__doc__ or "").splitlines()[0].rstrip(".")
            outcome = Outcome(untried="interrupted") if interrupted else _tried(code, each, inputs, examples)
            if outcome.broken:
                broken[title] = outcome.broken
                interrupted = outcome.interrupted
            elif outcome.untried:
                untried[title] = outcome.untried
                undecided += [] if outcome.accepted else [title]
            else:
                held.append(title)
    written = [shown for entry, shown in code.written.items() if entry not in allowed]
    if written:
        broken[WRITES] = "\n    ".join(written)
    elif code.known:
        held.append(WRITES)
    parts = [part for part in ("value", *wanted) if part in code.doubtful - code.decided]
    undecided += [f"{_named(part)} was never larger than its budget" for part in parts]
    return Properties(loss, name, framework, tuple(held), broken, untried, tuple(undecided))


def _size(loss: Any, shape: Any) -> Shape:
    """Return a shape with as many classes as the loss has class weights."""
    if not is_shape(shape):
        raise ValueError(f"shape: expected (N, C, D), three positive integers; got {shown(shape)}")
    size = Shape(*map(int, shape))
    if loss.spec.head == "triplet":
        return size
    weights = loss.spec.cross_entropy.class_weight
    size = size if weights is None else size._replace(c=len(weights))
    if not len(_labels_that_count(loss, size.c)):
        raise ValueError(f"loss: expected a class that is not ignored and has no weight of 0; got {loss!r}")
    return size


def _labels_that_count(loss: Any, classes: int) -> Any:
    """Labels that are not ignored, with a weight other than 0."""
    weights = loss.spec.cross_entropy.class_weight
    counting = np.ones(classes, dtype=bool) if weights is None else np.asarray(weights) != 0.0
    return np.flatnonzero(counting & (np.arange(classes) != loss.ignore_index))


class Outcome(NamedTuple):
    """What became of a property; all empty if it holds."""

    broken: str = ""
    untried: str = ""
    accepted: bool = False
    """Whether it may stay untried."""
    interrupted: bool = False


def _tried(code: Code, each: Property, inputs: Any, examples: int) -> Outcome:
    """Look for the simplest input that breaks a property."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    shown: list[str] = []
    reasons: list[UntriedError | None] = []
    outcomes: dict[Any, str] = {}
    """What an input did when it was new: code that fails at times only would confuse hypothesis."""
    interrupts: list[InterruptError] = []

    def outcome(some: Inputs, seed: int) -> str:
        if len(shown) > SIMPLER:
            raise SimpleError
        try:
            each(code, some, np.random.default_rng(seed))
        except InterruptError as error:
            interrupts.append(error)
            raise SimpleError from None
        except BrokenError as error:
            return str(error)
        except UntriedError as error:
            reasons.append(error)
        else:
            reasons.append(None)
        return ""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
    )
    @given(inputs, st.integers(0, 255))
    def tried(some: Inputs, seed: int) -> None:
        key = (*(entry.tobytes() for entry in some.values()), seed)
        if key not in outcomes:
            outcomes[key] = outcome(some, seed)
        if outcomes[key]:
            shown.append(outcomes[key])
            raise BrokenError(outcomes[key])

    trouble = ""
    try:
        tried()
    except (BrokenError, SimpleError):
        pass
    except Exception as error:  # hypothesis's own, or that of a module it looks into
        trouble = f"could not be tried: {_raised(error)}"
    if interrupts:
        return Outcome(str(interrupts[0]), interrupted=True)
    if shown:
        return Outcome(shown[-1])
    if trouble or not reasons:
        return Outcome(untried=trouble or "no input was tried")
    untried = [error for error in reasons if error]
    if not untried:
        return Outcome()
    if len(untried) < len(reasons):
        return Outcome(f"{untried[0]}; but not for all inputs")
    return Outcome(untried=str(untried[0]), accepted=untried[0].accepted)


@contextmanager
def _modules_that_answer() -> Iterator[None]:
    """Give a `__file__` to modules that raise when asked for theirs: hypothesis asks every module that is imported."""
    changed = []
    for module in list(sys.modules.values()):
        try:
            getattr(module, "__file__", None)
        except Exception:  # lazy modules import something that may be missing
            with suppress(Exception):
                module.__file__ = None
                changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            with suppress(Exception):
                del module.__file__


def _inputs(code: Code, shape: Shape, hard: bool, names: Sequence[str]) -> Any:
    """A strategy of inputs: short numbers, which every dtype holds, also as a property changes them."""
    from hypothesis import assume
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as arrays

    loss, (n, c, d) = code.loss, shape
    head = loss.spec.head

    def rows(count: int, width: int, largest: int = 16) -> Any:
        return arrays.arrays(np.int64, (count, width), elements=st.integers(-largest, largest)).map(lambda k: k / 4.0)

    def sometimes(draw: Any) -> bool:
        return bool(hard and draw(st.booleans()))

    @st.composite
    def labels(draw: Any) -> Any:
        counting = _labels_that_count(loss, c)
        every = [k for k in range(c) if k != loss.ignore_index]
        y = draw(arrays.arrays(np.int64, n, elements=st.sampled_from(every)))
        if draw(st.booleans()):
            y[-1] = y[0]  # of many classes none would be met twice
        if not np.isin(y, counting).any():
            y[0] = counting[0]
        return _with_a_mean(loss, y)

    @st.composite
    def logits(draw: Any) -> Inputs:
        z = draw(rows(n, c, 64))
        return {"z": z * FAR_APART if sometimes(draw) else z, "y": draw(labels())}

    @st.composite
    def linear(draw: Any) -> Inputs:
        x = draw(rows(n, d))
        if sometimes(draw):  # x·w is at most 16 d
            x *= 2.0 ** np.floor(np.log2(max(1.0, min(FAR_APART, FORMATS[code.dtype].largest / (64.0 * d)))))
        found = {"x": x, "w": draw(rows(c, d)), "y": draw(labels())}
        return found | {"b": draw(rows(1, c))[0]} if "b" in names else found

    @st.composite
    def margin(draw: Any) -> Inputs:
        x, w, y = draw(rows(n, d)), draw(rows(c, d)), draw(labels())
        if sometimes(draw):
            first, turn = draw(st.integers(0, n - 1)), draw(st.integers(0, 2))
            x[first:] = np.resize(np.roll((1.0, -1.0, 2.0), turn), (n, 1))[first:] * w[y[first:]]
        if c > 1 and sometimes(draw):
            w[(y[0] + 1) % c] = x[0]
        lengths = [np.linalg.norm(entry, axis=1) for entry in (x, w)]
        assume(min(entry.min() for entry in lengths) > 0.0)
        if not hard:
            assume(np.abs(x @ w.T / lengths[0][:, None] / lengths[1]).max() < ORDINARY)
        return {"x": x, "w": w, "y": y}

    @st.composite
    def triplet(draw: Any) -> Inputs:
        found: Inputs = {}
        for name in names:
            found[name] = draw(rows(n, d))
            if name != "anchor" and sometimes(draw):
                found[name][0] = found["anchor"][0]
        return found

    return {"logits": logits, "linear": linear, "margin": margin, "triplet": triplet}[head]()
