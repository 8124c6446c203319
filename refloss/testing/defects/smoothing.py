"""Label smoothing that takes the classes of one shard for all: the targets that it gives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from refloss.error_free import Array

Smoothed: TypeAlias = Callable[[float, Array], Array]
"""Targets (N, C) without class weights, from the smoothing and from rows of 0 and a 1 at the label."""
Size: TypeAlias = Callable[[int, int], float]
"""The number of classes of a shard, from C and the number of shards."""
WORLDS = (2, 4, 8)
"""Numbers of shards."""
ALL_CLASSES = "take all classes"


def _smoothings() -> Iterator[tuple[str, str, Smoothed]]:
    for world in WORLDS:
        for size, rounded in ((_exact, ""), (_down, ", rounded down"), (_up, ", rounded up")):
            for share, sums, targets in (
                ("eps/C", "", _scaled),
                ("eps/C", " beside 1 - eps", _unscaled),
                ("eps/(C - 1)", "", _of_others),
            ):
                sentence = f"label smoothing of {share} with the C of one of {world} shards"
                name = f"smoothing {share}{sums}, C of 1/{world}{rounded}"
                yield name, sentence, functools.partial(targets, world, size)
        for size, rounded in ((_down, "down"), (_up, "up")):
            for rank in range(world):
                for others in (False, True):
                    sentence = f"label smoothing with the mean of log p over one of {world} shards"
                    share = "eps/(C - 1)" if others else "eps/C"
                    name = f"smoothing {share} over shard {rank} of {world}, rounded {rounded}"
                    yield name, sentence, functools.partial(_of_shard, world, size, rank, others)


def _exact(classes: int, world: int) -> float:
    return max(classes / world, 1.0)


def _down(classes: int, world: int) -> float:
    return max(classes // world, 1)


def _up(classes: int, world: int) -> float:
    return -(-classes // world)


def _scaled(world: int, size: Size, eps: float, label: Array) -> Array:
    """Smooth by eps C / C_shard: targets add up to 1."""
    classes = label.shape[1]
    share = eps / size(classes, world)
    return np.asarray((1.0 - share * classes) * label + share)


def _unscaled(world: int, size: Size, eps: float, label: Array) -> Array:
    """Give each class eps / C_shard, and leave the label its 1 - eps: targets add up to more than 1."""
    return np.asarray((1.0 - eps) * label + eps / size(label.shape[1], world))


def _of_others(world: int, size: Size, eps: float, label: Array) -> Array:
    """Smooth by eps C_shard / (C_shard - 1)."""
    share = _by_others(eps, size(label.shape[1], world))
    return np.asarray((1.0 - share) * label + share / label.shape[1])


def _of_shard(world: int, size: Size, rank: int, others: bool, eps: float, label: Array) -> Array:
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


SMOOTHINGS = tuple(_smoothings())
"""Names, sentences, and the targets that they name."""
