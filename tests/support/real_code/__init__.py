"""Losses as others published them, unchanged: how they are called, and the loss and the standard that each one meets.

The tests run `ROWS`, the page docs/testing/libraries.md shows them, and the record `kernels` measures those of them
that are a cross entropy.
"""

from __future__ import annotations

from support.real_code.table import DTYPES, LIBRARIES, ROWS, Row

__all__ = ["DTYPES", "LIBRARIES", "ROWS", "Row"]
