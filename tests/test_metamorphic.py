"""Properties of foreign code: right code keeps them, each is broken by something, and every mutant breaks one."""

from __future__ import annotations

import re
import sys
import types
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import refloss
from refloss.formats import dtype_of
from refloss.testing import metamorphic, properties
from refloss.testing.budgets import arithmetic
from refloss.testing.hard_cases import Shape
from refloss.testing.metamorphic import accumulation, changes, excluded, search, within_result
from refloss.testing.metamorphic.code import BrokenError, Code
from refloss.testing.metamorphic.comparisons import within
from refloss.testing.metamorphic.labels import kinds_of_classes, of_one_sign, with_a_mean
from refloss.testing.signatures import INPUTS
from support import mutants
from support.foreign import LOSSES, ours

LOSS = refloss.ArcFace(s=8.0)
LOGITS = refloss.CrossEntropy()
ROWS = refloss.CrossEntropy(reduction="none")
SUM = refloss.CrossEntropy(reduction="sum")
LINEAR = refloss.SoftmaxLoss(reduction="sum")
TRIPLET = refloss.Triplet()
DIVERGENCE = refloss.KLDivergence()
WEIGHTED = refloss.CrossEntropy(class_weight=(0.0, 2.0, 1.0, 1.0, 0.0))

IGNORED = "Samples whose label is ignored"
WITHOUT = "A batch with ignored labels"
NOTHING = "A batch of nothing but ignored labels"
PARTS = "The loss of parts, weighted by what counts"
WITH_IGNORED = "The loss of parts with ignored labels"
CLOSED = "Triplets that keep the margin"
MASKED = "A logit of -inf"
FINITE = "The value and every gradient are finite"
REPEATABLE = "The same inputs give the same results"


@pytest.fixture
def any_input(monkeypatch):
    """The first input that breaks a property will do, however long."""
    monkeypatch.setattr(search, "SIMPLER", 0)


@pytest.fixture
def first_break(any_input, monkeypatch):
    """Nothing more is tried once a property is broken."""
    tried, broken = metamorphic.try_property, []

    def until(*settings):
        if broken:
            return metamorphic.Outcome(untried="enough")
        outcome = tried(*settings)
        broken.extend([outcome] if outcome.broken else [])
        return outcome

    monkeypatch.setattr(metamorphic, "try_property", until)


@pytest.fixture
def only(any_input, monkeypatch):
    """Only properties whose titles hold a text are tried; or the first, if none does."""
    every = metamorphic.properties_of

    def restrict(text):
        def some(*settings):
            each = list(every(*settings))
            return [entry for entry in each if text in entry.__doc__] or each[:1]

        monkeypatch.setattr(metamorphic, "properties_of", some)

    return restrict


# ------------------------------------------------------------------------------------------------------ what keeps them


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_refloss_keeps_them(loss, dtype):
    report = properties(ours(loss), loss, dtype=dtype, examples=3)
    assert report.passed, str(report)
    assert report
    assert report.state == "holds"
    assert not report.untried
    assert str(report).splitlines()[0].endswith("all properties hold")


SETTINGS = [
    WEIGHTED,
    replace(WEIGHTED, label_smoothing=0.1),
    replace(WEIGHTED, reduction="none"),
    replace(LOGITS, ignore_index=2),
    replace(LOGITS, ignore_index=None),
    replace(LINEAR, class_weight=(1.0, 2.0, 3.0), reduction="mean"),
    replace(LOSS, class_weight=(0.0, 1.0, 1.0), reduction="sum"),
    replace(LOGITS, class_weight=(-1.0, 1.0, 0.0, -1.0)),
    replace(LOGITS, class_weight=(-1.0, 2.0, -1.0), reduction="none", label_smoothing=0.2),
    replace(LOSS, class_weight=(-1.0, 0.5, 0.5)),
    refloss.Triplet(squared=False, m=1.0),
    refloss.Triplet(reduction="none"),
    refloss.ArcFace(gradient="detached", s=None),
    refloss.KLDivergence(reduction="none"),
    refloss.KLDivergence(form="reverse", reduction="sum"),
]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("loss", SETTINGS, ids=repr)
def test_settings_keep_them(loss, dtype):
    assert properties(ours(loss), loss, dtype=dtype, examples=3).passed


def test_the_jensen_shannon_divergence_keeps_them():
    """In bfloat16 it takes more tries: it is at most log 2, and its budget is often larger."""
    loss = refloss.KLDivergence(form="jensen-shannon", reduction="sum")
    for dtype in ("bfloat16", "float64"):
        assert properties(ours(loss), loss, dtype=dtype, examples=10).passed


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 3), (2, 2, 1), (5, 1, 2)], ids=repr)
@pytest.mark.parametrize("loss", [LOGITS, LINEAR, LOSS, TRIPLET, DIVERGENCE], ids=repr)
def test_small_shapes_keep_them(loss, shape):
    report = properties(ours(loss), loss, dtype="float64", shape=shape, examples=4)
    assert report.passed, str(report)


