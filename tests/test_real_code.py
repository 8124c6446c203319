"""Public code held to refloss, unchanged: what conforms does, and the failures that are known are found and named."""

from __future__ import annotations

import warnings

import pytest

import refloss
from refloss.testing import Shape, assert_conforms, cases, check
from test_frameworks import jax, optax, pml, torch  # noqa: F401 (fixtures)

IGNORED = {"boundary-ignored-8x20x64": "it knows no ignored labels"}


def of_module(torch, module, name, turned=False):  # noqa: F811
    """The recipe for modules that own their weights: call them with others in their place."""

    def fn(x, w, y):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pytorch-metric-learning's, about NumPy 2
            return torch.func.functional_call(module, {name: w.T if turned else w}, (x, y))

    return fn


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"reduction": "sum"}, {"reduction": "none"}, {"label_smoothing": 0.1}, {"ignore_index": 3}],
    ids=str,
)
def test_cross_entropy_of_torch_conforms(torch, settings, dtype):  # noqa: F811
    def fn(z, y):
        return torch.nn.functional.cross_entropy(z, y, **settings)

    assert_conforms(fn, refloss.CrossEntropy(**settings), framework="torch", dtype=dtype)


def test_cross_entropy_of_optax_conforms(optax):  # noqa: F811
    def fn(z, y):
        return optax.softmax_cross_entropy_with_integer_labels(z, y)

    loss = refloss.CrossEntropy(reduction="none")
    report = check(fn, loss, framework="jax", xfail=IGNORED)
    assert report.passed, str(report)
    report = check(fn, loss, framework="jax", standard="relative", xfail=IGNORED)
    assert not report.passed  # confident labels: 0 where the truth is 1e-17
    assert "confident-30" in str(report)
    report = check(fn, loss, framework="jax")
    assert [said.split(":")[0] for said in report.diagnoses] == [
        "only where labels are to be ignored (ignore_index=-100)",
        "only where all logits are large",
    ]


def pml_loss(torch, pml, name, **settings):  # noqa: F811
    module = getattr(pml, name)(num_classes=20, embedding_size=64, **settings)
    return of_module(torch, module, "W", turned=True)


def test_pytorch_metric_learning_conforms_where_it_should(torch, pml):  # noqa: F811
    for name, settings, loss in (
        ("CosFaceLoss", {"margin": 0.35, "scale": 64}, refloss.CosFace()),
        ("NormalizedSoftmaxLoss", {"temperature": 1 / 64}, refloss.NormFace()),
    ):
        known = IGNORED if name == "NormalizedSoftmaxLoss" else {}
        report = check(pml_loss(torch, pml, name, **settings), loss, framework="torch", xfail=known)
        assert report.passed, str(report)
    arcface = pml_loss(torch, pml, "ArcFaceLoss", margin=28.6, scale=64)
    loss = refloss.ArcFace(m=28.6 * 3.141592653589793 / 180, boundary="hard")
    assert_conforms(arcface, loss, framework="torch", groups=("ordinary", "boundary"))


def test_pytorch_metric_learning_counts_ignored_rows(torch, pml):  # noqa: F811
    fn = pml_loss(torch, pml, "NormalizedSoftmaxLoss", temperature=1 / 64)
    report = check(fn, refloss.NormFace(), framework="torch", groups=("boundary",))
    assert [said.split(":")[0] for said in report.diagnoses] == ["ignored rows are counted in the mean"]


def test_the_arccos_of_pytorch_metric_learning_is_found_and_named(torch, pml):  # noqa: F811
    arcface = pml_loss(torch, pml, "ArcFaceLoss", margin=28.6, scale=64)
    loss = refloss.ArcFace(m=28.6 * 3.141592653589793 / 180, boundary="hard")
    report = check(arcface, loss, framework="torch")
    assert report.verdicts["hard"] == "failed"
    assert [said.split(":")[0] for said in report.diagnoses] == [
        "only where targets are within 0.3 rad of their class or its opposite"
    ]
    other = check(arcface, refloss.ArcFace(m=loss.m), framework="torch", groups=("ordinary", "boundary"))
    assert any("boundary='hard'" in said for said in other.diagnoses)
    both = check(arcface, refloss.ArcFace(m=loss.m), framework="torch")
    assert both.diagnoses[0].startswith("value and gradient agree with boundary='hard'")
    assert both.diagnoses[0].endswith("where more is wrong)")


def test_a_detached_margin_is_found_and_named(torch):  # noqa: F811
    def insightface(x, w, y):
        """As InsightFace's arcface_torch has it since 2022: the margin under no_grad, none of a rule."""
        f = torch.nn.functional
        cos = f.linear(f.normalize(x), f.normalize(w)).clamp(-1, 1)
        with torch.no_grad():
            target = f.one_hot(y, len(w)).bool()
            moved = torch.where(target, torch.cos(torch.acos(cos) + 0.5), cos)
        return f.cross_entropy(64 * (cos + (moved - cos).detach()), y)

    report = check(insightface, refloss.ArcFace(), framework="torch", groups=("ordinary", "boundary"))
    assert report.diagnoses[0].startswith("the gradient is that of the detached margin")
    detached = refloss.ArcFace(gradient="detached")
    assert_conforms(insightface, detached, framework="torch", groups=("ordinary", "boundary"))


@pytest.mark.parametrize("case", cases(refloss.CosFace(), shapes=[Shape(4, 5, 16)]), ids=str)
def test_the_recipe_for_pytest(torch, case):  # noqa: F811
    linear = torch.nn.Linear(16, 5, bias=False)

    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = linear

        def forward(self, x, y):
            f = torch.nn.functional
            cos = f.linear(x / row_length(torch, x), self.linear.weight / row_length(torch, self.linear.weight))
            return f.cross_entropy(64 * (cos - 0.35 * f.one_hot(y, 5)), y)

    if set(case.flags) & {"ignored", "zero vector", "overflow", "underflow"}:
        pytest.skip("this code has no ignored labels and no care for extreme lengths")
    assert_conforms(of_module(torch, Head(), "linear.weight"), refloss.CosFace(), framework="torch", cases=[case])


def row_length(torch, rows):  # noqa: F811
    return rows.norm(dim=1, keepdim=True)
