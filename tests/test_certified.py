"""Balls against mpmath with 200 digits, which shares no line with them: neither derives a gradient by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf

import refloss
from refloss.engines import certified
from refloss.engines.certified import Ball, Enclosure, enclose
from support import cases, exact, mutants

flint = pytest.importorskip("flint")

DIGITS = 200  # of mpmath
NOISE = mpf(10) ** -190  # of mpmath's differences, relative to a row's terms


def truths(
    loss: Any, *inputs: Any, upstream: Any = None, entries: Any = None
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, truth and what mpmath's differences leave, both of the truth's shape, of value and gradients."""
    value, size = (exact.exact(exact.value(loss, *inputs, digits=DIGITS, absolute=some)) for some in (False, True))
    yield "value", value, np.array(NOISE * size, object)
    sizes = exact.absolute_terms(loss, *inputs, upstream=upstream)
    found = exact.gradients(loss, *inputs, upstream=upstream, digits=DIGITS, entries=entries)
    for name, true in found.items():
        largest = np.nan_to_num(sizes[name]).max()  # terms are 0 where the slope is, and mpmath finds it by differences
        terms = exact.exact(np.where(sizes[name] == 0.0, largest, sizes[name])) * NOISE
        yield name, true, np.broadcast_to(terms if terms.ndim == true.ndim else terms[..., None], true.shape)


def outside(loss: Any, *inputs: Any, found: Enclosure | None = None, **options: Any) -> list[str]:
    """Which entries of an enclosure do not hold the truth by mpmath, in float64 or in decimals. Empty: all hold it.

    `entries`, indices by name, leaves out all other entries of the gradients.
    """
    found = found or enclose(loss, *inputs, upstream=options.get("upstream"))
    complaints = []
    for name, true, noise in truths(loss, *inputs, **options):
        ball = found.value if name == "value" else found.grad[name]
        wanted = np.ndindex(true.shape)
        if name != "value" and options.get("entries") is not None:
            wanted = options["entries"][name]
        for i in wanted:
            if not holds(ball, i, true[i], noise[i]):
                about = f"{ball.decimal[i]} +- {ball.decimal_radius[i]}, in float64 {ball.midpoint[i]}"
                complaints.append(f"{name}{list(i)}: {about}, does not hold {mp.nstr(true[i], 40)}")
    return complaints


def holds(ball: Ball, i: tuple[int, ...], true: mpf, allowed: mpf) -> bool:
    """Whether one entry holds the truth in both forms."""
    if not mp.isfinite(true):
        shown = str(float(true))
        return (ball.decimal[i], ball.decimal_radius[i], str(ball.midpoint[i])) == (shown, "0", shown)
    with mp.workdps(DIGITS + exact.GUARD):
        forms = (
            (mpf(ball.decimal[i]), mpf(ball.decimal_radius[i])),
            (mpf(float(ball.midpoint[i])), mpf(float(ball.radius[i]))),
        )
        return all(abs(true - middle) <= radius + allowed for middle, radius in forms)


def encloses(loss: Any, *inputs: Any, **options: Any) -> None:
    """Compare an enclosure, found here or given, with mpmath."""
    complaints = outside(loss, *inputs, **options)
    assert not complaints, f"{loss}: {len(complaints)} entries, first {complaints[0]}"


def undecided(found: Enclosure) -> list[str]:
    return [note for note in found.notes if note.startswith("undecided")]


def nearest(number: mpf) -> float:
    """The float64 nearest to a number, ties to even: Python divides integers just so."""
    sign, mantissa, exponent, _ = number._mpf_
    ratio = (-1) ** sign * int(mantissa) * Fraction(2) ** int(exponent)
    return ratio.numerator / ratio.denominator


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


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


# ------------------------------------------------------------------------------------------------------- against mpmath


@pytest.mark.parametrize("part", range(8))
def test_enclosures_hold_the_truth(part: int) -> None:
    for loss, name, inputs in list(all_cases())[part::24]:
        found = enclose(loss, *inputs, digits=25)
        assert not undecided(found), f"{loss}, {name}: {found.notes}"
        encloses(loss, *inputs, found=found)


def test_every_named_case_is_decided() -> None:
    for loss, name, inputs in list(all_cases())[::3]:
        assert not undecided(enclose(loss, *inputs, digits=17)), f"{loss}, {name}"


def test_at_real_width() -> None:
    loss, (x, w, y) = refloss.ArcFace(), cases.WIDE["D = 512, theta = 1e-6"](random())
    encloses(loss, x, w, y, entries=cases.some_entries(random(), x, w, y))


@pytest.mark.parametrize("digits", [1, 2, 17, 100, 1000])
def test_as_many_digits_as_asked_for(digits: int) -> None:
    loss, inputs = refloss.CombinedMargin(), cases.ordinary(random())
    found = enclose(loss, *inputs, digits=digits)
    encloses(loss, *inputs, found=found)
    for ball in (found.value, *found.grad.values()):
        for middle, radius in zip(ball.decimal.flat, ball.decimal_radius.flat, strict=True):
            written = middle.lstrip("-0.").partition("E")[0].replace(".", "")
            assert len(written) == digits + (len(written) > digits and written[0] < "6")
            assert mpf(radius) <= mpf(10) ** -digits * (abs(mpf(middle)) - mpf(radius))


def test_the_check_rejects_balls_that_are_moved() -> None:
    loss, inputs = refloss.ArcFace(), cases.ordinary(random())
    found = enclose(loss, *inputs)
    assert not outside(loss, *inputs, found=found)
    with mp.workdps(60):
        for sign in (-3, 3):
            moved = np.array(str(mpf(str(found.value.decimal)) + sign * mpf(str(found.value.decimal_radius))), object)
            assert outside(loss, *inputs, found=found._replace(value=found.value._replace(decimal=moved)))
    x = found.grad["x"]
    for ball in (
        x._replace(midpoint=x.midpoint + 3.0 * x.radius),
        x._replace(radius=x.radius * 1e-3),
        x._replace(decimal_radius=np.full(x.decimal.shape, "1e-60", object)),
        x._replace(decimal=-x.midpoint.astype(object)),
    ):
        assert outside(loss, *inputs, found=found._replace(grad=found.grad | {"x": ball}))


