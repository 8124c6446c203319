"""Causes of wrong SphereFace2, UniFace, SigLIP and InfoNCE: what each stands for, and which code is given which."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import refloss
from refloss.testing import adapters, cases, check
from refloss.testing.budgets import arithmetic
from refloss.testing.defects.emulations import Scaled
from refloss.testing.defects.gradients import Context
from refloss.testing.defects.head_steps import NORMALIZATION
from refloss.testing.defects.link_steps import cosines_in
from refloss.testing.defects.links import ROWS
from refloss.testing.defects.table import LINK_STEPS
from refloss.testing.diagnosis.gradients import _Gradient, _one_gradient
from refloss.testing.diagnosis.references import References, agrees
from refloss.testing.diagnosis.special import NOT_FINITE
from refloss.testing.diagnosis.values import rows as rows_of
from support.right_codes.link_codes import LinkSteps, numpy_links, torch_links, torch_reduced, torch_unit
from support.sampled import chosen

pytest.importorskip("torch")

import torch

pytestmark = pytest.mark.usefixtures("torch")
SHAPE = [(9, 7, 13)]
S2, UNI, SIGLIP, NCE = refloss.SphereFace2(), refloss.UniFace(), refloss.SigLIP(), refloss.InfoNCE()
HALF, ONE = refloss.UniFace(l=0.5), refloss.InfoNCE(ways=1)
LOSSES = (S2, replace(S2, gradient="detached"), UNI, HALF, SIGLIP, NCE, ONE)
F = torch.nn.functional


def inputs_for(loss, dtype="float64"):
    """Embeddings, classes and numbers like those of training, exact in a dtype."""
    random = np.random.default_rng(3)
    n, c, d = (9, 9, 13) if loss in (SIGLIP, NCE, ONE) or not hasattr(loss, "m") else (9, 7, 13)
    x, w = random.standard_normal((n, d)), random.standard_normal((c, d))
    x, w = (rows.astype(dtype).astype(np.float64) for rows in (x, w))
    if hasattr(loss, "m"):
        y = np.arange(n) % c
        x = 0.3 * x + np.where(np.arange(n)[:, None] % 2, w[y], w[(y + 1) % c] - 0.3 * w[y])
        return x.astype(dtype).astype(np.float64), w, y, np.asarray(-3.25)
    return (x, w, np.asarray(7.0), np.asarray(-2.5)) if isinstance(loss, refloss.SigLIP) else (x, w, np.asarray(7.0))


def found(fn, given, dtype):
    """What code returns in a dtype."""
    tensors = [
        torch.tensor(entry) if entry.dtype.kind == "i" else torch.tensor(entry, dtype=getattr(torch, dtype))
        for entry in given
    ]
    floats = [entry.requires_grad_() for entry in tensors if entry.is_floating_point()]
    value = fn(*tensors)
    gradients = torch.autograd.grad(value, floats, allow_unused=True)
    read = tuple(None if part is None else part.double().numpy() for part in gradients)
    return adapters.Found(np.asarray(value.item()), read, np.ones(()))


# ------------------------------------------------------------------------------------------------ what causes stand for


def result_of(loss, other, given, references):
    """Value and gradients of what a cause stands for."""
    one = np.ones(())
    parts = (part for part in references.gradient(other, given, one) if part is not None)
    return adapters.Found(references.value(other, given), tuple(map(np.asarray, parts)), one)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_what_a_cause_stands_for_is_another_value_or_another_gradient(loss):
    references, given = References("float64", arithmetic("float64")), inputs_for(loss)
    right = result_of(loss, loss, given, references)
    for sentence, other in rows_of(loss, "setting", ROWS):
        assert not agrees(other, given, right, references), sentence
        assert str(other)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_what_a_cause_stands_for_is_what_no_other_does(loss):
    """Value and gradients of each agree with its own budgets alone."""
    references, given = References("float32", arithmetic("float32")), inputs_for(loss)
    every = {"right": loss, **dict(rows_of(loss, "setting", ROWS))}
    assert len(every) > 7
    for sentence, other in every.items():
        output = result_of(loss, other, given, references)
        assert [also for also, third in every.items() if agrees(third, given, output, references)] == [sentence]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_parts_give_the_value_and_wrong_steps_another(loss):
    given = inputs_for(loss)
    value = loss(*given)
    assert np.isclose(cosines_in(loss, given).value(), value, rtol=1e-12, atol=0.0)
    steps = {sentence: float(step(*given)) for sentence, step in rows_of(loss, "step", LINK_STEPS)}
    unseen = ("softplus is its", "losses of answers are held", "1e-12 added", "2.22045e-16 added")
    assert sum(np.isclose(other, value, rtol=1e-9) for other in steps.values()) <= len(unseen)
    others = [other for sentence, other in steps.items() if not sentence.startswith(unseen)]
    assert not np.isclose(others, value, rtol=1e-11, atol=0.0).any()
    assert len(others) > 8
    assert not any("margin has the wrong sign" in sentence for sentence, _ in rows_of(loss, "step", NORMALIZATION))


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_of_other_reductions_causes_are_the_same(loss, reduction):
    loss = replace(loss, reduction=reduction)
    given, references = inputs_for(loss), References("float64", arithmetic("float64"))
    assert np.allclose(cosines_in(loss, given).value(), loss(*given), rtol=1e-12)
    for sentence, step in rows_of(loss, "step", LINK_STEPS):
        assert np.shape(step(*given)) == np.shape(loss(*given)), sentence
    for sentence, other in rows_of(loss, "setting", ROWS):
        assert "the mean over" not in sentence
        upstream = np.ones(np.shape(loss(*given)))
        assert np.shape(references.value(other, given)) == upstream.shape


@pytest.mark.parametrize(
    "loss",
    [
        refloss.SphereFace2(t=1, m=0.0, s=1.0, alpha=0.5, weight=1.0),
        refloss.SphereFace2(alpha=1.0),
        refloss.UniFace(m=0.0, s=1.0),
    ],
    ids=str,
)
def test_without_a_setting_there_is_less_to_be_mistaken_in(loss):
    given, usual = inputs_for(loss), type(loss)()
    assert len([*rows_of(loss, "setting", ROWS)]) < len([*rows_of(usual, "setting", ROWS)])
    for sentence, step in rows_of(loss, "step", LINK_STEPS):
        assert "margin" not in sentence or loss.m, sentence
        assert np.isfinite(step(*given))


# ----------------------------------------------------------------------------------------------------- code, and causes


def softplus(a):
    """The loss of an answer."""
    return -F.logsigmoid(-a)


def of_rows(z, ways=1):
    """The losses of rows by a softmax, or by one of rows and one of columns."""
    return sum(F.cross_entropy(each, torch.arange(len(z)), reduction="none") for each in (z, z.T)[:ways]) / ways


def numbers(change):
    """Steps with other scale and bias, from the loss and what is given."""
    return LinkSteps(numbers=change)


def margins(of_target, of_others):
    """Steps with other margins, in units of m."""
    return curve(lambda loss, c, target: margined(loss, raised(loss, c), target, of_target, of_others))


def weights(of_target, of_others):
    """Steps with other weights of answers."""
    return rows(lambda loss, z, target: torch.where(target, of_target * softplus(-z), of_others * softplus(z)).sum(1))


def rows(change):
    """Steps with other losses of rows, from the loss, its logits and which are targets."""
    return LinkSteps(
        answers=lambda z, target: z,
        weighted=lambda loss, z, target: change(loss, z, target)[:, None],
        ways=lambda loss, z, y: change(loss, z, torch.eye(len(z), dtype=torch.bool)).mean(),
    )


def curve(change):
    """Steps with another curve of cosines, margins and all."""
    return LinkSteps(curve=change)


def margined(loss, g, target, of_target=-1.0, of_others=1.0):
    """What is scaled, margins in units of m."""
    return torch.where(target, g + of_target * loss.m, g + of_others * loss.m)


def power(loss, c):
    return 2.0 * ((1.0 + c) / 2.0) ** loss.t - 1.0


def raised(loss, c):
    """g of SphereFace2, of other losses the cosine itself."""
    return power(loss, c) if hasattr(loss, "t") else c


def type_a(loss, c, target):
    """The margin of wespeaker's type A; cosines stay where an arccos has a slope."""
    theta = c.clamp(-1.0 + 1e-6, 1.0 - 1e-6).acos()
    own = torch.where(theta + loss.m < math.pi, (theta + loss.m).cos(), c - 1.0 + math.cos(loss.m))
    return power(loss, torch.where(target, own, (theta - loss.m).cos()))


