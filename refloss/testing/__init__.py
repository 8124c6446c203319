"""Use: what other projects import in their own tests."""

from refloss.testing.black_box import Diagnosis, diagnose
from refloss.testing.budgets import Budget, budget
from refloss.testing.conformance import assert_close, assert_conforms, check, conforms
from refloss.testing.hard_cases import Case, Shape, cases
from refloss.testing.implementations import known
from refloss.testing.implementations.row import Implementation
from refloss.testing.metamorphic import Properties, properties
from refloss.testing.report import Conformance, Report

__all__ = [
    "Budget",
    "Case",
    "Conformance",
    "Diagnosis",
    "Implementation",
    "Properties",
    "Report",
    "Shape",
    "assert_close",
    "assert_conforms",
    "budget",
    "cases",
    "check",
    "conforms",
    "diagnose",
    "known",
    "properties",
]
