"""Failures that are expected: cases by id, or groups of cases by name without the shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from refloss.testing.hard_cases import Case, cases
from refloss.testing.options import as_reasons
from refloss.testing.report import Result
from refloss.testing.signatures import Loss


class ExpectedFailures:
    """Expected failures of a check, with their reasons."""

    def __init__(self, xfail: Mapping[str, str] | None, known: Sequence[Case], loss: Loss, *, partial: bool) -> None:
        self.reasons = as_reasons("xfail", xfail)
        existing = {name for case in known for name in (case.id, case.name)}
        if partial and self.reasons:  # one case at a time: a reason may be for another one
            existing |= {case.name for soft in (False, True) for case in cases(loss, bias=True, soft=soft)}
        shapeless = {name: Case(name, "", (), "", ()).name for name in self.reasons}
        missing = [
            name for name in self.reasons if name not in existing and not (partial and shapeless[name] in existing)
        ]
        self.dead = tuple(sorted(missing))

    def marked(self, results: Sequence[Result]) -> list[Result]:
        """Add its reason to each result that may fail; under a name without shape only to the results that do fail."""

        def reason(result: Result) -> str:
            by_name = "" if result.conforms else self.reasons.get(result.case.name, "")
            return self.reasons.get(result.case.id, by_name)

        return [result._replace(xfail=reason(result)) for result in results]

    def stale(self, results: Sequence[Result]) -> tuple[str, ...]:
        """Return names without a shape none of whose cases failed."""
        ran = {result.case.name for result in results if result.case.id not in self.reasons}
        failed = {result.case.name for result in results if result.xfail}
        return tuple(sorted(name for name in self.reasons if name in ran - failed))
