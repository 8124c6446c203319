"""Inputs drawn to break a promise. Used by test_hostile.py and, by the ten thousand, by .ci/record.

A case is small enough for `certified`. Its kind says what is hard about it; settings, scales, weights, smoothing and
the upstream gradient are drawn beside, now and then from the ends of their ranges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import refloss
from support.checks import rounded_share as share

Random = np.random.Generator
LARGEST = np.finfo(np.float64).max
RULES = ("none", "hard", "easy", "keep", "continuous", "monotone", "clamp", "min")
ENGINES = {
    "chain": {"engine": "chain"},
    "fused": {"engine": "fused"},
    "fused, float32": {"engine": "fused", "dtype": np.float32},
    "dd": {"engine": "dd"},
    "auto": {"engine": "auto"},
}


class Case(NamedTuple):
    """A loss and what it is called with."""

    kind: str
    loss: Any
    inputs: tuple[Any, ...]
    upstream: Any
    single: bool
    """Whether all numbers are float32."""
    upstream_lse: Any = None

    @property
    def calls(self) -> dict[str, Any]:
        """The upstream gradients, as a loss's methods take them."""
        lse = {} if self.upstream_lse is None else {"upstream_lse": self.upstream_lse}
        return {"upstream": self.upstream} | lse


def drawn(seed: int, number: int) -> Case:
    """Return case `number` of a round."""
    random = np.random.default_rng([seed, number])
    kind = str(random.choice(list(KINDS), p=SHARES))
    for _ in range(100):
        try:
            loss, inputs = KINDS[kind](random)
            break
        except ValueError:  # settings that a loss refuses, as a rule that cannot act
            continue
    single = bool(random.random() < 0.3)
    if single:
        inputs = tuple(map(_in_single, inputs))
    rows = np.shape(inputs[0])[:1] if loss.reduction == "none" else ()
    upstream, lse = _upstream(random, rows), None
    if kind in ("plain heads", "logits") and random.random() < 0.2:
        lse = _upstream(random, np.shape(inputs[0])[:1])
    if single:
        upstream, lse = _in_single(upstream), None if lse is None else _in_single(lse)
    return Case(kind, loss, inputs, upstream, single, lse)


def _upstream(random: Random, shape: tuple[int, ...]) -> np.ndarray:
    return np.clip(random.standard_normal(shape) * _far(random, 0.25), -1e308, 1e308)


def _in_single(numbers: Any) -> Any:
    """Round to float32 what is not an integer, and keep it finite, and no row 0 that was none."""
    array = np.asarray(numbers)
    if array.dtype.kind in "iu":
        return numbers
    with np.errstate(over="ignore", under="ignore"):
        rounded = array.astype(np.float32).astype(np.float64)
    most = float(np.finfo(np.float32).max)
    rounded = np.where(np.isfinite(array), np.clip(rounded, -most, most), rounded)
    if rounded.ndim == 0 and array != 0.0 and rounded == 0.0:  # a scale is above 0
        rounded = np.copysign(2.0**-140, array)
    if rounded.ndim == 2:
        lost = (array != 0.0).any(axis=1) & ~(rounded != 0.0).any(axis=1)
        rounded[lost] = np.sign(array[lost]) * 2.0**-140
    return rounded


# -------------------------------------------------------------------------------------------------- settings and scales


def _far(random: Random, chance: float) -> float:
    """1, or now and then a power of ten up to the ends of float64's range."""
    if random.random() > chance:
        return 1.0
    return float(10.0 ** random.uniform(*random.choice([(-4.0, 4.0), (-30.0, 30.0), (-307.0, 300.0)])))


def _pick(random: Random, *choices: Any) -> Any:
    return choices[random.integers(len(choices))]


def _labels(random: Random, n: int, c: int) -> np.ndarray:
    y = random.integers(0, c, n)
    return np.where(random.random(n) < 0.1, -100, y) if random.random() < 0.3 else y


def _shared(random: Random, c: int) -> dict[str, Any]:
    """Draw what losses with labels have in common."""
    settings: dict[str, Any] = {"reduction": _pick(random, "mean", "sum", "none")}
    if random.random() < 0.3:
        settings["label_smoothing"] = _pick(random, 0.1, 0.5, 1.0, 1e-17, 1.0 - 2.0**-53, 1e-300)
    if random.random() < 0.3:
        ends = (0.0, 1.0, 1.0, 1e-300, 1e300, random.random(), 3.0, -1.0, -random.random())
        settings["class_weight"] = tuple(float(_pick(random, *ends)) for _ in range(c))
    return settings


