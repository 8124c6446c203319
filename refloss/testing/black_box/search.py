"""Measure, fit, and name: the first loss of the family whose fit stands the test on inputs that no fit has seen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

import refloss
from refloss.testing.black_box import families
from refloss.testing.black_box.curves import Outer, Points
from refloss.testing.black_box.families import Curves, Start
from refloss.testing.black_box.fitting import Candidate, Data, Fit, Model, in_plane, polish, rounded_fit
from refloss.testing.black_box.measure import HIGHEST, LOWEST, NEAR, Plane, target_angles
from refloss.testing.signatures import head_of, raises_cosines

CLOSE = 2.0
"""Largest residual of a fit that is tested, over the error of its point: what a wrong rule changes next to π is seen
nowhere else. Residuals of right code are up to 0.3."""
ALIKE = 0.5
"""Residual within which fits explain all points alike."""


COPIES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 24)
"""How many copies of a class are measured."""


LENGTHS = np.concatenate([np.geomspace(0.05, 300.0, 12), np.linspace(4.0, 124.0, 16)])
"""Lengths of the embedding that are measured, closer together where losses have margins by length."""


def measured(plane: Plane) -> Curves:
    """Measure the curves that fits begin from, and what else tells losses apart."""
    of_target = plane.curve((theta, NEAR) for theta in target_angles().tolist())
    most = float(of_target.theta[np.argmax(of_target.value)]) if len(of_target.value) else 1.5
    of_other = plane.curve((most, other) for other in np.linspace(0.08, HIGHEST, 26).tolist())
    beside = plane.curve((1.0, other) for other in np.linspace(0.06, 2.9, 26).tolist())
    level = [point for theta in (0.3, 0.7, 1.2, 1.7, 2.3) for point in _leveled(plane, theta)]
    copies = [plane.at(most, NEAR, n) for n in COPIES]
    lengths = [plane.at(theta, 0.8, 1, length) for theta in (0.6, 1.5, 2.6) for length in LENGTHS.tolist()]
    every = of_target + of_other + beside + Points.of([*level, *copies, *lengths])
    u = plane.box.u
    return Curves(
        of_target,
        of_other,
        beside,
        Points.of(copies),
        every,
        _by_length(plane),
        _adds_up(Points.of(copies), u),
        all(families.is_linear(points, u) for points in (of_other, beside)),
        _is_flat(lengths, u),
        _by_weights(plane),
    )


def _leveled(plane: Plane, theta: float) -> Iterator[tuple[float, float, float, float, float]]:
    """Yield points on the way to where the logit of the other class is the target's, and two copies there."""
    low, high = LOWEST, HIGHEST
    for _ in range(9):
        other = (low + high) / 2.0
        point = plane.at(theta, other)
        yield point
        low, high = (other, high) if point[-1] > math.log(2.0) else (low, other)
    yield plane.at(theta, other, 2)


def _by_length(plane: Plane) -> bool | None:
    """Whether the length of the embedding is the scale; None if it is neither that nor of no account."""
    once, twice = (
        families.gap_of(plane.curve((theta, 0.8, 1, a) for theta in (1.6, 2.2)), Outer()) for a in (1.0, 2.0)
    )
    if min(len(once), len(twice)) < 2:  # some are not finite
        return None
    size = 1e3 * plane.box.u * (1.0 + np.abs(once))
    with np.errstate(invalid="ignore"):  # of infinite gaps
        if np.all(np.abs(twice - once) <= size):
            return False
        return True if np.all(np.abs(twice - 2.0 * once) <= size) else None


def _by_weights(plane: Plane) -> bool:
    """Whether the length of a class weight counts."""
    once, target, other = (plane.at(1.6, 0.8, 1, 1.0, *lengths)[-1] for lengths in ((1.0, 1.0), (2.0, 1.0), (1.0, 2.0)))
    return max(abs(target - once), abs(other - once)) > 1e3 * plane.box.u * (1.0 + abs(once))


def _is_flat(lengths: Sequence[tuple[float, ...]], u: float) -> bool:
    """Whether values are the same for all lengths of the embedding."""
    values = np.array(lengths)[:, -1].reshape(3, -1)
    with np.errstate(invalid="ignore"):  # of infinite values
        return bool((np.ptp(values, axis=1) <= 256.0 * u * (1.0 + np.abs(values).max())).all())


