"""Compare one array with the truth, entry by entry."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refloss.error_free import Array
from refloss.testing.report import Quantity, refused


def finite(name: str, got: Array) -> Quantity:
    """Compare an array of which only finite numbers are asked."""
    wrong = got.size - int(np.count_nonzero(np.isfinite(got)))
    if wrong:
        return refused(name, f"{wrong} of {got.size} are NaN or infinite")
    return Quantity(name, 0.0, (), np.nan, np.nan, np.nan, got.size, 0, "")


def compare(
    name: str, got: Array, expected: ArrayLike, allowed: ArrayLike, *, nothing: bool = False, floor: float = np.inf
) -> Quantity:
    """Compare one array with the truth, each entry within its budget.

    Where the truth is NaN or infinite, that is expected. With ``nothing`` the value is the mean of nothing: it and its
    gradients may be NaN or 0. A row of zeros counts as decided if its budget does not exceed ``floor``.
    """
    ours = np.asarray(expected, dtype=np.float64)
    if got.shape != ours.shape:
        hint = ": transposed?" if got.shape == ours.shape[::-1] else ""
        return refused(name, f"shape {got.shape}, expected {ours.shape}{hint}")
    finite = np.isfinite(ours)
    limit = np.broadcast_to(np.where(np.isnan(allowed), 0.0, allowed), ours.shape)
    with np.errstate(invalid="ignore"):
        off = np.where(finite, np.abs(got - ours), 0.0)
        alike = np.where(finite, off <= limit, np.where(np.isnan(ours), np.isnan(got), got == ours))
    if nothing:
        alike = alike | np.isnan(got) | (got == 0.0)
    over = ~alike
    count = int(np.count_nonzero(over))
    sizes = np.where(finite, np.abs(ours), 0.0)
    size = sizes.max(axis=-1, keepdims=True, initial=0.0) if ours.ndim else sizes
    known = (size == 0.0) & (limit <= floor)
    decided = np.where(finite, (limit < size) | known, alike)
    shares = np.where(
        alike, np.where(np.isnan(off), 0.0, shares_of(off, limit)), np.where(finite, shares_of(off, limit), np.inf)
    )
    complaint = complaint_of(name, got, ours, over, nothing)
    if not shares.size:
        return Quantity(name, 0.0, (), np.nan, np.nan, np.nan, 0, 0, complaint)
    at = np.unravel_index(int(np.argmax(shares)), shares.shape)
    decisions = int(np.count_nonzero(decided))
    return Quantity(
        name,
        float(shares[at]),
        tuple(int(i) for i in at),
        float(got[at]),
        float(ours[at]),
        float(limit[at]),
        decisions,
        ours.size - decisions,
        complaint,
        count,
    )


def shares_of(off: Array, limit: Array | float) -> Array:
    """Return errors over their budgets: 0 for no error, infinite where the budget is 0 or the error is NaN."""
    with np.errstate(all="ignore"):
        shares = np.where(off == 0.0, 0.0, off / limit)
    return np.asarray(np.nan_to_num(shares, nan=np.inf, posinf=np.inf))


def complaint_of(name: str, got: Array, ours: Array, over: NDArray[np.bool_], nothing: bool) -> str:
    """Return what is wrong other than finite numbers over their budgets; empty if nothing is."""
    wrong = int(np.count_nonzero(over & ~np.isfinite(got) & np.isfinite(ours)))
    if wrong:
        return f"{wrong} of {got.size} are NaN or infinite"
    wrong = int(np.count_nonzero(over & ~np.isfinite(ours)))
    if wrong:
        expected = "NaN or 0" if nothing else "NaN" if np.isnan(ours[over & ~np.isfinite(ours)]).any() else "infinite"
        return f"{wrong} of {got.size} are not {expected}, as they have to be"
    if name != "value" and over.any() and not got.any():
        return "all zero"
    return ""
