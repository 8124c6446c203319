"""The check of foreign code: what conforms passes, each defect fails and is named, and nothing passes by default."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import refloss
from refloss.testing import Report, Shape, adapters, assert_close, assert_conforms, cases, check, conformance
from refloss.testing import diagnosis as explain
from refloss.testing.budgets import arithmetic
from refloss.testing.hard_cases import GROUPS, dtype_of
from refloss.testing.report import Result
from test_frameworks import jax, torch  # noqa: F401 (fixtures)

LOSS = refloss.ArcFace()
DTYPES = ["float16", "bfloat16", "float32", "float64"]
SMALL = [(4, 5, 16)]


def ours(loss, gradients=True, **changes):
    """A loss of refloss in the dress of foreign code, with settings changed."""
    other = replace(loss, **changes)

    def fn(*inputs):
        inputs = [
            np.asarray(entry).astype(np.float64) if np.asarray(entry).dtype.kind not in "iu" else entry
            for entry in inputs
        ]
        if not gradients:
            return other(*inputs)
        value, grad = other.value_and_grad(*inputs)
        return value, *(part for part in grad if part is not None)

    return fn


LOSSES = [
    refloss.CrossEntropy(),
    refloss.CrossEntropy(reduction="none", label_smoothing=0.1),
    refloss.SoftmaxLoss(),
    refloss.ModifiedSoftmax(),
    refloss.NormFace(reduction="none"),
    refloss.ASoftmax(),
    refloss.CosFace(boundary="conditional"),
    refloss.ArcFace(boundary="easy"),
    refloss.ArcFace(boundary="min"),
    refloss.CombinedMargin(m1=1.35),
    refloss.ASoftmax(m=1.01),
    refloss.Triplet(),
]


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
    found = cases(loss, dtype, [(4, 5, 16), (2, 3, 8)])
    assert len({case.id for case in found}) == len(found)
    for case in found:
        assert case.group in GROUPS
        assert case.reason
        assert case.flags
        for entry in case.inputs:
            if entry.dtype.kind != "i":
                assert (entry.astype(dtype_of(dtype)).astype(np.float64) == entry).all(), case.id
                assert np.isfinite(entry).all() or "masked" in case.flags
    sizes = {case.inputs[0].shape for case in found}
    assert sizes == ({(4, 5), (2, 3)} if loss.spec.head == "logits" else {(4, 16), (2, 8)})


@pytest.mark.parametrize("shape", [(4, 3, 2), (2, 3, 1), (1, 1, 8)])
@pytest.mark.parametrize("loss", [refloss.CosFace(), refloss.CrossEntropy()], ids=repr)
def test_small_shapes_have_cases_too(loss, shape):
    found = cases(loss, shapes=[shape])
    assert {case.group for case in found} >= {"ordinary", "hard", "range"}
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


def test_what_goes_into_a_margin_is_named(torch):  # noqa: F811
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


def test_an_arccos_is_told_from_a_clamp(torch):  # noqa: F811
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
    assert sentence.startswith("NaN or infinite only where the square of a length overflows: divide by")


@pytest.mark.parametrize("case", cases(LOSS, shapes=SMALL), ids=str)
def test_one_case_at_a_time(case):
    assert_conforms(ours(LOSS), LOSS, cases=[case])


def test_cases_can_be_followed():
    seen = []

    def track(every):
        for case in every:
            seen.append(case.id)
            yield case

    check(ours(LOSS), LOSS, shapes=SMALL, track=track)
    assert seen == [case.id for case in cases(LOSS, shapes=SMALL)]


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
    quantity = conformance.compare("value", np.float64(1.0) * np.ones(()), 1.0, np.float64(2.0))
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


def test_a_framework_loses_confident_targets(torch):  # noqa: F811
    def log_softmax(z, y):
        return torch.nn.functional.cross_entropy(z, y)

    loss = refloss.CrossEntropy()
    assert check(log_softmax, loss, framework="torch").passed
    report = check(log_softmax, loss, framework="torch", standard="relative")
    assert not report.passed
    assert "confident-30" in str(report)
    with pytest.raises(ValueError, match="standard: expected one of 'working', 'stable'"):
        check(log_softmax, loss, framework="torch", standard="absolute")


def test_torch_is_differentiated(torch):  # noqa: F811
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
    given = check(lambda z, y: (good(z, y), z), loss, framework="torch", groups=("ordinary",))
    assert not given.passed


def test_a_matrix_product_in_half_precision_is_named(torch):  # noqa: F811
    def half(x, w, y):
        x, w = (torch.nn.functional.normalize(entry) for entry in (x, w))
        c = (x.half() @ w.half().T).float()
        return torch.nn.functional.cross_entropy(64.0 * (c - 0.35 * torch.nn.functional.one_hot(y, len(w))), y)

    report = check(half, refloss.CosFace(), framework="torch", groups=("ordinary",))
    assert not report.passed
    assert report.diagnoses == (
        "as matrix products would give whose factors are rounded to 11 bits, those of tf32 and of float16",
    )


def test_jax_is_differentiated(jax):  # noqa: F811
    def good(x, w, y):
        z = x @ w.T
        return jax.scipy.special.logsumexp(z, axis=1).mean() - z[np.arange(len(y)), y].mean()

    without = {"boundary-ignored": "jax takes an index out of bounds for the nearest", "boundary-all-ignored": ""}
    assert_conforms(good, refloss.SoftmaxLoss(), framework="jax", shapes=SMALL, xfail=without)
    assert_conforms(good, refloss.SoftmaxLoss(), framework="jax", shapes=SMALL, ignored=False)
    assert_conforms(good, refloss.SoftmaxLoss(ignore_index=None), framework="jax", shapes=SMALL)
    report = check(lambda x, w, y: 2.0 * good(x, w, y), refloss.SoftmaxLoss(), framework="jax", shapes=SMALL)
    assert not report.passed


def test_results_that_one_already_has(torch):  # noqa: F811
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


def test_tensors_of_any_dtype_are_read_exactly(torch):  # noqa: F811
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


def cosines(torch, x, w, lengths=lambda rows: rows.norm(dim=1, keepdim=True), raw=()):  # noqa: F811
    """Cosines, if nothing is wrong with the lengths."""
    unit = [rows if name in raw else rows / lengths(rows) for name, rows in (("x", x), ("w", w))]
    return unit[0] @ unit[1].T


def cosface_of(torch, cos, y, m=0.35):  # noqa: F811
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
def test_a_wrong_step_is_named(torch, said):  # noqa: F811
    report = check(
        lambda *inputs: WRONG_STEPS[said](torch, *inputs),
        refloss.CosFace(),
        framework="torch",
        shapes=SMALL,
        groups=("ordinary",),
    )
    assert [sentence[: len(said)] for sentence in report.diagnoses] == [said]


def test_a_margin_on_the_angle_may_have_the_wrong_sign(torch):  # noqa: F811
    def fn(x, w, y):
        cos = cosines(torch, x, w)
        target = torch.nn.functional.one_hot(y, len(w))
        return torch.nn.functional.cross_entropy(64.0 * torch.cos(torch.acos(cos) - 0.5 * target), y)

    report = check(fn, LOSS, framework="torch", shapes=SMALL, groups=("ordinary",))
    assert report.diagnoses[0].startswith("the margin has the wrong sign")


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_wrong_softmax_is_named(torch, reduction):  # noqa: F811
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


def test_what_a_backward_forgot_is_named(torch):  # noqa: F811
    class Forgetful(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, y):
            ctx.save_for_backward(z, y)
            return torch.nn.functional.cross_entropy(z, y)

        @staticmethod
        def backward(ctx, above):
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


def test_a_triplet_that_nothing_explains_stays_unexplained():
    def change(inputs, value, anchor, *others):
        return value + 1.0, anchor * np.linspace(-1.0, 1.0, len(anchor))[:, None], *others

    report = check(changed(change, refloss.Triplet()), refloss.Triplet(), shapes=SMALL)
    assert not report.passed
    assert report.diagnoses == ()


def test_a_loss_that_refuses_the_inputs_explains_nothing():
    x, w = np.eye(2), np.eye(2)
    found = adapters.Found(np.zeros(()), None, np.ones(()))
    known = explain._Known("float32", arithmetic("float32"))
    assert not explain._agrees(refloss.CosFace(), (x, w, np.array([0, 2])), found, known)
