"""The check of foreign code: what conforms passes, each defect fails and is named, and nothing passes by default."""

from __future__ import annotations

import zlib
from dataclasses import replace
from unittest import SkipTest

import numpy as np
import pytest

import refloss
from refloss.formats import dtype_of
from refloss.testing import (
    Case,
    Report,
    Shape,
    adapters,
    assert_close,
    assert_conforms,
    cases,
    check,
    conformance,
    conforms,
)
from refloss.testing.budgets import arithmetic
from refloss.testing.comparison import compare
from refloss.testing.diagnosis.references import References, agrees
from refloss.testing.hard_cases import GROUPS
from refloss.testing.report import Result
from support.foreign import LOSSES, ours

LOSS = refloss.ArcFace()
DTYPES = ["float16", "bfloat16", "float32", "float64"]
SMALL = [(4, 5, 16)]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES)
def test_refloss_itself_conforms(loss, dtype):
    report = check(ours(loss), loss, dtype=dtype, shapes=SMALL)
    assert report.passed, str(report)
    assert report.verdicts["ordinary"] == "passed"
    assert str(report).splitlines()[0].endswith("numpy: conforms")
    assert report.diagnoses == ()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cases_are_exact_in_their_dtype_and_have_names_of_their_own(loss, dtype):
    drawn = cases(loss, dtype, [(4, 5, 16), (2, 3, 8)])
    assert len({case.id for case in drawn}) == len(drawn)
    for case in drawn:
        assert case.group in GROUPS
        assert case.reason
        assert case.flags
        for entry in case.inputs:
            if entry.dtype.kind != "i":
                assert (entry.astype(dtype_of(dtype)).astype(np.float64) == entry).all(), case.id
                assert np.isfinite(entry).all() or "masked" in case.flags
    sizes = {case.inputs[0].shape for case in drawn}
    assert sizes == ({(4, 5), (2, 3)} if loss.spec.head in ("logits", "divergence") else {(4, 16), (2, 8)})


@pytest.mark.parametrize("shape", [(4, 3, 2), (2, 3, 1), (1, 1, 8)])
@pytest.mark.parametrize("loss", [refloss.CosFace(), refloss.CrossEntropy()], ids=repr)
def test_small_shapes_have_cases_too(loss, shape):
    drawn = cases(loss, shapes=[shape])
    assert {case.group for case in drawn} >= {"ordinary", "hard", "range"}
    assert check(ours(loss), loss, shapes=[shape]).passed


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="dtype: expected one of"):
        cases(LOSS, "float8")
    with pytest.raises(ValueError, match="framework: expected one of 'numpy'"):
        adapters.call(ours(LOSS), "mxnet", "float32", None, (), np.ones(1), ("x", "w"), 2)


def test_shapes_have_defaults():
    assert {case.inputs[1].shape for case in cases(LOSS)} == {(7, 13), (35, 9), (3, 5), (2, 3)}
    weighted = refloss.CrossEntropy(class_weight=(1.0, 2.0, 3.0))
    assert {case.inputs[0].shape for case in cases(weighted)} == {(9, 3), (5, 3), (19, 3), (2, 3)}
    assert Shape(d=7) == (9, 7, 7)


DEFECTS = {
    "detached margin": (ours(LOSS, gradient="detached"), "the gradient is that of the detached margin"),
    "another rule": (ours(LOSS, boundary="hard"), "value and gradient agree with boundary='hard'"),
    "sum": (ours(LOSS, reduction="sum"), "sum instead of mean"),
    "degrees": (ours(LOSS, m=np.radians(0.5)), "margin taken in degrees"),
    "no margin": (ours(LOSS, m=0.0), "no margin"),
    "no scale": (ours(LOSS, s=1.0), "no scale"),
    "length": (ours(LOSS, s=None), "the length of the embedding as the scale"),
}


def changed(change, loss=LOSS):
    """Results of refloss, changed before they are returned."""
    right = ours(loss)
    return lambda *inputs: change(inputs, *right(*inputs))


def _one_entry(inputs, value, x, w):
    x = x.copy()
    x[np.unravel_index(np.abs(x).argmax(), x.shape)] *= 1.001
    return value, x, w


