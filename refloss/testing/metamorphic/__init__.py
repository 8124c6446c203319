"""Properties that need no expected value: relations between results of the same code.

A known change of the inputs has to change the results in a known way, and other relations hold within one result. The
two sides of a relation may differ by the sum of their budgets. Hypothesis searches for inputs that break a property,
and simplifies them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from refloss.engines.spec import MARGINS
from refloss.formats import dtype_name
from refloss.messages import shown
from refloss.testing.adapters import ready
from refloss.testing.budgets import arithmetic
from refloss.testing.hard_cases import Shape
from refloss.testing.metamorphic.applicable import properties_of
from refloss.testing.metamorphic.code import Code, named
from refloss.testing.metamorphic.labels import labels_that_count
from refloss.testing.metamorphic.result import Properties
from refloss.testing.metamorphic.search import Outcome, modules_with_file, try_property
from refloss.testing.metamorphic.strategies import strategy
from refloss.testing.options import (
    as_flag,
    as_function,
    given_margins,
    is_shape,
    is_whole,
    takes_bias,
    wanted_gradients,
    writable_inputs,
)
from refloss.testing.signatures import (
    Loss,
    as_loss,
    class_weight_of,
    fields_of,
    has_labels,
    ignore_index_of,
    inputs_of,
    may_have_bias,
)

__all__ = ["Properties", "properties"]

WRITES = "Inputs are left as they are"
"""Title of the property that no call changes an input."""


def properties(
    fn: Callable[..., Any],
    loss: Loss,
    framework: str = "numpy",
    *,
    dtype: Any = "float32",
    device: Any = None,
    shape: Sequence[int] = (3, 9, 5),
    hard: bool = True,
    examples: int = 20,
    standard: str = "working",
    accumulate: Any = None,
    matmul: Any = None,
    ignored: bool = True,
    gradients: bool | Sequence[str] = True,
    bias: bool | None = None,
    margins: bool | None = None,
    overwrites: Sequence[str] = (),
) -> Properties:
    """Search for inputs on which foreign code contradicts itself; no expected value is needed.

    Code that has every property may still be another loss, with another scale or margin: use `check` for that.

    Parameters
    ----------
    fn
        As for `check`.
    loss
        The loss of refloss that it implements, or its class for the default settings. It decides which properties hold,
        and how far rounding may break them.
    framework
        "numpy", "torch" or "jax": the framework whose arrays fn takes.
    dtype
        "float16", "bfloat16", "float32" or "float64", or such a dtype of NumPy or a framework.
    device
        Device of the inputs.
    shape
        (N, C, D) of the inputs; C is the number of class weights if the loss has any. Some properties also call fn with
        other numbers of samples: 1, 2 N, half of N.
    hard
        Whether inputs may be extreme: embeddings along a class or its opposite, logits that are far apart, points that
        coincide.
    examples
        Number of inputs to try for each property.
    standard
        As for `check`: how accurate the code has to be.
    accumulate, matmul
        As in `budget`.
    ignored
        False for code that has no ignored labels.
    gradients
        False for code that returns only a value; or names of inputs, if only those gradients have to be returned.
    bias
        Whether a linear head, SphereFace2 or UniFace takes a bias; if left out, whether the fourth argument of fn is
        called ``b`` or ``bias``, or has no default.
    margins
        Whether the code takes margins, one per sample, as its fourth argument; if left out, as for `check`. Their
        gradient is looked at where ``gradients`` names it.
    overwrites
        Names of inputs, "y" among them, that the code may write into.

    Returns
    -------
    Properties
        `passed` if every property holds; printed, it shows the simplest inputs that break one. A property is untried if
        fn takes no other number of samples than N, returns no gradient, or refuses ignored labels. The first two leave
        the result undecided, and so does a result that was never larger than its budget.

    Raises
    ------
    ValueError
        For an argument out of range, naming it.
    ModuleNotFoundError
        Where hypothesis is not installed.
    """
    import_module("hypothesis")
    loss, name = as_loss(loss), dtype_name(dtype)
    a = arithmetic(name, accumulate, matmul, standard)
    fn, hard, ignored = as_function("fn", fn), as_flag("hard", hard), as_flag("ignored", ignored)
    ready(framework, name, device)
    if not is_whole(examples):
        raise ValueError(f"examples: expected a positive integer; got {shown(examples)}")
    size, names, with_bias = _size(loss, shape), inputs_of(loss), takes_bias(fn, loss, bias)
    if (may_have_bias(loss) and not with_bias) or ("m" in names and not given_margins(fn, loss, margins)[0]):
        names = names[:-1]
    if gradients is True:
        gradients = [name for name in fields_of(loss) if name != MARGINS.name]
    wanted = tuple(entry for entry in wanted_gradients(loss, gradients) if entry in names)
    allowed = writable_inputs(loss, overwrites)
    code = Code(fn, loss, framework, name, device, a, wanted, {}, set(), set(), {})
    inputs = strategy(code, size, hard, names)
    held, broken, untried, undecided = [], {}, {}, []
    interrupted = False
    with modules_with_file():
        for relation in properties_of(code, size, ignored and ignore_index_of(loss) is not None):
            title = (relation.__doc__ or "").splitlines()[0].rstrip(".")
            outcome = Outcome(untried="interrupted") if interrupted else try_property(code, relation, inputs, examples)
            if outcome.broken:
                broken[title] = outcome.broken
                interrupted = outcome.interrupted
            elif outcome.untried:
                untried[title] = outcome.untried
                undecided += [] if outcome.accepted else [title]
            else:
                held.append(title)
    written = [example for entry, example in code.written.items() if entry not in allowed]
    if written:
        broken[WRITES] = "\n    ".join(written)
    elif code.cache:
        held.append(WRITES)
    parts = [part for part in ("value", *wanted) if part in code.doubtful - code.decided]
    undecided += [f"{named(part)} was never larger than its budget" for part in parts]
    return Properties(loss, name, framework, tuple(held), broken, untried, tuple(undecided))


def _size(loss: Loss, shape: Any) -> Shape:
    """Return a shape with as many classes as the loss has class weights."""
    if not is_shape(shape):
        raise ValueError(f"shape: expected (N, C, D), three positive integers; got {shown(shape)}")
    size = Shape(*map(int, shape))
    if not has_labels(loss):
        return size
    weights = class_weight_of(loss)
    size = size if weights is None else size._replace(c=len(weights))
    if not len(labels_that_count(loss, size.c)):
        raise ValueError(f"loss: expected a class that is not ignored and has no weight of 0; got {loss!r}")
    return size