def of_ways(of_way):
    """The mean of both ways."""
    return rows(lambda loss, z, target: (of_way(z, target) + of_way(z.T, target)) / 2.0)


def other_alone(z, target):
    return z.masked_fill(target, -math.inf).logsumexp(1) - z.diagonal()


def detached_ways(x, w, s):
    """Each way with the other embeddings as constants."""
    x, w = torch_unit(x), torch_unit(w)
    y = torch.arange(len(x))
    return (F.cross_entropy(s * x @ w.detach().T, y) + F.cross_entropy(s * w @ x.detach().T, y)) / 2.0


def simclr(x, w, s):
    """Of twice as many views."""
    both = torch.cat([torch_unit(x), torch_unit(w)])
    z = (s * both @ both.T).masked_fill(torch.eye(len(both), dtype=bool), -math.inf)
    return F.cross_entropy(z, torch.arange(len(both)).roll(len(x)))


def shifted(x, w, y, b):
    return torch_links(S2)(x, w, torch.where(y < 0, y, (y + 1) % len(w)), b)


def torch_bce(loss, z, target):
    return F.binary_cross_entropy_with_logits(z, 2.0 * target.to(z.dtype) - 1.0, reduction="none").sum(1)


SHARE = S2.weight / S2.s
CODES = {  # the loss, code or its steps, and how the only cause begins
    "t = 1": (S2, replace(S2, t=1), "the cosines have no exponent"),
    "t = 2": (S2, replace(S2, t=2), "value and gradient agree with t=2"),
    "detached": (S2, replace(S2, gradient="detached"), "the gradient is that of the detached margin"),
    "exact": (replace(S2, gradient="detached"), S2, "the gradient is that of the exact margin"),
    "no margin": (S2, replace(S2, m=0.0), "no margin"),
    "m of the target alone": (S2, margins(-1.0, 0.0), "the margin is on the target alone"),
    "m of the others alone": (S2, margins(0.0, 1.0), "the margin is on the other classes alone"),
    "sign of the target's m": (S2, margins(1.0, 1.0), "the target's margin has the wrong sign"),
    "sign of the others' m": (S2, margins(-1.0, -1.0), "the margin of the other classes has the wrong sign"),
    "both signs": (S2, margins(1.0, -1.0), "both margins have the wrong sign"),
    "m without s": (S2, margins(-1.0 / S2.s, 1.0 / S2.s), "the margin is not multiplied by the scale"),
    "alpha exchanged": (S2, replace(S2, alpha=1.0 - S2.alpha), "alpha and 1 - alpha are exchanged"),
    "no alpha": (S2, weights(SHARE, SHARE), "the weights lack alpha and 1 - alpha"),
    "no w": (S2, replace(S2, weight=1.0), "the weight w is left out"),
    "no w/s": (S2, replace(S2, weight=S2.s), "the weights are alpha and 1 - alpha, as wespeaker's"),
    "no 1/s": (S2, replace(S2, weight=S2.weight * S2.s), "1/s is left out of the weights"),
    "no scale": (S2, replace(S2, s=1.0), "no scale: "),
    "no scale of g": (S2, numbers(lambda loss, given: (1.0, given[0])), "no scale of g, beside 1/s in the weights"),
    "targets alone": (S2, weights(S2.alpha * SHARE, 0.0), "the targets alone count"),
    "others alone": (S2, weights(0.0, (1.0 - S2.alpha) * SHARE), "the other classes alone count"),
    "over N C": (
        S2,
        LinkSteps(reduced=lambda loss, rows, kept: torch_reduced(loss, rows, kept) / 7.0),
        "the mean over samples and classes, divided by N C",
    ),
    "b taken off": (S2, numbers(lambda loss, given: (loss.s, -given[0])), "the bias has the wrong sign"),
    "b times s": (S2, numbers(lambda loss, given: (loss.s, loss.s * given[0])), "the bias is multiplied by the scale"),
    "no b": (S2, numbers(lambda loss, given: (loss.s, 0.0 * given[0])), "the bias is left out"),
    "m before the power": (
        S2,
        curve(lambda loss, c, target: power(loss, torch.where(target, c - loss.m, c + loss.m))),
        "the margin is taken off the cosine, before its power",
    ),
    "type A": (S2, curve(type_a), "the margin is on the angles, as wespeaker's type A"),
    "from 0 to 1": (
        S2,
        curve(lambda loss, c, target: margined(loss, ((1.0 + c) / 2.0) ** loss.t, target)),
        "the power is not brought to the range from -1 to 1",
    ),
    "power of c": (
        S2,
        curve(lambda loss, c, target: margined(loss, c**loss.t, target)),
        "the power is that of the cosine itself",
    ),
    "labels + 1": (S2, shifted, "every label is off by one"),
    "softmax": (
        S2,
        rows(lambda loss, z, target: F.cross_entropy(z, target.int().argmax(1), reduction="none")),
        "a softmax of each row",
    ),
    "m on all": (UNI, margins(-1.0, -1.0), "all classes have the margin"),
    "m on others too": (UNI, margins(-1.0, 1.0), "the margin is added to the other classes too"),
    "m on others": (UNI, margins(0.0, 1.0), "the margin is on the other classes, not on the target"),
    "sign of m": (UNI, margins(1.0, 0.0), "the margin has the wrong sign"),
    "UniFace's m without s": (UNI, margins(-1.0 / UNI.s, 0.0), "the margin is not multiplied by the scale"),
    "no l": (HALF, UNI, "the weight l of the other classes is left out"),
    "l on the target": (HALF, weights(0.5, 1.0), "the weight l is that of the target"),
    "l on all": (HALF, weights(0.5, 0.5), "the weight l is that of all classes"),
    "no bound": (UNI, LinkSteps(held=lambda loss, z, target: z), "the logits are not held to ±s"),
    "bound before b": (
        UNI,
        LinkSteps(scaled=lambda f, s: (s * f).clamp(-s, s), held=lambda loss, z, target: z),
        "the logits are held to ±s before the bias",
    ),
    "averaged": (UNI, weights(1.0, 1.0 / 6.0), "the losses of the other classes are averaged"),
    "UniFace over N C": (
        UNI,
        LinkSteps(reduced=lambda loss, rows, kept: torch_reduced(loss, rows, kept) / 7.0),
        "the mean over samples and classes, divided by N C",
    ),
    "UniFace's scale": (
        UNI,
        numbers(lambda loss, given: (1.0, -given[0])),
        "no scale of cosines, beside a bound of ±s",
    ),
    "UniFace's b added": (UNI, numbers(lambda loss, given: (loss.s, given[0])), "the bias has the wrong sign"),
    "UniFace's b times s": (
        UNI,
        numbers(lambda loss, given: (loss.s, -loss.s * given[0])),
        "the bias is multiplied by the scale",
    ),
    "UniFace without b": (UNI, numbers(lambda loss, given: (loss.s, 0.0 * given[0])), "the bias is left out"),
    "target among the others": (
        UNI,
        rows(lambda loss, z, target: (softplus(z) + target * softplus(-z)).sum(1)),
        "the target counts among the other classes: ",
    ),
    "exp(t)": (SIGLIP, numbers(lambda loss, given: (given[0].exp(), given[1])), "t is taken for the logarithm"),
    "1/t": (SIGLIP, numbers(lambda loss, given: (1.0 / given[0], given[1])), "t is taken for the temperature"),
    "no t": (SIGLIP, numbers(lambda loss, given: (1.0 + 0.0 * given[0], given[1])), "t is not used"),
    "SigLIP's b taken off": (SIGLIP, numbers(lambda loss, given: (given[0], -given[1])), "the bias has the wrong sign"),
    "t(c + b)": (
        SIGLIP,
        numbers(lambda loss, given: (given[0], given[0] * given[1])),
        "the bias is multiplied by the scale",
    ),
    "SigLIP without b": (SIGLIP, numbers(lambda loss, given: (given[0], 0.0 * given[1])), "the bias is left out"),
    "labels 0 and 1": (
        SIGLIP,
        rows(lambda loss, z, target: softplus(-z * target).sum(1)),
        "answers are multiplied by labels of 0 and 1",
    ),
    "labels 1 and -1": (SIGLIP, rows(torch_bce), "labels of 1 and -1 are given to a binary cross entropy"),
    "over N^2": (
        SIGLIP,
        LinkSteps(reduced=lambda loss, rows, kept: rows.mean() / len(rows)),
        "the mean over all pairs, divided by N^2",
    ),
    "diagonal": (SIGLIP, weights(1.0, 0.0), "the targets alone count"),
    "off the diagonal": (SIGLIP, weights(0.0, 1.0), "the other classes alone count"),
    "InfoNCE of SigLIP": (SIGLIP, rows(lambda loss, z, target: of_rows(z)), "a softmax of each row"),
    "CLIP of SigLIP": (
        SIGLIP,
        rows(lambda loss, z, target: of_rows(z, 2)),
        "a softmax of rows and of columns, as CLIP's",
    ),
    "eps in sigmoids": (
        SIGLIP,
        rows(lambda loss, z, target: -(torch.where(target, z, -z).sigmoid() + 1e-5).log().sum(1)),
        "1e-05 added to sigmoids before their logarithm",
    ),
    "sum": (SIGLIP, replace(SIGLIP, reduction="sum"), "sum instead of mean"),
    "next pair": (SIGLIP, LinkSteps(unit_w=lambda w: torch_unit(w).roll(-1, 0)), "the pairs are off by one"),
    "one way": (NCE, rows(lambda loss, z, target: of_rows(z)), "value and gradient agree with ways=1"),
    "columns": (NCE, rows(lambda loss, z, target: of_rows(z.T)), "w against all x alone"),
    "both ways added": (NCE, rows(lambda loss, z, target: 2.0 * of_rows(z, 2)), "the two ways are added"),
    "constants": (NCE, detached_ways, "in each way the other embeddings count as constants"),
    "wrong axis": (
        ONE,
        rows(lambda loss, z, target: of_rows(z.T)),
        "the softmax is over x, not over w",
    ),
    "two ways": (ONE, rows(lambda loss, z, target: of_rows(z, 2)), "value and gradient agree with ways=2"),
    "halved": (ONE, rows(lambda loss, z, target: of_rows(z) / 2.0), "half of the loss"),
    "exp(s)": (NCE, numbers(lambda loss, given: (given[0].exp(), None)), "s is taken for the logarithm of the scale: "),
    "clamped exp(s)": (
        NCE,
        numbers(lambda loss, given: (given[0].clamp(max=math.log(100.0)).exp(), None)),
        "s is taken for the logarithm of the scale, and held to log 100",
    ),
    "1/s": (NCE, numbers(lambda loss, given: (1.0 / given[0], None)), "s is taken for the temperature"),
    "no s": (NCE, numbers(lambda loss, given: (1.0 + 0.0 * given[0], None)), "s is not used"),
    "others alone in the sum": (NCE, of_ways(other_alone), "the pair itself is left out of the sum of exponentials"),
    "SimCLR": (NCE, simclr, "every embedding is against all others of both kinds"),
    "softmax twice": (
        NCE,
        of_ways(lambda z, target: F.cross_entropy(z.softmax(1), torch.arange(len(z)), reduction="none")),
        "softmax taken twice",
    ),
    "eps in probabilities": (
        NCE,
        of_ways(lambda z, target: -(z.softmax(1).diagonal() + 1e-5).log()),
        "1e-05 added to probabilities before their logarithm",
    ),
    "pair before": (NCE, LinkSteps(unit_w=lambda w: torch_unit(w).roll(1, 0)), "the pairs are off by one"),
    "no unit length of x": (NCE, LinkSteps(unit_x=lambda x: x), "embeddings are not brought to unit length"),
    "no unit length of w": (SIGLIP, LinkSteps(unit_w=lambda w: w), "weights are not brought to unit length"),
    "no unit length": (
        UNI,
        LinkSteps(unit_x=lambda x: x, unit_w=lambda w: w),
        "neither embeddings nor weights are brought to unit length",
    ),
}
"""Wrong codes."""