DEFECTS |= {
    "zero": (changed(lambda i, v, x, w: (v, 0.0 * x, 0.0 * w)), "the gradient of x is all zero"),
    "sign": (changed(lambda i, v, x, w: (v, -x, w)), "the gradient of x has the opposite sign"),
    "factor": (changed(lambda i, v, x, w: (v, len(x) * x, len(x) * w)), "the gradient of w is N times as large"),
    "divided twice": (changed(lambda i, v, x, w: (v, x / len(x), w)), "the gradient of x is divided by N twice"),
    "unprojected": (
        changed(lambda i, v, x, w: (v, x, w + 0.5 * i[1] * np.abs(w).max() / np.abs(i[1]).max())),
        "the projection of its normalisation is missing",
    ),
    "m wrong by a thousandth": (ours(LOSS, m=0.5005), ""),
    "s wrong by a thousandth": (ours(LOSS, s=64.064), ""),
    "one entry": (changed(_one_entry), ""),
    "NaN": (changed(lambda i, v, x, w: (v, x * np.nan, w)), ""),
    "shape": (changed(lambda i, v, x, w: (v, x[:, :1], w)), ""),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_fails_and_is_named(defect):
    fn, diagnosis = DEFECTS[defect]
    report = check(fn, LOSS, groups=("ordinary", "boundary"))
    assert not report.passed
    assert "failed" in report.verdicts.values()
    assert not diagnosis or any(diagnosis in sentence for sentence in report.diagnoses)


def test_what_does_not_conform_raises_the_report():
    settings = {"shapes": SMALL, "groups": ("boundary",)}
    with pytest.raises(AssertionError, match="does not conform") as raised:
        assert_conforms(DEFECTS["sum"][0], LOSS, **settings)
    assert str(raised.value) == str(check(DEFECTS["sum"][0], LOSS, **settings))


def test_a_report_says_where_what_and_how_much():
    text = str(check(DEFECTS["one entry"][0], LOSS, groups=("ordinary",)))
    assert "dx[" in text
    assert "got" in text
    assert "times" in text
    assert "NaN" in str(check(DEFECTS["NaN"][0], LOSS, groups=("ordinary",)))
    assert "shape (9, 1), expected (9, 13)" in str(check(DEFECTS["shape"][0], LOSS, groups=("ordinary",)))
    many = str(check(DEFECTS["sum"][0], LOSS))
    assert "and " in many
    assert " more: " in many


def test_other_defects_of_other_losses():
    smooth = refloss.CrossEntropy(label_smoothing=0.2, class_weight=(1.0, 2.0, 3.0, 4.0, 5.0))
    report = check(ours(smooth, label_smoothing=0.0), smooth, shapes=SMALL)
    assert report.diagnoses[0].startswith("no label smoothing")
    report = check(ours(smooth, class_weight=None), smooth, shapes=SMALL)
    assert report.diagnoses[0].startswith("class weights left out")
    annealed = refloss.ASoftmax(annealing=5.0)
    report = check(ours(annealed, annealing=0.0), annealed, shapes=SMALL)
    assert any(sentence.startswith("no annealing") for sentence in report.diagnoses)
    assert not check(refloss.CrossEntropy(reduction="none"), refloss.CrossEntropy(), shapes=SMALL).passed


def soft(loss, change=lambda y: y):
    """The same with targets for labels that are changed."""
    other = ours(loss)
    return lambda z, y: other(z, y if np.asarray(y).dtype.kind in "iu" else change(np.asarray(y, np.float64)))


SIGNED = (-1.0, 2.0, 0.5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_class_weights_of_both_signs(reduction, dtype):
    """Right code conforms; without the signs, without the weights, with the signs of the targets it does not."""
    for loss in (refloss.CrossEntropy(), refloss.CrossEntropy(label_smoothing=0.2), refloss.NormFace(s=4.0)):
        loss = replace(loss, class_weight=SIGNED, reduction=reduction)  # noqa: PLW2901
        options = {"dtype": dtype, "soft": True, "shapes": [(5, 3, 4)]}
        assert check(ours(loss), loss, **options).passed
        report = check(ours(loss, class_weight=(1.0, 2.0, 0.5)), loss, **options)
        assert report.diagnoses[0].startswith("class weights without their sign")
        report = check(ours(loss, class_weight=None), loss, **options)
        assert report.diagnoses[0].startswith("class weights left out")


def test_targets_that_are_no_probabilities():
    """Nobody may divide by their sum or drop their sign; to refuse negative ones is right too."""
    loss = refloss.CrossEntropy()

    def refusing(y):
        if (y < 0.0).any():
            raise ValueError
        return y

    def failed(change):
        results = check(soft(loss, change), loss, soft=True, shapes=[(5, 3, 4)]).results
        return {result.case.name for result in results if result.status == "failed"}

    assert not failed(lambda y: y)
    assert not failed(refusing)
    assert failed(np.abs) == {"boundary-soft-signs"}
    assert failed(lambda y: y / y.sum(axis=-1, keepdims=True)) == {"boundary-soft-sums", "boundary-soft-signs"}


def test_a_mean_over_weights_that_add_up_to_0_may_be_anything_but_a_number_of_its_own():
    loss = refloss.CrossEntropy(class_weight=(-1.0, 1.0, 0.5))
    z, y = np.array([[0.5, 1.0, 2.0], [1.0, 0.5, -1.0]]), np.array([0, 1])
    own = Case("own", "ordinary", (), "weights that add up to 0", (z, y))
    for value in (loss(z, y), np.nan, 0.0):
        assert check(lambda z, y, value=value: (value, np.full(z.shape, np.nan)), loss, cases=[own]).passed
    assert not check(lambda z, y: (1.0, np.full(z.shape, np.nan)), loss, cases=[own]).passed


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_sum_is_told_from_a_mean_for_every_loss(loss):
    if loss.reduction == "none":
        loss = replace(loss, reduction="mean")
    report = check(ours(loss, reduction="sum"), loss, shapes=SMALL, groups=("ordinary",))
    assert report.diagnoses[0].startswith("sum instead of mean")


def test_smoothing_shared_among_the_others_is_named():
    loss = refloss.CrossEntropy(label_smoothing=0.2)
    report = check(ours(loss, label_smoothing=0.25), loss, shapes=SMALL)
    assert report.diagnoses[0].startswith("label smoothing of eps/(C - 1)")


def test_causes_are_found_over_shapes_of_several_numbers_of_classes():
    loss = refloss.CrossEntropy(label_smoothing=0.2)

    def others_alone(z, y):
        return ours(loss, label_smoothing=0.2 * z.shape[1] / (z.shape[1] - 1))(z, y)

    assert check(others_alone, loss).diagnoses == (
        "label smoothing of eps/(C - 1) on the other classes, not eps/C on all: label_smoothing=0.2 * C / (C - 1)",
    )

    def next_label(z, y):
        return ours(LOSSES[0])(z, np.where(y < 0, y, (y + 1) % z.shape[1]) if y.ndim == 1 else y)

    assert check(next_label, LOSSES[0]).diagnoses[0].startswith("every label is off by one: value and gradient agree")
    assert not check(ours(loss, label_smoothing=0.0), loss, shapes=(3, 1, 2)).diagnoses


def test_what_goes_into_a_margin_is_named(torch):
    def cosface(x, w, y, unit=True, least=0.0):
        cos = torch.nn.functional.normalize(x) @ (torch.nn.functional.normalize(w) if unit else w).T
        margin = 0.35 * torch.nn.functional.one_hot(y, len(w))
        return torch.nn.functional.cross_entropy(4.0 * (cos.clamp(-1.0 + least, 1.0 - least) - margin), y)

    loss = refloss.CosFace(s=4.0)
    assert check(cosface, loss, framework="torch").passed
    long = check(lambda *a: cosface(*a, unit=False), loss, framework="torch", groups=("ordinary",))
    assert not long.passed
    for least in (1e-5, 1e-3):
        clamped = check(lambda *a, least=least: cosface(*a, least=least), loss, framework="torch")
        assert clamped.diagnoses == (f"cosine clamped at 1 - {least:g}",)


def test_an_arccos_is_told_from_a_clamp(torch):
    def arcface(x, w, y, least=0.0):
        cos = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(w).T
        target = torch.nn.functional.one_hot(y, len(w))
        psi = torch.cos(torch.acos(cos.clamp(-1.0 + least, 1.0 - least)) + 0.5)
        return torch.nn.functional.cross_entropy(64.0 * (cos + target * (psi - cos)), y)

    plain = check(arcface, LOSS, framework="torch")
    assert plain.verdicts["ordinary"] == plain.verdicts["boundary"] == "passed"
    assert plain.verdicts["hard"] == "failed"
    assert [sentence[:44] for sentence in plain.diagnoses] == ["only where targets are within 0.3 rad of the"]
    for least in (1e-5, 1e-3, 1e-2):
        report = check(lambda *a, least=least: arcface(*a, least), LOSS, framework="torch")
        assert report.diagnoses == (f"cosine clamped at 1 - {least:g}",)


def counting_all(z, y):
    """Mean cross entropy whose mean counts the ignored rows too, with its gradient."""
    value, grad = refloss.CrossEntropy(reduction="sum").value_and_grad(z, y)
    return value / len(y), grad.z / len(y)


def test_ignored_rows():
    loss = refloss.CrossEntropy()
    report = check(counting_all, loss, dtype="float64")
    assert not report.passed
    assert report.diagnoses == (
        "ignored rows are counted in the mean: divide by the number of labels that count, not by N",
    )

    def negative_index(z, y):
        return ours(loss)(z, np.where(y < 0, z.shape[1] - 1, y))

    assert check(negative_index, loss, dtype="float64").diagnoses[0].startswith("only where labels are to be ignored")

    def refusing(z, y):
        if (y < 0).any():
            raise ValueError("labels are 0 to C - 1")
        return ours(loss)(z, y)

    report = check(refusing, loss, dtype="float64")
    assert report.passed
    assert "refused, as it may be: boundary-ignored-9x7x13" in str(report)


def test_zero_vectors_may_give_any_number_or_be_refused():
    def tolerant(x, w, y):
        short = [np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (x, w)]
        value, grad = LOSS.value_and_grad(*(np.where(rows == 0.0, 1e-30, rows) for rows in (x, w)), y)
        return value, grad.x / short[0], grad.w

    zero = [case for case in cases(LOSS, shapes=SMALL) if "zero vector" in case.flags]
    assert len(zero) == 2
    assert check(tolerant, LOSS, cases=zero).verdicts == {"range": "passed"}
    assert check(ours(LOSS), LOSS, cases=zero).verdicts == {"range": "undecided"}
    report = check(lambda x, w, y: (np.nan, x, w), LOSS, cases=zero)
    assert report.verdicts == {"range": "failed"}
    assert "value: 1 of 1 are NaN or infinite" in str(report)


def test_only_an_overflow_is_named_as_such():
    def squares(x, w, y):
        with np.errstate(all="ignore"):
            lengths = [np.sqrt((rows**2).sum(axis=1, keepdims=True)) for rows in (x, w)]
        value, grad = LOSS.value_and_grad(x, w, y)
        bad = sum(float(np.where((length == 0.0) | (length > 1e30), np.nan, 0.0).sum()) for length in lengths)
        return value + bad, grad.x, grad.w

    report = check(squares, LOSS, dtype="float32")
    assert report.passed
    assert report.verdicts["range"] == "failed"
    (sentence,) = report.diagnoses
    assert sentence.startswith(
        "in the group range: NaN or infinite only where the square of a length overflows: divide"
    )


@pytest.mark.parametrize("case", cases(LOSS, shapes=SMALL), ids=str)
def test_one_case_at_a_time(case):
    assert_conforms(ours(LOSS), LOSS, cases=[case])


def test_cases_can_be_followed():
    ids = []

    def track(every):
        for case in every:
            ids.append(case.id)
            yield case

    check(ours(LOSS), LOSS, shapes=SMALL, track=track)
    assert ids == [case.id for case in cases(LOSS, shapes=SMALL)]


@pytest.mark.parametrize("loss", [refloss.CosFace(), refloss.ArcFace(), refloss.NormFace(s=None)], ids=repr)
def test_weights_that_are_not_normalised_are_named(loss):
    def raw(x, w, y):
        length, each = np.linalg.norm(x, axis=1, keepdims=True), np.arange(len(y))
        c = x / length @ w.T
        if loss.spec.margin.m2:
            c[each, y] = np.cos(np.arccos(np.clip(c[each, y], -1.0, 1.0)) + loss.m)
        else:
            c[each, y] -= loss.spec.margin.m3
        return refloss.CrossEntropy()((length if loss.s is None else loss.s) * c, y)

    report = check(raw, loss, groups=("ordinary",))
    assert "weights are not brought to unit length" in report.diagnoses


def test_values_alone_can_be_checked():
    alone = check(ours(LOSS, gradients=False), LOSS, shapes=SMALL)
    assert (alone.state, alone.undecided) == ("undecided", ("dx", "dw"))
    assert not alone
    assert "the value alone was returned: no gradient was looked at" in alone.notes
    assert check(ours(LOSS, gradients=False), LOSS, shapes=SMALL, gradients=False)
    report = check(ours(LOSS, gradients=False, reduction="sum"), LOSS, shapes=SMALL)
    assert report.diagnoses[0].startswith("sum instead of mean")
    assert check(DEFECTS["zero"][0], LOSS, shapes=SMALL, gradients=False).passed


def test_what_is_raised_is_a_failure():
    def broken(*inputs):
        raise RuntimeError("no such kernel")

    report = check(broken, LOSS, shapes=SMALL)
    assert not report.passed
    assert "raised RuntimeError: no such kernel" in str(report)


def test_an_exception_that_says_nothing_is_named():
    class SilentError(Exception):
        def __str__(self):
            raise ValueError("no text")

    def fn(x, w, y):
        raise SilentError

    report = check(fn, refloss.CosFace(), shapes=SMALL, groups="ordinary")
    assert {result.error for result in report.results} == {"SilentError"}


def test_expected_failures_have_to_be_right():
    names = [case.id for case in cases(LOSS, shapes=SMALL) if case.group in ("ordinary", "boundary")]
    wrong, settings = ours(LOSS, reduction="sum"), {"shapes": SMALL, "groups": ("ordinary", "boundary")}
    names = [name for name in names if "all-ignored" not in name]  # a sum of nothing is 0, as its mean may be
    assert check(wrong, LOSS, xfail=dict.fromkeys(names, "a sum"), **settings).passed
    passing = check(ours(LOSS), LOSS, xfail={names[0]: "was wrong once"}, **settings)
    assert not passing.passed
    assert f"xpassed: {names[0]}" in str(passing)
    dead = check(ours(LOSS), LOSS, xfail={"no-such-case": "gone"}, **settings)
    assert not dead.passed
    assert "no case 'no-such-case'" in str(dead)


def test_what_cannot_be_decided_is_not_passed():
    case = cases(LOSS, shapes=SMALL)[0]
    quantity = compare("value", np.float64(1.0) * np.ones(()), 1.0, np.float64(2.0))
    assert (quantity.decided, quantity.undecided) == (0, 1)
    result = Result(case, (quantity,), None, "", "")
    assert result.status == "undecided"
    report = Report(LOSS, "float32", "numpy", (result,))
    assert report.verdicts == {"ordinary": "undecided"}
    assert (report.state, bool(report)) == ("undecided", False)
    assert "never decided: value" in str(report)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if not isinstance(loss, refloss.Triplet)], ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_refloss_conforms_relative_to_tiny_losses_too(loss, dtype):
    report = check(ours(loss), loss, dtype=dtype, shapes=SMALL, standard="relative")
    assert report.passed, str(report)


def test_a_framework_loses_confident_targets(torch):
    def log_softmax(z, y):
        return torch.nn.functional.cross_entropy(z, y)

    loss = refloss.CrossEntropy()
    assert check(log_softmax, loss, framework="torch").passed
    report = check(log_softmax, loss, framework="torch", standard="relative")
    assert not report.passed
    assert "confident-30" in str(report)
    with pytest.raises(ValueError, match="standard: expected one of 'working', 'stable'"):
        check(log_softmax, loss, framework="torch", standard="absolute")


def test_torch_is_differentiated(torch):
    def good(z, y):
        return torch.nn.functional.cross_entropy(z, y, reduction="none")

    loss = refloss.CrossEntropy(reduction="none")
    assert_conforms(good, loss, framework="torch")
    assert_conforms(good, loss, framework="torch", dtype="bfloat16", device="cpu")
    stopped = check(lambda z, y: good(z.detach(), y) + 0.0 * z.sum(), loss, framework="torch", groups=("ordinary",))
    assert any("all zero" in sentence for sentence in stopped.diagnoses)
    unused = check(
        lambda x, w, y: good((x @ x.T)[:, :5], y % 5).mean(), refloss.SoftmaxLoss(), framework="torch", shapes=SMALL
    )
    assert not unused.passed
    report_of_gradient = check(lambda z, y: (good(z, y), z), loss, framework="torch", groups=("ordinary",))
    assert not report_of_gradient.passed


def test_a_matrix_product_in_half_precision_is_named(torch):
    def half(x, w, y):
        x, w = (torch.nn.functional.normalize(entry) for entry in (x, w))
        c = (x.half() @ w.half().T).float()
        return torch.nn.functional.cross_entropy(64.0 * (c - 0.35 * torch.nn.functional.one_hot(y, len(w))), y)

    report = check(half, refloss.CosFace(), framework="torch", groups=("ordinary",))
    assert not report.passed
    assert report.diagnoses == (
        "as matrix products would give whose factors are rounded to 11 bits, those of tf32 and of float16",
    )


def test_jax_is_differentiated(jax):
    def good(x, w, y):
        z = x @ w.T
        return jax.scipy.special.logsumexp(z, axis=1).mean() - z[np.arange(len(y)), y].mean()

    without = {"boundary-ignored": "jax takes an index out of bounds for the nearest", "boundary-all-ignored": ""}
    assert_conforms(good, refloss.SoftmaxLoss(), framework="jax", shapes=SMALL, xfail=without)
    assert_conforms(good, refloss.SoftmaxLoss(), framework="jax", shapes=SMALL, ignored=False)
    assert_conforms(good, refloss.SoftmaxLoss(ignore_index=None), framework="jax", shapes=SMALL)
    report = check(lambda x, w, y: 2.0 * good(x, w, y), refloss.SoftmaxLoss(), framework="jax", shapes=SMALL)
    assert not report.passed


def test_results_that_one_already_has(torch):
    x, w, y = cases(LOSS)[0].inputs
    value, grad = LOSS.value_and_grad(x, w, y)
    assert_close(LOSS, x, w, y, dtype="float32", value=value, grad_x=grad.x, grad_w=grad.w)
    assert_close(LOSS, torch.tensor(x), w, torch.tensor(y), dtype="float32", grad_w=torch.tensor(grad.w))
    with pytest.raises(AssertionError, match=r"dw\["):
        assert_close(LOSS, x, w, y, dtype="float32", grad_w=1.001 * grad.w)
    with pytest.raises(AssertionError, match="value: got"):
        assert_close(LOSS, x, w, y, dtype="float32", value=1.001 * value, upstream=1.0)
    with pytest.raises(TypeError, match="grad_z: expected one of"):
        assert_close(LOSS, x, w, y, dtype="float32", grad_z=grad.x)


def test_dtypes_of_sums_and_products_are_taken_everywhere():
    loss = refloss.SoftmaxLoss()

    def short(x, w, y):
        """Products whose factors are rounded to 8 bits."""
        fewer = (entry.astype(dtype_of("bfloat16")).astype(np.float64) for entry in (x, w))
        return ours(loss)(*fewer, y)

    *inputs, y = cases(loss)[0].inputs
    value, dx, dw = short(*inputs, y)
    results = {"value": value, "grad_x": dx, "grad_w": dw, "dtype": "float32"}
    with pytest.raises(AssertionError, match="value: got"):
        assert_close(loss, *inputs, y, **results)
    assert_close(loss, *inputs, y, matmul="bfloat16", **results)
    assert_close(loss, *inputs, y, accumulate="float32", matmul="bfloat16", **results)
    few = {"groups": "ordinary", "shapes": SMALL, "dtypes": ("float32", "float64")}
    assert not conforms(short, loss, **few)
    assert conforms(short, loss, matmul="bfloat16", **few)
    assert conforms(short, loss, matmul="bfloat16", accumulate="float64", **few)


def test_tensors_of_any_dtype_are_read_exactly(torch):
    numbers = torch.tensor([0.5, 3.0, -1.25], dtype=torch.bfloat16, requires_grad=True)
    assert (adapters.read(numbers) == [0.5, 3.0, -1.25]).all()
    assert adapters.read([1, 2]).dtype == np.float64


NAMED = {
    "margin": (ours(LOSS, m=0.5005), "value and gradient agree with m=0.5005"),
    "scale": (ours(LOSS, s=64.064), "value and gradient agree with s=64.064"),
    "one entry": (changed(_one_entry), "a single entry of the gradient of x is wrong"),
    "hard": (ours(LOSS, boundary="hard"), "value and gradient agree with boundary='hard'"),
    "continuous": (ours(LOSS, boundary="continuous"), "value and gradient agree with boundary='continuous'"),
    "keep": (ours(LOSS, boundary="keep"), "value and gradient agree with boundary='keep'"),
}


@pytest.mark.parametrize("defect", NAMED)
def test_more_defects_are_named_over_all_groups(defect):
    fn, said = NAMED[defect]
    report = check(fn, LOSS)
    assert not report.passed
    assert any(sentence.startswith(said) for sentence in report.diagnoses), report.diagnoses


def test_a_gradient_of_another_shape_or_a_value_of_nan_is_no_single_entry():
    for change in (lambda i, v, x, w: (v, x[:, :3], w), lambda i, v, x, w: (np.nan * v, x, w)):
        report = check(changed(change), LOSS, groups=("ordinary",))
        assert not any("single entry" in sentence for sentence in report.diagnoses)


def test_what_nothing_explains_is_left_unexplained():
    def fn(z, y):
        value, grad = refloss.CrossEntropy().value_and_grad(z, y)
        sure = value < 1e-3
        return value + 0.1 * sure, grad.z + 0.1 * sure * np.abs(z)

    report = check(fn, refloss.CrossEntropy(), groups=("hard",))
    assert not report.passed
    assert report.diagnoses == ()


def cosines(torch, x, w, lengths=lambda rows: rows.norm(dim=1, keepdim=True), raw=()):
    """Cosines, if nothing is wrong with the lengths."""
    unit = [rows if name in raw else rows / lengths(rows) for name, rows in (("x", x), ("w", w))]
    return unit[0] @ unit[1].T


def cosface_of(torch, cos, y, m=0.35):
    return torch.nn.functional.cross_entropy(64.0 * (cos - m * torch.nn.functional.one_hot(y, cos.shape[1])), y)


WRONG_STEPS = {
    "weights are not brought to unit length": lambda t, x, w, y: cosface_of(t, cosines(t, x, w, raw="w"), y),
    "embeddings are not brought to unit length": lambda t, x, w, y: cosface_of(t, cosines(t, x, w, raw="x"), y),
    "neither embeddings nor weights": lambda t, x, w, y: cosface_of(t, cosines(t, x, w, raw="xw"), y),
    "the margin has the wrong sign": lambda t, x, w, y: cosface_of(t, cosines(t, x, w), y, -0.35),
    "every label is off by one: value and gradient agree with y + 1": lambda t, x, w, y: cosface_of(
        t, cosines(t, x, w), (y + 1) % len(w)
    ),
    "0.001 added to every length": lambda t, x, w, y: cosface_of(
        t, cosines(t, x, w, lambda rows: rows.norm(dim=1, keepdim=True) + 1e-3), y
    ),
    "0.01 added under the root of every length": lambda t, x, w, y: cosface_of(
        t, cosines(t, x, w, lambda rows: ((rows**2).sum(dim=1, keepdim=True) + 1e-2).sqrt()), y
    ),
}


@pytest.mark.parametrize("said", WRONG_STEPS)
def test_a_wrong_step_is_named(torch, said):
    report = check(
        lambda *inputs: WRONG_STEPS[said](torch, *inputs),
        refloss.CosFace(),
        framework="torch",
        shapes=SMALL,
        groups=("ordinary",),
    )
    assert [sentence[: len(said)] for sentence in report.diagnoses] == [said]


def test_a_margin_on_the_angle_may_have_the_wrong_sign(torch):
    def fn(x, w, y):
        cos = cosines(torch, x, w)
        target = torch.nn.functional.one_hot(y, len(w))
        return torch.nn.functional.cross_entropy(64.0 * torch.cos(torch.acos(cos) - 0.5 * target), y)

    report = check(fn, LOSS, framework="torch", shapes=SMALL, groups=("ordinary",))
    assert report.diagnoses[0].startswith("the margin has the wrong sign")


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_wrong_softmax_is_named(torch, reduction):
    f = torch.nn.functional

    def more_probable(z, y):
        return f.nll_loss(torch.log(z.softmax(1) + 1e-5), y, reduction=reduction)

    for fn, said in (
        (lambda z, y: f.cross_entropy(z.softmax(1), y, reduction=reduction), "softmax taken twice"),
        (lambda z, y: f.nll_loss(z.log_softmax(0), y, reduction=reduction), "softmax over the samples"),
        (more_probable, "1e-05 added to probabilities before their logarithm"),
    ):
        loss = refloss.CrossEntropy(reduction=reduction)
        report = check(fn, loss, framework="torch", groups=("ordinary", "hard"))
        assert [sentence[: len(said)] for sentence in report.diagnoses] == [said]


def test_what_a_backward_forgot_is_named(torch):
    class Forgetful(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, y):
            ctx.save_for_backward(z, y)
            return torch.nn.functional.cross_entropy(z, y)

        @staticmethod
        def backward(ctx, upstream):
            z, y = ctx.saved_tensors
            return (z.softmax(1) - torch.nn.functional.one_hot(y, z.shape[1])) / len(y), None

    report = check(Forgetful.apply, refloss.CrossEntropy(), framework="torch", groups=("ordinary",))
    assert report.diagnoses == (
        "the gradient of z does not depend on the upstream gradient, which has to be multiplied in",
    )
    for change, said in (
        (lambda i, v, x, w: (v, x * np.linalg.norm(i[0], axis=1, keepdims=True), w), "is not divided by the length"),
        (lambda i, v, x, w: (v, 3.0 * x, w), "is 3 times what it should be, in each of 3 failing cases"),
        (lambda i, v, x, w: (v, x * np.linspace(-1.0, 1.0, len(x))[:, None], w), None),
        (lambda i, v, x, w: (v, x * (1.0 + abs(v)), w), None),
    ):
        report = check(changed(change), LOSS, shapes=SMALL, groups=("ordinary",))
        assert [sentence.removeprefix("the gradient of x ") for sentence in report.diagnoses] == (
            [] if said is None else [report.diagnoses[0][18:]]
        )
        assert said is None or said in report.diagnoses[0]


def test_shapes_that_are_only_dressed_otherwise_get_a_hint():
    right = refloss.CrossEntropy(reduction="none")
    assert "is reduction='none' on one side only?" in str(check(ours(right), refloss.CrossEntropy(), shapes=SMALL))
    assert "transposed?" in str(check(changed(lambda i, v, x, w: (v, x.T, w)), LOSS, shapes=SMALL))


def test_cases_that_pass_tell_one_explanation_from_another():
    report = check(ours(LOSS, boundary="keep"), LOSS)
    assert report.diagnoses == (f"value and gradient agree with boundary='keep': {replace(LOSS, boundary='keep')}",)


def test_causes_of_wrong_divergences():
    def exactly(*inputs):
        return ours(refloss.KLDivergence())(*inputs)

    def taken_twice(z, target):
        value, *gradients = exactly(z, refloss.softmax(target.astype(np.float64)))
        return value, *gradients

    for fn, said in (
        (lambda z, t: tuple(part / z.shape[1] for part in exactly(z, t)), "divided by the number of entries"),
        (ours(refloss.KLDivergence(form="reverse")), "value and gradient agree with form='reverse'"),
        (ours(refloss.KLDivergence(form="jensen-shannon")), "value and gradient agree with form='jensen-shannon'"),
        (ours(refloss.KLDivergence(reduction="sum")), "sum instead of mean"),
        (taken_twice, "softmax of the target taken twice"),
        (changed(lambda i, v, dz, dt: (v, -dz, dt), refloss.KLDivergence()), "the gradient of z has the opposite sign"),
    ):
        report = check(fn, refloss.KLDivergence(), groups=("ordinary", "hard"))
        assert report.state == "does not conform"
        assert report.diagnoses[0].startswith(said), report.diagnoses
    rows = refloss.KLDivergence(reduction="none")
    report = check(lambda z, t: tuple(part / z.shape[1] for part in ours(rows)(z, t)), rows, groups=("ordinary",))
    assert not any("entries" in sentence for sentence in report.diagnoses)


def test_divergences_of_logits_with_more_axes():
    loss = refloss.KLDivergence(form="reverse", reduction="none")
    z, target = np.random.default_rng(0).normal(size=(2, 2, 3, 4))
    case = Case("own", "ordinary", (), "", (z, target))
    assert check(ours(loss), loss, cases=[case]).passed
    report = check(ours(refloss.KLDivergence(reduction="none")), loss, cases=[case])
    assert report.diagnoses[0].startswith("value and gradient agree with form='forward'")


def test_a_triplet_that_nothing_explains_stays_unexplained():
    def change(inputs, value, anchor, *others):
        return value + 1.0, anchor * np.linspace(-1.0, 1.0, len(anchor))[:, None], *others

    report = check(changed(change, refloss.Triplet()), refloss.Triplet(), shapes=SMALL)
    assert not report.passed
    assert report.diagnoses == ()


def test_a_loss_that_refuses_the_inputs_explains_nothing():
    x, w = np.eye(2), np.eye(2)
    output = adapters.Found(np.zeros(()), None, np.ones(()))
    references = References("float32", arithmetic("float32"))
    assert not agrees(refloss.CosFace(), (x, w, np.array([0, 2])), output, references)


# ------------------------------------------------------------------------------------------------ arguments and options


def test_a_dtype_may_be_the_framework_s_and_a_loss_its_class(torch):
    settings = {"framework": "torch", "shapes": (4, 5, 1), "groups": "ordinary"}
    for dtype in ("bfloat16", torch.bfloat16):
        report = check(torch.nn.functional.cross_entropy, refloss.CrossEntropy, dtype=dtype, **settings)
        assert report.passed
        assert report.dtype == "bfloat16"
    assert check(ours(refloss.CosFace()), refloss.CosFace, dtype=np.float64, shapes=SMALL[0], groups=["ordinary"])


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"groups": ("ordnary",)}, ValueError, "groups: expected some of 'ordinary'"),
        ({"groups": ()}, ValueError, "groups: expected some of"),
        ({"cases": []}, ValueError, "cases: expected at least one"),
        ({"shapes": []}, ValueError, "shapes: expected"),
        ({"shapes": (4, 5)}, ValueError, "shapes: expected"),
        ({"shapes": [(4, 0, 3)]}, ValueError, "shapes: expected"),
        ({"shapes": [(4.5, 1, 3)]}, ValueError, "shapes: expected"),
        ({"shapes": 7}, ValueError, "shapes: expected"),
        ({"framework": "mxnet"}, ValueError, "framework: expected one of"),
        ({"device": "cuda"}, ValueError, "device: NumPy has none"),
        ({"dtype": "float8"}, ValueError, "dtype: expected one of"),
        ({"accumulate": "half"}, ValueError, "accumulate: expected one of"),
        ({"matmul": "fp8"}, ValueError, "matmul: expected one of"),
        ({"standard": "strict"}, ValueError, "standard: expected one of"),
        ({"gradients": ("z",)}, ValueError, "gradients: expected True, False or some of 'x', 'w'"),
        ({"overwrites": ("q",)}, ValueError, "overwrites: expected some of 'x', 'w', 'y'"),
        ({"cases": [("x", "w", "y")]}, TypeError, "cases: expected cases as"),
        ({"track": lambda cases: iter(())}, ValueError, "track: expected an iterator"),
    ],
    ids=lambda settings: "-".join(settings) if isinstance(settings, dict) else "",
)
def test_a_setting_that_is_none_is_refused_by_name(settings, error, said):
    with pytest.raises(error, match=said):
        check(ours(LOSS), LOSS, **settings)


