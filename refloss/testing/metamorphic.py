"""Properties that need no expected value: what has to hold between results of the same code.

Changed inputs have to change results in a known way, and some results have to hold together by themselves. What may be
missing is what rounding may do: the budgets of both sides. Hypothesis looks for inputs that break a property, and shows
the smallest it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refloss.error_free import Array
from refloss.testing.adapters import call
from refloss.testing.budgets import arithmetic, bounds
from refloss.testing.hard_cases import Shape, dtype_of

Inputs: TypeAlias = tuple[Any, ...]
Parts: TypeAlias = dict[str, Array]
"""The value and the gradients by name, or what each of their entries may be off by."""
STEPS = 4
"""Into how many a path is cut, along which a gradient is summed."""
SIMPSON = np.array([1.0, 4.0, 2.0, 4.0, 1.0]) / (3.0 * STEPS)
SIMPLER = 40
"""How many simpler inputs are tried once a property is broken."""
ORDINARY = 0.95
"""Largest cosine of an ordinary sample and any class."""


class BrokenError(AssertionError):
    """A property does not hold."""


class SimpleError(BaseException):
    """Inputs are as simple as they need to be: it goes through hypothesis, which would search on."""


class Properties(NamedTuple):
    """What was found of each property."""

    loss: Any
    dtype: str
    framework: str
    held: tuple[str, ...]
    """Properties that no input broke."""
    broken: dict[str, str]
    """Properties that some input broke, with the smallest such input."""

    @property
    def passed(self) -> bool:
        """Whether no property was broken."""
        return not self.broken

    def __str__(self) -> str:
        """Say which properties hold, and show the smallest input that breaks each of the others."""
        verdict = f"{len(self.broken)} of {len(self.broken) + len(self.held)} properties broken"
        lines = [f"{self.loss} in {self.dtype}, {self.framework}: {verdict if self.broken else 'all properties hold'}"]
        lines += [f"  holds: {name}" for name in self.held]
        lines += [f"  broken: {name}\n    {said}" for name, said in self.broken.items()]
        return "\n".join(lines)


class Code(NamedTuple):
    """Foreign code, and the loss that it is to be."""

    fn: Callable[..., Any]
    loss: Any
    framework: str
    dtype: str
    device: Any
    known: dict[tuple[bytes, ...], tuple[Array, dict[str, Array]]]
    """Budgets of inputs that were met before: every property is tried on much the same."""

    def allowed(self, inputs: Inputs) -> tuple[Array, dict[str, Array]]:
        """Return what the value and each gradient may be off by."""
        key = tuple(entry.tobytes() for entry in inputs)
        if key not in self.known:
            self.known[key] = bounds(self.loss, inputs, arithmetic(self.dtype))
        return self.known[key]

    def run(self, inputs: Inputs) -> tuple[Parts, Parts]:
        """Return what it finds, and what each entry may be off by."""
        found = call(self.fn, self.framework, self.dtype, self.device, inputs, np.ones(1 << 12))
        value, errors = self.allowed(inputs)
        parts = {"value": found.value} | dict(zip(_fields(self.loss), found.gradients or (), strict=False))
        allowed = {"value": value} | {name: errors[name] for name in parts if name != "value"}
        for name, part in parts.items():
            wanted = allowed[name].shape
            _ask(part.shape == wanted, f"{_named(name)} has shape {part.shape}, expected {wanted}, for", inputs)
            _ask(bool(np.isfinite(part).all()), f"{_named(name)} is not finite for", inputs)
        return parts, allowed

    def held(self, entries: Any) -> Array:
        """Round numbers to the dtype."""
        return np.asarray(entries).astype(dtype_of(self.dtype)).astype(np.float64)


def _named(name: str) -> str:
    return "the value" if name == "value" else f"the gradient of {name}"


def _ask(holds: bool, otherwise: str, inputs: Inputs) -> None:
    if not holds:
        raise BrokenError("\n    ".join([otherwise, *(f"{np.asarray(entry).tolist()}" for entry in inputs)]))


def _same(code: Code, inputs: Inputs, changed: Inputs, expected: Callable[[str, Array], Array]) -> None:
    """Ask that changed inputs change every result as expected: a linear map, which the budgets follow too."""
    before, allowed = code.run(inputs)
    after, allowed_after = code.run(changed)
    for name, part in after.items():
        wanted = expected(name, before[name])
        bound = np.abs(expected(name, allowed[name])) + allowed_after[name]
        worst = np.max(np.abs(part - wanted) / bound)
        _ask(bool(worst <= 1.0), f"{_named(name)} differs by {worst:.3g} times what rounding explains, for", inputs)


# --------------------------------------------------------------------------------------------------- changes of inputs


def order_of_samples(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The order of the samples changes nothing but the order of what belongs to them."""
    order = rng.permutation(len(inputs[0]))
    changed = tuple(entry[order] if _of_samples(code.loss, i) else entry for i, entry in enumerate(inputs))
    fields = _fields(code.loss)

    def expected(name: str, part: Array) -> Array:
        mine = part.ndim == 1 if name == "value" else _of_samples(code.loss, fields.index(name))
        return part[order] if mine else part

    _same(code, inputs, changed, expected)