def code_of(loss, steps):
    """Code of steps, of the settings of another loss, or as it is; all that it is called with is needed."""
    if isinstance(steps, LinkSteps):
        fn = torch_links(loss, steps=steps)
    else:
        fn = torch_links(steps) if hasattr(steps, "spec") else steps

    def with_bias(x, w, y, b):
        return fn(x, w, y, b)

    return with_bias if hasattr(loss, "m") else fn


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CODES)
def test_a_cause_has_the_results_of_the_code(name, dtype):
    """Value and gradients within its budget, of which those of the loss are not; or of a step, the value.

    That no other cause has them is asked in float32: a float64 tells more apart, and takes longer.
    """
    if dtype == "float64" and not chosen(name):
        pytest.skip("another run draws it")
    loss, steps, said = CODES[name]
    said = said.rstrip(": ")
    references, given = References(dtype, arithmetic(dtype)), inputs_for(loss, dtype)
    output = found(code_of(loss, steps), given, dtype)
    assert not agrees(loss, given, output, references)
    others = [
        (sentence, other)
        for sentence, other in rows_of(loss, "setting")
        if dtype == "float32" or sentence.startswith(said[:9])
    ]
    settings = [(sentence, other) for sentence, other in others if agrees(other, given, output, references)]
    alone = [sentence for sentence, other in settings if not isinstance(other, Scaled)]
    agreeing = alone or [sentence for sentence, _ in settings]  # a factor is named where nothing else is
    agreeing += [sentence for sentence, other in rows_of(loss, "inputs") if agrees(other, given, output, references)]
    if not agreeing:
        allowed = references.bounds(loss, given, output.upstream)[0]
        steps = [*rows_of(loss, "step", LINK_STEPS), *rows_of(loss, "step", NORMALIZATION)]
        agreeing = [sentence for sentence, step in steps if abs(step(*given) - output.value) <= allowed]
    assert [sentence.startswith(said) for sentence in agreeing] == [True], agreeing


