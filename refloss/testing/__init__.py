"""Use: what other projects import in their own tests."""

from refloss.testing.budgets import Budget, budget
from refloss.testing.conformance import Report, assert_close, assert_conforms, check
from refloss.testing.hard_cases import Case, Shape, cases
from refloss.testing.metamorphic import Properties, properties

__all__ = [
    "Budget",
    "Case",
    "Properties",
    "Report",
    "Shape",
    "assert_close",
    "assert_conforms",
    "budget",
    "cases",
    "check",
    "properties",
]