def _options(random: Random) -> dict[str, Any]:
    """Draw what is done to logits, and with their log-sum-exp."""
    settings: dict[str, Any] = {}
    if random.random() < 0.2:
        settings["logit_scale"] = _pick(random, 0.1, 3.0, _far(random, 0.5))
    if random.random() < 0.25:
        settings["softcap"] = _pick(random, 30.0, 50.0, 1.0, _far(random, 0.5))
    if random.random() < 0.25:
        settings["z_loss"] = _pick(random, 1e-4, 1.0, _far(random, 0.5))
    return settings


def _margin(random: Random, c: int) -> Any:
    """Draw a loss with a margin, or without."""
    settings = _shared(random, c)
    if random.random() < 0.2:
        settings["gradient"] = "detached"
    name = _pick(random, "Modified", "Norm", "A", "Cos", "Arc", "Arc", "Combined", "Combined")
    if name == "Modified":
        return refloss.ModifiedSoftmax(**settings)
    settings["s"] = _pick(random, 1.0, 64.0, 8.0, None, _far(random, 0.5))
    if name == "Norm":
        return refloss.NormFace(**settings)
    if name == "A":
        m = _pick(random, 1.0, 2.0, 3.0, 4.0, 1.5, float(random.uniform(1.0, 30.0)))
        return refloss.ASoftmax(m=m, annealing=_pick(random, 0.0, 0.0, 5.0, 1e3), **settings)
    if name == "Cos":
        rule = _pick(random, "none", "none", "conditional")
        return refloss.CosFace(m=_pick(random, 0.35, 0.1, 1.0), boundary=rule, **settings)
    if name == "Arc":
        return refloss.ArcFace(m=_pick(random, 0.5, 1.0, 0.1, 3.0), boundary=_pick(random, *RULES), **settings)
    m1 = _pick(random, 1.0, 2.0, 3.0, 1.35, float(random.uniform(1.0, 30.0)))
    return refloss.CombinedMargin(
        m1=m1, m2=_pick(random, 0.3, 1.0, 0.1), m3=_pick(random, 0.2, 0.1), boundary=_pick(random, *RULES), **settings
    )


# ---------------------------------------------------------------------------------------------------------------- kinds


def _numbers(random: Random, shape: tuple[int, ...]) -> np.ndarray:
    """Draw entries: normal, short decimals, of mixed magnitudes in a row, subnormal, or equal."""
    kind = random.random()
    numbers = random.standard_normal(shape)
    if kind < 0.25:
        numbers = np.round(numbers, int(random.integers(1, 3)))
    elif kind < 0.4:
        reach = _pick(random, 3.0, 20.0, 150.0, 300.0)
        numbers = numbers * 10.0 ** random.uniform(-reach, reach, shape)
    elif kind < 0.45:
        numbers = np.rint(numbers * 100.0) * 5e-324
    elif kind < 0.5:
        numbers = np.ones(shape) * numbers.flat[0]
    numbers = np.clip(numbers, -1e300, 1e300)
    empty = ~(numbers != 0.0).any(axis=-1)
    numbers[empty] = 1.0
    return numbers


def _sized(random: Random, rows: np.ndarray) -> np.ndarray:
    """Scale all rows, or each by itself, now and then far."""
    size = _far(random, 0.3)
    if random.random() < 0.2:
        size = np.array([_far(random, 0.5) for _ in rows])[:, None]
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.clip(rows * size, -LARGEST / 8.0, LARGEST / 8.0)
    lost = ~(scaled != 0.0).any(axis=1)
    scaled[lost] = rows[lost]
    return scaled


def _sizes(random: Random) -> tuple[int, int, int]:
    return int(random.integers(1, 4)), int(random.integers(1, 5)), int(random.integers(1, 5))


def head(random: Random) -> tuple[Any, Any]:
    """A margin head of any numbers."""
    n, c, d = _sizes(random)
    x, w = _sized(random, _numbers(random, (n, d))), _sized(random, _numbers(random, (c, d)))
    if random.random() < 0.3:  # classes next to embeddings, or equal to them, or to each other
        w[random.integers(c)] = x[random.integers(n)] * _pick(random, 1.0, -1.0, 0.5, 1.0 + 2.0**-40)
    if random.random() < 0.2:
        w[:] = w[random.integers(c)]
    return _margin(random, c), (x, w, _labels(random, n, c))


