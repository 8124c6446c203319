"""The formulas of the page on budgets are what the code computes: read from their TeX and evaluated (see support/tex).

Every displayed formula of docs/testing/budgets.md, budgets-more.md and budgets-family.md is bound to what a function of
`refloss.testing.errors` returns or, for what `refloss.testing.budgets` puts together, to what that passes on or
returns. Several formulas may make one result. As in test_formulas.py, both sides have to agree, and every formula that
is altered in a sign, a factor, a term, an index, a function or a condition has to disagree with some result.

Units are coarse here, so that no term is too small to be seen: u is 0.004, and numbers below 0.0007 are flushed to 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
from ml_dtypes import bfloat16
from mpmath import mp, mpf

import refloss
from refloss.error_free import Pair
from refloss.stages import angle, class_angles, margin, negatives, quality, softmax
from refloss.stages.softcap import Settings
from refloss.testing import budgets, check, errors
from refloss.testing.errors import Arithmetic, Head, Rows, Side, Triplets
from refloss.testing.errors import divergence as divergences
from support import tex
from support.sampled import chosen

PAGES = Path(__file__).parents[1] / "docs" / "testing"
PAGE = "".join((PAGES / f"budgets{part}.md").read_text() for part in ("", "-more", "-family"))
FORMULAS = dict(re.findall(r"\$\$\\label\{budget-([a-z0-9-]+)\}(.+?)\$\$", PAGE, re.DOTALL))
AGREES = mpf(2) ** -40  # what float64 rounds
DIFFERS = mpf(2) ** -20  # what lies between the two would be undecided, and fails
DIGITS = 25
N, C, D = 3, 4, 5
RANGES = {"n": N, "k": C, "j": C, "i": D, "a": 2}
COARSE = Arithmetic(u=0.004, accumulated=0.0023, factor=0.0061, smallest=0.0007)
FINE = COARSE._replace(u=0.0005, accumulated=0.0004)
OWN = 0.0017  # in the place of what the truth may be off by, which is far too small to be seen
STORED = {"stored": 0.03, "stored_smallest": 0.002}

Scopes = Callable[[np.random.Generator], Iterator[tex.Scope]]


class Bound(NamedTuple):
    """Formulas of the page that make some results, others that these need, and the results."""

    names: tuple[str, ...]
    needed: tuple[str, ...]
    scopes: Scopes


BOUND: list[Bound] = []
SYMMETRIC = "arguments exchanged"  # the largest or least of two, and a distance, are the same in either order
SECOND_CASE = ["0: factor 0 dropped", "0: factor 1 dropped", "0: upside down", "0: 1 + 1"]
"""Of a threshold, written a second time where the first case fails."""
EQUAL: dict[str, list[str]] = {  # other alterations that alter nothing
    "polynomial": ["0: sign of all"],  # r is a root of either sign
    "reach": ["1: cases exchanged"],  # of two sides
    "scale-length": ["0: sign of all", "0: twice all"],  # of 0
    "hard-slope": ["0: sign of all", "0: twice all"],  # of 0
    "others-nearest-slope": ["0: sign of all", "0: twice all"],  # of 0
    "circle-either": ["0: sign of all", "0: twice all"],  # of 0
    "circle-either-slope": ["0: sign of all", "0: twice all"],  # of 0
    "circle-others": ["0: sign of all"],  # of a number whose magnitude counts
    "answer-slope": ["0: sign of all"],  # of a slope that is even
    "beyond": [line.replace("0:", "1:") for line in SECOND_CASE],
    "lse-beyond": SECOND_CASE,
    "loss-working": ["0: sign of all", "0: twice all", "2: sign of all", "2: twice all", "2: 0 + 1"],  # of 0, and
    "directions-size": ["0: sign of all"],  # of a vector whose magnitudes count
    "psi-sample": ["0: factor 0 dropped"],  # of d_3, which is 1 inside of a rule
    "divisor": ["1: sign of all"],  # of a number whose magnitude counts
}


def _formulas(*names: str, needed: tuple[str, ...] = ()) -> Callable[[Scopes], Scopes]:
    def register(scopes: Scopes) -> Scopes:
        BOUND.append(Bound(names, needed, scopes))
        return scopes

    return register


def _exact(value: Any) -> Any:
    """Numbers of the code, as nested lists of mpf; none is rounded."""
    if isinstance(value, Pair):
        return _exact(value.hi) + _exact(value.lo)
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return [_exact(entry) for entry in value]
    return int(value) if isinstance(value, (int, np.integer)) else mpf(float(value))


def _scope(a: Arithmetic, values: Mapping[str, Any], choice: int = 0) -> tex.Scope:
    """Values of symbols, with those that belong to an arithmetic."""

    def lost(n: Any, terms: Any, whole: Any) -> Any:
        if isinstance(terms, list):
            return [lost(n, *entry) for entry in zip(terms, whole, strict=True)]
        return mpf(float(a.sum_error(float(n), np.float64(terms), np.float64(whole))))

    common = {
        "u": a.u,
        "v": a.accumulated,
        r"\rho": a.factor,
        r"\sigma": a.smallest,
        r"\tau": OWN,
        r"\kappa": (a.sum_of(D) / 2.0 + 1.0) * a.u,
        "u_b": a.between,
        "u_s": a.stored,
        r"\sigma_s": a.stored_smallest,
        "N": float(N),
        "C": float(C),
        "D": float(D),
        "R": lost,
    }
    values = {name: value if callable(value) else _exact(value) for name, value in (common | dict(values)).items()}
    return tex.Scope(values, RANGES, choice)


# ---------------------------------------------------------------------------------------------------------------- sums


@_formulas("sum")
def _(rng):
    for n, terms, whole in rng.uniform(0.5, 9.0, size=(4, 3)):
        values = {"n": n, "A": terms, "B": whole}
        yield _scope(COARSE, values)


UNIT = 2.0**-24  # u of float32
ABOVE = float(np.nextafter(np.float32(UNIT), np.float32(1.0)))  # u (1 + ε), the number after u


def _added_up(terms: Any) -> mpf:
    """The sum in float32, one after the other."""
    return mpf(float(np.add.accumulate(np.asarray(terms, dtype=np.float32))[-1]))


def _witness(n: int, term: float) -> mpf:
    """Relative error in float32 of the sum of 1 and n such terms."""
    exact = 1 + n * mpf(term)
    return (_added_up([1.0, *[term] * n]) - exact) / exact


@_formulas("witness")
def _(rng):
    for n in (10, 1000, 100_000, 3_000_000):
        for term in (ABOVE, UNIT * float(np.float32(rng.uniform(1.1, 1.4))), UNIT * 1.5):
            values = {"left": _witness(n, term), "n": n, "u": UNIT, r"\varepsilon": term / UNIT - 1.0}
            yield tex.Scope({name: mpf(value) for name, value in values.items()})


@pytest.mark.parametrize("n", [10, 1000, 100_000])
def test_a_sum_may_lose_as_many_units_as_it_has_terms(n):
    assert 0.9 * n * UNIT < _witness(n, ABOVE) <= n * UNIT


@pytest.mark.parametrize("n", [2, 10, 1000, 4097, 100_000])
def test_equal_terms_lose_half_as_many_at_most(n):
    terms = [1.0, 0.1, np.pi, *np.random.default_rng(n).uniform(1.0, 2.0, size=60)]
    for term in np.asarray(terms, dtype=np.float32):
        exact = n * mpf(float(term))
        assert abs(_added_up(np.full(n, term)) - exact) <= (n / 2.0 + 1.0) * UNIT * exact


@_formulas("length")
def _(rng):
    for u, v in rng.uniform(0.001, 0.01, size=(3, 2)):
        yield _scope(COARSE._replace(u=u, accumulated=v), {})


# ------------------------------------------------------------------------------------------------------- cosine, angle


def _units(rng: np.random.Generator, rows: int) -> Any:
    v = rng.normal(size=(rows, D))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def _head(**fields: Any) -> Head:
    """What a formula asks a head for; all else is None, and nothing can be computed with it."""
    return Head(**(dict.fromkeys(Head._fields) | fields))


@_formulas("cosine")
def _(rng):
    x, w = _units(rng, N), _units(rng, C)
    c = x @ w.T
    bound = errors.cosine_error(_head(x=x, w=w, c=c), COARSE)
    for n in range(N):
        for k in range(C):
            yield _scope(COARSE, {r"\Delta c": bound[n, k], r"\hat x": x[n], r"\hat w": w[k], "c": c[n, k]})


def _exact_unit(v: Any) -> list[mpf]:
    return [entry / mp.norm(_exact(v)) for entry in _exact(v)]


@_formulas("angle-atan2")
def _(rng):
    x, w = rng.normal(size=(N, D)), rng.normal(size=(N, D))
    theta = angle.forward(x, w)[0].theta
    for n in range(N):
        values = {r"\theta": mpf(theta.hi[n]) + mpf(theta.lo[n])}
        yield tex.Scope(values | {r"\hat x": _exact_unit(x[n]), r"\hat w": _exact_unit(w[n])}, RANGES)


@_formulas("angle")
def _(rng):
    for theta in (0.0, 0.01, 0.4, *rng.uniform(0.5, 2.5, size=3), 3.0, 3.14):
        bound = errors.angle_error(np.float64(theta), COARSE.sum_of(D), COARSE)
        yield _scope(COARSE, {r"\Delta \theta": bound, r"\theta": theta})


@_formulas("arccos")
def _(rng):
    for theta in (0.01, *rng.uniform(0.5, 2.5, size=3), 3.13):
        off = rng.uniform(0.01, 0.02)
        bound = errors.arccos_error(np.float64(theta), np.float64(off))
        yield _scope(COARSE, {r"\Delta \theta_c": bound, r"\Delta c": off, r"\theta": theta})


# -------------------------------------------------------------------------------------------------------------- margin

BY_ANGLE, ON_COSINE, POLYNOMIAL = range(3)
SMOOTH = [
    (BY_ANGLE, margin.Settings(1.35, 0.45, 0.2)),
    (BY_ANGLE, margin.Settings(0.8, 0.5, 0.1, annealing=0.7)),
    (BY_ANGLE, margin.Settings(0.9, -0.4, -0.3)),
    (ON_COSINE, margin.Settings(m3=0.35)),
    (ON_COSINE, margin.Settings(m3=-0.4)),
    (ON_COSINE, margin.Settings(m3=0.2, annealing=1.5)),
    (POLYNOMIAL, margin.Settings(3.0, 0.0, 0.1, annealing=0.7)),
    (POLYNOMIAL, margin.Settings(4.0)),
]
KINKS = (4.5, 5.5, 7.0, 11.0, 15.0)  # annealing, down to where no kink is left to see
EDGES = [  # with the angle of the boundary
    (BY_ANGLE, margin.Settings(1.0, 0.5, 0.1, "keep"), np.pi - 0.5),
    (BY_ANGLE, margin.Settings(1.3, 0.5, 0.0, "hard"), (np.pi - 0.5) / 1.3),
    (BY_ANGLE, margin.Settings(1.0, 0.5, 0.0, "easy"), np.pi / 2.0),
    (BY_ANGLE, margin.Settings(1.0, 0.5, 0.0, "continuous"), np.pi - 0.5),
    *[(BY_ANGLE, margin.Settings(1.0, 0.5, 0.0, "continuous", annealing=weight), np.pi - 0.5) for weight in KINKS],
    (ON_COSINE, margin.Settings(m3=float(np.cos(3.13)), boundary="conditional"), 3.13),  # within reach of π, or of 0
    (BY_ANGLE, margin.Settings(1.0, np.pi - 0.01, 0.0, "keep"), 0.01),
    (ON_COSINE, margin.Settings(m3=0.35, boundary="conditional"), np.arccos(0.35)),
    (POLYNOMIAL, margin.Settings(3.0, 0.0, 0.0, "keep", annealing=0.7), np.pi / 3.0),
]


def _curve(settings: margin.Settings, what: str, here: float) -> Callable[[Any], mpf]:
    """ψ or ψ', of the angle in a bracket, or of the sample's where no bracket follows."""
    curve = getattr(margin.curve_of(settings._replace(gradient="exact")), what)

    def at(theta: Any) -> mpf:
        place = here if isinstance(theta, Mapping) else float(theta)
        (value,) = _exact(curve(margin.turned(angle.of(np.array([place])), settings)).hi)
        return value

    return at


def _at(
    settings: margin.Settings, theta: float, off: float, a: Arithmetic
) -> tuple[dict[str, Any], errors.TargetError]:
    """What is known of a target, and the errors of its curve."""
    bound = errors.margin_error(_head(x=np.ones((1, D)), theta=np.array([theta])), settings, np.array([off]), a)
    values = {
        r"\psi": _curve(settings, "psi", theta),
        r"\psi'": _curve(settings, "slope", theta),
        r"\theta": theta,
        "c": np.cos(theta),
        r"\Delta c": off,
        r"\Delta \theta": errors.angle_error(np.float64(theta), a.sum_of(D), a),
        r"\Delta \theta_c": errors.arccos_error(np.float64(theta), np.float64(off)),
        "m": settings.m1,
        "m_1": settings.m1,
        "m_2": settings.m2,
        "m_3": settings.m3,
        r"\lambda": settings.annealing,
    }
    return values, bound


CURVE = ("bend", "polynomial", "psi-angle", "psi-cosine", "psi-polynomial", "psi")
SLOPE = ("bend", "polynomial", "steepness", "steepness-angle", "steepness-polynomial", "of-steepness")


def _smooth(rng: np.random.Generator) -> Iterator[tuple[int, dict[str, Any], errors.TargetError]]:
    for kind, settings in SMOOTH:
        for theta in (0.3, 1.4, *rng.uniform(0.6, 2.5, size=2)):
            for off in (FINE.u / 8.0, 0.03, 0.9):
                yield kind, *_at(settings, theta, off, FINE)


def _edges() -> Iterator[tuple[int, dict[str, Any], errors.TargetError]]:
    """On both sides of a boundary, from well within reach to just out of it."""
    for kind, settings, edge in EDGES:
        reach = float(4.0 * errors.angle_error(np.float64(edge), FINE.sum_of(D), FINE))
        for share in (0.05, 0.5, 0.8, 0.9, 0.95, 0.97, 0.99, 1.01):
            for side in (-1.0, 1.0):
                theta = edge + side * share * reach
                if 0.0 <= theta <= np.pi:
                    yield kind, *_at(settings, theta, FINE.u / 8.0, FINE)


@_formulas(*CURVE)
def _(rng):
    for kind, values, bound in _smooth(rng):
        yield _scope(FINE, {**values, "J": 0.0, r"\Delta \psi": bound.psi[0]}, kind)


@_formulas("reach", "leap", "jump", "psi", needed=CURVE[:-1])
def _(rng):
    del rng
    for kind, values, bound in _edges():
        yield _scope(FINE, {**values, r"\Delta \psi": bound.psi[0]}, kind)


@_formulas("steepness")
def _(rng):
    for settings in (margin.Settings(1.3, 0.45, 0.2), margin.Settings(3.0)):
        for theta in (1e-4, *rng.uniform(0.0, np.pi, size=4)):
            values, bound = _at(settings, theta, 0.01, FINE)
            yield _scope(FINE, {**values, "q": bound.steepness[0]})


@_formulas(*SLOPE)
def _(rng):
    for kind, values, bound in _smooth(rng):
        if kind != ON_COSINE:
            yield _scope(FINE, {**values, "K": 0.0, r"\Delta q": bound.of_steepness[0]}, kind // POLYNOMIAL)


@_formulas("kink", "of-steepness", needed=(*SLOPE[:-1], "reach", "leap"))
def _(rng):
    del rng
    for kind, values, bound in _edges():
        if kind != ON_COSINE and bound.of_steepness[0] < errors.UNKNOWN:
            yield _scope(FINE, {**values, r"\Delta q": bound.of_steepness[0]}, kind // POLYNOMIAL)


@pytest.mark.parametrize("m", range(2, errors.POLYNOMIALS + 1))
def test_horner_rounds_the_terms_of_a_polynomial_less_than_is_granted(m):
    coefficients = np.abs(np.polynomial.chebyshev.cheb2poly(np.eye(m + 1)[m]))
    power = np.arange(m + 1)
    for c in np.linspace(0.0, 1.0, 21):
        value, slope = errors.polynomial_error(float(m), np.array(c))
        assert (1.5 * power * coefficients * c**power).sum() <= value
        assert (1.5 * (power * coefficients)[1:] * power[:-1] * c ** power[:-1]).sum() <= slope


def test_the_slope_of_a_margin_on_the_cosine_has_four_units():
    for settings in (margin.Settings(m3=0.3), margin.Settings(1.0, 0.5, gradient="detached")):
        _, bound = _at(settings, 1.0, 0.01, FINE)
        assert (bound.steepness, bound.of_steepness) == (1.0, 4.0 * FINE.u)


@pytest.mark.parametrize("theta", [0.0, 1e-3, np.pi - 1e-3])
def test_a_target_whose_sine_is_within_twice_its_error_has_no_direction(theta):
    values, bound = _at(margin.Settings(1.0, 0.5), theta, 0.01, FINE)
    assert np.sin(theta) <= 2.0 * values[r"\Delta \theta"]
    assert bound.of_steepness[0] == errors.UNKNOWN


# ------------------------------------------------------------------------------------------- logits, what is multiplied


class Spied(NamedTuple):
    """Calls of functions in the course of a budget: arguments and results, by name."""

    calls: dict[str, list[tuple[tuple[Any, ...], Any]]]
    value: Any
    allowed: dict[str, Any]

    def arguments(self, name: str) -> tuple[Any, ...]:
        return self.calls[name][0][0]

    def result(self, name: str) -> Any:
        return self.calls[name][0][1]


def _spied(loss: Any, inputs: Any, a: Arithmetic, upstream: Any = None) -> Spied:
    calls: dict[str, list[tuple[tuple[Any, ...], Any]]] = {}

    def spy(name: str) -> Callable[..., Any]:
        function = getattr(budgets, name)

        def called(*arguments: Any) -> Any:
            result = function(*arguments)
            calls.setdefault(name, []).append((arguments, result))
            return result

        return called

    names = ("cosine_error", "margin_error", "cross_entropy_error", "normalize_error")
    names = (*names, "softcap_error", "log_sum_exp_error", "_with_options")
    with patch.multiple(budgets, TRUTH=OWN, **{name: spy(name) for name in names}):
        value, allowed = budgets.bounds(loss, inputs, a, upstream)
    return Spied(calls, value, allowed)


def _margins(rng: np.random.Generator) -> Iterator[tuple[int, Spied]]:
    for choice, loss in enumerate((refloss.ArcFace(s=3.0, m=0.4), refloss.ASoftmax(m=2.0))):
        inputs = rng.normal(size=(N, D)), rng.normal(size=(C, D)), rng.permutation(C)[:N]
        yield choice, _spied(loss, inputs, COARSE, 0.7)


@_formulas("scale-length", "logits")
def _(rng):
    for choice, spied in _margins(rng):
        (head, _), of_f = spied.calls["cosine_error"][0]
        of_f = np.where(np.arange(C) == head.y[:, None], spied.result("margin_error").psi[:, None], of_f)
        _, of_z, _ = spied.arguments("cross_entropy_error")
        for n in range(N):
            for k in range(C):
                values = {r"\Delta z": of_z[n, k], r"\Delta f": of_f[n, k], "f": head.f[n, k], "s": head.scale[n]}
                yield _scope(COARSE, values, choice)


@_formulas("scale-length", "weighted", "upstream")
def _(rng):
    for choice, spied in _margins(rng):
        rows, _, _ = spied.arguments("cross_entropy_error")
        head, *_ = spied.arguments("margin_error")
        _, of_g = spied.result("cross_entropy_error")
        target = spied.result("margin_error")
        _, upward, of_upward, *_ = spied.arguments("normalize_error")
        for n in range(N):
            q, of_q = np.ones(C), np.zeros(C)
            q[head.y[n]], of_q[head.y[n]] = target.steepness[n], target.of_steepness[n]
            values = {"a": upward[n], r"\Delta a": of_upward[n], "s": head.scale[n], "q": q, r"\Delta q": of_q}
            values |= {r"\beta": 0.7 / N, "g": rows.g[n], r"\Delta g": of_g[n]}
            yield _scope(COARSE, values, choice)


WEIGHTS = (0.4, -0.7, 0.0)  # upstream gradients of rows


def _linear(rng: np.random.Generator) -> Iterator[tuple[Any, Spied, Arithmetic]]:
    for between in (0.0, 0.003):
        x, w, b = rng.normal(size=(N, D)), rng.normal(size=(C, D)), rng.normal(size=C)
        x[0, 1:], x[1, :2], w[:, 2], w[0, 3] = 0.0, 0.0, 0.0, 0.0
        a = COARSE._replace(between=between, stored_smallest=0.0011 if between else 0.0)
        inputs = x, w, rng.permutation(C)[:N], b
        yield inputs, _spied(refloss.SoftmaxLoss(reduction="none"), inputs, a, np.array(WEIGHTS)), a


@_formulas("linear-terms", "linear")
def _(rng):
    for (x, w, _, b), spied, a in _linear(rng):
        rows, of_z, _ = spied.arguments("cross_entropy_error")
        for n in range(N):
            for k in range(C):
                yield _scope(a, {"x": x[n], "w": w[k], "b": b[k], "z": rows.z[n, k], r"\Delta z": of_z[n, k]})


@_formulas("weighted", "between", "linear-x-terms", "linear-x")
def _(rng):
    for (_, w, _, _), spied, a in _linear(rng):
        rows, _, _ = spied.arguments("cross_entropy_error")
        _, of_g = spied.result("cross_entropy_error")
        for n in range(N):
            values = {r"\beta": WEIGHTS[n], "b": 0.7, "g": rows.g[n], r"\Delta g": of_g[n], "G": WEIGHTS[n] * rows.g[n]}
            for i in range(D):
                of_x = {"w": w[:, i], r"\ell": np.linalg.norm(w, axis=1), r"\Delta x": spied.allowed["x"][n, i]}
                yield _scope(a, values | of_x)


# ------------------------------------------------------------------------------------------------------- cross entropy

ROW = ("gaps", "several", "beyond", "moved", "moved-loss", "loss-evaluated", "loss-working", "loss-several", "loss")
ROW = (*ROW, "probability", "gradient-evaluated", "maximum", "gradient")


def _rows(rng: np.random.Generator) -> Iterator[tuple[Rows, Any, Arithmetic]]:
    """Rows with one target or several, whose logits are off by little or by much, in coarse units or fine ones."""
    tiny = Arithmetic(u=2e-6, accumulated=1e-6, factor=0.0, smallest=1e-7)
    one, two = rng.uniform(0.5, 2.0, size=C) * np.eye(C)[2], np.array([0.0, 0.7, 0.4, 0.0])
    ordinary, beside = rng.uniform(0.01, 0.3, size=C), np.array([0.3, 0.1, 0.15, 0.2])
    for t in (one, two):
        for z, dz in (
            (rng.normal(size=C) * 2.0, ordinary),
            (rng.normal(size=C) - 6.0, ordinary),
            (np.array([1.0, 0.55, 0.25, -1.0]), beside),  # 1.5 and 2.5 errors below the largest
            (np.array([1.0, 7.0, -12.0, 2.0]), ordinary),
            (np.array([1.0, 3.0, 11.0, 2.0]), ordinary),  # a confident target
            (np.array([0.3, 5.0, -4.0, 2.5]) + 10_500.0, ordinary),  # whose logsumexp is not known at all
            (np.array([0.3, 1.0, 0.5, 0.8]), np.full(C, 0.0009995)),
            (np.array([0.3, 1.0, 0.5, 0.8]), np.full(C, 0.0015)),
            (np.array([0.3, 1.0, 0.5, 0.8]), np.full(C, 20.3)),
            (np.array([0.3, 1.0, 0.5, 0.8]), np.array([1.0, 174.6, 2.0, 3.0])),
            (np.array([0.3, 1.0, 0.5, 0.8]), np.array([1.0, 175.4, 2.0, 3.0])),
        ):
            for a in (COARSE, tiny):
                p, saved = softmax.forward(Pair.of(z[None]))
                yield Rows(z[None], p, saved.q, t[None], -np.log(p)), dz[None], a


def _entropies(rng: np.random.Generator, standards: tuple[str, ...]) -> Iterator[tex.Scope]:
    for rows, dz, a in _rows(rng):
        for standard in standards:
            of_loss, of_g = errors.cross_entropy_error(rows, dz, a._replace(log_p=standard))
            values = {"z": rows.z[0], "p": rows.p[0], "q": rows.q[0], "t": rows.t[0], r"\Delta z": dz[0]}
            values |= {"T": rows.total[0, 0], "L": rows.loss[0], "g": rows.g[0]}
            values[r"\gamma"] = rows.z[0].max() - rows.z[0]  # as vectors
            name = r"\Delta g'" if standard == "relative" else r"\Delta g"
            values |= {r"\Delta L": of_loss[0], name: of_g[0]}
            yield _scope(a, values, ("stable", "working", "relative").index(standard))


@_formulas(*ROW)
def _(rng):
    yield from _entropies(rng, ("stable", "working"))


@_formulas("largest-gap", "loss", "gradient-relative", needed=ROW)
def _(rng):
    yield from _entropies(rng, ("relative",))


@pytest.mark.parametrize("standard", ["stable", "relative"])
def test_of_one_finite_logit_only_the_smallest_number_is_left(standard):
    z, t = np.array([[-np.inf, 3.0, -np.inf]]), np.array([[0.0, 1.0, 0.0]])
    p, saved = softmax.forward(Pair.of(z))
    bound = errors.cross_entropy_error(
        Rows(z, p, saved.q, t, np.where(p > 0.0, 0.0, np.inf)), 0.1 * np.isfinite(z), COARSE._replace(log_p=standard)
    )
    assert all((entry == COARSE.smallest).all() for entry in bound)


@_formulas("reduction")
def _(rng):
    for reduction, weight, own in (("mean", 1.0 / N, None), ("sum", 1.0, None), ("mean", -0.5 / N, (-2.0,) * C)):
        inputs = rng.normal(size=(N, C)), rng.permutation(C)[:N]
        spied = _spied(refloss.CrossEntropy(reduction=reduction, class_weight=own), inputs, COARSE)
        rows, _, _ = spied.arguments("cross_entropy_error")
        of_loss, _ = spied.result("cross_entropy_error")
        values = {r"\Delta \mathcal L": spied.value, r"\omega": weight, r"\Delta L": of_loss, "L": rows.terms}
        yield _scope(COARSE, values)


@_formulas("divisor")
def _(rng):
    for signs in ((1.0, -1.0, 1.0), (-1.0, -1.0, 1.0)):
        own = np.array(signs) * [1.0, 0.5, 0.25]
        yield _scope(COARSE, {r"\ell": own, "N": 3.0, r"\zeta'": budgets.divisor_error(own, COARSE)})


# ---------------------------------------------------------------------------------------------------------- directions

DIRECTIONS = ("size", "most", "passed", "product", "projection", "quotient")


@_formulas(*(f"directions-{name}" for name in DIRECTIONS), "directions")
def _(rng):
    own, other, lengths = _units(rng, 3 * N), _units(rng, C), rng.uniform(0.5, 2.0, size=3 * N)
    upstream, of_upstream = rng.normal(size=(3 * N, C)), rng.uniform(0.01, 0.2, size=(3 * N, C))
    cosines = own @ other.T
    bound = errors.normalize_error(Side(own, other, cosines, lengths), upstream, of_upstream, OWN, COARSE)
    for n in range(len(own)):
        values = {"a": upstream[n], r"\Delta a": of_upstream[n], "c": cosines[n], r"\Delta x": bound[n]}
        yield _scope(COARSE, {**values, "x": own[n], r"\ell": lengths[n], "w": other})


@_formulas("chords")
def _(rng):
    x, w = _units(rng, N), _units(rng, N)
    theta, saved = angle.forward(x, w)
    dx, _ = angle.backward(np.ones(N), saved)
    for n in range(N):
        values = {r"\theta": theta.theta.hi[n], "x": x[n], "w": w[n]}
        yield _scope(COARSE, {**values, r"\partial \theta/\partial x": dx[n]})


@_formulas("chord-terms", "chord")
def _(rng):
    x, w, y = _units(rng, N), _units(rng, C), rng.permutation(C)[:N]
    theta, most, unknown = np.array([0.4, 0.002, 2.0]), rng.uniform(0.5, 2.0, size=N), np.array([False, True, True])
    for m1 in (0.7, 1.6):
        head = _head(x=x, w=w, theta=theta, y=y)
        bound = errors.chord_error(head, margin.Settings(m1, 0.3), most, unknown, COARSE)
        for n in range(N):
            values = {"m_1": m1, "x": x[n], "w": w[y[n]], r"\theta": theta[n], "e": most[n]}
            yield _scope(COARSE, {**values, "o": float(unknown[n]), r"\Delta t": bound[n]})


@_formulas("scale")
def _(rng):
    g, f = rng.normal(size=(2, N, C))
    of_g, of_f = rng.uniform(0.01, 0.2, size=(2, N, C))
    bound = errors.scale_error(g, of_g, _head(x=_units(rng, N), f=f), of_f, OWN, COARSE)
    for n in range(N):
        values = {"G": g[n], r"\Delta G": of_g[n], "f": f[n], r"\Delta f": of_f[n]}
        yield _scope(COARSE, {**values, r"\Delta s": bound[n, 0]})


# ------------------------------------------------------------------------------------ margins of samples, hard classes


def _lengths() -> Iterator[tuple[quality.Settings, Any, errors.Held]]:
    """Bounds, lengths between, beside and beyond them, and what is known of these."""
    for offset, factor in ((Fraction(-1), Fraction(1, 8)), (Fraction(1, 2), Fraction(1, 16))):
        settings = quality.Settings(Fraction(3), Fraction(11), offset, factor, 1.7)
        length = np.array([1.0, 2.99, 3.02, 5.0, 8.5, 10.99, 11.01, 14.0])
        yield settings, length, errors.quality_error(length, settings, COARSE.sum_of(D), COARSE)


@_formulas("held")
def _(rng):
    for settings, _, held in _lengths():
        alpha, beta = float(settings.offset), float(settings.factor)
        for a, of_v in zip(held.a, held.of_v, strict=True):
            values = {"k": held.kappa, "a": a, r"\beta": beta, r"\alpha": alpha, r"\nu": alpha + beta * a}
            yield _scope(COARSE, {**values, r"\Delta \nu": of_v})


@_formulas("sample-margin")
def _(rng):
    for b2, b3, m2, m3 in ((0.3, 0.0, 0.5, 0.0), (-0.4, 0.4, 0.0, 0.3), (0.2, -0.7, 0.1, 0.6)):
        settings = margin.Settings(1.0, m2, m3, by_quality=(Fraction(b2), Fraction(b3)))
        number, of_v = rng.uniform(-1.0, 1.0, size=(2, N))
        found = errors.margins_error(quality.given(number), np.abs(of_v), settings, COARSE)
        for n in range(N):
            for b, m, error in ((b2, m2, found.of_m2[n]), (b3, m3, found.of_m3[n])):
                values = {"b": b, "m": m, r"\nu": number[n], r"\Delta \nu": abs(of_v[n]), r"\Delta m": error}
                if b:
                    yield _scope(COARSE, values)


@_formulas("turned-sample", "psi-sample", "number")
def _(rng):
    for m1, b2, b3 in ((1.0, 0.3, 0.5), (0.7, -0.4, 0.2), (1.6, 0.5, -0.3)):
        settings = margin.Settings(m1, 0.2, 0.3, by_quality=(Fraction(b2), Fraction(b3)))
        for theta, number, of_m2, of_m3 in rng.uniform(0.3, 1.2, size=(4, 4)) * (1.0, 1.0, 0.01, 0.01):
            margins = errors.SampleMargins(quality.given(np.array([number])), np.array([of_m2]), np.array([of_m3]))
            head = _head(x=np.ones((1, D)), theta=np.array([theta]))
            found = errors.margin_error(head, settings, np.array([FINE.u / 8.0]), FINE, margins)
            own = margin.at(settings, margins.v)
            curve, here = margin.curve_of(own), margin.turned(angle.of(np.array([theta])), settings, margins.v)
            psi, slope, d2, d3 = (float(getattr(curve, part)(here).hi[0]) for part in margin.Curve._fields)
            values = {r"\psi": psi, r"\psi'": slope, "d_2": d2, "d_3": d3, r"\theta": theta, "B": max(1.0, m1**2)}
            values |= {
                "m_1": m1,
                "m_2": abs(0.2 + b2 * number),
                "m_3": abs(0.3 + b3 * number),
                "n": abs(b2 * d2 + b3 * d3),
            }
            values |= {"b_2": b2, "b_3": b3, r"\Delta m_2": of_m2, r"\Delta m_3": of_m3}
            values |= {r"\Delta \theta": errors.angle_error(np.float64(theta), FINE.sum_of(D), FINE)}
            yield _scope(FINE, {**values, r"\Delta \psi": found.psi[0], r"\Delta n": found.of_by_v[0]})


@_formulas("length-gradient", "regularizer")
def _(rng):
    for settings, length, held in _lengths():
        by_v, of_by_v, weights = rng.uniform(0.2, 1.5, size=(3, len(length)))
        bound = errors.length_error(held, settings, by_v, of_by_v, -weights, OWN, COARSE)
        terms, of_terms = errors.regularizer_error(held, settings, OWN, COARSE)
        for n in range(len(length)):
            values = {
                "G": by_v[n],
                r"\Delta G": of_by_v[n],
                "g": -weights[n],
                "a": held.a[n],
                "U": 11.0,
                "k": held.kappa,
            }
            values |= {r"\beta": float(settings.factor), r"\lambda": settings.regularizer, r"\Delta t": bound[n]}
            values |= {
                "i": float(held.reached[n]),
                "o": float(held.undecided[n]),
                "r": terms[n],
                r"\Delta r": of_terms[n],
            }
            yield _scope(COARSE, values)


def test_a_detached_quality_has_no_part_in_the_gradient_of_the_length():
    for settings, length, held in _lengths():
        one = np.ones(len(length))
        detached = settings._replace(detached=True, regularizer=0.0)
        assert not errors.length_error(held, detached, one, one, one, OWN, COARSE).any()


@_formulas("threshold-angle", "threshold")
def _(rng):
    for choice, settings in (
        (0, margin.Settings(m2=0.4, m3=0.2)),
        (0, margin.Settings(m2=0.9)),
        (1, margin.Settings(m3=0.3)),
    ):
        for theta in rng.uniform(0.4, 2.8, size=4):
            for off in (FINE.u, 0.05):
                head = _head(x=np.ones((1, D)), theta=np.array([theta]))
                tau, of_tau = errors.threshold_error(head, settings, np.array([off]), FINE)
                values = {r"\theta": theta, "m_2": settings.m2, "m_3": settings.m3, "S": np.sin(theta + settings.m2)}
                values |= {r"\Delta \theta": errors.angle_error(np.float64(theta), FINE.sum_of(D), FINE), "T": tau[0]}
                values |= {
                    r"\Delta \theta_c": errors.arccos_error(np.float64(theta), np.float64(off)),
                    r"\Delta c": off,
                }
                yield _scope(FINE, {**values, r"\Delta T": of_tau[0]}, choice)


def _hard(rule: str) -> Iterator[tex.Scope]:
    """Classes that are hard, that are not, and that may be either, with slopes of both signs."""
    for t in (0.3, 0.9) if rule == "reweighted" else (-0.3, 0.9):
        c = np.array([[-0.6, -0.2, 0.1, 0.55, 0.8]])
        of_c = np.full(c.shape, 0.021)
        for choice, tau in enumerate((0.9, -0.9, None)):
            place = np.array([0.1 if tau is None else tau])
            reach = np.array([0.01]) if tau is not None else np.array([3.0])
            found = errors.negatives_error(c, of_c, (place, reach), negatives.Settings(rule, t), COARSE)
            for k in range(c.shape[1]):
                values = {"c": c[0, k], r"\Delta c": of_c[0, k], "t": t}
                values |= {r"\Delta \eta": found.eta[0, k], r"\Delta \eta'": found.of_slope[0, k]}
                yield _scope(COARSE, values, choice)


@_formulas("curricular", "curricular-error", "hard", "hard-slope")
def _(rng):
    yield from _hard("curricular")


@_formulas("reweighted", "hard", "hard-slope")
def _(rng):
    yield from _hard("reweighted")


# --------------------------------------------------------------------------------------------- angles of other classes

OTHERS = [(class_angles.Settings("divided", m), 0) for m in (1.5, 4.0)]
OTHERS += [(class_angles.Settings("nearest", m, 1), 1) for m in (0.3, 2.5)]


def _others(settings: class_angles.Settings, theta: float, off: float, either: bool = False) -> dict[str, Any]:
    """What is known of another class, and the errors of its curve."""
    one, no, yes = np.array([[theta]]), np.array([[False]]), np.array([[True]])
    others = errors.Others(one, np.cos(one), yes, yes if either else no)
    found, turned = errors.class_angles_error(others, np.array([[off]]), settings, FINE.sum_of(D), FINE)
    of_theta = errors.angle_error(np.float64(theta), FINE.sum_of(D), FINE)
    divided = settings.rule == "divided"
    return {
        r"\theta": theta,
        r"\Delta \theta": of_theta,
        "c": np.cos(theta),
        r"\Delta c": off,
        "m_1": 1.0 / settings.m if divided else 1.0,
        "m_2": 0.0 if divided else settings.m,
        "o": float(np.sin(theta) <= 2.0 * of_theta),
        "q": found.slope[0, 0],
        "E": found.eta[0, 0],
        "F": found.of_slope[0, 0],
        "K": turned.chords[0, 0],
        "U": turned.unknown[0, 0],
    }


@_formulas("others", "others-terms", "others-chords")
def _(rng):
    for settings, choice in OTHERS:
        for theta in (2e-4, 1e-3, *rng.uniform(0.1, 3.0, size=4), 3.14):
            values = _others(settings, theta, 0.01)
            yield _scope(FINE, {name: values[name] for name in values.keys() - {"E", "F"}}, choice)


@_formulas("others-share", "others-error", "others-slope", needed=("others",))
def _(rng):
    for settings, choice in OTHERS:
        for theta in (0.1, *rng.uniform(0.4, 2.7, size=3), 2.9, 3.05):
            for off in (FINE.u, 0.05):
                values = _others(settings, theta, off)
                yield _scope(FINE, {name: values[name] for name in values.keys() - {"K", "U"}}, choice)


@_formulas("others-nearest", "others-nearest-slope", needed=("others",))
def _(rng):
    settings = class_angles.Settings("nearest", 0.3, 1)
    for theta in (0.1, *rng.uniform(0.4, 2.7, size=3)):
        for off in (0.03, 0.4):
            values = _others(settings, theta, off)
            either = _others(settings, theta, off, either=True)
            for choice, found in enumerate((None, values, either)):
                results = (off, 0.0) if found is None else (found["E"], found["F"])
                more = dict(zip((r"\Delta \eta", r"\Delta q"), results, strict=True))
                yield _scope(FINE, {name: values[name] for name in values.keys() - {"K", "U"}} | more, choice)


@_formulas("others-gradient")
def _(rng):
    own, other, lengths = _units(rng, N), _units(rng, C), rng.uniform(0.5, 2.0, size=N)
    chords, unknown, most = np.abs(rng.normal(size=(3, N, C)))
    turned = errors.Turned(chords, unknown, chords > 0.0)
    bound = errors.turned_error(Side(own, other, own @ other.T, lengths), turned, most)
    turned_back = errors.turned_error(Side(own, other, own @ other.T, lengths), turned.of_w.of_w, most)
    assert (bound == turned_back).all()
    for n in range(N):
        values = {"K": chords[n], "U": unknown[n], "e": most[n], "x": own[n], "w": other, r"\ell": lengths[n]}
        yield _scope(COARSE, {**values, r"\Delta t": bound[n]})


def test_other_classes_that_are_far_have_the_error_of_their_cosine():
    c = np.array([[0.9, 0.8, 0.6, 0.3, 0.75]])
    others = errors.others_of(np.ones((1, 2)), np.ones((5, 2)), c, np.full(c.shape, 0.06), np.array([0]), _TWO)
    assert others.chosen.tolist() == [[False, True, False, False, True]]
    assert others.either.tolist() == [[False, False, False, False, False]]
    wide = errors.others_of(np.ones((1, 2)), np.ones((5, 2)), c, np.full(c.shape, 0.08), np.array([0]), _TWO)
    assert wide.either.tolist() == [[False, False, True, False, True]]
    found, turned = errors.class_angles_error(others, np.full(c.shape, 0.06), _TWO, FINE.sum_of(D), FINE)
    for k in (0, 2, 3):
        assert (found.eta[0, k], found.slope[0, k], found.of_slope[0, k]) == (0.06, 1.0, 0.0)
        assert turned.chords[0, k] == turned.unknown[0, k] == 0.0


_TWO = class_angles.Settings("nearest", 0.3, 2)


def test_a_detached_curve_of_other_classes_has_no_gradient_through_its_angle():
    theta = np.array([[0.0, 1.0, np.pi]])
    others = errors.Others(theta, np.cos(theta), theta > -1.0, theta < -1.0)
    detached = class_angles.Settings("divided", 1.5, gradient="detached")
    found, turned = errors.class_angles_error(others, np.full((1, 3), 0.01), detached, FINE.sum_of(D), FINE)
    assert (found.slope == 1.0).all()
    assert (found.of_slope == 4.0 * FINE.u).all()
    assert not any(part.any() for part in turned)


# --------------------------------------------------------------------------------------------------------- circle loss


@_formulas("circle-target", "circle-steepness", "circle-of-steepness")
def _(rng):
    for choice, gradient in enumerate(("exact", "detached")):
        for m in (0.25, 0.9):
            settings = margin.Settings(m3=m, boundary=margin.CIRCLE, gradient=gradient)
            for theta in (0.0, 0.3, *rng.uniform(0.5, 3.0, size=3)):
                for off in (FINE.u, 0.2):
                    head = _head(x=np.ones((1, D)), theta=np.array([theta]))
                    found = errors.margin_error(head, settings, np.array([off]), FINE)
                    values = {"c": np.cos(theta), r"\Delta c": off, "m": m, r"\Delta \psi": found.psi[0]}
                    values |= {"q": found.steepness[0], r"\Delta q": found.of_steepness[0]}
                    yield _scope(FINE, values, choice)


def _circle(gradient: str, c: float, m: float, tau: float, reach: float) -> tuple[float, float, float]:
    settings = negatives.Settings("circle", m, gradient)
    threshold = np.array([tau]), np.array([reach])
    found = errors.negatives_error(np.array([[c]]), np.array([[0.021]]), threshold, settings, COARSE)
    return found.eta[0, 0], found.slope[0, 0], found.of_slope[0, 0]


@_formulas("circle-others", "circle-others-slope", "circle-others-of-slope")
def _(rng):
    for choice, gradient in enumerate(("exact", "detached")):
        for m in (0.3, 0.9):
            settings = margin.Settings(m3=m, boundary=margin.CIRCLE, gradient=gradient)
            _, of_tau = errors.threshold_error(_head(), settings, np.zeros(1), COARSE)
            for c in (-0.95, -0.2, 0.1, *rng.uniform(0.3, 1.0, size=2)):
                of_eta, slope, of_slope = _circle(gradient, c, m, -2.0, 0.0)
                values = {"c": c, "m": m, r"\Delta c": 0.021, r"\Delta T": of_tau[0], "e": slope}
                yield _scope(COARSE, {**values, "F": of_slope, "E": of_eta - abs(slope) * 0.021}, choice)


@_formulas("circle-either", "circle-either-slope", needed=("circle-others",))
def _(rng):
    for gradient in ("exact", "detached"):
        for m in (0.3, 0.9):
            for c in (-0.2, 0.1, *rng.uniform(0.3, 1.0, size=2)):
                _, slope, of_slope = _circle(gradient, c, m, -2.0, 0.0)
                for choice, (tau, reach) in enumerate(((2.0, 0.0), (-2.0, 0.0), (-2.0, 9.0))):
                    of_eta, _, moved = _circle(gradient, c, m, tau, reach)
                    values = {"c": c, "m": m, r"\Delta c": 0.021, "e": slope, "F": of_slope}
                    yield _scope(COARSE, values | {r"\Delta \eta": of_eta, r"\Delta \eta'": moved}, choice)


# --------------------------------------------------------------- powers, answers of their own, single numbers, two ways


@_formulas("power", "power-slope", "power-of-slope")
def _(rng):
    for choice, gradient in enumerate(("exact", "detached")):
        for t in (1, 2, 3, 7):
            for m in (-0.4, 0.3):
                for c in (-1.0, *rng.uniform(-0.9, 1.0, size=2)):
                    found = errors.power_error(np.array([c]), np.array([0.2]), t, m, gradient, FINE)
                    values = {"c": c, r"\Delta c": 0.2, "t": float(t), r"\mu": m, "q": found.slope[0]}
                    values |= {r"\eta": 2.0 * ((1.0 + c) / 2.0) ** t - 1.0 + m}
                    yield _scope(FINE, values | {r"\Delta \eta": found.eta[0], r"\Delta q": found.of_slope[0]}, choice)


def _answers(a: Any, v: Any, target: bool) -> errors.Answers:
    """The answers of one sample, all of targets or none."""
    a, v = np.array([a]), np.array([v])
    return errors.Answers(a, v, np.full(a.shape, target))


def _rounded_answer(a: float, v: float, off: float, arithmetic: Arithmetic) -> float:
    """M: what the code says of one answer that is not added up, less what it adds for numbers that are flushed to 0."""
    of_loss, _ = errors.binary_cross_entropy_error(_answers([a], [v], False), np.array([[off]]), 0, arithmetic)
    return float((of_loss[0] - arithmetic.smallest) / v - arithmetic.smallest)


@_formulas("answer", "answer-rounded")
def _(rng):
    for choice, log_p in enumerate(("relative", "stable", "working")):
        for v, omega in ((1.0, 1.0), (0.7, 4.0)):
            for a in (-4.0, *rng.uniform(-2.0, 4.0, size=2)):
                for off in (0.03, 2.0):
                    answers = _answers([a], [v], False)
                    values = {"a": a, r"\Delta a": off, r"\omega": omega, "Q": answers.softplus[0, 0]}
                    values |= {"p": answers.sigma[0, 0], "M": _rounded_answer(a, v, off, COARSE._replace(log_p=log_p))}
                    yield _scope(COARSE, values, choice)


@_formulas("answer-slope", "answer-of-slope", needed=("answer",))
def _(rng):
    for log_p in ("relative", "stable", "working"):
        for target in (False, True):
            for v, omega in ((1.0, 1.0), (0.7, 4.0)):
                for a in (-4.0, -0.1, *rng.uniform(0.5, 4.0, size=2)):
                    for off in (0.03, 2.0, 9.0):
                        arithmetic, answers = COARSE._replace(log_p=log_p), _answers([a], [v], target)
                        _, of_g = errors.binary_cross_entropy_error(answers, np.array([[off]]), 1, arithmetic)
                        values = {"a": a, r"\Delta a": off, r"\omega": omega, "w": v, r"\Delta G": of_g[0, 0]}
                        yield _scope(arithmetic, values, int(target and log_p != "relative"))


@_formulas("answer-loss")
def _(rng):
    for count in (4, 12):
        a, v, off = rng.normal(size=C) * 3.0, rng.uniform(0.2, 2.0, size=C), rng.uniform(0.1, 1.0, size=C)
        answers = _answers(a, v, False)
        of_loss, _ = errors.binary_cross_entropy_error(answers, off[None], count, COARSE)
        each = np.array([_rounded_answer(*entry, COARSE) for entry in zip(a, v, off, strict=True)])
        values = {"w": v, "M": each, "n": count, "Q": answers.softplus[0], r"\Delta L": of_loss[0]}
        yield _scope(COARSE, values)


@_formulas("single-number")
def _(rng):
    for sign in (1.0, -1.0):  # of the sum of all terms
        g, f, of_g, of_f = rng.normal(size=C), rng.normal(size=C), *rng.uniform(0.1, 0.4, size=(2, C))
        g *= sign * np.sign(g @ f)
        found = errors.total_error(f, of_g, g, of_f, OWN, COARSE)
        values = {"G": g, "f": f, r"\Delta G": of_g, r"\Delta f": of_f, "n": C, r"\Delta T": found}
        yield _scope(COARSE, values)


@_formulas("ways")
def _(rng):
    z, weights, of_z = rng.normal(size=(3, 3)), rng.uniform(0.5, 2.0, size=3), rng.uniform(0.1, 0.3, size=(3, 3))
    rows, columns = (budgets._rows(each, np.eye(3)) for each in (z, z.T))
    of_loss, g, of_g = errors.two_way_error(errors.Ways((rows, columns)), of_z, weights, COARSE)
    first, second = (
        errors.two_way_error(errors.Ways((way,)), dz, weights, COARSE) for way, dz in ((rows, of_z), (columns, of_z.T))
    )
    for n, k in ((0, 1), (2, 2), (1, 0)):
        values = {"L_1": rows.loss[n], "L_2": columns.loss[n], r"\Delta L": of_loss[n]}
        values |= {r"\Delta L_1": first[0][n], r"\Delta L_2": second[0][n], r"\Delta G": of_g[n, k]}
        values |= {"G_1": first[1][n, k], "G_2": second[1][k, n]}
        values |= {r"\Delta G_1": first[2][n, k], r"\Delta G_2": second[2][k, n]}
        assert g[n, k] == (first[1][n, k] + second[1][k, n]) / 2.0
        yield _scope(COARSE, values)


# ------------------------------------------------------------------------------------------------------------- triplet


@_formulas(*(f"triplet{part}" for part in ("-distance", "-violation", "", "-loss", "-slope", "-gradient")))
def _(rng):
    """Margins that are exceeded, kept, and neither."""
    for choice, squared in enumerate((True, False)):
        for away, most in ((0.5, 3.0), (1.0, 0.01), (3.0, 0.5), (1.5, 40.0), (1.5, None)):
            a, p = rng.normal(size=(2, D))
            n = a + away * (p - a)[::-1]
            near, far = (float(_distance(squared)(_exact(a), _exact(other))) for other in (p, n))
            m = far - near - 0.01 if most is None else most  # a margin that is just kept
            triplets = Triplets((a - p)[None], (a - n)[None], m, squared)
            rows, slopes = errors.triplet_error(triplets, OWN, COARSE)
            values = {"a": a, "p": p, "n": n, "m": m, r"\Delta L": rows[0], r"\Delta g": slopes["positive"][0]}
            yield _scope(COARSE, {**values, "d": _distance(squared)}, choice)


def _distance(squared: bool) -> Callable[[Any, Any], mpf]:
    def distance(a: Any, b: Any) -> mpf:
        length = mp.sqrt(mp.fsum((i - j) ** 2 for i, j in zip(a, b, strict=True)))
        return length**2 if squared else length

    return distance


# --------------------------------------------------------------------------------------------------- options of logits

CAPS = (
    (0.5, 4.0, (0.01, 0.2, 0.05, 0.3)),
    (1.7, 0.25, (0.002, 0.2, 0.05, 0.0)),
    (2.0, 3.0, (0.1, 40.0, 2.0, 0.5)),  # errors of which no logit, or no slope, is left
)
"""Scales, caps, and errors of logits."""


def _capped(rng: np.random.Generator, standards: tuple[str, ...] = ("stable",)) -> Iterator[tex.Scope]:
    for scale, cap, off in CAPS:
        z = rng.normal(size=C) * 2.0
        for standard in standards:
            a = COARSE._replace(log_p=standard)
            capped = errors.softcap_error(z, np.array(off), Settings(scale, cap), a)
            values = {"r": scale, "K": cap, "z": z, r"\Delta z": np.array(off)}
            values |= {"z'": capped.z, r"\Delta z'": capped.of_z, r"\Delta h": capped.of_slope / scale}
            yield _scope(a, values, standards.index(standard))


@_formulas("logit-scale")
def _(rng):
    for scale, _, off in CAPS:
        z = rng.normal(size=C)
        capped = errors.softcap_error(z, np.array(off), Settings(scale), COARSE)
        values = {"r": scale, "z": z, r"\Delta z": np.array(off), "z'": capped.z, r"\Delta z'": capped.of_z}
        yield _scope(COARSE, values)


@_formulas("cap-argument", "capped")
def _(rng):
    yield from _capped(rng)


@_formulas("cap-argument", "slope-moved", "slope")
def _(rng):
    yield from _capped(rng, ("stable", "relative"))


@_formulas("lse-beyond", "lse", "lse-error", "probability", needed=("gaps", "beyond", "moved", "loss-working"))
def _(rng):
    given = list(_rows(rng))
    unknown = (given[0][0], np.full((1, C), 40.3), COARSE)
    for rows, dz, a in (*given, unknown):
        for standard in ("stable", "working", "relative"):
            lse, of_lse, of_p = errors.log_sum_exp_error(rows, dz, a._replace(log_p=standard))
            values = {"z": rows.z[0], "z'": rows.z[0], r"\Delta z": dz[0], r"\Delta z'": dz[0]}
            values |= {"p": rows.p[0], "q": rows.q[0], **dict.fromkeys(("d", r"\gamma"), rows.z[0].max() - rows.z[0])}
            values |= {"\\operatorname{lse}": lse[0], r"\Delta \operatorname{lse}": of_lse[0], r"\Delta p": of_p[0]}
            yield _scope(a, values, choice=1)  # "working", whatever the standard


LAMBDA = 0.25


def _with_z_loss(rng: np.random.Generator, **settings: Any) -> Spied:
    """The budget of a loss with every option; the log-sum-exp of the first row is negative."""
    loss = refloss.CrossEntropy(logit_scale=0.5, softcap=4.0, z_loss=LAMBDA, **settings)
    inputs = rng.normal(size=(N, C)) * 2.0 - 8.0 * (np.arange(N) == 0)[:, None], rng.permutation(C)[:N]
    return _spied(loss, inputs, COARSE, WEIGHTS if loss.reduction == "none" else -0.7)


@_formulas("z-loss")
def _(rng):
    spied = _with_z_loss(rng, reduction="none")
    *_, without, _, _ = spied.arguments("_with_options")
    lse, of_lse, _ = spied.result("log_sum_exp_error")
    values = {r"\Delta Z": spied.value - without, r"\lambda": LAMBDA}
    yield _scope(COARSE, values | {r"\operatorname{lse}": lse, r"\Delta \operatorname{lse}": of_lse})


@_formulas("z-loss", "z-loss-value")
def _(rng):
    mean = 1.0 / N
    for reduction, weight, plain, own in (
        ("mean", mean, mean, None),
        ("sum", 1.0, 1.0, None),
        ("mean", -0.5 * mean, mean, (-2.0,) * C),
        ("sum", 1.0, 1.0, (-2.0,) * C),
    ):
        spied = _with_z_loss(rng, reduction=reduction, class_weight=own)
        _, rows, *_, without, _, _ = spied.arguments("_with_options")
        lse, of_lse, _ = spied.result("log_sum_exp_error")
        values = {r"\Delta \mathcal L_z": spied.value - without, r"\omega": weight, r"\omega'": plain}
        values |= {"L": rows.loss, r"\lambda": LAMBDA, r"\operatorname{lse}": lse, r"\Delta \operatorname{lse}": of_lse}
        yield _scope(COARSE, values)


@_formulas("z-loss-part", "z-loss-gradient", "capped-gradient")
def _(rng):
    for reduction in ("mean", "sum", "none"):
        spied = _with_z_loss(rng, reduction=reduction, class_weight=(1.0, 2.0, 0.5, 1.5))
        capped = spied.result("softcap_error")
        _, rows, *_ = spied.arguments("_with_options")
        *_, g, of_g = spied.arguments("_with_options")
        lse, of_lse, of_p = spied.result("log_sum_exp_error")
        _, gradient, of_gradient = spied.result("_with_options")
        for n in range(N):
            upstream = WEIGHTS[n] if reduction == "none" else -0.7 / (N if reduction == "mean" else 1)
            values = {r"\beta'": upstream, r"\lambda": LAMBDA, "r": 0.5, "h": capped.slope[n] / 0.5}
            values |= {"\\operatorname{lse}": lse[n], r"\Delta \operatorname{lse}": of_lse[n], r"\Delta p": of_p[n]}
            values |= {"p": rows.p[n], "G": g[n], r"\Delta G": of_g[n], r"\Delta h": capped.of_slope[n] / 0.5}
            yield _scope(COARSE, values | {"A": gradient[n], r"\Delta A": of_gradient[n]})


# --------------------------------------------------------------------------------------------------------- divergences


@_formulas("divergence-log", "divergence-p")
def _(rng):
    for logits in rng.normal(size=(N, 1, C)) * 2.0:
        side = divergences.log_softmax_error(logits, COARSE)
        d = logits.max() - logits[0]
        values = {"p": side.p[0], r"\varepsilon": side.relative[0], r"\Delta a": side.error[0], "d": d}
        yield _scope(COARSE, values | {r"\ell": np.log(np.exp(-d).sum()), "s": (side.p[0] * d).sum()})


def _sides(rng: np.random.Generator) -> tuple[Any, Any, Any, Any]:
    """Logits of both sides, and the errors of their logarithms."""
    z, target = rng.normal(size=(2, 1, C)) * 1.5
    return z, target, *(divergences.log_softmax_error(logits, COARSE) for logits in (z, target))


@_formulas("divergence-term", "divergence-loss")
def _(rng):
    for _ in range(N):
        z, target, q, p = _sides(rng)
        terms = divergences._terms(p, q, COARSE)
        rows, _ = errors.divergence_error(errors.Divergences(z, target, "forward"), OWN, COARSE)
        values = {r"\Delta h": terms.error[0], r"\Delta L": rows[0], "p": p.p[0], "a": p.log_p[0], "b": q.log_p[0]}
        values |= {r"\Delta a": p.error[0], r"\Delta b": q.error[0], r"\varepsilon": p.relative[0]}
        yield _scope(COARSE, values | {"L": (p.p * (p.log_p - q.log_p)).sum()})


@_formulas("divergence-sum", "divergence-maximum", "divergence-gradient")
def _(rng):
    for _ in range(N):
        z, _, q, _ = _sides(rng)
        g, of_g = rng.uniform(0.2, 2.0, (1, C)), rng.uniform(0.01, 0.3, (1, C))
        bound = divergences._through(q, g, of_g, OWN, COARSE)
        values = {r"\Delta z": bound[0], "g": g[0], r"\Delta g": of_g[0], "p": q.p[0], r"\varepsilon": q.relative[0]}
        yield _scope(COARSE, values | {"d": z.max() - z[0]})


# ------------------------------------------------------------------------------------------------------------- storage


@_formulas("stored-value", "stored-gradient")
def _(rng):
    loss, stored = refloss.CrossEntropy(), COARSE._replace(**STORED)
    inputs = rng.normal(size=(N, C)), rng.permutation(C)[:N]
    for upstream in (0.4, -2.3):
        value, allowed = budgets.bounds(loss, inputs, COARSE, upstream)
        of_value, of_z = budgets.bounds(loss, inputs, stored, upstream)
        true, gradient = loss.value_and_grad(*inputs, upstream=upstream, engine="chain")
        values = {r"\mathcal L": true, r"\Delta \mathcal L": value, r"\Delta \mathcal L'": of_value, "b": abs(upstream)}
        values |= {"g": gradient.z[0, 0], r"\Delta g": allowed["z"][0, 0], r"\Delta g'": of_z["z"][0, 0]}
        yield _scope(stored, values)


# ----------------------------------------------------------------------------------------------------------- standards


def _logsumexp(z: Any) -> tuple[Any, Any]:
    """Log p, and p as its exponential, from a rounded logsumexp."""
    largest = z.max(axis=1, keepdims=True)
    log_p = z - (largest + np.log(np.exp(z - largest).sum(axis=1, keepdims=True)))
    return log_p, np.exp(log_p)


def _gaps(z: Any) -> tuple[Any, Any]:
    """Log p and p, the largest logit subtracted first."""
    gap = z - z.max(axis=1, keepdims=True)
    total = np.exp(gap).sum(axis=1, keepdims=True)
    return gap - np.log(total), np.exp(gap) / total


def _rest(z: Any) -> tuple[Any, Any]:
    """Log p by log1p, and p with 1 - p as a sum of the others, in float64."""
    p, saved = softmax.forward(Pair.of(z.astype(np.float64)))
    q = np.asarray(saved.q)
    return np.where(p > 0.5, np.log1p(-q), _gaps(z.astype(np.float64))[0]), (p, q)


def _cross_entropy(probabilities: Callable[[Any], tuple[Any, Any]]) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The mean loss of labels, none of which is ignored, and its gradient."""

    def loss(z: Any, y: Any) -> tuple[Any, Any]:
        each, n = np.arange(len(y)), z.dtype.type(len(y))
        log_p, p = probabilities(z)
        p, q = p if isinstance(p, tuple) else (p, 1 - p)
        gradient = p.copy()
        gradient[each, y] = -q[each, y]
        return -log_p[each, y].sum() / n, gradient / n

    return loss


