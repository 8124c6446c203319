"""Slices: a length cut into ranges, as all engines do that work in blocks."""

from __future__ import annotations


def ranges(length: int, width: int) -> list[slice]:
    """Cut a length into ranges of a width; the last may be narrower."""
    return [slice(start, min(start + width, length)) for start in range(0, length, width)]
