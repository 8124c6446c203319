"""The plain code of examples/: the losses that it is, and what `check` says of it.

A file of examples/ is called as the function in it. What `check` says is kept in examples/verdicts.csv, which the site
shows; benchmarks/plain_code.py writes it, and tests/test_examples.py compares it with what `check` says now.
"""

from __future__ import annotations

import csv
import importlib.util
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import refloss
from refloss.testing import Report, check
from refloss.testing.hard_cases import SHAPES

EXAMPLES = Path(__file__).parents[2] / "examples"
TABLE = EXAMPLES / "verdicts.csv"
FRAMEWORKS = {"numpy": "numpy", "torch": "torch", "torch_function": "torch", "jax": "jax"}
"""The framework of each folder."""
DTYPES = ("float32", "float64")
LOSSES: dict[str, tuple[Any, ...]] = {
    "softmax_loss": (refloss.SoftmaxLoss(),),
    "cross_entropy": (
        refloss.CrossEntropy(),
        refloss.CrossEntropy(label_smoothing=0.1, class_weight=(0.5, 2.0, 1.0, 0.0, 3.0)),
    ),
    "modified_softmax": (refloss.ModifiedSoftmax(),),
    "normface": (refloss.NormFace(),),
    "a_softmax": (refloss.ASoftmax(),),
    "cosface": (refloss.CosFace(),),
    "arcface": (refloss.ArcFace(),),
    "combined_margin": (refloss.CombinedMargin(),),
    "arcface_per_sample": (refloss.ArcFace(),),
    "adaface": (refloss.AdaFace(),),
    "magface": (refloss.MagFace(),),
    "curricularface": (refloss.CurricularFace(),),
    "mv_softmax": (refloss.MVSoftmax(),),
    "sub_center_arcface": (refloss.SubCenterArcFace(),),
    "sphereface_r": (refloss.SphereFaceR(),),
    "circle_loss": (refloss.CircleLoss(),),
    "inter_top_k": (refloss.InterTopK(),),
    "sphereface2": (refloss.SphereFace2(),),
    "uniface": (refloss.UniFace(),),
    "siglip": (refloss.SigLIP(),),
    "infonce": (refloss.InfoNCE(),),
    "triplet": (refloss.Triplet(),),
    "kl_divergence": (refloss.KLDivergence(),),
}
"""The losses that each file is checked against, by its name, in the order of the site."""


class Row(NamedTuple):
    """A row of the table: what `check` says of a file."""

    file: str
    loss: str
    dtype: str
    state: str
    meets: str
    """The strictest standard."""
    range: str
    """Names of the cases of the group "range" that fail."""


def files() -> list[str]:
    """Names of all files, such as numpy/arcface."""
    return [f"{folder}/{path.stem}" for folder in FRAMEWORKS for path in sorted(EXAMPLES.glob(f"{folder}/*.py"))]


def checks() -> list[tuple[str, Any, str]]:
    """Every file with each of its losses and dtypes, in the order of the table."""
    return [(file, loss, dtype) for file in files() for loss in LOSSES[file.partition("/")[2]] for dtype in DTYPES]


def recorded() -> list[Row]:
    """Read the table."""
    with TABLE.open(newline="") as lines:
        return [Row(**row) for row in csv.DictReader(lines)]


def function(file: str) -> Callable[..., Any]:
    """Import the function of a file."""
    name = file.partition("/")[2]
    spec = importlib.util.spec_from_file_location(f"example_{file.replace('/', '_')}", EXAMPLES / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fn: Callable[..., Any] = getattr(module, name)
    return fn


def settings_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """The settings of a function, and their defaults; a bias is an input."""
    parameters = inspect.signature(fn).parameters
    return {name: each.default for name, each in parameters.items() if each.default is not each.empty and name != "b"}


def of_loss(fn: Callable[..., Any], loss: Any) -> Callable[..., Any]:
    """The function with the settings of a loss, of those that differ from its own."""
    changed = {name: getattr(loss, name) for name, own in settings_of(fn).items() if getattr(loss, name) != own}
    return partial(fn, **changed) if changed else fn


def report_of(file: str, loss: Any, dtype: str, **settings: Any) -> Report:
    """Check a file. Cross entropy alone has labels that are ignored. JAX takes long, and is given one shape."""
    fn = of_loss(function(file), loss)
    framework = FRAMEWORKS[file.partition("/")[0]]
    if framework == "jax":
        weights = getattr(loss, "class_weight", None) or [1.0] * SHAPES[0].c
        settings = {"shapes": SHAPES[0]._replace(c=len(weights))} | settings
    return check(fn, loss, framework=framework, dtype=dtype, ignored="cross_entropy" in file, **settings)


def row_of(file: str, loss: Any, dtype: str) -> Row:
    """Check a file, and return its row of the table."""
    report = report_of(file, loss, dtype)
    failed = dict.fromkeys(result.case.name for result in report.results if result.status == "failed")
    beyond = [name.removeprefix("range-") for name in failed if name.startswith("range-")]
    return Row(file, str(loss), dtype, report.state, report.meets, " ".join(beyond))
