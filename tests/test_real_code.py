"""Public code tested against refloss, unchanged: each loss at its own standard, and the known failures by name.

`ROWS` holds what conforms, in which dtype and by which standard. The page docs/testing/libraries.md shows the same
rows, and a test compares the two. The failures follow, each with what the report has to say of it.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refloss
from refloss.testing import Case, Report, Shape, assert_conforms, cases, check, conformance, known
from refloss.testing.adapters import call
from support.real_code import DIFFERENT, DTYPES, LIBRARIES, ROWS, neighbour
from support.real_code.adapters import (
    causal_lm,
    functional,
    jax_log_softmax,
    label_smoother,
    log_loss,
    masked_lm,
    of_module,
    onnx_reference,
    optax_labels,
    pml,
    pml_triplet,
    timm_soft,
    token_classification,
)
from support.real_code.kernels import (
    cut_cross_entropy,
    keras_loss,
    liger_cross_entropy,
    liger_linear,
    tinygrad_loss,
)
from support.real_code.table import FEW, HARD_ARCFACE, NO_IGNORED, VALUE

INTERPRETED = ("Liger", "tinygrad")
"""Libraries whose kernels run as Python, which a tracer slows down."""
PAGE = Path(__file__).parents[1] / "docs/testing/libraries.md"


@pytest.fixture
def library(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Make a library ready, or skip; its framework comes back."""

    def ready(name: str) -> str:
        framework, packages, _ = LIBRARIES[name]
        for package in packages:
            if importlib.util.find_spec(package) is None:  # one that is there and does not load is a failure
                pytest.skip(f"{package} is not installed")
        if framework != "numpy":
            request.getfixturevalue(framework)
        return framework

    return ready


@pytest.mark.skipif("CI" not in os.environ, reason="outside CI not every library has to be there")
@pytest.mark.parametrize("name", LIBRARIES)
def test_ci_has_every_library(name):
    """These tests skip what is not installed: where all run them, nothing may be missing."""
    assert [package for package in LIBRARIES[name].packages if importlib.util.find_spec(package) is None] == []


@pytest.mark.parametrize(
    ("row", "dtype"),
    [
        pytest.param(
            row,
            dtype,
            id=f"{row.library}-{row.code}-{dtype}",
            marks=[pytest.mark.untraced] if row.library in INTERPRETED else [],
        )
        for row in ROWS
        for dtype in row.standards
    ],
)
def test_it_conforms_at_its_standard(row, dtype, library):
    framework, standard = library(row.library), row.standards[dtype]
    shapes = FEW if row.loss.spec.head == "margin" else LIBRARIES[row.library].shapes
    settings = {"shapes": shapes} | row.settings
    report = check(row.fn, row.loss, framework=framework, dtype=dtype, standard=standard, **settings)
    assert report.passed, str(report)
    if row.settings != VALUE:  # a value alone often meets the next standard too, by chance
        assert report.meets == standard, str(report)


STATED = [
    row
    for row in {(row.library, row.code): row for row in ROWS}.values()
    if any((row.library, row.code) == (each.library, each.code) for each in known())
]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row,
            id=f"{row.library}-{row.code}",
            marks=[pytest.mark.untraced] if row.library in INTERPRETED else [],
        )
        for row in STATED
    ],
)
def test_it_is_not_the_loss_beside_it(row, library, monkeypatch):
    """What is known to equal a loss does not conform to one that is near. Which one it is instead, nobody asks."""
    framework = library(row.library)
    monkeypatch.setattr(conformance, "_diagnoses", lambda *_, **__: ())
    dtype = max(row.standards, key=DTYPES.index)
    settings = {"shapes": FEW[:1]} | row.settings | {"groups": ("ordinary", "boundary")}
    settings = {name: setting for name, setting in settings.items() if name != "xfail"}
    report = check(row.fn, neighbour(row.loss), framework=framework, dtype=dtype, **settings)
    assert failed(report), str(report)
    assert not any(result.error for result in report.results if result.status == "failed")  # numbers, and others


@pytest.mark.parametrize("row", [row for row in STATED if isinstance(row.loss, refloss.SubCenterArcFace)])
def test_sub_centers_have_the_rule_that_is_said(row, library):
    """No other case has a sample nearly opposite to all centers of its class."""
    random = np.random.default_rng(3)
    x, w, y = random.normal(size=(4, 5)), random.normal(size=(4, 3, 5)), np.arange(4)
    w[y] = 0.1 * w - x[:, None]
    inputs = (*(array.astype(np.float32).astype(float) for array in (x, w)), y)
    case = Case("boundary-beyond-4x4x5", "boundary", (), "targets beyond pi - m", inputs)
    framework = library(row.library)
    assert check(row.fn, row.loss, framework=framework, cases=[case])
    other = "keep" if row.loss.boundary == "hard" else "hard"
    assert not check(row.fn, replace(row.loss, boundary=other), framework=framework, cases=[case])