def test_which_properties_there_are():
    def titles(loss, **settings):
        return " ".join(properties(ours(loss), loss, dtype="float64", examples=1, **settings).held)

    logits = titles(LOGITS)
    assert MASKED in logits
    assert IGNORED in logits
    assert "weight 0" not in logits
    assert "samples changes" in logits
    assert "samples changes" not in titles(LOGITS, shape=(1, 4, 4))
    assert IGNORED not in titles(LOGITS, ignored=False)
    assert IGNORED not in titles(replace(LOGITS, ignore_index=None))
    assert MASKED not in titles(replace(LOGITS, label_smoothing=0.1))
    weighted = titles(WEIGHTED)
    assert "have weight 0" in weighted or "has weight 0" in weighted
    assert "classes changes" in weighted  # of the same weight
    assert "classes changes" not in titles(replace(LOGITS, class_weight=(1.0, 2.0)))
    assert "weight 0" not in titles(replace(WEIGHTED, label_smoothing=0.1))
    assert "below 0" in weighted
    assert "below 0" not in titles(replace(LOGITS, class_weight=(1.0, -2.0)))
    assert CLOSED in titles(TRIPLET)
    divergence = titles(DIVERGENCE)
    assert "classes changes" in divergence
    assert "all logits" in divergence
    assert IGNORED not in divergence
    assert "classes changes" not in titles(DIVERGENCE, shape=(2, 1, 1))
    assert "is that of the value" not in titles(refloss.ArcFace(gradient="detached"))
    assert "orthogonal" in titles(LOSS, gradients="x")
    assert "orthogonal" not in titles(refloss.ArcFace(s=None), gradients="x")


def test_labels_whose_weights_cancel_are_replaced():
    """By the largest weight that counts, so that a mean of any of them divides by no 0."""
    loss = refloss.CrossEntropy(class_weight=(1.0, -1.0, 3.0, 0.0, -2.0), ignore_index=2)
    y = np.array([0, 1, 3, 4])
    assert of_one_sign(loss, y).tolist() == [4, 1, 3, 4]
    assert with_a_mean(loss, y).tolist() == y.tolist()
    assert with_a_mean(loss, y[:2]).tolist() == [4, 1]
    for other in (replace(loss, reduction="sum"), replace(loss, class_weight=None)):
        assert of_one_sign(other, y).tolist() == y.tolist()


def test_a_class_of_weight_minus_1_is_not_the_one_that_is_ignored():
    loss = refloss.CrossEntropy(class_weight=(-1.0, 1.0, -1.0), ignore_index=2)
    code = SimpleNamespace(loss=loss, weights=np.array(loss.class_weight))
    assert kinds_of_classes(code, 3).tolist() == [-1.0, 1.0, np.inf]


# ----------------------------------------------------------------------------------------------------- what breaks them


def changed(loss, change, **settings):
    """Results of refloss, changed before they are returned: change(value, gradients, inputs)."""
    right = ours(loss, **settings)

    def fn(*inputs):
        value, *gradients = right(*inputs)
        return change(value, gradients, inputs)

    return fn


def scaled(place, factors):
    """One gradient, times factors that depend on it."""

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


def ignored(y):
    """A column of 1 where labels are ignored, else of 0."""
    return (np.asarray(y) == -100)[:, None] * 1.0


def overwritten(x, w, y):
    """dW of labels that repeat: the last sample's alone."""
    value, grad = LINEAR.value_and_grad(x, w, y)
    p = np.asarray(refloss.softmax(x @ w.T))
    dw = p.T @ x
    dw[y] -= x
    return value, grad.x, dw


def counting_all(z, y):
    """Mean over all rows, also those that are ignored."""
    value, grad = refloss.CrossEntropy(reduction="sum").value_and_grad(z, y)
    return value / len(y), grad.z / len(y)


def weighing(y):
    """A column of 1 where the class has weight 0, else of 0."""
    return (np.asarray(WEIGHTED.class_weight)[np.where(y < 0, 1, y)] == 0.0)[:, None] * 1.0


def kept(anchor, positive, negative):
    """A column of 1 where the margin is kept, else of 0."""
    near, far = (((anchor - other) ** 2).sum(axis=1) for other in (positive, negative))
    return (near - far + TRIPLET.m < 0.0)[:, None] * 1.0


def coinciding(value, gradients, inputs):
    """Divides by the distance."""
    distance = np.linalg.norm(inputs[0] - inputs[1], axis=1, keepdims=True)
    return value, *(np.where(distance == 0.0, np.nan, part) for part in gradients)


def log_of_softmax(z, y):
    """The logarithm of a probability that is rounded to 0."""
    with np.errstate(all="ignore"):
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return -np.log(p[np.arange(len(y)), y]).mean()


def no_maximum(z, y):
    """The sum of exponentials as they are."""
    with np.errstate(all="ignore"):
        return (np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]).mean()


def once_in(count, change):
    """Every so many calls another result."""
    calls = []

    def fn(z, y):
        calls.append(1)
        value, grad = LOGITS.value_and_grad(z, y)
        return (change(value) if len(calls) % count == 0 else value), grad.z

    return fn


def with_bias(x, w, y, b):
    """A bias that is squared."""
    value, grad = LINEAR.value_and_grad(x, w, y, b**2)
    return value, grad.x, grad.w, 2.0 * b * grad.b


def wrong_bias(x, w, y, b):
    """The gradient of a bias, of the mean."""
    value, grad = LINEAR.value_and_grad(x, w, y, b)
    return value, grad.x, grad.w, grad.b / len(y)


def writing(place):
    """Writes into an input once it has done its work."""

    def change(value, gradients, inputs):
        inputs[place][:1] = 0
        return value, *(part.copy() for part in gradients)

    return change