def causes(report):
    """The causes but those of lengths whose square a dtype does not hold, and of numbers that are infinite."""
    others = ("in the group range", "NaN or infinite only")
    return [sentence for sentence in report.diagnoses if not sentence.startswith(others)]


@pytest.mark.untraced
@pytest.mark.parametrize("name", CODES)
def test_causes_are_named(name):
    loss, steps, said = CODES[name]
    if not chosen(name):
        pytest.skip("another run draws it")
    report = check(code_of(loss, steps), loss, framework="torch", shapes=SHAPE)
    assert report.state == "does not conform"
    assert [sentence.startswith(said) for sentence in causes(report)] == [True], "\n".join(report.diagnoses)


def test_an_exponential_that_overflows_is_said_beside_its_cause():
    loss, steps, _ = CODES["exp(t)"]
    report = check(torch_links(loss, steps=steps), loss, framework="torch", shapes=SHAPE, groups="ordinary")
    assert report.diagnoses == (
        "t is taken for the logarithm of the scale: t is the scale itself",
        f"NaN or infinite only {dict(NOT_FINITE)['gap']}",
    )


def test_a_sum_of_nothing_is_said_beside_its_cause():
    loss, steps, said = CODES["others alone in the sum"]
    report = check(torch_links(loss, steps=steps), loss, framework="torch", shapes=SHAPE, groups=("ordinary", "hard"))
    named, alone = report.diagnoses
    assert named.startswith(said)
    assert alone == "NaN or infinite only for one pair alone, of which a sum over other pairs is empty"


