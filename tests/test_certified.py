"""The engine as a whole: enclosures and rounded results against mpmath; settings, dtypes, refusals, independence."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf

import refloss
from refloss.engines import certified
from refloss.engines.certified import Enclosure, enclose
from support import cases, mutants
from support.enclosures import encloses, head_inputs, nearest, outside, random, truths, undecided

pytest.importorskip("flint")


def all_cases() -> Iterator[tuple[Any, str, tuple[Any, ...]]]:
    for loss in cases.HEADS:
        for name, inputs in cases.heads(loss, random()):
            if not getattr(loss, "class_weight", None) or len(inputs[1]) == len(loss.class_weight):
                yield loss, name, inputs
    for loss in cases.CROSS_ENTROPIES:
        for name, inputs in cases.logits(random()):
            yield loss, name, inputs
    for loss in cases.TRIPLETS:
        for name, inputs in cases.triplets(random()):
            yield loss, name, inputs
    for loss in cases.DIVERGENCES:
        for name, inputs in cases.divergences(random()):
            yield loss, name, inputs


# ------------------------------------------------------------------------------------------------------- against mpmath


@pytest.mark.parametrize("part", range(8))
def test_enclosures_hold_the_truth(part: int) -> None:
    for loss, name, inputs in list(all_cases())[part::24]:
        enclosure = enclose(loss, *inputs, digits=25)
        assert not undecided(enclosure), f"{loss}, {name}: {enclosure.notes}"
        encloses(loss, *inputs, enclosure=enclosure)


def test_every_named_case_is_decided() -> None:
    for loss, name, inputs in list(all_cases())[::3]:
        assert not undecided(enclose(loss, *inputs, digits=17)), f"{loss}, {name}"


def test_at_real_width() -> None:
    loss, (x, w, y) = refloss.ArcFace(), cases.WIDE["D = 512, theta = 1e-6"](random())
    encloses(loss, x, w, y, entries=cases.some_entries(random(), x, w, y))


def test_the_check_rejects_balls_that_are_moved() -> None:
    loss, inputs = refloss.ArcFace(), cases.ordinary(random())
    enclosure = enclose(loss, *inputs)
    assert not outside(loss, *inputs, enclosure=enclosure)
    with mp.workdps(60):
        for sign in (-3, 3):
            moved = np.array(
                str(mpf(str(enclosure.value.decimal)) + sign * mpf(str(enclosure.value.decimal_radius))), object
            )
            assert outside(loss, *inputs, enclosure=enclosure._replace(value=enclosure.value._replace(decimal=moved)))
    x = enclosure.grad["x"]
    for ball in (
        x._replace(midpoint=x.midpoint + 3.0 * x.radius),
        x._replace(radius=x.radius * 1e-3),
        x._replace(decimal_radius=np.full(x.decimal.shape, "1e-60", object)),
        x._replace(decimal=-x.midpoint.astype(object)),
    ):
        assert outside(loss, *inputs, enclosure=enclosure._replace(grad=enclosure.grad | {"x": ball}))


def test_wrong_gradients_lie_outside() -> None:
    inputs = {
        refloss.CrossEntropy: (3.0 * random().standard_normal((3, 5)), [0, 1, 4]),
        refloss.SoftmaxLoss: (*cases.ordinary(random()), np.arange(5.0)),
        refloss.ArcFace: cases.ordinary(random()),
        refloss.Triplet: tuple(random().standard_normal((3, 2, 4))),
        refloss.KLDivergence: tuple(random().standard_normal((2, 2, 4))),
        refloss.CosFace: (*cases.ordinary(random()), np.array([0.25, -0.5])),
        refloss.AdaFace: cases.ordinary(random()),
        refloss.CurricularFace: cases.ordinary(random()),
        refloss.MVSoftmax: cases.ordinary(random()),
        refloss.SphereFaceR: cases.ordinary(random()),
        refloss.CircleLoss: cases.ordinary(random()),
        refloss.InterTopK: cases.ordinary(random()),
        partial(refloss.SphereFaceR, version=2): cases.ordinary(random()),
        partial(refloss.InterTopK, k=2): cases.ordinary(random()),
    }
    for kind, arguments in inputs.items():
        loss = kind()
        enclosure, (_, right) = enclose(loss, *arguments), loss.value_and_grad(*arguments, engine="certified")
        right = right._asdict()
        assert not wrong(right, enclosure)
        for title, mutant in mutants.everywhere(mutants.GROSS | mutants.FINE, right).items():
            assert wrong(mutant, enclosure), f"{loss}: {title}"
        if kind is refloss.AdaFace:  # whose ψ' depends on a length
            others = {"detached margin": replace(loss, gradient="detached")}
        else:
            others = mutants.loss_mutants(loss)
        if kind not in (refloss.Triplet, refloss.KLDivergence):
            others |= mutants.settings_mutants(replace(loss, label_smoothing=0.0), len(arguments[0]))
        for title, other in others.items():
            assert wrong(other.value_and_grad(*arguments)[1]._asdict(), enclosure), f"{loss}: {title}"


def wrong(gradients: dict[str, np.ndarray], enclosure: Enclosure) -> bool:
    """Whether float64 gradients are not all within half a unit in the last place of what is enclosed."""
    near = [
        np.abs(gradient - enclosure.grad[name].midpoint)
        <= 0.5 * np.spacing(np.abs(gradient)) + enclosure.grad[name].radius
        for name, gradient in gradients.items()
    ]
    return not all(part.all() for part in near)


@pytest.mark.parametrize("part", range(4))
def test_results_are_correctly_rounded(part: int) -> None:
    for loss, name, inputs in list(all_cases())[part * 5 :: 40]:
        value, gradients = loss.value_and_grad(*inputs, engine="certified")
        results = {"value": np.asarray(value)} | gradients._asdict()
        for what, true, noise in truths(loss, *inputs):
            for i in np.ndindex(true.shape):
                # half a unit away is a tie, and mpmath's noise says to either side
                rounded = results[what][i] in (nearest(true[i] - noise[i]), nearest(true[i] + noise[i]))
                assert rounded or abs(results[what][i] - true[i]) <= noise[i], f"{loss}, {name}: {what}{list(i)}"
        assert np.array_equal(loss(*inputs, engine="certified"), value)


# -------------------------------------------------------------------------------------------------- settings and inputs


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_weights_smoothing_ignored_rows_and_upstream(reduction: str, smoothing: float) -> None:
    x, w, y = head_inputs()
    x[1] = np.nan  # ignored, and not looked at
    upstream = [2.0, 1e300, -0.5] if reduction == "none" else -0.7
    settings = {"reduction": reduction, "label_smoothing": smoothing, "class_weight": (1.0, 0.5, 3.0, 0.1)}
    signed = settings | {"class_weight": (1.0, -0.5, 3.0, -0.1)}
    for loss in (refloss.ArcFace(**settings), refloss.SoftmaxLoss(**settings), refloss.SoftmaxLoss(**signed)):
        enclosure = enclose(loss, x, w, y, upstream=upstream)
        assert enclosure.value.midpoint.shape == ((3,) if reduction == "none" else ())
        assert not enclosure.grad["x"].midpoint[1].any()
        clean = np.nan_to_num(x)
        encloses(loss, clean, w, y, enclosure=enclosure, upstream=upstream)
        _, gradients = loss.value_and_grad(x, w, y, upstream=upstream, engine="certified")
        assert np.array_equal(gradients.x, enclosure.grad["x"].midpoint)


def test_logits_of_any_shape_with_probabilities() -> None:
    z = random().standard_normal((2, 3, 4))
    for y in (random().dirichlet(np.ones(4), (2, 3)), random().integers(0, 4, (2, 3)), random().normal(size=(2, 3, 4))):
        loss = refloss.CrossEntropy(reduction="none", label_smoothing=0.2, class_weight=(1.0, 2.0, 0.0, 3.0))
        enclosure = enclose(loss, z, y)
        assert enclosure.value.decimal.shape == (2, 3)
        assert enclosure.grad["z"].radius.shape == (2, 3, 4)
        encloses(loss, z, y, enclosure=enclosure)


def test_the_value_alone() -> None:
    for loss, inputs in (
        (refloss.ArcFace(), cases.ordinary(random())),
        (refloss.Triplet(), tuple(random().standard_normal((3, 2, 4)))),
    ):
        enclosure = enclose(loss, *inputs, gradients=False)
        assert enclosure.grad is None
        assert enclosure.value == enclose(loss, *inputs).value


def test_inputs_are_not_written_to() -> None:
    x, w, y = cases.ordinary(random())
    for array in (x, w, y):
        array.setflags(write=False)
    copies = x.copy(), w.copy()
    enclose(refloss.ArcFace(), x, w, y)
    assert np.array_equal(copies[0], x)
    assert np.array_equal(copies[1], w)


def test_refusals() -> None:
    inputs = cases.ordinary(random())
    for digits in (0, 1001):
        with pytest.raises(ValueError, match=f"digits must be from 1 to 1000; got {digits}"):
            enclose(refloss.ArcFace(), *inputs, digits=digits)
    with pytest.raises(
        TypeError, match=r"loss must be a loss of refloss, such as refloss.ArcFace\(m=0.5\); got 'arcface'"
    ):
        enclose("arcface", *inputs)
    with pytest.raises(TypeError, match="digits must be an integer"):
        enclose(refloss.ArcFace(), *inputs, digits=30.0)
    with pytest.raises(ValueError, match="upstream must have shape"):
        enclose(refloss.ArcFace(), *inputs, upstream=[1.0, 2.0])
    with pytest.raises(ValueError, match="x must have no zero vector"):
        enclose(refloss.ArcFace(), 0.0 * inputs[0], *inputs[1:])
    x, w, y = inputs
    w[3] = 0.0
    with pytest.raises(ValueError, match=r"w must have no zero vector, .*; got zeros in w\[3\]"):
        enclose(refloss.ArcFace(), x, w, y)
    enclose(refloss.SoftmaxLoss(), x, w, y)
    w[3, 1] = np.nan
    with pytest.raises(ValueError, match="w must"):
        enclose(refloss.SoftmaxLoss(), x, w, y)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_numbers_of_other_dtypes_are_converted_exactly(dtype: Any) -> None:
    x, w, y = cases.ordinary(random())
    for loss, arrays in (
        (refloss.ArcFace(), (x, w)),
        (refloss.SoftmaxLoss(), (x, w)),
        (refloss.CrossEntropy(), (x,)),
        (refloss.Triplet(), (x, w[:2], w[2:4])),
    ):
        short = [array.astype(dtype) for array in arrays]
        rest = () if isinstance(loss, refloss.Triplet) else (y % 4,)
        enclosure, same = (
            enclose(loss, *inputs, *rest) for inputs in (short, [array.astype(float) for array in short])
        )
        assert enclosure.value.decimal == same.value.decimal
        for name, ball in enclosure.grad.items():
            assert ball.decimal.tolist() == same.grad[name].decimal.tolist()


# -------------------------------------------------------------------------------------------------------- independence

SHARED = {  # with the engines that this one checks: settings, types, and what is no arithmetic of a loss
    "refloss": {"inputs"},
    "refloss.engines.call": {"call_of"},
    "refloss.engines.counting": {"mean_over_zero"},
    "refloss.engines.protocol": {"IN_FLOAT64", "Request", "ValueAndGradients"},
    "refloss.engines.spec": {
        "MARGINS",
        "PER_CLASS",
        "Arrays",
        "Divergence",
        "Linear",
        "Logits",
        "Margin",
        "OnCosines",
        "Spec",
        "Triplet",
        "TwoWay",
        "UPSTREAM_LSE",
        "WithCap",
        "WithLabels",
        "centers_of",
    },
    "refloss.error_free": {"Array", "Integers", "Mask"},
    "refloss.stages.binary_cross_entropy": {"Settings"},
    "refloss.stages.class_angles": {"Settings"},
    "refloss.stages.cross_entropy": {"Settings"},
    "refloss.stages.margin": {"Settings"},
    "refloss.stages.negatives": {"Settings"},
    "refloss.stages.quality": {"Settings"},
    "refloss.stages.softcap": {"Settings"},
    "refloss.stages.triplet": {"Settings"},
}
FILES = sorted(Path(certified.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_is_shared_with_the_stages_but_settings(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("refloss") for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("refloss"):
            names = {alias.name for alias in node.names}
            if not node.module.startswith("refloss.engines.certified."):
                assert names <= SHARED[node.module], f"{path.name} takes {names} from {node.module}"


def test_a_gradient_of_the_log_sum_exp_is_enclosed():
    """dL/dz of upstream 0 is u p, here of p = 1/2."""
    enclosure = refloss.enclose(refloss.CrossEntropy(), [[1.0, 1.0]], [0], upstream=0.0, upstream_lse=[3.0])
    assert enclosure.grad["z"].midpoint.tolist() == [[1.5, 1.5]]
    with pytest.raises(ValueError, match="upstream_lse"):
        refloss.enclose(refloss.Triplet(), [[1.0]], [[1.0]], [[1.0]], upstream_lse=[3.0])
