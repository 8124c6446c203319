"""Formulas of docstrings are what the code beside them computes: read from their TeX and evaluated (see support/tex).

Every displayed formula of the stages and the losses is bound here to results of the code and to its inputs, on random
data of no symmetry. Both sides have to agree to `AGREES`, and every alteration of a formula, of a sign, a factor, a
term, an index, a function or a condition, has to miss by more than `DIFFERS` somewhere, or not to make sense at all.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from mpmath import mp, mpf

import refloss.losses
from refloss.error_free import Pair
from refloss.stages import (
    angle,
    bias,
    binary_cross_entropy,
    class_angles,
    cosine,
    cross_entropy,
    divergence,
    linear,
    log_softmax,
    logits,
    logsumexp,
    margin,
    negatives,
    normalize,
    quality,
    softcap,
    softmax,
    sub_centers,
    triplet,
    z_loss,
)
from support import tex

AGREES = (
    mpf(2) ** -43
)  # 1024u of the largest term: contracts allow tens of u, and a few terms cancel here by less than 10
DIFFERS = mpf(2) ** -20  # what lies between the two would be undecided, and fails
DISPLAY = re.compile(r"(?<!`)\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(r"(?<!\$)\$([^$]+)\$(?!\$)")
N, C, D = 3, 4, 5
SEEDS = (1, 2)

SYMMETRIC = tuple(f"0: {what}" for what in ["arguments exchanged"] * 3)  # of max, and of a distance, twice
EQUAL = {  # alterations that alter nothing; after a comma which formula of several
    "refloss.stages.margin:forward": ("1: sign of all",),  # cos(-φ) = cos φ
    "refloss.stages.cross_entropy:targets": ("0: index 0 of v is y_n",),  # where [k = y_n] is 1, v_k is that number
    "refloss.stages.softcap:forward": ("2: minus dropped", "2: abs dropped"),  # the slope is the same for e and 1/e
    "refloss.functions:logsumexp": ("1: index 0 of z is a",),  # the largest of equal numbers
    "refloss.stages.bias:forward": tuple(f"0: {what}" for what in ["arguments exchanged"] * 2),  # of min and max
    "refloss.stages.binary_cross_entropy:forward, 1": ("0: arguments exchanged",),  # of max
    "refloss.stages.triplet:forward": SYMMETRIC,
    "refloss.stages.quality:forward": tuple(f"1: {what}" for what in ["arguments exchanged"] * 2),  # of min and max
    "refloss.losses.pairwise:Triplet": SYMMETRIC,
    "refloss.stages.negatives:forward, 2": (
        "0: minus dropped",
    ),  # of the second case: c ≤ -t is asked where c > -t fails
    "refloss.losses.class_curves:SphereFaceR, 1": ("0: arguments exchanged",),  # of min
    "refloss.losses.class_curves:CircleLoss, 2": ("0: arguments exchanged",),  # of max
}

Scopes = Callable[[np.random.Generator], Iterator[tex.Scope]]


class Bound(NamedTuple):
    """A formula with what it is about."""

    name: str
    which: int
    scopes: Scopes


BOUND: list[Bound] = []


def _formula(name: str, which: int = 0) -> Callable[[Scopes], Scopes]:
    def register(scopes: Scopes) -> Scopes:
        BOUND.append(Bound(name, which, scopes))
        return scopes

    return register


def _docstring(name: str) -> str:
    module, _, rest = name.partition(":")
    documented: Any = importlib.import_module(module)
    for part in rest.split("."):
        documented = getattr(documented, part)
    return inspect.getdoc(documented) or ""


def _exact(value: Any) -> Any:
    """Numbers of the code, as nested lists of mpf; none is rounded."""
    if isinstance(value, Pair):
        high, low = _exact(value.hi), _exact(value.lo)
        return _plus(high, low)
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return [_exact(entry) for entry in value]
    return mpf(float(value)) if not isinstance(value, (int, np.integer)) else int(value)


def _plus(a: Any, b: Any) -> Any:
    return [_plus(i, j) for i, j in zip(a, b, strict=True)] if isinstance(a, list) else a + b


def _norm(v: list[mpf]) -> mpf:
    return mp.sqrt(mp.fsum(entry**2 for entry in v))


def _unit(v: list[mpf]) -> list[mpf]:
    return [entry / _norm(v) for entry in v]


def _softmax(z: list[mpf]) -> list[mpf]:
    e = [mp.exp(entry) for entry in z]
    return [entry / mp.fsum(e) for entry in e]


def _softplus(a):
    return mp.log1p(mp.exp(a))


RANGES = {"n": N, "k": C, "j": C, "i": D}
OF_LAST = RANGES | {"y": 1}
"""Where a left side has the index y_n: the label is the class after the C others."""

# ---------------------------------------------------------------------------------------------------------- the stages


@_formula("refloss.stages.normalize:forward")
def _(rng):
    v = rng.normal(size=(N, D)) * 3.0
    normalized = normalize.forward(v)
    for n in range(N):
        yield tex.Scope(
            {
                r"\hat v": _exact(normalized.unit[n]),
                r"\lVert v\rVert": _exact(normalized.norm[n]),
                "v": _exact(v[n]),
            },
            RANGES,
        )


@_formula("refloss.stages.normalize:backward")
def _(rng):
    v, g, h = rng.normal(size=(N, D)) * 3.0, rng.normal(size=(N, D)), rng.normal(size=N)
    gradient = normalize.backward(g, normalize.forward(v), h)
    for n in range(N):
        yield tex.Scope(
            {
                r"\partial L/\partial v": _exact(gradient[n]),
                r"\partial L/\partial \hat v": _exact(g[n]),
                r"\partial L/\partial \lVert v\rVert": _exact(h[n]),
                r"\hat v": _unit(_exact(v[n])),
                "v": _exact(v[n]),
            },
            RANGES,
        )


@_formula("refloss.stages.linear:forward")
def _(rng):
    x, w, b = rng.normal(size=(N, D)), rng.normal(size=(C, D)), rng.normal(size=C)
    yield tex.Scope(
        {"z": _exact(linear.forward(x, w, b)[0]), "x": _exact(x), "W": _exact(w), "b": _exact(b)},
        RANGES,
    )


@_formula("refloss.stages.linear:backward")
def _(rng):
    x, w, g = rng.normal(size=(N, D)), rng.normal(size=(C, D)), rng.normal(size=(N, C))
    dx, dw, db = linear.backward(g, linear.forward(x, w, np.zeros(C))[1])
    yield tex.Scope(
        {
            r"\partial L/\partial x": _exact(dx),
            r"\partial L/\partial W": _exact(dw),
            r"\partial L/\partial b": _exact(db),
            r"\partial L/\partial z": _exact(g),
            "x": _exact(x),
            "W": _exact(w),
        },
        RANGES,
    )


@_formula("refloss.stages.cosine:forward")
def _(rng):
    x, w = rng.normal(size=(N, D)), rng.normal(size=(C, D))
    c, _ = cosine.forward(normalize.forward(x), normalize.forward(w))
    yield tex.Scope(
        {"c": _exact(c), r"\hat x": [_unit(v) for v in _exact(x)], r"\hat w": [_unit(v) for v in _exact(w)]},
        RANGES,
    )


@_formula("refloss.stages.cosine:backward")
def _(rng):
    x, w, g = rng.normal(size=(N, D)), rng.normal(size=(C, D)), rng.normal(size=(N, C))
    _, saved = cosine.forward(normalize.forward(x), normalize.forward(w))
    dx, dw = cosine.backward(g, saved)
    yield tex.Scope(
        {
            r"\partial L/\partial \hat x": _exact(dx),
            r"\partial L/\partial \hat w": _exact(dw),
            r"\partial L/\partial c": _exact(g),
            r"\hat x": [_unit(v) for v in _exact(x)],
            r"\hat w": [_unit(v) for v in _exact(w)],
        },
        RANGES,
    )


@_formula("refloss.stages.angle:forward")
def _(rng):
    x, w = rng.normal(size=(N, D)), rng.normal(size=(N, D)) * 3.0
    angles, saved = angle.forward(x, w)
    for n in range(N):
        yield tex.Scope(
            {
                r"\theta": _exact(angles.theta)[n],
                "t_x": _exact(saved.tangent_x)[n],
                "x": _exact(x[n]),
                "w": _exact(w[n]),
                r"\hat x": _unit(_exact(x[n])),
                r"\hat w": _unit(_exact(w[n])),
            },
            RANGES,
        )


@_formula("refloss.stages.angle:backward")
def _(rng):
    x, w, g = rng.normal(size=(N, D)), rng.normal(size=(N, D)) * 3.0, rng.normal(size=N)
    saved = angle.forward(x, w)[1]
    dx, dw = angle.backward(g, saved)
    for n in range(N):
        yield tex.Scope(
            {
                r"\partial L/\partial x": _exact(dx[n]),
                r"\partial L/\partial w": _exact(dw[n]),
                r"\partial L/\partial \theta": _exact(g[n]),
                "t_x": _exact(saved.tangent_x)[n],
                "t_w": _exact(saved.tangent_w)[n],
                "x": _exact(x[n]),
                "w": _exact(w[n]),
            },
            RANGES,
        )


def _margins(rng):
    """Margins of no symmetry, and angles."""
    for m1, m2, m3 in ((1.35, 0.45, 0.2), (3.2, 0.7, 0.4)):
        yield margin.Settings(m1, m2, m3), rng.uniform(0.0, np.pi, size=6)


@_formula("refloss.stages.margin:forward")
def _(rng):
    for settings, theta in _margins(rng):
        psi = _exact(margin.forward(angle.of(theta), settings)[0])
        for at, value in zip(_exact(theta), psi, strict=True):
            yield tex.Scope(
                {
                    r"\psi": lambda _, value=value: value,
                    r"\theta": at,
                    **{f"m_{i + 1}": mpf(entry) for i, entry in enumerate(settings[:3])},
                }
            )


@_formula("refloss.stages.margin:backward", 1)
def _(rng):
    for settings, theta in _margins(rng):
        of_v = settings._replace(by_quality=(Fraction(7, 10), Fraction(-3, 5)))
        v, g = rng.normal(size=len(theta)) * 0.3, rng.normal(size=len(theta))
        _, gradient = margin.backward(g, margin.forward(angle.of(theta), of_v, quality.given(v))[1])
        for n, at in enumerate(_exact(theta)):
            yield tex.Scope(
                {
                    r"\partial L/\partial v": _exact(gradient)[n],
                    r"\partial L/\partial \psi": _exact(g)[n],
                    r"\varphi": settings.m1 * at + mpf(settings.m2) + mpf(7) / 10 * mpf(v[n]),
                    "b_2": mpf(7) / 10,
                    "b_3": mpf(-3) / 5,
                }
            )


@_formula("refloss.stages.margin:backward")
def _(rng):
    for settings, theta in _margins(rng):
        g = rng.normal(size=len(theta))
        gradient, _ = margin.backward(g, margin.forward(angle.of(theta), settings)[1])
        for n, at in enumerate(_exact(theta)):
            yield tex.Scope(
                {
                    r"\partial L/\partial \theta": _exact(gradient)[n],
                    r"\partial L/\partial \psi": _exact(g)[n],
                    r"\theta": at,
                    r"\varphi": settings.m1 * at + mpf(settings.m2),
                    "m_1": mpf(settings.m1),
                }
            )


LENGTHS = quality.Settings(Fraction(1, 2), Fraction(3, 2), Fraction(-1, 3), Fraction(4, 5), 0.7)
OF_LENGTHS = {"l": mpf(1) / 2, "u": mpf(3) / 2, "p": -mpf(1) / 3, "q": mpf(4) / 5, r"\lambda": mpf(0.7)}


def _lengths(rng):
    """Embeddings below, between and above the bounds."""
    return rng.normal(size=(N, D)) * [[0.05], [0.4], [5.0]]


@_formula("refloss.stages.quality:forward")
def _(rng):
    x = _lengths(rng)
    v, terms, _ = quality.forward(x, normalize.forward(x), LENGTHS)
    with mp.workdps(40):
        yield tex.Scope(OF_LENGTHS | {"v": _exact(v.value), "r": _exact(terms), "x": _exact(x)}, RANGES)


@_formula("refloss.stages.quality:backward")
def _(rng):
    x, g, h = _lengths(rng), rng.normal(size=N), rng.normal(size=N)
    gradient = quality.backward(g, quality.forward(x, normalize.forward(x), LENGTHS)[2], h)
    for n in range(N):
        length = _norm(_exact(x[n]))
        yield tex.Scope(
            OF_LENGTHS
            | {
                r"\partial L/\partial \lVert x\rVert": _exact(gradient)[n],
                r"\partial L/\partial v": _exact(g[n]),
                r"\partial L/\partial r": _exact(h[n]),
                "x": _exact(x[n]),
                "a": min(max(length, OF_LENGTHS["l"]), OF_LENGTHS["u"]),
            },
            RANGES,
        )


def _hard(rng, rule):
    """Cosines of which about half are above their thresholds, as is one class more: the target."""
    c, threshold, y = rng.uniform(-1.0, 1.0, size=(N, C + 1)), rng.uniform(-0.5, 0.5, size=N), np.full(N, C)
    settings = negatives.Settings(rule, 0.3)
    return c, threshold, *negatives.forward(Pair.of(c), Pair.of(threshold), y, settings, lambda n, k: False)


def _raised(rng, rule):
    c, threshold, eta, _ = _hard(rng, rule)
    values = {r"\eta": _exact(eta[:, :C]), "c": _exact(c[:, :C]), r"\tau": _exact(threshold), "t": mpf(0.3)}
    yield tex.Scope(values, RANGES)


def _gradients_of_hard(rng, rule):
    c, _, _, saved = _hard(rng, rule)
    g = rng.normal(size=c.shape)
    gradient = negatives.backward(g, saved)
    assert (gradient[~saved.hard] == g[~saved.hard]).all()
    n, k = np.nonzero(saved.hard)
    values = {r"\partial L/\partial c": gradient[n, k], r"\partial L/\partial \eta": g[n, k], "c": c[n, k]}
    rows = {name: [[entry] for entry in _exact(value)] for name, value in values.items()}
    yield tex.Scope(rows | {"t": mpf(0.3)}, {"n": len(n), "k": 1})


for place, rule in enumerate(("curricular", "reweighted")):
    _formula("refloss.stages.negatives:forward", place)(lambda rng, rule=rule: _raised(rng, rule))
    _formula("refloss.stages.negatives:backward", place)(lambda rng, rule=rule: _gradients_of_hard(rng, rule))


def _circle(rng, gradient):
    """Cosines on both sides of -t, and what the rule "circle" makes of them; the last class is the target."""
    c, settings = rng.uniform(-1.0, 1.0, size=(N, C + 1)), negatives.Settings("circle", 0.3, gradient)
    threshold = negatives.threshold_of(settings, Pair.of(rng.normal(size=N)))
    return c, *negatives.forward(Pair.of(c), threshold, np.full(N, C), settings, lambda n, k: False)


@_formula("refloss.stages.negatives:forward", 2)
def _(rng):
    c, eta, _ = _circle(rng, "exact")
    yield tex.Scope({r"\eta": _exact(eta[:, :C]), "c": _exact(c[:, :C]), "t": mpf(0.3)}, RANGES)


@_formula("refloss.stages.negatives:backward", 2)
def _(rng):
    for choice, gradient in enumerate(("exact", "detached")):
        c, _, saved = _circle(rng, gradient)
        g = rng.normal(size=c.shape)
        found = negatives.backward(g, saved)
        assert (found[:, :C][~saved.hard[:, :C]] == 0.0).all()
        n, k = np.nonzero(saved.hard)
        values = {r"\partial L/\partial c": found[n, k], r"\partial L/\partial \eta": g[n, k], "c": c[n, k]}
        rows = {name: [[entry] for entry in _exact(value)] for name, value in values.items()}
        yield tex.Scope(rows | {"t": mpf(0.3)}, {"n": len(n), "k": 1}, choice)


def _class_angles(rng, settings):
    """Unit embeddings and classes; their angles, and what the stage makes of them. The last class is the target."""
    x, w = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(2, C + 1, D)))
    x, y = x[:N], np.full(N, C)
    c = Pair.of(cosine.of_rows(x.repeat(C + 1, axis=0), np.tile(w, (N, 1))).hi.reshape(N, C + 1))
    theta = [[mp.acos(mp.fsum(map(mp.fmul, _unit(a), _unit(b)))) for b in _exact(w[:C])] for a in _exact(x)]
    eta, saved = class_angles.forward(c, x, w, y, settings)
    return x, w, theta, eta, saved


DIVIDED, NEAREST = class_angles.Settings("divided", 1.7), class_angles.Settings("nearest", 0.3, 2)
POWER = class_angles.Settings("power", 0.3, 3)


def _nearest(theta, count):
    """The classes of the smallest angles, for each sample."""
    return [sorted(range(len(row)), key=row.__getitem__)[:count] for row in theta]


@_formula("refloss.stages.class_angles:forward", 0)
def _(rng):
    *_, theta, eta, _ = _class_angles(rng, DIVIDED)
    yield tex.Scope({r"\eta": _exact(eta[:, :C]), r"\theta": theta, "m": mpf(DIVIDED.m)}, RANGES)


@_formula("refloss.stages.class_angles:forward", 1)
def _(rng):
    *_, theta, eta, _ = _class_angles(rng, NEAREST)
    values = {
        r"\eta": _exact(eta[:, :C]),
        r"\theta": theta,
        "c": [list(map(mp.cos, row)) for row in theta],
        "m": mpf(NEAREST.m),
        "K": _nearest(theta, NEAREST.k),
    }
    yield tex.Scope(values, RANGES)


@_formula("refloss.stages.class_angles:backward", 0)
def _(rng):
    """Of entries that do not go through their angle."""
    *_, theta, _, saved = _class_angles(rng, DIVIDED)
    assert not len(saved.n)
    g = rng.normal(size=(N, C + 1))
    values = {
        r"\partial L/\partial c": _exact(class_angles.backward(g, saved)[0][:, :C]),
        r"\partial L/\partial \eta": _exact(g[:, :C]),
        r"\theta": theta,
        "m": mpf(DIVIDED.m),
    }
    yield tex.Scope(values, RANGES)


@_formula("refloss.stages.class_angles:backward", 1)
def _(rng):
    """Of the nearest classes; how fast an embedding of length 1 moves away along the tangent is dL/dθ."""
    x, w, theta, _, saved = _class_angles(rng, NEAREST)
    g = rng.normal(size=(N, C + 1))
    _, dx, _ = class_angles.backward(g, saved)
    rows = []
    for entry, n, k in zip(_exact(np.asarray(dx)), saved.n.tolist(), saved.k.tolist(), strict=True):
        a, b = _unit(_exact(x[n])), _unit(_exact(w[k]))
        tangent = _unit([j - mp.cos(theta[n][k]) * i for i, j in zip(a, b, strict=True)])
        rows.append((-mp.fsum(map(mp.fmul, entry, tangent)), _exact(g[n, k]), theta[n][k]))
    dtheta, deta, of_nearest = ([[entry] for entry in column] for column in zip(*rows, strict=True))
    values = {r"\partial L/\partial \theta": dtheta, r"\partial L/\partial \eta": deta, r"\theta": of_nearest}
    yield tex.Scope(values | {"m": mpf(NEAREST.m)}, {"n": len(rows), "k": 1})


@_formula("refloss.stages.class_angles:forward", 2)
def _(rng):
    *_, theta, eta, _ = _class_angles(rng, POWER)
    c = [list(map(mp.cos, row)) for row in theta]
    yield tex.Scope({r"\eta": _exact(eta[:, :C]), "c": c, "m": mpf(POWER.m), "t": mpf(POWER.k)}, RANGES)


@_formula("refloss.stages.class_angles:backward", 2)
def _(rng):
    *_, theta, _, saved = _class_angles(rng, POWER)
    g = rng.normal(size=(N, C + 1))
    values = {
        r"\partial L/\partial c": _exact(class_angles.backward(g, saved)[0][:, :C]),
        r"\partial L/\partial \eta": _exact(g[:, :C]),
        "c": [list(map(mp.cos, row)) for row in theta],
        "t": mpf(POWER.k),
    }
    yield tex.Scope(values, RANGES)


def _branches(rng):
    return rng.normal(size=(N, C)), rng.normal(size=N), rng.integers(0, C, size=N), rng.uniform(0.6, 0.9, size=N)


@_formula("refloss.stages.logits:forward")
def _(rng):
    c, psi, y, s = _branches(rng)
    z, _ = logits.forward(Pair.of(c), Pair.of(psi), y, Pair.of(s), np.zeros(N, int))
    yield tex.Scope(
        {"z": _exact(z), "c": _exact(c), r"\psi": _exact(psi), "y": _exact(y), "s": _exact(s)},
        RANGES,
    )


@_formula("refloss.stages.logits:backward")
def _(rng):
    c, psi, y, s = _branches(rng)
    _, saved = logits.forward(Pair.of(c), Pair.of(psi), y, Pair.of(s), np.zeros(N, int))
    g = rng.normal(size=(N, C))
    dc, dpsi, ds = logits.backward(g, saved)
    yield tex.Scope(
        {
            r"\partial L/\partial c": _exact(dc),
            r"\partial L/\partial \psi": _exact(dpsi),
            r"\partial L/\partial s": _exact(ds),
            r"\partial L/\partial z": _exact(g),
            "f": _exact(saved.f),
            "y": _exact(y),
            "s": _exact(s),
        },
        RANGES,
    )


@_formula("refloss.stages.bias:forward")
def _(rng):
    """Logits beyond either bound, and within."""
    z, b = rng.normal(size=(N, C)) * 2.0, rng.normal()
    held, _ = bias.forward(Pair.of(z), Pair.of(b), 1.5, lambda n, k: 0)
    yield tex.Scope({"z'": _exact(held), "z": _exact(z), "b": mpf(b), "K": mpf(1.5)}, RANGES)


@_formula("refloss.stages.bias:backward")
def _(rng):
    z, b, g = rng.normal(size=(N, C)) * 2.0, rng.normal(), rng.normal(size=(N, C))
    dz, db = bias.backward(g, bias.forward(Pair.of(z), Pair.of(b), 1.5, lambda n, k: 0)[1])
    values = {
        r"\partial L/\partial z": _exact(np.asarray(dz)),
        r"\partial L/\partial b": _exact(float(np.asarray(db))),
        r"\partial L/\partial z'": _exact(g),
        "z": _exact(z),
        "b": mpf(b),
        "K": mpf(1.5),
    }
    yield tex.Scope(values, RANGES)


WEIGHTED = binary_cross_entropy.Settings(Fraction(0.7), Fraction(1.9))


@_formula("refloss.stages.binary_cross_entropy:forward")
def _(rng):
    z, y = rng.normal(size=(N, C)) * 2.0, rng.permutation(C)[:N]
    losses, _ = binary_cross_entropy.forward(Pair.of(z), y, WEIGHTED)
    values = {"L": _exact(np.asarray(losses)), "z": _exact(z), "y": _exact(y), r"\operatorname{softplus}": _softplus}
    yield tex.Scope(values | {"v_+": mpf(0.7), "v_-": mpf(1.9)}, RANGES)


@_formula("refloss.stages.binary_cross_entropy:backward")
def _(rng):
    """The label is one class more, so that the others are those of the formula."""
    z, g, y = rng.normal(size=(N, C + 1)) * 2.0, rng.normal(size=N), np.full(N, C)
    dz = binary_cross_entropy.backward(g, binary_cross_entropy.forward(Pair.of(z), y, WEIGHTED)[1])
    values = {r"\partial L/\partial z": _exact(np.asarray(dz)), "z": _exact(z), "y": _exact(y), "g": _exact(g)}
    values |= {"v_+": mpf(0.7), "v_-": mpf(1.9), r"\sigma": lambda a: 1 / (1 + mp.exp(-a))}
    yield tex.Scope(values, OF_LAST)


def _one_answer(rng, name, of_answer):
    """A function of a logit of either sign, as it is in the answer of a single class."""
    for a in rng.normal(size=4) * 2.0:
        loss, saved = binary_cross_entropy.forward(
            Pair.of(np.array([[-a]])), np.zeros(1, int), binary_cross_entropy.PLAIN
        )
        found = _exact(float(of_answer(loss, saved)))
        yield tex.Scope({name: lambda _, found=found: found, "a": mpf(a)})


@_formula("refloss.stages.binary_cross_entropy:forward", 1)
def _(rng):
    yield from _one_answer(rng, r"\operatorname{softplus}", lambda loss, _: np.asarray(loss)[0])


@_formula("refloss.stages.binary_cross_entropy:backward", 1)
def _(rng):
    yield from _one_answer(rng, r"\sigma", lambda _, saved: -binary_cross_entropy.backward(np.ones(1), saved)[0, 0])


def _rows(rng):
    """Rows of logits, with the index of the largest, as the code finds it, and that logit."""
    z = rng.normal(size=(N, C)) * 2.0
    top = softmax.exponentials(Pair.of(z)).argmax
    return z, [(int(a), _exact(z[n, a])) for n, a in enumerate(top)]


@_formula("refloss.stages.softmax:forward")
def _(rng):
    z, largest = _rows(rng)
    p, _ = softmax.forward(Pair.of(z))
    for n, (_, row_max) in enumerate(largest):
        yield tex.Scope({"p": _exact(p[n]), "z": _exact(z[n]), "M": row_max}, RANGES)


@_formula("refloss.stages.softmax:backward")
def _(rng):
    z, _ = _rows(rng)
    g = rng.normal(size=(N, C))
    gradient = softmax.backward(g, softmax.forward(Pair.of(z))[1])
    for n in range(N):
        yield tex.Scope(
            {
                r"\partial L/\partial z": _exact(gradient[n]),
                r"\partial L/\partial p": _exact(g[n]),
                "p": _softmax(_exact(z[n])),
            },
            RANGES,
        )


@_formula("refloss.stages.log_softmax:forward")
def _(rng):
    z, largest = _rows(rng)
    log_p, _ = log_softmax.forward(Pair.of(z))
    for n, (a, row_max) in enumerate(largest):
        yield tex.Scope({r"\log p": _exact(log_p[n]), "z": _exact(z[n]), "M": row_max, "a": a}, RANGES)


@_formula("refloss.stages.log_softmax:backward")
def _(rng):
    z, _ = _rows(rng)
    g = rng.normal(size=(N, C))
    gradient = log_softmax.backward(g, log_softmax.forward(Pair.of(z))[1])
    for n in range(N):
        yield tex.Scope(
            {
                r"\partial L/\partial z": _exact(gradient[n]),
                r"\partial L/\partial \log p": _exact(g[n]),
                "p": _softmax(_exact(z[n])),
            },
            RANGES,
        )


@_formula("refloss.stages.logsumexp:forward")
def _(rng):
    z, largest = _rows(rng)
    lse, _ = logsumexp.forward(Pair.of(z))
    for n, (a, row_max) in enumerate(largest):
        values = {r"\operatorname{lse}": _exact(lse)[n], "z": _exact(z[n]), "M": row_max, "a": a}
        yield tex.Scope(values, RANGES)


@_formula("refloss.stages.logsumexp:backward")
def _(rng):
    z, _ = _rows(rng)
    g = rng.normal(size=N)
    gradient = logsumexp.backward(g, logsumexp.forward(Pair.of(z))[1])
    for n in range(N):
        yield tex.Scope(
            {
                r"\partial L/\partial z": _exact(gradient)[n],
                r"\partial L/\partial \operatorname{lse}": _exact(g[n]),
                "p": _softmax(_exact(z[n])),
            },
            RANGES,
        )


CAPS = (softcap.Settings(0.7, 2.5), softcap.Settings(1.3, 0.6))


@_formula("refloss.stages.softcap:forward")
def _(rng):
    for settings in CAPS:
        z, _ = _rows(rng)
        capped, saved = softcap.forward(Pair.of(z), settings)
        for n in range(N):
            yield tex.Scope(
                {
                    "z'": _exact(capped)[n],
                    r"\partial z'/\partial z": _exact(saved.slope)[n],
                    "z": _exact(z[n]),
                    r"\sigma": mpf(settings.logit_scale),
                    "K": mpf(settings.softcap),
                    "e:0": +mp.e,  # without an index it is the number
                },
                RANGES,
            )


@_formula("refloss.stages.softcap:backward")
def _(rng):
    for settings in CAPS:
        z, _ = _rows(rng)
        g, (_, saved) = rng.normal(size=(N, C)), softcap.forward(Pair.of(z), settings)
        gradient = softcap.backward(g, saved)
        for n in range(N):
            yield tex.Scope(
                {
                    r"\partial L/\partial z": _exact(gradient)[n],
                    r"\partial L/\partial z'": _exact(g[n]),
                    r"\partial z'/\partial z": _exact(saved.slope)[n],
                },
                RANGES,
            )


@_formula("refloss.stages.z_loss:forward")
def _(rng):
    lse = rng.normal(size=N) * 3.0
    for weight in (0.3, 1.7):
        terms, _ = z_loss.forward(Pair.of(lse), weight)
        values = {"r": _exact(terms), r"\operatorname{lse}": _exact(lse), r"\lambda": mpf(weight)}
        yield tex.Scope(values, RANGES)


@_formula("refloss.stages.z_loss:backward")
def _(rng):
    lse, g = rng.normal(size=N) * 3.0, rng.normal(size=N)
    for weight in (0.3, 1.7):
        gradient = z_loss.backward(g, z_loss.forward(Pair.of(lse), weight)[1])
        yield tex.Scope(
            {
                r"\partial L/\partial \operatorname{lse}": _exact(gradient),
                r"\partial L/\partial r": _exact(g),
                r"\operatorname{lse}": _exact(lse),
                r"\lambda": mpf(weight),
            },
            RANGES,
        )


SETTINGS = cross_entropy.Settings("mean", 0.3, (0.5, 1.0, 2.0, 3.0))


def _labels(rng):
    """Labels and probabilities, with the choice each of them stands for."""
    yield 0, rng.permutation(C)[:N]
    yield 1, rng.uniform(0.1, 1.0, size=(N, C))


@_formula("refloss.stages.cross_entropy:weights")
def _(rng):
    for choice, y in _labels(rng):
        targets = cross_entropy.weights(y, C, SETTINGS)
        values = {r"\bar n": _exact(targets.divisor), "v": _exact(SETTINGS.class_weight), "N": mpf(N)}
        yield tex.Scope(values | ({"y": _exact(y)} if choice == 0 else {}), RANGES, choice)


def _targets(y):
    return cross_entropy.targets(y, cross_entropy.weights(y, C, SETTINGS), SETTINGS.label_smoothing)


def _of_targets(y, choice):
    return tex.Scope(
        {
            "t": _exact(_targets(y).t),
            "y": _exact(y),
            "v": _exact(SETTINGS.class_weight),
            r"\varepsilon": mpf(SETTINGS.label_smoothing),
            "C": mpf(C),
        },
        RANGES,
        choice,
    )


@_formula("refloss.stages.cross_entropy:targets")
def _(rng):
    for choice, y in _labels(rng):
        yield _of_targets(y, choice)


def _log_probabilities(rng):
    return np.log(refloss.softmax(rng.normal(size=(N, C)))), _targets(rng.permutation(C)[:N])


@_formula("refloss.stages.cross_entropy:forward")
def _(rng):
    log_p, targets = _log_probabilities(rng)
    each = cross_entropy.forward(log_p, targets, "none")[0]
    for choice, reduction in enumerate(("mean", "sum")):
        yield tex.Scope(
            {
                "L:1": _exact(each),
                "L:0": _exact(cross_entropy.forward(log_p, targets, reduction)[0]),
                "t": _exact(targets.t),
                r"\log p": _exact(log_p),
                r"\bar n": _exact(targets.divisor),
            },
            RANGES,
            choice,
        )


@_formula("refloss.stages.cross_entropy:backward")
def _(rng):
    log_p, targets = _log_probabilities(rng)
    for choice, reduction in enumerate(("mean", "sum", "none")):
        g = rng.normal(size=N)
        upstream = g if reduction == "none" else g[0]
        gradient = cross_entropy.backward(upstream, cross_entropy.forward(log_p, targets, reduction)[1])
        yield tex.Scope(
            {
                r"\partial L/\partial \log p": _exact(gradient),
                r"\partial \mathcal L/\partial L:0": _exact(g[0]),
                r"\partial \mathcal L/\partial L:1": _exact(g),
                "t": _exact(targets.t),
                r"\bar n": _exact(targets.divisor),
            },
            RANGES,
            choice,
        )


@_formula("refloss.stages.cross_entropy:with_row_terms")
def _(rng):
    log_p, targets = _log_probabilities(rng)
    terms = rng.uniform(0.2, 2.0, size=N)
    each = cross_entropy.forward(log_p, targets, "none")[0]
    for choice, reduction in enumerate(("mean", "sum")):
        yield tex.Scope(
            {
                "L':0": _exact(cross_entropy.forward(log_p, targets, reduction, terms)[0]),
                "L':1": _exact(cross_entropy.forward(log_p, targets, "none", terms)[0]),
                "L:0": _exact(cross_entropy.forward(log_p, targets, reduction)[0]),
                "L:1": _exact(each),
                "r": _exact(terms),
                "N": mpf(N),
            },
            RANGES,
            choice,
        )


def _triplets(rng):
    """Triplets of both sides of the border, some with a loss below 1, and whether distances are squared."""
    for squared in (True, False):
        for spread in (0.3, 1.0, 1.0):
            a = rng.normal(size=(1, D))
            yield squared, a, a + spread * rng.normal(size=(1, D)), a + spread * rng.normal(size=(1, D))
        a = rng.normal(size=(1, D))
        yield squared, a, a + 0.1 * rng.normal(size=(1, D)), a + 5.0 + rng.normal(size=(1, D))


@_formula("refloss.stages.triplet:forward")
def _(rng):
    for squared, a, p, n in _triplets(rng):
        losses, _ = triplet.forward(a, p, n, 0.4, squared)
        values = {
            "L": _exact(triplet.reduce(losses, "none")[0]),
            "a": _exact(a[0]),
            "p": _exact(p[0]),
            "n": _exact(n[0]),
            "m": mpf(0.4),
        }
        yield tex.Scope(values, RANGES, 0 if squared else 1)


@_formula("refloss.stages.triplet:backward")
def _(rng):
    for squared, a, p, n in _triplets(rng):
        losses, saved = triplet.forward(a, p, n, 0.4, squared)
        da, dp, dn = triplet.backward(np.ones(1), saved)
        away = {"p": _plus(_exact(a[0]), _exact(-p[0])), "n": _plus(_exact(a[0]), _exact(-n[0]))}
        slopes = {
            rf"\partial d(a, {key})/\partial a": [entry * (2 if squared else 1 / _norm(v)) for entry in v]
            for key, v in away.items()
        }
        yield tex.Scope(
            {
                r"\partial L/\partial a": _exact(da[0]),
                r"\partial L/\partial p": _exact(dp[0]),
                r"\partial L/\partial n": _exact(dn[0]),
                "L": _exact(triplet.reduce(losses, "none")[0]),
                **slopes,
            },
            RANGES,
        )


def _divergences(rng, form="forward", scale=1.0):
    """What a divergence compares and saves, row by row: symbols and their values."""
    z, t = rng.normal(size=(2, N, C)) * scale
    losses, saved = divergence.forward(Pair.of(z), Pair.of(t), form)
    (q, p, delta, _), gradients = saved.compared, divergence.backward(np.ones(N), saved)
    for n in range(N):
        yield {
            "L": _exact(losses[n]),
            "q": _exact(q[n]),
            "p": _exact(p[n]),
            "m": [a / 2 for a in _plus(_exact(q[n]), _exact(p[n]))],
            r"\delta": _exact(delta[n]),
            r"\partial L/\partial z": _exact(gradients[0][n]),
            r"\partial L/\partial t": _exact(gradients[1][n]),
            "d": _plus(_exact(z[n]), _exact(-t[n])),
        }


@_formula("refloss.stages.divergence:forward")
def _(rng):
    for choice, form in enumerate(divergence.FORMS):
        for values in _divergences(rng, form):
            yield tex.Scope({name: values[name] for name in ("L", "p", "q", "m")}, RANGES, choice)


def _gradients_of_divergences(form):
    def scopes(rng):
        for values in _divergences(rng, form):
            names = (r"\partial L/\partial z", r"\partial L/\partial t", "L", "p", "q", "m")
            yield tex.Scope({name: values[name] for name in names}, RANGES)

    return scopes


_formula("refloss.stages.divergence:backward", 0)(_gradients_of_divergences("forward"))
_formula("refloss.stages.divergence:backward", 1)(_gradients_of_divergences("jensen-shannon"))


@_formula("refloss.stages.divergence:compare")
def _(rng):
    for values in _divergences(rng):
        yield tex.Scope({name: values[name] for name in (r"\delta", "d", "p")}, RANGES)


@_formula("refloss.stages.divergence:terms")
def _(rng):
    for scale in (0.5, 3.0):
        for values in _divergences(rng, scale=scale):
            q, p = (np.array([[float(entry) for entry in values[name]]]) for name in ("q", "p"))
            delta = Pair.of(np.array([[float(entry) for entry in values[r"\delta"]]]))
            h = _exact(divergence.terms(p, q, delta)[0])
            yield tex.Scope({"h": h, "p": values["p"], "q": values["q"], r"\delta": values[r"\delta"]}, RANGES)


@_formula("refloss.stages.divergence:logs_over_mean")
def _(rng):
    for values in _divergences(rng, scale=2.0):
        delta = Pair.of(np.array([[float(entry) for entry in values[r"\delta"]]]))
        r, s = (_exact(part[0]) for part in divergence.logs_over_mean(delta))
        yield tex.Scope({"r": r, "s": s, r"\delta": values[r"\delta"]}, RANGES)


# ---------------------------------------------------------------------------------------------------------- the losses


@_formula("refloss.losses.divergence:KLDivergence")
def _(rng):
    z, t = rng.normal(size=(2, N, C))
    values = {"L": _exact(refloss.KLDivergence(reduction="none")(z, t))}
    yield tex.Scope(values | {"q": _exact(refloss.softmax(z)), "p": _exact(refloss.softmax(t))}, RANGES)


@_formula("refloss.functions:entropy")
def _(rng):
    z = rng.normal(size=(N, C))
    for n, found in enumerate(refloss.entropy(z)):
        yield tex.Scope({"H": _exact(found), "z": _exact(z[n])}, RANGES)


@_formula("refloss.functions:softmax")
def _(rng):
    z = rng.normal(size=(N, C)) * 2.0
    for n, p in enumerate(refloss.softmax(z)):
        yield tex.Scope({"p": _exact(p), "z": _exact(z[n])}, RANGES)


@_formula("refloss.functions:log_softmax")
def _(rng):
    z = rng.normal(size=(N, C)) * 2.0
    for n, log_p in enumerate(refloss.log_softmax(z)):
        yield tex.Scope({r"\log p": _exact(log_p), "z": _exact(z[n])}, RANGES)


@_formula("refloss.functions:logsumexp")
def _(rng):
    z, largest = _rows(rng)
    for n, (a, row_max) in enumerate(largest):
        yield tex.Scope({"left": _exact(refloss.logsumexp(z)[n]), "z": _exact(z[n]), "a": a, "M": row_max}, RANGES)


@_formula("refloss.losses.softmax:CrossEntropy")
def _(rng):
    z = rng.normal(size=(N, C)) * 2.0
    for _, y in _labels(rng):
        loss = refloss.CrossEntropy(reduction="none", label_smoothing=0.3, class_weight=SETTINGS.class_weight)
        yield tex.Scope(
            {
                "L": _exact(loss(z, y)),
                "t": _exact(_targets(y).t),
                "p": _exact(refloss.softmax(z)),
                "z": _exact(z),
            },
            RANGES,
        )


@_formula("refloss.losses.softmax:SoftmaxLoss")
def _(rng):
    x, w, b, y = rng.normal(size=(N, D)), rng.normal(size=(C, D)), rng.normal(size=C), rng.permutation(C)[:N]
    yield tex.Scope(
        {
            "L": _exact(refloss.SoftmaxLoss(reduction="none")(x, w, y, b)),
            "x": _exact(x),
            "W": _exact(w),
            "b": _exact(b),
            "y": _exact(y),
        },
        RANGES,
    )


def _heads(rng, loss, **settings):
    """Scopes of a loss on directions, on both sides of right angles."""
    x, w, y = rng.normal(size=(N, D)), rng.normal(size=(C, D)), rng.permutation(C)[:N]
    theta = [[mp.acos(mp.fsum(map(mp.fmul, _unit(a), _unit(b)))) for b in _exact(w)] for a in _exact(x)]
    values = {
        "L": _exact(loss(x, w, y)),
        "x": _exact(x),
        "y": _exact(y),
        r"\theta:2": theta,
        r"\theta:1": lambda bound: theta[bound["n"]],
        **{name: mpf(value) for name, value in settings.items()},
    }
    yield tex.Scope(values, RANGES)


@_formula("refloss.losses.margin:ModifiedSoftmax")
def _(rng):
    yield from _heads(rng, refloss.ModifiedSoftmax(reduction="none"))


@_formula("refloss.losses.margin:NormFace")
def _(rng):
    yield from _heads(rng, refloss.NormFace(reduction="none", s=2.5), s=2.5)


@_formula("refloss.losses.margin:ASoftmax")
def _(rng):
    for m in (1.7, 4.0, 6.3):
        yield from _heads(rng, refloss.ASoftmax(reduction="none", s=0.7, m=m), s=0.7, m=m)


@_formula("refloss.losses.margin:CosFace")
def _(rng):
    yield from _heads(rng, refloss.CosFace(reduction="none", s=2.5, m=0.3), s=2.5, m=0.3)


@_formula("refloss.losses.margin:ArcFace")
def _(rng):
    yield from _heads(rng, refloss.ArcFace(reduction="none", s=2.5, m=0.6), s=2.5, m=0.6)


@_formula("refloss.losses.margin:CombinedMargin")
def _(rng):
    for settings, theta in _margins(rng):
        loss = refloss.CombinedMargin(m1=settings.m1, m2=settings.m2, m3=settings.m3)
        for at in theta:
            yield tex.Scope(
                {
                    r"\psi": lambda _, at=at, loss=loss: _exact(loss.target_logit(at)),
                    r"\theta": _exact(at),
                    **{f"m_{i + 1}": mpf(entry) for i, entry in enumerate(settings[:3])},
                }
            )


@_formula("refloss.losses.quality:AdaFace")
def _(rng):
    loss = refloss.AdaFace(m=0.4, h=0.5, mean=20.0, std=3.8, eps=0.2)
    for length, v in ((1.0, -1.0), (18.0, -0.25), (22.0, 0.25), (70.0, 1.0)):
        for theta in (0.1, 0.3, 1.0, 2.5, 2.74, 3.1):
            psi = _exact(loss.target_logit(theta, length))
            values = {"m": mpf(0.4), "v": mpf(v), r"\epsilon": mpf(0.2), r"\theta": _exact(theta)}
            yield tex.Scope(values | {r"\psi": lambda _, psi=psi: psi})


@_formula("refloss.losses.quality:AdaFace", 1)
def _(rng):
    for mean, std in ((20.0, 4.0), (0.0, 0.0), (100.0, 0.0)):  # with the last two a length is held and v is not
        loss = refloss.AdaFace(h=0.5, mean=mean, std=std, eps=0.3)
        x = rng.normal(size=(6, D)) * [[1e-5], [1.0], [7.0], [9.0], [20.0], [300.0]]
        v = loss.trace(x, np.eye(D), np.zeros(6, int))["quality"].output
        settings = {"h": mpf(0.5), r"\mu": mpf(mean), r"\sigma": mpf(std), r"\epsilon": mpf(0.3)}
        for entry, of_x in zip(_exact(v), _exact(x), strict=True):
            yield tex.Scope(settings | {"v": entry, "x": of_x})


def _updates(rng, which):
    loss = refloss.AdaFace(mean=3.0, std=2.0, momentum=0.3)
    x = rng.normal(size=(N, D)) * 3.0
    values = {
        "a": [_norm(entry) for entry in _exact(x)],
        "N": mpf(N),
        r"\alpha": mpf(0.3),
        r"\mu": mpf(3),
        r"\sigma": mpf(2),
        r"\bar a": mp.fsum(_norm(entry) for entry in _exact(x)) / N,
    }
    new = loss.updated(x)
    known = {r"\mu'": new.mean} if which == 0 else {r"\sigma'": new.std}
    if which == 0:
        del values[r"\bar a"]
    yield tex.Scope(values | {name: _exact(value) for name, value in known.items()}, RANGES)


_formula("refloss.losses.quality:AdaFace.updated", 0)(lambda rng: _updates(rng, 0))
_formula("refloss.losses.quality:AdaFace.updated", 1)(lambda rng: _updates(rng, 1))

BOUNDS = {"l_m": mpf(0.3), "u_m": mpf(0.9), "l:1": [mpf(2)], "u:1": [mpf(5)], "a:0": 0}  # l_a and u_a have an index


def _centers(rng):
    """Cosines of three centers per class, the largest, and what backward needs."""
    c = rng.uniform(-1.0, 1.0, size=(N, 3 * C))
    chosen = sub_centers.nearest(Pair.of(c), 3, lambda n, rows: rows[0])
    return c, *sub_centers.forward(Pair.of(c), chosen)


@_formula("refloss.stages.sub_centers:forward")
def _(rng):
    c, largest, _ = _centers(rng)
    values = {"c:2": _exact(largest), "c:3": _exact(c.reshape(N, C, 3))}
    yield tex.Scope(values, RANGES | {"j": 3})


@_formula("refloss.stages.sub_centers:backward")
def _(rng):
    *_, saved = _centers(rng)
    g = rng.normal(size=(N, C))
    gradient = sub_centers.backward(g, saved).reshape(N, C, 3)
    values = {r"\partial L/\partial c:3": _exact(gradient), r"\partial L/\partial c:2": _exact(g)}
    yield tex.Scope(values | {r"\kappa": (saved.chosen % 3).tolist()}, RANGES | {"j": 3})


@_formula("refloss.losses.quality:MagFace")
def _(rng):
    loss = refloss.MagFace(
        l_a=2.0, u_a=5.0, l_m=0.3, u_m=0.9, s=2.5, regularizer=0.7, boundary="none", reduction="none"
    )
    for scope in _heads(rng, loss, s=2.5):
        a = [min(max(_norm(entry), mpf(2)), mpf(5)) for entry in scope.values["x"]]
        m = [mpf(0.3) + (mpf(0.9) - mpf(0.3)) * (entry - 2) / 3 for entry in a]
        yield scope._replace(values={**scope.values, **BOUNDS, "a:1": a, "m": m, r"\lambda": mpf(0.7)})


@_formula("refloss.losses.quality:MagFace", 1)
def _(rng):
    loss = refloss.MagFace(l_a=2.0, u_a=5.0, l_m=0.3, u_m=0.9, boundary="none")
    x = rng.normal(size=(N, D)) * [[0.1], [1.5], [9.0]]
    theta = 1.0
    psi = [loss.target_logit(theta, np.linalg.norm(entry)) for entry in x]
    m = [mp.acos(entry) - theta for entry in _exact(psi)]
    yield tex.Scope({**BOUNDS, "m": m, "x": _exact(x)}, RANGES)


def _hard_heads(rng, loss, psi, **settings):
    """Scopes of a loss with hard classes; psi is what replaces the cosine of the target, and its threshold."""
    for scope in (scope for _ in range(8) for scope in _heads(rng, loss, s=2.5, t=0.4, **settings)):
        angles = scope.values[r"\theta:2"]
        c = [[mp.cos(entry) for entry in row] for row in angles]
        tau = [psi(angles[n][y]) for n, y in enumerate(scope.values["y"])]
        yield scope._replace(values={**scope.values, "c": c, r"\psi": psi, r"\tau": tau})


def _curricular(rng):
    """Scopes of CurricularFace, with its η of all classes."""
    loss = refloss.CurricularFace(s=2.5, m=0.6, t=0.4, boundary="none", reduction="none")
    for scope in _hard_heads(rng, loss, lambda theta: mp.cos(theta + mpf(0.6)), m=0.6):
        eta = [
            [c * (mpf(0.4) + c) if c > tau else c for c in row]
            for row, tau in zip(scope.values["c"], scope.values[r"\tau"], strict=True)
        ]
        yield scope._replace(values={**scope.values, r"\eta": eta})


@_formula("refloss.losses.negatives:CurricularFace")
def _(rng):
    for scope in _curricular(rng):
        yield scope._replace(values={name: value for name, value in scope.values.items() if name != r"\tau"})


@_formula("refloss.losses.negatives:CurricularFace", 1)
def _(rng):
    """η of the classes that are not the target, as the stage returns it."""
    for _ in range(8):
        x, w, y = rng.normal(size=(N, D)), rng.normal(size=(C, D)), rng.permutation(C)[:N]
        loss = refloss.CurricularFace(m=0.6, t=0.4)
        others = np.array([[k for k in range(C) if k != label] for label in y])
        eta = np.take_along_axis(loss.trace(x, w, y)["negatives"].output, others, axis=1)
        angles = [[mp.acos(mp.fsum(map(mp.fmul, _unit(a), _unit(b)))) for b in _exact(w)] for a in _exact(x)]
        values = {
            r"\eta": _exact(eta),
            "c": [[mp.cos(row[k]) for k in kept] for row, kept in zip(angles, others.tolist(), strict=True)],
            r"\theta": lambda bound, angles=angles: angles[bound["n"]],
            "y": _exact(y),
            "m": mpf(0.6),
            "t": mpf(0.4),
        }
        yield tex.Scope(values, RANGES | {"k": C - 1})


@_formula("refloss.losses.negatives:CurricularFace.updated")
def _(rng):
    for scope in _heads(rng, refloss.CosFace()):
        x, w = rng.normal(size=(N, D)), rng.normal(size=(C, D))
        y = np.array(scope.values["y"])
        new = refloss.CurricularFace(t=0.4, momentum=0.3).updated(x, w, y)
        angles = [[mp.acos(mp.fsum(map(mp.fmul, _unit(a), _unit(b)))) for b in _exact(w)] for a in _exact(x)]
        values = {"t'": _exact(new.t), "t": mpf(0.4), r"\alpha": mpf(0.3), "N": mpf(N), "y": scope.values["y"]}
        yield tex.Scope(values | {r"\theta": lambda bound, angles=angles: angles[bound["n"]]}, RANGES)


@_formula("refloss.losses.negatives:MVSoftmax")
def _(rng):
    settings = {"s": 2.5, "m": 0.3, "t": 0.4, "boundary": "none", "reduction": "none"}
    yield from _hard_heads(rng, refloss.MVSoftmax(**settings), lambda theta: mp.cos(theta) - mpf(0.3))
    on_angle = refloss.MVSoftmax(**settings, margin="arc")
    yield from _hard_heads(rng, on_angle, lambda theta: mp.cos(theta + mpf(0.3)))


SPHEREFACE_R = (refloss.SphereFaceR(s=2.5, m=1.7), refloss.SphereFaceR(s=2.5, m=1.7, version=2))


@_formula("refloss.losses.class_curves:SphereFaceR")
def _(rng):
    m = mpf(1.7)
    curves = (
        (lambda theta: mp.cos(min(m * theta, mp.pi)), mp.cos),
        (mp.cos, lambda theta: mp.cos(theta / m)),
    )
    for loss, (psi, eta) in zip(SPHEREFACE_R, curves, strict=True):
        for scope in _heads(rng, replace(loss, reduction="none"), s=2.5):
            etas = [list(map(eta, row)) for row in scope.values[r"\theta:2"]]
            yield scope._replace(values={**scope.values, r"\psi": psi, r"\eta": etas})


def _of_others(rng, loss, stage):
    """η of the classes that are not the target, as a stage returns it, and their angles; their ψ and its cosines."""
    x, w, y = rng.normal(size=(N, D)), rng.normal(size=(C, D)), rng.permutation(C)[:N]
    others = np.array([[k for k in range(C) if k != label] for label in y])
    steps = loss.trace(x, w, y)
    eta = np.take_along_axis(steps[stage].output, others, axis=1)
    every = [[mp.acos(mp.fsum(map(mp.fmul, _unit(a), _unit(b)))) for b in _exact(w)] for a in _exact(x)]
    angles = [[row[k] for k in kept] for row, kept in zip(every, others.tolist(), strict=True)]
    return _exact(eta), angles, _exact(steps["margin"].output), [list(map(mp.cos, row)) for row in every], _exact(y)


def _curves_of_sphereface_r(rng, version):
    loss = SPHEREFACE_R[version - 1]
    for theta in (0.4, 1.5, 1.9, 3.0):  # π/m is between the two in the middle
        eta, angles, *_ = _of_others(rng, loss, ("cosine", "class_angles")[version - 1])
        values = {
            r"\psi": lambda _, theta=theta: _exact(loss.target_logit(theta)),
            r"\eta": eta,
            r"\theta:0": mpf(theta),
            r"\theta:2": angles,
            "m": mpf(1.7),
        }
        yield tex.Scope(values, RANGES | {"k": C - 1})


_formula("refloss.losses.class_curves:SphereFaceR", 1)(lambda rng: _curves_of_sphereface_r(rng, 1))
_formula("refloss.losses.class_curves:SphereFaceR", 2)(lambda rng: _curves_of_sphereface_r(rng, 2))


@_formula("refloss.losses.class_curves:CircleLoss")
def _(rng):
    m = mpf(0.4)
    for scope in _heads(rng, refloss.CircleLoss(s=2.5, m=0.4, reduction="none"), s=2.5):
        c = [list(map(mp.cos, row)) for row in scope.values[r"\theta:2"]]
        psi = [m**2 - (1 - row[y]) ** 2 for row, y in zip(c, scope.values["y"], strict=True)]
        eta = [[entry**2 - m**2 if entry > -m else mpf(0) for entry in row] for row in c]
        yield scope._replace(values={**scope.values, r"\psi": psi, r"\eta": eta})


@_formula("refloss.losses.class_curves:CircleLoss", 1)
def _(rng):
    for _ in range(4):
        *_, psi, c, y = _of_others(rng, refloss.CircleLoss(m=0.4), "negatives")
        yield tex.Scope({r"\psi": psi, "c": c, "y": y, "m": mpf(0.4)}, RANGES)


@_formula("refloss.losses.class_curves:CircleLoss", 2)
def _(rng):
    for _ in range(4):
        eta, angles, *_ = _of_others(rng, refloss.CircleLoss(m=0.4), "negatives")
        values = {r"\eta": eta, "c": [list(map(mp.cos, row)) for row in angles], "m": mpf(0.4)}
        yield tex.Scope(values, RANGES | {"k": C - 1})


@_formula("refloss.losses.class_curves:InterTopK")
def _(rng):
    loss = refloss.InterTopK(s=2.5, m=0.6, penalty=0.5, k=2, boundary="none", reduction="none")
    for _ in range(4):
        for scope in _heads(rng, loss, s=2.5):
            angles, labels = scope.values[r"\theta:2"], scope.values["y"]
            others = [[*row[:y], mpf(9), *row[y + 1 :]] for row, y in zip(angles, labels, strict=True)]
            values = {
                r"\psi": lambda theta: mp.cos(theta + mpf(0.6)),
                "c": [list(map(mp.cos, row)) for row in angles],
                "K": _nearest(others, 2),
                "m'": mpf(0.5),
            }
            yield scope._replace(values={**scope.values, **values})


SPHERE_FACE_2 = refloss.SphereFace2(m=0.3, s=2.5, t=3, alpha=0.6, weight=7.0, reduction="none")
OF_SPHERE_FACE_2 = {"m": 0.3, "s": 2.5, "t": 3.0, r"\alpha": 0.6, "w": 7.0}
UNI_FACE = refloss.UniFace(m=0.3, s=0.9, l=1.7, reduction="none")
OF_UNI_FACE = {"m": 0.3, "s": 0.9, "l": 1.7}


def _with_a_bias(rng, loss, settings):
    """Labels, the bias, and what the loss has for them: its logits, and the losses of rows."""
    x, w, y, b = rng.normal(size=(N, D)), rng.normal(size=(C, D)), rng.permutation(C)[:N], rng.normal() * 0.3
    z = loss.trace(x, w, y, b)["bias"].output
    values = {"L": _exact(loss(x, w, y, b)), "z": _exact(z), "y": _exact(y), r"\operatorname{softplus}": _softplus}
    yield tex.Scope(values | {name: mpf(value) for name, value in settings.items()}, RANGES)


def _logits_of_last(rng, loss, settings):
    """Logits with a bias, of the target, which is the last class, and of the others; their cosines."""
    for _ in range(2):
        x, w, y, b = rng.normal(size=(N, D)), rng.normal(size=(C + 1, D)), np.full(N, C), rng.normal() * 0.3
        c = [[mp.fsum(map(mp.fmul, _unit(i), _unit(j))) for j in _exact(w)] for i in _exact(x)]
        values = {"z": _exact(loss.trace(x, w, y, b)["bias"].output), "c": c, "y": _exact(y), "b": mpf(b)}
        yield tex.Scope(values | {name: mpf(value) for name, value in settings.items()}, OF_LAST)


for family, loss, settings in (("SphereFace2", SPHERE_FACE_2, OF_SPHERE_FACE_2), ("UniFace", UNI_FACE, OF_UNI_FACE)):
    for which, scopes in enumerate((_with_a_bias, _logits_of_last)):
        _formula(f"refloss.losses.sigmoid:{family}", which)(
            lambda rng, scopes=scopes, loss=loss, settings=settings: scopes(rng, loss, settings)
        )


def _of_pairs(rng):
    """Embeddings pair by pair, and their angles."""
    x, w = rng.normal(size=(2, N, D))
    return x, w, [[mp.acos(mp.fsum(map(mp.fmul, _unit(a), _unit(b)))) for b in _exact(w)] for a in _exact(x)]


@_formula("refloss.losses.sigmoid:SigLIP")
def _(rng):
    (x, w, theta), t, b = _of_pairs(rng), 2.5, -0.7
    values = {"L": _exact(refloss.SigLIP(reduction="none")(x, w, t, b)), "c": [list(map(mp.cos, row)) for row in theta]}
    values |= {"t": mpf(t), "b": mpf(b), r"\operatorname{softplus}": _softplus}
    yield tex.Scope(values, RANGES | {"k": N})


@_formula("refloss.losses.contrastive:InfoNCE")
def _(rng):
    (x, w, theta), s = _of_pairs(rng), 2.5
    values = {"L": _exact(refloss.InfoNCE(reduction="none")(x, w, s)), r"\theta": theta, "s": mpf(s)}
    yield tex.Scope(values, RANGES | {"k": N})


@_formula("refloss.losses.centers:SubCenterArcFace")
def _(rng):
    x, w, y = rng.normal(size=(N, D)), rng.normal(size=(C, 3, D)), rng.permutation(C)[:N]
    every = [
        [[mp.acos(mp.fsum(map(mp.fmul, _unit(a), _unit(b)))) for b in centers] for centers in _exact(w)]
        for a in _exact(x)
    ]
    theta = [[min(angles) for angles in row] for row in every]
    values = {
        "L": _exact(refloss.SubCenterArcFace(s=2.5, m=0.6, reduction="none")(x, w, y)),
        "y": _exact(y),
        r"\theta:3": every,
        r"\theta:1": lambda bound: theta[bound["n"]],
        "s": mpf(2.5),
        "m": mpf(0.6),
    }
    yield tex.Scope(values, RANGES | {"j": 3})


@_formula("refloss.losses.pairwise:Triplet")
def _(rng):
    a, p, n = rng.normal(size=(N, D)), rng.normal(size=(N, D)), rng.normal(size=(N, D))
    p[0], n[1] = a[0] + 0.1, a[1] + 5.0  # one that keeps its margin, one that does not
    n[0] = a[0] + 5.0
    n[2] = a[2] - (p[2] - a[2])  # a loss of about m
    for squared in (True, False):

        def distance(u, v, squared=squared):
            length = _norm(_plus(u, [-entry for entry in v]))
            return length**2 if squared else length

        loss = refloss.Triplet(m=0.4, squared=squared, reduction="none")
        yield tex.Scope(
            {"L": _exact(loss(a, p, n)), "a": _exact(a), "p": _exact(p), "n": _exact(n), "m": mpf(0.4), "d": distance},
            RANGES,
        )


# ----------------------------------------------------------------------------------------------------------- the tests


def _all_formulas() -> list[tuple[str, int]]:
    """Every displayed formula in a docstring of the stages and the losses."""
    formulas = []
    modules = [angle, bias, binary_cross_entropy, class_angles, cosine, cross_entropy, divergence, linear, log_softmax]
    modules += [logits, logsumexp, margin, negatives, normalize, quality, softcap, softmax, sub_centers, triplet]
    modules += [z_loss]
    losses = ("softmax", "margin", "quality", "negatives", "centers", "class_curves", "sigmoid", "contrastive")
    names = ("refloss.functions", *(f"refloss.losses.{each}" for each in (*losses, "pairwise", "divergence")))
    for module in (*modules, *map(importlib.import_module, names)):
        for name, item in vars(module).items():
            if (getattr(item, "__module__", ""), getattr(item, "__name__", "")) != (module.__name__, name):
                continue
            own = vars(item).items() if inspect.isclass(item) else ()
            methods = {f"{name}.{method}": part for method, part in own if inspect.isfunction(part)}
            for documented, part in ({name: item} | methods).items():
                count = len(DISPLAY.findall(inspect.getdoc(part) or ""))
                formulas += [(f"{module.__name__}:{documented}", which) for which in range(count)]
    return formulas


def test_every_displayed_formula_of_stages_and_losses_is_evaluated():
    assert sorted((bound.name, bound.which) for bound in BOUND) == sorted(_all_formulas())


def test_no_other_docstring_of_theirs_displays_a_formula():
    sources = [inspect.getsource(importlib.import_module(name)) for name in {b.name.split(":")[0] for b in BOUND}]
    assert sum(len(DISPLAY.findall(source)) for source in sources) == len(BOUND)


def _scopes(scopes: Scopes) -> list[tex.Scope]:
    return [scope for seed in SEEDS for scope in scopes(np.random.default_rng(seed))]


def _caught(statements: Any, scopes: list[tex.Scope]) -> bool:
    for scope in scopes:
        try:
            if not tex.gap(statements, scope) <= DIFFERS:
                return True
        except (tex.UnknownError, TypeError, IndexError, ValueError, ZeroDivisionError, KeyError):
            return True
    return False


def _missed(source: str, scopes: list[tex.Scope]) -> list[str]:
    """Evaluate a formula; return the alterations that go unnoticed."""
    statements = tex.read(source)
    assert max(tex.gap(statements, scope) for scope in scopes) <= AGREES
    return [what for what, altered in tex.alterations(statements) if not _caught(altered, scopes)]


@pytest.mark.parametrize("bound", BOUND, ids=lambda bound: bound.name.removeprefix("refloss."))
def test_a_formula_is_what_the_code_computes_and_no_altered_one_is(bound):
    with mp.workdps(40):
        source = DISPLAY.findall(_docstring(bound.name))[bound.which]
        equal = EQUAL.get(bound.name, ()) or EQUAL.get(f"{bound.name}, {bound.which}", ())
        assert _missed(source, _scopes(bound.scopes)) == list(equal)


ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.*?) ?\|$", re.MULTILINE)
PLAIN = {"φ": r"\varphi", "π": r"\pi", "θ": r"\theta", "≤": r"\le", "m3": "m_3", "cos": r"\cos"}
TABLE = {rule: (where, there) for rule, where, there in ROW.findall(_docstring("refloss.stages.margin:forward"))}
OF_ONE_LOSS = {  # the other of which, with its two boundaries, is in the formula of AdaFace
    rule: (where, there)
    for rule, where, there in re.findall(
        r"^\| `(\w+)` \([\w-]+\) \| (.+?) \| (.*?) ?\|$", _docstring("refloss.stages.margin:forward"), re.MULTILINE
    )
}
GENERAL = ((1.35, 0.45, 0.2), (3.2, 0.7, 0.4))
ADDED = ((1.0, 0.0, 0.35), (1.0, 0.0, 0.2))  # margins on the cosine alone


def test_the_table_of_rules_has_every_rule():
    assert set(TABLE) == set(margin.RULES)
    assert set(OF_ONE_LOSS) == set(margin.OF_ONE_LOSS)
    assert TABLE.pop("none") == ("nowhere", "")


@pytest.mark.parametrize("rule", [rule for rule in margin.RULES if rule != "none"])
def test_a_row_of_the_table_is_what_the_code_computes_and_no_altered_one_is(rule):
    where, there = TABLE[rule]
    for plain, symbol in PLAIN.items():
        where = where.replace(plain, symbol)
    value, *defined = INLINE.findall(there)
    source = rf"\psi(\theta) = h\,({value}) + (1 - h)\,(\cos\varphi - m_3), \qquad h = [{where}]"
    source += "".join(rf", {entry}" for entry in defined)
    with mp.workdps(40):
        scopes = []
        for m1, m2, m3 in ADDED if rule == "conditional" else GENERAL:
            loss = refloss.CombinedMargin(m1=m1, m2=m2, m3=m3, boundary=rule)
            for theta in np.linspace(0.05, 3.1, 24):
                psi = _exact(loss.target_logit(theta))
                values = {r"\theta": _exact(theta), r"\varphi": mpf(m1) * _exact(theta) + mpf(m2)}
                values |= {"m_1": mpf(m1), "m_2": mpf(m2), "m_3": mpf(m3)}
                scopes.append(tex.Scope({**values, r"\psi": lambda _, psi=psi: psi}))
        assert _missed(source, scopes) == []


def test_the_row_of_mv_softmax_is_what_the_code_computes_and_no_altered_one_is():
    (where, there), psi = OF_ONE_LOSS["acute"], r"\cos\theta - m_3"
    for plain, symbol in PLAIN.items():
        where = where.replace(plain, symbol)
    (value,) = INLINE.findall(there)
    with mp.workdps(40):
        scopes = []
        for m in (0.35, 0.2):
            loss = refloss.MVSoftmax(m=m)
            for theta in np.linspace(0.05, 3.1, 24):
                value_there = _exact(loss.target_logit(theta))
                known = {r"\psi": lambda _, value_there=value_there: value_there}
                scopes.append(tex.Scope({r"\theta": _exact(theta), "m_3": mpf(m), **known}))
        assert _missed(rf"\psi(\theta) = h\,({value}) + (1 - h)\,({psi}), \qquad h = [{where}]", scopes) == []


def test_annealing_is_what_the_code_computes_and_no_altered_formula_is():
    (source,) = [entry for entry in INLINE.findall(_docstring("refloss.stages.margin:forward")) if "lambda" in entry]
    with mp.workdps(40):
        scopes = []
        for weight, theta in ((0.7, 1.0), (5.0, 2.0), (20.0, 3.0)):
            plain, annealed = (refloss.ASoftmax(annealing=entry).target_logit(theta) for entry in (0.0, weight))
            values = {r"\psi": plain, r"\lambda": weight, r"\theta": theta, "L": annealed}
            scopes.append(tex.Scope({name: _exact(value) for name, value in values.items()}))
        assert _missed(f"L = {source}", scopes) == []


OPTIONS = INLINE.findall(DISPLAY.sub("", _docstring("refloss.losses.softmax:CrossEntropy")))


def test_the_targets_of_cross_entropy_are_what_the_code_computes_and_no_altered_formula_is():
    formulas = OPTIONS[:2]
    with mp.workdps(40):
        scopes = _scopes(lambda rng: (_of_targets(y, choice) for choice, y in _labels(rng)))
        assert _missed(r" \text{or} ".join(formulas), scopes) == ["0: index 0 of v is y_n"]  # as in EQUAL


def test_the_options_of_cross_entropy_are_what_the_code_computes_and_no_altered_formula_is():
    """What the loss does with z is what it does, without options, with the formula's capped logits; and the z-loss."""
    cap, term = OPTIONS[2:]
    labels = np.arange(N)
    with mp.workdps(40):
        of_cap, of_term = [], []
        for rng in map(np.random.default_rng, SEEDS):
            z = rng.normal(size=(N, C)) * 2.0
            options = {"logit_scale": 1.3, "softcap": 2.5}
            capped = refloss.CrossEntropy(**options).trace(z, labels)["softcap"].output
            scaled = [[mpf(1.3) * entry for entry in row] for row in _exact(z)]
            values = {"z'": _exact(capped), "z": scaled, "K": mpf(2.5)}
            for n in range(N):
                of_cap.append(tex.Scope({name: it if name == "K" else it[n] for name, it in values.items()}, RANGES))
            plain, with_term = (
                refloss.CrossEntropy(**options, z_loss=weight, reduction="none")(z, labels) for weight in (0.0, 0.7)
            )
            lse = _exact(refloss.logsumexp(capped))
            added = [a - b for a, b in zip(_exact(with_term), _exact(plain), strict=True)]
            of_term.append(tex.Scope({"r": added, r"\operatorname{lse}": lse, r"\lambda": mpf(0.7)}, RANGES))
        assert _missed(f"z'_k = {cap.replace('z', 'z_k')}", of_cap) == []
        assert _missed(f"r_n = {term}", of_term) == []