def _with_scale(random: Random, c: int) -> dict[str, Any]:
    """Draw what losses on directions have in common."""
    settings = _shared(random, c) | {"s": _pick(random, 1.0, 64.0, 16.0, None, _far(random, 0.5))}
    return settings | ({"gradient": "detached"} if random.random() < 0.2 else {})


def per_sample(random: Random) -> tuple[Any, Any]:
    """Margins given, of any sign and size, and margins by lengths: at their bounds, or of a steep function."""
    n, c, d = _sizes(random)
    x, w = _sized(random, _numbers(random, (n, d))), _sized(random, _numbers(random, (c, d)))
    if random.random() < 0.3:
        w[random.integers(c)] = x[random.integers(n)] * _pick(random, 1.0, -1.0, 0.5, 1.0 + 2.0**-40)
    settings, name = _with_scale(random, c), _pick(random, "Cos", "Arc", "Combined", "Ada", "Ada", "Mag", "Mag")
    if name in ("Cos", "Arc", "Combined"):
        most = 2.0 if name == "Cos" else math.pi
        ends = (0.0, 0.5, -0.5, most, -most, 1e-300, -1e-20, float(random.uniform(-most, most)))
        m = np.array([_pick(random, *ends) for _ in range(n)])
        if name == "Cos":
            loss: Any = refloss.CosFace(boundary=_pick(random, "none", "conditional"), **settings)
        elif name == "Arc":
            loss = refloss.ArcFace(m=1.0, boundary=_pick(random, *RULES), **settings)
        else:
            m1, rule = _pick(random, 1.0, 2.0, 0.5, float(random.uniform(0.1, 30.0))), _pick(random, *RULES)
            loss = refloss.CombinedMargin(m1=m1, m2=1.0, m3=_pick(random, 0.2, 0.1), boundary=rule, **settings)
        return loss, (x, w, _labels(random, n, c), m)
    lengths = [_pick(random, 1.0, 10.0, 20.0, 100.0, 110.0, 1e-3, float(random.uniform(0.5, 200.0))) for _ in range(n)]
    along = random.random()
    if along < 0.3:
        x = np.array(lengths)[:, None] * np.eye(1, d)
    elif along < 0.7:
        x = random.standard_normal((n, d))
        x *= (np.array(lengths) / np.linalg.norm(x, axis=1))[:, None]
    if name == "Ada":
        loss = refloss.AdaFace(
            m=_pick(random, 0.4, 1.0, 0.0),
            h=_pick(random, 0.333, 1.0, 0.0, 1e6),
            mean=_pick(random, 20.0, 0.0, 1.0, float(random.uniform(0.0, 100.0))),
            std=_pick(random, 100.0, 1.0, 0.0, 10.0),
            eps=_pick(random, 1e-3, 1.0, 1e-15, 1e-300),
            **settings,
        )
    else:
        low, l_m = _pick(random, 10.0, 1.0, 1e-6, float(random.uniform(0.1, 5.0))), _pick(random, 0.45, 0.0, 1.0, 3.0)
        loss = refloss.MagFace(
            l_a=low,
            u_a=low * _pick(random, 11.0, 2.0, 1.0 + 2.0**-40, 1e5),
            l_m=l_m,
            u_m=min(math.pi, l_m + _pick(random, 0.0, 0.35, 1.0)),
            regularizer=_pick(random, 35.0, 0.0, 1e-3, 1e6),
            boundary=_pick(random, *RULES),
            **settings,
        )
    return loss, (x, w, _labels(random, n, c))


