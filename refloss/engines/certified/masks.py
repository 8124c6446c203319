"""Masks: which classes of a divergence count on either side, and what is known of its rows without balls."""

from __future__ import annotations

from fractions import Fraction
from math import inf, nan
from typing import NamedTuple

import numpy as np

from refloss.engines.certified.known import Rows
from refloss.engines.spec import Arrays
from refloss.error_free import Array, Mask


class Masks(NamedTuple):
    """Which classes are not masked by a logit of -inf."""

    z: Mask
    """Of the model (N, C)."""
    target: Mask
    """Of the target (N, C)."""

    def rows(self, index: Mask) -> Masks:
        """Return those of the rows of an index."""
        return Masks(self.z[index], self.target[index])


def weighing(form: str) -> str:
    """Return the name of the logits whose probabilities weigh the terms of a KL divergence."""
    return "target" if form == "forward" else "z"


def known_divergences(arrays: Arrays, form: str, upstream: Array | None) -> tuple[Rows, Masks]:
    """Return what is known of the rows, and which classes count.

    A class with a probability on the weighing side alone makes the loss infinite. The gradient on that side is then the
    limit as the masked logits of the other side go to -inf together: inf there, -inf at its other classes.
    """
    z, target = arrays["z"], arrays["target"]
    masks = Masks(z != -inf, target != -inf)
    undefined = np.zeros(len(z), np.bool_)
    for logits, present in ((z, masks.z), (target, masks.target)):
        undefined |= np.isnan(logits).any(axis=1) | (logits == inf).any(axis=1) | ~present.any(axis=1)
    rows = Rows(~undefined, np.where(undefined, nan, 0.0), np.where(undefined, nan, 0.0), Fraction(len(z)), [])
    notes = [f"row {n}: NaN, +inf or nothing but -inf among the logits: NaN" for n in np.flatnonzero(undefined)]
    if form == "jensen-shannon":
        return rows._replace(notes=notes), masks
    own, other = (masks.target, masks.z) if form == "forward" else (masks.z, masks.target)
    alone = own & ~other & ~undefined[:, None]
    infinite = np.asarray(alone.any(axis=1))
    rows.losses[infinite] = inf
    divided = np.asarray(infinite & (own & other).any(axis=1))  # if not, the gradient of the loss is finite
    limit = np.where(divided[:, None] & own, np.where(alone, inf, -inf), 0.0)
    signs = np.broadcast_to(np.sign(0.0 if upstream is None else upstream), len(z))[:, None]
    limit = np.where((limit == 0.0) | (signs == 0.0), 0.0, np.where(signs < 0.0, -limit, limit))
    notes += [
        f"row {n}: a class that is masked on one side alone: the loss is inf, the gradient its limit"
        for n in np.flatnonzero(infinite)
    ]
    return rows._replace(notes=notes, infinite={weighing(form): limit}), masks
