"""Each defect of the table, planted in code, is given that cause and no other."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import refloss
from refloss.formats import dtype_of
from refloss.testing import check
from refloss.testing.defects import TABLE
from refloss.testing.defects.gradients import one_gradient
from refloss.testing.defects.roundings import to_bits
from refloss.testing.defects.row import setting
from refloss.testing.diagnosis import gradients, values
from refloss.testing.hard_cases import Case

pytest.importorskip("torch")

from support.right_codes.curve_codes import torch_curves
from support.right_codes.divergence_codes import torch_divergence
from support.right_codes.numpy_codes import numpy_head, numpy_linear, numpy_logits
from support.right_codes.torch_codes import torch_head
from support.wrong_codes import wrong_codes
from support.wrong_codes.planted import planted

pytestmark = pytest.mark.usefixtures("torch")
CE, LINEAR = refloss.CrossEntropy(), refloss.SoftmaxLoss()
SMOOTH = refloss.CrossEntropy(label_smoothing=0.1)
ARC, COS, NORM = refloss.ArcFace(), refloss.CosFace(), refloss.NormFace(s=16.0)
SPHERE_R = refloss.SphereFaceR(version=2, s=16.0)
KL = refloss.KLDivergence()
SQUARED, PLAIN = refloss.Triplet(), refloss.Triplet(squared=False)
SHAPES = [(9, 7, 13), (5, 12, 9)]

NAMED = {  # codes of the suite, and how their only cause begins
    "KL divergence instead of cross entropy": "the entropy of the smoothed targets is taken off",
    "1 - eps on the label, nothing else": "label smoothing of the target alone",
    "the target keeps its 1": "label smoothing of eps/C beside a target that keeps its 1",
    "eps / C on the others alone": "label smoothing of eps/C on the other classes alone",
    "smoothing left out of the gradient": "in the gradients alone, no label smoothing",
    "smoothing left out of the value": "in the value alone, no label smoothing",
    "class weights left out of the gradient": "in the gradients alone, class weights left out",
    "class weights left out of the value": "in the value alone, class weights left out",
    "log(max(p, 1e-05))": "probabilities are held above 1e-05 before their logarithm",
    "log(max(p, 0.001))": "probabilities are held above 0.001 before their logarithm",
    "gradient not written: last row, SoftmaxLoss": "the gradient of w is 0 in its last row",
    "gradient not written: remainder of columns by 8, CrossEntropy": "the gradient of z is 0 in the columns past a",
    "gradient not written: remainder of rows by 4, SoftmaxLoss": "the gradient of w is 0 in the rows past a multiple",
    "gradient not written: every second column, SoftmaxLoss": "the gradient of w is 0 in every second column",
    "gradient not written: last column, CrossEntropy": "the gradient of z is 0 in its last column",
    "rows of dz rolled": "the gradient of z has the rows of the ones before",
    "rows of dz reversed": "the gradient of z has its rows in reverse",
    "dw[y] -= x, overwritten where labels repeat, SoftmaxLoss()": "the gradient of w has of samples of one label",
    "db[y] -= 1 overwritten where labels repeat": "the gradient of b has of samples of one label",
    "labels of the next row": "every row has the label of the next one",
    "8 times, for a world size, CrossEntropy": "value and gradients are multiplied by 8: ",
    "divided by a world size, CosFace": "value and gradients are divided by 8: ",
    "divided by N twice, SoftmaxLoss": "value and gradients are divided by N twice",
    "mean over N - 1, SoftmaxLoss": "the sum is divided by N - 1",
    "gradient of the sum, CrossEntropy": "the gradient of z is N times as large",
    "m1 left out": "m1 is left out",
    "m2 left out": "m2 is left out",
    "m3 left out": "m3 is left out",
    "m2 and m3 exchanged": "m2 and m3 are exchanged",
    "annealing of 1 / 5": "one over the annealing is taken for it",
    "scale for the length of the embedding": "value and gradient agree with s=16: NormFace(s=16.0)",
    "margin on the cosine for the angle": "value and gradient agree with another loss of the family: CosFace(",
    "margin on the angle for the cosine": "value and gradient agree with another loss of the family: ArcFace(",
    "dw of the last class is 0": "the gradient of w is 0 in its last row",
    "positive and negative exchanged": "positive and negative are exchanged",
    "anchor and positive exchanged": "anchor and positive are exchanged",
    "plain distance for squared": "distances are not squared",
    "squared distance for plain": "distances are squared",
    "no hinge": "there is no hinge",
    "softplus for the hinge": "the hinge is a softplus",
    "a squared hinge": "the hinge is squared",
    "the margin left out": "no margin",
    "the margin subtracted": "the margin is subtracted, not added",
    "the margin outside the hinge": "the margin is added after the hinge",
    "mean over open triplets": "the sum is divided by the number of triplets whose loss is above 0",
    "mean over dimensions": "squares of differences are averaged over the dimensions",
    "half the squared distance": "the squared distance is halved",
    "sum of sizes for the distance": "the distance is the sum of the sizes of differences (L1)",
    "cosine distance": "the distance is 1 less the cosine",
    "the nearer of two negatives": "the negative is compared with the positive too",
    "embeddings normalised": "embeddings are brought to unit length, which the loss does not do",
    "root of the square plus 1e-4": "0.0001 is added under the root of every distance",
}


def causes(report):
    """The causes but those of results that are not finite, and of the group range."""
    return [
        said for said in report.diagnoses if not said.startswith(("in the group range", "NaN or infinite", "results"))
    ]


@pytest.mark.parametrize("name", NAMED)
def test_what_is_wrong_is_named(name):
    code = next(code for code in wrong_codes() if code.name == name)
    settings = {"shapes": SHAPES if getattr(code.loss, "class_weight", None) is None else None} | code.settings
    dtype = "float32" if "float32" in code.dtypes else code.dtypes[0]
    with np.errstate(all="ignore"):
        report = check(code.fn, code.loss, framework=code.framework, dtype=dtype, **settings)
    assert report.state == "does not conform"
    assert [said[: len(NAMED[name])] for said in causes(report)] == [NAMED[name]], str(report.diagnoses)


# -------------------------------------------------------------------------------------------------------------- planted


def head(loss, cosines=None, angles=lambda theta: theta, every=False):
    """A margin loss in torch, of cosines and of angles that are changed."""

    def fn(x, w, y):
        import torch

        f = torch.nn.functional
        c = f.normalize(x) @ f.normalize(w).T if cosines is None else cosines(x, w)
        target = f.one_hot(y.clamp(min=0), len(w)).bool()
        unsure = c.detach().abs() > 1.0 - 1e-6  # where arccos has no slope
        theta = angles(torch.where(unsure, c.clamp(-1.0 + 1e-6, 1.0 - 1e-6), c).acos())
        psi = c - loss.m if isinstance(loss, refloss.CosFace) else (theta + loss.m).cos()
        return f.cross_entropy(loss.s * torch.where(target | every, psi, c), y)

    return fn


def logits(rows, loss=CE):
    """A cross entropy in torch of changed logits."""

    def fn(z, y):
        import torch

        return torch.nn.functional.cross_entropy(rows(z), y, label_smoothing=loss.label_smoothing)

    return fn


def of_l1(x, w):
    import torch

    return torch.nn.functional.normalize(x, p=1) @ torch.nn.functional.normalize(w, p=1).T


def over_classes(x, w):
    import torch

    return torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(w, dim=0).T


def padded_for_target(z, y):
    """1 - eps on the label and eps/(C - 2) on the others, as where a padding class has no share."""
    log_p = z.log_softmax(dim=1)
    own = log_p.gather(1, y.clamp(min=0)[:, None])[:, 0]
    share = 0.1 / (z.shape[1] - 2)
    rows = (-(0.9 - share) * own - share * log_p.sum(dim=1)) * (y >= 0)
    return rows.sum() / (y >= 0).sum().clamp(min=1)


def detached_in_one_place(z, y):
    top = z.max(dim=1, keepdim=True).values
    lse = (z - top.detach()).exp().sum(dim=1).log() + top[:, 0]
    rows = (lse - z.gather(1, y.clamp(min=0)[:, None])[:, 0]) * (y >= 0)
    return rows.sum() / (y >= 0).sum().clamp(min=1)


def without(place, start):
    """A right head with zeros in a gradient, from some column on."""

    def fn(*inputs):
        value, *gradients = numpy_head(COS)(*inputs)
        gradients[place][:, start(gradients[place].shape[1]) :] = 0.0
        return value, *gradients

    return fn


def last_counts(x, w, y):
    """Of samples of one label, what the target adds to dw is written, not added: the last one stays."""
    value, dx, dw = numpy_head(NORM)(x, w, y)
    rows, units = (np.asarray(a, np.float64) for a in (x, w))
    rows, length = rows / np.linalg.norm(rows, axis=1, keepdims=True), np.linalg.norm(units, axis=1)
    units = units / length[:, None]
    kept = y >= 0
    z = NORM.s * rows @ units.T
    p = np.asarray(refloss.softmax(z))
    own = (p[np.arange(len(y)), y] - 1.0) * NORM.s / max(kept.sum(), 1)
    for n in np.flatnonzero(kept):
        if (y[n + 1 :] == y[n]).any():
            tangent = rows[n] - (rows[n] @ units[y[n]]) * units[y[n]]
            dw[y[n]] -= (own[n] * tangent / length[y[n]]).astype(dw.dtype)
    return value, dx, dw


def scaled_by_all_weights(z, y):
    loss = replace(CE, class_weight=(1.0, 3.0, 0.5), reduction="sum")
    value, dz = numpy_logits(loss)(z, y)
    return value / np.float32(4.5), dz / np.float32(4.5)


def with_sums_of(kind, loss=CE):
    """A linear head whose products round every partial sum."""

    def product(a, b):
        total = np.zeros((len(a), len(b)), kind)
        for k in range(a.shape[1]):
            total = (total.astype(np.float32) + a[:, k : k + 1] * b[:, k]).astype(kind)
        return total.astype(np.float32)

    def fn(x, w, y):
        value, dz = numpy_logits(loss)(product(x, w), y)
        return value, product(dz, w.T.copy()), product(dz.T.copy(), x.T.copy())

    return fn


PLANTED = {
    "sums of bfloat16": (
        "numpy",
        with_sums_of(dtype_of("bfloat16")),
        LINEAR,
        "as matrix products would give whose partial sums are rounded to 8 bits, those of bfloat16",
    ),
    "sums of float16": (
        "numpy",
        with_sums_of(np.float16),
        LINEAR,
        "as matrix products would give whose partial sums are rounded to 11 bits, those of float16",
    ),
    "clamped logits": ("torch", logits(lambda z: z.clamp(-1.0, 1.0)), CE, "logits are clamped to ±1"),
    "eps/(C - 2)": ("torch", padded_for_target, SMOOTH, "label smoothing of eps/(C - 2) on the other classes"),
    "a margin on every class": ("torch", head(ARC, every=True), ARC, "the margin is on every class"),
    "L1 for L2": ("torch", head(COS, of_l1), COS, "rows are divided by the sum of the sizes of their entries (L1)"),
    "the wrong axis": ("torch", head(COS, over_classes), COS, "the columns of the class weights are brought to unit"),
    "clamped angles": (
        "torch",
        head(ARC, angles=lambda theta: theta.clamp(1e-2, math.pi - 1e-2)),
        ARC,
        "the target's angle is clamped between 0.01 and pi - 0.01",
    ),
    "a maximum that is detached once": (
        "torch",
        detached_in_one_place,
        CE,
        "the gradient of z has the gradient of the",
    ),
    "half of the columns": (
        "numpy",
        without(0, lambda d: (d + 1) // 2),
        COS,
        "the gradient of x is 0 in the second half of its columns",
    ),
    "one of repeated labels": (
        "numpy",
        last_counts,
        NORM,
        "the gradient of w has of samples of one label the target's",
    ),
    "all weights": (
        "numpy",
        scaled_by_all_weights,
        replace(CE, class_weight=(1.0, 3.0, 0.5)),
        "the weighted sum is divided by the sum of the weights of all classes",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_named(name):
    framework, fn, loss, said = PLANTED[name]
    with np.errstate(all="ignore"):
        report = check(fn, loss, framework=framework, shapes=SHAPES if loss.class_weight is None else [(9, 3, 1)])
    assert report.state == "does not conform"
    assert [cause[: len(said)] for cause in causes(report)] == [said], str(report.diagnoses)


# ---------------------------------------------------------------------------------------------------------------- pairs


def with_settings(loss, **settings):
    return numpy_head(replace(loss, **settings))


def both(z, y):
    """A softmax taken twice, without the smoothing."""
    import torch

    return torch.nn.functional.cross_entropy(z.softmax(dim=1), y)


def unscaled_twice(x, w, y):
    value, dx, dw = numpy_head(replace(COS, s=1.0))(x, w, y)
    return value, dx, np.float32(2.0) * dw


def planted_in(loss, *names, fields=()):
    """Code in torch with the defects of these names, which are those of two gradients or follow each other."""
    code = torch_curves(loss) if isinstance(loss, refloss.SphereFaceR) else torch_head(loss)
    for name in names:
        code = planted(loss, name, code, fields)
    return code


def exchanged_and_halved(anchor, positive, negative):
    """Half of the squared distances, the negative for the positive: d(a, n) / 2 - d(a, p) / 2 + m."""
    apart = ((anchor - negative) ** 2 - (anchor - positive) ** 2).sum(axis=1) / 2 + np.float32(SQUARED.m)
    open_rows = (apart > 0)[:, None] / np.float32(len(anchor))
    value = np.maximum(apart, 0).mean(dtype=np.float32)
    return value, open_rows * (positive - negative), open_rows * (anchor - positive), open_rows * (negative - anchor)


PAIRS = {
    "a rule and a detached margin": (
        "numpy",
        with_settings(ARC, boundary="hard", gradient="detached"),
        ARC,
        "value and gradient agree with boundary='hard'; and the gradient is that of the detached margin: ArcFace(",
    ),
    "no scale and a gradient": (
        "numpy",
        unscaled_twice,
        COS,
        "no scale; and the gradient of w is 2 times what it should be, in each of ",
    ),
    "no margin and no scale": (
        "numpy",
        with_settings(COS, m=0.0, s=1.0),
        COS,
        "no margin; and no scale: CosFace(s=1.0",
    ),
    "a scale and a rule": (
        "numpy",
        with_settings(ARC, s=30.0, boundary="hard"),
        ARC,
        "value and gradient agree with boundary='hard'; and s=30: ArcFace(s=30.0, m=0.5, boundary='hard')",
    ),
    "a sum and a rule": (
        "numpy",
        with_settings(COS, reduction="sum", boundary="conditional"),
        COS,
        "sum instead of mean; and boundary='conditional': CosFace(reduction='sum', s=64.0, m=0.35",
    ),
    "a setting and a step": (
        "torch",
        both,
        SMOOTH,
        "no label smoothing; and softmax taken twice: of the logits, and of the probabilities again",
    ),
    "a step and a gradient": (
        "torch",
        planted_in(NORM, "L1 for L2 lengths", "gradient of the wrong sign", fields=("w",)),
        NORM,
        "rows are divided by the sum of the sizes of their entries (L1), not by their lengths; and the gradient of w",
    ),
    "labels and a step": (
        "torch",
        planted_in(NORM, "softmax twice", "labels + 1"),
        NORM,
        "every label is off by one: value and gradient agree with y + 1; and softmax taken twice: ",
    ),
    "exchanged points and a step": (
        "numpy",
        exchanged_and_halved,
        SQUARED,
        "positive and negative are exchanged; and the squared distance is halved",
    ),
    "labels and a gradient": (
        "torch",
        planted_in(COS, "labels + 1", "gradient times 8", fields=("w",)),
        COS,
        "every label is off by one: value and gradient agree with y + 1; and the gradient of w is 8 times what it ",
    ),
    "no scale and an upstream gradient": (
        "torch",
        planted_in(replace(COS, s=1.0, reduction="none"), "upstream of the first row", fields=("x", "w")),
        replace(COS, reduction="none"),
        "no scale; and the upstream gradient of the first row is taken for all rows: CosFace(",
    ),
    "a detached margin and a gradient": (
        "torch",
        planted_in(replace(ARC, gradient="detached"), "gradient times 4", fields=("w",)),
        ARC,
        "the gradient is that of the detached margin; and the gradient of w is 4 times what it should be, in each of ",
    ),
    "rows without a margin": (
        "numpy",
        with_settings(COS, reduction="none", m=0.0),
        COS,
        "none instead of mean; and no margin: CosFace(reduction='none', s=64.0, m=0.0",
    ),
    "a sum of short sums": (
        "numpy",
        with_sums_of(dtype_of("bfloat16"), replace(CE, reduction="sum")),
        LINEAR,
        "sum instead of mean; and as matrix products would give whose partial sums are rounded to 8 bits, those of ",
    ),
    "labels and a version": (
        "torch",
        planted_in(replace(SPHERE_R, version=1), "labels + 1"),
        SPHERE_R,
        "value and gradient agree with version=1; and every label is off by one: value and gradient agree with y + 1",
    ),
    "a factor and zeros": (
        "torch",
        planted_in(COS, "gradient times 8", "no gradient in the last row", fields=("x",)),
        COS,
        "the gradient of x is 0 in its last row, and is 8 times what it should be, in each of ",
    ),
    "zeros and an order": (
        "torch",
        planted_in(COS, "no gradient in even columns", "gradient rows in reverse", fields=("w",)),
        COS,
        "the gradient of w is 0 in every second column, and has its rows in reverse",
    ),
    "a target twice and a gradient": (
        "torch",
        planted(KL, "gradient times 8", lambda z, target: torch_divergence(KL)(z, target.softmax(dim=-1)), ("z",)),
        KL,
        "softmax of the target taken twice: of its logits, and of their probabilities again; and the gradient of z",
    ),
    "clamped logits of long embeddings": (
        "torch",
        planted_in(refloss.NormFace(s=None), "logits within 50"),
        refloss.NormFace(s=None),
        "logits are clamped to ±50",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_two_defects_are_named_together(name):
    framework, fn, loss, said = PAIRS[name]
    report = check(fn, loss, framework=framework, shapes=SHAPES)
    assert [cause[: len(said)] for cause in causes(report)] == [said], str(report.diagnoses)


def test_two_gradients_are_named_each():
    def fn(x, w, y):
        value, dx, dw = numpy_head(COS)(x, w, y)
        return value, -dx, np.float32(2.0) * dw

    first, second = causes(check(fn, COS, shapes=SHAPES))
    assert first == "the gradient of x has the opposite sign"
    assert second.startswith("the gradient of w is 2 times what it should be, in each of ")


def test_a_row_is_not_named_beside_a_gradient_that_is_not_explained():
    def fn(x, w, y):
        value, dx, dw = numpy_head(replace(COS, s=1.0))(x, w, y)
        return value, dx, dw * np.linspace(-1.0, 1.0, len(dw), dtype=dw.dtype)[:, None]

    assert causes(check(fn, COS, shapes=SHAPES, groups="ordinary")) == []


# ---------------------------------------------------------------------------------------------------------- new defects


def test_new_defects_need_a_row_and_nothing_else(monkeypatch):
    """A margin that is halved, and a gradient that is cut off at 0: neither has a row of its own."""
    halved = setting(
        "half the margin", "half of the margin", lambda loss: hasattr(loss, "m"), m=lambda loss: loss.m / 2
    )
    positive = one_gradient("positive gradient", "has no negative entry", lambda part, of: np.maximum(part, 0.0))
    for module in (values, gradients):
        monkeypatch.setattr(module, "TABLE", (*TABLE, halved, positive))

    def code(x, w, y):
        value, dx, dw = numpy_head(COS)(x, w, y)
        return value, np.maximum(dx, 0.0), dw

    assert causes(check(with_settings(COS, m=0.175), COS, shapes=SHAPES))[0].startswith("half of the margin: CosFace(")
    assert causes(check(code, COS, shapes=SHAPES)) == ["the gradient of x has no negative entry"]
    assert "no scale; and half of the margin: " in str(check(with_settings(COS, m=0.175, s=1.0), COS, shapes=SHAPES))


def test_two_defects_of_a_value_alone_are_named():
    def fn(anchor, positive, negative):
        return exchanged_and_halved(anchor, positive, negative)[0]

    report = check(fn, SQUARED, shapes=SHAPES, gradients=False)
    assert causes(report) == ["positive and negative are exchanged; and the squared distance is halved"]


# ------------------------------------------------------------------------------------------------------ no false causes


def test_where_all_that_came_back_is_right_there_is_no_cause():
    def fn(x, w, y):
        value, dx, _ = numpy_head(COS)(x, w, y)
        return value, {"x": dx}

    report = check(fn, COS, shapes=SHAPES)
    assert report.state == "does not conform"
    assert causes(report) == []


@pytest.mark.parametrize("name", ["size of upstream alone, mean", "x and w rounded as tf32 rounds them"])
def test_a_factor_that_some_cases_do_not_have_is_none(name):
    code = next(code for code in wrong_codes() if code.name == name)
    report = check(code.fn, code.loss, framework=code.framework, **code.settings)
    assert not any("sign" in said or "times what" in said for said in report.diagnoses), report.diagnoses


@pytest.mark.parametrize("name", ["a value of shape (1,)", "rows instead of mean, CosFace", "the gradient first"])
def test_results_of_another_shape_raise_nothing(name):
    code = next(code for code in wrong_codes() if code.name == name)
    report = check(code.fn, code.loss, framework=code.framework, dtype=code.dtypes[0], **code.settings)
    assert not any(said.startswith("none:") for said in report.diagnoses), report.diagnoses


def test_a_number_of_one_case_is_named_where_gradients_have_it_too():
    (case, *_) = refloss.testing.cases(COS)
    right = numpy_head(replace(COS, m=0.4))
    assert check(right, COS, cases=[case]).diagnoses[0].startswith("value and gradient agree with m=0.4")
    value = check(lambda *inputs: right(*inputs)[0], COS, cases=[case], gradients=False)
    assert not any("m=" in said for said in value.diagnoses)


def test_a_hundredth_of_one_number_is_chance():
    """125 padded classes with logits of 0 would make this loss 1.496 times as large."""
    loss = refloss.CrossEntropy()
    case = Case("mine", "ordinary", (), "", (np.array([1.0, 2.0, 4.0]), np.array(1)))
    report = check(lambda z, y: (1.5 * loss(z, y), loss.value_and_grad(z, y)[1].z), loss, cases=[case])
    assert not report
    assert report.diagnoses == ()


def test_gradients_beside_another_reduction_are_named_together():
    def fn(x, w, y):
        value, grad = refloss.CosFace(reduction="none").value_and_grad(x, w, y, upstream=np.ones(len(y)))
        return value, -grad.x, 0.0 * grad.w

    report = check(fn, refloss.CosFace(reduction="sum"), shapes=SHAPES, groups="ordinary")
    said = "none instead of sum; and the gradient of x has the opposite sign; and the gradient of w is all zero"
    assert report.diagnoses == (said,)


def test_numbers_of_few_digits_are_no_sums_of_products():
    """Values of products whose factors are short have more digits than the factors."""
    loss = refloss.NormFace(s=4.0, reduction="none")

    def fn(x, w, y):
        upstream = np.ones(len(y))
        value, grad = loss.value_and_grad(to_bits(x, 8), to_bits(w, 8), y, upstream=upstream)
        return tuple(to_bits(np.asarray(part), 8).astype(x.dtype) for part in (value, grad.x, grad.w))

    report = check(fn, loss, dtype="float32", shapes=SHAPES, groups="ordinary")
    assert report.diagnoses == ("as bfloat16 would give: something is computed in bfloat16 on the way",)


def test_a_number_that_is_known_roughly_says_how_far():
    loss = refloss.CrossEntropy(logit_scale=0.5)
    report = check(numpy_logits_scaled(0.375), loss, dtype="bfloat16")
    (said,) = causes(report)
    assert said.startswith("value and gradient agree with logit_scale=0.3")
    assert said.endswith(" of it)")


def numpy_logits_scaled(scale):
    """Right code of another scale."""

    def fn(z, y):
        value, dz = numpy_logits(CE, upcast=True)((z * z.dtype.type(scale)).astype(z.dtype), y)
        return value, (dz * z.dtype.type(scale)).astype(z.dtype)

    return fn


def test_a_linear_head_may_be_wrong_in_its_bias_alone():
    def fn(x, w, y, b=None):
        value, *gradients = numpy_linear(LINEAR)(x, w, y, *([] if b is None else [b]))
        return value, *gradients[:2], *(-part for part in gradients[2:])

    assert causes(check(fn, LINEAR, shapes=SHAPES)) == ["the gradient of b has the opposite sign"]


def test_a_step_is_no_cause_beside_a_row_that_explains_all_values(torch):
    """Beside a margin in degrees the errors of an arccos are so small that many a step would account for them."""
    f = torch.nn.functional

    def fn(x, w, y):
        cos = (f.normalize(x) @ f.normalize(w).T).clamp(-1.0, 1.0)
        target = f.one_hot(y, len(w)).bool()
        return f.cross_entropy(64.0 * torch.where(target, torch.cos(torch.acos(cos) + math.radians(0.5)), cos), y)

    (said,) = causes(check(fn, refloss.ArcFace(), framework="torch", shapes=SHAPES, ignored=False))
    assert said.startswith("margin taken in degrees: ArcFace(")
    assert said.endswith("(but for the group hard, where more is wrong)")


@pytest.mark.parametrize("factor", [0.5, 0.1])
def test_a_factor_is_told_by_entries_that_are_known(torch, factor):
    """Where targets are certain the entry of the target is the largest, and all of it is within its budget."""

    def fn(z, y):
        return torch.nn.functional.cross_entropy(factor * z + (1.0 - factor) * z.detach(), y)

    (said,) = causes(check(fn, refloss.CrossEntropy(), framework="torch", shapes=SHAPES, ignored=False))
    assert said.startswith(f"the gradient of z is {factor} times what it should be, in each of ")


def test_beside_gradients_a_value_that_nothing_explains_is_said():
    def fn(x, w, y):
        value, dx, dw = numpy_head(COS)(x, w, y)
        return np.sin(value), dx, np.float32(0.5) * dw

    factor, unknown = causes(check(fn, COS, shapes=SHAPES))
    assert factor.startswith("the gradient of w is 0.5 times what it should be, in each of ")
    assert unknown == "what is wrong with the value is not known"


def test_numbers_that_are_finite_nowhere_have_no_reason_in_the_range():
    report = check(lambda x, w, y: np.nan, COS, shapes=SHAPES)
    assert [said.partition(",")[0] for said in report.diagnoses] == ["results are NaN or infinite"]


def test_a_setting_that_is_0_is_fitted():
    smoothed = refloss.CrossEntropy(label_smoothing=0.1)
    report = check(lambda z, y: (smoothed(z, y), smoothed.value_and_grad(z, y)[1].z), refloss.CrossEntropy())
    assert causes(report) == [f"value and gradient agree with label_smoothing=0.1: {smoothed}"]
