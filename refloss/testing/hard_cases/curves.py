"""Cases of losses with curves for the other classes: these next to an embedding, opposite, and where curves begin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from refloss.error_free import Array
from refloss.stages import class_angles
from refloss.testing.hard_cases.angles import unit
from refloss.testing.hard_cases.case import Draft, Setting
from refloss.testing.signatures import (
    Inputs,
    class_angles_of,
    class_weight_of,
    has_other_curves,
    ignore_index_of,
    margin_of,
    negatives_of,
)

ANGLES = (1e-2, 1e-3)
"""How near other classes are to embeddings, or to their opposite."""
EITHER = "as near as the dtype can: what holds on either side is accepted"


def has_curves(setting: Setting) -> bool:
    """Whether there are other classes, and the loss has curves for them."""
    return has_other_curves(setting.loss) and setting.size.c > 1 and setting.size.d > 1


def around(setting: Setting, own: float, others: ArrayLike) -> Inputs:
    """Return embeddings next to one another whose class is at an angle, and all other classes at others (C - 1,).

    All samples are of one class, so that its gradient and those of all others come from such angles alone.
    """
    n, c, d = setting.size
    axis = unit(setting.normal(1, d))
    angles = np.broadcast_to(np.asarray(others), (c - 1,))
    apart = np.minimum(np.minimum(angles, np.pi - angles).min(), 0.1) / 8.0

    def at(angle: Array) -> Array:
        tangent = setting.normal(len(angle), d)
        tangent = unit(tangent - (tangent @ axis[0])[:, None] * axis)
        return np.asarray(np.cos(angle)[:, None] * axis + np.sin(angle)[:, None] * tangent)

    y = np.full(n, next((k for k in setting.labels() if _counts(setting, k)), 0))
    w = at(np.insert(angles, y[0], own))
    return at(np.linspace(0.0, apart, n)), w, y


def _counts(setting: Setting, label: int) -> bool:
    weights = class_weight_of(setting.loss)
    return label != ignore_index_of(setting.loss) and (weights is None or weights[label] != 0.0)


def curve_cases(setting: Setting) -> Iterator[Draft]:
    """Yield the cases, the target's logit always near those of other classes."""
    of_hard, of_angles = negatives_of(setting.loss), class_angles_of(setting.loss)
    some = of_angles is not None and of_angles.rule == "nearest" and of_angles.k < setting.size.c - 1
    for theta in ANGLES:
        for name, at, flag in (("", theta, "small angle"), ("-pi-minus", np.pi - theta, "angle near pi")):
            if some and flag == "angle near pi":
                continue  # the nearest classes are not opposite
            place = "the opposite of " * (flag == "angle near pi") + "the embeddings"
            reason = f"other classes {theta:g} rad from {place}: cosines do not know their angles well"
            inputs = around(setting, _own(setting, at), _nearest(setting, at) if some else at)
            yield Draft("hard", f"others{name}-{theta:.0e}", ("other classes", flag), reason, inputs)
    if of_angles is not None and of_angles.rule == "divided":
        at = np.pi * (1.0 + 1.0 / of_angles.m) / 2.0
        inputs = around(setting, _own(setting, at), at)
        yield Draft("hard", "others-beyond", ("other classes",), "other classes beyond pi / m", inputs)
    if of_hard is not None:
        yield from _edge_cases(setting, of_hard.t)
    elif some:
        yield from _nearest_cases(setting)


def _own(setting: Setting, theta: float) -> float:
    """Return the angle at which the target is about as large as another class at an angle."""
    of_hard = negatives_of(setting.loss)
    if of_hard is not None:
        return float(np.arccos(np.clip(1.0 - of_hard.t, 0.0, 0.95)))  # ψ = 0, as of classes below -m
    settings = cast(class_angles.Settings, class_angles_of(setting.loss))
    if settings.rule == "divided":
        return theta / settings.m
    return float(np.clip(theta - settings.m - margin_of(setting.loss).m2, 0.05, np.pi - 0.05))


def _edge_cases(setting: Setting, m: float) -> Iterator[Draft]:
    """Other classes whose cosine is -m, and on both sides of it."""
    edge = float(np.arccos(-m))
    for side, off in (("above", -0.02), ("below", 0.02), ("on", 0.0)):
        inputs = around(setting, _own(setting, edge), min(edge + off, np.pi))
        reason = f"cosines of other classes 0.02 rad {side} -m, where their weight is 0"
        reason = f"cosines of other classes at -m, {EITHER}" if side == "on" else reason
        yield Draft("boundary", f"others-{side}", ("other classes", "threshold"), reason, inputs)


def _nearest(setting: Setting, theta: float) -> Array:
    """Return angles of the other classes (C - 1,): the nearest at one, all others far from them."""
    count = cast(class_angles.Settings, class_angles_of(setting.loss)).k
    places = setting.rng.permutation(setting.size.c - 1)
    return np.where(places < count, theta, theta + 0.8)


def _nearest_cases(setting: Setting) -> Iterator[Draft]:
    """The last of the nearest classes and the next one, as near or 0.02 rad apart."""
    k = cast(class_angles.Settings, class_angles_of(setting.loss)).k
    for side, off in (("beside", 0.02), ("on", 0.0)):
        angles = 0.9 + 0.3 * np.arange(setting.size.c - 1) / setting.size.c
        angles[k:] += angles[k - 1] + off - angles[k]
        x, w, y = around(setting, _own(setting, 0.9), setting.rng.permutation(angles))
        x = np.tile(x[:1], (len(x), 1)) * np.linspace(0.5, 2.0, len(x))[:, None]  # all on the axis
        reason = "the last of the nearest classes 0.02 rad nearer than the next"
        reason = f"two classes of which one is among the nearest, {EITHER}" if side == "on" else reason
        yield Draft("boundary", f"nearest-{side}", ("other classes", "nearest"), reason, (x, w, y))