def test_what_is_no_function_or_no_loss_is_refused():
    with pytest.raises(TypeError, match="fn: expected a function"):
        check(3.0, LOSS)
    with pytest.raises(TypeError, match="loss: expected a loss of refloss"):
        check(ours(LOSS), "ArcFace")
    with pytest.raises(ValueError, match="expected C=3, as many as class weights"):
        check(ours(LOSS), refloss.CosFace(class_weight=(1.0, 2.0, 3.0)), shapes=SMALL)


def test_devices_are_those_of_the_framework(torch, jax):
    def fn(z, y):
        return torch.nn.functional.cross_entropy(z, y)

    settings = {"shapes": (4, 5, 1), "groups": "ordinary"}
    report = check(fn, refloss.CrossEntropy(), framework="torch", device="cpu", **settings)
    assert "torch on cpu: conforms" in str(report)
    with pytest.raises(ValueError, match="device: expected one that torch has here"):
        check(fn, refloss.CrossEntropy(), framework="torch", device="cuda:7", **settings)

    def in_jax(z, y):
        return jax.nn.logsumexp(z, axis=1).mean() - z[np.arange(len(y)), y].mean()

    for device in ("cpu", "cpu:0", jax.devices("cpu")[0]):
        assert check(in_jax, refloss.CrossEntropy(), framework="jax", device=device, **settings)
    for device in ("cpu:9", "abacus"):
        with pytest.raises(ValueError, match="device: expected one that jax has here"):
            check(in_jax, refloss.CrossEntropy(), framework="jax", device=device, **settings)