def hard_classes(random: Random) -> tuple[Any, Any]:
    """Classes on their threshold, next to it by 1e-40 to 1e-8, or anywhere; t from end to end."""
    n, c, d = _sizes(random)
    x, w = _sized(random, _numbers(random, (n, d))), _sized(random, _numbers(random, (c, d)))
    settings, y = _with_scale(random, c), _labels(random, n, c)
    if random.random() < 0.5:
        t = _pick(random, 0.0, 1.0, -1.0, float(random.uniform(-1.0, 1.0)), 1e-300)
        m, rule = _pick(random, 0.5, 0.0, 1.0, math.pi), _pick(random, "hard", *RULES)
        loss: Any = refloss.CurricularFace(m=m, t=t, boundary=rule, **settings)
    else:
        t = _pick(random, 0.2, 0.0, 1.0, 1e3, 1e6, 1e-300)
        m, rule = _pick(random, 0.35, 0.0, 1.0, float(random.uniform(0.0, 2.0))), _pick(random, "easy", "none")
        loss = refloss.MVSoftmax(m=m, t=t, margin=_pick(random, "am", "arc"), boundary=rule, **settings)
    on_angle, target, k = getattr(loss, "margin", "arc") == "arc", w[max(y[0], 0)], random.integers(c)
    near = random.random()
    if near < 0.3:  # as far from x as the target is
        w[k] = target * _pick(random, 1.0, 2.0, 3.0, 1.0 + 2.0**-52)
    if near < 0.2:  # or nearly
        w[k, random.integers(d)] += np.abs(w[k]).max() * 10.0 ** random.uniform(-40.0, -8.0)
    elif near > 0.5 and d > 1:  # at the threshold's angle
        unit = x[0] / np.abs(x[0]).max()
        unit /= np.linalg.norm(unit)
        cos = float(
            np.clip(target / np.abs(target).max() @ unit / np.linalg.norm(target / np.abs(target).max()), -1, 1)
        )
        threshold = math.cos(math.acos(cos) + m) if on_angle else cos - m
        across = random.standard_normal(d)
        across -= across @ unit * unit
        if abs(threshold) < 1.0:
            w[k] = threshold * unit + math.sqrt(1.0 - threshold**2) * across / np.linalg.norm(across)
    return loss, (x, w, y)


def other_classes(random: Random) -> tuple[Any, Any]:
    """Curves of other classes: next to x or opposite to it, alike, or where a curve has an edge or no slope."""
    n, c, d = _sizes(random)
    x, w = _sized(random, _numbers(random, (n, d))), _sized(random, _numbers(random, (c, d)))
    settings, edges = _with_scale(random, c), [math.acos(1.0 - 2.0**-7), math.acos(2.0**-7 - 1.0)]
    name = _pick(random, "divided", "divided", "circle", "nearest", "nearest")
    if name == "divided":
        m = _pick(random, 1.5, 2.0, 1.0 + 2.0**-52, 1.0 + 1e-10, 30.0, float(random.uniform(1.0, 30.0)))
        loss: Any = refloss.SphereFaceR(m=m, version=_pick(random, 1, 2, 2, 2), **settings)
    elif name == "circle":
        m = _pick(random, 0.25, 0.0, 0.5, 1.0, float(random.random()), 1e-300)
        loss, edges = refloss.CircleLoss(m=m, **settings), [math.acos(-m), math.pi / 2.0]
    else:
        penalty = _pick(random, 0.06, 1.0, 0.0, math.pi, 1e-300, 1e-17, float(random.uniform(0.0, math.pi)))
        loss = refloss.InterTopK(
            m=_pick(random, 0.2, 0.0, 1.0, 3.0),
            penalty=penalty,
            k=int(random.integers(1, 6)),
            boundary=_pick(random, "continuous", *RULES),
            **settings,
        )
        edges = [penalty]
    k, near = random.integers(c), random.random()
    if near < 0.3:
        w[k] = x[0] * _pick(random, 1.0, -1.0, 0.5, -3.0, 1.0 + 2.0**-40)
        if random.random() < 0.7:
            w[k, random.integers(d)] += np.abs(w[k]).max() * 10.0 ** random.uniform(-40.0, -1.0)
    elif near < 0.5:
        w[:] = w[k] * random.choice([1.0, 2.0, 3.0, -1.0, 1.0 + 2.0**-52], (c, 1))
    elif near < 0.8 and d > 1:
        w[k] = _turned(random, x[0], _pick(random, *edges))
    return loss, (x, w, _labels(random, n, c))


def _turned(random: Random, row: np.ndarray, angle: float) -> np.ndarray:
    """Return a vector at an angle to another one, as far as float64 has it."""
    unit = row / np.abs(row).max()
    unit /= np.linalg.norm(unit)
    across = random.standard_normal(len(row))
    across -= across @ unit * unit
    return math.cos(angle) * unit + math.sin(angle) * across / np.linalg.norm(across)


