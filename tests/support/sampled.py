"""What a run draws of checks too many for each: others for every commit."""

import os
import zlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

COMMIT = os.environ.get("REFLOSS_COMMIT", "")
"""The commit that .ci/run names; elsewhere a run draws always the same."""
SEED = zlib.crc32(COMMIT.encode())


def chosen(name: str) -> bool:
    """Whether this run is to make the check of that name: one in three."""
    return (zlib.crc32(name.encode()) ^ SEED) % 3 == 0


def one_of(name: str, choices: Sequence[T]) -> T:
    """The one of several that this run makes the check of that name with."""
    return choices[(zlib.crc32(name.encode()) ^ SEED) % len(choices)]