def _adds_up(copies: Points, u: float) -> bool:
    """Whether every copy of a class adds the same to the value: a question of its own for every class."""
    if len(copies.value) != len(COPIES):
        return False
    one, two, *_, most = copies.value.tolist()
    off = abs((most - one) - (COPIES[-1] - 1) * (two - one))
    return bool(off <= 256.0 * u * abs(most) < abs(most - one))


def groups(curves: Curves, outer: Outer) -> Iterator[list[Start]]:
    """Yield losses to try, in groups, those with few settings first."""
    if curves.adds_up:
        yield from families.sigmoid(curves, outer)
    elif curves.are_measured(outer):
        yield from families.plain(curves, outer)
        yield from families.changed(curves, outer)


def fits(
    several: Iterable[list[Start]], curves: Curves, outer: Outer, u: float, also: tuple[str, ...] = ()
) -> Iterator[Candidate]:
    """Yield fits that explain the points, each with its short numbers, those first that explain them all.

    also are names of what is fitted beside the settings of a loss.
    """
    data = in_plane(curves.every, u)
    for group in several:
        tried = [(_fit(Model(start.loss, outer), (*start.free, *also), data), start) for start in group]
        tried.sort(key=lambda entry: (max(entry[0].share, ALIKE), _rule(entry[1].loss) != "none"))
        for fit, start in tried:
            if fit.share <= CLOSE:
                finished, shorts = rounded_fit(fit, (*start.free, *also), data, angles_of(start.loss))
                if finished.is_determined(shorts) and finished.has_loss:
                    alike = {_rule(other.loss) for one, other in tried if one.share <= ALIKE and _of_kind(other, start)}
                    yield Candidate(finished, shorts, tuple(sorted(alike - {_rule(start.loss)})))


def _fit(model: Model, free: tuple[str, ...], data: Data) -> Fit:
    """Fit settings, of a loss with hard classes without the points at first that they may be on the wrong side of."""
    fit = polish(model, free, data)
    if fit.share <= CLOSE or not (head_of(model.loss) == "margin" and raises_cosines(model.loss)):
        return fit
    off = np.abs(data.predict(model) - data.values) / data.errors
    nearer = polish(model, free, data.only(off <= np.quantile(off, SHARE_OF_SURE)))
    again = polish(nearer.model, free, data)
    return min(fit, again, key=lambda each: each.share)


SHARE_OF_SURE = 0.8
"""Share of points that a fit with hard classes begins with."""


def _rule(loss: Any) -> str:
    return getattr(loss, "boundary", "none")


def _of_kind(other: Start, start: Start) -> bool:
    return type(other.loss) is type(start.loss) and other.free == start.free


def angles_of(loss: Any) -> tuple[str, ...]:
    """Return the names of the settings that are angles."""
    of_m = isinstance(loss, refloss.ArcFace | refloss.CurricularFace | refloss.InterTopK)
    return (*families.ANGLES, "m") if of_m or getattr(loss, "margin", "") == "arc" else families.ANGLES


def factor_and_constant(plane: Plane) -> tuple[Outer, Points] | None:
    """Measure what the loss of a sample is multiplied by, and what is added to it; return the points too.

    n copies of a class give k log(1 + nE) + c. Where E is about 1, three of them determine E, k and c. None where they
    do not follow that law.
    """
    low, high = LOWEST, HIGHEST
    rows = []
    for _ in range(10):
        other = (low + high) / 2.0
        rows += [plane.at(1.2, other, n) for n in (1, 2, 4)]
        one, two, four = (row[-1] for row in rows[-3:])
        added = two - one
        decided = abs(added) > 1e3 * plane.box.u * abs(one)
        ratio = (four - two) / added if decided else 2.0  # what a saturated softmax tends to
        low, high = (other, high) if ratio < RATIO else (low, other)
    if not 1.02 < ratio < 1.95:
        return None
    least, most = -7.0, 7.0
    for _ in range(60):
        e = math.exp((least + most) / 2.0)
        own = math.log((1.0 + 4.0 * e) / (1.0 + 2.0 * e)) / math.log((1.0 + 2.0 * e) / (1.0 + e))
        least, most = (math.log(e), most) if own > ratio else (least, math.log(e))
    factor = added / math.log((1.0 + 2.0 * e) / (1.0 + e))
    return Outer(factor, one - factor * math.log1p(e)), Points.of(rows)


RATIO = math.log(5.0 / 3.0) / math.log(1.5)
"""What the fourth and third copies of a class add over what the second one adds, where its logit is the target's."""
