"""Hold foreign code to a loss: cases, budgets, and a report that says what is wrong.

A quantity, the value or one gradient, passes a case if no entry of it is further from the truth than its budget. An
entry whose budget is as large as the largest of its row cannot be decided, and counts neither way. A gradient of
nothing but zeros is refused whatever the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from refloss.error_free import Array
from refloss.testing.adapters import Found, call, read
from refloss.testing.budgets import SMALLEST, arithmetic, bounds, truth
from refloss.testing.diagnosis import diagnose
from refloss.testing.hard_cases import GROUPS, Case, Shape
from refloss.testing.hard_cases import cases as named_cases

SHOWN = 6  # failing cases that a report describes; it names the others


class Quantity(NamedTuple):
    """How the value, or one gradient, compares in one case."""

    name: str
    """The value, or "d" and the input's name."""
    share: float
    """The largest error over its budget; infinite for NaN, infinities, zeros and wrong shapes."""
    where: tuple[int, ...]
    """Where that is."""
    got: float
    """What was found there."""
    expected: float
    """What is true there."""
    allowed: float
    """The budget there."""
    decided: int
    """How many entries could be decided."""
    undecided: int
    """How many could not."""
    complaint: str
    """What is wrong beside numbers: "3 NaN", "all zero", a shape; empty if nothing is."""

    @property
    def passed(self) -> bool:
        """Whether every decided entry is within its budget."""
        return self.share <= 1.0


class Result(NamedTuple):
    """One case."""

    case: Case
    quantities: tuple[Quantity, ...]
    found: Found | None
    error: str
    """The exception, if one was raised."""
    xfail: str
    """Why it was expected to fail, if it was."""

    @property
    def conforms(self) -> bool:
        """Whether every quantity passed."""
        return not self.error and all(quantity.passed for quantity in self.quantities)

    @property
    def status(self) -> str:
        """One of passed, failed, undecided, refused, xfailed and xpassed."""
        if self.xfail:
            return "xpassed" if self.conforms else "xfailed"
        if self.error and "refusal" in self.case.accepts:
            return "refused"
        if not self.conforms:
            return "failed"
        return "passed" if any(quantity.decided for quantity in self.quantities) else "undecided"


class Report(NamedTuple):
    """What a check found."""

    loss: Any
    dtype: str
    framework: str
    results: tuple[Result, ...]
    dead: tuple[str, ...]
    """Ids that were expected to fail and are no cases."""
    diagnoses: tuple[str, ...]
    """What would explain the failures."""

    @property
    def verdicts(self) -> dict[str, str]:
        """Of each group: "passed", "failed" or "undecided"; groups without cases are left out."""
        found = {}
        for group in GROUPS:
            of_group = {result.status for result in self.results if result.case.group == group}
            if of_group:
                bad = of_group & {"failed", "xpassed"}
                found[group] = "failed" if bad else "passed" if of_group & {"passed", "xfailed"} else "undecided"
        return found

    @property
    def passed(self) -> bool:
        """Whether nothing failed in the groups ordinary, boundary and hard, and no expected failure was wrong."""
        verdicts = self.verdicts
        xpassed = any(result.status == "xpassed" for result in self.results)
        return not self.dead and not xpassed and all(verdicts.get(group) != "failed" for group in GROUPS[:3])

    def __str__(self) -> str:
        """Say it all, the worst entry of each failing quantity included."""
        lines = [f"{self.loss} in {self.dtype}, {self.framework}: {'conforms' if self.passed else 'does not conform'}"]
        lines += [f"  {group}: {verdict}" for group, verdict in self.verdicts.items()]
        lines += [f"  expected to fail, but there is no case {name!r}" for name in self.dead]
        entries = [quantity for result in self.results for quantity in result.quantities]
        undecided = sum(quantity.undecided for quantity in entries)
        if undecided:
            whole = undecided + sum(quantity.decided for quantity in entries)
            lines.append(f"  undecided: {undecided} of {whole} numbers, whose budgets are as large as their rows")
        for status, said in (("refused", "refused, as it may be"), ("xfailed", "failed, as expected")):
            some = [result.case.id for result in self.results if result.status == status]
            lines += [f"  {said}: {', '.join(some)}"] if some else []
        failed = [result for result in self.results if result.status in ("failed", "xpassed")]
        for result in failed[:SHOWN]:
            lines.append(f"{result.status}: {result.case.id} ({result.case.reason})")
            lines += [f"  raised {result.error}"] if result.error else []
            lines += [f"  {_said(quantity)}" for quantity in result.quantities if not quantity.passed]
        if len(failed) > SHOWN:
            lines.append(f"and {len(failed) - SHOWN} more: {', '.join(result.case.id for result in failed[SHOWN:])}")
        lines += [f"diagnosis: {sentence}" for sentence in self.diagnoses]
        return "\n".join(lines)