def _check(fn: Any, loss: Any, dtype: str) -> str:
    with np.errstate(all="ignore"):
        return str(check(fn, loss, dtype=dtype, ignored=False).meets)


@pytest.mark.parametrize(
    ("probabilities", "standard"), [(_logsumexp, "working"), (_gaps, "stable"), (_rest, "relative")]
)
def test_each_way_to_log_p_meets_its_standard_and_not_the_next(probabilities, standard):
    assert _check(_cross_entropy(probabilities), refloss.CrossEntropy(), "float32") == standard


@pytest.mark.parametrize(("between", "standard"), [(bfloat16, "mixed"), (np.float32, "fused")])
def test_a_linear_head_is_fused_if_its_logits_are_not_stored(between, standard):
    def loss(x: Any, w: Any, y: Any) -> tuple[Any, Any, Any]:
        x, w = x.astype(np.float32), w.astype(np.float32)
        value, dz = _cross_entropy(_gaps)((x @ w.T).astype(between).astype(np.float32), y)
        dz = dz.astype(between).astype(np.float32)
        return value.astype(bfloat16), (dz @ w).astype(bfloat16), (dz.T @ x).astype(bfloat16)

    assert _check(loss, refloss.SoftmaxLoss(), "bfloat16") == standard


# ----------------------------------------------------------------------------------------------------------- the tests


