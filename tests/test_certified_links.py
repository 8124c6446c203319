"""Losses with sigmoids or two softmaxes on cosines: enclosures, rounding, bounds, kinks, and what is 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mpmath import mp, mpf

import refloss
from refloss.engines.certified import enclose
from refloss.engines.certified.balls import arb, exact_balls, precision
from refloss.engines.certified.links import softplus
from refloss.engines.certified.problem import Problem
from refloss.engines.certified.tape import Tape
from support import cases, mutants
from support.enclosures import encloses, nearest, random, truths, undecided

pytest.importorskip("flint")

S2, UNI, SIGLIP, NCE = refloss.SphereFace2(), refloss.UniFace(), refloss.SigLIP(), refloss.InfoNCE()
LABELLED = [
    S2,
    refloss.SphereFace2(m=0.0, s=2.0, t=1, alpha=0.5, weight=1.0),
    refloss.SphereFace2(s=8.0, t=30, alpha=0.1, weight=0.3, gradient="detached"),
    refloss.SphereFace2(t=2, alpha=1.0, reduction="sum"),
    UNI,
    refloss.UniFace(m=0.5, s=2.0, l=0.25),
    refloss.UniFace(m=0.0, s=1.0, l=2.0**-40, reduction="sum"),
]
PAIRS = [SIGLIP, refloss.SigLIP(reduction="sum"), NCE, refloss.InfoNCE(ways=1, reduction="sum")]
MIRRORED = np.array([[1.0, 0.0]]), np.array([[2.0, 0.0], [-1.0, 3.0], [-1.0, -3.0]]), np.array([0])
AT = "is at its bound exactly: the slope within is used"
ALL = np.s_[:]


def named_cases(loss: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Of pairs each embedding's own is that of its class."""
    g = random(11)
    placed = {f"theta = {theta}": cases.at_angle(g, theta) for theta in (1e-4, 1e-8, 1e-12, np.pi - 1e-8)}
    placed |= {f"theta = {theta}, axes": cases.on_axes(theta) for theta in (1e-17, 1e-300)}
    placed |= {name: build(g) for name, build in cases.PLACED.items()}
    placed |= dict(cases.other_classes(g))
    numbers = (0.0, -1.5, 10.0, 1e-300, -800.0)
    for at, (name, (x, w, y)) in enumerate(placed.items()):
        number = numbers[at % len(numbers)]
        if loss in LABELLED:
            yield name, (x, w, y) if at % 4 == 0 else (x, w, y, number)
        else:
            scale = (abs(number) or 100.0,)
            yield name, (x, np.asarray(w)[y], *scale, *([number] if isinstance(loss, refloss.SigLIP) else []))


# ------------------------------------------------------------------------------------------------------- against mpmath


@pytest.mark.parametrize("loss", LABELLED + PAIRS, ids=repr)
@pytest.mark.parametrize("part", range(2))
def test_enclosures_hold_the_truth(loss: Any, part: int) -> None:
    for name, inputs in list(named_cases(loss))[part::4]:
        enclosure = enclose(loss, *inputs, digits=25)
        assert not undecided(enclosure), f"{name}: {enclosure.notes}"
        encloses(loss, *inputs, enclosure=enclosure)


@pytest.mark.parametrize(
    "loss", [refloss.UniFace(l=0.0), *(refloss.SphereFace2(alpha=a) for a in (0.0, 1.0))], ids=repr
)
def test_answers_without_a_weight(loss: Any) -> None:
    inputs = (*cases.ordinary(random(), 3, 5, 4), -0.5)
    enclosure = enclose(loss, *inputs)
    assert not undecided(enclosure)
    encloses(loss, *inputs, enclosure=enclosure)