@pytest.mark.parametrize(("name", "code"), DIFFERENT, ids=lambda text: text)
def test_what_is_known_to_differ_does(name, code, library, monkeypatch):
    framework = library(name)
    monkeypatch.setattr(conformance, "_diagnoses", lambda *_, **__: ())
    (row,) = (row for row in known() if (row.library, row.code) == (name, code))
    fn, settings = DIFFERENT[name, code]
    assert failed(check(fn, row.loss, framework=framework, **settings))


WITH_DEFECTS = [row for row in known() if row.status == "run" and row.defects]


@pytest.mark.parametrize("row", WITH_DEFECTS, ids=lambda row: f"{row.library}-{row.code}")
def test_what_differs_is_the_loss_with_its_defects(row, library):
    """In value to the last digits; the emulated gradients are differences, right to about eight."""
    framework = library(row.library)
    fn, _ = DIFFERENT[row.library, row.code]
    for case in cases(row.loss, "float64", FEW[:1]):
        if case.group == "ordinary":
            value, gradients = row.emulated.value_and_grad(*case.inputs)
            upstream = np.ones(np.shape(value))
            found = call(fn, framework, "float64", None, case.inputs, upstream, ("anchor", "positive", "negative"))
            np.testing.assert_allclose(found.value, value, rtol=1e-14, atol=1e-14)
            for computed, gradient in zip(found.gradients, gradients, strict=True):
                np.testing.assert_allclose(computed, gradient, rtol=0, atol=1e-8)


# ------------------------------------------------------------------------------------------- known failures, by name


def causes(report: Report) -> list[str]:
    """What a report takes for the causes, without the advice."""
    return [said.split(":")[0] for said in report.diagnoses]


def failed(report: Report) -> set[str]:
    """Names of the cases that failed, `range` aside."""
    return {result.case.name for result in report.results if result.status == "failed" and result.case.group != "range"}


def test_jax_knows_no_ignored_labels_and_optax_loses_what_is_small(library):
    loss = refloss.CrossEntropy(reduction="none")
    report = check(optax_labels, loss, framework=library("optax"), shapes=FEW)
    assert failed(report) == {"boundary-ignored", "boundary-all-ignored"}
    assert any("labels are to be ignored" in said for said in report.diagnoses)
    assert "boundary-ignored" in failed(check(jax_log_softmax, refloss.CrossEntropy(), framework="jax", shapes=FEW))
    report = check(optax_labels, loss, framework="jax", standard="relative", shapes=FEW, **NO_IGNORED)
    assert "hard-confident-30" in failed(report)  # 0 where the truth is 1e-13


def test_masked_classes_are_nan_where_their_probability_is_multiplied(library):
    report = check(timm_soft, refloss.CrossEntropy(), framework=library("timm"), groups="boundary", **NO_IGNORED)
    assert failed(report) == {"boundary-masked"}
    assert "NaN" in str(report)


def test_pytorch_metric_learning_counts_ignored_rows(library):
    fn = pml("NormalizedSoftmaxLoss", temperature=1 / 64)
    report = check(fn, refloss.NormFace(), framework=library("pytorch-metric-learning"), groups="boundary")
    assert causes(report) == ["ignored rows are counted in the mean"]


def test_the_arccos_of_pytorch_metric_learning_is_found_and_named(library):
    settings = {"framework": library("pytorch-metric-learning"), "shapes": FEW} | NO_IGNORED
    report = check(pml("ArcFaceLoss"), HARD_ARCFACE, **settings)
    assert report.verdicts["hard"] == "failed"
    assert all(name.startswith(("hard-theta", "hard-rivals")) for name in failed(report))
    assert causes(report) == ["only where targets are within 0.3 rad of their class or its opposite"]
    other = check(pml("ArcFaceLoss"), refloss.ArcFace(m=HARD_ARCFACE.m), groups=("ordinary", "boundary"), **settings)
    assert any("boundary='hard'" in said for said in other.diagnoses)