def linear(random: Random) -> tuple[Any, Any]:
    """A plain head."""
    n, c, d = _sizes(random)
    loss = refloss.SoftmaxLoss(**_shared(random, c), **_options(random))
    x, w = _sized(random, _numbers(random, (n, d))), _sized(random, _numbers(random, (c, d)))
    if random.random() < 0.5:  # logits of ordinary size from long and short vectors
        power = random.integers(-900, 900)
        x, w = np.ldexp(random.standard_normal((n, d)), power), np.ldexp(random.standard_normal((c, d)), -power)
    if random.random() < 0.3:
        return loss, (x, w, _labels(random, n, c), random.standard_normal(c) * _far(random, 0.3))
    return loss, (x, w, _labels(random, n, c))


def logits(random: Random) -> tuple[Any, Any]:
    """Logits as they are: huge, equal, confident, masked; labels or probabilities."""
    n, c, _ = _sizes(random)
    z = random.standard_normal((n, c)) * _far(random, 0.7)
    if random.random() < 0.3:
        z += random.standard_normal() * _far(random, 0.8)
    if random.random() < 0.2:
        z[:, random.integers(c)] += _pick(random, 40.0, 700.0, 750.0, 1e308, -1e308)
    z = np.clip(z, -1.7e308, 1.7e308)
    if random.random() < 0.15:
        z[random.integers(n), random.integers(c)] = _pick(random, -np.inf, -np.inf, np.nan, np.inf)
    loss = refloss.CrossEntropy(**_shared(random, c), **_options(random))
    if random.random() < 0.3:
        t = random.random((n, c)) * _pick(random, 1.0, 1.0 / c, _far(random, 1.0))
        t[random.random((n, c)) < 0.2] = 0.0
        return loss, (z, t * random.choice([1.0, -1.0], (n, c)) if random.random() < 0.3 else t)
    return loss, (z, _labels(random, n, c))


def hinges(random: Random) -> tuple[Any, Any]:
    """Triplets next to the hinge, on it, or far away."""
    n, _, d = _sizes(random)
    anchor, positive, negative = (_numbers(random, (n, d)) for _ in range(3))
    if random.random() < 0.6:  # the two distances nearly the same
        digits = int(random.integers(1, 4))
        anchor, positive = np.round(random.standard_normal((2, n, d)), digits)
        negative = anchor + random.permuted(np.round(positive - anchor, digits), axis=1)
        bump = 10.0 ** random.uniform(-18.0, -2.0)
        positive[0, random.integers(d)] += _pick(random, 0.0, bump, -bump)
    if random.random() < 0.2:
        negative[0] = _pick(random, anchor, positive)[0]
    size = _far(random, 0.4)
    m = _pick(random, 0.0, 0.0, 0.2, 1.0, 1e-20, 1e20, float(random.random()))
    loss = refloss.Triplet(m=m, squared=bool(random.random() < 0.5), reduction=_pick(random, "mean", "sum", "none"))
    with np.errstate(over="ignore"):
        points = tuple(np.clip(it * size, -LARGEST / 8.0, LARGEST / 8.0) for it in (anchor, positive, negative))
    return loss, points