def clipped(least, most):
    """Probabilities between two bounds, with the gradient that this has."""

    def fn(z, y):
        each = np.arange(len(y))
        p = np.asarray(refloss.softmax(z))
        own = p[each, y]
        gradient = p.copy()
        gradient[each, y] -= 1.0
        inside = (own > least) & (own < most)
        return -np.log(np.clip(own, least, most)).mean(), gradient * inside[:, None] / len(y)

    return fn


def scaled_logits(z, y):
    """A temperature of 1.001."""
    value, grad = LOGITS.value_and_grad(z / 1.001, y)
    return value, grad.z / 1.001


def for_batches_of_two(z, y):
    """Half as large for batches of two, as of a kernel that takes four rows at a time."""
    value, grad = LOGITS.value_and_grad(z, y)
    return (0.5 * value, 0.5 * grad.z) if len(y) == 2 else (value, grad.z)


def by_number(z, y):
    """A weighted sum divided by the number of rows that count."""
    value, grad = replace(WEIGHTED, reduction="sum").value_and_grad(z, y)
    count = max(int((y >= 0).sum()), 1)
    return value / count, grad.z / count


def remembering_its_count():
    """A mean that divides by the number of rows of the first batch it has seen."""
    count = []

    def fn(z, y):
        count.append(max(int((y >= 0).sum()), 1))
        value, grad = SUM.value_and_grad(z, y)
        return value / count[0], grad.z / count[0]

    return fn