@pytest.mark.parametrize("loss", LABELLED + PAIRS, ids=repr)
def test_results_are_correctly_rounded(loss: Any) -> None:
    for name, inputs in list(named_cases(loss))[2::8]:
        value, gradients = loss.value_and_grad(*inputs, engine="certified")
        results = {"value": np.asarray(value)} | gradients._asdict()
        for what, true, noise in truths(loss, *inputs):
            for i in np.ndindex(true.shape):
                # half a unit away is a tie, and mpmath's noise says to either side
                rounded = results[what][i] in (nearest(true[i] - noise[i]), nearest(true[i] + noise[i]))
                assert rounded or abs(results[what][i] - true[i]) <= noise[i], f"{name}: {what}{list(i)}"
        assert np.array_equal(loss(*inputs, engine="certified"), value)


@pytest.mark.parametrize("loss", [S2, UNI, SIGLIP, NCE], ids=repr)
def test_wrong_gradients_lie_outside(loss: Any) -> None:
    x, w, y = cases.ordinary(random(), 3, 3, 4)
    inputs = {S2: (x, w, y, 0.5), UNI: (x, w, y, 0.5), SIGLIP: (x, w, 10.0, -5.0), NCE: (x, w, 10.0)}[loss]
    enclosure = enclose(loss, *inputs)
    right = {name: np.asarray(g) for name, g in loss.value_and_grad(*inputs, engine="certified")[1]._asdict().items()}

    def outside(gradients: dict[str, np.ndarray]) -> bool:
        balls = enclosure.grad
        return not all(
            (np.abs(g - balls[n].midpoint) <= balls[n].radius + 0.5 * np.spacing(np.abs(g))).all()
            for n, g in gradients.items()
        )

    assert not outside(right)
    of_rows = {name: right[name] for name in "xw"}
    for title, mutant in mutants.everywhere(mutants.GROSS | mutants.FINE, of_rows).items():
        assert outside(mutant), title
    for name in set(right) - set("xw"):
        for wrong in (-right[name], right[name] * (1.0 + 1e-12), np.float32(right[name]).astype(float), 0.0):
            assert outside({name: np.asarray(wrong)}), name
    others = {
        S2: (replace(S2, gradient="detached"), replace(S2, m=0.4 + 1e-9), replace(S2, alpha=0.7 + 1e-9)),
        UNI: (replace(UNI, s=64.0 + 1e-9), replace(UNI, m=0.4 + 1e-9), replace(UNI, l=1.0 + 1e-9)),
        SIGLIP: (replace(SIGLIP, reduction="sum"),),
        NCE: (replace(NCE, ways=1), replace(NCE, reduction="sum")),
    }
    for other in others[loss]:
        assert outside(other.value_and_grad(*inputs)[1]._asdict()), other


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_ignored_rows_and_upstream(reduction: str) -> None:
    x, w, _ = cases.ordinary(random(3), 3, 4, 3)
    y, upstream = np.array([1, -100, 0]), [2.0, 1e300, -0.5] if reduction == "none" else -0.7
    x[1] = np.nan  # ignored, and not looked at
    for loss in (replace(S2, reduction=reduction), replace(UNI, s=2.0, reduction=reduction)):
        for inputs in ((x, w, y), (x, w, y, 0.25)):
            enclosure = enclose(loss, *inputs, upstream=upstream)
            assert set(enclosure.grad) == set("xwb"[: len(inputs) - 1])
            assert not enclosure.grad["x"].midpoint[1].any()
            encloses(loss, np.nan_to_num(x) + np.isnan(x), *inputs[1:], enclosure=enclosure, upstream=upstream)
    own = np.nan_to_num(x) + np.isnan(x)
    for loss, inputs in ((SIGLIP, (own, w[:3], 2.0, -1.0)), (NCE, (own, w[:3], 2.0))):
        each = replace(loss, reduction=reduction)
        encloses(each, *inputs, upstream=upstream, enclosure=enclose(each, *inputs, upstream=upstream))


def test_no_row_that_counts() -> None:
    for loss in (S2, UNI):
        value, gradients = loss.value_and_grad(np.eye(2), np.eye(2), [-100, -100], 1.0, engine="certified")
        assert np.isnan(value)
        assert not gradients.x.any()
        assert not gradients.w.any()
        assert gradients.b == 0.0
        assert replace(loss, reduction="sum")(np.eye(2), np.eye(2), [-100, -100], engine="certified") == 0.0