def folds(random: Random) -> tuple[Any, Any]:
    """A target whose angle with its margin is within 1e-30 to 1e-8 of a multiple of π, of no axes."""
    n, c, d = 1, int(random.integers(1, 4)), int(random.integers(2, 4))
    x, w = np.round(random.standard_normal((n, d)), 2), np.round(random.standard_normal((c, d)), 2)
    x[0, 0], w[:, 0] = x[0, 0] or 1.0, np.where(w[:, 0] == 0.0, 1.0, w[:, 0])
    settings, k = _shared(random, c), int(random.integers(1, 4))
    unit = x[0] / np.linalg.norm(x[0])
    across = w[0] - w[0] @ unit * unit
    if not np.linalg.norm(across) > 1e-6:
        across = np.eye(d)[1] - unit[1] * unit
    across /= np.linalg.norm(across)
    name, s = _pick(random, "arc", "a", "combined"), _pick(random, 1.0, 4.0, 64.0)
    m1 = {"arc": 1.0, "a": _pick(random, 2.0, 3.0, 4.0, 2.5)}.get(name, float(random.uniform(1.0, 30.0)))
    m2 = 0.0 if name == "a" else float(np.round(random.uniform(0.1, 2.0), 2))
    theta = (k * math.pi - m2) / m1
    if not 0.0 < theta < math.pi:
        theta = (math.floor((m1 * math.pi + m2) / math.pi) * math.pi - m2) / m1
    if not 0.0 < theta < math.pi:
        theta = 1.0
    theta += _pick(random, 0.0, 0.0, 10.0 ** random.uniform(-16.0, -8.0), -(10.0 ** random.uniform(-16.0, -8.0)))
    w[0] = random.uniform(0.5, 2.0) * (math.cos(theta) * unit + math.sin(theta) * across)
    if name != "a" and random.random() < 0.5:  # the margin takes up what the vectors cannot hold
        angle = math.atan2(float(np.linalg.norm(w[0] - w[0] @ unit * unit)), float(w[0] @ unit))
        m2 = min(max(k * math.pi - m1 * angle, 0.01), math.pi) if 0.01 < k * math.pi - m1 * angle < math.pi else m2
    rule = _pick(random, *RULES)
    if name == "arc" and random.random() < 0.4:  # the margin given, of either sign: φ at 0 as well
        angle = math.atan2(float(np.linalg.norm(w[0] - w[0] @ unit * unit)), float(w[0] @ unit))
        m2 = -angle + _pick(random, 0.0, 1e-300, 10.0 ** random.uniform(-16.0, -8.0)) if random.random() < 0.5 else m2
        return refloss.ArcFace(s=s, boundary=rule, **settings), (x, w, np.zeros(n, np.int64), np.full(n, min(m2, 3.1)))
    if name == "arc":
        loss = refloss.ArcFace(s=s, m=m2, boundary=rule, **settings)
    elif name == "a":
        rule = _pick(random, "monotone", "monotone", "none")
        loss = refloss.ASoftmax(s=s, m=m1, boundary=rule, annealing=_pick(random, 0.0, 1.0), **settings)
    else:
        loss = refloss.CombinedMargin(s=s, m1=m1, m2=m2, m3=_pick(random, 0.0, 0.1), boundary=rule, **settings)
    return loss, (x, w, np.zeros(n, np.int64))


def crowds(random: Random) -> tuple[Any, Any]:
    """Hundreds of equal samples, or of equal classes, or of equal dimensions: sums whose roundings agree."""
    many = int(random.integers(100, 1500))
    n, c, d = (many if place == it else int(random.integers(1, 4)) for place in [random.integers(3)] for it in range(3))
    x = np.tile(random.standard_normal((1, d)), (n, 1)) * _pick(random, 1.0, 0.1)
    w = np.tile(random.standard_normal((1, d)), (c, 1)) + (random.standard_normal((c, 1)) if c < 10 else 0.0)
    if d == many:
        x[:, 1:], w[:, 1:] = x[:, :1], w[:, :1]
    loss = _pick(
        random, refloss.SoftmaxLoss(), refloss.NormFace(s=1.0), refloss.ArcFace(s=8.0), refloss.ModifiedSoftmax()
    )
    return loss, (x, w, np.zeros(n, np.int64))


def divergences(random: Random) -> tuple[Any, Any]:
    """Two rows of logits: near each other, far apart, masked in one or both."""
    n, c, _ = _sizes(random)
    t = random.standard_normal((n, c)) * _far(random, 0.5)
    apart = _pick(random, 0.0, 1.0, 1e-8, 1e-17, 2.0**-40, _far(random, 0.5))
    z = t + random.standard_normal((n, c)) * apart
    if random.random() < 0.3:
        z += random.standard_normal((n, 1)) * _far(random, 0.5)
    if random.random() < 0.2:
        t[:, random.integers(c)] += _pick(random, 40.0, 700.0, 1e308, -1e308)
    z, t = np.clip(z, -1.7e308, 1.7e308), np.clip(t, -1.7e308, 1.7e308)
    for logits in (z, t):
        if random.random() < 0.15:
            logits[random.integers(n), random.integers(c)] = _pick(random, -np.inf, -np.inf, np.nan, np.inf)
    form = _pick(random, "forward", "reverse", "jensen-shannon")
    return refloss.KLDivergence(form=form, reduction=_pick(random, "mean", "sum", "none")), (z, t)


