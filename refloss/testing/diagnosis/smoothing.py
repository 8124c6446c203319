"""Label smoothing that takes the classes of one shard for all: the targets that it gives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from refloss.error_free import Array

TargetsOf: TypeAlias = Callable[[Array], Array]
"""Targets (N, C) without class weights, from rows of 0 and a 1 at the label."""
Size: TypeAlias = Callable[[int, int], float]
"""The number of classes of a shard, from C and the number of shards."""
WORLDS = (2, 4, 8)
"""Numbers of shards."""
ALL_CLASSES = "take all classes"


def smoothings(eps: float) -> Iterator[tuple[str, TargetsOf]]:
    """Yield a sentence, and the targets that it names."""
    for world in WORLDS:
        for size in (_exact, _down, _up):
            for share, targets in (("eps/C", _scaled), ("eps/C", _unscaled), ("eps/(C - 1)", _of_others)):
                sentence = f"label smoothing of {share} with the C of one of {world} shards"
                yield sentence, functools.partial(targets, eps, world, size)
        for size in (_down, _up):
            for rank in range(world):
                for others in (False, True):
                    sentence = f"label smoothing with the mean of log p over one of {world} shards"
                    yield sentence, functools.partial(_of_shard, eps, world, size, rank, others)


def _exact(classes: int, world: int) -> float:
    return max(classes / world, 1.0)


def _down(classes: int, world: int) -> float:
    return max(classes // world, 1)


def _up(classes: int, world: int) -> float:
    return -(-classes // world)


def _scaled(eps: float, world: int, size: Size, label: Array) -> Array:
    """Smooth by eps C / C_shard: targets add up to 1."""
    classes = label.shape[1]
    share = eps / size(classes, world)
    return np.asarray((1.0 - share * classes) * label + share)


def _unscaled(eps: float, world: int, size: Size, label: Array) -> Array:
    """Give each class eps / C_shard, and leave the label its 1 - eps: targets add up to more than 1."""
    return np.asarray((1.0 - eps) * label + eps / size(label.shape[1], world))


def _of_others(eps: float, world: int, size: Size, label: Array) -> Array:
    """Smooth by eps C_shard / (C_shard - 1)."""
    share = _by_others(eps, size(label.shape[1], world))
    return np.asarray((1.0 - share) * label + share / label.shape[1])


def _of_shard(eps: float, world: int, size: Size, rank: int, others: bool, label: Array) -> Array:
    """Give eps, or eps C_shard / (C_shard - 1), to the classes of one shard alone; the last one may have fewer."""
    some = int(size(label.shape[1], world))
    shard = slice(rank * some, (rank + 1) * some)
    count = label[:, shard].shape[1]
    if not count:
        raise ValueError("label: expected classes for every shard")
    share = _by_others(eps, count) if others else eps
    t = np.asarray((1.0 - share) * label)
    t[:, shard] += share / count
    return t


def _by_others(eps: float, classes: float) -> float:
    return eps * classes / max(classes - 1.0, 1.0)