def test_logits_that_overflow_an_exponential_are_said():
    """log(1 + e^z) of a bias of 800, and a mean that counts what is ignored."""

    def naive(x, w, y, b):
        steps = rows(
            lambda loss, z, target: (weights_of(loss, target) * (1.0 + torch.where(target, -z, z).exp()).log()).sum(1)
        )
        return torch_links(S2, steps=steps)(x, w, y, b)

    report = check(naive, S2, framework="torch", shapes=SHAPE, groups=("hard", "ordinary"))
    assert report.state == "does not conform"
    assert any(said.startswith("NaN or infinite only where logits are far apart") for said in report.diagnoses)


def weights_of(loss, target):
    """Weights of answers."""
    return torch.where(target, loss.alpha, 1.0 - loss.alpha) * loss.weight / loss.s


@pytest.mark.untraced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_right_code_has_no_cause(loss, dtype):
    report = check(torch_links(loss), loss, framework="torch", dtype=dtype, shapes=SHAPE)
    assert report.passed, str(report)
    assert not causes(report)


NAMELESS = {
    "the square of answers": (S2, rows(lambda loss, z, target: softplus(torch.where(target, -z, z)).square().sum(1))),
    "every second class": (UNI, rows(lambda loss, z, target: softplus(torch.where(target, -z, z))[:, ::2].sum(1))),
    "the root of t": (SIGLIP, numbers(lambda loss, given: (given[0].sqrt(), given[1]))),
    "a third of the second way": (
        NCE,
        rows(lambda loss, z, target: (2.0 * of_rows(z) + of_rows(z.T)) / 3.0),
    ),
}
"""Codes that are wrong otherwise."""