BREAKS = {
    "finite": (LOSS, changed(LOSS, lambda v, g, i: (v, g[0], g[1] * np.nan)), FINITE),
    "infinite": (LOGITS, changed(LOGITS, lambda v, g, i: (np.inf, *g)), FINITE),
    "missing": (LOSS, changed(LOSS, lambda v, g, i: (v, g[0])), FINITE),
    "shape": (LOSS, changed(LOSS, lambda v, g, i: (v, g[0], g[1][:1])), FINITE),
    "underflow": (LOGITS, log_of_softmax, FINITE),
    "negative": (LOGITS, changed(LOGITS, lambda v, g, i: (-v, *g)), "No loss is below 0"),
    "samples": (LOSS, changed(LOSS, scaled(0, lambda g: 1.0 + np.arange(len(g))[:, None])), "order of the samples"),
    "classes": (LOSS, changed(LOSS, scaled(1, lambda g: 1.0 + np.arange(len(g))[:, None])), "order of the classes"),
    "logits": (LOGITS, changed(LOGITS, scaled(0, lambda g: 1.0 + np.arange(g.shape[1]))), "order of the classes"),
    "axes": (LOSS, changed(LOSS, scaled(1, lambda g: 1.0 + np.arange(g.shape[1]))), "swapped and reflected"),
    "twice": (LOGITS, changed(LOGITS, lambda v, g, i: (len(i[0]) * v, *g)), "twice leaves a mean"),
    "alone": (LOGITS, changed(LOGITS, lambda v, g, i: (v**2, *g)), "each alone"),
    "rows": (LOGITS, changed(LOGITS, lambda v, g, i: (v, np.roll(g[0], 1, axis=0))), "each alone"),
    "repeated": (LINEAR, overwritten, "each alone"),
    "lengths": (refloss.NormFace(s=1.0), unnormalised, "The length of a class weight"),
    "length of x": (refloss.NormFace(s=1.0), unnormalised, "The length of an embedding"),
    "radial": (LOSS, changed(LOSS, lambda v, g, i: (v, g[0], g[1] + 0.1 * i[1])), "orthogonal to it"),
    "radial x": (LOSS, changed(LOSS, lambda v, g, i: (v, g[0] + 0.1 * i[0], g[1])), "orthogonal to it"),
    "shift": (LOGITS, lambda z, y: ours(LOGITS)(1.5 * z + z**2, y), "same number added to all logits"),
    "far": (LOGITS, no_maximum, "same number added to all logits"),
    "vector": (LINEAR, lambda x, w, y: ours(LINEAR)(x, w * np.abs(w), y), "same vector added to every class"),
    "bias": (LINEAR, with_bias, "same vector added to every class"),
    "gradient of the bias": (LINEAR, wrong_bias, "gradient is that of the value"),
    "translation": (TRIPLET, lambda a, p, n: ours(TRIPLET)(a, 2.0 * p, n), "same vector added to all embeddings"),
    "sum": (LOGITS, changed(LOGITS, softmax_alone), "add up to nothing"),
    "shift of a target": (
        DIVERGENCE,
        lambda z, target: ours(DIVERGENCE)(z, target + 0.01 * target**2),
        "same number added to all logits",
    ),
    "sum of divergences": (
        DIVERGENCE,
        changed(DIVERGENCE, scaled(1, lambda g: 1.0 + 0.0 * g + np.eye(*g.shape))),
        "add up to nothing",
    ),
    "order in divergences": (
        DIVERGENCE,
        changed(DIVERGENCE, lambda v, g, i: (v + 0.01 * i[1][:, 0].sum() - 0.01 * i[1][:, -1].sum(), *g)),
        "order of the classes",
    ),
    "sum of triplets": (TRIPLET, changed(TRIPLET, scaled(0, lambda g: 2.0)), "add up to nothing"),
    "detached": (LOSS, ours(LOSS, gradient="detached"), "gradient is that of the value"),
    "no gradient": (LOSS, changed(LOSS, lambda v, g, i: (v, 0.0 * g[0], 0.0 * g[1])), "gradient is that of the value"),
    "gradient leaks": (LOGITS, changed(LOGITS, lambda v, g, i: (v, g[0] + 1e-300 * ignored(i[1]))), IGNORED),
    "gradient of x leaks": (LOSS, changed(LOSS, lambda v, g, i: (v, g[0] + 1e-9 * ignored(i[2]), g[1])), IGNORED),
    "value leaks": (ROWS, changed(ROWS, lambda v, g, i: (v + 1e-300 * ignored(i[1])[:, 0], *g)), IGNORED),
    "what is ignored counts": (
        LOGITS,
        changed(LOGITS, lambda v, g, i: (v + 1e-3 * (i[0] * ignored(i[1])).sum(), *g)),
        IGNORED,
    ),
    "dw of what is ignored": (
        LINEAR,
        changed(LINEAR, lambda v, g, i: (v, g[0], g[1] + 1e-3 * (i[0] * ignored(i[2])).sum(axis=0))),
        IGNORED,
    ),
    "huge": (LOGITS, changed(LOGITS, lambda v, g, i: (v, *(part * (np.abs(i[0]).max() < 1e9) for part in g))), IGNORED),
    "mean of all": (LOGITS, counting_all, WITHOUT),
    "mean of all, in parts": (LOGITS, counting_all, WITH_IGNORED),
    "mean of two": (LOGITS, for_batches_of_two, PARTS),
    "sum of two": (SUM, changed(SUM, lambda v, g, i: (v * (1.0 + (len(i[0]) == 2)), *g)), PARTS),
    "row of two": (ROWS, changed(ROWS, lambda v, g, i: (v + (len(v) == 2) * 0.01, *g)), PARTS),
    "dw of two": (LINEAR, changed(LINEAR, lambda v, g, i: (v, g[0], g[1] * (1.0 + 0.01 * (len(i[0]) == 2)))), PARTS),
    "triplets of two": (TRIPLET, changed(TRIPLET, lambda v, g, i: (v * (1.0 + (len(i[0]) == 2)), *g)), PARTS),
    "mean of weights, by number": (WEIGHTED, by_number, PARTS),
    "the first count": (LOGITS, remembering_its_count(), PARTS),
    "mean of nothing": (
        LOGITS,
        changed(LOGITS, lambda v, g, i: (1.0 if (i[1] == -100).all() else v, *g)),
        NOTHING,
    ),
    "gradient of nothing": (
        ROWS,
        changed(ROWS, lambda v, g, i: (v, g[0] + ((i[1] == -100).all() and np.nan))),
        NOTHING,
    ),
    "weight 0": (WEIGHTED, changed(WEIGHTED, lambda v, g, i: (v, g[0] + 1e-9 * weighing(i[1]))), "class has weight 0"),
    "mean of weights": (
        WEIGHTED,
        changed(WEIGHTED, lambda v, g, i: (v / (1.0 + weighing(i[1]).mean()), *g)),
        "A batch with classes of weight 0",
    ),
    "closed": (TRIPLET, changed(TRIPLET, lambda v, g, i: (v, *(part + 1e-9 * kept(*i) for part in g))), CLOSED),
    "closed value": (
        refloss.Triplet(reduction="none"),
        changed(refloss.Triplet(reduction="none"), lambda v, g, i: (v + 1e-9 * kept(*i)[:, 0], *g)),
        CLOSED,
    ),
    "coincident": (TRIPLET, changed(TRIPLET, coinciding), "Points that coincide"),
    "clip": (LOGITS, clipped(1e-12, 1.0), "far below the others raises"),
    "temperature": (LOGITS, scaled_logits, "far below the others raises"),
    "clip above": (LOGITS, clipped(0.0, 1.0 - 1e-7), "far above the others"),
    "masked": (LOGITS, lambda z, y: ours(LOGITS)(np.where(np.isinf(z), 0.0, z), y), MASKED),
    "masked gradient": (LOGITS, changed(LOGITS, lambda v, g, i: (v, g[0] + 1e-300 * np.isinf(i[0]))), MASKED),
    "noise": (LOGITS, once_in(2, lambda v: v * (1.0 + 1e-9)), REPEATABLE),
    "NaN at times": (LOGITS, once_in(3, lambda v: np.nan), REPEATABLE),
    "writes": (LOGITS, changed(LOGITS, writing(0)), "Inputs are left as they are"),
    "writes labels": (LOSS, changed(LOSS, writing(2)), "Inputs are left as they are"),
}


@pytest.mark.parametrize("defect", BREAKS)
def test_each_is_broken_by_something(only, defect):
    loss, fn, name = BREAKS[defect]
    only(name)
    report = properties(fn, loss, dtype="float64", examples=6)
    assert not report.passed
    assert not report
    assert report.state == "broken"
    assert any(name in title for title in report.broken), str(report)
    assert "broken: " in str(report)