def test_every_displayed_formula_of_the_page_is_evaluated():
    assert PAGE.count("$$") == 2 * len(FORMULAS)
    assert {name for bound in BOUND for name in bound.names} == set(FORMULAS)


@cache
def _scopes(which: int) -> list[tex.Scope]:
    return list(BOUND[which].scopes(np.random.default_rng(which)))


def _statements(*names: str) -> tuple[tex.Statement, ...]:
    return tuple(statement for name in names for statement in tex.read(FORMULAS[name]))


@pytest.mark.parametrize("which", range(len(BOUND)), ids=lambda which: BOUND[which].names[-1])
def test_formulas_are_what_the_code_computes(which):
    with mp.workdps(DIGITS):
        statements = _statements(*BOUND[which].names, *BOUND[which].needed)
        assert max(tex.gap(statements, scope) for scope in _scopes(which)) <= AGREES


def _caught(statements: Any, scopes: list[tex.Scope]) -> bool:
    for scope in scopes:
        try:
            if not tex.gap(statements, scope) <= DIFFERS:
                return True
        except (tex.UnknownError, TypeError, IndexError, ValueError, ZeroDivisionError, KeyError, RecursionError):
            return True
    return False


@pytest.mark.untraced
@pytest.mark.parametrize("name", FORMULAS)
def test_no_altered_formula_is_what_the_code_computes(name):
    equal, unnoticed = [what for what in EQUAL.get(name, []) if chosen(what)], []
    with mp.workdps(DIGITS):
        for what, altered in tex.alterations(_statements(name)):
            if not chosen(what) or (what.endswith(SYMMETRIC) and "atan2" not in FORMULAS[name]):
                continue
            caught = False
            for which, (names, needed, _) in enumerate(BOUND):
                if name in names and not caught:
                    others = _statements(*(other for other in (*names, *needed) if other != name))
                    caught = _caught((*altered, *others), _scopes(which))
            unnoticed += [] if caught else [what]
    assert unnoticed == equal