def test_the_distances_of_pytorch_metric_learning_differ_with_dtype_and_number(library):
    """Nine triplets are 27 points: torch.cdist then takes |a|² + |p|² - 2 a·p, which near points do not survive."""
    settings = {"framework": library("pytorch-metric-learning"), "shapes": ((9, 1, 13), (5, 1, 9))}
    report = check(pml_triplet, refloss.Triplet(squared=False), **settings)
    assert {"hard-near", "hard-far"} <= failed(report)
    assert all(result.case.id.endswith("-9x1x13") for result in report.results if result.status == "failed")
    report = check(pml_triplet, refloss.Triplet(squared=False), dtype="float16", standard="mixed", **settings)
    assert "hard-near" in failed(report)  # 1e-6 in every coordinate
    few = settings | {"shapes": (5, 1, 9)}
    report = check(pml_triplet, refloss.Triplet(squared=False), dtype="bfloat16", **few)
    assert all("not implemented" in result.error for result in report.results)


@pytest.mark.parametrize("fn", [causal_lm, masked_lm, token_classification])
def test_transformers_computes_float64_in_float32(fn, library):
    report = check(fn, refloss.CrossEntropy(), framework=library("Transformers"), dtype="float64")
    assert "ordinary-random" in failed(report)
    assert causes(report)[0] == "as float32 would give"


def test_transformers_adds_up_smoothed_targets_in_float32(library):
    settings = {"framework": library("Transformers"), "dtype": "float64", "groups": "ordinary"}
    assert not check(label_smoother, refloss.CrossEntropy(label_smoothing=0.1), **settings)


@pytest.mark.parametrize(
    ("name", "fn", "loss", "settings"),
    [
        ("Liger", liger_cross_entropy(), refloss.CrossEntropy(), {"overwrites": ("z",)}),
        ("Liger", liger_linear(), refloss.SoftmaxLoss(), {}),
        ("Cut Cross-Entropy", cut_cross_entropy(), refloss.SoftmaxLoss(), {}),
        ("Keras", keras_loss("CategoricalCrossentropy"), refloss.CrossEntropy(), {}),
    ],
)
def test_kernels_compute_float64_in_float32(name, fn, loss, settings, library):
    """Keras only divides in it, by the number of rows: without a reduction it is right."""
    framework = library(name)
    report = check(fn, loss, framework=framework, dtype="float64", groups="ordinary", shapes=FEW[:1], **settings)
    assert "ordinary-random" in failed(report)
    assert all(entry.over for entry in report.results[0].quantities if not entry.passed)  # numbers, and off


def test_liger_writes_its_gradient_over_the_logits(library):
    report = check(
        liger_cross_entropy(), refloss.CrossEntropy(), framework=library("Liger"), groups="ordinary", shapes=FEW[:1]
    )
    assert "z: is not what it was before the call: the code writes into its input" in str(report)


def test_the_interpreter_cuts_off_bfloat16(library):
    """Of a loss of log 3 the interpreter of Triton 3.9.0 keeps the bits that fit, where a GPU rounds."""
    library("Liger")
    import torch

    loss = liger_cross_entropy()(torch.zeros(1, 3, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.int64))
    assert loss.item() == 1.09375
    assert torch.tensor(math.log(3.0)).bfloat16().item() == 1.1015625


@pytest.mark.parametrize("option", ["weight", "softcap"])
def test_the_interpreter_fails_of_some_of_liger(option, library):
    library("Liger")
    import torch

    z, y = torch.zeros(1, 3, requires_grad=True), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(Exception, match=r"float\W+ object has no attribute"):
        liger_cross_entropy(**{option: torch.ones(3) if option == "weight" else 30.0})(z, y)


def test_the_interpreter_fails_of_cut_cross_entropy(library):
    library("Cut Cross-Entropy")
    import torch
    from cut_cross_entropy import linear_cross_entropy

    x, w = torch.zeros(2, 3), torch.zeros(4, 3)
    with pytest.raises(Exception, match=r"NoneType\W+ object has no attribute"):
        linear_cross_entropy(x, w, torch.zeros(2, dtype=torch.int64), impl="cce")


