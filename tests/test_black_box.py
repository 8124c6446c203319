"""`diagnose`: right about code of every family and of every deviation that it can state, and "unknown" of all other."""

import itertools
import json
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import refloss
from refloss.stages.margin import RULES
from refloss.testing import Diagnosis, diagnose
from refloss.testing.black_box import _takes_two, families, fitting, measure, naming, search
from refloss.testing.black_box.conventions import CONVENTIONS
from refloss.testing.black_box.curves import AS_IT_IS, Points, predicted, psi_of
from refloss.testing.black_box.deviations import Expected
from refloss.testing.black_box.fitting import Fit, Model, in_plane, polish, rounded_fit, short
from refloss.testing.black_box.verify import held_out
from refloss.testing.budgets import arithmetic


def own(loss):
    """A loss of refloss as foreign code in NumPy."""

    def head(x, w, y):
        value, grad = loss.value_and_grad(*(np.asarray(entry, np.float64) for entry in (x, w)), y, engine="chain")
        return np.asarray(value).astype(x.dtype), grad.x.astype(x.dtype), grad.w.astype(x.dtype)

    def logits(z, y):
        value, grad = loss.value_and_grad(np.asarray(z, np.float64), y, engine="chain")
        return np.asarray(value).astype(z.dtype), grad.z.astype(z.dtype)

    return logits if loss.spec.head == "logits" else head


def changed(loss, change):
    """The code of a loss with another value or gradients."""
    code = own(loss)
    return lambda x, w, y: change(*code(x, w, y), x, w, y)


FAMILY = [
    refloss.CrossEntropy(reduction="sum"),
    refloss.CrossEntropy(label_smoothing=0.1, softcap=30.0),
    refloss.SoftmaxLoss(z_loss=0.001, reduction="none"),
    refloss.ModifiedSoftmax(),
    refloss.NormFace(s=30.0, reduction="none"),
    refloss.ASoftmax(annealing=5.0),
    refloss.ASoftmax(m=3.5, s=20.0, boundary="none", gradient="detached"),
    refloss.CosFace(),
    refloss.CosFace(boundary="conditional", s=None),
    *(refloss.ArcFace(boundary=rule) for rule in ("none", "hard", "easy", "keep", "continuous", "monotone")),
    refloss.ArcFace(boundary="clamp", s=1.0, gradient="detached"),
    refloss.ArcFace(boundary="min", s=128.0, m=1.0),
    refloss.CombinedMargin(m1=1.1, boundary="hard"),
    refloss.CombinedMargin(m1=1.1, boundary="conditional", s=None),
    refloss.SphereFaceR(),
    refloss.SphereFaceR(version=2, gradient="detached"),
    refloss.CircleLoss(gradient="detached"),
    refloss.InterTopK(k=3),
    refloss.CurricularFace(t=0.3),
    refloss.CurricularFace(m=2.88, t=0.76, s=106.4),
    refloss.MVSoftmax(),
    refloss.MVSoftmax(margin="arc", m=0.5, t=1.0, boundary="none"),
    refloss.AdaFace(s=None, m=0.3),
    refloss.MagFace(l_a=4.0, boundary="monotone", regularizer=24.0),
    refloss.SphereFace2(gradient="detached"),
    refloss.SphereFace2(m=0.16, s=46.0, t=4, alpha=0.27, weight=3.0),
    refloss.UniFace(),
]


@pytest.mark.parametrize("loss", FAMILY, ids=repr)
def test_every_loss_is_named_with_its_settings(loss):
    diagnosis = diagnose(own(loss), dtype="float64")
    assert diagnosis.loss == loss
    assert diagnosis
    assert diagnosis.deviations == ()
    assert diagnosis.residual <= 1.0
    assert all("±" not in text for text in diagnosis.settings.values())


@pytest.mark.parametrize(
    "loss", [refloss.ArcFace(boundary="hard"), refloss.CosFace(s=128.0), refloss.ModifiedSoftmax()], ids=repr
)
def test_float32_resolves_them_too(loss):
    assert diagnose(own(loss), dtype="float32").loss == loss


def test_centers_are_told_by_the_caller():
    loss = refloss.SubCenterArcFace(centers=2, boundary="hard")
    assert diagnose(own(loss), centers=2).loss == loss
    plain = refloss.SubCenterArcFace(centers=2, m=0.0)
    assert diagnose(own(plain), centers=2).loss == plain


