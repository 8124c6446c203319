"""What a run draws of checks too many for each: others for every commit."""

import os
import zlib

COMMIT = os.environ.get("REFLOSS_COMMIT", "")
"""The commit that .ci/run names; elsewhere a run draws always the same."""
SEED = zlib.crc32(COMMIT.encode())


def chosen(name: str) -> bool:
    """Whether this run is to make the check of that name: one in three."""
    return (zlib.crc32(name.encode()) ^ SEED) % 3 == 0
