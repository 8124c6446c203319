"""Measures what `check` says of right, wrong and public code: four tables of the record budgets.md.

Right and wrong code is that of the suite, tests/support/right_codes/ and tests/support/wrong_codes/; then there are
defects.py and public_code.py.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from defects import single_defects
from pages import Rows
from public_code import public_codes
from soundness import DTYPES, Remembered, prepare

import refloss
from refloss.testing import budgets, check, judge
from refloss.testing.hard_cases import VERDICT
from support.right_codes import right_codes
from support.wrong_codes import wrong_codes

RIGHT = range(3 * len(DTYPES))
"""Rounds of `right`: a dtype with one of three seeds."""
WRONG = range(8)
"""Rounds of `wrong`: shares of the codes."""


def remembering() -> ExitStack:
    """Let checks of one loss share its truths and budgets, which take most of their time."""
    stack = ExitStack()
    for name in ("truth", "bounds"):
        stack.enter_context(patch.object(judge, name, Remembered(getattr(budgets, name))))
    return stack


def failed_cases(report: Any) -> list[str]:
    """The ids of failed cases."""
    return [result.case.id for result in report.results if result.status == "failed"]


def right(part: int) -> Rows:
    """Check the right implementations of the suite in a dtype and with a seed, each at its own standard."""
    prepare()
    seed, place = divmod(part, len(DTYPES))
    dtype = DTYPES[place]
    codes = sorted(right_codes(dtype), key=lambda code: repr(code.loss))
    rows: Rows = []
    with remembering():
        for code in codes:
            settings = {"seed": seed, "standard": code.standard, "groups": VERDICT} | code.settings
            report = check(code.fn, code.loss, framework=code.framework, dtype=dtype, **settings)
            entries = [quantity for result in report.results for quantity in result.quantities]
            rows.append(
                {
                    "kind": "right",
                    "dtype": dtype,
                    "seed": seed,
                    "name": code.name,
                    "framework": code.framework,
                    "loss": repr(code.loss),
                    "standard": code.standard,
                    "state": report.state,
                    "meets": report.meets,
                    "cases": len(report.counted),
                    "entries": sum(quantity.decided + quantity.undecided for quantity in entries),
                    "failed": failed_cases(report),
                }
            )
    return rows


def wrong(part: int) -> Rows:
    """Check a share of the wrong implementations of the suite; with the first, single defects and public code."""
    prepare()
    rows: Rows = []
    codes = sorted(wrong_codes(), key=lambda code: repr(code.loss))[part :: len(WRONG)]
    with remembering():
        for code in codes:
            dtype = "float32" if "float32" in code.dtypes else code.dtypes[-1]
            with np.errstate(all="ignore"):
                settings = {"groups": VERDICT} | code.settings
                report = check(code.fn, code.loss, framework=code.framework, dtype=dtype, **settings)
            rows.append(
                {
                    "kind": "wrong",
                    "name": code.name,
                    "loss": repr(code.loss),
                    "dtype": dtype,
                    "standard": report.standard,
                    "state": report.state,
                    "cases": len(failed_cases(report)),
                    "diagnoses": list(report.diagnoses),
                }
            )
    if part == 0:
        rows += sharp() + public()
    return rows


def sharp() -> Rows:
    """Check single defects in float32, with s=64."""
    rows: Rows = []
    for loss in (refloss.ArcFace(), refloss.CosFace()):
        for name, framework, fn in single_defects(loss):
            reference = replace(loss, label_smoothing=0.1) if name.startswith("smoothing") else loss
            with np.errstate(all="ignore"):
                report = check(fn, reference, framework=framework, groups=VERDICT)
            rows.append(
                {
                    "kind": "sharp",
                    "loss": type(loss).__name__,
                    "defect": name,
                    "flagged": not report.passed,
                    "cases": len(failed_cases(report)),
                    "diagnoses": list(report.diagnoses),
                }
            )
    return rows


def public() -> Rows:
    """Check public code in float32 (the last, which knows float64 only, in that)."""
    rows: Rows = []
    for name, run, framework, fn, loss in public_codes():
        dtype = "float64" if framework == "numpy" else "float32"
        with np.errstate(all="ignore"):
            report = check(fn, loss, framework=framework, dtype=dtype)
        rows.append(
            {
                "kind": "public",
                "name": name,
                "source": run,
                "loss": repr(loss),
                "dtype": dtype,
                "verdicts": report.verdicts,
                "failed": [case.rsplit("-", 1)[0] for case in failed_cases(report)],
                "diagnoses": list(report.diagnoses),
            }
        )
    return rows
