"""Compare foreign code with a loss: cases, budgets, and a report that says what is wrong.

A quantity, the value or one gradient, passes a case if no entry of it is further from the truth than its budget. An
entry whose budget is as large as the largest entry of its row is not decided: within its budget it counts neither way,
and a report with a quantity that was never decided does not pass. Zeros that hold by the structure of the loss (of
ignored rows, of margins that are kept) are known exactly. Where the truth is not finite, it is still compared: the mean
of nothing is NaN or 0, and an infinite loss is infinite.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from unittest import SkipTest

import numpy as np
from numpy.typing import NDArray

from refloss.engines.call import call_of
from refloss.engines.spec import MARGINS
from refloss.formats import dtype_name, rounded
from refloss.inputs import upstream_gradient
from refloss.messages import raised, shown
from refloss.testing.adapters import Found, call, read, ready
from refloss.testing.adapters.results import as_array
from refloss.testing.diagnosis import diagnose
from refloss.testing.expected import ExpectedFailures
from refloss.testing.hard_cases import GROUPS, Case
from refloss.testing.hard_cases import cases as named_cases
from refloss.testing.judge import Judge
from refloss.testing.options import (
    as_flag,
    as_function,
    as_list,
    as_numbers,
    as_seed,
    given_margins,
    some_names,
    takes_bias,
    wanted_gradients,
    writable_inputs,
)
from refloss.testing.report import ENDS, UNDECIDED, Conformance, Report, Result
from refloss.testing.signatures import Inputs, Loss, as_loss, fields_of, inputs_of, labels_of, own_margin, takes_margins


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
    margins: bool | None = None,
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
        argument, `ArcFace`, `CosFace` and `CombinedMargin` margins of samples. Returns the value, or the value and the
        gradients of its inputs: ``(value, dx, dw)``, ``(value, (dx, dw))``, ``(value, {"x": dx, "w": dw})`` or a dict
        with "loss" or "value".
    loss
        The loss of refloss that it implements, or its class for the default settings.
    framework
        "numpy", "torch" or "jax": the framework whose arrays fn takes. Values of torch and jax are differentiated.
    dtype
        "float16", "bfloat16", "float32" or "float64", or such a dtype of NumPy, ml_dtypes, PyTorch or JAX.
    device
        Device of the inputs.
    shapes
        (N, C, D) of the cases, one or several; `refloss.testing.hard_cases.SHAPES` if left out.
    groups
        Which groups of cases to run.
    standard
        "working", "stable", "mixed", "fused" or "relative"; see `budget`.
    accumulate, matmul
        As in `budget`.
    gradients
        Whether gradients are compared, or the names of those that the code has.
    ignored
        False for code that has no ignored labels. A loss with ignore_index=None has none either.
    soft
        Whether the code takes probabilities for labels.
    bias
        Whether a linear head, SphereFace2 or UniFace takes a bias; if left out, whether the fourth argument of fn is
        called ``b`` or ``bias``, or has no default.
    margins
        Whether the code takes margins, one per sample, as its fourth argument; if left out, whether that has no default
        or is ``m=None``. If it has no default, all cases without margins have the loss's own for every sample. Their
        gradient is compared where the code has one, or where ``gradients`` names it.
    overwrites
        Names of inputs, "y" among them, that the code may write into.
    xfail
        Cases that are known to fail, with the reason: ids, or names without the shape such as "boundary-ignored", of
        which at least one case has to fail. A case that passes, or that does not exist, fails the check.
    seed
        Seed of the random numbers.
    cases
        Cases to run instead of those of shapes, seed and groups: one at a time from a parametrised test, or your own.
        Numbers are rounded to the dtype.
    track
        Iterates over the cases, as a progress bar does.

    Returns
    -------
    Report
        True if the code conforms. Its verdict covers the groups ordinary, boundary and hard, or "range" if no other
        group was run. Printed, it says what is wrong.

    Raises
    ------
    ValueError, TypeError
        For invalid arguments and for arguments that leave nothing to run, naming the argument.
    """
    loss, dtype = as_loss(loss), dtype_name(dtype)
    wanted, writable = wanted_gradients(loss, gradients), writable_inputs(loss, overwrites)
    optional = (MARGINS.name,) if gradients is True and takes_margins(loss) else ()
    judge = Judge(loss, dtype, standard, accumulate, matmul, wanted, writable, optional)
    fn, track, seed = as_function("fn", fn), as_function("track", track), as_seed("seed", seed)
    ready(framework, dtype, device)
    groups = some_names("groups", groups, GROUPS, least=1)
    bias, soft, ignored = takes_bias(fn, loss, bias), as_flag("soft", soft), as_flag("ignored", ignored)
    with_margins, always = given_margins(fn, loss, margins)
    known = (
        named_cases(loss, dtype, shapes, seed, bias=bias, soft=soft, ignored=ignored, margins=with_margins)
        if cases is None
        else _own_cases(loss, cases, dtype)
    )
    if always:
        known = [_with_margins(loss, case, dtype) for case in known]
    chosen = [case for case in known if case.group in groups]
    if not chosen:
        raise ValueError(f"cases: expected at least one in the groups {', '.join(groups)}; got none")
    expected = ExpectedFailures(xfail, known, loss, partial=cases is not None)

    def run(case: Case) -> Found:
        upstream = np.random.default_rng([seed, zlib.crc32(case.id.encode())]).normal(size=1 << 12)
        fields = judge.fields(case)
        by = tuple(name for name in fields if name in wanted)
        return call(fn, framework, dtype, device, case.inputs, upstream, fields, labels_of(loss), by)

    results: list[Result] = []
    notes: list[str] = []
    for case in _tracked(track, chosen):
        output, error = _tried(run, case)
        results.append(Result(case, judge.quantities(case, output) if output else (), output, error, ""))
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
        judge.names(chosen, results),
        standard,
        judge.meets(results),
        "" if device is None else str(device),
        expected.stale(results),
    )