def _said(quantity: Quantity) -> str:
    if quantity.complaint:
        return f"{quantity.name}: {quantity.complaint}"
    at = list(quantity.where) if quantity.where else ""
    return (
        f"{quantity.name}{at}: got {quantity.got:.9g}, expected {quantity.expected:.9g}, off by "
        f"{abs(quantity.got - quantity.expected):.2g}, allowed {quantity.allowed:.2g}: {quantity.share:.3g} times"
    )


def check(
    fn: Callable[..., Any],
    loss: Any,
    *,
    framework: str = "numpy",
    dtype: str = "float32",
    device: Any = None,
    shapes: Sequence[Sequence[int]] = (Shape(),),
    groups: Sequence[str] = GROUPS,
    standard: str = "working",
    xfail: Mapping[str, str] | None = None,
    seed: int = 0,
    gradients: bool = True,
    cases: Sequence[Case] | None = None,
    track: Callable[[Sequence[Case]], Iterable[Case]] = iter,
) -> Report:
    """Run foreign code on the cases of a loss and report.

    Parameters
    ----------
    fn
        ``fn(x, w, y)``, ``fn(z, y)`` or ``fn(anchor, positive, negative)``. Returns the value, or a tuple of the value
        and the gradients of its inputs.
    loss
        The loss of refloss it is to be.
    framework
        "numpy", "torch" or "jax": what fn takes. Values of torch and jax are differentiated.
    dtype
        "float16", "bfloat16", "float32" or "float64".
    device
        Where torch tensors are made.
    shapes
        (N, C, D) of the cases.
    groups
        Which groups of cases to run.
    standard
        "working", what a good framework gives, or "relative", which asks for tiny losses too; see `budget`.
    xfail
        Ids of cases that are known to fail, with the reason. One that passes, or that does not exist, fails the check.
    seed
        Of the random numbers.
    gradients
        Whether gradients are looked at.
    cases
        Cases to run instead of those that shapes, seed and groups would give: one at a time from a parametrised test.
    track
        Goes through the cases: for a progress bar.

    Returns
    -------
    Report
        Its `passed` covers the groups ordinary, boundary and hard; printed, it says what is wrong.
    """
    known = dict(xfail or {})
    made = named_cases(loss, dtype, shapes, seed) if cases is None else cases
    chosen = [case for case in made if case.group in groups]
    above = np.random.default_rng(seed)

    def run(case: Case) -> Result:
        upstream = above.normal(size=1 << 12)
        try:
            found = call(fn, framework, dtype, device, case.inputs, upstream)
        except Exception as error:  # whatever foreign code raises is a result
            return Result(case, (), None, f"{type(error).__name__}: {error}", known.get(case.id, ""))
        if not gradients:
            found = found._replace(gradients=None)
        return Result(case, *_compared(loss, case, found, dtype, standard), "", known.get(case.id, ""))

    results = tuple(map(run, track(chosen)))
    dead = tuple(sorted(set(known) - {case.id for case in chosen}))
    seen = {
        status: [(result.case, result.found) for result in results if result.found and result.status == status]
        for status in ("failed", "passed")
    }
    sentences = diagnose(loss, seen["failed"], seen["passed"], dtype)
    return Report(loss, dtype, framework, results, dead, tuple(sentences))


def assert_conforms(fn: Callable[..., Any], loss: Any, **settings: Any) -> None:
    """Raise AssertionError with the report if foreign code does not conform; settings are those of `check`."""
    report = check(fn, loss, **settings)
    if not report.passed:
        raise AssertionError(str(report))