def test_wrong_gradients_lie_outside() -> None:
    inputs = {
        refloss.CrossEntropy: (3.0 * random().standard_normal((3, 5)), [0, 1, 4]),
        refloss.SoftmaxLoss: (*cases.ordinary(random()), np.arange(5.0)),
        refloss.ArcFace: cases.ordinary(random()),
        refloss.Triplet: tuple(random().standard_normal((3, 2, 4))),
    }
    for kind, given in inputs.items():
        loss = kind()
        found, (_, right) = enclose(loss, *given), loss.value_and_grad(*given, engine="certified")
        right = right._asdict()
        assert not wrong(right, found)
        for title, mutant in mutants.everywhere(mutants.GROSS | mutants.FINE, right).items():
            assert wrong(mutant, found), f"{loss}: {title}"
        others = mutants.loss_mutants(loss)
        if kind is not refloss.Triplet:
            others |= mutants.settings_mutants(replace(loss, label_smoothing=0.0), len(given[0]))
        for title, other in others.items():
            assert wrong(other.value_and_grad(*given)[1]._asdict(), found), f"{loss}: {title}"


def wrong(gradients: dict[str, np.ndarray], found: Enclosure) -> bool:
    """Whether float64 gradients are not all within half a unit in the last place of what is enclosed."""
    near = [
        np.abs(gradient - found.grad[name].midpoint) <= 0.5 * np.spacing(np.abs(gradient)) + found.grad[name].radius
        for name, gradient in gradients.items()
    ]
    return not all(part.all() for part in near)


@pytest.mark.parametrize("part", range(4))
def test_results_are_correctly_rounded(part: int) -> None:
    for loss, name, inputs in list(all_cases())[part * 5 :: 40]:
        value, gradients = loss.value_and_grad(*inputs, engine="certified")
        found = {"value": np.asarray(value)} | gradients._asdict()
        for what, true, noise in truths(loss, *inputs):
            for i in np.ndindex(true.shape):
                rounded = found[what][i] == nearest(true[i])
                assert rounded or abs(found[what][i] - true[i]) <= noise[i], f"{loss}, {name}: {what}{list(i)}"
        assert np.array_equal(loss(*inputs, engine="certified"), value)


# -------------------------------------------------------------------------------------------- settings of cross entropy