@pytest.mark.parametrize("name", NAMELESS)
def test_what_has_no_cause_is_given_none(name):
    loss, steps = NAMELESS[name]
    report = check(torch_links(loss, steps=steps), loss, framework="torch", shapes=SHAPE, groups="ordinary")
    assert report.state == "does not conform"
    assert report.diagnoses == ()


def rounded_factors(rows):
    """Rows with the bits of float16."""
    return rows + (rows.half().float() - rows).detach()


def test_right_code_that_a_standard_refuses_is_given_no_other_cause():
    """float32 with products of float16's bits, and no grant for them."""
    steps = LinkSteps(cosine=lambda x, w: rounded_factors(x) @ rounded_factors(w).T)
    for loss in (UNI, NCE):
        report = check(torch_links(loss, steps=steps), loss, framework="torch", groups="ordinary")
        assert report.state == "does not conform"
        said = "as matrix products would give whose factors are rounded to 11 bits, those of tf32 and of float16"
        assert report.diagnoses in ((said,), ())


def test_a_clamp_of_cosines_is_named():
    steps = LinkSteps(cosine=lambda x, w: (x @ w.T).clamp(-1.0 + 1e-4, 1.0 - 1e-4))
    report = check(
        torch_links(SIGLIP, steps=steps), SIGLIP, framework="torch", shapes=SHAPE, groups=("ordinary", "hard")
    )
    assert report.diagnoses == ("cosine clamped at 1 - 0.0001",)


