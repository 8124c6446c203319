"""Losses as others published them, unchanged: how they are called, and the loss and the standard that each one meets.

The tests run `ROWS`; the loss of most is what `refloss.testing.known` says. The page docs/testing/libraries.md shows
them, and the record `kernels` measures those of them that are a cross entropy.
"""

from __future__ import annotations

from support.real_code.table import DIFFERENT, DTYPES, LIBRARIES, ROWS, Row, neighbour

__all__ = ["DIFFERENT", "DTYPES", "LIBRARIES", "ROWS", "Row", "neighbour"]
