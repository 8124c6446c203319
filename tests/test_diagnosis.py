"""Causes: what each asks of results before it is named, and settings that only some losses have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import refloss
from refloss.formats import dtype_of
from refloss.testing import Case, adapters, cases, check
from refloss.testing.budgets import arithmetic
from refloss.testing.defects import TABLE
from refloss.testing.defects.loss_rows import rows_of
from refloss.testing.defects.settings import MEANS
from refloss.testing.defects.steps import Changed, OfValue, plain_scores
from refloss.testing.defects.sums import CLASSES
from refloss.testing.diagnosis.fits import Errors, fitted, fitted_steps
from refloss.testing.diagnosis.gradients import _is_gradient_of
from refloss.testing.diagnosis.references import References, agrees
from refloss.testing.diagnosis.rounded import LOG_P, rounded_probabilities
from refloss.testing.diagnosis.values import _may_explain, rows
from refloss.testing.hard_cases import SHAPES
from support.foreign import ours
from support.right_codes.numpy_codes import max_first, numpy_logits
from support.wrong_codes.option_codes import options

CE = refloss.CrossEntropy()
LINEAR = refloss.SoftmaxLoss()
SMOOTH = refloss.CrossEntropy(label_smoothing=0.1)
Z = np.array([[0.5, -1.0, 2.0], [0.0, 1.0, -0.5], [3.0, 0.25, 1.0]])
Y = np.array([2, -100, 1])


def references(dtype="float64", standard="working"):
    return References(dtype, arithmetic(dtype, standard=standard))


def lse(z):
    return np.log(np.exp(z).sum(axis=1))


# ------------------------------------------------------------------------------------------------------------- settings


def test_settings_that_code_leaves_out_are_tried():
    plain = refloss.CrossEntropy(class_weight=(1.0, 2.0, 3.0))
    assert not {"the z-loss is left out", "no softcap", "no logit scale"} & dict(rows(plain, "setting")).keys()
    assert not {"the z-loss is left out"} & dict(rows(CE, "setting")).keys()
    every = replace(plain, z_loss=1e-3, softcap=30.0, logit_scale=0.5)
    named = dict(rows(every, "setting"))
    assert named["the z-loss is left out"] == replace(every, z_loss=0.0)
    assert named["no softcap"] == replace(every, softcap=None)
    assert named["no logit scale"] == replace(every, logit_scale=1.0)


AGREES = "value and gradient agree with"
CAUSES = {  # of wrong options: how the only cause begins
    "no softcap": "no softcap",
    "another softcap": f"{AGREES} softcap=30:",
    "softcap of 50 for 30": f"{AGREES} softcap=50:",
    "softcap left on": f"{AGREES} softcap=15:",
    "another softcap beside the scale": f"{AGREES} softcap=2.5:",
    "another softcap behind a linear layer": f"{AGREES} softcap=20:",
    "no logit scale": "no logit scale",
    "another logit scale": f"{AGREES} logit_scale=0.125:",
    "logit scale left on": f"{AGREES} logit_scale=0.25:",
    "another logit scale beside the cap": f"{AGREES} logit_scale=0.3",  # 0.375, or 0.38 where that agrees
    "softcap after the loss": "the softcap is applied to the loss, not to the logits",
    "softcap after the loss of each row": "the softcap is applied to the loss, not to the logits",
    "scaled after the cap": "the logit scale multiplies the capped logits: ",
    "tanh without its cap before it": "the logits are not divided by the softcap before the tanh: ",
    "tanh without its cap after it": "the tanh is not multiplied by the softcap: ",
    "clamp instead of tanh": "the logits are clamped to ±15, not capped by a tanh",
    "no slope of tanh in the backward": "the gradient of z lacks the slope of the softcap",
    "no slope of the scale in the backward": "the gradient of z lacks the slope of the logit scale",
    "no slope of tanh and of the scale in the backward": (
        "the gradient of z lacks the slope of the softcap and of the logit scale"
    ),
    "slope 1 - tanh for 1 - tanh²": "",
    "slope of the capped logit": "",
}


@pytest.mark.parametrize(("place", "name"), list(enumerate(CAUSES)), ids=CAUSES)
def test_what_is_wrong_with_an_option_is_named(torch, place, name):
    """Each in one of its frameworks and of its dtypes, the next one in the next."""
    codes = [code for code in options() if code[0] == name]
    _, framework, fn, loss, dtypes = codes[place % len(codes)]
    report = check(fn, loss, framework=framework, dtype=dtypes[place // 2 % len(dtypes)], shapes=SHAPES[:1])
    said = CAUSES[name]
    assert report.state == "does not conform"
    assert [sentence[: len(said)] for sentence in report.diagnoses] == [said] * bool(said), str(report.diagnoses)


def test_no_cap_is_fitted_to_an_error_of_the_gradients_alone():
    """In bfloat16 the budget of a cap that changes little is wide enough for 5 per cent."""

    def larger(z, y):
        value, dz = numpy_logits(CE)(z, y)
        return value, (dz * z.dtype.type(1.05)).astype(z.dtype)

    report = check(larger, CE, dtype="bfloat16")
    assert report.state == "does not conform"
    assert not any("softcap" in sentence or "logit_scale" in sentence for sentence in report.diagnoses)


def test_logits_are_those_of_the_softmax():
    loss = refloss.CrossEntropy(softcap=2.0, logit_scale=0.5)
    own = rows_of(loss, plain_scores(loss, (Z, Y)), (Z, Y))
    assert np.allclose(own.z, 2.0 * np.tanh(0.25 * Z[[0, 2]]))
    assert np.allclose(own.lse, lse(own.z))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_class_weights_and_the_z_loss(reduction):
    weights, kept = np.array([1.0, 2.0, 4.0]), np.array([0, 2])
    loss = refloss.CrossEntropy(class_weight=tuple(weights), z_loss=0.25, reduction=reduction)
    own = weights[Y[kept]]
    losses = own * (lse(Z[kept]) - Z[kept, Y[kept]])
    z_rows = 0.25 * lse(Z[kept]) ** 2

    def reduced(each, divisor):
        if reduction == "none":
            return np.array([each[0], 0.0, each[1]])
        return each.sum() / (divisor if reduction == "mean" else 1.0)

    right = reduced(losses, own.sum()) + reduced(z_rows, 2.0)
    error = Errors((Z, Y), np.asarray(right) + 0.5, np.full(np.shape(right), 0.5), np.asarray(1e-12))
    steps = dict(rows(loss, "step"))
    steps |= {row.sentence: row.emulate(loss) for row in fitted_steps(loss, [error, error])}
    weighted = reduced(losses + own * z_rows, own.sum())
    assert np.allclose(steps["class weights multiply the z-loss too"](Z, Y), weighted)
    by_weights = reduced(losses, own.sum()) + reduced(z_rows, own.sum())
    said = "the z-loss is divided by the sum of class weights, not by the number of rows"
    assert np.allclose(steps[said](Z, Y), by_weights)
    fits = [sentence for sentence in steps if sentence.startswith("the z-loss has lambda=")]
    assert np.allclose(steps[fits[-1]](Z, Y).sum(), np.sum(error.theirs), rtol=1e-3)
    assert not any("z-loss" in sentence for sentence, _ in rows(CE, "step"))
    assert not list(fitted_steps(CE, [error]))


# ------------------------------------------------------------------------------------------------- rounded before p - 1


def rounded(loss, dtype, roundings=1.0, off=np.zeros):
    """Right code, but for p rounded to a dtype before the target is subtracted, or for errors larger than that."""
    right = ours(loss)

    def fn(*inputs):
        value, *gradients = right(*inputs)
        z, y = inputs[0].astype(np.float64), inputs[-1]
        if y.ndim > 1:
            raise TypeError("y: labels alone")
        kept, p = y >= 0, np.asarray(refloss.softmax(z))
        error = roundings * (p.astype(dtype) - p) * kept[:, None] / max(kept.sum(), 1)
        target = np.eye(z.shape[1])[np.where(kept, y, 0)]
        return value, gradients[0] + target * error + off(z.shape)

    return fn


def test_a_softmax_in_float32_is_named_where_more_was_promised():
    report = check(rounded(CE, np.float32), CE, dtype="float32", standard="mixed")
    said = "a softmax was rounded to float32 before the target was subtracted: form p - 1 in float64 and round once"
    assert report.diagnoses == (said,)


def test_larger_errors_and_errors_elsewhere_are_no_rounding_of_p():
    for fn in (
        rounded(CE, np.float16, roundings=5.0),
        rounded(CE, np.float16, off=lambda shape: np.full(shape, 1e-2)),
    ):
        report = check(fn, CE, dtype="float16", standard="mixed")
        assert not report
        assert not any("rounded" in sentence for sentence in report.diagnoses)
    assert (
        check(rounded(CE, np.float16), CE, dtype="float16", standard="mixed").diagnoses[0].startswith("a softmax was")
    )


def test_what_a_framework_loses_of_confident_targets_is_named(torch):
    own, said = torch.nn.functional.cross_entropy, "p of confident targets was rounded before 1 was subtracted"
    report = check(own, CE, framework="torch", standard="relative")
    assert [sentence[: len(said)] for sentence in report.diagnoses] == [LOG_P[: len(said)], said]
    report = check(own, CE, framework="torch", standard="relative", gradients=False)
    assert report.diagnoses == (LOG_P,)
    linear = check(lambda x, w, y: own(x @ w.T, y), LINEAR, framework="torch", standard="relative")
    assert not linear
    assert all(sentence == LOG_P or sentence.startswith(said) for sentence in linear.diagnoses)


def test_a_log_p_that_was_rounded_is_no_p_that_was():
    """Next to 1, p loses no digit by that."""

    def kernel(z, add):
        log_p = max_first(z, add)[0].astype(dtype_of("bfloat16")).astype(z.dtype)
        return log_p, np.exp(log_p)

    report = check(numpy_logits(CE, kernel, upcast=True), CE, dtype="bfloat16", standard="mixed")
    assert not report
    assert report.diagnoses == ()


def linear_case(bits=8):
    """Inputs of a linear head, and results whose p had so many bits before the target was subtracted."""
    x, w, y = next(case for case in cases(LINEAR, "bfloat16") if case.name == "hard-certain").inputs
    value, grad = LINEAR.value_and_grad(x, w, y)
    each, p = np.arange(len(x)), np.asarray(refloss.softmax(x @ w.T))
    dz = np.zeros(p.shape)
    dz[each, y] = (np.rint(p[each, y] * 2.0**bits) / 2.0**bits - p[each, y]) / len(x)
    return (x, w, y), adapters.Found(np.asarray(value), (grad.x + dz @ w, grad.w + dz.T @ x), np.ones(()))


def test_errors_of_a_linear_head_have_to_be_those_of_dz():
    said = "a softmax was rounded to bfloat16"
    mixed = references("bfloat16", "mixed")

    def named(inputs, output):
        return [sentence[: len(said)] for sentence in rounded_probabilities(LINEAR, [(inputs, output)], mixed)]

    inputs, output = linear_case()
    assert named(inputs, output) == [said]
    dx, dw = output.gradients
    for gradients in ((dx, 2.0 * dw), (None, dw), (dx[:, :3], dw), (dx + 1e-2, dw)):
        assert named(inputs, output._replace(gradients=gradients)) == []
    assert named(inputs, output._replace(gradients=(dx, None))) == [said]
    assert named(inputs, output._replace(value=2.0 * output.value)) == []
    for bits in (3, 12, 16):
        assert named(*linear_case(bits)) == []
    right = LINEAR.value_and_grad(*inputs)[1]
    assert named(inputs, output._replace(gradients=(right.x, right.w))) == []


def test_probabilities_for_labels_are_not_explained_so():
    shares = np.full(Z.shape, 1.0 / 3.0)
    value, grad = CE.value_and_grad(Z, shares)
    output = adapters.Found(np.asarray(value), (grad.z + 1e-3,), np.ones(()))
    assert rounded_probabilities(CE, [((Z, shares), output)], references("bfloat16", "mixed")) == []
    for _, other in (*rows(CE, "setting", MEANS), *rows(SMOOTH, "step", CLASSES)):
        assert not agrees(other, (Z, shares), output, references())


def test_a_z_loss_beside_a_smoothed_loss_is_named():
    loss = replace(LINEAR, label_smoothing=0.1)

    def fn(x, w, y):
        value, dx, dw = ours(loss)(x, w, y)
        kept = y >= 0
        return value + 0.01 * (lse((x @ w.T)[kept].astype(np.float64)) ** 2).sum() / max(kept.sum(), 1), dx, dw

    assert check(fn, loss, groups="ordinary").diagnoses == ("a z-loss of lambda=0.01 is added",)


def test_sums_of_probabilities_for_labels_are_explained():
    case = Case("mine", "ordinary", (), "", (Z, np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])))
    report = check(lambda z, y: (CE(z, y) + np.log(2.0), CE.value_and_grad(z, y)[1].z), CE, cases=[case])
    assert report.diagnoses == ("log 2 is added to every loss: classes that were gathered count 2 times in the sum",)


# ------------------------------------------------------------------------------------------------------ no false causes


def test_one_case_fits_no_number():
    """A z-loss, or a pad value: any error of one case would have one."""

    def larger(z, y):
        value, dz = ours(CE)(z, y)
        return value + 0.1, dz

    case = Case("mine", "ordinary", (), "", (Z, np.array([2, 0, 1])))
    report = check(larger, CE, cases=[case])
    assert not report
    assert report.diagnoses == ()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_shards_are_told_apart_for_every_reduction(reduction):
    loss = replace(SMOOTH, reduction=reduction, class_weight=(1.0, 0.5, 2.0, 1.0, 0.25))

    def fn(z, y):
        """Smoothing over the second of two shards: the last two of five classes."""
        kept = y >= 0
        label = np.where(kept, y, 0)
        v = np.asarray(loss.class_weight)
        t = 0.9 * np.eye(5)[label] + 0.1 / 2.0 * (np.arange(5) >= 3)
        t = (v * t) * kept[:, None]
        rows = replace(loss, reduction="none", class_weight=None, label_smoothing=0.0)
        divisor = (v[label] * kept).sum() if reduction == "mean" else 1.0
        value, grad = rows.value_and_grad(z.astype(np.float64), t, upstream=np.full(len(z), 1.0 / (divisor or np.inf)))
        return (value if reduction == "none" else value.sum() / (divisor or np.inf)), grad.z

    report = check(fn, loss, dtype="float64", shapes=(6, 5, 1), soft=False)
    assert [sentence.partition(":")[0] for sentence in report.diagnoses] == [
        "label smoothing with the mean of log p over one of 2 shards"
    ]


def test_what_is_divided_otherwise_is_told_apart():
    loss = refloss.CrossEntropy(class_weight=(1.0, 3.0, 0.5))

    def by_number(z, y):
        value, grad = replace(loss, reduction="sum").value_and_grad(z.astype(np.float64), y)
        count = max(int((y >= 0).sum()), 1)
        return value / count, grad.z / count

    report = check(by_number, loss, shapes=(6, 3, 1))
    assert report.diagnoses == (
        "the weighted sum is divided by the number of rows: divide by the sum of the weights of the labels",
    )


# ------------------------------------------------------------------------------------------- what an explanation asks


X, W, LABELS = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), np.array([0, 2])
COS = refloss.CosFace(s=4.0)


def cosface(*gradients, value=None):
    """The results of CosFace with other gradients, and what it returned them for."""
    true, _ = COS.value_and_grad(X, W, LABELS)
    return (X, W, LABELS), adapters.Found(np.asarray(true if value is None else value), gradients, np.ones(()))


def test_a_step_explains_no_value_of_another_shape():
    given, output = cosface(value=[1.0, 2.0])
    assert not agrees(Changed(COS, ""), given, output, references())


def test_of_the_slope_of_a_step_gradients_that_came_back_are_asked():
    step = next(row for row in TABLE if row.name == "margin on every class").of(refloss.ArcFace(s=4.0))
    value, grad = step.value_and_grad(X, W, LABELS)
    for gradients, right in (((grad.x, None), True), ((-grad.x, None), False)):
        output = adapters.Found(np.asarray(value), gradients, np.ones(()))
        assert agrees(step, (X, W, LABELS), output, references()) == right


def test_an_explanation_that_does_not_apply_to_the_inputs_explains_nothing():
    def refused(inputs):
        raise ValueError("y: expected other labels")

    assert not _may_explain(OfValue(COS, "", refused), COS, cosface(None, None), references())


def test_gradients_that_did_not_come_back_are_those_of_any_loss():
    true, other = COS.value_and_grad(X, W, LABELS)[1], refloss.CosFace(s=4.0, m=0.0)
    wrong = other.value_and_grad(X, W, LABELS)[1]
    assert _is_gradient_of(COS, other, [cosface(wrong.x, None)], references())
    assert not _is_gradient_of(COS, other, [cosface(true.x, None)], references())


def test_a_fit_is_named_beside_what_is_not_explained_only_if_it_is_fine():
    other = refloss.CosFace(s=4.0, m=0.5)
    value, grad = other.value_and_grad(X, W, LABELS)
    outcomes = [((X, W, LABELS), adapters.Found(np.asarray(value), (grad.x, grad.w), np.ones(())))]
    found = [list(fitted(COS, outcomes, references("bfloat16"), coarse=coarse)) for coarse in (True, False)]
    assert other in [loss for _, loss, _ in found[0]]
    assert found[1] == []
    assert other in [loss for _, loss, _ in fitted(COS, outcomes, references(), coarse=False)]