def test_jax_without_float64_is_told(jax):
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(ValueError, match="jax_enable_x64"):
            check(lambda z, y: z.sum(), refloss.CrossEntropy(), framework="jax", dtype="float64")
    finally:
        jax.config.update("jax_enable_x64", before)


def test_several_dtypes_give_a_table(torch):
    fn, settings = torch.nn.functional.cross_entropy, {"framework": "torch", "shapes": (4, 5, 1)}
    table = conforms(fn, refloss.CrossEntropy(), dtypes=("bfloat16", torch.float32), devices=(None, "cpu"), **settings)
    assert table
    assert set(table.reports) == {(d, device) for d in ("bfloat16", "float32") for device in ("", "cpu")}
    assert len(str(table).splitlines()) == 5
    wrong = conforms(lambda z, y: 2.0 * fn(z, y), refloss.CrossEntropy(), **settings)
    assert not wrong
    assert "does not conform" in str(wrong)
    for name, value in (("dtypes", ()), ("devices", "cpu")):
        with pytest.raises(ValueError, match=f"{name}: expected at least one"):
            conforms(fn, refloss.CrossEntropy(), **{name: value}, **settings)


def test_an_expected_failure_may_be_named_without_its_shape():
    def ignores_nothing(z, y):
        return ours(refloss.CrossEntropy())(z, y if y.ndim == 2 else np.where(y < 0, 0, y))

    loss, known = refloss.CrossEntropy(), {"boundary-ignored": "", "boundary-all-ignored": "no labels are ignored"}
    assert check(ignores_nothing, loss, xfail=known)
    stale = check(ours(loss), loss, xfail=known)
    assert not stale
    assert "expected to fail, but no case of 'boundary-ignored' did" in str(stale)
    dead = check(ignores_nothing, loss, xfail=known | {"boundary-ignord": ""})
    assert not dead
    assert "there is no case 'boundary-ignord'" in str(dead)
    for case in cases(loss, shapes=[(4, 5, 1), (3, 2, 1)]):  # under parametrisation: names of other cases exist too
        report = check(ignores_nothing, loss, cases=[case], xfail=known | {"hard-equal-9x7x13": "elsewhere"})
        assert report.state != "does not conform"
        assert (report.results[0].status == "xfailed") is (case.name in known)
    assert not check(ours(loss), loss, cases=cases(loss)[:1], xfail={"no-such-9x7x13": ""})


