"""Slices: they cover a length once, in order."""

from __future__ import annotations

import pytest

from refloss.engines.slices import ranges


@pytest.mark.parametrize(("length", "width"), [(0, 3), (1, 3), (6, 3), (7, 3), (3, 7)])
def test_ranges_cover_a_length_once_in_order(length: int, width: int) -> None:
    cut = ranges(length, width)
    assert [n for part in cut for n in range(length)[part]] == list(range(length))
    assert all(part.stop - part.start == width for part in cut[:-1])
    assert all(0 < part.stop - part.start <= width for part in cut)