def test_a_batch_size_may_be_wrong_in_parts_alone():
    """No other property has a batch of two: all others hold."""
    report = properties(for_batches_of_two, LOGITS, dtype="float64", shape=(5, 4, 3), ignored=False, examples=4)
    assert [title[: len(PARTS)] for title in report.broken] == [PARTS]
    assert "is not that of the parts of the batch" in str(report)
    assert properties(ours(LOGITS), LOGITS, dtype="float64", shape=(5, 4, 3), ignored=False, examples=4).passed


def test_every_property_is_broken_by_something_above():
    each = [entry for module in (accumulation, changes, excluded, within_result) for entry in vars(module).values()]
    titles = [entry.__doc__ for entry in each if callable(entry) and entry in all_properties()] + [metamorphic.WRITES]
    unbroken = [title for title in titles if not any(name in title for _, _, name in BREAKS.values())]
    assert unbroken == [changes.upstream.__doc__]  # only frameworks have one: see below


def all_properties():
    """Every property of any loss."""
    titles = set()
    for loss in (LOGITS, WEIGHTED, LINEAR, LOSS, TRIPLET):
        a, names = arithmetic("float64"), ("x", "y", "z")
        code = Code(lambda: 0, loss, "torch", "float64", None, a, names, {}, set(), set(), {})
        titles |= set(metamorphic.properties_of(code, Shape(3, 5, 7), True))
    return titles


@pytest.mark.usefixtures("first_break")
@pytest.mark.parametrize("mutant", mutants.GROSS)
@pytest.mark.parametrize("loss", [LOSS, LOGITS, LINEAR, TRIPLET, DIVERGENCE], ids=repr)
def test_every_mutant_breaks_one(loss, mutant):
    def change(value, gradients, inputs):
        names = ("x", "w") if len(gradients) == 2 else ("anchor", "positive", "negative")[: len(gradients)]
        return value, *mutants.GROSS[mutant](dict(zip(names, gradients, strict=True))).values()

    assert properties(changed(loss, change), loss, dtype="float64", examples=4).broken


@pytest.mark.parametrize("loss", [LOGITS, ROWS, LINEAR, LOSS, TRIPLET], ids=repr)
def test_nan_is_never_right(only, loss):
    """In the value, and in one entry of each gradient."""
    only("e")

    def planted(part):
        part_with_nan = np.array(part, dtype=np.float64)
        part_with_nan.reshape(-1)[-1] = np.nan
        return part_with_nan

    names = INPUTS[loss.spec.head][:3]  # code that takes any number of inputs is called without a bias
    count = len(ours(loss)(*(np.ones((2, 2)) if name != "y" else np.array([0, 1]) for name in names)))
    for place in range(count):

        def change(value, gradients, inputs, place=place):
            return tuple(planted(part) if i == place else part for i, part in enumerate((value, *gradients)))

        report = properties(changed(loss, change), loss, dtype="float64", examples=1)
        assert set(report.held) <= {metamorphic.WRITES, *(title for title in report.held if NOTHING in title)}


@pytest.mark.parametrize(
    ("off", "allowed"), [(np.nan, 1.0), (np.nan, 0.0), (1e-300, 0.0), (np.inf, 1.0), (1.0, np.nan)]
)
def test_differences_beyond_a_budget_are_broken_whatever_they_are(off, allowed):
    with pytest.raises(BrokenError, match="times what rounding explains, for\n    z = "):
        within("it differs", np.array([0.0, off]), np.array([0.0, allowed]), {"z": np.zeros(2)})


def test_a_budget_of_0_is_kept_by_what_is_the_same():
    within("it differs", np.zeros(2), np.zeros(2), {})
    within("it differs", np.array([1.0]), np.array([1.0]), {})


# ---------------------------------------------------------------------------------------------------- what is not tried


def test_values_alone_are_undecided():
    report = properties(ours(LOGITS, gradients=False), LOGITS, dtype="float64", examples=5)
    assert report.state == "undecided"
    assert not report.passed
    assert not report.broken
    assert {entry.partition(":")[0] for entry in report.untried} == {
        "Gradients add up to nothing",
        "The gradient is that of the value",
    }
    assert "the value alone is returned, no gradient; gradients=False" in str(report)
    assert str(report).splitlines()[0].endswith("undecided")
    assert properties(ours(LOSS, gradients=False), LOSS, dtype="float64", examples=1).state == "undecided"


@pytest.mark.parametrize("loss", [LOGITS, LOSS, TRIPLET, WEIGHTED, refloss.NormFace(gradient="detached")], ids=repr)
def test_values_alone_have_properties_too(loss):
    assert properties(ours(loss, gradients=False), loss, dtype="float64", examples=2, gradients=False).passed


def test_gradients_may_be_left_out_of_sight():
    doubled = changed(LOGITS, scaled(0, lambda g: 2.0 * g))
    assert properties(doubled, LOGITS, dtype="float64", examples=2, gradients=False).passed


@pytest.mark.usefixtures("any_input")
def test_some_gradients_may_be_enough():
    def frozen(x, w, y):
        value, grad = LINEAR.value_and_grad(x, w, y)
        return value, {"x": grad.x}

    assert properties(frozen, LINEAR, dtype="float64", examples=3, gradients="x").passed
    report = properties(frozen, LINEAR, dtype="float64", examples=3)
    assert report.broken.keys() == {FINITE}
    assert "no gradient of w is returned" in str(report)

    def anchor_alone(*inputs):
        value, grad = TRIPLET.value_and_grad(*inputs)
        return value, {"anchor": grad.anchor}

    assert properties(anchor_alone, TRIPLET, dtype="float64", examples=3, gradients=("anchor",)).passed
    doubled = changed(LINEAR, lambda v, g, i: (v, 2.0 * g[0], g[1]))
    assert properties(doubled, LINEAR, dtype="float64", examples=3, gradients=("x",)).broken


