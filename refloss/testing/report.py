"""The results of a check, and how they are printed: quantities of a case, cases of a report, reports of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from refloss.testing.adapters import Found
from refloss.testing.hard_cases import GROUPS, VERDICT, Case
from refloss.testing.signatures import Loss

SHOWN = 6  # failing cases that a report describes; it names the others

CONFORMS, FAILS, UNDECIDED = "conforms", "does not conform", "undecided"
"""The three states of a report."""


class Quantity(NamedTuple):
    """How the value, or one gradient, compares in one case."""

    name: str
    """The value, or "d" and the input's name."""
    share: float
    """The largest error over its budget; infinite for NaN, infinities, zeros and wrong shapes."""
    where: tuple[int, ...]
    """Index of that entry."""
    got: float
    """Its value in the code's result."""
    expected: float
    """Its true value."""
    allowed: float
    """Its budget."""
    decided: int
    """Number of entries that could be decided."""
    undecided: int
    """Number of entries that could not: their budget is as large as their row."""
    complaint: str
    """What is wrong other than finite numbers over their budgets: "3 NaN", "all zero", a shape; empty if nothing is."""
    over: int = 0
    """Number of entries over their budget, decided or not."""

    @property
    def passed(self) -> bool:
        """Whether every entry is within its budget, decided or not."""
        return not self.complaint and self.over == 0

    def __str__(self) -> str:
        """Return the index of the worst entry, its value, the expected value and the budget."""
        if self.complaint:
            return f"{self.name}: {self.complaint}"
        at = list(self.where) if self.where else ""
        return (
            f"{self.name}{at}: got {self.got:.9g}, expected {self.expected:.9g}, off by "
            f"{abs(self.got - self.expected):.2g}, allowed {self.allowed:.2g}: {self.share:.3g} times"
        )


def refused(name: str, complaint: str) -> Quantity:
    """Return a quantity that fails with a complaint."""
    return Quantity(name, math.inf, (), math.nan, math.nan, math.nan, 0, 0, complaint)


class Result(NamedTuple):
    """One case."""

    case: Case
    quantities: tuple[Quantity, ...]
    found: Found | None
    error: str
    """The exception, if one was raised."""
    xfail: str
    """Why the case is expected to fail; empty if it is not."""

    @property
    def conforms(self) -> bool:
        """Whether every quantity passed."""
        return not self.error and all(quantity.passed for quantity in self.quantities)

    @property
    def refused(self) -> bool:
        """Whether the code raised where it may."""
        return bool(self.error) and "refusal" in self.case.accepts and not self.error.startswith(ENDS)

    @property
    def status(self) -> str:
        """One of passed, failed, undecided, refused, xfailed and xpassed."""
        if self.xfail:
            return "xpassed" if self.conforms else "xfailed"
        if self.refused:
            return "refused"
        if not self.conforms:
            return "failed"
        return "passed" if any(quantity.decided for quantity in self.quantities) else "undecided"

    def with_complaint(self, name: str, complaint: str) -> Result:
        """Return the result with a quantity that fails."""
        return self._replace(quantities=(*self.quantities, refused(name, complaint)))


ENDS = "what ends a program:"
"""Beginning of the error of a BaseException that is no Exception: it does not count as a refusal of the input."""