def links(random: Random) -> tuple[Any, Any]:
    """Sigmoids and pairs: logits at 0, at a bound, confident by their bias; classes next to embeddings, pairs alike."""
    n, c, d = _sizes(random)
    name = _pick(random, "SphereFace2", "UniFace", "SigLIP", "InfoNCE")
    classes = c if name in ("SphereFace2", "UniFace") else n
    x, w = _sized(random, _numbers(random, (n, d))), _sized(random, _numbers(random, (classes, d)))
    k, near, angle = random.integers(classes), random.random(), float(random.uniform(0.0, math.pi))
    if near < 0.3:
        w[k] = x[0] * _pick(random, 1.0, -1.0, 0.5, -3.0, 1.0 + 2.0**-40)
        if random.random() < 0.7:
            w[k, random.integers(d)] += np.abs(w[k]).max() * 10.0 ** random.uniform(-40.0, -1.0)
    elif near < 0.5:
        w[:] = w[k] * random.choice([1.0, 2.0, 3.0, -1.0, 1.0 + 2.0**-52], (classes, 1))
    elif near < 0.8 and d > 1:
        w[k] = _turned(random, x[0], angle)
    settings: dict[str, Any] = {"reduction": _pick(random, "mean", "sum", "none")}
    s = _pick(random, 1.0, 64.0, 8.0, _far(random, 0.5))
    ends = (0.0, -10.0, float(random.standard_normal()), -700.0, -s * math.cos(angle), _far(random, 1.0))
    b = _pick(random, *ends, -_far(random, 1.0))
    if name == "InfoNCE":
        return refloss.InfoNCE(ways=_pick(random, 1, 2), **settings), (x, w, s)
    if name == "SigLIP":
        return refloss.SigLIP(**settings), (x, w, s, b)
    if random.random() < 0.2:
        settings["gradient"] = "detached"
    m, y = _pick(random, 0.4, 0.0, 1.0, 2.0, float(random.uniform(0.0, 2.0))), _labels(random, n, c)
    if name == "SphereFace2":
        weights = {
            "alpha": _pick(random, 0.7, 0.0, 1.0, 0.5, 1e-300),
            "weight": _pick(random, 50.0, s, _far(random, 0.5)),
        }
        loss: Any = refloss.SphereFace2(m=m, s=s, t=_pick(random, 1, 2, 3, 30), **weights, **settings)
    else:
        loss = refloss.UniFace(m=m, s=s, l=_pick(random, 1.0, 0.0, _far(random, 1.0)), **settings)
        b = _pick(random, b, s * (math.cos(angle) - 1.0), s * (math.cos(angle) + 1.0), s * (math.cos(angle) - m + 1.0))
    return loss, (x, w, y) if random.random() < 0.2 else (x, w, y, b)


KINDS: dict[str, Callable[[Random], tuple[Any, Any]]] = {
    "margin heads": head,
    "plain heads": linear,
    "logits": logits,
    "hinges": hinges,
    "folds": folds,
    "crowds": crowds,
    "divergences": divergences,
    "margins per sample": per_sample,
    "hard classes": hard_classes,
    "other classes": other_classes,
    "sigmoids and pairs": links,
}
SHARES = (0.17, 0.11, 0.1, 0.09, 0.095, 0.005, 0.06, 0.09, 0.09, 0.09, 0.1)


# ------------------------------------------------------------------------------------------------------------ comparing


class Outcome(NamedTuple):
    """What an engine made of a case."""

    value: float
    """Largest share of the value's bound."""
    gradient: float
    """Largest share of the gradients' bounds."""
    note: str = ""
    """Why there is no share: refused, undecided; or what was raised."""


def truth_of(case: Case) -> Any:
    """Return what certified finds, or why it finds nothing."""
    try:
        return case.loss.value_and_grad(*case.inputs, **case.calls, engine="certified")
    except (ValueError, ArithmeticError) as error:
        return f"{type(error).__name__}: {error}"


def outcome(case: Case, engine: str, truth: Any) -> Outcome:
    """Compare an engine with the truth, by `refloss.error_bound`."""
    options = ENGINES[engine]
    try:
        result = case.loss.value_and_grad(*case.inputs, **case.calls, **options)
    except ValueError as error:
        return Outcome(0.0, 0.0, f"refused: {error}")
    if isinstance(truth, str):
        return Outcome(0.0, 0.0, f"no truth: {truth}")
    bound = refloss.error_bound(case.loss, *case.inputs, **case.calls, **options)
    most = float(np.finfo(options.get("dtype", np.float64)).max)
    pairs = [(a, b, c) for a, b, c in zip(result[1], truth[1], bound[1], strict=True) if a is not None]
    return Outcome(share(result[0], truth[0], bound[0], most), max(share(*each, most) for each in pairs))