def test_conventions_are_settings():
    def no_ignored(z, y):
        assert (y >= 0).all()
        return ours(refloss.CrossEntropy())(z, y)

    assert check(no_ignored, refloss.CrossEntropy(), ignored=False)
    assert check(ours(refloss.CrossEntropy(ignore_index=None)), refloss.CrossEntropy(ignore_index=None))
    assert not any("ignored" in case.flags for case in cases(refloss.CrossEntropy(ignore_index=None)))
    soft = {case.group for case in cases(LOSSES[0], soft=True) if "soft" in case.flags}
    assert soft == {"boundary"}
    assert {case.group for case in cases(LOSSES[0]) if "soft" in case.flags} == {"range"}

    def labels_only(z, y):
        if y.ndim > 1:
            raise TypeError("labels")
        return ours(refloss.CrossEntropy())(z, y)

    assert check(labels_only, refloss.CrossEntropy())
    assert not check(labels_only, refloss.CrossEntropy(), soft=True)


def test_some_gradients_may_be_all_there_are():
    def without_w(x, w, y):
        value, dx, _ = ours(LOSS)(x, w, y)
        return value, dx

    report = check(without_w, LOSS, shapes=SMALL)
    assert not report
    assert "dw: was not returned" in str(report)
    assert check(without_w, LOSS, shapes=SMALL, gradients=("x",))
    assert check(without_w, LOSS, shapes=SMALL, gradients="x")


