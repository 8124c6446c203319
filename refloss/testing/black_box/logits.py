"""Losses on logits: cross entropy, and the same after a linear layer, whose logits are x where w is the unit matrix."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import refloss
from refloss.error_free import Array, Integers
from refloss.testing.black_box.fitting import Candidate, Data, Model, polish, rounded_fit
from refloss.testing.black_box.measure import Box, single

OPTIONS = {"logit_scale": (1.0,), "label_smoothing": (0.1,), "z_loss": (1e-3,), "softcap": (10.0, 50.0)}
"""Settings of cross entropy, with values to begin a fit with."""


CLOSE = 2.0
"""Largest residual of a fit that is tested, over the error of its row."""


class Rows(NamedTuple):
    """Logits of single samples, their labels and their values, for every number of classes."""

    z: list[Array]
    y: list[Integers]
    value: Array


def measured(box: Box) -> Rows:
    """Measure values of logits close together and far apart, around 0 and off it."""
    several: list[tuple[Array, Integers]] = []
    for gap in (-20.0, -8.0, -3.0, -1.0, -0.3, 0.0, 0.4, 1.2, 3.0, 9.0, 25.0):
        for shift in (0.0, 1.5, -6.0):
            for c in (2, 5):
                z = np.full((1, c), shift)
                z[0, 0] -= gap
                z[0, 2:] += np.linspace(-0.5, 0.5, c - 2)
                several.append((box.exact(z), np.zeros(1, dtype=np.int64)))
    value = [single(box.called(*_inputs(box, z, y)).value) for z, y in several]
    return Rows([z for z, _ in several], [y for _, y in several], np.array(value))


def _inputs(box: Box, z: Array, y: Integers) -> tuple[Any, ...]:
    return (z, y) if box.fields == ("z",) else (z, np.eye(z.shape[1]), y)


def data_of(rows: Rows, u: float) -> Data:
    """Return the rows as data of a fit; those that are not finite are left out."""
    finite = np.flatnonzero(np.isfinite(rows.value))
    values = rows.value[finite]
    size = np.array([np.abs(rows.z[place]).max() for place in finite])
    errors = u * 16.0 * (1.0 + size + np.abs(values))

    def predict(model: Model) -> Array:
        by_count: dict[int, list[int]] = {}
        for place in finite.tolist():
            by_count.setdefault(rows.z[place].shape[1], []).append(place)
        every = np.empty(len(rows.value))
        for places in by_count.values():
            z, y = (np.concatenate([part[place] for place in places]) for part in (rows.z, rows.y))
            every[places] = model.loss(z, y, engine="chain")
        return model.outer.factor * every[finite] + model.outer.constant

    return Data(values, errors, predict, u)


def fits(rows: Rows, u: float, outer: tuple[str, ...] = (), most: int = len(OPTIONS)) -> Iterator[Candidate]:
    """Yield fits, those with few settings first, at most so many; outer are names of what is fitted beside them."""
    data = data_of(rows, u)
    if len(set(data.values.tolist())) < 2:  # a constant, or nothing
        return
    for count in range(most + 1):
        for names in itertools.combinations(OPTIONS, count):
            for starts in itertools.product(*(OPTIONS[name] for name in names)):
                settings: dict[str, Any] = dict(zip(names, starts, strict=True))
                loss = refloss.CrossEntropy(reduction="none", **settings)
                free = (*names, *outer)
                fit = polish(Model(loss), free, data)
                if fit.share <= CLOSE:
                    candidate = Candidate(*rounded_fit(fit, free, data, ()))
                    if candidate.fit.has_loss:
                        yield candidate
