"""``refloss cases``: the cases of a loss, each with the reason why it is there."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from refloss import testing
from refloss.cli.options import AsJson, Dtype, LossOption, Seed, Shapes
from refloss.cli.printing import make_console, show_json
from refloss.cli.refusals import refusing
from refloss.testing.hard_cases import Case


def command(
    loss: LossOption, dtype: Dtype = "float32", shapes: Shapes = None, seed: Seed = 0, as_json: AsJson = False
) -> None:
    """List the cases of a loss, each with the reason why it is there."""
    with refusing():
        cases = testing.cases(loss, dtype, shapes or None, seed)
    show_json([case_data(case) for case in cases]) if as_json else show_cases(cases)


def show_cases(cases: Iterable[Case]) -> None:
    """Print one line per case."""
    console = make_console()
    for case in cases:
        console.print(f"{case.id}: {case.reason}", soft_wrap=True)


def case_data(case: Case) -> dict[str, object]:
    """Return what is known of a case, with the shapes of its inputs in place of their numbers."""
    return {
        "case": case.id,
        "group": case.group,
        "reason": case.reason,
        "flags": list(case.flags),
        "accepts": list(case.accepts),
        "inputs": [list(np.shape(entry)) for entry in case.inputs],
    }