# --------------------------------------------------------------------------------------------------- in place of others


def test_what_is_the_same_loss() -> None:
    """Bit for bit, where no logit is beyond a bound: UniFace's then is SigLIP's, InfoNCE's one way NormFace's."""
    x, w, _ = cases.ordinary(random(), 3, 3, 4)
    y = np.arange(3)
    value, gradients = SIGLIP.value_and_grad(x, w, 8.0, 0.0, engine="certified")
    other, same = refloss.UniFace(m=0.0, s=8.0).value_and_grad(x, w, y, 0.0, engine="certified")
    assert (value, gradients.b) == (other, -same.b)
    _same_rows(gradients, same)
    value, gradients = refloss.InfoNCE(ways=1).value_and_grad(x, w, 8.0, engine="certified")
    other, same = refloss.NormFace(s=8.0).value_and_grad(x, w, y, engine="certified")
    assert value == other
    _same_rows(gradients, same)
    linear = refloss.SphereFace2(t=1)  # g(c) = c
    _same_rows(*(replace(linear, gradient=g).value_and_grad(x, w, y, engine="certified")[1] for g in _CONVENTIONS))


_CONVENTIONS = ("exact", "detached")


def _same_rows(gradients: Any, others: Any) -> None:
    assert np.array_equal(gradients.x, others.x)
    assert np.array_equal(gradients.w, others.w)


def test_two_ways_are_alike() -> None:
    """x and w exchanged."""
    x, w, _ = cases.ordinary(random(), 3, 3, 4)
    value, gradients = NCE.value_and_grad(x, w, 8.0, engine="certified")
    other, exchanged = NCE.value_and_grad(w, x, 8.0, engine="certified")
    assert (value, gradients.s) == (other, exchanged.s)
    assert np.array_equal(gradients.x, exchanged.w)
    assert np.array_equal(gradients.w, exchanged.x)


# ------------------------------------------------------------------------------------------------------------- softplus


@pytest.mark.parametrize("a", [0.0, 5e-324, -1e-300, 0.5, -30.0, 30.0, 750.0, -800.0, 1e5, -1e5, 1e12, -1e12])
def test_softplus_and_its_slope_lose_no_digits(a: float) -> None:
    with precision(128):
        tape = Tape()
        leaf = tape.leaf([[a]])
        result = softplus(leaf)
        slope = tape.backward([(result, exact_balls([[1.0]]))], {"a": leaf})["a"]
        assert result.value[0, 0].rel_accuracy_bits() > 120
        assert slope[0, 0].rel_accuracy_bits() > 120
        if abs(a) < 1e4:
            with mp.workdps(800):
                true = mp.log1p(mp.exp(mpf(a))), 1 / (1 + mp.exp(-mpf(a)))
                for ball, number in zip((result.value[0, 0], slope[0, 0]), true, strict=True):
                    assert abs(mpf(ball.str(60, radius=False)) / number - 1) < mpf(2) ** -120


def test_softplus_of_what_has_no_sign_yet() -> None:
    """The two forms are the same number."""
    with precision(128):
        tape = Tape()
        balls = exact_balls([[0.0]])
        balls[0, 0] = type(arb(0))(0.0, 1e-20)
        leaf = tape.leaf([[0.0]])
        leaf.value = balls
        result = softplus(leaf).value[0, 0]
        for bits in (100, 300):
            with precision(bits):
                assert result.contains(softplus(Tape().leaf([[0.0]])).value[0, 0])


# --------------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(("s", "b"), [(2.0, -1.0), (3.0, 1.5), (0.75, -0.5), (64.0, 13.0)])
def test_classes_built_onto_the_bound(s: float, b: float) -> None:
    """c = ±1 + b/s: of their cosines float64 knows too little. Beyond, they have no gradient at all."""
    loss, g = refloss.UniFace(m=0.25, s=s), random(int(s))
    x = g.standard_normal((1, 3))
    w = np.array([_at_cosine(g, x[0], edge) for edge in [_edge(s, b), _edge(s, b) + 0.25] for _ in range(100)])
    labels = (0, 150) if _edge(s, b) + 0.25 < 1.0 else (0,)
    outside = set()
    for y in labels:
        gradient = loss.value_and_grad(x, w, [y], b, engine="certified")[1].w
        for k in range(len(w)):
            beyond = _is_beyond(x[0], w[k], s, b, 0.25 if k == y else 0.0)
            assert gradient[k].any() != beyond
            outside.add(beyond)
    assert outside == {True, False}