def head_inputs(classes: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, w, _ = cases.ordinary(random(3), 3, classes, 3)
    return x, w, np.array([1, -100, 0])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_weights_smoothing_ignored_rows_and_upstream(reduction: str, smoothing: float) -> None:
    x, w, y = head_inputs()
    x[1] = np.nan  # ignored, and not looked at
    above = [2.0, 1e300, -0.5] if reduction == "none" else -0.7
    settings = {"reduction": reduction, "label_smoothing": smoothing, "class_weight": (1.0, 0.5, 3.0, 0.1)}
    signed = settings | {"class_weight": (1.0, -0.5, 3.0, -0.1)}
    for loss in (refloss.ArcFace(**settings), refloss.SoftmaxLoss(**settings), refloss.SoftmaxLoss(**signed)):
        found = enclose(loss, x, w, y, upstream=above)
        assert found.value.midpoint.shape == ((3,) if reduction == "none" else ())
        assert not found.grad["x"].midpoint[1].any()
        clean = np.nan_to_num(x)
        encloses(loss, clean, w, y, found=found, upstream=above)
        _, gradients = loss.value_and_grad(x, w, y, upstream=above, engine="certified")
        assert np.array_equal(gradients.x, found.grad["x"].midpoint)


def test_logits_of_any_shape_with_probabilities() -> None:
    z = random().standard_normal((2, 3, 4))
    for y in (random().dirichlet(np.ones(4), (2, 3)), random().integers(0, 4, (2, 3)), random().normal(size=(2, 3, 4))):
        loss = refloss.CrossEntropy(reduction="none", label_smoothing=0.2, class_weight=(1.0, 2.0, 0.0, 3.0))
        found = enclose(loss, z, y)
        assert found.value.decimal.shape == (2, 3)
        assert found.grad["z"].radius.shape == (2, 3, 4)
        encloses(loss, z, y, found=found)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_logits_without_an_ordinary_loss(reduction: str, smoothing: float) -> None:
    rows = {
        "NaN": [np.nan, 0.0, 1.0],
        "inf": [np.inf, 0.0, 1.0],
        "all masked": [-np.inf] * 3,
        "target masked": [-np.inf, 0.0, 1.0],
        "another masked": [0.5, -np.inf, 1.0],
        "another masked, far down": [-1e308, -np.inf, -1.0001e308],
        "two masked": [-np.inf, 0.5, -np.inf],
        "ordinary": [0.1, 0.2, 0.3],
    }
    for chosen in (*([name] for name in rows), ["target masked", "ordinary"], list(rows)):
        z = np.array([rows[name] for name in chosen])
        for y in (np.zeros(len(z), int), np.tile([1.0, 0.0, 0.5], (len(z), 1))):
            for weights in ((1.0, 2.0, 0.5), (-1.0, 2.0, 0.5)):
                loss = refloss.CrossEntropy(reduction=reduction, label_smoothing=smoothing, class_weight=weights)
                encloses(loss, z, y)


def test_masked_targets_of_both_signs() -> None:
    """-inf by a negative one, NaN by both, as in PyTorch; a target that smoothing makes exactly 0 is none."""
    z = [[-np.inf, 0.0, 1.0, -np.inf]]
    for y, expected in (
        ([-1.0, 0.5, 0.0, 0.0], -np.inf),
        ([-1.0, 0.5, 0.0, 2.0], np.nan),
        ([1.0, 0.0, 1.0, 1.0], np.inf),
    ):
        found = enclose(refloss.CrossEntropy(), z, [y])
        assert f"the loss is {expected:g}" in found.notes[0]
        for engine in ("certified", "chain", "fused", "dd"):
            assert np.array_equal(refloss.CrossEntropy()(z, [y], engine=engine), expected, equal_nan=True), engine
    smooth = refloss.CrossEntropy(label_smoothing=0.5)
    encloses(smooth, z, [[-0.25, 1.0, 1.0, -0.25]])
    assert np.isfinite(smooth(z, [[-0.25, 1.0, 1.0, -0.25]], engine="certified"))


def test_undefined_rows_are_named() -> None:
    z = [[np.nan, 0.0], [0.0, 1.0], [0.0, -np.inf]]
    notes = enclose(refloss.CrossEntropy(), z, [0, 0, 1]).notes
    assert [note[:6] for note in notes] == ["row 0:", "row 2:"]
    assert "NaN" in notes[0]
    assert "the loss is inf" in notes[1]


def test_ignored_logits_are_not_looked_at() -> None:
    found = enclose(refloss.CrossEntropy(), [[np.nan, 0.0], [0.0, 1.0]], [-100, 0])
    assert not found.notes
    assert np.array_equal(found.grad["z"].midpoint[0], [0.0, 0.0])
    encloses(refloss.CrossEntropy(), [[0.0, 1.0]], [0], found=found._replace(grad={"z": first(found.grad["z"], 1)}))


def first(ball: Ball, row: int) -> Ball:
    return Ball(*(part[row : row + 1] for part in ball))


def test_smoothing_of_1_lets_every_class_weigh() -> None:
    loss = refloss.CrossEntropy(label_smoothing=1.0, class_weight=(0.0, 1.0, 2.0))
    encloses(loss, [[-np.inf, 0.0, 1.0], [0.0, -np.inf, 1.0]], [1, 1])


def test_all_rows_ignored() -> None:
    x, w, _ = head_inputs()
    for reduction, expected in (("mean", np.nan), ("sum", 0.0), ("none", np.zeros(3))):
        found = enclose(refloss.ArcFace(reduction=reduction), x, w, np.full(3, -100))
        assert np.array_equal(found.value.midpoint, expected, equal_nan=True)
        assert not found.grad["x"].midpoint.any()
        assert not found.grad["w"].midpoint.any()


def test_a_mean_over_no_weight_is_nan() -> None:
    x, w, y = head_inputs()
    loss = refloss.NormFace(class_weight=(0.0, 0.0, 1.0, 1.0), label_smoothing=0.1)
    found = enclose(loss, x, w, y)
    assert '"mean" divides by a total weight of 0: NaN' in found.notes
    assert np.isnan(found.value.midpoint)
    assert np.isnan(found.grad["w"].midpoint).all()
    assert np.array_equal(np.isnan(found.grad["x"].midpoint).all(axis=1), [True, False, True])


@pytest.mark.parametrize("smoothing", [0.0, 0.25, 1.0])
def test_weights_that_add_up_to_0(smoothing: float) -> None:
    """The value alone is enclosed: what PyTorch has, see `refloss.engines.counting.mean_over_zero`."""
    loss = refloss.CrossEntropy(class_weight=(-1.0, 2.0, 0.5), label_smoothing=smoothing)
    found = enclose(loss, [[0.3, -1.0, 2.0], [1.0, 0.2, -0.7], [0.0, 1.0, 0.5]], [1, 0, 0])
    expected = np.nan if smoothing == 1.0 else np.inf
    assert np.array_equal(found.value.midpoint, expected, equal_nan=True)
    assert np.isnan(found.grad["z"].midpoint).all()
    said = "NaN" if smoothing == 1.0 else "the value is inf, the gradient NaN"
    assert found.notes == (f'"mean" divides by a total weight of 0: {said}',)


def test_the_value_alone() -> None:
    for loss, inputs in (
        (refloss.ArcFace(), cases.ordinary(random())),
        (refloss.Triplet(), tuple(random().standard_normal((3, 2, 4)))),
    ):
        found = enclose(loss, *inputs, gradients=False)
        assert found.grad is None
        assert found.value == enclose(loss, *inputs).value


# ---------------------------------------------------------------------------------------------------------------- kinks


def at(w: Any, x: Any = (1.0,)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One sample on an axis, the weights of its class, and those of two others."""
    x = np.pad(np.array([x], float), ((0, 0), (0, len(w) - len(x))))
    return x, np.array([w, np.arange(1.0, 1.0 + len(w)), -(np.arange(2.0, 2.0 + len(w)) ** 2)]), np.array([0])


PARALLEL, OPPOSITE = at([3.0, 0.0, 0.0]), at([-3.0, 0.0, 0.0])
RIGHT, AT_60, AT_120 = at([0.0, 2.0, 0.0]), at([1.0, 1.0, 1.0, 1.0]), at([-1.0, 1.0, 1.0, 1.0])
AT_45, AT_135, AT_30 = at([1.0, 1.0, 0.0]), at([-1.0, 1.0, 0.0]), at([3.0, 1.0, 1.0, 1.0])
HOLDS = "exactly: the margin still holds"


@pytest.mark.parametrize(
    ("loss", "inputs", "note"),
    [
        (refloss.ArcFace(), PARALLEL, "theta = 0 exactly: the tangent of least norm, 0, is used"),
        (refloss.ArcFace(boundary="keep"), PARALLEL, "theta = 0 exactly: the tangent of least norm, 0, is used"),
        (refloss.ArcFace(), OPPOSITE, "theta = pi exactly: the tangent of least norm, 0, is used"),
        (refloss.ASoftmax(m=1.5, boundary="none"), OPPOSITE, "theta = pi exactly: the tangent of least norm, 0, is"),
        (refloss.ASoftmax(m=2), OPPOSITE, f"m1 theta + m2 = 2 pi {HOLDS}"),
        (refloss.ASoftmax(m=4), AT_45, f"m1 theta + m2 = pi {HOLDS}"),
        (refloss.ASoftmax(m=4, annealing=2.0), AT_135, f"m1 theta + m2 = 3 pi {HOLDS}"),
        (refloss.ASoftmax(m=6), AT_30, f"m1 theta + m2 = pi {HOLDS}"),
        (refloss.ASoftmax(m=3, s=8.0), AT_60, f"m1 theta + m2 = pi {HOLDS}"),
        (refloss.ASoftmax(m=3), AT_120, f"m1 theta + m2 = 2 pi {HOLDS}"),
        *(
            (refloss.CombinedMargin(m1=2.0, m2=0.0, boundary=rule), RIGHT, f"m1 theta + m2 = pi {HOLDS}")
            for rule in ("hard", "keep", "continuous", "clamp", "monotone")
        ),
        (refloss.ArcFace(boundary="easy"), RIGHT, "cos theta = 0 exactly: the easy margin does not hold"),
        (refloss.CosFace(m=0.5, boundary="conditional"), AT_60, "cos theta = m3 exactly: the conditional margin does"),
        *(
            (
                refloss.CombinedMargin(m1=m1, m2=0.0, m3=m3, boundary="min"),
                inputs,
                "cos(m1 theta + m2) - m3 = cos theta exactly: the margin still holds",
            )
            for m1, m3, inputs in (
                (2.0, 0.0, AT_120),
                (2.0, 0.875, at([-3.0, 2.0, 1.0, 1.0, 1.0])),  # cos θ = -3/4
                (3.0, 0.0, RIGHT),
                (1.5, 0.0, PARALLEL),
            )
        ),
        (
            refloss.CombinedMargin(m1=1.5, m2=0.0, m3=1.0, boundary="min"),  # cos 3π/2 - 1 = cos π, not found exactly
            OPPOSITE,
            f"cos(m1 theta + m2) - m3 and cos theta differ by less than {certified.MAX_BITS} bits tell: undecided",
        ),
        (refloss.Triplet(m=7.0), ([[0.0, 0.0]], [[3.0, 0.0]], [[0.0, 4.0]]), "the hinge is at 0 exactly"),
        (
            refloss.Triplet(m=1.0, squared=False),
            ([[0.0, 0.0]], [[3.0, 0.0]], [[0.0, 4.0]]),
            "the hinge is at 0 exactly: the gradient of least norm, 0, is used",
        ),
        (
            refloss.Triplet(squared=False),
            ([[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.1]]),
            "anchor and positive coincide: the plain distance has no derivative, 0 is used",
        ),
        (
            refloss.Triplet(squared=False),
            ([[1.0, 0.0]], [[1.0, 0.1]], [[1.0, 0.0]]),
            "anchor and negative coincide: the plain distance has no derivative, 0 is used",
        ),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_every_kink_is_named_and_follows_its_convention(loss: Any, inputs: Any, note: str) -> None:
    found = enclose(loss, *inputs)
    assert any(said.startswith(f"row 0: {note}") for said in found.notes), found.notes
    assert not undecided(found)
    encloses(loss, *inputs, found=found)


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (refloss.ArcFace(gradient="detached"), PARALLEL),
        (refloss.NormFace(), PARALLEL),
        (refloss.ASoftmax(m=3), PARALLEL),
        (refloss.ArcFace(boundary="none"), AT_60),
        (refloss.ASoftmax(m=4, boundary="none"), AT_45),
        (refloss.ASoftmax(m=4), AT_30),
        (refloss.CosFace(m=0.5, boundary="conditional"), AT_45),
        (refloss.CosFace(m=0.5, boundary="conditional"), AT_120),
        (refloss.ArcFace(boundary="easy"), AT_120),
        (refloss.CombinedMargin(m1=2.0, m2=0.0, m3=1e-50, boundary="min"), AT_120),
        (refloss.CombinedMargin(m1=1.0, m2=1e-30, m3=0.0, boundary="min", gradient="detached"), PARALLEL),
        (refloss.CombinedMargin(m1=3.0, m2=0.0, m3=0.0, boundary="min"), AT_135),
        (refloss.CombinedMargin(m1=2.0, m2=0.0, boundary="keep"), OPPOSITE),
        (refloss.Triplet(), ([[0.0, 0.0]], [[0.1, 0.0]], [[0.0, 4.0]])),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_is_smooth_is_not_noted(loss: Any, inputs: Any) -> None:
    found = enclose(loss, *inputs)
    assert not found.notes
    encloses(loss, *inputs, found=found)


def test_sides_are_decided_however_near() -> None:
    x, w, y = at([-1.0, 5e-324, 0.0])
    loss = refloss.CombinedMargin(m1=1.0, m2=1e-300, boundary="clamp")  # θ = π - 5e-324, θ + m2 past π
    found = enclose(loss, x, w, y)
    assert not found.notes
    encloses(loss, x, w, y, found=found)


def test_sides_that_max_bits_cannot_tell_count_as_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certified, "MAX_BITS", 256)
    loss = refloss.CombinedMargin(m1=1.0, m2=1e-200, boundary="clamp")
    assert any("differ by less than 256 bits tell: counted as equal" in note for note in enclose(loss, *OPPOSITE).notes)


# ------------------------------------------------------------------------------------------------ exact zeros, the rest


def same_direction(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, w, y = cases.ordinary(random(seed), 2, 4, 3)
    return x, np.outer([1.0, 2.0, 0.5, 3.0], np.round(64.0 * w[0])), y


ALL = np.s_[:]
OPPOSED = np.array([[1.0, 0.0]]), np.array([[1.0, 1.0], [-1.0, 3.0], [-1.0, -3.0], [3.0, 1.0]]), np.array([0])
MIRRORED = np.array([[1.0, 0.0]]), np.array([[2.0, 0.0], [-1.0, 3.0], [-1.0, -3.0]]), np.array([0])
TWO_ROWS = (
    np.array([[-1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]),
    np.array([[1.0, 1.0, 0.0], [3.0, 1.0, -1.0]]),
    np.array([0, 1]),
)
WEIGHTLESS = np.array([[1.0, 0.0], [0.3, 0.4]]), MIRRORED[1], np.array([1, 0])
ALIKE = np.array([[1.0, 2.0]]), np.array([[3.0, 0.1], [3.0, 0.2], [3.0, -1.0]]), np.array([0])


@pytest.mark.parametrize(
    ("loss", "inputs", "zeros"),
    [
        (refloss.NormFace(), cases.ordinary(random(), 3, 5, 1), {"x": ALL, "w": ALL}),  # D = 1
        (refloss.ArcFace(), cases.ordinary(random(), 3, 5, 1), {"x": ALL, "w": ALL}),
        (refloss.ArcFace(), cases.ordinary(random(), 2, 1, 4), {"value": (), "x": ALL, "w": ALL}),  # C = 1
        (refloss.NormFace(), same_direction(), {"x": ALL}),
        (refloss.NormFace(s=None), same_direction(), {"x": ALL}),
        (refloss.ModifiedSoftmax(), same_direction(), {"x": ALL}),
        (refloss.CosFace(), same_direction(), {"x": ALL}),
        (refloss.ArcFace(gradient="detached"), same_direction(), {"x": ALL}),
        (refloss.NormFace(label_smoothing=1.0), same_direction(), {"x": ALL, "w": ALL}),
        (refloss.NormFace(), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (refloss.ArcFace(), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (refloss.ModifiedSoftmax(), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (refloss.ArcFace(s=None), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (refloss.ArcFace(boundary="clamp", m=3.0), at([0.1, 1.0, 0.0]), {"w": (0, ALL)}),
        (refloss.ASoftmax(m=4, s=8.0), AT_45, {"w": (0, ALL)}),
        (refloss.ArcFace(boundary="clamp", m=3.0), TWO_ROWS, {"w": (0, np.s_[:2])}),
        (refloss.SoftmaxLoss(), ALIKE, {"x": (0, 0)}),
        (
            refloss.SoftmaxLoss(label_smoothing=1.0),
            (np.eye(2), [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], [0, 0]),
            {"w": (ALL, 1)},
        ),
        (
            refloss.SoftmaxLoss(label_smoothing=1.0),
            (*MIRRORED[:1], np.ones((3, 2)), [0], np.ones(3)),
            {"b": ALL, "w": ALL},
        ),
        (refloss.CrossEntropy(label_smoothing=1.0), (np.full((2, 3), 0.1), [0, 1]), {"z": ALL}),
        (refloss.CrossEntropy(), (np.full((1, 3), 0.1), np.full((1, 3), 1 / 3)), {"z": ALL}),
        (refloss.CosFace(class_weight=(0.0, 1.0, 1.0), label_smoothing=0.0), WEIGHTLESS, {"w": (0, 1)}),
        (refloss.CrossEntropy(), ([[0.0, -np.inf]], [0]), {"value": (), "z": ALL}),
        (refloss.CrossEntropy(), ([[0.0, 1.0]], [[0.0, 0.0]]), {"value": (), "z": ALL}),
        (refloss.CrossEntropy(), ([[0.1, 0.1, 0.1]], [[1.0, -1.0, 0.0]]), {"value": (), "z": (0, 2)}),
        (refloss.CrossEntropy(), ([[0.0, 1.0, 7.0, -np.inf]], [[1.0, -1.0, 0.0, 0.0]]), {"z": (0, 2)}),
        (refloss.CrossEntropy(), ([[0.1, -np.inf]], [[-1.0, 0.0]]), {"value": (), "z": ALL}),
        (
            refloss.CrossEntropy(reduction="none", label_smoothing=0.3, class_weight=(1.0, -2.0, 1.0)),
            ([[0.0, 1.0, 2.0], [0.1, 0.1, 0.1]], np.full((2, 3), 0.1)),  # T = 0, to be divided by 3
            {"value": ALL},
        ),
        (
            refloss.CrossEntropy(reduction="sum", class_weight=(1.0, 7.0, -1.0)),
            ([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], [0, 2]),  # two samples with the same logits
            {"value": ()},
        ),
        (
            refloss.SoftmaxLoss(reduction="sum", label_smoothing=0.1, class_weight=(1.0, -1.0)),
            (np.eye(2), [[0.1, 0.2], [0.2, 0.1]], [0, 1]),
            {"value": ()},
        ),
        *(
            (
                loss(reduction="sum", class_weight=(1.0, -1.0)),
                ([[1.0, 2.0], [2.0, 1.0]], [[3, 1.0], [1, 3]], [0, 1]),
                {"value": ()},
            )
            for loss in (refloss.NormFace, refloss.ArcFace, refloss.ModifiedSoftmax, refloss.ASoftmax)
        ),
        (
            refloss.NormFace(reduction="sum", class_weight=(1.0, -1.0)),
            ([[1.0, 2.0], [3.0, 1.0]], [[3.0, 1.0], [6.0, 2.0]], [0, 1]),  # classes alike: log 2 - log 2
            {"value": ()},
        ),
        (refloss.Triplet(), ([[0.0, 0.0]], [[0.1, 0.0]], [[0.0, 4.0]]), {"value": (), "anchor": ALL, "negative": ALL}),
        (refloss.Triplet(m=3.0), ([[1e-40, 0.0]], [[9.0, 0.0]], [[9.0, 1.0]]), {"anchor": (0, 0), "positive": (0, 1)}),
        (
            refloss.Triplet(squared=False),  # (3, 4) and (6, 8) less a point far below their last place
            ([[0.0, 1e-40]], [[6.0, 1e-40]], [[3.0, 1e-40]]),
            {"anchor": ALL, "positive": (0, 1), "negative": (0, 1)},
        ),
        (refloss.Triplet(squared=False, m=9.0), ([[1e-40, 1.0]], [[3.0, 5.0]], [[3.0, 5.0]]), {"anchor": ALL}),
    ],
    ids=lambda given: type(given).__name__,
)
def test_zeros_are_proven(loss: Any, inputs: Any, zeros: dict[str, Any]) -> None:
    found = enclose(loss, *inputs)
    assert found.bits < 1000
    assert not undecided(found)
    for name, index in zeros.items():
        ball = found.value if name == "value" else found.grad[name]
        assert np.all(ball.midpoint[index] == 0.0), name
        assert np.all(ball.radius[index] == 0.0), name
        assert np.all(np.asarray(ball.decimal[index]) == "0"), name
        assert np.all(np.asarray(ball.decimal_radius[index]) == "0"), name
    encloses(loss, *inputs, found=found)


@pytest.mark.parametrize(
    ("loss", "biased"),
    [
        (refloss.SoftmaxLoss(class_weight=(1.0, 0.0, 1.0)), True),
        (refloss.SoftmaxLoss(label_smoothing=1.0), False),
        (refloss.SoftmaxLoss(class_weight=(1.0, -1.0, 0.0), reduction="sum"), True),
        (refloss.NormFace(class_weight=(1.0, -1.0, 1.0), reduction="sum"), False),
        (refloss.ArcFace(class_weight=(1.0, -1.0, 0.0), reduction="sum", s=None, label_smoothing=0.5), False),
        (refloss.NormFace(label_smoothing=1.0), False),
        (refloss.ModifiedSoftmax(), False),
        (refloss.CosFace(s=None, m=1.0, label_smoothing=0.5), False),
        (refloss.CosFace(label_smoothing=1.0), False),
        (refloss.ArcFace(s=None), False),
        (refloss.ArcFace(s=None, gradient="detached"), False),
        (refloss.ArcFace(s=2.0, m=3.0, boundary="clamp"), False),
        (refloss.ASoftmax(m=4, s=3.0, annealing=1.0), False),
    ],
    ids=repr,
)
def test_no_proof_of_0_is_wrong(loss: Any, biased: bool) -> None:
    """Small integers, full of coincidences; every claim about every entry, asked for or not, against mpmath."""
    g, claims = random(1), 0
    given = [
        (
            [[1.0, 1.0, 0.0]],
            [[2.0, 2.0, 1.0], [1.0, 0.0, 0.0], [3.0, 0.0, 0.0]],
            [0],
        ),  # w_0 turns, but not along axis 1
        ([[1.0, 1.0, 3.0]], [[1.0, -1.0, 1.0], [0.0, 1.0, 2.0], [2.0, 1.0, 0.0]], [1]),  # x·w_0 = w_0·w_0
        ([[1.0, 2.0, 3.0]], np.ones((3, 3)), [0]),
    ]
    for _ in range(12):
        x, w = (g.integers(-1, 3, shape).astype(float) for shape in ((2, 3), (3, 3)))
        x[:, 0], w[:, 0] = 1.0, 1.0  # no zero vectors
        given.append((x, w, g.integers(0, 3, 2)))
    for inputs in given:
        inputs = (*inputs, g.integers(-1, 2, 3).astype(float)) if biased else inputs  # noqa: PLW2901
        problem = certified._Problem(loss.spec, checked_arrays(loss, inputs), np.array(1.0))
        for name, true, noise in truths(loss, *inputs):
            for i in np.ndindex(true.shape):
                if problem.open[name][i] and problem.is_zero(name, i):
                    claims += 1
                    assert abs(true[i]) <= noise[i], f"{name}{list(i)} is {mp.nstr(true[i])}, not 0: {inputs}"
    assert claims


def checked_arrays(loss: Any, inputs: Any) -> dict[str, Any]:
    spare = [None] if isinstance(loss, refloss.SoftmaxLoss) and len(inputs) == 3 else []
    return loss._call(*inputs, *spare).arrays


def test_a_triplet_loss_of_almost_0_takes_bits_and_is_not_called_0() -> None:
    inputs = [[0.0, 0.0]], [[1.0, 1e-30]], [[1.0, 0.0]]
    found = enclose(refloss.Triplet(m=0.0), *inputs)
    assert found.bits > 200  # with 128 the distances are alike
    assert found.value.midpoint == float(Fraction(1e-30) ** 2)
    encloses(refloss.Triplet(m=0.0), *inputs, found=found)


def test_losses_that_almost_cancel_are_not_called_0() -> None:
    """Samples with the same logits and opposite weights, one of them moved by 1e-30 of itself."""
    loss = refloss.CrossEntropy(reduction="sum", class_weight=(1.0, -1.0))
    for z in ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1e-30, 1.0]]):
        found = enclose(loss, z, [0, 1])
        assert (found.value.midpoint == 0.0) == (z[1][0] == 0.0)
        encloses(loss, z, [0, 1], found=found)


def test_what_is_almost_0_is_not_called_0() -> None:
    x, w, y = (np.array(given) for given in MIRRORED)
    w[1, 1] = np.nextafter(3.0, 4.0)
    w[0, 1] = 1e-200
    for loss in (refloss.NormFace(), refloss.ModifiedSoftmax(), refloss.ArcFace(s=None)):
        found = enclose(loss, x, w, y)
        assert "0" not in set(found.grad["x"].decimal[0]) - {"0"} | set(found.grad["w"].decimal.flat)
        assert found.grad["x"].midpoint[0, 1] != 0.0
        encloses(loss, x, w, y, found=found)


def test_an_upstream_of_0_proves_nothing_about_other_rows() -> None:
    x, w, y = (np.concatenate([np.array(given)] * 2) if i != 1 else given for i, given in enumerate(MIRRORED))
    x[1] = [0.3, 0.4]
    found = enclose(refloss.NormFace(reduction="none"), x, w, y, upstream=[1.0, 0.0])
    assert not found.grad["x"].midpoint[1].any()
    assert not found.grad["w"].midpoint[0].any()
    assert not found.notes
    assert enclose(refloss.NormFace(reduction="none"), x, w, y, upstream=[0.0, 1.0]).grad["w"].midpoint[0, 1] != 0.0


def test_what_is_neither_0_nor_told_from_it_is_reported() -> None:
    x, w, _ = cases.ordinary(random(), 1)
    loss, y = refloss.ArcFace(reduction="none"), np.array([1, 1])
    twice = np.concatenate([x, x])
    found = enclose(loss, twice, w, y, upstream=[1.0, -1.0])  # gradients on w cancel, which no rule here proves
    assert found.bits == certified.MAX_BITS
    assert len(undecided(found)) == found.grad["w"].midpoint.size
    assert all(float(note.rpartition("<= ")[2].replace("E-4", "E-")) < 1e-300 for note in undecided(found))
    assert "undecided: w[3, 1]: |truth| <= " in " ".join(found.notes)
    assert (found.grad["w"].midpoint == 0.0).all()
    assert (found.grad["w"].radius == 5e-324).all()
    encloses(loss, twice, w, y, found=found, upstream=[1.0, -1.0])
    _, gradients = loss.value_and_grad(twice, w, y, upstream=[1.0, -1.0], engine="certified")
    assert not gradients.w.any()  # which is how anything below 2^-1075 is rounded


def test_the_precision_ends_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certified, "MAX_BITS", 256)
    loss, inputs = refloss.ArcFace(), cases.on_axes(1e-300)
    with pytest.raises(ArithmeticError, match=r"value cannot be rounded with 256 bits.*: nothing is known"):
        loss.value_and_grad(*inputs, engine="certified")
    found = enclose(loss, *inputs)
    assert found.bits == 256
    assert np.isinf(found.grad["x"].radius).any()
    assert "inf" in found.grad["x"].decimal_radius
    assert any(note.endswith("nothing is known") for note in undecided(found))
    encloses(loss, *inputs, found=found)
    assert undecided(enclose(refloss.NormFace(), *cases.ordinary(random()), digits=90))


def test_halfway_between_two_floats_is_not_guessed() -> None:
    smoothing = (2.0**26 - 1.0) / 2.0**27  # dL/dz_1 is (2^27 + 1)(2^26 + 1) 2^-27: 54 bits, the last 1
    loss = refloss.CrossEntropy(label_smoothing=smoothing, reduction="sum")
    with pytest.raises(ArithmeticError, match=r"z\[0, \d\] cannot be rounded with 16384 bits.*: truth in \["):
        loss.value_and_grad(np.full((1, 5), 0.1), [0], upstream=5.0 * (2.0**27 + 1.0), engine="certified")


# -------------------------------------------------------------------------------------------------- numbers of any size


def test_numbers_beyond_float64() -> None:
    with mp.workdps(60):
        exponent = int(mp.floor(-mpf(1e30) / mp.log(10)))
    found = enclose(refloss.CrossEntropy(), [[1e30, 0.0], [1e300, 0.0]], [0, 0])
    assert found.value.midpoint == 0.0
    assert found.value.radius == 5e-324
    assert found.grad["z"].decimal[0, 1].endswith(f"E{exponent}")
    assert found.grad["z"].decimal[0, 0].startswith("-")
    assert not found.notes
    x = np.full((1, 2), 1e200)
    loss = refloss.SoftmaxLoss()
    found = enclose(loss, x, np.array([[1.0, 0.0], [1e200, 0.0]]), [0])
    assert str(found.value.decimal).startswith("9.999999999999999394")  # a little below 1e400
    assert (found.value.midpoint, found.value.radius) == (np.inf, np.inf)
    encloses(loss, x, np.array([[1.0, 0.0], [1e200, 0.0]]), [0], found=found)
    assert loss(x, np.array([[1.0, 0.0], [1e200, 0.0]]), [0], engine="certified") == np.inf


def test_conversions_lose_nothing() -> None:
    arb = flint.arb
    huge, tiny = arb(2), arb(1) / arb(2) ** 30000
    for _ in range(66):
        huge *= huge
    assert certified._bounds(arb(1, tiny)) == (2**10000 - 1, 2**10000 + 1, -10000)
    assert certified._bounds(arb(tiny, 1)) == (-2, 2, 0) or certified._bounds(arb(tiny, 1))[0] < -1
    assert certified._rounded(huge) == np.inf
    assert certified._rounded(-huge) == -np.inf
    assert certified._rounded(-tiny) == 0.0
    assert np.signbit(certified._rounded(-tiny))
    assert certified._rounded(arb(0, tiny)) == 0.0
    assert not np.signbit(certified._rounded(arb(0, tiny)))
    assert certified._rounded(arb(1, 1)) is None
    assert certified._rounded(arb("nan")) is None
    assert certified._nearest(2**53 + 1, 0) == 2.0**53  # ties to even
    assert certified._nearest(3, -1075) == 2.0 * 5e-324
    assert certified._nearest(1, -1075) == 0.0
    assert certified._as_float64(arb(1, huge)) == (1.0, np.inf)
    assert certified._as_float64(arb(0, arb(2) ** 1024)) == (0.0, np.inf)
    with certified._precision(128):
        middle, radius = certified._as_float64(arb(1) / 3)
    assert middle == 1 / 3
    assert Fraction(radius) >= abs(Fraction(1, 3) - Fraction(middle))
    assert Fraction(radius) < Fraction(2) ** -54
    assert certified._as_float64(arb(3, 0)) == (3.0, 0.0)


# -------------------------------------------------------------------------------------------------------- the machinery


def test_every_operation_knows_its_derivative() -> None:
    """The tape alone, operation by operation, against mpmath: none of the losses is involved."""
    tape, g = certified._Tape(), random()
    points = [g.uniform(0.5, 2.0, (2, 3)) for _ in range(2)]
    a, b = (certified._Var(tape, certified._exact(point)) for point in points)
    row = a[0] * b[1]
    out = ((a / b).sqrt() - (a * b).cos()).exp().log1p() + a.angle_from(b) + row - a.times(b).sum(axis=1)[:, None]
    out = (out * out.put(([0], [1]), row[[0]]) / (b - a).length()[:, None] + 1).sum()
    out.receive(certified._exact(1.0))
    tape.backward()

    def again(*moved: Any) -> mpf:
        (p, q), at = moved, np.vectorize
        r = p[0] * q[1]
        wave = at(mp.exp, otypes=[object])(at(mp.sqrt, otypes=[object])(p / q) - at(mp.cos, otypes=[object])(p * q))
        sums = at(mp.log1p, otypes=[object])(wave) + at(mp.atan2, otypes=[object])(p, q) + r
        sums = sums - (p @ q.T).sum(axis=1)[:, None]
        put = sums.copy()
        put[0, 1] = r[0]
        lengths = at(mp.sqrt, otypes=[object])(((q - p) ** 2).sum(axis=1))
        return (sums * put / lengths[:, None] + 1).sum()

    for which, leaf in enumerate((a, b)):
        for i in np.ndindex(2, 3):
            with mp.workdps(80):
                moved = [exact.exact(point) for point in points]
                ends = []
                for step in (mpf(10) ** -25, -2 * mpf(10) ** -25):
                    moved[which][i] += step
                    ends.append(again(*moved))
                slope = (ends[0] - ends[1]) / (2 * mpf(10) ** -25)
                assert float(leaf.grad[i].mid()) == pytest.approx(float(slope), rel=1e-14)


def test_the_precision_of_others_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flint.ctx, "prec", 77)
    enclose(refloss.ArcFace(boundary="min"), *cases.ordinary(random()))
    refloss.Triplet()(*random().standard_normal((3, 2, 4)), engine="certified")
    assert flint.ctx.prec == 77
    monkeypatch.setattr(certified, "_largest", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        enclose(refloss.ArcFace(), *cases.ordinary(random()))
    assert flint.ctx.prec == 77


def test_inputs_are_not_written_to() -> None:
    x, w, y = cases.ordinary(random())
    for array in (x, w, y):
        array.setflags(write=False)
    kept = x.copy(), w.copy()
    enclose(refloss.ArcFace(), x, w, y)
    assert np.array_equal(kept[0], x)
    assert np.array_equal(kept[1], w)


def test_halfway_between_two_numbers_is_rounded_to_even() -> None:
    """Roots of equal numbers cancel, and a quotient that is exact is: ties are seen to be ties."""
    zero = [[0.0], [0.0], [0.0]]
    third = refloss.Triplet(m=9.0).value_and_grad(
        zero, [[-3.0 * 2.0**-53], [0.0], [0.0]], [[3.0], [0.0], [0.0]], engine="certified"
    )[1]
    assert third.anchor.tolist() == [[2.0], [0.0], [0.0]]  # of 2 (3 + 3 2^-53) / 3
    plain = refloss.Triplet(m=5e-324, squared=False)
    points = np.zeros((2, 2)), np.array([[0.1, 0.3], [0.1, 0.1]]), np.array([[0.3, 0.1], [3.0, 0.1]])
    assert plain(*points, engine="certified") == 0.0  # half the smallest number
    points = [[0.1, 0.3], [0.0, 0.0]], [[0.3, 0.3], [0.0, 0.0]], [[0.2, 0.3], [1.0, 0.0]]
    along = plain.value_and_grad(*points, upstream=5e-324, engine="certified")[1]
    assert not any(gradient.any() for gradient in along)  # of directions (1, 0)


def test_refusals() -> None:
    inputs = cases.ordinary(random())
    for digits in (0, 1001):
        with pytest.raises(ValueError, match=f"digits must be from 1 to 1000; got {digits}"):
            enclose(refloss.ArcFace(), *inputs, digits=digits)
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
    for loss, given in (
        (refloss.ArcFace(), (x, w)),
        (refloss.SoftmaxLoss(), (x, w)),
        (refloss.CrossEntropy(), (x,)),
        (refloss.Triplet(), (x, w[:2], w[2:4])),
    ):
        some = [array.astype(dtype) for array in given]
        rest = () if isinstance(loss, refloss.Triplet) else (y % 4,)
        found, same = (enclose(loss, *arrays, *rest) for arrays in (some, [array.astype(float) for array in some]))
        assert found.value.decimal == same.value.decimal
        for name, ball in found.grad.items():
            assert ball.decimal.tolist() == same.grad[name].decimal.tolist()


def test_without_flint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flint", None)
    with pytest.raises(ImportError, match=r"pip install refloss\[certified\]"):
        enclose(refloss.ArcFace(), *cases.ordinary(random()))


def test_flint_loads_when_first_used() -> None:
    code = "import sys, refloss, refloss.engines.certified; sys.exit('flint' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