def test_a_margin_with_all_its_digits_says_how_far_it_may_be_off():
    diagnosis = diagnose(own(refloss.ArcFace(m=0.4837216)))
    value, error = map(float, diagnosis.settings["m"].split(" ± "))
    assert abs(value - 0.4837216) <= error <= 1e-5
    assert abs(diagnosis.loss.m - 0.4837216) <= error
    assert f"m: {diagnosis.settings['m']}" in str(diagnosis)


def test_rules_that_nothing_measured_tells_apart_are_said():
    diagnosis = diagnose(own(refloss.ArcFace(m=0.001, boundary="hard")))
    assert isinstance(diagnosis.loss, refloss.ArcFace)
    assert any("other rules" in remark and "keep" in remark for remark in diagnosis.remarks)


# ---------------------------------------------------------------------------------------------- codes of a framework


def torch_head(torch, psi, s=64.0, unit=None, reduction="mean"):
    """A head as public code has it: angles by arccos, ψ of (θ, cos θ) in the target's place."""
    f = torch.nn.functional
    unit = unit or (lambda x, w: (f.normalize(x), f.normalize(w)))

    def fn(x, w, y):
        unit_x, unit_w = unit(x, w)
        cos = unit_x @ unit_w.T
        target = f.one_hot(y, len(w)).bool()
        c = cos[target]
        z = s * torch.where(target, psi(torch.acos(c.clamp(-1.0, 1.0)), c)[:, None], cos)
        return f.cross_entropy(z, y, reduction=reduction)

    return fn


def test_a_torch_head_by_arccos_is_named(torch):
    fn = torch_head(torch, lambda theta, c: torch.cos(theta + 0.5))
    assert diagnose(fn, framework="torch").loss == refloss.ArcFace()
    detached = torch_head(torch, lambda theta, c: c + (torch.cos(theta + 0.5) - c).detach(), reduction="sum")
    assert diagnose(detached, framework="torch").loss == refloss.ArcFace(gradient="detached", reduction="sum")


def test_a_jax_head_is_named(jax):
    def fn(x, w, y):
        unit_x, unit_w = (rows / jax.numpy.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, w))
        z = 30.0 * (unit_x @ unit_w.T - 0.25 * jax.nn.one_hot(y, len(w)))
        return -jax.nn.log_softmax(z)[jax.numpy.arange(len(y)), y].mean()

    assert diagnose(fn, framework="jax").loss == refloss.CosFace(s=30.0, m=0.25)


# -------------------------------------------------------------------------------------------------------- deviations


def test_degrees_are_stated():
    diagnosis = diagnose(own(refloss.ArcFace(m=math.radians(28.6))))
    (deviation,) = diagnosis.deviations
    assert deviation.name == "degrees"
    assert deviation.data["degrees"] == 28.6
    assert diagnosis.loss.m == math.radians(28.6)
    assert "28.6 degrees" in str(diagnosis)