# ------------------------------------------------------------------------------------------------------------ gradients


def changed(loss, change):
    """Right code by hand, its gradients changed: change(inputs, gradients)."""
    code = numpy_links(loss)

    def results(*given):
        value, *gradients = code(*given)
        return value, *change(given, gradients)

    if isinstance(loss, refloss.InfoNCE):

        def fn(x, w, s):
            return results(x, w, s)

    else:

        def fn(x, w, y_or_t, b):
            return results(x, w, y_or_t, b)

    return fn


def last(change):
    """The last gradient changed, of a number: change(gradient, inputs)."""
    return lambda given, gradients: (*gradients[:-1], change(gradients[-1], given))


def alternating():
    """A factor that differs from call to call of other inputs."""
    return last(lambda db, given: db * np.float32(1.0 + 0.5 * (float(np.abs(given[0]).sum()) % 1.0)))


GRADIENTS = {
    "no gradient of b": (S2, last(lambda db, given: 0.0 * db), "the gradient of b is all zero"),
    "b of the wrong sign": (UNI, last(lambda db, given: -db), "the gradient of b has the opposite sign"),
    "twice b": (SIGLIP, last(lambda db, given: 2.0 * db), "the gradient of b is 2 times what it should be"),
    "b of a sum": (UNI, last(lambda db, given: db * len(given[0])), "the gradient of b is N times as large"),
    "no gradient of s": (NCE, last(lambda ds, given: 0.0 * ds), "the gradient of s is all zero"),
    "s twice": (
        NCE,
        last(lambda ds, given: given[2] * ds),
        "the gradient of s has the scale as a factor once too often",
    ),
    "s left out": (
        NCE,
        lambda given, g: (g[0] / given[2], g[1], g[2]),
        "the gradient of x lacks the scale as a factor",
    ),
    "x and w exchanged": (NCE, lambda given, g: (g[1], g[0], g[2]), "the gradients of x and w are exchanged"),
    "t and b exchanged": (SIGLIP, lambda given, g: (*g[:2], g[3], g[2]), "the gradients of t and b are exchanged"),
    "no length": (
        UNI,
        lambda given, g: (g[0] * np.linalg.norm(given[0], axis=1, keepdims=True).astype(g[0].dtype), *g[1:]),
        "the gradient of x is not divided by the length of its row",
    ),
    "an entry": (
        S2,
        lambda given, g: (g[0] + np.float32(0.5) * (np.arange(g[0].size) == 3).reshape(g[0].shape), *g[1:]),
        "a single entry of the gradient of x is wrong",
    ),
    "any factor": (UNI, alternating(), None),
}
"""Wrong gradients."""