def assert_conforms(fn: Callable[..., Any], loss: Any, **settings: Any) -> None:
    """Raise AssertionError with the report if foreign code does not conform; settings are those of `check`.

    An undecided report does not pass either. Where ``cases=`` names single cases, and their budgets leave nothing to
    decide, or the code may refuse them and does, it raises `unittest.SkipTest`: such a test is skipped.
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
    """Compare existing results with a loss, each entry within its budget.

    Parameters
    ----------
    loss
        The loss of refloss that was computed.
    inputs
        Its inputs: arrays or tensors.
    dtype
        Dtype that the results were computed in.
    value
        The value, if it is to be compared.
    upstream
        The upstream gradient that the gradients belong to; 1 if left out.
    standard, accumulate, matmul
        As in `check`.
    gradients
        ``grad_x=``, ``grad_w=`` and so on, named after the inputs.

    Raises
    ------
    AssertionError
        Naming the worst entry of each array that is over its budget.
    ValueError
        If there is nothing to compare.
    TypeError
        For a gradient that the loss does not have.
    """
    loss, dtype = as_loss(loss), dtype_name(dtype)
    named = {name: entry for name, entry in gradients.items() if entry is not None}
    fields = fields_of(loss)
    for name in gradients:
        if name.removeprefix("grad_") not in fields:
            raise TypeError(f"{name}: expected one of {', '.join(f'grad_{field}' for field in fields)}")
    if value is None and not named:
        raise ValueError("value: expected it or a gradient to compare; got neither")
    names, label = inputs_of(loss), labels_of(loss)
    arrays = tuple(
        _as_input(names[i] if i < len(names) else "inputs", entry, is_label=i == label)
        for i, entry in enumerate(inputs)
    )
    judge = Judge(loss, dtype, standard, accumulate, matmul, fields, ())
    case = Case("given", "ordinary", (), "", arrays)
    theirs = {name: as_numbers(name, entry, read) for name, entry in named.items()}
    by_field = tuple(theirs.get(f"grad_{name}") for name in fields)
    _check_upstream(loss, arrays, upstream)
    upstream = None if upstream is None else read(upstream)
    output = Found(np.zeros(()) if value is None else as_numbers("value", value, read), by_field, upstream)
    compared = judge.compared(case, output, judge.arithmetic)
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


def _check_upstream(loss: Loss, arrays: Inputs, upstream: Any) -> None:
    """Refuse inputs, and an upstream gradient of the wrong shape."""
    upstream_gradient(upstream, loss.reduction, call_of(loss, arrays).samples)


def _as_input(option: str, entry: Any, *, is_label: bool) -> NDArray[Any]:
    """Return an input that is not a case of refloss: integer labels, and in float64 all else, a single number too."""
    array = as_numbers(option, entry, as_array)
    return array.astype(np.int64 if array.dtype.kind in "iu" and (array.ndim or is_label) else np.float64)


def _own_cases(loss: Loss, cases: Any, dtype: str) -> list[Case]:
    if isinstance(cases, Case) or not isinstance(cases, Iterable):
        raise TypeError(f"cases: expected cases as `refloss.testing.Case`, in a list; got {shown(cases)}")
    return [_own(loss, case, dtype) for case in cases]


def _own(loss: Loss, case: Any, dtype: str) -> Case:
    """Return a case with its numbers rounded to the dtype; labels are not rounded."""
    if not isinstance(case, Case) or not isinstance(case.id, str):
        raise TypeError(f"cases: expected cases as `refloss.testing.Case`, each with an id; got {shown(case)}")
    group: Any = case.group
    if not isinstance(group, str) or group not in GROUPS:
        came = f"{shown(group)} in {case.id!r}"
        raise ValueError(f"cases: expected a group of {', '.join(map(repr, GROUPS))}; got {came}")
    label = labels_of(loss)
    arrays = [_as_input(f"cases: {case.id!r}", entry, is_label=i == label) for i, entry in enumerate(case.inputs)]
    with np.errstate(all="ignore"):
        exact = [a if i == label else rounded(a, dtype) for i, a in enumerate(arrays)]
    if "truth" in case.accepts:
        try:
            loss(*exact)
        except (ValueError, TypeError) as error:
            raise ValueError(f"cases: {case.id!r} is no input of {loss}: {error}") from None
    return case._replace(inputs=tuple(exact))


def _with_margins(loss: Loss, case: Case, dtype: str) -> Case:
    """Return a case with the loss's own margin for every sample, where it has none."""
    if len(case.inputs) > 3:
        return case
    m = np.full(len(case.inputs[0]), own_margin(loss))
    return case._replace(inputs=(*case.inputs, rounded(m, dtype)))


