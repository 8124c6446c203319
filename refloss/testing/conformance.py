"""Compare foreign code with a loss: cases, budgets, and a report that says what is wrong.

A quantity, the value or one gradient, passes a case if no entry of it is further from the truth than its budget. An
entry whose budget is as large as the largest of its row is not decided: within its budget it counts neither way, and a
report in which some quantity was never decided does not pass. Zeros that hold by the structure of the loss (of ignored
rows, of margins that are kept) are known exactly. Where there is no finite truth, there is still an expectation: the
mean of nothing is NaN or 0, and an infinite loss is infinite.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from unittest import SkipTest

import numpy as np

from refloss.engines.call import call_of
from refloss.error_free import Array
from refloss.formats import FORMATS, dtype_name, rounded
from refloss.inputs import upstream_gradient
from refloss.messages import shown
from refloss.testing.adapters import Found, call, read, ready
from refloss.testing.adapters.results import as_array
from refloss.testing.budgets import arithmetic, as_loss, bounds, ladder, truth
from refloss.testing.diagnosis import diagnose
from refloss.testing.errors import Arithmetic
from refloss.testing.hard_cases import FIELDS, GROUPS, INPUTS, LABELS, Case, counts_nothing
from refloss.testing.hard_cases import cases as named_cases
from refloss.testing.options import as_flag, as_function, as_list, as_numbers, as_reasons, as_seed, some_names
from refloss.testing.report import ENDS, UNDECIDED, Conformance, Quantity, Report, Result, refused


def check(
    fn: Callable[..., Any],
    loss: Any,
    *,
    framework: str = "numpy",
    dtype: Any = "float32",
    device: Any = None,
    shapes: Any = None,
    groups: Sequence[str] = GROUPS,
    standard: str = "working",
    accumulate: Any = None,
    matmul: Any = None,
    gradients: bool | Sequence[str] = True,
    ignored: bool = True,
    soft: bool = False,
    bias: bool | None = None,
    overwrites: Sequence[str] = (),
    xfail: Mapping[str, str] | None = None,
    seed: int = 0,
    cases: Sequence[Case] | None = None,
    track: Callable[[Sequence[Case]], Iterable[Case]] = iter,
) -> Report:
    """Run foreign code on the cases of a loss and report.

    Parameters
    ----------
    fn
        ``fn(x, w, y)``, ``fn(z, y)`` or ``fn(anchor, positive, negative)``; a linear head may take a bias as its fourth
        argument. Returns the value, or the value and the gradients of its inputs: ``(value, dx, dw)``,
        ``(value, (dx, dw))``, ``(value, {"x": dx, "w": dw})`` or a dict with "loss" or "value".
    loss
        The loss of refloss it is to be, or its class for the default settings.
    framework
        "numpy", "torch" or "jax": what fn takes. Values of torch and jax are differentiated.
    dtype
        "float16", "bfloat16", "float32" or "float64", or such a dtype of NumPy, ml_dtypes, PyTorch or JAX.
    device
        Where inputs are put.
    shapes
        (N, C, D) of the cases, one or several; `refloss.testing.hard_cases.SHAPES` if left out.
    groups
        Which groups of cases to run.
    standard
        "working", "stable", "mixed", "fused" or "relative"; see `budget`.
    accumulate, matmul
        As in `budget`.
    gradients
        Whether gradients are looked at, or the names of those that the code has.
    ignored
        False for code that has no ignored labels. A loss with ignore_index=None has none either.
    soft
        Whether the code takes probabilities for labels.
    bias
        Whether a linear head takes a bias; if left out, whether the signature of fn takes four arguments.
    overwrites
        Names of inputs, "y" among them, that the code may write into.
    xfail
        Cases that are known to fail, with the reason: ids, or names without the shape such as "boundary-ignored", of
        which at least one case has to fail. One that passes, or that does not exist, fails the check.
    seed
        Of the random numbers.
    cases
        Cases to run instead of those that shapes, seed and groups would give: one at a time from a parametrised test,
        or your own. Numbers are rounded to the dtype.
    track
        Goes through the cases: for a progress bar.

    Returns
    -------
    Report
        True if the code conforms. Its verdict covers the groups ordinary, boundary and hard (if only "range" was asked
        for, that); printed, it says what is wrong.

    Raises
    ------
    ValueError, TypeError
        For arguments that are none of those, or leave nothing to run, naming the argument.
    """
    loss, dtype = as_loss(loss), dtype_name(dtype)
    wanted, writable = wanted_gradients(loss, gradients), writable_inputs(loss, overwrites)
    judge = _Judge(loss, dtype, standard, accumulate, matmul, wanted, writable)
    fn, track, seed = as_function("fn", fn), as_function("track", track), as_seed("seed", seed)
    ready(framework, dtype, device)
    groups = some_names("groups", groups, GROUPS, least=1)
    bias, soft, ignored = takes_bias(fn, loss, bias), as_flag("soft", soft), as_flag("ignored", ignored)
    known = (
        named_cases(loss, dtype, shapes, seed, bias=bias, soft=soft, ignored=ignored)
        if cases is None
        else _own_cases(loss, cases, dtype)
    )
    chosen = [case for case in known if case.group in groups]
    if not chosen:
        raise ValueError(f"cases: expected at least one in the groups {', '.join(groups)}; got none")
    expected = _Expected(xfail, known, loss, partial=cases is not None)

    def run(case: Case) -> Found:
        upstream = np.random.default_rng([seed, zlib.crc32(case.id.encode())]).normal(size=1 << 12)
        fields = judge.fields(case)
        by = tuple(name for name in fields if name in wanted)
        return call(fn, framework, dtype, device, case.inputs, upstream, fields, LABELS.get(loss.spec.head), by)

    results: list[Result] = []
    notes: list[str] = []
    for case in _tracked(track, chosen):
        found, error = _tried(run, case)
        results.append(Result(case, judge.quantities(case, found) if found else (), found, error, ""))
        if error.startswith(f"{ENDS} KeyboardInterrupt"):
            notes.append("interrupted: the cases that follow were not run")
            break
    if not results:
        raise ValueError("track: expected an iterator over the cases; it gave none")
    results = judge.with_missing_gradients(results)
    if not notes:
        results[0], notes = _twice(run, results[0], judge)
    results = expected.marked(results)
    diagnoses = _diagnoses(judge, results, changing=bool(notes))
    return Report(
        loss,
        dtype,
        framework,
        tuple(results),
        expected.dead,
        diagnoses,
        (*notes, *judge.notes(results, framework)),
        judge.names(chosen),
        standard,
        judge.meets(results),
        "" if device is None else str(device),
        expected.stale(results),
    )


def assert_conforms(fn: Callable[..., Any], loss: Any, **settings: Any) -> None:
    """Raise AssertionError with the report if foreign code does not conform; settings are those of `check`.

    A report that is undecided is no pass either. Where single cases were given with ``cases=``, and their budgets leave
    nothing to decide, or the code may refuse them and does, it raises `unittest.SkipTest`: such a test is skipped.
    """
    report = check(fn, loss, **settings)
    single = settings.get("cases") is not None
    if report.state == UNDECIDED and single and (report.looked_at or all(result.refused for result in report.results)):
        raise SkipTest(str(report))
    if not report.passed:
        raise AssertionError(str(report))


def conforms(
    fn: Callable[..., Any],
    loss: Any,
    *,
    dtypes: Sequence[Any] = ("float32", "float64"),
    devices: Sequence[Any] = (None,),
    **settings: Any,
) -> Conformance:
    """Check foreign code in several dtypes, and on several devices.

    Parameters
    ----------
    fn, loss
        As in `check`.
    dtypes
        Each as in `check`.
    devices
        Each as in `check`.
    settings
        The other settings of `check`.

    Returns
    -------
    Conformance
        True if all of them conform; printed, a table.
    """
    dtypes, devices = as_list("dtypes", dtypes), as_list("devices", devices)
    names = [dtype_name(dtype, "dtypes") for dtype in dtypes]
    reports = {}
    for name, dtype in zip(names, dtypes, strict=True):
        for device in devices:
            report = check(fn, loss, dtype=dtype, device=device, **settings)
            reports[name, report.device] = report
    return Conformance(reports)


def assert_close(
    loss: Any,
    *inputs: Any,
    dtype: Any,
    value: Any = None,
    upstream: Any = None,
    standard: str = "working",
    accumulate: Any = None,
    matmul: Any = None,
    **gradients: Any,
) -> None:
    """Compare results that one already has with a loss, each entry within its budget.

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
    standard, accumulate, matmul
        As in `check`.
    gradients
        ``grad_x=``, ``grad_w=`` and so on, named after the inputs.

    Raises
    ------
    AssertionError
        With the worst entry of each array that is over its budget.
    ValueError
        If there is nothing to compare.
    TypeError
        For a gradient that the loss does not have.
    """
    loss, dtype = as_loss(loss), dtype_name(dtype)
    named = {name: entry for name, entry in gradients.items() if entry is not None}
    fields = FIELDS[loss.spec.head]
    for name in gradients:
        if name.removeprefix("grad_") not in fields:
            raise TypeError(f"{name}: expected one of {', '.join(f'grad_{field}' for field in fields)}")
    if value is None and not named:
        raise ValueError("value: expected it or a gradient to compare; got neither")
    places = INPUTS[loss.spec.head]
    arrays = tuple(_as_input(places[i] if i < len(places) else "inputs", entry) for i, entry in enumerate(inputs))
    judge = _Judge(loss, dtype, standard, accumulate, matmul, fields, ())
    case = Case("given", "ordinary", (), "", arrays)
    theirs = {name: as_numbers(name, entry, read) for name, entry in named.items()}
    given = tuple(theirs.get(f"grad_{name}") for name in fields)
    shape = call_of(loss, arrays).samples
    upstream_gradient(upstream, loss.reduction, shape)  # looked over
    incoming = None if upstream is None else read(upstream)
    found = Found(np.zeros(()) if value is None else as_numbers("value", value, read), given, incoming)
    compared = judge.compared(case, found, judge.arithmetic)
    wanted = {f"d{name.removeprefix('grad_')}" for name in named} | ({"value"} if value is not None else set())
    failed = [quantity for quantity in compared if quantity.name in wanted and not quantity.passed]
    if failed:
        inexact = [f"input {i}" for i, a in enumerate(arrays) if a.dtype.kind == "f" and (rounded(a, dtype) != a).any()]
        note = f"{', '.join(inexact)}: holds numbers that {dtype} does not; is that what the code was given?"
        raise AssertionError(
            "\n".join(
                [f"{loss} in {dtype}", *(f"  {quantity}" for quantity in failed), *([f"  {note}"] if inexact else [])]
            )
        )


# ------------------------------------------------------------------------------------------------------------ arguments


def wanted_gradients(loss: Any, gradients: bool | Sequence[str]) -> tuple[str, ...]:
    """Names of the gradients that have to come."""
    fields = FIELDS[loss.spec.head]
    if isinstance(gradients, bool):
        return fields if gradients else ()
    return some_names("gradients", gradients, fields, "True, False or ")


def writable_inputs(loss: Any, overwrites: Sequence[str]) -> tuple[str, ...]:
    """Names of the inputs that the code may write into."""
    return some_names("overwrites", overwrites, INPUTS[loss.spec.head])


def takes_bias(fn: Any, loss: Any, said: bool | None) -> bool:
    """Whether code takes a bias: as was said, or if nothing was, as far as its signature tells."""
    said = None if said is None else as_flag("bias", said)
    if loss.spec.head != "linear" or said is not None:
        return loss.spec.head == "linear" and bool(said)
    try:
        signature = inspect.signature(fn)
        signature.bind(*INPUTS["linear"])
    except (TypeError, ValueError):
        return False
    return not any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values())


def _as_input(option: str, entry: Any) -> Any:
    """An array that somebody made: labels as they are, everything else in float64."""
    array = as_numbers(option, entry, as_array)
    return array.astype(np.int64) if array.dtype.kind in "iu" else array.astype(np.float64)


def _own_cases(loss: Any, cases: Any, dtype: str) -> list[Case]:
    if isinstance(cases, Case) or not isinstance(cases, Iterable):
        raise TypeError(f"cases: expected cases as `refloss.testing.Case`, in a list; got {shown(cases)}")
    return [_own(loss, case, dtype) for case in cases]


def _own(loss: Any, case: Any, dtype: str) -> Case:
    """A case with numbers of the dtype; labels stay as they are."""
    if not isinstance(case, Case) or not isinstance(case.id, str):
        raise TypeError(f"cases: expected cases as `refloss.testing.Case`, each with an id; got {shown(case)}")
    group: Any = case.group
    if not isinstance(group, str) or group not in GROUPS:
        came = f"{shown(group)} in {case.id!r}"
        raise ValueError(f"cases: expected a group of {', '.join(map(repr, GROUPS))}; got {came}")
    label = LABELS.get(loss.spec.head)
    arrays = [_as_input(f"cases: {case.id!r}", entry) for entry in case.inputs]
    with np.errstate(all="ignore"):
        held = [a if i == label else rounded(a, dtype) for i, a in enumerate(arrays)]
    if "truth" in case.accepts:
        try:
            loss(*held)
        except (ValueError, TypeError) as error:
            raise ValueError(f"cases: {case.id!r} is no input of {loss}: {error}") from None
    return case._replace(inputs=tuple(held))


def _tracked(track: Callable[[Sequence[Case]], Iterable[Case]], chosen: Sequence[Case]) -> Iterator[Case]:
    try:
        return iter(track(chosen))
    except TypeError as error:
        came = f"{shown(track)}, which raised {error}"
        raise TypeError(f"track: expected a function that goes through the cases; got {came}") from error


class _Expected:
    """Failures that are expected: by id, or by name without the shape."""

    def __init__(self, xfail: Mapping[str, str] | None, known: Sequence[Case], loss: Any, *, partial: bool) -> None:
        self.reasons = as_reasons("xfail", xfail)
        there = {name for case in known for name in (case.id, case.name)}
        if partial and self.reasons:  # one case at a time: the others exist all the same
            there |= {case.name for soft in (False, True) for case in named_cases(loss, bias=True, soft=soft)}
        shapeless = {name: Case(name, "", (), "", ()).name for name in self.reasons}
        missing = [name for name in self.reasons if name not in there and not (partial and shapeless[name] in there)]
        self.dead = tuple(sorted(missing))

    def marked(self, results: Sequence[Result]) -> list[Result]:
        """Put the reason to each result that may fail; of a name without shape only to those that do."""

        def reason(result: Result) -> str:
            by_name = "" if result.conforms else self.reasons.get(result.case.name, "")
            return self.reasons.get(result.case.id, by_name)

        return [result._replace(xfail=reason(result)) for result in results]

    def stale(self, results: Sequence[Result]) -> tuple[str, ...]:
        """Return names without a shape of which no case failed that ran."""
        ran = {result.case.name for result in results if result.case.id not in self.reasons}
        failed = {result.case.name for result in results if result.xfail}
        return tuple(sorted(name for name in self.reasons if name in ran - failed))


def _tried(run: Callable[[Case], Found], case: Case) -> tuple[Found | None, str]:
    """What foreign code found in a case, or what it raised: whatever it raises is a result.

    What is no Exception would end the program, or skip a test: that is no way of refusing an input, and said first.
    """
    try:
        return run(case), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    except BaseException as error:
        return None, f"{ENDS} {type(error).__name__}: {error}"


def _twice(run: Callable[[Case], Found], first: Result, judge: _Judge) -> tuple[Result, list[str]]:
    """Run a case again after all the others: what differs is noted, and what differs by more than its budget fails."""
    if first.found is None:
        return first, []
    found, error = _tried(run, first.case)
    if found is None:
        return first.with_complaint("value", f"a second call on the same inputs raised {error}"), []
    off, share = judge.difference(first.case, first.found, found)
    if not judge.overwritten(first.case, first.found):
        first = first._replace(quantities=(*first.quantities, *judge.overwritten(first.case, found)))
    if off == 0.0:
        return first, []
    said = f"two calls on the same inputs differ by {off:.2g}: results are not deterministic"
    if share <= 1.0:
        return first, [said]
    complaint = f"two calls on the same inputs differ by {share:.3g} times what is allowed"
    return first.with_complaint("value", complaint), [said]


def _diagnoses(judge: _Judge, results: Sequence[Result], *, changing: bool) -> tuple[str, ...]:
    """What would explain the failures; a diagnosis that fails itself costs a line, never the report."""
    ran = {
        status: [(result.case, result.found) for result in results if result.found and result.status == status]
        for status in ("failed", "passed")
    }
    if changing and ran["failed"]:
        return ("results change from call to call: no other cause was looked for",)
    written = {q.name for case, found in ran["failed"] for q in judge.overwritten(case, found)}
    if written:
        return (f"the code writes into its input {', '.join(sorted(written))}: no other cause was looked for",)
    try:
        return tuple(diagnose(judge.loss, ran["failed"], ran["passed"], judge.arithmetic, judge.dtype))
    except Exception as error:
        return (f"none: looking for one raised {type(error).__name__}: {error}",)


class _Judge:
    """Compares what was found with the truth, by any standard."""

    def __init__(
        self,
        loss: Any,
        dtype: str,
        standard: str,
        accumulate: Any,
        matmul: Any,
        wanted: tuple[str, ...],
        writable: tuple[str, ...],
    ) -> None:
        self.loss, self.dtype, self.standard, self.wanted, self.writable = loss, dtype, standard, wanted, writable
        self.arithmetic = arithmetic(dtype, accumulate, matmul, standard)
        self.standards = {name: arithmetic(dtype, accumulate, matmul, name) for name in ladder(dtype, loss)}
        self.truths: dict[int, tuple[Any, ...]] = {}

    def fields(self, case: Case) -> tuple[str, ...]:
        """Return the names of the inputs of a case that have gradients."""
        fields = FIELDS[self.loss.spec.head]
        return fields[: len(case.inputs) - 1] if self.loss.spec.head == "linear" else fields

    def names(self, chosen: Sequence[Case]) -> tuple[str, ...]:
        """Return the quantities that have to be looked at."""
        there = {name for case in chosen for name in self.fields(case)}
        return ("value", *(f"d{name}" for name in FIELDS[self.loss.spec.head] if name in there and name in self.wanted))

    def quantities(self, case: Case, found: Found) -> tuple[Quantity, ...]:
        """Compare value and gradients, and look whether inputs are what they were."""
        overwritten = self.overwritten(case, found)
        if "truth" in case.accepts:
            return (*self.compared(case, found, self.arithmetic), *overwritten)
        gradients = zip(self.fields(case), found.gradients or (), strict=False)
        parts = {"value": found.value} | {f"d{name}": part for name, part in gradients if part is not None}
        return (*(_finite(name, part) for name, part in parts.items()), *overwritten)

    def overwritten(self, case: Case, found: Found) -> tuple[Quantity, ...]:
        """Refuse inputs that are not what they were before the call."""
        said = "is not what it was before the call: the code writes into its input"
        names = [INPUTS[self.loss.spec.head][place] for place in found.changed]
        return tuple(refused(name, said) for name in names if name not in self.writable)

    def compared(self, case: Case, found: Found, a: Arithmetic) -> tuple[Quantity, ...]:
        """Compare value and gradients by the budgets of an arithmetic."""
        value, grad = self._truth(case, found)
        if found.value.shape != np.shape(value):
            hint = "" if found.value.ndim == np.ndim(value) else ": is reduction='none' on one side only?"
            return (refused("value", f"shape {found.value.shape}, expected {np.shape(value)}{hint}"),)
        allowed, errors = bounds(self.loss, case.inputs, a, found.upstream)
        nothing = counts_nothing(self.loss, case.inputs)
        # Zeros of labelled losses hold by structure; of a triplet, only where its margin is surely kept.
        floor = 16.0 * FORMATS[self.dtype].smallest if self.loss.spec.head == "triplet" else np.inf
        quantities = [compare("value", found.value, value, allowed, nothing=nothing, floor=floor)]
        if found.gradients is None:
            return tuple(quantities)
        given = dict(zip(self.fields(case), found.gradients, strict=False))
        for name in self.fields(case):
            if name in self.wanted:
                theirs, ours = given.get(name), getattr(grad, name)
                quantities.append(
                    refused(f"d{name}", "was not returned")
                    if theirs is None
                    else compare(f"d{name}", theirs, ours, errors[name], nothing=nothing, floor=floor)
                )
        return tuple(quantities)

    def _truth(self, case: Case, found: Found) -> tuple[Any, Any]:
        key = id(found)
        if key not in self.truths:
            upstream = found.upstream if np.shape(found.upstream) == self._shape(case) else None
            self.truths[key] = (*truth(self.loss, case.inputs, upstream), found)  # kept, so that its id is its own
        value, grad, _ = self.truths[key]
        return value, grad

    def _shape(self, case: Case) -> tuple[int, ...]:
        """The shape of the value."""
        rows = np.shape(case.inputs[0])[:-1]
        return rows if self.loss.reduction == "none" else ()

    def with_missing_gradients(self, results: Sequence[Result]) -> list[Result]:
        """Refuse gradients that are missing in some cases and there in others."""
        given = any(result.found is not None and result.found.gradients is not None for result in results)

        def looked_at(result: Result) -> Result:
            found = result.found
            missing = given and found is not None and found.gradients is None
            if counts_nothing(self.loss, result.case.inputs):
                missing = False  # nothing depends on the inputs there
            names = [name for name in self.fields(result.case) if name in self.wanted] if missing else []
            for name in names:
                result = result.with_complaint(f"d{name}", "was not returned, as it was in other cases")
            return result

        return list(map(looked_at, results))

    def difference(self, case: Case, found: Found, again: Found) -> tuple[float, float]:
        """Return how far two results of a case are apart, absolutely and over their budget."""
        parts, others = ((each.value, *(each.gradients or ())) for each in (found, again))
        if [None if p is None else p.shape for p in parts] != [None if p is None else p.shape for p in others]:
            return np.inf, np.inf
        allowed: Array = np.asarray(np.inf)
        errors: dict[str, Array] = {}
        if "truth" in case.accepts and found.value.shape == self._shape(case):
            allowed, errors = bounds(self.loss, case.inputs, self.arithmetic, found.upstream)
        limits = (allowed, *(errors.get(name, np.inf) for name in self.fields(case)))
        off = share = 0.0
        for one, other, limit in zip(parts, others, limits, strict=False):
            if one is None or other is None or np.shape(limit) not in ((), one.shape):
                continue  # what has another shape is refused for that
            with np.errstate(invalid="ignore"):
                same = (one == other) | (np.isnan(one) & np.isnan(other))
                apart = np.where(same, 0.0, np.nan_to_num(np.abs(one - other), nan=np.inf, posinf=np.inf))
            off, share = max(off, float(apart.max())), max(share, float(_shares(apart, limit).max()))
        return off, share

    def meets(self, results: Sequence[Result]) -> str:
        """Return the strictest standard that all results keep to which the verdict rests on."""
        rest = Report(self.loss, self.dtype, "", tuple(results)).counted
        rest = tuple(result for result in rest if not result.xfail and not result.refused)
        if not rest or any(result.found is None for result in rest):
            return ""
        if any(quantity.complaint and not quantity.over for result in rest for quantity in result.quantities):
            return ""
        strictest_first = reversed(self.standards.items())
        return next((name for name, a in strictest_first if all(self._keeps_to(result, a) for result in rest)), "")

    def _keeps_to(self, result: Result, a: Arithmetic) -> bool:
        if "truth" not in result.case.accepts or result.found is None or a == self.arithmetic:
            return result.conforms
        return all(quantity.passed for quantity in self.compared(result.case, result.found, a))

    def notes(self, results: Sequence[Result], framework: str) -> Iterator[str]:
        """Say what was not looked at, and what is odd."""
        found = [result.found for result in results if result.found is not None]
        if self.wanted and found and all(each.gradients is None for each in found):
            yield "the value alone was returned: no gradient was looked at"
        kinds = sorted({each.kind for each in found} - {self.dtype, ""})
        if kinds:
            yield f"the value came back in {', '.join(kinds)}, not in {self.dtype}"
        yield from dict.fromkeys(
            f"beside the value came what is no gradient, and was not looked at: {each.others}"
            for each in found[:1]
            if each.others
        )
        if any(result.status == "failed" for result in results):
            yield from dict.fromkeys(each.hint for each in found[:1] if each.hint)
        if framework == "numpy" and not found and any("tensor" in result.error.lower() for result in results):
            yield "the code was given NumPy's arrays; for tensors say framework='torch'"


def _finite(name: str, got: Array) -> Quantity:
    """Ask for nothing but numbers."""
    wrong = got.size - int(np.count_nonzero(np.isfinite(got)))
    if wrong:
        return refused(name, f"{wrong} of {got.size} are NaN or infinite")
    return Quantity(name, 0.0, (), np.nan, np.nan, np.nan, got.size, 0, "")


def compare(
    name: str, got: Array, expected: Any, allowed: Any, *, nothing: bool = False, floor: float = np.inf
) -> Quantity:
    """Compare one array with the truth, each entry within its budget.

    Where the truth is NaN or infinite, that is expected. ``nothing`` says that it is the mean of nothing: NaN or 0, and
    its gradients too. A row of zeros is known to be that, and decided, if its budget is not above ``floor``.
    """
    ours = np.asarray(expected, dtype=np.float64)
    if got.shape != ours.shape:
        hint = ": transposed?" if got.shape == ours.shape[::-1] else ""
        return refused(name, f"shape {got.shape}, expected {ours.shape}{hint}")
    finite = np.isfinite(ours)
    limit = np.broadcast_to(np.where(np.isnan(allowed), 0.0, allowed), ours.shape)
    with np.errstate(invalid="ignore"):
        off = np.where(finite, np.abs(got - ours), 0.0)
        alike = np.where(finite, off <= limit, np.where(np.isnan(ours), np.isnan(got), got == ours))
    if nothing:
        alike = alike | np.isnan(got) | (got == 0.0)
    over = ~alike
    count = int(np.count_nonzero(over))
    sizes = np.where(finite, np.abs(ours), 0.0)
    size = sizes.max(axis=-1, keepdims=True, initial=0.0) if ours.ndim else sizes
    known = (size == 0.0) & (limit <= floor)
    decided = np.where(finite, (limit < size) | known, alike)
    shares = np.where(
        alike, np.where(np.isnan(off), 0.0, _shares(off, limit)), np.where(finite, _shares(off, limit), np.inf)
    )
    complaint = _complaint(name, got, ours, over, nothing)
    if not shares.size:
        return Quantity(name, 0.0, (), np.nan, np.nan, np.nan, 0, 0, complaint)
    at = np.unravel_index(int(np.argmax(shares)), shares.shape)
    decisions = int(np.count_nonzero(decided))
    return Quantity(
        name,
        float(shares[at]),
        tuple(int(i) for i in at),
        float(got[at]),
        float(ours[at]),
        float(limit[at]),
        decisions,
        ours.size - decisions,
        complaint,
        count,
    )


def _shares(off: Array, limit: Any) -> Array:
    """Errors over their budgets: 0 for none, infinite where there is no budget or no number."""
    with np.errstate(all="ignore"):
        shares = np.where(off == 0.0, 0.0, off / limit)
    return np.asarray(np.nan_to_num(shares, nan=np.inf, posinf=np.inf))


def _complaint(name: str, got: Array, ours: Array, over: Any, nothing: bool) -> str:
    """What is wrong beside numbers."""
    wrong = int(np.count_nonzero(over & ~np.isfinite(got) & np.isfinite(ours)))
    if wrong:
        return f"{wrong} of {got.size} are NaN or infinite"
    wrong = int(np.count_nonzero(over & ~np.isfinite(ours)))
    if wrong:
        expected = "NaN or 0" if nothing else "NaN" if np.isnan(ours[over & ~np.isfinite(ours)]).any() else "infinite"
        return f"{wrong} of {got.size} are not {expected}, as they have to be"
    if name != "value" and over.any() and not got.any():
        return "all zero"
    return ""