def test_frameworks_differentiate_what_is_wanted(torch, jax):
    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, y):
            return torch.nn.functional.cross_entropy(z, y)

        @staticmethod
        def backward(ctx, upstream):
            raise NotImplementedError("no backward")

    assert not check(Forward.apply, refloss.CrossEntropy(), framework="torch")
    assert check(Forward.apply, refloss.CrossEntropy(), framework="torch", gradients=False)

    def detached(x, w, y):
        return torch.nn.functional.cross_entropy(x @ w.detach().T, y)

    assert not check(detached, refloss.SoftmaxLoss(), framework="torch", shapes=SMALL)
    assert check(detached, refloss.SoftmaxLoss(), framework="torch", shapes=SMALL, gradients="x")

    def stopped(x, w, y):
        z = x @ jax.lax.stop_gradient(w).T
        return -jax.nn.log_softmax(z)[np.arange(len(y)), y].mean()

    settings = {"framework": "jax", "shapes": SMALL, "ignored": False}
    assert not check(stopped, refloss.SoftmaxLoss(), **settings)
    assert check(stopped, refloss.SoftmaxLoss(), gradients="x", **settings)
    assert check(stopped, refloss.SoftmaxLoss(), gradients=False, **settings)


def test_a_bias_is_asked_for_where_the_signature_has_one():
    loss = refloss.SoftmaxLoss()
    with_bias = lambda x, w, y, b=None: ours(loss)(x, w, y) if b is None else ours(loss)(x, w, y, b)  # noqa: E731
    report = check(with_bias, loss)
    assert report
    assert "db" in report.names
    assert "bias" in {flag for result in report.results for flag in result.case.flags}
    three = lambda x, w, y: with_bias(x, w, y)  # noqa: E731, PLW0108
    for fn in (three, ours(loss), print):
        assert "db" not in check(fn, loss, shapes=SMALL).names

    def wrong(x, w, y, b=None):
        results = with_bias(x, w, y, b)
        return results if b is None else (*results[:3], 2.0 * results[3])

    assert "db" in str(check(wrong, loss))
    assert check(wrong, loss, bias=False)