@pytest.mark.usefixtures("any_input")
def test_gradients_that_come_at_times_only():
    def at_times(z, y):
        value, grad = LOGITS.value_and_grad(z, y)
        return (value, grad.z) if len(z) == 3 and (y != y[0]).any() else value

    report = properties(at_times, LOGITS, dtype="float64", examples=8)
    shown = " ".join(report.broken.values())
    assert "the value alone is returned, no gradient; gradients=False if that is all there is; but not for all" in shown
    assert "the gradient of z is not returned for inputs that are changed" in shown


def test_nothing_at_all_is_not_passed():
    def nothing(x, w, y):
        return 0.0, 0.0 * x, 0.0 * w

    report = properties(nothing, LOSS, examples=2)
    assert report.state == "undecided"
    assert report.undecided == (
        "the value was never larger than its budget",
        "the gradient of x was never larger than its budget",
        "the gradient of w was never larger than its budget",
    )
    assert "undecided: the gradient of w was never larger" in str(report)
    report = properties(lambda *points: (0.0, *(0.0 * entry for entry in points)), TRIPLET, examples=5)
    assert report.state == "undecided"
    report = properties(lambda z, y: (0.0, 0.0 * z), LOGITS, examples=2)
    assert report.state == "broken"


LOCKED = "with 6 samples the code raises whatever the input: ValueError: three samples"


def test_a_locked_number_of_samples_is_no_defect():
    def locked(z, y):
        if len(z) != 3:
            raise ValueError("three samples")
        return ours(LOGITS)(z, y)

    report = properties(locked, LOGITS, dtype="float64", examples=4)
    assert not report.broken
    assert report.state == "undecided"
    assert list(report.untried) == list(report.undecided)
    assert [title[:27] for title in report.untried] == [
        "Every sample twice leaves a",
        "The value and the gradients",
        "The loss of parts, weighted",
        "A batch with ignored labels",
        "The loss of parts with igno",
    ]
    assert LOCKED in str(report)
    assert str(report).count("Every sample twice") == 1

    def locked_alone(z, y):
        if len(z) != 1:
            raise ValueError("one sample")
        return ours(LOGITS)(z, y)

    report = properties(locked_alone, LOGITS, dtype="float64", examples=4, shape=(1, 4, 4))
    assert report.state == "undecided"
    assert IGNORED in " ".join(report.untried)


def test_some_batches_that_raise_are_a_defect():
    def confused(z, y):
        if len(z) == 6 and z.any():
            raise ValueError("six samples")
        return ours(LOGITS)(z, y)

    report = properties(confused, LOGITS, dtype="float64", examples=6)
    assert list(report.broken) == ["Every sample twice leaves a mean as it was and doubles a sum"]
    assert "ValueError: six samples; but not for all inputs" in str(report)


def test_ignored_labels_may_be_refused():
    def refusing(z, y):
        if (y < 0).any():
            raise ValueError("labels are 0 to C - 1")
        return ours(LOGITS)(z, y)

    report = properties(refusing, LOGITS, dtype="float64", examples=4)
    assert report.passed
    assert report.undecided == ()
    assert len(report.untried) == 4
    assert set(report.untried.values()) == {"refused: ValueError: labels are 0 to C - 1"}
    assert "all properties hold that were tried" in str(report)

    def refusing_some(z, y):
        if y[0] < 0:
            raise ValueError("the first label")
        return ours(LOGITS)(z, y)

    report = properties(refusing_some, LOGITS, dtype="float64", examples=12)
    assert any("refused: ValueError: the first label; but not for all" in shown for shown in report.broken.values())
    assert properties(refusing, LOGITS, dtype="float64", examples=4, ignored=False).untried == {}


# ------------------------------------------------------------------------------------------------------- what is raised


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (RuntimeError("no such kernel"), "raised RuntimeError: no such kernel"),
        (BaseException("stop"), "raised BaseException: stop"),
        (SystemExit(0), "raised SystemExit: 0"),
        (ExceptionGroup("two", [ValueError("a"), TypeError("b")]), "raised ExceptionGroup: two"),
        (GeneratorExit(), "raised GeneratorExit, for"),
        (MemoryError(), "raised MemoryError, for"),
    ],
    ids=lambda entry: type(entry).__name__,
)
def test_what_is_raised_breaks_every_property(error, shown):
    def broken(*inputs):
        raise error

    report = properties(broken, LOGITS, examples=2)
    assert report.state == "broken"
    assert shown in str(report)
    assert report.held == ()


def test_sys_exit_is_no_refusal():
    def leaving(z, y):
        if (y < 0).any():
            sys.exit(0)
        return ours(LOGITS)(z, y)

    report = properties(leaving, LOGITS, dtype="float64", examples=3)
    assert len(report.broken) == 4
    assert not report.untried


def test_an_interrupt_ends_it():
    calls = []

    def interrupted(z, y):
        calls.append(1)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return ours(LOGITS)(z, y)

    report = properties(interrupted, LOGITS, dtype="float64", examples=30)
    assert len(calls) == 21
    assert list(report.broken) == [REPEATABLE]
    assert set(report.untried.values()) == {"interrupted"}