def _edge(s: float, b: float) -> float:
    return 1.0 + b / s if b < 0.0 else b / s - 1.0


def _at_cosine(g: np.random.Generator, x: np.ndarray, cos: float) -> np.ndarray:
    cos = min(cos, 0.99)
    across = g.standard_normal(len(x))
    unit = x / np.linalg.norm(x)
    across -= across @ unit * unit
    w = cos * unit + np.sqrt(1.0 - cos * cos) * across / np.linalg.norm(across)
    return w * g.uniform(0.5, 2.0)


def _is_beyond(x: np.ndarray, w: np.ndarray, s: float, b: float, m: float) -> bool:
    with mp.workdps(200):
        dot = mp.fsum(mpf(p) * mpf(q) for p, q in zip(x, w, strict=True))
        squares = mp.fsum(mpf(p) ** 2 for p in x) * mp.fsum(mpf(p) ** 2 for p in w)
        return bool(abs(mpf(s) * (dot / mp.sqrt(squares) - mpf(m)) - mpf(b)) > mpf(s))


@pytest.mark.parametrize("moved", [0.0, 1e-16, -1e-16, 1e-300, -1e-300])
def test_at_the_bound_the_slope_within(moved: float) -> None:
    """Cosines of 3/5, 1/2 and -1/2; a bias apart from the edge, or a class by less than any digits of float64."""
    x, w = np.array([[1.0, 1.0, 1.0, 1.0, 0.0]]), np.zeros((3, 5))
    w[0, :2], w[1, :3], w[2] = [4.0, 0.0], [-1.0, 0.0, 0.0], [1.0, 2.0, -1.0, 0.0, 0.0]
    w[1, 4] = moved  # its cosine is -1/2, but for a part of the order moved²
    loss = refloss.UniFace(m=0.25, s=2.0)
    enclosure = enclose(loss, x, w, [0], 1.0)  # -1/2 · 2 - 1 = -2
    assert not undecided(enclosure)
    at = [note for note in enclosure.notes if AT in note]
    assert at == ([] if moved else ["row 0: the logit of class 1 is at its bound exactly: the slope within is used"])
    assert (enclosure.grad["w"].decimal[1, 1:] != "0").any()
    encloses(loss, x, w, [0], 1.0, enclosure=enclosure)
    shifted = enclose(loss, x, w, [0], np.nextafter(1.0, 2.0))
    if abs(moved) < 1e-200:
        assert (shifted.grad["w"].decimal[1] == "0").all()
        assert (shifted.grad["w"].radius[1] == 0.0).all()
    encloses(loss, x, w, [0], np.nextafter(1.0, 2.0), enclosure=shifted)


def test_at_the_bound_of_the_label() -> None:
    """1/2 - 3/2 = -1."""
    x, w = np.ones((1, 4)), np.eye(4)[:2]
    loss = refloss.UniFace(m=1.5, s=2.0)
    enclosure = enclose(loss, x, w, [0], 0.0)
    assert enclosure.notes == (f"row 0: the logit of class 0 {AT}",)
    assert enclosure.grad["w"].midpoint[0].any()
    beyond = enclose(loss, x, w, [0], 1e-300)
    assert not beyond.notes
    assert (beyond.grad["w"].decimal[0] == "0").all()
    for b, each in ((0.0, enclosure), (1e-300, beyond)):
        encloses(loss, x, w, [0], b, enclosure=each)