def _tracked(track: Callable[[Sequence[Case]], Iterable[Case]], chosen: Sequence[Case]) -> Iterator[Case]:
    try:
        return iter(track(chosen))
    except TypeError as error:
        came = f"{shown(track)}, which raised {raised(error)}"
        raise TypeError(f"track: expected a function that goes through the cases; got {came}") from error


def _tried(run: Callable[[Case], Found], case: Case) -> tuple[Found | None, str]:
    """Return the output of foreign code for a case, or a description of what it raised.

    A BaseException that is no Exception ends a program or skips a test. It does not count as a refusal of the input,
    and the description begins with that.
    """
    try:
        return run(case), ""
    except Exception as error:
        return None, raised(error)
    except BaseException as error:
        return None, f"{ENDS} {raised(error)}"


def _twice(run: Callable[[Case], Found], first: Result, judge: Judge) -> tuple[Result, list[str]]:
    """Run a case again after all the others: a difference is noted, and fails the case if it exceeds its budget."""
    if first.found is None:
        return first, []
    output, error = _tried(run, first.case)
    if output is None:
        return first.with_complaint("value", f"a second call on the same inputs raised {error}"), []
    off, share = judge.difference(first.case, first.found, output)
    if not judge.overwritten(first.case, first.found):
        first = first._replace(quantities=(*first.quantities, *judge.overwritten(first.case, output)))
    if off == 0.0:
        return first, []
    note = f"two calls on the same inputs differ by {off:.2g}: results are not deterministic"
    if share <= 1.0:
        return first, [note]
    complaint = f"two calls on the same inputs differ by {share:.3g} times what is allowed"
    return first.with_complaint("value", complaint), [note]


def _diagnoses(judge: Judge, results: Sequence[Result], *, changing: bool) -> tuple[str, ...]:
    """Return what would explain the failures; a diagnosis that raises is a line of the report."""
    ran = {
        status: [(result.case, result.found) for result in results if result.found and result.status == status]
        for status in ("failed", "passed")
    }
    if changing and ran["failed"]:
        return ("results change from call to call: no other cause was looked for",)
    written = {q.name for case, output in ran["failed"] for q in judge.overwritten(case, output)}
    if written:
        return (f"the code writes into its input {', '.join(sorted(written))}: no other cause was looked for",)
    try:
        return tuple(diagnose(judge.loss, ran["failed"], ran["passed"], judge.arithmetic, judge.dtype))
    except Exception as error:
        return (f"none: looking for one raised {raised(error)}",)
