"""Checks of SphereFace2, UniFace, SigLIP and InfoNCE: single numbers, sure answers, bounds, pairs, standards met."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import refloss
from refloss.testing import assert_close, budget, cases, check, conformance, properties
from refloss.testing.budgets import ladder
from refloss.testing.signatures import fields_of, inputs_of, labels_of, may_have_bias, of_pairs

pytest.importorskip("torch")

from support.right_codes.link_codes import numpy_links, torch_links
from support.right_codes.numpy_codes import numpy_linear

pytestmark = pytest.mark.usefixtures("torch")
SHAPE = [(5, 4, 6)]
ANSWERS = (refloss.SphereFace2(), refloss.UniFace(), refloss.SigLIP())
PAIRS = (refloss.SigLIP(), refloss.InfoNCE(), refloss.InfoNCE(ways=1))
ALL = (*ANSWERS, *PAIRS[1:])


def by_name(loss, dtype="float64", shape=SHAPE, **options):
    return {case.name: case for case in cases(loss, dtype, shape, bias=True, **options)}


def logits(loss, case):
    """Logits before a bound, by plain float64."""
    x, w, *rest = case.inputs
    c = x @ w.T / (np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=1))
    if isinstance(loss, refloss.UniFace):
        y, b = rest
        return loss.s * (c - loss.m * (np.arange(len(w)) == y[:, None])) - b
    return rest[0] * c + (rest[1] if len(rest) > 1 else 0.0)


# ---------------------------------------------------------------------------------------------------------- signatures


@pytest.mark.parametrize(
    ("loss", "names", "fields", "labels"),
    [
        (refloss.SphereFace2(), ("x", "w", "y", "b"), ("x", "w", "b"), 2),
        (refloss.UniFace(), ("x", "w", "y", "b"), ("x", "w", "b"), 2),
        (refloss.SigLIP(), ("x", "w", "t", "b"), ("x", "w", "t", "b"), None),
        (refloss.InfoNCE(), ("x", "w", "s"), ("x", "w", "s"), None),
    ],
    ids=repr,
)
def test_what_a_loss_is_called_with(loss, names, fields, labels):
    assert (inputs_of(loss), fields_of(loss), labels_of(loss)) == (names, fields, labels)
    assert may_have_bias(loss) == (labels is not None) != of_pairs(loss)


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_numbers_come_as_arrays_without_axes_and_are_differentiated(framework, request):
    kinds = []
    if framework == "jax":
        pytest.importorskip("jax")
        request.getfixturevalue("jax")

    def code(x, w, t, b):
        kinds.append((t.ndim, b.ndim, type(t).__module__.partition(".")[0].removeprefix("jaxlib") or "jax"))
        if framework == "numpy":
            return numpy_links(refloss.SigLIP())(x, w, t, b)
        if framework == "torch":
            return torch_links(refloss.SigLIP())(x, w, t, b)
        from support.right_codes.link_codes import jax_links

        return jax_links(refloss.SigLIP())(x, w, t, b)

    case = by_name(refloss.SigLIP(), "float32")["ordinary-random"]
    report = check(code, refloss.SigLIP(), framework=framework, cases=[case])
    assert report.passed, str(report)
    assert [entry.name for entry in report.results[0].quantities] == ["value", "dx", "dw", "dt", "db"]
    assert kinds[0][:2] == (0, 0)


@pytest.mark.parametrize("loss", [refloss.UniFace(), refloss.SoftmaxLoss()], ids=repr)
def test_a_bias_is_no_margin_of_samples(loss):
    code = numpy_links(loss) if isinstance(loss, refloss.UniFace) else numpy_linear(loss)
    report = check(code, loss, shapes=SHAPE, groups="ordinary", bias=True)
    assert report.passed
    assert report.notes == ()


def test_existing_results_are_compared_with_numbers_as_they_come():
    x, w = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[1.0, 1.0], [-1.0, 2.0]])
    value, gradient = refloss.SigLIP().value_and_grad(x, w, 10, -10)
    given = {"dtype": "float64", "value": value, "grad_t": gradient.t, "grad_b": float(gradient.b)}
    assert_close(refloss.SigLIP(), x, w, 10, -10, **given)
    with pytest.raises(AssertionError, match="dt"):
        assert_close(refloss.SigLIP(), x, w, 10, -10, **(given | {"grad_t": gradient.t * 1.001}))
    with pytest.raises(TypeError, match="grad_s"):
        assert_close(refloss.SigLIP(), x, w, 10, -10, dtype="float64", grad_s=1.0)


# --------------------------------------------------------------------------------------------------------------- cases


@pytest.mark.parametrize("loss", ALL, ids=repr)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (4, 1, 5), (4, 3, 1), (5, 4, 6)])
def test_cases_are_inputs_with_finite_budgets(loss, shape):
    for bias in (False, True):
        for case in cases(loss, "float32", shape, bias=bias):
            given = len(case.inputs) - 3
            assert of_pairs(loss) or given == bias
            if case.accepts == ("truth",):
                allowed = budget(loss, *case.inputs, dtype="float32")
                assert all(np.isfinite(part).all() for part in allowed.gradient if part is not None)


def test_without_a_bias_no_case_depends_on_one():
    loss = refloss.UniFace()
    names = {case.name for case in cases(loss, shapes=SHAPE)}
    assert set(by_name(loss)) - names == {name for name, case in by_name(loss).items() if "bias" in case.flags}


def test_a_loss_without_ignored_labels_has_no_case_of_nothing_else():
    assert "boundary-all-ignored" in by_name(refloss.UniFace())
    assert "boundary-all-ignored" not in by_name(refloss.UniFace(ignore_index=None))


@pytest.mark.parametrize("side", ["upper", "lower"])
def test_logits_are_on_the_bound_and_on_both_sides_of_it(side):
    loss, found = refloss.UniFace(), by_name(refloss.UniFace())
    bound = loss.s if side == "upper" else -loss.s
    for who in ("target", "others"):
        for beside, sign in (("above", 1.0), ("below", -1.0), ("on", 0.0)):
            case = found[f"boundary-bound-{who}-{side}-biased-{beside}"]
            z = logits(loss, case)
            own = np.arange(4) == case.inputs[2][:, None]
            z = z[own if who == "target" else ~own] - bound
            assert (np.sign(z) == sign).all() if sign else np.abs(z).min() < 1e-12


@pytest.mark.parametrize("loss", ANSWERS, ids=repr)
def test_answers_are_sure_and_right_or_wrong(loss):
    s = getattr(loss, "s", 64.0)
    found = by_name(loss)
    for name, of_target, sign in (("right", True, 1.0), ("wrong-targets", True, -1.0), ("wrong-others", False, 1.0)):
        case = found[f"hard-{name}"]
        y = case.inputs[2] if labels_of(loss) else np.arange(5)
        z = loss.trace(*case.inputs)["bias"].output
        own = np.arange(z.shape[1]) == y[:, None]
        assert (np.median(z[own if of_target else ~own]) * sign) > s / 8.0, name


def test_a_bias_has_both_signs():
    for loss in ANSWERS:
        numbers = {float(case.inputs[-1]) for case in by_name(loss).values()}
        assert min(numbers) < 0.0 < max(numbers)


# ------------------------------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_standards_of_these_losses_form_a_ladder(loss):
    for name in ("ordinary-random", "hard-same", "hard-theta-1e-02"):
        case = by_name(loss, "float32")[name]
        found = [budget(loss, *case.inputs, dtype="float32", standard=each) for each in ladder("float32", loss)]
        for wide, narrow in pairwise(found):
            assert np.all(narrow.value <= wide.value)
            assert all(np.all(a <= b) for a, b in zip(narrow.gradient, wide.gradient, strict=True))


def test_rows_that_are_ignored_and_a_batch_of_these_have_no_error():
    for reduction in ("mean", "none"):
        loss = refloss.UniFace(reduction=reduction)
        case = by_name(loss, "float32")["boundary-all-ignored"]
        allowed = budget(loss, *case.inputs, dtype="float32")
        assert all(np.max(part) < 1e-37 for part in (allowed.value, *allowed.gradient))
    case = by_name(loss, "float32")["boundary-ignored"]
    allowed = budget(loss, *case.inputs, dtype="float32").gradient.x
    assert ((allowed < 1e-37).all(axis=1) == (case.inputs[2] == -100)).all()


def test_beyond_its_bound_a_logit_has_no_gradient_and_on_it_all_or_none():
    loss, found = refloss.UniFace(), by_name(refloss.UniFace(), "float32")
    names = [f"boundary-bound-target-lower-biased-{side}" for side in ("above", "below", "on")]
    above, below, on = (budget(loss, *found[name].inputs, dtype="float32").gradient.b for name in names)
    truth = loss.value_and_grad(*found[names[0]].inputs)[1].b
    assert on > 0.5 * abs(truth) > 1e3 * above > below


def met(code, loss, chosen):
    """Return the standards by which all results are within their budgets."""

    def within(standard):
        report = check(code, loss, framework="torch", cases=chosen, standard=standard)
        return all(entry.passed for result in report.results for entry in result.quantities)

    return [name for name in ladder("float32", loss) if within(name)]


def sure(loss):
    name = "hard-alone" if of_pairs(loss) else "hard-all-right"
    return by_name(loss, "float32")[name]


@pytest.mark.parametrize("loss", ANSWERS, ids=repr)
@pytest.mark.parametrize(
    ("form", "standard"),
    [("logsigmoid", "relative"), ("log of 1 + exp", "stable")],
)
def test_each_form_of_an_answer_meets_its_standard_where_all_are_sure(loss, form, standard):
    code = torch_links(loss, form)
    assert met(code, loss, [sure(loss)])[-1] == standard


def test_a_difference_of_two_rounded_numbers_meets_working_alone():
    loss, case = refloss.SigLIP(), sure(refloss.SigLIP())
    x, w, _, b = case.inputs
    targets = [case._replace(id=f"hard-alone-{t}", inputs=(x, w, np.array(t / 4.0), b)) for t in range(16, 48)]
    assert met(torch_links(loss, "softplus less z"), loss, targets)[-1] == "working"
    assert met(torch_links(loss, "with logits"), loss, targets)[-1] != "working"
    loss, w, y = refloss.UniFace(s=8.0, m=0.0), np.array([[1.0, 0.0], [-1.0, 0.125]]), np.array([0])
    others = [
        case._replace(id=f"hard-other-{k}", inputs=(np.array([[1.0, k / 64.0]]), w, y, np.array(k / 16.0)))
        for k in range(24)
    ]
    assert met(torch_links(loss, "with logits"), loss, others)[-1] == "working"
    assert met(torch_links(loss, "logsigmoid"), loss, others)[-1] == "relative"


def test_softplus_less_z_loses_a_sure_pair_altogether():
    case = sure(refloss.SigLIP())
    lost = check(torch_links(refloss.SigLIP(), "softplus less z"), refloss.SigLIP(), framework="torch", cases=[case])
    value = lost.results[0].quantities[0]
    assert value.got == 0.0
    assert 1e-15 < value.expected < 1e-13
    report = check(
        torch_links(refloss.SigLIP(), "softplus less z"),
        refloss.SigLIP(),
        framework="torch",
        cases=[case],
        standard="relative",
    )
    assert not report.passed


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_softplus_with_a_threshold_of_20_is_right_but_in_float64(dtype, monkeypatch):
    monkeypatch.setattr(conformance, "diagnose", lambda *arguments: [])
    loss = refloss.SigLIP()
    standard = "stable" if dtype.endswith("16") else "relative"
    case = by_name(loss, dtype)["hard-wrong-targets"]
    for form, right in (("softplus", dtype != "float64"), ("softplus to 40", True)):
        code = torch_links(loss, form)
        assert check(code, loss, framework="torch", dtype=dtype, standard=standard, cases=[case]).passed == right


# ------------------------------------------------------------------------------------------- right codes and properties


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_right_codes_conform(loss, dtype):
    for framework, code in (("torch", torch_links(loss)), ("numpy", numpy_links(loss))):
        bias = None if of_pairs(loss) else True
        report = check(code, loss, framework=framework, dtype=dtype, shapes=SHAPE, standard="stable", bias=bias)
        assert report.passed, str(report)


def test_a_signature_of_four_arguments_takes_a_bias():
    code = numpy_links(refloss.UniFace())

    def biased(x, w, y, b):
        return code(x, w, y, b)

    def unbiased(x, w, y):
        return code(x, w, y)

    report = check(biased, refloss.UniFace(), shapes=SHAPE, groups="ordinary")
    assert report.passed
    assert all(len(result.case.inputs) == 4 for result in report.results)
    report = check(unbiased, refloss.UniFace(), shapes=SHAPE, groups="ordinary")
    assert report.passed
    assert all(len(result.case.inputs) == 3 for result in report.results)


@pytest.mark.parametrize(
    ("loss", "other", "quantity"),
    [
        (refloss.SphereFace2(), refloss.SphereFace2(gradient="detached"), "dx"),
        (refloss.SphereFace2(), refloss.SphereFace2(alpha=0.6), "value"),
        (refloss.UniFace(), refloss.UniFace(l=0.9), "value"),
        (refloss.SigLIP(), refloss.SigLIP(reduction="sum"), "value"),
        (refloss.InfoNCE(), refloss.InfoNCE(ways=1), "value"),
    ],
    ids=repr,
)
def test_other_losses_are_over_the_budget_and_the_only_cause(loss, other, quantity):
    bias = None if of_pairs(loss) else True
    report = check(numpy_links(other), loss, shapes=SHAPE, groups="ordinary", bias=bias)
    assert not report.passed
    assert any(entry.name == quantity and entry.over for result in report.results for entry in result.quantities)
    assert [sentence.endswith(f": {other}") for sentence in report.diagnoses] == [True]


def test_a_bias_of_the_wrong_sign_and_a_scale_without_a_gradient_are_over_the_budget():
    def negative(x, w, y, b):
        value, dx, dw, db = numpy_links(refloss.UniFace())(x, w, y, b)
        return value, dx, dw, -db

    report = check(negative, refloss.UniFace(), shapes=SHAPE, groups="ordinary")
    assert {entry.name for result in report.results for entry in result.quantities if entry.over} == {"db"}

    def constant(x, w, s):
        value, dx, dw, ds = numpy_links(refloss.InfoNCE())(x, w, s)
        return value, dx, dw, 0.0 * ds

    report = check(constant, refloss.InfoNCE(), shapes=SHAPE, groups="ordinary")
    assert not report.passed


@pytest.mark.parametrize(
    "loss",
    [
        refloss.SphereFace2(),
        refloss.UniFace(reduction="sum"),
        refloss.SigLIP(),
        refloss.SigLIP(reduction="none"),
        refloss.InfoNCE(),
        refloss.InfoNCE(ways=1, reduction="none"),
    ],
    ids=repr,
)
def test_properties_hold_for_right_code(loss):
    bias = None if of_pairs(loss) else True
    found = properties(numpy_links(loss), loss, examples=2, bias=bias)
    assert found.passed, str(found)


def test_a_detached_power_has_no_property_of_its_slope():
    slope = "The gradient is that of the value"
    for gradient, has in (("exact", True), ("detached", False)):
        loss = refloss.SphereFace2(gradient=gradient)
        found = properties(numpy_links(loss), loss, examples=1)
        assert any(slope in title for title in found.held) == has


def test_one_way_alone_contradicts_that_sides_may_change_places():
    code = numpy_links(refloss.InfoNCE(ways=1))
    found = properties(code, refloss.InfoNCE(), examples=3)
    assert any("sides" in title for title in found.broken)
    for loss in (refloss.InfoNCE(ways=1), refloss.SigLIP(reduction="none")):
        found = properties(numpy_links(loss), loss, examples=1)
        assert not any("sides" in title for title in (*found.held, *found.broken))


def test_gradients_of_both_ways_are_linear_in_upstream_gradients_where_they_are_by_batch():
    title = "Gradients are proportional to the upstream gradient"
    for loss, has in ((refloss.InfoNCE(), True), (refloss.InfoNCE(reduction="none"), False)):
        found = properties(torch_links(loss), loss, framework="torch", examples=1)
        assert found.passed, str(found)
        assert any(title in held for held in found.held) == has


def test_properties_of_pairs_without_gradients_and_of_a_pair_alone():
    loss = refloss.SigLIP()
    code = numpy_links(loss)
    found = properties(lambda *inputs: code(*inputs)[0], loss, gradients=False, examples=1, shape=(1, 1, 4))
    assert not found.broken
    assert not any("order of the pairs" in title for title in found.held)
    found = properties(code, loss, gradients=("t",), examples=1)
    assert not found.broken
    assert not any("orthogonal" in title for title in found.held)