def test_tinygrad_fails_of_35_classes_in_float16(library):
    """tinygrad 0.14.0, on the device PYTHON."""
    fn = tinygrad_loss("sparse_categorical_crossentropy", ignore_index=-100)
    settings = {"framework": library("tinygrad"), "groups": "ordinary", "shapes": (5, 35, 9)}
    assert check(fn, refloss.CrossEntropy(), dtype="bfloat16", **settings)
    report = check(fn, refloss.CrossEntropy(), dtype="float16", **settings)
    assert all("UOp verification failed" in result.error for result in report.results)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_reference_evaluator_takes_the_log_of_a_softmax(dtype, library):
    settings = {"framework": library("ONNX, the reference evaluator"), "dtype": dtype, "shapes": FEW[:1]}
    report = check(onnx_reference(), refloss.CrossEntropy(), groups="hard", **settings, **VALUE, **NO_IGNORED)
    assert (
        failed(report)
        == {
            "float16": {"hard-wrong-30", "hard-wrong-120"},
            "float32": {"hard-wrong-120", "hard-wrong-800"},
            "float64": {"hard-wrong-800"},
        }[dtype]
    )
    assert "a probability vanishes before its logarithm" in report.diagnoses[0]


@pytest.mark.parametrize("function", ["triplet_margin_loss", "triplet_margin_with_distance_loss"])
def test_torch_adds_1e_6_to_every_coordinate(function, library):
    framework = library("PyTorch")
    default = partial(getattr(functional(), function), margin=0.2)
    report = check(default, refloss.Triplet(squared=False), framework=framework)
    assert {"ordinary-random", "hard-near"} <= failed(report)


def test_log_loss_of_probabilities_is_cut_off(library):
    """scikit-learn's metric takes probabilities, none of them below eps: no loss is above 36."""
    library("scikit-learn")

    report = check(log_loss, refloss.CrossEntropy(), dtype="float64", **NO_IGNORED, **VALUE)
    assert failed(report) == {"hard-wrong-120", "hard-wrong-800"}
    said = "probabilities are held above 2.22045e-16 before their logarithm: take log_softmax"
    assert report.diagnoses == (said,)


def test_a_detached_margin_is_found_and_named(torch):
    def insightface(x, w, y):
        """As InsightFace's arcface_torch has it since 2022: the margin under no_grad, none of a rule."""
        f = torch.nn.functional
        cos = f.linear(f.normalize(x), f.normalize(w)).clamp(-1, 1)
        with torch.no_grad():
            target = f.one_hot(y, len(w)).bool()
            moved = torch.where(target, torch.cos(torch.acos(cos) + 0.5), cos)
        return f.cross_entropy(64 * (cos + (moved - cos).detach()), y)

    settings = {"framework": "torch", "groups": ("ordinary", "boundary")} | NO_IGNORED
    report = check(insightface, refloss.ArcFace(), **settings)
    assert report.diagnoses[0].startswith("the gradient is that of the detached margin")
    assert_conforms(insightface, refloss.ArcFace(gradient="detached"), **settings)


# -------------------------------------------------------------------------------------------------- pages and recipes


@pytest.mark.parametrize("case", cases(refloss.CosFace(), shapes=[Shape(4, 5, 16)], ignored=False), ids=str)
def test_the_recipe_for_pytest(torch, case):
    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(16, 5, bias=False)

        def forward(self, x, y):
            cos = (x / row_length(x)) @ (self.linear.weight / row_length(self.linear.weight)).T
            return torch.nn.functional.cross_entropy(64 * (cos - 0.35 * torch.nn.functional.one_hot(y, 5)), y)

    def row_length(rows):
        return rows.norm(dim=1, keepdim=True)

    if set(case.flags) & {"zero vector", "overflow", "underflow"}:
        pytest.skip("this code takes no care of extreme lengths")
    fn = of_module(lambda c, d: Head(), "linear.weight")
    assert_conforms(fn, refloss.CosFace(), framework="torch", cases=[case])


def page_rows() -> Iterator[tuple[str, str, Any, dict[str, str], dict[str, Any]]]:
    """Rows of the page's tables: library, code, loss, standards, settings; the first block of code names things."""
    text = PAGE.read_text()
    library, names = "", {}
    exec(re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1], names)
    for line in text.splitlines():
        if line.startswith("## "):
            library = line.removeprefix("## ")
        if line.startswith("| `") and library in LIBRARIES:
            code, loss, standards, settings = (cell.strip("`– ") for cell in line.strip("|").split(" | "))
            by_dtype = {
                dtype: standard
                for standard, _, dtypes in (part.partition(": ") for part in standards.split("; "))
                for dtype in (dtypes.split(", ") if dtypes else DTYPES)
            }
            yield library, code, eval(loss, names), by_dtype, eval(f"dict({settings})", names)


def test_the_page_shows_these_rows():
    shown = list(page_rows())
    assert [row[:2] for row in shown] == [(row.library, row.code) for row in ROWS]
    for row, (_, code, *others) in zip(ROWS, shown, strict=True):
        assert others == [row.loss, row.standards, row.settings], code