class Report(NamedTuple):
    """The results of a check."""

    loss: Loss
    dtype: str
    framework: str
    results: tuple[Result, ...]
    dead: tuple[str, ...] = ()
    """Names that are expected to fail and are no cases."""
    diagnoses: tuple[str, ...] = ()
    """What would explain the failures."""
    notes: tuple[str, ...] = ()
    """Remarks on what was not compared and on unexpected forms of the results."""
    names: tuple[str, ...] = ("value",)
    """Quantities that have to be compared."""
    standard: str = "working"
    """The standard of the check."""
    meets: str = ""
    """The strictest standard that the cases of the verdict meet; empty if there is none."""
    device: str = ""
    """The device, if one was named."""
    stale: tuple[str, ...] = ()
    """Names without a shape that are expected to fail, none of whose cases did."""

    def __bool__(self) -> bool:
        """Whether the code conforms."""
        return self.passed

    @property
    def passed(self) -> bool:
        """Whether the code conforms: nothing failed, everything was compared, and every expected failure occurred."""
        return self.state == CONFORMS

    @property
    def state(self) -> str:
        """One of "conforms", "does not conform" and "undecided": nothing failed, but something was never decided."""
        verdicts = self.verdicts
        counted = [group for group in verdicts if group in VERDICT] or list(verdicts)
        wrong = self.dead or self.stale or any(result.status == "xpassed" for result in self.results)
        if wrong or any(verdicts[group] == "failed" for group in counted):
            return FAILS
        return UNDECIDED if self.undecided else CONFORMS

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict of each group: "passed", "failed" or "undecided"; groups without cases are left out."""
        verdicts = {}
        for group in GROUPS:
            statuses = {result.status for result in self.results if result.case.group == group}
            if statuses:
                right = statuses & {"passed", "xfailed"}
                verdicts[group] = "failed" if statuses & {"failed", "xpassed"} else "passed" if right else "undecided"
        return verdicts

    @property
    def counted(self) -> tuple[Result, ...]:
        """Results that the verdict rests on: those of `range` only where there are no others."""
        counted = tuple(result for result in self.results if result.case.group in VERDICT)
        return counted or self.results

    @property
    def undecided(self) -> tuple[str, ...]:
        """Quantities of which no entry was decided in any case that counts."""
        compared = [result for result in self.counted if result.status != "xfailed"]
        decided = {entry.name for result in compared for entry in result.quantities if entry.decided}
        return tuple(name for name in self.names if name not in decided) if compared else ()

    @property
    def looked_at(self) -> bool:
        """Whether every quantity was compared in some case that counts."""
        return {entry.name for result in self.counted for entry in result.quantities} >= set(self.names)

    def __str__(self) -> str:
        """Return the full report, with the worst entry of each failing quantity."""
        place = f"{self.framework} on {self.device}" if self.device else self.framework
        lines = [f"{self.loss} in {self.dtype}, {place}: {self.state}"]
        lines += [f"  standard: {self.standard}; meets: {self.meets or 'none'}"]
        lines += [f"  {group}: {verdict}" for group, verdict in self.verdicts.items()]
        lines += [f"  never decided: {', '.join(self.undecided)}"] if self.undecided else []
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  expected to fail, but there is no case {name!r}" for name in self.dead]
        lines += [f"  expected to fail, but no case of {name!r} did" for name in self.stale]
        entries = [quantity for result in self.results for quantity in result.quantities]
        undecided = sum(quantity.undecided for quantity in entries)
        if undecided:
            total = undecided + sum(quantity.decided for quantity in entries)
            lines.append(f"  undecided: {undecided} of {total} numbers, whose budgets are as large as their rows")
        for status, label in (("refused", "refused, as it may be"), ("xfailed", "failed, as expected")):
            ids = [result.case.id for result in self.results if result.status == status]
            lines += [f"  {label}: {', '.join(ids)}"] if ids else []
        failed = [result for result in self.results if result.status in ("failed", "xpassed")]
        for result in failed[:SHOWN]:
            lines.append(f"{result.status}: {result.case.id} ({result.case.reason})")
            lines += [f"  raised {result.error}"] if result.error else []
            lines += [f"  {quantity}" for quantity in result.quantities if not quantity.passed]
        if len(failed) > SHOWN:
            lines.append(f"and {len(failed) - SHOWN} more: {', '.join(result.case.id for result in failed[SHOWN:])}")
        lines += [f"diagnosis: {sentence}" for sentence in self.diagnoses]
        return "\n".join(lines)


class Conformance(NamedTuple):
    """The reports of one function, over dtypes and devices."""

    reports: dict[tuple[str, str], Report]
    """By dtype and device; the device is empty where none was named."""

    def __bool__(self) -> bool:
        """Whether the code conforms in every dtype and on every device."""
        return self.passed

    @property
    def passed(self) -> bool:
        """Whether the code conforms in every dtype and on every device."""
        return all(report.passed for report in self.reports.values())

    def __str__(self) -> str:
        """Return a table: dtype, device, state, standard met, and the verdict of each group."""
        rows: list[Sequence[str]] = [("dtype", "device", "state", "asked", "meets", *GROUPS)]
        for (dtype, device), report in self.reports.items():
            groups = [report.verdicts.get(group, "-") for group in GROUPS]
            rows.append((dtype, device or "-", report.state, report.standard, report.meets or "none", *groups))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        for report in self.reports.values():
            lines += ["", str(report)] if not report.passed else []
        return "\n".join(lines)