def test_a_fourth_argument_of_another_name_keeps_its_default():
    loss = refloss.SoftmaxLoss()

    def scaled(x, w, y, scale=1.0):
        return ours(loss)(scale * x, w, y)

    report = check(scaled, loss, shapes=SMALL)
    assert report
    assert "db" not in report.names


def test_inputs_are_not_to_be_written_to():
    def overwriting(z, y):
        value, grad = refloss.CrossEntropy().value_and_grad(z, y)
        z[...] = grad.z
        return value, z

    report = check(overwriting, refloss.CrossEntropy())
    assert not report
    assert "z: is not what it was before the call" in str(report)
    assert check(overwriting, refloss.CrossEntropy(), overwrites=("z",))
    assert check(overwriting, refloss.CrossEntropy(), overwrites="z")

    def labels(z, y):
        result = ours(refloss.CrossEntropy())(z, y)
        y[:] = 0
        return result

    report = check(labels, refloss.CrossEntropy())
    assert "y: is not what it was before the call" in str(report)
    assert report.diagnoses == ("the code writes into its input y: no other cause was looked for",)


def test_results_have_to_be_the_same_twice():
    rng = np.random.default_rng(0)

    def noisy(size):
        def fn(z, y):
            value, dz = ours(refloss.CrossEntropy())(z, y)
            return value * (1.0 + size * rng.normal()), dz

        return fn

    report = check(noisy(1e-12), refloss.CrossEntropy())
    assert report
    assert any("are not deterministic" in note for note in report.notes)
    report = check(noisy(1e-3), refloss.CrossEntropy())
    assert not report
    assert report.diagnoses == ("results change from call to call: no other cause was looked for",)
    calls = []

    def once(z, y):
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("the workspace is gone")
        return ours(refloss.CrossEntropy())(z, y)

    report = check(once, refloss.CrossEntropy(), cases=cases(refloss.CrossEntropy())[:1])
    assert "a second call on the same inputs raised RuntimeError: the workspace is gone" in str(report)

    def growing(z, y):
        calls.append(1)
        value, dz = ours(refloss.CrossEntropy())(z, y)
        return value, dz[: len(z) - len(calls) % 2]

    assert "two calls" in str(check(growing, refloss.CrossEntropy(), cases=cases(refloss.CrossEntropy())[:1]))


@pytest.mark.parametrize("end", [SystemExit(0), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_what_ends_a_program_is_a_failure(end):
    def fn(z, y):
        raise end

    report = check(fn, refloss.CrossEntropy())
    assert not report
    assert report.verdicts["boundary" if len(report.results) > 1 else "ordinary"] == "failed"
    assert any("interrupted" in note for note in report.notes) is isinstance(end, KeyboardInterrupt)


def test_only_range_is_the_verdict_where_nothing_else_was_asked_for():
    def squares(x, w, y):
        with np.errstate(all="ignore"):
            bad = sum(float(np.where((rows**2).sum(axis=1) > 1e38, np.nan, 0.0).sum()) for rows in (x, w))
        value, dx, dw = ours(LOSS)(x, w, y)
        return value + bad, dx, dw

    assert check(squares, LOSS, groups="range").state == "does not conform"
    assert check(ours(LOSS), LOSS, groups="range").state == "conforms"


def test_a_refusal_is_no_verdict_by_itself():
    def always(*inputs):
        raise ValueError("no")

    report = check(always, LOSS, groups="boundary", cases=[c for c in cases(LOSS) if "ignored" in c.flags])
    assert (report.state, report.verdicts) == ("undecided", {"boundary": "undecided"})
    with pytest.raises(SkipTest):
        assert_conforms(always, LOSS, cases=[c for c in cases(LOSS) if "ignored" in c.flags])
    with pytest.raises(AssertionError, match="undecided"):
        assert_conforms(ours(LOSS, gradients=False), LOSS, cases=cases(LOSS)[:1])


def test_numpy_code_that_was_meant_for_tensors_gets_a_hint(torch):
    report = check(torch.nn.functional.cross_entropy, refloss.CrossEntropy())
    assert not report
    assert any("framework='torch'" in note for note in report.notes)


def test_own_cases_have_to_be_inputs_of_the_loss():
    case = Case("mine", "ordinary", (), "", ([[1.0, 2.0]], [7]))
    with pytest.raises(ValueError, match="cases: 'mine' is no input of CrossEntropy"):
        check(ours(refloss.CrossEntropy()), refloss.CrossEntropy(), cases=[case])
    with pytest.raises(ValueError, match="cases: expected a group of"):
        check(ours(refloss.CrossEntropy()), refloss.CrossEntropy(), cases=[case._replace(group="mine")])
    inexact = case._replace(inputs=([[0.1, 2.0]], [1]))
    assert check(ours(refloss.CrossEntropy()), refloss.CrossEntropy(), cases=[inexact])  # rounded to float32 first


@pytest.mark.parametrize(
    ("z", "y"),
    [
        (np.array([1.0, 2.0, 4.0]), np.array(1)),
        (np.linspace(-2.0, 2.0, 24).reshape(2, 3, 4), np.array([[0, 3, 1], [2, -100, 0]])),
        (np.linspace(-2.0, 2.0, 24).reshape(2, 3, 4), np.full((2, 3, 4), 0.25)),
        (np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.5, 0.0])),
    ],
    ids=["1-D", "3-D", "3-D soft", "1-D soft"],
)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_logits_of_any_layout_work_to_the_end_of_the_report(z, y, reduction):
    loss = refloss.CrossEntropy(reduction=reduction)
    case = Case("mine", "ordinary", (), "", (z, y))
    assert check(ours(loss), loss, cases=[case])
    for change in (
        lambda v, g: (1.5 * v, g),
        lambda v, g: (v, -g),
        lambda v, g: (v, g + 1e-3),
        lambda v, g: (v, g[:1]),
    ):
        report = check(lambda *inputs, change=change: change(*ours(loss)(*inputs)), loss, cases=[case])
        assert not report
        assert "diagnosis: none" not in str(report)


def test_a_diagnosis_that_fails_costs_a_line(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("lost")

    monkeypatch.setattr(conformance, "diagnose", broken)
    report = check(ours(LOSS, reduction="sum"), LOSS, shapes=SMALL)
    assert not report
    assert report.diagnoses == ("none: looking for one raised RuntimeError: lost",)


# ------------------------------------------------------------------------------------------------- what code may return

FORMS = {
    "a tuple": lambda v, z: (v, z),
    "gradients in a tuple": lambda v, z: (v, (z,)),
    "gradients in a list": lambda v, z: [v, [z]],
    "gradients by name": lambda v, z: (v, {"z": z}),
    "a dict": lambda v, z: {"loss": v, "dz": z},
    "a dict with a logit": lambda v, z: {"value": v, "grad_z": z, "accuracy": 0.5},
    "a dict of gradients": lambda v, z: {"loss": v, "grads": {"z": z}},
    "a dict with a tuple": lambda v, z: {"loss": v, "gradients": (z,), "n": 3},
    "None for labels": lambda v, z: (v, z, None),
    "more than there are": lambda v, z: (v, z, z),
    "a number of Python's": lambda v, z: (float(v), z),
}


@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients_are_read_in_any_form(form):
    report = check(lambda *inputs: FORMS[form](*ours(refloss.CrossEntropy())(*inputs)), refloss.CrossEntropy())
    assert report, str(report)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (lambda v, z: None, "got None"),
        (lambda v, z: (), "got nothing"),
        (lambda v, z: {"grad": z}, "got a dict of ['grad']"),
        (lambda v, z: ((v, 1.0), z), "got a tuple first"),
        (lambda v, z: (None, z), "got a NoneType first"),
        (lambda v, z: "0.5", "has to be real numbers"),
        (lambda v, z: v + 0.0j, "has to be real numbers"),
    ],
)
def test_what_holds_no_value_is_refused_by_name(form, said):
    report = check(lambda *inputs: form(*ours(refloss.CrossEntropy())(*inputs)), refloss.CrossEntropy())
    assert not report
    assert said in str(report)


