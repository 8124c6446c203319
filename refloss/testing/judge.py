"""Compare results of foreign code with the truth, within the budgets of one arithmetic or of every standard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np

from refloss.error_free import Array
from refloss.formats import FORMATS
from refloss.testing.adapters import Found
from refloss.testing.budgets import arithmetic, bounds, ladder, truth
from refloss.testing.comparison import compare, finite, shares_of
from refloss.testing.errors import Arithmetic
from refloss.testing.hard_cases import Case, counts_nothing
from refloss.testing.report import Quantity, Report, Result, refused
from refloss.testing.signatures import (
    Loss,
    fields_of,
    has_labels,
    has_row_terms,
    ignore_index_of,
    inputs_of,
    labels_of,
    with_settings,
)


class Judge:
    """Compares results with the truth, by any standard."""

    def __init__(
        self,
        loss: Loss,
        dtype: str,
        standard: str,
        accumulate: Any,
        matmul: Any,
        wanted: tuple[str, ...],
        writable: tuple[str, ...],
        optional: tuple[str, ...] = (),
    ) -> None:
        self.loss, self.dtype, self.standard, self.wanted, self.writable = loss, dtype, standard, wanted, writable
        self.optional = optional
        self.arithmetic = arithmetic(dtype, accumulate, matmul, standard)
        self.standards = {name: arithmetic(dtype, accumulate, matmul, name) for name in ladder(dtype, loss)}
        self.truths: dict[int, tuple[Any, ...]] = {}

    def fields(self, case: Case) -> tuple[str, ...]:
        """Return the names of the inputs of a case that have gradients."""
        fields = fields_of(self.loss)
        return fields[: len(case.inputs) - 1] if has_labels(self.loss) else fields

    def names(self, chosen: Sequence[Case], results: Sequence[Result] = ()) -> tuple[str, ...]:
        """Return the quantities that have to be compared; optional ones if they were in some result."""
        present = {name for case in chosen for name in self.fields(case)}
        compared = {entry.name for result in results for entry in result.quantities}
        named = [name for name in fields_of(self.loss) if name in present and name in self.wanted]
        return "value", *(f"d{name}" for name in named if name not in self.optional or f"d{name}" in compared)

    def quantities(self, case: Case, output: Found) -> tuple[Quantity, ...]:
        """Compare value and gradients, and refuse inputs that the code wrote into."""
        overwritten = self.overwritten(case, output)
        if "truth" in case.accepts:
            return (*self.compared(case, output, self.arithmetic), *overwritten)
        gradients = zip(self.fields(case), output.gradients or (), strict=False)
        parts = {"value": output.value} | {f"d{name}": part for name, part in gradients if part is not None}
        return (*(finite(name, part) for name, part in parts.items()), *overwritten)

    def overwritten(self, case: Case, output: Found) -> tuple[Quantity, ...]:
        """Refuse inputs that the code wrote into, unless it may."""
        said = "is not what it was before the call: the code writes into its input"
        names = [inputs_of(self.loss)[place] for place in output.changed]
        return tuple(refused(name, said) for name in names if name not in self.writable)

    def compared(self, case: Case, output: Found, a: Arithmetic) -> tuple[Quantity, ...]:
        """Compare value and gradients by the budgets of an arithmetic."""
        if self._may_be_of_terms(case, output):
            of_terms = self._of_terms(case, output, a)
            if all(quantity.passed for quantity in of_terms):
                return of_terms
        value, grad = self._truth(case, output)
        if output.value.shape != np.shape(value):
            hint = "" if output.value.ndim == np.ndim(value) else ": is reduction='none' on one side only?"
            return (refused("value", f"shape {output.value.shape}, expected {np.shape(value)}{hint}"),)
        allowed, errors = bounds(self.loss, case.inputs, a, output.upstream)
        nothing = counts_nothing(self.loss, case.inputs)
        # Zeros of losses with labels hold by structure; those of a triplet only where its margin is certainly kept, and
        # those of a divergence are what cancels.
        floor = np.inf if has_labels(self.loss) else 16.0 * FORMATS[self.dtype].smallest
        quantities = [compare("value", output.value, value, allowed, nothing=nothing, floor=floor)]
        if output.gradients is None:
            return tuple(quantities)
        returned = dict(zip(self.fields(case), output.gradients, strict=False))
        for name in self.fields(case):
            if name in self.wanted:
                theirs, ours = returned.get(name), getattr(grad, name)
                if name in self.optional and (theirs is None or not theirs.any()):
                    continue  # a constant of the code
                quantities.append(
                    refused(f"d{name}", "was not returned")
                    if theirs is None
                    else compare(f"d{name}", theirs, ours, errors[name], nothing=nothing, floor=floor)
                )
        return tuple(quantities)

    def _may_be_of_terms(self, case: Case, output: Found) -> bool:
        """Whether the mean of weights that are all 0 may be 0 here, with terms of rows, which no weight multiplies."""
        if not has_row_terms(self.loss) or not counts_nothing(self.loss, case.inputs) or output.value.shape:
            return False
        return bool(np.isfinite(output.value) and output.value != 0.0)

    def _of_terms(self, case: Case, output: Found, a: Arithmetic) -> tuple[Quantity, ...]:
        """Compare with the terms of rows alone: their sum, as weights of 0 take part in no sum, over how many count."""
        of_sum = copy(self)
        of_sum.loss, of_sum.truths = with_settings(self.loss, reduction="sum"), {}
        rows = np.count_nonzero(case.inputs[labels_of(self.loss) or 0] != ignore_index_of(self.loss))
        as_sum = output._replace(value=output.value * rows, upstream=output.upstream / max(rows, 1))
        return of_sum.compared(case, as_sum, a)

    def _truth(self, case: Case, output: Found) -> tuple[Any, Any]:
        key = id(output)
        if key not in self.truths:
            upstream = output.upstream if np.shape(output.upstream) == self._shape(case) else None
            self.truths[key] = (*truth(self.loss, case.inputs, upstream), output)  # kept, so that no other gets its id
        value, grad, _ = self.truths[key]
        return value, grad

    def _shape(self, case: Case) -> tuple[int, ...]:
        """Return the shape of the value."""
        rows = np.shape(case.inputs[0])[:-1]
        return rows if self.loss.reduction == "none" else ()

    def with_missing_gradients(self, results: Sequence[Result]) -> list[Result]:
        """Refuse gradients that are missing in some cases and there in others."""
        elsewhere = any(result.found is not None and result.found.gradients is not None for result in results)

        def with_missing(result: Result) -> Result:
            output = result.found
            missing = elsewhere and output is not None and output.gradients is None
            if counts_nothing(self.loss, result.case.inputs):
                missing = False  # nothing depends on the inputs there
            needed = [name for name in self.fields(result.case) if name not in self.optional]
            names = [name for name in needed if name in self.wanted] if missing else []
            for name in names:
                result = result.with_complaint(f"d{name}", "was not returned, as it was in other cases")
            return result

        return list(map(with_missing, results))

    def difference(self, case: Case, output: Found, again: Found) -> tuple[float, float]:
        """Return how far two results of a case are apart, absolutely and over their budget."""
        parts, others = ((each.value, *(each.gradients or ())) for each in (output, again))
        if [None if p is None else p.shape for p in parts] != [None if p is None else p.shape for p in others]:
            return np.inf, np.inf
        allowed: Array = np.asarray(np.inf)
        errors: dict[str, Array] = {}
        if "truth" in case.accepts and output.value.shape == self._shape(case):
            allowed, errors = bounds(self.loss, case.inputs, self.arithmetic, output.upstream)
        limits = (allowed, *(errors.get(name, np.inf) for name in self.fields(case)))
        off = share = 0.0
        for one, other, limit in zip(parts, others, limits, strict=False):
            if one is None or other is None or np.shape(limit) not in ((), one.shape):
                continue  # another shape is refused elsewhere
            with np.errstate(invalid="ignore"):
                same = (one == other) | (np.isnan(one) & np.isnan(other))
                apart = np.where(same, 0.0, np.nan_to_num(np.abs(one - other), nan=np.inf, posinf=np.inf))
            off, share = max(off, float(apart.max())), max(share, float(shares_of(apart, limit).max()))
        return off, share

    def meets(self, results: Sequence[Result]) -> str:
        """Return the strictest standard met by all results that the verdict rests on; empty if there is none."""
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
        """Yield remarks on what was not compared and on unexpected forms of the results."""
        outputs = [result.found for result in results if result.found is not None]
        if self.wanted and outputs and all(output.gradients is None for output in outputs):
            yield "the value alone was returned: no gradient was looked at"
        given = [result for result in results if result.found is not None and len(result.case.inputs) > 3]
        if self.optional and given and not any(entry.name == "dm" for result in given for entry in result.quantities):
            yield "margins that were given count as constants: no gradient of theirs was looked at"
        kinds = sorted({output.kind for output in outputs} - {self.dtype, ""})
        if kinds:
            yield f"the value came back in {', '.join(kinds)}, not in {self.dtype}"
        yield from dict.fromkeys(
            f"beside the value came what is no gradient, and was not looked at: {output.others}"
            for output in outputs[:1]
            if output.others
        )
        if any(result.status == "failed" for result in results):
            yield from dict.fromkeys(output.hint for output in outputs[:1] if output.hint)
        if framework == "numpy" and not outputs and any("tensor" in result.error.lower() for result in results):
            yield "the code was given NumPy's arrays; for tensors say framework='torch'"
