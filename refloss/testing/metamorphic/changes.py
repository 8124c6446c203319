"""Relations between results of changed inputs: orders, scales, shifts, upstream gradients, batches."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refloss.engines.spec import PER_CLASS
from refloss.error_free import Array
from refloss.testing.metamorphic.code import (
    Code,
    Inputs,
    Results,
    UntriedError,
    ask,
    locked,
    named,
    number_of_samples,
)
from refloss.testing.metamorphic.comparisons import by_sample, compare, each_sample, same, together, within
from refloss.testing.metamorphic.labels import kinds_of_classes, that_count, with_a_mean
from refloss.testing.signatures import cross_entropy_of

FAR = 1000.0
"""Number that is added to all logits of a sample: it exceeds the range of the exponential."""
GAP = 128.0
"""Distance of a logit from the others at which they do not count: e^-128 is less than any rounding error."""


def order_of_samples(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The order of the samples changes nothing but the order of what belongs to them."""
    order = rng.permutation(*number_of_samples(inputs))
    changed = each_sample(inputs, lambda entry: entry[order])
    same(code, inputs, changed, lambda name, part: part[order] if by_sample(name, part) else part)


def order_of_classes(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The order of the classes changes nothing but the order of what belongs to them."""
    kinds = kinds_of_classes(code, inputs["z"].shape[1] if "z" in inputs else len(inputs["w"]))
    order = np.arange(len(kinds))
    for kind in np.unique(kinds):  # only classes of one weight change places, and the ignored one does not
        places = np.flatnonzero(kinds == kind)
        order[places] = rng.permutation(places)

    def ordered(name: str, part: NDArray[Any]) -> NDArray[Any]:
        per_class = name in PER_CLASS and part.ndim  # or one number
        return part[:, order] if name in ("z", "target") else part[order] if per_class else part

    changed = {name: ordered(name, entry) for name, entry in inputs.items()}
    if "y" in inputs:
        changed["y"] = np.argsort(order)[inputs["y"]]
    same(code, inputs, changed, ordered)


def order_of_centers(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The order of the centers of a class changes nothing but the order of their gradients."""
    order = np.argsort(rng.random(inputs["w"].shape[:2]), axis=1)[:, :, None]

    def ordered(name: str, part: Array) -> Array:
        return np.take_along_axis(part, order, axis=1) if name == "w" else part

    same(code, inputs, inputs | {"w": ordered("w", inputs["w"])}, ordered)


def axes(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Axes that are swapped and reflected turn the gradients with them."""
    d = next(iter(inputs.values())).shape[1]
    order, signs = rng.permutation(d), rng.choice([-1.0, 1.0], d)

    def turned(name: str, part: NDArray[Any]) -> NDArray[Any]:
        return part[..., order] * signs if part.ndim > 1 else part

    same(code, inputs, {name: turned(name, entry) for name, entry in inputs.items()}, turned)


def lengths_of_x(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The length of an embedding divides its gradient, and changes nothing else."""
    _lengths(code, inputs, "x", rng)


def lengths_of_w(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The length of a class weight divides its gradient, and changes nothing else."""
    _lengths(code, inputs, "w", rng)


def _lengths(code: Code, inputs: Inputs, field: str, rng: np.random.Generator) -> None:
    powers = 2.0 ** rng.integers(-3, 4, (*inputs[field].shape[:-1], 1))
    changed = inputs | {field: inputs[field] * powers}
    same(code, inputs, changed, lambda name, part: part / powers if name == field else part)


def shift(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The same number added to all logits of a sample changes nothing."""
    for name in (name for name in ("z", "target") if name in inputs):
        far = rng.choice([-FAR, 0.0, FAR])
        z = code.on_grid(inputs[name], np.abs(inputs[name]).max() + FAR) if far else inputs[name]
        numbers = far or rng.integers(-4, 5, (len(z), 1))
        same(code, inputs | {name: z}, inputs | {name: z + numbers})


def vector_for_all_classes(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The same vector added to every class, and a number to every bias, changes neither the value nor a gradient."""
    changed = inputs | {"w": inputs["w"] + rng.integers(-2, 3, inputs["w"].shape[1])}
    if "b" in inputs:
        changed["b"] = inputs["b"] + rng.integers(-4, 5)
    same(code, inputs, changed)


def translation(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The same vector added to all embeddings changes neither the value nor a gradient."""
    vector = rng.integers(-2, 3, inputs["anchor"].shape[1])
    same(code, inputs, each_sample(inputs, lambda entry: entry + vector))


def masked(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """A logit of -inf counts as one that is far below the others, and has no gradient."""
    z, y = inputs["z"], inputs["y"]
    masks = rng.random(z.shape) < rng.choice([0.3, 0.7, 1.0])
    masks[np.arange(len(y)), y] = False
    lower = np.where(masks, z.min() - 2.0 * FAR, z)  # not even float64 has an exponential of this
    changed = inputs | {"z": np.where(masks, -np.inf, z)}
    same(code, inputs | {"z": code.rounded(lower)}, changed)
    gradient = code.call(changed)[0].get("z", np.zeros(z.shape))
    ask(not gradient[masks].any(), "the gradient of logits of -inf is not 0, for", changed)


def far_below(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """A label's logit far below the others raises the loss by as much as it is lowered."""
    smoothing, classes = cross_entropy_of(code.loss).label_smoothing, inputs["z"].shape[1]
    weights = np.ones(classes) if code.weights is None else code.weights
    rises = weights[inputs["y"]] * (1.0 - smoothing + smoothing / classes) * GAP
    mean = rises.sum() / weights[inputs["y"]].sum()
    rise = {"none": rises, "sum": rises.sum(), "mean": mean}[code.loss.reduction]
    lowered = [_target_apart(code, inputs, gap) for gap in (-GAP, -2.0 * GAP)]
    before, after = map(code.run, lowered)
    # The probability of a label is e^-gap in one result, and 0 in the other.
    residual = classes * np.abs(weights).max() * np.exp(-GAP)
    raised = Results(
        before.parts | {"value": before.parts["value"] + rise},
        {name: part + residual for name, part in before.allowed.items()},
    )
    compare(raised, after, lambda name, part: part, lowered[1])


def far_above(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """A label's logit far above the others leaves no loss and no gradient."""
    sure = _target_apart(code, inputs, GAP)
    parts, allowed = code.run(sure)
    true = code.truth(sure).parts
    for name, part in parts.items():
        within(f"{named(name)} is not 0", part, allowed[name] + np.abs(true[name]), sure)


def _target_apart(code: Code, inputs: Inputs, gap: float) -> Inputs:
    """Set the logit of each label to the largest of the others plus the gap."""
    each, y = np.arange(len(inputs["y"])), inputs["y"]
    z = code.on_grid(inputs["z"], np.abs(inputs["z"]).max() + 2.0 * GAP)
    z[each, y] = -np.inf
    z[each, y] = z.max(axis=1) + gap
    return inputs | {"z": z}


def upstream(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Gradients are proportional to the upstream gradient, sample by sample."""
    factors = rng.choice([-2.0, 0.5, 4.0], code.shape(inputs))
    _, output = code.call(inputs, factors)
    if not np.array_equal(output.upstream, factors):
        raise UntriedError("the code returns gradients itself, for an upstream gradient of 1", True)
    one, part, rest = code.run(inputs), code.run(inputs, factors), code.run(inputs, 1.0 - factors)
    for name in one.parts.keys() - {"value"}:
        off = part.parts[name] + rest.parts[name] - one.parts[name]
        allowed = part.allowed[name] + rest.allowed[name] + one.allowed[name]
        within(f"{named(name)} is not linear in the upstream gradient", off, allowed, inputs)
        if name not in PER_CLASS:
            each = factors[..., None] if one.parts[name].ndim > 1 else factors
            off = part.parts[name] - each * one.parts[name]
            allowed = part.allowed[name] + np.abs(each) * one.allowed[name]
            within(f"{named(name)} is not proportional to the upstream gradient", off, allowed, inputs)


def samples_twice(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """Every sample twice leaves a mean as it was and doubles a sum."""
    mean = code.loss.reduction == "mean"
    changed = each_sample(inputs, lambda entry: np.concatenate([entry, entry]))

    def expected(name: str, part: Array) -> Array:
        if by_sample(name, part):
            return np.concatenate([part, part]) * (0.5 if mean else 1.0)
        return part if mean else 2.0 * part

    same(code, inputs, changed, expected, locked(2 * number_of_samples(inputs)[0]))


def samples_alone(code: Code, inputs: Inputs, rng: np.random.Generator) -> None:
    """The value and the gradients of a batch are those of its samples, each alone."""
    (n,) = number_of_samples(inputs)
    shares = np.ones(n)
    if code.loss.reduction == "mean":
        if code.weights is not None:
            inputs = inputs | {"y": with_a_mean(code.loss, that_count(code, inputs["y"]))}
            shares = code.weights[inputs["y"]]
        shares = shares / shares.sum()
    batch = code.run(inputs)
    alone = [code.run(each_sample(inputs, itemgetter(slice(k, k + 1))), excuse=locked(1)) for k in range(n)]

    summed = Results(
        together([one.parts for one in alone], shares), together([one.allowed for one in alone], np.abs(shares))
    )
    compare(summed, batch, lambda name, part: part, inputs, "is not that of the samples alone")