def test_what_comes_beside_is_said(torch):
    right = torch.nn.functional.cross_entropy
    report = check(lambda z, y: (right(z, y), z.argmax(dim=1)), refloss.CrossEntropy(), framework="torch")
    assert report
    assert any("no gradient, and was not looked at: Tensor of shape" in note for note in report.notes)
    report = check(lambda z, y: (right(z, y), z), refloss.CrossEntropy(), framework="torch")
    assert not report
    assert any("was read as dz" in note for note in report.notes)
    report = check(lambda *i: (ours(LOSSES[0])(*i)[0], 0.5), refloss.CrossEntropy())
    assert report.state == "undecided"


def test_a_value_without_a_graph_has_no_gradients(torch):
    right = torch.nn.functional.cross_entropy
    report = check(lambda z, y: right(z.detach(), y), refloss.CrossEntropy(), framework="torch")
    assert report.state == "undecided"

    def sometimes(z, y):
        return right(z.detach() if z.max() > 100 else z, y)

    report = check(sometimes, refloss.CrossEntropy(), framework="torch")
    assert not report
    assert "dz: was not returned, as it was in other cases" in str(report)


def test_sparse_gradients_are_read(torch):
    numbers = torch.tensor([[0.0, 2.0], [0.0, 0.0]]).to_sparse()
    assert (adapters.read(numbers) == [[0.0, 2.0], [0.0, 0.0]]).all()
    assert adapters.read(torch.tensor([1, 2])).dtype == np.float64


def test_results_one_has_are_compared_entry_by_entry():
    z, y = np.array([[1.0, 2.0], [0.5, 0.25]]), np.array([0, -100])
    value, grad = refloss.CrossEntropy().value_and_grad(z, y)
    assert_close(refloss.CrossEntropy, z, y, dtype=np.float32, value=value, grad_z=grad.z)
    leak = grad.z + np.array([[0.0, 0.0], [1e-20, 0.0]])
    with pytest.raises(AssertionError, match=r"dz\[1, 0\]"):
        assert_close(refloss.CrossEntropy(), z, y, dtype="float32", grad_z=leak)
    with pytest.raises(ValueError, match="value: expected it or a gradient to compare"):
        assert_close(refloss.CrossEntropy(), z, y, dtype="float32")
    with pytest.raises(AssertionError, match="input 0: holds numbers that float32 does not"):
        assert_close(refloss.CrossEntropy(), z + 0.1, y, dtype="float32", value=2.0 * value)


# ------------------------------------------------------------------------------------------------------ no false causes


def said_of(change, loss=LOSSES[0], **settings):
    """The diagnoses of results of refloss that were changed."""
    return check(changed(change, loss), loss, **settings).diagnoses


def test_no_cause_is_named_for_what_is_infinite():
    def infinite(inputs, value, dz):
        return (np.inf if np.abs(inputs[0]).max() > 3.0 else value), dz

    assert said_of(infinite)[0].startswith("results are NaN or infinite, in ")


def test_noise_is_no_product_of_short_numbers():
    def noise(inputs, value, *gradients):
        rng = np.random.default_rng(zlib.crc32(inputs[0].tobytes()))  # hash() of bytes differs from run to run
        return value * (1.0 + 1e-4 * rng.normal()), *gradients

    for loss in (refloss.CosFace(), refloss.SoftmaxLoss(), refloss.CrossEntropy(), refloss.Triplet()):
        assert not any("rounded" in said or "computed in" in said for said in said_of(noise, loss))


def test_float32_on_the_way_is_named_as_that():
    def shortened(inputs, value, dz):
        return float(np.float32(value)), dz.astype(np.float32).astype(float)

    assert said_of(shortened, dtype="float64") == (
        "as float32 would give: something is computed in float32 on the way",
    )


def test_a_factor_that_equals_n_by_chance_is_a_factor():
    said = said_of(lambda i, v, g: (v, 9.0 * g), shapes=(9, 7, 13), groups="ordinary")
    assert said == ("the gradient of z is 9 times what it should be, in each of 2 failing cases",)
    alone = said_of(lambda i, v, g: (v, 9.0 * g), cases=cases(LOSSES[0])[:1])
    assert alone == ("the gradient of z is 9 times what it should be, in the one case that failed",)
    slight = said_of(lambda i, v, g: (v, 1.0005 * g), shapes=(9, 7, 13), groups="ordinary")
    assert not any("1 times" in sentence for sentence in slight)


def test_a_log_of_a_softmax_is_no_arccos(torch):
    def cosface(x, w, y):
        f = torch.nn.functional
        z = 64.0 * (f.normalize(x) @ f.normalize(w).T - 0.35 * f.one_hot(y, len(w)))
        return f.nll_loss(torch.log(torch.softmax(z, dim=1)), y)

    report = check(cosface, refloss.CosFace(), framework="torch", ignored=False)
    assert not report
    assert not any("arccos" in sentence for sentence in report.diagnoses)
    assert report.diagnoses[0].startswith("NaN or infinite only where logits are far apart")


def test_a_fit_has_to_explain_everything():
    def sometimes(inputs, value, dx, dw):
        other = ours(LOSS, m=0.5005)(*inputs) if len(dx) == 9 else (value, dx, dw)
        return other

    assert not any("m=" in sentence for sentence in said_of(sometimes, LOSS))
    assert said_of(lambda i, v, dx, dw: ours(LOSS, m=0.45)(*i), LOSS)[0].startswith(
        "value and gradient agree with m=0.45"
    )


def test_a_second_call_may_not_write_into_its_inputs_either():
    calls = []

    def fn(z, y):
        calls.append(1)
        result = ours(refloss.CrossEntropy())(z, y)
        if len(calls) > 1:
            z[...] = 0.0
        return result

    report = check(fn, refloss.CrossEntropy(), cases=cases(refloss.CrossEntropy())[:1])
    assert "z: is not what it was before the call" in str(report)


def test_what_only_some_cases_show_is_said_of_these():
    def apart(inputs, value, dz):
        return value + (1.0 if np.isfinite(inputs[0]).all() and np.ptp(inputs[0]) > 100.0 else 0.0), dz

    assert said_of(apart)[0].startswith("only where logits are far apart, and probabilities vanish")
    triplet = refloss.Triplet()
    far = said_of(lambda i, v, *g: (v + (1.0 if i[0].mean() > 50.0 else 0.0), *g), triplet)
    assert far == ("only where points are far from the origin: take differences of points before anything else",)
    together = said_of(lambda i, v, *g: (v + (1.0 if (i[0] == i[1]).all() else 0.0), *g), triplet)
    assert together == ("only where points coincide",)
    part = said_of(lambda i, v, dx, dw: (v, None, 3.0 * dw), LOSS, gradients=("w",), groups="ordinary")
    assert part == ("the gradient of w is 3 times what it should be, in each of 11 failing cases",)
