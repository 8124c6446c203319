"""Properties of foreign code: what is right keeps them, each is broken by something, and every mutant breaks one."""

from __future__ import annotations

import numpy as np
import pytest

import mutants
import refloss
from refloss.testing import metamorphic, properties
from test_conformance import LOSSES, ours
from test_frameworks import jax, torch  # noqa: F401 (fixtures)

LOSS = refloss.ArcFace(s=8.0)
LOGITS = refloss.CrossEntropy()
LINEAR = refloss.SoftmaxLoss(reduction="sum")
TRIPLET = refloss.Triplet()


@pytest.fixture
def any_input(monkeypatch):
    """The first input that breaks a property will do, however long."""
    monkeypatch.setattr(metamorphic, "SIMPLER", 0)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_refloss_keeps_them(loss, dtype):
    report = properties(ours(loss), loss, dtype=dtype, examples=3)
    assert report.passed, str(report)
    assert str(report).splitlines()[0].endswith("all properties hold")


def changed(loss, change):
    """Results of refloss, changed before they are returned: change(value, gradients, inputs)."""
    right = ours(loss)

    def fn(*inputs):
        value, *gradients = right(*inputs)
        return change(value, gradients, inputs)

    return fn


def scaled(place, factors):
    """One gradient, times factors that depend on the inputs."""

    def change(value, gradients, inputs):
        return value, *(part * factors(part) if i == place else part for i, part in enumerate(gradients))

    return change


def softmax_alone(value, gradients, inputs):
    """Forgets what the labels take away."""
    z = inputs[0]
    p = np.asarray(refloss.softmax(z))
    return value, p / len(z)


def unnormalised(x, w, y):
    """NormFace that knows no lengths."""
    return ours(refloss.SoftmaxLoss())(x, w, y)


BREAKS = {
    "finite": (LOSS, changed(LOSS, lambda v, g, i: (v, g[0], g[1] * np.nan)), "every gradient are finite"),
    "negative": (LOGITS, changed(LOGITS, lambda v, g, i: (-v, *g)), "No loss is below 0"),
    "samples": (LOSS, changed(LOSS, scaled(0, lambda g: 1.0 + np.arange(len(g))[:, None])), "order of the samples"),
    "classes": (LOSS, changed(LOSS, scaled(1, lambda g: 1.0 + np.arange(len(g))[:, None])), "order of the classes"),
    "logits": (LOGITS, changed(LOGITS, scaled(0, lambda g: 1.0 + np.arange(g.shape[1]))), "order of the classes"),
    "axes": (LOSS, changed(LOSS, scaled(1, lambda g: 1.0 + np.arange(g.shape[1]))), "swapped and reflected"),
    "twice": (LOGITS, changed(LOGITS, lambda v, g, i: (len(i[0]) * v, *g)), "twice leaves a mean"),
    "alone": (LOGITS, changed(LOGITS, lambda v, g, i: (v**2, *g)), "each alone"),
    "lengths": (refloss.NormFace(s=1.0), unnormalised, "The length of a class weight"),
    "length of x": (refloss.NormFace(s=1.0), unnormalised, "The length of an embedding"),
    "radial": (LOSS, changed(LOSS, lambda v, g, i: (v, g[0], g[1] + 0.1 * i[1])), "orthogonal to it"),
    "radial x": (LOSS, changed(LOSS, lambda v, g, i: (v, g[0] + 0.1 * i[0], g[1])), "orthogonal to it"),
    "shift": (LOGITS, lambda z, y: ours(LOGITS)(1.5 * z + z**2, y), "same number added to all logits"),
    "vector": (LINEAR, lambda x, w, y: ours(LINEAR)(x, w * np.abs(w), y), "same vector added to every class"),
    "translation": (TRIPLET, lambda a, p, n: ours(TRIPLET)(a, 2.0 * p, n), "same vector added to all embeddings"),
    "sum": (LOGITS, changed(LOGITS, softmax_alone), "add up to nothing"),
    "sum of triplets": (TRIPLET, changed(TRIPLET, scaled(0, lambda g: 2.0)), "add up to nothing"),
    "detached": (LOSS, ours(LOSS, gradient="detached"), "gradient is that of the value"),
    "no gradient": (LOSS, changed(LOSS, lambda v, g, i: (v, 0.0 * g[0], 0.0 * g[1])), "gradient is that of the value"),
    "shape": (LOSS, changed(LOSS, lambda v, g, i: (v, g[0], g[1][:1])), "every gradient are finite"),
}


@pytest.mark.usefixtures("any_input")
@pytest.mark.parametrize("defect", BREAKS)
def test_each_is_broken_by_something(defect):
    loss, fn, name = BREAKS[defect]
    report = properties(fn, loss, dtype="float64", examples=6)
    assert not report.passed
    assert any(name in title for title in report.broken), str(report)
    assert "broken: " in str(report)


@pytest.mark.usefixtures("any_input")
@pytest.mark.parametrize("mutant", mutants.GROSS)
@pytest.mark.parametrize("loss", [LOSS, LOGITS, TRIPLET], ids=repr)
def test_every_mutant_breaks_one(loss, mutant):
    def change(value, gradients, inputs):
        names = ("x", "w") if len(gradients) == 2 else ("anchor", "positive", "negative")[: len(gradients)]
        return value, *mutants.GROSS[mutant](dict(zip(names, gradients, strict=True))).values()

    assert not properties(changed(loss, change), loss, dtype="float64", examples=4).passed


def test_values_alone_have_properties_too():
    report = properties(ours(LOGITS, gradients=False), LOGITS, dtype="float64", examples=5)
    assert report.passed
    assert properties(ours(LOSS, gradients=False), LOSS, dtype="float64", examples=3).passed
    assert properties(ours(TRIPLET, gradients=False), TRIPLET, dtype="float64", examples=3).passed
    detached = refloss.NormFace(s=8.0, gradient="detached")
    assert properties(ours(detached), detached, dtype="float64", examples=3).passed
    weighted = refloss.CrossEntropy(class_weight=(1.0, 2.0, 3.0, 4.0))
    assert properties(ours(weighted), weighted, dtype="float64", examples=5).passed


def test_what_is_raised_breaks_a_property():
    def broken(*inputs):
        raise RuntimeError("no such kernel")

    assert "raised RuntimeError: no such kernel" in str(properties(broken, LOGITS, examples=2))


def test_an_arccos_holds_on_ordinary_inputs_only(torch):  # noqa: F811
    def arcface(x, w, y):
        cos = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(w).T
        target = torch.nn.functional.one_hot(y, len(w))
        psi = torch.cos(torch.acos(cos.clamp(-1.0, 1.0)) + 0.5)
        return torch.nn.functional.cross_entropy(8.0 * (cos + target * (psi - cos)), y)

    assert properties(arcface, LOSS, "torch", hard=False, examples=4).passed
    report = properties(arcface, LOSS, "torch", examples=6)
    assert not report.passed
    assert "The value and every gradient are finite" in report.broken


def test_jax_keeps_them(jax):  # noqa: F811
    def good(x, w, y):
        z = x @ w.T
        return (jax.scipy.special.logsumexp(z, axis=1) - z[np.arange(len(y)), y]).sum()

    assert properties(good, LINEAR, "jax", examples=5).passed