def order_of_classes(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The order of the classes changes nothing but the order of what belongs to them."""
    on_logits = code.loss.spec.head == "logits"
    order = rng.permutation(inputs[0].shape[1] if on_logits else len(inputs[1]))
    y = np.argsort(order)[inputs[-1]]
    changed = (inputs[0][:, order], y) if on_logits else (inputs[0], inputs[1][order], y)

    def expected(name: str, part: Array) -> Array:
        return part[:, order] if name == "z" else part[order] if name == "w" else part

    _same(code, inputs, changed, expected)


def axes(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Axes that are swapped and reflected turn the gradients with them."""
    d = inputs[0].shape[1]
    order, signs = rng.permutation(d), rng.choice([-1.0, 1.0], d)
    changed = tuple(entry[:, order] * signs if entry.ndim == 2 else entry for entry in inputs)
    _same(code, inputs, changed, lambda name, part: part if name == "value" else part[:, order] * signs)


def lengths_of_x(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The length of an embedding divides its gradient, and changes nothing else."""
    powers = 2.0 ** rng.integers(-3, 4, (len(inputs[0]), 1))
    changed = (inputs[0] * powers, *inputs[1:])
    _same(code, inputs, changed, lambda name, part: part / powers if name == "x" else part)


def lengths_of_w(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The length of a class weight divides its gradient, and changes nothing else."""
    powers = 2.0 ** rng.integers(-3, 4, (len(inputs[1]), 1))
    changed = (inputs[0], inputs[1] * powers, inputs[2])
    _same(code, inputs, changed, lambda name, part: part / powers if name == "w" else part)


def shift(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The same number added to all logits of a sample changes nothing."""
    changed = (inputs[0] + rng.integers(-4, 5, (len(inputs[0]), 1)), inputs[1])
    _same(code, inputs, changed, lambda name, part: part)


def vector_for_all_classes(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The same vector added to every class changes neither the value nor a gradient."""
    changed = (inputs[0], inputs[1] + rng.integers(-2, 3, inputs[1].shape[1]), inputs[2])
    _same(code, inputs, changed, lambda name, part: part)


def translation(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The same vector added to all embeddings changes neither the value nor a gradient."""
    vector = rng.integers(-2, 3, inputs[0].shape[1])
    changed = tuple(entry + vector for entry in inputs)
    _same(code, inputs, changed, lambda name, part: part)


def samples_twice(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Every sample twice leaves a mean as it was and doubles a sum."""
    loss = code.loss
    fields, mean = _fields(loss), loss.reduction == "mean"
    changed = tuple(np.concatenate([entry, entry]) if _of_samples(loss, i) else entry for i, entry in enumerate(inputs))

    def expected(name: str, part: Array) -> Array:
        if (name == "value" and part.ndim) or (name != "value" and _of_samples(loss, fields.index(name))):
            return np.concatenate([part, part]) * (0.5 if mean else 1.0)
        return part if mean else 2.0 * part

    _same(code, inputs, changed, expected)


# ------------------------------------------------------------------------------------------- what holds within a result


def finite(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The value and every gradient are finite."""
    code.run(inputs)


def not_negative(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """No loss is below 0."""
    parts, allowed = code.run(inputs)
    _ask(bool((parts["value"] >= -allowed["value"]).all()), f"the value is {parts['value']} for", inputs)


def samples_alone(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The value of a batch is that of its samples, each alone."""
    loss = code.loss
    whole, allowed = code.run(inputs)
    alone, allowed_alone = [], []
    for n in range(len(inputs[0])):
        one = tuple(entry[n : n + 1] if _of_samples(loss, i) else entry for i, entry in enumerate(inputs))
        parts, bound = code.run(one)
        alone.append(parts["value"].reshape(()))
        allowed_alone.append(bound["value"].reshape(()))
    reduced: Any = {"none": np.asarray, "sum": np.sum, "mean": np.mean}[loss.reduction]
    off = np.abs(whole["value"] - reduced(alone))
    most = allowed["value"] + reduced(allowed_alone)
    _ask(bool((off <= most).all()), f"{whole['value']} together, {reduced(alone)} from samples alone, for", inputs)


def radial(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The gradient of what only gives a direction is orthogonal to it."""
    parts, allowed = code.run(inputs)
    names = ["w"] if code.loss.spec.scale is None else ["x", "w"]
    for name, rows in zip(("x", "w"), inputs[:2], strict=True):
        if name in names and name in parts:
            along, bound = (np.abs((parts[name] * rows).sum(axis=1)), (allowed[name] * np.abs(rows)).sum(axis=1))
            worst = np.max(along / bound)
            _ask(
                bool(worst <= 1.0), f"the gradient of {name} has a part along {name}: {worst:.3g} budgets, for", inputs
            )


def nothing_in_sum(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Gradients add up to nothing: over the classes of a sample, or over anchor, positive and negative."""
    parts, allowed = code.run(inputs)
    names = [name for name in parts if name != "value"]
    if names:
        axis = -1 if names == ["z"] else 0
        total, bound = (sum(side[name] for name in names) for side in (parts, allowed))
        if axis == -1:
            total, bound = np.asarray(total).sum(axis=axis), np.asarray(bound).sum(axis=axis)
        worst = np.max(np.abs(total) / bound)
        _ask(bool(worst <= 1.0), f"gradients do not add up to 0: {worst:.3g} budgets, for", inputs)


def slope(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The gradient is that of the value: summed along a short path, it is how much the value changes.

    The sum is Simpson's, and what it leaves out is the same for the loss itself, which tells how much that is.
    """
    floats = [i for i, entry in enumerate(inputs) if entry.dtype.kind == "f"]
    ways = {i: rng.integers(-1, 2, inputs[i].shape) / 16.0 for i in floats}

    def at(share: float) -> Inputs:
        return tuple(code.held(entry + share * ways[i]) if i in ways else entry for i, entry in enumerate(inputs))

    def along(parts: Parts, size: Callable[[Any], Any] = np.asarray) -> float:
        fields = _fields(code.loss)
        return float(sum((parts[fields[i]] * size(ways[i])).sum() for i in floats))

    points = [at(k / STEPS) for k in range(STEPS + 1)]
    found = [code.run(point) for point in points]
    if len(found[0][0]) == 1:
        return  # a value alone has no slope
    change = float((found[-1][0]["value"] - found[0][0]["value"]).sum())
    summed = float(SIMPSON @ [along(parts) for parts, _ in found])
    allowed = float(found[-1][1]["value"].sum() + found[0][1]["value"].sum())
    allowed += float(SIMPSON @ [along(bound, np.abs) for _, bound in found])
    true = [code.loss.value_and_grad(*point) for point in points]
    left = float(np.sum(true[-1][0]) - np.sum(true[0][0]) - SIMPSON @ [along(grad._asdict()) for _, grad in true])
    worst = abs(change - summed) / (allowed + abs(left))
    said = f"the value changes by {change:.6g}, its gradient says {summed:.6g}: {worst:.3g} times what is allowed, for"
    _ask(worst <= 1.0, said, inputs)


# ------------------------------------------------------------------------------------------------------------- together

Property: TypeAlias = Callable[[Code, Inputs, np.random.Generator], None]


def _fields(loss: Any) -> list[str]:
    return {"logits": ["z"], "linear": ["x", "w"], "margin": ["x", "w"], "triplet": ["anchor", "positive", "negative"]}[
        loss.spec.head
    ]


def _of_samples(loss: Any, place: int) -> bool:
    """Whether this input has a row a sample; class weights have a row a class."""
    return loss.spec.head not in ("linear", "margin") or place != 1


def _those_of(loss: Any) -> Iterator[Property]:
    """The properties of a loss."""
    head = loss.spec.head
    yield from (finite, not_negative, order_of_samples)
    weighted = head != "triplet" and loss.spec.cross_entropy.class_weight
    if head != "triplet" and not weighted:
        yield order_of_classes
    yield samples_twice
    if not (weighted and loss.reduction == "mean"):
        yield samples_alone
    if head != "logits":
        yield axes
    if head == "margin":
        yield from (lengths_of_w, radial)
        if loss.spec.scale is not None:
            yield lengths_of_x
    if head == "logits":
        yield shift
    if head == "linear":
        yield vector_for_all_classes
    if head == "triplet":
        yield translation
    if head in ("logits", "triplet"):
        yield nothing_in_sum
    if head != "margin" or loss.gradient == "exact":
        yield slope


def properties(
    fn: Callable[..., Any],
    loss: Any,
    framework: str = "numpy",
    *,
    dtype: str = "float32",
    device: Any = None,
    shape: Sequence[int] = (3, 4, 4),
    hard: bool = True,
    examples: int = 20,
) -> Properties:
    """Look for inputs on which foreign code contradicts itself; no expected value is needed.

    Parameters
    ----------
    fn
        As for `check`.
    loss
        The loss of refloss it is to be: says which properties hold, and how far rounding may break them.
    framework
        "numpy", "torch" or "jax": what fn takes.
    dtype
        "float16", "bfloat16", "float32" or "float64".
    device
        Where torch tensors are made.
    shape
        (N, C, D) of the inputs. Two properties also call fn with 1 and with 2 N samples.
    hard
        Whether embeddings may meet a class, or its opposite, exactly.
    examples
        How many inputs to try for each property.

    Returns
    -------
    Properties
        `passed` if nothing was broken; printed, it shows the smallest inputs found that break a property.

    Raises
    ------
    ModuleNotFoundError
        Where hypothesis is not installed.
    """
    import_module("hypothesis")
    code, held, broken = Code(fn, loss, framework, dtype, device, {}), [], {}
    for each in _those_of(loss):
        said = _tried(code, each, Shape(*shape), hard, examples)
        name = (each.__doc__ or "").splitlines()[0].rstrip(".")
        if said:
            broken[name] = said
        else:
            held.append(name)
    return Properties(loss, dtype, framework, tuple(held), broken)


def _tried(code: Code, each: Property, shape: Shape, hard: bool, examples: int) -> str:
    """What the smallest input that breaks a property shows; nothing if none was found."""
    from hypothesis import HealthCheck, Phase, errors, given, settings
    from hypothesis import strategies as st

    shown: list[str] = []
    simplified: list[int] = []

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
    )
    @given(_inputs(code.loss, shape, hard), st.integers(0, 255))
    def tried(inputs: Inputs, seed: int) -> None:
        if shown:
            simplified.append(1)
        if len(simplified) > SIMPLER:
            raise SimpleError
        try:
            try:
                each(code, inputs, np.random.default_rng(seed))
            except BrokenError:
                raise
            except Exception as error:  # whatever foreign code raises breaks the property
                _ask(False, f"raised {type(error).__name__}: {error}, for", inputs)
        except BrokenError as error:
            shown.append(str(error))
            raise

    try:
        tried()
    except (BrokenError, SimpleError, errors.Flaky):
        return shown[-1]
    return ""


def _inputs(loss: Any, shape: Shape, hard: bool) -> Any:
    """A strategy of inputs: short numbers, which every dtype holds, also as a property changes them."""
    from hypothesis import assume
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as arrays

    n, c, d = shape

    def rows(count: int, width: int, largest: int = 16) -> Any:
        return arrays.arrays(np.int64, (count, width), elements=st.integers(-largest, largest)).map(lambda k: k / 4.0)

    labels = arrays.arrays(np.int64, n, elements=st.integers(0, c - 1))

    @st.composite
    def heads(draw: Any) -> Inputs:
        x, w, y = draw(rows(n, d)), draw(rows(c, d)), draw(labels)
        if hard and loss.spec.head == "margin" and draw(st.booleans()):
            x[0] = draw(st.sampled_from((1.0, -1.0, 2.0))) * w[y[0]]
        lengths = [np.linalg.norm(entry, axis=1) for entry in (x, w)]
        assume(min(entry.min() for entry in lengths) > 0.0)
        if not hard:
            assume(np.abs(x @ w.T / lengths[0][:, None] / lengths[1]).max() < ORDINARY)
        return x, w, y

    if loss.spec.head == "logits":
        return st.tuples(rows(n, c, 64), labels)
    if loss.spec.head == "triplet":
        return st.tuples(*[rows(n, d)] * 3)
    return heads()