CHANGES = {
    "factor": (lambda v, dx, dw, x, w, y: (2 * v, 2 * dx, 2 * dw), {"factor": 2.0}),
    "constant": (lambda v, dx, dw, x, w, y: (v + v.dtype.type(0.25), dx, dw), {"constant": 0.25}),
    "reduction": (lambda v, dx, dw, x, w, y: tuple(part / len(x) for part in (v, dx, dw)), {"power": -1}),
    "gradient": (lambda v, dx, dw, x, w, y: (v, dx / 2, dw / 2), {"times": 0.5}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_done_to_a_value_is_stated(name):
    change, data = CHANGES[name]
    diagnosis = diagnose(changed(refloss.ArcFace(), change))
    assert diagnosis.loss == refloss.ArcFace()
    (deviation,) = diagnosis.deviations
    assert (deviation.name, deviation.data) == (name, data)
    assert deviation.sentence in str(diagnosis)


def test_a_factor_of_gradients_whose_inverse_is_short_is_stated():
    code = changed(refloss.CosFace(), lambda v, dx, dw, x, w, y: (v, dx / 7, dw / 7))
    diagnosis = diagnose(code, dtype="float64")
    assert diagnosis.deviations[0].data == {"times": 1.0 / 7.0}
    odd = changed(refloss.CosFace(), lambda v, dx, dw, x, w, y: (v, dx * 0.7734912, dw * 0.7734912))
    assert diagnose(odd, dtype="float64").values_of == refloss.CosFace()
    nan = changed(refloss.CosFace(), lambda v, dx, dw, x, w, y: (v, dx, dw * np.nan))
    assert diagnose(nan, dtype="float64").values_of == refloss.CosFace()


def test_a_constant_added_to_a_sum_is_stated():
    code = changed(refloss.CosFace(reduction="sum"), lambda v, dx, dw, x, w, y: (v + v.dtype.type(0.5), dx, dw))
    diagnosis = diagnose(code, dtype="float64")
    assert diagnosis.loss == refloss.CosFace(reduction="sum")
    assert diagnosis.deviations[0].data == {"constant": 0.5}


def test_a_factor_of_logits_is_stated():
    code = own(refloss.CrossEntropy())
    diagnosis = diagnose(lambda z, y: tuple(3 * part for part in code(z, y)))
    assert diagnosis.loss == refloss.CrossEntropy()
    assert diagnosis.deviations[0].data == {"factor": 3.0}


GRADIENTS = {
    "target": lambda torch: torch_head(torch, lambda theta, c: torch.cos(theta + 0.5).detach()),
    "w": lambda torch: torch_head(torch, arc(torch), unit=lambda x, w: (normal(torch, x), normal(torch, w).detach())),
    "x": lambda torch: torch_head(torch, arc(torch), unit=lambda x, w: (normal(torch, x).detach(), normal(torch, w))),
    "projection": lambda torch: torch_head(
        torch, arc(torch), unit=lambda x, w: (normal(torch, x), w / w.detach().norm(dim=1, keepdim=True))
    ),
}


def arc(torch):
    """ψ of ArcFace."""
    return lambda theta, c: torch.cos(theta + 0.5)


def normal(torch, rows):
    """Unit rows."""
    return torch.nn.functional.normalize(rows)


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_gradient_convention_is_stated(torch, name):
    diagnosis = diagnose(GRADIENTS[name](torch), framework="torch")
    assert diagnosis.loss == refloss.ArcFace()
    (deviation,) = diagnosis.deviations
    assert deviation.data == {"convention": name}


def test_the_gradient_through_a_length_and_that_of_unit_rows_are_stated(torch):
    f = torch.nn.functional

    def fixed_length(x, w, y):
        return f.cross_entropy(x.detach().norm(dim=1, keepdim=True) * (f.normalize(x) @ f.normalize(w).T), y)

    assert diagnose(fixed_length, framework="torch").deviations[0].data == {"convention": "length"}

    def unprojected(v, dx, dw, x, w, y):
        """The gradient with respect to unit rows of w, from the parts of a trace."""
        wide = [np.asarray(rows, np.float64) for rows in (x, w)]
        trace = refloss.CosFace(s=8.0).trace(*wide, y)
        g = np.array(trace["cosine"].gradient)
        g[np.arange(len(y)), y] -= trace["angle"].gradient / np.sin(trace["angle"].output)
        unit = wide[0] / np.linalg.norm(wide[0], axis=1, keepdims=True)
        return v, dx, (g.T @ unit).astype(w.dtype)

    diagnosis = diagnose(changed(refloss.CosFace(s=8.0), unprojected))
    assert diagnosis.deviations[0].data == {"convention": "unit rows"}


def test_conventions_have_names_of_their_own():
    assert len({convention.name for convention in CONVENTIONS}) == len(CONVENTIONS)


def test_the_value_alone_has_no_gradient_to_measure():
    code = own(refloss.CosFace())
    diagnosis = diagnose(lambda x, w, y: code(x, w, y)[0])
    assert diagnosis.loss == refloss.CosFace()
    assert any("no gradient was measured" in remark for remark in diagnosis.remarks)


def test_gradients_that_are_missing_are_stated():
    code = own(refloss.CosFace())
    for fn in (lambda x, w, y: code(x, w, y)[:2], lambda x, w, y: (*code(x, w, y)[:2], None)):
        diagnosis = diagnose(fn)
        assert diagnosis.loss == refloss.CosFace()
        assert diagnosis.remarks == ("dL/dw was not returned: it was not measured",)
    of_batches = diagnose(lambda x, w, y: code(x, w, y)[: 3 if len(x) > 1 else 2])
    assert of_batches.loss == refloss.CosFace()
    (remark,) = of_batches.remarks
    assert remark.startswith("dL/dw was returned in 4 of ")


def test_what_is_no_gradient_is_stated():
    code = own(refloss.CosFace())
    diagnosis = diagnose(lambda x, w, y: (*code(x, w, y), 3.0))
    assert diagnosis.remarks == ("beside the value came what is no gradient, and was not looked at: float of shape ()",)


def test_a_negated_loss_is_a_factor():
    code, head = own(refloss.CrossEntropy()), own(refloss.CosFace(s=16.0))
    for fn, loss in (
        (lambda z, y: tuple(-part for part in code(z, y)), refloss.CrossEntropy()),
        (lambda x, w, y: tuple(-part for part in head(x, w, y)), refloss.CosFace(s=16.0)),
    ):
        diagnosis = diagnose(fn)
        assert diagnosis.loss == loss
        assert [deviation.data for deviation in diagnosis.deviations] == [{"factor": -1.0}]


def test_code_that_writes_into_its_inputs_is_named_with_a_remark():
    code = own(refloss.CosFace())

    def fn(x, w, y):
        w /= np.linalg.norm(w, axis=1, keepdims=True)
        value = code(x, w, y)[0]
        y[:] = 0
        return value

    diagnosis = diagnose(fn)
    assert diagnosis.loss == refloss.CosFace()
    assert diagnosis.remarks[1:] == ("the code writes into its input w", "the code writes into its input y")


# ----------------------------------------------------------------------------------------------------------- unknown


def rows_of(z, y):
    """Cross entropy of each sample."""
    return np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1)) + z.max(axis=1) - z[np.arange(len(y)), y]