@pytest.mark.parametrize(("b", "cos"), [(-1.0, 0.5), (1.0, -0.5)])
def test_at_either_bound(b: float, cos: float) -> None:
    x, w = np.ones((1, 4)), np.array([[0.0, 0.0, 1.0, -1.0], [np.sign(cos), 0.0, 0.0, 0.0]])
    enclosure = enclose(refloss.UniFace(m=0.0, s=2.0), x, w, [0], b)
    assert enclosure.notes == (f"row 0: the logit of class 1 {AT}",)
    assert enclosure.grad["w"].midpoint[1, 1:].all()
    encloses(refloss.UniFace(m=0.0, s=2.0), x, w, [0], b, enclosure=enclosure)


def test_rows_are_named_as_they_came() -> None:
    x, w = np.ones((3, 4)), np.eye(4)[:2]
    notes = enclose(refloss.UniFace(m=1.5, s=2.0), x, w, [-100, 1, -100], 0.0).notes
    assert notes == (f"row 1: the logit of class 1 {AT}",)


def test_all_logits_beyond_their_bounds() -> None:
    """Exact zeros of all gradients."""
    x, w, y = cases.ordinary(random())
    enclosure = enclose(UNI, x, w, y, 1e3)
    for ball in enclosure.grad.values():
        assert (np.asarray(ball.decimal) == "0").all()
        assert (np.asarray(ball.radius) == 0.0).all()
    encloses(UNI, x, w, y, 1e3, enclosure=enclosure)


# ---------------------------------------------------------------------------------------------------------------- zeros


