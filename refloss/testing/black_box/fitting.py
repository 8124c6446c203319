"""Fit the settings of a loss to measured points; a fitted number becomes a short one where the fit determines it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refloss.error_free import Array
from refloss.testing.black_box.curves import Outer, Points, predicted
from refloss.testing.signatures import Loss

STEPS = 20
WIDTHS = 3.0
"""How many standard errors a stated error is."""
LEAST_SPREAD = 0.05
"""Root mean square of the residuals that a fit counts with at least: rounded settings are wrong at all points alike."""
FACTORS = "factor", "logit_scale", "softcap", "s"
"""Settings that are 0 where values do not depend on the loss."""
COARSE = 0.02
"""Largest error of a setting, over the larger of its size and 1, with which a loss is named."""
DOUBT = 0.02
"""Largest probability that a number is short by chance."""


class Model(NamedTuple):
    """A loss, and what is done to its value."""

    loss: Any
    outer: Outer = Outer()

    def with_values(self, values: dict[str, float]) -> Model:
        """Return the model with other settings; a loss refuses those that are out of range."""
        outer = {name: value for name, value in values.items() if name in Outer._fields}
        own = {name: value for name, value in values.items() if name not in outer}
        return Model(replace(self.loss, **own), self.outer._replace(**outer))

    def value_of(self, name: str) -> float:
        """Return a setting."""
        return float(getattr(self.outer if name in Outer._fields else self.loss, name))


class Fit(NamedTuple):
    """Fitted settings."""

    model: Model
    errors: dict[str, float]
    """How far fitted settings may be off."""
    share: float
    """The largest residual, over the error of its point."""

    def is_determined(self, shorts: Collection[str]) -> bool:
        """Whether the points determine every setting that is not short to some per cent, or as much of 1."""
        rest = {name: error for name, error in self.errors.items() if name not in shorts}
        return all(error <= COARSE * max(1.0, abs(self.model.value_of(name))) for name, error in rest.items())

    @property
    def has_loss(self) -> bool:
        """Whether the values depend on the loss at all: a constant is fitted with a factor or a scale of 0."""
        fitted = {"factor": 0.0} | {name: error for name, error in self.errors.items() if name in FACTORS}
        return all(abs(self.model.value_of(name)) > error for name, error in fitted.items())

    @property
    def loss(self) -> Loss:
        """The fitted loss."""
        loss: Loss = self.model.loss
        return loss


def errors_of(points: Points, u: float) -> Array:
    """Return the error of every measured value: a rounded cosine knows an angle next to 0 or π less exactly."""
    size = max(1.0, float(np.abs(points.value).max()))
    return u * (8.0 * size * (1.0 + points.length) / np.minimum(np.sin(points.theta), np.sin(points.other)))


class Data(NamedTuple):
    """Measured values, their errors, and the values that a model has in their place (P,)."""

    values: Array
    errors: Array
    predict: Callable[[Model], Array]
    u: float
    """Half the distance from 1 to the next number."""

    def only(self, some: NDArray[np.bool_]) -> Data:
        """Return some of the points."""
        return Data(self.values[some], self.errors[some], lambda model: self.predict(model)[some], self.u)


def in_plane(points: Points, u: float) -> Data:
    """Return points in the plane as data of a fit."""
    return Data(points.value, errors_of(points, u), lambda model: predicted(model.loss, points, model.outer), u)


def polish(model: Model, free: tuple[str, ...], data: Data) -> Fit:
    """Fit settings to data by Gauss and Newton, from those of the model on; steps that lead nowhere are halved."""

    def residuals(values: Array) -> Array | None:
        try:
            fitted = model.with_values(dict(zip(free, values.tolist(), strict=True)))
        except ValueError:  # out of range
            return None
        with np.errstate(all="ignore"):
            off = (data.predict(fitted) - data.values) / data.errors
        return off if np.isfinite(off).all() else None

    values = np.array([model.value_of(name) for name in free])
    off = residuals(values)
    if off is None:
        return Fit(model, dict.fromkeys(free, math.inf), math.inf)
    jacobian = np.zeros((len(off), len(free)))
    for _ in range(STEPS if free else 0):
        jacobian = _jacobian(residuals, values, off)
        step = np.linalg.lstsq(jacobian, -off, rcond=None)[0]
        for halvings in range(12):
            tried = values + step * 0.5**halvings
            new = residuals(tried)
            if new is None:  # out of range: most settings end at 0
                tried = np.where((tried < 0.0) & (values >= 0.0), 0.0, tried)
                new = residuals(tried)
            if new is not None and new @ new < off @ off:
                break
        else:
            break
        done = bool(np.all(np.abs(tried - values) <= 1e-15 * np.abs(tried)))
        values, off = tried, new
        if done:
            break
    spread = max(LEAST_SPREAD, 2.0 * float(np.sqrt(np.mean(off**2))))
    with np.errstate(all="ignore"):
        inverse = np.linalg.pinv(jacobian)
        lost = np.abs(inverse @ jacobian - np.eye(len(free))).max(axis=1, initial=0.0) > 0.5
    wide = WIDTHS * spread * np.sqrt((inverse**2).sum(axis=1)) + 8.0 * data.u * np.abs(values)
    errors = np.where(lost, math.inf, wide)
    fitted = model.with_values(dict(zip(free, values.tolist(), strict=True)))
    return Fit(fitted, dict(zip(free, errors.tolist(), strict=True)), float(np.abs(off).max()))


def _jacobian(residuals: Any, values: Array, off: Array) -> Array:
    """Return the derivatives of the residuals by the settings, by differences on the side that is in range."""
    columns = []
    for place, value in enumerate(values):
        step = 1e-7 * max(abs(value), 1e-2)
        sides = []
        for side in (step, -step):
            moved = values.copy()
            moved[place] += side
            sides.append(residuals(moved))
        up, down = sides
        if up is not None and down is not None:
            columns.append((up - down) / (2.0 * step))
        else:
            one_sided = (0.0 if up is None else up - off) + (0.0 if down is None else off - down)
            columns.append(np.broadcast_to(one_sided / step, off.shape))
    return np.array(columns).T.reshape(len(off), len(values))


class Candidate(NamedTuple):
    """A fit that explains the points, to be tested."""

    fit: Fit
    shorts: dict[str, Short]
    """Settings that the fit determines exactly."""
    alike: tuple[str, ...] = ()
    """Other rules that explain the points as well."""


class Short(NamedTuple):
    """A number that a fit determines."""

    value: float
    text: str
    """As it is written: "0.5", "1/3", "28.6 degrees"."""


def short(value: float, error: float, *, angle: bool = False) -> Short | None:
    """Return the short number within the error of a value: a decimal, a fraction or degrees; or None."""
    if not math.isfinite(error):
        return None
    for digits in range(9):
        near = round(value, digits) + 0.0  # no -0
        if abs(near - value) <= error:
            if 2.0 * error * 10**digits <= DOUBT:
                return Short(near, f"{near:g}")
            break
        if angle and digits <= 2:
            degrees = round(math.degrees(value), digits)
            chance = 2.0 * math.degrees(error) * 10**digits
            if degrees and abs(math.radians(degrees) - value) <= error and chance < DOUBT:
                return Short(math.radians(degrees), f"{degrees:g} degrees")
    for near_fraction, count in (
        (Fraction(value).limit_denominator(12), 144.0),
        (Fraction(round(value * 128.0), 128), 128.0),
    ):
        if abs(float(near_fraction) - value) <= error and 2.0 * error * count <= DOUBT:
            return Short(float(near_fraction), str(near_fraction))
    return None


def rounded_fit(fit: Fit, free: tuple[str, ...], data: Data, angles: tuple[str, ...]) -> tuple[Fit, dict[str, Short]]:
    """Make settings short one after the other, the best determined first, and fit the rest again."""
    shorts: dict[str, Short] = {}
    while True:
        best = sorted(fit.errors, key=lambda name: fit.errors[name] / max(abs(fit.model.value_of(name)), 1e-3))
        found = {name: short(fit.model.value_of(name), fit.errors[name], angle=name in angles) for name in best}
        name = next((name for name in best if found[name]), None)
        if name is None:
            return fit, shorts
        rest = tuple(each for each in free if each != name and each not in shorts)
        chosen = found[name]
        assert chosen is not None
        try:
            again = polish(fit.model.with_values({name: chosen.value}), rest, data)
        except ValueError:  # a margin of 0, without which a rule cannot act
            return fit, shorts
        if again.share > 3.0 * max(fit.share, 1.0):
            return fit, shorts
        shorts[name] = chosen
        fit = again