@pytest.mark.usefixtures("any_input")
def test_what_fails_at_times_only():
    for when in (1, 2, 7):
        calls = []

        def first(z, y, when=when, calls=calls):
            calls.append(1)
            if len(calls) == when:
                raise RuntimeError("no such buffer")
            return ours(LOGITS)(z, y)

        report = properties(first, LOGITS, dtype="float64", examples=5)
        assert list(report.broken) == [REPEATABLE]
        assert "raised RuntimeError: no such buffer" in str(report)


class Lazy(types.ModuleType):
    """A module that imports something when it is asked for anything."""

    def __getattr__(self, name):
        raise ImportError(f"no such package: {name}")


class Slotted:
    """Lazy, and nothing can be written into it."""

    __slots__ = ()

    def __getattr__(self, name):
        raise ImportError(f"no such package: {name}")


def test_lazy_modules_are_no_trouble(monkeypatch):
    modules = [Lazy(f"lazy{i}") for i in range(3)]  # hypothesis looks only when there are more or less than before
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    assert properties(ours(LOGITS), LOGITS, dtype="float64", examples=3).passed
    assert not any("__file__" in vars(module) for module in modules)
    doubled = changed(LOGITS, scaled(0, lambda g: 2.0))
    assert properties(doubled, LOGITS, dtype="float64", examples=3).state == "broken"


def test_modules_that_cannot_be_helped_are_no_defect(monkeypatch):
    for i in range(5):
        monkeypatch.setitem(sys.modules, f"slotted{i}", Slotted())
    assert properties(ours(LOGITS), LOGITS, dtype="float64", examples=3).state in ("undecided", "holds")