@pytest.mark.parametrize(
    ("loss", "inputs", "zeros"),
    [
        *((loss, cases.ordinary(random(), 3, 5, 1), {"x": ALL, "w": ALL}) for loss in LABELLED),  # D = 1
        (S2, MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (replace(S2, gradient="detached"), MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (UNI, MIRRORED, {"x": (0, 1), "w": (0, ALL)}),
        (S2, ([[1.0, 2.0]], [[3.0, 6.0], [-1.0, -2.0]], [0]), {"x": ALL, "w": ALL}),  # parallel and opposite
        (refloss.UniFace(m=0.0, s=1.0), (MIRRORED[0], [[-1.0, 1.0], [1.0, 3.0], [1.0, -3.0]], [0], 1.0), {"x": ALL}),
        (replace(S2, alpha=0.0), ([[1.0, 2.0]], [[3.0, 1.0]], [0], 0.0), {"value": (), "x": ALL, "w": ALL, "b": ()}),
        (SIGLIP, (np.eye(2), np.eye(2)[::-1], 10.0, 0.0), {"x": (np.arange(2), np.arange(2))}),
        (SIGLIP, (np.eye(2), [[1.0, 0.0], [-1.0, 0.0]], 10.0, 0.0), {"b": ()}),  # z and -z
        (SIGLIP, (np.ones((2, 2)), np.ones((2, 2)), 10.0, 0.0), {"x": ALL, "w": ALL}),
        (SIGLIP, (np.ones((2, 2)), [[1.0, -1.0], [1.0, -1.0]], 10.0, 0.0), {"t": (), "b": ()}),
        (NCE, ([[1.0, 2.0]], [[3.0, 1.0]], 10.0), {"value": (), "x": ALL, "w": ALL, "s": ()}),  # one pair
        (NCE, (np.ones((3, 2)), [[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]], 10.0), {"x": ALL, "w": ALL, "s": ()}),
        (NCE, ([[1.0, 2.0], [2.0, 4.0]], [[3.0, 6.0], [-1.0, -2.0]], 10.0), {"x": ALL, "w": ALL}),
        (refloss.InfoNCE(ways=1), ([[1.0, 2.0], [2.0, 3.0]], [[1.0, 1.0], [2.0, 2.0]], 10.0), {"x": ALL, "s": ()}),
    ],
    ids=lambda part: type(part).__name__,
)
def test_zeros_are_proven(loss: Any, inputs: Any, zeros: dict[str, Any]) -> None:
    enclosure = enclose(loss, *inputs)
    assert enclosure.bits < 1000
    assert not undecided(enclosure)
    for name, index in zeros.items():
        ball = enclosure.value if name == "value" else enclosure.grad[name]
        assert np.all(ball.midpoint[index] == 0.0), name
        assert np.all(ball.radius[index] == 0.0), name
        assert np.all(np.asarray(ball.decimal[index]) == "0"), name
        assert np.all(np.asarray(ball.decimal_radius[index]) == "0"), name
    encloses(loss, *inputs, enclosure=enclosure)


@pytest.mark.parametrize(
    "loss",
    [
        refloss.SphereFace2(m=0.0, s=2.0, t=1, alpha=0.5, weight=1.0),
        refloss.SphereFace2(m=0.5, s=2.0, t=2, alpha=0.5, reduction="none"),
        refloss.SphereFace2(m=0.0, s=2.0, t=3, alpha=0.25, gradient="detached", reduction="sum"),
        refloss.UniFace(m=0.0, s=1.0),
        refloss.UniFace(m=0.5, s=1.0, reduction="none"),
        SIGLIP,
        replace(SIGLIP, reduction="none"),
        NCE,
        replace(NCE, reduction="none"),
        refloss.InfoNCE(ways=1, reduction="sum"),
    ],
    ids=repr,
)
def test_no_proof_of_0_is_wrong(loss: Any) -> None:
    """Small integers, full of coincidences; every claim about every entry, asked for or not, against mpmath."""
    g, claims = random(1), 0
    for trial in range(10):
        x, w = (g.integers(-1, 3, shape).astype(float) for shape in ((3, 2), (3, 2)))
        x[:, 0] = w[:, 0] = np.where(g.random(3) < 0.5, -1.0, 1.0)  # no zero vectors
        b = float(trial % 3 - 1) / 2.0
        if isinstance(loss, refloss.SphereFace2 | refloss.UniFace):
            inputs: tuple[Any, ...] = (x, w, g.integers(0, 3, 3), b)
        else:
            inputs = (x, w, 2.0, *([b] if isinstance(loss, refloss.SigLIP) else []))
        upstream = g.integers(-1, 2, 3).astype(float) if loss.reduction == "none" else None
        call = loss._call(*inputs)
        problem = Problem(call.spec, call.arrays, np.array(1.0) if upstream is None else upstream)
        for name, true, noise in truths(loss, *inputs, upstream=upstream):
            for i in np.ndindex(true.shape):
                if problem.unknown[name][i] and problem.is_zero(name, i):
                    claims += 1
                    assert abs(true[i]) <= noise[i], f"{name}{list(i)} is {mp.nstr(true[i])}, not 0: {inputs}"
    assert claims


def test_slopes_of_the_power() -> None:
    """z_0 = -z_1 with tangents that are alike along axis 1: g' decides; and 1 + c of x·w = -x·x, as integers."""
    loss = refloss.SphereFace2(m=0.0, s=2.0, t=2, alpha=0.5)
    x, w = [[1.0, 0.0, 0.0, 0.0, 0.0]], [[1.0, 2.0, 2.0, 4.0, 0.0], [3.0, 2.0, 2.0, 2.0, 2.0]]
    for each, inputs, is_zero in (
        (loss, (x, w, [0]), False),
        (replace(loss, gradient="detached"), (x, w, [0]), True),
        (loss, ([[1.0, 0.0]], [[-(2.0**52), 1.0]], [0]), False),
    ):
        call = each._call(*inputs)
        assert Problem(call.spec, call.arrays, np.array(1.0)).is_zero("x", (0, 1)) == is_zero
        encloses(each, *inputs)


def test_what_is_almost_0_is_not_called_0() -> None:
    x, w, y = (np.array(part) for part in MIRRORED)
    w[1, 1] = np.nextafter(3.0, 4.0)
    for loss in (S2, UNI):
        enclosure = enclose(loss, x, w, y)
        assert enclosure.grad["x"].midpoint[0, 1] != 0.0
        encloses(loss, x, w, y, enclosure=enclosure)
    w = np.array([[1.0, 0.0], [-1.0, 1e-200]])
    enclosure = enclose(SIGLIP, np.eye(2), w, 10.0, 0.0)
    assert enclosure.grad["b"].midpoint != 0.0
    encloses(SIGLIP, np.eye(2), w, 10.0, 0.0, enclosure=enclosure, digits=700)