# ---------------------------------------------------------------------------------------------------- the reader itself


@pytest.mark.parametrize(
    "source",
    [
        r"a = \int b",  # not in the grammar
        "a = (b",
        "a = b)",
        r"a = \frac{b}",
        r"a = [b]",
        "a < b",
        r"a = \hat",
        r"a = \frac{\partial b}{c}",
        "a = b_{n+1}",
        r"a = \cosh b",
    ],
)
def test_what_is_not_in_the_grammar_is_refused(source):
    with pytest.raises(tex.UnreadableError):
        tex.read(source)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        (r"L = 2\cdot3 - 4/8", "5.5"),
        (r"L = -2^3 + (-1)^2", "-7"),
        (r"L = \frac{1}{2}\,\sqrt{16}", "2"),
        (r"L = \sum_{k\ne a} k", "5"),
        (r"L = \max_k k + \max(1, -7)", "4"),
        (r"L = \cos\pi - \log e", "-2"),
        (r"L = \cos 2\pi/2", "0.5"),
        (r"L = [2 \ge 2] + [3 < 2]", "1"),
        (r"L = \lfloor 7/2\rfloor", "3"),
        (r"L = h(2), \quad h = 4", "8"),
        (r"L = d(2, 3), \quad d(a, b) = a - b", "-1"),
        (r"L = 1 \text{ or } 5", "5"),
    ],
)
def test_formulas_are_read_as_people_read_them(source, value):
    scope = tex.Scope({"L": mpf(value), "a": 1}, {"k": 4}, choice=1)
    assert tex.gap(tex.read(source), scope) < 1e-14


def test_a_formula_without_anything_to_compare_is_refused():
    with pytest.raises(tex.UnknownError, match="nothing to compare"):
        tex.gap(tex.read("a = 1"), tex.Scope({}))


def test_alterations_of_every_kind_are_made():
    source = r"L = -2\cos(m)\sum_{k\ne a} x_k^2 [k = 1] + \frac{u\cdot v}{\lVert v\rVert}"
    kinds = {what.partition(": ")[2] for what, _ in tex.alterations(tex.read(source))}
    assert kinds >= {
        "sign of all",
        "twice all",
        "sign of term 0",
        "term 1 dropped",
        "minus dropped",
        "2 + 1",
        "factor 0 dropped",
        "exponent dropped",
        r"\cos exchanged",
        "function dropped",
        "norm dropped",
        "upside down",
        "condition dropped",
        "condition negated",
        "index 0 of x is a",
        "index 0 of x is y_n",
    }
