"""The record kernels.md: cross entropies as others published them, and the standard that each meets in each dtype.

The codes are those of tests/support/real_code/, called as there and otherwise unchanged, and Cut Cross-Entropy as torch
compiles it. Each is checked at the standard that the tests ask of it in a dtype, and at "working" where they ask none.
"""

from __future__ import annotations

import math
from pathlib import Path
from textwrap import shorten

import numpy as np
import pages
import torch
from pages import Measured, Rows
from soundness import prepare

import refloss
from refloss.testing import budgets, check
from refloss.testing.hard_cases import VERDICT
from support.real_code import DTYPES, LIBRARIES, ROWS, Row
from support.real_code.kernels import cut_cross_entropy

COMPILED = Row(
    "Cut Cross-Entropy",
    'linear_cross_entropy(x, w, y, impl="torch_compile"), compiled',
    cut_cross_entropy(compiled=True),
    refloss.SoftmaxLoss(),
    {"float16": "mixed", "bfloat16": "mixed", "float32": "stable"},
)
KERNELS: dict[tuple[str, str], list[Row]] = {}
for _row in sorted((*ROWS, COMPILED), key=lambda row: list(LIBRARIES).index(row.library)):
    if _row.loss.spec.head in ("logits", "linear"):
        KERNELS.setdefault((_row.library, _row.code), []).append(_row)
"""Rows of the tests by library and code: one for each set of dtypes that have settings of their own."""
SEEDS = range(2)
PARTS = range(len(KERNELS) * len(SEEDS))
"""Rounds: a code with one of the seeds."""
NOT_RUN = {("Liger", "bfloat16")}
"""What Triton's interpreter gets wrong by itself."""
PACKAGES = (
    "numpy", "torch", "timm", "transformers", "triton", "liger-kernel", "cut-cross-entropy", "keras", "tinygrad",
    "jax", "optax", "scipy", "scikit-learn", "onnxruntime", "onnx",
)  # fmt: skip


def measured(part: int) -> Rows:
    """Check a code in every dtype with the cases of a seed."""
    prepare()
    place, seed = divmod(part, len(SEEDS))
    rows = list(KERNELS.values())[place]
    dtypes = [dtype for dtype in DTYPES if (rows[0].library, dtype) not in NOT_RUN]
    return [checked(next((row for row in rows if dtype in row.standards), rows[0]), dtype, seed) for dtype in dtypes]


def checked(row: Row, dtype: str, seed: int) -> pages.Row:
    """Check a code in a dtype: what it meets, and what is said of it where it meets nothing."""
    library = LIBRARIES[row.library]
    settings = {name: setting for name, setting in row.settings.items() if name != "shapes"}
    if dtype not in row.standards:
        settings.pop("xfail", None)
    if library.framework == "jax":
        settings["shapes"] = library.shapes
    torch.compiler.reset()  # it compiles for so many shapes and dtypes, and not for more
    with np.errstate(all="ignore"):
        report = check(
            row.fn,
            row.loss,
            framework=library.framework,
            dtype=dtype,
            seed=seed,
            groups=VERDICT,
            standard=row.standards.get(dtype, "working"),
            **settings,
        )
    counted = [result for result in report.counted if not result.xfail]
    shares = [quantity.share for result in counted for quantity in result.quantities]
    errors = [result.error for result in counted if result.error and not result.refused]
    return {
        "library": row.library,
        "code": row.code,
        "loss": repr(row.loss),
        "dtype": dtype,
        "state": report.state,
        "meets": report.meets,
        "worst": max((share for share in shares if math.isfinite(share)), default=math.nan),
        "cases": len(counted),
        "failed": [result.case.name for result in counted if result.status == "failed"],
        "xfailed": sorted({result.case.name for result in report.counted if result.xfail}),
        "raised": errors[0].splitlines()[0] if errors else "",
        "diagnoses": list(report.diagnoses),
    }


def standing(rows: Rows) -> str:
    """The strictest standard that a code meets with all seeds, and the largest share of a budget in these checks."""
    if all(row["raised"] and math.isnan(row["worst"]) for row in rows):
        return "–"
    if any(row["state"] != "conforms" for row in rows):
        return "**none**"
    ladder = ("", *budgets.STANDARDS)
    meets = min((row["meets"] for row in rows), key=ladder.index)
    known = "".join(f", not `{name}`" for name in rows[0]["xfailed"])
    return f"{meets}, {max(row['worst'] for row in rows):.2g}{known}"


def standards_table(rows: Rows) -> str:
    """What each code meets, in each dtype."""
    lines = []
    for (library, code, loss), group in pages.grouped(rows, "library", "code", "loss").items():
        each = {dtype: standing(of_dtype) for (dtype,), of_dtype in pages.grouped(group, "dtype").items()}
        lines.append((library, f"`{pages.escaped(code)}`", f"`{loss}`", *(each.get(dtype, "–") for dtype in DTYPES)))
    return pages.table(("library", "code", "reference", *DTYPES), lines, 7)


def refusals_table(rows: Rows) -> str:
    """What the report says where a code meets no standard."""
    lines = []
    refused = [row for row in rows if row["state"] != "conforms"]
    for (library, code, loss, dtype), group in pages.grouped(refused, "library", "code", "loss", "dtype").items():
        said = "; ".join(dict.fromkeys(cause for row in group for cause in row["diagnoses"]))
        raised = next((row["raised"] for row in group if row["raised"]), "")
        worst = max((row["worst"] for row in group if math.isfinite(row["worst"])), default=math.nan)
        lines.append(
            (
                library,
                f"`{pages.escaped(code)}`",
                f"`{loss}`",
                dtype,
                f"{sum(len(row['failed']) for row in group)} of {sum(row['cases'] for row in group)}",
                f"{worst:.2g}" if math.isfinite(worst) else "–",
                pages.escaped(said or (f"raised `{shorten(raised, 80)}`" if raised else "–")),
            )
        )
    titles = ("library", "code", "reference", "dtype", "failing cases", "worst share", "what the report says")
    return pages.table(titles, lines, 7)


def write(measured: Measured, commit: str, folder: Path) -> None:
    """Write kernels.md."""
    rows = measured.rows
    refused = [row for row in rows if row["state"] != "conforms"]
    pages.write(
        folder,
        "kernels.md",
        seeds=len(SEEDS),
        codes=len(KERNELS),
        checks=len(rows),
        cases=sum(row["cases"] for row in rows),
        refused=len(refused),
        facts=pages.facts(measured, commit, PACKAGES),
        standards=standards_table(rows),
        refusals=refusals_table(rows),
    )
