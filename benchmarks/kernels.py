"""The record kernels.md: cross entropies as others published them, and the standard that each meets in each dtype.

The codes are those of tests/support/real_code/, called as there and otherwise unchanged. Each is checked at the
standard that the table there gives it in a dtype, and at "working" in dtypes for which it gives none.
"""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pages
from pages import Measured, Rows
from soundness import prepare

from refloss.testing import budgets, check
from refloss.testing.hard_cases import VERDICT
from support.real_code import DTYPES, LIBRARIES, ROWS, Row

KERNELS = [row for row in ROWS if row.loss.spec.head in ("logits", "linear")]
SEEDS = range(2)
PARTS = range(len(KERNELS) * len(SEEDS))
"""Rounds: a code with one of the seeds."""
MOST = 100
"""Longest text of a cause in a cell."""


def measured(part: int) -> Rows:
    """Check a code in every dtype with the cases of a seed."""
    prepare()
    place, seed = divmod(part, len(SEEDS))
    return [checked(KERNELS[place], place, dtype, seed) for dtype in DTYPES]


def checked(row: Row, place: int, dtype: str, seed: int) -> pages.Row:
    """Check a code in a dtype: what it meets, and what is said of it where it meets nothing."""
    library = LIBRARIES[row.library]
    with np.errstate(all="ignore"):
        report = check(
            row.fn,
            row.loss,
            framework=library.framework,
            dtype=dtype,
            seed=seed,
            standard=row.standards.get(dtype, "working"),
            **{"shapes": library.shapes, "groups": VERDICT} | row.settings,
        )
    failed = [result for result in report.results if result.status == "failed"]
    entries = [quantity for result in report.counted if not result.xfail for quantity in result.quantities]
    errors = {result.error for result in report.results if result.error}
    return {
        "place": place,
        "dtype": dtype,
        "state": report.state,
        "meets": report.meets,
        "worst": max((quantity.share for quantity in entries if math.isfinite(quantity.share)), default=math.nan),
        "cases": len(report.counted),
        "failed": [result.case.name for result in failed],
        "raised": min(errors) if len(errors) and all(result.error for result in report.results) else "",
        "diagnoses": list(report.diagnoses),
    }