@pytest.mark.parametrize("name", GRADIENTS)
def test_what_is_wrong_with_a_gradient_is_named(name):
    loss, change, said = GRADIENTS[name]
    shapes = [(9, 7, 13), (5, 9, 6)]
    report = check(changed(loss, change), loss, shapes=shapes, groups="ordinary")
    assert report.state == "does not conform"
    assert [sentence.startswith(said or "-") for sentence in report.diagnoses] == [True] * (said is not None)


def test_one_number_shows_no_factor():
    """Of one case alone any number is some multiple of another."""
    code = changed(UNI, last(lambda db, given: 3.0 * db))
    case = next(case for case in cases(UNI, "float32", shapes=SHAPE) if len(case.inputs) == 3)
    case = case._replace(inputs=(*case.inputs, np.asarray(1.0)))
    report = check(code, UNI, cases=[case])
    assert report.state == "does not conform"
    assert report.diagnoses == ()


@pytest.mark.parametrize(("unclear", "named"), [(1e-3, True), (1.0, False)])
def test_a_number_next_to_its_budget_may_not_contradict_a_factor(unclear, named):
    def number(theirs, ours):
        theirs, ours = np.asarray(theirs), np.asarray(ours)
        return _Gradient(theirs, ours, np.asarray(1e-5), Context(UNI, inputs_for(UNI), np.ones(()), "b"))

    numbers = [number(2.0, 1.0), number(-6.0, -3.0), number(unclear, 1e-4)]
    said = "is 2 times what it should be, in each of 2 failing cases"
    assert list(_one_gradient(UNI, numbers, list)) == [said] * named


def test_ignored_rows_in_the_mean_are_named():
    def counted(given, gradients):
        share = np.float32((given[2] >= 0).mean())
        return [part * share for part in gradients]

    code = changed(UNI, counted)

    def fn(x, w, y, b):
        value, *gradients = code(x, w, y, b)
        return value * np.float32((y >= 0).mean()), *gradients

    report = check(fn, UNI, shapes=SHAPE, groups=("ordinary", "boundary"))
    assert report.diagnoses == (
        "ignored rows are counted in the mean: divide by the number of labels that count, not by N",
    )