def test_a_constant_is_no_loss():
    for fn in (
        lambda z, y: 3.0,
        lambda z, y: (np.zeros_like(z[0, 0]), 0.0 * z),
        lambda z, y: np.full(len(z), np.log(z.shape[1])),
        lambda x, w, y: 3.0,
        lambda x, w, y: np.full(len(x), 2.5),
    ):
        assert diagnose(fn).loss is None


def test_what_large_batches_alone_show_is_not_left_out():
    def hardest_samples(z, y):
        return np.sort(rows_of(z, y))[-max(16, len(y) // 4) :].mean()

    def hardest_classes(x, w, y):
        z, rows = 16.0 * numpy_cosines(x, w), np.arange(len(y))
        own = z[rows, y] - 16.0 * 0.35
        z[rows, y] = np.inf
        z = np.sort(z)[:, ::-1][:, :31]
        z[:, 0] = own
        return rows_of(z, np.zeros_like(y)).mean()

    assert not diagnose(hardest_samples)
    assert not diagnose(hardest_classes)
    for loss in (refloss.CosFace(), refloss.SoftmaxLoss()):
        twice = changed(loss, lambda v, dx, dw, x, w, y: (v, dx, dw * (1 + (len(x) > 16))))
        assert diagnose(twice).values_of == loss


def test_code_that_changes_from_call_to_call_is_unknown():
    rng = np.random.default_rng(0)

    def dropout(z, y):
        return rows_of(np.where(rng.random(z.shape) < 0.2, 0.0, z), y).mean()

    def noise(x, w, y):
        return COS(x, w, y)[0], rng.normal() * x, w

    def later(count):
        calls = itertools.count()
        return lambda x, w, y: COS(x, w, y)[0] * (1 + (next(calls) > count))

    for fn in (dropout, noise, later(3), later(20)):
        diagnosis = diagnose(fn)
        assert diagnosis.loss is None
        assert diagnosis.values_of is None
        assert diagnosis.remarks[0].startswith("two calls with the same inputs differ by ")
    calls = itertools.count()
    shapes = diagnose(lambda x, w, y: np.ones(next(calls), x.dtype))
    assert shapes.remarks == ("two calls with the same inputs return results of other shapes",)


def test_values_that_are_not_finite_are_said_to_be():
    for fn in (
        lambda x, w, y: np.full(len(x), np.nan),
        lambda x, w, y: np.inf,
        lambda z, y: np.full(len(z), np.nan),
        lambda z, y: -np.inf,
    ):
        assert diagnose(fn).remarks[1].startswith("the value is NaN or infinite in 6 of 6 calls")


def test_values_that_are_finite_at_some_inputs_alone_are_unknown():
    def once(wrong):
        def head(x, w, y):
            return rows_of(8.0 * numpy_cosines(x, w), y).mean() if abs(x @ w[y[0]])[0] < 0.1 else wrong

        return head

    def unit(x, w, y):
        theta = np.arccos(x @ w.T)
        theta[np.arange(len(y)), y] += 0.5
        return rows_of(16.0 * np.cos(theta), y).mean()

    few = [once(np.nan), once(np.inf), unit]
    few.append(lambda x, w, y: rows_of(x @ w.T, y).mean() if len(w) == 2 and len(y) > 1 else np.float64(np.nan))
    few.append(lambda z, y: rows_of(z, y).mean() if 1.0 < z[0, 1] < 1.2 else np.nan)
    for fn in few:
        diagnosis = diagnose(fn)
        assert diagnosis.loss is None
        assert any(remark.startswith("the value is NaN or infinite in ") for remark in diagnosis.remarks)


def test_values_of_other_shapes_are_said_to_have_them():
    for fn, came in (
        (lambda z, y: rows_of(z, y)[:, None], "(1, 1), (2, 1) and (3, 1)"),
        (lambda z, y: rows_of(z, y).squeeze(), "(), (2,) and (3,)"),
        (lambda z, y: rows_of(z, y).mean(keepdims=True), "(1,), (1,) and (1,)"),
    ):
        (remark,) = diagnose(fn).remarks
        assert remark.startswith(f"values have shapes {came} for one, two and three equal samples: ")


def test_what_is_wrong_with_gradients_is_said():
    swapped = diagnose(changed(refloss.CosFace(), lambda v, dx, dw, x, w, y: (v, dw, dx)))
    assert swapped.values_of == refloss.CosFace()
    assert swapped.remarks == (
        "dx: shape (3, 5), expected (1, 5)",
        "what came beside the value was read as dx, dw; if it is something else, return the value alone",
    )
    infinite = diagnose(changed(refloss.CosFace(), lambda v, dx, dw, x, w, y: (v, dx * np.inf, dw)))
    assert infinite.values_of == refloss.CosFace()
    assert "are NaN or infinite" in infinite.remarks[0]
    logits = diagnose(lambda z, y: (rows_of(z, y).mean(), z))
    assert logits.values_of == refloss.CrossEntropy()
    assert "read as dz" in logits.remarks[-1]


def test_results_of_torch_that_are_read_as_gradients_are_said(torch):
    diagnosis = diagnose(lambda z, y: (torch.nn.functional.cross_entropy(z, y), z), framework="torch")
    assert diagnosis.values_of == refloss.CrossEntropy()
    assert "read as dz" in diagnosis.remarks[-1]


def test_values_of_another_dtype_are_said_to_be():
    diagnosis = diagnose(lambda x, w, y: np.float16(COS(x, w, y)[0]))
    assert not diagnosis
    assert diagnosis.remarks == ("the value came back in float16, not in float32",)


def numpy_head(psi, s=64.0, x_length=0.0, w_unit=True):
    """The value of a head in NumPy with a curve of the target's angle, an eps in a length, or rows of w as they are."""

    def fn(x, w, y):
        ux = x / (np.linalg.norm(x, axis=1, keepdims=True) + x_length)
        uw = w / np.linalg.norm(w, axis=1, keepdims=True) if w_unit else w
        z = s * (ux @ uw.T)
        rows = np.arange(len(y))
        z[rows, y] = s * psi(np.arccos(np.clip(z[rows, y] / s, -1, 1)))
        top = z.max(axis=1, keepdims=True)
        return (top[:, 0] + np.log(np.exp(z - top).sum(axis=1)) - z[rows, y]).mean()

    return fn


def numpy_cosines(x, w):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T


COS = own(refloss.CosFace())
UNKNOWN = {
    "linear in the angle": numpy_head(lambda theta: 1.0 - 2.0 * (theta + 0.4) / math.pi),
    "a steeper cosine": numpy_head(lambda theta: 1.4 * np.cos(theta) - 0.4),
    "a sine": numpy_head(np.sin),
    "an eps in a length": numpy_head(lambda theta: np.cos(theta + 0.5), x_length=1e-2),
    "rows of w as they are": numpy_head(lambda theta: np.cos(theta) - 0.35, w_unit=False),
    "a clamped cosine": numpy_head(lambda theta: np.cos(np.clip(theta, 0.2, 2.9) + 0.5)),
    "squares": lambda x, w, y: ((x @ w.T) ** 2).mean(),
    "a constant": lambda x, w, y: np.float64(1.0),
    "not a number": lambda x, w, y: np.float64(np.nan),
    "a sum over classes": lambda x, w, y: (1.5 + numpy_cosines(x, w)).sum(axis=1).mean(),
    "a value of few classes alone": lambda x, w, y: COS(x, w, y)[0] if len(w) < 4 else np.float64(np.nan),
    "a question of its own of another kind": lambda x, w, y: np.exp(x @ w.T).sum(axis=1).mean(),
}


def test_settings_that_no_loss_takes_are_no_beginning_of_a_fit(torch):
    """Its other classes have so small a slope that t of MVSoftmax would be 1e14."""
    from support.right_codes.quality_codes import torch_family

    loss = refloss.CurricularFace(reduction="sum", s=None, m=3.1, t=0.24, boundary="clamp")
    assert diagnose(torch_family(loss), framework="torch").loss in (loss, None)


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_loss_of_no_family_is_unknown(name):
    diagnosis = diagnose(UNKNOWN[name], dtype="float64")
    assert diagnosis.loss is None
    assert not diagnosis
    assert "unknown" in str(diagnosis)


def test_a_rule_of_no_kind_is_unknown_however_small_its_margin(torch):
    def lowered(theta, c):
        return torch.where(theta + 0.03 > math.pi, c - 0.003, torch.cos(theta + 0.03))

    assert not diagnose(torch_head(torch, lowered), framework="torch")


def test_a_gradient_of_no_convention_leaves_the_loss_unknown():
    diagnosis = diagnose(changed(refloss.CosFace(), lambda v, dx, dw, x, w, y: (v, dx, dw + w)), dtype="float64")
    assert diagnosis.loss is None
    assert diagnosis.values_of == refloss.CosFace()
    assert "its values are those of CosFace" in str(diagnosis)
    assert diagnosis.data()["values_of"] == repr(refloss.CosFace())
    logits = own(refloss.CrossEntropy())
    assert not diagnose(lambda z, y: (logits(z, y)[0], logits(z, y)[1] + z))
    sigmoid = changed(refloss.UniFace(), lambda v, dx, dw, x, w, y: (v, dx, 0.0 * dw))
    assert diagnose(sigmoid).values_of == refloss.UniFace()
    alone = changed(refloss.CosFace(), lambda v, dx, dw, x, w, y: (v, {"w": dw + w}))
    assert diagnose(alone).values_of == refloss.CosFace()


def test_a_reduction_of_no_kind_is_unknown():
    code = own(refloss.CosFace(reduction="none"))
    for fn in (
        lambda x, w, y: code(x, w, y)[0].sum() / (1.0 + len(x) ** 3),
        lambda x, w, y: np.stack([code(x, w, y)[0]] * 2),
    ):
        diagnosis = diagnose(fn)
        assert not diagnosis
        assert "equal samples" in str(diagnosis)
    wrong_shape = diagnose(lambda x, w, y: code(x, w, y)[0][:, None] if len(w) > 2 else code(x, w, y)[0])
    assert not wrong_shape


def test_the_half_precisions_may_resolve_too_little():
    diagnosis = diagnose(own(refloss.ArcFace(m=0.473)), dtype="bfloat16")
    assert diagnosis.loss is None or diagnosis.loss == refloss.ArcFace(m=0.473)
    unknown = diagnose(UNKNOWN["a sine"], dtype="float16")
    assert any("float16 may resolve too little" in remark for remark in unknown.remarks)


# ------------------------------------------------------------------------------------------------ report and arguments


@pytest.fixture(scope="module")
def known():
    return diagnose(own(refloss.ArcFace(boundary="hard")))


def test_json_has_numbers_and_strings_alone(known):
    data = json.loads(known.json())
    assert data["loss"] == repr(refloss.ArcFace(boundary="hard"))
    assert data["settings"] == {"s": "64", "m": "0.5"}
    target, other = data["curves"]
    assert len(target["at"]) == len(target["measured"]) == len(target["fitted"])
    assert np.allclose(target["measured"], target["fitted"], atol=1e-3)
    assert other["by"] == "angle of the other class"
    nothing = json.loads(diagnose(UNKNOWN["not a number"]).json())
    assert nothing["loss"] is None
    assert nothing["residual"] == "inf"


def test_the_figure_has_a_panel_per_curve(known, monkeypatch):
    drawn = []
    axes = SimpleNamespace(
        plot=lambda at, numbers, *form, label, **style: drawn.append(label),
        set=lambda **texts: drawn.append(texts["xlabel"]),
        legend=lambda: None,
    )

    class Figure:
        def __init__(self, **settings):
            self.settings = settings

        def subplots(self, rows, columns, squeeze):
            assert columns > 0
            return [[axes] * columns]

        def suptitle(self, text, fontsize):
            drawn.append(text)

    monkeypatch.setitem(sys.modules, "matplotlib.figure", SimpleNamespace(Figure=Figure))
    known.figure()
    assert drawn.count("measured") == drawn.count("fitted") == 2
    assert drawn[-1] == repr(known.loss)
    unknown = diagnose(UNKNOWN["a sine"])
    drawn.clear()
    unknown.figure()
    assert drawn.count("measured") == 2
    assert "fitted" not in drawn
    assert drawn[-1] == "unknown"
    drawn.clear()
    diagnose(lambda z, y: np.nan).figure()
    assert drawn == ["unknown"]


def test_matplotlib_draws_it(known, tmp_path):
    pytest.importorskip("matplotlib")
    known.figure().savefig(tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")


def test_invalid_arguments_are_refused_by_name():
    code = own(refloss.CosFace())
    for settings, message in (
        ({"framework": "caffe"}, "framework"),
        ({"dtype": "int8"}, "dtype"),
        ({"centers": 0}, "centers"),
        ({"centers": 3, "logits": True}, "centers"),
        ({"seed": -1}, "seed"),
        ({"standard": "loose"}, "standard"),
        ({"device": "cuda"}, "device"),
    ):
        with pytest.raises(ValueError, match=message):
            diagnose(code, **settings)
    with pytest.raises(TypeError, match="logits"):
        diagnose(code, logits="yes")
    with pytest.raises(TypeError, match="fn"):
        diagnose(refloss)


def test_the_number_of_arguments_tells_logits_from_embeddings():
    code = own(refloss.CrossEntropy())
    assert diagnose(code, logits=True).loss == refloss.CrossEntropy()
    head = own(refloss.CosFace())
    assert diagnose(any_number(head)).loss == refloss.CosFace()
    assert diagnose(lambda x, w, y, scale=1.0: head(x, w, y)).loss == refloss.CosFace()
    assert diagnose(lambda z, y, scale=1.0: code(z, y)).loss == refloss.CrossEntropy()
    assert diagnose(lambda z, y=None: code(z, y)).loss == refloss.CrossEntropy()


def any_number(fn):
    """A function of any number of arguments."""

    def wrapped(*inputs):
        return fn(*inputs)

    return wrapped


def test_a_function_without_a_signature_counts_as_one_of_embeddings():
    assert not _takes_two(max)


def test_losses_of_torch_take_logits(torch):
    assert diagnose(torch.nn.functional.cross_entropy, framework="torch").loss == refloss.CrossEntropy()
    smoothed = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    assert diagnose(smoothed, framework="torch").loss == refloss.CrossEntropy(label_smoothing=0.1)


def test_a_diagnosis_is_what_the_module_says(known):
    assert isinstance(known, Diagnosis)


# --------------------------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize("rule", RULES)
def test_curves_for_fits_are_those_of_the_losses(rule):
    theta = np.linspace(0.01, 3.13, 97)
    for m1, m2, m3 in ((1.1, 0.3, 0.2), (2.7, 1.0, 0.4), (1.0, 2.5, 0.1)):
        loss = refloss.CombinedMargin(m1=m1, m2=m2, m3=m3, boundary=rule)
        np.testing.assert_allclose(psi_of(theta, m1, m2, m3, rule), loss.target_logit(theta), atol=1e-13)


@pytest.mark.parametrize("loss", [each for each in FAMILY if each.spec.head in ("margin", "sigmoid")], ids=repr)
def test_values_for_fits_are_those_of_the_losses(loss):
    box = measure.Box(own(replace(loss, reduction="mean")), "numpy", "float64", None, ("x", "w"))
    points = measure.Plane(box, 3).curve(
        (theta, other, copies, length)
        for theta, other in ((0.4, 1.0), (1.3, 0.5), (2.0, 2.4), (3.0, 0.2))
        for copies, length in ((1, 1.0), (3, 0.7), (9, 25.0))
    )
    np.testing.assert_allclose(predicted(loss, points), points.value, rtol=1e-11, atol=1e-12)


def test_short_numbers_are_those_that_a_fit_determines():
    assert short(0.5 + 1e-7, 1e-6).text == "0.5"
    assert short(1.0 / 3.0, 1e-9).text == "1/3"
    assert short(25.0 / 32.0, 4e-7).text == "25/32"
    assert short(math.radians(28.6), 1e-7, angle=True).text == "28.6 degrees"
    assert short(math.radians(28.6), 1e-7) is None
    assert short(0.48372, 1e-4) is None
    assert short(0.5, math.inf) is None


def test_a_fit_that_cannot_begin_has_no_finite_residual():
    points = Points(*(np.ones(3) for _ in Points._fields))
    fit = polish(Model(refloss.CosFace()), ("s",), in_plane(points._replace(value=np.full(3, np.nan)), 1e-7))
    assert fit.share == math.inf


def test_settings_at_the_end_of_their_range_are_fitted_from_inside():
    truth = refloss.CosFace(m=0.0, s=10.0)
    table = np.array([[theta, 0.4, 1.0, 1.0] for theta in np.linspace(0.1, 3.0, 12)])
    points = Points(*table.T, np.zeros(12))
    points = points._replace(value=predicted(truth, points))
    fit = polish(Model(refloss.CosFace(m=0.2, s=9.0)), ("s", "m"), in_plane(points, 1e-16))
    assert abs(fit.loss.m) < 1e-9
    assert polish(Model(refloss.CosFace(m=0.0, s=10.0)), ("m",), in_plane(points, 1e-16)).share < 1.0


def test_a_setting_that_may_be_off_widens_budgets_on_the_side_that_is_in_range():
    inputs = np.array([[0.3, 0.4]]), np.array([[0.5, 0.1], [-0.2, 0.6]]), np.array([1])
    exact, wide = (
        Expected(refloss.CosFace(m=0.0), errors=errors).at(inputs, None, arithmetic("float64"), "dd")
        for errors in ({}, {"m": 0.01})
    )
    assert (wide[1]["value"] > exact[1]["value"] + 0.1).all()
    assert (wide[1]["dx"] > exact[1]["dx"]).any()


def test_short_numbers_that_explain_less_are_not_taken():
    theta = np.linspace(0.1, 3.0, 12)
    points = Points(theta, np.full(12, 0.4), np.ones(12), np.ones(12), np.zeros(12))
    points = points._replace(value=predicted(refloss.CosFace(m=0.35004, s=10.0), points))
    data = in_plane(points, 1e-16)
    fit = Fit(Model(refloss.CosFace(m=0.35004, s=10.0)), {"m": 5e-5}, 0.5)
    assert rounded_fit(fit, ("m",), data, ()) == (fit, {})
    rule = Fit(Model(refloss.CosFace(m=0.001, s=10.0, boundary="conditional")), {"m": 2e-3}, 0.5)
    assert rounded_fit(rule, ("m",), data, ()) == (rule, {})


def test_a_loss_by_length_needs_a_scale_above_0():
    box = measure.Box(lambda x, w, y: -(x @ w.T).sum(axis=1).mean(), "numpy", "float64", None, ("x", "w"))
    curves = search.measured(measure.Plane(box, 0))
    flipped = curves._replace(other=curves.other._replace(value=np.linspace(1.0, 9.0, len(curves.other.value))))
    assert list(families.by_length(flipped, AS_IT_IS)) == []
    assert list(families.plain(flipped, AS_IT_IS)) == []


def test_numbers_are_written_with_how_far_they_may_be_off():
    assert naming.with_error(0.49981234, 3e-4) == "0.49981 ± 0.0003"
    assert naming.with_error(2.0, 0.0) == "2.000000000000000 ± 0"
    assert "do not determine" in naming.with_error(2.0, math.inf)


def test_inputs_to_test_with_are_in_every_call_another():
    box = measure.Box(print, "numpy", "float32", None, ("x", "w"))
    first, second = (held_out(refloss.ArcFace(), box, seed) for seed in (0, 1))
    assert not np.array_equal(first[0][0], second[0][0])
    assert fitting.Outer() == AS_IT_IS
