"""Classes of several centers: further ones around those of a case, and centers that are equally near."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refloss.error_free import Array
from refloss.testing.hard_cases.angles import at_angles
from refloss.testing.hard_cases.case import Draft, Labels, Setting

CANDIDATES = 24
"""How many directions are drawn for further centers of a class, of which the farthest are taken."""
EITHER = "which of them stands for its class is left open"


def with_centers(setting: Setting, draft: Draft, centers: int) -> Draft:
    """Return a case of w (C, D) with further centers (C, K, D), farther from the samples of their class.

    The row of the case is at another place in every class. A class of no sample has centers far from all samples;
    those of random cases are random.
    """
    x, w, y, *given = draft.inputs
    if centers == 1:
        return draft._replace(inputs=(x, w[:, None], y, *given))
    if "random" in draft.flags:
        every = setting.normal(len(w), centers, w.shape[1])
        every[np.arange(len(w)), np.arange(len(w)) % centers] = w
    else:
        every = np.stack([_centers(setting, x, row, x[y == k], centers, k) for k, row in enumerate(w)])
    if "same classes" in draft.flags:  # all their centers
        same = (w == w[(y[0] + 1) % len(w)]).all(axis=1)
        every[same] = every[(y[0] + 1) % len(w)]
    return draft._replace(inputs=(x, every, y, *given))


def _centers(setting: Setting, x: Array, row: Array, own: Array, centers: int, k: int) -> Array:
    """Return centers of one class (K, D)."""
    samples = _unit(own if len(own) else x)
    across = setting.normal(CANDIDATES + 1, x.shape[1])
    across[-1] = across[-1] / 20.0 - samples.sum(axis=0)  # next to the opposite of the samples
    candidates = _unit(across)
    nearest = (candidates @ samples.T - _unit(row[None]) @ samples.T).max(axis=1)
    length = _length(row) * 2.0 ** (np.arange(centers - 1) % 3 - 1.0)
    further = candidates[np.argsort(nearest)[: centers - 1]] * length[:, None]
    return np.insert(further, k % centers, row, axis=0)


def _length(row: Array) -> float:
    """Return the length of a row whose square may overflow or vanish; 1 for one of zeros."""
    largest = float(np.abs(row).max())
    return largest * float(np.linalg.norm(row / largest)) if largest else 1.0


def _unit(rows: Array) -> Array:
    """Return rows of any lengths divided by them; rows of zeros stay."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scaled = rows / np.where(largest > 0.0, largest, 1.0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.asarray(scaled / np.where(length > 0.0, length, 1.0))


def center_cases(setting: Setting, centers: int) -> Iterator[Draft]:
    """Yield cases of centers of a target that are equally near, or nearly so, each on its side of an embedding."""
    if centers == 1 or setting.size.d == 1:
        return
    for name, off, reason in (
        ("on", 0.0, f"two centers of the target equally near, as near as the dtype can: {EITHER}"),
        ("beside", 0.02, "two centers of the target, one of them 0.02 rad nearer"),
    ):
        x, w, y = at_angles(setting, setting.labels(), (0.5, 0.9))
        yield Draft("boundary", f"centers-{name}", ("centers",), reason, (x, _two(setting, x, w, y, centers, off), y))
    x, w, y = at_angles(setting, setting.labels(), (1e-2, 1e-2))
    reason = "two centers of the target, at 0.01 and 0.015 rad on either side of an embedding"
    yield Draft(
        "hard", "centers-small", ("centers", "small angle"), reason, (x, _two(setting, x, w, y, centers, 5e-3), y)
    )
    x, w, y = at_angles(setting, setting.labels(), (0.5, 0.9))
    equal = np.repeat(w[:, None], centers, axis=1)
    reason = f"all centers of a class are one and the same: {EITHER}"
    yield Draft("boundary", "centers-equal", ("centers", "equal centers"), reason, (x, equal, y))


def _two(setting: Setting, x: Array, w: Array, y: Labels, centers: int, off: float) -> Array:
    """Return centers of which two in the class of one sample are on either side of it, the second farther by off."""
    every = np.stack([_centers(setting, x, row, x[y == k], centers, k) for k, row in enumerate(w)])
    for k in np.unique(y):
        sample = x[np.flatnonzero(y == k)[0]]
        theta = np.arccos(np.clip(sample @ w[k], -1.0, 1.0))
        across = w[k] - np.cos(theta) * sample
        across /= np.linalg.norm(across)
        other = np.cos(theta + off) * sample - np.sin(theta + off) * across
        every[k, (k + 1) % centers] = other
    return every