def test_trouble_of_hypothesis_is_not_that_of_the_code(monkeypatch, only):
    only("is orthogonal")
    report = properties(ours(LOSS), LOSS, dtype="float64", shape=(2, 2, 1), hard=False, examples=1)
    assert report.state == "undecided"  # in one dimension no sample is ordinary
    assert "could not be tried: Unsatisfiable" in str(report)
    assert report.held == ()

    def no_module(*settings):
        raise ImportError("no such package")

    inputs = metamorphic.strategy
    monkeypatch.setattr(metamorphic, "strategy", lambda *settings: inputs(*settings).map(no_module))
    report = properties(ours(LOGITS), LOGITS, dtype="float64", examples=3)
    assert report.state == "undecided"
    assert report.broken == {}
    assert report.untried
    assert set(report.untried.values()) == {"could not be tried: ImportError: no such package"}


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"framework": "mxnet"}, "framework: expected one of 'numpy', 'torch', 'jax'; got 'mxnet'"),
        ({"dtype": "float8"}, "dtype: expected one of"),
        ({"device": "cuda:77"}, "device: NumPy has none but 'cpu'; got 'cuda:77'"),
        ({"standard": "best"}, "standard: expected one of"),
        ({"shape": (3, 4)}, "shape: expected (N, C, D), three positive integers; got (3, 4)"),
        ({"shape": (3, 0, 4)}, "shape: expected (N, C, D), three positive integers; got (3, 0, 4)"),
        ({"shape": (3, 4, 4.0)}, "shape: expected (N, C, D)"),
        ({"shape": 7}, "shape: expected (N, C, D)"),
        ({"examples": 0}, "examples: expected a positive integer; got 0"),
        ({"examples": True}, "examples: expected a positive integer; got True"),
        ({"gradients": ("v",)}, "gradients: expected True, False or some of"),
        ({"overwrites": ("v",)}, "overwrites: expected some of"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        properties(ours(LOGITS), LOGITS, **settings)


def test_what_is_no_code_and_no_loss_is_refused():
    with pytest.raises(TypeError, match="fn: expected a function; got int"):
        properties(7, LOGITS)
    with pytest.raises(ValueError, match=r"examples: expected a positive integer; got 1\.0"):
        properties(ours(LOGITS), LOGITS, examples=1.0)
    with pytest.raises(TypeError, match="loss: expected a loss of refloss"):
        properties(ours(LOGITS), "ArcFace")
    for loss in (replace(LOGITS, ignore_index=0), replace(LOGITS, class_weight=(0.0,))):
        with pytest.raises(ValueError, match="loss: expected a class that is not ignored and has no weight of 0"):
            properties(ours(loss), loss, shape=(2, 1, 2))


def test_names_are_taken_in_many_forms():
    assert properties(ours(LOGITS), refloss.CrossEntropy, dtype=np.float64, examples=1).loss == LOGITS
    report = properties(ours(WEIGHTED), WEIGHTED, dtype=np.dtype("float32"), shape=np.array([2, 9, 3]), examples=1)
    assert report.dtype == "float32"
    assert report.passed  # with as many classes as weights


def test_dtypes_of_sums_and_products_are_those_of_a_check():
    def short(x, w, y):
        """Products whose factors are rounded to 8 bits."""
        fewer = [np.asarray(entry * 1.1).astype(dtype_of("bfloat16")).astype(np.float64) / 1.1 for entry in (x, w)]
        value, grad = LINEAR.value_and_grad(*fewer, y)
        return value, grad.x, grad.w

    assert properties(short, LINEAR, dtype="float64", examples=2).state == "broken"
    for some in ({"matmul": "bfloat16"}, {"accumulate": "bfloat16", "dtype": "bfloat16"}):
        assert properties(short, LINEAR, examples=4, **some).passed
    for name in ("accumulate", "matmul"):
        with pytest.raises(ValueError, match=f"{name}: expected one of"):
            properties(short, LINEAR, **{name: "float8"})


def test_code_may_be_allowed_to_write_into_inputs():
    fn = changed(LOGITS, writing(0))
    assert list(properties(fn, LOGITS, dtype="float64", examples=2).broken) == [metamorphic.WRITES]
    assert "the code writes into its input z, for" in str(properties(fn, LOGITS, dtype="float64", examples=2))
    assert properties(fn, LOGITS, dtype="float64", examples=2, overwrites="z").passed
    fn = changed(LINEAR, writing(2))
    assert properties(fn, LINEAR, dtype="float64", examples=2, overwrites=("y", "b")).passed


def test_a_bias_is_the_fourth_parameter():
    def right(x, w, y, b=None):
        return ours(LINEAR)(x, w, y) if b is None else ours(LINEAR)(x, w, y, b)

    report = properties(right, LINEAR, dtype="float64", examples=4)
    assert report.passed, str(report)
    three = [
        properties(lambda *inputs: right(*inputs[:3]), LINEAR, dtype="float64", examples=1, bias=b)
        for b in (False, True)
    ]
    assert [report.state for report in three] == ["holds", "broken"]


def test_large_inputs_are_shown_in_short():
    report = properties(lambda z, y: -1.0, LOGITS, shape=(64, 32, 4), examples=1, gradients=False)
    assert "..." in report.broken["No loss is below 0"]
    assert len(report.broken["No loss is below 0"]) < 2000


# ----------------------------------------------------------------------------------------------------------- frameworks


def test_an_arccos_holds_on_ordinary_inputs_only(torch, monkeypatch):
    def arcface(x, w, y):
        cos = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(w).T
        target = torch.nn.functional.one_hot(y, len(w))
        psi = torch.cos(torch.acos(cos.clamp(-1.0, 1.0)) + 0.5)
        return torch.nn.functional.cross_entropy(8.0 * (cos + target * (psi - cos)), y)

    report = properties(arcface, LOSS, "torch", dtype=torch.float32, hard=False, examples=4)
    assert report.passed, str(report)
    assert {shown.partition(":")[0] for shown in report.untried.values()} == {"refused"}
    monkeypatch.setattr(search, "SIMPLER", 3)
    report = properties(arcface, LOSS, "torch", examples=6)
    assert not report.passed
    assert FINITE in report.broken


def test_cross_entropy_of_torch_keeps_them(torch):
    for reduction in ("mean", "sum", "none"):
        weights = torch.tensor(WEIGHTED.class_weight)

        def fn(z, y, reduction=reduction, weights=weights):
            return torch.nn.functional.cross_entropy(z, y, weight=weights, reduction=reduction)

        report = properties(fn, replace(WEIGHTED, reduction=reduction), "torch", examples=4)
        assert report.passed, str(report)
        assert report.untried == {}
        assert any("upstream" in title for title in report.held)


def test_upstream_gradients_count(torch):
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, y, reduction, use):
            with torch.enable_grad():
                leaf = z.detach().requires_grad_()
                value = torch.nn.functional.cross_entropy(leaf, y, reduction=reduction)
                (gradient,) = torch.autograd.grad(value.sum(), leaf)
            ctx.save_for_backward(gradient)
            ctx.use = use
            return value.detach()

        @staticmethod
        def backward(ctx, upstream):
            (gradient,) = ctx.saved_tensors
            return gradient * ctx.use(upstream), None, None, None

    uses = {
        "mean": (lambda upstream: upstream, lambda upstream: 1.0),
        "none": (lambda upstream: upstream[:, None], lambda upstream: upstream[0]),
    }
    for reduction, (right, wrong) in uses.items():
        loss = refloss.CrossEntropy(reduction=reduction)
        for use, state in ((right, "holds"), (wrong, "broken")):

            def fn(z, y, reduction=reduction, use=use):
                return Function.apply(z, y, reduction, use)

            report = properties(fn, loss, "torch", dtype="float64", examples=4)
            assert report.state == state, str(report)
            assert all("upstream" in title for title in report.broken)


def test_gradients_that_torch_code_returns_itself_have_no_upstream(torch):
    def fn(z, y):
        value, grad = LOGITS.value_and_grad(z.detach().numpy(), y.numpy())
        return torch.tensor(value), torch.tensor(grad.z)

    report = properties(fn, LOGITS, "torch", dtype="float64", examples=3)
    assert report.passed
    assert list(report.untried.values()) == ["the code returns gradients itself, for an upstream gradient of 1"]


def test_jax_keeps_them(jax, only):
    def good(x, w, y):
        z = x @ w.T
        return (jax.scipy.special.logsumexp(z, axis=1) - z[np.arange(len(y)), y]).sum()

    report = properties(good, LINEAR, "jax", examples=2, ignored=False)
    assert report.passed, str(report)
    only("ignored")
    held = properties(good, LINEAR, "jax", examples=2).held
    assert [title[: len(WITH_IGNORED)] for title in held[:-1]] == [WITH_IGNORED]  # of a sum, for wrong rows too