def assert_close(
    loss: Any,
    *inputs: Any,
    dtype: str,
    value: Any = None,
    upstream: Any = None,
    standard: str = "working",
    **gradients: Any,
) -> None:
    """Hold results that one already has to a loss, each entry to its budget.

    Parameters
    ----------
    loss
        The loss of refloss they are to be of.
    inputs
        What it is called with: arrays or tensors.
    dtype
        What the results were computed in.
    value
        The value, if it is to be looked at.
    upstream
        The gradient of what comes after that the gradients belong to; 1 if left out.
    standard
        As in `check`.
    gradients
        ``grad_x=``, ``grad_w=`` and so on, named after the inputs.

    Raises
    ------
    AssertionError
        With the worst entry of each array that is over its budget.
    TypeError
        For a gradient that the loss does not have.
    """
    arrays = tuple(read(entry) if np.asarray(entry).dtype.kind not in "iu" else np.asarray(entry) for entry in inputs)
    above = None if upstream is None else read(upstream)
    right, grad = truth(loss, arrays, above)
    allowed, errors = bounds(loss, arrays, arithmetic(dtype, standard=standard), above)
    given = {"value": (value, right, allowed)}
    for name, found in gradients.items():
        field = name.removeprefix("grad_")
        if field not in errors:
            raise TypeError(f"{name}: expected one of {['grad_' + entry for entry in errors]}")
        given["d" + field] = (found, getattr(grad, field), errors[field])
    quantities = [
        compare(name, read(found), ours, bound) for name, (found, ours, bound) in given.items() if found is not None
    ]
    failed = [quantity for quantity in quantities if not quantity.passed]
    if failed:
        raise AssertionError("\n".join([f"{loss} in {dtype}", *(f"  {_said(quantity)}" for quantity in failed)]))


def _compared(
    loss: Any, case: Case, found: Found, dtype: str, standard: str
) -> tuple[tuple[Quantity, ...], Found | None]:
    """Every quantity; and what was found, if its shape lets it be looked at further."""
    if "truth" not in case.accepts:
        parts = {"value": found.value} | {f"gradient {i}": part for i, part in enumerate(found.gradients or ())}
        return tuple(_finite(name, part) for name, part in parts.items()), found
    shape = np.shape(loss(*case.inputs))
    if found.value.shape != shape:
        hint = "" if found.value.ndim == len(shape) else ": is reduction='none' on one side only?"
        return (_refused("value", f"shape {found.value.shape}, expected {shape}{hint}"),), None
    right, grad = truth(loss, case.inputs, found.upstream)
    allowed, errors = bounds(loss, case.inputs, arithmetic(dtype, standard=standard), found.upstream)
    quantities = [compare("value", found.value, right, allowed)]
    for name, theirs in zip(grad._fields, found.gradients or (), strict=False):
        quantities.append(compare("d" + name, theirs, getattr(grad, name), errors[name], SMALLEST[dtype]))
    return tuple(quantities), found


def _refused(name: str, complaint: str) -> Quantity:
    return Quantity(name, np.inf, (), np.nan, np.nan, np.nan, 0, 0, complaint)


def _finite(name: str, got: Array) -> Quantity:
    """Ask for nothing but numbers."""
    wrong = got.size - int(np.count_nonzero(np.isfinite(got)))
    if wrong:
        return _refused(name, f"{wrong} of {got.size} are NaN or infinite")
    return Quantity(name, 0.0, (), np.nan, np.nan, np.nan, got.size, 0, "")


def compare(name: str, got: Array, expected: Any, allowed: Array, smallest: float = 0.0) -> Quantity:
    """Hold one array to another within a budget; all zero is right only where the dtype has no numbers so small."""
    ours = np.asarray(expected, dtype=np.float64)
    if got.shape != ours.shape:
        hint = ": transposed?" if got.shape == ours.shape[::-1] else ""
        return _refused(name, f"shape {got.shape}, expected {ours.shape}{hint}")
    wrong = int(np.count_nonzero(~np.isfinite(got) & np.isfinite(ours)))
    if wrong:
        return _refused(name, f"{wrong} of {got.size} are NaN or infinite")
    size = np.abs(ours).max(axis=-1, keepdims=True) if ours.ndim else np.abs(ours)
    if name != "value" and not got.any() and np.abs(ours).max() > smallest:
        return _refused(name, "all zero")
    decided = np.broadcast_to(allowed < size, ours.shape)
    shares = np.where(decided, np.abs(got - ours) / allowed, 0.0)
    at = np.unravel_index(int(np.argmax(shares)), shares.shape)
    where = tuple(int(i) for i in at)
    count = int(np.count_nonzero(decided))
    return Quantity(
        name,
        float(shares[at]),
        where,
        float(got[at]),
        float(ours[at]),
        float(allowed[at]),
        count,
        ours.size - count,
        "",
    )
